"""A grid whose members change: a scripted registrar, its run in memory or over MQTT, and its sessions played again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from stackelgrid.faults.in_memory import FaultyMemory
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario, load
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.in_memory import MemoryRun
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.base import Action, Finish, Publish, Transport
from stackelgrid.wire.codec import RegistrarLink
from stackelgrid.wire.messages import Place, RegisteredMember, Roster

Tree = Mapping[str, Sequence[str]]
"""The homes of each aggregator."""
REGISTRAR = RegistrarLink("memory")
STORAGE = {"capacity_kwh": 6.0, "initial_kwh": 2.0, "charge_kw": 2.0, "discharge_kw": 2.0, "wear": {"fast": 0.5}}


def grid(homes: int = 6, aggregators: int = 3, sessions: int = 4) -> Scenario:
    """A run of sessions of six slots each, every other home with a storage."""
    random = np.random.default_rng(5)
    slots = 24
    return load(
        {
            "schema": 1,
            "game": "user_oriented",
            "seed": 1,
            "aggregators": aggregators,
            "calendar": {"start": "2026-06-01T00:00", "timezone": "UTC", "horizon": "6h", "every": "6h", "days": 1},
            "gates": {"intraday_minutes": 15, "clock": "simulated"},
            "leader": {
                "objective": "welfare",
                "baseline_price": 9,
                "wholesale_price": random.uniform(2, 5, slots).tolist(),
                "mu": 0.5,
                "price_max": 30,
                "tolerance": 1e-9,
            },
            "rounds": {"deadline_s": 1.0, "return_s": 2.0, "gather_s": 3.0},
            "homes": [
                {
                    "id": f"h{number}",
                    "inelastic": [{"load_kw": random.uniform(0.5, 2, slots).tolist()}],
                    "elastic": [
                        {
                            "max_kw": random.uniform(3, 8),
                            "valuation": random.uniform(10, 18),
                            "satisfaction": {"form": "log", "alpha": random.uniform(2, 5)},
                        }
                    ],
                    **({"storage": [STORAGE]} if number % 2 else {}),
                }
                for number in range(1, homes + 1)
            ],
        }
    )


@dataclass
class Registrar:
    """Publishes the tree that is to hold from a session on while the one before is played, once homes have answered."""

    trees: Mapping[int, Tree]
    sessions: int
    name: str = "registrar"
    last_will: Publish | None = None
    known: dict[str, str] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)

    subscriptions = tuple(
        f"stackelgrid/memory/{topic}"
        for topic in ("leader/signal", "leader/settlement", "leader/a1/signal", "leader/a1/settlement")
    )

    def start(self, now: float) -> Sequence[Action]:
        return self._tell(1)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        if not payload:
            return [Finish()]
        session = json.loads(payload).get("session", 1)
        if topic.endswith("settlement") and session == self.sessions:
            return [Finish()]
        if session in self.asked:
            return self._tell(session + 1)
        self.asked.add(session)
        return []

    def next_deadline(self) -> float | None:
        return None

    def tick(self, now: float) -> Sequence[Action]:
        return []

    def _tell(self, session: int) -> list[Action]:
        if session not in self.trees or session in self.told:
            return []
        self.told.add(session)
        tree = self.trees[session]
        below = {home: aggregator for aggregator, homes in tree.items() for home in homes}
        common: dict[str, Any] = {"run": "memory", "sender": "registrar", "number": session}
        places = [
            self._publish(REGISTRAR.topic_of_place(home), Place(**common, aggregator=aggregator))
            for home, aggregator in below.items()
        ]
        members = {name: [RegisteredMember(name=home) for home in homes] for name, homes in tree.items()}
        return [*places, self._publish(REGISTRAR.topic_of_roster, Roster(**common, aggregators=members))]

    def _publish(self, topic: str, message: Roster | Place) -> Publish:
        return Publish(topic, REGISTRAR.write(message), qos=1, retain=True)


@dataclass
class Grid:
    """What is left of a run with changing members."""

    record: RunRecord
    run: MemoryRun

    start: Tree

    def members(self, session: int) -> Tree:
        """The tree of a session: the leader's aggregators, each with the homes that it played with itself."""
        rosters = self.record.of_session(session).rosters
        named: Tree = rosters["leader"]["members"] if "leader" in rosters else self.start
        return {
            name: rosters[name]["members"] if name in rosters else self.start.get(name, [])
            for name, homes in named.items()
            if homes
        }

    def answered(self, session: int) -> Tree:
        """The homes of each aggregator that answered in the last round of a session."""
        return {
            name: list(entry["answers"])
            for name, entries in sorted(self.run.ledgers.items())
            for entry in entries
            if name != LEADER and "answers" in entry and entry["session"] == session
        }


