"""The home of the storage market: it offers better schedules of its appliances, and its battery follows the DRA.

Homes that all move at one old price move the peak instead of flattening it (reading). So a home does not move by
itself. At each price it offers a schedule, and stays at its present one; with the next price it learns how far to go.
Its interruptible appliances offer the proximal schedule [SM-13] and go the part `step` of the way to it. Those that
cannot be interrupted offer another start, where that saves more than `inertia` of what the present one costs and their
group has the turn, and take it where the leader says so [SM-15].

The battery is known to the home's own DRA. It settles what each kWh of capacity charges (u) and delivers (q) [SM-16]:

    e_t = e_{t-1} + (eta u_t - q_t / eta) Δ - spilt_t,      0 <= e_t <= E,  0 <= u_t, q_t,  u_t + q_t <= P

`spilt` is zero unless a battery is charged that is full already. kW, slots of Δ hours, dollars per MWh.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.calendar import MOST_SLOTS_OF_RUN, Session
from stackelgrid.games.storage_market.home.appliances import Appliance, Interruptible, Uninterruptible, check_window
from stackelgrid.games.storage_market.messages import Batteries, FleetPlan, HomesAnswer, Tariff, Turn
from stackelgrid.model import NonNegative
from stackelgrid.rounds.settings import DayPlan, HomeModel, PrivateModel
from stackelgrid.wire.arrays import Array

_FEW_APPLIANCES = 40
"""So many appliances take a millisecond or two, as long as a message."""
_PER_MWH = 1000.0
_FASTEST = 100.0
"""The most kW that a battery may have per kWh: the numbers in messages are bounded."""


class Battery(PrivateModel):
    """A battery: `capacity_kwh`, of which `initial_kwh` is stored at the start; `power_kw`; `efficiency` each way.

    At the end it stores `final_kwh` at least, as much as at the start unless that says otherwise.
    """

    capacity_kwh: Annotated[float, Field(gt=0, le=1e6)]
    power_kw: NonNegative
    initial_kwh: NonNegative
    final_kwh: NonNegative | None = None
    efficiency: Annotated[float, Field(gt=0, le=1)] = 0.95

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if self.initial_kwh > self.capacity_kwh:
            raise ValueError(f"initial_kwh {self.initial_kwh:g} is above capacity_kwh {self.capacity_kwh:g}; lower it")
        if self.least_kwh > self.capacity_kwh:
            raise ValueError(f"final_kwh {self.least_kwh:g} is above capacity_kwh {self.capacity_kwh:g}; lower it")
        if self.power_kw > _FASTEST * self.capacity_kwh:
            raise ValueError(
                f"power_kw {self.power_kw:g} is above {_FASTEST:g} times capacity_kwh {self.capacity_kwh:g}; lower it"
            )
        return self

    @property
    def least_kwh(self) -> float:
        """The least that it stores at the end."""
        return self.initial_kwh if self.final_kwh is None else self.final_kwh


class RunPart(PrivateModel):
    """The part of the run that a home in a session has: the numbers of its `appliances` among those of the run, from 0.

    Of those, `drawn_kwh` is what each has drawn in earlier sessions. `moved_kw` is what all of them usually draw in the
    slots of the session less what those left to run usually draw. `connection_kw` is that of the home in the run.
    """

    appliances: list[int]
    drawn_kwh: list[float]
    moved_kw: list[float]
    connection_kw: NonNegative


class MarketHome(HomeModel):
    """One home, or a street of them under one controller: `appliances` that can be scheduled, and a battery.

    In a session it knows its `part` of the run.
    """

    horizon: Annotated[int, Field(ge=1, le=MOST_SLOTS_OF_RUN)] = 24
    appliances: list[Appliance] = Field(default_factory=list)
    battery: Battery | None = None
    part: RunPart | None = None

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the home in one session of a run: what is left for its appliances there, and what its battery stores."""
        if session.first == 0 and session.slots == self.horizon and state is None:
            return self
        drawn = state["drawn_kwh"] if state else [0.0] * len(self.appliances)
        parts = [appliance.in_session(session, kwh) for appliance, kwh in zip(self.appliances, drawn, strict=True)]
        battery = self.battery
        if battery is not None:
            level = state["battery_kwh"] if state else battery.initial_kwh
            battery = battery.model_copy(update={"initial_kwh": level, "final_kwh": battery.least_kwh})
        left = [part for part in parts if part is not None]
        home = self.model_copy(update={"horizon": session.slots, "appliances": left, "battery": battery})
        part = RunPart(
            appliances=[number for number, part in enumerate(parts) if part is not None],
            drawn_kwh=drawn,
            moved_kw=(self.preferred_load()[session.window] - home.preferred_load()).tolist(),
            connection_kw=self.connection_kw,
        )
        return home.model_copy(update={"part": part})

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give what each of the run's appliances has drawn and the battery stores after the binding slots, kWh."""
        count = len(self.appliances)
        numbers = range(count) if self.part is None else self.part.appliances
        drawn = [0.0] * count if self.part is None else list(self.part.drawn_kwh)
        for number, energy in zip(numbers, account["appliances_kwh"], strict=True):
            drawn[number] += sum(energy[: session.binding])
        state: dict[str, Any] = {"drawn_kwh": drawn}
        return state if self.battery is None else state | {"battery_kwh": account["battery_kwh"][session.binding - 1]}

    def check_connection(self, max_kw: float) -> None:
        """Raise `ValueError` when its battery and all appliances at once exceed `max_kw`."""
        if self.connection_kw > max_kw:
            raise ValueError(
                f"appliances, battery: {self.connection_kw:g} kW together, the connection carries {max_kw:g}; lower "
                "their power, or ask the operator for more"
            )

    @property
    def connection_kw(self) -> float:
        """The power of its battery and all appliances of the run at once."""
        if self.part is not None:
            return self.part.connection_kw
        return sum(appliance.most_kw for appliance in self.appliances) + (
            0.0 if self.battery is None else self.battery.power_kw
        )

    def usual_load(self) -> Array:
        """Give what all appliances of the run usually draw in these slots, (T,) kW."""
        return self.preferred_load() + (0.0 if self.part is None else np.array(self.part.moved_kw))

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when its horizon is another."""
        if self.horizon != slots:
            raise ValueError(f"horizon is {self.horizon}, slots is {slots}; make them equal")

    def preferred_load(self) -> Array:
        """Give what its appliances draw before there is a price, (T,) kW."""
        schedules = (appliance.preferred_schedule(self.horizon, self.slot_hours) for appliance in self.appliances)
        return sum(schedules, np.zeros(self.horizon))

    def storage_capacity_kwh(self) -> float | None:
        """Give the capacity of the battery, None without one."""
        return None if self.battery is None else self.battery.capacity_kwh

    def storage_power_kw(self) -> tuple[float, float]:
        """Give the most that the battery discharges and charges, kW."""
        assert self.battery is not None
        return self.battery.power_kw, self.battery.power_kw

    def with_stored_energy(self, kwh: float) -> Self:
        """Give the same home with `kwh` in its battery at the start. Raise `ValueError` where it cannot hold that."""
        assert self.battery is not None
        return self.model_validate(self.model_dump() | {"battery": self.battery.model_dump() | {"initial_kwh": kwh}})

    def day_plan(self, account: Mapping[str, Any]) -> DayPlan:
        """Give the settled day for the devices: the meter draws what appliances draw and the battery charges."""
        if self.battery is None:
            return DayPlan(account["load_kw"])
        setpoint = np.array(account["charge_kw"]) - np.array(account["sold_kw"])
        load = np.array(account["load_kw"]) + setpoint
        return DayPlan(load.tolist(), setpoint.tolist(), account["battery_kwh"])

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        for number, appliance in enumerate(self.appliances):
            check_window(appliance, self.slot_hours)
            if appliance.last > self.horizon:
                unit = "hours" if self.slot_hours == 1 else "slots"
                raise ValueError(
                    f"appliances.{number}.last is {appliance.last}, the horizon has {self.horizon} {unit}; "
                    "end its window within the horizon"
                )
        return self


@dataclass(frozen=True)
class BatteryDay:
    """A battery's day, (T,): `charge` and `sold` kW at the meter, `level` kWh at the end, `spilt` kWh as heat."""

    charge: Array
    sold: Array
    level: Array
    spilt: Array


