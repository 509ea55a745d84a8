"""Random homes with PV, batteries, cars, heat pumps, an inverter and a connection, and their best answer by cvxpy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.user_oriented.home import Elastic, Home, Storage
from stackelgrid.games.user_oriented.home.battery import Store
from stackelgrid.games.user_oriented.home.ev import Trip
from stackelgrid.games.user_oriented.home.heat_pump import HeatPump
from stackelgrid.games.user_oriented.home.pv import PV

Array = NDArray[np.float64]
NEAR_KW = 1e-7
_ACCURATE: dict[str, dict[str, Any]] = {
    "CLARABEL": {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13, "tol_ktratio": 1e-10, "max_iter": 300},
    "PIQP": {
        "max_iter": 1000,
        **dict.fromkeys(["eps_abs", "eps_rel", "eps_duality_gap_abs", "eps_duality_gap_rel"], 1e-10),
    },
}
_MODELS = 4
"""So many quadratic models of the satisfactions are solved, each around the best rates of the one before."""


def draw_home(random: np.random.Generator, slots: int, *, quadratic: bool = False) -> Home:
    """Draw a home of a day in `slots`; the limits of some leave no schedule. On request satisfaction is `quadratic`."""
    hours = 24 / slots
    time = np.arange(slots) * hours

    def has(share: float) -> bool:
        return bool(random.random() < share)

    def slot(hour: float) -> int:
        return int(hour / hours) + 1

    sun = np.maximum(0, np.sin((time - 6) / 12 * np.pi)) * random.uniform(0.3, 1, slots)
    evening = np.exp(-((time - 19) ** 2) / 6)
    wear = {"fast": 10 ** random.uniform(-2.5, 0), "deep": float(random.choice([0, 0.05, 0.5])), "depth": 0.3}

    def losses() -> dict[str, float]:
        lossy = has(0.7)
        return {f"{way}_efficiency": random.uniform(0.85, 1) if lossy else 1.0 for way in ("charge", "discharge")}

    home: dict[str, Any] = {"id": "h", "horizon": slots, "slot_hours": hours}
    home["inelastic"] = [{"load_kw": (0.2 + random.uniform(0, 0.5, slots) + 1.2 * evening).tolist()}]
    forms = ["quadratic"] if quadratic else ["log", "power", "quadratic"]
    home["elastic"] = [
        {
            "max_kw": random.uniform(0.3, 2),
            "min_kw": float(random.choice([0, 0.1])),
            "valuation": random.uniform(10, 40),
            "satisfaction": {
                "form": str(random.choice(forms)),
                "omega": random.uniform(0.5, 2),
                "alpha": random.uniform(0.2, 0.9),
            },
        }
        for _ in range(int(random.integers(0, 3)))
    ]
    home["pv"] = [
        {"available_kw": (random.uniform(1, 8) * sun).tolist(), "curtailable": has(0.85)}
        for _ in range(int(random.integers(0, 3)))
    ]
    home["storage"] = [
        {
            "capacity_kwh": (capacity := random.uniform(3, 15)),
            "initial_kwh": capacity * float(random.choice([0, 0.4, 1])),
            "final_kwh": capacity * random.uniform(0, 0.5),
            "charge_kw": random.uniform(2, 6),
            "discharge_kw": random.uniform(1, 6),
            "wear": wear,
            **losses(),
        }
        for _ in range(int(random.integers(0, 3)))
    ]
    home["ev"] = [
        {
            "capacity_kwh": random.uniform(40, 70),
            "initial_kwh": random.uniform(20, 40),
            "charge_kw": random.uniform(5, 11),
            "discharge_kw": float(random.choice([0, 5])),
            "final_kwh": random.uniform(10, 30),
            "trips": [
                {"leave": slot(7), "back": slot(random.uniform(9, 16)), "uses_kwh": random.uniform(3, 12)},
                *([{"leave": slot(18), "back": slot(20), "uses_kwh": 4.0, "need_kwh": 25.0}] if has(0.5) else []),
            ],
            "wear": wear | {"fast": 10 ** random.uniform(-2.5, 0)},
            **losses(),
        }
        for _ in range(int(random.integers(0, 3)))
    ]
    home["heat_pump"] = [
        {
            "max_kw": random.uniform(2, 4),
            "cop": random.uniform(2, 4, slots).tolist(),
            "heat_kwh_per_k": random.uniform(2, 15),
            "loss_kw_per_k": random.uniform(0.1, 0.3),
            "outside_c": (3 + 5 * np.sin((time - 9) / 12 * np.pi)).tolist(),
            "gains_kw": random.uniform(0, 0.5),
            "initial_c": random.uniform(19, 22),
            "comfort": {"min_c": 20.0, "max_c": 22.0, "price": random.uniform(0.5, 20)},
            "fast": 10 ** random.uniform(-2, 0),
        }
        for _ in range(int(random.integers(0, 2)))
    ]
    if has(0.7):
        home["connection"] = {
            "draw_kw": random.uniform(8, 20, slots).tolist() if has(0.5) else random.uniform(6, 20),
            "feed_in_kw": float(random.choice([0, 3, 8])),
        }
    if has(0.6):
        home["feed_in_price"] = random.uniform(0, 12)
    if has(0.4):
        home["inverter"] = {"max_kw": random.uniform(3, 7)}
    return Home.model_validate(home)


@dataclass
class _Programme:
    """A home's problem in cvxpy, as it grows: what is felt less wear, what the meter draws, what the inverter gives."""

    slots: int
    hours: float
    limits: list[Any]
    worth: Any
    draw: Any
    through: Any
    rates: list[Any] = field(default_factory=list)

    def choose(self, least: Any, most: Any) -> Any:
        power = cp.Variable(self.slots)
        self.limits.extend([power >= least, power <= most])
        return power

    def add_appliance(self, each: Elastic, around: Array | None) -> None:
        """Add an appliance; one whose satisfaction is not quadratic has on request a model `around` its rates (T,)."""
        form, omega, alpha = each.satisfaction.form, each.satisfaction.omega, each.satisfaction.alpha
        most, least = float(np.max(each.max_kw)), float(np.max(each.min_kw))
        x = self.choose(least, max(least, most * min(1.0, omega / alpha if form == "quadratic" else 1.0)))
        self.rates.append(x)
        if form == "quadratic":
            felt = omega * cp.sum(x / most) - alpha / 2 * cp.sum_squares(x / most)
        elif around is None and form == "log":
            felt = cp.sum(cp.log1p(alpha * x / most)) / omega
        elif around is None:
            felt = cp.sum(cp.power(x / most, alpha, approx=False)) / omega
        else:
            part = np.maximum(around / most, 1e-12)
            if form == "log":
                slope, bend = alpha / (1 + alpha * part) / omega, (alpha / (1 + alpha * part)) ** 2 / omega
                there = np.log1p(alpha * part) / omega
            else:
                slope, bend = alpha * part ** (alpha - 1) / omega, alpha * (1 - alpha) * part ** (alpha - 2) / omega
                there = part**alpha / omega
            step = x / most - part
            felt = cp.sum(there + cp.multiply(slope, step) - cp.multiply(bend / 2, step**2))
        self.worth += each.valuation * most * felt
        self.draw = self.draw + x

    def add_pv(self, each: PV) -> None:
        available = np.array(each.available_kw)
        used = self.choose(0 if each.curtailable else available, available)
        self.worth -= each.curtailment * cp.sum_squares(available - used)
        self.draw, self.through = self.draw - used, self.through + used

    def add_store(self, store: Store, trips: list[Trip]) -> None:
        here, taken, level = np.ones(self.slots), np.zeros(self.slots), cp.Variable(self.slots)
        for trip in trips:
            here[trip.leave - 1 : trip.back - 1] = 0
            taken[trip.leave - 1] = trip.uses_kwh
            self.limits.append(level[trip.leave - 2] >= max(trip.uses_kwh, trip.need_kwh or 0))
        charge, discharge = self.choose(0, store.charge_kw * here), self.choose(0, store.discharge_kw * here)
        into = store.charge_efficiency * charge - discharge / store.discharge_efficiency
        before = cp.hstack([store.initial_kwh, level[:-1]])
        self.limits += [level == before + self.hours * into - taken, level >= 0, level <= store.capacity_kwh]
        self.limits.append(level[-1] >= store.least_final_kwh)
        self.worth -= store.wear.fast * (cp.sum_squares(charge) + cp.sum_squares(discharge))
        self.worth -= store.wear.deep * cp.sum_squares(cp.neg(level - store.wear.depth * store.capacity_kwh))
        self.draw = self.draw + charge - discharge
        if isinstance(store, Storage):
            self.through = self.through + discharge - charge

    def add_heat_pump(self, pump: HeatPump) -> None:
        power, celsius = self.choose(0, pump.max_kw), cp.Variable(self.slots)
        keep = np.exp(-self.hours * pump.loss_kw_per_k / pump.heat_kwh_per_k)
        rest = np.array(pump.outside_c) + (cp.multiply(pump.cop, power) + pump.gains_kw) / pump.loss_kw_per_k
        self.limits.append(celsius == keep * cp.hstack([pump.initial_c, celsius[:-1]]) + (1 - keep) * rest)
        cold, hot = cp.neg(celsius - pump.comfort.min_c), cp.pos(celsius - pump.comfort.max_c)
        self.worth -= pump.comfort.price * (cp.sum_squares(cold) + cp.sum_squares(hot)) + pump.fast * cp.sum_squares(
            power
        )
        self.draw = self.draw + power


