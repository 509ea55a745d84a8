"""A home with one storage as a small convex programme, solved for many prices at once by an interior-point method.

It shares no code with the nodes, which use an active-set method. Equation tags are those of
docs/games/user_oriented.md.

Variables in the n slots in which the storage may run: its level b at the end of each, the rate x of each appliance,
and s, the depth below the threshold of deep discharge. Each Newton step eliminates x and s, which leaves a tridiagonal
system in b, so that numpy solves all prices together. K prices; arrays are (K, n), those of A appliances (K, A, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.random_games.homes import Array, PlainHomes

Quantity = Literal["level", "charging", "rate", "draw", "cover"]  # cover: b + s
Values = dict[Quantity, Array]

_STEPS = 80
_CLOSE_ENOUGH, _FEASIBLE = 1e-11, 1e-9
_TO_BOUNDARY = 0.995


class MixedHomes:
    """Homes with and without storage."""

    def __init__(self, homes: list[dict[str, Any]], slots: int) -> None:
        self._plain = PlainHomes([home for home in homes if "storage" not in home], slots)
        self._storing = [StoringHome(home, slots) for home in homes if "storage" in home]

    def load(self, price: Array) -> Array:
        """Give the total load at prices (K, T), (K, T) kW."""
        return np.asarray(sum((home.load(price) for home in self._storing), start=self._plain.load(price)))


class StoringHome:
    """The answer of a home with one storage [UO-3], [UO-4] to a price [UO-6], within its draw limit [UO-A]."""

    def __init__(self, home: dict[str, Any], slots: int) -> None:
        (self._storage,) = home["storage"]
        hours = self._storage.get("available", {"first": 1, "last": slots})
        first, last = hours["first"] - 1, hours["last"] - 1
        self._window = (first + np.arange((last - first) % slots + 1)) % slots
        self._all_day = PlainHomes([home], slots)
        self._in_window = self._all_day.in_slots(self._window)

    def load(self, price: Array) -> Array:
        """Give the load at prices (K, T), (K, T) kW."""
        load = self._all_day.load(price)
        load[:, self._window] = _Programme(self._in_window, self._storage, price[:, self._window]).solve()
        return load


@dataclass
class _Limit:
    """A constraint sign * value + constant >= 0 on a quantity, with its slack and its multiplier."""

    of: Quantity
    sign: float
    constant: Array
    slack: Array
    multiplier: Array

    def miss(self, values: Values) -> Array:
        """Give how far the slack is from what it stands for."""
        return self.sign * values[self.of] + self.constant - self.slack


class _Programme:
    """The home's problem in the window of its storage at K prices: Newton's method on the perturbed KKT conditions."""

    def __init__(self, home: PlainHomes, storage: dict[str, Any], price: Array) -> None:
        self._home, self._price = home, price
        wear, size, self._start = storage["wear"], storage["capacity_kwh"], storage["initial_kwh"]
        self._fast, self._deep = wear["fast"], wear.get("deep", 0.0)
        threshold, need = wear.get("depth", 0.2) * size, storage.get("final_kwh", self._start)
        self._is_full_at_end = need >= size  # then the last level is no variable
        self._is_stuck = home.most - home.least <= 1e-12

        # Every limit has room at the start: the storage charges slowly, and appliances leave power for that.
        count, n = price.shape
        end = size if self._is_full_at_end else self._start + 0.3 * min(size - self._start, n * storage["charge_kw"])
        floor, ceiling = np.append(np.zeros(n - 1), need), np.full(n, size)
        if self._is_full_at_end:
            floor[-1], ceiling[-1] = size - 1, size + 1
        self._level = np.tile(np.linspace(self._start, end, n + 1)[1:], (count, 1))
        span = home.most - home.least
        least = home.fixed[0] + (end - self._start) / n + home.least.sum(axis=0)
        share = np.minimum(1.0, (home.draw_max[0] - least) / np.maximum(span.sum(axis=0), 1e-9)) / 2
        self._rate = np.tile(home.least + share * span, (count, 1, 1))
        self._depth = np.maximum(threshold - self._level, 0) + 1
        self._limits: list[_Limit] = []
        self._bound("level", floor, ceiling)
        self._bound("charging", -storage["discharge_kw"], storage["charge_kw"])
        self._bound("rate", home.least - self._is_stuck, home.most + self._is_stuck)
        self._bound("draw", home.draw_min[0], home.draw_max[0])
        self._bound("cover", threshold if self._deep else -np.inf, np.inf)

    def _bound(self, of: Quantity, lower: Array | float, upper: Array | float) -> None:
        for sign, constant in ((1.0, -np.asarray(lower)), (-1.0, np.asarray(upper))):
            if np.isfinite(constant).all():
                slack = np.maximum(sign * self._values()[of] + constant, 1e-3)
                self._limits.append(_Limit(of, sign, constant, slack, 1 / slack))

    def _values(self) -> Values:
        charging = np.diff(self._level, axis=1, prepend=self._start)
        draw = self._home.fixed[0] + charging + self._rate.sum(axis=1)
        cover = self._level + self._depth
        return {"level": self._level, "charging": charging, "rate": self._rate, "draw": draw, "cover": cover}

    def solve(self) -> Array:
        """Give the draw in the window, (K, n) kW; nan where steps become too short, at one price of some thousands."""
        centring = np.full(len(self._price), 0.5)
        limits = self._limits
        size = sum(limit.slack[0].size for limit in limits)
        for _ in range(_STEPS):
            values = self._values()
            gap = np.sum([_by_price(c.slack * c.multiplier).sum(axis=1) for c in limits], axis=0) / size
            missed = np.max([_by_price(np.abs(c.miss(values))).max(axis=1) for c in limits], axis=0)
            is_solved = (gap <= _CLOSE_ENOUGH) & (missed <= _FEASIBLE)
            if is_solved.all():
                break
            # The gap closes no faster than the limits are met; else steps become short.
            target = np.maximum(np.maximum(centring * gap, np.minimum(gap, 0.1 * missed)), 0.1 * _CLOSE_ENOUGH)
            length = self._move(values, target, is_solved)
            centring = np.where(length > 0.8, 0.05, 0.4)
        return np.where(is_solved[:, None], values["draw"], np.nan)

    def _move(self, values: Values, target: Array, is_solved: NDArray[np.bool_]) -> Array:
        """Take a step towards slack times multiplier = `target` (K,), where not solved yet; give its length (K,)."""
        steps = self._find_steps(values, target)
        length, moves = np.where(is_solved, 0.0, 1.0), []
        for c in self._limits:
            slack = c.sign * steps[c.of] + c.miss(values)
            multiplier = (_over(target, c.slack) - c.multiplier * (c.slack + slack)) / c.slack
            moves.append((slack, multiplier))
            for value, change in ((c.slack, slack), (c.multiplier, multiplier)):
                room = np.where(change < 0, -value / np.where(change < 0, change, -1.0), np.inf)
                length = np.minimum(length, _TO_BOUNDARY * _by_price(room).min(axis=1))
        for c, (slack, multiplier) in zip(self._limits, moves, strict=True):
            c.slack = c.slack + _over(length, slack) * slack
            c.multiplier = c.multiplier + _over(length, slack) * multiplier
        self._level = self._level + length[:, None] * steps["level"]
        self._rate = self._rate + length[:, None, None] * steps["rate"]
        self._depth = self._depth + length[:, None] * (steps["cover"] - steps["level"])
        return length

    def _find_steps(self, values: Values, target: Array) -> Values:
        """Solve the Newton system. `weight` is what the limits add to its diagonal, `push` to its right side."""
        weight = {name: np.zeros_like(value) for name, value in values.items()}
        push = {name: np.zeros_like(value) for name, value in values.items()}
        for c in self._limits:
            weight[c.of] += c.multiplier / c.slack
            push[c.of] += c.sign * (_over(target, c.slack) - c.multiplier * c.miss(values)) / c.slack
        worth, bend = self._home.worth(self._rate)
        stiffness = np.where(self._is_stuck, np.inf, weight["rate"] - bend)
        rise_x = worth - self._price[:, None, :] + push["rate"] + push["draw"][:, None, :]
        softness, moved = (1 / stiffness).sum(axis=1), (rise_x / stiffness).sum(axis=1)
        shared = weight["draw"] / (1 + weight["draw"] * softness)
        rise_r = -self._price - 2 * self._fast * values["charging"] + push["charging"] + push["draw"] - shared * moved
        stiff_s = 2 * self._deep + weight["cover"] if self._deep else np.ones_like(self._level)
        rise_s = push["cover"] - 2 * self._deep * self._depth
        own = weight["level"] + weight["cover"] * 2 * self._deep / stiff_s
        rise_b = push["level"] + push["cover"] - weight["cover"] * rise_s / stiff_s
        rise_b = rise_b + rise_r - np.append(rise_r[:, 1:], 0 * rise_r[:, :1], axis=1)
        link = 2 * self._fast + weight["charging"] + shared
        level = _solve_chain(own, link, rise_b, self._is_full_at_end)
        charging = np.diff(level, axis=1, prepend=0)
        elastic = (moved - weight["draw"] * softness * charging) / (1 + weight["draw"] * softness)
        rate = (rise_x - (weight["draw"] * (charging + elastic))[:, None, :]) / stiffness
        depth = (rise_s - weight["cover"] * level) / stiff_s
        draw = charging + rate.sum(axis=1)
        return {"level": level, "charging": charging, "rate": rate, "draw": draw, "cover": level + depth}


def _solve_chain(own: Array, link: Array, rise: Array, is_end_fixed: bool) -> Array:
    """Solve own_t b_t + link_t (b_t - b_{t-1}) - link_{t+1} (b_{t+1} - b_t) = rise_t, from first to last and back."""
    n = own.shape[1]
    last = n - 1 if is_end_fixed else n
    after = np.append(link[:, 1:], 0 * link[:, :1], axis=1)
    held, right, step = own + link, rise.copy(), np.zeros_like(own)
    for t in range(1, last):  # held: what holds b_t from its own side and from all before; no difference is taken
        share = link[:, t] / (held[:, t - 1] + link[:, t])
        held[:, t] = own[:, t] + held[:, t - 1] * share
        right[:, t] += share * right[:, t - 1]
    for t in range(last - 1, -1, -1):
        ahead = step[:, t + 1] * after[:, t] if t + 1 < n else 0.0
        step[:, t] = (right[:, t] + ahead) / (held[:, t] + after[:, t])
    return step


def _by_price(value: Array) -> Array:
    """Give a row per price."""
    return value.reshape(len(value), -1)


def _over(per_price: Array, value: Array) -> Array:
    """Give a number per price the shape that goes with a value."""
    return per_price.reshape(-1, *[1] * (value.ndim - 1))
