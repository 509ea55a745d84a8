"""The figures of a report, as a paper would print them: one style, units on the axes, the caption left to the page.

Matplotlib is slow to import, and so is this module. Colours are Okabe and Ito's, which the
colour-blind can tell apart; line styles differ too, for print without colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import Any, ParamSpec, cast
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends import backend_agg, backend_svg  # noqa: F401  (savefig needs them: a caller imports all early)
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from stackelgrid.interrupts import defer_interrupts
from stackelgrid.report.clock import choose_ticks, describe_axis, describe_narrow_axis, is_one_day, name_day, name_time
from stackelgrid.report.words import number as spell

__all__ = [
    "COLUMNS",
    "Curve",
    "Figure",
    "Panel",
    "Paper",
    "bars",
    "before_and_after",
    "boxes",
    "convergence",
    "heat_map",
    "many",
    "members",
    "over_price",
    "read_values",
    "recall",
    "save",
    "save_for_print",
    "save_small",
    "side_by_side",
    "stack",
    "steps",
    "use_paper",
    "write_svg",
]

Array = NDArray[np.float64]

INK, GREY, BLUE, GREEN, VERMILION, ORANGE = "#1a1a1a", "#808080", "#0072b2", "#009e73", "#d55e00", "#e69f00"
SKY, PURPLE, YELLOW = "#56b4e9", "#cc79a7", "#f0e442"
_THEMED = {
    INK: "currentColor",
    GREY: "var(--grey)",
    BLUE: "var(--blue)",
    GREEN: "var(--green)",
    VERMILION: "var(--vermilion)",
    ORANGE: "var(--orange)",
    SKY: "var(--sky)",
    PURPLE: "var(--purple)",
    YELLOW: "var(--yellow)",
}
"""The variable of the page for each colour, so that a figure follows its dark or light scheme."""

WIDTH = 6.3
"""Of a figure as wide as a page's text, inches."""
COLUMNS = {"one_column": 3.5, "two_columns": 7.16}
"""Widths of figures in a journal of two columns, inches."""
_LEFT = 0.68
"""Room for the labels of a y-axis, inches."""
_HEAT_LEFT = 0.8
"""Room for the names of days, inches."""
_NARROWEST = 1.1
"""The width of a panel at least, inches."""
SLOT = "Time slot (1 h each)"
HOURS = "Hours from the beginning of the first slot"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titley": 1.0,  # where titles are in any case; to find that out takes a twentieth of the time
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "lines.linewidth": 1.4,
    "patch.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.borderaxespad": 0.0,
    "savefig.dpi": 200,
    "svg.hashsalt": "stackelgrid",
}
_LETTER = 0.065
"""The width of a letter of a label, inches."""
_HANDLE, _ROW = 0.42, 0.185
"""The width of the sample of an entry of a legend, and the height of its row, inches."""
_TICKS_EVERY = (1, 2, 3, 4, 6, 12, 24, 48, 72, 96, 168)


@dataclass(frozen=True)
class Paper:
    """The paper that figures are drawn for: as wide as its `width`, inches, over slots that may have `times`.

    These are the starts of the slots; without them slots are numbered, or told `by_hour` from where the first begins.
    `make_figure` makes a figure of a `figsize`; where there are `axes` already, what is drawn goes there.
    """

    width: float = WIDTH
    times: Sequence[datetime] | None = None
    by_hour: bool = False
    make_figure: Callable[..., Figure] = Figure
    axes: Axes | None = None

    @property
    def dated_ticks(self) -> bool:
        """True when dates stand below clock times on such an axis."""
        return self.times is not None and not is_one_day(self.times)

    def name_slot(self, number: int) -> str:
        """Name a slot, counted from 1."""
        if self.times is not None:
            return name_time(self.times, number)
        return f"{number - 1}:00–{number}:00" if self.by_hour else f"Slot {number}"


_PAGE = Paper()
_PAPER = ContextVar("paper", default=_PAGE)


@contextmanager
def use_paper(paper: Paper) -> Iterator[None]:
    """Draw the figures within for this paper."""
    before = _PAPER.set(paper)
    try:
        yield
    finally:
        _PAPER.reset(before)


Arguments = ParamSpec("Arguments")
_DRAWN: WeakKeyDictionary[Figure, Callable[[Callable[[Paper], Paper]], Figure]] = WeakKeyDictionary()


