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
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import broker
from stackelgrid.faults.controller import FaultController
from stackelgrid.faults.messages import FaultAddition, FaultReport, write_line
from stackelgrid.faults.plan import BrokerOutage, Crash, FaultPlan
from stackelgrid.interrupts import allow_interrupts, defer_interrupts
from stackelgrid.node.record import GrowingLines, has_last_record, read_conclusion, read_records
from stackelgrid.rounds import Member
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.testbed.node_configs import NodeConfigs, build_node_configs
from stackelgrid.testbed.run_lock import RunLock
from stackelgrid.testbed.start import RunStart
from stackelgrid.transport.address import PASSWORD_VARIABLE, Address, Login
from stackelgrid.transport.base import BrokerUnreachableError, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls
from stackelgrid.transport.visit import Visitor, require_retained
from stackelgrid.wire.codec import ROOT, Bodies, Link
from stackelgrid.wire.messages import Body
from stackelgrid.wire.roles import Role

_PACKAGES = {Role.HOME: "emc_node", Role.AGGREGATOR: "aggregator_node", Role.LEADER: "leader_node"}
_LEAVE_S = 5.0
"""The time that nodes have at least to leave once the leader has."""
_CONNECT_S = 5.0
"""The time in which a broker that should be there already has to answer."""
_STOP_S = 30.0
"""The time in which the forkserver has ended: twice what it gives its nodes, and the import that may be under way."""
_STARTING = 32 * (os.cpu_count() or 1)
"""The number of nodes that are started and have not yet reached the broker, at most."""
_UPDATE_S = 0.05
"""The time between two looks at the leader's journal and at what the fault plan has for now."""


def play(
    scenario: Scenario,
    folder: Path,
    broker_kind: str,
    run: str,
    on_round: Callable[[dict[str, Any]], None] = lambda record: None,
    plan: FaultPlan | None = None,
    on_fault: Callable[[FaultRecord], None] = lambda record: None,
    certificates: Path | None = None,
    on_start: Callable[[RunStart], None] | None = None,
    lock: RunLock | None = None,
    *,
    resumed: bool = False,
) -> RunRecord:
    """Run `scenario` with its nodes as processes; `folder` gets configurations, logs and the journal.

    `broker_kind` is auto, mosquitto, embedded or the address of a broker that is there already; at an address
    `mqtts://` the nodes use the certificates of the authority in the folder `certificates`. Under a fault plan nodes
    and broker are killed and restarted. `on_round` gets each finished round of the leader, `on_fault` each fault as it
    happens, `on_start` the run before its nodes start; with it, the run has a plan to which faults may be added. The
    `lock` on the folder is kept until the last node has ended. Where a run is `resumed`, the nodes go on from the files
    that they have left in it.

    Raises `broker.BrokerStartError`, `broker.authority.AuthorityError` or `BrokerUnreachableError` before any node is
    started. When the run's own broker or the forkserver ends by itself, so does the run, with that among its failures.
    On an interrupt everything is stopped and what was found so far is returned as interrupted.
    """
    began = time.perf_counter()
    if on_start is not None and plan is None:
        plan = FaultPlan()
    logs, nodes = folder / "logs", folder / "nodes"
    logs.mkdir(exist_ok=resumed)
    nodes.mkdir(mode=0o700, exist_ok=resumed)
    (folder / "rounds.jsonl").touch()
    address = None if broker.BrokerKind.of(broker_kind) else Address.parse(broker_kind)
    # Without the password, which no file has: the nodes find it in their environment.
    run_record = RunRecord("mqtt", broker_kind if address is None else str(address), len(scenario.topology.names))
    login = None if address is None else address.login
    with defer_interrupts(), ExitStack() as stack:
        processes = NodeProcesses(scenario.game, nodes, logs, run_record, login, lock, under_plan=plan is not None)
        stack.callback(processes.stop)
        own = _start_broker(broker_kind, logs, stack, plan)
        url = str(address) if own is None else own.url
        configs = build_node_configs(scenario, run, url, gather=True)
        if certificates is not None:
            from stackelgrid.testbed.enrolment import with_certificates

            configs = with_certificates(configs, scenario.topology, certificates)
            run_record.certified = True
        if own is not None:
            run_record.broker = own.kind
        controller = None
        if plan is not None:
            controller = FaultController(plan, scenario.topology.names, url, own, run_record, on_fault)
            stack.enter_context(controller)
        journal = _Journal(folder / "rounds.jsonl", run_record, on_round)
        try:
            if own is None:
                with allow_interrupts():
                    _try_out(configs, login)
            if on_start is not None:
                on_start(RunStart(folder, run, url, None if own is None else own.kind, controller, lock))
            processes.start(configs, controller, own)
            processes.wait(journal.read)
        except KeyboardInterrupt:
            run_record.interrupted = True
        processes.stop()
        journal.read()
    _gather(run_record, nodes, logs, scenario)
    run_record.elapsed_s = time.perf_counter() - began
    return run_record


