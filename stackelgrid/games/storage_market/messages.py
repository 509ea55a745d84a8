"""The message bodies of the storage market: MW between leader and DRA, kW between a DRA and its homes.

A DRA is a demand response aggregator. A home's battery is known to its own DRA alone, its appliances to nobody. Prices
are dollars per MWh, one number per slot.
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stackelgrid.wire.arrays import LARGEST, MAX_SLOTS, PackedArray, Vector
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body

NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
_ROUNDING = 1e-6
_ROUNDING_OF_DEVICES = 1e-3
"""The part of a connection that an answer may exceed: each home's may be a thousandth above its own."""
_KW_PER_MW = 1000.0
Amounts = Annotated[list[NonNegative], Field(min_length=1, max_length=MAX_SLOTS)]
"""One number per slot that is not negative."""


class Turn(Body):
    """How far homes follow what they last offered, and what they are to offer now [SM-15].

    Interruptible appliances go the part `step` of the way; those that offered another start take it where `starts`.
    After that, interruptible ones offer the proximal schedule [SM-13], to leave the present one costing `weight` $/MWh.
    Of the others, those offer a better start whose group, of `groups`, has the `turn`, none where it is None, and who
    save more by it than `inertia` of what they cost at the price.
    """

    step: Share = 0.0
    starts: bool = False
    weight: Annotated[float, Field(gt=0, le=LARGEST)]
    groups: Annotated[int, Field(ge=1, le=1_000_000)]
    turn: Count | None = None
    inertia: NonNegative


class PriceCurve(BaseModel):
    """By how much the price falls when a DRA sells more, or charges less, by dx (T,) MW [SM-3].

    By `slope` dx, (T, T) in $/MWh per MW, and beyond kinks by jump_j a_j max(a_j dx - room_j, 0) more: a_j are the rows
    of `kinks` (J, T), `room` (J,) is in MW, `jump` (J,) in $/MWh per MW. Without kinks these are None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    slope: PackedArray
    kinks: PackedArray | None = None
    room: PackedArray | None = None
    jump: PackedArray | None = None

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        slots = self.slope.shape[0]
        kinks = next((array.shape[0] for array in (self.room, self.jump, self.kinks) if array is not None), 0)
        shapes = {"slope": [slots, slots]}
        if not self.room is self.kinks is self.jump is None:
            shapes |= {"kinks": [kinks, slots], "room": [kinks], "jump": [kinks]}
        for key, shape in shapes.items():
            found = getattr(self, key) and getattr(self, key).shape
            if found != shape:
                raise ValueError(f"{key} has the shape {found}, it should be {shape}")
        return self


class MarketSignal(Body):
    """Leader to the DRAs: the real-time `price`, how homes reschedule, and the terms on which batteries are traded.

    Where there is a `curve`, the DRA moves its bid by the part `step` towards its best response [SM-6] on it; else the
    bid stands. For each MW of its rated power it may sell `sales_cap` MW [SM-4], for no more than `price_cap` $/MWh
    [SM-8]. Where `hold`, homes are not asked.
    """

    price: Vector
    curve: PriceCurve | None = None
    sales_cap: Amounts
    price_cap: NonNegative | None = None
    hold: bool = False
    step: Annotated[float, Field(gt=0, le=1)] = 1.0
    turn: Turn

    @property
    def slots(self) -> int:
        """The horizon priced."""
        return len(self.price)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        _require_same_length(self, "price", "sales_cap")
        if self.curve is not None and self.curve.slope.shape[0] != len(self.price):
            raise ValueError(f"curve is for {self.curve.slope.shape[0]} slots, price has {len(self.price)}")
        return self


class DraAnswer(Body):
    """DRA to leader: the load of its homes and its bid, MW.

    Appliances draw `load`; they drew `usual` before there was a price. They would draw `offer` with all interruptible
    ones at what they offer, `starts` with all others at the starts that they offer. The bid is `charge` and `sold`;
    `supply_slope` is k [SM-11], price over marginal cost, 1 where nothing is sold; `bid_change` is how far the bid
    moved in this round. The batteries have a `rated_power`. Runs of `wanted` MWh would start elsewhere if they had the
    turn; `regret` is the largest part of its costs that any home could still save with its interruptible appliances.
    The answer is of `homes`, `held` of them with an earlier one; `excluded` homes are not in it. After other sessions,
    `moved` is what those have moved out of these slots, beside `usual`.
    """

    homes: Count
    held: Count = 0
    excluded: Count = 0
    load: Amounts
    usual: Amounts
    offer: Amounts
    starts: Amounts
    moved: Vector | None = None
    charge: Amounts
    sold: Amounts
    supply_slope: Amounts
    bid_change: NonNegative
    rated_power: NonNegative
    wanted: NonNegative
    regret: Share

    @property
    def slots(self) -> int:
        """The horizon the answer is for."""
        return len(self.load)

    @property
    def fresh(self) -> bool:
        """Tell whether every home in the answer answered when last asked."""
        return self.held == 0 and self.excluded == 0

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Object to more than connections carry, batteries deliver, or appliances have to move."""
        if max_kw is not None:
            most = max_kw / _KW_PER_MW * (1 + _ROUNDING_OF_DEVICES)
            loads = {key: max(getattr(self, key)) for key in ("load", "usual", "offer", "starts")}
            loads["moved"] = max(map(abs, self.moved or [0.0]))
            for key, power in (loads | {"rated_power": self.rated_power}).items():
                if power > most:
                    return f"{key} of {power:g} MW, its connections carry {max_kw / _KW_PER_MW:g}"
        rated = self.rated_power * (1 + _ROUNDING)
        if max(*self.charge, *self.sold, self.bid_change) > rated:
            return f"a bid of more than its rated power, {self.rated_power:g} MW"
        assert isinstance(question, MarketSignal)
        return _find_energy_objection(question.turn, self.usual, self.load, self.offer, self.starts, self.wanted)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        moved = () if self.moved is None else ("moved",)
        _require_same_length(self, "load", "usual", "offer", "starts", "charge", "sold", "supply_slope", *moved)
        return self


