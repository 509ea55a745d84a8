"""Read the columns of a CSV file as numbers per slot that keep their file, column and rows."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from stackelgrid.scenarios.measured.clock import Clock
from stackelgrid.scenarios.measured.declarations import DataSection, Reference, TimeSeries
from stackelgrid.scenarios.measured.units import Kind, Unit, find_unit, per_slot, target_unit
from stackelgrid.text_file import read_text
from stackelgrid.wire.arrays import LARGEST

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_PERHAPS_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([.,' ]\d{3})+([.,]\d*)?")
_FEWEST_READINGS = 4


class FromColumn(list[float]):
    """A number per slot, with its origin: `file`, `column`, and the first and last of each slot's `rows`."""

    def __init__(self, numbers: Iterable[float], file: Path, column: str, rows: Sequence[tuple[int, int]]) -> None:
        super().__init__(numbers)
        self.file = file
        self.column = column
        self.rows = rows

    def origin(self, slot: int) -> str:
        """Describe the origin of the number of `slot` (from 0); hours count from 1, rows as in a spreadsheet."""
        first, last = self.rows[slot]
        rows = f"row {first}" if first == last else f"rows {first}-{last}"
        return f"{self.file}, {rows}, column {self.column}, hour {slot + 1}"


class CsvFile:
    """One of the scenario's data files, read when it is first needed. Raises `ValueError` for what it cannot use.

    `show` is given a sentence about how the first of its numbers that is wanted was read.
    """

    def __init__(
        self, name: str, series: TimeSeries, folder: Path, declared: DataSection, show: Callable[[str], None]
    ) -> None:
        self._show: Callable[[str], None] | None = show
        self._name = f"data.{name}"
        self._series = series
        self._path = folder / series.csv
        self._money = declared.money
        self._clock = Clock(self._name, self._path, series, declared.slots)

    def columns(self, excluded: Sequence[str]) -> list[str]:
        """List the names of its columns, without that of the time and those `excluded`."""
        for name in excluded:
            self._find_column(name)
        header, _ = self._content
        return [name for name in header if name not in (self._series.time, *excluded)]

    def numbers(self, wanted: Reference, kind: Kind) -> FromColumn:
        """Read a number per slot for a scenario's key of this `kind`, in its unit."""
        given = find_unit(self._series.unit)
        try:
            target = target_unit(kind, given, self._money)
        except ValueError as error:
            raise ValueError(f"{error} ({self._name}.unit)") from None
        values = per_slot(self._read_intervals(wanted, kind), self._series.rows_per_slot, given, target)
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
        rows = [row for row, _ in self._horizon]
        step = self._series.rows_per_slot
        last = step if self._series.counts else step - 1
        slots = [(rows[first], rows[first + last]) for first in range(0, len(values) * step, step)]
        return FromColumn(map(float, values), self._path, wanted.column, slots)

    def _exchange_rate(self, given: Unit) -> float:
        """Give how much of the scenario's money one of the file's is worth."""
        exchange = self._series.exchange
        if given.of_price and (given.money == self._money) != (exchange is None):
            mend = "leave exchange out"
            if exchange is None:
                mend = f"give exchange, how many {self._money} one {given.money} is"
            raise ValueError(
                f"{self._name}.unit: prices are in {given.money}, the scenario's money is {self._money}; {mend}"
            )
        return 1.0 if exchange is None else exchange

    def _read_intervals(self, wanted: Reference, kind: Kind) -> list[float]:
        """Read the numbers of a column over the horizon, one per interval; of totals their differences."""
        index = self._find_column(wanted.column)
        sign = -1 if wanted.scale != "1/peak" and wanted.scale < 0 else 1
        values: list[float] = []
        for row, cells in self._horizon:
            text = cells[index].strip()
            try:
                values.append(_read_number(text, self._series.decimal))
                # Each reading by itself: in the mean of an hour, one below zero would not be seen.
                if kind.from_zero_up and sign * values[-1] < 0 and not self._series.counts:
                    raise ValueError(_describe_negative(kind.key, text, sign))
                if self._series.counts and len(values) > 1 and values[-1] < values[-2]:
                    raise ValueError(
                        f"the total falls from {values[-2]:g} to {values[-1]:g}: the meter was set back or exchanged; "
                        "choose another day, or mend the file"
                    )
            except ValueError as error:
                raise ValueError(f"{self._path}, row {row}, column {wanted.column}: {error}") from None
        self._show_first(wanted.column, self._horizon[0][1][index].strip(), values[0])
        if self._series.counts:
            return [after - before for before, after in itertools.pairwise(values)]
        if self._series.reading is None and find_unit(self._series.unit).quantity == "energy" and _count_up(values):
            raise ValueError(
                f"{self._path}, column {wanted.column}: it rises from {values[0]:g} to {values[-1]:g} like a meter's "
                f"total; set {self._name}.reading: total, or reading: interval if this is the energy of each interval"
            )
        return values

    def _show_first(self, column: str, text: str, value: float) -> None:
        """Show how the first number of the file was read, once."""
        if self._show is not None:
            row = self._horizon[0][0]
            self._show(
                f"{self._path}, row {row}, column {column}: {text!r} was read as {value:.12g} {self._series.unit}"
            )
            self._show = None

    def _find_column(self, column: str) -> int:
        header, _ = self._content
        if header.count(column) > 1:
            raise ValueError(f"{self._path}, row 1: {header.count(column)} columns are called {column!r}; rename them")
        if column not in header:
            there = ", ".join(repr(name[:60]) for name in header[:20]) + (", …" if len(header) > 20 else "")
            mend = f"; if these are several, set {self._name}.delimiter" if len(header) == 1 else ""
            raise ValueError(f"{self._path} has no column {column!r}; its first row names {there}{mend}")
        return header.index(column)

    @cached_property
    def _content(self) -> tuple[list[str], list[tuple[int, list[str]]]]:
        """The header, and the rows below it with their numbers as a spreadsheet counts them."""
        try:
            text = io.StringIO(read_text(self._path, "utf-8-sig"), newline="")
            lines = list(enumerate(csv.reader(text, delimiter=self._series.delimiter, strict=True), 1))
        except ValueError as error:
            raise ValueError(f"{self._name}.csv: {self._path}: {error}; paths are relative to the scenario") from None
        except csv.Error as error:
            raise ValueError(f"{self._name}.csv: {self._path} is not CSV ({error}); export it again") from None
        rows = [(row, cells) for row, cells in lines if any(cell.strip() for cell in cells)]
        if len(rows) < 2:
            raise ValueError(f"{self._name}.csv: {self._path} holds no data; it takes a header and a row per interval")
        header = [name.strip() for name in rows[0][1]]
        for row, cells in rows[1:]:
            if len(cells) != len(header):
                raise ValueError(
                    f"{self._path}, row {row}: {len(cells)} cells below a header of {len(header)}; set "
                    f"{self._name}.delimiter (now {self._series.delimiter!r}) as in the file, or mend the row"
                )
        return header, rows[1:]

    @cached_property
    def _horizon(self) -> list[tuple[int, list[str]]]:
        """The rows of the horizon, one per interval: none missing, none twice, in the order of time."""
        index = self._find_column(self._series.time)
        _, rows = self._content
        places = self._clock.find_horizon([(row, cells[index].strip()) for row, cells in rows])
        return [rows[place] for place in places]


