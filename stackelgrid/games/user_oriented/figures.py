"""The figures of *A User-Oriented Pricing Design for Demand Response in Smart Grid*, drawn from our runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stackelgrid.claims import Drawing, Runs
from stackelgrid.games.user_oriented.outcome import HomeOutcome
from stackelgrid.games.user_oriented.paper_runs import (
    MULTIPLES,
    SCALES,
    charge_deviation_at,
    load_case,
    play,
    play_flat,
    play_multiples,
    play_scales,
)
from stackelgrid.wire.arrays import Array

if TYPE_CHECKING:
    from stackelgrid.report import drawing

_MU = "μ over the calibrated one"
_EACH = 6
"""Customers of a kind in figure 8."""


def compute_satisfaction(rates: Array) -> dict[str, Array]:
    """Compute the median worth v S [UO-9] of each segment's appliances at the `rates` q, over homes and hours."""
    curves: dict[str, list[Array]] = {}
    for home in load_case().everyone:
        for appliance in home.elastic:
            alpha, omega = appliance.satisfaction.alpha, np.atleast_1d(appliance.satisfaction.omega)
            curve = appliance.valuation * np.log1p(np.multiply.outer(rates, np.atleast_1d(alpha))) / omega
            curves.setdefault(home.segment, []).append(np.median(curve, axis=1))
    return {segment: np.median(found, axis=0) for segment, found in curves.items()}


def _draw_satisfaction(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    rates = np.linspace(0, 1, 51)
    found = compute_satisfaction(rates)
    absolute = [drawing.Curve(segment, values.tolist()) for segment, values in found.items()]
    relative = [drawing.Curve(segment, (values / values[-1]).tolist()) for segment, values in found.items()]
    x, name = rates.tolist(), "Rate over the largest one, q"
    return drawing.side_by_side(
        [
            drawing.Panel("(a) Worth of the satisfaction", absolute, "v S(q) (cents/kWh)", x, name),
            drawing.Panel("(b) Relative to that at full rate", relative, "S(q) / S(1)", x, name),
        ]
    )


def _draw_price_and_deviation(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    outcomes, x = play_multiples(runs), MULTIPLES.tolist()
    mean = [float(np.mean(outcome.price)) for outcome in outcomes]
    paid = [outcome.revenue / sum(outcome.load_kw) for outcome in outcomes]
    par = [outcome.par or np.nan for outcome in outcomes]
    price = [drawing.Curve("mean over the hours", mean), drawing.Curve("mean over the kWh", paid)]
    return drawing.side_by_side(
        [
            drawing.Panel("(a) Price", price, "Price (cents/kWh)", x, _MU),
            drawing.Panel("(b) Deviation", [drawing.Curve("PAR", par)], "PAR", x, _MU),
        ]
    )


def _draw_bills(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    by_scale = [outcome.revenue / 1000 for outcome in play_scales(runs)]
    by_mu = [outcome.revenue / 1000 for outcome in play_multiples(runs)]
    label = "Bills a day (1,000 cents)"
    bills = "bills of all customers"
    return drawing.side_by_side(
        [
            drawing.Panel("(a) By system scale", [drawing.Curve(bills, by_scale)], label, list(SCALES), "Customers"),
            drawing.Panel("(b) By balance criteria", [drawing.Curve(bills, by_mu)], label, MULTIPLES.tolist(), _MU),
        ]
    )


def _draw_utility(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    panels = []
    for title, objective in (("(a) Two-stage game", "stackelberg"), ("(b) Dual decomposition", "welfare")):
        outcomes = play_multiples(runs, objective)
        curves = [
            drawing.Curve("deviation charged at μ itself", [outcome.system_utility / 1000 for outcome in outcomes]),
            drawing.Curve("at the calibrated μ", (charge_deviation_at(outcomes, 1) / 1000).tolist()),
            drawing.Curve("at four times that", (charge_deviation_at(outcomes, 4) / 1000).tolist()),
        ]
        panels.append(drawing.Panel(title, curves, "System utility (1,000 cents)", MULTIPLES.tolist(), _MU))
    return drawing.side_by_side(panels)


def _draw_loads(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    before, after = play_flat(runs), play(runs)
    regular = {home.segment: home.id for home in reversed(load_case().everyone) if not home.storage}
    loads = {
        segment: (before.homes[regular[segment]].load_kw, after.homes[regular[segment]].load_kw)
        for segment in ("residential", "commercial", "industrial")
    }
    loads["all customers"] = before.load_kw, after.load_kw
    return drawing.side_by_side(
        [
            drawing.Panel(
                f"({letter}) {name.capitalize()}",
                [
                    drawing.Curve("at the flat price", flat, drawing.GREY, "--"),
                    drawing.Curve("at the settled price", settled, drawing.BLUE, "-"),
                ],
                "Load (kW)",
            )
            for letter, (name, (flat, settled)) in zip("abcd", loads.items(), strict=True)
        ]
    )


def draw_lots(runs: Runs) -> tuple[list[float], list[float]]:
    """Draw six customers with storage or an EV and six without at random; give what each saves a day, cents."""
    random = np.random.default_rng(load_case().seed)
    homes = list(play(runs).homes.values())
    groups = [home for home in homes if home.storage_kwh], [home for home in homes if not home.storage_kwh]
    storing, regular = ([save_on_bill(group[n]) for n in random.choice(len(group), _EACH, False)] for group in groups)
    return storing, regular


def save_on_bill(home: HomeOutcome) -> float:
    """Compute what a home saves on its bill at the flat price, money a day."""
    assert home.baseline_bill is not None
    return home.baseline_bill - home.bill


def _draw_savings(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    storing, regular = draw_lots(runs)
    return drawing.boxes({"Regular": regular, "With storage": storing}, "Bill saved (cents a day)")


DRAWINGS = (
    Drawing(
        3,
        "Worth of satisfaction to the three types of customers by rate, medians over appliances and hours.",
        _draw_satisfaction,
    ),
    Drawing(4, "Price and PAR as μ goes from 0.2 to 2 times the calibrated one.", _draw_price_and_deviation),
    Drawing(5, "Bills of all customers together, by their number and by μ.", _draw_bills),
    Drawing(
        6,
        "The system's utility by μ, at the stackelberg price and at the welfare optimum, to which dual decomposition "
        "converges.",
        _draw_utility,
    ),
    Drawing(7, "Load of a regular customer of each type, and of all 60, before and after.", _draw_loads),
    Drawing(8, "What twelve customers drawn at random save on their bills, six of each kind.", _draw_savings),
)
