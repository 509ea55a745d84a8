"""The best schedule of a home whose devices are scheduled together, and the derivative of its load by the price.

PV, cars, heat pumps, batteries that lose energy, an inverter and the limits of the connection meet in one program
[UO-J]. An answer begins with the limits that were active at the last price. Where these do not lead to the optimum, an
interior-point method finds a point near it, and the limits that it shows lead there. Either way the answer meets the
KKT conditions to 1e-9.
"""

from __future__ import annotations

import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.home.answer import Derivative, DeviceRates, Schedule
from stackelgrid.games.user_oriented.home.appliances import ElasticAppliances
from stackelgrid.games.user_oriented.home.interior_point import CentralPath
from stackelgrid.games.user_oriented.home.internal_price import (
    Optimum,
    Tariff,
    bound_meter,
    differentiate,
    find_optimum,
    guess_limits,
)
from stackelgrid.games.user_oriented.home.joint_program import JointProgram
from stackelgrid.games.user_oriented.home.model import Home
from stackelgrid.games.user_oriented.home.quadratic_program import InfeasibleHomeError
from stackelgrid.wire.arrays import Array

_ACCURACIES = (1e-5, 1e-6, 1e-8, 1e-10, 1e-12)
"""The distances from the optimum at which the interior point's limits are tried, one after the other."""
_CHANGES, _STEPS = 16, 30
_CHANGES_FROM_LAST, _STEPS_FROM_LAST = 3, 4
"""So many times limits change, and so many of Newton's steps solve their equations: from the interior point, and from
the last price."""
_FEASIBLE = 1e-4
"""The most that the equations miss, kW and kWh, of a home that has a schedule."""


class JointProblem:
    """The problem of one home, set up once and solved for each price; `last` is the last optimum.

    Raise `InfeasibleHomeError` from the constructor when no schedule exists at any price.
    """

    def __init__(self, home: Home) -> None:
        self.home, slots = home, home.horizon
        self.fixed = home.draw_inelastic()
        elastic = ElasticAppliances(home.elastic, slots)
        chains = [store.chain(slots) for store in home.storage]
        chains += [car.chain(slots) for car in home.ev]
        chains += [pump.chain(slots, home.slot_hours) for pump in home.heat_pump]
        self.program = JointProgram(
            elastic,
            self.fixed,
            [pv.control(slots) for pv in home.pv],
            chains,
            home.meter_limits,
            None if home.inverter is None else home.inverter.max_kw,
            home.slot_hours,
        )
        self._feed_in_price = None if home.feed_in_price is None else np.broadcast_to(home.feed_in_price, (slots,))
        self.last: Optimum | None = None
        self._path: CentralPath | None = None
        self._require_feasible()

    def answer(self, price: Array) -> Schedule:
        """Find the unique optimum at `price` (T,), any finite numbers. Raise `SolverError` when the search fails."""
        tariff = self._make_tariff(price)
        try:
            optimum = None
            if self.last is not None and tariff.is_near(self.last.tariff):
                optimum = find_optimum(
                    self.program, tariff, self.last.limits, self.last.y, _CHANGES_FROM_LAST, _STEPS_FROM_LAST
                )
            if optimum is None:
                optimum = self._find_optimum(tariff)
        except np.linalg.LinAlgError as error:
            raise SolverError(f"home {self.home.id}: schedule of its devices", str(error)) from None
        self.last = optimum
        return self._schedule(optimum)

    def _make_tariff(self, price: Array) -> Tariff:
        feed_in = price if self._feed_in_price is None else np.minimum(self._feed_in_price, price)
        kinked = (feed_in < price) & (self.program.least_kw < 0) & (self.program.most_kw > 0)
        return Tariff(price, feed_in, kinked)

    def _find_optimum(self, tariff: Tariff) -> Optimum:
        """Find the optimum from an interior point."""
        found = None
        if self._path is not None:
            found = self._follow(self._make_path(tariff, self._path), tariff)
        if found is None:
            found = self._follow(self._make_path(tariff), tariff)
        if found is None:
            missed = self._make_path(tariff).follow(_ACCURACIES[-1]).missed
            raise SolverError(f"home {self.home.id}: schedule of its devices", f"KKT conditions missed by {missed:g}")
        return found

    def _follow(self, path: CentralPath, tariff: Tariff) -> Optimum | None:
        """Follow a path until the limits that it shows lead to the optimum; None where they never do."""
        self._path = path
        for accuracy in _ACCURACIES:
            point = path.follow(accuracy)
            limits = guess_limits(self.program, tariff, point)
            found = find_optimum(self.program, tariff, limits, point.y, _CHANGES, _STEPS)
            if found is not None:
                return found
            if not point.missed <= accuracy:
                break
        return None

    def _make_path(self, tariff: Tariff, other: CentralPath | None = None) -> CentralPath:
        """Make the path to the optimum at a tariff, from its start or halfway on the path of another."""
        lower, upper = bound_meter(self.program, tariff)
        linear = np.zeros_like(lower)
        linear[:, self.program.bought], linear[:, self.program.fed_in] = tariff.price, -tariff.feed_in
        path = CentralPath(self.program, lower, upper, linear)
        if other is not None:
            path.start_from(other)
        return path

    def _require_feasible(self) -> None:
        point = self._make_path(self._make_tariff(np.ones(self.home.horizon))).follow(_FEASIBLE)
        missed = np.abs(self.program.right - self.program.multiply(point.z)).max(axis=1)
        slot = int(np.argmax(missed))
        if not missed[slot] <= _FEASIBLE:
            least, most = (limit[slot] + 0.0 for limit in self.home.meter_limits)  # no -0
            raise InfeasibleHomeError(
                f"home {self.home.id}: its needs and its limits cannot be met together, by {missed[slot]:.2g} kW near "
                f"slot {slot + 1}, where its meter draws {least:g}..{most:g} kW; widen connection or draw_limit, or "
                "lower what its devices need"
            )

    def _schedule(self, optimum: Optimum) -> Schedule:
        """Sort an optimum by devices."""
        program, home, z = self.program, self.home, optimum.z
        first = program.controls.start
        pv = z[:, first : first + len(home.pv)].T
        first += len(home.pv)
        stores = len(home.storage) + len(home.ev)
        rates = z[:, first : first + 2 * stores].T
        net, heating = rates[0::2] - rates[1::2], z[:, first + 2 * stores : program.controls.stop].T
        levels, cars = optimum.levels.T, slice(len(home.storage), stores)
        load = optimum.load
        devices = DeviceRates(
            pv=pv,
            cut=program.best[:, program.controls][:, : len(home.pv)].T - pv,
            ev=net[cars],
            ev_level=levels[cars],
            heating=heating,
            temperature=levels[stores:],
            feed_in=np.maximum(-load, 0.0),
            feed_in_price=optimum.tariff.feed_in,
            own_price=optimum.y[:, 0],
            worth=program.worth(z),
        )

        def derive() -> Derivative:
            slope, coupling = differentiate(program, optimum)
            return (slope, coupling) if program.chains else (slope + np.diag(coupling), None)

        x = z[:, program.appliances].T
        return Schedule(
            optimum.tariff.price, x, net[: len(home.storage)], levels[: len(home.storage)], load, derive, devices
        )
