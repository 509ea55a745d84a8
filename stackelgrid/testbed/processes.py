"""A whole run over MQTT: every node a process of its own, watched until the leader has settled or cannot."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import broker
from stackelgrid.faults.controller import FaultController
from stackelgrid.faults.plan import BrokerOutage, Crash, FaultPlan
from stackelgrid.rounds import Member
from stackelgrid.run_record import RunRecord, missing_in
from stackelgrid.scenarios.scenario import Scenario
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.testbed.enrolment import with_certificates
from stackelgrid.testbed.node_configs import NodeConfigs, build_node_configs
from stackelgrid.transport.base import Action, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.codec import Bodies, Link
from stackelgrid.wire.messages import Body

_FAREWELL_S = 5.0
"""How long nodes may take to leave once the leader has."""
_KNOCK_S = 5.0
"""How long a broker that should be there already may take to answer."""
_LOOK_S = 0.05
"""How often the leader's journal is looked at for finished rounds."""


def play(
    scenario: Scenario,
    folder: Path,
    broker_kind: str,
    run: str,
    watch: Callable[[dict[str, Any]], None] = lambda record: None,
    plan: FaultPlan | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda record: None,
    certificates: Path | None = None,
) -> RunRecord:
    """Run `scenario` with its nodes as processes; `folder` gets configurations, logs and the journal.

    `broker_kind` is auto, mosquitto, embedded or the address of a broker that is there already; to one at `mqtts://`
    the nodes prove themselves with what the authority in the folder `certificates` has given them. Under a fault plan
    nodes and broker are killed and come back; `tell` sees each fault as it happens. Raises `broker.BrokerStartError`,
    `broker.authority.AuthorityError` or `BrokerUnreachableError` before any node is started. On KeyboardInterrupt
    everything is stopped and what was found so far is returned as interrupted.
    """
    began = time.perf_counter()
    logs, nodes = folder / "logs", folder / "nodes"
    logs.mkdir()
    nodes.mkdir(mode=0o700)
    with ExitStack() as stack:
        own = _own_broker(broker_kind, logs, stack, plan)
        url, kind = (own.url, own.kind) if own is not None else (broker_kind, broker_kind)
        configs = build_node_configs(scenario, run, url, gather=True)
        if certificates is not None:
            configs = with_certificates(configs, scenario.topology, certificates)
        if own is None:
            MqttTransport(url, tls=configs.leader.tls, connect_timeout_s=_KNOCK_S).run([_Visit()])
        run_record = RunRecord("mqtt", kind, len(scenario.topology.names))
        desk = None
        if plan is not None:
            desk = stack.enter_context(_desk(plan, scenario.topology.names, nodes, logs, url, own, run_record, tell))
        supervisor = _Supervisor(scenario.game, nodes, logs, url, _last_wills(configs), run_record, desk)
        stack.callback(supervisor.stop)
        journal = _Journal(folder / "rounds.jsonl", run_record, watch)
        try:
            supervisor.launch("emc_node", configs.homes)
            supervisor.launch("aggregator_node", configs.aggregators)
            supervisor.launch("leader_node", [configs.leader])
            supervisor.wait(journal.look)
        except KeyboardInterrupt:
            run_record.interrupted = True
        supervisor.stop()
        journal.look()
        if desk is not None:
            desk.look()
    _gather(run_record, nodes, logs, scenario.topology.aggregators)
    run_record.elapsed_s = time.perf_counter() - began
    return run_record


def _own_broker(kind: str, logs: Path, stack: ExitStack, plan: FaultPlan | None) -> broker.RunningBroker | None:
    """A broker of the run's own; None when there is one already."""
    own_kind = broker.BrokerKind.of(kind)
    if own_kind is not None:
        outages = [] if plan is None else [fault for fault in plan.faults if isinstance(fault, BrokerOutage)]
        persistent = any(outage.keep_retained for outage in outages)
        return stack.enter_context(broker.start(own_kind, logs, persistent=persistent))
    return None


def _desk(
    plan: FaultPlan,
    names: list[str],
    nodes: Path,
    logs: Path,
    url: str,
    own: broker.RunningBroker | None,
    run_record: RunRecord,
    tell: Callable[[dict[str, Any]], None],
) -> FaultController:
    def happened(record: dict[str, Any]) -> None:
        run_record.faults.append(record)
        tell(record)

    return FaultController(plan, names, nodes, logs, url, own, happened)


