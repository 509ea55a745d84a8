"""Leader, aggregators and homes together, under a virtual clock: the outcome, and what leaves a home."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from stackelgrid.faults.in_memory import FaultyMemory
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.games.user_oriented.home import Home, HomeProblem, UserOrientedHomes
from stackelgrid.games.user_oriented.messages import LoadResponse
from stackelgrid.node.progress import Progress
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory
from stackelgrid.transport.base import Publish
from stackelgrid.transport.memory import MemoryTransport
from stackelgrid.wire.arrays import PackedArray
from stackelgrid.wire.messages import Body

SMALL = ["population.homes=6", "aggregators=2"]


class Wiretap(MemoryTransport):
    """Keeps what goes from whom to whom."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seen: list[tuple[str, str, Publish]] = []

    def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
        self.seen.append((sender, receiver, publish))
        return super().delays(sender, receiver, publish, now)

    def bodies(self, purpose: str, *, sender: str = "", receiver: str = "") -> list[tuple[str, int, dict[str, Any]]]:
        """Sender, round and body of the messages of one purpose, each once."""
        found: dict[tuple[str, bytes], tuple[str, int, dict[str, Any]]] = {}
        for who, whom, publish in self.seen:
            asked_for = publish.topic.endswith(f"/{purpose}") and sender in ("", who) and receiver in ("", whom)
            if asked_for and publish.payload:
                message = json.loads(publish.payload)
                found[publish.topic, publish.payload] = (who, message["round"], message["body"])
        return list(found.values())


class Lossy(MemoryTransport):
    """Loses a third of what is sent without guarantee, and repeats another third."""

    def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
        once = super().delays(sender, receiver, publish, now)
        if publish.qos > 0:
            return once
        return [(), once, (*once, *once)][self._stream(sender, receiver).integers(3)]


@functools.cache
def run_record(*overrides: str) -> tuple[Scenario, RunRecord]:
    scenario = load("user_oriented", [*SMALL, *overrides])
    return scenario, in_memory.play(scenario)


@functools.cache
def play_with_tap(*overrides: str) -> tuple[Scenario, RunRecord, Wiretap]:
    """A run that was listened to."""
    scenario = load("user_oriented", [*SMALL, *overrides])
    taps: list[Wiretap] = []

    def tap(seed: int) -> Wiretap:
        taps.append(Wiretap(seed))
        return taps[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_memory, "MemoryTransport", tap)
        end = in_memory.play(scenario)
    return scenario, end, taps[0]


# --- the outcome ---


@pytest.mark.parametrize("objective", ["stackelberg", "welfare"])
def test_run_settles_with_every_home(objective: str) -> None:
    scenario, end = run_record(f"leader.objective={objective}")
    assert end.settled
    assert end.conclusion["complete"]
    assert end.conclusion["unacknowledged"] == []
    assert (end.failures, end.rejected, end.missing) == ({}, {}, [])
    assert set(end.homes) == {home.id for home in scenario.everyone}


def test_homes_draw_the_reported_load_at_the_settled_price() -> None:
    scenario, end = run_record()
    price = np.array(end.rounds[-1]["price"])
    alone = {home.id: HomeProblem(home).answer(price) for home in scenario.everyone}
    for name, schedule in alone.items():
        np.testing.assert_allclose(end.homes[name]["load_kw"], schedule.load, rtol=1e-12)
        assert end.homes[name]["bill"] == pytest.approx(price @ schedule.load, rel=1e-12)
    np.testing.assert_allclose(end.rounds[-1]["load_kw"], sum(s.load for s in alone.values()), rtol=1e-12)


def test_leader_utility_rises_over_the_rounds() -> None:
    _, end = run_record()
    assert end.rounds[-1]["leader_utility"] > end.rounds[0]["leader_utility"]


def test_outcome_is_the_same_when_the_seed_is() -> None:
    scenario, first = run_record()
    again = load("user_oriented", SMALL)
    second = in_memory.play(again)
    assert scenario.outcome(first).model_dump_json() == again.outcome(second).model_dump_json()
    assert first.rounds == second.rounds
    assert (first.messages, first.bytes) == (second.messages, second.bytes)


