"""The report of the prosumer game: demand response, prices and profits over the event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from math import isnan, nan

from stackelgrid.columns import Cell, Columns, pad, spell_unit, stack
from stackelgrid.games.prosumer.outcome import ProsumerOutcome
from stackelgrid.games.prosumer.scenario import ProsumerScenario
from stackelgrid.report.clock import name_slot
from stackelgrid.report.days import Course, Courses, join
from stackelgrid.report.game import GameReport
from stackelgrid.report.parts import (
    EQUILIBRIUM_WITHIN,
    FEW,
    REGRET,
    Highlight,
    Plot,
    Row,
    Rule,
    Section,
    Table,
    Trace,
    drop_rounding,
    highlight_change,
    spread,
)
from stackelgrid.report.plans import CarriedOut
from stackelgrid.report.run_folder import PlayedSession, ReportError, RunFolder
from stackelgrid.report.words import change, number, plural, quantity, tell_change
from stackelgrid.run_result import Certificate, RunResult

_PRICED_EACH = 3
"""Prosumers up to which each has a figure of its own prices."""
_SHADED = "Shaded: the event."


def check(run: RunFolder) -> None:
    """Raise `ReportError` unless the scenario is in order and has as many slots as the outcome."""
    scenario: ProsumerScenario = run.scenario
    outcome: ProsumerOutcome | None = run.result.outcome
    try:
        scenario.verify()
        if outcome is not None and len(outcome.system_load_kw) != scenario.slots:
            raise ValueError(f"slots is {scenario.slots}, result.json has {len(outcome.system_load_kw)}")
    except ValueError as error:
        path = run.folder / "scenario.yaml"
        raise ReportError(f"{path}: {error}; put back the scenario that was played") from None


def opening(run: RunFolder) -> str:
    """Describe the event and the trade."""
    scenario: ProsumerScenario = run.scenario
    knowing = " Each prosumer considers that its price falls with its own demand response."
    return (
        f"In the demand response event, {_describe_event(scenario)}, the DR providers buy surplus PV output "
        "and demand response from their prosumers at the PV price, and sell it to the utility at the DR price."
        + (knowing if scenario.prosumers == "anticipating" else "")
    )


def _describe_event(scenario: ProsumerScenario) -> str:
    """Say when the event is."""
    event = scenario.leader.event
    if event is None:
        return "of which none is in these hours"
    if event.daily:
        return f"from {event.first} to {event.last}"
    return f"{'hours' if scenario.slot_hours == 1 else 'slots'} {event.first} to {event.last}"


def story(result: RunResult[ProsumerOutcome], outcome: ProsumerOutcome) -> str:
    """Say what came out in a sentence: demand response, what it saved, and the peak."""
    who, money = plural(len(outcome.dr_kw), "prosumer"), result.money
    provided = outcome.slot_hours * sum(outcome.sum_dr_kw())
    ended = "" if result.settled else "No agreement was reached; by the last round, "
    saved = f"the utility saved {quantity(sum(outcome.utility_saving), money)}"
    alone = f"{quantity(sum(outcome.utility_saving_dr_only), money)} of it by demand response alone"
    found = [
        f"{who} provided {quantity(_sum_pv(outcome), 'kWh')} of PV output and {quantity(provided, 'kWh')} of demand "
        "response",
        f"{saved}, {alone}",
        tell_change("the peak of the system", max(outcome.system_load_kw), max(outcome.net_load_kw), "kW"),
    ]
    sentence = f"{ended}{found[0]}; {found[1]}, and {found[2]}."
    return sentence[0].upper() + sentence[1:]


def _sum_pv(outcome: ProsumerOutcome) -> float:
    """Sum up the PV output in the event, kWh: what the utility supplies less, but for demand response."""
    before, after = sum(outcome.system_load_kw), sum(outcome.net_load_kw)
    return drop_rounding(outcome.slot_hours * (before - after - sum(outcome.sum_dr_kw())), outcome.slot_hours * before)


def highlights(result: RunResult[ProsumerOutcome], outcome: ProsumerOutcome) -> list[Highlight]:
    """Give demand response, the utility's saving, the providers' profit and the peak."""
    alone, pv = quantity(sum(outcome.utility_saving_dr_only), result.money), quantity(_sum_pv(outcome), "kWh")
    return [
        (
            "Demand response",
            quantity(outcome.slot_hours * sum(outcome.sum_dr_kw()), "kWh"),
            f"besides {pv} of PV output",
        ),
        ("Utility's saving", quantity(sum(outcome.utility_saving), result.money), f"{alone} by demand response alone"),
        (
            "DR providers' profit",
            quantity(sum(outcome.provider_profit), result.money),
            "paid less what they pay prosumers",
        ),
        highlight_change("Peak of the system", max(outcome.system_load_kw), max(outcome.net_load_kw), "kW"),
    ]


def overview(run: RunFolder, outcome: ProsumerOutcome) -> Plot:
    """Draw the system's load without the event and with it, over the prices of demand response."""
    from stackelgrid.report import drawing

    scenario: ProsumerScenario = run.scenario
    loads = [
        drawing.Curve("Without the event", outcome.system_load_kw, drawing.GREY, "--"),
        drawing.Curve("With the event", outcome.net_load_kw, drawing.BLUE, "-"),
    ]
    prices = [
        drawing.Curve(f"{name}, highest", _find_highest(of_all, outcome), color, "-")
        for name, of_all, color in (
            ("DR price, paid by the utility", outcome.dr_price, drawing.VERMILION),
            ("PV price, paid to prosumers", outcome.pv_price, drawing.BLUE),
        )
    ]
    traded = all(not all(map(isnan, curve.values)) for curve in prices)
    event = scenario.leader.mark_event(scenario.session).tolist()
    return Plot(
        "system",
        drawing.over_price(
            loads, "System load (kW)", prices if traded else (), f"Price ({run.result.money}/kWh)", shaded=event
        ),
        "Above, what the utility has to supply without the event, and with PV output and demand response in it, each "
        f"peak marked; below, the highest prices of demand response, while any is traded. {_SHADED}",
    )


