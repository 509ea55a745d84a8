"""The storage market over slots of any length: what stays the same, days of 23 and 25 hours, populations by day."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_cases import BATTERIES, RTS, UNITS, quick, reference_dispatch

from stackelgrid.calendar import Session
from stackelgrid.games.storage_market import battery_bid
from stackelgrid.games.storage_market.battery_bid import BatteryMarket, Bid, Fleet, Terms
from stackelgrid.games.storage_market.dispatch import EconomicDispatch, GeneratingUnit
from stackelgrid.games.storage_market.home.market_home import Battery, follow
from stackelgrid.games.storage_market.outcome import StorageMarketOutcome
from stackelgrid.games.storage_market.population import Day
from stackelgrid.games.storage_market.price_line import find_price_line
from stackelgrid.games.storage_market.reference import best_dispatch
from stackelgrid.games.storage_market.scenario import StorageMarketScenario
from stackelgrid.scenarios import ScenarioError, load
from stackelgrid.testbed import in_memory


def play(scenario: StorageMarketScenario) -> StorageMarketOutcome:
    end = in_memory.play(scenario)
    assert end.settled and (end.failures, end.rejected, end.missing) == ({}, {}, [])
    outcome = scenario.outcome(end)
    assert isinstance(outcome, StorageMarketOutcome)
    return outcome


def market(shape: list[float], appliances: list[dict[str, Any]], **keys: Any) -> StorageMarketScenario:
    """A market of two generators and two DRAs, one with a battery, one with appliances and a battery."""
    scenario = load(
        {
            "schema": 1,
            "game": "storage_market",
            "leader": {
                "generators": [
                    {"id": "g1", "quadratic": 0.5, "linear": 10, "max_mw": 30, "ramp_mw": 1000},
                    {"id": "g2", "quadratic": 0.3, "linear": 14, "max_mw": 30, "ramp_mw": 1000},
                ],
                "peak_mw": 40,
                "shape": shape,
            },
            "dras": [{"homes": 1, "quadratic": 0.1, "wear": 1}, {"homes": 1, "quadratic": 0.1}],
            "homes": [
                {"id": "x", "battery": {"capacity_kwh": 4000, "power_kw": 1500, "initial_kwh": 500}},
                {
                    "id": "y",
                    "battery": {"capacity_kwh": 2000, "power_kw": 900, "initial_kwh": 0},
                    "appliances": appliances,
                },
            ],
        }
        | keys
    )
    assert isinstance(scenario, StorageMarketScenario)
    return scenario


SHAPE = [0.4, 0.5, 0.8, 1.0, 0.9, 0.6]
VEHICLES = {"kind": "interruptible", "blocks": 6, "block_kwh": 500, "per_hour": 3}


def test_hours_written_in_quarters_give_the_same_prices_and_money_without_ramps_and_runs() -> None:
    """By symmetry and strict convexity; to what homes and bids rest at."""
    hours = play(market(SHAPE, [VEHICLES | {"first": 1, "last": 6, "preferred": 4}], slots=6))
    calendar = {"start": "2026-06-01T00:00", "slot_minutes": 15, "horizon": "6h"}
    window = {"first": 1, "last": 24, "preferred": 13}
    quarters = play(market(np.repeat(SHAPE, 4).tolist(), [VEHICLES | window], calendar=calendar))
    for key in ("price", "price_without", "net_demand_mw", "load_mw", "baseline_load_mw", "slope", "price_cap"):
        np.testing.assert_allclose(getattr(quarters, key), np.repeat(getattr(hours, key), 4), rtol=1e-5, atol=1e-5)
    for name, sold in hours.sold_mw.items():
        np.testing.assert_allclose(quarters.sold_mw[name], np.repeat(sold, 4), atol=1e-5)
        np.testing.assert_allclose(quarters.level_mwh[name][3::4], hours.level_mwh[name], atol=1e-5)
        assert quarters.payoff[name] == pytest.approx(hours.payoff[name], abs=1e-4)
        assert quarters.losses_mwh[name] == pytest.approx(hours.losses_mwh[name], abs=1e-5)
    for key in ("supply_cost", "supply_cost_without", "baseline_supply_cost", "total_cost", "net_purchases"):
        assert getattr(quarters, key) == pytest.approx(getattr(hours, key), rel=1e-6)
    for key in ("cost_by_period", "energy_by_period"):
        assert getattr(quarters, key).total == pytest.approx(getattr(hours, key).total, rel=1e-6)
    for name, home in hours.homes.items():
        assert quarters.homes[name].bill == pytest.approx(home.bill, rel=1e-5)
        assert np.sum(quarters.homes[name].appliances_kwh) == pytest.approx(np.sum(home.appliances_kwh))


def test_certificate_of_quarters_holds() -> None:
    calendar = {"start": "2026-06-01T00:00", "slot_minutes": 15, "horizon": "2h"}
    run = {"kind": "uninterruptible", "hours": 0.5, "kw": 700, "first": 1, "last": 8, "preferred": 6}
    shape = [0.4, 0.5, 0.7, 0.9, 1.0, 0.8, 0.6, 0.5]
    scenario = market(shape, [run, VEHICLES | {"blocks": 2, "first": 1, "last": 8, "preferred": 4}], calendar=calendar)
    certificate = scenario.certificate(play(scenario), 20)
    assert certificate["feasible"] and abs(certificate["dispatch_gap"]) <= 1e-9 and abs(certificate["gap"]) <= 1e-9
    assert certificate["price_residual"] <= 1e-5 and certificate["slope_residual"] <= 1e-6
    assert certificate["max_dra_regret"] <= 1e-9 and certificate["max_home_regret"] <= 1e-6
    assert certificate["integrality_regret"] <= certificate["inertia"]
    for key in ("balance_residual", "battery_residual", "violation"):
        assert certificate[key] <= 1e-9


@pytest.mark.parametrize("minutes", [60, 30])
@pytest.mark.parametrize(("start", "hours"), [("2026-03-29T00:00", 23), ("2026-10-25T00:00", 25)])
def test_day_of_a_clock_change_settles_and_adds_up(start: str, hours: int, minutes: int) -> None:
    slots, per_hour = hours * 60 // minutes, 60 // minutes
    shape = 0.75 - 0.25 * np.cos(2 * np.pi * (np.arange(slots) + 0.5) / slots)
    machine = {"kind": "uninterruptible", "hours": 2, "kw": 700, "first": 1, "last": slots, "preferred": 12 * per_hour}
    scenario = market(
        (shape / shape.max()).tolist(),
        [VEHICLES | {"first": 1, "last": slots, "preferred": 14 * per_hour}, machine],
        calendar={"start": start, "timezone": "Europe/Brussels", "slot_minutes": minutes},
    )
    outcome = play(scenario)
    assert outcome.times is not None and len(outcome.times) == slots == len(outcome.price)
    delta = minutes / 60
    cost, price, _ = best_dispatch(scenario.leader, np.array(outcome.net_demand_mw), delta)
    assert outcome.supply_cost == pytest.approx(cost, rel=1e-9)
    np.testing.assert_allclose(outcome.price, price, atol=1e-5)
    # Energy: what generators make is what was expected, and what batteries lose or keep.
    stored = sum(levels[-1] - outcome.fleet[name].initial for name, levels in outcome.level_mwh.items())
    made = delta * np.sum(list(outcome.dispatch_mw.values()))
    expected = delta * scenario.leader.expected.sum()
    assert made == pytest.approx(expected + sum(outcome.losses_mwh.values()) + stored, abs=1e-9)
    assert outcome.energy_by_period.total == pytest.approx(made, abs=1e-9)
    assert outcome.cost_by_period.total == pytest.approx(outcome.supply_cost, rel=1e-12)
    appliances = outcome.homes["y"].appliances_kwh
    assert [sum(drawn) for drawn in appliances] == pytest.approx([3000, 1400])
    for home in scenario.everyone:
        day, battery = outcome.homes[home.id], home.battery
        change = delta * (battery.efficiency * np.array(day.charge_kw) - np.array(day.sold_kw) / battery.efficiency)
        np.testing.assert_allclose(np.diff(day.battery_kwh, prepend=battery.initial_kwh), change, atol=1e-9)
        assert day.battery_kwh[-1] >= battery.initial_kwh - 1e-9
    assert outcome.total_cost == pytest.approx(outcome.supply_cost + outcome.net_purchases, rel=1e-12)
    assert outcome.homes["y"].bill == pytest.approx(delta * np.dot(outcome.price, outcome.homes["y"].load_kw) / 1000)


@pytest.mark.parametrize("hours", [0.25, 0.5])
def test_dispatch_of_shorter_slots_equals_another_solvers(hours: float) -> None:
    """A ramp is per hour, cost is per hour: that of the slots is that of hours with smaller ramps, times Δ."""
    demand = 260 + 80 * hours * np.sin(np.arange(24) / 2.0) + np.random.default_rng(5).uniform(-3, 3, 24)
    found = EconomicDispatch(UNITS, 1000, 24, hours).solve(demand)
    slower = [GeneratingUnit(u.id, u.quadratic, u.linear, u.constant, u.max_mw, hours * u.ramp_mw) for u in UNITS]
    cost, price = reference_dispatch(slower, demand)
    assert found.cost == pytest.approx(hours * cost, rel=1e-8)
    np.testing.assert_allclose(found.price, price, atol=1e-5)
    steepest = hours * np.array([[unit.ramp_mw] for unit in UNITS])
    assert np.isclose(np.abs(np.diff(found.generation, axis=1)), steepest).any()  # they bind


@pytest.mark.parametrize("last", range(3))
def test_bid_is_the_same_when_kinks_are_taken_as_they_matter(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch = EconomicDispatch(UNITS, 1000, 24)
    line = find_price_line(dispatch, dispatch.solve(RTS), 40)
    terms = Terms(
        dispatch.solve(RTS).price,
        line.slope,
        np.full(24, 20.0),
        np.full(24, np.inf),
        -line.kinks,
        line.room,
        line.jump,
    )
    market = BatteryMarket(Fleet(60, 60, 15, 20, 0.95), 0.01, 0.0, 24)
    random = np.random.default_rng(last)
    start = Bid(*random.uniform(0, 0.5 * last, (2, 24)), np.zeros(24))
    assert len(line.room) > 50
    found = []
    for many in (1000, 0):
        monkeypatch.setattr(battery_bid, "_MANY_KINKS", many)
        found.append(market.best_response(terms, start))
    crossed = (terms.kinks @ (found[0].net - start.net) > terms.room + 1e-6).sum()
    assert crossed > 0
    np.testing.assert_allclose(found[1].net, found[0].net, atol=1e-7)


@quick
@given(
    BATTERIES,
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.sampled_from([1.0, 0.5, 0.25, 1 / 12]),
)
def test_battery_of_shorter_slots_balances_its_energy(
    battery: Battery, charge: list[float], sold: list[float], hours: float
) -> None:
    day = follow(battery, np.array(charge), np.array(sold), hours)
    change = np.diff(day.level, prepend=battery.initial_kwh)
    due = hours * (battery.efficiency * day.charge - day.sold / battery.efficiency) - day.spilt
    np.testing.assert_allclose(change, due, atol=1e-9 * battery.capacity_kwh)
    assert day.level.min() >= 0 and day.level.max() <= battery.capacity_kwh
    assert (day.charge + day.sold).max() <= battery.power_kw * (1 + 1e-12)


POPULATION = {
    "homes": 4,
    "flexible_share": 0.1,
    "kinds": [
        {
            "name": "vehicles",
            "share": 0.6,
            "interruptible": True,
            "hours": [3, 5],
            "preferred": [17, 20],
            "earlier": [0, 1],
            "later": [1, 5],
        },
        {
            "name": "laundry",
            "share": 0.4,
            "interruptible": False,
            "hours": [2, 3],
            "preferred": [10, 17],
            "earlier": [0, 2],
            "later": [1, 4],
        },
    ],
}


def test_population_has_its_appliances_every_day_at_the_same_hours() -> None:
    """Over the night of a clock change; each day's appliances need their share of that day's energy."""
    calendar = {"start": "2026-03-28T00:00", "timezone": "Europe/Brussels", "slot_minutes": 30, "days": 3}
    slots = 48 + 46 + 48
    shape = (0.6 + 0.4 * np.sin(np.arange(slots) / 7) ** 2).tolist()
    shape[3] = 1.0
    keys = {"homes": None, "population": POPULATION, "dras": [{"homes": 4, "quadratic": 0.1}], "calendar": calendar}
    scenario = market(shape, [], **keys)
    days = Day.of(scenario.run)
    assert [(day.first, day.slots, day.per_hour) for day in days] == [(0, 48, 2), (48, 46, 2), (94, 48, 2)]
    for home in scenario.everyone:
        for kind in ("vehicles", "laundry"):
            each = [appliance for appliance in home.appliances if appliance.name == kind]
            assert len(each) == 3
            for appliance, day in zip(each, days, strict=True):
                assert day.first < appliance.first <= appliance.last <= day.first + day.slots
            assert each[2].preferred - 94 == each[0].preferred
            assert each[2].last - each[2].first == each[0].last - each[0].first
    for day in days:
        window = slice(day.first, day.first + day.slots)
        needed = sum(
            appliance.energy_kwh
            for home in scenario.everyone
            for appliance in home.appliances
            if day.first < appliance.first <= day.first + day.slots
        )
        assert needed / 1000 == pytest.approx(0.1 * 0.5 * scenario.leader.expected[window].sum())


def test_population_of_quarters_has_the_energy_of_one_of_hours() -> None:
    keys = {"homes": None, "population": POPULATION, "dras": [{"homes": 4, "quadratic": 0.1}]}
    shape = np.array([0.7 + 0.3 * (hour == 18) for hour in range(24)])
    calendar = {"start": "2026-06-01T00:00", "slot_minutes": 15}
    hours = market(shape.tolist(), [], **keys).everyone
    quarters = market(np.repeat(shape, 4).tolist(), [], **keys, calendar=calendar).everyone
    for a, b in zip(hours, quarters, strict=True):
        for one, other in zip(a.appliances, b.appliances, strict=True):
            assert other.energy_kwh == pytest.approx(one.energy_kwh, rel=1e-12)
            assert other.most_kw == pytest.approx(one.most_kw, rel=1e-12)
            assert (other.first, other.last) == (4 * one.first - 3, 4 * one.last)
        np.testing.assert_allclose(b.preferred_load(), np.repeat(a.preferred_load(), 4), rtol=1e-12)
    assert Day.of(Session(24)) == [Day(0, 24, 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hours": 1.2}, "it runs 1.2 hours, which are no slots of 30 min; make hours a multiple of that"),
        ({"hours": 4}, r"it runs 8 slots, its window 1..7 has 7; widen the window"),
        ({"preferred": 7}, r"preferred 7 is outside 1..5, from where its 3 slots end within its window"),
    ],
)
def test_run_is_refused_when_it_does_not_fit_into_slots(change: dict[str, Any], message: str) -> None:
    run = {"kind": "uninterruptible", "hours": 1.5, "kw": 300, "first": 1, "last": 7, "preferred": 2}
    calendar = {"start": "2026-06-01T00:00", "slot_minutes": 30, "horizon": "6h"}
    shape = np.repeat(SHAPE, 2).tolist()
    assert market(shape, [run], calendar=calendar).everyone[1].appliances[0].count_slots(0.5) == 3
    with pytest.raises(ScenarioError, match=message):
        market(shape, [run | change], calendar=calendar)
