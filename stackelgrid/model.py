"""The base of every model that is read from a file, and the numbers that such models hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PerSlot = NonNegative | list[NonNegative]
"""A number for all slots, or one per slot."""
PositivePerSlot = Positive | list[Positive]


class StrictModel(BaseModel):
    """A model that refuses unknown keys and whose values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)
