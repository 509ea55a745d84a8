"""The tables of a run: they add up to its outcome, and CSV and Parquet hold the same."""

import csv
import re
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import stackelgrid
from stackelgrid.columns import encode_csv, name_apart, spell_unit, stack
from stackelgrid.errors import ConfigError
from stackelgrid.games.user_oriented.reference.device_programme import DeviceProgramme
from stackelgrid.report import run_tables
from stackelgrid.report.frame import build_frame
from stackelgrid.report.run_folder import read

DOC = Path(__file__).parents[2] / "docs" / "tables.md"
CASES: dict[str, dict[str, Any]] = {
    "user_oriented": {"population.homes": 8},
    "prosumer": {},
    "load_call": {},
    "storage_market": {"population.homes": 12, "dras.0.homes": 6, "dras.1.homes": 6},
}
TABLES = {
    "user_oriented": {"slots", "schedules", "appliances", "homes", "rounds", "messages", "sessions"},
    "prosumer": {"slots", "schedules", "homes", "rounds", "messages", "sessions"},
    "load_call": {"homes", "calls", "rounds", "messages", "sessions"},
    "storage_market": {
        *("slots", "generators", "dras", "schedules", "appliances", "homes", "rounds", "messages", "sessions")
    },
}

DAYS = {"user_oriented": {"days", "savings"}, "prosumer": {"days"}, "load_call": set(), "storage_market": {"days"}}
"""The tables that a dated run has besides."""
SUN = [max(0.0, 9 * np.sin((slot % 48 - 12) / 24 * np.pi)) for slot in range(96)]
_WEAR = {"fast": 0.05}
DATED: dict[str, dict[str, Any]] = {
    "user_oriented": {
        "forecast": {"load": "persistence"},
        "leader": {
            "objective": "welfare",
            "baseline_price": 9,
            "wholesale_price": [4.0 + slot % 5 for slot in range(96)],
            "mu": 1,
            "price_max": 30,
        },
        "homes": [
            {
                "id": "full",
                "inelastic": [{"load_kw": [1.0] * 90 + [11.5] * 2 + [1.0] * 4}],  # the second evening is not foreseen
                "elastic": [{"max_kw": 4.0, "valuation": 25.0}],
                "pv": [{"available_kw": SUN}],
                "ev": [
                    {
                        **{"capacity_kwh": 50, "initial_kwh": 25, "charge_kw": 7, "wear": _WEAR},
                        "trips": [{"leave": 16, "back": 36, "uses_kwh": 6}],
                    }
                ],
                "heat_pump": [
                    {
                        **{"max_kw": 3, "cop": 3, "heat_kwh_per_k": 8, "loss_kw_per_k": 0.2, "outside_c": [4.0] * 96},
                        **{"initial_c": 21, "comfort": {"min_c": 20, "max_c": 22, "price": 10}, **_WEAR},
                    }
                ],
                "connection": {"draw_kw": 12, "feed_in_kw": 0.5},
                "feed_in_price": 3,
            },
            {"id": "plain", "inelastic": [{"load_kw": [9.0] * 96}]},
        ],
    },
    "prosumer": {
        "forecast": {"load": "persistence"},
        "leader": {
            "event": {"first": "11:00", "last": "15:00"},
            "cost": {"c0": 100, "c1": 1, "c2": 0.01},
            "system_load_kw": [90.0 + slot % 7 for slot in range(96)],
            "tariffs": {"residential": [20.0] * 96},
        },
        "homes": [
            {"id": f"p{number}", "tariff": "residential", "load_kw": [5.0 - number] * 96, "pv_kw": SUN}
            | {"pv_cost": 5, "alpha": 0.5}
            for number in range(2)
        ],
    },
    "load_call": {
        "forecast": {"load": "persistence"},
        "leader": {
            **{"target_kwh": 6, "peak_price": 5.8, "off_peak_price": 2.6},
            "event": {"first": "18:00", "last": "21:00"},
        },
        "aggregator": {"fairness": 0.02, "reward": 1},
        "homes": [
            {"id": f"c{number}", "load_kw": [1.0 + number] * 96, "alpha": 0.05 * 3**number, "beta": 0.5}
            for number in range(2)
        ],
    },
    "storage_market": {
        "forecast": {"load": "persistence"},
        "leader": {
            "generators": [
                {"id": "g1", "quadratic": 0.5, "linear": 10, "max_mw": 30, "ramp_mw": 1000},
                {"id": "g2", "quadratic": 0.3, "linear": 14, "max_mw": 30, "ramp_mw": 1000},
            ],
            "peak_mw": 40,
            "shape": [0.6 + 0.4 * (slot % 48 > 30) for slot in range(96)],
        },
        "dras": [{"homes": 1, "quadratic": 0.1, "wear": 1}, {"homes": 1, "quadratic": 0.1}],
        "homes": [
            {"id": name, "battery": {"capacity_kwh": 4000, "power_kw": 1500, "initial_kwh": 500}} for name in ("x", "y")
        ],
    },
}
"""Two days of half hours, small, with everything that has a column of its own."""


