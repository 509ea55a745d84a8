"""Fault plans against nodes that run already: which steps are due, by the clock and by the rounds that are heard."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from stackelgrid.deploy.disturb import EngineError, undo
from stackelgrid.errors import ConfigError
from stackelgrid.faults.outside import Act, OutsideFaults, Step
from stackelgrid.faults.plan import FaultPlan

NAMES = ["leader", "a1", "h1", "h2", "broker"]


def begin(*faults: dict[str, Any], acts: Collection[Act] = tuple(Act)) -> OutsideFaults:
    return OutsideFaults(FaultPlan.model_validate({"faults": faults}), NAMES, acts)


def steps(faults: OutsideFaults, seconds: float, round_number: int, session: int = 1) -> list[tuple[str, str]]:
    return [(step.act.value, step.node) for step in faults.look(seconds, round_number, session)]


def test_fault_strikes_at_its_round_and_ends_after_its_seconds() -> None:
    faults = begin({"kind": "stall", "node": "h*", "at": {"round": 3}, "seconds": 2})
    assert steps(faults, 5, 2) == []
    assert steps(faults, 6, 3) == [("pause", "h1"), ("pause", "h2")]
    assert faults.next_deadline(6) == 8
    assert steps(faults, 7.9, 4) == []
    assert not faults.is_over
    assert steps(faults, 8, 4) == [("resume", "h1"), ("resume", "h2")]
    assert faults.is_over


def test_record_says_what_was_struck_and_when() -> None:
    faults = begin(
        {"kind": "crash", "node": "a1", "at": {"session": 2}, "restart_after_s": 1},
        {"kind": "broker", "at": {"seconds": 4}, "seconds": 1},
    )
    (crash,) = faults.look(3, 9, 2)
    assert crash.record is not None
    assert crash.record.content() == {"fault": 0, "kind": "crash", "node": "a1", "round": 9, "seconds": 3}
    back, outage = faults.look(4, 9, 2)
    assert (back.act, back.node, back.record) == (Act.START, "a1", None)
    assert outage.record is not None
    assert outage.record.content() == {"fault": 1, "kind": "broker", "node": None, "round": 9, "seconds": 4}


def test_slow_node_is_paused_in_each_round_of_its_window() -> None:
    faults = begin({"kind": "slow", "node": "h1", "seconds": 0.5, "during": {"rounds": [2, 3]}})
    assert steps(faults, 1, 1) == []
    assert steps(faults, 2, 2) == [("pause", "h1")]
    assert steps(faults, 2.1, 2) == []
    assert steps(faults, 3, 3) == [("resume", "h1"), ("pause", "h1")]
    assert steps(faults, 3.5, 4) == [("resume", "h1")]
    assert faults.is_over


def test_node_in_a_fault_is_spared_until_it_is_over() -> None:
    stall = {"kind": "stall", "node": "h1", "at": {"round": 1}, "seconds": 2}
    faults = begin(stall, stall | {"at": {"round": 2}})
    assert steps(faults, 0, 1) == [("pause", "h1")]
    assert steps(faults, 1, 2) == []
    assert steps(faults, 2, 2) == [("resume", "h1"), ("pause", "h1")]


def test_node_that_was_killed_for_good_meets_no_other_fault() -> None:
    faults = begin(
        {"kind": "crash", "node": "h1", "at": {"round": 1}},
        {"kind": "stall", "node": "h1", "at": {"round": 1}, "seconds": 2},
        {"kind": "slow", "node": "h1", "seconds": 1},
    )
    assert steps(faults, 0, 1) == [("kill", "h1")]
    assert faults.is_over


def test_plan_that_is_left_is_undone() -> None:
    faults = begin(
        {"kind": "cut", "node": "h1", "at": {"round": 1}, "seconds": 60},
        {"kind": "stall", "node": "h2", "at": {"round": 1}, "seconds": 30},
        {"kind": "crash", "node": "a1", "at": {"round": 2}},
    )
    assert steps(faults, 0, 1) == [("disconnect", "h1"), ("pause", "h2")]
    assert [(step.act, step.node) for step in faults.release()] == [(Act.RESUME, "h2"), (Act.CONNECT, "h1")]
    assert faults.is_over


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "loss", "probability": 0.5}, "faults.0: loss: only the node's own process can do it"),
        ({"kind": "lie", "node": "h1", "how": "nan"}, "start the node with --faults"),
        ({"kind": "crash", "node": "h1", "at": {"round": 1}, "lose_state": True}, "not deleted from outside"),
        ({"kind": "broker", "at": {"round": 1}, "seconds": 1, "keep_retained": False}, "not deleted from outside"),
        ({"kind": "stall", "node": "h9", "at": {"round": 1}, "seconds": 1}, "a1, broker, h1, h2, leader; name one"),
        ({"kind": "cut", "node": "h1", "at": {"round": 1}, "seconds": 1}, "nobody here can disconnect them"),
    ],
)
def test_plan_that_cannot_be_played_from_outside_is_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        begin(fault, acts=[Act.KILL, Act.START, Act.PAUSE, Act.RESUME])


def test_every_fault_is_undone_though_a_container_is_gone() -> None:
    undone = []

    def act(step: Step) -> None:
        if step.node == "h1":
            raise EngineError("docker unpause: no such container")
        undone.append(step.node)

    with pytest.raises(EngineError, match="no such container"):
        undo([Step(Act.RESUME, name) for name in ("a1", "h1", "h2")], act)
    assert undone == ["a1", "h2"]
