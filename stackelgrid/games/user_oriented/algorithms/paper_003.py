"""Algorithms 1 and 2 of the paper, as printed: prices at random, then problem (16) on the customers' last answers.

Source: *A User-Oriented Pricing Design for Demand Response in Smart Grid*, section 4.3. A round of ours is a pass of
both loops. Step by step, Algorithm 1 (the utility company; Algorithm 2 is a customer's best answer to a price):

    (1) initialize the price randomly      from the scenario's seed, between price_min and price_max
    (3) capacity by (11)                   the bounds on the total load [UO-8]
    (4) bounds on the price by (15)        [UO-15]
    (5) the utility by (13)                the company's utility with the response (10) put in [UO-Q]
    (6) the price by solving (16)          [UO-16]
    (7) (8) broadcast, receive             the next round

(13) wants the response (10) of the customers, whose parameters they keep. A reading, since the paper does not say where
the company has them from: (10) of logarithmic satisfaction is x = x_max (v / (omega p) - 1 / alpha), so that the load
of a slot is a / p - b, and the last two answers give a and b. This is exact while no customer is at a limit and nothing
is stored. With storage the load of a slot depends on all prices, and the prices need not settle. (With the last answers
taken as they are, (13) would rise with every price, and the algorithm would end at price_max at once.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, Observation
from stackelgrid.games.user_oriented.search import NextPrices, PriceFound, PricingProblem, relative_change, solve_qp
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_NEWTON_STEPS = 60
_LEAST_LENGTH = 1e-6
_CONVERGED = 1e-13
_LEAST_PRICE = 1e-6
"""The form a / p - b knows no price of zero: this part of `price_max` is the least."""


class PaperAlgorithm:
    """Algorithm 1. It settles when the price that it would broadcast next is the one that was answered."""

    def __init__(self, problem: PricingProblem) -> None:
        self.company = problem.company
        self.residual = float("inf")
        self._tolerance = problem.tolerance
        self._random = np.random.default_rng(problem.seed)
        self._last: Observation | None = None
        self._scale: Array | None = None

    def open(self, price: Array) -> NextPrices:
        """Ask the flat price, which gives mu its scale; the algorithm itself begins after it."""
        return NextPrices(price, sensitivities=0)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Draw the first price at random; afterwards solve (16), and end when that changes the price no more."""
        here, last = observed[0], self._last
        self._last = here
        if last is None:
            drawn = self._random.uniform(self.company.price_min, self.company.price_max, len(here.price))
            return NextPrices(drawn, sensitivities=0)
        self._scale = fit_scale(last, here, self._scale)
        price = solve_on_fit(self.company, here, self._scale)
        self.residual = relative_change(price, here.price)
        return PriceFound(self.residual) if self.residual <= self._tolerance else NextPrices(price, sensitivities=0)


def fit_scale(before: Observation, now: Observation, assumed: Array | None) -> Array:
    """Fit a of the load a / p - b [UO-Q] to two answers, (T,) money per hour.

    Where the price of a slot is the same in both, keep the `assumed` one; where there is none, or where the load rises
    with the price, the load is taken for a / p.
    """
    step = 1 / now.price - 1 / before.price
    moved = np.abs(step) * now.price > 1e-9
    known = moved & ((now.load - before.load) * step >= 0)
    secant = np.where(known, (now.load - before.load) / np.where(known, step, 1.0), now.price * now.load)
    return np.maximum(secant if assumed is None else np.where(moved, secant, assumed), 0.0)


def solve_on_fit(company: UtilityCompany, at: Observation, scale: Array) -> Array:
    """Maximise the utility [UO-16] over the price, with the load a / p - b [UO-Q] that meets the answer `at`.

    In y = 1 / p the load is linear, and so are capacity and bounds. The utility is concave where b >= 0. Newton's
    method with a line search begins at the price that was answered.
    """
    offset = scale / at.price - at.load
    lower, upper = bound_price(company, scale, offset)
    unlimited = replace(company, load_min=np.full_like(lower, -np.inf), load_max=np.full_like(upper, np.inf))

    def utility(y: Array) -> float:
        return company.utility(1 / y, scale * y - offset)

    y = np.clip(1 / at.price, 1 / upper, 1 / lower)
    none = (np.zeros((0, len(y))), np.zeros(0), np.zeros(0))
    for _ in range(_NEWTON_STEPS):
        price, load = 1 / y, scale * y - offset
        # Variables: the step of y, in units of y.
        fall = scale * y * company.marginal_cost(load) - offset * price
        hessian = np.outer(scale * y, scale * y) * company.cost_curvature
        hessian += np.diag(np.maximum(2 * offset * price, 0) + 1e-9 * np.max(np.abs(fall)))
        box = ((1 / upper - y) * price, (1 / lower - y) * price)
        step, _ = solve_qp(unlimited, hessian, fall, box, none, (np.diag(scale * y), load))
        length, now = 1.0, utility(y)
        while length > _LEAST_LENGTH and utility(y * (1 + length * step)) < now:
            length /= 2
        if length <= _LEAST_LENGTH:
            break
        y = y * (1 + length * step)
        if np.max(np.abs(step)) <= _CONVERGED:
            break
    return np.clip(1 / y, lower, upper)


def bound_price(company: UtilityCompany, scale: Array, offset: Array) -> tuple[Array, Array]:
    """Bound the price of each slot, (T,) each, by what keeps the load a / p - b within capacity [UO-15].

    Where no price within the company's own bounds does, the nearest bound is the only price.
    """
    least = np.maximum(company.price_min, _LEAST_PRICE * company.price_max)
    with np.errstate(divide="ignore", invalid="ignore"):
        at_most = scale / (company.load_max + offset)
        at_least = scale / (company.load_min + offset)
    # A load that is below the bound at any price bounds nothing, one that is above it at any price leaves price_max.
    lower = np.where(company.load_max + offset > 0, at_most, np.inf)
    upper = np.where(company.load_min + offset > 0, at_least, np.inf)
    lower, upper = np.clip(lower, least, company.price_max), np.clip(upper, least, company.price_max)
    return lower, np.maximum(lower, upper)
