"""report.html: a run on one page that opens offline; beside it its figures as PNG, and its tables."""

from __future__ import annotations

import gc
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackelgrid.registry import find
from stackelgrid.report import days, run_tables, tables, words
from stackelgrid.report.clock import read_times
from stackelgrid.report.game import check, find_report
from stackelgrid.report.homes import describe_homes
from stackelgrid.report.incidents import NAMED, list_incidents
from stackelgrid.report.parts import Highlight, Plot, Section, Table, Trace
from stackelgrid.report.plans import show_plans
from stackelgrid.report.run_folder import FAULTS, ReportError, RunFolder, read
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import Scenario
from stackelgrid.text_file import write_text

if TYPE_CHECKING:
    from jinja2 import Template

    from stackelgrid.report import drawing

_LINES = 20
"""Failures listed before the rest is left to result.json."""
_LANES = 12
"""Incidents that a figure has room for."""
_UNTRACED = {"residual", "round", "homes", "answered", "again", "questions", "messages", "bytes", "ms"}
"""Keys of every journal, beside the game's own."""


PAGE = 4.2
"""The width of a figure on the page, inches: as wide as it is on a telephone, and half of a wide screen."""
WHOLE = 8.4
"""The width of the large figure, inches."""


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page: `svg` is the element itself, `narrow` that of a narrow screen where there is another."""

    number: int
    name: str
    svg: str
    caption: str
    narrow: str = ""


@dataclass(frozen=True)
class PageSection:
    """A section on the page: each part with its kind, "figure", "table" or "words"; contents link to its `anchor`."""

    title: str
    parts: Sequence[tuple[str, PageFigure | Table | str]]

    @property
    def anchor(self) -> str:
        """The title, as it can be in an address."""
        return re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")


_TOLD = ("schema", "scenario", "game", "homes", "transport", "broker", "place", "state", "message")
"""Keys of the manifest that are told elsewhere."""
FORMATS = ("png", "svg", "pdf")
"""Formats of figures for print."""


def write(folder: Path, scenario: Scenario | None = None, formats: Sequence[str] = ()) -> Path:
    """Write report.html, figures/ and tables/ into the folder of a run that has ended; return the path of the page.

    A `scenario` that is given is not read again. In each of the `formats` (png, svg, pdf) the figures are drawn for
    print, too, one and two columns of a journal wide. Raises `ReportError` when the folder cannot be read or written.
    """
    page, _ = write_and_follow(folder, scenario, formats)
    return page


def write_and_follow(folder: Path, scenario: Scenario | None, formats: Sequence[str]) -> tuple[Path, days.Days | None]:
    """Do what `write` does; return the path of the page, and the days of the run, which take long to follow."""
    unknown = [kind for kind in formats if kind not in FORMATS]
    if unknown:
        raise ReportError(f"figures: {', '.join(unknown)}: no such format; choose among {', '.join(FORMATS)}")
    run = read(folder, scenario)
    check(run)
    page = folder / "report.html"
    try:
        (folder / "figures").mkdir(exist_ok=True)
        with _pause_garbage_collection():
            followed = days.follow(run, find_report(run.result.game).courses)
            built = run_tables.build(run, followed)
            write_text(page, _render(run, followed, describe_homes(built, run.result.money)))
            run_tables.write(run, built)
            if formats:
                _draw_for_print(run, followed, formats)
    except OSError as error:
        file = error.filename or folder / "figures"
        raise ReportError(f"{file}: cannot be written ({error.strerror}); make {folder} writable") from None
    return page, followed


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Switch the garbage collector off: on the many small objects of figures it takes an eighth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _render(run: RunFolder, followed: days.Days | None, homes: dict[str, Any] | None) -> str:
    result, report = run.result, find_report(run.result.game)
    title = find(result.game).title
    under_faults = [] if run.faults is None else ["--faults", str(run.folder / FAULTS)]
    in_memory = ["--transport", "memory"] if result.transport == "memory" else []
    checks = tables.checks(result)
    judged = [check.passed for check in checks if check.passed is not None]
    readings: dict[str, Any] = {}
    first = _save_overview(run, followed, readings)
    content: dict[str, Any] = {
        "title": result.scenario or title[:1].upper() + title[1:],
        "story": _tell_story(run, followed),
        "verdict": verdict(result, run.scenario.leader.max_rounds),
        "fine": result.settled and result.complete and not result.failures,
        "certified": tables.tell_certificate(result),
        "partly": tables.tell_partly_certified(result),
        "highlights": _list_highlights(run, followed),
        "overview": first,
        "opening": report.opening(run),
        "faults": run.faults,
        "headline": tables.headline(result)[2:],  # the title and the verdict say the first two
        "key_figures": tables.key_figures(result, followed),
        "key_note": days.KEY_NOTE if result.sessions else report.key_note,
        "sections": list(_save_figures(run, draw_sections(run, followed), readings, 1 if first is None else 2)),
        "readings": readings,
        "homes": homes,
        "certificate": result.certificate,
        "checks": [check for check in checks if check.value is not None],
        "left_out": [check.label for check in checks if check.value is None],
        "rounds": result.rounds,
        "incidents": list_incidents(result),
        "failures": list(result.failures.items()),
        "lines": _LINES,
        "judged": len(judged),
        "failed": judged.count(False),
        "rejected": result.rejected,
        "run_again": _command("run", run.folder / "scenario.yaml", *under_faults, *in_memory),
        "certifiable": result.certifiable,
        "certify": _command("certify", run.folder),
        "report": _command("report", run.folder),
        "manifest": describe_manifest(run.manifest),
    }
    return open_template(Path(__file__).parent / "report.html.jinja").render(content)


def open_template(path: Path) -> Template:
    """Open the template of a page, which may include the style and the script of a report."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)


