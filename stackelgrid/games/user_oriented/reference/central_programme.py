"""The homes' problems as one convex programme in cvxpy, solved by Clarabel: the reference the nodes are held against.

Two programmes over the same variables, every home at once: each home's best answer to a price (equations 6 and 10),
which falls apart by home, and the centralised programme (proof of Theorem 1), in which a planner runs every home and
pays the leader's cost within its capacity. Units as in `stacked`.
"""
# cvxpy hands its atoms on by star imports, which its types do not tell.
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
    # What Clarabel may still call "almost solved" when rounding stops it before that. Its gap means little where the
    # residuals are not small, so those stay strict.
    **dict.fromkeys(("reduced_tol_gap_abs", "reduced_tol_gap_rel"), 1e-7),
    "reduced_tol_feas": 1e-9,
}
# Exponential and power cones stall at a gap of 1e-7 with the usual 1e-8; with the first of these they nearly always
# reach 1e-10, else one of the others does.
_REGULARISATIONS = (1e-5, 1e-6, 1e-8)
_ANSWERED = ("Solved", "AlmostSolved")


class InfeasibleError(CertificateError):
    """No schedule keeps every limit."""


@dataclass(frozen=True)
class Answers:
    """What is best: `load` (H, T) kW, `utility` (H,) satisfaction less wear, money; `solver` is Clarabel's account."""

    load: Array
    utility: Array
    solver: dict[str, Any]


@dataclass(frozen=True)
class Plan(Answers):
    """The centralised programme's answer and `shadow` (T,), the multipliers of the capacity, money per kWh."""

    shadow: Array


def best_answers(homes: StackedHomes, price: Array, scale: Array) -> Answers:
    """The best answer of each home to `price` (T,). `scale` (H,) money is what a home's utility is measured in.

    The duality gap in `solver` bounds what any home's utility in its scale may be off by. Raises `CertificateError`.
    """
    programme = _Programme(homes, 1 / scale)
    bill = np.repeat(1 / scale, homes.slots) * np.tile(price, len(scale)) @ programme.draw
    solver = programme.solve(-bill, [], "the homes' problems")
    return Answers(*programme.schedule(), solver)


def centralised(homes: StackedHomes, wholesale: Array, mu: Array, capacity: tuple[Array, Array], scale: float) -> Plan:
    """Max of sum_i U_i - D_i less c.L + sum mu_t (L_t - mean L)^2 with capacity[0] <= L <= capacity[1].

    Arrays (T,); infinite bounds are none; `scale` is the size of the optimum to expect, money. Raises
    `CertificateError`, `InfeasibleError` when no schedule of the homes keeps the capacity.
    """
    programme = _Programme(homes, np.full(len(homes.ids), 1 / scale))
    total = cp.Variable(homes.slots)
    summed = sp.csr_array(np.tile(np.eye(homes.slots), len(homes.ids)))
    cost = wholesale @ total + cp.sum_squares(cp.multiply(np.sqrt(mu), total - cp.sum(total) / homes.slots))
    floor, ceiling = np.flatnonzero(np.isfinite(capacity[0])), np.flatnonzero(np.isfinite(capacity[1]))
    above, below = total[floor] >= capacity[0][floor], total[ceiling] <= capacity[1][ceiling]
    kept = [constraint for constraint, slots in ((above, floor), (below, ceiling)) if len(slots)]
    solver = programme.solve(-cost / scale, [total == summed @ programme.draw, *kept], "the centralised programme")
    shadow = np.zeros(homes.slots)
    if len(floor):
        shadow[floor] -= scale * above.dual_value
    if len(ceiling):
        shadow[ceiling] += scale * below.dual_value
    return Plan(*programme.schedule(), solver, shadow)


