"""What the utility does in the storage market: it dispatches, prices, lets homes reschedule and batteries compete.

Demand D is what was expected plus what homes changed, N = D - Q the net demand when batteries deliver Q = sum x_i net
of what they charge. Economic dispatch (`dispatch`) gives the supply cost C(N) and its gradient, the
real-time price lambda(N). The leader plays three phases (all readings of the abstract).

**Schedule.** Groups of appliances take turns; homes reschedule those that have the turn where that saves more than the
`inertia` at the price. C is a potential: convex, with the price as its gradient. Where energy moved and C did not fall,
too much moved at one price: the group goes back, groups and inertia double. Where nothing moved, groups merge in pairs.
It ends when nobody wants to move, never at a higher cost than it began, and it does end (derived): each failure doubles
the inertia, and at an inertia of 1 nobody can save enough, so there are finitely many; every other round that moves
anything lowers C strictly, over finitely many schedules; and rounds that move nothing soon leave a single group, of all
who want to move.

**Market.** Homes hold. Each DRA may sell its share, by rated power, of theta D, and is told how the price falls with
what it sells: by the slope s, the chord of the price between D and D - theta D. It answers with its best bid; the
leader dispatches anew, until bids repeat. At the end the clearing price is lambda(N) exactly and no DRA gains from
another bid on its line. Such bids are the minimum of a strictly convex potential (derived),

    Phi = C(D - sum_i x_i) + sum_i sum_t [ s x_i^2 / 2 + a_i q_i^2 + wear_i q_i ],

so that there is exactly one equilibrium; a round is a proximal gradient step on Phi, which descends for short steps:
the part `step` of the way to the best responses, 4/(n + 2) for n DRAs to begin with (derived: best where s is the slope
of the price and a = 0), halves whenever bids turn back by more than half of their last move.

**Theta.** The leader minimises J = C(N) + lambda(N) . Q, supply cost and net purchases, what DRAs pay for charging
taken off (derived: at gross purchases all that charging costs would be a loss). J <= C(D) at every theta, by convexity.
It doubles or halves theta as long as J falls by more than a millionth.

Homes may want to move at the new price. The leader then doubles the inertia, goes through schedule and market again
with theta as it is, and settles once a market has left nobody wanting to move. The inertia bounds how often (derived).
MW per slot of one hour, dollars per MWh.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.storage_market.dispatch import Array, Dispatch, EconomicDispatch, GeneratingUnit
from stackelgrid.games.storage_market.messages import Clearing, DraAnswer, MarketSignal, Turn
from stackelgrid.model import NonNegative, Positive, StrictModel
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.rounds.strategy import Decision
from stackelgrid.wire.arrays import LARGEST
from stackelgrid.wire.names import Name

_LOG = logging.getLogger("leader_node")

_WORTH = 1e-6
"""A theta is better when it lowers J by more than this part of it."""
_FALLS = 1e-9
"""C has fallen when it did by more than this part of it: the dispatch is exact to less."""
_LEAST_SLOPE = 1e-3
"""Where the price does not bend within theta D, a bid still has to be unique: $/MWh per MW."""
_LEAST_POWER = 1e-9
"""Batteries of less power, MW, are none."""
# What no homes and DRAs that keep the game's rules ever come to.
_MOST_GROUPS = 1024
_MOST_INERTIA = 1024.0
_LEAST_STEP = 1e-9
_STEADY = 3
"""Rounds in which bids do not turn back, after which they may move further from round to round."""


@dataclass(frozen=True)
class Seen:
    """What a round taught: `demand` D (T,) before batteries, bids by DRA, the dispatch of what is left, MW.

    `moved` and `wanted` are MWh; `bid_change` is the largest move of a bid in this round, relative to `rated_power`.
    """

    demand: Array
    charge: Mapping[str, Array]
    sold: Mapping[str, Array]
    supply_slope: Mapping[str, Array]
    dispatch: Dispatch
    moved: float
    wanted: float
    bid_change: float
    rated_power: float
    homes: int

    @property
    def net_sold(self) -> Array:
        """Q, (T,) MW."""
        zero = np.zeros(len(self.demand))
        return np.asarray(sum(self.sold.values(), zero) - sum(self.charge.values(), zero))

    def moved_since(self, other: Seen) -> Array:
        """How all bids have moved since `other`, as one array, MW; empty when not the same DRAs have bid."""
        if self.sold.keys() != other.sold.keys():
            return np.zeros(0)
        moves = [self.sold[name] - other.sold[name] for name in self.sold]
        moves += [self.charge[name] - other.charge[name] for name in self.charge]
        return np.concatenate([np.zeros(0), *moves])

    @property
    def total_cost(self) -> float:
        """J: supply cost and net purchases, dollars."""
        return self.dispatch.cost + float(self.dispatch.price @ self.net_sold)


@dataclass(frozen=True)
class Wish:
    """What the leader wants of the next round, at the price that follows from the last: bids, a turn, or to settle."""

    phase: str
    bid: bool = False
    turn: int | None = None
    back: bool = False
    settle: bool = False


Phase = Generator[Wish, Seen, Seen]
"""A part of the play: it wishes, sees what came of it, and returns what it saw last."""


class StorageMarketLeader:
    """The leader's strategy. `expected` (T,) is the demand before anybody reschedules, MW.

    Homes that are not heard are taken to draw what was expected of them.
    """

    def __init__(
        self, dispatch: EconomicDispatch, expected: Array, theta: float, groups: int, inertia: float, tolerance: float
    ) -> None:
        self._dispatch, self._expected = dispatch, expected
        self._theta, self._groups, self._inertia, self._tolerance = theta, groups, inertia, tolerance
        self._slope, self._cap = np.full(len(expected), _LEAST_SLOPE), np.zeros(len(expected))
        self._turn, self._step = 0, 1.0
        self._play: Generator[Wish, Seen, None] = self._protocol()
        self._wish = next(self._play)
        self._last = self._see({}, ())

    def open(self) -> Decision[MarketSignal, Clearing]:
        """The price of the demand expected, at which nobody moves yet."""
        price = _on_the_wire(self._last.dispatch.price)
        return Decision(self._signal(price), Clearing(price=price))

    def decide(
        self, signal: MarketSignal, answers: Mapping[str, DraAnswer], held: Collection[str]
    ) -> Decision[MarketSignal, Clearing]:
        """Dispatch for what was answered, go on with the play."""
        try:
            seen = self._see(answers, held)
        except ArithmeticError as error:
            # Answers that no homes would give: ask again, they may come to their senses before the rounds run out.
            _LOG.error("no dispatch could be worked out", extra={"data": {"error": str(error)}})
            return Decision(signal, Clearing(price=signal.price), account=self._account(self._wish.phase, self._last))
        account = self._account(self._wish.phase, seen)
        residual = seen.bid_change if self._wish.bid else seen.wanted / max(float(np.abs(seen.demand).sum()), 1e-12)
        self._wish, self._last = self._play.send(seen), seen
        price = _on_the_wire(seen.dispatch.price)
        return Decision(self._signal(price), Clearing(price=price), self._wish.settle, residual, account)

    # --- the play ---

    def _protocol(self) -> Generator[Wish, Seen, None]:
        seen = yield Wish("schedule")
        seen = yield from self._schedule(seen)
        if seen.rated_power > _LEAST_POWER:
            seen = yield from self._search_theta(seen)
            seen = yield Wish("check")
        while True:
            while seen.wanted == 0:
                seen = yield Wish("check", settle=True)
            self._stiffen()
            seen = yield from self._schedule(seen)
            if seen.rated_power > _LEAST_POWER:
                seen = yield from self._clear(seen, self._theta, self._tolerance)
                seen = yield Wish("check")

    def _schedule(self, seen: Seen) -> Phase:
        """Groups take turns until nobody wants to move."""
        while seen.wanted > 0 or seen.moved > 0:
            before, turn = seen.dispatch.cost, self._turn % self._groups
            self._turn += 1
            seen = yield Wish("schedule", turn=turn)
            if seen.moved == 0:
                self._groups = max(self._groups // 2, 1)
            elif seen.dispatch.cost >= before - _FALLS * abs(before):
                seen = yield Wish("schedule", turn=turn, back=True)
                self._groups = min(2 * self._groups, _MOST_GROUPS)
                self._stiffen()
        return seen

    def _stiffen(self) -> None:
        self._inertia = min(2 * self._inertia, _MOST_INERTIA)

    def _search_theta(self, seen: Seen) -> Phase:
        """Theta doubled, or else halved, while that lowers J; returns with the market cleared at the best one.

        Shares are compared with bids that have nearly come to rest.
        """
        nearly = 100 * self._tolerance
        best_theta = self._theta
        best = yield from self._clear(seen, best_theta, nearly)
        for factor in (2.0, 0.5):
            better = False
            while (trial := factor * best_theta) <= 1:
                seen = yield from self._clear(seen, trial, nearly)
                if seen.total_cost >= best.total_cost - _WORTH * abs(best.total_cost):
                    break
                best, best_theta, better = seen, trial, True
            if better:
                break
        return (yield from self._clear(seen, best_theta, self._tolerance))

    def _clear(self, seen: Seen, theta: float, tolerance: float) -> Phase:
        """Bids and prices, until bids repeat."""
        self._announce(theta, seen)
        bidders = max(len(seen.sold), 1)
        longest = self._step = min(4 / (bidders + 2), 1.0)
        moved, steady = np.zeros(0), 0
        while True:
            before, seen = seen, (yield Wish("market", bid=True))
            if seen.bid_change <= tolerance * self._step:
                return seen
            last, moved = moved, seen.moved_since(before)
            turned = last.shape == moved.shape and moved @ last < -0.5 * (last @ last)
            steady = 0 if turned else steady + 1
            if turned:
                self._step = max(self._step / 2, _LEAST_STEP)
            elif steady > _STEADY:
                # What turned them back may have passed, as a lie does: a short step would take for ever from here.
                self._step = min(2 * self._step, longest)

    def _announce(self, theta: float, seen: Seen) -> None:
        """What DRAs may sell, and how the price falls with it: by the chord of the price over theta D."""
        self._theta = theta
        sales = theta * np.maximum(seen.demand, 0)
        self._cap = np.minimum(sales / max(seen.rated_power, _LEAST_POWER), LARGEST)
        try:
            fall = self._dispatch.solve(seen.demand).price - self._dispatch.solve(seen.demand - sales).price
        except ArithmeticError as error:
            _LOG.error("no slope could be worked out", extra={"data": {"error": str(error)}})
            return
        self._slope = np.clip(fall / np.where(sales > 0, sales, 1.0), _LEAST_SLOPE, LARGEST)

    # --- between the play and the wire ---

    def _signal(self, price: list[float]) -> MarketSignal:
        wish = self._wish
        return MarketSignal(
            price=price,
            slope=self._slope.tolist(),
            sales_cap=self._cap.tolist(),
            bid=wish.bid,
            step=self._step,
            turn=Turn(groups=self._groups, turn=wish.turn, inertia=self._inertia, back=wish.back),
        )

    def _see(self, answers: Mapping[str, DraAnswer], held: Collection[str]) -> Seen:
        """A round's answers added up; those `held` stand with load and bid, and neither move nor want to."""
        fresh = [answer for name, answer in answers.items() if name not in held]
        changed = sum((np.array(a.load) - np.array(a.usual) for a in answers.values()), np.zeros(len(self._expected)))
        demand = self._expected + changed
        charge = {name: np.array(answer.charge) for name, answer in answers.items()}
        sold = {name: np.array(answer.sold) for name, answer in answers.items()}
        net = demand + sum(charge.values(), np.zeros(len(demand))) - sum(sold.values(), np.zeros(len(demand)))
        rated = sum(answer.rated_power for answer in answers.values())
        moves = max((answer.bid_change for answer in fresh), default=0.0)
        return Seen(
            demand=demand,
            charge=charge,
            sold=sold,
            supply_slope={name: np.array(answer.supply_slope) for name, answer in answers.items()},
            dispatch=self._dispatch.solve(net),
            moved=sum(answer.moved for answer in fresh),
            wanted=sum(answer.wanted for answer in fresh),
            bid_change=moves / rated if rated > 0 else 0.0,
            rated_power=rated,
            homes=sum(answer.homes for answer in answers.values()),
        )

    def _account(self, phase: str, seen: Seen) -> dict[str, Any]:
        """The round in numbers: MW, MWh, dollars."""
        dispatch = seen.dispatch
        return {
            "phase": phase,
            "price": dispatch.price.tolist(),
            "supply_cost": dispatch.cost,
            "total_cost": seen.total_cost,
            "demand_mw": seen.demand.tolist(),
            "net_demand_mw": (seen.demand - seen.net_sold).tolist(),
            "dispatch_mw": {
                unit.id: output.tolist()
                for unit, output in zip(self._dispatch.generators, dispatch.generation, strict=True)
            },
            "short_mw": dispatch.short.tolist(),
            "spilt_mw": dispatch.spilt.tolist(),
            "hourly_cost": dispatch.hourly_cost.tolist(),
            "charge_mw": {name: charge.tolist() for name, charge in seen.charge.items()},
            "sold_mw": {name: sold.tolist() for name, sold in seen.sold.items()},
            "supply_slope": {name: slope.tolist() for name, slope in seen.supply_slope.items()},
            "slope": self._slope.tolist(),
            "sales_cap": self._cap.tolist(),
            "theta": self._theta,
            "groups": self._groups,
            "inertia": self._inertia,
            "moved_mwh": seen.moved,
            "wanted_mwh": seen.wanted,
            "bid_change": seen.bid_change,
            "homes": seen.homes,
        }


