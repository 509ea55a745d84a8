"""Mehrotra's predictor-corrector method for a home's joint program [UO-J]: a point near its optimum.

Each step is one block tridiagonal system in the multipliers. The point has all bounds' multipliers too, and tells which
bounds are active; `internal_price.py` goes on from there to the optimum itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.user_oriented.home.block_tridiagonal import BlockTridiagonal
from stackelgrid.games.user_oriented.home.joint_program import JointProgram
from stackelgrid.wire.arrays import Array

_STEPS = 60
_FAR, _NEAR, _AHEAD = 1e-1, 1e-4, 0.05
"""The way to the optimum of the next price begins where the distance from the last one's is this part, `_AHEAD`, of the
change in price, and between these two; all are relative to the largest price."""
_REFINED = 1e-9
"""A step that misses the equations by more, kW or kWh, is refined."""
_ALMOST = 0.995
"""The part of the way to the next bound that a step takes."""
_DIVERGED = 1e12
"""Multipliers so large say that the limits contradict each other."""
_ROUNDING = 1e-14
"""The matrix of the equations is made larger by this part, so that rounding does not make it singular."""


_SIDES = np.array([-1.0, 1.0])[:, None, None]
"""The direction of the lower bounds, and that of the upper ones."""


@dataclass(frozen=True)
class CentralPoint:
    """Variables z (T, n), multipliers of the equations y (T, R), and what is missed.

    `pushes` (2, T, n) are the multipliers of the lower bounds, and of the upper ones.
    """

    z: Array
    y: Array
    pushes: Array
    missed: float = np.inf

    def go(self, step: _Step, primal: float, dual: float) -> CentralPoint:
        """Give the point a part of a step on."""
        return CentralPoint(self.z + primal * step.z, self.y + dual * step.y, self.pushes + dual * step.pushes)


class _Step(NamedTuple):
    z: Array
    y: Array
    pushes: Array


class CentralPath:
    """The way to the optimum of `cost(z) + linear z` within bounds (T, n)."""

    def __init__(self, program: JointProgram, lower: Array, upper: Array, linear: Array) -> None:
        self.program, self.bounds, self.linear = program, np.stack([lower, upper]), linear
        self.scale = max(float(np.max(np.abs(linear))), 1e-3)
        self._free = upper - lower > 1e-12
        self._count = 2 * max(int(self._free.sum()), 1)
        room = np.where(self._free, upper - lower, 1.0)
        self._least_room = np.where(self._free, 1e-15 * room, 1.0)
        self.point = CentralPoint(
            np.where(self._free, lower + room / 2, lower),
            np.zeros((program.slots, program.rows)),
            np.where(self._free, self.scale, np.zeros_like(self.bounds)),
        )
        self._passed: list[tuple[float, CentralPoint]] = []  # each with its distance from the optimum

    def start_from(self, other: CentralPath) -> None:
        """Begin on the path of another price, where the bounds are the same: the nearer that is, the later."""
        if not np.array_equal(self._free, other._free):
            return
        change = float(np.max(np.abs(self.linear - other.linear))) / self.scale
        begin = min(max(_AHEAD * change, _NEAR), _FAR)
        self.point = next((point for distance, point in other._passed if distance < begin), self.point)

    def follow(self, accuracy: float) -> CentralPoint:
        """Go on until no condition is missed by more than `accuracy`: kW, and relative to the largest price."""
        for _ in range(_STEPS):
            program, point, free = self.program, self.point, self._free
            room = np.maximum(_SIDES * (self.bounds - point.z), self._least_room)
            slope = program.slope(point.z) + self.linear - program.multiply_back(point.y)
            dual = free * (slope + point.pushes[1] - point.pushes[0])
            primal = program.right - program.multiply(point.z)
            products = point.pushes * room
            mu = float(products.sum()) / self._count
            missed = max(mu / self.scale, float(np.abs(primal).max()), float(np.abs(dual).max()) / self.scale)
            self.point = point = replace(point, missed=missed)
            self._passed.append((mu / self.scale, point))
            if missed <= accuracy or not mu < _DIVERGED * self.scale:
                break
            newton = _Newton(program, point, free, room, primal, dual)
            ahead = newton.step(products)
            reached = point.go(ahead, *newton.measure(ahead))
            at_best = float((reached.pushes * _SIDES * (self.bounds - reached.z)).sum()) / self._count
            target = free * (mu * min((at_best / mu) ** 3, 1.0))
            step = newton.step(products - _SIDES * ahead.pushes * ahead.z - target)
            self.point = point.go(step, *(min(1.0, _ALMOST * length) for length in newton.measure(step)))
        return self.point


class _Newton:
    """Newton's equations at a point, factored: first the rows that a slot has for itself, then those of the chains."""

    def __init__(
        self,
        program: JointProgram,
        point: CentralPoint,
        free: NDArray[np.bool_],
        room: Array,
        primal: Array,
        dual: Array,
    ) -> None:
        self.program, self.primal, self.dual = program, primal, dual
        self._per_room, self._pushes = _SIDES / room, point.pushes + ~free
        self._stiffness = point.pushes * self._per_room
        curvature = program.curvature(point.z) + self._stiffness[1] - self._stiffness[0]
        self.theta = free / np.where(free, curvature, 1.0)
        coupling = program.couple(self.theta)
        for diagonal in (np.einsum("tii->ti", coupling.own), coupling.chain):
            np.maximum(diagonal * (1 + _ROUNDING), _ROUNDING**2, out=diagonal)
        self._own = np.linalg.inv(coupling.own) if program.first_chain > 1 else 1 / coupling.own
        self._carry = coupling.cross @ self._own
        self._carry_back = self._carry.transpose(0, 2, 1)
        inner = -(self._carry @ coupling.cross.transpose(0, 2, 1))
        np.einsum("tii->ti", inner)[:] += coupling.chain
        self._chains = BlockTridiagonal(inner, coupling.beside)

    def step(self, products: Array) -> _Step:
        """Give the step that takes the products of multipliers and room down by `products`, (2, T, n)."""
        program, theta = self.program, self.theta
        towards = products * self._per_room
        push = towards[0] + towards[1] - self.dual
        y = self._solve(self.primal - program.multiply(theta * push))
        z = theta * (program.multiply_back(y) + push)
        # Near the optimum theta spans many orders of magnitude, and rounding makes the step miss the equations.
        left = self.primal - program.multiply(z)
        if np.abs(left).max() > _REFINED:
            more = self._solve(left)
            y, z = y + more, z + theta * program.multiply_back(more)
        return _Step(z, y, self._stiffness * z - _SIDES * towards)

    def measure(self, step: _Step) -> tuple[float, float]:
        """Give how far the variables and the multipliers can go until one is at its bound, a little over 1 at most.

        They go equally far where appliances curve the cost: what the gradient misses is then linear in neither alone.
        """
        primal = max(_ALMOST, float((step.z * self._per_room).max()))
        dual = max(_ALMOST, -float((step.pushes / self._pushes).min()))
        if self.program.appliances.stop:
            primal = dual = max(primal, dual)
        return 1 / primal, 1 / dual

    def _solve(self, right: Array) -> Array:
        """Solve A theta A' y = right, (T, R)."""
        own, chains = right[:, : self.program.first_chain, None], right[:, self.program.first_chain :, None]
        of_chains = self._chains.solve(chains - self._carry @ own)
        of_own = self._own @ own - self._carry_back @ of_chains
        return np.concatenate([of_own, of_chains], axis=1)[:, :, 0]
