"""One home's answer to a fresh price, load and sensitivity, beside its solver alone and beside cvxpy.

The solver alone is what the answer cannot do without: DAQP on the very QPs of the answer, recorded beforehand, each
with nothing but `update` and `solve` from the last one's active set; for a home without storage, which has no QP, the
closed form of its demand. cvxpy is given what it is best at: a problem compiled once, the price a parameter; it returns
the load and no sensitivity.
"""

# cvxpy hands its atoms on by star imports, which its types do not tell.
# mypy: disable-error-code="attr-defined, no-untyped-call"

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from unittest.mock import patch

import cvxpy as cp
import daqp
import numpy as np

from benchmarks.figures import Figure
from stackelgrid.games.user_oriented.home import DrawLimit, Home, HomeProblem
from stackelgrid.games.user_oriented.home.appliances import ElasticAppliances
from stackelgrid.games.user_oriented.home.quadratic_program import QuadraticProgram
from stackelgrid.scenarios import load
from stackelgrid.wire.arrays import Array

TITLE = "one home's answer to a fresh price, within a tenth of the baseline price"
PRICES, MODELLED = 300, 15
TARGET = 3
AGREEMENT_KW = 1e-2
"""Clarabel now and then stops short of its tolerance, a few W away from the optimum."""


def measure() -> list[Figure]:
    """Microseconds, and ours over the solver alone."""
    scenario = load("user_oriented")
    random = np.random.default_rng(scenario.seed)
    prices = list(scenario.leader.baseline_price * random.uniform(0.9, 1.1, (PRICES, scenario.slots)))
    plain = next(home for home in scenario.everyone if not home.storage)
    storing = next(home for home in scenario.everyone if home.storage and home.storage[0].available is None)
    bound = limit_draw(storing, prices)

    figures = []
    ours, alone = in_turn(prices, HomeProblem(plain).answer, closed_form(plain))
    figures += _figures("without storage", ours, {"closed form alone": alone}, time_cvxpy(plain, prices))
    qps = record_programs(HomeProblem(storing), prices)
    ours, alone = in_turn(prices, HomeProblem(storing).answer, Alone(qps))
    figures += _figures("with storage", ours, {"DAQP alone": alone}, time_cvxpy(storing, prices))
    qps = record_programs(HomeProblem(bound), prices)
    last = [of_a_price[-1:] for of_a_price in qps]
    ours, alone, alone_last = in_turn(prices, HomeProblem(bound).answer, Alone(qps), Alone(last))
    beside = {"DAQP alone, all its QPs": alone, "DAQP alone, the last QP": alone_last}
    return figures + _figures("with storage, draw limit binding", ours, beside, time_cvxpy(bound, prices))


def _figures(home: str, ours: float, alone: dict[str, float], with_cvxpy: float) -> list[Figure]:
    figures = [Figure(f"{home}: ours", ours, "us")]
    for solver, took in alone.items():
        figures += [Figure(f"    {solver}", took, "us"), Figure("    ours over that", ours / took, "x", TARGET)]
    figures += [
        Figure("    cvxpy with Clarabel", with_cvxpy, "us"),
        Figure("    that over ours", with_cvxpy / ours, "x"),
    ]
    return figures


def in_turn(prices: list[Array], *contenders: Callable[[Array], object]) -> list[float]:
    """Median microseconds of each contender, called in turn at each price."""
    took: list[list[float]] = [[] for _ in contenders]
    for price in prices:
        for contender, times in zip(contenders, took, strict=True):
            began = time.perf_counter()
            contender(price)
            times.append(1e6 * (time.perf_counter() - began))
    return [median(times) for times in took]


def limit_draw(home: Home, prices: list[Array]) -> Home:
    """Give the home a draw limit that binds at every one of the prices."""
    problem = HomeProblem(home)
    least_peak = min(problem.answer(price).load.max() for price in prices)
    return home.model_copy(update={"draw_limit": DrawLimit(max_kw=0.95 * least_peak)})


# --- the solver alone ---


def closed_form(home: Home) -> Callable[[Array], Array]:
    """Give the demand of a home with logarithmic satisfaction, [UO-10]."""
    elastic = ElasticAppliances(home.elastic, home.horizon)

    def demand(price: Array) -> Array:
        rates = elastic.x_max * (elastic.v / (elastic.omega * price) - 1 / elastic.alpha)
        return np.minimum(np.maximum(rates, elastic.lo), elastic.hi)

    return demand


