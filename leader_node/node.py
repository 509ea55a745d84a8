"""The leader as a state machine: gather, ask, decide, ask again, settle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from stackelgrid.node.config import Members
from stackelgrid.node.limits import refusals
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.rounds import Coordinator, MembersGathered, MembersLost, Round, RoundPolicy, SettlementAcknowledged
from stackelgrid.rounds.ledger import Ledger, dump_round, load_round
from stackelgrid.rounds.strategy import Decision, LeaderStrategy
from stackelgrid.transport.base import Action, Compute, FetchRetained, Finish, Publish
from stackelgrid.wire.codec import Link

_LOG = logging.getLogger("leader_node")
_PATIENCE = 2
"""How often a decision that could be settled is asked again because an answer to it was not fresh."""

Journal = Callable[[Mapping[str, Any]], None]


class LeaderNode:
    """Coordinator of the aggregators. `journal` gets one record per finished round, `conclude` one of the end.

    Rounds that are in the `ledger` are not played again: it goes on from there.
    """

    def __init__(
        self,
        name: str,
        link: Link,
        members: Sequence[Members],
        policy: RoundPolicy,
        strategy: LeaderStrategy[Any, Any, Any],
        *,
        max_rounds: int,
        journal: Journal,
        conclude: Journal,
        ledger: Ledger,
    ) -> None:
        self.name = name
        self.mailbox = Mailbox(link)
        self.progress = Progress()
        self.last_will: Publish | None = None
        names = [member.name for member in members]
        self._coordinator = Coordinator(link, names, policy, refusals(members, self.mailbox))
        self._strategy = strategy
        self._max_rounds = max_rounds
        self._journal = journal
        self._conclude = conclude
        self._ledger = ledger
        self._confirmations = 0
        self._decision: Decision[Any, Any] | None = None
        self._last: Round | None = None
        self._ending: dict[str, Any] = {}
        for entry in ledger:
            self._recall(load_round(entry, link.bodies))

    @property
    def subscriptions(self) -> Sequence[str]:
        """The members' answers, receipts and presence."""
        return self._coordinator.subscriptions

    def start(self, now: float) -> Sequence[Action]:
        """Connected."""
        return self._act(self._coordinator.start(now), now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """A payload from the broker."""
        if not payload:
            return []  # a retained message was cleared
        read = self.mailbox.read(topic, payload)
        return [] if read is None else self._act(self._coordinator.receive(read[1], now), now)

    def next_deadline(self) -> float | None:
        """When the coordinator wants a tick."""
        return self._coordinator.next_deadline()

    def tick(self, now: float) -> Sequence[Action]:
        """The deadline has come."""
        return self._act(self._coordinator.tick(now), now)

    def _act(self, steps: Sequence[object], now: float) -> list[Action]:
        actions: list[Action] = []
        for step in steps:
            match step:
                case Publish() | FetchRetained():
                    actions.append(step)
                case MembersGathered():
                    actions += self._begin(now)
                    if step.absent:
                        _LOG.warning("members absent at the start", extra={"data": {"absent": step.absent}})
                case Round():
                    actions.append(self._decide(step))
                case MembersLost():
                    _LOG.error("members lost", extra={"data": {"members": step.members, "round": step.round}})
                    self._ending = {"lost": list(step.members)}
                    actions += self._act(self._settle(settled=False, complete=False, now=now), now)
                case SettlementAcknowledged():
                    self._conclude({**self._ending, "unacknowledged": list(step.missing)})
                    actions += [*self._act(self._coordinator.leave(), now), Finish()]
        return actions

    def _begin(self, now: float) -> Sequence[Action]:
        if self._decision is None:
            return [Compute(partial(self.progress.work, self._strategy.open), self._opened)]
        _LOG.info("going on", extra={"data": {"round": self._last.number if self._last else 0}})
        return self._act(self._go_on(now), now)

    def _opened(self, decision: Decision[Any, Any], now: float) -> Sequence[Action]:
        self._decision = decision
        return self._act(self._ask(decision, now), now)

    def _ask(self, decision: Decision[Any, Any], now: float) -> Sequence[object]:
        steps = self._coordinator.ask(decision.ask, now)
        self.progress.asked(self._coordinator.rounds)
        return steps

    def _recall(self, finished: Round) -> None:
        """Live through a round of before a restart."""
        if self._decision is None:
            self._decision = self._strategy.open()
        self._coordinator.resume(finished)
        self._take(finished, self._decided(finished))

    def _decide(self, finished: Round) -> Compute:
        def then(decision: Decision[Any, Any], now: float) -> Sequence[Action]:
            return self._act(self._follow(finished, decision, now), now)

        return Compute(lambda: self._decided(finished), then)

    def _decided(self, finished: Round) -> Decision[Any, Any]:
        """What follows from a round; from one that nobody answered nothing does, and the same is asked again."""
        if not finished.answers and self._decision is not None:
            return self._decision
        return self.progress.work(self._strategy.decide, finished.body, finished.answers, finished.held)

    def _follow(self, finished: Round, decision: Decision[Any, Any], now: float) -> Sequence[object]:
        self._take(finished, decision)
        account = {
            "round": finished.number,
            **decision.account,
            "residual": decision.residual,
            **finished.attendance,
            "complete": self._complete,
            "ms": round(1000 * (now - finished.opened_at), 3),
        }
        self._ledger.append({**dump_round(finished), "account": account})
        self._journal(account)
        self.progress.finished(account)
        return self._go_on(now)

    def _take(self, finished: Round, decision: Decision[Any, Any]) -> None:
        self._last, self._decision = finished, decision
        self._complete = finished.complete and all(body.fresh for body in finished.answers.values())
        self._confirmations += decision.settle and not self._complete

    def _go_on(self, now: float) -> Sequence[object]:
        """Ask on, or settle: on a round that everybody answered, or when that does not come."""
        assert self._decision is not None and self._last is not None
        confirmed = self._complete or self._confirmations > _PATIENCE
        if self._decision.settle and confirmed:
            return self._settle(settled=True, complete=self._complete, now=now)
        if self._last.number >= self._max_rounds:
            return self._settle(settled=False, complete=self._complete, now=now)
        return self._ask(self._decision, now)

    def _settle(self, *, settled: bool, complete: bool, now: float) -> Sequence[object]:
        decision = self._decision
        assert decision is not None
        self._ending |= {"settled": settled, "complete": complete, "residual": decision.residual}
        self.progress.settled()
        return self._coordinator.settle(decision.settlement, settled=settled, complete=complete, now=now)
