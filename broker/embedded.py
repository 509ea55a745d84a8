"""The embedded broker: amqtt in a process of its own, for machines without Mosquitto.

`python -m broker.embedded --port PORT` listens on 127.0.0.1, prints its process id once it does, and ends when
standard input ends. It is slower than Mosquitto and does all that a transport needs, with the two defects of amqtt
0.12.1 described below repaired. (Its sockets have TCP_NODELAY: asyncio sets it on every TCP connection.)
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from typing import cast

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

MAX_PACKET = 16 * 1024 * 1024
"""Bytes of a packet. A client that sends more is disconnected, as by Mosquitto (`mosquitto.conf`)."""


def main() -> None:
    """Serve until standard input ends."""
    arguments = argparse.ArgumentParser(prog="python -m broker.embedded")
    arguments.add_argument("--port", type=int, required=True)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_serve(given.port))
    except BrokerError as error:
        sys.exit(str(error))


async def _serve(port: int) -> None:
    broker = _RepairedBroker(
        BrokerConfig(
            listeners={"default": ListenerConfig(bind=f"127.0.0.1:{port}")},
            # Named explicitly, because amqtt's default set publishes $SYS topics and logs every packet.
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
    )
    await broker.start()
    print(os.getpid(), flush=True)
    ended = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), sys.stdin)
    await ended.read()
    os._exit(0)  # nothing is to be saved, and amqtt's own shutdown waits for its clients


class _BoundedReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt is published without types
    async def read(self, n: int = -1) -> bytes:
        """Read `n` bytes. Ends the connection for more than a packet may have, before they are in memory."""
        if n > MAX_PACKET:
            raise ConnectionError(f"a packet of {n} bytes, at most {MAX_PACKET} are read")
        return cast("bytes", await super().read(n))


class _RepairedBroker(Broker):  # type: ignore[misc]
    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Serve a client, reading no packet that is too large."""
        await self._client_connected(listener_name, _BoundedReader(reader), StreamWriterAdapter(writer))

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Send what is retained for a subscription to a session that has this subscription.

        amqtt calls this for every new client with the subscriptions of all clients. New clients so received what they
        had not asked for; and when a client subscribed at that moment, the new one's connection was never served
        ("dictionary changed size during iteration").
        """
        holders = self.subscriptions.get(subscription[0], [])
        if any(holder is session for holder, _ in holders):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        """Serve a client until it has disconnected and everything it published is passed on.

        amqtt drops what a client sent shortly before it disconnected, acknowledged messages included.
        """
        wait_disconnect = handler.wait_disconnect

        async def wait_disconnect_and_delivery() -> DisconnectPacket | None:
            packet = await wait_disconnect()
            while not client_session.delivered_message_queue.empty():
                await asyncio.sleep(0)
            return packet

        handler.wait_disconnect = wait_disconnect_and_delivery
        await super()._client_message_loop(client_session, handler)


if __name__ == "__main__":
    main()
