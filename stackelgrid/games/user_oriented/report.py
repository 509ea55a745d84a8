"""The report of the user-oriented pricing game."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from stackelgrid.columns import Cell, Columns, name_apart, pad, spell_unit, stack
from stackelgrid.games.user_oriented.leader import UtilitySettings
from stackelgrid.games.user_oriented.outcome import (
    HomeOutcome,
    UserOrientedOutcome,
    bill_by_slot,
    compute_utility,
    follow_flat_price,
    schedule_appliances,
)
from stackelgrid.games.user_oriented.scenario import UserOrientedScenario
from stackelgrid.report.clock import name_slot
from stackelgrid.report.days import Course, Courses, tell_bills, tell_groups
from stackelgrid.report.game import GameReport
from stackelgrid.report.parts import (
    BOOKS_WITHIN,
    EQUILIBRIUM_WITHIN,
    REGRET,
    Highlight,
    Plot,
    Row,
    Rule,
    Section,
    Table,
    Trace,
    highlight_change,
    spread,
)
from stackelgrid.report.plans import CarriedOut
from stackelgrid.report.run_folder import PlayedSession, ReportError, RunFolder
from stackelgrid.report.words import change, join_clauses, number, plural, quantity, tell_change
from stackelgrid.run_result import Certificate, RunResult

if TYPE_CHECKING:
    from stackelgrid.report.drawing import Curve


def check(run: RunFolder) -> None:
    """Raise `ReportError` when the outcome has other slots than the scenario or than the welfare price."""
    outcome: UserOrientedOutcome | None = run.result.outcome
    if outcome is None:
        return
    slots = len(outcome.price)
    if run.scenario.slots != slots:
        raise ReportError(
            f"{run.folder / 'scenario.yaml'}: slots is {run.scenario.slots}, "
            f"result.json has {slots} slots; put back the scenario that was played"
        )
    welfare = _welfare_price(run.result.certificate)
    if welfare and len(welfare) != slots:
        raise ReportError(
            f"{run.folder / 'result.json'}: certificate.welfare_price has {len(welfare)} numbers, outcome.price has "
            f"{slots}; put the file back or run again"
        )
    for place, value in enumerate(welfare or []):
        if not isinstance(value, int | float):
            raise ReportError(
                f"{run.folder / 'result.json'}: certificate.welfare_price.{place} is {value!r}, not a number; put the "
                "file back or run again"
            )


def _leader(run: RunFolder) -> UtilitySettings:
    scenario: UserOrientedScenario = run.scenario
    return scenario.leader


def _welfare_price(certificate: Certificate | None) -> list[float] | None:
    return certificate.root.get("welfare_price") if certificate else None


_OBJECTIVES = {
    "stackelberg": "its own utility, knowing how the homes answer",
    "welfare": "the utility of the system as a whole, a price at marginal cost",
}


def opening(run: RunFolder) -> str:
    """Say what the leader sought, and the price before the game."""
    leader = _leader(run)
    flat = f"{number(leader.baseline_price)} {run.result.money}/kWh"
    weight = "" if leader.revenue_weight == 1 else f" It weighed revenue by {leader.revenue_weight:g}."
    return f"The leader sought {_OBJECTIVES[leader.objective]}.{weight} Before the game its price was flat, {flat}."


def story(result: RunResult[UserOrientedOutcome], outcome: UserOrientedOutcome) -> str:
    """Say what came out in a sentence: the price, and with it peak, energy and bills."""
    homes, rate = plural(result.homes, "home"), f"{result.money}/kWh"
    low, high = number(min(outcome.price)), number(max(outcome.price))
    price = f"a price of {low} {rate}" if low == high else f"prices between {low} and {high} {rate}"
    hours = outcome.slot_hours
    energy = hours * sum(outcome.baseline_load_kw), hours * sum(outcome.load_kw)
    found = [
        tell_change("the peak load", outcome.baseline_peak_kw, outcome.peak_kw, "kW"),
        tell_change("the energy", *energy, "kWh"),
    ]
    before = _list_bills_before(outcome.homes)
    if before and len(before) == len(outcome.homes):
        bills = sum(before.values()), sum(home.bill for home in outcome.homes.values())
        found.append(tell_change("all bills together", *bills, result.money))
        if min(energy) > 0:
            per_kwh = bills[0] / energy[0], bills[1] / energy[1]
            found[-1] += f"; {tell_change('per kWh they', *per_kwh, result.money)}"
    if result.settled:
        return f"The utility and {homes} settled on {price}: {join_clauses(found)}."
    return f"No price was settled; at the last one asked of {homes}, {price}, {join_clauses(found)}."


def highlights(result: RunResult[UserOrientedOutcome], outcome: UserOrientedOutcome) -> list[Highlight]:
    """Give peak, peak-to-average ratio, bills and the leader's utility."""
    found = [highlight_change("Peak load", outcome.baseline_peak_kw, outcome.peak_kw, "kW")]
    if outcome.par is not None and outcome.baseline_par is not None:
        found.append(highlight_change("Peak-to-average ratio", outcome.baseline_par, outcome.par))
    before = _list_bills_before(outcome.homes)
    if before and len(before) == len(outcome.homes):
        bills = sum(before.values()), sum(home.bill for home in outcome.homes.values())
        found.append(highlight_change("Bills together", *bills, result.money))
    else:
        found.append(("Revenue", f"{number(outcome.revenue)} {result.money}", ""))
    if outcome.baseline_leader_utility is None:
        return [*found, ("Leader utility", quantity(outcome.leader_utility, result.money), _UTILITY)]
    utility = outcome.baseline_leader_utility, outcome.leader_utility
    label, value, note = highlight_change("Leader utility", *utility, result.money)
    return [*found, (label, value, f"{note}; {_UTILITY}")]


