"""The utility of the prosumer game: it prices demand response by rule, and ends the exchange of prices.

The DR price that it pays a provider for prosumer i is [PR-17], r the retail price and lambda the PV price,

    lambda_DR = r lambda SDR / (r SDR + lambda - r)  if SDR > 1, else 0,

it falls from r at SDR = 1 towards lambda as SDR grows [PR-16]. In the event the utility saves operating cost [PR-20],
P the feeder's load without the event [PR-18], Q = P - PV - dr with it [PR-19]:

    saving = [cost(P) - cost(Q)] Δ,      cost(P) = c0 + c1 P + c2 P^2

[PR-20] credits the utility with PV output even where nobody provides demand response; the part due to demand response
alone, [cost(P - PV) - cost(Q)] Δ [PR-B], is computed besides (derived). Slots outside the event save nothing (reading).

It settles when nothing changes any more [PR-21] and the providers' prices and quantities agree with each other, which
small steps alone would not show. Arrays are (T,) or, a row per prosumer, (n, T): kW, slots of Δ hours, money per kWh,
money.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stackelgrid.calendar import Event, Session
from stackelgrid.forecast import Forecast, foresee
from stackelgrid.games.prosumer.messages import Offer, Provision, to_matrix, to_rows
from stackelgrid.model import PER_SLOT, NonNegative, NumberPerSlot, StrictModel
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.rounds.strategy import Decision
from stackelgrid.wire.arrays import Array, Finite
from stackelgrid.wire.names import Name


def price_dr(pv_price: Array, sdr: Array, retail: Array) -> Array:
    """Compute lambda_DR [PR-17], money per kWh, for arrays of one shape; zero where there is no PV price (paper)."""
    trade = (pv_price > 0) & (sdr >= 1) & (retail > 0)
    return np.where(trade, retail * pv_price * sdr, 0.0) / np.where(trade, retail * sdr + pv_price - retail, 1.0)


class OperatingCost(StrictModel):
    """cost(P) = c0 + c1 P + c2 P^2, money an hour at a load P in kW."""

    c0: Finite
    c1: Finite
    c2: NonNegative

    def evaluate(self, load: Array) -> Array:
        """Compute the cost of loads in kW, money an hour: of P [PR-18] or of Q [PR-19]."""
        return np.asarray(self.c0 + self.c1 * load + self.c2 * load**2)

    def of_one_more(self, load: Array) -> Array:
        """Compute what one kWh more costs, money, at loads in kW."""
        return np.asarray(self.c1 + 2 * self.c2 * load)


class Thresholds(StrictModel):
    """The thresholds of [PR-21]: of a prosumer's DR quantity, kW, and of both profits in any slot, money an hour."""

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

    `offer` has the tariff and the event; `system_load` is P (T,) kW; `epsilon` the thresholds of [PR-21]; `slot_hours`
    Δ.
    """

    def __init__(
        self,
        offer: Offer,
        system_load: Array,
        cost: OperatingCost,
        tolerance: float,
        epsilon: Thresholds,
        slot_hours: float,
    ) -> None:
        self._offer = offer
        self._system_load, self._cost, self._slot_hours = system_load, cost, slot_hours
        self._tolerance, self._epsilon = tolerance, epsilon
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
        event, hours = self._offer.event, self._slot_hours
        before = np.where(event, self._system_load - pv, self._system_load)
        after = np.where(event, before - dr, before)
        saving_dr_only = hours * (self._cost.evaluate(before) - self._cost.evaluate(after))
        saving = hours * (self._cost.evaluate(self._system_load) - self._cost.evaluate(after))
        profits = {"provider_profit": profit, "utility_saving": saving}
        # The first round is compared with the world without demand response.
        last = self._last or {"provider_profit": np.zeros_like(profit), "utility_saving": saving - saving_dr_only}
        self._last = profits
        changes = {"dr_kw_change": max((body.dr_change_kw for body in fresh), default=0.0)}
        changes |= {f"{key}_change": float(np.max(np.abs(profits[key] - last[key]))) / hours for key in profits}
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
    feeder draws without the event, prosumers included; the DR `event` may be none. Besides the thresholds `epsilon` of
    [PR-21], prices and quantities have to agree with each other to the relative `tolerance`. At the beginning of a
    session it plans with what `forecast` makes of P (in a scenario `forecast.load`, unless that is a prosumer's list);
    for what it supplies beyond what was settled it pays `imbalance_price`, money per kWh, the cost of one more at what
    came where none is given.
    """

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-9
    tariffs: Annotated[dict[Name, NumberPerSlot], Field(min_length=1, max_length=100), PER_SLOT]
    event: Event | None
    cost: OperatingCost
    system_load_kw: Annotated[NumberPerSlot, Field(min_length=1)]
    epsilon: Thresholds = Thresholds()
    forecast: Annotated[Forecast | None, Field(exclude_if=lambda rule: rule is None)] = None
    imbalance_price: Annotated[
        Finite | list[Finite] | None, PER_SLOT, Field(exclude_if=lambda price: price is None)
    ] = None

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when a list per slot or the event has another horizon."""
        for key, numbers in (
            *((f"tariffs.{name}", prices) for name, prices in self.tariffs.items()),
            ("system_load_kw", self.system_load_kw),
            ("forecast", self.forecast),
            ("imbalance_price", self.imbalance_price),
        ):
            if isinstance(numbers, list) and len(numbers) != slots:
                raise ValueError(f"{key} has {len(numbers)} numbers, the horizon has {slots} slots; give one per slot")
        if self.event is not None:
            self.event.check_slots(slots)

    def foresee(self, session: Session) -> Self:
        """Give the settings with the load of the system that is foreseen for a session."""
        if self.forecast is None:
            return self
        return self.model_copy(
            update={"system_load_kw": foresee(self.forecast, self.system_load_kw, session), "forecast": None}
        )

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the settings of one session of a run, with the slots of its window and the part of the event in them."""
        event = None if self.event is None else self.event.in_session(session)
        return super().in_session(session, state).model_copy(update={"event": event})

    def mark_event(self, session: Session) -> NDArray[np.bool_]:
        """Mark the slots of the event, (T,). Raise `ValueError` where it is at clock times that are not there."""
        return np.zeros(session.slots, bool) if self.event is None else self.event.mark(session)

    def strategy(self, session: Session) -> ProsumerLeader:
        """Build the utility's part of the game."""
        return ProsumerLeader(
            Offer.of(self.tariffs, self.mark_event(session)),
            np.array(self.system_load_kw),
            self.cost,
            self.tolerance,
            self.epsilon,
            session.slot_hours,
        )
