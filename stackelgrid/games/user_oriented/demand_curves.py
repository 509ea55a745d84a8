"""The customers' demand as the leader has learnt it, a curve per slot, where no load depends on another slot's price.

Without storage the load of a slot falls with the price of that slot alone. So each answer gives a point, with its
slope, on the curve of every slot. Between two points the curve is smooth or has kinks, where an appliance reaches a
limit:

- *smooth*: a power L' = s (p / a)^(-e - 1) [UO-F] from one of the points leads to the other;
- *one kink*: where the powers that go on from both points meet;
- *open*, with more kinks: they do not meet in between. The chord stands for the curve until another answer is known.

Prices are money per kWh, loads kW. Arrays are (n, T) for the n points of each slot in the order of their prices, and
(n - 1, T) for the intervals between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.user_oriented.local_response import Array, Observation

_BISECTIONS = 50
_EXACT = 1e-9
"""A power that misses the next point by less than this part of the slot's largest load leads to it."""
_EXPONENTS = (-1.0, 10.0)
_NARROW, _BENT = 1e-5, 1e-2
"""A kink is where the slope changes by more than the second part of it within the first part of the price."""
_SAMPLES = 6
"""So many prices inside each interval are on the grid, besides its ends and its kink."""


@dataclass(frozen=True)
class DemandCurves:
    """The curves through all points that were observed.

    In an interval the power from the lower point, with the exponent `up`, goes as far as `kink`, from there on that of
    the upper point, with the exponent `down`. `gap`, kW, is by how much a power misses the other point, 0 where the
    interval is smooth.
    """

    price: Array
    load: Array
    slope: Array
    up: Array
    down: Array
    kink: Array
    gap: Array
    is_open: NDArray[np.bool_]

    def at(self, price: Array) -> Array:
        """Give the loads at prices (G, T) between the outermost points, kW."""
        number = np.empty(price.shape, np.intp)
        for slot, known in enumerate(self._known):
            number[:, slot] = known.searchsorted(price[:, slot], side="right")
        return self._within(np.minimum(np.maximum(number - 1, 0), len(self.price) - 2), price)

    def grid(self) -> tuple[Array, Array]:
        """Give prices (G, T) all along the curves, in ascending order, and the loads there."""
        a, b = self.price[:-1], self.price[1:]
        inside = np.stack([a + (b - a) * k / (_SAMPLES + 1) for k in range(_SAMPLES + 1)], axis=1)
        price = np.sort(np.concatenate([inside, self.kink[:, None]], axis=1), axis=1)
        number = np.broadcast_to(np.arange(len(a))[:, None, None], price.shape).reshape(-1, a.shape[1])
        price = price.reshape(-1, a.shape[1])
        load = self._within(number, price)
        return np.vstack([price, self.price[-1:]]), np.vstack([load, self.load[-1:]])

    def find_kinks(self) -> Array:
        """Find the prices, of all slots together, at which a kink has been seen from both sides."""
        a, b, sa, sb = self.price[:-1], self.price[1:], self.slope[:-1], self.slope[1:]
        narrow = (b > a) & (b - a <= _NARROW * np.abs(b))
        return np.unique(self.kink[narrow & (np.abs(sb - sa) > _BENT * np.maximum(np.abs(sa), np.abs(sb)))])

    def _within(self, number: NDArray[np.intp], price: Array) -> Array:
        """Give the loads at prices (G, T) in the intervals of that `number`, (G, T)."""
        count, slots = self.kink.shape
        interval = number * slots + np.arange(slots)
        piece = interval + count * slots * (price > self.kink.take(interval))
        load, start, slope, exponent, bent = (values.take(piece) for values in self._powers)
        curve = load + _integrate(start, slope, exponent, bent, price)
        la, lb = self.load[:-1].take(interval), self.load[1:].take(interval)
        if self.is_open.any():
            a, b = self.price[:-1].take(interval), self.price[1:].take(interval)
            share = np.where(b > a, (price - a) / np.where(b > a, b - a, 1.0), 0.0)
            curve = np.where(self.is_open.take(interval), la + share * (lb - la), curve)
        return np.asarray(np.minimum(np.maximum(curve, np.minimum(la, lb)), np.maximum(la, lb)))

    @cached_property
    def _known(self) -> list[Array]:
        """The prices of the points of each slot, (n,) each."""
        return list(np.ascontiguousarray(self.price.T))

    @cached_property
    def _powers(self) -> tuple[Array, ...]:
        """The load at each lower point and the power up from there, then at each upper one down, (2, n - 1, T)."""
        price, load, slope = (np.stack([values[:-1], values[1:]]) for values in (self.price, self.load, self.slope))
        return load, *_describe_power(price, slope, np.stack([self.up, self.down]))


