"""The report of the storage market: dispatch, prices, bids, and what the market changes in each period of the day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import nan
from typing import Any

import numpy as np

from stackelgrid.columns import Cell, Columns, name_apart, pad, spell_unit, stack
from stackelgrid.games.storage_market.outcome import ByPeriod, HomeOutcome, StorageMarketOutcome, own_cost
from stackelgrid.games.storage_market.scenario import StorageMarketScenario
from stackelgrid.report.days import Course, Courses, join
from stackelgrid.report.game import GameReport
from stackelgrid.report.parts import (
    BOOKS_WITHIN,
    EQUILIBRIUM_WITHIN,
    Highlight,
    Plot,
    Row,
    Rule,
    Section,
    Table,
    Trace,
    drop_rounding,
    highlight_change,
)
from stackelgrid.report.plans import CarriedOut
from stackelgrid.report.run_folder import PlayedSession, RunFolder
from stackelgrid.report.words import number, percent, plural, quantity, relative, tell_change
from stackelgrid.run_result import Certificate, RunResult

_KW_PER_MW = 1000.0


def opening(run: RunFolder) -> str:
    """Say who does what."""
    return (
        "Homes moved appliances to cheaper hours; then their aggregators, the DRAs, bid energy stored in the homes' "
        "batteries, and the utility dispatched its generators for what is left. Without the market means: with the "
        "appliances moved, and no battery used."
    )


def story(result: RunResult[StorageMarketOutcome], outcome: StorageMarketOutcome) -> str:
    """Say what came out in a sentence: what was moved and sold, and with it peak and supply cost."""
    sold = outcome.slot_hours * sum(map(sum, outcome.sold_mw.values()))
    dras = plural(len(outcome.sold_mw), "demand response aggregator (DRA)", "demand response aggregators (DRAs)")
    ended = "" if result.settled else "No price was settled; by the last round, "
    moved = tell_change("the peak of net demand", outcome.baseline_peak_mw, outcome.peak_without_mw, "MW")
    peak = tell_change("it", outcome.peak_without_mw, outcome.peak_mw, "MW")
    cost = tell_change("The cost of supply", outcome.baseline_supply_cost, outcome.supply_cost, result.money)
    return (
        f"{ended}{plural(result.homes, 'home')} moved appliances, and {moved}; {dras} sold {quantity(sold, 'MWh')} "
        f"from batteries, and {peak}. {cost}."
    )


def highlights(result: RunResult[StorageMarketOutcome], outcome: StorageMarketOutcome) -> list[Highlight]:
    """Give peak, cost, what was sold and the payoff of selling."""
    sold, charged = (outcome.slot_hours * sum(map(sum, bids.values())) for bids in (outcome.sold_mw, outcome.charge_mw))
    payoff = quantity(sum(outcome.payoff.values()), result.money)
    return [
        highlight_change("Peak of net demand", outcome.baseline_peak_mw, outcome.peak_mw, "MW"),
        highlight_change("Supply cost", outcome.baseline_supply_cost, outcome.supply_cost, result.money),
        ("Sold from batteries", quantity(sold, "MWh"), f"after charging {quantity(charged, 'MWh')}"),
        ("Payoff of the DRAs", payoff, "sales less charging and costs"),
    ]


def overview(run: RunFolder, outcome: StorageMarketOutcome) -> Plot:
    """Draw net demand before, without the market and with it over the price."""
    from stackelgrid.report import drawing

    loads = [
        drawing.Curve("Before anybody moved", outcome.baseline_load_mw, drawing.GREY, "--"),
        drawing.Curve("With appliances moved", outcome.load_without_mw, drawing.VERMILION, ":"),
        drawing.Curve("With batteries, too", outcome.net_demand_mw, drawing.BLUE, "-"),
    ]
    prices = [
        drawing.Curve("Price with appliances moved", outcome.price_without, drawing.VERMILION, ":"),
        drawing.Curve("Price with batteries, too", outcome.price, drawing.BLUE, "-"),
    ]
    return Plot(
        "net_demand",
        drawing.over_price(loads, "Net demand (MW)", prices, f"Price ({run.result.money}/MWh)", from_zero=False),
        "Above, what the generators have to supply before anybody moved anything, with appliances moved, and with the "
        "DRAs' batteries too, the first peak and the last marked; below, the real-time price without and with the "
        "batteries. The axes do not start at zero.",
    )


def key_figures(result: RunResult[StorageMarketOutcome], outcome: StorageMarketOutcome) -> list[Row]:
    """List cost, peak and PAR before, without and with the market, and what was traded."""
    money = result.money
    sold, charged = (outcome.slot_hours * sum(map(sum, bids.values())) for bids in (outcome.sold_mw, outcome.charge_mw))
    return [
        ("Supply cost", _three(outcome.baseline_supply_cost, outcome.supply_cost_without, outcome.supply_cost, money)),
        ("Peak of net demand", _three(outcome.baseline_peak_mw, outcome.peak_without_mw, outcome.peak_mw, "MW")),
        ("Peak-to-average ratio", _three(outcome.baseline_par, outcome.par_without, outcome.par)),
        ("Sold by the DRAs", f"{number(sold)} MWh, after charging {number(charged)} MWh"),
        ("Share open to sales", percent(outcome.theta)),
        ("Payoff of the DRAs", quantity(sum(outcome.payoff.values()), money)),
        *_list_metered(outcome, money),
    ]


def _list_metered(outcome: StorageMarketOutcome, money: str) -> Iterator[Row]:
    """List the imbalance and what supply costs with it, where demand was foreseen."""
    if outcome.imbalance_mwh is None or outcome.metered_supply_cost is None:
        return
    scale = outcome.slot_hours * sum(outcome.net_demand_mw)
    beyond, short = (
        drop_rounding(sum(max(sign * mwh, 0.0) for mwh in outcome.imbalance_mwh), scale) for sign in (1, -1)
    )
    yield ("Imbalance", f"{quantity(beyond, 'MWh')} drawn beyond what was settled, {quantity(short, 'MWh')} less")
    yield ("Supply cost with that", quantity(outcome.metered_supply_cost, money))


def _three(baseline: float, without: float, value: float, unit: str = "") -> str:
    """Write a number before anything, without the market and with it; the change is that by the market."""
    numbers = f"{number(baseline)} → {number(without)} → {quantity(value, unit)}"
    return f"{numbers} (market: {relative(value / without - 1)})" if without > 0 else numbers


# --- figures ---


def sections(run: RunFolder, outcome: StorageMarketOutcome) -> Iterator[Section]:
    """Give the sections on dispatch, prices, batteries, caps and costs by period."""
    money = run.result.money
    yield Section("Dispatch and price", [*_dispatch(outcome), _price(outcome, money)])
    if parts := [*_caps(run, outcome, money), *_batteries(outcome, money)]:
        yield Section("Batteries and sales", parts)
    yield Section("Supply cost by period", [*_costs(outcome, money), _periods(outcome, money)])


def _dispatch(outcome: StorageMarketOutcome) -> Iterator[Plot]:
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


def _axis(curves: Iterable[Sequence[float]]) -> tuple[float | None, str]:
    """Give where an axis starts that shows small differences, and a note of that for the caption."""
    lowest = min(map(min, curves))
    return (0.9 * lowest, " The axis does not start at zero.") if lowest > 0 else (None, "")


def _price(outcome: StorageMarketOutcome, money: str) -> Plot:
    from stackelgrid.report import drawing

    sold = [any(bid[slot] > 0 for bid in outcome.sold_mw.values()) for slot in range(len(outcome.price))]
    paid = [price if there else nan for price, there in zip(outcome.clearing_price, sold, strict=True)]
    curves = [
        drawing.Curve("Without the market", outcome.price_without, drawing.GREY, "--"),
        drawing.Curve("Price", outcome.price, drawing.BLUE, "-"),
        *([drawing.Curve("Paid for sales", paid, drawing.GREEN, "-.")] if any(sold) else []),
        drawing.Curve("Cap on what is paid for sales", outcome.price_cap, drawing.VERMILION, ":"),
    ]
    above, note = _axis(curve.values for curve in curves if curve.values is not paid)
    return Plot(
        "price",
        drawing.steps(curves, f"Price ({money}/MWh)", above=above),
        "Real-time price, at which the market is cleared, beside that without the market; what is paid for sales where "
        f"there are some, and the cap on it, never more than the marginal price were no battery used. "
        f"{_tell_cap(outcome)}{note}",
    )


def _tell_cap(outcome: StorageMarketOutcome) -> str:
    """Say in how many slots the cap on the price of sales binds."""
    held = sum(paid < price for paid, price in zip(outcome.clearing_price, outcome.price, strict=True))
    return f"The cap on the price binds in {_count_slots(outcome, held)}."


def _count_slots(outcome: StorageMarketOutcome, count: int) -> str:
    return plural(count, "hour" if outcome.slot_hours == 1 else "slot")


def _batteries(outcome: StorageMarketOutcome, money: str) -> Iterator[Plot | Table]:
    from stackelgrid.report import drawing

    if not any(map(any, [*outcome.sold_mw.values(), *outcome.charge_mw.values()])):
        return
    net = {
        name: [q - u for q, u in zip(bid, outcome.charge_mw[name], strict=True)]
        for name, bid in outcome.sold_mw.items()
    }
    yield Plot(
        "bids",
        drawing.many(net, "Sold (MW)", who="DRAs"),
        "What each DRA sells of the energy stored with its homes, hour by hour; below zero it charges.",
    )
    mean = sum(outcome.price) / len(outcome.price)
    cheap = [price < mean for price in outcome.price]
    if outcome.level_mwh:
        yield Plot(
            "level",
            drawing.many(outcome.level_mwh, "Stored (MWh)", who="DRAs", shaded=cheap),
            "Energy stored with the homes of each DRA at the end of each slot. Shaded: slots with a price below its "
            "mean.",
        )
    markup = {name: [100 * (k - 1) for k in slope] for name, slope in outcome.supply_slope.items()}
    yield Plot(
        "supply_slope",
        drawing.many(markup, "Price above marginal cost (%)", who="DRAs"),
        "By how much the slope k of each DRA's supply function, its price over its marginal cost, is above 1, that of "
        "a bidder that takes the price as given. Zero where nothing is sold.",
    )
    columns = ["Sold (MWh)", "Charged (MWh)", "Lost (MWh)", f"Payoff ({money})"]
    rows = [
        [
            name,
            number(outcome.slot_hours * sum(bid)),
            number(outcome.slot_hours * sum(outcome.charge_mw[name])),
            number(outcome.losses_mwh[name]) if name in outcome.losses_mwh else "–",
            number(outcome.payoff[name]),
        ]
        for name, bid in outcome.sold_mw.items()
    ]
    yield Table("Each DRA over the day. Its payoff is sales less charging and its own costs.", columns, [rows])


def _caps(run: RunFolder, outcome: StorageMarketOutcome, money: str) -> Iterator[Plot | Table]:
    from stackelgrid.report import drawing

    if not any(map(any, outcome.sold_mw.values())):
        return
    caps = list(map(sum, zip(*outcome.sales_cap_mw.values(), strict=True)))
    yield Plot(
        "sales_cap",
        drawing.stack(outcome.sold_mw, [drawing.Curve("Cap on sales", caps, drawing.VERMILION, ":")], "Sold (MW)"),
        f"What the DRAs sell, one on the other, below what they may sell together, {percent(outcome.theta)} of the "
        f"demand. {_tell_binding(outcome)}",
    )
    certificate = run.result.certificate
    if certificate is None or certificate.number("without_caps.supply_cost") is None:
        return
    costs = {"supply_cost": ("Supply cost", outcome.supply_cost)}
    costs["total_cost"] = ("Supply cost and net purchases", outcome.total_cost)
    earned = {f"payoff.{name}": (f"Payoff of {name}", payoff) for name, payoff in outcome.payoff.items()}
    rows, payoffs = (
        [
            _compare(name, capped, free)
            for key, (name, capped) in group.items()
            if (free := certificate.number(f"without_caps.{key}")) is not None
        ]
        for group in (costs, earned)
    )
    yield Table(
        f"What the caps change, in {money}: beside the equilibrium of the bids without a cap on sales or their price, "
        "homes as they are. From the certificate.",
        ["With caps", "Without", "Change"],
        [rows, payoffs],
    )


def _tell_binding(outcome: StorageMarketOutcome) -> str:
    """Say in how many slots a cap on sales binds."""
    used = [
        any(
            bid[slot] > 0 and bid[slot] > 0.999 * outcome.sales_cap_mw[name][slot]
            for name, bid in outcome.sold_mw.items()
        )
        for slot in range(len(outcome.price))
    ]
    return f"The cap of some DRA binds in {_count_slots(outcome, sum(used))}."


def _compare(name: str, capped: float, free: float) -> list[str]:
    return [name, number(capped), number(free), number(capped - free)]


def _costs(outcome: StorageMarketOutcome, money: str) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    baseline = _label(outcome.baseline_cost_by_period)
    series = {
        label: {period: cost - baseline[period] for period, cost in _label(costs).items()}
        for label, costs in (
            ("Appliances moved", outcome.cost_by_period_without),
            ("Appliances moved and batteries used", outcome.cost_by_period),
        )
    }
    yield Plot(
        "cost_by_period",
        drawing.bars(series, f"Change of supply cost ({money})"),
        "How much more or less it costs to supply each period of the day than before anybody moved anything: with "
        "appliances moved, and with the DRAs' batteries too. Above zero a period has become dearer.",
    )


def _periods(outcome: StorageMarketOutcome, money: str) -> Table:
    baseline, without, settled = (
        _label(costs)
        for costs in (outcome.baseline_cost_by_period, outcome.cost_by_period_without, outcome.cost_by_period)
    )

    def row(name: str, before: float, without: float, value: float) -> list[str]:
        change = relative(value / without - 1) if without > 0 else "–"
        return [name, number(before), number(without), number(value), change]

    return Table(
        f"Supply cost in {money}: before, with appliances moved (without the market), with the market, and what the "
        "market alone changes.",
        ["Before", "Without", "With", "Change"],
        [
            [row(period, baseline[period], without[period], settled[period]) for period in settled],
            [row("The day", *(sum(costs.values()) for costs in (baseline, without, settled)))],
        ],
    )


def _label(sums: ByPeriod) -> dict[str, float]:
    return {"Valley": sums.valley, "Off-peak": sums.off_peak, "Peak": sums.peak}


# --- several days ---


def follow_session(scenario: StorageMarketScenario | None, outcome: StorageMarketOutcome, binding: int) -> Course:
    """Give net demand and price of the first slots of a session, those that bind."""
    if outcome.metered_mw is not None:
        return Course(outcome.metered_mw, outcome.price[:binding], settled=outcome.net_demand_mw[:binding])
    return Course(outcome.net_demand_mw[:binding], outcome.price[:binding])


def follow_baseline(scenario: StorageMarketScenario, played: Sequence[PlayedSession]) -> Course:
    """Give the load in the same slots before anybody moved anything, with what came otherwise than foreseen."""
    return join([_follow_before(each.outcome, each.session.binding) for each in played])


def _follow_before(outcome: StorageMarketOutcome, binding: int) -> Course:
    load = outcome.baseline_load_mw[:binding]
    missed = [mwh / outcome.slot_hours for mwh in outcome.imbalance_mwh or [0.0] * binding]
    return Course([mw + more for mw, more in zip(load, missed, strict=True)])


def carry_out(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> CarriedOut:
    """Give what came of a session that was planned by forecasts [SM-IMB], and what selling cost the DRAs.

    All that is drawn is paid at the settled price; what appliances need does not change, so utility is that alone.
    """
    drawn = outcome.metered_mw or []
    paid = outcome.slot_hours * sum(price * mw for price, mw in zip(outcome.price, drawn, strict=False))
    selling = sum(own_cost(scenario, name, np.array(sold[: len(drawn)])) for name, sold in outcome.sold_mw.items())
    return CarriedOut(
        [_KW_PER_MW * mw for mw in drawn],
        [_KW_PER_MW * mwh for mwh in outcome.imbalance_mwh or ()],
        0.0,
        paid,
        -paid,
        (outcome.metered_supply_cost or 0.0) + outcome.slot_hours * selling,
    )


# --- tables ---


def tabulate_slots(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> Columns:
    """Tabulate prices and loads of the system, a row per slot."""
    rate = f"{spell_unit(scenario.money)}_per_mwh"
    return {
        "slot": range(1, len(outcome.price) + 1),
        f"price_{rate}": outcome.price,
        f"price_without_{rate}": outcome.price_without,
        f"price_cap_{rate}": outcome.price_cap,
        f"clearing_price_{rate}": outcome.clearing_price,
        "baseline_load_mw": outcome.baseline_load_mw,
        "load_without_mw": outcome.load_without_mw,
        "load_mw": outcome.load_mw,
        "demand_mw": outcome.demand_mw,
        "net_demand_mw": outcome.net_demand_mw,
        "short_mw": outcome.short_mw,
        "spilt_mw": outcome.spilt_mw,
        **_pad_metered(outcome, rate),
    }


def _pad_metered(outcome: StorageMarketOutcome, rate: str) -> Columns:
    """List what was drawn, MW, the imbalance and its price, in slots that bind; empty cells in others."""
    found = {
        "metered_mw": outcome.metered_mw,
        "imbalance_mwh": outcome.imbalance_mwh,
        f"imbalance_price_{rate}": outcome.imbalance_price,
    }
    return {key: pad(values, len(outcome.price)) for key, values in found.items() if values is not None}


def tabulate_generators(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> Columns:
    """Tabulate the output of the generators, a row per generator and slot."""
    slots = range(1, len(outcome.price) + 1)
    return stack(
        {"generator": name, "slot": slots, "dispatch_mw": output} for name, output in outcome.dispatch_mw.items()
    )


def tabulate_dras(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> Columns:
    """Tabulate what the DRAs sell, charge and store, a row per DRA and slot."""
    slots = range(1, len(outcome.price) + 1)
    return stack(
        {
            "dra": name,
            "slot": slots,
            "sold_mw": sold,
            "charge_mw": outcome.charge_mw[name],
            "stored_mwh": outcome.level_mwh.get(name),
            "sales_cap_mw": outcome.sales_cap_mw[name],
            "supply_slope": outcome.supply_slope[name],
        }
        for name, sold in outcome.sold_mw.items()
    )


def tabulate_schedules(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> Columns:
    """Tabulate what each home's appliances draw, and its battery charges, sells and stores, a row per home and slot."""
    slots = range(1, len(outcome.price) + 1)
    return stack(
        {
            "home": name,
            "slot": slots,
            "load_kw": home.load_kw,
            "charge_kw": home.charge_kw,
            "sold_kw": home.sold_kw,
            "stored_kwh": home.battery_kwh,
            "spilt_kwh": home.spilt_kwh,
        }
        for name, home in outcome.homes.items()
    )


