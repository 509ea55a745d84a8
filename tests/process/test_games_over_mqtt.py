"""Every game with a process per node over a real broker: the same outcome as in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stackelgrid import cli, runner
from stackelgrid.registry import list_games
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory, processes
from stackelgrid.testbed.result import build_result

SMALL = {"user_oriented": ["population.homes=8", "aggregators=2"]}
PATIENT = ["rounds.deadline_s=60", "rounds.gather_s=600"]
"""No deadline passes, however slow the machine."""


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two outcomes differ by more than 1e-9 of the larger number, or of 1."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line
            for key, pair in enumerate(zip(one, other, strict=True))
            for line in differences(*pair, f"{where}.{key}")
        ]
    if isinstance(one, float | int) and isinstance(other, float | int) and not isinstance(one, bool):
        return [] if abs(one - other) <= 1e-9 * max(1, abs(one), abs(other)) else [f"{where}: {one} {other}"]
    return [] if one == other else [f"{where}: {one!r} {other!r}"]


def outcome(scenario: Scenario, run_record: RunRecord) -> Any:
    """Give the outcome as result.json has it."""
    return build_result(scenario, run_record).content()["outcome"]


@pytest.mark.parametrize("game", list_games())
def test_game_over_mqtt_agrees_with_memory(game: str, tmp_path: Path, mosquitto_url: str) -> None:
    scenario = load(game, [*SMALL.get(game, []), *PATIENT])
    over_mqtt = processes.play(scenario, tmp_path, mosquitto_url, f"test-{game}-{tmp_path.name}")
    in_one = in_memory.play(scenario)
    assert over_mqtt.settled and not over_mqtt.failures and over_mqtt.missing == []
    assert over_mqtt.processes == 1 + scenario.aggregators + len(scenario.everyone)
    assert len(over_mqtt.rounds) == len(in_one.rounds)
    assert differences(outcome(scenario, over_mqtt), outcome(scenario, in_one)) == []


@pytest.mark.parametrize("game", list_games())
def test_game_in_memory_gives_the_same_bytes_twice(game: str) -> None:
    scenario = load(game, SMALL.get(game))
    first, second = (json.dumps(outcome(scenario, in_memory.play(scenario))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("game", list_games())
def test_game_settles_on_the_embedded_broker(game: str, tmp_path: Path, embedded_url: str) -> None:
    scenario = load(game, [*SMALL.get(game, []), *PATIENT])
    run_record = processes.play(scenario, tmp_path, embedded_url, f"test-{game}-{tmp_path.name}")
    assert run_record.settled and not run_record.failures


@pytest.mark.parametrize("game", list_games())
def test_command_plays_game_to_its_report(
    game: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["stackelgrid", "run", game, "--transport", "memory", "--out", out, "--json"])
    assert cli.main() == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settled"] and result["complete"] and result["certificate"]["feasible"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    monkeypatch.setattr("sys.argv", ["stackelgrid", "run", f"{out}/scenario.yaml", "--transport", "memory", "--json"])
    monkeypatch.chdir(tmp_path)
    # Certified and drawn once: the second time only what is played counts.
    monkeypatch.setattr(runner, "CERTIFIED_UP_TO", 0)
    monkeypatch.setattr(runner.Run, "report", lambda self: self.folder)
    assert cli.main() == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == result["outcome"]
