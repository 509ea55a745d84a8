"""A fault plan against the containers of a Compose project, through its engine."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

from stackelgrid.errors import ConfigError
from stackelgrid.faults.outside import BROKER, Act, OutsideFaults, Step
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.run_record import FaultRecord

_LABEL = "com.docker.compose"
_NODES = ("leader", "aggregators", "home", "newcomer")
"""The services of nodes, or what their names begin with."""
_STATUS = "/run/stackelgrid/status.json"
_START_S = 120.0
"""The time that a container which has just been started may take to say which node it is."""
_ENDED = {"written", "ended"}
"""The events of an observer after which no round comes."""


class EngineError(ConfigError):
    """An engine that does not do what it is asked; the message has its own words."""


@dataclass(frozen=True)
class Container:
    """A container: its id, the Compose service that it is of, and by network the names that it has there."""

    id: str
    service: str
    networks: Mapping[str, list[str]]


class ComposeProject:
    """The running containers of `project`, by the nodes that they are; the broker is `broker`. Raises `EngineError`."""

    def __init__(self, project: str) -> None:
        found = _docker("ps", "--quiet", "--no-trunc", "--filter", f"label={_LABEL}.project={project}").split()
        if not found:
            raise EngineError(
                f"--compose {project}: no container of that project runs; docker compose ls lists projects"
            )
        described = [_describe(each) for each in json.loads(_docker("inspect", *found))]
        self.containers = {_name_node(each): each for each in described if each.service.startswith((*_NODES, BROKER))}
        observers = [each for each in described if each.service == "observer"]
        if not observers:
            raise EngineError(f"--compose {project}: no observer runs, which tells of rounds; start it")
        self._observer = observers[0].id

    def act(self, step: Step) -> None:
        """Carry out a step. Raises `EngineError`."""
        container = self.containers[step.node]
        match step.act:
            case Act.KILL:
                _docker("kill", "--signal=KILL", container.id)
            case Act.START:
                _docker("start", container.id)
            case Act.PAUSE:
                _docker("pause", container.id)
            case Act.RESUME:
                _docker("unpause", container.id)
            case Act.DISCONNECT:
                for network in container.networks:
                    _docker("network", "disconnect", network, container.id)
            case Act.CONNECT:
                for network, aliases in container.networks.items():
                    named = [f"--alias={alias}" for alias in aliases]
                    _docker("network", "connect", *named, network, container.id)

    @contextmanager
    def listen(self) -> Iterator[queue.SimpleQueue[dict[str, Any] | None]]:
        """Give what the observer logs from now on, then None."""
        command = ["docker", "logs", "--follow", "--since=0s", self._observer]
        logs = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert logs.stdout is not None
        heard = queue.SimpleQueue[dict[str, Any] | None]()
        threading.Thread(target=_read_log, args=[logs.stdout, heard.put], daemon=True).start()
        try:
            yield heard
        finally:
            logs.terminate()
            logs.wait()


def disturb(plan: FaultPlan, project: ComposeProject, on_fault: Callable[[FaultRecord], None]) -> None:
    """Play a plan on a project, until it is over or the run is, and undo what is then still in force.

    Its seconds begin now; each fault is given to `on_fault` as it strikes. Raises `ConfigError`.
    """
    faults, began = OutsideFaults(plan, project.containers, [*Act]), time.monotonic()
    round_number, session = 0, 1

    def carry_out(steps: Iterable[Step]) -> None:
        for step in steps:
            project.act(step)
            if step.record is not None:
                on_fault(step.record)

    with project.listen() as heard:
        try:
            while True:
                seconds = time.monotonic() - began
                carry_out(faults.look(seconds, round_number, session))
                if faults.is_over:
                    return
                until = faults.next_deadline(seconds)
                try:
                    event = heard.get(timeout=None if until == inf else max(0.0, until - (time.monotonic() - began)))
                except queue.Empty:
                    continue
                if event is None or event.get("event") in _ENDED:
                    return
                if event.get("event") == "round":
                    round_number, session = event["round"], event["session"]
        finally:
            undo(faults.release(), project.act)


def undo(steps: Iterable[Step], act: Callable[[Step], None]) -> None:
    """Carry out every step; raise the first `EngineError` once all have been tried."""
    errors = []
    for step in steps:
        try:
            act(step)
        except EngineError as error:  # a container that is gone
            errors.append(error)
    if errors:
        raise errors[0]


def _docker(*words: str) -> str:
    try:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EngineError("docker: no such program; install Docker, or put it on the PATH") from None
    if done.returncode:
        raise EngineError(f"docker {words[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _describe(inspected: Mapping[str, Any]) -> Container:
    networks = {name: each["Aliases"] or [] for name, each in inspected["NetworkSettings"]["Networks"].items()}
    return Container(inspected["Id"], inspected["Config"]["Labels"][f"{_LABEL}.service"], networks)


def _name_node(container: Container) -> str:
    """Give the node that a container is: a replica has claimed one, which its status says."""
    if container.service == BROKER:
        return BROKER
    give_up = time.monotonic() + _START_S
    while True:
        try:
            return str(json.loads(_docker("exec", container.id, "cat", _STATUS))["node"])
        except (EngineError, ValueError, KeyError) as error:
            if time.monotonic() >= give_up:
                raise EngineError(
                    f"{container.service}: it does not say which node it is ({error}); look at its log"
                ) from None
        time.sleep(0.5)


def _read_log(lines: Iterable[bytes], put: Callable[[dict[str, Any] | None], None]) -> None:
    for line in lines:
        try:
            put(json.loads(line))
        except ValueError:  # a line of another program
            continue
    put(None)
