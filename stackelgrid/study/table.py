"""The table of a sweep: a row per point of the grid, its columns the parameters and paths into result.json."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stackelgrid.columns import Cell, encode_csv, encode_parquet
from stackelgrid.scenarios.yaml_file import parse
from stackelgrid.study.grid import Grid
from stackelgrid.text_file import replace_file

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
    found = {name: [row.get(name) for row in rows] for name in columns(grid, rows)}
    replace_file(folder / "table.csv", encode_csv(found))
    replace_file(folder / "table.parquet", encode_parquet(found))