def _find_highest(prices: Mapping[str, list[float]], outcome: ProsumerOutcome) -> list[float]:
    """Find the highest price of each slot at which somebody provides something, NaN where nobody does."""
    found = [nan] * len(outcome.system_load_kw)
    for name, by_slot in prices.items():
        for slot, price in enumerate(by_slot):
            if outcome.dr_kw[name][slot] > 0 and not found[slot] >= price:
                found[slot] = price
    return found


def key_figures(result: RunResult[ProsumerOutcome], outcome: ProsumerOutcome) -> list[Row]:
    """List the demand response and its highest prices, profits, saving and peak."""
    money, total, hours = result.money, outcome.sum_dr_kw(), outcome.slot_hours
    most = max(total, default=0.0)
    rows = [("Demand response", quantity(hours * sum(total), "kWh"))]
    if most > 0:
        which = "in hour" if outcome.times is None else "from"
        rows.append(
            (
                f"Most in {'an hour' if hours == 1 else 'a slot'}",
                f"{number(most)} kW {which} {name_slot(outcome, total.index(most) + 1)}",
            )
        )
        for label, prices in (("PV price, highest", outcome.pv_price), ("DR price, highest", outcome.dr_price)):
            if traded := _list_traded(prices, outcome.dr_kw):
                rows.append((label, quantity(max(traded), f"{money}/kWh")))
    return [
        *rows,
        ("Providers' profit", quantity(sum(outcome.provider_profit), money)),
        ("Utility's saving", quantity(sum(outcome.utility_saving), money)),
        ("of it by demand response", quantity(sum(outcome.utility_saving_dr_only), money)),
        ("Peak of the system", change(max(outcome.system_load_kw), max(outcome.net_load_kw), "kW")),
        *_list_imbalance(outcome, money),
    ]


def _list_imbalance(outcome: ProsumerOutcome, money: str) -> Iterator[Row]:
    """List the imbalance and what supply costs with it, where somebody planned by a forecast."""
    if outcome.imbalance_kwh is None or outcome.supply_cost is None:
        return
    scale = outcome.slot_hours * sum(outcome.system_load_kw)
    beyond, short = (
        drop_rounding(sum(max(sign * kwh, 0.0) for kwh in outcome.imbalance_kwh), scale) for sign in (1, -1)
    )
    yield ("Imbalance", f"{quantity(beyond, 'kWh')} supplied beyond what was settled, {quantity(short, 'kWh')} less")
    yield ("Operating cost with that", quantity(outcome.supply_cost, money))


