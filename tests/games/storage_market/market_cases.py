"""Cases and references that several tests of the storage market share."""

from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from stackelgrid.games.storage_market.dispatch import GeneratingUnit
from stackelgrid.games.storage_market.home.market_home import Battery
from stackelgrid.scenarios.yaml_file import spell

RTS = 3.0 * np.array(
    [64, 60, 58, 56, 56, 58, 64, 76, 87, 95, 99, 100, 99, 100, 100, 97, 96, 96, 93, 92, 92, 93, 87, 72], float
)
UNITS = [
    GeneratingUnit("g1", 0.2, 20, 0, 80, 24),
    GeneratingUnit("g2", 0.175, 17.5, 0, 80, 24),
    GeneratingUnit("g3", 0.625, 10, 0, 50, 15),
    GeneratingUnit("g4", 0.0834, 32.5, 0, 55, 16.5),
    GeneratingUnit("g5", 0.25, 30, 0, 30, 9),
    GeneratingUnit("g6", 0.25, 30, 0, 40, 12),
]
TIGHT = [GeneratingUnit(u.id, u.quadratic, u.linear, 5, u.max_mw, u.ramp_mw / 2) for u in UNITS]
CLARABEL = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11)

quick = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


BATTERIES = st.builds(
    lambda capacity, power, part, efficiency: Battery(
        capacity_kwh=capacity, power_kw=power, initial_kwh=part * capacity, efficiency=efficiency
    ),
    st.floats(1, 500),
    st.floats(0.1, 100),
    st.floats(0, 1),
    st.floats(0.7, 1),
)


def reference_dispatch(units: list[GeneratingUnit], demand: np.ndarray) -> tuple[float, np.ndarray]:
    """Solve cost and price of a demand that can be served, by cvxpy."""
    P = cp.Variable((len(units), len(demand)), nonneg=True)
    cost = sum(u.quadratic * cp.sum_squares(P[i]) + u.linear * cp.sum(P[i]) for i, u in enumerate(units))
    limits = [P[i] <= u.max_mw for i, u in enumerate(units)]
    limits += [cp.abs(cp.diff(P[i])) <= u.ramp_mw for i, u in enumerate(units)]
    balance = cp.sum(P, axis=0) == demand
    problem = cp.Problem(cp.Minimize(cost), [balance, *limits])
    problem.solve(solver=cp.CLARABEL, **CLARABEL)
    assert problem.status == cp.OPTIMAL
    return float(problem.value) + len(demand) * sum(u.constant for u in units), -balance.dual_value


def scenario_file(tmp_path: Path, **changes: Any) -> str:
    """A small market of listed homes over six hours."""
    content: dict[str, Any] = {
        "schema": 1,
        "game": "storage_market",
        "slots": 6,
        "leader": {
            "generators": [{"id": "g", "quadratic": 0.5, "linear": 10, "max_mw": 50, "ramp_mw": 30}],
            "peak_mw": 40,
            "shape": [0.4, 0.5, 0.8, 1.0, 0.9, 0.6],
        },
        "dras": [{"homes": 1, "quadratic": 0.1, "wear": 1}, {"homes": 1, "quadratic": 0.1}],
        "homes": [
            {"id": "x", "battery": {"capacity_kwh": 4000, "power_kw": 1500, "initial_kwh": 500}},
            {
                "id": "y",
                "appliances": [
                    {
                        "kind": "interruptible",
                        "blocks": 6,
                        "block_kwh": 500,
                        "first": 1,
                        "last": 6,
                        "per_hour": 3,
                        "preferred": 4,
                    }
                ],
            },
        ],
    }
    path = tmp_path / "small.yaml"
    path.write_text(spell(content | changes))
    return str(path)
