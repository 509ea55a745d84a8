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
    Reconnect,
    Traffic,
    Transport,
    TransportResult,
    receiver,
)


class DeadlockError(Exception):
    """Every node that is left waits for a message, and none is on its way.

    Attributes: `waiting`, the names of these nodes; `now`, the virtual time in seconds; `result`, the run so far, with
    the exceptions of nodes that raised, which may be why the others wait.
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
    """A failure of the broker for `seconds`. `keep_retained` tells whether its retained messages survive."""

    seconds: float
    keep_retained: bool = True


class MemoryTransport(Transport):
    """Carries messages with a queue of events ordered by virtual time, which begins at 0 in every run.

    A message takes `latency_s` seconds plus up to `jitter_s` more, drawn uniformly from a stream of random numbers that
    depends on `seed` and the names of sender and receiver only. A `Compute` job runs at once and takes no virtual time.
    A run that has not ended after `horizon_s` seconds is taken for a deadlock. `traffic` is that of the run so far.
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
        self.traffic: dict[str, Traffic] = {}

    def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
        """Give the seconds from `now` until each copy of `publish` reaches `receiver`; here, always one copy.

        Fault injection overrides it to lose a message (no delay), to repeat it (several) or to delay it. Whatever it
        returns, messages of one sender on one topic arrive in the order in which they were sent.
        """
        if self.jitter_s == 0:
            return (self.latency_s,)
        return (self.latency_s + self.jitter_s * self._stream(sender, receiver).random(),)

    def restart_node(self, name: str, error: Exception, now: float) -> tuple[float, Node] | None:
        """Give the node that replaces one that raised, and the seconds until it does, or None; here, always None."""
        return None

    def outage(self, sender: str, publish: Publish, now: float) -> Outage | None:
        """Give the failure of the broker that begins before it receives `publish`, or None; here, always None."""
        return None

    def run(self, nodes: Sequence[Node]) -> TransportResult:
        """Drive the nodes until each has finished or crashed. See `Transport.run`.

        Raises `DeadlockError` when nothing can happen any more or the horizon is reached, `ValueError` when two nodes
        share a name.
        """
        self._streams.clear()
        run = _Run(nodes, self, self._retained)
        self.traffic = run.result.traffic
        return run.execute()

    def _stream(self, sender: str, receiver: str) -> np.random.Generator:
        link = (sender, receiver)
        if link not in self._streams:
            digest = hashlib.sha256(repr((self.seed, *link)).encode()).digest()
            self._streams[link] = np.random.default_rng(int.from_bytes(digest[:16]))
        return self._streams[link]


@dataclass(slots=True, eq=False)
class _Client:
    """A node as a client of the broker; a call of `tick` is scheduled for `due`."""

    node: Node
    name: str
    last_will: Publish | None
    traffic: Traffic
    ended: bool = False
    due: float | None = None


Call = Callable[[float], Sequence[Action]]


