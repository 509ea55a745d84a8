"""A sweep is its single runs, put in a table: whatever the number of processes, however often it was stopped."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackelgrid import cli
from stackelgrid.scenarios import list_shipped, load
from stackelgrid.scenarios.yaml_file import spell
from stackelgrid.study import drawing, table
from stackelgrid.study.grid import GridError, parse
from stackelgrid.testbed.in_memory import play
from stackelgrid.testbed.result import SAMPLES, build_result

GRID = ["--over", "leader.mu=0.5:1.5:0.5", "--over", "leader.objective=stackelberg,welfare"]
LONG = ["user_oriented", "--over", "leader.mu=0.25:2:0.25", "--over", "population.homes=45", "--quiet"]
"""Long enough to be stopped on the way."""
WRITTEN = ("table.csv", "table.parquet", "figure.png")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = {
        "elastic": [{"max_kw": 3, "valuation": 10}],
        "storage": [{"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}],
    }
    small = {
        "game": "user_oriented",
        "slots": 4,
        "leader": {"baseline_price": 9, "wholesale_price": [2, 3, 5, 3], "mu": 1, "price_max": 30},
        "homes": [{"id": "flat", **home}, {"id": "bakery", **home, "inelastic": [{"load_kw": [1, 1, 2, 1]}]}],
    }
    Path("small.yaml").write_text(spell(small))


Sweep = Callable[..., tuple[int, str]]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Sweep:
    """Run the command in this process: exit code and stderr."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stackelgrid", "sweep", *words])
        code = cli.main()
        return code, capfd.readouterr().err

    return run


def rows(folder: str) -> list[dict[str, str]]:
    with Path(folder, "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: str) -> list[bytes]:
    return [Path(folder, name).read_bytes() for name in WRITTEN]


def values(word: str) -> list[str]:
    (axis,) = parse([word]).axes
    return list(axis.values)


def test_range_includes_both_ends_and_is_written_as_given() -> None:
    assert values("mu=0.2:2:0.2") == ["0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.4", "1.6", "1.8", "2"]
    assert values("mu=0:1:0.3") == ["0", "0.3", "0.6", "0.9"]
    assert values("mu=3:1:-1") == ["3", "2", "1"]
    assert values("mu=1e-4:3e-4:1e-4") == ["0.0001", "0.0002", "0.0003"]  # YAML would take 1e-4 for a word


@given(
    first=st.decimals(-1000, 1000, places=3),
    step=st.decimals("0.001", 50, places=3),
    steps=st.integers(0, 60),
    rest=st.decimals(0, "0.999", places=3),
)
def test_range_has_every_step_and_nothing_beyond(first: Any, step: Any, steps: int, rest: Any) -> None:
    found = [Fraction(value) for value in values(f"x={first}:{first + step * steps + step * rest}:{step}")]
    assert found == [Fraction(first) + number * Fraction(step) for number in range(steps + 1)]


def test_list_is_split_at_commas_outside_brackets_and_quotes() -> None:
    assert values("x=[1, 2],[3,4]") == ["[1, 2]", "[3,4]"]
    assert values("x={kind: adaptive, high: 2},{kind: fixed}") == ["{kind: adaptive, high: 2}", "{kind: fixed}"]
    assert values('x="a,b", c') == ['"a,b"', "c"]
    assert values("day=2016-06-14") == ["2016-06-14"]


def test_grid_changes_the_last_parameter_fastest() -> None:
    grid = parse(["a=1,2", "b=x,y"])
    assert grid.points == [("1", "x"), ("1", "y"), ("2", "x"), ("2", "y")]
    assert grid.overrides(("1", "y")) == ["a=1", "b=y"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a"], "KEY.PATH=A:B:STEP"),
        (["=1"], "KEY.PATH=A:B:STEP"),
        (["a=1:2:0"], "steps of 0"),
        (["a=2:1:1"], "from 2 to 1"),
        (["a=1,,2"], "missing between two commas"),
        (["a=1,2,"], "missing between two commas"),
        (["a=1,1"], "1 is there twice"),
        (["a=1", "a=2"], "given 2 times"),
        (["a=0:1:1e-9"], "widen the step"),
        (["a=0:999:1", "b=0:999:1"], "1000000 points"),
    ],
)
def test_grid_is_refused_when_it_cannot_be_read(words: list[str], expected: str, sweep: Sweep) -> None:
    with pytest.raises(GridError, match=expected):
        parse(words)
    code, err = sweep("small.yaml", *(part for word in words for part in ("--over", word)))
    assert code == 2
    assert expected in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--over", "leader.muu=1,2"], "--over leader.muu=1: leader.muu: unknown key"),
        (["--over", "leader.mu=-2,-1"], "leader.mu"),
        (["--over", "leader.mu=1", "--set", "slots=0"], "slots"),
        (["--over", "leader.mu=1", "--jobs", "0"], "--jobs"),
        ([], "--over"),
    ],
)
def test_sweep_is_refused_when_every_point_is(words: list[str], expected: str, sweep: Sweep) -> None:
    code, err = sweep("small.yaml", *words, "--out", "out")
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert not Path("out").exists()


