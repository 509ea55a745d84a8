"""The equilibrium certificate of the user-oriented pricing game: compares a settled run with independent references.

Each home's schedule is compared with the optimum of its own problem [UO-6], and the run with the central programme
[UO-B], both in cvxpy; a `welfare` run of many homes with a bound of that programme instead [UO-G]. The leader is
compared with a search for a better price (`stackelberg`) or with the rule that its price equals marginal cost
(`welfare`). A home's utility is computed anew from the load and stored energy that it reported; the utility that it
claims is only compared. Money as in the price, loads kW, per slot of one hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from stackelgrid.certify import CERTIFIED_UP_TO, CertificateError
from stackelgrid.games.user_oriented.home import Home
from stackelgrid.games.user_oriented.leader import (
    AdaptiveBalance,
    UtilitySettings,
    adaptive_balance,
    fixed_balance,
    weigh_in_search,
)
from stackelgrid.games.user_oriented.outcome import UserOrientedOutcome
from stackelgrid.games.user_oriented.reference.central_programme import (
    InfeasibleError,
    solve_best_answers,
    solve_central_programme,
)
from stackelgrid.games.user_oriented.reference.company import Company
from stackelgrid.games.user_oriented.reference.device_programme import compute_bill
from stackelgrid.games.user_oriented.reference.homes_response import HomesResponse
from stackelgrid.games.user_oriented.reference.hourly_homes import rewrite_as_hourly
from stackelgrid.games.user_oriented.reference.price_search import BetterPriceSearch
from stackelgrid.games.user_oriented.reference.stacked_homes import StackedHomes
from stackelgrid.games.user_oriented.reference.start_search import find_best_utility
from stackelgrid.games.user_oriented.scenario import UserOrientedScenario
from stackelgrid.wire.arrays import Array

_FEASIBLE = 1e-6
_ROUNDING = 1e-9


def certify(scenario: UserOrientedScenario, outcome: UserOrientedOutcome, samples: int) -> dict[str, Any]:
    """Compute the certificate of an outcome in which every home of the scenario settled, ready for JSON.

    - `method`: the references used, in words.
    - `gap`, relative: of a `welfare` run, the distance of its system utility below the central optimum (negative only
      by the reference's tolerance, or when limits are violated), of more than 200 homes, or where a bound of the price
      binds, `sums_gap`; of a `stackelberg` run, `leader_regret`.
    - `sums_gap`: of a `welfare` run, a bound of its distance below the central optimum, relative [UO-G]. It is made of
      the homes' optimal utilities alone, without a central programme; None for `stackelberg`. What a bound of the price
      costs is not counted.
    - `max_regret`: the largest relative gain that any player has from deviating alone, of the two that follow.
    - `max_home_regret`: of the homes, relative to max(1, |utility|), utility being satisfaction less wear less bill.
    - `integrality_gap`, `integrality_money`: of homes with deferrable runs, which all else takes at the starts that
      these chose: what they would gain together by other starts at the settled price [UO-DG], relative to max(1, |their
      utility|), and money. It is not judged: there may be no price at which it is zero.
    - `leader_regret`: the leader's from the best price found, relative to max(1, |what it earns|); None for `welfare`.
    - `better_price`, `better_utility`: the best price found and what it earns, money; None where none is better.
    - `price_residual`: of a `welfare` run, the largest distance of the price from marginal cost plus capacity
      multipliers, within the price's bounds, money per kWh; None for `stackelberg`.
    - `overclaim`: the largest relative excess of a utility claimed by a home over the one computed anew or, for homes
      with several storages, whose reports do not show each one's schedule, over the optimum.
    - `bill_residual`: the largest relative error of a bill.
    - `load_residual`: the largest difference of a home's load from its best answer to the price, kW.
    - `balance_residual`: the largest difference of the leader's load from the sum of the homes', kW.
    - `violation`: the worst violation of a limit of a home or of the capacity, kW or kWh.
    - `feasible`: true when that is within 1e-6 of the peak, and a `stackelberg` price within its bounds, to 1e-9 of
      `price_max`.
    - `system_utility`: of the run, computed anew, money.
    - `welfare_system_utility`, `welfare_price`: the central optimum, money, and the price at which selfish homes reach
      it. These and all that is measured by them are None when no schedule of the homes keeps the capacity, and for a
      `welfare` run of more than 200 homes, of which no central programme is solved.
    - `price_distance`: `rms`, money per kWh, and `relative` distance of the run's price from the welfare price.
    - `solver_status`: of the references `homes` and `centralised`, Clarabel's status, iterations, residuals and duality
      gap, which bounds the error of `max_home_regret` and of `gap`; None of what was not solved by it.
    - `prices_tried`: by the search for a better price; 0 for `welfare`.

    `samples` is the number of prices to try at random; the scenario's seed draws them. Raise `CertificateError`.
    """
    settings, slots, hours = scenario.leader, scenario.slots, scenario.slot_hours
    homes = rewrite_as_hourly([_fix_starts(home, outcome) for home in scenario.everyone])
    run = _Run.read(homes, slots, outcome, hours)  # money is over Δ from here on
    company = _company(settings, run.baseline, np.array(outcome.balance_load_kw or outcome.baseline_load_kw))
    by_sums = settings.objective == "welfare" and (len(homes) > CERTIFIED_UP_TO or _any_together(homes))
    response = HomesResponse(homes, slots)
    judged = _HomesVerdict.judge(homes, run, response, by_sums=by_sums)
    method, utility, bills, size = judged.method, judged.utility, judged.bills, judged.size
    home_regret = max(0.0, float(np.max((judged.optimum - utility) / size)))
    load = run.loads.sum(axis=0)
    system_utility = company.utility(run.price, load) + float(utility.sum())
    if any(home.feed_in_price is not None for home in homes):  # what it saves the company
        system_utility += float(bills.sum() - run.price @ load)
    solvers: dict[str, Any] = {"homes": judged.solver, "centralised": None}
    welfare = _WelfareComparison()
    if judged.solver is not None:
        welfare, solvers["centralised"] = _compare_welfare(judged.stacked, company, run.price, system_utility)
    violation = max(judged.violation, company.violation(load))
    feasible = violation <= _FEASIBLE * max(1.0, float(np.max(np.abs(load))))

    gap, tried = welfare.gap, 0
    leader_regret = price_residual = sums_gap = better_utility = None
    better_price: list[float] | None = None
    if settings.objective == "stackelberg":
        # The leader's own utility is that of a company with this mu, times its weight on revenue.
        weight = weigh_in_search(settings.revenue_weight)
        leader = replace(company, mu=company.mu / weight)
        search = BetterPriceSearch(leader, response)
        found = search.run(run.price, samples, np.random.default_rng(scenario.seed))
        earned, tried = leader.utility(run.price, load), found.tried
        gap = leader_regret = max(0.0, (found.utility - earned) / max(1.0, abs(found.utility)))
        if gap > _ROUNDING:
            better_price, better_utility = found.price.tolist(), hours * weight * found.utility
        outside = float(np.max([company.price_min - run.price, run.price - company.price_max]))
        feasible &= outside <= _ROUNDING * float(np.max(company.price_max))
        method += f"Leader: the best of {tried} prices, by a line search on the mean load, samples, sweeps and climbs."
    else:
        price_residual = company.price_residual(run.price, load)
        if any(home.feed_in_price is not None for home in homes):  # a planner pays no such price
            response = HomesResponse([home.model_copy(update={"feed_in_price": None}) for home in homes], slots)
        sums_gap, held = _bound_gap(response, company, run, utility + bills)
        gap = sums_gap if by_sums or held else gap
        method += "Leader: its price against marginal cost plus capacity multipliers"
        method += ", the system against a bound made of the homes' optimal utilities." if by_sums else "."
    return {
        "method": method,
        "gap": gap,
        "sums_gap": sums_gap,
        "max_regret": max(home_regret, leader_regret or 0.0),
        "max_home_regret": home_regret,
        **_find_integrality_gap(scenario.everyone, run.price, judged.optimum, hours),
        "leader_regret": leader_regret,
        "better_price": better_price,
        "better_utility": better_utility,
        "price_residual": price_residual,
        "overclaim": max(0.0, float(np.max(judged.overclaim))),
        "bill_residual": float(np.max(np.abs(run.bills - bills) / np.maximum(1, np.abs(bills)))),
        "load_residual": float(np.max(np.abs(run.loads - judged.best_load))),
        "balance_residual": float(np.max(np.abs(run.load - load))),
        "violation": violation,
        "feasible": feasible,
        "system_utility": hours * system_utility,
        "welfare_system_utility": None if welfare.system_utility is None else hours * welfare.system_utility,
        "welfare_price": welfare.price,
        "price_distance": welfare.distance,
        "solver_status": solvers,
        "prices_tried": tried,
    }


@dataclass(frozen=True)
class _HomesVerdict:
    """The homes of a run beside their best answers to its price, (H, T) kW and (H,) money.

    `utility` is computed anew where the load tells it, else as claimed; `overclaim` is by how much more was claimed,
    relative to `size`. `stacked` are the homes whose devices are scheduled apart. `solver` is Clarabel's report where
    it solved all homes at once.
    """

    stacked: StackedHomes
    bills: Array
    utility: Array
    size: Array
    best_load: Array
    optimum: Array
    overclaim: Array
    violation: float
    solver: dict[str, Any] | None
    method: str

    @classmethod
    def judge(cls, homes: Sequence[Home], run: _Run, response: HomesResponse, *, by_sums: bool) -> _HomesVerdict:
        """Find the best answers: of all homes at once, or one by one with devices that are scheduled together."""
        together = np.array([home.flows_together for home in homes])
        apart = StackedHomes([home for home in homes if not home.flows_together], len(run.price))
        bills = np.array([compute_bill(home, run.price, load) for home, load in zip(homes, run.loads, strict=True)])
        recomputed = np.full(len(homes), np.nan)
        recomputed[~together] = apart.utility_of(run.loads[~together], run.stored[~together]) - bills[~together]
        utility = np.where(np.isnan(recomputed), run.claimed, recomputed)
        size, solver = np.maximum(1, np.abs(utility)), None
        if by_sums or together.any():
            best_load, optimum = response.best_answers(run.price)
            method = "Homes: closed forms, of those with storage an interior-point method. "
            if together.any():
                method += "Homes with devices that are scheduled together: cvxpy with Clarabel, one by one. "
        else:
            best = solve_best_answers(apart, run.price, size)
            best_load, optimum, solver = best.load, best.utility - best.load @ run.price, asdict(best.solver)
            method = "Homes and the centralised programme: cvxpy with Clarabel, all homes at once. "
        violation = max(
            apart.violation_of(run.loads[~together], run.stored[~together]),
            *(_exceed_meter(home, run.loads[row]) for row, home in enumerate(homes) if together[row]),
            0.0,
        )
        overclaim = (run.claimed - np.where(np.isnan(recomputed), optimum, recomputed)) / size
        return cls(apart, bills, utility, size, best_load, optimum, overclaim, violation, solver, method)


def _fix_starts(home: Home, outcome: UserOrientedOutcome) -> Home:
    """Give a home with its deferrable runs at the starts that it settled. Raise `CertificateError` for others."""
    settled = outcome.homes.get(home.id)
    if settled is None or not home.deferrable:
        return home
    allowed = [run.starts for run in home.deferrable]
    if len(settled.starts) != len(allowed) or any(
        start not in starts for start, starts in zip(settled.starts, allowed, strict=True)
    ):
        raise CertificateError(
            f"outcome.homes.{home.id}.starts {settled.starts}: its deferrable runs may not begin there; certify the "
            "scenario that was played"
        )
    return home.at_starts(tuple(settled.starts))


def _find_integrality_gap(homes: Sequence[Home], price: Array, optimum: Array, hours: float) -> dict[str, float]:
    """Find what homes would gain by other starts than those at which `optimum` (H,), money over Δ, is best [UO-DG]."""
    running = [(home, own) for home, own in zip(homes, optimum, strict=True) if home.deferrable]
    if not running:
        return {}
    gain = sum(find_best_utility(home, price, own) - own for home, own in running)
    size = max(1.0, abs(sum(own for _, own in running)))
    return {"integrality_gap": float(gain / size), "integrality_money": float(hours * gain)}


def _any_together(homes: Sequence[Home]) -> bool:
    return any(home.flows_together for home in homes)


@dataclass(frozen=True)
class _WelfareComparison:
    """The central optimum, and the distance of a run from it; all None when there is none, or none was sought."""

    gap: float | None = None
    system_utility: float | None = None
    price: list[float] | None = None
    distance: dict[str, float] | None = None


def _compare_welfare(
    homes: StackedHomes, company: Company, price: Array, system_utility: float
) -> tuple[_WelfareComparison, dict[str, Any]]:
    """Solve the central programme; give the comparison with a run, and the solver's report."""
    capacity = company.load_min, company.load_max
    try:
        plan = solve_central_programme(
            homes,
            company.wholesale,
            company.mu,
            capacity,
            max(1.0, abs(system_utility)),
            (company.passed_load, company.passed_mu),
        )
    except InfeasibleError as error:
        return _WelfareComparison(), {"status": str(error)}
    load = plan.load.sum(axis=0)
    optimum = float(plan.utility.sum()) - company.cost(load)
    best_price = company.marginal_cost(load) + plan.shadow
    distance = _rms(price - best_price)
    comparison = _WelfareComparison(
        gap=(optimum - system_utility) / max(1.0, abs(optimum)),
        system_utility=optimum,
        price=best_price.tolist(),
        distance={"rms": distance, "relative": distance / max(_rms(best_price), 1e-12)},
    )
    return comparison, asdict(plan.solver)


def _bound_gap(response: HomesResponse, company: Company, run: _Run, satisfaction: Array) -> tuple[float, bool]:
    """Bound the distance of a run below the central optimum by the dual function [UO-G], relative.

    `satisfaction` (H,) is that of the run less wear, money. Tell also whether a bound of the price binds; what that
    costs is not counted.
    """
    load = run.loads.sum(axis=0)
    nu, held, residual = company.split(run.price, load)
    price = run.price - residual
    _, optimum = response.best_answers(price)
    gap = float(np.sum(optimum - (satisfaction - run.loads @ price))) + company.unused_worth(nu, load)
    return gap / max(1.0, abs(float(satisfaction.sum()) - company.cost(load) + gap)), bool(np.any(held))


@dataclass(frozen=True)
class _Run:
    """The outcome as arrays.

    `price`, total `load` and `baseline` are (T,); per home, `loads` and `stored` are (H, T), `bills` and `claimed`
    utilities (H,) money.
    """

    price: Array
    load: Array
    baseline: Array
    loads: Array
    stored: Array
    bills: Array
    claimed: Array

    @classmethod
    def read(cls, homes: Sequence[Home], slots: int, outcome: UserOrientedOutcome, hours: float) -> _Run:
        """Read an outcome of slots of so many `hours` as one of slots of an hour.

        Raise `CertificateError` when it lacks something or is not of these homes.
        """
        ids = {home.id for home in homes}
        missing, unknown = sorted(ids - outcome.homes.keys()), sorted(outcome.homes.keys() - ids)
        if not ids:
            raise CertificateError("there is no home to certify")
        if missing:
            raise CertificateError(
                f"outcome.homes lacks {', '.join(missing)}: no certificate of homes that did not settle; "
                "certify the run of those that did"
            )
        if unknown:
            raise CertificateError(f"outcome.homes has {', '.join(unknown)}, unknown to the scenario")
        if len(outcome.price) != slots:
            raise CertificateError(f"outcome.price has {len(outcome.price)} numbers, the scenario {slots} slots")
        settled = [outcome.homes[home.id] for home in homes]
        for home, result in zip(homes, settled, strict=True):
            if home.storage and result.storage_kwh is None:
                raise CertificateError(f"outcome.homes.{home.id}.storage_kwh is missing; the home has storage")
        stored = [result.storage_kwh if home.storage else None for home, result in zip(homes, settled, strict=True)]
        return cls(
            price=np.array(outcome.price),
            load=np.array(outcome.load_kw),
            baseline=np.array(outcome.baseline_load_kw),
            loads=np.array([result.load_kw for result in settled]),
            stored=np.array([np.zeros(slots) if level is None else level for level in stored]) / hours,
            bills=np.array([result.bill for result in settled]) / hours,
            claimed=np.array([result.utility for result in settled]) / hours,
        )


def _company(settings: UtilitySettings, baseline: Array, balance_load: Array) -> Company:
    passed = np.array([] if settings.passed is None else settings.passed.load_kw)
    if settings.passed is not None:  # the session that planned the whole horizon has the baseline of it
        baseline = balance_load = np.array(settings.passed.baseline_load_kw)
    if isinstance(settings.balance, AdaptiveBalance):
        kind = settings.balance
        mu = adaptive_balance(kind.high * settings.mu, kind.low * settings.mu, kind.threshold, baseline, balance_load)
    else:
        mu = fixed_balance(settings.mu, baseline)
    none = np.zeros(len(baseline) - len(passed))
    most = np.inf if settings.capacity.max_kw is None else np.array(settings.capacity.max_kw)
    return Company(
        wholesale=none + settings.wholesale_price,
        mu=mu[len(passed) :],
        load_min=np.where(np.array(settings.capacity.min_kw) > 0, none + settings.capacity.min_kw, -np.inf),
        load_max=none + most,
        price_min=none + settings.price_min,
        price_max=none + settings.price_max,
        passed_load=passed,
        passed_mu=mu[: len(passed)],
    )


def _exceed_meter(home: Home, load: Array) -> float:
    """Give how far a load (T,) is outside the limits of the home's meter, kW; zero within them."""
    least, most = home.meter_limits
    return float(max(0.0, np.max(least - load), np.max(load - most)))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))