class _Visit:
    """Connects, says what it came to say, and leaves."""

    name = "testbed"
    subscriptions: Sequence[str] = ()
    last_will: Publish | None = None

    def __init__(self, *messages: Publish) -> None:
        self._messages = messages

    def start(self, now: float) -> Sequence[Action]:
        return [*self._messages, Finish()]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        return []

    def tick(self, now: float) -> Sequence[Action]:
        return []

    def next_deadline(self) -> float | None:
        return None


def _last_wills(configs: NodeConfigs) -> dict[str, tuple[Publish, Tls | None]]:
    """What says of each member that it is gone, and what proves that it may be said."""
    members = [(config.name, config.aggregator, config.tls) for config in configs.homes]
    members += [(config.name, config.leader, config.tls) for config in configs.aggregators]
    run, slots, any_body = configs.leader.run, configs.leader.slots, Bodies(Body, Body, Body)
    return {name: (Member(name, Link(run, above, any_body, slots)).last_will, tls) for name, above, tls in members}


class _Journal:
    """Reads the leader's journal as it grows."""

    def __init__(self, path: Path, run_record: RunRecord, watch: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._played, self._watch = path, run_record, watch
        self._offset = 0

    def look(self) -> None:
        """Take in the rounds finished since the last look."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._played.rounds.append(json.loads(line))
                self._watch(self._played.rounds[-1])


class _Supervisor:
    """The node processes: started in nurseries, a node that dies is reported and not waited for.

    One that a fault plan killed is started again when the plan says so; `desk` is where its faults are dealt with.
    """

    def __init__(
        self,
        game: str,
        nodes: Path,
        logs: Path,
        url: str,
        last_wills: dict[str, tuple[Publish, Tls | None]],
        run_record: RunRecord,
        desk: FaultController | None,
    ) -> None:
        self._game = game
        self._nodes, self._logs, self._url, self._played = nodes, logs, url, run_record
        self._last_wills = last_wills
        self._desk = desk
        self._returning: dict[str, float] = {}  # when each that the plan killed is started again
        self._forkservers: dict[subprocess.Popen[bytes], set[str]] = {}
        self._running: set[str] = set()
        self._unread: dict[int, bytes] = {}
        self._selector = selectors.DefaultSelector()

    def launch(self, package: str, configs: list[Any]) -> None:
        """Start a process per configuration."""
        names = {config.name for config in configs}
        for config in configs:
            self._write(config)
        with (self._logs / f"{package}.nursery.log").open("wb") as log:
            forkserver = subprocess.Popen(
                [sys.executable, "-m", "stackelgrid.node.forkserver", package, self._game],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        assert forkserver.stdin is not None and forkserver.stdout is not None
        self._running |= names
        self._forkservers[forkserver] = names
        self._selector.register(forkserver.stdout, selectors.EVENT_READ, forkserver)
        for config in configs:
            self._start(config.name)

    def _write(self, config: BaseModel) -> None:
        path = self._nodes / f"{config.name}.json"  # type: ignore[attr-defined]
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(config.model_dump_json(exclude_none=True))

    def _start(self, name: str) -> None:
        forkserver = next(forkserver for forkserver, names in self._forkservers.items() if name in names)
        order = {"config": str(self._nodes / f"{name}.json"), "log": str(self._logs / f"{name}.jsonl")}
        if self._desk is not None:
            order |= self._desk.order(name)
        assert forkserver.stdin is not None
        forkserver.stdin.write((json.dumps(order) + "\n").encode())
        forkserver.stdin.flush()

    def wait(self, look: Callable[[], None]) -> None:
        """Until every node has left, or the leader has and the others had time to; at once when the leader died."""
        farewell: float | None = None
        while self._running and (farewell is None or time.monotonic() < farewell):
            self._listen()
            look()
            self._follow_plan()
            if LEADER in self._played.failures:
                return
            if LEADER not in self._running and farewell is None:
                farewell = max([time.monotonic(), *self._returning.values()]) + _FAREWELL_S
        for name in self._running - self._told():
            self._played.failures[name] = f"had not heard of the settlement, see logs/{name}.jsonl"

    def _follow_plan(self) -> None:
        """Have the desk do what is due, and start again who is to come back by now."""
        if self._desk is not None:
            self._desk.look()
        for name, due in list(self._returning.items()):
            if time.monotonic() >= due:
                del self._returning[name]
                self._start(name)

    def _told(self) -> set[str]:
        """Who has left on the desk what it makes of the settlement, whether it has taken its leave or not."""
        left = [*self._nodes.glob("*.schedule.json"), *self._nodes.glob("*.account.json")]
        return {path.name.split(".")[0] for path in left}

    def _listen(self) -> None:
        for key, _ in self._selector.select(_LOOK_S):
            forkserver: subprocess.Popen[bytes] = key.data
            assert forkserver.stdout is not None
            read = os.read(key.fd, 65536)
            if not read:
                self._selector.unregister(forkserver.stdout)
                self._forkserver_gone(forkserver)
                continue
            *lines, rest = (self._unread.get(key.fd, b"") + read).split(b"\n")
            self._unread[key.fd] = rest
            for line in lines:
                record = json.loads(line)
                if "ended" in record:
                    self._ended(Path(record["ended"]).stem, record["code"])

    def _ended(self, name: str, code: int) -> None:
        planned = self._desk.killed(name) if self._desk is not None and code == -signal.SIGKILL else None
        if planned is not None and planned[1].returns(name):
            self._put_off(name, planned[1])
            return
        self._running.discard(name)
        if code != 0:
            how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            if planned is not None:
                how = f"killed by fault {planned[0]} of the plan"
            self._played.failures[name] = f"{how}, see logs/{name}.jsonl"
            away = self._desk is not None and self._desk.broker_is_away  # it says nobody's last will
            if not self._played.rounds and name in self._last_wills and not away:
                # It may have died before it could leave a last will with the broker: nobody is to wait for it.
                will, tls = self._last_wills[name]
                MqttTransport(self._url, tls=tls).run([_Visit(will)])

    def _put_off(self, name: str, crash: Crash) -> None:
        """The plan killed it, and will have it back."""
        if crash.lose_state:
            for path in self._nodes.glob(f"{name}.ledger*"):
                path.unlink()
        self._returning[name] = time.monotonic() + (crash.restart_after_s or 0.0)

    def _forkserver_gone(self, forkserver: subprocess.Popen[bytes]) -> None:
        for name in self._running & self._forkservers[forkserver]:
            self._running.discard(name)
            self._played.failures[name] = "its process was lost with its nursery, see logs/*.nursery.log"

    def stop(self) -> None:
        """End every process. A node that is still there leaves in good order or is killed."""
        self._running.clear()
        for forkserver in self._forkservers:
            assert forkserver.stdin is not None
            forkserver.stdin.close()
        for forkserver in self._forkservers:
            assert forkserver.stdout is not None
            forkserver.stdout.read()  # what it still reports, until it is gone
            forkserver.stdout.close()
            forkserver.wait()
        self._forkservers.clear()
        self._selector.close()


def _gather(run_record: RunRecord, nodes: Path, logs: Path, aggregators: list[str]) -> None:
    """Collect what the nodes left: conclusion, accounts, schedules, counts, who was missing."""
    conclusion = nodes / "leader.conclusion.json"
    if conclusion.exists():
        run_record.conclusion = json.loads(conclusion.read_text())
    for path in sorted(nodes.glob("*.schedule.json")):
        run_record.homes.update(json.loads(path.read_text()))
    for name in aggregators:
        account = nodes / f"{name}.account.json"
        if account.exists():
            run_record.aggregators[name] = json.loads(account.read_text())
    rejected: Counter[str] = Counter()
    for path in sorted(logs.glob("*.jsonl")):
        for entry in _entries(path):
            if entry.get("event") == "ended":
                run_record.messages += entry["messages"]
                run_record.bytes += entry["bytes"]
                rejected.update(entry["rejected"])
            elif entry.get("event") == "round" and path.stem in aggregators:
                run_record.below.append({"aggregator": path.stem, **entry})
    run_record.rejected = dict(rejected)
    run_record.missing = missing_in(run_record.rounds, run_record.below)


def _entries(path: Path) -> list[dict[str, Any]]:
    """The log's JSON lines; whatever else a dying process printed stays in the file for a person to read."""
    entries = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return entries
