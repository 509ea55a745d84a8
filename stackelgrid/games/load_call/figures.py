"""The figures of *A Stackelberg Game of Demand Response from the Aggregator's Perspective*, from our runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackelgrid.claims import Drawing, Runs
from stackelgrid.games.load_call.outcome import LoadCallOutcome
from stackelgrid.games.load_call.scenario import LoadCallScenario
from stackelgrid.scenarios import load

if TYPE_CHECKING:
    from stackelgrid.report import drawing

_LARGER = "leader.target_kwh=1500"
_ALMOST_UNFAIR = "aggregator.fairness=0.00001"


def _draw_calls(runs: Runs, *overrides: str) -> drawing.Figure:
    """Draw what each consumer draws without a call, and what it is called for."""
    from stackelgrid.report import drawing

    scenario = load("load_call")
    assert isinstance(scenario, LoadCallScenario)
    outcome: LoadCallOutcome = runs.outcome("load_call", *overrides)
    baseline = {home.id: home.baseline_kwh for home in scenario.everyone}
    return drawing.bars({"Baseline": baseline, "Call": outcome.calls_kwh}, "Energy (kWh)")


def _draw_shifts(runs: Runs, *overrides: str) -> drawing.Figure:
    """Draw what each consumer is called for, and what it shifts."""
    from stackelgrid.report import drawing

    outcome: LoadCallOutcome = runs.outcome("load_call", *overrides)
    return drawing.bars({"Call": outcome.calls_kwh, "Shifted": outcome.shifted_kwh}, "Energy (kWh)")


DRAWINGS = (
    Drawing(2, "Calls at a target of 800 kWh, beside the consumers' baselines.", _draw_calls),
    Drawing(3, "Calls at a target of 1500 kWh.", lambda runs: _draw_calls(runs, _LARGER)),
    Drawing(4, "What consumers shift of their calls at 800 kWh.", _draw_shifts),
    Drawing(
        5,
        "What consumers shift of their calls at 1500 kWh. The text does not name this figure; the passage is its own.",
        lambda runs: _draw_shifts(runs, _LARGER),
    ),
    Drawing(
        6,
        "Calls at 1500 kWh in the limit of no fairness, λ = 0.00001; at λ = 0 they are not unique.",
        lambda runs: _draw_calls(runs, _LARGER, _ALMOST_UNFAIR),
    ),
)