class _Programme:
    """Every home's variables: the ratio x / x_max of each rate that is free and the level of each storage entry.

    `draw` is what the meters draw, flattened (H T,) kW.
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
        each, ratio, free = self._homes.appliances, self._ratio, self._free
        x_max, omega, alpha = each.x_max.ravel()[free], each.omega.ravel()[free], each.alpha.ravel()[free]
        lo, hi = each.lo.ravel(), each.hi.ravel()[free]
        worth = (weight[each.home, None] * each.v * each.x_max).ravel()[free]
        self._constraints += [ratio >= lo[free] / x_max, ratio <= hi / x_max]
        form = np.empty(each.home.size, "U9")
        for name, rows in each.of_form.items():
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
        meter = (each.home[:, None] * self._homes.slots + np.arange(self._homes.slots)).ravel()
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
        least = fixed + homes.per_home(homes.appliances.lo) - homes.placed(stores.discharge)
        most = fixed + homes.per_home(homes.appliances.hi) + homes.placed(stores.charge)
        # Only where a limit can bind at all.
        low = np.flatnonzero((least < homes.draw_min[:, None]).ravel())
        high = np.flatnonzero((most > homes.draw_max[:, None]).ravel())
        if len(low):
            self._constraints.append(self.draw[low] >= homes.draw_min[low // homes.slots])
        if len(high):
            self._constraints.append(self.draw[high] <= homes.draw_max[high // homes.slots])

    def solve(self, further: Any, constraints: list[cp.Constraint], what: str) -> dict[str, Any]:
        """Maximise satisfaction less wear plus `further`; Clarabel's own account of how exact the answer is."""
        problem = cp.Problem(cp.Maximize(sum(self._terms) + further), self._constraints + constraints)
        return _solve(problem, what)

    def schedule(self) -> tuple[Array, Array]:
        """Loads (H, T) kW and utilities before the bill (H,) at the solution."""
        homes = self._homes
        x_max, lo, hi = (rates.ravel() for rates in (homes.appliances.x_max, homes.appliances.lo, homes.appliances.hi))
        x, free = lo.copy(), self._free
        x[free] = np.clip(_value(self._ratio) * x_max[free], lo[free], hi[free])
        rates, level = x.reshape(homes.appliances.lo.shape), _value(self._level)
        load = homes.fixed + homes.per_home(rates) + homes.placed(homes.stores.charging(level))
        return load, homes.utility(rates, level)


def _value(variable: cp.Variable) -> Array:
    """The variable at the solution; of one without entries, which no solver sees, nothing."""
    return np.zeros(0) if variable.size == 0 else np.asarray(variable.value, float)


def _solve(problem: cp.Problem, what: str) -> dict[str, Any]:
    if not problem.variables():  # nobody has anything to decide
        exact = dict.fromkeys(("gap", "primal_residual", "dual_residual"), 0.0)
        return {"status": "Solved", **exact, "iterations": 0}
    data, chain, inverse = problem.get_problem_data(cp.CLARABEL, solver_opts=_OPTIONS)
    best: tuple[Any, dict[str, Any]] | None = None
    for regularisation in _REGULARISATIONS:
        options = _OPTIONS | {"static_regularization_constant": regularisation}
        raw = chain.solve_via_data(problem, data, solver_opts=options)
        account = {
            "status": str(raw.status),
            "gap": abs(raw.obj_val - raw.obj_val_dual),
            "primal_residual": raw.r_prim,
            "dual_residual": raw.r_dual,
            "iterations": raw.iterations,
        }
        if account["status"] == "PrimalInfeasible":
            raise InfeasibleError(f"{what}: no schedule keeps every limit; widen the capacity or the homes' limits")
        if account["status"] in _ANSWERED and (best is None or account["gap"] < best[1]["gap"]):
            best = raw, account
        if account["status"] == "Solved":
            break
    if best is None:
        raise CertificateError(f"{what}: Clarabel ended with {account}; without this reference no certificate")
    problem.unpack(chain.invert(best[0], inverse))
    return best[1]
