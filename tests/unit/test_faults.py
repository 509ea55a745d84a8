"""Fault plans: each fault does what its plan says and nothing else, and the same again with the same seed."""

from __future__ import annotations

import base64
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stackelgrid.faults.in_memory import FaultyMemory, KilledError
from stackelgrid.faults.injection import FaultInjectingNode
from stackelgrid.faults.plan import Crash, FaultPlan, Window
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.registry import find
from stackelgrid.rounds import Coordinator, RoundPolicy
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.soak.cases import draw_case, draw_scenario, games
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.in_memory import MemoryRun
from stackelgrid.testbed.node_configs import digest
from stackelgrid.transport.base import Action, Finish, Publish
from stackelgrid.transport.memory import DeadlockError, MemoryTransport
from stackelgrid.wire.codec import Link
from stackelgrid.wire.roles import Role

SIGNAL = "stackelgrid/run/leader/signal"
TO_A1 = "stackelgrid/run/a1/{}/answer"


def plan_of(*faults: dict[str, Any], seed: int = 7) -> FaultPlan:
    return FaultPlan.model_validate({"seed": seed, "faults": list(faults)})


def message(number: int, round_number: int = 1) -> bytes:
    return json.dumps({"number": number, "round": round_number}, separators=(",", ":")).encode()


class Sink:
    """A node that only receives, and sends what `reply` gives."""

    last_will = Publish("stackelgrid/run/a1/presence", b"offline")
    subscriptions: Sequence[str] = ()

    def __init__(self, name: str = "a1", reply: Callable[[bytes], list[Action]] = lambda payload: []) -> None:
        self.name, self.mailbox, self.progress, self._reply = name, Mailbox(), Progress(), reply
        self.role = {"leader": Role.LEADER, "a1": Role.AGGREGATOR}.get(name, Role.HOME)
        self.received: list[tuple[float, str, bytes]] = []

    def start(self, now: float) -> list[Action]:
        return []

    def receive(self, topic: str, payload: bytes, now: float) -> list[Action]:
        self.received.append((now, topic, payload))
        return self._reply(payload)

    def next_deadline(self) -> float | None:
        return None

    def tick(self, now: float) -> list[Action]:
        return []


class NodeActuator:
    """Leaves everything to the node but a crash, which raises."""

    def kill(self, number: int, crash: Crash) -> None:
        raise KilledError(number, crash)

    def stop(self, seconds: float) -> bool:
        return True

    def disturb(self, number: int, fault: Any) -> bool:
        return True


class NodeUnderPlan:
    """A sink under a plan, driven by hand, with the messages that it receives and sends and the faults that happen."""

    def __init__(self, plan: FaultPlan, sink: Sink | None = None) -> None:
        self.sink = sink or Sink()
        self.faults: list[FaultRecord] = []
        self.node = FaultInjectingNode(self.sink, plan, NodeActuator(), self.faults.append)
        self.sent: list[tuple[float, Publish]] = []
        self._note(self.node.start(0.0), 0.0)

    def send(self, at: float, payload: bytes, topic: str = SIGNAL) -> None:
        self.advance(at)
        self._note(self.node.receive(topic, payload, at), at)

    def advance(self, until: float) -> None:
        while (due := self.node.next_deadline()) is not None and due <= until:
            self._note(self.node.tick(due), due)

    def _note(self, actions: Sequence[Action], now: float) -> None:
        self.sent += [(now, action) for action in actions if isinstance(action, Publish)]

    @property
    def numbers(self) -> list[int]:
        return [json.loads(payload)["number"] for _, _, payload in self.sink.received]

    @property
    def arrivals(self) -> list[float]:
        return [now for now, _, _ in self.sink.received]


def stream(plan: FaultPlan, count: int, gap_s: float = 0.01, topic: str = SIGNAL) -> NodeUnderPlan:
    """`count` messages, one every `gap_s`, and time enough afterwards."""
    driven = NodeUnderPlan(plan)
    for number in range(count):
        driven.send(number * gap_s, message(number), topic)
    driven.advance(1e6)
    return driven


# --- messages ---


def test_loss_drops_messages_at_the_rate_of_the_plan() -> None:
    driven = stream(plan_of({"kind": "loss", "probability": 0.3}), 4000)
    lost = 4000 - len(driven.numbers)
    assert abs(lost - 1200) < 5 * np.sqrt(4000 * 0.3 * 0.7)
    assert driven.numbers == sorted(set(driven.numbers))
    assert len(driven.faults) == lost


def test_loss_in_bursts_follows_gilbert_and_elliott() -> None:
    """Lost in the long run: enter / (enter + leave); bursts last 1 / leave messages, gaps 1 / enter, geometrically."""
    enter, leave, count = 0.1, 0.4, 20_000
    driven = stream(plan_of({"kind": "loss", "burst": {"enter": enter, "leave": leave}}), count)
    received = set(driven.numbers)
    runs = [
        (lost, len(list(run))) for lost, run in itertools.groupby(number not in received for number in range(count))
    ]
    bursts = np.array([length for lost, length in runs if lost])
    gaps = np.array([length for lost, length in runs if not lost])
    assert bursts.mean() == pytest.approx(1 / leave, rel=0.08)
    assert gaps.mean() == pytest.approx(1 / enter, rel=0.08)
    assert 1 - len(received) / count == pytest.approx(enter / (enter + leave), rel=0.08)
    assert np.mean(bursts == 1) == pytest.approx(leave, rel=0.12)