def _list_traded(prices: Mapping[str, list[float]], dr_kw: Mapping[str, list[float]]) -> list[float]:
    """List the prices at which prosumers provide something."""
    return [price for name, by_hour in prices.items() for price, dr in zip(by_hour, dr_kw[name], strict=True) if dr > 0]


# --- figures and the table of prosumers ---


def sections(run: RunFolder, outcome: ProsumerOutcome) -> Iterator[Section]:
    """Show demand response, prices, profits, loads, the feeder and the prosumers."""
    scenario: ProsumerScenario = run.scenario
    money, event = run.result.money, scenario.leader.mark_event(scenario.session).tolist()
    if not outcome.dr_kw:
        nobody = "No prosumer reported what it provides: they act on a settlement, and none reached them."
        yield Section("Demand response", [nobody])
    else:
        yield Section("Demand response", list(_plot_quantities(outcome, event)))
        yield Section("Prices", list(_plot_prices(scenario, outcome, money, event)))
    yield Section("Profits", list(_plot_profits(outcome, money, event)))
    if plots := list(_plot_loads(scenario, event)):
        yield Section("PV and load", plots)
    if scenario.feeder is not None and {home.id for home in scenario.homes or []} == outcome.dr_kw.keys():
        yield Section("Feeder", list(_plot_feeder(scenario, outcome, event)))
    if outcome.dr_kw:
        yield Section("Prosumers", [_tabulate_prosumers(outcome, money)])


def _plot_quantities(outcome: ProsumerOutcome, event: list[bool]) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    yield Plot(
        "demand_response",
        drawing.many(outcome.dr_kw, "DR quantity (kW)", who="prosumers", shaded=event),
        f"What each of the {len(outcome.dr_kw):,} prosumers provides, hour by hour. {_SHADED}"
        if drawing.shows_each_curve(outcome.dr_kw)
        else f"How what the {len(outcome.dr_kw):,} prosumers provide spreads over them, hour by hour. {_SHADED}",
    )
    if not drawing.shows_each_curve(outcome.dr_kw):
        yield Plot(
            "demand_response_sum",
            drawing.steps([drawing.Curve("All prosumers", outcome.sum_dr_kw())], "DR quantity (kW)", shaded=event),
            f"What all prosumers provide together. {_SHADED}",
        )


def _plot_prices(scenario: ProsumerScenario, outcome: ProsumerOutcome, money: str, event: list[bool]) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    label = f"Price ({money}/kWh)"
    tariff = {home.id: home.tariff for home in scenario.homes or []}
    # A provider that was lost after the settlement has left no DR price.
    complete = tariff.keys() >= outcome.dr_kw.keys() == outcome.dr_price.keys()
    if complete and len(outcome.dr_kw) <= _PRICED_EACH:
        for name in outcome.dr_kw:
            curves = [
                drawing.Curve("Retail rate", scenario.leader.tariffs[tariff[name]], drawing.GREY, "--"),
                drawing.Curve("DR price", _hide_zeros(outcome.dr_price[name]), drawing.VERMILION, "-"),
                drawing.Curve("PV price", _hide_zeros(outcome.pv_price[name]), drawing.BLUE, "-"),
            ]
            yield Plot(
                f"prices_{name}",
                drawing.steps(curves, label, shaded=event),
                f"Prices of {name} ({tariff[name]}): what the utility pays its provider and what the provider pays it, "
                f"in the hours in which there is trade, below the retail rate. {_SHADED}",
            )
        return
    retail = [drawing.Curve(name, prices) for name, prices in scenario.leader.tariffs.items()]
    yield Plot("retail", drawing.steps(retail, label, shaded=event), f"Retail rates of the tariff classes. {_SHADED}")
    for key, of_all, whose in (
        ("pv_price", outcome.pv_price, "PV prices, which the providers pay"),
        ("dr_price", outcome.dr_price, "DR prices, which the utility pays for"),
    ):
        if not of_all:
            continue
        yield Plot(
            key,
            drawing.many(of_all, label, who="prosumers", shaded=event),
            f"{whose} the prosumers; zero where there is no trade. {_SHADED}",
        )


