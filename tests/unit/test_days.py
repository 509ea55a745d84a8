"""The report of many days: what bound adds up, day by day, through a change of clocks."""

import json
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.figure_fit import list_what_sticks_out
from support.report_page import Page, figures

import stackelgrid
from stackelgrid.calendar import Calendar
from stackelgrid.report import ReportError, days, drawing, page, tables, write
from stackelgrid.report.game import find_report
from stackelgrid.report.run_folder import read
from stackelgrid.report.tables import checks, summary
from stackelgrid.report.words import change, tiny
from stackelgrid.run_result import parse

FLAT = 20.0


def scenario(**calendar: Any) -> dict[str, Any]:
    """Three homes over three days, the second of which has 23 hours."""
    times = {"start": "2026-03-28T00:00", "timezone": "Europe/Brussels", "slot_minutes": 30, "days": 3, **calendar}
    slots = 2 * 71

    def home(number: int) -> dict[str, Any]:
        store = {"capacity_kwh": 6, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.5}}
        return {
            "id": f"h{number}",
            "inelastic": [{"load_kw": [0.5 + 0.1 * number + (t % 48 > 35) + 0.002 * t for t in range(slots)]}],
            "elastic": [{"max_kw": 1.0, "valuation": 18.0 + number}],
            "storage": [store] if number else [],
        }

    leader = {"objective": "welfare", "baseline_price": FLAT, "wholesale_price": 15, "mu": 4, "price_max": 60}
    return {"game": "user_oriented", "calendar": times, "leader": leader, "homes": [home(n) for n in range(3)]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, stackelgrid.Run]:
    """A run day after day, and one that plans again every six hours, each with its report."""
    played = {}
    for name, calendar in (("daily", {"horizon": "24h"}), ("rolling", {"horizon": "24h", "every": "6h"})):
        out = tmp_path_factory.mktemp("runs") / name
        played[name] = stackelgrid.run(scenario(**calendar), out=out, report=True)
    return played


def table(run: stackelgrid.Run, name: str) -> dict[str, list[Any]]:
    assert run.folder is not None
    content: dict[str, list[Any]] = pq.read_table(run.folder / "tables" / f"{name}.parquet").to_pydict()
    return content


def folder_of(run: stackelgrid.Run) -> Path:
    assert run.folder is not None
    return run.folder


each = pytest.mark.parametrize("name", ["daily", "rolling"])


@each
def test_days_add_up_to_the_slots_that_bound(runs: dict[str, stackelgrid.Run], name: str) -> None:
    by_day, slots = table(runs[name], "days"), table(runs[name], "slots")
    assert by_day["date"] == ["2026-03-28", "2026-03-29", "2026-03-30"]
    assert by_day["slots"] == [48, 46, 48]
    bound = np.array(slots["binding"])
    times = np.array(slots["time"])[bound]
    assert [time.isoformat() for time in times] == [time.isoformat() for time in runs[name].scenario.calendar.times]
    load, price = (np.array(slots[key])[bound] for key in ("load_kw", "price_cents_per_kwh"))
    for day, energy, peak, revenue in zip(
        by_day["date"], by_day["energy_kwh"], by_day["peak_kw"], by_day["revenue_cents"], strict=True
    ):
        of_day = np.array([time.date().isoformat() == day for time in times])
        assert energy == pytest.approx(load[of_day].sum() / 2)
        assert peak == load[of_day].max()
        assert revenue == pytest.approx(price[of_day] @ load[of_day] / 2)
    assert sum(by_day["rounds"]) == runs[name].result.rounds


@each
def test_bills_of_the_run_add_up_to_its_revenue(runs: dict[str, stackelgrid.Run], name: str) -> None:
    by_day, savings = table(runs[name], "days"), table(runs[name], "savings")
    assert sum(savings["bill_cents"]) == pytest.approx(sum(by_day["revenue_cents"]), rel=1e-9)
    assert sum(savings["baseline_bill_cents"]) == pytest.approx(FLAT * sum(by_day["baseline_energy_kwh"]), rel=1e-9)
    # Without storage nothing is carried over: the bill before is the flat price of what the first rounds drew.
    first = [session.outcome.homes["h0"].baseline_bill for session in runs["daily"].result.sessions]
    assert savings["baseline_bill_cents"][0] == pytest.approx(sum(first), rel=1e-9)