def test_loss_in_bursts_passes_some_when_a_bad_link_does_not_lose_all() -> None:
    burst = {"enter": 1.0, "leave": 0.0001, "lost_when_bad": 0.6}
    assert 1 - len(stream(plan_of({"kind": "loss", "burst": burst}), 4000).numbers) / 4000 == pytest.approx(
        0.6, abs=0.05
    )


def test_delay_keeps_the_order_of_a_topic() -> None:
    driven = stream(plan_of({"kind": "delay", "seconds": 0.5, "jitter_s": 0.3}), 500)
    late = np.array(driven.arrivals) - 0.01 * np.arange(500)
    assert driven.numbers == list(range(500))
    assert late.min() >= 0.5 and late.max() <= 0.8
    assert late.std() > 0.02


def test_delay_is_exact_without_jitter() -> None:
    assert stream(plan_of({"kind": "delay", "seconds": 2.5}), 3, gap_s=1.0).arrivals == pytest.approx([2.5, 3.5, 4.5])


def test_duplication_repeats_a_message() -> None:
    every = stream(plan_of({"kind": "duplication", "probability": 1.0, "copies": 3}), 10)
    assert every.numbers == [number for number in range(10) for _ in range(4)]
    some = Counter(stream(plan_of({"kind": "duplication", "probability": 0.25}), 4000).numbers)
    assert set(some.values()) == {1, 2} and len(some) == 4000
    assert abs(list(some.values()).count(2) - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_reordering_lets_later_messages_overtake() -> None:
    driven = stream(plan_of({"kind": "reordering", "probability": 0.3, "seconds": 0.025}), 1000)
    late = {n: at - 0.01 * n for n, at in zip(driven.numbers, driven.arrivals, strict=True)}
    assert sorted(driven.numbers) == list(range(1000))
    assert driven.numbers != sorted(driven.numbers)
    held = [number for number, by in late.items() if by > 1e-9]
    assert all(late[number] == pytest.approx(0.025) for number in held)
    assert abs(len(held) - 300) < 5 * np.sqrt(1000 * 0.3 * 0.7)


@pytest.mark.parametrize("bits", [1, 3])
def test_corruption_flips_as_many_bits_as_planned(bits: int) -> None:
    driven = stream(plan_of({"kind": "corruption", "probability": 1.0, "bits": bits}), 0)
    for number in range(200):
        driven.send(number, message(number))
    for number, (_, _, payload) in enumerate(driven.sink.received):
        flipped = int.from_bytes(payload) ^ int.from_bytes(message(number))
        assert len(payload) == len(message(number))
        assert flipped.bit_count() <= bits and flipped.bit_count() % 2 == bits % 2
    assert len(driven.sink.received) == 200


def test_corruption_leaves_a_cleared_topic_cleared() -> None:
    driven = stream(plan_of({"kind": "corruption", "probability": 1.0}), 0)
    driven.send(0.0, b"")
    assert driven.sink.received == [(0.0, SIGNAL, b"")]
    assert driven.faults == []


def test_bandwidth_carries_one_message_after_the_other() -> None:
    driven = stream(plan_of({"kind": "bandwidth", "bytes_per_s": 10.0}), 0)
    for number in range(5):
        driven.send(0.0, message(number))
    driven.send(100.0, message(5))
    driven.advance(1e6)
    size = len(message(0)) / 10
    assert driven.arrivals == pytest.approx([size, 2 * size, 3 * size, 4 * size, 5 * size, 100 + size])


def test_bandwidth_of_one_link_does_not_delay_another() -> None:
    driven = stream(plan_of({"kind": "bandwidth", "bytes_per_s": 10.0}), 0)
    for home in ("h1", "h2"):
        driven.send(0.0, message(0), TO_A1.format(home))
    driven.advance(1e6)
    assert driven.arrivals == pytest.approx(2 * [len(message(0)) / 10])


def test_partition_separates_its_groups_only_while_it_lasts() -> None:
    plan = plan_of({"kind": "partition", "groups": [["h1"], ["a1", "h2"]], "during": {"seconds": [1, 2]}})
    driven = NodeUnderPlan(plan)
    for at in (0.5, 1.0, 2.0, 2.5):
        for sender in ("h1", "h2", "h3"):
            driven.send(at, message(0), TO_A1.format(sender))
    received = [(at, topic.split("/")[3]) for at, topic, _ in driven.sink.received]
    assert [at for at, sender in received if sender == "h1"] == [0.5, 2.5]
    for sender in ("h2", "h3"):  # in the same group; in none
        assert [at for at, each in received if each == sender] == [0.5, 1.0, 2.0, 2.5]


def test_window_of_rounds_goes_by_the_message_and_not_by_the_clock() -> None:
    driven = NodeUnderPlan(plan_of({"kind": "loss", "probability": 1.0, "during": {"rounds": [2, 3]}}))
    for number, round_number in enumerate([1, 2, 3, 4, 3, 1]):
        driven.send(float(number), message(number, round_number))
    driven.send(9.0, b'{"number":9}')
    assert driven.numbers == [0, 3, 5, 9]


def test_link_fault_applies_to_the_link_that_it_names() -> None:
    plan = plan_of({"kind": "loss", "probability": 1.0, "from": "h*", "to": "a1"})
    driven = NodeUnderPlan(plan)
    driven.send(0.0, message(0), TO_A1.format("h1"))
    driven.send(0.0, message(1), SIGNAL)
    assert driven.numbers == [1]
    elsewhere = NodeUnderPlan(plan, Sink("a2"))
    elsewhere.send(0.0, message(0), "stackelgrid/run/a2/h1/answer")
    assert elsewhere.numbers == [0]


def test_fault_record_names_link_round_and_second() -> None:
    driven = NodeUnderPlan(plan_of({"kind": "duplication", "probability": 0.0}, {"kind": "loss", "probability": 1.0}))
    driven.send(1.5, message(0, 4))
    assert [fault.content() for fault in driven.faults] == [
        {"fault": 1, "kind": "loss", "from": "leader", "to": "a1", "round": 4, "seconds": 1.5}
    ]


def test_fault_that_is_added_strikes_in_the_round_that_is_on() -> None:
    driven = NodeUnderPlan(plan_of({"kind": "loss", "to": "a2", "probability": 1.0}))
    driven.send(1.0, message(0, 3))
    added = [
        {"kind": "stall", "node": "a1", "at": {"round": 3}, "seconds": 1},
        {"kind": "stall", "node": "h1", "at": {"round": 3}, "seconds": 1},
        {"kind": "loss", "to": "a1", "during": {"rounds": [4, 4]}, "probability": 1.0},
        {"kind": "stall", "node": "a1", "at": {"round": 5}, "seconds": 1},
    ]
    for fault in plan_of(*added).faults:
        driven.node.add(fault)
    driven.node.tick(2.0)
    driven.advance(3.0)
    for number in (3, 4, 5):
        driven.send(1.0 + number, message(number, number))
    struck = [(fault.fault, fault.kind, fault.round, fault.seconds) for fault in driven.faults]
    assert struck == [(1, "stall", 3, 2.0), (3, "loss", 4, 5.0), (4, "stall", 5, 6.0)]


KILLED = {"kind": "crash", "node": "*", "at": {"round": 2}, "restart_after_s": 1}


@pytest.mark.parametrize("purpose", ["signal", "settlement"])
def test_restart_is_reported_once_in_the_first_round_that_a_member_receives(purpose: str) -> None:
    faults: list[FaultRecord] = []
    node = FaultInjectingNode(Sink(), plan_of(KILLED), NodeActuator(), faults.append, before=[0], began=0.0)
    node.start(3.0)
    node.receive(TO_A1.format("h1"), message(0, 9), 4.0)  # its own conversation is another
    assert faults == []
    for at, number in ((5.0, 2), (6.0, 3)):
        node.receive(f"stackelgrid/run/leader/{purpose}", message(0, number), at)
    assert [fault.content() for fault in faults] == [
        {"fault": 0, "kind": "restart", "node": "a1", "round": 2, "seconds": 5.0}
    ]


@pytest.mark.parametrize("purpose", ["signal", "settlement"])
def test_restart_is_reported_in_the_round_that_a_leader_asks_or_settles(purpose: str) -> None:
    faults: list[FaultRecord] = []
    leader = Sink("leader", lambda payload: [Publish(f"stackelgrid/run/leader/{purpose}", payload)])
    node = FaultInjectingNode(leader, plan_of(KILLED), NodeActuator(), faults.append, before=[0], began=0.0)
    for number in (3, 4):
        node.receive("stackelgrid/run/leader/a1/answer", message(0, number), 5.0)
    assert [fault.content() for fault in faults] == [
        {"fault": 0, "kind": "restart", "node": "leader", "round": 3, "seconds": 5.0}
    ]


def test_restart_is_not_reported_after_a_stall() -> None:
    faults: list[FaultRecord] = []
    stall = {"kind": "stall", "node": "*", "at": {"round": 1}, "seconds": 1}
    FaultInjectingNode(Sink(), plan_of(stall), NodeActuator(), faults.append, before=[0], began=0.0).receive(
        SIGNAL, message(0, 2), 5.0
    )
    assert faults == []


def test_fault_at_a_second_is_reported_with_the_round_of_the_node() -> None:
    driven = NodeUnderPlan(plan_of({"kind": "stall", "node": "a1", "at": {"seconds": 2.5}, "seconds": 1}))
    for number in (1, 2, 3):
        driven.send(float(number), message(number, number))
    driven.advance(10.0)
    assert [(fault.round, fault.seconds) for fault in driven.faults] == [(2, 2.5)]


# --- streams ---


def lost_on(plan: FaultPlan, sender: str, others: Sequence[str] = ()) -> list[int]:
    driven = NodeUnderPlan(plan)
    for number in range(300):
        for each in (sender, *others):
            driven.send(float(number), message(number), TO_A1.format(each))
    received = {json.loads(payload)["number"] for _, topic, payload in driven.sink.received if f"/{sender}/" in topic}
    return [number for number in range(300) if number not in received]


def test_link_faults_draw_from_a_stream_of_the_link() -> None:
    loss = {"kind": "loss", "probability": 0.4}
    alone = lost_on(plan_of(loss), "h1")
    assert lost_on(plan_of(loss), "h1", ["h2", "h3"]) == alone
    assert lost_on(plan_of(loss, {"kind": "delay", "seconds": 0.0, "jitter_s": 1.0}), "h1") == alone
    assert lost_on(plan_of(loss, {"kind": "corruption", "probability": 0.5, "from": "h2"}), "h1", ["h2"]) == alone
    assert lost_on(plan_of(loss), "h2") != alone
    assert lost_on(plan_of(loss, seed=8), "h1") != alone


def test_link_faults_of_one_link_draw_independently() -> None:
    loss = {"kind": "loss", "probability": 0.5}
    assert 300 - len(lost_on(plan_of(loss, loss), "h1")) == pytest.approx(75, abs=5 * np.sqrt(300 * 0.25 * 0.75))


@pytest.mark.parametrize("game", games())
def test_run_repeats_every_byte_with_the_same_seed(game: str) -> None:
    plan = plan_of(
        {"kind": "loss", "probability": 0.1, "during": {"seconds": [0, 5]}},
        {"kind": "delay", "seconds": 0.01, "jitter_s": 0.5, "during": {"seconds": [0, 5]}},
        {"kind": "crash", "node": "a1", "at": {"round": 1}, "restart_after_s": 1},
    )

    def run_record() -> str:
        run = in_memory.play(draw_scenario(game, 1), plan=plan)
        faults = [record.content() for record in run.faults]
        return json.dumps([run.rounds, run.aggregator_rounds, run.homes, faults, run.missing, run.messages, run.bytes])

    assert run_record() == run_record()


# --- nodes ---


def test_stalled_node_receives_everything_later_in_order() -> None:
    driven = NodeUnderPlan(plan_of({"kind": "stall", "node": "a1", "at": {"seconds": 1}, "seconds": 2}))
    for number, at in enumerate([0.5, 1.5, 1.7, 2.9, 3.5]):
        driven.send(at, message(number), TO_A1.format("h1"))
    assert driven.numbers == [0, 1, 2, 3, 4]
    assert driven.arrivals == pytest.approx([0.5, 3.0, 3.0, 3.0, 3.5])
    assert [fault.seconds for fault in driven.faults] == [1.0]


def test_stall_at_a_round_begins_with_its_signal() -> None:
    driven = NodeUnderPlan(plan_of({"kind": "stall", "node": "a1", "at": {"round": 2}, "seconds": 5}))
    for number, round_number in enumerate([1, 2, 3]):
        driven.send(float(number), message(number, round_number))
    driven.advance(100)
    assert driven.arrivals == pytest.approx([0.0, 6.0, 6.0])


def test_slow_node_answers_later_by_the_seconds_of_the_plan() -> None:
    def reply(payload: bytes) -> list[Action]:
        return [Publish(TO_A1.format("h1"), payload), Publish("stackelgrid/run/a1/h1/receipt", payload)]

    plan = plan_of({"kind": "slow", "node": "h1", "seconds": 4, "during": {"rounds": [1, 1]}})
    driven = NodeUnderPlan(plan, Sink("h1", reply))
    driven.send(1.0, message(0, 1), "stackelgrid/run/a1/signal")
    driven.send(2.0, message(1, 2), "stackelgrid/run/a1/signal")
    driven.advance(100)
    answers = [(at, json.loads(sent.payload)["number"]) for at, sent in driven.sent if sent.topic.endswith("answer")]
    assert answers == [(2.0, 1), (5.0, 0)]
    assert [at for at, sent in driven.sent if sent.topic.endswith("receipt")] == [1.0, 2.0]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "slow", "node": "h1", "seconds": 4},
        {"kind": "narrow", "node": "h1", "at": {"round": 1}, "seconds": 60, "bytes_per_s": 10},
    ],
    ids=lambda fault: str(fault["kind"]),
)
def test_delayed_messages_are_sent_before_a_node_finishes(fault: dict[str, Any]) -> None:
    def reply(payload: bytes) -> list[Action]:
        return [Publish(TO_A1.format("h1"), payload), Finish()]

    node = FaultInjectingNode(Sink("h1", reply), plan_of(fault), NodeActuator(), lambda record: None)
    actions = node.receive("stackelgrid/run/a1/signal", message(0), 0.0)
    assert [type(action) for action in actions] == [Publish, Finish]


