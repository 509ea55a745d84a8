"""The price at marginal cost [UO-B], found by Newton's method with a search along the line.

The price minimises a convex function over its bounds, the dual of the whole system's problem:

    D(p) = max over L of [U(L) - p.L]  +  max over y of [p.y - C(y)],      L_min <= y <= L_max,

U the customers' utility of a load. Its value is not on the wire, but its gradient is y(p) - L(p): what the company
would sell at this price, less what the customers draw. Each round gives the load and its Jacobian. The search solves
[UO-B] on the local model [UO-F], which is a Newton step with a curved response, and asks the price found. Where D rises
at the end of the step, a kink of the response or a wrong model led too far: several prices of the line are then asked
in one round, and the search goes on from where D is least. So it converges wherever it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import daqp
import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.local_response import Array, ExponentEstimator, LocalResponse, Observation
from stackelgrid.games.user_oriented.noise import NoiseFloor
from stackelgrid.games.user_oriented.search import NextPrices, PriceFound, relative_change, solve_qp
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_STEPS = 60
_CONVERGED = 1e-13
_LEAST_STRIDE = 1e-6
_FLAT = 1e-9
"""A load that does not respond to the price is taken to bend by this part of load over price."""
_FLATTENED = 0.3
"""A step is good when it reduces the slope of D along the line to this part, or less."""
_LINE = (0.5, 0.2, 0.05)
"""Parts of the line to ask, beside the one at which a straight slope of D would vanish."""
_KEPT = 1e-8
_NEGLIGIBLE = 1e-9
"""Parts of the load by which it may exceed the capacity, and of the bills that a further step may promise."""
_COST_CHANGE = 5.0
"""The change of the marginal cost that counts as none, in tolerances of the price."""
_PATIENCE = 2
"""After so many rounds in which the price change wanted was not halved, each price is asked twice."""


class Bracket(NamedTuple):
    """The lowest and the highest price to try, (T,)."""

    low: Array
    high: Array


class MarginalPriceSearch:
    """Newton's method on p = grad C(L(p)) + nu within the price's bounds [UO-B], with a search along the line.

    It also ends where the model sees no price that keeps the capacity. `noise` is that of the answers so far.
    """

    def __init__(self, company: UtilityCompany, tolerance: float) -> None:
        self.company = company
        self.residual = float("inf")
        self.noise = NoiseFloor()
        self._tolerance = tolerance
        self._exponents = ExponentEstimator()
        self._asked: list[Observation] = []
        self._base: Observation | None = None
        self._exponent: Array
        self._target: Array
        self._least_residual = float("inf")
        self._stale = 0

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Give the next prices, or end at the first price observed."""
        first = observed[0]
        if self._base is not None and not first.is_of_same_homes(self._base):
            self._asked, self._base, self._least_residual, self._stale = [], None, float("inf"), 0
            self.noise = NoiseFloor()
        self._asked += observed
        # Rounded answers may go round in circles. The longer they do, the farther apart are prices that count as one.
        self.noise.compare(first, self._asked, self._tolerance * max(1, self._stale - _PATIENCE))
        base = self._choose_base(observed)
        if base is None:
            return self._ask_line(observed)
        self._base, self._exponent = base, self._exponents.update(base)
        self._target = self._find_target(base, self._exponent)
        self.residual = relative_change(self._target, base.price)
        self._stale = 0 if self.residual <= self._least_residual / 2 else self._stale + 1
        self._least_residual = min(self._least_residual, self.residual)
        if self._is_settled(base, self._target):
            return PriceFound(self.residual) if base is first else NextPrices(base.price)
        if self._stale < _PATIENCE:
            return NextPrices(self._target)
        # Rounding shows at another price only; within the tolerance it is the same one.
        beside = self._target + 0.9 * self._tolerance * _size(self._target)
        return NextPrices(self._target, others=[np.minimum(beside, self.company.price_max)])

    @property
    def slots_are_apart(self) -> bool:
        """True when no answer so far showed that the price of a slot moves the load of another."""
        return not any(np.any(each.coupling) for each in self._asked)

    def estimate_noise(self) -> float:
        """Give the change of the target price by which the answers' noise moves it, relative."""
        base = self._base
        if base is None or not self.noise.differences:
            return 0.0
        moved = [
            self._find_target(replace(base, load=base.load + difference), self._exponent)
            for difference in self.noise.differences
        ]
        return max(relative_change(each, self._target) for each in moved)

    def _is_settled(self, base: Observation, target: Array) -> bool:
        """Tell whether the price asked is the one wanted, and no load beyond capacity or gain of welfare is left."""
        change = relative_change(target, base.price)
        if change > self._tolerance:
            return bool(self.noise.differences) and self._stale > 0 and change <= self.estimate_noise()
        model = LocalResponse(base, self._exponent)
        ahead = model.load(target)
        cost = self.company.marginal_cost(base.load)
        # Where the load bends much, the smallest change of the price is a large one of the marginal cost.
        cost_change = float(np.max(np.abs(self.company.marginal_cost(ahead) - cost)))
        gain = (base.price - cost) @ (ahead - base.load)
        kept = self.company.violation(base.load) <= _KEPT * float(np.max(np.abs(base.load)))
        bills = float(np.abs(base.price) @ np.abs(base.load))
        is_near = abs(gain) <= _NEGLIGIBLE * bills and cost_change <= _COST_CHANGE * self._tolerance * _size(base.price)
        return bool(kept and is_near) or change <= 1e-3 * self._tolerance

    # --- the line from the last base to its target ---

    def _choose_base(self, observed: Sequence[Observation]) -> Observation | None:
        """Choose the price from which to go on, None where D rises at all of them."""
        first, base = observed[0], self._base
        if base is None or np.array_equal(first.price, base.price):
            return first
        line = self._target - base.price
        before = float(self._excess(base) @ line)
        if before >= 0:
            return first  # bounds that bind in slots coupled by storage: the step is not one down D
        slopes = [float(self._excess(each) @ line) for each in observed]
        good = [i for i, slope in enumerate(slopes) if slope <= -_FLATTENED * before and observed[i].slope is not None]
        change = relative_change(self._find_target(first, self._exponent), first.price)
        if len(observed) == 1 and (good or change < self._least_residual / 2):
            return first
        if change <= max(self._tolerance, 10 * self.estimate_noise()):
            return first
        down = [i for i in good if slopes[i] <= 0]
        if down:
            return observed[max(down, key=lambda i: float(np.max(np.abs(observed[i].price - base.price))))]
        return observed[min(good, key=lambda i: slopes[i])] if good else None

    def _ask_line(self, observed: Sequence[Observation]) -> NextPrices:
        """Ask several prices between the base and the nearest one at which D rises, the likeliest first."""
        assert self._base is not None
        base = self._base
        nearest = min(observed, key=lambda each: float(np.max(np.abs(each.price - base.price))))
        line = nearest.price - base.price
        self._target = nearest.price
        falls, rises = -float(self._excess(base) @ line), float(self._excess(nearest) @ line)
        straight = float(np.clip(falls / max(falls + rises, 1e-300), 0.02, 0.95))
        prices = base.price + np.outer([straight, *_LINE], line)
        return NextPrices(prices[0], others=list(prices[1:]), sensitivities=len(prices))

    def _excess(self, observed: Observation) -> Array:
        """Give the gradient y - L of D, (T,) kW, zero in the slots whose price is at a bound that holds it.

        Where C is flat, y is far away or not unique; a slight weight on the distance from the load chooses one.
        """
        company, price, load = self.company, observed.price, observed.load
        weight = 1e-3 * _size(price) / _size(load)
        at_top, at_bottom = price >= company.price_max, price <= company.price_min
        lower = np.where(at_top, load, company.load_min)
        upper = np.where(at_top, np.maximum(load, company.load_max), company.load_max)
        lower, upper = np.where(at_bottom, np.minimum(load, lower), lower), np.where(at_bottom, load, upper)
        far = 1e6 * (1 + _size(load))
        excess, _, flag, _ = daqp.solve(
            company.cost_curvature + weight * np.eye(len(load)),
            company.marginal_cost(load) - price,
            np.zeros((0, len(load))),
            np.clip(upper - load, -far, far),
            np.clip(lower - load, -far, far),
            np.zeros(len(load), np.int32),
            primal_tol=1e-12,
        )
        if flag <= 0:
            raise SolverError("what the company would sell", f"DAQP exit {flag}")
        return np.asarray(excess)

    # --- the local model ---

    def _find_target(self, observed: Observation, exponent: Array) -> Array:
        """Find the price [UO-B] on the local model at an observation."""
        model = LocalResponse(observed, exponent)
        return find_marginal_price(model, self.company, self._bracket(model))

    def _bracket(self, model: LocalResponse) -> Bracket:
        """Bracket the price to try next.

        Where the slots are apart, a price asked before bounds the one that keeps the capacity, if the cost does not
        lead beyond it.
        """
        company, price, load = self.company, model.at.price, model.at.load
        low, high = company.price_min.copy(), company.price_max.copy()
        over, under = load > company.load_max, load < company.load_min
        if self.slots_are_apart:
            cost = company.marginal_cost(load)
            for each in self._asked:
                keeps_most, keeps_least = each.load <= company.load_max, each.load >= company.load_min
                bounds = np.where(over, keeps_most & (cost <= each.price), ~under & ~keeps_least)
                high = np.where(bounds & (each.price > price), np.minimum(high, each.price), high)
                bounds = np.where(under, keeps_least & (cost >= each.price), ~over & ~keeps_most)
                low = np.where(bounds & (each.price < price), np.maximum(low, each.price), low)
        return Bracket(low, high)