def verdict(result: RunResult[Any], limit: int) -> str:
    """Say in a sentence how a run of at most `limit` rounds, or of several sessions, ended."""
    if result.sessions:
        return _judge_sessions(result)
    rounds = tables.rounds(result)
    if result.settled and result.complete:
        failed = f", though {words.plural(len(result.failures), 'node')} failed on the way" if result.failures else ""
        return f"Settled in {rounds}{failed}."
    if result.settled:
        return f"Settled in {rounds}, but on answers some of which were held or left out."
    if not result.rounds:
        return "Not settled: not a single round was finished."
    if result.stopped or result.rounds >= limit:
        within = rounds if result.stopped else f"the limit of {words.plural(limit, 'round')}"
        return f"Not settled within {within}; {result.stopped or 'raise leader.max_rounds'} in the scenario."
    played = words.plural(result.rounds, "round")
    return f"Not settled: the run ended after {played} of at most {limit}, interrupted or without a node it needed."


def _judge_sessions(result: RunResult[Any]) -> str:
    number = len(result.sessions)
    if not result.settled:
        settled = sum(each.settled for each in result.sessions)
        why = f"; {result.stopped}" if result.stopped else ""
        return f"{settled:,} of {number:,} sessions settled, in {tables.rounds(result)}{why}."
    verdict = f"{'Both' if number == 2 else f'All {number:,}'} sessions settled, in {tables.rounds(result)}"
    if not result.complete:
        held = sum(not each.complete for each in result.sessions)
        return f"{verdict}, {held:,} of them on answers some of which were held or left out."
    if result.failures:
        return f"{verdict}, though {words.plural(len(result.failures), 'node')} failed on the way."
    return f"{verdict}."


# --- the first screen ---


def _tell_story(run: RunFolder, followed: days.Days | None) -> str:
    """Say what happened in a sentence; empty where there is nothing to say beyond how it ended."""
    result = run.result
    if followed is not None:
        return days.tell_story(result, followed)
    return "" if result.outcome is None else find_report(result.game).story(result, result.outcome)


def _list_highlights(run: RunFolder, followed: days.Days | None) -> Sequence[Highlight]:
    """Give the four numbers of the first screen."""
    result, report = run.result, find_report(run.result.game)
    if followed is not None:
        return days.list_highlights(followed)
    if result.outcome is not None and report.highlights is not None:
        return report.highlights(result, result.outcome)
    return [(label, value, "") for label, value in tables.key_figures(result, followed)[:4]]


