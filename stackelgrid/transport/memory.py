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

from stackelgrid.transport.base import Action, Carried, Compute, Finish, Node, Publish, Traffic, Transport


class DeadlockError(Exception):
    """Every node that is left waits for a message, and none is on its way.

    Attributes: `waiting`, the nodes' names; `now`, the virtual time in seconds; `carried`, the run so far, with the
    exceptions of the nodes that crashed, if that is why the others wait.
    """

    def __init__(self, waiting: Sequence[str], now: float, carried: Carried) -> None:
        super().__init__(
            f"deadlock at {now:.3f} s: no message is under way and no deadline is set, "
            f"but these nodes have not finished: {', '.join(waiting)}; give each a deadline or a Finish"
        )
        self.waiting = list(waiting)
        self.now = now
        self.carried = carried


class MemoryTransport(Transport):
    """Carries nodes by a queue of events ordered by virtual time, which begins at 0 in every run.

    A message takes `latency_s` seconds plus up to `jitter_s` more, drawn uniformly from the link's own
    stream, which depends on `seed`, the sender's and the receiver's names only. A `Compute` job runs inline
    and takes no virtual time.
    """

    def __init__(self, seed: int = 0, latency_s: float = 0.001, jitter_s: float = 0.0) -> None:
        self.seed = seed
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

    def run(self, nodes: Sequence[Node]) -> Carried:
        """Drive the nodes until each has finished or crashed. See `Transport.run`.

        Raises `DeadlockError` when nothing can happen any more, `ValueError` when two nodes share a name.
        """
        self._streams.clear()
        return _Run(nodes, self.delays, self._retained).carry()

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
    delays: Callable[[str, str, Publish, float], Sequence[float]]
    retained: dict[str, tuple[str, Publish]]
    carried: Carried = field(default_factory=Carried)

    def __post_init__(self) -> None:
        self.seats = [_Seat(node, node.name, node.last_will, Traffic()) for node in self.nodes]
        self.carried.traffic = {seat.name: seat.traffic for seat in self.seats}
        if len(self.carried.traffic) < len(self.seats):
            raise ValueError(f"two nodes share a name among {[seat.name for seat in self.seats]}: give each its own")
        self.events: list[tuple[float, int, _Seat, Call]] = []
        self.order = itertools.count()
        self.subscribers: dict[str, list[_Seat]] = {}  # topic -> seats, found once per topic
        self.last_arrival: dict[tuple[str, str, str], float] = {}  # sender, receiver, topic -> seconds

    def carry(self) -> Carried:
        for seat in self.seats:
            self._schedule(0.0, seat, seat.node.start)
            for sender, publish in self.retained.values():
                if seat in self._subscribers(publish.topic):
                    self._send(sender, seat, publish, 0.0)
        now = 0.0
        while self.events:
            now, _, seat, call = heapq.heappop(self.events)
            if not seat.ended:
                self._step(seat, call, now)
        waiting = [seat.name for seat in self.seats if not seat.ended]
        if waiting:
            raise DeadlockError(waiting, now, self.carried)
        return self.carried

    def _schedule(self, at: float, seat: _Seat, call: Call) -> None:
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
                    case Finish():
                        seat.ended = True
                        return
            due = seat.node.next_deadline()
            if due != seat.due:
                seat.due = due
                if due is not None:
                    self._schedule(max(due, now), seat, partial(_tick, seat, due))
        except Exception as error:
            self.carried.crashed[seat.name] = error
            seat.ended = True
            if seat.last_will is not None:
                self._route(seat.name, seat.last_will, now)

    def _route(self, sender: str, publish: Publish, now: float) -> None:
        if publish.retain and publish.payload:
            self.retained[publish.topic] = (sender, publish)
        elif publish.retain:
            self.retained.pop(publish.topic, None)
        for seat in self._subscribers(publish.topic):
            if not seat.ended:
                self._send(sender, seat, publish, now)

    def _send(self, sender: str, seat: _Seat, publish: Publish, now: float) -> None:
        way = (sender, seat.name, publish.topic)
        for delay in self.delays(sender, seat.name, publish, now):
            arrival = max(now + delay, self.last_arrival.get(way, 0.0))
            self.last_arrival[way] = arrival
            self._schedule(arrival, seat, partial(_receive, seat, publish))

    def _subscribers(self, topic: str) -> list[_Seat]:
        if topic not in self.subscribers:
            self.subscribers[topic] = [
                seat for seat in self.seats if any(topic_matches(f, topic) for f in seat.node.subscriptions)
            ]
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