def _remember(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Let `recall` draw again what a function has drawn."""

    @wraps(draw)
    def draw_and_remember(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        paper = _PAPER.get()

        def draw_again(change: Callable[[Paper], Paper]) -> Figure:
            with use_paper(change(paper)):
                return draw(*args, **kwargs)

        figure = draw(*args, **kwargs)
        _DRAWN[figure] = draw_again
        return figure

    return draw_and_remember


def recall(figure: Figure) -> Callable[[Axes | None], Axes]:
    """Give the function that draws a figure of this module again: on some axes, or on a new figure of pyplot.

    It returns the axes, of several panels the first, and raises `ValueError` for axes that cannot hold several.
    """
    draw_again = _DRAWN[figure]

    def draw(axes: Axes | None) -> Axes:
        if axes is None:
            from matplotlib import pyplot

            figure = pyplot.figure()  # out of our style: what it sets as it starts a backend is to stay

            def resize(figsize: tuple[float, float]) -> Figure:
                figure.set_size_inches(figsize)
                return figure

            return draw_again(lambda paper: replace(paper, make_figure=resize)).axes[0]
        axes.tick_params(labelsize=_STYLE["xtick.labelsize"])
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_fontsize(_STYLE["axes.labelsize"])
        width = _LEFT + _measure_width(axes) + 0.08
        draw_again(lambda paper: replace(paper, width=width, axes=axes))
        return axes

    return draw


@dataclass(frozen=True)
class Curve:
    """A number per slot. The curve's colour and line style are its place's unless given."""

    label: str
    values: Sequence[float]
    color: str | None = None
    linestyle: str | None = None


@dataclass(frozen=True)
class Panel:
    """Curves over the numbers `x`, named `x_label`; without them over the slots, as steps."""

    title: str
    curves: Sequence[Curve]
    label: str
    x: Sequence[float] = ()
    x_label: str = ""


@dataclass(frozen=True)
class Lane:
    """A line of an incident: how often it happened, by round."""

    label: str
    times: Mapping[int, int]
    color: str


_COLORS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY)
_LINESTYLES = ("-", "--", "-.", ":")
_FLAT_WITHIN = 1e-6
"""Relative: below it a difference from the peak is the solvers' tolerance."""


@_remember
def steps(
    curves: Sequence[Curve],
    label: str,
    *,
    limits: Mapping[str, Sequence[float]] | None = None,
    peaks: bool = False,
    shaded: Sequence[bool] | None = None,
    above: float | None = None,
    height: float = 2.3,
) -> Figure:
    """Draw curves over the slots; with `peaks` each peak marked, a line for each of the `limits`, some slots shaded.

    Slots without a value (NaN) are left open. The axis starts at zero, unless only what is `above` is to be seen.
    """
    slots = len(curves[0].values)
    with mpl.rc_context(_STYLE):
        figure, axes = _slots_figure(slots, height)
        if shaded is not None:
            _shade(axes, shaded)
        highest = max(max(curve.values) for curve in curves)
        for place, curve in enumerate(curves):
            color = curve.color or _COLORS[place % len(_COLORS)]
            linestyle = curve.linestyle or _LINESTYLES[place % len(_LINESTYLES)]
            _steps(axes, curve.values, color=color, linestyle=linestyle, label=curve.label)
            if peaks:
                _mark_peak(axes, curve, highest, place)
        _draw_limits(axes, limits or {})
        _label_y(axes, label)
        lines = [value for values in (limits or {}).values() for value in values]
        shown = [*(value for curve in curves for value in curve.values), *lines]
        _from_zero(axes, shown)
        if above is not None:
            axes.set_ylim(above, above + 1.08 * (np.nanmax(shown) - above))
        _note_slots(axes, [(curve.label, curve.values) for curve in curves])
        _legend(figure)
    return figure


@_remember
def over_price(
    loads: Sequence[Curve],
    label: str,
    prices: Sequence[Curve] = (),
    price_label: str = "",
    *,
    limits: Mapping[str, Sequence[float]] | None = None,
    shaded: Sequence[bool] | None = None,
    from_zero: bool = True,
) -> Figure:
    """Draw loads, the first before and the last after, each peak marked, above prices over the same slots.

    What the load after is below the one before, or above it, is filled. Slots without a price (NaN) are left open.
    Axes that are not to start at zero start a little below the smallest value. On axes that are given loads are alone.
    """
    paper = _PAPER.get()
    width, prices = paper.width, prices if paper.axes is None else ()
    slots, drawn = len(loads[0].values), [*loads, *prices]
    across = max(1, int((width - _LEFT) / (0.5 + 0.058 * max(map(len, [_MORE, *(curve.label for curve in drawn)])))))
    heights, rows = [2.0], [-(-(len(loads) + 2 + len(limits or {})) // across)]
    if prices:
        heights, rows = [1.75, 0.9], [*rows, -(-len(prices) // across)]
    tops = [0.06 + 0.19 * count for count in rows]
    below = 0.42 + _room_for_dates()
    height = sum(heights) + sum(tops) + below + 0.1 * (len(heights) - 1)
    with mpl.rc_context(_STYLE):
        figure = paper.make_figure(figsize=(width, height)) if paper.axes is None else cast(Figure, paper.axes.figure)
        floor = height
        for place, (curves, inches, top) in enumerate(zip([loads, prices], heights, tops, strict=False)):
            floor -= top + inches + (0.1 if place else 0.0)
            box = (_LEFT / width, floor / height, 1 - (_LEFT + 0.08) / width, inches / height)
            axes = paper.axes or figure.add_axes(box)
            if shaded is not None:
                _shade(axes, shaded)
            for number, curve in enumerate(curves):
                color = curve.color or _COLORS[number % len(_COLORS)]
                linestyle = curve.linestyle or _LINESTYLES[number % len(_LINESTYLES)]
                _steps(axes, curve.values, color=color, linestyle=linestyle, label=curve.label)
            if place == 0:
                if len(loads) > 1:
                    _fill_difference(axes, loads[0].values, loads[-1].values)
                for number, curve in enumerate((loads[0], loads[-1])):
                    _mark_peak(axes, curve, max(map(max, (loads[0].values, loads[-1].values))), number)
                _draw_limits(axes, limits or {})
            _slot_ticks(axes, slots, 12 if width >= WIDTH else 6)
            axes.yaxis.set_major_locator(MaxNLocator(5 if place == 0 else 3))
            _label_y(axes, price_label if place else label)
            lines = [value for values in (limits or {}).values() for value in values] if place == 0 else []
            shown = [*(value for curve in curves for value in curve.values), *lines]
            _from_zero(axes, shown)
            if not from_zero:
                low, high = np.nanmin(shown), np.nanmax(shown)
                axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
            above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1 + 0.05 / inches), "ncols": across}
            axes.legend(**(above if paper.axes is None else {}), handlelength=1.8, columnspacing=1.4)
            if place < len(heights) - 1:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel(_label_slots())
            _note(axes, range(1, slots + 1), _PAPER.get().name_slot, [(c.label, c.values) for c in curves])
    return figure


_LESS, _MORE = "Less than before", "More than before"


def _fill_difference(axes: Axes, before: Sequence[float], after: Sequence[float]) -> None:
    """Fill what the load after is below the one before, and what it is above it."""
    was, low, high = np.array(before), np.minimum(before, after), np.maximum(before, after)
    for label, top, bottom, color, alpha in ((_LESS, was, low, BLUE, 0.15), (_MORE, high, was, ORANGE, 0.3)):
        if (top > bottom).any():
            filled: dict[str, Any] = {"fill": True, "linewidth": 0, "color": color, "alpha": alpha, "zorder": 0.9}
            axes.stairs(top, _edges(len(was)), baseline=bottom, label=label, **filled)


def _mark_peak(axes: Axes, curve: Curve, highest: float, place: int) -> None:
    """Mark where a curve is first highest; the lower peak points up, so that two in one slot keep apart."""
    peak = max(curve.values)
    slot = next(slot for slot, value in enumerate(curve.values, 1) if peak - value <= _FLAT_WITHIN * abs(peak))
    tip = CARETDOWN if peak == highest else CARETUP
    color = curve.color or _COLORS[place % len(_COLORS)]
    axes.plot(slot, peak, marker=tip, markersize=6, color=color)


def _draw_limits(axes: Axes, limits: Mapping[str, Sequence[float]]) -> None:
    for name, values in limits.items():
        for line, limit in enumerate(values):
            axes.axhline(limit, color=VERMILION, linestyle="-.", linewidth=1, label="" if line else name)


@_remember
def stack(layers: Mapping[str, Sequence[float]], lines: Sequence[Curve], label: str) -> Figure:
    """Draw layers over the slots, the first at the bottom, and curves over them."""
    slots = len(next(iter(layers.values())))
    with mpl.rc_context(_STYLE):
        figure, axes = _slots_figure(slots, 2.9, top=0.46)
        bottom = np.zeros(slots)
        for place, (name, values) in enumerate(layers.items()):
            top = bottom + np.array(values)
            color = _STACKED[place % len(_STACKED)]
            filled: dict[str, Any] = {"fill": True, "color": color, "alpha": 0.75, "linewidth": 0}
            axes.stairs(top, _edges(slots), baseline=bottom, label=name, **filled)
            bottom = top
        for place, curve in enumerate(lines):
            linestyle = curve.linestyle or _LINESTYLES[place % len(_LINESTYLES)]
            _steps(axes, curve.values, color=curve.color or INK, linestyle=linestyle, label=curve.label)
        _label_y(axes, label)
        _from_zero(axes, [*bottom, *(value for curve in lines for value in curve.values)])
        _note_slots(axes, [*layers.items(), *((curve.label, curve.values) for curve in lines)])
        _legend(figure, columns=5)
    return figure


@_remember
def side_by_side(panels: Sequence[Panel]) -> Figure:
    """Draw panels in rows of two; over slots they start at zero. The legend is the first one's."""
    with mpl.rc_context(_STYLE):
        columns = _count_columns(min(2, len(panels)), between=0.8)
        rows = -(-len(panels) // columns)
        below = 0.0 if all(panel.x for panel in panels) else _room_for_dates()
        figure, grid = _panels(0.46 + 1.9 * rows + below, rows, columns, top=0.46, between=0.8, below=below)
        for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=True)):
            for place, curve in enumerate(panel.curves):
                style: dict[str, Any] = {
                    "color": curve.color or _COLORS[place % len(_COLORS)],
                    "linestyle": curve.linestyle or _LINESTYLES[place % len(_LINESTYLES)],
                    "label": curve.label,
                }
                if panel.x:
                    axes.plot(panel.x, curve.values, marker="o" if len(panel.x) <= 20 else "", markersize=3, **style)
                else:
                    _steps(axes, curve.values, **style)
            if panel.x:
                axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
            else:
                _slot_ticks(axes, len(panel.curves[0].values), 6)
                _from_zero(axes, [value for curve in panel.curves for value in curve.values])
            axes.yaxis.set_major_locator(MaxNLocator(5))
            if number + columns >= len(panels) or panels[number + columns].x_label != panel.x_label:
                axes.set_xlabel(panel.x_label if panel.x else _label_panel_of_slots())
            _label_y(axes, panel.label)
            axes.set_title(panel.title, loc="left", fontsize=8)
        _legend(figure, grid.flat[0])
    return figure


_STACKED = (BLUE, SKY, GREEN, YELLOW, ORANGE, PURPLE, GREY, VERMILION)


def shows_each_curve(curves: Mapping[str, Sequence[float]]) -> bool:
    """Tell whether `many` draws each curve."""
    return len(curves) <= len(_COLORS)


@_remember
def many(
    curves: Mapping[str, Sequence[float]],
    label: str,
    *,
    who: str = "",
    shaded: Sequence[bool] | None = None,
    above: float | None = None,
) -> Figure:
    """Draw curves by name: each in its own colour where they are few, else their quantiles, slot by slot.

    The axis starts at zero, unless only what is `above` is to be seen.
    """
    if shows_each_curve(curves):
        each = [Curve(name, values, linestyle="-" if len(curves) > 4 else None) for name, values in curves.items()]
        return steps(each, label, shaded=shaded, above=above)
    values = np.array(list(curves.values()), float)
    slots = values.shape[1]
    low, first, middle, third, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1], axis=0)
    with mpl.rc_context(_STYLE):
        figure, axes = _slots_figure(slots, 2.3)
        if shaded is not None:
            _shade(axes, shaded)
        band: dict[str, Any] = {"fill": True, "color": BLUE, "linewidth": 0}
        axes.stairs(high, _edges(slots), baseline=low, alpha=0.15, label=f"All {len(values):,} {who}".strip(), **band)
        axes.stairs(third, _edges(slots), baseline=first, alpha=0.3, label="Middle half of them", **band)
        _steps(axes, middle, color=BLUE, label="Median")
        _label_y(axes, label)
        _from_zero(axes, [*low, *high])
        if above is not None:
            axes.set_ylim(above, above + 1.08 * (high.max() - above))
        quantiles = {"Highest": high, "Upper quarter": third, "Median": middle, "Lower quarter": first, "Lowest": low}
        _note_slots(axes, [(name, found.tolist()) for name, found in quantiles.items()])
        _legend(figure)
    return figure


