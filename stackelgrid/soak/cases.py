"""What a seed stands for: a small scenario of one of the games, how its rounds are kept, and what goes wrong.

Scenarios come from a few dozen per game, so that each has to be checked and played without faults only once; rounds
and faults are drawn anew for each seed. Every fault ends in virtual time, or harms a message with a probability below
one, so that a run which tries again gets through in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stackelgrid.faults.plan import FaultPlan
from stackelgrid.node.config import Rounds
from stackelgrid.registry import find
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import fault_plans

GAMES = ("user_oriented", "prosumer", "load_call", "storage_market")
_SCENARIOS = 40
_MOST_ROUNDS = 400
_FAULTS_END_S = 30.0

Draw = np.random.Generator
Content = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is played under `plan`, and where it comes from; `number` is that of a drawn scenario in its game."""

    source: str
    scenario: Scenario
    plan: FaultPlan
    number: int | None = None


def draw(seed: int) -> Case:
    """The case of a seed."""
    random = np.random.default_rng(seed)
    game = GAMES[int(random.integers(len(GAMES)))]
    number = int(random.integers(_SCENARIOS))
    chosen = scenario(game, number).model_copy(update={"seed": seed, "rounds": _rounds(random)})
    names = _Names(chosen)
    faults = [_fault(random, names) for _ in range(int(random.integers(1, 5)))]
    return Case(f"seed {seed}", chosen, FaultPlan.model_validate({"seed": seed, "faults": faults}), number)


def of_run(folder: Path) -> Case:
    """The case of a run's folder: its scenario, and its fault plan if it had one. Raises `ConfigError`."""
    plan = folder / "faults.yaml"
    chosen = load(str(folder / "scenario.yaml"))
    return Case(str(folder), chosen, fault_plans.load(str(plan)) if plan.exists() else FaultPlan())


# --- scenarios ---


@cache
def scenario(game: str, number: int) -> Scenario:
    """Scenario `number` of a game, checked."""
    random = np.random.default_rng([GAMES.index(game), number])
    homes = int(random.integers(2, 9))
    content: Content = {
        "schema": 1,
        "game": game,
        "seed": number,
        "aggregators": int(random.integers(1, min(3, homes) + 1)),
        "homes_per_process": int(random.choice([1, 1, 1, 2])),
        **_CONTENTS[game](random, homes),
    }
    model: type[Scenario] = find(game).load("scenario")
    checked = model.model_validate(content)
    checked.verify()
    return checked


def _user_oriented(random: Draw, homes: int) -> Content:
    slots = 4
    return {
        "slots": slots,
        "leader": {
            "objective": str(random.choice(["stackelberg", "welfare"])),
            "baseline_price": 9,
            "wholesale_price": _numbers(random, 2, 5, slots),
            "mu": _number(random, 0.3, 1.5),
            "price_max": 30,
            "tolerance": 1e-9,
            "max_rounds": _MOST_ROUNDS,
        },
        "homes": [
            {
                "id": f"h{number + 1}",
                "horizon": slots,
                "inelastic": [{"load_kw": _numbers(random, 0.5, 2, slots)}],
                "elastic": [
                    {
                        "max_kw": _number(random, 3, 8),
                        "valuation": _number(random, 10, 18),
                        "satisfaction": {"form": "log", "alpha": _number(random, 2, 5)},
                    }
                ],
            }
            for number in range(homes)
        ],
    }


def _prosumer(random: Draw, homes: int) -> Content:
    slots = 3
    load = [_numbers(random, 40, 80, slots) for _ in range(homes)]
    return {
        "slots": slots,
        "leader": {
            "tariffs": {"all": _numbers(random, 30, 50, slots)},
            "event": {"first": 1, "last": slots},
            "cost": {"c0": 400, "c1": -0.6, "c2": 0.003},
            "system_load_kw": (np.sum(load, axis=0) * 1.5).tolist(),
            "max_rounds": _MOST_ROUNDS,
        },
        "homes": [
            {
                "id": f"h{number + 1}",
                "tariff": "all",
                "alpha": _number(random, 0.2, 1),
                "cap_share": _number(random, 0.05, 0.3),
                "pv_cost": _number(random, 6, 12),
                "load_kw": drawn,
                "pv_kw": _numbers(random, 50, 110, slots),
            }
            for number, drawn in enumerate(load)
        ],
    }


def _load_call(random: Draw, homes: int) -> Content:
    baseline = _numbers(random, 80, 150, homes)
    return {
        "slots": 1,
        "aggregators": 1,
        "leader": {
            "target_kwh": _number(random, 0.2, 0.9) * sum(baseline),
            "peak_price": 5.8,
            "off_peak_price": 2.6,
            "max_rounds": _MOST_ROUNDS,
        },
        "aggregator": {"fairness": 0.005, "reward": 1.0},
        "homes": [
            {"id": f"c{number + 1}", "baseline_kwh": drawn, "alpha": _number(random, 0.01, 0.1), "beta": 0.5}
            for number, drawn in enumerate(baseline)
        ],
    }


