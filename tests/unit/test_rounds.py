"""The round protocol as pure state machines: no network, no clock but the numbers handed in."""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackelgrid.rounds import (
    Coordinator,
    Member,
    MembersGathered,
    MembersLost,
    Offence,
    QuestionReceived,
    RefusalReceived,
    Round,
    RoundPolicy,
    SettlementAcknowledged,
    SettlementReceived,
)
from stackelgrid.rounds.ledger import dump_round, load_round
from stackelgrid.transport.base import FetchRetained, Publish
from stackelgrid.wire.codec import Bodies, Link
from stackelgrid.wire.messages import Answer, Body, Message, Presence, Receipt, Refusal, Settlement, Signal


class Question(Body):
    text: str


class Reply(Body):
    text: str


LINK = Link("run-1", "c", Bodies(Question, Reply, Question), slots=1)
POLICY = RoundPolicy(deadline_s=5.0, tries=3, missing="hold", gather_s=60.0)


def says(member: str, round_number: int, text: str = "yes") -> Answer[Reply]:
    return Answer[Reply](run="run-1", sender=member, round=round_number, body=Reply(text=text))


def is_(member: str, state: Literal["online", "offline", "gathering"]) -> Presence:
    return Presence(run="run-1", sender=member, state=state)


def has_it(member: str, round_number: int, *missing: str) -> Receipt:
    return Receipt(run="run-1", sender=member, round=round_number, missing=list(missing))


def asks(round_number: int, text: str = "?", again: Iterable[str] = ()) -> Signal[Question]:
    return Signal[Question](run="run-1", sender="c", round=round_number, again=list(again), body=Question(text=text))


def settles(round_number: int, text: str = "!") -> Settlement[Question]:
    return Settlement[Question](
        run="run-1", sender="c", round=round_number, settled=True, complete=True, body=Question(text=text)
    )


def refuses(round_number: int, reason: str, *, final: bool = False) -> Refusal:
    return Refusal(run="run-1", sender="c", round=round_number, reason=reason, final=final)


def sent(steps: Iterable[object]) -> list[Message]:
    """The messages that the steps publish, read back from their bytes."""
    return [LINK.read(step.topic, step.payload) for step in steps if isinstance(step, Publish)]


def one(steps: Iterable[object], kind: type) -> object:
    (step,) = [step for step in steps if isinstance(step, kind)]
    return step


def gathered(*members: str, policy: RoundPolicy = POLICY) -> Coordinator:
    coordinator = Coordinator(LINK, members, policy)
    coordinator.start(0.0)
    for member in members:
        coordinator.receive(is_(member, "online"), 0.0)
    return coordinator


def asking(*members: str, policy: RoundPolicy = POLICY) -> Coordinator:
    """A coordinator that has asked round 1 at time 0."""
    coordinator = gathered(*members, policy=policy)
    coordinator.ask(Question(text="?"), 0.0)
    return coordinator


def give_up(coordinator: Coordinator) -> list[object]:
    """Let every deadline pass until something else than asking again comes of it."""
    for _ in range(100):
        deadline = coordinator.next_deadline()
        assert deadline is not None
        steps = list(coordinator.tick(deadline))
        if steps and not isinstance(steps[0], Publish):
            return steps
    raise AssertionError("the coordinator asks on for ever")


def close_with(coordinator: Coordinator, answer: Answer[Reply], now: float) -> Round:
    """Take the last answer that will come, and let the round end without the others."""
    steps = coordinator.receive(answer, now) or give_up(coordinator)
    finished = one(steps, Round)
    assert isinstance(finished, Round)
    return finished


def finish(coordinator: Coordinator, round_number: int, *members: str) -> Round:
    for member in members:
        steps = coordinator.receive(says(member, round_number, f"{member}{round_number}"), 0.5)
    finished = one(steps, Round)
    assert isinstance(finished, Round)
    return finished


# --- gathering ---


def test_coordinator_gathers_until_every_member_is_online() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY)
    assert coordinator.start(10.0) == []
    assert coordinator.next_deadline() == 15.0
    assert coordinator.tick(15.0) == [FetchRetained()]  # a presence may have been lost: what is retained says it again
    assert coordinator.next_deadline() == 20.0
    assert coordinator.receive(is_("b", "online"), 11.0) == []
    assert coordinator.receive(is_("b", "online"), 12.0) == []
    assert coordinator.receive(is_("a", "online"), 13.0) == [MembersGathered(absent=())]
    assert coordinator.next_deadline() is None


def test_coordinator_gathers_no_longer_than_gather_s() -> None:
    coordinator = Coordinator(LINK, ["a", "b", "c"], POLICY)
    coordinator.start(0.0)
    coordinator.receive(is_("b", "online"), 1.0)
    coordinator.receive(is_("c", "online"), 1.0)
    coordinator.receive(is_("c", "offline"), 2.0)
    assert coordinator.tick(60.9) == [FetchRetained()]
    (gathered,) = coordinator.tick(61.0)
    assert gathered == MembersGathered(absent=("a", "c"))
    assert isinstance(gathered, MembersGathered)
    assert gathered.describe("homes") == "1 of 3 homes had come after 61 s; raise rounds.gather_s"
    assert coordinator.tick(62.0) == []


def test_gathering_goes_on_while_members_come_but_not_for_ever() -> None:
    coordinator = Coordinator(LINK, [f"m{number}" for number in range(100)], POLICY)
    coordinator.start(0.0)
    for number in range(50):
        at = 50.0 * number
        if at >= 600:
            break
        assert coordinator.receive(is_(f"m{number}", "online"), at) == []
        assert coordinator.tick(at) in ([], [FetchRetained()])
    assert coordinator.tick(599.9) in ([], [FetchRetained()])
    (gathered,) = coordinator.tick(600.0)
    assert isinstance(gathered, MembersGathered) and gathered.came == 12


def test_member_that_comes_and_leaves_again_and_again_does_not_prolong_the_gathering() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY)
    coordinator.start(0.0)
    for second in range(1, 61):
        coordinator.receive(is_("a", "offline" if second % 2 else "online"), second)
        coordinator.receive(is_("a", "gathering"), second)  # a home has nobody to gather
    assert coordinator.tick(61.0) == [MembersGathered(absent=("b",))]


def test_leader_waits_for_an_aggregator_that_gathers_its_homes() -> None:
    coordinator = Coordinator(LINK, ["a", "b", "c"], POLICY, members_gather=True)
    coordinator.start(0.0)
    coordinator.receive(is_("a", "gathering"), 1.0)
    coordinator.receive(is_("b", "online"), 1.0)
    assert coordinator.tick(500.0) == [FetchRetained()]
    assert coordinator.receive(is_("a", "online"), 550.0) == []
    assert coordinator.tick(599.0) == [FetchRetained()]
    assert coordinator.tick(600.0) == [MembersGathered(absent=("c",))]

    coordinator = Coordinator(LINK, ["a", "b"], POLICY, members_gather=True)
    coordinator.start(0.0)
    coordinator.receive(is_("b", "online"), 1.0)
    coordinator.receive(is_("a", "gathering"), 1.0)
    assert coordinator.receive(is_("a", "offline"), 2.0) == [MembersGathered(absent=("a",))]