_BARS_AT_MOST = 24


def shows_each_bar(values: Mapping[str, float]) -> bool:
    """Tell whether `members` draws a bar for each name."""
    return len(values) <= _BARS_AT_MOST


@_remember
def members(
    series: Mapping[str, Mapping[str, float]], label: str, *, who: str = "Member", colors: Sequence[str] = _COLORS
) -> Figure:
    """Draw a number by name, one or more series of it: bars where names are few, else ranked by the first series."""
    first = next(iter(series.values()))
    if shows_each_bar(first):
        return bars(series, label, colors)
    # Where the first series has ties, the others rise among them.
    ranked = sorted(first, key=lambda name: [values[name] for values in series.values()])
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _panels(2.3, 1, 1, top=0.3)
        places = np.arange(1, len(ranked) + 1)
        for color, (name, values) in zip(colors, series.items(), strict=False):
            axes.plot(places, [values[each] for each in ranked], color=color, linewidth=1, label=name)
        axes.set_xlabel(f"{who}, ranked by {next(iter(series)).lower()}")
        axes.set_xlim(0, 1.02 * len(ranked))
        _label_y(axes, label)
        _from_zero(axes, [value for values in series.values() for value in values.values()])
        ranks = [(name, [values[each] for each in ranked]) for name, values in series.items()]
        _note(axes, range(1, len(ranked) + 1), lambda place: ranked[place - 1], ranks)
        _legend(figure)
    return figure


