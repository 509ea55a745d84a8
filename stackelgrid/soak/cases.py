"""The case of a seed: a small scenario of one of the games, the policy of its rounds, and a fault plan.

Scenarios come from a few dozen per game, so that each is checked and played without faults only once; policy and faults
are drawn anew for each seed. Every fault ends in virtual time, or applies to a message with a probability below one, so
that a run which tries again gets through in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stackelgrid import registry
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.node.config import Rounds
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import fault_plans

_FIRST_GAMES = ("user_oriented", "prosumer", "load_call", "storage_market")
"""The games in the order by which seeds were first drawn; others follow by name. One more changes what a seed means."""
_SCENARIOS, _LARGE_SCENARIOS = 40, 10
"""Scenarios of a game: those of up to 8 homes and 3 aggregators first, then those of up to 24 homes and 4."""
_LARGE = 0.1
"""The share of runs with a large scenario, which take longer."""
_PRIVATE = 0.3
"""The share of runs whose answers are masked, of those of games whose can be."""
_PRIVATE_SCENARIOS, _MOST_PRIVATE_HOMES, _LEAST_GROUPS = 20, 14, (5, 8)
"""Scenarios of a game with private sums, the most homes of one, and the range of the least group."""
_SEVERAL_SESSIONS = 0.2
"""The share of runs of several sessions, of those of several slots."""
_LIAR_ALONE = 0.1
"""The share of runs in which nothing is wrong but that one node lies."""
MAX_ROUNDS = 400
_FAULTS_END_S = 30.0

Random = np.random.Generator
Content = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A scenario, its plan and where they come from; the rest are the arguments of `draw_scenario`."""

    source: str
    scenario: Scenario
    plan: FaultPlan
    number: int | None = None
    homes: int | None = None
    every: int | None = None
    private: bool = False


@cache
def games() -> tuple[str, ...]:
    """Name the games that have small scenarios."""
    known = [name for name in registry.list_games() if registry.find(name).small_scenario is not None]
    return (*(name for name in _FIRST_GAMES if name in known), *(name for name in known if name not in _FIRST_GAMES))


