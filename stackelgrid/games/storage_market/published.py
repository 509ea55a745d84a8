"""Claims of the abstract on a power market of DRAs that trade energy stored in residential batteries."""

from __future__ import annotations

import numpy as np

from stackelgrid.claims import Finding, Paper, Runs, Trend, format_residual
from stackelgrid.games.storage_market.outcome import ByPeriod, StorageMarketOutcome, sum_by_period
from stackelgrid.games.storage_market.scenario import StorageMarketScenario
from stackelgrid.scenarios import load
from stackelgrid.wire.arrays import Array

GAME, CAPPED = "storage_market", "storage_market_capped"
_BEST = 1e-4
"""Relative gain below which a bid counts as best: the equilibrium is one up to this."""
_OPTIMAL = 1e-6
"""Relative gain below which a schedule counts as the best one."""


def _outcome(runs: Runs) -> StorageMarketOutcome:
    """Give the outcome of the shipped case."""
    outcome: StorageMarketOutcome = runs.outcome(GAME)
    return outcome


def _total(by_dra: dict[str, list[float]]) -> Array:
    return np.asarray(np.sum(list(by_dra.values()), axis=0))


def _best_bids(runs: Runs) -> Finding:
    regret = runs.certificate(GAME)["max_dra_regret"]
    payoff = _outcome(runs).payoff
    earned = ", ".join(f"{name} {dollars:.2f}" for name, dollars in payoff.items())
    return Finding(
        f"largest relative gain from another bid {format_residual(regret, 1e-6)}; payoffs {earned} dollars",
        regret < _BEST,
    )


def _limits(runs: Runs) -> Finding:
    outcome, free = runs.outcome(CAPPED), runs.certificate(CAPPED)["without_caps"]
    selling = _total(outcome.sold_mw) > 1e-6
    room = np.array([np.subtract(cap, outcome.sold_mw[name])[selling] for name, cap in outcome.sales_cap_mw.items()])
    below = np.subtract(outcome.price, outcome.clearing_price)[selling]
    magnitude, price = int((room.min(axis=0) < 1e-6).sum()), int((below > 1e-6).sum())
    here = (
        f"of {selling.sum()} hours with sales, the cap on magnitude binds in {magnitude}, that on price in {price}; "
        f"without caps the utility would pay {free['total_cost'] - outcome.total_cost:.2f} dollars a day more, DRAs "
        f"earn {sum(free['payoff'].values()) - sum(outcome.payoff.values()):.2f} more"
    )
    return Finding(here, magnitude > 0 and price > 0 and bool(room.min() > -1e-6))


def _dispatch(runs: Runs) -> Finding:
    certificate = runs.certificate(GAME)
    gap, price, balance = (abs(certificate[key]) for key in ("dispatch_gap", "price_residual", "balance_residual"))
    here = (
        f"cost {format_residual(gap, 1e-6)} from the central optimum, price {format_residual(price, 1e-6)} $/MWh from "
        f"its dual, power balanced to {format_residual(balance, 1e-6)} MW"
    )
    return Finding(here, gap < 1e-6 and price < 1e-5 and balance < 1e-6)


def _schedules(runs: Runs) -> Finding:
    certificate = runs.certificate(GAME)
    regret, integrality = certificate["max_home_regret"], certificate["integrality_regret"]
    here = (
        f"largest relative gain of a home at the settled price from other schedules of what can be interrupted "
        f"{format_residual(regret, _OPTIMAL)}, "
        f"from other starts of what cannot {format_residual(integrality, _OPTIMAL)}"
    )
    return Finding(here, max(regret, integrality) < _OPTIMAL)


def _real_time_price(runs: Runs) -> Finding:
    outcome = _outcome(runs)
    price, net = np.array(outcome.price), np.array(outcome.net_demand_mw)
    alike = float(np.corrcoef(price, net)[0, 1])
    here = f"{price.min():.2f} to {price.max():.2f} $/MWh, correlation {alike:.3f} with the net demand"
    return Finding(here, alike > 0.9 and float(np.ptp(price)) > 1)


def _peak_falls(runs: Runs) -> Finding:
    outcome = _outcome(runs)
    peaks = [outcome.baseline_peak_mw, outcome.peak_without_mw, outcome.peak_mw]
    here = f"peak {peaks[0]:.1f} MW before, {peaks[1]:.1f} with schedules, {peaks[2]:.1f} with the market"
    return Finding(here, peaks[0] > peaks[1] > peaks[2])


def _par_falls(runs: Runs) -> Finding:
    outcome = _outcome(runs)
    ratios = [outcome.baseline_par, outcome.par_without, outcome.par]
    return Finding(
        f"{ratios[0]:.3f} before, {ratios[1]:.3f} with schedules, {ratios[2]:.3f} with the market",
        ratios[0] > ratios[1] > ratios[2],
    )


def _energy_falls(runs: Runs) -> Finding:
    outcome = _outcome(runs)
    before, after = outcome.baseline_energy_by_period.total, outcome.energy_by_period.total
    return Finding(f"{before:.1f} to {after:.1f} MWh a day, {after - before:+.1f}", after < before)


def _supply_cost(runs: Runs) -> Finding:
    outcome = _outcome(runs)
    costs = [outcome.baseline_supply_cost, outcome.supply_cost_without, outcome.supply_cost]
    here = f"{costs[0]:.0f} dollars before, {costs[1]:.0f} with schedules, {costs[2]:.0f} with the market"
    return Finding(here, costs[0] > costs[1] > costs[2])