def _draw_overview(run: RunFolder, followed: days.Days | None, width: float) -> Plot | None:
    """Draw the large figure; None of a run that has none."""
    from stackelgrid.report import drawing

    if followed is not None:
        with drawing.use_paper(drawing.Paper(width, followed.times)):
            return days.plot_overview(followed)
    result = run.result
    if result.outcome is None:
        return None
    with drawing.use_paper(drawing.Paper(width, read_times(result.outcome), by_hour=True)):
        return find_report(result.game).overview(run, result.outcome)


def _save_overview(run: RunFolder, followed: days.Days | None, readings: dict[str, Any]) -> PageFigure | None:
    from stackelgrid.report import drawing

    whole, narrow = (_draw_overview(run, followed, width) for width in (WHOLE, PAGE))
    if whole is None or narrow is None:
        return None
    name = f"{whole.name}-narrow"
    readings |= {whole.name: drawing.read_values(whole.figure), name: drawing.read_values(narrow.figure)}
    svg = drawing.save(whole.figure, run.folder / "figures" / f"{whole.name}.png")
    return PageFigure(1, whole.name, svg, whole.caption, drawing.write_svg(narrow.figure, name))


# --- the game's sections, and the convergence ---


def draw_sections(run: RunFolder, followed: days.Days | None, width: float | None = None) -> list[Section]:
    """Draw the sections of the game, on paper of so many inches, and what the days were where there are several.

    Of a run of several sessions these are all: its figures are the course of the run.
    """
    from stackelgrid.report import drawing

    report, width = find_report(run.result.game), width or PAGE
    sections = []
    if followed is not None:
        with drawing.use_paper(drawing.Paper(width, followed.times)):
            sections.append(days.show_days(followed))
            sections += days.show_run(followed) if run.result.sessions else ()
    sections += show_plans(run.folder)
    if run.result.sessions and (followed is None or followed.after.price is None):
        sections.append(days.show_sessions(run, report.totals))
    if run.result.outcome is not None:
        with drawing.use_paper(drawing.Paper(width, read_times(run.result.outcome), by_hour=True)):
            sections += report.sections(run, run.result.outcome)
            sections.append(Section("Convergence", [_convergence(run) if len(run.rounds) > 1 else _one_round(run)]))
    return sections


def draw_plots(run: RunFolder, followed: days.Days | None, width: float | None = None) -> list[Plot]:
    """Draw the figures of the page, the large one first, on paper of so many inches."""
    parts = [part for section in draw_sections(run, followed, width) for part in section.parts]
    first = _draw_overview(run, followed, width or PAGE)
    return [*([] if first is None else [first]), *(part for part in parts if isinstance(part, Plot))]


def _save_figures(
    run: RunFolder, sections: Iterable[Section], readings: dict[str, Any], first: int
) -> Iterator[PageSection]:
    """Give the sections as the page takes them, their figures saved and numbered, what is read on them noted."""
    from stackelgrid.report import drawing

    numbers = count(first)

    def save(part: Plot | Table | str) -> tuple[str, PageFigure | Table | str]:
        if isinstance(part, Plot):
            readings[part.name] = drawing.read_values(part.figure)
            svg = drawing.save(part.figure, run.folder / "figures" / f"{part.name}.png")
            return "figure", PageFigure(next(numbers), part.name, svg, part.caption)
        return ("table", part) if isinstance(part, Table) else ("words", part)

    for section in sections:
        yield PageSection(section.title, [save(part) for part in section.parts])


def _draw_for_print(run: RunFolder, followed: days.Days | None, formats: Sequence[str]) -> None:
    """Draw the figures of the page one column and two columns wide, figures/one_column/NAME.pdf and so on."""
    from stackelgrid.report import drawing

    for name, width in drawing.COLUMNS.items():
        folder = run.folder / "figures" / name
        folder.mkdir(exist_ok=True)
        for plot in draw_plots(run, followed, width):
            for kind in formats:
                drawing.save_for_print(plot.figure, folder / f"{plot.name}.{kind}")


