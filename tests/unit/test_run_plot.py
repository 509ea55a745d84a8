"""The figures of a run from Python: those of the report, on a figure of their own or on axes that are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot

import stackelgrid
from stackelgrid.errors import ConfigError
from stackelgrid.report import drawing

SMALL: dict[str, dict[str, Any]] = {
    "user_oriented": {"population.homes": 4, "aggregators": 2},
    "prosumer": {},
    "load_call": {},
}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def run() -> stackelgrid.Run:
    return stackelgrid.run("user_oriented", {"population.homes": 12, "aggregators": 2})


def two_days() -> stackelgrid.Run:
    home = {"id": "h1", "elastic": [{"max_kw": 2.0, "valuation": 18.0}]}
    return stackelgrid.run(
        {
            "schema": 1,
            "game": "user_oriented",
            "calendar": {"start": "2026-03-28T00:00", "timezone": "Europe/Berlin", "days": 2, "every": "24h"},
            "leader": {"objective": "welfare", "baseline_price": 9, "wholesale_price": 4, "mu": 1, "price_max": 30},
            "homes": [home],
        }
    )


@pytest.mark.parametrize("game", SMALL)
def test_figures_are_those_of_the_report(game: str, tmp_path: Path) -> None:
    run = stackelgrid.run(game, SMALL[game], out=tmp_path / "run", report=True)
    names = [path.stem for path in (tmp_path / "run" / "figures").glob("*.png")]
    assert sorted(dir(run.plot)) == sorted(names)
    assert all(name in repr(run.plot) for name in names)
    assert dir(stackelgrid.load(tmp_path / "run").plot) == dir(run.plot)


def test_figure_on_given_axes_is_drawn_there_alone(run: stackelgrid.Run) -> None:
    figure, (left, right) = pyplot.subplots(1, 2)
    assert run.plot.load(left) is left
    assert run.plot.price(ax=right) is right
    assert pyplot.get_fignums() == [figure.number]
    labels = {patch.get_label(): list(patch.get_data().values) for patch in left.patches}
    (settled,) = (values for label, values in labels.items() if label == "At the settled price")
    assert settled == run.outcome.load_kw
    assert right.get_ylabel() == "Price (cents/kWh)"
    assert [text.get_text() for text in right.get_legend().get_texts()][-1] == "Settled price"


def test_figure_without_axes_is_a_new_one_of_pyplot(run: stackelgrid.Run) -> None:
    first, second = run.plot.load(), run.plot.load()
    assert pyplot.get_fignums() == [first.figure.number, second.figure.number]
    panels = run.plot.convergence().figure.axes
    assert [panel.get_ylabel() for panel in panels] == [
        "Relative price change",
        "Leader utility (cents)",
        "Peak load (kW)",
    ]


def test_figure_of_several_panels_takes_no_axes() -> None:
    _, axes = pyplot.subplots()
    panel = drawing.Panel("", [drawing.Curve("", [1.0])], "kW")
    draw = drawing.recall(drawing.side_by_side([panel, panel]))
    with pytest.raises(ValueError, match="panels, more than one ax can hold; leave ax out"):
        draw(axes)
    assert not axes.has_data()


def test_convergence_on_given_axes_is_the_residual(run: stackelgrid.Run) -> None:
    _, axes = pyplot.subplots()
    run.plot.convergence(axes)
    assert axes.get_ylabel() == "Relative price change" and axes.get_yscale() == "log"
    assert len(axes.figure.axes) == 1


def test_figures_of_a_run_of_several_days_have_maps_of_them() -> None:
    run = two_days()
    figure, axes = pyplot.subplots()
    assert run.plot.load_by_day(axes) is axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Sat 28 Mar", "Sun 29 Mar"]
    assert len(figure.axes) == 2  # the colours beside it
    assert run.plot.price_by_day().figure is not figure


def test_figure_that_a_run_lacks_is_refused_with_those_there_are(run: stackelgrid.Run) -> None:
    with pytest.raises(AttributeError, match="lod: this run of user_oriented has no such figure; it has load, price,"):
        run.plot.lod()
    assert not hasattr(run.plot, "_ipython_display_")


def test_figures_follow_the_certificate(run: stackelgrid.Run) -> None:
    again = stackelgrid.run(run.scenario)

    def list_curves() -> list[str]:
        return [text.get_text() for text in again.plot.price().figure.legends[0].get_texts()]

    assert "Welfare price" not in list_curves()
    again.result = again.result.with_certificate({"welfare_price": run.outcome.price})
    assert "Welfare price" in list_curves()


def test_report_of_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        _ = stackelgrid.load(tmp_path).plot