def _hide_zeros(price: list[float]) -> list[float]:
    """Leave open the slots with a price of zero, in which there is no trade."""
    return [each if each > 0 else nan for each in price]


def _plot_profits(outcome: ProsumerOutcome, money: str, event: list[bool]) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    saving, dr_only, profits = (
        [money / outcome.slot_hours for money in by_slot]
        for by_slot in (outcome.utility_saving, outcome.utility_saving_dr_only, outcome.provider_profit)
    )
    curves = [
        drawing.Curve("With PV output credited", saving, drawing.BLUE, "-"),
        drawing.Curve("Due to demand response alone", dr_only, drawing.VERMILION, "-"),
    ]
    yield Plot(
        "saving",
        drawing.steps(curves, f"Saving ({money} an hour)", shaded=event),
        "The utility's operating cost without the event less that with it, hour by hour. Equation (20) of the paper "
        f"credits the event with all PV output in it, demand response or not. {_SHADED}",
    )
    profit = [drawing.Curve("All DR providers", profits)]
    yield Plot(
        "profit",
        drawing.steps(profit, f"Profit ({money} an hour)", shaded=event),
        f"What the DR providers are paid by the utility less what they pay their prosumers. {_SHADED}",
    )


def _plot_loads(scenario: ProsumerScenario, event: list[bool]) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    homes = scenario.homes or []
    if 0 < len(homes) <= _PRICED_EACH:
        curves = []
        for home, color in zip(homes, (drawing.BLUE, drawing.VERMILION, drawing.GREEN), strict=False):
            curves.append(drawing.Curve(f"PV, {home.id}", home.pv_kw, color, "-"))
            curves.append(drawing.Curve(f"load, {home.id}", home.load_kw, color, "--"))
        yield Plot(
            "pv",
            drawing.steps(curves, "Power (kW)", shaded=event),
            "PV output and load without the event of each prosumer. There is trade where PV output is above load. "
            + _SHADED,
        )


def _plot_feeder(scenario: ProsumerScenario, outcome: ProsumerOutcome, event: list[bool]) -> Iterator[Plot | str]:
    """Plot voltages and losses by a power flow of the scenario's feeder; a hint when the solver is not installed."""
    if find_spec("power_grid_model") is None:
        yield "Voltages and losses take a power flow: pip install 'stackelgrid[grid]', then write this page again."
        return
    from stackelgrid.games.prosumer.feeder import solve_power_flow
    from stackelgrid.report import drawing

    flow = solve_power_flow(scenario, outcome.metered_dr_kw or outcome.dr_kw)
    states = {"Without the event": flow.before, "With PV credited": flow.pv, "With PV and demand response": flow.after}
    styles = ((drawing.GREY, "--"), (drawing.GREEN, ":"), (drawing.BLUE, "-"))
    lowest = [
        drawing.Curve(name, [min(at_bus) for at_bus in zip(*state.voltage.values(), strict=True)], *style)
        for (name, state), style in zip(states.items(), styles, strict=True)
    ]
    yield Plot(
        "voltage",
        drawing.steps(lowest, "Lowest voltage (p.u.)", shaded=event, above=min(min(c.values) for c in lowest) - 0.002),
        "The lowest voltage of any bus, hour by hour, by a power flow of the feeder with loads of constant power. The "
        f"axis does not start at zero. {_SHADED}",
    )
    losses = [
        drawing.Curve(name, state.losses_kw, *style)
        for (name, state), style in zip(states.items(), styles, strict=True)
    ]
    yield Plot(
        "losses",
        drawing.steps(losses, "Losses (kW)", shaded=event),
        f"What is lost in the feeder's lines, hour by hour. {_SHADED}",
    )


