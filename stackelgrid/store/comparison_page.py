"""The folder of a comparison of runs: report.html, which opens offline, comparison.json, table.csv and figures/."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import nan
from pathlib import Path
from typing import Any

from stackelgrid.columns import encode_rows, spell_unit
from stackelgrid.node.record import write_whole
from stackelgrid.report.parts import Plot
from stackelgrid.report.run_tables import list_tables
from stackelgrid.store.comparison import ComparedRun, list_keys, spell_row, tabulate_figures
from stackelgrid.text_file import replace_file, write_text

_LONGEST = 60
"""Characters of a scenario's value that are shown."""


def write(folder: Path, runs: Sequence[ComparedRun]) -> Path:
    """Write a comparison into its folder; return its page. Raises `OSError`."""
    from stackelgrid.report import drawing
    from stackelgrid.report.page import open_template

    (folder / "figures").mkdir()
    figures = [(plot, drawing.save(plot.figure, folder / "figures" / f"{plot.name}.png")) for plot in draw(runs)]
    content = {
        "names": [run.name for run in runs],
        "scenarios": [run.content.result.scenario for run in runs],
        "rows": [[label, *spell_row(cells)] for label, cells in tabulate_figures(runs).items()],
        "keys": [[key, *map(spell_value, values)] for key, values in list_keys(runs).items()],
        "figures": figures,
        "readings": {plot.name: drawing.read_values(plot.figure) for plot, _ in figures},
    }
    write_whole(folder / "comparison.json", describe(runs))
    replace_file(folder / "table.csv", _encode_figures(runs))
    page = folder / "report.html"
    write_text(page, open_template(Path(__file__).parent / "comparison.html.jinja").render(content))
    return page


def describe(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Give what comparison.json holds."""
    return {
        "schema": 1,
        "runs": [{"run": run.name, "game": run.content.result.game, "figures": run.figures} for run in runs],
        "scenario": list_keys(runs),
    }


def spell_value(value: Any) -> str:
    """Write a scenario's value for people, on one short line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _encode_figures(runs: Sequence[ComparedRun]) -> bytes:
    figures = tabulate_figures(runs)
    return encode_rows(
        ["figure", *(run.name for run in runs)], [[*figures], *map(list, zip(*figures.values(), strict=True))]
    )


# --- figures ---


@dataclass(frozen=True)
class _Series:
    """A number of a run in each slot that binds, and the times at which these begin, None without dates."""

    run: str
    unit: str
    slot_hours: float
    values: list[float]
    times: list[datetime] | None


def draw(runs: Sequence[ComparedRun]) -> Iterator[Plot]:
    """Draw the loads of runs over each other, and their prices: a figure for each unit and length of slots."""
    from stackelgrid.report import drawing

    for quantity in ("load", "price"):
        figures = defaultdict[tuple[str, float], list[_Series]](list)
        for run in runs:
            for series in _find_series(run, quantity):
                figures[series.unit, series.slot_hours].append(series)
        for number, ((unit, _), found) in enumerate(figures.items(), start=1):
            slots = max(len(series.values) for series in found)
            curves = [drawing.Curve(each.run, [*each.values, *[nan] * (slots - len(each.values))]) for each in found]
            times = found[0].times if all(series.times == found[0].times for series in found) else None
            with drawing.use_paper(drawing.Paper(times=times)):
                figure = drawing.steps(curves, f"{quantity.capitalize()} ({unit})")
            name = quantity if number == 1 else f"{quantity}-{number}"
            yield Plot(name, figure, f"The {quantity} of each run, in the slots that bind.")


def _find_series(run: ComparedRun, quantity: str) -> Iterator[_Series]:
    """Find a quantity in the game's table `slots`: `load_kw` or `load_mw`, `price_MONEY_per_kwh` or `…_per_mwh`."""
    tables, money = list_tables(run.content, lambda: None), run.content.result.money
    columns = tables["slots"]() if "slots" in tables else {}
    units = {"load_kw": "kW", "load_mw": "MW"}
    if quantity == "price":
        units = {f"price_{spell_unit(money)}_per_{energy.lower()}": f"{money}/{energy}" for energy in ("kWh", "MWh")}
    for column, unit in units.items():
        if column in columns:
            binding = columns.get("binding", [True] * len(columns[column]))
            rows = [row for row, binds in enumerate(binding) if binds]
            values = [nan if (value := columns[column][row]) is None else float(value) for row in rows]
            times: list[Any] | None = [columns["time"][row] for row in rows] if "time" in columns else None
            yield _Series(run.name, unit, run.content.scenario.slot_hours, values, times)
