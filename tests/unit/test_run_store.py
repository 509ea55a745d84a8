"""The store of runs: what it lists of whatever lies in its folder, what it finds and what it removes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import stackelgrid
from stackelgrid import cli
from stackelgrid.errors import ConfigError
from stackelgrid.store.run_store import NoRunError, RunGoesOnError, RunStore
from stackelgrid.testbed import run_lock
from stackelgrid.testbed.run_lock import RunLock, is_played

SETTLED = "two words"
PLAY_AND_WAIT = """
import sys, time
import stackelgrid

def stop(record):
    print("played", flush=True)
    time.sleep(100)

stackelgrid.run("prosumer", out=sys.argv[1], on_round=stop)
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played") / SETTLED
    stackelgrid.run("prosumer", out=folder)
    return folder


@pytest.fixture
def store(played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A store of one run, whose name has a space, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(played, tmp_path / "runs" / SETTLED)
    return RunStore(Path("runs"))


@pytest.fixture
def running(store: RunStore) -> Iterator[subprocess.Popen[str]]:
    """A process that plays a run of the store and goes on doing so."""
    command = [sys.executable, "-c", PLAY_AND_WAIT, str(store.root / "live")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "played\n"
        yield process
        process.kill()


def read_states(store: RunStore) -> dict[str, str]:
    return {run.id: run.state for run in store.list()}


def test_run_is_summarised_from_its_files(store: RunStore) -> None:
    (run,) = store.list()
    assert (run.id, run.state, run.game, run.homes, run.rounds, run.message) == (
        SETTLED, "settled", "prosumer", 2, 6, ""
    )  # fmt: skip
    assert run.started is not None


def test_run_is_running_until_its_process_is_killed(store: RunStore, running: subprocess.Popen[str]) -> None:
    assert read_states(store) == {SETTLED: "settled", "live": "running"}
    (live,) = (run for run in store.list() if run.id == "live")
    assert (live.game, live.homes, live.rounds) == ("prosumer", 2, None)
    with pytest.raises(RunGoesOnError, match="stop it first"):
        store.remove("live")
    running.kill()
    running.wait()
    assert read_states(store)["live"] == "failed"
    store.remove("live")
    assert not (store.root / "live").exists()


def test_run_that_another_process_plays_is_not_gone_on_with(
    store: RunStore, running: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_END_S", 0.05)
    with pytest.raises(ConfigError, match="another process plays this run"):
        stackelgrid.resume(store.root / "live")
    assert read_states(store)["live"] == "running"


def test_interrupted_run_is_known_as_one(store: RunStore, running: subprocess.Popen[str]) -> None:
    running.send_signal(signal.SIGINT)
    running.wait()
    assert read_states(store)["live"] == "interrupted"


def test_run_that_fails_says_why(store: RunStore) -> None:
    def fail(start: object) -> None:
        raise RuntimeError("no more paper")

    with pytest.raises(RuntimeError):
        stackelgrid.run("prosumer", out=store.root / "failed", on_start=fail)
    assert [(run.state, run.message) for run in store.list() if run.id == "failed"] == [
        ("failed", "RuntimeError: no more paper")
    ]


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"rounds.jsonl": ""}, "failed"),
        ({"manifest.json": "{}"}, "failed"),
        ({"manifest.json": '{"began": 5}'}, "unreadable"),
        ({"manifest.json": '{"began": "2026"}', "result.json": "{}"}, "failed"),
        ({"manifest.json": '{"state": "odd"}', "result.json": "{}"}, "unreadable"),
        ({"result.json": '{"schema": 0}'}, "unreadable"),
        ({"result.json": '{"settled": tr'}, "unreadable"),
        ({"result.json": "[" * 10_000}, "unreadable"),
        ({"result.json": "[]"}, "unreadable"),
        ({"result.json": "\udcff"}, "unreadable"),
        ({"result.json": '{"scenario": "\\ud800"}'}, "unreadable"),
        ({"scenario.yaml": "game: prosumer", "comparison.json": "{}"}, None),
        ({}, None),
    ],
)
def test_strange_folder_is_listed_in_one_line(store: RunStore, files: dict[str, str], state: str | None) -> None:
    (store.root / "strange").mkdir()
    for name, content in files.items():
        (store.root / "strange" / name).write_bytes(content.encode(errors="surrogateescape"))
    for _ in ("cold", "warm"):
        found = {run.id: run for run in store.list()}
        assert found[SETTLED].state == "settled"
        assert (found["strange"].state if "strange" in found else None) == state
        if state is not None:
            assert found["strange"].message
            assert "\n" not in found["strange"].message


