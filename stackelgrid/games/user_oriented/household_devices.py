"""Devices drawn for the homes of a population: photovoltaics, batteries, cars and heat pumps.

Each section gives the `share` of the homes that have the device, and bounds between which its size is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from stackelgrid.model import NonNegative, Positive, StrictModel
from stackelgrid.scenarios import Between
from stackelgrid.wire.arrays import Array

Share = Annotated[float, Field(ge=0, le=1)]
Efficiency = Annotated[float, Field(gt=0, le=1)]
_FRIDAY = 4
_COLDEST = 5
"""The hour of the day in which it is coldest outside."""


class PvShare(StrictModel):
    """Photovoltaics of `kwp` kW at full sun; `columns` of the profiles hold the power of a kW of it."""

    share: Share
    kwp: Between = (3.0, 8.0)
    columns: Annotated[list[str], Field(min_length=1)]

    def draw(self, random: np.random.Generator, shapes: Mapping[str, Array]) -> dict[str, Any]:
        """Draw a system. Raise `ValueError` for a column that is not there."""
        column = self.columns[random.integers(len(self.columns))]
        if column not in shapes:
            raise ValueError(f"population.pv.columns: the profiles have no column {column!r}; name one that is there")
        return {"available_kw": (random.uniform(*self.kwp) * shapes[column]).tolist()}


class BatteryShare(StrictModel):
    """Batteries of `kwh`, full in `hours`, half full at the beginning; `fast` is their wear, money per kW^2 h."""

    share: Share
    kwh: Between = (5.0, 10.0)
    hours: Positive = 2.0
    efficiency: Efficiency = 0.95
    fast: Positive = 0.5

    def draw(self, random: np.random.Generator) -> dict[str, Any]:
        """Draw a battery."""
        kwh = random.uniform(*self.kwh)
        return {
            "name": "battery",
            "capacity_kwh": kwh,
            "initial_kwh": kwh / 2,
            "charge_kw": kwh / self.hours,
            "discharge_kw": kwh / self.hours,
            "charge_efficiency": self.efficiency,
            "discharge_efficiency": self.efficiency,
            "wear": {"fast": self.fast},
        }


class CarShare(StrictModel):
    """Electric cars: on working days each leaves and comes back at hours of its own, and the trip `uses_kwh`.

    At departure it holds at least `least` of its capacity; `fast` is the wear of charging, money per kW^2 h.
    """

    share: Share
    kwh: Between = (40.0, 70.0)
    charge_kw: Positive = 7.4
    leave_hour: Between = (6.0, 9.0)
    back_hour: Between = (16.0, 19.0)
    uses_kwh: Between = (4.0, 12.0)
    least: Share = 0.6
    efficiency: Efficiency = 0.9
    fast: Positive = 0.5

    def draw(self, random: np.random.Generator, times: Sequence[datetime]) -> dict[str, Any]:
        """Draw a car and its trips over slots that begin at `times`."""
        kwh, uses = random.uniform(*self.kwh), random.uniform(*self.uses_kwh)
        leave, back = random.uniform(*self.leave_hour), random.uniform(*self.back_hour)
        hours = [time.hour + time.minute / 60 for time in times]
        away = [time.weekday() <= _FRIDAY and leave <= hour < back for time, hour in zip(times, hours, strict=True)]
        starts = [slot for slot in range(len(away)) if away[slot] and not (slot and away[slot - 1])]
        ends = [slot for slot in range(1, len(away) + 1) if away[slot - 1] and (slot == len(away) or not away[slot])]
        trips = [
            # Counted from 1. A car that is away at the end of the run comes back after it.
            {"leave": start + 1, "back": end + 1, "uses_kwh": uses, "need_kwh": max(uses, self.least * kwh)}
            for start, end in zip(starts, ends, strict=True)
        ]
        return {
            "capacity_kwh": kwh,
            "initial_kwh": self.least * kwh,
            "final_kwh": self.least * kwh,
            "charge_kw": self.charge_kw,
            "discharge_kw": 0.0,
            "charge_efficiency": self.efficiency,
            "trips": trips,
            "wear": {"fast": self.fast},
        }


class Weather(StrictModel):
    """A temperature outside that is made, not measured: `mean_c`, and by `swing_k` colder at five in the morning."""

    mean_c: Annotated[float, Field(ge=-60, le=60)] = 6.0
    swing_k: NonNegative = 4.0

    def temperature(self, times: Sequence[datetime]) -> list[float]:
        """Give it at slots, °C."""
        hours = np.array([time.hour + time.minute / 60 for time in times])
        cold = np.cos(2 * np.pi * (hours - _COLDEST) / 24)
        return np.asarray(self.mean_c - self.swing_k * cold).tolist()  # type: ignore[no-any-return]


class HeatPumpShare(StrictModel):
    """Heat pumps of `kw`, of whose power `cop` times as much heat comes, in homes that lose `loss_kw_per_k`.

    A home left alone cools with the time constant `hours`. From 20 to 22 °C nobody complains; outside that comfort has
    its `discomfort`, money per K^2 and hour. `fast`, money per kW^2 h, is for the heat that a kWh lacks at full power.
    """

    share: Share
    kw: Between = (2.0, 4.0)
    cop: Positive = 3.2
    loss_kw_per_k: Between = (0.1, 0.2)
    hours: Between = (40.0, 80.0)
    gains_kw: NonNegative = 0.3
    discomfort: Positive = 20.0
    fast: Positive = 0.5
    weather: Weather = Weather()

    def draw(self, random: np.random.Generator, times: Sequence[datetime]) -> dict[str, Any]:
        """Draw a heat pump and its home over slots that begin at `times`."""
        loss = random.uniform(*self.loss_kw_per_k)
        return {
            "max_kw": random.uniform(*self.kw),
            "cop": self.cop,
            "heat_kwh_per_k": loss * random.uniform(*self.hours),
            "loss_kw_per_k": loss,
            "outside_c": self.weather.temperature(times),
            "gains_kw": self.gains_kw,
            "initial_c": 21.0,
            "fast": self.fast,
            "comfort": {"min_c": 20.0, "max_c": 22.0, "price": self.discomfort},
        }
