"""A home's best schedule at a price, and the derivative of its load by the price.

Customer i gets satisfaction of what appliances consume and pays for what the meter draws ([UO-5], [UO-6]):

    max over x, r   Δ sum_t [ sum_a v_a x_max,a S(x_a,t / x_max,a) - p_t draw_t ] - D(r)
    draw_t = fixed_t + sum_a x_a,t + sum_s r_s,t,      X_min <= draw_t <= X_max            [UO-1], [UO-A]
    x_min <= x <= x_max                                                                    [UO-2]
    -r_dis <= r <= r_ch,  b_t = b_0 + Δ sum_{tau<=t} r_tau,  0 <= b_t <= B,  b_end >= need   [UO-3]
    D(r) = Δ [ fast sum r_t^2 + deep sum min(b_t - depth B, 0)^2 ]                            [UO-4]

While no draw limit binds, the problem separates: each appliance and slot has the closed form [UO-10], each storage is a
small QP with a constant matrix. Where a limit binds, its multiplier adds to the price of the slot: the appliances share
the power that the limit leaves by the closed form at that price. With storage, Newton's method goes on from there, one
QP per pass. Either way the answer meets the KKT conditions to 1e-9, and the active constraints give the sensitivity
dL/dp. The hours of a slot, Δ, are a factor of the whole objective and change the levels alone. Units: kW, kWh, money as
in the price.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.home.answer import Derivative, Schedule
from stackelgrid.games.user_oriented.home.appliances import ElasticAppliances
from stackelgrid.games.user_oriented.home.joint_schedule import JointProblem
from stackelgrid.games.user_oriented.home.model import Home
from stackelgrid.games.user_oriented.home.quadratic_program import InfeasibleHomeError, QuadraticProgram
from stackelgrid.games.user_oriented.home.storage import StorageProgram
from stackelgrid.wire.arrays import Array

_TOLERANCE = 1e-10
_PASSES = 100
_CAREFUL_PASSES = 100
_GOOD_ENOUGH = 1e-8
"""What the KKT conditions may miss, in kW and relative to the price, when no pass gets to `_TOLERANCE`."""
_AT_BOUND = 1e-12
_TRUST = 5.0
"""The factor by which a rate changes in a pass at most where the model of its satisfaction holds only nearby."""
_STIFFEST = 1e10
"""Largest ratio of curvatures: DAQP may fail beyond. A rate with a larger curvature hardly moves with the price."""


class HomeProblem:
    """The problem of one home, set up once and solved for each price.

    Raise `InfeasibleHomeError` from the constructor when no schedule exists at any price.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.horizon = home.horizon
        self._joint = JointProblem(home) if home.flows_together else None
        if self._joint is not None:
            return
        self.fixed = home.draw_inelastic()
        self.elastic = ElasticAppliances(home.elastic, home.horizon)
        self.stores = [StorageProgram(storage, home.horizon, home.slot_hours) for storage in home.storage]
        self.draw_min = home.draw_limit.min_kw
        self.draw_max = np.inf if home.draw_limit.max_kw is None else home.draw_limit.max_kw
        self._programs = [
            QuadraticProgram(
                store.rows,
                np.concatenate([store.r_min, store.lower]),
                np.concatenate([store.r_max, store.upper]),
            )
            for store in self.stores
        ]
        self._price_columns = [self._map_prices(store) for store in self.stores]
        self._responses: list[tuple[bytes, Array]] = [(b"", np.zeros(0))] * len(self.stores)
        self._require_feasible()

    def answer(self, price: Array) -> Schedule:
        """Find the unique optimum at `price` (T,), any finite numbers. Raise `SolverError` when the search fails."""
        if self._joint is not None:
            return self._joint.answer(price)
        x = self.elastic.demand(price)
        solved = [
            program.solve(store.weight, columns @ price)
            for store, program, columns in zip(self.stores, self._programs, self._price_columns, strict=True)
        ]
        charging = [z for z, _ in solved]
        load = self._load(x, charging)
        if load.max() > self.draw_max + _TOLERANCE or load.min() < self.draw_min - _TOLERANCE:
            return self._answer_within_draw_limits(price, x)

        def differentiate() -> Derivative:
            slope = self.elastic.demand_slope(price, x).sum(axis=0)
            if not self.stores:
                return slope, None
            coupling = np.zeros((self.horizon, self.horizon))
            for number, (_, active) in enumerate(solved):
                coupling += self._storage_response(number, active)
            return slope, coupling

        return self._schedule(price, x, charging, load, differentiate)

    def utility(self, schedule: Schedule) -> float:
        """Give satisfaction less wear and discomfort, money; the bill is not taken off."""
        if schedule.devices is not None:
            return self.home.slot_hours * schedule.devices.worth
        return self.home.slot_hours * float(self.elastic.utility(schedule.x).sum()) - self.wear(schedule)

    def wear(self, schedule: Schedule) -> float:
        """Give the wear D(r) [UO-4], money."""
        total = 0.0
        for storage, level, r in zip(self.home.storage, schedule.level, schedule.r, strict=True):
            slots = storage.slots(self.horizon)
            below = np.minimum(level[slots] - storage.wear.depth * storage.capacity_kwh, 0)
            total += storage.wear.fast * float(r @ r) + storage.wear.deep * float(below @ below)
        return self.home.slot_hours * total

    def summarize(self, schedule: Schedule) -> dict[str, Any]:
        """Give load, bill, utility [UO-5] and stored energy of a schedule, ready for JSON.

        `utility` is satisfaction less wear and discomfort less bill, money; `storage_kwh` is absent without storage,
        `stores_kwh` has a row for each of several. What else a home may have, a number per slot: `storage_kw` net
        charging of all storage and `ev_kw` of all cars, `pv_kw` used and `curtailed_kw`, `heat_pump_kw` of all pumps
        (`heat_pumps_kw` of each of several), `feed_in_kw`; `ev_kwh` and `temperature_c`, a row for each car and room.
        """
        bill = self.home.slot_hours * float(schedule.price @ schedule.load)
        summary: dict[str, Any] = {"load_kw": schedule.load.tolist()}
        devices = schedule.devices
        if devices is not None:
            bill += self.home.slot_hours * float((schedule.price - devices.feed_in_price) @ devices.feed_in)
        summary |= {"bill": bill, "utility": self.utility(schedule) - bill}
        if self.home.storage:
            summary["storage_kwh"] = schedule.level.sum(axis=0).tolist()
        if len(self.home.storage) > 1:
            summary["stores_kwh"] = schedule.level.tolist()
        if devices is None:
            return summary
        if self.home.storage:
            summary["storage_kw"] = schedule.r.sum(axis=0).tolist()
        if self.home.ev:
            summary |= {"ev_kw": devices.ev.sum(axis=0).tolist(), "ev_kwh": devices.ev_level.tolist()}
        if self.home.pv:
            summary |= {"pv_kw": devices.pv.sum(axis=0).tolist(), "curtailed_kw": devices.cut.sum(axis=0).tolist()}
        if self.home.heat_pump:
            summary["heat_pump_kw"] = devices.heating.sum(axis=0).tolist()
            if len(self.home.heat_pump) > 1:
                summary["heat_pumps_kw"] = devices.heating.tolist()
            summary["temperature_c"] = devices.temperature.tolist()
        if np.any(schedule.load < 0) or self.home.pv:
            summary["feed_in_kw"] = np.maximum(-schedule.load, 0.0).tolist()
        return summary

    # --- one storage ---

    def _map_prices(self, store: StorageProgram) -> Array:
        """Give the matrix (size, T) from prices to the price that each variable of the storage pays."""
        columns = np.zeros((store.size, self.horizon))
        columns[np.arange(len(store.slots)), store.slots] = 1.0
        return columns

    def _storage_response(self, number: int, active: NDArray[np.bool_]) -> Array:
        """Give dr/dp of one storage, (T, T); it stays while the same constraints are active as at the last price."""
        if self._responses[number][0] != active.tobytes():
            response = self._programs[number].price_response(
                self.stores[number].weight, active, self._price_columns[number]
            )
            self._responses[number] = (active.tobytes(), response)
        return self._responses[number][1]

    def _load(self, x: Array, charging: list[Array]) -> Array:
        load = self.fixed + x.sum(axis=0)
        for store, z in zip(self.stores, charging, strict=True):
            load[store.slots] += z[: len(store.slots)]
        return np.asarray(load)

    def _schedule(
        self, price: Array, x: Array, charging: list[Array], load: Array, differentiate: Callable[[], Derivative]
    ) -> Schedule:
        r = np.zeros((len(self.stores), self.horizon))
        level = np.zeros_like(r)
        for row, (store, z) in enumerate(zip(self.stores, charging, strict=True)):
            r[row, store.slots] = z[: len(store.slots)]
            level[row] = store.initial
            level[row, store.slots] = store.initial + self.home.slot_hours * np.cumsum(z[: len(store.slots)])
        return Schedule(price, x, r, level, load, differentiate)

    # --- with draw limits that bind ---

    @cached_property
    def _least(self) -> Array:
        """The least draw of each slot, (T,) kW."""
        least = self.fixed + self.elastic.lo.sum(axis=0)
        for store in self.stores:
            least[store.slots] += store.r_min[: len(store.slots)]
        return np.asarray(least)

    def _require_feasible(self) -> None:
        least, most = self._least, self.fixed + self.elastic.hi.sum(axis=0)
        for store in self.stores:
            most[store.slots] += store.r_max[: len(store.slots)]
        # The floor of a power satisfaction must not make a home infeasible, so the tolerance grows with the draw.
        tolerance = 2e-9 * (1 + np.abs(most))
        for slot in np.flatnonzero((least > self.draw_max + tolerance) | (most < self.draw_min - tolerance)):
            raise InfeasibleHomeError(
                f"home {self.home.id}: in slot {slot + 1} it draws between {least[slot]:g} and {most[slot]:g} kW, "
                f"outside its draw_limit {self.draw_min:g}..{self.draw_max:g} kW; widen draw_limit"
            )
        try:
            self.answer(np.ones(self.horizon))
        except InfeasibleHomeError as error:
            raise InfeasibleHomeError(
                f"home {self.home.id}: storage needs and draw_limit {self.draw_min:g}..{self.draw_max:g} kW cannot be "
                f"met together ({error}); widen draw_limit or lower final_kwh"
            ) from None

    def _share(self, total: Array, near: Array) -> Array:
        """Share `total` (T,) kW among the appliances at equal marginal satisfaction: the best rates, (A, T).

        They are the demand at the price at which it adds up to `total`. Newton steps find that price, from the marginal
        satisfaction at the rates `near`; bisection steps where a Newton step does not halve the error.
        """
        elastic = self.elastic
        if len(elastic.lo) < 2:
            return np.clip(total, elastic.lo, elastic.hi)
        total = np.clip(total, elastic.lo.sum(axis=0), elastic.hi.sum(axis=0))
        low = np.maximum(elastic.marginal(elastic.hi).min(axis=0), 0)
        high = np.maximum(elastic.marginal(elastic.lo).max(axis=0), low)
        between_bounds = (near > elastic.lo) & (near < elastic.hi)
        worth = np.where(between_bounds, elastic.marginal(near), 0.0).sum(axis=0)
        inside = between_bounds.sum(axis=0)
        price = np.where(inside > 0, np.clip(worth / np.maximum(inside, 1), low, high), high)
        error = np.full(self.horizon, np.inf)
        for _ in range(_PASSES):
            x = elastic.demand(price)
            excess = x.sum(axis=0) - total
            slope = elastic.demand_slope(price, x).sum(axis=0)
            solved = np.abs(excess) <= 1e-13 * (total - slope * price)
            if np.all(solved):
                break
            low, high = np.where(excess > 0, price, low), np.where(excess > 0, high, price)
            newton = price - excess / np.where(slope < 0, slope, -np.inf)
            between = np.where(high > 4 * low, np.sqrt(np.maximum(low, 1e-15 * high) * high), (low + high) / 2)
            good = (np.abs(excess) <= error / 2) & (newton > low) & (newton < high)
            price, error = np.where(solved, price, np.where(good, newton, between)), np.abs(excess)
        return x

    @cached_property
    def _joint_program(self) -> tuple[QuadraticProgram, Array, Array]:
        """The program over (x, z) with draw limits as rows, the price columns of its variables, the wear weights."""
        rates = self.elastic.lo.size
        columns = np.zeros((rates, self.horizon))
        columns[np.arange(rates), np.tile(np.arange(self.horizon), len(self.elastic.lo))] = 1.0
        columns = np.vstack([columns, *self._price_columns])
        levels = np.zeros((sum(len(store.rows) for store in self.stores), len(columns)))
        row, column = 0, rates
        for store in self.stores:
            levels[row : row + len(store.rows), column : column + store.size] = store.rows
            row, column = row + len(store.rows), column + store.size
        stores = self.stores
        lower = [self.elastic.lo.ravel(), *(s.r_min for s in stores), *(s.lower for s in stores)]
        upper = [self.elastic.hi.ravel(), *(s.r_max for s in stores), *(s.upper for s in stores)]
        program = QuadraticProgram(
            np.vstack([levels, columns.T]),
            np.concatenate([*lower, self.draw_min - self.fixed]),
            np.concatenate([*upper, np.maximum(self.draw_max, self._least) - self.fixed]),
        )
        return program, columns, np.concatenate([np.zeros(0), *(store.weight for store in stores)])

    def _answer_within_draw_limits(self, price: Array, demand: Array) -> Schedule:
        """Solve by Newton's method, a QP per pass, from the elastic load that keeps the limits by itself.

        Where its last digits do not settle, `_find_optimum` goes on. Raise `SolverError` when that fails too.
        """

        def within_limits(load: Array) -> Array:
            return np.clip(load, self.draw_min, self.draw_max)

        wanted = self.fixed + demand.sum(axis=0)
        start = self._share(within_limits(wanted) - self.fixed, demand)
        if not self.stores:
            free = within_limits(wanted) == wanted
            x = np.where(free, demand, start)
            return self._schedule(price, x, [], self._load(x, []), lambda: (self._slope(price, x, free), None))
        program, columns, wear = self._joint_program
        shape, rates = demand.shape, demand.size
        variable_price = columns @ price

        def cost(z: Array) -> float:
            x = z[:rates].reshape(shape)
            return float(variable_price @ z - self.elastic.utility(x).sum() + 0.5 * wear @ z[rates:] ** 2)

        z = np.concatenate([start.ravel(), np.zeros(len(wear))])
        for passes in range(_PASSES):
            x = z[:rates].reshape(shape)
            gradient = variable_price + np.concatenate([-self.elastic.marginal(x).ravel(), wear * z[rates:]])
            weight = np.concatenate([-self.elastic.curvature(x).ravel(), wear])
            try:
                target, active = program.solve(weight, gradient - weight * z)
            except InfeasibleHomeError:
                weight = np.minimum(weight, _STIFFEST * weight.min())
                target, active = program.solve(weight, gradient - weight * z)
            target[:rates] = np.clip(target[:rates], self.elastic.lo.ravel(), self.elastic.hi.ravel())
            step = target - z
            if np.max(np.abs(step)) <= 1e-12 * (1 + np.max(np.abs(target))):
                break
            # The start may violate the storage's constraints. The first step is a full one, which corrects that.
            length = 1.0
            now = cost(z)
            allowed = now + 1e-13 * abs(now)
            while passes and cost(z + length * step) > allowed + 1e-4 * length * (gradient @ step):
                length /= 2
            z = z + length * step
        else:
            # The last digits of a step may never settle: of two equal batteries either may charge.
            if np.max(np.abs(step)) > _TOLERANCE * (1 + np.max(np.abs(target))):
                target, active = self._find_optimum(variable_price, target)
        ends = np.cumsum([rates, *(store.size for store in self.stores)])
        charging = np.split(target, ends)[1:-1]
        # Away from the limits the closed form itself holds. In a slot where a limit binds, the appliances share the
        # power that it leaves, and their load changes with the storage's, not with the price of the slot.
        drawn = self._load(target[:rates].reshape(shape), charging)
        free = (drawn < self.draw_max - _TOLERANCE) & (drawn > self.draw_min + _TOLERANCE)
        rest = within_limits(drawn) - self._load(np.zeros(shape), charging)
        x = np.where(free, demand, self._share(rest, target[:rates].reshape(shape)))

        def differentiate() -> Derivative:
            weight = np.concatenate([-self.elastic.curvature(x).ravel(), wear])
            slope = self._slope(price, x, free)
            return slope, program.price_response(weight, active, columns) - np.diag(slope)

        return self._schedule(price, x, charging, self._load(x, charging), differentiate)

    def _find_optimum(self, variable_price: Array, z: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Find the optimum over (x, z) and the mask of its active constraints, from a feasible `z`, slowly and surely.

        Newton's method fails in two ways. One is rounding: little wear makes the last digits of a QP's answer noise,
        and a cost whose terms cancel cannot tell which step is better. The active set is right all the same, so its
        equations are solved by themselves, and their residuals say when they hold. The other is steepness: the
        quadratic model of a power satisfaction near zero holds only while a rate changes by some factor, and a pass
        goes no further. Raise `SolverError` when no pass meets the KKT conditions.
        """
        program, _, wear = self._joint_program
        rates, shape = self.elastic.lo.size, self.elastic.lo.shape
        scale = max(1.0, float(np.max(np.abs(variable_price))))

        def derive(z: Array) -> tuple[Array, Array]:
            x = z[:rates].reshape(shape)
            marginal, curvature = self.elastic.marginal(x).ravel(), self.elastic.curvature(x).ravel()
            return variable_price + np.concatenate([-marginal, wear * z[rates:]]), np.concatenate([-curvature, wear])

        def compare(z: Array, other: Array) -> float:
            """Give what `other` costs more than `z`, appliance by appliance, so that large terms cancel first."""
            worth = self.elastic.utility(other[:rates].reshape(shape)) - self.elastic.utility(z[:rates].reshape(shape))
            step, middle = other - z, (other[rates:] + z[rates:]) / 2
            return float(variable_price @ step - worth.sum() + (wear * middle) @ step[rates:])

        best, found = np.inf, None
        for passes in range(_CAREFUL_PASSES):
            gradient, weight = derive(z)
            if passes >= _CAREFUL_PASSES // 10:
                weight = self._make_comparable(weight, z)
            lower, upper = program.lower.copy(), program.upper.copy()
            lower[:rates] = np.maximum(lower[:rates], np.where(z[:rates] > _AT_BOUND, z[:rates] / _TRUST, 0.0))
            upper[:rates] = np.minimum(upper[:rates], _TRUST * z[:rates] + 1e-3 * (upper[:rates] - lower[:rates]))
            within = QuadraticProgram(program.rows, lower, upper)
            try:
                target, active = within.solve(weight, gradient - weight * z)
            except InfeasibleHomeError:
                weight = self._make_comparable(weight, z)
                target, active = within.solve(weight, gradient - weight * z)
            target[:rates] = np.clip(target[:rates], lower[:rates], upper[:rates])
            room = np.minimum(target - program.lower[: len(z)], program.upper[: len(z)] - target)
            active[:rates] &= room[:rates] <= _AT_BOUND  # not the bounds of this pass
            exact, error = program.solve_equations(derive, target, active, scale)
            if error < best:
                best, found = error, (exact, active)
            if error <= _TOLERANCE:
                break
            step, length = target - z, 1.0
            if np.max(np.abs(step)) <= _TOLERANCE and np.max(np.abs(weight * step)) <= _GOOD_ENOUGH / 10 * scale:
                best, found = 0.0, (target, active)
                break
            while length > 1e-9 and compare(z, z + length * step) > 1e-4 * length * min(float(gradient @ step), 0.0):
                length /= 2
            z = z + length * step
        if found is None or best > _GOOD_ENOUGH:
            raise SolverError(f"home {self.home.id}: schedule within draw_limit", f"KKT conditions missed by {best:g}")
        return found

    def _make_comparable(self, weight: Array, z: Array) -> Array:
        """Change curvatures by which a QP fails: one that is too large shortens a pass, a small one could spoil it.

        That of a rate on its floor is lowered to the largest of the others, as it hardly matters.
        """
        on_floor = np.zeros(len(z), bool)
        on_floor[: self.elastic.lo.size] = z[: self.elastic.lo.size] <= self.elastic.lo.ravel()
        weight = np.where(on_floor, np.minimum(weight, weight[~on_floor].max()), weight)
        return np.asarray(np.maximum(weight, weight.max() / _STIFFEST))

    def _slope(self, price: Array, x: Array, free: NDArray[np.bool_]) -> Array:
        """Give the appliances' slope (T,) in the slots that are `free` of a draw limit, 0 in the others."""
        return np.where(free, self.elastic.demand_slope(price, x).sum(axis=0), 0.0)
