"""The side that answers: tell the coordinator that it is online, answer its rounds, acknowledge its settlement.

`Member` takes messages and clock readings and returns steps. A step is an action for the transport (`Publish`,
`FetchRetained`) or an event for the node (`QuestionReceived`, `RefusalReceived`, `SettlementReceived`).
"""

from __future__ import annotations

from dataclasses import dataclass

from stackelgrid.transport.base import FetchRetained, Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Answer, Body, Message, Presence, Receipt, Refusal, Settlement, Signal

_SILENCE_S = 30.0
"""After so long without a sign of the coordinator, a member fetches what is retained."""


@dataclass(frozen=True, slots=True)
class QuestionReceived:
    """Event: a signal of the coordinator asks `body`. Give the answer to `Member.answer` with the same round."""

    round: int
    body: Body
    session: int = 1


@dataclass(frozen=True, slots=True)
class SettlementReceived:
    """Event: the coordinator's settlement, received for the first time. Confirm it with `Member.acknowledge`."""

    round: int
    settled: bool
    complete: bool
    body: Body
    session: int = 1


@dataclass(frozen=True, slots=True)
class RefusalReceived:
    """Event: the coordinator refuses what the node answered in `round`, with `final` all that follows too."""

    round: int
    reason: str
    final: bool


Step = Publish | FetchRetained | QuestionReceived | RefusalReceived | SettlementReceived


class Member:
    """A node's part as member of one coordinator.

    It answers each round once. Asked again for a round it has answered, it sends the same answer again, so that a
    signal received twice counts once. What is of an earlier round or session is counted in `stale` and ignored; with
    the first signal or settlement of a later session the member goes on to that. Without a sign of
    the coordinator for half a minute, it fetches what is retained. With `renumbered`, the same round number with
    another question is a new question: the coordinator may have lost its ledger and then counts from one again.
    """

    def __init__(self, name: str, link: Link, *, renumbered: bool = False) -> None:
        self.name = name
        self.link = link
        self.stale = 0
        self._renumbered = renumbered
        self._fetch_at: float | None = None
        self._question: Body | None
        self._answer: Publish | None
        self._settlement: Settlement[Body] | None
        self._receipt: Publish | None
        self._begin_session(1)

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Give the topics that a member subscribes to."""
        return self.link.topics_from_coordinator(self.name)

    @property
    def last_will(self) -> Publish:
        """Give the message that the broker publishes when the member's connection is lost."""
        return self._publish(self._presence("offline"), retain=True)

    def start(self, *, gathering: bool = False) -> list[Step]:
        """Publish that the member is online, or still `gathering` members of its own, after each connection."""
        return [self._publish(self._presence("gathering" if gathering else "online"), retain=True)]

    def resume(self, round_number: int, body: Body | None, question: Body | None = None, *, session: int = 1) -> None:
        """Take over the round that was asked last before a restart, and its answer if there was one."""
        self._begin_session(session)
        self._round, self._question = round_number, question
        self._answer = None
        if body is not None:
            self.answer(round_number, body)

    def move(self, link: Link) -> None:
        """Go on as member of another coordinator, in the same session; one that is over for it stays so."""
        self.link = link
        self._round, self._question, self._answer, self._receipt = 0, None, None, None

    def note_contact(self, now: float) -> None:
        """Note a message of the coordinator or a new connection: the wait of `_SILENCE_S` begins anew."""
        over = self._settlement is not None and self._session == len(self.link.sessions)
        self._fetch_at = None if over else now + _SILENCE_S

    def next_deadline(self) -> float | None:
        """Give the time at which to call `tick`, on the clock of `now`, or None."""
        return self._fetch_at

    def tick(self, now: float) -> list[Step]:
        """After `_SILENCE_S` without contact, fetch what is retained: a message may have been lost on its way here."""
        if self._fetch_at is None or now < self._fetch_at:
            return []
        self._fetch_at = now + _SILENCE_S
        return [FetchRetained()]

    def receive(self, message: Message) -> list[Step]:
        """Take a message of the coordinator."""
        if isinstance(message, Signal):
            return self._on_signal(message)
        if isinstance(message, Settlement):
            return self._on_settlement(message)
        if isinstance(message, Refusal):
            return [RefusalReceived(message.round, message.reason, message.final)]
        return []

    def answer(self, round_number: int, body: Body) -> list[Step]:
        """Send the answer to a round; when the coordinator has gone on meanwhile, count it in `stale` instead."""
        if round_number != self._round or self._settlement is not None:
            self.stale += 1
            return []
        answer = Answer(run=self.link.run, sender=self.name, session=self._session, round=round_number, body=body)
        self._answer = self._publish(answer, qos=0)
        return [self._answer]

    def acknowledge(self, missing: list[str]) -> list[Step]:
        """Confirm the settlement, naming those of its own members that have not acknowledged theirs."""
        if self._settlement is None:
            return []
        receipt = Receipt(
            run=self.link.run,
            sender=self.name,
            session=self._session,
            round=self._settlement.round,
            missing=missing,
        )
        self._receipt = self._publish(receipt)
        return [self._receipt]

    def leave(self) -> list[Step]:
        """Clear the retained presence, before the node leaves the broker."""
        return [Publish(self.link.topic(self._presence("offline")), b"", qos=1, retain=True)]

    def _begin_session(self, number: int) -> None:
        self._session, self._round = number, 0
        self._question = self._answer = self._settlement = self._receipt = None

    def _is_stale(self, message: Signal[Body] | Settlement[Body]) -> bool:
        """Tell whether a message is of an earlier session; go on to the one that it is of where that is later."""
        if message.session > self._session:
            self._begin_session(message.session)
        self.stale += message.session < self._session
        return message.session < self._session

    def _on_signal(self, signal: Signal[Body]) -> list[Step]:
        if self._is_stale(signal):
            return []
        if self._settlement is not None or signal.round < self._round:
            self.stale += 1
            return []
        new_question = self._renumbered and signal.round == self._round and signal.body != self._question
        if signal.round > self._round or new_question:
            self._round, self._question, self._answer = signal.round, signal.body, None
            return [QuestionReceived(signal.round, signal.body, signal.session)]
        if self._answer is not None and (not signal.again or self.name in signal.again):
            return [self._answer]
        return []

    def _on_settlement(self, settlement: Settlement[Body]) -> list[Step]:
        if self._is_stale(settlement):
            return []
        if self._settlement is None:
            self._settlement = settlement
            settled, complete = settlement.settled, settlement.complete
            return [SettlementReceived(settlement.round, settled, complete, settlement.body, settlement.session)]
        return [self._receipt] if self._receipt is not None else []

    def _presence(self, state: str) -> Presence:
        return Presence.model_validate({"run": self.link.run, "sender": self.name, "state": state})

    def _publish(self, message: Message, *, qos: int = 1, retain: bool = False) -> Publish:
        return Publish(self.link.topic(message), self.link.write(message), qos=qos, retain=retain)
