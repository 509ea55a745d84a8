"""Schedules of a home's appliances: time-of-use scheduling (reading: energy within a window).

An interruptible appliance needs the energy E between the slots `first` and `last`, at a rate of at most m. Asked at a
price lambda it answers with the schedule y that is cheapest when leaving its present one x costs, too [SM-13]:

    min over y   sum_t [lambda_t y_t + c / (2 m) (y_t - x_t)^2] Δ,      0 <= y_t <= m,   sum_t y_t Δ = E

This is a quadratic program with a closed form: y_t = min(max(x_t - m lambda_t / c + nu, 0), m), and the sum, piecewise
linear in nu, gives nu. One that cannot be interrupted runs n slots in a row. With W_t what a run from slot t on costs,
it decides in each slot whether to start [SM-14]:

    V_t = min(W_t, V_{t+1}),      V_{last-n+2} infinite.

Slots have Δ hours and count from 1; schedules are in kW, prices and c in dollars per MWh.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from stackelgrid.calendar import MOST_SLOTS_OF_RUN, Session
from stackelgrid.model import NonNegative, Positive
from stackelgrid.rounds.settings import PrivateModel
from stackelgrid.wire.arrays import Array

_ROUNDING = 1e-9
Slot = Annotated[int, Field(ge=1, le=MOST_SLOTS_OF_RUN)]
Hours = Annotated[int, Field(ge=1, le=1000)] | Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class Interruptible(PrivateModel):
    """`blocks` of `block_kwh` within the slots `first`..`last`, `per_hour` of them at most, or any part of that.

    Before there was a price it ran at full rate from the slot `preferred` on. In a session of a run it draws a part of
    its energy `elsewhere_kwh`: in other sessions.
    """

    kind: Literal["interruptible"] = "interruptible"
    name: str = "interruptible"
    blocks: Annotated[int, Field(ge=1, le=1000)]
    block_kwh: Positive
    first: Slot
    last: Slot
    per_hour: Annotated[int, Field(ge=1, le=1000)]
    preferred: Slot
    elsewhere_kwh: NonNegative = 0.0

    def in_session(self, session: Session, drawn_kwh: float) -> Interruptible | None:
        """Give what it needs in one session of a run, None where that is nothing.

        Where its window goes on after the session, that is the part of its energy that falls on the session when it is
        spread evenly over what is left of the window (reading).
        """
        first, last, end = _cut_window(self, session)
        left = min(self.energy_kwh - drawn_kwh, self.most_kw * session.slot_hours * (end - first + 1))
        if last < first or left <= _ROUNDING * self.energy_kwh:
            return None
        here = left * (last - first + 1) / (end - first + 1)
        part = self.model_copy(update={"first": first, "last": last, "elsewhere_kwh": max(self.energy_kwh - here, 0.0)})
        latest = last - part.count_slots(session.slot_hours) + 1
        return part.model_copy(update={"preferred": max(first, min(self.preferred - session.first, latest))})

    def count_slots(self, slot_hours: float) -> int:
        """Count the slots in which it runs, the last perhaps not at full rate."""
        return ceil(self._blocks / (self._per_hour * slot_hours) - _ROUNDING)

    @property
    def energy_kwh(self) -> float:
        """The energy that it needs."""
        return self.blocks * self.block_kwh - self.elsewhere_kwh

    @property
    def most_kw(self) -> float:
        """Its full rate; no more than all of its blocks in an hour."""
        return self._per_hour * self.block_kwh

    @property
    def _per_hour(self) -> int:
        return min(self.blocks, self.per_hour)

    @property
    def _blocks(self) -> float:
        return self.blocks - self.elsewhere_kwh / self.block_kwh

    def preferred_schedule(self, slots: int, slot_hours: float = 1.0) -> Array:
        """Give what it draws before there is a price, (T,) kW."""
        per_hour = np.zeros(slots)
        left = self._blocks / slot_hours
        for slot in range(self.preferred - 1, self.preferred - 1 + self.count_slots(slot_hours)):
            per_hour[slot] = min(left, self._per_hour)
            left -= self._per_hour
        return per_hour * self.block_kwh

    def cheapest_schedule(self, price: Array, slot_hours: float = 1.0) -> Array:
        """Give what it draws at `price` (T,), (T,) kW: full rate in the cheapest slots."""
        window = slice(self.first - 1, self.last)
        left = self.energy_kwh / slot_hours - self.most_kw * np.arange(self.last - self.first + 1)
        consumption = np.zeros(len(price))
        consumption[window][np.argsort(price[window], kind="stable")] = np.clip(left, 0, self.most_kw)
        return consumption

    def proximal_schedule(self, price: Array, present: Array, weight: float, slot_hours: float = 1.0) -> Array:
        """Give what it draws at `price` when leaving the `present` schedule costs, too, (T,) kW [SM-13]."""
        window, most, energy = slice(self.first - 1, self.last), self.most_kw, self.energy_kwh / slot_hours
        wish = present[window] - most * (price[window] - price[window].mean()) / weight
        levels = np.sort(np.concatenate([-wish, most - wish]))
        sums = np.clip(wish + levels[:, None], 0, most).sum(axis=1)
        above = min(max(int(np.searchsorted(sums, energy)), 1), len(levels) - 1)
        low, high = sums[above - 1], sums[above]
        part = (energy - low) / (high - low) if high > low else 0.0
        level = levels[above - 1] + part * (levels[above] - levels[above - 1])
        drawn = np.clip(wish + level, 0, most)
        within = (drawn > 0) & (drawn < most)
        # Where leaving costs little, the wish is large: what its rounding takes from the energy is given back.
        drawn[within] += (energy - drawn.sum()) / max(1, within.sum())
        consumption = np.zeros(len(price))
        consumption[window] = np.clip(drawn, 0, most)
        return consumption


class Uninterruptible(PrivateModel):
    """Runs `hours` in a row at `kw` within the slots `first`..`last`; before there was a price, from `preferred` on."""

    kind: Literal["uninterruptible"]
    name: str = "uninterruptible"
    hours: Hours
    kw: Positive
    first: Slot
    last: Slot
    preferred: Slot

    def in_session(self, session: Session, drawn_kwh: float) -> Uninterruptible | None:
        """Give what of its run may be, or has to be, in one session, None where that is nothing.

        A run once begun goes on. One that does not fit into what the session has of its window waits, while it can
        begin after the binding slots; at last it begins as late as it may, and goes on in the next session (reading).
        """
        first, last, end = _cut_window(self, session)
        left = self.count_slots(session.slot_hours) - round(drawn_kwh / (self.kw * session.slot_hours))
        latest = end - left + 1
        if last < first or left <= 0:
            return None
        if drawn_kwh > 0:
            return self._cut(first, min(left, last - first + 1), session)
        if last - first + 1 >= left:
            preferred = max(first, min(self.preferred - session.first, last - left + 1))
            return self.model_copy(update={"first": first, "last": last, "preferred": preferred})
        return self._cut(latest, last - latest + 1, session) if first <= latest <= session.binding else None

    def _cut(self, first: int, slots: int, session: Session) -> Uninterruptible:
        """Give the run of so many slots that begins in slot `first`."""
        run = {"first": first, "last": first + slots - 1, "preferred": first, "hours": slots * session.slot_hours}
        return self.model_copy(update=run)

    def count_slots(self, slot_hours: float) -> int:
        """Count the slots in which it runs."""
        return round(self.hours / slot_hours)

    @property
    def energy_kwh(self) -> float:
        """The energy that it needs."""
        return self.hours * self.kw

    @property
    def most_kw(self) -> float:
        """Its rate."""
        return self.kw

    def preferred_schedule(self, slots: int, slot_hours: float = 1.0) -> Array:
        """Give what it draws before there is a price, (T,) kW."""
        return self._from(self.preferred - 1, slots, slot_hours)

    def cheapest_schedule(self, price: Array, slot_hours: float = 1.0) -> Array:
        """Give what it draws at `price` (T,), (T,) kW, from the starting slot that costs least [SM-14]."""
        start, least, count = 0, np.inf, self.count_slots(slot_hours)
        for slot in range(self.last - count, self.first - 2, -1):
            paid = float(price[slot : slot + count].sum())
            if paid <= least:
                start, least = slot, paid
        return self._from(start, len(price), slot_hours)

    def _from(self, start: int, slots: int, slot_hours: float) -> Array:
        consumption = np.zeros(slots)
        consumption[start : start + self.count_slots(slot_hours)] = self.kw
        return consumption


Appliance = Annotated[Interruptible | Uninterruptible, Field(discriminator="kind")]


def _cut_window(appliance: Interruptible | Uninterruptible, session: Session) -> tuple[int, int, int]:
    """Give the first and last slot of its window in a session, and where the window ends, perhaps after it."""
    end = appliance.last - session.first
    return max(appliance.first - session.first, 1), min(end, session.slots), end


def check_window(appliance: Interruptible | Uninterruptible, slot_hours: float) -> None:
    """Raise `ValueError` where an appliance does not fit into its window, or runs no whole number of slots."""
    name, first, last, preferred = appliance.name, appliance.first, appliance.last, appliance.preferred
    slots, unit = appliance.count_slots(slot_hours), "hours" if slot_hours == 1 else "slots"
    if isinstance(appliance, Uninterruptible) and slots * slot_hours != appliance.hours:
        raise ValueError(
            f"appliance '{name}': it runs {appliance.hours:g} hours, which are no slots of {60 * slot_hours:g} min; "
            "make hours a multiple of that"
        )
    if last - first + 1 < slots:
        raise ValueError(
            f"appliance '{name}': it runs {slots} {unit}, its window {first}..{last} has {max(0, last - first + 1)}; "
            "widen the window or raise its rate"
        )
    if not first <= preferred <= last - slots + 1:
        raise ValueError(
            f"appliance '{name}': preferred {preferred} is outside {first}..{last - slots + 1}, from where its {slots} "
            f"{unit} end within its window; move preferred"
        )