_UTILITY = "the utility's earnings weighed against uneven load"


def key_figures(result: RunResult[UserOrientedOutcome], outcome: UserOrientedOutcome) -> list[Row]:
    """Give energy, peak, PAR, price, utilities and revenue; before -> after where the value before is known."""
    rate = f"{result.money}/kWh"
    mean_price = sum(outcome.price) / len(outcome.price)
    before, after = (outcome.slot_hours * sum(load) for load in (outcome.baseline_load_kw, outcome.load_kw))
    return [
        ("Energy", change(before, after, "kWh")),
        ("Peak load", change(outcome.baseline_peak_kw, outcome.peak_kw, "kW")),
        ("Peak-to-average ratio", _compare_par(outcome)),
        ("Mean price", f"{number(mean_price)} {rate} over time"),
        ("Leader utility", _compare(outcome.baseline_leader_utility, outcome.leader_utility, result.money)),
        *_compare_homes_utility(outcome, result.money),
        ("System utility", _system_utility(result, outcome)),
        ("Revenue", f"{number(outcome.revenue)} {result.money}"),
        *_list_findings(outcome, rate, result.money),
    ]


def _compare(before: float | None, after: float, unit: str) -> str:
    return f"{number(after)} {unit}" if before is None else change(before, after, unit)


def _compare_homes_utility(outcome: UserOrientedOutcome, money: str) -> Iterator[Row]:
    before = [home.baseline_utility for home in outcome.homes.values() if home.baseline_utility is not None]
    if before and len(before) == len(outcome.homes):
        after = sum(home.utility for home in outcome.homes.values())
        yield ("Homes' utility", change(sum(before), after, money))


def _list_bills_before(homes: Mapping[str, HomeOutcome]) -> dict[str, float]:
    """List the bills at the flat price, money, where they are known."""
    return {name: bill for name, home in homes.items() if (bill := home.baseline_bill) is not None}


