"""The utility of the load call game: it gives a mission and receives the result in sums.

The utility wants R kWh shifted out of the on-peak hours and pays the aggregator kappa per kWh (paper, II-A; the tariff
p_on, p_off is public). The aggregator decides whom to call and for how much.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from stackelgrid.calendar import Event, Session
from stackelgrid.games.load_call.messages import Mission, MissionReport
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.rounds.strategy import Decision
from stackelgrid.wire.arrays import LARGEST, Finite

Target = Annotated[float, Field(ge=0, le=LARGEST / 2, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]


class LoadCallLeader:
    """The utility's strategy: give `mission` and settle on it.

    The node asks again while an answer does not cover every consumer.
    """

    def __init__(self, mission: Mission) -> None:
        self._mission = mission

    def open(self) -> Decision[Mission, Mission]:
        """Give the mission. Should nobody answer it, a target of 0 is settled, so that nobody is called."""
        return Decision(self._mission, self._mission.model_copy(update={"target_kwh": 0.0}))

    def decide(
        self, signal: Mission, answers: Mapping[str, MissionReport], held: Collection[str]
    ) -> Decision[Mission, Mission]:
        """Settle. The residual is how far the aggregator's utility may be below its optimum, relative to commission."""
        reports = answers.values()
        shifted = sum(body.shifted_kwh for body in reports)
        commission = self._mission.commission * shifted
        gap = sum(body.gap for body in reports)
        account = {
            "target_kwh": self._mission.target_kwh,
            "called_kwh": sum(body.called_kwh for body in reports),
            "shifted_kwh": shifted,
            "commission": commission,
            "squared_deviation": sum(body.squared_deviation for body in reports),
            "call_rounds": max((body.call_rounds for body in reports), default=0),
            "gap": gap,
            "homes": sum(body.homes for body in reports),
        }
        return Decision(self._mission, self._mission, True, gap / max(1.0, commission), account)


class UtilitySettings(LeaderSettings):
    """The utility of the load call game.

    `target_kwh` is R, what is to be shifted out of the on-peak hours, in each session of a run. These are one slot, or
    with several slots the `event`, between clock times in a dated run. `peak_price` p_on and `off_peak_price` p_off are
    the tariff and `commission` kappa is what the aggregator earns, all three in money per kWh. With forecasts
    the utility pays `imbalance_price` for what meters count on-peak beyond what was settled, `peak_price` where none is
    given.
    """

    fixed_members = "each consumer's baseline and history are in the aggregator's configuration"

    target_kwh: Target
    event: Event | None = None
    peak_price: Finite
    off_peak_price: Finite
    commission: Price = 1.0
    imbalance_price: Annotated[Finite | None, Field(exclude_if=lambda price: price is None)] = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.peak_price < self.off_peak_price:
            raise ValueError(
                f"peak_price {self.peak_price:g} is below off_peak_price {self.off_peak_price:g}; swap them"
            )
        return self

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` for more than one slot without an event, or one that ends later."""
        if self.event is None and slots != 1:
            raise ValueError(
                f"target_kwh is for one on-peak period, the horizon has {slots} slots; set slots to 1, or give the "
                "event"
            )
        if self.event is not None:
            self.event.check_slots(slots)

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the settings of one session, with the part of the event that is in it."""
        event = None if self.event is None else self.event.in_session(session)
        return super().in_session(session, state).model_copy(update={"event": event})

    def strategy(self, session: Session) -> LoadCallLeader:
        """Build the leader's part of the game."""
        return LoadCallLeader(
            Mission(
                target_kwh=self.target_kwh,
                peak_price=self.peak_price,
                off_peak_price=self.off_peak_price,
                commission=self.commission,
            )
        )
