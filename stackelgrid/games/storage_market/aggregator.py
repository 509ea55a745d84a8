"""The DRA (demand response aggregator) of the storage market: it adds up its homes' load and trades their batteries.

In rounds without bids it asks its homes. In rounds with bids they hold, and it answers alone with its bid [SM-9]. Its
costs and its homes' batteries stay with it: the leader sees the bid, (q, u), the slope k of the supply function on
which it lies [SM-11], and the rated power. MW.

Its members are homes' processes. Under masks they are groups of homes, of which it sees sums and the weakest battery.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from stackelgrid.calendar import Session
from stackelgrid.errors import SolverError
from stackelgrid.games.storage_market.battery_bid import BatteryMarket, Bid, Fleet, Terms
from stackelgrid.games.storage_market.messages import (
    Clearing,
    DraAnswer,
    FleetPlan,
    HomesAnswer,
    MarketSignal,
    PriceCurve,
    Tariff,
)
from stackelgrid.model import SMALLEST
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply
from stackelgrid.wire.arrays import LARGEST, Array

_LOG = logging.getLogger("aggregator_node")
_KW_PER_MW = 1000.0
_MOST_BREACHES, _MOST_BREACHES_OF_GROUP = 3, 10
_ROUNDING = 1e-9
_FIXED_POINT_KW = 2.0**-31
"""By so much a home may seem to miss its offer in a sum under masks."""


QuadraticCost = Annotated[float, Field(ge=SMALLEST, le=1e6, allow_inf_nan=False)]
WearCost = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class DraCosts(AggregatorSettings):
    """The costs of a DRA for what it sells, besides the energy: `quadratic` a in $/MW^2h, `wear` in $/MWh."""

    quadratic: QuadraticCost
    wear: WearCost = 0.0

    def strategy(self, session: Session, homes: Mapping[str, int]) -> StorageMarketDra:
        """Create the DRA's part of the game."""
        return StorageMarketDra(self.quadratic, self.wear, session, homes)

    def group_strategy(
        self, session: Session, groups: Mapping[str, int], max_kw: Mapping[str, float]
    ) -> StorageMarketDra:
        """Create it under masks, for so many homes of each group."""
        return StorageMarketDra(self.quadratic, self.wear, session, groups, of_groups=True)


@dataclass(frozen=True)
class HomesState:
    """The part of a `DraAnswer` that describes the homes: MW, MWh."""

    homes: int
    held: int
    excluded: int
    load: list[float]
    usual: list[float]
    offer: list[float]
    starts: list[float]
    wanted: float
    regret: float
    moved: list[float] | None

    def held_still(self) -> HomesState:
        """Give the same homes while nobody asks them: they offer nothing."""
        return replace(self, offer=self.load, starts=self.load)


class Conduct:
    """How one member keeps to the rules [SM-15]: it goes where it offered to go, and offers what costs less.

    After so many breaches that it cannot have restarted as often, the member counts with the load before them, `kept`,
    and with no offer: the others would else find no schedule to rest at. What each home keeps to holds of the sum
    of a group, too; but each of them may have restarted.
    """

    def __init__(self, *, of_group: bool = False) -> None:
        self._most_breaches = _MOST_BREACHES_OF_GROUP if of_group else _MOST_BREACHES
        self._fixed_point_kw = _FIXED_POINT_KW if of_group else 0.0
        self._last: HomesAnswer | None = None
        self._breaches = 0
        self.kept: HomesAnswer | None = None

    def judge(self, asked: Tariff, answer: HomesAnswer) -> HomesAnswer:
        """Judge a fresh answer and give the one that counts."""
        last, self._last = self._last, answer
        if last is not None and self.kept is None:
            self._breaches += _is_breach(asked, last, answer, self._fixed_point_kw * answer.homes)
            if self._breaches >= self._most_breaches:
                still = {"offer_kw": last.load_kw, "starts_kw": last.load_kw, "wanted_kwh": 0.0, "regret": 0.0}
                self.kept = last.model_copy(update=still)
        return self.kept or answer

    def miss(self) -> None:
        """Note a round without an answer: the member may have moved in it."""
        self._last = None


