"""Which rows of a file are the scenario's slots: local time, changes of clocks, and rows missing or twice."""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from stackelgrid.scenarios.measured.declared import TimeSeries

_HOUR = timedelta(hours=1)


class Clock:
    """When the rows of the file at `path` begin, and the intervals of `slots`. What is wrong raises `ValueError`."""

    def __init__(self, name: str, path: Path, series: TimeSeries, slots: int) -> None:
        self._name, self._path, self._series, self._slots = name, path, series, slots

    def horizon(self, stamps: Sequence[tuple[int, str]]) -> list[int]:
        """Which of the `stamps`, number of a row and its time as written, are the horizon's: one per interval."""
        times = [self._time(row, text) for row, text in stamps]
        with_offset = times[0].tzinfo is not None
        for (row, _), at in zip(stamps, times, strict=True):
            if (at.tzinfo is not None) != with_offset:
                raise ValueError(
                    f"{self._path}, row {row}, column {self._series.time}: some times have a UTC offset and some have "
                    "none; write all of them in one way"
                )
        grid = self._grid(with_offset)
        if grid[0] < min(times) or grid[-1] > max(times):
            raise ValueError(
                f"{self._name}: {self._path} holds {self._shown(min(times))} to {self._shown(max(times))}, "
                f"not all of the {self._slots} hours from {self._shown(grid[0])}; choose another day"
            )
        inside = [place for place, at in enumerate(times) if grid[0] <= at < grid[-1] + self._series.step]
        rows = [(times[place], stamps[place][0]) for place in inside]
        self._require_order(rows)
        self._require_each(rows, grid)
        return inside

    def _time(self, row: int, text: str) -> datetime:
        """The beginning of a row's interval: in UTC when it is written with an offset, else local without one."""
        try:
            at = datetime.strptime(text, self._series.format) if self._series.format else datetime.fromisoformat(text)
        except ValueError:
            wanted = self._series.format or "2016-06-14 00:15"
            raise ValueError(
                f"{self._path}, row {row}, column {self._series.time}: {text!r} is no time as in {wanted}; set "
                f"{self._name}.format, as in '%d.%m.%Y %H:%M', or mend the row"
            ) from None
        at = at if at.tzinfo is None else at.astimezone(UTC)
        return at - self._series.step if self._series.stamp == "end" else at

    def _grid(self, with_offset: bool) -> list[datetime]:
        """When each interval of the horizon begins: in UTC when rows have an offset, else local without one."""
        start, hours = self._start(), self._slots * _HOUR
        end = (start.astimezone(UTC) + hours).astimezone(start.tzinfo)
        shift = _offset(end) - _offset(start)
        count = self._slots * self._series.rows_per_slot
        if with_offset:
            if self._series.day is not None and shift and end.time() != time():
                raise ValueError(
                    f"{self._name}.day: {_change(start, end)}, and {self._slots} slots from {self._series.day} 00:00 "
                    f"end at {end:%H:%M}; set slots to {self._slots - shift // _HOUR} for whole days, choose another "
                    "day, or give first instead of day for hours from any moment"
                )
            return [start.astimezone(UTC) + number * self._series.step for number in range(count)]
        local = [start.replace(tzinfo=None) + number * self._series.step for number in range(count)]
        if shift or any(_twice_or_never(at.replace(tzinfo=start.tzinfo)) for at in local):
            raise ValueError(
                f"{self._name}: {_change(start, end)}, and without UTC offsets the hours of {self._path} cannot be "
                "told apart; choose another day, or export the times with their UTC offsets"
            )
        return local

    def _start(self) -> datetime:
        """Where the first slot begins, in the file's time zone."""
        zone = zoneinfo.ZoneInfo(self._series.timezone)
        if self._series.first is not None and self._series.first.tzinfo is not None:
            return self._series.first.astimezone(zone)
        start = self._series.first or datetime.combine(self._series.day or date.min, time())
        start = start.replace(tzinfo=zone)
        if _twice_or_never(start):
            raise ValueError(
                f"{self._name}: clocks change in {zone}, and {start:%Y-%m-%d %H:%M} is there twice or never; give "
                "first with its UTC offset, or choose another day"
            )
        return start

    def _require_order(self, times: Sequence[tuple[datetime, int]]) -> None:
        for (before, row_before), (at, row) in itertools.pairwise(times):
            where = f"{self._path}, row {row}, column {self._series.time}: {self._shown(at)}"
            if at == before:
                raise ValueError(f"{where} is there twice, also in row {row_before}; remove one, or give UTC offsets")
            if at < before:
                raise ValueError(f"{where} comes after {self._shown(before)}; sort the rows by time")

    def _require_each(self, times: Sequence[tuple[datetime, int]], grid: Sequence[datetime]) -> None:
        """The rows of the horizon, in order, are its intervals."""
        wanted = set(grid)
        for at, row in times:
            if at not in wanted:
                raise ValueError(
                    f"{self._path}, row {row}, column {self._series.time}: {self._shown(at)} is not a multiple of "
                    f"{self._series.interval} from {self._shown(grid[0])}; correct {self._name}.interval, or the row"
                )
        there = {at for at, _ in times}
        missing = [at for at in grid if at not in there]
        if missing:
            before = max((row for at, row in times if at < missing[0]), default=1)
            raise ValueError(
                f"{self._path}, after row {before}, column {self._series.time}: {self._shown(missing[0])} is missing, "
                f"one of {len(missing)}; complete the file, choose another day, or correct {self._name}.interval "
                f"(now {self._series.interval})"
            )

    def _shown(self, at: datetime) -> str:
        """A row's time as its file stamps it, local."""
        at = at + self._series.step if self._series.stamp == "end" else at
        return (at.astimezone(zoneinfo.ZoneInfo(self._series.timezone)) if at.tzinfo else at).isoformat(" ", "minutes")


def _offset(at: datetime) -> timedelta:
    return at.utcoffset() or timedelta()


def _twice_or_never(at: datetime) -> bool:
    """Whether a change of clocks makes a local time ambiguous, or skips it (PEP 495)."""
    return at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset()


def _change(start: datetime, end: datetime) -> str:
    """In words, the change of clocks nearest after `start`, of which there is one at about `end` at the latest."""
    zone, at = start.tzinfo, start.astimezone(UTC)
    while at < end + 2 * _HOUR and _offset(at.astimezone(zone)) == _offset(start):
        at += _HOUR
    day = at.astimezone(zone).date()
    midnights = [datetime.combine(day + timedelta(days=n), time(), zone).astimezone(UTC) for n in (0, 1)]
    return f"the clocks of {zone} change on {day}, a day of {(midnights[1] - midnights[0]) / _HOUR:g} hours"
