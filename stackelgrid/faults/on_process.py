"""A fault plan in a node's own process: real signals, and a controller for the broker and the connections.

The launcher starts a node with `--faults -`: its controller is then at standard input and output, in the messages of
`stackelgrid.faults.messages`. With `--faults FILE` there is no controller.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.faults.injection import FaultInjectingNode
from stackelgrid.faults.messages import Acknowledgement, FaultAddition, FaultOrder, FaultReport, write_line
from stackelgrid.faults.plan import BrokerOutage, Crash, Fault, FaultPlan, OnConnection
from stackelgrid.model import explain
from stackelgrid.node.protocol import RunNode
from stackelgrid.run_record import FaultRecord
from stackelgrid.text_file import read_bytes

_LOG = logging.getLogger("stackelgrid.faults")

CONTROLLER_S = 5.0
"""The time that the controller has to start a fault."""
_WAKE = "sleep {seconds}; while kill -CONT {pid}; do sleep 0.1; done"
"""Repeated, because the first signal may come before the node is stopped."""


def inject(node: RunNode, source: str, wake: Callable[[], None] = lambda: None) -> FaultInjectingNode:
    """Put `node` under the plan in the JSON file `source`, or under the controller of this process where that is `-`.

    `wake` has the node tick, for a fault that the controller adds to the plan. Raises `ConfigError`.
    """
    now = time.monotonic()
    if source != "-":
        return FaultInjectingNode(node, read_plan(Path(source)), ProcessActuator(), _log, began=now)
    controller = ControllerPipes()
    order = FaultOrder.model_validate_json(controller.read_line())
    began = now if order.began is None else order.began

    def report(record: FaultRecord) -> None:
        _log(record)
        controller.write_line(write_line(FaultReport(node=node.name, began=began, record=record)))

    injected = FaultInjectingNode(node, order.plan, ProcessActuator(controller), report, order.before, began)

    def add(fault: Fault) -> None:
        injected.add(fault)
        wake()

    controller.listen(add)
    return injected


def read_plan(file: Path) -> FaultPlan:
    """Read a plan from a JSON file. Raises `ConfigError`."""
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
        self._acknowledged = queue.SimpleQueue[Acknowledgement | None]()  # None: the controller is gone

    def listen(self, add: Callable[[Fault], None]) -> None:
        """Read the lines that come from now on, in a thread; `add` gets each fault that is added to the plan."""
        threading.Thread(target=self._listen, args=[add], name="stackelgrid-faults", daemon=True).start()

    def _listen(self, add: Callable[[Fault], None]) -> None:
        with suppress(EOFError):
            while True:
                line = self.read_line()
                if "add" in json.loads(line):
                    add(FaultAddition.model_validate_json(line).add)
                else:
                    self._acknowledged.put(Acknowledgement.model_validate_json(line))
        self._acknowledged.put(None)

    def await_acknowledgement(self, number: int) -> Acknowledgement | None:
        """Give the controller's acknowledgement of fault `number`; None where it does not come in time."""
        until = time.monotonic() + CONTROLLER_S
        with suppress(queue.Empty):
            while (found := self._acknowledged.get(timeout=max(0.0, until - time.monotonic()))) is not None:
                if found.fault == number:  # what comes too late for an earlier fault is passed over
                    return found
            self._acknowledged.put(None)
        return None

    def read_line(self) -> bytes:
        """Give the next line. Raises `EOFError` where there is no more."""
        while b"\n" not in self._unread:
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
        acknowledgement = self._controller.await_acknowledgement(number)
        if acknowledgement is None:
            _LOG.warning("fault not acknowledged", extra={"data": {"fault": number, "kind": fault.kind}})
            return False
        return acknowledgement.simulated
