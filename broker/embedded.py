"""The embedded broker: amqtt in a process of its own, for machines without Mosquitto.

`python -m broker.embedded --port PORT` listens on 127.0.0.1, prints its process id once it does, and ends when
standard input ends. Slower than Mosquitto, equal in what a transport needs; three defects of amqtt 0.12.1 are
worked around below.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError


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


class _RepairedBroker(Broker):  # type: ignore[misc]  # amqtt is published without types
    pass


if __name__ == "__main__":
    main()
