"""Axes in clock time: ticks stand where their times are, through changes of clocks, and find room."""

import csv
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.report_page import Page

import stackelgrid
from stackelgrid.calendar import Calendar
from stackelgrid.report import drawing
from stackelgrid.report.clock import choose_ticks, describe_axis, name_slot
from stackelgrid.report.drawing import Curve, Paper

SPRING, AUTUMN = datetime(2026, 3, 29), datetime(2026, 10, 25)


def starts(begin: datetime, minutes: int, horizon: str = "24h") -> list[datetime]:
    content = {"start": begin, "timezone": "Europe/Brussels", "slot_minutes": minutes, "horizon": horizon}
    return Calendar.model_validate(content).times


def test_ticks_leave_out_the_hour_that_clocks_skip() -> None:
    times = starts(SPRING, 15)
    ticks = choose_ticks(times, inches=11)
    assert len(times) == 92
    assert [label for _, label in ticks] == [f"{hour:02}:00" for hour in range(24) if hour != 2]
    assert [place for place, _ in ticks] == [4 * number for number in range(23)]


def test_ticks_have_the_hour_twice_that_is_there_twice() -> None:
    times = starts(AUTUMN, 30)
    ticks = choose_ticks(times, inches=11)
    assert len(times) == 50
    assert [label for _, label in ticks] == [f"{hour:02}:00" for hour in [0, 1, 2, *range(2, 24)]]
    assert [place for place, _ in ticks] == [2 * number for number in range(25)]


@given(
    begin=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)).map(
        lambda time: time.replace(hour=4, minute=time.minute // 5 * 5, second=0, microsecond=0)
    ),
    minutes=st.sampled_from([5, 10, 15, 30, 60]),
    hours=st.integers(1, 80),
    inches=st.floats(1.0, 7.0),
)
def test_ticks_stand_where_their_times_are(begin: datetime, minutes: int, hours: int, inches: float) -> None:
    begin = begin.replace(minute=begin.minute // minutes * minutes)
    times = starts(begin, minutes, f"{hours}h")
    ticks = choose_ticks(times, inches)
    for place, label in ticks:
        time = times[int(place)]
        clock, _, date = label.partition("\n")
        day = f"{time.day} {time:%b}"
        assert clock == f"{time:%H:%M}" if ":" in clock else (time.hour, time.minute, clock) == (0, 0, day)
        assert date in ("", day)
    assert len(ticks) * 0.42 <= inches


def test_axis_says_dates_and_offsets() -> None:
    assert describe_axis(starts(SPRING, 60)) == "Time, 29 Mar 2026 (UTC+1, then UTC+2)"
    assert describe_axis(starts(AUTUMN, 60, "48h")) == "Time, 25 Oct – 26 Oct 2026 (UTC+2, then UTC+1)"
    india = Calendar.model_validate({"start": SPRING, "timezone": "Asia/Kolkata"}).times
    assert describe_axis(india) == "Time, 29 Mar 2026 (UTC+5:30)"


def test_figure_over_times_has_a_step_per_slot_and_its_ticks_at_their_starts() -> None:
    times = starts(SPRING, 15)
    with drawing.use_paper(Paper(times=times)):
        figure = drawing.steps([Curve("Load", list(map(float, range(92))))], "Load (kW)")
    (axes,) = figure.axes
    labels = {label.get_text(): tick for label, tick in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert labels["00:00"] == 0.5
    assert labels["04:00"] == 0.5 + 4 * 3  # three hours have passed
    assert axes.get_xlabel() == "Time, 29 Mar 2026 (UTC+1, then UTC+2)"
    assert axes.get_xlim() == (0.5, 92.5)
    assert drawing.steps([Curve("Load", [1.0])], "").axes[0].get_xlabel() == drawing.SLOT


@pytest.mark.parametrize(("begin", "slots"), [(SPRING, 92), (AUTUMN, 100)])
def test_report_of_a_dated_run_is_in_clock_time(tmp_path: Path, begin: datetime, slots: int) -> None:
    home = {
        "id": "h1",
        "inelastic": [{"load_kw": [1.0 + 0.01 * slot for slot in range(slots)]}],
        "elastic": [{"max_kw": 3, "valuation": 30}],
        "storage": [
            {"capacity_kwh": 8, "initial_kwh": 2, "charge_kw": 3, "discharge_kw": 3, "wear": {"fast": 0.5}},
        ],
    }
    scenario = {
        "game": "user_oriented",
        "calendar": {"start": begin.isoformat(), "timezone": "Europe/Brussels", "slot_minutes": 15},
        "leader": {"objective": "welfare", "baseline_price": 20, "wholesale_price": 8, "mu": 1, "price_max": 60},
        "homes": [home],
    }
    run = stackelgrid.run(scenario, out=tmp_path / "run")
    run.report()
    shown = Page(tmp_path / "run" / "report.html")
    assert "Time, " in shown.source
    assert drawing.SLOT not in shown.source
    tables = {path.stem: pq.read_table(path) for path in (tmp_path / "run" / "tables").glob("*.parquet")}
    times = [datetime.fromisoformat(text) for text in run.outcome.times]
    for name in ("slots", "schedules"):
        assert [time.isoformat() for time in tables[name]["time"].to_pylist()] == run.outcome.times
    assert str(tables["slots"]["time"].type) == "timestamp[us, tz=Europe/Brussels]"
    header, *rows = csv.reader((tmp_path / "run" / "tables" / "slots.csv").read_text().splitlines())
    assert [row[header.index("time")] for row in rows] == run.outcome.times
    assert str(run.slots["time"].dtype) == "datetime64[us, Europe/Brussels]"
    assert [time.isoformat() for time in run.slots["time"]] == run.outcome.times
    assert times[-1] - times[0] == (slots - 1) * timedelta(minutes=15)
    bills, load = tables["homes"].to_pydict(), np.array(run.outcome.load_kw)
    assert bills["energy_kwh"] == [pytest.approx(load.sum() / 4)]
    assert bills["bill_cents"] == [pytest.approx(np.array(run.outcome.price) @ load / 4)]
    fell = "1 of 1 home" if bills["bill_cents"] < bills["baseline_bill_cents"] else "0 of 1 home"
    assert f"Bills fell for {fell}, " in shown.text
    assert name_slot(run.outcome, 13) == {SPRING: "04:00", AUTUMN: "02:00"}[begin]
