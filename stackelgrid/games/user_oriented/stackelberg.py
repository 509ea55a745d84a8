"""The `stackelberg` leader: its own optimum given the customers' answer (problem 16).

    max over p in [price_min, price_max]   U_c(p, L(p)),   L_min <= L(p) <= L_max

The answer L(p) has kinks, where an appliance or a storage reaches a limit, and the best price often lies on one: beyond
it the customers bend differently and the gain turns to a loss. A single local model then sends the price to and fro
across the kink. So the leader keeps the rounds it has seen and, as in a bundle method, maximises the least of the
utilities that their models predict, inside a trust region that grows while they predict well and shrinks when they do
not. A model that is proved wrong at the best price is dropped.
"""

from __future__ import annotations

import logging

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, LocalResponse, Observation
from stackelgrid.games.user_oriented.search import Ask, Bend, Settle, relative_change, solve_qp
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_LOG = logging.getLogger("leader_node")
_NEWTON_STEPS = 60
_LEAST_LENGTH = 1e-6
_SETTLED = 1e-13
_FAR = 1e6
_CORNER, _WORTHLESS = 1e-3, 1e-9


class StackelbergSearch:
    """A bundle of local models in a trust region, one round per step. `reach` is relative to the largest price."""

    def __init__(self, company: UtilityCompany, tolerance: float = 1e-6) -> None:
        self.company = company
        self.residual = float("inf")
        self._tolerance = tolerance
        self._learnt = Bend()
        self._reach = 0.4
        self._best: Observation | None = None
        self._bundle: list[Observation] = []
        self._predicted = 0.0
        self._restorations = 3
        self._restoring = False

    def next(self, seen: Observation) -> Ask | Settle:
        """Settle when no price within reach promises more; the price settled on is the best one asked.

        That is a price change within the tolerance, or, where many kinks meet, a promise below 1e-9 of the utility.
        """
        bend = self._learnt.learn(seen)
        if self._learnt.changed:
            self._best, self._bundle = None, []
        self._bundle.append(seen)
        if self._best is None or np.array_equal(seen.price, self._best.price) or self._is_better(seen, self._best):
            self._best = seen
        best = self._best
        models = self._models(best, bend)
        price = self._best_price(models)
        if relative_change(price, best.price) <= self._tolerance:
            models = self._without_disproved(models)
            price = self._best_price(models)
        self.residual = relative_change(price, best.price)
        self._predicted = self._least_merit(models, price) - self._merit(best.price, best.load)
        if self.residual > self._tolerance and not self._is_cornered(best):
            return Ask(price)
        if self.company.violation(best.load) > self._tolerance * float(np.max(best.load)) and self._restorations > 0:
            self._restorations -= 1
            self._restoring = True
            return Ask(self._within_capacity(models[0]))
        return Settle(self.residual) if seen is best else Ask(best.price)

    def _is_cornered(self, best: Observation) -> bool:
        """Whether so many kinks meet here that steps are tiny and promise nothing worth having."""
        return self._reach < _CORNER and self._predicted <= _WORTHLESS * abs(self._merit(best.price, best.load))

    def _within_capacity(self, model: LocalResponse) -> Array:
        """The nearest price within its bounds at which the model keeps capacity, as nearly as possible."""
        price, size = model.at.price, len(model.at.price)
        none = (np.zeros((0, size)), np.zeros(0), np.zeros(0))
        for _ in range(_NEWTON_STEPS):
            box = (self.company.price_min - price, self.company.price_max - price)
            step, _ = solve_qp(
                self.company, np.eye(size), np.zeros(size), box, none, (model.jacobian(price), model.load(price))
            )
            price = price + step
            if np.max(np.abs(step)) <= _SETTLED * np.max(np.abs(price)):
                break
        return price

    def _is_better(self, seen: Observation, best: Observation) -> bool:
        if not self._restoring:
            return self._improves(seen, best)
        # Capacity comes before utility, as long as the way there gets anywhere.
        self._restoring = False
        restored = self.company.violation(seen.load) < 0.5 * self.company.violation(best.load)
        self._restorations = self._restorations if restored else 0
        return restored

    def _improves(self, seen: Observation, best: Observation) -> bool:
        """Whether the new round beats the best so far; the trust region learns from it either way."""
        gained = self._merit(seen.price, seen.load) - self._merit(best.price, best.load)
        if gained < 0.25 * self._predicted:
            self._reach = 0.3 * min(self._reach, relative_change(seen.price, best.price))
        elif gained > 0.75 * self._predicted:
            self._reach = min(2 * self._reach, 1.0)
        # Near the optimum the gain drowns in rounding: a step that small is taken as it is.
        return gained > 0 or self._predicted <= 1e-12 * abs(self._merit(seen.price, seen.load))

    def _merit(self, price: Array, load: Array) -> float:
        """The leader's utility, less a steep charge on what exceeds capacity, money."""
        steep = 10 * max(abs(self.company.price_max), 1e-6)
        return self.company.utility(price, load) - steep * self.company.violation(load)

    def _least_merit(self, models: list[LocalResponse], price: Array) -> float:
        return min(self._merit(price, model.load(price)) for model in models)

    # --- the bundle ---

    def _models(self, best: Observation, bend: Array) -> list[LocalResponse]:
        """The local model at the best price first, then those of other rounds across a kink that holds the leader back.

        Across such a kink each model promises too much where the other one was seen.
        """
        here = LocalResponse(best, bend)
        models = [here]
        floor = self._merit(best.price, best.load)
        slack = 1e-12 * abs(floor)
        for seen in self._bundle:
            there = LocalResponse(seen, bend)
            promised_here = self._merit(best.price, there.load(best.price)) >= floor - slack
            promised_there = (
                self._merit(seen.price, here.load(seen.price)) >= self._merit(seen.price, seen.load) - slack
            )
            if seen is not best and promised_here and promised_there:
                models.append(there)
        return models

    def _without_disproved(self, models: list[LocalResponse]) -> list[LocalResponse]:
        """Only the models that foretell the load seen at the best price: those whose kink it lies on."""
        best = models[0].at
        allowed = 1e-5 * float(np.max(np.abs(best.load)))
        kept = [m for m in models if np.max(np.abs(m.load(best.price) - best.load)) <= allowed]
        self._bundle = [model.at for model in kept]
        return kept

    # --- the local problem ---

    def _best_price(self, models: list[LocalResponse]) -> Array:
        """The best price on the models, within reach of the best one seen and within its bounds."""
        start = models[0].at.price
        width = self._reach * max(float(np.max(np.abs(start))), 1e-9)
        lower = np.clip(start - width, self.company.price_min, self.company.price_max)
        upper = np.clip(start + width, self.company.price_min, self.company.price_max)
        return self._leading_price(models, lower, upper)

    def _leading_price(self, models: list[LocalResponse], lower: Array, upper: Array) -> Array:
        """Maximise the least utility the models predict: Newton steps on max t, t <= U_j(p), capacity kept."""
        company, size = self.company, len(lower)
        price = np.clip(models[0].at.price, lower, upper)
        share = np.full(len(models), 1 / len(models))
        for _ in range(_NEWTON_STEPS):
            loads = [model.load(price) for model in models]
            bends = [model.jacobian(price) for model in models]
            margins = [price - company.marginal_cost(load) for load in loads]
            utility = np.array([company.utility(price, load) for load in loads])
            rise = np.array([load + bend @ m for load, bend, m in zip(loads, bends, margins, strict=True)])
            concavity = sum(
                part * (bend @ company.cost_curvature @ bend - 2 * bend - np.diag(model.curvature(price) * margin))
                for part, model, bend, margin in zip(share, models, bends, margins, strict=True)
            )
            # Variables: the price step in units of the largest price, and t in units of the utility; t's own tiny
            # curvature only makes the program strictly convex.
            unit, worth = max(float(np.max(np.abs(price))), 1e-9), max(float(np.max(np.abs(utility))), 1e-9)
            hessian = np.zeros((size + 1, size + 1))
            hessian[:size, :size] = _convex(np.asarray(concavity)) * unit**2 / worth
            hessian[size, size] = 1e-4
            try:
                solved, multipliers = solve_qp(
                    company,
                    hessian,
                    np.append(np.zeros(size), -1.0),
                    (np.append((lower - price) / unit, -_FAR), np.append((upper - price) / unit, _FAR)),
                    (
                        np.hstack([-rise * unit / worth, np.ones((len(models), 1))]),
                        np.full(len(models), -np.inf),
                        (utility - utility.min()) / worth,
                    ),
                    (np.hstack([bends[0] * unit, np.zeros((size, 1))]), loads[0]),
                )
            except ArithmeticError as error:
                _LOG.warning("a step could not be worked out", extra={"data": {"error": str(error)}})
                break
            step = unit * solved[:size]
            weights = np.abs(multipliers[size + 1 : size + 1 + len(models)])
            if weights.sum() > 0:
                share = weights / weights.sum()
            length, now = 1.0, self._least_merit(models, price)
            while length > _LEAST_LENGTH and self._least_merit(models, price + length * step) < now:
                length /= 2
            if length <= _LEAST_LENGTH:
                break
            price = price + length * step
            if np.max(np.abs(step)) <= _SETTLED * np.max(np.abs(price)):
                break
        return price


def _convex(hessian: Array) -> Array:
    """The matrix with each eigenvalue's absolute value, above a small floor: the other way only the trust region
    holds the step."""
    values, vectors = np.linalg.eigh(hessian)
    size = np.abs(values)
    return np.asarray((vectors * np.maximum(size, 1e-6 * float(np.max(size)))) @ vectors.T)
