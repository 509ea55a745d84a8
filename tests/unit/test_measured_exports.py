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
