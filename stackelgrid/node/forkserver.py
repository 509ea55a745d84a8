"""Many node processes of one kind for the price of one import.

`python -m stackelgrid.node.forkserver emc_node user_oriented` imports the package, and its part of the game, once and
forks a process per line of its standard input, `{"config": FILE, "log": FILE}`, with `"faults": FILE` under a fault
plan and `"broker": URL` to have it connect elsewhere than its configuration says. It says on standard output, one JSON
object a line, which process started and how each ended. When its input ends, it stops what is left and goes: no node
outlives the one who launched it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from stackelgrid.registry import find

_GRACE_S = 5.0
"""How long a node may take to leave in good order before it is killed."""
_PR_SET_PDEATHSIG = 1


def main(package: str, game: str) -> int:
    """Serve until standard input ends."""
    node_main: Callable[[list[str]], int] = importlib.import_module(f"{package}.__main__").main
    importlib.import_module(f"{package}.config").config_model(find(game))
    gc.collect()
    gc.freeze()  # what is shared now stays shared: no collection writes to it in the children
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake_write)
    children: dict[int, str] = {}
    pending = b""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _report_ended(children)
        if 0 in ready:
            read = os.read(0, 65536)
            if not read:
                break
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                _fork(json.loads(line), node_main, children)
    _stop(children)
    return 0


def _fork(order: dict[str, str], node_main: Callable[[list[str]], int], children: dict[int, str]) -> None:
    options = [word for key in ("broker", "faults") if key in order for word in (f"--{key}", order[key])]
    if "faults" in order:
        importlib.import_module("stackelgrid.faults.on_process")  # once for all children
    parent = os.getpid()
    pid = os.fork()
    if pid:
        children[pid] = order["config"]
        _say({"started": order["config"], "pid": pid})
        return
    code = 70
    try:
        _become_node(order["log"], parent)
        code = node_main(["--config", order["config"], "--log", "json", *options])
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 70
    except BaseException:
        sys.excepthook(*sys.exc_info())  # into the node's log
    finally:
        sys.stderr.flush()
        os._exit(code)


def _become_node(log: str, parent: int) -> None:
    """Leave the nursery's pipes and signals behind; end when the nursery does, even by `kill -9`."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(nothing, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(70)


def _report_ended(children: dict[int, str]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _say({"ended": children.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _say(record: dict[str, Any]) -> None:
    try:
        os.write(1, (json.dumps(record) + "\n").encode())
    except BrokenPipeError:
        return  # whoever launched us is gone; our input ends next


def _stop(children: dict[int, str]) -> None:
    for number, patience in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        for pid in children:
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)  # one that was stopped wakes up to it
        deadline = time.monotonic() + patience
        while children and time.monotonic() < deadline:
            _report_ended(children)
            time.sleep(0.01)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(*sys.argv[1:]))