def _convergence(run: RunFolder) -> Plot:
    from stackelgrid.report import drawing

    rounds, report, money = run.rounds, find_report(run.result.game), run.result.money
    traces = _traces(run) if report.traces is None else report.traces
    below = list_lanes(run)
    meanings = [f"{report.residual.meaning}, with the tolerance below which it settles"]
    meanings += [trace.meaning for trace in traces]
    meanings += ["what went wrong and, below, what was done about it; a number says how often"] if below else []
    panels = "; ".join(f"({letter}) {meaning}" for letter, meaning in zip("abcdef", meanings, strict=False))
    marked = _list_marked_rounds(run)
    marks = " Marked are rounds in which members were held, excluded or asked again." if any(marked.values()) else ""
    return Plot(
        "convergence",
        drawing.convergence(
            [record.round for record in rounds],
            (_axis(report.residual, money), [nan if each.residual is None else each.residual for each in rounds]),
            run.scenario.leader.tolerance,
            {_axis(trace, money): [_or_nan(record.number(trace.key)) for record in rounds] for trace in traces},
            marked,
            below,
        ),
        f"Round by round: {panels}.{marks}",
    )


def _one_round(run: RunFolder) -> str:
    residual, meaning = run.rounds[0].residual, find_report(run.result.game).residual.meaning
    value = "not known" if residual is None else words.tiny(residual, "")
    tolerance = run.scenario.leader.tolerance
    return f"There was one round. Its residual, {meaning}, is {value}; the tolerance is {tolerance:g}."


def _traces(run: RunFolder) -> Sequence[Trace]:
    """Choose the first two numbers that the journal has in every round."""
    everywhere = [
        key
        for key in run.rounds[0].model_extra or {}
        if key not in _UNTRACED and all(record.number(key) is not None for record in run.rounds)
    ]
    names = [(key, *words.split_key(key)) for key in everywhere[:2]]
    return [Trace(key, label.capitalize(), key, unit) for key, label, unit in names]


def _axis(trace: Trace, money: str) -> str:
    unit = trace.unit.format(money=money)
    return f"{trace.label} ({unit})" if unit else trace.label


def _or_nan(value: float | None) -> float:
    return nan if value is None else value


def _list_marked_rounds(run: RunFolder) -> dict[str, list[int]]:
    """List the rounds that some member did not answer at once, by what was done about it."""
    missing, rounds = run.result.missing, run.rounds
    held = [record.round for record in rounds if record.held]
    excluded = [record.round for record in rounds if record.excluded]
    return {
        "Held": [*held, *(entry.round for entry in missing if entry.action == "held")],
        "Excluded": [*excluded, *(entry.round for entry in missing if entry.action == "excluded")],
        "Asked again": [record.round for record in rounds if record.again],
    }


def list_lanes(run: RunFolder) -> list[drawing.Lane]:
    """List the incidents in finished rounds; where they are too many for names of nodes, by kind alone."""
    from stackelgrid.report import drawing

    drawn = {record.round for record in run.rounds}
    for named in (NAMED, 0):
        found = [
            drawing.Lane(
                each.label,
                {number: count for number, count in each.times.items() if number in drawn},
                drawing.VERMILION if each.planned else drawing.BLUE,
            )
            for each in list_incidents(run.result, named)
            if drawn & each.times.keys()
        ]
        if len(found) <= _LANES:
            break
    return found


# --- the rest of the page ---


def _command(verb: str, path: Path, *options: str) -> str:
    return shlex.join(["stackelgrid", verb, str(path), *options])


def describe_manifest(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Give a line per key of the manifest that the summary of the run does not tell."""
    lines = []
    for key, value in manifest.items():
        if key in _TOLD:
            continue
        if isinstance(value, dict):
            lines.append((key, ", ".join(f"{name} {each}" for name, each in value.items())))
        elif isinstance(value, list):
            lines.append((key, shlex.join(map(str, value))))
        else:
            lines.append((key, str(value)))
    return lines
