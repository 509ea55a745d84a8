"""The user's own measurements in a scenario: columns of CSV files wherever it takes a number per slot.

    data:
      meters: {csv: meters.csv, time: timestamp, timezone: Europe/Berlin, unit: kWh, interval: 15min, day: 2016-06-14}
    homes:
      - id: bakery
        inelastic: [{load_kw: {from: meters, column: h07}}]

`spell_out` puts the numbers in place of the references before a game's model checks the scenario, so that every game
can use them and a run's scenario.yaml needs no CSV. Nothing is guessed or filled in: unit and time zone are required,
and what is missing, twice, out of order or not a number is refused with file, row, column, value and mend. What the
model refuses afterwards is told with file, row and column by `with_origins`.

A slot is an hour. Powers, prices and numbers per unit are averaged over it, energies summed. The scenario gets kW (the
same number as kWh per slot) and money per kWh; see `target_unit`.
"""

from __future__ import annotations

import csv
import itertools
import re
import zoneinfo
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from stackelgrid.node.config import explain
from stackelgrid.wire.arrays import LARGEST

OWN = "own"
"""In `homes.home`, the column from which the home is made."""
_HOUR = timedelta(hours=1)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_INTERVAL = re.compile(r"(\d+) ?(min|h)")


# Units


@dataclass(frozen=True)
class Unit:
    """A unit by `name`: `size` is how many kW, kWh per slot or `money` per kWh it is; "pu" has neither."""

    name: str
    quantity: Literal["power", "energy", "price", "pu"]
    size: Fraction
    money: str = ""

    @property
    def of_price(self) -> bool:
        """Whether it is money per energy."""
        return self.quantity == "price"


_UNITS = {
    "W": Unit("W", "power", Fraction(1, 1000)),
    "kW": Unit("kW", "power", Fraction(1)),
    "MW": Unit("MW", "power", Fraction(1000)),
    "Wh": Unit("Wh", "energy", Fraction(1, 1000)),
    "kWh": Unit("kWh", "energy", Fraction(1)),
    "MWh": Unit("MWh", "energy", Fraction(1000)),
    "pu": Unit("pu", "pu", Fraction(1)),
}
_KEY_ENDS_IN = {"_kw": "kW", "_kwh": "kWh", "_mw": "MW", "_mwh": "MWh"}
_OF_PRICES = {"price", "prices", "cost", "costs", "tariff", "tariffs"}
_OF_SHAPES = {"shape", "shapes"}


def unit_named(name: str) -> Unit:
    """The unit of a name. Raises `ValueError` listing those that there are."""
    if name in _UNITS:
        return _UNITS[name]
    money, slash, energy = name.rpartition("/")
    if money.strip() and slash and energy in ("kWh", "MWh"):
        return Unit(name, "price", 1 / _UNITS[energy].size, money.strip())
    raise ValueError(
        f"{name!r} is no unit here; write {', '.join(_UNITS)} (per unit, taken as it is), or a price as in EUR/MWh"
    )


# What a key takes


@dataclass(frozen=True)
class Kind:
    """What a scenario's `key` takes, read from the words between its underscores; the same rule for every game.

    A unit at its end says power or energy; otherwise price, cost or tariff says a price, and shape numbers relative to
    some power. A key that says none of this takes powers and prices alike.
    """

    key: str

    @classmethod
    def at(cls, path: Sequence[str]) -> Kind:
        """That of the innermost key on a path that says one: below leader.tariffs, every class is a price."""
        keys = [cls(step) for step in reversed(path) if not step.isdigit()]
        return next((kind for kind in keys if kind.is_said), keys[0])

    @cached_property
    def _words(self) -> set[str]:
        return set(self.key.split("_"))

    @property
    def unit(self) -> Unit | None:
        """The unit of power or energy at its end, unless something is told per unit."""
        if "per" in self._words:
            return None
        return next((_UNITS[name] for end, name in _KEY_ENDS_IN.items() if self.key.endswith(end)), None)

    @property
    def of_price(self) -> bool:
        """Whether it takes money per energy."""
        return self.unit is None and bool(self._words & _OF_PRICES)

    @property
    def of_shape(self) -> bool:
        """Whether it takes numbers relative to some power."""
        return self.unit is None and not self.of_price and bool(self._words & _OF_SHAPES)

    @property
    def is_said(self) -> bool:
        """Whether it says any kind."""
        return self.unit is not None or self.of_price or self.of_shape

    @property
    def from_zero_up(self) -> bool:
        """Whether a reading below zero is a mistake: of a load, an output, a limit or a shape, unless it is `net`."""
        return (self.unit is not None or self.of_shape) and "net" not in self._words


