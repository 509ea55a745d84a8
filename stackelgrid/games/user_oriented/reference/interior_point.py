"""The storages of many homes at many prices, solved at once by a primal-dual interior-point method.

The problem of a home with one storage [UO-6] is a chain: the level b_k after slot k depends on b_(k-1) alone. Newton's
method on it is a tridiagonal system per home and price, and the same few array operations solve all of them. The
elastic appliances of a home whose draw limit binds are variables too, eliminated slot by slot. The nodes use active
sets, one home and price at a time; nothing is shared with them.

Arrays are (n, N): the n slots in the order in which the storage passes them, the N problems (a home and a price). Rates
in kW, levels in kWh, prices in money per kWh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stackelgrid.wire.arrays import Array

Mask = NDArray[np.bool_]

_ITERATIONS = 40
_STEP = 0.995
"""The part of the way to the nearest bound that a step goes."""
_EXACT, _ROUGH = (1e-13, 1e-9), (1e-6, 1e-4)
"""Tolerances of the mean of the products s z, and of the residuals."""
_LAG = 1e3
"""A residual that is so many times the mean of the products is reduced before these are."""
_WIDER, _ROUNDING = 1e-10, 1e-13
"""Bounds are wider by the first, so that there is room between equal ones; a miss by the second is rounding."""
_LEAST_SLACK, _TINY = 0.1, 1e-20
"""The least slack at the start, and the least slack and multiplier ever."""


@dataclass(frozen=True)
class Chains:
    """N chains: r = b_k - b_(k-1) costs price r + fast r^2, a level below `threshold` deep (b - threshold)^2.

    `runs` marks the slots in which a storage may run, the first ones of its column; in others it holds still. `start`
    is (N,), all others (n, N).
    """

    runs: Mask
    start: Array
    least: Array
    most: Array
    charge: Array
    discharge: Array
    fast: Array
    deep: Array
    threshold: Array

    def at(self, rows: NDArray[np.intp]) -> Chains:
        """Give some of the chains."""
        return Chains(**{name: values[..., rows] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Draw:
    """What else draws behind the meters: `fixed` (n, N) kW and rates x (A, n, N) between `lo` and `hi`.

    `there` (A, n, N) marks the rates that there are. `marginal` gives v S'(x / x_max), money per kWh, and its
    derivative by x. `least` and `most` (n, N) limit the draw.
    """

    fixed: Array
    there: Mask
    lo: Array
    hi: Array
    marginal: Callable[[Array], tuple[Array, Array]]
    least: Array
    most: Array


@dataclass(frozen=True)
class Optimum:
    """The best `level` and charging `r`, (n, N), and rates `x` (A, n, N); `solved` (N,) marks what converged."""

    level: Array
    r: Array
    x: Array
    solved: Mask


class _Bounds:
    """The finite bounds of a variable v (..., N): slacks s and multipliers z of both sides, (2, ..., N)."""

    def __init__(
        self, v: Array, lower: Array, upper: Array, used: Mask | bool = True, least_slack: float = _LEAST_SLACK
    ) -> None:
        side = np.array([1.0, -1.0]).reshape(2, *[1] * v.ndim)
        limit = np.array([np.broadcast_to(lower, v.shape), np.broadcast_to(upper, v.shape)])
        self.used = np.isfinite(limit) & used
        self._side = side * self.used
        self._offset = np.where(self.used, _WIDER * (1 + np.abs(limit)) - side * limit, 1.0)
        self._s = np.where(self.used, np.maximum(self._side * v + self._offset, least_slack), 1.0)
        self._z = self.used / self._s

    def prepare(self, v: Array) -> None:
        """Begin an iteration at v: `curvature` and `force` are what the bounds add to the Hessian and the gradient."""
        missing = self._side * v + self._offset - self._s
        self.missing = np.where(np.abs(missing) > _ROUNDING, missing, 0.0)
        self._ratio = self._z / self._s
        self.curvature = self._ratio.sum(axis=0)
        self.force = -np.sum(self._side * self._z, axis=0)
        self.pressure = self._z.sum(axis=0)

    def aim(self, target: Array | float, product: Array | float = 0.0) -> Array:
        """Aim at s z = `target` less the second-order `product`; give the force at a step of zero."""
        self._aim = self.used * (target - product) / self._s - self._z - self._ratio * self.missing
        return np.asarray(self.force - np.sum(self._side * self._aim, axis=0))

    def step(self, dv: Array) -> None:
        """Take note of a step of v: `ds` and `dz` are those that belong to it."""
        change = self._side * dv
        self.ds, self.dz = change + self.missing, self._aim - self._ratio * change

    def longest(self) -> Array:
        """Give the largest part of the step that keeps s and z positive, (N,)."""
        shrinking = np.array([self.ds / self._s, self.dz / np.where(self.used, self._z, 1.0)])
        return np.asarray(1 / np.maximum(1, -shrinking.reshape(-1, shrinking.shape[-1]).min(axis=0, initial=0.0)))

    def products(self, length: Array | None = None) -> Array:
        """Give the products s z, (2, ..., N), or those after a part of the step."""
        if length is None:
            return np.asarray(self._s * self._z)
        return np.asarray((self._s + length * self.ds) * (self._z + length * self.dz))

    def move(self, length: Array) -> None:
        """Go a part of the step, (N,)."""
        self._s = np.maximum(self._s + length * self.ds, _TINY)
        self._z = np.maximum(self._z + length * self.dz, self.used * _TINY)


class _ChainSystem:
    """The linear systems A x = right of N chains, x' A x = sum_k own_k x_k^2 + weight_k (x_k - x_(k-1))^2, factorised.

    They are tridiagonal. The pivots are computed without a difference, so that weights of any size are no harm.
    """

    def __init__(self, own: Array, weight: Array) -> None:
        self._pivot, self._share = np.empty_like(own), np.zeros_like(own)
        rest = own[0] + weight[0]
        for k in range(1, len(own)):
            self._pivot[k - 1] = rest + weight[k]
            self._share[k] = weight[k] / self._pivot[k - 1]
            rest = own[k] + self._share[k] * rest
        self._pivot[-1] = rest

    def solve(self, right: Array) -> Array:
        """Solve for a right-hand side (n, N)."""
        x = right.copy()
        for k in range(1, len(x)):
            x[k] += self._share[k] * x[k - 1]
        x /= self._pivot
        for k in range(len(x) - 2, -1, -1):
            x[k] += self._share[k + 1] * x[k + 1]
        return x


def _rise(level: Array, start: Array | float = 0.0) -> Array:
    """Give b_k - b_(k-1)."""
    rise = level.copy()
    rise[1:] -= level[:-1]
    rise[0] -= start
    return rise


def _fall(value: Array) -> Array:
    """Give v_k - v_(k+1), the transpose of `_rise`."""
    fall = value.copy()
    fall[:-1] -= value[1:]
    return fall


def solve_chains(chains: Chains, price: Array, draw: Draw | None = None, *, exact: bool = True) -> Optimum:
    """Solve the chains at `price` (n, N); with `draw`, within the draw limits and together with what else draws.

    Where `exact` is false, levels are right to about a thousandth.
    """
    tolerances = _EXACT if exact else _ROUGH
    iterate = _Iterate(chains, price, draw)
    solved = np.zeros(chains.runs.shape[1], bool)
    with np.errstate(all="ignore"):  # a chain that fails is told by `solved`
        for _ in range(_ITERATIONS):
            iterate.linearise()
            solved |= (iterate.mean <= tolerances[0]) & (iterate.error <= tolerances[1])
            if np.all(solved):
                break
            iterate.advance(~solved)
    return iterate.optimum(solved)


class _Iterate:
    """A point of Mehrotra's predictor-corrector method, in units in which rates and prices are about 1.

    `mean` (N,) is the mean of the products s z, `error` (N,) the largest residual of the optimality conditions.
    """

    def __init__(self, chains: Chains, price: Array, draw: Draw | None) -> None:
        self._chains, self._draw = chains, draw
        rates = [chains.charge, chains.discharge, *(() if draw is None else draw.hi)]
        kw = np.max([np.max(rate, axis=0) for rate in rates], axis=0)
        self._kw = kw = np.where(kw > 0, kw, 1.0)
        money = np.max(np.abs(price) + 2 * chains.fast * kw, axis=0)
        self._money = money = np.where(money > 0, money, 1.0)
        self._price, self._fast, self._deep = (
            each / money for each in (price, 2 * kw * chains.fast, 2 * kw * chains.deep)
        )
        self._start, self._threshold = chains.start / kw, chains.threshold / kw
        self._level = np.broadcast_to(self._start, chains.runs.shape).copy()
        self._bounds = [
            _Bounds(self._level, chains.least / kw, chains.most / kw, chains.runs),
            _Bounds(np.zeros_like(self._level), -chains.discharge / kw, chains.charge / kw, chains.runs),
        ]
        if draw is not None:
            self._x = (draw.lo + draw.hi) / 2 / kw
            self._bounds += [
                _Bounds(self._x, draw.lo / kw, draw.hi / kw, draw.there, _TINY),
                _Bounds(draw.fixed / kw + self._x.sum(axis=0), draw.least / kw, draw.most / kw),
            ]
        self._count = np.maximum(self._sum(each.used for each in self._bounds), 1)

    def linearise(self) -> None:
        """Set up the Newton system at this point."""
        chains, draw, level = self._chains, self._draw, self._level
        self._r = chains.runs * _rise(level, self._start)
        values = [level, self._r]
        if draw is not None:
            values += [self._x, draw.fixed / self._kw + self._x.sum(axis=0) + self._r]
        for each, value in zip(self._bounds, values, strict=True):
            each.prepare(value)
        on_level, on_rate = self._bounds[:2]
        self._pull = self._price + self._fast * self._r
        self._shallow = self._deep * np.minimum(level - self._threshold, 0)
        weight, along = self._fast + on_rate.curvature, self._pull + on_rate.force
        errors = [side for each in self._bounds for side in each.missing.reshape(-1, *level.shape)]
        if draw is not None:
            on_x, on_draw = self._bounds[2:]
            worth, bend = (value / self._money for value in draw.marginal(self._x * self._kw))
            self._taste = draw.there * (self._price - worth)
            errors += [
                *(draw.there * (self._taste + on_x.force + on_draw.force) / (1 + on_x.pressure + on_draw.pressure))
            ]
            # The appliances are eliminated: together they give way by the sum of `ease` per unit of force.
            self._ease = draw.there / (on_x.curvature - bend * self._kw)
            self._stiff = on_draw.curvature / (1 + self._ease.sum(axis=0) * on_draw.curvature)
            weight, along = weight + self._stiff, along + on_draw.force
        own = np.where(chains.runs, self._deep * (level < self._threshold) + on_level.curvature, 1.0)
        self._system = _ChainSystem(own, chains.runs * weight)
        errors.append(chains.runs * (_fall(chains.runs * along) + self._shallow + on_level.force))
        self.error = np.max([np.max(np.abs(each), axis=0) for each in errors], axis=0)
        self.mean = self._sum(each.products() for each in self._bounds) / self._count

    def advance(self, which: Mask) -> None:
        """Step to the next point, those of the chains that are marked."""
        _, length = self._step(0.0, [0.0] * len(self._bounds))
        ahead = self._sum(each.products(length) for each in self._bounds) / self._count
        second = [each.ds * each.dz for each in self._bounds]
        # Where the residual lags behind, it comes first.
        centre = np.where(self.error > _LAG * self.mean, 1.0, (ahead / self.mean) ** 3)
        steps, length = self._step(self.mean * centre, second)
        length = np.where(which, np.where(length < 1, _STEP * length, 1.0), 0.0)
        self._level = self._level + length * steps[0]
        if self._draw is not None:
            self._x = self._x + length * steps[2]
        for each in self._bounds:
            each.move(length)

    def _step(self, target: Array | float, second: Sequence[Array | float]) -> tuple[list[Array], Array]:
        """Solve the Newton system for s z = `target` less `second`; give the variables' steps and their length."""
        runs, draw = self._chains.runs, self._draw
        forces = [each.aim(target, product) for each, product in zip(self._bounds, second, strict=True)]
        along = self._pull + forces[1]
        if draw is not None:
            on_each = self._taste + draw.there * (forces[2] + forces[3])
            pushed = (self._ease * on_each).sum(axis=0)
            along = along + forces[3] - self._stiff * pushed
        level = self._system.solve(np.where(runs, -_fall(runs * along) - self._shallow - forces[0], 0.0))
        r = runs * _rise(level)
        steps = [level, r]
        if draw is not None:
            # The draw's step is not summed from theirs: behind a limit that binds they cancel.
            total = (r - pushed) / (1 + self._ease.sum(axis=0) * self._bounds[3].curvature)
            steps += [-self._ease * (on_each + self._stiff * (r - pushed)), total]
        for each, step in zip(self._bounds, steps, strict=True):
            each.step(step)
        return steps, np.min([each.longest() for each in self._bounds], axis=0)

    def _sum(self, parts: Iterable[Array]) -> Array:
        """Sum (..., N) to (N,)."""
        return np.asarray(sum(part.reshape(-1, part.shape[-1]).sum(axis=0) for part in parts))

    def optimum(self, solved: Mask) -> Optimum:
        """Give the point in kW and kWh."""
        x = np.zeros((0, *self._level.shape)) if self._draw is None else self._x
        r = self._chains.runs * _rise(self._level, self._start)
        return Optimum(self._level * self._kw, r * self._kw, x * self._kw, solved)
