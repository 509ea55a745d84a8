"""The limits of this machine on open files and processes, compared with what a run needs before it starts anything."""

from __future__ import annotations

import os
import resource
from math import ceil
from pathlib import Path

from stackelgrid.errors import ConfigError
from stackelgrid.scenarios import Scenario

_OWN_FILES = 32
"""Files that the testbed and a broker have open besides one connection a node."""
_OWN_TASKS = 16
"""Processes and threads of the testbed, the forkserver, a broker and the leader's solver."""
_NODE_TASKS = 2
"""A node's threads, each of which counts as a process: its own, and one that connects."""


def require_room(scenario: Scenario, *, under_plan: bool) -> None:
    """Raise the limit on open files as far as a run of `scenario` needs it. Raises `ConfigError` where it cannot run.

    The limits are those that its processes inherit: of the broker, which holds a connection a node, and of the
    forkserver, which holds a pipe a node under a fault plan.
    """
    nodes = len(scenario.topology.names)
    files = nodes * (2 if under_plan else 1) + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY, max(hard, files)):
        room = (hard - _OWN_FILES) // (2 if under_plan else 1)
        raise ConfigError(_refuse(scenario, f"{files} open files", f"{hard} are allowed (ulimit -Hn)", room))
    if soft not in (resource.RLIM_INFINITY, max(soft, files)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    tasks, allowed = nodes * _NODE_TASKS + _OWN_TASKS, find_free_tasks()
    if allowed is not None and allowed < tasks:
        have = f"{allowed} more are allowed (ulimit -u, or the container's limit)"
        room = (allowed - _OWN_TASKS) // _NODE_TASKS
        raise ConfigError(_refuse(scenario, f"{tasks} processes and threads", have, room))


def _refuse(scenario: Scenario, need: str, have: str, nodes: int) -> str:
    """Say what a run needs and has, and how many homes must share a process to make do with so many nodes."""
    topology = scenario.topology
    processes = nodes - 1 - len(topology.aggregators)
    largest = max(sum(map(len, members.values())) for members in topology.members.values())
    mend = f"raise the limit for {len(topology.names)} nodes"
    if processes >= len(topology.aggregators):
        mend += f", or set homes_per_process: {ceil(largest / (processes // len(topology.aggregators)))}"
    return f"the run needs {need}, {have}; {mend}"


def find_free_tasks() -> int | None:
    """Find how many more processes and threads may be started; None where nothing limits them."""
    free = []
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit != resource.RLIM_INFINITY and os.geteuid() != 0:  # it does not hold for root
        free.append(limit - _count_tasks(os.getuid()))
    for group in Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pids"):
        try:
            free.append(int((group / "pids.max").read_text()) - int((group / "pids.current").read_text()))
        except (OSError, ValueError):  # no such file here, or "max"
            continue
    return max(min(free), 0) if free else None


def _count_tasks(user: int) -> int:
    """Count the threads of a user's processes; 0 where the system does not show them."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == user:
                count += len(os.listdir(process / "task"))
        except OSError:  # it has just ended
            continue
    return count
