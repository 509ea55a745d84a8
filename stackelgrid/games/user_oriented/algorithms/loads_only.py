"""Loads only: Newton's local model of the response, its sensitivities learnt from loads [UO-F].

Source: derived. What travels is what travels in the paper: prices down, loads up.

The best load of a customer is minus the gradient of a convex function of the price [UO-6], so that J = dL/dp is
symmetric and negative semidefinite. Three things follow, and make loads enough:

- A uniform change of the price moves no stored energy, where storage has no losses. So the loads at two such prices
  around the flat one give the slope of elastic appliances in all slots at once, and the coupling by storage is what is
  learnt.
- The gradient of the utility, L + J m with m the margin p - grad C(L), has J only in J m, for J' m = J m. The loads at
  p + h m and p - h m give that to the square of h, whatever is known of the rest of J [UO-S]. So the leader ends where
  it would with all sensitivities, after two more questions a round.
- Every two loads give a secant, J d = the change of the load over a step d of the price. A BFGS update of -J keeps it
  positive semidefinite and meets the secant. The rest of J decides how fast the leader comes to the end, not where.

A leader of `stackelberg` climbs the utility of this model in a trust region, one hill, from the flat price: where the
utility has several, it may end on another than `newton`. One of `welfare` takes the steps of `newton`, on this model.
It comes to some 1e-8 of the largest price. Answers that are rounded, or solved loosely, have differences of rounding
alone: then the price does not settle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, LocalResponse, Observation
from stackelgrid.games.user_oriented.search import (
    NextPrices,
    PriceFound,
    PriceSearch,
    PricingProblem,
    make_convex,
    relative_change,
    solve_qp,
)
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.games.user_oriented.welfare import WelfareSearch

_SURVEY = 0.02
"""Prices around the first one that give the slopes, relative to it."""
_DIFFERENCE = 1e-5
"""Prices around the others that give J m: their distance, relative to the largest price. Loads are exact to 1e-11."""
_CAUTION, _PRECISION = 0.1, 1e-8
"""The step still wanted is one on a model that is learnt: it ends the search at this part of the tolerance, unless
differences do not show so small a step, relative to the largest price."""
_FIRST_REACH, _LEAST_REACH = 0.4, 1e-9
_NEWTON_STEPS = 60
_LEAST_LENGTH = 1e-6
_CONVERGED = 1e-13


class LoadsOnly:
    """Asks each price with two neighbours, along the margin that its load is foretold to leave."""

    def __init__(self, problem: PricingProblem) -> None:
        self._learnt = LearntSensitivity()
        search: type[Climb] | type[WelfareSearch] = Climb if problem.objective == "stackelberg" else WelfareSearch
        tolerance = max(_CAUTION * problem.tolerance, min(problem.tolerance, _PRECISION))
        self._search: PriceSearch = search(problem.company, tolerance)

    @property
    def company(self) -> UtilityCompany:
        """The company, as the search has it."""
        return self._search.company

    @company.setter
    def company(self, company: UtilityCompany) -> None:
        self._search.company = company

    @property
    def residual(self) -> float:
        """The relative price change that the search still wants."""
        return self._search.residual

    def open(self, price: Array) -> NextPrices:
        """Ask the flat price, and one on each side."""
        return self._ask_around(price, np.ones_like(price), _SURVEY)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Learn from the loads, and take a step of the search on what is known. Of other homes begin anew."""
        here, *others = observed
        if not self._learnt.update(here, others):
            self._learnt = LearntSensitivity()
            return self.open(here.price)
        model = self._learnt.model
        result = self._search.next([model.at])
        if isinstance(result, PriceFound):
            return result
        margin = result.price - self.company.marginal_cost(model.load(result.price))
        return self._ask_around(result.price, margin, _DIFFERENCE)

    def _ask_around(self, price: Array, direction: Array, distance: float) -> NextPrices:
        """Ask the loads at a price and at two neighbours within bounds, at a relative `distance` along a direction."""
        step = direction * (distance * np.max(np.abs(price)) / max(float(np.max(np.abs(direction))), 1e-12))
        low, high = self.company.price_min, self.company.price_max
        return NextPrices(price, [np.clip(price + step, low, high), np.clip(price - step, low, high)], sensitivities=0)


class LearntSensitivity:
    """What loads tell of dL/dp: the slope of elastic appliances, and a coupling that meets the latest secants [UO-S].

    The first round that it takes in asks two prices around the first, a uniform change away.
    """

    def __init__(self) -> None:
        self._at: Observation | None = None

    @property
    def model(self) -> LocalResponse:
        """The response near the last price, with logarithmic satisfaction."""
        assert self._at is not None
        return LocalResponse(self._at, np.ones_like(self._at.price))

    def update(self, here: Observation, others: Sequence[Observation]) -> bool:
        """Take in a round's loads; False where that is not possible: slopes are missing, or of other homes."""
        last = self._at
        if last is None:
            if len(others) == 2:
                self._at = replace(here, slope=_compute_slope(*others))
        elif here.is_of_same_homes(last):
            self._at = self._follow(last, here, others)
        else:
            self._at = None
        return self._at is not None

    def _follow(self, last: Observation, here: Observation, others: Sequence[Observation]) -> Observation:
        """Carry the slope to the new price; what loads show beyond it is the coupling's."""
        elastic = LocalResponse(replace(last, coupling=np.zeros_like(last.coupling)), np.ones_like(last.price))
        slope = np.diag(elastic.jacobian(here.price))
        step = here.price - last.price
        secants = [(step, slope * step + here.load - elastic.load(here.price))]
        around = [(other.price - here.price, other.load - here.load) for other in others]
        if len(around) == 2 and np.allclose(around[0][0], -around[1][0], rtol=1e-6, atol=0):
            around = [(others[0].price - others[1].price, others[0].load - others[1].load)]
        sensitivity = np.diag(slope) + last.coupling
        for change, rise in [*secants, *around]:
            sensitivity = meet_secant(sensitivity, change, rise)
        return replace(here, slope=slope, coupling=sensitivity - np.diag(slope))


