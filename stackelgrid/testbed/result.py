"""result.json: what came out of a run, in the terms of its game."""

from __future__ import annotations

from typing import Any

import numpy as np

from emc_node.user_oriented import HomeProblem
from stackelgrid.testbed.played import Played
from stackelgrid.testbed.scenario import Scenario


def result(scenario: Scenario, played: Played, certificate: dict[str, Any] | None) -> dict[str, Any]:
    """The content of result.json. `outcome` is {} when not a single round was finished."""
    return {
        "schema": 1,
        "game": scenario.game,
        "scenario": scenario.title,
        "seed": scenario.seed,
        "transport": played.transport,
        "broker": played.broker,
        "settled": played.settled,
        "complete": bool(played.conclusion.get("complete", False)),
        "rounds": len(played.rounds),
        "elapsed_s": round(played.elapsed_s, 3),
        "messages": played.messages,
        "bytes": played.bytes,
        "rejected": played.rejected,
        "homes": len(scenario.everyone),
        "processes": played.processes,
        "money": scenario.money,
        "outcome": outcome(scenario, played) if played.rounds else {},
        "certificate": certificate,
        "missing": played.missing,
        "failures": played.failures,
    }


def outcome(scenario: Scenario, played: Played) -> dict[str, Any]:
    """The user-oriented pricing game's outcome.

    Prices in money per kWh, loads in kW, one number per slot. `deviation` is sum (L_t - mean L)^2, kW^2;
    `leader_utility` equation (7); `system_utility` adds what the homes get: satisfaction less wear less bill. A home's
    `baseline_bill` is what it would pay at the flat price, worked out on the desk.
    """
    first, last = played.rounds[0], played.rounds[-1]
    price, load, baseline = (np.array(x) for x in (last["price"], last["load_kw"], first["load_kw"]))
    flat = np.full(scenario.slots, scenario.leader.baseline_price)
    homes = {
        home.id: {**played.homes[home.id], "baseline_bill": float(flat @ HomeProblem(home).answer(flat).load)}
        for home in scenario.everyone
        if home.id in played.homes
    }
    return {
        "price": price.tolist(),
        "load_kw": load.tolist(),
        "baseline_load_kw": baseline.tolist(),
        "peak_kw": float(load.max()),
        "par": float(load.max() / load.mean()),
        "baseline_peak_kw": float(baseline.max()),
        "baseline_par": float(baseline.max() / baseline.mean()),
        "leader_utility": last["leader_utility"],
        "system_utility": last["leader_utility"] + sum(home["utility"] for home in homes.values()),
        "revenue": float(price @ load),
        "deviation": float(np.sum((load - load.mean()) ** 2)),
        "homes": homes,
    }
