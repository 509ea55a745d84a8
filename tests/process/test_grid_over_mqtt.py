"""A grid on processes: its sessions open by an accelerated clock, also after the leader was killed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import stackelgrid
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.node.record import read_whole_lines
from stackelgrid.scenarios import load


def quarter_days() -> dict[str, Any]:
    """A grid of four sessions, of which one opens every 2.4 s."""
    home = {"inelastic": [{"load_kw": 24 * [1.0]}], "elastic": [{"max_kw": 4.0, "valuation": 15}]}
    return {
        "schema": 1,
        "game": "user_oriented",
        "calendar": {"start": "2026-06-01T00:00", "timezone": "Europe/Brussels", "horizon": "6h", "days": 1},
        "gates": {"intraday_minutes": 60, "clock": {"speed": 9000}},
        "leader": {
            "wholesale_price": [2 + slot % 5 for slot in range(24)],
            "price_max": 30,
            "baseline_price": 9,
            "mu": 0,
        },
        "homes": [{"id": "h1", **home}, {"id": "h2", **home}],
    }


def test_leader_that_is_killed_opens_the_sessions_that_are_due(tmp_path: Path) -> None:
    crash = {"kind": "crash", "node": "leader", "at": {"session": 2}, "restart_after_s": 0.5}
    plan = FaultPlan.model_validate({"faults": [crash]})
    run = stackelgrid.run(quarter_days(), transport="mqtt", out=tmp_path / "run", faults=plan)
    assert [fault.kind for fault in run.faults] == ["crash", "restart"] and run.failures == {}
    ended = read_whole_lines(tmp_path / "run/nodes/leader.conclusion.json")
    assert [each["session"] for each in ended] == [1, 2, 3, 4]
    scenario = load(quarter_days())
    assert scenario.gates is not None
    played = [each for each in ended if "skipped" not in each]
    assert all(each["settled"] and each["complete"] for each in played) and played[0]["session"] == 1
    for each in played:
        assert datetime.fromisoformat(each["opened"]) >= scenario.gates.open_at(scenario.sessions[each["session"] - 1])
    undisturbed = stackelgrid.run(quarter_days())
    for each in played:
        number = each["session"] - 1
        assert run.result.sessions[number].outcome == undisturbed.result.sessions[number].outcome
