"""The leader's best price in a game without storage, by exhaustive search. It shares no code with the leader.

With one charge mu in all slots the slots depend on each other by the mean of the load alone, and since the mean is
where the squared deviation is least,

    max over p of U_c(p)  =  max over m  sum_t  max over p_t of (p_t - c_t) L_t(p_t) - mu (L_t(p_t) - m)^2   [UO-7].

So a search along one line suffices for any number of slots: for each m the best price of each slot is found among
samples between all kinks of its load, then in ever narrower windows around the best of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.random_games.homes import Array, PlainHomes

_MEANS, _BETWEEN_KINKS = 40, 24
_HILLS, _TOPS = 3, 3
_WINDOW, _ZOOMS, _BISECTIONS = 9, 20, 40
WITHIN_CAPACITY = 1e-6
"""The violation that counts as none, relative to the largest load."""
FLAT = 1e-9
"""The loss at which a flat price counts as best."""


@dataclass(frozen=True)
class Best:
    """The best price (T,) and the leader's utility, money; `is_flat` if one price for all slots earns as much."""

    price: Array
    utility: float
    is_flat: bool


class Company:
    """The leader of a scenario's content: the charge mu is per kW, and by it the baseline load counts."""

    def __init__(self, content: dict[str, Any], load: Callable[[Array], Array]) -> None:
        leader, slots = content["leader"], content["slots"]
        capacity = leader.get("capacity", {})
        self.wholesale = np.array(leader["wholesale_price"])
        self.mu = leader["mu"] / load(np.full((1, slots), leader["baseline_price"])).mean()
        self.low, self.high = leader["price_min"], leader["price_max"]
        self.load_min, self.load_max = capacity.get("min_kw", -np.inf), capacity.get("max_kw", np.inf)

    def utility(self, price: Array, load: Array) -> Array:
        """Give U_c [UO-7] at prices and loads (K, T), (K,) money."""
        off_mean = load - load.mean(axis=-1, keepdims=True)
        return np.asarray(((price - self.wholesale) * load - self.mu * off_mean**2).sum(axis=-1))

    def violation(self, load: Array) -> Array:
        """Give the distance of loads (K, T) from the capacity [UO-8], (K,) relative to the largest load."""
        outside = np.maximum(load - self.load_max, self.load_min - load).max(axis=-1)
        return np.asarray(np.maximum(outside, 0.0) / np.maximum(load.max(axis=-1), 1e-12))

    def find_price_bounds(self, homes: PlainHomes) -> tuple[Array, Array]:
        """Give the bounds of the price of each slot between which its load keeps the capacity, (T,) each."""
        slots = len(self.wholesale)
        low, high = np.full(slots, self.low), np.full(slots, self.high)
        if np.isfinite(self.load_min):
            high = homes.find_price_of_load(self.load_min, self.low, self.high)
        if np.isfinite(self.load_max):
            at_low = homes.load(np.full((1, slots), self.low))[0]
            reached = homes.find_price_of_load(self.load_max, self.low, self.high)
            low = np.where(at_low <= self.load_max, self.low, reached)
        return low, high


def find_best_price(content: dict[str, Any]) -> Best:
    """Find the best price of a game without storage, within the bounds of the price and the capacity."""
    homes = PlainHomes(content["homes"], content["slots"])
    company = Company(content, homes.load)
    samples = _sample(homes, company)
    load = homes.load(samples.T).T
    best_price, best_utility = _search_mean(homes, company, samples, load)
    flat = _find_best_flat(homes, company, samples)
    if flat is None:
        return Best(best_price, best_utility, is_flat=content["slots"] == 1)
    flat_price, flat_utility = flat
    is_flat = best_utility - flat_utility <= FLAT * max(abs(best_utility), 1)
    return Best(flat_price, flat_utility, True) if is_flat else Best(best_price, best_utility, False)


def _sample(homes: PlainHomes, company: Company) -> Array:
    """Sample the prices of each slot that keep its capacity, (T, n), sorted, every kink among them."""
    low, high = company.find_price_bounds(homes)
    kinks = np.clip(homes.kinks(company.low, company.high), low[:, None], high[:, None])
    steps = np.arange(_BETWEEN_KINKS) / _BETWEEN_KINKS
    between = kinks[:, :-1, None] + steps * np.diff(kinks)[:, :, None]
    return np.hstack([between.reshape(len(low), -1), kinks[:, -1:]])