@pytest.mark.parametrize(
    "run",
    ["", ".", "..", "../runs", "/", "/etc", "no run", "a\0b", "x" * 300, ".hidden", "link", "../outside", "line\n"],
)
def test_name_of_no_run_leads_nowhere(store: RunStore, run: str) -> None:
    for name in ("../outside", ".hidden", "line\n"):
        shutil.copytree(store.root / SETTLED, store.root / name)
    (store.root / "link").symlink_to(store.root.parent.resolve() / "outside")
    assert [*read_states(store)] == [SETTLED]
    with pytest.raises(NoRunError, match="there is no run"):
        store.remove(run)
    assert (store.root.parent / "outside" / "result.json").exists()


@pytest.mark.parametrize("run", [SETTLED, f"runs/{SETTLED}", f"./runs/{SETTLED}/", f"runs/../runs/{SETTLED}"])
def test_run_is_found_by_its_name_or_folder(store: RunStore, run: str) -> None:
    assert store.find(run) == store.root / SETTLED


def test_run_that_cannot_be_removed_is_whole(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    before = sorted((store.root / SETTLED).iterdir())
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Read-only"):
        store.remove(SETTLED)
    assert sorted((store.root / SETTLED).iterdir()) == before


def test_index_is_used_and_follows_the_files(store: RunStore) -> None:
    store.list()
    with sqlite3.connect(store.root / ".index.sqlite") as index:
        index.execute("""UPDATE runs SET summary = replace(summary, '"rounds": 6', '"rounds": 7')""")
    assert [run.rounds for run in store.list()] == [7]  # it was not read again
    result = store.root / SETTLED / "result.json"
    result.write_text(result.read_text().replace('"rounds": 6', '"rounds": 8'))
    assert [run.rounds for run in store.list()] == [8]
    store.remove(SETTLED)
    assert store.list() == []
    with sqlite3.connect(store.root / ".index.sqlite") as index:
        assert index.execute("SELECT count(*) FROM runs").fetchone() == (0,)


@pytest.mark.parametrize("spoil", ["text", "torn", "version", "number", "folder", "locked"])
def test_index_that_cannot_be_used_costs_nothing_but_time(store: RunStore, spoil: str) -> None:
    expected, file = store.list(), store.root / ".index.sqlite"
    index = sqlite3.connect(file)
    match spoil:
        case "text":
            file.write_text("this is no database, however long it may be" * 100)
        case "torn":
            file.write_bytes(file.read_bytes()[:5000])
        case "version":
            index.executescript("PRAGMA user_version = 99; DROP TABLE runs; CREATE TABLE runs (other TEXT)")
        case "number":
            index.executescript(
                "DROP TABLE runs; CREATE TABLE runs (id PRIMARY KEY, stamp, summary); INSERT INTO runs VALUES (1, 2, 3)"
            )
        case "folder":
            file.unlink()
            file.mkdir()
        case "locked":
            index.execute("BEGIN EXCLUSIVE")
    assert store.list() == expected
    index.close()
    assert store.list() == expected


def test_store_may_change_while_it_is_listed(store: RunStore) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            shutil.copytree(store.root / SETTLED, store.root / "other")
            RunStore(store.root).list()
            shutil.rmtree(store.root / "other")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [read_states(store) for _ in range(50)]
    finally:
        stop.set()
        writer.join()
    assert all(states[SETTLED] == "settled" for states in seen)


def test_folder_is_locked_until_all_have_released_it(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    shared = lock.share()
    lock.release()
    assert is_played(tmp_path)
    shared.release()
    assert not is_played(tmp_path)


def run_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words])
    code = cli.main()
    return (code, *capsys.readouterr())


