"""The side that answers."""

from __future__ import annotations

from dataclasses import dataclass

from stackelgrid.transport.base import FetchRetained, Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Answer, Body, Message, Presence, Receipt, Settlement, Signal


@dataclass(frozen=True, slots=True)
class QuestionReceived:
    """Work out an answer to `body` and hand it to `Member.answer` with the same round."""

    round: int
    body: Body


@dataclass(frozen=True, slots=True)
class SettlementReceived:
    """The coordinator's last word, seen for the first time; acknowledge it with `Member.acknowledge`."""

    round: int
    settled: bool
    complete: bool
    body: Body


Step = Publish | FetchRetained | QuestionReceived | SettlementReceived


class Member:
    """A node's part as member of one coordinator.

    It answers each round once; asked again for a round it has answered, it repeats the same answer, so receiving a
    signal twice is receiving it once. A signal of an earlier round is counted in `stale` and ignored. With `renumbered`
    the same number with another question is another question: of a coordinator that may have lost all it knew, and then
    counts from one again.
    """

    def __init__(self, name: str, link: Link, silence_s: float = 30.0, *, renumbered: bool = False) -> None:
        self.name = name
        self.link = link
        self.silence_s = silence_s
        self._renumbered = renumbered
        self._look_at: float | None = None
        self.stale = 0
        self._round = 0
        self._question: Body | None = None
        self._answer: Publish | None = None
        self._settlement: Settlement[Body] | None = None
        self._receipt: Publish | None = None

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topics a member listens to."""
        return self.link.topics_from_coordinator(self.name)

    @property
    def last_will(self) -> Publish:
        """What the broker says when the member is gone without a word."""
        return self._publish(self._presence("offline"), retain=True)

    def start(self) -> list[Step]:
        """Connected, for the first time or again: say so."""
        return [self._publish(self._presence("online"), retain=True)]

    def resume(self, round_number: int, body: Body | None) -> None:
        """Remember the round that was asked last before a restart, and its answer if there was one."""
        self._round = round_number
        self._answer = None
        if body is not None:
            self.answer(round_number, body)

    def note_contact(self, now: float) -> None:
        """The coordinator was heard, or there was a new connection: after `silence_s` without that, look again."""
        self._look_at = None if self._settlement is not None else now + self.silence_s

    def next_deadline(self) -> float | None:
        """When `tick` is wanted, on the clock of `now`."""
        return self._look_at

    def tick(self, now: float) -> list[Step]:
        """What the coordinator said last may have been lost on its way here: look at what is retained."""
        if self._look_at is None or now < self._look_at:
            return []
        self._look_at = now + self.silence_s
        return [FetchRetained()]

    def receive(self, message: Message) -> list[Step]:
        """A message of the coordinator."""
        if isinstance(message, Signal):
            return self._on_signal(message)
        if isinstance(message, Settlement):
            return self._on_settlement(message)
        return []

    def answer(self, round_number: int, body: Body) -> list[Step]:
        """Send the answer to a round; nothing when the coordinator has moved on meanwhile."""
        if round_number != self._round or self._settlement is not None:
            self.stale += 1
            return []
        answer = Answer(run=self.link.run, sender=self.name, round=round_number, body=body)
        self._answer = self._publish(answer, qos=0)
        return [self._answer]

    def acknowledge(self, missing: list[str]) -> list[Step]:
        """Confirm the settlement, naming own members that could not be told."""
        if self._settlement is None:
            return []
        receipt = Receipt(run=self.link.run, sender=self.name, round=self._settlement.round, missing=missing)
        self._receipt = self._publish(receipt)
        return [self._receipt]

    def leave(self) -> list[Step]:
        """Going in good order: clear the retained presence."""
        return [Publish(self.link.topic(self._presence("offline")), b"", qos=1, retain=True)]

    def _on_signal(self, signal: Signal[Body]) -> list[Step]:
        if self._settlement is not None or signal.round < self._round:
            self.stale += 1
            return []
        another = self._renumbered and signal.round == self._round and signal.body != self._question
        if signal.round > self._round or another:
            self._round, self._question, self._answer = signal.round, signal.body, None
            return [QuestionReceived(signal.round, signal.body)]
        if self._answer is not None and (not signal.again or self.name in signal.again):
            return [self._answer]
        return []

    def _on_settlement(self, settlement: Settlement[Body]) -> list[Step]:
        if self._settlement is None:
            self._settlement = settlement
            return [SettlementReceived(settlement.round, settlement.settled, settlement.complete, settlement.body)]
        return [self._receipt] if self._receipt is not None else []

    def _presence(self, state: str) -> Presence:
        return Presence.model_validate({"run": self.link.run, "sender": self.name, "state": state})

    def _publish(self, message: Message, *, qos: int = 1, retain: bool = False) -> Publish:
        return Publish(self.link.topic(message), self.link.write(message), qos=qos, retain=retain)