# --- lies ---


def packed(*numbers: float) -> dict[str, Any]:
    content = base64.b64encode(np.array(numbers, "<f8").tobytes()).decode()
    return {"shape": [1, len(numbers)], "float64": content}


def answer_as_liar(
    lie: dict[str, Any], answers: int = 1, node: str = "h1", **more: Any
) -> list[tuple[str, dict[str, Any]]]:
    """What a liar publishes instead of answers to rounds 1, 2, ...: topic and content; `more` is in each body."""

    def reply(payload: bytes) -> list[Action]:
        round_number = json.loads(payload)["round"]
        body = {"homes": 1, "load": [1.0, 2.0 + round_number], "packed": packed(4.0, 8.0), **more}
        content = {"sender": "h1", "round": round_number, "body": body}
        return [Publish(TO_A1.format("h1"), json.dumps(content, separators=(",", ":")).encode(), qos=1)]

    driven = NodeUnderPlan(plan_of({"kind": "lie", "node": node, **lie}), Sink("h1", reply))
    for round_number in range(1, answers + 1):
        driven.send(float(round_number), message(0, round_number), "stackelgrid/run/a1/signal")
    assert all(sent.qos == 1 and not sent.retain for _, sent in driven.sent)
    return [(sent.topic, json.loads(sent.payload)) for _, sent in driven.sent]


