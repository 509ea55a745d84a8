"""result.json: what came out of a run, in the terms of its game."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stackelgrid.run_record import Played
from stackelgrid.scenarios.scenario import Scenario
from stackelgrid.testbed.fault_log import asked_again, struck

CERTIFIED_UP_TO = 200
"""Homes up to which every run is certified; above, `stackelgrid certify DIR` does it."""
SAMPLES = 200
"""How many deviations a certificate tries at random, unless told otherwise."""


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
        "inner_rounds": played.inner_rounds,
        "elapsed_s": round(played.elapsed_s, 3),
        "messages": played.messages,
        "bytes": played.bytes,
        "rejected": played.rejected,
        "homes": len(scenario.everyone),
        "homes_settled": len(played.homes),
        "processes": played.processes,
        "money": scenario.money,
        "outcome": scenario.outcome(played) if played.rounds else {},
        "certificate": certificate,
        "missing": played.missing,
        "asked_again": asked_again(played),
        "faults": dict(Counter(record["kind"] for record in played.faults)),
        "struck": struck(scenario, played),
        "failures": played.failures,
    }


def whole(finished: dict[str, Any]) -> bool:
    """Whether every home is in the outcome; a reference without some of them would certify another game."""
    return bool(finished["complete"]) and finished["homes_settled"] == finished["homes"]
