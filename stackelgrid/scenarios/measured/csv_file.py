"""Read the columns of a CSV file as numbers per slot that keep their file, column and rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from stackelgrid.scenarios.measured.clock import Clock
from stackelgrid.scenarios.measured.declarations import DataSection, Reference, TimeSeries
from stackelgrid.scenarios.measured.units import Kind, Unit, find_unit, per_slot, target_unit
from stackelgrid.wire.arrays import LARGEST

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


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
    """One of the scenario's data files, read when it is first needed. Raises `ValueError` for what it cannot use."""

    def __init__(self, name: str, series: TimeSeries, folder: Path, declared: DataSection) -> None:
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
        values = per_slot(self._read_cells(wanted, kind), self._series.rows_per_slot, given, target)
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
        slots = list(zip(rows[::step], rows[step - 1 :: step], strict=True))
        return FromColumn(map(float, values), self._path, wanted.column, slots)

    def _exchange_rate(self, given: Unit) -> float:
        """Give how much of the scenario's money one of the file's is worth."""
        exchange = self._series.exchange
        if given.of_price and (given.money == self._money) != (exchange is None):
            mend = "leave exchange out"
            if exchange is None:
                mend = f"give exchange, how many {self._money} one {given.money} is, or set money: {given.money}"
            raise ValueError(
                f"{self._name}.unit: prices are in {given.money}, the scenario's money is {self._money}; {mend}"
            )
        return 1.0 if exchange is None else exchange

    def _read_cells(self, wanted: Reference, kind: Kind) -> list[float]:
        """Read the numbers of a column over the horizon, one per interval."""
        column, index = wanted.column, self._find_column(wanted.column)
        sign = -1 if wanted.scale != "1/peak" and wanted.scale < 0 else 1
        values = []
        for row, cells in self._horizon:
            try:
                values.append(_read_number(cells[index].strip(), self._series.decimal))
                # Each reading by itself: in the mean of an hour, one below zero would not be seen.
                if kind.from_zero_up and sign * values[-1] < 0:
                    raise ValueError(_describe_negative(kind.key, cells[index].strip(), sign))
            except ValueError as error:
                raise ValueError(f"{self._path}, row {row}, column {column}: {error}") from None
        return values

    def _find_column(self, column: str) -> int:
        header, _ = self._content
        if header.count(column) > 1:
            raise ValueError(f"{self._path}, row 1: {header.count(column)} columns are called {column!r}; rename them")
        if column not in header:
            there = ", ".join(repr(name) for name in header)
            mend = f"; if these are several, set {self._name}.delimiter" if len(header) == 1 else ""
            raise ValueError(f"{self._path} has no column {column!r}; its first row names {there}{mend}")
        return header.index(column)

    @cached_property
    def _content(self) -> tuple[list[str], list[tuple[int, list[str]]]]:
        """The header, and the rows below it with their numbers as a spreadsheet counts them."""
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as file:
                lines = list(enumerate(csv.reader(file, delimiter=self._series.delimiter, strict=True), 1))
        except OSError as error:
            raise ValueError(
                f"{self._name}.csv: {self._path} cannot be read ({error.strerror}); paths are relative to the scenario"
            ) from None
        except UnicodeDecodeError:
            raise ValueError(f"{self._name}.csv: {self._path} is not UTF-8; save it as CSV in UTF-8") from None
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


def _read_number(text: str, decimal: str) -> float:
    plain = text if decimal == "." else text.replace(".", "?").replace(",", ".")
    if not text:
        raise ValueError("the cell is empty; fill it in, or choose another day")
    if _NUMBER.fullmatch(plain) is None:
        mend = "fill it in, or choose another day"
        if decimal == "." and _NUMBER.fullmatch(text.replace(",", ".")):
            mend = "set decimal: ',' in data"
        raise ValueError(f"{text!r} is no number with decimal {decimal!r}; {mend}")
    number = float(plain)
    if abs(number) > LARGEST:
        raise ValueError(f"{text!r} is beyond {LARGEST:g}, the largest number anywhere in a game; correct it")
    return number


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