def target_unit(kind: Kind, given: Unit, money: str) -> Unit:
    """The unit that a scenario's key takes, in which numbers `given` in another are to be written.

    That at the key's end; otherwise kW for powers and energies, `money` per kWh for prices. Numbers per unit stay as
    they are. Raises `ValueError` when the key and the unit contradict.
    """
    if given.quantity == "pu":
        return given
    mend = f"the data in {given.name}; name other data, or correct their unit"
    if kind.unit is not None and given.of_price:
        raise ValueError(f"{kind.key} is in {kind.unit.name}, {mend}")
    if kind.of_shape and given.of_price:
        raise ValueError(f"{kind.key} is relative to a power, {mend}")
    if kind.of_price and not given.of_price:
        raise ValueError(f"{kind.key} takes prices, {mend}")
    if given.of_price:
        return Unit(f"{money}/kWh", "price", Fraction(1), money)
    return kind.unit or _UNITS["kW"]


def per_slot(values: Sequence[float], rows: int, given: Unit, target: Unit) -> NDArray[np.float64]:
    """Numbers per interval, (T rows,) in the unit `given`, as numbers per slot of `rows` intervals, (T,) in `target`.

    Energies are summed, all else is averaged; energy per slot of one hour is mean power (definition).
    """
    by_slot = np.array(values, float).reshape(-1, rows)
    whole = by_slot.sum(axis=1) if given.quantity == "energy" else by_slot.sum(axis=1) / rows
    ratio = given.size / target.size
    return np.asarray(whole * ratio.numerator / ratio.denominator)


# What a scenario says


def _named(value: Any) -> Any:
    """A name in a CSV's header; YAML reads 0123 and `on` as something else."""
    if not isinstance(value, str):
        raise ValueError("a column's name is text; put it in quotes, just as it is written in the file")
    return value


def _dated(value: Any) -> Any:
    """A date or time, not a number of seconds."""
    if not isinstance(value, str | date):
        raise ValueError("write a day as 2016-06-14, a time as 2016-06-14 00:00")
    return value


def _known_unit(name: str) -> str:
    return unit_named(name).name


def _known_interval(text: str) -> str:
    _minutes(text)
    return text


def _minutes(text: str) -> int:
    match = _INTERVAL.fullmatch(text)
    minutes = int(match[1]) * (60 if match[2] == "h" else 1) if match else 0
    if minutes == 0 or 60 % minutes:
        raise ValueError(f"{text!r} is no part of an hour; write 1h, 30min, 15min or what else divides an hour")
    return minutes


def _known_timezone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        if not zoneinfo.available_timezones():
            raise ValueError(f"{name}: this system knows no time zones; install them with pip install tzdata") from None
        raise ValueError(f"{name!r} is no time zone; write it as in Europe/Berlin, or UTC") from None
    return name


Header = Annotated[str, BeforeValidator(_named)]


