"""Models of a scenario's data: its files, a column in place of a number per slot, a home for each column."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from stackelgrid.calendar import Calendar, Timezone
from stackelgrid.model import StrictModel, explain
from stackelgrid.scenarios.measured.units import find_unit

OWN = "own"
"""In `homes.home`, the column from which the home is made."""
VALUE = "value"
"""The column of a wide table's numbers."""
Day = TypeVar("Day", bound=date)
_INTERVAL = re.compile(r"(\d+) ?(min|h)")


def _check_header(value: Any) -> Any:
    """Refuse a name in a CSV's header that YAML reads as a number, like 0123."""
    if not isinstance(value, str):
        raise ValueError("a column's name is text; put it in quotes, just as it is written in the file")
    return value


def _check_date(value: Any) -> Any:
    """Refuse a number, which pydantic would take for seconds."""
    if not isinstance(value, str | date):
        raise ValueError("write a day as 2016-06-14, a time as 2016-06-14 00:00")
    return value


def check_year(day: Day) -> Day:
    """Refuse years in which nothing was measured: at the ends of the calendar hours cannot be counted."""
    if not 1900 <= day.year <= 2200:
        raise ValueError(f"{day.isoformat()} is in the year {day.year}; correct it")
    return day


def _check_format(text: str) -> str:
    """Refuse a format that strptime cannot read back."""
    if text in ("epoch", "iso"):
        return text
    moment = datetime(2016, 6, 14, 13, 30, tzinfo=UTC)
    try:
        datetime.strptime(moment.strftime(text), text)
    except (ValueError, re.error) as error:
        raise ValueError(f"no times are written so ({error}); write it as in '%d.%m.%Y %H:%M'") from None
    return text


def _check_unit(name: str) -> str:
    return find_unit(name).name


def _check_interval(text: str) -> str:
    _read_minutes(text)
    return text


def _read_minutes(text: str) -> int:
    match = _INTERVAL.fullmatch(text)
    minutes = int(match[1]) * (60 if match[2] == "h" else 1) if match else 0
    if minutes == 0 or 60 % minutes:
        raise ValueError(f"{text!r} is no part of an hour; write 1h, 30min, 15min or what else divides an hour")
    return minutes


Header = Annotated[str, BeforeValidator(_check_header)]


