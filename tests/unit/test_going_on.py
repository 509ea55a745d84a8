"""What was interrupted goes on where it was: runs, and their certification."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stackelgrid
from stackelgrid import cli, runner
from stackelgrid.cli.progress import RunDisplay
from stackelgrid.errors import ConfigError
from stackelgrid.registry import find, list_games
from stackelgrid.scenarios import Scenario
from stackelgrid.store.run_store import RunStore
from stackelgrid.testbed import in_memory, run_folder
from stackelgrid.testbed.run_lock import RunLock

SESSIONS: dict[str, Any] = {
    "calendar": {
        "start": "2026-06-01T00:00",
        "timezone": "Europe/Brussels",
        "days": 1,
        "horizon": "12h",
        "every": "8h",
    },
    "population.homes": 4,
    "aggregators": 2,
    "leader.objective": "welfare",
}


def read_result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_bytes())
    return content


# --- runs in memory ---

PLAY_AND_DIE = """
import os, signal, sys
import stackelgrid

def die(record):
    if record["round"] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

stackelgrid.run(sys.argv[1], out=sys.argv[2], on_round=die)
"""

HOMES = 6


def interrupt_after(rounds: int) -> Callable[[dict[str, Any]], None]:
    def stop(record: dict[str, Any]) -> None:
        if record["round"] == rounds:
            raise KeyboardInterrupt

    return stop


def read_run(folder: Path) -> tuple[dict[str, Any], bytes, list[str]]:
    """What a run has left, but for the seconds that it took: its result, its rounds, its files."""
    result = {**read_result(folder), "elapsed_s": 0.0}
    return result, (folder / "rounds.jsonl").read_bytes(), sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("game", list_games())
def test_run_goes_on_as_if_it_had_not_been_interrupted(game: str, tmp_path: Path) -> None:
    small = find(game).load("small_scenario")(np.random.default_rng(2), HOMES)
    scenario = {"schema": 1, "game": game, "aggregators": 2, **small}
    whole = stackelgrid.run(scenario, out=tmp_path / "whole")
    for rounds in {1, (whole.result.rounds + 1) // 2, whole.result.rounds}:
        folder = tmp_path / f"interrupted in {rounds}"
        before = stackelgrid.run(scenario, out=folder, on_round=interrupt_after(rounds))
        assert (before.interrupted, before.result.rounds) == (True, rounds)
        asked: list[int] = []
        after = stackelgrid.resume(folder, on_round=lambda record: asked.append(record["round"]))  # noqa: B023
        assert asked == [*range(rounds + 1, whole.result.rounds + 1)]
        assert not after.interrupted
        assert read_run(folder) == read_run(tmp_path / "whole")


def test_run_of_homes_with_devices_goes_on_to_the_same_powers_and_prices(tmp_path: Path) -> None:
    street = {"population.homes": 4, "aggregators": 2}
    whole = stackelgrid.run("street", street, seed=2)
    stackelgrid.run("street", street, seed=2, out=tmp_path / "run", on_round=interrupt_after(whole.result.rounds // 2))
    after = stackelgrid.resume(tmp_path / "run")
    assert after.result.rounds == whole.result.rounds
    for name in ("price", "load_kw"):
        np.testing.assert_allclose(getattr(after.outcome, name), getattr(whole.outcome, name), rtol=0, atol=1e-9)
    for home, content in whole.outcome.homes.items():
        np.testing.assert_allclose(after.outcome.homes[home].load_kw, content.load_kw, rtol=0, atol=1e-9)


def test_run_of_sessions_goes_on_after_each_interrupt(tmp_path: Path) -> None:
    whole = stackelgrid.run("user_oriented", SESSIONS, out=tmp_path / "whole")
    folder = tmp_path / "interrupted"
    stackelgrid.run("user_oriented", SESSIONS, out=folder, on_round=interrupt_after(2))
    for session in whole.result.sessions[:-1]:
        played = len(stackelgrid.load(folder).journal)
        partly = stackelgrid.resume(folder, on_round=interrupt_after(played + session.rounds))
        assert partly.interrupted
        assert partly.journal == whole.journal[: played + session.rounds]
        assert RunStore(tmp_path).list()[0].state in ("interrupted", "settled")
    stackelgrid.resume(folder)
    assert read_run(folder) == read_run(tmp_path / "whole")
    assert len(json.loads((folder / "manifest.json").read_bytes())["resumed"]) == 3


def test_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    """Whatever a kill has left of the last lines."""
    whole = stackelgrid.run("user_oriented", SESSIONS, out=tmp_path / "whole")
    second = whole.result.sessions[0].rounds + 1
    words = [str(tmp_path / "whole" / "scenario.yaml"), str(tmp_path / "killed"), str(second)]
    ended = subprocess.run([sys.executable, "-c", PLAY_AND_DIE, *words], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [run.state for run in RunStore(tmp_path).list() if run.id == "killed"] == ["failed"]
    log = tmp_path / "killed" / "nodes" / "recovery.jsonl"
    log.write_bytes(log.read_bytes()[:-7])
    stackelgrid.resume(tmp_path / "killed")
    assert read_run(tmp_path / "killed") == read_run(tmp_path / "whole")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "of another version"),
        (lambda folder: (folder / "nodes" / "recovery.jsonl").write_text('{"kind": 1}\n'), "another scenario"),
        (lambda folder: (folder / "nodes" / "recovery.jsonl").write_text("[\n"), "recovery.jsonl: damaged"),
        (lambda folder: replace(folder / "nodes" / "recovery.jsonl", '"answers"', '"replies"'), "jsonl: damaged"),
        (lambda folder: replace(folder / "nodes" / "recovery.jsonl", '"record": {', '"record": 1, "x": {'), "damaged"),
        (lambda folder: (folder / "faults.yaml").write_text("faults: []"), "under a fault plan does not go on"),
        (
            lambda folder: replace(folder / "scenario.yaml", "seed: 2020", "seed: 2021"),
            "of another scenario than scenario.yaml",
        ),
        (stackelgrid.resume, "this run has ended"),
    ],
)
def test_folder_that_cannot_go_on_is_one_message(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    stackelgrid.run("prosumer", out=tmp_path / "run", on_round=interrupt_after(1))
    spoil(tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(ConfigError, match=message) as refused:
        stackelgrid.resume(tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_run_that_ends_while_another_waits_for_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    stackelgrid.run("prosumer", out=folder, on_round=interrupt_after(1))

    def wait_for_end(path: Path, *, resumed: bool) -> RunLock:
        run_folder.note_end(path, "settled", "")
        return RunLock(path, resumed=resumed)

    before = read_run(folder)
    monkeypatch.setattr(runner, "RunLock", wait_for_end)
    with pytest.raises(ConfigError, match="this run has ended"):
        stackelgrid.resume(folder)
    assert read_run(folder) == before


def test_bug_in_a_game_is_not_taken_for_a_damaged_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("a bug in a game")

    monkeypatch.setattr(in_memory, "build_node_configs", fail)
    with pytest.raises(TypeError, match="a bug in a game"):
        stackelgrid.run("prosumer", out=tmp_path / "run")


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words])
    code = cli.main()
    return (code, *capsys.readouterr())


def test_command_goes_on_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stackelgrid.Run, "report", lambda run: None)
    run = ["run", "prosumer", "--transport", "memory", "--no-certify"]
    with monkeypatch.context() as stopping:
        stopping.setattr(RunDisplay, "show_round", lambda display, record: interrupt_after(2)(record))
        code, _, error = run_command(monkeypatch, capsys, *run, "--out", "my run")
    assert code == 130
    assert error.endswith("; stackelgrid run --resume 'my run' goes on\n")
    code, out, _ = run_command(monkeypatch, capsys, "run", "--resume", "my run", "--no-certify", "--json")
    assert (code, json.loads(out)) == (0, stackelgrid.load("my run").result.content())
    assert stackelgrid.load("my run").result.rounds == 6
    for words in (["prosumer"], ["--seed", "3"], ["--set", "seed=3"], ["--transport", "memory"]):
        code, _, error = run_command(monkeypatch, capsys, "run", "--resume", "my run", *words)
        assert (code, error.count("\n")) == (2, 1)
        assert f"leave {words[0] if words[0].startswith('-') else 'SCENARIO'} out" in error
    assert run_command(monkeypatch, capsys, "run")[0] == 2
    assert run_command(monkeypatch, capsys, "run", "--resume", "nowhere")[0] == 2


# --- certification ---


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played") / "run"
    stackelgrid.run("user_oriented", SESSIONS, out=folder)
    return folder


def list_certified(folder: Path) -> list[int]:
    sessions = read_result(folder)["sessions"]
    return [number for number, session in enumerate(sessions, start=1) if session["certificate"] is not None]


def test_certification_goes_on_with_the_sessions_that_are_left(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certify, asked = Scenario.certificate, []

    def certify_and_count(scenario: Scenario, *rest: Any) -> dict[str, Any]:
        asked.append(scenario.session.first)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return certify(scenario, *rest)

    monkeypatch.setattr(Scenario, "certificate", certify_and_count)
    with pytest.raises(KeyboardInterrupt):
        stackelgrid.load(played).certify(samples=5)
    assert list_certified(played) == [1]
    assert read_result(played)["certificate"] is None
    steps: list[str] = []
    going_on = stackelgrid.load(played).certify(samples=5, on_step=steps.append)
    assert steps == ["certifying, 2 of 3 sessions", "certifying, 3 of 3 sessions"]
    assert len(asked) == 2 + 2  # the second was asked again, and then the third
    assert list_certified(played) == [1, 2, 3]
    assert stackelgrid.load(played).certify(samples=5) == going_on  # all of them anew
    assert len(asked) == 2 + 2 + 3
    assert read_result(played)["certificate"] == going_on.root


def test_command_says_how_a_certification_goes_on(played: Path) -> None:
    result = read_result(played)
    for content in (result, *result["sessions"]):
        content["certificate"] = None
    (played / "result.json").write_text(json.dumps(result))
    command = [sys.executable, "-m", "stackelgrid", "certify", str(played), "--samples", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list_certified(played):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    certified = list_certified(played)
    assert process.returncode == 130
    last = error.splitlines()[-1]  # after those of progress, where the machine is slow
    assert last == f"interrupted; {len(certified)} of 3 sessions are certified, the same command goes on"
