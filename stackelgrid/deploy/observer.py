"""The observer of a deployed run: it follows the rounds over the broker and gathers the run's folder.

An observer's certificate lets it receive questions, settlements, receipts and presence, but no home's answer. Schedules
and accounts are read on the desk, folders to which nodes write after `stackelgrid provision --desk`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from stackelgrid import runner
from stackelgrid.certify import CertificateError
from stackelgrid.deploy.provision import AGGREGATORS, HOMES, LEADERS
from stackelgrid.errors import ConfigError, explain_os_error
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.node.record import GrowingLines, has_last_record, read_records
from stackelgrid.registry import find
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario, load
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.testbed import run_folder
from stackelgrid.testbed.node_configs import digest
from stackelgrid.transport.address import Address
from stackelgrid.transport.base import Action, Compute, Finish, Publish
from stackelgrid.ui.events import EventLog, read_end
from stackelgrid.ui.observer import NodeObserver
from stackelgrid.ui.words import describe_end, describe_inner_round, describe_round, describe_tree
from stackelgrid.wire.codec import ROOT, Link
from stackelgrid.wire.messages import Message, Presence, Receipt, Settlement, Signal

_LOG = logging.getLogger("stackelgrid.observer")

LOOK_S = 0.5
"""The time between two looks at the desk."""
GRACE_S = 10.0
"""The time that homes have to write their schedules to the desk once the leader has concluded."""


class Observer:
    """A node that receives and never sends. It writes the run's folder, `out`, from the broker and the desk.

    What it hears it writes there as events, which `stackelgrid ui` shows at once. It finishes when the leader has
    concluded and every home has written its schedule, or had the time to. Raises `ConfigError` when the nodes were
    configured for another scenario, or the result of another one is in `out`, or nothing can be written there.
    """

    last_will: Publish | None = None

    def __init__(self, scenario: Scenario, config: NodeConfig, desk: Path, out: Path) -> None:
        if config.scenario not in (None, digest(scenario)):
            raise ConfigError(
                f"SCENARIO: the nodes of run {config.run} were configured for another one; name the scenario.yaml "
                "that provision wrote"
            )
        written = out / "scenario.yaml"
        if written.exists() and digest(load(str(written))) != digest(scenario):
            raise ConfigError(f"--out {out}: the result of another scenario is there; name another folder")
        game, topology = find(config.game), scenario.topology
        rest: Any = {"slots": config.session_slots, "homes": len(scenario.everyone), "fingerprint": config.fingerprint}
        up = Link(config.run, LEADER, game.bodies("upper"), **rest)
        down = [Link(config.run, aggregator, game.bodies("lower"), **rest) for aggregator in topology.aggregators]
        self.name = config.name
        self.mailbox = Mailbox(up, *down)
        self.progress = Progress()
        self._online: dict[str, bool] = {}
        self.subscriptions = _observer_topics(config.run)
        self._scenario, self._desk, self._out = scenario, desk, out
        self._run, self._processes = config.run, len(topology.names)
        self._broker = str(Address.parse(config.broker))
        self._schedules = topology.aggregator_of.keys()
        self._received = self._bytes = 0
        self._began = datetime.now(UTC)
        self._first: float | None = None
        self._look_at: float | None = 0.0
        self._concluded_at: float | None = None
        members = {LEADER: topology.aggregators} | {name: [*each] for name, each in topology.members.items()}
        try:
            self._events = self._open_events()
        except OSError as error:
            raise ConfigError(f"--out {explain_os_error(error) or error}") from None
        self._nodes = NodeObserver(config.run, members, self._note_state)
        self._journals: dict[Path, GrowingLines] = {}

    def _open_events(self) -> EventLog | None:
        """Open the events of the run, those of before a restart included; None where they have ended."""
        if read_end(self._out):
            return None
        self._out.mkdir(parents=True, exist_ok=True)
        if not (self._out / "scenario.yaml").exists():
            run_folder.write_manifest(self._out, self._scenario, "mqtt", self._began)
            run_folder.write_scenario(self._out, self._scenario)
        events = EventLog(self._out)
        if events.is_new:
            began = self._began.isoformat(timespec="milliseconds")
            events.write({**describe_tree(self._scenario), "transport": "mqtt", "started": began})
        return events

    def _note_state(self, state: str, names: Iterable[str]) -> None:
        if self._events is not None:
            self._events.note(state, names)

    def start(self, now: float) -> Sequence[Action]:
        """Log that the observer is connected."""
        _log("waiting", str(self._file(LEADERS, f"{LEADER}.conclusion.json")))
        return []

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Count a message, and log what it says of the run."""
        if not payload:
            return self._nodes.receive(topic, payload, now)  # a retained message was removed
        read = self.mailbox.read(topic, payload)
        if read is not None:
            self._nodes.receive(topic, payload, now)
            self._received += 1
            self._bytes += len(payload)
            self._note(*read, now)
        return []

    def _note(self, link: Link, message: Message, now: float) -> None:
        match message:
            case Signal() if link.coordinator == LEADER and message.round > self.progress.round:
                self._first = now if self._first is None else self._first
                self.progress.start_round(message.round)
                _log("round", link.coordinator)
            case Presence():
                before = self._online.get(message.sender)
                self._online[message.sender] = message.state == "online"
                if message.state == "offline":
                    _log("gone", message.sender)
                elif before is False:
                    _log("back", message.sender)
            case Settlement():
                _log("settlement", link.coordinator, settled=message.settled, complete=message.complete)
            case Receipt() if message.missing:
                _log("settlement not received", *message.missing)

    def next_deadline(self) -> float | None:
        """Give the time of the next look at the desk."""
        return self._look_at

    def tick(self, now: float) -> Sequence[Action]:
        """Look at the desk, where the leader's conclusion ends the run."""
        self._look_at = now + LOOK_S
        self._tell_rounds()
        if self._concluded_at is None and self._find_conclusion() is not None:
            self._concluded_at = now
        if self._concluded_at is None:
            return []
        late = now >= self._concluded_at + GRACE_S
        sessions = len(self._scenario.sessions)
        written = (has_last_record(self._file(HOMES, f"{name}.schedule.json"), sessions) for name in self._schedules)
        if not late and not all(written):
            return []
        self._look_at = None
        elapsed = 0.0 if self._first is None else self._concluded_at - self._first
        return [Compute(lambda: self._write(elapsed), self._finish)]

    def _tell_rounds(self) -> None:
        """Write the states of nodes that have changed, and the rounds that are new on the desk."""
        if self._events is None:
            return
        self._events.flush()
        for path in self._list_files(AGGREGATORS, ".rounds.jsonl"):
            for record in self._read_new(path):
                self._events.write(*describe_inner_round(_node_of(path), record))
        for record in self._read_new(self._file(LEADERS, "rounds.jsonl")):
            self._events.write(*describe_round(record))

    def _read_new(self, journal: Path) -> list[dict[str, Any]]:
        lines = self._journals.setdefault(journal, GrowingLines(journal))
        return [json.loads(line) for line in lines.read()]

    def _finish(self, settled: bool, now: float) -> Sequence[Action]:
        if settled:
            self.progress.settle()
        if self._events is not None:
            self._events.write(describe_end("settled" if settled else "unsettled"))
            self._events.close()
        return [Finish()]

    def _write(self, elapsed_s: float) -> bool:
        """Write the run's folder, unless an earlier observer has; say whether the run settled."""
        if (self._out / "result.json").exists():
            return bool(json.loads((self._out / "result.json").read_text(encoding="utf-8"))["settled"])
        record = self._gather()
        record.elapsed_s = elapsed_s
        self._out.mkdir(parents=True, exist_ok=True)
        run_folder.write_scenario(self._out, self._scenario)
        run_folder.write_rounds(self._out, record)
        conclude = partial(runner.conclude, self._scenario, record, self._out, report=True)
        try:
            conclude(certify=True)
        except CertificateError as error:
            _LOG.error("no certificate", extra={"data": {"error": str(error)}})
            conclude()
        _log("written", str(self._out), settled=record.settled)
        return record.settled

    def _gather(self) -> RunRecord:
        """Gather what the nodes wrote to the desk; a node that is gone and wrote nothing has failed."""
        run_record = RunRecord("mqtt", self._broker, self._processes, messages=self._received, bytes=self._bytes)
        run_record.rounds = _read_lines(self._file(LEADERS, "rounds.jsonl"))
        run_record.conclusion, sessions = self._find_conclusion() or {}, len(self._scenario.sessions)
        for path in self._list_files(AGGREGATORS, ".rounds.jsonl"):
            run_record.aggregator_rounds += [{"aggregator": _node_of(path), **record} for record in _read_lines(path)]
        for path in self._list_files(AGGREGATORS, ".account.json"):
            for account in read_records(path, sessions):
                run_record.add_account(_node_of(path), account)
        reported = {_node_of(path) for path in self._list_files(AGGREGATORS, ".account.json")}
        for path in self._list_files(HOMES, ".schedule.json"):
            for settled in read_records(path, sessions):
                run_record.add_schedules(settled)
            reported.add(_node_of(path))
        gone = {name for name, online in self._online.items() if not online}
        run_record.failures = dict.fromkeys(sorted(gone - reported), "was gone at the end, see its container's log")
        run_record.rejected = dict(self.mailbox.rejected)
        if sessions > 1:
            run_record.divide(sessions)
        return run_record

    def _find_conclusion(self) -> dict[str, Any] | None:
        """Find how the run has ended, None as long as it has not."""
        path = self._file(LEADERS, f"{LEADER}.conclusion.json")
        if not path.exists():
            return None
        conclusion: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sessions = len(self._scenario.sessions)
        return conclusion if sessions == 1 or len(conclusion["sessions"]) == sessions else None

    def _file(self, folder: str, name: str) -> Path:
        return self._desk / folder / self._run / name

    def _list_files(self, folder: str, ending: str) -> list[Path]:
        return sorted((self._desk / folder / self._run).glob(f"*{ending}"))


def _observer_topics(run: str) -> tuple[str, ...]:
    """List the topics that `broker.access` lets an observer receive."""
    to_all = tuple(f"{ROOT}/{run}/+/{purpose}" for purpose in ("signal", "settlement"))
    of_each = ("signal", "settlement", "receipt", "presence")
    return (*to_all, *(f"{ROOT}/{run}/+/+/{purpose}" for purpose in of_each), f"{ROOT}/{run}/{LEADER}/+/answer")


def _log(event: str, *of: str, **more: object) -> None:
    _LOG.info(event, extra={"data": {"of": list(of), **more}})


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a journal, none if there is no journal."""
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def _node_of(path: Path) -> str:
    return path.name.split(".", 1)[0]