def _list_findings(outcome: UserOrientedOutcome, rate: str, money: str) -> Iterator[Row]:
    before, after = _list_bills_before(outcome.homes), {name: home.bill for name, home in outcome.homes.items()}
    if before and outcome.times is not None:
        yield ("Bills", tell_bills(before, after))
        yield ("Bills together", change(sum(before.values()), sum(after[name] for name in before), money))
    if outcome.capped_slots:
        slots = ", ".join(name_slot(outcome, slot) for slot in outcome.capped_slots)
        which = "in slots" if outcome.times is None else "in the slots from"
        yield ("Sold at price_max", f"to load that no price changes, {which} {slots}")
    if outcome.least_violation_kw is not None and outcome.unkept_capacity_kw is not None:
        yield (
            "Capacity",
            f"no price keeps {number(outcome.unkept_capacity_kw)} kW; "
            f"the least violation is {number(outcome.least_violation_kw)} kW",
        )
    if outcome.noise_kw is not None and outcome.noise_price is not None:
        yield (
            "Noise floor",
            f"answers to one price differ by {number(outcome.noise_kw)} kW, "
            f"which moves the price by {number(outcome.noise_price)} {rate}",
        )


def _compare_par(outcome: UserOrientedOutcome) -> str:
    before, after = outcome.baseline_par, outcome.par
    if before is None or after is None:
        return " → ".join("none, as nobody draws" if par is None else number(par) for par in (before, after))
    return change(before, after)


def _system_utility(result: RunResult[UserOrientedOutcome], outcome: UserOrientedOutcome) -> str:
    if len(outcome.homes) < result.homes:
        return f"not known: {len(outcome.homes)} of {plural(result.homes, 'home')} reported a schedule"
    return f"{number(outcome.system_utility)} {result.money}"


# --- figures and the table of homes ---


def sections(run: RunFolder, outcome: UserOrientedOutcome) -> Iterator[Section]:
    """Draw price, load and homes."""
    yield Section("Price and homes", [_plot_price(run, outcome), *_plot_homes(run, outcome)])
    if not outcome.homes:
        yield Section("Bills", ["No home reported a schedule: homes act on a settlement, and none reached them."])
    else:
        money = run.result.money
        yield Section("Bills", [*_tell_groups(outcome), *_plot_bills(outcome, money), _tabulate_homes(outcome, money)])


def overview(run: RunFolder, outcome: UserOrientedOutcome) -> Plot:
    """Draw the load before and after over the price."""
    from stackelgrid.report import drawing

    leader, money = _leader(run), run.result.money
    bounds = (leader.capacity.min_kw, leader.capacity.max_kw)
    limits = [bound for bound in bounds if isinstance(bound, float) and bound]
    price = "Settled price" if run.result.settled else "Price of the last round"
    loads = [
        drawing.Curve("At the flat price", outcome.baseline_load_kw, drawing.GREY, "--"),
        *(drawing.Curve("Capacity", bound, drawing.VERMILION, ":") for bound in bounds if isinstance(bound, list)),
        drawing.Curve(f"At the {price[0].lower()}{price[1:]}", outcome.load_kw, drawing.BLUE, "-"),
    ]
    limited = {"Capacity": limits} if limits else {}
    return Plot(
        "load",
        drawing.over_price(loads, "Load (kW)", _draw_prices(run, outcome), f"Price ({money}/kWh)", limits=limited),
        f"Above, the load of all homes together at the flat price before the game and at the {price[0].lower()}"
        f"{price[1:]}, each peak marked; below, these prices and the one at which the utility buys energy.",
    )


def _plot_price(run: RunFolder, outcome: UserOrientedOutcome) -> Plot:
    from stackelgrid.report import drawing

    name = "Settled price" if run.result.settled else "Price of the last round"
    curves = _draw_prices(run, outcome)
    if welfare := _welfare_price(run.result.certificate):
        curves.append(drawing.Curve("Welfare price", welfare, drawing.VERMILION, "-."))
    best = " and the welfare price, at which selfish homes maximise the utility of the whole system" if welfare else ""
    return Plot(
        "price",
        drawing.steps(curves, f"Price ({run.result.money}/kWh)"),
        f"{name} in each slot, with the flat price before the game, the price at which the leader buys energy"
        f"{',' if welfare else ''}{best}.",
    )


def _draw_prices(run: RunFolder, outcome: UserOrientedOutcome) -> list[Curve]:
    """Draw the flat price, the wholesale price and the one that came out."""
    from stackelgrid.report import drawing

    leader, slots = _leader(run), len(outcome.price)
    return [
        drawing.Curve("Flat price before", [leader.baseline_price] * slots, drawing.GREY, "--"),
        drawing.Curve("Wholesale price", leader.company(slots).wholesale_price.tolist(), drawing.GREEN, ":"),
        drawing.Curve(
            "Settled price" if run.result.settled else "Price of the last round", outcome.price, drawing.BLUE, "-"
        ),
    ]


