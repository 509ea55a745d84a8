"""A home as its owner describes it: appliances, preferences, storage, the limits of its connection.

This is the private half of the game. Nothing in this file is ever sent: only the answer to a price leaves a home. The
three appliance classes are those of section 3.1 of the paper; equation tags are those of docs/games/user_oriented.md.
Power is in kW; in a slot of Δ hours it is that many kW times Δ of energy, kWh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.model import LARGEST, PER_SLOT, NonNegative, PerSlot, Positive, PositivePerSlot
from stackelgrid.rounds.settings import DayPlan, HomeModel, PrivateModel


class Inelastic(PrivateModel):
    """Class A1 [UO-1]: no price changes what it draws.

    Either `load_kw[t]` in slot t, or switched on and off: `rate_kw` in the slots `hours`, counted from 1.
    """

    name: str = "inelastic"
    load_kw: Annotated[list[NonNegative] | None, PER_SLOT] = None
    rate_kw: NonNegative | None = None
    hours: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None

    def draw(self, slots: int) -> NDArray[np.float64]:
        """Give what it draws, (slots,) kW."""
        if self.load_kw is not None:
            return np.array(self.load_kw, float)
        return np.where(np.isin(np.arange(1, slots + 1), self.hours or []), self.rate_kw or 0.0, 0.0)

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if (self.rate_kw is None) != (self.hours is None) or (self.load_kw is None) == (self.rate_kw is None):
            raise ValueError("give load_kw, a number per slot, or rate_kw and the hours in which it runs")
        if self.hours and len(set(self.hours)) < len(self.hours):
            raise ValueError(f"hours {self.hours} has one twice; name each once")
        return self


class Satisfaction(PrivateModel):
    """The satisfaction S of a home with an appliance that runs at the ratio q = x / x_max in [0, 1], [UO-9].

    | form | S(q) | mark |
    |---|---|---|
    | `log` | ln(1 + alpha q) / omega | reading, the default |
    | `power` | q^alpha / omega, 0 < alpha < 1 | reading |
    | `quadratic` | omega q - alpha q^2 / 2 up to q = omega / alpha, flat beyond | reading (Samadi et al.) |

    `omega` ranks customers (in `log` and `power` a smaller one earns more); `alpha` is the sensitivity at low rates.
    Both may be given per slot. An appliance never runs above the rate at which its satisfaction goes flat, not even at
    a negative price.
    """

    form: Literal["log", "power", "quadratic"] = "log"
    omega: PositivePerSlot = 1.0
    alpha: PositivePerSlot = 1.0

    @model_validator(mode="after")
    def _check_concavity(self) -> Self:
        if self.form == "power" and np.any(np.asarray(self.alpha) >= 1):
            raise ValueError("alpha of a power satisfaction must be below 1, else it is not strictly concave")
        return self


class Elastic(PrivateModel):
    """Class A2 [UO-2]: any rate between `min_kw` and `max_kw`; satisfaction depends on the rate of the slot alone.

    `valuation` is v, the worth of a kWh at full rate, money per kWh.
    """

    name: str = "elastic"
    max_kw: PositivePerSlot
    min_kw: PerSlot = 0.0
    valuation: Positive
    satisfaction: Satisfaction = Satisfaction()


class Wear(PrivateModel):
    """The wear of a storage [UO-4], money per hour: fast * r_t^2 + deep * min(b_t - depth * B, 0)^2 (reading).

    `fast`, money per kW^2 h, is above zero, so that the home's best schedule is unique and its answer a function of the
    price; `deep`, money per kWh^2 h; `depth` is the share of the capacity below which a discharge counts as deep.
    """

    fast: Positive
    deep: NonNegative = 0.0
    depth: Annotated[float, Field(ge=0, le=1)] = 0.2


class Availability(PrivateModel):
    """The hours in which an EV is plugged in, first and last included, counted from 1.

    With `first` above `last` the car stays over midnight; the day's schedule then repeats every day.
    """

    first: Annotated[int, Field(ge=1)]
    last: Annotated[int, Field(ge=1)]


class Storage(PrivateModel):
    """Class A3 [UO-3], a battery or an EV: level b_t = b_0 + Δ sum r, 0 <= b_t <= B, -discharge <= r_t <= charge.

    `final_kwh` is the least level after the last slot in which the storage is available: for an EV the energy needed
    at departure; when omitted, the initial level (reading: no day uses up energy that the day before stored).
    """

    name: str = "storage"
    capacity_kwh: NonNegative
    initial_kwh: NonNegative
    charge_kw: NonNegative
    discharge_kw: NonNegative
    final_kwh: NonNegative | None = None
    available: Availability | None = None
    wear: Wear

    @property
    def least_final_kwh(self) -> float:
        """The least level at the end, kWh."""
        return self.initial_kwh if self.final_kwh is None else self.final_kwh

    def slots(self, horizon: int) -> NDArray[np.intp]:
        """List the slots (from 0) in which it may run, in the order of time, which may lead over midnight."""
        if self.available is None:
            return np.arange(horizon)
        first, last = self.available.first - 1, self.available.last - 1
        return (first + np.arange((last - first) % horizon + 1)) % horizon

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if self.initial_kwh > self.capacity_kwh:
            raise ValueError(f"initial_kwh {self.initial_kwh} is above capacity_kwh {self.capacity_kwh}; lower it")
        if self.least_final_kwh > self.capacity_kwh:
            raise ValueError(f"final_kwh {self.least_final_kwh} is above capacity_kwh {self.capacity_kwh}; lower it")
        return self


class DrawLimit(PrivateModel):
    """Bounds on the power that the meter draws in a slot, kW [UO-A]; with `min_kw` of zero nothing is exported."""

    min_kw: Annotated[float, Field(ge=-LARGEST, le=LARGEST)] = 0.0
    max_kw: Positive | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max_kw is not None and self.min_kw > self.max_kw:
            raise ValueError(f"min_kw {self.min_kw} is above max_kw {self.max_kw}; swap them")
        return self


class Home(HomeModel):
    """One customer with everything behind its meter. A slot takes `slot_hours` (Δ)."""

    segment: str = "residential"
    horizon: Annotated[int, Field(ge=1, le=100_000)] = 24
    inelastic: list[Inelastic] = []
    elastic: list[Elastic] = []
    storage: list[Storage] = []
    draw_limit: DrawLimit = DrawLimit()

    @property
    def connection_kw(self) -> float:
        """The most that it may draw or feed in, kW: its draw limit or, without one, the power of all that it has."""
        if self.draw_limit.max_kw is not None:
            return max(self.draw_limit.max_kw, -self.draw_limit.min_kw)
        rated = sum(max(load.load_kw or [load.rate_kw or 0.0]) for load in self.inelastic)
        rated += sum(float(np.max(appliance.max_kw)) for appliance in self.elastic)
        return rated + sum(max(store.charge_kw, store.discharge_kw) for store in self.storage)

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when its horizon is another."""
        if self.horizon != slots:
            raise ValueError(f"horizon is {self.horizon}, slots is {slots}; make them equal")

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the home in one session, its storage as full as the session before has left it."""
        home = super().in_session(session).model_copy(update={"horizon": session.slots})
        if not state:
            return home
        storage = [
            store.model_copy(update={"initial_kwh": kwh, "final_kwh": store.least_final_kwh})
            for store, kwh in zip(self.storage, state["storage_kwh"], strict=True)
        ]
        return home.model_copy(update={"storage": storage})

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give the level of the storage after the binding slots, as the session has settled it."""
        if not self.storage:
            return {}
        return {"storage_kwh": [account["storage_kwh"][session.binding - 1]]}

    def storage_capacity_kwh(self) -> float | None:
        """Give the capacity of the one storage, None where there is none or more than one."""
        return self.storage[0].capacity_kwh if len(self.storage) == 1 else None

    def with_stored_energy(self, kwh: float) -> Self:
        """Give the same home with `kwh` in its storage at the start. Raise `ValueError` where it cannot hold that."""
        (storage,) = self.storage
        return self.model_validate(self.model_dump() | {"storage": [storage.model_dump() | {"initial_kwh": kwh}]})

    def day_plan(self, account: Mapping[str, Any]) -> DayPlan:
        """Give the settled day for the devices: the level rises by what the storage charges."""
        if len(self.storage) != 1:
            return DayPlan(account["load_kw"])
        (storage,), level = self.storage, np.array(account["storage_kwh"])
        setpoint, slots = np.zeros(self.horizon), storage.slots(self.horizon)
        setpoint[slots] = np.diff(level[slots], prepend=storage.initial_kwh) / self.slot_hours
        return DayPlan(account["load_kw"], setpoint.tolist(), level.tolist())

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for number, load in enumerate(self.inelastic):
            if load.load_kw is not None:
                _require_length(f"inelastic.{number}.load_kw", load.load_kw, self.horizon)
            if load.hours and max(load.hours) > self.horizon:
                raise ValueError(
                    f"inelastic.{number}.hours has {max(load.hours)}, the slots are 1..{self.horizon}; leave it out"
                )
        for number, appliance in enumerate(self.elastic):
            for key, value in (
                ("max_kw", appliance.max_kw),
                ("min_kw", appliance.min_kw),
                ("satisfaction.omega", appliance.satisfaction.omega),
                ("satisfaction.alpha", appliance.satisfaction.alpha),
            ):
                _require_length(f"elastic.{number}.{key}", value, self.horizon)
            if np.any(np.asarray(appliance.min_kw) > np.asarray(appliance.max_kw)):
                raise ValueError(f"elastic.{number}.min_kw is above max_kw; lower it")
        for number, store in enumerate(self.storage):
            if store.available and max(store.available.first, store.available.last) > self.horizon:
                raise ValueError(
                    f"storage.{number}.available: {store.available.first}..{store.available.last} is outside the "
                    f"slots 1..{self.horizon}; end it by then"
                )
            hours = len(store.slots(self.horizon)) * self.slot_hours
            reachable = store.initial_kwh + store.charge_kw * hours
            if store.least_final_kwh > reachable + 1e-9:
                raise ValueError(
                    f"storage.{number}.final_kwh {store.least_final_kwh:g} cannot be reached, "
                    f"charging in its {hours:g} hours gives at most {reachable:g}; "
                    "lengthen the window, raise charge_kw or lower final_kwh"
                )
        return self


def _require_length(what: str, value: float | list[float], horizon: int) -> None:
    if isinstance(value, list) and len(value) != horizon:
        raise ValueError(f"{what} has {len(value)} numbers, the horizon has {horizon} slots; give one per slot")