def draw_case(seed: int) -> Case:
    """Draw the case of a seed."""
    random = np.random.default_rng(seed)
    game = games()[int(random.integers(len(games())))]
    of_private = np.random.default_rng([seed, 2])
    if registry.find(game).masked is not None and of_private.random() < _PRIVATE:
        return _draw_private_case(of_private, seed, game)
    large = random.random() < _LARGE
    number = int(_SCENARIOS + random.integers(_LARGE_SCENARIOS) if large else random.integers(_SCENARIOS))
    rounds = _draw_rounds(random)
    nodes = _Nodes(draw_scenario(game, number))
    liar = nodes.draw_member(random) if random.random() < _LIAR_ALONE else None
    faults = [
        _draw_fault(random, nodes) if liar is None else {"kind": "lie", **_draw_lie(random, nodes, liar)}
        for _ in range(int(random.integers(1, 5)))
    ]
    more = np.random.default_rng([seed, 1])  # so that what is drawn above stays as it was before there were sessions
    if nodes.slots == 1 or more.random() >= _SEVERAL_SESSIONS:
        return build_case(game, number, seed=seed, rounds=rounds, faults=faults)
    every = int(more.integers(1, nodes.slots))
    if liar is None:
        faults.append(_draw_between_sessions(more, nodes, -(-nodes.slots // every)))
    return build_case(game, number, seed=seed, rounds=rounds, faults=faults, every=every)


def _draw_private_case(random: Random, seed: int, game: str) -> Case:
    """Draw a case whose answers are masked, with faults of what that takes besides."""
    number = int(random.integers(_PRIVATE_SCENARIOS))
    rounds = _draw_rounds(random)
    rounds["missing"] = "hold" if rounds["missing"] == "exclude" else rounds["missing"]
    nodes = _Nodes(draw_scenario(game, number, private=True))
    faults = [_draw_private_fault(random, nodes) for _ in range(int(random.integers(1, 5)))]
    if random.random() < _LIAR_ALONE:
        faults = [{"kind": "lie", "node": str(random.choice(nodes.homes)), "how": "masks"}]
    every = int(random.integers(1, nodes.slots)) if nodes.slots > 1 and random.random() < _SEVERAL_SESSIONS else None
    if every is not None:
        faults.append(_draw_between_sessions(random, nodes, -(-nodes.slots // every)))
    return build_case(game, number, seed=seed, rounds=rounds, faults=faults, every=every, private=True)


def build_case(
    game: str,
    number: int,
    homes: int | None = None,
    *,
    seed: int,
    rounds: Mapping[str, Any],
    faults: Sequence[Mapping[str, Any]],
    max_rounds: int = MAX_ROUNDS,
    every: int | None = None,
    private: bool = False,
) -> Case:
    """Build a case of a drawn scenario, with so many `homes` and `every` so many slots a session, where given."""
    drawn = draw_scenario(game, number, homes, every, private=private)
    update = {
        "seed": seed,
        "rounds": Rounds.model_validate(rounds),
        "leader": drawn.leader.model_copy(update={"max_rounds": max_rounds}),
    }
    plan = FaultPlan.model_validate({"seed": seed, "faults": list(faults)})
    return Case(f"seed {seed}", drawn.model_copy(update=update), plan, number, homes, every, private)


def read_case(folder: Path) -> Case:
    """Read scenario and fault plan, if it had one, from a run's folder. Raises `ConfigError`."""
    plan = folder / "faults.yaml"
    scenario = load(str(folder / "scenario.yaml"))
    return Case(str(folder), scenario, fault_plans.load(str(plan)) if plan.exists() else FaultPlan())


# --- scenarios ---


@cache
def draw_scenario(
    name: str, number: int, homes: int | None = None, every: int | None = None, *, private: bool = False
) -> Scenario:
    """Draw scenario `number` of a game and check it.

    It has so many `homes` where that is given, and with `every` plans again after so many slots. Those that are
    `private` mask their answers.
    """
    if private:
        return _draw_private_scenario(name, number, homes, every)
    random = np.random.default_rng([games().index(name), number])
    game = registry.find(name)
    large = number >= _SCENARIOS
    drawn = int(random.integers(9, 25) if large else random.integers(2, 9))
    homes = drawn if homes is None else homes
    content: Content = {
        "schema": 1,
        "game": name,
        "seed": number,
        "aggregators": int(random.integers(1, min(4 if large else 3, homes) + 1)),
        "homes_per_process": int(random.choice([1, 2, 3, 4] if large else [1, 1, 1, 2])),
        **game.load("small_scenario")(random, homes),
    }
    return _check(content, every)


def _draw_private_scenario(name: str, number: int, homes: int | None, every: int | None) -> Scenario:
    """Draw a scenario each of whose aggregators has enough homes for a group. Raises `ValueError` where none has."""
    random = np.random.default_rng([games().index(name), number, 2])
    least, aggregators = int(random.integers(*_LEAST_GROUPS)), int(random.integers(1, 3))
    drawn = int(random.integers(aggregators * least, _MOST_PRIVATE_HOMES + 1))
    homes = drawn if homes is None else homes
    if homes < aggregators * least:
        raise ValueError(f"{homes} homes, {aggregators} aggregators need {least} each")
    content: Content = {}
    while not content or homes // content["aggregators"] < least:
        content = {
            "schema": 1,
            "game": name,
            "seed": number,
            "aggregators": aggregators,
            "privacy": {"sums": "committee", "minimum_group": least},
            **registry.find(name).load("small_scenario")(random, homes),
        }
    return _check(content, every)


def _check(content: Content, every: int | None) -> Scenario:
    """Make and check a scenario, with `every` one that plans again after so many slots."""
    content["leader"]["max_rounds"] = MAX_ROUNDS
    model: type[Scenario] = registry.find(content["game"]).load("scenario")
    if every is not None:
        content["calendar"] = {"start": "2026-06-01T00:00", "horizon": f"{content['slots']}h", "every": f"{every}h"}
        model.prepare(content, Path())
    scenario = model.model_validate(content)
    scenario.verify()
    return scenario


# --- policies ---


def _draw_rounds(random: Random) -> Content:
    return {
        "deadline_s": float(random.choice([0.5, 1.0, 5.0])),
        "tries": int(random.integers(1, 4)),
        "missing": str(random.choice(["hold", "exclude", "fail"], p=[0.5, 0.35, 0.15])),
        "gather_s": float(random.choice([1.0, 5.0, 60.0])),
        "return_s": float(random.choice([0.0, 2.0, 10.0])),
        "quarantine_after": int(random.choice([0, 1, 3], p=[0.1, 0.3, 0.6])),
    }


# --- fault plans ---


class _Nodes:
    """The nodes of a scenario, and ways to draw some of them."""

    def __init__(self, scenario: Scenario) -> None:
        topology = scenario.topology
        self.slots = scenario.slots
        self.aggregators = topology.aggregators
        self.homes = list(topology.aggregator_of)
        self.siblings = {
            member: [other for other in members if other != member]
            for members in [self.aggregators, *map(list, topology.members.values())]
            for member in members
        }

    def draw_any(self, random: Random) -> str:
        """Draw the leader, an aggregator or a home."""
        return str(random.choice(["leader", str(random.choice(self.aggregators)), str(random.choice(self.homes))]))

    def draw_member(self, random: Random) -> str:
        """Draw an aggregator or a home."""
        return str(random.choice([str(random.choice(self.aggregators)), str(random.choice(self.homes))]))

    def draw_end(self, random: Random) -> str:
        """Draw one end of a link: a node, or all of them."""
        return "*" if random.random() < 0.5 else self.draw_any(random)


def _draw_fault(random: Random, nodes: _Nodes) -> Content:
    kind = str(random.choice([*_FAULTS, "crash"]))  # twice as often, because it does most
    return {"kind": "loss" if kind == "burst" else kind} | _FAULTS[kind](random, nodes)


def _draw_private_fault(random: Random, nodes: _Nodes) -> Content:
    """Draw a fault of a run with private sums: every second time one of what these take."""
    if random.random() < 0.5:
        return _draw_fault(random, nodes)
    home, aggregator = str(random.choice(nodes.homes)), str(random.choice(nodes.aggregators))
    match str(random.choice(["member", "aggregator", "stall", "link", "lie", "lie"])):
        case "member" | "stall" as what:
            at = {"round": int(random.integers(1, 8)), "message": str(random.choice(["list", "quorum"]))}
            node = "*" if random.random() < 0.2 else home  # "*": all of a committee
            fault = _draw_crash(random, nodes) if what == "member" else _draw_stall(random, nodes)
            return {"kind": "crash" if what == "member" else "stall", **fault, "node": node, "at": at}
        case "aggregator":
            at = {"round": int(random.integers(1, 8)), "message": str(random.choice(["signature", "masks"]))}
            return {"kind": "crash", **_draw_crash(random, nodes), "node": aggregator, "at": at}
        case "link":
            kind = str(random.choice(["loss", "delay", "duplication", "reordering"]))
            ends = [home, aggregator] if random.random() < 0.5 else [aggregator, "*"]
            return {"kind": kind, **_FAULTS[kind](random, nodes), "from": ends[0], "to": ends[1]}
    how = str(random.choice(["masks", "masks", "shares", "lists"]))
    during: Content = {} if random.random() < 0.5 else _draw_window(random)
    node = aggregator if how == "lists" else home
    return {"kind": "lie", "node": node, "how": how, "probability": random.uniform(0.3, 1), "during": during}


def _draw_seconds(random: Random) -> Content:
    """Draw a window of time: from a few messages to many deadlines long."""
    first = _draw_second(random)
    return {"seconds": [first, min(first + float(10 ** random.uniform(-3, 1.4)), _FAULTS_END_S)]}


def _draw_window(random: Random) -> Content:
    if random.random() < 0.7:
        return _draw_seconds(random)
    first = int(random.integers(1, 8))
    return {"rounds": [first, first + int(random.integers(0, 4))]}


def _draw_second(random: Random) -> float:
    """Draw a moment: one in ten the very start, half of the others while a run without faults is still going on."""
    if random.random() < 0.1:
        return 0.0
    return float(random.uniform(0, 0.05)) if random.random() < 0.5 else float(10 ** random.uniform(-2, 1))


def _draw_moment(random: Random) -> Content:
    return {"round": int(random.integers(1, 8))} if random.random() < 0.6 else {"seconds": _draw_second(random)}


def _draw_link(random: Random, nodes: _Nodes) -> Content:
    return {"from": nodes.draw_end(random), "to": nodes.draw_end(random), "during": _draw_window(random)}


def _draw_loss(random: Random, nodes: _Nodes) -> Content:
    link = _draw_link(random, nodes)
    everything = "seconds" in link["during"] and random.random() < 0.2
    return {**link, "probability": 1.0 if everything else random.uniform(0.05, 0.7)}


def _draw_burst(random: Random, nodes: _Nodes) -> Content:
    return {
        **_draw_link(random, nodes),
        "burst": {"enter": random.uniform(0.02, 0.3), "leave": random.uniform(0.2, 0.9)},
    }


def _draw_delay(random: Random, nodes: _Nodes) -> Content:
    seconds, jitter = 10 ** random.uniform(-3, 1, 2)
    return {**_draw_link(random, nodes), "seconds": float(seconds), "jitter_s": float(jitter)}


def _draw_duplication(random: Random, nodes: _Nodes) -> Content:
    return {**_draw_link(random, nodes), "probability": random.uniform(0.1, 1), "copies": int(random.integers(1, 4))}


def _draw_reordering(random: Random, nodes: _Nodes) -> Content:
    late = float(10 ** random.uniform(-3, 1))
    return {**_draw_link(random, nodes), "probability": random.uniform(0.1, 1), "seconds": late}


def _draw_corruption(random: Random, nodes: _Nodes) -> Content:
    return {**_draw_link(random, nodes), "probability": random.uniform(0.05, 0.6), "bits": int(random.integers(1, 9))}


def _draw_bandwidth(random: Random, nodes: _Nodes) -> Content:
    return {**_draw_link(random, nodes), "bytes_per_s": float(10 ** random.uniform(3, 6))}


def _draw_partition(random: Random, nodes: _Nodes) -> Content:
    away = [nodes.draw_any(random)]
    return {"groups": [away, [n for n in ["leader", *nodes.aggregators, *nodes.homes] if n not in away]]} | {
        "during": _draw_seconds(random)
    }


def _draw_stall(random: Random, nodes: _Nodes) -> Content:
    return {"node": nodes.draw_any(random), "at": _draw_moment(random), "seconds": float(10 ** random.uniform(-2, 1.4))}


def _draw_crash(random: Random, nodes: _Nodes) -> Content:
    for_good = random.random() < 0.15
    restart = None if for_good else float(10 ** random.uniform(-2, 1.4))
    lost = bool(random.random() < 0.25)
    return {"node": nodes.draw_any(random), "at": _draw_moment(random), "restart_after_s": restart, "lose_state": lost}


def _draw_between_sessions(random: Random, nodes: _Nodes, sessions: int) -> Content:
    """Draw a fault of a node as it goes from one session to the next, most often a crash."""
    kind = str(random.choice(["crash", "crash", "crash", "stall", "cut"]))
    at = {"session": int(random.integers(2, sessions + 1))}
    return {"kind": kind, **_FAULTS[kind](random, nodes), "at": at}


def _draw_slow(random: Random, nodes: _Nodes) -> Content:
    late = float(10 ** random.uniform(-2, 1))
    return {"node": nodes.draw_any(random), "seconds": late, "during": _draw_window(random)}


def _draw_lie(random: Random, nodes: _Nodes, liar: str | None = None) -> Content:
    node = nodes.draw_member(random) if liar is None else liar
    siblings = nodes.siblings[node]
    how = str(random.choice([*_LIES, *(["impersonate"] if siblings else [])]))
    always = how in ("late", "flapping", "receipt") or random.random() < 0.3
    lie: Content = {
        "node": node,
        "how": how,
        "probability": 1.0 if always else random.uniform(0.2, 0.8),
        "during": {} if random.random() < 0.3 else _draw_window(random),
    }
    if how == "impersonate" or (how == "receipt" and siblings):
        lie["as"] = str(random.choice(siblings))
    lie |= {key: draw(random) for key, draw in _LIES.get(how, {}).items()}
    return lie


_LIES: dict[str, dict[str, Callable[[Random], float]]] = {
    "shape": {},
    "nan": {},
    "beyond": {},
    "extreme": {},
    "scaled": {"factor": lambda random: random.uniform(0.2, 3)},
    "load": {"factor": lambda random: float(random.choice([-1, 1]) * 10 ** random.uniform(-1, 2))},
    "slope": {"factor": lambda random: float(10 ** random.uniform(-1, 6))},
    "coupling": {"factor": lambda random: float(random.choice([-1, 1]) * 10 ** random.uniform(-1, 11))},
    "count": {},
    "stale": {},
    "late": {"times": lambda random: int(random.integers(1, 9))},
    "flapping": {
        "times": lambda random: int(random.integers(1, 40)),
        "seconds": lambda random: float(10 ** random.uniform(-3, 1)),
    },
    "receipt": {"times": lambda random: int(10 ** random.uniform(0, 3))},
}
"""The lies that need no other member's name, and how to draw their keys."""


def _draw_broker(random: Random, nodes: _Nodes) -> Content:
    away = float(10 ** random.uniform(-2, 1.3))
    return {"at": _draw_moment(random), "seconds": away, "keep_retained": bool(random.random() < 0.7)}


def _draw_cut(random: Random, nodes: _Nodes) -> Content:
    return {"node": nodes.draw_any(random), "at": _draw_moment(random), "seconds": float(10 ** random.uniform(-2, 1.3))}


def _draw_hang(random: Random, nodes: _Nodes) -> Content:
    return {"node": nodes.draw_any(random), "at": _draw_moment(random), "seconds": float(10 ** random.uniform(-2, 1))}


def _draw_narrow(random: Random, nodes: _Nodes) -> Content:
    return {**_draw_cut(random, nodes), "bytes_per_s": float(10 ** random.uniform(3, 6))}


_FAULTS: dict[str, Callable[[Random, _Nodes], Content]] = {
    "loss": _draw_loss,
    "burst": _draw_burst,
    "delay": _draw_delay,
    "duplication": _draw_duplication,
    "reordering": _draw_reordering,
    "corruption": _draw_corruption,
    "bandwidth": _draw_bandwidth,
    "partition": _draw_partition,
    "stall": _draw_stall,
    "crash": _draw_crash,
    "slow": _draw_slow,
    "lie": _draw_lie,
    "broker": _draw_broker,
    "cut": _draw_cut,
    "hang": _draw_hang,
    "narrow": _draw_narrow,
}