def test_gathering_does_not_wait_for_a_member_that_has_left() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY)
    coordinator.start(0.0)
    assert coordinator.receive(is_("b", "offline"), 1.0) == []
    assert coordinator.receive(is_("a", "online"), 2.0) == [MembersGathered(absent=("b",))]

    coordinator = Coordinator(LINK, ["a", "b"], POLICY)
    coordinator.start(0.0)
    coordinator.receive(is_("b", "offline"), 1.0)
    coordinator.receive(is_("b", "online"), 2.0)
    assert coordinator.receive(is_("a", "online"), 3.0) == [MembersGathered(absent=())]


def test_gathering_does_not_wait_for_a_member_that_clears_its_presence() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY, members_gather=True)
    coordinator.start(0.0)
    coordinator.receive(is_("a", "gathering"), 1.0)
    coordinator.receive(is_("b", "online"), 1.0)
    for other in (LINK.topic(is_("x", "online")), LINK.topic(has_it("a", 1)), LINK.topic(is_("b", "online"))[:-1]):
        assert coordinator.note_cleared(other, 2.0) == []
    assert coordinator.note_cleared(LINK.topic(is_("a", "online")), 3.0) == [MembersGathered(absent=("a",))]


def test_round_does_not_wait_for_a_member_that_clears_its_presence() -> None:
    coordinator = asking("a", "b")
    assert coordinator.note_cleared(LINK.topic(is_("b", "online")), 1.0) == []
    finished = one(coordinator.receive(says("a", 1), 2.0), Round)
    assert isinstance(finished, Round)
    assert finished.why == {"b": "has left"}


def test_gathering_wait_does_not_begin_again_after_a_reconnect() -> None:
    coordinator = Coordinator(LINK, ["a"], POLICY)
    coordinator.start(0.0)
    assert coordinator.start(58.0) == []
    assert coordinator.tick(58.0) == [FetchRetained()]
    assert coordinator.next_deadline() == 60.0


# --- a round ---


def test_round_closes_with_the_last_answer() -> None:
    coordinator = gathered("a", "b", "c")
    (signal,) = steps = coordinator.ask(Question(text="how much?"), 100.0)
    assert sent(steps) == [asks(1, "how much?")]
    assert isinstance(signal, Publish)
    assert signal.retain
    assert signal.topic == "stackelgrid/run-1/c/signal"
    assert coordinator.next_deadline() == 105.0

    assert coordinator.receive(says("c", 1, "3"), 101.0) == []
    assert coordinator.receive(says("a", 1, "1"), 102.0) == []
    assert coordinator.receive(says("b", 1, "2"), 103.0) == [
        Round(
            number=1,
            body=Question(text="how much?"),
            answers={"a": Reply(text="1"), "b": Reply(text="2"), "c": Reply(text="3")},
            held=(),
            excluded=(),
            again=0,
            opened_at=100.0,
            closed_at=103.0,
        )
    ]
    assert coordinator.next_deadline() is None
    assert (coordinator.stale, coordinator.repeated) == (0, 0)


class Several(Body):
    texts: list[str]

    @property
    def questions(self) -> list[bytes]:
        return [text.encode() for text in self.texts]


def test_round_counts_the_questions_that_a_member_was_asked() -> None:
    def count(body: Body | dict[str, Body]) -> int:
        return Round(1, body, {}, (), (), 0, 0.0, 1.0).questions

    assert count(Question(text="?")) == 1
    assert count(Several(texts=["?", "??"])) == 2
    assert count({"a": Several(texts=["?", "??"]), "b": Several(texts=["?", "??", "???"])}) == 3


def test_round_has_answers_in_the_order_of_the_members() -> None:
    coordinator = asking("a", "b", "c")
    finished = finish(coordinator, 1, "c", "b", "a")
    assert list(finished.answers) == ["a", "b", "c"]
    assert finished.complete


def test_second_answer_of_a_member_is_ignored() -> None:
    coordinator = asking("a", "b")
    coordinator.receive(says("a", 1, "first"), 1.0)
    assert coordinator.receive(says("a", 1, "second"), 2.0) == []
    assert coordinator.repeated == 1
    finished = one(coordinator.receive(says("b", 1), 3.0), Round)
    assert isinstance(finished, Round)
    assert finished.answers["a"] == Reply(text="first")


@pytest.mark.parametrize("number", [1, 3])
def test_answer_to_another_round_is_stale(number: int) -> None:
    coordinator = asking("a", "b")
    finish(coordinator, 1, "a", "b")
    coordinator.ask(Question(text="?"), 1.0)
    assert coordinator.receive(says("a", number, "of another round"), 2.0) == []
    assert coordinator.stale == 1
    assert finish(coordinator, 2, "a", "b").answers["a"] == Reply(text="a2")


def test_answer_without_a_question_is_stale() -> None:
    coordinator = gathered("a")
    assert coordinator.receive(says("a", 1), 1.0) == []
    assert coordinator.stale == 1


def test_message_of_a_node_that_is_no_member_is_ignored() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY)
    coordinator.start(0.0)
    coordinator.receive(is_("a", "online"), 0.0)
    assert coordinator.receive(is_("stranger", "online"), 0.0) == []
    coordinator.receive(is_("b", "online"), 0.0)
    coordinator.ask(Question(text="?"), 0.0)
    coordinator.receive(says("a", 1), 1.0)
    assert coordinator.receive(says("stranger", 1), 1.0) == []
    assert coordinator.stale == 2
    assert set(finish(coordinator, 1, "b").answers) == {"a", "b"}


def refuses_empty(member: str, question: Body, body: Body) -> str | None:
    return "too short" if body == Reply(text="") else None


def test_refused_answer_is_ignored() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY, refuses_empty)
    coordinator.receive(is_("a", "online"), 0.0)
    coordinator.ask(Question(text="?"), 0.0)
    coordinator.receive(says("b", 1), 0.0)
    assert sent(coordinator.receive(says("a", 1, ""), 1.0)) == [refuses(1, "too short")]
    assert coordinator.refused == {"a": 1}
    assert sent(coordinator.tick(5.0)) == [asks(1, again=["a"])]
    assert finish(coordinator, 1, "a").answers["a"] == Reply(text="a1")


# --- deadlines ---