def follow(battery: Battery, charge: Array, sold: Array, slot_hours: float = 1.0) -> BatteryDay:
    """Follow a plan [SM-16], kW for each kWh of capacity (T,), within the battery's power, capacity and energy."""
    eta, level = battery.efficiency, battery.initial_kwh
    slots = []
    for planned_charge, planned_sold in zip(charge * battery.capacity_kwh, sold * battery.capacity_kwh, strict=True):
        u = min(planned_charge, battery.power_kw)
        q = min(planned_sold, battery.power_kw - u, eta * (level / slot_hours + eta * u))
        full = level + slot_hours * (eta * u - q / eta)
        level = min(max(full, 0.0), battery.capacity_kwh)
        slots.append((u, q, level, max(full - battery.capacity_kwh, 0.0)))
    return BatteryDay(*np.array(slots).T)


class HomeSchedule:
    """A home's present schedule, by appliance, and the one that it has offered, (T,) kW each."""

    def __init__(self, home: MarketHome) -> None:
        self.home = home
        self.appliances = [appliance.preferred_schedule(home.horizon, home.slot_hours) for appliance in home.appliances]
        self._offered = list(self.appliances)
        self._group_numbers = [zlib.crc32(f"{home.id}/{number}".encode()) for number in range(len(home.appliances))]

    @property
    def load(self) -> Array:
        """The load of the appliances, (T,) kW."""
        return sum(self.appliances, np.zeros(self.home.horizon))

    def load_with(self, kind: type[Interruptible | Uninterruptible]) -> Array:
        """Give the load when the appliances of one kind follow what they offered, and no others do, (T,) kW."""
        pairs = zip(self.home.appliances, self.appliances, self._offered, strict=True)
        chosen = (offered if isinstance(appliance, kind) else now for appliance, now, offered in pairs)
        return sum(chosen, np.zeros(self.home.horizon))

    def move(self, turn: Turn) -> None:
        """Go as far towards the offered schedules as the leader says; the offer then lapses."""
        for number, appliance in enumerate(self.home.appliances):
            now, offered = self.appliances[number], self._offered[number]
            part = turn.step if isinstance(appliance, Interruptible) else float(turn.starts)
            self.appliances[number] = offered if part == 1 else now + part * (offered - now)
        self._offered = list(self.appliances)

    def make_offer(self, price: Array, turn: Turn) -> float:
        """Offer schedules at `price` (T,); give the energy, kWh, that would start elsewhere if it had the turn."""
        wanted, hours = 0.0, self.home.slot_hours
        for number, appliance in enumerate(self.home.appliances):
            now = self.appliances[number]
            if isinstance(appliance, Interruptible):
                self._offered[number] = appliance.proximal_schedule(price, now, turn.weight, hours)
                continue
            cheapest = appliance.cheapest_schedule(price, hours)
            saving, rounding = float(price @ (now - cheapest)), 1e-12 * float(np.abs(price) @ now)
            if saving > turn.inertia * abs(float(price @ now)) + rounding:
                if turn.turn is not None and self._group_numbers[number] % turn.groups == turn.turn % turn.groups:
                    self._offered[number] = cheapest
                else:
                    wanted += hours * float(np.abs(now - cheapest).sum()) / 2
        return wanted

    def regret(self, price: Array) -> float:
        """Give what its interruptible appliances could still save, as a part of what all its energy costs."""
        pairs = zip(self.home.appliances, self.appliances, strict=True)
        saving = sum(
            float(price @ (now - appliance.cheapest_schedule(price, self.home.slot_hours)))
            for appliance, now in pairs
            if isinstance(appliance, Interruptible)
        )
        paid = abs(float(price @ self.load))
        return min(max(saving, 0.0) / paid, 1.0) if paid > 0 else 0.0

    def remember(self) -> dict[str, list[list[float]]]:
        """Give the present schedule of each appliance, and the one offered, (T,) kW each."""
        return {
            "now": [each.tolist() for each in self.appliances],
            "offered": [each.tolist() for each in self._offered],
        }

    def recall(self, memory: Mapping[str, list[list[float]]]) -> None:
        """Take the schedules that `remember` gave."""
        self.appliances, self._offered = ([np.array(each) for each in memory[key]] for key in ("now", "offered"))