class Part(BaseModel):
    """Base of what a scenario says about data: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeSeries(Part):
    """A CSV file with a row per interval: whose column `time` is the time, in which `timezone`, and which `unit` has.

    The scenario's slots begin on `day` at 00:00 local time, or at `first`. Rows are stamped with the `start` of their
    interval or its `end`, with or without UTC offset, as ISO 8601 or in strptime's `format`. Prices in another money
    than the scenario's need `exchange`: how much of the scenario's money one of the file's is worth.
    """

    csv: Annotated[str, Field(min_length=1)]
    time: Header
    timezone: Annotated[str, AfterValidator(_known_timezone), Field(examples=["Europe/Berlin", "UTC"])]
    unit: Annotated[str, AfterValidator(_known_unit), Field(examples=["kW", "kWh", "Wh", "pu", "EUR/MWh"])]
    interval: Annotated[str, AfterValidator(_known_interval), Field(examples=["15min", "30min", "1h"])]
    day: Annotated[date, BeforeValidator(_dated)] | None = None
    first: Annotated[datetime, BeforeValidator(_dated)] | None = None
    stamp: Literal["start", "end"] = "start"
    format: str | None = None
    delimiter: Literal[",", ";", "\t", "|"] = ","
    decimal: Literal[".", ","] = "."
    exchange: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def rows_per_slot(self) -> int:
        """How many intervals make a slot."""
        return 60 // _minutes(self.interval)

    @property
    def step(self) -> timedelta:
        """The length of an interval."""
        return timedelta(minutes=_minutes(self.interval))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.day is None) == (self.first is None):
            raise ValueError("give either day or first, where the scenario's slots begin; not both and not neither")
        if self.exchange is not None and not unit_named(self.unit).of_price:
            raise ValueError(f"exchange is for prices, the unit is {self.unit}; leave it out")
        return self


class Reference(Part):
    """A column in place of a number per slot: `column` of the data `from`, times `scale`.

    The scale `1/peak` makes the largest number of the horizon 1.
    """

    source: Annotated[str, Field(alias="from")]
    column: Header
    scale: Annotated[float, Field(allow_inf_nan=False)] | Literal["1/peak"] = 1.0


class EachColumn(Part):
    """In place of a list of homes: one like `home` for each column of some data but those in `except`.

    A home's id is its column's name, every run of characters that an id cannot have replaced by a hyphen.
    """

    each_column_of: str
    excluded: Annotated[list[Header], Field(alias="except")] = []
    home: dict[str, Any]


Said = TypeVar("Said", bound=Part)


class _DataSection(BaseModel):
    slots: Annotated[int, Field(ge=1, le=1000)]
    money: str
    data: dict[str, TimeSeries] = {}


# From references to numbers


class FromColumn(list[float]):
    """A number per slot that knows where it is from: `file`, `column`, and the first and last of each slot's `rows`."""

    def __init__(self, numbers: Iterable[float], file: Path, column: str, rows: Sequence[tuple[int, int]]) -> None:
        super().__init__(numbers)
        self.file = file
        self.column = column
        self.rows = rows

    def origin(self, slot: int) -> str:
        """In words, where the number of `slot` (from 0) is from; hours count from 1, rows as in a spreadsheet."""
        first, last = self.rows[slot]
        rows = f"row {first}" if first == last else f"rows {first}-{last}"
        return f"{self.file}, {rows}, column {self.column}, hour {slot + 1}"


def spell_out(raw: Mapping[str, Any], folder: Path, model: type[BaseModel]) -> dict[str, Any]:
    """The content of a scenario file in `folder` with numbers in place of references, homes listed, `data` gone.

    `model` is the game's, for the defaults of `slots` and `money`. Raises `ValueError` (pydantic's for a key of `data`
    that is wrong) naming key, file, row, column, value and mend.
    """
    defaults = {name: model.model_fields[name].default for name in ("slots", "money")}
    content = {key: value for key, value in raw.items() if key != "data"}
    if "data" in raw:
        declared = _DataSection.model_validate({**defaults, **raw})
        files = {name: _File(name, series, folder, declared) for name, series in declared.data.items()}
    else:
        files = {}
    if isinstance(content.get("homes"), dict) and "each_column_of" in content["homes"]:
        content["homes"] = list(_homes(content["homes"], files))

    def numbers(reference: dict[str, Any], path: tuple[str, ...]) -> FromColumn:
        wanted = _checked(Reference, reference, ".".join(path))
        try:
            return _find(files, wanted.source).numbers(wanted, Kind.at(path))
        except ValueError as error:
            raise ValueError(f"{'.'.join(path)}: {error}") from None

    return {key: _replaced(value, (str(key),), numbers) for key, value in content.items()}