def test_member_is_quarantined_after_too_many_refused_answers() -> None:
    policy = replace(POLICY, quarantine_after=2)
    coordinator = Coordinator(LINK, ["a", "b"], policy, refuses_empty)
    coordinator.start(0.0)
    for member in ("a", "b"):
        coordinator.receive(is_(member, "online"), 0.0)
    coordinator.ask(Question(text="?"), 0.0)
    coordinator.receive(says("b", 1), 1.0)
    assert sent(coordinator.receive(says("a", 1, ""), 1.0)) == [refuses(1, "too short")]
    finished = one(coordinator.receive(says("a", 1, ""), 2.0), Round)
    assert isinstance(finished, Round)
    assert finished.excluded == ("a",) and finished.quarantined == finished.why == {"a": "too short"}
    assert coordinator.quarantined == {"a": "too short"}
    coordinator.ask(Question(text="?"), 3.0)
    told = coordinator.receive(says("a", 2, "true now"), 3.0)  # nobody listens any more
    assert sent(told) == [refuses(2, "too short", final=True)]
    assert coordinator.receive(says("a", 2, "true now"), 3.0) == []
    assert coordinator.receive(is_("a", "online"), 3.0) == []
    again = one(coordinator.receive(says("b", 2), 3.1), Round)
    assert isinstance(again, Round) and again.quarantined == {"a": "too short"}
    coordinator.settle(Question(text="!"), settled=True, complete=False, now=4.0)
    assert coordinator.receive(has_it("b", 2), 4.1) == [SettlementAcknowledged(missing=("a",))]


def quarantined_after_an_answer() -> tuple[Coordinator, Round]:
    """A coordinator of a and b that believed a in round 1 and put it in quarantine in round 2; and that round."""
    policy = replace(POLICY, quarantine_after=2)
    coordinator = Coordinator(LINK, ["a", "b"], policy, refuses_empty)
    for member in ("a", "b"):
        coordinator.receive(is_(member, "online"), 0.0)
    coordinator.ask(Question(text="?"), 0.0)
    finish(coordinator, 1, "a", "b")
    coordinator.ask(Question(text="??"), 1.0)
    for _ in range(2):
        coordinator.receive(says("a", 2, ""), 1.1)
    return coordinator, finish(coordinator, 2, "b")


def test_last_answer_of_a_quarantined_member_is_not_held() -> None:
    _, finished = quarantined_after_an_answer()
    assert finished.answers == {"b": Reply(text="b2")}
    assert (finished.held, finished.excluded) == ((), ("a",))


def test_answer_of_this_round_does_not_count_once_its_sender_is_in_quarantine() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], replace(POLICY, quarantine_after=1), refuses_empty)
    coordinator.ask(Question(text="?"), 0.0)
    close_with(coordinator, says("b", 1), 0.1)
    coordinator.ask(Question(text="??"), 20.0)
    assert coordinator.receive(says("a", 2), 20.1) == []
    coordinator.receive(says("a", 1, ""), 20.1)  # too late, and refused
    finished = close_with(coordinator, says("b", 2), 20.1)
    assert finished.answers.keys() == {"b"} and finished.excluded == ("a",)
    coordinator.ask(Question(text="???"), 40.0)
    assert close_with(coordinator, says("b", 3), 40.1).excluded == ("a",)


def test_restarted_coordinator_holds_whoever_has_ever_answered() -> None:
    before = asking("a", "b")
    coordinator = Coordinator(LINK, ["a", "b"], POLICY)
    coordinator.resume(finish(before, 1, "a", "b"))
    before.ask(Question(text="??"), 1.0)
    coordinator.resume(close_with(before, says("b", 2, "b2"), 1.1))  # in which a was held
    coordinator.ask(Question(text="???"), 100.0)
    finished = close_with(coordinator, says("b", 3, "b3"), 100.1)
    assert finished.answers == {"a": Reply(text="a1"), "b": Reply(text="b3")}
    assert finished.held == ("a",)


def test_restarted_coordinator_remembers_who_is_in_quarantine() -> None:
    _, finished = quarantined_after_an_answer()
    entry = json.loads(json.dumps(dump_round(finished)))
    coordinator = Coordinator(LINK, ["a", "b"], replace(POLICY, quarantine_after=2), refuses_empty)
    coordinator.resume(Round(1, Question(text="?"), {"a": Reply(text="a1")}, (), ("b",), 0, 0.0, 0.0))
    coordinator.resume(load_round(entry, LINK.bodies))
    coordinator.ask(Question(text="?"), 0.0)
    coordinator.receive(says("a", 3), 0.1)
    assert close_with(coordinator, says("b", 3), 0.1).quarantined == {"a": "too short"}


def test_restarted_coordinator_gathers_without_those_in_quarantine() -> None:
    _, finished = quarantined_after_an_answer()
    coordinator = Coordinator(LINK, ["a", "b"], replace(POLICY, quarantine_after=2), refuses_empty)
    coordinator.resume(finished)
    coordinator.start(0.0)
    assert coordinator.receive(is_("a", "online"), 0.1) == []
    assert coordinator.receive(is_("b", "online"), 0.2) == [MembersGathered(absent=())]


def test_gathering_ends_with_the_quarantine_of_the_member_that_it_waits_for() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], replace(POLICY, quarantine_after=1), refuses_empty)
    coordinator.resume(Round(1, Question(text="?"), {"b": Reply(text="b1")}, (), ("a",), 0, 0.0, 0.0))
    coordinator.start(0.0)
    coordinator.receive(is_("b", "online"), 0.1)
    assert coordinator.receive(says("a", 1, ""), 0.2)[1:] == [MembersGathered(absent=())]


@pytest.mark.parametrize("offence", ["malformed", "late", "silent"])
@pytest.mark.parametrize("counts", [True, False])
def test_policy_says_which_offences_lead_to_quarantine(offence: Offence, counts: bool) -> None:
    policy = replace(POLICY, quarantine_after=2, quarantine_for=("refused", offence) if counts else ("refused",))
    coordinator = Coordinator(LINK, ["a", "b"], policy)
    reasons = {"malformed": "cannot be read: no JSON", "late": "too late, this one to round 2", "silent": "round 2"}
    for number in (1, 2, 3):
        coordinator.ask(Question(text=f"{number}"), 10.0 * number)
        if offence == "malformed" and number < 3:
            coordinator.note_unreadable("stackelgrid/run-1/c/a/answer", "no JSON", 10.0 * number)
        finished = close_with(coordinator, says("b", number), 10.0 * number)
        if offence == "late" and number < 3:
            coordinator.receive(says("a", number), 10.0 * number + 9)
    assert coordinator.quarantined.keys() == ({"a"} if counts else set())
    assert finished.quarantined.keys() == coordinator.quarantined.keys()
    assert all(reasons[offence] in reason for reason in coordinator.quarantined.values())


def test_payload_that_is_no_answer_of_a_member_is_nobodys_offence() -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, quarantine_after=1, quarantine_for=("malformed",)))
    for topic in ("run-1/c/a/presence", "run-1/c/stranger/answer", "run-1/d/a/answer", "run-1/c/a/b/answer"):
        assert coordinator.note_unreadable(f"stackelgrid/{topic}", "no JSON", 1.0) == []
    assert coordinator.quarantined == {}


def test_round_says_why_a_member_did_not_answer() -> None:
    coordinator = Coordinator(LINK, [*"abcdef"], POLICY, refuses_empty)
    for member in "abcde":
        coordinator.receive(is_(member, "online"), 0.0)
    coordinator.ask(Question(text="?"), 0.0)
    coordinator.receive(says("b", 1, ""), 0.1)
    coordinator.note_unreadable("stackelgrid/run-1/c/c/answer", "no JSON", 0.1)
    coordinator.receive(is_("d", "offline"), 0.1)
    finished = close_with(coordinator, says("a", 1), 0.1)
    assert finished.why == {
        "b": "too short",
        "c": "the answer cannot be read: no JSON",
        "d": "has left",
        "e": "no answer within 3 tries",
        "f": "had not come after 0 s; raise rounds.gather_s",
    }
    assert finished.account["why"] == finished.why


