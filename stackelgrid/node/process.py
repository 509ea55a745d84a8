"""A node as a process: read the configuration, connect, play, leave.

Exit codes: 0 the node finished, 2 bad usage or configuration, 4 the broker was lost for good or the node crashed,
143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from math import inf
from pathlib import Path
from types import FrameType
from typing import Protocol

from stackelgrid.games import Game
from stackelgrid.node.config import Config, ConfigError, NodeConfig, load
from stackelgrid.node.log import set_up
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.transport.base import BrokerUnreachableError, Node
from stackelgrid.transport.mqtt import MqttTransport

_LOG = logging.getLogger("stackelgrid.node")

SETTLED, BAD_INPUT, LOST, STOPPED = 0, 2, 4, 143


class MailedNode(Node, Protocol):
    """A node that reads its post through a mailbox."""

    @property
    def mailbox(self) -> Mailbox:
        """Where bad messages are counted."""


def main(
    kind: str,
    of_game: Callable[[Game], type[Config]],
    build: Callable[[Config], MailedNode],
    arguments: list[str] | None,
) -> int:
    """The command line of one node; returns the exit code."""
    parser = argparse.ArgumentParser(prog=kind, description=f"One {kind.replace('-', ' ')} of a Stackelgrid run.")
    parser.add_argument("--config", type=Path, required=True, help="the node's configuration, a JSON file")
    parser.add_argument("--broker", help="mqtt://HOST:PORT, instead of the one in the configuration")
    parser.add_argument("--log", choices=["json", "console"], default="console", help="form of the log on stderr")
    parser.add_argument("--faults", type=Path, help="a fault plan that the node lives under, a JSON file")
    options = parser.parse_args(arguments)
    try:
        config = load(options.config, of_game)
        node = build(config)
        if options.faults is not None:
            from stackelgrid.faults.on_process import under

            node = under(options.faults, node, options.config)
        transport = _transport(config, options.broker or config.broker)
    except (ConfigError, ValueError) as error:
        print(f"{kind}: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"{kind}: {error.filename}: {error.strerror}; move it away or change {options.config}", file=sys.stderr)
        return BAD_INPUT
    set_up(options.log, config.run, config.name)
    _give_back_memory()
    return serve(node, transport)


def _transport(config: NodeConfig, url: str) -> MqttTransport:
    if config.reconnect_s is None:
        return MqttTransport(url, tls=config.tls, connect_timeout_s=inf, reconnect_s=inf)
    return MqttTransport(url, tls=config.tls, reconnect_s=config.reconnect_s)


def _give_back_memory() -> None:
    """Return to the system what importing left behind, a tenth of a small EMC; where libc is not glibc, nothing."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def serve(node: MailedNode, transport: MqttTransport) -> int:
    """Drive one node until it has finished, the broker is lost, or a signal stops it."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        transport.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _LOG.info("started", extra={"data": {"pid": os.getpid(), "broker": transport.url}})
    try:
        carried = transport.run([node])
    except BrokerUnreachableError as error:
        _LOG.error("broker lost", extra={"data": {"error": str(error)}})
        return LOST
    traffic = carried.traffic[node.name]
    _LOG.info(
        "ended",
        extra={
            "data": {
                "messages": traffic.sent,
                "bytes": traffic.sent_bytes,
                "received": traffic.received,
                "rejected": dict(node.mailbox.rejected),
                "stopped": stopped.is_set(),
            }
        },
    )
    if carried.crashed:
        crash = carried.crashed[node.name]
        _LOG.error("crashed", exc_info=(type(crash), crash, crash.__traceback__))
        return LOST
    return STOPPED if stopped.is_set() else SETTLED
