"""The EMC as a state machine: member of its aggregator, answering for the homes of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.rounds import Member, QuestionReceived, SettlementReceived
from stackelgrid.rounds.strategy import HomeStrategy
from stackelgrid.transport.base import Action, Compute, FetchRetained, Finish, Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.roles import Role

LINGER_S = 60.0
"""How long an EMC stays for its aggregator's farewell after it has acknowledged the settlement."""


class EmcNode:
    """Answers each signal with what its homes would do, and acts on the settlement alone.

    `act` gets, once, what each home will do; it stays in the home (or on the desk, for verification).
    """

    role = Role.HOME

    def __init__(
        self, name: str, link: Link, strategy: HomeStrategy[Any, Any, Any], act: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self.name = name
        self.mailbox = Mailbox(link)
        self.progress = Progress()
        self._link, self._strategy, self._act_on = link, strategy, act
        self._member = Member(name, link, renumbered=True)  # an aggregator may come back without its disk
        self._leaving_at: float | None = None

    @property
    def subscriptions(self) -> Sequence[str]:
        """The aggregator's signals and settlement."""
        return self._member.subscriptions

    @property
    def last_will(self) -> Publish:
        """Tells the aggregator that the home is gone."""
        return self._member.last_will

    def start(self, now: float) -> Sequence[Action]:
        """Connected."""
        self._member.note_contact(now)
        return self._act(self._member.start())

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """A payload from the broker."""
        if not payload:
            over = topic == self._link.topic_to_member("signal", self.name) and self._leaving_at is not None
            return self._leave() if over else []
        read = self.mailbox.read(topic, payload)
        if read is None:
            return []
        steps = self._member.receive(read[1])
        self._member.note_contact(now)
        return self._act(steps)

    def next_deadline(self) -> float | None:
        """When the aggregator has been silent for long, or its farewell is overdue."""
        return self._leaving_at if self._leaving_at is not None else self._member.next_deadline()

    def tick(self, now: float) -> Sequence[Action]:
        """The deadline has come."""
        if self._leaving_at is None:
            return self._act(self._member.tick(now))
        return self._leave() if now >= self._leaving_at else []

    def _act(self, steps: Sequence[object]) -> list[Action]:
        actions: list[Action] = []
        for step in steps:
            match step:
                case Publish() | FetchRetained():
                    actions.append(step)
                case QuestionReceived():
                    actions += self._answer(step)
                case SettlementReceived():
                    actions.append(self._settle(step))
        return actions

    def _answer(self, asked: QuestionReceived) -> list[Action]:
        def then(body: Any, now: float) -> list[Action]:
            said = self._act(self._member.answer(asked.round, body))
            if said:
                self.progress.count_answer()
            return said

        self.progress.start_round(asked.round)
        solve = partial(self.progress.work, self._strategy.answer, asked.body)
        return then(solve(), 0.0) if self._strategy.quick else [Compute(solve, then)]

    def _settle(self, settled: SettlementReceived) -> Compute:
        def then(homes: Any, now: float) -> Sequence[Action]:
            self._act_on(homes)
            self.progress.settle()
            self._leaving_at = now + LINGER_S
            return self._act(self._member.acknowledge([]))

        return Compute(partial(self.progress.work, self._strategy.settle, settled.body), then)

    def _leave(self) -> list[Action]:
        self._leaving_at = None
        return [*self._act(self._member.leave()), Finish()]
