"""Claims of *A Game Theoretic Approach for Demand Response Allocation among Strategic Prosumers*."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from stackelgrid.claims import Finding, Paper, Runs, Trend, format_residual
from stackelgrid.games.prosumer.figures import DRAWINGS
from stackelgrid.games.prosumer.outcome import ProsumerOutcome
from stackelgrid.games.prosumer.scenario import ProsumerScenario
from stackelgrid.scenarios import load
from stackelgrid.wire.arrays import Array

GAME = "prosumer"
EVENT = slice(11, 21)
"""Noon to 21 h, hours 12 to 21 counted from 1."""
ANTICIPATING = "prosumers=anticipating"
PEAK = (16, 17)
"""Hours of 4 and 5 pm."""


def _play(runs: Runs, *overrides: str) -> ProsumerOutcome:
    outcome: ProsumerOutcome = runs.outcome(GAME, *overrides)
    return outcome


def _load_case() -> ProsumerScenario:
    scenario = load(GAME)
    assert isinstance(scenario, ProsumerScenario)
    return scenario


def _to_arrays(by_prosumer: Mapping[str, list[float]]) -> dict[str, Array]:
    """Give an array by prosumer, (24,)."""
    return {name: np.array(values) for name, values in by_prosumer.items()}


def _divide_by_peak(outcome: ProsumerOutcome) -> dict[str, Array]:
    return {home.id: np.array(outcome.dr_kw[home.id]) / max(home.load_kw) for home in _load_case().everyone}


def _show_hours(values: Array, hours: tuple[int, ...]) -> str:
    return " and ".join(f"{values[hour - 1]:.2f}" for hour in hours)


def _check_dr_highest_at_peak(runs: Runs) -> Finding:
    dr = _to_arrays(_play(runs).dr_kw)
    here = "; ".join(
        f"{name} {_show_hours(values, PEAK)} kW, before at most {values[:15].max():.2f}" for name, values in dr.items()
    )
    return Finding(here, all(min(v[h - 1] for h in PEAK) > np.delete(v, [15, 16]).max() for v in dr.values()))


def _check_dr_zero_from_six(runs: Runs) -> Finding:
    dr = _to_arrays(_play(runs).dr_kw)
    last = {name: int(np.flatnonzero(values)[-1]) + 1 for name, values in dr.items()}
    here = "; ".join(f"{name} last at {hour} h" for name, hour in last.items())
    return Finding(
        here,
        all(values[17:].max() == 0 and hour == 17 for values, hour in zip(dr.values(), last.values(), strict=True)),
    )


def _check_pv_below_load(runs: Runs) -> Finding:
    parts, holds = [], True
    for home in _load_case().everyone:
        ratio = np.divide(home.pv_kw, home.load_kw)
        parts.append(f"{home.id} {ratio[16]:.2f} of its load at 17 h, {ratio[17]:.2f} at 18 h, {ratio[18]:.2f} at 19 h")
        holds &= bool(ratio[17:].max() < 0.5)
    return Finding("; ".join(parts), holds)


def _check_event_hours(runs: Runs) -> Finding:
    hours = {int(np.count_nonzero(values)) for values in _to_arrays(_play(runs).dr_kw).values()}
    length = _load_case().leader.mark_event(_load_case().session).sum()
    here = f"an event of {length} hours, DR in {' or '.join(map(str, sorted(hours)))} of them"
    return Finding(here, max(hours) <= 4)


def _check_four_hours(runs: Runs) -> Finding:
    four: ProsumerOutcome = runs.outcome("prosumer_four_hours")
    longer = _to_arrays(_play(runs).dr_kw)
    inside = {name: values > 0 for name, values in _to_arrays(four.dr_kw).items()}
    apart = max(float(np.max(np.abs((longer[n] - four.dr_kw[n])[where]))) for n, where in inside.items())
    kwh = sum(sum(provided) for provided in four.dr_kw.values())
    here = (
        f"DR in {max(int(where.sum()) for where in inside.values())} hours, {kwh:.1f} of "
        f"{sum(values.sum() for values in longer.values()):.1f} kWh, in each of them the same to "
        f"{format_residual(apart, 1e-6)} kW"
    )
    return Finding(here, apart < 1e-6)


def _check_price_held(runs: Runs) -> Finding:
    alone = runs.certificate(GAME)["anticipating"]
    held, all_do = (sum(_play(runs, *o).sum_dr_kw()) for o in ((), (ANTICIPATING,)))
    here = (
        f"who alone considers it gains {100 * alone['least_gain']:.1f} to {100 * alone['largest_gain']:.1f} % with "
        f"{100 * alone['least_cut']:.0f} to {100 * alone['largest_cut']:.0f} % less DR; when all do, DR is "
        f"{100 * (1 - all_do / held):.0f} % less"
    )
    return Finding(here, alone["largest_gain"] < 1e-6)


def _check_dr_when_anticipating(runs: Runs) -> Finding:
    dr = _to_arrays(_play(runs, ANTICIPATING).dr_kw)
    here = "; ".join(f"{n} {_show_hours(v, PEAK)} kW, before at most {v[:15].max():.2f}" for n, v in dr.items())
    return Finding(here, all(min(v[h - 1] for h in PEAK) > np.delete(v, [15, 16]).max() for v in dr.values()))


def _check_dr_within_a_tenth(runs: Runs) -> Finding:
    share = _divide_by_peak(_play(runs))
    here = "; ".join(f"{name} up to {100 * values.max():.1f} %" for name, values in share.items())
    return Finding(here, all(values.min() >= 0 and 0.01 < values.max() <= 0.1 for values in share.values()))


def _check_prices_highest_at_peak(runs: Runs) -> Finding:
    outcome = _play(runs)
    parts, holds = [], True
    for label, prices in (("PV", outcome.pv_price), ("DR", outcome.dr_price)):
        for name, price in _to_arrays(prices).items():
            parts.append(f"{name} {label} {_show_hours(price, PEAK)}, before at most {price[:15].max():.2f}")
            holds &= bool(min(price[hour - 1] for hour in PEAK) > price[:15].max())
    return Finding("; ".join(parts) + " cents/kWh", holds)


def _check_price_order(runs: Runs) -> Finding:
    outcome, scenario = _play(runs), _load_case()
    pv, dr, quantity = map(_to_arrays, (outcome.pv_price, outcome.dr_price, outcome.dr_kw))
    hours = holding = 0
    for home in scenario.everyone:
        retail = np.array(scenario.leader.tariffs[home.tariff])
        there = quantity[home.id] > 0
        order = (
            (np.array(home.pv_cost) < pv[home.id]) & (pv[home.id] < dr[home.id]) & (dr[home.id] <= retail * (1 + 1e-12))
        )
        hours, holding = hours + int(there.sum()), holding + int((order & there).sum())
    return Finding(f"in {holding} of {hours} hours with DR, both prosumers", holding == hours > 0)


def _split_profit(runs: Runs) -> tuple[dict[str, Array], dict[str, Array]]:
    """Compute each prosumer's profit by hour, cents: of all, [PR-6] less [PR-5], and of the DR alone."""
    outcome = _play(runs)
    whole = {name: -values for name, values in _to_arrays(outcome.cost).items()}
    pv = _to_arrays(outcome.pv_price)
    quantity = _to_arrays(outcome.dr_kw)
    surplus = {home.id: np.subtract(home.pv_kw, home.load_kw) for home in _load_case().everyone}
    return whole, {name: whole[name] - pv[name] * np.where(quantity[name] > 0, surplus[name], 0) for name in whole}


