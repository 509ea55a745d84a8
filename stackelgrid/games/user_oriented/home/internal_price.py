"""The exact optimum of a home's joint program [UO-J], from a guess of its active limits.

A home has a price of its own, pi, and a worth of what it stores, lambda. At these, each control and each appliance has
a closed form. pi is the price while the meter buys, the feed-in price while it feeds in, and unknown in a slot in which
the meter stands at zero or at a limit; lambda_t = keep_{t+1} lambda_{t+1} but where a level stands at a limit. So a set
of active limits leaves few unknowns. Newton's method finds them from as many equations, the limits themselves; then
those limits are changed that are exceeded, or that pull the wrong way, until there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.user_oriented.home.interior_point import CentralPoint
from stackelgrid.games.user_oriented.home.joint_program import JointProgram
from stackelgrid.wire.arrays import Array

Modes = NDArray[np.int8]
AT_LEAST, FEEDS_IN, AT_ZERO, BUYS, AT_MOST = range(5)
"""The state of the meter in a slot: at one of its limits, at zero, or between them."""

_NEAR = 0.03
"""Prices are near that differ by no more, relative to the largest."""
_RIDGE = 1e-9
"""A matrix that may be singular is made larger by this part; the next of Newton's steps makes up for it."""
_SOLVED = 1e-12
"""The most that an equation may miss, relative to the largest of the home's."""
_EXACT = 1e-10
"""The most that the optimum may miss: a limit, kW or kWh, and a multiplier's sign, relative to the largest price."""


@dataclass(frozen=True)
class Tariff:
    """The prices of a question, (T,): what is bought costs `price`, what is fed in is paid `feed_in`, never more.

    In the slots that are `kinked` the two differ, and the meter can do both.
    """

    price: Array
    feed_in: Array
    kinked: NDArray[np.bool_]

    @property
    def scale(self) -> float:
        """The largest of the prices, by which what is missed is measured."""
        return max(1e-3, float(np.max(np.abs(self.price))))

    def is_near(self, other: Tariff) -> bool:
        """Tell whether the prices are so near to those of another that most active limits are the same."""
        return float(np.max(np.abs(self.price - other.price))) <= _NEAR * self.scale


@dataclass(frozen=True)
class ActiveLimits:
    """The limits that are active: `meter` (T,); `inverter` (T,) and `level` (T, S), -1 lower, 0 none, 1 upper."""

    meter: Modes
    inverter: Modes
    level: Modes

    def differ_from(self, other: ActiveLimits) -> bool:
        """Tell whether any limit is another."""
        pairs = ((self.meter, other.meter), (self.inverter, other.inverter), (self.level, other.level))
        return not all(np.array_equal(one, another) for one, another in pairs)


@dataclass(frozen=True)
class Optimum:
    """An optimum: variables z (T, n), `load` at the meter (T,), `levels` (T, S), multipliers y (T, R), its limits."""

    z: Array
    load: Array
    levels: Array
    y: Array
    limits: ActiveLimits
    tariff: Tariff


def bound_meter(program: JointProgram, tariff: Tariff) -> tuple[Array, Array]:
    """Give the program's bounds with those of what is bought and fed in at this tariff, (T, n)."""
    lower, upper = program.lower.copy(), program.upper.copy()
    lower[:, program.bought] = np.where(tariff.kinked, 0.0, program.least_kw)
    upper[:, program.bought] = program.most_kw
    upper[:, program.fed_in] = np.where(tariff.kinked, -program.least_kw, 0.0)
    return lower, upper