def test_run_leaves_only_settlements_retained() -> None:
    scenario, _, tap = play_with_tap()
    coordinators = ["leader", *scenario.households()]
    assert set(tap._retained) == {f"stackelgrid/memory/{name}/settlement" for name in coordinators}


def test_outcome_differs_when_the_seed_does() -> None:
    scenario, first = run_record()
    other, second = run_record("seed=7")
    assert scenario.outcome(first).price != other.outcome(second).price


@pytest.mark.parametrize(
    "shape", [["aggregators=1"], ["aggregators=6"], ["homes_per_process=3"], ["aggregators=1", "homes_per_process=3"]]
)
def test_outcome_is_the_same_when_homes_are_grouped_otherwise(shape: list[str]) -> None:
    scenario, end = run_record()
    other_scenario, other_end = run_record(*shape)
    one, other = scenario.outcome(end), other_scenario.outcome(other_end)
    np.testing.assert_allclose(other.price, one.price, rtol=1e-9)
    np.testing.assert_allclose(other.load_kw, one.load_kw, rtol=1e-9)
    assert other.homes.keys() == one.homes.keys()


def test_outcome_is_the_same_when_messages_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, end = run_record()
    monkeypatch.setattr(in_memory, "MemoryTransport", Lossy)
    lossy = in_memory.play(load("user_oriented", [*SMALL, "rounds.tries=30"]))
    assert lossy.settled
    assert lossy.missing == []
    assert lossy.messages > end.messages
    np.testing.assert_array_equal(lossy.rounds[-1]["price"], end.rounds[-1]["price"])
    assert scenario.outcome(lossy).homes == scenario.outcome(end).homes


@pytest.mark.parametrize("objective", ["stackelberg", "welfare"])
def test_search_goes_on_when_homes_come_late(objective: str) -> None:
    scenario, clean = run_record(f"leader.objective={objective}", "population.homes=24", "rounds.return_s=0")
    late = list(scenario.topology.aggregator_of)[:8]
    faults = [
        {"kind": "crash", "node": name, "at": {"seconds": 0}, "restart_after_s": 0.004 + 0.004 * number}
        for number, name in enumerate(late)
    ]
    end = in_memory.play(scenario, plan=FaultPlan.model_validate({"faults": faults}))
    assert end.settled and end.conclusion["complete"]
    flat = [record["round"] for record in end.rounds if record["price"] == end.rounds[0]["price"]]
    joined = [record["round"] for record in end.rounds if record["homes"] == 24]
    assert len({record["homes"] for record in end.rounds}) > 3
    assert flat[-1] >= joined[0] > 1
    if objective == "welfare":  # it asks the flat price again once all have come, and not for each
        assert len(flat) == 2
    assert len(joined) <= len(clean.rounds) + 6
    np.testing.assert_allclose(end.rounds[-1]["price"], clean.rounds[-1]["price"], rtol=1e-5)
    assert end.rounds[-1]["baseline_load_kw"] == clean.rounds[-1]["baseline_load_kw"]


# --- what one home can do to the others ---


