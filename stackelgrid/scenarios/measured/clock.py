"""Put the rows of a file on the clock: their times in UTC, through changes of clocks, and the intervals of the horizon.

Local times without an offset are unambiguous but for one hour a year, and a file that has it has it twice: summer's
first, then winter's. Rows missing or twice, and times that clocks skip, are refused.
"""

from __future__ import annotations

import itertools
import zoneinfo
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path

from stackelgrid.calendar import Calendar
from stackelgrid.scenarios.measured.declarations import TimeSeries
from stackelgrid.scenarios.measured.times import guess_format, read_time
from stackelgrid.scenarios.measured.units import find_unit

HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_NO_ENERGY = "0.,+- "


@dataclass(frozen=True)
class Horizon:
    """The `slots` of a scenario, each as long as `slot`; `start` is when a dated one begins, in its time `zone`."""

    slots: int
    slot: timedelta = HOUR
    start: datetime | None = None
    zone: str | None = None

    @classmethod
    def of(cls, slots: int, calendar: Calendar | None) -> Horizon:
        """Give that of a scenario: of a dated one the whole run."""
        if calendar is None:
            return cls(slots)
        slot = timedelta(minutes=calendar.slot_minutes)
        return cls(calendar.slots, slot, calendar.sessions[0].start, calendar.timezone)

    def describe(self) -> str:
        """Count its slots."""
        return f"{self.slots} hours" if self.slot == HOUR else f"{self.slots} slots of {self.slot // _MINUTE} min"