def test_member_hears_that_it_is_refused() -> None:
    member = Member("a", LINK)
    assert member.receive(refuses(3, "too short", final=True)) == [RefusalReceived(3, "too short", True)]


def test_accepted_answer_does_not_reset_the_count_of_refused_ones() -> None:
    policy = replace(POLICY, quarantine_after=2)
    coordinator = Coordinator(LINK, ["a"], policy, refuses_empty)
    coordinator.start(0.0)
    for number in (1, 2):
        coordinator.ask(Question(text="?"), 0.0)
        coordinator.receive(says("a", number, ""), 1.0)
        coordinator.receive(says("a", number), 1.0)
    assert set(coordinator.quarantined) == {"a"}


def test_missing_members_are_asked_again_after_the_deadline_up_to_tries() -> None:
    coordinator = asking("a", "b", "c")
    coordinator.receive(says("b", 1), 1.0)
    assert coordinator.tick(4.9) == []
    assert sent(coordinator.tick(5.0)) == [asks(1, again=["a", "c"])]
    assert coordinator.next_deadline() == 10.0
    coordinator.receive(says("c", 1), 6.0)
    assert sent(coordinator.tick(10.0)) == [asks(1, again=["a"])]
    (finished,) = coordinator.tick(15.0)
    assert isinstance(finished, Round)
    assert (finished.again, finished.closed_at) == (3, 15.0)
    assert coordinator.tick(20.0) == []


@pytest.mark.parametrize(("missing", "held", "excluded"), [("hold", ("b",), ()), ("exclude", (), ("b",))])
def test_policy_decides_about_missing_members(
    missing: Literal["hold", "exclude"], held: tuple[str, ...], excluded: tuple[str, ...]
) -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, missing=missing))
    finish(coordinator, 1, "a", "b")
    coordinator.ask(Question(text="?"), 1.0)
    coordinator.receive(says("a", 2, "a2"), 2.0)
    (finished,) = give_up(coordinator)
    assert isinstance(finished, Round)
    assert (finished.held, finished.excluded) == (held, excluded)
    assert finished.answers == {"a": Reply(text="a2")} | ({"b": Reply(text="b1")} if held else {})
    assert not finished.complete


def test_member_that_never_answered_is_excluded_instead_of_held() -> None:
    coordinator = asking("a", "b")
    coordinator.receive(says("a", 1), 1.0)
    (finished,) = give_up(coordinator)
    assert isinstance(finished, Round)
    assert (finished.held, finished.excluded) == ((), ("b",))
    assert set(finished.answers) == {"a"}


def test_held_answer_is_the_latest_of_the_member() -> None:
    coordinator = asking("a", "b")
    finish(coordinator, 1, "a", "b")
    coordinator.ask(Question(text="?"), 0.0)
    finish(coordinator, 2, "a", "b")
    for number in (3, 4):
        coordinator.ask(Question(text="?"), 0.0)
        finished = close_with(coordinator, says("a", number), 0.0)
        assert finished.answers["b"] == Reply(text="b2")
        assert finished.held == ("b",)


def test_members_are_lost_when_the_policy_is_fail() -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, missing="fail"))
    coordinator.receive(says("a", 1), 1.0)
    assert give_up(coordinator) == [MembersLost(members=("b",), round=1)]
    assert coordinator.next_deadline() is None
    assert coordinator.receive(says("b", 1), 30.0) == []


@pytest.mark.parametrize("missing", ["hold", "exclude", "fail"])
def test_members_are_lost_when_nobody_ever_answered(missing: Literal["hold", "exclude", "fail"]) -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, missing=missing))
    assert give_up(coordinator) == [MembersLost(members=("a", "b"), round=1)]


def test_every_member_is_held_when_nobody_answers_any_more() -> None:
    coordinator = asking("a", "b")
    finish(coordinator, 1, "a", "b")
    coordinator.ask(Question(text="?"), 0.0)
    (finished,) = give_up(coordinator)
    assert isinstance(finished, Round)
    assert finished.held == ("a", "b")
    assert finished.answers == {"a": Reply(text="a1"), "b": Reply(text="b1")}


def test_only_member_that_missed_a_round_gets_one_try_until_it_answers_again() -> None:
    coordinator = asking("a")
    finish(coordinator, 1, "a")
    coordinator.ask(Question(text="?"), 100.0)
    (finished,) = give_up(coordinator)
    assert isinstance(finished, Round) and finished.closed_at == 115.0
    coordinator.ask(Question(text="?"), 200.0)
    (finished,) = give_up(coordinator)
    assert isinstance(finished, Round) and finished.closed_at == 205.0

    coordinator.ask(Question(text="?"), 300.0)
    finish(coordinator, 4, "a")
    coordinator.ask(Question(text="?"), 400.0)
    (finished,) = give_up(coordinator)
    assert isinstance(finished, Round) and finished.closed_at == 415.0


def test_late_answer_to_a_closed_round_is_held_later() -> None:
    coordinator = asking("a", "b")
    finish(coordinator, 1, "a", "b")
    coordinator.ask(Question(text="?"), 0.0)
    close_with(coordinator, says("a", 2), 0.1)
    assert coordinator.receive(says("b", 2, "late"), 50.0) == []
    coordinator.ask(Question(text="?"), 60.0)
    assert coordinator.receive(says("b", 1, "older"), 60.0) == []
    assert coordinator.receive(says("b", 2, "twice"), 60.0) == []
    assert coordinator.stale == 2
    finished = close_with(coordinator, says("a", 3), 60.1)
    assert finished.answers["b"] == Reply(text="late")
    assert finished.held == ("b",)


def test_late_answer_is_checked_before_it_is_held() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY, refuses_empty)
    for number in (1, 2):
        coordinator.ask(Question(text="?"), 0.0)
        close_with(coordinator, says("a", number), 0.1)
        assert len(coordinator.receive(says("b", number, ""), 50.0)) == 1
    assert coordinator.refused == {"b": 2}
    coordinator.ask(Question(text="?"), 60.0)
    assert close_with(coordinator, says("a", 3), 60.1).excluded == ("b",)


# --- patience ---


def run_with_late_member(answers_after: Callable[[int], float | None], rounds: int, policy: RoundPolicy) -> float:
    """Play rounds with two prompt members and one that answers so long after the question; give the seconds it took."""
    coordinator = gathered("a", "b", "late", policy=policy)
    now = 0.0
    for number in range(1, rounds + 1):
        coordinator.ask(Question(text=f"{number // 2}"), now)  # every second round confirms the one before
        coordinator.receive(says("a", number), now + 0.1)
        steps = list(coordinator.receive(says("b", number), now + 0.2))
        after = answers_after(number)
        at = math.inf if after is None else now + after
        while not any(isinstance(step, Round) for step in steps):
            deadline = coordinator.next_deadline()
            assert deadline is not None
            now = min(max(deadline, now), at)
            if now == at:
                steps, at = coordinator.receive(says("late", number), now), math.inf
            else:
                steps = coordinator.tick(now)
        (finished,) = [step for step in steps if isinstance(step, Round)]
        now = finished.closed_at
    return now