def _check_profit_highest_at_peak(profit: dict[str, Array]) -> Finding:
    best = {name: np.sort(np.argsort(values)[-2:] + 1) for name, values in profit.items()}
    here = "; ".join(
        f"{name} most at {' and '.join(map(str, hours))} h, {profit[name].max():.0f} cents"
        for name, hours in best.items()
    )
    return Finding(here, all(tuple(hours) == PEAK for hours in best.values()))


def _check_profit(runs: Runs) -> Finding:
    return _check_profit_highest_at_peak(_split_profit(runs)[0])


def _check_dr_profit(runs: Runs) -> Finding:
    return _check_profit_highest_at_peak(_split_profit(runs)[1])


def _check_saving(runs: Runs) -> Finding:
    outcome = _play(runs)
    saving, dr_only = (np.array(saving)[EVENT] for saving in (outcome.utility_saving, outcome.utility_saving_dr_only))
    here = f"{saving.sum():.0f} cents in the event, positive in {int((saving > 0).sum())} of its {len(saving)} hours"
    return Finding(here, bool(saving.min() >= 0 and saving.sum() > 0 and dr_only.min() >= 0))


def _compare_saving_parts(runs: Runs) -> Finding:
    outcome = _play(runs)
    saving, dr_only = (float(np.sum(saving)) for saving in (outcome.utility_saving, outcome.utility_saving_dr_only))
    here = f"{dr_only:.0f} of {saving:.0f} cents, {100 * dr_only / saving:.1f} %; the rest (20) credits to PV output"
    return Finding(here, dr_only > saving / 2)


