"""Short visits to a broker, each bounded in time."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from stackelgrid.transport.base import Action, BrokerRefusalError, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport

HEAR_S = 5.0
"""The time in which a broker has to send what it retains."""


class Visitor:
    """A node that connects, publishes its messages and leaves, once it has heard a topic where it is given one."""

    last_will: Publish | None = None

    def __init__(self, *messages: Publish, hear: str | None = None) -> None:
        self.name = "testbed"
        self.subscriptions: Sequence[str] = () if hear is None else (hear,)
        self.heard: bytes | None = None
        self._messages, self._give_up_at = messages, None if hear is None else 0.0

    def start(self, now: float) -> Sequence[Action]:
        """Publish the messages."""
        if self._give_up_at is None:
            return [*self._messages, Finish()]
        self._give_up_at = now + HEAR_S
        return self._messages

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Keep what the topic has, and leave."""
        self.heard = payload
        return [Finish()]

    def tick(self, now: float) -> Sequence[Action]:
        """Leave without having heard anything."""
        return [Finish()]

    def next_deadline(self) -> float | None:
        """Give the time at which it no longer waits."""
        return self._give_up_at


def require_retained(writer: MqttTransport, reader: MqttTransport, topic: str) -> None:
    """Raise `BrokerRefusalError` unless what `writer` retains on `topic` reaches `reader`. The topic is cleared again.

    A broker may end the connection of whoever retains, or deny a message and acknowledge it all the same.
    """
    payload = secrets.token_hex(8).encode()
    writer.run([Visitor(Publish(topic, payload, qos=1, retain=True))])
    visitor = Visitor(hear=topic)
    try:
        reader.run([visitor])
    finally:
        writer.run([Visitor(Publish(topic, b"", qos=1, retain=True))])
    if visitor.heard != payload:
        cause = f"what is retained on {topic} does not arrive; it must retain messages, and its access rules allow them"
        raise BrokerRefusalError(reader.url, HEAR_S, cause)
