"""The consumer of the load call game: it shifts as much of its call as pays.

Called for c kWh at the tariff p_on, p_off and the reward r, the consumer solves [LC-4]

    min over y    p_on (d - y) + p_off y + alpha y^2 + beta y - r y,      0 <= y <= min(c, m),

d its baseline on-peak consumption, alpha y^2 + beta y its dissatisfaction [LC-3], m the most it can shift (reading of
its "availability"). The cost [LC-2] is strictly convex, so the answer is its stationary point, clipped [LC-A]:

    y*(c) = min(c, yhat),      yhat = clip((p_on - p_off + r - beta) / (2 alpha), 0, min(d, m))          (derived)

alpha, beta and m never leave this process; y*(c) does. d is given, or is what the load draws in the slots of the event
[LC-C]. Energies kWh, money as in the prices.

With a forecast d is what consumer and aggregator foresee, and another d comes. The consumer then still shifts y, as far
as it draws that much, and its meter counts [LC-MET]

    metered = d - y',      y' = min(y, d),      where d' - y was settled, d' the baseline foreseen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.calendar import Event, Session
from stackelgrid.forecast import Forecast, ForecastRules, foresee
from stackelgrid.games.load_call.messages import Call, Shift, to_rows
from stackelgrid.model import PER_SLOT, NonNegative, Positive
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.wire.arrays import Array

_LOG = logging.getLogger("emc_node")
_FEW_HOMES = 1000
"""A process with more homes answers beside receiving messages, not in between."""


class LoadForecast(ForecastRules):
    """The rules by which the `load` of a consumer is foreseen, kW, and with it its baseline."""

    without: ClassVar[Mapping[str, str]] = {
        "pv": "a baseline is of what a consumer draws, which is one load",
        "temperature": "no dissatisfaction depends on the weather",
        "price": "the tariff is public, and there is no wholesale price",
    }

    load: Forecast = "perfect"


class Consumer(HomeModel):
    """The data of a consumer.

    `baseline_kwh` is d, its on-peak consumption without a call; the aggregator meters it and so knows it too. In place
    of it `load_kw` is its load without a call, one number per slot; the scenario then says which slots are of the
    `event`. Dissatisfaction is `alpha` y^2 + `beta` y [LC-3], money per kWh^2 and per kWh. `most_kwh` is m, the most
    that it can shift whatever that pays; when omitted, its baseline. The load is what comes; a session knows what
    `forecast` makes of it.
    """

    baseline_kwh: NonNegative = 0.0
    load_kw: Annotated[list[NonNegative] | None, PER_SLOT] = None
    event: Event | None = None
    alpha: Positive
    beta: NonNegative = 0.0
    most_kwh: NonNegative | None = None
    forecast: Annotated[LoadForecast | None, Field(exclude_if=lambda forecast: forecast is None)] = None

    @model_validator(mode="after")
    def _check_baseline(self) -> Self:
        both = self.load_kw is not None and self.baseline_kwh > 0
        neither = self.load_kw is None and "baseline_kwh" not in self.model_fields_set
        if both or neither:
            raise ValueError("give either baseline_kwh or load_kw, not both and not neither")
        if self.load_kw is not None and self.event is None:
            raise ValueError("load_kw is given by slot; say in leader.event which slots are of the event")
        return self

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when its load has another length, or there is none to foresee."""
        if self.load_kw is not None and len(self.load_kw) != slots:
            raise ValueError(f"load_kw has {len(self.load_kw)} numbers, slots is {slots}; give one per slot")
        if self.forecast is None:
            return
        if self.load_kw is None:
            raise ValueError("forecast: baseline_kwh is one number, and nothing else comes; give load_kw in its place")
        self.forecast.check_slots(slots)

    def foresee(self, session: Session) -> Self:
        """Give the consumer with the load that is foreseen for a session."""
        if self.forecast is None:
            return self
        return self.model_copy(
            update={"load_kw": foresee(self.forecast.load, self.load_kw or [], session), "forecast": None}
        )

    def meter(self, account: Mapping[str, Any], came: Self) -> dict[str, float]:
        """Give what it shifts of what it settled, when its baseline is as it `came`, and what its meter counts, kWh.

        The energies are `shifted_kwh` and `load_kwh`, on-peak [LC-MET].
        """
        shifted = min(account["shifted_kwh"], came.baseline_kwh)
        return {"shifted_kwh": shifted, "load_kwh": came.baseline_kwh - shifted}

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the consumer in one session, with its baseline [LC-C] in the event of that."""
        if self.load_kw is None or self.event is None:
            return self
        event, load = self.event.in_session(session), self.load_kw[session.window]
        marked = np.zeros(session.slots, bool) if event is None else event.mark(session)
        baseline = session.slot_hours * float(np.sum(load, where=marked))
        return self.model_copy(update={"baseline_kwh": baseline, "load_kw": None, "event": None, "forecast": None})

    @property
    def limit_kwh(self) -> float:
        """Give min(d, m), kWh."""
        return self.baseline_kwh if self.most_kwh is None else min(self.most_kwh, self.baseline_kwh)

    def solve_yhat(self, saving: float) -> float:
        """Give yhat [LC-A], kWh: what it shifts when called for everything. `saving` is p_on - p_off + r."""
        return min(max((saving - self.beta) / (2 * self.alpha), 0.0), self.limit_kwh)


class LoadCallHomes:
    """The EMC's strategy for the consumers of one process: between the bodies on the wire and their problems."""

    def __init__(self, homes: Sequence[Consumer]) -> None:
        self._homes = homes
        self.quick = len(homes) <= _FEW_HOMES

    def answer(self, signal: Call) -> Shift:
        """Answer with y*(c) [LC-A] of each consumer, kWh."""
        return Shift(homes=len(self._homes), shifted_kwh=to_rows(self._solve_shifts(signal)))

    def settle(self, settlement: Call) -> dict[str, Any]:
        """Give by home its call and shift, kWh, its reward and bill, and its bill without a call, money.

        `bill` is p_on (d - y) + p_off y [LC-1]; the reward is not deducted. `cost` is the objective [LC-2].
        """
        accounts = {}
        for home, called, shifted in zip(
            self._homes, self._read_calls(settlement).tolist(), self._solve_shifts(settlement).tolist(), strict=True
        ):
            bill = settlement.peak_price * (home.baseline_kwh - shifted) + settlement.off_peak_price * shifted
            reward = settlement.reward * shifted
            accounts[home.id] = {
                "call_kwh": called,
                "shifted_kwh": shifted,
                "reward": reward,
                "bill": bill,
                "baseline_bill": settlement.peak_price * home.baseline_kwh,
                "cost": bill + home.alpha * shifted**2 + home.beta * shifted - reward,
            }
        return accounts

    def _solve_shifts(self, call: Call) -> Array:
        """Give y*(c), (homes,) kWh."""
        saving = call.peak_price - call.off_peak_price + call.reward
        return np.minimum(self._read_calls(call), [home.solve_yhat(saving) for home in self._homes])

    def _read_calls(self, call: Call) -> Array:
        """Give c, (homes,) kWh: zeros when the call is for another number of homes."""
        calls = call.to_array()
        if len(calls) == len(self._homes):
            return calls
        _LOG.error(
            "a call for another number of homes", extra={"data": {"called": len(calls), "homes": len(self._homes)}}
        )
        return np.zeros(len(self._homes))
