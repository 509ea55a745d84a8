"""Describe a data file: what was found in it, the totals of its columns, and the keys of `data` that read it.

What the file leaves open is not guessed: it is listed with the key that says it.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from stackelgrid.scenarios.measured.clock import HOUR, Horizon
from stackelgrid.scenarios.measured.data_file import DataFile, Readings, read_export, read_standard
from stackelgrid.scenarios.measured.declarations import TimeSeries, complete, explain_keys
from stackelgrid.scenarios.measured.recognition import (
    Recognition,
    list_number_columns,
    recognise_numbers,
    recognise_times,
)
from stackelgrid.scenarios.measured.table import Table, find_table
from stackelgrid.scenarios.measured.units import Unit, find_unit
from stackelgrid.scenarios.yaml_file import spell
from stackelgrid.wire.names import name_from

_ASSUMED = {"timezone": "UTC", "unit": "pu", "stamp": "start"}
"""The description of a file as long as it is not known."""
_MOST_COLUMNS = 40
_MOST_GAPS = 3
_GUESSES = {
    "total": " (a guess: its numbers never fall; give reading: interval if they are energies)",
    "sample": " (a guess: its rows are unevenly apart; give interval if they are not)",
}
"""The question about a reading that is not given."""
_BARS = "▁▂▃▄▅▆▇█"
_NO_BAR = "·"
_MINUTE = timedelta(minutes=1)


def describe_file(path: Path, keys: Mapping[str, Any], options: Mapping[str, str] = {}) -> Iterator[str]:
    """Describe a file, read by those `keys` of data that are given, line by line.

    `options` has the words of the command line that gave each. Raises `ValueError` for keys that are wrong, and for a
    file that is no table or cannot be read by them.
    """
    name = name_from(path.stem, 64).strip("-") or "meter"
    try:
        yield from _describe(path, name, TimeSeries.model_validate({"file": path.name or str(path), **keys}))
    except ValidationError as error:
        raise ValueError(explain_keys(lambda key: _find_options(key, options) or f"data.{name}", error)) from None
    except csv.Error as error:
        raise ValueError(f"{path} is not CSV ({error}); export it again") from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _find_options(key: str, options: Mapping[str, str]) -> str:
    """Find the option that gave a key; all of them where keys contradict each other."""
    return options.get(key.partition(".")[0]) or " ".join(options.values())


def _describe(path: Path, name: str, given: TimeSeries) -> Iterator[str]:
    series, table, unknown = _recognise(read_export(path), given, f"data.{name}")
    yield f"{path}: {len(table.rows)} row{'s' * (len(table.rows) != 1)}; columns {table.names}"
    file = DataFile(name, complete(series, _ASSUMED), path.parent, Horizon(1), "", _ignore)
    columns = _list_columns(file, table)
    if not columns:
        raise ValueError(f"none of its columns {table.names} has numbers; export it again, or name another file")
    try:
        first = file.find_readings(columns[0])
    except ValueError as error:
        raise ValueError(unknown.get("where", str(error))) from None
    yield from (f"  {finding}" for finding in dict.fromkeys(file.findings))
    yield from _describe_times(series, given, first, columns[0])
    yield ""
    yield from _align(
        [_HEADINGS, *(_describe_column(file, table, given, column) for column in columns[:_MOST_COLUMNS])]
    )
    if len(columns) > _MOST_COLUMNS:
        yield f"and {len(columns) - _MOST_COLUMNS} more"
    if series.timezone is None:
        unknown["timezone"] = (
            "its times have UTC offsets; give the zone of its days, as in Europe/Berlin (above, UTC is taken)"
            if first.clock.with_offset
            else "its times are local, of which zone it does not tell; give it, as in Europe/Berlin"
        )
    yield ""
    yield "To read it, in a scenario in the same folder:"
    yield from (f"  {line}" for line in spell({"data": {name: _list_keys(series)}}).splitlines())
    if unknown:
        yield ""
        yield "What the file does not tell (try a key with --set KEY=VALUE):"
        yield from _align([(key, why) for key, why in unknown.items()])


def _ignore(finding: str) -> None:
    """Show nothing."""


def _recognise(text: str, given: TimeSeries, name: str) -> tuple[TimeSeries, Table, dict[str, str]]:
    """Find the keys that read a text, its table, and what stays unknown by the key that says it."""
    table = read_standard(text, given)
    if table is not None:
        return complete(given, table.keys), table, {}
    times = recognise_times(text, given) if given.time is None else Recognition()
    series = complete(given, times.keys)
    table = find_table(text, series, name)
    numbers = recognise_numbers(table, series)
    unknown = {**times.questions, **numbers.questions}
    return (
        complete(series, numbers.keys),
        table,
        {key: why for key, why in unknown.items() if key not in given.model_fields_set},
    )


def _list_keys(series: TimeSeries) -> dict[str, Any]:
    """List the keys of a series as a scenario has them."""
    return series.model_dump(exclude_unset=True, mode="json")


def _list_columns(file: DataFile, table: Table) -> list[str]:
    """List what can be referred to as a column and has numbers."""
    if file.series.meter is not None or file.series.layout == "wide":
        return file.columns([])
    return [table.header[place] for place in list_number_columns(table, file.series)]


def _describe_times(series: TimeSeries, given: TimeSeries, readings: Readings, column: str) -> Iterator[str]:
    """Describe from when to when a column's rows are, how far apart, and what is missing between them."""
    times, clock = [reading.at for reading in readings.rows], readings.clock

    def spell_time(at: datetime) -> str:
        local = at.astimezone(ZoneInfo(series.timezone or "UTC"))
        return (local if clock.with_offset else local.replace(tzinfo=None)).isoformat(" ", "minutes")

    lines = [("zone", series.timezone or ("UTC" if clock.with_offset else "not known"))]
    if series.reading in ("sample", "total"):
        guess = "" if given.reading else _GUESSES[series.reading]
        lines += [("rows", f"a {series.reading} each, at any time{guess}"), ("from", spell_time(times[0]))]
        lines += [("to", spell_time(times[-1]))]
    else:
        missing = [
            (before + clock.step, round((after - before) / clock.step) - 1)
            for before, after in itertools.pairwise(times)
            if after - before >= 2 * clock.step
        ]
        shown = ", ".join(f"{count} missing from {spell_time(at)}" for at, count in missing[:_MOST_GAPS])
        more = f" and {len(missing) - _MOST_GAPS} more" if len(missing) > _MOST_GAPS else ""
        of_meter = f" ({column})" if series.meter is not None else ""
        lines += [
            ("interval", f"{clock.step // _MINUTE}min, stamped at its {series.stamp}"),
            ("from", spell_time(times[0])),
            ("to", spell_time(times[-1] + clock.step)),
            ("gaps", f"{shown}{more}{of_meter}" if missing else f"none{of_meter}"),
        ]
    yield from (f"  {line}" for line in _align(lines))


