"""The utility of the prosumer game: it prices demand response by rule, and ends the exchange of prices.

The DR price that it pays a provider for prosumer i is [PR-17], r the retail price and lambda the PV price,

    lambda_DR = r lambda SDR / (r SDR + lambda - r)  if SDR > 1, else 0,

it falls from r at SDR = 1 towards lambda as SDR grows [PR-16]. In the event the utility saves operating cost [PR-20],
P the feeder's load without the event [PR-18], Q = P - PV - dr with it [PR-19]:

    saving = cost(P) - cost(Q),      cost(P) = c0 + c1 P + c2 P^2

[PR-20] credits the utility with PV output even where nobody provides demand response; the part due to demand response
alone, cost(P - PV) - cost(Q) [PR-B], is computed besides (derived). Hours outside the event save nothing (reading).

It settles when nothing changes any more [PR-21] and the providers' prices and quantities agree with each other, which
small steps alone would not show. Arrays are (T,) or, a row per prosumer, (n, T): kW, money per kWh, money.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.games.prosumer.messages import Offer, Provision, Slot, to_matrix, to_rows
from stackelgrid.model import NonNegative, StrictModel
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.rounds.strategy import Decision
from stackelgrid.wire.arrays import Array, Finite, Vector
from stackelgrid.wire.names import Name


def price_dr(pv_price: Array, sdr: Array, retail: Array) -> Array:
    """Compute lambda_DR [PR-17], money per kWh, for arrays of one shape; zero where there is no PV price (paper)."""
    trade = (pv_price > 0) & (sdr >= 1) & (retail > 0)
    return np.where(trade, retail * pv_price * sdr, 0.0) / np.where(trade, retail * sdr + pv_price - retail, 1.0)


class Event(StrictModel):
    """The hours of the DR event, first and last included, counted from 1."""

    first: Slot
    last: Slot

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.first > self.last:
            raise ValueError(f"first {self.first} is after last {self.last}; swap them")
        return self

    def mark(self, slots: int) -> NDArray[np.bool_]:
        """Mark the slots of the event, (T,)."""
        hours = np.arange(1, slots + 1)
        return (self.first <= hours) & (hours <= self.last)


class OperatingCost(StrictModel):
    """cost(P) = c0 + c1 P + c2 P^2, money per slot of a load P in kW."""

    c0: Finite
    c1: Finite
    c2: NonNegative

    def evaluate(self, load: Array) -> Array:
        """Compute the cost of loads in kW: of P [PR-18] or of Q [PR-19]."""
        return np.asarray(self.c0 + self.c1 * load + self.c2 * load**2)


class Thresholds(StrictModel):
    """The thresholds of [PR-21]: of a prosumer's DR quantity, kW, and of both profits in a slot, money."""

    dr_kw: NonNegative = 1e-6
    provider_profit: NonNegative = 1e-4
    utility_saving: NonNegative = 1e-4

    def hold(self, changes: Mapping[str, float]) -> bool:
        """Tell whether [PR-21] holds for the `changes` of a round."""
        return all(changes[f"{key}_change"] <= threshold for key, threshold in self)


Offers = Offer | Mapping[str, Offer]
"""One offer to all providers, or one to each by name."""


