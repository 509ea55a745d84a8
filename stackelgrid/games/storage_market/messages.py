"""The message bodies of the storage market: MW between leader and DRA, kW between a DRA and its homes.

A DRA is a demand response aggregator. A home's battery is known to its own DRA alone, its appliances to nobody. Prices
are dollars per MWh, one number per slot of an hour.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stackelgrid.wire.arrays import LARGEST, MAX_SLOTS, Vector
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body

NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
_ROUNDING = 1e-6
_KW_PER_MW = 1000.0
Amounts = Annotated[list[NonNegative], Field(min_length=1, max_length=MAX_SLOTS)]
"""One number per slot that is not negative."""


class Turn(Body):
    """The appliances that may be rescheduled: those whose group, of `groups`, has the `turn`; none where it is None.

    A home changes an appliance's schedule when that saves more than `inertia` of what it costs at the price [SM-15].
    Where `back`, appliances that moved in their last turn go back to their schedule before it instead.
    """

    groups: Annotated[int, Field(ge=1, le=1_000_000)]
    turn: Count | None = None
    inertia: NonNegative
    back: bool = False


class MarketSignal(Body):
    """Leader to the DRAs: the real-time `price`, whose turn it is, and the terms on which batteries are traded.

    The price that a DRA faces is price - slope (x - x_now) [SM-3], x what it sells less what it charges, MW, x_now as
    its bid stands; `slope` is in $/MWh per MW. For each MW of its rated power it may sell `sales_cap` MW [SM-4]. Where
    `bid`, it is to move its bid by the part `step` towards its best response [SM-6]; else the bid stands.
    """

    price: Vector
    slope: Amounts
    sales_cap: Amounts
    bid: bool = False
    step: Annotated[float, Field(gt=0, le=1)] = 1.0
    turn: Turn

    @property
    def slots(self) -> int:
        """The horizon priced."""
        return len(self.price)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        _require_same_length(self, "price", "slope", "sales_cap")
        return self


class DraAnswer(Body):
    """DRA to leader: the load of its homes and its bid, MW.

    Appliances draw `load`; they drew `usual` before there was a price. The bid is `charge` and `sold`; `supply_slope`
    is k [SM-11], price over marginal cost, 1 where nothing is sold; `bid_change` is how far the bid moved in this
    round. The batteries have a `rated_power`. Homes rescheduled `moved` MWh in this round; others would reschedule
    `wanted` MWh if they had the turn. The answer is of `homes`, `held` of them with an earlier one; `excluded` homes
    are not in it.
    """

    homes: Count
    held: Count = 0
    excluded: Count = 0
    load: Amounts
    usual: Amounts
    charge: Amounts
    sold: Amounts
    supply_slope: Amounts
    bid_change: NonNegative
    rated_power: NonNegative
    moved: NonNegative
    wanted: NonNegative

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
            most = max_kw / _KW_PER_MW * (1 + _ROUNDING)
            for key, power in (("load", max(self.load)), ("usual", max(self.usual)), ("rated_power", self.rated_power)):
                if power > most:
                    return f"{key} of {power:g} MW, its connections carry {max_kw / _KW_PER_MW:g}"
        rated = self.rated_power * (1 + _ROUNDING)
        if max(*self.charge, *self.sold, self.bid_change) > rated:
            return f"a bid of more than its rated power, {self.rated_power:g} MW"
        assert isinstance(question, MarketSignal)
        return _find_energy_objection(question.turn, self.load, self.usual, self.moved, self.wanted)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        _require_same_length(self, "load", "usual", "charge", "sold", "supply_slope")
        return self


class Clearing(Body):
    """Leader to the DRAs, at the end: the clearing `price` of the bids that stand."""

    price: Vector

    @property
    def slots(self) -> int:
        """The horizon cleared."""
        return len(self.price)


class Tariff(Body):
    """DRA to homes: the price, and the turn to reschedule at it."""

    price: Vector
    turn: Turn

    @property
    def slots(self) -> int:
        """The horizon priced."""
        return len(self.price)


class Batteries(BaseModel):
    """The batteries of a process together, disclosed to its own DRA [SM-12]: `capacity` kWh.

    Of each kWh of capacity, the least that any of them has of `power` kW, stored energy at the start (`initial`) and
    room above it (`headroom`); `efficiency` each way is that of the worst. Sums keep within the bounds, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    capacity: Annotated[float, Field(gt=0, le=1e9)]
    power: Annotated[float, Field(ge=0, le=100)]
    initial: Share
    headroom: Share
    efficiency: Annotated[float, Field(gt=0, le=1)]


class HomesAnswer(Body):
    """Homes of one process to their DRA: the load of their appliances, `load_kw`, and their `batteries`, if any.

    `usual_kw` is what they drew before there was a price, `moved_kwh` what they rescheduled in this round, `wanted_kwh`
    what they would reschedule if they had the turn.
    """

    homes: Annotated[int, Field(ge=1, le=1_000_000)]
    load_kw: Amounts
    usual_kw: Amounts
    moved_kwh: NonNegative
    wanted_kwh: NonNegative
    batteries: Batteries | None = None

    @property
    def slots(self) -> int:
        """The horizon the answer is for."""
        return len(self.load_kw)

    @property
    def peak_kw(self) -> float:
        """The largest load of the appliances or power of the batteries, kW."""
        battery = 0.0 if self.batteries is None else self.batteries.power * self.batteries.capacity
        return max(*self.load_kw, *self.usual_kw, battery)

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Object to batteries of more than they hold, or appliances whose energy changes or is less than they move."""
        if self.batteries is not None and self.batteries.initial + self.batteries.headroom > 1 + _ROUNDING:
            return "batteries with more stored energy and room than capacity"
        assert isinstance(question, Tariff)
        return _find_energy_objection(question.turn, self.load_kw, self.usual_kw, self.moved_kwh, self.wanted_kwh)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        _require_same_length(self, "load_kw", "usual_kw")
        return self


class FleetPlan(Body):
    """DRA to homes, at the end: the price, and what each kWh of battery capacity charges and delivers [SM-16], kW."""

    price: Vector
    charge: Amounts
    sold: Amounts

    @property
    def slots(self) -> int:
        """The horizon planned."""
        return len(self.price)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        _require_same_length(self, "price", "charge", "sold")
        return self


def _find_energy_objection(
    turn: Turn, load: list[float], usual: list[float], moved: float, wanted: float
) -> str | None:
    """Object unless rescheduling kept the energy, and in this `turn` no more moved and wants to move than can."""
    if moved > 0 and turn.turn is None:
        return f"{moved:g} moved when nobody had the turn"
    if wanted > 0 and turn.turn is not None and turn.groups == 1:
        return f"{wanted:g} to be moved when everybody had the turn"
    energy, usually = sum(load), sum(usual)
    rounding = _ROUNDING * max(energy, usually)
    if abs(energy - usually) > rounding:
        return f"energy of {energy:g}, usually {usually:g}: appliances are rescheduled, they use the same"
    if moved + wanted > energy + rounding:
        return f"{moved:g} moved and {wanted:g} to be moved of an energy of {energy:g}"
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
