"""Slots of any length: power stays, energy and money are power times the length of a slot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stackelgrid import runner, scenarios

LEADER = {"baseline_price": 9, "wholesale_price": 3.2, "mu": 0.9, "price_max": 30, "tolerance": 1e-9}


def draw_homes(random: np.random.Generator, hours: int, stores: bool) -> list[dict[str, Any]]:
    """Draw homes over so many hours; with `stores` each third one has a battery."""
    homes = []
    for number in range(6):
        home: dict[str, Any] = {
            "id": f"h{number + 1}",
            "inelastic": [{"load_kw": random.uniform(0.5, 2, hours).tolist()}],
            "elastic": [
                {
                    "max_kw": random.uniform(3, 8),
                    "valuation": random.uniform(10, 18),
                    "satisfaction": {"form": "log", "omega": random.uniform(0.9, 1.3, hours).tolist(), "alpha": 3.0},
                }
            ],
        }
        if stores and number % 3 == 0:
            home["storage"] = [
                {
                    "capacity_kwh": 6,
                    "initial_kwh": 2,
                    "charge_kw": 1.5,
                    "discharge_kw": 1.5,
                    "wear": {"fast": 0.4},
                }
            ]
        homes.append(home)
    return homes


def repeat(content: Any, hours: int, times: int) -> Any:
    """Repeat each number of every list of so many numbers."""
    if isinstance(content, dict):
        return {key: repeat(value, hours, times) for key, value in content.items()}
    if isinstance(content, list):
        if len(content) == hours and all(isinstance(each, float) for each in content):
            return np.repeat(content, times).tolist()
        return [repeat(each, hours, times) for each in content]
    return content


@pytest.mark.parametrize(("objective", "stores"), [("stackelberg", False), ("stackelberg", True), ("welfare", True)])
def test_day_of_hours_in_shorter_slots_has_the_same_prices_and_money(objective: str, *, stores: bool) -> None:
    # With storage and few slots several hills are climbed, perhaps others in shorter ones.
    hours, parts = (18, 2) if stores else (6, 4)
    content: dict[str, Any] = {"game": "user_oriented", "homes": draw_homes(np.random.default_rng(5), hours, stores)}
    content["leader"] = LEADER | {"objective": objective, "wholesale_price": np.linspace(2.5, 4, hours).tolist()}
    start = {"start": "2026-06-01T00:00", "horizon": f"{hours}h"}
    hourly = runner.run({**content, "calendar": start}, certify=objective == "welfare")
    calendar = {**start, "slot_minutes": 60 // parts}
    shorter = runner.run({**repeat(content, hours, parts), "calendar": calendar}, certify=objective == "welfare")
    assert hourly.settled
    assert shorter.settled
    before, after = hourly.outcome, shorter.outcome
    assert np.allclose(after.price, np.repeat(before.price, parts), rtol=1e-8)
    assert np.allclose(after.load_kw, np.repeat(before.load_kw, parts), rtol=1e-8)
    for key in ("revenue", "leader_utility", "system_utility"):
        assert getattr(after, key) == pytest.approx(getattr(before, key), rel=1e-9)
    for name, home in before.homes.items():
        assert after.homes[name].bill == pytest.approx(home.bill, rel=1e-8)
    for run in (hourly, shorter) if objective == "welfare" else ():
        assert run.certificate is not None
        assert run.certificate.number("max_home_regret") == pytest.approx(0, abs=1e-8)
        assert run.certificate.number("bill_residual") == pytest.approx(0, abs=1e-9)
        assert run.certificate.number("overclaim") == pytest.approx(0, abs=1e-8)
        assert run.certificate.feasible


@pytest.mark.parametrize(("day", "slots"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_day_of_a_clock_change_settles_and_adds_up(day: str, slots: int) -> None:
    run = runner.run(
        scenarios.load(
            "user_oriented", [f"calendar={{start: {day}T00:00, timezone: Europe/Brussels}}", "population.homes=12"]
        )
    )
    assert run.settled
    outcome = run.outcome
    assert len(outcome.price) == len(outcome.times) == slots
    assert outcome.times[0].startswith(day)
    loads = np.sum([home.load_kw for home in outcome.homes.values()], axis=0)
    assert np.allclose(loads, outcome.load_kw, rtol=1e-9)
    assert sum(home.bill for home in outcome.homes.values()) == pytest.approx(outcome.revenue, rel=1e-9)