def _payments(outcome: StorageMarketOutcome) -> tuple[Array, Array]:
    """Give what all demand but charging costs at the real-time price, without and with the market, (24,) dollars."""
    without = np.multiply(outcome.price_without, outcome.load_without_mw)
    return without, np.multiply(outcome.price, outcome.load_mw)


def _changes(before: ByPeriod, after: ByPeriod) -> Finding:
    """Compare by period: the claim holds where all fall."""
    periods = {
        "valley": (before.valley, after.valley),
        "off-peak": (before.off_peak, after.off_peak),
        "peak": (before.peak, after.peak),
    }
    here = ", ".join(f"{period} {100 * (new / old - 1):+.2f} %" for period, (old, new) in periods.items())
    return Finding(here, all(new < old for old, new in periods.values()))


def _supply_cost_by_period(runs: Runs) -> Finding:
    outcome = _outcome(runs)
    return _changes(outcome.cost_by_period_without, outcome.cost_by_period)


def _supply_cost_since_before(runs: Runs) -> Finding:
    outcome = _outcome(runs)
    return _changes(outcome.baseline_cost_by_period, outcome.cost_by_period)


def _demand_cost_by_period(runs: Runs) -> Finding:
    scenario = load(GAME)
    assert isinstance(scenario, StorageMarketScenario)
    without, after = _payments(_outcome(runs))
    return _changes(sum_by_period(scenario, without), sum_by_period(scenario, after))


def _demand_cost(runs: Runs) -> Finding:
    without, after = (float(paid.sum()) for paid in _payments(_outcome(runs)))
    return Finding(f"{without:.0f} to {after:.0f} dollars a day, {100 * (after / without - 1):+.2f} %", after < without)


def _homes_bills(outcome: StorageMarketOutcome) -> tuple[float, float]:
    """Give what homes pay for their appliances without and with the market, dollars; only they move with it."""
    appliances = np.sum([home.load_kw for home in outcome.homes.values()], axis=0) / 1000
    appliances_without = appliances + np.subtract(outcome.load_without_mw, outcome.load_mw)
    return float(outcome.price_without @ appliances_without), float(outcome.price @ appliances)


def _all_gain(runs: Runs) -> Finding:
    outcome = _outcome(runs)
    utility = outcome.supply_cost_without - outcome.total_cost
    without, after = _homes_bills(outcome)
    payoffs = sum(outcome.payoff.values())
    here = f"utility {utility:+.2f}, DRAs {payoffs:+.2f}, homes' bills {after - without:+.2f} dollars a day"
    return Finding(here, utility > 0 and min(outcome.payoff.values()) > 0 and after < without)


_CASE = "shipped case"
_CERTIFIED = "certificate of the shipped case"
_WITHOUT = "shipped case, with the market against schedules alone"

PAPER = Paper(
    GAME,
    "A power market of demand response aggregators trading energy stored in residential batteries",
    "Only the abstract is public: no formula, no figure, no data. Every formula of ours is a reading that serves one "
    "clause of it; the clauses are tested, not assumed.",
    (),
    (
        Trend("abstract", "each DRA's bidding strategy maximizes its payoff", "paper", _CERTIFIED, _best_bids),
        Trend(
            "abstract",
            "the leader controls magnitude and price of what is sold",
            "paper",
            "storage_market_capped and its certificate",
            _limits,
            "In storage_market itself no cap binds: the leader pays least where none does.",
        ),
        Trend(
            "abstract", "dynamic economic dispatch schedules generation at least cost", "paper", _CERTIFIED, _dispatch
        ),
        Trend(
            "abstract",
            "dynamic programming optimizes each home's schedule",
            "paper",
            _CERTIFIED,
            _schedules,
            "Dynamic programming decides when to start what runs in a row. What can be interrupted is continuous here, "
            "a quadratic program with a closed form.",
        ),
        Trend("abstract", "the real-time price reflects supply and demand", "paper", _CASE, _real_time_price),
        Trend(
            "abstract",
            "load scheduling with dynamic prices reduces total demand, as energy",
            "paper",
            "shipped case, net demand of the day before and with the market",
            _energy_falls,
            "Schedules move energy and save none, and batteries lose some of what they store.",
        ),
        Trend(
            "abstract",
            "load scheduling with dynamic prices reduces total demand, as peak",
            "reading",
            _CASE,
            _peak_falls,
        ),
        Trend("abstract", "the peak-to-average ratio falls", "reading", _CASE, _par_falls),
        Trend("abstract", "the supply side's cost falls", "paper", _CASE, _supply_cost),
        Trend(
            "abstract",
            "the supply side's cost falls at all times (valley, peak, off-peak)",
            "paper",
            _WITHOUT,
            _supply_cost_by_period,
            "Batteries charge in the valley, which raises what is generated, and the marginal price, there.",
        ),
        Trend(
            "abstract",
            "scheduling and market together lower the supply side's cost at all times (valley, peak, off-peak)",
            "paper",
            "shipped case, with the market against before",
            _supply_cost_since_before,
            "What appliances no longer draw at the peak they draw at other times, where it is generated instead.",
        ),
        Trend(
            "abstract",
            "the demand side's cost of electricity falls at all times (valley, peak, off-peak)",
            "paper",
            f"{_WITHOUT}, all consumption at the real-time price",
            _demand_cost_by_period,
            "Batteries charge in the valley, which raises the marginal price there for everybody.",
        ),
        Trend(
            "abstract",
            "the demand side's cost of electricity falls over the day",
            "reading",
            f"{_WITHOUT}, all consumption at the real-time price",
            _demand_cost,
        ),
        Trend("abstract", "the market is mutually advantageous", "paper", _WITHOUT, _all_gain),
    ),
    source="Its title is ours, and we know neither authors, year nor DOI.",
)
