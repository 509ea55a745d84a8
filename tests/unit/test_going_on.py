"""What was interrupted goes on where it was: runs, and their certification."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stackelgrid
from stackelgrid.scenarios import Scenario

SIX_SESSIONS: dict[str, Any] = {
    "calendar": {"start": "2026-06-01T00:00", "timezone": "Europe/Brussels", "days": 1, "horizon": "8h", "every": "4h"},
    "population.homes": 4,
    "aggregators": 2,
    "leader.objective": "welfare",
}


def read_result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_bytes())
    return content


# --- certification ---


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played") / "run"
    stackelgrid.run("user_oriented", SIX_SESSIONS, out=folder)
    return folder


def list_certified(folder: Path) -> list[int]:
    sessions = read_result(folder)["sessions"]
    return [number for number, session in enumerate(sessions, start=1) if session["certificate"] is not None]


def test_certification_goes_on_with_the_sessions_that_are_left(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certify, asked = Scenario.certificate, []

    def certify_and_count(scenario: Scenario, *rest: Any) -> dict[str, Any]:
        asked.append(scenario.session.first)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return certify(scenario, *rest)

    monkeypatch.setattr(Scenario, "certificate", certify_and_count)
    with pytest.raises(KeyboardInterrupt):
        stackelgrid.load(played).certify(samples=5)
    assert list_certified(played) == [1, 2]
    assert read_result(played)["certificate"] is None
    going_on = stackelgrid.load(played).certify(samples=5)
    assert len(asked) == 3 + 4  # the third was asked again, and then the other three
    assert list_certified(played) == [1, 2, 3, 4, 5, 6]
    assert stackelgrid.load(played).certify(samples=5) == going_on  # all of them anew
    assert len(asked) == 3 + 4 + 6
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
    assert error == f"interrupted; {len(certified)} of 6 sessions are certified, the same command goes on\n"
