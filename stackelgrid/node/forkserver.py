"""Fork many node processes from one that has imported their modules.

`python -m stackelgrid.node.forkserver user_oriented emc_node,leader_node [MODULE...]` imports the packages, their parts
of the game and the modules once. On standard input it takes one JSON object a line:

- `{"package": "emc_node", "config": FILE, "log": FILE}` forks a node of that package, which connects to `"broker": URL`
  where that is given. With `"input": LINE` the node gets `--faults -`: LINE is the first on its standard input, and its
  standard output is that of the forkserver;
- `{"config": FILE, "input": LINE}` writes another line to the standard input of a node that was started so.

On standard output it writes, one JSON object a line, which process was started, which could not be and why, and how
each ended. When its input ends, it stops the nodes that are left and exits: no node outlives the process that launched
it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from stackelgrid.node.log import flush_log
from stackelgrid.parent_process import end_with_parent
from stackelgrid.registry import find
from stackelgrid.wire.codec import message_models
from stackelgrid.wire.masks import MaskedAnswer

_GRACE_S = 5.0
"""The time that a node has to leave in good order before it is killed."""


NodeMain = Callable[[list[str]], int]


def main(game: str, packages: str, *modules: str) -> int:
    """Serve until standard input ends."""
    node_mains: dict[str, NodeMain] = {}
    for package in packages.split(","):
        node_mains[package] = importlib.import_module(f"{package}.__main__").main
        importlib.import_module(f"{package}.config").config_model(find(game))  # built here, cached for all children
    lower, masked = find(game).bodies("lower"), find(game).masked
    for bodies in (find(game).bodies("upper"), lower, *([replace(lower, answer=MaskedAnswer)] if masked else [])):
        message_models(bodies)
    if masked:
        find(game).load("masked")
    for module in ("encodings.idna", *modules):  # the first is what a broker's address is checked with
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # pages that are shared now stay shared: no collection writes to them in the children
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake_write)
    children: dict[int, str] = {}
    inputs: dict[str, int] = {}
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
            for order in map(json.loads, lines):
                if "log" in order:
                    try:
                        _fork(order, node_mains[order["package"]], children, inputs)
                    except OSError as error:  # a limit on processes or open files
                        _write({"unstarted": order["config"], "why": error.strerror})
                        continue
                if "input" in order:
                    with suppress(BrokenPipeError):  # the node has just been killed
                        os.write(inputs[order["config"]], order["input"].encode() + b"\n")
    _stop(children)
    return 0


def _fork(order: dict[str, str], node_main: NodeMain, children: dict[int, str], inputs: dict[str, int]) -> None:
    options = ["--config", order["config"], "--log", "json"]
    options += ["--broker", order["broker"]] if "broker" in order else []
    node_input = None
    if "input" in order:
        options += ["--faults", "-"]
        if order["config"] in inputs:
            os.close(inputs[order["config"]])  # of before a restart
        node_input, inputs[order["config"]] = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        children[pid] = order["config"]
        if node_input is not None:
            os.close(node_input)
        _write({"started": order["config"], "pid": pid})
        return
    code = 70
    try:
        _become_node(order["log"], node_input, parent)
        code = node_main(options)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 70
    except BaseException:
        sys.excepthook(*sys.exc_info())  # into the node's log
    finally:
        flush_log()
        os._exit(code)


def _become_node(log: str, node_input: int | None, parent: int) -> None:
    """Leave the forkserver's pipes and signals behind; end when it does, even by `kill -9`."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 2)
    if node_input is None:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(target, 1)
    else:
        os.dup2(node_input, 0)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # among them the inputs of other nodes
    if not end_with_parent(parent, signal.SIGKILL):  # a node that was stopped ends of nothing else
        os._exit(70)


def _report_ended(children: dict[int, str]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _write({"ended": children.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _write(record: dict[str, Any]) -> None:
    try:
        os.write(1, (json.dumps(record) + "\n").encode())
    except BrokenPipeError:
        return  # the launcher is gone; our input ends next


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