def _replaced(node: Any, path: tuple[str, ...], numbers: Callable[[dict[str, Any], tuple[str, ...]], Any]) -> Any:
    """`node` with every reference below it replaced by its `numbers`."""
    if isinstance(node, dict):
        if "from" in node or "column" in node:
            return numbers(node, path)
        return {key: _replaced(value, (*path, str(key)), numbers) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, (*path, str(number)), numbers) for number, value in enumerate(node)]
    return node


def _homes(content: dict[str, Any], files: Mapping[str, _File]) -> Iterator[dict[str, Any]]:
    """A home per column, its own column named in the place of `own`."""
    each = _checked(EachColumn, content, "homes")
    if "id" in each.home:
        raise ValueError("homes.home.id: each home takes its id from its column; leave it out")
    try:
        columns = _find(files, each.each_column_of).columns(each.excluded)
    except ValueError as error:
        raise ValueError(f"homes.each_column_of: {error}") from None
    named: dict[str, str] = {}
    for column in columns:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", column).strip("-")[:64]
        if not name or name in named:
            other = f"that of column {named[name]!r}" if name else "empty"
            raise ValueError(f"homes.each_column_of: the id of column {column!r} would be {other}; rename the column")
        named[name] = column

        def own(reference: dict[str, Any], _: object, column: str = column) -> dict[str, Any]:
            if reference.get("column") != OWN:
                return reference
            return {"from": each.each_column_of, **reference, "column": column}

        yield {"id": name, **_replaced(each.home, (), own)}


def _find(files: Mapping[str, _File], name: str) -> _File:
    if name not in files:
        there = f"those are {', '.join(files)}" if files else "there is no key `data`"
        raise ValueError(f"no data are called {name!r}, {there}; declare data.{name}")
    return files[name]


def _checked(model: type[Said], content: dict[str, Any], where: str) -> Said:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(explain(where, error)) from None


# From a file to the numbers of its columns