LATE: dict[str, Callable[[int], float | None]] = {
    "always at the last moment": lambda number: 14.999,
    "a little each time": lambda number: 0.9,
    "silent": lambda number: None,
    "prompt and late in turn": lambda number: 0.1 if number % 2 else 9.0,
    "prompt for long, then late": lambda number: 0.1 if number % 5 else 14.0,
    "late when it confirms": lambda number: 4.9 if number % 2 else 0.3,
    "just before it would be given up": lambda number: 0.39,
}


@pytest.mark.parametrize("answers_after", LATE.values(), ids=LATE)
@pytest.mark.parametrize("return_s", [0.0, 40.0])
def test_no_pattern_of_late_answers_costs_a_run_more_than_its_patience(
    answers_after: Callable[[int], float | None], return_s: float
) -> None:
    policy = replace(POLICY, return_s=return_s)
    clean = run_with_late_member(lambda number: 0.15, 60, policy)
    assert run_with_late_member(answers_after, 60, policy) <= 2 * clean + policy.patience_s + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.floats(0, 16), min_size=30, max_size=30), st.integers(0, 3))
def test_random_delays_cost_a_run_no_more_than_its_patience(delays: list[float | None], prompt: int) -> None:
    def answers_after(number: int) -> float | None:
        return 0.1 if number % 4 < prompt else delays[number - 1]

    clean = run_with_late_member(lambda number: 0.15, 30, POLICY)
    assert run_with_late_member(answers_after, 30, POLICY) <= 2 * clean + POLICY.patience_s + 1e-9


def late_member() -> Coordinator:
    """A coordinator of a, b and c, of which c was silent in round 1 and has no patience left."""
    coordinator = asking("a", "b", "c")
    coordinator.receive(says("a", 1), 0.1)
    close_with(coordinator, says("b", 1), 0.1)
    return coordinator


def test_round_does_not_wait_for_a_late_member_longer_than_the_others_took_twice() -> None:
    coordinator = late_member()
    coordinator.ask(Question(text="another"), 100.0)
    coordinator.receive(says("a", 2), 101.0)
    coordinator.receive(says("b", 2), 101.5)
    assert coordinator.tick(101.9) == []
    (finished,) = coordinator.tick(102.0)
    assert isinstance(finished, Round) and finished.excluded == ("c",)


def test_round_that_confirms_waits_for_a_late_member_that_has_patience_left() -> None:
    coordinator = gathered("a", "b", "c")
    for number in (1, 2, 3):  # c takes 4 s longer in each, so that 2.7 s of its patience are left
        coordinator.ask(Question(text=f"{number}"), 10.0 * number)
        coordinator.receive(says("a", number), 10.0 * number)
        coordinator.receive(says("b", number), 10.0 * number)
        coordinator.receive(says("c", number), 10.0 * number + 4)
    coordinator.ask(Question(text="4"), 40.0)
    coordinator.receive(says("a", 4), 40.0)
    assert close_with(coordinator, says("b", 4), 40.0).held == ("c",)
    coordinator.ask(Question(text="4"), 50.0)
    coordinator.receive(says("a", 5), 50.0)
    assert coordinator.receive(says("b", 5), 50.0) == []
    assert finish(coordinator, 5, "c").complete


def test_answers_to_a_question_that_is_dropped_are_held_and_the_missing_are_charged() -> None:
    coordinator = gathered("a", "b", "c")
    coordinator.ask(Question(text="?"), 0.0)
    coordinator.receive(says("a", 1, "a1"), 0.0)
    coordinator.receive(says("b", 1, "b1"), 0.0)
    coordinator.abandon(12.0)
    coordinator.ask(Question(text="??"), 12.0)
    coordinator.receive(says("b", 2, "b2"), 12.0)
    assert coordinator.receive(is_("a", "offline"), 12.1) != []  # c is late
    coordinator = gathered("a", "b")
    coordinator.ask(Question(text="?"), 0.0)
    coordinator.receive(says("a", 1, "a1"), 0.0)
    coordinator.abandon(0.1)
    coordinator.ask(Question(text="??"), 0.1)
    coordinator.receive(is_("a", "offline"), 0.2)
    assert close_with(coordinator, says("b", 2), 0.2).held == ("a",)


def test_late_member_is_in_again_after_three_prompt_rounds() -> None:
    coordinator = late_member()
    for number in range(2, 7):
        coordinator.ask(Question(text=f"{number}"), 10.0 * number)
        coordinator.receive(says("c", number, f"c{number}"), 10.0 * number)
        coordinator.receive(says("a", number), 10.0 * number)
        finished = close_with(coordinator, says("b", number), 10.0 * number)
        assert finished.closed_at == 10.0 * number
        assert finished.answers["c"] == Reply(text=f"c{number}")
        assert finished.held == (("c",) if number < 5 else ())


def test_quick_answers_make_quick_questions() -> None:
    coordinator = asking("a", "b", "c", "d")
    coordinator.receive(says("a", 1), 0.1)
    assert coordinator.next_deadline() == 5.0
    coordinator.receive(says("b", 1), 0.2)
    assert coordinator.next_deadline() == pytest.approx(0.4)
    assert sent(coordinator.tick(0.4)) == [asks(1, again=["c", "d"])]
    coordinator.receive(says("c", 1), 0.5)
    assert coordinator.next_deadline() == pytest.approx(0.4 + 1.5 * 0.2)
    assert sent(coordinator.tick(0.71)) == [asks(1, again=["d"])]
    finish(coordinator, 1, "d")
    coordinator.ask(Question(text="?"), 10.0)
    assert coordinator.next_deadline() == pytest.approx(10.4)  # nobody has answered yet, but half did within 0.2 s


def test_settlement_does_not_wait_for_a_receipt_longer_than_patience_lasts() -> None:
    coordinator = settling("a", "b", "c")
    coordinator.receive(has_it("a", 1), 10.1)
    coordinator.receive(has_it("b", 1), 10.1)
    while True:
        deadline = coordinator.next_deadline()
        assert deadline is not None
        steps = coordinator.tick(deadline)
        if SettlementAcknowledged(missing=("c",)) in steps:
            break
    assert deadline == pytest.approx(10.2 + POLICY.patience_s)


# --- presence ---


def test_round_does_not_wait_for_a_member_that_has_left() -> None:
    coordinator = asking("a", "b", "c")
    coordinator.receive(says("a", 1), 1.0)
    assert coordinator.receive(is_("b", "offline"), 2.0) == []
    (finished,) = coordinator.receive(says("c", 1), 3.0)
    assert isinstance(finished, Round)
    assert (finished.excluded, finished.closed_at) == (("b",), 3.0)


