"""What a scenario file must not say, in any game: one clear message, and which."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackelgrid.scenarios import ScenarioError, load
from stackelgrid.testbed import fault_plans
from stackelgrid.testbed.fault_plans import FaultPlanError


@pytest.mark.parametrize(
    ("game", "override", "message"),
    [
        ("load_call", "leader.target_kwh=true", "leader.target_kwh: give a number, without quotes (found True)"),
        ("load_call", 'leader.target_kwh="800"', "leader.target_kwh: give a number, without quotes (found '800')"),
        ("load_call", "leader.target_kwh=1:30", "leader.target_kwh: give a number (found '1:30')"),
        ("load_call", "homes.0.alpha=yes", "homes.0.alpha: give a number (found 'yes')"),
        ("prosumer", "homes.0.pv_cost=0", "homes.0.pv_cost: It must be greater than 0 (found 0)"),
        (
            "prosumer",
            "homes.0.pv_cost=x",
            "homes.0.pv_cost: give a number, or a list of numbers, one per slot (found 'x')",
        ),
        ("prosumer", "leader=5", "leader: give a mapping of keys (found 5)"),
        ("prosumer", "homes.0.pv_kw=20", "homes.0.pv_kw: give a list (found 20)"),
        ("storage_market", "leader.generators.0.max_mw=-1", "leader.generators.0.max_mw: It must be greater than 0"),
        ("user_oriented", "rounds.tries=0", "rounds.tries: It must be greater than or equal to 1 (found 0)"),
        ("user_oriented", "leader.baseline_price=null", "leader.baseline_price: give a number (found None)"),
    ],
)
def test_scenario_error_is_one_line_for_one_mistake(game: str, override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as told:
        load(game, [override])
    assert message in str(told.value)
    assert str(told.value).count("\n") == 0


def test_scenario_error_is_short_for_many_like_mistakes() -> None:
    with pytest.raises(ScenarioError) as told:
        load("prosumer", [f"homes.0.pv_kw={[-1] * 24}"])
    lines = str(told.value).splitlines()
    assert len(lines) == 4
    assert lines[-1].endswith("homes.0.pv_kw: and 21 more like it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: 1\nschema: 1\n", "line 2, column 1: the key 'schema' is there twice, first in line 1; remove one"),
        ("leader:\n  mu: 1\n  mu: 2\n", "line 3, column 3: the key 'mu' is there twice, first in line 2; remove one"),
        ("", "a scenario is a mapping of keys; this is an empty file"),
        ("- 1\n", "a scenario is a mapping of keys; this is a list"),
    ],
)
def test_load_refuses_a_file_that_is_no_scenario(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as told:
        load(str(path))
    assert message in str(told.value) and str(path) in str(told.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"schema: 1\nschema: 1\n", "line 2, column 1: the key 'schema' is there twice, first in line 1; remove one"),
        (b"", "a fault plan is a mapping of keys; this is an empty file"),
        (b"title: 2020-13-44\n", "line 1, column 8: month must be in 1..12"),
        (b"\xff\xfe", "not a text file; a fault plan is YAML in UTF-8"),
    ],
)
def test_load_refuses_a_file_that_is_no_fault_plan(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert not fault_plans.is_plan(str(path))
    with pytest.raises(FaultPlanError) as told:
        fault_plans.load(str(path))
    assert message in str(told.value) and str(path) in str(told.value)