class _File:
    """One of the scenario's data, read when it is first asked for. What is wrong with it raises `ValueError`."""

    def __init__(self, name: str, series: TimeSeries, folder: Path, declared: _DataSection) -> None:
        self._name = f"data.{name}"
        self._series = series
        self._path = folder / series.csv
        self._slots = declared.slots
        self._money = declared.money

    def columns(self, excluded: Sequence[str]) -> list[str]:
        """The names of its columns, that of the time and those `excluded` left out."""
        for name in excluded:
            self._index(name)
        header, _ = self._content
        return [name for name in header if name not in (self._series.time, *excluded)]

    def numbers(self, wanted: Reference, kind: Kind) -> FromColumn:
        """A number per slot for a scenario's key of this `kind`, in its unit."""
        given = unit_named(self._series.unit)
        try:
            target = target_unit(kind, given, self._money)
        except ValueError as error:
            raise ValueError(f"{error} ({self._name}.unit)") from None
        values = per_slot(self._cells(wanted, kind), self._series.rows_per_slot, given, target)
        values = values * self._exchange(given)
        if wanted.scale == "1/peak":
            peak = float(values.max())
            if peak <= 0:
                raise ValueError(
                    f"column {wanted.column} has the peak {peak:g}, of which nothing is a part; set a scale"
                )
            values = values / peak
        else:
            values = values * wanted.scale
        rows = [row for row, _ in self._horizon]
        step = self._series.rows_per_slot
        slots = list(zip(rows[::step], rows[step - 1 :: step], strict=True))
        return FromColumn(map(float, values), self._path, wanted.column, slots)

    def _exchange(self, given: Unit) -> float:
        """The scenario's money for one of the file's."""
        exchange = self._series.exchange
        if given.of_price and (given.money == self._money) != (exchange is None):
            mend = "leave exchange out"
            if exchange is None:
                mend = f"give exchange, how many {self._money} one {given.money} is, or set money: {given.money}"
            raise ValueError(
                f"{self._name}.unit: prices are in {given.money}, the scenario's money is {self._money}; {mend}"
            )
        return 1.0 if exchange is None else exchange

    def _cells(self, wanted: Reference, kind: Kind) -> list[float]:
        """The numbers of a column over the horizon, one per interval."""
        column, index = wanted.column, self._index(wanted.column)
        sign = -1 if wanted.scale != "1/peak" and wanted.scale < 0 else 1
        values = []
        for row, cells in self._horizon:
            try:
                values.append(_number(cells[index].strip(), self._series.decimal))
                # Each reading by itself: in the mean of an hour, one below zero would not be seen.
                if kind.from_zero_up and sign * values[-1] < 0:
                    raise ValueError(_below_zero(kind.key, cells[index].strip(), sign))
            except ValueError as error:
                raise ValueError(f"{self._path}, row {row}, column {column}: {error}") from None
        return values

    def _index(self, column: str) -> int:
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
        index = self._index(self._series.time)
        _, rows = self._content
        times = [self._time(row, cells[index].strip()) for row, cells in rows]
        with_offset = times[0].tzinfo is not None
        for (row, _), at in zip(rows, times, strict=True):
            if (at.tzinfo is not None) != with_offset:
                raise ValueError(
                    f"{self._path}, row {row}, column {self._series.time}: some times have a UTC offset and some have "
                    "none; write all of them in one way"
                )
        grid = self._grid(with_offset)
        if grid[0] < min(times) or grid[-1] > max(times):
            raise ValueError(
                f"{self._name}: {self._path} holds {self._shown(min(times))} to {self._shown(max(times))}, "
                f"not all of the {self._slots} hours from {self._shown(grid[0])}; choose another day"
            )
        inside = [
            (at, row, cells)
            for at, (row, cells) in zip(times, rows, strict=True)
            if grid[0] <= at < grid[-1] + self._series.step
        ]
        self._require_order([(at, row) for at, row, _ in inside])
        self._require_each([(at, row) for at, row, _ in inside], grid)
        return [(row, cells) for _, row, cells in inside]

    def _time(self, row: int, text: str) -> datetime:
        """The beginning of a row's interval: in UTC when it is written with an offset, else local without one."""
        try:
            at = datetime.strptime(text, self._series.format) if self._series.format else datetime.fromisoformat(text)
        except ValueError:
            wanted = self._series.format or "2016-06-14 00:15"
            raise ValueError(
                f"{self._path}, row {row}, column {self._series.time}: {text!r} is no time as in {wanted}; set "
                f"{self._name}.format, as in '%d.%m.%Y %H:%M', or mend the row"
            ) from None
        at = at if at.tzinfo is None else at.astimezone(UTC)
        return at - self._series.step if self._series.stamp == "end" else at

    def _grid(self, with_offset: bool) -> list[datetime]:
        """When each interval of the horizon begins: in UTC when rows have an offset, else local without one."""
        start, hours = self._start(), self._slots * _HOUR
        end = (start.astimezone(UTC) + hours).astimezone(start.tzinfo)
        shift = _offset(end) - _offset(start)
        count = self._slots * self._series.rows_per_slot
        if with_offset:
            if self._series.day is not None and shift and end.time() != time():
                raise ValueError(
                    f"{self._name}.day: {_change(start, end)}, and {self._slots} slots from {self._series.day} 00:00 "
                    f"end at {end:%H:%M}; set slots to {self._slots - shift // _HOUR} for whole days, choose another "
                    "day, or give first instead of day for hours from any moment"
                )
            return [start.astimezone(UTC) + number * self._series.step for number in range(count)]
        local = [start.replace(tzinfo=None) + number * self._series.step for number in range(count)]
        if shift or any(_twice_or_never(at.replace(tzinfo=start.tzinfo)) for at in local):
            raise ValueError(
                f"{self._name}: {_change(start, end)}, and without UTC offsets the hours of {self._path} cannot be "
                "told apart; choose another day, or export the times with their UTC offsets"
            )
        return local

    def _start(self) -> datetime:
        """Where the first slot begins, in the file's time zone."""
        zone = zoneinfo.ZoneInfo(self._series.timezone)
        if self._series.first is not None and self._series.first.tzinfo is not None:
            return self._series.first.astimezone(zone)
        start = self._series.first or datetime.combine(self._series.day or date.min, time())
        start = start.replace(tzinfo=zone)
        if _twice_or_never(start):
            raise ValueError(
                f"{self._name}: clocks change in {zone}, and {start:%Y-%m-%d %H:%M} is there twice or never; give "
                "first with its UTC offset, or choose another day"
            )
        return start

    def _require_order(self, times: Sequence[tuple[datetime, int]]) -> None:
        for (before, row_before), (at, row) in itertools.pairwise(times):
            where = f"{self._path}, row {row}, column {self._series.time}: {self._shown(at)}"
            if at == before:
                raise ValueError(f"{where} is there twice, also in row {row_before}; remove one, or give UTC offsets")
            if at < before:
                raise ValueError(f"{where} comes after {self._shown(before)}; sort the rows by time")

    def _require_each(self, times: Sequence[tuple[datetime, int]], grid: Sequence[datetime]) -> None:
        """The rows of the horizon, in order, are its intervals."""
        wanted = set(grid)
        for at, row in times:
            if at not in wanted:
                raise ValueError(
                    f"{self._path}, row {row}, column {self._series.time}: {self._shown(at)} is not a multiple of "
                    f"{self._series.interval} from {self._shown(grid[0])}; correct {self._name}.interval, or the row"
                )
        there = {at for at, _ in times}
        missing = [at for at in grid if at not in there]
        if missing:
            before = max((row for at, row in times if at < missing[0]), default=1)
            raise ValueError(
                f"{self._path}, after row {before}, column {self._series.time}: {self._shown(missing[0])} is missing, "
                f"one of {len(missing)}; complete the file, choose another day, or correct {self._name}.interval "
                f"(now {self._series.interval})"
            )

    def _shown(self, at: datetime) -> str:
        """A row's time as its file stamps it, local."""
        at = at + self._series.step if self._series.stamp == "end" else at
        return (at.astimezone(zoneinfo.ZoneInfo(self._series.timezone)) if at.tzinfo else at).isoformat(" ", "minutes")


