"""The certificate of the load call game: what a run settled on, against independent references.

Each consumer's shift is held against a scalar minimisation of its cost, the aggregator's calls against the optimum of
a planner who knows every consumer: always as a concave program in cvxpy, and of small games also in the paper's own
form, the consumers' KKT conditions with complementarity as SOS1 sets, solved by SCIP. Energies kWh, arrays (n,) in the
order of the homes; money as in the tariff.
"""
# cvxpy hands its atoms on by star imports, which its types do not tell, and is not typed throughout.
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import cvxpy as cp
import numpy as np
from scipy.optimize import brentq, minimize_scalar

from stackelgrid.certify import CertificateError
from stackelgrid.games.load_call.aggregator import Terms
from stackelgrid.games.load_call.home import Consumer
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.wire.arrays import Array

_FEASIBLE = 1e-6
_LARGEST_MPCC = 12
_TOLERANCES = {
    **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12),
    # What Clarabel may still call "almost solved" when rounding stops it before that.
    **dict.fromkeys(("reduced_tol_gap_abs", "reduced_tol_gap_rel", "reduced_tol_feas"), 1e-9),
}


@dataclass(frozen=True)
class Plan:
    """Best calls and what is shifted, (n,) kWh; `utility` is equation (5), money; `solver` the solver's account."""

    calls: Array
    shifts: Array
    utility: float
    solver: dict[str, Any]


def certificate(
    homes: Sequence[Consumer], leader: UtilitySettings, terms: Terms, outcome: Mapping[str, Any]
) -> dict[str, Any]:
    """The certificate of an `outcome` as in result.json, ready for JSON.

    - `method`: what was done, in words.
    - `gap`: how far the aggregator's utility is below the planner's optimum, relative to max(1, |optimum|); below zero
      only by the reference's tolerance, or where limits are violated.
    - `max_regret`: the largest relative gain that any player has from deviating alone, of the two that follow.
    - `max_home_regret`: of the consumers, relative to max(1, |cost|); the call is the aggregator's to choose.
    - `aggregator_regret`: `gap`, where it is above zero.
    - `violation`: the worst breach of sum c = R, 0 <= c <= d, 0 <= y <= c, y <= most_kwh, kWh.
    - `feasible`: whether that is within 1e-6 of the target.
    - `shift_residual`: the largest distance of a shift from the best one, kWh.
    - `call_distance`: the largest distance of a call from the planner's, kWh.
    - `bill_residual`: the largest relative error of a bill or a reward.
    - `balance_residual`: the distance of what the utility was told is shifted from the sum of the shifts, kWh.
    - `utility`, `planner_utility`: the aggregator's, worked out anew, and the planner's optimum, money.
    - `mpcc`: `utility` of the paper's program, money, and the run's `gap` to it; None for more than 12 consumers,
      without pyscipopt, or where SCIP gives up.
    - `solver_status`: of `planner` Clarabel's status and iterations, of `mpcc` SCIP's status and gap.

    `homes` are those that settled, all of them and no others. Raises `CertificateError`.
    """
    run = _Run.read(homes, outcome)
    saving = leader.peak_price - leader.off_peak_price + terms.reward
    best = np.array([best_shift(home, saving, called) for home, called in zip(homes, run.calls.tolist(), strict=True)])
    cost = _net_costs(homes, saving, run.shifts)
    bills = leader.peak_price * (_baselines(homes) - run.shifts) + leader.off_peak_price * run.shifts
    charged = cost + leader.peak_price * _baselines(homes)
    home_regret = max(0.0, float(np.max((cost - _net_costs(homes, saving, best)) / np.maximum(1, np.abs(charged)))))

    utility = _utility(leader, terms, run.calls, run.shifts)
    plan = planner(homes, leader, terms)
    gap = (plan.utility - utility) / max(1.0, abs(plan.utility))
    violation = _violation(homes, leader.target_kwh, run)
    method = "Consumers: a bounded scalar minimiser (scipy). Planner: a concave program in cvxpy with Clarabel"
    exact, scip = None, None
    if len(homes) <= _LARGEST_MPCC and find_spec("pyscipopt") is not None:
        method += ", and the consumers' KKT conditions with complementarity as SOS1 sets in SCIP"
        try:
            solved = mpcc(homes, leader, terms)
            exact = {"utility": solved.utility, "gap": (solved.utility - utility) / max(1.0, abs(solved.utility))}
            scip = solved.solver
        except CertificateError as error:
            scip = {"status": str(error)}
    return {
        "method": f"{method}.",
        "gap": gap,
        "max_regret": max(home_regret, gap),
        "max_home_regret": home_regret,
        "aggregator_regret": max(0.0, gap),
        "violation": violation,
        "feasible": violation <= _FEASIBLE * max(1.0, leader.target_kwh),
        "shift_residual": float(np.max(np.abs(run.shifts - best))),
        "call_distance": float(np.max(np.abs(run.calls - plan.calls))),
        "bill_residual": max(_error(run.bills, bills), _error(run.rewards, terms.reward * run.shifts)),
        "balance_residual": abs(run.achieved - float(run.shifts.sum())),
        "utility": utility,
        "planner_utility": plan.utility,
        "mpcc": exact,
        "solver_status": {"planner": plan.solver, "mpcc": scip},
    }


