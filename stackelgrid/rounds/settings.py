"""Base models of each role's settings; a game's own settings extend them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field

from stackelgrid.calendar import Session, cut
from stackelgrid.model import Finite, StrictModel
from stackelgrid.rounds.strategy import AggregatorStrategy, LeaderStrategy
from stackelgrid.wire.names import Name


class LeaderSettings(StrictModel):
    """Base of a game's `leader` settings.

    The leader settles when the relative change is below `tolerance`; it gives up after `max_rounds`.
    """

    fixed_members: ClassVar[str] = ""
    """Why nobody may join or leave between two sessions of the game; empty where they may."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 40

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when something in the settings has another length than the horizon."""

    def foresee(self, session: Session) -> Self:
        """Give the settings of the run with what is foreseen at the beginning of a session in place of what comes.

        That counts for the slots of the session. Without forecasts in the settings they stay.
        """
        return self

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the settings of one session of a run: the slots of its window, and the `state` left by the one before.

        Without a state they are as described, at the beginning of the run.
        """
        return cut(self, session)

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give the state, as JSON, that a session with the settings of `in_session` leaves to the next.

        It is that once the binding slots have passed; `account` is the journal's record of the round that was settled.
        """
        return {}

    def strategy(self, session: Session) -> LeaderStrategy[Any, Any, Any]:
        """Create the leader's part of the game in a session, from the settings of that session."""
        raise NotImplementedError


class AggregatorSettings(StrictModel):
    """Base of a game's settings of an aggregator."""

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the settings of one session, as those of a leader."""
        return cut(self, session)

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give the state that a session leaves to the next; `account` is that of its `Ending`."""
        return {}

    def strategy(self, session: Session, homes: Mapping[str, int]) -> AggregatorStrategy[Any, Any, Any, Any, Any, Any]:
        """Create the aggregator's part of the game in a session; `homes` is the number of homes behind each member."""
        raise NotImplementedError

    def group_strategy(
        self, session: Session, groups: Mapping[str, int], max_kw: Mapping[str, float]
    ) -> AggregatorStrategy[Any, Any, Any, Any, Any, Any]:
        """Create it for a session under masks, in which the members are `groups` of so many homes.

        `max_kw` is what the connections of a group carry together, where that is known. Their answers are
        the sums that the game's `MaskedForm` reads. A group of which one home does not answer has none, and is held as
        a whole.
        """
        return self.strategy(session, groups)


QUESTIONS_PER_SESSION = 100
"""So many different questions a home answers in a session unless it is set to another number."""


def _check_band(band: tuple[float, float] | None) -> tuple[float, float] | None:
    if band is not None and band[0] > band[1]:
        raise ValueError(f"{list(band)}: the least price comes first; swap them")
    return band


MINIMUM_GROUP = 20
"""So many homes are added up at least where sums are masked, unless it is set to another number."""


class PrivacySettings(StrictModel):
    """What a home discloses of itself, in answers to at most `questions_per_session` different questions a session.

    - `sums`: `off`, its aggregator reads each answer, or `committee`: the answers are masked, and the aggregator learns
      the sums of groups of at least `minimum_group` homes;
    - `sensitivity`: `full`, answers say how the load follows the price where the leader asks for it, or `none`: a
      question that asks for it is not answered.

    A question asked again counts once. A question is a price; each answer to one tells more of a home's demand. Prices
    outside the `price_band` of its contract, from the least to the largest, it neither answers nor follows.
    """

    sums: Annotated[Literal["off", "committee"], Field(exclude_if=lambda level: level == "off")] = "off"
    sensitivity: Annotated[Literal["full", "none"], Field(exclude_if=lambda level: level == "full")] = "full"
    minimum_group: Annotated[int, Field(ge=5, exclude_if=lambda homes: homes == MINIMUM_GROUP)] = MINIMUM_GROUP
    questions_per_session: Annotated[int, Field(ge=1)] = QUESTIONS_PER_SESSION
    price_band: Annotated[
        tuple[Finite, Finite] | None, AfterValidator(_check_band), Field(exclude_if=lambda band: band is None)
    ] = None


class PrivateModel(StrictModel):
    """Base of everything that stays in the home."""


