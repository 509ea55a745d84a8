"""The bodies of the prosumer game's messages.

Both links are addressed. The utility sends each DR provider the tariff, the DR event and the DR prices of its own
prosumers; a provider sends each prosumer its own PV price and one number per slot that sums up the others. Matrices
have a row per prosumer and a column per slot: kW, money per kWh.
"""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stackelgrid.wire.arrays import LARGEST, MAX_SLOTS, Array, PackedArray, Vector
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body, Names
from stackelgrid.wire.names import Name

_MOST_HOMES = 1_000_000
_ROUNDING = 1 + 1e-6

Count = Annotated[int, Field(ge=0, le=_MOST_HOMES)]
PositiveCount = Annotated[int, Field(ge=1, le=_MOST_HOMES)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Slot = Annotated[int, Field(ge=1, le=MAX_SLOTS)]
Sums = Annotated[
    list[Annotated[float, Field(ge=0, le=_MOST_HOMES * LARGEST)]], Field(min_length=1, max_length=MAX_SLOTS)
]
"""Sums of numbers that may each be as large as LARGEST."""
Money = Annotated[float, Field(ge=-_MOST_HOMES * LARGEST**2, le=_MOST_HOMES * LARGEST**2)]
"""A sum of products of such numbers."""
Rows = Vector | PackedArray
"""Of one prosumer a list of its slots; of several a packed matrix (prosumers, slots)."""


class Offer(Body):
    """Down from the utility to one DR provider, in signals and settlements.

    `retail_price` is lambda_ret of each tariff class; the DR event lasts from slot `first` to slot `last`, counted from
    1, but for the slots in `pauses`; where `last` is 0 there is none. `dr_price` is lambda_DR [PR-17] of the provider's
    prosumers, in the order of its last answer; absent before its first answer.
    """

    retail_price: Annotated[dict[Name, Vector], Field(min_length=1, max_length=100)]
    first: Slot
    last: Annotated[int, Field(ge=0, le=MAX_SLOTS)]
    pauses: Annotated[list[Slot], Field(min_length=1, max_length=MAX_SLOTS)] | None = None
    dr_price: Rows | None = None

    @property
    def slots(self) -> int:
        """The number of slots priced."""
        return len(next(iter(self.retail_price.values())))

    @classmethod
    def of(cls, retail_price: dict[str, list[float]], event: NDArray[np.bool_]) -> Self:
        """Offer a tariff and the slots that are marked in `event`, (T,)."""
        first, last = (int(slot) + 1 for slot in np.flatnonzero(event)[[0, -1]]) if event.any() else (1, 0)
        pauses = [slot for slot in range(first, last + 1) if not event[slot - 1]]
        return cls(retail_price=retail_price, first=first, last=last, pauses=pauses or None)

    @property
    def event(self) -> NDArray[np.bool_]:
        """The slots of the event, marked, (T,)."""
        marked = np.zeros(self.slots, bool)
        marked[self.first - 1 : self.last] = True
        marked[[slot - 1 for slot in self.pauses or []]] = False
        return marked

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        for name, price in self.retail_price.items():
            if len(price) != self.slots or min(price) < 0:
                raise ValueError(f"retail_price.{name} must be {self.slots} numbers, none below 0")
        if max(self.pauses or [0]) > self.slots:
            raise ValueError(f"pauses in slot {max(self.pauses or [0])} of {self.slots}")
        if self.last > 0 and not self.first <= self.last <= self.slots:
            raise ValueError(f"the event lasts from slot {self.first} to {self.last} of {self.slots}")
        if self.dr_price is not None:
            check_rows(self.dr_price, "dr_price", slots=self.slots)
        return self


class Provision(Body):
    """Up from a DR provider: the DR quantities of its prosumers, and their prices.

    A row for each of its `homes` and `excluded` ones, in an order of its own that does not change; those excluded have
    zeros. `held` prosumers stand with an earlier answer. `tariff` is each row's tariff class, `pv_price` lambda_PV
    [PR-13] and `sdr` [PR-7] at the DR quantities. Sums over the prosumers, a number per slot: `load_kw` p before the
    event, `pv_kw`, `dr_kw`. `profit` is [PR-15] at the DR price last received, money.

    `dr_change_kw` is the largest change of a prosumer's DR quantity since the last answer; `residual` is the relative
    disagreement of prices and quantities, at most 1; `game_rounds` is the number of rounds of the simultaneous game.
    """

    homes: Count
    held: Count = 0
    excluded: Count = 0
    tariff: Annotated[Names, Field(min_length=1, max_length=_MOST_HOMES)]
    pv_price: Rows
    sdr: Rows
    load_kw: Sums
    pv_kw: Sums
    dr_kw: Sums
    profit: Annotated[list[Money], Field(min_length=1, max_length=MAX_SLOTS)]
    dr_change_kw: NonNegative
    residual: NonNegative
    game_rounds: Count

    @property
    def slots(self) -> int:
        """The number of slots in the answer."""
        return len(self.dr_kw)

    @property
    def fresh(self) -> bool:
        """True when every prosumer answered this very round."""
        return self.held == 0 and self.excluded == 0

    @property
    def peak_kw(self) -> float:
        """The largest total of loads or of PV output, kW."""
        return max(*self.load_kw, *self.pv_kw)

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Object to more demand response than load, or to a PV price above every retail price."""
        assert isinstance(question, Offer)
        if any(dr > load * _ROUNDING for dr, load in zip(self.dr_kw, self.load_kw, strict=True)):
            return "dr_kw is above load_kw somewhere; nobody can curtail more than it draws"
        dearest = np.max(list(question.retail_price.values()), axis=0)
        if (to_matrix(self.pv_price) > dearest * _ROUNDING).any():
            return "pv_price is above every retail price somewhere"
        if max_kw is not None and self.dr_change_kw > max_kw * _ROUNDING:
            return f"dr_change_kw is {self.dr_change_kw:g}, its connections carry {max_kw:g}"
        if self.residual > 1:
            return f"residual is {self.residual:g}, the most is 1"
        return None

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if len(self.tariff) != self.homes + self.excluded:
            raise ValueError(f"tariff has {len(self.tariff)} rows for {self.homes} homes, {self.excluded} excluded")
        for key, values in (("pv_price", self.pv_price), ("sdr", self.sdr)):
            check_rows(values, key, rows=len(self.tariff), slots=self.slots)
        for key, numbers in (("load_kw", self.load_kw), ("pv_kw", self.pv_kw), ("profit", self.profit)):
            if len(numbers) != self.slots:
                raise ValueError(f"{key} has {len(numbers)} numbers, dr_kw {self.slots}")
        return self


class PvPrice(Body):
    """Down from a DR provider to one member, in signals and settlements: a row for each of its prosumers.

    `price` is lambda_PV, money per kWh; zero where there is no trade. `others` is S_i, the sum of 1/dr_k over the other
    prosumers that take part, 1/kW; zero where nobody else does. `retail` is r of [PR-13], money per kWh, zero where
    there is no trade: it tells prosumers that anticipate how their price follows from their dr.
    """

    price: Rows
    others: Rows
    retail: Rows | None = None

    @property
    def slots(self) -> int:
        """The number of slots priced."""
        return find_shape(self.price)[1]

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        rows, slots = find_shape(self.price)
        check_rows(self.price, "price", rows=rows, slots=slots)
        check_rows(self.others, "others", rows=rows, slots=slots)
        if self.retail is not None:
            check_rows(self.retail, "retail", rows=rows, slots=slots)
        return self


class DrResponse(Body):
    """Up from one member: the load, PV and DR quantity of each of its `homes` prosumers at its price.

    `tariff` is its tariff class, `load_kw` p, its load without the event, `pv_kw` its PV output, `pv_cost` the cost of
    a kWh of that, `dr_kw` its DR quantity, at most p [PR-3]. Its sensitivity and its cap stay at home.
    """

    homes: PositiveCount
    tariff: Annotated[Names, Field(min_length=1, max_length=_MOST_HOMES)]
    load_kw: Rows
    pv_kw: Rows
    pv_cost: Rows
    dr_kw: Rows

    @property
    def slots(self) -> int:
        """The number of slots in the answer."""
        return find_shape(self.dr_kw)[1]

    @property
    def peak_kw(self) -> float:
        """The largest total of loads or of PV output, kW."""
        return float(max(to_matrix(self.load_kw).sum(axis=0).max(), to_matrix(self.pv_kw).sum(axis=0).max()))

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if len(self.tariff) != self.homes:
            raise ValueError(f"tariff has {len(self.tariff)} rows for {self.homes} homes")
        for key in ("load_kw", "pv_kw", "pv_cost", "dr_kw"):
            check_rows(getattr(self, key), key, rows=self.homes, slots=self.slots)
        if (to_matrix(self.dr_kw) > to_matrix(self.load_kw)).any():
            raise ValueError("dr_kw is above load_kw somewhere; nobody can curtail more than it draws")
        return self


def to_rows(values: Array) -> list[float] | PackedArray:
    """Write a matrix (prosumers, slots) as `Rows`."""
    return values[0].tolist() if len(values) == 1 else PackedArray.of(values)


def to_matrix(values: list[float] | PackedArray) -> Array:
    """Read `Rows` as a matrix (prosumers, slots)."""
    return values.array() if isinstance(values, PackedArray) else np.array([values])


def find_shape(values: list[float] | PackedArray) -> tuple[int, int]:
    """Count prosumers and slots. Raise `ValueError` for a packed vector."""
    if isinstance(values, list):
        return 1, len(values)
    if len(values.shape) != 2:
        raise ValueError(f"an array of shape {values.shape} is no matrix; give a row per prosumer, a column per slot")
    return values.shape[0], values.shape[1]


def check_rows(values: list[float] | PackedArray, key: str, *, slots: int, rows: int | None = None) -> None:
    """Raise `ValueError` unless there are that many rows and slots and no number is below 0."""
    there = find_shape(values)
    wanted = (there[0] if rows is None else rows, slots)
    if there != wanted:
        raise ValueError(f"{key} has {there[0]} rows of {there[1]} slots, not {wanted[0]} of {wanted[1]}")
    if (to_matrix(values) < 0).any():
        raise ValueError(f"{key} has a number below 0")


UPPER = Bodies(Offer, Provision, Offer, addressed=True)
"""Between the leader and the aggregators."""
LOWER = Bodies(PvPrice, DrResponse, PvPrice, addressed=True)
"""Between an aggregator and its homes."""
