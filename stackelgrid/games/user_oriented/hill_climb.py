"""A climb to the next hilltop of the leader's utility, one price a step [UO-16].

    max over p in [price_min, price_max]   U_c(p, L(p)),   L_min <= L(p) <= L_max

The answer L(p) has kinks, where an appliance or a storage reaches a limit, and the best price often lies on a kink.
There one local model [UO-F] is not enough: the derivative changes at the kink, and the price would jump to and fro
across it. So the climb keeps the observed prices and, as in a bundle method, maximises the least of the utilities that
their models predict. It does so inside a trust region, which grows while the predictions are good and shrinks when they
are not. A model whose prediction is wrong at the best price is dropped.
"""

from __future__ import annotations

import logging

import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.local_response import Array, ExponentEstimator, LocalResponse, Observation
from stackelgrid.games.user_oriented.search import make_convex, relative_change, solve_qp
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_LOG = logging.getLogger("leader_node")
_NEWTON_STEPS = 60
_FIRST_REACH = 0.4
_LEAST_LENGTH = 1e-6
_CONVERGED = 1e-13
_UNBOUNDED = 1e6
_CORNER_REACH, _NEGLIGIBLE_GAIN = 1e-3, 1e-9
_FULL_STEPS, _STEPS_PER_DIGIT = 35, 0.5
"""After so many steps a climb is content with a larger gain that is left, ten times as large every so many steps."""


