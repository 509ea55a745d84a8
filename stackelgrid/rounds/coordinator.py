"""The side that asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stackelgrid.rounds.strategy import Question
from stackelgrid.transport.base import FetchRetained, Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Answer, Body, Message, Presence, Receipt, Settlement, Signal

_SETTLING_TRIES = 10
"""How many times as often as an answer a receipt is asked for: one who is there will have heard it in the end."""


@dataclass(frozen=True)
class RoundPolicy:
    """How long a coordinator waits, how often it asks again, and what it does without those still missing.

    `deadline_s` is the wait per try; after `tries` tries the missing are handled by `missing`: `hold` takes a member's
    last answer (a member that never answered is excluded), `exclude` leaves it out, `fail` ends the run. `gather_s` is
    how long members may take to appear before the first round, `return_s` how long one that has left may take to
    come back before rounds go on without it. A member with `quarantine_after` refused answers is not listened to any
    more, unless that is 0.
    """

    deadline_s: float = 5.0
    tries: int = 3
    missing: Literal["hold", "exclude", "fail"] = "hold"
    gather_s: float = 60.0
    return_s: float = 0.0
    quarantine_after: int = 0


@dataclass(frozen=True, slots=True)
class MembersGathered:
    """Every member is there, or `absent` had not come in time: the first round may be asked."""

    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """A finished round: what each member answered to `body`, and who did not.

    `answers` holds fresh and held answers in the order of the members; `held` and `excluded` name the missing by what
    was done about them, `quarantined` those of the excluded that are not listened to any more; `again` counts the
    members asked again.
    """

    number: int
    body: Question
    answers: dict[str, Body]
    held: tuple[str, ...]
    excluded: tuple[str, ...]
    again: int
    opened_at: float
    closed_at: float
    quarantined: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every member gave a fresh answer."""
        return not self.held and not self.excluded

    @property
    def attendance(self) -> dict[str, Any]:
        """Who answered and who did not, as a journal has it."""
        return {
            "answered": len(self.answers) - len(self.held),
            "held": list(self.held),
            "excluded": [name for name in self.excluded if name not in self.quarantined],
            "quarantined": list(self.quarantined),
            "again": self.again,
        }


