"""The bodies of the user-oriented pricing game's messages, the same on both levels of the tree."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.wire.arrays import LARGEST, MAX_SLOTS, Array, PackedArray, PackedTriangle, Vector
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body

MAX_PRICES = 100
"""No round asks more prices."""

MOST_CHANGES = 20
"""So many changes of its starts count of a home in a session [UO-DH], so that the search for the price ends."""

STEEPEST = 10_000.0
"""The most that a sensitivity may say of a price that doubles or vanishes: so many times the connection."""
_ROUNDING = 1e-6

Falling = Annotated[float, Field(ge=-LARGEST, le=0)]
"""The derivative of a load by the price of its own slot, which is never positive."""


Coupling = PackedArray | PackedTriangle
"""The part of dL/dp between slots, packed."""
_MOST_SLOTS_IN_FULL = 48


def pack_coupling(coupling: Array) -> Coupling:
    """Pack a coupling (T, T): in full, or with many slots as a triangle, compressed."""
    return PackedArray.of(coupling) if len(coupling) <= _MOST_SLOTS_IN_FULL else PackedTriangle.of(coupling)


class Price(Body):
    """Down, in signals and settlements: the price of each slot, money per kWh.

    A signal may ask `others` besides, a row each; all together are its questions. Of the first `sensitivities` of them
    it asks dL/dp too. The first one, `price`, is the one that is settled when the round is the last.
    """

    price: Vector
    others: PackedArray | None = None
    sensitivities: Annotated[int, Field(ge=0, le=MAX_PRICES, exclude_if=lambda number: number == 1)] = 1

    @property
    def slots(self) -> int:
        """The number of slots."""
        return len(self.price)

    @property
    def prices(self) -> Array:
        """All prices that are asked, (K, T)."""
        first = np.array([self.price])
        return first if self.others is None else np.vstack([first, self.others.array()])

    @property
    def price_range(self) -> tuple[float, float]:
        """The least and the largest of all prices."""
        return float(self.prices.min()), float(self.prices.max())

    @property
    def questions(self) -> list[bytes]:
        """The prices, as what a home counts."""
        return [price.tobytes() for price in self.prices + 0.0]

    @property
    def asks_sensitivity(self) -> bool:
        """True when dL/dp is asked at any price."""
        return self.sensitivities > 0

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        count = 1
        if self.others is not None:
            if len(self.others.shape) != 2 or self.others.shape[1] != len(self.price):
                raise ValueError(f"others has shape {self.others.shape}, price {len(self.price)} numbers")
            count += self.others.shape[0]
        if count > MAX_PRICES or self.sensitivities > count:
            raise ValueError(f"{count} prices, at most {MAX_PRICES}; sensitivities for {self.sensitivities} of them")
        return self


class LoadAt(NamedTuple):
    """The answer to one price: loads (rows, T) kW; slope (T,) and coupling (T, T) of dL/dp where they were asked."""

    loads: Array
    slope: Array | None
    coupling: Array | None


class LoadResponse(Body):
    """Up: the load of the sender's homes at each price asked, and its derivative dL/dp for those asked with it.

    `load_kw` is one number per slot, kW; from a process that hosts several homes a packed matrix, a row per home.
    `slope` is the part of dL/dp within a slot that elastic appliances cause, summed over the homes, kW per money per
    kWh; `coupling` the rest of dL/dp, (slots, slots), absent where nothing is stored. These are of the first price;
    `other_loads_kw` has as many rows for each further price, one price after the other, `other_slopes` a row and
    `other_couplings` a matrix for each further price that asks for sensitivity. The answer is of `homes` homes,
    `held` of which did not answer this round: an earlier answer stands for them. `excluded` homes are not in it.
    `starts_changed` counts how often their deferrable runs have got other starts, where they have any.
    `load_only` of the homes count with their load alone, in a group with a part of their sensitivity, because it did
    not come true, and `fixed` of these with an earlier load, because the price does not explain the later ones.
    """

    homes: Annotated[int, Field(ge=1, le=1_000_000)]
    held: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    excluded: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    load_only: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    fixed: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    load_kw: Vector | PackedArray
    slope: Annotated[list[Falling], Field(min_length=1, max_length=MAX_SLOTS)] | None = None
    coupling: Coupling | None = None
    other_loads_kw: PackedArray | None = None
    other_slopes: PackedArray | None = None
    other_couplings: Annotated[list[Coupling], Field(min_length=1, max_length=MAX_PRICES)] | None = None
    starts_changed: Annotated[int, Field(ge=0, le=1_000_000 * MOST_CHANGES)] | None = None

    @property
    def slots(self) -> int:
        """The number of slots."""
        return self.load_kw.shape[-1] if isinstance(self.load_kw, PackedArray) else len(self.load_kw)

    @property
    def peak_kw(self) -> float:
        """The largest total of what homes draw or feed in, at any price, kW."""
        return max(float(np.max(np.abs(at.loads).sum(axis=0))) for at in self.at_each_price())

    @property
    def fresh(self) -> bool:
        """True when every home behind it answered this very round."""
        return self.held == 0 and self.excluded == 0

    def loads(self) -> Array:
        """Give the load, (rows, slots) kW: a row per home from a process of several homes, else one row."""
        return self.load_kw.array() if isinstance(self.load_kw, PackedArray) else np.array([self.load_kw])

    def at_each_price(self) -> list[LoadAt]:
        """Give the answer to each price, in the order in which they were asked."""
        loads = self.loads()
        slope = None if self.slope is None else np.array(self.slope)
        first = LoadAt(loads, slope, None if self.coupling is None else self.coupling.array())
        if self.other_loads_kw is None:
            return [first]
        others = self.other_loads_kw.array().reshape(-1, *loads.shape)
        rest: list[None] = [None] * len(others)
        slopes = [*([] if self.other_slopes is None else self.other_slopes.array()), *rest]
        couplings = [*(matrix.array() for matrix in self.other_couplings or []), *rest]
        return [first, *map(LoadAt, others, slopes, couplings)]

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Object to a sensitivity that follows from no utility of a customer, or is too steep for the connections.

        The load that is best for a customer is the gradient of a concave function of the price, so that its derivative
        is symmetric and negative semidefinite. It is too steep above `STEEPEST`. Object also to the answer to more or
        fewer prices than were asked.
        """
        assert isinstance(question, Price)
        prices, answers = question.prices, self.at_each_price()
        bends = sum(at.slope is not None for at in answers)
        if (len(answers), bends) != (len(prices), question.sensitivities):
            return (
                f"{len(answers)} loads and {bends} sensitivities, asked were {len(prices)} and {question.sensitivities}"
            )
        if not self.fixed <= self.load_only <= self.homes:
            return f"{self.fixed} homes with a fixed load, {self.load_only} with a load alone, of {self.homes}"
        for price, at in zip(prices, answers, strict=True):
            if at.slope is None:
                continue
            if at.coupling is not None and not _is_concave(at.coupling):
                return "coupling is not symmetric and negative semidefinite"
            bend = compute_bending(np.diag(at.slope) + (0.0 if at.coupling is None else at.coupling), price)
            if max_kw is not None and bend > STEEPEST * max_kw * (1 + _ROUNDING):
                return f"slope and coupling bend the load by {bend:g} kW, {STEEPEST:g} times {max_kw:g} kW is the most"
        return None

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        slots, rows = self.slots, 1
        if isinstance(self.load_kw, PackedArray):
            rows = self.homes
            if self.load_kw.shape != [self.homes, slots]:
                raise ValueError(f"load_kw has shape {self.load_kw.shape}, not {[self.homes, slots]}")
        if self.slope is not None and len(self.slope) != slots:
            raise ValueError(f"load_kw has {slots} numbers, slope {len(self.slope)}")
        if self.slope is None and (self.coupling is not None or self.other_slopes is not None):
            raise ValueError("coupling or other_slopes without slope")
        others = self._count_others(rows, slots)
        bends = 0 if self.other_slopes is None else self.other_slopes.shape[0]
        if self.other_slopes is not None:
            if self.other_slopes.shape != [bends, slots] or bends > others:
                raise ValueError(f"other_slopes has shape {self.other_slopes.shape}, for {others} prices")
            if np.max(self.other_slopes.array()) > 0:
                raise ValueError("other_slopes holds a number above zero")
        couplings = [*([] if self.coupling is None else [self.coupling]), *(self.other_couplings or [])]
        for coupling in couplings:
            if coupling.shape != [slots, slots]:
                raise ValueError(f"coupling has shape {coupling.shape}, not {[slots, slots]}")
        if self.other_couplings is not None and len(self.other_couplings) != bends:
            raise ValueError(f"{len(self.other_couplings)} matrices in other_couplings, {bends} rows in other_slopes")
        return self

    def _count_others(self, rows: int, slots: int) -> int:
        """Count the further prices of an answer that has so many rows for each."""
        if self.other_loads_kw is None:
            return 0
        shape = self.other_loads_kw.shape
        if shape[-1] != slots or len(shape) != 2 or shape[0] % rows:
            raise ValueError(f"other_loads_kw has shape {shape}, load_kw {[rows, slots]}")
        return shape[0] // rows


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
