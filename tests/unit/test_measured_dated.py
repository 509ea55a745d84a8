"""Data in dated slots of any length: the window of the run by real time, with the energy that the file has."""

import zoneinfo
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from stackelgrid.calendar import Calendar
from stackelgrid.scenarios.measured import spell_out
from stackelgrid.scenarios.measured.units import find_unit, per_slot

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
SERIES = {"file": "m.csv", "time": "time", "unit": "kWh", "reading": "interval"}
WEEK = {"timezone": "Europe/Berlin", "slot_minutes": 15, "horizon": "24h", "days": 7}


class AnyGame(BaseModel):
    slots: int = 24
    money: str = "cents"


def export(folder: Path, start: str, count: int, minutes: int, numbers: Sequence[object], *, form: str = "") -> None:
    """Write rows from a local time of Berlin on, with offsets or as in `form`."""
    first = datetime.fromisoformat(start).replace(tzinfo=BERLIN).astimezone(UTC)
    times = [(first + number * timedelta(minutes=minutes)).astimezone(BERLIN) for number in range(count)]
    rows = [f"{at.strftime(form) if form else at.isoformat()},{x}" for at, x in zip(times, numbers, strict=True)]
    (folder / "m.csv").write_text("\n".join(["time,x", *rows]))


def read(folder: Path, calendar: dict[str, Any], data: dict[str, Any], key: str = "load_kw") -> tuple[Any, list[str]]:
    shown: list[str] = []
    raw = {"calendar": calendar, "data": {"m": SERIES | data}, key: {"from": "m", "column": "x"}}
    return spell_out(raw, folder, AnyGame, shown.append)[key], shown


