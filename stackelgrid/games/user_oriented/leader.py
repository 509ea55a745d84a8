"""What the utility company solves in the user-oriented pricing game: the price of each slot.

It maximises its own utility (equation 7), revenue less a charge on the deviation of the load from its mean,

    U_c(p) = sum_t (p_t - c_t) L_t - sum_t mu_t (L_t - mean L)^2,      L = L(p) the customers' answer,

under the capacity L_min <= L_t <= L_max (equation 8), in one of two ways:

- `stackelberg`: the leader's own optimum given the answer (problem 16);
- `welfare`: the price at which selfish customers maximise the whole system's utility (proof of Theorem 1), the
  marginal cost p = grad C(L) plus capacity multipliers, C(L) = c.L + sum mu_t (L_t - mean L)^2. For a mu that is the
  same in all slots this is p_t = c_t + 2 mu (L_t - mean L); otherwise the mean's own derivative, -2/T sum mu (L - mean
  L), stays (derived).

It never sees a customer's problem. It learns, per round, the total load at the price it asked and how that load
bends: `slope`, the part of dL/dp within a slot that elastic appliances cause, and `coupling`, the matrix that storage
causes. It solves its problem on that local model inside a trust region and asks again. Units: kW per slot of one
hour, money per kWh; mu is given in money per kWh per mean kW of the baseline load, so that it does not depend on the
size of the system (derived; the paper multiplies mu by kW^2).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.user_oriented.local_response import Array, Observation
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.games.user_oriented.search import Ask, Search, Settle
from stackelgrid.games.user_oriented.stackelberg import StackelbergSearch
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.games.user_oriented.welfare import WelfareSearch
from stackelgrid.model import NonNegative, Positive, StrictModel
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.rounds.strategy import Decision
from stackelgrid.wire.arrays import Finite, Vector

Objective = Literal["stackelberg", "welfare"]

_LOG = logging.getLogger("leader_node")


class UserOrientedLeader:
    """The leader's strategy: between the bodies on the wire and the negotiation.

    `balance` turns the baseline load, (T,) kW, into the charge mu on deviation, (T,) money per kWh per kW; it is known
    once the flat `baseline_price` (T,) has been answered.
    """

    def __init__(
        self,
        company: UtilityCompany,
        objective: Objective,
        baseline_price: Array,
        balance: Callable[[Array], Array],
        tolerance: float = 1e-6,
    ) -> None:
        self._baseline_price = baseline_price
        self._balance = balance
        self._company = company
        self._kind: type[StackelbergSearch] | type[WelfareSearch]
        self._kind = StackelbergSearch if objective == "stackelberg" else WelfareSearch
        self._tolerance = tolerance
        self._baseline_load: Array | None = None
        self._everyone = 0
        self._search: Search
        self._wanted = Price(price=baseline_price.tolist())
        self._makeshift: tuple[int, Search] | None = None

    def open(self) -> Decision[Price, Price]:
        """The flat price, whose answer is the baseline."""
        flat = Price(price=self._baseline_price.tolist())
        return Decision(flat, flat)

    def decide(
        self, signal: Price, answers: Mapping[str, LoadResponse], held: Collection[str]
    ) -> Decision[Price, Price]:
        """Sum the aggregators' answers to a price, find the next one.

        While some homes do not answer, the search goes on for the others on the side; once all are back it goes on
        where it was, so that a run which lost members on its way ends where it would have without.
        """
        seen = observation(np.array(signal.price), answers, held)
        if seen.homes > self._everyone:
            if signal.price != self._baseline_price.tolist():  # the baseline was of fewer homes: begin again
                return Decision(self.open().ask, signal, account=self._account(seen))
            self._begin(seen)
        account = self._account(seen)
        if seen.homes == self._everyone:
            if signal != self._wanted:
                return Decision(self._wanted, signal, account=account)
            self._makeshift = None
        search = self._searching(seen.homes)
        try:
            verdict = search.next(seen)
        except (ArithmeticError, np.linalg.LinAlgError) as error:
            # Answers that no customers would give: ask again, they may come to their senses before the rounds run out.
            _LOG.error("no price could be worked out", extra={"data": {"error": str(error)}})
            return Decision(signal, signal, account=account)
        # What is settled is the price that was answered, even when a better one is still wanted.
        wanted = Price(price=verdict.price.tolist()) if isinstance(verdict, Ask) else signal
        if search is self._search:
            self._wanted = wanted
        return Decision(wanted, signal, isinstance(verdict, Settle), search.residual, account)

    def _begin(self, seen: Observation) -> None:
        """The answer to the flat price: the baseline, and with it the charge on deviation."""
        self._everyone, self._baseline_load = seen.homes, seen.load
        self._company = replace(self._company, mu=self._balance(seen.load))
        self._search = self._kind(self._company, self._tolerance)
        self._wanted, self._makeshift = Price(price=seen.price.tolist()), None

    def _searching(self, homes: int) -> Search:
        """The search, or while only so many `homes` answer, one of their own that begins with what it knows."""
        if homes == self._everyone:
            return self._search
        if self._makeshift is None or self._makeshift[0] != homes:
            self._makeshift = homes, deepcopy(self._search)
        return self._makeshift[1]

    def _account(self, seen: Observation) -> dict[str, Any]:
        baseline = seen.load if self._baseline_load is None else self._baseline_load
        return {
            "price": seen.price.tolist(),
            "load_kw": seen.load.tolist(),
            "baseline_load_kw": baseline.tolist(),
            "peak_kw": float(seen.load.max()),
            "par": float(seen.load.max() / seen.load.mean()),
            "leader_utility": self._company.utility(seen.price, seen.load),
            "homes": seen.homes,
        }


def observation(price: Array, answers: Mapping[str, LoadResponse], held: Collection[str] = ()) -> Observation:
    """What a round taught, summed over the answers in the order of the members; those `held` do not bend."""
    load, slope = np.zeros(len(price)), np.zeros(len(price))
    coupling = np.zeros((len(price), len(price)))
    homes = 0
    for name, body in answers.items():
        load += body.loads().sum(axis=0)
        if name in held:
            continue
        homes += body.homes - body.held
        slope += body.slope
        if body.coupling is not None:
            coupling += body.coupling.array()
    return Observation(price, load, slope, coupling, homes)


def fixed_balance(mu: float, baseline_load: Array) -> Array:
    """mu per mean kW of the baseline, the same in every slot."""
    return np.full(len(baseline_load), mu / baseline_load.mean())


def adaptive_balance(mu_high: float, mu_low: float, threshold: float, baseline_load: Array) -> Array:
    """A larger mu where the baseline is far from its mean, peak or deep off-peak, a smaller one elsewhere (4.4).

    Far is a deviation of more than `threshold` times the mean (reading).
    """
    mean = baseline_load.mean()
    far = np.abs(baseline_load - mean) > threshold * mean
    return np.asarray(np.where(far, mu_high, mu_low) / mean)


class FixedBalance(StrictModel):
    """The same charge on deviation in every slot: `mu` of the leader's settings."""

    kind: Literal["fixed"] = "fixed"


