"""The schedule of a home with PV, cars, heat pumps, an inverter and a connection: closed forms, cvxpy, differences."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from support.random_devices import NEAR_KW, compare, draw_home

from stackelgrid import scenarios
from stackelgrid.calendar import Session
from stackelgrid.errors import ConfigError
from stackelgrid.games.user_oriented.home import Home, HomeProblem, InfeasibleHomeError, Schedule, UserOrientedHomes
from stackelgrid.games.user_oriented.home.internal_price import bound_meter
from stackelgrid.games.user_oriented.home.joint_schedule import JointProblem
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.games.user_oriented.reference.device_programme import DeviceProgramme
from stackelgrid.wire.arrays import PackedArray

Array = NDArray[np.float64]


def home(slots: int, **parts: Any) -> Home:
    return Home.model_validate({"id": "h1", "horizon": slots} | parts)


def answer(one: Home, price: list[float]) -> Schedule:
    return HomeProblem(one).answer(np.array(price))


def load(*kw: float) -> dict[str, Any]:
    return {"inelastic": [{"load_kw": list(kw)}]}


BATTERY = {"capacity_kwh": 10, "initial_kwh": 5, "charge_kw": 3, "discharge_kw": 3, "wear": {"fast": 0.5}}
CAR = {"capacity_kwh": 40, "initial_kwh": 10, "charge_kw": 5, "final_kwh": 0, "wear": {"fast": 0.5}}
ROOM = {
    "max_kw": 2,
    "cop": 3,
    "heat_kwh_per_k": 6,
    "loss_kw_per_k": 0.2,
    "outside_c": 0,
    "initial_c": 20,
    "comfort": {"min_c": 20, "max_c": 22},
    "fast": 0.1,
}


# --- closed forms ---


def test_pv_serves_the_home_and_the_rest_is_curtailed_without_feed_in() -> None:
    one = home(2, **load(1.0, 3.0), pv=[{"available_kw": [4.0, 2.0]}])
    schedule, summary = answer(one, [10.0, 10.0]), HomeProblem(one).summarize(answer(one, [10.0, 10.0]))
    np.testing.assert_allclose(schedule.load, [0.0, 1.0], atol=1e-9)
    assert summary["pv_kw"] == pytest.approx([1.0, 2.0])
    assert summary["curtailed_kw"] == pytest.approx([3.0, 0.0], abs=1e-9)
    assert summary["bill"] == pytest.approx(10.0)


def test_feed_in_is_paid_its_price_up_to_the_limit_of_the_connection() -> None:
    one = home(
        2, **load(1.0, 3.0), pv=[{"available_kw": [4.0, 2.0]}], connection={"feed_in_kw": 2.5}, feed_in_price=4.0
    )
    problem = HomeProblem(one)
    schedule = problem.answer(np.array([10.0, 10.0]))
    np.testing.assert_allclose(schedule.load, [-2.5, 1.0], atol=1e-9)
    summary = problem.summarize(schedule)
    assert summary["bill"] == pytest.approx(10.0 - 4.0 * 2.5)
    assert summary["feed_in_kw"] == pytest.approx([2.5, 0.0])
    assert summary["curtailed_kw"] == pytest.approx([0.5, 0.0], abs=1e-9)


def test_feed_in_is_paid_the_price_of_the_slot_where_that_is_lower() -> None:
    one = home(1, **load(1.0), pv=[{"available_kw": [4.0]}], connection={"feed_in_kw": 9}, feed_in_price=4.0)
    problem = HomeProblem(one)
    assert problem.summarize(problem.answer(np.array([3.0])))["bill"] == pytest.approx(-3.0 * 3)


def test_battery_that_loses_energy_moves_it_only_where_the_price_makes_up_for_that() -> None:
    lossy = BATTERY | {"charge_efficiency": 0.8, "discharge_efficiency": 0.5, "wear": {"fast": 1e-4}}
    one = home(2, **load(4.0, 4.0), storage=[lossy])
    np.testing.assert_allclose(answer(one, [1.0, 2.4]).load, [4.0, 4.0], atol=1e-9)
    gains = answer(one, [1.0, 2.6])
    np.testing.assert_allclose(gains.load, [7.0, 4.0 - 3 * 0.8 * 0.5], atol=1e-9)
    np.testing.assert_allclose(gains.level, [[7.4, 5.0]], atol=1e-9)


def test_car_charges_for_its_trip_at_home_and_comes_back_with_less() -> None:
    car = CAR | {"trips": [{"leave": 3, "back": 5, "uses_kwh": 12, "need_kwh": 16}], "charge_efficiency": 0.9}
    schedule = answer(home(6, ev=[car]), [2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert schedule.devices is not None
    level = schedule.devices.ev_level[0]
    assert level[1] == pytest.approx(16.0)
    np.testing.assert_allclose(level[2:4], 4.0, atol=1e-9)
    first, second = schedule.load[:2]
    assert 0.9 * (first + second) == pytest.approx(6.0)
    assert second - first == pytest.approx((2.0 - 1.0) / (2 * 0.5))  # wear makes up for the difference of the prices
    np.testing.assert_allclose(schedule.load[2:], 0.0, atol=1e-9)


def test_room_is_kept_at_the_least_temperature_by_what_it_loses() -> None:
    schedule = answer(home(4, heat_pump=[ROOM]), [1.0] * 4)
    np.testing.assert_allclose(schedule.load, 0.2 * 20 / 3, rtol=1e-9)
    assert schedule.devices is not None
    np.testing.assert_allclose(schedule.devices.temperature, [[20.0] * 4], atol=1e-9)


def test_room_follows_the_differential_equation_whatever_the_length_of_the_slots() -> None:
    cold = ROOM | {"max_kw": 1e-6, "comfort": {"min_c": 20, "max_c": 22, "price": 1e-6}}
    for slots, hours in ((4, 1.0), (16, 0.25)):
        schedule = answer(home(slots, heat_pump=[cold], slot_hours=hours), [1.0] * slots)
        assert schedule.devices is not None
        assert schedule.devices.temperature[0, -1] == pytest.approx(20 * np.exp(-4 * 0.2 / 6), abs=1e-5)


def test_comfort_is_left_where_its_price_is_lower_than_that_of_heat() -> None:
    dear = ROOM | {
        "max_kw": 3,
        "comfort": {"min_c": 20, "max_c": 22, "price": 2.0},
        "loss_kw_per_k": 0,
        "initial_c": 18,
    }
    schedule = answer(home(1, heat_pump=[dear]), [1.0])
    # 2 fast q + p = 2 price (20 - 18 - q cop / C) cop / C
    assert schedule.load[0] == pytest.approx((2 * 2 * 2 * 0.5 - 1.0) / (2 * 0.1 + 2 * 2 * 0.5**2))


def test_inverter_limits_pv_and_battery_together() -> None:
    one = home(
        2,
        **load(6.0, 6.0),
        pv=[{"available_kw": [3.0, 0.0]}],
        storage=[BATTERY | {"final_kwh": 0, "wear": {"fast": 1e-3}}],
        inverter={"max_kw": 2.5},
    )
    schedule = answer(one, [10.0, 10.0])
    np.testing.assert_allclose(schedule.load, [3.5, 3.5], atol=1e-9)


@pytest.mark.parametrize(
    ("parts", "loads", "levels"),
    [
        ({**load(2.5, 2.5), "pv": [{"available_kw": [4.0, 2.0]}], "inverter": {"max_kw": 2.5}}, [0.0, 0.5], []),
        (
            {
                **load(1.0, 1.0),
                "storage": [BATTERY | {"final_kwh": 8}],
                "inverter": {"max_kw": 2.0},
                "connection": {"draw_kw": 3.0},
            },
            [3.0, 2.0],
            [[7.0, 8.0]],
        ),
    ],
    ids=["pv", "battery"],
)
def test_meter_and_inverter_are_at_their_limits_in_one_slot(
    parts: dict[str, Any], loads: list[float], levels: list[list[float]]
) -> None:
    schedule = answer(home(2, **parts), [10.0, 12.0])
    np.testing.assert_allclose(schedule.load, loads, atol=1e-9)
    np.testing.assert_allclose(schedule.level, np.reshape(levels, (-1, 2)), atol=1e-9)
    np.testing.assert_allclose(schedule.sensitivity, np.zeros((2, 2)), atol=1e-9)


def test_draw_keeps_a_limit_that_differs_by_slot() -> None:
    one = home(3, ev=[CAR | {"final_kwh": 16}], connection={"draw_kw": [1.0, 5.0, 2.0]})
    np.testing.assert_allclose(answer(one, [1.0, 1.0, 1.0]).load, [1.0, 3.0, 2.0], atol=1e-9)


def test_home_without_new_devices_is_scheduled_as_one_whose_connection_says_the_same() -> None:
    random = np.random.default_rng(5)
    for _ in range(10):
        price = random.uniform(0.5, 3, 24)
        usual = {
            **load(*random.uniform(0.2, 1, 24)),
            "elastic": [{"max_kw": 1.5, "valuation": 2, "satisfaction": {"form": "log", "alpha": 2}}],
            "storage": [BATTERY | {"wear": {"fast": 0.01, "deep": 0.05, "depth": 0.4}}],
        }
        old = answer(home(24, **usual, draw_limit={"max_kw": 2.6}), price.tolist())
        new = answer(home(24, **usual, connection={"draw_kw": 2.6}), price.tolist())
        np.testing.assert_allclose(new.load, old.load, rtol=0, atol=1e-8)
        np.testing.assert_allclose(new.level, old.level, rtol=0, atol=1e-8)
        np.testing.assert_allclose(new.sensitivity, old.sensitivity, rtol=0, atol=1e-6)


# --- random homes ---


def draw_solvable(seed: int, slots: int, **options: Any) -> tuple[Home, HomeProblem, Array]:
    """A home that devices are scheduled in together, and a price."""
    random = np.random.default_rng([13, seed])
    one = draw_home(random, slots, **options)
    wave = 25 + 12 * np.sin(np.arange(slots) / slots * 4 * np.pi + random.uniform(0, 6))
    price = wave if seed % 2 else random.uniform(10, 40, slots)
    assert one.flows_together
    return one, HomeProblem(one), price


def test_load_is_that_of_a_general_solver() -> None:
    for seed in range(30):
        one, problem, price = draw_solvable(seed, 24)
        schedule = problem.answer(price)
        apart, best = compare(one, price, schedule.load)
        ours = problem.summarize(schedule)["utility"]
        assert ours == pytest.approx(best, rel=1e-8, abs=1e-8), seed
        assert apart <= NEAR_KW, seed


def test_optimum_meets_the_conditions_of_karush_kuhn_and_tucker() -> None:
    for seed in range(44):
        one, _, price = draw_solvable(100 + seed, 24 if seed < 40 else 96)
        problem = JointProblem(one)
        problem.answer(price)
        optimum, program = problem.last, problem.program
        assert optimum is not None
        lower, upper = bound_meter(program, optimum.tariff)
        linear = np.zeros_like(lower)
        linear[:, program.bought], linear[:, program.fed_in] = price, -optimum.tariff.feed_in
        z, plain = optimum.z.copy(), ~optimum.tariff.kinked
        z[plain, program.bought], z[plain, program.fed_in] = optimum.load[plain], 0.0
        assert np.max(np.abs(program.multiply(z) - program.right)) <= 1e-9, seed
        assert max(np.max(lower - z), np.max(z - upper)) <= 1e-9, seed
        pull = (program.slope(z) + linear - program.multiply_back(optimum.y)) / np.max(price)
        at_lower, at_upper = z <= lower + 1e-8, z >= upper - 1e-8
        unexplained = np.where(at_lower, np.maximum(-pull, 0), np.where(at_upper, np.maximum(pull, 0), np.abs(pull)))
        assert np.max(unexplained[upper - lower > 1e-12], initial=0) <= 1e-9, seed


def test_answer_does_not_depend_on_the_prices_asked_before() -> None:
    for seed in range(12):
        one, problem, price = draw_solvable(seed, 24)
        for factor in (1.0, 1.02, 0.7):
            again = problem.answer(price * factor)
            np.testing.assert_allclose(again.load, HomeProblem(one).answer(price * factor).load, rtol=0, atol=1e-8)


def test_sensitivity_is_the_derivative_of_what_is_bought() -> None:
    step, compared = 1e-5, 0
    random = np.random.default_rng(3)
    # In the last two, discharging is all that a slot with a limit of its own leaves.
    for seed in (*range(40), 280, 336):
        one, problem, price = draw_solvable(seed, 24)
        direction = random.normal(size=24)
        ahead, behind = problem.answer(price + step * direction), problem.answer(price - step * direction)
        sensitivity = problem.answer(price).sensitivity
        size = float(np.max(np.abs(sensitivity)))
        np.testing.assert_allclose(sensitivity, sensitivity.T, rtol=0, atol=1e-12 * size)
        assert np.linalg.eigvalsh(sensitivity).max() <= 1e-9 * size
        if np.max(np.abs(ahead.sensitivity - behind.sensitivity)) > 1e-3 * size:
            continue  # a kink lies between
        # What is fed in is paid the price too where no lower one is given; else the price is of what is bought.
        least = np.where(price > (np.inf if one.feed_in_price is None else one.feed_in_price), 0.0, -np.inf)
        bought = np.maximum(ahead.load, least) - np.maximum(behind.load, least)
        rounding = 1e-11 / step
        np.testing.assert_allclose(bought / (2 * step), sensitivity @ direction, rtol=0, atol=1e-5 * size + rounding)
        compared += 1
    assert compared >= 38


def test_answer_of_a_day_in_quarters_is_small() -> None:
    one, price = draw_home(np.random.default_rng(3), 96), np.linspace(10, 40, 96) + 1 / 3
    homes = UserOrientedHomes([one])
    bending, alone = (homes.answer(Price(price=price.tolist(), sensitivities=number)) for number in (1, 0))
    assert bending.coupling is not None
    assert len(bending.model_dump_json(exclude_none=True)) <= 20_000
    assert len(alone.model_dump_json(exclude_none=True)) <= 2_500
    exact = HomeProblem(one).answer(price)
    assert exact.coupling is not None
    np.testing.assert_array_equal(bending.coupling.array(), exact.coupling)


def test_answer_to_several_prices_has_a_coupling_for_each_or_none() -> None:
    for seed in range(12):
        homes = UserOrientedHomes([draw_home(np.random.default_rng([14, seed]), 24)])
        others = PackedArray.of(np.vstack([np.full(24, 1.0), np.linspace(1, 90, 24), np.full(24, 90.0)]))
        homes.answer(Price(price=[30.0] * 24, others=others, sensitivities=4))  # its model refuses another number


# --- session by session ---

DATED = {
    **load(*np.linspace(0.5, 2, 24)),
    "storage": [BATTERY, BATTERY | {"charge_efficiency": 0.9}],
    "ev": [CAR | {"trips": [{"leave": 5, "back": 9, "uses_kwh": 6}, {"leave": 17, "back": 20, "uses_kwh": 5}]}],
    "heat_pump": [ROOM],
    "connection": {"draw_kw": [20.0] * 12 + [15.0] * 12},
}


def test_session_begins_with_the_state_that_the_one_before_has_left() -> None:
    whole, price = home(24, **DATED), np.linspace(1, 2, 24)
    first, second = (Session(slots=12, number=n + 1, first=6 * n, binding=6) for n in range(2))
    one = whole.in_session(first)
    account = HomeProblem(one).summarize(HomeProblem(one).answer(price[:12]))
    state = json.loads(json.dumps(one.advance(first, account)))
    other = whole.in_session(second, state)
    assert [store.initial_kwh for store in other.storage] == [level[5] for level in account["stores_kwh"]]
    assert other.ev[0].initial_kwh == account["ev_kwh"][0][5]
    assert other.heat_pump[0].initial_c == account["temperature_c"][0][5]
    # The car is away: its trip has taken its energy, it is back in slot 9 of the run, and leaves again in slot 17.
    assert [(trip.leave, trip.back, trip.uses_kwh) for trip in other.ev[0].trips] == [(1, 3, 0), (11, 14, 5)]
    assert other.connection is not None
    assert other.connection.draw_kw == [20.0] * 6 + [15.0] * 6
    np.testing.assert_array_equal(other.inelastic[0].load_kw, DATED["inelastic"][0]["load_kw"][6:18])
    HomeProblem(other).answer(price[6:18])


def test_car_that_leaves_as_the_session_ends_is_ready_and_certified_so() -> None:
    whole = home(24, ev=[CAR | {"trips": [{"leave": 13, "back": 20, "uses_kwh": 20}]}])
    one, price = whole.in_session(Session(slots=12)), np.linspace(2, 1, 12)
    schedule, (load, utility) = answer(one, price.tolist()), DeviceProgramme(one).solve(price)
    assert schedule.devices is not None
    assert schedule.devices.ev_level[0][-1] == pytest.approx(20)
    np.testing.assert_allclose(schedule.load, load, rtol=0, atol=1e-6)
    assert HomeProblem(one).summarize(schedule)["utility"] == pytest.approx(utility, rel=1e-8)


def test_session_is_refused_with_what_is_missing_when_the_car_that_came_back_is_too_empty() -> None:
    whole = home(24, ev=[CAR | {"initial_kwh": 30, "trips": [{"leave": 15, "back": 20, "uses_kwh": 30}]}])
    state = {"storage_kwh": [], "ev_kwh": [9.0], "temperature_c": []}
    with pytest.raises(ValueError, match=r"ev\.0\.trips\.0: 30 kWh are needed .* slot 3; 19 kWh can .* 11 kWh too"):
        whole.in_session(Session(slots=12, number=2, first=12), state)
    assert whole.in_session(Session(slots=12, number=2, first=12), state | {"ev_kwh": [20.0]}).ev[0].initial_kwh == 20


def test_planning_again_at_every_slot_gives_the_plan_of_the_whole_horizon() -> None:
    """What was best for the whole day is best for the rest of it, where no session ends before the day does."""
    car = CAR | {"trips": [{"leave": 5, "back": 9, "uses_kwh": 12}]}
    one = home(12, **DATED | load(*np.ones(12)) | {"ev": [car], "connection": {"draw_kw": 20.0}})
    price, state = np.linspace(2, 1, 12), None
    plan = HomeProblem(one).answer(price)
    for slot in range(12):
        session = Session(slots=12 - slot, number=slot + 1, first=slot, binding=1)
        rest = one.in_session(session, state)
        problem = HomeProblem(rest)
        schedule = problem.answer(price[slot:])
        assert schedule.load[0] == pytest.approx(plan.load[slot], abs=1e-8)
        state = rest.advance(session, problem.summarize(schedule))


# --- bad input ---


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"ev": [CAR | {"trips": [{"leave": 2, "back": 5, "uses_kwh": 1}, {"leave": 4, "back": 6, "uses_kwh": 1}]}]},
            r"trips\.1 leaves in slot 4, but the car is back from trips\.0 in slot 5; let it leave later",
        ),
        (
            {"ev": [CAR | {"trips": [{"leave": 3, "back": 4, "uses_kwh": 8, "need_kwh": 25}]}]},
            r"ev\.0\.trips\.0: 25 kWh are needed when it leaves in slot 3; 20 kWh can be reached, 5 kWh too little",
        ),
        (
            {"ev": [CAR | {"trips": [{"leave": 1, "back": 3, "uses_kwh": 12}]}]},
            r"ev\.0\.trips\.0: it uses 12 kWh; -2 kWh can be reached, 2 kWh too little",
        ),
        ({"ev": [CAR | {"final_kwh": 40, "charge_kw": 1}]}, r"final_kwh: 40 kWh; 16 kWh can be reached, 24 kWh too"),
        ({"ev": [CAR | {"trips": [{"leave": 3, "back": 3, "uses_kwh": 1}]}]}, "back 3 is not after leave 3"),
        (
            {"heat_pump": [ROOM | {"initial_c": 10}]},
            r"heat_pump\.0\.comfort\.min_c: in slot 1 it is at most 10\.\d+ C there, 9\.\d+ K out of the band; widen",
        ),
        ({"heat_pump": [ROOM | {"comfort": {"min_c": 22, "max_c": 20}}]}, "min_c is above max_c in slot 1; swap them"),
        ({"pv": [{"available_kw": [1.0]}]}, r"pv\.0\.available_kw has 1 numbers, the horizon has 6"),
        (
            {"connection": {"draw_kw": 3}, "draw_limit": {"max_kw": 4}},
            "draw_limit and connection say both what the meter may draw",
        ),
    ],
)
def test_home_is_refused_with_key_and_what_is_missing(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        home(6, **parts)


@pytest.mark.parametrize(
    ("changes", "part", "message"),
    [
        (
            {},
            {"pv": [{"available_kw": 4.0}], "feed_in_price": 21.0},
            r"homes\.0\.feed_in_price: 21 is above .* 20: whoever",
        ),
        (
            {"calendar": {"start": "2026-03-02T00:00", "days": 1, "every": "6h"}},
            {"storage": [BATTERY | {"available": {"first": 18, "last": 7}}]},
            r"homes\.0\.storage: available counts the slots of a session, .* describe the car as an ev with trips",
        ),
    ],
)
def test_scenario_is_refused_with_key_and_mend(changes: dict[str, Any], part: dict[str, Any], message: str) -> None:
    leader = {"baseline_price": 20, "wholesale_price": 5, "mu": 0.1, "price_max": 40}
    one = {"id": "h1", "inelastic": [{"rate_kw": 1.0, "hours": [1, 2]}], **part}
    with pytest.raises(ConfigError, match=message):
        scenarios.load({"schema": 1, "game": "user_oriented", "leader": leader, "homes": [one], **changes})


def test_home_is_refused_when_its_car_and_its_load_exceed_the_connection() -> None:
    one = home(2, **load(1.0, 1.0), ev=[CAR | {"final_kwh": 18}], connection={"draw_kw": 4})
    with pytest.raises(InfeasibleHomeError, match=r"home h1: its needs and its limits cannot be met together"):
        HomeProblem(one)
