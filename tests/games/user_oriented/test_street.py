"""The street: homes with photovoltaics, batteries, cars and heat pumps, drawn, played and certified."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from stackelgrid import runner, scenarios
from stackelgrid.games.user_oriented.home import HomeProblem
from stackelgrid.games.user_oriented.reference.device_programme import DeviceProgramme
from stackelgrid.scenarios import ScenarioError
from stackelgrid.scenarios.yaml_file import parse

FEW = ["population.homes=6", "homes_per_process=3"]


@pytest.fixture(scope="module")
def street() -> runner.Run:
    return runner.run(scenarios.load("street", FEW), certify=True)


def test_street_settles_and_its_certificate_passes(street: runner.Run) -> None:
    assert street.settled
    certificate = street.certificate
    assert certificate is not None
    assert certificate.passed
    assert certificate.number("max_home_regret") == pytest.approx(0, abs=1e-7)
    assert "cvxpy" in str(certificate.method)


def test_certificate_fails_where_a_home_draws_something_else(street: runner.Run) -> None:
    name, home = next(iter(street.outcome.homes.items()))
    load = np.array(home.load_kw)
    load[[0, 5]] += [0.5, -0.5]
    wrong = home.model_copy(update={"load_kw": load.tolist()})
    outcome = street.outcome.model_copy(update={"homes": {**street.outcome.homes, name: wrong}})
    certificate = street.scenario.certificate(outcome, 0)
    assert certificate["load_residual"] == pytest.approx(0.5, abs=1e-3)
    assert certificate["bill_residual"] > 1e-6


def test_homes_of_the_street_answer_as_the_reference(street: runner.Run) -> None:
    price = np.array(street.outcome.price)
    for home in street.scenario.everyone:
        load, utility = DeviceProgramme(home).solve(price)
        found = HomeProblem(home).answer(price)
        assert np.allclose(found.load, load, atol=1e-4)
        assert HomeProblem(home).summarize(found)["utility"] == pytest.approx(home.slot_hours * utility, rel=1e-8)


def test_share_of_a_device_is_its_share_of_the_homes() -> None:
    homes = scenarios.load("street", ["population.homes=300"]).everyone
    for devices, share in (("pv", 0.5), ("storage", 0.3), ("ev", 0.4), ("heat_pump", 0.3)):
        assert np.mean([bool(getattr(home, devices)) for home in homes]) == pytest.approx(share, abs=0.1)
    energy = [sum(sum(load.load_kw or []) for load in home.inelastic) for home in homes]
    assert min(energy) > 0


def test_car_is_away_on_working_days_alone() -> None:
    over_weekend = "calendar={start: 2016-03-24T00:00, timezone: Europe/Berlin, horizon: 24h, days: 5}"
    scenario = scenarios.load("street", [over_weekend, "population.cars.share=1", *FEW])
    times = scenario.calendar.times if scenario.calendar else []
    for home in scenario.everyone:
        (car,) = home.ev
        assert {times[trip.leave - 1].weekday() for trip in car.trips} == {3, 4, 0}
        for trip in car.trips:
            assert 6 <= times[trip.leave - 1].hour <= 9
            assert times[trip.leave - 1].date() == times[trip.back - 1].date()


@pytest.mark.parametrize("section", ["pv", "battery", "cars", "heat_pump"])
def test_devices_without_dates_are_refused(section: str) -> None:
    overrides = ["calendar=null", "leader.wholesale_price=20", "data={}", *FEW]
    overrides += [f"population.{other}=null" for other in ("pv", "battery", "cars", "heat_pump") if other != section]
    with pytest.raises(ScenarioError, match=f"population.{section}: .* give the run a calendar"):
        scenarios.load("street", overrides)


def test_public_feed_in_price_is_paid_to_all_that_feed_in() -> None:
    run = runner.run(scenarios.load("street", [*FEW, "leader.feed_in_price=17"]))
    price, outcome = np.array(run.outcome.price), run.outcome
    fed_in = np.any([np.array(home.load_kw) < 0 for home in outcome.homes.values()], axis=0)
    assert np.any(fed_in & (price > 17)) and np.any(fed_in & (price < 17))
    for home in outcome.homes.values():
        load = np.array(home.load_kw)
        paid = price @ np.maximum(load, 0) - np.minimum(17, price) @ np.maximum(-load, 0)
        assert home.bill == pytest.approx(paid, rel=1e-9)
    assert sum(home.bill for home in outcome.homes.values()) == pytest.approx(outcome.revenue, rel=1e-9)
    earned = outcome.leader_utility + sum(home.utility for home in outcome.homes.values())
    assert outcome.system_utility == pytest.approx(earned, rel=1e-9)


def test_feed_in_price_above_the_flat_price_is_refused() -> None:
    with pytest.raises(ScenarioError, match="feed_in_price: 26 is above leader"):
        scenarios.load("street", [*FEW, "leader.feed_in_price=26"])


def test_home_that_feeds_in_more_than_it_draws_is_played() -> None:
    sunny = {"available_kw": [0.0] * 8 + [5.0] * 8 + [0.0] * 8}
    home = {
        "id": "h1",
        "inelastic": [{"load_kw": [0.4] * 24}],
        "elastic": [{"max_kw": 2, "valuation": 30, "satisfaction": {"form": "quadratic", "omega": 2, "alpha": 4}}],
        "pv": [sunny],
        "connection": {"draw_kw": 10, "feed_in_kw": 10},
    }
    leader = {"objective": "welfare", "baseline_price": 25, "wholesale_price": 20, "mu": 1, "price_max": 80}
    run = runner.run({"game": "user_oriented", "leader": leader, "homes": [home]}, certify=True)
    assert sum(run.outcome.baseline_load_kw) < 0
    assert run.settled
    assert run.certificate is not None
    assert run.certificate.passed


def test_home_of_the_docs_is_played() -> None:
    page = (Path(__file__).parents[3] / "docs/games/user_oriented.md").read_text(encoding="utf-8")
    homes = parse(re.search(r"```yaml\n(homes:.*?)```", page, re.DOTALL)[1])["homes"]  # type: ignore[index]
    leader = {"objective": "welfare", "baseline_price": 25, "wholesale_price": 20, "mu": 1, "price_max": 80}
    run = runner.run({"game": "user_oriented", "leader": leader, "homes": homes}, certify=True)
    assert run.settled
    assert run.certificate is not None
    assert run.certificate.passed
