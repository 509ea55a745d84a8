"""The strategy of a home with devices: from what is measured and allowed to answers, from a settlement to the plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from emc_node.devices import HomeDevices, Level
from emc_node.limit import NO_BOUNDS, Bounds
from emc_node.plan import list_clock_hours, make_plan
from stackelgrid.calendar import Session
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.rounds.strategy import HomeStrategy, StatefulHomeStrategy
from stackelgrid.wire.messages import Body

_LOG = logging.getLogger("emc_node.devices")

Create = Callable[[Sequence[HomeModel]], HomeStrategy[Any, Any, Any]]
"""Makes a game's own strategy of a list of homes. Raises `ValueError` for homes that have no feasible schedule."""


def create_within(
    create: Create, home: HomeModel, bounds: Sequence[Bounds], on_failure: Callable[[str], None] = lambda cause: None
) -> HomeStrategy[Any, Any, Any]:
    """Make the strategy of a home within a limit from outside, as far as the home can keep it.

    Where it cannot, it draws what no device can leave off; where that does not help, nothing limits it. `on_failure` is
    told why.
    """
    if all(each == NO_BOUNDS for each in bounds):
        return create([home])
    draw, feed_in = [each.draw_kw for each in bounds], [each.feed_in_kw for each in bounds]
    for above_inelastic in (False, True):
        try:
            return create([home.within(draw, feed_in, above_inelastic=above_inelastic)])
        except ValueError as error:
            on_failure(str(error))
    return create([home])


