"""What a prosumer solves in the prosumer game: how much demand response to provide at a PV price.

Prosumer i draws p and produces PV. Paid lambda per kWh of PV - p + dr, it gives up dr of its consumption, which is the
more inconvenient the less the others give up (equations 5, 6 and 14; every slot for itself, the price held):

    min over dr    alpha dr^2 (1 + dr S) - lambda (PV - p + dr),      0 <= dr <= cap
    S = sum over the other prosumers k that take part of 1/dr_k

The cost is strictly convex for dr >= 0, so its stationary point, 2 alpha dr + 3 alpha S dr^2 = lambda, clipped, is the
one best answer (derived):

    dr* = min(cap, lambda / (alpha + sqrt(alpha^2 + 3 alpha S lambda)))

The paper has prosumers send the provider alpha and the cap. Here they stay in this process: the provider asks, and the
prosumer answers with dr*. Units: kW and kWh per slot of one hour, money as in the price; alpha in money per kW^2.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.prosumer.messages import Prosumption, PvPrice, matrix, rows
from stackelgrid.model import NonNegative, PositivePerSlot
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.wire.arrays import Array
from stackelgrid.wire.names import Name

_LOG = logging.getLogger("emc_node")
_FEW_HOMES = 1000
"""A process with more homes answers beside receiving messages, not in between."""


def best_dr(price: Array, others: Array, alpha: Array, cap: Array) -> Array:
    """dr* (derived from 14), kW, for arrays of one shape: price >= 0, others S >= 0 in 1/kW, alpha > 0, cap >= 0 kW."""
    return np.minimum(cap, price / (alpha + np.sqrt(alpha**2 + 3 * alpha * others * price)))


def cost(dr: Array, price: Array, others: Array, alpha: Array, surplus: Array) -> Array:
    """(5) less (6), money: what providing `dr` costs, of arrays of one shape; `surplus` = PV - p, kW (paper)."""
    return np.asarray(alpha * dr**2 * (1 + dr * others) - price * (surplus + dr))


class Prosumer(HomeModel):
    """A prosumer as it knows itself.

    It tells the provider its `tariff` class, `load_kw` p, `pv_kw` and `pv_cost`, money per kWh. `alpha` is its
    sensitivity to curtailing; `cap_kw` the most it can curtail in a slot, when omitted `cap_share` of its peak load,
    and never more than it draws (3). `bus` is where on the feeder it lives; the desk alone asks for that.
    """

    tariff: Name
    load_kw: Annotated[list[NonNegative], Field(min_length=1)]
    pv_kw: Annotated[list[NonNegative], Field(min_length=1)]
    pv_cost: PositivePerSlot
    alpha: Annotated[float, Field(gt=0, le=1)]
    cap_kw: NonNegative | None = None
    cap_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    bus: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        for key, value in (("pv_kw", self.pv_kw), ("pv_cost", self.pv_cost)):
            if isinstance(value, list) and len(value) != len(self.load_kw):
                raise ValueError(f"{key} has {len(value)} numbers, load_kw {len(self.load_kw)}; give one per slot")
        return self

    def most_kw(self) -> Array:
        """What it can curtail at most in each slot, (T,) kW."""
        cap = self.cap_share * max(self.load_kw) if self.cap_kw is None else self.cap_kw
        return np.minimum(cap, self.load_kw)


class Prosumers:
    """The EMC's strategy for the prosumers of one process: between the bodies on the wire and their problems."""

    def __init__(self, homes: Sequence[Prosumer]) -> None:
        self._homes = homes
        self.quick = len(homes) <= _FEW_HOMES
        slots = len(homes[0].load_kw)
        for home in homes:
            if len(home.load_kw) != slots:
                raise ValueError(f"{home.id}: load_kw has {len(home.load_kw)} numbers, that of {homes[0].id} {slots}")
        self._load = np.array([home.load_kw for home in homes], float)
        self._pv = np.array([home.pv_kw for home in homes], float)
        self._pv_cost = np.array([np.broadcast_to(home.pv_cost, slots) for home in homes], float)
        self._alpha = np.array([[home.alpha] for home in homes], float)
        self._cap = np.array([home.most_kw() for home in homes])

    def answer(self, signal: PvPrice) -> Prosumption:
        """What each prosumer has, and dr* at its price."""
        price, others = self._heard(signal)
        return Prosumption(
            homes=len(self._homes),
            tariff=[home.tariff for home in self._homes],
            load_kw=rows(self._load),
            pv_kw=rows(self._pv),
            pv_cost=rows(self._pv_cost),
            dr_kw=rows(best_dr(price, others, self._alpha, self._cap)),
        )

    def settle(self, settlement: PvPrice) -> dict[str, Any]:
        """What each prosumer provides, kW, at the price it is paid; `cost` is its objective, money per slot.

        `others` is S, what it was told of the others, 1/kW.
        """
        price, others = self._heard(settlement)
        dr = best_dr(price, others, self._alpha, self._cap)
        paid = price * (self._pv - self._load + dr)
        spent = cost(dr, price, others, self._alpha, self._pv - self._load)
        return {
            home.id: {
                "dr_kw": dr[row].tolist(),
                "pv_price": price[row].tolist(),
                "others": others[row].tolist(),
                "paid": paid[row].tolist(),
                "cost": spent[row].tolist(),
            }
            for row, home in enumerate(self._homes)
        }

    def _heard(self, body: PvPrice) -> tuple[Array, Array]:
        """Price and S, (homes, T). What is not for as many prosumers as there are is an offer to none of them."""
        price, others = matrix(body.price), matrix(body.others)
        if price.shape == self._load.shape:
            return price, others
        _LOG.error("a price for other homes", extra={"data": {"rows": len(price), "homes": len(self._homes)}})
        return np.zeros_like(self._load), np.zeros_like(self._load)