def _check_provider_profit(runs: Runs) -> Finding:
    profit = np.array(_play(runs).provider_profit)
    return Finding(
        f"{profit.sum():.0f} cents in the event, in no hour below {profit.min():.0f}",
        bool(profit.min() >= 0 < profit.sum()),
    )


def _check_regret(runs: Runs) -> Finding:
    regret = runs.certificate(GAME)["max_regret"]
    return Finding(f"largest relative gain from another quantity {format_residual(regret, 1e-9)}", regret < 1e-9)


def _play_in_dollars(runs: Runs) -> Finding:
    scenario = _load_case()
    tariffs = {name: [price / 100 for price in prices] for name, prices in scenario.leader.tariffs.items()}
    costs = [
        f"homes.{number}.pv_cost={json.dumps(np.divide(home.pv_cost, 100).tolist())}"
        for number, home in enumerate(scenario.everyone)
    ]
    share = _divide_by_peak(_play(runs, f"leader.tariffs={json.dumps(tariffs)}", *costs))
    here = "; ".join(
        f"{name} up to {100 * values.max():.2f} % of its peak in dollars" for name, values in share.items()
    )
    return Finding(here, all(values.max() < 0.01 for values in share.values()))


def _play_other_feeder(runs: Runs) -> Finding:
    loads = []
    for number, (home, peak) in enumerate(zip(_load_case().everyone, (230, 137), strict=True)):
        loads.append(f"homes.{number}.load_kw={json.dumps([peak * x / max(home.load_kw) for x in home.load_kw])}")
    # The feeder's own description would have to change with the loads; only its total enters the game.
    dr = _to_arrays(_play(runs, *loads, "feeder=null").dr_kw)
    here = "; ".join(f"{name} {_show_hours(values, PEAK)} kW of DR at 16 and 17 h" for name, values in dr.items())
    return Finding(here, all(values[hour - 1] == 0 for values in dr.values() for hour in PEAK))


