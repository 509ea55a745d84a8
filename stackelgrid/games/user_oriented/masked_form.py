"""The form of the answers of the user-oriented game under masks.

For each price the load, for each with sensitivity the slope and the lower triangle of the coupling, at last how many
starts have changed. Every home has the same numbers for a question, zeros where it stores nothing, so that they tell of
no device that it is there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stackelgrid.games.user_oriented.messages import MOST_CHANGES, STEEPEST, LoadResponse, Price, pack_coupling
from stackelgrid.masks.form import Shape
from stackelgrid.wire.arrays import Array, PackedArray
from stackelgrid.wire.messages import Body

_MOST_HOMES = 100_000
"""No process has more."""
_RISES = 1e-6
"""A sum of slopes above this, kW per money per kWh, is above zero by more than fixed point rounds."""


class _Part(NamedTuple):
    """Where the numbers of one price are; those of its sensitivity are None where that is not asked."""

    load: slice
    slope: slice | None = None
    coupling: slice | None = None


class LoadForm:
    """The `MaskedForm` of a `LoadResponse`. A shape is (slots, prices, sensitivities)."""

    def shape(self, question: Body) -> Shape:
        """Give slots, prices and sensitivities of a `Price`."""
        assert isinstance(question, Price)
        return question.slots, len(question.prices), question.sensitivities

    def count(self, shape: Shape) -> int:
        """Count the numbers of an answer."""
        slots, prices, sensitivities = shape
        return slots * prices + (slots + _triangle(slots)) * sensitivities + 1

    def flatten(self, answer: Body, shape: Shape) -> Array:
        """Write a `LoadResponse` as numbers, (count,). Raise `ValueError` for one to another question."""
        assert isinstance(answer, LoadResponse)
        found = answer.at_each_price()
        has = answer.slots, len(found), sum(at.slope is not None for at in found)
        if has != shape:
            raise ValueError(f"an answer of (slots, prices, sensitivities) {has}, asked were {shape}")
        numbers, lower = np.zeros(self.count(shape)), np.tril_indices(answer.slots)
        for part, at in zip(_list_parts(shape), found, strict=True):
            numbers[part.load] = at.loads.sum(axis=0)
            if part.slope is not None:
                numbers[part.slope] = at.slope
            if part.coupling is not None and at.coupling is not None:
                numbers[part.coupling] = at.coupling[lower]
        numbers[-1] = min(answer.starts_changed or 0, MOST_CHANGES * answer.homes)
        return numbers

    def bounds(self, shape: Shape, max_kw: float | None, question: Body) -> Array:
        """Give the most that each number can be in size: by the connection of `max_kw`, and by `STEEPEST`.

        A number of the sensitivity is bounded by the price of its slots, and infinite where that is zero.
        """
        assert isinstance(question, Price)
        most = np.full(self.count(shape), np.inf)
        most[-1] = MOST_CHANGES * _MOST_HOMES
        if max_kw is None:
            return most
        rows, columns = np.tril_indices(shape[0])
        for part, price in zip(_list_parts(shape), np.abs(question.prices), strict=True):
            most[part.load] = max_kw
            if part.slope is None or part.coupling is None:
                continue
            with np.errstate(divide="ignore"):
                steepest = STEEPEST * max_kw / np.maximum(price, price.max() / 100)
            most[part.slope] = steepest
            most[part.coupling] = np.minimum(steepest[rows], steepest[columns])
        return most

    def read(self, total: Array, shape: Shape, homes: int) -> LoadResponse:
        """Read the sum of a group's answers, (count,).

        A slope that rises is read as a coupling, where `find_objection` sees whether anybody can mean it.
        """
        slots, parts = shape[0], _list_parts(shape)
        slopes, couplings = [], []
        for part in parts:
            if part.slope is None or part.coupling is None:
                continue
            slope, coupling = total[part.slope], _fill(total[part.coupling], slots)
            coupling += np.diag(np.where(slope > _RISES, slope, 0.0))
            slopes.append(np.minimum(slope, 0.0))
            couplings.append(coupling)
        coupled = any(coupling.any() for coupling in couplings)
        return LoadResponse(
            homes=homes,
            load_kw=total[parts[0].load].tolist(),
            slope=slopes[0].tolist() if slopes else None,
            coupling=pack_coupling(couplings[0]) if coupled else None,
            other_loads_kw=PackedArray.of(np.array([total[part.load] for part in parts[1:]])) if parts[1:] else None,
            other_slopes=PackedArray.of(np.array(slopes[1:])) if slopes[1:] else None,
            other_couplings=[pack_coupling(coupling) for coupling in couplings[1:]] or None if coupled else None,
            starts_changed=int(np.clip(np.rint(total[-1]), 0, MOST_CHANGES * homes)),
        )


FORM = LoadForm()


def _list_parts(shape: Shape) -> list[_Part]:
    """List where the numbers of each price are: the load, then slope and coupling where they are asked."""
    slots, prices, sensitivities = shape
    parts, start = [], 0
    for number in range(prices):
        load = slice(start, start + slots)
        start += slots
        if number < sensitivities:
            slope, coupling = slice(start, start + slots), slice(start + slots, start + slots + _triangle(slots))
            start = coupling.stop
            parts.append(_Part(load, slope, coupling))
        else:
            parts.append(_Part(load))
    return parts


def _triangle(slots: int) -> int:
    return slots * (slots + 1) // 2


def _fill(triangle: Array, slots: int) -> Array:
    """Make the symmetric matrix of a lower triangle."""
    matrix = np.zeros((slots, slots))
    matrix[np.tril_indices(slots)] = triangle
    return np.asarray(matrix + np.tril(matrix, -1).T)
