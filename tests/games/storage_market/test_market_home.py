"""A home's appliances against enumeration and an integer program, its turns, its battery and devices."""

import itertools
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_cases import BATTERIES, quick

from stackelgrid.games.storage_market.home import Appliance, Interruptible, Uninterruptible
from stackelgrid.games.storage_market.home.market_home import (
    Battery,
    HomeSchedule,
    MarketHome,
    StorageMarketHomes,
    follow,
)
from stackelgrid.games.storage_market.messages import FleetPlan, Tariff, Turn
from stackelgrid.games.storage_market.reference import cheapest_cost

PRICES = st.lists(st.floats(-20, 100), min_size=6, max_size=6)


@st.composite
def interruptibles(draw: Any, slots: int = 6, most: int = 6) -> Interruptible:
    first = draw(st.integers(1, slots))
    last = draw(st.integers(first, slots))
    per_hour = draw(st.integers(1, 3))
    blocks = draw(st.integers(1, min(most, per_hour * (last - first + 1))))
    hours = -(-blocks // per_hour)
    preferred = draw(st.integers(first, last - hours + 1))
    return Interruptible(
        blocks=blocks,
        block_kwh=draw(st.floats(0.1, 5)),
        first=first,
        last=last,
        per_hour=per_hour,
        preferred=preferred,
    )


@quick
@given(interruptibles(), PRICES)
def test_cheapest_schedule_is_the_best_of_all_schedules(appliance: Interruptible, price: list[float]) -> None:
    """The least of a linear program is at a vertex: full rate, none, or the rest in one hour."""
    window = price[appliance.first - 1 : appliance.last]
    ways = itertools.product(range(appliance.per_hour + 1), repeat=len(window))
    cheapest = min(np.dot(way, window) for way in ways if sum(way) == appliance.blocks) * appliance.block_kwh
    drawn = appliance.cheapest_schedule(np.array(price))
    assert np.dot(drawn, price) == pytest.approx(cheapest, abs=1e-9)
    assert_runs(appliance, drawn)


def assert_runs(appliance: Interruptible, drawn: np.ndarray) -> None:
    """The schedule needs the appliance's energy, within its rate and its window."""
    assert drawn.sum() == pytest.approx(appliance.energy_kwh, rel=1e-12)
    assert drawn.min() >= 0
    assert drawn.max() <= appliance.most_kw * (1 + 1e-12)
    outside = drawn.copy()
    outside[appliance.first - 1 : appliance.last] = 0
    assert not outside.any()


@quick
@given(interruptibles(), PRICES, st.integers(0, 100), st.floats(1e-3, 1e3))
def test_proximal_schedule_satisfies_the_conditions_of_its_optimum(
    appliance: Interruptible, price: list[float], seed: int, weight: float
) -> None:
    """Marginal costs are equal where it is within its limits, higher where it is off, lower at full rate."""
    here = np.random.default_rng(seed).uniform(0, 40, 6)
    present = appliance.proximal_schedule(here, appliance.preferred_schedule(6), 5.0)
    drawn = appliance.proximal_schedule(np.array(price), present, weight)
    assert_runs(appliance, drawn)
    window = slice(appliance.first - 1, appliance.last)
    marginal = (np.array(price) + weight * (drawn - present) / appliance.most_kw)[window]
    rate = drawn[window] / appliance.most_kw
    lowest_off = marginal[rate < 1 - 1e-9].min(initial=np.inf)
    highest_on = marginal[rate > 1e-9].max(initial=-np.inf)
    assert highest_on <= lowest_off + 1e-7 * (100 + weight)


def test_proximal_schedule_is_the_cheapest_where_leaving_costs_nothing() -> None:
    appliance = Interruptible(blocks=37, block_kwh=1.5, first=2, last=23, per_hour=4, preferred=5)
    price = np.random.default_rng(13).uniform(10, 60, 24)
    drawn = appliance.proximal_schedule(price, appliance.preferred_schedule(24), 1e-6)
    np.testing.assert_allclose(drawn, appliance.cheapest_schedule(price), atol=1e-9)


@pytest.mark.parametrize("number", range(10))
def test_cheapest_schedule_costs_as_much_as_an_integer_program_finds(number: int) -> None:
    random = np.random.default_rng([13, number])
    price = random.uniform(10, 60, 24)
    appliances: list[Appliance] = [
        Interruptible(blocks=37, block_kwh=1.5, first=2, last=23, per_hour=4, preferred=5),
        Uninterruptible(kind="uninterruptible", hours=5, kw=2.5, first=3, last=22, preferred=7),
    ]
    for appliance in appliances:
        paid = float(price @ appliance.cheapest_schedule(price))
        assert paid == pytest.approx(cheapest_cost(appliance, price), rel=1e-9)
        assert paid < price @ appliance.preferred_schedule(24)
        assert appliance.preferred_schedule(24).sum() == pytest.approx(appliance.energy_kwh)


def test_uninterruptible_appliance_starts_in_the_cheapest_hour() -> None:
    appliance = Uninterruptible(kind="uninterruptible", hours=2, kw=3, first=2, last=5, preferred=2)
    assert appliance.cheapest_schedule(np.array([0, 9, 5, 4, 6, 0.0])).tolist() == [0, 0, 3, 3, 0, 0]


HOME = MarketHome(
    id="h",
    horizon=4,
    appliances=[Uninterruptible(kind="uninterruptible", hours=1, kw=2, first=1, last=4, preferred=1)],
)
GROUP = zlib.crc32(b"h/0") % 5


def turn(**changes: Any) -> Turn:
    return Turn.model_validate({"weight": 10.0, "groups": 5, "turn": GROUP, "inertia": 0.1} | changes)


@pytest.mark.parametrize(
    ("has_turn", "inertia", "offers", "wants"),
    [(GROUP, 0.49, True, 0), (GROUP, 0.5, False, 0), (None, 0.49, False, 2), ((GROUP + 1) % 5, 0.49, False, 2)],
)
def test_home_offers_another_start_when_it_saves_enough_and_has_the_turn(
    has_turn: int | None, inertia: float, offers: bool, wants: float
) -> None:
    schedule = HomeSchedule(HOME)
    price = np.array([20, 20, 10, 20.0])  # it pays 40 and could pay 20: half
    assert schedule.make_offer(price, turn(turn=has_turn, inertia=inertia)) == wants
    assert schedule.load.tolist() == [2, 0, 0, 0]
    assert schedule.load_with(Uninterruptible).tolist() == ([0, 0, 2, 0] if offers else [2, 0, 0, 0])


def test_home_takes_an_offered_start_where_the_leader_says_so_and_once() -> None:
    schedule = HomeSchedule(HOME)
    price = np.array([20, 20, 10, 20.0])
    schedule.make_offer(price, turn())
    schedule.move(turn(step=1.0))
    assert schedule.load.tolist() == [2, 0, 0, 0]
    schedule.move(turn(starts=True))
    assert schedule.load.tolist() == [2, 0, 0, 0], "what was not taken has lapsed"
    schedule.make_offer(price, turn())
    schedule.move(turn(starts=True))
    assert schedule.load.tolist() == [0, 0, 2, 0]


def test_home_goes_part_of_the_way_to_what_its_interruptible_appliances_offered() -> None:
    vehicle = Interruptible(blocks=2, block_kwh=1, first=1, last=4, per_hour=2, preferred=1)
    schedule = HomeSchedule(MarketHome(id="v", horizon=4, appliances=[vehicle]))
    price = np.array([20, 30, 10, 30.0])
    assert schedule.regret(price) == pytest.approx(0.5)
    schedule.make_offer(price, turn(weight=20.0))
    # To move x kWh saves 10 x and costs twice 20 / (2 * 2) x^2: x = 0.5.
    assert schedule.load_with(Interruptible).tolist() == pytest.approx([1.5, 0, 0.5, 0])
    schedule.move(turn(step=0.5, starts=True))
    assert schedule.load.tolist() == pytest.approx([1.75, 0, 0.25, 0])
    assert schedule.regret(price) == pytest.approx(17.5 / 37.5)


def test_homes_of_one_process_answer_together_and_settle_one_by_one() -> None:
    other = HOME.model_copy(update={"id": "g", "battery": Battery(capacity_kwh=10, power_kw=4, initial_kwh=5)})
    homes = StorageMarketHomes([HOME, other])
    everybody = Tariff(price=[20, 20, 10, 20], turn=turn(groups=1, turn=0))
    body = homes.answer(everybody)
    assert (body.homes, body.load_kw, body.usual_kw, body.offer_kw, body.starts_kw) == (
        2, [4, 0, 0, 0], [4, 0, 0, 0], [4, 0, 0, 0], [0, 0, 4, 0]
    )  # fmt: skip
    assert body.batteries is not None
    assert (body.batteries.capacity, body.batteries.power, body.batteries.initial) == (10, 0.4, 0.5)
    homes.answer(Tariff(price=everybody.price, turn=turn(starts=True)))
    accounts = homes.settle(FleetPlan(price=everybody.price, charge=[0.1, 0, 0, 0], sold=[0, 0.05, 0, 0]))
    assert accounts["h"] == {"load_kw": [0, 0, 2, 0], "appliances_kwh": [[0, 0, 2, 0]], "bill": pytest.approx(0.02)}
    assert accounts["g"]["battery_kwh"] == pytest.approx([5.95, *[5.95 - 0.5 / 0.95] * 3])


def test_day_plan_draws_what_the_battery_charges() -> None:
    eta = 0.9
    battery = {"capacity_kwh": 10, "initial_kwh": 4, "power_kw": 3, "efficiency": eta}
    home = MarketHome.model_validate({"id": "m", "battery": battery})
    charge = [0.2 if hour in (2, 3) else 0.0 for hour in range(24)]
    sold = [0.25 if hour in (18, 19) else 0.0 for hour in range(24)]
    settlement = FleetPlan(price=[30.0] * 24, charge=charge, sold=sold)
    strategy = StorageMarketHomes([home])
    strategy.answer(Tariff(price=[30.0] * 24, turn=turn(turn=None)))
    plan = home.day_plan(strategy.settle(settlement)["m"])
    assert plan.setpoint_kw is not None
    assert plan.level_kwh is not None
    np.testing.assert_allclose(plan.load_kw, plan.setpoint_kw)  # it has no appliances
    power = np.array(plan.setpoint_kw)
    stored = eta * power.clip(min=0) - (-power).clip(min=0) / eta
    np.testing.assert_allclose(plan.level_kwh, 4 + np.cumsum(stored), atol=1e-9)
    assert min(plan.setpoint_kw) < 0 < max(plan.setpoint_kw)


def test_home_with_stored_energy_starts_from_that_level() -> None:
    home = MarketHome.model_validate({"id": "m", "battery": {"capacity_kwh": 8, "initial_kwh": 4, "power_kw": 3}})
    charged = home.with_stored_energy(6.0)
    assert charged.battery is not None and charged.battery.initial_kwh == 6.0
    with pytest.raises(ValueError, match="above capacity_kwh"):
        home.with_stored_energy(8.1)


@quick
@given(
    BATTERIES,
    st.lists(st.floats(0, 1e12), min_size=4, max_size=4),
    st.lists(st.floats(0, 1e12), min_size=4, max_size=4),
)
def test_battery_keeps_its_limits_for_any_plan(battery: Battery, charge: list[float], sold: list[float]) -> None:
    day = follow(battery, np.array(charge), np.array(sold))
    assert (day.charge + day.sold <= battery.power_kw * (1 + 1e-12)).all()
    assert min(day.charge.min(), day.sold.min(), day.level.min()) >= 0
    assert day.level.max() <= battery.capacity_kwh
    due = battery.efficiency * day.charge - day.sold / battery.efficiency - day.spilt
    np.testing.assert_allclose(np.diff(day.level, prepend=battery.initial_kwh), due, atol=1e-9)