def _compute_slope(above: Observation, below: Observation) -> Array:
    """Compute the slope of each slot, (T,), from the loads at two prices that differ by the same in all slots."""
    change = above.price - below.price
    return np.where(change == 0, 0.0, np.minimum((above.load - below.load) / np.where(change == 0, 1.0, change), 0.0))


def meet_secant(sensitivity: Array, step: Array, rise: Array) -> Array:
    """Update J = dL/dp, (T, T), by BFGS so that J d is the `rise` of the load, (T,), over a step d of the price [UO-S].

    -J stays positive semidefinite. A load that does not fall along the step is no customer's answer, or none at all:
    nothing is learnt from it.
    """
    fall, foretold = -float(step @ rise), -sensitivity @ step
    bend = float(step @ foretold)
    if fall <= 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(rise)) or bend <= 0:
        return sensitivity
    return np.asarray(sensitivity + np.outer(foretold, foretold) / bend - np.outer(rise, rise) / fall)


class Climb:
    """Newton's method on the utility [UO-16] in a trust region, from the first price to the top of its hill.

    `_reach` is the region's radius, relative to the largest price.
    """

    def __init__(self, company: UtilityCompany, tolerance: float) -> None:
        self.company = company
        self.residual = float("inf")
        self._tolerance = tolerance
        self._reach = _FIRST_REACH
        self._best: Observation | None = None
        self._promised = 0.0

    def open(self, price: Array) -> NextPrices:
        """Begin at the flat price."""
        return NextPrices(price, sensitivities=0)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Give the best price of the model within reach of the best one asked; end when that is the price asked."""
        here, best = observed[0], self._best
        if best is None or not here.is_of_same_homes(best):
            self._best, self._reach = here, _FIRST_REACH
        elif not np.array_equal(here.price, best.price):
            self._judge_step(best, here)
        best = self._best
        assert best is not None
        model = LocalResponse(best, np.ones_like(best.price))
        price = self._maximize(model)
        self.residual = relative_change(price, best.price)
        self._promised = self._merit(price, model.load(price)) - self._merit(best.price, best.load)
        if self.residual > self._tolerance:
            return NextPrices(price)
        return PriceFound(self.residual) if here is best else NextPrices(best.price)

    def _judge_step(self, best: Observation, here: Observation) -> None:
        """Take the better price for the best, and resize the trust region by how well the gain was foretold."""
        gain = self._merit(here.price, here.load) - self._merit(best.price, best.load)
        if gain < 0.25 * self._promised:
            self._reach = max(0.3 * min(self._reach, relative_change(here.price, best.price)), _LEAST_REACH)
        elif gain > 0.75 * self._promised:
            self._reach = min(2 * self._reach, 1.0)
        # Near the top the gain is smaller than its rounding error: such a step is taken.
        if gain > 0 or self._promised <= 1e-12 * abs(self._merit(best.price, best.load)):
            self._best = here

    def _merit(self, price: Array, load: Array) -> float:
        """Give the leader's utility less a steep charge on load beyond capacity, money."""
        steep = 10 * max(abs(self.company.price_max), 1e-6)
        return self.company.utility(price, load) - steep * self.company.violation(load)

    def _maximize(self, model: LocalResponse) -> Array:
        """Maximise the utility that the model foretells, within bounds, capacity and reach, by Newton's method."""
        company, price = self.company, model.at.price
        width = self._reach * max(float(np.max(np.abs(price))), 1e-9)
        lower = np.clip(price - width, company.price_min, company.price_max)
        upper = np.clip(price + width, company.price_min, company.price_max)
        none = (np.zeros((0, len(price))), np.zeros(0), np.zeros(0))
        price = np.clip(price, lower, upper)
        for _ in range(_NEWTON_STEPS):
            load, jacobian = model.load(price), model.jacobian(price)
            margin = price - company.marginal_cost(load)
            hessian = jacobian @ company.cost_curvature @ jacobian - 2 * jacobian
            hessian = make_convex(hessian - np.diag(model.curvature(price) * margin))
            box = (lower - price, upper - price)
            step, _ = solve_qp(company, hessian, -(load + jacobian @ margin), box, none, (jacobian, load))
            length, now = 1.0, self._merit(price, load)
            while (
                length > _LEAST_LENGTH and self._merit(price + length * step, model.load(price + length * step)) < now
            ):
                length /= 2
            if length <= _LEAST_LENGTH:
                break
            price = np.clip(price + length * step, lower, upper)
            if np.max(np.abs(step)) <= _CONVERGED * np.max(np.abs(price)):
                break
        return price
