"""What the aggregator solves in the load call game: whom to call, and for how much.

It earns kappa per kWh that its n consumers shift, and wants to call them as equally as it can (reading of equations 5
and 6, problem 7):

    max over c    kappa sum_i y_i - lambda sum_i (c_i - mean c)^2,      sum_i c_i = R,    0 <= c_i <= d_i,
    y_i = y*_i(c_i) = min(c_i, yhat_i) the consumer's answer,

R the utility's target, d_i a consumer's baseline, which the aggregator has from its meter. yhat_i, what a consumer is
willing to shift at all, is the consumer's secret.

**With every yhat known** this is a concave program in c alone (derived: y*(c) is concave), strictly so for lambda > 0,
and separable but for the sum. `best_calls` solves it exactly.

**With yhat unknown** the aggregator plays rounds. A consumer that shifts less than it was called for has shown its
yhat; of one that has not, d_i is an upper bound. The aggregator solves the program with these optimistic figures,
calls, learns, and calls again, until nobody falls short of what was expected of it. Why that ends, and where (derived):

- The objective grows with every yhat, so the optimistic optimum is never below the true one: an upper bound.
- When every expectation is met the calls earn exactly the optimistic optimum. They are then the true optimum, and
  since that is unique, the very calls that a planner who knew every yhat would make.
- Otherwise somebody fell short whose yhat was not known yet, and now it is. Each consumer does that once, so there are
  at most n + 1 rounds.

Nobody is ever asked for its dissatisfaction, and the yhat of a consumer is learnt only by calling above it.
Energies are kWh, arrays (n,) in the order of the members and their homes; money as in the commission.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from stackelgrid.games.load_call.messages import Achieved, Call, Mission, Shift, rows
from stackelgrid.model import StrictModel
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply
from stackelgrid.wire.arrays import LARGEST, Array
from stackelgrid.wire.messages import Name

Energy = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]


def best_calls(target: float, baseline: Array, willing: Array, spread: float) -> Array:
    """The calls c, (n,) kWh, that solve problem (7), with sum c = min(R, sum d); exactly, in O(n log n) (derived).

    `target` is R, `baseline` d and `willing` yhat <= d, (n,) kWh; `spread` = kappa / (2 lambda), kWh.

    Since the sum is fixed, so is its mean, and every consumer's share of the Lagrangian has the same shape. With a
    multiplier for the sum, written as the level l that an unrewarded call would have, a call is

        c_i(l) = clip(max(l, min(l + spread, yhat_i)), 0, d_i):

    a full complier is called `spread` above the level, up to yhat; there the call rests until the level itself has
    come up to yhat; then it goes on with the level to d. Each c_i is piecewise linear and non-decreasing in l, so their
    sum is too, and its edges, sorted, give the one segment in which it reaches R.
    """
    if target >= baseline.sum():
        return baseline.copy()
    n = len(baseline)
    # From the largest baseline on, full compliers come first and partial ones only after them: a wider spread calls
    # nobody differently. It would cost digits of the level.
    spread = min(spread, float(baseline.max()))
    edges = np.concatenate([np.full(n, -spread), willing - spread, willing, baseline])
    order = np.argsort(edges, kind="stable")
    level, slope = edges[order], np.cumsum(np.repeat([1, -1, 1, -1], n)[order])
    total = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(level))])
    segment = int(np.searchsorted(total, target, side="right")) - 1
    if slope[segment] == 0:  # the target is the whole of the baselines but for rounding
        return baseline.copy()
    reached = level[segment] + (target - total[segment]) / slope[segment]
    return np.asarray(np.clip(np.maximum(reached, np.minimum(reached + spread, willing)), 0, baseline))


class Terms(StrictModel):
    """What an aggregator wants and offers.

    `fairness` is lambda, what a squared deviation of the calls from their mean costs it, money per kWh^2; `reward` is
    r, what it pays a consumer per kWh shifted, money per kWh.
    """

    fairness: Annotated[float, Field(le=LARGEST, allow_inf_nan=False)]
    reward: Energy

    @field_validator("fairness")
    @classmethod
    def _unique(cls, fairness: float) -> float:
        if fairness <= 0:
            raise ValueError(
                "must be above 0: at 0 the best calls are not unique; from half the commission over the largest "
                "baseline down the calls are those of the limit, so take a value there"
            )
        return fairness


class LoadCallSettings(Terms, AggregatorSettings):
    """The aggregator of the load call game. `baseline_kwh` holds what it has metered: d of each member's homes, kWh."""

    baseline_kwh: dict[Name, Annotated[list[Energy], Field(min_length=1)]]

    def strategy(self, slots: int, homes: Mapping[str, int]) -> LoadCallAggregator:
        """The aggregator's part of the game. Raises `ValueError` where the baselines are not of these `homes`."""
        for name in homes.keys() | self.baseline_kwh.keys():
            given, there = len(self.baseline_kwh.get(name, [])), homes.get(name, 0)
            if given != there:
                raise ValueError(f"settings.baseline_kwh.{name} has {given} numbers, {name} has {there} homes")
        return LoadCallAggregator(self, {name: np.array(self.baseline_kwh[name]) for name in homes})


