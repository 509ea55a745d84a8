"""Mehrotra's predictor-corrector method for a home's joint program [UO-J]: a point near its optimum.

Each step is one block tridiagonal system in the multipliers. The point has all bounds' multipliers too, and tells which
bounds are active; `internal_price.py` goes on from there to the optimum itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from stackelgrid.games.user_oriented.home.block_tridiagonal import BlockTridiagonal
from stackelgrid.games.user_oriented.home.joint_program import JointProgram
from stackelgrid.wire.arrays import Array

_STEPS = 60
_ALMOST = 0.995
"""The part of the way to the next bound that a step takes."""
_DIVERGED = 1e12
"""Multipliers so large say that the limits contradict each other."""
_ROUNDING = 1e-14
"""The matrix of the equations is made larger by this part, so that rounding does not make it singular."""


@dataclass(frozen=True)
class CentralPoint:
    """Variables z (T, n), multipliers of the equations y (T, R) and of the bounds (T, n), and what is missed."""

    z: Array
    y: Array
    at_lower: Array
    at_upper: Array
    missed: float = np.inf

    def go(self, step: _Step, primal: float, dual: float) -> CentralPoint:
        """Give the point a part of a step on."""
        return CentralPoint(
            self.z + primal * step.z,
            self.y + dual * step.y,
            self.at_lower + dual * step.at_lower,
            self.at_upper + dual * step.at_upper,
        )


class _Step(NamedTuple):
    z: Array
    y: Array
    at_lower: Array
    at_upper: Array


class CentralPath:
    """The way to the optimum of `cost(z) + linear z` within bounds (T, n)."""

    def __init__(self, program: JointProgram, lower: Array, upper: Array, linear: Array) -> None:
        self.program, self.lower, self.upper, self.linear = program, lower, upper, linear
        self.scale = max(float(np.max(np.abs(linear))), 1e-3)
        self._free = upper - lower > 1e-12
        self._count = 2 * max(int(self._free.sum()), 1)
        room = np.where(self._free, upper - lower, 1.0)
        self._least_room = np.where(self._free, 1e-15 * room, 1.0)
        pushes = np.where(self._free, self.scale, 0.0)
        self.point = CentralPoint(
            np.where(self._free, lower + room / 2, lower), np.zeros((program.slots, program.rows)), pushes, pushes
        )

    def follow(self, accuracy: float) -> CentralPoint:
        """Go on until no condition is missed by more than `accuracy`: kW, and relative to the largest price."""
        for _ in range(_STEPS):
            program, point, free = self.program, self.point, self._free
            low = np.maximum(point.z - self.lower, self._least_room)
            high = np.maximum(self.upper - point.z, self._least_room)
            slope = program.slope(point.z) + self.linear - program.multiply_back(point.y)
            dual = np.where(free, slope - point.at_lower + point.at_upper, 0.0)
            primal = program.right - program.multiply(point.z)
            mu = self._mean_product(point, low, high)
            missed = max(mu / self.scale, float(np.abs(primal).max()), float(np.abs(dual).max()) / self.scale)
            self.point = point = replace(point, missed=missed)
            if missed <= accuracy or not mu < _DIVERGED * self.scale:
                break
            curvature = program.curvature(point.z) + point.at_lower / low + point.at_upper / high
            theta = free / np.where(free, curvature, 1.0)
            newton = _Newton(program, point, theta, low, high, primal, dual)
            ahead = newton.step(point.at_lower * low, point.at_upper * high)
            reached = point.go(ahead, *self._lengths(ahead))
            at_best = self._mean_product(reached, reached.z - self.lower, self.upper - reached.z)
            target = mu * min((at_best / mu) ** 3, 1.0)
            step = newton.step(
                point.at_lower * low + ahead.at_lower * ahead.z - target,
                point.at_upper * high - ahead.at_upper * ahead.z - target,
            )
            self.point = point.go(step, *(min(1.0, _ALMOST * length) for length in self._lengths(step)))
        return self.point

    def _mean_product(self, point: CentralPoint, low: Array, high: Array) -> float:
        return float(((point.at_lower * low + point.at_upper * high) * self._free).sum()) / self._count

    def _lengths(self, step: _Step) -> tuple[float, float]:
        """Give how far the variables and the multipliers can go until one is at its bound, a little over 1 at most.

        They go equally far where appliances curve the cost: a dual residual is then linear in neither alone.
        """
        point, longest = self.point, 1 / _ALMOST
        bound = np.where(step.z < 0, self.lower, self.upper)
        with np.errstate(divide="ignore", invalid="ignore"):
            primal = float(np.where(step.z != 0, (bound - point.z) / step.z, longest)[self._free].min(initial=longest))
            dual = longest
            for push, change in ((point.at_lower, step.at_lower), (point.at_upper, step.at_upper)):
                dual = min(dual, float(np.where(change < 0, -push / change, longest).min()))
        if self.program.appliances.stop:
            primal = dual = min(primal, dual)
        return primal, dual


class _Newton:
    """Newton's equations at a point, factored: first the rows that a slot has for itself, then those of the chains."""

    def __init__(
        self,
        program: JointProgram,
        point: CentralPoint,
        theta: Array,
        low: Array,
        high: Array,
        primal: Array,
        dual: Array,
    ) -> None:
        self.program, self.point, self.theta, self.low, self.high = program, point, theta, low, high
        self.primal, self.dual = primal, dual
        local, beside = program.couple(theta)
        rows = np.arange(program.rows)
        local[:, rows, rows] = np.maximum(local[:, rows, rows] * (1 + _ROUNDING), _ROUNDING**2)
        first = program.first_chain
        self._own, self._cross = np.linalg.inv(local[:, :first, :first]), local[:, first:, :first]
        self._carry = self._cross @ self._own
        self._chains = BlockTridiagonal(local[:, first:, first:] - self._carry @ self._cross.transpose(0, 2, 1), beside)

    def step(self, at_lower: Array, at_upper: Array) -> _Step:
        """Give the step that takes the products of multipliers and room down by `at_lower` and `at_upper`, (T, n)."""
        program, theta = self.program, self.theta
        push = -self.dual - at_lower / self.low + at_upper / self.high
        y = self._solve(self.primal - program.multiply(theta * push))
        z = theta * (program.multiply_back(y) + push)
        moves = theta > 0
        return _Step(
            z,
            y,
            np.where(moves, -(at_lower + self.point.at_lower * z) / self.low, 0.0),
            np.where(moves, (self.point.at_upper * z - at_upper) / self.high, 0.0),
        )

    def _solve(self, right: Array) -> Array:
        """Solve A theta A' y = right, (T, R)."""
        own, chains = right[:, : self.program.first_chain, None], right[:, self.program.first_chain :, None]
        of_chains = self._chains.solve(chains - self._carry @ own)
        of_own = self._own @ (own - self._cross.transpose(0, 2, 1) @ of_chains)
        return np.concatenate([of_own, of_chains], axis=1)[:, :, 0]