class AdaptiveBalance(StrictModel):
    """`high` times mu in slots whose baseline load is more than `threshold` of the mean away from it, else `low`."""

    kind: Literal["adaptive"]
    high: NonNegative = 2.0
    low: NonNegative = 0.5
    threshold: NonNegative = 0.15


class Capacity(StrictModel):
    """Bounds on the total load, kW."""

    min_kw: NonNegative = 0.0
    max_kw: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_kw is not None and self.min_kw > self.max_kw:
            raise ValueError(f"min_kw {self.min_kw:g} is above max_kw {self.max_kw:g}")
        return self


class UtilitySettings(LeaderSettings):
    """The utility company of the user-oriented pricing game.

    `baseline_price` is the flat price before the game, `wholesale_price` c_t a number or one per slot, both in money
    per kWh. `mu` is the charge on deviation in money per kWh per mean kW of the baseline load. `price_min` and
    `price_max` bound the price of a `stackelberg` leader, as a regulator would; a `welfare` price follows cost alone.
    """

    objective: Literal["stackelberg", "welfare"] = "stackelberg"
    baseline_price: Positive
    wholesale_price: Finite | Vector
    mu: NonNegative
    balance: FixedBalance | AdaptiveBalance = Field(default=FixedBalance(), discriminator="kind")
    capacity: Capacity = Capacity()
    price_min: NonNegative = 0.0
    price_max: Positive

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if not self.price_min <= self.baseline_price <= self.price_max:
            raise ValueError(
                f"baseline_price {self.baseline_price:g} is outside price_min {self.price_min:g} .. "
                f"price_max {self.price_max:g}"
            )
        return self

    def check_slots(self, slots: int) -> None:
        """Raises `ValueError` when there is a wholesale price per slot, but not for each slot."""
        price = self.wholesale_price
        if isinstance(price, list) and len(price) != slots:
            raise ValueError(f"wholesale_price has {len(price)} numbers, the horizon has {slots} slots")

    def company(self, slots: int) -> UtilityCompany:
        """The same as arrays, the charge on deviation still unknown (zero)."""
        return UtilityCompany(
            wholesale_price=np.broadcast_to(np.array(self.wholesale_price, float), (slots,)).copy(),
            mu=np.zeros(slots),
            load_min=np.full(slots, self.capacity.min_kw or -np.inf),
            load_max=np.full(slots, self.capacity.max_kw or np.inf),
            price_min=self.price_min,
            price_max=self.price_max,
        )

    def strategy(self, slots: int) -> UserOrientedLeader:
        """The leader's strategy over a horizon of `slots`."""
        if isinstance(self.balance, AdaptiveBalance):
            kind = self.balance
            balance = partial(adaptive_balance, kind.high * self.mu, kind.low * self.mu, kind.threshold)
        else:
            balance = partial(fixed_balance, self.mu)
        flat = np.full(slots, self.baseline_price)
        return UserOrientedLeader(self.company(slots), self.objective, flat, balance, self.tolerance)
