"""The days of a run: what it did by day and by hour, beside what would have been without the game.

Of sessions that look further than the next one begins, only the slots that bind have happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from operator import gt, lt
from statistics import median
from typing import TYPE_CHECKING, Any

from stackelgrid.columns import Cell, spell_unit
from stackelgrid.errors import SolverError
from stackelgrid.report.clock import is_one_day, name_day, read_times
from stackelgrid.report.parts import Highlight, Plot, Row, Section, Table, drop_rounding, highlight_change, spread
from stackelgrid.report.words import (
    change,
    join_clauses,
    number,
    percent,
    plural,
    quantity,
    relative,
    split_key,
    tell_change,
)

if TYPE_CHECKING:
    from stackelgrid.report.run_folder import PlayedSession, RunFolder
    from stackelgrid.run_result import RunResult


KEY_NOTE = "All sessions together, of each the slots that bind; before → after: without the game, and with it."


@dataclass(frozen=True)
class Course:
    """The course of the slots that bind, one after the other: `load` and `price`, (T,), `bills` by home, money.

    `price` is None and `bills` are empty in a game that has none. `settled` is the load that was settled where meters
    have counted another, which is then the `load`; None where nobody planned by a forecast.
    """

    load: list[float]
    price: list[float] | None = None
    bills: dict[str, float] = field(default_factory=dict)
    settled: list[float] | None = None


@dataclass(frozen=True)
class Courses:
    """The way in which a game gives the courses of a run. `power` is the unit of the loads.

    `after` is of a session, from its scenario, its outcome and how many slots bind; where the scenario is None, without
    bills. `before` is what would have been without the game, from the scenario of the run and all sessions; it raises
    `ValueError` or `SolverError` where nobody can say. `groups` are the homes of an outcome by what they have.
    """

    after: Callable[[Any, Any, int], Course]
    before: Callable[[Any, Sequence[PlayedSession]], Course]
    power: str = "kW"
    groups: Callable[[Any], Mapping[str, Iterable[str]]] = lambda outcome: {}


@dataclass(frozen=True)
class Days:
    """The course of a run, `before` without the game and `after`, over slots that begin at `times` and last Δ hours.

    `before` is None where it is not known, `unknown` says why. `power` is the unit of the loads, `rounds` are those of
    the sessions that begin in each slot, `groups` are homes by what they have.
    """

    times: list[datetime]
    slot_hours: float
    before: Course | None
    after: Course
    power: str
    money: str
    rounds: list[int]
    groups: Mapping[str, Iterable[str]]
    unknown: str = ""

    @cached_property
    def dates(self) -> dict[date, list[int]]:
        """The dates, each with its slots, counted from 0."""
        dates: dict[date, list[int]] = {}
        for slot, time in enumerate(self.times):
            dates.setdefault(time.date(), []).append(slot)
        return dates

    def of_date(self, day: date, values: Sequence[Any]) -> list[Any]:
        """Give those of the values by slot that are of a date."""
        return [values[slot] for slot in self.dates[day]]


def follow(run: RunFolder, courses: Courses | None) -> Days | None:
    """Follow a run of several dates or sessions by the courses of its game; None of another, and where it has none."""
    if courses is None or not is_followed(run, courses):
        return None
    played = _list_played(run)
    times: list[datetime] = []
    rounds: list[int] = []
    for each in played:
        starts = read_times(each.outcome) or []
        times += starts[: each.session.binding]
        rounds += [each.result.rounds, *([0] * (each.session.binding - 1))]
    before, unknown = None, ""
    try:
        before = courses.before(run.scenario, played)
    except (ValueError, SolverError) as error:
        unknown = str(error)
    after = join([courses.after(each.scenario, each.outcome, each.session.binding) for each in played])
    first, money = played[0].outcome, run.result.money
    groups = courses.groups(first)
    return Days(times, first.slot_hours, before, after, courses.power, money, rounds, groups, unknown)


def is_followed(run: RunFolder, courses: Courses | None) -> bool:
    """Tell whether a run is followed: one of several dates or sessions, whose game has courses."""
    played = _list_played(run)
    times = read_times(played[0].outcome) if played else None
    if courses is None or times is None:
        return False
    return len(run.sessions) > 1 or not is_one_day(times[: played[0].session.binding])


def _list_played(run: RunFolder) -> list[PlayedSession]:
    return [each for each in run.sessions if each.outcome is not None]


def join(courses: Sequence[Course]) -> Course:
    """Join the courses of sessions that follow one another; bills are of the homes that have one in each."""
    homes = [name for name in courses[0].bills if all(name in course.bills for course in courses)]
    return Course(
        [load for course in courses for load in course.load],
        _chain([course.price for course in courses]),
        {name: sum(course.bills[name] for course in courses) for name in homes},
        _chain([course.settled for course in courses]),
    )


def _chain(parts: Sequence[list[float] | None]) -> list[float] | None:
    """Chain lists, None where one is missing."""
    return None if any(part is None for part in parts) else [number for part in parts for number in part or ()]


# --- the numbers of the whole run ---


def list_key_figures(result: RunResult[Any], courses: Courses | None, days: Days | None = None) -> list[Row]:
    """List sessions, energy, peak, peak-to-average ratio, price, revenue and bills of a run of several sessions.

    Energy, peak and ratio are before -> after where its days tell what was before, and bills are there then.
    """
    ended = [(each.outcome, each.binding) for each in result.sessions if each.outcome is not None]
    rows = [("Sessions", f"{len(ended):,} of {len(result.sessions):,} played")]
    if courses is None or not ended:
        return rows
    course = join([courses.after(None, outcome, binding) for outcome, binding in ended])
    hours, kwh = ended[0][0].slot_hours, f"{courses.power}h"
    both = [load for load in (days and days.before and days.before.load, course.load) if load]
    rows.append(("Energy", _compare([hours * sum(load) for load in both], kwh)))
    if course.settled is not None:
        imbalance = hours * sum(abs(load - settled) for load, settled in zip(course.load, course.settled, strict=True))
        imbalance = drop_rounding(imbalance, hours * sum(map(abs, course.settled)))
        rows.append(("Imbalance", f"{quantity(imbalance, kwh)} metered beyond what was settled, or short of it"))
    rows.append(("Peak load", _compare([max(load) for load in both], courses.power)))
    if all(sum(load) > 0 for load in both):
        rows.append(("Peak-to-average ratio", _compare([max(load) * len(load) / sum(load) for load in both])))
    if course.price is not None:
        rows.append(("Mean price", f"{number(sum(course.price) / len(course.price))} {result.money}/{kwh} over time"))
        rows.append(("Revenue", quantity(_earn(course.price, course.load, hours), result.money)))
    return [*rows, *(_list_bills(days) if days is not None else ())]


def _compare(values: Sequence[float], unit: str = "") -> str:
    """Write a value, or before -> after."""
    return quantity(values[0], unit) if len(values) == 1 else change(values[0], values[1], unit)


def _list_bills(days: Days) -> Iterator[Row]:
    if before := _list_bills_before(days):
        yield ("Bills", tell_bills(before, days.after.bills))
        yield (
            "Bills together",
            change(sum(before.values()), sum(map(days.after.bills.__getitem__, before)), days.money),
        )


# --- the first screen ---


def tell_story(result: RunResult[Any], days: Days) -> str:
    """Say what came out in a sentence, over all slots that bound: peak, energy and bills."""
    course, kwh = days.after, f"{days.power}h"
    span = f"{days.times[0].day} {days.times[0]:%B %Y}"
    dates, homes = plural(len(days.dates), "day"), plural(result.homes, "home")
    planned = f", planned in {plural(len(result.sessions), 'session')}" if result.sessions else ""
    opening = f"{homes} over {dates} from {span}{planned}"
    energy = days.slot_hours * sum(course.load)
    if days.before is None:
        peak = quantity(max(course.load), days.power)
        return f"{opening}: the peak load was {peak}, the energy {quantity(energy, kwh)}."
    found = [
        tell_change("the peak load", max(days.before.load), max(course.load), days.power),
        tell_change("the energy", days.slot_hours * sum(days.before.load), energy, kwh),
    ]
    if before := _list_bills_before(days):
        bills = sum(before.values()), sum(course.bills[name] for name in before)
        found.append(tell_change("all bills together", *bills, days.money))
    return f"{opening}: {join_clauses(found)}."


def list_highlights(days: Days) -> list[Highlight]:
    """Give peak, peak-to-average ratio, energy and bills, or revenue."""
    after, before, hours, kwh = days.after, days.before, days.slot_hours, f"{days.power}h"
    if before is None:
        found = [
            ("Peak load", quantity(max(after.load), days.power), ""),
            ("Energy", quantity(hours * sum(after.load), kwh), ""),
        ]
    else:
        found = [
            highlight_change("Peak load", max(before.load), max(after.load), days.power),
            highlight_change("Energy", hours * sum(before.load), hours * sum(after.load), kwh),
        ]
        if sum(before.load) > 0 and sum(after.load) > 0:
            was, now = (max(course.load) * len(course.load) / sum(course.load) for course in (before, after))
            found.insert(1, highlight_change("Peak-to-average ratio", was, now))
    if bills := _list_bills_before(days):
        together = sum(bills.values()), sum(after.bills[name] for name in bills)
        found.append(highlight_change("Bills together", *together, days.money))
    elif after.price is not None:
        found.append(("Revenue", quantity(_earn(after.price, after.load, hours), days.money), ""))
    return found


def plot_overview(days: Days) -> Plot:
    """Draw the load without the game and with it over the price, of all slots that bound."""
    from stackelgrid.report import drawing

    after, before = days.after, days.before
    loads = [drawing.Curve("With the game", after.load, drawing.BLUE, "-")]
    prices = [] if after.price is None else [drawing.Curve("Price with the game", after.price, drawing.BLUE, "-")]
    if before is not None:
        loads.insert(0, drawing.Curve("Without the game", before.load, drawing.GREY, "--"))
        if before.price is not None:
            prices.insert(0, drawing.Curve("Price without the game", before.price, drawing.GREY, "--"))
    both = "" if before is None else ", without the game and with it"
    below = "; below, the price" if prices else ""
    return Plot(
        "load_course",
        drawing.over_price(loads, f"Load ({days.power})", prices, f"Price ({days.money}/{days.power}h)"),
        f"{'Above, the' if prices else 'The'} load in each slot that bound{both}, each peak marked{below}.",
    )


# --- tables ---


def tabulate_days(days: Days) -> dict[str, list[Cell]]:
    """Tabulate energy, peak, peak-to-average ratio, mean price, revenue and rounds, before and after, a row per day."""
    kw, money = days.power.lower(), spell_unit(days.money)
    columns: dict[str, list[Cell]] = {}
    missed = [abs(load - plan) for load, plan in zip(days.after.load, days.after.settled or (), strict=False)]
    for day in days.dates:
        row: dict[str, Cell] = {"date": day.isoformat(), "slots": len(days.of_date(day, days.times))}
        for prefix, course in _list_courses(days):
            load = days.of_date(day, course.load)
            row[f"{prefix}energy_{kw}h"] = days.slot_hours * sum(load)
            row[f"{prefix}peak_{kw}"] = max(load)
            row[f"{prefix}par"] = max(load) * len(load) / sum(load) if sum(load) > 0 else None
            if course.price is not None:
                price = days.of_date(day, course.price)
                row[f"{prefix}mean_price_{money}_per_{kw}h"] = sum(price) / len(price)
                row[f"{prefix}revenue_{money}"] = _earn(price, load, days.slot_hours)
        if missed:
            imbalance = days.slot_hours * sum(days.of_date(day, missed))
            size = days.slot_hours * sum(map(abs, days.of_date(day, days.after.load)))
            row[f"imbalance_{kw}h"] = drop_rounding(imbalance, size)
        row["rounds"] = sum(days.of_date(day, days.rounds))
        for name, cell in row.items():
            columns.setdefault(name, []).append(cell)
    return columns


def tabulate_savings(days: Days) -> dict[str, list[Cell]]:
    """Tabulate the bill of each home over the whole run, before and after, a row per home."""
    money, courses = spell_unit(days.money), list(_list_courses(days))
    homes = [name for name in days.after.bills if all(name in course.bills for _, course in courses)]
    return {
        "home": [*homes],
        **{f"{prefix}bill_{money}": [course.bills[name] for name in homes] for prefix, course in courses},
    }


def _list_courses(days: Days) -> Iterator[tuple[str, Course]]:
    """List the courses that are known, before and after, each with the prefix of its columns."""
    if days.before is not None:
        yield "baseline_", days.before
    yield "", days.after


def _earn(price: Sequence[float], load: Sequence[float], slot_hours: float) -> float:
    return slot_hours * sum(p * q for p, q in zip(price, load, strict=True))


# --- the page ---


def show_sessions(run: RunFolder, totals: Callable[[Any, Any], Mapping[str, Cell]]) -> Section:
    """Show the sessions of a run by their totals, in a game that has no course or no one price in it."""
    found = {each.session.start: totals(each.scenario, each.outcome) for each in run.sessions if each.outcome}
    keys = list(dict.fromkeys(key for row in found.values() for key in row))
    rows = [
        [f"{name_day(start)} {start:%H:%M}", *(_spell(row.get(key)) for key in keys)]
        for start, row in found.items()
        if start is not None
    ]
    names = [name_total(key, run.result.money) for key in keys]
    return Section(
        "Sessions",
        [Table("Each session by the time at which it begins, over all slots that it looks at.", names, [rows])],
    )


def name_total(key: str, money: str) -> str:
    """Name a total by its key: target_kwh is "Target (kWh)", mean_price_cents_per_kwh "Mean price (cents/kWh)"."""
    words, paid, per = key.partition(f"_{spell_unit(money)}")
    if paid and per in ("", "_per_kwh", "_per_mwh"):
        words, unit = words.replace("_", " "), money + per.replace("_per_kwh", "/kWh").replace("_per_mwh", "/MWh")
    else:
        words, unit = split_key(key)
    words = " ".join(_ABBREVIATIONS.get(word, word) for word in words.split())
    name = words[:1].upper() + words[1:]
    return f"{name} ({unit})" if unit else name


_ABBREVIATIONS = {"dr": "DR", "par": "PAR"}


def _spell(cell: Cell) -> str:
    return "–" if cell is None else number(float(cell)) if isinstance(cell, float) else f"{cell:,}"


def show_days(days: Days) -> Section:
    """Show the run by day, and by day and hour."""
    unknown = [f"What would have been without the game is not known: {days.unknown}."] if days.unknown else []
    return Section("Days", [*unknown, _tabulate(days), *_plot_heat(days)])


def show_run(days: Days) -> Iterator[Section]:
    """Show the course of the run and its bills."""
    if plots := list(_plot_course(days)):
        yield Section("Meters", plots)
    if before := _list_bills_before(days):
        yield Section("Bills", list(_compare_bills(days, before)))


def _list_bills_before(days: Days) -> dict[str, float]:
    """List the bills before of the homes that have one after."""
    bills = {} if days.before is None else days.before.bills
    return {name: bill for name, bill in bills.items() if name in days.after.bills}


def _tabulate(days: Days) -> Table:
    found = tabulate_days(days)
    kw, money = days.power.lower(), spell_unit(days.money)
    columns = {f"Energy ({days.power}h)": f"energy_{kw}h", f"Peak ({days.power})": f"peak_{kw}", "PAR": "par"}
    prefixes = [prefix for prefix, _ in _list_courses(days)]
    after_alone = {"Rounds": "rounds"}
    if days.after.settled is not None:
        after_alone = {f"Imbalance ({days.power}h)": f"imbalance_{kw}h", **after_alone}
    if days.after.price is not None:
        mean, revenue = f"mean_price_{money}_per_{kw}h", f"revenue_{money}"
        after_alone = {
            f"Mean price ({days.money}/{days.power}h)": mean,
            f"Revenue ({days.money})": revenue,
            **after_alone,
        }

    rows = [
        [
            f"{name_day(day)}{_note_length(days, day)}",
            *(" → ".join(_spell(found[prefix + key][row]) for prefix in prefixes) for key in columns.values()),
            *(_spell(found[key][row]) for key in after_alone.values()),
        ]
        for row, day in enumerate(days.dates)
    ]
    both = "" if days.before is None else ", before → after: without the game, and with it"
    return Table(
        f"Day by day{both}. PAR is the peak-to-average ratio.",
        [*columns, *after_alone],
        [rows],
    )


def _note_length(days: Days, day: date) -> str:
    """Note the length of a day in which clocks change."""
    hours = days.slot_hours * len(days.of_date(day, days.times))
    return f" ({hours:g} h)" if hours in (23, 25) else ""


def _plot_heat(days: Days) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    note = _note_changes(days)
    if days.after.price is not None:
        yield Plot(
            "price_by_day",
            drawing.heat_map(days.after.price, days.times, days.slot_hours, f"Price ({days.money}/{days.power}h)"),
            f"The price by day and time of day.{note}",
        )
    yield Plot(
        "load_by_day",
        drawing.heat_map(days.after.load, days.times, days.slot_hours, f"Load ({days.power})"),
        f"The load by day and time of day.{note}",
    )


def _note_changes(days: Days) -> str:
    """Say how hours are shown that clocks skip, or show twice."""
    offsets = [time.utcoffset() or timedelta() for time in days.times]
    skipped, repeated = (any(map(differs, offsets, offsets[1:])) for differs in (lt, gt))
    notes = [" Blank: an hour that clocks skip."] if skipped else []
    notes += [" Of an hour that a day has twice the mean is drawn."] if repeated else []
    return "".join(notes)


def _plot_course(days: Days) -> Iterator[Plot]:
    from stackelgrid.report import drawing

    if days.after.settled is not None:
        curves = [
            drawing.Curve("Settled", days.after.settled, drawing.GREY, "--"),
            drawing.Curve("Metered", days.after.load, drawing.BLUE, "-"),
        ]
        yield Plot(
            "metered_course",
            drawing.steps(curves, f"Load ({days.power})"),
            "The load that was settled by forecasts and the one that the meters counted, in each slot that bound.",
        )


def _compare_bills(days: Days, before: Mapping[str, float]) -> Iterator[str | Plot | Table]:
    from stackelgrid.report import drawing

    after = days.after.bills
    saved = {name: before[name] - after[name] for name in before}
    yield _tell_all_bills(before, days)
    yield Plot(
        "bills",
        drawing.before_and_after(before, after, f"Bill ({days.money})", who="Home"),
        "The bill of each home for the whole run before, at the flat price, and after.",
    )
    few = spread(saved)
    which = "Every home" if len(few) == len(before) else "A few homes"
    yield Table(
        f"{which}, from the one that saves least to the one that saves most.",
        [f"Bill before ({days.money})", f"Bill ({days.money})", f"Saved ({days.money})"],
        [[[name, *map(number, (before[name], after[name], saved[name]))] for name in few]],
    )


def tell_bills(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Say for how many homes the bill fell, and how it changed in the median of those that had one to pay."""
    changes = _list_changes(before, after)
    those = f" of the {len(changes):,} that paid before" if len(changes) < len(before) else ""
    middle = f", {relative(median(changes.values()))} in the median{those}" if changes else ""
    return f"fell for {count_fallen(before, after):,} of {plural(len(before), 'home')}{middle}"


