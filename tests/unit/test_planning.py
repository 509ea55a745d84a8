"""compare-planning: its table, its files, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from stackelgrid import cli
from stackelgrid.errors import ConfigError
from stackelgrid.report.plans import Plan
from stackelgrid.study.planning import compare


def draw_days(**keys: Any) -> dict[str, Any]:
    """Two homes over two days, whose second day is nothing like the first."""
    random = np.random.default_rng(1)
    battery = {"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.1}}
    loads = [np.roll(random.uniform(0, 3, 48), 9 * number) for number in range(2)]
    content = {
        "schema": 1,
        "game": "user_oriented",
        "calendar": {"start": "2026-06-01T00:00", "days": 2, "every": "12h"},
        "leader": {"objective": "welfare", "baseline_price": 9, "wholesale_price": 5, "mu": 0.5, "price_max": 30},
        "homes": [
            {
                "id": f"h{number}",
                "inelastic": [{"load_kw": load.tolist()}],
                "elastic": [{"max_kw": 2, "valuation": 14, "satisfaction": {"alpha": 3}}],
                "storage": [battery],
            }
            for number, load in enumerate(loads)
        ],
        "forecast": {"load": "persistence"},
    }
    return content | keys


def write(folder: Path, content: dict[str, Any]) -> str:
    (folder / "days.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "days.yaml")


def test_plans_are_measured_in_the_same_slots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    monkeypatch.setattr(
        "sys.argv", ["stackelgrid", "compare-planning", write(tmp_path, draw_days()), "--json", "--out", str(folder)]
    )
    assert cli.main() == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((folder / "planning.json").read_text())
    rows = {row["plan"]: row for row in content["plans"]}
    assert [(plan, row["sessions"]) for plan, row in rows.items()] == [
        ("replanned", 4),
        ("planned_once", 2),
        ("perfect_foresight", 4),
    ]
    assert rows["planned_once"]["worth"] == 0
    assert rows["perfect_foresight"]["imbalance_kwh"] == pytest.approx(0, abs=1e-9)
    assert rows["replanned"]["imbalance_kwh"] > 5
    for plan, row in rows.items():
        assert row["welfare"] == pytest.approx(row["homes_utility"] + row["company_earns"])
        assert row["worth"] == pytest.approx(row["welfare"] - rows["planned_once"]["welfare"])
        result = json.loads((folder / plan / "result.json").read_text())
        outcomes = [session["outcome"] for session in result["sessions"]]
        metered, imbalance = ([kw for each in outcomes for kw in each[key]] for key in ("metered_kw", "imbalance_kwh"))
        assert len(metered) == 48 and row["energy_kwh"] == pytest.approx(sum(metered))
        assert row["peak_kw"] == max(metered)
        assert row["imbalance_kwh"] == pytest.approx(sum(map(abs, imbalance)))
        homes = [home for each in outcomes for home in each["homes"].values()]
        assert row["homes_utility"] == pytest.approx(sum(home["metered_utility"] for home in homes))
        assert row["homes_pay"] == pytest.approx(sum(home["metered_bill"] for home in homes))
        # At one wholesale price the company pays it for every kWh, whatever was settled.
        assert row["homes_pay"] - row["company_earns"] == pytest.approx(5 * sum(metered))
    slots = pq.read_table(folder / "replanned" / "tables" / "slots.parquet").to_pydict()
    bound = [kw for kw, binds in zip(slots["metered_kw"], slots["binding"], strict=True) if binds]
    assert len(bound) == 48 and None not in bound
    assert [kw for kw in slots["metered_kw"] if kw is not None] == bound
    page = (folder / "replanned" / "report.html").read_text()
    assert "What planning again was worth" in page and "Imbalance" in page
    assert (folder / "replanned" / "figures" / "metered_course.png").is_file()
    with (folder / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(Plan.model_fields)
    assert [float(row["welfare"]) for row in table] == [row["welfare"] for row in content["plans"]]


def test_plan_that_did_not_settle_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    source = write(tmp_path, draw_days())
    monkeypatch.setattr(
        "sys.argv",
        ["stackelgrid", "compare-planning", source, "--quiet", "--out", str(folder), "--set", "leader.max_rounds=1"],
    )
    assert cli.main() == 3
    assert "not settled: replanned, planned once, perfect foresight; their numbers" in capsys.readouterr().err
    assert "Of a plan that did not settle, the last rounds" in (folder / "replanned" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forecast": None}, "forecast: nobody plans by one"),
        ({"calendar": {"start": "2026-06-01T00:00", "days": 2}}, "calendar.every: a session plans 24h once"),
    ],
)
def test_nothing_is_compared_where_replanning_changes_nothing(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(write(tmp_path, draw_days(**change)), [], None, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_plans_are_not_compared_in_a_game_that_does_not_say_what_homes_gain(tmp_path: Path) -> None:
    content = {
        "schema": 1,
        "game": "load_call",
        "calendar": {"start": "2026-06-01T00:00", "days": 2},
        "leader": {"target_kwh": 1, "peak_price": 6, "off_peak_price": 3, "event": {"first": "08:00", "last": "12:00"}},
        "aggregator": {"fairness": 0.01, "reward": 1},
        "homes": [{"id": "c", "load_kw": [1.0] * 48, "alpha": 0.1}],
        "forecast": {"load": "persistence"},
    }
    with pytest.raises(ConfigError, match="what homes gain by a plan is not known in load_call"):
        compare(write(tmp_path, content), [], None, tmp_path / "new")


@pytest.mark.parametrize("game", ["prosumer", "storage_market"])
def test_plans_of_other_games_are_measured_by_what_came(game: str, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    drawn = random.uniform(20, 60, 48)
    content: dict[str, Any] = {
        "schema": 1,
        "game": game,
        "calendar": {"start": "2026-06-01T00:00", "days": 2, "every": "12h"},
        "forecast": {"load": "persistence"},
    }
    if game == "prosumer":
        home = {"id": "h", "tariff": "all", "alpha": 0.5, "pv_cost": 9, "load_kw": drawn.tolist(), "pv_kw": [70.0] * 48}
        content["leader"] = {
            "tariffs": {"all": [40.0] * 48},
            "event": {"first": "10:00", "last": "16:00"},
            "cost": {"c0": 400, "c1": 1, "c2": 0.003},
            "system_load_kw": (3 * drawn).tolist(),
        }
    else:
        home = {"id": "h", "battery": {"capacity_kwh": 4000, "power_kw": 1500, "initial_kwh": 500}}
        content["leader"] = {
            "generators": [{"id": "g", "quadratic": 0.5, "linear": 10, "max_mw": 70, "ramp_mw": 1000}],
            "peak_mw": 60,
            "shape": (drawn / drawn.max()).tolist(),
        }
        content["dras"] = [{"homes": 1, "quadratic": 0.1, "wear": 1}]
    planning, folder = compare(write(tmp_path, {**content, "homes": [home]}), [], None, tmp_path / "new")
    plans = {plan.plan: plan for plan in planning.plans}
    assert plans["planned_once"].worth == 0 and plans["replanned"].imbalance_kwh > 5
    assert plans["perfect_foresight"].imbalance_kwh == pytest.approx(0, abs=1e-6)
    assert plans["perfect_foresight"].welfare > plans["planned_once"].welfare
    if game == "prosumer":  # what is foreseen of a slot is the same in both sessions that look at it
        assert plans["replanned"].worth == pytest.approx(0, abs=1e-6)
    for name, plan in plans.items():
        assert plan.welfare == pytest.approx(plan.homes_utility + plan.company_earns)
        sessions = json.loads((folder / name / "result.json").read_text())["sessions"]
        metered = [
            kw for each in sessions for kw in each["outcome"]["metered_mw" if game != "prosumer" else "metered_kw"]
        ]
        assert len(metered) == 48
        assert plan.energy_kwh == pytest.approx(sum(metered) * (1 if game == "prosumer" else 1000))
