"""A node as a process: read the configuration, connect, play, leave.

Exit codes: 0 the node has finished, and with `--stay` was then stopped by a signal; 2 bad usage or configuration, also
one of another game than its coordinator's; 4 the broker was lost for good or the node crashed; 143 a signal stopped it
before it had finished.
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
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from math import inf
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from stackelgrid.errors import ConfigError, ExitCode
from stackelgrid.node.config import Config, NodeConfig, load
from stackelgrid.node.log import LEVELS, complain, flush_log, set_up
from stackelgrid.node.protocol import ReportingNode, RunNode
from stackelgrid.registry import Game
from stackelgrid.text_file import set_up_console
from stackelgrid.transport.base import BrokerUnreachableError
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.version import PrintVersion

if TYPE_CHECKING:
    from stackelgrid.node.status import Heartbeat

_LOG = logging.getLogger("stackelgrid.node")

CONFIG_LOOK_S = 1.0
"""The time between two looks at the configuration of a node that has finished and stays."""

Inject = Callable[[RunNode, str, Callable[[], None]], ReportingNode]
"""Puts a node under a fault plan: its file, or `-` for a controller at standard input. The last has the node tick."""


def main(
    program: str,
    config_model: Callable[[Game], type[Config]],
    build: Callable[[Config], RunNode],
    inject: Inject,
    arguments: list[str] | None,
    commands: Mapping[str, str],
) -> int:
    """Run the command line of one node, or one of the `commands`, whose modules are named; returns the exit code."""
    set_up_console()
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in commands:
        return int(import_module(commands[words[0]]).main(words[1:]))
    if words and words[0] in ("-h", "--help"):
        print(f"other commands: {', '.join(f'{program} {name}' for name in commands)}; see the --help of each\n")
    try:
        return _run(program, config_model, build, inject, _parse(program, words))
    finally:
        flush_log()


def _parse(program: str, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=f"One {program.replace('-', ' ')} of a Stackelgrid run.")
    parser.add_argument("--version", action=PrintVersion)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", type=Path, metavar="FILE", help="the node's configuration, a JSON file")
    which.add_argument(
        "--claim", type=Path, metavar="FOLDER", help="use the first FOLDER/*/config.json that no other process uses"
    )
    parser.add_argument("--broker", help="mqtt[s]://[USER@]HOST:PORT, instead of the one in the configuration")
    parser.add_argument("--log", choices=["json", "console"], default="console", help="form of the log on stderr")
    parser.add_argument("--log-level", choices=LEVELS, default=LEVELS[0], help="the least grave lines that it has")
    parser.add_argument("--faults", metavar="FILE", help="a fault plan for this node, a JSON file")
    parser.add_argument(
        "--stay", action="store_true", help="when the run is over, stay until stopped, or configured for another"
    )
    parser.add_argument(
        "--state", type=Path, metavar="FOLDER", help="write its files here, not beside the configuration"
    )
    parser.add_argument("--status", type=Path, metavar="FILE", help="keep a file with the status of the process")
    parser.add_argument("--metrics", metavar="[HOST:]PORT", help="serve Prometheus metrics, on 127.0.0.1 by default")
    return parser.parse_args(arguments)


def _run(
    program: str,
    config_model: Callable[[Game], type[Config]],
    build: Callable[[Config], RunNode],
    inject: Inject,
    options: argparse.Namespace,
) -> int:
    file: Path | None = options.config
    try:
        if file is None:
            file = _claim(options.claim)
        config = load(file, config_model, options.state)
        if options.state is not None:
            _make_folders(config)
        if options.broker is not None:
            config = config.model_copy(update={"broker": options.broker})
        set_up(options.log, config.run, config.name, level=options.log_level)
        node = build(config)
        transport = _build_transport(config)
        out_of_date = None if config.tls is None else config.tls.find_out_of_date()
        if out_of_date is not None:  # it goes on: a machine without a clock of its own may soon get the time
            _LOG.warning("certificate out of date", extra={"data": {"cause": out_of_date}})
        set_up(options.log, config.run, config.name, node.progress, level=options.log_level)  # now with its round
        heartbeat = _build_heartbeat(config, node, transport, options.status, options.metrics)
        served: ReportingNode = node if options.faults is None else inject(node, options.faults, transport.wake)
    except (ConfigError, ValueError) as error:
        complain(f"{program}: {error}")
        return ExitCode.BAD_INPUT
    except OSError as error:
        complain(f"{program}: {error.filename}: {error.strerror}; move it away or change {file}")
        return ExitCode.BAD_INPUT
    _free_memory()
    return serve(served, transport, heartbeat, stay=options.stay, config_file=file)


def _make_folders(config: NodeConfig) -> None:
    for file in (value for _, value in config if isinstance(value, Path)):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _claim(folder: Path) -> Path:
    from stackelgrid.node.claim import claim

    return claim(folder)


def _build_transport(config: NodeConfig) -> MqttTransport:
    if config.reconnect_s is None:
        return MqttTransport(config.broker, tls=config.tls, connect_timeout_s=inf, reconnect_s=inf)
    return MqttTransport(config.broker, tls=config.tls, reconnect_s=config.reconnect_s)


def _build_heartbeat(
    config: NodeConfig, node: RunNode, transport: MqttTransport, status_file: Path | None, metrics_at: str | None
) -> Heartbeat | None:
    """Build a heartbeat with the outlets that are asked for; without any, nothing for it is imported."""
    if status_file is None and metrics_at is None and "NOTIFY_SOCKET" not in os.environ:
        return None
    from stackelgrid.node.status import Heartbeat, Outlet, Status, StatusFile

    status = Status(config.run, config.name, node.progress, node.mailbox, transport, config.find_gate)
    outlets: list[Outlet] = []
    if metrics_at is not None:
        from stackelgrid.node.metrics import serve as serve_metrics

        serve_metrics(metrics_at, node.role, status)
    if status_file is not None:
        outlets.append(StatusFile(status_file, status))
    if "NOTIFY_SOCKET" in os.environ:
        from stackelgrid.node.systemd import Systemd

        outlets.append(Systemd())
    return Heartbeat(status, outlets)


def _free_memory() -> None:
    """Return to the system what importing left behind, a tenth of a small EMC; nothing where libc is not glibc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def serve(
    node: ReportingNode,
    transport: MqttTransport,
    heartbeat: Heartbeat | None,
    *,
    stay: bool,
    config_file: Path | None = None,
) -> int:
    """Drive one node until it has finished, the broker is lost, or a signal stops it; returns the exit code.

    With `stay` a node that has finished waits for the signal, its connection closed in good order, or until its
    `config_file` is another one than now: whoever keeps it running then starts it for another run.
    """
    stopped = threading.Event()
    config = None if config_file is None else config_file.read_bytes()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        transport.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _LOG.info("started", extra={"data": {"pid": os.getpid(), "broker": transport.url}})

    async def run() -> ExitCode:
        # The heartbeat is in the node's own loop: what blocks the node stops the heartbeat too.
        beating = None if heartbeat is None else asyncio.create_task(heartbeat.beat())
        code = await _carry(node, transport, stopped)
        if code is not ExitCode.STOPPED:
            node.progress.end(lost=code is not ExitCode.SETTLED)
        if stay and code is ExitCode.SETTLED:
            await asyncio.to_thread(await_end, stopped, config_file, config)
        if beating is not None:
            beating.cancel()
        return code

    code = asyncio.run(run())
    if heartbeat is not None:
        heartbeat.close()
    return code


def await_end(stopped: threading.Event, config_file: Path | None, config: bytes | None) -> None:
    """Wait until a node is `stopped`, or its configuration is no longer `config`; one that is replaced is not there."""
    while not stopped.wait(CONFIG_LOOK_S):
        with suppress(OSError):
            if config_file is not None and config_file.read_bytes() != config:
                _LOG.info("another configuration", extra={"data": {"file": str(config_file)}})
                return


async def _carry(node: ReportingNode, transport: MqttTransport, stopped: threading.Event) -> ExitCode:
    """Carry the node from the first attempt to connect to its end; returns the exit code that is due for it."""
    try:
        carried = await transport.serve([node])
    except BrokerUnreachableError as error:
        _LOG.error("broker lost", extra={"data": {"error": str(error)}})
        return ExitCode.LOST
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
        if isinstance(crash, ConfigError):
            _LOG.error("cannot take part", extra={"data": {"error": str(crash)}})
            return ExitCode.BAD_INPUT
        _LOG.error("crashed", exc_info=(type(crash), crash, crash.__traceback__))
        return ExitCode.LOST
    return ExitCode.STOPPED if stopped.is_set() else ExitCode.SETTLED