@each
def test_appliances_add_up_from_the_state_that_each_session_began_with(
    runs: dict[str, stackelgrid.Run], name: str
) -> None:
    homes, appliances = table(runs[name], "schedules"), table(runs[name], "appliances")
    keys = ("session", "home", "slot")
    drawn: dict[Any, float] = {}
    for *key, load in zip(*(appliances[key] for key in keys), appliances["load_kw"], strict=True):
        drawn[tuple(key)] = drawn.get(tuple(key), 0.0) + load
    for *key, load in zip(*(homes[key] for key in keys), homes["load_kw"], strict=True):
        assert drawn[tuple(key)] == pytest.approx(load, abs=1e-7)
    assert len(drawn) == len(homes["slot"])


def test_stored_energy_goes_on_from_session_to_session(runs: dict[str, stackelgrid.Run]) -> None:
    run = runs["rolling"]
    rows = table(run, "appliances")
    battery = [place for place, kind in enumerate(rows["kind"]) if kind == "storage" and rows["home"][place] == "h1"]
    level = 2.0
    for place in battery:
        if rows["binding"][place]:
            level += rows["load_kw"][place] / 2
            assert rows["stored_kwh"][place] == pytest.approx(level, abs=1e-7)


@each
def test_page_of_many_days_has_them_by_day_and_hour(runs: dict[str, stackelgrid.Run], name: str) -> None:
    run = runs[name]
    text = Page(folder_of(run) / "report.html").text
    sessions = len(run.scenario.sessions)
    assert f"All {sessions} sessions settled, in {run.result.rounds} rounds" in text
    rows = summary(run.result, run.days)
    for label, value in rows[2:]:
        assert " ".join(f"{label} {value}".split()) in text
    by_day = table(run, "days")
    before, after = (max(by_day[f"{prefix}peak_kw"]) for prefix in ("baseline_", ""))
    assert ("Peak load", change(before, after, "kW")) in rows
    assert "Sun 29 Mar (23 h)" in text
    assert "Blank: an hour that clocks skip." in text
    assert {"load_course", "price_by_day", "load_by_day", "bills"} == figures(folder_of(run))
    saved = np.subtract(*(table(run, "savings")[key] for key in ("baseline_bill_cents", "bill_cents")))
    assert f"The bill fell for {np.sum(saved > 0)} of 3 homes" in text
    assert (
        f"It fell for {np.sum(saved[1:] > 0)} of 2 homes with storage, {np.sum(saved[:1] > 0)} of 1 home without"
        in text
    )
    paid = [sum(table(run, "savings")[key]) for key in ("baseline_bill_cents", "bill_cents")]
    assert ("Bills together", change(*paid, "cents")) in rows


def devices(slots: int, **calendar: Any) -> dict[str, Any]:
    """A home with everything and one that draws much, over some hours."""
    wear, base = {"fast": 0.05}, [0.4 + (t % 24 > 17) for t in range(slots)]
    store = {"capacity_kwh": 8, "initial_kwh": 3, "charge_kw": 3, "discharge_kw": 3, "wear": wear}
    trips = [{"leave": 8 + day, "back": 18 + day, "uses_kwh": 6} for day in range(0, slots, 24)]
    pump = {"max_kw": 3, "cop": 3, "heat_kwh_per_k": 8, "loss_kw_per_k": 0.2, "outside_c": [4.0] * slots}
    pump |= {"initial_c": 21, "comfort": {"min_c": 20, "max_c": 22, "price": 10}, "fast": 0.05}
    home = {
        "id": "all",
        "inelastic": [{"load_kw": base}],
        "pv": [{"available_kw": [max(0.0, 9 * np.sin((t % 24 - 6) / 12 * np.pi)) for t in range(slots)]}],
        "storage": [store | {"charge_efficiency": 0.95, "discharge_efficiency": 0.95}],
        "ev": [{"capacity_kwh": 50, "initial_kwh": 25, "charge_kw": 7, "trips": trips, "wear": wear}],
        "heat_pump": [pump],
        "connection": {"draw_kw": 12, "feed_in_kw": 8},
        "feed_in_price": 6,
    }
    plain = {"id": "plain", "inelastic": [{"load_kw": [9.0] * slots}], "elastic": [{"max_kw": 1.0, "valuation": 18.0}]}
    return scenario() | {"homes": [home, plain], "calendar": {"start": "2026-04-01T00:00", **calendar}}


