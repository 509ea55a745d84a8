"""A node as a process: read the configuration, connect, play, leave.

Exit codes: 0 the node finished, and if it was to stay it was then told to stop; 2 bad usage or configuration, 4 the
broker was lost for good or the node crashed, 143 stopped by SIGTERM before it had finished.
"""

from __future__ import annotations

import argparse
import asyncio
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
from typing import TYPE_CHECKING, Protocol

from stackelgrid.errors import ConfigError
from stackelgrid.node.config import Config, NodeConfig, load
from stackelgrid.node.log import set_up
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.registry import Game
from stackelgrid.transport.base import BrokerUnreachableError, Node
from stackelgrid.transport.mqtt import MqttTransport

if TYPE_CHECKING:
    from stackelgrid.node.status import Heartbeat

_LOG = logging.getLogger("stackelgrid.node")

SETTLED, BAD_INPUT, LOST, STOPPED = 0, 2, 4, 143


class MailedNode(Node, Protocol):
    """A node that reads its post through a mailbox."""

    @property
    def mailbox(self) -> Mailbox:
        """Where bad messages are counted."""


class WatchedNode(MailedNode, Protocol):
    """A node that tells how far it has come."""

    @property
    def progress(self) -> Progress:
        """What it tells."""


def main(
    kind: str,
    config_model: Callable[[Game], type[Config]],
    build: Callable[[Config], WatchedNode],
    arguments: list[str] | None,
) -> int:
    """The command line of one node; returns the exit code."""
    parser = argparse.ArgumentParser(prog=kind, description=f"One {kind.replace('-', ' ')} of a Stackelgrid run.")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--config", type=Path, metavar="FILE", help="the node's configuration, a JSON file")
    whose.add_argument(
        "--claim", type=Path, metavar="FOLDER", help="be the first FOLDER/*/config.json that no other process is"
    )
    parser.add_argument("--broker", help="mqtt[s]://HOST:PORT, instead of the one in the configuration")
    parser.add_argument("--log", choices=["json", "console"], default="console", help="form of the log on stderr")
    parser.add_argument("--faults", type=Path, help="a fault plan that the node lives under, a JSON file")
    parser.add_argument("--stay", action="store_true", help="when the run is over, stay until told to stop")
    parser.add_argument("--status", type=Path, metavar="FILE", help="keep a file that says how the process is")
    parser.add_argument("--metrics", metavar="[HOST:]PORT", help="serve Prometheus metrics, on 127.0.0.1 by default")
    options = parser.parse_args(arguments)
    file = options.config
    try:
        file = file or _claim(options.claim)
        config = load(file, config_model)
        if options.broker is not None:
            config = config.model_copy(update={"broker": options.broker})
        set_up(options.log, config.run, config.name)
        built = build(config)
        node = built if options.faults is None else _under(options.faults, built, file)
        transport = _transport(config)
        set_up(options.log, config.run, config.name, built.progress)  # from here on with its round
        heartbeat = _watched(kind, config, built, transport, options.status, options.metrics)
    except (ConfigError, ValueError) as error:
        print(f"{kind}: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"{kind}: {error.filename}: {error.strerror}; move it away or change {file}", file=sys.stderr)
        return BAD_INPUT
    _give_back_memory()
    return serve(node, transport, built.progress, heartbeat, stay=options.stay)


def _claim(folder: Path) -> Path:
    from stackelgrid.node.claim import claim

    return claim(folder)


def _under(plan: Path, node: MailedNode, config: Path) -> MailedNode:
    from stackelgrid.faults.on_process import under

    return under(plan, node, config)


def _transport(config: NodeConfig) -> MqttTransport:
    if config.reconnect_s is None:
        return MqttTransport(config.broker, tls=config.tls, connect_timeout_s=inf, reconnect_s=inf)
    return MqttTransport(config.broker, tls=config.tls, reconnect_s=config.reconnect_s)


def _watched(
    kind: str,
    config: NodeConfig,
    node: WatchedNode,
    transport: MqttTransport,
    status_file: Path | None,
    metrics_at: str | None,
) -> Heartbeat | None:
    """Have the process seen where that is wanted; a node that nobody watches does not import what it takes."""
    if status_file is None and metrics_at is None and "NOTIFY_SOCKET" not in os.environ:
        return None
    from stackelgrid.node.status import Heartbeat, Outlet, Status, StatusFile

    status = Status(config.run, config.name, node.progress, node.mailbox, transport)
    outlets: list[Outlet] = []
    if metrics_at is not None:
        from stackelgrid.node.metrics import serve as serve_metrics

        serve_metrics(metrics_at, kind, status)
    if status_file is not None:
        outlets.append(StatusFile(status_file, status))
    if "NOTIFY_SOCKET" in os.environ:
        from stackelgrid.node.systemd import Systemd

        outlets.append(Systemd())
    return Heartbeat(status, outlets)


def _give_back_memory() -> None:
    """Return to the system what importing left behind, a tenth of a small EMC; where libc is not glibc, nothing."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def serve(
    node: MailedNode, transport: MqttTransport, progress: Progress, heartbeat: Heartbeat | None, *, stay: bool
) -> int:
    """Drive one node until it has finished, the broker is lost, or a signal stops it; returns the exit code.

    With `stay` a node that has finished waits for the signal, its connection closed in good order.
    """
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        transport.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _LOG.info("started", extra={"data": {"pid": os.getpid(), "broker": transport.url}})

    async def live() -> int:
        # A heartbeat beside the node, in the same loop: whatever holds up the one holds up the other.
        beating = None if heartbeat is None else asyncio.create_task(heartbeat.beat())
        code = await _play(node, transport, stopped)
        if code != STOPPED:
            progress.ended(lost=code == LOST)
        if stay and code == SETTLED:
            await asyncio.to_thread(stopped.wait)
        if beating is not None:
            beating.cancel()
        return code

    code = asyncio.run(live())
    if heartbeat is not None:
        heartbeat.close()
    return code


async def _play(node: MailedNode, transport: MqttTransport, stopped: threading.Event) -> int:
    """The node's run, from the first attempt to connect to its end, and the exit code that is due for it."""
    try:
        carried = await transport.serve([node])
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