@pytest.fixture(scope="module")
def dated() -> dict[str, stackelgrid.Run]:
    """A run of each game over two days, a session each."""
    calendar = {"start": "2026-06-01T00:00", "timezone": "Europe/Berlin", "slot_minutes": 30, "days": 2}
    return {
        game: stackelgrid.run({"schema": 1, "game": game, "calendar": calendar, **content})
        for game, content in DATED.items()
    }


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, stackelgrid.Run]:
    """A run of each game, with its tables in its folder."""
    runs = {}
    for game, overrides in CASES.items():
        out = tmp_path_factory.mktemp("runs") / game
        runs[game] = stackelgrid.run(game, overrides, out=out)
        run = read(out, runs[game].scenario)
        run_tables.write(run, run_tables.build(run, None))
    return runs


def table(run: stackelgrid.Run, name: str) -> dict[str, Any]:
    """The columns of a table: arrays of numbers, NaN where a cell is empty, else lists."""
    assert run.folder is not None
    content: dict[str, list[Any]] = pq.read_table(run.folder / "tables" / f"{name}.parquet").to_pydict()
    return {
        key: cells if any(isinstance(cell, str) for cell in cells) else np.array(cells, float)
        for key, cells in content.items()
    }


def sum_by(keys: Any, values: Any) -> dict[Any, float]:
    """Sum values by the key of their row."""
    totals: dict[Any, float] = {}
    for key, value in zip(keys, values, strict=True):
        totals[key] = totals.get(key, 0.0) + value
    return totals


@pytest.mark.parametrize("game", CASES)
def test_tables_are_those_of_the_game(played: dict[str, stackelgrid.Run], game: str) -> None:
    folder = played[game].folder
    assert folder is not None
    assert {path.stem for path in (folder / "tables").glob("*.csv")} == TABLES[game]


@pytest.mark.parametrize("game", CASES)
def test_csv_and_parquet_of_a_table_are_equal(played: dict[str, stackelgrid.Run], game: str) -> None:
    folder = played[game].folder
    assert folder is not None
    for path in (folder / "tables").glob("*.csv"):
        header, *rows = csv.reader(path.read_text().splitlines())
        stored = pq.read_table(path.with_suffix(".parquet"))
        assert stored.column_names == header
        assert len(rows) == stored.num_rows > 0
        for name, cells in zip(header, zip(*rows, strict=True), strict=True):
            for cell, value in zip(cells, stored[name].to_pylist(), strict=True):
                match value:
                    case None:
                        assert cell == "", name
                    case bool():
                        assert cell == str(value).lower(), name
                    case float():
                        assert float(cell) == value, name
                    case _:
                        assert cell == str(value), name