def test_page_of_homes_with_all_devices_draws_them(tmp_path: Path) -> None:
    run = stackelgrid.run(devices(24), out=tmp_path / "run", report=True)
    assert {"storage", "cars", "pv", "rooms"} < figures(tmp_path / "run")
    text = Page(tmp_path / "run" / "report.html").text
    assert "The energy in each car, also while it is away" in text
    assert " of each home, at the end of each slot; 1 home of 2 has one." in text
    assert "PV of 1 home together" in text
    assert "1 room with a heat pump" in text
    assert run.outcome.homes["all"].baseline_utility == table(run, "homes")["baseline_utility_cents"][0]


@pytest.mark.parametrize("every", ["24h", "6h"])
def test_tables_of_homes_with_all_devices_add_up(tmp_path: Path, every: str) -> None:
    run = stackelgrid.run(devices(48, horizon="24h", every=every, days=2), out=tmp_path / "run", report=True)
    rows, homes, savings = (table(run, name) for name in ("appliances", "schedules", "savings"))
    assert {"inelastic", "pv", "storage", "ev", "heat_pump"} == set(rows["kind"]) - {"elastic"}
    drawn: dict[Any, float] = {}
    for *key, load in zip(rows["session"], rows["home"], rows["slot"], rows["load_kw"], strict=True):
        drawn[tuple(key)] = drawn.get(tuple(key), 0.0) + load
    for *key, load in zip(homes["session"], homes["home"], homes["slot"], homes["load_kw"], strict=True):
        assert drawn[tuple(key)] == pytest.approx(load, abs=1e-6)
    assert sum(fed or 0.0 for fed in homes["feed_in_kw"]) > 1
    # What is fed in earns less than the price at which the leader sells it.
    assert sum(savings["bill_cents"]) > sum(table(run, "days")["revenue_cents"]) + 1
    if every == "24h":
        for number, name in enumerate(savings["home"]):
            settled = [session.outcome.homes[name] for session in run.result.sessions]
            assert savings["bill_cents"][number] == pytest.approx(sum(each.bill for each in settled), rel=1e-9)


def test_page_of_a_game_without_one_price_shows_the_totals_of_each_session(tmp_path: Path) -> None:
    pv, load = [0.0, 0.0, 9.0, 0.0], [5.0, 6.0, 7.0, 8.0]
    prosumers = {
        "game": "prosumer",
        "calendar": {"start": "2026-04-01T00:00", "horizon": "4h", "days": 1},
        "leader": {
            "event": {"first": "02:00", "last": "03:00"},
            "cost": {"c0": 100, "c1": 1, "c2": 0.01},
            "system_load_kw": [90.0, 95.0, 110.0, 100.0] * 6,
            "tariffs": {"residential": [20.0] * 24},
        },
        "homes": [
            {"id": f"p{n}", "tariff": "residential", "load_kw": load * 6, "pv_kw": pv * 6, "pv_cost": 5, "alpha": 0.5}
            for n in range(2)
        ],
    }
    run = stackelgrid.run(prosumers, out=tmp_path / "run", report=True)
    text = Page(tmp_path / "run" / "report.html").text
    assert "All 6 sessions settled" in text
    assert "Each session by the time at which it begins" in text
    assert "Wed 1 Apr 04:00" in text
    assert len(run.result.sessions) == 6
    assert table(run, "days")["slots"] == [24]


def test_certificate_of_many_sessions_shows_the_worst(runs: dict[str, stackelgrid.Run]) -> None:
    run = stackelgrid.load(folder_of(runs["daily"]))
    run.certify(samples=5)
    found = {check.key: check for check in checks(run.result)}
    gaps = [session.certificate.number("gap") for session in run.result.sessions]
    assert found["gap"].value == tiny(max(gaps), "")
    assert found["feasible"].passed
    broken = run.result.sessions[1].certificate.root | {"gap": 1.0}
    content = json.loads(json.dumps(run.result.content()))
    content["sessions"][1]["certificate"] = broken
    (failed,) = [check for check in checks(type(run.result).model_validate(content)) if check.passed is False]
    assert failed.key == "gap"


