"""Claims of *A User-Oriented Pricing Design for Demand Response in Smart Grid*."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from stackelgrid.claims import Figure, Finding, Paper, Runs, Trend, format_residual, is_rising
from stackelgrid.games.user_oriented.figures import DRAWINGS, compute_satisfaction, draw_lots, save_on_bill
from stackelgrid.games.user_oriented.leader import AdaptiveBalance
from stackelgrid.games.user_oriented.outcome import UserOrientedOutcome
from stackelgrid.games.user_oriented.paper_runs import (
    GAME,
    MULTIPLES,
    SCALES,
    charge_deviation_at,
    load_case,
    play,
    play_multiples,
    play_scales,
)

WEIGHTS = np.arange(1, 101) / 10
"""Fixed weights on the deviation, as multiples of the calibrated mu."""
ADAPTIVE = "leader.balance={kind: adaptive, high: 2, low: 0.5}"
TWO_CUSTOMERS = (
    "population=null",
    "homes=[{id: rich, elastic: [{max_kw: 4, valuation: 10, satisfaction: {form: quadratic}}]}, "
    "{id: poor, elastic: [{max_kw: 12, valuation: 2, satisfaction: {form: quadratic}}]}]",
    *("slots=1", "aggregators=1", "leader.wholesale_price=0", "leader.mu=0"),
)
"""Customers with quadratic satisfaction, alpha = omega = 1, who buy 4 (1 - p / 10) and 12 (1 - p / 2) kWh."""
_SWEEP = "`leader.mu` 0.2 to 2 times the calibrated one, 10 runs"


def _welfare(runs: Runs) -> UserOrientedOutcome:
    return play(runs, "leader.objective=welfare")


def _range(values: list[float], digits: int) -> str:
    return f"{values[0]:.{digits}f} to {values[-1]:.{digits}f}"


def _check_ranking(runs: Runs) -> Finding:
    worth = compute_satisfaction(np.array([0.5, 1.0]))
    ranked = [worth[segment] for segment in ("industrial", "commercial", "residential")]
    here = "v S(1/2) and v S(1), cents/kWh: " + ", ".join(
        f"{segment} {half:.2f} and {full:.2f}" for segment, (half, full) in worth.items()
    )
    return Finding(here, all(bool((more > less).all()) for more, less in itertools.pairwise(ranked)))


def _check_drop(runs: Runs) -> Finding:
    kept = {segment: float(low / full) for segment, (low, full) in compute_satisfaction(np.array([0.1, 1.0])).items()}
    here = "S(1/10) / S(1): " + ", ".join(f"{segment} {share:.2f}" for segment, share in kept.items())
    return Finding(here, min(kept, key=lambda s: kept[s]) == "industrial" != max(kept, key=lambda s: kept[s]))


def _check_price_rises(runs: Runs) -> Finding:
    price = [float(np.mean(outcome.price)) for outcome in play_multiples(runs)]
    return Finding(f"mean over the hours {_range(price, 3)} cents/kWh, {_count_rises(price)}", is_rising(price))


def _check_price_paid_rises(runs: Runs) -> Finding:
    paid = [outcome.revenue / sum(outcome.load_kw) for outcome in play_multiples(runs)]
    return Finding(f"mean over the kWh {_range(paid, 4)} cents/kWh, {_count_rises(paid)}", is_rising(paid))


def _count_rises(numbers: list[float]) -> str:
    rises = int(np.sum(np.diff(numbers) > 0))
    return f"rising at {rises} of {len(numbers) - 1} steps, by {100 * (numbers[-1] / numbers[0] - 1):+.2f} % in all"


def _check_deviation_falls(runs: Runs) -> Finding:
    sweep = play_multiples(runs)
    deviation, par = [outcome.deviation for outcome in sweep], [outcome.par or np.nan for outcome in sweep]
    here = f"PAR {_range(par, 3)}, squared deviation {_range(deviation, 0)} kW²"
    return Finding(here, is_rising(par[::-1]) and is_rising(deviation[::-1]))


def _check_bills_grow_linearly(runs: Runs) -> Finding:
    bills = [outcome.revenue for outcome in play_scales(runs)]
    straight = float(np.corrcoef(SCALES, bills)[0, 1] ** 2)
    each = [bill / n for bill, n in zip(bills, SCALES, strict=True)]
    here = f"R² {straight:.5f} of a straight line; {min(each):.0f} to {max(each):.0f} cents a home and day"
    return Finding(here, straight > 0.999)


def _check_bills_bend_with_mu(runs: Runs) -> Finding:
    bills = np.array([outcome.revenue for outcome in play_multiples(runs)])
    line = np.interp(MULTIPLES, MULTIPLES[[0, -1]], bills[[0, -1]])
    bend = float(np.max(np.abs(bills - line)) / np.ptp(bills))
    return Finding(f"off the straight line between the ends by up to {100 * bend:.0f} % of the range", bend > 0.01)


def _check_utility_peaks(runs: Runs) -> Finding:
    utility = [outcome.system_utility for outcome in play_multiples(runs)]
    best = int(np.argmax(utility))
    here = f"highest at {MULTIPLES[best]:.1f} times the calibrated μ; {_range(utility, 0)} cents"
    return Finding(here, 0 < best < len(utility) - 1)


def _find_best_mu(runs: Runs, objective: str) -> dict[float, float]:
    """Find the best multiple of mu by fixed weight on the deviation, where it is inside the sweep."""
    sweep = play_multiples(runs, objective)
    best = {float(weight): int(np.argmax(charge_deviation_at(sweep, weight))) for weight in WEIGHTS}
    return {weight: float(MULTIPLES[n]) for weight, n in best.items() if 0 < n < len(sweep) - 1}


def _check_fixed_weight_peak(runs: Runs) -> Finding:
    welfare, stackelberg = (_find_best_mu(runs, objective) for objective in ("welfare", "stackelberg"))
    here = (
        f"welfare: at weights {_span(welfare)} times the calibrated μ, at 1.0 the best μ is {welfare.get(1.0, 0):.1f} "
        f"times it; stackelberg: only at weights {_span(stackelberg)}"
    )
    return Finding(here, welfare.get(1.0) == 1.0 and bool(stackelberg))


def _span(weights: dict[float, float]) -> str:
    return f"{min(weights):.1f} to {max(weights):.1f}" if weights else "none"


def _check_against_dual_decomposition(runs: Runs) -> Finding:
    ours, best = play(runs).system_utility, _welfare(runs).system_utility
    theirs = play(runs, "leader.objective=welfare", "leader.algorithm=dual_decomposition").system_utility
    here = (
        f"{ours:.0f} cents at the stackelberg price, {theirs:.0f} where dual decomposition ends, the welfare optimum "
        f"to {format_residual(1 - theirs / best, 1e-6)}"
    )
    return Finding(here, ours >= theirs)


def _check_stackelberg_is_optimal(runs: Runs) -> Finding:
    ours, best = play(runs).system_utility, _welfare(runs).system_utility
    return Finding(
        f"the stackelberg price leaves {100 * (1 - ours / best):.1f} % of the optimum", 1 - ours / best < 1e-6
    )


def _check_welfare_is_optimal(runs: Runs) -> Finding:
    gap = abs(runs.certificate(GAME, "leader.objective=welfare")["gap"])
    return Finding(f"relative distance to the centralised optimum {format_residual(gap, 1e-6)}", gap < 1e-6)


def _check_uniqueness(runs: Runs) -> Finding:
    earned = {price: _earn_from_two_customers(runs, price) for price in np.arange(1, 40) / 4}
    best = [price for price, money in earned.items() if money > max(earned.values()) - 1e-9]
    shown = " and ".join(f"{price:g}" for price in best)
    here = f"of {len(earned)} prices from 0.25 to 9.75, those that earn most are {shown}: {earned[best[0]]:.2f} each"
    return Finding(here, len(best) == 1)


def _earn_from_two_customers(runs: Runs, price: float) -> float:
    """Give what a company that may ask this price alone earns from two customers who are alike in nothing."""
    bounds = (f"leader.{key}={price:g}" for key in ("baseline_price", "price_min", "price_max"))
    return play(runs, *TWO_CUSTOMERS, *bounds).leader_utility


def _check_no_better_price(runs: Runs) -> Finding:
    regret = runs.certificate(GAME)["leader_regret"]
    here = f"the best other price that a search finds is better by {format_residual(regret, 1e-6)}, relative; no proof"
    return Finding(here, regret < 1e-6)


def _check_load_moves(runs: Runs) -> Finding:
    change = np.subtract(play(runs).load_kw, play(runs).baseline_load_kw)
    leaves, comes = -float(change[change < 0].sum()), float(change[change > 0].sum())
    here = (
        f"{leaves:.1f} kWh leave {int((change < 0).sum())} hours, {comes:,.0f} kWh are added in the others: of what is "
        f"added, at most {100 * leaves / comes:.1f} % has moved"
    )
    return Finding(here, leaves > comes / 2)


def _check_peak_and_valley(runs: Runs) -> Finding:
    before, after = np.array(play(runs).baseline_load_kw), np.array(play(runs).load_kw)
    peak, valley = int(before.argmax()), int(before.argmin())
    here = (
        f"peak hour {peak + 1}: {before[peak]:.0f} to {after[peak]:.0f} kW; lowest hour {valley + 1}: "
        f"{before[valley]:.0f} to {after[valley]:.0f} kW"
    )
    return Finding(here, bool(after[peak] < before[peak] and after[valley] > before[valley]))


def _savings(runs: Runs) -> tuple[list[float], list[float]]:
    """Give what homes with and homes without storage save a day on the bill at the flat price, cents."""
    storing: list[float] = []
    others: list[float] = []
    for home in play(runs).homes.values():
        (others if home.storage_kwh is None else storing).append(save_on_bill(home))
    return storing, others


def _check_bills_fall(runs: Runs) -> Finding:
    saved = [*_savings(runs)[0], *_savings(runs)[1]]
    homes = play(runs).homes.values()
    rise = sum(home.bill for home in homes) / sum(home.baseline_bill or 0.0 for home in homes) - 1
    here = f"bills change by {100 * rise:+.1f} % in all; {sum(s > 0 for s in saved)} of {len(saved)} homes pay less"
    return Finding(here, float(np.median(saved)) > 0)


def _check_storage_saves(runs: Runs) -> Finding:
    storing, others = (float(np.median(saved)) for saved in _savings(runs))
    twelve = (float(np.median(saved)) for saved in draw_lots(runs))
    here = (
        f"median saving {storing:.0f} cents a day with storage or an EV, {others:.0f} without; of the twelve drawn "
        f"{next(twelve):.0f} and {next(twelve):.0f}"
    )
    return Finding(here, storing > 0 and storing > others)


def _check_adaptive(runs: Runs) -> Finding:
    fixed, adaptive = play(runs), play(runs, ADAPTIVE)
    loss = 1 - adaptive.system_utility / fixed.system_utility
    before, after = (outcome.par or np.nan for outcome in (fixed, adaptive))
    here = f"PAR {before:.3f} to {after:.3f}, system utility lower by {100 * loss:.2f} %"
    return Finding(here, after < before and 0 < loss < 0.01)


def _check_adaptive_bills(runs: Runs) -> Finding:
    fixed, adaptive, doubled = (
        play(runs, *setting).revenue for setting in ((), (ADAPTIVE,), (f"leader.mu={2 * load_case().leader.mu:.6g}",))
    )
    here = (
        f"bills together {fixed:.0f} to {adaptive:.0f} cents, {100 * (adaptive / fixed - 1):+.2f} %; with a fixed μ "
        f"twice as large {doubled:.0f}, {100 * (doubled / fixed - 1):+.2f} %"
    )
    return Finding(here, adaptive < min(fixed, doubled))


def _check_balance_recomputed(runs: Runs) -> Finding:
    outcomes = [play(runs, ADAPTIVE), *(play(runs, f"{ADAPTIVE[:-1]}, recompute: {n}}}") for n in (1, 2, 3))]
    far = [_count_far(outcome.balance_load_kw or outcome.baseline_load_kw) for outcome in outcomes]
    par = [f"{outcome.par:.3f}" for outcome in outcomes]
    here = f"large in {', '.join(map(str, far))} hours as it is recomputed, PAR {', '.join(par)}"
    return Finding(here, far[-1] == far[-2] == _count_far(outcomes[-1].load_kw))


def _count_far(load_kw: list[float]) -> int:
    """Count the hours in which a load is far from its mean, as the adaptive balance has it."""
    load, threshold = np.array(load_kw), AdaptiveBalance(kind="adaptive").threshold
    return int(np.sum(np.abs(load - load.mean()) > threshold * load.mean()))


def _figure(what: str, published: str, unit: str, ours: Callable[[UserOrientedOutcome], float]) -> Figure:
    return Figure("5.3", what, published, unit, "paper", "shipped case", lambda runs: ours(play(runs)), fitted=True)


def _figure_of_mean(
    what: str, published: str, tolerance: str, series: Callable[[UserOrientedOutcome], list[float]]
) -> Figure:
    """A mean load, kW, which follows from the paper's peak and peak-to-average ratio."""

    def mean(runs: Runs) -> float:
        return float(np.mean(series(play(runs))))

    return Figure("5.3", what, published, "kW", "derived", "shipped case", mean, fitted=True, tolerance=tolerance)


