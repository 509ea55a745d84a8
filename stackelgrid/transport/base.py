"""What a node asks of its transport, and what a transport promises a node.

A node is a pure state machine: bytes, clock readings and results of its own computations go in, actions come out. It
opens no socket and reads no clock, so the same node runs over MQTT in a process of its own and under a virtual clock
beside a hundred others. Every transport passes the one conformance suite in `tests/test_transport_conformance.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Publish:
    """Send `payload` to everyone who subscribes to `topic`.

    `retain` keeps it for later subscribers (an empty payload clears what was kept); `qos` 0 may lose it, 1 has the
    broker acknowledge it. Neither says that a subscriber received it: that is the round protocol's business.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Compute:
    """Run `job` without holding up reception, then hand its result to `then(result, now)`, which returns actions.

    A node's computations run one at a time, in the order asked.
    """

    job: Callable[[], Any]
    then: Callable[[Any, float], Sequence[Action]]


@dataclass(frozen=True, slots=True)
class FetchRetained:
    """Have what is retained on the node's subscriptions sent again: a message may have been lost on its way here."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The node has nothing left to do: send what is queued, leave the broker cleanly (no last will), stop."""


Action = Publish | Compute | FetchRetained | Finish


class Node(Protocol):
    """The state machine a transport drives. Times are seconds on the transport's own clock."""

    @property
    def name(self) -> str:
        """The node's id, unique in its run."""

    @property
    def subscriptions(self) -> Sequence[str]:
        """Topic filters (MQTT syntax, `+` and `#` included), fixed for the node's life."""

    @property
    def last_will(self) -> Publish | None:
        """Published on the node's behalf when its connection ends without `Finish`."""

    def start(self, now: float) -> Sequence[Action]:
        """The connection stands and the subscriptions are in force: at the beginning and after every reconnect."""

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """A message arrived. Any bytes may come; a node never raises because of them."""

    def tick(self, now: float) -> Sequence[Action]:
        """The clock has reached `next_deadline()`."""

    def next_deadline(self) -> float | None:
        """When to call `tick`, or None. Asked again after every call into the node."""


@dataclass
class Traffic:
    """What one node put on the wire and took from it (application payloads, protocol framing not counted).

    `connections` is how often its connection was made, `connected` whether it stands now.
    """

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    connections: int = 0
    connected: bool = False


@dataclass
class TransportResult:
    """How a transport's run ended: traffic per node, and the exception of each node whose code raised."""

    traffic: dict[str, Traffic] = field(default_factory=dict)
    crashed: dict[str, Exception] = field(default_factory=dict)


class BrokerUnreachableError(Exception):
    """No connection to the broker could be made, or it was lost and did not come back in time.

    Attributes: `url`, the broker's address; `seconds`, how long was tried; `cause`, the last error's text.
    """

    def __init__(self, url: str, seconds: float, cause: str) -> None:
        super().__init__(f"broker {url} is not reachable: {cause} (tried for {seconds:.0f} s)")
        self.url = url
        self.seconds = seconds
        self.cause = cause


class Transport(ABC):
    """Carries messages between nodes and drives them.

    Promises, on every transport:

    - `start` is called once the node's subscriptions are in force; what was retained before arrives after it.
    - Messages of one sender on one topic arrive in the order sent.
    - A node receives its own messages only if it subscribes to them.
    - `receive`, `tick`, `start` and `then` are never called concurrently for one node; a `Compute` job may run
      meanwhile.
    - A node whose code raises is cut off: its last will is delivered, the others go on, and `TransportResult.crashed`
      has the exception.
    """

    @abstractmethod
    def run(self, nodes: Sequence[Node]) -> TransportResult:
        """Drive the nodes until each has finished or crashed.

        Raises `BrokerUnreachableError` when the transport itself is lost for good.
        """
