"""Tables of data: columns by name, as CSV and as Parquet."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

Cell = bool | int | float | str | datetime | None
Column = list[Any] | range
"""The cells of a column."""
Columns = Mapping[str, Column]
"""Columns of one length by name; None is an empty cell."""


def stack(parts: Iterable[Mapping[str, Cell | Column]]) -> dict[str, list[Cell]]:
    """Put parts of a table one below the other, columns in the order in which they are first met.

    One value instead of a column holds in every row of its part. The cells of a column that a part lacks are empty.
    """
    columns: dict[str, list[Cell]] = {}
    rows = 0
    for part in parts:
        length = max((len(each) for each in part.values() if isinstance(each, list | range)), default=1)
        for name in part:
            columns.setdefault(name, [None] * rows)
        for name, column in columns.items():
            column.extend(_repeat(part.get(name), length))
        rows += length
    return columns


def _repeat(value: Cell | Column, length: int) -> Column:
    return value if isinstance(value, list | range) else [value] * length


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name, which others may have too."""
        ...


Thing = TypeVar("Thing", bound=Named)


def name_apart(things: Iterable[Thing]) -> Iterator[tuple[str, Thing]]:
    """Give things with their names, numbered from the second of a name on: battery, battery 2."""
    seen: Counter[str] = Counter()
    for thing in things:
        seen[thing.name] += 1
        yield thing.name if seen[thing.name] == 1 else f"{thing.name} {seen[thing.name]}", thing


def pad(column: Sequence[Cell], length: int) -> list[Cell]:
    """Fill a column up to a length with empty cells."""
    return [*column, *([None] * (length - len(column)))]


def spell_unit(money: str) -> str:
    """Write the scenario's word for money as a part of a column's name."""
    return "_".join(money.split())


def encode_csv(columns: Columns) -> bytes:
    """Write columns as CSV: numbers to their last digit, true and false in lower case, times as in ISO 8601."""
    return encode_rows(columns, columns.values())


def encode_rows(head: Iterable[str], columns: Iterable[Column]) -> bytes:
    """Write columns as CSV in the same way, under a head whose names may be equal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(zip(*map(_format_cells, columns), strict=True))
    return text.getvalue().encode()


def _format_cells(column: Column) -> Iterator[Cell]:
    for cell in column:
        if isinstance(cell, bool):
            yield str(cell).lower()
        else:
            yield cell.isoformat() if isinstance(cell, datetime) else cell


def encode_parquet(columns: Columns) -> bytes:
    """Write columns as Parquet, each of the narrowest type that holds all of it."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    sink = pa.BufferOutputStream()
    pq.write_table(build_arrow(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def build_arrow(columns: Columns) -> Any:
    """Build the table in Arrow, each column of the narrowest type that holds all of it."""
    import pyarrow as pa

    arrays = {}
    for name, column in columns.items():
        kind = _find_type(column)
        cells: Iterable[Cell] = column
        if kind == pa.string():
            cells = [None if cell is None else str(cell) for cell in _format_cells(column)]
        elif kind == pa.float64():  # pyarrow refuses whole numbers that this would round
            cells = [None if cell is None else float(cell) for cell in column]
        arrays[name] = pa.array(cells, type=kind)
    return pa.table(arrays)


def _find_type(column: Column) -> Any:
    """Find the narrowest type that holds a whole column: the numbers of one that has texts are texts there, too."""
    import pyarrow as pa

    there = {type(cell) for cell in column if cell is not None}
    if str in there:
        return pa.string()
    if there == {datetime}:
        (zone,) = {str(cell.tzinfo) for cell in column if isinstance(cell, datetime)}
        return pa.timestamp("us", tz=zone)
    if there == {bool}:
        return pa.bool_()
    fits = there == {int} and all(abs(cell) < 2**63 for cell in column if isinstance(cell, int))
    return pa.int64() if fits else pa.float64()