class Clearing(Body):
    """Leader to the DRAs, at the end: the clearing `price` of the bids that stand."""

    price: Vector

    @property
    def slots(self) -> int:
        """The horizon cleared."""
        return len(self.price)


class Tariff(Body):
    """DRA to homes: the price, and how to reschedule at it."""

    price: Vector
    turn: Turn

    @property
    def price_range(self) -> tuple[float, float]:
        """The least and the largest price."""
        return min(self.price), max(self.price)

    @property
    def slots(self) -> int:
        """The horizon priced."""
        return len(self.price)


class Batteries(BaseModel):
    """The batteries of a process together, disclosed to its own DRA [SM-12]: `capacity` kWh.

    Of each kWh of capacity, the least that any of them has of `power` kW, stored energy at the start (`initial`) and
    room above it (`headroom`); `efficiency` each way is that of the worst. Sums keep within the bounds, too. Where any
    is to store more at the end than at the start, or may store less, `rise` is the most that has to be added.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    capacity: Annotated[float, Field(gt=0, le=1e9)]
    power: Annotated[float, Field(ge=0, le=100)]
    initial: Share
    headroom: Share
    rise: Annotated[float, Field(ge=-1, le=1)] | None = None
    efficiency: Annotated[float, Field(gt=0, le=1)]


class HomesAnswer(Body):
    """Homes of one process to their DRA: the load of their appliances, `load_kw`, and their `batteries`, if any.

    `usual_kw` is what they drew before there was a price. They would draw `offer_kw` with all interruptible appliances
    at what they offer, `starts_kw` with all others at the starts that they offer. Runs of `wanted_kwh` would start
    elsewhere if they had the turn. `regret` is the largest part of its costs that one of the homes could still save
    with its interruptible appliances. After other sessions, `moved_kw` is what those have moved out of these slots, or
    below zero into them: beside `usual_kw`, which is of what is left to run.

    The sum of a group of homes has this form, too. Its `regret` is then the sum of theirs.
    """

    homes: Annotated[int, Field(ge=1, le=1_000_000)]
    load_kw: Amounts
    usual_kw: Amounts
    offer_kw: Amounts
    starts_kw: Amounts
    moved_kw: Vector | None = None
    wanted_kwh: NonNegative
    regret: Share
    batteries: Batteries | None = None

    @property
    def slots(self) -> int:
        """The horizon the answer is for."""
        return len(self.load_kw)

    @property
    def peak_kw(self) -> float:
        """The largest load of the appliances or power of the batteries, kW."""
        battery = 0.0 if self.batteries is None else self.batteries.power * self.batteries.capacity
        moved = map(abs, self.moved_kw or [])
        return max(*self.load_kw, *self.usual_kw, *self.offer_kw, *self.starts_kw, *moved, battery)

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Object to batteries of more than they hold, or appliances whose energy changes or is less than they move.

        In a sum, object also to what no model of the wire has seen: loads below zero, or batteries that nobody has.
        """
        least = min(*self.load_kw, *self.usual_kw, *self.offer_kw, *self.starts_kw, self.wanted_kwh, self.regret)
        if least < 0:
            return f"{least:g} where nothing is below zero"
        if self.batteries is not None:
            if not (
                self.batteries.capacity > 0 and all(isfinite(each or 0.0) for each in vars(self.batteries).values())
            ):
                return "batteries whose levels are not those of its homes"
            if self.batteries.initial + self.batteries.headroom > 1 + _ROUNDING:
                return "batteries with more stored energy and room than capacity"
        assert isinstance(question, Tariff)
        return _find_energy_objection(
            question.turn, self.usual_kw, self.load_kw, self.offer_kw, self.starts_kw, self.wanted_kwh
        )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        moved = () if self.moved_kw is None else ("moved_kw",)
        _require_same_length(self, "load_kw", "usual_kw", "offer_kw", "starts_kw", *moved)
        return self


