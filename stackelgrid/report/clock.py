"""The time of slots: clock times and dates on the axes of figures, and in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from stackelgrid.run_record import Outcome

Tick = tuple[float, str]
"""The place on the axis, in slots from the first one's start, and the label."""

_MINUTES = (5, 10, 15, 30, 60, 120, 180, 240, 360, 720)
_DAYS = (1, 2, 7, 14, 28)
_ROOM, _ROOM_FOR_DATE = 0.42, 0.5
"""Room that the label of a clock time takes, and that of a date, inches."""


def read_times(outcome: Outcome | None) -> list[datetime] | None:
    """Read the start of each slot of an outcome; None of one without a date."""
    return None if outcome is None or outcome.times is None else [*map(datetime.fromisoformat, outcome.times)]


def choose_ticks(times: Sequence[datetime], inches: float) -> list[Tick]:
    """Choose as many round clock times, or else dates, as an axis of so many inches has room for.

    `times` are the starts of the slots. A time that clocks skip has no tick, one that is there twice has two.
    """
    for minutes in _MINUTES:
        ticks = list(_list_clock_times(times, minutes))
        if len(ticks) * _ROOM <= inches:
            return ticks
    for days in _DAYS:
        ticks = list(_list_dates(times, days))
        if len(ticks) * _ROOM_FOR_DATE <= inches:
            break
    return ticks


def _list_clock_times(times: Sequence[datetime], every: int) -> Iterator[Tick]:
    """List the times at multiples of so many minutes of the day; the first of a date has the date below it."""
    dated = times[0].date() if is_one_day(times) else None
    for place, time in enumerate(times):
        if (60 * time.hour + time.minute) % every == 0:
            date = "" if time.date() == dated or is_one_day(times) else f"\n{_spell_day(time)}"
            dated = time.date()
            yield place, f"{time:%H:%M}{date}"


def _list_dates(times: Sequence[datetime], every: int) -> Iterator[Tick]:
    """List the midnights, each so many days after the one before."""
    first = times[0].toordinal()
    for place, time in enumerate(times):
        if time.hour == time.minute == 0 and (time.toordinal() - first) % every == 0:
            yield place, _spell_day(time)


def is_one_day(times: Sequence[datetime]) -> bool:
    """Tell whether all slots begin on one date."""
    return times[0].date() == times[-1].date()


def describe_axis(times: Sequence[datetime]) -> str:
    """Name the axis: the date or dates, and the offset from UTC, two where clocks change."""
    offsets = ", then ".join(dict.fromkeys(map(_spell_offset, times)))
    until = "" if is_one_day(times) else f" – {_spell_day(times[-1])}"
    return f"Time, {_spell_day(times[0])}{until} {times[-1].year} ({offsets})"


def describe_narrow_axis(times: Sequence[datetime]) -> str:
    """Name the axis of a small panel: the date, unless there are several, which are then below the ticks."""
    return f"Time, {_spell_day(times[0])} {times[0].year}" if is_one_day(times) else "Time"


def name_slot(outcome: Outcome, number: int) -> str:
    """Name a slot, counted from 1: its number, or the time at which it begins."""
    times = read_times(outcome)
    return str(number) if times is None else name_time(times, number)


def name_time(times: Sequence[datetime], number: int) -> str:
    """Name the time at which a slot begins, counted from 1: with its day, unless there is only one."""
    begin = times[number - 1]
    return f"{begin:%H:%M}" if is_one_day(times) else f"{_spell_day(begin)} {begin:%H:%M}"


def name_day(day: date) -> str:
    """Name a date with its weekday: "Sun 29 Mar"."""
    return f"{day:%a} {day.day} {day:%b}"


def _spell_day(time: datetime) -> str:
    return f"{time.day} {time:%b}"


def _spell_offset(time: datetime) -> str:
    minutes = (time.utcoffset() or timedelta()) // timedelta(minutes=1)
    hours, rest = divmod(abs(minutes), 60)
    if not minutes:
        return "UTC"
    return f"UTC{'+' if minutes > 0 else '−'}{hours}" + (f":{rest:02}" if rest else "")
