"""compare-algorithms: its table, its traces, its files, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackelgrid import cli
from stackelgrid.errors import ConfigError
from stackelgrid.games.user_oriented.algorithms.dual_decomposition import DualDecomposition
from stackelgrid.games.user_oriented.algorithms.paper_003 import PaperAlgorithm
from stackelgrid.study.comparison import COSTS, Comparison, compare

HOME = {"satisfaction": {"form": "log", "alpha": 3.0}, "max_kw": 3.0, "valuation": 6.6}
SCENARIO = {
    "schema": 1,
    "game": "user_oriented",
    "slots": 2,
    "leader": {"baseline_price": 9, "wholesale_price": [4.0, 6.0], "mu": 0, "price_min": 5.2, "price_max": 19.8},
    "homes": [{"id": "a", "elastic": [HOME]}, {"id": "b", "elastic": [HOME]}],
}
NAMES = ["newton", "loads_only", "paper_003", "dual_decomposition"]


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "two.yaml"
    path.write_text(yaml.safe_dump(SCENARIO))
    return path


@pytest.fixture(scope="module")
def compared(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    out = tmp_path_factory.mktemp("out") / "compared"
    return compare(str(scenario), NAMES, ["leader.max_rounds=25"], 7, out)


def test_comparison_measures_from_the_price_that_earns_most(compared: tuple[Comparison, Path]) -> None:
    # p = sqrt(c v alpha) earns (p - c)(A / p - b) with A = 3 v and b = 3 / alpha, of each home.
    comparison, _ = compared
    best = [(c * 6.6 * 3.0) ** 0.5 for c in (4.0, 6.0)]
    assert comparison.best.outcome.price == pytest.approx(best, rel=1e-6)
    rows = {row["algorithm"]: row for row in comparison.table}
    assert [row["settled"] for row in rows.values()] == [True] * 4
    for name in NAMES[:3]:
        assert rows[name]["distance"] < 1e-6 and 0 <= rows[name]["loss"] < 1e-9
    # Marginal cost leaves nothing; here it lies below price_min in one slot.
    assert rows["dual_decomposition"]["distance"] == pytest.approx((best[1] - 6.0) / best[1], rel=1e-6)
    worth = [2 * (p - c) * (3 * 6.6 / p - 1.0) for p, c in zip([5.2, 6.0], [4.0, 6.0], strict=True)]
    earned = [2 * (p - c) * (3 * 6.6 / p - 1.0) for p, c in zip(best, [4.0, 6.0], strict=True)]
    assert rows["dual_decomposition"]["loss"] == pytest.approx(1 - sum(worth) / sum(earned), rel=1e-6)


def test_traces_rise_to_what_the_run_took(compared: tuple[Comparison, Path]) -> None:
    comparison, _ = compared
    for run, row in zip(comparison.runs, comparison.table, strict=True):
        trace = comparison.trace(run)
        assert len(trace) == run.result.rounds
        for cost in COSTS:
            values = [each[cost] for each in trace]
            assert values == sorted(values)
            assert values[-1] <= row[cost]
        assert (trace[-1]["rounds"], trace[-1]["questions"]) == (row["rounds"], row["questions"])
        assert trace[-1]["distance"] == pytest.approx(row["distance"], abs=1e-12)
        assert trace[-1]["loss"] == pytest.approx(row["loss"], abs=1e-9)


def test_folder_has_table_and_runs(compared: tuple[Comparison, Path]) -> None:
    comparison, folder = compared
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["algorithm"] for row in rows] == NAMES
    content = json.loads((folder / "comparison.json").read_text())
    assert content == json.loads(json.dumps(comparison.content()))
    assert content["seed"] == 7 and content["algorithms"][0]["title"]
    for name in NAMES:
        result = json.loads((folder / name / "result.json").read_text())
        assert result["settled"] and result["seed"] == 7
        played = yaml.safe_load((folder / name / "scenario.yaml").read_text())
        assert (played["leader"]["algorithm"], played["leader"]["max_rounds"]) == (name, 25)


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["stackelgrid", "compare-algorithms", *options])
    code = cli.main()
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_command_prints_json_alone_and_draws(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--algorithms", "dual_decomposition, paper_003", "--set", "leader.max_rounds=2", "--json"]
    code, out, err = call(capsys, monkeypatch, str(scenario), *options, "--out", str(tmp_path / "new"))
    content: dict[str, Any] = json.loads(out)
    assert (code, err) == (0, "")  # also where one does not settle
    assert [each["settled"] for each in content["algorithms"]] == [True, False]
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "new" / "figure.svg").read_text().startswith("<?xml")


def test_others_play_on_when_an_algorithm_fails(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(PaperAlgorithm, "open", fail)  # as it is set up
    monkeypatch.setattr(DualDecomposition, "next", fail)  # after a round
    options = [
        "--algorithms",
        "paper_003,dual_decomposition,newton",
        "--json",
        "--quiet",
        "--out",
        str(tmp_path / "new"),
    ]
    code, out, err = call(capsys, monkeypatch, str(scenario), *options)
    content: dict[str, Any] = json.loads(out)
    settled = {each["algorithm"]: each["settled"] for each in content["algorithms"]}
    assert settled.pop("newton") and not any(settled.values())
    assert code == 4 and len(err.splitlines()) == 1
    assert list(content["failures"]) == ["paper_003", "dual_decomposition"]
    for name, why in content["failures"].items():
        assert "RuntimeError: out of ideas (test_comparison.py, line" in why and f"{name} failed: {why}" in err


@pytest.mark.parametrize(
    ("source", "algorithms", "said"),
    [
        (None, "newton,newtown", "--algorithms newton,newtown: 'newtown' is not an algorithm of user_oriented"),
        (None, "newton,newton", "--algorithms newton,newton: name each once"),
        (None, "", "'' is not an algorithm of user_oriented"),
        ("prosumer", "newton", "prosumer: the game prosumer has no algorithms to choose from; name another scenario"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    source: str | None,
    algorithms: str,
    said: str,
    scenario: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--algorithms", algorithms, "--out", str(tmp_path / "new")]
    code, out, err = call(capsys, monkeypatch, source or str(scenario), *options)
    assert (code, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_best_price_keeps_the_capacity_where_one_does(scenario: Path, tmp_path: Path) -> None:
    # dual_decomposition stops after four rounds, beyond capacity; what it would earn there does not count.
    capacity = "leader.capacity={max_kw: 1.5}"
    comparison, _ = compare(str(scenario), ["newton", "dual_decomposition"], [capacity], None, tmp_path / "new")
    assert comparison.best.algorithm == "newton"
    assert max(comparison.best.outcome.load_kw) <= 1.5 * (1 + 1e-6)


def test_folder_that_exists_is_kept(scenario: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it exists already"):
        compare(str(scenario), ["newton"], [], None, tmp_path)
