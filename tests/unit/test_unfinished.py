"""Runs that end early: result and report are written of what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stackelgrid.faults.plan import FaultPlan
from stackelgrid.registry import list_games
from stackelgrid.report import write
from stackelgrid.report.tables import summary
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import parse
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed import run_folder as store
from stackelgrid.testbed.result import build_result

SMALL = {"user_oriented": ["population.homes=6"], "storage_market": ["homes_per_process=10"]}


def write_page(folder: Path, scenario: Scenario, run_record: RunRecord) -> str:
    """Write the page of a run."""
    folder.mkdir()
    store.write_scenario(folder, scenario)
    store.write_rounds(folder, run_record)
    found = build_result(scenario, run_record)
    store.write_result(folder, found)
    assert summary(parse(json.loads(json.dumps(found.content(), allow_nan=False))))
    return write(folder).read_text()


@pytest.mark.parametrize("game", list_games())
@pytest.mark.parametrize("at", [1, 2])
def test_report_is_written_when_the_leader_dies(game: str, at: int, tmp_path: Path) -> None:
    scenario = load(game, SMALL.get(game))
    plan = FaultPlan.model_validate({"faults": [{"kind": "crash", "node": "leader", "at": {"round": at}}]})
    run_record = in_memory.play(scenario, plan=plan)
    if run_record.settled:
        assert len(run_record.rounds) == 1 < at  # it ended in its first round
        return
    assert run_record.lost and not run_record.settled and len(run_record.rounds) == at - 1
    assert "Not settled" in write_page(tmp_path / "run", scenario, run_record)


@pytest.mark.parametrize("game", list_games())
def test_report_is_written_when_rounds_run_out(game: str, tmp_path: Path) -> None:
    scenario = load(game, [*SMALL.get(game, []), "leader.max_rounds=1"])
    run_record = in_memory.play(scenario)
    if run_record.settled:
        assert game == "load_call"  # one round is enough
        return
    assert not run_record.lost and len(run_record.homes) == len(scenario.everyone)
    assert "Not settled within the limit of 1 round" in write_page(tmp_path / "run", scenario, run_record)


@pytest.mark.parametrize("game", list_games())
def test_report_is_written_when_an_aggregator_dies(game: str, tmp_path: Path) -> None:
    scenario = load(game, SMALL.get(game))
    plan = FaultPlan.model_validate({"faults": [{"kind": "crash", "node": "a1", "at": {"round": 1}}]})
    run_record = in_memory.play(scenario, plan=plan)
    page = write_page(tmp_path / "run", scenario, run_record)
    assert "a1" in page


@pytest.mark.parametrize("game", list_games())
def test_report_is_written_when_a_home_dies(game: str, tmp_path: Path) -> None:
    scenario = load(game, SMALL.get(game))
    home = scenario.everyone[0].id
    name = home if scenario.homes_per_process == 1 else "a1-p1"
    plan = FaultPlan.model_validate({"faults": [{"kind": "crash", "node": name, "at": {"round": 1}}]})
    run_record = in_memory.play(scenario, plan=plan)
    assert run_record.conclusion and not run_record.conclusion["complete"]
    assert name in write_page(tmp_path / "run", scenario, run_record)