def _plot_homes(run: RunFolder, outcome: UserOrientedOutcome) -> Iterator[Plot]:
    """Draw load, stored energy, sun and rooms of all homes."""
    from stackelgrid.report import drawing

    if not outcome.homes:
        return
    mean = sum(outcome.price) / len(outcome.price)
    cheap = [price < mean - 1e-9 * max(map(abs, outcome.price)) for price in outcome.price]
    note = " Shaded: slots with a price below its mean." if any(cheap) else ""
    loads = {name: home.load_kw for name, home in outcome.homes.items()}
    yield Plot(
        "loads",
        drawing.many(loads, "Load (kW)", who="homes", shaded=cheap),
        f"{_spell_spread(loads, 'The load of each home')}.{note}",
    )
    for place, (store, levels) in enumerate(_list_stores(run, outcome).items()):
        what = _spell_spread(levels, f"The energy in the {_STORES.get(store, store)} of each home")
        yield Plot(
            "storage" if place == 0 else f"storage_{re.sub('[^A-Za-z0-9]+', '_', store)}",
            drawing.many(levels, "Stored (kWh)", who="homes", shaded=cheap),
            f"{what}, at the end of each slot; {plural(len(levels), 'home')} of {len(outcome.homes):,} "
            f"{'has' if len(levels) == 1 else 'have'} one.{note}",
        )
    cars = _name_each("car", {name: home.ev_kwh for name, home in outcome.homes.items()})
    if cars:
        yield Plot(
            "cars",
            drawing.many(cars, "Stored (kWh)", who="cars", shaded=cheap),
            f"{_spell_spread(cars, 'The energy in each car')}, also while it is away, at the end of each slot.{note}",
        )
    yield from _plot_sun_and_rooms(outcome)


_STORES = {"ev": "electric vehicle"}
"""Names of stores, spelt out."""


def _name_each(device: str, of_homes: Mapping[str, list[list[float]] | None]) -> dict[str, list[float]]:
    """Name what the devices of a kind do, (T,) each: the first by its home, the others by their number too."""
    return {
        name if number == 0 else f"{name}, {device} {number + 1}": values
        for name, devices in of_homes.items()
        for number, values in enumerate(devices or ())
    }


def _spell_spread(curves: Mapping[str, Any], each: str) -> str:
    """Say what a figure of many curves shows: each of them, or how they spread."""
    from stackelgrid.report import drawing

    return each if drawing.shows_each_curve(curves) else f"{each}, as it spreads over all of them"


def _list_stores(run: RunFolder, outcome: UserOrientedOutcome) -> dict[str, dict[str, list[float]]]:
    """List the energy stored at the end of each slot by the name of the store, then by home."""
    found: dict[str, dict[str, list[float]]] = {}
    for home in run.sessions[0].scenario.everyone:
        after = outcome.homes.get(home.id)
        if after is None or after.storage_kwh is None:
            continue
        if len(home.storage) == 1:
            found.setdefault(home.storage[0].name, {})[home.id] = after.storage_kwh
            continue
        schedules = schedule_appliances(home, outcome.price, after.starts)
        for name, each in name_apart(each for each in schedules if each.kind == "storage"):
            found.setdefault(name, {})[home.id] = each.stored_kwh or []
    return found


def _plot_bills(outcome: UserOrientedOutcome, money: str) -> Iterator[Plot]:
    """Draw the bills at the flat price and those after, where both are known."""
    from stackelgrid.report import drawing

    if before := _list_bills_before(outcome.homes):
        after = {name: outcome.homes[name].bill for name in before}
        yield Plot(
            "bills",
            drawing.before_and_after(before, after, f"Bill ({money})", who="Home"),
            "The bill of each home before, at the flat price, and after.",
        )


