"""Nodes in one process under a virtual clock: a discrete-event simulation of the broker and the network.

Deterministic: the same nodes, seed and delays give the same events in the same order. A transport object is
also the broker's memory, as a broker outlives the runs it serves: what one `run` retained, the next receives.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from stackelgrid.transport.base import (
    Action,
    Compute,
    FetchRetained,
    Finish,
    Node,
    Publish,
    Traffic,
    Transport,
    TransportResult,
)


class DeadlockError(Exception):
    """Every node that is left waits for a message, and none is on its way.

    Attributes: `waiting`, the nodes' names; `now`, the virtual time in seconds; `result`, the run so far, with the
    exceptions of the nodes that crashed, if that is why the others wait.
    """

    def __init__(self, waiting: Sequence[str], now: float, result: TransportResult) -> None:
        super().__init__(
            f"deadlock at {now:.3f} s: these nodes have not finished, and nothing is under way that could end them: "
            f"{', '.join(waiting)}; give each a deadline or a Finish"
        )
        self.waiting = list(waiting)
        self.now = now
        self.result = result


@dataclass(frozen=True)
class Outage:
    """The broker is away for `seconds`; what it had retained outlives that, or does not."""

    seconds: float
    keep_retained: bool = True


class MemoryTransport(Transport):
    """Carries nodes by a queue of events ordered by virtual time, which begins at 0 in every run.

    A message takes `latency_s` seconds plus up to `jitter_s` more, drawn uniformly from the link's own
    stream, which depends on `seed`, the sender's and the receiver's names only. A `Compute` job runs inline
    and takes no virtual time. A run that has not ended after `horizon_s` seconds never will.
    """

    def __init__(
        self, seed: int = 0, latency_s: float = 0.001, jitter_s: float = 0.0, horizon_s: float = 100_000.0
    ) -> None:
        self.seed = seed
        self.horizon_s = horizon_s
        self.latency_s = latency_s
        self.jitter_s = jitter_s
        self._retained: dict[str, tuple[str, Publish]] = {}  # topic -> sender's name and message
        self._streams: dict[tuple[str, str], np.random.Generator] = {}

    def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
        """Seconds from `now` until each copy of `publish` reaches `receiver`: here, always one copy.

        The one place that decides a message's fate: a fault layer overrides it to lose a message (no delay),
        repeat it (several) or hold it up. Whatever it answers, one sender's messages on one topic arrive in
        the order sent.
        """
        if self.jitter_s == 0:
            return (self.latency_s,)
        return (self.latency_s + self.jitter_s * self._stream(sender, receiver).random(),)

    def restart_node(self, name: str, error: Exception, now: float) -> tuple[float, Node] | None:
        """What becomes of a node whose code raised: after so many seconds another takes its place; here, none does."""
        return None

    def outage(self, sender: str, publish: Publish, now: float) -> Outage | None:
        """Whether the broker fails before it takes in `publish`: here, it never does."""
        return None

    def run(self, nodes: Sequence[Node]) -> TransportResult:
        """Drive the nodes until each has finished or crashed. See `Transport.run`.

        Raises `DeadlockError` when nothing can happen any more or the horizon is reached, `ValueError` when two nodes
        share a name.
        """
        self._streams.clear()
        return _Run(nodes, self, self._retained).carry()

    def _stream(self, sender: str, receiver: str) -> np.random.Generator:
        link = (sender, receiver)
        if link not in self._streams:
            digest = hashlib.sha256(repr((self.seed, *link)).encode()).digest()
            self._streams[link] = np.random.default_rng(int.from_bytes(digest[:16]))
        return self._streams[link]


@dataclass(slots=True, eq=False)
class _Seat:
    """A node's place in the run."""

    node: Node
    name: str
    last_will: Publish | None
    traffic: Traffic
    ended: bool = False
    due: float | None = None


Call = Callable[[float], Sequence[Action]]


