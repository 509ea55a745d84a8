"""The figures of *A Game Theoretic Approach for Demand Response Allocation among Strategic Prosumers*, from runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackelgrid.claims import Drawing, Runs
from stackelgrid.games.prosumer.outcome import ProsumerOutcome
from stackelgrid.games.prosumer.scenario import ProsumerScenario
from stackelgrid.scenarios import load

if TYPE_CHECKING:
    from stackelgrid.report import drawing

_NAMES = {"bus27": "residential", "bus23": "business"}


def _play(runs: Runs) -> tuple[ProsumerOutcome, list[bool]]:
    """Give the outcome of the shipped case, and the slots of its event."""
    scenario = load("prosumer")
    assert isinstance(scenario, ProsumerScenario)
    outcome: ProsumerOutcome = runs.outcome("prosumer")
    return outcome, scenario.leader.mark_event(scenario.session).tolist()


def _draw_pv(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    scenario = load("prosumer")
    assert isinstance(scenario, ProsumerScenario)
    pv, load_kw = ({home.id: getattr(home, key) for home in scenario.everyone} for key in ("pv_kw", "load_kw"))
    curves = [drawing.Curve(f"PV, {name}", pv[bus], linestyle="-") for bus, name in _NAMES.items()]
    curves += [
        drawing.Curve(f"load, {name}", load_kw[bus], color, "--")
        for (bus, name), color in zip(_NAMES.items(), (drawing.BLUE, drawing.VERMILION), strict=True)
    ]
    return drawing.steps(curves, "Power (kW)", shaded=_play(runs)[1])


def _draw_dr(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    outcome, event = _play(runs)
    curves = [drawing.Curve(name, outcome.dr_kw[bus]) for bus, name in _NAMES.items()]
    return drawing.steps(curves, "DR quantity (kW)", shaded=event)


def _draw_prices(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    outcome, event = _play(runs)
    curves = [
        drawing.Curve(f"{kind}, {name}", prices[bus], color, style)
        for kind, prices, style in (("PV", outcome.pv_price, "-"), ("DR", outcome.dr_price, "--"))
        for (bus, name), color in zip(_NAMES.items(), (drawing.BLUE, drawing.VERMILION), strict=True)
    ]
    return drawing.steps(curves, "Price (cents/kWh)", shaded=event)


def _draw_saving(runs: Runs) -> drawing.Figure:
    from stackelgrid.report import drawing

    outcome, event = _play(runs)
    curves = [
        drawing.Curve("(20), PV output credited", outcome.utility_saving, drawing.BLUE, "-"),
        drawing.Curve("due to demand response alone", outcome.utility_saving_dr_only, drawing.VERMILION, "-"),
    ]
    return drawing.steps(curves, "Utility's profit (cents an hour)", shaded=event)


DRAWINGS = (
    Drawing(3, "PV output of both prosumers by hour, beside their loads; the event shaded.", _draw_pv),
    Drawing(4, "DR quantity of both prosumers by hour, the event shaded.", _draw_dr),
    Drawing(5, "PV and DR price of both prosumers by hour; zero where there is no trade.", _draw_prices),
    Drawing(6, "The utility's profit by hour, and the part of it that is due to DR.", _draw_saving),
)
