"""A limit from outside: what the operator of the network allows the meter to draw and to feed in, and until when.

It works as a limit over EEBUS (use cases LPC and LPP): it has an end, its sender is heard again and again, and when the
sender falls silent a limit of the home's own counts for a time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil, floor, inf, isfinite
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from emc_node.device_settings import OutsideLimit
from emc_node.plan import Moment
from stackelgrid.calendar import MOST_SLOTS
from stackelgrid.model import NonNegative, StrictModel

Source = Literal["outside", "fail_safe"]


class Bounds(NamedTuple):
    """The most that the meter may draw and feed in, kW; infinite where nothing limits it."""

    draw_kw: float = inf
    feed_in_kw: float = inf

    def record(self) -> dict[str, float | None]:
        """Give the same as JSON, None where nothing limits it."""
        return {key: kw if isfinite(kw) else None for key, kw in self._asdict().items()}


NO_BOUNDS = Bounds()
Kilowatts = NonNegative | Annotated[list[NonNegative], Field(min_length=1, max_length=MOST_SLOTS)] | None


class Limit(StrictModel):
    """A message of the operator: the most that the meter may draw and feed in until a time, kW; null is no limit.

    A list has a number per slot of `slot_minutes` from `start` on.
    """

    draw_kw: Kilowatts = None
    feed_in_kw: Kilowatts = None
    start: Moment | None = None
    slot_minutes: Annotated[int, Field(ge=1, le=60)] = 15
    until: Moment | None = None

    def bound(self, begin: datetime, end: datetime) -> Bounds:
        """Give the strictest bounds from one time to another."""
        if self.until is not None and begin >= self.until:
            return NO_BOUNDS
        return Bounds(self._bound(self.draw_kw, begin, end), self._bound(self.feed_in_kw, begin, end))

    def next_change(self, time: datetime) -> datetime | None:
        """Give the next time at which it may change by itself."""
        changes = [] if self.until is None else [self.until]
        if self.start is not None:
            step = timedelta(minutes=self.slot_minutes)
            changes.append(self.start + max(floor((time - self.start) / step) + 1, 0) * step)
        return min((change for change in changes if change > time), default=None)

    def _bound(self, kw: Kilowatts, begin: datetime, end: datetime) -> float:
        if not isinstance(kw, list):
            return inf if kw is None else kw
        assert self.start is not None
        step = timedelta(minutes=self.slot_minutes)
        first, behind = floor((begin - self.start) / step), ceil((end - self.start) / step)
        return min(kw[max(first, 0) : max(behind, 0)], default=inf)

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.start is None and (isinstance(self.draw_kw, list) or isinstance(self.feed_in_kw, list)):
            raise ValueError("start: missing; a list has its first number there")
        return self


class LimitControl:
    """The limit in force: that of the operator or, while the operator is silent, the home's own.

    An operator that was never heard of is silent since `begun`. `limit` is the one of before a restart.
    """

    def __init__(self, settings: OutsideLimit, begun: datetime, limit: Limit | None = None) -> None:
        self._own = Bounds(*(inf if kw is None else kw for kw in (settings.draw_kw, settings.feed_in_kw)))
        self._patience = timedelta(seconds=settings.heartbeat_s)
        self._own_lasts = timedelta(hours=settings.fail_safe_h)
        self._heard = begun.astimezone(UTC)
        self.limit = limit

    def hear(self, limit: Limit, time: datetime) -> None:
        """Take what the operator says now."""
        self.limit, self._heard = limit, time.astimezone(UTC)

    def is_silent(self, time: datetime) -> bool:
        """Tell whether the operator has not been heard of for too long."""
        return time >= self._heard + self._patience

    def bound(self, begin: datetime, end: datetime, now: datetime) -> tuple[Bounds, Source]:
        """Give the strictest bounds from one time to another, by what is known now, and whose they are."""
        if not self.is_silent(now):
            return (NO_BOUNDS if self.limit is None else self.limit.bound(begin, end)), "outside"
        return (self._own if begin < self._own_ends else NO_BOUNDS), "fail_safe"

    def next_change(self, time: datetime) -> datetime | None:
        """Give the next time at which the limit may change by itself."""
        changes = [self._heard + self._patience, self._own_ends]
        if self.limit is not None and (by_itself := self.limit.next_change(time)) is not None:
            changes.append(by_itself)
        return min((change for change in changes if change > time), default=None)

    @property
    def _own_ends(self) -> datetime:
        return self._heard + self._patience + self._own_lasts
