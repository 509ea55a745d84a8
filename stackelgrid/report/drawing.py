"""The figures of a report, as a paper would print them: one style, units on the axes, the caption left to the page.

The only module that imports Matplotlib, which is slow to import. Colours are Okabe and Ito's, told apart by the
colour-blind; line styles differ too, for print without colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from stackelgrid.report.finished import RoundRecord
from stackelgrid.report.tables import number

__all__ = ["Figure", "convergence", "load", "price", "save", "savings", "storage", "welfare"]

Array = NDArray[np.float64]

INK, GREY, BLUE, GREEN, VERMILION, ORANGE = "#1a1a1a", "#808080", "#0072b2", "#009e73", "#d55e00", "#e69f00"
_THEMED = {
    INK: "currentColor",
    GREY: "var(--grey)",
    BLUE: "var(--blue)",
    GREEN: "var(--green)",
    VERMILION: "var(--vermilion)",
    ORANGE: "var(--orange)",
}
"""What stands for each colour on the page, so that a figure follows its dark or light scheme."""

WIDTH = 6.3
"""Of a figure as wide as a page's text, inches."""
_LEFT = 0.68
"""Room for the labels of a y-axis, inches."""
SLOT = "Time slot (1 h each)"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.labelsize": 8,
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
_TICKS_EVERY = (1, 2, 3, 4, 6, 12, 24, 48, 72, 96, 168)


def price(settled: Sequence[float], baseline_price: float, wholesale: Sequence[float], money: str, name: str) -> Figure:
    """The price per slot beside the flat baseline price and the wholesale price, money per kWh."""
    with mpl.rc_context(_STYLE):
        figure, axes = _slots_figure(len(settled), 2.3)
        _steps(axes, np.full(len(settled), baseline_price), color=GREY, linestyle="--", label="Flat baseline price")
        _steps(axes, wholesale, color=GREEN, linestyle=":", label="Wholesale price")
        _steps(axes, settled, color=BLUE, label=name)
        _label_y(axes, f"Price ({money}/kWh)")
        _from_zero(axes, [*settled, *wholesale, baseline_price])
        _legend(figure)
    return figure


def load(settled: Sequence[float], baseline: Sequence[float], min_kw: float, max_kw: float | None, name: str) -> Figure:
    """Total load per slot before and after, kW, the peaks marked; the leader's capacity where it has one."""
    with mpl.rc_context(_STYLE):
        figure, axes = _slots_figure(len(settled), 2.6)
        for curve, when, color, linestyle in ((baseline, "Baseline", GREY, "--"), (settled, name, BLUE, "-")):
            peak = max(curve)
            _steps(axes, curve, color=color, linestyle=linestyle, label=f"{when} (peak {number(peak)} kW)")
            # The tip is the peak; the lower one points up, so that two in one slot keep apart.
            tip = CARETDOWN if peak == max(*settled, *baseline) else CARETUP
            axes.plot(curve.index(peak) + 1, peak, marker=tip, markersize=6, color=color)
        limits = [limit for limit in (min_kw, max_kw) if limit]
        for line, limit in enumerate(limits):
            axes.axhline(limit, color=VERMILION, linestyle="-.", linewidth=1, label="" if line else "Capacity")
        _label_y(axes, "Total load (kW)")
        _from_zero(axes, [*settled, *baseline, *limits])
        _legend(figure)
    return figure