def _plot_sun_and_rooms(outcome: UserOrientedOutcome) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    sun = [home for home in outcome.homes.values() if home.pv_kw is not None]
    if sun:
        curves = [
            drawing.Curve(name, list(map(sum, zip(*(getattr(home, key) for home in sun), strict=True))))
            for name, key in (("Used or fed in", "pv_kw"), ("Fed in", "feed_in_kw"), ("Curtailed", "curtailed_kw"))
        ]
        yield Plot(
            "pv",
            drawing.steps(curves, "Power (kW)"),
            f"PV of {plural(len(sun), 'home')} together: what is used or fed in, what these homes feed in, and what is "
            "curtailed.",
        )
    rooms = _name_each("room", {name: home.temperature_c for name, home in outcome.homes.items()})
    if rooms:
        yield Plot(
            "rooms",
            drawing.many(rooms, "Temperature (°C)", who="rooms", above=min(map(min, rooms.values())) - 1),
            f"Temperature at the end of each slot in {plural(len(rooms), 'room')} with a heat pump. The axis does not "
            "start at zero.",
        )


_DEVICES = {"PV": "pv_kw", "storage": "storage_kwh", "a car": "ev_kwh", "a heat pump": "heat_pump_kw"}
"""The kinds of devices that a home may have, and what it then reports."""


def _group_homes(homes: Mapping[str, HomeOutcome]) -> dict[str, dict[str, HomeOutcome]]:
    """Group homes by what they have: a home is in the group of each of its devices, or in that of those with none."""
    groups = {
        f"With {device}": {name: home for name, home in homes.items() if getattr(home, key) is not None}
        for device, key in _DEVICES.items()
    }
    groups = {name: some for name, some in groups.items() if some}
    rest = {name: home for name, home in homes.items() if not any(name in some for some in groups.values())}
    if not groups or not rest:
        return groups
    first, *others = groups
    return groups | {"With none of these" if others else first.replace("With", "Without"): rest}


def _tell_groups(outcome: UserOrientedOutcome) -> Iterator[str]:
    """Say for how many homes of each group the bill fell."""
    before, after = _list_bills_before(outcome.homes), {name: home.bill for name, home in outcome.homes.items()}
    if before:
        yield f"The bill {tell_bills(before, after)}.{tell_groups(_group_homes(outcome.homes), before, after)}"


Measure = Callable[[HomeOutcome], float | None]


def _tabulate_homes(outcome: UserOrientedOutcome, money: str) -> Table:
    """Tabulate medians by group, then a few homes from the smallest bill to the largest."""
    everyone = list(outcome.homes.values())
    hours = outcome.slot_hours
    columns: dict[str, Measure] = {"Energy (kWh)": lambda home: hours * sum(home.load_kw)}
    if any(home.baseline_bill is not None for home in everyone):
        columns[f"Bill before ({money})"] = lambda home: home.baseline_bill
        columns[f"Bill ({money})"] = lambda home: home.bill
        columns[f"Saved ({money})"] = lambda home: None if home.baseline_bill is None else _saving(home)
    else:
        columns[f"Bill ({money})"] = lambda home: home.bill
    columns[f"Paid ({money}/kWh)"] = lambda home: _price_paid(home, hours)
    columns[f"Utility ({money})"] = lambda home: home.utility
    groups = {
        "All homes": everyone,
        **{group: list(some.values()) for group, some in _group_homes(outcome.homes).items()},
    }
    few = spread({name: home.bill for name, home in outcome.homes.items()})
    shown = "every home" if len(few) == len(everyone) else "a few homes"
    fed_in = any(load < 0 for home in everyone for load in home.load_kw)
    net = " net of what is fed in, so it can be more than any price" if fed_in else ""
    return Table(
        f"Medians of each group, then {shown} from the smallest bill to the largest. Paid is the bill over the energy"
        f"{net}. Utility is satisfaction less wear less bill.",
        list(columns),
        [
            [[f"{name} ({len(some):,})", *_medians(some, columns.values())] for name, some in groups.items() if some],
            [[name, *_medians([outcome.homes[name]], columns.values())] for name in few],
        ],
    )


def _saving(home: HomeOutcome) -> float:
    return (home.baseline_bill or 0.0) - home.bill