def test_loads_of_user_oriented_tables_add_up(played: dict[str, stackelgrid.Run]) -> None:
    run = played["user_oriented"]
    slots, schedules, appliances = (table(run, name) for name in ("slots", "schedules", "appliances"))
    by_slot = sum_by(schedules["slot"], schedules["load_kw"])
    np.testing.assert_allclose([by_slot[slot] for slot in slots["slot"]], slots["load_kw"], rtol=1e-9)
    parts = sum_by(zip(appliances["home"], appliances["slot"], strict=True), appliances["load_kw"])
    whole = sum_by(zip(schedules["home"], schedules["slot"], strict=True), schedules["load_kw"])
    assert parts.keys() == whole.keys()
    np.testing.assert_allclose([parts[key] for key in whole], list(whole.values()), atol=1e-9)
    assert {"battery", "ev"} <= set(appliances["appliance"])


def test_money_of_user_oriented_tables_adds_up(played: dict[str, stackelgrid.Run]) -> None:
    run = played["user_oriented"]
    slots, schedules, homes = (table(run, name) for name in ("slots", "schedules", "homes"))
    (totals,) = zip(*table(run, "sessions").values(), strict=True)
    total = dict(zip(table(run, "sessions"), totals, strict=True))
    price, load = slots["price_cents_per_kwh"], slots["load_kw"]
    assert homes["bill_cents"].sum() == pytest.approx(price @ load, rel=1e-9)
    assert total["bills_cents"] == pytest.approx(run.outcome.revenue, rel=1e-9)
    assert total["energy_kwh"] == pytest.approx(homes["energy_kwh"].sum(), rel=1e-9)
    paid = sum_by(schedules["home"], np.tile(price, len(homes["home"])) * schedules["load_kw"])
    np.testing.assert_allclose(homes["bill_cents"], [paid[home] for home in homes["home"]], rtol=1e-9)
    before = slots["baseline_price_cents_per_kwh"] @ slots["baseline_load_kw"]
    assert homes["baseline_bill_cents"].sum() == pytest.approx(before, rel=1e-9)


def test_baseline_utility_is_the_best_at_the_flat_price(played: dict[str, stackelgrid.Run]) -> None:
    run = played["user_oriented"]
    homes = table(run, "homes")
    flat = run.scenario.leader.baseline_price
    by_name = {home.id: home for home in run.scenario.everyone}
    for name, found in zip(homes["home"], homes["baseline_utility_cents"], strict=True):
        _, best = DeviceProgramme(by_name[name]).solve(np.full(run.scenario.slots, float(flat)))
        assert found == pytest.approx(by_name[name].slot_hours * best, rel=1e-8), name


def test_prosumer_tables_add_up(played: dict[str, stackelgrid.Run]) -> None:
    run = played["prosumer"]
    slots, schedules, homes = (table(run, name) for name in ("slots", "schedules", "homes"))
    by_slot = sum_by(schedules["slot"], schedules["dr_kw"])
    np.testing.assert_allclose([by_slot[slot] for slot in slots["slot"]], slots["dr_kw"], rtol=1e-12)
    assert homes["dr_kwh"].sum() == pytest.approx(slots["dr_kw"].sum())
    assert homes["paid_for_dr_cents"].sum() == pytest.approx(schedules["pv_price_cents_per_kwh"] @ schedules["dr_kw"])
    assert homes["net_cost_cents"].sum() == pytest.approx(schedules["net_cost_cents"].sum())
    assert set(schedules["dr_kw"][schedules["slot"] < run.scenario.leader.event.first]) == {0.0}


def test_load_call_tables_add_up(played: dict[str, stackelgrid.Run]) -> None:
    outcome, homes = played["load_call"].outcome, table(played["load_call"], "homes")
    assert homes["shifted_kwh"].sum() == pytest.approx(outcome.achieved_kwh)
    assert homes["called_kwh"].sum() == pytest.approx(outcome.target_kwh)
    assert table(played["load_call"], "sessions")["bills_THB"][0] == pytest.approx(homes["bill_THB"].sum())


