"""The EMC as a state machine: member of its aggregator, answering for the homes of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.node.record import Recorder, discard
from stackelgrid.rounds import Member, QuestionReceived, RefusalReceived, SettlementReceived
from stackelgrid.rounds.settings import PrivacySettings
from stackelgrid.rounds.strategy import HomeStrategy, StatefulHomeStrategy
from stackelgrid.transport.base import Action, Compute, FetchRetained, Finish, Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Body
from stackelgrid.wire.roles import Role

LINGER_S = 60.0
"""Seconds that an EMC waits for the end of the run after it has acknowledged the settlement."""


class EmcNode:
    """Answers each signal for its homes, and carries out the settlement alone.

    `act` receives, once, what each home will do; this stays in the home (in a simulation: with the run's results).
    `privacy` bounds how many different questions are answered, counted anew after a restart.
    `remember` gets, after each answer, what later ones depend on, where they do; `memory` is the last of it from before
    a restart.
    """

    role = Role.HOME

    def __init__(
        self,
        name: str,
        link: Link,
        strategy: HomeStrategy[Any, Any, Any],
        act: Callable[[Mapping[str, Any]], None],
        remember: Recorder = discard,
        memory: Mapping[str, Any] | None = None,
        privacy: PrivacySettings | None = None,
    ) -> None:
        self.name = name
        self.mailbox = Mailbox(link)
        self.progress = Progress()
        self._link, self._strategy, self._carry_out, self._remember = link, strategy, act, remember
        self._member = Member(name, link, renumbered=True)  # an aggregator may come back without its disk
        self._leave_by: float | None = None
        self._privacy, self._answered = privacy or PrivacySettings(), set[bytes]()
        if memory is not None and isinstance(strategy, StatefulHomeStrategy):
            strategy.recall(memory["homes"])
            answer, question = (
                model.model_validate(memory[key])
                for key, model in (("answer", link.bodies.answer), ("question", link.bodies.signal))
            )
            self._member.resume(memory["round"], answer, question)

    @property
    def subscriptions(self) -> Sequence[str]:
        """Give the topics of the aggregator's signals and settlement."""
        return self._member.subscriptions

    @property
    def last_will(self) -> Publish:
        """Give the message by which the aggregator learns that the connection is lost."""
        return self._member.last_will

    def start(self, now: float) -> Sequence[Action]:
        """Come online after a connect."""
        self._member.note_contact(now)
        return self._perform(self._member.start())

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a message from the broker."""
        if not payload:
            run_is_over = topic == self._link.topic_to_member("signal", self.name) and self._leave_by is not None
            return self._leave() if run_is_over else []
        read = self.mailbox.read(topic, payload)
        if read is None:
            return []
        steps = self._member.receive(read[1])
        self._member.note_contact(now)
        return self._perform(steps)

    def next_deadline(self) -> float | None:
        """Give the time at which the aggregator has been silent for too long, or the end of the run is overdue."""
        return self._leave_by if self._leave_by is not None else self._member.next_deadline()

    def tick(self, now: float) -> Sequence[Action]:
        """Act on the deadline."""
        if self._leave_by is None:
            return self._perform(self._member.tick(now))
        return self._leave() if now >= self._leave_by else []

    def _perform(self, steps: Sequence[object]) -> list[Action]:
        """Pass the member's actions on and respond to its events."""
        actions: list[Action] = []
        for step in steps:
            match step:
                case Publish() | FetchRetained():
                    actions.append(step)
                case QuestionReceived():
                    actions += self._answer(step)
                case SettlementReceived():
                    actions.append(self._settle(step))
                case RefusalReceived(round_number, reason, final):
                    self.progress.note_refusal(round_number, reason, final=final)
        return actions

    def _answer(self, question: QuestionReceived) -> list[Action]:
        def then(body: Any, now: float) -> list[Action]:
            self._save(question, body)
            actions = self._perform(self._member.answer(question.round, body))
            if actions:
                self.progress.count_answer()
            return actions

        self.progress.start_round(question.round)
        if objection := self._find_objection(question.body):
            self.mailbox.reject("over_budget", "signal", objection)
            return []
        solve = partial(self.progress.work, self._strategy.answer, question.body)
        return then(solve(), 0.0) if self._strategy.quick else [Compute(solve, then)]

    def _find_objection(self, question: Body) -> str | None:
        """Count a question, and object to it when with it the homes would disclose more than they are set to."""
        answered, most = self._answered.union(question.questions), self._privacy.questions_per_session
        if len(answered) > most:
            return f"{len(answered)} different questions, at most {most} are answered (privacy.questions_per_session)"
        self._answered = answered
        return None

    def _save(self, question: QuestionReceived, answer: Body) -> None:
        """Save what a restart would lose, before the answer is sent."""
        homes = self._strategy.remember() if isinstance(self._strategy, StatefulHomeStrategy) else None
        if homes is not None:
            bodies = {"question": question.body.model_dump(mode="json"), "answer": answer.model_dump(mode="json")}
            self._remember({"round": question.round, **bodies, "homes": homes})

    def _settle(self, settlement: SettlementReceived) -> Compute:
        def then(homes: Any, now: float) -> Sequence[Action]:
            self._carry_out(homes)
            self.progress.settle()
            self._leave_by = now + LINGER_S
            return self._perform(self._member.acknowledge([]))

        return Compute(partial(self.progress.work, self._strategy.settle, settlement.body), then)

    def _leave(self) -> list[Action]:
        self._leave_by = None
        return [*self._perform(self._member.leave()), Finish()]