def convergence(
    rounds: Sequence[RoundRecord], tolerance: float, money: str, marked: Mapping[str, Sequence[int]]
) -> Figure:
    """Residual, leader utility and peak over the rounds; `marked` gives the rounds to mark, by what happened."""
    with mpl.rc_context(_STYLE):
        figure, (panels,) = _panels(2.1, 1, 3, top=0.42, between=0.8)
        # A residual of zero has no place on a log scale, one of rounding size would flatten all others.
        floor = tolerance / 100
        wanted = np.array([np.nan if record.residual is None else record.residual for record in rounds])
        residual = np.maximum(wanted, floor)
        utility, unit = _scaled(np.array([record.leader_utility for record in rounds]), money)
        peak, kilowatts = _scaled(np.array([record.peak_kw for record in rounds]), "kW")
        curves = (
            (residual, "Relative price change"),
            (utility, f"Leader utility ({unit})"),
            (peak, f"Peak load ({kilowatts})"),
        )
        numbers = np.array([record.round for record in rounds])
        for letter, panel, (values, label) in zip("abc", panels, curves, strict=True):
            panel.plot(numbers, values, color=BLUE, marker="o" if len(numbers) <= 60 else "", markersize=3)
            _mark_rounds(panel, numbers, values, marked)
            panel.set_xlabel("Round")
            _label_y(panel, label)
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            panel.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
            panel.set_title(f"({letter})", loc="left", fontsize=8)
        for panel in panels[1:]:
            panel.yaxis.set_major_locator(MaxNLocator(5))
            panel.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        panels[0].set_yscale("log")
        panels[0].set_ylim(floor / 2, np.nanmax([*(2 * residual), 10 * tolerance]))
        panels[0].axhline(tolerance, color=VERMILION, linestyle="--", linewidth=1, label="Tolerance")
        below = wanted < floor
        if below.any():
            style = {"color": BLUE, "marker": "v", "linestyle": "", "markersize": 5}
            panels[0].plot(numbers[below], residual[below], **style, label="Below the axis")
        _legend(figure, panels[0])
    return figure


