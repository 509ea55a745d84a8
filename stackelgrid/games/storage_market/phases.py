"""The phases of the storage market, as the leader plays them round by round: schedule, market, theta (all readings).

D is the demand before batteries, Q what batteries deliver net of what they charge, N = D - Q the net demand [SM-2];
C(N) is the supply cost of the dispatch, lambda(N) its price [SM-1].

**Schedule.** Groups of appliances take turns; homes reschedule those that have the turn where that saves more than the
`inertia` at the price [SM-15]. C is a potential: convex, with the price as its gradient. Where energy moved and C did
not fall, too much moved at one price: the group goes back, groups and inertia double. Where nothing moved, groups merge
in pairs. The phase ends when nobody wants to move, never at a higher cost than it began with. It does end (derived):
each failure doubles the inertia, and at an inertia of 1 nobody can save enough, so there are finitely many; every other
round that moves energy lowers C strictly, over finitely many schedules; and rounds that move nothing soon leave a
single group, of all who want to move.

**Market.** Homes hold. Each DRA may sell its share, by rated power, of theta D [SM-4]; the price it faces falls with
what it sells by the slope s [SM-3]. It answers with its best bid; the leader dispatches anew, until bids repeat. At the
end the clearing price is lambda(N) exactly and no DRA gains from another bid on its line. Such bids are the minimum of
a strictly convex potential [SM-5] (derived),

    Phi = C(D - sum_i x_i) + sum_i sum_t [ s x_i^2 / 2 + a_i q_i^2 + wear_i q_i ],

so that there is exactly one equilibrium; a round is a proximal gradient step on Phi, which descends for short steps.
Bids move the part `step` of the way to the best responses [SM-6]. It begins at 4/(n + 2) for n DRAs (derived: best
where s is the slope of the price and a = 0) and halves whenever bids turn back by more than half of their last move.

**Theta.** The leader minimises J = C(N) + lambda(N) . Q [SM-7], supply cost and net purchases: what DRAs pay for
charging is taken off (derived: at gross purchases all that charging costs would be a loss). J <= C(D) at every theta,
by convexity. The leader doubles or halves theta as long as J falls by more than a millionth.

Homes may want to move at the new price. The inertia then doubles, and schedule and market are played again with theta
as it is. The run settles when a market leaves nobody who wants to move. The inertia bounds how often (derived). MW per
slot of one hour, dollars per MWh.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from dataclasses import dataclass

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
_WORTH = 1e-6
"""A theta is better when it lowers J by more than this part of it."""
_FALLS = 1e-9
"""C has fallen when it did by more than this part of it: the dispatch is exact to less."""
_LEAST_SLOPE = 1e-3
"""The least slope of the price: where it does not change within theta D, a bid still has to be unique: $/MWh per MW."""
_LEAST_POWER = 1e-9
"""Batteries of less power, MW, are none."""
_STEADY = 3
"""Rounds in which bids do not turn back, after which the step may grow again."""


@dataclass(frozen=True)
class MarketState:
    """The market after a round: `demand` D (T,) before batteries, bids by DRA, the dispatch of the net demand, MW.

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

    @property
    def total_cost(self) -> float:
        """J: supply cost and net purchases [SM-7], dollars."""
        return self.dispatch.cost + float(self.dispatch.price @ self.net_sold)

    def change_of_bids(self, other: MarketState) -> Array:
        """Give the change of all bids since `other` as one array, MW; empty when not the same DRAs have bid."""
        if self.sold.keys() != other.sold.keys():
            return np.zeros(0)
        changes = [self.sold[name] - other.sold[name] for name in self.sold]
        changes += [self.charge[name] - other.charge[name] for name in self.charge]
        return np.concatenate([np.zeros(0), *changes])


@dataclass(frozen=True)
class NextRound:
    """The purpose of the next round, at the price of the last one: bids, the `turn` of a group, or to settle."""

    phase: str
    bid: bool = False
    turn: int | None = None
    back: bool = False
    settle: bool = False


Phase = Generator[NextRound, MarketState, MarketState]
"""A part of the play: it asks for rounds, receives the state after each, and returns the last one."""


