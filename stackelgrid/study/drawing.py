"""The figure of a sweep: a small panel per number of the outcome over the first parameter, a line per other ones."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from stackelgrid.columns import Cell
from stackelgrid.report.words import split_key
from stackelgrid.study.grid import Grid
from stackelgrid.study.table import Row, columns
from stackelgrid.text_file import replace_file

_PANELS = 9
_ACROSS = 3
_PANEL = (2.5, 1.9)
"""Width and height, inches."""
_NAMED = 8
"""Lines up to which a legend names each; of more it names some, evenly spread."""
_FEW = ("#0072b2", "#d55e00", "#009e73", "#808080")
"""Okabe and Ito's, which the colour-blind can tell apart."""
MARKERS = "os^D"
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
}


def write(path: Path, grid: Grid, rows: Sequence[Row], labels: Mapping[str, str]) -> None:
    """Draw the sweep. Points that did not settle have hollow markers; those without a number have none.

    `labels` are names with units of parameters and of numbers of the outcome.
    """
    with mpl.rc_context(STYLE):
        picture = io.BytesIO()
        # Without a date or a version, the same sweep gives the same bytes.
        draw(grid, rows, labels).savefig(picture, format="png", bbox_inches="tight", metadata={"Software": None})
    replace_file(path, picture.getvalue())


def draw(grid: Grid, rows: Sequence[Row], labels: Mapping[str, str]) -> Figure:
    """Draw the figure: a panel per number that varies, a line per combination of the parameters after the first."""
    names = choose_panels(grid, rows)
    down = math.ceil(len(names) / _ACROSS)
    across = min(len(names), _ACROSS)
    figure = Figure((across * _PANEL[0], down * _PANEL[1]), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    lines = _group_by_line(grid, rows)
    for axes, name in zip(panels, names, strict=False):
        _draw_panel(axes, grid, lines, name, labels)
    for axes in panels[len(names) :]:
        axes.remove()
    if len(lines) > 1:
        handles, texts = figure.axes[0].get_legend_handles_labels()
        named = np.linspace(0, len(handles) - 1, min(len(handles), _NAMED)).round().astype(int)
        title = ", ".join(labels.get(key, key) for key in grid.keys[1:])
        figure.legend(
            [handles[i] for i in named], [texts[i] for i in named], title=title, loc="outside upper center", ncols=4
        )
    return figure


def choose_panels(grid: Grid, rows: Sequence[Row]) -> list[str]:
    """Choose the columns that get a panel: those of the outcome that vary, totals before their parts, then rounds.

    A column that only repeats a parameter gets none.
    """
    candidates = [name for name in columns(grid, rows) if name == "rounds" or name.startswith("outcome.")]
    column = {name: [row.get(name) for row in rows] for name in (*grid.keys, *candidates)}
    parameters = [column[key] for key in grid.keys]
    varying = [name for name in candidates if len({*column[name]} - {None}) > 1 and column[name] not in parameters]
    varying.sort(key=lambda name: (max(name.count("."), 1), name == "rounds"))
    return varying[:_PANELS] or ["rounds"]


def _group_by_line(grid: Grid, rows: Sequence[Row]) -> dict[tuple[Cell, ...], list[Row]]:
    """Group the rows by the values of all parameters but the first."""
    lines: dict[tuple[Cell, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row[key] for key in grid.keys[1:]), []).append(row)
    return lines


def _draw_panel(
    axes: Axes, grid: Grid, lines: dict[tuple[Cell, ...], list[Row]], name: str, labels: Mapping[str, str]
) -> None:
    along = grid.keys[0]
    met = list(dict.fromkeys(row[along] for line in lines.values() for row in line))
    words = any(isinstance(value, bool | str) for value in met)
    for number, (others, line) in enumerate(lines.items()):
        x = np.array([met.index(row[along]) if words else row[along] for row in line], float)
        y = np.array([np.nan if row.get(name) is None else row[name] for row in line], float)
        settled = np.array([bool(row["settled"]) for row in line])
        color = choose_color(number, len(lines))
        label = ", ".join(str(value) for value in others)
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(x, y, color=color, marker=marker, label=label)
        axes.plot(x[~settled], y[~settled], linestyle="", color=color, marker=marker, markerfacecolor="white")
    axes.set_title(fill(_label(name, labels), 34), fontsize=8, loc="left")
    axes.set_xlabel(fill(labels.get(along, along), 34), fontsize=7.5)
    if words:
        axes.set_xticks(range(len(met)), [str(value) for value in met], rotation=30, ha="right")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=name == "rounds"))
    formatter = ScalarFormatter(useMathText=True)
    formatter.set_powerlimits((-3, 5))
    axes.yaxis.set_major_formatter(formatter)


def choose_color(number: int, of: int) -> Any:
    """Choose distinct colours for a few lines; colours along one scale, dark to light, for many."""
    return _FEW[number] if of <= len(_FEW) else mpl.colormaps["viridis"](0.9 * number / (of - 1))


def _label(name: str, labels: Mapping[str, str]) -> str:
    """Name a number: `outcome.baseline_peak_kw` is "Peak load before (kW)", by the label of `peak_kw`."""
    whole, _, part = name.removeprefix("outcome.").partition(".")
    owner, _, last = part.rpartition(".")
    if last in labels:  # a number of one home: homes.h1.bill
        whole, part = last, owner
    key = whole.removeprefix("baseline_")
    words, unit = split_key(key)
    found = labels.get(whole) or labels.get(key) or words[:1].upper() + words[1:] + (f" ({unit})" if unit else "")
    added = " before" if whole != key and whole not in labels else ""
    added += f", {part.replace('_', ' ').replace('.', ', ')}" if part else ""
    end = match.start() if (match := re.search(r" \([^()]*\)$", found)) else len(found)
    return found[:end] + added + found[end:]