def _is_breach(asked: Tariff, last: HomesAnswer, answer: HomesAnswer, fixed_point_kw: float) -> bool:
    """Tell whether an answer goes elsewhere than the one before offered, or offers what costs more.

    Not where it does by no more than `fixed_point_kw`, by which numbers are rounded.
    """
    load, turn, price = np.array(answer.load_kw), asked.turn, np.array(asked.price)
    due = np.array(last.load_kw)
    due = due + turn.step * (np.array(last.offer_kw) - due) + turn.starts * (np.array(last.starts_kw) - due)
    rounding = _ROUNDING * float(np.abs(load).max()) + fixed_point_kw
    before = (answer.usual_kw, answer.moved_kw) == (last.usual_kw, last.moved_kw)
    elsewhere = float(np.abs(load - due).max()) > rounding or not before
    offers = (np.array(answer.offer_kw), np.array(answer.starts_kw))
    dearest = max(float(price @ (offer - load)) for offer in offers)
    return elsewhere or dearest > float(np.abs(price) @ (_ROUNDING * load + fixed_point_kw))


class StorageMarketDra:
    """The DRA's strategy, between the leader's terms, its homes and its best response.

    `homes` is the number of homes behind each member. Batteries count from the first answer of their member on, with
    what that answer disclosed; a home that is held or excluded goes on following the plan.
    """

    def __init__(
        self, quadratic: float, wear: float, session: Session, homes: Mapping[str, int], *, of_groups: bool = False
    ) -> None:
        self._quadratic, self._wear, self._homes = quadratic, wear, homes
        self._slots, self._slot_hours = session.slots, session.slot_hours
        self._fleets: dict[str, Fleet] = {}
        self._market = BatteryMarket(Fleet.none(), quadratic, wear, session.slots, session.slot_hours)
        self._bid = Bid.nothing(session.slots)
        self._signal: MarketSignal | None = None
        self._homes_state: HomesState | None = None
        self._asking = False
        self._conducts = {name: Conduct(of_group=of_groups) for name in homes}

    def open(self, signal: MarketSignal) -> Ask[Tariff] | Reply[DraAnswer]:
        """Answer alone where homes hold, once they have answered; else ask them."""
        if self._asking:  # The leader no longer waits for the last question; some homes may have moved at it.
            self._miss(self._homes)
        self._signal, self._asking = signal, False
        if signal.hold and self._homes_state is not None:
            return self._reply(self._homes_state.held_still())
        self._asking = True
        return Ask(Tariff(price=signal.price, turn=signal.turn))

    def on_answers(
        self, asked: Tariff, answers: Mapping[str, HomesAnswer], held: Collection[str], excluded: Collection[str]
    ) -> Reply[DraAnswer]:
        """Add up the homes' loads and answer with them and the bid."""
        self._asking = False
        self._add_batteries(answers)
        fresh = {name: self._conducts[name].judge(asked, answers[name]) for name in answers if name not in held}
        self._miss(self._homes.keys() - fresh.keys())
        counted = {name: fresh.get(name) or self._conducts[name].kept or body for name, body in answers.items()}
        return self._reply(
            HomesState(
                homes=sum(self._homes[name] for name in answers),
                held=sum(self._homes[name] for name in held),
                excluded=sum(self._homes[name] for name in excluded),
                load=self._sum(body.load_kw for body in counted.values()),
                usual=self._sum(body.usual_kw for body in counted.values()),
                offer=self._sum(body.offer_kw if name in fresh else body.load_kw for name, body in counted.items()),
                starts=self._sum(body.starts_kw if name in fresh else body.load_kw for name, body in counted.items()),
                wanted=min(sum(body.wanted_kwh for body in fresh.values()) / _KW_PER_MW, LARGEST),
                regret=max((body.regret for body in fresh.values()), default=0.0),
                moved=self._sum_moved(counted.values()),
            )
        )

    def settle(self, settlement: Clearing) -> Ending[FleetPlan]:
        """Share the bid that stands among the homes by battery capacity."""
        bid, fleet = self._bid, self._market.fleet
        share = 1 / fleet.installed if fleet.installed > 0 else 0.0
        plan = FleetPlan(price=settlement.price, charge=(share * bid.charge).tolist(), sold=(share * bid.sold).tolist())
        account = {
            "charge_mw": bid.charge.tolist(),
            "sold_mw": bid.sold.tolist(),
            "level_mwh": fleet.level(bid.charge, bid.sold, self._slot_hours).tolist(),
            "fleet": {key: value for key, value in vars(fleet).items() if key != "rise"},
        }
        return Ending(plan, account)

    def _miss(self, names: Iterable[str]) -> None:
        for name in names:
            self._conducts[name].miss()

    def _sum(self, loads: Iterable[Sequence[float]]) -> list[float]:
        """Add up homes' loads in kW, give MW."""
        total = sum((np.array(load) for load in loads), np.zeros(self._slots)) / _KW_PER_MW
        return [float(each) for each in np.minimum(total, LARGEST)]

    def _sum_moved(self, bodies: Iterable[HomesAnswer]) -> list[float] | None:
        """Add up what earlier sessions have moved, in kW, and give MW; None where there are none."""
        moved = [body.moved_kw for body in bodies if body.moved_kw is not None]
        return (np.sum(moved, axis=0) / _KW_PER_MW).tolist() if moved else None

    def _add_batteries(self, answers: Mapping[str, HomesAnswer]) -> None:
        """Add the batteries of homes that answer for the first time; a bid made without them is void."""
        new = {
            name: Fleet(
                b.capacity / _KW_PER_MW,
                (b.initial + b.headroom) * b.capacity / _KW_PER_MW,
                b.initial * b.capacity / _KW_PER_MW,
                b.power * b.capacity / _KW_PER_MW,
                b.efficiency,
                (b.rise or 0.0) * b.capacity / _KW_PER_MW,
            )
            for name, body in answers.items()
            if name not in self._fleets and (b := body.batteries) is not None
        }
        if new:
            self._fleets |= new
            fleet = Fleet.of([self._fleets[name] for name in self._homes if name in self._fleets])
            self._market = BatteryMarket(fleet, self._quadratic, self._wear, self._slots, self._slot_hours)
            self._bid = Bid.nothing(self._slots)

    def _reply(self, homes: HomesState) -> Reply[DraAnswer]:
        """Answer with the state of the `homes` and the bid, which first moves when the leader asks for that."""
        assert self._signal is not None
        signal, change = self._signal, 0.0
        if signal.curve is not None:
            cap = np.array(signal.sales_cap) * self._market.fleet.power
            change = self._move(_read_terms(signal, signal.curve, cap), signal.step)
        paid = np.array(signal.price) if signal.price_cap is None else np.minimum(signal.price, signal.price_cap)
        bid = self._bid
        self._homes_state = homes
        answer = DraAnswer(
            **vars(homes),
            charge=bid.charge.tolist(),
            sold=bid.sold.tolist(),
            supply_slope=self._market.supply_slope(paid, bid).tolist(),
            bid_change=change,
            rated_power=self._market.fleet.power,
        )
        return Reply(answer)

    def _move(self, terms: Terms, step: float) -> float:
        """Move the bid by `step` towards the best response [SM-6] and give the largest change, MW.

        Where the bid as it stands is above its caps, or ends with too little in store, it moves all the way.
        """
        last = self._bid
        try:
            best = self._market.best_response(terms, last)
        except SolverError as error:
            # No market has such terms: the bid stands, the leader's next terms may be right.
            _LOG.error("the bid stays as it is", extra={"data": {"error": str(error)}})
            return 0.0
        outside = bool((last.sold > terms.sales_cap).any()) or not self._market.reaches_end(last)
        self._bid = last.towards(best, 1.0 if outside else step)
        return _largest(self._bid.charge - last.charge, self._bid.sold - last.sold)


def _read_terms(signal: MarketSignal, curve: PriceCurve, sales_cap: Array) -> Terms:
    """Read the terms of a signal, for a DRA that may sell `sales_cap`."""
    slots = len(signal.price)
    price_cap = np.full(slots, np.inf if signal.price_cap is None else signal.price_cap)
    terms = (np.array(signal.price), curve.slope.array(), sales_cap, price_cap)
    if curve.kinks is None or curve.room is None or curve.jump is None:
        return Terms(*terms, np.zeros((0, slots)), np.zeros(0), np.zeros(0))
    return Terms(*terms, curve.kinks.array(), curve.room.array(), curve.jump.array())


def _largest(*changes: Sequence[float] | Array) -> float:
    return max(float(np.max(np.abs(change))) for change in changes)
