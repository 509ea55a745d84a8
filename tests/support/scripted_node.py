"""Nodes that do what a test says, on any transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stackelgrid.transport.base import Action, Finish, Publish, Transport

OnStart = Callable[[float], Sequence[Action]]
OnReceive = Callable[[str, bytes, float], Sequence[Action]]


class Scripted:
    """A node that does what the test says and keeps what it was told."""

    def __init__(
        self,
        name: str,
        subscriptions: Sequence[str] = (),
        *,
        start: OnStart = lambda now: [],
        receive: OnReceive = lambda topic, payload, now: [],
        tick: OnStart = lambda now: [],
        last_will: Publish | None = None,
    ) -> None:
        self.name = name
        self.subscriptions = subscriptions
        self.last_will = last_will
        self.deadline: float | None = None
        self.calls: list[str] = []
        self.times: list[float] = []
        self.received: list[tuple[str, bytes]] = []
        self._start, self._receive, self._tick = start, receive, tick

    def start(self, now: float) -> Sequence[Action]:
        self._called("start", now)
        return self._start(now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        self._called("receive", now)
        self.received.append((topic, payload))
        return self._receive(topic, payload, now)

    def tick(self, now: float) -> Sequence[Action]:
        self._called("tick", now)
        self.deadline = None
        return self._tick(now)

    def next_deadline(self) -> float | None:
        return self.deadline

    def _called(self, call: str, now: float) -> None:
        self.calls.append(call)
        self.times.append(now)


def finish(*_: Any) -> list[Action]:
    return [Finish()]


def answer(*actions: Action) -> Callable[..., list[Action]]:
    """A call that always returns these actions."""
    return lambda *_: list(actions)


def listener(root: str, subscription: str) -> Scripted:
    """Takes everything until its own message comes back, which follows what was retained."""
    echo = f"{root}/echo"
    return Scripted(
        "listener",
        [subscription, echo],
        start=answer(Publish(echo, b"")),
        receive=lambda topic, payload, now: finish() if topic == echo else [],
    )


def heard(transport: Transport, root: str, subscription: str) -> list[tuple[str, bytes]]:
    """What a newcomer to `subscription` finds retained."""
    node = listener(root, subscription)
    transport.run([node])
    assert node.calls[0] == "start"
    assert node.received.pop() == (f"{root}/echo", b"")
    return node.received
