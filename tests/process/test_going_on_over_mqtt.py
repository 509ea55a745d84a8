"""A run over MQTT that was killed or interrupted goes on from what its nodes have left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stackelgrid
from stackelgrid.store.run_store import RunStore

CALENDAR = {"start": "2026-06-01T00:00", "timezone": "Europe/Brussels", "days": 1, "horizon": "8h", "every": "4h"}


def read_rounds(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


@pytest.mark.parametrize(
    ("how", "states"), [(signal.SIGKILL, ("failed", "running")), (signal.SIGINT, ("interrupted",))], ids=str
)
def test_run_goes_on_from_its_ledgers(how: signal.Signals, states: tuple[str, ...], tmp_path: Path) -> None:
    sets = ["--set", "population.homes=4", "--set", "aggregators=2", "--set", "leader.objective=welfare"]
    sets += ["--set", f"calendar={json.dumps(CALENDAR)}"]
    command = [sys.executable, "-m", "stackelgrid", "run", "user_oriented", *sets, "--no-certify", "--out", "run"]
    journal = tmp_path / "run" / "rounds.jsonl"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (journal.exists() and '"session": 2' in journal.read_text()):
            assert process.poll() is None
        process.send_signal(how)
    assert {run.state for run in RunStore(tmp_path).list()} <= {*states}  # nodes of a killed run are still ending
    seen: list[int] = []
    run = stackelgrid.resume(tmp_path / "run", on_round=lambda record: seen.append(record["round"]))
    assert run.settled and run.complete and not run.failures
    assert seen == [*range(1, run.result.rounds + 1)]
    assert [record["round"] for record in read_rounds(journal)] == seen
    in_memory = stackelgrid.run(run.scenario)
    for found, expected in zip(run.result.sessions, in_memory.result.sessions, strict=True):
        assert found.outcome.price == pytest.approx(expected.outcome.price, rel=1e-6)
        assert found.outcome.load_kw == pytest.approx(expected.outcome.load_kw, rel=1e-6)
    assert [run.state for run in RunStore(tmp_path).list()] == ["settled"]