@_remember
def before_and_after(
    before: Mapping[str, float], after: Mapping[str, float], label: str, *, who: str = "Member"
) -> Figure:
    """Draw two numbers by name, ranked by the one before: joined where there is room, else as two lines."""
    if len(before) > _JOINED_AT_MOST:
        return members({"Before": before, "After": after}, label, who=who, colors=(GREY, BLUE))
    ranked = sorted(before, key=lambda name: (before[name], after[name]))
    was, now = np.array([before[name] for name in ranked]), np.array([after[name] for name in ranked])
    places, size = np.arange(1, len(ranked) + 1), 5.0 if len(ranked) <= 30 else 3.0
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _panels(2.6, 1, 1, top=0.46)
        for name, chosen, color in (("Fell", now < was, GREEN), ("Rose", now > was, VERMILION)):
            if chosen.any():
                style: dict[str, Any] = {"color": color, "linewidth": 1.6, "alpha": 0.75, "label": name}
                axes.vlines(places[chosen], was[chosen], now[chosen], **style)
        dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": size}
        axes.plot(places, was, color=GREY, label="Before", **dot)
        axes.plot(places, now, color=BLUE, label="After", **dot)
        axes.set_xlabel(f"{who}, ranked by the value before")
        axes.set_xlim(0.3, len(ranked) + 0.7)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        _label_y(axes, label)
        _from_zero(axes, [*was, *now])
        both = [("Before", was.tolist()), ("After", now.tolist())]
        _note(axes, range(1, len(ranked) + 1), lambda place: ranked[place - 1], both)
        _legend(figure, columns=4)
    return figure


_JOINED_AT_MOST = 240