_HEADINGS = ("column", "numbers", "unit", "total", "least", "most", "average day, 0 to 24 h")


def _describe_column(file: DataFile, table: Table, given: TimeSeries, column: str) -> tuple[str, ...]:
    """Describe the numbers of a column, and draw its average day."""
    series, readings = file.series, file.find_readings(column)
    numbers, absent = file.read_all(column)
    count = f"{len(numbers) - absent}" + (f" of {len(numbers)}" if absent else "")
    if absent == len(numbers):
        return column, count, "", "", "", "", ""
    written = given.unit or table.find_unit(column) or table.find_unit(file.find_source(column))
    unit = None if written is None else find_unit(written)
    power, hours = _find_power(numbers, readings, series, unit)
    total = f"mean {np.nanmean(numbers):.5g}"
    if unit is not None and unit.quantity in ("energy", "power"):
        total = f"{np.nansum(power * hours):.5g} kWh"
    zone = ZoneInfo(series.timezone or "UTC")
    times = [reading.at.astimezone(zone) for reading in readings.rows]
    return (
        *(column, count, written or "?", total, f"{np.nanmin(numbers):.5g}", f"{np.nanmax(numbers):.5g}"),
        _draw_day(times, power, hours),
    )


def _find_power(
    numbers: NDArray[np.float64], readings: Readings, series: TimeSeries, unit: Unit | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the mean power, (N,) in kW, from each row on, and for how many hours; of other units the numbers."""
    hours = np.full(len(numbers), readings.clock.step / HOUR)
    if series.reading in ("sample", "total"):
        times = np.array([reading.at.timestamp() for reading in readings.rows])
        hours = np.append(np.diff(times), 0.0) / 3600
    size = 1.0 if unit is None or unit.of_price else float(unit.size)
    if unit is None or unit.quantity != "energy":
        return numbers * size, hours
    energy = np.append(np.diff(numbers), 0.0) if series.counts else numbers
    return np.divide(energy * size, hours, out=np.full(len(numbers), np.nan), where=hours > 0), hours


def _draw_day(times: Sequence[datetime], power: NDArray[np.float64], hours: NDArray[np.float64]) -> str:
    """Draw the mean power of each hour of the day as bars between zero, or the least, and the most."""
    hour = np.array([at.hour for at in times])
    there = np.isfinite(power) & (hours > 0)
    weights = np.bincount(hour[there], hours[there], 24)
    energy = np.bincount(hour[there], (power * hours)[there], 24)
    means = np.divide(energy, weights, out=np.full(24, np.nan), where=weights > 0)
    if np.isnan(means).all():
        return ""
    low, high = min(0.0, np.nanmin(means)), np.nanmax(means)
    levels = (means - low) / ((high - low) or 1.0) * (len(_BARS) - 1)
    return "".join(_NO_BAR if np.isnan(level) else _BARS[round(level)] for level in levels)


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