def test_row_is_that_of_the_single_run_for_any_number_of_processes(sweep: Sweep) -> None:
    assert sweep("small.yaml", *GRID, "--jobs", "1", "--out", "one", "--seed", "5", "--quiet") == (0, "")
    assert sweep("small.yaml", *GRID, "--jobs", "3", "--out", "three", "--seed", "5")[0] == 0
    assert contents("one") == contents("three")
    found = rows("one")
    assert [(row["leader.mu"], row["leader.objective"]) for row in found] == [
        (mu, objective) for mu in ("0.5", "1", "1.5") for objective in ("stackelberg", "welfare")
    ]
    for row in found:
        single = load("small.yaml", [f"leader.{key}={row[f'leader.{key}']}" for key in ("mu", "objective")], seed=5)
        alone = build_result(single, play(single)).content()
        assert [int(row[name]) for name in ("rounds", "inner_rounds", "messages")] == [
            alone["rounds"],
            alone["inner_rounds"],
            alone["messages"],
        ]
        assert row["settled"] == "true"
        assert row["problem"] == ""
        for name in ("peak_kw", "par", "leader_utility", "system_utility"):
            assert float(row[f"outcome.{name}"]) == pytest.approx(alone["outcome"][name], rel=1e-12)
        assert float(row["outcome.homes.flat.bill"]) == pytest.approx(alone["outcome"]["homes"]["flat"]["bill"])
    assert list(json.loads(Path("one/study.json").read_text())["grid"]) == ["leader.mu", "leader.objective"]


def test_certificate_is_that_of_the_single_run(sweep: Sweep) -> None:
    assert sweep("small.yaml", "--over", "leader.objective=welfare", "--certify", "--out", "out")[0] == 0
    (row,) = rows("out")
    single = load("small.yaml", ["leader.objective=welfare"])
    certificate = single.certificate(build_result(single, play(single)).outcome, SAMPLES)
    assert row["certificate.feasible"] == "true"
    for name in ("gap", "max_regret", "system_utility"):
        assert float(row[f"certificate.{name}"]) == pytest.approx(certificate[name], rel=1e-9, abs=1e-12)
    assert "certificate.method" not in row


def test_row_names_the_problem_when_a_point_fails(sweep: Sweep) -> None:
    over = ["leader.balance={kind: fixed},{kind: none}", "leader.max_rounds=1,40"]
    code, err = sweep("small.yaml", "--over", over[0], "--over", over[1], "--out", "out")
    assert code == 3
    assert "3 of 4 points" in err
    found = rows("out")
    assert [row["settled"] for row in found] == ["false", "true", "false", "false"]
    assert found[0]["problem"].startswith("not settled within 1 rounds")
    assert float(found[0]["outcome.peak_kw"]) == float(found[0]["outcome.baseline_peak_kw"])
    assert found[1]["problem"] == ""
    assert found[2]["problem"].startswith("refused: ")
    assert "leader.balance" in found[2]["problem"]
    assert found[2]["outcome.peak_kw"] == ""
    the_two_tables_are_one("out")


def the_two_tables_are_one(folder: str) -> None:
    parquet = pq.read_table(f"{folder}/table.parquet")
    kinds = dict(zip(parquet.column_names, map(str, parquet.schema.types), strict=True))
    assert [kinds[name] for name in ("leader.balance", "settled", "problem", "rounds", "outcome.par")] == [
        "string",
        "bool",
        "string",
        "int64",
        "double",
    ]
    printed = rows(folder)
    assert parquet.column_names == list(printed[0])
    for row, other in zip(parquet.to_pylist(), printed, strict=True):
        for name, cell in row.items():
            as_printed = "" if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)
            assert as_printed == other[name]