def _tabulate_prosumers(outcome: ProsumerOutcome, money: str) -> Table:
    energy = {name: outcome.slot_hours * sum(provided) for name, provided in outcome.dr_kw.items()}
    few = spread(energy)
    which = "Each prosumer" if len(few) == len(energy) else f"{FEW} prosumers of {len(energy):,}"
    columns: dict[str, Mapping[str, float]] = {
        "DR (kWh)": energy,
        "Most (kW)": {name: max(provided) for name, provided in outcome.dr_kw.items()},
        "Highest PV price": {name: max(prices) for name, prices in outcome.pv_price.items()},
        f"Paid for DR ({money})": {name: _sum_paid(outcome, name) for name in outcome.dr_kw},
        f"Net cost ({money})": {name: sum(hourly) for name, hourly in outcome.cost.items()},
    }
    return Table(
        f"{which}, from the least demand response to the most. Prices in {money}/kWh; the net cost is inconvenience "
        "less what surplus PV output and demand response are paid, below zero where that is more.",
        list(columns),
        [[[name, *(number(column[name]) for column in columns.values())] for name in few]],
    )


# --- several days ---


def follow_session(scenario: ProsumerScenario | None, outcome: ProsumerOutcome, binding: int) -> Course:
    """Give the system's load in the first slots of a session, those that bind."""
    if outcome.metered_kw is not None:
        return Course(outcome.metered_kw, settled=outcome.net_load_kw[:binding])
    return Course(outcome.net_load_kw[:binding])


def follow_baseline(scenario: ProsumerScenario, played: Sequence[PlayedSession]) -> Course:
    """Give the system's load in the same slots without an event, as it came."""
    load = scenario.leader.system_load_kw
    return join([Course(load[each.session.window][: each.session.binding]) for each in played])


def carry_out(scenario: ProsumerScenario, outcome: ProsumerOutcome) -> CarriedOut:
    """Give what came of a session that was planned by forecasts [PR-IMB]. Retail bills are not in it."""
    paid = sum(
        price * load
        for name, meter in (outcome.metered_homes_kw or {}).items()
        for price, load in zip(outcome.pv_price[name], meter, strict=False)  # prices are of all slots
    )
    return CarriedOut(
        outcome.metered_kw or (),
        outcome.imbalance_kwh or (),
        0.0,
        outcome.slot_hours * paid,
        -sum(map(sum, (outcome.metered_cost or {}).values())),
        outcome.supply_cost or 0.0,
    )


# --- tables ---


def tabulate_slots(scenario: ProsumerScenario, outcome: ProsumerOutcome) -> Columns:
    """Tabulate load, demand response and money of the system, a row per slot."""
    slots, money = len(outcome.system_load_kw), spell_unit(scenario.money)
    return {
        "slot": range(1, slots + 1),
        "event": scenario.leader.mark_event(scenario.session).tolist(),
        "baseline_load_kw": outcome.system_load_kw,
        "load_kw": outcome.net_load_kw,
        "dr_kw": outcome.sum_dr_kw() or [0.0] * slots,
        f"provider_profit_{money}": outcome.provider_profit,
        f"utility_saving_{money}": outcome.utility_saving,
        f"utility_saving_dr_only_{money}": outcome.utility_saving_dr_only,
        **_list_metered(outcome, money),
    }


def _list_metered(outcome: ProsumerOutcome, money: str) -> Columns:
    """List the load that came, kW, the imbalance and its price, in slots that bind; empty cells in others."""
    found = {
        "metered_kw": outcome.metered_kw,
        "imbalance_kwh": outcome.imbalance_kwh,
        f"imbalance_price_{money}_per_kwh": outcome.imbalance_price,
    }
    return {key: pad(values, len(outcome.system_load_kw)) for key, values in found.items() if values is not None}


def tabulate_schedules(scenario: ProsumerScenario, outcome: ProsumerOutcome) -> Columns:
    """Tabulate load, PV output, demand response, prices and net cost, a row per prosumer and slot."""
    slots, money = range(1, len(outcome.system_load_kw) + 1), spell_unit(scenario.money)
    return stack(
        {
            "home": home.id,
            "slot": slots,
            "load_kw": home.load_kw,
            "pv_kw": home.pv_kw,
            "dr_kw": outcome.dr_kw[home.id],
            f"pv_price_{money}_per_kwh": outcome.pv_price[home.id],
            f"dr_price_{money}_per_kwh": outcome.dr_price.get(home.id),
            f"net_cost_{money}": outcome.cost[home.id],
            **{
                key: pad(by_name[home.id], len(home.load_kw))
                for key, by_name in (("metered_kw", outcome.metered_homes_kw), ("metered_dr_kw", outcome.metered_dr_kw))
                if by_name is not None
            },
        }
        for home in scenario.everyone
        if home.id in outcome.dr_kw
    )