@dataclass(frozen=True, slots=True)
class SettlementAcknowledged:
    """The settlement is known to every member but `missing`, names of members or of members below them."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MembersLost:
    """The round cannot go on without `members` (policy `fail`, or nobody left)."""

    members: tuple[str, ...]
    round: int


Step = Publish | FetchRetained | MembersGathered | Round | SettlementAcknowledged | MembersLost
AnswerCheck = Callable[[str, Body], str | None]


@dataclass
class _Asking:
    number: int
    body: Question
    opened_at: float
    deadline: float
    tries: int = 1
    again: int = 0
    answers: dict[str, Body] = field(default_factory=dict)


@dataclass
class _Settling:
    round: int
    settled: bool
    complete: bool
    body: Question
    deadline: float
    tries: int = 1
    receipts: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Coordinator:
    """A node's part as coordinator of its members.

    Gathers them, asks rounds numbered from 1, and makes its settlement known. A message is keyed by round and sender:
    the first answer counts, later ones and those of other rounds are counted in `repeated` and `stale` and ignored. A
    member that missed a round altogether gets one try, not all, in the rounds after, until it answers again.
    `refuses(member, body)` may reject an answer with a reason; it is then as if it had not come.
    """

    def __init__(
        self, link: Link, members: Sequence[str], policy: RoundPolicy, refuses: AnswerCheck = lambda member, body: None
    ) -> None:
        self.link = link
        self.members = tuple(members)
        self.policy = policy
        self.stale = 0
        self.repeated = 0
        self.refused: Counter[str] = Counter()
        self.quarantined: dict[str, str] = {}  # and why
        self._refuses = refuses
        self._online: set[str] = set()
        self._gone: dict[str, float] = {}  # when each left that is not there
        self._gathering_until: float | None = None
        self._has_gathered = False
        self._look_at = math.inf  # while gathering: a presence may have been lost on its way here
        self._asking: _Asking | None = None
        self._settling: _Settling | None = None
        self._rounds = 0
        self._latest: dict[str, Body] = {}
        self._silent: set[str] = set()

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topics a coordinator listens to."""
        return self.link.topics_from_members()

    def start(self, now: float) -> list[Step]:
        """Connected: gather the members; after a reconnect, say again what is current."""
        if self._settling is not None:
            return self._settlements(self._settling)
        if self._asking is not None:
            return self._signals(self._asking, again=[])
        if not self._has_gathered and self._gathering_until is None:
            self._gathering_until = now + self.policy.gather_s
            self._look_at = now + self.policy.deadline_s
        return []

    @property
    def rounds(self) -> int:
        """The number of the round that was asked last, 0 before the first."""
        return self._rounds

    def resume(self, finished: Round) -> None:
        """Remember a round that was finished before a restart; to be called before `start`, round by round."""
        self.skip_to(finished.number)
        missing = {*finished.held, *finished.excluded}
        self._latest.update({name: body for name, body in finished.answers.items() if name not in missing})

    def skip_to(self, number: int) -> None:
        """Rounds up to `number` were asked before a restart, finished or not: members know them as something else."""
        self._rounds = max(self._rounds, number)

    def ask(self, body: Question, now: float) -> list[Step]:
        """Open the next round."""
        self._rounds += 1
        self._asking = _Asking(self._rounds, body, now, now + self.policy.deadline_s)
        return self._signals(self._asking, again=[])

    def settle(self, body: Question, *, settled: bool, complete: bool, now: float) -> list[Step]:
        """Make the last word known and collect receipts."""
        self._asking = None
        self._settling = _Settling(max(self._rounds, 1), settled, complete, body, now + self.policy.deadline_s)
        return [*self._settlements(self._settling), *self._acknowledged_if_all()]

    def leave(self) -> list[Step]:
        """Clear the retained signals: this conversation is over. The settlement stays for those who were away."""
        topics = dict.fromkeys(self.link.topic_to_member("signal", member) for member in self.members)
        return [Publish(topic, b"", qos=1, retain=True) for topic in topics]

    def receive(self, message: Message, now: float) -> list[Step]:
        """A message of a member; one from a node that is not a member is counted as stale."""
        if message.sender not in self.members or (
            message.sender in self.quarantined and not isinstance(message, Receipt)
        ):
            self.stale += 1
            return []
        if isinstance(message, Answer):
            return self._on_answer(message, now)
        if isinstance(message, Receipt):
            return self._on_receipt(message)
        if isinstance(message, Presence):
            return self._on_presence(message, now)
        return []

    def next_deadline(self) -> float | None:
        """When `tick` is wanted, on the clock of `now`."""
        if self._settling is not None:
            return self._settling.deadline
        if self._asking is not None:
            return min(self._asking.deadline, self._closes_at(self._asking))
        return None if self._gathering_until is None else min(self._gathering_until, self._look_at)

    def tick(self, now: float) -> list[Step]:
        """Time has passed: ask again, or go on without the missing."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self._settling is not None:
            return self._settlement_overdue(self._settling, now)
        if self._asking is not None and now < self._asking.deadline:
            return self._close_if_only_gone(now)
        if self._asking is not None:
            return self._round_overdue(self._asking, now)
        if self._gathering_until is not None and now < self._gathering_until:
            self._look_at = now + self.policy.deadline_s
            return [FetchRetained()]
        return self._gathered()

    # --- gathering ---

    def _on_presence(self, presence: Presence, now: float) -> list[Step]:
        if presence.state == "offline":
            self._online.discard(presence.sender)
            self._gone[presence.sender] = now
            if self._gathering_until is not None:
                return self._gathered_if_all()
            return self._acknowledged_if_all() if self._settling is not None else self._close_if_only_gone(now)
        back = presence.sender not in self._online
        self._online.add(presence.sender)
        self._gone.pop(presence.sender, None)
        if self._gathering_until is not None:
            return self._gathered_if_all()
        if back and self._asking is not None and presence.sender not in self._asking.answers:
            # It finds the signal retained; said again in case that was lost.
            return self._signals(self._asking, again=[presence.sender])
        return []

    def _gathered_if_all(self) -> list[Step]:
        """Everybody is there or is known to have gone."""
        return self._gathered() if len(self._online | self._gone.keys()) == len(self.members) else []

    def _gathered(self) -> list[Step]:
        self._gathering_until, self._has_gathered = None, True
        return [MembersGathered(tuple(member for member in self.members if member not in self._online))]

    # --- a round ---

    def _signals(self, asking: _Asking, again: list[str]) -> list[Step]:
        """To all, naming those asked `again`; on an addressed link to these alone, if there are any."""

        def signal(body: Body) -> Signal[Body]:
            return Signal(run=self.link.run, sender=self.link.coordinator, round=asking.number, again=again, body=body)

        return self._publish(signal, asking.body, again or self.members, qos=0)

    def _on_answer(self, answer: Answer[Body], now: float) -> list[Step]:
        asking = self._asking
        if asking is None or answer.round != asking.number:
            self.stale += 1
            return []
        if answer.sender in asking.answers:
            self.repeated += 1
            return []
        objection = self._refuses(answer.sender, answer.body)
        if objection is not None:
            return self._on_refused(answer.sender, objection, now)
        self._online.add(answer.sender)
        asking.answers[answer.sender] = answer.body
        if len(asking.answers) == len(self.members):
            return self._close(asking, now)
        return self._close_if_only_gone(now)

    def _on_refused(self, member: str, objection: str, now: float) -> list[Step]:
        """As if it had not answered; one that keeps at it is treated as gone, for good."""
        self.refused[member] += 1
        if not self.policy.quarantine_after or self.refused[member] < self.policy.quarantine_after:
            return []
        self.quarantined[member] = objection
        self._online.discard(member)
        self._latest.pop(member, None)
        return self._close_if_only_gone(now)

    def _missing(self, asking: _Asking) -> list[str]:
        return [member for member in self.members if member not in asking.answers]

    def _close_if_only_gone(self, now: float) -> list[Step]:
        """A member that has left, and is not back in time, is not waited for, unless the run cannot go on without."""
        asking = self._asking
        if asking is None or not asking.answers or self.policy.missing == "fail":
            return []
        gone = len(self._online) < len(self.members)
        missing = self._missing(asking)
        awaited = not self._online.isdisjoint(missing) or now < self._back_by(missing)
        return self._close(asking, now) if gone and not awaited else []

    def _closes_at(self, asking: _Asking) -> float:
        """When the round closes because the missing have left and are not back; inf when it is not left to them."""
        missing = self._missing(asking)
        left_to_them = asking.answers and self.policy.missing != "fail" and self._online.isdisjoint(missing)
        back_by = self._back_by(missing)
        return back_by if left_to_them and back_by > -math.inf else math.inf

    def _back_by(self, missing: Collection[str]) -> float:
        """Until when one of `missing` that has left may come back, on the clock of `now`; -inf when none has."""
        left = [self._gone[name] for name in missing if name in self._gone]
        return max(left) + self.policy.return_s if left else -math.inf

    def _round_overdue(self, asking: _Asking, now: float) -> list[Step]:
        missing = self._missing(asking)
        if asking.tries < self.policy.tries and not self._silent.issuperset(missing):
            asking.tries += 1
            asking.again += len(missing)
            asking.deadline = now + self.policy.deadline_s
            return self._signals(asking, again=missing)
        if now < self._back_by(missing):
            asking.deadline = self._back_by(missing)
            return []
        if self.policy.missing == "fail" or not (asking.answers or self._latest):
            self._asking = None
            return [MembersLost(tuple(missing), asking.number)]
        return self._close(asking, now)

    def _close(self, asking: _Asking, now: float) -> list[Step]:
        missing = self._missing(asking)
        held = [name for name in missing if self.policy.missing == "hold" and name in self._latest]
        answers = {
            member: asking.answers.get(member) or self._latest[member]
            for member in self.members
            if member in asking.answers or member in held
        }
        self._latest.update(asking.answers)
        self._silent = set(missing)
        self._asking = None
        excluded = tuple(name for name in missing if name not in held)
        quarantined = tuple(name for name in excluded if name in self.quarantined)
        return [
            Round(
                asking.number,
                asking.body,
                answers,
                tuple(held),
                excluded,
                asking.again,
                asking.opened_at,
                now,
                quarantined,
            )
        ]

    # --- the settlement ---

    def _settlements(self, settling: _Settling) -> list[Step]:
        def settlement(body: Body) -> Settlement[Body]:
            return Settlement(
                run=self.link.run,
                sender=self.link.coordinator,
                round=settling.round,
                settled=settling.settled,
                complete=settling.complete,
                body=body,
            )

        return self._publish(settlement, settling.body, self.members, qos=1)

    def _on_receipt(self, receipt: Receipt) -> list[Step]:
        if self._settling is None or receipt.round != self._settling.round:
            self.stale += 1
            return []
        self._settling.receipts[receipt.sender] = tuple(receipt.missing)
        return self._acknowledged_if_all()

    def _acknowledged_if_all(self) -> list[Step]:
        assert self._settling is not None
        # A member that has left is not waited for: it finds the settlement retained when it returns.
        waiting = [name for name in self.members if name in self._online and name not in self._settling.receipts]
        return [] if waiting else self._acknowledged()

    def _settlement_overdue(self, settling: _Settling, now: float) -> list[Step]:
        if settling.tries < _SETTLING_TRIES * self.policy.tries:
            settling.tries += 1
            settling.deadline = now + self.policy.deadline_s
            return self._settlements(settling)
        return self._acknowledged()

    def _acknowledged(self) -> list[Step]:
        assert self._settling is not None
        settling, self._settling = self._settling, None
        untold = [member for member in self.members if member not in settling.receipts]
        below = [name for names in settling.receipts.values() for name in names]
        return [SettlementAcknowledged((*untold, *below))]

    def _publish(
        self, message: Callable[[Body], Message], said: Question, members: Sequence[str], *, qos: int
    ) -> list[Step]:
        """What is said, as one message to all or as one to each of `members`."""
        if isinstance(said, Body) and self.link.bodies.addressed:
            said = dict.fromkeys(members, said)
        if isinstance(said, Body):
            one = message(said)
            return [Publish(self.link.topic(one), self.link.write(one), qos=qos, retain=True)]
        return [
            Publish(self.link.topic(one, member), self.link.write(one), qos=qos, retain=True)
            for member, one in ((member, message(said[member])) for member in members)
        ]
