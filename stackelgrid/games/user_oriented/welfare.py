"""The `welfare` leader: the price at which selfish customers maximise the utility of the whole system.

At that price what a customer pays for one more kWh is what it costs the system (proof of Theorem 1):

    p = grad C(L(p)) + nu,      nu >= 0 where L = L_max, nu <= 0 where L = L_min, else 0.

Each round gives the load and its Jacobian J at a price. The leader solves the condition on the local model, which is a
Newton step with a curved response, and goes there; where the price change still wanted does not shrink, it goes less
far.
"""

from __future__ import annotations

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, LocalResponse, Observation
from stackelgrid.games.user_oriented.search import Ask, Bend, Settle, relative_change, solve_qp
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_STEPS = 60
_SETTLED = 1e-13
_LEAST_STRIDE = 1e-6
_BEYOND_DOUBT = 1e-3


class WelfareSearch:
    """Damped Newton's method on p = grad C(L(p)) + nu, one round per step."""

    def __init__(self, company: UtilityCompany, tolerance: float = 1e-6) -> None:
        self.company = company
        self.residual = float("inf")
        self._tolerance = tolerance
        self._bend = Bend()
        self._stride = 1.0
        self._from: Array | None = None
        self._towards: Array | None = None
        self._wanted = float("inf")

    def next(self, seen: Observation) -> Ask | Settle:
        """Settle when the price asked is the marginal cost of the load it called forth, within the tolerance.

        While capacity is exceeded by more than a tenth of that, it goes on, unless the price does not move at all.
        """
        bend = self._bend.learn(seen)
        target = self._marginal_price(LocalResponse(seen, bend))
        self.residual = relative_change(target, seen.price)
        kept = self.company.violation(seen.load) <= 0.1 * self._tolerance * float(np.max(seen.load))
        if self.residual <= self._tolerance and (kept or self.residual <= _BEYOND_DOUBT * self._tolerance):
            return Settle(self.residual)
        if self._from is None or self._bend.changed or self._stride < _LEAST_STRIDE or self.residual < self._wanted:
            # The first step of a search is taken whole; a better place lengthens the stride again.
            self._stride = min(1.0, 2 * self._stride) if self._stride >= _LEAST_STRIDE else 1.0
            self._from, self._towards, self._wanted = seen.price, target, self.residual
        else:
            self._stride /= 4
        assert self._towards is not None
        return Ask(self._from + self._stride * (self._towards - self._from))

    def _marginal_price(self, model: LocalResponse) -> Array:
        """The price that equals the marginal cost of the load it calls forth on the model."""
        price = model.at.price
        step = self._step(model, price)
        for _ in range(_STEPS):
            size = float(np.max(np.abs(step)))
            if size <= _SETTLED * float(np.max(np.abs(price))):
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
        """One Newton step of the condition on the model, a QP over the price change.

        Stationary where p + step = grad C(L + J step) + nu; J is made definite for slots in which nobody bends any
        more, where the price then simply follows the cost.
        """
        company, size = self.company, len(price)
        load, bend = model.load(price), model.jacobian(price)
        give = -bend + 1e-9 * (float(np.max(np.abs(bend))) + 1e-12) * np.eye(size)
        far = np.full(size, 1e3 * (float(np.max(np.abs(price))) + 1.0))
        step, _ = solve_qp(
            company,
            give + give @ company.cost_curvature @ give,
            give @ (price - company.marginal_cost(load)),
            (-far, far),
            (np.zeros((0, size)), np.zeros(0), np.zeros(0)),
            (-give, load),
        )
        return step