class DeviceHomeStrategy:
    """A `HomeStrategy` that starts from what the home's `devices` measure and gives them the settled plan.

    It answers within the limit from outside that is known at the time. When the householder has opted out, it answers
    every price with what the home does alone: at `prices`, one per hour of the clock, or without them at the first
    price that it is asked. `session` is the one that is played, of a `run` with the digest `scenario`. `on_remark` gets
    a line about what the home's owner should see.
    """

    def __init__(
        self,
        home: HomeModel,
        create: Create,
        devices: HomeDevices,
        session: Session,
        run: str,
        scenario: str | None = None,
        prices: Sequence[float] | None = None,
        on_remark: Callable[[str], None] = lambda remark: None,
    ) -> None:
        self._home, self._create, self._devices = home, create, devices
        self._session, self._run, self._scenario, self._prices = session, run, scenario, prices
        self._strategy = create([home])
        self._bounds: list[Bounds] | None = None  # those that the strategy keeps
        self._fixed: HomeStrategy[Any, Any, Any] | None = None  # what answers for a home that has opted out
        self._alone: Body | None = None  # the price at which that home does what it does
        self._has_answered = False
        self._is_measured = False
        self._kwh: float | None = None  # the level that the day starts from, where it was measured
        self.on_remark = on_remark

    @property
    def quick(self) -> bool:
        """True when an answer takes no longer than a message; the first one may wait for the meter."""
        return self._has_answered and self._strategy.quick

    def answer(self, signal: Body) -> Body:
        """Answer the signal; before the first answer, take the level that the storage is measured to have."""
        if not self._has_answered:
            self._has_answered = True
            self._start_from_readings()
        self._keep_limit()
        self._opt_out(signal)
        answer: Body = (self._fixed or self._strategy).answer(signal)
        return answer

    def settle(self, settlement: Body) -> Mapping[str, Any]:
        """Give what the home will do, to its devices too, unless a restarted EMC receives the plan in force again."""
        if self._fixed is not None:
            account = self._strategy.settle(self._alone)[self._home.id]
            return {self._home.id: {**account, **self._fixed.settle(settlement)[self._home.id]}}
        accounts = self._strategy.settle(settlement)
        if self._has_answered or not self._devices.has_plan(self._run, self._scenario, self._session.number):
            price, day = getattr(settlement, "price", []), self._home.day_plan(accounts[self._home.id])
            now = self._devices.clock()
            self._devices.carry_out(make_plan(self._run, self._scenario, self._session, price, day, now))
        return accounts

    def remember(self) -> Any:
        """Give what the answers so far have left, the measured level among it, None for nothing."""
        homes = self._strategy.remember() if isinstance(self._strategy, StatefulHomeStrategy) else None
        return None if homes is None else {"kwh": self._kwh, "homes": homes}

    def recall(self, memory: Any) -> None:
        """Go on from what `remember` gave before a restart."""
        self._has_answered, self._kwh = True, memory["kwh"]
        if self._kwh is not None:
            self._home = self._home.with_stored_energy(self._kwh)
            self._strategy = self._create([self._home])
        assert isinstance(self._strategy, StatefulHomeStrategy)  # else it would not have remembered
        self._strategy.recall(memory["homes"])

    # --- what the householder and the operator of the network want ---

    def _keep_limit(self) -> None:
        """Answer within the limit from outside from now on, as far as the home can keep it."""
        bounds = self._devices.bound(self._session)
        if bounds == self._bounds or (self._bounds is None and all(each == NO_BOUNDS for each in bounds)):
            return
        memory = self._strategy.remember() if isinstance(self._strategy, StatefulHomeStrategy) else None
        self._strategy = create_within(
            self._create,
            self._home,
            bounds,
            lambda cause: self._warn("the limit from outside cannot be kept", cause=cause),
        )
        if memory is not None and isinstance(self._strategy, StatefulHomeStrategy):
            self._strategy.recall(memory)
        self._bounds = bounds

    def _opt_out(self, signal: Body) -> None:
        """Have the home answer every price alike when it has opted out, and by its own will when it has not."""
        if self._devices.takes_part:
            self._fixed = self._alone = None
        elif self._fixed is None:
            self._alone = signal
            if self._prices is not None:
                session = self._session
                hours = list(range(session.slots))  # without dates, slot t is hour t
                if session.start is not None:
                    hours = list_clock_hours(session.start, session.slot_hours, session.slots)
                self._alone = type(signal).model_validate({"price": [self._prices[hour] for hour in hours]})
            try:
                load = self._strategy.settle(self._alone)[self._home.id]["load_kw"]
                self._fixed = self._create([self._home.with_fixed_load(load)])
            except ValueError as error:
                self._warn("the home takes part though it has opted out", cause=str(error))

    # --- what is measured ---

    @property
    def measured_states(self) -> Mapping[str, Any]:
        """The state in which the home begins the session by what was measured, by its name; nothing without that."""
        state = self._home.describe_state() if self._is_measured else {}
        return {self._home.id: state} if state else {}

    def _start_from_readings(self) -> None:
        """Begin with what is measured, where that can be."""
        self._start_from(self._devices.find_level(self._session))
        if (celsius := self._devices.find_reading("room_temperature", self._session)) is not None:
            self._change("room temperature", celsius, lambda home: home.with_room_temperature(celsius))
        if (there := self._devices.find_reading("car_at_home", self._session)) is not None:
            self._change("car at home", there, lambda home: home.with_car(at_home=bool(there)))

    def _start_from(self, level: Level | None) -> None:
        """Begin with so much in the storage, if there is a reading that the home can start from."""
        if level is None:
            if self._devices.has_level_meter:
                self._warn("no reading of the state of charge: initial_kwh stays")
        elif self._change("level", level.kwh, lambda home: home.with_stored_energy(level.kwh)):
            self._kwh = level.kwh
            if not level.measured and self._devices.has_level_meter:
                self._warn("no reading of the state of charge: the level of the plan counts", kwh=round(level.kwh, 3))
            elif level.retained:
                self._warn(
                    "the day starts from a retained reading of the state of charge, of unknown age",
                    kwh=round(level.kwh, 3),
                )

    def _change(self, what: str, value: float, change: Callable[[HomeModel], HomeModel]) -> bool:
        """Begin with a measured value, if the home can be solved with it."""
        try:
            home = change(self._home)
            self._home, self._strategy = home, self._create([home])
        except ValueError as error:  # pydantic's ValidationError and a game's InfeasibleHomeError among them
            cause = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
            self._warn(f"measured {what} not used", value=value, cause=cause)
            return False
        self._is_measured = True
        _LOG.info(f"the session starts from the measured {what}", extra={"data": {"value": value}})
        return True

    def _warn(self, event: str, **details: object) -> None:
        """Log what the day starts from when that is not what the meter measures, and remark it."""
        _LOG.warning(event, extra={"data": details})
        self.on_remark(", ".join([event, *(f"{key} {value}" for key, value in details.items())]))
