"""A fault plan in a node's own process: real signals, and a desk that harms the broker and the connections.

What happens is logged as event `fault`. A node remembers beside its configuration, in NAME.spent, which faults it has
met, so that they do not happen again after a restart; there the desk confirms, in NAME.N.done, that fault N has begun.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.faults.injection import FaultInjectingNode
from stackelgrid.faults.plan import BrokerOutage, Crash, FaultPlan, OnConnection
from stackelgrid.model import explain

_LOG = logging.getLogger("stackelgrid.faults")

DESK_S = 5.0
"""How long a node waits for the desk to begin what only the desk can do."""
_GLANCE_S = 0.005
_WAKE = "sleep {seconds}; while kill -CONT {pid}; do sleep 0.1; done"
"""Again and again, in case that the first comes before the node stands still."""


def under(plan_file: Path, node: Any, config: Path) -> FaultInjectingNode:
    """`node`, configured by `config`, under the plan of a JSON file. Raises `ConfigError`."""
    try:
        plan = FaultPlan.model_validate_json(plan_file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{plan_file}: cannot be read ({error.strerror}); name an existing file") from None
    except ValidationError as error:
        raise ConfigError(explain(str(plan_file), error)) from None
    fate = ProcessActuator(config)
    return FaultInjectingNode(node, plan, fate, _log, fate.spent, fate.began)


def spent_file(config: Path) -> Path:
    """Where the node of a configuration remembers the faults that it has met: one JSON object a line."""
    return config.with_suffix(".spent")


def done_file(config: Path, number: int) -> Path:
    """Where the desk confirms that it has begun what fault `number` does to the node's connection, or to the broker."""
    return config.with_suffix(f".{number}.done")


def read_spent(config: Path) -> list[dict[str, Any]]:
    """The faults that the node of a configuration has met, each as {"fault": number, "began": seconds}."""
    path = spent_file(config)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class ProcessActuator:
    """SIGKILL and SIGSTOP to this very process; what is beyond a process is left to the desk.

    `spent` are the faults met before a restart, `began` when the node was first started, on the monotonic clock.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        met = read_spent(config)
        self.spent: Sequence[int] = [entry["fault"] for entry in met]
        self.began: float = met[0]["began"] if met else time.monotonic()

    def met(self, number: int) -> None:
        """Write it down before it happens."""
        with spent_file(self._config).open("a") as file:
            file.write(json.dumps({"fault": number, "began": self.began}) + "\n")

    def kill(self, number: int, crash: Crash) -> None:
        """`kill -9`, of all threads at once. Does not return."""
        os.kill(os.getpid(), signal.SIGKILL)

    def stop(self, seconds: float) -> bool:
        """Stand still until a child says that the time is over; or somebody else does."""
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
        """Wait until the desk has begun; what the node does next meets the harm."""
        done = done_file(self._config, number)
        give_up = time.monotonic() + DESK_S
        while not done.exists():
            if time.monotonic() >= give_up:
                _LOG.warning("no desk did it", extra={"data": {"fault": number, "kind": fault.kind}})
                break
            time.sleep(_GLANCE_S)
        return False


def _log(record: dict[str, Any]) -> None:
    _LOG.info("fault", extra={"data": record})
