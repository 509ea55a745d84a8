"""The homes' problems as one convex programme in cvxpy, solved by Clarabel: the reference to check the nodes against.

There are two programmes over the same variables, with every home at once. In one, each home answers a price best
[UO-6]; it separates by home. The other is the central programme [UO-B], in which a planner runs every home and pays
the leader's cost within its capacity. Units as in `stacked_homes`.
"""
# cvxpy re-exports its atoms by star imports, which its types do not show.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from stackelgrid.certify import CertificateError
from stackelgrid.games.user_oriented.reference.stacked_homes import StackedHomes
from stackelgrid.wire.arrays import Array

_OPTIONS = {
    **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 3e-10),
    # When rounding stops Clarabel before that, it may still call the problem "almost solved" within these. The gap
    # means little where the residuals are not small, so their tolerance stays strict.
    **dict.fromkeys(("reduced_tol_gap_abs", "reduced_tol_gap_rel"), 1e-7),
    "reduced_tol_feas": 1e-9,
}
# With the usual 1e-8 exponential and power cones stop at a gap of 1e-7. With the first of these they nearly always
# reach 1e-10; if not, one of the others does.
_REGULARISATIONS = (1e-5, 1e-6, 1e-8)
_ANSWERED = ("Solved", "AlmostSolved")


class InfeasibleError(CertificateError):
    """No schedule keeps every limit."""


@dataclass(frozen=True)
class SolverReport:
    """Clarabel's status, and how exact its solution is: duality gap and residuals, relative to the scaled problem."""

    status: str
    gap: float
    primal_residual: float
    dual_residual: float
    iterations: int


@dataclass(frozen=True)
class BestAnswers:
    """The best loads (H, T) kW and `utility` (H,), satisfaction less wear, money; `solver` is Clarabel's report."""

    load: Array
    utility: Array
    solver: SolverReport


@dataclass(frozen=True)
class CentralPlan(BestAnswers):
    """The solution of the central programme; `shadow` (T,) are the multipliers of the capacity, money per kWh."""

    shadow: Array


def solve_best_answers(homes: StackedHomes, price: Array, scale: Array) -> BestAnswers:
    """Find the best answer of each home to `price` (T,) [UO-6]. `scale` (H,) is the size of each home's utility, money.

    The duality gap in `solver` bounds the error of any home's utility relative to its scale. Raise `CertificateError`.
    """
    programme = _Programme(homes, 1 / scale)
    bill = np.repeat(1 / scale, homes.slots) * np.tile(price, len(scale)) @ programme.draw
    solver = programme.solve(-bill, [], "the homes' problems")
    return BestAnswers(*programme.schedule(), solver)


def solve_central_programme(
    homes: StackedHomes,
    wholesale: Array,
    mu: Array,
    capacity: tuple[Array, Array],
    scale: float,
    passed: tuple[Array, Array] = (np.zeros(0), np.zeros(0)),
) -> CentralPlan:
    """Maximise sum_i U_i - D_i less c.L + sum mu_t (L_t - mean L)^2 with capacity[0] <= L <= capacity[1] [UO-B].

    Arrays are (T,); infinite bounds are none; `scale` is the expected size of the optimum, money. `passed` are load and
    mu of slots that have passed (P,), which count in the deviation. Raise
    `CertificateError`, and `InfeasibleError` when no schedule of the homes keeps the capacity.
    """
    programme = _Programme(homes, np.full(len(homes.ids), 1 / scale))
    total = cp.Variable(homes.slots)
    summed = sp.csr_array(np.tile(np.eye(homes.slots), len(homes.ids)))
    before, its_mu = passed
    mean = (cp.sum(total) + before.sum()) / (homes.slots + len(before))
    cost = wholesale @ total + cp.sum_squares(cp.multiply(np.sqrt(mu), total - mean))
    if len(before):
        cost += cp.sum_squares(cp.multiply(np.sqrt(its_mu), before - mean))
    floor, ceiling = np.flatnonzero(np.isfinite(capacity[0])), np.flatnonzero(np.isfinite(capacity[1]))
    above, below = total[floor] >= capacity[0][floor], total[ceiling] <= capacity[1][ceiling]
    kept = [constraint for constraint, slots in ((above, floor), (below, ceiling)) if len(slots)]
    solver = programme.solve(-cost / scale, [total == summed @ programme.draw, *kept], "the centralised programme")
    shadow = np.zeros(homes.slots)
    if len(floor):
        shadow[floor] -= scale * above.dual_value
    if len(ceiling):
        shadow[ceiling] += scale * below.dual_value
    return CentralPlan(*programme.schedule(), solver, shadow)


