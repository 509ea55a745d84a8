"""Whether all that is on a figure is within it."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_ROUNDING = 2.0
"""Dots."""


def list_what_sticks_out(figure: Figure) -> list[Any]:
    """List axes, legends and texts that reach over the edge of a figure, and legends that lie on axes."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = figure.get_size_inches() * figure.dpi
    found: list[Any] = []
    for thing in [*figure.legends, *figure.axes, *figure.texts]:
        box = thing.get_tightbbox(renderer)
        if box is None or not thing.get_visible():
            continue
        room = (box.x0, width - box.x1, box.y0, height - box.y1)
        if min(room) < -_ROUNDING:
            found.append((thing, room))
    for legend in figure.legends:
        bottom = legend.get_window_extent(renderer).y0
        found += [(legend, axes) for axes in figure.axes if axes.get_window_extent(renderer).y1 > bottom]
    return found
