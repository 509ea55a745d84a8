"""The nodes that a process can run, beyond what a transport asks of them."""

from __future__ import annotations

from typing import Protocol

from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.transport.base import Node
from stackelgrid.wire.roles import Role


class ReportingNode(Node, Protocol):
    """A node that reports what it could not read and how far it has come."""

    @property
    def mailbox(self) -> Mailbox:
        """Counts the messages that it could not read."""

    @property
    def progress(self) -> Progress:
        """Its progress in the run."""


class RunNode(ReportingNode, Protocol):
    """A node of a run: the leader, an aggregator or a home."""

    @property
    def role(self) -> Role:
        """Its role in the run."""
