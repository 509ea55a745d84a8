"""The parts that a game adds to the report of its runs. All may be left out: the page then shows the outcome as it is.

`stackelgrid.registry.Game.report` names a game's report, and by default the plain one. To say more, write a module with

    from collections.abc import Iterator
    from typing import Any

    from stackelgrid.report.game import GameReport
    from stackelgrid.report.parts import Plot, Row, Section
    from stackelgrid.report.run_folder import RunFolder
    from stackelgrid.report.words import number
    from stackelgrid.run_record import Outcome
    from stackelgrid.run_result import RunResult
    from stackelgrid.wire.arrays import Vector


    class FifthOutcome(Outcome):
        price: Vector


    def key_figures(result: RunResult[Any], outcome: FifthOutcome) -> list[Row]:
        return [("Highest price", f"{number(max(outcome.price))} {result.money}/kWh")]


    def sections(run: RunFolder, outcome: FifthOutcome) -> Iterator[Section]:
        from stackelgrid.report import drawing  # slow to import, so here

        figure = drawing.steps([drawing.Curve("Price", outcome.price)], f"Price ({run.result.money}/kWh)")
        yield Section("Price", [Plot("price", figure, "The price that was settled.")])


    REPORT = GameReport(key_figures=key_figures, sections=sections)

and name its REPORT. The outcome is the one of `outcome.py`. The parts that are the same for all games are not the
game's: how the run ended, who was missing, the convergence, the verdict on the certificate, how to repeat the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stackelgrid.columns import Cell, Columns
from stackelgrid.registry import find
from stackelgrid.report import plain
from stackelgrid.report.days import Courses
from stackelgrid.report.parts import (
    PLAIN_RULES,
    RESIDUAL,
    Highlight,
    Plot,
    Row,
    Rule,
    Section,
    Trace,
)
from stackelgrid.report.plans import CarriedOut
from stackelgrid.report.run_folder import RunFolder
from stackelgrid.run_result import RunResult


def _open_with_nothing(run: RunFolder) -> str:
    return ""


def _check_nothing(run: RunFolder) -> None:
    pass


def _tell_nothing(result: RunResult[Any], outcome: Any) -> str:
    return ""


def _draw_nothing(run: RunFolder, outcome: Any) -> Plot | None:
    return None


@dataclass(frozen=True)
class GameReport:
    """The report of the runs of a game. An `outcome` below is of the game's own class.

    - `check`: raises `ReportError` where the outcome does not fit the scenario;
    - `story`: what happened, in a sentence, of a run that settled or did not; the page begins with it;
    - `highlights`: the four numbers below it; without them, the first rows of the summary;
    - `overview`: the large figure on the first screen;
    - `opening`: a sentence or two on the game that was played;
    - `key_figures`: the rows of the summary, on the page and on the command line; `key_note` explains them;
    - `sections`: the game's own part of the page;
    - `tables`: the game's tables of a run by name, each a function from scenario and outcome to columns with units in
      their names; `totals`: the numbers of a session, from scenario and outcome too;
    - `courses`: what happened in runs of several days, slot by slot, and what would have without the game;
    - `carried_out`: what came of the binding slots of a session that was planned by forecasts, from the scenario of the
      run and the outcome, by which plans are compared; None where the game does not say what homes gain;
    - `labels`: names with units of numbers of the outcome and of keys of the scenario, on the axes of a sweep's figure;
      {money} stands for the scenario's;
    - `residual`: what the residual in rounds.jsonl is in this game, `traces` what is drawn beside it, two at most;
      None for the first two numbers there are;
    - `rules`: what the certificate's numbers mean and how they are judged; those that no rule names are listed.
    """

    check: Callable[[RunFolder], None] = _check_nothing
    story: Callable[[RunResult[Any], Any], str] = _tell_nothing
    highlights: Callable[[RunResult[Any], Any], Sequence[Highlight]] | None = None
    overview: Callable[[RunFolder, Any], Plot | None] = _draw_nothing
    opening: Callable[[RunFolder], str] = _open_with_nothing
    key_figures: Callable[[RunResult[Any], Any], list[Row]] = plain.key_figures
    key_note: str = ""
    sections: Callable[[RunFolder, Any], Iterable[Section]] = plain.sections
    tables: Mapping[str, Callable[[Any, Any], Columns]] = field(default_factory=lambda: plain.TABLES)
    totals: Callable[[Any, Any], Mapping[str, Cell]] = plain.list_numbers
    courses: Courses | None = None
    carried_out: Callable[[Any, Any], CarriedOut] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    residual: Trace = RESIDUAL
    traces: Sequence[Trace] | None = None
    rules: Sequence[Rule] = PLAIN_RULES


PLAIN = GameReport()
"""The report of a game that has none of its own."""


def find_report(name: str) -> GameReport:
    """Find the report of the game of a name, `PLAIN` where it brings none."""
    game = find(name)
    report: GameReport = PLAIN if game.report is None else game.load("report")
    return report


def check(run: RunFolder) -> None:
    """Check by the rules of the run's game that what was read fits together. Raises `ReportError`."""
    find_report(run.result.game).check(run)