@_remember
def bars(series: Mapping[str, Mapping[str, float]], label: str, colors: Sequence[str] = _COLORS) -> Figure:
    """Draw bars by category, one of each series side by side; the categories are the first series'."""
    categories = list(next(iter(series.values())))
    thickness = 0.8 / len(series)
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _panels(2.3, 1, 1, top=0.3)
        for place, (color, (name, values)) in enumerate(zip(colors, series.items(), strict=False)):
            middle = np.arange(len(categories)) + (place - (len(series) - 1) / 2) * thickness
            heights = [values.get(category, np.nan) for category in categories]
            axes.bar(middle, heights, 0.92 * thickness, color=color, linewidth=0, label=name)
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_xticks(range(len(categories)), categories)
        axes.set_xlim(-0.6, len(categories) - 0.4)
        axes.tick_params(axis="x", length=0)
        if _PAPER.get().width < WIDTH and _LETTER * sum(len(name) + 1 for name in categories) > _PAPER.get().width - 1:
            axes.tick_params(axis="x", labelrotation=90)
        _label_y(axes, label)
        _from_zero(axes, [value for values in series.values() for value in values.values()])
        found = [(name, [values.get(each, np.nan) for each in categories]) for name, values in series.items()]
        _note(axes, range(len(categories)), lambda place: categories[place], found)
        _legend(figure)
    return figure