def _storage_market(random: Draw, homes: int) -> Content:
    slots = 4
    shape = np.array(_numbers(random, 0.5, 1, slots))
    fleets = np.bincount(np.arange(homes) % int(random.integers(1, min(3, homes) + 1)))
    return {
        "slots": slots,
        "money": "dollars",
        "aggregators": len(fleets),
        "leader": {
            "generators": [
                {"id": "g1", "quadratic": 0.2, "linear": 20, "max_mw": 80, "ramp_mw": 60},
                {"id": "g2", "quadratic": 0.6, "linear": 10, "max_mw": 60, "ramp_mw": 60},
            ],
            "peak_mw": 100,
            "shape": (shape / shape.max()).tolist(),
            "theta": 0.04,
            "groups": 2,
            "inertia": 0.001,
            "tolerance": 1e-5,
            "max_rounds": _MOST_ROUNDS,
        },
        "dras": [
            {"homes": int(count), "quadratic": _number(random, 0.1, 0.2), "wear": _number(random, 0, 1)}
            for count in fleets
        ],
        "homes": [
            {
                "id": f"h{number + 1}",
                "horizon": slots,
                "appliances": [
                    {
                        "kind": "interruptible",
                        "name": "vehicles",
                        "blocks": 4,
                        "block_kwh": _number(random, 300, 800),
                        "first": 1,
                        "last": slots,
                        "per_hour": 2,
                        "preferred": int(random.integers(1, slots)),
                    }
                ],
                "battery": {"capacity_kwh": 2000, "power_kw": 700, "initial_kwh": 200},
            }
            for number in range(homes)
        ],
    }


_CONTENTS: dict[str, Callable[[Draw, int], Content]] = {
    "user_oriented": _user_oriented,
    "prosumer": _prosumer,
    "load_call": _load_call,
    "storage_market": _storage_market,
}


def _number(random: Draw, low: float, high: float) -> float:
    return float(random.uniform(low, high))


def _numbers(random: Draw, low: float, high: float, count: int) -> list[float]:
    return [_number(random, low, high) for _ in range(count)]


# --- how rounds are kept ---


def _rounds(random: Draw) -> Rounds:
    return Rounds.model_validate(
        {
            "deadline_s": random.choice([0.5, 1.0, 5.0]),
            "tries": random.integers(1, 4),
            "missing": str(random.choice(["hold", "exclude", "fail"], p=[0.5, 0.35, 0.15])),
            "gather_s": random.choice([1.0, 5.0, 60.0]),
            "return_s": random.choice([0.0, 2.0, 10.0]),
        }
    )


# --- what goes wrong ---


class _Names:
    """The nodes of a scenario, and patterns of them."""

    def __init__(self, chosen: Scenario) -> None:
        households = chosen.households()
        self.aggregators = list(households)
        self.homes = [
            mine[0].id if chosen.homes_per_process == 1 else f"{name}-p{number}"
            for name, processes in households.items()
            for number, mine in enumerate(processes, start=1)
        ]
        self.siblings = {
            member: [other for other in members if other != member]
            for members in [self.aggregators, *self._by_aggregator(chosen)]
            for member in members
        }

    def _by_aggregator(self, chosen: Scenario) -> list[list[str]]:
        names = iter(self.homes)
        return [[next(names) for _ in processes] for processes in chosen.households().values()]

    def any_node(self, random: Draw) -> str:
        """The leader, an aggregator or a home."""
        return str(random.choice(["leader", str(random.choice(self.aggregators)), str(random.choice(self.homes))]))

    def answering(self, random: Draw) -> str:
        """An aggregator or a home."""
        return str(random.choice([str(random.choice(self.aggregators)), str(random.choice(self.homes))]))

    def end_of_link(self, random: Draw) -> str:
        """A node, or all of them."""
        return "*" if random.random() < 0.5 else self.any_node(random)


def _fault(random: Draw, names: _Names) -> Content:
    kind = str(random.choice([*_FAULTS, "crash"]))  # which has the most to it, so twice as often
    return {"kind": "loss" if kind == "burst" else kind} | _FAULTS[kind](random, names)


def _seconds(random: Draw) -> Content:
    """A window of time: from a few messages to many deadlines long."""
    first = _moment_s(random)
    return {"seconds": [first, min(first + float(10 ** random.uniform(-3, 1.4)), _FAULTS_END_S)]}


def _window(random: Draw) -> Content:
    if random.random() < 0.7:
        return _seconds(random)
    first = int(random.integers(1, 8))
    return {"rounds": [first, first + int(random.integers(0, 4))]}