def _try_out(configs: NodeConfigs, login: Login | None) -> None:
    """Raise `BrokerUnreachableError` unless the broker passes on to an aggregator what the leader has it retain."""
    leader, reader = (
        MqttTransport(config.broker, tls=config.tls, login=login, connect_timeout_s=_CONNECT_S, reconnect_s=_CONNECT_S)
        for config in (configs.leader, configs.aggregators[0])
    )
    require_retained(leader, reader, f"{ROOT}/{configs.leader.run}/{LEADER}/signal")


def _start_broker(kind: str, logs: Path, stack: ExitStack, plan: FaultPlan | None) -> broker.RunningBroker | None:
    """Start a broker of the run's own; None where `kind` is the address of another."""
    own_kind = broker.BrokerKind.of(kind)
    if own_kind is not None:
        outages = [] if plan is None else [fault for fault in plan.faults if isinstance(fault, BrokerOutage)]
        persistent = any(outage.keep_retained for outage in outages)
        return stack.enter_context(broker.start(own_kind, logs, persistent=persistent))
    return None


class _Journal:
    """Reads the leader's journal as it grows."""

    def __init__(self, path: Path, run_record: RunRecord, on_round: Callable[[dict[str, Any]], None]) -> None:
        self._lines, self._run_record, self._on_round = GrowingLines(path), run_record, on_round

    def read(self) -> None:
        """Read the rounds that were finished since the last time."""
        for line in self._lines.read():
            self._run_record.rounds.append(json.loads(line))
            self._on_round(self._run_record.rounds[-1])


