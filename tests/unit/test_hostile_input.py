"""Files and options at random, from fixed seeds: what they hold is accepted, or refused in few lines with code 2."""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from stackelgrid import cli, runner
from stackelgrid.scenarios import ScenarioError, load

SCENARIO = """\
schema: 1
game: user_oriented
money: cents
slots: 4
data:
  m: {csv: meter.csv, time: time, timezone: Europe/Berlin, unit: kWh, interval: 1h, day: 2025-06-14}
leader: {objective: welfare, baseline_price: 9, wholesale_price: [2, 3, 5, 3], mu: 1.0, price_max: 30}
aggregators: 1
homes:
  - id: bakery
    inelastic: [{load_kw: {from: m, column: kWh}}]
    elastic: [&oven {max_kw: 6, valuation: 12, satisfaction: {form: log, alpha: 4, omega: 1.2}}]
  - id: flat
    elastic: [*oven]
    storage: [{capacity_kwh: 5, initial_kwh: 2, charge_kw: 2, discharge_kw: 2, wear: {fast: 0.3}}]
    draw_limit: {max_kw: 6}
"""
CSV = "time,kWh,other\n" + "".join(f"2025-06-14 {hour:02d}:00,{1 + hour % 3},{hour / 2}\n" for hour in range(6))
PIECES = [
    *"[]{}:,&*?|>%@`'\"#-~\t\0\x7f\n ²½\ufeff\u2028\ue000",
    *(
        "- ",
        "? ",
        "&a ",
        "*a",
        "*oven",
        "<<: *oven",
        "!!binary x",
        "!!python/name:os.system",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
    ),
    *("9" * 5000, "1e400", "-1", "0", ".nan", ".inf", "null", "true", "1,5", "1.464,00", "1e308", "1e-320", "x" * 3000),
    *(
        "0001-01-01",
        "9999-12-31 23:59",
        "2025-06-14T24:00",
        "2025-02-30",
        "23:59:60",
        "+99:99",
        "[" * 500,
        "{a: " * 500,
    ),
    *(
        "mu:1.0",
        "max_kw: 6,5,",
        "each_column_of: m",
        "{from: m, column: kWh}",
        "csv: .",
        "csv: /dev/zero",
        "timezone: ../x",
    ),
]
KEYS = [
    "homes",
    "0",
    "1",
    "²",
    "-1",
    "9" * 30,
    "",
    "leader",
    "mu",
    "data",
    "m",
    "day",
    "csv",
    "slots",
    "elastic",
    "max_kw",
    "id",
]
_WORD = re.compile(r"[-\w.%:&*]+")
LONGEST_S = 20.0
"""Two seconds on a quiet machine."""


def spoil(text: str, draw: random.Random) -> str:
    """Change one or two places of a text: a word for a piece, a piece put in, a stretch taken out or repeated."""
    for _ in range(draw.randint(1, 2)):
        word = draw.choice(list(_WORD.finditer(text)) or [None])
        start, end = word.span() if word else (0, 0)
        match draw.choice(["word", "word", "word", "insert", "cut", "repeat"]):
            case "word":
                text = text[:start] + draw.choice(PIECES) + text[end:]
            case "insert":
                text = text[:start] + draw.choice(PIECES) + text[start:]
            case "cut":
                text = text[:start] + text[end + draw.choice([0, 1, 20]) :]
            case "repeat":
                text = text[:end] + text[start:end] * 2 + text[end:]
    return text


