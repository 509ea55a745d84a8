"""The contract between a node and its transport: the actions of a node, the promises of a transport.

A node is a pure state machine: it takes bytes, clock readings and the results of its own computations, and returns
actions. It opens no socket and reads no clock, so the same node runs over MQTT in a process of its own and under a
virtual clock beside a hundred others. Every transport passes the tests in
`tests/process/test_transport_conformance.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Publish:
    """Send `payload` to everyone who subscribes to `topic`.

    With `retain` the broker keeps it for later subscribers; an empty payload clears what was kept. At `qos` 0 it may be
    lost, at 1 the broker acknowledges it. Neither tells that a subscriber has received it: that is the task of the
    round protocol.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Compute:
    """Run `job` while messages are still received, then call `then(result, now)`, which returns further actions.

    A node's computations run one at a time, in the order in which it asked for them.
    """

    job: Callable[[], Any]
    then: Callable[[Any, float], Sequence[Action]]


@dataclass(frozen=True, slots=True)
class FetchRetained:
    """Receive again what is retained on the node's subscriptions: a message may have been lost on its way here."""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Close the connection in good order and make it anew, as the node is now.

    That is its certificate, its subscriptions and its last will. What was sent before is acknowledged first.
    """


@dataclass(frozen=True, slots=True)
class Finish:
    """End the node: send what is queued, disconnect from the broker without the last will, and stop."""


Action = Publish | Compute | FetchRetained | Reconnect | Finish


class Node(Protocol):
    """A state machine that a transport drives. Times are in seconds on the transport's own clock.

    A node for which it matters whether a message is sent now, or was retained before the node subscribed, has a method
    `receive_retained` besides, called in place of `receive` for the latter.
    """

    @property
    def name(self) -> str:
        """Give the node's name, unique in its run."""

    @property
    def subscriptions(self) -> Sequence[str]:
        """Give the topic filters (MQTT syntax, `+` and `#` included). They change with a `Reconnect` alone."""

    @property
    def last_will(self) -> Publish | None:
        """Give the message that is published for the node when its connection ends without `Finish`."""

    def start(self, now: float) -> Sequence[Action]:
        """Begin, or go on: the node is connected and subscribed, for the first time or after a lost connection."""

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a message that arrived. Any bytes may come; a node never raises because of them.

        One case is different: a node raises `ConfigError` when its coordinator plays another game of the same name.
        """

    def tick(self, now: float) -> Sequence[Action]:
        """Act on the deadline: the clock has reached `next_deadline()`."""

    def next_deadline(self) -> float | None:
        """Give the time at which to call `tick`, or None. The transport asks again after every call into the node."""


def receiver(node: Node, *, retained: bool) -> Callable[[str, bytes, float], Sequence[Action]]:
    """Give the method by which a node takes a message."""
    method: Callable[[str, bytes, float], Sequence[Action]] = node.receive
    return getattr(node, "receive_retained", method) if retained else method


@dataclass
class Traffic:
    """Messages and payload bytes that one node sent and received; the framing of MQTT is not counted.

    `connections` counts how often its connection was made, `connected` tells whether it is up. While it is not,
    `failure` is why, None before the first attempt has failed; where the broker `refused` it, only somebody can help.
    """

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    connections: int = 0
    connected: bool = False
    failure: str | None = None
    refused: bool = False


@dataclass
class TransportResult:
    """The result of a transport's run: the traffic of each node, and the exception of each node that raised."""

    traffic: dict[str, Traffic] = field(default_factory=dict)
    crashed: dict[str, Exception] = field(default_factory=dict)


class BrokerUnreachableError(Exception):
    """No connection to the broker could be made, or it was lost and not made again in time.

    Attributes: `url`, the broker's address; `seconds`, the time that was allowed; `cause`, the text of the last error.
    """

    def __init__(self, url: str, seconds: float, cause: str) -> None:
        super().__init__(f"broker {url} is not reachable: {cause} (tried for {seconds:.0f} s)")
        self.url = url
        self.seconds = seconds
        self.cause = cause


class BrokerRefusalError(BrokerUnreachableError):
    """The broker can be reached, and does not do what a run needs. `cause` is what it does instead."""

    def __init__(self, url: str, seconds: float, cause: str) -> None:
        super().__init__(url, seconds, cause)
        self.args = (f"broker {url} does not carry a run: {cause}",)


class Transport(ABC):
    """Carries messages between nodes and drives them.

    Promises, on every transport:

    - `start` is called once the node's subscriptions are in force. What was retained before arrives after it.
    - Messages of one sender on one topic arrive in the order in which they were sent.
    - A node receives its own messages only if it subscribes to them.
    - `receive`, `tick`, `start` and `then` are never called at the same time for one node; a `Compute` job may run
      meanwhile.
    - A node that raises is disconnected: its last will is delivered, the others go on, and `TransportResult.crashed`
      has the exception.
    """

    @abstractmethod
    def run(self, nodes: Sequence[Node]) -> TransportResult:
        """Drive the nodes until each has finished or crashed.

        Raises `BrokerUnreachableError` when the transport itself is lost for good.
        """