def find_marginal_price(model: LocalResponse, company: UtilityCompany, bracket: Bracket) -> Array:
    """Find the price in the bracket, (T,), that equals the marginal cost [UO-B] of the load the model predicts.

    Where the model finds no price that keeps the capacity, it is the highest, or the lowest.
    """
    price = np.clip(model.at.price, bracket.low, bracket.high)
    step = find_step(model, company, price, bracket)
    for _ in range(_STEPS):
        size = float(np.max(np.abs(step)))
        if size <= _CONVERGED * float(np.max(np.abs(price))):
            break
        stride = 1.0
        while stride > _LEAST_STRIDE:
            there = _move(price, stride * step, bracket)
            ahead = find_step(model, company, there, bracket)
            if float(np.max(np.abs(ahead))) < (1 - stride / 4) * size:
                break
            stride /= 2
        else:
            return _move(price, step, bracket)
        price, step = there, ahead
    return price


def _move(price: Array, step: Array, bracket: Bracket) -> Array:
    """Take a step within the bracket, and to the last digit onto an end that it reaches."""
    there, rounding = price + step, _CONVERGED * float(np.max(np.abs(price)))
    above_low = np.where(there <= bracket.low + rounding, bracket.low, there)
    return np.where(above_low >= bracket.high - rounding, bracket.high, above_low)


