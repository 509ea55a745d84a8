"""A photovoltaic system of a home [UO-PV]."""

from __future__ import annotations

import numpy as np

from stackelgrid.games.user_oriented.home.flows import Control
from stackelgrid.model import PerSlot, Positive
from stackelgrid.rounds.settings import PrivateModel


class PV(PrivateModel):
    """A photovoltaic system: it gives `available_kw`, or any part of it where it is `curtailable`.

    What is cut costs `curtailment` times its square, money per kW^2 h (reading): a little, so that a home cuts only
    where its own price is below zero, and its best schedule is unique.
    """

    name: str = "pv"
    available_kw: PerSlot
    curtailable: bool = True
    curtailment: Positive = 1e-3

    def control(self, horizon: int) -> Control:
        """Give the power used as a control of the home; one that cannot be curtailed has a single value."""
        available = np.broadcast_to(np.asarray(self.available_kw, float), (horizon,))
        lower = np.zeros(horizon) if self.curtailable else available
        return Control(lower, available, self.curtailment, draw=-1.0, best=available, behind_inverter=True)
