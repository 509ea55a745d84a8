"""The `welfare` leader: the price at which selfish customers maximise the utility of the whole system [UO-B].

At that price a customer pays for one more kWh the amount that it costs the system:

    p = grad C(L(p)) + nu,      nu >= 0 where L = L_max, nu <= 0 where L = L_min, else 0.

Each round gives the load and its Jacobian J at a price. The leader solves the condition on the local model [UO-F],
which is a Newton step with a curved response, and asks the price found. When the price change still wanted does not
shrink, it takes a shorter step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, ExponentEstimator, LocalResponse, Observation
from stackelgrid.games.user_oriented.search import NextPrices, PriceFound, relative_change, solve_qp
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_STEPS = 60
_CONVERGED = 1e-13
_LEAST_STRIDE = 1e-6
_TINY = 1e-3


class WelfareSearch:
    """Damped Newton's method on p = grad C(L(p)) + nu [UO-B], one round per step."""

    def __init__(self, company: UtilityCompany, tolerance: float = 1e-6) -> None:
        self.company = company
        self.residual = float("inf")
        self._tolerance = tolerance
        self._exponents = ExponentEstimator()
        self._stride = 1.0
        self._start: Array | None = None
        self._target: Array | None = None
        self._start_residual = float("inf")

    def open(self, price: Array) -> NextPrices:
        """Begin at the flat price."""
        return NextPrices(price)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """End when the price asked equals the marginal cost of the load that answered it, within the tolerance.

        While the load exceeds capacity by more than a tenth of that, go on, unless the price hardly moves any more.
        """
        here = observed[0]
        target = self._marginal_price(LocalResponse(here, self._exponents.update(here)))
        self.residual = relative_change(target, here.price)
        within_capacity = self.company.violation(here.load) <= 0.1 * self._tolerance * float(np.max(here.load))
        if self.residual <= self._tolerance and (within_capacity or self.residual <= _TINY * self._tolerance):
            return PriceFound(self.residual)
        restart = self._start is None or self._exponents.homes_changed or self._stride < _LEAST_STRIDE
        if restart or self.residual < self._start_residual:
            # The first step of a search is a full one. After a step that reduced the residual the next may be longer.
            self._stride = min(1.0, 2 * self._stride) if self._stride >= _LEAST_STRIDE else 1.0
            self._start, self._target, self._start_residual = here.price, target, self.residual
        else:
            self._stride /= 4
        assert self._start is not None and self._target is not None
        return NextPrices(self._start + self._stride * (self._target - self._start))

    def _marginal_price(self, model: LocalResponse) -> Array:
        """Find the price that equals the marginal cost of the load that the model predicts for it."""
        price = model.at.price
        step = self._step(model, price)
        for _ in range(_STEPS):
            size = float(np.max(np.abs(step)))
            if size <= _CONVERGED * float(np.max(np.abs(price))):
                break
            stride = 1.0
            while stride > _LEAST_STRIDE:
                ahead = self._step(model, price + stride * step)
                if float(np.max(np.abs(ahead))) < (1 - stride / 4) * size:
                    break
                stride /= 2
            else:
                break
            price, step = price + stride * step, ahead
        return price

    def _step(self, model: LocalResponse, price: Array) -> Array:
        """Take one Newton step of the condition on the model, a QP over the price change.

        The step is stationary where p + step = grad C(L + J step) + nu. J is made definite for the slots in which no
        load responds to the price; there the price follows the cost.
        """
        company, size = self.company, len(price)
        load, jacobian = model.load(price), model.jacobian(price)
        response = -jacobian + 1e-9 * (float(np.max(np.abs(jacobian))) + 1e-12) * np.eye(size)
        far = np.full(size, 1e3 * (float(np.max(np.abs(price))) + 1.0))
        step, _ = solve_qp(
            company,
            response + response @ company.cost_curvature @ response,
            response @ (price - company.marginal_cost(load)),
            (-far, far),
            (np.zeros((0, size)), np.zeros(0), np.zeros(0)),
            (-response, load),
        )
        return step