def test_lie_of_shape_drops_a_slot() -> None:
    ((_, content),) = answer_as_liar({"how": "shape"})
    assert content["body"]["load"] == [1.0]
    assert len(base64.b64decode(content["body"]["packed"]["float64"])) == 8
    assert content["body"]["homes"] == 1 and content["round"] == 1


def test_lie_of_nan_replaces_the_first_number() -> None:
    ((_, content),) = answer_as_liar({"how": "nan"})
    assert np.isnan(content["body"]["load"][0]) and content["body"]["load"][1] == 3.0
    assert np.isnan(np.frombuffer(base64.b64decode(content["body"]["packed"]["float64"]))[0])


@pytest.mark.parametrize(("lie", "factor"), [({"how": "beyond"}, 1e6), ({"how": "scaled", "factor": 3.0}, 3.0)])
def test_lie_of_size_scales_every_number(lie: dict[str, Any], factor: float) -> None:
    ((_, content),) = answer_as_liar(lie)
    assert content["body"]["load"] == [factor, 3 * factor]
    assert content["body"]["packed"] == packed(4 * factor, 8 * factor)


def test_stale_lie_repeats_the_previous_answer() -> None:
    first, second = answer_as_liar({"how": "stale", "during": {"rounds": [2, 9]}}, answers=2)
    assert second == first and first[1]["round"] == 1


