"""The prosumer of the prosumer game: it chooses how much demand response to provide at a PV price.

Prosumer i draws p and produces PV. Paid lambda per kWh of PV - p + dr [PR-6], it gives up dr of its consumption. That
is the more inconvenient the less the others give up [PR-5]. In every slot, with the price held, it solves [PR-14]

    min over dr    [alpha dr^2 (1 + dr S) - lambda (PV - p + dr)] Δ,      0 <= dr <= cap
    S = sum over the other prosumers k that take part of 1/dr_k

The cost is strictly convex for dr >= 0, so its stationary point, 2 alpha dr + 3 alpha S dr^2 = lambda, clipped, is the
one best answer [PR-A] (derived), whatever the length Δ of a slot:

    dr* = min(cap, lambda / (alpha + sqrt(alpha^2 + 3 alpha S lambda)))

The price held is a reading. In the other one (`prosumers: anticipating`) the prosumer knows that its price falls with
its own dr by [PR-13]. One kWh more then pays d/d dr [lambda (PV - p + dr)] = lambda^2 / r, so that it answers [PR-C]
(derived), which is the one best answer too, since lambda falls with dr:

    2 alpha dr + 3 alpha S dr^2 = lambda(dr)^2 / r,  or dr = cap if that is less.

In the paper prosumers send the provider alpha and the cap. Here both stay in this process: the provider asks, and the
prosumer answers with dr*. Units: kW, slots of Δ hours, money as in the price; alpha in money per kW^2 and hour.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.forecast import Forecast, ForecastRules, foresee
from stackelgrid.games.prosumer.messages import DrResponse, PvPrice, to_matrix, to_rows
from stackelgrid.games.prosumer.simultaneous_game import pay_for_more, price_pv
from stackelgrid.model import SMALLEST, NonNegative, NumberPerSlot, PositivePerSlot
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.wire.arrays import Array
from stackelgrid.wire.names import Name

_LOG = logging.getLogger("emc_node")
_FEW_HOMES = 1000
"""A process with more homes answers beside receiving messages, not in between."""
_HALVINGS = 64


def solve_dr(price: Array, others: Array, alpha: Array, cap: Array) -> Array:
    """Solve [PR-14]: dr* [PR-A], kW, for arrays of one shape.

    price >= 0 in money per kWh, others S >= 0 in 1/kW, alpha > 0, cap >= 0 in kW.
    """
    return np.minimum(cap, price / (alpha + np.sqrt(alpha**2 + 3 * alpha * others * price)))


def anticipate_dr(
    retail: Array, others: Array, alpha: Array, cap: Array, load: Array, pv: Array, pv_cost: Array
) -> Array:
    """Solve [PR-14] with [PR-13] for the price: dr* [PR-C], kW, by bisection, for arrays of one shape.

    retail in money per kWh, zero where there is no trade; the others as in `solve_dr` and `price_pv`.
    """

    def answer_to(dr: Array) -> Array:
        """Answer the pay at `dr`, as if it did not change: below dr* this is above it, and the other way round."""
        return solve_dr(pay_for_more(price_pv(load, pv, pv_cost, retail, dr), retail), others, alpha, cap)

    high = answer_to(np.zeros_like(cap))
    low = answer_to(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = answer_to(middle) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low


def compute_cost(dr: Array, price: Array, others: Array, alpha: Array, surplus: Array) -> Array:
    """Compute [PR-5] less [PR-6], the net cost of providing `dr`, money an hour, for arrays of one shape (paper).

    `surplus` is PV - p, kW. In [PR-5] the share [PR-4] is 1 / (1 + dr S).
    """
    return np.asarray(alpha * dr**2 * (1 + dr * others) - price * (surplus + dr))


class ProsumerForecast(ForecastRules):
    """The rules by which the `load` and the `pv` of a prosumer are foreseen. A list has kW of one prosumer."""

    without: ClassVar[Mapping[str, str]] = {
        "temperature": "loads and PV output are given, whatever the weather",
        "price": "tariffs are public, and the other prices follow from them by rule",
    }

    load: Forecast = "perfect"
    pv: Forecast = "perfect"


class Prosumer(HomeModel):
    """The data of a prosumer.

    It sends the provider its `tariff` class, `load_kw` p, `pv_kw` and `pv_cost`, money per kWh. `alpha` is its
    sensitivity to curtailing, money per kW^2 and hour; `cap_kw` the most it can curtail in a slot, when omitted
    `cap_share` of its peak load, and never more than it draws [PR-3]. `bus` is its bus on the feeder, read on the desk
    only. Load and PV output are what comes; it answers with what `forecast` makes of them.
    """

    tariff: Name
    load_kw: Annotated[NumberPerSlot, Field(min_length=1)]
    pv_kw: Annotated[NumberPerSlot, Field(min_length=1)]
    pv_cost: PositivePerSlot
    alpha: Annotated[float, Field(ge=SMALLEST, le=1)]
    cap_kw: NonNegative | None = None
    cap_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    bus: Annotated[int, Field(ge=1)] | None = None
    forecast: Annotated[ProsumerForecast | None, Field(exclude_if=lambda forecast: forecast is None)] = None

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when its load has another length."""
        if len(self.load_kw) != slots:
            raise ValueError(f"load_kw has {len(self.load_kw)} numbers, slots is {slots}; give one per slot")
        if self.forecast is not None:
            self.forecast.check_slots(slots)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for key, value in (("pv_kw", self.pv_kw), ("pv_cost", self.pv_cost)):
            if isinstance(value, list) and len(value) != len(self.load_kw):
                raise ValueError(f"{key} has {len(value)} numbers, load_kw {len(self.load_kw)}; give one per slot")
        return self

    @property
    def connection_kw(self) -> float:
        """The most that it may draw or feed in, kW: its peak load or, if that is more, its peak PV output."""
        return max(*self.load_kw, *self.pv_kw)

    def foresee(self, session: Session) -> Self:
        """Give the prosumer with the load and the PV output that are foreseen, never above its connection.

        More would be refused. Its cap stays the share of the peak load that comes.
        """
        if self.forecast is None:
            return self
        load, pv = (
            np.minimum(foresee(rule, actual, session), self.connection_kw).tolist()
            for rule, actual in ((self.forecast.load, self.load_kw), (self.forecast.pv, self.pv_kw))
        )
        return self.model_copy(update={"load_kw": load, "pv_kw": pv, "cap_kw": self._most_kw, "forecast": None})

    def meter(self, account: Mapping[str, Any], came: Self) -> dict[str, Any]:
        """Give its DR when all is as it `came`, `dr_kw`, and what its meter counts, `load_kw`, kW [PR-MET]."""
        dr = np.minimum(account["dr_kw"], came.load_kw)
        return {"dr_kw": dr.tolist(), "load_kw": (np.subtract(came.load_kw, came.pv_kw) - dr).tolist()}

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the prosumer in one session of a run; its cap stays the share of the peak load of the whole run."""
        return super().in_session(session, state).model_copy(update={"cap_kw": self._most_kw})

    @property
    def limit_kw(self) -> Array:
        """Give the most that it can curtail in each slot, (T,) kW."""
        return np.minimum(self._most_kw, self.load_kw)

    @property
    def _most_kw(self) -> float:
        return self.cap_share * max(self.load_kw) if self.cap_kw is None else self.cap_kw


class ProsumerHomes:
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
        self._cap = np.array([home.limit_kw for home in homes])
        self._slot_hours = homes[0].slot_hours

    def answer(self, signal: PvPrice) -> DrResponse:
        """Answer with each prosumer's load, PV and dr* at its price."""
        return DrResponse(
            homes=len(self._homes),
            tariff=[home.tariff for home in self._homes],
            load_kw=to_rows(self._load),
            pv_kw=to_rows(self._pv),
            pv_cost=to_rows(self._pv_cost),
            dr_kw=to_rows(self._choose_dr(signal)),
        )

    def settle(self, settlement: PvPrice) -> dict[str, Any]:
        """Give by prosumer its DR quantity, kW, price, pay and net cost, money in a slot; `others` is S, 1/kW."""
        price, others = self._read_price(settlement)
        dr = self._choose_dr(settlement)
        paid = self._slot_hours * price * (self._pv - self._load + dr)
        net_cost = self._slot_hours * compute_cost(dr, price, others, self._alpha, self._pv - self._load)
        return {
            home.id: {
                "dr_kw": dr[row].tolist(),
                "pv_price": price[row].tolist(),
                "others": others[row].tolist(),
                "paid": paid[row].tolist(),
                "cost": net_cost[row].tolist(),
            }
            for row, home in enumerate(self._homes)
        }

    def _choose_dr(self, signal: PvPrice) -> Array:
        """Choose dr*, (homes, T) kW: at the price held [PR-A] or, where r is told, anticipating [PR-C]."""
        price, others = self._read_price(signal)
        if signal.retail is None or price.shape != to_matrix(signal.retail).shape:
            return solve_dr(price, others, self._alpha, self._cap)
        retail = to_matrix(signal.retail)
        alpha = np.broadcast_to(self._alpha, self._cap.shape)
        return anticipate_dr(retail, others, alpha, self._cap, self._load, self._pv, self._pv_cost)

    def _read_price(self, body: PvPrice) -> tuple[Array, Array]:
        """Give price and S, (homes, T): zeros when they are for another number of prosumers."""
        price, others = to_matrix(body.price), to_matrix(body.others)
        if price.shape == self._load.shape:
            return price, others
        _LOG.error(
            "a price for another number of homes", extra={"data": {"rows": len(price), "homes": len(self._homes)}}
        )
        return np.zeros_like(self._load), np.zeros_like(self._load)