def _number(text: str, decimal: str) -> float:
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


def _below_zero(key: str, text: str, sign: int) -> str:
    """What is said of a reading that, times its scale, is below zero."""
    if sign > 0:
        scaled, turned = "is below zero", "scale: -1"
    else:
        scaled, turned = "times the scale is below zero", "a scale above zero"
    return (
        f"{text!r} {scaled}, {key} never is; correct it, choose another day, or give {turned} if the column counts the "
        "other way"
    )


def _offset(at: datetime) -> timedelta:
    return at.utcoffset() or timedelta()


def _twice_or_never(at: datetime) -> bool:
    """Whether a change of clocks makes a local time ambiguous, or skips it (PEP 495)."""
    return at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset()


def _change(start: datetime, end: datetime) -> str:
    """In words, the change of clocks nearest after `start`, of which there is one at about `end` at the latest."""
    zone, at = start.tzinfo, start.astimezone(UTC)
    while at < end + 2 * _HOUR and _offset(at.astimezone(zone)) == _offset(start):
        at += _HOUR
    day = at.astimezone(zone).date()
    midnights = [datetime.combine(day + timedelta(days=n), time(), zone).astimezone(UTC) for n in (0, 1)]
    return f"the clocks of {zone} change on {day}, a day of {(midnights[1] - midnights[0]) / _HOUR:g} hours"


# What a model refuses


def with_origins(error: ValidationError, content: Mapping[str, Any]) -> ValidationError:
    """The same mistakes in a scenario's `content`, as `spell_out` made it; those in a column say file, row and column.

    Of a column's numbers that are refused, the first is told. A mistake that no column made stays as it is.
    """
    mistakes = [(mistake, _Place.of(mistake["loc"], content)) for mistake in error.errors(include_url=False)]
    slots: dict[tuple[int | str, ...], list[int]] = {}
    for _, place in mistakes:
        if place.slot is not None:
            slots.setdefault(place.path, []).append(place.slot)
    told = [
        _told(mistake, place, len(slots.get(place.path, [])))
        for mistake, place in mistakes
        if place.slot is None or place.slot == slots[place.path][0]
    ]
    return ValidationError.from_exception_data(error.title, told)


