"""The bodies of the load call game's messages.

The utility sends the aggregator a mission, the aggregator answers with sums over its consumers. Between the aggregator
and its consumers the link is addressed: each consumer receives its own call and no other's. No number is of a slot:
energies are kWh shifted out of the event, the on-peak hours, as a whole. Prices are money per kWh.
"""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.wire.arrays import LARGEST, Array, Finite, PackedArray
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body

NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Product = Annotated[float, Field(ge=0, le=LARGEST**2)]
"""A square of an energy, or an energy times a price: at most that of the largest ones."""

_ROUNDING = 1 + 1e-9

Rows = Annotated[list[NonNegative], Field(min_length=1, max_length=1)] | PackedArray
"""A number per home, kWh: of one home a list of it; of several in a process a packed matrix (homes, 1)."""


class Mission(Body):
    """Down from the utility, in signals and settlements: the target R, the tariff and the commission kappa.

    `commission` is what the aggregator earns per kWh shifted.
    """

    # Half of what fits: however calls round, their sum fits too.
    target_kwh: Annotated[float, Field(ge=0, le=LARGEST / 2)]
    peak_price: Finite
    off_peak_price: Finite
    commission: NonNegative


class MissionReport(Body):
    """Up to the utility: the result of the mission, summed over the consumers.

    `homes` is the number of consumers in the sums; `held` of them stand with their answer to an earlier call. Besides
    them, `excluded` ones are called for nothing. `called_kwh` is below the target where the baselines of the others do
    not reach it. `squared_deviation` is that of the calls from their mean, kWh^2, `call_rounds` the number of rounds of
    calls. `gap` is how far the aggregator's utility is below the bound that it knows, money; 0 when the calls are
    optimal.
    """

    homes: Annotated[int, Field(ge=0, le=1_000_000)]
    held: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    excluded: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    called_kwh: NonNegative
    shifted_kwh: NonNegative
    squared_deviation: Product
    call_rounds: Annotated[int, Field(ge=0, le=1_000_000_000)]
    gap: Product

    @property
    def fresh(self) -> bool:
        """True when every consumer was called and answered."""
        return self.held == 0 and self.excluded == 0

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Object to calls for more than the target, or to more shifted than was called for."""
        assert isinstance(question, Mission)
        if self.called_kwh > question.target_kwh * _ROUNDING:
            return f"calls of {self.called_kwh:g} kWh, the target is {question.target_kwh:g}"
        if self.shifted_kwh > self.called_kwh * _ROUNDING:
            return f"{self.shifted_kwh:g} kWh shifted, the calls were for {self.called_kwh:g}"
        return None


class Call(Body):
    """Down to one member, in signals and settlements: the call of each of its homes, kWh, and the prices.

    A home saves `peak_price` less `off_peak_price` per kWh shifted and is paid `reward` on top.
    """

    call_kwh: Rows
    peak_price: Finite
    off_peak_price: Finite
    reward: NonNegative

    def to_array(self) -> Array:
        """Give the calls, (homes,) kWh."""
        return _to_column(self.call_kwh)

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        _check_rows(self.call_kwh, "call_kwh")
        return self


class Shift(Body):
    """Up from one member: what each of its `homes` shifts at its call, kWh."""

    homes: Annotated[int, Field(ge=1, le=1_000_000)]
    shifted_kwh: Rows

    def to_array(self) -> Array:
        """Give the shifts, (homes,) kWh."""
        return _to_column(self.shifted_kwh)

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Object to a home that shifts more than it is called for."""
        assert isinstance(question, Call)
        beyond = self.to_array() - question.to_array() * _ROUNDING
        return f"{beyond.max():g} kWh shifted beyond the call" if beyond.max() > 0 else None

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        _check_rows(self.shifted_kwh, "shifted_kwh")
        if len(self.to_array()) != self.homes:
            raise ValueError(f"shifted_kwh has {len(self.to_array())} rows for {self.homes} homes; give a row per home")
        return self


def to_rows(numbers: Array) -> list[float] | PackedArray:
    """Write a number per home, (homes,), as `Rows`."""
    return numbers.tolist() if len(numbers) == 1 else PackedArray.of(numbers[:, None])


def _to_column(numbers: list[float] | PackedArray) -> Array:
    return numbers.array()[:, 0] if isinstance(numbers, PackedArray) else np.array(numbers)


def _check_rows(numbers: list[float] | PackedArray, key: str) -> None:
    if isinstance(numbers, PackedArray):
        if len(numbers.shape) != 2 or numbers.shape[1] != 1:
            raise ValueError(f"{key} has shape {numbers.shape}; give a row per home and one slot")
        if (numbers.array() < 0).any():
            raise ValueError(f"{key} has a number below 0; energies called and shifted are not negative")


UPPER = Bodies(Mission, MissionReport, Mission)
"""Between the leader and the aggregators."""
LOWER = Bodies(Call, Shift, Call, addressed=True)
"""Between an aggregator and its homes."""