@dataclass(frozen=True)
class DayPlan:
    """A home's settled day, a number per slot: `load_kw` at the meter.

    Of the storage that devices can control `setpoint_kw`, above zero where it charges, and `level_kwh` at the end of
    the slot; both None in a home without one.
    """

    load_kw: list[float]
    setpoint_kw: list[float] | None = None
    level_kwh: list[float] | None = None


class HomeModel(PrivateModel):
    """Base of a game's private home model: one customer's data, under the name `id`.

    `slot_hours` is the length Δ of a slot, hours. A game whose homes have a storage that devices can control, or a
    state that one session leaves to the next, overrides the methods below. In a scenario it may name its `aggregator`.
    """

    id: Name
    aggregator: Name | None = None
    slot_hours: Annotated[float, Field(gt=0, le=1)] = 1.0

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` that begins with the key of what has another length than the horizon."""

    def check_connection(self, max_kw: float) -> None:
        """Raise `ValueError` that begins with the key when it may draw or feed in more than its connection carries."""

    def foresee(self, session: Session) -> Self:
        """Give the home of the run with what it foresees at the beginning of a session in place of what comes."""
        return self

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the home in one session of a run: the slots of its window, and the `state` left by the session before.

        Without a state it is as described, at the beginning of the run.
        """
        return cut(self, session)

    def meter(self, account: Mapping[str, Any], came: Self) -> Mapping[str, Any]:
        """Give the account of what a home that has settled `account` by its forecast does, when it is as it `came`."""
        return account

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give the state, as JSON, in which a home of `in_session` is once the binding slots of it have passed.

        `account` is what it does, as `HomeStrategy.settle` gives it, or `meter` where it planned by a forecast.
        """
        return {}

    @property
    def has_state(self) -> bool:
        """True when a session may leave something to the next."""
        return type(self).advance is not HomeModel.advance

    def storage_capacity_kwh(self) -> float | None:
        """Give the capacity of the one storage that devices can control, None where there is none or more than one.

        Raise `ValueError` where the game schedules no storage.
        """
        raise ValueError(f"devices: the game of a {type(self).__name__} schedules no storage; leave devices out")

    def storage_power_kw(self) -> tuple[float, float]:
        """Give the most that this storage discharges and charges, kW."""
        raise NotImplementedError

    def with_stored_energy(self, kwh: float) -> Self:
        """Give the same home with `kwh` in that storage at the start. Raise `ValueError` where it cannot hold that."""
        raise NotImplementedError

    def check_reading(self, key: Literal["room_temperature", "car_at_home"]) -> None:
        """Raise `ValueError` where a reading of this kind says nothing of the home."""
        raise ValueError("in this game no home has any use for it; leave it out")

    def with_room_temperature(self, celsius: float) -> Self:
        """Give the same home with its one room so warm at the start. Raise `ValueError` where that cannot be."""
        raise NotImplementedError

    def with_car(self, *, at_home: bool) -> Self:
        """Give the same home whose one car is there at the start, or is not. Raise `ValueError` if it cannot be."""
        raise NotImplementedError

    def describe_state(self) -> dict[str, Any]:
        """Give the state in which it begins, as `in_session` takes it; nothing where that is not all of it."""
        return {}

    def within(self, draw_kw: Sequence[float], feed_in_kw: Sequence[float], *, above_inelastic: bool = False) -> Self:
        """Give the home whose meter draws and feeds in at most so much in each slot, kW, infinite where nothing limits.

        With `above_inelastic` it may draw what no device of it can leave off. A game that knows no such limits gives
        the home as it is.
        """
        return self

    def with_fixed_load(self, load_kw: Sequence[float]) -> Self:
        """Give a home of this name that draws `load_kw` whatever the price is. Raise `ValueError` where none can."""
        raise ValueError("in this game no home can draw the same at every price")

    def list_feed_in_prices(self) -> list[float] | None:
        """List the price of what the home feeds in, a number per slot; None where it is the price of the slot."""
        return None

    def day_plan(self, account: Mapping[str, Any]) -> DayPlan:
        """Give the settled day for the devices from the home's account of it, as `HomeStrategy.settle` gives it."""
        raise NotImplementedError