def learn_demand_curves(observed: Sequence[Observation]) -> DemandCurves:
    """Learn the curves from observations with slopes, at least two."""
    price = np.array([o.price for o in observed])
    order = np.argsort(price, axis=0, kind="stable")
    price, load, slope = (
        np.take_along_axis(values, order, axis=0)
        for values in (price, np.array([o.load for o in observed]), np.array([o.slope for o in observed]))
    )
    exact = _EXACT * np.max(np.abs(load), axis=0) + 1e-12
    a, b, la, lb, sa, sb = price[:-1], price[1:], load[:-1], load[1:], slope[:-1], slope[1:]
    fitted = _fit_exponent(a, b, sa, sb)
    smooth = np.abs(la + _rise(a, sa, fitted, b) - lb) <= exact
    up, down = _spread(fitted, smooth)
    # At a kink the slope observed is that of one side. The power from the far end shows that the other side is smooth.
    miss_up, miss_down = np.abs(la + _rise(a, sa, up, b) - lb), np.abs(lb + _rise(b, sb, down, a) - la)
    kink, meets = _intersect(a, b, la, lb, sa, sb, up, down)
    kink = np.where(miss_up <= exact, b, np.where(miss_down <= exact, a, kink))
    smooth = (miss_up <= exact) | (miss_down <= exact)
    gap = np.where(smooth, 0.0, np.minimum(np.minimum(miss_up, miss_down), np.abs(lb - la)))
    return DemandCurves(price, load, slope, up, down, kink, gap, ~smooth & ~meets)


def _fit_exponent(a: Array, b: Array, sa: Array, sb: Array) -> Array:
    """Give the exponent of the power that has both slopes, -1 (a line) where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = -1 - np.log(sb / sa) / np.log(b / a)
    return np.where(np.isfinite(exponent) & (a > 0), np.clip(exponent, *_EXPONENTS), -1.0)


def _spread(fitted: Array, smooth: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Give each interval the exponents of its lower and its upper point: those of the next smooth intervals there."""
    up, down = np.where(smooth, fitted, np.nan), np.where(smooth, fitted, np.nan)
    for number in range(1, len(fitted)):
        up[number] = np.where(np.isnan(up[number]), up[number - 1], up[number])
        down[-1 - number] = np.where(np.isnan(down[-1 - number]), down[-number], down[-1 - number])
    return np.where(np.isnan(up), -1.0, up), np.where(np.isnan(down), -1.0, down)


def _intersect(
    a: Array, b: Array, la: Array, lb: Array, sa: Array, sb: Array, up: Array, down: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Find where the powers from both ends meet, and whether they do so between the ends and between their loads."""

    def difference(price: Array) -> Array:
        return la + _rise(a, sa, up, price) - lb - _rise(b, sb, down, price)

    low, high = a.copy(), b.copy()
    sign = np.sign(difference(a))
    meets = sign * difference(b) < 0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = sign * difference(middle) > 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    load = la + _rise(a, sa, up, low)
    rounding = 1e-9 * (np.abs(la) + np.abs(lb))
    return np.where(meets, low, b), meets & (load <= la + rounding) & (load >= lb - rounding)


def _rise(start: Array, slope: Array, exponent: Array, price: Array) -> Array:
    """Integrate L' = slope (p / start)^(-e - 1) from `start` to `price`, kW."""
    return _integrate(*_describe_power(start, slope, exponent), price)


def _describe_power(start: Array, slope: Array, exponent: Array) -> tuple[Array, Array, Array, Array]:
    """Give what `_integrate` needs of a power besides the price."""
    bent = np.where((start > 0) & (exponent > -1), start, np.nan)  # nan where the power is a line
    return start, slope, np.where(np.abs(exponent) < 1e-6, 1e-6, exponent), bent


def _integrate(start: Array, slope: Array, exponent: Array, bent: Array, price: Array) -> Array:
    ratio = np.fmax(price / bent, 1e-2)
    along = start * (1 - ratio**-exponent) / exponent
    return np.asarray(slope * np.where(np.isnan(bent), price - start, along))
