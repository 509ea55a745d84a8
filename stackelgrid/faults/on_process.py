"""A fault plan in a node's own process: real signals, and a controller for the broker and the connections.

The launcher starts a node with `--faults -`: its controller is then at standard input and output, in the messages of
`stackelgrid.faults.messages`. With `--faults FILE` there is no controller.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

from pydantic import ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.faults.injection import FaultInjectingNode
from stackelgrid.faults.messages import Acknowledgement, FaultOrder, FaultReport, write_line
from stackelgrid.faults.plan import BrokerOutage, Crash, FaultPlan, OnConnection
from stackelgrid.model import explain
from stackelgrid.node.protocol import RunNode
from stackelgrid.run_record import FaultRecord
from stackelgrid.text_file import read_bytes

_LOG = logging.getLogger("stackelgrid.faults")

CONTROLLER_S = 5.0
"""The time that the controller has to start a fault."""
_WAKE = "sleep {seconds}; while kill -CONT {pid}; do sleep 0.1; done"
"""Repeated, because the first signal may come before the node is stopped."""


def inject(node: RunNode, source: str) -> FaultInjectingNode:
    """Put `node` under the plan in the JSON file `source`, or under the controller of this process where that is `-`.

    Raises `ConfigError`.
    """
    now = time.monotonic()
    if source != "-":
        return FaultInjectingNode(node, _read(Path(source)), ProcessActuator(), _log, began=now)
    controller = ControllerPipes()
    order = FaultOrder.model_validate_json(controller.read_line(None))
    began = now if order.began is None else order.began

    def report(record: FaultRecord) -> None:
        _log(record)
        controller.write_line(write_line(FaultReport(node=node.name, began=began, record=record)))

    return FaultInjectingNode(node, order.plan, ProcessActuator(controller), report, order.before, began)


def _read(file: Path) -> FaultPlan:
    try:
        content = read_bytes(file, "name an existing file with --faults")
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    try:
        return FaultPlan.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(explain(str(file), error)) from None


def _log(record: FaultRecord) -> None:
    _LOG.info("fault", extra={"data": record.content()})


class ControllerPipes:
    """The lines from and to the controller of this process: standard input and output, unless others are given."""

    def __init__(self, source: int = 0, target: int = 1) -> None:
        self._source, self._target = source, target
        self._unread = b""

    def read_line(self, timeout_s: float | None) -> bytes:
        """Give the next line; None waits for ever. Raises `TimeoutError`, and `EOFError` where there is no more."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if until is not None and not select.select([self._source], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            read = os.read(self._source, 65536)
            if not read:
                raise EOFError
            self._unread += read
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def write_line(self, line: str) -> None:
        """Write a line at once: many processes share the pipe."""
        os.write(self._target, line.encode() + b"\n")


class ProcessActuator:
    """SIGKILL and SIGSTOP to this very process; the broker and connections are left to the controller, if any."""

    def __init__(self, controller: ControllerPipes | None = None) -> None:
        self._controller = controller

    def kill(self, number: int, crash: Crash) -> None:
        """`kill -9`, of all threads at once. Does not return."""
        os.kill(os.getpid(), signal.SIGKILL)

    def stop(self, seconds: float) -> bool:
        """Stop this process until a child continues it after `seconds`, or somebody else does."""
        waker = subprocess.Popen(
            ["sh", "-c", _WAKE.format(seconds=seconds, pid=os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        os.killpg(waker.pid, signal.SIGKILL)
        waker.wait()
        return False

    def disturb(self, number: int, fault: OnConnection | BrokerOutage) -> bool:
        """Wait until the controller has started the fault, so that the node's next message meets it."""
        if self._controller is None:
            _LOG.warning("no controller", extra={"data": {"fault": number, "kind": fault.kind}})
            return False
        until = time.monotonic() + CONTROLLER_S
        try:
            acknowledged = None
            while acknowledged != number:  # what comes too late for an earlier fault is passed over
                line = self._controller.read_line(until - time.monotonic())
                acknowledged = Acknowledgement.model_validate_json(line).fault
        except (TimeoutError, EOFError):
            _LOG.warning("fault not acknowledged", extra={"data": {"fault": number, "kind": fault.kind}})
        return False
