"""Arrays in messages: lists of numbers that a person can read, or packed binary for matrices and batches."""

from __future__ import annotations

import base64
import binascii
import zlib
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


class PackedTriangle(BaseModel):
    """A symmetric matrix of `slots`: in `deflated` its lower triangle, row by row, compressed with zlib, in base64.

    The numbers are little-endian IEEE doubles, exact and at fixed places. Many of a home's are zero or the same.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)]
    deflated: Annotated[str, Field(max_length=4 * (8 * MAX_CELLS // 3 + 1))]

    @property
    def shape(self) -> list[int]:
        """The shape of the matrix."""
        return [self.slots, self.slots]

    @classmethod
    def of(cls, matrix: Array) -> Self:
        """Pack a symmetric matrix."""
        data = np.ascontiguousarray(matrix[np.tril_indices(len(matrix))], "<f8").tobytes()
        return cls.model_construct(slots=len(matrix), deflated=base64.b64encode(zlib.compress(data, 1)).decode())

    def array(self) -> Array:
        """Unpack the matrix."""
        matrix = np.zeros((self.slots, self.slots))
        matrix[np.tril_indices(self.slots)] = np.frombuffer(zlib.decompress(base64.b64decode(self.deflated)), "<f8")
        return np.asarray(matrix + np.tril(matrix, -1).T)

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        size = 8 * (self.slots * (self.slots + 1) // 2)
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(base64.b64decode(self.deflated, validate=True), size + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise ValueError(f"deflated is not base64 of compressed doubles: {error}") from None
        if len(data) != size or not stream.eof or stream.unused_data:
            raise ValueError(f"deflated does not hold the {size} bytes of {self.slots} slots")
        if not (np.abs(np.frombuffer(data, "<f8")) <= LARGEST).all():
            raise ValueError(f"deflated holds a number that is not finite or above {LARGEST:g}")
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
