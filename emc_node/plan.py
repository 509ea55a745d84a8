"""The plan of a home: dated slots, each with what the meter draws and what the storage does, kW and kWh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from emc_node.device_settings import HOURS
from stackelgrid.calendar import MOST_SLOTS, Session
from stackelgrid.model import Finite
from stackelgrid.rounds.settings import DayPlan


def _to_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it is outside the years 1 to 9999; write another time") from None


Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""A time, kept in UTC: Python compares two times of one place by their clocks, which are set twice a year."""
PerSlot = Annotated[list[Finite], Field(min_length=1, max_length=MOST_SLOTS)]


class Plan(BaseModel):
    """The plan for slots of `slot_hours` hours from `start` on, as it is kept on disk and published to the home.

    It was settled in a `session` of a `run`, or is what the home does without the grid. `scenario` is the digest in the
    home's configuration, which tells two runs of one name apart. `load_kw` is what the meter draws; `setpoint_kw` is
    the power of the storage, above zero where it charges, `level_kwh` what it holds at the end of the slot.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    scenario: str | None = None
    session: int = 1
    start: Moment
    slot_hours: Annotated[float, Field(gt=0, le=1)] = 1.0
    load_kw: PerSlot
    price: PerSlot
    setpoint_kw: PerSlot | None = None
    level_kwh: PerSlot | None = None

    @property
    def end(self) -> datetime:
        """The end of its last slot."""
        return self.begin_of(len(self.load_kw))

    def begin_of(self, slot: int) -> datetime:
        """Give the time at which a slot begins, counted from 0."""
        return self.start + timedelta(hours=slot * self.slot_hours)

    def slot_at(self, time: datetime) -> int | None:
        """Give the slot of a time, from 0, None before the first and after the last."""
        slot = (time - self.start) // timedelta(hours=self.slot_hours)
        return slot if 0 <= slot < len(self.load_kw) else None

    def level_at(self, time: datetime) -> float | None:
        """Give what the storage holds at a time within the plan, kWh, None where the plan does not tell."""
        if time == self.end and self.level_kwh is not None:
            return self.level_kwh[-1]
        slot = self.slot_at(time)
        if slot is None or self.level_kwh is None or self.setpoint_kw is None:
            return None
        to_come = (self.begin_of(slot + 1) - time) / timedelta(hours=self.slot_hours)
        rise = self.level_kwh[slot] - self.level_kwh[slot - 1] if slot else self.setpoint_kw[0] * self.slot_hours
        return self.level_kwh[slot] - to_come * rise

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for key in ("price", "setpoint_kw", "level_kwh"):
            numbers = getattr(self, key)
            if numbers is not None and len(numbers) != len(self.load_kw):
                raise ValueError(f"{key} has {len(numbers)} numbers, load_kw {len(self.load_kw)}")
        try:
            _ = self.end
        except OverflowError:
            raise ValueError("start: the plan ends after the year 9999") from None
        return self


def make_plan(
    run: str, scenario: str | None, session: Session, price: Sequence[float], day: DayPlan, now: datetime
) -> Plan:
    """Make the plan of what was settled in a session.

    Without a date, slot t is hour t of the day at the place of `now`: the plan is for the 24 hours from this one on.
    """
    slots: dict[str, Any] = asdict(day) | {"price": list(price)}
    if session.start is not None:
        return Plan(
            run=run,
            scenario=scenario,
            session=session.number,
            start=session.start,
            slot_hours=session.slot_hours,
            **slots,
        )
    start = now.replace(minute=0, second=0, microsecond=0)
    hours = list_clock_hours(start, 1.0, HOURS)
    slots = {key: numbers and [numbers[hour] for hour in hours] for key, numbers in slots.items()}
    return Plan(run=run, scenario=scenario, start=start, **slots)


def list_clock_hours(start: datetime, slot_hours: float, slots: int) -> list[int]:
    """List the hour of the clock, at the place of `start`, in which each of so many slots begins."""
    zone = None if isinstance(start.tzinfo, timezone) else start.tzinfo  # a mere offset is that of this machine, now
    begin, step = start.astimezone(UTC), timedelta(hours=slot_hours)
    return [(begin + slot * step).astimezone(zone).hour for slot in range(slots)]