def test_sweep_goes_on_where_it_stopped(sweep: Sweep) -> None:
    assert sweep("small.yaml", *GRID, "--out", "out")[0] == 0
    whole = contents("out")
    for name in WRITTEN:
        Path("out", name).unlink()
    Path("out/points/00004.json").unlink()
    kept = {path: path.stat().st_ino for path in Path("out/points").iterdir()}
    assert sweep("small.yaml", *GRID, "--out", "out")[0] == 0
    assert contents("out") == whole
    assert {path: path.stat().st_ino for path in kept} == kept


def test_sweep_is_refused_when_the_folder_is_of_another(sweep: Sweep) -> None:
    over = ["--over", "leader.mu=1,2"]
    assert sweep("small.yaml", *over, "--out", "out")[0] == 0
    before = contents("out")
    scenario = Path("small.yaml").read_text()
    for words, expected in (
        (["--over", "leader.mu=1:3:1"], ['leader.mu: new are ["3"]', "gone are []"]),
        (["--over", "leader.mu=2,1"], ["grid.leader.mu"]),
        ([*over, "--set", "leader.baseline_price=8"], ["leader.baseline_price is 8.0, was 9.0"]),
        ([*over, "--seed", "3"], ["scenario.seed is 3, was 0"]),
        ([*over, "--certify"], ["samples is 200, was 0"]),
        ([*over, "--over", "seed=1,2"], ['grid.seed is ["1", "2"], was null']),
    ):
        code, err = sweep("small.yaml", *words, "--out", "out")
        assert code == 2
        for part in [*expected, "--out out", "name a new folder"]:
            assert part in err, err
    Path("small.yaml").write_text(scenario.replace("max_kw: 3", "max_kw: 4"))
    code, err = sweep("small.yaml", *over, "--out", "out")
    assert code == 2
    assert "homes" in err
    assert contents("out") == before


def test_sweep_is_refused_when_data_have_changed(sweep: Sweep) -> None:
    shipped = list_shipped()["user_oriented"].parent
    for name in ("user_oriented.yaml", "simbench_2016_days.csv"):
        shutil.copy(shipped / name, name)
    words = ["user_oriented.yaml", "--over", "leader.mu=1", "--set", "population.homes=4", "--out", "out"]
    assert sweep(*words)[0] == 0
    data = Path("simbench_2016_days.csv")
    *rest, digit = data.read_text().rstrip()
    data.write_text(f"{''.join(rest)}{9 - int(digit)}\n")
    code, err = sweep(*words)
    assert code == 2
    assert "data.simbench_2016_days.csv" in err


def test_sweep_is_refused_when_the_folder_holds_none(sweep: Sweep) -> None:
    Path("mine").mkdir()
    Path("mine/notes").write_text("precious")
    code, err = sweep("small.yaml", "--over", "leader.mu=1", "--out", "mine")
    assert code == 2
    assert "holds no sweep" in err
    assert [path.name for path in Path("mine").iterdir()] == ["notes"]


def begun(*words: str) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """A sweep in a process of its own into `out`, with its workers, once these are there."""
    main = subprocess.Popen(
        [sys.executable, "-m", "stackelgrid", "sweep", *words, "--out", "out"], start_new_session=True
    )
    jobs = int(words[words.index("--jobs") + 1])
    while len(workers := psutil.Process(main.pid).children()) < jobs:
        assert main.poll() is None
        time.sleep(0.02)
    return main, workers


def some_point_is_finished(main: subprocess.Popen[bytes]) -> None:
    while not any(Path("out/points").glob("0*.json")):
        assert main.poll() is None
        time.sleep(0.02)


def test_sweep_leaves_no_process_and_goes_on_when_killed(sweep: Sweep) -> None:
    main, workers = begun(*LONG, "--jobs", "2")
    some_point_is_finished(main)
    main.kill()
    main.wait()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=20)[1]
    finished = len(list(Path("out/points").glob("0*.json")))
    assert finished < 8
    assert not Path("out/table.csv").exists()
    assert sweep(*LONG, "--out", "out") == (0, "")
    assert len(rows("out")) == 8


