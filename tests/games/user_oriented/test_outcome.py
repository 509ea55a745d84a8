"""The typed outcome: its numbers agree with each other, and it is the same when it is read from JSON."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stackelgrid.games.user_oriented.outcome import UserOrientedOutcome
from stackelgrid.games.user_oriented.report import key_figures
from stackelgrid.games.user_oriented.scenario import UserOrientedScenario
from stackelgrid.report.days import tell_bills, tell_groups
from stackelgrid.report.words import number
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import load
from stackelgrid.testbed.in_memory import play


@cache
def small_run() -> tuple[UserOrientedScenario, UserOrientedOutcome]:
    scenario = load("user_oriented", ["population.homes=4", "aggregators=2"])
    assert isinstance(scenario, UserOrientedScenario)
    return scenario, UserOrientedOutcome.of(scenario, play(scenario))


def test_outcome_sums_its_homes() -> None:
    scenario, outcome = small_run()
    homes = outcome.homes.values()
    assert outcome.homes.keys() == {home.id for home in scenario.everyone}
    assert outcome.load_kw == pytest.approx(np.sum([home.load_kw for home in homes], axis=0), rel=1e-9)
    assert outcome.revenue == pytest.approx(sum(home.bill for home in homes), rel=1e-9)
    assert outcome.system_utility == pytest.approx(outcome.leader_utility + sum(home.utility for home in homes))
    assert outcome.peak_kw == max(outcome.load_kw)
    assert outcome.par == pytest.approx(outcome.peak_kw / np.mean(outcome.load_kw))


def test_baseline_bill_is_the_flat_price_times_the_baseline_load() -> None:
    scenario, outcome = small_run()
    bills = [home.baseline_bill or 0.0 for home in outcome.homes.values()]
    assert sum(bills) == pytest.approx(scenario.leader.baseline_price * sum(outcome.baseline_load_kw), rel=1e-9)


def test_outcome_is_the_same_when_it_is_read_from_json() -> None:
    _, outcome = small_run()
    text = json.dumps(outcome.content())
    assert json.dumps(UserOrientedOutcome.model_validate(json.loads(text)).content()) == text


def test_outcome_has_stored_energy_only_of_homes_with_storage() -> None:
    scenario, outcome = small_run()
    storing = {home.id for home in scenario.everyone if home.storage}
    content = outcome.content()["homes"]
    assert 0 < len(storing) < len(content)
    assert {name for name, home in content.items() if "storage_kwh" in home} == storing


def test_leader_before_earns_the_bills_less_what_it_buys_and_the_charge_on_deviation() -> None:
    scenario = load("street", ["population.homes=4", "calendar.slot_minutes=30", "leader.feed_in_price=8"])
    assert isinstance(scenario, UserOrientedScenario)
    outcome = scenario.outcome(play(scenario))
    assert scenario.slot_hours == 0.5
    bills = sum(home.baseline_bill for home in outcome.homes.values())
    assert bills > 1.01 * 25 * scenario.slot_hours * sum(outcome.baseline_load_kw), "no home feeds in"
    load_kw = np.array(outcome.baseline_load_kw)
    bought = 0.5 * np.dot(scenario.leader.wholesale_price, load_kw)
    mu = scenario.leader.mu / np.abs(load_kw).mean()
    before = bills - bought - 0.5 * mu * np.sum((load_kw - load_kw.mean()) ** 2)
    assert outcome.baseline_leader_utility == pytest.approx(before, rel=1e-9)
    page = dict(key_figures(RunResult.model_construct(money="cents", homes=4), outcome))
    assert page["Leader utility"].startswith(f"{number(before)} → ")
    assert page["Bills together"].startswith(f"{number(bills)} → ")


def test_bills_are_told_by_what_homes_have() -> None:
    before, after = {"a": 3.0, "b": 3.0, "c": 3.0}, {"a": 2.0, "b": 4.0, "c": 2.0}
    told = tell_groups({"With PV": ["a", "b"], "With a car": ["b", "c"], "With storage": ["d"]}, before, after)
    assert told == " It fell for 1 of 2 homes with PV, 1 of 2 homes with a car."


def test_median_of_bills_is_of_those_that_paid() -> None:
    before, after = {"a": 10.0, "b": -4.0, "c": 20.0, "d": 5.0}, {"a": 9.0, "b": -3.0, "c": 20.0 + 1e-12, "d": 4.0}
    assert tell_bills(before, after) == "fell for 2 of 4 homes, −10.0 % in the median of the 3 that paid before"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"load_kw": [1.0]}, "load_kw has 1 numbers, price has 24"),
        ({"homes": {"h1": {"load_kw": [1.0], "bill": 1, "utility": 1}}}, "homes.h1.load_kw has 1 numbers"),
        ({"par": float("inf")}, "par"),
        ({"stranger": 1}, "stranger"),
    ],
)
def test_outcome_is_refused_when_its_content_does_not_fit(change: dict[str, Any], why: str) -> None:
    _, outcome = small_run()
    with pytest.raises(ValidationError, match=why):
        UserOrientedOutcome.model_validate(outcome.content() | change)
