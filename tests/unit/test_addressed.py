"""Conversations in which each member is asked something of its own, and aggregators that ask more than once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import pytest

from aggregator_node.node import AggregatorNode
from emc_node.node import EmcNode
from leader_node.node import LeaderNode
from stackelgrid.calendar import Session
from stackelgrid.gates import Timetable
from stackelgrid.rounds import (
    Coordinator,
    Member,
    QuestionReceived,
    Round,
    RoundPolicy,
    SettlementAcknowledged,
    SettlementReceived,
)
from stackelgrid.rounds.settings import AggregatorSettings, LeaderSettings
from stackelgrid.rounds.strategy import Ask, Decision, Ending, Question, Reply
from stackelgrid.transport.base import Action, Compute, Publish
from stackelgrid.transport.memory import MemoryTransport
from stackelgrid.wire.codec import BadMessageError, Bodies, Link
from stackelgrid.wire.messages import Answer, Body, Message, Presence, Receipt, RegisteredMember, Settlement, Signal


class Secret(Body):
    text: str


class Count(Body):
    number: int


LINK = Link("run-1", "c", Bodies(Secret, Count, Secret, addressed=True), slots=1)
POLICY = RoundPolicy(deadline_s=1.0, tries=2, missing="hold", gather_s=10.0)
BOTH = {"ann": Secret(text="for ann"), "bob": Secret(text="for bob")}


def answer(member: str, number: int) -> Answer[Count]:
    return Answer(run="run-1", sender=member, round=number, body=Count(number=7))


def asking() -> Coordinator:
    coordinator = Coordinator(LINK, ["ann", "bob"], POLICY)
    coordinator.start(0.0)
    for member in BOTH:
        coordinator.receive(Presence(run="run-1", sender=member, state="online"), 0.0)
    coordinator.ask(BOTH, 0.0)
    return coordinator


def topics(steps: Sequence[object]) -> dict[str, str]:
    return {step.topic: step.payload.decode() for step in steps if isinstance(step, Publish)}


def test_addressed_signal_has_a_topic_per_member() -> None:
    coordinator = Coordinator(LINK, ["ann", "bob"], POLICY)
    asked = topics(coordinator.ask(BOTH, 0.0))
    assert sorted(asked) == ["stackelgrid/run-1/c/ann/signal", "stackelgrid/run-1/c/bob/signal"]
    assert "for ann" in asked["stackelgrid/run-1/c/ann/signal"]
    assert "for bob" not in asked["stackelgrid/run-1/c/ann/signal"]


def test_member_subscribes_to_its_own_topics_only() -> None:
    assert Member("ann", LINK).subscriptions[:2] == (
        "stackelgrid/run-1/c/ann/signal",
        "stackelgrid/run-1/c/ann/settlement",
    )


def test_addressed_signal_is_repeated_to_missing_members_only() -> None:
    coordinator = asking()
    coordinator.receive(answer("ann", 1), 0.1)
    assert list(topics(coordinator.tick(1.0))) == ["stackelgrid/run-1/c/bob/signal"]


def test_returning_member_is_asked_its_own_question_again() -> None:
    coordinator = asking()
    coordinator.receive(Presence(run="run-1", sender="bob", state="offline"), 0.1)
    again = topics(coordinator.receive(Presence(run="run-1", sender="bob", state="online"), 0.2))
    assert list(again) == ["stackelgrid/run-1/c/bob/signal"] and "for bob" in again["stackelgrid/run-1/c/bob/signal"]


def test_addressed_round_and_settlement_have_a_body_per_member() -> None:
    coordinator = asking()
    coordinator.receive(answer("ann", 1), 0.1)
    (finished,) = coordinator.receive(answer("bob", 1), 0.1)
    assert isinstance(finished, Round) and finished.body == BOTH
    settled = topics(coordinator.settle(BOTH, settled=True, complete=True, now=0.2))
    assert sorted(settled) == ["stackelgrid/run-1/c/ann/settlement", "stackelgrid/run-1/c/bob/settlement"]
    for member in BOTH:
        steps = coordinator.receive(Receipt(run="run-1", sender=member, round=1), 0.3)
    assert steps == [SettlementAcknowledged(())]
    assert list(topics(coordinator.leave())) == ["stackelgrid/run-1/c/ann/signal", "stackelgrid/run-1/c/bob/signal"]


def test_member_answers_and_settles_on_its_own_bodies() -> None:
    member = Member("ann", LINK)
    signal = Signal[Secret](run="run-1", sender="c", round=1, body=BOTH["ann"])
    heard = LINK.read("stackelgrid/run-1/c/ann/signal", LINK.write(signal))
    assert member.receive(heard) == [QuestionReceived(1, BOTH["ann"])]
    settlement = Settlement[Secret](run="run-1", sender="c", round=1, settled=True, complete=True, body=BOTH["ann"])
    told = LINK.read("stackelgrid/run-1/c/ann/settlement", LINK.write(settlement))
    assert member.receive(told) == [SettlementReceived(1, True, True, BOTH["ann"])]


@pytest.mark.parametrize("topic", ["stackelgrid/run-1/c/signal", "stackelgrid/run-1/c/settlement"])
def test_addressed_link_refuses_signals_for_all(topic: str) -> None:
    signal = Signal[Secret](run="run-1", sender="c", round=1, body=BOTH["ann"])
    with pytest.raises(BadMessageError, match="foreign"):
        LINK.read(topic, LINK.write(signal))


def test_signal_is_foreign_when_its_sender_is_not_the_coordinator() -> None:
    forged = Signal[Secret](run="run-1", sender="bob", round=1, body=BOTH["ann"])
    with pytest.raises(BadMessageError, match="foreign"):
        LINK.read("stackelgrid/run-1/c/ann/signal", LINK.write(forged))


# --- whole runs: an aggregator that counts its homes up, one inner round at a time ---

UPPER = Bodies(Count, Count, Count)
LOWER = Bodies(Count, Count, Count, addressed=True)
SESSIONS = (Session(slots=1),)


class Leader:
    """Wants ten, then settles."""

    def open(self) -> Decision:
        return Decision(Count(number=10), Count(number=0))

    def decide(self, signal: Question, answers: Mapping[str, Body], held: Collection[str]) -> Decision:
        reached = sum(body.number for body in answers.values() if isinstance(body, Count))
        return Decision(Count(number=10), Count(number=reached), settle=True, residual=0.0, account={"sum": reached})


class Counter:
    """Asks each home for one more than it gave, until together they give what the leader wants."""

    def __init__(self) -> None:
        self.opened = 0

    def open(self, signal: Body) -> Ask:
        assert isinstance(signal, Count)
        self.wanted, self.opened = signal.number, self.opened + 1
        return Ask({"h1": Count(number=1), "h2": Count(number=2)})

    def on_answers(
        self, asked: Question, answers: Mapping[str, Body], held: Collection[str], excluded: Collection[str]
    ) -> Ask | Reply:
        given = {name: body.number for name, body in answers.items() if isinstance(body, Count)}
        self.given = given
        if sum(given.values()) >= self.wanted:
            return Reply(Count(number=sum(given.values())), {"given": given})
        return Ask({name: Count(number=number + 1) for name, number in given.items()}, {"given": given})

    def settle(self, settlement: Body) -> Ending:
        return Ending({name: Count(number=number) for name, number in self.given.items()}, {"final": self.given})


class LeaderTerms(LeaderSettings):
    def strategy(self, session: Session) -> Leader:
        return Leader()


class CounterTerms(AggregatorSettings):
    def strategy(self, session: Session, homes: Mapping[str, int]) -> Counter:
        return Counter()


class Obliging:
    quick = True

    def __init__(self, name: str) -> None:
        self.name = name

    def answer(self, signal: Body) -> Body:
        return signal

    def settle(self, settlement: Body) -> Mapping[str, Any]:
        assert isinstance(settlement, Count)
        return {self.name: {"number": settlement.number}}


def play(transport: MemoryTransport) -> dict[str, Any]:
    found: dict[str, Any] = {"rounds": [], "inner": [], "account": {}, "homes": {}, "conclusion": {}}
    up, down = Link("run-1", "leader", UPPER, 1), Link("run-1", "a1", LOWER, 1)
    patient = RoundPolicy(deadline_s=1.0, tries=50, missing="hold", gather_s=10.0)
    transport.run(
        [
            LeaderNode(
                "leader",
                up,
                [RegisteredMember(name="a1", homes=2)],
                patient,
                LeaderTerms(),
                SESSIONS,
                Timetable(SESSIONS),
                journal=lambda record: found["rounds"].append(dict(record)),
                conclude=found["conclusion"].update,
                ledger=[],
            ),
            AggregatorNode(
                "a1",
                up,
                down,
                [RegisteredMember(name="h1"), RegisteredMember(name="h2")],
                RoundPolicy(deadline_s=0.2, tries=20, missing="hold", gather_s=10.0),
                CounterTerms(),
                SESSIONS,
                journal=lambda record: found["inner"].append(dict(record)),
                conclude=found["account"].update,
                ledger=[],
            ),
            *(
                EmcNode(name, down, [], lambda *_, name=name: Obliging(name), SESSIONS, found["homes"].update)
                for name in ("h1", "h2")
            ),
        ]
    )
    return found


def test_aggregator_plays_as_many_inner_rounds_as_its_strategy_wants() -> None:
    found = play(MemoryTransport(1))
    assert [record["given"] for record in found["inner"]] == [
        {"h1": 1, "h2": 2},
        {"h1": 2, "h2": 3},
        {"h1": 3, "h2": 4},
        {"h1": 4, "h2": 5},
        {"h1": 5, "h2": 6},
    ]
    assert [(record["round"], record["inner"]) for record in found["inner"]] == [(1, n) for n in range(1, 6)]
    assert [record["sum"] for record in found["rounds"]] == [11]
    assert found["account"] == {"final": {"h1": 5, "h2": 6}}
    assert found["homes"] == {"h1": {"number": 5}, "h2": {"number": 6}}
    assert found["conclusion"]["settled"] and found["conclusion"]["complete"]


# --- the leader alone ---


class LeaderByHand:
    """A leader of a1 and a2 that would settle after any round, driven by hand; `sent` is what it has sent."""

    def __init__(self) -> None:
        self.link = Link("run-1", "leader", UPPER, 1)
        self.sent: list[Message] = []
        self.journal: list[Mapping[str, Any]] = []
        self.node = LeaderNode(
            "leader",
            self.link,
            [RegisteredMember(name="a1"), RegisteredMember(name="a2")],
            RoundPolicy(deadline_s=1.0, tries=1, missing="hold", gather_s=10.0),
            LeaderTerms(),
            SESSIONS,
            Timetable(SESSIONS),
            journal=self.journal.append,
            conclude=lambda record: None,
            ledger=[],
        )
        self.perform(self.node.start(0.0))
        for name in ("a1", "a2"):
            self.connect(name)

    def perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Publish) and action.payload:
                self.sent.append(self.link.read(action.topic, action.payload))
            if isinstance(action, Compute):
                self.perform(action.then(action.job(), 0.0))

    def receive(self, message: Message) -> None:
        self.perform(self.node.receive(self.link.topic(message), self.link.write(message), 0.0))

    def connect(self, name: str, state: Literal["online", "offline"] = "online") -> None:
        self.receive(Presence(run="run-1", sender=name, state=state))

    def answer(self, name: str, round_number: int) -> None:
        self.receive(Answer[Count](run="run-1", sender=name, round=round_number, body=Count(number=5)))

    @property
    def settlement(self) -> Settlement[Count] | None:
        found = [message for message in self.sent if isinstance(message, Settlement)]
        return found[0] if found else None


def test_leader_confirms_a_settlement_on_answers_that_are_not_all_fresh() -> None:
    leader = LeaderByHand()
    leader.connect("a2", "offline")
    leader.answer("a1", 1)
    assert len(leader.journal) == 1
    leader.connect("a2")
    assert leader.settlement is None
    leader.answer("a1", 2)
    leader.answer("a2", 2)
    assert leader.settlement is not None
    assert (leader.settlement.round, leader.settlement.complete) == (2, True)


def test_leader_says_that_its_settlement_is_not_confirmed_after_two_more_rounds() -> None:
    leader = LeaderByHand()
    leader.connect("a2", "offline")
    for number in (1, 2, 3):
        assert leader.settlement is None
        leader.answer("a1", number)
    assert leader.settlement is not None
    assert (leader.settlement.round, leader.settlement.settled, leader.settlement.complete) == (3, True, False)


# --- whole runs with losses ---


class Lossy(MemoryTransport):
    """Loses two of five messages that are sent without guarantee."""

    def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
        once = super().delays(sender, receiver, publish, now)
        lost = publish.qos == 0 and self._stream(sender, receiver).random() < 0.4
        return [] if lost else once


@pytest.mark.parametrize("seed", range(20))
def test_inner_rounds_end_the_same_when_messages_are_lost(seed: int) -> None:
    found = play(Lossy(seed))
    assert found["homes"] == {"h1": {"number": 5}, "h2": {"number": 6}}


class Wiretap(MemoryTransport):
    """Who was told what."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.told: dict[str, set[str]] = {}

    def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
        self.told.setdefault(receiver, set()).add(publish.topic)
        return super().delays(sender, receiver, publish, now)


def test_home_receives_no_message_of_another_home() -> None:
    tap = Wiretap(1)
    play(tap)
    assert tap.told["h1"] == {"stackelgrid/run-1/a1/h1/signal", "stackelgrid/run-1/a1/h1/settlement"}
    assert tap.told["h2"] == {"stackelgrid/run-1/a1/h2/signal", "stackelgrid/run-1/a1/h2/settlement"}
