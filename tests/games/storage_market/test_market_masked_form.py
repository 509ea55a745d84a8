"""The numbers of homes' answers add up to what a DRA makes of each, and of batteries to what the weakest can do."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_cases import BATTERIES, quick

from stackelgrid.calendar import Session
from stackelgrid.games.storage_market.aggregator import StorageMarketDra
from stackelgrid.games.storage_market.home.market_home import Battery, MarketHome, StorageMarketHomes, follow
from stackelgrid.games.storage_market.masked_form import FORM
from stackelgrid.games.storage_market.messages import (
    Batteries,
    Clearing,
    DraAnswer,
    FleetPlan,
    HomesAnswer,
    MarketSignal,
    PriceCurve,
    Tariff,
    Turn,
)
from stackelgrid.games.storage_market.samples import SLOTS, small_scenario
from stackelgrid.rounds.strategy import Ask
from stackelgrid.wire.arrays import Array, PackedArray

SHAPE = (SLOTS,)
FIRST = Turn(weight=10.0, groups=2, turn=0, inertia=0.001)
NEXT = Turn(weight=10.0, groups=2, turn=1, inertia=0.001, step=0.4, starts=True)


def mask(numbers: Array) -> Array:
    """The words of numbers, with no mask on them."""
    return np.rint(numbers * 2**32).astype(np.int64).view(np.uint64)


def add_up(answers: list[HomesAnswer], homes: int, shape: tuple[int, ...] = SHAPE) -> HomesAnswer:
    """The body of a group, by way of fixed point."""
    total = np.sum([mask(FORM.flatten(answer, shape)) for answer in answers], axis=0, dtype=np.uint64)
    return FORM.read(total.view(np.int64) / 2**32, shape, homes)


def draw_homes(random: np.random.Generator, count: int = 5) -> list[MarketHome]:
    """Homes of a random scenario with batteries of their own; the first has none."""
    homes = [MarketHome.model_validate(home) for home in small_scenario(random, count)["homes"]]
    for home in homes:
        assert home.battery is not None
    battery = [home.battery.model_copy(update={"power_kw": random.uniform(100, 900)}) for home in homes if home.battery]
    return [home.model_copy(update={"battery": each}) for home, each in zip(homes, [None, *battery[1:]], strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_dra_answers_the_same_for_a_group_as_for_its_homes(seed: int) -> None:
    random = np.random.default_rng([23, seed])
    homes = draw_homes(random)
    parts = {f"p{n}": StorageMarketHomes(part) for n, part in enumerate([homes[:2], *zip(homes[2:])])}
    plain = StorageMarketDra(0.1, 0.5, Session(SLOTS), {name: 2 if name == "p0" else 1 for name in parts})
    grouped = StorageMarketDra(0.1, 0.5, Session(SLOTS), {"group 1": 5}, of_groups=True)
    for turn in (FIRST, NEXT, NEXT):
        price = random.uniform(30, 50, SLOTS).tolist()
        signal = MarketSignal(price=price, sales_cap=[1.0] * SLOTS, turn=turn)
        asked = plain.open(signal)
        grouped.open(signal)
        assert isinstance(asked, Ask)
        answers = {name: part.answer(asked.body) for name, part in parts.items()}
        group = add_up([*answers.values()], 5)
        assert group.find_objection(asked.body, None) is None
        assert group.peak_kw <= sum(home.connection_kw for home in homes)
        bodies = (
            plain.on_answers(asked.body, answers, (), ()),
            grouped.on_answers(asked.body, {"group 1": group}, (), ()),
        )
        seen, summed = (reply.body for reply in bodies)
        for key in ("load", "usual", "offer", "starts", "wanted"):
            np.testing.assert_allclose(getattr(summed, key), getattr(seen, key), rtol=1e-9, atol=1e-9, err_msg=key)
        assert seen.regret <= summed.regret + 1e-9 and summed.regret <= len(parts) * seen.regret + 1e-9
        assert (summed.starts == summed.load) == (seen.starts == seen.load), "nobody starts elsewhere by rounding"
        assert 0.97 * seen.rated_power <= summed.rated_power <= seen.rated_power
        assert (seen.homes, seen.held) == (summed.homes, summed.held) == (5, 0)


def answer_of(battery: Battery | None, name: str = "b") -> HomesAnswer:
    home = MarketHome(id=name, horizon=6, battery=battery)
    return StorageMarketHomes([home]).answer(Tariff(price=[1.0] * 6, turn=FIRST))


FINAL = st.builds(
    lambda battery, part: battery.model_copy(update={"final_kwh": part * battery.capacity_kwh}),
    BATTERIES,
    st.floats(0, 1),
)


@quick
@given(st.lists(BATTERIES | FINAL, min_size=1, max_size=6), st.integers(0, 1000))
def test_every_battery_of_a_group_follows_its_plan(batteries: list[Battery], seed: int) -> None:
    group = add_up([answer_of(battery) for battery in [None, *batteries]], len(batteries) + 1, shape=(6,))
    dra = StorageMarketDra(0.001, 0.0, Session(6), {"group 1": len(batteries) + 1}, of_groups=True)
    price = np.random.default_rng([14, seed]).uniform(0, 100, 6).tolist()
    curve = PriceCurve(slope=PackedArray.of(0.01 * np.eye(6)))
    asked = dra.open(MarketSignal(price=price, curve=curve, sales_cap=[1.0] * 6, turn=FIRST))
    assert isinstance(asked, Ask)
    bid = dra.on_answers(asked.body, {"group 1": group}, (), ()).body
    plan = dra.settle(Clearing(price=price)).body
    assert isinstance(bid, DraAnswer) and isinstance(plan, FleetPlan)
    days = [follow(battery, np.array(plan.charge), np.array(plan.sold)) for battery in batteries]
    np.testing.assert_allclose(sum(day.charge for day in days) / 1000, bid.charge, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sum(day.sold for day in days) / 1000, bid.sold, rtol=1e-6, atol=1e-9)
    power = min(battery.power_kw / battery.capacity_kwh for battery in batteries)
    reached = all(6 * b.efficiency * power * b.capacity_kwh >= b.least_kwh - b.initial_kwh for b in batteries)
    headroom = min(1 - battery.initial_kwh / battery.capacity_kwh for battery in batteries)
    for battery, day in zip(batteries, days, strict=True):
        assert (day.level <= battery.capacity_kwh).all()
        risen = (day.level[-1] - battery.initial_kwh) / battery.capacity_kwh
        wanted = (battery.least_kwh - battery.initial_kwh) / battery.capacity_kwh
        if wanted <= 0:
            assert risen >= wanted - 1e-6
        elif wanted <= headroom and reached and power >= 0.25:  # what the weakest can do, but for the rounding of it
            assert risen >= min(wanted, headroom - 0.01, 0.9 * 6 * min(b.efficiency for b in batteries) * power) - 1e-6


@quick
@given(st.lists(BATTERIES | FINAL, min_size=1, max_size=6))
def test_rounding_to_levels_costs_no_more_than_a_step(batteries: list[Battery]) -> None:
    answers = [answer_of(battery) for battery in batteries]
    found = add_up(answers, len(answers), shape=(6,)).batteries
    disclosed = [answer.batteries for answer in answers if answer.batteries is not None]
    assert found is not None
    assert found.capacity == pytest.approx(sum(each.capacity for each in disclosed), abs=1e-8)
    power, efficiency = (min(getattr(each, key) for each in disclosed) for key in ("power", "efficiency"))
    part = 0.97 if 1 / 32 <= power <= 4 else 0.49 if power >= 1 / 4096 else 0.0
    assert part * power <= found.power <= power + 1e-9
    assert efficiency - 0.005 - 1e-9 <= found.efficiency <= efficiency + 1e-9
    for key in ("initial", "headroom"):
        weakest = min(getattr(each, key) for each in disclosed)
        assert weakest - 0.01 - 1e-9 <= getattr(found, key) <= weakest + 1e-9
    rise = max(each.rise or 0.0 for each in disclosed)
    assert rise - 1e-9 <= (found.rise or 0.0) <= rise + 0.01 + 1e-9


def test_batteries_at_levels_lose_nothing() -> None:
    battery = Battery(capacity_kwh=1000.0, power_kw=500.0, initial_kwh=100.0, efficiency=0.95)
    alone, group = answer_of(battery), add_up([answer_of(battery)] * 40, 40, shape=(6,))
    assert alone.batteries is not None
    assert group.batteries == alone.batteries.model_copy(update={"capacity": 40_000.0})


def test_thousand_processes_with_batteries_are_counted() -> None:
    battery = Battery(capacity_kwh=7.0, power_kw=3.0, initial_kwh=3.5)
    numbers = FORM.flatten(answer_of(battery), (6,))
    found = FORM.read(1023 * numbers, (6,), 1023).batteries
    assert found is not None and found.initial == 0.5
    over = FORM.read(1024 * numbers, (6,), 1024)
    assert "levels" in str(over.find_objection(Tariff(price=[1.0] * 6, turn=FIRST), None))


def test_home_without_batteries_has_the_numbers_of_one_with_them() -> None:
    battery = Battery(capacity_kwh=7.0, power_kw=3.0, initial_kwh=3.5)
    assert FORM.flatten(answer_of(None), (6,)).shape == FORM.flatten(answer_of(battery), (6,)).shape
    assert add_up([answer_of(None)] * 3, 3, shape=(6,)).batteries is None


@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_honest_homes_are_within_the_bounds(seed: int) -> None:
    random = np.random.default_rng([24, seed])
    asked = Tariff(price=random.uniform(30, 50, SLOTS).tolist(), turn=FIRST)
    for home in draw_homes(random):
        most = FORM.bounds(SHAPE, home.connection_kw, asked)
        assert (np.abs(FORM.flatten(StorageMarketHomes([home]).answer(asked), SHAPE)) <= most).all()
        assert np.isfinite(most).all() and (FORM.bounds(SHAPE, None, asked) >= most).all()


@pytest.mark.parametrize(
    ("number", "change", "why"),
    [
        (0, -1e6, "below zero"),
        (4 * SLOTS - 1, 1e3, "energy"),
        (5 * SLOTS, 1e6, "to be moved"),
        (5 * SLOTS + 2, 1.0, "levels"),
        (5 * SLOTS + 3, -1e9, "levels"),
        (-1, 2.0**-32, "levels"),
        (-1, -(2.0**-32), "levels"),
        (-1, 2.0**30, "levels"),
    ],
)
def test_sum_that_no_homes_have_is_objected_to(number: int, change: float, why: str) -> None:
    """One home adds what nobody can check before it is summed."""
    asked = Tariff(price=[30.0, 40.0, 35.0, 50.0], turn=FIRST)
    homes = draw_homes(np.random.default_rng(26))
    numbers = FORM.flatten(StorageMarketHomes(homes).answer(asked), SHAPE)
    assert FORM.read(numbers, SHAPE, 5).find_objection(asked, None) is None
    numbers[number] += change
    assert why in str(FORM.read(numbers, SHAPE, 5).find_objection(asked, None))


# --- how a group keeps to the rules ---


def say(load: list[float], **changes: Any) -> HomesAnswer:
    """An answer of a group that draws `load` and offers to move no further."""
    loads = {"load_kw": load, "usual_kw": [0.0, 500.0, 0.0, 0.0], "offer_kw": load, "starts_kw": load}
    return HomesAnswer.model_validate({"homes": 20, "wanted_kwh": 0.0, "regret": 0.0} | loads | changes)


def play(*answers: HomesAnswer) -> list[DraAnswer]:
    dra = StorageMarketDra(0.1, 0.0, Session(4), {"group 1": 20}, of_groups=True)
    bodies = []
    for answer in answers:
        asked = dra.open(MarketSignal(price=[30.0, 40.0, 50.0, 35.0], sales_cap=[1.0] * 4, turn=FIRST))
        assert isinstance(asked, Ask)
        bodies.append(dra.on_answers(asked.body, {"group 1": answer}, (), ()).body)
    return bodies


AWAY, BACK = say([500.0, 0.0, 0.0, 0.0]), say([0.0, 500.0, 0.0, 0.0])


def test_group_that_goes_elsewhere_more_often_than_its_homes_restart_counts_with_its_load_before_that() -> None:
    answers = play(*[AWAY, BACK] * 8)
    assert [answer.load[0] for answer in answers[:10]] == [0.5, 0.0] * 5
    assert len({tuple(answer.load) for answer in answers[-6:]}) == 1


def test_batteries_without_a_level_are_those_without_power() -> None:
    bad = Batteries(capacity=10.0, power=1.0, initial=0.5, headroom=0.5, efficiency=1e-4)
    body = add_up([say([0.0] * 4, usual_kw=[0.0] * 4, batteries=bad, homes=1)], 1)
    assert body.batteries is not None and body.batteries.power == 0