def find_step(model: LocalResponse, company: UtilityCompany, price: Array, bracket: Bracket) -> Array:
    """Take one Newton step of [UO-B] on the model, a QP over the price change.

    The step is stationary where p + step = grad C(L + J step) + nu. A slot whose price is at a bound, with a marginal
    cost or a load beyond it, stays there; one that no step keeps within capacity goes there. J is made definite for the
    slots in which no load responds to the price; there the price follows the cost.
    """
    low, high = bracket
    load, jacobian = model.load(price), model.jacobian(price)
    cost = company.marginal_cost(load)
    wants_more = ((cost >= price) & (load >= company.load_min)) | (load >= company.load_max)
    wants_less = ((cost <= price) & (load <= company.load_max)) | (load <= company.load_min)
    moves = ~((price >= company.price_max) & wants_more | (price <= company.price_min) & wants_less)
    least = _FLAT * (float(np.max(np.abs(jacobian))) + _size(load) / _size(price))
    response = least * np.eye(len(price)) - jacobian
    unit, rest = float(np.max(np.abs(response))), _KEPT * _size(load)
    step = np.zeros(len(price))
    while moves.any():
        within, size = np.ix_(moves, moves), int(moves.sum())
        limits = replace(
            company,
            load_min=company.load_min[moves],
            load_max=company.load_max[moves],
        )
        step[moves], _ = solve_qp(
            limits,
            (response[within] + response[within] @ company.cost_curvature[within] @ response[within]) / unit,
            response[within] @ (price - cost)[moves] / unit,
            ((low - price)[moves], (high - price)[moves]),
            (np.zeros((0, size)), np.zeros(0), np.zeros(0)),
            (-response[within], (load - response @ np.where(moves, 0, step))[moves]),
        )
        predicted = load - response @ step
        too_much, too_little = predicted - company.load_max, company.load_min - predicted
        missed = np.where(moves, np.maximum(too_much, too_little), -np.inf)
        worst = int(np.argmax(missed))
        if missed[worst] <= rest:
            break
        step[worst] = (high if too_much[worst] > 0 else low)[worst] - price[worst]
        moves[worst] = False
    return np.clip(step, low - price, high - price)


def _size(values: Array) -> float:
    return max(float(np.max(np.abs(values))), 1e-9)
