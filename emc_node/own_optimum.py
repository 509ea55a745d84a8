"""What is best for a home alone, at prices of its own: found by the same solver as its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from emc_node.device_settings import HOURS
from emc_node.devices import HomeDevices
from emc_node.plan import Plan, list_clock_hours
from emc_node.strategy import Create, create_within
from stackelgrid.calendar import Session
from stackelgrid.node.config import NodeConfig
from stackelgrid.registry import find
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.wire.messages import Body


class OwnOptimum:
    """Plans a home from a time on as it would answer `prices`, one per hour of the clock.

    `create` makes the game's strategy of a list of homes; `find_states` gives the states in which what was settled
    leaves them, `devices` what is measured and what limits the meter. Raises `ValueError` in a game whose settlement is
    no price.
    """

    def __init__(
        self,
        config: NodeConfig,
        home: HomeModel,
        create: Create,
        find_states: Callable[[Session], Mapping[str, Any]],
        prices: Sequence[float],
        devices: HomeDevices,
    ) -> None:
        self._run, self._scenario, self._sessions = config.run, config.scenario, config.sessions
        self._home, self._create, self._find_states, self._prices = home, create, find_states, prices
        self._devices = devices
        self._settlement: type[Body] = find(config.game).bodies("lower").settlement
        try:
            self._settlement.model_validate({"price": list(prices)})
        except ValidationError:
            raise ValueError(
                f"devices.fail_safe: in {config.game} a home is not asked for a price; give profile_kw"
            ) from None

    def __call__(self, time: datetime) -> Plan:
        """Give the plan from a time on. Raises `ValueError` where the home is not described or cannot be solved."""
        window = self._find_window(time)
        assert window.start is not None
        prices = [self._prices[hour] for hour in list_clock_hours(window.start, window.slot_hours, window.slots)]
        if self._sessions[0].start is None:
            home = self._home
        else:
            home = self._home.foresee(window).in_session(window, self._find_states(window).get(self._home.id))
        if (level := self._find_level(window)) is not None:
            with suppress(ValueError):  # it cannot be solved from there: then from what the last plan has left
                home = home.with_stored_energy(level)
        strategy = create_within(self._create, home, self._devices.bound(window))
        day = home.day_plan(strategy.settle(self._settlement.model_validate({"price": prices}))[home.id])
        return Plan(
            run=self._run,
            scenario=self._scenario,
            session=0,
            start=window.start,
            slot_hours=window.slot_hours,
            price=prices,
            load_kw=day.load_kw,
            setpoint_kw=day.setpoint_kw,
            level_kwh=day.level_kwh,
        )

    def _find_level(self, window: Session) -> float | None:
        """Find what the storage holds as the plan begins; nothing for a day without a date, which began at midnight."""
        if self._sessions[0].start is None or self._home.storage_capacity_kwh() is None:
            return None
        level = self._devices.find_level(window)
        return None if level is None else level.kwh

    def _find_window(self, time: datetime) -> Session:
        """Find the slots of the run from a time on, as many as those of a session; without dates, the day of the clock.

        Raise `ValueError` before and after the run.
        """
        first, last = self._sessions[0], self._sessions[-1]
        if first.start is None:
            return Session(HOURS, start=time.replace(hour=0, minute=0, second=0, microsecond=0))
        step = timedelta(hours=first.slot_hours)
        begin = first.start.astimezone(UTC)
        slot, slots = (time - begin) // step, last.first + last.slots
        if not 0 <= slot < slots:
            raise ValueError(f"the home is described for the run alone, from {first.start} on for {slots} slots")
        start = (begin + slot * step).astimezone(first.start.tzinfo)
        return Session(min(first.slots, slots - slot), first.slot_hours, number=0, first=slot, start=start)
