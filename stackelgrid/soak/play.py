"""Play one case and record every message that a node sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from stackelgrid import registry
from stackelgrid.faults.in_memory import Build, FaultyMemory
from stackelgrid.faults.injection import FaultInjectingNode
from stackelgrid.masks.fixed_point import write_words
from stackelgrid.masks.form import MaskedForm, Words
from stackelgrid.masks.party import Party
from stackelgrid.node.protocol import RunNode
from stackelgrid.rounds.ledger import Entry
from stackelgrid.run_record import RunRecord
from stackelgrid.soak.cases import Case
from stackelgrid.soak.timeline import CoordinatorLife, Event, read_coordinator
from stackelgrid.testbed.in_memory import MemoryRun
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.base import Action, Compute, FetchRetained, Finish, Node, Publish
from stackelgrid.transport.memory import DeadlockError
from stackelgrid.wire.codec import Description, describe
from stackelgrid.wire.masks import MaskedAnswer
from stackelgrid.wire.messages import Body

HORIZON_S = 40_000.0
"""Virtual seconds that no run needs: rounds run out before."""
MAX_CALLS = 300_000
"""Calls into nodes that no run needs; one that makes more is in an endless loop, perhaps at one virtual time."""


class EndlessError(Exception):
    """A run is in an endless loop."""


@dataclass(frozen=True)
class SentMessage:
    """A message that left a node, lies included: `sender` published it after so many virtual seconds."""

    seconds: float
    sender: str
    topic: str
    payload: bytes

    @cached_property
    def about(self) -> Description:
        """Purpose, coordinator, member and round by topic and header; a liar may send on another's topic."""
        return describe(self.topic, self.payload)

    @property
    def purpose(self) -> str:
        """Signal, answer, settlement, receipt or presence."""
        return self.about.purpose

    @cached_property
    def content(self) -> Any:
        """The message as JSON; None for a topic that was cleared."""
        return json.loads(self.payload) if self.payload else None


@dataclass(frozen=True)
class MaskedNumbers:
    """What a home answered with a mask on: its `plain` numbers in fixed point, the `words` that it sent, (count,)."""

    home: str
    aggregator: str
    session: int
    round: int
    question: str
    roster: str
    plain: Words
    words: Words


@dataclass
class Evidence:
    """The record of a run.

    `messages` is in order of time, `events` has what each node itself saw and did. `errors` has the exception of each
    node that crashed for good, `waiting` the nodes that waited for ever, `ended_s` the time at which each node left in
    good order. `lives` has the lives of each coordinator, `nodes` each node as it was built, at first and after each
    crash. `masked` has what was under the mask of each answer, by its nonce. `retained` are the topics on which the
    broker has a message at the end, `max_pending` is the longest that the queue of delayed messages became, by node.
    """

    case: Case
    run_record: RunRecord
    ledgers: dict[str, list[Any]]
    messages: list[SentMessage] = field(default_factory=list)
    events: dict[str, list[Event]] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    ended_s: dict[str, float] = field(default_factory=dict)
    lives: list[CoordinatorLife] = field(default_factory=list)
    nodes: dict[str, list[Any]] = field(default_factory=dict)
    masked: dict[str, MaskedNumbers] = field(default_factory=dict)
    retained: list[str] = field(default_factory=list)
    max_pending: dict[str, int] = field(default_factory=dict)
    calls: int = 0

    @property
    def sessions(self) -> list[RunRecord]:
        """The records of the sessions, the run's own where it has no others."""
        count = len(self.case.scenario.sessions)
        return [self.run_record] if count == 1 else [self.run_record.of_session(n + 1) for n in range(count)]

    @cached_property
    def faults(self) -> list[tuple[Any, str]]:
        """The faults of the plan that changed anything, each with the node that it happened to."""
        faults = self.case.plan.faults
        found = dict.fromkeys((record.fault, record.node or record.to or "") for record in self.run_record.faults)
        return [(faults[number], node) for number, node in found]


def play(case: Case) -> Evidence:
    """Play the case from beginning to end."""
    run = MemoryRun(case.scenario)
    evidence = Evidence(case, run.run_record, run.ledgers)
    transport = _ObservedMemory(case, run, evidence)
    try:
        result = transport.run(transport.nodes())
    except DeadlockError as deadlock:
        result, evidence.waiting = deadlock.result, deadlock.waiting
    evidence.errors, evidence.retained = result.crashed, transport.retained_topics
    run.finish(result)
    configs = build_node_configs(case.scenario, run="memory")
    coordinators: list[Any] = [configs.leader, *configs.aggregators]
    for config in coordinators:
        evidence.lives += read_coordinator(config, evidence.events[config.name])
    return evidence


class _ObservedMemory(FaultyMemory):
    """Carries the nodes of a case, and notes what each of them sends."""

    def __init__(self, case: Case, run: MemoryRun, evidence: Evidence) -> None:
        builds = {name: partial(_watch, name, build, evidence) for name, build in run.builds.items()}
        super().__init__(case.plan, builds, run.run_record.faults.append, case.scenario.seed)
        self.horizon_s = HORIZON_S
        self._evidence = evidence

    @property
    def retained_topics(self) -> list[str]:
        """The topics on which the broker retains a message."""
        return list(self._retained)

    def nodes(self) -> Sequence[Node]:
        return [_ObservedNode(node, self._evidence) for node in super().nodes()]

    def restart_node(self, name: str, error: Exception, now: float) -> tuple[float, Node] | None:
        restart = super().restart_node(name, error, now)
        return restart and (restart[0], _ObservedNode(restart[1], self._evidence))


