"""The homes of a small game as arrays: the load that answers many prices at once, by formulas of its own.

It shares no code with the nodes. K prices are asked of H homes with A appliances over T slots; prices are money per
kWh, rates and loads kW. Equation tags are those of docs/games/user_oriented.md.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_BISECTIONS = 60
_HIGHEST = 1e9


class PlainHomes:
    """Homes without storage: their slots do not depend on each other, and a draw limit clips the draw.

    `fixed` (H, T) is the inelastic load; appliances run between `least` and `most` (A, T), homes draw between
    `draw_min` and `draw_max` (H, 1), all in kW.
    """

    def __init__(self, homes: list[dict[str, Any]], slots: int) -> None:
        def spread(values: list[Any]) -> Array:
            rows = [np.broadcast_to(np.asarray(value, float), (slots,)) for value in values]
            return np.array(rows, float).reshape(len(rows), slots)

        owned = [(number, elastic) for number, home in enumerate(homes) for elastic in home.get("elastic", [])]
        tastes = [elastic["satisfaction"] for _, elastic in owned]
        self._owner = np.array([number for number, _ in owned], np.intp)
        self._form = np.array([taste["form"] for taste in tastes], "U9")[:, None]
        self._full = spread([elastic["max_kw"] for _, elastic in owned])
        self._valuation = spread([elastic["valuation"] for _, elastic in owned])
        self._omega = spread([taste["omega"] for taste in tastes])
        self._alpha = spread([taste["alpha"] for taste in tastes])
        self.least = spread([elastic.get("min_kw", 0.0) for _, elastic in owned])
        satiated = np.where(self._form == "quadratic", np.minimum(1.0, self._omega / self._alpha), 1.0)
        self.most = np.maximum(satiated * self._full, self.least)
        self.fixed = np.zeros((len(homes), slots))
        for number, home in enumerate(homes):
            for inelastic in home.get("inelastic", []):
                self.fixed[number] += inelastic["load_kw"]
        limits = [home.get("draw_limit", {}) for home in homes]
        self.draw_min = np.array([limit.get("min_kw", 0.0) for limit in limits]).reshape(-1, 1)
        self.draw_max = np.array([limit.get("max_kw", np.inf) for limit in limits]).reshape(-1, 1)

    def load(self, price: Array) -> Array:
        """Give the total load, (K, T), at prices (K, T)."""
        return np.asarray(self._draw(price[:, None, :]).sum(axis=1))

    def satisfaction(self, price: Array) -> float:
        """Give the satisfaction [UO-9] of all homes together at one price (T,), money.

        Where a draw limit holds, the appliances of a home share what it leaves as at another price.
        """
        price = np.broadcast_to(price, self.fixed.shape)
        drawn = self._draw(price)
        shared = np.where(self._want(price) == drawn, price, self._find_price(drawn, 0.0, _HIGHEST))
        ratio = self._rates(shared[self._owner]) / self._full
        gained = self._by_form(
            np.log1p(self._alpha * ratio) / self._omega,
            ratio**self._alpha / self._omega,
            self._omega * ratio - self._alpha * ratio**2 / 2,
        )
        return float((self._valuation * self._full * gained).sum())

    def kinks(self, low: float, high: float) -> Array:
        """List the prices between which every load is smooth, (T, n), sorted, from `low` to `high`."""
        corners = [self.worth(self.most)[0], self.worth(self.least)[0]]
        corners += [self._find_price(limit, low, high) for limit in (self.draw_min, self.draw_max)]
        ends = np.repeat([[low], [high]], self.fixed.shape[1], axis=1)
        return np.sort(np.clip(np.concatenate([*corners, ends]), low, high), axis=0).T

    def find_price_of_load(self, wanted: float, low: float, high: float) -> Array:
        """Give the highest price of each slot, up to `high`, at which the load is at least `wanted`, (T,)."""
        below, above = (np.full((1, self.fixed.shape[1]), bound) for bound in (low, high))
        enough_at_high = self.load(above) >= wanted
        for _ in range(_BISECTIONS):
            middle = (below + above) / 2
            enough = self.load(middle) >= wanted
            below, above = np.where(enough, middle, below), np.where(enough, above, middle)
        return np.asarray(np.where(enough_at_high, high, below)[0])

    def in_slots(self, slots: NDArray[np.intp]) -> Self:
        """Give the same homes in some of the slots."""
        part = copy(self)
        for name in ("_full", "_valuation", "_omega", "_alpha", "least", "most", "fixed"):
            setattr(part, name, getattr(self, name)[:, slots])
        return part

    def worth(self, rate: Array) -> tuple[Array, Array]:
        """Give the worth of one more kWh at rates (..., A, T), money per kWh, and its derivative."""
        ratio, scale = rate / self._full, self._valuation / self._full
        below = 1 + self._alpha * ratio
        with np.errstate(divide="ignore", invalid="ignore"):
            power = self._alpha / self._omega * ratio ** (self._alpha - 1)
            power_slope = power * (self._alpha - 1) / ratio
        log = self._alpha / (self._omega * below)
        worth = self._by_form(log, power, self._omega - self._alpha * ratio)
        return np.asarray(self._valuation * worth), scale * self._by_form(
            -log * self._alpha / below, power_slope, -self._alpha
        )

    def _draw(self, price: Array) -> Array:
        return np.asarray(np.clip(self._want(price), self.draw_min, self.draw_max))

    def _want(self, price: Array) -> Array:
        """Give what homes would draw without a limit, (..., H, T), at prices (..., H, T) or (..., 1, T)."""
        per_home = np.broadcast_to(price, (*price.shape[:-2], *self.fixed.shape))
        wanted = np.broadcast_to(self.fixed, per_home.shape).copy()
        rates = self._rates(per_home[..., self._owner, :])
        for home in range(len(self.fixed)):
            wanted[..., home, :] += rates[..., self._owner == home, :].sum(axis=-2)
        return wanted

    def _rates(self, price: Array) -> Array:
        """Give the rates [UO-10], (..., A, T), at the price of each appliance, (..., A, T)."""
        relative = np.maximum(price, 1e-300) / self._valuation
        with np.errstate(over="ignore", invalid="ignore"):
            ratio = self._by_form(
                1 / (self._omega * relative) - 1 / self._alpha,
                (self._omega * relative / self._alpha) ** (-1 / np.maximum(1 - self._alpha, 1e-9)),
                (self._omega - relative) / self._alpha,
            )
        return np.where(price > 0, np.clip(self._full * ratio, self.least, self.most), self.most)

    def _find_price(self, draw: Array, low: float, high: float) -> Array:
        """Give the prices at which homes want a draw, (H, T), by bisection."""
        below, above = np.full(self.fixed.shape, low), np.full(self.fixed.shape, high)
        for _ in range(2 * _BISECTIONS):
            middle = (below + above) / 2
            enough = self._want(middle) >= draw
            below, above = np.where(enough, middle, below), np.where(enough, above, middle)
        return np.asarray((below + above) / 2)

    def _by_form(self, log: Array, power: Array, quadratic: Array) -> Array:
        return np.where(self._form == "log", log, np.where(self._form == "power", power, quadratic))
