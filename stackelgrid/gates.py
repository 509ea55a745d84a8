"""The gates of a grid: when each of its sessions opens, and the clock that says so.

A *grid* is a run that stays: its sessions are opened by the clock, and its nodes stay connected between them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from stackelgrid.calendar import Calendar, Session
from stackelgrid.model import StrictModel

_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")

_MOST_SPEED = 1_000_000

Clock = Callable[[float], datetime]
"""From a reading of a transport's clock, in seconds, to the date and time at that moment."""


def read_wall_clock(now: float) -> datetime:
    """Give the date and time at this moment; a `Clock` of a process."""
    return datetime.now(UTC)


def _check_time_of_day(text: Any) -> Any:
    if not isinstance(text, str) or not _TIME_OF_DAY.fullmatch(text):
        raise ValueError('write a time of the day as "12:00"')
    return text


class Acceleration(StrictModel):
    """A clock that is `speed` times as fast as the wall clock, from the first gate on."""

    speed: Annotated[float, Field(gt=0, le=_MOST_SPEED)]


def _check_clock(clock: Any) -> Any:
    speed = clock.get("speed") if isinstance(clock, Mapping) and len(clock) == 1 else 0
    is_speed = isinstance(speed, int | float) and not isinstance(speed, bool) and 0 < speed <= _MOST_SPEED
    if clock in ("real", "simulated") or is_speed or isinstance(clock, Acceleration):
        return clock
    raise ValueError(f"write real, simulated, or {{speed: 600}} with a number up to {_MOST_SPEED}")


class Gates(StrictModel):
    """The times at which the sessions of a grid open: either `day_ahead` or `intraday_minutes`.

    With `day_ahead` a session opens at that time of the place on the day before it begins, with `intraday_minutes` so
    many minutes before it begins. On a `simulated` clock each opens as soon as the one before has ended.
    """

    day_ahead: Annotated[str, BeforeValidator(_check_time_of_day)] | None = None
    intraday_minutes: Annotated[int, Field(ge=1, le=7 * 24 * 60)] | None = None
    clock: Annotated[Literal["real", "simulated"] | Acceleration, BeforeValidator(_check_clock)] = "real"

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.day_ahead is None) == (self.intraday_minutes is None):
            raise ValueError("give either day_ahead or intraday_minutes, not both and not neither")
        return self

    def open_at(self, session: Session) -> datetime:
        """Give the time at which a session of a calendar opens, with the offset of the place."""
        assert session.start is not None
        zone = session.start.tzinfo
        if self.intraday_minutes is not None:
            return (session.start.astimezone(UTC) - timedelta(minutes=self.intraday_minutes)).astimezone(zone)
        assert self.day_ahead is not None
        hour, minute = map(int, self.day_ahead.split(":"))
        there = session.start.replace(tzinfo=None) - timedelta(days=1)
        return there.replace(hour=hour, minute=minute, fold=0, tzinfo=zone).astimezone(UTC).astimezone(zone)

    def check(self, calendar: Calendar | None) -> None:
        """Raise `ValueError` where the sessions of a calendar cannot open by these gates."""
        if calendar is None or len(calendar.sessions) == 1:
            what = "there is no calendar" if calendar is None else "the calendar has one session"
            raise ValueError(f"gates: {what}, and gates open one session after the other; give calendar.days")
        if self.day_ahead is None:
            return
        for before, session in pairwise(calendar.sessions):
            # Python compares two times of one place by their clocks, which show an hour twice in autumn.
            if self.open_at(session).astimezone(UTC) <= self.open_at(before).astimezone(UTC):
                raise ValueError(
                    f"gates.day_ahead: sessions {before.number} and {session.number} both open at "
                    f"{self.open_at(session).isoformat()}; let each begin on a day of its own (calendar.every: 24h), "
                    "or give intraday_minutes instead"
                )


@dataclass(frozen=True)
class Opening:
    """The next session to open, its `number`, and when: `at` a time on the transport's clock, `opens` as a date.

    Without a clock that opens it there is no such date.
    """

    number: int
    at: float
    opens: datetime | None = None


class Timetable:
    """The openings of a run's sessions by its `gates`; without gates each opens when the one before has ended.

    `anchor` is when the first gate of an accelerated clock opened, on the wall clock; None as long as it has not.
    """

    def __init__(self, sessions: Sequence[Session], gates: Gates | None = None, clock: Clock = read_wall_clock) -> None:
        self._gates, self._sessions, self._read_clock = gates, sessions, clock
        self.anchor: datetime | None = None
        speed = gates.clock if gates is not None else None
        self._speed = speed.speed if isinstance(speed, Acceleration) else 1.0
        self._by_clock = gates is not None and gates.clock != "simulated"

    @property
    def has_gates(self) -> bool:
        """True in a grid."""
        return self._gates is not None

    def read(self, now: float) -> datetime | None:
        """Give the date and time of the grid at a moment, None where no clock opens its sessions."""
        if self._gates is None or not self._by_clock:
            return None
        wall = self._read_clock(now).astimezone(UTC)
        if not isinstance(self._gates.clock, Acceleration):
            return wall
        self.anchor = self.anchor or wall
        return self._gates.open_at(self._sessions[0]).astimezone(UTC) + self._speed * (wall - self.anchor)

    def find_next(self, number: int, now: float) -> Opening | None:
        """Find the first session from `number` on that is not to be skipped; None where there is no other.

        A session is skipped when the gate of a later one has passed too. The last never is, so that all nodes
        learn of the end.
        """
        time = self.read(now)
        if time is None or self._gates is None:
            return Opening(number, now) if number <= len(self._sessions) else None
        passed = bisect_right(self._sessions, time, lo=number - 1, key=self._gates.open_at)
        if passed >= number:
            return Opening(passed, now, self._gates.open_at(self._sessions[passed - 1]))
        if passed == len(self._sessions):
            return None
        opens = self._gates.open_at(self._sessions[passed])
        return Opening(passed + 1, now + (opens - time).total_seconds() / self._speed, opens)

    def explain(self, session: Session, now: float) -> str:
        """Say why a session is skipped."""
        time = self.read(now)
        assert self._gates is not None and time is not None
        opens = self._gates.open_at(session).isoformat(timespec="minutes")
        return f"it was to open at {opens}, and could not before {time.isoformat(timespec='minutes')}"