class StorageMarketHomes:
    """The strategy of the homes behind one process. They start from their preferred schedules."""

    def __init__(self, homes: Sequence[MarketHome]) -> None:
        self._schedules = [HomeSchedule(home) for home in homes]

    @property
    def quick(self) -> bool:
        """Tell whether the schedules take no longer than a message."""
        return sum(len(schedule.appliances) for schedule in self._schedules) <= _FEW_APPLIANCES

    def answer(self, signal: Tariff) -> HomesAnswer:
        """Move as the signal says, offer better schedules at its price, and answer with the loads and the batteries."""
        price = np.array(signal.price)
        for schedule in self._schedules:
            schedule.move(signal.turn)
        wanted = sum(schedule.make_offer(price, signal.turn) for schedule in self._schedules)
        return HomesAnswer(
            homes=len(self._schedules),
            load_kw=_add_up(schedule.load for schedule in self._schedules),
            usual_kw=_add_up(schedule.home.preferred_load() for schedule in self._schedules),
            offer_kw=_add_up(schedule.load_with(Interruptible) for schedule in self._schedules),
            starts_kw=_add_up(schedule.load_with(Uninterruptible) for schedule in self._schedules),
            moved_kw=self._add_moved(),
            wanted_kwh=wanted,
            regret=max(schedule.regret(price) for schedule in self._schedules),
            batteries=_disclose([s.home.battery for s in self._schedules if s.home.battery is not None]),
        )

    def remember(self) -> list[dict[str, list[list[float]]]]:
        """Give the present schedule of each home's appliances, and the one before."""
        return [schedule.remember() for schedule in self._schedules]

    def _add_moved(self) -> list[float] | None:
        """Add up what earlier sessions have moved, None where there are none."""
        moved = [schedule.home.part.moved_kw for schedule in self._schedules if schedule.home.part is not None]
        return np.sum(moved, axis=0).tolist() if moved else None

    def recall(self, memory: Sequence[Mapping[str, list[list[float]]]]) -> None:
        """Go on from the schedules of before a restart."""
        for schedule, remembered in zip(self._schedules, memory, strict=True):
            schedule.recall(remembered)

    def settle(self, settlement: FleetPlan) -> Mapping[str, Any]:
        """Give each home's day: appliances, battery, and the bill for its appliances."""
        price = np.array(settlement.price)
        plan = np.array(settlement.charge), np.array(settlement.sold)
        return {schedule.home.id: _account(schedule, price, plan) for schedule in self._schedules}


