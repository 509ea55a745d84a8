"""The aggregator of the load call game: it decides whom to call, and for how much.

It earns kappa per kWh that its n consumers shift, and wants to call them as equally as it can. With the utility [LC-5]
it solves the bilevel program [LC-7]

    max over c    kappa sum_i y_i - lambda sum_i (c_i - f_i)^2,      sum_i c_i = R,    0 <= c_i <= d_i,
    y_i = y*_i(c_i) = min(c_i, yhat_i) the consumer's answer [LC-A],      f_i = mean c, h_i / mean h times [LC-D],

R the utility's target, d_i a consumer's baseline, which the aggregator meters, f_i a fair call: calls are spread "as
equally as possible under the performance history of each consumer". h_i is the part that consumer i has shifted of its
calls of earlier sessions, 1 before any (reading), so that at first all fair calls are the mean. yhat_i, what a consumer
is willing to shift at most, is known to the consumer alone.

**With every yhat known** this is a concave program in c (derived: y*(c) is concave), strictly concave for lambda > 0,
and separable but for the sum [LC-6]. `solve_calls` solves it exactly.

**With yhat unknown** the aggregator plays rounds. An answer below the call is yhat itself; of a consumer that answers
the whole call, d_i is still an upper bound of yhat. The aggregator solves the program with these upper bounds, calls,
reads the answers, and calls again, until nobody answers less than was expected. Why that ends, and where (derived):

- The objective grows with every yhat, so the optimum with upper bounds is itself an upper bound of the true optimum.
- When every expectation is met the calls earn exactly that bound. They are then the true optimum, and since that is
  unique, they are the calls of a planner who knows every yhat.
- Otherwise an answer was below expectation, and gives a yhat that was not known. Each consumer does that once, so there
  are at most n + 1 rounds.

No consumer is asked for its dissatisfaction, and the aggregator learns a yhat only by calling above it.
Energies are kWh, arrays (n,) in the order of the members and their homes; money as in the commission.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from stackelgrid.calendar import Session
from stackelgrid.games.load_call.messages import Call, Mission, MissionReport, Shift, to_rows
from stackelgrid.model import StrictModel
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply
from stackelgrid.wire.arrays import LARGEST, Array
from stackelgrid.wire.names import Name

Energy = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]


def solve_calls(target: float, baseline: Array, willing: Array, spread: float, fair: Array | float = 0.0) -> Array:
    """Solve [LC-7] with sum c = min(R, sum d) [LC-6]: the calls c, (n,) kWh, exactly, in O(n log n) (derived).

    `target` is R, `baseline` d, `willing` yhat <= d and `fair` f, (n,) kWh; `spread` = kappa / (2 lambda), kWh. A
    constant more in all of f changes nothing.

    Every consumer's share of the Lagrangian has the same shape around its f. The multiplier of the sum is written as
    the level l, by how much the call of a consumer that shifts nothing is above f. A call is then [LC-B]

        c_i(l) = clip(max(f_i + l, min(f_i + l + spread, yhat_i)), 0, d_i):

    A consumer that complies in full is called `spread` above that, up to yhat. There the call rests until f + l itself
    reaches yhat, and rises with the level from there to d. Each c_i is piecewise linear and non-decreasing in l, and so
    is their sum. Its edges, sorted, give the one segment in which it reaches R.
    """
    if target >= baseline.sum():
        return baseline.copy()
    n = len(baseline)
    # From the largest baseline on, full compliers come first and partial ones only after them: a wider spread does not
    # change any call, and would cost digits of the level.
    spread = min(spread, float(baseline.max()) + float(np.ptp(fair)))
    edges = np.concatenate([each - fair for each in (np.full(n, -spread), willing - spread, willing, baseline)])
    order = np.argsort(edges, kind="stable")
    level, slope = edges[order], np.cumsum(np.repeat([1, -1, 1, -1], n)[order])
    total = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(level))])
    segment = int(np.searchsorted(total, target, side="right")) - 1
    if slope[segment] == 0:  # the target is the whole of the baselines but for rounding
        return baseline.copy()
    reached = level[segment] + (target - total[segment]) / slope[segment]
    reached = fair + reached
    return np.asarray(np.clip(np.maximum(reached, np.minimum(reached + spread, willing)), 0, baseline))


def share_fairly(total: float, performance: Array) -> Array:
    """Share a total by performance h, (n,): the fair calls f [LC-D], (n,) kWh; equal shares where nobody has any."""
    mean = float(performance.mean())
    return total / len(performance) * (performance / mean if mean > 0 else np.ones(len(performance)))


class History(StrictModel):
    """The energy that each member's homes were `called_kwh` for and have `shifted_kwh` in earlier sessions together."""

    called_kwh: dict[Name, list[Energy]]
    shifted_kwh: dict[Name, list[Energy]]

    def rate(self, member: str) -> list[float]:
        """Rate the performance h of a member's homes [LC-D]: 1 where they were not called."""
        pairs = zip(self.called_kwh[member], self.shifted_kwh[member], strict=True)
        return [shifted / called if called > 0 else 1.0 for called, shifted in pairs]


