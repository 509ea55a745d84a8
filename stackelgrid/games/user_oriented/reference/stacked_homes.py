"""The homes' private parameters stacked into arrays, and their utilities and limits, which need no solver.

Appliances are rows (A, T); storages are flattened, an entry per storage and slot in which it may run, in that order
(M,). Rates and loads in kW, levels in kWh, prices in money per kWh; H homes, T slots of one hour. Equation tags are
those of docs/games/user_oriented.md. It shares no code with the nodes' own solvers, which it serves to check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.user_oriented.home import Elastic, Home, Storage
from stackelgrid.wire.arrays import Array

Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

# Arguments: ratio q = x / x_max or relative price e = p / v, then omega, alpha.
_SATISFACTION: dict[str, Callable[[Array, Array, Array], Array]] = {
    "log": lambda q, omega, alpha: np.log1p(alpha * q) / omega,
    "power": lambda q, omega, alpha: q**alpha / omega,
    "quadratic": lambda q, omega, alpha: (
        omega * np.minimum(q, omega / alpha) - alpha * np.minimum(q, omega / alpha) ** 2 / 2
    ),
}
_RATIO_WANTED: dict[str, Callable[[Array, Array, Array], Array]] = {
    "log": lambda e, omega, alpha: 1 / (omega * e) - 1 / alpha,
    "power": lambda e, omega, alpha: (omega * e / alpha) ** (1 / (alpha - 1)),
    "quadratic": lambda e, omega, alpha: (omega - e) / alpha,
}
_RATIO_SLOPE: dict[str, Callable[[Array, Array, Array], Array]] = {
    "log": lambda e, omega, alpha: -1 / (omega * e**2),
    "power": lambda e, omega, alpha: (omega * e / alpha) ** (1 / (alpha - 1)) / ((alpha - 1) * e),
    "quadratic": lambda e, omega, alpha: -1 / alpha + 0 * e,
}

_HALVINGS = 160
_BRACKET = 1e15


class Appliances:
    """Class A2 [UO-2]: the `home` (A,) of each; `v`, `x_max`, `omega`, `alpha` and the bounds `lo`, `hi` are (A, T).

    `hi` is the smaller of x_max and the rate at which a quadratic satisfaction goes flat.
    """

    def __init__(self, owned: Sequence[tuple[int, Elastic]], slots: int) -> None:
        def rows(values: list[float | list[float]]) -> Array:
            spread = [np.broadcast_to(np.asarray(value, float), (slots,)) for value in values]
            return np.array(spread).reshape(len(spread), slots)

        self.home: Index = np.array([home for home, _ in owned], np.intp)
        self.v = rows([appliance.valuation for _, appliance in owned])
        self.x_max = rows([appliance.max_kw for _, appliance in owned])
        self.omega = rows([appliance.satisfaction.omega for _, appliance in owned])
        self.alpha = rows([appliance.satisfaction.alpha for _, appliance in owned])
        self.form = np.array([appliance.satisfaction.form for _, appliance in owned], "U9")
        self.of_form: dict[str, Index] = {form: np.flatnonzero(self.form == form) for form in _SATISFACTION}
        self.lo = rows([appliance.min_kw for _, appliance in owned])
        self.hi = self.x_max.copy()
        satiable = self.of_form["quadratic"]
        self.hi[satiable] *= np.minimum(1, self.omega[satiable] / self.alpha[satiable])
        self.hi = np.maximum(self.hi, self.lo)

    def _each(self, formulas: dict[str, Callable[[Array, Array, Array], Array]], at: Array) -> Array:
        result = np.empty(np.broadcast_shapes(at.shape, self.x_max.shape))
        for form, formula in formulas.items():
            rows = self.of_form[form]
            if len(rows):
                result[..., rows, :] = formula(at[..., rows, :], self.omega[rows], self.alpha[rows])
        return result

    def satisfaction(self, x: Array) -> Array:
        """Give v x_max S(x / x_max) [UO-9], (A, T), money; rates x (A, T) kW."""
        return self.v * self.x_max * self._each(_SATISFACTION, x / self.x_max)

    def demand(self, price: Array) -> Array:
        """Give the best rates [UO-10], clipped to the bounds, kW: (A, T) at a price (T,) or (A, T), else (K, A, T)."""
        positive = np.broadcast_to(price, np.broadcast_shapes(price.shape, self.v.shape)) > 0
        relative = np.where(positive, price, 1.0) / self.v
        with np.errstate(over="ignore", divide="ignore"):
            wanted = self.x_max * self._each(_RATIO_WANTED, relative)
        return np.where(positive, np.clip(wanted, self.lo, self.hi), self.hi)

    def demand_slope(self, price: Array) -> Array:
        """Give d demand / d price, (A, T), at a price (T,); zero where a bound holds."""
        demand = self.demand(price)
        relative = np.where(price > 0, price, 1.0) / self.v
        with np.errstate(over="ignore", divide="ignore"):
            slope = self.x_max / self.v * self._each(_RATIO_SLOPE, relative)
        return np.where((demand > self.lo) & (demand < self.hi), slope, 0.0)


class Stores:
    """Class A3 [UO-3], an entry per storage and slot in which it may run (M,).

    `home` and `slot` are the entry's; `before` is the entry one slot earlier, itself where `first`. `start` is the
    initial level at the first entry and zero elsewhere; `least` the lowest level allowed, the needed one at the end.
    """

    def __init__(self, owned: Sequence[tuple[int, Storage]], slots: int) -> None:
        runs = [storage.slots(slots) for _, storage in owned]
        sizes = [len(each) for each in runs]
        storages = [storage for _, storage in owned]

        def entries(values: Sequence[float]) -> Array:
            return np.repeat(np.array(values, float), sizes)

        self.home: Index = np.repeat(np.array([home for home, _ in owned], np.intp), sizes)
        self.slot: Index = np.concatenate([np.zeros(0, np.intp), *runs])
        self.capacity = entries([storage.capacity_kwh for storage in storages])
        self.charge = entries([storage.charge_kw for storage in storages])
        self.discharge = entries([storage.discharge_kw for storage in storages])
        self.fast = entries([storage.wear.fast for storage in storages])
        self.deep = entries([storage.wear.deep for storage in storages])
        self.threshold = entries([storage.wear.depth * storage.capacity_kwh for storage in storages])
        ends = np.cumsum(np.array(sizes, np.intp))
        begins = ends - np.array(sizes, np.intp)
        self.first: Mask = np.zeros(len(self.slot), bool)
        self.first[begins] = True
        self.before: Index = np.arange(len(self.slot)) - ~self.first
        self.start = np.zeros(len(self.slot))
        self.start[begins] = [storage.initial_kwh for storage in storages]
        self.least = np.zeros(len(self.slot))
        self.least[ends - 1] = [storage.least_final_kwh for storage in storages]

    def charging(self, level: Array) -> Array:
        """Give the net charging r, (M,) kW, that leads to the levels (M,) kWh at the end of each slot."""
        return np.asarray(level - np.where(self.first, self.start, level[self.before]))

    def wear(self, level: Array) -> Array:
        """Give the wear D(r) [UO-4] of each entry, (M,), money."""
        shallow = np.minimum(level - self.threshold, 0)
        return np.asarray(self.fast * self.charging(level) ** 2 + self.deep * shallow**2)

    def violation(self, level: Array) -> Array:
        """Give the distance of each entry from its limits, (M,), kWh or kW; zero within them."""
        r = self.charging(level)
        over = [0 * r, self.least - level, level - self.capacity, r - self.charge, -self.discharge - r]
        return np.asarray(np.max(over, axis=0))


class StackedHomes:
    """Homes as arrays: inelastic load `fixed` (H, T) and draw limits (H,) kW, their appliances and storages."""

    def __init__(self, homes: Sequence[Home], slots: int) -> None:
        self.ids = [home.id for home in homes]
        self.slots = slots
        self.fixed = np.zeros((len(homes), slots))
        for row, home in enumerate(homes):
            for load in home.inelastic:
                if load.load_kw is not None:
                    self.fixed[row] += load.load_kw
                for hour in load.hours or ():
                    self.fixed[row, hour - 1] += load.rate_kw or 0.0
        self.draw_min = np.array([home.draw_limit.min_kw for home in homes], float)
        self.draw_max = np.array(
            [np.inf if home.draw_limit.max_kw is None else home.draw_limit.max_kw for home in homes], float
        )
        self.appliances = Appliances([(i, each) for i, home in enumerate(homes) for each in home.elastic], slots)
        self.stores = Stores([(i, each) for i, home in enumerate(homes) for each in home.storage], slots)
        self.single: Mask = np.array([len(home.storage) <= 1 for home in homes], bool)

    def sum_by_home(self, rates: Array) -> Array:
        """Sum over each home's appliances, (..., A, T) to (..., H, T)."""
        total = np.zeros((*rates.shape[:-2], *self.fixed.shape))
        owners, first = np.unique(self.appliances.home, return_index=True)
        if len(owners):
            total[..., owners, :] = np.add.reduceat(rates, first, axis=-2)
        return total

    def sum_storage(self, entries: Array) -> Array:
        """Sum over each home's storages at their slots, (M,) to (H, T)."""
        total = np.zeros_like(self.fixed)
        np.add.at(total, (self.stores.home, self.stores.slot), entries)
        return total

    def utility(self, x: Array, level: Array) -> Array:
        """Give satisfaction less wear of each home, (H,) money, at rates (A, T) and levels (M,); no bill taken off."""
        return np.asarray(
            self.sum_by_home(self.appliances.satisfaction(x)).sum(1) - self.sum_storage(self.stores.wear(level)).sum(1)
        )

    def utility_of(self, draw: Array, stored: Array) -> Array:
        """Give the most satisfaction less wear (H,), money, that a draw (H, T) kW and stored energy (H, T) kWh allow.

        The appliances draw the rest that the storage does not take, at equal marginal satisfaction. This is defined for
        `single` homes, with at most one storage. With several, their sum does not determine each one's level: nan.
        """
        level = stored[self.stores.home, self.stores.slot]
        x = self._split(draw - self.fixed - self.sum_storage(self.stores.charging(level)))
        return np.where(self.single, self.utility(x, level), np.nan)

    def violation_of(self, draw: Array, stored: Array) -> float:
        """Give the largest distance of draws and stored energy (H, T) from the homes' limits, kW or kWh."""
        level = stored[self.stores.home, self.stores.slot]
        single = self.single[self.stores.home]
        elastic = draw - self.fixed - self.sum_storage(self.stores.charging(level))
        least, most = self.sum_by_home(self.appliances.lo), self.sum_by_home(self.appliances.hi)
        outside = np.maximum(least - elastic, elastic - most)[self.single]
        limits = np.maximum(self.draw_min[:, None] - draw, draw - self.draw_max[:, None])
        return float(
            max(0.0, *(np.max(part, initial=0.0) for part in (outside, limits, self.stores.violation(level)[single])))
        )

    def _split(self, elastic: Array) -> Array:
        """Split `elastic` (H, T) into rates (A, T) at equal marginal satisfaction, by bisection of the price."""
        home = self.appliances.home
        scale = float(np.max(self.appliances.v, initial=1.0))
        low, high = np.full_like(elastic, scale / _BRACKET), np.full_like(elastic, scale * _BRACKET)
        for _ in range(_HALVINGS):
            price = np.sqrt(low * high)
            too_much = self.sum_by_home(self.appliances.demand(price[home])) > elastic
            low, high = np.where(too_much, price, low), np.where(too_much, high, price)
        return self.appliances.demand(high[home])
