"""Numbers in fixed point modulo 2**64, in which sums are exact and a mask hides everything."""

from __future__ import annotations

import numpy as np

from stackelgrid.masks.form import Words
from stackelgrid.wire.arrays import Array

FRACTION_BITS = 32
"""A number is kept to 2**-33, in its own unit."""

LARGEST_SUM = 2.0 ** (63 - FRACTION_BITS)
"""A sum of this size, or of minus this, has no place any more."""

_ROUNDING = 1 + 1e-3
"""A number may exceed its bound by a thousandth, as an answer may that is not masked: devices round to watts."""


class FixedPointRangeError(ValueError):
    """A number is larger than what is known of its sender allows, or than a sum has room for."""


def write_words(numbers: Array, bounds: Array, parties: int) -> Words:
    """Write (n,) numbers in fixed point, each within its bound (n,) and within the range of one of so many `parties`.

    Raises `FixedPointRangeError` with the first that is beyond that.
    """
    most = np.minimum(bounds * _ROUNDING, LARGEST_SUM / (parties + 1))
    beyond = np.flatnonzero(~(np.abs(numbers) <= most))
    if beyond.size:
        first = beyond[0]
        raise FixedPointRangeError(
            f"number {first} of the answer is {numbers[first]:g}, at most {most[first]:g} can be masked"
        )
    return np.rint(np.ldexp(numbers, FRACTION_BITS)).astype(np.int64).view(np.uint64)


def read_numbers(words: Words) -> Array:
    """Read a sum of words whose masks have been taken off, (n,)."""
    return np.ldexp(words.view(np.int64).astype(np.float64), -FRACTION_BITS)