def best_shift(home: Consumer, saving: float, called: float) -> float:
    """What a consumer called for `called` kWh shifts, kWh, by minimising its cost (4); `saving` is p_on - p_off + r."""
    most = min(called, _most(home))

    def cost(shift: float) -> float:
        return home.alpha * shift**2 + home.beta * shift - saving * shift

    inside = minimize_scalar(cost, bounds=(0, most), method="bounded", options={"xatol": 1e-10 * max(1.0, most)})
    return float(min((0.0, most, inside.x), key=cost))


def willing(home: Consumer, saving: float) -> float:
    """yhat, kWh: where the marginal cost of shifting crosses zero, by bracketing."""
    most = _most(home)

    def marginal(shift: float) -> float:
        return 2 * home.alpha * shift + home.beta - saving

    if marginal(0.0) >= 0:
        return 0.0
    return most if marginal(most) <= 0 else float(brentq(marginal, 0.0, most, xtol=1e-12, rtol=1e-14))


def planner(homes: Sequence[Consumer], leader: UtilitySettings, terms: Terms) -> Plan:
    """The optimum of (7) with every yhat known, as a concave program over calls and shifts. Raises `CertificateError`.

    In units of the mean call and of the commission on it, so that Clarabel's tolerances mean the same for any game.
    """
    n = len(homes)
    unit = leader.target_kwh / n or 1.0
    saving = leader.peak_price - leader.off_peak_price + terms.reward
    limit = np.array([willing(home, saving) for home in homes])
    calls, shifts = cp.Variable(n), cp.Variable(n)
    mean = leader.target_kwh / n / unit
    unfair = terms.fairness * unit / (leader.commission or 1.0)
    earned = cp.sum(shifts) if leader.commission > 0 else 0.0
    problem = cp.Problem(
        cp.Maximize(earned - unfair * cp.sum_squares(calls - mean)),
        [
            cp.sum(calls) == mean * n,
            calls >= 0,
            calls <= _baselines(homes) / unit,
            shifts >= 0,
            shifts <= calls,
            shifts <= limit / unit,
        ],
    )
    problem.solve(solver=cp.CLARABEL, **_TOLERANCES)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise CertificateError(f"the planner's program: Clarabel ended with {problem.status}; no certificate")
    found = np.asarray(calls.value) * unit
    answered = np.minimum(found, limit)
    return Plan(
        calls=found,
        shifts=answered,
        utility=_utility(leader, terms, found, answered),
        solver={"status": str(problem.status), "iterations": problem.solver_stats.num_iters},
    )


