"""Find the keys of `data` by which a text file can be read, as far as it can be read in one way only.

What can be read in more ways, or is not in the file, is a question: the key that answers it, and why it is asked.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

from stackelgrid.scenarios.measured.declarations import TimeSeries, complete
from stackelgrid.scenarios.measured.numbers import count_up, read_number
from stackelgrid.scenarios.measured.table import DELIMITERS, Table, is_units_row, strip_end
from stackelgrid.scenarios.measured.times import (
    DATES,
    FORMATS,
    find_ends,
    has_day_per_row,
    is_twice,
    list_formats,
    read_time,
    read_times_of_day,
)
from stackelgrid.scenarios.measured.units import find_unit

_MOST_LINES_ABOVE = 200
_FEWEST_ROWS = 3
_SAMPLE = 5_000
_MOST_NAMES = 6
_MINUTE = timedelta(minutes=1)
_FROM_CHANGE_TO_CHANGE = timedelta(days=300)
"""Less than the time from one autumn's change of clocks to the next."""
_MOST_TIMES_MISSED = 2
"""The number of times as many rows that a table of meters would have at most, had each meter one at every time."""
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2})?( ?[AaPp][Mm])?")
_DECIMALS = re.compile(r"[.,]\d")
_PLAIN_NUMBER = re.compile(r"\d+(\.\d*)?")
_NUMBER = re.compile(r"[+-]?\d[\d.,' \u00a0\u202f]*")
_COUNTS_FOR_COMMA = re.compile(r"[+-]?(0|\d{4,}|\d{1,3}([. ']\d{3})+),\d+|[+-]?\d+,(\d{1,2}|\d{4,})")
_COUNTS_FOR_POINT = re.compile(r"[+-]?(0|\d{4,}|\d{1,3}([, ']\d{3})+)\.\d+|[+-]?\d+\.(\d{1,2}|\d{4,})")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([.,' \u00a0\u202f])\d{3}(?!\d)")
_IN_UTC = "PVGIS"
"""The words above the table in a file whose times are in UTC without saying so."""
_ZONES = (("(utc)", "UTC"), ("(cet/cest)", "Europe/Brussels"), ("(cet)", "Europe/Brussels"))
"""The words that market exports write behind the names of their times; the CET of all of them has summer time."""


@dataclass
class Recognition:
    """The `keys` that were found, and `questions` by the key that answers each."""

    keys: dict[str, Any] = field(default_factory=dict)
    questions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    """A line that may name the columns, the first rows below it, and the places of the columns with their times."""

    line: int
    names: list[str]
    rows: list[list[str]]
    places: list[int]

    @property
    def stamps(self) -> list[str]:
        """The times as they are written."""
        return [" ".join(cells[place].strip() for place in self.places) for cells in self.rows]


# --- times ---


def recognise_times(text: str, series: TimeSeries) -> Recognition:
    """Find the columns with the times of rows, how they are written, and the layout. Raises `ValueError`."""
    delimiters = DELIMITERS if series.delimiter is None else (series.delimiter,)
    headers = (_find_header(text, delimiter, series.skip) for delimiter in delimiters)
    header = max(filter(None, headers), key=lambda header: len(header.names), default=None)
    if header is None:
        raise ValueError(_describe_text(text, delimiters))
    found = Recognition()
    names = [header.names[place] for place in header.places]
    found.keys["time"] = names[0] if len(names) == 1 else names
    if len(names) == 1 and _is_wide(header):
        found.keys["layout"] = "wide"
    formats, stamps = DATES if "layout" in found.keys else FORMATS, header.stamps
    # A row that breaks the format of the first ones is reported when it is read.
    forms = list_formats(stamps, formats) or list_formats(stamps[:_FEWEST_ROWS], formats) or ["iso"]
    if len(forms) > 1 and series.format is None:
        written = " or ".join(repr(form) for form in forms)
        found.questions["format"] = f"{stamps[0]!r} may be written as {written}"
    if forms[0] != "iso":
        found.keys["format"] = forms[0]
    zone = next((zone for mark, zone in _ZONES for name in names if mark in name.lower()), None)
    if any(_IN_UTC in line for line in text[:2000].splitlines()[: header.line]):
        zone = "UTC"
    if zone is not None:
        found.keys["timezone"] = zone
    return found


def _describe_text(text: str, delimiters: Sequence[str]) -> str:
    """Say what a text looks like that has no names of columns above rows with times, and what would read it."""
    lines = [line for line in text.splitlines()[:_SAMPLE] if line.strip()]
    if not lines:
        return "it holds no data; it takes a line with the names of its columns and a row per interval"
    delimiter = max(delimiters, key=lambda delimiter: sum(delimiter in line for line in lines))
    cells = [cell.strip() for cell in lines[0].split(delimiter)]
    if any(list_formats([cell], FORMATS) for cell in cells):
        names = delimiter.join(["time", *(f"c{number}" for number in range(2, len(cells) + 1))][:6])
        return (
            f"its first line has a time, none has the names of its columns; write one above it, as {names!r}, "
            "and give time: time"
        )
    widths = Counter(line.count(delimiter) + 1 for line in lines)
    width, count = widths.most_common(1)[0]
    looks = f"{count} of its {len(lines)} lines have {width} cells" if width > 1 else "its lines have one cell each"
    return (
        f"no line names columns one of which has times below it: separated by {delimiter!r}, {looks}, the first is "
        f"{lines[0][:120]!r}. If there is such a line, give time, the name of that column, and format, as in "
        "'%d.%m.%Y %H:%M'"
    )


def _find_header(text: str, delimiter: str, skip: int) -> _Header | None:
    """Find the first line with names of columns, below which there are times in rows of as many cells."""
    stream = io.StringIO(text, newline="")
    for _ in range(skip):
        stream.readline()
    lines: list[list[str]] = []
    with suppress(csv.Error):  # what was read before it may do; with another separator its quotes may be in place
        lines.extend(islice(csv.reader(stream, delimiter=delimiter, strict=True), _SAMPLE))
    for number, cells in enumerate(lines[:_MOST_LINES_ABOVE]):
        names = strip_end([cell.strip() for cell in cells])
        rows = []
        for row in lines[number + 1 :]:
            if len(row) < len(names) or any(cell.strip() for cell in row[len(names) :]):
                break
            rows.append(row)
        rows = rows[1:] if rows and is_units_row(rows[0]) else rows
        enough = len(rows) >= _FEWEST_ROWS or (rows and number + 1 + len(rows) >= len(lines) - 1)
        if len(names) < 2 or not enough or list_formats(names[:1], FORMATS):
            continue
        places = _find_times(names, rows)
        if places:
            return _Header(skip + number, names, rows, places)
    return None


def _find_times(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Find the first column with times, or with days and a later one with times of day; with days only, that."""
    days: list[int] = []
    for place in range(len(names)):
        sample = [row[place].strip() for row in rows[:_FEWEST_ROWS]]
        if days and all(map(_TIME_OF_DAY.fullmatch, sample)):
            return [days[0], place]
        if list_formats(sample, FORMATS):
            return [place]
        if list_formats(sample, DATES):
            days.append(place)
    return days[:1]


def find_clock_column(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str | None:
    """Find the first column with times of day."""
    columns = (place for place in range(len(names)) if all(_TIME_OF_DAY.fullmatch(row[place].strip()) for row in rows))
    return next((names[place] for place in columns), None)


def _is_wide(header: _Header) -> bool:
    """Say whether a table has a day per row."""
    try:
        return has_day_per_row(header.names) or len(read_times_of_day(header.names, False)) >= 24
    except ValueError:
        return False


# --- numbers ---


def recognise_numbers(table: Table, series: TimeSeries) -> Recognition:
    """Find how the numbers of a table are written, their unit, and what tells its meters apart."""
    found = Recognition()
    rows = list(islice(_list_chosen(table, series), _SAMPLE))
    times = [table.header.index(name) for name in series.time_columns]
    columns = list_number_columns(table, series)
    _find_decimal([cells[place].strip() for cells in rows for place in columns], found)
    units = {name: unit for name in (table.header[place] for place in columns) if (unit := table.find_unit(name))}
    if len(set(units.values())) == 1:
        found.keys["unit"] = next(iter(units.values()))
    elif units:
        found.questions["unit"] = f"columns are in {', '.join(f'{unit} ({name})' for name, unit in units.items())}"
    else:
        found.questions["unit"] = f"it is not in the file{_list_names(table, columns, series)}; give it, as in kWh"
    stamps = [" ".join(cells[place].strip() for place in times) for cells in rows]
    if "meter" not in series.model_fields_set and _has_several_meters(stamps, complete(series, found.keys)):
        places = [place for place in range(len(table.header)) if place not in times]
        _find_meter(table, places, columns, rows, stamps, found)
        if "meter" in found.keys and series.layout == "long":
            named = [name for name in units if name != found.keys["meter"]]
            values = named or [table.header[place] for place in columns if table.header[place] != found.keys["meter"]]
            found.keys["value"] = values[0]
            if len(values) > 1:
                found.questions["value"] = f"the numbers of each meter may be in {' or '.join(map(repr, values[:10]))}"
    if series.layout == "long" and columns:
        column = table.header.index(found.keys["value"]) if found.keys.get("value") else columns[0]
        _find_reading(table, complete(series, found.keys), column, stamps, found)
    if series.layout == "wide" and (ends := find_ends([table.header[place] for place in columns])):
        found.questions["stamp"] = f"its columns are from {ends}; give end if intervals end then"
    return found


def _list_names(table: Table, columns: Sequence[int], series: TimeSeries) -> str:
    """List columns of a long table, for a message."""
    names = [repr(table.header[place]) for place in columns] if series.layout == "long" else []
    return f" for {', '.join(names[:_MOST_NAMES])}{', …' if len(names) > _MOST_NAMES else ''}" if names else ""


def _list_chosen(table: Table, series: TimeSeries) -> Iterator[Sequence[str]]:
    """List the rows that `where` chooses."""
    places = {table.header.index(name): texts for name, texts in series.where.items() if name in table.header}
    return (cells for _, cells in table.rows if all(cells[place].strip() in texts for place, texts in places.items()))


def hold_times(cells: Sequence[str]) -> bool:
    """Say whether the first of some cells hold times, dates or times of day, as no number is written."""
    sample = cells[:_FEWEST_ROWS]
    if not sample or all(map(_TIME_OF_DAY.fullmatch, sample)):
        return bool(sample)
    of_numbers = all(_PLAIN_NUMBER.fullmatch(cell) for cell in sample)  # as 20250614, which may be a total
    return not of_numbers and bool(list_formats(sample, FORMATS) or list_formats(sample, DATES))


def hold_no_number(cells: Sequence[str]) -> bool:
    """Say whether there are cells and none of them is a number, however written."""
    return bool(cells) and not any(_NUMBER.fullmatch(cell) for cell in cells)


def list_number_columns(table: Table, series: TimeSeries) -> list[int]:
    """List the places of the columns with numbers, of a wide table those of times of day."""
    if series.layout == "wide":
        return list(read_times_of_day(table.header, series.stamp == "end"))
    times = {*series.time_columns, *series.where, series.meter}
    columns = []
    for place, name in enumerate(table.header):
        cells = [cells[place].strip() for _, cells in table.rows[:_SAMPLE]]
        there = [cell for cell in cells if cell]
        numbers = sum(_NUMBER.fullmatch(cell) is not None for cell in there)
        if name not in times and there and numbers >= len(there) / 2 and not hold_times(there):
            columns.append(place)
    return columns


def _find_decimal(cells: Sequence[str], found: Recognition) -> None:
    """Tell decimal and thousands separators, where there is one way to read all numbers."""
    comma = next((cell for cell in cells if _COUNTS_FOR_COMMA.fullmatch(cell)), None)
    point = next((cell for cell in cells if _COUNTS_FOR_POINT.fullmatch(cell)), None)
    groups = [match for cell in cells if (match := _THOUSANDS.match(cell))]
    if comma is not None and point is None:
        found.keys["decimal"] = ","
    elif comma is None and point is None and any(match[1] in ".," for match in groups):
        found.questions["decimal"] = (
            f"{groups[0].string!r} may have three decimals, or thousands; give decimal, or thousands"
        )
        return
    separators = {match[1] for match in groups if match[1] != found.keys.get("decimal", ".")}
    if len(separators) == 1:
        found.keys["thousands"] = separators.pop().replace("\u00a0", " ").replace("\u202f", " ")


def _find_reading(table: Table, series: TimeSeries, column: int, stamps: Sequence[str], found: Recognition) -> None:
    """Tell totals and samples by the times and numbers of one meter: by uneven steps, and energies that count up."""
    rows = list(islice(_list_chosen(table, series), _SAMPLE))
    if series.meter is not None:
        place = table.header.index(series.meter)
        chosen = [number for number, cells in enumerate(rows) if cells[place] == rows[0][place]]
        rows, stamps = [rows[number] for number in chosen], [stamps[number] for number in chosen]
    try:
        times = [read_time(stamp, series.format) for stamp in stamps]
        steps = [abs(after - before) for before, after in pairwise(times)]
    except (ValueError, TypeError):
        return  # what cannot be read is reported with its row
    numbers = []
    for cells in rows:
        with suppress(ValueError):
            numbers.append(read_number(cells[column].strip(), series.decimal, series.thousands or ""))
    if len(times) < _FEWEST_ROWS:
        return
    step = max(round(sorted(steps)[len(steps) // 2] / _MINUTE), 1) * _MINUTE
    uneven = sum(abs(each - step) <= step / 20 for each in steps) < len(steps) / 2 or timedelta(hours=1) % step
    unit = None if series.unit is None else find_unit(series.unit).quantity
    in_order = numbers if times[0] < times[-1] else numbers[::-1]
    if unit == "energy" and count_up(in_order):
        if in_order == sorted(in_order):
            found.keys["reading"] = "total"
        else:
            found.questions["reading"] = (
                "its numbers rise and fall once; give total if a meter counts them up and was set back, or interval if "
                "they are the energy of each interval"
            )
    elif unit != "energy" and uneven:
        found.keys["reading"] = "sample"
    elif series.stamp == "start" and not uneven:
        ends = find_ends(stamps if times[0] < times[-1] else stamps[::-1])
        if ends is not None:
            found.questions["stamp"] = f"its rows are from {ends}; give end if intervals end then"


def _has_several_meters(stamps: Sequence[str], series: TimeSeries) -> bool:
    """Say whether rows have the same time, other than those of an hour that is there twice when clocks change."""
    count = Counter(stamps)
    repeated = [stamp for stamp, rows in count.items() if rows > 1]
    if series.layout == "wide" or not repeated or len(repeated) == len(count):
        return bool(repeated)
    try:
        times = [read_time(stamp, series.format) for stamp in repeated]
    except ValueError:
        return True
    if any(count[stamp] > 2 for stamp in repeated) or any(at.tzinfo is not None for at in times):
        return True
    if series.timezone is not None:
        zone = ZoneInfo(series.timezone)
        return not all(is_twice(at, zone) for at in times)
    hours = sorted({at.replace(minute=0, second=0, microsecond=0) for at in times})
    return any(after - before < _FROM_CHANGE_TO_CHANGE for before, after in pairwise(hours))


def _find_meter(
    table: Table,
    places: Sequence[int],
    numbers: Sequence[int],
    rows: Sequence[Sequence[str]],
    stamps: Sequence[str],
    found: Recognition,
) -> None:
    """Find the column by which rows of the same time differ, of those with few texts; of `numbers`, few at each time.

    Another column must have the numbers of the meters.
    """
    texts = {place: list(dict.fromkeys(cells[place].strip() for cells in rows)) for place in places}
    few = {place: there for place, there in texts.items() if 1 < len(there) <= len(rows) / 2}
    for place, there in few.items():
        decimals = place in numbers and any(_DECIMALS.search(text) for text in there)
        scattered = place in numbers and len(there) * len(set(stamps)) > _MOST_TIMES_MISSED * len(rows)
        if decimals or scattered or not set(numbers) - {place}:
            continue
        if len({(stamp, cells[place]) for stamp, cells in zip(stamps, rows, strict=True)}) == len(rows):
            found.keys["meter"] = table.header[place]
            return
    choices = [
        f"{table.header[place]} ({', '.join(there[:4])}{', …' if len(there) > 4 else ''})"
        for place, there in few.items()
        if len(there) <= 100
    ]
    found.questions["where"] = (
        f"several rows have the same time; choose those of one meter by where: {{COLUMN: TEXT}}, or give meter, the "
        f"column that tells meters apart{'; there are ' if choices else ''}{'; '.join(choices[:6])}"
    )
