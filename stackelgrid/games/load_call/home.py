"""What a consumer does in the load call game: it shifts what it is called for, as far as that pays.

Called for c kWh at the tariff p_on, p_off and the reward r, the consumer solves (reading of equations 1 to 4)

    min over y    p_on (d - y) + p_off y + alpha y^2 + beta y - r y,      0 <= y <= min(c, m),

d its baseline on-peak consumption, alpha y^2 + beta y its dissatisfaction (paper, 3), m what it can shift at all
(reading of its "availability"). The cost is strictly convex, so the answer is its stationary point, clipped:

    y*(c) = min(c, yhat),      yhat = clip((p_on - p_off + r - beta) / (2 alpha), 0, min(d, m))          (derived)

alpha, beta and m never leave this process; what leaves it is y*(c). Energies kWh, money as in the prices.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from stackelgrid.games.load_call.messages import Call, Shift, rows
from stackelgrid.model import NonNegative, Positive
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.wire.arrays import Array

_LOG = logging.getLogger("emc_node")
_FEW_HOMES = 1000
"""A process with more homes answers beside receiving messages, not in between."""


class Consumer(HomeModel):
    """A consumer as it knows itself.

    `baseline_kwh` is d, what it consumes on-peak when nobody calls; its meter, and so the aggregator, know it too.
    Dissatisfaction is `alpha` y^2 + `beta` y, money per kWh^2 and per kWh. `most_kwh` is the most that it can shift at
    all, whatever that pays; when omitted, its baseline.
    """

    baseline_kwh: NonNegative
    alpha: Positive
    beta: NonNegative = 0.0
    most_kwh: NonNegative | None = None

    def willing_kwh(self, saving: float) -> float:
        """yhat, kWh (derived): what it would shift if called for everything; `saving` is p_on - p_off + r."""
        most = self.baseline_kwh if self.most_kwh is None else min(self.most_kwh, self.baseline_kwh)
        return min(max((saving - self.beta) / (2 * self.alpha), 0.0), most)


class Consumers:
    """The EMC's strategy for the consumers of one process: between the bodies on the wire and their problems."""

    def __init__(self, homes: Sequence[Consumer]) -> None:
        self._homes = homes
        self.quick = len(homes) <= _FEW_HOMES

    def answer(self, signal: Call) -> Shift:
        """y*(c) of each consumer, kWh."""
        return Shift(homes=len(self._homes), shifted_kwh=rows(self._shifts(signal)))

    def settle(self, settlement: Call) -> dict[str, Any]:
        """Each consumer's call and shift, kWh, its reward and bill and the bill without a call, money.

        `bill` is p_on (d - y) + p_off y; the reward is paid besides. `cost` is the objective: bill and dissatisfaction
        less reward.
        """
        told = {}
        for home, called, shifted in zip(
            self._homes, self._calls(settlement).tolist(), self._shifts(settlement).tolist(), strict=True
        ):
            bill = settlement.peak_price * (home.baseline_kwh - shifted) + settlement.off_peak_price * shifted
            reward = settlement.reward * shifted
            told[home.id] = {
                "call_kwh": called,
                "shifted_kwh": shifted,
                "reward": reward,
                "bill": bill,
                "baseline_bill": settlement.peak_price * home.baseline_kwh,
                "cost": bill + home.alpha * shifted**2 + home.beta * shifted - reward,
            }
        return told

    def _shifts(self, call: Call) -> Array:
        saving = call.peak_price - call.off_peak_price + call.reward
        return np.minimum(self._calls(call), [home.willing_kwh(saving) for home in self._homes])

    def _calls(self, call: Call) -> Array:
        """(homes,) kWh. A call that is not for as many homes as there are is for none of them."""
        calls = call.calls()
        if len(calls) == len(self._homes):
            return calls
        _LOG.error("a call for other homes", extra={"data": {"called": len(calls), "homes": len(self._homes)}})
        return np.zeros(len(self._homes))
