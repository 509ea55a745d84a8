"""Several sessions on processes: what each node has on its disk is enough to go on between two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import broker
import stackelgrid
from stackelgrid.faults.plan import FaultPlan


def day_in_parts(every: str) -> dict[str, Any]:
    random = np.random.default_rng(5)
    storage = {"capacity_kwh": 8.0, "initial_kwh": 3.0, "charge_kw": 2.0, "discharge_kw": 2.0, "wear": {"fast": 0.5}}
    return {
        "schema": 1,
        "game": "user_oriented",
        "aggregators": 2,
        "calendar": {"start": "2026-06-01T00:00", "timezone": "Europe/Brussels", "every": every, "days": 1},
        "rounds": {"deadline_s": 0.8, "return_s": 60.0},
        "leader": {
            "objective": "welfare",
            "baseline_price": 9,
            "wholesale_price": random.uniform(2, 5, 24).tolist(),
            "mu": 0.5,
            "price_max": 30,
        },
        "homes": [
            {
                "id": f"h{number}",
                "inelastic": [{"load_kw": random.uniform(0.5, 2, 24).tolist()}],
                "elastic": [{"max_kw": 4.0, "valuation": random.uniform(10, 18)}],
                "storage": [storage],
            }
            for number in (1, 2)
        ],
    }


def test_nodes_that_are_killed_between_sessions_go_on_from_their_disks(tmp_path: Path) -> None:
    crashes = [
        {"kind": "crash", "node": node, "at": {"session": session}, "restart_after_s": 0.3}
        for session, node in ((2, "h1"), (3, "a1"), (4, "leader"))
    ]
    outage = {
        "kind": "broker",
        "at": {"session": 5},
        "seconds": 0.3,
        "keep_retained": broker.find_mosquitto() is not None,
    }
    plan = FaultPlan.model_validate({"faults": [*crashes, outage]})
    run = stackelgrid.run(day_in_parts("5h"), transport="mqtt", out=tmp_path / "run", faults=plan)
    assert [fault.kind for fault in run.faults if fault.kind != "restart"] == ["crash"] * 3 + ["broker"]
    assert run.settled and run.complete and run.failures == {}
    undisturbed = stackelgrid.run(day_in_parts("5h"))
    assert [each.outcome for each in run.result.sessions] == [each.outcome for each in undisturbed.result.sessions]
    assert [each.states for each in run.result.sessions] == [each.states for each in undisturbed.result.sessions]
    assert [record["round"] for record in run.journal] == [record["round"] for record in undisturbed.journal]
    assert stackelgrid.load(tmp_path / "run").result.sessions == run.result.sessions
