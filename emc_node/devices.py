"""The devices of a home: its storage follows the settled day hour by hour, its meter says what the day starts from.

All of this is said and heard on the home's own broker. The grid's broker never sees it: what leaves a home is its
answer. Slot t of a settlement is hour t of the local day, so only a game of 24 slots can be carried out; the day
repeats until another one is settled. Powers kW, charging above zero; energies kWh; prices as the game has them.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import inf, isfinite
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from emc_node.binding import HOURS, Devices, storage_of
from stackelgrid.games.user_oriented.home import Home, Storage
from stackelgrid.model import Finite
from stackelgrid.node.record import write_whole
from stackelgrid.rounds.strategy import HomeStrategy
from stackelgrid.transport.base import Action, Compute, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.messages import Body

_LOG = logging.getLogger("emc_node.devices")

READING_S = 5.0
"""How long after the start the first answer may have to wait for a reading of the state of charge."""
_LOOK_S = 60.0
"""How often the clock is looked at, which may be set while we wait, and a measured load is told."""
_SOON_S = 0.01

Day = Annotated[list[Finite], Field(min_length=HOURS, max_length=HOURS)]


def with_level(home: Any, kwh: float) -> Any:
    """The home with `kwh` in its storage at the start. Raises `ValueError` when it cannot hold that or live with it."""
    storage = storage_of(home)
    started = {**storage.model_dump(), "initial_kwh": kwh}
    described = home.model_dump() | ({"storage": [started]} if isinstance(home, Home) else {"battery": started})
    return type(home).model_validate(described)


class Plan(BaseModel):
    """A day that a run settled, a number an hour: what the meter draws, the price; of a storage its power and, at the
    end of the hour, its level."""

    run: str
    load_kw: Day
    price: Day
    setpoint_kw: Day | None = None
    level_kwh: Day | None = None


def plan_of(run: str, home: Any, settlement: Body, account: Mapping[str, Any]) -> Plan:
    """The day of a home as a run settled it; `account` is what the home's strategy made of the settlement."""
    price, storage = list(getattr(settlement, "price", [])), storage_of(home)
    load = np.array(account["load_kw"])
    if storage is None:
        return Plan(run=run, load_kw=load.tolist(), price=price)
    if isinstance(storage, Storage):
        level = np.array(account["storage_kwh"])
        setpoint, slots = np.zeros(HOURS), storage.slots(HOURS)
        setpoint[slots] = np.diff(level[slots], prepend=storage.initial_kwh)
    else:
        level = np.array(account["battery_kwh"])
        setpoint = np.array(account["charge_kw"]) - np.array(account["sold_kw"])
        load = load + setpoint
    storage_day = {"setpoint_kw": setpoint.tolist(), "level_kwh": level.tolist()}
    return Plan(run=run, load_kw=load.tolist(), price=price, **storage_day)


class SteeredHome:
    """The strategy of a home with devices: it starts from what `devices` measure and hands them what is settled.

    `homes` makes the game's strategy of a list of homes, `run` is the run's name.
    """

    def __init__(
        self, home: Any, homes: Callable[[Sequence[Any]], HomeStrategy[Any, Any, Any]], devices: HomeDevices, run: str
    ) -> None:
        self._home, self._homes, self._devices, self._run = home, homes, devices, run
        self._strategy = homes([home])
        self._asked = False

    @property
    def quick(self) -> bool:
        """Not before the first answer, which may wait for the meter."""
        return self._asked and self._strategy.quick

    def answer(self, signal: Body) -> Body:
        """What the home does at this signal, from the level that its storage was measured to have at the first one."""
        if not self._asked:
            self._asked = True
            if self._devices.measure_level:
                self._start_from(self._devices.measured_level())
        answer: Body = self._strategy.answer(signal)
        return answer

    def settle(self, settlement: Body) -> Mapping[str, Any]:
        """What the home will do; its devices begin with it, unless a restart only heard again what they do already."""
        homes = self._strategy.settle(settlement)
        if self._asked or self._devices.planned_run != self._run:
            self._devices.carry_out(plan_of(self._run, self._home, settlement, homes[self._home.id]))
        return homes

    def _start_from(self, kwh: float | None) -> None:
        """What the storage really holds takes the place of initial_kwh, when it is known and possible."""
        if kwh is None:
            _LOG.warning("no reading of the state of charge: initial_kwh stays")
            return
        try:
            home = with_level(self._home, kwh)
            self._home, self._strategy = home, self._homes([home])
        except ValueError as error:  # pydantic's ValidationError and InfeasibleHomeError among them
            cause = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
            _LOG.warning("measured level not used", extra={"data": {"kwh": kwh, "cause": cause}})
            return
        _LOG.info("the day starts from the measured level", extra={"data": {"kwh": kwh}})


