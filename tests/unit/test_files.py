"""Files and folders as they are: other encodings, full disks, names too long, content that is no result."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from stackelgrid import cli, runner, scenarios

SCENARIO = """\
schema: 1
game: user_oriented
title: "Straße Nº 5"
slots: 4
leader: {objective: welfare, baseline_price: 9, wholesale_price: [2, 3, 5, 3], mu: 1.0, price_max: 30}
homes:
  - id: flat
    inelastic: [{load_kw: [1, 1, 2, 1]}]
    elastic: [{max_kw: 6, valuation: 12, satisfaction: {form: log, alpha: 4, omega: 1.2}}]
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""An environment in which text has no characters beyond ASCII, as in a Latin-1 locale it has none beyond Latin-1."""


@pytest.fixture(autouse=True)
def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "street.yaml").write_text(SCENARIO, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("played")
    (folder / "street.yaml").write_text(SCENARIO, encoding="utf-8")
    runner.run(folder / "street.yaml", out=folder / "run")
    return folder / "run"


def stackelgrid(*words: str, env: Mapping[str, str] | None = None, largest: int | None = None) -> tuple[int, str, str]:
    """Run a command in a process of its own, in which no file can be made larger than `largest` bytes."""

    def limit() -> None:
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    ended = subprocess.run(
        [sys.executable, "-m", "stackelgrid", *words],
        env={**os.environ, **(env or {})},
        preexec_fn=limit,
        capture_output=True,
        check=False,
    )
    return ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command in this process."""
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words])
    code = cli.main()
    out, err = capfd.readouterr()
    return code, out, err


def test_files_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    code, _, err = stackelgrid("run", "street.yaml", "--transport", "memory", "--out", "run", env=ASCII)
    assert code == 0, err
    assert "Straße Nº 5" in (tmp_path / "run/scenario.yaml").read_text(encoding="utf-8")
    assert "Straße Nº 5" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    for words in (["report", "run"], ["check", "street.yaml"], ["run", "run/scenario.yaml", "--transport", "memory"]):
        code, _, err = stackelgrid(*words, env=ASCII)
        assert code == 0, err


def test_console_replaces_what_its_encoding_lacks(tmp_path: Path) -> None:
    (tmp_path / "Straße.yaml").write_text(SCENARIO, encoding="utf-8")
    code, out, err = stackelgrid("check", "Straße.yaml", env=ASCII)
    assert code == 0, err
    assert "e.yaml: a user_oriented game of 1 home, " in out
    code, _, err = stackelgrid("check", "Straße.yam", env=ASCII)
    assert code == 2 and "no such file" in err and err.count("\n") == 1


