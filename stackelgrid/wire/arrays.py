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
