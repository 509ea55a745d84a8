"""The table of a sweep: a row per point of the grid, its columns the parameters and paths into result.json."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stackelgrid.scenarios.yaml_file import parse
from stackelgrid.study.grid import Grid
from stackelgrid.text_file import replace_file

Cell = bool | int | float | str | None
Row = dict[str, Cell]
FIRST = ("settled", "problem", "rounds", "inner_rounds", "messages")
"""Columns of every table, after the parameters."""
_FEW = 12
"""Homes, or other players, up to which the numbers of each have columns of their own; more would bury the rest."""


def row(grid: Grid, point: tuple[str, ...], finished: Mapping[str, Any]) -> Row:
    """Make a row of the table from the result.json of a point. A number that the point does not have is None."""
    parameters = {key: _parse_value(text) for key, text in zip(grid.keys, point, strict=True)}
    common = {name: finished.get(name) for name in FIRST}
    numbers = [_flatten(part, finished.get(part) or {}) for part in ("outcome", "certificate")]
    return parameters | common | dict(itertools.chain.from_iterable(numbers))


def _parse_value(text: str) -> Cell:
    value = parse(text)
    return value if isinstance(value, bool | int | float) else text


def _flatten(name: str, value: Any, whole: bool = True) -> list[tuple[str, Cell]]:
    """List the numbers in `value` by their path. Lists, which hold a number per slot, and texts are left out."""
    if isinstance(value, dict):
        few = whole or len(value) <= _FEW
        return [pair for key, inner in value.items() for pair in _flatten(f"{name}.{key}", inner, False)] if few else []
    return [(name, value)] if isinstance(value, bool | int | float) else []


def columns(grid: Grid, rows: Sequence[Row]) -> list[str]:
    """Name the columns: parameters, those of all points, outcome, certificate, each as first met in the grid."""
    met = list(dict.fromkeys(name for row in rows for name in row))
    found = [name for name in met if name.startswith("outcome.")] + [n for n in met if n.startswith("certificate.")]
    return [*grid.keys, *FIRST, *found]


def write(folder: Path, grid: Grid, rows: Sequence[Row]) -> None:
    """Write table.csv and table.parquet. An empty cell is a number that the point does not have."""
    names = columns(grid, rows)
    replace_file(folder / "table.csv", _encode_csv(names, rows))
    replace_file(folder / "table.parquet", _encode_parquet(names, rows))


def _encode_csv(names: Sequence[str], rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_format_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue().encode()


def _format_cell(cell: Cell) -> Cell:
    return str(cell).lower() if isinstance(cell, bool) else cell


def _encode_parquet(names: Sequence[str], rows: Sequence[Row]) -> bytes:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    cells = {name: [row.get(name) for row in rows] for name in names}
    columns = {
        name: pa.array(column, type=getattr(pa, _column_type(column))()) for name, column in _unify(cells).items()
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _column_type(column: Sequence[Cell]) -> str:
    """Choose the narrowest type that holds a whole column."""
    there = [cell for cell in column if cell is not None]
    if any(isinstance(cell, str) for cell in there):
        return "string"
    if there and all(isinstance(cell, bool) for cell in there):
        return "bool_"
    return "int64" if there and all(isinstance(cell, int) for cell in there) else "float64"


def _unify(cells: dict[str, list[Cell]]) -> dict[str, list[Cell]]:
    """Turn the numbers of a column that has texts into texts."""
    return {
        name: [None if cell is None else str(_format_cell(cell)) for cell in column]
        if _column_type(column) == "string"
        else column
        for name, column in cells.items()
    }
