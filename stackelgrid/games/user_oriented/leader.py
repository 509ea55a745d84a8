"""The utility company's part in the user-oriented pricing game: it finds the price of each slot.

It maximises its own utility [UO-7], revenue less a charge on the deviation of the load from its mean,

    U_c(p) = w sum_t (p_t - c_t) L_t Δ - sum_t mu_t (L_t - mean L)^2 Δ,    L = L(p) the customers' answer,

under the capacity L_min <= L_t <= L_max [UO-8], in one of two ways:

- `stackelberg`: the leader's own optimum given the answer [UO-16];
- `welfare`: the price at which selfish customers maximise the whole system's utility [UO-B]. It is the marginal cost
  p = grad C(L) plus capacity multipliers, within the price's bounds; C(L) = c.L + sum mu_t (L_t - mean L)^2 [UO-C]. For
  a mu that is the same in all slots this is p_t = c_t + 2 mu (L_t - mean L); otherwise the derivative of the mean,
  -2/T sum mu (L - mean L), stays.

It never sees a customer's problem. In each round it gets the total load at the price that it asked, and the derivative
of that load: `slope`, the part of dL/dp within a slot that elastic appliances cause, and `coupling`, the matrix that
storage causes. It solves its problem on the local model that these give, and asks the price found. Units: kW, slots of
Δ hours, money per kWh; mu is money per kWh per mean kW of the baseline load [UO-D], so that it does not depend on
the size of the system (derived; the paper multiplies mu by kW^2).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from stackelgrid.calendar import Session
from stackelgrid.forecast import Forecast, foresee
from stackelgrid.games.user_oriented.local_response import Array, Observation
from stackelgrid.games.user_oriented.messages import LoadAt, LoadResponse, Price
from stackelgrid.games.user_oriented.search import (
    KEPT_FOR_FIRST,
    NextPrices,
    Objective,
    PriceFound,
    PriceSearch,
    PricingProblem,
)
from stackelgrid.games.user_oriented.utility_company import LEAST_REVENUE_WEIGHT, UtilityCompany
from stackelgrid.model import PER_SLOT, NonNegative, PerSlot, Positive, PositivePerSlot, StrictModel
from stackelgrid.registry import find_algorithm, list_algorithms
from stackelgrid.rounds.settings import QUESTIONS_PER_SESSION, LeaderSettings
from stackelgrid.rounds.strategy import Decision
from stackelgrid.wire.arrays import Finite, PackedArray, Vector

DEFAULT_ALGORITHM = "newton"
_LOG = logging.getLogger("leader_node")
_GAME = "user_oriented"
_KEPT_FOR_RECOMPUTING = 0.1
_TRIAL = 0.99
"""Where answers lead to no next price, one that is lower by a hundredth is tried."""


class UserOrientedLeader:
    """The leader's strategy: translates between the bodies on the wire and the search for the price.

    The first round asks the flat `baseline_price` (T,). `balance` turns the load that answers it, (T,) kW, into the
    charge mu on deviation, (T,) money per kWh per kW. When a price is found, the load there is given to it too, and the
    search begins anew, `recompute` times. In all rounds together the leader asks at most `questions` different prices;
    of a round that would ask more it leaves out the last of the further ones, and it stops when none is left. Its
    utility is over slots of `slot_hours`, Δ, on which the best price does not depend.
    """

    def __init__(
        self,
        make_algorithm: Callable[[PricingProblem], PriceSearch],
        problem: PricingProblem,
        baseline_price: Array,
        balance: Callable[..., Array],
        revenue_weight: float = 1.0,
        recompute: int = 0,
        slot_hours: float = 1.0,
    ) -> None:
        self._make_algorithm, self._problem = make_algorithm, problem
        self._baseline_price = baseline_price
        self._balance = balance
        self._revenue_weight, self._slot_hours = revenue_weight, slot_hours
        self._recompute = self._recomputations_left = recompute
        self._balance_load: Array | None = None
        self._company = problem.company
        self._baseline_load: Array | None = None
        self._all_homes = 0
        self._search: PriceSearch
        self._asked: set[bytes] = set()
        self._answers: list[Observation] = []
        self._next_price = self.open().ask
        self._confirms_with = min(self._next_price.sensitivities, 1)  # homes may keep what no round has asked for
        self._partial_search: tuple[int, PriceSearch] | None = None
        self._baseline_is_estimated = False
        self._asks_baseline_again = False  # a price was found on an estimated one

    def open(self) -> Decision[Price, Price]:
        """Ask the flat price, and what the algorithm wants to know besides; its answer is the baseline."""
        opening = self._make_algorithm(self._problem).open(self._baseline_price)
        return Decision(self._make_question(opening), Price(price=self._baseline_price.tolist()))

    def decide(
        self, signal: Price, answers: Mapping[str, LoadResponse], held: Collection[str]
    ) -> Decision[Price, Price]:
        """Sum the aggregators' answers to a price and find the next one.

        While some homes do not answer, a second search goes on with the others. Once all homes answer again, the first
        search goes on where it was, so that the run ends where it would have ended with no member lost. Homes that come
        after the first round join the search where it is. Once it has found a price, the flat one is asked again, for
        the baseline of all, and the search begins anew: another start could lead to another best price. A `stackelberg`
        search, which has many hills to try, begins anew at once as long as half of the questions are left for that.
        """
        observations = sum_answers(signal, answers, held)
        observed = observations[0]
        self._asked.update(signal.questions)
        self._answers += observations if self._recompute else []
        settlement = Price(price=signal.price)
        if self._baseline_load is None and not observed.load.any():
            # Nobody answers a scenario that was checked so. Ask the same price again: the next answers may be right.
            _LOG.error(
                "nobody draws or feeds in at the flat price", extra={"data": {"load_kw": observed.load.tolist()}}
            )
            return Decision(signal, settlement, account=self._account(observed))
        at_baseline = signal.price == self._baseline_price.tolist()
        if observed.homes > self._all_homes and not at_baseline:
            self._admit(signal, observed)
        elif observed.homes > self._all_homes or (
            observed.homes == self._all_homes and at_baseline and self._asks_baseline_again
        ):
            self._begin(signal, observed)
        account = self._account(observed)
        if observed.homes == self._all_homes:
            if signal != self._next_price:
                return Decision(self._next_price, settlement, account=account)
            self._partial_search = None
        search = self._choose_search(observed.homes)
        result: NextPrices | PriceFound
        residual: float | None
        try:
            result = search.next(observations)
            while isinstance(result, PriceFound) and search is self._search and self._recompute_balance(observed):
                search, account = self._search, self._account(observed)
                result = search.next(observations)
            residual = search.residual if np.isfinite(search.residual) else None
        except (ArithmeticError, np.linalg.LinAlgError) as error:
            # No customers give such answers. Another price puts to the test what these foretell.
            _LOG.error("no next price found", extra={"data": {"error": str(error)}})
            trial = NextPrices(observed.price * _TRIAL, sensitivities=min(signal.sensitivities, 1))
            result, residual = trial, None
        if isinstance(result, PriceFound):
            account |= result.findings
        # The price that was answered is the one to settle, even when the search still wants to change it a little.
        next_price = settlement.model_copy(update={"sensitivities": self._confirms_with})
        if isinstance(result, NextPrices):
            next_price = self._make_question(result)
        if len(self._asked.union(next_price.questions)) > self._problem.questions:
            _LOG.warning("no question left", extra={"data": {"asked": len(self._asked), "residual": residual}})
            why = f"all {self._problem.questions} questions are asked; raise leader.questions_per_session"
            return Decision(settlement, settlement, residual=residual, account=account, stop=why)
        if search is self._search:
            self._next_price = next_price
            if isinstance(result, PriceFound) and self._baseline_is_estimated:
                self._asks_baseline_again, self._next_price = True, self.open().ask
                return Decision(self._next_price, settlement, account=account)
        return Decision(next_price, settlement, isinstance(result, PriceFound), residual, account)

    def _make_question(self, wanted: NextPrices) -> Price:
        """Make the question of the prices wanted, without those of the further ones for which no question is left.

        A tenth of all questions is kept for first prices: for settling, and for beginning anew when homes come late.
        """
        asked = self._asked.union(Price(price=wanted.price.tolist()).questions)
        most = (1 - KEPT_FOR_FIRST) * self._problem.questions
        others = []
        for other in wanted.others:
            asked.add((other + 0.0).tobytes())
            if len(asked) > most:
                break
            others.append(other)
        return Price(
            price=wanted.price.tolist(),
            others=PackedArray.of(np.array(others)) if others else None,
            sensitivities=min(wanted.sensitivities, 1 + len(others)),
        )

    def _begin(self, asked: Price, baseline: Observation) -> None:
        """Start the search at the answer to the flat price, which gives the charge on deviation."""
        self._all_homes, self._baseline_load = baseline.homes, baseline.load
        self._company = replace(self._company, mu=self._balance(baseline.load))
        self._balance_load, self._recomputations_left = None, self._recompute
        self._search = self._make_search(asked)
        self._next_price, self._partial_search = asked, None
        self._baseline_is_estimated, self._asks_baseline_again = False, False

    def _recompute_balance(self, found: Observation) -> bool:
        """Turn the load at the price found into the charge on deviation, and begin anew; False when that is over."""
        if self._recomputations_left == 0 or self._baseline_is_estimated:
            return False
        self._recomputations_left -= 1
        self._balance_load = found.load
        self._company = replace(self._company, mu=self._balance(self._baseline_load, found.load))
        self._search = self._make_search(Price(price=found.price.tolist()), self._answers)
        return True

    def _make_search(self, asked: Price, known: Sequence[Observation] = ()) -> PriceSearch:
        """Make the search that begins with the answers to what was `asked`, for the questions that are left.

        Each time that the balance is still to be recomputed, a tenth of all questions is kept for the search then, yet
        never more than half. What is kept for first prices stays that part of the questions left.
        """
        most = self._problem.questions
        used = len(self._asked.difference(asked.questions))
        left = most - used / (1 - KEPT_FOR_FIRST)
        kept = min(_KEPT_FOR_RECOMPUTING * self._recomputations_left * most, left / 2)
        problem = replace(self._problem, company=self._company, questions=max(int(left - kept), 1), known=known)
        return self._make_algorithm(problem)

    def _admit(self, asked: Price, observed: Observation) -> None:
        """Go on with homes that came after the flat price was asked; until it is asked again, estimate their baseline.

        They are taken to draw as much as the others do on average.
        """
        assert self._baseline_load is not None
        self._baseline_load = self._baseline_load * (observed.homes / self._all_homes)
        self._all_homes, self._baseline_is_estimated, self._asks_baseline_again = observed.homes, True, False
        self._search.company = self._company = replace(self._company, mu=self._balance(self._baseline_load))
        self._next_price, self._partial_search = asked, None
        if self._problem.objective == "stackelberg" and 2 * len(self._asked) <= self._problem.questions:
            self._asks_baseline_again, self._next_price = True, self.open().ask

    def _choose_search(self, homes: int) -> PriceSearch:
        """Give the search of all homes, or while only so many `homes` answer, a copy that goes on with these."""
        if homes == self._all_homes:
            return self._search
        if self._partial_search is None or self._partial_search[0] != homes:
            self._partial_search = homes, deepcopy(self._search)
        return self._partial_search[1]

    def _account(self, observed: Observation) -> dict[str, Any]:
        baseline = observed.load if self._baseline_load is None else self._baseline_load
        return {
            "price": observed.price.tolist(),
            "load_kw": observed.load.tolist(),
            "baseline_load_kw": baseline.tolist(),
            "peak_kw": float(observed.load.max()),
            "par": compute_par(observed.load),
            "leader_utility": self._weigh_utility(observed),
            "homes": observed.homes,
            "capped_slots": find_capped_slots(self._company, observed),
            **({} if self._balance_load is None else {"balance_load_kw": self._balance_load.tolist()}),
        }

    def _weigh_utility(self, observed: Observation) -> float:
        """Give U_c [UO-7], money: the company's is per hour and in units of the weight on revenue."""
        charge = weigh_in_search(self._revenue_weight) * self._company.deviation_charge(observed.load)
        earned = self._revenue_weight * self._company.earn(observed.price, observed.load)
        return self._slot_hours * (earned - charge)


