"""What a game brings to the report of its runs. All of it may be left out: the page then shows what it finds.

`stackelgrid.games.Game.report` names a game's report, and by default the plain one. To say more, write a module with

    from collections.abc import Iterator

    from stackelgrid.report.run_folder import Result, RunFolder
    from stackelgrid.report.game import GameReport, Part, Plot, Row, Section
    from stackelgrid.report.words import number
    from stackelgrid.wire.arrays import Vector


    class Outcome(Part):  # the keys of the game's outcome that the page needs, and nothing else
        price: Vector


    def key_figures(result: Result[Outcome], outcome: Outcome) -> list[Row]:
        return [("Highest price", f"{number(max(outcome.price))} {result.money}/kWh")]


    def sections(run: RunFolder, outcome: Outcome) -> Iterator[Section]:
        from stackelgrid.report import drawing  # slow to import, so here

        figure = drawing.steps([drawing.Curve("Price", outcome.price)], f"Price ({run.result.money}/kWh)")
        yield Section("Price", [Plot("price", figure, "The price that was settled.")])


    REPORT = GameReport(outcome=Outcome, key_figures=key_figures, sections=sections)

and name its REPORT. What is the same for all games, how the run ended, who was missing, the convergence, the verdict on
the certificate, how to repeat it, is not the game's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from stackelgrid.report import plain
from stackelgrid.report.parts import GAP, REGRET, RESIDUAL, VIOLATION, Plot, Row, Rule, Section, Table, Trace
from stackelgrid.report.run_folder import Anything, Part, PlayedScenario, Result, RunFolder

__all__ = ["PLAIN", "GameReport", "Part", "Plot", "Row", "Rule", "Section", "Table", "Trace"]


def _nothing_to_say(run: RunFolder) -> str:
    return ""


def _nothing_to_check(run: RunFolder) -> None:
    pass


@dataclass(frozen=True)
class GameReport:
    """How the runs of a game are told. An `outcome` below is one that was read by the model `outcome`.

    - `outcome`: model of `outcome` in result.json, checked before anything is drawn;
    - `scenario`: model of what the page needs of scenario.yaml;
    - `check`: raises `ReportError` where what was read does not fit together;
    - `opening`: a sentence or two below the verdict;
    - `key_figures`: the rows of the summary, on the page and on the command line; `key_note` explains them;
    - `sections`: the game's own part of the page;
    - `residual`: what the residual in rounds.jsonl is in this game, `traces` what is drawn beside it, two at most;
      None for the first two numbers there are;
    - `rules`: what the certificate's numbers mean and how they are judged; those that no rule names are listed.
    """

    outcome: type[Part] = Anything
    scenario: type[BaseModel] = PlayedScenario
    check: Callable[[RunFolder], None] = _nothing_to_check
    opening: Callable[[RunFolder], str] = _nothing_to_say
    key_figures: Callable[[Result[Any], Any], list[Row]] = plain.key_figures
    key_note: str = ""
    sections: Callable[[RunFolder, Any], Iterable[Section]] = plain.sections
    residual: Trace = RESIDUAL
    traces: Sequence[Trace] | None = None
    rules: Sequence[Rule] = (REGRET, GAP, VIOLATION)


PLAIN = GameReport()
"""The report of a game that brings nothing."""