class AggregatorTerms(StrictModel):
    """The aggregator's preferences and its offer.

    `fairness` is lambda, the cost of a squared deviation of the calls from fair ones, money per kWh^2; `reward` is r,
    the pay of a consumer per kWh shifted, money per kWh. Sessions of a run leave a `history` to those after them.
    """

    fairness: Annotated[float, Field(le=LARGEST, allow_inf_nan=False)]
    reward: Energy
    history: History | None = None

    @field_validator("fairness")
    @classmethod
    def _refuse_zero(cls, fairness: float) -> float:
        if fairness <= 0:
            raise ValueError(
                "must be above 0: at 0 the best calls are not unique; from half the commission over the largest "
                "baseline down the calls are those of the limit, so take a value there"
            )
        return fairness


class LoadCallSettings(AggregatorTerms, AggregatorSettings):
    """The aggregator's settings: its terms and `baseline_kwh`, the metered d of each member's homes, kWh.

    In a run of several sessions each home has a list of them, one for each.
    """

    baseline_kwh: dict[Name, Annotated[list[Energy | list[Energy]], Field(min_length=1)]]

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the settings of one session, with its baselines and the history so far."""
        baseline = {
            member: [each[session.number - 1] if isinstance(each, list) else each for each in of_homes]
            for member, of_homes in self.baseline_kwh.items()
        }
        history = History.model_validate(state) if state else self.history
        return self.model_copy(update={"baseline_kwh": baseline, "history": history})

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give the history with what was called for and shifted in a session."""
        before = {} if self.history is None else self.history.model_dump()
        return {
            key: {
                member: [a + b for a, b in zip(before.get(key, {}).get(member, [0.0] * len(new)), new, strict=True)]
                for member, new in account[f"{key}_by_member"].items()
            }
            for key in ("called_kwh", "shifted_kwh")
        }

    def strategy(self, session: Session, homes: Mapping[str, int]) -> LoadCallAggregator:
        """Build the aggregator's part of the game. Raise `ValueError` unless the baselines are of these `homes`."""
        for name in homes.keys() | self.baseline_kwh.keys():
            given, there = len(self.baseline_kwh.get(name, [])), homes.get(name, 0)
            if given != there:
                raise ValueError(f"settings.baseline_kwh.{name} has {given} numbers, {name} has {there} homes")
        return LoadCallAggregator(self, {name: np.array(self.baseline_kwh[name]) for name in homes})


@dataclass
class _MissionState:
    """The consumers in a mission as far as they are known, arrays (n,), and their last calls, kWh.

    `willing` is yhat where `known`, else its upper bound d. `excluded` consumers cannot receive a call.
    """

    mission: Mission
    willing: Array
    known: NDArray[np.bool_]
    excluded: NDArray[np.bool_]
    calls: Array
    shifted: Array
    rounds: int = 0