def test_impersonating_lie_answers_for_another_member_too() -> None:
    own, forged = answer_as_liar({"how": "impersonate", "as": "h3"})
    assert own[0] == TO_A1.format("h1") and own[1]["sender"] == "h1"
    assert forged[0] == TO_A1.format("h3")
    assert forged[1] == {**own[1], "sender": "h3"}


def test_extreme_lie_sends_the_largest_numbers_of_the_wire_with_their_signs() -> None:
    ((_, content),) = answer_as_liar({"how": "extreme"}, slope=[-0.5, 0.0])
    assert content["body"]["load"] == [1e12, 1e12] and content["body"]["slope"] == [-1e12, 1e12]
    assert content["body"]["packed"] == packed(1e12, 1e12)


def test_lie_of_load_sends_the_same_power_in_each_slot_and_all_else_as_it_is() -> None:
    ((_, content),) = answer_as_liar({"how": "load", "factor": 10}, load_kw=[1.0, 3.0], slope=[-0.5, -2.0])
    assert content["body"]["load_kw"] == [10.0, 10.0] and content["body"]["slope"] == [-0.5, -2.0]
    assert content["body"]["packed"] == packed(4, 8)


def test_lie_of_slope_changes_slopes_alone() -> None:
    ((_, content),) = answer_as_liar({"how": "slope", "factor": 10}, slope=[-0.5, -2.0])
    assert content["body"]["slope"] == [-5.0, -20.0] and content["body"]["load"] == [1.0, 3.0]


def test_lie_of_coupling_invents_one_where_there_are_slopes() -> None:
    ((_, content),) = answer_as_liar({"how": "coupling", "factor": 1e6}, slope=[-0.5, -2.0])
    matrix = np.frombuffer(base64.b64decode(content["body"]["coupling"]["float64"])).reshape(2, 2)
    assert matrix.tolist() == [[1e6, 0], [0, 1e6]] and content["body"]["slope"] == [-0.5, -2.0]
    ((_, content),) = answer_as_liar({"how": "coupling"})
    assert "coupling" not in content["body"]


def test_lie_of_count_leaves_a_home_and_its_load_out() -> None:
    two = {"shape": [2, 2], "float64": base64.b64encode(np.arange(4.0).tobytes()).decode()}
    ((_, content),) = answer_as_liar({"how": "count"}, homes=2, load_kw=two)
    assert (content["body"]["homes"], content["body"]["excluded"]) == (1, 1)
    assert content["body"]["load_kw"] == packed(0.0, 1.0)


