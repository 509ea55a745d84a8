"""Find the table in a text file: the rows below the line that names the columns, whatever stands above and below.

The line that names the columns is the first that has the names of the time's columns. A separator that is not given is
the one by which that line has them. The table ends at an empty line below which nothing fits it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stackelgrid.scenarios.measured.declarations import TimeSeries
from stackelgrid.scenarios.measured.large_table import LARGE, split_large
from stackelgrid.scenarios.measured.units import find_unit, read_unit

DELIMITERS: tuple[str, ...] = (",", ";", "\t", "|")
_NOTE = re.compile(r"([^:]+): .*\(([^()]+)\)")
"""A line below a table that explains a column and ends with its unit."""
_NORD_POOL = "Delivery Start (CET)"
"""The column by which exports of Nord Pool are known; their prices are per MWh without saying so."""
_MONEY = re.compile(r"\(([A-Z]{3})\)")
_UNIT_COLUMNS = {"unit", "units", "einheit", "eenheid", "unite", "unité", "unità", "unidad", "enhet", "enhed", "uom"}
_CLOSING_WORDS = {
    *("summe", "gesamt", "gesamtsumme", "total", "grand total", "sum", "somme", "totale", "totaal", "suma", "summa"),
    *("average", "mean", "mittelwert", "moyenne", "media", "gemiddelde"),
}
_EMPTY = "it holds no data; it takes a line with the names of its columns and a row per interval"
Row = tuple[int, Sequence[str]]
"""The number of a row, as a spreadsheet counts, and its cells."""


@dataclass(frozen=True)
class Table:
    """The names of the columns, and the rows below them, each with as many cells.

    `units` are those that a row below the names gives, in brackets, or a note below the table. `findings` has a
    sentence for each thing that was found in the file and not given, `keys` those of `data` that it says by itself.
    """

    header: list[str]
    header_row: int
    units: dict[str, str]
    rows: list[Row]
    findings: list[str]
    keys: dict[str, Any] = field(default_factory=dict)

    def find_unit(self, column: str) -> str | None:
        """Find the unit that the file gives for a column: in a row of units, its name, or a column of units."""
        written = self.units.get(column) or self.keys.get("unit")
        if written is None and column in self.header:
            written = read_unit(column)
            if written is None and _NORD_POOL in self.header and (money := _MONEY.search(column)):
                written = f"{money[1]}/MWh"
        if written is None:
            place = next((place for place, name in enumerate(self.header) if name.lower() in _UNIT_COLUMNS), None)
            texts = {cells[place].strip() for _, cells in self.rows} if place is not None else set()
            written = texts.pop() if len(texts) == 1 else None
        try:
            return None if written is None else find_unit(written).name
        except ValueError:
            return None

    @property
    def names(self) -> str:
        """The columns' names, for a message."""
        return ", ".join(repr(name[:60]) for name in self.header[:20]) + (", …" if len(self.header) > 20 else "")


def find_table(text: str, series: TimeSeries, name: str) -> Table:
    """Find the table of the `series` called `name` in a file's text.

    Raises `ValueError` naming the row and the key that mends it, `csv.Error` where the text is not CSV.
    """
    findings: list[str] = []
    delimiter, above, header = _find_header(text, series, name)
    if series.delimiter is None and delimiter != ",":
        findings.append(f"its columns are separated by {delimiter!r}")
    if above > series.skip:
        findings.append(f"its columns are named in row {above + 1}")
    ends: list[Row] = []
    rows = split_large(text, above + 1, len(header), delimiter) if len(text) > LARGE else None
    if rows is None:
        below = _split(text, delimiter, above + 1)
        rows = list(_list_rows(below, len(header), above + 1, delimiter, name, ends))
    if ends:
        findings.append(f"the lines from row {ends[0][0]} on are not part of its table")
    notes = (_NOTE.fullmatch(" ".join(cells).strip()) for _, cells in ends)
    units = {note[1]: note[2] for note in notes if note is not None and note[1] in header}
    if rows and is_units_row(rows[0][1]):
        number, cells = rows.pop(0)
        units |= {column: cell.strip()[1:-1] for column, cell in zip(header, cells, strict=True)}
        findings.append(f"its row {number} has units")
    places = [header.index(column) for column in series.time_columns]
    if rows and (closing := _find_closing_word([rows[-1][1][place] for place in places])):
        findings.append(f"its last row {rows[-1][0]}, {closing!r}, is no interval and is left out")
        rows.pop()
    if not rows:
        raise ValueError(_EMPTY)
    return Table(header, above + 1, units, rows, findings)


def _find_closing_word(times: Sequence[str]) -> str | None:
    """Find the word that the last row has instead of a time where it sums up the others."""
    words = (text.strip() for text in times)
    return next((word for word in words if word.rstrip(":").lower() in _CLOSING_WORDS), None)


def is_units_row(cells: Iterable[str]) -> bool:
    """Say whether all cells of a row are in brackets."""
    there = [cell.strip() for cell in cells if cell.strip()]
    return bool(there) and all(cell[0] + cell[-1] in ("[]", "()") for cell in there)


def _find_header(text: str, series: TimeSeries, name: str) -> tuple[str, int, list[str]]:
    """Find the separator, the number of rows above the columns' names, and these names."""
    wanted = series.time_columns
    candidates = DELIMITERS if series.delimiter is None else (series.delimiter,)
    broken: csv.Error | None = None
    for delimiter in candidates:
        try:
            for number, cells in enumerate(_split(text, delimiter, series.skip), series.skip):
                names = strip_end([cell.strip() for cell in cells])
                if set(wanted) <= set(names):
                    return delimiter, number, names
        except csv.Error as error:
            broken = broken or error  # with another separator its quotes may be in place
    if broken is not None:
        raise broken
    first = next((line for line in text.splitlines()[series.skip :] if line.strip()), "")
    if not first:
        raise ValueError(_EMPTY)
    missing = " and ".join(repr(column) for column in wanted)
    row = f"row {series.skip + 1}" if series.skip else "its first row"
    others = (
        ""
        if series.delimiter is None
        else f"; if these are several, correct {name}.delimiter (now {series.delimiter!r})"
    )
    raise ValueError(f"no row names the column {missing}; {row} is {first[:120]!r}; correct {name}.time{others}")


def _split(text: str, delimiter: str, skip: int) -> Iterator[list[str]]:
    """Split the lines after the first `skip` into cells."""
    stream = io.StringIO(text, newline="")
    for _ in range(skip):
        stream.readline()
    return csv.reader(stream, delimiter=delimiter, strict=True)


def strip_end(cells: list[str]) -> list[str]:
    """Leave out the empty cells at the end of a row."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    return cells


def _list_rows(
    lines: Iterator[list[str]], width: int, above: int, delimiter: str, name: str, ends: list[Row]
) -> Iterator[Row]:
    """List the rows that have a cell for each of the columns, until the table ends; what follows goes to `ends`."""
    empty = False
    for number, cells in enumerate(lines, above + 1):
        if not any(cell.strip() for cell in cells):
            empty = True
            continue
        fits = len(cells) >= width and not any(cell.strip() for cell in cells[width:])
        if fits and not ends:
            yield number, cells[:width]
        elif not ends and not empty:
            raise ValueError(
                f"row {number}: {len(cells)} cells below a header of {width}; set {name}.delimiter (now {delimiter!r}) "
                "as in the file, or mend the row"
            )
        elif fits:
            raise ValueError(f"row {number} fits the table, row {ends[0][0]} above it does not; mend that row")
        else:
            ends.append((number, cells))