class Remembered(list[Any]):
    """A ledger that keeps what a grid's would drop."""

    def clear(self) -> None:
        pass


def play(
    scenario: Scenario,
    start: Tree,
    trees: Mapping[int, Tree],
    faults: Sequence[Mapping[str, Any]] = (),
    transport: Transport | None = None,
) -> Grid:
    """Play a run that begins with the members of `start`; `trees` are those of later sessions."""
    run = MemoryRun(scenario)
    configs = build_node_configs(scenario, run="memory")
    run.ledgers = {aggregator.name: Remembered() for aggregator in configs.aggregators}
    above = {home: aggregator for aggregator, homes in start.items() for home in homes}
    for home in configs.homes:
        config = home.model_copy(update={"aggregator": above.get(home.name, "a1")})
        run.builds[home.name] = partial(run._home, config)
    for aggregator in configs.aggregators:
        members = [RegisteredMember(name=home) for home in start.get(aggregator.name, [])]
        run.builds[aggregator.name] = partial(run._aggregator, aggregator.model_copy(update={"members": members}))
    upper = [RegisteredMember(name=name, homes=len(homes)) for name, homes in start.items() if homes]
    run.builds[LEADER] = partial(run._leader, configs.leader.model_copy(update={"members": upper}))
    registrar = Registrar(trees, len(scenario.sessions))
    if faults:
        plan = FaultPlan.model_validate({"seed": 1, "faults": list(faults)})
        faulty = FaultyMemory(plan, run.builds, run.run_record.faults.append)
        run.finish(faulty.run([*faulty.nodes(), registrar]))
    else:
        run.finish((transport or run.transport).run([*(build(False) for build in run.builds.values()), registrar]))
    return Grid(run.run_record, run, start)


def replay(scenario: Scenario, grid: Grid, session: int) -> RunRecord:
    """Play one session alone, from its recorded start states, with the members of its roster from the beginning."""
    record = grid.record.of_session(session)
    tree = grid.members(session)
    alone = scenario.in_session(scenario.sessions[session - 1], record.states)
    of = {home: f"a{number}" for number, homes in enumerate(tree.values(), start=1) for home in homes}
    by_name = {home.id: home for home in alone.everyone}
    homes = [by_name[name].model_copy(update={"aggregator": of[name]}) for name in of]
    return in_memory.play(alone.change(homes=homes, aggregators=len(tree)))


def assert_same(played: RunRecord, again: RunRecord) -> None:
    assert played.settled and again.settled
    last, reference = played.rounds[-1], again.rounds[-1]
    for key in ("price", "load_kw"):
        assert np.allclose(last[key], reference[key], rtol=1e-9, atol=1e-9), key
    for name, account in again.homes.items():
        assert np.allclose(account["load_kw"], played.homes[name]["load_kw"], rtol=1e-9, atol=1e-9)


START: Tree = {"a1": ["h1", "h2", "h3"], "a2": ["h4"]}
"""h5 and h6 are not there yet, nor is a3."""
TREES: dict[int, Tree] = {
    2: {"a1": ["h1", "h2", "h3", "h5"], "a2": ["h4"]},  # one enrols
    3: {"a1": ["h1", "h3"], "a2": ["h4", "h5"], "a3": ["h6"]},  # one leaves, one moves, an aggregator is added
    4: {"a1": [], "a2": ["h4", "h5", "h1"], "a3": ["h6"]},  # the homes of one are all gone
}
