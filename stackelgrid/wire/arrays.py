"""Arrays in messages: lists of numbers that a person can read, or packed binary for matrices and batches."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Array = NDArray[np.float64]

MAX_SLOTS = 1000
MAX_CELLS = 1_000_000

LARGEST = 1e12
"""The largest number in a message. Sums and squares of such numbers stay finite."""

Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Vector = Annotated[list[Finite], Field(min_length=1, max_length=MAX_SLOTS)]
"""One finite number per slot, as a JSON list."""


_BITS = 20
_MOST_COUNTS = 2 ** (_BITS - 1) - 1


class PackedTriangle(BaseModel):
    """A symmetric negative semidefinite matrix: in `int20` the base64 of its lower triangle, row by row, times `unit`.

    Each number is a whole one of 20 bits, two in five bytes, the lower bits first. The diagonal is lower by as much as
    the others of its row are rounded, so that what is unpacked is negative semidefinite too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)]
    unit: Annotated[float, Field(ge=0, le=LARGEST / _MOST_COUNTS, allow_inf_nan=False)]
    int20: Annotated[str, Field(max_length=4 * (_BITS * MAX_SLOTS * (MAX_SLOTS + 1) // 48 + 8))]

    @property
    def shape(self) -> list[int]:
        """The shape of the matrix."""
        return [self.slots, self.slots]

    @classmethod
    def of(cls, matrix: Array) -> Self:
        """Pack a matrix (slots, slots)."""
        slots = len(matrix)
        unit = float(np.max(np.abs(matrix))) / max(_MOST_COUNTS - slots, 1)
        scaled = matrix / (unit or 1.0)
        counts = np.rint(scaled)
        rounded = np.abs(scaled - counts)
        np.fill_diagonal(counts, np.floor(np.diag(scaled) - rounded.sum(axis=1) + np.diag(rounded)))
        numbers = counts[np.tril_indices(slots)].astype(np.int64) & (2**_BITS - 1)
        pairs = np.append(numbers, 0)[: 2 * ((len(numbers) + 1) // 2)].reshape(-1, 2).astype("<u8")
        joined = np.ascontiguousarray(pairs[:, 0] | pairs[:, 1] << np.uint64(_BITS))
        data = joined.view(np.uint8).reshape(-1, 8)[:, :5].tobytes()
        return cls.model_construct(slots=slots, unit=unit, int20=base64.b64encode(data).decode())

    def array(self) -> Array:
        """Unpack the matrix."""
        return self._unpack(base64.b64decode(self.int20))

    def _unpack(self, data: bytes) -> Array:
        padded = np.zeros((len(data) // 5, 8), np.uint8)
        padded[:, :5] = np.frombuffer(data, np.uint8).reshape(-1, 5)
        joined = padded.view("<u8")[:, 0]
        numbers = np.stack([joined, joined >> np.uint64(_BITS)], axis=1).ravel() & np.uint64(2**_BITS - 1)
        counts = numbers.astype(np.int64)
        counts[counts > _MOST_COUNTS] -= 2**_BITS
        matrix = np.zeros((self.slots, self.slots))
        below = np.tril_indices(self.slots)
        matrix[below] = self.unit * counts[: len(below[0])]
        return np.asarray(matrix + np.tril(matrix, -1).T)

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        try:
            data = base64.b64decode(self.int20, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"int20 is not base64: {error}") from None
        count = self.slots * (self.slots + 1) // 2
        if len(data) != 5 * ((count + 1) // 2):
            raise ValueError(f"int20 holds {len(data)} bytes, {self.slots} slots want {5 * ((count + 1) // 2)}")
        return self


class PackedArray(BaseModel):
    """An array of finite numbers: `shape`, and in `float64` the base64 of little-endian IEEE doubles, row by row."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    shape: Annotated[list[Annotated[int, Field(ge=1, le=MAX_CELLS)]], Field(min_length=1, max_length=2)]
    float64: Annotated[str, Field(max_length=4 * (8 * MAX_CELLS // 3 + 1))]

    @classmethod
    def of(cls, array: Array) -> Self:
        """Pack an array of one or two dimensions."""
        data = np.ascontiguousarray(array, "<f8").tobytes()
        return cls.model_construct(shape=list(array.shape), float64=base64.b64encode(data).decode())

    def array(self) -> Array:
        """Unpack the numbers into a read-only array of `shape`."""
        return np.frombuffer(base64.b64decode(self.float64), "<f8").reshape(self.shape)

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        try:
            numbers = np.frombuffer(base64.b64decode(self.float64, validate=True), "<f8")
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"float64 is not base64 of doubles: {error}") from None
        if numbers.size != np.prod(self.shape):
            raise ValueError(f"float64 holds {numbers.size} numbers, shape {self.shape} wants {np.prod(self.shape)}")
        if not (np.abs(numbers) <= LARGEST).all():
            raise ValueError(f"float64 holds a number that is not finite or above {LARGEST:g}")
        return self
