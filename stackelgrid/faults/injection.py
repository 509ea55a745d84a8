"""Wrap a node and apply the faults of a plan to it.

Every transport carries the same wrapper, so a fault is the same in memory and on MQTT. Messages are changed on their
way from the broker to the receiver, lies on the way out. What only the outside can do to a node, kill it or stop it,
its `FaultActuator` does.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from stackelgrid.faults import lies
from stackelgrid.faults.links import Copy, LinkFaults, Streams
from stackelgrid.faults.plan import (
    BrokerOutage,
    Crash,
    Cut,
    Fault,
    FaultPlan,
    Hang,
    Lie,
    MomentFault,
    Narrow,
    OnConnection,
    OnLink,
    Partition,
    Slow,
    Stall,
)
from stackelgrid.node.protocol import RunNode
from stackelgrid.run_record import FaultRecord
from stackelgrid.transport.base import Action, Compute, FetchRetained, Finish, Publish, Reconnect
from stackelgrid.wire.codec import Description, describe
from stackelgrid.wire.roles import Role

Call = Callable[[float], Sequence[Action]]
OnFault = Callable[[FaultRecord], None]


class FaultActuator(Protocol):
    """The faults that a node cannot do to itself: signals on a real process, or their like under a virtual clock."""

    def kill(self, number: int, crash: Crash) -> None:
        """End the node at once, by fault `number` of the plan. Does not return."""

    def stop(self, seconds: float) -> bool:
        """Stop the node for `seconds`. Return true where the node has to simulate it."""

    def disturb(self, number: int, fault: OnConnection | BrokerOutage) -> bool:
        """Disturb the node's connection, or the broker itself. Return true where the node has to simulate it."""