def _price_paid(home: HomeOutcome, slot_hours: float) -> float | None:
    energy = slot_hours * sum(home.load_kw)
    return home.bill / energy if energy > 0 else None


def _medians(homes: list[HomeOutcome], measures: Iterable[Measure]) -> list[str]:
    found = [[value for home in homes if (value := measure(home)) is not None] for measure in measures]
    return [number(median(values)) if values else "–" for values in found]


# --- several days ---


def follow_session(scenario: UserOrientedScenario | None, outcome: UserOrientedOutcome, binding: int) -> Course:
    """Give load, price and bills of the first slots of a session, those that bind; no bills without the scenario."""
    if outcome.metered_kw is not None:
        metered = {name: home.metered_bill for name, home in outcome.homes.items() if home.metered_bill is not None}
        return Course(outcome.metered_kw, outcome.price[:binding], metered, outcome.load_kw[:binding])
    price = np.array(outcome.price)

    def bill(home: Any) -> float:
        return float(bill_by_slot(home, price, np.array(outcome.homes[home.id].load_kw))[:binding].sum())

    everyone = [] if scenario is None else scenario.everyone
    bills = {home.id: bill(home) for home in everyone if home.id in outcome.homes}
    return Course(outcome.load_kw[:binding], outcome.price[:binding], bills)


def follow_baseline(scenario: UserOrientedScenario, played: Sequence[PlayedSession]) -> Course:
    """Give load, price and bills of the same slots at the flat price."""
    load, bills = follow_flat_price(scenario, [each.session for each in played])
    return Course(load.tolist(), [scenario.leader.baseline_price] * len(load), bills)


def carry_out(scenario: UserOrientedScenario, outcome: UserOrientedOutcome) -> CarriedOut:
    """Give what came of a session that was planned by forecasts [UO-IMB]."""
    unserved = [home.unserved_kw for home in outcome.homes.values() if home.unserved_kw]
    return CarriedOut(
        outcome.metered_kw or (),
        outcome.imbalance_kwh or (),
        outcome.slot_hours * sum(map(sum, unserved)),
        outcome.metered_revenue or 0.0,
        outcome.metered_utility or 0.0,
        outcome.supply_cost or 0.0,
    )


# --- tables ---


def tabulate_slots(scenario: UserOrientedScenario, outcome: UserOrientedOutcome) -> Columns:
    """Tabulate prices and total loads, a row per slot."""
    slots, rate = len(outcome.price), f"{spell_unit(scenario.money)}_per_kwh"
    return {
        "slot": range(1, slots + 1),
        f"price_{rate}": outcome.price,
        f"baseline_price_{rate}": [scenario.leader.baseline_price] * slots,
        f"wholesale_price_{rate}": scenario.leader.company(slots).wholesale_price.tolist(),
        "load_kw": outcome.load_kw,
        "baseline_load_kw": outcome.baseline_load_kw,
        **_list_metered(outcome, rate),
    }


def _list_metered(outcome: UserOrientedOutcome, rate: str) -> Columns:
    """List what the meters counted, kW, the imbalance and its price, in slots that bind; empty cells in others."""
    found = {
        "metered_kw": outcome.metered_kw,
        "imbalance_kwh": outcome.imbalance_kwh,
        f"imbalance_price_{rate}": outcome.imbalance_price,
    }
    return {key: pad(values, len(outcome.price)) for key, values in found.items() if values is not None}


def tabulate_schedules(scenario: UserOrientedScenario, outcome: UserOrientedOutcome) -> Columns:
    """Tabulate what each home draws and stores, a row per home and slot."""
    slots = range(1, len(outcome.price) + 1)
    return stack(
        {"home": name, "slot": slots, "load_kw": home.load_kw, "stored_kwh": home.storage_kwh, **_list_other(home)}
        for name, home in outcome.homes.items()
    )


def _list_other(home: HomeOutcome) -> dict[str, list[Cell]]:
    """List what a home has of PV and feed-in, and what its meter counted, kW in each slot."""
    keys = ("pv_kw", "curtailed_kw", "feed_in_kw", "metered_kw", "unserved_kw")
    found = {key: getattr(home, key) for key in keys}
    return {key: pad(values, len(home.load_kw)) for key, values in found.items() if values is not None}


