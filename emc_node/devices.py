"""The devices of a home, on its own broker: the storage follows the settled plan, the meter gives the stored energy.

The grid's broker never receives any of this: only the home's answers leave the home. What the storage is to do is for
`emc_node.failsafe` to say; here that is carried out, slot by slot, and the household is shown and heard. Powers kW,
charging above zero; energies kWh; prices as the game has them.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from emc_node.clock import is_synchronised, read_local_time
from emc_node.device_settings import HOURS, OWN, DeviceSettings, Power, Setpoint
from emc_node.failsafe import Memory, Orders, Override, StorageControl, StorageLimits
from emc_node.limit import NO_BOUNDS, Bounds, Limit
from emc_node.plan import Plan, list_clock_hours
from emc_node.readings import LARGEST_MESSAGE, Readings, find_ranges
from stackelgrid.calendar import Session
from stackelgrid.model import StrictModel, list_mistakes
from stackelgrid.node.home_status import HomeStatus
from stackelgrid.node.record import WholeFile
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.transport.base import Action, Compute, Node, Publish
from stackelgrid.transport.mqtt import MqttTransport

_LOG = logging.getLogger("emc_node.devices")

READING_S = 5.0
"""Seconds from the start that the first answer waits for a reading of the state of charge."""
_CLOCK_CHECK_S = 60.0
"""Seconds between two readings of the clock, which may be set meanwhile."""
_LEAST_PAUSE_S = 0.01
_SOON = timedelta(hours=1)
"""A session that begins in more time than this does not begin with the temperature of now."""
_STEADY_S = 10.0
"""Seconds after which the load that is measured has in it what the storage was last told."""
_TRY_AGAIN_S = 900.0
"""Seconds after which a home that found no schedule of its own tries again."""

Content = TypeVar("Content", bound=StrictModel)


class Level(NamedTuple):
    """What the storage holds, kWh, `measured` or by a plan; of a reading that was `retained` the age is unknown."""

    kwh: float
    retained: bool
    measured: bool = True


class HomeDevices:
    """A node on the home's own broker: publishes what is to be done in this slot, receives what the home measures.

    Every message is retained and published again after a reconnect, so nothing has to be queued while the broker is
    away. `plan_file` keeps the plans and what the household said over a power cut. `clock` gives the local time; until
    it is `synchronised` nothing is sent to a device. `sessions` are those of the run.
    """

    def __init__(
        self,
        name: str,
        settings: DeviceSettings,
        home: HomeModel,
        plan_file: Path | None = None,
        clock: Callable[[], datetime] = read_local_time,
        synchronised: Callable[[], bool] = is_synchronised,
        sessions: Sequence[Session] = (),
    ) -> None:
        self.name = name
        self.clock = clock
        self.solve_alone: Callable[[datetime], Plan] | None = None
        """Gives the plan from a time on that is best for the home alone. Raises `ValueError` where there is none."""
        self.wake: Callable[[], None] = lambda: None
        self.on_status: Callable[[HomeStatus], None] = lambda status: None
        self.list_grid_problems: Callable[[], list[str]] = list
        """Lists why the home has no part in the grid, which the household is to see too."""
        self.on_load: Callable[[float], None] = lambda kw: None
        self.will_stands = True
        """False until the broker knows at what power the storage rests when this process dies."""
        self._settings, self._synchronised, self._sessions = settings, synchronised, sessions
        self._clock_is_right = settings.trust_clock
        self._save = None if plan_file is None else WholeFile(plan_file)
        self._topic = f"{OWN}{name}"
        self._capacity_kwh = home.storage_capacity_kwh()
        storage = None
        if settings.storage_setpoint is not None:
            storage = StorageLimits(*home.storage_power_kw(), settings.storage_setpoint.default_kw)
        memory = None if plan_file is None else read_memory(plan_file)
        self._control = StorageControl(storage, settings.fail_safe, settings.limit, clock(), memory)
        self._lock = threading.RLock()  # around the control, which another thread gives the settled plans
        self._alone_at: float | None = None  # when it last began to look for what is best for it alone
        self._readings = Readings(settings.meter, find_ranges(settings.meter, self._capacity_kwh))
        self._level_measured, self._started_at = threading.Event(), time.monotonic()
        self._other_kw: float | None = None
        self._last_published: dict[str, bytes] = {}
        self._setpoint: bytes | None = None
        self._setpoint_kw, self._setpoint_since = 0.0, -inf
        self._problems: dict[str, str] = {}
        self._next_clock_check: float | None = None

    def carry_out(self, plan: Plan) -> None:
        """Carry out a settled plan from its first slot on.

        Called by the thread that settles, so that the plan is on disk before the settlement is acknowledged.
        """
        with self._lock:
            self._control.settle(plan, self.clock())
            self._remember()
        self.wake()

    def has_plan(self, run: str, scenario: str | None = None, session: int = 1) -> bool:
        """Tell whether it was given the plan of a session already."""
        with self._lock:
            return self._control.has_plan(run, scenario, session)

    @property
    def has_level_meter(self) -> bool:
        """True when the home has a meter for what its storage holds."""
        return self._settings.meter.state_of_charge is not None

    def find_level(self, session: Session) -> Level | None:
        """Find what the storage holds when a session begins, kWh, by what it is measured to hold now and by its plan.

        Without a reading, give what it should hold by the plan of the home alone, None where the home follows none.
        Within `READING_S` of the start wait for a reading that is sent; call it in another thread than the transport's.
        """
        if self.has_level_meter:
            self._level_measured.wait(max(self._started_at + READING_S - time.monotonic(), 0))
        with self._lock:
            now = self.clock()
            reading, channel = self._readings.find("state_of_charge", now), self._settings.meter.state_of_charge
            if reading is not None and channel is not None:
                level = Level(channel.to_kwh(reading.value, self._capacity_kwh or 0.0), reading.retained)
                at = reading.at
            elif session.start is not None and (planned := self._control.find_own_level(now)) is not None:
                level, at = Level(planned, retained=False, measured=False), now
            else:
                return None
            if session.start is None:
                return level
            kwh = level.kwh + self._control.expect_change(at, session.start)
            return level._replace(kwh=min(max(kwh, 0.0), self._capacity_kwh or 0.0))

    def find_reading(self, key: str, session: Session) -> float | None:
        """Find what another meter shows as a session begins; None where it begins at another time than about now."""
        with self._lock:
            now = self.clock()
            reading = self._readings.find(key, now)
            soon = session.start is not None and abs(session.start - now) <= _SOON
            return reading.value if reading is not None and soon else None

    @property
    def takes_part(self) -> bool:
        """False when the householder has opted out of the sessions."""
        return self._control.takes_part

    def bound(self, session: Session) -> list[Bounds]:
        """Give the limit from outside in each slot of a session, by what is known now.

        Without dates, a slot is the hour of the clock in the 24 hours from this one on.
        """
        with self._lock:
            now = self.clock()
            begins = session.times
            if begins is not None:
                step = timedelta(hours=session.slot_hours)
                return [self._control.bound(begin, begin + step, now)[0] for begin in begins]
            this, hour = now.replace(minute=0, second=0, microsecond=0).astimezone(UTC), timedelta(hours=1)
            bounds = [self._control.bound(this + n * hour, this + (n + 1) * hour, now)[0] for n in range(HOURS)]
            of_hour = dict(zip(list_clock_hours(now, 1.0, HOURS), bounds, strict=True))
            return [of_hour.get(slot, NO_BOUNDS) for slot in range(session.slots)]

    # --- called by the transport ---

    @property
    def subscriptions(self) -> Sequence[str]:
        """The topics of the meter, of the household and of the limit, and the node's own availability."""
        topics, limit = self._readings.topics, self._settings.limit
        if limit is not None and limit.topic is not None:
            topics.append(limit.topic)
        return list(dict.fromkeys([*topics, *self._commands, self.last_will.topic]))

    @property
    def _commands(self) -> dict[str, Callable[[bytes], None]]:
        """The topics on which the household says what it wants, and what takes it."""
        return {f"{self._topic}/override/set": self._override, f"{self._topic}/take_part/set": self._take_part}

    @property
    def last_will(self) -> Publish:
        """The message by which the home learns that nobody carries out the plan any more."""
        return Publish(f"{self._topic}/availability", b"offline", qos=1, retain=True)

    def start(self, now: float) -> Sequence[Action]:
        """Publish everything after a connect: the broker may have lost what it retained."""
        self._last_published.clear()
        actions: list[Action] = [self._online()]
        if self._settings.home_assistant is not None:
            from emc_node.home_assistant import discovery

            topic, message = discovery(self.name, self._topic, self._settings, storage=self._capacity_kwh is not None)
            actions.append(Publish(topic, json.dumps(message).encode(), retain=True))
        return [*actions, *self._act(now)]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take in a measurement; what is no number is ignored, and the first of its topic logged.

        After a short power cut the broker may send the last will of the connection before it, which it only now finds
        to be closed; the node's availability is then corrected.
        """
        if topic == self.last_will.topic:
            return [self._online()] if payload == self.last_will.payload else []
        if self._is_said(topic, payload):
            return self._act(now)
        return self._measure(topic, payload, now, retained=False)

    def receive_retained(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take in what the broker had retained, of any age: of a measurement, only until one arrives."""
        if topic == self.last_will.topic or topic in self._commands or topic == self._limit_topic:
            return self.receive(topic, payload, now)
        return self._measure(topic, payload, now, retained=True)

    def _measure(self, topic: str, payload: bytes, now: float, *, retained: bool) -> Sequence[Action]:
        local = self.clock()
        with self._lock:
            taken = self._readings.take(topic, payload, local, retained=retained)
        if retained:
            return []
        if "state_of_charge" in taken:
            self._level_measured.set()
        if "load" in taken and (kw := self._measure_load(local)) is not None:
            self.on_load(kw)
            if now >= self._setpoint_since + _STEADY_S:
                self._other_kw = kw - self._setpoint_kw
        return []

    def _measure_load(self, local: datetime) -> float | None:
        """Give what the meter draws, kW, None where that is not measured."""
        reading, channel = self._readings.find("load", local), self._settings.meter.load
        return None if reading is None or channel is None else reading.value / channel.per_kw

    # --- what the household and the operator of the network say ---

    @property
    def _limit_topic(self) -> str | None:
        return None if self._settings.limit is None else self._settings.limit.topic

    def _is_said(self, topic: str, payload: bytes) -> bool:
        """Take what somebody says on this topic; False where it is no topic for that."""
        take = self._commands.get(topic, self._limit if topic == self._limit_topic else None)
        if take is None:
            return False
        with self._lock:
            try:
                take(payload)
            except ValueError as error:
                self._note(f"topic {topic}", f"a message on {topic} is not understood: {_explain(error)}")
            else:
                self._note(f"topic {topic}", None)
                self._remember()
        return True

    def _override(self, payload: bytes) -> None:
        self._control.override(_read(Override, payload) if payload else None)

    def _take_part(self, payload: bytes) -> None:
        if payload not in (b"ON", b"OFF"):
            raise ValueError(f"{payload[:20]!r}; send ON or OFF")
        self._control.takes_part = payload == b"ON"

    def _limit(self, payload: bytes) -> None:
        self._control.limit(_read(Limit, payload), self.clock())

    def _read_limit_file(self) -> None:
        """Take the limit from its file, which is written anew as long as its sender lives."""
        if self._settings.limit is None or (file := self._settings.limit.file) is None:
            return
        try:
            written = file.stat().st_mtime
            with file.open("rb") as opened:
                content = opened.read(LARGEST_MESSAGE + 1)
            limit, heard = _read(Limit, content), datetime.fromtimestamp(written, UTC)
            if heard > self.clock() + timedelta(seconds=self._settings.limit.heartbeat_s):
                raise ValueError(f"written at {heard.isoformat(timespec='seconds')}, which is to come; mend the clock")
            self._control.limit(limit, heard)
        except (OSError, ValueError) as error:
            self._note(str(file), f"{file}: {_explain(error)}")
        else:
            self._note(str(file), None)

    def _note(self, what: str, problem: str | None) -> None:
        """Note a problem, or that there is none any more; log what is new."""
        if problem is None:
            self._problems.pop(what, None)
        elif self._problems.get(what) != problem:
            self._problems[what] = problem
            _LOG.warning("a problem of the home", extra={"data": {"problem": problem}})

    def _remember(self) -> None:
        if self._save is not None:
            self._save(self._control.memory.model_dump(mode="json", by_alias=True, exclude_none=True))

    # --- what is to be done ---

    def next_deadline(self) -> float | None:
        """Give the time at which something else is to be done, or a minute after the clock was last read."""
        return self._next_clock_check

    def tick(self, now: float) -> Sequence[Action]:
        """Read the clock, which may show another slot."""
        return self._act(now)

    def _online(self) -> Publish:
        return Publish(self.last_will.topic, b"online", retain=True)

    def _act(self, now: float) -> list[Action]:
        """Publish what is to be done now, of each topic only what has changed."""
        with self._lock:
            local = self.clock()
            self._clock_is_right = self._clock_is_right or self._synchronised()
            self._read_limit_file()
            change = self._control.next_change(local)
            hour_ends = local.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
            seconds = (min(hour_ends, change or hour_ends) - local).total_seconds()
            self._next_clock_check = now + min(_CLOCK_CHECK_S, max(seconds, _LEAST_PAUSE_S))
            other_kw = None if self._measure_load(local) is None else self._other_kw
            orders = self._control.order(local, other_kw)
            status = self._status(orders, local)
        self.on_status(status)
        published = self._publish(orders, status, local, now)
        return [*published, *self._plan_alone(local, now)]

    def _plan_alone(self, local: datetime, now: float) -> list[Action]:
        """Look for what is best for the home alone, where that is to be done and is not known."""
        if self.solve_alone is None or not self._clock_is_right or not self._control.needs_own_plan(local):
            return []
        if self._alone_at is not None and now < self._alone_at + _TRY_AGAIN_S:
            return []
        self._alone_at = now

        def solve() -> Plan | None:
            assert self.solve_alone is not None
            try:
                return self.solve_alone(local)
            except ValueError as error:
                with self._lock:
                    self._note("alone", f"no schedule of its own: {_explain(error)}")
                return None

        return [Compute(solve, self._follow_alone)]

    def _follow_alone(self, plan: Plan | None, now: float) -> Sequence[Action]:
        if plan is None:
            return []
        self._alone_at = None
        with self._lock:
            self._note("alone", None)
            self._control.follow_alone(plan)
        return self._act(now)

    def _publish(self, orders: Orders, status: HomeStatus, local: datetime, now: float) -> list[Publish]:
        problems = {"problems": [*status.problems, *self.list_grid_problems()]}
        messages: dict[str, Any] = {f"{self._topic}/state": status.record() | problems | self._describe(orders, local)}
        if self._clock_is_right and orders.plan is not None:
            messages[f"{self._topic}/schedule"] = orders.plan.model_dump(mode="json", exclude_none=True)
        setpoint = self._settings.storage_setpoint
        payloads = {topic: json.dumps(content).encode() for topic, content in messages.items()}
        if self._clock_is_right and setpoint is not None and orders.setpoint_kw is not None:
            if orders.setpoint_kw != self._setpoint_kw:
                self._setpoint_kw, self._setpoint_since = orders.setpoint_kw, now
            self._setpoint = json.dumps(_write_power(setpoint, orders.setpoint_kw)).encode()
            if self.will_stands:
                payloads[setpoint.topic] = self._setpoint
        before, self._last_published = self._last_published, payloads
        return [Publish(topic, text, retain=True) for topic, text in payloads.items() if before.get(topic) != text]

    def repeat_setpoint(self) -> list[Publish]:
        """Give the power of the storage once more, after the broker has replaced it by the one at which it rests."""
        setpoint, payload = self._settings.storage_setpoint, self._setpoint
        return [] if setpoint is None or payload is None else [Publish(setpoint.topic, payload, retain=True)]

    def _status(self, orders: Orders, local: datetime) -> HomeStatus:
        limit = None
        if orders.bounds != NO_BOUNDS:
            limit = orders.bounds.record() | {"source": orders.source}
        silent = "nothing is heard of the limit from outside" if self._control.limit_is_silent(local) else None
        self._note("limit", silent)
        self._note(
            "clock", None if self._clock_is_right else "the clock is not synchronised: no device is told anything"
        )
        problems = self._readings.list_problems(local)
        for key in self._settings.meter.channels:
            self._note(f"meter {key}", problems.get(key))
        starts = (session.start for session in self._sessions)
        return HomeStatus(
            orders.mode if self._clock_is_right else "clock",
            next((start for start in starts if start is not None and start > local), None),
            self._control.plan_until(local),
            limit,
            None if orders.override is None else orders.override.model_dump(mode="json"),
            self._control.takes_part,
            tuple(self._problems.values()),
        )

    def _describe(self, orders: Orders, local: datetime) -> dict[str, Any]:
        """Give what is shown of the slot that is under way."""
        state: dict[str, float | None] = {}
        if orders.setpoint_kw is not None:
            state["setpoint_kw"] = orders.setpoint_kw
        plan, slot = orders.plan, orders.slot
        if plan is None:
            return {name: _round_to_watt(value) for name, value in state.items() if value is not None}
        state |= {"load_kw": plan.load_kw[slot], "price": plan.price[slot]}
        if plan.level_kwh is not None and self._capacity_kwh is not None:
            state["level_kwh"] = plan.level_kwh[slot]
            full = self._capacity_kwh
            state["state_of_charge"] = 100 * plan.level_kwh[slot] / full if full > 0 else 0.0
        if (load_kw := self._measure_load(local)) is not None:
            state["beyond_plan_kw"] = load_kw - plan.load_kw[slot]
        begin = plan.begin_of(slot).astimezone(local.tzinfo).isoformat(timespec="seconds")
        return {"slot": begin} | {name: _round_to_watt(value) for name, value in state.items() if value is not None}