def test_round_closes_when_the_last_missing_member_leaves() -> None:
    coordinator = asking("a", "b")
    coordinator.receive(says("a", 1), 1.0)
    (finished,) = coordinator.receive(is_("b", "offline"), 2.0)
    assert isinstance(finished, Round)
    assert finished.excluded == ("b",)


def test_answer_counts_when_the_member_leaves_afterwards() -> None:
    coordinator = asking("a", "b")
    coordinator.receive(says("a", 1, "a1"), 1.0)
    assert coordinator.receive(is_("a", "offline"), 2.0) == []
    assert finish(coordinator, 1, "b").complete


def test_round_waits_for_a_member_that_has_left_when_the_policy_is_fail() -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, missing="fail"))
    coordinator.receive(says("a", 1), 1.0)
    assert coordinator.receive(is_("b", "offline"), 2.0) == []
    assert coordinator.tick(4.9) == []
    assert finish(coordinator, 1, "b").complete


def test_round_waits_for_absent_members_until_someone_has_answered() -> None:
    coordinator = asking("a", "b")
    assert coordinator.receive(is_("a", "offline"), 1.0) == []
    assert coordinator.receive(is_("b", "offline"), 1.0) == []
    assert coordinator.next_deadline() == 5.0


def test_returning_member_is_asked_again_unless_it_has_answered() -> None:
    coordinator = asking("a", "b")
    coordinator.receive(says("a", 1), 1.0)
    for member in ("a", "b"):
        assert coordinator.receive(is_(member, "online"), 1.0) == []  # it was never away
    coordinator = asking("a", "b", policy=replace(POLICY, missing="fail"))
    coordinator.receive(says("a", 1), 1.0)
    for member in ("a", "b"):
        coordinator.receive(is_(member, "offline"), 2.0)
    assert coordinator.receive(is_("a", "online"), 3.0) == []
    assert sent(coordinator.receive(is_("b", "online"), 3.0)) == [asks(1, again=["b"])]


def test_round_waits_for_a_member_that_has_returned() -> None:
    coordinator = asking("a", "b")
    coordinator.receive(is_("b", "offline"), 1.0)
    coordinator.receive(says("a", 1), 1.0)
    coordinator.receive(is_("b", "online"), 2.0)
    coordinator.ask(Question(text="?"), 3.0)
    assert coordinator.receive(says("a", 2), 4.0) == []
    assert finish(coordinator, 2, "b").complete


def test_member_that_answers_is_online_without_its_presence() -> None:
    coordinator = Coordinator(LINK, ["a", "b"], POLICY)
    coordinator.receive(is_("b", "online"), 0.0)
    coordinator.ask(Question(text="?"), 0.0)
    finish(coordinator, 1, "a", "b")
    coordinator.ask(Question(text="?"), 1.0)
    assert coordinator.receive(says("b", 2), 1.0) == []  # a is waited for
    assert finish(coordinator, 2, "a").complete


def test_coordinator_sends_again_what_is_current_after_a_reconnect() -> None:
    coordinator = asking("a", "b")
    coordinator.receive(says("a", 1), 1.0)
    assert sent(coordinator.start(1.5)) == [asks(1)]
    assert coordinator.next_deadline() == 2.0
    finish(coordinator, 1, "b")
    assert coordinator.start(3.0) == []
    coordinator.settle(Question(text="!"), settled=True, complete=True, now=4.0)
    assert sent(coordinator.start(5.0)) == [settles(1)]


# --- the settlement ---


def settling(*members: str) -> Coordinator:
    """A coordinator that has settled on round 1 at time 10."""
    coordinator = asking(*members)
    finish(coordinator, 1, *members)
    coordinator.settle(Question(text="!"), settled=True, complete=True, now=10.0)
    return coordinator


def test_settlement_is_retained_and_acknowledged_by_all() -> None:
    coordinator = asking("a", "b")
    finish(coordinator, 1, "a", "b")
    (publish,) = steps = coordinator.settle(Question(text="!"), settled=True, complete=True, now=10.0)
    assert sent(steps) == [settles(1)]
    assert isinstance(publish, Publish)
    assert (publish.retain, publish.qos, publish.topic) == (True, 1, "stackelgrid/run-1/c/settlement")
    assert coordinator.receive(has_it("b", 1), 11.0) == []
    assert coordinator.receive(has_it("b", 1), 11.0) == []
    assert coordinator.receive(has_it("a", 1), 12.0) == [SettlementAcknowledged(missing=())]
    assert coordinator.next_deadline() is None


def test_settlement_is_repeated_until_receipts_come() -> None:
    coordinator = settling("a", "b")
    coordinator.receive(has_it("a", 1), 11.0)
    assert coordinator.tick(11.9) == []
    assert sent(coordinator.tick(12.0)) == [settles(1)]
    assert sent(coordinator.tick(15.0)) == [settles(1)]
    assert coordinator.receive(has_it("b", 1), 16.0) == [SettlementAcknowledged(missing=())]
    assert coordinator.tick(20.0) == []


def test_members_without_receipt_are_named_at_the_end() -> None:
    coordinator = settling("a", "b", "c")
    coordinator.receive(has_it("b", 1, "b-home-3", "b-home-7"), 11.0)
    patience = [10.0 + 5.0 * asked for asked in range(1, 10 * POLICY.tries)]
    assert all(sent(coordinator.tick(now)) == [settles(1)] for now in patience)
    assert coordinator.tick(160.0) == [SettlementAcknowledged(missing=("a", "c", "b-home-3", "b-home-7"))]


def test_round_waits_return_s_for_a_member_that_has_left() -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, return_s=3.0))
    coordinator.receive(says("a", 1), 1.0)
    assert coordinator.receive(is_("b", "offline"), 1.5) == []
    assert coordinator.tick(4.4) == []
    assert sent(coordinator.receive(is_("b", "online"), 4.4)) == [asks(1, again=["b"])]
    assert sent(coordinator.tick(5.0)) == [asks(1, again=["b"])]
    finished = one(coordinator.receive(says("b", 1), 4.1), Round)
    assert isinstance(finished, Round) and finished.complete


def test_round_closes_without_a_member_that_does_not_return() -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, return_s=3.0))
    coordinator.receive(says("a", 1), 1.0)
    coordinator.receive(is_("b", "offline"), 1.5)
    finished = one(coordinator.tick(4.5), Round)
    assert isinstance(finished, Round) and finished.excluded == ("b",)
    coordinator.ask(Question(text="?"), 5.0)
    again = one(coordinator.receive(says("a", 2), 5.1), Round)
    assert isinstance(again, Round) and again.excluded == ("b",)


