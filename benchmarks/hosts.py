"""A thousand homes in four processes: what a round costs beyond solving the homes.

The run's processes share the cores with each other, so the homes are solved once more as the run solved them, four
processes at once and at the run's own prices, but with nobody asking: no messages, no aggregator, no leader. Runs and
solving alternate, so that what else the machine does falls on both. A round's time is the leader's, from asking to
having decided what to ask next.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from stackelgrid.games.user_oriented.home import Home, UserOrientedHomes
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import processes

TITLE = "1,000 homes in four EMC processes, an aggregator and a leader over Mosquitto"
HOMES, PER_PROCESS, RUNS = 1000, 250, 5
BEYOND_MS = 50


def measure() -> list[Figure]:
    """Milliseconds per round, and of solving alone."""
    settings = [f"population.homes={HOMES}", f"homes_per_process={PER_PROCESS}", "aggregators=1"]
    scenario = load("user_oriented", settings)
    shares = [homes for share in scenario.households().values() for homes in share]
    took: list[float] = []
    alone: list[float] = []
    together: list[float] = []
    for _ in range(RUNS):
        milliseconds, prices = rounds(scenario)
        took += milliseconds
        alone += solving(shares[:1], prices)
        together += solving(shares, prices)
    return [
        Figure("a round", median(took), "ms"),
        Figure(f"solving {PER_PROCESS} homes, one process alone", median(alone), "ms"),
        Figure(f"solving them all, {len(shares)} processes at once on these cores", median(together), "ms"),
        Figure("a round beyond solving", median(took) - median(together), "ms", BEYOND_MS),
    ]


def rounds(scenario: Scenario) -> tuple[list[float], list[Price]]:
    """A run's milliseconds and price of each round; without the first, in which processes still start."""
    with tempfile.TemporaryDirectory() as folder:
        run_record = processes.play(scenario, Path(folder), "mosquitto", "hosts")
    if not run_record.settled:
        raise RuntimeError(f"the run did not settle: {run_record.failures}")
    after = run_record.rounds[1:]
    return [record["ms"] for record in after], [Price(price=record["price"]) for record in after]


def solving(shares: Sequence[list[Home]], prices: list[Price]) -> list[float]:
    """Milliseconds until every share is solved, a process each, per price."""
    context = multiprocessing.get_context("fork")
    line = context.Barrier(len(shares) + 1)
    solvers = [context.Process(target=_solve, args=(homes, prices, line)) for homes in shares]
    for solver in solvers:
        solver.start()
    took = []
    for _ in prices:
        line.wait()
        began = time.perf_counter()
        line.wait()
        took.append(1e3 * (time.perf_counter() - began))
    for solver in solvers:
        solver.join()
    return took


def _solve(homes: list[Home], prices: list[Price], line: Barrier) -> None:
    strategy = UserOrientedHomes(homes)
    strategy.answer(prices[0])
    for price in prices:
        line.wait()
        strategy.answer(price)
        line.wait()
