"""Figures for print: as wide as a journal's columns, in each format, and nothing sticks out of them."""

import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from support.figure_fit import list_what_sticks_out

import stackelgrid
from stackelgrid.errors import ConfigError
from stackelgrid.report import drawing, page
from stackelgrid.report.run_folder import read

NARROW, WIDE = drawing.COLUMNS["one_column"], drawing.COLUMNS["two_columns"]
PRINTED = {"load", "price", "loads", "storage", "storage_ev", "bills", "convergence"}
GAMES: dict[str, dict[str, Any]] = {
    "user_oriented": {"population.homes": 8},
    "prosumer": {},
    "load_call": {},
    "storage_market": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    stackelgrid.run("user_oriented", GAMES["user_oriented"], out=out).report(figures=["png", "svg", "pdf"])
    return out


@pytest.mark.parametrize("columns", drawing.COLUMNS)
def test_figures_for_print_have_the_width_of_the_columns(folder: Path, columns: str) -> None:
    inches = drawing.COLUMNS[columns]
    printed = folder / "figures" / columns
    assert {path.stem for path in printed.glob("*.pdf")} == PRINTED
    for name in PRINTED:
        assert imread(printed / f"{name}.png").shape[1] == pytest.approx(300 * inches, abs=1)
        svg = re.search(r'<svg [^>]*width="([0-9.]+)pt"', (printed / f"{name}.svg").read_text())
        pdf = re.search(rb"/MediaBox \[ 0 0 ([0-9.]+) ", (printed / f"{name}.pdf").read_bytes())
        assert svg is not None
        assert pdf is not None
        assert float(svg[1]) == pytest.approx(72 * inches, abs=0.01)
        assert float(pdf[1]) == pytest.approx(72 * inches, abs=0.01)


def test_figures_for_print_are_the_same_when_drawn_again(folder: Path) -> None:
    printed = {path: path.read_bytes() for path in (folder / "figures").glob("*_column*/*")}
    stackelgrid.load(folder).report(figures=["png", "svg", "pdf"])
    assert {path: path.read_bytes() for path in printed} == printed


def test_page_and_its_figures_stay_as_they_are_beside_those_for_print(folder: Path) -> None:
    shown = {path: path.read_bytes() for path in [folder / "report.html", *(folder / "figures").glob("*.png")]}
    stackelgrid.load(folder).report()
    assert {path: path.read_bytes() for path in shown} == shown


def test_format_that_there_is_not_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="figures: eps: no such format; choose among png, svg, pdf"):
        stackelgrid.load(folder).report(figures=["pdf", "eps"])


@pytest.mark.parametrize("game", GAMES)
def test_nothing_sticks_out_of_a_figure_one_column_wide(game: str, tmp_path: Path) -> None:
    run = stackelgrid.run(game, GAMES[game], out=tmp_path / "run")
    for plot in page.draw_plots(read(tmp_path / "run", run.scenario), None, NARROW):
        assert not list_what_sticks_out(plot.figure), plot.name


def test_legend_of_a_narrow_figure_has_as_many_rows_as_it_takes() -> None:
    curves = [drawing.Curve(f"A curve of a long name, number {n}", [1.0, 2.0]) for n in range(4)]
    with drawing.use_paper(drawing.Paper(NARROW)):
        narrow = drawing.steps(curves, "Power (kW)")
    with drawing.use_paper(drawing.Paper(WIDE)):
        wide = drawing.steps(curves, "Power (kW)")
    assert narrow.get_figheight() > wide.get_figheight()
    assert [axes.get_position().height * narrow.get_figheight() for axes in narrow.axes] == pytest.approx(
        [axes.get_position().height * wide.get_figheight() for axes in wide.axes]
    )