class FaultInjectingNode:
    """`node` under `plan`.

    `on_fault` gets a record of each fault as it happens, and of a restart in the first round that the node takes part
    in after it. A node that was restarted gets the numbers of the faults that happened `before`, in order, and the
    time `began` of its first start.
    """

    def __init__(
        self,
        node: RunNode,
        plan: FaultPlan,
        actuator: FaultActuator,
        on_fault: OnFault,
        before: Sequence[int] = (),
        began: float | None = None,
    ) -> None:
        self.node = node
        self.name = node.name
        self.role = node.role
        self.mailbox = node.mailbox
        self.progress = node.progress
        self._plan, self._actuator, self._on_fault = plan, actuator, on_fault
        self._began = began
        self._round: int | None = None  # the last that it received, or asked as the leader
        self._session = 1  # that of this round
        self._heard: dict[str, int] = {}  # the last round of each other message that it received
        crashed = bool(before) and isinstance(plan.faults[before[-1]], Crash)
        self._unreported_restart = before[-1] if crashed else None
        self._streams = Streams(plan.seed, self.name)
        self._links = LinkFaults(plan, self.name, self._streams)
        self._last_answers: dict[str, bytes] = {}  # by topic
        self._asked: Counter[tuple[str, int | None]] = Counter()  # by topic and round
        self._events: list[_Event] = []
        self._order = itertools.count()
        self._stalled_until: float | None = None
        self._cut_until: float | None = None
        self._hung_until = 0.0
        self._narrow: dict[str, list[_Pipe]] = {"in": [], "out": []}
        self._held: list[Publish] = []  # at QoS 1, while the connection is cut
        self._finished = False  # the node has finished while its connection was cut
        self._has_moved = False  # it wanted another connection meanwhile
        self._added: deque[Fault] = deque()  # to the plan, by another thread
        self._moments = [
            (number, fault)
            for number, fault in enumerate(plan.faults)
            if isinstance(fault, MomentFault) and self._suffers(fault) and number not in before
        ]

    def add(self, fault: Fault) -> None:
        """Add a fault to the plan, from any thread; it begins with the next `tick`."""
        self._added.append(fault)

    def _take_added(self) -> None:
        while self._added:
            number, fault = len(self._plan.faults), self._added.popleft()
            self._plan.faults.append(fault)
            match fault:
                case OnLink() | Partition():
                    self._links.add(number, fault)
                case Stall() | Crash() | OnConnection() | BrokerOutage() if self._suffers(fault):
                    self._moments.append((number, fault))

    def _suffers(self, fault: MomentFault) -> bool:
        """Say whether a fault starts at this node; one of the broker, unless by the clock, as the leader asks."""
        if isinstance(fault, BrokerOutage):
            return self.role is Role.LEADER and fault.at.seconds is None
        return fault.concerns(self.name)

    @property
    def last_will(self) -> Publish | None:
        """The node's own."""
        return self.node.last_will

    @property
    def subscriptions(self) -> Sequence[str]:
        """The node's own."""
        return self.node.subscriptions

    @property
    def pending(self) -> int:
        """The number of messages and calls that are delayed."""
        return len(self._events)

    def start(self, now: float) -> Sequence[Action]:
        """Connected; the seconds of the plan begin with the first connection."""
        if self._began is None:
            self._began = now
        return self._call(self.node.start, now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Receive what has left the broker, at once, later, several times or not at all."""
        if self._cut_until is not None:
            return []
        about = describe(topic, payload)
        message = Copy(self._transmission_end("in", payload, now), payload)
        copies, active = self._links.apply(topic, about, message, self._age(now))
        for number in active:
            self._report(number, now, about.round, from_=about.sender, to=self.name)
        actions: list[Action] = []
        for copy in copies:
            deliver = partial(self._deliver, topic, copy.payload, about)
            if copy.arrival <= now:
                actions += self._call(deliver, now)
            else:
                self._schedule(copy.arrival, deliver)
        return actions

    def next_deadline(self) -> float | None:
        """The node's own, or the time of the next delayed event."""
        if self._stalled_until is not None:
            return self._stalled_until
        event = self._events[0].at if self._events else None
        known = [event] if self._finished else [self.node.next_deadline(), event, self._next_moment()]
        return min((at for at in known if at is not None), default=None)

    def tick(self, now: float) -> Sequence[Action]:
        """Time has passed."""
        if self._stalled_until is not None:
            if now < self._stalled_until:
                return []
            self._stalled_until = None
        actions: list[Action] = []
        self._take_added()
        self._start_due_faults(now)
        while self._events and self._events[0].at <= now and self._stalled_until is None:
            call = heapq.heappop(self._events).call
            match call:
                case _MessageInTransit():
                    actions.append(call.publish)
                case _SlowMessage():
                    actions += self._transmit(call.publish, now)
                case _:
                    actions += self._call(call, now)
        due = None if self._finished else self.node.next_deadline()
        if due is not None and due <= now:
            actions += self._call(self.node.tick, now)
        return actions

    def _schedule(self, at: float, call: Call) -> None:
        heapq.heappush(self._events, _Event(at, next(self._order), call))

    # --- calls into the node ---

    def _call(self, call: Call, now: float) -> list[Action]:
        """Call the node now, or when its stall is over."""
        if self._stalled_until is not None:
            self._schedule(self._stalled_until, call)
            return []
        return self._pass_on(call(now), now)

    def _deliver(self, topic: str, payload: bytes, about: Description, now: float) -> Sequence[Action]:
        if about.of_coordinator and about.round is not None:
            self._report_restart(about.round, now)
            if about.purpose == "signal":
                self._round, self._session = about.round, about.session
                self._start_due_faults(now)
                if self._stalled_until is not None:
                    self._schedule(self._stalled_until, partial(self._deliver, topic, payload, about))
                    return []
        if about.round is not None and any(fault.at.message == about.purpose for _, fault in self._moments):
            self._heard[about.purpose] = about.round
            self._start_due_faults(now)
            if self._stalled_until is not None:
                self._schedule(self._stalled_until, partial(self._deliver, topic, payload, about))
                return []
        return self.node.receive(topic, payload, now)

    # --- the node's own actions ---

    def _pass_on(self, actions: Sequence[Action], now: float) -> list[Action]:
        passed: list[Action] = []
        for action in actions:
            match action:
                case Publish():
                    passed += self._publish(action, now)
                case Compute():
                    passed.append(Compute(action.job, partial(self._continue, action)))
                case FetchRetained() | Reconnect() if self._cut_until is None:
                    passed.append(action)
                case Reconnect():
                    self._has_moved = True
                case Finish() if self._cut_until is not None:
                    self._finished = True
                    self._schedule(self._cut_until, lambda later: [Finish()])
                case Finish():
                    delayed = [event.call for event in sorted(self._events)]
                    messages = [call for call in delayed if isinstance(call, _SlowMessage | _MessageInTransit)]
                    passed += [message.publish for message in messages]
                    passed.append(action)
        return passed

    def _continue(self, compute: Compute, result: object, now: float) -> Sequence[Action]:
        return self._call(lambda later: compute.then(result, later), now)

    def _publish(self, publish: Publish, now: float) -> list[Action]:
        if not publish.payload:
            return self._transmit(publish, now)
        about = describe(publish.topic, publish.payload)
        if self.role is Role.LEADER and about.of_coordinator and about.round is not None:
            self._report_restart(about.round, now)
            if about.purpose == "signal":
                self._round, self._session = about.round, about.session
                self._start_due_faults(now)
        messages = self._falsify(publish, about, now)
        slow = sum(
            fault.seconds
            for fault in self._plan.faults
            if isinstance(fault, Slow)
            and fault.concerns(self.name)
            and fault.during.holds(about.round, self._age(now))
            and about.purpose in ("answer", "signal")
        )
        actions: list[Action] = []
        for later, message in messages:
            at = max(now + slow + later, self._stalled_until or 0.0)
            if at <= now:
                actions += self._transmit(message, now)
            else:
                # Of what a liar would send later nothing is left when it finishes; its own messages are sent first.
                self._schedule(at, _SlowMessage(message) if later == 0 else partial(_send, message))
        return actions

    def _falsify(self, publish: Publish, about: Description, now: float) -> list[lies.Timed]:
        messages = [(0.0, publish)]
        if about.purpose not in lies.PURPOSES:
            return messages
        asked = self._asked[publish.topic, about.round]
        for number, fault in enumerate(self._plan.faults):
            if not isinstance(fault, Lie) or not lies.is_about(fault, about.purpose) or not fault.concerns(self.name):
                continue
            if not fault.during.holds(about.round, self._age(now)):
                continue
            if self._streams.of(number, self.name).random() >= fault.probability:
                continue
            self._report(number, now, about.round, node=self.name)
            messages = lies.falsify(fault, publish, self._last_answers.get(publish.topic), asked)
        self._asked[publish.topic, about.round] += 1
        self._last_answers[publish.topic] = publish.payload
        return messages

    # --- the node's connection, where no real one is disturbed ---

    def _disturb_connection(self, fault: OnConnection | BrokerOutage, now: float) -> None:
        match fault:
            case Hang():
                self._hung_until = max(self._hung_until, now + fault.seconds)
            case Narrow():
                for pipes in self._narrow.values():
                    pipes.append(_Pipe(fault.bytes_per_s, now + fault.seconds))
            case Cut():
                if self.last_will is not None:
                    self._schedule(now, _MessageInTransit(self.last_will))
                self._cut_until = max(self._cut_until or 0.0, now + fault.seconds)
                self._schedule(self._cut_until, self._reconnect)

    def _reconnect(self, now: float) -> Sequence[Action]:
        """Do as a transport does: held messages are sent first, the node starts, retained messages arrive after it."""
        if self._cut_until is None or now < self._cut_until:
            return []  # cut again meanwhile
        self._cut_until = None
        held, self._held = self._held, []
        if self._finished:
            return held
        if self._has_moved:
            self._has_moved = False
            return [*held, Reconnect()]
        return [*held, *self.node.start(now), FetchRetained()]

    def _transmit(self, publish: Publish, now: float) -> list[Action]:
        """Hand a message to the connection: cut, slow or in order."""
        if self._cut_until is not None:
            if publish.qos > 0:
                self._held.append(publish)
            return []
        end = self._transmission_end("out", publish.payload, now)
        if end <= now:
            return [publish]
        self._schedule(end, _MessageInTransit(publish))
        return []

    def _transmission_end(self, way: str, payload: bytes, now: float) -> float:
        """Give the time at which the connection has carried a payload that it is given now."""
        at = max(now, self._hung_until)
        for pipe in self._narrow[way]:
            at = pipe.carry(len(payload), at)
        return at

    # --- faults at a moment ---

    def _next_moment(self) -> float | None:
        began = self._began or 0.0
        return min(
            (began + fault.at.seconds for _, fault in self._moments if fault.at.seconds is not None), default=None
        )

    def _start_due_faults(self, now: float) -> None:
        """Start the faults of the round that is on, and those that are due by the clock."""
        for number, fault in list(self._moments):
            at = fault.at
            reached = self._round if at.message is None else self._heard.get(at.message)
            due = (
                (at.seconds is not None and self._age(now) >= at.seconds)
                or (at.round is not None and reached is not None and reached >= at.round)
                or (at.session is not None and self._session >= at.session)
            )
            if due:
                self._moments.remove((number, fault))
                self._report(number, now, self._round, node=self.name)
                match fault:
                    case Crash():
                        self._actuator.kill(number, fault)
                    case Stall() if self._actuator.stop(fault.seconds):
                        self._stalled_until = now + fault.seconds
                    case OnConnection() | BrokerOutage() if self._actuator.disturb(number, fault):
                        self._disturb_connection(fault, now)

    def _report_restart(self, round_number: int, now: float) -> None:
        """Report a restart once: in the first round that the node receives, or that it asks as the leader."""
        if self._unreported_restart is not None:
            number, self._unreported_restart = self._unreported_restart, None
            self._on_fault(
                FaultRecord(fault=number, kind="restart", node=self.name, round=round_number, seconds=self._age(now))
            )

    def _report(self, number: int, now: float, round_number: int | None, **where: str) -> None:
        kind = self._plan.faults[number].kind
        self._on_fault(FaultRecord(fault=number, kind=kind, **where, round=round_number, seconds=self._age(now)))

    def _age(self, now: float) -> float:
        return now - (self._began if self._began is not None else now)


@dataclass(order=True, slots=True)
class _Event:
    """A call at a time; those of one time happen in the order in which they were scheduled."""

    at: float
    order: int
    call: Call = field(compare=False)


@dataclass(slots=True)
class _Pipe:
    """A narrow connection, one way, until a time, at which what is still in it goes on at once."""

    bytes_per_s: float
    until: float
    free_at: float = 0.0

    def carry(self, size: int, now: float) -> float:
        """Give the time at which `size` bytes, one message after the other, are through."""
        if now >= self.until:
            return max(now, self.free_at)
        self.free_at = min(max(now, self.free_at) + size / self.bytes_per_s, self.until)
        return self.free_at


def _send(publish: Publish, now: float) -> Sequence[Action]:
    return [publish]


@dataclass(frozen=True, slots=True)
class _SlowMessage:
    """A message that the node sends late, over whatever connection it has then."""

    publish: Publish

    def __call__(self, now: float) -> Sequence[Action]:
        return [self.publish]


@dataclass(frozen=True, slots=True)
class _MessageInTransit:
    """A message that only the connection delays, or that the broker publishes."""

    publish: Publish

    def __call__(self, now: float) -> Sequence[Action]:
        return [self.publish]
