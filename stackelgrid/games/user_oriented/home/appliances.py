"""The elastic memoryless appliances of one home: the satisfaction they give and the power they draw at a price.

Arrays are (appliances, slots); prices are (slots,), money per kWh; rates kW. Equation tags are those of
docs/games/user_oriented.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stackelgrid.games.user_oriented.home.model import Elastic
from stackelgrid.wire.arrays import Array


@dataclass(frozen=True)
class _Form:
    """The formulas of one satisfaction form, [UO-9] and [UO-10].

    Arguments: rate x or price p, then x_max, v, omega, alpha, all broadcast together.
    """

    utility: Callable[..., Array]
    marginal: Callable[..., Array]
    curvature: Callable[..., Array]
    demand: Callable[..., Array]
    demand_slope: Callable[..., Array]


_LOG = _Form(
    utility=lambda x, x_max, v, omega, alpha: v * x_max * np.log1p(alpha * x / x_max) / omega,
    marginal=lambda x, x_max, v, omega, alpha: v * alpha / (omega * (1 + alpha * x / x_max)),
    curvature=lambda x, x_max, v, omega, alpha: -v * alpha**2 / (omega * x_max * (1 + alpha * x / x_max) ** 2),
    demand=lambda p, x_max, v, omega, alpha: x_max * (v / (omega * p) - 1 / alpha),
    demand_slope=lambda p, x_max, v, omega, alpha: -x_max * v / (omega * p**2),
)
_POWER = _Form(
    utility=lambda x, x_max, v, omega, alpha: v * x_max * (x / x_max) ** alpha / omega,
    marginal=lambda x, x_max, v, omega, alpha: v * alpha * (x / x_max) ** (alpha - 1) / omega,
    curvature=lambda x, x_max, v, omega, alpha: v * alpha * (alpha - 1) * (x / x_max) ** (alpha - 2) / (omega * x_max),
    demand=lambda p, x_max, v, omega, alpha: x_max * (omega * p / (v * alpha)) ** (1 / (alpha - 1)),
    demand_slope=lambda p, x_max, v, omega, alpha: (
        x_max / ((alpha - 1) * p) * (omega * p / (v * alpha)) ** (1 / (alpha - 1))
    ),
)
_QUADRATIC = _Form(
    utility=lambda x, x_max, v, omega, alpha: (
        v * x_max * (omega**2 - np.maximum(omega - alpha * x / x_max, 0) ** 2) / (2 * alpha)  # flat from satiation on
    ),
    marginal=lambda x, x_max, v, omega, alpha: v * (omega - alpha * x / x_max),
    curvature=lambda x, x_max, v, omega, alpha: -v * alpha / x_max + 0 * x,
    demand=lambda p, x_max, v, omega, alpha: x_max * (omega - p / v) / alpha,
    demand_slope=lambda p, x_max, v, omega, alpha: -x_max / (v * alpha) + 0 * p,
)
_POWER_FLOOR = 1e-9
_FORMS = {"log": _LOG, "power": _POWER, "quadratic": _QUADRATIC}


class ElasticAppliances:
    """Class A2 [UO-2] of one home, every appliance over every slot.

    `lo` and `hi`, (A, T) kW, are the rates between which an appliance moves: x_min and the smaller of x_max and the
    rate where satisfaction goes flat.
    """

    def __init__(self, appliances: list[Elastic], horizon: int) -> None:
        def stack(values: list[float | list[float]]) -> Array:
            rows = [np.broadcast_to(np.asarray(value, float), (horizon,)) for value in values]
            return np.array(rows, float).reshape(len(rows), horizon)

        # Sorted by form: each formula is then evaluated once, on a block of rows.
        ordered = sorted(appliances, key=lambda appliance: appliance.satisfaction.form)
        self.names = [appliance.name for appliance in ordered]
        self.x_max = stack([appliance.max_kw for appliance in ordered])
        self.v = stack([appliance.valuation for appliance in ordered])
        self.omega = stack([appliance.satisfaction.omega for appliance in ordered])
        self.alpha = stack([appliance.satisfaction.alpha for appliance in ordered])
        forms = [appliance.satisfaction.form for appliance in ordered]
        # A power satisfaction is infinitely steep at zero. A floor far below any real rate keeps it finite.
        steep = np.array([[form == "power"] for form in forms], bool).reshape(-1, 1)
        floor = np.where(steep, _POWER_FLOOR * self.x_max, 0.0)
        self.lo = np.maximum(stack([appliance.min_kw for appliance in ordered]), floor)
        flat_at = np.array([[form == "quadratic"] for form in forms], bool).reshape(-1, 1)
        satiation = np.where(flat_at, self.x_max * self.omega / self.alpha, np.inf)
        self.hi = np.maximum(np.minimum(self.x_max, satiation), self.lo)
        self._blocks = []
        for form in sorted(set(forms)):
            rows = slice(forms.index(form), forms.index(form) + forms.count(form))
            parameters = [array[rows] for array in (self.x_max, self.v, self.omega, self.alpha)]
            self._blocks.append((_FORMS[form], rows, parameters))

    def _evaluate(self, formula: str, at: Array) -> Array:
        """Evaluate `formula` of each form at `at`, (A, T) or (T,)."""
        result = np.empty_like(self.x_max)
        for form, rows, parameters in self._blocks:
            value = at if at.ndim == 1 else at[rows]
            result[rows] = getattr(form, formula)(value, *parameters)
        return result

    def utility(self, x: Array) -> Array:
        """Give v x_max S(x / x_max) [UO-9] per appliance and slot, (A, T) money; x (A, T) kW within bounds."""
        return self._evaluate("utility", x)

    def marginal(self, x: Array) -> Array:
        """Give v S'(x / x_max), (A, T) money per kWh."""
        return self._evaluate("marginal", x)

    def curvature(self, x: Array) -> Array:
        """Give v S''(x / x_max) / x_max, (A, T) money per kWh^2, negative."""
        return self._evaluate("curvature", x)

    def demand(self, price: Array) -> Array:
        """Give the best rates at a price [UO-10], (A, T) kW: x_max (S')^-1(p / v) within the bounds; `hi` at p <= 0."""
        positive = price > 0
        with np.errstate(over="ignore", divide="ignore"):
            inner = self._evaluate("demand", np.where(positive, price, 1.0))
        return np.where(positive, np.minimum(np.maximum(inner, self.lo), self.hi), self.hi)

    def demand_slope(self, price: Array, demand: Array) -> Array:
        """Give dx*/dp at `demand(price)`, (A, T) kW per money per kWh; zero where the rate is at a bound."""
        inside = (demand > self.lo) & (demand < self.hi)
        with np.errstate(over="ignore", divide="ignore"):
            slope = self._evaluate("demand_slope", np.where(price > 0, price, 1.0))
        return np.where(inside, slope, 0.0)
