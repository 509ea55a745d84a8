"""Read the columns of a data file as numbers per slot that keep their file, column and rows."""

from __future__ import annotations

import csv
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from stackelgrid.scenarios.measured.clock import HOUR, Clock, Horizon
from stackelgrid.scenarios.measured.declarations import VALUE, Reference, TimeSeries, complete, explain_keys
from stackelgrid.scenarios.measured.home_assistant import is_statistics, read_statistics
from stackelgrid.scenarios.measured.nem12 import is_nem12, read_nem12
from stackelgrid.scenarios.measured.numbers import count_up, read_number
from stackelgrid.scenarios.measured.recognition import find_clock_column, hold_no_number, hold_times, recognise_times
from stackelgrid.scenarios.measured.table import Row, Table, find_table
from stackelgrid.scenarios.measured.times import find_ends, has_day_per_row, read_times_of_day
from stackelgrid.scenarios.measured.units import Kind, Unit, find_unit, per_slot, target_unit
from stackelgrid.scenarios.measured.xml_documents import is_xml, read_xml
from stackelgrid.text_file import read_text

_ABSENT = {"", "unavailable", "unknown"}
"""The words in place of a reading that there was not."""

_SAMPLE = 1000
_SPREADSHEETS = {".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"}


class FromColumn(list[float]):
    """A number per slot, with its origin: `file`, `column`, and the first and last of each slot's `rows`."""

    def __init__(
        self, numbers: Iterable[float], file: Path, column: str, rows: Sequence[tuple[int, int]], word: str = "hour"
    ) -> None:
        super().__init__(numbers)
        self.file = file
        self.column = column
        self.rows = rows
        self.word = word
        """The word for a slot in messages."""

    def origin(self, slot: int) -> str:
        """Describe the origin of the number of `slot` (from 0); slots count from 1, rows as in a spreadsheet."""
        first, last = self.rows[slot]
        rows = f"row {first}" if first == last else f"rows {first}-{last}"
        return f"{self.file}, {rows}, column {self.column}, {self.word} {slot + 1}"


class Reading(NamedTuple):
    """A row at its time in UTC, with the cells of the columns that hold numbers."""

    at: datetime
    row: int
    cells: Sequence[str]


@dataclass(frozen=True)
class Readings:
    """The rows of one meter in order of time, and the `clock` by which they were read."""

    clock: Clock
    rows: list[Reading]

    @cached_property
    def horizon(self) -> tuple[list[int | None], timedelta]:
        """The places of the horizon's intervals, and how late the first slot begins, as `Clock.find_horizon` has it."""
        return self.clock.find_horizon([row.row for row in self.rows], [row.at for row in self.rows])


@dataclass(frozen=True)
class _Intervals:
    """Numbers per interval, or per slot: `values`, and the `rows` they come from, of totals one more.

    The first slot begins so `late` in the first interval.
    """

    values: list[float]
    rows: list[int]
    late: timedelta = timedelta()


