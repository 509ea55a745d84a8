"""Find the rows of a file that are the scenario's slots, through changes of clocks; refuse rows missing or twice."""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from stackelgrid.scenarios.measured.declarations import TimeSeries, check_year

_HOUR = timedelta(hours=1)


class Clock:
    """The times of the file's rows, and of the horizon's intervals. Raises `ValueError` for times that do not fit."""

    def __init__(self, name: str, path: Path, series: TimeSeries, slots: int) -> None:
        self._name, self._path, self._series, self._slots = name, path, series, slots

    def find_horizon(self, stamps: Sequence[tuple[int, str]]) -> list[int]:
        """Find the places of the horizon's rows in `stamps`, one per interval; of totals also one at the end.

        A stamp is the number of a row and its time as written.
        """
        times = [self._read_time(row, text) for row, text in stamps]
        with_offset = times[0].tzinfo is not None
        for (row, _), at in zip(stamps, times, strict=True):
            if (at.tzinfo is not None) != with_offset:
                raise ValueError(
                    f"{self._path}, row {row}, column {self._series.time}: some times have a UTC offset and some have "
                    "none; write all of them in one way"
                )
        grid = self._list_intervals(with_offset)
        if self._series.counts and grid[0] >= min(times) and grid[-2] <= max(times) < grid[-1]:
            raise ValueError(
                f"{self._name}: {self._path} ends at {self._format(max(times))}, and totals are read at the end of the "
                f"last of {self._slots} hours too, {self._format(grid[-1])}; add that row, have fewer slots, or choose "
                "another day"
            )
        if grid[0] < min(times) or grid[-1] > max(times):
            raise ValueError(
                f"{self._name}: {self._path} holds {self._format(min(times))} to {self._format(max(times))}, "
                f"not all of the {self._slots} hours from {self._format(grid[0])}; choose another day"
            )
        inside = [place for place, at in enumerate(times) if grid[0] <= at < grid[-1] + self._series.step]
        rows = [(times[place], stamps[place][0]) for place in inside]
        self._require_order(rows)
        self._require_each(rows, grid)
        return inside

    def _read_time(self, row: int, text: str) -> datetime:
        """Read the beginning of a row's interval: in UTC when it is written with an offset, else local without one."""
        try:
            at = datetime.strptime(text, self._series.format) if self._series.format else datetime.fromisoformat(text)
            check_year(at)
        except ValueError:
            wanted = self._series.format or "2016-06-14 00:15"
            raise ValueError(
                f"{self._path}, row {row}, column {self._series.time}: {text[:60]!r} is no time as in {wanted}; set "
                f"{self._name}.format, as in '%d.%m.%Y %H:%M', or mend the row"
            ) from None
        at = at if at.tzinfo is None else at.astimezone(UTC)
        return at - self._series.step if self._series.stamp == "end" else at

    def _list_intervals(self, with_offset: bool) -> list[datetime]:
        """List the beginnings of the horizon's intervals: in UTC when rows have an offset, else local without one."""
        start, hours = self._find_start(), self._slots * _HOUR
        end = (start.astimezone(UTC) + hours).astimezone(start.tzinfo)
        shift = _offset(end) - _offset(start)
        count = self._slots * self._series.rows_per_slot + self._series.counts
        if with_offset:
            if self._series.day is not None and shift and end.time() != time():
                raise ValueError(
                    f"{self._name}.day: {_describe_change(start, end)}, and {self._slots} slots from "
                    f"{self._series.day} 00:00 end at {end:%H:%M}; set slots to "
                    f"{self._slots - shift // _HOUR} for whole days, choose another day, or give "
                    "first instead of day for hours from any moment"
                )
            return [start.astimezone(UTC) + number * self._series.step for number in range(count)]
        local = [start.replace(tzinfo=None) + number * self._series.step for number in range(count)]
        if shift or any(_is_twice_or_never(at.replace(tzinfo=start.tzinfo)) for at in local):
            raise ValueError(
                f"{self._name}: {_describe_change(start, end)}, and without UTC offsets the hours of {self._path} "
                "are ambiguous; choose another day, or export the times with their UTC offsets"
            )
        return local

    def _find_start(self) -> datetime:
        """Give the beginning of the first slot, in the file's time zone."""
        zone = zoneinfo.ZoneInfo(self._series.timezone)
        if self._series.first is not None and self._series.first.tzinfo is not None:
            return self._series.first.astimezone(zone)
        start = self._series.first or datetime.combine(self._series.day or date.min, time())
        start = start.replace(tzinfo=zone)
        if _is_twice_or_never(start):
            raise ValueError(
                f"{self._name}: clocks change in {zone}, and {start:%Y-%m-%d %H:%M} is there twice or never; give "
                "first with its UTC offset, or choose another day"
            )
        return start

    def _require_order(self, times: Sequence[tuple[datetime, int]]) -> None:
        for (before, row_before), (at, row) in itertools.pairwise(times):
            where = f"{self._path}, row {row}, column {self._series.time}: {self._format(at)}"
            if at == before:
                raise ValueError(f"{where} is there twice, also in row {row_before}; remove one, or give UTC offsets")
            if at < before:
                raise ValueError(f"{where} comes after {self._format(before)}; sort the rows by time")

    def _require_each(self, times: Sequence[tuple[datetime, int]], grid: Sequence[datetime]) -> None:
        """Require that the rows of the horizon, in order, are its intervals."""
        wanted = set(grid)
        for at, row in times:
            if at not in wanted:
                raise ValueError(
                    f"{self._path}, row {row}, column {self._series.time}: {self._format(at)} is not a multiple of "
                    f"{self._series.interval} from {self._format(grid[0])}; correct {self._name}.interval, or the row"
                )
        there = {at for at, _ in times}
        missing = [at for at in grid if at not in there]
        if missing:
            before = max((row for at, row in times if at < missing[0]), default=1)
            raise ValueError(
                f"{self._path}, after row {before}, column {self._series.time}: {self._format(missing[0])} is missing, "
                f"one of {len(missing)}; complete the file, choose another day, or correct {self._name}.interval "
                f"(now {self._series.interval})"
            )

    def _format(self, at: datetime) -> str:
        """A row's time as its file stamps it, local."""
        at = at + self._series.step if self._series.stamp == "end" else at
        return (at.astimezone(zoneinfo.ZoneInfo(self._series.timezone)) if at.tzinfo else at).isoformat(" ", "minutes")


def _offset(at: datetime) -> timedelta:
    return at.utcoffset() or timedelta()


def _is_twice_or_never(at: datetime) -> bool:
    """Say whether a change of clocks makes a local time ambiguous, or skips it (PEP 495)."""
    return at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset()


def _describe_change(start: datetime, end: datetime) -> str:
    """Describe the first change of clocks after `start`; there is one until shortly after `end`."""
    zone, at = start.tzinfo, start.astimezone(UTC)
    while at < end + 2 * _HOUR and _offset(at.astimezone(zone)) == _offset(start):
        at += _HOUR
    day = at.astimezone(zone).date()
    midnights = [datetime.combine(day + timedelta(days=n), time(), zone).astimezone(UTC) for n in (0, 1)]
    return f"the clocks of {zone} change on {day}, a day of {(midnights[1] - midnights[0]) / _HOUR:g} hours"