class NodeProcesses:
    """The node processes of a run, forked from a forkserver.

    A node that dies is recorded in `run_record` and not waited for; one that the fault plan killed is started again
    when the plan says so. The forkserver starts at once, so that it imports while the broker starts.
    """

    def __init__(
        self,
        game: str,
        nodes: Path,
        logs: Path,
        run_record: RunRecord,
        login: Login | None,
        lock: RunLock | None = None,
        *,
        under_plan: bool,
    ) -> None:
        self._nodes, self._logs, self._run_record, self._login = nodes, logs, run_record, login
        self._controller: FaultController | None = None
        self._broker: broker.RunningBroker | None = None
        self._roles: dict[str, Role] = {}
        self._last_wills: dict[str, tuple[Publish, Tls | None]] = {}
        self._broker_url = ""
        self._leave_s = _LEAVE_S
        self._sessions = 1
        self._cannot_go_on = False
        self._running: set[str] = set()
        self._dead: list[str] = []  # nodes whose last wills are to be published
        self._restarts: dict[str, float] = {}  # when each node that the plan killed is started again
        more = ["stackelgrid.faults.on_process"] if under_plan else []
        password = {PASSWORD_VARIABLE: login[1]} if login is not None and login[1] is not None else {}
        with (logs / "forkserver.log").open("wb") as log:
            self._forkserver = subprocess.Popen(
                [sys.executable, "-m", "stackelgrid.node.forkserver", game, ",".join(_PACKAGES.values()), *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=[] if lock is None else [lock.descriptor],  # it ends after its nodes
                env={**os.environ, **password, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        assert self._forkserver.stdin is not None and self._forkserver.stdout is not None
        self._orders, self._reports = self._forkserver.stdin, self._forkserver.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._reports, selectors.EVENT_READ)
        self._unread = b""

    def start(
        self, configs: NodeConfigs, controller: FaultController | None, own_broker: broker.RunningBroker | None
    ) -> None:
        """Start a process for each configuration, homes first, and watch the run's own broker.

        No more than `_STARTING` are on their way to the broker at a time: so few are quick, and the patience of who
        gathers them begins when nearly all have come.
        """
        self._controller, self._broker = controller, own_broker
        self._last_wills, self._broker_url = _build_last_wills(configs), configs.leader.broker
        self._sessions = len(configs.leader.sessions)
        # One that has lost its connection finds the settlement retained if it comes back in time.
        self._leave_s = max(_LEAVE_S, configs.leader.rounds.return_s)
        self._roles |= {config.name: Role.HOME for config in configs.homes}
        self._roles |= {config.name: Role.AGGREGATOR for config in configs.aggregators}
        self._roles[configs.leader.name] = Role.LEADER
        starting: list[str] = []
        for config in (*configs.homes, *configs.aggregators, configs.leader):
            while len(starting) >= _STARTING and not self._over:
                self._watch()
                starting = [name for name in starting if name in self._running and not self._has_connected(name)]
            if self._over:
                return
            self._write(config.name, config)
            self._running.add(config.name)
            self._fork(config.name)
            starting.append(config.name)

    def _has_connected(self, name: str) -> bool:
        log = self._logs / f"{name}.jsonl"
        return log.exists() and '"event": "connected"' in log.read_text(encoding="utf-8", errors="replace")

    def _write(self, name: str, config: BaseModel) -> None:
        with os.fdopen(
            os.open(self._config(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(config.model_dump_json(exclude_none=True))

    def _config(self, name: str) -> Path:
        return self._nodes / f"{name}.json"

    def _fork(self, name: str) -> None:
        order = {"package": _PACKAGES[self._roles[name]], "log": str(self._logs / f"{name}.jsonl")}
        if self._controller is not None:
            order["input"] = write_line(self._controller.order(name))
            url = self._controller.broker_url(name)
            order |= {} if url is None else {"broker": url}
        self._send(name, order)

    def _send(self, name: str, order: dict[str, str]) -> None:
        with suppress(BrokenPipeError):  # it has ended, which `_receive` finds out
            self._orders.write((json.dumps({"config": str(self._config(name)), **order}) + "\n").encode())
            self._orders.flush()

    def wait(self, read_journal: Callable[[], None]) -> None:
        """Wait until every node has left, or the leader has and the others had time to, or the run cannot go on."""
        until: float | None = None
        while self._running and (until is None or time.monotonic() < until) and not self._over:
            self._watch()
            read_journal()
            if LEADER not in self._running and until is None:
                until = max([time.monotonic(), *self._restarts.values()]) + self._leave_s
        if not self._over:
            for name in self._running - self._find_settled():
                self._run_record.failures[name] = f"had not heard of the settlement, see logs/{name}.jsonl"

    @property
    def _over(self) -> bool:
        """True when the run cannot go on: leader, forkserver or broker has ended, or a node could not be started."""
        return self._cannot_go_on or LEADER in self._run_record.failures

    def _watch(self) -> None:
        """Take in what has happened to nodes and broker, for a short time at most, and do what the plan has for now."""
        with allow_interrupts():
            ready = self._selector.select(_UPDATE_S)
        if ready:
            self._receive()
        if self._dead:
            self._publish_last_wills()
        try:
            self._follow_plan()
        except broker.BrokerStartError as error:
            self._give_up("broker", str(error))
        down = self._controller is not None and self._controller.broker_is_down
        ending = None if self._broker is None or down else self._broker.find_end()
        if ending is not None:
            self._give_up("broker", f"has ended: {ending}")

    def _give_up(self, name: str, why: str) -> None:
        self._run_record.failures[name] = why
        self._cannot_go_on = True

    def _find_settled(self) -> set[str]:
        """Name the nodes that have written what they make of the last settlement, whether they have left or not."""
        written = [*self._nodes.glob("*.schedule.json"), *self._nodes.glob("*.account.json")]
        return {path.name.split(".")[0] for path in written if has_last_record(path, self._sessions)}

    def _follow_plan(self) -> None:
        if self._controller is not None:
            for fault in self._controller.take_added():
                line = write_line(FaultAddition(add=fault))
                for name in self._running:
                    self._send(name, {"input": line})
            self._controller.update()
        for name, due in list(self._restarts.items()):
            if time.monotonic() >= due:
                del self._restarts[name]
                self._fork(name)

    def _receive(self) -> None:
        """Receive what forkserver and nodes have reported."""
        read = os.read(self._reports.fileno(), 65536)
        if not read:
            self._note_lost()
            return
        *lines, self._unread = (self._unread + read).split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "ended" in report:
                self._note_end(Path(report["ended"]).stem, report["code"])
            elif "unstarted" in report:
                mend = "raise the limits on processes and open files, or set homes_per_process"
                self._give_up(Path(report["unstarted"]).stem, f"could not be started ({report['why']}); {mend}")
            elif "record" in report:
                self._note_fault(FaultReport.model_validate(report))

    def _note_fault(self, report: FaultReport) -> None:
        assert self._controller is not None
        acknowledgement = self._controller.receive(report)
        if acknowledgement is not None and report.node in self._running:
            self._send(report.node, {"input": write_line(acknowledgement)})

    def _note_end(self, name: str, code: int) -> None:
        if name not in self._running:
            return  # it was stopped
        planned = None
        if self._controller is not None and code == -signal.SIGKILL:
            planned = self._controller.take_crash(name)
        if planned is not None and planned[1].restarts(self._roles[name]):
            self._plan_restart(name, planned[1])
            return
        self._running.discard(name)
        if code != 0:
            how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}{self._find_cause(name)}"
            if planned is not None:
                how = f"killed by fault {planned[0]} of the plan"
            self._run_record.failures[name] = f"{how}, see logs/{name}.jsonl"
            self._dead.append(name)

    def _find_cause(self, name: str) -> str:
        """Find the last warning or error in a node's log, to follow what became of it."""
        log = self._logs / f"{name}.jsonl"
        last = _find_last_error(_read_log(log)) if log.exists() else None
        return "" if last is None else f" ({last})"

    def _plan_restart(self, name: str, crash: Crash) -> None:
        if crash.lose_state:
            for path in self._nodes.glob(f"{name}.ledger*"):
                path.unlink()
        self._restarts[name] = time.monotonic() + (crash.restart_after_s or 0.0)

    def _publish_last_wills(self) -> None:
        """Publish those of nodes that died before the broker had them, so that nobody waits for them."""
        dead, self._dead = self._dead, []
        broker_is_down = self._controller is not None and self._controller.broker_is_down
        if self._run_record.rounds or broker_is_down:
            return
        wills: dict[Tls | None, list[Publish]] = {}
        for will, tls in (self._last_wills[name] for name in dead if name in self._last_wills):
            wills.setdefault(tls, []).append(will)
        with suppress(BrokerUnreachableError):  # then nobody else reaches it either, and says so
            for tls, messages in wills.items():
                visit = MqttTransport(
                    self._broker_url, tls=tls, login=self._login, connect_timeout_s=_CONNECT_S, reconnect_s=_CONNECT_S
                )
                visit.run([Visitor(*messages)])

    def _note_lost(self) -> None:
        """Count every node as lost: the forkserver has ended."""
        self._selector.unregister(self._reports)
        self._reports.close()
        for name in self._running:
            self._give_up(name, "lost with its forkserver, see logs/forkserver.log")
        self._running.clear()

    def stop(self) -> None:
        """End every process. A node that is still there leaves in good order or is killed."""
        self._running.clear()
        with suppress(BrokenPipeError):
            self._orders.close()
        until = time.monotonic() + _STOP_S
        while not self._reports.closed and time.monotonic() < until:
            if self._selector.select(_UPDATE_S):
                self._receive()
        self._forkserver.kill()  # one that hangs; its nodes end with it
        self._forkserver.wait()
        self._selector.close()
        self._reports.close()


def _build_last_wills(configs: NodeConfigs) -> dict[str, tuple[Publish, Tls | None]]:
    """Give the last will of each member, and what it proves itself with to the broker."""
    members = [(config.name, config.aggregator, config.tls) for config in configs.homes]
    members += [(config.name, config.leader, config.tls) for config in configs.aggregators]
    run, slots, any_body = configs.leader.run, configs.leader.session_slots, Bodies(Body, Body, Body)
    return {name: (Member(name, Link(run, above, any_body, slots)).last_will, tls) for name, above, tls in members}


def _gather(run_record: RunRecord, nodes: Path, logs: Path, scenario: Scenario) -> None:
    """Read what the nodes wrote: conclusion, accounts, schedules, counts, missing members."""
    aggregators, sessions = scenario.topology.aggregators, len(scenario.sessions)
    run_record.conclusion = read_conclusion(nodes / "leader.conclusion.json", of_grid=scenario.gates is not None)
    for path in sorted(nodes.glob("*.schedule.json")):
        for settled in read_records(path, sessions):
            run_record.add_schedules(settled)
    for name in aggregators:
        for account in read_records(nodes / f"{name}.account.json", sessions):
            run_record.add_account(name, account)
    rejected: Counter[str] = Counter()
    for path in sorted(logs.glob("*.jsonl")):
        entries = _read_log(path)
        for entry in entries:
            if entry.get("event") == "ended":
                run_record.messages += entry["messages"]
                run_record.bytes += entry["bytes"]
                rejected.update(entry["rejected"])
            elif entry.get("event") == "round" and path.stem in aggregators:
                run_record.aggregator_rounds.append({"aggregator": path.stem, **entry})
            elif "absent" in entry and path.stem in aggregators:
                run_record.late += [name for name in entry["absent"] if name not in run_record.late]
        last = _find_last_error(entries)
        if last is not None:
            run_record.last_errors[path.stem] = last
    run_record.rejected = dict(rejected)
    if sessions > 1:
        run_record.divide(sessions)


def _find_last_error(entries: list[dict[str, Any]]) -> str | None:
    """Find the last warning or error of a log, with its cause, in one line."""
    for entry in reversed(entries):
        if entry.get("level") in ("warning", "error"):
            cause = str(entry.get("cause") or entry.get("error") or "").strip()
            return f"{entry['event']}: {cause.splitlines()[-1]}" if cause else str(entry["event"])
    return None


def _read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log's JSON lines; whatever else a dying process printed stays in the file for a person to read."""
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return entries