class DataFile:
    """One of the scenario's data files, read when it is first needed. Raises `ValueError` for what it cannot use.

    `show` is given sentences on what was found in the file and how the first of its numbers was read.
    """

    def __init__(
        self,
        name: str,
        series: TimeSeries,
        folder: Path,
        horizon: Horizon,
        money: str,
        show: Callable[[str], None],
    ) -> None:
        self._show: Callable[[str], None] | None = show
        self._name = f"data.{name}"
        self._given = series
        self._path = folder / series.file
        self._money = money
        self._horizon = horizon
        self.findings: list[str] = []
        """A sentence for each thing that was found in the file and not given."""
        self._of_meter: dict[str, Readings] = {}

    def columns(self, excluded: Sequence[str]) -> list[str]:
        """List the names of its columns, without those of the time, those by which rows are chosen and `excluded`.

        They are those of its meters where a column tells these apart, else those with numbers: a column with times is
        left out, one with texts is refused.
        """
        for name in excluded:
            self._find_column(name)
        others = (*self.series.time_columns, *self.series.where, *excluded)
        names = [name for name in self._names if name not in others]
        if self.series.meter is not None or self.series.layout == "wide":
            return names
        texts = {name: self._list_texts(name) for name in names}
        for name, there in texts.items():
            if not hold_times(there) and hold_no_number(there):
                raise ValueError(
                    f"{self._path}, column {name}: {there[0][:60]!r} is no number, nor are those below it; leave the "
                    f"column out by homes.except: [{name}]"
                )
        return [name for name, there in texts.items() if not hold_times(there)]

    def _list_texts(self, column: str) -> list[str]:
        """List the first texts in a column of the table, without those of cells that have no reading."""
        place = self._find_place(column)
        texts = (cells[place].strip() for _, cells in self._rows[""])
        return list(itertools.islice((text for text in texts if text not in _ABSENT), _SAMPLE))

    def numbers(self, wanted: Reference, kind: Kind) -> FromColumn:
        """Read a number per slot for a scenario's key of this `kind`, in its unit."""
        self._find_column(wanted.column)
        given = self.find_unit(wanted.column)
        try:
            target = target_unit(kind, given, self._money)
        except ValueError as error:
            raise ValueError(f"{error} ({self._name}.unit)") from None
        readings, slot = self.find_readings(wanted.column), self._horizon.slot
        found = self._read_slots if self._at_any_time else self._read_intervals
        intervals = found(readings, wanted, kind)
        step = readings.clock.step
        values = per_slot(intervals.values, given, target, step, slot, intervals.late)[: self._horizon.slots]
        values = values * self._exchange_rate(given)
        if wanted.scale == "1/peak":
            peak = float(values.max())
            if peak <= 0:
                raise ValueError(
                    f"column {wanted.column} has the peak {peak:g}, by which nothing can be divided; set a scale"
                )
            values = values / peak
        else:
            values = values * wanted.scale
        more = len(intervals.rows) - len(intervals.values)
        slots = []
        for number in range(self._horizon.slots):
            begin = intervals.late + number * slot
            last = -(-(begin + slot) // step) - 1 + more
            slots.append((intervals.rows[begin // step], intervals.rows[last]))
        word = "hour" if slot == HOUR else "slot"
        return FromColumn(map(float, values), self._path, wanted.column, slots, word)

    def find_unit(self, column: str) -> Unit:
        """Find the unit of a column's numbers, which is given or in the file; where both are, they must agree."""
        source = self.find_source(column)
        given, written = self.series.unit, self._table.find_unit(column) or self._table.find_unit(source)
        if given is None and written is None:
            raise ValueError(
                f"{self._name}.unit: {self._path} does not say the unit of its column {source!r}; give it, as in kWh"
            )
        if (
            given is not None
            and given != written
            and ({source, column} & self._table.units.keys() or "unit" in self._table.keys)
        ):
            raise ValueError(f"{self._path} has column {column} in {written}; correct {self._name}.unit, now {given}")
        return find_unit(given or written or "")

    def find_source(self, column: str) -> str:
        """Find the column of the file that has the numbers of a column: one for all meters."""
        return self.series.value or column if self.series.layout == "long" else column

    def _exchange_rate(self, given: Unit) -> float:
        """Give how much of the scenario's money one of the file's is worth."""
        exchange = self.series.exchange
        if given.of_price and (given.money == self._money) != (exchange is None):
            mend = "leave exchange out"
            if exchange is None:
                mend = f"give exchange, how many {self._money} one {given.money} is"
            raise ValueError(
                f"{self._name}.unit: prices are in {given.money}, the scenario's money is {self._money}; {mend}"
            )
        return 1.0 if exchange is None else exchange

    # --- from rows to slots ---

    @property
    def _at_any_time(self) -> bool:
        """True when rows come at any time, not one per interval."""
        return self.series.reading == "sample" or (self.series.counts and self.series.interval is None)

    def _read_intervals(self, readings: Readings, wanted: Reference, kind: Kind) -> _Intervals:
        """Read a number per interval of the horizon and its row; of totals their differences, and the last one's row.

        An interval that is filled has the number between its neighbours, and the row of the one before.
        """
        places, late = readings.horizon
        there = [number for number, place in enumerate(places) if place is not None]
        found = [readings.rows[place] for place in places if place is not None]
        numbers = self._read_numbers(found, wanted, kind)
        rows = [found[max(bisect_right(there, number) - 1, 0)].row for number in range(len(places))]
        values = numbers if len(there) == len(places) else np.interp(range(len(places)), there, numbers).tolist()
        if self.series.counts:
            return _Intervals([after - before for before, after in itertools.pairwise(values)], rows, late)
        if self.series.reading is None and self.find_unit(wanted.column).quantity == "energy" and count_up(numbers):
            raise ValueError(
                f"{self._path}, column {wanted.column}: it rises from {numbers[0]:g} to {numbers[-1]:g} like a meter's "
                f"total; set {self._name}.reading: total, or reading: interval if this is the energy of each interval"
            )
        return _Intervals(values, rows, late)

    def _read_slots(self, readings: Readings, wanted: Reference, kind: Kind) -> _Intervals:
        """Read a number per slot from rows at any times, and the row at each slot's beginning and the last one's end.

        A sample holds until the next; a slot has their mean. A total rises evenly from one reading to the next.
        """
        index = self._find_column(wanted.column)
        there = [reading for reading in readings.rows if reading.cells[index].strip() not in _ABSENT]
        times = [reading.at for reading in there]
        edges = readings.clock.list_edges(times)
        inside = there[bisect_right(times, edges[0]) - 1 : bisect_left(times, edges[-1]) + 1]
        self._require_readings(readings.rows, inside, wanted.column)
        rows = [there[bisect_right(times, edge) - 1].row for edge in edges]
        numbers = np.array(self._read_numbers(inside, wanted, kind))
        at = np.array([(reading.at - edges[0]).total_seconds() for reading in inside])
        bounds = np.array([(edge - edges[0]).total_seconds() for edge in edges])
        if self.series.counts:
            return _Intervals(np.diff(np.interp(bounds, at, numbers)).tolist(), rows)
        at = np.append(at, max(at[-1], bounds[-1]))
        area = np.append(0.0, np.cumsum(numbers * np.diff(at)))
        return _Intervals((np.diff(np.interp(bounds, at, area)) / np.diff(bounds)).tolist(), rows)

    def _require_readings(self, rows: Sequence[Reading], there: Sequence[Reading], column: str) -> None:
        """Require that where rows say that there was no reading, the one before may hold so long."""
        numbers = {reading.row for reading in there}
        absent = [row for row in rows if row.row not in numbers and there[0].at <= row.at <= there[-1].at]
        longest = self.series.fill.slots * self._horizon.slot
        for row in absent:
            place = bisect_right(there, row)
            gap = there[place].at - row.at
            if gap > longest:
                raise ValueError(
                    f"{self._path}, row {row.row}, column {column}: there is no reading for {gap}; set "
                    f"{self._name}.fill to that many slots, or choose another day"
                )
        if absent:
            self.findings.append(f"{len(absent)} rows without a reading, which the one before them fills")

    def _read_numbers(self, readings: Sequence[Reading], wanted: Reference, kind: Kind) -> list[float]:
        """Read the numbers of a column; totals must not fall, and a load must not be below zero."""
        index = self._find_column(wanted.column)
        sign = -1 if wanted.scale != "1/peak" and wanted.scale < 0 else 1
        values: list[float] = []
        for _, row, cells in readings:
            text = cells[index].strip()
            try:
                values.append(read_number(text, self.series.decimal, self.series.thousands or ""))
                # Each reading by itself: in the mean of an hour, one below zero would not be seen.
                if kind.from_zero_up and sign * values[-1] < 0 and not self.series.counts:
                    raise ValueError(_describe_negative(kind.key, text, sign))
                if self.series.counts and len(values) > 1 and values[-1] < values[-2]:
                    raise ValueError(
                        f"the total falls from {values[-2]:g} to {values[-1]:g}: the meter was set back or exchanged; "
                        "choose another day, or mend the file"
                    )
            except ValueError as error:
                raise ValueError(f"{self._path}, row {row}, column {wanted.column}: {error}") from None
        self._show_findings(readings[0].row, wanted.column, readings[0].cells[index].strip(), values[0])
        return values

    def _show_findings(self, row: int, column: str, text: str, value: float) -> None:
        """Show what was found in the file and how its first number was read, once."""
        if self._show is not None:
            for finding in self.findings:
                self._show(f"{self._path}: {finding}")
            unit, written = self.find_unit(column).name, self._table.find_unit(self.find_source(column))
            if written not in (None, unit):
                self._show(f"{self._path}: column {column} is named as in {written}; is {self._name}.unit {unit}?")
            self._show(f"{self._path}, row {row}, column {column}: {text!r} was read as {value:.12g} {unit}")
            self._show = None

    # --- from the file to rows ---

    def find_readings(self, column: str) -> Readings:
        """Find the rows of a column that are wanted, in order of time; of a wide table one for each of its cells."""
        meter = column if self.series.meter is not None else ""
        if meter not in self._of_meter:
            self._of_meter[meter] = self._read_rows(self._rows[meter])
        return self._of_meter[meter]

    def _read_rows(self, rows: Sequence[Row]) -> Readings:
        """Read the times of some rows."""
        table, series = self._table, self.series
        clock = Clock(self._name, self._path, series, self._horizon, self.findings)
        places = [self._find_place(column) for column in series.time_columns]
        stamps = [(row, " ".join(cells[place].strip() for place in places)) for row, cells in rows]
        if series.layout == "wide":
            readings = self._unfold(clock, rows, stamps)
        else:
            if has_day_per_row(table.header):
                raise ValueError(f"{self._path} has a day per row; set {self._name}.layout: wide, and column: {VALUE}")
            clock_column = find_clock_column(table.header, [cells for _, cells in rows[:2]])
            texts = {text for _, text in stamps[:2]}
            if clock_column is not None and len(texts) < len(stamps[:2]) and ":" not in stamps[0][1]:
                raise ValueError(
                    f"{self._path}: the column {series.time} has days without times of day; set {self._name}.time: "
                    f"[{series.time}, {clock_column}]"
                )
            times = clock.read_times(stamps)
            readings = [Reading(at, row, cells) for at, (row, cells) in zip(times, rows, strict=True)]
        if all(after.at < before.at for before, after in itertools.pairwise(readings)) and len(readings) > 1:
            self.findings.append("its newest row is the first")
            readings.reverse()
        return Readings(clock, readings)

    def _unfold(self, clock: Clock, rows: Sequence[Row], stamps: Sequence[tuple[int, str]]) -> list[Reading]:
        """List the cells of a table with a day per row."""
        try:
            columns = read_times_of_day(self._table.header, self.series.stamp == "end")
        except ValueError as error:
            raise ValueError(f"{self._name}.layout: {self._path}: {error}; set layout: long") from None
        ends = find_ends([self._table.header[place] for place in columns])
        if ends is not None and "stamp" not in self.series.model_fields_set:
            raise ValueError(
                f"{self._path}: its columns are from {ends}; set {self._name}.stamp: end, if intervals end then, or "
                "start"
            )
        self.findings.append(f"each row is a day of {len(columns)} intervals, the column {VALUE}")
        texts = [[cells[place] for place in columns] for _, cells in rows]
        return [Reading(at, row, [cell]) for at, row, cell in clock.read_cells(stamps, list(columns.values()), texts)]

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        """The rows that are wanted, by the text of the column `meter`, or all of them under no text."""
        table, series = self._table, self.series
        chosen = {self._find_place(column): texts for column, texts in series.where.items()}
        rows = [row for row in table.rows if all(row[1][place].strip() in texts for place, texts in chosen.items())]
        if not rows:
            place, texts = next(iter(chosen.items()))
            there = ", ".join(
                repr(text) for text in list(dict.fromkeys(cells[place].strip() for _, cells in table.rows))[:10]
            )
            raise ValueError(
                f"{self._name}.where: {self._path} has no row with {' or '.join(map(repr, texts))} in column "
                f"{table.header[place]}; there are {there}"
            )
        if series.meter is None:
            return {"": rows}
        place = self._find_place(series.meter)
        by_meter: dict[str, list[Row]] = {}
        for row in rows:
            by_meter.setdefault(row[1][place].strip(), []).append(row)
        return by_meter

    @property
    def _names(self) -> list[str]:
        """The names of what can be referred to as a column."""
        if self.series.meter is not None:
            return list(self._rows)
        return [VALUE] if self.series.layout == "wide" else self._table.header

    def _find_column(self, column: str) -> int:
        """Find the place of a column with numbers."""
        if self.series.meter is not None and column not in self._rows:
            there = ", ".join(map(repr, list(self._rows)[:10]))
            raise ValueError(f"{self._path} has no {column!r} in its column {self.series.meter}; there are {there}")
        if self.series.layout == "wide":
            if self.series.meter is None and column != VALUE:
                raise ValueError(
                    f"{self._path} has a day per row, whose numbers are the column {VALUE!r}, not {column!r}"
                )
            return 0
        if self.series.meter is None:
            return self._find_place(column)
        if self.series.value is None:
            raise ValueError(
                f"{self._name}: give value, the column with the numbers of each meter; {self._path} has "
                f"{self._table.names}"
            )
        return self._find_place(self.series.value)

    def read_all(self, column: str) -> tuple[NDArray[np.float64], int]:
        """Read the numbers of all rows of a column, (N,), NaN for a cell that is none, and count these."""
        place, series = self._find_column(column), self.series
        numbers = np.full(len(self.find_readings(column).rows), np.nan)
        for number, reading in enumerate(self.find_readings(column).rows):
            with suppress(ValueError):
                numbers[number] = read_number(reading.cells[place].strip(), series.decimal, series.thousands or "")
        return numbers, int(np.isnan(numbers).sum())

    def _find_place(self, column: str) -> int:
        """Find the place of a column of the table."""
        table = self._table
        if table.header.count(column) > 1:
            raise ValueError(
                f"{self._path}, row {table.header_row}: {table.header.count(column)} columns are called {column!r}; "
                "rename them"
            )
        if column not in table.header:
            raise ValueError(f"{self._path} has no column {column!r}; its row {table.header_row} names {table.names}")
        return table.header.index(column)

    @property
    def series(self) -> TimeSeries:
        """The keys by which it is read: those that are given, and those that it says by itself."""
        return self._opened[0]

    @property
    def _table(self) -> Table:
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[TimeSeries, Table]:
        """The keys by which the file is read, and its table."""
        try:
            text = read_export(self._path)
        except ValueError as error:
            raise ValueError(f"{self._name}.file: {self._path}: {error}; paths are relative to the scenario") from None
        try:
            series, table = _open_table(text, self._given, self._name)
        except csv.Error as error:
            raise ValueError(f"{self._name}.file: {self._path} is not CSV ({error}); export it again") from None
        except ValidationError as error:
            raise ValueError(f"{self._path}: {explain_keys(self._name, error)}") from None
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from None
        self.findings += table.findings
        return series, table


def read_export(path: Path) -> str:
    """Read the text of a file. Raises `ValueError` for what is no text, as a spreadsheet's own format."""
    try:
        return read_text(path, "utf-8-sig", "name a file")
    except ValueError:
        if path.suffix.lower() in _SPREADSHEETS and path.is_file():
            raise ValueError(f"a spreadsheet ({path.suffix}); save its sheet as CSV in UTF-8, and name that") from None
        raise


def read_standard(text: str, series: TimeSeries) -> Table | None:
    """Read a text in a standard format, which says by itself how it is read; None of any other."""
    if is_xml(text):
        return read_xml(text)
    if is_nem12(text):
        return read_nem12(text)
    return read_statistics(text, series) if is_statistics(text) else None


def _open_table(text: str, given: TimeSeries, name: str) -> tuple[TimeSeries, Table]:
    """Find the table in the text of the data `name`, and the keys of which it says those that are not given.

    Raises `ValueError`, `csv.Error` where the text is not CSV.
    """
    table = read_standard(text, given)
    if table is not None:
        return complete(given, table.keys), table
    series = given
    if given.time is None:
        found = recognise_times(text, given)
        if found.questions:
            raise ValueError("; ".join(f"{why}; give {name}.{key}" for key, why in found.questions.items()))
        series = complete(given, found.keys)
    return series, find_table(text, series, name)


def _describe_negative(key: str, text: str, sign: int) -> str:
    """Say what is wrong with a reading that, times its scale, is below zero."""
    if sign > 0:
        scaled, turned = "is below zero", "scale: -1"
    else:
        scaled, turned = "times the scale is below zero", "a scale above zero"
    return (
        f"{text!r} {scaled}, {key} never is; correct it, choose another day, or give {turned} if the column counts the "
        "other way"
    )