def tabulate_homes(scenario: ProsumerScenario, outcome: ProsumerOutcome) -> Columns:
    """Tabulate demand response and net cost [PR-5] less [PR-6], a row per prosumer."""
    money = spell_unit(scenario.money)
    return stack(
        {
            "home": home.id,
            "tariff": home.tariff,
            "dr_kwh": outcome.slot_hours * sum(outcome.dr_kw[home.id]),
            f"paid_for_dr_{money}": _sum_paid(outcome, home.id),
            f"net_cost_{money}": sum(outcome.cost[home.id]),
            **(
                {}
                if outcome.metered_cost is None
                else {f"metered_net_cost_{money}": sum(outcome.metered_cost[home.id])}
            ),
        }
        for home in scenario.everyone
        if home.id in outcome.dr_kw
    )


def _sum_paid(outcome: ProsumerOutcome, name: str) -> float:
    """Give what a prosumer is paid for its demand response, money."""
    return outcome.slot_hours * sum(
        price * dr for price, dr in zip(outcome.pv_price[name], outcome.dr_kw[name], strict=True)
    )


def compute_totals(scenario: ProsumerScenario, outcome: ProsumerOutcome) -> dict[str, Cell]:
    """Give the sums and peaks of a session."""
    money = spell_unit(scenario.money)
    return {
        "dr_kwh": outcome.slot_hours * sum(outcome.sum_dr_kw()),
        "baseline_peak_kw": max(outcome.system_load_kw),
        "peak_kw": max(outcome.net_load_kw),
        f"provider_profit_{money}": sum(outcome.provider_profit),
        f"utility_saving_{money}": sum(outcome.utility_saving),
        f"utility_saving_dr_only_{money}": sum(outcome.utility_saving_dr_only),
        **({} if outcome.metered_saving is None else {f"metered_saving_{money}": sum(outcome.metered_saving)}),
        **({} if outcome.supply_cost is None else {f"supply_cost_{money}": outcome.supply_cost}),
    }


# --- the certificate ---


def _largest_quantity(outcome: ProsumerOutcome, certificate: Certificate) -> float:
    return max(1.0, *(max(provided) for provided in outcome.dr_kw.values()))


_RULES = (
    REGRET,
    Rule(
        "gap",
        "Largest residual",
        "The largest of the regrets and of the errors below, relative: the game has no planner to compare with.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "pv_price_residual",
        "Error of a PV price",
        "Against the price rule, equation (13) of the paper, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "dr_price_residual",
        "Error of a DR price",
        "Against the price rule, equation (17) of the paper, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "profit_residual",
        "Error of the providers' profit",
        "Against equation (15) of the paper, relative to the largest of the event.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "saving_residual",
        "Error of the utility's saving",
        "Against equation (20) of the paper, relative to the largest of the event.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "anticipating.largest_gain",
        "Gain of who anticipates",
        "The most that a prosumer would gain that alone considered how its demand response moves its price by equation "
        "(13), relative to what it earns. In this reading of (14) the price is held, so it is not judged.",
    ),
    Rule(
        "violation",
        "Broken limits",
        "By how much a DR quantity is below zero or above its cap.",
        1e-9,
        _largest_quantity,
        "kW",
    ),
)

REPORT = GameReport(
    check=check,
    story=story,
    highlights=highlights,
    overview=overview,
    opening=opening,
    key_figures=key_figures,
    key_note="Peak before → after: without the event, and with it.",
    sections=sections,
    tables={"slots": tabulate_slots, "schedules": tabulate_schedules, "homes": tabulate_homes},
    totals=compute_totals,
    courses=Courses(follow_session, follow_baseline),
    carried_out=carry_out,
    residual=Trace("residual", "Relative disagreement", "the relative disagreement of prices and quantities"),
    traces=(
        Trace("dr_kw_change", "Change of DR", "the largest change of a prosumer's DR quantity", "kW"),
        Trace("utility_saving_change", "Change of saving", "that of the utility's saving in an hour", "{money}"),
    ),
    rules=_RULES,
)
