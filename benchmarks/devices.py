"""The answer at 96 slots of a home with PV, battery, EV and heat pump, beside a general solver alone on its program.

The solver alone is Clarabel, on the very program of the answer, built beforehand; it gives the schedule and no
sensitivity. Prices are those of a day, each slot drawn within a hundredth and within a tenth of them: the first are
what a negotiation asks when it nears its end, the second as if each question had nothing to do with the last.
"""

# scipy's matrices have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import clarabel
import numpy as np
from scipy import sparse

from benchmarks.figures import Figure
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.home.internal_price import Tariff, bound_meter
from stackelgrid.games.user_oriented.home.joint_program import JointProgram
from stackelgrid.games.user_oriented.home.joint_schedule import JointProblem
from stackelgrid.wire.arrays import Array

TITLE = "the answer of a home with PV, battery, EV and heat pump, 96 slots of a quarter"
SLOTS, PRICES = 96, 60
TARGET_MS, TARGET = 5, 10
AGREEMENT_KW = 1e-2
"""Clarabel stops a few W away from the optimum."""
SMALL, LARGE = 0.01, 0.1


def measure() -> list[Figure]:
    """Milliseconds of the answer, of its sensitivity, and of the solver alone."""
    random = np.random.default_rng(5)
    clock = (np.arange(SLOTS) + 0.5) * 24 / SLOTS
    home, day = draw_home(random, clock), 28 + 6 * np.sin((clock - 13) / 12 * np.pi)
    figures = []
    for part in (SMALL, LARGE):
        problem, alone, loads = HomeProblem(home), Alone(home), []
        answered, bending, solved = [], [], []
        for _ in range(PRICES):
            price = day * random.uniform(1 - part, 1 + part, SLOTS)
            solve = alone.prepare(price)
            began = time.perf_counter()
            schedule = problem.answer(price)
            answered.append(time.perf_counter() - began)
            began = time.perf_counter()
            bends = schedule.sensitivity
            bending.append(time.perf_counter() - began)
            began = time.perf_counter()
            load = solve()
            solved.append(time.perf_counter() - began)
            assert np.all(np.isfinite(bends))
            loads.append(float(np.max(np.abs(load - schedule.load))))
        if max(loads) > AGREEMENT_KW:
            raise RuntimeError(f"the solver's load is {max(loads):.1e} kW from ours")
        within = f"prices within {part:.0%}"
        figures += [
            Figure(f"{within}: ours", 1e3 * median(answered), "ms", TARGET_MS),
            Figure("    its sensitivity besides", 1e3 * median(bending), "ms"),
            Figure("    Clarabel alone", 1e3 * median(solved), "ms"),
            Figure("    ours over that", median(answered) / median(solved), "x", TARGET),
        ]
    return figures


def draw_home(random: np.random.Generator, clock: Array) -> Home:
    """Draw a home, its load and sun by the time of day, h."""
    sun = np.maximum(0, np.sin((clock - 6) / 12 * np.pi)) * random.uniform(0.6, 1, SLOTS)
    peaks = 0.5 * np.exp(-((clock - 7.5) ** 2) / 2) + 1.1 * np.exp(-((clock - 19) ** 2) / 5)
    storage = {"capacity_kwh": 8, "initial_kwh": 2, "charge_kw": 3, "discharge_kw": 3, "charge_efficiency": 0.95}
    car = {"capacity_kwh": 50, "initial_kwh": 30, "charge_kw": 7, "charge_efficiency": 0.92}
    room = {
        "heat_kwh_per_k": 8,
        "loss_kw_per_k": 0.18,
        "initial_c": 20.5,
        "comfort": {"min_c": 20, "max_c": 22, "price": 10},
    }
    return Home.model_validate(
        {
            "id": "h",
            "horizon": SLOTS,
            "slot_hours": 24 / SLOTS,
            "inelastic": [{"load_kw": (0.25 + 0.2 * random.random(SLOTS) + peaks).tolist()}],
            "pv": [{"available_kw": (5 * sun).tolist()}],
            "storage": [storage | {"discharge_efficiency": 0.95, "wear": {"fast": 0.1}}],
            "ev": [car | {"trips": [{"leave": 33, "back": 69, "uses_kwh": 8}], "wear": {"fast": 0.1}}],
            "heat_pump": [
                room
                | {
                    "max_kw": 3,
                    "cop": 3.2,
                    "outside_c": (4 + 4 * np.sin((clock - 9) / 12 * np.pi)).tolist(),
                    "fast": 0.2,
                }
            ],
            "connection": {"draw_kw": 12, "feed_in_kw": 5},
            "feed_in_price": 8,
        }
    )


class Alone:
    """Clarabel on the program of a home, price by price."""

    def __init__(self, home: Home) -> None:
        self._problem = JointProblem(home)
        program = self._problem.program
        self._equations = build_equations(program)
        self._settings = clarabel.DefaultSettings()
        self._settings.verbose = False

    def prepare(self, price: Array) -> Callable[[], Array]:
        """Build the program at a price; what is returned solves it, and gives the load, (T,) kW."""
        program = self._problem.program
        feed_in = np.minimum(8.0, price)
        tariff = Tariff(price, feed_in, feed_in < price)
        lower, upper = bound_meter(program, tariff)
        linear = -program.weight * program.best
        linear[:, program.bought], linear[:, program.fed_in] = price, -feed_in
        every = sparse.identity(program.weight.size, format="csc")
        rows = sparse.vstack([self._equations, every, -every], format="csc")
        right = np.concatenate([program.right.ravel(), upper.ravel(), -lower.ravel()])
        cones = [clarabel.ZeroConeT(program.right.size), clarabel.NonnegativeConeT(2 * lower.size)]
        solver = clarabel.DefaultSolver(
            sparse.diags(program.weight.ravel(), format="csc"), linear.ravel(), rows, right, cones, self._settings
        )

        def solve() -> Array:
            z = np.array(solver.solve().x).reshape(lower.shape)
            return np.asarray(z[:, program.bought] - z[:, program.fed_in])

        return solve


def build_equations(program: JointProgram) -> sparse.csc_matrix:
    """Build the matrix of the program's equations, column by column."""
    columns = []
    for place in range(program.weight.size):
        unit = np.zeros(program.weight.size)
        unit[place] = 1.0
        columns.append(sparse.csc_matrix(program.multiply(unit.reshape(program.weight.shape)).reshape(-1, 1)))
    return sparse.hstack(columns, format="csc")