@dataclass
class _Run:
    nodes: Sequence[Node]
    world: MemoryTransport
    retained: dict[str, tuple[str, Publish]]
    result: TransportResult = field(default_factory=TransportResult)

    def __post_init__(self) -> None:
        self.seats = [_Seat(node, node.name, node.last_will, Traffic()) for node in self.nodes]
        self.result.traffic = {seat.name: seat.traffic for seat in self.seats}
        if len(self.result.traffic) < len(self.seats):
            raise ValueError(f"two nodes share a name among {[seat.name for seat in self.seats]}: give each its own")
        self.events: list[tuple[float, int, _Seat | None, Call]] = []
        self.order = itertools.count()
        self._seat_subscriptions()
        self.last_arrival: dict[tuple[str, str, str], float] = {}  # sender, receiver, topic -> seconds
        self.broker_away = False
        self.held: list[tuple[str, Publish]] = []  # at QoS 1, while the broker is away

    def _seat_subscriptions(self) -> None:
        self.subscribers: dict[str, list[_Seat]] = {}  # topic -> seats, found once per topic
        self.by_topic: dict[str, list[_Seat]] = {}  # filter without wildcards -> seats
        self.by_pattern: list[tuple[str, _Seat]] = []
        for seat in self.seats:
            for topic_filter in seat.node.subscriptions:
                if "+" in topic_filter or "#" in topic_filter:
                    self.by_pattern.append((topic_filter, seat))
                else:
                    self.by_topic.setdefault(topic_filter, []).append(seat)

    def carry(self) -> TransportResult:
        for seat in self.seats:
            self._connect(seat, 0.0)
        now = 0.0
        while self.events and now <= self.world.horizon_s:
            now, _, concerned, call = heapq.heappop(self.events)
            if concerned is None:
                call(now)
            elif not concerned.ended:
                self._step(concerned, call, now)
        waiting = [seat.name for seat in self.seats if not seat.ended]
        if waiting:
            raise DeadlockError(waiting, now, self.result)
        return self.result

    def _connect(self, seat: _Seat, now: float) -> None:
        """The connection stands: the node starts, then hears what was retained."""
        self._schedule(now, seat, seat.node.start)
        self._look(seat, now)

    def _look(self, seat: _Seat, now: float) -> None:
        if self.broker_away:
            return
        for sender, publish in self.retained.values():
            if seat in self._subscribers(publish.topic):
                self._send(sender, seat, publish, now)

    def _schedule(self, at: float, seat: _Seat | None, call: Call) -> None:
        heapq.heappush(self.events, (at, next(self.order), seat, call))

    def _step(self, seat: _Seat, call: Call, now: float) -> None:
        """Call into the node and do what it asks; whatever it raises is its own end and nobody else's."""
        try:
            for action in call(now):
                match action:
                    case Publish():
                        seat.traffic.sent += 1
                        seat.traffic.sent_bytes += len(action.payload)
                        self._route(seat.name, action, now)
                    case Compute():
                        self._schedule(now, seat, partial(_compute, action))
                    case FetchRetained():
                        self._look(seat, now)
                    case Finish():
                        seat.ended = True
                        return
            due = seat.node.next_deadline()
            if due != seat.due:
                seat.due = due
                if due is not None:
                    self._schedule(max(due, now), seat, partial(_tick, seat, due))
        except Exception as error:
            self._crash(seat, error, now)

    def _crash(self, seat: _Seat, error: Exception, now: float) -> None:
        seat.ended = True
        after = self.world.restart_node(seat.name, error, now)
        if after is None:
            self.result.crashed[seat.name] = error
        else:
            self._schedule(now + after[0], None, partial(self._replace, seat, after[1]))
        if seat.last_will is not None:
            self._route(seat.name, seat.last_will, now)

    def _replace(self, seat: _Seat, node: Node, now: float) -> Sequence[Action]:
        """A node takes the place of one that crashed."""
        newcomer = _Seat(node, seat.name, node.last_will, seat.traffic)
        self.seats[self.seats.index(seat)] = newcomer
        self._seat_subscriptions()
        if not self.broker_away:
            self._connect(newcomer, now)
        return ()

    def _route(self, sender: str, publish: Publish, now: float) -> None:
        outage = None if self.broker_away else self.world.outage(sender, publish, now)
        if outage is not None:
            self.broker_away = True
            if not outage.keep_retained:
                self.retained.clear()
            self._schedule(now + outage.seconds, None, self._broker_back)
        if self.broker_away:
            if publish.qos > 0:
                self.held.append((sender, publish))
            return
        if publish.retain and publish.payload:
            self.retained[publish.topic] = (sender, publish)
        elif publish.retain:
            self.retained.pop(publish.topic, None)
        for seat in self._subscribers(publish.topic):
            if not seat.ended:
                self._send(sender, seat, publish, now)

    def _broker_back(self, now: float) -> Sequence[Action]:
        """Everybody connects again; what was to be sent with guarantee is sent now."""
        self.broker_away = False
        for seat in self.seats:
            if not seat.ended:
                self._connect(seat, now)
        held, self.held = self.held, []
        for sender, publish in held:
            self._route(sender, publish, now)
        return ()

    def _send(self, sender: str, seat: _Seat, publish: Publish, now: float) -> None:
        way = (sender, seat.name, publish.topic)
        for delay in self.world.delays(sender, seat.name, publish, now):
            arrival = max(now + delay, self.last_arrival.get(way, 0.0))
            self.last_arrival[way] = arrival
            self._schedule(arrival, seat, partial(_receive, seat, publish))

    def _subscribers(self, topic: str) -> list[_Seat]:
        if topic not in self.subscribers:
            matching = [seat for pattern, seat in self.by_pattern if topic_matches(pattern, topic)]
            self.subscribers[topic] = list(dict.fromkeys([*self.by_topic.get(topic, []), *matching]))
        return self.subscribers[topic]


def _receive(seat: _Seat, publish: Publish, now: float) -> Sequence[Action]:
    seat.traffic.received += 1
    seat.traffic.received_bytes += len(publish.payload)
    return seat.node.receive(publish.topic, publish.payload, now)


def _compute(compute: Compute, now: float) -> Sequence[Action]:
    return compute.then(compute.job(), now)


def _tick(seat: _Seat, due: float, now: float) -> Sequence[Action]:
    if seat.due != due:
        return ()  # the node has moved its deadline since
    seat.due = None
    return seat.node.tick(now)


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether a subscription to `topic_filter` takes in `topic` (MQTT 3.1.1, section 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))