def receive_as_liar(
    lie: dict[str, Any], purpose: str, rounds: Sequence[int], until: float = 0.0
) -> list[tuple[float, str, dict[str, Any]]]:
    """When and on what topic a liar publishes what, where its messages of `purpose` are due in these `rounds`."""

    def reply(payload: bytes) -> list[Action]:
        content = {"sender": "h1", "round": json.loads(payload)["round"]}
        return [Publish(f"stackelgrid/run/a1/h1/{purpose}", json.dumps(content).encode())]

    driven = NodeUnderPlan(plan_of({"kind": "lie", "node": "h1", **lie}), Sink("h1", reply))
    for second, number in enumerate(rounds):
        driven.send(float(second), message(0, number), "stackelgrid/run/a1/signal")
    driven.advance(until)
    return [(now, sent.topic.rsplit("/", 1)[-1], json.loads(sent.payload)) for now, sent in driven.sent]


def test_late_lie_answers_when_asked_for_the_last_time() -> None:
    sent = receive_as_liar({"how": "late", "times": 2}, "answer", rounds=[1, 1, 1, 2, 2, 2, 2])
    assert [(now, content["round"]) for now, _, content in sent] == [(2.0, 1), (5.0, 2), (6.0, 2)]


def test_flapping_lie_goes_and_comes_instead_of_an_answer() -> None:
    lie = {"how": "flapping", "times": 3, "seconds": 0.25, "during": {"rounds": [1, 1]}}
    sent = receive_as_liar(lie, "answer", rounds=[1, 2], until=9.0)
    states = [(now, content.get("state")) for now, purpose, content in sent if purpose == "presence"]
    assert states == [(0.0, "offline"), (0.25, "online"), (0.5, "offline")]
    assert [content["round"] for _, purpose, content in sent if purpose == "answer"] == [2]


def test_lie_of_receipts_names_members_that_are_none_and_leaves_answers_alone() -> None:
    lie = {"how": "receipt", "times": 2, "as": "h2"}
    assert receive_as_liar(lie, "answer", rounds=[1]) == [(0.0, "answer", {"sender": "h1", "round": 1})]
    ((_, _, content),) = receive_as_liar(lie, "receipt", rounds=[1])
    assert content["missing"] == ["ghost-1", "ghost-2", "h2"]


def test_lie_happens_at_the_rate_of_the_plan_and_to_no_other_node() -> None:
    honest = answer_as_liar({"how": "scaled", "factor": 2.0}, node="h2")
    assert honest[0][1]["body"]["load"] == [1.0, 3.0]
    lies = [
        content["body"]["load"][0] for _, content in answer_as_liar({"how": "scaled", "probability": 0.3}, answers=1000)
    ]
    assert abs(lies.count(2.0) - 300) < 5 * np.sqrt(1000 * 0.3 * 0.7)


# --- under the virtual clock ---


def small(**rounds: Any) -> Scenario:
    """A user-oriented game of three aggregators, each home a process."""
    every = (draw_scenario("user_oriented", number) for number in range(40))
    drawn = next(each for each in every if each.aggregators == 3 and each.homes_per_process == 1)
    return drawn.model_copy(update={"rounds": drawn.rounds.model_copy(update=rounds)})


def play(scenario: Scenario, *faults: dict[str, Any]) -> RunRecord:
    return in_memory.play(scenario, plan=plan_of(*faults))


def test_run_goes_on_without_an_aggregator_that_crashed_for_good() -> None:
    run_record = play(small(missing="exclude"), {"kind": "crash", "node": "a1", "at": {"round": 2}})
    assert list(run_record.failures) == ["a1"] and "killed by fault 0" in run_record.failures["a1"]
    assert run_record.settled and not run_record.conclusion["complete"]
    assert {(each["node"], each["action"]) for each in run_record.missing} == {("a1", "excluded")}


@pytest.mark.parametrize("node", ["leader", "a1", "home"])
def test_outcome_is_the_same_after_a_crash_with_restart(node: str) -> None:
    scenario = small()
    name = scenario.everyone[0].id if node == "home" else node
    crash = {"kind": "crash", "node": name, "at": {"round": 2}, "restart_after_s": 3}
    run_record = play(scenario, crash)
    assert run_record.conclusion["complete"] and run_record.missing == [] and run_record.failures == {}
    assert scenario.outcome(run_record) == scenario.outcome(in_memory.play(scenario))


@pytest.mark.parametrize("lose_state", [False, True])
def test_restarted_node_has_its_ledger_unless_the_crash_lost_it(lose_state: bool) -> None:
    stage, found = MemoryRun(small()), []

    def build(lost: bool) -> Any:
        node = stage.builds["a1"](lost)
        found.append(len(stage.ledgers["a1"]))
        return node

    crash = {"kind": "crash", "node": "a1", "at": {"round": 3}, "restart_after_s": 1, "lose_state": lose_state}
    transport = FaultyMemory(plan_of(crash), {**stage.builds, "a1": build}, lambda record: None)
    transport.run(transport.nodes())
    assert found == [0, 0 if lose_state else 4]  # two questions, each with its answers


def test_last_will_is_published_when_a_node_is_killed() -> None:
    run_record = play(small(missing="exclude", return_s=0.0), {"kind": "crash", "node": "a1", "at": {"round": 2}})
    assert run_record.rounds[1]["excluded"] == ["a1"]
    assert run_record.rounds[1]["ms"] < 1000 * small().rounds.deadline_s  # nobody waited for a deadline