def storage(levels: Mapping[str, Sequence[float]], price: Sequence[float]) -> Figure:
    """Stored energy of a few homes over the slots, kWh; slots with a price below its mean are shaded."""
    with mpl.rc_context(_STYLE):
        columns = min(3, len(levels))
        rows = -(-len(levels) // columns)
        figure, panels = _panels(0.42 + 1.3 * rows, rows, columns, top=0.3, between=0.4)
        cheap = np.array(price) < np.mean(price) - 1e-9 * np.max(np.abs(price))
        shade: dict[str, Any] = {"fill": True, "color": INK, "alpha": 0.08, "linewidth": 0}
        ends = np.arange(1, len(price) + 1) + 0.5
        for place, panel in enumerate(panels.flat):
            panel.set_visible(place < len(levels))
        for place, (panel, (home, level)) in enumerate(zip(panels.flat, levels.items(), strict=False)):
            panel.stairs(cheap, _edges(len(cheap)), transform=panel.get_xaxis_transform(), **shade)
            panel.plot(ends, level, color=BLUE, marker="o" if len(ends) == 1 else "", clip_on=False)
            panel.set_title(home, loc="left", fontsize=8)
            _slot_ticks(panel, len(price), 6)
            _from_zero(panel, level)
            if place + columns < len(levels):
                panel.tick_params(labelbottom=False)
            else:
                panel.set_xlabel(SLOT)
        for panel in panels[:, 0]:
            _label_y(panel, "Stored (kWh)")
    return figure


def savings(with_storage: Sequence[float], without_storage: Sequence[float], money: str) -> Figure:
    """Box plots of the homes' bill savings, with and without storage; a group without homes is left out."""
    groups = {"With storage": with_storage, "Without storage": without_storage}
    groups = {name: group for name, group in groups.items() if group}
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _panels(2.4, 1, 1, width=WIDTH / 2, top=0.1)
        for place, group in enumerate(groups.values()):
            _box(axes, place, np.array(group))
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_xticks(range(len(groups)), [f"{name}\n({len(group):,})" for name, group in groups.items()])
        axes.set_xlim(-0.6, len(groups) - 0.4)
        _label_y(axes, f"Bill saved ({money} per home)")
    return figure


def welfare(settled: Sequence[float], welfare_price: Sequence[float], money: str, name: str) -> Figure:
    """The price that was played beside the one best for the system as a whole, money per kWh."""
    with mpl.rc_context(_STYLE):
        figure, axes = _slots_figure(len(settled), 2.3)
        _steps(axes, settled, color=BLUE, label=name)
        _steps(axes, welfare_price, color=VERMILION, linestyle="--", label="Welfare price")
        _label_y(axes, f"Price ({money}/kWh)")
        _from_zero(axes, [*settled, *welfare_price])
        _legend(figure)
    return figure


def save(figure: Figure, path: Path) -> str:
    """Write `figure` as PNG to `path`; return it as SVG for the page, which wants no file and no font beside it."""
    with mpl.rc_context(_STYLE):
        figure.savefig(path, format="png", metadata={"Software": None})
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    return _inline(drawn.getvalue(), path.stem, figure.get_figwidth() / WIDTH)


def _inline(svg: str, name: str, share: float) -> str:
    """An SVG file as an element of a page: no prologue, its colours the page's, its ids apart from other figures'."""
    opening = re.search(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', svg)
    assert opening is not None
    body = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg[opening.end() :])
    for colour, themed in _THEMED.items():
        body = body.replace(colour, themed)
    return f'<svg viewBox="{opening[1]}" style="width: {share:.0%}" role="img" aria-labelledby="{name}">{body}'


# --- the parts of a figure ---


def _panels(
    height: float,
    rows: int,
    columns: int,
    *,
    top: float,
    between: float = 0.0,
    width: float = WIDTH,
) -> tuple[Figure, NDArray[Any]]:
    """Axes in `rows` and `columns`, all lengths in inches: figures one below the other line up at the left."""
    figure = Figure(figsize=(width, height))
    bottom, right = 0.42, 0.08
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


def _slots_figure(slots: int, height: float) -> tuple[Figure, Axes]:
    figure, ((axes,),) = _panels(height, 1, 1, top=0.3)
    axes.set_xlabel(SLOT)
    _slot_ticks(axes, slots, 12)
    return figure, axes


def _label_y(axes: Axes, label: str) -> None:
    """At the same distance from every axis, whatever its tick labels."""
    axes.set_ylabel(label)
    to_left = ScaledTranslation(-(_LEFT - 0.17), 0, axes.figure.dpi_scale_trans)
    axes.yaxis.set_label_coords(0, 0.5, axes.transAxes + to_left)


def _slot_ticks(axes: Axes, slots: int, at_most: int) -> None:
    every = next((step for step in _TICKS_EVERY if slots <= step * at_most), _TICKS_EVERY[-1])
    axes.set_xticks(np.arange(every, slots + 1, every))
    axes.set_xlim(0.5, slots + 0.5)


def _edges(slots: int) -> Array:
    """Slot t reaches from t - 1/2 to t + 1/2, so that its number stands under its middle."""
    return np.linspace(0.5, slots + 0.5, slots + 1)


def _steps(axes: Axes, values: Sequence[float] | Array, *, color: str, label: str, linestyle: str = "-") -> None:
    axes.stairs(values, _edges(len(values)), baseline=None, color=color, linestyle=linestyle, label=label)


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    """Let the axis start at zero, or below where a value does, so that heights can be compared."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.08 * ((high - low) or 1.0)
    axes.set_ylim(low - room if low < 0 else 0.0, high + room)


def _box(axes: Axes, place: float, values: Array) -> None:
    """Quartiles as a box, the median a line in it, whiskers to the last value within 1.5 times its height."""
    first, middle, third = np.quantile(values, [0.25, 0.5, 0.75])
    far = (values < first - 1.5 * (third - first)) | (values > third + 1.5 * (third - first))
    low, high = values[~far].min(), values[~far].max()
    axes.bar(place, third - first, 0.45, bottom=first, fill=False, edgecolor=INK, linewidth=0.8)
    axes.vlines([place, place], [low, third], [first, high], color=INK, linewidth=0.8)
    axes.hlines(middle, place - 0.225, place + 0.225, color=BLUE, linewidth=1.8)
    axes.plot(np.full(far.sum(), place), values[far], linestyle="", marker="o", markersize=2, color=GREY)


def _scaled(values: Array, unit: str) -> tuple[Array, str]:
    """In thousands, or thousands of thousands, of a unit where the tick labels would not fit otherwise."""
    scale = 1.0
    while np.max(np.abs(values)) >= 1e5 * scale:
        scale *= 1000
    return values / scale, unit if scale == 1 else f"{scale:,.0f} {unit}"


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


def _legend(figure: Figure, axes: Axes | None = None) -> None:
    """Above the axes, where it hides nothing."""
    handles, labels = (axes or figure.axes[0]).get_legend_handles_labels()
    place = (_LEFT / figure.get_figwidth(), 1 - 0.02 / figure.get_figheight())
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=place, ncols=len(labels))
