"""The figures of a run's report by name, each drawn when asked: on a figure of its own, or on axes that are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from stackelgrid.report.days import Days
from stackelgrid.report.game import check
from stackelgrid.report.page import draw_plots
from stackelgrid.report.parts import Plot
from stackelgrid.report.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class DrawFigure(Protocol):
    """A figure of a run; its docstring is the caption."""

    def __call__(self, ax: Axes | None = None) -> Axes:
        """Draw it on `ax`, or on a new figure of pyplot; return the axes, of several panels the first."""
        ...


class Figures:
    """The figures of a run, each a method of its name: `run.plot.load()`, `run.plot.load(ax)`.

    Which ones there are depends on the game and on what the homes have; dir() and repr() list them.
    """

    def __init__(self, run: RunFolder, follow: Callable[[], Days | None]) -> None:
        self._run, self._follow = run, follow

    def __getattr__(self, name: str) -> DrawFigure:
        if name.startswith("_"):  # what notebooks and copy look for: nothing is drawn to find that out
            raise AttributeError(name)
        if name not in self._drawn:
            there = f"it has {', '.join(self._drawn)}" if self._drawn else "no round was finished"
            raise AttributeError(f"{name}: this run of {self._run.result.game} has no such figure; {there}")
        return self._drawn[name]

    def __dir__(self) -> Iterable[str]:
        return [*self._drawn]

    def __repr__(self) -> str:
        return f"<Figures of a run of {self._run.result.game}: {', '.join(self._drawn) or 'none'}>"

    @cached_property
    def _drawn(self) -> dict[str, DrawFigure]:
        """The figures, drawn once as for the page to know which there are."""
        from stackelgrid.report.drawing import WIDTH

        check(self._run)
        plots = draw_plots(self._run, self._follow(), WIDTH)
        return {re.sub(r"\W", "_", plot.name): _prepare(plot) for plot in plots}


def _prepare(plot: Plot) -> DrawFigure:
    """Make the function that draws a plot again."""
    from stackelgrid.report import drawing

    draw_again = drawing.recall(plot.figure)

    def draw(ax: Axes | None = None) -> Axes:
        return draw_again(ax)

    draw.__name__ = draw.__qualname__ = plot.name
    draw.__doc__ = plot.caption
    return draw
