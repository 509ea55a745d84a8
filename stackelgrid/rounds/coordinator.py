"""The side that asks: gather the members, ask rounds of them, make the settlement known.

`Coordinator` takes messages and clock readings and returns steps. A step is an action for the transport (`Publish`,
`FetchRetained`) or an event for the node (`MembersGathered`, `Round`, `MembersLost`, `SettlementAcknowledged`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stackelgrid.rounds.patience import Patience, Wait
from stackelgrid.rounds.strategy import Question
from stackelgrid.transport.base import FetchRetained, Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import MAX_REASON, Answer, Body, Message, Presence, Receipt, Refusal, Settlement, Signal

_MOST_GATHERING = 10
"""Gathering takes no more than so many times `gather_s`, however many members come one after the other."""
_PROMPT_ROUNDS = 3
"""A late member counts again once it has answered so many rounds in a row while they were open."""
_ROUNDS_KEPT = 100
"""An answer that is later than that many rounds is not even held."""
_NO_BRACKETS = str.maketrans("[]{}", "()()")
"""For a reason in words: its receiver counts brackets before it parses, and refuses those that do not close."""
_SETTLEMENT_TRIES = 10
"""A settlement is sent this many times as often as a question: a member that is connected gets it in the end."""


Offence = Literal["refused", "malformed", "late", "silent"]
"""A reason to count against a member: an answer that the check refuses, one that cannot be read, one that comes after
its round was closed, a round that was closed without one."""


@dataclass(frozen=True)
class RoundPolicy:
    """The rules for members whose answer is missing.

    `deadline_s` is the wait per try. After `tries` tries, `missing` says what to do without the answer: `hold` takes
    the member's last answer (a member that never answered is excluded), `exclude` leaves the member out, `fail` ends
    the run. `gather_s` is how long the next member may take to appear before the first round; while members come one
    after the other gathering goes on, up to ten times as long. `return_s` is how long a member
    that has left may take to come back before rounds go on without it. After `quarantine_after` offences of the kinds
    in `quarantine_for` a member's answers are ignored; 0 means never.
    """

    deadline_s: float = 5.0
    tries: int = 3
    missing: Literal["hold", "exclude", "fail"] = "hold"
    gather_s: float = 60.0
    return_s: float = 0.0
    quarantine_after: int = 0
    quarantine_for: Sequence[Offence] = ("refused",)

    @property
    def patience_s(self) -> float:
        """Give the seconds that a whole run waits for one member, beyond what the others take.

        A fiftieth of the tries pays for what rounds wait for a member that is late already.
        """
        return max(0.98 * self.tries * self.deadline_s, self.return_s)


@dataclass(frozen=True, slots=True)
class MembersGathered:
    """Event: the first round may be asked. Members in `absent` did not come in time, `came` others did.

    With `new_only` those who are new in a session were waited for, and nobody else.
    """

    absent: tuple[str, ...]
    came: int = field(default=0, compare=False)
    after_s: float = field(default=0.0, compare=False)
    new_only: bool = field(default=False, compare=False)

    def describe(self, members: str) -> str:
        """Say in a sentence what happened, and what helps."""
        everybody = self.came + len(self.absent)
        if self.new_only:
            return f"{self.came} of {everybody} new {members} had come after {self.after_s:.0f} s; the rest may still"
        return f"{self.came} of {everybody} {members} had come after {self.after_s:.0f} s; raise rounds.gather_s"


@dataclass(frozen=True, slots=True)
class Round:
    """Event: a round is finished, with each member's answer to `body`.

    `answers` holds fresh and held answers, in the order of the members. A member that did not answer is named in `held`
    or in `excluded`, by what was done about it; `quarantined` has the reason for each of the excluded whose messages
    are ignored, `why` in words what is known of each that did not answer. `again` counts the members asked again,
    `messages` and `bytes` what the round took on this link: signals, answers and refusals. Times are in seconds on the
    clock of `now`.
    """

    number: int
    body: Question
    answers: dict[str, Body]
    held: tuple[str, ...]
    excluded: tuple[str, ...]
    again: int
    opened_at: float
    closed_at: float
    quarantined: Mapping[str, str] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    messages: int = field(default=0, compare=False)
    bytes: int = field(default=0, compare=False)

    @property
    def complete(self) -> bool:
        """Tell whether every member gave a fresh answer."""
        return not self.held and not self.excluded

    @property
    def questions(self) -> int:
        """Give the number of questions that a member was asked; a body that asks for nothing in particular is one."""
        bodies = [self.body] if isinstance(self.body, Body) else self.body.values()
        return max((len(body.questions) for body in bodies), default=0) or 1

    @property
    def account(self) -> dict[str, Any]:
        """Give who answered and who did not, and what the round took, with the keys of a journal."""
        return {
            "answered": len(self.answers) - len(self.held),
            "held": list(self.held),
            "excluded": [name for name in self.excluded if name not in self.quarantined],
            "quarantined": list(self.quarantined),
            "why": dict(self.why),
            "again": self.again,
            "questions": self.questions,
            "messages": self.messages,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class SettlementAcknowledged:
    """Event: every member has the settlement except those in `missing`, members or members of members."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MembersLost:
    """Event: the round cannot go on without `members` (policy `fail`, or no answer at all)."""

    members: tuple[str, ...]
    round: int