def count_fallen(before: Mapping[str, float], after: Mapping[str, float]) -> int:
    """Count the bills that fell by more than rounding."""
    return sum(drop_rounding(after[name] - money, money) < 0 for name, money in before.items())


def tell_groups(groups: Mapping[str, Iterable[str]], before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Say for how many homes of each group, as "with PV", the bill fell; empty without groups."""
    compared = {group: {name: before[name] for name in names if name in before} for group, names in groups.items()}
    told = [
        f"{count_fallen(some, after):,} of {plural(len(some), 'home')} {group[:1].lower()}{group[1:]}"
        for group, some in compared.items()
        if some
    ]
    return f" It fell for {', '.join(told)}." if told else ""


def _list_changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """List the relative change of each bill that was one before."""
    return {name: after[name] / money - 1 for name, money in before.items() if money > 0}


def _tell_all_bills(before: Mapping[str, float], days: Days) -> str:
    """Say whose bill fell, whose rose most, and what all pay together."""
    after = days.after.bills
    changes = _list_changes(before, after)
    worst = max(changes, key=lambda name: changes[name], default="")
    rose = f"; it rose most for {worst}, by {percent(changes[worst])}" if worst and changes[worst] > 0 else ""
    together = change(sum(before.values()), sum(after[name] for name in before), days.money)
    groups = tell_groups(days.groups, before, after)
    return f"The bill {tell_bills(before, after)}{rose}.{groups} All bills together: {together}."