class Clock:
    """The times of the file's rows, and of the horizon's intervals. Raises `ValueError` for times that do not fit.

    `findings` gets a sentence for each thing that was found in the times and not given.
    """

    def __init__(self, name: str, path: Path, series: TimeSeries, horizon: Horizon, findings: list[str]) -> None:
        self._name, self._path, self._series, self._horizon = name, path, series, horizon
        self._findings = findings
        self._column = " ".join(series.time_columns)
        self._zone = zoneinfo.ZoneInfo(series.timezone or horizon.zone or "UTC")
        self.with_offset = True
        """True when times are written with a UTC offset."""
        self._doubts: list[tuple[datetime, str]] = []  # times of rows that clocks skip, or that may be either of two
        self.step = series.step or HOUR
        """The length of an interval."""

    # --- the times of rows ---

    def read_times(self, stamps: Sequence[tuple[int, str]]) -> list[datetime]:
        """Read the times of rows, each given by its number and as written, in UTC; an interval's is where it begins."""
        times = self._place([row for row, _ in stamps], self._read_all(stamps))
        if self._series.step is None and self._series.reading in (None, "interval"):
            self.step = self._find_step(times)
            self._findings.append(f"its rows are {self.step // _MINUTE} minutes apart")
        return [at - self.step for at in times] if self._series.stamp == "end" else times

    def read_cells(
        self, stamps: Sequence[tuple[int, str]], columns: Sequence[timedelta], cells: Sequence[Sequence[str]]
    ) -> list[tuple[datetime, int, str]]:
        """Read rows that are a day each, with their cells at the times of `columns`: time, row and cell, in order.

        A cell without energy at a time that clocks skip is left out.
        """
        self.step = timedelta(days=1) / len(columns)
        begins = [late - self.step if self._series.stamp == "end" else late for late in columns]
        days = self._read_all(stamps)
        there = [
            (day + begin, row, cell)
            for day, (row, _), texts in zip(days, stamps, cells, strict=True)
            for begin, cell in zip(begins, texts, strict=True)
            if cell.strip(_NO_ENERGY) or not self._is_skipped(day + begin)
        ]
        times = self._place([row for _, row, _ in there], [at for at, _, _ in there])
        return [(at, row, cell) for at, (_, row, cell) in zip(times, there, strict=True)]

    def _read_all(self, stamps: Sequence[tuple[int, str]]) -> list[datetime]:
        """Read times as they are written: in UTC when they have an offset, else local without one."""
        times = [self._read_time(row, text) for row, text in stamps]
        self.with_offset = times[0].tzinfo is not None
        if not self.with_offset and self._series.timezone is None:
            if self._horizon.zone is None:
                raise ValueError(
                    f"{self._name}.timezone: the times in {self._path} have no UTC offset; give their zone, as in "
                    "Europe/Berlin"
                )
            self._findings.append(f"its times have no zone, {self._horizon.zone} of the calendar is taken")
        for (row, _), at in zip(stamps, times, strict=True):
            if (at.tzinfo is not None) != self.with_offset:
                raise ValueError(
                    f"{self._path}, row {row}, column {self._column}: some times have a UTC offset and some have "
                    "none; write all of them in one way"
                )
        return times

    def _read_time(self, row: int, text: str) -> datetime:
        try:
            return read_time(text, self._series.format)
        except ValueError:
            wanted = self._series.format or "2016-06-14 00:15"
            raise ValueError(
                f"{self._path}, row {row}, column {self._column}: {text[:60]!r} is no time as in {wanted}; set "
                f"{self._name}.format{guess_format(text)}, or mend the row"
            ) from None

    def _place(self, rows: Sequence[int], times: Sequence[datetime]) -> list[datetime]:
        """Give times in UTC: of local ones that are there twice, those after a step back are the second."""
        if self.with_offset:
            return list(times)
        if len(times) > 1 and times[0] > times[-1]:  # the newest first
            return self._place(rows[::-1], times[::-1])[::-1]
        placed: list[datetime] = []
        hour: list[int] = []  # places of the rows within an hour that is there twice
        for place, at in enumerate(times):
            moment, before, after = _find_moment(at, self._zone)
            placed.append(moment)
            if before < after:
                self._doubts.append((placed[-1], self._describe_doubt(rows[place], at, "does not exist")))
            if hour and (before <= after or at - times[hour[-1]] > HOUR):
                self._tell_apart(hour, rows, times, placed)
                hour = []
            if before > after:
                hour.append(place)
        if hour:
            self._tell_apart(hour, rows, times, placed)
        return placed

    def _tell_apart(
        self, hour: Sequence[int], rows: Sequence[int], times: Sequence[datetime], placed: list[datetime]
    ) -> None:
        """Put the rows of an hour that is there twice after the step back, if there is one, into the second."""
        back = next((n for n, (i, j) in enumerate(itertools.pairwise(hour), 1) if times[j] <= times[i]), None)
        if back is None:
            for place in hour:
                text = self._describe_doubt(rows[place], times[place], "is there twice, in this file once")
                self._doubts += [(placed[place], text), (placed[place] + HOUR, text)]
            return
        for place in hour[back:]:
            placed[place] = times[place].replace(tzinfo=self._zone, fold=1).astimezone(UTC)

    def _describe_doubt(self, row: int, at: datetime, what: str) -> str:
        """Describe a row whose local time no moment has, or two have."""
        before = at.replace(tzinfo=self._zone) - 3 * HOUR
        winter = min(_offset(at.replace(tzinfo=self._zone, fold=fold)) for fold in (0, 1))
        same = f"Etc/GMT{-(winter // HOUR):+d}" if not winter % HOUR else "one without summer time"
        return (
            f"{self._path}, row {row}, column {self._column}: {at:%Y-%m-%d %H:%M} {what}: "
            f"{_describe_change(before, before + 6 * HOUR)}; export the times with their UTC offsets, set "
            f"{self._name}.timezone: {same} if the file keeps winter time all year, or choose another day"
        )

    def _is_skipped(self, at: datetime) -> bool:
        """Say whether clocks skip a local time."""
        return not self.with_offset and _offset(at.replace(tzinfo=self._zone)) < _offset(
            at.replace(tzinfo=self._zone, fold=1)
        )

    def _find_step(self, times: Sequence[datetime]) -> timedelta:
        """Find the commonest time from one row to the next."""
        steps = Counter(abs(after - before) for before, after in itertools.pairwise(times))
        step, _ = steps.most_common(1)[0] if steps else (HOUR, 1)
        minutes = round(step / _MINUTE)
        if not step:
            raise ValueError(
                f"{self._path}, column {self._column}: most rows have the time of the row before; set "
                f"{self._name}.where to the rows of one meter, or {self._name}.meter to the column that tells meters "
                "apart"
            )
        if minutes > 60 and find_unit(self._series.unit or "pu").quantity == "energy":
            raise ValueError(
                f"{self._path}, column {self._column}: most rows are {minutes // 60} hours apart, of which no slot's "
                "energy can be told; export intervals of an hour or less"
            )
        if minutes == 0 or 60 % minutes:
            raise ValueError(
                f"{self._path}, column {self._column}: most rows are {step} apart, which is no part of an hour; set "
                f"{self._name}.interval, or reading: sample if a row is written whenever the value changes"
            )
        return minutes * _MINUTE

    # --- the horizon ---

    def find_horizon(self, rows: Sequence[int], times: Sequence[datetime]) -> tuple[list[int | None], timedelta]:
        """Find the place in `rows` of each interval of the horizon; of totals also of the reading at its end.

        It is None for an interval that is missing and may be filled. Also gives how long after the beginning of the
        first interval the first slot begins.
        """
        start, end = self._find_bounds()
        begin = start
        if (times[0] - start) % self.step:  # the slots begin within an interval
            local = start.astimezone(self._zone)
            begin -= (local - local.replace(minute=0, second=0, microsecond=0)) % self.step
        count = -((begin - end) // self.step) + self._series.counts
        grid = [begin + number * self.step for number in range(count)]
        times = self._round(times, grid[0])
        if self._series.counts and grid[0] >= min(times) and grid[-2] <= max(times) < grid[-1]:
            raise ValueError(
                f"{self._name}: {self._path} ends at {self._format(max(times))}, and totals are read at the end of the "
                f"last of {self._horizon.describe()} too, {self._format(grid[-1])}; add that row, have fewer slots, or "
                "choose another day"
            )
        spare = self._fillable * self.step
        self._require_span(times, grid[0] + spare, grid[-1] - spare, start)
        inside = [place for place, at in enumerate(times) if grid[0] <= at < grid[-1] + self.step]
        self._require_order([(times[place], rows[place]) for place in inside])
        return self._match([(times[place], rows[place], place) for place in inside], grid), start - begin

    def list_edges(self, times: Sequence[datetime]) -> list[datetime]:
        """List the beginnings of the slots and the end of the last, for readings at any `times`, in order."""
        start, end = self._find_bounds()
        self.step = self._horizon.slot
        edges = [start + number * self.step for number in range(self._horizon.slots + 1)]
        held = timedelta() if self._series.counts else max(self.step, self._fillable * self.step)
        self._require_span(times, start, end - held, start)
        return edges

    def _find_bounds(self) -> tuple[datetime, datetime]:
        """Find the beginning of the first slot and the end of the last, in UTC."""
        start = self._find_start()
        end = (start.astimezone(UTC) + self._horizon.slots * self._horizon.slot).astimezone(start.tzinfo)
        shift = _offset(end) - _offset(start)
        if self._series.day is not None and self._horizon.start is None and shift and end.time() != time():
            raise ValueError(
                f"{self._name}.day: {_describe_change(start, end)}, and {self._horizon.slots} slots from "
                f"{self._series.day} 00:00 end at {end:%H:%M}; set slots to "
                f"{self._horizon.slots - shift // HOUR} for whole days, choose another day, or give "
                "first instead of day for hours from any moment"
            )
        start, end = start.astimezone(UTC), end.astimezone(UTC)
        for at, doubt in self._doubts:
            if start <= at <= end:
                raise ValueError(doubt)
        return start, end

    def _find_start(self) -> datetime:
        """Give the beginning of the first slot, in the file's time zone."""
        series, zone = self._series, self._zone
        of_place = series.day is not None or (series.first is not None and series.first.tzinfo is None)
        if of_place and series.timezone is None and self._horizon.zone is None:
            raise ValueError(f"{self._name}.timezone: {self._path} does not say whose day is meant; give its time zone")
        if series.first is not None and series.first.tzinfo is not None:
            return series.first.astimezone(zone)
        if series.first is None and series.day is None:
            if self._horizon.start is None:
                raise ValueError(f"{self._name}: give either day or first, where the slots begin in {self._path}")
            return self._horizon.start.astimezone(zone)
        start = (series.first or datetime.combine(series.day or datetime.min, time())).replace(tzinfo=zone)
        if _offset(start) != _offset(start.replace(fold=1)):
            raise ValueError(
                f"{self._name}: clocks change in {zone}, and {start:%Y-%m-%d %H:%M} is there twice or never; give "
                "first with its UTC offset, or choose another day"
            )
        return start

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

    def _require_span(self, times: Sequence[datetime], begin: datetime, end: datetime, start: datetime) -> None:
        """Require rows from `begin` to `end` for the slots from `start` on."""
        first, last, slot = min(times), max(times), self._horizon.slot
        if first <= begin and end <= last:
            return
        covered = min(last + self.step * (not self._series.counts), start + self._horizon.slots * slot)
        missing = self._horizon.slots - max((covered - max(start, first)) // slot, 0)
        mend = "choose another day" if self._horizon.start is None else "shorten the run, or give data for all of it"
        if first - begin == self.step and self._series.stamp == "start" and self._series.reading in (None, "interval"):
            mend = f"if rows have the time at which their interval ends, set {self._name}.stamp: end, or {mend}"
        raise ValueError(
            f"{self._name}: {self._path} holds {self._format(first)} to {self._format(last)}, not all of the "
            f"{self._horizon.describe()} from {self._format(start)}, {missing} of them missing; {mend}"
        )

    def _require_order(self, times: Sequence[tuple[datetime, int]]) -> None:
        for (before, row_before), (at, row) in itertools.pairwise(times):
            where = f"{self._path}, row {row}, column {self._column}: {self._format(at)}"
            if at == before:
                raise ValueError(
                    f"{where} is there twice, also in row {row_before}; remove one, give UTC offsets, or choose the "
                    f"rows of one meter by {self._name}.where or meter"
                )
            if at < before:
                raise ValueError(
                    f"{where} comes after {self._format(before)}; sort the rows by time, or choose those of one meter "
                    f"by {self._name}.where or meter"
                )

    def _match(self, times: Sequence[tuple[datetime, int, int]], grid: Sequence[datetime]) -> list[int | None]:
        """Match rows of the horizon, in order, with its intervals: each time, row and place."""
        wanted = set(grid)
        off = [(at, row) for at, row, _ in times if at not in wanted]
        if off:
            at, row = off[0]
            mend = f"correct {self._name}.interval, or the row"
            if len(off) > len(times) / 2:
                mend = f"leave {self._name}.interval out, and set reading: sample if a row is written at every change"
            raise ValueError(
                f"{self._path}, row {row}, column {self._column}: {self._format(at)} is not a multiple of "
                f"{self._interval} from {self._format(grid[0])}; {mend}"
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
    def _fillable(self) -> int:
        """The number of intervals in a row that may be filled."""
        return int(self._series.fill.slots * self._horizon.slot / self.step)

    @property
    def _interval(self) -> str:
        return self._series.interval or f"{self.step // _MINUTE}min"

    def _format(self, at: datetime) -> str:
        """A row's time as its file stamps it, local."""
        at = (at + self.step if self._series.stamp == "end" else at).astimezone(self._zone)
        return (at if self.with_offset else at.replace(tzinfo=None)).isoformat(" ", "minutes")


@lru_cache(100_000)
def _find_moment(local: datetime, zone: zoneinfo.ZoneInfo) -> tuple[datetime, timedelta, timedelta]:
    """Find the first moment of a local time, in UTC, and the offsets that the time may have (PEP 495)."""
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    return first.astimezone(UTC), _offset(first), _offset(second)


def _offset(at: datetime) -> timedelta:
    return at.utcoffset() or timedelta()


def _describe_change(start: datetime, end: datetime) -> str:
    """Describe the first change of clocks after `start`; there is one until shortly after `end`."""
    zone, at = start.tzinfo, start.astimezone(UTC)
    while at < end + 2 * HOUR and _offset(at.astimezone(zone)) == _offset(start):
        at += HOUR
    day = at.astimezone(zone).date()
    midnights = [datetime.combine(day + timedelta(days=n), time(), zone).astimezone(UTC) for n in (0, 1)]
    return f"the clocks of {zone} change on {day}, a day of {(midnights[1] - midnights[0]) / HOUR:g} hours"
