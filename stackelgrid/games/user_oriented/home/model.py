"""A home as its owner describes it: appliances, preferences, storage, the limits of its connection.

This is the private half of the game. Nothing in this file is ever sent: only the answer to a price leaves a home. The
three appliance classes are those of section 3.1 of the paper; equation tags are those of docs/games/user_oriented.md.
Power is in kW; in a slot of Δ hours it is that many kW times Δ of energy, kWh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.forecast import HomeForecast, foresee
from stackelgrid.games.user_oriented.home.battery import Store
from stackelgrid.games.user_oriented.home.connection import Connection, Inverter
from stackelgrid.games.user_oriented.home.deferrable import Deferrable, StartChanges
from stackelgrid.games.user_oriented.home.ev import EV, Trip
from stackelgrid.games.user_oriented.home.flows import Chain
from stackelgrid.games.user_oriented.home.heat_pump import HeatPump
from stackelgrid.games.user_oriented.home.metering import Surroundings, meter
from stackelgrid.games.user_oriented.home.pv import PV
from stackelgrid.model import LARGEST, PER_SLOT, SMALLEST, NonNegative, PerSlot, Positive, PositivePerSlot
from stackelgrid.rounds.settings import DayPlan, HomeModel, PrivateModel

Starts = tuple[int | None, ...]
"""The slot, from 1, in which each deferrable run of a home begins; None where it does not begin."""


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

    def in_window(self, slots: int, window: slice) -> Self:
        """Give what it draws in a window of a run of so many slots."""
        if self.hours is None:
            return self
        return type(self)(name=self.name, load_kw=self.draw(slots)[window].tolist())

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


class Availability(PrivateModel):
    """The hours in which an EV is plugged in, first and last included, counted from 1.

    With `first` above `last` the car stays over midnight; the day's schedule then repeats every day.
    """

    first: Annotated[int, Field(ge=1)]
    last: Annotated[int, Field(ge=1)]


class Storage(Store):
    """Class A3 [UO-3], a battery or an EV: level b_t = b_0 + Δ sum r, 0 <= b_t <= B, -discharge <= r_t <= charge.

    `final_kwh` is the least level after the last slot in which the storage is available: for an EV the energy needed
    at departure; when omitted, the initial level (reading: no day uses up energy that the day before stored).
    """

    name: str = "storage"
    available: Availability | None = None

    def slots(self, horizon: int) -> NDArray[np.intp]:
        """List the slots (from 0) in which it may run, in the order of time, which may lead over midnight."""
        if self.available is None:
            return np.arange(horizon)
        first, last = self.available.first - 1, self.available.last - 1
        return (first + np.arange((last - first) % horizon + 1)) % horizon

    def level_after(self, slot: int, level: Sequence[float], horizon: int) -> float:
        """Give the energy in it after a slot, kWh, from its level at the end of those in which it is available.

        One that is available over midnight has the same level every day.
        """
        here = self.slots(horizon)
        if here[0] > here[-1] or here[0] > slot:
            return self.initial_kwh
        return level[min(slot, int(here[-1]))]

    def chain(self, horizon: int) -> Chain:
        """Give its energy as a chain of the home; it is not available over midnight."""
        here, least, slots = np.zeros(horizon), np.zeros(horizon), self.slots(horizon)
        here[slots], least[slots[-1]] = 1.0, self.least_final_kwh
        return self.build_chain(here, np.zeros(horizon), least, behind_inverter=True)


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
    """One customer with everything behind its meter. A slot takes `slot_hours` (Δ).

    Its `deferrable` runs begin where that is best, and change their starts as `start_changes` allows [UO-DH]. The meter
    draws within `draw_limit` or, where the limits differ by slot, within `connection`. What is fed in is paid
    the public `feed_in_price` [UO-FI], but never more than the price of the slot; that price where no other is given.
    Lists per slot are what comes; at the beginning of a session it plans with what `forecast` makes of them.
    """

    segment: str = "residential"
    horizon: Annotated[int, Field(ge=1, le=100_000)] = 24
    inelastic: list[Inelastic] = []
    elastic: list[Elastic] = []
    storage: list[Storage] = []
    draw_limit: DrawLimit = DrawLimit()
    pv: list[PV] = []
    ev: list[EV] = []
    heat_pump: list[HeatPump] = []
    deferrable: list[Deferrable] = []
    start_changes: StartChanges = StartChanges()
    connection: Connection | None = None
    inverter: Inverter | None = None
    feed_in_price: Annotated[PerSlot | None, PER_SLOT] = None
    forecast: HomeForecast | None = None

    def check_connection(self, max_kw: float) -> None:
        """Raise `ValueError` that begins with the key when it may draw or feed in more than `max_kw`."""
        least, most = self.meter_limits
        feeds_in, draws = -float(least.min()), float(most.max())
        limits = ("draw_limit.min_kw", "draw_limit.max_kw")
        if self.connection is not None:
            limits = ("connection.feed_in_kw", "connection.draw_kw")
        if feeds_in > max_kw:
            raise ValueError(f"{limits[0]}: {feeds_in:g} kW is fed in, the connection carries {max_kw:g}; lower it")
        if draws <= max_kw:
            return
        if np.isfinite(draws):
            raise ValueError(f"{limits[1]}: {draws:g} kW, the connection carries {max_kw:g}; lower it to that")
        if self.connection_kw > max_kw:
            raise ValueError(
                f"{limits[1]}: missing, and what the home has draws up to {self.connection_kw:g} kW together, the "
                f"connection carries {max_kw:g}; set it to that"
            )

    @property
    def connection_kw(self) -> float:
        """The most that it may draw or feed in, kW: its limits or, without any, the power of all that it has."""
        least, most = self.meter_limits
        feeds_in = max(0.0, -float(least.min()))
        if np.all(np.isfinite(most)):
            return max(float(most.max()), feeds_in)
        rated = sum(max(load.load_kw or [load.rate_kw or 0.0]) for load in self.inelastic)
        rated += sum(float(np.max(appliance.max_kw)) for appliance in self.elastic)
        rated += sum(max(store.charge_kw, store.discharge_kw) for store in [*self.storage, *self.ev])
        rated += sum(pump.max_kw for pump in self.heat_pump)
        rated += sum(max(run.shape_kw, default=0.0) for run in self.deferrable)
        return max(rated, sum(float(np.max(pv.available_kw)) for pv in self.pv))

    @property
    def meter_limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and the most that the meter draws in each slot, kW; infinite where nothing limits it."""
        least, most = self.draw_limit.min_kw, self.draw_limit.max_kw
        if self.connection is None:
            return np.full(self.horizon, least), np.full(self.horizon, np.inf if most is None else most)
        feed_in, draw = self.connection.feed_in_kw, self.connection.draw_kw
        return (
            -np.broadcast_to(np.asarray(feed_in, float), (self.horizon,)),
            np.broadcast_to(np.asarray(np.inf if draw is None else draw, float), (self.horizon,)),
        )

    @property
    def devices(self) -> list[PrivateModel]:
        """All that it has."""
        return [*self.inelastic, *self.elastic, *self.storage, *self.pv, *self.ev, *self.heat_pump, *self.deferrable]

    @property
    def feeds_in(self) -> bool:
        """True where its meter may feed in."""
        return bool(np.any(self.meter_limits[0] < 0))

    @property
    def flows_together(self) -> bool:
        """True where its devices share more than a draw limit, or lose energy: they are then scheduled together."""
        lossy = any(store.charge_efficiency < 1 or store.discharge_efficiency < 1 for store in self.storage)
        limited = self.connection is not None or self.inverter is not None or self.feed_in_price is not None
        return bool(self.pv or self.ev or self.heat_pump or limited or lossy)

    @property
    def couples_runs(self) -> bool:
        """True where the best start of a run depends on the limits of the meter, or on more than the price."""
        limited = self.draw_limit.max_kw is not None or self.draw_limit.min_kw > 0
        return bool(self.flows_together or self.storage or limited)

    @property
    def earliest_starts(self) -> Starts:
        """The slot in which each deferrable run begins at the earliest."""
        return tuple(run.starts[0] for run in self.deferrable)

    def draw_runs(self, starts: Starts) -> NDArray[np.float64]:
        """Give what its deferrable runs draw together when they begin in the slots `starts`, (T,) kW."""
        drawn = (run.draw(start, self.horizon) for run, start in zip(self.deferrable, starts, strict=True))
        return sum(drawn, np.zeros(self.horizon))

    def at_starts(self, starts: Starts) -> Self:
        """Give the home at given starts of its deferrable runs, which are then inelastic load, the last of it."""
        if not self.deferrable:
            return self
        drawn = [
            Inelastic(name=run.name, load_kw=run.draw(start, self.horizon).tolist())
            for run, start in zip(self.deferrable, starts, strict=True)
        ]
        return self.model_copy(update={"deferrable": [], "inelastic": [*self.inelastic, *drawn]})

    def draw_inelastic(self) -> NDArray[np.float64]:
        """Give what its inelastic appliances draw together, (T,) kW."""
        return sum((load.draw(self.horizon) for load in self.inelastic), np.zeros(self.horizon))

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when its horizon is another, or its forecast cannot be made."""
        if self.horizon != slots:
            raise ValueError(f"horizon is {self.horizon}, slots is {slots}; make them equal")
        if self.forecast is None:
            return
        self.forecast.check_slots(slots)
        for key, rule, count in (
            ("load", self.forecast.load, len(self.inelastic)),
            ("pv", self.forecast.pv, len(self.pv)),
        ):
            if isinstance(rule, list) and count > 1:
                raise ValueError(f"forecast.{key} is a list for one, the home has {count}; join them, or name a rule")
        if self.forecast.temperature != "perfect" and any(pump.comfort.price is None for pump in self.heat_pump):
            raise ValueError(
                "forecast.temperature is not perfect, so that rooms may leave a band that has no price; "
                "give heat_pump.comfort a price"
            )

    def foresee(self, session: Session) -> Self:
        """Give the home with the inelastic load, the PV and the temperature outside that it foresees for a session.

        It foresees no more inelastic load than its meter may draw or, where nothing limits that, than its appliances
        have at most: more would be refused as above the power of its connection.
        """
        rules = self.forecast
        if rules is None or rules.perfect:
            return self
        loads = [np.array(foresee(rules.load, load.draw(self.horizon).tolist(), session)) for load in self.inelastic]
        limit, rated = self.meter_limits[1], sum(float(load.draw(self.horizon).max()) for load in self.inelastic)
        too_much = np.maximum(sum(loads) / np.where(np.isfinite(limit), limit, max(rated, SMALLEST)), 1.0)
        parts = {
            "inelastic": [
                load.model_copy(update={"load_kw": (kw / too_much).tolist(), "rate_kw": None, "hours": None})
                for load, kw in zip(self.inelastic, loads, strict=True)
            ],
            "pv": [
                pv.model_copy(update={"available_kw": foresee(rules.pv, pv.available_kw, session)}) for pv in self.pv
            ],
            "heat_pump": [
                pump.model_copy(
                    update={"outside_c": foresee(rules.temperature, pump.outside_c, session, around_zero=True)}
                )
                for pump in self.heat_pump
            ],
        }
        return self.model_copy(update={"forecast": None, **parts})

    def meter(self, account: Mapping[str, Any], came: Self) -> dict[str, Any]:
        """Give the account of what the home does that has settled `account`, when it is as it `came`."""
        return meter(self._surroundings, came._surroundings, account)

    @property
    def _surroundings(self) -> Surroundings:
        fixed, free = np.zeros(self.horizon), np.zeros(self.horizon)
        for pv in self.pv:
            which = free if pv.curtailable else fixed
            which += pv.available_kw
        least, most = self.meter_limits
        return Surroundings(
            self.slot_hours,
            self.draw_inelastic(),
            fixed,
            free,
            least,
            most,
            np.inf if self.inverter is None else self.inverter.max_kw,
            self.storage,
            [store.slots(self.horizon) for store in self.storage],
            self.heat_pump,
        )

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the home in one session: storage and cars as full, rooms as warm as the session before has left them."""
        home = super().in_session(session)
        switched = [load.in_window(self.horizon, session.window) for load in home.inelastic]
        cars = [car.in_window(session.first, session.slots) for car in home.ev]
        left = (state or {}).get("runs_left_kw", [None] * len(self.deferrable))
        runs = [run.in_session(session, left_kw) for run, left_kw in zip(home.deferrable, left, strict=True)]
        parts: dict[str, Any] = {"horizon": session.slots, "inelastic": switched, "ev": cars, "deferrable": runs}
        if state:
            parts["storage"] = [
                store.model_copy(update={"initial_kwh": kwh, "final_kwh": store.least_final_kwh})
                for store, kwh in zip(self.storage, state.get("storage_kwh", []), strict=True)
            ]
            parts["ev"] = [
                car.model_copy(update={"initial_kwh": kwh})
                for car, kwh in zip(cars, state.get("ev_kwh", []), strict=True)
            ]
            parts["heat_pump"] = [
                pump.model_copy(update={"initial_c": celsius})
                for pump, celsius in zip(home.heat_pump, state.get("temperature_c", []), strict=True)
            ]
        there = home.model_copy(update=parts)._end_within_reach()
        for number, car in enumerate(there.ev):
            there._check_needs(number, car)
        return there

    def _end_within_reach(self) -> Self:
        """Give the home whose cars need no more at the end of its horizon than they can have by then."""
        cars = []
        for car in self.ev:
            _, most = car.model_copy(update={"final_kwh": 0.0}).chain(self.horizon).reach(self.slot_hours)
            cars.append(car.model_copy(update={"final_kwh": min(car.least_final_kwh, max(float(most[-1]), 0.0))}))
        return self.model_copy(update={"ev": cars})

    @property
    def has_state(self) -> bool:
        """True where there is energy in a storage or car, or warmth in a room, to take along."""
        return bool(self.storage or self.ev or self.heat_pump)

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give the state after the binding slots: stored energy, temperatures, what is left of the runs that began."""
        last = session.binding - 1
        levels = [account["storage_kwh"]] if len(self.storage) == 1 else account.get("stores_kwh", [])
        state = {
            "storage_kwh": [
                store.level_after(last, level, self.horizon) for store, level in zip(self.storage, levels, strict=True)
            ],
            "ev_kwh": [level[last] for level in account.get("ev_kwh", [])],
            "temperature_c": [celsius[last] for celsius in account.get("temperature_c", [])],
            "runs_left_kw": [
                run.advance(start, session.binding)
                for run, start in zip(self.deferrable, account.get("starts", []), strict=True)
            ],
        }
        return {key: left for key, left in state.items() if left}

    def storage_capacity_kwh(self) -> float | None:
        """Give the capacity of the one storage, None where there is none or more than one."""
        return self.storage[0].capacity_kwh if len(self.storage) == 1 else None

    def storage_power_kw(self) -> tuple[float, float]:
        """Give the most that the one storage discharges and charges, kW."""
        (storage,) = self.storage
        return storage.discharge_kw, storage.charge_kw

    def with_stored_energy(self, kwh: float) -> Self:
        """Give the same home with `kwh` in its storage at the start. Raise `ValueError` where it cannot hold that."""
        (storage,) = self.storage
        fuller = self.model_dump() | {"storage": [storage.model_dump() | {"initial_kwh": kwh}], "deferrable": []}
        return self.model_validate(fuller).model_copy(update={"deferrable": self.deferrable})

    def check_reading(self, key: Literal["room_temperature", "car_at_home"]) -> None:
        """Raise `ValueError` where the home has not the one room or car that the reading is of."""
        what, count = ("rooms", len(self.heat_pump)) if key == "room_temperature" else ("cars", len(self.ev))
        if count != 1:
            raise ValueError(f"the home has {count} {what}, and a reading is of one; leave it out")

    def with_room_temperature(self, celsius: float) -> Self:
        """Give the same home with its one room so warm at the start."""
        (pump,) = self.heat_pump
        warmer = self.model_copy(update={"heat_pump": [pump.model_copy(update={"initial_c": celsius})]})
        if pump.comfort.price is None:
            warmer._check_comfort(0, warmer.heat_pump[0])
        return warmer

    def with_car(self, *, at_home: bool) -> Self:
        """Give the same home whose one car is there at the start, or is not.

        One that left early is back when the trip is over that it was to make next or, without any, not in this session.
        """
        (car,) = self.ev
        trips = sorted(car.trips, key=lambda trip: trip.leave)
        if at_home != bool(trips and trips[0].leave == 1):
            return self
        if at_home:
            trips = trips[1:]
        elif trips:
            uses = min(trips[0].uses_kwh, car.initial_kwh)
            trips[0] = trips[0].model_copy(update={"leave": 1, "uses_kwh": uses, "need_kwh": None})
        else:
            trips = [Trip(leave=1, back=self.horizon + 1, uses_kwh=0.0)]
        moved = self.model_copy(update={"ev": [car.model_copy(update={"trips": trips})]})._end_within_reach()
        moved._check_needs(0, moved.ev[0])
        return moved

    def describe_state(self) -> dict[str, Any]:
        """Give stored energy and temperatures at the start; what is left of runs that have begun is not in it."""
        state = {
            "storage_kwh": [store.initial_kwh for store in self.storage],
            "ev_kwh": [car.initial_kwh for car in self.ev],
            "temperature_c": [pump.initial_c for pump in self.heat_pump],
        }
        return {key: values for key, values in state.items() if values}

    def within(self, draw_kw: Sequence[float], feed_in_kw: Sequence[float], *, above_inelastic: bool = False) -> Self:
        """Give the home whose meter draws and feeds in at most so much in each slot, kW, infinite for no limit."""
        least, most = self.meter_limits
        draw = np.maximum(draw_kw, self.draw_inelastic()) if above_inelastic else np.array(draw_kw, float)
        connection = Connection.model_construct(
            draw_kw=np.minimum(most, draw).tolist(),
            feed_in_kw=np.minimum(np.maximum(-least, 0.0), feed_in_kw).tolist(),
        )
        return self.model_copy(update={"connection": connection, "draw_limit": DrawLimit()})

    def with_fixed_load(self, load_kw: Sequence[float]) -> Self:
        """Give a home of this name that draws `load_kw` whatever the price is."""
        load = np.array(load_kw)
        drawn, fed = np.maximum(load, 0.0).tolist(), np.maximum(-load, 0.0).tolist()
        parts: dict[str, Any] = {"inelastic": [Inelastic(load_kw=drawn)]}
        if any(fed):
            parts |= {"pv": [PV(available_kw=fed, curtailable=False)], "connection": Connection(feed_in_kw=max(fed))}
        described = self.model_dump(include={"id", "aggregator", "slot_hours", "segment", "horizon", "feed_in_price"})
        return type(self)(**described, **parts)

    def list_feed_in_prices(self) -> list[float] | None:
        """List [UO-FI] over the slots of the home; never more than the price of the slot is paid."""
        if self.feed_in_price is None:
            return None
        return [float(price) for price in np.broadcast_to(self.feed_in_price, (self.horizon,))]

    def day_plan(self, account: Mapping[str, Any]) -> DayPlan:
        """Give the settled day for the devices: the level rises by what the storage charges."""
        if len(self.storage) != 1:
            return DayPlan(account["load_kw"])
        (storage,), level = self.storage, np.array(account["storage_kwh"])
        if "storage_kw" in account:
            return DayPlan(account["load_kw"], account["storage_kw"], level.tolist())
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
            reachable = store.initial_kwh + store.charge_efficiency * store.charge_kw * hours
            if store.least_final_kwh > reachable + 1e-9:
                raise ValueError(
                    f"storage.{number}.final_kwh {store.least_final_kwh:g} cannot be reached, "
                    f"charging in its {hours:g} hours gives at most {reachable:g}; "
                    "lengthen the window, raise charge_kw or lower final_kwh"
                )
        for number, run in enumerate(self.deferrable):
            self._check_run(number, run)
        self._check_devices()
        return self

    def _check_run(self, number: int, run: Deferrable) -> None:
        """Raise `ValueError` where a run that begins late does not end within the horizon."""
        end = run.latest + len(run.shape_kw) - 1
        if end > self.horizon:
            raise ValueError(
                f"deferrable.{number}.latest {run.latest}: its {len(run.shape_kw)} slots then end with slot {end}, the "
                f"slots are 1..{self.horizon}; lower latest, or shorten shape_kw"
            )

    def _check_devices(self) -> None:
        """Check what homes have whose devices are scheduled together."""
        lists: list[tuple[str, Any]] = [("feed_in_price", self.feed_in_price)]
        for number, pv in enumerate(self.pv):
            lists.append((f"pv.{number}.available_kw", pv.available_kw))
        for number, pump in enumerate(self.heat_pump):
            at = f"heat_pump.{number}"
            lists += [(f"{at}.{key}", getattr(pump, key)) for key in ("cop", "outside_c", "gains_kw")]
            lists += [(f"{at}.comfort.{key}", getattr(pump.comfort, key)) for key in ("min_c", "max_c")]
        if self.connection is not None:
            lists += [(f"connection.{key}", getattr(self.connection, key)) for key in ("draw_kw", "feed_in_kw")]
            if self.draw_limit != DrawLimit():
                raise ValueError("draw_limit and connection say both what the meter may draw; leave draw_limit out")
        for key, value in lists:
            _require_length(key, value, self.horizon)
        for number, store in enumerate(self.storage):
            if self.flows_together and store.available and store.available.first > store.available.last:
                raise ValueError(
                    f"storage.{number}.available: over midnight, in a home whose devices are scheduled together; "
                    "describe the car as an ev with trips"
                )
        for number, car in enumerate(self.ev):
            for place, trip in enumerate(car.trips):
                if trip.leave > self.horizon:
                    raise ValueError(
                        f"ev.{number}.trips.{place}.leave {trip.leave} is outside the slots 1..{self.horizon}; "
                        "leave the trip out"
                    )
            self._check_needs(number, car)
        for number, pump in enumerate(self.heat_pump):
            if pump.comfort.price is None:
                self._check_comfort(number, pump)

    def _check_needs(self, number: int, car: EV) -> None:
        """Raise `ValueError` with what is missing where a car cannot have charged enough when it leaves."""
        chain = car.chain(self.horizon)
        _, most = chain.reach(self.slot_hours)
        least = chain.lower
        for slot in np.flatnonzero(most < least - 1e-9):
            missing = f"{most[slot]:g} kWh can be reached, {least[slot] - most[slot]:g} kWh too little"
            mend = "lengthen its stay, raise charge_kw or lower"
            for place, trip in enumerate(car.trips):
                if trip.leave == slot + 2 and trip.least_kwh == least[slot]:
                    raise ValueError(
                        f"ev.{number}.trips.{place}: {least[slot]:g} kWh are needed when it leaves in slot "
                        f"{trip.leave}; {missing}; {mend} need_kwh"
                    )
                if trip.leave == slot + 1:
                    raise ValueError(
                        f"ev.{number}.trips.{place}: it uses {trip.uses_kwh:g} kWh; {missing}; {mend} uses_kwh"
                    )
            raise ValueError(f"ev.{number}.final_kwh: {least[slot]:g} kWh; {missing}; {mend} final_kwh")

    def _check_comfort(self, number: int, pump: HeatPump) -> None:
        """Raise `ValueError` with what is missing where a temperature that may not leave its band has to."""
        chain = pump.chain(self.horizon, self.slot_hours)
        least, most = chain.reach(self.slot_hours)
        for slot in range(self.horizon):
            cold, hot = chain.lower[slot] - most[slot], least[slot] - chain.upper[slot]
            if max(cold, hot) > 1e-9:
                what, bound = ("at most", "min_c") if cold > hot else ("at least", "max_c")
                reached = most[slot] if cold > hot else least[slot]
                raise ValueError(
                    f"heat_pump.{number}.comfort.{bound}: in slot {slot + 1} it is {what} {reached:.4g} C there, "
                    f"{max(cold, hot):.2g} K out of the band; widen it, or give comfort a price"
                )


def _require_length(what: str, value: float | list[float] | None, horizon: int) -> None:
    if isinstance(value, list) and len(value) != horizon:
        raise ValueError(f"{what} has {len(value)} numbers, the horizon has {horizon} slots; give one per slot")
