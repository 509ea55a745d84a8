"""The control of a home's storage: by the last settled plan as long as it holds, then by what the home does alone.

A pure state machine: it is told what happens and what time it is, and says what its storage is to do. Above both plans
stands the householder's override, and above all a limit from outside. Powers kW, charging and drawing above zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Literal

from emc_node.device_settings import FailSafe, OutsideLimit
from emc_node.limit import NO_BOUNDS, Bounds, Limit, LimitControl, Source
from emc_node.plan import Moment, Plan
from stackelgrid.model import Finite, SchemaVersion, StrictModel

Mode = Literal["plan", "fail_safe"]
_MOST_PLANS = 100
"""So many settled plans are kept: of the session under way, and of those that are settled ahead."""


class Override(StrictModel):
    """What the householder wants of the storage until a time: a power, or `off`, which is its default."""

    setpoint_kw: Finite | Literal["off"]
    until: Moment


class Memory(StrictModel):
    """What a home must not lose with the power: its settled plans, and what it was told."""

    schema_version: SchemaVersion = 1
    plans: list[Plan] = []
    override: Override | None = None
    takes_part: bool = True
    limit: Limit | None = None


@dataclass(frozen=True)
class Orders:
    """What a home does now: in slot `slot` of `plan`, None without one; the storage at `setpoint_kw`, None untouched.

    `bounds` limit the meter, and are of `source`.
    """

    mode: Mode
    plan: Plan | None = None
    slot: int = 0
    setpoint_kw: float | None = None
    override: Override | None = None
    bounds: Bounds = NO_BOUNDS
    source: Source = "outside"


@dataclass(frozen=True)
class StorageLimits:
    """The most that a storage discharges and charges, kW, and the power at which it rests when nobody controls it."""

    discharge_kw: float
    charge_kw: float
    default_kw: float = 0.0


class StorageControl:
    """Says what the storage of a home is to do at each moment.

    A settled plan is in force from its first slot on, until its last one has ended, or `holds_h` hours have passed, or
    the next one begins. Then `fail_safe` follows. `begun` is the time now.
    """

    def __init__(
        self,
        storage: StorageLimits | None,
        fail_safe: FailSafe,
        limit: OutsideLimit | None,
        begun: datetime,
        memory: Memory | None = None,
    ) -> None:
        memory = memory or Memory()
        self._storage, self._fail_safe = storage, fail_safe
        self._plans = list(memory.plans)
        self._override, self.takes_part = memory.override, memory.takes_part
        self._limit = None if limit is None else LimitControl(limit, begun, memory.limit)
        self._own_plan: Plan | None = None

    @property
    def memory(self) -> Memory:
        """What is to be kept over a restart."""
        limit = None if self._limit is None else self._limit.limit
        return Memory(plans=self._plans, override=self._override, takes_part=self.takes_part, limit=limit)

    def has_plan(self, run: str, scenario: str | None, session: int) -> bool:
        """Tell whether the plan of a session was settled already, also when it is over."""
        return any((plan.run, plan.scenario, plan.session) == (run, scenario, session) for plan in self._plans)

    # --- what happens ---

    def settle(self, plan: Plan, now: datetime) -> None:
        """Take a settled plan; one of the same session before it is void, and so are those that ended before now.

        The last one stays though it is over, so that it is known when its settlement comes again.
        """
        session = (plan.run, plan.scenario, plan.session)
        others = [one for one in self._plans if (one.run, one.scenario, one.session) != session and one.end > now]
        self._plans = sorted([*others, plan], key=lambda each: each.start)[-_MOST_PLANS:]

    def follow_alone(self, plan: Plan) -> None:
        """Take the plan of what is best for the home without the grid."""
        self._own_plan = plan

    def override(self, override: Override | None) -> None:
        """Take what the householder wants, None for no more than the plan."""
        self._override = override

    def limit(self, limit: Limit, now: datetime) -> None:
        """Take what the operator of the network says."""
        assert self._limit is not None
        self._limit.hear(limit, now)

    # --- what is to be done ---

    def order(self, now: datetime, other_kw: float | None = None) -> Orders:
        """Give what is to be done now; `other_kw` is what the home draws without its storage, where it is measured."""
        settled = self._find_settled(now)
        plan, mode = (self._find_own(now), "fail_safe") if settled is None else (settled, "plan")
        slot = 0 if plan is None else plan.slot_at(now) or 0
        override = self._override if self._override is not None and now < self._override.until else None
        bounds, source = self.bound(now, now + timedelta(microseconds=1), now)
        if other_kw is None and plan is not None:
            other_kw = plan.load_kw[slot] - (0.0 if plan.setpoint_kw is None else plan.setpoint_kw[slot])
        setpoint = self._cap(self._want(now, plan, slot, override), bounds, other_kw)
        return Orders("plan" if mode == "plan" else "fail_safe", plan, slot, setpoint, override, bounds, source)

    def bound(self, begin: datetime, end: datetime, now: datetime) -> tuple[Bounds, Source]:
        """Give the strictest bounds of the meter from one time to another, by what is known now, and whose they are."""
        return (NO_BOUNDS, "outside") if self._limit is None else self._limit.bound(begin, end, now)

    def limit_is_silent(self, now: datetime) -> bool:
        """Tell whether there is to be a limit from outside and nothing is heard of it."""
        return self._limit is not None and self._limit.is_silent(now)

    def needs_own_plan(self, now: datetime) -> bool:
        """Tell whether the home is to do what is best for it alone, and does not know yet what that is."""
        return self._fail_safe.prices is not None and self._find_settled(now) is None and self._find_own(now) is None

    def plan_until(self, now: datetime) -> datetime | None:
        """Give the time until which settled plans hold, one after the other, None when none is in force."""
        until = None
        while (plan := self._find_settled(until or now)) is not None:
            until = self._ends(plan)
        return until

    def find_own_level(self, now: datetime) -> float | None:
        """Give what the storage should hold, kWh, where the last plan that the home followed was one of its own."""
        own, begun = self._own_plan, [plan for plan in self._plans if plan.start <= now]
        if own is None or (begun and own.start < self._ends(begun[-1])):
            return None
        return own.level_at(min(now.astimezone(UTC), own.end))

    def expect_change(self, begin: datetime, end: datetime) -> float:
        """Give by how much the energy in the storage changes from one time to another by its plans, kWh."""
        if end < begin:
            return -self.expect_change(end, begin)
        change, time = 0.0, begin
        while time < end:
            until = min(end, self.next_change(time) or end)
            plan = self._find_settled(time) or self._find_own(time)
            if plan is not None:
                change += (plan.level_at(until) or 0.0) - (plan.level_at(time) or 0.0)
            time = until
        return change

    def next_change(self, now: datetime) -> datetime | None:
        """Give the next time at which something else may be to be done, but for a new hour of the clock."""
        changes = [change for plan in self._plans for change in (plan.start, self._ends(plan))]
        for plan in (self._find_settled(now), self._find_own(now)):
            if plan is not None:
                changes += [plan.begin_of((plan.slot_at(now) or 0) + 1), plan.end]
        if self._override is not None:
            changes.append(self._override.until)
        if self._limit is not None and (change := self._limit.next_change(now)) is not None:
            changes.append(change)
        return min((change for change in changes if change > now), default=None)

    def _find_settled(self, now: datetime) -> Plan | None:
        """Find the settled plan that is in force: of those that have begun the last, as long as it holds."""
        begun = [plan for plan in self._plans if plan.start <= now]
        return begun[-1] if begun and now < self._ends(begun[-1]) else None

    def _ends(self, plan: Plan) -> datetime:
        holds_h = self._fail_safe.holds_h
        return plan.end if holds_h is None else min(plan.end, plan.start + timedelta(hours=holds_h))

    def _find_own(self, now: datetime) -> Plan | None:
        return self._own_plan if self._own_plan is not None and self._own_plan.slot_at(now) is not None else None

    def _want(self, now: datetime, plan: Plan | None, slot: int, override: Override | None) -> float | None:
        """Give the power of the storage without a limit, None for a storage that nobody has controlled so far."""
        if self._storage is None:
            return None
        default = self._storage.default_kw
        if override is not None:
            wish = default if override.setpoint_kw == "off" else override.setpoint_kw
            return min(max(wish, -self._storage.discharge_kw), self._storage.charge_kw)
        if plan is not None:
            return None if plan.setpoint_kw is None else plan.setpoint_kw[slot]
        if self._fail_safe.profile_kw is not None:
            return self._fail_safe.profile_kw[now.hour]
        return default if self._plans or self._fail_safe.prices is not None else None

    def _cap(self, setpoint: float | None, bounds: Bounds, other_kw: float | None) -> float | None:
        """Give the power that is nearest to `setpoint` within the limits of the meter and of the storage.

        Where nobody knows what the rest of the home draws, the storage takes or gives nothing that could break a limit.
        """
        storage = self._storage
        if storage is None or bounds == NO_BOUNDS:
            return setpoint
        wanted = storage.default_kw if setpoint is None else setpoint
        if other_kw is None:
            most, least = (0.0 if isfinite(kw) else kw for kw in (bounds.draw_kw, -bounds.feed_in_kw))
        else:
            most, least = bounds.draw_kw - other_kw, -bounds.feed_in_kw - other_kw
        capped = max(min(wanted, most), least)
        return wanted if capped == wanted else min(max(capped, -storage.discharge_kw), storage.charge_kw)
