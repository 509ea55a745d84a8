"""The agent of a machine: it plays a fault plan on the nodes that run there, at the rounds that it hears.

    python -m stackelgrid.faults.agent PLAN --config FILE --node NAME=PID|UNIT

The operator starts it on each machine whose nodes are to be harmed, with the plan that may be played there: nobody can
command it. It hears the leader's rounds with a configuration of its own, that of an observer, and sends nothing. A node
is named with its process id, or its systemd unit, which alone can be restarted.

Exit codes: 0 the plan has been played, or a signal ended it, and all that it had stopped goes on; 2 a plan or a node
that cannot be used; 4 the broker was lost for good.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path

from stackelgrid.errors import ConfigError, ExitCode
from stackelgrid.faults.on_process import read_plan
from stackelgrid.faults.outside import Act, OutsideFaults, Step
from stackelgrid.faults.plan import Crash, FaultPlan
from stackelgrid.node.config import NodeConfig, load
from stackelgrid.node.log import set_up
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.process import serve
from stackelgrid.node.progress import Progress
from stackelgrid.registry import find
from stackelgrid.text_file import set_up_console
from stackelgrid.transport.base import Action, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.version import PrintVersion
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import MAX_NAMES, Signal

_LOG = logging.getLogger("stackelgrid.faults")

LEADER = "leader"
SIGNALS = {Act.KILL: signal.SIGKILL, Act.PAUSE: signal.SIGSTOP, Act.RESUME: signal.SIGCONT}


class Agent:
    """A node that hears the leader's rounds, has `act` do the steps of a plan, and never sends.

    It finishes when the plan is over.
    """

    last_will: Publish | None = None

    def __init__(self, config: NodeConfig, faults: OutsideFaults, act: Callable[[Step], None], leader: str) -> None:
        bodies = find(config.game).bodies("upper")
        self.name = config.name
        self._link = Link(config.run, leader, bodies, config.session_slots, MAX_NAMES, config.fingerprint)
        self.mailbox = Mailbox(self._link)
        self.progress = Progress()
        self.subscriptions: tuple[str, ...] = (f"{self._link.root}/signal", f"{self._link.root}/+/signal")
        self._faults, self._act = faults, act
        self._began: float | None = None
        self._session, self._seconds = 1, 0.0

    def start(self, now: float) -> Sequence[Action]:
        """Begin the plan's seconds, with the first connection."""
        self._began = now if self._began is None else self._began
        return self.tick(now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Note the round that the leader asks."""
        read = self.mailbox.read(topic, payload) if payload else None
        if read is not None and isinstance(read[1], Signal) and read[1].round > self.progress.round:
            self._session = read[1].session
            self.progress.start_round(read[1].round)
            return self.tick(now)
        return []

    def next_deadline(self) -> float | None:
        """Give when the next step by the clock is due."""
        if self._began is None:
            return None
        at = self._began + self._faults.next_deadline(self._seconds)
        return at if isfinite(at) else None

    def tick(self, now: float) -> Sequence[Action]:
        """Do what is due."""
        assert self._began is not None
        self._seconds = now - self._began
        for step in self._faults.look(self._seconds, self.progress.round, self._session):
            self._act(step)
        return [Finish()] if self._faults.is_over else []


class Processes:
    """Nodes of this machine by name, each a process id or a systemd unit."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def act(self, step: Step) -> None:
        """Carry out a step and log it; one that fails is logged."""
        if step.record is not None:
            _LOG.info("fault", extra={"data": step.record.content()})
        place = self._places[step.node]
        try:
            if place.isdecimal():
                os.kill(int(place), SIGNALS[step.act])
            elif step.act is Act.KILL:  # stopped for systemd too, which would restart it by itself
                subprocess.run(["systemctl", "kill", "--signal=KILL", place], check=True, capture_output=True)
                subprocess.run(["systemctl", "stop", place], check=True, capture_output=True)
            elif step.act is Act.START:
                subprocess.run(["systemctl", "start", place], check=True, capture_output=True)
            else:
                number = SIGNALS[step.act].name.removeprefix("SIG")
                subprocess.run(["systemctl", "kill", f"--signal={number}", place], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            _LOG.warning("fault not done", extra={"data": {"node": step.node, "act": step.act, "cause": str(error)}})


def main(arguments: list[str] | None = None) -> int:
    """Play the plan; return the exit code."""
    set_up_console()
    options = _parse(arguments)
    try:
        plan = read_plan(options.plan)
        places = _parse_nodes(options.node)
        _require_restarts(plan, places)
        faults = OutsideFaults(plan, places, [*SIGNALS, Act.START])
        config: NodeConfig = load(options.config, lambda game: NodeConfig)
        transport = MqttTransport(config.broker, tls=config.tls, connect_timeout_s=float("inf"))
    except (ConfigError, ValueError) as error:
        print(f"stackelgrid.faults.agent: {error}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    processes = Processes(places)
    node = Agent(config, faults, processes.act, options.leader)
    set_up(options.log, config.run, config.name, node.progress)
    try:
        code = serve(node, transport, None, stay=False)
    finally:
        for step in faults.release():
            processes.act(step)
    return ExitCode.SETTLED if code == ExitCode.STOPPED else code


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stackelgrid.faults.agent", description="Play a fault plan on nodes of this machine."
    )
    parser.add_argument("--version", action=PrintVersion)
    parser.add_argument("plan", type=Path, metavar="PLAN", help="the fault plan, a JSON file")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration of an observer")
    parser.add_argument(
        "--node",
        action="append",
        required=True,
        metavar="NAME=PID|UNIT",
        help="a node that may be harmed; may be repeated",
    )
    parser.add_argument("--leader", default=LEADER, metavar="NAME", help="whose rounds count; default: %(default)s")
    parser.add_argument("--log", choices=["json", "console"], default="console", help="form of the log on stderr")
    return parser.parse_args(arguments)


def _parse_nodes(words: Sequence[str]) -> dict[str, str]:
    places = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not (name and equals and place):
            raise ConfigError(f"--node {word}: give its name and its process id or unit, as h07=emc-node")
        if place.isdecimal():
            with suppress(PermissionError):  # which says that it is there
                _require_process(word, int(place))
        places[name] = place
    return places


def _require_process(word: str, pid: int) -> None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        raise ConfigError(f"--node {word}: there is no such process; give that of a node that runs") from None


def _require_restarts(plan: FaultPlan, places: Mapping[str, str]) -> None:
    """Raise `ConfigError` where a plan has a process restarted that no systemd knows how to start."""
    for number, fault in enumerate(plan.faults):
        if not isinstance(fault, Crash) or fault.restart_after_s is None:
            continue
        for name, place in places.items():
            if fault.concerns(name) and place.isdecimal():
                raise ConfigError(
                    f"faults.{number}: restart_after_s: a process cannot be started again; give the unit of {name}, or "
                    "leave restart_after_s out"
                )


if __name__ == "__main__":
    sys.exit(main())