def _moment_s(random: Draw) -> float:
    """Half of them while a run without faults is still going on, the others later."""
    return float(random.uniform(0, 0.05)) if random.random() < 0.5 else float(10 ** random.uniform(-2, 1))


def _at(random: Draw) -> Content:
    return {"round": int(random.integers(1, 8))} if random.random() < 0.6 else {"seconds": _moment_s(random)}


def _link(random: Draw, names: _Names) -> Content:
    return {"from": names.end_of_link(random), "to": names.end_of_link(random), "during": _window(random)}


def _loss(random: Draw, names: _Names) -> Content:
    link = _link(random, names)
    everything = "seconds" in link["during"] and random.random() < 0.2
    return {**link, "probability": 1.0 if everything else _number(random, 0.05, 0.7)}


def _burst(random: Draw, names: _Names) -> Content:
    return {**_link(random, names), "burst": {"enter": _number(random, 0.02, 0.3), "leave": _number(random, 0.2, 0.9)}}


def _delay(random: Draw, names: _Names) -> Content:
    seconds, jitter = 10 ** random.uniform(-3, 1, 2)
    return {**_link(random, names), "seconds": float(seconds), "jitter_s": float(jitter)}


def _duplication(random: Draw, names: _Names) -> Content:
    return {**_link(random, names), "probability": _number(random, 0.1, 1), "copies": int(random.integers(1, 4))}


def _reordering(random: Draw, names: _Names) -> Content:
    late = float(10 ** random.uniform(-3, 1))
    return {**_link(random, names), "probability": _number(random, 0.1, 1), "seconds": late}


def _corruption(random: Draw, names: _Names) -> Content:
    return {**_link(random, names), "probability": _number(random, 0.05, 0.6), "bits": int(random.integers(1, 9))}


def _bandwidth(random: Draw, names: _Names) -> Content:
    return {**_link(random, names), "bytes_per_s": float(10 ** random.uniform(3, 6))}


def _partition(random: Draw, names: _Names) -> Content:
    away = [names.any_node(random)]
    return {"groups": [away, [n for n in ["leader", *names.aggregators, *names.homes] if n not in away]]} | {
        "during": _seconds(random)
    }


def _stall(random: Draw, names: _Names) -> Content:
    return {"node": names.any_node(random), "at": _at(random), "seconds": float(10 ** random.uniform(-2, 1.4))}


def _crash(random: Draw, names: _Names) -> Content:
    for_good = random.random() < 0.15
    restart = None if for_good else float(10 ** random.uniform(-2, 1.4))
    lost = bool(random.random() < 0.25)
    return {"node": names.any_node(random), "at": _at(random), "restart_after_s": restart, "lose_state": lost}


def _slow(random: Draw, names: _Names) -> Content:
    late = float(10 ** random.uniform(-2, 1))
    return {"node": names.any_node(random), "seconds": late, "during": _window(random)}


def _lie(random: Draw, names: _Names) -> Content:
    node = names.answering(random)
    ways = ["shape", "nan", "beyond", "stale", "scaled", *(["impersonate"] if names.siblings[node] else [])]
    how = str(random.choice(ways))
    lie: Content = {"node": node, "how": how, "probability": _number(random, 0.2, 0.8), "during": _window(random)}
    if how == "impersonate":
        lie["as"] = str(random.choice(names.siblings[node]))
    if how == "scaled":
        lie["factor"] = _number(random, 0.2, 3)
    return lie


def _broker(random: Draw, names: _Names) -> Content:
    away = float(10 ** random.uniform(-2, 1.3))
    return {"at": _at(random), "seconds": away, "keep_retained": bool(random.random() < 0.7)}


def _cut(random: Draw, names: _Names) -> Content:
    return {"node": names.any_node(random), "at": _at(random), "seconds": float(10 ** random.uniform(-2, 1.3))}


def _hang(random: Draw, names: _Names) -> Content:
    return {"node": names.any_node(random), "at": _at(random), "seconds": float(10 ** random.uniform(-2, 1))}


def _narrow(random: Draw, names: _Names) -> Content:
    return {**_cut(random, names), "bytes_per_s": float(10 ** random.uniform(3, 6))}


_FAULTS: dict[str, Callable[[Draw, _Names], Content]] = {
    "loss": _loss,
    "burst": _burst,
    "delay": _delay,
    "duplication": _duplication,
    "reordering": _reordering,
    "corruption": _corruption,
    "bandwidth": _bandwidth,
    "partition": _partition,
    "stall": _stall,
    "crash": _crash,
    "slow": _slow,
    "lie": _lie,
    "broker": _broker,
    "cut": _cut,
    "hang": _hang,
    "narrow": _narrow,
}
