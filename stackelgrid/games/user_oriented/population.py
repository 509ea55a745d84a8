"""Homes drawn at random around measured load profiles: at the flat price they draw the measured load.

Every home has its own random stream, derived from the scenario's seed and its number: home 7 of 60 is home 7 of 600.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from stackelgrid.games.user_oriented.home import (
    Availability,
    Connection,
    Elastic,
    Home,
    Inelastic,
    Satisfaction,
    Storage,
    Wear,
)
from stackelgrid.games.user_oriented.household_devices import BatteryShare, CarShare, HeatPumpShare, PvShare, Share
from stackelgrid.model import NonNegative, Positive, StrictModel
from stackelgrid.scenarios import Between
from stackelgrid.text_file import read_text
from stackelgrid.wire.arrays import LARGEST, Array

_HOURS = 24


class Alpha(StrictModel):
    """Bounds of the sensitivity alpha, per satisfaction form; of `quadratic` in baseline price over valuation."""

    log: Between
    power: Between
    quadratic: Between


class Segment(StrictModel):
    """One type of customer: the `columns` of its profiles, its mean load, its preferences."""

    columns: Annotated[list[str], Field(min_length=1)]
    mean_load_kw: Positive
    valuation: Between
    alpha: Alpha


class StorageShare(StrictModel):
    """Batteries: a `share` of the homes has one, sized by the home's mean load.

    Its capacity is `hours` of mean load; full power charges `rate` of the capacity in an hour. The wear, `fast` and
    `deep`, is in units of the baseline price over the mean load.
    """

    share: Share
    hours: Positive = 3.0
    rate: Share = 0.3
    fast: Positive = 0.1
    deep: NonNegative = 0.05
    depth: Share = 0.2


class EvShare(StrictModel):
    """Electric vehicles among residential homes: plugged in from `first` to `last`, needing `need_kwh` by departure."""

    share: Share
    capacity_kwh: Positive = 40.0
    need_kwh: Between = (6.0, 12.0)
    charge_kw: Positive = 3.7
    first: int = 18
    last: int = 7
    fast: Positive = 0.02


class Population(StrictModel):
    """The distribution from which the homes of a scenario are drawn.

    `storage` and `ev` are those of the paper's case; `pv`, `battery`, `cars` and `heat_pump` those of a dated run.
    """

    homes: Annotated[int, Field(ge=1, le=100_000)]
    profiles: Path
    day: date
    satisfaction: Literal["log", "power", "quadratic"] = "log"
    size: Between = (0.7, 1.3)
    own_profile: Share = 0.7
    inelastic_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    headroom: Annotated[float, Field(gt=1)] = 1.5
    draw_limit: Annotated[float, Field(gt=1)] | None = None
    segments: Annotated[dict[str, Segment], Field(min_length=1)]
    storage: StorageShare = StorageShare(share=0)
    ev: EvShare | None = None
    pv: PvShare | None = None
    battery: BatteryShare | None = None
    cars: CarShare | None = None
    heat_pump: HeatPumpShare | None = None
    connection: Connection | None = None

    def draw(self, seed: int, baseline_price: float, slots: int, times: Sequence[datetime] | None = None) -> list[Home]:
        """Draw the homes over hours of `day` or, with the `times` at which slots begin, over days from `day` on.

        Raise `ValueError` that names file, column or day when the profiles do not fit.
        """
        file = _Profiles(self.profiles)
        profiles = file.of_day(self.day, slots) if times is None else self._take_slots(file, times)
        shapes = {column: shape / shape.mean() for column, shape in profiles.items() if shape.mean() > 0}
        for name, segment in self.segments.items():
            unknown = [column for column in segment.columns if column not in shapes]
            if unknown:
                raise ValueError(f"population.segments.{name}.columns: {self.profiles} has no column {unknown[0]!r}")
        for section in ("pv", "battery", "cars", "heat_pump"):
            if getattr(self, section) is not None and times is None:
                raise ValueError(f"population.{section}: its sun, trips or weather need dates; give the run a calendar")
        width, homes = len(str(self.homes)), []
        for number in range(self.homes):
            random, name = np.random.default_rng([seed, number]), f"h{number + 1:0{width}d}"
            home = self._draw_home(name, number, random, shapes, baseline_price)
            homes.append(home if times is None else self._add_devices(home, random, profiles, times))
        return homes

    def _take_slots(self, file: _Profiles, times: Sequence[datetime]) -> dict[str, Array]:
        """Take the profiles at slots: the hour in which each lies, of `day` and those after it."""
        first = times[0].date()
        days = {time.date() - first for time in times}
        profiles = {after: file.of_day(self.day + after, _HOURS) for after in days}
        columns = set.intersection(*(set(shapes) for shapes in profiles.values()))
        return {
            name: np.array([profiles[time.date() - first][name][time.hour] for time in times])
            for name in sorted(columns)
        }

    def _add_devices(
        self, home: Home, random: np.random.Generator, profiles: dict[str, Array], times: Sequence[datetime]
    ) -> Home:
        """Add the devices that a home has, each with the probability that is its share of the homes."""
        devices: dict[str, list[dict[str, Any]]] = {}
        if self.pv is not None and random.uniform() < self.pv.share:
            devices["pv"] = [self.pv.draw(random, profiles)]
        if self.battery is not None and random.uniform() < self.battery.share:
            devices["storage"] = [*home.model_dump()["storage"], self.battery.draw(random)]
        if self.cars is not None and random.uniform() < self.cars.share:
            devices["ev"] = [self.cars.draw(random, times)]
        if self.heat_pump is not None and random.uniform() < self.heat_pump.share:
            devices["heat_pump"] = [self.heat_pump.draw(random, times)]
        connection = {} if self.connection is None else {"connection": self.connection.model_dump()}
        slot_hours = (times[1].timestamp() - times[0].timestamp()) / 3600 if len(times) > 1 else 1.0
        return Home.model_validate(home.model_dump() | devices | connection | {"slot_hours": slot_hours})

    def _draw_home(
        self, name: str, number: int, random: np.random.Generator, shapes: dict[str, Array], baseline_price: float
    ) -> Home:
        segment_name = list(self.segments)[number % len(self.segments)]
        segment = self.segments[segment_name]
        number_in_segment = number // len(self.segments)
        common = np.mean([shapes[column] for column in segment.columns], axis=0)
        own = shapes[segment.columns[random.integers(len(segment.columns))]]
        shape = self.own_profile * own + (1 - self.own_profile) * common
        load = segment.mean_load_kw * random.uniform(*self.size) * shape
        fixed = np.full(len(load), self.inelastic_share * load.min())
        elastic = self._build_appliance(load - fixed, segment, random, baseline_price)
        storage = []
        if _has(number_in_segment, self.storage.share):
            storage.append(self._build_battery(float(load.mean()), baseline_price))
        elif segment_name == "residential" and self._has_ev(number_in_segment):
            storage.append(self._draw_ev(random, baseline_price))
        limit = {} if self.draw_limit is None else {"draw_limit": {"max_kw": self.draw_limit * float(load.max())}}
        return Home.model_validate(
            {
                "id": name,
                "segment": segment_name,
                "horizon": len(load),
                "inelastic": [Inelastic(load_kw=fixed.tolist())],
                "elastic": [elastic],
                "storage": storage,
                **limit,
            }
        )

    def _build_appliance(self, load: Array, segment: Segment, random: np.random.Generator, price: float) -> Elastic:
        """Build an appliance that draws `load` (T,) kW at the flat price: omega_t solves [UO-10] for it."""
        x_max = self.headroom * float(load.max())
        ratio = load / x_max
        v = random.uniform(*segment.valuation)
        alpha = random.uniform(*getattr(segment.alpha, self.satisfaction))
        if self.satisfaction == "log":
            omega = v * alpha / (price * (1 + alpha * ratio))
        elif self.satisfaction == "power":
            omega = v * alpha * ratio ** (alpha - 1) / price
        else:
            alpha *= price / v
            omega = price / v + alpha * ratio
        satisfaction = Satisfaction(form=self.satisfaction, omega=omega.tolist(), alpha=alpha)
        return Elastic(max_kw=x_max, valuation=v, satisfaction=satisfaction)

    def _build_battery(self, mean_load: float, price: float) -> Storage:
        battery = self.storage
        capacity = battery.hours * mean_load
        wear = Wear(fast=battery.fast * price / mean_load, deep=battery.deep * price / mean_load, depth=battery.depth)
        return Storage(
            name="battery",
            capacity_kwh=capacity,
            initial_kwh=capacity / 2,
            charge_kw=battery.rate * capacity,
            discharge_kw=battery.rate * capacity,
            wear=wear,
        )

    def _has_ev(self, number: int) -> bool:
        """Give EVs to homes without a battery, to as many of these as make up the share."""
        without = 1 - self.storage.share
        return self.ev is not None and without > 0 and _has(number, min(1.0, self.ev.share / without))

    def _draw_ev(self, random: np.random.Generator, price: float) -> Storage:
        assert self.ev is not None
        ev = self.ev
        need = random.uniform(*ev.need_kwh)
        return Storage(
            name="ev",
            capacity_kwh=ev.capacity_kwh,
            initial_kwh=ev.capacity_kwh - need,
            final_kwh=ev.capacity_kwh,
            charge_kw=ev.charge_kw,
            discharge_kw=0.0,
            available=Availability(first=ev.first, last=ev.last),
            wear=Wear(fast=ev.fast * price),
        )


def _has(number: int, share: float) -> bool:
    """Spread a share evenly over consecutive numbers."""
    return int((number + 1) * share + 1e-9) > int(number * share + 1e-9)


class _Profiles:
    """A file of profiles, a row per hour. Raise `ValueError` that names the file and what it lacks."""

    def __init__(self, path: Path) -> None:
        self._path, self._where = path, f"population.profiles: {path}"
        try:
            self._header, *rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True)) or [[]]
        except csv.Error as error:
            raise ValueError(f"{self._where} is not CSV ({error}); export it again") from None
        except ValueError as error:
            raise ValueError(f"{self._where}: {error}") from None
        if "time" not in self._header:
            raise ValueError(f"{self._where} has no column 'time' in its first row; call that of the hours so")
        self._days: dict[str, list[list[str]]] = {}
        for number, row in enumerate(rows, start=2):
            if len(row) != len(self._header):
                cells = f"{len(row)} cells below a header of {len(self._header)}"
                raise ValueError(f"{self._where}, row {number}: {cells}; mend the row")
            self._days.setdefault(row[self._header.index("time")][:10], []).append(row)

    def of_day(self, day: date, slots: int) -> dict[str, Array]:
        """Give the profiles of a day, by column. Raise `ValueError` where it has not so many `slots`, or no loads."""
        rows = self._days.get(day.isoformat(), [])
        if len(rows) != slots:
            known = sorted(self._days)
            shown = ", ".join(known if len(known) <= 6 else [*known[:5], "…", known[-1]])
            raise ValueError(
                f"population.day: {self._path} has {len(rows)} of {slots} hours of {day}; it holds the days {shown}"
            )
        return {
            name: np.array([_read_load(f"{self._where}, column {name}", row[place]) for row in rows])
            for place, name in enumerate(self._header)
            if name != "time"
        }


def _read_load(where: str, text: str) -> float:
    try:
        load = float(text)
    except ValueError:
        load = np.nan
    if not 0 <= load <= LARGEST:
        raise ValueError(f"{where}: {text[:60]!r} is no load; give numbers from 0 up")
    return load
