"""The observer of a deployed run: it follows the rounds over the broker and gathers the run's folder.

An observer's certificate lets it receive questions, settlements, receipts and presence, but no home's answer. Schedules
and accounts are read on the desk. In the field there is none: then what was heard is written, and no result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from stackelgrid import runner
from stackelgrid.certify import CertificateError
from stackelgrid.deploy.desk import Desk
from stackelgrid.deploy.fleet import Fleet
from stackelgrid.deploy.heard import HeardRounds
from stackelgrid.errors import ConfigError, explain_os_error
from stackelgrid.gates import Clock, read_wall_clock
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress, Verdict
from stackelgrid.registry import find
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import Scenario, load
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.store.summary import summarise_files
from stackelgrid.testbed import run_folder
from stackelgrid.testbed.node_configs import digest, digest_everything
from stackelgrid.transport.address import Address
from stackelgrid.transport.base import Action, Compute, Finish, Publish
from stackelgrid.ui.events import Event, EventLog, read_end
from stackelgrid.ui.observer import NodeObserver
from stackelgrid.ui.words import describe_end, describe_inner_round, describe_round, describe_tree
from stackelgrid.wire.codec import ROOT, BadMessageError, Channel, HeartbeatLink, Link
from stackelgrid.wire.messages import Message, Presence, Receipt, Settlement, Signal

_LOG = logging.getLogger("stackelgrid.observer")

LOOK_S = 0.2
"""The time between two looks at the desk, and for which changes of nodes are gathered."""
GRACE_S = 10.0
"""The time that nodes have to write their schedules to the desk, or to acknowledge, once the leader has concluded."""


class Observer:
    """A node that receives and never sends. It writes the run's folder, `out`, from the broker and the desk.

    What it hears it writes there as events, which `stackelgrid ui` shows at once, and of a grid the last heartbeat of
    each member, as fleet.json. It finishes when the leader has concluded and every home has written its schedule, or
    had the time to; without a desk, when every aggregator has acknowledged the last settlement. Raises `ConfigError`
    when the nodes were configured for another scenario, or the result of another one is in `out`, or nothing can be
    written there.
    """

    last_will: Publish | None = None

    def __init__(
        self, scenario: Scenario, config: NodeConfig, desk: Path | None, out: Path, clock: Clock = read_wall_clock
    ) -> None:
        if config.scenario not in (None, digest(scenario)):
            raise ConfigError(
                f"SCENARIO: the nodes of run {config.run} were configured for another one; name the scenario.yaml "
                "that provision wrote"
            )
        written = out / "scenario.yaml"
        same = digest if config.gates is not None else digest_everything  # homes of a grid come and go
        if written.exists() and same(load(str(written))) != same(scenario):
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
        self._fleet = None
        if config.gates is not None:
            self.subscriptions += (HeartbeatLink(config.run).topics,)
            self._fleet = Fleet(config.run, out / "fleet.json")
        self._fleet_shown: Mapping[str, Any] = {}
        self._scenario, self._out, self._read_clock = scenario, out, clock
        self._desk = None if desk is None else Desk(desk, config.run, scenario)
        self._heard = HeardRounds()
        self._unacknowledged = {*topology.aggregators}
        self._settled = False
        self._members, self._processes = len(topology.aggregators), len(topology.names)
        self._broker, self._certified = str(Address.parse(config.broker)), config.tls is not None
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
        _log("waiting", "the last settlement" if self._desk is None else str(self._desk.conclusion_file))
        return []

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Count a message, and log what it says of the run."""
        if self._fleet is not None and topic.endswith("/heartbeat"):
            return self._note_heartbeat(self._fleet, topic, payload)
        if not payload:
            return self._nodes.receive(topic, payload, now)  # a retained message was removed
        read = self.mailbox.read(topic, payload)
        if read is not None:
            self._nodes.receive(topic, payload, now)
            self._received += 1
            self._bytes += len(payload)
            self._note(*read, now)
        return []

    def _note_heartbeat(self, fleet: Fleet, topic: str, payload: bytes) -> Sequence[Action]:
        try:
            fleet.receive(topic, payload)
        except BadMessageError as error:
            self.mailbox.reject(error.reason, topic, error.detail)
        return []

    def _note(self, link: Channel, message: Message, now: float) -> None:
        if self._desk is None and link.coordinator == LEADER:
            self._follow(message, now)
        match message:
            case Signal() if link.coordinator == LEADER and message.round > self.progress.round:
                self._first = now if self._first is None else self._first
                self.progress.start_round(message.round)
                _log("round", link.coordinator, session=message.session)
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

    def _follow(self, message: Message, now: float) -> None:
        """Tell the rounds of the leader, and note how the last session ends."""
        for record in self._heard.receive(message, now):
            self._tell(*describe_round(record, self._members))
        match message:
            case Settlement() if message.session == len(self._scenario.sessions) and self._concluded_at is None:
                self._settled, self._concluded_at = message.settled, now
            case Receipt() if message.session == len(self._scenario.sessions):
                self._unacknowledged.discard(message.sender)

    def tick(self, now: float) -> Sequence[Action]:
        """Look whether the run is over: on the desk the leader's conclusion ends it."""
        self._look_at = now + LOOK_S
        if self._events is not None:
            self._events.flush()
        if self._fleet is not None:
            self._show_fleet(self._fleet, now)
        if self._desk is not None:
            self._read_desk(self._desk, now)
        if self._concluded_at is None:
            return []
        done = not self._unacknowledged if self._desk is None else self._desk.has_all_schedules()
        if not done and now < self._concluded_at + GRACE_S:
            return []
        self._look_at = None
        if self._desk is None:
            state = "settled" if self._settled else "unsettled"
            run_folder.note_end(self._out, state, "")
            return self._finish(state, now)
        desk, elapsed = self._desk, 0.0 if self._first is None else self._concluded_at - self._first
        return [Compute(lambda: self._write(desk, elapsed), self._finish)]

    def _show_fleet(self, fleet: Fleet, now: float) -> None:
        """Log how the fleet is when that has changed."""
        summary = fleet.summarise(self._read_clock(now))
        if summary != self._fleet_shown:
            self._fleet_shown = summary
            _LOG.info("fleet", extra={"data": summary})
        fleet.write(now)

    def _read_desk(self, desk: Desk, now: float) -> None:
        for coordinator, record in desk.read_rounds():
            inner = coordinator != LEADER
            self._tell(*(describe_inner_round(coordinator, record) if inner else describe_round(record)))
        if self._concluded_at is None and desk.find_conclusion() is not None:
            self._concluded_at = now

    def _tell(self, *events: Event) -> None:
        if self._events is not None:
            self._events.write(*events)

    def _finish(self, state: str, now: float) -> Sequence[Action]:
        if state == "settled":
            self.progress.settle()
        if self._events is not None:
            self._events.write(describe_end(state))
            self._events.close()
        return [Finish()]

    def _write(self, desk: Desk, elapsed_s: float) -> str:
        """Write the run's folder, unless an earlier observer has; give the state in which the run ended."""
        if (self._out / "result.json").exists():
            self.progress.certificate = _find_verdict(runner.load(self._out).result)
            return summarise_files(self._out).state
        record = self._gather(desk)
        record.elapsed_s = elapsed_s
        self._out.mkdir(parents=True, exist_ok=True)
        run_folder.write_scenario(self._out, self._scenario)
        run_folder.write_rounds(self._out, record)
        conclude = partial(runner.conclude, self._scenario, record, self._out, report=True)
        try:
            ended = conclude(certify=True)
        except CertificateError as error:
            _LOG.error("no certificate", extra={"data": {"error": str(error)}})
            ended = conclude()
        _log("written", str(self._out), settled=record.settled)
        self.progress.certificate = _find_verdict(ended.result)
        return ended.state

    def _gather(self, desk: Desk) -> RunRecord:
        """Gather what the nodes wrote to the desk; a node that is gone and wrote nothing has failed."""
        run_record = RunRecord("mqtt", self._broker, self._processes, messages=self._received, bytes=self._bytes)
        run_record.certified = self._certified
        reported = desk.gather(run_record)
        gone = {name for name, online in self._online.items() if not online}
        run_record.failures = dict.fromkeys(sorted(gone - reported), "was gone at the end, see its container's log")
        run_record.rejected = dict(self.mailbox.rejected)
        if len(self._scenario.sessions) > 1:
            run_record.divide(len(self._scenario.sessions))
        return run_record


def _observer_topics(run: str) -> tuple[str, ...]:
    """List the topics that `broker.access` lets an observer receive."""
    to_all = tuple(f"{ROOT}/{run}/+/{purpose}" for purpose in ("signal", "settlement"))
    of_each = ("signal", "settlement", "receipt", "presence")
    return (*to_all, *(f"{ROOT}/{run}/+/+/{purpose}" for purpose in of_each), f"{ROOT}/{run}/{LEADER}/+/answer")


def _find_verdict(result: RunResult[Any]) -> Verdict | None:
    """Find the verdict on what was settled last, None where there is none."""
    sessions = [result.of_session(number + 1) for number in range(len(result.sessions))] or [result]
    certificates = [session.certificate for session in sessions if session.certificate is not None]
    judged = [each for each in certificates if each.passed is not None]
    return Verdict(bool(judged[-1].passed), judged[-1].number("gap")) if judged else None


def _log(event: str, *of: str, **more: object) -> None:
    _LOG.info(event, extra={"data": {"of": list(of), **more}})