def _on_the_wire(price: Array) -> list[float]:
    """A price within what may travel; loads that no homes draw may drive it beyond."""
    return [float(each) for each in np.clip(price, -LARGEST, LARGEST)]


class GeneratorSettings(StrictModel):
    """A generator: `quadratic` P^2 + `linear` P + `constant` dollars an hour at P MW.

    It runs between 0 and `max_mw` and changes by `ramp_mw` from one hour to the next at most.
    """

    id: Name
    quadratic: Positive
    linear: NonNegative
    constant: NonNegative = 0.0
    max_mw: Positive
    ramp_mw: Positive

    def unit(self) -> GeneratingUnit:
        """The same, for the dispatch."""
        return GeneratingUnit(self.id, self.quadratic, self.linear, self.constant, self.max_mw, self.ramp_mw)


class UtilitySettings(LeaderSettings):
    """The utility of the storage market.

    Its `generators`; the demand expected before anybody reschedules, `peak_mw` times `shape`, one number per hour, the
    largest of them 1; `lost_load_price` of energy that is not served, $/MWh. `theta` is where its search for the share
    of demand that DRAs may sell begins; `groups` and `inertia` are those of the homes' turns to begin with. Bids have
    come to rest when they change by less than `tolerance` of all DRAs' power.
    """

    generators: Annotated[list[GeneratorSettings], Field(min_length=1, max_length=100)]
    peak_mw: Positive
    shape: Annotated[list[NonNegative], Field(min_length=1)]
    lost_load_price: Positive = 1000.0
    theta: Annotated[float, Field(gt=0, le=1)] = 0.04
    groups: Annotated[int, Field(ge=1, le=_MOST_GROUPS)] = 4
    inertia: Annotated[float, Field(gt=0, le=1)] = 0.002
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-7
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 400

    @model_validator(mode="after")
    def _sound(self) -> Self:
        ids = [generator.id for generator in self.generators]
        for number, name in enumerate(ids):
            if name in ids[:number]:
                raise ValueError(f"generators.{number}.id: {name!r} is there twice; give each generator its own id")
        dearest = max(unit.linear + 2 * unit.quadratic * unit.max_mw for unit in self.generators)
        if self.lost_load_price <= dearest:
            raise ValueError(
                f"lost_load_price {self.lost_load_price:g} is not above {dearest:g}, what the dearest MWh generated "
                "costs; raise it, or load would be dropped to save money"
            )
        if not np.isclose(max(self.shape), 1, atol=1e-9):
            raise ValueError(f"shape has the maximum {max(self.shape):g}, it is to be 1: in parts of peak_mw")
        return self

    @property
    def expected(self) -> Array:
        """The demand before anybody reschedules, (T,) MW."""
        return self.peak_mw * np.array(self.shape)

    def economic_dispatch(self) -> EconomicDispatch:
        """The dispatch of its generators."""
        return EconomicDispatch([unit.unit() for unit in self.generators], self.lost_load_price, len(self.shape))

    def check_slots(self, slots: int) -> None:
        """Raises `ValueError` where the shape has another length, or no dispatch serves the demand: which hour, why."""
        if len(self.shape) != slots:
            raise ValueError(f"shape has {len(self.shape)} numbers, the horizon has {slots} slots")
        capacity = sum(unit.max_mw for unit in self.generators)
        peak, hour = float(self.expected.max()), int(self.expected.argmax()) + 1
        if peak > capacity:
            raise ValueError(
                f"peak_mw: demand is highest in hour {hour}, {peak:g} MW, {peak - capacity:g} MW above what generators "
                "have; lower it or add max_mw"
            )
        dispatch = self.economic_dispatch().solve(self.expected)
        for what, missed in (("short", dispatch.short), ("left over", dispatch.spilt)):
            if missed.max() > 1e-6:
                hour = int(missed.argmax()) + 1
                raise ValueError(f"generators: in hour {hour} ramps leave {missed.max():g} MW {what}; raise ramp_mw")

    def strategy(self, slots: int) -> StorageMarketLeader:
        """The leader's part of the game."""
        return StorageMarketLeader(
            self.economic_dispatch(), self.expected, self.theta, self.groups, self.inertia, self.tolerance
        )
