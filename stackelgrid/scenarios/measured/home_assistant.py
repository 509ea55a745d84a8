"""Read exports of Home Assistant's long-term statistics: a row per statistic and period.

A row has the beginning of its period and either what was measured in it (`mean`), what was counted in it (`delta`), or
the `sum` counted up to its end (home-assistant/core, components/sensor/recorder.py). Of sums the energy of a period is
how much more there is than at the end of the period before: the first of a statistic has none.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from stackelgrid.scenarios.measured.declarations import TimeSeries
from stackelgrid.scenarios.measured.numbers import read_number
from stackelgrid.scenarios.measured.table import DELIMITERS, Row, Table
from stackelgrid.scenarios.measured.times import FORMATS, list_formats, read_time

_ID = "statistic_id"
_STARTS = ("start", "start_ts")
_HEADER = ["statistic", "time", "value"]
_Period = tuple[int, dict[str, str]]
"""The number of a row, and its cells by column."""
_KEYS = {"time": "time", "meter": "statistic", "value": "value"}


def is_statistics(text: str) -> bool:
    """Tell by the names of its columns."""
    return text[:200].lstrip('" \r\n').startswith(_ID)


def read_statistics(text: str, series: TimeSeries) -> Table:
    """Read the means and energies of periods, with numbers as they are written in `series`. Raises `ValueError`."""
    names = text.lstrip().splitlines()[0]
    delimiter = series.delimiter if series.delimiter is not None else max(DELIMITERS, key=names.count)
    lines = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter, strict=True)
    header = [cell.strip() for cell in next(lines)]
    start = next((name for name in _STARTS if name in header), None)
    columns = [name for name in ("mean", "delta", "sum") if name in header]
    if start is None or not columns:
        raise ValueError(f"statistics of Home Assistant have start, and mean, delta or sum; this has {names[:120]!r}")
    by_id: dict[str, list[_Period]] = {}
    for number, cells in enumerate(lines, 2):
        if len(cells) == len(header):
            period = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            by_id.setdefault(period[_ID], []).append((number, period))
    stamps = [period[start] for periods in by_id.values() for _, period in periods]
    forms = [series.format] if series.format else list_formats(stamps, FORMATS)
    if len(forms) != 1 or not stamps:
        raise ValueError("the times of its column start can be read in no or several ways; give format")
    rows: list[Row] = []
    for name, periods in by_id.items():
        column = next((column for column in columns if any(period[column] for _, period in periods)), None)
        there = [(number, period[start], period[column]) for number, period in periods] if column else []
        there = list(_list_energies(there, forms[0], series)) if column == "sum" else there
        rows += [(number, [name, at, text]) for number, at, text in there]
    if not rows:
        raise ValueError("its statistics have one sum each, and an energy is between two; export more hours")
    units = {name: periods[0][1].get("unit", "") for name, periods in by_id.items()}
    return Table(_HEADER, 1, units, rows, ["it has statistics of Home Assistant"], {**_KEYS, "format": forms[0]})


def _list_energies(
    sums: Sequence[tuple[int, str, str]], form: str, series: TimeSeries
) -> Iterator[tuple[int, str, str]]:
    """List the energies of periods that follow each other, from row, beginning and sum of each."""
    ordered = sorted((read_time(at, form), row, at, text) for row, at, text in sums if text)
    steps = Counter(after[0] - before[0] for before, after in pairwise(ordered))
    for before, after in pairwise(ordered):
        if after[0] - before[0] == steps.most_common(1)[0][0]:
            totals = [read_number(each[3], series.decimal, series.thousands or "") for each in (before, after)]
            yield after[1], after[2], repr(totals[1] - totals[0]).replace(".", series.decimal)