@dataclass
class _Play:
    """How a mission stands: what is known of the consumers, arrays (n,), and what they were last called for.

    `willing` is yhat where `shown`, else its upper bound d; `deaf` are those that cannot hear a call.
    """

    mission: Mission
    willing: Array
    shown: NDArray[np.bool_]
    deaf: NDArray[np.bool_]
    calls: Array
    rounds: int = 0


class LoadCallAggregator:
    """The aggregator's strategy: a mission is a game of its own, in which nothing is known of the consumers at first.

    A member that is `held` counts with what it last shifted, as far as it is called for that; a larger call would not
    make it shift less. It shows nothing. A member that is `excluded` cannot hear a call: it is called for nothing until
    the mission is given anew, and the others are called for the target as far as their baselines go. A consumer is
    believed once: if it shifts still less later on, that is counted and not learnt from, so that the rounds are at most
    one more than there are consumers, and one more for each member that is excluded, whatever they answer.
    """

    def __init__(self, terms: Terms, baseline: Mapping[str, Array]) -> None:
        self._terms = terms
        ends = np.cumsum([0, *(len(numbers) for numbers in baseline.values())]).tolist()
        self._rows = {name: slice(*ends[i : i + 2]) for i, name in enumerate(baseline)}
        self._baseline = np.concatenate(list(baseline.values()))
        self._play: _Play | None = None

    def open(self, signal: Mission) -> Ask[dict[str, Call]]:
        """A mission: call as if every consumer would shift all of its baseline."""
        n = len(self._baseline)
        nobody = np.zeros(n, bool)
        self._play = _Play(signal, self._baseline.copy(), nobody, nobody, np.zeros(n))
        return Ask(self._call(self._play))

    def on_answers(
        self, asked: dict[str, Call], answers: Mapping[str, Shift], held: Collection[str], excluded: Collection[str]
    ) -> Ask[dict[str, Call]] | Reply[Achieved]:
        """The consumers have answered: call again for what they have shown, or tell the utility what was achieved."""
        play = self._play
        assert play is not None
        shifted, fresh = self._heard(play, answers, held)
        expected = np.minimum(play.calls, play.willing)
        short = fresh & ~play.shown & (shifted < expected)
        play.willing = np.where(short, shifted, play.willing)
        play.shown = play.shown | short
        play.deaf = play.deaf | self._of(excluded)
        account = self._account(play, shifted, expected)
        if short.any() or (play.calls[play.deaf] > 0).any():
            return Ask(self._call(play), account)
        return Reply(
            Achieved(
                homes=int((~play.deaf).sum()),
                held=int((self._of(held) & ~play.deaf).sum()),
                excluded=int(play.deaf.sum()),
                called_kwh=account["called_kwh"],
                shifted_kwh=account["shifted_kwh"],
                squared_deviation=account["squared_deviation"],
                call_rounds=play.rounds,
                gap=account["gap"],
            ),
            account,
        )

    def settle(self, settlement: Mission) -> Ending[dict[str, Call]]:
        """The calls last made, if it is for their mission; else nobody ever answered that, and nobody is called."""
        play = self._play
        calls = play.calls if play is not None and play.mission == settlement else np.zeros(len(self._baseline))
        return Ending(self._bodies(settlement, calls), {"called_kwh": float(calls.sum())})

    def _call(self, play: _Play) -> dict[str, Call]:
        """The best calls with what is known, to each member."""
        spread = play.mission.commission / (2 * self._terms.fairness)
        baseline, willing = np.where(play.deaf, 0.0, [self._baseline, play.willing])
        play.calls = best_calls(play.mission.target_kwh, baseline, willing, spread)
        play.rounds += 1
        return self._bodies(play.mission, play.calls)

    def _bodies(self, mission: Mission, calls: Array) -> dict[str, Call]:
        return {
            name: Call(
                call_kwh=rows(calls[mine]),
                peak_price=mission.peak_price,
                off_peak_price=mission.off_peak_price,
                reward=self._terms.reward,
            )
            for name, mine in self._rows.items()
        }

    def _heard(
        self, play: _Play, answers: Mapping[str, Shift], held: Collection[str]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """What each consumer shifts, (n,) kWh, never more than it is called for, and who says so of this very call."""
        shifted, fresh = np.zeros(len(self._baseline)), np.zeros(len(self._baseline), bool)
        for name, body in answers.items():
            shifted[self._rows[name]] = body.shifts()
            fresh[self._rows[name]] = name not in held
        return np.minimum(shifted, play.calls), fresh

    def _of(self, members: Collection[str]) -> NDArray[np.bool_]:
        """Whose consumers these are, (n,)."""
        chosen = np.zeros(len(self._baseline), bool)
        for name in members:
            chosen[self._rows[name]] = True
        return chosen

    def _account(self, play: _Play, shifted: Array, expected: Array) -> dict[str, Any]:
        """The round in numbers. `utility` is the objective (5), money; `gap` how far it is below its upper bound."""
        mission, calls = play.mission, play.calls
        commission = mission.commission * float(shifted.sum())
        squared_deviation = float(np.sum((calls - calls.mean()) ** 2))
        return {
            "called_kwh": float(calls.sum()),
            "shifted_kwh": float(shifted.sum()),
            "squared_deviation": squared_deviation,
            "utility": commission - self._terms.fairness * squared_deviation,
            "gap": mission.commission * float(np.maximum(expected - shifted, 0).sum()),
            "shown": int(play.shown.sum()),
        }