def test_storage_market_tables_add_up(played: dict[str, stackelgrid.Run]) -> None:
    run = played["storage_market"]
    slots, generators, dras = (table(run, name) for name in ("slots", "generators", "dras"))
    schedules, appliances = table(run, "schedules"), table(run, "appliances")
    dispatched = sum_by(generators["slot"], generators["dispatch_mw"])
    sold, charged = (sum_by(dras["slot"], dras[key]) for key in ("sold_mw", "charge_mw"))
    supplied = np.array([dispatched[slot] + sold[slot] for slot in slots["slot"]])
    np.testing.assert_allclose(supplied - slots["spilt_mw"] + slots["short_mw"], slots["demand_mw"], rtol=1e-9)
    np.testing.assert_allclose(slots["load_mw"] + [charged[s] for s in slots["slot"]], slots["demand_mw"], rtol=1e-9)
    drawn = schedules["load_kw"] + np.nan_to_num(schedules["charge_kw"]) - np.nan_to_num(schedules["sold_kw"])
    whole = sum_by(zip(schedules["home"], schedules["slot"], strict=True), drawn)
    parts = sum_by(zip(appliances["home"], appliances["slot"], strict=True), appliances["load_kw"])
    np.testing.assert_allclose([parts[key] for key in whole], list(whole.values()), atol=1e-9)


@pytest.mark.parametrize("game", CASES)
def test_rounds_table_has_a_row_per_round(played: dict[str, stackelgrid.Run], game: str) -> None:
    rounds = table(played[game], "rounds")
    assert list(rounds["round"]) == [record["round"] for record in played[game].journal]
    assert rounds["bytes"].sum() == sum(record["bytes"] for record in played[game].journal)


def test_stack_leaves_cells_empty_that_a_part_lacks() -> None:
    stacked = stack([{"home": "a", "slot": range(1, 3), "load_kw": [1.0, 2.0]}, {"home": "b", "slot": [1], "ev": True}])
    assert stacked == {
        "home": ["a", "a", "b"],
        "slot": [1, 2, 1],
        "load_kw": [1.0, 2.0, None],
        "ev": [None, None, True],
    }
    assert encode_csv(stacked) == b"home,slot,load_kw,ev\na,1,1.0,\na,2,2.0,\nb,1,,true\n"


def test_whole_numbers_that_no_integer_type_holds_are_floats() -> None:
    assert build_frame({"bytes": [None, 1, 10**30]})["bytes"].tolist()[1:] == [1.0, 1e30]


def test_appliances_of_one_name_are_told_apart() -> None:
    things = [Path("a/x"), Path("y"), Path("b/x")]
    assert [name for name, _ in name_apart(things)] == ["x", "y", "x 2"]


@pytest.mark.parametrize("game", CASES)
def test_table_in_pandas_is_that_of_the_folder(played: dict[str, stackelgrid.Run], game: str) -> None:
    run = played[game]
    assert run.folder is not None
    for each in (run, stackelgrid.load(run.folder)):
        for name in TABLES[game]:
            stored, built = pd.read_parquet(run.folder / "tables" / f"{name}.parquet"), each.table(name)
            pd.testing.assert_frame_equal(built, stored.astype(built.dtypes))
            texts = built.select_dtypes(exclude=["number", "bool"]).columns
            assert list(texts) == list(stored.select_dtypes(exclude=["number", "bool"]).columns)


@pytest.mark.parametrize("game", CASES)
def test_messages_table_adds_up_to_those_of_the_run(played: dict[str, stackelgrid.Run], game: str) -> None:
    run = played[game]
    messages, rounds = run.messages, run.rounds.set_index("round")
    assert messages["messages"].sum() == run.result.messages
    assert messages["bytes"].sum() == run.result.bytes
    above = messages[messages["link"] == "leader-aggregators"].set_index("round")
    assert above[["messages", "bytes"]].to_dict() == rounds[["messages", "bytes"]].to_dict()
    below = messages[messages["link"] == "aggregators-homes"]
    assert below["questions"].min() > 0
    assert below["messages"].min() > 0
    assert messages["round"].isna().tolist() == [False] * (len(messages) - 1) + [True]
    assert str(messages["round"].dtype) == "Int64"