def weigh_in_search(revenue_weight: float) -> float:
    """Give the weight on revenue with which the price is searched for [UO-7]."""
    return max(revenue_weight, LEAST_REVENUE_WEIGHT)


def find_capped_slots(company: UtilityCompany, observed: Observation) -> list[int]:
    """Find the slots, from 1, in which a load is sold at `price_max` that would not change with its price."""
    if observed.slope is None:
        return []
    bends = np.abs(observed.slope) + np.abs(observed.coupling).sum(axis=1)
    capped = (observed.price >= company.price_max * (1 - 1e-9)) & (observed.load > 0) & (bends == 0)
    return [int(slot) + 1 for slot in np.flatnonzero(capped)]


def compute_par(load: Array) -> float | None:
    """Compute the peak-to-average ratio of a load, (T,) kW; None where the mean is no load, less than a microwatt."""
    mean = load.mean()
    return float(load.max() / mean) if mean > 1e-9 else None


def sum_answers(question: Price, answers: Mapping[str, LoadResponse], held: Collection[str] = ()) -> list[Observation]:
    """Sum the answers to each price of a round in the order of the members.

    Of those `held` the load at an earlier price counts at all prices, and has no derivative.
    """
    fresh = {name: body.at_each_price() for name, body in answers.items() if name not in held}
    homes = sum(answers[name].homes - answers[name].held for name in fresh)
    load_only = sum(answers[name].load_only for name in fresh)
    fixed = sum(answers[name].fixed for name in fresh)
    changes = sum(body.starts_changed or 0 for body in answers.values())
    observations = []
    for number, price in enumerate(question.prices):
        load, slope = np.zeros(len(price)), np.zeros(len(price))
        coupling = np.zeros((len(price), len(price)))
        for name, body in answers.items():
            at = fresh[name][number] if name in fresh else LoadAt(body.loads(), None, None)
            load += at.loads.sum(axis=0)
            if at.slope is not None:
                slope += at.slope
            if at.coupling is not None:
                coupling += at.coupling
        bends = number < question.sensitivities
        slope_asked = slope if bends else None
        observations.append(Observation(price, load, slope_asked, coupling, homes, load_only, fixed, changes))
    return observations