class Keeper(Sink):
    """Retains a message in the first second, is there until the sixth, and finishes."""

    last_will = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__("keeper")
        self._due = iter([1.0, 2.0, 6.0])
        self._next: float | None = next(self._due)

    def next_deadline(self) -> float | None:
        return self._next

    def tick(self, now: float) -> list[Action]:
        self._next = next(self._due, None)
        if now == 1.0:
            return [Publish(SIGNAL, message(1), retain=True)]
        return [Publish(TO_A1.format("keeper"), b"")] if self._next else [Finish()]


class Waiter(Sink):
    """Listens, and finishes in the sixth second."""

    subscriptions = (SIGNAL,)

    def next_deadline(self) -> float | None:
        return 6.0

    def tick(self, now: float) -> list[Action]:
        return [Finish()]


@pytest.mark.parametrize("keep_retained", [False, True])
def test_restarted_broker_has_retained_messages_unless_the_outage_lost_them(keep_retained: bool) -> None:
    waiter = Waiter()
    outage = {"kind": "broker", "at": {"seconds": 1.5}, "seconds": 2, "keep_retained": keep_retained}
    nodes: dict[str, Callable[[bool], Any]] = {"keeper": lambda lost: Keeper(), "a1": lambda lost: waiter}
    transport = FaultyMemory(plan_of(outage), nodes, lambda record: None)
    transport.run(transport.nodes())
    # Heard at once, and again after the broker is back if it still knows.
    assert [round(now) for now, _, _ in waiter.received] == ([1, 4] if keep_retained else [1])


@pytest.mark.parametrize("keep_retained", [False, True])
@pytest.mark.parametrize("game", games())
def test_outcome_is_the_same_after_a_broker_outage(game: str, keep_retained: bool) -> None:
    scenario = draw_scenario(game, 3)
    outage = {"kind": "broker", "at": {"round": 1}, "seconds": 3, "keep_retained": keep_retained}
    run_record = play(scenario, outage)
    assert run_record.conclusion["complete"] and run_record.faults[0].kind == "broker"
    assert scenario.outcome(run_record) == scenario.outcome(in_memory.play(scenario))