class HillClimb:
    """A bundle method in a trust region, one round per step. `_reach`, its radius, is relative to the largest price."""

    def __init__(self, company: UtilityCompany, tolerance: float = 1e-6, steps: int = 0) -> None:
        self.company = company
        self.steps = steps  # that the search has taken, in climbs before this one too
        self.residual = float("inf")
        self._tolerance = tolerance
        self._exponents = ExponentEstimator()
        self._reach = _FIRST_REACH
        self._best: Observation | None = None
        self._bundle: list[Observation] = []
        self._predicted = 0.0
        self._restorations = 3
        self._restoring = False

    def step(self, here: Observation) -> Array | None:
        """Give the next price towards the hilltop, None when the climb has ended. Raise `SolverError`.

        It ends when no price in the trust region promises more; the last price asked is then the best one. That is
        when the price change is within the tolerance or, where many kinks meet, the promised gain is below 1e-9 of the
        utility; after 20 steps below more and more of it, so that no home with a kink in every slot, true or pretended,
        keeps the others from settling.
        """
        self.steps += 1
        exponent = self._exponents.update(here)
        if self._exponents.homes_changed:
            self._best, self._bundle, self._reach = None, [], _FIRST_REACH
        self._bundle.append(here)
        best = self._best
        if best is None or np.array_equal(here.price, best.price) or self._is_better(here, best):
            best = self._best = here
        models = self._models(best, exponent)
        price = self._best_price(models)
        if relative_change(price, best.price) <= self._tolerance:
            models = self._drop_wrong_models(models)
            price = self._best_price(models)
        self.residual = relative_change(price, best.price)
        self._predicted = self._least_merit(models, price) - self._merit(best.price, best.load)
        if self.residual > self._tolerance and not self._is_at_corner(best):
            return price
        if self.company.violation(best.load) > self._tolerance * float(np.max(best.load)) and self._restorations > 0:
            self._restorations -= 1
            self._restoring = True
            return self._restore_capacity(models[0])
        return None if here is best else best.price

    def _is_at_corner(self, best: Observation) -> bool:
        """Check for a point where many kinks meet: steps are tiny, and the promised gain is negligible."""
        negligible = _NEGLIGIBLE_GAIN * 10 ** (max(0, self.steps - _FULL_STEPS) / _STEPS_PER_DIGIT)
        return self._reach < _CORNER_REACH and self._predicted <= negligible * abs(self._merit(best.price, best.load))

    def _restore_capacity(self, model: LocalResponse) -> Array:
        """Find the nearest price within its bounds at which the model keeps the capacity, as nearly as possible."""
        price, size = model.at.price, len(model.at.price)
        none = (np.zeros((0, size)), np.zeros(0), np.zeros(0))
        for _ in range(_NEWTON_STEPS):
            box = (self.company.price_min - price, self.company.price_max - price)
            step, _ = solve_qp(
                self.company, np.eye(size), np.zeros(size), box, none, (model.jacobian(price), model.load(price))
            )
            price = price + step
            if np.max(np.abs(step)) <= _CONVERGED * np.max(np.abs(price)):
                break
        return np.clip(price, self.company.price_min, self.company.price_max)  # rounding may leave the box

    def _is_better(self, observed: Observation, best: Observation) -> bool:
        if not self._restoring:
            return self._accept_step(observed, best)
        # Capacity comes before utility, as long as the violation shrinks fast enough.
        self._restoring = False
        restored = self.company.violation(observed.load) < 0.5 * self.company.violation(best.load)
        self._restorations = self._restorations if restored else 0
        return restored

    def _accept_step(self, observed: Observation, best: Observation) -> bool:
        """Decide if a round replaces the best so far, and resize the trust region by the quality of the prediction."""
        gain = self._merit(observed.price, observed.load) - self._merit(best.price, best.load)
        if gain < 0.25 * self._predicted:
            self._reach = 0.3 * min(self._reach, relative_change(observed.price, best.price))
        elif gain > 0.75 * self._predicted:
            self._reach = min(2 * self._reach, 1.0)
        # Near the optimum the gain is smaller than its rounding error: such a step is accepted.
        return gain > 0 or self._predicted <= 1e-12 * abs(self._merit(observed.price, observed.load))

    def _merit(self, price: Array, load: Array) -> float:
        """Give the leader's utility less a steep charge on load beyond capacity, money."""
        steep = 10 * max(float(np.max(self.company.price_max)), 1e-6)
        return self.company.utility(price, load) - steep * self.company.violation(load)

    def _least_merit(self, models: list[LocalResponse], price: Array) -> float:
        return min(self._merit(price, model.load(price)) for model in models)

    def _promises_less(self, models: list[LocalResponse], price: Array, merit: float) -> bool:
        """Tell whether the least merit that the models predict is below a `merit`."""
        return any(self._merit(price, model.load(price)) < merit for model in models)

    # --- the bundle ---

    def _models(self, best: Observation, exponent: Array) -> list[LocalResponse]:
        """Give the local model at the best price, then those of other rounds that lie across a kink from it.

        Across such a kink each of the two models predicts too much at the price where the other one was observed.
        """
        here = LocalResponse(best, exponent)
        models = [here]
        floor = self._merit(best.price, best.load)
        slack = 1e-12 * abs(floor)
        for other in self._bundle:
            there = LocalResponse(other, exponent)
            too_much_here = self._merit(best.price, there.load(best.price)) >= floor - slack
            too_much_there = (
                self._merit(other.price, here.load(other.price)) >= self._merit(other.price, other.load) - slack
            )
            if other is not best and too_much_here and too_much_there:
                models.append(there)
        return models

    def _drop_wrong_models(self, models: list[LocalResponse]) -> list[LocalResponse]:
        """Keep only the models that predict the load observed at the best price: it lies on a kink of theirs."""
        best = models[0].at
        allowed = 1e-5 * float(np.max(np.abs(best.load)))
        kept = [m for m in models if np.max(np.abs(m.load(best.price) - best.load)) <= allowed]
        self._bundle = [model.at for model in kept]
        return kept

    # --- the local problem ---

    def _best_price(self, models: list[LocalResponse]) -> Array:
        """Find the best price on the models, within its bounds and the trust region around the best observed price."""
        start = models[0].at.price
        width = self._reach * max(float(np.max(np.abs(start))), 1e-9)
        lower = np.clip(start - width, self.company.price_min, self.company.price_max)
        upper = np.clip(start + width, self.company.price_min, self.company.price_max)
        return self._maximize_least_utility(models, lower, upper)

    def _maximize_least_utility(self, models: list[LocalResponse], lower: Array, upper: Array) -> Array:
        """Maximise the least utility that the models predict, within capacity [UO-16]: max t, t <= U_j(p)."""
        company, size = self.company, len(lower)
        price = np.clip(models[0].at.price, lower, upper)
        share = np.full(len(models), 1 / len(models))
        for _ in range(_NEWTON_STEPS):
            loads = [model.load(price) for model in models]
            jacobians = [model.jacobian(price) for model in models]
            margins = [price - company.marginal_cost(load) for load in loads]
            utility = np.array([company.utility(price, load) for load in loads])
            rise = np.array([load + jacobian @ m for load, jacobian, m in zip(loads, jacobians, margins, strict=True)])
            concavity = sum(
                part * (j @ company.cost_curvature @ j - 2 * j - np.diag(model.curvature(price) * margin))
                for part, model, j, margin in zip(share, models, jacobians, margins, strict=True)
            )
            # Variables: the price step in units of the largest price, and t in units of the utility. The small
            # curvature of t is there to make the program strictly convex.
            unit, worth = max(float(np.max(np.abs(price))), 1e-9), max(float(np.max(np.abs(utility))), 1e-9)
            hessian = np.zeros((size + 1, size + 1))
            hessian[:size, :size] = make_convex(np.asarray(concavity)) * unit**2 / worth
            hessian[size, size] = 1e-4
            try:
                solved, multipliers = solve_qp(
                    company,
                    hessian,
                    np.append(np.zeros(size), -1.0),
                    (np.append((lower - price) / unit, -_UNBOUNDED), np.append((upper - price) / unit, _UNBOUNDED)),
                    (
                        np.hstack([-rise * unit / worth, np.ones((len(models), 1))]),
                        np.full(len(models), -np.inf),
                        (utility - utility.min()) / worth,
                    ),
                    (np.hstack([jacobians[0] * unit, np.zeros((size, 1))]), loads[0]),
                )
            except SolverError as error:
                if np.array_equal(price, models[0].at.price):
                    raise  # the search has not even begun: that is no optimum
                _LOG.warning("no step of the price found", extra={"data": {"error": str(error)}})
                break
            step = unit * solved[:size]
            weights = np.abs(multipliers[size + 1 : size + 1 + len(models)])
            if weights.sum() > 0:
                share = weights / weights.sum()
            now, length = min(self._merit(price, load) for load in loads), 1.0
            while length > _LEAST_LENGTH and self._promises_less(models, price + length * step, now):
                length /= 2
            if length <= _LEAST_LENGTH:
                break
            price = price + length * step
            if np.max(np.abs(step)) <= _CONVERGED * np.max(np.abs(price)):
                break
        return np.clip(price, lower, upper)  # rounding may leave the box