def guess_limits(program: JointProgram, tariff: Tariff, point: CentralPoint) -> ActiveLimits:
    """Guess the active limits from a point inside: those whose multiplier is larger than the room that is left."""
    lower, upper = bound_meter(program, tariff)
    below = point.pushes[0] / tariff.scale > point.z - lower
    above = point.pushes[1] / tariff.scale > upper - point.z
    meter = np.full(program.slots, BUYS, np.int8)
    fed_in = np.where(below[:, program.fed_in], AT_ZERO, np.where(above[:, program.fed_in], AT_LEAST, FEEDS_IN))
    meter[below[:, program.bought]] = np.where(tariff.kinked, fed_in, AT_LEAST)[below[:, program.bought]]
    meter[above[:, program.bought]] = AT_MOST
    modes = above.astype(np.int8) - below.astype(np.int8)
    inverter = modes[:, program.through] if program.has_inverter else np.zeros(program.slots, np.int8)
    return ActiveLimits(meter, inverter, modes[:, program.levels])


def find_optimum(
    program: JointProgram, tariff: Tariff, limits: ActiveLimits, y: Array, changes: int, steps: int
) -> Optimum | None:
    """Find the optimum from a guess of its limits and multipliers.

    None when that takes more than so many `changes` of limits, or of Newton's `steps` for one set of them.
    """
    for change in range(changes + 1):
        face = _Face(program, tariff, limits)
        solved = face.solve(y, steps)
        if solved is None:
            return None
        z, y = solved
        found = face.complete(z, y)
        limits = face.correct(found, one_each=change > changes // 2)
        if not limits.differ_from(found.limits):
            return found
    return None


class _Face:
    """The unknown multipliers that a set of active limits leaves, and the equations that they solve.

    Of the rows that a slot has for itself those of `held` are unknown, the others are `base`; they are eliminated slot
    by slot. The worth in a slot of a chain is that at the next limit of its level, number `segment`, times `factor`.
    """

    def __init__(self, program: JointProgram, tariff: Tariff, limits: ActiveLimits) -> None:
        self.program, self.tariff, self.limits = program, tariff, limits
        meter = limits.meter
        self.held = np.zeros((program.slots, program.first_chain), bool)
        self.held[:, 0] = (meter != BUYS) & (meter != FEEDS_IN)
        self.base = np.zeros((program.slots, program.first_chain))
        self.base[:, 0] = np.select([meter == BUYS, meter == FEEDS_IN], [tariff.price, tariff.feed_in], 0.0)
        if program.has_inverter:
            self.held[:, 1] = limits.inverter != 0
        stands = limits.level != 0
        before = np.cumsum(stands, axis=0) - stands
        of_chain = before[-1] + stands[-1]
        segment = before + np.cumsum(of_chain) - of_chain
        self.count = int(of_chain.sum())
        slots = np.arange(program.slots)[:, None]
        last = np.where(stands, slots, program.slots)[::-1]
        next_limit = np.minimum.accumulate(last, axis=0)[::-1]
        self.factor = np.where(next_limit < program.slots, program.keep ** (next_limit - slots), 0.0)
        self.segment = np.where(self.factor != 0, segment, self.count)  # what is known goes to a last place, dropped

    # --- the equations ---

    def solve(self, y: Array, steps: int) -> tuple[Array, Array] | None:
        """Solve them by Newton's method from multipliers y: variables (T, n) without those that stand free, and y.

        None where that takes more than so many steps: they may have no solution.
        """
        program, first = self.program, self.program.first_chain
        standing = self._stand()
        known = program.right - program.multiply(standing)
        own = np.where(self.held, y[:, :first], self.base)
        worth = self._gather(self.factor * y[:, first:]) / np.maximum(self._gather(self.factor**2), 1e-300)
        size, longest, last = 1.0 + float(np.max(np.abs(program.right))), 2 * self.tariff.scale, np.inf
        for _ in range(steps):
            y = np.concatenate([own, self._spread(worth)], axis=1)
            z, theta = respond(program, y)
            missed = known - program.multiply(z)
            missed[:, :first] *= self.held
            error = max(
                float(np.max(np.abs(missed[:, :first]), initial=0.0)),
                float(np.max(np.abs(self._gather(self.factor * missed[:, first:])), initial=0.0)),
            )
            if error <= _SOLVED * size or (error <= 10 * _SOLVED * size and error >= last / 2):
                return z + standing, y
            if not np.isfinite(error):
                return None
            last = error
            of_own, of_worth = _Reduced(self, theta).solve(missed[:, :, None])
            furthest = max(float(np.max(np.abs(of_own))), float(np.max(np.abs(of_worth), initial=0.0)))
            part = min(1.0, longest / max(furthest, 1e-300))
            own, worth = own + part * of_own[:, :, 0], worth + part * of_worth[:, 0]
        return None

    def _stand(self) -> Array:
        """Give the variables that stand at a limit, (T, n), 0 for the others."""
        program, limits = self.program, self.limits
        standing = np.zeros((program.slots, program.size))
        standing[:, program.bought] = self._standing_load
        if program.has_inverter:
            standing[:, program.through] = limits.inverter * program.upper[:, program.through]
        at = program.levels
        at_lower, at_upper = limits.level < 0, limits.level > 0
        standing[:, at] = np.select([at_lower, at_upper], [program.lower[:, at], program.upper[:, at]], 0.0)
        return standing

    @cached_property
    def _standing_load(self) -> Array:
        meter = self.limits.meter
        return np.select([meter == AT_LEAST, meter == AT_MOST], [self.program.least_kw, self.program.most_kw], 0.0)

    def _spread(self, worth: Array) -> Array:
        """Give the worth of what is stored in each slot, (T, S), from that at the limits."""
        return np.asarray(self.factor * np.append(worth, 0.0)[self.segment])

    def _gather(self, rows: Array) -> Array:
        """Sum rows (T, S) over the slots of each segment."""
        return _add_at(self.segment, rows, self.count + 1)[: self.count]

    # --- the limits ---

    def complete(self, z: Array, y: Array) -> Optimum:
        """Complete a solution by the variables that stand free: the meter, the inverter, the levels."""
        program, meter, first = self.program, self.limits.meter, self.program.first_chain
        powers = z.copy()
        powers[:, program.bought :] = 0.0
        flows = program.multiply(powers) - program.right
        load = np.where((meter == BUYS) | (meter == FEEDS_IN), -flows[:, 0], self._standing_load)
        z[:, program.bought], z[:, program.fed_in] = np.maximum(load, 0.0), np.maximum(-load, 0.0)
        if program.has_inverter:
            z[:, program.through] = flows[:, 1]
        levels = np.zeros((program.slots, len(program.keep)))
        for row, (keep, inflow) in enumerate(zip(program.keep.tolist(), flows[:, first:].T.tolist(), strict=True)):
            level, track = 0.0, []
            for into in inflow:
                level = keep * level + into
                track.append(level)
            levels[:, row] = track
        z[:, program.levels] = 0.0
        z[:, program.levels] = levels - z @ program.sign
        return Optimum(z, load, levels, y, self.limits, self.tariff)

    def correct(self, found: Optimum, *, one_each: bool) -> ActiveLimits:
        """Give the limits where those that are exceeded hold, and those that pull the wrong way do not.

        With `one_each` no chain changes more than its worst one.
        """
        return ActiveLimits(
            self._correct_meter(found), self._correct_inverter(found), self._correct_levels(found, one_each)
        )

    def _correct_meter(self, found: Optimum) -> Modes:
        program, tariff, meter = self.program, self.tariff, self.limits.meter
        load, pi, kinked = found.load, found.y[:, 0], tariff.kinked
        near, close = _EXACT * (1 + np.abs(load)), _EXACT * tariff.scale
        buys, feeds_in, at_zero, at_least = (meter == mode for mode in (BUYS, FEEDS_IN, AT_ZERO, AT_LEAST))
        new = meter.copy()
        new[buys & (load > program.most_kw + near)] = AT_MOST
        new[buys & kinked & (load < -near)] = AT_ZERO
        new[buys & ~kinked & (load < program.least_kw - near)] = AT_LEAST
        new[feeds_in & (load > near)] = AT_ZERO
        new[feeds_in & (load < program.least_kw - near)] = AT_LEAST
        new[at_zero & (pi > tariff.price + close)] = BUYS
        new[at_zero & (pi < tariff.feed_in - close)] = FEEDS_IN
        new[at_least & kinked & (pi > tariff.feed_in + close)] = FEEDS_IN
        new[at_least & ~kinked & (pi > tariff.price + close)] = BUYS
        new[(meter == AT_MOST) & (pi < tariff.price - close)] = BUYS
        # A question may have kinks in other slots than the last one.
        new[~kinked & (feeds_in | at_zero)] = BUYS
        return new

    def _correct_inverter(self, found: Optimum) -> Modes:
        program, stands = self.program, self.limits.inverter
        if not program.has_inverter:
            return stands
        through, most = found.z[:, program.through], program.upper[:, program.through]
        new, close = stands.copy(), _EXACT * self.tariff.scale
        new[(stands == 0) & (np.abs(through) > most + _EXACT * (1 + most))] = 1
        new[new > stands] = np.sign(through[new > stands])
        new[stands * found.y[:, 1] > close] = 0
        return new

    def _correct_levels(self, found: Optimum, one_each: bool) -> Modes:
        program, stands, at = self.program, self.limits.level, self.program.levels
        lower, upper, band = program.lower[:, at], program.upper[:, at], found.z[:, at]
        near = _EXACT * (1 + np.abs(upper))
        exceeds = np.where(stands == 0, np.maximum(band - upper - near, 0) - np.maximum(lower - near - band, 0), 0.0)
        pull = -stands * program.multiply_back(found.y)[:, at]
        wrong = np.where(upper - lower > 1e-12, np.maximum(pull - _EXACT * self.tariff.scale, 0.0), 0.0)
        if one_each:
            for worst in (exceeds, wrong):
                worst[np.abs(worst) < np.abs(worst).max(axis=0)] = 0.0
            wrong[:, exceeds.any(axis=0)] = 0.0
        new = stands.copy()
        new[wrong > 0] = 0
        new[exceeds != 0] = np.sign(exceeds[exceeds != 0])
        return new


def _add_at(place: NDArray[np.intp], values: Array, size: int) -> Array:
    """Add up the values of each place, (size,)."""
    return np.bincount(place.ravel(), values.ravel(), size).astype(float)


def respond(program: JointProgram, y: Array) -> tuple[Array, Array]:
    """Give the strictly convex variables at multipliers y in closed form, (T, n), 0 for others; and derivatives."""
    with np.errstate(divide="ignore", invalid="ignore"):
        free = program.best + program.multiply_back(y) / program.weight
        z = np.where(program.strict, np.minimum(np.maximum(free, program.lower), program.upper), 0.0)
        theta = np.where(program.strict & (z == free), 1 / program.weight, 0.0)
    if program.appliances.stop:
        x = program.elastic.demand(y[:, 0])
        z[:, program.appliances] = x.T
        theta[:, program.appliances] = -program.elastic.demand_slope(y[:, 0], x).T
    return z, theta


class _Reduced:
    """The equations of a face at derivatives theta (T, n), reduced to the worth at the limits of levels."""

    def __init__(self, face: _Face, theta: Array) -> None:
        self.face, count = face, face.count
        self.coupling = coupling = face.program.couple(theta)
        self.own = self._invert_own()
        self.carry = coupling.cross @ self.own
        inner = -(self.carry @ coupling.cross.transpose(0, 2, 1))
        np.einsum("tii->ti", inner)[:] += coupling.chain
        inner *= face.factor[:, :, None] * face.factor[:, None, :]
        place = face.segment[:, :, None] * (count + 1) + face.segment[:, None, :]
        next_to = face.segment[1:] * (count + 1) + face.segment[:-1]
        beside = coupling.beside * face.factor[1:] * face.factor[:-1]
        across = _add_at(next_to, beside, (count + 1) ** 2).reshape(count + 1, -1)
        matrix = _add_at(place, inner, (count + 1) ** 2).reshape(count + 1, -1) + across + across.T
        self.matrix = matrix[:count, :count]
        at = np.arange(count)
        self.matrix[at, at] += 1e-13 * np.max(self.matrix[at, at], initial=1e-12)

    def _invert_own(self) -> Array:
        """Invert the matrix of the own rows that are held, (T, F, F); 0 for others.

        Where nothing answers to a slot's own price, that price stays. Where the same devices answer to both rows, the
        matrix is made larger; only there, as what that leaves would else be taken for an answer to the price.
        """
        held, first = self.face.held, self.face.program.first_chain
        both = held[:, :, None] & held[:, None, :]
        own = np.where(both, self.coupling.own, np.eye(first))
        answers = np.einsum("tii->ti", own)
        singular = np.linalg.det(own) <= _RIDGE * answers.prod(axis=1)
        least = 1e-12 * np.max(self.coupling.own, initial=1e-12)
        answers[:] = np.where(answers > least, answers * (1 + _RIDGE * singular[:, None]), 1e300)
        return np.where(both, np.linalg.inv(own) if first > 1 else 1 / own, 0.0)

    def solve(self, right: Array) -> tuple[Array, Array]:
        """Solve for right-hand sides (T, R, K): the own rows (T, first, K), 0 where not held, and worth (count, K)."""
        face, first = self.face, self.face.program.first_chain
        own, chains = right[:, :first], (right[:, first:] - self.carry @ right[:, :first]) * face.factor[:, :, None]
        columns = right.shape[2]
        place = face.segment[:, :, None] * columns + np.arange(columns)
        gathered = _add_at(place, chains, (face.count + 1) * columns).reshape(-1, columns)
        worth = np.asarray(np.linalg.solve(self.matrix, gathered[: face.count]), float)
        spread = np.vstack([worth, np.zeros_like(gathered[:1])])[face.segment] * face.factor[:, :, None]
        return self.own @ own - self.carry.transpose(0, 2, 1) @ spread, worth


def differentiate(program: JointProgram, optimum: Optimum) -> tuple[Array, Array]:
    """Give the derivative of what is bought by the price, while the same limits stay active: slope and coupling.

    `slope` (T,) is that of the appliances in the slots in which the meter buys, `coupling` (T, T) the rest.
    """
    face = _Face(program, optimum.tariff, optimum.limits)
    _, theta = respond(program, optimum.y)
    buys = optimum.limits.meter == BUYS
    slope = np.where(buys, -theta[:, program.appliances].sum(axis=1), 0.0)
    theta[:, program.appliances] *= ~buys[:, None]
    reduced = _Reduced(face, theta)
    # A price that rises raises the home's own price in its slot; the rows that this unbalances are balanced by others.
    slots = np.flatnonzero(buys)
    unbalanced = np.zeros((program.slots, program.rows, program.slots))
    coupled = np.concatenate([reduced.coupling.own[:, :, 0], reduced.coupling.cross[:, :, 0]], axis=1)
    unbalanced[slots, :, slots] = coupled[slots]
    unbalanced[:, : program.first_chain] *= face.held[:, :, None]
    own, worth = reduced.solve(unbalanced)
    spread = np.vstack([worth, np.zeros((1, program.slots))])[face.segment] * face.factor[:, :, None]
    answers = np.concatenate([own, spread], axis=1)
    coupling = np.einsum("tr,trk->tk", coupled * buys[:, None], answers)
    coupling[slots, slots] -= coupled[slots, 0]
    return slope, (coupling + coupling.T) / 2