PAPER = Paper(
    GAME,
    "A Game Theoretic Approach for Demand Response Allocation among Strategic Prosumers in Regulated Distribution "
    "Utilities",
    "All formulas are in the text; its results are curves without printed numbers. Tariffs, PV costs and the load's "
    "shape are our reading of the sources that it names.",
    (),
    (
        Trend("V, fig. 4", "DR is highest at 4 and 5 pm", "paper", "shipped case", _check_dr_highest_at_peak),
        Trend(
            "V, fig. 4",
            "DR is zero from 6 pm, where PV is below the load",
            "paper",
            "shipped case",
            _check_dr_zero_from_six,
        ),
        Trend(
            "V, fig. 3",
            "PV output on and after 6 pm is much less than the load",
            "paper",
            "data of the shipped case; much less: below half",
            _check_pv_below_load,
            "At 18 h, the first hour without DR, PV output is below the load by little, by much only from 19 h on.",
        ),
        Trend("V", "DR is within 0 to 10 % of the peak load", "paper", "shipped case", _check_dr_within_a_tenth),
        Trend(
            "V, fig. 5",
            "PV and DR prices are higher at 4 and 5 pm than before",
            "paper",
            "shipped case",
            _check_prices_highest_at_peak,
        ),
        Trend(
            "IV",
            "thermostats are adjusted for no more than four hours of an event from noon to 9 pm",
            "paper",
            "shipped case",
            _check_event_hours,
            "Section V compares DR at 4 and 5 pm with that of earlier hours of the event, and we follow it. The case "
            "`prosumer_four_hours` keeps to four.",
        ),
        Trend(
            "IV",
            "in an event of four hours, 2 to 5 pm, DR is what it is in the longer one",
            "derived",
            "case `prosumer_four_hours` against the shipped one",
            _check_four_hours,
            by_construction=True,
        ),
        Trend(
            "III-A, (14)",
            "with the price held, a prosumer's decision is its best one",
            "reading",
            f"certificate of the shipped case; `{ANTICIPATING}`",
            _check_price_held,
            "The price is a function of what the prosumer consumes, by (13), and (14) does not say if it considers it. "
            "Both readings are offered; the shipped case holds the price, with which all statements of V were "
            "compared.",
        ),
        Trend(
            "V, fig. 4",
            "DR is highest at 4 and 5 pm also when prosumers anticipate their price",
            "derived",
            f"`{ANTICIPATING}`",
            _check_dr_when_anticipating,
        ),
        Trend(
            "III, (8), (16)",
            "PV cost < PV price < DR price ≤ retail price wherever there is DR",
            "paper",
            "shipped case",
            _check_price_order,
        ),
        Trend(
            "V",
            "prosumers have the most profit at 4 and 5 pm",
            "paper",
            "shipped case, (6) less (5) by hour",
            _check_profit,
            "Prices are highest at 4 and 5 pm, but PV output, and with it what is sold, is highest around noon.",
        ),
        Trend(
            "V",
            "the profit that is due to DR, λ dr less (5), is highest at 4 and 5 pm",
            "derived",
            "shipped case, by hour",
            _check_dr_profit,
        ),
        Trend(
            "V, fig. 6", "the utility's operating cost falls during the event", "paper", "shipped case", _check_saving
        ),
        Trend(
            "V, fig. 6",
            "the utility's profit (20) is due to DR",
            "derived",
            "shipped case, (20) with and without PV credited",
            _compare_saving_parts,
            "(20) credits the utility with all PV output of the prosumers, even in hours without DR, as if it were "
            "there because of the event.",
        ),
        Trend("III-B, (15)", "the DR provider earns in the event", "paper", "shipped case", _check_provider_profit),
        Trend(
            "III-A, IV",
            "at the end no prosumer gains from another quantity alone",
            "paper",
            "certificate of the shipped case",
            _check_regret,
        ),
        Trend(
            "V",
            "prices are in cents: in dollars DR would be far below the range stated",
            "derived",
            "shipped case, all prices divided by 100",
            _play_in_dollars,
        ),
        Trend(
            "V",
            "buses 23 and 27 draw 142.5 and 85 kW: with the feeder's other published loads, 230 and 137 kW, there "
            "would be no surplus and no DR at 4 and 5 pm",
            "derived",
            "shipped case with these loads",
            _play_other_feeder,
        ),
    ),
    drawings=DRAWINGS,
    source="Sayyid Mohssen Sajjadi and Meng Wu, 2021, arXiv:2110.01205, doi:10.48550/arXiv.2110.01205.",
)