class _Programme:
    """Every home's variables: the ratio x / x_max of each rate that is free, and the level of each storage entry.

    `draw` is the power that the meters draw, flattened (H T,) kW.
    """

    def __init__(self, homes: StackedHomes, weight: Array) -> None:
        self._homes = homes
        self._free = (homes.appliances.hi > homes.appliances.lo).ravel()
        self._ratio = cp.Variable(int(self._free.sum()))
        self._level = cp.Variable(len(homes.stores.slot))
        self._terms: list[Any] = []
        self._constraints: list[cp.Constraint] = []
        self.draw = cp.Constant(homes.fixed.ravel())
        if homes.appliances.home.size:
            self._add_appliances(weight)
        if homes.stores.slot.size:
            self._add_stores(weight)
        self._add_draw_limits()

    def _add_appliances(self, weight: Array) -> None:
        appliances, ratio, free = self._homes.appliances, self._ratio, self._free
        x_max, omega, alpha = (
            values.ravel()[free] for values in (appliances.x_max, appliances.omega, appliances.alpha)
        )
        lo, hi = appliances.lo.ravel(), appliances.hi.ravel()[free]
        worth = (weight[appliances.home, None] * appliances.v * appliances.x_max).ravel()[free]
        self._constraints += [ratio >= lo[free] / x_max, ratio <= hi / x_max]
        form = np.empty(appliances.home.size, "U9")
        for name, rows in appliances.of_form.items():
            form[rows] = name
        form = np.repeat(form, self._homes.slots)[free]
        if len(k := np.flatnonzero(form == "log")):
            self._terms.append((worth[k] / omega[k]) @ cp.log1p(cp.multiply(alpha[k], ratio[k])))
        if len(k := np.flatnonzero(form == "power")):
            satisfied = cp.Variable(len(k))
            self._constraints.append(cp.PowCone3D(ratio[k], np.ones(len(k)), satisfied, alpha[k]))
            self._terms.append((worth[k] / omega[k]) @ satisfied)
        if len(k := np.flatnonzero(form == "quadratic")):
            lost = cp.sum_squares(cp.multiply(np.sqrt(worth[k] * alpha[k] / 2), ratio[k]))
            self._terms.append((worth[k] * omega[k]) @ ratio[k] - lost)
        meter = (appliances.home[:, None] * self._homes.slots + np.arange(self._homes.slots)).ravel()
        fixed = np.bincount(meter[~free], lo[~free], self._homes.fixed.size)
        wires = sp.csr_array((x_max, (meter[free], np.arange(len(x_max)))), (self._homes.fixed.size, len(x_max)))
        self.draw = self.draw + fixed + wires @ ratio

    def _add_stores(self, weight: Array) -> None:
        stores, level, count = self._homes.stores, self._level, len(self._homes.stores.slot)
        later = np.flatnonzero(~stores.first)
        minus = sp.csr_array((np.ones(len(later)), (later, stores.before[later])), (count, count))
        r = level - minus @ level - stores.start
        self._constraints += [
            level >= stores.least,
            level <= stores.capacity,
            r <= stores.charge,
            r >= -stores.discharge,
        ]
        share = weight[stores.home]
        self._terms.append(-cp.sum_squares(cp.multiply(np.sqrt(share * stores.fast), r)))
        if len(k := np.flatnonzero(stores.deep * stores.threshold > 0)):
            shallow = cp.pos(stores.threshold[k] - level[k])
            self._terms.append(-cp.sum_squares(cp.multiply(np.sqrt(share * stores.deep)[k], shallow)))
        meter = stores.home * self._homes.slots + stores.slot
        wires = sp.csr_array((np.ones(count), (meter, np.arange(count))), (self._homes.fixed.size, count))
        self.draw = self.draw + wires @ r

    def _add_draw_limits(self) -> None:
        homes = self._homes
        fixed, stores = homes.fixed, homes.stores
        least = fixed + homes.sum_by_home(homes.appliances.lo) - homes.sum_storage(stores.discharge)
        most = fixed + homes.sum_by_home(homes.appliances.hi) + homes.sum_storage(stores.charge)
        # Only where a limit can bind at all.
        low = np.flatnonzero((least < homes.draw_min[:, None]).ravel())
        high = np.flatnonzero((most > homes.draw_max[:, None]).ravel())
        if len(low):
            self._constraints.append(self.draw[low] >= homes.draw_min[low // homes.slots])
        if len(high):
            self._constraints.append(self.draw[high] <= homes.draw_max[high // homes.slots])

    def solve(self, further: Any, constraints: list[cp.Constraint], what: str) -> SolverReport:
        """Maximise satisfaction less wear plus `further`. Give Clarabel's report of how exact the solution is."""
        problem = cp.Problem(cp.Maximize(sum(self._terms) + further), self._constraints + constraints)
        return _solve(problem, what)

    def schedule(self) -> tuple[Array, Array]:
        """Give loads (H, T) kW and utilities before the bill (H,) at the solution."""
        homes = self._homes
        x_max, lo, hi = (rates.ravel() for rates in (homes.appliances.x_max, homes.appliances.lo, homes.appliances.hi))
        x, free = lo.copy(), self._free
        x[free] = np.clip(_value(self._ratio) * x_max[free], lo[free], hi[free])
        rates, level = x.reshape(homes.appliances.lo.shape), _value(self._level)
        load = homes.fixed + homes.sum_by_home(rates) + homes.sum_storage(homes.stores.charging(level))
        return load, homes.utility(rates, level)


def _value(variable: cp.Variable) -> Array:
    """Give a variable at the solution. One without entries is in no problem and has no value."""
    return np.zeros(0) if variable.size == 0 else np.asarray(variable.value, float)


def _solve(problem: cp.Problem, what: str) -> SolverReport:
    if not problem.variables():  # no home has a choice
        return SolverReport("Solved", gap=0.0, primal_residual=0.0, dual_residual=0.0, iterations=0)
    data, chain, inverse = problem.get_problem_data(cp.CLARABEL, solver_opts=_OPTIONS)
    best: tuple[Any, SolverReport] | None = None
    for regularisation in _REGULARISATIONS:
        options = _OPTIONS | {"static_regularization_constant": regularisation}
        raw = chain.solve_via_data(problem, data, solver_opts=options)
        report = SolverReport(
            str(raw.status), abs(raw.obj_val - raw.obj_val_dual), raw.r_prim, raw.r_dual, raw.iterations
        )
        if report.status == "PrimalInfeasible":
            raise InfeasibleError(f"{what}: no schedule keeps every limit; widen the capacity or the homes' limits")
        if report.status in _ANSWERED and (best is None or report.gap < best[1].gap):
            best = raw, report
        if report.status == "Solved":
            break
    if best is None:
        raise CertificateError(f"{what}: Clarabel ended with {report}; without this reference no certificate")
    problem.unpack(chain.invert(best[0], inverse))
    return best[1]
