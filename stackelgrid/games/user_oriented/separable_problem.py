"""The leader's problem on learnt demand curves: its best price, and the prices that would teach most [UO-16].

Where the load of a slot is a curve of its own price, the mean load alone ties the slots to each other. With one charge
mu in all slots

    max over p of U_c  =  max over m of  sum_t  max over p_t of (p_t - c_t) L_t(p_t) - mu (L_t(p_t) - m)^2,    (derived)

since the squared deviation is least from the mean. For a given m each slot has its own best price, found by a search
all along its curve, whatever hills that has. Then m is searched. Where mu differs between slots, this is a start, and
the slots are improved from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stackelgrid.games.user_oriented.demand_curves import DemandCurves
from stackelgrid.games.user_oriented.local_response import Array
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_MEANS = 41
_ZOOMS, _POINTS = 7, 17
_SECTIONS, _CLOSER = 8, 0.05
_GOLDEN = (5**0.5 - 1) / 2
_SWEEPS = 40
_BISECTIONS = 60
_SHARES = np.linspace(0, 1, 7)
_ASIDE = 0.05
_SAME = 1e-6
"""Prices that differ by less than this part are one."""


class SeparableProblem:
    """The leader's problem on demand curves, within price bounds and capacity [UO-8].

    A capacity that no price keeps is violated as little as possible in the worst slot, and in no slot by more.
    """

    def __init__(self, company: UtilityCompany, curves: DemandCurves) -> None:
        self._company, self._curves = company, curves
        price, load = curves.grid()
        self._most = company.load_max + max(0.0, float(np.max(load[-1] - company.load_max)))
        self._least = company.load_min - max(0.0, float(np.max(company.load_min - load[0])))
        self._low, self._high = price[0], price[-1]
        if np.isfinite(self._most).any():
            self._low = self._cross(self._most)[1]
        if np.isfinite(self._least).any():
            self._high = np.maximum(self._cross(self._least - 1e-12 * np.abs(self._least))[0], self._low)
        self._price = np.clip(price, self._low, self._high)
        self._load = curves.at(self._price)

    def _cross(self, load: Array) -> tuple[Array, Array]:
        """Find between which prices, (T,) each, the curves fall to a load, (T,); bounds where they do not."""
        first, last = self._curves.price[0], self._curves.price[-1]
        low, high = first, last
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            above = self._curves.at(middle[None])[0] > load
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        low = np.where(self._curves.load[-1] > load, last, low)
        high = np.where(self._curves.load[0] <= load, first, high)
        return low, high

    def load(self, price: Array) -> Array:
        """Give the load at a price, both (T,)."""
        return np.asarray(self._curves.at(price[None])[0])

    def solve(self, count: int = 2, precision: float = 1e-12) -> list[Array]:
        """Find the best prices (T,), at most `count`, the best first, each from another start.

        Each ends where a sweep over the slots adds less than `precision` of the utility.
        """
        slot = np.arange(len(self._low))
        bounds = self._load.min(axis=0).mean(), self._load.max(axis=0).mean()
        means = np.linspace(*bounds, _MEANS) if self._company.mu.any() else np.array(bounds[:1])
        starts = np.unique([np.argmax(self._worth(self._price, self._load, m), axis=0) for m in means], axis=0)
        found = sorted((self._state(self._price[start, slot]) for start in starts), key=lambda state: -state.utility)
        best = sorted((self._improve(state, precision) for state in found[:count]), key=lambda state: -state.utility)
        return [state.price for state in best]

    def find_promising(self, at: Array, least: float, count: int) -> list[Array]:
        """Find at most `count` prices (T,) to learn from, where a slot may gain more than `least`, the best first.

        In an interval that is not smooth the load may lie anywhere between those of its ends, but no further from the
        curve than its gap, if a single kink explains it. The utility that the best of these loads would add, at the
        best price for it and with the other slots as `at` the price, is what the interval promises. A slot that has
        nothing more to promise stays as it is.
        """
        curves, state = self._curves, self._state(at)
        a, b = curves.price[:-1], curves.price[1:]
        promise = np.max([self._foretell_gain(state, a + share * (b - a)) for share in _SHARES], axis=0)
        where, slot = np.where(curves.is_open, (a + b) / 2, curves.kink), np.arange(len(at))
        order = np.argsort(-promise, axis=0, kind="stable")[:count]
        chosen = np.where(promise[order, slot] > least, where[order, slot], at)
        return [price for price in chosen if (price != at).any()]

    def find_shared_kinks(self, at: Array, least: float) -> list[Array]:
        """Find the price (T,) with each slot at that kink of another one that promises it most; none if none does.

        Most appliances are the same in all slots, and so are the prices at which they reach their limits.
        """
        curves, state = self._curves, self._state(at)
        a, b = curves.price[:-1], curves.price[1:]
        best, chosen = np.full(len(at), least), at
        for kink in curves.find_kinks():
            near = _SAME * abs(kink)
            inside = (a < kink - near) & (kink + near < b) & (self._low <= kink) & (kink <= self._high)
            gain = np.where(inside, self._foretell_gain(state, np.full(a.shape, kink)), -np.inf).max(axis=0)
            best, chosen = np.maximum(best, gain), np.where(gain > best, kink, chosen)
        return [] if (chosen == at).all() else [chosen]

    def _foretell_gain(self, state: _State, price: Array) -> Array:
        """Give the utility that each interval may add at a price in it, (n - 1, T) money; -inf where it is known."""
        curves = self._curves
        a, b = curves.price[:-1], curves.price[1:]
        unknown = (b - a > 1e-9 * np.abs(b)) & (curves.gap > 0) & (b >= self._low) & (a <= self._high)
        slack = np.where(curves.is_open, np.inf, curves.gap)
        price = np.clip(price, self._low, self._high)
        curve = curves.at(price)
        high = np.clip(curve + slack, self._least, np.minimum(curves.load[:-1], np.maximum(self._most, curve)))
        low = np.clip(curve - slack, np.maximum(curves.load[1:], np.minimum(self._least, curve)), high)
        gain = self._gain(state, price, np.clip(self._best_load(state, price), low, high))
        return np.where(unknown, gain, -np.inf)

    def surround(self, price: Array) -> list[Array]:
        """Give a price a little below another one, (T,), and one a little above, to see the curve on both sides."""
        known = self._curves.price
        below = np.where(known < price, known, -np.inf).max(axis=0)
        above = np.where(known > price, known, np.inf).min(axis=0)
        steps = (-_ASIDE * (price - below), _ASIDE * (above - price))
        aside = [np.where(np.isfinite(step), np.clip(price + step, self._low, self._high), price) for step in steps]
        return [each for each in aside if (each != price).any()]

    # --- the search ---

    def _state(self, price: Array) -> _State:
        load = self.load(price)
        return _State(price, load, self._company.utility(price, load))

    def _worth(self, price: Array, load: Array, mean: float) -> Array:
        """Give what each slot adds to the utility, (G, T) money, when the deviation is taken from `mean`."""
        return np.asarray((price - self._company.wholesale_price) * load - self._company.mu * (load - mean) ** 2)

    def _improve(self, state: _State, precision: float) -> _State:
        """Improve all slots by their mean, then each slot with the others as they are, as long as that adds utility."""
        reach = float(np.ptp(self._load)) / (_MEANS - 1)
        for _ in range(_SWEEPS):
            before = state.utility
            if self._company.mu.any():
                followed = self._state(self._follow_mean(state.load.mean(), reach))
                state, reach = max(state, followed, key=lambda each: each.utility), reach * _CLOSER
            price, gain = self._search_slots(state)
            alone = np.where(np.arange(len(price)) == np.argmax(gain), price, state.price)
            state = max(state, self._state(price), self._state(alone), key=lambda each: each.utility)
            if state.utility - before <= precision * abs(before):
                break
        return state

    def _search_slots(self, state: _State) -> tuple[Array, Array]:
        """Find for each slot the best price with the others as they are, and what it gains, (T,) each."""
        price, load, slot = self._price, self._load, np.arange(len(self._low))
        for _ in range(_ZOOMS):
            gain = self._gain(state, price, load)
            best = np.argmax(gain, axis=0)
            found = price[best, slot], gain[best, slot]
            price = _divide(price[np.maximum(best - 1, 0), slot], price[np.minimum(best + 1, len(price) - 1), slot])
            load = self._curves.at(price)
        return found

    def _follow_mean(self, mean: float, reach: float) -> Array:
        """Search the mean load, within `reach` of `mean`, at which the slots' own best prices are worth most."""
        low, high = mean - reach, mean + reach
        inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
        found = [self._search_mean(m) for m in inner]
        for _ in range(_SECTIONS):
            if found[0][1] >= found[1][1]:
                high = inner[1]
                inner = [high - _GOLDEN * (high - low), inner[0]]
                found = [self._search_mean(inner[0]), found[0]]
            else:
                low = inner[0]
                inner = [inner[1], low + _GOLDEN * (high - low)]
                found = [found[1], self._search_mean(inner[1])]
        return max(found, key=lambda pair: pair[1])[0]

    def _search_mean(self, mean: float) -> tuple[Array, float]:
        """Find each slot's best price for a mean load, (T,), and what these are worth together, money."""
        price, load, slot = self._price, self._load, np.arange(len(self._low))
        for _ in range(_ZOOMS):
            worth = self._worth(price, load, mean)
            best = np.argmax(worth, axis=0)
            found = price[best, slot], float(worth[best, slot].sum())
            price = _divide(price[np.maximum(best - 1, 0), slot], price[np.minimum(best + 1, len(price) - 1), slot])
            load = self._curves.at(price)
        return found

    def _gain(self, state: _State, price: Array, load: Array) -> Array:
        """Give the utility added, (G, T) money, where one slot alone changes to a price and a load."""
        change = load - state.load
        worth, bend = self._differentiate(state, price)
        return np.asarray((price - state.price) * state.load + worth * change - bend * change**2)

    def _best_load(self, state: _State, price: Array) -> Array:
        """Give the load of a slot that would be best at a price, (G, T) kW, if the leader could choose it."""
        worth, bend = self._differentiate(state, price)
        change = np.where(bend > 0, worth / np.where(bend > 0, 2 * bend, 1.0), np.copysign(np.inf, worth))
        return np.asarray(state.load + change)

    def _differentiate(self, state: _State, price: Array) -> tuple[Array, Array]:
        """Give the worth of a kWh more in one slot alone, (G, T), and half of what less each further one has, (T,)."""
        company, slots = self._company, len(state.load)
        off_mean = state.load - state.load.mean()
        worth = price - company.wholesale_price - 2 * company.mu * off_mean + 2 * (company.mu @ off_mean) / slots
        return worth, company.mu * (1 - 2 / slots) + company.mu.sum() / slots**2


def _divide(low: Array, high: Array) -> Array:
    """Give `_POINTS` prices from a lower to a higher one in each slot, as `numpy.linspace` would, but sooner."""
    price = np.arange(_POINTS)[:, None] * ((high - low) / (_POINTS - 1)) + low
    price[-1] = high
    return np.asarray(price)


@dataclass(frozen=True)
class _State:
    """A price and the load that follows, (T,), and the utility, money."""

    price: Array
    load: Array
    utility: float
