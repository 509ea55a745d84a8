"""A DRA's best bid [SM-9] against another solver and closed forms."""

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from market_cases import CLARABEL

from stackelgrid.games.storage_market.battery_bid import BatteryMarket, Bid, Fleet, Terms

MARKET = BatteryMarket(Fleet(20, 20, 5, 7.5, 0.95), 0.15, 2, 24)


def terms(number: int, cap: float = 4.0) -> Terms:
    random = np.random.default_rng([12, number])
    return Terms(random.uniform(30, 50, 24), random.uniform(0.05, 0.3, 24), np.full(24, cap))


def payoff(market: BatteryMarket, on: Terms, last: Bid, sold: Any, charge: Any) -> Any:
    """Written for cvxpy: what a bid earns on the announced line."""
    net = sold - charge
    line = (on.price + on.slope * last.net) @ net - cp.sum(cp.multiply(on.slope, cp.square(net)))
    return line - market.quadratic * cp.sum_squares(sold) - market.wear * cp.sum(sold)


@pytest.mark.parametrize("number", range(5))
def test_best_response_equals_another_solvers(number: int) -> None:
    on = terms(number)
    last = MARKET.best_response(terms(number + 100), Bid.nothing(24))
    bid = MARKET.best_response(on, last)
    fleet = MARKET.fleet
    sold, charge = cp.Variable(24, nonneg=True), cp.Variable(24, nonneg=True)
    level = fleet.initial + cp.cumsum(fleet.efficiency * charge - sold / fleet.efficiency)
    limits = [sold <= on.sales_cap, sold + charge <= fleet.power, level >= 0, level <= 20, level[-1] >= fleet.initial]
    problem = cp.Problem(cp.Maximize(payoff(MARKET, on, last, sold, charge)), limits)
    problem.solve(solver=cp.CLARABEL, **CLARABEL)
    assert MARKET.payoff(on, last, bid) == pytest.approx(problem.value, rel=1e-8)
    np.testing.assert_allclose(bid.sold, sold.value, atol=1e-4)
    np.testing.assert_allclose(bid.charge, charge.value, atol=1e-4)
    levels = fleet.level(bid.charge, bid.sold)
    assert levels.min() >= -1e-9
    assert levels.max() <= 20 + 1e-9
    assert levels[-1] >= fleet.initial - 1e-9


def test_best_response_has_its_closed_form_over_two_hours() -> None:
    eta, a, wear, s, cheap, dear = 0.9, 0.2, 1.5, 0.25, 20.0, 40.0
    market = BatteryMarket(Fleet(100, 100, 0, 100, eta), a, wear, 2)
    on = Terms(np.array([cheap, dear]), np.full(2, s), np.full(2, 100.0))
    bid = market.best_response(on, Bid.nothing(2))
    # max over u of -(cheap + s u) u + (dear - s q) q - a q^2 - wear q with q = eta^2 u
    charge = (eta**2 * (dear - wear) - cheap) / (2 * s + 2 * eta**4 * (s + a))
    np.testing.assert_allclose(bid.charge, [charge, 0], atol=1e-9)
    np.testing.assert_allclose(bid.sold, [0, eta**2 * charge], atol=1e-9)
    # A stored MWh is worth what charging it costs at the margin.
    assert bid.energy_value[0] == pytest.approx((cheap + 2 * s * charge) / eta)


@pytest.mark.parametrize("number", range(3))
def test_supply_slope_is_price_over_marginal_cost_when_bids_are_at_rest(number: int) -> None:
    on = terms(number, cap=100.0)
    bid = Bid.nothing(24)
    for _ in range(60):
        bid = MARKET.best_response(on, bid)
    marginal = 2 * MARKET.quadratic * bid.sold + MARKET.wear + bid.energy_value / MARKET.fleet.efficiency
    inside = (bid.sold > 1e-6) & (bid.sold < MARKET.fleet.power - 1e-6)
    assert inside.any()
    np.testing.assert_allclose((on.price - on.slope * bid.net)[inside], marginal[inside], atol=1e-5)
    k = MARKET.supply_slope(on.price, bid)
    assert (k >= 1 - 1e-9).all()
    np.testing.assert_allclose((k * marginal)[inside], on.price[inside], atol=1e-9)
    assert (k[bid.sold == 0] == 1).all()


def test_best_response_is_zero_when_losses_exceed_price_differences() -> None:
    """Prices within 30 to 50 pay for no battery that returns a quarter: the bid is zero, not the solver's rounding."""
    lossy = BatteryMarket(Fleet(20, 20, 5, 7.5, 0.5), 0.15, 2, 24)
    for number in range(5):
        bid = lossy.best_response(terms(number), Bid.nothing(24))
        assert not bid.charge.any()
        empty = BatteryMarket(Fleet(20, 20, 0, 7.5, 0.5), 0.15, 2, 24).best_response(terms(number), Bid.nothing(24))
        assert not empty.sold.any() and not empty.charge.any()


def test_best_response_is_zero_without_batteries() -> None:
    bid = BatteryMarket(Fleet.of([]), 0.1, 1, 24).best_response(terms(0), Bid.nothing(24))
    assert (bid.sold.max(), bid.charge.max()) == (0, 0)
