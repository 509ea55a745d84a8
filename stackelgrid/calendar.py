"""The time of a run: slots of a length, dated or not, and the sessions that negotiate them.

A *session* is one negotiation over a horizon. A run without a calendar is one session of hours without a date. With a
calendar a run is as many sessions as it takes to bind all its days: each begins `every` so long, looks `horizon` ahead,
and binds the slots up to the next. No horizon reaches beyond the end of the run.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from stackelgrid.model import PER_SLOT, StrictModel

_CLOCK_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
_DURATION = re.compile(r"(\d{1,7}) ?(min|h|d)")
_MINUTES = {"min": 1, "h": 60, "d": 24 * 60}
_DAY = 24 * 60
MOST_SLOTS = 1000
"""The most slots of a session."""
MOST_SLOTS_OF_RUN = 100_000
"""The most slots of a run, in all its sessions."""
_MOST_SESSIONS = 100_000
_YEARS = range(1000, 9900)
"""The years in which a run may begin: of four digits, and with room for gates before it and the days after it."""


@dataclass(frozen=True)
class Session:
    """One negotiation: `slots` slots of `slot_hours` (Δ) hours, of which the first `binding` are carried out.

    `number` counts from 1, `first` is the slot of the run in which the session begins, from 0. `start` is the time at
    which it begins, None without a date.
    """

    slots: int
    slot_hours: float = 1.0
    number: int = 1
    first: int = 0
    binding: int = 0
    start: datetime | None = None

    def __post_init__(self) -> None:
        if not self.binding:
            object.__setattr__(self, "binding", self.slots)

    def until(self, later: Session) -> Session:
        """Give the same session with the slots binding that pass before a later one begins, as far as it reaches."""
        return replace(self, binding=min(later.first - self.first, self.slots))

    @property
    def window(self) -> slice:
        """The slots of the run that it looks at."""
        return slice(self.first, self.first + self.slots)

    @property
    def end(self) -> datetime | None:
        """The end of its last slot, in UTC; None without a date."""
        return (
            None if self.start is None else self.start.astimezone(UTC) + timedelta(hours=self.slots * self.slot_hours)
        )

    @property
    def times(self) -> list[datetime] | None:
        """The start of each slot, with the offset of the place; None without a date."""
        if self.start is None:
            return None
        begin, step = self.start.astimezone(UTC), timedelta(hours=self.slot_hours)
        return [(begin + slot * step).astimezone(self.start.tzinfo) for slot in range(self.slots)]


def _check_duration(text: Any) -> Any:
    if not isinstance(text, str) or not (match := _DURATION.fullmatch(text)) or int(match[1]) == 0:
        raise ValueError("write a length of time as 15min, 6h, 24h or 7d")
    return text


def _check_timezone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        if not zoneinfo.available_timezones():
            raise ValueError(f"{name}: this system has no time zones; install them with pip install tzdata") from None
        raise ValueError(f"{name!r} is no time zone; write it as in Europe/Berlin, or UTC") from None
    return name


Timezone = Annotated[str, AfterValidator(_check_timezone)]
"""The name of a time zone, as in Europe/Berlin."""


def _check_start(start: Any) -> Any:
    if not isinstance(start, str | datetime):
        raise ValueError("write a time as 2026-03-28T00:00")
    return start


Duration = Annotated[str, BeforeValidator(_check_duration)]
"""Minutes or hours that pass, as in 15min or 6h; whole days, as in 24h or 7d, are those of the place."""


class Calendar(StrictModel):
    """The dated slots of a run.

    It begins at `start`, a time of the place `timezone`, and binds `days` days (by default as many as it takes for one
    session). A session looks `horizon` ahead and the next begins `every` so long, by default when it ends. Lengths of
    whole days are days of the place, which have 23 or 25 hours where clocks change; all others are time that passes.
    """

    model_config = ConfigDict(ignored_types=(cached_property,))

    start: Annotated[datetime, BeforeValidator(_check_start)]
    timezone: Timezone = "UTC"
    slot_minutes: Literal[5, 10, 15, 30, 60] = 60
    horizon: Duration = "24h"
    every: Duration | None = None
    days: Annotated[int, Field(ge=1, le=3660)] | None = None

    @property
    def slot_hours(self) -> float:
        """The length Δ of a slot, hours."""
        return self.slot_minutes / 60

    @property
    def slots(self) -> int:
        """The number of slots of the run, from the first session's start to the end of the last."""
        return sum(session.binding for session in self.sessions)

    @cached_property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions of the run, in the order of time. Raises `ValueError`."""
        return tuple(self._list_sessions())

    @property
    def times(self) -> list[datetime]:
        """The start of each slot of the run, with the offset of the place."""
        (start, *_), count = (session.start for session in self.sessions), self.slots
        return Session(count, self.slot_hours, start=start).times or []

    def at(self, session: Session) -> Self:
        """Give the calendar of one session alone.

        Its sessions are set: 24 hours that pass, written as a length of time, would be read as a day of the place.
        """
        hours = session.slots * self.slot_minutes
        update = {"start": session.start, "horizon": f"{hours}min", "every": None, "days": None}
        alone = self.model_copy(update=update)
        alone.__dict__["sessions"] = (replace(session, number=1, first=0, binding=session.slots),)
        return alone

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, length in (("horizon", self.horizon), ("every", self.every or self.horizon)):
            if _count_minutes(length) % self.slot_minutes:
                raise ValueError(f"{key}: {length} is no number of slots of {self.slot_minutes} min; choose another")
        if _count_minutes(self.every or self.horizon) > _count_minutes(self.horizon):
            raise ValueError(
                f"every: {self.every} is longer than the horizon of {self.horizon}, so that nobody plans the slots "
                "between; lengthen horizon"
            )
        if self.days is not None and self.days * _DAY < _count_minutes(self.every or self.horizon):
            raise ValueError(f"days: {self.days} end before the first {self.every or self.horizon}; raise days")
        if self.start.year not in _YEARS:
            raise ValueError(
                f"start: the year {self.start.year} is not from {_YEARS[0]} to {_YEARS[-1]}; correct the date"
            )
        try:
            _ = self.sessions
        except OverflowError:
            raise ValueError(f"horizon: {self.horizon} reach beyond the year 9999; shorten it") from None
        return self

    def _list_sessions(self) -> Iterator[Session]:
        """List the sessions. Raises `ValueError` for a start that does not exist or is there twice."""
        begin = self._place(self.start)
        if begin.minute % self.slot_minutes or begin.second or begin.microsecond:
            raise ValueError(f"start: {self.start:%H:%M:%S} is no start of a slot of {self.slot_minutes} min; move it")
        every = self.every or self.horizon
        end = self._add(begin, f"{self.days}d" if self.days else self.horizon)
        first, number, start = 0, 1, begin
        while start < end:
            # Days are counted from the first start, so that a time which a day leaves out does not move the next ones.
            following = min(self._add(begin, every, number), end)
            binding = self._count_slots(start, following, "every")
            slots = self._count_slots(start, min(self._add(start, self.horizon), end), "horizon")
            if slots > MOST_SLOTS:
                raise ValueError(f"horizon: {slots} slots, at most {MOST_SLOTS} can be played; shorten it")
            yield Session(max(slots, binding), self.slot_hours, number, first, binding, start)
            first, number, start = first + binding, number + 1, following
            if number > _MOST_SESSIONS:
                raise ValueError(f"every: {every} makes more than {_MOST_SESSIONS} sessions; lengthen it")

    def _place(self, local: datetime) -> datetime:
        """Give a time of the place, with its offset. Raises `ValueError` where no or two moments have it."""
        zone = zoneinfo.ZoneInfo(self.timezone)
        if local.tzinfo is not None:
            there = local.astimezone(zone)
            if there.utcoffset() != local.utcoffset():
                raise ValueError(
                    f"start: {local.isoformat()} is {there.isoformat()} in {self.timezone}; write it so, or without "
                    "an offset"
                )
            return there
        early, late = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
        if early.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local:
            raise ValueError(
                f"start: {local.isoformat()} does not exist in {self.timezone}, where clocks skip it; begin an hour "
                "later"
            )
        if early.utcoffset() != late.utcoffset():
            raise ValueError(
                f"start: {local.isoformat()} is there twice in {self.timezone}; say which one, "
                f"as {early.isoformat()} or {late.isoformat()}"
            )
        return early

    def _add(self, begin: datetime, length: str, count: int = 1) -> datetime:
        """Add a length of time so many times: whole days by the clock of the place, all else as time passes."""
        minutes, zone = _count_minutes(length), begin.tzinfo
        total = timedelta(minutes=count * minutes)
        if minutes % _DAY == 0:
            local = begin.replace(tzinfo=None) + total
            return local.replace(tzinfo=zone).astimezone(UTC).astimezone(zone)
        return (begin.astimezone(UTC) + total).astimezone(zone)

    def _count_slots(self, start: datetime, end: datetime, key: str) -> int:
        minutes = (end.astimezone(UTC) - start.astimezone(UTC)) / timedelta(minutes=1)
        if minutes % self.slot_minutes:
            raise ValueError(
                f"{key}: from {start.isoformat()} to {end.isoformat()} are {minutes:g} min, no number of slots of "
                f"{self.slot_minutes} min; shorten slot_minutes"
            )
        return int(minutes) // self.slot_minutes


def _check_bound(bound: Any) -> Any:
    if isinstance(bound, str) and _CLOCK_TIME.fullmatch(bound):
        return bound
    if isinstance(bound, int) and not isinstance(bound, bool) and 1 <= bound <= MOST_SLOTS_OF_RUN:
        return bound
    raise ValueError("write the number of a slot, the first is 1, or in a run with a calendar a time as 09:00")


class Event(StrictModel):
    """The slots of an event: from slot `first` to slot `last`, both included, or every day between two clock times.

    Slots are numbers of the run, from 1. A slot is in the event when it begins at the clock time `first` or later, and
    before `last`.
    """

    first: Annotated[int | str, BeforeValidator(_check_bound)]
    last: Annotated[int | str, BeforeValidator(_check_bound)]

    @property
    def daily(self) -> bool:
        """Tell whether it is at clock times."""
        return isinstance(self.first, str)

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when it ends after the last of so many slots."""
        if isinstance(self.last, int) and self.last > slots:
            raise ValueError(f"event.last is {self.last}, the horizon has {slots} slots; end it by then")

    def in_session(self, session: Session) -> Self | None:
        """Give the event in the slots of a session, None where it has none of them."""
        if self.daily:
            return self
        first, last = self._bounds
        first, last = max(first - session.first, 1), min(last - session.first, session.slots)
        return self.model_copy(update={"first": first, "last": last}) if first <= last else None

    def mark(self, session: Session) -> NDArray[np.bool_]:
        """Mark its slots in a session that it is of, (T,).

        Raise `ValueError` where there are no clock times, or a slot is only partly in the event.
        """
        first, last = self._bounds
        if not self.daily:
            numbers = np.arange(1, session.slots + 1)
            return np.asarray((first <= numbers) & (numbers <= last))
        if session.times is None:
            raise ValueError(
                f"event: a run without a calendar has no time {self.first}; give the numbers of slots, or a calendar"
            )
        for bound, minute in ((self.first, first), (self.last, last)):
            if minute % round(60 * session.slot_hours):
                raise ValueError(f"event: no slot of {60 * session.slot_hours:g} min begins at {bound}; move it")
        begins = np.array([60 * time.hour + time.minute for time in session.times])
        return np.asarray((first <= begins) & (begins < last))

    @property
    def _bounds(self) -> tuple[int, int]:
        """Its first and last slot, or first and last minute of the day."""
        first, last = (each if isinstance(each, int) else _read_clock_time(each) for each in (self.first, self.last))
        return first, last

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if isinstance(self.first, str) != isinstance(self.last, str):
            raise ValueError(f"first is {self.first}, last {self.last}; give two slots or two clock times")
        first, last = self._bounds
        if first > last:
            raise ValueError(f"first {self.first} is after last {self.last}; swap them")
        if self.daily and first == last:
            raise ValueError(f"first and last are {self.first}; give a later time for last")
        return self


