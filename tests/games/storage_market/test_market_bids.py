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
    return straight(random.uniform(30, 50, 24), np.diag(random.uniform(0.05, 0.3, 24)), cap)


def straight(price: np.ndarray, slope: np.ndarray, cap: float, price_cap: float = np.inf) -> Terms:
    """Terms without kinks."""
    slots = len(price)
    none = np.zeros((0, slots)), np.zeros(0), np.zeros(0)
    return Terms(price, slope, np.full(slots, cap), np.full(slots, price_cap), *none)


def payoff(market: BatteryMarket, on: Terms, last: Bid, sold: Any, charge: Any) -> Any:
    """Written for cvxpy: what a bid earns on the announced line."""
    net = sold - charge
    line = (on.price + on.slope @ last.net) @ net - cp.quad_form(net, cp.psd_wrap(on.slope))
    return line - market.quadratic * cp.sum_squares(sold) - market.wear * cp.sum(sold)


@pytest.mark.parametrize("hours", [1.0, 0.25])
@pytest.mark.parametrize("number", range(5))
def test_best_response_equals_another_solvers(number: int, hours: float) -> None:
    market = BatteryMarket(Fleet(20, 20, 5, 7.5, 0.95), 0.15, 2, 24, hours)
    on = terms(number)
    last = market.best_response(terms(number + 100), Bid.nothing(24))
    bid = market.best_response(on, last)
    fleet = market.fleet
    sold, charge = cp.Variable(24, nonneg=True), cp.Variable(24, nonneg=True)
    level = fleet.initial + hours * cp.cumsum(fleet.efficiency * charge - sold / fleet.efficiency)
    limits = [sold <= on.sales_cap, sold + charge <= fleet.power, level >= 0, level <= 20, level[-1] >= fleet.initial]
    problem = cp.Problem(cp.Maximize(hours * payoff(market, on, last, sold, charge)), limits)
    problem.solve(solver=cp.CLARABEL, **CLARABEL)
    assert market.payoff(on, last, bid) == pytest.approx(problem.value, rel=1e-8)
    np.testing.assert_allclose(bid.sold, sold.value, atol=1e-4)
    np.testing.assert_allclose(bid.charge, charge.value, atol=1e-4)
    levels = fleet.level(bid.charge, bid.sold, hours)
    assert levels.min() >= -1e-9
    assert levels.max() <= 20 + 1e-9
    assert levels[-1] >= fleet.initial - 1e-9


def test_best_response_has_its_closed_form_over_two_hours() -> None:
    eta, a, wear, s, cheap, dear = 0.9, 0.2, 1.5, 0.25, 20.0, 40.0
    market = BatteryMarket(Fleet(100, 100, 0, 100, eta), a, wear, 2)
    on = straight(np.array([cheap, dear]), s * np.eye(2), 100.0)
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
    np.testing.assert_allclose((on.price - on.slope @ bid.net)[inside], marginal[inside], atol=1e-5)
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


# --- kinks and caps ---

TWO = BatteryMarket(Fleet(100, 100, 50, 100, 1.0), 0.2, 0.0, 2)
CHEAP, DEAR = 20.0, 40.0


def kinked(room: float, jump: float, price_cap: float = np.inf) -> Terms:
    """Two hours; in the dear one the price falls by `jump` more for each MW beyond `room`."""
    line = straight(np.array([CHEAP, DEAR]), 0.25 * np.eye(2), 100.0, price_cap)
    kink = np.array([[0.0, 1.0]]), np.array([room]), np.array([jump])
    return Terms(line.price, line.slope, line.sales_cap, line.price_cap, *kink)


def rest(market: BatteryMarket, on: Terms, steps: int = 300) -> Bid:
    """The bid at which best responses rest; the price is always that of the terms at the first bid, nothing."""
    bid, nothing = Bid.nothing(2), Bid.nothing(2)
    for _ in range(steps):
        crossed = on.kinks @ (bid.net - nothing.net) > on.room
        slope = on.slope + (on.kinks[crossed].T * on.jump[crossed]) @ on.kinks[crossed]
        room = on.room - on.kinks @ bid.net
        sides = np.where(crossed, -1.0, 1.0)
        here = Terms(
            on.at(bid.net), slope, on.sales_cap, on.price_cap, sides[:, None] * on.kinks, np.abs(room), sides * on.jump
        )
        bid = bid.towards(market.best_response(here, bid), 0.5)
    return bid


@pytest.mark.parametrize(
    ("room", "jump", "price_cap"),
    [
        (5.0, 1.0, np.inf),
        (5.0, 5.0, np.inf),
        (8.0, 0.1, np.inf),
        (9.0, -0.1, np.inf),
        (100.0, 0.0, 36.0),
        (100.0, 0.0, 30.0),
        (5.0, 1.0, 38.0),
    ],
)
def test_bid_at_rest_is_the_best_at_the_price_that_follows(room: float, jump: float, price_cap: float) -> None:
    """What is sold in the dear hour is charged in the cheap one: a scan of that quantity finds the best."""
    on = kinked(room, jump, price_cap)
    bid = rest(TWO, on)
    many = np.linspace(0, 40, 400_001)
    dear = DEAR - 0.25 * many - jump * np.maximum(many - room, 0)
    earned = np.minimum(dear, price_cap) * many - (CHEAP + 0.25 * many) * many - 0.2 * many**2
    assert bid.sold[1] == pytest.approx(bid.charge[0])
    assert bid.sold[1] == pytest.approx(many[earned.argmax()], abs=2e-3)
    assert TWO.payoff(on, Bid.nothing(2), bid) == pytest.approx(earned.max(), rel=1e-6)


def test_bid_rests_on_a_kink_beyond_which_the_price_falls_too_fast() -> None:
    assert rest(TWO, kinked(5.0, 5.0)).sold[1] == pytest.approx(5.0, abs=1e-6)


def test_bid_crosses_a_kink_beyond_which_it_earns_more() -> None:
    """Short of the kink the bid of 2.9 MW is best; 0.1 MW on, the price falls a tenth as fast, and more is better."""
    slope, room, jump, last = 1.0, 0.1, -0.9, 2.9
    dear = CHEAP + (0.25 + 2 * 0.2 + slope) * last  # marginal revenue is marginal cost
    line = straight(np.array([CHEAP, dear]), np.diag([0.25, slope]), 100.0)
    terms = Terms(
        line.price,
        line.slope,
        line.sales_cap,
        line.price_cap,
        np.array([[0.0, 1.0]]),
        np.array([room]),
        np.array([jump]),
    )
    now = Bid(np.array([last, 0]), np.array([0, last]), np.zeros(2))
    assert TWO.best_response(line, now).sold[1] == pytest.approx(last)
    many = np.linspace(0, 20, 200_001)
    paid = dear - slope * (many - last) - jump * np.maximum(many - last - room, 0)
    earned = paid * many - (CHEAP + 0.25 * (many - last)) * many - 0.2 * many**2
    best = many[earned.argmax()]
    assert best > 4
    assert TWO.best_response(terms, now).sold[1] == pytest.approx(best, abs=1e-3)