def tabulate_appliances(scenario: UserOrientedScenario, outcome: UserOrientedOutcome) -> Columns:
    """Tabulate what each appliance draws and stores, a row per home, appliance and slot."""
    slots = range(1, len(outcome.price) + 1)
    return stack(
        {
            "home": home.id,
            "appliance": name,
            "kind": each.kind,
            "slot": slots,
            "load_kw": each.load_kw,
            "stored_kwh": each.stored_kwh,
            **({} if each.temperature_c is None else {"temperature_c": each.temperature_c}),
        }
        for home in scenario.everyone
        if home.id in outcome.homes
        for name, each in name_apart(schedule_appliances(home, outcome.price, outcome.homes[home.id].starts))
    )


def tabulate_homes(scenario: UserOrientedScenario, outcome: UserOrientedOutcome) -> Columns:
    """Tabulate bill and utility of each home, before at the flat price and after, a row per home."""
    money, flat = spell_unit(scenario.money), scenario.leader.baseline_price
    settled = [(home, outcome.homes[home.id]) for home in scenario.everyone if home.id in outcome.homes]
    return stack(
        {
            "home": home.id,
            "segment": home.segment,
            "energy_kwh": outcome.slot_hours * sum(after.load_kw),
            f"baseline_bill_{money}": after.baseline_bill,
            f"bill_{money}": after.bill,
            f"baseline_utility_{money}": compute_utility(home, flat)
            if after.baseline_utility is None
            else after.baseline_utility,
            f"utility_{money}": after.utility,
            **({} if after.metered_bill is None else {f"metered_bill_{money}": after.metered_bill}),
            **({} if after.metered_utility is None else {f"metered_utility_{money}": after.metered_utility}),
        }
        for home, after in settled
    )


def compute_totals(scenario: UserOrientedScenario, outcome: UserOrientedOutcome) -> dict[str, Cell]:
    """Give energy, peak, mean price, revenue, bills and utilities of a session, before at the flat price and after."""
    money, homes = spell_unit(scenario.money), outcome.homes.values()
    return {
        "baseline_energy_kwh": outcome.slot_hours * sum(outcome.baseline_load_kw),
        "energy_kwh": outcome.slot_hours * sum(outcome.load_kw),
        "baseline_peak_kw": outcome.baseline_peak_kw,
        "peak_kw": outcome.peak_kw,
        "baseline_par": outcome.baseline_par,
        "par": outcome.par,
        f"mean_price_{money}_per_kwh": sum(outcome.price) / len(outcome.price),
        f"revenue_{money}": outcome.revenue,
        f"baseline_bills_{money}": sum(home.baseline_bill or 0.0 for home in homes),
        f"bills_{money}": sum(home.bill for home in homes),
        f"leader_utility_{money}": outcome.leader_utility,
        f"system_utility_{money}": outcome.system_utility,
    }


# --- the certificate ---


def _largest_price(outcome: UserOrientedOutcome, certificate: Certificate) -> float:
    return max(map(abs, outcome.price))


def _largest_load(outcome: UserOrientedOutcome, certificate: Certificate) -> float:
    return max(1.0, *map(abs, outcome.load_kw))


