"""Runs of several sessions: what goes from one to the next, and what a message of another session does."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stackelgrid
from emc_node.node import LINGER_S, EmcNode
from stackelgrid.calendar import Session
from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.games.user_oriented.home import HomeProblem
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.record import has_last_record, open_record, read_records
from stackelgrid.rounds import Coordinator, Member, QuestionReceived, RoundPolicy, SettlementReceived
from stackelgrid.rounds.settings import HomeModel, PrivacySettings
from stackelgrid.runner import Run
from stackelgrid.transport.base import Compute, Publish
from stackelgrid.wire.codec import BadMessageError, Bodies, Link
from stackelgrid.wire.messages import Answer, Body, Presence, Settlement, Signal


def two_days(homes: int = 5, *, mu: float = 0.5, start: str = "2026-03-28T00:00", **calendar: Any) -> dict[str, Any]:
    """A scenario over the change of clocks in Brussels: two aggregators, every other home with a storage."""
    calendar = {"start": start, "timezone": "Europe/Brussels", "days": 2} | calendar
    slots = 24 * calendar["days"] - (start < "2026-03-30" and calendar["days"] == 2)
    random = np.random.default_rng(3)
    return {
        "schema": 1,
        "game": "user_oriented",
        "seed": 1,
        "aggregators": 2,
        "calendar": calendar,
        "leader": {
            "objective": "welfare",
            "baseline_price": 9,
            "wholesale_price": random.uniform(2, 5, slots).tolist(),
            "mu": mu,
            "price_max": 30,
            "tolerance": 1e-9,
        },
        "homes": [
            {
                "id": f"h{number}",
                "inelastic": [{"load_kw": random.uniform(0.5, 2, slots).tolist()}],
                "elastic": [
                    {
                        "max_kw": random.uniform(3, 8),
                        "valuation": random.uniform(10, 18),
                        "satisfaction": {"form": "log", "alpha": random.uniform(2, 5)},
                    }
                ],
                **({"storage": [STORAGE]} if number % 2 else {}),
            }
            for number in range(1, homes + 1)
        ],
    }


STORAGE = {"capacity_kwh": 8.0, "initial_kwh": 3.0, "charge_kw": 2.0, "discharge_kw": 2.0, "wear": {"fast": 0.5}}


@functools.cache
def rolling() -> Run:
    return stackelgrid.run(two_days(every="6h"))


# --- whole runs ---


def test_run_of_two_days_settles_each_of_them_over_the_change_of_clocks() -> None:
    run = stackelgrid.run(two_days())
    first, second = run.result.sessions
    assert (first.start, first.slots, second.start, second.slots) == (
        "2026-03-28T00:00:00+01:00",
        24,
        "2026-03-29T00:00:00+01:00",
        23,
    )
    assert run.settled and run.complete and run.outcome is None
    assert (run.result.missing, run.result.rejected, run.failures) == ([], {}, {})
    assert [record["round"] for record in run.journal] == list(range(1, 1 + first.rounds + second.rounds))
    assert [record["session"] for record in run.journal] == [1] * first.rounds + [2] * second.rounds
    assert run.result.rounds == first.rounds + second.rounds
    assert run.result.questions == first.questions + second.questions
    in_no_round = {key: run.result.traffic[-1].model_dump()[key] for key in ("messages", "bytes")}
    for key, rest in in_no_round.items():
        assert getattr(run.result, key) == getattr(first, key) + getattr(second, key) + rest


def test_state_goes_from_the_binding_slots_of_a_session_to_the_next() -> None:
    run = rolling()
    assert len(run.result.sessions) == 8 and run.complete
    for before, after in pairwise(run.result.sessions):
        assert after.states.keys() == {"h1", "h3", "h5", "leader"}
        for name in ("h1", "h3", "h5"):
            state = after.states[name]
            left = before.outcome.homes[name].storage_kwh[before.binding - 1]
            assert state["storage_kwh"] == [left]


def test_stored_energy_balances_over_the_binding_slots_of_a_run() -> None:
    """What a home draws beyond what its appliances alone would at the same price is what its storage gains."""
    run = rolling()
    for number in (1, 3, 5):
        charged = 0.0
        for session, played in zip(run.scenario.sessions, run.result.sessions, strict=True):
            (home,) = (each for each in run.scenario.in_session(session).everyone if each.id == f"h{number}")
            bare = HomeProblem(home.model_copy(update={"storage": []})).answer(np.array(played.outcome.price)).load
            load = np.array(played.outcome.homes[home.id].load_kw)
            charged += float(np.sum((load - bare)[: session.binding]))
        last = run.result.sessions[-1].outcome.homes[f"h{number}"].storage_kwh[-1]
        assert charged == pytest.approx(last - 3.0, abs=1e-9)
        assert last >= 3.0 - 1e-9


def test_sessions_are_certified_each_from_the_state_it_began_with() -> None:
    run = stackelgrid.run(two_days(3, every="18h", start="2026-06-01T00:00", days=1))
    assert run.certify(samples=20).passed
    assert [session.certificate.passed for session in run.result.sessions if session.certificate] == [True, True]


@pytest.mark.parametrize("mu", [0.0, 0.8])
def test_planning_again_at_every_slot_gives_the_plan_of_the_day(mu: float) -> None:
    """Where the last level is fixed, a part of the best plan is the best; the deviation counts what has passed."""
    day = two_days(4, mu=mu, start="2026-06-01T00:00", days=1)
    day["leader"] |= {"capacity": {"max_kw": 31.0}}
    ahead = stackelgrid.run(day)
    assert 2 < ahead.outcome.load_kw.count(pytest.approx(31.0)) < 24
    again = stackelgrid.run({**day, "calendar": day["calendar"] | {"every": "1h"}})
    assert len(again.result.sessions) == 24
    for name, planned in ahead.outcome.homes.items():
        played = [session.outcome.homes[name].load_kw[0] for session in again.result.sessions]
        np.testing.assert_allclose(played, planned.load_kw, atol=1e-6)
    prices = [session.outcome.price[0] for session in again.result.sessions]
    np.testing.assert_allclose(prices, ahead.outcome.price, atol=1e-6)


def test_run_in_memory_repeats_itself_byte_for_byte() -> None:
    again = stackelgrid.run(two_days(every="6h")).result.content()
    assert again | {"elapsed_s": 0.0} == rolling().result.content() | {"elapsed_s": 0.0}


# --- messages ---


class Number(Body):
    numbers: list[float]

    @property
    def slots(self) -> int:
        return len(self.numbers)


LINK = Link("run-1", "c", Bodies(Number, Number, Number), slots=(2, 1, 3))
POLICY = RoundPolicy(deadline_s=1.0, tries=2, missing="hold", gather_s=10.0, quarantine_after=1)
TWO, ONE, THREE = (Number(numbers=[0.0] * slots) for slots in (2, 1, 3))


def signal(session: int, number: int, body: Number) -> Signal[Number]:
    return Signal[Number](run="run-1", sender="c", session=session, round=number, body=body)


def settlement(session: int, number: int, body: Number) -> Settlement[Number]:
    return Settlement[Number](
        run="run-1", sender="c", session=session, round=number, settled=True, complete=True, body=body
    )


def answer(member: str, session: int, number: int, body: Number) -> Answer[Number]:
    return Answer[Number](run="run-1", sender=member, session=session, round=number, body=body)


def test_message_of_the_first_session_does_not_say_so() -> None:
    assert b"session" not in LINK.write(signal(1, 1, TWO))
    assert b'"session":2' in LINK.write(signal(2, 1, ONE))
    assert LINK.read("stackelgrid/run-1/c/signal", LINK.write(signal(2, 1, ONE))) == signal(2, 1, ONE)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (signal(2, 1, TWO), "body is for 2 slots, session 2 has 1"),
        (signal(4, 1, TWO), "it is of session 4, the run has 3"),
    ],
)
def test_message_of_another_session_than_its_body_is_malformed(message: Signal[Number], words: str) -> None:
    with pytest.raises(BadMessageError, match=words):
        LINK.read("stackelgrid/run-1/c/signal", LINK.write(message))


def test_member_goes_on_to_the_latest_session_and_ignores_those_before() -> None:
    member = Member("a", LINK)
    assert member.receive(signal(1, 4, TWO)) == [QuestionReceived(4, TWO)]
    member.receive(settlement(1, 4, TWO))
    assert member.receive(signal(3, 1, THREE)) == [QuestionReceived(1, THREE, 3)]  # its coordinator has lost its disk
    assert member.receive(signal(2, 9, ONE)) == member.receive(settlement(1, 4, TWO)) == []
    assert member.stale == 2
    assert member.receive(settlement(3, 2, THREE)) == [SettlementReceived(2, True, True, THREE, 3)]


def test_member_listens_for_what_it_missed_until_the_last_settlement() -> None:
    member = Member("a", LINK)
    member.receive(settlement(2, 1, ONE))
    member.note_contact(0.0)
    assert member.next_deadline() is not None
    member.receive(settlement(3, 2, THREE))
    member.note_contact(0.0)
    assert member.next_deadline() is None


def begin() -> Coordinator:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY, lambda member, asked, got: "odd" if got.numbers[0] else None)
    coordinator.start(0.0)
    for member in ("a", "b"):
        coordinator.receive(Presence(run="run-1", sender=member, state="online"), 0.0)
    return coordinator


def test_coordinator_holds_no_answer_of_the_session_before() -> None:
    coordinator = begin()
    coordinator.ask(TWO, 0.0)
    for member in ("a", "b"):
        coordinator.receive(answer(member, 1, 1, TWO), 0.1)
    coordinator.begin_session(2, 1.0)
    coordinator.ask(ONE, 1.0)
    assert coordinator.rounds == 2
    coordinator.receive(answer("a", 2, 2, ONE), 1.1)
    coordinator.receive(answer("b", 1, 2, TWO), 1.1)  # of another length than what is asked
    assert coordinator.stale == 1
    found = [step for at in (2.1, 3.2) for step in coordinator.tick(at)]
    (closed,) = [step for step in found if hasattr(step, "excluded")]
    assert (closed.held, closed.excluded) == ((), ("b",))


def test_quarantine_lasts_for_all_sessions() -> None:
    coordinator = begin()
    coordinator.ask(TWO, 0.0)
    coordinator.receive(answer("b", 1, 1, Number(numbers=[1.0, 0.0])), 0.1)
    coordinator.begin_session(2, 1.0)
    coordinator.ask(ONE, 1.0)
    (closed,) = coordinator.receive(answer("a", 2, 2, ONE), 1.1)
    assert closed.quarantined == {"b": "odd"}


# --- nodes that are away between two sessions ---


def play_under(fault: dict[str, Any], *, return_s: float = 10.0, **calendar: Any) -> Run:
    scenario = two_days(every="6h", **calendar) | {"rounds": {"return_s": return_s}}
    return stackelgrid.run(scenario, faults=FaultPlan.model_validate({"seed": 1, "faults": [fault]}))


def crash(node: str, session: int, restart_after_s: float, *, lose_state: bool = False) -> dict[str, Any]:
    return {
        "kind": "crash",
        "node": node,
        "at": {"session": session},
        "restart_after_s": restart_after_s,
        "lose_state": lose_state,
    }


@pytest.mark.parametrize("session", [2, 5])
@pytest.mark.parametrize("node", ["leader", "a1", "h1"])
def test_node_that_is_killed_between_two_sessions_loses_nothing(node: str, session: int) -> None:
    run = play_under(crash(node, session, 0.01))
    assert sorted(fault.kind for fault in run.faults) == ["crash", "restart"]
    assert run.settled and run.complete
    assert [each.outcome for each in run.result.sessions] == [each.outcome for each in rolling().result.sessions]
    assert [each.states for each in run.result.sessions] == [each.states for each in rolling().result.sessions]
    assert [record["session"] for record in run.journal] == [record["session"] for record in rolling().journal]


@pytest.mark.parametrize("horizon", ["24h", "12h"])
def test_home_that_sleeps_through_two_sessions_comes_back_as_its_plan_has_left_it(horizon: str) -> None:
    """It follows the plan as far as that reaches; after its end the storage rests."""
    run = play_under(crash("h1", 2, 0.12), return_s=0.0, horizon=horizon)
    sessions = run.result.sessions
    back = next(number for number in range(1, 8) if "h1" in sessions[number].outcome.homes)
    assert back >= 3
    assert [each.settled for each in sessions] == [True] * 8
    assert not run.complete and run.result.homes_settled == 4
    planned = sessions[0].outcome.homes["h1"].storage_kwh
    assert (back == 3 and len(planned) > 18) or horizon == "12h"
    assert sessions[back].states["h1"]["storage_kwh"] == [planned[min(6 * back, len(planned)) - 1]]
    for before, after in pairwise(sessions[back:]):
        left = before.outcome.homes["h1"].storage_kwh[before.binding - 1]
        assert after.states["h1"]["storage_kwh"] == [left]


def test_home_without_its_disk_begins_as_it_is_described() -> None:
    run = play_under(crash("h1", 3, 0.01, lose_state=True))
    assert ["h1" in each.states for each in run.result.sessions] == [False, True, False, *[True] * 5]
    assert run.settled and run.complete


def test_aggregator_without_its_disk_is_answered_again() -> None:
    run = play_under(crash("a1", 3, 0.01, lose_state=True))
    assert run.settled and run.complete and run.result.missing == []


def test_aggregator_that_loses_its_disk_within_a_session_is_in_it_again() -> None:
    second_round = [record["round"] for record in rolling().journal if record["session"] == 3][1]
    run = play_under(crash("a1", 3, 0.01, lose_state=True) | {"at": {"round": second_round}})
    assert run.settled and run.complete and run.result.missing == []
    assert [each.outcome for each in run.result.sessions] == [each.outcome for each in rolling().result.sessions]


def test_fault_at_a_session_that_the_run_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"faults.0.at.session: 9, the run has 8"):
        play_under(crash("h1", 9, 1.0))


def test_run_whose_leader_is_gone_has_the_sessions_that_were_played() -> None:
    run = play_under(crash("leader", 3, 0.0) | {"restart_after_s": None}, homes=2)
    assert "leader" in run.failures and not run.settled and run.outcome is None
    assert [each.settled for each in run.result.sessions] == [True, True, *[False] * 6]
    assert [each.outcome is None for each in run.result.sessions] == [False, False, *[True] * 6]


def test_policy_fail_fails_a_session_and_the_run_goes_on() -> None:
    scenario = two_days(every="6h") | {"rounds": {"missing": "fail", "deadline_s": 0.1, "return_s": 0.0}}
    plan = FaultPlan.model_validate({"faults": [crash("h1", 2, 3.0)]})
    sessions = stackelgrid.run(scenario, faults=plan).result.sessions
    settled = [each.settled for each in sessions]
    assert settled[0] and not settled[1] and settled[-1]
    assert not any(each.complete for each in sessions if not each.settled)


@pytest.mark.parametrize("of_grid", [False, True])
def test_offences_and_patience_of_a_grid_are_those_of_a_session(of_grid: bool) -> None:
    link = Link("grid", "a1", Bodies(Number, Number, Number), (2, 2))
    policy = RoundPolicy(quarantine_after=2, quarantine_for=["malformed"])
    coordinator = Coordinator(link, ["h1"], policy, of_grid=of_grid)
    for session in (1, 2):
        coordinator.begin_session(session, 0.0)
        coordinator.ask(Number(numbers=[1.0, 2.0]), 0.0)
        coordinator.note_unreadable(f"{link.root}/h1/answer", "noise", 0.0)
    assert (coordinator.quarantined == {}) is of_grid


# --- a home's node alone ---


class Stubborn:
    """Answers with what it is asked; in `without`, a number of slots, there is no such home."""

    quick, without = True, 1

    def __init__(self, homes: Sequence[HomeModel]) -> None:
        self.homes = homes

    def answer(self, signal: Number) -> Number:
        return signal

    def settle(self, settlement: Number) -> dict[str, Any]:
        return {home.id: {"numbers": settlement.numbers} for home in self.homes}


class Battery(HomeModel):
    """A home that remembers the last number that it settled before a session ends."""

    level: float = 0.0

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Battery:
        if session.slots == Stubborn.without:
            raise ValueError("7 kWh are missing at departure")
        return self.model_copy(update=dict(state or {}))

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        return {"level": account["numbers"][session.binding - 1]}


class HomeByHand:
    """The node of one home in a run of three sessions: of two slots, of one, which it cannot keep, and of three.

    Its clock stands at `now`; of the sessions only the first `count` are played.
    """

    now = 1000.0

    def __init__(self, memory: Mapping[str, Any] | None = None, questions: int = 100, count: int = 3) -> None:
        sessions = [Session(2, 1.0, 1, 0, 2), Session(1, 1.0, 2, 2, 1), Session(3, 1.0, 3, 3, 3)][:count]
        self.saved: list[Any] = []
        self.acted: list[Any] = []
        self.node = EmcNode(
            "a",
            LINK,
            [Battery(id="a")],
            lambda homes, _: Stubborn(homes),
            sessions,
            self.acted.append,
            self.saved.append,
            memory,
            PrivacySettings(questions_per_session=questions),
        )

    def receive(self, message: Signal[Number] | Settlement[Number]) -> list[str]:
        """Give the purposes of what it sends."""
        actions = list(self.node.receive(LINK.topic(message), LINK.write(message), self.now))
        sent = []
        while actions:
            match actions.pop(0):
                case Compute(job, then):
                    actions += then(job(), self.now)
                case Publish(topic=topic):
                    sent.append(topic.rpartition("/")[2])
        return sent


def test_home_saves_its_plan_before_it_acknowledges_it_and_goes_on_from_it() -> None:
    first = HomeByHand()
    assert first.receive(settlement(1, 1, Number(numbers=[3.0, 5.0]))) == ["receipt"]
    assert first.acted == [{"session": 1, "states": {}, "homes": {"a": {"numbers": [3.0, 5.0]}}}]
    later = HomeByHand(json.loads(json.dumps(first.saved[-1])))
    later.receive(settlement(3, 2, THREE))
    assert later.acted[-1]["states"] == {"a": {"level": 5.0}}
    again = HomeByHand(json.loads(json.dumps(later.saved[-1])))  # killed before its receipt was sent
    assert again.receive(settlement(3, 2, Number(numbers=[9.0] * 3))) == ["receipt"]
    assert again.acted == later.acted  # what it has saved holds, whatever its answers before have left
    assert again.receive(signal(2, 9, ONE)) == []


def test_home_that_cannot_keep_a_session_says_so_and_is_in_the_next() -> None:
    home = HomeByHand()
    home.receive(settlement(1, 1, Number(numbers=[3.0, 5.0])))
    assert home.receive(signal(2, 2, ONE)) == []
    assert home.node.progress.remarks == ["no part in session 2: 7 kWh are missing at departure"]
    assert home.receive(settlement(2, 2, ONE)) == ["receipt"]
    assert home.receive(signal(3, 3, THREE)) == ["answer"]
    assert home.node.progress.remarks == []
    home.receive(settlement(3, 3, THREE))
    assert [record["session"] for record in home.acted] == [1, 3]
    assert home.acted[-1]["states"] == {"a": {"level": 5.0}}


def test_home_without_a_part_in_the_last_session_waits_for_the_end_of_the_run() -> None:
    home = HomeByHand(count=2)
    home.receive(settlement(1, 1, Number(numbers=[3.0, 5.0])))
    assert home.receive(settlement(2, 2, ONE)) == ["receipt"]
    assert home.node.next_deadline() == home.now + LINGER_S


def test_record_of_a_session_has_the_state_that_was_measured_at_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    home = HomeByHand()
    monkeypatch.setattr(Stubborn, "measured_states", {"a": {"level": 7.5}}, raising=False)
    home.receive(signal(1, 1, TWO))
    home.receive(settlement(1, 2, TWO))
    monkeypatch.setattr(Stubborn, "measured_states", {}, raising=False)
    home.receive(signal(3, 3, THREE))
    home.receive(settlement(3, 4, THREE))
    assert [(record["session"], record["states"]) for record in home.acted] == [
        (1, {"a": {"level": 7.5}}),
        (3, {"a": {"level": 0.0}}),
    ]


def test_home_counts_questions_anew_in_each_session() -> None:
    class Asked(Number):
        @property
        def questions(self) -> list[bytes]:
            return [str(self.numbers).encode()]

    link = Link("run-1", "c", Bodies(Asked, Number, Number), slots=LINK.sessions)
    home = HomeByHand(questions=1)
    home.node.mailbox = Mailbox(link)
    assert home.receive(signal(1, 1, TWO)) == ["answer"]
    assert home.receive(signal(1, 2, Number(numbers=[1.0, 0.0]))) == []
    assert home.receive(signal(3, 3, THREE)) == ["answer"]
    assert home.node.mailbox.rejected == {"over_budget": 1}


# --- files ---


def test_record_of_several_sessions_is_a_line_for_each_and_survives_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "h1.schedule.json"
    record = open_record(path, 3)
    record({"session": 1})
    record({"session": 2})
    with path.open("a") as file:
        file.write('{"session": 3, "ho')
    assert [each["session"] for each in read_records(path, 3)] == [1, 2]
    assert not has_last_record(path, 3)
    open_record(path, 3)({"session": 3})
    assert [each["session"] for each in read_records(path, 3)] == [1, 2, 3]
    assert has_last_record(path, 3)


def test_record_of_a_settlement_that_comes_again_after_a_restart_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "h1.schedule.json"
    open_record(path, 3)({"session": 1, "homes": {"h1": {"load_kw": [0.1, 2.0]}}})
    again = open_record(path, 3)
    again({"session": 1, "homes": {"h1": {"load_kw": [0.1, 2.0]}}})
    again({"session": 2, "homes": {"h1": {"load_kw": [0.1, 2.0]}}})
    assert [each["session"] for each in read_records(path, 3)] == [1, 2]


def test_record_of_one_session_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "h1.schedule.json"
    assert read_records(path, 1) == [] and not has_last_record(path, 1)
    open_record(path, 1)({"h1": [1.0]})
    assert json.loads(path.read_text()) == {"h1": [1.0]}
    assert read_records(path, 1) == [{"h1": [1.0]}] and has_last_record(path, 1)