def test_documented_columns_are_those_of_the_tables(
    played: dict[str, stackelgrid.Run], dated: dict[str, stackelgrid.Run]
) -> None:
    built = set()
    for run in (*played.values(), *dated.values()):
        for name in (*TABLES[run.result.game], *(DAYS[run.result.game] if run.scenario.calendar else ())):
            built |= {(column.replace(spell_unit(run.result.money), "MONEY"), name) for column in run.table(name)}
    assert read_documented_columns() == built


def read_documented_columns() -> set[tuple[str, str]]:
    """Read the pairs of column and table that the page lists."""
    tables, columns = DOC.read_text(encoding="utf-8").split("## Columns")
    every = set(re.findall(r"^[|] `(\w+)` [|]", tables, re.MULTILINE))
    documented: set[tuple[str, str]] = set()
    for names, where in re.findall(r"^[|] (`.*?) [|] (.*?) [|]", columns, re.MULTILINE):
        listed = set(re.findall(r"`(\w+)`", where))
        if where.startswith("all but"):
            listed = every - listed
        elif where == "as `slot`":
            listed = {table for column, table in documented if column == "slot"}
        documented |= {(column, table) for column in re.findall(r"`(\w+)`", names) for table in listed}
    return documented


@pytest.mark.parametrize("game", CASES)
def test_documented_tables_are_those_of_the_game(dated: dict[str, stackelgrid.Run], game: str) -> None:
    page, _ = DOC.read_text(encoding="utf-8").split("## Columns")
    documented = {
        name
        for name, games in re.findall(r"^[|] `(\w+)` [|].*[|] (.*) [|]$", page, re.MULTILINE)
        if games == "all" or (f"`{game}`" in games) != games.startswith("all but")
    }
    assert documented == TABLES[game] | DAYS[game]
    for name in documented:
        assert len(dated[game].table(name)) > 0
    for name in DAYS["user_oriented"] - documented:
        with pytest.raises(ConfigError, match=f"{name}: this run of {game} has no such table"):
            dated[game].table(name)


def test_user_oriented_tables_of_half_hours_hold_what_was_played(dated: dict[str, stackelgrid.Run]) -> None:
    run = dated["user_oriented"]
    assert list(run.slots["wholesale_price_cents_per_kwh"]) == DATED["user_oriented"]["leader"]["wholesale_price"]
    outcomes = [session.outcome for session in run.result.sessions]
    schedules = run.schedules.set_index("home").loc["full"]
    for key in ("pv_kw", "curtailed_kw"):
        assert list(schedules[key]) == [kw for outcome in outcomes for kw in getattr(outcome.homes["full"], key)]
    assert schedules["curtailed_kw"].max() > 0
    assert list(schedules["pv_kw"] + schedules["curtailed_kw"]) == pytest.approx(SUN)
    settled = {(n, name): home for n, each in enumerate(outcomes, 1) for name, home in each.homes.items()}
    for row in run.homes.to_dict("records"):
        home = settled.pop((row["session"], row["home"]))
        assert row["energy_kwh"] == pytest.approx(sum(home.load_kw) / 2)
        assert (row["bill_cents"], row["utility_cents"]) == (home.bill, home.utility)
    assert not settled
    for key in ("energy_kwh", "baseline_energy_kwh"):
        energies = [sum(getattr(outcome, key.replace("energy_kwh", "load_kw"))) / 2 for outcome in outcomes]
        assert list(run.table("sessions")[key]) == pytest.approx(energies)


