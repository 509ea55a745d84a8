"""The form of a game's answers under masks: numbers that add up."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stackelgrid.wire.arrays import Array
from stackelgrid.wire.messages import Body

Words = NDArray[np.uint64]
"""Numbers in fixed point modulo 2**64, with a mask on them or without."""

Shape = tuple[int, ...]
"""What a question asks for, in small numbers; the first is the number of slots."""


class MaskedForm(Protocol):
    """How the answer of a process becomes numbers that add up, and a sum of them a body for the aggregator again."""

    def shape(self, question: Body) -> Shape:
        """Give what a question asks for."""

    def count(self, shape: Shape) -> int:
        """Count the numbers of an answer."""

    def flatten(self, answer: Body, shape: Shape) -> Array:
        """Write an answer as numbers, (count,): those of all homes of the process together."""

    def bounds(self, shape: Shape, max_kw: float | None, question: Body) -> Array:
        """Give the most that each number of one process can be in size, (count,); infinite where nothing is known."""

    def read(self, total: Array, shape: Shape, homes: int) -> Body:
        """Read the sum of a group's answers, (count,), as the body of its `homes`.

        What nobody can mean is read, too: the aggregator's check of the body finds it.
        """