def _search_mean(homes: PlainHomes, company: Company, samples: Array, load: Array) -> tuple[Array, float]:
    """Search the mean m of the load, from every hill over the means that occur."""
    search = partial(_answer_means, homes, company, samples, load)
    if not company.mu:
        prices, worth = search(np.zeros(1))
        return prices[0], float(worth[0])
    means = np.linspace(load.min(axis=1).mean(), load.max(axis=1).mean(), _MEANS)
    best: tuple[Array, float] = samples[:, 0], -np.inf
    for top in _find_tops(search(means, zooms=_ZOOMS // 2)[1], _HILLS):
        low, high = means[max(top - 1, 0)], means[min(top + 1, len(means) - 1)]
        for _ in range(_BISECTIONS):  # more is earned at a larger m where the load that answers has a larger mean
            middle = (low + high) / 2
            prices, _ = search(np.array([middle]))
            answered = homes.load(prices)
            utility = float(company.utility(prices, answered)[0])
            if utility > best[1]:
                best = prices[0], utility
            low, high = (middle, high) if answered.mean() > middle else (low, middle)
    return best


def _answer_means(
    homes: PlainHomes, company: Company, samples: Array, load: Array, means: Array, zooms: int = _ZOOMS
) -> tuple[Array, Array]:
    """Give the best prices (M, T) for means (M,) and what they earn, zooming in on the best samples of each slot."""
    earned = (samples - company.wholesale[:, None]) * load - company.mu * load**2
    shape = (len(means), len(samples), _TOPS)
    low, high = np.empty(shape), np.empty(shape)
    for m, mean in enumerate(means):
        for slot in range(len(samples)):
            tops = _find_tops(earned[slot] + 2 * company.mu * mean * load[slot], _TOPS)
            tops = np.resize(tops, _TOPS)
            low[m, slot] = samples[slot, np.maximum(tops - 1, 0)]
            high[m, slot] = samples[slot, np.minimum(tops + 1, samples.shape[1] - 1)]
    window = np.linspace(0, 1, _WINDOW)
    for _ in range(zooms):
        price = low[..., None] + window * (high - low)[..., None]  # (M, T, tops, window)
        asked = np.moveaxis(price, 1, -1)
        answered = np.moveaxis(homes.load(asked.reshape(-1, len(samples))).reshape(asked.shape), -1, 1)
        margin = (price - company.wholesale[:, None, None]) * answered
        value = margin - company.mu * (answered - means[:, None, None, None]) ** 2
        at = value.argmax(axis=-1)[..., None]
        low = np.take_along_axis(price, np.maximum(at - 1, 0), -1)[..., 0]
        high = np.take_along_axis(price, np.minimum(at + 1, _WINDOW - 1), -1)[..., 0]
    found, worth = np.take_along_axis(price, at, -1)[..., 0], np.take_along_axis(value, at, -1)[..., 0]
    best = worth.argmax(axis=-1)[..., None]
    prices = np.take_along_axis(found, best, -1)[..., 0]
    return prices, np.asarray(np.take_along_axis(worth, best, -1).sum(axis=(1, 2)))


def _find_best_flat(homes: PlainHomes, company: Company, samples: Array) -> tuple[Array, float] | None:
    """Find the best price that is the same in all slots, None where none keeps the capacity."""
    low, high = samples.min(axis=1).max(), samples.max(axis=1).min()
    if low > high:
        return None
    slots = len(samples)
    tried = np.unique(np.clip(samples, low, high))
    best, utility = np.full(slots, low), -np.inf
    for zoom in range(_ZOOMS):
        prices = np.repeat(tried[:, None], slots, axis=1)
        utilities = company.utility(prices, homes.load(prices))
        at = int(np.argmax(utilities))
        if utilities[at] > utility or zoom == 0:
            best, utility = prices[at], float(utilities[at])
        tried = np.linspace(tried[max(at - 1, 0)], tried[min(at + 1, len(tried) - 1)], _WINDOW)
    return best, utility


def _find_tops(value: Array, most: int) -> NDArray[np.intp]:
    """Give the indices of the highest local maxima of a curve, at most so many, the highest first."""
    padded = np.concatenate([[-np.inf], value, [-np.inf]])
    tops = np.flatnonzero((value >= padded[:-2]) & (value >= padded[2:]))
    return np.asarray(tops[np.argsort(-value[tops], kind="stable")][:most], np.intp)
