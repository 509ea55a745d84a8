"""The phases of the storage market, as the leader plays them round by round: schedule, market, theta (all readings).

D is the demand before batteries, Q what batteries deliver net of what they charge, N = D - Q the net demand [SM-2];
C(N) is the supply cost of the dispatch, lambda(N) its price [SM-1].

**Schedule.** Homes offer better schedules at each price; the leader knows C, and so how far everybody should go. C is a
potential: convex, with the price as its gradient. Of what interruptible appliances offer, demand D', it takes the part

    step = the least point of C on the way from D to D', at most 1                                       [SM-15]

which lowers C in each round: a proximal gradient step with exact line search, which converges to the joint optimum. At
the optimum no home gains by rescheduling these. Where the least point lies short of the offers, the `weight` that keeps
them near the present schedules doubles or more, where it lies beyond them it falls. Groups of runs, the appliances that
cannot be interrupted, take turns to offer another start. The leader accepts all of a round's starts where C falls with
them, else none: then groups and inertia double. Where nobody offers any, groups merge in pairs. That ends (derived):
each refusal doubles the inertia, and at an inertia of 1 nobody can save enough; every start accepted lowers C.

**Market.** Homes hold. Each DRA may sell its share, by rated power, of theta D [SM-4], and faces the price as it truly
follows from what it sells, kinks included [SM-3]. Its bid moves the part `step` of the way to its best response [SM-6],
until bids repeat: then the clearing price is lambda(N) and no DRA gains from another bid near its own. `step` begins
at 4/(n + 2) for n DRAs (derived: best where a = 0) and halves whenever bids turn back by more than half of their last
move.

**Theta.** The leader minimises what supply and net purchases cost [SM-7],

    J = C(N) + sum_t [min(lambda_t, cap) q_t - lambda_t u_t] Δ

with what DRAs pay for charging taken off (derived: at gross purchases all that charging costs would be a loss). Beyond
the theta at which no cap binds J is flat, since prices are true. So the leader doubles theta while caps bind and J
falls, or else halves it from where they begin to bind, and then narrows down what it has found.

**Balance.** Then all go on together: homes offer while DRAs bid. When both rest and runs still want to start elsewhere,
the inertia doubles, and it is played again with turns. The inertia bounds how often (derived). MW, slots of Δ hours,
dollars per MWh.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.games.storage_market.dispatch import Dispatch, EconomicDispatch
from stackelgrid.wire.arrays import LARGEST, Array

_LOG = logging.getLogger("leader_node")

MOST_GROUPS = 1024
"""Homes and DRAs that follow the rules of the game never need more groups."""
_MOST_INERTIA = 1024.0
_NOBODY_SAVES = 1.0
"""At this inertia nobody saves enough to move: whoever still wants to move, or moves, does not play by the rules."""
_LEAST_STEP = 1e-9
_WORTH = 1e-8
"""A theta is better when it lowers J by more than this part of it."""
_FALLS = 1e-12
"""C has fallen when it did by more than this part of it: the dispatch is exact to less."""
_LEAST_POWER = 1e-9
"""Batteries of less power, MW, are none."""
_STEADY = 3
"""Rounds in which bids do not turn back, after which the step may grow again."""
_REST = 5e-7
"""Homes rest when none of them could save more than this part of its costs by rescheduling."""
_PATIENCE = 60
"""Rounds for homes to come to rest in, after the last start: honest homes need half of that."""
_FIRST_WEIGHT = 0.1
"""The weight to begin with, as a part of the highest price."""
_WELL_SHORT, _WELL_BEYOND = 0.4, 0.8
"""The weight is right where the least point of C lies between these parts of the way to what was offered."""
_WEIGHTS = (1.0, 1 / 3, 3.0)
"""The weight in one round after another, as parts of itself."""
_LEAST_WEIGHT, _FAR_BEYOND = 1e-6, 100.0
_MOST_CUTS, _FLAT = 30, 1e-4
"""The least point of C is known well enough when this part of its slope at the beginning is left."""
_LEAST_THETA = 1e-6
_BINDS = 0.99
"""The part of a cap that is used where it binds: bids come ever nearer to it."""
_LOOSE = 1e-4
"""The tolerance of bids at which thetas are compared."""
_FINEST = 1.02
"""Theta is known well enough when this factor more or less is not better."""


@dataclass(frozen=True)
class MarketState:
    """The market after a round: `demand` D (T,) before batteries, bids by DRA, the dispatch of the net demand, MW.

    `offer` and `starts` (T,) are by how much D would change if homes took their offered schedules, or starts. Runs of
    `wanted` MWh would start elsewhere; `regret` is the most that a home could save, relative. `bid_change` is the
    largest move of a bid in this round, relative to all `rated_power`, which is by DRA.
    """

    demand: Array
    offer: Array
    starts: Array
    charge: Mapping[str, Array]
    sold: Mapping[str, Array]
    supply_slope: Mapping[str, Array]
    dispatch: Dispatch
    wanted: float
    regret: float
    bid_change: float
    rated_power: Mapping[str, float]
    homes: int

    @property
    def net_sold(self) -> Array:
        """Q, (T,) MW."""
        zero = np.zeros(len(self.demand))
        return np.asarray(sum(self.sold.values(), zero) - sum(self.charge.values(), zero))

    @property
    def power(self) -> float:
        """The power of all batteries, MW."""
        return sum(self.rated_power.values())

    def total_cost(self, price_cap: float | None) -> float:
        """J: supply cost and net purchases [SM-7], dollars."""
        paid = self.dispatch.price if price_cap is None else np.minimum(self.dispatch.price, price_cap)
        purchases = sum((paid @ sold for sold in self.sold.values()), 0.0)
        return self.dispatch.cost + self.dispatch.slot_hours * float(
            purchases - sum((self.dispatch.price @ charge for charge in self.charge.values()), 0.0)
        )

    def change_of_bids(self, other: MarketState) -> Array:
        """Give the change of all bids since `other` as one array, MW; empty when not the same DRAs have bid."""
        if self.sold.keys() != other.sold.keys():
            return np.zeros(0)
        changes = [self.sold[name] - other.sold[name] for name in self.sold]
        changes += [self.charge[name] - other.charge[name] for name in self.charge]
        return np.concatenate([np.zeros(0), *changes])


@dataclass(frozen=True)
class NextRound:
    """The purpose of the next round: bids, the `turn` of a group, or to settle.

    Homes first go the part `step` of what they offered, and take the starts that they offered where `starts`; the price
    is that of the demand that follows. Where they `hold` they are not asked.
    """

    phase: str
    bid: bool = False
    hold: bool = False
    step: float = 0.0
    starts: bool = False
    turn: int | None = None
    settle: bool = False


Phase = Generator[NextRound, MarketState, MarketState]
"""A part of the play: it asks for rounds, receives the state after each, and returns the last one."""


class MarketPlay:
    """The leader's play: `next_round` is what it asks for, `advance` takes the state that this round leads to.

    `theta`, `groups`, `inertia`, `weight` and `step` are those of the next round, as is `cap`, what may be sold for
    each MW of rated power [SM-4], (T,).
    """

    def __init__(
        self,
        dispatch: EconomicDispatch,
        first_price: Array,
        *,
        theta: float,
        max_theta: float,
        price_cap: float | None,
        groups: int,
        inertia: float,
        tolerance: float,
    ) -> None:
        self._dispatch, self._tolerance, self._max_theta, self._price_cap = dispatch, tolerance, max_theta, price_cap
        self.theta, self.groups, self.inertia, self.step = theta, groups, inertia, 1.0
        self.weight = self._weight = max(_FIRST_WEIGHT * float(np.abs(first_price).max()), _LEAST_WEIGHT)
        self._offers = 0
        self.cap = np.zeros(dispatch.slots)
        self._turn = 0
        self._rounds: Generator[NextRound, MarketState, None] = self._play()
        self.next_round = next(self._rounds)

    def advance(self, state: MarketState) -> None:
        """Go on from the state after a round. Starts that nobody had the turn to offer are none."""
        if self.next_round.turn is None:
            state = replace(state, starts=np.zeros(len(state.starts)))
        self.next_round = self._rounds.send(state)

    def _play(self) -> Generator[NextRound, MarketState, None]:
        state = yield NextRound("schedule")
        state = yield from self._schedule(state)
        if state.power > _LEAST_POWER:
            state = yield from self._search_theta(state)
        while True:
            while state.wanted == 0 or self.inertia >= _NOBODY_SAVES:
                state = yield NextRound("check", settle=True)
            self._double_inertia()
            state = yield from self._schedule(state)
            if state.power > _LEAST_POWER:
                state = yield from self._clear(state, self.theta, self._tolerance, hold=False)

    # --- homes ---

    def _schedule(self, state: MarketState) -> Phase:
        """Let homes go where they offer to, and groups of runs take turns, until nobody wants to move."""
        left, turn = _PATIENCE, None
        while left > 0 and (not _homes_rest(state) or (state.wanted > 0 and self.inertia < _NOBODY_SAVES)):
            accepted, step = self._choose(state)
            if state.starts.any() and not accepted:
                self.groups = min(2 * self.groups, MOST_GROUPS)
                self._double_inertia()
            elif turn is not None and not state.starts.any():
                self.groups = max(self.groups // 2, 1)
            left = _PATIENCE if accepted else left - 1
            turn = self._turn % self.groups if state.wanted > 0 and self.inertia < _NOBODY_SAVES else None
            self._turn += 1
            state = yield NextRound("schedule", step=step, starts=accepted, turn=turn)
        return state

    def _choose(self, state: MarketState) -> tuple[bool, float]:
        """Give whether to accept the starts that were offered, and how far to go towards the other offers [SM-15]."""
        net, offer, starts = state.demand - state.net_sold, state.offer, state.starts
        try:
            accepted, least = False, self._find_least_cost(net, offer)
            if starts.any():
                least_with = self._find_least_cost(net + starts, offer)
                cost, cost_with = (
                    self._dispatch.solve(point).cost
                    for point in (net + min(least, 1) * offer, net + starts + min(least_with, 1) * offer)
                )
                if cost_with < cost - _FALLS * abs(cost):
                    accepted, least = True, least_with
        except SolverError as error:
            _LOG.error("homes stay as they are", extra={"data": {"error": str(error)}})
            return False, 0.0
        self._adapt_weight(least)
        return accepted, min(least, 1.0)

    def _find_least_cost(self, net: Array, offer: Array) -> float:
        """Find the least point of C on the way from `net` to `net + offer`, as a part of it, or estimate it beyond.

        The slope of C along the way is the price times the offer. It rises, piecewise linearly.
        """

        def slope(part: float) -> float:
            return float(self._dispatch.solve(net + part * offer).price @ offer)

        low, high, at_low, at_high = 0.0, 1.0, slope(0.0), slope(1.0)
        if at_low >= 0:
            return 0.0
        if at_high <= 0:
            return at_low / (at_low - at_high) if at_high > at_low else _FAR_BEYOND
        flat, kept = _FLAT * -at_low, 0
        for _ in range(_MOST_CUTS):
            part = low + (high - low) * at_low / (at_low - at_high)
            found = slope(part)
            if abs(found) <= flat or high - low < _FLAT:
                break
            # False position; an end that is kept twice in a row counts half (the Illinois rule).
            if found < 0:
                low, at_low, at_high, kept = part, found, at_high / (2 if kept > 0 else 1), 1
            else:
                high, at_high, at_low, kept = part, found, at_low / (2 if kept < 0 else 1), -1
        return part

    def _adapt_weight(self, least: float) -> None:
        """Adapt the weight to where C was least, and vary it: steps alike would go to and fro for long."""
        if least > _WELL_BEYOND:
            self._weight = max(self._weight * max(_WELL_BEYOND / least, 0.25), _LEAST_WEIGHT)
        elif 0 < least < _WELL_SHORT:
            self._weight = min(self._weight * min(_WELL_SHORT / least, 4.0), LARGEST)
        self._offers += 1
        self.weight = min(self._weight * _WEIGHTS[self._offers % len(_WEIGHTS)], LARGEST)

    def _double_inertia(self) -> None:
        self.inertia = min(2 * self.inertia, _MOST_INERTIA)

    # --- DRAs ---

    def _search_theta(self, state: MarketState) -> Phase:
        """Find the theta of the least J [SM-7] and clear the market there.

        Shares are compared at a looser tolerance.
        """
        loose = max(self._tolerance, _LOOSE)
        best = yield from self._clear(state, min(self.theta, self._max_theta), loose)
        best_theta = theta = self.theta
        better = False
        while _use(theta, best) >= _BINDS and theta < self._max_theta:
            theta = min(2 * theta, self._max_theta)
            state = yield from self._clear(best, theta, loose)
            if not self._is_better(state, best):
                break
            best, best_theta, better = state, theta, True
        theta = best_theta * min(_use(best_theta, best), 1.0)
        while not better and theta > _LEAST_THETA:
            theta /= 2
            state = yield from self._clear(best, theta, loose)
            if not self._is_better(state, best):
                break
            best, best_theta = state, theta
        factor = np.sqrt(2)
        while factor > _FINEST and _use(best_theta, best) >= _BINDS and best_theta < self._max_theta:
            for theta in (min(best_theta * factor, self._max_theta), best_theta / factor):
                state = yield from self._clear(best, theta, loose)
                if self._is_better(state, best):
                    best, best_theta = state, theta
            factor = np.sqrt(factor)
        return (yield from self._clear(best, best_theta, self._tolerance, hold=False))

    def _is_better(self, state: MarketState, best: MarketState) -> bool:
        cost = best.total_cost(self._price_cap)
        return state.total_cost(self._price_cap) < cost - _WORTH * abs(cost)

    def _clear(self, state: MarketState, theta: float, tolerance: float, *, hold: bool = True) -> Phase:
        """Ask for bids, and for offers unless homes hold, until all rest; each step [SM-6] as bids do not turn back."""
        longest = self.step = min(4 / (max(len(state.sold), 1) + 2), 1.0)
        change, steady, left = np.zeros(0), 0, _PATIENCE
        while True:
            self._set_caps(theta, state)
            part = 0.0 if hold else self._choose(state)[1]
            before = state
            state = yield NextRound("market" if hold else "balance", bid=True, hold=hold, step=part)
            left -= 1
            if state.bid_change <= tolerance * self.step and (hold or left <= 0 or _homes_rest(state)):
                return state
            last, change = change, state.change_of_bids(before)
            turned_back = last.shape == change.shape and change @ last < -0.5 * (last @ last)
            steady = 0 if turned_back else steady + 1
            if turned_back:
                self.step = max(self.step / 2, _LEAST_STEP)
            elif steady > _STEADY:
                # The cause may be over, as after a false answer: a short step would then take very many rounds.
                self.step = min(2 * self.step, longest)

    def _set_caps(self, theta: float, state: MarketState) -> None:
        """Set the caps on sales [SM-4]."""
        self.theta = theta
        self.cap = np.minimum(theta * np.maximum(state.demand, 0) / max(state.power, _LEAST_POWER), LARGEST)


def _use(theta: float, state: MarketState) -> float:
    """Give the largest part of a cap [SM-4] that a DRA's sales use, 1 where one binds."""
    caps = np.maximum(theta * state.demand / max(state.power, _LEAST_POWER), _LEAST_POWER)
    parts = (state.sold[name] / (caps * max(power, _LEAST_POWER)) for name, power in state.rated_power.items())
    return max((float(part.max()) for part in parts), default=0.0)


def _homes_rest(state: MarketState) -> bool:
    return state.regret <= _REST and not state.starts.any()
