"""The report of the storage market: dispatch, prices, bids, and what the market changes in each period of the day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from pydantic import model_validator

from stackelgrid.report.game import GameReport
from stackelgrid.report.parts import (
    BOOKS_WITHIN,
    EQUILIBRIUM_WITHIN,
    Plot,
    Row,
    Rule,
    Section,
    Table,
    Trace,
    same_length,
)
from stackelgrid.report.run_folder import Certificate, Part, Result, RunFolder
from stackelgrid.report.words import measured, number, percent, relative
from stackelgrid.wire.arrays import Finite, Vector

_PERIODS = {"valley": "Valley", "off_peak": "Off-peak", "peak": "Peak"}


class Outcome(Part):
    """What the market came to: MW per slot, MWh, money, money per MWh; see `stackelgrid.games.storage_market.scenario`.

    `..._without` is the state without the market, homes having rescheduled; `baseline_...` that before anything.
    """

    price: Vector
    price_without: Vector
    price_cap: Vector
    dispatch_mw: dict[str, Vector]
    demand_mw: Vector
    net_demand_mw: Vector
    load_without_mw: Vector
    baseline_load_mw: Vector
    sold_mw: dict[str, Vector]
    charge_mw: dict[str, Vector]
    supply_slope: dict[str, Vector]
    level_mwh: dict[str, Vector]
    losses_mwh: dict[str, Finite]
    payoff: dict[str, Finite]
    theta: Finite
    supply_cost: Finite
    supply_cost_without: Finite
    baseline_supply_cost: Finite
    par: Finite
    par_without: Finite
    baseline_par: Finite
    peak_mw: Finite
    peak_without_mw: Finite
    baseline_peak_mw: Finite
    cost_by_period: dict[str, Finite]
    cost_by_period_without: dict[str, Finite]
    baseline_cost_by_period: dict[str, Finite]

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        single = ("price_without", "price_cap", "demand_mw", "net_demand_mw", "load_without_mw", "baseline_load_mw")
        arrays = [(key, getattr(self, key)) for key in single]
        for key in ("dispatch_mw", "sold_mw", "charge_mw", "supply_slope", "level_mwh"):
            arrays += [(f"{key}.{name}", values) for name, values in getattr(self, key).items()]
        same_length(arrays, len(self.price), "price")
        return self


def opening(run: RunFolder) -> str:
    """Who does what."""
    return (
        "Homes moved appliances to cheaper hours; then their aggregators, the DRAs, bid energy stored in the homes' "
        "batteries, and the utility dispatched its generators for what is left. Without the market means: with the "
        "appliances moved, and no battery used."
    )


def key_figures(result: Result[Outcome], outcome: Outcome) -> list[Row]:
    """Cost, peak and PAR before, without and with the market, and what was traded."""
    money = result.money
    sold, charged = (sum(map(sum, bids.values())) for bids in (outcome.sold_mw, outcome.charge_mw))
    return [
        ("Supply cost", _three(outcome.baseline_supply_cost, outcome.supply_cost_without, outcome.supply_cost, money)),
        ("Peak of net demand", _three(outcome.baseline_peak_mw, outcome.peak_without_mw, outcome.peak_mw, "MW")),
        ("Peak-to-average ratio", _three(outcome.baseline_par, outcome.par_without, outcome.par)),
        ("Sold by the DRAs", f"{number(sold)} MWh, after charging {number(charged)} MWh"),
        ("Share open to sales", percent(outcome.theta)),
        ("Payoff of the DRAs", measured(sum(outcome.payoff.values()), money)),
    ]


def _three(baseline: float, without: float, value: float, unit: str = "") -> str:
    """Before anything, without the market, with it; the change is what the market makes."""
    told = f"{number(baseline)} → {number(without)} → {measured(value, unit)}"
    return f"{told} (market: {relative(value / without - 1)})" if without > 0 else told


# --- figures ---


def sections(run: RunFolder, outcome: Outcome) -> Iterator[Section]:
    """Dispatch, prices, batteries, costs by period."""
    money = run.result.money
    yield Section("Dispatch", list(_dispatch(outcome)))
    yield Section("Price", [_price(outcome, money)])
    yield Section("Batteries", list(_batteries(outcome, money)))
    yield Section("Supply cost by period", [*_costs(outcome, money), _periods(outcome, money)])


def _dispatch(outcome: Outcome) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    sold = {f"sold by {name}": bid for name, bid in outcome.sold_mw.items()}
    demand = [
        drawing.Curve("Demand, charging included", outcome.demand_mw, drawing.INK, "-"),
        drawing.Curve("Load without the market", outcome.load_without_mw, drawing.INK, ":"),
    ]
    yield Plot(
        "dispatch",
        drawing.stack({**outcome.dispatch_mw, **sold}, demand, "Power (MW)"),
        "Generators, one on the other, and on top of them what the DRAs sell: together the demand, with what batteries "
        "charge.",
    )
    curves = [
        drawing.Curve("Before", outcome.baseline_load_mw, drawing.GREY, "--"),
        drawing.Curve("Without the market", outcome.load_without_mw, drawing.VERMILION, "--"),
        drawing.Curve("With it", outcome.net_demand_mw, drawing.BLUE, "-"),
    ]
    above, note = _axis(curve.values for curve in curves)
    yield Plot(
        "net_demand",
        drawing.steps(curves, "Net demand (MW)", above=above),
        "What the generators have to supply: before anybody moved anything, with appliances moved, and with the DRAs' "
        f"batteries too.{note}",
    )


def _axis(curves: Iterable[Sequence[float]]) -> tuple[float | None, str]:
    """Where an axis starts on which small differences are to be seen, and what is said of that."""
    lowest = min(map(min, curves))
    return (0.9 * lowest, " The axis does not start at zero.") if lowest > 0 else (None, "")


def _price(outcome: Outcome, money: str) -> Plot:
    from stackelgrid.report import drawing

    curves = [
        drawing.Curve("Price cap", outcome.price_cap, drawing.GREY, ":"),
        drawing.Curve("Without the market", outcome.price_without, drawing.VERMILION, "--"),
        drawing.Curve("Clearing price", outcome.price, drawing.BLUE, "-"),
    ]
    above, note = _axis(curve.values for curve in curves)
    return Plot(
        "price",
        drawing.steps(curves, f"Price ({money}/MWh)", above=above),
        "Real-time price, at which the market is cleared, beside that without the market and the cap, the marginal "
        f"price were no battery used.{note}",
    )


def _batteries(outcome: Outcome, money: str) -> Iterator[Plot | Table]:
    from stackelgrid.report import drawing

    if not any(map(any, [*outcome.sold_mw.values(), *outcome.charge_mw.values()])):
        return
    net = {
        name: [q - u for q, u in zip(bid, outcome.charge_mw[name], strict=True)]
        for name, bid in outcome.sold_mw.items()
    }
    yield Plot(
        "bids",
        drawing.many(net, "Sold (MW)"),
        "What each DRA sells of the energy stored with its homes, hour by hour; below zero it charges.",
    )
    mean = sum(outcome.price) / len(outcome.price)
    cheap = [price < mean for price in outcome.price]
    if outcome.level_mwh:
        shown = dict(list(outcome.level_mwh.items())[:_PANELS])
        yield Plot(
            "level",
            drawing.levels(shown, cheap, "Stored (MWh)"),
            "Energy stored at the end of each hour. Shaded: hours with a price below its mean.",
        )
    markup = {name: [100 * (k - 1) for k in slope] for name, slope in outcome.supply_slope.items()}
    yield Plot(
        "supply_slope",
        drawing.many(markup, "Price above marginal cost (%)"),
        "By how much the slope k of each DRA's supply function, its price over its marginal cost, is above 1, that of "
        "a bidder that takes the price as given. Zero where nothing is sold.",
    )
    columns = ["Sold (MWh)", "Charged (MWh)", "Lost (MWh)", f"Payoff ({money})"]
    rows = [
        [
            name,
            number(sum(bid)),
            number(sum(outcome.charge_mw[name])),
            number(outcome.losses_mwh[name]) if name in outcome.losses_mwh else "–",
            number(outcome.payoff[name]),
        ]
        for name, bid in outcome.sold_mw.items()
    ]
    yield Table("Each DRA over the day. Its payoff is sales less charging and its own costs.", columns, [rows])


_PANELS = 9


def _costs(outcome: Outcome, money: str) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    series = {
        label: {name: costs[key] - outcome.baseline_cost_by_period[key] for key, name in _PERIODS.items()}
        for label, costs in (
            ("Appliances moved", outcome.cost_by_period_without),
            ("and the market", outcome.cost_by_period),
        )
    }
    yield Plot(
        "cost_by_period",
        drawing.bars(series, f"Change of supply cost ({money})"),
        "How much more or less it costs to supply each period of the day than before anybody moved anything: with "
        "appliances moved, and with the DRAs' batteries too. Above zero a period has become dearer.",
    )


def _periods(outcome: Outcome, money: str) -> Table:
    columns = (outcome.baseline_cost_by_period, outcome.cost_by_period_without, outcome.cost_by_period)

    def row(name: str, before: float, without: float, value: float) -> list[str]:
        change = relative(value / without - 1) if without > 0 else "–"
        return [name, number(before), number(without), number(value), change]

    return Table(
        f"Supply cost in {money}: before, with appliances moved (without the market), with the market, and what the "
        "market alone changes.",
        ["Before", "Without", "With", "Change"],
        [
            [row(name, *(costs[key] for costs in columns)) for key, name in _PERIODS.items()],
            [row("The day", *(sum(costs.values()) for costs in columns))],
        ],
    )


# --- the certificate ---


def _inertia(outcome: Outcome, certificate: Certificate) -> float:
    return max(EQUILIBRIUM_WITHIN, certificate.number("inertia") or 0.0)


def _price_scale(outcome: Outcome, certificate: Certificate) -> float:
    return max(1.0, *map(abs, outcome.price))


def _load_scale(outcome: Outcome, certificate: Certificate) -> float:
    return max(1.0, *map(abs, outcome.net_demand_mw))


_RULES = (
    Rule(
        "max_regret",
        "Largest regret",
        "The most that any one player could still gain by deviating alone, relative. Homes keep a schedule that "
        "another would better by less than the inertia, so the limit is the inertia.",
        1.0,
        _inertia,
    ),
    Rule(
        "max_home_regret",
        "Largest regret of a home",
        "What a home's best schedule at this price would save, relative to what its appliances' energy costs. Bounded "
        "by the inertia, and judged by that.",
        1.0,
        _inertia,
    ),
    Rule(
        "max_dra_regret",
        "Largest regret of a DRA",
        "What another bid would bring a DRA, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "leader_regret",
        "Regret of the leader",
        "What another share open to sales would save the leader, the DRAs bidding anew, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "gap",
        "Gap to the equilibrium of the bids",
        "How far the market's potential is above its minimum, which is at the one equilibrium, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "dispatch_gap",
        "Gap to the best dispatch",
        "How far the supply cost is above that of the best dispatch for the same net demand, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "price_residual",
        "Price residual",
        "The largest distance of the price from the marginal cost of the best dispatch.",
        EQUILIBRIUM_WITHIN,
        _price_scale,
        "{money}/MWh",
    ),
    Rule(
        "violation",
        "Broken limits",
        "The worst breach of a limit of a generator, a bid, a battery or an appliance, MW or MWh.",
        EQUILIBRIUM_WITHIN,
        _load_scale,
        "MW",
    ),
    Rule(
        "balance_residual",
        "Error of the balance",
        "The largest difference of generation and sales from demand, or of what homes do from what their DRA tells.",
        BOOKS_WITHIN,
        _load_scale,
        "MW",
    ),
    Rule(
        "battery_residual",
        "Error of a battery's level",
        "The largest difference of a level from what was charged and delivered, losses taken off.",
        1e-9,
        unit="MWh",
    ),
    Rule(
        "bid_distance",
        "Distance from the equilibrium's bids",
        "The largest difference of a bid. Bids that differ a little are worth almost the same, so this is not judged.",
        unit="MW",
    ),
    Rule("inertia", "Inertia", "What a change had to save, at the end, for a home to make it, relative."),
    Rule("supply_cost", "Supply cost", "Worked out anew.", unit="{money}"),
)

REPORT = GameReport(
    outcome=Outcome,
    opening=opening,
    key_figures=key_figures,
    key_note="Before anybody moved anything → without the market → with it; in brackets what the market alone changes.",
    sections=sections,
    residual=Trace(
        "residual",
        "Residual",
        "while homes reschedule the part of the day's energy they still want to move, while DRAs bid the largest "
        "change of a bid over the rated power",
    ),
    traces=(
        Trace("supply_cost", "Supply cost", "the supply cost", "{money}"),
        Trace("wanted_mwh", "Wanted moves", "the energy that homes want to move", "MWh"),
    ),
    rules=_RULES,
)