def fixed_balance(mu: float, baseline_load: Array) -> Array:
    """Give mu per mean kW of the baseline [UO-D], the same in every slot, (T,); what is fed in counts like a load."""
    return np.full(len(baseline_load), mu / np.abs(baseline_load).mean())


def adaptive_balance(
    mu_high: float, mu_low: float, threshold: float, baseline_load: Array, load: Array | None = None
) -> Array:
    """Give a larger mu where a load is far from its mean, a smaller one elsewhere [UO-E], (T,).

    The load is the baseline unless given. Far means a deviation of more than `threshold` times its mean, up (peak) or
    down (deep off-peak).
    """
    load = baseline_load if load is None else load
    far = np.abs(load - load.mean()) > threshold * np.abs(load).mean()
    return np.asarray(np.where(far, mu_high, mu_low) / np.abs(baseline_load).mean())


class FixedBalance(StrictModel):
    """The same charge on deviation in every slot [UO-D]: `mu` of the leader's settings."""

    kind: Literal["fixed"] = "fixed"


def _require_order(low: str, least: float | list[float], high: str, most: float | list[float] | None) -> None:
    """Raise `ValueError` where a lower bound is above the upper one; lists of other lengths are refused elsewhere."""
    several = {len(value) for value in (least, most) if isinstance(value, list)}
    if most is None or len(several) > 1:
        return
    for slot, (lower, upper) in enumerate(np.broadcast(least, most)):
        if lower > upper:
            where = f" in slot {slot + 1}" if several else ""
            raise ValueError(f"{low} {lower:g} is above {high} {upper:g}{where}; swap them")


