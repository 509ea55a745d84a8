"""The aggregator as a state machine: member of the leader, coordinator of its homes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stackelgrid.node.config import Members
from stackelgrid.node.limits import refusals
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.rounds import (
    Coordinator,
    Member,
    MembersGathered,
    MembersLost,
    QuestionReceived,
    Round,
    RoundPolicy,
    SettlementAcknowledged,
    SettlementReceived,
)
from stackelgrid.rounds.ledger import Ledger, dump_round, load_round
from stackelgrid.rounds.strategy import AggregatorStrategy, Ask, Question, Reply
from stackelgrid.transport.base import Action, FetchRetained, Finish, Publish
from stackelgrid.wire.codec import Link

_LOG = logging.getLogger("aggregator_node")

Journal = Callable[[Mapping[str, Any]], None]


class AggregatorNode:
    """Answers each of the leader's signals by rounds with its homes, as many as its strategy wants.

    `members` are its homes' processes; `journal` gets one record per finished round with them,
    `conclude` what the strategy makes of the settlement. It says that it is online once its members have gathered.
    Rounds that are in the `ledger` are not played again: it goes on from there.
    """

    def __init__(
        self,
        name: str,
        up: Link,
        down: Link,
        members: Sequence[Members],
        policy: RoundPolicy,
        strategy: AggregatorStrategy[Any, Any, Any, Any, Any, Any],
        *,
        journal: Journal,
        conclude: Journal,
        ledger: Ledger,
    ) -> None:
        self.name = name
        self.mailbox = Mailbox(up, down)
        self.progress = Progress()
        self._up, self._down, self._policy = up, down, policy
        self._homes = {member.name: member.homes for member in members}
        self._strategy, self._journal, self._conclude = strategy, journal, conclude
        self._member = Member(name, up)
        self._coordinator = Coordinator(down, list(self._homes), policy, refusals(members, self.mailbox))
        self._gathered = False
        self._answering = self._replied = self._inner = 0
        self._acknowledged_until: float | None = None
        self._ledger = ledger
        self._unasked: Ask[Any] | None = None
        self._recall()

    @property
    def subscriptions(self) -> Sequence[str]:
        """The leader's signals and settlement, and what the homes send."""
        return [*self._member.subscriptions, *self._coordinator.subscriptions]

    @property
    def last_will(self) -> Publish:
        """Tells the leader that the aggregator is gone."""
        return self._member.last_will

    def start(self, now: float) -> Sequence[Action]:
        """Connected."""
        self._member.note_contact(now)
        presence = self._member.start() if self._gathered else []
        return self._act([*presence, *self._coordinator.start(now)], now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """A payload from the broker."""
        if not payload:
            over = topic == self._up.topic_to_member("signal", self.name) and self._acknowledged_until is not None
            return self._leave() if over else []
        read = self.mailbox.read(topic, payload)
        if read is None:
            return []
        link, message = read
        if link is self._up:
            steps = self._member.receive(message)
            self._member.note_contact(now)
            return self._act(steps, now)
        return self._act(self._coordinator.receive(message, now), now)

    def next_deadline(self) -> float | None:
        """When the coordinator wants a tick, or the leader's farewell is overdue."""
        if self._acknowledged_until is not None:
            return self._acknowledged_until
        known = (self._coordinator.next_deadline(), self._member.next_deadline())
        return min((deadline for deadline in known if deadline is not None), default=None)

    def tick(self, now: float) -> Sequence[Action]:
        """The deadline has come."""
        if self._acknowledged_until is not None:
            return self._leave() if now >= self._acknowledged_until else []
        return self._act([*self._coordinator.tick(now), *self._member.tick(now)], now)

    def _act(self, steps: Sequence[object], now: float) -> list[Action]:
        actions: list[Action] = []
        for step in steps:
            match step:
                case Publish() | FetchRetained():
                    actions.append(step)
                case MembersGathered():
                    self._gathered = True
                    if step.absent:
                        _LOG.warning("homes absent at the start", extra={"data": {"absent": step.absent}})
                    actions += self._act(self._member.start(), now)
                    if self._unasked is not None:
                        wanted, self._unasked = self._unasked, None
                        actions += self._go_on(wanted, now)
                case QuestionReceived():
                    if self._unasked is not None:  # it was asked before the restart, under this number
                        self._coordinator.skip_to(self._coordinator.rounds + 1)
                    self._answering, self._inner, self._unasked = step.round, 0, None
                    signal = step.body.model_dump(mode="json")
                    self._ledger.append({"round": step.round, "signal": signal, "asked": self._coordinator.rounds})
                    self.progress.asked(step.round)
                    actions += self._go_on(self.progress.work(self._strategy.open, step.body), now)
                case Round() if step.answers:
                    actions += self._follow(step)
                case Round() | MembersLost():
                    # Nobody is left to answer for: nor does the aggregator, and its leader's policy takes effect.
                    _LOG.error("homes lost", extra={"data": {"round": self._answering}})
                case SettlementReceived():
                    ending = self.progress.work(self._strategy.settle, step.body)
                    self._conclude(ending.account)
                    self.progress.settled()
                    actions += self._act(self._settle(step, ending.body, now), now)
                case SettlementAcknowledged():
                    self._acknowledged_until = now + (self._policy.tries + 1) * self._policy.deadline_s
                    actions += self._act(self._member.acknowledge(list(step.missing)), now)
        return actions

    def _go_on(self, wanted: Ask[Any] | Reply[Any], now: float) -> list[Action]:
        if isinstance(wanted, Reply):
            self._replied = self._answering
            said = self._act(self._member.answer(self._answering, wanted.body), now)
            if said:
                self.progress.answered()
            return said
        self._inner += 1
        return self._act(self._coordinator.ask(wanted.body, now), now)

    def _recall(self) -> None:
        """Live through the rounds of before a restart, up to the question or the answer that comes next."""
        wanted: Ask[Any] | Reply[Any] | None = None
        for entry in self._ledger:
            if "signal" in entry:
                self._answering, self._inner = entry["round"], 0
                self._coordinator.skip_to(entry["asked"])
                wanted = self._strategy.open(self._up.bodies.signal.model_validate(entry["signal"]))
            else:
                finished = load_round(entry, self._down.bodies)
                self._inner += 1
                self._coordinator.resume(finished)
                wanted = self._strategy.on_answers(finished.body, finished.answers, finished.held, finished.excluded)
        if wanted is None:
            return
        if isinstance(wanted, Reply):
            self._replied = self._answering
        self._member.resume(self._answering, wanted.body if isinstance(wanted, Reply) else None)
        self._unasked = wanted if isinstance(wanted, Ask) else None

    def _follow(self, finished: Round) -> list[Action]:
        told = (finished.body, finished.answers, finished.held, finished.excluded)
        wanted = self.progress.work(self._strategy.on_answers, *told)
        self._ledger.append({"round": self._answering, **dump_round(finished)})
        account = {
            "round": self._answering,
            "inner": self._inner,
            **wanted.account,
            **finished.attendance,
            "ms": round(1000 * (finished.closed_at - finished.opened_at), 3),
        }
        self._journal(account)
        self.progress.finished(account)
        return self._go_on(wanted, finished.closed_at)

    def _settle(self, note_contact: SettlementReceived, body: Question, now: float) -> Sequence[object]:
        # One that does not remember its answer to the round that is settled cannot say what it means for its homes.
        complete = note_contact.complete and note_contact.round == self._replied
        return self._coordinator.settle(body, settled=note_contact.settled, complete=complete, now=now)

    def _leave(self) -> list[Action]:
        actions: list[Action] = []
        for step in (*self._coordinator.leave(), *self._member.leave()):
            if isinstance(step, Publish):
                actions.append(step)
        return [*actions, Finish()]