def _add_up(loads: Iterable[Array]) -> list[float]:
    """Add up loads (T,), negative rounding set to zero."""
    return [max(float(each), 0.0) for each in np.sum(list(loads), axis=0)]


def _disclose(batteries: Sequence[Battery]) -> Batteries | None:
    """Give what the DRA learns of the batteries of a process [SM-12]."""
    if not batteries:
        return None
    return Batteries(
        capacity=sum(battery.capacity_kwh for battery in batteries),
        power=min(_FASTEST, *(battery.power_kw / battery.capacity_kwh for battery in batteries)),
        initial=min(battery.initial_kwh / battery.capacity_kwh for battery in batteries),
        headroom=min(1 - battery.initial_kwh / battery.capacity_kwh for battery in batteries),
        rise=max((b.least_kwh - b.initial_kwh) / b.capacity_kwh for b in batteries) or None,
        efficiency=min(battery.efficiency for battery in batteries),
    )


def _account(schedule: HomeSchedule, price: Array, plan: tuple[Array, Array]) -> dict[str, Any]:
    hours = schedule.home.slot_hours
    account: dict[str, Any] = {
        "load_kw": schedule.load.tolist(),
        "appliances_kwh": [(hours * consumption).tolist() for consumption in schedule.appliances],
        "bill": hours * float(price @ schedule.load) / _PER_MWH,
    }
    if schedule.home.battery is not None:
        day = follow(schedule.home.battery, *plan, hours)
        account |= {
            "charge_kw": day.charge.tolist(),
            "sold_kw": day.sold.tolist(),
            "battery_kwh": day.level.tolist(),
            "spilt_kwh": day.spilt.tolist(),
        }
    return account
