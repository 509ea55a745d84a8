"""Dual decomposition: the price moves by gradient steps towards the marginal cost of the load that answers it.

Source: S. H. Low and co-authors' and P. Samadi and co-authors' distributed demand response, as the paper names them
([17] and [8]): prices are the multipliers of the balance between what customers draw and what the company supplies, and
each side solves its own problem at the price. The paper compares its game with this in figure 6. It maximises the
utility of the whole system [UO-B], whatever `leader.objective` says.

The gradient of the dual function is demand less supply. Supply at a price q is the load L with grad C(L) = q [UO-C].
Where mu is the same in all slots, that gives every load of one shape, and the one with the demand's mean is supplied:
the gradient is then (grad C(L(q)) - q) / (2 mu), and a step along it a step towards the marginal cost [UO-T]. Capacity
has multipliers of its own, which a gradient step moves by the load beyond it. The sources leave the stride open: here
it is the reciprocal of the steepest change of the gradient so far, which is what a convex problem needs to settle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, Observation
from stackelgrid.games.user_oriented.search import NextPrices, PriceFound, PricingProblem, relative_change


class DualDecomposition:
    """Gradient steps on the dual problem. Only loads are asked."""

    def __init__(self, problem: PricingProblem) -> None:
        self.company = problem.company
        self.residual = float("inf")
        self._tolerance = problem.tolerance
        self._multiplier: Array | float = 0.0  # of capacity, (T,) money per kWh
        self._steepness, self._bend = 1.0, 0.0
        self._last: tuple[Observation, Array] | None = None

    def open(self, price: Array) -> NextPrices:
        """Begin at the flat price."""
        return NextPrices(price, sensitivities=0)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Step towards the marginal cost of the load, and end where it is the price asked."""
        here = observed[0]
        cost = self.company.marginal_cost(here.load)
        self._learn_strides(here, cost)
        base = here.price - self._multiplier
        self._multiplier = self._step_multiplier(here.load)
        target = self._within_bounds(cost + self._multiplier)
        self.residual = relative_change(target, here.price)
        if self.residual <= self._tolerance:
            return PriceFound(self.residual)
        price = base + (cost - base) / self._steepness + self._multiplier
        return NextPrices(self._within_bounds(price), sensitivities=0)

    def _within_bounds(self, price: Array) -> Array:
        return np.clip(price, self.company.price_min, self.company.price_max)

    def _learn_strides(self, here: Observation, cost: Array) -> None:
        """Keep the steepest changes seen: of price less marginal cost, and of the load in kW, per change of the price.

        Of other homes than before nothing is learnt.
        """
        if self._last is not None and here.is_of_same_homes(self._last[0]):
            before, cost_before = self._last
            step = here.price - before.price
            length = float(np.linalg.norm(step))
            if length > 0:
                rise = float(np.linalg.norm(step - (cost - cost_before))) / length
                self._steepness = max(self._steepness, rise)
                self._bend = max(self._bend, float(np.linalg.norm(here.load - before.load)) / length)
        self._last = here, cost

    def _step_multiplier(self, load: Array) -> Array:
        """Move the multipliers by the load beyond capacity; those of a bound that is kept fall back to zero."""
        if self._bend == 0:
            return np.zeros_like(load)
        stride = 1 / self._bend
        above = np.maximum(np.maximum(self._multiplier, 0) + stride * (load - self.company.load_max), 0)
        below = np.minimum(np.minimum(self._multiplier, 0) + stride * (load - self.company.load_min), 0)
        return np.asarray(above + below)