def _told(mistake: ErrorDetails, place: _Place, hours: int) -> InitErrorDetails:
    """A mistake at its place; `hours` are how many of its column are refused."""
    kind, message, where = mistake["type"], mistake["msg"], mistake["loc"]
    if place.column is not None and place.slot is not None:
        others = f", one of {hours} such hours" if hours > 1 else ""
        message = message.removeprefix("Value error, ").replace("Input should", "the number must", 1)
        message = f"{place.column.origin(place.slot)}{others}: {message}; correct the file, or write numbers"
        kind, where = "from_column", place.path
    elif place.column is not None and kind.endswith("_type") and where == place.path:
        kind = "from_column"
        message = "this key takes a single value, a column gives one per slot; write the value"
    return InitErrorDetails(type=PydanticCustomError(kind, message), loc=where, input=mistake["input"])


@dataclass(frozen=True)
class _Place:
    """Where in a scenario a mistake is: its `path` to a key and, if that has a `column`, in which `slot` of it."""

    path: tuple[int | str, ...]
    column: FromColumn | None = None
    slot: int | None = None

    @classmethod
    def of(cls, loc: Sequence[int | str], content: Any) -> _Place:
        """That of pydantic's `loc`, which names alternatives of a union too: steps that the content does not have."""
        path: list[int | str] = []
        for step in loc:
            if isinstance(content, FromColumn) and isinstance(step, int):
                return cls(tuple(path), content, step)
            keys: Container[object] = range(len(content)) if isinstance(content, list) else ()
            if step in (content if isinstance(content, dict) else keys):
                content = content[step]
                path.append(step)
        return cls(tuple(path), content if isinstance(content, FromColumn) else None)


# For editors


def with_data(schema: dict[str, Any]) -> dict[str, Any]:
    """A game's JSON Schema that also admits `data`, references in place of numbers per slot, and homes from columns."""
    numbers_or_column = _admitting(schema)
    definitions = dict(numbers_or_column.get("$defs", {}))
    properties = dict(numbers_or_column["properties"])
    definitions["Column"] = {
        **Reference.model_json_schema(),
        "required": ["column"],
        "anyOf": [{"required": ["from"]}, {"properties": {"column": {"const": OWN}}}],
    }
    definitions["TimeSeries"] = TimeSeries.model_json_schema()
    properties["data"] = {
        "description": "CSV files, by the name under which `from` refers to them.",
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/TimeSeries"},
    }
    home = _listed(properties.get("homes", {}), definitions)
    if home is not None:
        template = {key: value for key, value in home.get("properties", {}).items() if key != "id"}
        required = [key for key in home.get("required", []) if key != "id"]
        each = EachColumn.model_json_schema()
        each["properties"]["home"] = {**home, "properties": template, "required": required}
        definitions["EachColumn"] = each
        listed = properties["homes"]
        if "anyOf" not in listed:
            listed = {"anyOf": [listed]}
        properties["homes"] = {**listed, "anyOf": [*listed["anyOf"], {"$ref": "#/$defs/EachColumn"}]}
    return {**numbers_or_column, "properties": properties, "$defs": definitions}


def _admitting(node: Any) -> Any:
    """A schema in which whatever takes a list of numbers takes a reference too."""
    if isinstance(node, list):
        return [_admitting(value) for value in node]
    if not isinstance(node, dict):
        return node
    inside = {key: _admitting(value) for key, value in node.items()}
    of = node.get("items")
    if node.get("type") == "array" and isinstance(of, dict) and of.get("type") == "number":
        return {"anyOf": [inside, {"$ref": "#/$defs/Column"}]}
    return inside


def _listed(homes: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of one home, when a scenario lists them."""
    for choice in homes.get("anyOf", [homes]):
        reference = choice.get("items", {}).get("$ref", "")
        if reference:
            home: dict[str, Any] = definitions[reference.rpartition("/")[2]]
            return home
    return None