class RestingSetpoint:
    """A second connection to the home's broker, for its last will alone: the power at which the storage rests.

    The broker publishes it when the EMC has died. When only this connection was lost, the EMC says again what holds.
    """

    def __init__(self, devices: HomeDevices, setpoint: Setpoint) -> None:
        self.name = f"{devices.name}-setpoint"
        self._devices, self._topic = devices, setpoint.topic
        self._payload = json.dumps(_write_power(setpoint, setpoint.default_kw)).encode()

    @property
    def subscriptions(self) -> Sequence[str]:
        """The setpoint: the broker may send the last will of an earlier connection late."""
        return [self._topic]

    @property
    def last_will(self) -> Publish:
        """The message by which the storage rests."""
        return Publish(self._topic, self._payload, qos=1, retain=True)

    def start(self, now: float) -> Sequence[Action]:
        """Say what holds, after a connect: from now on the storage may be driven."""
        self._devices.will_stands = True
        return self._devices.repeat_setpoint()

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Correct a last will that came though the EMC lives."""
        return [again for again in self._devices.repeat_setpoint() if again.payload != payload == self._payload]

    def next_deadline(self) -> float | None:
        """Give no time."""
        return None

    def tick(self, now: float) -> Sequence[Action]:
        """Do nothing."""
        return []


def serve(devices: HomeDevices, settings: DeviceSettings) -> MqttTransport:
    """Connect `devices` to the home's own broker, in a thread that ends with the process.

    It tries again for as long as the broker is away. Returns the transport, by which it can be stopped.
    """
    login = None if settings.login is None else (settings.login.user, settings.login.password)
    transport = MqttTransport(settings.broker, login=login, connect_timeout_s=inf, reconnect_s=inf)
    devices.wake = transport.wake
    nodes: list[Node] = [devices]
    if settings.storage_setpoint is not None:
        devices.will_stands = False
        nodes.append(RestingSetpoint(devices, settings.storage_setpoint))

    def run() -> None:
        for crash in transport.run(nodes).crashed.values():
            _LOG.error("the devices are no longer served", exc_info=crash)

    threading.Thread(target=run, name="stackelgrid-devices", daemon=True).start()
    return transport


def read_memory(plan_file: Path) -> Memory | None:
    """Read what was kept over a restart, None where there is nothing that can be used."""
    try:
        return Memory.model_validate_json(plan_file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _LOG.warning("the saved plan is not used", extra={"data": {"file": str(plan_file), "cause": str(error)}})
        return None


def _read(model: type[Content], payload: bytes) -> Content:
    """Read a message. Raises `ValueError`."""
    if len(payload) > LARGEST_MESSAGE:
        raise ValueError(f"more than {LARGEST_MESSAGE} bytes; send less")
    return model.model_validate_json(payload)


def _explain(error: Exception) -> str:
    """Say in one line what is wrong."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{key or 'it'}: {message}" for key, message in list_mistakes(error))


def _write_power(channel: Power, kw: float) -> Any:
    """Write a power as its device wants it: to the watt, and in JSON at its path."""
    content: Any = _round_to_watt(kw) * channel.per_kw + 0.0
    content = round(content) if channel.unit == "W" else content
    for key in reversed(channel.path.split(".") if channel.path else []):
        content = {key: content}
    return content


def _round_to_watt(value: float) -> float:
    return round(value, 3) + 0.0  # adding 0.0 takes the sign off a zero
