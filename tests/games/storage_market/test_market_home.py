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
    window = price[appliance.first - 1 : appliance.last]
    ways = itertools.product(range(appliance.per_hour + 1), repeat=len(window))
    cheapest = min(np.dot(way, window) for way in ways if sum(way) == appliance.blocks) * appliance.block_kwh
    drawn = appliance.cheapest_schedule(np.array(price))
    assert np.dot(drawn, price) == pytest.approx(cheapest, abs=1e-9)
    blocks = drawn / appliance.block_kwh
    assert blocks.sum() == pytest.approx(appliance.blocks)
    np.testing.assert_allclose(blocks, np.round(blocks), atol=1e-9)
    assert blocks.max() <= appliance.per_hour + 1e-9
    assert np.flatnonzero(drawn).min() >= appliance.first - 1
    assert np.flatnonzero(drawn).max() <= appliance.last - 1


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
    appliances=[Interruptible(blocks=2, block_kwh=1, first=1, last=4, per_hour=2, preferred=1)],
)
GROUP = zlib.crc32(b"h/0") % 5


@pytest.mark.parametrize(
    ("turn", "inertia", "moves", "wants"),
    [(GROUP, 0.49, 2, 0), (GROUP, 0.5, 0, 0), (None, 0.49, 0, 2), ((GROUP + 1) % 5, 0.49, 0, 2), (None, 0.51, 0, 0)],
)
def test_home_moves_when_it_saves_enough_and_has_the_turn(
    turn: int | None, inertia: float, moves: float, wants: float
) -> None:
    schedule = HomeSchedule(HOME)
    price = np.array([20, 20, 10, 20.0])  # it pays 40 and could pay 20: half
    assert schedule.reschedule(price, Turn(groups=5, turn=turn, inertia=inertia)) == (moves, wants)
    assert schedule.load.tolist() == ([0, 0, 2, 0] if moves else [2, 0, 0, 0])
    assert schedule.reschedule(price, Turn(groups=5, turn=turn, inertia=inertia)) == (0, wants)


def test_home_goes_back_once_when_asked() -> None:
    schedule = HomeSchedule(HOME)
    turn, back = Turn(groups=5, turn=GROUP, inertia=0.1), Turn(groups=5, turn=GROUP, inertia=0.1, back=True)
    first, second = np.array([20, 20, 10, 20.0]), np.array([20, 20, 20, 5.0])
    schedule.reschedule(first, turn)
    schedule.reschedule(second, turn)
    assert schedule.load.tolist() == [0, 0, 0, 2]
    elsewhere = Turn(groups=5, turn=(GROUP + 1) % 5, inertia=0.1, back=True)
    assert schedule.reschedule(second, elsewhere) == (0, 0)
    assert schedule.reschedule(second, back) == (2, 0)
    assert schedule.load.tolist() == [0, 0, 2, 0]
    assert schedule.reschedule(second, back) == (0, 0)


def test_homes_of_one_process_answer_together_and_settle_one_by_one() -> None:
    other = HOME.model_copy(update={"id": "g", "battery": Battery(capacity_kwh=10, power_kw=4, initial_kwh=5)})
    homes = StorageMarketHomes([HOME, other])
    everybody = Tariff(price=[20, 20, 10, 20], turn=Turn(groups=1, turn=0, inertia=0.1))
    body = homes.answer(everybody)
    assert (body.homes, body.load_kw, body.usual_kw, body.moved_kwh) == (2, [0, 0, 4, 0], [4, 0, 0, 0], 4)
    assert body.batteries is not None
    assert (body.batteries.capacity, body.batteries.power, body.batteries.initial) == (10, 0.4, 0.5)
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
    strategy.answer(Tariff(price=[30.0] * 24, turn=Turn(turn=None, groups=1, inertia=0.0)))
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