def _list_texts(value: Any) -> Any:
    """Take one text for a list of one."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Header], BeforeValidator(_list_texts), Field(min_length=1)]


class Fill(StrictModel):
    """How many `slots` in a row may be missing."""

    slots: Annotated[float, Field(ge=0, le=24)] = 0


class TimeSeries(StrictModel):
    """A table in a text `file`: its column `time`, the `timezone` of that, and the `unit` of its numbers.

    What is left out is found in the file where it can be read in one way only. An undated scenario's slots begin on
    `day` at 00:00 local time, or at `first`; a dated one's by its calendar, or at these, if the file is of another
    time. `time` may be a column with the date and one with the time of day. Rows are stamped with the `start` of their
    interval or its `end`, with or without UTC offset, as ISO 8601 (`iso`), as seconds since 1970 (`epoch`) or in
    strptime's `format`. `interval` is the time from one row to the next; left out, it is the commonest.

    The `reading` of a meter is the energy of an `interval`, the `total` that it counted up to the row's time, or a
    `sample`: a value that holds until the next row, whenever that comes. While it is left out, an energy that never
    falls is refused. Up to `fill.slots` slots in a row that are missing are filled between their neighbours.

    The table begins with the line that names its columns, at the earliest after `skip` lines. A `long` table has a row
    per interval, a `wide` one a row per day and a column per interval, which together are the column `value`. `where`
    selects the rows that have one of these texts in a column. Where meters stand below each other, the column `meter`
    tells them apart: each becomes a column, with the numbers of the column `value`. Prices in another money than the
    scenario's need `exchange`: how much of the scenario's money one of the file's is worth.
    """

    file: Annotated[str, Field(min_length=1, validation_alias=AliasChoices("file", "csv"))]
    skip: Annotated[int, Field(ge=0, le=10_000)] = 0
    time: Header | Annotated[list[Header], Field(min_length=2, max_length=2)] | None = None
    timezone: Annotated[Timezone, Field(examples=["Europe/Berlin", "UTC"])] | None = None
    unit: Annotated[str, AfterValidator(_check_unit), Field(examples=["kW", "kWh", "Wh", "pu", "EUR/MWh"])] | None = (
        None
    )
    interval: Annotated[str, AfterValidator(_check_interval), Field(examples=["15min", "30min", "1h"])] | None = None
    reading: Literal["interval", "total", "sample"] | None = None
    fill: Fill = Fill()
    day: Annotated[date, BeforeValidator(_check_date), AfterValidator(check_year)] | None = None
    first: Annotated[datetime, BeforeValidator(_check_date), AfterValidator(check_year)] | None = None
    stamp: Literal["start", "end"] = "start"
    format: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_check_format)] | None = None
    layout: Literal["long", "wide"] = "long"
    where: dict[Header, Texts] = {}
    meter: Header | None = None
    value: Header | None = None
    delimiter: Literal[",", ";", "\t", "|"] | None = None
    decimal: Literal[".", ","] = "."
    thousands: Literal[".", ",", "'", " ", "_"] | None = None
    exchange: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def counts(self) -> bool:
        """True when the rows are totals: one more than there are intervals, whose energies are their differences."""
        return self.reading == "total"

    @property
    def step(self) -> timedelta | None:
        """The length of an interval, None where it is not given."""
        return None if self.interval is None else timedelta(minutes=_read_minutes(self.interval))

    @property
    def time_columns(self) -> list[str]:
        """The columns of which a row's time is made."""
        return [self.time] if isinstance(self.time, str) else self.time or []

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.day is not None and self.first is not None:
            raise ValueError("day and first both say where the scenario's slots begin; leave one out")
        unit = None if self.unit is None else find_unit(self.unit)
        if unit is not None and self.reading in ("interval", "total") and unit.quantity != "energy":
            raise ValueError(f"reading: {self.reading} is for energies, the unit is {self.unit}; leave it out")
        if unit is not None and self.reading == "sample" and unit.quantity == "energy":
            raise ValueError(f"a sample holds until the next one, an energy in {self.unit} does not; leave reading out")
        if self.reading in ("total", "sample") and self.stamp == "end":
            raise ValueError(f"stamp is for intervals, a {self.reading} is read at the row's time; leave it out")
        if self.reading == "sample" and self.interval is not None:
            raise ValueError("samples come whenever a value changes; leave interval out")
        if self.layout == "wide" and (self.reading in ("total", "sample") or isinstance(self.time, list)):
            raise ValueError(
                "a wide table has intervals, and a column with their day; leave reading out, and name that"
            )
        if self.thousands == self.decimal:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}; correct one of them")
        if self.value is not None and self.meter is None:
            raise ValueError("value is the column with the numbers of each meter; give meter, or leave it out")
        if self.exchange is not None and unit is not None and not unit.of_price:
            raise ValueError(f"exchange is for prices, the unit is {self.unit}; leave it out")
        return self


def complete(series: TimeSeries, found: Mapping[str, Any]) -> TimeSeries:
    """Complete the keys that are given by those that were found in the file."""
    given = series.model_dump(exclude_unset=True)
    return TimeSeries.model_validate({**found, **given})


def explain_keys(source: str | Callable[[str], str], error: ValidationError) -> str:
    """Explain what is wrong with the keys of some data; `source` is their name, or finds for a key where it stands.

    Of keys that contradict each other pydantic names none.
    """
    return explain(source, error, model=TimeSeries).replace(": (whole file): ", ": ")


class Reference(StrictModel):
    """A column in place of a number per slot: `column` of the data `from`, times `scale`.

    The scale `1/peak` makes the largest number of the horizon 1.
    """

    source: Annotated[str, Field(alias="from")]
    column: Header
    scale: Annotated[float, Field(allow_inf_nan=False)] | Literal["1/peak"] = 1.0


class EachColumn(StrictModel):
    """In place of a list of homes: one like `home` for each column of some data but those in `except`.

    Columns with times are no homes. A home's id is its column's name, without a unit in brackets, ä as ae, other
    letters without accents, every run of characters that an id cannot have replaced by a hyphen, and `home-` before one
    that other nodes have, as `a1`.
    """

    each_column_of: str
    excluded: Annotated[list[Header], Field(alias="except")] = []
    home: dict[str, Any]


class DataSection(BaseModel):
    """The keys of a scenario that its data depend on."""

    slots: Annotated[int, Field(ge=1, le=100_000)]
    calendar: Calendar | None = None
    money: str
    data: dict[str, TimeSeries] = {}
