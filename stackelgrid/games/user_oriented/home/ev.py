"""An electric vehicle that leaves and comes back [UO-EV]."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.user_oriented.home.battery import Store
from stackelgrid.games.user_oriented.home.flows import Chain
from stackelgrid.model import NonNegative
from stackelgrid.rounds.settings import PrivateModel


class Trip(PrivateModel):
    """A trip: away from the slot `leave` on, at home again in the slot `back`, both counted from 1.

    At departure the car holds at least `need_kwh`, when omitted what the trip takes, `uses_kwh`; it comes back with so
    much less. `back` lies beyond the horizon for a car that does not come back within it.
    """

    leave: Annotated[int, Field(ge=1)]
    back: Annotated[int, Field(ge=1)]
    uses_kwh: NonNegative
    need_kwh: NonNegative | None = None

    @property
    def least_kwh(self) -> float:
        """The least energy at departure, kWh."""
        return self.uses_kwh if self.need_kwh is None else max(self.need_kwh, self.uses_kwh)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.back <= self.leave:
            raise ValueError(f"back {self.back} is not after leave {self.leave}; a trip takes a slot at least")
        return self


class EV(Store):
    """An electric vehicle: a store that charges, and where `discharge_kw` says so discharges, while it is at home."""

    name: str = "ev"
    discharge_kw: NonNegative = 0.0
    trips: list[Trip] = []

    def chain(self, horizon: int) -> Chain:
        """Give its energy as a chain: no power while it is away, and the energy of a trip leaves with it."""
        home, taken, least = np.ones(horizon), np.zeros(horizon), np.zeros(horizon)
        for trip in self.trips:
            home[trip.leave - 1 : trip.back - 1] = 0.0
            if trip.leave <= horizon:
                taken[trip.leave - 1] = trip.uses_kwh
            if 1 < trip.leave <= horizon + 1:
                least[trip.leave - 2] = trip.least_kwh
        least[-1] = max(least[-1], self.least_final_kwh)
        return self.build_chain(home, taken, least)

    def in_window(self, first: int, slots: int) -> Self:
        """Give the car in the slots `first` (from 0) and on of a run, so many, where it is then.

        A trip under way has taken its energy already. At the end of the window it holds what it should as far as that
        can be reached there.
        """
        trips = []
        for trip in self.trips:
            leave, back = trip.leave - first, trip.back - first
            if leave >= 1:
                trips.append(trip.model_copy(update={"leave": leave, "back": back}))
            elif back > 1:
                trips.append(Trip(leave=1, back=back, uses_kwh=0.0))
        seen = [trip for trip in trips if trip.leave <= slots + 1]
        return self.model_copy(update={"trips": seen, "final_kwh": self.least_final_kwh})

    @model_validator(mode="after")
    def _check_trips(self) -> Self:
        in_order = sorted(range(len(self.trips)), key=lambda number: self.trips[number].leave)
        for one, other in pairwise(in_order):
            if self.trips[other].leave < self.trips[one].back:
                raise ValueError(
                    f"trips.{other} leaves in slot {self.trips[other].leave}, but the car is back from trips.{one} in "
                    f"slot {self.trips[one].back}; let it leave later"
                )
        for number, trip in enumerate(self.trips):
            if trip.least_kwh > self.capacity_kwh:
                raise ValueError(
                    f"trips.{number}: {trip.least_kwh:g} kWh at departure are above capacity_kwh "
                    f"{self.capacity_kwh:g}; lower them"
                )
        return self