def refusal(folder: Path, calendar: dict[str, Any], data: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        read(folder, calendar, data)
    return str(caught.value)


LENGTHS = st.sampled_from([5, 10, 15, 20, 30, 60])


@given(
    step=LENGTHS,
    slot=LENGTHS,
    late=st.integers(0, 11),
    unit=st.sampled_from(["kW", "Wh", "kWh", "EUR/MWh"]),
    data=st.data(),
)
@settings(deadline=None)
def test_slots_have_the_energy_of_their_time(step: int, slot: int, late: int, unit: str, data: Any) -> None:
    """In exact fractions: power is constant in an interval, whatever part of it a slot has."""
    values = data.draw(st.lists(st.integers(-1000, 1000), min_size=24, max_size=30))
    begin = 5 * late % step
    of, to = find_unit(unit), find_unit("cents/kWh" if "/" in unit else "kW")
    minutes = (timedelta(minutes=m) for m in (step, slot, begin))
    found = per_slot(values, of, to, *minutes)
    rate = of.size / to.size / (Fraction(step, 60) if of.quantity == "energy" else 1)
    assert len(found) == (len(values) * step - begin) // slot
    for number, mean in enumerate(found):
        edges = begin + number * slot, begin + (number + 1) * slot
        shares = [max(min(edges[1], (i + 1) * step) - max(edges[0], i * step), 0) for i in range(len(values))]
        exact = sum(Fraction(x) * share for x, share in zip(values, shares, strict=True)) / slot * rate
        assert mean == pytest.approx(float(exact), rel=1e-12, abs=1e-9)


def test_energy_of_a_key_in_kwh_is_that_of_its_slot() -> None:
    quarter, hour = timedelta(minutes=15), timedelta(hours=1)
    assert per_slot([4.0], find_unit("kW"), find_unit("kWh"), hour, quarter).tolist() == [1.0] * 4
    assert per_slot([1.0], find_unit("kWh"), find_unit("kWh"), quarter, quarter).tolist() == [1.0]


@pytest.mark.parametrize(("start", "slots"), [("2026-03-26", 668), ("2026-10-22", 676)])
@pytest.mark.parametrize("form", ["", "%d.%m.%Y %H:%M"])
def test_week_over_a_change_of_clocks_is_read_by_real_time(start: str, slots: int, form: str, tmp_path: Path) -> None:
    energy = np.random.default_rng(slots).uniform(0, 1, 800).round(3)
    export(tmp_path, f"{start} 00:00", 800, 15, energy.tolist(), form=form)
    given_format = {"format": form} if form else {}
    load, shown = read(tmp_path, {**WEEK, "start": f"{start}T00:00"}, given_format)
    assert load == pytest.approx(4 * energy[:slots], rel=1e-12)
    assert (f"{tmp_path / 'm.csv'}: its times have no zone, Europe/Berlin of the calendar is taken" in shown) == bool(
        form
    )
    hours, _ = read(tmp_path, {**WEEK, "start": f"{start}T00:00", "slot_minutes": 60}, given_format)
    assert hours == pytest.approx(energy[:slots].reshape(-1, 4).sum(axis=1), rel=1e-12)
    calendar = Calendar.model_validate({**WEEK, "start": f"{start}T06:00", "days": 1})
    later, _ = read(tmp_path, {**WEEK, "start": f"{start}T06:00", "days": 1}, given_format)
    assert later == pytest.approx(4 * energy[24 : 24 + calendar.slots], rel=1e-12)


@pytest.mark.parametrize("stamp", ["start", "end"])
@pytest.mark.parametrize("skipped", ["", "0,000"])
def test_day_a_row_of_23_hours_leaves_out_the_hour_that_clocks_skip(stamp: str, skipped: str, tmp_path: Path) -> None:
    quarters = [number * 15 + 15 * (stamp == "end") for number in range(96)]
    names = [f"{minutes // 60 % 24:02d}:{minutes % 60:02d}" for minutes in quarters]
    rows = [";".join(["Tag", *names])]
    for day in (28, 29, 30):
        cells = [f"0,{day}{number:02d}" for number in range(96)]
        gap = slice(8, 12)  # from 02:00 to 03:00
        cells[gap] = [skipped] * 4 if day == 29 else cells[gap]
        rows.append(";".join([f"{day}.03.2026", *cells]))
    (tmp_path / "m.csv").write_text("\n".join(rows))
    data = {"time": "Tag", "format": "%d.%m.%Y", "layout": "wide", "decimal": ",", "stamp": stamp}
    raw = {
        "calendar": {**WEEK, "start": "2026-03-28T00:00", "days": 3},
        "data": {"m": SERIES | data},
        "load_kw": {"from": "m", "column": "value"},
    }
    load = spell_out(raw, tmp_path, AnyGame)["load_kw"]
    there = [4 * float(f"0.{day}{n:02d}") for day in (28, 29, 30) for n in range(96) if day != 29 or not 8 <= n < 12]
    assert load == pytest.approx(there)


def test_day_a_row_of_25_hours_in_24_is_refused(tmp_path: Path) -> None:
    rows = [",".join(["day", *(f"{hour:02d}:00" for hour in range(24))])]
    rows += [",".join([f"2026-10-{day}", *["1"] * 24]) for day in (24, 25, 26)]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    raw = {
        "calendar": {**WEEK, "start": "2026-10-24T00:00", "days": 3},
        "data": {"m": SERIES | {"time": "day", "layout": "wide"}},
        "load_kw": {"from": "m", "column": "value"},
    }
    with pytest.raises(ValueError, match=r"row 3, column day: 2026-10-25 02:00 is there twice, in this file once"):
        spell_out(raw, tmp_path, AnyGame)


def test_hour_that_is_there_twice_is_told_apart_in_rows_of_hours(tmp_path: Path) -> None:
    export(tmp_path, "2026-10-25 00:00", 25, 60, range(25), form="%Y-%m-%d %H:%M")
    calendar = {**WEEK, "slot_minutes": 60, "start": "2026-10-25T00:00", "days": 1}
    assert read(tmp_path, calendar, {})[0] == list(range(25))


def test_prices_of_hours_hold_in_their_quarters(tmp_path: Path) -> None:
    export(tmp_path, "2026-01-05 00:00", 48, 60, range(48))
    prices = {"unit": "EUR/MWh", "exchange": 100, "reading": None}
    found, _ = read(tmp_path, {**WEEK, "start": "2026-01-05T06:30", "days": 1}, prices, "wholesale_price")
    assert found[:6] == pytest.approx([0.6] * 2 + [0.7] * 4) and len(found) == 96


def test_data_that_end_before_the_run_are_refused(tmp_path: Path) -> None:
    export(tmp_path, "2026-01-05 00:00", 96 * 7 - 10, 15, range(96 * 7 - 10))
    told = refusal(tmp_path, {**WEEK, "start": "2026-01-05T00:00"}, {})
    assert "m.csv holds 2026-01-05 00:00+01:00 to 2026-01-11 21:15+01:00" in told
    assert "not all of the 672 slots of 15 min from 2026-01-05 00:00+01:00, 10 of them missing" in told
    assert told.endswith("shorten the run, or give data for all of it")


def test_gap_is_filled_by_its_length_in_slots(tmp_path: Path) -> None:
    export(tmp_path, "2026-01-05 00:00", 24, 60, range(24))
    lines = (tmp_path / "m.csv").read_text().splitlines()
    (tmp_path / "m.csv").write_text("\n".join(lines[:8] + lines[9:]))
    calendar = {**WEEK, "start": "2026-01-05T00:00", "days": 1}
    load, shown = read(tmp_path, calendar, {"fill": {"slots": 4}})
    assert load[24:36] == pytest.approx([6] * 4 + [7] * 4 + [8] * 4)
    assert f"{tmp_path / 'm.csv'}: 1 missing intervals of 60min are filled" in shown
    assert "2026-01-05 07:00+01:00 is missing, one of 1" in refusal(tmp_path, calendar, {"fill": {"slots": 3}})


def test_data_of_another_time_are_read_from_first_on(tmp_path: Path) -> None:
    export(tmp_path, "2011-07-04 00:00", 400, 30, range(400))
    load, _ = read(tmp_path, {**WEEK, "start": "2026-03-29T00:00", "days": 1}, {"first": "2011-07-04 06:00"})
    assert len(load) == 92 and load[:4] == pytest.approx([24, 24, 26, 26])


def test_samples_must_reach_from_the_first_slot_to_the_last(tmp_path: Path) -> None:
    export(tmp_path, "2026-01-05 00:07", 90, 15, range(90))
    calendar = {**WEEK, "start": "2026-01-05T00:00", "days": 1}
    samples = {"unit": "kW", "reading": "sample", "fill": {"slots": 2}}
    assert "m.csv holds 2026-01-05 00:07+01:00 to" in refusal(tmp_path, calendar, samples)
    export(tmp_path, "2026-01-04 23:55", 80, 15, range(80))
    told = refusal(tmp_path, calendar, samples)
    assert "m.csv holds 2026-01-04 23:55+01:00 to 2026-01-05 19:40+01:00" in told
    assert len(read(tmp_path, calendar, samples | {"fill": {"slots": 24}})[0]) == 96


def test_local_times_without_a_zone_are_refused_without_a_calendar(tmp_path: Path) -> None:
    export(tmp_path, "2026-01-05 00:00", 24, 60, range(24), form="%Y-%m-%d %H:%M")
    raw = {"data": {"m": SERIES | {"day": "2026-01-05"}}, "load_kw": {"from": "m", "column": "x"}}
    with pytest.raises(ValueError, match=r"data\.m\.timezone: the times in .* have no UTC offset; give their zone"):
        spell_out(raw, tmp_path, AnyGame)
    export(tmp_path, "2026-01-05 00:00", 24, 60, range(24))
    with pytest.raises(ValueError, match=r"data\.m\.timezone: .* does not say whose day is meant; give its time zone"):
        spell_out(raw, tmp_path, AnyGame)