_DISTANCE = "The distance of the price from the welfare price, which is the best one for the system as a whole."
_RULES = (
    REGRET,
    Rule(
        "max_home_regret",
        "Largest regret of a home",
        "The gain of a home from its best schedule at this price over the schedule that it has, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "leader_regret",
        "Regret of the leader",
        "The leader's gain from the best price found over this one, with the homes' answers to it, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "gap",
        "Gap to the reference",
        "The distance of the run below the reference, relative: for a welfare leader the optimum of a planner who "
        "knows everybody's data, for a Stackelberg leader the best price found.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "integrality_gap",
        "Cost of integrality to the homes",
        "What homes could gain together by other starts of their deferrable runs at the settled price, relative to "
        "their utility. There may be no price at which it is zero, so this is not judged.",
    ),
    Rule("integrality_money", "Money that integrality costs", "", unit="{money}"),
    Rule(
        "better_utility",
        "Leader's utility at the best price found",
        "What the leader would earn at the best price found. None where no price is better.",
        unit="{money}",
    ),
    Rule(
        "sums_gap",
        "Bound of the gap from sums",
        "How far below the planner's optimum the run can be at most, by the homes' optimal utilities alone, relative.",
    ),
    Rule(
        "price_residual",
        "Price residual",
        "The largest distance of the price from the marginal cost of the load, which is a welfare leader's price.",
        10 * EQUILIBRIUM_WITHIN,  # a small change of the price is a larger one of the marginal cost, by mu
        _largest_price,
        "{money}/kWh",
    ),
    Rule(
        "violation",
        "Broken limits",
        "The worst breach of any limit of a home, a storage or the leader's capacity, kW or kWh.",
        EQUILIBRIUM_WITHIN,
        _largest_load,
        "kW",
    ),
    Rule(
        "overclaim",
        "Overclaimed utility",
        "The largest excess of a home's claimed utility over the utility of its schedule, relative.",
        BOOKS_WITHIN,
    ),
    Rule(
        "bill_residual",
        "Error of a bill",
        "The largest difference of a bill from price times load, relative.",
        BOOKS_WITHIN,
    ),
    Rule(
        "balance_residual",
        "Error of the balance",
        "The largest difference of the leader's load from the sum of the homes' loads.",
        BOOKS_WITHIN,
        _largest_load,
        "kW",
    ),
    Rule(
        "load_residual",
        "Distance from the reference's loads",
        "The largest difference of a home's load from the one the reference finds best for it. Storage schedules "
        "that differ a little are worth almost the same, so this is not judged.",
        unit="kW",
    ),
    Rule(
        "system_utility",
        "System utility",
        "The utility of leader and homes together, computed anew.",
        unit="{money}",
    ),
    Rule(
        "welfare_system_utility",
        "System utility at the welfare price",
        "The largest utility that they can have together. A Stackelberg leader's own interest costs the difference.",
        unit="{money}",
    ),
    Rule("price_distance.rms", "Distance from the welfare price, rms", _DISTANCE, unit="{money}/kWh"),
    Rule("price_distance.relative", "Distance from the welfare price, relative", ""),
)

_LABELS = {
    "peak_kw": "Peak load (kW)",
    "par": "Peak-to-average ratio",
    "deviation": "Squared deviation of the load (kW²)",
    "leader_utility": "Leader utility ({money})",
    "system_utility": "System utility ({money})",
    "revenue": "Revenue ({money})",
    "bill": "Bill ({money})",
    "utility": "Utility ({money})",
    "leader.mu": "Charge on deviation mu ({money}/kWh per mean kW)",
    "leader.baseline_price": "Flat price before ({money}/kWh)",
    "leader.wholesale_price": "Wholesale price ({money}/kWh)",
    "leader.price_min": "Lowest price allowed ({money}/kWh)",
    "leader.price_max": "Highest price allowed ({money}/kWh)",
    "leader.revenue_weight": "Weight of revenue",
    "leader.objective": "Objective of the leader",
    "population.homes": "Homes",
    "aggregators": "Aggregators",
}

REPORT = GameReport(
    check=check,
    story=story,
    highlights=highlights,
    overview=overview,
    opening=opening,
    key_figures=key_figures,
    key_note="Before → after: the first round, at the flat baseline price, and the last.",
    sections=sections,
    tables={
        "slots": tabulate_slots,
        "schedules": tabulate_schedules,
        "appliances": tabulate_appliances,
        "homes": tabulate_homes,
    },
    totals=compute_totals,
    courses=Courses(follow_session, follow_baseline, groups=lambda outcome: _group_homes(outcome.homes)),
    carried_out=carry_out,
    labels=_LABELS,
    residual=Trace("residual", "Relative price change", "the relative price change the leader still wanted"),
    traces=(
        Trace("leader_utility", "Leader utility", "its utility", "{money}"),
        Trace("peak_kw", "Peak load", "the peak load", "kW"),
    ),
    rules=_RULES,
)