# --- on the home's own broker ---


def local_time() -> datetime:
    """Now, in the time zone of this machine."""
    return datetime.now().astimezone()


class HomeDevices:
    """A node on the home's own broker: says what this hour's plan is, hears what the home measures.

    Everything it says is retained and said again after a reconnect, so nothing has to be queued while the broker is
    away. `plan_file` keeps the plan over a power cut. `clock` tells the local time.
    """

    def __init__(
        self,
        name: str,
        settings: Devices,
        home: Any,
        plan_file: Path | None = None,
        clock: Callable[[], datetime] = local_time,
    ) -> None:
        self.name = name
        self._settings, self._plan_file, self._clock = settings, plan_file, clock
        self._topic = f"emc-node/{name}"
        storage = storage_of(home)
        self._capacity_kwh: float | None = None if storage is None else storage.capacity_kwh
        self._plan = None if plan_file is None else _kept(plan_file)
        self._settled: SimpleQueue[Plan] = SimpleQueue()
        self._listening = False
        self._level_kwh: float | None = None
        self._measured, self._began = threading.Event(), time.monotonic()
        self._load_kw: float | None = None
        self._told: dict[str, bytes] = {}
        self._unreadable: set[str] = set()
        self._look_at: float | None = None

    def carry_out(self, plan: Plan) -> None:
        """From now on. Called by the thread that settles; the plan is kept before the settlement is acknowledged."""
        if self._plan_file is not None:
            try:
                write_whole(self._plan_file, plan.model_dump(mode="json"))
            except OSError as error:
                _LOG.error("the plan is not kept", extra={"data": {"file": str(self._plan_file), "cause": str(error)}})
        self._settled.put(plan)

    @property
    def planned_run(self) -> str | None:
        """The run whose plan is carried out."""
        return None if self._plan is None else self._plan.run

    @property
    def measure_level(self) -> bool:
        """Whether the home has a meter for what its storage holds."""
        return self._settings.meter.state_of_charge is not None

    def measured_level(self) -> float | None:
        """What the storage holds as the meter reads it, kWh; None when it has said nothing `READING_S` after the start.

        Waits for it, in another thread than the transport's.
        """
        self._measured.wait(max(self._began + READING_S - time.monotonic(), 0))
        return self._level_kwh

    # What the transport calls.

    @property
    def subscriptions(self) -> Sequence[str]:
        """The meter's topics, and what is said of us."""
        meter = self._settings.meter
        topics = (meter.state_of_charge, meter.load, self.last_will.topic)
        return [topic for topic in topics if topic is not None]

    @property
    def last_will(self) -> Publish:
        """Tells the home that nobody carries out the plan any more."""
        return Publish(f"{self._topic}/availability", b"offline", qos=1, retain=True)

    def start(self, now: float) -> Sequence[Action]:
        """Connected: all of it, also what the broker may have forgotten."""
        self._told.clear()
        actions: list[Action] = [self._here()]
        if self._settings.home_assistant is not None:
            from emc_node.home_assistant import discovery

            topic, described = discovery(self.name, self._topic, self._settings, storage=self._capacity_kwh is not None)
            actions.append(Publish(topic, json.dumps(described).encode(), retain=True))
        if not self._listening:
            self._listening = True
            actions.append(self._next())
        return [*actions, *self._tell(now)]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """A measurement; what is no number is ignored, and the first of its topic logged.

        Or that nobody is here: the last will of a connection from before a power cut, which the broker took for alive
        until now. It is put right.
        """
        if topic == self.last_will.topic:
            return [self._here()] if payload == self.last_will.payload else []
        measured = _number(payload)
        if measured is None:
            if topic not in self._unreadable:
                self._unreadable.add(topic)
                _LOG.warning("a measurement is no number", extra={"data": {"topic": topic, "found": payload[:80]}})
        elif topic == self._settings.meter.load:
            self._load_kw = measured
        else:
            percent = self._settings.meter.unit == "%"
            self._level_kwh = measured * (self._capacity_kwh or 0.0) / 100 if percent else measured
            self._measured.set()
        return []

    def next_deadline(self) -> float | None:
        """The next hour, or a minute from the last look."""
        return self._look_at

    def tick(self, now: float) -> Sequence[Action]:
        """The clock may show another hour."""
        return self._tell(now)

    def _here(self) -> Publish:
        return Publish(self.last_will.topic, b"online", retain=True)

    def _next(self) -> Compute:
        return Compute(self._settled.get, self._begin)

    def _begin(self, plan: Plan, now: float) -> Sequence[Action]:
        self._plan = plan
        return [*self._tell(now), self._next()]

    def _tell(self, now: float) -> list[Publish]:
        """What is not yet known about this hour."""
        local = self._clock()
        into_hour = 60 * local.minute + local.second + local.microsecond / 1e6
        self._look_at = now + min(_LOOK_S, max(3600 - into_hour, _SOON_S))
        if self._plan is None:
            return []
        said: dict[str, Any] = {f"{self._topic}/schedule": self._plan.model_dump(mode="json", exclude_none=True)}
        said[f"{self._topic}/state"] = self._state(self._plan, local.hour)
        if self._settings.storage_setpoint is not None and self._plan.setpoint_kw is not None:
            said[self._settings.storage_setpoint] = _rounded(self._plan.setpoint_kw[local.hour])
        payloads = {topic: json.dumps(content).encode() for topic, content in said.items()}
        new = [Publish(topic, text, retain=True) for topic, text in payloads.items() if self._told.get(topic) != text]
        self._told = payloads
        return new

    def _state(self, plan: Plan, hour: int) -> dict[str, float]:
        state = {"load_kw": plan.load_kw[hour], "price": plan.price[hour]}
        if plan.setpoint_kw is not None and plan.level_kwh is not None and self._capacity_kwh is not None:
            state |= {"setpoint_kw": plan.setpoint_kw[hour], "level_kwh": plan.level_kwh[hour]}
            full = self._capacity_kwh
            state["state_of_charge"] = 100 * plan.level_kwh[hour] / full if full > 0 else 0.0
        if self._load_kw is not None:
            state["beyond_plan_kw"] = self._load_kw - plan.load_kw[hour]
        return {"hour": hour} | {name: _rounded(value) for name, value in state.items()}


def begin(devices: HomeDevices, bound: Devices) -> MqttTransport:
    """Carry `devices` over the broker that they are bound to, however often and long that is away, in a thread that
    ends with the process. Returns the transport, by which it can be stopped."""
    login = None if bound.login is None else (bound.login.user, bound.login.password)
    transport = MqttTransport(bound.broker, login=login, connect_timeout_s=inf, reconnect_s=inf)

    def carry() -> None:
        for crash in transport.run([devices]).crashed.values():
            _LOG.error("the devices are left to themselves", exc_info=crash)

    threading.Thread(target=carry, name="stackelgrid-devices", daemon=True).start()
    return transport


def _kept(plan_file: Path) -> Plan | None:
    """The plan before a restart."""
    try:
        return Plan.model_validate_json(plan_file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _LOG.warning("the plan kept is not used", extra={"data": {"file": str(plan_file), "cause": str(error)}})
        return None


def _number(payload: bytes) -> float | None:
    try:
        number = float(payload)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _rounded(value: float) -> float:
    """To a watt, and no zero below zero."""
    return round(value, 3) + 0.0