class MarketPlay:
    """The leader's play: `next_round` is what it asks for, `advance` takes the state that this round leads to.

    `theta`, `groups`, `inertia` and `step` are those of the next round, as are the terms for the DRAs: `slope` [SM-3]
    and `cap`, what may be sold for each MW of rated power [SM-4], both (T,).
    """

    def __init__(self, dispatch: EconomicDispatch, theta: float, groups: int, inertia: float, tolerance: float) -> None:
        self._dispatch, self._tolerance = dispatch, tolerance
        self.theta, self.groups, self.inertia, self.step = theta, groups, inertia, 1.0
        self.slope, self.cap = np.full(dispatch.slots, _LEAST_SLOPE), np.zeros(dispatch.slots)
        self._turn = 0
        self._rounds: Generator[NextRound, MarketState, None] = self._play()
        self.next_round = next(self._rounds)

    def advance(self, state: MarketState) -> None:
        """Go on from the state after a round."""
        self.next_round = self._rounds.send(state)

    def _play(self) -> Generator[NextRound, MarketState, None]:
        state = yield NextRound("schedule")
        state = yield from self._schedule(state)
        if state.rated_power > _LEAST_POWER:
            state = yield from self._search_theta(state)
            state = yield NextRound("check")
        while True:
            while state.wanted == 0 or self.inertia >= _NOBODY_SAVES:
                state = yield NextRound("check", settle=True)
            self._double_inertia()
            state = yield from self._schedule(state)
            if state.rated_power > _LEAST_POWER:
                state = yield from self._clear(state, self.theta, self._tolerance)
                state = yield NextRound("check")

    def _schedule(self, state: MarketState) -> Phase:
        """Let groups take turns until nobody wants to move."""
        while (state.wanted > 0 or state.moved > 0) and self.inertia < _NOBODY_SAVES:
            cost_before, turn = state.dispatch.cost, self._turn % self.groups
            self._turn += 1
            state = yield NextRound("schedule", turn=turn)
            if state.moved == 0:
                self.groups = max(self.groups // 2, 1)
            elif state.dispatch.cost >= cost_before - _FALLS * abs(cost_before):
                state = yield NextRound("schedule", turn=turn, back=True)
                self.groups = min(2 * self.groups, MOST_GROUPS)
                self._double_inertia()
        return state

    def _double_inertia(self) -> None:
        self.inertia = min(2 * self.inertia, _MOST_INERTIA)

    def _search_theta(self, state: MarketState) -> Phase:
        """Double theta, or else halve it, while that lowers J [SM-7]; then clear the market at the best theta.

        Shares are compared at a looser tolerance of the bids.
        """
        loose = 100 * self._tolerance
        best_theta = self.theta
        best = yield from self._clear(state, best_theta, loose)
        for factor in (2.0, 0.5):
            better = False
            while (trial := factor * best_theta) <= 1:
                state = yield from self._clear(state, trial, loose)
                if state.total_cost >= best.total_cost - _WORTH * abs(best.total_cost):
                    break
                best, best_theta, better = state, trial, True
            if better:
                break
        return (yield from self._clear(state, best_theta, self._tolerance))

    def _clear(self, state: MarketState, theta: float, tolerance: float) -> Phase:
        """Ask for bids and dispatch anew until bids repeat, each step [SM-6] as long as bids do not turn back."""
        self._set_terms(theta, state)
        bidders = max(len(state.sold), 1)
        longest = self.step = min(4 / (bidders + 2), 1.0)
        change, steady = np.zeros(0), 0
        while True:
            before, state = state, (yield NextRound("market", bid=True))
            if state.bid_change <= tolerance * self.step:
                return state
            last, change = change, state.change_of_bids(before)
            turned_back = last.shape == change.shape and change @ last < -0.5 * (last @ last)
            steady = 0 if turned_back else steady + 1
            if turned_back:
                self.step = max(self.step / 2, _LEAST_STEP)
            elif steady > _STEADY:
                # The cause may be over, as after a false answer: a short step would then take very many rounds.
                self.step = min(2 * self.step, longest)

    def _set_terms(self, theta: float, state: MarketState) -> None:
        """Set the DRAs' terms: the cap [SM-4], and as slope the chord of the price over theta D [SM-3]."""
        self.theta = theta
        sales = theta * np.maximum(state.demand, 0)
        self.cap = np.minimum(sales / max(state.rated_power, _LEAST_POWER), LARGEST)
        try:
            fall = self._dispatch.solve(state.demand).price - self._dispatch.solve(state.demand - sales).price
        except SolverError as error:
            _LOG.error("the slope stays as it is", extra={"data": {"error": str(error)}})
            return
        self.slope = np.clip(fall / np.where(sales > 0, sales, 1.0), _LEAST_SLOPE, LARGEST)