def test_commands_list_show_and_remove(
    store: RunStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.rename(store.root / SETTLED, store.root / "a \u00e9 run")
    for words in (["runs"], ["runs", "list"]):
        code, out, _ = run_command(capsys, monkeypatch, *words)
        assert code == 0
        assert [line.split("  ")[0] for line in out.splitlines()] == ["id", "a \u00e9 run"]
    _, out, _ = run_command(capsys, monkeypatch, "runs", "list", "--json")
    assert run_command(capsys, monkeypatch, "runs", "--json")[:2] == (0, out)
    code, _, err = run_command(capsys, monkeypatch, "runs", "--json", "list")
    assert (code, err) == (2, "--json: write it behind list\n")
    assert [run["state"] for run in json.loads(out)] == ["settled"]
    _, out, _ = run_command(capsys, monkeypatch, "runs", "show", "a \u00e9 run")
    assert "Demand response" in out
    _, out, _ = run_command(capsys, monkeypatch, "runs", "show", "a \u00e9 run", "--json")
    assert json.loads(out)["result"]["rounds"] == 6
    assert run_command(capsys, monkeypatch, "runs", "rm", "a \u00e9 run")[0] == 0
    code, _, err = run_command(capsys, monkeypatch, "runs", "rm", "a \u00e9 run")
    assert (code, err.count("\n")) == (2, 1)
    assert run_command(capsys, monkeypatch, "runs")[1] == "no runs in runs; stackelgrid run plays one\n"


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, ["id", "state", "game", "homes", "rounds", "started", "scenario"]),
        (80, ["id", "state", "homes", "started", "scenario"]),
        (40, ["id", "state", "star\N{HORIZONTAL ELLIPSIS}"]),
    ],
)
def test_list_on_a_terminal_leaves_out_columns_before_the_scenario(
    store: RunStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, columns: list[str]
) -> None:
    os.rename(store.root / SETTLED, store.root / "prosumer-20261129-090002")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run_command(capsys, monkeypatch, "runs")[1].splitlines()
    assert lines[0].split() == columns
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("by_path", [False, True])
def test_run_is_certified_and_reported_on_by_its_name_or_folder(
    store: RunStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, by_path: bool
) -> None:
    run, folder = str(store.root / SETTLED) if by_path else SETTLED, store.root / SETTLED
    code, out, _ = run_command(capsys, monkeypatch, "certify", run, "--samples", "1")
    assert code == 0
    assert json.loads((folder / "result.json").read_text())["certificate"] == json.loads(out)
    assert run_command(capsys, monkeypatch, "report", run)[:2] == (0, f"{folder / 'report.html'}\n")


def test_scenario_is_certified_before_a_run_of_its_name(
    store: RunStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.rename(store.root / SETTLED, store.root / "prosumer")
    assert run_command(capsys, monkeypatch, "certify", "prosumer", "--samples", "1")[0] == 0
    assert json.loads((store.root / "prosumer" / "result.json").read_text())["certificate"] is None


@pytest.mark.parametrize("words", [["runs", "show", SETTLED], ["runs", "diff", SETTLED, "../runs/" + SETTLED]])
def test_certificate_that_is_no_number_is_one_line(
    store: RunStore, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store.root / SETTLED / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"certificate": {"gap": "big"}}))
    code, out, err = run_command(capsys, monkeypatch, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "result.json: certificate.gap is 'big', not a finite number; put the file back or run again" in err


def test_unreadable_run_is_shown_with_its_message(
    store: RunStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / SETTLED / "result.json").write_text('{"scenario": "\\u001b[31m')
    code, out, _ = run_command(capsys, monkeypatch, "runs", "show", SETTLED)
    assert code == 0
    assert "unreadable" in out
    assert "prosumer" in out
    assert "result.json: not JSON" in " ".join(out.split())