PAPER = Paper(
    GAME,
    "A User-Oriented Pricing Design for Demand Response in Smart Grid",
    "The paper prints four figures of one case (5.3) and neither its loads nor its parameters. Our case is 60 "
    "customers on measured profiles, with four numbers calibrated to those four figures; only the trends are evidence.",
    (
        _figure("peak before", "447.04", "kW", lambda outcome: outcome.baseline_peak_kw),
        _figure("PAR before", "1.377", "", lambda outcome: outcome.baseline_par or np.nan),
        _figure("peak after", "433.99", "kW", lambda outcome: outcome.peak_kw),
        _figure("PAR after", "1.134", "", lambda outcome: outcome.par or np.nan),
        _figure_of_mean("mean load before", "324.65", "0.13", lambda outcome: outcome.baseline_load_kw),
        _figure_of_mean("mean load after", "382.71", "0.18", lambda outcome: outcome.load_kw),
    ),
    (
        Trend(
            "5.1, fig. 3",
            "at the same rate industrial customers are satisfied more than commercial, these more than residential",
            "paper",
            "customers of the shipped case, medians over appliances and hours",
            _check_ranking,
            "Our ω follows from the load at the flat price, at which the last kWh bought is worth the same to all, so "
            "that the types lie close together.",
        ),
        Trend(
            "5.1, fig. 3",
            "at low rates the satisfaction of industrial customers drops most, that of residential ones least",
            "paper",
            "customers of the shipped case, medians over appliances and hours",
            _check_drop,
            "With S = ln(1 + αq) / ω a larger α keeps more satisfaction at low rates, and our industrial customers "
            "have the larger one. The paper has it the other way round, in a form that its text has lost.",
        ),
        Trend("5.2, fig. 4", "the price rises as μ goes from 0.2 to 2", "paper", _SWEEP, _check_price_rises),
        Trend(
            "5.2, fig. 4",
            "the price that customers pay for a kWh, on average, rises as μ goes from 0.2 to 2",
            "derived",
            _SWEEP,
            _check_price_paid_rises,
            "A larger μ raises the price in hours of high load and lowers it in the others, into which load moves: the "
            "mean over hours, which the paper seems to show, and the mean over kWh part.",
        ),
        Trend("5.2, fig. 4", "the deviation falls as μ goes from 0.2 to 2", "paper", _SWEEP, _check_deviation_falls),
        Trend(
            "5.2, fig. 5",
            "the billing cost grows linearly with the number of customers",
            "paper",
            f"`population.homes` {', '.join(map(str, SCALES))}",
            _check_bills_grow_linearly,
            by_construction=True,
        ),
        Trend("5.2, fig. 5", "the billing cost is not linear in μ", "paper", _SWEEP, _check_bills_bend_with_mu),
        Trend(
            "5.2, fig. 6",
            "the system's utility is highest at a μ between 0.2 and 2",
            "paper",
            _SWEEP,
            _check_utility_peaks,
            "The utility contains the charge on the deviation at the very μ that is varied, so a larger μ costs more "
            "whatever the load does.",
        ),
        Trend(
            "5.2, fig. 6",
            "with the deviation charged at a fixed weight, it is highest at a μ between 0.2 and 2",
            "derived",
            f"{_SWEEP}, both objectives; fixed weights 0.1 to 10 times the calibrated μ",
            _check_fixed_weight_peak,
        ),
        Trend(
            "5.2, fig. 6",
            "the two-stage game gives the system more utility than dual decomposition does",
            "paper",
            "shipped case against `leader.objective=welfare`, `leader.algorithm=dual_decomposition`",
            _check_against_dual_decomposition,
            "Nothing gives the system more than the welfare optimum, to which dual decomposition converges, since that "
            "problem is convex.",
        ),
        Trend(
            "4.2, theorem 1",
            "at the leader's optimum [UO-16], selfish customers maximise the whole system's utility",
            "paper",
            "shipped case against `leader.objective=welfare`",
            _check_stackelberg_is_optimal,
            "The theorem's proof prices at marginal cost; problem [UO-16], which the algorithm solves, lets the "
            "company mark the price up. These are two prices, and both are offered.",
        ),
        Trend(
            "4.2, theorem 1",
            "at marginal cost, selfish customers maximise the whole system's utility",
            "derived",
            "certificate of `leader.objective=welfare`",
            _check_welfare_is_optimal,
        ),
        Trend(
            "4.2, theorem 1",
            "the equilibrium of [UO-16] is unique",
            "paper",
            "two customers with quadratic satisfaction, one slot, no cost: 4 kW at a valuation of 10, 12 kW at 2",
            _check_uniqueness,
            "One price sells to the customer with the high valuation alone, the other to both. The theorem's proof is "
            "of the welfare optimum, whose programme is convex; it says nothing of [UO-16]. Which of two best prices a "
            "run ends at is up to its search, here to the flat price before the game.",
        ),
        Trend(
            "4.2, theorem 1",
            "in our case no other price is better",
            "derived",
            "certificate of the shipped case",
            _check_no_better_price,
        ),
        Trend(
            "5.3, fig. 7",
            "load moves from the peak to off-peak hours",
            "paper",
            "shipped case, load at the flat price and at the settled one",
            _check_load_moves,
            "The paper's own four figures have the mean load rise by 18 %: customers buy more at a lower price, mostly "
            "off-peak. Peak and PAR fall, but hardly any load moves.",
        ),
        Trend(
            "5.3, fig. 7",
            "the peak falls and the valley is filled",
            "derived",
            "shipped case, load at the flat price and at the settled one",
            _check_peak_and_valley,
            by_construction=True,
        ),
        Trend(
            "5.3, fig. 8",
            "customers save on their bills",
            "paper",
            "shipped case, bills against those at the flat price",
            _check_bills_fall,
            "The paper's own four figures have the mean load rise by 18 %: customers buy more, at a lower price per "
            "kWh, and pay more in all.",
        ),
        Trend(
            "5.3, fig. 8",
            "homes with storage save much more than others",
            "paper",
            "shipped case, homes with storage or an EV against the rest",
            _check_storage_saves,
            "Bills rise for both, see above, and prices differ too little between hours for a battery to earn much.",
        ),
        Trend(
            "5.4, table 1",
            "the adaptive scheme trades a little utility for a lower PAR",
            "paper",
            f"`{ADAPTIVE}` against the shipped case",
            _check_adaptive,
        ),
        Trend(
            "4.4",
            "recomputed from the load at the price found, the adaptive balance agrees with that load",
            "reading",
            f"`{ADAPTIVE}`, and `recompute` 1, 2, 3",
            _check_balance_recomputed,
            "A load made flat asks for a small μ everywhere, at which it is no longer flat: the balance alternates. "
            "From the baseline it does not, which is the default.",
        ),
        Trend(
            "5.4",
            "the adaptive scheme rewards customers with lower bills",
            "paper",
            f"`{ADAPTIVE}` against the shipped case, and `leader.mu` twice the calibrated one",
            _check_adaptive_bills,
            "Bills fall a little, but no more than with one larger μ in all hours: it is the flatter load that is "
            "cheaper, not the scheme that rewards.",
        ),
    ),
    drawings=DRAWINGS,
    source="Wireless Communications and Mobile Computing, 2019, article 8694016, doi:10.1155/2019/8694016; the text "
    "that we have names no authors.",
)
