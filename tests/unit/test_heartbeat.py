"""Heartbeats of a grid's members: when they are sent, who reads them, and what an observer makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import aggregator_node.config
import emc_node.config
import leader_node.config
from broker.access import Node, make_rules
from broker.access import Role as Owner
from stackelgrid.deploy.fleet import Fleet
from stackelgrid.deploy.observer import Observer
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.heartbeat import BEAT_S, HeartbeatNode
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.node.record import discard
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.node_configs import build_node_configs, digest
from stackelgrid.transport.base import Action, Finish, Publish
from stackelgrid.transport.memory import DeadlockError, MemoryTransport
from stackelgrid.wire.codec import BadMessageError, HeartbeatLink
from stackelgrid.wire.roles import Role

BEGAN = datetime(2026, 3, 28, 12, tzinfo=UTC)
LINK = HeartbeatLink("grid")
TOPIC = "stackelgrid/grid/a1/h1/heartbeat"


@dataclass
class Home:
    """A member that does what it is told, and has deadlines of its own."""

    name: str = "h1"
    role: Role = Role.HOME
    coordinator: str = "a1"
    session: int = 1
    progress: Progress = field(default_factory=Progress)
    mailbox: Mailbox = field(default_factory=Mailbox)
    subscriptions: Sequence[str] = ()
    last_will: Publish | None = None
    ticks: list[float] = field(default_factory=list)

    def start(self, now: float) -> Sequence[Action]:
        return []

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        return [Finish()] if payload == b"leave" else []

    def next_deadline(self) -> float | None:
        return None

    def tick(self, now: float) -> Sequence[Action]:
        self.ticks.append(now)
        return []


def make_node(home: Home) -> HeartbeatNode:
    return HeartbeatNode(home, "grid", "0.3.0", lambda now: BEGAN + timedelta(seconds=now))


def read(actions: Sequence[Action]) -> dict[str, Any]:
    """Read the one heartbeat among actions."""
    (publish,) = (each for each in actions if isinstance(each, Publish) and each.payload)
    assert publish.retain and publish.qos == 0 and publish.topic == TOPIC
    content: dict[str, Any] = json.loads(publish.payload)
    return content


def test_heartbeat_follows_the_connection_and_comes_again_while_nothing_changes() -> None:
    node = make_node(Home())
    assert node.next_deadline() is None  # it is not connected
    node.start(5.0)
    first = read(node.tick(5.0))
    assert (first["at"], first["version"], first["state"]) == ("2026-03-28T12:00:05Z", "0.3.0", "waiting")
    assert node.next_deadline() == 5.0 + BEAT_S
    assert node.tick(6.0) == []
    assert read(node.tick(5.0 + BEAT_S))["at"] == "2026-03-28T12:00:35Z"


def test_heartbeat_tells_a_change_at_once() -> None:
    home = Home()
    node = make_node(home)
    node.start(0.0)
    node.tick(0.0)
    home.session, home.progress.settled_until = 7, BEGAN
    home.progress.settle()
    assert node.next_deadline() == 0.0
    told = read(node.tick(1.0))
    assert (told["session"], told["state"], told["plan_until"]) == (7, "settled", "2026-03-28T12:00:00Z")
    assert node.next_deadline() == 1.0 + BEAT_S


def test_heartbeat_of_a_home_that_moves_is_cleared_where_it_was() -> None:
    home = Home(coordinator="a2")
    node = make_node(home)
    node.start(0.0)
    node.tick(0.0)
    home.coordinator = "a1"
    former, told = node.tick(1.0)
    assert isinstance(former, Publish) and isinstance(told, Publish)
    assert (former.topic, former.payload, former.retain) == ("stackelgrid/grid/a2/h1/heartbeat", b"", True)
    assert told.topic == TOPIC


def test_heartbeat_is_cleared_when_the_node_leaves() -> None:
    node = make_node(Home())
    node.start(0.0)
    node.tick(0.0)
    cleared, end = node.receive("any", b"leave", 1.0)
    assert isinstance(cleared, Publish) and (cleared.topic, cleared.payload, cleared.retain) == (TOPIC, b"", True)
    assert isinstance(end, Finish) and node.next_deadline() is None


GOOD = read(make_node(Home())._beat(0.0))


@pytest.mark.parametrize(
    ("topic", "change", "reason"),
    [
        (TOPIC, {"sender": "h2"}, "foreign"),
        (TOPIC.replace("grid", "other"), {}, "foreign"),
        (TOPIC, {"version": "x" * 2000}, "oversized"),
        (TOPIC, {"at": "noon"}, "malformed"),
        (TOPIC, {"at": "2026-03-28T12:00:00"}, "malformed"),  # of no place
        (TOPIC, {"state": "asleep"}, "malformed"),
        (TOPIC, {"more": 1}, "malformed"),
    ],
)
def test_heartbeat_that_is_wrong_is_refused(topic: str, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadMessageError) as refused:
        LINK.read(topic, json.dumps(GOOD | change).encode())
    assert refused.value.reason == reason


def test_heartbeat_is_written_by_its_sender_and_read_by_observers_alone() -> None:
    nodes = [Node("leader", Owner.leader), Node("a1", Owner.aggregator, "leader"), Node("h1", Owner.home, "a1")]
    rules = make_rules([*nodes, Node("h2", Owner.home, "a1"), Node("observer", Owner.observer)])
    writers = [name for name in rules.write if rules.may_write(name, TOPIC)]
    readers = [name for name in rules.read if rules.may_read(name, LINK.topics)]
    assert (writers, readers) == (["h1"], ["observer"])
    assert rules.may_write("a1", "stackelgrid/grid/leader/a1/heartbeat")


def test_fleet_knows_who_is_silent_and_which_versions_there_are(tmp_path: Path) -> None:
    fleet = Fleet("grid", tmp_path / "fleet.json")
    for name, version, at in (("h1", "0.3.0", "2026-03-28T12:00:00Z"), ("h2", "0.2.0", "2026-03-28T11:00:00Z")):
        heartbeat = GOOD | {"sender": name, "version": version, "at": at}
        fleet.receive(TOPIC.replace("h1", name), json.dumps(heartbeat).encode())
    seen = fleet.summarise(BEGAN + timedelta(seconds=60))
    assert seen == {"members": 2, "silent": ["h2"], "versions": {"0.2.0": 1, "0.3.0": 1}, "session": 1}
    fleet.write(0.0)
    written = json.loads((tmp_path / "fleet.json").read_text())
    assert written["h2"]["coordinator"] == "a1" and written["h2"]["at"] == "2026-03-28T11:00:00Z"
    fleet.receive(TOPIC.replace("h1", "h2"), b"")
    assert fleet.summarise(BEGAN)["members"] == 1


def test_observer_without_a_desk_keeps_the_fleet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scenario = load(one_home())
    configs = build_node_configs(scenario, "grid")
    clock = in_memory.run_clock(scenario)
    config = NodeConfig(run="grid", name="observer", game=scenario.game, slots=scenario.slots, **_dates(scenario))
    observer = Observer(scenario, config, None, tmp_path, clock)
    aggregators = [aggregator_node.config.assemble(each, discard, discard, []) for each in configs.aggregators]
    homes = [emc_node.config.assemble(each, discard) for each in configs.homes]
    members: list[Any] = [*aggregators, *homes]
    leader = leader_node.config.assemble(configs.leader, discard, discard, [], clock)
    beating = [HeartbeatNode(each, "grid", "0.3.0", clock) for each in members]
    caplog.set_level("INFO", "stackelgrid.observer")
    with pytest.raises(DeadlockError):  # it waits for the gate of the second session
        MemoryTransport(horizon_s=100).run([observer, leader, *beating])
    fleet = json.loads((tmp_path / "fleet.json").read_text())
    assert {name: member["coordinator"] for name, member in fleet.items()} == {"a1": "leader", "h1": "a1"}
    assert {"members": 2, "silent": [], "versions": {"0.3.0": 2}, "session": 1} in [
        getattr(record, "data", None) for record in caplog.records
    ]


def _dates(scenario: Scenario) -> dict[str, Any]:
    return {"calendar": scenario.calendar, "gates": scenario.gates, "scenario": digest(scenario)}


def one_home() -> dict[str, Any]:
    """A grid of a home that has no choice."""
    return {
        "schema": 1,
        "game": "user_oriented",
        "calendar": {"start": "2026-03-28T00:00", "horizon": "2h", "days": 1},
        "gates": {"intraday_minutes": 15},
        "leader": {"wholesale_price": 24 * [3], "price_max": 30, "baseline_price": 9, "mu": 0.5},
        "homes": [{"id": "h1", "inelastic": [{"load_kw": 24 * [1.0]}]}],
    }