def _count_up(values: Sequence[float]) -> bool:
    """Say whether readings look like a meter's totals: they never fall, or once at a reset and rise nearly always."""
    steps = [after - before for before, after in itertools.pairwise(values)]
    falls, rises = sum(step < 0 for step in steps), sum(step > 0 for step in steps)
    return len(values) >= _FEWEST_READINGS and rises > 0 and (falls == 0 or (falls == 1 and rises >= 10 * falls))


def _read_number(text: str, decimal: str) -> float:
    plain = text if decimal == "." else text.replace(".", "?").replace(",", ".")
    if not text:
        raise ValueError("the cell is empty; fill it in, or choose another day")
    if _NUMBER.fullmatch(plain) is None:
        raise ValueError(f"{text[:60]!r} is no number with decimal {decimal!r}; {_find_mend(text, decimal)}")
    number = float(plain)
    if abs(number) > LARGEST:
        raise ValueError(f"{text[:60]!r} is beyond {LARGEST:g}, the largest number anywhere in a game; correct it")
    return number


def _find_mend(text: str, decimal: str) -> str:
    """Say what to do with a cell that is no number. Another decimal is advised only where no thousands can be meant."""
    if _PERHAPS_THOUSANDS.fullmatch(text):
        return "if that separates thousands, export the file without it"
    other = "," if decimal == "." else "."
    if decimal not in text and _NUMBER.fullmatch(text.replace(other, ".")):
        return f"set decimal: {other!r} in data"
    return "fill it in, or choose another day"


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