class LoadCallAggregator:
    """The aggregator's strategy. Each mission is a game of its own, which starts with no yhat known.

    A `held` member counts with its last shift, as far as its call goes: a larger call would not lower the shift. Its
    answer gives no yhat. An `excluded` member cannot receive a call: it is called for nothing until the mission is
    given anew, and the others are called for the target as far as their baselines go. A consumer gives its yhat once:
    if it later shifts still less, that is counted, but yhat stays. So there are, whatever the answers, at most one
    round more than consumers, and one more for each member that is excluded.
    """

    def __init__(self, terms: AggregatorTerms, baseline: Mapping[str, Array]) -> None:
        self._terms = terms
        ends = np.cumsum([0, *(len(numbers) for numbers in baseline.values())]).tolist()
        self._rows = {name: slice(*ends[i : i + 2]) for i, name in enumerate(baseline)}
        self._baseline = np.concatenate(list(baseline.values()))
        history = terms.history
        self._performance = np.concatenate(
            [np.ones(len(each)) if history is None else history.rate(name) for name, each in baseline.items()]
        )
        self._state: _MissionState | None = None

    def open(self, signal: Mission) -> Ask[dict[str, Call]]:
        """Take a mission: call as if every consumer would shift all of its baseline."""
        n = len(self._baseline)
        nobody = np.zeros(n, bool)
        self._state = _MissionState(signal, self._baseline.copy(), nobody, nobody, np.zeros(n), np.zeros(n))
        return Ask(self._update_calls(self._state))

    def on_answers(
        self, asked: dict[str, Call], answers: Mapping[str, Shift], held: Collection[str], excluded: Collection[str]
    ) -> Ask[dict[str, Call]] | Reply[MissionReport]:
        """Take the shifts: call again when they give a new yhat, else report to the utility."""
        state = self._state
        assert state is not None
        shifted, fresh = self._read_shifts(state, answers, held)
        state.shifted = shifted
        expected = np.minimum(state.calls, state.willing)
        short = fresh & ~state.known & (shifted < expected)
        state.willing = np.where(short, shifted, state.willing)
        state.known = state.known | short
        state.excluded = state.excluded | self._select(excluded)
        account = self._summarize(state, shifted, expected)
        if short.any() or (state.calls[state.excluded] > 0).any():
            return Ask(self._update_calls(state), account)
        return Reply(
            MissionReport(
                homes=int((~state.excluded).sum()),
                held=int((self._select(held) & ~state.excluded).sum()),
                excluded=int(state.excluded.sum()),
                called_kwh=account["called_kwh"],
                shifted_kwh=account["shifted_kwh"],
                squared_deviation=account["squared_deviation"],
                call_rounds=state.rounds,
                gap=account["gap"],
            ),
            account,
        )

    def settle(self, settlement: Mission) -> Ending[dict[str, Call]]:
        """Give the last calls if they are of this mission; else it was never played, and nobody is called."""
        state = self._state
        calls = shifted = np.zeros(len(self._baseline))
        if state is not None and state.mission == settlement:
            calls, shifted = state.calls, state.shifted
        by_member = {
            f"{key}_by_member": {name: each[mine].tolist() for name, mine in self._rows.items()}
            for key, each in (("called_kwh", calls), ("shifted_kwh", shifted))
        }
        return Ending(self._write_calls(settlement, calls), {"called_kwh": float(calls.sum()), **by_member})

    def _update_calls(self, state: _MissionState) -> dict[str, Call]:
        """Solve for the calls with what is known, and give each member its own."""
        spread = state.mission.commission / (2 * self._terms.fairness)
        baseline, willing = np.where(state.excluded, 0.0, [self._baseline, state.willing])
        total = min(state.mission.target_kwh, float(baseline.sum()))
        fair = 0.0 if self._terms.history is None else share_fairly(total, self._performance)
        state.calls = solve_calls(state.mission.target_kwh, baseline, willing, spread, fair)
        state.rounds += 1
        return self._write_calls(state.mission, state.calls)

    def _write_calls(self, mission: Mission, calls: Array) -> dict[str, Call]:
        return {
            name: Call(
                call_kwh=to_rows(calls[mine]),
                peak_price=mission.peak_price,
                off_peak_price=mission.off_peak_price,
                reward=self._terms.reward,
            )
            for name, mine in self._rows.items()
        }

    def _read_shifts(
        self, state: _MissionState, answers: Mapping[str, Shift], held: Collection[str]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Give each consumer's shift, (n,) kWh, at most its call, and which of them answer this very call."""
        shifted, fresh = np.zeros(len(self._baseline)), np.zeros(len(self._baseline), bool)
        for name, body in answers.items():
            shifted[self._rows[name]] = body.to_array()
            fresh[self._rows[name]] = name not in held
        return np.minimum(shifted, state.calls), fresh

    def _select(self, members: Collection[str]) -> NDArray[np.bool_]:
        """Mark the consumers of `members`, (n,)."""
        chosen = np.zeros(len(self._baseline), bool)
        for name in members:
            chosen[self._rows[name]] = True
        return chosen

    def _summarize(self, state: _MissionState, shifted: Array, expected: Array) -> dict[str, Any]:
        """Sum up the round. `utility` is the objective [LC-5], money; `gap` how far it is below its upper bound."""
        mission, calls = state.mission, state.calls
        commission = mission.commission * float(shifted.sum())
        squared_deviation = float(np.sum((calls - share_fairly(float(calls.sum()), self._performance)) ** 2))
        return {
            "called_kwh": float(calls.sum()),
            "shifted_kwh": float(shifted.sum()),
            "squared_deviation": squared_deviation,
            "utility": commission - self._terms.fairness * squared_deviation,
            "gap": mission.commission * float(np.maximum(expected - shifted, 0).sum()),
            "shown": int(state.known.sum()),
        }