def mpcc(homes: Sequence[Consumer], leader: UtilitySettings, terms: Terms) -> Plan:
    """The paper's single-level form of (7): consumers' problems replaced by their KKT conditions, solved by SCIP.

    For each consumer, with multipliers for y <= c, y <= min(d, m) and y >= 0,

        2 alpha y + beta - (p_on - p_off + r) + u + v - w = 0,      u (c - y) = v (min(d, m) - y) = w y = 0,

    each product as an SOS1 set of the multiplier and its slack. The condition is divided by 2 alpha, so that everything
    is in kWh. For a few consumers only: the time grows with the number of combinations. Raises `CertificateError`,
    ImportError without pyscipopt.
    """
    from pyscipopt import Model, quicksum

    model = Model()
    model.hideOutput()
    saving = leader.peak_price - leader.off_peak_price + terms.reward
    calls, shifts = [], []
    for home in homes:
        baseline, most = home.baseline_kwh, _most(home)
        stationary = (saving - home.beta) / (2 * home.alpha)
        pull, push = max(stationary, 0.0), max(-stationary, 0.0)  # no multiplier need be larger
        call, shift = model.addVar(lb=0, ub=baseline), model.addVar(lb=0, ub=most)
        uncalled, unable, unwilling = (model.addVar(lb=0, ub=bound) for bound in (pull, pull, push))
        beyond_call, beyond_most = model.addVar(lb=0, ub=baseline), model.addVar(lb=0, ub=most)
        model.addCons(beyond_call == call - shift)
        model.addCons(beyond_most == most - shift)
        model.addCons(shift - stationary + uncalled + unable - unwilling == 0)
        for multiplier, slack in ((uncalled, beyond_call), (unable, beyond_most), (unwilling, shift)):
            model.addConsSOS1([multiplier, slack])
        calls.append(call)
        shifts.append(shift)
    mean = leader.target_kwh / len(homes)
    model.addCons(quicksum(calls) == mean * len(homes))
    deviation = model.addVar(lb=0)
    model.addCons(quicksum((call - mean) * (call - mean) for call in calls) <= deviation)
    model.setObjective(leader.commission * quicksum(shifts) - terms.fairness * deviation, "maximize")
    try:
        model.optimize()
    except Exception as error:  # pyscipopt raises this very class when the LP solver gives up
        raise CertificateError(f"the MPCC: {error}") from None
    status = str(model.getStatus())
    if status != "optimal":
        raise CertificateError(f"the MPCC: SCIP ended with {status}")
    found, answered = (np.array([model.getVal(variable) for variable in some]) for some in (calls, shifts))
    return Plan(found, answered, _utility(leader, terms, found, answered), {"status": status, "gap": model.getGap()})


@dataclass(frozen=True)
class _Run:
    """What the outcome reports, arrays (n,) in the order of the homes; `achieved` is what the utility was told, kWh."""

    calls: Array
    shifts: Array
    bills: Array
    rewards: Array
    achieved: float

    @classmethod
    def read(cls, homes: Sequence[Consumer], outcome: Mapping[str, Any]) -> _Run:
        """Raises `CertificateError` where the outcome lacks something or is not of these homes."""
        if not homes:
            raise CertificateError("there is no home to certify")
        ids = [home.id for home in homes]
        return cls(
            calls=_per_home(outcome, "calls_kwh", ids),
            shifts=_per_home(outcome, "shifted_kwh", ids),
            bills=_per_home(outcome, "bills", ids),
            rewards=_per_home(outcome, "rewards", ids),
            achieved=float(outcome["achieved_kwh"]),
        )


def _per_home(outcome: Mapping[str, Any], key: str, ids: Sequence[str]) -> Array:
    told: Mapping[str, float] = outcome.get(key, {})
    missing, unknown = [name for name in ids if name not in told], sorted(told.keys() - set(ids))
    if missing:
        raise CertificateError(
            f"outcome.{key} lacks {', '.join(missing)}: no certificate of homes that did not settle; "
            "certify the run of those that did"
        )
    if unknown:
        raise CertificateError(f"outcome.{key} has {', '.join(unknown)}, unknown to the scenario")
    numbers = np.array([told[name] for name in ids], float)
    if not np.isfinite(numbers).all():
        raise CertificateError(f"outcome.{key} has a number that is not finite")
    return numbers


def _most(home: Consumer) -> float:
    return home.baseline_kwh if home.most_kwh is None else min(home.most_kwh, home.baseline_kwh)


def _utility(leader: UtilitySettings, terms: Terms, calls: Array, shifts: Array) -> float:
    """The aggregator's utility (5), money."""
    return leader.commission * float(shifts.sum()) - terms.fairness * float(np.sum((calls - calls.mean()) ** 2))


def _baselines(homes: Sequence[Consumer]) -> Array:
    return np.array([home.baseline_kwh for home in homes])


def _net_costs(homes: Sequence[Consumer], saving: float, shifts: Array) -> Array:
    """The cost (2) of shifting, (n,) money: dissatisfaction less what it saves and earns."""
    alpha, beta = np.array([[home.alpha, home.beta] for home in homes]).T
    return np.asarray(alpha * shifts**2 + beta * shifts - saving * shifts)


def _violation(homes: Sequence[Consumer], target: float, run: _Run) -> float:
    most = np.array([np.inf if home.most_kwh is None else home.most_kwh for home in homes])
    beyond = [-run.calls, run.calls - _baselines(homes), -run.shifts, run.shifts - run.calls, run.shifts - most]
    return max(0.0, abs(float(run.calls.sum()) - target), float(np.max(beyond)))


def _error(told: Array, true: Array) -> float:
    return float(np.max(np.abs(told - true) / np.maximum(1, np.abs(true))))