# --- plans ---


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "loss"}, "give probability or burst, one of them"),
        ({"kind": "loss", "probability": 0.1, "burst": {"enter": 0.1, "leave": 0.1}}, "give probability or burst"),
        ({"kind": "loss", "probability": 1.2}, "less than or equal to 1"),
        ({"kind": "loss", "burst": {"enter": 0.1, "leave": 0}}, "greater than 0"),
        ({"kind": "delay", "seconds": -1}, "greater than or equal to 0"),
        ({"kind": "delay", "seconds": 1, "during": {"rounds": [1, 2], "seconds": [1, 2]}}, "not both"),
        ({"kind": "delay", "seconds": 1, "during": {"rounds": [3, 2]}}, "rounds: the first, 3, comes before the last"),
        ({"kind": "delay", "seconds": 1, "during": {"seconds": [3, 2]}}, "swap them"),
        ({"kind": "delay", "seconds": 1, "form": "a1"}, "Extra inputs are not permitted"),
        ({"kind": "duplication", "probability": 0.1, "copies": 0}, "greater than or equal to 1"),
        ({"kind": "bandwidth", "bytes_per_s": 0}, "greater than or equal to 1"),
        ({"kind": "partition", "groups": [["a1"]]}, "at least 2 items"),
        ({"kind": "stall", "node": "a1", "at": {}, "seconds": 1}, "give round, session or seconds, one of them"),
        (
            {"kind": "crash", "node": "a1", "at": {"round": 1, "seconds": 1}},
            "give round, session or seconds, one of them",
        ),
        ({"kind": "lie", "node": "h1", "how": "impersonate"}, "as names the member to impersonate"),
        ({"kind": "lie", "node": "h1", "how": "nan", "as": "h2"}, "leave it out with how: nan"),
        ({"kind": "lie", "node": "h1", "how": "slope", "factor": 1e13}, "less than or equal to"),
        ({"kind": "lie", "node": "h1", "how": "white"}, "Input should be"),
        ({"kind": "gremlin"}, "does not match any of the expected tags"),
    ],
)
def test_plan_is_refused_when_it_contradicts_itself(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan_of(fault)


def test_plan_is_the_same_after_writing_and_reading() -> None:
    for seed in range(50):
        plan = draw_case(seed).plan
        assert FaultPlan.model_validate_json(plan.model_dump_json(by_alias=True, exclude_none=True)) == plan


def test_window_is_always_open_without_bounds() -> None:
    assert Window().holds(None, 0.0) and Window().holds(5, 1e9)
    assert not Window(rounds=(1, 2)).holds(None, 0.0)


# --- found by the soak test ---


def test_question_keeps_its_number_over_a_crash() -> None:
    """The leader asks on before the homes have answered; then the aggregator is killed.

    It must not ask the second question under the number of the first: homes would repeat the answer to that.
    """
    scenario = small()
    stage = MemoryRun(scenario)
    link = Link("memory", "leader", find("user_oriented").upper, 4)

    def received(node: Any, number: int) -> list[int]:
        signal = {
            "schema": 1,
            "run": "memory",
            "sender": "leader",
            "fingerprint": {"game": "user_oriented", "slots": 4, "scenario": digest(scenario)},
            "round": number,
            "body": {"price": 4 * [8 + number]},
        }
        actions = node.receive(f"{link.root}/signal", json.dumps(signal).encode(), 0.0)
        return asked(actions)

    def asked(actions: Sequence[Action]) -> list[int]:
        signals = [action for action in actions if isinstance(action, Publish) and action.topic.endswith("/a1/signal")]
        return [json.loads(each.payload)["round"] for each in signals]

    first = stage.builds["a1"](False)
    first.start(0.0)
    assert received(first, 1) == [1]
    assert received(first, 2) == [2]
    second = stage.builds["a1"](False)
    second.start(0.0)
    assert asked(second.tick(1e6)) == [2]


def test_coordinator_passes_over_rounds_that_were_asked() -> None:
    link = Link("run", "leader", find("user_oriented").upper, 4)
    coordinator = Coordinator(link, ["a1"], RoundPolicy())
    coordinator.skip_to(7)
    coordinator.skip_to(3)
    assert coordinator.rounds == 7


@pytest.mark.parametrize("game", ["user_oriented", "prosumer", "storage_market"])
def test_run_goes_on_after_a_round_that_nobody_answers(game: str) -> None:
    """Everybody is cut off for a while and excluded from every round; once they are back, the run goes on."""
    drawn = draw_scenario(game, 4)
    rounds = drawn.rounds.model_copy(update={"missing": "exclude", "deadline_s": 1.0, "tries": 1, "return_s": 0.0})
    scenario = drawn.model_copy(update={"rounds": rounds})
    homes = [home for processes in scenario.households().values() for mine in processes for home in mine]
    away = {"kind": "loss", "probability": 1.0, "from": "*", "to": "a*", "during": {"seconds": [0.008, 20]}}
    run_record = play(scenario, away)
    assert run_record.failures == {}
    assert run_record.settled
    assert set(run_record.homes) == {home.id for home in homes}


def test_prosumers_settle_while_a_provider_is_held() -> None:
    """Its last answer, half-way to its equilibrium, says that prices do not agree yet; there is no other."""
    scenario = next(each for n in range(40) if (each := draw_scenario("prosumer", n)).aggregators == 3)
    rounds = scenario.rounds.model_copy(update={"missing": "hold", "deadline_s": 0.5, "return_s": 0.0})
    run_record = play(
        scenario.model_copy(update={"rounds": rounds}), {"kind": "crash", "node": "a2", "at": {"round": 2}}
    )
    assert run_record.settled and not run_record.conclusion["complete"]
    assert len(run_record.rounds) < 40


def test_node_finishes_after_a_cut_that_came_as_it_finished() -> None:
    def reply(payload: bytes) -> list[Action]:
        return [Publish(TO_A1.format("h1"), payload, qos=1), Finish()]

    class Impatient(Sink):
        """Wants a tick for ever, also after it has finished."""

        def next_deadline(self) -> float | None:
            return 1.0

        def tick(self, now: float) -> list[Action]:
            return reply(message(0)) if now >= 1.0 else []

    plan = plan_of({"kind": "cut", "node": "h1", "at": {"seconds": 0.5}, "seconds": 4})
    node = FaultInjectingNode(Impatient("h1"), plan, NodeActuator(), lambda record: None)
    node.start(0.0)
    actions_taken = []
    while (due := node.next_deadline()) is not None and len(actions_taken) < 20:
        actions = node.tick(due)
        actions_taken += [(due, type(action)) for action in actions]
        if any(isinstance(action, Finish) for action in actions):
            break
    assert actions_taken == [(0.5, Publish), (4.5, Publish), (4.5, Finish)]  # last will, what was held, the end


@pytest.mark.parametrize("game", games())
def test_aggregator_reports_excluded_homes_and_is_not_refused(game: str) -> None:
    every = (draw_scenario(game, number) for number in range(40))
    drawn = next(s for s in every if s.homes_per_process == 1 and len(s.everyone) >= 4 * s.aggregators)
    scenario = drawn.model_copy(update={"rounds": drawn.rounds.model_copy(update={"missing": "exclude"})})
    run_record = play(scenario, {"kind": "crash", "node": drawn.everyone[0].id, "at": {"round": 1}})
    assert run_record.rejected == {}
    assert run_record.settled and not run_record.conclusion["complete"]


def test_run_under_an_empty_plan_is_that_without_a_plan() -> None:
    scenario = draw_scenario("prosumer", 0)
    assert scenario.outcome(play(scenario)) == scenario.outcome(in_memory.play(scenario))


def test_run_is_lost_when_the_leader_crashes_for_good() -> None:
    """A leader that is gone leaves homes that wait: the run names it, and has not ended well."""
    run_record = play(small(), {"kind": "crash", "node": "leader", "at": {"round": 2}})
    assert list(run_record.failures) == ["leader"] and run_record.conclusion == {} and run_record.lost
    stage = MemoryRun(small())
    with pytest.raises(DeadlockError, match="a1"):
        MemoryTransport(horizon_s=500).run([build(False) for name, build in stage.builds.items() if name != "leader"])
