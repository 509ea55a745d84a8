"""What of a plan struck in which of the leader's rounds: held against what was said at that time."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from stackelgrid.cli.progress import RunDisplay
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.soak.cases import Case, draw_scenario, games
from stackelgrid.soak.play import Evidence, play
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.fault_log import count_repeated_requests, list_faults
from stackelgrid.testbed.result import build_result


def plan_of(*faults: dict[str, Any]) -> FaultPlan:
    return FaultPlan.model_validate({"seed": 7, "faults": list(faults)})


def draw_scenario_of(game: str) -> Scenario:
    """A scenario with an aggregator of several homes, each a process of its own."""
    every = (draw_scenario(game, number) for number in range(40))
    return next(each for each in every if each.homes_per_process == 1 and len(each.everyone) >= 3 * each.aggregators)


def find_leader_round(evidence: Evidence, seconds: float) -> int:
    """The round whose question the leader had said last."""
    signals = (each for each in evidence.messages if (each.sender, each.purpose) == ("leader", "signal"))
    return max(signal.content["round"] for signal in signals if signal.payload and signal.seconds <= seconds)


@pytest.mark.parametrize("game", games())
def test_fault_has_the_round_that_the_leader_had_asked(game: str) -> None:
    """Whatever the number of the conversation that it struck: an aggregator may play several rounds for one."""
    scenario = draw_scenario_of(game)
    lost = {"kind": "loss", "probability": 0.15, "during": {"rounds": [1, 1000]}}
    killed = {"kind": "crash", "node": scenario.everyone[0].id, "at": {"round": 2}, "restart_after_s": 1}
    evidence = play(Case("by hand", scenario, plan_of(lost, killed), None))
    # A settlement is of the round that was asked last; so is the question that a node finds when it is back.
    expected = Counter(
        (record.kind, find_leader_round(evidence, record.seconds)) for record in evidence.run_record.faults
    )
    found: Counter[tuple[str, int]] = Counter()
    for entry in list_faults(scenario, evidence.run_record):
        found[entry["kind"], entry["round"]] += entry["times"]
    assert found == expected
    assert {"loss", "crash", "restart"} == {kind for kind, _ in found}


def test_fault_log_has_few_entries_when_losses_are_many() -> None:
    scenario = draw_scenario_of("user_oriented")
    run_record = in_memory.play(scenario, plan=plan_of({"kind": "delay", "seconds": 0.001}))
    entries = list_faults(scenario, run_record)
    assert sum(entry["times"] for entry in entries) == len(run_record.faults) > 100
    assert [entry["round"] for entry in entries] == [None, *range(1, len(run_record.rounds) + 1)]
    everyone = {home.id for home in scenario.everyone} | {"leader", *scenario.households()}
    assert set(entries[1]["from"]) == set(entries[1]["to"]) == everyone


def test_fault_log_names_the_node_but_not_the_broker() -> None:
    scenario = draw_scenario_of("user_oriented")
    first, second = (home.id for home in scenario.everyone[:2])
    lie = {"kind": "lie", "how": "stale", "during": {"rounds": [1, 1]}}  # and there was no answer before
    lies = [{**lie, "node": name} for name in (first, second)]
    assert list_faults(scenario, in_memory.play(scenario, plan=plan_of(*lies))) == [
        {"fault": 0, "kind": "lie", "round": 1, "times": 1, "node": first},
        {"fault": 1, "kind": "lie", "round": 1, "times": 1, "node": second},
    ]
    broker = {"kind": "broker", "at": {"round": 2}, "seconds": 1}
    run_record = in_memory.play(scenario, plan=plan_of(broker))
    assert list_faults(scenario, run_record) == [{"fault": 0, "kind": "broker", "round": 2, "times": 1}]


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_broker_outage_has_a_round_when_it_is_timed_in_seconds(seconds: float) -> None:
    scenario = draw_scenario_of("user_oriented")
    broker = {"kind": "broker", "at": {"seconds": seconds}, "seconds": 1}
    evidence = play(Case("by hand", scenario, plan_of(broker), None))
    (entry,) = list_faults(scenario, evidence.run_record)
    assert entry["round"] == (find_leader_round(evidence, evidence.run_record.faults[0].seconds) if seconds else 1)


def test_fault_has_the_next_round_when_its_round_did_not_end() -> None:
    scenario = draw_scenario_of("user_oriented")
    run_record = in_memory.play(scenario, plan=plan_of({"kind": "crash", "node": "leader", "at": {"round": 3}}))
    assert len(run_record.rounds) == 2
    assert [(entry["kind"], entry["round"]) for entry in list_faults(scenario, run_record)] == [("crash", 3)]


def test_repeated_requests_are_counted_by_round_and_coordinator() -> None:
    run_record = RunRecord("memory", "none", 1)
    run_record.rounds = [{"round": 1, "again": 0}, {"round": 2, "again": 3}]
    run_record.aggregator_rounds = [
        {"aggregator": "a2", "round": 2, "again": 1},
        {"aggregator": "a1", "round": 2, "again": 2},
        {"aggregator": "a1", "round": 2, "again": 5},
        {"aggregator": "a1", "round": 1, "again": 0},
    ]
    assert count_repeated_requests(run_record) == [
        {"round": 2, "by": "a1", "members": 7},
        {"round": 2, "by": "a2", "members": 1},
        {"round": 2, "by": "leader", "members": 3},
    ]


def test_result_has_no_faults_when_none_are_planned() -> None:
    scenario = draw_scenario_of("user_oriented")
    found = build_result(scenario, in_memory.play(scenario)).content()
    assert found["faults"] == {}
    assert found["struck"] == found["asked_again"] == []


def test_progress_shows_a_fault_on_messages_once_a_round() -> None:
    console = Console(file=io.StringIO(), width=200)
    display = RunDisplay(console, 3)
    for number in (1, 2):
        for home in ("h1", "h2", "h3"):
            display.show_fault(FaultRecord(fault=0, kind="loss", from_=home, to="a1", round=number, seconds=number))
    for home in ("h1", "h2"):
        display.show_fault(FaultRecord(fault=1, kind="crash", node=home, round=2, seconds=2.5))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "   1.00 s, round 1: loss, first from h1 to a1",
        "   2.00 s, round 2: loss, first from h1 to a1",
        "   2.50 s, round 2: crash h1",
        "   2.50 s, round 2: crash h2",
    ]