def compare(home: Home, price: Array, load: Array) -> tuple[float, float]:
    """Give the distance of a load from the best one by cvxpy, kW, and the best satisfaction less wear less bill, money.

    Clarabel now and then stops short, so that PIQP is asked too. Both are accurate on quadratic programs only. Where
    satisfaction is of another form they solve a sequence of them, from what Clarabel gives for the form itself.
    """
    is_quadratic = all(each.satisfaction.form == "quadratic" for each in home.elastic)
    rates = None if is_quadratic else _guess_rates(home, price)
    told: list[tuple[float, float]] = []
    for solver in _ACCURATE:
        try:
            for _ in range(1 if is_quadratic else _MODELS):
                reference, best, rates = _solve(home, price, solver, rates)
        except (cp.error.SolverError, ValueError):
            continue
        told.append((float(np.max(np.abs(load - reference))), best))
        if told[-1][0] <= NEAR_KW:
            break
    return min(told)


def _guess_rates(home: Home, price: Array) -> list[Array]:
    try:
        return _solve(home, price, "CLARABEL", None)[2]
    except (cp.error.SolverError, ValueError):
        return [np.full(home.horizon, np.max(each.max_kw) / 2) for each in home.elastic]


def _solve(home: Home, price: Array, solver: str, rates: list[Array] | None) -> tuple[Array, float, list[Array]]:
    """Give the load, its worth and the rates of appliances; satisfaction is modelled around `rates` where it must."""
    slots, fixed = home.horizon, np.sum([load.draw(home.horizon) for load in home.inelastic], axis=0)
    model = _Programme(slots, home.slot_hours, [], 0, fixed, np.zeros(slots))
    for number, appliance in enumerate(home.elastic):
        model.add_appliance(appliance, None if rates is None else rates[number])
    for pv in home.pv:
        model.add_pv(pv)
    for store in home.storage:
        model.add_store(store, [])
    for car in home.ev:
        model.add_store(car, car.trips)
    for pump in home.heat_pump:
        model.add_heat_pump(pump)
    if home.inverter is not None:
        model.limits.append(cp.abs(model.through) <= home.inverter.max_kw)
    least, most = home.meter_limits
    model.limits += [model.draw >= least, model.draw <= np.minimum(most, 1e3)]
    bill = price @ model.draw
    if home.feed_in_price is not None:
        paid = cp.multiply(np.minimum(home.feed_in_price, price), model.draw)
        bill = cp.sum(cp.maximum(cp.multiply(price, model.draw), paid))
    programme = cp.Problem(cp.Maximize(model.worth - bill), model.limits)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it stopped a little short
        programme.solve(solver=solver, **_ACCURATE[solver])
    if programme.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise ValueError(programme.status)
    best = home.slot_hours * float(programme.value)
    return np.asarray(model.draw.value), best, [np.asarray(each.value) for each in model.rates]
