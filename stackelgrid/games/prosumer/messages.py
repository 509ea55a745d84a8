"""What the prosumer game puts into the messages.

Both links are addressed. The utility gives each DR provider the tariff, the DR event and the DR prices of its own
prosumers; a provider gives each prosumer its own PV price and one figure that sums up the others. Matrices have a row
per prosumer and a column per slot: kW, money per kWh.
"""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.wire.arrays import LARGEST, MAX_SLOTS, Array, PackedArray, Vector
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body
from stackelgrid.wire.names import Name

Count = Annotated[int, Field(ge=0, le=1_000_000)]
Some = Annotated[int, Field(ge=1, le=1_000_000)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Slot = Annotated[int, Field(ge=1, le=MAX_SLOTS)]
Sums = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1, max_length=MAX_SLOTS)]
"""Of numbers that may themselves be as large as LARGEST."""
Rows = Vector | PackedArray
"""Of one prosumer a list of its slots; of several a packed matrix (prosumers, slots)."""


class Offer(Body):
    """Down from the utility to one DR provider, in signals and settlements.

    `retail_price` is lambda_ret of each tariff class; the DR event lasts from slot `first` to slot `last`, counted from
    1. `dr_price` is lambda_DR (17) of the provider's prosumers, in the order of its last answer; absent while it has
    given none.
    """

    retail_price: Annotated[dict[Name, Vector], Field(min_length=1, max_length=100)]
    first: Slot
    last: Slot
    dr_price: Rows | None = None

    @property
    def slots(self) -> int:
        """The horizon priced."""
        return len(next(iter(self.retail_price.values())))

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        for name, price in self.retail_price.items():
            if len(price) != self.slots or min(price) < 0:
                raise ValueError(f"retail_price.{name} must be {self.slots} numbers, none below 0")
        if not self.first <= self.last <= self.slots:
            raise ValueError(f"the event lasts from slot {self.first} to {self.last} of {self.slots}")
        if self.dr_price is not None:
            check(self.dr_price, "dr_price", slots=self.slots)
        return self


class Provision(Body):
    """Up from a DR provider: what its prosumers provide, and at which prices.

    A row for each of its `homes` and `excluded` ones, in an order of its own that does not change; those excluded have
    zeros. `held` prosumers stand in it with an earlier answer. `tariff` is each row's tariff class, `pv_price`
    lambda_PV (13) and `sdr` (7) at what is provided. Sums over the prosumers, a number per slot: `load_kw` p before the
    event, `pv_kw`, `dr_kw`. `profit` is (15) at the DR price last received, money.

    `dr_change_kw` is the largest change of a prosumer's DR quantity since the last answer; `residual` is how far,
    relatively, prices and quantities are from agreeing with each other, at most 1; `game_rounds` is how many rounds of
    the simultaneous game it took.
    """

    homes: Count
    held: Count = 0
    excluded: Count = 0
    tariff: Annotated[list[Name], Field(min_length=1, max_length=1_000_000)]
    pv_price: Rows
    sdr: Rows
    load_kw: Sums
    pv_kw: Sums
    dr_kw: Sums
    profit: Annotated[list[float], Field(min_length=1, max_length=MAX_SLOTS)]
    dr_change_kw: NonNegative
    residual: NonNegative
    game_rounds: Count

    @property
    def slots(self) -> int:
        """The horizon the answer is for."""
        return len(self.dr_kw)

    @property
    def fresh(self) -> bool:
        """Whether every prosumer answered this very round."""
        return self.held == 0 and self.excluded == 0

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if len(self.tariff) != self.homes + self.excluded:
            raise ValueError(f"tariff has {len(self.tariff)} rows for {self.homes} homes, {self.excluded} excluded")
        for key, values in (("pv_price", self.pv_price), ("sdr", self.sdr)):
            check(values, key, rows=len(self.tariff), slots=self.slots)
        for key, numbers in (("load_kw", self.load_kw), ("pv_kw", self.pv_kw), ("profit", self.profit)):
            if len(numbers) != self.slots:
                raise ValueError(f"{key} has {len(numbers)} numbers, dr_kw {self.slots}")
        return self


class PvPrice(Body):
    """Down from a DR provider to one member, in signals and settlements: a row for each of its prosumers.

    `price` is lambda_PV, money per kWh; zero where there is no trade. `others` is S_i, the sum of 1/dr_k over the other
    prosumers that take part, 1/kW; zero where nobody else does.
    """

    price: Rows
    others: Rows

    @property
    def slots(self) -> int:
        """The horizon priced."""
        return shape(self.price)[1]

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        rows, slots = shape(self.price)
        check(self.price, "price", rows=rows, slots=slots)
        check(self.others, "others", rows=rows, slots=slots)
        return self


class Prosumption(Body):
    """Up from one member: what each of its `homes` prosumers has and would provide at its price.

    `tariff` is its tariff class, `load_kw` p, what it would draw without the event, `pv_kw` its PV output, `pv_cost`
    what a kWh of that costs it, `dr_kw` its DR quantity. Its sensitivity and its cap stay at home.
    """

    homes: Some
    tariff: Annotated[list[Name], Field(min_length=1, max_length=1_000_000)]
    load_kw: Rows
    pv_kw: Rows
    pv_cost: Rows
    dr_kw: Rows

    @property
    def slots(self) -> int:
        """The horizon the answer is for."""
        return shape(self.dr_kw)[1]

    @property
    def peak_kw(self) -> float:
        """The largest total of loads or of PV output, kW."""
        return float(max(matrix(self.load_kw).sum(axis=0).max(), matrix(self.pv_kw).sum(axis=0).max()))

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if len(self.tariff) != self.homes:
            raise ValueError(f"tariff has {len(self.tariff)} rows for {self.homes} homes")
        for key in ("load_kw", "pv_kw", "pv_cost", "dr_kw"):
            check(getattr(self, key), key, rows=self.homes, slots=self.slots)
        if (matrix(self.dr_kw) > matrix(self.load_kw)).any():
            raise ValueError("dr_kw is above load_kw somewhere; nobody can curtail more than it draws (3)")
        return self


def rows(values: Array) -> list[float] | PackedArray:
    """A matrix (prosumers, slots) as `Rows`."""
    return values[0].tolist() if len(values) == 1 else PackedArray.of(values)


def matrix(values: list[float] | PackedArray) -> Array:
    """`Rows` as a matrix (prosumers, slots)."""
    return values.array() if isinstance(values, PackedArray) else np.array([values])


def shape(values: list[float] | PackedArray) -> tuple[int, int]:
    """How many prosumers and slots. Raises `ValueError` for a packed vector."""
    if isinstance(values, list):
        return 1, len(values)
    if len(values.shape) != 2:
        raise ValueError(f"an array of shape {values.shape} is no matrix; give a row per prosumer, a column per slot")
    return values.shape[0], values.shape[1]


def check(values: list[float] | PackedArray, key: str, *, slots: int, rows: int | None = None) -> None:
    """Raises `ValueError` unless there are that many rows and slots and no number is below 0."""
    there = shape(values)
    wanted = (there[0] if rows is None else rows, slots)
    if there != wanted:
        raise ValueError(f"{key} has {there[0]} rows of {there[1]} slots, not {wanted[0]} of {wanted[1]}")
    if (matrix(values) < 0).any():
        raise ValueError(f"{key} has a number below 0")


UPPER = Bodies(Offer, Provision, Offer, addressed=True)
"""Between the leader and the aggregators."""
LOWER = Bodies(PvPrice, Prosumption, PvPrice, addressed=True)
"""Between an aggregator and its homes."""