@dataclass
class _Run:
    """One run: the queue of events and the state of the broker."""

    nodes: Sequence[Node]
    transport: MemoryTransport
    retained: dict[str, tuple[str, Publish]]
    result: TransportResult = field(default_factory=TransportResult)

    def __post_init__(self) -> None:
        self.clients = [_Client(node, node.name, node.last_will, Traffic()) for node in self.nodes]
        self.result.traffic = {client.name: client.traffic for client in self.clients}
        if len(self.result.traffic) < len(self.clients):
            raise ValueError(
                f"two nodes share a name among {[client.name for client in self.clients]}: give each its own"
            )
        self.events: list[tuple[float, int, _Client | None, Call]] = []
        self.order = itertools.count()
        self._index_subscriptions()
        self.last_arrival: dict[tuple[str, str, str], float] = {}  # sender, receiver, topic -> seconds
        self.broker_down = False
        self.outbox: list[tuple[str, Publish]] = []  # published at QoS 1 while the broker is down

    def _index_subscriptions(self) -> None:
        self.subscribers: dict[str, list[_Client]] = {}  # topic -> clients, filled on demand
        self.by_topic: dict[str, list[_Client]] = {}  # filter without wildcards -> clients
        self.by_pattern: list[tuple[str, _Client]] = []
        for client in self.clients:
            for topic_filter in client.node.subscriptions:
                if "+" in topic_filter or "#" in topic_filter:
                    self.by_pattern.append((topic_filter, client))
                else:
                    self.by_topic.setdefault(topic_filter, []).append(client)

    def execute(self) -> TransportResult:
        for client in self.clients:
            self._connect(client, 0.0)
        now = 0.0
        while self.events and now <= self.transport.horizon_s:
            now, _, target, call = heapq.heappop(self.events)
            if target is None:
                call(now)
            elif not target.ended:
                self._step(target, call, now)
        waiting = [client.name for client in self.clients if not client.ended]
        if waiting:
            raise DeadlockError(waiting, now, self.result)
        return self.result

    def _connect(self, client: _Client, now: float) -> None:
        """Have the node start, then receive what is retained."""
        self._schedule(now, client, client.node.start)
        self._fetch_retained(client, now)

    def _reconnect(self, client: _Client, now: float) -> None:
        client.last_will = client.node.last_will
        self._index_subscriptions()
        if not self.broker_down:  # else it connects with all others
            self._connect(client, now)

    def _fetch_retained(self, client: _Client, now: float) -> None:
        if self.broker_down:
            return
        for sender, publish in self.retained.values():
            if client in self._subscribers(publish.topic):
                self._send(sender, client, publish, now, retained=True)

    def _schedule(self, at: float, client: _Client | None, call: Call) -> None:
        heapq.heappush(self.events, (at, next(self.order), client, call))

    def _step(self, client: _Client, call: Call, now: float) -> None:
        """Call into the node and perform its actions. An exception ends this node and no other."""
        try:
            for action in call(now):
                match action:
                    case Publish():
                        client.traffic.sent += 1
                        client.traffic.sent_bytes += len(action.payload)
                        self._route(client.name, action, now)
                    case Compute():
                        self._schedule(now, client, partial(_compute, action))
                    case FetchRetained():
                        self._fetch_retained(client, now)
                    case Reconnect():
                        self._reconnect(client, now)
                    case Finish():
                        client.ended = True
                        return
            due = client.node.next_deadline()
            if due != client.due:
                client.due = due
                if due is not None:
                    self._schedule(max(due, now), client, partial(_tick, client, due))
        except Exception as error:
            self._crash(client, error, now)

    def _crash(self, client: _Client, error: Exception, now: float) -> None:
        client.ended = True
        replacement = self.transport.restart_node(client.name, error, now)
        if replacement is None:
            self.result.crashed[client.name] = error
        else:
            self._schedule(now + replacement[0], None, partial(self._replace, client, replacement[1]))
        if client.last_will is not None:
            self._route(client.name, client.last_will, now)

    def _replace(self, client: _Client, node: Node, now: float) -> Sequence[Action]:
        """Put a node in the place of one that raised."""
        replacement = _Client(node, client.name, node.last_will, client.traffic)
        self.clients[self.clients.index(client)] = replacement
        self._index_subscriptions()
        if not self.broker_down:
            self._connect(replacement, now)
        return ()

    def _route(self, sender: str, publish: Publish, now: float) -> None:
        outage = None if self.broker_down else self.transport.outage(sender, publish, now)
        if outage is not None:
            self.broker_down = True
            if not outage.keep_retained:
                self.retained.clear()
            self._schedule(now + outage.seconds, None, self._restart_broker)
        if self.broker_down:
            if publish.qos > 0:
                self.outbox.append((sender, publish))
            return
        if publish.retain and publish.payload:
            self.retained[publish.topic] = (sender, publish)
        elif publish.retain:
            self.retained.pop(publish.topic, None)
        for client in self._subscribers(publish.topic):
            if not client.ended:
                self._send(sender, client, publish, now)

    def _restart_broker(self, now: float) -> Sequence[Action]:
        """Connect all nodes again and send what they published at QoS 1 in the meantime."""
        self.broker_down = False
        for client in self.clients:
            if not client.ended:
                self._connect(client, now)
        outbox, self.outbox = self.outbox, []
        for sender, publish in outbox:
            self._route(sender, publish, now)
        return ()

    def _send(self, sender: str, client: _Client, publish: Publish, now: float, *, retained: bool = False) -> None:
        route = (sender, client.name, publish.topic)
        for delay in self.transport.delays(sender, client.name, publish, now):
            arrival = max(now + delay, self.last_arrival.get(route, 0.0))
            self.last_arrival[route] = arrival
            self._schedule(arrival, client, partial(_receive, client, publish, retained))

    def _subscribers(self, topic: str) -> list[_Client]:
        if topic not in self.subscribers:
            matching = [client for pattern, client in self.by_pattern if topic_matches(pattern, topic)]
            self.subscribers[topic] = list(dict.fromkeys([*self.by_topic.get(topic, []), *matching]))
        return self.subscribers[topic]


def _receive(client: _Client, publish: Publish, retained: bool, now: float) -> Sequence[Action]:
    client.traffic.received += 1
    client.traffic.received_bytes += len(publish.payload)
    return receiver(client.node, retained=retained)(publish.topic, publish.payload, now)


def _compute(compute: Compute, now: float) -> Sequence[Action]:
    return compute.then(compute.job(), now)


def _tick(client: _Client, due: float, now: float) -> Sequence[Action]:
    if client.due != due:
        return ()  # the node has moved its deadline since
    client.due = None
    return client.node.tick(now)


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Tell whether `topic_filter` matches `topic` (MQTT 3.1.1, section 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))
