"""One case played, and what every node really said on the way: evidence that no node has a hand in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from stackelgrid.faults.in_memory import FaultyMemory
from stackelgrid.faults.injection import FaultInjectingNode
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.run_record import RunRecord
from stackelgrid.soak.cases import Case
from stackelgrid.testbed.in_memory import MemoryRun
from stackelgrid.transport.base import Action, Compute, Finish, Node, Publish
from stackelgrid.transport.memory import DeadlockError

HORIZON_S = 40_000.0
"""Virtual seconds that no run needs: rounds run out before."""
MOST_CALLS = 300_000
"""Calls into nodes that no run needs; one that does turns in circles, perhaps without any time passing."""


class EndlessError(Exception):
    """A run turns in circles."""


@dataclass(frozen=True)
class Spoken:
    """A message that left a node, lies included: `sender` published it after so many virtual seconds."""

    seconds: float
    sender: str
    topic: str
    payload: bytes

    @property
    def purpose(self) -> str:
        """Signal, answer, settlement, receipt or presence."""
        return self.topic.rsplit("/", 1)[-1]

    @cached_property
    def content(self) -> Any:
        """The message as JSON; None for a topic that was cleared."""
        return json.loads(self.payload) if self.payload else None


@dataclass
class Evidence:
    """What happened in a run.

    `spoken` is in order of time, `stuck` names the nodes that waited for ever, `most_pending` is the longest that a
    node's queue of held-up messages became, `ended_s` when each node left in good order.
    """

    case: Case
    run_record: RunRecord
    ledgers: dict[str, list[Any]]
    spoken: list[Spoken] = field(default_factory=list)
    crashed: dict[str, Exception] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    ended_s: dict[str, float] = field(default_factory=dict)
    most_pending: int = 0
    calls: int = 0

    @cached_property
    def happened(self) -> list[tuple[Any, str]]:
        """The faults of the plan that did anything, each with the node that it was done to."""
        faults = self.case.plan.faults
        done = dict.fromkeys((each.fault, each.node or each.to or "") for each in self.run_record.faults)
        return [(faults[number], node) for number, node in done]


def play(case: Case) -> Evidence:
    """The case from beginning to end."""
    stage = MemoryRun(case.scenario)
    evidence = Evidence(case, stage.run_record, stage.ledgers)
    transport = _Witnessed(case, stage, evidence)
    try:
        carried = transport.run(transport.nodes())
    except DeadlockError as deadlock:
        carried, evidence.stuck = deadlock.result, deadlock.waiting
    evidence.crashed = carried.crashed
    stage.cleared(carried)
    return evidence


class _Witnessed(FaultyMemory):
    """Carries the nodes of a case, and listens to what leaves each of them."""

    def __init__(self, case: Case, stage: MemoryRun, evidence: Evidence) -> None:
        super().__init__(case.plan, stage.builds, stage.run_record.faults.append, case.scenario.seed)
        self.horizon_s = HORIZON_S
        self._evidence = evidence

    def nodes(self) -> Sequence[Node]:
        return [_Overheard(node, self._evidence) for node in super().nodes()]

    def restart_node(self, name: str, error: Exception, now: float) -> tuple[float, Node] | None:
        born = super().restart_node(name, error, now)
        return born and (born[0], _Overheard(born[1], self._evidence))


class _Overheard:
    """A node as it was, what it says written down."""

    def __init__(self, node: Any, evidence: Evidence) -> None:
        self.node: FaultInjectingNode = node
        self.name = self.node.name
        self.last_will = self.node.last_will
        self.subscriptions = self.node.subscriptions
        self.next_deadline = self.node.next_deadline
        self._evidence = evidence

    @property
    def mailbox(self) -> Mailbox:
        return self.node.mailbox

    def start(self, now: float) -> Sequence[Action]:
        return self._hear(self.node.start(now), now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        return self._hear(self.node.receive(topic, payload, now), now)

    def tick(self, now: float) -> Sequence[Action]:
        return self._hear(self.node.tick(now), now)

    def _hear(self, actions: Sequence[Action], now: float) -> list[Action]:
        evidence = self._evidence
        evidence.calls += 1
        if evidence.calls > MOST_CALLS:
            raise EndlessError(f"{evidence.calls} calls into nodes, {now:.3f} s of virtual time")
        evidence.most_pending = max(evidence.most_pending, self.node.pending)
        return [self._noted(action, now) for action in actions]

    def _noted(self, action: Action, now: float) -> Action:
        match action:
            case Publish():
                self._evidence.spoken.append(Spoken(now, self.name, action.topic, action.payload))
            case Compute():
                return Compute(action.job, partial(self._then, action.then))
            case Finish():
                self._evidence.ended_s[self.name] = now
        return action

    def _then(self, then: Callable[[Any, float], Sequence[Action]], result: Any, now: float) -> Sequence[Action]:
        return self._hear(then(result, now), now)