@pytest.mark.parametrize(("rounds", "code"), [(40, 0), (2, 3)])
def test_run_has_its_own_exit_code_though_nobody_reads_its_output(tmp_path: Path, rounds: int, code: int) -> None:
    words = [
        "run",
        "street.yaml",
        "--transport",
        "memory",
        "--out",
        "run",
        "--json",
        f"--set=leader.max_rounds={rounds}",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "stackelgrid", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        assert ran.stdout is not None and ran.stderr is not None
        ran.stdout.close()  # as head does, once it has had enough
        err = ran.stderr.read().decode()
    assert ran.returncode == code, err
    assert json.loads((tmp_path / "run/result.json").read_text())["settled"] == (code == 0)
    assert "BrokenPipe" not in err


def test_result_is_printed_although_the_disk_is_full(played: Path, tmp_path: Path) -> None:
    words = ["run", "street.yaml", "--transport", "memory", "--out", "run", "--json", "--quiet"]
    fits = (played / "scenario.yaml").stat().st_size
    assert fits < (played / "rounds.jsonl").stat().st_size
    code, out, err = stackelgrid(*words, largest=fits)
    assert code == 2
    result = json.loads(out)
    assert result["settled"] and result["certificate"]["feasible"]
    assert err == f"{tmp_path}/run/rounds.jsonl: File too large; make room, or name one on another disk\n"
    assert not list(tmp_path.glob("run/.*"))


def test_init_leaves_no_file_when_it_cannot_be_written(tmp_path: Path) -> None:
    before = {*tmp_path.iterdir()}
    code, out, err = stackelgrid("init", "new.yaml", largest=10)
    assert (code, out) == (2, "")
    assert err == "new.yaml: File too large; make room, or name one on another disk\n"
    assert {*tmp_path.iterdir()} == before


def test_run_leaves_no_folder_when_nothing_can_be_written(tmp_path: Path) -> None:
    words = ["run", "street.yaml", "--transport", "memory", "--out", "run", "--json", "--quiet"]
    code, out, err = stackelgrid(*words, largest=10)
    assert (code, out) == (2, "")
    assert err == "run/manifest.json: File too large; make room, or name one on another disk\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["report"], ["certify"]])
def test_certificate_or_report_that_cannot_be_written_is_one_line(
    words: list[str], played: Path, tmp_path: Path
) -> None:
    shutil.copytree(played, tmp_path / "run")
    before = (tmp_path / "run/result.json").read_bytes()
    code, _, err = stackelgrid(*words, "run", largest=100)
    assert code == 2 and "File too large" in err.splitlines()[-1] and err.count("File too large") == 1
    assert (tmp_path / "run/result.json").read_bytes() == before


NAME = "x" * 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["certify", NAME], "File name too long; shorten the name"),
        (["report", NAME], "File name too long; shorten the name"),
        (["check", NAME], "cannot be read (File name too long)"),
        (["check", "street.yaml", "--faults", NAME], "cannot be read (File name too long)"),
        (["run", "street.yaml", "--transport", "memory", "--out", NAME], "File name too long"),
        (["run", "street.yaml", "--transport", "memory", "--out", "/proc/run"], "name a folder you may write"),
        (["run", "street.yaml", "--transport", "memory", "--out", "street.yaml/run"], "Not a directory"),
        (["replay", NAME], "neither a seed nor the folder of a run"),
        (["replay", "²"], "neither a seed nor the folder of a run"),
        (["replay", "9" * 5000], "99999999999999999999…: a seed of 5000 digits; name one of at most 18"),
        (["replay", "9" * 30], "99999999999999999999…: a seed of 30 digits; name one of at most 18"),
        (["certify", "loop"], "Too many levels of symbolic links"),
        (["report", "loop"], "Too many levels of symbolic links"),
    ],
)
def test_name_that_cannot_be_used_is_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    os.symlink("loop", "loop")
    code, out, err = command(monkeypatch, capfd, *words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    """Put other content into a file of a run's folder."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def put(key: str, value: str) -> Callable[[Path], None]:
    """Put JSON in the place of a key's value in result.json."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "result.json").read_bytes())
        text = json.dumps({**content, key: None}).replace(f'"{key}": null', f'"{key}": {value}')
        (folder / "result.json").write_text(text, encoding="utf-8")

    return change


def replace_by_pipe(name: str) -> Callable[[Path], None]:
    """Put a pipe in the place of a file, to which nobody writes."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


@pytest.mark.timeout(60)
@pytest.mark.parametrize("of", ["certify", "report"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overwrite("result.json", bytes(range(256))), "result.json: not text in UTF-8"),
        (overwrite("result.json", b"[" * 100_000), "result.json: lists or mappings are nested too deeply"),
        (overwrite("result.json", b"[" * 300 + b"]" * 300), "result.json: lists or mappings are nested too deeply"),
        (overwrite("result.json", b""), "result.json: not JSON"),
        (overwrite("result.json", b"[]"), "result.json: (whole file)"),
        (overwrite("result.json", b"3"), "result.json: (whole file)"),
        (put("certificate", '{"a":' * 100_000), "result.json: lists or mappings are nested too deeply"),
        (put("seed", "9" * 5000), "result.json: 99999999999999999999… is a number of 5000 digits"),
        (put("elapsed_s", "1e999"), "result.json: 1e999 is no number of JSON, or too large for one"),
        (put("elapsed_s", "9" * 300), None),
        (put("game", '"tag"'), "result.json: game: "),
        (put("scenario", r'"\ud800"'), "result.json: scenario: '\\ud800' is half of a character; write the whole one"),
        (replace_by_pipe("result.json"), "result.json: cannot be read (a pipe or a device, not a file)"),
        (overwrite("rounds.jsonl", b"\xff\n"), "rounds.jsonl: not text in UTF-8"),
        (overwrite("rounds.jsonl", b"[" * 100_000), "rounds.jsonl, line 1: lists or mappings are nested too deeply"),
        (overwrite("scenario.yaml", b"["), "scenario.yaml: not YAML"),
        (overwrite("scenario.yaml", b"\xff"), "scenario.yaml: not text in UTF-8"),
        (replace_by_pipe("scenario.yaml"), "scenario.yaml: cannot be read (a pipe or a device, not a file)"),
    ],
)
def test_folder_with_other_content_is_refused(
    of: str,
    change: Callable[[Path], None],
    message: str | None,
    played: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(played, tmp_path / "run")
    change(tmp_path / "run")
    code, out, err = command(monkeypatch, capfd, of, "run")
    if message is None:
        assert code == 0, err
    else:
        assert (code, out) == (2, ""), err
        assert message in err and err.startswith("run/")


def test_error_is_short_whatever_it_quotes(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(f"game: {'x' * 100_000}", encoding="utf-8")
    code, _, err = command(monkeypatch, capfd, "check", "mine.yaml")
    assert code == 2 and len(err) < 6000


def test_shipped_data_is_shown_as_it_was_read_only_when_it_is_read_in_another_way() -> None:
    shown: list[str] = []
    scenarios.load("street", ["population.homes=4"], show=shown.append)
    assert shown == []
    scenarios.load("street", ["population.homes=4", "data.prices.stamp=start"], show=shown.append)
    assert any("was read as" in sentence for sentence in shown)