def test_run_that_is_certified_in_part_says_how_many_sessions_are(
    runs: dict[str, stackelgrid.Run], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(folder_of(runs["daily"]), folder)
    run = stackelgrid.load(folder)
    run.certify(samples=5)
    content = run.result.content() | {"certificate": None}
    content["sessions"][1]["certificate"] = None
    number = len(content["sessions"])
    told = f"{number - 1} of {number} sessions certified"
    assert tables.tell_certificate(parse(content)) == told
    assert tables.verdict(parse(content)) == [("Certificate", told)]
    (folder / "result.json").write_text(json.dumps(content))
    text = Page(write(folder)).text
    assert f"Certificate: {told}." in text
    assert f"{told}; the numbers are of those." in text
    assert "checks passed" not in text
    assert "✓ Certificate" not in text

    content["sessions"][0]["certificate"]["gap"] = 1.0
    assert tables.tell_certificate(parse(content)) == f"not passed: gap to the reference; {told}"


def test_scenario_with_other_sessions_is_refused(runs: dict[str, stackelgrid.Run], tmp_path: Path) -> None:
    from stackelgrid.report import write

    for file in ("result.json", "rounds.jsonl", "scenario.yaml"):
        (tmp_path / file).write_bytes((folder_of(runs["daily"]) / file).read_bytes())
    text = (tmp_path / "scenario.yaml").read_text()
    assert "horizon: 24h" in text
    (tmp_path / "scenario.yaml").write_text(text.replace("horizon: 24h", "horizon: 24h\n  every: 12h"))
    with pytest.raises(ReportError, match=r"6 sessions, result\.json has 3; put back the scenario that was played"):
        write(tmp_path)


@pytest.mark.parametrize("start", ["2026-03-28T00:00", "2026-10-24T00:00"])
def test_heat_map_has_each_value_at_its_day_and_hour(start: str) -> None:
    calendar = {"start": start, "timezone": "Europe/Brussels", "horizon": "24h", "days": 3}
    times = Calendar.model_validate(calendar).times
    values = list(map(float, range(len(times))))
    figure = drawing.heat_map(values, times, 1.0, "Load (kW)")
    (image,) = figure.axes[0].images
    shown: Any = image.get_array()
    assert shown.shape == (3, 24)
    first = datetime.fromisoformat(start).date().toordinal()
    for time, value in zip(times, values, strict=True):
        if not (time.hour == 2 and time.date().toordinal() == first + 1):
            assert shown[time.date().toordinal() - first, time.hour] == value
    changed = shown[1, 2]
    assert np.ma.is_masked(changed) if start.startswith("2026-03") else changed == np.mean([26.0, 27.0])


def test_home_at_the_flat_price_does_the_same_however_often_it_plans(runs: dict[str, stackelgrid.Run]) -> None:
    daily, rolling = (table(runs[name], "savings")["baseline_bill_cents"] for name in ("daily", "rolling"))
    assert rolling == pytest.approx(daily, rel=1e-12)  # it sees nothing new


def test_nothing_sticks_out_of_the_figures_of_many_days(runs: dict[str, stackelgrid.Run]) -> None:
    run = read(folder_of(runs["daily"]), runs["daily"].scenario)
    followed = days.follow(run, find_report("user_oriented").courses)
    for width in drawing.COLUMNS.values():
        for plot in page.draw_plots(run, followed, width):
            assert plot.figure.get_figwidth() == width
            assert not list_what_sticks_out(plot.figure), plot.name


@each
def test_days_of_a_run_that_was_interrupted_are_those_that_were_played(
    runs: dict[str, stackelgrid.Run], name: str
) -> None:
    run = read(folder_of(runs[name]), runs[name].scenario)
    sessions = run.result.sessions
    missing = [each.model_copy(update={"outcome": None}) for each in sessions[-(len(sessions) // 3) :]]
    cut = run.result.model_copy(update={"sessions": [*sessions[: -len(missing)], *missing]})
    courses = find_report("user_oriented").courses
    found, whole = (days.follow(replace(run, result=result), courses) for result in (cut, run.result))
    assert found is not None and whole is not None
    assert found.times == whole.times[: len(found.times)]
    assert len(found.times) == sum(each.binding for each in sessions[: -len(missing)])
    assert found.before.load == pytest.approx(whole.before.load[: len(found.times)])
    assert sum(found.before.bills.values()) == pytest.approx(FLAT * sum(found.before.load) / 2)
    assert sum(found.after.bills.values()) == pytest.approx(np.dot(found.after.price, found.after.load) / 2)


@pytest.fixture(scope="module")
def foreseen(tmp_path_factory: pytest.TempPathFactory) -> stackelgrid.Run:
    """A run whose homes foresee their load with errors."""
    content = scenario(horizon="24h", every="12h") | {"forecast": {"load": {"noisy": {"sigma": 0.3}}}}
    return stackelgrid.run(content, out=tmp_path_factory.mktemp("runs") / "foreseen", report=True)


def test_days_with_forecasts_are_what_meters_counted(foreseen: stackelgrid.Run) -> None:
    assert foreseen.complete, "a home was refused for what it foresaw"
    by_day, slots, savings = (table(foreseen, name) for name in ("days", "slots", "savings"))
    outcomes = [session.outcome for session in foreseen.result.sessions]
    imbalance = sum(sum(map(abs, outcome.imbalance_kwh)) for outcome in outcomes)
    assert imbalance > 1
    assert sum(by_day["imbalance_kwh"]) == pytest.approx(imbalance)
    metered = [load for load in slots["metered_kw"] if load is not None]
    assert sum(by_day["energy_kwh"]) == pytest.approx(sum(metered) / 2)
    assert [load is not None for load in slots["metered_kw"]] == slots["binding"]
    billed = [sum(outcome.homes[name].metered_bill for outcome in outcomes) for name in savings["home"]]
    assert savings["bill_cents"] == pytest.approx(billed)
    assert sum(billed) == pytest.approx(sum(by_day["revenue_cents"]))
    text = Page(folder_of(foreseen) / "report.html").text
    assert "Imbalance (kWh)" in text
    assert "settled by forecasts and the one that the meters counted" in text


def test_appliances_with_forecasts_add_up_to_what_was_settled(foreseen: stackelgrid.Run) -> None:
    homes, appliances = table(foreseen, "schedules"), table(foreseen, "appliances")
    drawn: dict[Any, float] = {}
    for *key, load in zip(*(appliances[key] for key in ("session", "home", "slot", "load_kw")), strict=True):
        drawn[tuple(key)] = drawn.get(tuple(key), 0.0) + load
    for *key, load in zip(*(homes[key] for key in ("session", "home", "slot", "load_kw")), strict=True):
        assert drawn[tuple(key)] == pytest.approx(load, abs=1e-7)


def drive(every: str, need_kwh: float) -> dict[str, Any]:
    """Two homes over two days, one with a car that needs much on the second morning."""
    trips = [
        {"leave": leave, "back": leave + 6, "uses_kwh": 3, "need_kwh": kwh} for leave, kwh in ((8, 10), (32, need_kwh))
    ]
    car = {"capacity_kwh": 60, "initial_kwh": 5, "charge_kw": 3, "wear": {"fast": 0.1}, "trips": trips}
    homes = [{"id": name, "inelastic": [{"load_kw": [0.4] * 48}]} for name in ("driver", "other")]
    return {
        "game": "user_oriented",
        "calendar": {"start": "2026-03-10T00:00", "timezone": "Europe/Berlin", "every": every, "days": 2},
        "leader": {"objective": "welfare", "baseline_price": 25, "wholesale_price": 10, "mu": 1, "price_max": 60},
        "homes": [homes[0] | {"ev": [car]}, homes[1]],
    }


def test_home_at_the_flat_price_sees_a_trip_when_the_game_sees_it(tmp_path: Path) -> None:
    run = stackelgrid.run(drive("12h", 40), out=tmp_path / "run", report=True)
    by_day, savings = table(run, "days"), table(run, "savings")
    car = by_day["baseline_energy_kwh"][0] - 2 * 24 * 0.4
    assert car >= 40 - 5 + 3 - 7 * 3  # what the seven hours of the second morning cannot charge
    assert sum(savings["baseline_bill_cents"]) == pytest.approx(25 * sum(by_day["baseline_energy_kwh"]))


def test_home_that_cannot_plan_a_session_has_no_part_in_it(tmp_path: Path) -> None:
    run = stackelgrid.run(drive("24h", 40), out=tmp_path / "run", report=True)
    assert list(table(run, "savings")) == ["home", "bill_cents"]
    assert not any("baseline" in key for key in table(run, "days"))
    text = Page(folder_of(run) / "report.html").text
    assert "without the game is not known: home driver: ev.0.trips.0: 40 kWh are needed" in text
    first, second = (session.outcome for session in run.result.sessions)
    assert set(first.homes) == {"driver", "other"}
    assert set(second.homes) == {"other"}
    assert second.load_kw == pytest.approx([0.4] * 24)
