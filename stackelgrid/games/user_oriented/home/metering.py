"""The carrying out of a plan made by a forecast, once the slots have come [UO-MET].

It carries out what it settled: the rates of its appliances, the charging of batteries and cars, the power of heat
pumps. What it did not foresee goes through the meter,

    metered_t = settled_t + (A_t - A'_t) - (g_t - g'_t),

A the inelastic load and g the PV used, with a prime as foreseen. Where the connection does not carry that, batteries
first charge or discharge less than planned, then PV is cut, then load is not served. Units: kW, kWh, degrees C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.user_oriented.home.battery import Store
from stackelgrid.games.user_oriented.home.heat_pump import HeatPump
from stackelgrid.wire.arrays import Array

_CUT = 1e-6
"""A plan that cuts PV by less, kW, sets it no limit."""


@dataclass(frozen=True)
class Surroundings:
    """The part of a home that no price changes, in slots of `slot_hours`, foreseen or as it came, (T,) kW.

    `inelastic` load; PV that is there, of which `pv_fixed` cannot be cut and `pv_free` can; the limits `least` and
    `most` of the meter, and that of the inverter. Each of the `stores` runs in its `windows`; `pumps` heat what is in
    the weather.
    """

    slot_hours: float
    inelastic: Array
    pv_fixed: Array
    pv_free: Array
    least: Array
    most: Array
    inverter_kw: float
    stores: Sequence[Store]
    windows: Sequence[NDArray[np.intp]]
    pumps: Sequence[HeatPump]


def meter(foreseen: Surroundings, came: Surroundings, account: Mapping[str, Any]) -> dict[str, Any]:
    """Give the account of what a home does that settled the `account` by what it had foreseen.

    It has what that has but for the money, and `unserved_kw` (T,), load that the connection did not carry, if any.
    """
    done = {key: value for key, value in account.items() if key not in ("bill", "utility")}
    draw = np.array(account["load_kw"]) + (came.inelastic - foreseen.inelastic)
    used = free = np.zeros(len(draw))
    if "pv_kw" in account:
        used, free = _use_pv(foreseen, came, account)
        draw = draw + (account["pv_kw"] - used)
    if np.any(draw < came.least) or np.any(draw > came.most):
        draw, change, levels = _spare_storage(came, account.get("stores_kwh", [account.get("storage_kwh")]), draw)
        cut = np.clip(came.least - draw, 0.0, free)
        draw, used = draw + cut, used - cut
        if np.any(draw > came.most):
            done["unserved_kw"] = np.maximum(draw - came.most, 0.0).tolist()
            draw = np.minimum(draw, came.most)
        if "storage_kwh" in account:
            done["storage_kwh"] = levels.sum(axis=0).tolist()
        if "stores_kwh" in account:
            done["stores_kwh"] = levels.tolist()
        if "storage_kw" in account:
            done["storage_kw"] = (np.array(account["storage_kw"]) + change).tolist()
    done["load_kw"] = draw.tolist()
    if "pv_kw" in account:
        done |= {"pv_kw": used.tolist(), "curtailed_kw": (came.pv_fixed + came.pv_free - used).tolist()}
    if "feed_in_kw" in account:
        done["feed_in_kw"] = np.maximum(-draw, 0.0).tolist()
    if came.pumps:
        powers = account.get("heat_pumps_kw", [account["heat_pump_kw"]])
        done["temperature_c"] = [
            pump.follow(np.array(power), came.slot_hours).tolist()
            for pump, power in zip(came.pumps, powers, strict=True)
        ]
    return done


def _use_pv(foreseen: Surroundings, came: Surroundings, account: Mapping[str, Any]) -> tuple[Array, Array]:
    """Give the PV used, and what of it can be cut, both (T,) kW.

    In slots in which the plan cuts PV, what it uses is a limit; in the others all that comes is used, as far as the
    inverter carries it beside what batteries charge.
    """
    limit = np.array(account["pv_kw"]) - foreseen.pv_fixed
    free = np.where(np.array(account["curtailed_kw"]) > _CUT, np.minimum(came.pv_free, limit), came.pv_free)
    charging = np.array(account.get("storage_kw", np.zeros(len(free))))
    free = np.clip(came.inverter_kw + charging - came.pv_fixed, 0.0, free)
    return came.pv_fixed + free, free


def _spare_storage(came: Surroundings, planned: Any, draw: Array) -> tuple[Array, Array, Array]:
    """Let storage charge or discharge less than `planned`, a row of levels each, where the draw is beyond its limits.

    Give the draw then, the change of all charging, both (T,) kW, and the levels, (S, T) kWh. One that is available over
    midnight follows its plan.
    """
    levels = np.array(planned, float).reshape(-1, len(draw)) if came.stores else np.zeros((0, len(draw)))
    draw, levels, change, hours = draw.copy(), levels.copy(), np.zeros(len(draw)), came.slot_hours
    moving = [
        (store, read_rates(store, here, level, hours), level)
        for store, here, level in zip(came.stores, came.windows, levels, strict=True)
        if here[0] <= here[-1]
    ]
    at = [store.initial_kwh for store, _, _ in moving]
    for slot in range(len(draw)):
        for number, (store, rates, level) in enumerate(moving):
            empty = -at[number] * store.discharge_efficiency / hours
            full = (store.capacity_kwh - at[number]) / store.charge_efficiency / hours
            rate = float(np.clip(rates[slot], empty, full))
            beyond = draw[slot] + rate - rates[slot]
            beyond -= float(np.clip(beyond, came.least[slot], came.most[slot]))
            rate -= float(np.clip(beyond, min(rate, 0.0), max(rate, 0.0)))
            change[slot] += rate - rates[slot]
            draw[slot] += rate - rates[slot]
            at[number] = level[slot] = store.move(at[number], rate, hours)
    return draw, change, levels


def read_rates(store: Store, here: NDArray[np.intp], level: Array, slot_hours: float) -> Array:
    """Read the net charging, (T,) kW, from the level at the end of each slot, (T,) kWh."""
    rates, rise = np.zeros(len(level)), np.diff(level[here], prepend=store.initial_kwh) / slot_hours
    rates[here] = np.where(rise > 0, rise / store.charge_efficiency, rise * store.discharge_efficiency)
    return rates
