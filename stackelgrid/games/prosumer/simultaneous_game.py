"""The simultaneous game among a DR provider's prosumers: its prices, why it settles, and how it is extrapolated.

Of prosumer i the provider knows the load p without the event, PV output and the cost k of a kWh of that; the retail
price r > k comes from the utility. Consumption at the event is x = p - dr. The PV price [PR-13] is a function of the
supply and demand ratio [PR-7],

    SDR = PV / x,      lambda_PV = r k SDR / (r SDR + k - r)  if SDR > 1, else 0,

and falls from r at SDR = 1 towards k [PR-8]. In the simultaneous game at given prices each prosumer answers with the dr
that serves it best against the others' S_i = sum over k != i of 1/dr_k, see [PR-14] and [PR-A]:

    2 alpha dr + 3 alpha S dr^2 = lambda,  or dr = cap if that is less.

Only prosumers that take part, with dr > 0, enter S (derived: else one with dr = 0 would keep all others out).

**Why it settles, and on one equilibrium only** (derived). Write e = ln dr, s = ln S, l = ln lambda, and
q = 3 S dr / (2 + 6 S dr), which lies in [0, 1/2). Differentiated, an answer below its cap moves by
de = (1 - q) dl - q ds, one at its cap not at all; s_i is a soft maximum of the others' -e, so |ds_i| <= max |de|; and
[PR-13] gives dl_i = -g_i de_i with g = (r - k) dr / (r PV - (r - k) x) <= 1 - k/r, because PV > p >= dr where there is
trade. So, in the largest norm over prosumers and slots:

- The simultaneous game, everybody answering the others' last answers, is a contraction by 1/2 in e: at given prices
  there is one Nash equilibrium, and the error halves every round.
- That equilibrium moves by no more than prices do, |de| <= max |dl|. Playing to the equilibrium, then pricing its
  quantities by [PR-13], is a contraction by max(1 - k/r) in l; half-way steps are one by max(1 - k/2r).
- Who takes part does not change on the way: PV > p is SDR > 1 without dr, and dr raises SDR further.

Halving is slow over a network, and 1 - k/r may be near 1. The provider therefore extrapolates: in the first-order
condition of an answer only alpha is unknown, so an answer gives alpha. `Responses` predicts the answers to other prices
and other S (those at their cap stay) and solves for their equilibrium, and the provider asks for that. `Extrapolation`
decides by the results whether the next step extrapolates or is a plain one, whose convergence is proved above.

Where prosumers anticipate how their own dr moves their price, they answer the pay lambda^2 / r in place of lambda
[PR-C], and the price is no move of the provider's in between. As ln of that pay falls with e, an answer moves by less
with S than above: the simultaneous game is a contraction by 1/2 again, and at its equilibrium prices are by [PR-13].

Arrays are (n, T), a row per prosumer, a column per slot: kW, S in 1/kW, money per kWh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stackelgrid.wire.arrays import LARGEST, Array

LEAST_KW = 1e-9
"""A prosumer that provides less takes no part: 1/dr of several such would leave the range of numbers on the wire."""
_TINY_KW = 1e-100
"""The alpha of a prosumer that provides less would leave the range of numbers when it is squared."""
_MOST_STEPS = 200
_AT_CAP = 0.1
"""A prosumer that moves by less than this share of what was predicted is at its cap."""
_MOST_FAILURES = 3


def compute_sdr(load: Array, pv: Array, dr: Array) -> Array:
    """Compute SDR [PR-7], at most `LARGEST`, which stands for no consumption at all (paper)."""
    x = load - dr
    return np.asarray(np.where(x > pv / LARGEST, pv / np.where(x > 0, x, 1.0), np.where(pv > 0, LARGEST, 0.0)))


def price_pv(load: Array, pv: Array, pv_cost: Array, retail: Array, dr: Array) -> Array:
    """Compute lambda_PV [PR-13], multiplied out so that it holds for x = 0 too (paper).

    Where the cost is not below the retail price no price satisfies [PR-8], and there is no trade (reading).
    """
    x = load - dr
    trade = (pv > x) & (pv_cost < retail)
    return np.where(trade, retail * pv_cost * pv, 0.0) / np.where(trade, retail * pv - (retail - pv_cost) * x, 1.0)


def pay_for_more(price: Array, retail: Array) -> Array:
    """Compute d/d dr of lambda (PV - p + dr) with lambda by [PR-13], money per kWh: lambda^2 / r, as in [PR-C]."""
    return np.where(price > 0, price**2, 0.0) / np.where(price > 0, retail, 1.0)


def sum_others(dr: Array) -> Array:
    """Compute S_i, the sum of 1/dr over the other prosumers that take part.

    The others are added up; subtracting a prosumer's own 1/dr from the total would lose digits.
    """
    part = dr > LEAST_KW
    inverse = np.where(part, 1.0, 0.0) / np.where(part, dr, 1.0)
    total = np.zeros_like(dr)
    total[1:] += np.cumsum(inverse, axis=0)[:-1]
    total[:-1] += np.cumsum(inverse[::-1], axis=0)[-2::-1]
    return np.minimum(total, LARGEST)


def log_distance(one: Array, other: Array) -> Array:
    """Compute |ln one - ln other| of non-negative numbers; infinite between zero and any other."""
    both = (one > 0) & (other > 0)
    logarithm = np.log(np.where(both, one, 1.0) / np.where(both, other, 1.0))
    return np.where(both | (one == other), np.abs(logarithm), np.inf)


@dataclass(frozen=True)
class Responses:
    """The last answers: `dr` at `price` against `others`, S; prosumers `capped` seem to be at their cap."""

    price: Array
    others: Array
    dr: Array
    capped: NDArray[np.bool_]

    def update(self, price: Array, others: Array, dr: Array) -> Responses:
        """Take the next answers; who moves much less than predicted is at its cap."""
        moved, predicted = log_distance(dr, self.dr), log_distance(self._predict_uncapped(price, others), self.dr)
        return Responses(price, others, dr, np.where(predicted > 1e-9, moved < _AT_CAP * predicted, self.capped))

    def predict(self, price: Array, others: Array) -> Array:
        """Predict the answers at another price against other S."""
        return np.where(self.capped, self.dr, self._predict_uncapped(price, others))

    def solve_equilibrium(self, price: Callable[[Array], Array]) -> Array:
        """Solve for the predicted equilibrium when `price` follows from dr, by half-way steps in ln dr."""
        dr = self.dr
        for _ in range(_MOST_STEPS):
            last, dr = dr, np.sqrt(dr * self.predict(price(dr), sum_others(dr)))
            if np.max(log_distance(dr, last)) < 1e-15:
                break
        return dr

    @cached_property
    def _alpha(self) -> Array:
        """alpha by the first-order condition; too large for those at their cap, 0 for those that provide nothing."""
        part, dr = self.dr > 0, np.maximum(self.dr, _TINY_KW)
        return np.where(part, self.price, 0.0) / np.where(part, 2 * dr + 3 * self.others * dr**2, 1.0)

    def _predict_uncapped(self, price: Array, others: Array) -> Array:
        alpha = self._alpha
        root = alpha + np.sqrt(alpha**2 + 3 * alpha * others * price)
        return np.where(root > 0, price, 0.0) / np.where(root > 0, root, 1.0)


class Extrapolation:
    """Decides whether the next step extrapolates.

    A step fails when it extrapolated and did not halve the `residual`. A plain step follows a failure; after the third
    failure all steps are plain.
    """

    def __init__(self) -> None:
        self.active = True
        self.residual = np.inf
        self._failures = 0

    def judge(self, residual: float, tolerance: float) -> None:
        """Judge the last step by the residual that it left; at or below `tolerance` it cannot fail."""
        failed = self.active and residual > max(self.residual / 2, tolerance)
        self._failures += failed
        self.active = not failed and self._failures < _MOST_FAILURES
        self.residual = residual
