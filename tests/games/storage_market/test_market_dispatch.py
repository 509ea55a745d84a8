"""The economic dispatch [SM-1] against another solver and closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_cases import RTS, TIGHT, UNITS, quick, reference_dispatch

from stackelgrid.games.storage_market.dispatch import EconomicDispatch, GeneratingUnit
from stackelgrid.games.storage_market.price_line import find_price_line


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("units", [UNITS, TIGHT], ids=["loose ramps", "tight ramps"])
def test_dispatch_equals_another_solvers_when_ramps_are_loose_or_tight(
    units: list[GeneratingUnit], number: int
) -> None:
    random = np.random.default_rng([11, number])
    demand = RTS * random.uniform(0.99, 1.01, 24)
    dispatch = EconomicDispatch(units, 1000, 24)
    dispatch.solve(RTS)  # so that the solve in question starts from another active set
    found = dispatch.solve(demand)
    cost, price = reference_dispatch(units, demand)
    assert found.cost == pytest.approx(cost, rel=1e-8)
    np.testing.assert_allclose(found.price, price, rtol=1e-6)
    ramps = np.array([[u.ramp_mw] for u in units])
    binding = (np.abs(np.abs(np.diff(found.generation)) - ramps) < 1e-9).sum()
    assert (binding > 0) == (units is TIGHT)


def test_dispatch_price_is_the_cost_of_one_more_mwh() -> None:
    dispatch = EconomicDispatch(TIGHT, 1000, 24)
    price, h = dispatch.solve(RTS).price, 1e-4
    for hour in range(24):
        step = h * np.eye(24)[hour]
        slope = (dispatch.solve(RTS + step).cost - dispatch.solve(RTS - step).cost) / (2 * h)
        assert price[hour] == pytest.approx(slope, abs=1e-4)


def test_dispatch_price_is_marginal_cost_when_there_is_one_generator() -> None:
    demand = np.array([10.0, 20.0, 15.0])
    found = EconomicDispatch([GeneratingUnit("g", 0.5, 7, 3, 100, 50)], 1000, 3).solve(demand)
    np.testing.assert_allclose(found.generation, [demand], atol=1e-9)
    np.testing.assert_allclose(found.price, 7 + 2 * 0.5 * demand, atol=1e-9)
    np.testing.assert_allclose(found.hourly_cost, 0.5 * demand**2 + 7 * demand + 3, atol=1e-9)


@quick
@given(st.lists(st.floats(-5e3, 5e3), min_size=6, max_size=6), st.lists(st.floats(-5e3, 5e3), min_size=6, max_size=6))
def test_dispatch_balances_at_a_monotone_price_for_any_demand(one: list[float], other: list[float]) -> None:
    dispatch = EconomicDispatch(TIGHT, 1000, 6)
    net = np.array([one, other])
    found = [dispatch.solve(demand) for demand in net]
    for demand, answer in zip(net, found, strict=True):
        served = answer.generation.sum(axis=0) + answer.short - answer.spilt
        np.testing.assert_allclose(served, demand, atol=1e-9 * max(1, np.abs(demand).max()))
        assert (answer.generation <= np.array([[u.max_mw] for u in TIGHT]) + 1e-9).all()
        assert (np.abs(np.diff(answer.generation)) <= np.array([[u.ramp_mw] for u in TIGHT]) + 1e-6).all()
    # The price is the gradient of a convex cost.
    assert (found[0].price - found[1].price) @ (net[0] - net[1]) >= -1e-6 * (1 + np.abs(net).max())


def test_dispatch_prices_load_as_lost_when_it_cannot_be_served() -> None:
    found = EconomicDispatch(UNITS, 1000, 24).solve(np.where(np.arange(24) == 12, 345.0, 300.0))
    assert found.short[12] == pytest.approx(10, abs=1e-9)
    assert found.price[12] == pytest.approx(1000 + 2 * 0.01 * 10)
    assert np.delete(found.short, 12).max() < 1e-9


# --- the price near a net demand ---


def ramped(number: int) -> tuple[EconomicDispatch, np.ndarray]:
    """Three generators whose ramps and limits bind, and a net demand of eight hours."""
    random = np.random.default_rng([15, number])
    units = [
        GeneratingUnit("base", 0.05, 12, 0, 60, random.uniform(6, 15)),
        GeneratingUnit("middle", 0.2, 20, 0, 40, random.uniform(5, 15)),
        GeneratingUnit("peak", 0.6, 28, 0, 50, 50),
    ]
    return EconomicDispatch(units, 1000, 8), 75 + 30 * np.sin(np.arange(8) / 1.3) + random.uniform(-8, 8, 8)


@pytest.mark.parametrize("number", range(8))
def test_slope_of_the_price_is_what_differences_show(number: int) -> None:
    dispatch, net = ramped(number)
    line = find_price_line(dispatch, dispatch.solve(net), 0.0)
    h = 1e-5
    for hour, step in enumerate(h * np.eye(8)):
        found = (dispatch.solve(net + step).price - dispatch.solve(net - step).price) / (2 * h)
        np.testing.assert_allclose(line.slope[:, hour], found, atol=1e-4)
    np.testing.assert_allclose(line.slope, line.slope.T, atol=1e-9)


def test_slope_of_the_price_couples_hours_where_ramps_bind() -> None:
    slopes = [find_price_line(program, program.solve(net), 0.0).slope for program, net in map(ramped, range(8))]
    assert max(np.abs(slope - np.diag(np.diagonal(slope))).max() for slope in slopes) > 0.05
    assert find_price_line(EconomicDispatch(UNITS, 1000, 24), EconomicDispatch(UNITS, 1000, 24).solve(RTS), 0).slope[
        12, 12
    ] == pytest.approx(0.1887, abs=1e-4)


@pytest.mark.parametrize("number", range(8))
def test_price_beyond_the_nearest_kink_is_as_foretold(number: int) -> None:
    dispatch, net = ramped(number)
    here = dispatch.solve(net)
    line = find_price_line(dispatch, here, 100.0)
    nearest, *others = np.argsort(line.room)
    direction, room = line.kinks[nearest], line.room[nearest]
    beyond = room + min(0.1, 0.5 * min(line.room[other] - room for other in others))
    found = dispatch.solve(net + beyond * direction).price
    straight = here.price + beyond * line.slope @ direction
    foretold = straight + line.jump[nearest] * (beyond - room) * direction
    np.testing.assert_allclose(found, foretold, atol=1e-4 * (beyond - room) + 1e-6)
    assert np.abs(found - straight).max() > 0.01 * (beyond - room)


def test_price_has_two_slopes_where_the_net_demand_lies_on_a_kink() -> None:
    """Up to 20 MW one generator runs, beyond it two, and at 50 MW the first one is at its limit."""
    units = [GeneratingUnit("a", 0.5, 10, 0, 40, 100), GeneratingUnit("b", 0.5, 30, 0, 90, 100)]
    dispatch = EconomicDispatch(units, 1000, 1)
    for net, below, above in ((20.0, 1.0, 0.5), (60.0, 0.5, 1.0)):
        line = find_price_line(dispatch, dispatch.solve(np.array([net])), 5.0)
        touched = line.room < 1e-9
        assert touched.sum() == 1
        here, there = line.slope[0, 0], line.slope[0, 0] + line.jump[touched][0]
        side = line.kinks[touched][0, 0]  # the other side is above where this is 1
        assert (here, there) == pytest.approx((below, above) if side > 0 else (above, below), abs=1e-5)