class PassedSlots(StrictModel):
    """The slots of a horizon that have passed when it is planned again: their settled load, kW.

    `baseline_load_kw` is the baseline of the whole horizon, from the session that planned it first, which gives mu.
    """

    load_kw: Vector
    baseline_load_kw: Vector


class AdaptiveBalance(StrictModel):
    """A charge by slot [UO-E]: `high` times mu where the baseline is over `threshold` away from its mean, else `low`.

    `threshold` is relative to the mean. `recompute` times the load at the price found takes the place of the baseline.
    """

    kind: Literal["adaptive"]
    high: NonNegative = 2.0
    low: NonNegative = 0.5
    threshold: NonNegative = 0.15
    recompute: Annotated[int, Field(ge=0, le=20)] = 0


class Capacity(StrictModel):
    """Bounds on the total load, kW, a number or one per slot [UO-8]."""

    min_kw: PerSlot = 0.0
    max_kw: Annotated[Positive | list[Positive] | None, PER_SLOT] = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        _require_order("min_kw", self.min_kw, "max_kw", self.max_kw)
        return self


def _name_algorithms(schema: dict[str, Any]) -> None:
    """Name in a JSON Schema the algorithms that are installed."""
    schema["enum"] = list_algorithms(_GAME)


class UtilitySettings(LeaderSettings):
    """The utility company of the user-oriented pricing game.

    `baseline_price` is the flat price before the game, `wholesale_price` c_t a number or one per slot, both in money
    per kWh. `mu` is the charge on deviation, money per kWh per mean kW of the baseline load. `price_min` and
    `price_max` bound the price of either objective, as a regulator does. `revenue_weight` weighs revenue less wholesale
    cost against that charge [UO-7]; at 0 the deviation counts alone. The leader asks at most `questions_per_session`
    different prices; homes may refuse more than they are set to. It finds its price by `algorithm`; one that draws at
    random has a `seed`, the scenario's where none is given. At the beginning of a session it plans with what `forecast`
    makes of the wholesale price (in a scenario `forecast.price`); for what meters count beyond what was settled it pays
    `imbalance_price`, the wholesale price where none is given. `feed_in_price` is what homes are paid for what they
    feed in. `passed` is what a session before this one has left, where this one plans the rest of its horizon again.
    """

    objective: Objective = "stackelberg"
    algorithm: Annotated[str, Field(json_schema_extra=_name_algorithms)] = DEFAULT_ALGORITHM
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    baseline_price: Positive
    wholesale_price: Annotated[Finite | list[Finite], PER_SLOT]
    mu: NonNegative
    revenue_weight: NonNegative = 1.0
    balance: FixedBalance | AdaptiveBalance = Field(default=FixedBalance(), discriminator="kind")
    capacity: Capacity = Capacity()
    price_min: PerSlot = 0.0
    price_max: PositivePerSlot
    forecast: Forecast | None = None
    imbalance_price: Annotated[Finite | list[Finite] | None, PER_SLOT] = None
    feed_in_price: Annotated[NonNegative | list[NonNegative] | None, PER_SLOT] = None
    questions_per_session: Annotated[int, Field(ge=1)] = QUESTIONS_PER_SESSION
    passed: PassedSlots | None = None

    @field_validator("algorithm")
    @classmethod
    def _check_installed(cls, name: str) -> str:
        find_algorithm(_GAME, name)
        return name

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        _require_order("price_min", self.price_min, "price_max", self.price_max)
        least, most = np.max(self.price_min), np.min(self.price_max)
        if not least <= self.baseline_price <= most:
            raise ValueError(
                f"baseline_price {self.baseline_price:g} is outside price_min {least:g} .. "
                f"price_max {most:g}; set it between them"
            )
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.objective == "welfare" and self.revenue_weight != 1:
            raise ValueError(
                f"revenue_weight is {self.revenue_weight:g}, but for objective welfare bills cancel out; leave it at "
                "1, or choose stackelberg"
            )
        if self.revenue_weight == self.mu == 0:
            raise ValueError("revenue_weight and mu are both 0, which leaves nothing to seek; raise one of them")
        return self

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when something is a list of another length than the horizon."""
        for key, value in (
            ("wholesale_price", self.wholesale_price),
            ("forecast", self.forecast),
            ("imbalance_price", self.imbalance_price),
            ("price_min", self.price_min),
            ("price_max", self.price_max),
            ("feed_in_price", self.feed_in_price),
            ("capacity.min_kw", self.capacity.min_kw),
            ("capacity.max_kw", self.capacity.max_kw),
        ):
            if isinstance(value, list) and len(value) != slots:
                raise ValueError(f"{key} has {len(value)} numbers, the horizon has {slots} slots; give one per slot")

    def foresee(self, session: Session) -> Self:
        """Give the settings with the wholesale price that is foreseen for a session."""
        if self.forecast is None:
            return self
        foreseen = foresee(self.forecast, self.wholesale_price, session)
        return self.model_copy(update={"wholesale_price": foreseen, "forecast": None})

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the settings of a session. Of a horizon that is planned again, what has passed counts in the deviation.

        So a plan that is right stays right. That is for `welfare`, whose price is the derivative of the whole charge.
        """
        settings = super().in_session(session)
        if not state or state["end"] != session.window.stop:
            return settings
        passed = PassedSlots.model_validate(state["passed"])
        if len(passed.load_kw) + session.slots < len(passed.baseline_load_kw):
            return settings  # a session between ended without any answer: the load of its slots is not known
        return settings.model_copy(update={"passed": passed})

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give the load of the binding slots, and of those of the same horizon that had passed before."""
        if self.objective != "welfare" or session.binding == session.slots:
            return {}
        before = self.passed or PassedSlots.model_construct(load_kw=[], baseline_load_kw=account["baseline_load_kw"])
        load = [*before.load_kw, *account["load_kw"][: session.binding]]
        passed = {"load_kw": load, "baseline_load_kw": before.baseline_load_kw}
        return {"end": session.window.stop, "passed": passed}

    def company(self, slots: int) -> UtilityCompany:
        """Build the company as arrays; mu is zero until the baseline is known, but for slots that have passed."""
        passed = np.array([] if self.passed is None else self.passed.load_kw)
        before = passed if self.passed is None else self._charge_whole(np.array(self.passed.baseline_load_kw))

        def spread(value: float | list[float]) -> Array:
            return np.broadcast_to(np.array(value, float), (slots,)).copy()

        least, most = self.capacity.min_kw, self.capacity.max_kw
        return UtilityCompany(
            wholesale_price=spread(self.wholesale_price),
            mu=np.zeros(slots),
            load_min=np.where(spread(least) > 0, spread(least), -np.inf),
            load_max=spread(np.inf if most is None else most),
            price_min=spread(self.price_min),
            price_max=spread(self.price_max),
            passed_load=passed,
            passed_mu=before[: len(passed)],
        )

    def charge(self, baseline: Array, load: Array | None = None) -> Array:
        """Give mu_t, (T,) money per kWh per kW, from the baseline load and, adaptive, the one found [UO-D], [UO-E].

        Of a horizon that is planned again, the baseline is that of the whole of it.
        """
        if self.passed is None:
            return self._charge_whole(baseline, load)
        return self._charge_whole(np.array(self.passed.baseline_load_kw))[len(self.passed.load_kw) :]

    def _charge_whole(self, baseline: Array, load: Array | None = None) -> Array:
        if isinstance(self.balance, FixedBalance):
            return fixed_balance(self.mu, baseline)
        kind = self.balance
        return adaptive_balance(kind.high * self.mu, kind.low * self.mu, kind.threshold, baseline, load)

    def strategy(self, session: Session) -> UserOrientedLeader:
        """Build the leader's strategy for a session."""
        weight = weigh_in_search(self.revenue_weight)

        def balance(*loads: Array) -> Array:
            return self.charge(*loads) / weight

        company = self.company(session.slots)
        flat = np.full(session.slots, self.baseline_price)
        problem = PricingProblem(company, self.objective, self.tolerance, self.questions_per_session, self.seed or 0)
        make_algorithm = find_algorithm(_GAME, self.algorithm).load("leader")
        recompute = self.balance.recompute if isinstance(self.balance, AdaptiveBalance) else 0
        return UserOrientedLeader(
            make_algorithm, problem, flat, balance, self.revenue_weight, recompute, session.slot_hours
        )
