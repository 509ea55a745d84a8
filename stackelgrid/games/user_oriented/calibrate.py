"""Calibrate the shipped case user_oriented to the paper's four figures.

The paper gives a peak of 447.04 kW and a peak-to-average ratio of 1.377 before, 433.99 kW and 1.134 after (section
5.3), but neither its load data nor its parameters. So this program solves for four numbers of the scenario, in two
pairs, each by a root search on whole games played in memory:

1. the mean load of the commercial segment and that of the other two, from peak and ratio at the flat price;
2. the wholesale price and mu, from peak and ratio at the settled price.

Run it with `python -m stackelgrid.games.user_oriented.calibrate`. It prints the four values, and beside the paper's
figures those of the game with these values.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import OptimizeResult, root

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.outcome import UserOrientedOutcome
from stackelgrid.scenarios import load
from stackelgrid.testbed.in_memory import play

PEAK_BEFORE, PAR_BEFORE = 447.04, 1.377
PEAK_AFTER, PAR_AFTER = 433.99, 1.134
SEGMENTS = ("residential", "commercial", "industrial")


def figures(settings: list[str], rounds: int) -> list[float]:
    """Give peak (kW) and peak-to-average ratio before and after the game, with these settings of the scenario."""
    scenario = load("user_oriented", [*settings, f"leader.max_rounds={rounds}"])
    outcome: UserOrientedOutcome = scenario.outcome(play(scenario))
    return [outcome.baseline_peak_kw, outcome.baseline_par or np.nan, outcome.peak_kw, outcome.par or np.nan]


def loads(commercial: float, others: float) -> list[str]:
    """Give the settings of the segments' mean loads per customer, kW."""
    values = {"residential": others, "commercial": commercial, "industrial": others}
    return [f"population.segments.{name}.mean_load_kw={values[name]:.4f}" for name in SEGMENTS]


def supply(wholesale_price: float, mu: float) -> list[str]:
    """Give the settings of the leader, both in cents per kWh."""
    return [f"leader.wholesale_price={wholesale_price:.5f}", f"leader.mu={mu:.5f}"]


def calibrate() -> list[str]:
    """Find the settings that reproduce the four figures. Raise `SolverError` when the root search fails."""

    def before(x: np.ndarray) -> np.ndarray:
        peak, par, _, _ = figures(loads(*np.exp(x)), rounds=1)
        return np.log([peak / PEAK_BEFORE, par / PAR_BEFORE])

    base = loads(*np.exp(_require_root(root(before, np.log([5.4, 5.4]), method="hybr", options={"eps": 1e-3}))))

    def after(x: np.ndarray) -> np.ndarray:
        _, _, peak, par = figures([*base, *supply(*np.exp(x))], rounds=40)
        return np.log([peak / PEAK_AFTER, par / PAR_AFTER])

    return base + supply(*np.exp(_require_root(root(after, np.log([3.2, 0.9]), method="hybr", options={"eps": 1e-3}))))


def _require_root(search: OptimizeResult) -> np.ndarray:
    if np.max(np.abs(search.fun)) > 1e-4:
        raise SolverError("the calibration", f"relative errors {search.fun}")
    return np.asarray(search.x)


if __name__ == "__main__":
    found = calibrate()
    print("\n".join(found))
    for name, value, paper in zip(
        ("peak before, kW", "PAR before", "peak after, kW", "PAR after"),
        figures(found, rounds=40),
        (PEAK_BEFORE, PAR_BEFORE, PEAK_AFTER, PAR_AFTER),
        strict=True,
    ):
        print(f"{name:16} {value:9.4f}  paper {paper:8.3f}  {100 * (value / paper - 1):+.4f} %")