def require_an_answer(
    words: list[str], source: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Run a command, which must succeed or refuse `source` in few lines, and soon.

    To certify an outcome that is not of the scenario may fail as well.
    """
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words])
    began = time.monotonic()
    code = cli.main()
    taken = time.monotonic() - began
    out, err = capfd.readouterr()
    uncertified = words[0] == "certify" and code == 3 and "the certificate could not be made" in err
    assert code in (0, 2) or uncertified, f"{source!r}: {err}"
    if code != 0:
        assert 1 <= err.count("\n") <= 10 and "Traceback" not in err, f"{source!r}: {err}"
    assert taken < LONGEST_S, f"{source!r}: {out}{err}"


PATHS = [
    *(f"data.m.{key}" for key in ("csv", "time", "timezone", "unit", "interval", "day", "first", "format", "reading")),
    *(
        "data",
        "data.m",
        "slots",
        "seed",
        "money",
        "title",
        "leader",
        "leader.mu",
        "leader.wholesale_price",
        "homes",
        "homes.0",
    ),
    *(
        "homes.0.id",
        "homes.0.inelastic.0.load_kw",
        "homes.1.storage.0.capacity_kwh",
        "homes.²",
        "homes.1.elastic.0.max_kw",
    ),
]


@pytest.mark.parametrize("path", PATHS)
def test_any_value_is_accepted_or_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "meter.csv").write_text(CSV)
    (tmp_path / "street.yaml").write_text(SCENARIO)
    for piece in PIECES:
        began = time.monotonic()
        try:
            load(str(tmp_path / "street.yaml"), [f"{path}={piece}", *(["data.m.day=null"] if "first" in path else [])])
        except ScenarioError as error:
            assert str(error).count("\n") < 10, piece
        assert time.monotonic() - began < LONGEST_S, piece


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("row", [0, 1])
def test_any_cell_is_accepted_or_refused(column: int, row: int, tmp_path: Path) -> None:
    (tmp_path / "street.yaml").write_text(SCENARIO)
    for piece in PIECES:
        lines = [line.split(",") for line in CSV.splitlines()]
        lines[row][column] = piece
        (tmp_path / "meter.csv").write_text("\n".join(map(",".join, lines)) + "\n", encoding="utf-8")
        with suppress(ScenarioError):
            load(str(tmp_path / "street.yaml"))


@pytest.mark.parametrize("seed", range(2))
def test_any_scenario_file_is_read_or_refused(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(seed)
    (tmp_path / "meter.csv").write_text(CSV)
    path = tmp_path / "street.yaml"
    for _ in range(60):
        text = spoil(SCENARIO, draw)
        path.write_text(text, encoding="utf-8")
        require_an_answer(["check", str(path)], text, monkeypatch, capfd)


@pytest.mark.parametrize("seed", range(2))
def test_any_csv_file_is_read_or_refused(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(seed)
    (tmp_path / "street.yaml").write_text(SCENARIO)
    for _ in range(50):
        text = spoil(CSV, draw)
        (tmp_path / "meter.csv").write_text(text, encoding="utf-8")
        require_an_answer(["check", str(tmp_path / "street.yaml")], text, monkeypatch, capfd)


@pytest.mark.parametrize("seed", range(1))
def test_any_override_is_applied_or_refused(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(seed)
    (tmp_path / "meter.csv").write_text(CSV)
    (tmp_path / "street.yaml").write_text(SCENARIO)
    for _ in range(60):
        path = ".".join(draw.choices(KEYS, k=draw.randint(1, 4)))
        override = draw.choice([f"{path}={draw.choice(PIECES)}", spoil(f"{path}=1", draw)]).replace("\0", "")
        require_an_answer(["check", str(tmp_path / "street.yaml"), "--set", override], override, monkeypatch, capfd)


@pytest.mark.parametrize("seed", range(2))
def test_any_fault_plan_is_read_or_refused(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(seed)
    faults = ["{kind: loss, from: flat, to: 'a*', probability: 0.1}", "{kind: crash, node: a1, at: {round: 2}}"]
    plan = "faults:\n" + "".join(f"  - {fault}\n" for fault in faults)
    path = tmp_path / "plan.yaml"
    for _ in range(40):
        text = spoil(plan, draw)
        path.write_text(text, encoding="utf-8")
        require_an_answer(["check", "load_call", "--faults", str(path)], text, monkeypatch, capfd)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("played") / "run"
    runner.run("load_call", out=folder)
    return folder


@pytest.mark.parametrize("file", ["result.json", "rounds.jsonl", "scenario.yaml"])
def test_any_folder_is_certified_or_refused(
    file: str, played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(file)
    whole = (played / file).read_text(encoding="utf-8")
    for number in range(20):
        folder = tmp_path / str(number)
        shutil.copytree(played, folder)
        text = spoil(whole, draw)
        (folder / file).write_text(text, encoding="utf-8")
        require_an_answer(["certify", str(folder), "--samples", "1"], text, monkeypatch, capfd)