def play_with_liar(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> tuple[Scenario, RunRecord]:
    """A run in which the first home answers what `spoil` makes of its answer."""
    scenario = load("user_oriented", [*SMALL, "leader.max_rounds=8"])
    first = scenario.everyone[0].id
    honest = UserOrientedHomes.answer

    def answer(self: UserOrientedHomes, signal: Body) -> LoadResponse:
        given = honest(self, signal)
        return spoil(given) if self._problems[0].home.id == first else given

    monkeypatch.setattr(UserOrientedHomes, "answer", answer)
    return scenario, in_memory.play(scenario)


def test_run_settles_without_a_home_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(given: LoadResponse) -> LoadResponse:
        raise RuntimeError("out of\nmemory")

    scenario, end = play_with_liar(monkeypatch, crash)
    first = scenario.everyone[0].id
    line = crash.__code__.co_firstlineno + 1
    assert end.failures == {first: f"RuntimeError: out of memory (test_nodes_in_memory.py, line {line})"}
    assert end.settled
    assert not end.conclusion["complete"]
    assert end.conclusion["unacknowledged"] == [first]
    assert end.missing
    assert {(entry["node"], entry["action"]) for entry in end.missing} == {(first, "excluded")}
    assert set(end.homes) == {home.id for home in scenario.everyone} - {first}


ABSURD = {
    "a load that overflows": {"load_kw": [1e308] * 24},
    "a load whose square overflows": {"load_kw": [1e200] * 24},
    "a load that grows with the price": {"slope": [1e6] * 24},
    "a slope that overflows": {"slope": [-1e300] * 24},
    "a coupling that overflows": {"coupling": PackedArray.of(np.full((24, 24), 1e300))},
}


@pytest.mark.parametrize("lie", ABSURD.values(), ids=ABSURD)
def test_nodes_survive_an_absurd_answer(monkeypatch: pytest.MonkeyPatch, lie: dict[str, Any]) -> None:
    _, end = play_with_liar(monkeypatch, lambda given: given.model_copy(update=lie))
    assert end.failures == {}


def play_with_lie(lie: dict[str, Any], *overrides: str) -> RunRecord:
    """A run in which a node lies in every message of that kind."""
    plan = FaultPlan.model_validate({"faults": [{"kind": "lie", **lie}]})
    return in_memory.play(load("user_oriented", [*SMALL, *overrides]), plan=plan)


SLOW = {
    "silent": {"kind": "loss", "from": "h01", "to": "a1", "probability": 1},
    "slow": {"kind": "slow", "node": "h01", "seconds": 4.9},
    "a little slow": {"kind": "slow", "node": "h01", "seconds": 0.9},
    "late": {"kind": "lie", "node": "h01", "how": "late", "times": 9},
    "late by turns": {"kind": "lie", "node": "h01", "how": "late", "times": 9, "probability": 0.5},
    "malformed": {"kind": "lie", "node": "h01", "how": "shape"},
    "flapping": {"kind": "lie", "node": "h01", "how": "flapping", "times": 9, "seconds": 3},
}


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("objective", ["stackelberg", "welfare"])
def test_one_home_delays_a_run_by_no_more_than_its_patience(objective: str, fault: dict[str, Any]) -> None:
    scenario, clean = run_record("population.homes=12", f"leader.objective={objective}")
    end = in_memory.play(scenario, plan=FaultPlan.model_validate({"faults": [fault]}))
    took, usual = (sum(record["ms"] for record in record_of.rounds) / 1000 for record_of in (end, clean))
    assert took <= usual + scenario.rounds.deadline_s * scenario.rounds.tries
    assert end.settled and end.failures == {}
    assert {entry["node"] for entry in end.missing} <= {"h01"}


def test_home_whose_answers_are_refused_is_told_why() -> None:
    scenario = load("user_oriented", SMALL)
    plan = FaultPlan.model_validate({"faults": [{"kind": "lie", "node": "h1", "how": "beyond"}]})
    run = in_memory.MemoryRun(scenario)
    transport = FaultyMemory(plan, run.builds, lambda record: None, scenario.seed)
    nodes = {node.name: node for node in transport.nodes()}
    transport.run(list(nodes.values()))
    told = {name: (node.node.progress.refusal, node.node.progress.is_ignored) for name, node in nodes.items()}
    reason, ignored = told.pop("h1")
    assert ignored and "its connections carry" in reason
    assert set(told.values()) == {(None, False)}
    assert {(entry["node"], entry["why"]) for entry in run.run_record.missing} == {("h1", reason)}


def test_home_whose_answers_are_accepted_again_forgets_the_refusal() -> None:
    progress = Progress()
    progress.start_round(1)
    progress.note_refusal(1, "too much", final=False)
    progress.start_round(2)
    assert progress.refusal == "too much"
    progress.start_round(3)
    assert progress.refusal is None
    progress.note_refusal(3, "too much", final=True)
    progress.start_round(5)
    assert progress.refusal == "too much" and progress.is_ignored


def test_home_that_excludes_itself_costs_no_other_home_anything() -> None:
    end = play_with_lie({"node": "a1-p1", "how": "count"}, "homes_per_process=2", "aggregators=2")
    assert end.settled and end.failures == {}
    assert {entry["node"] for entry in end.missing} == {"a1-p1"}
    assert end.rejected["refused"] > 0


@pytest.mark.parametrize("invented", [1, 10_000])
def test_names_that_a_home_invents_in_its_receipt_do_not_leave_its_aggregator(invented: int) -> None:
    end = play_with_lie({"node": "h1", "how": "receipt", "times": invented, "as": "h2"})
    assert end.failures == {}
    assert set(end.conclusion["unacknowledged"]) <= {"h1"}


@pytest.mark.parametrize(("invented", "other"), [(4, None), (1, "a2"), (10_000, None)])
def test_names_that_an_aggregator_cannot_have_are_not_believed(invented: int, other: str | None) -> None:
    end = play_with_lie({"node": "a1", "how": "receipt", "times": invented, **({"as": other} if other else {})})
    assert end.failures == {}
    assert set(end.conclusion["unacknowledged"]) <= {"a1"}


# --- what leaves a home ---


def numbers(value: Any) -> Iterator[float]:
    """Every number in a message, packed ones included."""
    if isinstance(value, dict) and set(value) == {"shape", "float64"}:
        yield from PackedArray(**value).array().ravel().tolist()
    elif isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def texts(value: Any) -> Iterator[str]:
    """Every text in a message, packed numbers left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item) if key != "float64" else ()
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def private_numbers(home: Home) -> set[float]:
    """The home's private numbers that nobody could have guessed: those that are not round."""
    return {number for number in numbers(home.model_dump()) if round(number, 4) != number}


STORED = "population.storage.share=1.0"


@pytest.mark.parametrize("shape", [(), ("homes_per_process=3",), (STORED,)])
def test_home_sends_no_private_number(shape: tuple[str, ...]) -> None:
    scenario, end, tap = play_with_tap(*shape)
    assert end.settled
    sent = np.array(
        sorted({n for _, _, publish in tap.seen if publish.payload for n in numbers(json.loads(publish.payload))})
    )
    for home in scenario.everyone:
        private = private_numbers(home)
        assert len(private) > 24  # an omega per slot, and more
        for number in private:
            nearest = sent[np.argmin(np.abs(sent - number))]
            assert abs(nearest - number) > 1e-9 * abs(number), f"{home.id} gives {number} away"


def test_home_answers_with_load_and_sensitivity_only() -> None:
    scenario, _, tap = play_with_tap(STORED)
    for home in scenario.everyone:
        answers = tap.bodies("answer", sender=home.id)
        assert answers
        for _, _, body in answers:
            assert set(body) <= {"homes", "held", "excluded", "load_only", "fixed", "load_kw", "slope", "coupling"}
        said = [json.loads(publish.payload) for sender, _, publish in tap.seen if sender == home.id and publish.payload]
        assert {word for message in said for word in texts(message)} == {"memory", home.id, "online"}


def test_home_reaches_its_own_aggregator_only() -> None:
    scenario, _, tap = play_with_tap()
    aggregator_of = {
        home.id: name for name, processes in scenario.households().items() for homes in processes for home in homes
    }
    for sender, receiver, publish in tap.seen:
        if sender in aggregator_of:
            assert receiver == aggregator_of[sender], publish.topic


def test_leader_receives_sums_of_aggregators_only() -> None:
    scenario, _, tap = play_with_tap(STORED)
    share = {
        name: [home.id for homes in processes for home in homes] for name, processes in scenario.households().items()
    }
    heard = {(sender, publish.topic) for sender, receiver, publish in tap.seen if receiver == "leader"}
    assert {sender for sender, _ in heard} == set(share)
    assert all(topic.startswith(f"stackelgrid/memory/leader/{sender}/") for sender, topic in heard)

    of_homes: dict[tuple[str, int], dict[str, Any]] = {
        (sender, number): body for sender, number, body in tap.bodies("answer") if sender not in share
    }
    summed = tap.bodies("answer", receiver="leader")
    assert len(summed) == 2 * len({number for _, number, _ in summed})
    for aggregator, number, body in summed:
        homes = [of_homes[name, number] for name in share[aggregator]]
        assert body["homes"] == len(homes) == 3
        for key in ("load_kw", "slope"):
            np.testing.assert_allclose(body[key], np.sum([home[key] for home in homes], axis=0), rtol=1e-12)
            assert all(body[key] != home[key] for home in homes)
        couplings = [PackedArray(**home["coupling"]).array() for home in homes]
        np.testing.assert_allclose(
            PackedArray(**body["coupling"]).array(), np.sum(couplings, axis=0), rtol=1e-9, atol=1e-12
        )
