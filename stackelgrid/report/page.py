"""report.html: a run on one page that opens offline, and its figures as PNG beside it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from stackelgrid.report import tables
from stackelgrid.report.finished import Finished, HomeAccount, Outcome, ReportError, Result, read

FEW = 6
"""Homes shown one by one, however many there are."""
_LINES = 20
"""Members or failures listed before the rest is left to result.json."""

_OBJECTIVES = {
    "stackelberg": "its own utility, knowing how the homes answer",
    "welfare": "the utility of the system as a whole, a price at marginal cost",
}


@dataclass(frozen=True)
class Drawn:
    """A figure on the page: `svg` is the element itself."""

    name: str
    svg: str
    caption: str


def write(folder: Path) -> Path:
    """Write report.html and figures/*.png into the folder of a run that has ended; the path of the page is returned.

    Raises `ReportError` when the folder cannot be read or written.
    """
    finished = read(folder)
    page = folder / "report.html"
    try:
        (folder / "figures").mkdir(exist_ok=True)
        page.write_text(_rendered(finished), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{error.filename}: cannot be written ({error.strerror}); make {folder} writable") from None
    return page


def _rendered(finished: Finished) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    result, leader = finished.result, finished.scenario.leader
    in_memory = ["--transport", "memory"] if result.transport == "memory" else []
    checks = tables.checks(result)
    judged = [check.passed for check in checks if check.passed is not None]
    content: dict[str, Any] = {
        "title": result.scenario or "User-oriented pricing",
        "verdict": verdict(finished),
        "fine": result.settled and result.complete and not result.failures,
        "objective": _OBJECTIVES[leader.objective],
        "headline": tables.headline(result)[2:],  # the title and the verdict say the first two
        "key_figures": tables.key_figures(result, leader.baseline_price),
        "figures": {},
        "homes": None,
        "certificate": result.certificate,
        "checks": [check for check in checks if check.value is not None],
        "left_out": [check.label for check in checks if check.value is None],
        "rounds": result.rounds,
        "missing": _missing(result),
        "failures": list(result.failures.items()),
        "lines": _LINES,
        "judged": len(judged),
        "failed": judged.count(False),
        "rejected": result.rejected,
        "run_again": _command("run", finished.folder / "scenario.yaml", *in_memory),
        "certifiable": result.outcome is not None and len(result.outcome.homes) == result.homes,
        "certify": _command("certify", finished.folder),
        "report": _command("report", finished.folder),
        "manifest": _described(finished.manifest),
    }
    if result.outcome:
        content["figures"] = {drawn.name: drawn for drawn in _figures(finished, result.outcome)}
        content["homes"] = _homes(result.outcome, result.money)
    return environment.get_template("report.html.jinja").render(content)


def verdict(finished: Finished) -> str:
    """How the run ended, in a sentence."""
    result, limit = finished.result, finished.scenario.leader.max_rounds
    rounds = tables.counted(result.rounds, "round")
    if result.settled and result.complete and result.failures:
        return f"Settled in {rounds}, though {tables.counted(len(result.failures), 'node')} failed on the way."
    if result.settled and result.complete:
        return f"Settled in {rounds}."
    if result.settled:
        return f"Settled in {rounds}, but on answers some of which were held or left out."
    if not result.rounds:
        return "Not settled: not a single round was finished."
    if result.rounds >= limit:
        return f"Not settled within the limit of {rounds}; raise leader.max_rounds in the scenario."
    return f"Not settled: the run ended after {rounds} of at most {limit}, interrupted or without a node it needed."


# --- figures ---


def _figures(finished: Finished, outcome: Outcome) -> Iterable[Drawn]:
    from stackelgrid.report import drawing

    result, leader, money = finished.result, finished.scenario.leader, finished.result.money
    name = "Settled price" if result.settled else "Price of the last round"

    def drawn(key: str, figure: drawing.Figure, caption: str) -> Drawn:
        return Drawn(key, drawing.save(figure, finished.folder / "figures" / f"{key}.png"), caption)

    yield drawn(
        "price",
        drawing.price(outcome.price, leader.baseline_price, finished.wholesale_price, money, name),
        f"{name} in each slot, with the flat price before the game and what the leader pays for its energy.",
    )
    capacity = leader.capacity
    limited = " The leader's capacity limits are drawn." if capacity.max_kw or capacity.min_kw else ""
    yield drawn(
        "load",
        drawing.load(
            outcome.load_kw,
            outcome.baseline_load_kw,
            capacity.min_kw,
            capacity.max_kw,
            "Settled" if result.settled else "Last round",
        ),
        f"Total load of the homes before and after, each peak marked.{limited}",
    )
    marked = _marked(finished)
    marks = " Marked are rounds in which members were held, excluded or asked again." if any(marked.values()) else ""
    yield drawn(
        "convergence",
        drawing.convergence(finished.rounds, leader.tolerance, money, marked),
        "Round by round: (a) the relative price change the leader still wanted, with the tolerance below which it "
        f"settles; (b) its utility; (c) the peak load.{marks}",
    )
    stores = {name: home.storage_kwh for name, home in outcome.homes.items() if home.storage_kwh}
    if stores:
        shown = {name: stores[name] for name in _spread(stores, lambda name: max(stores[name]))}
        yield drawn(
            "storage",
            drawing.storage(shown, outcome.price),
            f"Energy stored at the end of each slot, battery and electric vehicle together, in {len(shown)} of "
            f"{tables.counted(len(stores), 'home')} with storage, from the smallest to the largest. Shaded: slots with "
            "a price below its mean.",
        )
    compared = [home for home in outcome.homes.values() if home.baseline_bill is not None]
    if compared:
        with_storage = [_saved(home) for home in compared if home.storage_kwh]
        without_storage = [_saved(home) for home in compared if not home.storage_kwh]
        yield drawn(
            "savings",
            drawing.savings(with_storage, without_storage, money),
            "What each home saves on its bill against the flat baseline price; below zero it pays more, as a home may "
            "that uses more at a lower price. Box: the middle half of the homes and the median; whiskers: up to 1.5 "
            "times the box beyond it.",
        )
    if result.certificate and result.certificate.welfare_price:
        yield drawn(
            "welfare",
            drawing.welfare(outcome.price, result.certificate.welfare_price, money, name),
            f"{name} beside the welfare price, at which selfish homes maximise the utility of the whole system.",
        )


def _marked(finished: Finished) -> dict[str, list[int]]:
    """The rounds that some member did not answer at once, by what was done about it."""
    missing, rounds = finished.result.missing, finished.rounds
    held = [record.round for record in rounds if record.held]
    excluded = [record.round for record in rounds if record.excluded]
    return {
        "Held": [*held, *(entry.round for entry in missing if entry.action == "held")],
        "Excluded": [*excluded, *(entry.round for entry in missing if entry.action == "excluded")],
        "Asked again": [record.round for record in rounds if record.again],
    }


# --- homes ---


def _spread(names: Iterable[str], size: Callable[[str], float]) -> list[str]:
    """Up to `FEW` names, evenly from the smallest to the largest."""
    ranked = sorted(names, key=size)
    if len(ranked) <= FEW:
        return ranked
    return [ranked[round(step * (len(ranked) - 1) / (FEW - 1))] for step in range(FEW)]


Measure = Callable[[HomeAccount], float | None]


def _homes(outcome: Outcome, money: str) -> dict[str, Any]:
    """One table: medians by group, then a few homes from the smallest bill to the largest."""
    everyone = list(outcome.homes.values())
    columns: dict[str, Measure] = {"Energy (kWh)": lambda home: sum(home.load_kw)}
    if any(home.baseline_bill is not None for home in everyone):
        columns[f"Bill before ({money})"] = lambda home: home.baseline_bill
        columns[f"Bill ({money})"] = lambda home: home.bill
        columns[f"Saved ({money})"] = lambda home: None if home.baseline_bill is None else _saved(home)
    else:
        columns[f"Bill ({money})"] = lambda home: home.bill
    columns[f"Paid ({money}/kWh)"] = _paid_per_kwh
    columns[f"Utility ({money})"] = lambda home: home.utility
    groups = {
        "All homes": everyone,
        "With storage": [home for home in everyone if home.storage_kwh],
        "Without storage": [home for home in everyone if not home.storage_kwh],
    }
    few = _spread(outcome.homes, lambda name: outcome.homes[name].bill)
    return {
        "columns": list(columns),
        "groups": [
            [f"{name} ({len(homes):,})", *_medians(homes, columns.values())] for name, homes in groups.items() if homes
        ],
        "few": [[name, *_medians([outcome.homes[name]], columns.values())] for name in few],
        "everyone": len(few) == len(everyone),
    }


def _saved(home: HomeAccount) -> float:
    return (home.baseline_bill or 0.0) - home.bill


def _paid_per_kwh(home: HomeAccount) -> float | None:
    energy = sum(home.load_kw)
    return home.bill / energy if energy > 0 else None


def _medians(homes: list[HomeAccount], measures: Iterable[Measure]) -> list[str]:
    found = [[value for home in homes if (value := measure(home)) is not None] for measure in measures]
    return [tables.number(median(values)) if values else "–" for values in found]


# --- the rest of the page ---


def _missing(result: Result) -> list[tuple[str, str, str]]:
    """Who was held or excluded, and in which rounds."""
    rounds: dict[tuple[str, str], set[int]] = {}
    for entry in result.missing:
        rounds.setdefault((entry.node, entry.action), set()).add(entry.round)
    return [(node, action, _ranges(sorted(numbers))) for (node, action), numbers in rounds.items()]


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1–3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)


def _command(verb: str, path: Path, *options: str) -> str:
    return shlex.join(["stackelgrid", verb, str(path), *options])


def _described(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """A line per key of the manifest."""
    lines = []
    for key, value in manifest.items():
        if isinstance(value, dict):
            lines.append((key, ", ".join(f"{name} {each}" for name, each in value.items())))
        elif isinstance(value, list):
            lines.append((key, shlex.join(map(str, value))))
        else:
            lines.append((key, str(value)))
    return lines
