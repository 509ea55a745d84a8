"""Exports as meters, portals and markets write them: each is read with the energy that it has."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from stackelgrid.scenarios.measured import spell_out

EXPORTS = Path(__file__).parent / "exports"
DAY = "2025-06-14"


class AnyGame(BaseModel):
    slots: int = 24
    money: str = "cents"


def read(data: dict[str, Any], column: str, slots: int = 24, key: str = "load_kw") -> tuple[list[float], list[str]]:
    """Read a column of an export, and what was shown of it."""
    shown: list[str] = []
    day = {} if "first" in data else {"day": DAY}
    raw = {"slots": slots, "data": {"m": day | data}, key: {"from": "m", "column": column}}
    return spell_out(raw, EXPORTS, AnyGame, shown.append)[key], shown


# The sums were taken from the files by hand, without regard to their times.
METERS: dict[str, tuple[dict[str, Any], str, float]] = {
    "date and time apart, an empty last column": (
        {"file": "edc.csv", "time": ["Datum", "Cas od"], "timezone": "Europe/Prague", "unit": "kWh"}
        | {"decimal": ",", "format": "%d.%m.%Y %H:%M"},
        "000000000000000000-000000000000000000",
        13.389,
    ),
    "a day a row": (
        {"file": "enel.csv", "time": "Giorno", "timezone": "Europe/Rome", "unit": "kWh", "layout": "wide"}
        | {"decimal": ",", "format": "%d/%m/%Y"},
        "value",
        13.389,
    ),
    "seconds since 1970": (
        {"file": "epoch.csv", "time": "time", "timezone": "UTC", "unit": "W", "format": "epoch"},
        "power",
        8.34,
    ),
    "a byte-order mark, registers below each other": (
        {"file": "fluvius.csv", "time": ["Van (datum)", "Van (tijdstip)"], "timezone": "Europe/Brussels"}
        | {"unit": "kWh", "decimal": ",", "format": "%d-%m-%Y %H:%M:%S"}
        | {"where": {"Register": ["Afname Dag", "Afname Nacht"]}},
        "Volume",
        13.389,
    ),
    "a row with units": (
        {"file": "fronius.csv", "time": "Datum und Uhrzeit", "timezone": "Europe/Vienna", "unit": "Wh"}
        | {"format": "%d.%m.%Y %H:%M"},
        "Energie vom Netz bezogen",
        13.4,
    ),
    "lines above the table": (
        {"file": "greenbutton.csv", "time": ["DATE", "START TIME"], "timezone": "America/Los_Angeles", "unit": "kWh"},
        "USAGE (kWh)",
        13.39,
    ),
    "a history of states": (
        {"file": "ha_history.csv", "time": "last_changed", "timezone": "UTC", "unit": "W", "reading": "sample"}
        | {"fill": {"slots": 0.5}},
        "state",
        13.467,
    ),
    "seconds late": (
        {"file": "jitter.csv", "time": "time", "timezone": "UTC", "unit": "kW"},
        "kW",
        12,
    ),
    "ends of intervals, 24:00": (
        {"file": "lastgang_24.csv", "time": "Datum Zeit", "timezone": "Europe/Berlin", "unit": "kW", "decimal": ","}
        | {"format": "%d.%m.%Y %H:%M", "stamp": "end"},
        "kW",
        13.4,
    ),
    "ends of half-hours with offsets": (
        {"file": "linky.csv", "time": "Horodate", "timezone": "Europe/Paris", "unit": "W", "stamp": "end"},
        "Valeur",
        13.4,
    ),
    "meters below each other": (
        {"file": "london_three.csv", "time": "DateTime", "timezone": "Europe/London", "unit": "kWh"}
        | {"where": {"LCLid": "MAC2"}},
        "KWH/hh (per half hour)",
        13.409,
    ),
    "the newest first": (
        {"file": "octopus_newest_first.csv", "time": "Start", "timezone": "Europe/London", "unit": "kWh"},
        "Consumption (kwh)",
        13.409,
    ),
    "lines below the table, ten minutes past": (
        {"file": "pvgis.csv", "time": "time", "timezone": "UTC", "unit": "W", "format": "%Y%m%d:%H%M"}
        | {"day": "2023-06-14"},
        "P",
        40.6127,
    ),
    "points between thousands": (
        {"file": "thousands_de.csv", "time": "time", "timezone": "Europe/London", "unit": "W"}
        | {"decimal": ",", "thousands": "."},
        "load",
        40.2,
    ),
}


@pytest.mark.parametrize("name", METERS)
def test_export_is_read_with_the_energy_that_it_has(name: str) -> None:
    data, column, energy = METERS[name]
    hours, _ = read(data, column)
    assert len(hours) == 24 and min(hours) >= 0
    assert sum(hours) == pytest.approx(energy, rel=5e-5)


def test_day_of_25_hours_is_read_by_its_offsets() -> None:
    autumn = {"file": "octopus_autumn.csv", "time": "Start", "timezone": "Europe/London", "day": "2025-10-26"}
    hours, _ = read(autumn | {"unit": "kWh"}, "Consumption (kwh)", 25)
    assert sum(hours) == pytest.approx(13.949)
    prices = {"file": "tibber_autumn.csv", "time": "startsAt", "timezone": "Europe/Stockholm", "day": "2025-10-26"}
    hours, _ = read(prices | {"unit": "EUR/kWh", "exchange": 100}, "total", 25, "wholesale_price")
    assert sum(hours) == pytest.approx(77.21)


def test_totals_are_read_between_readings_at_any_time() -> None:
    counter = {"file": "counter_small.csv", "time": "time", "timezone": "Europe/Amsterdam", "unit": "kWh"}
    hours, _ = read(counter | {"reading": "total"}, "kWh", 23)
    assert hours[:2] == pytest.approx([0.488, 0.533]) and sum(hours) == pytest.approx(12.975)
    between, _ = read(counter | {"reading": "total", "first": f"{DAY} 00:15"}, "kWh", 1)
    assert between == pytest.approx([0.75 * 0.488 + 0.25 * 0.533])


def test_what_was_found_in_a_file_is_shown() -> None:
    data, column, _ = METERS["lines below the table, ten minutes past"]
    _, shown = read(data, column)
    path = EXPORTS / "pvgis.csv"
    assert shown == [
        f"{path}: its columns are named in row 12",
        f"{path}: the lines from row 38 on are not part of its table",
        f"{path}: its rows are 60 minutes apart",
        f"{path}: each row is 0:10:00 after the beginning of its interval",
        f"{path}, row 13, column P: '0.00' was read as 0 W",
    ]


REFUSED: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "several meters": (METERS["meters below each other"][0] | {"where": {}}, "KWH/hh (per half hour)", ["m.where"]),
    "no such meter": (
        METERS["meters below each other"][0] | {"where": {"LCLid": "MAC9"}},
        "KWH/hh (per half hour)",
        ["no row with 'MAC9' in column LCLid", "'MAC1', 'MAC2', 'MAC3'"],
    ),
    "seconds without their key": (
        {"file": "epoch.csv", "time": "time", "timezone": "UTC", "unit": "W"},
        "power",
        ["'1749859200' is no time", "set data.m.format: epoch if these are seconds since 1970"],
    ),
    "another unit than written": (
        METERS["a row with units"][0] | {"unit": "kWh"},
        "Energie vom Netz bezogen",
        ["in Wh; correct data.m.unit, now kWh"],
    ),
    "gaps in a history": (
        METERS["a history of states"][0] | {"fill": {"slots": 0.01}},
        "state",
        ["row 234", "there is no reading for 0:", "data.m.fill"],
    ),
    "thousands without their key": (
        METERS["points between thousands"][0] | {"thousands": None},
        "load",
        ["'1.464,00' is no number", "give thousands"],
    ),
    "a day a row read as long": (
        METERS["a day a row"][0] | {"layout": "long"},
        "00:00-00:15",
        ["has a day per row; set data.m.layout: wide, and column: value"],
    ),
    "ends taken for beginnings": (
        METERS["ends of intervals, 24:00"][0] | {"stamp": "start"},
        "kW",
        ["if rows have the time at which their interval ends, set data.m.stamp: end, or choose another day"],
    ),
    "days without times of day": (
        METERS["lines above the table"][0] | {"time": "DATE"},
        "USAGE (kWh)",
        ["the column DATE has days without times of day; set data.m.time: [DATE, START TIME]"],
    ),
    "a history read as intervals": (
        METERS["a history of states"][0] | {"reading": None, "interval": "5min"},
        "state",
        ["row 3", "is not a multiple of 5min", "leave data.m.interval out, and set reading: sample"],
    ),
    "an export without a day a row": (
        METERS["seconds late"][0] | {"layout": "wide"},
        "value",
        ["data.m.layout", "no columns named by times of the day"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_export_is_refused_with_the_key_that_reads_it(name: str) -> None:
    data, column, expected = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        read({key: value for key, value in data.items() if value is not None}, column)
    for part in expected:
        assert part in str(caught.value)


def test_missing_intervals_are_filled_between_their_neighbours(tmp_path: Path) -> None:
    rows = [f"{DAY} {hour:02d}:00,{10 * hour}" for hour in range(24) if hour not in (0, 7, 8, 23)]
    (tmp_path / "gaps.csv").write_text("\n".join(["time,W", *rows]))
    series = {"file": str(tmp_path / "gaps.csv"), "time": "time", "timezone": "UTC", "unit": "W"}
    hours, shown = read(series | {"fill": {"slots": 2}}, "W")
    assert hours == pytest.approx([0.01 * min(max(hour, 1), 22) for hour in range(24)])
    assert f"{series['file']}: 4 missing intervals of 60min are filled" in shown
    with pytest.raises(ValueError, match=r"2025-06-14 07:00 is missing, one of 4; .* or set data\.m\.fill"):
        read(series | {"fill": {"slots": 1}}, "W")


def test_meters_by_turns_are_told_apart_by_where(tmp_path: Path) -> None:
    rows = [f"{DAY} {hour:02d}:00,{meter},{hour}" for hour in range(24) for meter in "AB"]
    (tmp_path / "turns.csv").write_text("\n".join(["time,meter,kW", *rows]))
    series = {"file": str(tmp_path / "turns.csv"), "time": "time", "timezone": "UTC", "unit": "kW"}
    with pytest.raises(ValueError, match=r"column time: most rows have the time of the row before; set data\.m\.where"):
        read(series, "kW")
    assert read(series | {"where": {"meter": "B"}}, "kW")[0] == list(range(24))


def test_meters_below_each_other_become_homes() -> None:
    long = METERS["meters below each other"][0] | {"where": {}, "meter": "LCLid", "value": "KWH/hh (per half hour)"}
    del long["unit"]  # it is in the name of the column with their numbers
    each = {"each_column_of": "m", "except": ["MAC1"], "home": {"load_kw": {"column": "own"}}}
    raw = {"slots": 24, "data": {"m": {"day": DAY} | long}, "homes": each}
    homes = spell_out(raw, EXPORTS, AnyGame)["homes"]
    assert [home["id"] for home in homes] == ["MAC2", "MAC3"]
    assert homes[0]["load_kw"] == read(*METERS["meters below each other"][:2])[0]
    with pytest.raises(ValueError, match=r"no 'MAC9' in its column LCLid; there are 'MAC1', 'MAC2', 'MAC3'"):
        read(long, "MAC9")
    with pytest.raises(ValueError, match=r"data\.m: give value, the column with the numbers of each meter"):
        read(long | {"value": None}, "MAC2")


def test_unit_other_than_the_columns_name_says_is_asked_about() -> None:
    data, column, _ = METERS["lines above the table"]
    asked = f"{EXPORTS / 'greenbutton.csv'}: column USAGE (kWh) is named as in kWh; is data.m.unit kW?"
    assert asked in read(data | {"unit": "kW"}, column)[1]
    assert not any("is named as in" in sentence for sentence in read(data, column)[1])


def test_columns_named_like_nodes_become_homes() -> None:
    each = {"each_column_of": "m", "home": {"load_kw": {"column": "own"}}}
    data = {"m": {"file": "cols.csv", "timezone": "UTC", "unit": "kW", "day": DAY}}
    homes = spell_out({"data": data, "homes": each}, EXPORTS, AnyGame)["homes"]
    energies = {home["id"]: sum(home["load_kw"]) for home in homes}
    assert energies == pytest.approx({"home-a1": 12.0, "home-a2": 14.4, "home-leader": 16.8})
