"""The figure of a comparison: how far each algorithm is from the best price, against what it has taken so far."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from stackelgrid.study.comparison import COSTS, Comparison
from stackelgrid.study.drawing import MARKERS, STYLE, choose_color
from stackelgrid.text_file import replace_file

_PANEL = (2.1, 1.9)
"""Width and height, inches."""
_LEAST = 1e-10
"""What is closer to the best price, or to what it is worth, is drawn here: rounding is of this size."""
_LABELS = {"distance": "price, relative distance", "loss": "leader's utility, relative loss"}


def write(folder: Path, comparison: Comparison) -> None:
    """Draw figure.png and figure.svg."""
    with mpl.rc_context({**STYLE, "savefig.dpi": 140, "svg.hashsalt": "stackelgrid"}):
        figure = draw(comparison)
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            picture = io.BytesIO()
            # Without a date or a version, the same comparison gives the same bytes.
            figure.savefig(picture, format=kind, bbox_inches="tight", metadata=metadata)
            replace_file(folder / f"figure.{kind}", picture.getvalue())


def draw(comparison: Comparison) -> Figure:
    """Draw a column of panels for each cost; the last marker of a run that did not settle is hollow."""
    measures = [name for name in _LABELS if any(row[name] is not None for row in comparison.trace(comparison.best))]
    traces = {run.algorithm: comparison.trace(run) for run in comparison.runs}
    settled = {run.algorithm: run.result.settled for run in comparison.runs}
    figure = Figure((len(COSTS) * _PANEL[0], len(measures) * _PANEL[1] + 0.4), layout="constrained")
    panels = figure.subplots(len(measures), len(COSTS), squeeze=False, sharex="col", sharey="row")
    for measure, across in zip(measures, panels, strict=True):
        for cost, axes in zip(COSTS, across, strict=True):
            for number, (name, trace) in enumerate(traces.items()):
                _draw_trace(axes, trace, cost, measure, name, choose_color(number, len(traces)), settled[name])
        across[0].set_ylabel(_LABELS[measure], fontsize=7.5)
        across[0].set_yscale("log")
    for cost, axes in zip(COSTS, panels[-1], strict=True):
        axes.set_xlabel(cost, fontsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=cost != "seconds"))
        formatter = ScalarFormatter(useMathText=True)
        formatter.set_powerlimits((-3, 4))
        axes.xaxis.set_major_formatter(formatter)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    words = [name if settled[name] else f"{name} (not settled)" for name in labels]
    figure.legend(handles, words, loc="outside upper center", ncols=min(len(words), 4))
    return figure


def _draw_trace(
    axes: Axes, trace: Sequence[dict[str, Any]], cost: str, measure: str, name: str, color: Any, settled: bool
) -> None:
    x, y = [row[cost] for row in trace], [max(row[measure], _LEAST) for row in trace]
    marker = MARKERS[0]
    axes.plot(x, y, color=color, marker=marker, markersize=2.5, label=name)
    axes.plot(x[-1:], y[-1:], linestyle="", color=color, marker=marker, markerfacecolor=color if settled else "white")
