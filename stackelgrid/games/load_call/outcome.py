"""The outcome of the load call game: what each consumer was called for and shifted, and what that paid whom."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.model import Finite, StrictModel
from stackelgrid.run_record import Outcome, RunRecord

if TYPE_CHECKING:
    from stackelgrid.games.load_call.scenario import LoadCallScenario

_ALL = 1 - 1e-9
"""Share of its call from which a consumer has shifted all of it but for rounding."""

Count = Annotated[int, Field(ge=0)]


class CallRound(StrictModel):
    """A round of calls: the sums of calls and shifts, kWh, and what the aggregator may still gain, money.

    `gap` is how far the aggregator's utility is below the bound that it knows. `shown` is the number of consumers whose
    limit yhat it knows after the round.
    """

    called_kwh: Finite
    shifted_kwh: Finite
    gap: Finite
    shown: Count


class LoadCallOutcome(Outcome):
    """`outcome` of a load call game in result.json.

    - `target_kwh`: R, what the utility wants to be shifted.
    - `calls_kwh`, `shifted_kwh`: c and y by consumer, kWh.
    - `achieved_kwh`: the sum of the shifts that the aggregator reported to the utility, kWh.
    - `success_rate`: its share of the target; 1 for a target of 0.
    - `commission`: what the utility pays the aggregator, money.
    - `squared_deviation`: sum of (c - f)^2, kWh^2, f the fair call [LC-D]: the mean where there is no history.
    - `aggregator_utility`: [LC-5], commission less fairness times squared deviation, money.
    - `call_rounds`: the number of rounds of calls; `call_journal` has each of them.
    - `rewards`, `bills`: by consumer, money; the reward is not deducted from the bill.
    - `baseline_bills`: by consumer, the bill without a call, money.
    - `event`: of a dated run, when the event begins and ends, ISO 8601 with offset; and again, if it is interrupted.
    - `performance`: in a session after others, h by consumer [LC-D].

    Where baselines were foreseen [LC-IMB], all energies on-peak:

    - `settled_kwh`, `metered_kwh`: by consumer, what it was to draw after its shift, and what its meter counted.
    - `metered_shifted_kwh`, `metered_rewards`, `metered_bills`: by consumer, what it shifted, and the money for that.
    - `metered_commission`: what the utility pays the aggregator for these shifts, money.
    - `imbalance_kwh`: metered less settled, of all consumers; `imbalance_price`, `imbalance_cost`: what the utility
      pays for it, money per kWh and money; it is paid where that is below zero.
    """

    target_kwh: Finite
    calls_kwh: dict[str, Finite]
    shifted_kwh: dict[str, Finite]
    achieved_kwh: Finite
    success_rate: Finite
    commission: Finite
    squared_deviation: Finite
    aggregator_utility: Finite
    call_rounds: Count
    call_journal: list[CallRound]
    rewards: dict[str, Finite]
    bills: dict[str, Finite]
    baseline_bills: dict[str, Finite]
    event: list[tuple[str, str]] | None = None
    performance: dict[str, Finite] | None = None
    settled_kwh: dict[str, Finite] | None = None
    metered_kwh: dict[str, Finite] | None = None
    metered_shifted_kwh: dict[str, Finite] | None = None
    metered_rewards: dict[str, Finite] | None = None
    metered_bills: dict[str, Finite] | None = None
    metered_commission: Finite | None = None
    imbalance_kwh: Finite | None = None
    imbalance_price: Finite | None = None
    imbalance_cost: Finite | None = None

    def meter(self, foreseen: LoadCallScenario, came: LoadCallScenario, binding: int) -> Self:
        """Give the same with what the meters count on-peak, when loads are as they `came` [LC-IMB].

        All slots of the session bind.
        """
        leader, reward = came.leader, came.aggregator.reward
        settled, metered, shifted = {}, {}, {}
        for before, after in zip(foreseen.everyone, came.everyone, strict=True):
            if before.id in self.shifted_kwh:
                planned = self.shifted_kwh[before.id]
                done = before.meter({"shifted_kwh": planned}, after)
                settled[before.id] = before.baseline_kwh - planned
                metered[before.id], shifted[before.id] = done["load_kwh"], done["shifted_kwh"]
        unforeseen = sum(metered[name] - settled[name] for name in metered)
        price = leader.peak_price if leader.imbalance_price is None else leader.imbalance_price
        return self.model_copy(
            update={
                "settled_kwh": settled,
                "metered_kwh": metered,
                "metered_shifted_kwh": shifted,
                "metered_rewards": {name: reward * kwh for name, kwh in shifted.items()},
                "metered_bills": {
                    name: leader.peak_price * metered[name] + leader.off_peak_price * kwh
                    for name, kwh in shifted.items()
                },
                "metered_commission": leader.commission * sum(shifted.values()),
                "imbalance_kwh": unforeseen,
                "imbalance_price": price,
                "imbalance_cost": price * unforeseen,
            }
        )

    @model_validator(mode="after")
    def _same_consumers(self) -> Self:
        for key in ("shifted_kwh", "rewards", "bills", "baseline_bills"):
            if getattr(self, key).keys() != self.calls_kwh.keys():
                raise ValueError(f"{key} is of other consumers than calls_kwh")
        return self

    @classmethod
    def of(cls, scenario: LoadCallScenario, run_record: RunRecord) -> Self:
        """Build it from the last round, the aggregator's journal and the accounts of the homes."""
        last = run_record.rounds[-1]
        target, achieved = scenario.leader.target_kwh, last["shifted_kwh"]
        accounts = {home.id: run_record.homes[home.id] for home in scenario.everyone if home.id in run_record.homes}

        def collect(key: str) -> dict[str, float]:
            return {name: account[key] for name, account in accounts.items()}

        besides: dict[str, Any] = {}
        if scenario.aggregator.history is not None:
            everyone = [home.id for home in scenario.everyone]
            besides["performance"] = dict(zip(everyone, scenario.performance.tolist(), strict=True))
        if scenario.leader.event is not None and scenario.session.times is not None:
            besides["event"] = list(_list_times(scenario.session, scenario.leader.event.mark(scenario.session)))
        return cls(
            **besides,
            target_kwh=target,
            calls_kwh=collect("call_kwh"),
            shifted_kwh=collect("shifted_kwh"),
            achieved_kwh=achieved,
            success_rate=achieved / target if target > 0 else 1.0,
            commission=last["commission"],
            squared_deviation=last["squared_deviation"],
            aggregator_utility=last["commission"] - scenario.aggregator.fairness * last["squared_deviation"],
            call_rounds=last["call_rounds"],
            call_journal=[
                CallRound(**{key: record[key] for key in CallRound.model_fields})
                for record in run_record.aggregator_rounds
            ],
            rewards=collect("reward"),
            bills=collect("bill"),
            baseline_bills=collect("baseline_bill"),
        )

    def complies(self, name: str) -> bool:
        """Tell whether a consumer shifts all that it is called for."""
        return self.shifted_kwh[name] >= _ALL * self.calls_kwh[name]


def _list_times(session: Session, event: NDArray[np.bool_]) -> Iterator[tuple[str, str]]:
    """List when an event begins and ends, as often as it does."""
    times = session.times or []
    edges = np.flatnonzero(np.diff(event, prepend=False, append=False))
    for first, end in edges.reshape(-1, 2).tolist():
        last = times[end - 1].astimezone(UTC) + timedelta(hours=session.slot_hours)
        yield times[first].isoformat(), last.astimezone(times[first].tzinfo).isoformat()
