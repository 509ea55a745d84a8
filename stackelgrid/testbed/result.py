"""result.json: what came out of a run, in the terms of its game."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stackelgrid.run_record import Outcome, RunRecord
from stackelgrid.scenarios.scenario import Scenario
from stackelgrid.testbed.fault_log import asked_again, fault_log

CERTIFIED_UP_TO = 200
"""Homes up to which every run is certified; above, `stackelgrid certify DIR` does it."""
SAMPLES = 200
"""How many deviations a certificate tries at random, unless told otherwise."""


def result(scenario: Scenario, run_record: RunRecord, certificate: dict[str, Any] | None) -> dict[str, Any]:
    """The content of result.json. `outcome` is {} when not a single round was finished."""
    return {
        "schema": 1,
        "game": scenario.game,
        "scenario": scenario.title,
        "seed": scenario.seed,
        "transport": run_record.transport,
        "broker": run_record.broker,
        "settled": run_record.settled,
        "complete": bool(run_record.conclusion.get("complete", False)),
        "rounds": len(run_record.rounds),
        "inner_rounds": run_record.inner_rounds,
        "elapsed_s": round(run_record.elapsed_s, 3),
        "messages": run_record.messages,
        "bytes": run_record.bytes,
        "rejected": run_record.rejected,
        "homes": len(scenario.everyone),
        "homes_settled": len(run_record.homes),
        "processes": run_record.processes,
        "money": scenario.money,
        "outcome": _content(scenario.outcome(run_record)) if run_record.rounds else {},
        "certificate": certificate,
        "missing": run_record.missing,
        "asked_again": asked_again(run_record),
        "faults": dict(Counter(record["kind"] for record in run_record.faults)),
        "struck": fault_log(scenario, run_record),
        "failures": run_record.failures,
    }


def whole(finished: dict[str, Any]) -> bool:
    """Whether every home is in the outcome; a reference without some of them would certify another game."""
    return bool(finished["complete"]) and finished["homes_settled"] == finished["homes"]


def _content(outcome: Any) -> dict[str, Any]:
    return outcome.content() if isinstance(outcome, Outcome) else outcome