@pytest.mark.parametrize("every_s", [0.7, 2.0, 2.9])
def test_round_is_not_held_open_by_a_member_that_leaves_again_and_again(every_s: float) -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, return_s=3.0))
    coordinator.receive(says("a", 1), 1.0)
    latest = 3 * 5.0 + 3.0  # all tries, and once the patience for a member that has left
    now, state = 1.0, "offline"
    while True:
        deadline = coordinator.next_deadline()
        assert deadline is not None and deadline <= latest
        if deadline <= now + every_s:
            now = deadline
            steps = coordinator.tick(now)
        else:
            now += every_s
            steps = coordinator.receive(is_("b", "offline" if state == "offline" else "online"), now)
            state = "online" if state == "offline" else "offline"
        rounds = [step for step in steps if isinstance(step, Round)]
        if rounds:
            break
    assert now <= latest and rounds[0].excluded == ("b",)


def test_member_that_was_back_for_a_round_is_waited_for_anew_in_the_next() -> None:
    coordinator = asking("a", "b", policy=replace(POLICY, return_s=3.0))
    coordinator.receive(is_("b", "offline"), 1.0)
    coordinator.receive(is_("b", "online"), 2.0)
    coordinator.receive(says("b", 1), 2.1)
    coordinator.receive(says("a", 1), 2.2)
    coordinator.ask(Question(text="?"), 10.0)
    coordinator.receive(says("a", 2), 10.1)
    coordinator.receive(is_("b", "offline"), 11.0)
    assert coordinator.tick(13.9) == []
    assert one(coordinator.tick(14.0), Round)


def test_member_that_was_back_between_rounds_is_waited_for_from_when_it_left_last() -> None:
    coordinator = gathered("a", "b", policy=replace(POLICY, return_s=3.0))
    coordinator.receive(is_("b", "offline"), 1.0)
    coordinator.receive(is_("b", "online"), 2.0)
    coordinator.receive(is_("b", "offline"), 9.0)
    coordinator.ask(Question(text="?"), 10.0)
    assert coordinator.receive(says("a", 1), 10.1) == []
    assert coordinator.tick(11.9) == []
    assert one(coordinator.tick(12.0), Round)


def test_settlement_does_not_wait_for_a_member_that_has_left() -> None:
    coordinator = settling("a", "b")
    coordinator.receive(has_it("a", 1), 11.0)
    assert coordinator.receive(is_("b", "offline"), 12.0) == [SettlementAcknowledged(missing=("b",))]


def test_receipt_with_names_that_are_refused_stands_for_its_sender_alone() -> None:
    coordinator = Coordinator(
        LINK, ["a", "b"], POLICY, check_receipt=lambda receipt: "ghosts" if receipt.missing else None
    )
    for member in ("a", "b"):
        coordinator.receive(is_(member, "online"), 0.0)
    coordinator.settle(Question(text="!"), settled=True, complete=True, now=10.0)
    coordinator.receive(has_it("a", 1, "ghost-1"), 11.0)
    assert coordinator.receive(has_it("b", 1), 11.0) == [SettlementAcknowledged(missing=())]


def test_receipt_of_another_settlement_is_stale() -> None:
    coordinator = settling("a")
    assert coordinator.receive(has_it("a", 2), 11.0) == []
    assert coordinator.receive(has_it("a", 1), 12.0) == [SettlementAcknowledged(missing=())]
    assert coordinator.receive(has_it("a", 1), 13.0) == []
    assert coordinator.stale == 2


def test_answer_after_the_settlement_is_stale() -> None:
    coordinator = settling("a", "b")
    assert coordinator.receive(says("a", 1), 11.0) == []
    assert coordinator.stale == 1


def test_coordinator_clears_the_signal_but_not_the_settlement_when_it_leaves() -> None:
    assert settling("a").leave() == [Publish("stackelgrid/run-1/c/signal", b"", qos=1, retain=True)]


# --- a member ---


def test_member_publishes_its_presence_and_has_a_last_will() -> None:
    member = Member("a", LINK)
    assert sent(member.start()) == [is_("a", "online")]
    assert sent([member.last_will]) == [is_("a", "offline")]
    assert all(step.retain for step in [*member.start(), member.last_will] if isinstance(step, Publish))
    assert member.leave() == [Publish("stackelgrid/run-1/c/a/presence", b"", qos=1, retain=True)]


def test_member_answers_a_round_once() -> None:
    member = Member("a", LINK)
    assert member.receive(asks(1, "how much?")) == [QuestionReceived(1, Question(text="how much?"))]
    assert member.receive(asks(1, "how much?")) == []  # still working it out
    assert sent(member.answer(1, Reply(text="two"))) == [says("a", 1, "two")]


def test_member_repeats_the_same_bytes_when_asked_again() -> None:
    member = Member("a", LINK)
    member.receive(asks(1))
    first = member.answer(1, Reply(text="two"))
    assert member.receive(asks(1)) == first
    assert member.receive(asks(1, again=["b", "a"])) == first
    assert member.receive(asks(1, again=["b"])) == []


def test_member_answers_another_question_under_the_same_number_when_renumbered() -> None:
    member = Member("a", LINK, renumbered=True)
    member.receive(asks(1, "how much?"))
    member.answer(1, Reply(text="three"))
    assert member.receive(asks(1, "how much now?")) == [QuestionReceived(1, Question(text="how much now?"))]
    assert sent(member.answer(1, Reply(text="four"))) == [says("a", 1, "four")]
    assert sent(member.receive(asks(1, "how much now?"))) == [says("a", 1, "four")]


def test_member_ignores_earlier_rounds() -> None:
    member = Member("a", LINK)
    member.receive(asks(2))
    assert member.receive(asks(1)) == []
    assert member.stale == 1
    assert sent(member.answer(2, Reply(text="two"))) == [says("a", 2, "two")]


def test_member_does_not_send_an_answer_after_a_later_question() -> None:
    member = Member("a", LINK)
    member.receive(asks(1))
    member.receive(asks(2))
    assert member.answer(1, Reply(text="one")) == []
    assert member.stale == 1
    assert sent(member.answer(2, Reply(text="two"))) == [says("a", 2, "two")]


def test_member_does_not_repeat_an_answer_to_an_earlier_round() -> None:
    member = Member("a", LINK)
    member.receive(asks(1))
    member.answer(1, Reply(text="one"))
    member.receive(asks(2))
    assert member.receive(asks(2, again=["a"])) == []  # still working it out


def test_member_that_missed_a_round_answers_when_named() -> None:
    member = Member("a", LINK)
    assert member.receive(asks(3, again=["a"])) == [QuestionReceived(3, Question(text="?"))]


def test_member_answers_the_retained_signal_after_a_reconnect() -> None:
    member = Member("a", LINK)
    member.receive(asks(1))
    first = member.answer(1, Reply(text="two"))
    assert sent(member.start()) == [is_("a", "online")]
    assert member.receive(asks(1)) == first
    assert member.receive(asks(2)) == [QuestionReceived(2, Question(text="?"))]


def test_member_settles_once_and_acknowledges_each_copy() -> None:
    member = Member("a", LINK)
    member.receive(asks(1))
    assert member.acknowledge([]) == []
    assert member.receive(settles(1)) == [SettlementReceived(1, True, True, Question(text="!"))]
    assert member.receive(settles(1)) == []  # its own members have not acknowledged yet
    receipt = member.acknowledge(["a-home-2"])
    assert sent(receipt) == [has_it("a", 1, "a-home-2")]
    assert member.receive(settles(1)) == receipt


