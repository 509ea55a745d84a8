"""The outcomes of the shipped cases are the stored ones to 1e-9: what a run computes does not change by accident.

`make stored-outcomes` writes tests/games/stored anew. Do that when a result changes for a reason, and say the reason in
CHANGELOG.md. Of homes the file holds the sum over all homes of each number: enough to notice a change of any of them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stackelgrid
from stackelgrid.registry import list_games

STORED = Path(__file__).parent / "stored"
RUNS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    **{game: (game, {}, None) for game in list_games()},
    "user_oriented-welfare": ("user_oriented", {"leader.objective": "welfare"}, None),
    "user_oriented-adaptive": (
        "user_oriented",
        {"leader.balance": {"kind": "adaptive", "high": 2, "low": 0.5, "threshold": 0.15}},
        None,
    ),
    "user_oriented-sleepy-home": ("user_oriented", {}, "sleepy-home"),
    "prosumer-lossy-wifi": ("prosumer", {}, "lossy-wifi"),
    "storage_market-lossy-wifi": ("storage_market", {}, "lossy-wifi"),
}
"""By name of the stored file: the scenario, what is changed in it, the fault plan."""


def outcome_of(name: str) -> Any:
    """Run a case in memory and give its outcome, homes summed."""
    scenario, overrides, faults = RUNS[name]
    run = stackelgrid.run(scenario, overrides, faults=faults)
    outcome = json.loads(json.dumps(run.outcome.content()))
    return {key: sum_up(value) if key == "homes" else value for key, value in outcome.items()}


def sum_up(homes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Sum each key of homes over the homes; lists with one number per slot are summed by slot."""
    totals: dict[str, Any] = {"count": len(homes)}
    for home in homes.values():
        for key, value in home.items():
            totals[key] = add(totals.get(key), value)
    return totals


def add(total: Any, value: Any) -> Any:
    """Add numbers, and lists of numbers of one length; of other lists add all numbers in them."""
    if isinstance(value, list) and not all(isinstance(each, int | float) for each in value):
        value = sum(number for _, number in numbers_in(value, ""))
    if total is None:
        return value
    if isinstance(value, list):
        return [a + b for a, b in zip(total, value, strict=True)]
    return total + value


def numbers_in(content: Any, where: str) -> Iterator[tuple[str, float]]:
    """Give every number of a content with the place where it stands."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from numbers_in(value, f"{where}.{key}")
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from numbers_in(value, f"{where}[{number}]")
    elif isinstance(content, int | float):
        yield where, float(content)


@pytest.mark.parametrize("name", RUNS)
def test_outcome_of_a_shipped_case_is_the_stored_one(name: str) -> None:
    stored = dict(numbers_in(json.loads((STORED / f"{name}.json").read_text(encoding="utf-8")), ""))
    found = dict(numbers_in(outcome_of(name), ""))
    assert found.keys() == stored.keys()
    changed = {
        where: (stored[where], found[where])
        for where in stored
        if not math.isclose(found[where], stored[where], rel_tol=1e-9, abs_tol=1e-9)
    }
    assert changed == {}


if __name__ == "__main__":
    for name in sys.argv[1:] or RUNS:
        (STORED / f"{name}.json").write_text(json.dumps(outcome_of(name), indent=1) + "\n", encoding="utf-8")