@_remember
def convergence(
    numbers: Sequence[int],
    residual: tuple[str, Sequence[float]],
    tolerance: float,
    traces: Mapping[str, Sequence[float]],
    marked: Mapping[str, Sequence[int]],
    lanes: Sequence[Lane] = (),
) -> Figure:
    """Draw the residual, and `traces` beside it, over the rounds `numbers`; `marked` are those to mark, by the reason.

    NaN stands for a number that is not known. `residual` is the axis's label and the values. Below them are `lanes`. On
    axes that are given the residual is alone.
    """
    if _PAPER.get().axes is not None:
        traces, lanes = {}, ()
    with mpl.rc_context(_STYLE):
        room = _LANE_HEAD + _LANE * len(lanes) if lanes else 0.0
        columns = _count_columns(1 + len(traces), between=0.8)
        rows = -(-(1 + len(traces)) // columns)
        figure, grid = _panels(0.42 + 1.68 * rows + room, rows, columns, top=0.42, between=0.8, below=room)
        panels = grid.flat[: 1 + len(traces)]
        for empty in grid.flat[1 + len(traces) :]:
            empty.remove()
        # A residual of zero has no place on a log scale, one of rounding size would flatten all others.
        floor = tolerance / 100
        wanted = np.array(residual[1], float)
        shown = np.maximum(wanted, floor)
        curves = [(residual[0], shown), *(_in_thousands(*trace) for trace in traces.items())]
        rounds = np.array(numbers)
        for letter, panel, (label, values) in zip("abcdef", panels, curves, strict=False):
            panel.plot(rounds, values, color=BLUE, marker="o" if len(rounds) <= 60 else "", markersize=3)
            _mark_rounds(panel, rounds, values, marked)
            if panel in panels[-columns:]:
                panel.set_xlabel("Round")
            _label_y(panel, label)
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            panel.set_xlim(min(rounds) - 0.5, max(rounds) + 0.5)
            if _PAPER.get().axes is None:
                panel.set_title(f"({letter})", loc="left", fontsize=8)
            exact = wanted.tolist() if panel is panels[0] else values.tolist()
            _note(panel, numbers, "Round {}".format, [(re.sub(r" \(.*\)$", "", label), exact)])
        for panel in panels[1:]:
            panel.yaxis.set_major_locator(MaxNLocator(5))
            panel.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        panels[0].set_yscale("log")
        panels[0].minorticks_off()
        panels[0].set_ylim(floor / 2, np.nanmax([*(2 * shown), 10 * tolerance]))
        panels[0].axhline(tolerance, color=VERMILION, linestyle="--", linewidth=1, label="Tolerance")
        below = wanted < floor
        if below.any():
            style = {"color": BLUE, "marker": "v", "linestyle": "", "markersize": 5}
            panels[0].plot(rounds[below], shown[below], **style, label="Below the axis")
        _legend(figure, panels[0])
        if lanes:
            _draw_lanes(figure, lanes, numbers, "abcdef"[len(panels)])
    return figure


@_remember
def heat_map(values: Sequence[float], times: Sequence[datetime], slot_hours: float, label: str) -> Figure:
    """Draw a number per slot by colour, a row per date and a column per time of day, as clocks show it.

    A time that clocks skip is left blank; of one that is there twice the mean is drawn.
    """
    columns = round(24 / slot_hours)
    dates = {day: row for row, day in enumerate(dict.fromkeys(time.date() for time in times))}
    total, count = np.zeros((len(dates), columns)), np.zeros((len(dates), columns))
    for time, value in zip(times, values, strict=True):
        place = dates[time.date()], int((time.hour + time.minute / 60) / slot_hours)
        total[place] += value
        count[place] += 1
    shown = np.ma.masked_where(count == 0, total / np.maximum(count, 1))
    with mpl.rc_context(_STYLE | {"axes.grid": False}):
        rows = min(max(0.2 * len(dates), 1.2), 4.5)
        figure, ((axes,),) = _panels(0.52 + rows, 1, 1, top=0.1)
        width, height = _PAPER.get().width, figure.get_figheight()
        beside: dict[str, Any] = {"ax": axes}
        if _PAPER.get().axes is None:
            axes.set_position((_HEAT_LEFT / width, 0.42 / height, (width - _HEAT_LEFT - 0.85) / width, rows / height))
            beside = {"cax": figure.add_axes((1 - 0.75 / width, 0.42 / height, 0.1 / width, rows / height))}
        image = axes.imshow(shown, aspect="auto", interpolation="nearest", cmap="cividis")
        every = -(-len(dates) // int(rows / 0.17))
        axes.set_yticks(range(0, len(dates), every), [name_day(day) for day in [*dates][::every]])
        hours = range(0, 25, 3 if width >= WIDTH else 6)
        axes.set_xticks([hour / slot_hours - 0.5 for hour in hours], [f"{hour:02}:00" for hour in hours])
        axes.set_xlabel("Time of day")
        figure.colorbar(image, label=label, **beside)
    return figure


@_remember
def boxes(groups: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Draw box plots of groups; one without members is left out."""
    groups = {name: group for name, group in groups.items() if group}
    few = len(groups) <= 3
    width, below = (WIDTH / 2 if few and _PAPER.get().width == WIDTH else None), (0.0 if few else 0.24)
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _panels(2.4, 1, 1, width=width, top=0.1, below=below)
        for place, group in enumerate(groups.values()):
            _box(axes, place, np.array(group))
        axes.axhline(0, color=INK, linewidth=0.6)
        names = [name if few else fill(name, 8) for name in groups]
        counts = [f"({len(group):,})" for group in groups.values()]
        axes.set_xticks(range(len(groups)), ["\n".join(lines) for lines in zip(names, counts, strict=True)])
        axes.set_xlim(-0.6, len(groups) - 0.4)
        _label_y(axes, label)
    return figure


def save(figure: Figure, path: Path) -> str:
    """Write `figure` as PNG to `path`; return it as SVG, which the page holds without a file or a font beside it."""
    with mpl.rc_context(_STYLE), defer_interrupts():
        figure.savefig(path, format="png", metadata={"Software": None})
    return write_svg(figure, path.stem)


def write_svg(figure: Figure, name: str) -> str:
    """Write `figure` as an element of the page, of a name of its own there."""
    drawn = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({**_STYLE, "svg.fonttype": "none"}):  # in the page's own font, which is none wider
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    return _inline(drawn.getvalue(), name)


@dataclass(frozen=True)
class _Reading:
    """The values of the curves of axes at `places` along x, and the name of each place."""

    places: Sequence[float]
    names: Sequence[str]
    curves: Sequence[tuple[str, Sequence[float]]]


_READINGS: WeakKeyDictionary[Axes, _Reading] = WeakKeyDictionary()


def _note(
    axes: Axes, places: Sequence[int], name: Callable[[int], str], curves: Sequence[tuple[str, Sequence[float]]]
) -> None:
    """Note the values on axes, for who points at them."""
    _READINGS[axes] = _Reading(places, [name(place) for place in places], curves)


def _note_slots(axes: Axes, curves: Sequence[tuple[str, Sequence[float]]]) -> None:
    _note(axes, range(1, len(curves[0][1]) + 1), _PAPER.get().name_slot, curves)


def read_values(figure: Figure) -> list[dict[str, Any]]:
    """Give for each of the axes its `box` in the figure, points, and what is read at each place in it.

    `x` are the places, points, `names` theirs, `curves` pairs of a label and the values there, in words with the unit.
    """
    return [_read_axes(axes, found) for axes in figure.axes if (found := _READINGS.get(axes)) is not None]


def _read_axes(axes: Axes, reading: _Reading) -> dict[str, Any]:
    figure = axes.get_figure(root=True)
    assert figure is not None
    (width, height), place = 72 * figure.get_size_inches(), axes.get_position()
    left, right = axes.get_xlim()
    across = width * place.width / (right - left)
    unit = re.search(r"\(([^()]*)\)$", axes.get_ylabel())
    return {
        "box": [
            round(float(edge), 1)
            for edge in (
                width * place.x0,
                height * (1 - place.y1),
                width * place.x1,
                height * (1 - place.y0),
            )
        ],
        "x": [round(float(width * place.x0 + (x - left) * across), 1) for x in reading.places],
        "names": list(reading.names),
        "unit": unit[1] if unit else "",
        "curves": [[label, ["" if np.isnan(value) else spell(value) for value in v]] for label, v in reading.curves],
    }


def save_for_print(figure: Figure, path: Path) -> None:
    """Write `figure` in the format that the path ends with: png, svg or pdf, fonts in the file."""
    kind = path.suffix.removeprefix(".")
    dated = {"pdf": ("Creator", "Producer", "CreationDate"), "svg": ("Date",), "png": ("Software",)}[kind]
    with mpl.rc_context({**_STYLE, "pdf.fonttype": 42, "savefig.dpi": 300}), defer_interrupts():
        figure.savefig(path, format=kind, metadata=dict.fromkeys(dated))


def save_small(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG for a page on a screen, a third of the size of `save`."""
    with mpl.rc_context(_STYLE), defer_interrupts():
        figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _inline(svg: str, name: str) -> str:
    """Make an SVG file an element of the page: no prologue, the page's colours, ids of its own."""
    opening = re.search(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', svg)
    assert opening is not None
    body = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg[opening.end() :])
    for colour, themed in _THEMED.items():
        body = body.replace(colour, themed)
    labelled = name.removesuffix("-narrow")
    return f'<svg viewBox="{opening[1]}" data-name="{name}" role="img" aria-labelledby="figure-{labelled}">{body}'


# --- the parts of a figure ---


def _panels(
    height: float,
    rows: int,
    columns: int,
    *,
    top: float,
    between: float = 0.0,
    width: float | None = None,
    below: float = 0.0,
) -> tuple[Figure, NDArray[Any]]:
    """Make axes in `rows` and `columns`, all lengths in inches: figures one below the other line up at the left.

    The figure is as wide as the paper unless another `width` is given. Room is left `below` the axes. Axes that the
    paper has are taken as they are.
    """
    paper = _PAPER.get()
    if paper.axes is not None:
        if rows * columns > 1:
            raise ValueError(f"ax: the figure has {rows * columns} panels, more than one ax can hold; leave ax out")
        return cast(Figure, paper.axes.figure), np.array([[paper.axes]])
    width = width or paper.width
    figure = paper.make_figure(figsize=(width, height))
    bottom, right = 0.42 + below, 0.08
    panel_width = (width - _LEFT - right - (columns - 1) * between) / columns
    panel_height = (height - bottom - top * rows) / rows
    places = {
        "left": _LEFT / width,
        "right": 1 - right / width,
        "bottom": bottom / height,
        "top": 1 - top / height,
        "wspace": between / panel_width,
        "hspace": top / panel_height,
    }
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=places)


def _count_columns(wanted: int, between: float) -> int:
    """Count the panels that find room beside each other, up to those `wanted`; they are `between` inches apart."""
    fit = int((_PAPER.get().width - _LEFT - 0.08 + between) / (_NARROWEST + between))
    return max(1, min(wanted, fit))


def _slots_figure(slots: int, height: float, top: float = 0.3) -> tuple[Figure, Axes]:
    below = _room_for_dates()
    figure, ((axes,),) = _panels(height + below, 1, 1, top=top, below=below)
    axes.set_xlabel(_label_slots())
    _slot_ticks(axes, slots, 12 if _PAPER.get().width >= WIDTH else 6)
    return figure, axes


def _label_slots() -> str:
    """Give the label of the slots of one panel as wide as the paper."""
    paper = _PAPER.get()
    return describe_axis(paper.times) if paper.times is not None else HOURS if paper.by_hour else SLOT


def _label_panel_of_slots() -> str:
    """Give the label of the slots of one panel among several."""
    paper = _PAPER.get()
    return describe_narrow_axis(paper.times) if paper.times is not None else "Hours" if paper.by_hour else SLOT


def _room_for_dates() -> float:
    """Give the room that dates need below the axes, inches."""
    return 0.12 if _PAPER.get().dated_ticks else 0.0


def _label_y(axes: Axes, label: str) -> None:
    """Put the label at the same distance from every axis, whatever its tick labels."""
    axes.set_ylabel(label)
    if axes is _PAPER.get().axes:
        return
    to_left = ScaledTranslation(-(_LEFT - 0.17), 0, axes.figure.dpi_scale_trans)
    axes.yaxis.set_label_coords(0, 0.5, axes.transAxes + to_left)


def _slot_ticks(axes: Axes, slots: int, at_most: int) -> None:
    times = _PAPER.get().times
    if times is None:
        every = next((step for step in _TICKS_EVERY if slots <= step * at_most), _TICKS_EVERY[-1])
        if _PAPER.get().by_hour:
            hours = range(0, slots, every)
            axes.set_xticks([0.5 + hour for hour in hours], [f"{hour}:00" for hour in hours])
        else:
            axes.set_xticks(np.arange(every, slots + 1, every))
    else:
        ticks = choose_ticks(times, _measure_width(axes))
        axes.set_xticks([0.5 + place for place, _ in ticks], [label for _, label in ticks])
    axes.set_xlim(0.5, slots + 0.5)


def _measure_width(axes: Axes) -> float:
    """Measure how wide axes are, inches."""
    return float(axes.bbox.width / axes.figure.dpi)


def _edges(slots: int) -> Array:
    """Give the edges of slots: t - 1/2 and t + 1/2 for slot t, so that its number stands under its middle."""
    return np.linspace(0.5, slots + 0.5, slots + 1)


def _steps(axes: Axes, values: Sequence[float] | Array, *, color: str, label: str, linestyle: str = "-") -> None:
    axes.stairs(values, _edges(len(values)), baseline=None, color=color, linestyle=linestyle, label=label)


def _shade(axes: Axes, shaded: Sequence[bool]) -> None:
    shade: dict[str, Any] = {"fill": True, "color": INK, "alpha": 0.08, "linewidth": 0}
    axes.stairs(np.array(shaded, float), _edges(len(shaded)), transform=axes.get_xaxis_transform(), **shade)


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    """Start the axis at zero, or below where a value does, so that heights can be compared."""
    low, high = min(0.0, float(np.nanmin(values))), max(0.0, float(np.nanmax(values)))
    room = 0.08 * ((high - low) or 1.0)
    axes.set_ylim(low - room if low < 0 else 0.0, high + room)


def _box(axes: Axes, place: float, values: Array) -> None:
    """Draw quartiles as a box, the median as a line in it, whiskers to the last value within 1.5 times its height."""
    first, middle, third = np.quantile(values, [0.25, 0.5, 0.75])
    far = (values < first - 1.5 * (third - first)) | (values > third + 1.5 * (third - first))
    low, high = values[~far].min(), values[~far].max()
    axes.bar(place, third - first, 0.45, bottom=first, fill=False, edgecolor=INK, linewidth=0.8)
    axes.vlines([place, place], [low, third], [first, high], color=INK, linewidth=0.8)
    axes.hlines(middle, place - 0.225, place + 0.225, color=BLUE, linewidth=1.8)
    axes.plot(np.full(far.sum(), place), values[far], linestyle="", marker="o", markersize=2, color=GREY)


def _in_thousands(label: str, values: Sequence[float]) -> tuple[str, Array]:
    """Scale to thousands, or thousands of thousands, of the unit where the tick labels would not fit otherwise."""
    shown, scale = np.array(values, float), 1.0
    while np.max(np.abs(shown[np.isfinite(shown)]), initial=0.0) >= 1e5 * scale:
        scale *= 1000
    return label if scale == 1 else re.sub(r"\((.*)\)$", rf"({scale:,.0f} \1)", label), shown / scale


_MARKS: dict[str, dict[str, Any]] = {
    "Held": {"marker": "s", "color": ORANGE},
    "Excluded": {"marker": "X", "color": VERMILION},
    "Asked again": {"marker": "^", "color": GREEN},
}


def _mark_rounds(axes: Axes, numbers: Array, values: Array, marked: Mapping[str, Sequence[int]]) -> None:
    for what, rounds in marked.items():
        chosen = np.isin(numbers, list(rounds))
        if chosen.any():
            axes.plot(numbers[chosen], values[chosen], linestyle="", markersize=5, label=what, **_MARKS[what])


_LANE, _LANE_HEAD = 0.17, 0.72
"""The height of a lane, and of the room above and below all lanes, inches."""
_LABEL, _LETTERS = 1.9, 34
"""Room for the label of a lane, in inches and in letters."""


def _shorten(label: str) -> str:
    """Cut a lane's label to the room that there is."""
    return label if len(label) <= _LETTERS else f"{label[: _LETTERS - 1]}…"


def _draw_lanes(figure: Figure, lanes: Sequence[Lane], numbers: Sequence[int], letter: str) -> None:
    """Draw a line for each lane at the bottom of a figure: a dot in each round, or a number where it is more than one.

    Where rounds are too narrow for digits, the size of a dot stands for the number.
    """
    height, width = figure.get_figheight(), figure.get_figwidth()
    room = width - _LABEL - 0.08
    axes = figure.add_axes((_LABEL / width, 0.42 / height, room / width, _LANE * len(lanes) / height))
    digits = max(len(str(count)) for lane in lanes for count in lane.times.values())
    room_for_digits = 0.07 * digits + 0.05 < room / (max(numbers) - min(numbers) + 1)
    for place, lane in enumerate(lanes):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=INK, alpha=0.06, linewidth=0)
        most = max(lane.times.values())
        for number, count in lane.times.items():
            if count > 1 and room_for_digits:
                middle: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
                axes.text(number, place, str(count), color=lane.color, fontsize=7, fontweight="bold", **middle)
            else:
                size = 4.5 * (count / most) ** 0.5 if most > 1 and not room_for_digits else 4.5
                axes.plot(number, place, marker="o", markersize=max(size, 1.5), color=lane.color)
    axes.set_yticks(range(len(lanes)), [_shorten(lane.label) for lane in lanes])
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1))
    axes.set_xlabel("Round")
    axes.spines["left"].set_visible(False)
    figure.text(_LEFT / width, (0.42 + _LANE * len(lanes) + 0.06) / height, f"({letter})", fontsize=8)