def test_member_ignores_signals_after_the_settlement() -> None:
    member = Member("a", LINK)
    member.receive(asks(1))
    member.receive(settles(1))
    assert member.answer(1, Reply(text="too late")) == []
    assert member.receive(asks(2)) == []
    assert member.stale == 2


# --- whatever the network does ---


@dataclass(order=True)
class Event:
    at: float
    order: int
    happen: Callable[[float], None] = field(compare=False)


class Play:
    """One coordinator and its members on a network that loses, repeats and delays until `calm_at`.

    Every choice is drawn from one seeded stream. The broker's promises hold: a sender's messages on a topic arrive in
    order, and what is retained reaches a member that reconnects, as all do at `calm_at`.
    """

    def __init__(self, seed: int, members: int, policy: RoundPolicy, rounds: int, calm_at: float) -> None:
        self.random = np.random.default_rng(seed)
        self.loss, self.repeat = self.random.uniform(0, 0.6, 2)
        self.slowest = self.random.uniform(0.1, 2.5) * policy.deadline_s
        self.calm_at, self.rounds = calm_at, rounds
        self.now = 0.0
        self.events: list[Event] = []
        self.counter = itertools.count()
        self.latest: dict[tuple[str, str], float] = {}
        self.retained: dict[str, Publish] = {}
        self.coordinator = Coordinator(LINK, [f"m{number}" for number in range(members)], policy)
        self.members = {name: Member(name, LINK) for name in self.coordinator.members}
        self.asked_at: dict[int, float] = {}
        self.given: dict[tuple[str, int], Body] = {}
        self.closed: list[Round] = []
        self.settled: dict[str, SettlementReceived] = {}
        self.ended: list[SettlementAcknowledged | MembersLost] = []

    def run(self) -> None:
        for member in self.members.values():
            self.later(self.random.uniform(0, self.slowest), lambda now, m=member: self.act_member(m, m.start()))
            self.later(self.calm_at, lambda now, m=member: self.reconnect(m))
        self.act_coordinator(self.coordinator.start(0.0))
        while self.events:
            event = heapq.heappop(self.events)
            self.now = event.at
            event.happen(event.at)
            deadline = self.coordinator.next_deadline()
            if deadline is not None:
                self.later(max(deadline, self.now), lambda now: self.act_coordinator(self.coordinator.tick(now)))

    def later(self, at: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self.events, Event(at, next(self.counter), happen))

    def deliver(self, publish: Publish, receiver: str) -> None:
        calm = self.now >= self.calm_at
        if not calm and self.random.random() < self.loss:
            return
        copies = 1 if calm or self.random.random() > self.repeat else 2
        for _ in range(copies):
            delay = self.random.uniform(0, 0.1 * self.coordinator.policy.deadline_s if calm else self.slowest)
            at = max(self.now + delay, self.latest.get((publish.topic, receiver), 0.0))
            self.latest[publish.topic, receiver] = at
            self.later(at, lambda now: self.arrive(publish, receiver))

    def arrive(self, publish: Publish, receiver: str) -> None:
        message = LINK.read(publish.topic, publish.payload)
        if receiver == "c":
            self.act_coordinator(self.coordinator.receive(message, self.now))
        else:
            self.act_member(self.members[receiver], self.members[receiver].receive(message))

    def reconnect(self, member: Member) -> None:
        self.act_member(member, member.start())
        for publish in self.retained.values():
            self.deliver(publish, member.name)

    def act_member(self, member: Member, steps: Iterable[object]) -> None:
        for step in steps:
            match step:
                case Publish():
                    self.deliver(step, "c")
                case QuestionReceived(number, _):
                    works_until = self.now + self.random.exponential(0.2 * self.coordinator.policy.deadline_s)
                    body = Reply(text=f"{member.name} to {number}")
                    assert (member.name, number) not in self.given
                    self.given[member.name, number] = body
                    self.later(works_until, lambda now, n=number, b=body: self.act_member(member, member.answer(n, b)))
                case SettlementReceived():
                    assert member.name not in self.settled
                    self.settled[member.name] = step
                    self.act_member(member, member.acknowledge([]))

    def act_coordinator(self, steps: Iterable[object]) -> None:
        for step in steps:
            match step:
                case Publish():
                    self.retained[step.topic] = step
                    for name in self.members:
                        self.deliver(step, name)
                case MembersGathered():
                    self.ask()
                case Round():
                    self.closed.append(step)
                    self.settle() if len(self.closed) == self.rounds else self.ask()
                case MembersLost():
                    self.ended.append(step)
                    self.settle()
                case SettlementAcknowledged():
                    self.ended.append(step)

    def ask(self) -> None:
        self.asked_at[len(self.asked_at) + 1] = self.now
        self.act_coordinator(self.coordinator.ask(Question(text="?"), self.now))

    def settle(self) -> None:
        self.settled_at = self.now
        self.act_coordinator(self.coordinator.settle(Question(text="!"), settled=True, complete=True, now=self.now))


policies = st.builds(
    RoundPolicy,
    deadline_s=st.sampled_from([1.0, 5.0]),
    tries=st.integers(1, 4),
    missing=st.sampled_from(["hold", "exclude", "fail"]),
    gather_s=st.sampled_from([2.0, 20.0]),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), policies, st.integers(1, 5), st.sampled_from([0.0, 10.0, 40.0, 200.0]))
def test_rounds_end_and_the_settlement_reaches_all_on_any_network(
    seed: int, count: int, policy: RoundPolicy, rounds: int, calm_at: float
) -> None:
    play = Play(seed, count, policy, rounds, calm_at)
    play.run()

    members = set(play.members)
    for number, finished in enumerate(play.closed, start=1):
        assert finished.number == number
        assert finished.opened_at == play.asked_at[number]
        assert finished.closed_at <= finished.opened_at + policy.tries * policy.deadline_s + 1e-9
        fresh = set(finished.answers) - set(finished.held)
        assert set(finished.held) <= set(finished.answers)
        assert len(fresh) + len(finished.held) + len(finished.excluded) == count
        assert fresh | set(finished.held) | set(finished.excluded) == members
        assert all(finished.answers[name] == Reply(text=f"{name} to {number}") for name in fresh)
        for name in finished.held:
            last = max(
                (n for n, r in enumerate(play.closed[: number - 1], 1) if name in set(r.answers) - set(r.held)),
                default=1,
            )
            assert finished.answers[name] in [Reply(text=f"{name} to {n}") for n in range(last, number + 1)]
        assert finished.complete == (fresh == members)
        assert policy.missing != "fail" or finished.complete
        assert policy.missing != "exclude" or not finished.held

    assert len(play.closed) == rounds or isinstance(play.ended[0], MembersLost)
    assert isinstance(play.ended[-1], SettlementAcknowledged)
    assert sum(isinstance(end, SettlementAcknowledged) for end in play.ended) == 1
    assert set(play.settled) == members
    if play.settled_at >= play.calm_at + policy.deadline_s:
        assert play.ended[-1] == SettlementAcknowledged(missing=())
