"""The user's own data: what a CSV says is what the game gets, in its units, at its hours; and nothing else passes."""

import csv
import json
import os
import re
import sys
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from stackelgrid import cli, registry
from stackelgrid.games.user_oriented.scenario import UserOrientedScenario
from stackelgrid.model import explain
from stackelgrid.scenarios import Scenario, dump, load
from stackelgrid.scenarios.measured import spell_out, with_data, with_origins
from stackelgrid.scenarios.measured.units import Kind, find_unit, per_slot
from stackelgrid.scenarios.yaml_file import parse, spell
from stackelgrid.testbed.in_memory import play

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
METERS = {"csv": "meters.csv", "time": "time", "timezone": "Europe/Berlin", "unit": "kW", "interval": "1h"}
A_DAY = {**METERS, "day": "2016-06-14"}


class AnyGame(BaseModel):
    slots: int = 24
    money: str = "cents"


def stamps(count: int, minutes: int = 60, start: str = "2016-06-14 00:00") -> list[str]:
    first = datetime.fromisoformat(start)
    return [str(first + number * timedelta(minutes=minutes))[:16] for number in range(count)]


def aware(count: int, minutes: int, start: str) -> list[str]:
    """Local time of Berlin with its UTC offset, `count` intervals from a moment on."""
    first = datetime.fromisoformat(start).astimezone(UTC)
    return [(first + number * timedelta(minutes=minutes)).astimezone(BERLIN).isoformat() for number in range(count)]