class ProsumerLeader:
    """The utility's strategy: a DR price for each provider's prosumers, until [PR-21] holds.

    `offer` has the tariff and the event; `system_load` is P (T,) kW; `epsilon` the thresholds of [PR-21].
    """

    def __init__(
        self, offer: Offer, system_load: Array, cost: OperatingCost, tolerance: float, epsilon: Thresholds
    ) -> None:
        self._offer = offer
        self._system_load, self._cost = system_load, cost
        self._tolerance, self._epsilon = tolerance, epsilon
        self._event = Event(first=offer.first, last=offer.last).mark(offer.slots)
        self._last: dict[str, Array] | None = None

    def open(self) -> Decision[Offers, Offers]:
        """Offer the tariff and the event, without a DR price."""
        return Decision(self._offer, self._offer)

    def decide(
        self, signal: Offers, answers: Mapping[str, Provision], held: Collection[str]
    ) -> Decision[Offers, Offers]:
        """Price the DR of the providers. The residual is the largest disagreement of prices and quantities of any.

        A provider that is `held` stands with its last answer: it counts neither as a change nor as a disagreement.
        """
        fresh = [body for name, body in answers.items() if name not in held]
        offers = self._write_offers(answers)
        load, pv, dr, profit = (
            np.sum([getattr(body, key) for body in answers.values()] or [np.zeros(self._offer.slots)], axis=0)
            for key in ("load_kw", "pv_kw", "dr_kw", "profit")
        )
        before = np.where(self._event, self._system_load - pv, self._system_load)
        after = np.where(self._event, before - dr, before)
        saving_dr_only = self._cost.evaluate(before) - self._cost.evaluate(after)
        saving = self._cost.evaluate(self._system_load) - self._cost.evaluate(after)
        profits = {"provider_profit": profit, "utility_saving": saving}
        # The first round is compared with the world without demand response.
        last = self._last or {"provider_profit": np.zeros_like(profit), "utility_saving": saving - saving_dr_only}
        self._last = profits
        changes = {"dr_kw_change": max((body.dr_change_kw for body in fresh), default=0.0)}
        changes |= {f"{key}_change": float(np.max(np.abs(profits[key] - last[key]))) for key in profits}
        residual = max((body.residual for body in fresh), default=None)
        account: dict[str, Any] = {
            "load_kw": load.tolist(),
            "pv_kw": pv.tolist(),
            "dr_kw": dr.tolist(),
            "provider_profit": profit.tolist(),
            "utility_saving": saving.tolist(),
            "utility_saving_dr_only": saving_dr_only.tolist(),
            **changes,
            "game_rounds": max((body.game_rounds for body in answers.values()), default=0),
            "homes": sum(body.homes for body in answers.values()),
        }
        settle = (residual or 0.0) <= self._tolerance and self._epsilon.hold(changes)
        return Decision(offers, offers, settle, residual, account)

    def _write_offers(self, answers: Mapping[str, Provision]) -> Mapping[str, Offer]:
        """Offer each provider its own DR prices; one that has not answered the tariff and the event."""
        offers: defaultdict[str, Offer] = defaultdict(lambda: self._offer)
        for name, body in answers.items():
            price = price_dr(to_matrix(body.pv_price), to_matrix(body.sdr), self._look_up_retail(body.tariff))
            offers[name] = self._offer.model_copy(update={"dr_price": to_rows(price)})
        return offers

    def _look_up_retail(self, tariff: list[str]) -> Array:
        """Give lambda_ret of each prosumer, (n, T); zero for a tariff that is not offered."""
        nothing = [0.0] * self._offer.slots
        return np.array([self._offer.retail_price.get(name, nothing) for name in tariff])


class UtilitySettings(LeaderSettings):
    """The utility of the prosumer game.

    `tariffs` are the retail prices of each class, money per kWh, one per slot; `system_load_kw` is P, what the whole
    feeder draws without the event, prosumers included. Besides the thresholds `epsilon` of [PR-21], prices and
    quantities have to agree with each other to the relative `tolerance`.
    """

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-9
    tariffs: Annotated[dict[Name, Vector], Field(min_length=1, max_length=100)]
    event: Event
    cost: OperatingCost
    system_load_kw: Vector
    epsilon: Thresholds = Thresholds()

    @model_validator(mode="after")
    def _check_signs(self) -> Self:
        for name, prices in self.tariffs.items():
            if min(prices) < 0:
                raise ValueError(f"tariffs.{name} has {min(prices):g}; a retail price is not below 0")
        if min(self.system_load_kw) < 0:
            raise ValueError(f"system_load_kw has {min(self.system_load_kw):g}; a load is not below 0")
        return self

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when a tariff, the event or the load has another horizon."""
        for key, numbers in (
            *((f"tariffs.{name}", prices) for name, prices in self.tariffs.items()),
            ("system_load_kw", self.system_load_kw),
        ):
            if len(numbers) != slots:
                raise ValueError(f"{key} has {len(numbers)} numbers, the horizon has {slots} slots; give one per slot")
        if self.event.last > slots:
            raise ValueError(f"event.last is {self.event.last}, the horizon has {slots} slots; end it by then")

    def strategy(self, session: Session) -> ProsumerLeader:
        """Build the utility's part of the game."""
        offer = Offer(retail_price=self.tariffs, first=self.event.first, last=self.event.last)
        return ProsumerLeader(offer, np.array(self.system_load_kw), self.cost, self.tolerance, self.epsilon)