def _legend(figure: Figure, axes: Axes | None = None, columns: int | None = None) -> None:
    """Put the legend above the axes, where it hides nothing: in as many `columns` as find room on a narrow paper."""
    given = _PAPER.get().axes
    handles, labels = (axes or given or figure.axes[0]).get_legend_handles_labels()
    if given is not None:
        given.legend(handles, labels)
        return
    wanted = max(1, min(columns or len(labels), len(labels)))
    width, height = figure.get_figwidth(), figure.get_figheight()
    narrow = width < WIDTH
    left = 0.08 if narrow else _LEFT
    across = wanted
    if narrow and labels:
        across = max(1, min(wanted, int((width - left) / (_HANDLE + _LETTER * max(map(len, labels))))))
    place = (left / width, 1 - 0.02 / height)
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=place, ncols=across)
    more = -(-len(labels) // across) - -(-len(labels) // wanted)
    if more:
        _make_room_above(figure, _ROW * more)


def _make_room_above(figure: Figure, inches: float) -> None:
    """Make a figure higher by so many inches; what is on it stays as far from its bottom, the legend from its top."""
    height = figure.get_figheight()
    shrunk = height / (height + inches)
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0, box.y0 * shrunk, box.width, box.height * shrunk))
    for text in figure.texts:
        text.set_y(text.get_position()[1] * shrunk)
    figure.set_figheight(height + inches)
    for legend in figure.legends:
        (x, _), _ = legend.get_bbox_to_anchor().transformed(figure.transFigure.inverted()).get_points()
        legend.set_bbox_to_anchor((x, 1 - 0.02 / (height + inches)), transform=figure.transFigure)
