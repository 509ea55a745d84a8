"""The price of the economic dispatch near a net demand [SM-3]: its true slope, and where that changes.

The optimum z of the dispatch [SM-1] is piecewise linear in the net demand N, and so is the price. With the rows R of
the balance and of the limits that are active, W the diagonal Hessian, and K = R W^-1 R',

    d price / dN = S, the balance's block of K^-1,   dz / dN = W^-1 R' K^-1,   d multipliers / dN = -K^-1.    [SM-5]

S is not diagonal where ramps bind: they couple hours. Each inactive limit has room left, each active one a multiplier;
where one comes to zero the price has a kink. To drop an active limit with the column k of K^-1 takes k k' / K^-1_jj
from S; to add one whose value changes by g dN adds g g' / v, v the part of W^-1 in its direction that is still free. So
each limit more makes the price steeper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.storage_market.dispatch import Dispatch, EconomicDispatch
from stackelgrid.wire.arrays import Array

_LEAST_FREE = 1e-7
"""MW per $/MWh: where all generators of an hour are at limits nothing follows the price; this stands for it."""
_DEPENDENT = 1e-12
"""This keeps limits apart that say the same."""
_ROUNDING = 1e-9
_ALIKE = 1e-7
"""Kinks whose direction and room differ by less are one: generators that are equal reach their limits together."""


@dataclass(frozen=True)
class PriceLine:
    """price(N + dN) = price(N) + S dN + sum_j jump_j a_j max(a_j dN - room_j, 0) for a small change dN (T,) MW.

    `slope` S is (T, T), $/MWh per MW. Kink j has the direction a_j of `kinks` (J, T), |a_j| = 1, and the distance
    `room` (J,) in MW, zero where N is on it. Beyond it the price is steeper by `jump` (J,), flatter where negative.
    """

    slope: Array
    kinks: Array
    room: Array
    jump: Array


def find_price_line(program: EconomicDispatch, dispatch: Dispatch, reach: float) -> PriceLine:
    """Give the price near the net demand of a `dispatch`, with the kinks up to `reach` MW away."""
    slots, limits = program.slots, program.limits
    active = dispatch.multipliers != 0
    active[program.balance] = True
    inverse, rows = _invert(program, active)
    slope = inverse[:slots, :slots]

    idle, bound = np.flatnonzero(~active), np.flatnonzero(active & ~_mask(program))
    value = limits @ dispatch.solution
    rises = limits[idle] / program.weight @ rows.T @ inverse  # of the value of an idle limit, by N and by other limits
    crossing = limits[idle] / program.weight @ rows.T
    free = np.einsum("ij,ij->i", limits[idle] / program.weight, limits[idle]) - np.einsum("ij,ij->i", rises, crossing)
    free = np.maximum(free, _LEAST_FREE)
    rises, column = rises[:, :slots], inverse[slots:, :slots] * np.sign(dispatch.multipliers[bound])[:, None]
    own = np.diagonal(inverse)[slots:]

    which = np.concatenate([idle, idle, bound])
    directions = np.vstack([rises, -rises, column])
    rooms = np.concatenate(
        [program.upper[idle] - value[idle], value[idle] - program.lower[idle], np.abs(dispatch.multipliers[bound])]
    )
    part = np.concatenate([free, free, -own])  # what is divided by to find the jump
    length = np.linalg.norm(directions, axis=1)
    near = (length > _ROUNDING) & (rooms <= reach * length)
    kinks, room = directions[near] / length[near, None], np.maximum(rooms[near] / length[near], 0)
    jump = length[near] ** 2 / part[near]
    return PriceLine(slope, *_merge(program, active, slope, which[near], (kinks, room, jump)))


def _mask(program: EconomicDispatch) -> NDArray[np.bool_]:
    mask = np.zeros(len(program.upper), bool)
    mask[program.balance] = True
    return mask


def _invert(program: EconomicDispatch, active: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Give K^-1 and R, the balance first."""
    rows = np.vstack([program.limits[program.balance], program.limits[active & ~_mask(program)]])
    gram = (rows / program.weight) @ rows.T
    gram[: program.slots, : program.slots] += _LEAST_FREE * np.eye(program.slots)
    return np.linalg.inv(gram + _DEPENDENT * np.eye(len(gram))), rows


def _merge(
    program: EconomicDispatch,
    active: NDArray[np.bool_],
    slope: Array,
    which: NDArray[np.int64],
    found: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    """Make one kink of those that coincide: beyond it, all their limits have changed sides."""
    kinks, room, jump = found
    left: Sequence[int] = range(len(room))
    keep = []
    while left:
        first = left[0]
        same = [
            n for n in left if abs(room[n] - room[first]) < _ALIKE and np.abs(kinks[n] - kinks[first]).max() < _ALIKE
        ]
        if len(same) > 1:
            beyond = active.copy()
            beyond[which[same]] ^= True
            change = _invert(program, beyond)[0][: program.slots, : program.slots] - slope
            jump[first] = kinks[first] @ change @ kinks[first]
        keep.append(first)
        left = [n for n in left if n not in same]
    return kinks[keep], room[keep], jump[keep]