def _read_clock_time(text: str) -> int:
    """Read a clock time as minutes after midnight."""
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)


def list_sessions(calendar: Calendar | None, slots: int) -> tuple[Session, ...]:
    """List the sessions of a run, one of all its `slots` without a calendar."""
    return (Session(slots),) if calendar is None else calendar.sessions


Model = TypeVar("Model", bound=StrictModel)


def cut(model: Model, session: Session) -> Model:
    """Give a model of a whole run in the window of one session: of each list marked as per slot, the slots of it.

    A mark on a mapping is one on each list in it.
    """
    changed: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if PER_SLOT in field.metadata and isinstance(value, list):
            changed[name] = value[session.window]
        elif PER_SLOT in field.metadata and isinstance(value, dict):
            changed[name] = {key: numbers[session.window] for key, numbers in value.items()}
        elif isinstance(value, StrictModel):
            changed[name] = cut(value, session)
        elif isinstance(value, list) and any(isinstance(each, StrictModel) for each in value):
            changed[name] = [cut(each, session) if isinstance(each, StrictModel) else each for each in value]
    if not changed:
        return model
    return model.change(**changed)


def _count_minutes(length: str) -> int:
    match = _DURATION.fullmatch(length.replace(" ", ""))
    assert match is not None
    return int(match[1]) * _MINUTES[match[2]]
