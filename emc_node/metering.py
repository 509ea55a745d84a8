"""Energy per slot from readings of the power at the meter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

LONGEST_GAP = timedelta(minutes=5)
"""A reading holds until the next one, but no longer than this: a slot with a longer gap is not counted."""


class SlotMeter:
    """Adds up readings to the energy of each slot of `minutes`, and gives it to `note` when the slot is over.

    `note` gets the slot's start, its minutes and the energy in kWh, drawn above zero. A slot that was not measured from
    its beginning to its end is left out.
    """

    def __init__(self, minutes: int, note: Callable[[datetime, int, float], None]) -> None:
        self._minutes, self._note = minutes, note
        self._kw = 0.0
        self._at: datetime | None = None  # of the last reading
        self._kwh = 0.0  # of the slot of that reading, up to it
        self._is_whole = False  # up to it

    def read(self, kw: float, at: datetime) -> None:
        """Take a reading of the power."""
        last, self._at = self._at, at
        kw_before, self._kw = self._kw, kw
        if last is None or not last <= at <= last + LONGEST_GAP:  # the first, or after a gap, or the clock was set
            self._kwh, self._is_whole = 0.0, False
            return
        while (end := self._begin(last) + timedelta(minutes=self._minutes)) <= at:
            if self._is_whole:
                self._note(self._begin(last), self._minutes, self._kwh + kw_before * _hours(end - last))
            last, self._kwh, self._is_whole = end, 0.0, True
        self._kwh += kw_before * _hours(at - last)

    def _begin(self, at: datetime) -> datetime:
        """Give the beginning of the slot that a time is in, by the clock of the place."""
        into = timedelta(minutes=at.minute % self._minutes, seconds=at.second, microseconds=at.microsecond)
        return at - into


def _hours(span: timedelta) -> float:
    return span / timedelta(hours=1)
