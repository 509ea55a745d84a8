"""Find the rows of a file that are the scenario's slots, through changes of clocks; refuse rows missing or twice."""

from __future__ import annotations

import itertools
import zoneinfo
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from stackelgrid.scenarios.measured.declarations import TimeSeries
from stackelgrid.scenarios.measured.times import guess_format, read_time

_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)


class Clock:
    """The times of the file's rows, and of the horizon's intervals. Raises `ValueError` for times that do not fit.

    `findings` gets a sentence for each thing that was found in the times and not given.
    """

    def __init__(self, name: str, path: Path, series: TimeSeries, slots: int, findings: list[str]) -> None:
        self._name, self._path, self._series, self._slots = name, path, series, slots
        self._findings = findings
        self._column = " ".join(series.time_columns)
        self.step = series.step or _HOUR
        """The length of an interval."""

    def read_times(self, stamps: Sequence[tuple[int, str]]) -> list[datetime]:
        """Read the times of rows, each given by its number and as written; an interval's is where it begins.

        They are in UTC when they are written with an offset, else local without one.
        """
        times = self._read_all(stamps)
        if self._series.step is None and self._series.reading in (None, "interval"):
            self.step = self._find_step(times)
            self._findings.append(f"its rows are {self.step // _MINUTE} minutes apart")
        return [at - self.step for at in times] if self._series.stamp == "end" else times

    def read_days(self, stamps: Sequence[tuple[int, str]], step: timedelta) -> list[datetime]:
        """Read the midnight of rows that are a day of intervals of so long a `step`.

        To it comes the time of a column, so that of one that ends its interval the step is taken off.
        """
        self.step = step
        return [at - self.step if self._series.stamp == "end" else at for at in self._read_all(stamps)]

    def find_horizon(self, rows: Sequence[int], times: Sequence[datetime]) -> list[int | None]:
        """Find the place in `rows` of each interval of the horizon; of totals also of the reading at its end.

        It is None for an interval that is missing and may be filled.
        """
        grid = self._list_intervals(times[0].tzinfo is not None)
        times = self._round(times, grid[0])
        if self._series.counts and grid[0] >= min(times) and grid[-2] <= max(times) < grid[-1]:
            raise ValueError(
                f"{self._name}: {self._path} ends at {self._format(max(times))}, and totals are read at the end of the "
                f"last of {self._slots} hours too, {self._format(grid[-1])}; add that row, have fewer slots, or choose "
                "another day"
            )
        self._require_span(times, grid)
        inside = [place for place, at in enumerate(times) if grid[0] <= at < grid[-1] + self.step]
        self._require_order([(times[place], rows[place]) for place in inside])
        return self._match([(times[place], rows[place], place) for place in inside], grid)

    def list_edges(self, times: Sequence[datetime]) -> list[datetime]:
        """List the beginnings of the slots and the end of the last, for readings at any `times`, in order."""
        self.step = _HOUR
        edges = self._list_intervals(times[0].tzinfo is not None)
        edges = edges if self._series.counts else [*edges, edges[-1] + _HOUR]
        self._require_span(times, edges if self._series.counts else edges[:1])
        return edges

    def _read_all(self, stamps: Sequence[tuple[int, str]]) -> list[datetime]:
        times = [self._read_time(row, text) for row, text in stamps]
        for (row, _), at in zip(stamps, times, strict=True):
            if (at.tzinfo is not None) != (times[0].tzinfo is not None):
                raise ValueError(
                    f"{self._path}, row {row}, column {self._column}: some times have a UTC offset and some have "
                    "none; write all of them in one way"
                )
        return times

    def _require_span(self, times: Sequence[datetime], grid: Sequence[datetime]) -> None:
        spare = self._fillable * self.step
        if grid[0] + spare < min(times) or grid[-1] - spare > max(times):
            raise ValueError(
                f"{self._name}: {self._path} holds {self._format(min(times))} to {self._format(max(times))}, "
                f"not all of the {self._slots} hours from {self._format(grid[0])}; choose another day"
            )

    @property
    def _fillable(self) -> int:
        """The number of intervals in a row that may be filled."""
        return int(self._series.fill.slots * _HOUR / self.step)

    def _read_time(self, row: int, text: str) -> datetime:
        """Read a row's time: in UTC when it is written with an offset, else local without one."""
        try:
            return read_time(text, self._series.format)
        except ValueError:
            wanted = self._series.format or "2016-06-14 00:15"
            raise ValueError(
                f"{self._path}, row {row}, column {self._column}: {text[:60]!r} is no time as in {wanted}; set "
                f"{self._name}.format{guess_format(text)}, or mend the row"
            ) from None

    def _find_step(self, times: Sequence[datetime]) -> timedelta:
        """Find the commonest time from one row to the next."""
        steps = Counter(abs(after - before) for before, after in itertools.pairwise(times))
        step, _ = steps.most_common(1)[0] if steps else (_HOUR, 1)
        minutes = round(step / _MINUTE)
        if not step:
            raise ValueError(
                f"{self._path}, column {self._column}: most rows have the time of the row before; set "
                f"{self._name}.where to the rows of one meter"
            )
        if minutes == 0 or 60 % minutes:
            raise ValueError(
                f"{self._path}, column {self._column}: most rows are {step} apart, which is no part of an hour; set "
                f"{self._name}.interval, or reading: sample if a row is written whenever the value changes"
            )
        return minutes * _MINUTE

    def _round(self, times: Sequence[datetime], start: datetime) -> list[datetime]:
        """Round times that are off the intervals by little, or all of them by the same."""
        off = [(at - start) % self.step for at in times]
        if not any(off):
            return list(times)
        if len(set(off)) == 1:
            self._findings.append(f"each row is {off[0]} after the beginning of its interval")
            return [at - late for at, late in zip(times, off, strict=True)]
        off = [late if late <= self.step / 2 else late - self.step for late in off]
        near = self.step / 20
        if all(abs(late) <= near for late in off):
            self._findings.append(f"its times are up to {max(map(abs, off))} off their intervals")
            return [at - late for at, late in zip(times, off, strict=True)]
        return list(times)

    def _list_intervals(self, with_offset: bool) -> list[datetime]:
        """List the beginnings of the horizon's intervals: in UTC when rows have an offset, else local without one."""
        start, hours = self._find_start(), self._slots * _HOUR
        end = (start.astimezone(UTC) + hours).astimezone(start.tzinfo)
        shift = _offset(end) - _offset(start)
        count = hours // self.step + self._series.counts
        if with_offset:
            if self._series.day is not None and shift and end.time() != time():
                raise ValueError(
                    f"{self._name}.day: {_describe_change(start, end)}, and {self._slots} slots from "
                    f"{self._series.day} 00:00 end at {end:%H:%M}; set slots to "
                    f"{self._slots - shift // _HOUR} for whole days, choose another day, or give "
                    "first instead of day for hours from any moment"
                )
            return [start.astimezone(UTC) + number * self.step for number in range(count)]
        local = [start.replace(tzinfo=None) + number * self.step for number in range(count)]
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
            where = f"{self._path}, row {row}, column {self._column}: {self._format(at)}"
            if at == before:
                raise ValueError(
                    f"{where} is there twice, also in row {row_before}; remove one, give UTC offsets, or choose the "
                    f"rows of one meter by {self._name}.where"
                )
            if at < before:
                raise ValueError(
                    f"{where} comes after {self._format(before)}; sort the rows by time, or choose those of one meter "
                    f"by {self._name}.where"
                )

    def _match(self, times: Sequence[tuple[datetime, int, int]], grid: Sequence[datetime]) -> list[int | None]:
        """Match rows of the horizon, in order, with its intervals: each time, row and place."""
        wanted = set(grid)
        for at, row, _ in times:
            if at not in wanted:
                raise ValueError(
                    f"{self._path}, row {row}, column {self._column}: {self._format(at)} is not a multiple of "
                    f"{self._interval} from {self._format(grid[0])}; correct {self._name}.interval, or the row"
                )
        places = {at: place for at, _, place in times}
        gaps = [list(gap) for missing, gap in itertools.groupby(grid, lambda at: at not in places) if missing]
        count = sum(map(len, gaps))
        if too_long := [gap for gap in gaps if len(gap) > self._fillable]:
            at = too_long[0][0]
            before = max((row for other, row, _ in times if other < at), default=1)
            fill = "" if self._series.counts else f", or set {self._name}.fill"
            raise ValueError(
                f"{self._path}, after row {before}, column {self._column}: {self._format(at)} is missing, "
                f"one of {count}; complete the file, choose another day, correct {self._name}.interval "
                f"(now {self._interval}){fill}"
            )
        if gaps:
            self._findings.append(f"{count} missing intervals of {self._interval} are filled")
        return [places.get(at) for at in grid]

    @property
    def _interval(self) -> str:
        return self._series.interval or f"{self.step // _MINUTE}min"

    def _format(self, at: datetime) -> str:
        """A row's time as its file stamps it, local."""
        at = at + self.step if self._series.stamp == "end" else at
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
