"""The heartbeat of a grid's members: between sessions it tells observers that a node is there, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import inf
from typing import Literal, Protocol

from stackelgrid.gates import Clock, read_wall_clock
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.protocol import RunNode
from stackelgrid.node.wrapper import NodeWrapper
from stackelgrid.transport.base import Action, Finish, Publish
from stackelgrid.version import find_version
from stackelgrid.wire.codec import HeartbeatLink
from stackelgrid.wire.messages import Heartbeat

State = Literal["waiting", "round", "settled", "over", "lost"]
BEAT_S = 30.0
"""The time between two heartbeats of a node whose state does not change."""


class GridMember(RunNode, Protocol):
    """A node of a grid that has a coordinator."""

    @property
    def coordinator(self) -> str:
        """The name of its coordinator; a home may be moved to another one."""

    @property
    def session(self) -> int:
        """The number of the session that it is in."""


def with_heartbeat(node: GridMember, config: NodeConfig, clock: Clock = read_wall_clock) -> RunNode:
    """Give a node that publishes its heartbeat where its configuration is of a grid; else the node itself."""
    return node if config.gates is None else HeartbeatNode(node, config.run, find_version(), clock)


class HeartbeatNode(NodeWrapper[GridMember]):
    """A member of a grid that publishes its heartbeat besides: every `BEAT_S`, and when its state has changed."""

    def __init__(self, node: GridMember, run: str, version: str, clock: Clock) -> None:
        super().__init__(node)
        self._link = HeartbeatLink(run)
        self._version, self._read_clock = version, clock
        self._sent: tuple[object, ...] | None = None  # the state that the last heartbeat told
        self._topic: str | None = None
        self._beat_at = inf  # before the first connection

    def start(self, now: float) -> Sequence[Action]:
        """Start the node, and have its heartbeat follow."""
        self._beat_at = now
        return self._end(super().start(now))

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Give the node a message."""
        return self._end(super().receive(topic, payload, now))

    def next_deadline(self) -> float | None:
        """Give the time of the node's deadline or of the next heartbeat, at once where its state has changed."""
        deadline = super().next_deadline()
        if self._beat_at == inf:
            return deadline
        beat_at = self._beat_at if self._find_state() == self._sent else 0.0
        return beat_at if deadline is None else min(deadline, beat_at)

    def tick(self, now: float) -> Sequence[Action]:
        """Have the node act on its deadline, and publish its heartbeat when that is due."""
        actions = self._end(super().tick(now))
        if self._beat_at == inf or (now < self._beat_at and self._find_state() == self._sent):
            return actions
        return [*self._beat(now), *actions]

    def _beat(self, now: float) -> list[Publish]:
        state, session, plan_until, coordinator = self._sent = self._find_state()
        topic = self._link.topic(coordinator, self.name)
        former = [] if self._topic in (None, topic) else [Publish(self._topic, b"", retain=True)]
        self._topic, self._beat_at = topic, now + BEAT_S
        heartbeat = Heartbeat(
            run=self._link.run,
            sender=self.name,
            at=self._read_clock(now),
            version=self._version,
            session=session,
            state=state,
            plan_until=plan_until,
        )
        return [*former, Publish(topic, self._link.write(heartbeat), retain=True)]

    def _find_state(self) -> tuple[State, int, datetime | None, str]:
        node = self._node
        return node.progress.state, node.session, node.progress.plan_until, node.coordinator

    def _end(self, actions: Sequence[Action]) -> Sequence[Action]:
        """Clear what is retained of the heartbeat before the node leaves."""
        if self._topic is None or not any(isinstance(action, Finish) for action in actions):
            return actions
        self._beat_at = inf
        return [Publish(self._topic, b"", qos=1, retain=True), *actions]