def tabulate_appliances(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> Columns:
    """Tabulate what each appliance draws, a row per home, appliance and slot; a battery, of what it charges less sells.

    What a home's meter draws is the sum over its appliances.
    """
    slots = range(1, len(outcome.price) + 1)
    return stack(
        {"home": home.id, "appliance": name, "kind": kind, "slot": slots, "load_kw": load, "stored_kwh": stored}
        for home in scenario.everyone
        if home.id in outcome.homes
        for name, kind, load, stored in _list_appliances(home, outcome.homes[home.id])
    )


def _list_appliances(home: Any, day: HomeOutcome) -> Iterator[tuple[str, str, list[float], list[float] | None]]:
    """List name, kind, load and stored energy of a home's appliances and of its battery."""
    for (name, appliance), energy in zip(name_apart(home.appliances), day.appliances_kwh, strict=True):
        yield name, appliance.kind, [kwh / home.slot_hours for kwh in energy], None
    if day.charge_kw is not None and day.sold_kw is not None:
        net = [charge - sold for charge, sold in zip(day.charge_kw, day.sold_kw, strict=True)]
        yield "battery", "battery", net, day.battery_kwh


def tabulate_homes(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> Columns:
    """Tabulate energy and bill of each home's appliances, a row per home."""
    money, hours = spell_unit(scenario.money), outcome.slot_hours
    return stack(
        {"home": name, "energy_kwh": hours * sum(home.load_kw), f"bill_{money}": home.bill}
        for name, home in outcome.homes.items()
    )


def compute_totals(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> dict[str, Cell]:
    """Give energy, peak, mean price, costs and trade of a session, before, without the market and with it."""
    money, hours = spell_unit(scenario.money), outcome.slot_hours
    return {
        "baseline_energy_mwh": hours * sum(outcome.baseline_load_mw),
        "energy_mwh": hours * sum(outcome.net_demand_mw),
        "baseline_peak_mw": outcome.baseline_peak_mw,
        "peak_without_mw": outcome.peak_without_mw,
        "peak_mw": outcome.peak_mw,
        "baseline_par": outcome.baseline_par,
        "par_without": outcome.par_without,
        "par": outcome.par,
        f"mean_price_{money}_per_mwh": sum(outcome.price) / len(outcome.price),
        f"baseline_supply_cost_{money}": outcome.baseline_supply_cost,
        f"supply_cost_without_{money}": outcome.supply_cost_without,
        f"supply_cost_{money}": outcome.supply_cost,
        f"total_cost_{money}": outcome.total_cost,
        "sold_mwh": hours * sum(map(sum, outcome.sold_mw.values())),
        "charged_mwh": hours * sum(map(sum, outcome.charge_mw.values())),
        f"payoff_{money}": sum(outcome.payoff.values()),
        f"bills_{money}": sum(home.bill for home in outcome.homes.values()),
        **(
            {} if outcome.metered_supply_cost is None else {f"metered_supply_cost_{money}": outcome.metered_supply_cost}
        ),
    }


# --- the certificate ---


def _inertia(outcome: StorageMarketOutcome, certificate: Certificate) -> float:
    return max(EQUILIBRIUM_WITHIN, certificate.number("inertia") or 0.0)


def _price_scale(outcome: StorageMarketOutcome, certificate: Certificate) -> float:
    return max(1.0, *map(abs, outcome.price))


def _slope_scale(outcome: StorageMarketOutcome, certificate: Certificate) -> float:
    return max(1.0, *map(abs, outcome.slope))


def _load_scale(outcome: StorageMarketOutcome, certificate: Certificate) -> float:
    return max(1.0, *map(abs, outcome.net_demand_mw))


_RULES = (
    Rule(
        "max_regret",
        "Largest regret",
        "The most that any one player could still gain by deviating alone, relative; integrality is told apart.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "max_home_regret",
        "Largest regret of a home",
        "What the best schedules of a home's interruptible appliances would save at this price, relative to what all "
        "its appliances' energy costs.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "max_dra_regret",
        "Largest regret of a DRA",
        "What another bid would bring a DRA at the price that truly follows from it, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "integrality_regret",
        "Cost of integrality to a home",
        "What other starts of the appliances that run in a row would save a home at this price, relative. They start "
        "anew for no less than the inertia, and are judged by that.",
        1.0,
        _inertia,
    ),
    Rule(
        "integrality_gap",
        "Cost of integrality to all",
        "How far the supply cost is above the least if runs could be interrupted, too, relative.",
    ),
    Rule(
        "leader_regret",
        "Regret of the leader",
        "What another share open to sales would save the leader, the DRAs bidding anew, homes as they are, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "gap",
        "Gap to the best schedules",
        "How far the supply cost is above the least that one hand could reach with all interruptible appliances, "
        "relative.",
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
        "slope_residual",
        "Error of the slope",
        "The largest distance of the announced slope from the two that a MW more and a MW less show.",
        1e-4,
        _slope_scale,
        "{money}/MWh per MW",
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
        "The largest difference of generation and sales from demand, or of what homes do from their DRA's bid.",
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
    Rule("inertia", "Inertia", "What another start had to save, at the end, for a home to make it, relative."),
    Rule("best_other_theta", "Best other share", "Of the other shares open to sales, the one of the least cost."),
    Rule("supply_cost", "Supply cost", "Calculated again from the output of the generators.", unit="{money}"),
)

_LABELS = {
    "supply_cost": "Supply cost ({money})",
    "supply_cost_without": "Supply cost without the market ({money})",
    "total_cost": "Supply cost and net purchases ({money})",
    "purchases": "Purchases from the DRAs ({money})",
    "net_purchases": "Net purchases from the DRAs ({money})",
    "payoff": "Payoff ({money})",
    "theta": "Share open to sales",
    "peak_mw": "Peak of net demand (MW)",
    "peak_without_mw": "Peak without the market (MW)",
    "par": "Peak-to-average ratio",
    "par_without": "Peak-to-average ratio without the market",
    "cost_by_period": "Supply cost ({money})",
    "cost_by_period_without": "Supply cost without the market ({money})",
    "energy_by_period": "Energy (MWh)",
    "energy_by_period_without": "Energy without the market (MWh)",
    "leader.theta": "Share open to sales",
    "leader.peak_mw": "Peak of the load before (MW)",
    "leader.lost_load_price": "Price of lost load ({money}/MWh)",
}

REPORT = GameReport(
    story=story,
    highlights=highlights,
    overview=overview,
    opening=opening,
    key_figures=key_figures,
    key_note="Before anybody moved anything → without the market → with it; in brackets what the market alone changes.",
    sections=sections,
    tables={
        "slots": tabulate_slots,
        "generators": tabulate_generators,
        "dras": tabulate_dras,
        "schedules": tabulate_schedules,
        "appliances": tabulate_appliances,
        "homes": tabulate_homes,
    },
    totals=compute_totals,
    courses=Courses(follow_session, follow_baseline, power="MW"),
    carried_out=carry_out,
    labels=_LABELS,
    residual=Trace(
        "residual",
        "Residual",
        "the largest part of its costs that a home could still save or, if more, the largest change of a bid over the "
        "rated power",
    ),
    traces=(
        Trace("supply_cost", "Supply cost", "the supply cost", "{money}"),
        Trace("wanted_mwh", "Wanted starts", "the energy of the runs that would rather start elsewhere", "MWh"),
    ),
    rules=_RULES,
)