class FleetPlan(Body):
    """DRA to homes, at the end: the price, and what each kWh of battery capacity charges and delivers [SM-16], kW."""

    price: Vector
    charge: Amounts
    sold: Amounts

    @property
    def price_range(self) -> tuple[float, float]:
        """The least and the largest price."""
        return min(self.price), max(self.price)

    @property
    def slots(self) -> int:
        """The horizon planned."""
        return len(self.price)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        _require_same_length(self, "price", "charge", "sold")
        return self


def _find_energy_objection(
    turn: Turn, usual: list[float], load: list[float], offer: list[float], starts: list[float], wanted: float
) -> str | None:
    """Object unless rescheduling keeps the energy, and in this `turn` no more wants to move than can.

    Loads add up to energy over Δ, which is no less than the energy: a slot is an hour at most.
    """
    energy = sum(usual)
    rounding = _ROUNDING * max(energy, sum(load))
    if turn.turn is None and max(abs(a - b) for a, b in zip(load, starts, strict=True)) > rounding:
        return "other starts offered when nobody had the turn"
    if wanted > 0 and turn.turn is not None and turn.groups == 1:
        return f"{wanted:g} to be moved when everybody had the turn"
    for rescheduled in (load, offer, starts):
        if abs(sum(rescheduled) - energy) > rounding:
            return f"energy of {sum(rescheduled):g}, usually {energy:g}: appliances are rescheduled, they use the same"
    if wanted > energy + rounding:
        return f"{wanted:g} to be moved of an energy of {energy:g}"
    return None


def _require_same_length(body: Body, *keys: str) -> None:
    first, *others = keys
    slots = len(getattr(body, first))
    for key in others:
        if len(getattr(body, key)) != slots:
            raise ValueError(f"{key} has {len(getattr(body, key))} numbers, {first} has {slots}")


UPPER = Bodies(MarketSignal, DraAnswer, Clearing)
"""Between the leader and the aggregators."""
LOWER = Bodies(Tariff, HomesAnswer, FleetPlan)
"""Between an aggregator and its homes."""