Step = Publish | FetchRetained | MembersGathered | Round | SettlementAcknowledged | MembersLost
AnswerCheck = Callable[[str, Body, Body], str | None]
"""From a member's name, the question and its answer to the reason why the answer is refused, or None."""
ReceiptCheck = Callable[[Receipt], str | None]
"""From a receipt to the reason why the names in it are refused, or None."""


@dataclass
class _OpenRound:
    """The round under way: the question, the wait, the answers so far and the members that are `missing`.

    Members in `late` have no patience left. Of their answers, those in `set_aside` do not count in this round.
    """

    number: int
    body: Question
    wait: Wait
    late: frozenset[str]
    missing: dict[str, None]
    again: int = 0
    messages: int = 0
    bytes: int = 0
    confirms: bool = False
    answers: dict[str, Body] = field(default_factory=dict)
    set_aside: dict[str, Body] = field(default_factory=dict)


@dataclass
class _OpenSettlement:
    """The settlement under way: what was settled, the wait, who has no patience left, the receipts so far.

    Members are `missing` until their receipt comes.
    """

    round: int
    settled: bool
    complete: bool
    body: Question
    wait: Wait
    late: frozenset[str]
    missing: dict[str, None]
    receipts: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Coordinator:
    """A node's part as coordinator of its members.

    It gathers them, asks them rounds that are numbered from 1, and makes the settlement known, session by session;
    rounds are numbered on from one session to the next. A message is keyed by round and sender: the first answer
    counts; later ones are counted in `repeated`, those to other rounds in `stale`, and both are ignored. A member that
    missed a whole round gets one try instead of all in the rounds after it, until it answers again; one whose
    `Patience` is used up is late, and rounds do not wait for it, nor for those that the node names in `unable`.
    `check(member, question, answer)` may refuse an answer by giving a reason; the answer is then ignored.
    `check_receipt(receipt)` may refuse the names in a receipt; it then stands for its sender alone. With
    `members_gather` a member that gathers members of its own is waited for before the first round.
    """

    def __init__(
        self,
        link: Link,
        members: Sequence[str],
        policy: RoundPolicy,
        check: AnswerCheck = lambda *_: None,
        check_receipt: ReceiptCheck = lambda receipt: None,
        *,
        members_gather: bool = False,
        of_grid: bool = False,
    ) -> None:
        self.link = link
        self.members = tuple(members)
        self.policy = policy
        self.session = 1
        self.stale = 0
        self.repeated = 0
        self.refused: Counter[str] = Counter()
        self.quarantined: dict[str, str] = {}  # member -> reason
        self.unable: Mapping[str, str] = {}  # members that cannot answer in this session -> reason
        self._check, self._check_receipt = check, check_receipt
        self._online: set[str] = set()
        self._left_at: dict[str, float] = {}  # when each first left, until it is really back
        self._members_gather, self._of_grid = members_gather, of_grid
        self._gathering: set[str] = set()  # members that gather members of their own
        self._came: set[str] = set()  # members that have ever been there
        self._awaited = frozenset(members)  # those to be gathered
        self._gathering_since: float | None = None
        self._gathering_until = math.inf  # as long as nobody comes
        self._gathering_at_most = math.inf
        self._has_gathered = False
        self._gathered_after, self._gathered_new_only = 0.0, False
        self._fetch_at = math.inf  # while gathering: a presence may have been lost on its way here
        self._round: _OpenRound | None = None
        self._settlement: _OpenSettlement | None = None
        self._rounds = 0
        self._latest: dict[str, Body] = {}
        self._latest_round: Counter[str] = Counter()  # the round that each of these answers
        self._silent: set[str] = set()  # members that missed the last round
        self._patience = Patience(policy.patience_s, policy.deadline_s / 1000)
        self._prompt_rounds: Counter[str] = Counter()  # rounds in a row that each has answered while they were open
        self._questions: dict[int, Question] = {}  # by round, the latest
        self._offences: Counter[str] = Counter()
        self._objections: dict[str, tuple[int, str]] = {}  # the round and reason of each member's last refusal

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Give the topic filters of a coordinator."""
        return self.link.topics_from_members()

    def list_expected(self, now: float) -> tuple[str, ...]:
        """List the members that are there, and those that have left so lately that a round would wait for them."""
        since = now - self.policy.return_s
        return tuple(
            name for name in self.members if name in self._online or self._left_at.get(name, -math.inf) > since
        )

    @property
    def rounds(self) -> int:
        """Give the number of the round asked last, 0 before the first."""
        return self._rounds

    def resume(self, finished: Round) -> None:
        """Take over a round that was finished before a restart. Call it round by round, before `start`."""
        self.recall(finished.number, finished.quarantined)
        self._questions = {finished.number: finished.body}
        for name, body in finished.answers.items():
            self._hold(name, self._latest_round[name] if name in finished.held else finished.number, body)

    def recall(self, number: int, quarantined: Mapping[str, str]) -> None:
        """Take over of a round what sessions after it need, its number and who is in quarantine for which reason."""
        self.skip_to(number)
        for name, reason in quarantined.items():
            self._quarantine(name, reason)

    def skip_to(self, number: int) -> None:
        """Use no round number up to `number`: members know these rounds, finished or not, from before a restart."""
        self._rounds = max(self._rounds, number)

    def begin_session(self, number: int, now: float, members: Sequence[str] | None = None) -> list[Step]:
        """Go on to a session: who is there, who is late and who is in quarantine stays, and no answer is held.

        In a grid patience and offences are those of a session: one that runs for years would use up anybody's.
        What is still open of the session before is dropped. With `members` others than before may take part: of those
        who have left nothing stays, and the new ones are gathered, for a deadline at most. The first round may be asked
        after the step `MembersGathered`, at once where there is nobody new.
        """
        self.abandon(now)
        self._close_settlement(now)
        self.session, self.unable = number, {}
        self._latest.clear()
        self._latest_round.clear()
        self._questions.clear()
        if self._of_grid:
            self._patience.renew()
            self._offences.clear()
        return self._replace_members(self.members if members is None else members, now)

    def start(self, now: float) -> list[Step]:
        """Begin to gather the members; after a reconnect, send again what is current."""
        if self._settlement is not None:
            return self._send_settlement(self._settlement)
        if self._round is not None:
            return self._send_signal(self._round, again=[])
        if not self._has_gathered and self._gathering_since is None:
            self._gathering_since = now
            self._gathering_until = now + self.policy.gather_s
            self._gathering_at_most = now + _MOST_GATHERING * self.policy.gather_s
            self._fetch_at = now + self.policy.deadline_s
            return [] if self.members else self._end_gathering(now)
        return []

    def ask(self, body: Question, now: float) -> list[Step]:
        """Open the next round."""
        self._rounds += 1
        self._left_at = {name: at for name, at in self._left_at.items() if name not in self._online}
        # The same question once more is to confirm its answers: it waits for those too who were late while searching.
        confirms = body == self._questions.get(self._rounds - 1)
        self._questions[self._rounds] = body
        self._questions.pop(self._rounds - _ROUNDS_KEPT, None)
        late = self._find_late(confirming=confirms)
        wait = self._patience.open(now, self.policy.deadline_s, self._online - late - self._silent - self.unable.keys())
        self._round = _OpenRound(self._rounds, body, wait, late, dict.fromkeys(self.members), confirms=confirms)
        return self._send_signal(self._round, again=[])

    def abandon(self, now: float) -> None:
        """Drop the round that is open, if any: its answers are wanted no longer, other than to be held."""
        current, self._round = self._round, None
        if current is not None:
            self._keep_answers(current)
            self._patience.close(current.wait, self._find_missing(current), now)

    def settle(self, body: Question, *, settled: bool, complete: bool, now: float) -> list[Step]:
        """Send the settlement and collect receipts."""
        self._round = None
        late = self._find_late(confirming=True)
        wait = self._patience.open(now, self.policy.deadline_s, self._online - late)
        self._settlement = _OpenSettlement(
            max(self._rounds, 1), settled, complete, body, wait, late, dict.fromkeys(self.members)
        )
        return [*self._send_settlement(self._settlement), *self._end_settlement_if_acknowledged(now)]

    def leave(self) -> list[Step]:
        """Clear the retained signals, which ends the conversation. The settlement stays for members that are away."""
        return self._clear_signals(self.members if self.link.bodies.addressed else [""])

    def _clear_signals(self, members: Iterable[str]) -> list[Step]:
        topics = dict.fromkeys(self.link.topic_to_member("signal", member) for member in members)
        return [Publish(topic, b"", qos=1, retain=True) for topic in topics]

    def receive(self, message: Message, now: float, size: int = 0) -> list[Step]:
        """Take a message of a member, of `size` bytes. One of a node that is not a member is counted as stale."""
        if message.sender not in self.members or (
            message.sender in self.quarantined and not isinstance(message, Receipt)
        ):
            self.stale += 1
            return self._repeat_quarantine(message)
        if isinstance(message, Answer):
            if message.session != self.session:
                self.stale += 1
                return []
            if self._round is not None and message.round == self._round.number:
                self._round.messages += 1
                self._round.bytes += size
            return self._on_answer(message, now)
        if isinstance(message, Receipt):
            return self._on_receipt(message, now)
        if isinstance(message, Presence):
            return self._on_presence(message, now)
        return []

    def note_unreadable(self, topic: str, detail: str, now: float) -> list[Step]:
        """Take note that what came on `topic` is no message; `detail` says why. Only members' answers matter here."""
        above, _, purpose = topic.rpartition("/")
        member = above.removeprefix(f"{self.link.root}/")
        if purpose != "answer" or member not in self.members or member in self.quarantined:
            return []
        return self._refuse(member, "malformed", f"the answer cannot be read: {detail.removeprefix(f'{topic}: ')}", now)

    def note_cleared(self, topic: str, now: float) -> list[Step]:
        """Take note that what was retained on `topic` is no more: a member that clears its presence has left."""
        member = topic.removeprefix(f"{self.link.root}/").removesuffix("/presence")
        if not topic.endswith("/presence") or member not in self._came or member in self.quarantined:
            return []
        self._gathering.discard(member)
        return self._on_leave(member, now)

    def next_deadline(self) -> float | None:
        """Give the time at which to call `tick`, on the clock of `now`, or None."""
        if self._settlement is not None:
            wait = self._settlement.wait
            return self._settlement_ends_at(self._settlement, min(wait.deadline, wait.ask_at))
        if self._round is not None:
            wait = self._round.wait
            return self._round_closes_at(self._round, min(wait.deadline, wait.ask_at))
        return None if self._gathering_since is None else min(self._gathering_ends_at, self._fetch_at)

    def tick(self, now: float) -> list[Step]:
        """Ask again, or go on without the missing, once the deadline has passed."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self._settlement is not None:
            return self._on_settlement_deadline(self._settlement, now)
        if self._round is not None:
            return self._close_round_if_over(now) or self._on_round_deadline(self._round, now)
        if now < self._gathering_ends_at:
            self._fetch_at = now + self.policy.deadline_s
            return [FetchRetained()]
        return self._end_gathering(now)

    # --- gathering ---

    @property
    def is_gathering(self) -> bool:
        """Tell whether members are waited for who have never been there."""
        return self._gathering_since is not None

    def _replace_members(self, members: Sequence[str], now: float) -> list[Step]:
        """Go on with other members. Whose presence came before it was a member is asked for again."""
        before, after = frozenset(self.members), frozenset(members)
        gone = [name for name in self.members if name not in after]
        for name in gone:
            self._forget(name)
        self.members = tuple(members)
        cleared = self._clear_signals(gone) if self.link.bodies.addressed else []
        return [*cleared, *self._gather_newcomers(after - before, now)]

    def _gather_newcomers(self, newcomers: frozenset[str], now: float) -> list[Step]:
        if not self._has_gathered:
            self._awaited = frozenset(self.members)
            fetched = [FetchRetained()] if newcomers else []
            return [*fetched, *self._end_gathering_if_complete(now)] if self.is_gathering else []
        if not newcomers:
            self._gathering_since = None
            return [MembersGathered(())]
        self._awaited, self._gathering_since = newcomers, now
        self._gathering_until = self._gathering_at_most = now + min(self.policy.deadline_s, self.policy.gather_s)
        self._fetch_at = math.inf
        return [FetchRetained()]

    def _forget(self, member: str) -> None:
        for names in (self._online, self._gathering, self._came, self._silent):
            names.discard(member)
        for by_name in (self._left_at, self.quarantined, self._prompt_rounds, self._offences, self._objections):
            by_name.pop(member, None)
        self.refused.pop(member, None)
        self._patience.forget(member)

    def _on_presence(self, presence: Presence, now: float) -> list[Step]:
        member, state = presence.sender, presence.state
        if state == "gathering" and not self._members_gather:
            return []
        self._note_arrival(member, now)
        match state:
            case "offline":
                return self._on_leave(member, now)
            case "online":
                return self._on_return(member, now)
            case "gathering":
                self._gathering.add(member)
                return []

    def _note_arrival(self, member: str, now: float) -> None:
        """Note that a member is there; when it is there for the first time, or was gathering, others may follow."""
        if self._gathering_since is not None and (member not in self._came or member in self._gathering):
            self._gathering_until = now + self.policy.gather_s
        self._came.add(member)
        self._gathering.discard(member)

    def _on_leave(self, member: str, now: float) -> list[Step]:
        self._online.discard(member)
        # A member that leaves again and again is waited for once: from when it first left in this round.
        self._left_at.setdefault(member, now)
        if self._gathering_since is not None:
            return self._end_gathering_if_complete(now)
        if self._settlement is not None:
            return self._end_settlement_if_acknowledged(now)
        return self._close_round_if_over(now)

    def _on_return(self, member: str, now: float) -> list[Step]:
        returned = member not in self._online
        self._online.add(member)
        if self._round is None or member in self._round.answers:
            self._left_at.pop(member, None)
        if self._gathering_since is not None:
            return self._end_gathering_if_complete(now)
        if returned and self._round is not None and member not in self._round.answers:
            # It finds the signal retained; the signal is sent again in case that copy was lost.
            return self._send_signal(self._round, again=[member])
        return []

    @property
    def _gathering_ends_at(self) -> float:
        """Give the time at which the first round is asked without those who have not come; inf when not gathering."""
        if self._gathering_since is None:
            return math.inf
        most = self._gathering_at_most
        return most if self._gathering & self._awaited else min(self._gathering_until, most)

    def _end_gathering_if_complete(self, now: float) -> list[Step]:
        """End the gathering once everybody has come, or has come and left; nobody waits for one in quarantine."""
        there = self._online | self._left_at.keys() | self.quarantined.keys()
        return self._end_gathering(now) if self._awaited <= there else []

    def _end_gathering(self, now: float) -> list[Step]:
        assert self._gathering_since is not None
        self._gathered_new_only = new_only = self._has_gathered
        self._has_gathered = True
        self._gathered_after, self._gathering_since = now - self._gathering_since, None
        awaited = [name for name in self.members if name in self._awaited]
        absent = tuple(name for name in awaited if name not in self._online and name not in self.quarantined)
        came = len(self._awaited & self._online)
        return [MembersGathered(absent, came, self._gathered_after, new_only)]

    # --- a round ---

    def _send_signal(self, current: _OpenRound, again: list[str]) -> list[Step]:
        """Send the question to all, naming those asked `again`; on an addressed link to these alone, if any."""

        def signal(body: Body) -> Signal[Body]:
            return Signal(
                run=self.link.run,
                sender=self.link.coordinator,
                session=self.session,
                fingerprint=self.link.fingerprint,
                round=current.number,
                again=again,
                body=body,
            )

        signals = self._publish(signal, current.body, again or self.members, qos=0)
        current.messages += len(signals)
        current.bytes += sum(len(each.payload) for each in signals)
        return [*signals]

    def _on_answer(self, answer: Answer[Body], now: float) -> list[Step]:
        current, member = self._round, answer.sender
        if current is None or answer.round != current.number:
            return self._on_late_answer(answer, now)
        if member in current.answers or member in current.set_aside:
            self.repeated += 1
            return []
        reason = self._find_objection(answer)
        if reason is not None:
            return self._refuse(member, "refused", reason, now)
        self._came.add(member)
        self._online.add(member)
        self._left_at.pop(member, None)
        self._prompt_rounds[member] += 1
        if member in current.late and not current.confirms and self._prompt_rounds[member] <= _PROMPT_ROUNDS:
            # A member that is in one round and not in the next would lead the search astray: it is in, or it is out.
            current.set_aside[member] = answer.body
        else:
            current.answers[member] = answer.body
            del current.missing[member]
            self._patience.note_answer(current.wait, member, now)
        return self._close_round_if_over(now)

    def _on_late_answer(self, answer: Answer[Body], now: float) -> list[Step]:
        """Take the answer to a round that is over, which is not fresh but newer than what would be held."""
        member = answer.sender
        newer = self._latest_round[member] < answer.round and answer.round in self._questions
        if not newer or self._settlement is not None:
            self.stale += 1
            return []
        reason = self._find_objection(answer)
        if reason is not None:
            return self._refuse(member, "refused", reason, now)
        self._hold(member, answer.round, answer.body)
        return self._count_offence(member, "late", f"answers come too late, this one to round {answer.round}", now)

    def _find_objection(self, answer: Answer[Body]) -> str | None:
        """Give the reason why an answer is refused, or None."""
        question = self._questions[answer.round]
        asked = question if isinstance(question, Body) else question[answer.sender]
        return self._check(answer.sender, asked, answer.body)

    def _keep_answers(self, current: _OpenRound) -> None:
        """Keep the answers to a round that is over."""
        for name, body in {**current.answers, **current.set_aside}.items():
            self._hold(name, current.number, body)

    def _hold(self, member: str, number: int, body: Body) -> None:
        """Keep an answer for the rounds that the member may miss."""
        self._latest[member], self._latest_round[member] = body, number

    # --- refusals ---

    def _refuse(self, member: str, offence: Offence, reason: str, now: float) -> list[Step]:
        """Ignore an answer, and tell its sender why."""
        self.refused[member] += offence == "refused"
        self._objections[member] = self._rounds, reason
        steps = self._count_offence(member, offence, reason, now)
        return steps if member in self.quarantined else [self._send_refusal(member, reason), *steps]

    def _count_offence(self, member: str, offence: Offence, reason: str, now: float) -> list[Step]:
        """Count what the policy counts; after too many, ignore the member for good, as one that has left."""
        self._offences[member] += offence in self.policy.quarantine_for
        if not self.policy.quarantine_after or self._offences[member] < self.policy.quarantine_after:
            return []
        self._quarantine(member, reason)
        gathered = [] if self._gathering_since is None else self._end_gathering_if_complete(now)
        return [self._send_refusal(member, reason), *gathered, *self._close_round_if_over(now)]

    def _quarantine(self, member: str, reason: str) -> None:
        """Ignore a member from now on. Nothing of it stays, neither what would be held nor its answer to this round."""
        self.quarantined[member] = reason
        self._online.discard(member)
        self._latest.pop(member, None)
        if self._round is not None:
            self._round.answers.pop(member, None)
            self._round.missing[member] = None
            self._round.set_aside.pop(member, None)

    def _repeat_quarantine(self, message: Message) -> list[Step]:
        """Tell a member in quarantine that answers why nobody listens, once a round: it may have been restarted."""
        member = message.sender
        told_in = self._objections.get(member, (0, ""))[0]
        if (
            not isinstance(message, Answer)
            or member not in self.quarantined
            or not told_in < message.round <= self._rounds
        ):
            return []
        self._objections[member] = message.round, self.quarantined[member]
        return [self._send_refusal(member, self.quarantined[member])]

    def _send_refusal(self, member: str, reason: str) -> Publish:
        refusal = Refusal(
            run=self.link.run,
            sender=self.link.coordinator,
            session=self.session,
            round=max(self._rounds, 1),
            reason=reason[:MAX_REASON].translate(_NO_BRACKETS),
            final=member in self.quarantined,
        )
        publish = Publish(self.link.topic(refusal, member), self.link.write(refusal), qos=1)
        if self._round is not None:
            self._round.messages += 1
            self._round.bytes += len(publish.payload)
        return publish

    def _explain(self, current: _OpenRound, member: str) -> str:
        """Say what is known of a member that did not answer in this round."""
        number, objection = self._objections.get(member, (0, ""))
        if member in self.quarantined or member in self.unable:
            return self.quarantined.get(member) or self.unable[member]
        if number == current.number:
            return objection
        if member in current.set_aside:
            return f"was late before, and counts again after {_PROMPT_ROUNDS} prompt answers in a row"
        if member not in self._online:
            waited = f"had not come after {self._gathered_after:.0f} s; raise rounds.gather_s"
            if self._gathered_new_only:
                waited = "has not come yet"
            return "has left" if member in self._came else waited
        if member in current.late:
            return f"late: the run has waited {self._patience.spent_s[member]:.0f} s for it"
        return f"no answer within {current.wait.tries} tries"

    # --- the end of a round ---

    def _on_round_deadline(self, current: _OpenRound, now: float) -> list[Step]:
        """Ask the missing again, from the deadline on as the next try; after the last one go on without them."""
        missing, wait = self._find_missing(current), current.wait
        if now < wait.deadline:
            silent = [name for name in missing if name in self._online and name not in current.set_aside]
            return self._ask_again(current, silent, now)
        if wait.tries < self.policy.tries and not self._silent.issuperset(missing):
            wait.tries += 1
            wait.deadline = now + self.policy.deadline_s
            return self._ask_again(current, [name for name in missing if name not in self.quarantined], now)
        returning = max(
            (self._awaited_until(current, name) for name in missing if name not in self._online), default=now
        )
        if now < returning:
            wait.deadline = returning
            return []
        if self.policy.missing == "fail" or not (current.answers or self._latest):
            self._round = None
            return [MembersLost(tuple(missing), current.number)]
        return self._close_round(current, now)

    def _ask_again(self, current: _OpenRound, members: list[str], now: float) -> list[Step]:
        current.wait.ask_again(now)
        current.again += len(members)
        return self._send_signal(current, again=members) if members else []

    def _close_round_if_over(self, now: float) -> list[Step]:
        """Close the round when everybody has answered, or nobody is waited for any longer."""
        current, later = self._round, math.nextafter(now, math.inf)
        return (
            [] if current is None or self._round_closes_at(current, later) == later else self._close_round(current, now)
        )

    def _round_closes_at(self, current: _OpenRound, bound: float) -> float:
        """Give the time from which on the round goes on without those missing, `bound` if that is not before it.

        It never does before anybody has answered.
        """
        can_close = current.answers and self.policy.missing != "fail"
        until = (self._awaited_until(current, name) if can_close else bound for name in current.missing)
        return _find_latest(until, bound)

    def _awaited_until(self, current: _OpenRound, member: str) -> float:
        """Give the time until which the round waits for a missing member, as far as that does not hang on its tries."""
        if member in current.set_aside or member in self.unable:
            return -math.inf
        if member not in self._online and member not in self._left_at:
            return -math.inf
        until = self._patience.awaited_until(current.wait, member, late=member in current.late)
        return until if member in self._online else min(until, self._left_at[member] + self.policy.return_s)

    def _find_late(self, *, confirming: bool) -> frozenset[str]:
        """Find the members whose patience is used up; where a run fails without a member there are none."""
        if self.policy.missing == "fail":
            return frozenset()
        return frozenset(name for name in self.members if self._patience.is_used_up(name, confirming=confirming))

    def _find_missing(self, current: _OpenRound) -> list[str]:
        return [member for member in self.members if member not in current.answers]

    def _close_round(self, current: _OpenRound, now: float) -> list[Step]:
        missing = self._find_missing(current)
        steps: list[Step] = []
        self._round = None
        self._keep_answers(current)
        for name in missing:
            if name not in current.set_aside and name not in self.quarantined:
                self._prompt_rounds[name] = 0
                steps += self._count_offence(name, "silent", f"no answer to round {current.number}", now)
        held = [name for name in missing if self.policy.missing == "hold" and name in self._latest]
        answers = {
            member: current.answers.get(member) or self._latest[member]
            for member in self.members
            if member in current.answers or member in held
        }
        excluded = tuple(name for name in missing if name not in held)
        self._silent = set(missing) - current.set_aside.keys()
        self._patience.close(current.wait, missing, now)
        return [
            *steps,
            Round(
                current.number,
                current.body,
                answers,
                tuple(held),
                excluded,
                current.again,
                current.wait.opened_at,
                now,
                {name: self.quarantined[name] for name in excluded if name in self.quarantined},
                {name: self._explain(current, name) for name in missing},
                current.messages,
                current.bytes,
            ),
        ]

    # --- the settlement ---

    def _send_settlement(self, current: _OpenSettlement) -> list[Step]:
        def settlement(body: Body) -> Settlement[Body]:
            return Settlement(
                run=self.link.run,
                sender=self.link.coordinator,
                session=self.session,
                fingerprint=self.link.fingerprint,
                round=current.round,
                settled=current.settled,
                complete=current.complete,
                body=body,
            )

        return [*self._publish(settlement, current.body, self.members, qos=1)]

    def _on_receipt(self, receipt: Receipt, now: float) -> list[Step]:
        if self._settlement is None or receipt.round != self._settlement.round:
            self.stale += 1
            return []
        current = self._settlement
        if receipt.sender not in current.receipts:
            refused = self._check_receipt(receipt) is not None
            current.receipts[receipt.sender] = () if refused else tuple(receipt.missing)
            del current.missing[receipt.sender]
            self._patience.note_answer(current.wait, receipt.sender, now)
        return self._end_settlement_if_acknowledged(now)

    def _on_settlement_deadline(self, current: _OpenSettlement, now: float) -> list[Step]:
        wait = current.wait
        ended = self._end_settlement_if_acknowledged(now)
        if ended:
            return ended
        if now >= wait.deadline:
            if wait.tries == _SETTLEMENT_TRIES * self.policy.tries:
                return self._end_settlement(now)
            wait.tries += 1
            wait.deadline = now + self.policy.deadline_s
        wait.ask_again(now)
        return self._send_settlement(current)

    def _end_settlement_if_acknowledged(self, now: float) -> list[Step]:
        assert self._settlement is not None
        later = math.nextafter(now, math.inf)
        return [] if self._settlement_ends_at(self._settlement, later) == later else self._end_settlement(now)

    def _settlement_ends_at(self, current: _OpenSettlement, bound: float) -> float:
        """Give the time from which on nobody is waited for, `bound` if that is not before it.

        A member that has left is not waited for: it finds the settlement retained when it returns.
        """
        waiting = (name for name in current.missing if name in self._online)
        until = (self._patience.awaited_until(current.wait, name, late=name in current.late) for name in waiting)
        return _find_latest(until, bound)

    def _close_settlement(self, now: float) -> Mapping[str, tuple[str, ...]]:
        """End the settlement that is under way, if any; give the receipts that have come."""
        current, self._settlement = self._settlement, None
        if current is None:
            return {}
        self._patience.close(current.wait, current.missing, now)
        return current.receipts

    def _end_settlement(self, now: float) -> list[Step]:
        receipts = self._close_settlement(now)
        silent = [member for member in self.members if member not in receipts]
        below = [name for names in receipts.values() for name in names]
        return [SettlementAcknowledged((*silent, *below))]

    # --- both ---

    def _publish(
        self, message: Callable[[Body], Message], question: Question, members: Sequence[str], *, qos: int
    ) -> list[Publish]:
        """Publish one retained message for all members or, on an addressed link, one for each of `members`."""
        if isinstance(question, Body) and self.link.bodies.addressed:
            question = dict.fromkeys(members, question)
        if isinstance(question, Body):
            one = message(question)
            return [Publish(self.link.topic(one), self.link.write(one), qos=qos, retain=True)]
        return [
            Publish(self.link.topic(one, member), self.link.write(one), qos=qos, retain=True)
            for member, one in ((member, message(question[member])) for member in members)
        ]


def _find_latest(times: Iterable[float], bound: float) -> float:
    """Give the latest of `times`, -inf of none; `bound`, without looking at more of them, once one is not before it."""
    latest = -math.inf
    for time in times:
        if time >= bound:
            return bound
        latest = max(latest, time)
    return latest
