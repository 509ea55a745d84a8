"""A node around another one: the base of what a node may do besides its part in the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.node.protocol import RunNode
from stackelgrid.transport.base import Action, Publish
from stackelgrid.wire.roles import Role

Inner = TypeVar("Inner", bound=RunNode)


class NodeWrapper(Generic[Inner]):
    """Passes everything on to `node`, and is that node for everybody else."""

    def __init__(self, node: Inner) -> None:
        self._node = node

    @property
    def name(self) -> str:
        """The node's name."""
        return self._node.name

    @property
    def role(self) -> Role:
        """The node's role."""
        return self._node.role

    @property
    def mailbox(self) -> Mailbox:
        """The node's mailbox."""
        return self._node.mailbox

    @property
    def progress(self) -> Progress:
        """The node's progress."""
        return self._node.progress

    @property
    def subscriptions(self) -> Sequence[str]:
        """The node's topic filters."""
        return self._node.subscriptions

    @property
    def last_will(self) -> Publish | None:
        """The node's last will."""
        return self._node.last_will

    def start(self, now: float) -> Sequence[Action]:
        """Start the node."""
        return self._node.start(now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Give the node a message."""
        return self._node.receive(topic, payload, now)

    def next_deadline(self) -> float | None:
        """Give the node's deadline."""
        return self._node.next_deadline()

    def tick(self, now: float) -> Sequence[Action]:
        """Have the node act on its deadline, if that has come."""
        due = self._node.next_deadline()
        return [] if due is None or now < due else self._node.tick(now)