def test_prosumer_tables_of_half_hours_hold_what_was_played(dated: dict[str, stackelgrid.Run]) -> None:
    run = dated["prosumer"]
    schedules = run.schedules.assign(paid=run.schedules["pv_price_cents_per_kwh"] * run.schedules["dr_kw"])
    provided = schedules.groupby(["session", "home"])[["dr_kw", "paid"]].sum() / 2
    assert provided["dr_kw"].min() > 0
    homes = run.homes.set_index(["session", "home"])
    assert homes["dr_kwh"].to_dict() == pytest.approx(provided["dr_kw"].to_dict())
    assert homes["paid_for_dr_cents"].to_dict() == pytest.approx(provided["paid"].to_dict())
    assert list(run.table("sessions")["dr_kwh"]) == pytest.approx(list(homes["dr_kwh"].groupby("session").sum()))


def test_storage_market_tables_of_half_hours_hold_what_was_played(dated: dict[str, stackelgrid.Run]) -> None:
    run = dated["storage_market"]
    traded = run.table("dras").groupby("session")[["sold_mw", "charge_mw"]].sum() / 2
    demand = run.slots.groupby("session")[["net_demand_mw", "baseline_load_mw"]].sum() / 2
    sessions = run.table("sessions")
    assert traded["sold_mw"].min() > 0
    assert list(sessions["sold_mwh"]) == pytest.approx(list(traded["sold_mw"]))
    assert list(sessions["charged_mwh"]) == pytest.approx(list(traded["charge_mw"]))
    assert list(sessions["energy_mwh"]) == pytest.approx(list(demand["net_demand_mw"]))
    assert list(sessions["baseline_energy_mwh"]) == pytest.approx(list(demand["baseline_load_mw"]))


def test_table_of_a_run_that_finished_no_round_is_refused() -> None:
    run = stackelgrid.run(
        "user_oriented",
        {"population.homes": 4, "aggregators": 2},
        faults={"faults": [{"kind": "crash", "node": "leader", "at": {"round": 1}}]},
    )
    for name in ("rounds", "slots", "nothing"):
        with pytest.raises(ConfigError, match=f"{name}: this run of user_oriented has no such table; no round was fi"):
            run.table(name)
    assert run.messages["messages"].sum() == run.result.messages


def test_table_of_a_folder_that_lost_rounds_is_refused(played: dict[str, stackelgrid.Run], tmp_path: Path) -> None:
    source = played["user_oriented"].folder
    assert source is not None
    folder = Path(copytree(source, tmp_path / "run"))
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(
        ConfigError, match=r"rounds\.jsonl: 3 rounds, but result\.json counts 4; run the scenario again"
    ):
        _ = stackelgrid.load(folder).rounds


def test_table_builds_itself_alone(played: dict[str, stackelgrid.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("another table is built")

    monkeypatch.setattr(run_tables, "tabulate_rounds", refuse)
    monkeypatch.setattr(run_tables, "tabulate_sessions", refuse)
    assert len(played["user_oriented"].homes) == 8
    with pytest.raises(AssertionError, match="another table is built"):
        _ = played["user_oriented"].rounds


def test_tables_of_a_run_without_a_folder_have_a_row_per_slot_and_home() -> None:
    run = stackelgrid.run("user_oriented", {"population.homes": 4, "aggregators": 2})
    assert run.folder is None
    slots = list(range(1, len(run.outcome.load_kw) + 1))
    assert list(run.slots["slot"]) == slots
    assert list(run.slots["load_kw"]) == run.outcome.load_kw
    assert sorted(run.homes["home"]) == sorted(run.outcome.homes)
    drawn = run.schedules.groupby("home")["slot"].apply(list).to_dict()
    assert drawn == dict.fromkeys(run.outcome.homes, slots)


def test_table_that_a_game_lacks_is_refused_with_those_there_are(played: dict[str, stackelgrid.Run]) -> None:
    with pytest.raises(
        ConfigError,
        match=r"slots: this run of load_call has no such table; it has homes, calls, rounds, messages, sessions",
    ):
        _ = played["load_call"].slots


def test_tables_of_the_first_steps_are_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "first-steps.md").read_text(encoding="utf-8")
    (steps,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(steps.replace('"population.homes": 12', '"population.homes": 4'), {})
    out = capsys.readouterr().out
    assert "price_cents_per_kwh" in out and "bill_cents" in out
    assert "..." not in out
