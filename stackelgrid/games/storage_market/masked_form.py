"""The form of the answers of the storage market under masks: loads that add up, and batteries as counts of levels.

A DRA needs the weakest battery of a group [SM-12], and a minimum is no sum. So each process with batteries counts
itself once on a public scale of levels for each of their properties, rounded to the safe side. The lowest level at
which anybody counts is the group's. A home without batteries has the same numbers, zeros.

Rounding costs a group up to 2.9 % of its power (half of it outside 1/32 to 4 kW per kWh, all below 1/4096), 1 % of its
capacity in stored energy and in room each, and half a percentage point of an efficiency above one half; up to 1 % of
its capacity more has to be added until the end. Where a battery is to be full then, or all but 1 %, it may end 1 %
short.

The `regret` of a group is the sum of those of its processes, which is no less than the largest of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.storage_market.messages import Batteries, HomesAnswer, Tariff
from stackelgrid.masks.form import Shape
from stackelgrid.wire.arrays import Array
from stackelgrid.wire.messages import Body

_LARGEST_CAPACITY = 1e9
_BITS, _COUNTS = 10, 5
"""The bits of a count, so that 1023 processes of a group may have batteries, and the counts in a number."""
_LEAST_COUNT = 2.0**-32
"""A count of one at the lowest place of a number, of which fixed point keeps so much."""
_NEAR = 1e-9
"""A value so near to a level is at it."""


class _Scale:
    """A public scale of `levels` (L,), ascending, for one property of batteries; of several the `highest` counts."""

    def __init__(self, levels: Array, *, highest: bool = False) -> None:
        self._levels, self._highest = levels, highest
        self.numbers = -(-len(levels) // _COUNTS)

    def write(self, value: float) -> Array:
        """Count one at the next level below a value, or above it where the highest counts, (numbers,)."""
        above = int(np.searchsorted(self._levels, value + (-_NEAR if self._highest else _NEAR)))
        number, place = divmod(min(above if self._highest else max(above - 1, 0), len(self._levels) - 1), _COUNTS)
        counts = np.zeros(self.numbers)
        counts[number] = _LEAST_COUNT * 2.0 ** (_BITS * place)
        return counts

    def read(self, total: Array, processes: int) -> float:
        """Read the level that counts of so many processes, NaN where the counts are not theirs."""
        packed = total / _LEAST_COUNT
        if (packed < 0).any() or (packed >= 2.0 ** (_BITS * _COUNTS)).any():
            return np.nan
        shifts = np.arange(0, _BITS * _COUNTS, _BITS)
        counts: NDArray[np.int64] = (packed.astype(np.int64)[:, None] >> shifts & (2**_BITS - 1)).ravel()
        occupied = np.flatnonzero(counts)
        if processes < 1 or counts.sum() != processes or occupied[-1] >= len(self._levels):
            return np.nan
        return float(self._levels[occupied[-1 if self._highest else 0]])


_LONG_POWERS, _POWERS, _SHORT_POWERS = (
    2.0 ** np.arange(-12, -5),
    2.0 ** (np.arange(-5 * 24, 2 * 24) / 24),
    [4, 8, 16, 32],
)
_PERCENT = np.arange(101) / 100
_SCALES = {
    "power": _Scale(np.concatenate([[0.0], _LONG_POWERS, _POWERS, _SHORT_POWERS, [64.0, 100.0]])),
    "initial": _Scale(_PERCENT),
    "headroom": _Scale(_PERCENT),
    "rise": _Scale(np.arange(-100, 101) / 100, highest=True),
    "efficiency": _Scale(np.concatenate([[0.01, 0.1, 0.25], np.arange(100, 201) / 200])),
}
"""Kilowatts per kWh, parts of the capacity, and the efficiency each way."""
_LEAST_EFFICIENCY = 0.01
"""A battery of less efficiency counts as one without power."""


class MarketForm:
    """The `MaskedForm` of a `HomesAnswer`. A shape is (slots,)."""

    def shape(self, question: Body) -> Shape:
        """Give the slots of a `Tariff`."""
        assert isinstance(question, Tariff)
        return (question.slots,)

    def count(self, shape: Shape) -> int:
        """Count the numbers: five loads, two more, processes with batteries, their capacity, and their levels."""
        return 5 * shape[0] + 4 + sum(scale.numbers for scale in _SCALES.values())

    def flatten(self, answer: Body, shape: Shape) -> Array:
        """Write a `HomesAnswer` as numbers, (count,). Raise `ValueError` for one of other slots."""
        assert isinstance(answer, HomesAnswer)
        if (answer.slots,) != shape:
            raise ValueError(f"an answer of {answer.slots} slots, asked were {shape[0]}")
        moved = [0.0] * answer.slots if answer.moved_kw is None else answer.moved_kw
        loads = [*answer.load_kw, *answer.usual_kw, *answer.offer_kw, *answer.starts_kw, *moved]
        rest = np.zeros(self.count(shape) - len(loads) - 2)
        if answer.batteries is not None:
            rest = _write_batteries(answer.batteries)
        return np.concatenate([loads, [answer.wanted_kwh, answer.regret], rest])

    def bounds(self, shape: Shape, max_kw: float | None, question: Body) -> Array:
        """Give the most that each number can be in size: loads by the connection of `max_kw`, counts by one process."""
        slots = shape[0]
        most = np.full(self.count(shape), _LEAST_COUNT * 2.0 ** (_BITS * (_COUNTS - 1)))
        kw = np.inf if max_kw is None else max_kw
        most[: 5 * slots] = kw
        most[5 * slots : 5 * slots + 4] = kw * slots, 1.0, 1.0, _LARGEST_CAPACITY
        return most

    def read(self, total: Array, shape: Shape, homes: int) -> HomesAnswer:
        """Read the sum of a group's answers, (count,). It may be one that nobody can mean; `find_objection` tells."""
        load, usual, offer, starts, moved = total[: 5 * shape[0]].reshape(5, -1).tolist()
        wanted, regret, *_ = total[5 * shape[0] :].tolist()
        return HomesAnswer.model_construct(
            homes=homes,
            load_kw=load,
            usual_kw=usual,
            offer_kw=offer,
            starts_kw=starts,
            moved_kw=moved if any(moved) else None,
            wanted_kwh=wanted,
            regret=min(regret, 1.0),
            batteries=_read_batteries(total[5 * shape[0] + 2 :]),
        )


FORM = MarketForm()


def _write_batteries(batteries: Batteries) -> Array:
    """Write the batteries of a process: one, their capacity, kWh, and a count on each scale."""
    power = batteries.power if batteries.efficiency >= _LEAST_EFFICIENCY else 0.0
    values = batteries.model_dump() | {"power": power, "rise": batteries.rise or 0.0}
    counts = [scale.write(values[key]) for key, scale in _SCALES.items()]
    return np.concatenate([[1.0, batteries.capacity], *counts])


def _read_batteries(total: Array) -> Batteries | None:
    """Read the batteries of a group, None where nobody has any."""
    if not total.any():
        return None
    processes, capacity = round(total[0]), float(total[1])
    ends = np.cumsum([2, *(scale.numbers for scale in _SCALES.values())])
    counts = np.split(total, ends)[1:-1]
    level = {key: scale.read(part, processes) for (key, scale), part in zip(_SCALES.items(), counts, strict=True)}
    return Batteries.model_construct(
        capacity=capacity,
        power=level["power"],
        initial=level["initial"],
        headroom=level["headroom"],
        rise=level["rise"] or None,
        efficiency=level["efficiency"],
    )