def test_sweep_keeps_finished_points_when_interrupted(sweep: Sweep) -> None:
    main, workers = begun(*LONG, "--jobs", "2")
    some_point_is_finished(main)
    os.killpg(main.pid, signal.SIGINT)  # as a terminal does
    assert main.wait() == 130
    assert not psutil.wait_procs(workers, timeout=20)[1]
    kept = rows("out")
    assert 1 <= len(kept) < 8
    assert all(row["settled"] == "true" for row in kept)


def test_sweep_loses_one_point_when_a_process_dies(sweep: Sweep) -> None:
    words = ["user_oriented", "--over", "population.homes=300,6,7", "--set", "aggregators=1", "--jobs", "1", "--quiet"]
    main, (worker,) = begun(*words)
    worker.kill()  # long before the first point is finished
    assert main.wait() == 3
    found = rows("out")
    assert [row["settled"] for row in found] == ["false", "true", "true"]
    assert "died of signal 9" in found[0]["problem"]
    assert [path.name for path in sorted(Path("out/points").iterdir())] == ["00002.json", "00003.json"]


def test_columns_of_single_homes_are_left_out_when_homes_are_many() -> None:
    grid = parse(["x=1"])
    for homes in (12, 13):
        outcome = {"peak": 2, "calls": {f"h{n}": 1.5 for n in range(homes)}, "curve": [1, 2], "cost": {"valley": 3}}
        row = table.row(grid, ("1",), {"settled": True, "homes": homes, "outcome": outcome})
        assert row["outcome.cost.valley"] == 3
        assert "outcome.curve" not in row
        assert ("outcome.calls.h0" in row) == (homes == 12)


def test_figure_draws_the_numbers_of_the_table() -> None:
    grid = parse(["x=1,2,3", "y=a,b"])
    outcome = iter(range(6))
    found = [
        table.row(grid, point, {"settled": point != ("2", "b"), "outcome": {"peak_kw": next(outcome), "same": 1}})
        for point in grid.points
    ]
    assert drawing.choose_panels(grid, found) == ["outcome.peak_kw"]
    figure = drawing.draw(grid, found, {"x": "Price (cents/kWh)"})
    (axes,) = figure.axes
    assert (axes.get_title(loc="left"), axes.get_xlabel()) == ("Peak (kW)", "Price (cents/kWh)")
    assert [list(line.get_ydata()) for line in axes.lines] == [[0, 2, 4], [], [1, 3, 5], [3]]
    assert [list(line.get_xdata()) for line in axes.lines][2:] == [[1, 2, 3], [2]]
    assert axes.lines[3].get_markerfacecolor() == "white"


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("revenue", "Revenue (cents)"),
        ("baseline_revenue", "Revenue before (cents)"),
        ("cost.off_peak", "Cost, off peak (cents)"),
        ("baseline_cost.valley", "Cost before, valley (cents)"),
        ("homes.h1.revenue", "Revenue, h1 (cents)"),
        ("par", "PAR"),
        ("baseline_par", "PAR before"),
        ("other_kwh", "Other (kWh)"),
    ],
)
def test_figure_of_a_sweep_names_numbers_with_units(key: str, title: str) -> None:
    labels = {"revenue": "Revenue (cents)", "cost": "Cost (cents)", "par": "PAR"}
    rows = [{"x": x, "settled": True, f"outcome.{key}": x} for x in (0.5, 1.0)]
    rows[0][f"outcome.{key}"] = 7.0
    (axes,) = drawing.draw(parse(["x=0.5,1.0"]), rows, labels).axes
    assert axes.get_title(loc="left") == title


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("0:1e300:1", "these are more than 100000 values; widen the step"),
        ("0:1:1e-9", "these are more than 100000 values; widen the step"),
        ("0:1e9999999999999999999:1", "a number is too large or too small; correct it"),
        ("0:1e999999:1e-999999", "a number is too large or too small; correct it"),
        ("0:1e99998:1e99997", "a number is too large or too small; correct it"),
        ("0:1e-99998:1e-99998", "a number is too large or too small; correct it"),
    ],
)
def test_range_without_end_is_refused(values: str, message: str) -> None:
    with pytest.raises(GridError, match=message):
        parse([f"leader.mu={values}"])


@pytest.mark.timeout(60)
def test_long_range_is_read_soon() -> None:
    assert len(parse(["leader.mu=0:0.9999:0.00001"]).points) == 99_991