class _ObservedNode:
    """A node whose messages are noted."""

    def __init__(self, node: Any, evidence: Evidence) -> None:
        self.node: FaultInjectingNode = node
        self.name = self.node.name
        self.last_will = self.node.last_will
        self.subscriptions = self.node.subscriptions
        self.next_deadline = self.node.next_deadline
        self._evidence = evidence

    def start(self, now: float) -> Sequence[Action]:
        return self._observe(self.node.start(now), now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        return self._observe(self.node.receive(topic, payload, now), now)

    def tick(self, now: float) -> Sequence[Action]:
        return self._observe(self.node.tick(now), now)

    def _observe(self, actions: Sequence[Action], now: float) -> list[Action]:
        evidence = self._evidence
        evidence.calls += 1
        if evidence.calls > MAX_CALLS:
            raise EndlessError(f"{evidence.calls} calls into nodes, {now:.3f} s of virtual time")
        evidence.max_pending[self.name] = max(evidence.max_pending.get(self.name, 0), self.node.pending)
        return [self._note(action, now) for action in actions]

    def _note(self, action: Action, now: float) -> Action:
        match action:
            case Publish():
                self._evidence.messages.append(SentMessage(now, self.name, action.topic, action.payload))
            case Compute():
                return Compute(action.job, partial(self._continue, action.then))
            case Finish():
                self._evidence.ended_s[self.name] = now
        return action

    def _continue(self, then: Callable[[Any, float], Sequence[Action]], result: Any, now: float) -> Sequence[Action]:
        return self._observe(then(result, now), now)


def _watch(name: str, build: Build, evidence: Evidence, lose_state: bool) -> RunNode:
    """Build a node whose events are noted, at first and after each crash."""
    node, events = build(lose_state), evidence.events.setdefault(name, [])
    evidence.nodes.setdefault(name, []).append(node)
    if evidence.case.private and (party := vars(node).get("_party")) is not None:
        party.mask = partial(_note_mask, evidence, party, party.mask)
    return _WatchedNode(node, events[-1].life + 1 if events else 0, events, evidence.ledgers)


def _note_mask(evidence: Evidence, party: Party, mask: Any, number: int, question: Body, answer: Body) -> MaskedAnswer:
    """Have an answer masked, and note what is under the mask."""
    masked: MaskedAnswer = mask(number, question, answer)
    form: MaskedForm = registry.find(evidence.case.scenario.game).load("masked")
    numbers = form.flatten(answer, form.shape(question))
    plain = write_words(numbers, np.full(len(numbers), np.inf), 1)
    about = number, masked.question, masked.roster
    session = vars(party)["_session"]
    evidence.masked[masked.nonce] = MaskedNumbers(
        party.name, party.link.coordinator, session, *about, plain, masked.words_array()
    )
    return masked


class _WatchedNode:
    """A node under its faults: what reaches it and what it does are noted."""

    def __init__(self, node: RunNode, life: int, events: list[Event], ledgers: Mapping[str, Sequence[Entry]]) -> None:
        self.node, self.name, self.role = node, node.name, node.role
        self.mailbox, self.progress = node.mailbox, node.progress
        self.last_will, self.subscriptions = node.last_will, node.subscriptions
        self.next_deadline = node.next_deadline
        self._life, self._events = life, events
        self._ledger = ledgers.get(node.name, [])
        self._entries = len(self._ledger)

    def start(self, now: float) -> Sequence[Action]:
        rounds = [entry for entry in self._ledger if "number" in entry]
        self._events.append(Event(now, self._life, "start", entry=rounds[-1] if rounds else {}))
        return self._note(self.node.start(now), now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        before = self.mailbox.rejected.copy()
        number = len(self._events)
        actions = self.node.receive(topic, payload, now)
        rejected = next(iter(self.mailbox.rejected - before), None)
        self._events.insert(number, Event(now, self._life, "receive", topic, payload, rejected))
        return self._note(actions, now)

    def tick(self, now: float) -> Sequence[Action]:
        return self._note(self.node.tick(now), now)

    def _note(self, actions: Sequence[Action], now: float) -> list[Action]:
        for entry in self._ledger[self._entries :]:
            if "number" in entry:
                self._events.append(Event(now, self._life, "close", entry=entry))
        self._entries = len(self._ledger)
        return [self._note_action(action, now) for action in actions]

    def _note_action(self, action: Action, now: float) -> Action:
        match action:
            case Publish():
                self._events.append(Event(now, self._life, "send", action.topic, action.payload))
            case Compute():
                self._events.append(Event(now, self._life, "compute"))
                return Compute(action.job, partial(self._continue, action.then))
            case FetchRetained():
                self._events.append(Event(now, self._life, "fetch"))
            case Finish():
                self._events.append(Event(now, self._life, "finish"))
        return action

    def _continue(self, then: Callable[[Any, float], Sequence[Action]], result: Any, now: float) -> Sequence[Action]:
        return self._note(then(result, now), now)
