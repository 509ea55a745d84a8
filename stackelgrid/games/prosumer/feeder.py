"""The effect of a DR event on the utility's feeder: voltages and losses by a power flow, on the desk.

The power flow is power-grid-model's Newton-Raphson method (the extra `grid`); nothing in the game depends on it. Loads
are of constant power. PV and DR change active power alone (reading).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from stackelgrid.games.prosumer.scenario import Feeder, ProsumerScenario
from stackelgrid.report.run_folder import ReportError
from stackelgrid.wire.arrays import Array

_STIFF_VA = 1e16
"""Short-circuit power of the grid above: bus 1 keeps its voltage."""


@dataclass(frozen=True)
class FeederState:
    """The feeder in every slot: `voltage` by bus, per unit; losses in the lines and power taken from the grid above."""

    voltage: dict[int, list[float]]
    losses_kw: list[float]
    substation_kw: list[float]


@dataclass(frozen=True)
class FeederStates:
    """The feeder `before` with the load P [PR-18], with `pv` alone, and `after` with the load Q [PR-19]."""

    before: FeederState
    pv: FeederState
    after: FeederState


def solve_power_flow(scenario: ProsumerScenario, dr_kw: Mapping[str, Sequence[float]]) -> FeederStates:
    """Solve the power flow of every slot; `dr_kw` is each prosumer's DR quantity, (T,) kW.

    As in [PR-20], PV and DR count inside the event, at the bus of their prosumer; prosumers without a bus do not count.
    Raise `ReportError` without a feeder or without the extra `grid`.
    """
    feeder = scenario.feeder
    if feeder is None:
        raise ReportError("the scenario has no feeder; a power flow needs its loads and lines")
    buses = sorted({1, *feeder.load_kw, *(bus for line in feeder.lines for bus in (line.start, line.end))})
    row = {bus: number for number, bus in enumerate(buses)}
    shape = np.array(feeder.load_shape)
    load = np.array([feeder.load_kw.get(bus, 0.0) * shape for bus in buses])
    reactive = np.array([feeder.load_kvar.get(bus, 0.0) * shape for bus in buses])
    pv, dr = np.zeros_like(load), np.zeros_like(load)
    event = scenario.leader.mark_event(scenario.session)
    for home in scenario.everyone:
        if home.bus is not None:
            pv[row[home.bus]] += np.where(event, home.pv_kw, 0.0)
            dr[row[home.bus]] += np.where(event, dr_kw[home.id], 0.0)
    return FeederStates(*(_solve(feeder, buses, kw, reactive) for kw in (load, load - pv, load - pv - dr)))


def _solve(feeder: Feeder, buses: list[int], load_kw: Array, load_kvar: Array) -> FeederState:
    """Solve all slots of one load, (buses, T), at once."""
    try:
        grid: Any = import_module("power_grid_model")
    except ModuleNotFoundError:
        raise ReportError("a power flow needs power-grid-model: pip install 'stackelgrid[grid]'") from None

    initialize_array = grid.initialize_array
    node = initialize_array("input", "node", len(buses))
    node["id"], node["u_rated"] = buses, 1000 * feeder.kv
    line = initialize_array("input", "line", len(feeder.lines))
    line["id"] = 10_000 + np.arange(len(feeder.lines))
    line["from_node"], line["to_node"] = [each.start for each in feeder.lines], [each.end for each in feeder.lines]
    line["from_status"] = line["to_status"] = 1
    line["r1"], line["x1"] = [each.r_ohm for each in feeder.lines], [each.x_ohm for each in feeder.lines]
    line["c1"] = line["tan1"] = 0.0
    source = initialize_array("input", "source", 1)
    source["id"], source["node"], source["status"], source["u_ref"], source["sk"] = 20_000, 1, 1, 1.0, _STIFF_VA
    load = initialize_array("input", "sym_load", len(buses))
    load["id"], load["node"], load["status"] = 30_000 + np.arange(len(buses)), buses, 1
    load["type"], load["p_specified"], load["q_specified"] = grid.LoadGenType.const_power, 0.0, 0.0
    slots = initialize_array("update", "sym_load", load_kw.T.shape)
    slots["id"], slots["p_specified"], slots["q_specified"] = load["id"], 1000 * load_kw.T, 1000 * load_kvar.T

    model = grid.PowerGridModel({"node": node, "line": line, "source": source, "sym_load": load})
    solved = model.calculate_power_flow(update_data={"sym_load": slots}, error_tolerance=1e-12)
    losses = (solved["line"]["p_from"] + solved["line"]["p_to"]).sum(axis=1) / 1000
    return FeederState(
        voltage={bus: solved["node"]["u_pu"][:, number].tolist() for number, bus in enumerate(buses)},
        losses_kw=losses.tolist(),
        substation_kw=(solved["source"]["p"][:, 0] / 1000).tolist(),
    )
