"""Runs side by side: what differs between two, by key and by figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.report_page import Page

import stackelgrid
from stackelgrid import cli
from stackelgrid.report import drawing
from stackelgrid.report.parts import Plot
from stackelgrid.report.words import number
from stackelgrid.store.comparison import list_differences, read_run, spell_row, tabulate_figures
from stackelgrid.store.comparison_page import draw

FEW = {"population.homes": 3, "aggregators": 1}
SESSIONS = {"start": "2026-06-01T00:00", "days": 1, "horizon": "24h", "every": "12h"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of one scenario: twice the same, one with other values, one of another game."""
    root = tmp_path_factory.mktemp("compared")
    for name, changes in {"one": {}, "again": {}, "low mu": {"leader.mu": 0.5}}.items():
        stackelgrid.run("user_oriented", {**FEW, **changes}, out=root / "runs" / name)
    stackelgrid.run("prosumer", out=root / "elsewhere")
    stackelgrid.run("user_oriented", {**FEW, "calendar": SESSIONS}, out=root / "runs" / "sessions")
    return root


@pytest.fixture(autouse=True)
def _at_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words])
    code = cli.main()
    return (code, *capsys.readouterr())


def test_differences_are_keys_and_figures() -> None:
    one, low = (read_run(name, Path("runs") / name) for name in ("one", "low mu"))
    keys, figures = list_differences(one, low)
    assert keys["leader.mu"] == [one.scenario["leader"]["mu"], 0.5]
    assert keys.keys() == {"leader.mu"}
    assert figures["Peak (kW)"] == [one.content.result.outcome.peak_kw, low.content.result.outcome.peak_kw]
    assert "Time (s)" not in figures
    assert "Homes settled" not in figures


def test_same_scenario_has_no_differences(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(monkeypatch, capsys, "runs", "diff", "one", "again") == (0, "no differences\n", "")


def test_data_are_compared_by_their_content(root: Path) -> None:
    path = next((root / "runs" / "again").glob("*.csv"))
    before = path.read_bytes()
    path.write_bytes(before.replace(b"0.1", b"0.2"))
    try:
        keys, _ = list_differences(*(read_run(name, Path("runs") / name) for name in ("one", "again")))
    finally:
        path.write_bytes(before)
    assert [*keys] == ["population.profiles"]


def test_differences_are_printed_and_given_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run_command(monkeypatch, capsys, "runs", "diff", "one", "runs/low mu")
    assert out.splitlines()[0].split() == ["one", "runs/low", "mu"]
    (line,) = (line for line in out.splitlines() if line.startswith("leader.mu"))
    assert line.split()[-1] == "0.5"
    _, out, _ = run_command(monkeypatch, capsys, "runs", "diff", "one", "low mu", "--json")
    content = json.loads(out)
    assert content["runs"] == ["one", "low mu"]
    assert content["scenario"]["leader.mu"][1] == 0.5
    assert len(content["figures"]["Peak (kW)"]) == 2


def test_runs_of_two_games_have_rows_of_their_own() -> None:
    runs = [read_run("one", Path("runs/one")), read_run("elsewhere", Path("elsewhere"))]
    table = tabulate_figures(runs)
    assert table["Rounds"] == [run.content.result.rounds for run in runs]
    assert table["DR (kWh)"][0] is None
    assert table["PAR"][1] is None


def test_loads_and_prices_are_drawn_over_each_other() -> None:
    """Each slot once, however many sessions have looked at it."""
    runs = [read_run(name, Path(path)) for name, path in (("one", "runs/one"), ("sessions", "runs/sessions"))]
    load, price = draw([*runs, read_run("other", Path("elsewhere"))])
    assert (load.name, price.name) == ("load", "price")
    assert [list(drawn) for drawn in read_curves(load)] == [["one", "sessions", "other"]]
    assert [list(drawn) for drawn in read_curves(price)] == [["one", "sessions"]]
    (drawn,) = read_curves(load)
    assert drawn["one"] == [*map(number, runs[0].content.result.outcome.load_kw)]
    assert [len(values) for values in drawn.values()] == [24, 24, 24]


def read_curves(plot: Plot) -> list[dict[str, list[str]]]:
    """The curves of each panel, as the page reads them out."""
    return [dict(panel["curves"]) for panel in drawing.read_values(plot.figure)]


def test_command_compares_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["one", "low mu", "sessions", "elsewhere"]
    code, out, _ = run_command(monkeypatch, capsys, "compare", *names, "--out", "found")
    assert code == 0
    assert out.splitlines()[-1] == "report: found/report.html"
    (rounds,) = (line.split() for line in out.splitlines() if line.startswith("Rounds"))
    assert int(rounds[1]) == read_run("one", Path("runs/one")).content.result.rounds
    page = Page(Path("found/report.html"))
    assert "low mu" in page.text
    assert sorted(path.name for path in Path("found").rglob("*.*")) == [
        "comparison.json", "load.png", "price.png", "report.html", "table.csv"
    ]  # fmt: skip
    lines = Path("found/table.csv").read_text().splitlines()
    assert lines[:2] == ["figure,one,low mu,sessions,elsewhere", "Settled,true,true,true,true"]
    code, out, _ = run_command(monkeypatch, capsys, "compare", *names[:2], "--json")
    assert code == 0
    content = json.loads(out)
    assert [run["run"] for run in content["runs"]] == names[:2]
    assert content["runs"][0]["figures"]["Peak (kW)"] == read_run("one", Path("runs/one")).figures["Peak (kW)"]
    assert content["scenario"]["leader.mu"][1] == 0.5
    assert len([*Path("runs").glob("comparison-*")]) == 1
    assert run_command(monkeypatch, capsys, "runs", "list")[1].count("comparison") == 0


@pytest.mark.parametrize("names", [["one"], ["one", "one"], ["one", "nowhere"], []])
def test_command_refuses_what_cannot_be_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    code, out, error = run_command(monkeypatch, capsys, "compare", *names, "--out", "nothing")
    assert (code, out) == (2, "")
    assert error
    assert not Path("nothing").exists()


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([100.0, 110.0], ["100.0", "110.0 (+10.0 %)"]),
        ([100.0, 100.00001], ["100.0", "100.0"]),
        ([10, 5, None], ["10", "5 (−50.0 %)", "–"]),
        ([0, 3], ["0", "3"]),
        ([-2.0, 3.0], ["−2.000", "3.000"]),
        ([None, 3], ["–", "3"]),
        ([True, False], ["yes", "no"]),
        (["all passed", "all passed"], ["all passed", "all passed"]),
    ],
)
def test_figures_are_told_with_their_change(cells: list[float | None], words: list[str]) -> None:
    assert spell_row(cells) == words


@pytest.mark.parametrize(
    ("file", "content"),
    [("result.json", None), ("result.json", "{"), ("scenario.yaml", "game: nothing"), ("rounds.jsonl", "")],
)
def test_run_that_cannot_be_read_is_one_message(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, content: str | None
) -> None:
    path = root / "runs" / "again" / file
    before = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    try:
        code, out, err = run_command(monkeypatch, capsys, "runs", "diff", "one", "again")
    finally:
        path.write_bytes(before)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert file in err