@dataclass(frozen=True)
class Qp:
    """min 1/2 z'Hz + linear'z within the program's constraints."""

    program: QuadraticProgram
    weight: Array
    hessian: Array
    linear: Array


def record_programs(problem: HomeProblem, prices: list[Array]) -> list[list[Qp]]:
    """Record the QPs that the answer to each price solves."""
    solve = QuadraticProgram.solve
    told: list[list[Qp]] = []

    def record(program: QuadraticProgram, weight: Array, linear: Array) -> object:
        told[-1].append(Qp(program, weight, np.diag(weight), linear.copy()))
        return solve(program, weight, linear)

    with patch.object(QuadraticProgram, "solve", record):
        for price in prices:
            told.append([])
            problem.answer(price)
    return told


class Alone:
    """DAQP on recorded QPs, price by price; the Hessian is handed over only where it changes."""

    def __init__(self, qps: list[list[Qp]]) -> None:
        self._qps = iter(qps)
        self._models: dict[QuadraticProgram, daqp.Model] = {}
        self._weights: dict[QuadraticProgram, Array] = {}
        for qp in {qp.program: qp for of_a_price in qps for qp in of_a_price}.values():
            model = daqp.Model()
            model.settings = {"primal_tol": 1e-11, "dual_tol": 1e-12}
            model.setup(qp.hessian, qp.linear, qp.program.rows, qp.program.upper, qp.program.lower)
            self._models[qp.program], self._weights[qp.program] = model, qp.weight

    def __call__(self, price: Array) -> None:
        """Solve the QPs of the next price."""
        for qp in next(self._qps):
            model = self._models[qp.program]
            if qp.weight is self._weights[qp.program]:
                model.update(f=qp.linear)
            else:
                model.update(H=qp.hessian, f=qp.linear)
            self._weights[qp.program] = qp.weight
            model.solve()


# --- cvxpy ---


def time_cvxpy(home: Home, prices: list[Array]) -> float:
    """Give the median microseconds of cvxpy with Clarabel. Raises `RuntimeError` if its loads differ from ours."""
    price = cp.Parameter(home.horizon)
    problem, drawn = model(home, price)
    reference = HomeProblem(home)
    took = []
    for given in prices[: 1 + MODELLED]:
        price.value = given
        began = time.perf_counter()
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it stopped short
            problem.solve(solver=cp.CLARABEL)
        took.append(1e6 * (time.perf_counter() - began))
        apart = float(np.max(np.abs(np.asarray(drawn.value) - reference.answer(given).load)))
        if not apart <= AGREEMENT_KW:
            raise RuntimeError(f"home {home.id}: cvxpy's load is {apart:.1e} kW from ours")
    return median(took[1:])  # the first compiles


def model(home: Home, price: cp.Parameter) -> tuple[cp.Problem, cp.Expression]:
    """The home's problem, logarithmic satisfaction and storage at home all day, and what its meter draws, (T,) kW."""
    elastic = ElasticAppliances(home.elastic, home.horizon)
    x = cp.Variable(elastic.lo.shape)
    scale, steepness = elastic.v * elastic.x_max / elastic.omega, elastic.alpha / elastic.x_max
    worth = cp.sum(cp.multiply(scale, cp.log1p(cp.multiply(steepness, x))))
    drawn = sum(fixed.draw(home.horizon) for fixed in home.inelastic) + cp.sum(x, axis=0)
    limits = [x >= elastic.lo, x <= elastic.hi]
    for storage in home.storage:
        r = cp.Variable(home.horizon)
        level = storage.initial_kwh + cp.cumsum(r)
        deep = cp.neg(level - storage.wear.depth * storage.capacity_kwh)
        worth -= storage.wear.fast * cp.sum_squares(r) + storage.wear.deep * cp.sum_squares(deep)
        drawn += r
        limits += [r >= -storage.discharge_kw, r <= storage.charge_kw]
        limits += [level >= 0, level <= storage.capacity_kwh, level[-1] >= storage.least_final_kwh]
    limits.append(drawn >= home.draw_limit.min_kw)
    if home.draw_limit.max_kw is not None:
        limits.append(drawn <= home.draw_limit.max_kw)
    return cp.Problem(cp.Maximize(worth - price @ drawn), limits), drawn