def export(folder: Path, times: Sequence[str], **columns: Sequence[object]) -> None:
    with (folder / "meters.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *columns])
        writer.writerows(zip(times, *columns.values(), strict=True))


def read(
    folder: Path, data: dict[str, Any], slots: int, key: str = "load_kw", money: str = "cents", **more: Any
) -> Any:
    raw = {
        "slots": slots,
        "money": money,
        "data": {"meters": data},
        key: {"from": "meters", "column": "h1", **more},
    }
    return spell_out(raw, folder, AnyGame)[key]


def refusal(folder: Path, data: dict[str, Any], slots: int = 4, **more: Any) -> str:
    """What a scenario with these data is told."""
    with pytest.raises(ValueError) as caught:
        read(folder, data, slots, **more)
    error = caught.value
    return explain("scenario", error) if isinstance(error, ValidationError) else str(error)


@pytest.mark.parametrize(
    ("unit", "interval", "expected"),
    [
        ("kW", "15min", [2.5, 6.5]),
        ("W", "15min", [0.0025, 0.0065]),
        ("MW", "15min", [2500, 6500]),
        ("kWh", "15min", [10, 26]),
        ("Wh", "15min", [0.01, 0.026]),
        ("MWh", "15min", [10_000, 26_000]),
        ("pu", "15min", [2.5, 6.5]),
        ("kW", "30min", [1.5, 3.5, 5.5, 7.5]),
        ("kWh", "30min", [3, 7, 11, 15]),
        ("kWh", "1h", [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_per_slot_averages_power_and_sums_energy(
    unit: str, interval: str, expected: list[float], tmp_path: Path
) -> None:
    minutes = {"15min": 15, "30min": 30, "1h": 60}[interval]
    export(tmp_path, stamps(8, minutes), h1=range(1, 9))
    data = {**A_DAY, "unit": unit, "interval": interval}
    if unit.endswith("Wh"):
        data["reading"] = "interval"  # these rise like a meter's total
    assert read(tmp_path, data, len(expected)) == expected


def test_column_is_converted_to_mw_when_the_key_ends_in_mw(tmp_path: Path) -> None:
    export(tmp_path, stamps(2), h1=[300_000, 150_000])
    assert read(tmp_path, A_DAY, 2, "demand_mw") == [300, 150]
    assert read(tmp_path, {**A_DAY, "unit": "MWh"}, 2, "demand_mw") == [300_000, 150_000]
    assert read(tmp_path, {**A_DAY, "unit": "Wh"}, 2, "baseline_kwh") == [300, 150]


def test_prices_are_converted_to_the_scenarios_money_per_kwh(tmp_path: Path) -> None:
    export(tmp_path, stamps(2), h1=[50, -12.5])
    assert read(tmp_path, {**A_DAY, "unit": "EUR/MWh"}, 2, "wholesale_price", "EUR") == [0.05, -0.0125]
    cents = {**A_DAY, "unit": "EUR/MWh", "exchange": 100}
    assert read(tmp_path, cents, 2, "wholesale_price") == [5, -1.25]
    assert read(tmp_path, {**A_DAY, "unit": "cents/kWh"}, 2, "wholesale_price") == [50, -12.5]


def test_temperatures_are_averaged_and_taken_by_their_keys_only(tmp_path: Path) -> None:
    export(tmp_path, stamps(4, 30), h1=[-3, -1, 0, 5])
    celsius = {**A_DAY, "unit": "°C", "interval": "30min"}
    assert read(tmp_path, celsius, 2, "outside_c") == [-2, 2.5]
    assert "load_kw is in kW, the data in °C" in refusal(tmp_path, celsius, 2)
    for unit in ("kW", "kWh", "EUR/MWh"):
        told = refusal(tmp_path, {**celsius, "unit": unit, "reading": None}, 2, key="outside_c")
        assert f"outside_c is in °C, the data in {unit}" in told


def test_column_is_multiplied_by_its_scale(tmp_path: Path) -> None:
    export(tmp_path, stamps(4), h1=[1, 2, 8, 4])
    assert read(tmp_path, A_DAY, 4, scale=0.5) == [0.5, 1, 4, 2]
    assert read(tmp_path, A_DAY, 4, "shape", scale="1/peak") == [0.125, 0.25, 1, 0.5]


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=96).map(lambda x: x[: len(x) // 4 * 4]),
    unit=st.sampled_from(["W", "kW", "MW", "Wh", "kWh", "MWh"]),
)
def test_energy_is_the_same_per_slot_and_per_interval(values: list[float], unit: str) -> None:
    """In exact fractions: the sum over slots is the energy of the rows."""
    given_unit = find_unit(unit)
    hours = Fraction(1, 4) if given_unit.quantity == "power" else 1
    energy = sum(map(Fraction, values)) * given_unit.size * hours
    slots = per_slot(values, given_unit, find_unit("kW"), timedelta(minutes=15), timedelta(hours=1))
    scale = float(sum(abs(Fraction(value)) for value in values) * given_unit.size) or 1.0
    assert abs(float(sum(map(Fraction, slots.tolist())) - energy)) <= 1e-14 * scale


@given(
    values=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30),
    decimal=st.sampled_from([".", ","]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    bom=st.booleans(),
)
def test_column_gives_the_numbers_written(
    values: list[float], decimal: str, delimiter: str, bom: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("round")
    with (folder / "meters.csv").open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["time", "h1"])
        writer.writerows(zip(stamps(len(values)), [repr(x).replace(".", decimal) for x in values], strict=True))
    data = {**A_DAY, "decimal": decimal, "delimiter": delimiter}
    assert read(folder, data, len(values), "net_kw") == values


def test_slots_are_the_hours_of_the_day_in_its_time_zone(tmp_path: Path) -> None:
    times = [f"2016-06-13T{hour:02d}:00Z" for hour in range(24)] + [f"2016-06-14T{hour:02d}:00Z" for hour in range(24)]
    export(tmp_path, times, h1=range(48))
    assert read(tmp_path, A_DAY, 24) == list(range(22, 46))  # midnight in Berlin is 22 h UTC
    assert read(tmp_path, {**METERS, "first": "2016-06-14 02:00"}, 3) == [24, 25, 26]
    assert read(tmp_path, {**METERS, "first": "2016-06-14T02:00:00Z"}, 3) == [26, 27, 28]


def test_first_with_an_offset_is_a_moment_in_any_time_zone(tmp_path: Path) -> None:
    export(tmp_path, stamps(24), h1=range(24))
    assert read(tmp_path, {**METERS, "first": "2016-06-14T02:00:00Z"}, 3) == [4, 5, 6]


def test_stamps_are_read_at_interval_ends_and_in_another_format(tmp_path: Path) -> None:
    times = [datetime.fromisoformat(at).strftime("%d.%m.%Y %H:%M") for at in stamps(9, 15)]
    export(tmp_path, times, h1=range(9))
    data = {**A_DAY, "format": "%d.%m.%Y %H:%M", "interval": "15min"}
    assert read(tmp_path, data, 2) == [1.5, 5.5]
    assert read(tmp_path, {**data, "stamp": "end"}, 2) == [2.5, 6.5]


@pytest.mark.parametrize(("day", "hours", "when"), [("2016-03-27", 23, "+01:00"), ("2016-10-30", 25, "+02:00")])
def test_day_with_a_change_of_clocks_is_read_or_refused(day: str, hours: int, when: str, tmp_path: Path) -> None:
    start = f"{day}T00:00{when}"
    times = aware(4 * 30, 15, start)
    energy = np.random.default_rng([2016, hours]).uniform(0, 1, len(times)).round(3).tolist()
    export(tmp_path, times, h1=energy)
    quarters = {**METERS, "unit": "kWh", "interval": "15min"}
    by_hour: dict[float, float] = {}
    for at, value in zip(times, energy, strict=True):  # another way to the same hours
        hour = datetime.fromisoformat(at).timestamp() // 3600
        by_hour[hour] = by_hour.get(hour, 0.0) + value
    expected = pytest.approx(list(by_hour.values())[:hours], abs=1e-12)
    assert read(tmp_path, {**quarters, "day": day}, hours) == expected
    assert read(tmp_path, {**quarters, "first": start}, hours) == expected
    told = refusal(tmp_path, {**quarters, "day": day}, 24)
    for part in ("data.meters.day", f"Europe/Berlin change on {day}", f"a day of {hours} hours", f"slots to {hours}"):
        assert part in told

    # The same export without offsets: of the hour that is there twice, the first is summer's.
    naive = [at[:16] for at in times]
    export(tmp_path, naive, h1=energy)
    assert read(tmp_path, {**quarters, "day": day}, hours) == expected
    export(tmp_path, naive[::-1], h1=energy[::-1])
    assert read(tmp_path, {**quarters, "day": day}, hours) == expected
    assert f"a day of {hours} hours" in refusal(tmp_path, {**quarters, "day": day}, 24)


@pytest.mark.parametrize(
    ("day", "hours", "what"),
    [("2016-03-27", 23, "does not exist"), ("2016-10-30", 25, "is there twice, in this file once")],
)
def test_file_that_keeps_winter_time_is_refused_on_a_change_of_clocks(
    day: str, hours: int, what: str, tmp_path: Path
) -> None:
    export(tmp_path, stamps(72, start=f"{day} 00:00"), h1=range(72))
    told = refusal(tmp_path, {**METERS, "day": day}, hours)
    for part in (f"column time: {day} 02:00 {what}", "Europe/Berlin change", f"a day of {hours} hours", "UTC offsets"):
        assert part in told
    assert "set data.meters.timezone: Etc/GMT-1 if the file keeps winter time all year" in told
    assert read(tmp_path, {**METERS, "day": day, "timezone": "Etc/GMT-1"}, 24) == list(range(24))
    after = (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()
    assert read(tmp_path, {**METERS, "day": after}, 1) == [24]


def test_change_of_clocks_is_noticed_between_rows_and_in_the_last_hour(tmp_path: Path) -> None:
    # Lord Howe's clocks go from 02:00 to 02:30: none of these rows is skipped, yet they are no hour apart.
    export(tmp_path, stamps(6, start="2016-10-02 00:45"), h1=range(6))
    told = refusal(tmp_path, {**METERS, "timezone": "Australia/Lord_Howe", "first": "2016-10-02 00:45"})
    assert "row 4, column time: 2016-10-02 02:45 is not a multiple of 1h" in told
    # Of two days, the second is the one to avoid.
    export(tmp_path, stamps(48, start="2016-03-26 00:00"), h1=range(48))
    told = refusal(tmp_path, {**METERS, "day": "2016-03-26"}, 48)
    assert "Europe/Berlin change on 2016-03-27, a day of 23 hours" in told
    # The hour from 01:30 ends before clocks go back, but 02:15 is there twice.
    export(tmp_path, stamps(4, 15, "2016-10-30 01:30"), h1=range(4))
    told = refusal(tmp_path, {**METERS, "interval": "15min", "first": "2016-10-30 01:30"}, 1)
    assert "Europe/Berlin change on 2016-10-30, a day of 25 hours" in told


def test_first_is_refused_when_it_is_there_twice_or_never(tmp_path: Path) -> None:
    export(tmp_path, stamps(4), h1=range(4))
    for first in ("2016-03-27 02:30", "2016-10-30 02:30"):
        assert f"{first} is there twice or never" in refusal(tmp_path, {**METERS, "first": first})


def broken(**at: str) -> list[tuple[str, str]]:
    """Four good hours, some rows changed: {rN: "time,value"}."""
    rows = {f"r{number}": f"{time},{number}" for number, time in enumerate(stamps(4), 2)}
    return [tuple(row.split(",")) for row in {**rows, **at}.values() if row]  # type: ignore[misc]


ROWS = {
    "a text": (broken(r3="2016-06-14 01:00,n/a"), ["meters.csv, row 3, column h1: 'n/a' is no number", "fill it in"]),
    "an empty cell": (broken(r4="2016-06-14 02:00,"), ["row 4, column h1: the cell is empty", "another day"]),
    "not a number": (broken(r2="2016-06-14 00:00,NaN"), ["row 2, column h1: 'NaN' is no number"]),
    "infinite": (broken(r2="2016-06-14 00:00,inf"), ["row 2, column h1: 'inf' is no number"]),
    "as Python writes it": (broken(r2="2016-06-14 00:00,1_0"), ["row 2, column h1: '1_0' is no number"]),
    "too large": (broken(r2="2016-06-14 00:00,1e999"), ["row 2, column h1: '1e999' is beyond 1e+12"]),
    "a missing interval": (broken(r3=""), ["after row 2, column time: 2016-06-14 01:00 is missing", "interval"]),
    "a time twice": (broken(r4="2016-06-14 01:00,9"), ["row 4, column time: 2016-06-14 01:00 is there twice", "row 3"]),
    "unsorted": (
        broken(r3="2016-06-14 02:00,1", r4="2016-06-14 01:00,2"),
        ["row 4, column time: 2016-06-14 01:00 comes after 2016-06-14 02:00", "sort"],
    ),
    "off the grid": (broken(r3="2016-06-14 01:07,1"), ["row 3", "2016-06-14 01:07 is not a multiple of 1h"]),
    "finer than said": (broken(r6="2016-06-14 03:15,1"), ["row 6", "03:15 is not a multiple of 1h", "interval"]),
    "the first year": (
        broken(r5="0001-01-01T00:00+02:00,1"),
        ["row 5, column time: '0001-01-01T00:00+02:00' is no time"],
    ),
    "the last year": (
        broken(r5="9999-12-31T23:00-02:00,1"),
        ["row 5, column time: '9999-12-31T23:00-02:00' is no time"],
    ),
    "thousands digits": (broken(r3="2016-06-14 01:00," + "9" * 5000), ["row 3, column h1: '99999", "is beyond 1e+12"]),
    "no time": (broken(r5="yesterday,1"), ["row 5, column time: 'yesterday' is no time", "format"]),
    "some offsets": (broken(r5="2016-06-14 03:00+02:00,1"), ["row 5, column time", "UTC offset"]),
    "another day": (
        [(at, "1") for at in stamps(4, start="2016-06-15 00:00")],
        ["holds 2016-06-15 00:00 to 2016-06-15 03:00", "the 4 hours from 2016-06-14 00:00", "another day"],
    ),
    "half a day": (broken(r5=""), ["holds 2016-06-14 00:00 to 2016-06-14 02:00", "another day"]),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_row_is_named_with_file_column_and_value(name: str, tmp_path: Path) -> None:
    rows, expected = ROWS[name]
    times, values = zip(*rows, strict=True)
    export(tmp_path, times, h1=values)
    told = refusal(tmp_path, A_DAY)
    assert told.startswith("load_kw: ")
    for part in ("meters.csv", *expected):
        assert part in told, told


KEYS = {
    "unknown column": ({"column": "h2"}, {}, ["no column 'h2'", "'time', 'h1'"]),
    "unknown data": ({"from": "meter"}, {}, ["no data are called 'meter'", "meters"]),
    "a number as name": ({"column": 12}, {}, ["load_kw: column", "quotes", "12"]),
    "an unknown key": ({"scal": 2}, {}, ["load_kw: scal", "unknown key"]),
    "no peak": ({"column": "zero", "scale": "1/peak"}, {}, ["column zero has the peak 0"]),
    "a price for a load": ({}, {"unit": "cents/kWh"}, ["load_kw is in kW", "cents/kWh", "data.meters.unit"]),
    "unknown unit": ({}, {"unit": "kwh"}, ["data.meters.unit", "'kwh' is no unit", "kWh", "EUR/MWh"]),
    "no unit": ({}, {"unit": None}, ["data.meters.unit"]),
    "no time zone": ({}, {"timezone": "Berlin"}, ["data.meters.timezone", "'Berlin' is no time zone", "Europe/Berlin"]),
    "a folder as time zone": ({}, {"timezone": "Europe"}, ["'Europe' is no time zone"]),
    "an odd interval": ({}, {"interval": "7min"}, ["data.meters.interval", "'7min'", "15min"]),
    "a coarse interval": ({}, {"interval": "2h"}, ["data.meters.interval", "'2h'"]),
    "exchange of a power": ({}, {"exchange": 100}, ["exchange is for prices"]),
    "no such file": ({}, {"csv": "none.csv"}, ["data.meters.file", "none.csv: cannot be read", "relative"]),
    "no time column": ({}, {"time": "stamp"}, ["no row names the column 'stamp'", "data.meters.time"]),
    "no day": ({}, {"day": None}, ["data.meters", "either day or first"]),
    "a number as day": ({}, {"day": 20160614}, ["data.meters.day", "2016-06-14"]),
    "unknown key": ({}, {"colour": "red"}, ["data.meters.colour", "unknown key"]),
    "semicolons": (
        {},
        {"csv": "semicolons.csv", "delimiter": ","},
        ["no row names the column 'time'", "'time;h1'", "correct data.meters.time", "data.meters.delimiter (now ',')"],
    ),
    "decimal commas": ({}, {"csv": "european.csv", "delimiter": ";"}, ["row 2", "'0,5'", "decimal: ','"]),
    "more cells than names": ({}, {"csv": "commas.csv"}, ["row 2: 3 cells below a header of 2", "delimiter"]),
    "decimal points": ({}, {"decimal": ","}, ["row 2", "'1.5' is no number with decimal ','"]),
    "names twice": ({}, {"csv": "twice.csv"}, ["2 columns are called 'h1'", "rename"]),
    "not UTF-8": ({}, {"csv": "latin.csv"}, ["latin.csv: not text in UTF-8", "save"]),
    "an open quote": ({}, {"csv": "quote.csv"}, ["quote.csv is not CSV"]),
    "empty": ({}, {"csv": "empty.csv"}, ["empty.csv: it holds no data"]),
    "a folder": ({}, {"csv": "."}, ["cannot be read"]),
    "a device": ({}, {"csv": "/dev/zero"}, ["data.meters.file: /dev/zero: cannot be read (a pipe or a device"]),
    "a pipe": ({}, {"csv": "pipe"}, ["cannot be read (a pipe or a device"]),
    "a long name": ({}, {"csv": "x" * 300}, ["cannot be read (File name too long)"]),
    "a name with a zero": ({}, {"csv": "a\0b"}, ["data.meters.file", "null byte"]),
    "the first year": ({}, {"day": "0001-01-01"}, ["data.meters.day: 0001-01-01 is in the year 1; correct it"]),
    "the last year": ({}, {"day": None, "first": "9999-12-31 23:00"}, ["data.meters.first: ", "in the year 9999"]),
    "a directive twice": ({}, {"format": "%H:%M %H"}, ["data.meters.format: no times are written so"]),
    "an unknown directive": ({}, {"format": "%Q"}, ["data.meters.format: no times are written so"]),
    "a total of power": ({}, {"reading": "total"}, ["data.meters: reading: total is for energies, the unit is kW"]),
    "an odd reading": ({}, {"reading": "sum"}, ["data.meters.reading", "'interval', 'total' or 'sample'"]),
    "ends of totals": (
        {},
        {"reading": "total", "unit": "kWh", "stamp": "end"},
        ["data.meters: stamp is for intervals, a total is read at the row's time"],
    ),
}
FILES = {
    "semicolons.csv": "time;h1\n2016-06-14 00:00;5\n2016-06-14 01:00;1\n",
    "european.csv": "time;h1\n2016-06-14 00:00;0,5\n2016-06-14 01:00;1\n",
    "commas.csv": "time,h1\n2016-06-14 00:00,0,5\n",
    "twice.csv": "time,h1,h1\n2016-06-14 00:00,1,2\n",
    "quote.csv": 'time,h1\n2016-06-14 00:00,"1\n',
    "empty.csv": "\n",
}


@pytest.mark.parametrize("name", KEYS)
def test_bad_key_of_data_is_named(name: str, tmp_path: Path) -> None:
    reference, data, expected = KEYS[name]
    export(tmp_path, stamps(2), h1=["1.5", "2.5"], zero=[0, 0])
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.csv").write_bytes("time,h1,Zähler\n".encode("latin-1"))
    told = refusal(
        tmp_path, {key: value for key, value in {**A_DAY, **data}.items() if value is not None}, 2, **reference
    )
    for part in expected:
        assert part in told, told


# Totals: what a meter has counted, not what it counted in an interval

TOTALS = [32_990.0, 32_990.5, 32_990.5, 32_991.75, 32_993.0, 32_993.25, 32_993.5, 32_994.0, 32_995.0]


def test_totals_are_read_as_their_differences(tmp_path: Path) -> None:
    export(tmp_path, stamps(9, 30), h1=TOTALS)
    data = {**A_DAY, "unit": "kWh", "interval": "30min", "reading": "total"}
    assert read(tmp_path, data, 4) == [0.5, 2.5, 0.5, 1.5]
    assert read(tmp_path, {**data, "unit": "Wh"}, 4, scale=2) == [0.001, 0.005, 0.001, 0.003]
    assert read(tmp_path, {**data, "day": None, "first": "2016-06-14 01:00"}, 2) == [2.5, 0.5]
    origin = read(tmp_path, data, 4)
    assert origin.rows[0] == (2, 4) and origin.rows[-1] == (8, 10)


def test_totals_are_refused_without_the_reading_at_the_end(tmp_path: Path) -> None:
    export(tmp_path, stamps(8, 30), h1=TOTALS[:8])
    told = refusal(tmp_path, {**A_DAY, "unit": "kWh", "interval": "30min", "reading": "total"})
    assert "meters.csv ends at 2016-06-14 03:30, and totals are read at the end of the last of 4 hours too" in told
    assert "2016-06-14 04:00; add that row, have fewer slots, or choose another day" in told


def test_total_that_falls_is_refused_at_its_row(tmp_path: Path) -> None:
    export(tmp_path, stamps(9, 30), h1=[*TOTALS[:5], 0.25, 0.5, 1, 2])
    told = refusal(tmp_path, {**A_DAY, "unit": "kWh", "interval": "30min", "reading": "total"})
    assert "meters.csv, row 7, column h1: the total falls from 32993 to 0.25: the meter was set back" in told


@pytest.mark.parametrize("unit", ["Wh", "kWh", "MWh"])
@pytest.mark.parametrize(
    "readings",
    [
        TOTALS[:4],
        [0.0, 0.488, 1.021, 1.571, 2.104],
        [5.0, 5.0, 5.0, 6.0],
        [*range(900, 912), *range(12)],  # set back in the middle
    ],
)
def test_energy_that_never_falls_is_refused_until_its_reading_is_given(
    unit: str, readings: list[float], tmp_path: Path
) -> None:
    export(tmp_path, stamps(len(readings)), h1=readings)
    data = {**A_DAY, "unit": unit}
    told = refusal(tmp_path, data, len(readings))
    assert (
        "meters.csv, column h1: it rises from" in told
        and "like a meter's total; set data.meters.reading: total" in told
    )
    assert len(read(tmp_path, {**data, "reading": "interval"}, len(readings))) == len(readings)


@pytest.mark.parametrize(
    "readings", [[0.5] * 4, [0.0] * 4, [1, 2, 3, 2], [3, 2, 1, 0], [0.2] * 6 + [0.5] * 6 + [0.2] * 6]
)
def test_energy_of_intervals_is_taken_as_it_is(readings: list[float], tmp_path: Path) -> None:
    export(tmp_path, stamps(len(readings)), h1=readings)
    assert read(tmp_path, {**A_DAY, "unit": "kWh"}, len(readings)) == readings


# Numbers that can be read in two ways


@pytest.mark.parametrize(
    ("cell", "decimal", "mend"),
    [
        ("1,464", ".", "if that separates thousands, give thousands in data"),
        ("1,464.5", ".", "if that separates thousands, give thousands in data"),
        ("12,345,678", ".", "if that separates thousands, give thousands in data"),
        ("-1,464", ".", "if that separates thousands, give thousands in data"),
        ("1.464", ",", "if that separates thousands, give thousands in data"),
        ("1.464,00", ",", "if that separates thousands, give thousands in data"),
        ("1 464", ",", "if that separates thousands, give thousands in data"),
        ("0,414", ".", "set decimal: ',' in data"),
        ("1,5", ".", "set decimal: ',' in data"),
        ("1464,5", ".", "set decimal: ',' in data"),
        ("1.5", ",", "set decimal: '.' in data"),
    ],
)
def test_another_decimal_is_advised_only_where_it_changes_no_value(
    cell: str, decimal: str, mend: str, tmp_path: Path
) -> None:
    export(tmp_path, stamps(2), h1=[cell, "2"])
    told = refusal(tmp_path, {**A_DAY, "decimal": decimal}, 2)
    assert told.endswith(f"row 2, column h1: {cell!r} is no number with decimal {decimal!r}; {mend}")


def test_first_number_of_each_file_is_shown_as_it_was_read(tmp_path: Path) -> None:
    export(tmp_path, stamps(2), h1=["1,464", "2"], h2=["3", "4"])
    names = {"meters": {**A_DAY, "decimal": ","}, "others": {**A_DAY, "decimal": ","}}
    raw = {"slots": 2, "data": names, "a_kw": [{"from": "meters", "column": c} for c in ("h1", "h2")]}
    shown: list[str] = []
    spell_out({**raw, "b_kw": {"from": "others", "column": "h2"}}, tmp_path, AnyGame, shown.append)
    assert shown == [
        f"{tmp_path / 'meters.csv'}, row 2, column h1: '1,464' was read as 1.464 kW",
        f"{tmp_path / 'meters.csv'}, row 2, column h2: '3' was read as 3 kW",
    ]


def test_bad_price_is_named(tmp_path: Path) -> None:
    export(tmp_path, stamps(2), h1=[1, 2])
    told = refusal(tmp_path, {**A_DAY, "unit": "EUR/MWh"}, 2, key="wholesale_price")
    assert "data.meters.unit: prices are in EUR, the scenario's money is cents; give exchange, how many cents" in told
    told = refusal(tmp_path, {**A_DAY, "unit": "cents/MWh", "exchange": 100}, 2, key="wholesale_price")
    assert "leave exchange out" in told


# What a key takes: prices where money per kWh belongs, powers elsewhere


def column(path: str, **more: Any) -> dict[str, Any]:
    """A scenario with a column at the end of a path of keys and indices."""
    content: Any = {"from": "meters", "column": "h1", **more}
    for step in reversed(path.split(".")):
        content = [content] if step.isdigit() else {step: content}
    return {"slots": 2, "money": "cents", **content}


PRICES = (
    "leader.wholesale_price",  # user_oriented
    "leader.tariffs.residential",  # prosumer
    "homes.0.pv_cost",
    "leader.peak_price",  # load_call
    "leader.lost_load_price",  # storage_market
    "home.energy_cost",  # a game that nobody knows
    "home.price_per_kwh",
)
POWERS = (
    "homes.0.inelastic.0.load_kw",
    "homes.0.elastic.0.max_kw",
    "leader.system_load_kw",
    "homes.0.pv_kw",
    "homes.0.baseline_kwh",
    "leader.shape",
    "population.load_shape",
    "leader.cost.from_kw",  # what an inner key says counts
)


@pytest.mark.parametrize("path", PRICES)
def test_power_is_refused_when_the_key_takes_prices(path: str, tmp_path: Path) -> None:
    export(tmp_path, stamps(2), h1=[1, -2])
    for unit in ("W", "kW", "kWh", "MWh"):
        with pytest.raises(ValueError, match=rf"{path}: \w+ takes prices, the data in {unit}; .*data.meters.unit"):
            spell_out({**column(path), "data": {"meters": {**A_DAY, "unit": unit}}}, tmp_path, AnyGame)
    for unit, factor in (("cents/kWh", 1), ("cents/MWh", 0.001), ("pu", 1)):
        made = spell_out({**column(path), "data": {"meters": {**A_DAY, "unit": unit}}}, tmp_path, AnyGame)
        assert at(made, path) == [factor, -2 * factor]


@pytest.mark.parametrize("path", POWERS)
def test_price_is_refused_when_the_key_takes_powers(path: str, tmp_path: Path) -> None:
    export(tmp_path, stamps(2), h1=[1, 2])
    with pytest.raises(ValueError, match=rf"{path}: \w+ is .*, the data in cents/kWh; .*data.meters.unit"):
        spell_out({**column(path), "data": {"meters": {**A_DAY, "unit": "cents/kWh"}}}, tmp_path, AnyGame)
    export(tmp_path, stamps(8, 15), h1=[1, 1, 1, 1, 1, 1, -0.25, 1])  # the mean of the hour is not below zero
    for unit in ("kW", "kWh", "pu"):
        data = {"meters": {**A_DAY, "unit": unit, "interval": "15min"}}
        with pytest.raises(ValueError, match=rf"{path}: .*meters.csv, row 8, column h1: '-0.25' is below zero") as told:
            spell_out({**column(path), "data": data}, tmp_path, AnyGame)
        assert "give scale: -1" in str(told.value)


def test_reading_below_zero_is_refused_unless_the_scale_is_negative(tmp_path: Path) -> None:
    export(tmp_path, stamps(2), h1=[-1, -2])
    assert read(tmp_path, A_DAY, 2, "pv_kw", scale=-1) == [1, 2]
    assert read(tmp_path, A_DAY, 2, "net_kw") == [-1, -2]
    assert read(tmp_path, A_DAY, 2, "omega") == [-1, -2]  # says nothing: the model decides
    assert read(tmp_path, A_DAY, 2, "gains_kw") == [-1, -2]
    export(tmp_path, stamps(2), h1=[-1, 2])
    told = refusal(tmp_path, A_DAY, 2, key="pv_kw", scale=-1)
    assert "row 3, column h1: '2' times the scale is below zero, pv_kw never is" in told


def at(content: Any, path: str) -> Any:
    for step in path.split("."):
        content = content[int(step) if step.isdigit() else step]
    return content


KINDS_OF_LISTS = {
    "user_oriented": {
        "wholesale_price": "price", "price_min": "price", "price_max": "price", "feed_in_price": "price",
        "price": "price", "imbalance_price": "price",
        "load_kw": "power", "max_kw": "power", "min_kw": "power", "available_kw": "power", "draw_kw": "power",
        "feed_in_kw": "power", "gains_kw": "power", "baseline_load_kw": "power",
        "shape_kw": "power",
        "outside_c": "temperature", "min_c": "temperature", "max_c": "temperature",
    },
    "prosumer": {
        "tariffs": "price", "pv_cost": "price", "load_kw": "power", "pv_kw": "power", "system_load_kw": "power",
        "load_shape": "shape", "pv_shape": "shape", "imbalance_price": "price",
    },
    "load_call": {"load_kw": "power", "called_kwh": "energy", "shifted_kwh": "energy"},
    "storage_market": {"shape": "shape", "drawn_kwh": "energy", "moved_kw": "power"},
}  # fmt: skip
SAY_NOTHING = {"alpha", "omega", "cop", "forecast", "load", "pv", "temperature"}
"""Of satisfaction, a heat pump and forecasts: they take what they are given."""


@pytest.mark.parametrize("game", KINDS_OF_LISTS)
def test_every_key_that_takes_a_column_has_a_kind(game: str) -> None:
    schema = with_data(registry.find(game).load("scenario").model_json_schema())
    models = [schema, *(model for name, model in schema["$defs"].items() if name != "EachColumn")]
    kinds = {}
    for key, taken in (item for model in models for item in model.get("properties", {}).items()):
        if '"#/$defs/Column"' in json.dumps(taken):
            kind = Kind(key)
            said = {"price": kind.of_price, "shape": kind.of_shape}
            kinds[key] = kind.unit.quantity if kind.unit else next((name for name, true in said.items() if true), None)
    assert {key: kind for key, kind in kinds.items() if key not in SAY_NOTHING} == KINDS_OF_LISTS[game]
    assert all(kinds[key] is None for key in SAY_NOTHING & kinds.keys())


# What the model refuses


def refused(raw: dict[str, Any], folder: Path) -> str:
    """What is told of a scenario whose references are right, and which its game does not take."""
    model = registry.find(raw["game"]).load("scenario")
    content = spell_out(raw, folder, model)
    model.prepare(content, folder)
    with pytest.raises(ValidationError) as caught:
        model.model_validate(content)
    return explain("street.yaml", with_origins(caught.value, content))


def test_refused_number_is_reported_with_file_and_rows(tmp_path: Path) -> None:
    quarters = {**A_DAY, "interval": "15min", "unit": "kWh", "reading": "interval"}
    export(tmp_path, stamps(16, 15), h07=[1] * 8 + [0] * 4 + [1] * 4, h08=[0] * 8 + [1] * 8, spot=[5] * 16)
    spot = {**A_DAY, "interval": "15min", "unit": "cents/kWh"}
    raw = street(slots=4, data={"meters": quarters, "spot": spot})
    told = refused(raw, tmp_path).splitlines()
    assert len(told) == 2
    key = "street.yaml: homes.{}.elastic.0.max_kw: "
    place = f"{tmp_path / 'meters.csv'}, rows 10-13, column h07, hour 3: the number must be greater than 0"
    assert told[0].startswith(key.format(0) + place)
    assert told[0].endswith("(found 0.0)")
    assert told[1].startswith(key.format(1))
    assert "rows 2-5, column h08, hour 1, one of 2 such hours: " in told[1]


def test_mistake_outside_a_column_is_reported_as_without_data(tmp_path: Path) -> None:
    export(tmp_path, stamps(6), h0=[1] * 6, spot=[5] * 6)
    raw = street(slots=6, seed="x")
    raw["leader"]["mu"] = [1, {"y": 2}]
    raw["homes"]["home"]["lod_kw"] = {"column": "own"}
    model = registry.find(raw["game"]).load("scenario")
    content = spell_out(raw, tmp_path, model)
    with pytest.raises(ValidationError) as caught:
        model.model_validate(content)
    plain = explain("street.yaml", caught.value)
    assert "homes.0.lod_kw: unknown key" in plain
    assert explain("street.yaml", with_origins(caught.value, content)) == plain


def test_column_is_taken_at_any_depth(tmp_path: Path) -> None:
    export(tmp_path, stamps(24), h1=[1] * 23 + [-7], h2=[3] * 24)
    prosumers = parse((Path(__file__).parents[2] / "stackelgrid/scenarios/cases/prosumer.yaml").read_text())
    prosumers["data"] = {"meters": {**A_DAY, "unit": "cents/kWh"}}
    prosumers["homes"][1]["pv_cost"] = {"from": "meters", "column": "h1"}
    place = f"{tmp_path / 'meters.csv'}, row 25, column h1, hour 24: the number must be greater than 0"
    assert refused(prosumers, tmp_path).startswith(f"street.yaml: homes.1.pv_cost: {place}")

    satisfaction = {"form": "power", "alpha": 0.5, "omega": {"from": "meters", "column": "h1"}}
    appliance = {"max_kw": {"from": "meters", "column": "h2"}, "valuation": 1, "satisfaction": satisfaction}
    raw = street(slots=24, homes=[{"id": "h1", "elastic": [appliance]}], data={"meters": A_DAY})
    raw["leader"]["wholesale_price"] = 3
    assert refused(raw, tmp_path).startswith(f"street.yaml: homes.0.elastic.0.satisfaction.omega: {place}")


def test_column_is_refused_when_the_key_takes_a_single_value(tmp_path: Path) -> None:
    export(tmp_path, stamps(1), h1=[90])
    raw = parse((Path(__file__).parents[2] / "stackelgrid/scenarios/cases/load_call.yaml").read_text())
    raw["data"] = {"meters": A_DAY}
    home = {"baseline_kwh": {"column": "own"}, "alpha": 1, "beta": 1}
    raw["homes"] = {"each_column_of": "meters", "home": home}
    told = refused(raw, tmp_path)
    assert told.startswith("street.yaml: homes.0.baseline_kwh: this key takes a single value, a column gives one per")
    assert "write the value" in told


def test_message_names_tzdata_when_the_system_has_no_time_zones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    export(tmp_path, stamps(2), h1=[1, 2])

    def none(name: str) -> None:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", none)
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    assert "pip install tzdata" in refusal(tmp_path, A_DAY)


def test_reference_is_refused_when_there_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"leader\.cost: no data are called 'meters', there is no key `data`"):
        spell_out({"leader": {"cost": {"from": "meters", "column": "h1"}}}, tmp_path, AnyGame)


def test_homes_are_made_for_each_column(tmp_path: Path) -> None:
    columns = {"total": [9, 9], "Meter 1 (kW)": [1, 2], "h2": [3, 4]}
    export(tmp_path, stamps(2), **columns)
    home = {"load_kw": {"column": "own", "scale": 2}, "nested": [{"pv_kw": {"from": "sun", "column": "own"}}]}
    homes = {
        "each_column_of": "meters",
        "except": ["total"],
        "home": {**home, "all": {"from": "meters", "column": "total"}},
    }
    raw = {"slots": 2, "data": {"meters": A_DAY, "sun": {**A_DAY, "unit": "W"}}, "homes": homes}
    made = spell_out(raw, tmp_path, AnyGame)
    assert "data" not in made
    assert made["homes"] == [
        {"id": "Meter-1", "load_kw": [2, 4], "nested": [{"pv_kw": [0.001, 0.002]}], "all": [9, 9]},
        {"id": "h2", "load_kw": [6, 8], "nested": [{"pv_kw": [0.003, 0.004]}], "all": [9, 9]},
    ]

    def told(**changes: Any) -> str:
        with pytest.raises(ValueError) as caught:
            spell_out({**raw, "homes": {**homes, **changes}}, tmp_path, AnyGame)
        return str(caught.value)

    assert "homes.each_column_of: no data are called 'meter'" in told(each_column_of="meter")
    assert "no column 'sum'" in told(**{"except": ["sum"]})
    assert "homes.home.id" in told(home={"id": "x"})
    assert "homes: colour: unknown key" in told(colour="red")
    export(tmp_path, stamps(2), **{"h 1": [1, 2], "h/1": [3, 4]})
    assert "the id of column 'h/1' would be that of column 'h 1'; rename" in told(**{"except": []})
    export(tmp_path, stamps(2), a1=[1, 2], leader=[3, 4])
    alone = {**raw, "homes": {**homes, "except": [], "home": {"load_kw": {"column": "own"}}}}
    assert [home["id"] for home in spell_out(alone, tmp_path, AnyGame)["homes"]] == ["home-a1", "home-leader"]
    export(tmp_path, stamps(2), **{"": [1, 2], "h1": [3, 4]})
    assert "the id of column '' would be empty" in told(**{"except": []})


# A whole scenario: at the flat price, half the elastic appliance's rate is what remains of the measured load

SHARE, ALPHA, VALUATION, FLAT = 0.3, 3.0, 14.0, 9.0
OMEGA = VALUATION * ALPHA / (FLAT * (1 + ALPHA / 2))


def street(**changes: Any) -> dict[str, Any]:
    appliance = {
        "max_kw": {"column": "own", "scale": 2 * (1 - SHARE)},
        "valuation": VALUATION,
        "satisfaction": {"form": "log", "alpha": ALPHA, "omega": OMEGA},
    }
    home = {"inelastic": [{"load_kw": {"column": "own", "scale": SHARE}}], "elastic": [appliance]}
    price = {**METERS, "csv": "meters.csv", "unit": "EUR/MWh", "exchange": 100, "day": "2016-06-14"}
    leader = {
        "objective": "welfare",
        "baseline_price": FLAT,
        "wholesale_price": {"from": "spot", "column": "spot"},
        "mu": 1,
        "price_max": 30,
    }
    return {
        "schema": 1,
        "game": "user_oriented",
        "slots": 6,
        "leader": leader,
        "data": {"meters": A_DAY, "spot": price},
        "homes": {"each_column_of": "meters", "except": ["spot"], "home": home},
        **changes,
    }


@pytest.fixture
def a_street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    random = np.random.default_rng([2016, 6])
    loads = {f"h{number}": random.uniform(0.3, 4, 6).round(3).tolist() for number in range(3)}
    export(tmp_path, stamps(6), **loads, spot=[30, 25, 25, 40, 60, 45])
    (tmp_path / "street.yaml").write_text(spell(street()))
    monkeypatch.chdir(tmp_path)
    return loads


def test_scenario_from_a_csv_is_played(a_street: dict[str, list[float]], tmp_path: Path) -> None:
    scenario = load("street.yaml")
    assert isinstance(scenario, UserOrientedScenario)
    assert [home.id for home in scenario.everyone] == list(a_street)
    assert scenario.leader.wholesale_price == [3, 2.5, 2.5, 4, 6, 4.5]
    run_record = play(scenario)
    assert run_record.settled
    measured = np.sum(list(a_street.values()), axis=0)
    outcome = scenario.outcome(run_record)
    assert outcome.baseline_load_kw == pytest.approx(measured, rel=1e-12)
    # Spelled out, the scenario needs no CSV.
    (tmp_path / "meters.csv").unlink()
    (tmp_path / "spelled.yaml").write_text(dump(scenario))
    assert load("spelled.yaml") == scenario


def test_override_may_be_a_column(a_street: dict[str, list[float]]) -> None:
    words = ["leader.wholesale_price={from: spot, column: spot, scale: 2}", "slots=3", "data.meters.interval=1h"]
    scenario = load("street.yaml", words)
    assert isinstance(scenario, UserOrientedScenario)
    assert scenario.leader.wholesale_price == [6, 5, 5]


def test_check_reports_what_is_wrong_with_data(
    a_street: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for words, code, expected in (
        ([], 0, "3 homes"),
        (
            ["--set", "slots=7"],
            2,
            "street.yaml, line 7: leader.wholesale_price: data.spot: meters.csv holds 2016-06-14 00:00",
        ),
        (["--set", "data.meters.unit=kwh"], 2, "--set data.meters.unit=kwh: data.meters.unit: 'kwh' is no unit"),
        (["--set", "data.meters.day=2016-06-15"], 2, "choose another day"),
        (
            ["--set", "data.meters.csv=no.csv"],
            2,
            "--set data.meters.csv=no.csv: homes.each_column_of: data.meters.file",
        ),
        (
            ["--set", "data.spot.time=no"],
            2,
            "--set data.spot.time=no: leader.wholesale_price: meters.csv: no row names the",
        ),
    ):
        monkeypatch.setattr(sys, "argv", ["stackelgrid", "check", "street.yaml", *words])
        assert cli.main() == code
        out, err = capfd.readouterr()
        assert expected in (out if code == 0 else err)
        assert "Traceback" not in err


def test_shipped_week_is_read(tmp_path: Path) -> None:
    """Half hours of a real meter: its days hold the energies of the source, in kWh."""
    folder = Path(__file__).parents[2] / "stackelgrid" / "scenarios" / "cases"
    data = {"csv": "ausgrid_customer12_week.csv", "time": "time", "timezone": "Australia/Sydney", "unit": "kW"}
    for day, load_kwh, pv_kwh in (("2011-07-04", 12.466, 2.212), ("2011-07-08", 12.203, 3.690)):
        home = {"load_kw": {"from": "m", "column": "GC"}, "pv_kw": {"from": "m", "column": "GG"}}
        raw = {"data": {"m": {**data, "interval": "30min", "day": day}}, "home": home}
        made = spell_out(raw, folder, AnyGame)["home"]
        assert (sum(made["load_kw"]), sum(made["pv_kw"])) == pytest.approx((load_kwh, pv_kwh), abs=1e-9)


# JSON Schema, for editors


def valid(value: Any, schema: Any, whole: dict[str, Any]) -> bool:
    """Whether a value fits a JSON Schema, by as much of its specification as pydantic's schemas use."""
    if schema is True or schema == {}:
        return True
    here = json.loads(json.dumps(value, default=str))
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "null": type(None)
    }  # fmt: skip
    kinds["boolean"] = bool
    checks = [
        "$ref" not in schema or valid(here, whole["$defs"][schema["$ref"].rpartition("/")[2]], whole),
        "type" not in schema
        or (isinstance(here, kinds[schema["type"]]) and (here is not True or schema["type"] == "boolean")),
        "const" not in schema or here == schema["const"],
        "enum" not in schema or here in schema["enum"],
        "anyOf" not in schema or any(valid(here, one, whole) for one in schema["anyOf"]),
        "oneOf" not in schema or sum(valid(here, one, whole) for one in schema["oneOf"]) == 1,
    ]
    if isinstance(here, dict):
        known = schema.get("properties", {})
        checks += [key in here for key in schema.get("required", [])]
        checks += [
            valid(item, known[key] if key in known else schema.get("additionalProperties", True), whole)
            for key, item in here.items()
            if key in known or schema.get("additionalProperties", True) is not False
        ]
        checks.append(schema.get("additionalProperties", True) is not False or set(here) <= set(known))
    if isinstance(here, list):
        checks += [valid(item, schema.get("items", True), whole) for item in here]
        checks.append(schema.get("minItems", 0) <= len(here) <= schema.get("maxItems", len(here)))
    if isinstance(here, str) and "pattern" in schema:
        checks.append(re.search(schema["pattern"], here) is not None)
    if isinstance(here, int | float):
        checks += [here >= schema.get("minimum", here), here > schema.get("exclusiveMinimum", here - 1)]
    return all(checks)


def test_schema_takes_what_the_program_takes(a_street: dict[str, list[float]]) -> None:
    plain = UserOrientedScenario.model_json_schema()
    before = json.dumps(plain)
    schema = with_data(plain)
    assert json.dumps(plain) == before
    column = {"from": "meters", "column": "h1"}
    listed = [{"id": "h1", "inelastic": [{"load_kw": column}], "elastic": [{"max_kw": column, "valuation": 1}]}]
    numbers = [{"id": "h1", "inelastic": [{"load_kw": [1, 2]}]}]
    shipped = parse((Path(__file__).parents[2] / "stackelgrid/scenarios/cases/user_oriented.yaml").read_text())
    for good in (street(), street(homes=listed), street(homes=numbers), shipped):
        assert valid(good, schema, schema)
    assert not valid(street(), plain, plain)
    home = street()["homes"]["home"]
    for bad in (
        street(colour="red"),
        street(data={"meters": {**A_DAY, "colour": "red"}}),
        street(data={"meters": {key: value for key, value in A_DAY.items() if key != "csv"}}),
        street(homes=[{"id": "h1", "inelastic": [{"load_kw": {"column": "h1"}}]}]),
        street(homes=[{"id": "h1", "inelastic": [{"load_kw": {**column, "scal": 2}}]}]),
        street(homes={"each_column_of": "meters", "home": {**home, "id": "x"}}),
        street(homes={"each_column_of": "meters"}),
    ):
        assert not valid(bad, schema, schema)


@pytest.mark.parametrize("model", [UserOrientedScenario, Scenario])
def test_schema_defines_every_reference_in_it(model: type[Scenario]) -> None:
    schema = with_data(model.model_json_schema())
    named = set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(schema)))
    assert named <= set(schema["$defs"])
    assert "data" in schema["properties"]
