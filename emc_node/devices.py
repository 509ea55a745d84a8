"""The devices of a home, on its own broker: the storage follows the settled day, the meter gives the stored energy.

The grid's broker never receives any of this: only the home's answers leave the home. Slot t of a settlement is hour t
of the local day, so only a game of 24 slots can be carried out; the day repeats until another one is settled. Powers
kW, charging above zero; energies kWh; prices as the game has them.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from math import inf, isfinite
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from emc_node.device_settings import HOURS, OWN, DeviceSettings, Power, StateOfCharge
from stackelgrid.model import Finite
from stackelgrid.node.record import WholeFile
from stackelgrid.rounds.settings import DayPlan, HomeModel
from stackelgrid.transport.base import Action, Compute, Publish
from stackelgrid.transport.mqtt import MqttTransport

_LOG = logging.getLogger("emc_node.devices")

READING_S = 5.0
"""Seconds from the start that the first answer waits for a reading of the state of charge."""
_CLOCK_CHECK_S = 60.0
"""Seconds between two readings of the clock, which may be set meanwhile, and of the load."""
_SOON_S = 0.01

Day = Annotated[list[Finite], Field(min_length=HOURS, max_length=HOURS)]


class Level(NamedTuple):
    """A reading of what the storage holds, kWh; of one that the broker had `retained` the age is unknown."""

    kwh: float
    retained: bool


class Plan(BaseModel):
    """A day that a run settled, a number per hour, as it is kept in `plan_file` and published to the home.

    `scenario` is the digest in the home's configuration, which tells two runs of one name apart. `load_kw` is what the
    meter draws; `setpoint_kw` is the power of the storage, `level_kwh` what it holds at the end of the hour.
    """

    run: str
    scenario: str | None = None
    load_kw: Day
    price: Day
    setpoint_kw: Day | None = None
    level_kwh: Day | None = None

    @classmethod
    def of(cls, run: str, price: list[float], day: DayPlan, scenario: str | None = None) -> Plan:
        """Make a plan of the day that a run settled at a price."""
        return cls(run=run, scenario=scenario, price=price, **asdict(day))


def local_time() -> datetime:
    """Read the clock, in the time zone of this machine."""
    return datetime.now().astimezone()


class HomeDevices:
    """A node on the home's own broker: publishes what the plan has for this hour, receives what the home measures.

    Every message is retained and published again after a reconnect, so nothing has to be queued while the broker is
    away. `plan_file` keeps the plan over a power cut. `clock` gives the local time.
    """

    def __init__(
        self,
        name: str,
        settings: DeviceSettings,
        home: HomeModel,
        plan_file: Path | None = None,
        clock: Callable[[], datetime] = local_time,
    ) -> None:
        self.name = name
        self._settings, self._clock = settings, clock
        self._save = None if plan_file is None else WholeFile(plan_file)
        self._topic = f"{OWN}{name}"
        self._capacity_kwh = home.storage_capacity_kwh()
        self._plan = None if plan_file is None else _read_plan(plan_file)
        self._new_plans: SimpleQueue[Plan] = SimpleQueue()
        self._waits_for_plan = False
        self._level: Level | None = None
        self._level_measured, self._started_at = threading.Event(), time.monotonic()
        self._load_kw: float | None = None
        self._measured: set[str] = set()  # topics of which more is known than what the broker had retained
        self._last_published: dict[str, bytes] = {}
        self._unreadable: set[Power | StateOfCharge] = set()
        self._next_clock_check: float | None = None

    def carry_out(self, plan: Plan) -> None:
        """Carry out a plan from now on.

        Called by the thread that settles, so that the plan is on disk before the settlement is acknowledged.
        """
        if self._save is not None:
            self._save(plan.model_dump(mode="json"))
        self._new_plans.put(plan)

    def carries_out(self, run: str, scenario: str | None = None) -> bool:
        """Say whether it carries out a plan of this run."""
        return self._plan is not None and (self._plan.run, self._plan.scenario) == (run, scenario)

    @property
    def has_level_meter(self) -> bool:
        """True when the home has a meter for what its storage holds."""
        return self._settings.meter.state_of_charge is not None

    def wait_for_level(self) -> Level | None:
        """Wait for the meter's reading of what the storage holds.

        `READING_S` after the start take one that the broker had retained, else None. Call it in another thread than the
        transport's.
        """
        self._level_measured.wait(max(self._started_at + READING_S - time.monotonic(), 0))
        return self._level

    # --- called by the transport ---

    @property
    def subscriptions(self) -> Sequence[str]:
        """The meter's topics, and the node's own availability."""
        meter = self._settings.meter
        topics = [channel.topic for channel in (meter.state_of_charge, meter.load) if channel is not None]
        return list(dict.fromkeys([*topics, self.last_will.topic]))

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
        if not self._waits_for_plan:
            self._waits_for_plan = True
            actions.append(self._wait_for_plan())
        return [*actions, *self._publish_hour(now)]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take in a measurement; what is no number is ignored, and the first of its topic logged.

        After a short power cut the broker may send the last will of the connection before it, which it only now finds
        to be closed; the node's availability is then corrected.
        """
        if topic == self.last_will.topic:
            return [self._online()] if payload == self.last_will.payload else []
        return self._measure(topic, payload, retained=False)

    def receive_retained(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take in what the broker had retained, of any age: of a measurement, only until one arrives."""
        if topic == self.last_will.topic:
            return self.receive(topic, payload, now)
        return [] if topic in self._measured else self._measure(topic, payload, retained=True)

    def _measure(self, topic: str, payload: bytes, *, retained: bool) -> Sequence[Action]:
        for channel in (self._settings.meter.state_of_charge, self._settings.meter.load):
            if channel is None or channel.topic != topic:
                continue
            value = _read_number(payload, channel.path)
            if value is None:
                self._warn_unreadable(channel, payload)
                continue
            if not retained:
                self._measured.add(topic)
            if isinstance(channel, Power):
                self._load_kw = value / channel.per_kw
            else:
                self._level = Level(channel.to_kwh(value, self._capacity_kwh or 0.0), retained)
                if not retained:
                    self._level_measured.set()
        return []

    def _warn_unreadable(self, channel: Power | StateOfCharge, payload: bytes) -> None:
        if channel not in self._unreadable:
            self._unreadable.add(channel)
            found = {"topic": channel.topic, "path": channel.path, "found": payload[:80]}
            _LOG.warning("a measurement is no number", extra={"data": found})

    def next_deadline(self) -> float | None:
        """Give the time of the next full hour, or a minute after the clock was last read."""
        return self._next_clock_check

    def tick(self, now: float) -> Sequence[Action]:
        """Read the clock, which may show another hour."""
        return self._publish_hour(now)

    def _online(self) -> Publish:
        return Publish(self.last_will.topic, b"online", retain=True)

    def _wait_for_plan(self) -> Compute:
        return Compute(self._new_plans.get, self._start_plan)

    def _start_plan(self, plan: Plan, now: float) -> Sequence[Action]:
        self._plan = plan
        return [*self._publish_hour(now), self._wait_for_plan()]

    def _publish_hour(self, now: float) -> list[Publish]:
        """Publish what the plan has for this hour, of each topic only what has changed."""
        local = self._clock()
        into_hour = 60 * local.minute + local.second + local.microsecond / 1e6
        self._next_clock_check = now + min(_CLOCK_CHECK_S, max(3600 - into_hour, _SOON_S))
        if self._plan is None:
            return []
        messages: dict[str, Any] = {f"{self._topic}/schedule": self._plan.model_dump(mode="json", exclude_none=True)}
        messages[f"{self._topic}/state"] = self._state(self._plan, local.hour)
        setpoint = self._settings.storage_setpoint
        if setpoint is not None and self._plan.setpoint_kw is not None:
            messages[setpoint.topic] = _write_power(setpoint, self._plan.setpoint_kw[local.hour])
        payloads = {topic: json.dumps(content).encode() for topic, content in messages.items()}
        before, self._last_published = self._last_published, payloads
        return [Publish(topic, text, retain=True) for topic, text in payloads.items() if before.get(topic) != text]

    def _state(self, plan: Plan, hour: int) -> dict[str, float]:
        state = {"load_kw": plan.load_kw[hour], "price": plan.price[hour]}
        if plan.setpoint_kw is not None and plan.level_kwh is not None and self._capacity_kwh is not None:
            state |= {"setpoint_kw": plan.setpoint_kw[hour], "level_kwh": plan.level_kwh[hour]}
            full = self._capacity_kwh
            state["state_of_charge"] = 100 * plan.level_kwh[hour] / full if full > 0 else 0.0
        if self._load_kw is not None:
            state["beyond_plan_kw"] = self._load_kw - plan.load_kw[hour]
        return {"hour": hour} | {name: _round_to_watt(value) for name, value in state.items()}


def serve(devices: HomeDevices, settings: DeviceSettings) -> MqttTransport:
    """Connect `devices` to the home's own broker, in a thread that ends with the process.

    It tries again for as long as the broker is away. Returns the transport, by which it can be stopped.
    """
    login = None if settings.login is None else (settings.login.user, settings.login.password)
    transport = MqttTransport(settings.broker, login=login, connect_timeout_s=inf, reconnect_s=inf)

    def run() -> None:
        for crash in transport.run([devices]).crashed.values():
            _LOG.error("the devices are no longer served", exc_info=crash)

    threading.Thread(target=run, name="stackelgrid-devices", daemon=True).start()
    return transport


def _read_plan(plan_file: Path) -> Plan | None:
    """Read the plan from before a restart, None where there is none that can be used."""
    try:
        return Plan.model_validate_json(plan_file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _LOG.warning("the saved plan is not used", extra={"data": {"file": str(plan_file), "cause": str(error)}})
        return None


def _read_number(payload: bytes, path: str | None) -> float | None:
    """Read a number, plain or at a path in JSON; None where there is none."""
    try:
        found: Any = payload
        if path is not None:
            found = json.loads(payload)
            for step in path.split("."):
                found = found[int(step)] if isinstance(found, list) else found[step]
        number = float("nan" if isinstance(found, bool) or "_" in str(found) else found)  # 1_000 is one in Python only
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None
    return number if isfinite(number) else None


def _write_power(channel: Power, kw: float) -> Any:
    """Write a power as its device wants it: to the watt, and in JSON at its path."""
    content: Any = _round_to_watt(kw) * channel.per_kw + 0.0
    content = round(content) if channel.unit == "W" else content
    for key in reversed(channel.path.split(".") if channel.path else []):
        content = {key: content}
    return content


def _round_to_watt(value: float) -> float:
    return round(value, 3) + 0.0  # adding 0.0 takes the sign off a zero
