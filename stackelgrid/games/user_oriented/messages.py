"""The bodies of the user-oriented pricing game's messages, the same on both levels of the tree."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.wire.arrays import LARGEST, MAX_SLOTS, Array, PackedArray, Vector
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body

STEEPEST = 10_000.0
"""The most that a sensitivity may say of a price that doubles or vanishes: so many times the connection."""
_ROUNDING = 1e-6

Falling = Annotated[float, Field(ge=-LARGEST, le=0)]
"""The derivative of a load by the price of its own slot, which is never positive."""


class Price(Body):
    """Down, in signals and settlements: the price of each slot, money per kWh."""

    price: Vector

    @property
    def slots(self) -> int:
        """The number of slots."""
        return len(self.price)


class LoadResponse(Body):
    """Up: the load of the sender's homes at the price, and its derivative dL/dp.

    `load_kw` is one number per slot, kW; from a process that hosts several homes a packed matrix, a row per home.
    `slope` is the part of dL/dp within a slot that elastic appliances cause, summed over the homes, kW per money per
    kWh; `coupling` the rest of dL/dp, (slots, slots), absent where nothing is stored. The answer is of `homes` homes,
    `held` of which did not answer this round: an earlier answer stands for them. `excluded` homes are not in it.
    `load_only` of the homes count with their load alone, because their sensitivity did not come true, and `fixed` of
    these with an earlier load, because the price does not explain the later ones.
    """

    homes: Annotated[int, Field(ge=1, le=1_000_000)]
    held: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    excluded: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    load_only: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    fixed: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    load_kw: Vector | PackedArray
    slope: Annotated[list[Falling], Field(min_length=1, max_length=MAX_SLOTS)]
    coupling: PackedArray | None = None

    @property
    def slots(self) -> int:
        """The number of slots."""
        return len(self.slope)

    @property
    def peak_kw(self) -> float:
        """The largest total of what homes draw or feed in, kW."""
        return float(np.max(np.abs(self.loads()).sum(axis=0)))

    @property
    def fresh(self) -> bool:
        """True when every home behind it answered this very round."""
        return self.held == 0 and self.excluded == 0

    def loads(self) -> Array:
        """Give the load, (rows, slots) kW: a row per home from a process of several homes, else one row."""
        return self.load_kw.array() if isinstance(self.load_kw, PackedArray) else np.array([self.load_kw])

    def sensitivity(self) -> Array:
        """Give dL/dp, (slots, slots) kW per money per kWh."""
        own = np.diag(self.slope)
        return own if self.coupling is None else own + self.coupling.array()

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Object to a sensitivity that follows from no utility of a customer, or is too steep for the connections.

        The load that is best for a customer is the gradient of a concave function of the price, so that its derivative
        is symmetric and negative semidefinite. It is too steep above `STEEPEST`.
        """
        assert isinstance(question, Price)
        if not self.fixed <= self.load_only <= self.homes:
            return f"{self.fixed} homes with a fixed load, {self.load_only} with a load alone, of {self.homes}"
        if self.coupling is not None and not _is_concave(self.coupling.array()):
            return "coupling is not symmetric and negative semidefinite"
        bend = compute_bending(self.sensitivity(), np.array(question.price))
        if max_kw is not None and bend > STEEPEST * max_kw * (1 + _ROUNDING):
            return f"slope and coupling bend the load by {bend:g} kW, {STEEPEST:g} times {max_kw:g} kW is the most"
        return None

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        slots = len(self.slope)
        if isinstance(self.load_kw, PackedArray):
            if self.load_kw.shape != [self.homes, slots]:
                raise ValueError(f"load_kw has shape {self.load_kw.shape}, not {[self.homes, slots]}")
        elif len(self.load_kw) != slots:
            raise ValueError(f"load_kw has {len(self.load_kw)} numbers, slope {slots}")
        if self.coupling is not None and self.coupling.shape != [slots, slots]:
            raise ValueError(f"coupling has shape {self.coupling.shape}, not {[slots, slots]}")
        return self


def compute_bending(sensitivity: Array, price: Array) -> float:
    """Compute the most that a load of `sensitivity` (T, T) changes in a slot, kW, while each price doubles or vanishes.

    A price below a hundredth of the largest counts as that.
    """
    size = np.abs(price)
    return float(np.max(np.abs(sensitivity) @ np.maximum(size, size.max() / 100)))


def _is_concave(coupling: Array) -> bool:
    """Tell whether a matrix is symmetric and negative semidefinite, but for rounding."""
    rounding = _ROUNDING * (1 + float(np.max(np.abs(coupling))))
    if np.max(np.abs(coupling - coupling.T)) > rounding:
        return False
    try:
        np.linalg.cholesky(rounding * np.eye(len(coupling)) - coupling)
    except np.linalg.LinAlgError:
        return False
    return True


UPPER = Bodies(Price, LoadResponse, Price)
"""Between the leader and the aggregators."""
LOWER = Bodies(Price, LoadResponse, Price)
"""Between an aggregator and its homes."""
