"""The problem of one home whose devices are scheduled together [UO-J], as a convex programme in cvxpy.

It shares no code with the nodes' own solver, which it serves to check: what the meter draws is a sum of cvxpy
expressions, and Clarabel finds the best. Powers in kW, energy in kWh, temperatures in degrees C, (T,) each; prices in
money per kWh. Equation tags are those of docs/games/user_oriented.md.
"""
# cvxpy re-exports its atoms by star imports, which its types do not show.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import warnings
from typing import Any

import cvxpy as cp
import numpy as np

from stackelgrid.certify import CertificateError
from stackelgrid.games.user_oriented.home import EV, PV, Elastic, HeatPump, Home, Storage
from stackelgrid.wire.arrays import Array

_ACCURACIES = (1e-10, 1e-9, 1e-8, 1e-7)
"""The tolerances of Clarabel, the next one where rounding stops it before."""


def compute_bill(home: Home, price: Array, load: Array) -> float:
    """Compute what a home pays for a load (T,) at a price (T,), money over Δ; what is fed in has a price of its own."""
    if home.feed_in_price is None:
        return float(price @ load)
    return float(np.maximum(price * load, np.minimum(home.feed_in_price, price) * load).sum())


class DeviceProgramme:
    """The best answers of one home, found by cvxpy and Clarabel. Set up once and solved for each price."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._limits: list[Any] = []
        self._through: Any = np.zeros(home.horizon)
        """The power from PV and batteries into the home, which an inverter limits."""
        self._worth: Any = 0.0
        self._draw: Any = np.sum(
            [np.zeros(home.horizon), *(load.draw(home.horizon) for load in home.inelastic)], axis=0
        )
        for appliance in home.elastic:
            self._add_appliance(appliance)
        for pv in home.pv:
            self._add_pv(pv)
        for battery in home.storage:
            self._add_battery(battery)
        for car in home.ev:
            self._add_car(car)
        for pump in home.heat_pump:
            self._add_heat_pump(pump)
        least, most = home.meter_limits
        self._limits.append(self._draw >= least)
        if np.all(np.isfinite(most)):
            self._limits.append(self._draw <= most)
        if home.inverter is not None:
            self._limits.append(cp.abs(self._through) <= home.inverter.max_kw)

    def solve(self, price: Array) -> tuple[Array, float]:
        """Give the best load (T,) kW and the best utility, money over Δ, the bill taken off, at a price (T,).

        Raise `CertificateError` where Clarabel finds none.
        """
        if not isinstance(self._draw, cp.Expression):  # a home without a choice
            return np.asarray(self._draw), -compute_bill(self._home, price, self._draw)
        bill: Any = price @ self._draw
        if self._home.feed_in_price is not None:
            fed_in = np.minimum(self._home.feed_in_price, price)
            bill = cp.sum(cp.maximum(cp.multiply(price, self._draw), cp.multiply(fed_in, self._draw)))
        programme = cp.Problem(cp.Maximize(self._worth - bill), self._limits)
        for accuracy in _ACCURACIES:
            options = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), accuracy)
            try:
                with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it stopped a little short
                    programme.solve(solver=cp.CLARABEL, max_iter=300, **options)  # type: ignore[no-untyped-call]
            except cp.SolverError:
                continue
            if programme.status == cp.OPTIMAL:
                break
        else:
            raise CertificateError(f"home {self._home.id}: Clarabel finds no best answer ({programme.status})")
        return np.asarray(self._draw.value), float(programme.value)

    def _choose(self, least: Any, most: Any) -> Any:
        """Add a power between bounds."""
        power = cp.Variable(self._home.horizon)
        self._limits += [power >= least, power <= most]
        return power

    def _add_appliance(self, appliance: Elastic) -> None:
        """Add an elastic appliance, [UO-2] and [UO-9]."""
        slots = self._home.horizon
        form = appliance.satisfaction.form
        full, least, omega, alpha = (
            np.broadcast_to(np.asarray(value, float), (slots,))
            for value in (
                appliance.max_kw,
                appliance.min_kw,
                appliance.satisfaction.omega,
                appliance.satisfaction.alpha,
            )
        )
        sated = np.minimum(1.0, omega / alpha) if form == "quadratic" else 1.0
        x = self._choose(least, np.maximum(least, full * sated))
        ratio, worth = cp.multiply(x, 1 / full), appliance.valuation * full
        if form == "log":
            self._worth += (worth / omega) @ cp.log1p(cp.multiply(alpha, ratio))
        elif form == "power":
            satisfied = cp.Variable(slots)
            self._limits.append(cp.PowCone3D(ratio, np.ones(slots), satisfied, alpha))
            self._worth += (worth / omega) @ satisfied
        else:
            self._worth += (worth * omega) @ ratio - cp.sum_squares(cp.multiply(np.sqrt(worth * alpha / 2), ratio))
        self._draw = self._draw + x

    def _add_pv(self, pv: PV) -> None:
        """Add a photovoltaic system [UO-PV]."""
        available = np.broadcast_to(np.asarray(pv.available_kw, float), (self._home.horizon,))
        used = self._choose(0.0 if pv.curtailable else available, available)
        self._worth -= pv.curtailment * cp.sum_squares(available - used)
        self._draw, self._through = self._draw - used, self._through + used

    def _add_battery(self, battery: Storage) -> None:
        slots = self._home.horizon
        here = np.zeros(slots)
        here[battery.slots(slots)] = 1.0
        self._through = self._through - self._add_store(battery, here, np.zeros(slots), np.zeros(slots))

    def _add_car(self, car: EV) -> None:
        """Add an electric vehicle with its trips [UO-EV]."""
        slots = self._home.horizon
        here, taken, least = np.ones(slots), np.zeros(slots), np.zeros(slots)
        for trip in car.trips:
            here[trip.leave - 1 : trip.back - 1] = 0.0
            if trip.leave <= slots:  # else it leaves as the session ends, and only has to be ready
                taken[trip.leave - 1] += trip.uses_kwh
            if trip.leave > 1:
                least[trip.leave - 2] = max(trip.uses_kwh, trip.need_kwh or 0.0)
        self._add_store(car, here, taken, least)

    def _add_store(self, store: Storage | EV, here: Array, taken: Array, least: Array) -> Any:
        """Add what holds energy, [UO-3] and [UO-4]; give what it charges, net."""
        hours, slots = self._home.slot_hours, self._home.horizon
        charge, discharge = self._choose(0, store.charge_kw * here), self._choose(0, store.discharge_kw * here)
        level = cp.Variable(slots)
        before = cp.hstack([store.initial_kwh, level[:-1]]) if slots > 1 else store.initial_kwh
        into = store.charge_efficiency * charge - discharge / store.discharge_efficiency
        self._limits += [level == before + hours * into - taken, level >= least, level <= store.capacity_kwh]
        self._limits.append(level[-1] >= store.least_final_kwh)
        self._worth -= store.wear.fast * (cp.sum_squares(charge) + cp.sum_squares(discharge))
        self._worth -= store.wear.deep * cp.sum_squares(cp.neg(level - store.wear.depth * store.capacity_kwh))
        self._draw = self._draw + charge - discharge
        return charge - discharge

    def _add_heat_pump(self, pump: HeatPump) -> None:
        """Add a heat pump with the room or the tank that it heats [UO-HP]."""
        slots = self._home.horizon
        power = self._choose(0, pump.max_kw)
        outside, gains, cop, low, high = (
            np.broadcast_to(np.asarray(value, float), (slots,))
            for value in (pump.outside_c, pump.gains_kw, pump.cop, pump.comfort.min_c, pump.comfort.max_c)
        )
        lost = self._home.slot_hours * pump.loss_kw_per_k / pump.heat_kwh_per_k
        keep = np.exp(-lost)
        rise = (1 - keep) / pump.loss_kw_per_k if lost > 1e-9 else self._home.slot_hours / pump.heat_kwh_per_k
        warmth = cp.Variable(slots)
        before = cp.hstack([pump.initial_c, warmth[:-1]]) if slots > 1 else pump.initial_c
        heat = cp.multiply(cop, power) + gains + pump.loss_kw_per_k * outside
        self._limits.append(warmth == keep * before + rise * heat)
        below, above = cp.neg(warmth - low), cp.pos(warmth - high)
        if pump.comfort.price is None:
            self._limits += [warmth >= low, warmth <= high]
        else:
            self._worth -= pump.comfort.price * (cp.sum_squares(below) + cp.sum_squares(above))
        self._worth -= pump.fast * cp.sum_squares(power)
        self._draw = self._draw + power
