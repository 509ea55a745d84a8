"""The equilibrium certificate of the prosumer game.

Each prosumer's settled DR quantity is held, slot by slot, against the best one that a scalar minimiser finds for its
net cost, price and others' quantities held (that is the Nash equilibrium of the simultaneous game); prices against (13)
and (17) at what is provided; profits against (15) and (20). All of it is written anew here, in SciPy and plain sums.
Neither provider nor utility optimises in this game: they price by rule, and the rule is what is certified of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from stackelgrid.certify import CertificateError
from stackelgrid.games.prosumer.home import Prosumer
from stackelgrid.games.prosumer.leader import UtilitySettings
from stackelgrid.wire.arrays import Array

_FEASIBLE_KW = 1e-9
_PARTICIPANT_KW = 1e-9


def certificate(
    footprints: Sequence[Sequence[Prosumer]], utility: UtilitySettings, outcome: Mapping[str, Any]
) -> dict[str, Any]:
    """The certificate, ready for JSON. `footprints` are the prosumers of each provider, who play with each other.

    - `max_regret`: the largest gain that a prosumer has in a slot from another DR quantity, relative to what its DR
      moves there, the inconvenience plus the pay for it; `regret` the same for each prosumer, in its worst slot.
    - `pv_price_residual`, `dr_price_residual`: the largest relative distance of a price from (13) and from (17).
    - `profit_residual`, `saving_residual`: the same of (15) and (20), relative to the largest of the event.
    - `gap`: the largest of these.
    - `violation`: by how much a DR quantity is below zero or above its cap, kW.
    - `price_order`: whether cost < lambda_PV <= lambda_DR <= lambda_ret wherever there is trade (8, 16).
    - `feasible`: whether that holds and the violation is within 1e-9 kW.

    Raises `CertificateError` where the outcome lacks something or is not of these prosumers.
    """
    homes = [home for footprint in footprints for home in footprint]
    dr, pv_price, dr_price = (_matrix(homes, outcome, key) for key in ("dr_kw", "pv_price", "dr_price"))
    slots = dr.shape[1]
    load, pv = np.array([home.load_kw for home in homes]), np.array([home.pv_kw for home in homes])
    pv_cost = np.array([np.broadcast_to(home.pv_cost, slots) for home in homes])
    retail = np.array([utility.tariffs[home.tariff] for home in homes])
    event = np.zeros(slots, bool)
    event[utility.event.first - 1 : utility.event.last] = True
    cap = np.array([home.most_kw() for home in homes])

    regret: dict[str, float] = {}
    for footprint in footprints:
        regret |= _regrets(footprint, outcome)
    should_pv, should_dr = _prices(load - dr, pv, pv_cost, retail, event)
    profit = np.sum((dr_price - pv_price) * (pv - load + dr), axis=0, where=pv_price > 0)
    system = np.array(utility.system_load_kw)
    net = np.where(event, system - pv.sum(axis=0) - dr.sum(axis=0), system)
    c0, c1, c2 = utility.cost.c0, utility.cost.c1, utility.cost.c2
    saving = np.array([c0 + c1 * P + c2 * P * P - (c0 + c1 * Q + c2 * Q * Q) for P, Q in zip(system, net, strict=True)])

    residuals = {
        "pv_price_residual": _relative(pv_price, should_pv),
        "dr_price_residual": _relative(dr_price, should_dr),
        "profit_residual": _of_largest(_vector(outcome, "provider_profit", slots), profit),
        "saving_residual": _of_largest(_vector(outcome, "utility_saving", slots), saving),
    }
    violation = float(max(0.0, np.max(dr - cap), np.max(-dr)))
    trade = pv_price > 0
    hair = 1 + 1e-9
    ordered = (pv_cost < pv_price * hair) & (pv_price <= dr_price * hair) & (dr_price <= retail * hair)
    price_order = bool(np.all(ordered[trade]))
    return {
        "method": "Prosumers: SciPy's bounded scalar minimiser on the net cost, slot by slot. "
        "Provider and utility: prices against the rules (13) and (17), profits against (15) and (20).",
        "gap": max(*residuals.values(), *regret.values()),
        "max_regret": max(regret.values()),
        **residuals,
        "violation": violation,
        "price_order": price_order,
        "feasible": price_order and violation <= _FEASIBLE_KW,
        "regret": regret,
    }


def _regrets(footprint: Sequence[Prosumer], outcome: Mapping[str, Any]) -> dict[str, float]:
    """The largest relative gain of each prosumer of one provider from deviating alone in one slot."""
    regret = dict.fromkeys((home.id for home in footprint), 0.0)
    cap = {home.id: home.most_kw() for home in footprint}
    for t in range(len(footprint[0].load_kw)):
        provided = {home.id: outcome["dr_kw"][home.id][t] for home in footprint}
        inverse = {name: 1 / dr for name, dr in provided.items() if dr > _PARTICIPANT_KW}
        for home in footprint:
            price, dr, most = outcome["pv_price"][home.id][t], provided[home.id], float(cap[home.id][t])
            if most == 0 or (price == 0 and dr == 0):
                continue
            others = sum(share for name, share in inverse.items() if name != home.id)
            gain = _gain(home.alpha, others, price, dr, most)
            regret[home.id] = max(regret[home.id], gain)
    return regret


def _gain(alpha: float, others: float, price: float, dr: float, most: float) -> float:
    """What another DR quantity would save a prosumer, relative to what is moved by its own or by the best one."""

    def inconvenience(x: float) -> float:
        return alpha * x**2 + alpha * x**3 * others

    def net_cost(x: float) -> float:
        return inconvenience(x) - price * x

    found = minimize_scalar(net_cost, bounds=(0.0, most), method="bounded", options={"xatol": 1e-13 * most})
    best = min((0.0, float(found.x), most), key=net_cost)
    moved = max(inconvenience(x) + price * x for x in (dr, best))
    return max(0.0, (net_cost(dr) - net_cost(best)) / moved) if moved > 0 else 0.0


def _prices(
    x: Array, pv: Array, pv_cost: Array, retail: Array, event: np.ndarray[Any, np.dtype[np.bool_]]
) -> tuple[Array, Array]:
    """lambda_PV (13) and lambda_DR (17), a number at a time, from SDR = PV / x as the paper writes them."""
    pv_price, dr_price = np.zeros_like(x), np.zeros_like(x)
    for i, t in zip(*np.nonzero((pv > x) & (pv_cost < retail) & event), strict=True):
        r, k = retail[i, t], pv_cost[i, t]
        if x[i, t] == 0:  # the limits for SDR without bound
            pv_price[i, t] = dr_price[i, t] = k
            continue
        sdr = pv[i, t] / x[i, t]
        price = r * k * sdr / (r * sdr + (k - r))
        pv_price[i, t], dr_price[i, t] = price, r * price * sdr / (r * sdr + (price - r))
    return pv_price, dr_price


def _relative(found: Array, wanted: Array) -> float:
    larger = np.maximum(np.abs(found), np.abs(wanted))
    return float(np.max(np.abs(found - wanted) / np.where(larger > 0, larger, 1.0), initial=0.0))


def _of_largest(found: Array, wanted: Array) -> float:
    return float(np.max(np.abs(found - wanted)) / max(1.0, float(np.max(np.abs(wanted)))))


def _matrix(homes: Sequence[Prosumer], outcome: Mapping[str, Any], key: str) -> Array:
    """A row per prosumer, as the outcome has them under `key`."""
    told: Mapping[str, Any] = outcome.get(key, {})
    ids = {home.id for home in homes}
    if told.keys() != ids:
        named = ", ".join(sorted(ids ^ told.keys())[:5])
        raise CertificateError(
            f"outcome.{key} is not of the scenario's prosumers: {named}; certify a run in which everybody settled"
        )
    return np.array([_vector(told, home.id, len(home.load_kw)) for home in homes])


def _vector(record: Mapping[str, Any], key: str, slots: int) -> Array:
    numbers = np.array(record.get(key, []), float)
    if numbers.shape != (slots,) or not np.isfinite(numbers).all():
        raise CertificateError(f"outcome.{key} must be {slots} finite numbers")
    return numbers
