"""A home's devices: they carry out the settlement hour by hour on the home's own broker, the grid's gets nothing."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import jinja2
import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ValidationError

import broker
import emc_node.__main__
from emc_node import devices as module
from emc_node.config import EmcConfig, build, config_model
from emc_node.device_settings import DeviceSettings
from emc_node.devices import HomeDevices, RestingSetpoint
from emc_node.home_assistant import discovery
from emc_node.own_optimum import OwnOptimum
from emc_node.plan import Plan, make_plan
from emc_node.strategy import DeviceHomeStrategy
from stackelgrid import scenarios
from stackelgrid.calendar import Calendar, Session
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.home import Home, HomeProblem, UserOrientedHomes
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.node.progress import Progress
from stackelgrid.registry import find
from stackelgrid.rounds.settings import DayPlan, HomeModel
from stackelgrid.transport.base import Action, Compute, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Settlement, Signal

PRICE = Price(price=[8.0 + 4 * math.sin(hour / 3) for hour in range(24)])
BATTERY = {"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}
FLAT: dict[str, Any] = {
    "id": "flat",
    "inelastic": [{"load_kw": [0.5] * 24}],
    "elastic": [{"max_kw": 3, "valuation": 10}],
    "storage": [BATTERY],
}
HOME = Home.model_validate(FLAT)
EV = BATTERY | {"final_kwh": 4.5, "available": {"first": 19, "last": 7}}
DEVICES: dict[str, Any] = {
    "trust_clock": True,
    "storage_setpoint": "battery/set",
    "meter": {"state_of_charge": "battery/soc", "load": "meter/kw"},
    "home_assistant": {"price_unit": "ct/kWh"},
}
STATE, SCHEDULE = "emc-node/h1/state", "emc-node/h1/schedule"


MIDNIGHT = datetime(2026, 6, 1, tzinfo=ZoneInfo("Europe/Berlin"))
DAY = Session(24)
"""The session of a run without dates: the hours of any day."""


def plan_for(home: Home, price: Price = PRICE, run: str = "demo") -> Plan:
    """Give the plan of the day that the clock of these tests shows."""
    day = home.day_plan(UserOrientedHomes([home]).settle(price)[home.id])
    return make_plan(run, None, DAY, price.price, day, MIDNIGHT)


# --- settings ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": {"storage_setpoint": "battery/+/set"}}, r"devices\.storage_setpoint"),
        ({"devices": {"broker": "https://localhost:8883"}}, "not of the form mqtt://host:port"),
        ({"devices": {"broker": "mqtt://localhost:1999"}}, "the grid's broker"),
        ({"homes": [FLAT, FLAT | {"id": "other"}], "devices": {}}, "this EMC has 2"),
        ({"slots": 4, "homes": [{"id": "flat", "horizon": 4}], "devices": {}}, "the game has 4 slots"),
        ({"homes": [FLAT | {"storage": []}], "devices": {"storage_setpoint": "b/set"}}, "exactly one"),
        ({"homes": [FLAT | {"storage": [BATTERY, EV]}], "devices": DEVICES}, "exactly one"),
        ({"devices": {"storage": "b/set"}}, "Extra inputs"),
        (
            {"devices": {"storage_setpoint": "b", "meter": {"state_of_charge": "b"}}},
            "name the topic on which the device",
        ),
        (
            {"devices": {"storage_setpoint": {"topic": "b", "path": "set"}, "meter": {"load": {"topic": "b"}}}},
            "b is the topic of the setpoint and of a measurement",
        ),
        ({"devices": {"meter": {"state_of_charge": "b", "load": "b"}}}, "give each its own topic or path"),
        ({"devices": {"meter": {"load": {"topic": "emc-node/h1/state", "path": "load_kw"}}}}, "of the EMC itself"),
        ({"devices": {"meter": {"load": {"topic": "b", "unit": "kVA"}}}}, r"devices\.meter\.load\.unit"),
        ({"devices": {"meter": {"load": {"topic": "b", "path": "a..b"}}}}, r"devices\.meter\.load\.path"),
    ],
)
def test_devices_are_refused_when_they_cannot_carry_out_a_settlement(changes: dict[str, Any], message: str) -> None:
    valid = {"run": "demo", "name": "h1", "game": "user_oriented", "slots": 24, "aggregator": "a1"}
    valid |= {"broker": "mqtt://127.0.0.1:1999", "homes": [FLAT]}
    model = config_model(find("user_oriented"))
    assert model.model_validate(valid | {"devices": DEVICES}).devices is not None
    assert model.model_validate(valid).devices is None
    with pytest.raises(ValidationError, match=message):
        model.model_validate(valid | changes)


def test_devices_are_refused_when_the_game_schedules_no_storage() -> None:
    scenario = scenarios.load("prosumer")
    assert scenario.slots == 24
    config = {"run": "demo", "name": "h1", "game": "prosumer", "slots": 24, "aggregator": "a1"}
    config |= {"broker": "mqtt://grid:1883", "homes": [scenario.everyone[0].model_dump()]}
    with pytest.raises(ValidationError, match="the game of a Prosumer schedules no storage"):
        config_model(find("prosumer")).model_validate({**config, "devices": {}})


# --- from a settlement to a day ---


@pytest.mark.parametrize("storage", [BATTERY, EV, BATTERY | {"final_kwh": 5}])
def test_plan_has_the_setpoints_that_the_home_solved(storage: dict[str, Any]) -> None:
    home = Home.model_validate(FLAT | {"storage": [storage]})
    plan = plan_for(home)
    schedule = HomeProblem(home).answer(np.array(PRICE.price))
    assert np.abs(schedule.r).max() > 0.1
    np.testing.assert_allclose(plan.setpoint_kw, schedule.r[0], atol=1e-12)
    np.testing.assert_allclose(plan.load_kw, schedule.load, rtol=1e-12)
    # What is neither elastic nor stored is what is left of the load.
    rest = np.array(plan.load_kw) - schedule.x.sum(axis=0) - np.array(plan.setpoint_kw)
    np.testing.assert_allclose(rest, 0.5, atol=1e-9)


# --- hour by hour, on a clock set by hand ---


class Clock:
    """A local clock that is set by hand."""

    def __init__(self, hour: int = 13, minute: int = 30, zone: str = "Europe/Berlin") -> None:
        self.now = datetime(2026, 6, 1, hour, minute, tzinfo=ZoneInfo(zone))

    def __call__(self) -> datetime:
        return self.now


def published(actions: Any) -> dict[str, Any]:
    """Give what was published, by topic, without the availability."""
    messages = [action for action in actions if isinstance(action, Publish) and action.payload != b"online"]
    return {action.topic: json.loads(action.payload) for action in messages}


def start_devices(plan: Plan, clock: Clock, **changes: Any) -> tuple[HomeDevices, Callable[[Plan], list[Action]]]:
    """Give devices that carry out a plan, and a function that gives them another."""
    home_devices = HomeDevices("h1", DeviceSettings.model_validate(DEVICES | changes), HOME, clock=clock)
    home_devices.start(0.0)

    def give(another: Plan) -> list[Action]:
        home_devices.carry_out(another)
        return list(home_devices.tick(0.0))

    give(plan)
    return home_devices, give


def test_devices_publish_no_setpoint_before_a_settlement() -> None:
    home_devices = HomeDevices("h1", DeviceSettings.model_validate(DEVICES), HOME, clock=Clock())
    actions = home_devices.start(0.0)
    topics = [action.topic for action in actions if isinstance(action, Publish)]
    assert topics == ["emc-node/h1/availability", "homeassistant/device/emc-node-h1/config", STATE]
    assert not home_devices.tick(60.0)


def test_devices_publish_each_hours_setpoint_until_the_plan_is_over() -> None:
    clock, plan = Clock(hour=0, minute=0), plan_for(HOME)
    home_devices, _ = start_devices(plan, clock)
    assert plan.setpoint_kw is not None
    setpoints = []
    setpoint = published(home_devices.start(0.0))["battery/set"]
    for _ in range(48):
        setpoints.append(setpoint)
        for minute in (1, 30, 59):
            clock.now = clock.now.replace(minute=minute)
            assert not home_devices.tick(0.0), "within an hour there is nothing new"
        clock.now = clock.now.replace(minute=0) + timedelta(hours=1)
        actions = home_devices.tick(0.0)
        assert all(isinstance(action, Publish) and action.retain for action in actions)
        setpoint = published(actions).get("battery/set", setpoint)
    np.testing.assert_allclose(setpoints, [*plan.setpoint_kw, *[0.0] * 24], atol=0.0005)


def test_devices_read_the_clock_every_minute_and_at_the_full_hour() -> None:
    clock = Clock(hour=9, minute=59)
    home_devices, _ = start_devices(plan_for(HOME), clock)
    clock.now = clock.now.replace(second=45, microsecond=500_000)
    home_devices.tick(1000.0)
    assert home_devices.next_deadline() == pytest.approx(1014.5)
    clock.now = clock.now.replace(minute=10)
    home_devices.tick(2000.0)
    assert home_devices.next_deadline() == pytest.approx(2060.0)


def test_devices_follow_the_clock_when_it_is_set() -> None:
    clock, plan = Clock(hour=1, minute=59), plan_for(HOME)
    home_devices, _ = start_devices(plan, clock)
    clock.now = clock.now.replace(hour=17)
    assert published(home_devices.tick(60.0))[STATE]["slot"] == "2026-06-01T17:00:00+02:00"


def test_devices_publish_everything_again_after_a_reconnect() -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock())
    topics = {"emc-node/h1/availability", "homeassistant/device/emc-node-h1/config", STATE, SCHEDULE, "battery/set"}
    again = home_devices.start(100.0)
    assert {action.topic for action in again if isinstance(action, Publish)} == topics


def test_devices_start_another_plan_at_once() -> None:
    clock = Clock(hour=17)
    home_devices, give = start_devices(plan_for(HOME), clock)
    other = plan_for(HOME, Price(price=PRICE.price[::-1]))
    assert other.setpoint_kw is not None
    assert published(give(other))["battery/set"] == pytest.approx(other.setpoint_kw[17], abs=0.0005)
    assert not home_devices.tick(0.0)


def test_setpoint_zero_has_no_sign() -> None:
    plan = plan_for(HOME).model_copy(update={"setpoint_kw": [-1e-17] * 24})
    home_devices, _ = start_devices(plan, Clock())
    payloads = {a.topic: a.payload for a in home_devices.start(0.0) if isinstance(a, Publish)}
    assert payloads["battery/set"] == b"0.0"


def test_plan_file_restores_the_plan_unless_it_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, plan = tmp_path / "plan.json", plan_for(HOME)
    first = HomeDevices("h1", DeviceSettings.model_validate(DEVICES), HOME, file, Clock())
    first.start(0.0)
    first.carry_out(plan)
    before = published(first.tick(0.0))
    second = HomeDevices("h1", DeviceSettings.model_validate(DEVICES), HOME, file, Clock())
    assert second.has_plan("demo")
    after = published(second.start(0.0))
    assert {topic: after[topic] for topic in before} == before
    file.write_text(file.read_text()[:-20])
    third = HomeDevices("h1", DeviceSettings.model_validate(DEVICES), HOME, file, Clock())
    assert not third.has_plan("demo")
    assert "the saved plan is not used" in caplog.messages


def test_plan_file_is_written_when_the_home_broker_is_away(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    HomeDevices("h1", DeviceSettings.model_validate(DEVICES), HOME, file, Clock()).carry_out(plan_for(HOME))
    after_a_power_cut = HomeDevices("h1", DeviceSettings.model_validate(DEVICES), HOME, file, Clock())
    assert after_a_power_cut.has_plan("demo")


def test_devices_correct_a_last_will_that_comes_late() -> None:
    """After a short power cut the broker has the old connection for alive, until half a minute later."""
    home_devices, _ = start_devices(plan_for(HOME), Clock())
    will = home_devices.last_will
    assert will.topic in home_devices.subscriptions
    (again,) = home_devices.receive(will.topic, will.payload, 30.0)
    assert isinstance(again, Publish)
    assert (again.topic, again.payload, again.retain) == (will.topic, b"online", True)
    assert not home_devices.receive(will.topic, again.payload, 30.0), "its own message needs no answer"


def test_devices_carry_out_the_plan_when_it_cannot_be_saved(tmp_path: Path) -> None:
    home_devices = HomeDevices(
        "h1", DeviceSettings.model_validate(DEVICES), HOME, tmp_path / "gone" / "plan.json", Clock()
    )
    home_devices.carry_out(plan_for(HOME))
    assert "battery/set" in published(home_devices.start(0.0))


@pytest.mark.parametrize("payload", [b"", b"full", b"nan", b"1_0", b"-inf", b"\xff\xfe", b'{"kw": 1}', b"1" * 400])
def test_devices_ignore_a_measurement_that_is_no_number(payload: bytes) -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock())
    for topic in ("meter/kw", "meter/kw", "battery/soc"):
        assert not home_devices.receive(topic, payload, 0.0)
    assert published(home_devices.tick(60.0)).keys() == {STATE}
    problems = published(home_devices.start(120.0))[STATE]["problems"]
    assert [problem.split(":")[0] for problem in problems] == ["state_of_charge", "load"]
    assert all("nothing of use" in problem for problem in problems)


def test_devices_publish_the_load_beyond_the_plan_when_it_is_measured() -> None:
    plan = plan_for(HOME)
    home_devices, _ = start_devices(plan, Clock(hour=17))
    home_devices.receive("meter/kw", b" 4.25 ", 0.0)
    state = published(home_devices.tick(60.0))[STATE]
    assert state["beyond_plan_kw"] == pytest.approx(4.25 - plan.load_kw[17], abs=0.001)


@pytest.mark.parametrize(
    ("load", "payload", "kw"),
    [
        ({"unit": "W"}, b"4250", 4.25),
        ({"inverted": True}, b"-4.25", 4.25),
        ({"path": "power"}, b'{"power": 4.25, "state": "on"}', 4.25),
        ({"path": "power"}, b'{"power": "4.25"}', 4.25),
        ({"path": "ENERGY.0.apower", "unit": "W", "inverted": True}, b'{"ENERGY": [{"apower": -4250}, 7]}', 4.25),
        ({"path": "power"}, b"4.25", None),
        ({"path": "power"}, b'{"power": "4_2"}', None),
        ({"path": "power"}, b'{"power": true}', None),
        ({"path": "power"}, b'{"power": NaN}', None),
        ({"path": "power"}, b'{"power": ' + b"9" * 5000 + b"}", None),
        ({"path": "0.power"}, b'{"power": 4.25}', None),
        ({"path": "1.power"}, b'[{"power": 4.25}]', None),
        ({"path": "power.now"}, b'{"power": 4.25}', None),
        ({"path": "power"}, b"[" * 100_000, None),
    ],
)
def test_load_is_read_in_the_form_that_the_meter_sends(load: dict[str, Any], payload: bytes, kw: float | None) -> None:
    plan = plan_for(HOME)
    home_devices, _ = start_devices(plan, Clock(hour=17), meter={"load": {"topic": "meter/kw"} | load})
    home_devices.receive("meter/kw", payload, 0.0)
    state = published(home_devices.tick(60.0)).get(STATE, {})
    expected = None if kw is None else pytest.approx(kw - plan.load_kw[17], abs=0.001)
    assert state.get("beyond_plan_kw") == expected


@pytest.mark.parametrize(
    ("setpoint", "content"),
    [
        ({}, 1.234),
        ({"unit": "W"}, 1234),
        ({"inverted": True}, -1.234),
        ({"unit": "W", "inverted": True, "path": "ess.setpoint"}, {"ess": {"setpoint": -1234}}),
    ],
)
def test_setpoint_has_the_form_that_the_storage_wants(setpoint: dict[str, Any], content: Any) -> None:
    plan = plan_for(HOME).model_copy(update={"setpoint_kw": [1.2344] * 24})
    home_devices, _ = start_devices(plan, Clock(), storage_setpoint={"topic": "battery/set"} | setpoint)
    assert published(home_devices.start(0.0))["battery/set"] == content


def test_measurements_share_a_topic_when_their_paths_differ() -> None:
    meter = {
        "state_of_charge": {"topic": "ess", "path": "soc"},
        "load": {"topic": "ess", "path": "grid.w", "unit": "W"},
    }
    plan = plan_for(HOME)
    home_devices, _ = start_devices(plan, Clock(hour=17), meter=meter)
    assert list(home_devices.subscriptions).count("ess") == 1
    home_devices.receive("ess", b'{"soc": 80, "grid": {"w": 4250}}', 0.0)
    level = home_devices.find_level(DAY)
    assert level is not None
    assert level.kwh == pytest.approx(4.0)
    state = published(home_devices.tick(60.0))[STATE]
    assert state["beyond_plan_kw"] == pytest.approx(4.25 - plan.load_kw[17], abs=0.001)


# --- what drives the storage besides a plan ---


def test_no_device_is_told_anything_before_the_clock_is_synchronised(tmp_path: Path) -> None:
    file, synchronised = tmp_path / "plan.json", [False]
    settings = DeviceSettings.model_validate(DEVICES | {"trust_clock": False})
    home_devices = HomeDevices("h1", settings, HOME, file, Clock(), lambda: synchronised[0])
    home_devices.carry_out(plan_for(HOME))
    messages = published(home_devices.start(0.0))
    assert messages.keys() == {STATE, "homeassistant/device/emc-node-h1/config"}
    assert messages[STATE]["mode"] == "clock"
    assert messages[STATE]["problems"] == ["the clock is not synchronised: no device is told anything"]
    synchronised[0] = True
    messages = published(home_devices.tick(60.0))
    assert messages[STATE]["mode"] == "plan"
    assert "battery/set" in messages
    synchronised[0] = False
    assert published(home_devices.start(120.0))["battery/set"] == messages["battery/set"], "once right it stays so"


def test_setpoint_is_said_again_when_the_last_will_has_replaced_it() -> None:
    plan = plan_for(HOME)
    home_devices, _ = start_devices(plan, Clock(hour=int(np.argmax(np.abs(plan.setpoint_kw or [])))))
    setpoint = home_devices._settings.storage_setpoint
    assert setpoint is not None
    home_devices.will_stands = False
    assert "battery/set" not in published(home_devices.start(0.0)), "nobody would stop it when the EMC dies"
    resting = RestingSetpoint(home_devices, setpoint)
    assert resting.last_will == Publish("battery/set", b"0.0", qos=1, retain=True)
    (again,) = resting.start(0.0)
    assert isinstance(again, Publish)
    assert json.loads(again.payload) == published(home_devices.start(0.0))["battery/set"] != 0.0
    assert list(resting.receive("battery/set", b"0.0", 0.0)) == [again]
    assert not resting.receive("battery/set", again.payload, 0.0)
    assert not resting.receive("battery/set", b"9.9", 0.0), "another's word is not contradicted"


def test_householder_overrides_the_plan_and_opts_out() -> None:
    clock, plan = Clock(hour=17), plan_for(HOME)
    home_devices, _ = start_devices(plan, clock)
    wish = {"setpoint_kw": -1.5, "until": (clock.now + timedelta(minutes=45)).isoformat()}
    messages = published(home_devices.receive("emc-node/h1/override/set", json.dumps(wish).encode(), 0.0))
    assert messages["battery/set"] == -1.5
    assert messages[STATE]["override"]["setpoint_kw"] == -1.5
    assert home_devices.next_deadline() == 60.0
    clock.now += timedelta(minutes=45)
    messages = published(home_devices.tick(2700.0))
    assert plan.setpoint_kw is not None
    assert messages["battery/set"] == pytest.approx(plan.setpoint_kw[18], abs=0.0005)
    assert messages[STATE]["override"] is None
    assert not published(home_devices.receive_retained("emc-node/h1/take_part/set", b"OFF", 0.0))[STATE]["takes_part"]
    assert published(home_devices.receive("emc-node/h1/take_part/set", b"ON", 0.0))[STATE]["takes_part"]


@pytest.mark.parametrize(
    ("topic", "payload", "why"),
    [
        ("override/set", b'{"setpoint_kw": 1}', "until: missing"),
        ("override/set", b"[" * 70_000, "more than 65536 bytes"),
        ("take_part/set", b"yes", "send ON or OFF"),
        ("limit", b'{"draw_kw": "a"}', "draw_kw"),
        ("override/set", b'{"setpoint_kw": 1, "until": "9999-12-31T23:59:00-14:00"}', "until: in UTC it is outside"),
        ("limit", b'{"draw_kw": [1], "start": "0001-01-01T00:00:00+14:00"}', "start: in UTC it is outside"),
    ],
)
def test_message_that_is_not_understood_is_a_problem_until_one_is(topic: str, payload: bytes, why: str) -> None:
    limit = {"topic": "limit", "draw_kw": 5.0}
    home_devices, _ = start_devices(plan_for(HOME), Clock(), limit=limit)
    whole = topic if topic == "limit" else f"emc-node/h1/{topic}"
    (problem,) = published(home_devices.receive(whole, payload, 0.0))[STATE]["problems"]
    assert why in problem
    right = {"limit": b"{}", "override/set": b"", "take_part/set": b"ON"}[topic]
    assert published(home_devices.receive(whole, right, 0.0))[STATE]["problems"] == []


@pytest.mark.parametrize("place", ["topic", "file"])
def test_limit_from_outside_caps_the_setpoint(place: str, tmp_path: Path) -> None:
    clock, plan, file = Clock(hour=17), plan_for(HOME), tmp_path / "limit.json"
    message = b'{"draw_kw": 0.0}'
    where = {"topic": "limit"} if place == "topic" else {"file": str(file)}
    home_devices, _ = start_devices(plan, clock, limit=where | {"draw_kw": 5.0})
    assert plan.setpoint_kw is not None
    other = plan.load_kw[17] - plan.setpoint_kw[17]
    if place == "topic":
        messages = published(home_devices.receive("limit", message, 0.0))
    else:
        file.write_bytes(message)
        os.utime(file, (clock.now.timestamp(), clock.now.timestamp()))
        messages = published(home_devices.tick(1.0))
    assert messages["battery/set"] == pytest.approx(max(-other, -2.0), abs=0.0005)
    assert messages[STATE]["limit"] == {"draw_kw": 0.0, "feed_in_kw": None, "source": "outside"}
    assert messages[STATE]["problems"] == []
    clock.now += timedelta(seconds=120)
    messages = published(home_devices.tick(121.0))
    assert messages[STATE]["limit"] == {"draw_kw": 5.0, "feed_in_kw": None, "source": "fail_safe"}
    assert messages[STATE]["problems"] == ["nothing is heard of the limit from outside"]


def test_file_of_a_limit_that_was_written_in_the_time_to_come_is_a_problem(tmp_path: Path) -> None:
    clock, file = Clock(hour=17), tmp_path / "limit.json"
    home_devices, _ = start_devices(plan_for(HOME), clock, limit={"file": str(file), "draw_kw": 5.0})
    file.write_bytes(b'{"draw_kw": 0.0}')
    os.utime(file, (4102444800, 4102444800))
    clock.now += timedelta(seconds=120)
    messages = published(home_devices.tick(120.0))
    assert messages[STATE]["limit"] == {"draw_kw": 5.0, "feed_in_kw": None, "source": "fail_safe"}
    assert (
        f"{file}: written at 2100-01-01T00:00:00+00:00, which is to come; mend the clock" in messages[STATE]["problems"]
    )


def alone(sessions: list[Session], prices: list[float], kwh: float | None = None) -> OwnOptimum:
    described = {"run": "demo", "name": "h1", "game": "user_oriented", "slots": 24, "aggregator": "a1", "homes": [FLAT]}
    config = config_model(find("user_oriented")).model_validate(described)
    flat = HOME
    states = {"flat": {"storage_kwh": [4.0]}}
    calendar = Calendar(start=MIDNIGHT, timezone="Europe/Berlin", horizon="6h", days=1)
    dated = config.model_copy(update={"calendar": calendar})
    clock = Clock(hour=20)
    settings = DeviceSettings.model_validate(DEVICES | {"limit": {"topic": "limit", "draw_kw": 99}})
    home_devices = HomeDevices("h1", settings, flat, clock=clock, sessions=sessions)
    if kwh is not None:
        home_devices.receive("battery/soc", str(20 * kwh).encode(), 0.0)
        home_devices.receive("limit", b'{"draw_kw": 0.75}', 0.0)
    chosen = dated if sessions else config
    return OwnOptimum(chosen, flat, UserOrientedHomes, lambda session: states, prices, home_devices)


def test_home_alone_does_what_is_best_for_it_at_the_price_of_each_hour() -> None:
    prices = [float(hour) for hour in range(24)]
    day = alone([], prices)(MIDNIGHT.replace(hour=17, minute=30))
    assert day == plan_for(HOME, Price(price=prices)).model_copy(update={"session": 0})
    rest = alone([DAY], prices)(MIDNIGHT.replace(hour=20, minute=30))
    assert (rest.start, rest.price) == (MIDNIGHT.replace(hour=20), prices[20:])
    assert rest.level_kwh is not None and rest.setpoint_kw is not None
    assert rest.level_kwh[0] - rest.setpoint_kw[0] == pytest.approx(4.0), "from what the last plan has left"
    measured = alone([DAY], prices, kwh=1.5)(MIDNIGHT.replace(hour=20))
    assert measured.level_kwh is not None and measured.setpoint_kw is not None
    assert measured.level_kwh[0] - measured.setpoint_kw[0] == pytest.approx(1.5)
    assert max(measured.load_kw) == pytest.approx(0.75, abs=1e-6), "within the limit from outside"
    with pytest.raises(ValueError, match="for the run alone"):
        alone([DAY], prices)(MIDNIGHT + timedelta(days=1))


def test_devices_carry_out_what_is_best_for_the_home_alone_when_the_plan_is_over() -> None:
    clock = Clock(hour=23)
    home_devices, _ = start_devices(plan_for(HOME), clock, fail_safe={"own_optimum": 9})
    own = plan_for(HOME, Price(price=[9.0] * 24)).model_copy(update={"setpoint_kw": [0.5] * 24})
    home_devices.solve_alone = lambda time: own.model_copy(update={"start": time - timedelta(hours=1)})
    clock.now += timedelta(hours=1)
    actions = home_devices.tick(3600.0)
    assert published(actions)["battery/set"] == 0.0, "it rests until that is known"
    (work,) = [action for action in actions if isinstance(action, Compute)]
    messages = published(work.then(work.job(), 3601.0))
    assert (messages["battery/set"], messages[STATE]["mode"]) == (0.5, "fail_safe")
    assert not home_devices.tick(3660.0)


def test_devices_try_again_later_when_the_home_alone_cannot_be_solved() -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock(), fail_safe={"own_optimum": 9})

    def fail(time: datetime) -> Plan:
        raise ValueError("no way")

    home_devices.solve_alone = fail
    home_devices._control._plans.clear()
    (work,) = [action for action in home_devices.tick(0.0) if isinstance(action, Compute)]
    assert not work.then(work.job(), 1.0)
    messages = home_devices.tick(60.0)
    assert published(messages)[STATE]["problems"] == ["no schedule of its own: no way"]
    assert not [action for action in messages if isinstance(action, Compute)]
    assert [action for action in home_devices.tick(1000.0) if isinstance(action, Compute)]


def test_own_optimum_is_refused_in_a_game_whose_settlement_is_no_price() -> None:
    scenario = scenarios.load("storage_market")
    described = {"run": "demo", "name": "h1", "game": "storage_market", "slots": 24, "aggregator": "a1"}
    (home, *_) = [home for home in scenario.everyone if home.battery is not None]
    config = config_model(find("storage_market")).model_validate(described | {"homes": [home.model_dump()]})
    with pytest.raises(ValueError, match=r"devices\.fail_safe: in storage_market a home is not asked"):
        OwnOptimum(
            config, home, UserOrientedHomes, lambda session: {}, [9.0] * 24, HomeDevices("h1", DeviceSettings(), home)
        )


# --- the measured level ---


def strategy_with_reading(soc: bytes | None, unit: str = "%", described: dict[str, Any] = FLAT) -> DeviceHomeStrategy:
    home = Home.model_validate(described)
    meter = {"state_of_charge": "battery/soc", "unit": unit}
    home_devices = HomeDevices("h1", DeviceSettings.model_validate({"meter": meter}), home, clock=Clock())
    if soc is not None:
        home_devices.receive("battery/soc", soc, 0.0)
    return DeviceHomeStrategy(home, UserOrientedHomes, home_devices, DAY, "demo")


@pytest.mark.parametrize(
    ("soc", "unit", "kwh"), [(b"80", "%", 4.0), (b"1.25", "kWh", 1.25), (b"1250", "Wh", 1.25), (b"0", "%", 0.0)]
)
def test_home_answers_from_the_measured_level(soc: bytes, unit: str, kwh: float) -> None:
    home = strategy_with_reading(soc, unit)
    measured = Home.model_validate(FLAT | {"storage": [BATTERY | {"initial_kwh": kwh}]})
    assert home.answer(PRICE) == UserOrientedHomes([measured]).answer(PRICE)
    assert home.answer(PRICE) != UserOrientedHomes([HOME]).answer(PRICE)
    assert home.settle(PRICE) == UserOrientedHomes([measured]).settle(PRICE)


@pytest.mark.parametrize(
    ("soc", "unit", "described"),
    [
        # Six hours at 0.2 kW reach 4.5 kWh from the configured 3.5, not from what is measured.
        (
            b"10",
            "%",
            FLAT
            | {
                "storage": [
                    EV | {"initial_kwh": 3.5, "charge_kw": 0.2, "available": {"first": 1, "last": 6}},
                ]
            },
        ),
    ],
)
def test_home_answers_from_initial_kwh_when_the_measured_level_is_impossible(
    soc: bytes, unit: str, described: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    home = strategy_with_reading(soc, unit, described)
    assert home.answer(PRICE) == UserOrientedHomes([Home.model_validate(described)]).answer(PRICE)
    assert caplog.messages == ["measured level not used"]


def test_home_answers_from_initial_kwh_when_the_meter_is_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "READING_S", 0.05)
    home = strategy_with_reading(None)
    assert not home.quick, "the first answer may wait, so it must not hold up the loop"
    assert home.answer(PRICE) == UserOrientedHomes([HOME]).answer(PRICE)
    assert home.quick
    assert "initial_kwh stays" in caplog.text


def test_home_answers_from_a_reading_that_is_sent_now_though_another_is_retained() -> None:
    home = strategy_with_reading(None)
    measured = Home.model_validate(FLAT | {"storage": [BATTERY | {"initial_kwh": 4.0}]})
    home._devices.receive_retained("battery/soc", b"20", 0.0)
    sent = threading.Timer(0.2, home._devices.receive, ("battery/soc", b"80", 0.0))
    sent.start()
    assert home.answer(PRICE) == UserOrientedHomes([measured]).answer(PRICE)
    sent.join()


def test_home_answers_from_a_retained_reading_when_no_other_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "READING_S", 0.05)
    home = strategy_with_reading(None)
    remarks: list[str] = []
    home.on_remark = remarks.append
    home._devices.receive_retained("battery/soc", b"80", 0.0)
    measured = Home.model_validate(FLAT | {"storage": [BATTERY | {"initial_kwh": 4.0}]})
    assert home.answer(PRICE) == UserOrientedHomes([measured]).answer(PRICE)
    (event,) = caplog.messages
    assert event == "the day starts from a retained reading of the state of charge, of unknown age"
    assert remarks == [f"{event}, kwh 4.0"]


DATED = Session(96, 0.25, number=2, first=96, start=MIDNIGHT + timedelta(days=1))


def dated_devices(clock: Clock, **plan: Any) -> HomeDevices:
    """Devices with a plan for the day of the clock, which holds 2 kWh and charges 0.1 kW."""
    settings = DeviceSettings.model_validate(DEVICES)
    home_devices = HomeDevices("h1", settings, HOME, clock=clock, sessions=[DATED])
    numbers = {"load_kw": [0.6] * 24, "price": [9.0] * 24, "setpoint_kw": [0.1] * 24}
    levels = [2.0 + 0.1 * hour for hour in range(1, 25)]
    home_devices.carry_out(Plan(run="demo", start=MIDNIGHT, level_kwh=levels, **numbers))
    return home_devices


@pytest.mark.parametrize(("hour", "kwh"), [(14, 3.0 + 1.0), (24, 3.0), (26, 3.0)])
def test_session_starts_from_what_is_measured_now_and_planned_until_then(hour: int, kwh: float) -> None:
    """At noon of the day before, or when the session has begun: no plan is known after midnight."""
    clock = Clock()
    clock.now = MIDNIGHT + timedelta(hours=hour)
    home_devices = dated_devices(clock)
    home_devices.receive("battery/soc", b"60", 0.0)
    level = home_devices.find_level(DATED)
    assert level is not None
    assert level.kwh == pytest.approx(kwh)
    home = Home.model_validate(FLAT | {"horizon": 96, "slot_hours": 0.25, "inelastic": [{"load_kw": [0.5] * 96}]})
    strategy = DeviceHomeStrategy(home, UserOrientedHomes, home_devices, DATED, "demo")
    price = Price(price=[9.0] * 96)
    full = home.with_stored_energy(kwh)
    np.testing.assert_allclose(strategy.answer(price).load_kw, UserOrientedHomes([full]).answer(price).load_kw)
    assert strategy.measured_states == {"flat": {"storage_kwh": [pytest.approx(kwh)]}}


def test_old_reading_of_the_level_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    home_devices = dated_devices(clock)
    home_devices.receive("battery/soc", b"60", 0.0)
    clock.now += timedelta(minutes=16)
    (problem,) = published(home_devices.tick(960.0))[STATE]["problems"]
    assert problem == "state_of_charge: the last reading on battery/soc is 16 min old, and not used"
    assert home_devices.find_level(DATED) is None
    assert home_devices.find_level(DAY) is None


def test_level_of_the_home_alone_counts_without_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READING_S", 0.0)
    clock = Clock()
    clock.now = MIDNIGHT + timedelta(days=1, hours=1)
    home_devices = dated_devices(clock)
    own = home_devices._control.memory.plans[0].model_copy(update={"start": clock.now, "session": 0})
    home_devices._control.follow_alone(own)
    level = home_devices.find_level(Session(96, 0.25, start=clock.now + timedelta(hours=2)))
    assert level is not None
    assert (level.kwh, level.measured) == (pytest.approx(2.2), False)


def test_temperature_and_car_count_for_a_session_that_begins_now() -> None:
    clock = Clock()
    settings = DeviceSettings.model_validate({"meter": {"room_temperature": "room", "car_at_home": "car"}})
    home_devices = HomeDevices("h1", settings, HOME, clock=clock)
    home_devices.receive("room", b"19.5", 0.0)
    home_devices.receive("car", b"home", 0.0)
    soon, later = (Session(96, 0.25, start=clock.now + timedelta(minutes=minutes)) for minutes in (15, 90))
    assert home_devices.find_reading("room_temperature", soon) == 19.5
    assert home_devices.find_reading("car_at_home", soon) == 1.0
    assert home_devices.find_reading("room_temperature", later) is None


def test_limit_caps_by_the_load_that_is_measured_once_the_storage_is_steady() -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock(hour=17), limit={"topic": "limit", "draw_kw": 99})
    setpoint = published(home_devices.start(100.0))["battery/set"]
    home_devices.receive("meter/kw", str(2.0 + setpoint).encode(), 200.0)
    assert published(home_devices.receive("limit", b'{"draw_kw": 1.5}', 201.0))["battery/set"] == pytest.approx(-0.5)
    home_devices.receive("meter/kw", b"2.0", 205.0)  # the storage has not answered yet
    assert "battery/set" not in published(home_devices.tick(206.0))
    home_devices.receive("meter/kw", b"1.25", 215.0)
    assert published(home_devices.tick(216.0))["battery/set"] == pytest.approx(-0.25)


def test_retained_measurement_does_not_replace_one_that_was_sent() -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock(hour=17))
    home_devices.receive("battery/soc", b"80", 0.0)
    home_devices.receive("meter/kw", b"2.5", 0.0)
    before = published(home_devices.tick(60.0))
    home_devices.receive_retained("battery/soc", b"20", 0.0)  # after a reconnect
    home_devices.receive_retained("meter/kw", b"9.5", 0.0)
    assert STATE in before
    assert not published(home_devices.tick(120.0))
    level = home_devices.find_level(DAY)
    assert level is not None
    assert (level.kwh, level.retained) == (4.0, False)


def test_home_keeps_its_plan_when_a_settlement_is_received_again_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"

    def changed_after_restart(run: str, *, asked: bool, scenario: str | None = None) -> bool:
        saved = json.dumps({"plans": [plan_for(HOME).model_dump(mode="json")]})
        file.write_text(saved)
        home_devices = HomeDevices("h1", DeviceSettings.model_validate({}), HOME, file, Clock())
        home = DeviceHomeStrategy(HOME, UserOrientedHomes, home_devices, DAY, run, scenario)
        if asked:
            home.answer(PRICE)
        home.settle(PRICE)
        return json.loads(file.read_text()) != json.loads(saved)

    assert not changed_after_restart("demo", asked=False)
    assert changed_after_restart("demo", asked=True)
    assert changed_after_restart("another", asked=False)
    assert changed_after_restart("demo", asked=False, scenario="0" * 16), (
        "another game, though the run has the same name"
    )


class Cistern(HomeModel):
    """The home of a game that this package does not know: its storage is `held_kwh` of 8."""

    held_kwh: float

    def storage_capacity_kwh(self) -> float:
        return 8.0

    def storage_power_kw(self) -> tuple[float, float]:
        return 8.0, 8.0

    def with_stored_energy(self, kwh: float) -> Self:
        return self.model_validate(self.model_dump() | {"held_kwh": kwh})

    def day_plan(self, account: Mapping[str, Any]) -> DayPlan:
        return DayPlan(account["load_kw"], account["load_kw"], [self.held_kwh] * 24)


class CisternHomes:
    """Its homes draw what they hold in each hour."""

    quick = True

    def __init__(self, homes: Sequence[Cistern]) -> None:
        (self.home,) = homes

    def answer(self, signal: Price) -> Price:
        return Price(price=[self.home.held_kwh] * 24)

    def settle(self, settlement: Price) -> dict[str, Any]:
        return {self.home.id: {"load_kw": [self.home.held_kwh] * 24}}


def test_devices_need_no_more_of_a_new_game_than_its_home_model(tmp_path: Path) -> None:
    home = Cistern(id="c", held_kwh=3)
    settings = DeviceSettings.model_validate(DEVICES)
    settings.check([home], [Session(24)], "mqtt://grid:1883")
    home_devices = HomeDevices("h1", settings, home, tmp_path / "plan.json", clock=Clock())
    home_devices.receive("battery/soc", b"75", 0.0)
    session = Session(24, 0.25, number=7, start=MIDNIGHT)
    strategy = DeviceHomeStrategy(home, CisternHomes, home_devices, session, "demo")
    assert strategy.answer(PRICE) == Price(price=[6.0] * 24)
    strategy.settle(PRICE)
    (plan,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
    assert Plan.model_validate(plan) == Plan(
        run="demo",
        session=7,
        start=MIDNIGHT,
        slot_hours=0.25,
        load_kw=[6] * 24,
        price=PRICE.price,
        setpoint_kw=[6] * 24,
        level_kwh=[6] * 24,
    )


# --- what the operator of the network and the householder want, in the answers ---


def strategy_of(devices: dict[str, Any], session: Session = DAY, home: Home = HOME, **more: Any) -> DeviceHomeStrategy:
    settings = DeviceSettings.model_validate({"trust_clock": True} | devices)
    home_devices = HomeDevices("h1", settings, home, clock=Clock(hour=13))
    return DeviceHomeStrategy(home, UserOrientedHomes, home_devices, session, "demo", **more)


def say(strategy: DeviceHomeStrategy, topic: str, message: Any) -> None:
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    strategy._devices.receive(topic, payload, 0.0)


LIMITED = {"limit": {"topic": "limit", "draw_kw": 99}}


def test_limit_from_outside_goes_into_the_next_answer() -> None:
    home = strategy_of(LIMITED)
    free = np.array(home.answer(PRICE).load_kw)
    assert free[13] > 2.0 and free[14] > 2.0
    until = MIDNIGHT.replace(hour=14)
    say(home, "limit", {"draw_kw": 1.2, "until": until.isoformat()})
    limited = np.array(home.answer(PRICE).load_kw)
    assert limited[13] == pytest.approx(1.2, abs=1e-6)
    assert limited[14] > 2.0
    assert np.array(home.settle(PRICE)["flat"]["load_kw"])[13] == pytest.approx(1.2, abs=1e-6)
    say(home, "limit", {})
    np.testing.assert_allclose(home.answer(PRICE).load_kw, free, atol=1e-6)


def test_limit_from_outside_goes_into_the_slots_of_a_session_that_it_covers() -> None:
    session = Session(24, 0.25, number=2, first=0, start=MIDNIGHT.replace(hour=14))
    home = strategy_of(LIMITED, session, Home.model_validate(FLAT | {"slot_hours": 0.25}))
    start = MIDNIGHT.replace(hour=17, minute=15)
    say(home, "limit", {"draw_kw": [1.1, 9.0, 1.3], "start": start.isoformat()})
    load = np.array(home.answer(PRICE).load_kw)
    assert load[[13, 15]] == pytest.approx([1.1, 1.3], abs=1e-6)
    assert load[14] > 2.0


def test_limit_below_what_no_device_can_leave_off_is_kept_as_far_as_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    home = strategy_of(LIMITED, home=Home.model_validate(FLAT | {"storage": []}))
    say(home, "limit", {"draw_kw": 0.2})
    load = np.array(home.answer(PRICE).load_kw)
    np.testing.assert_allclose(load, 0.5, atol=1e-6)
    assert caplog.messages == ["the limit from outside cannot be kept"]


@pytest.mark.parametrize("prices", [None, [9.0] * 24])
def test_home_that_has_opted_out_answers_every_price_alike(prices: list[float] | None) -> None:
    home = strategy_of({}, prices=prices)
    say(home, "emc-node/h1/take_part/set", b"OFF")
    alone = PRICE if prices is None else Price(price=prices)
    expected = UserOrientedHomes([HOME]).answer(alone).load_kw
    other = Price(price=PRICE.price[::-1])
    for price in (PRICE, other):
        answer = home.answer(price)
        np.testing.assert_allclose(answer.load_kw, expected, atol=1e-9)
        assert answer.slope == [0.0] * 24
        assert answer.coupling is None
    account = home.settle(other)["flat"]
    np.testing.assert_allclose(account["load_kw"], expected, atol=1e-9)
    assert account["bill"] == pytest.approx(float(np.array(other.price) @ np.array(expected)))
    assert len(account["storage_kwh"]) == 24, "so that the next session knows where it begins"
    assert not home._devices.has_plan("demo"), "the storage does what it does alone"
    say(home, "emc-node/h1/take_part/set", b"ON")
    assert home.answer(other) == UserOrientedHomes([HOME]).answer(other)


def test_home_that_feeds_in_can_opt_out() -> None:
    sunny = FLAT | {"inelastic": [], "pv": [{"available_kw": 3.0}], "elastic": [], "connection": {"feed_in_kw": 2.5}}
    home = strategy_of({}, home=Home.model_validate(sunny))
    say(home, "emc-node/h1/take_part/set", b"OFF")
    first = home.answer(PRICE).load_kw
    assert min(first) == pytest.approx(-2.5)
    np.testing.assert_allclose(home.answer(Price(price=[1.0] * 24)).load_kw, first, atol=1e-9)


def test_home_takes_part_where_its_game_knows_no_opting_out(caplog: pytest.LogCaptureFixture) -> None:
    cistern = Cistern(id="c", held_kwh=3)
    home_devices = HomeDevices("h1", DeviceSettings.model_validate({}), cistern, clock=Clock())
    strategy = DeviceHomeStrategy(cistern, CisternHomes, home_devices, DAY, "demo")
    home_devices.receive("emc-node/h1/take_part/set", b"OFF", 0.0)
    assert strategy.answer(PRICE) == Price(price=[3.0] * 24)
    assert caplog.messages[-1:] == ["the home takes part though it has opted out"]


# --- Home Assistant ---

UNITS = {"power": "kW", "energy_storage": "kWh", "battery": "%"}
"""A unit that Home Assistant takes for a device class (its sensor integration's table)."""
DEVICE_KEYS = {"device", "origin", "components", "availability_topic", "state_topic"}
"""Of the keys that a message of device discovery may have, those that are used here; others are refused."""
ENTITY_KEYS = {"platform", "unique_id", "name", "device_class", "entity_category", "value_template"} | {
    "json_attributes_topic", "json_attributes_template"
}  # fmt: skip
KEYS = {
    "sensor": ENTITY_KEYS | {"state_class", "unit_of_measurement"},
    "binary_sensor": ENTITY_KEYS,
    "switch": ENTITY_KEYS | {"command_topic", "command_template"},
}
"""The keys that each platform knows, in Home Assistant 2024.11 and newer."""


def render(template: str, **given: Any) -> str:
    """Render a template with what Home Assistant has for it."""
    midnight = datetime(2026, 6, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    helpers = {"today_at": lambda time: midnight, "timedelta": timedelta}
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(**helpers, **given)


def test_discovery_has_the_keys_that_home_assistant_knows() -> None:
    topic, announced = discovery("h1", "emc-node/h1", DeviceSettings.model_validate(DEVICES), storage=True)
    assert topic == "homeassistant/device/emc-node-h1/config"
    assert announced.keys() == DEVICE_KEYS
    assert announced["origin"]["name"] and announced["device"]["identifiers"]
    entities = announced["components"]
    assert len({entity["unique_id"] for entity in entities.values()}) == len(entities)
    for entity in entities.values():
        assert entity.keys() <= KEYS[entity["platform"]]
        assert {"platform", "unique_id", "value_template"} <= entity.keys()
        assert ("command_topic" in entity) == (entity["platform"] == "switch")


def test_discovery_describes_sensors_that_home_assistant_can_render() -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock())
    home_devices.receive("meter/kw", b"2.5", 0.0)
    payloads = published(home_devices.start(0.0))
    topic, announced = discovery("h1", "emc-node/h1", DeviceSettings.model_validate(DEVICES), storage=True)
    assert payloads[topic] == announced
    assert announced["availability_topic"] == home_devices.last_will.topic
    state = payloads[announced["state_topic"]]
    sensors = {key: found for key, found in announced["components"].items() if found["platform"] == "sensor"}
    assert sensors.keys() - {"mode", "plan_until", "next_session"} == {
        "load_kw", "price", "setpoint_kw", "level_kwh", "state_of_charge", "beyond_plan_kw"
    }  # fmt: skip
    for key, sensor in sensors.items():
        shown = render(sensor["value_template"], value_json=state)
        if sensor.get("device_class") == "timestamp":
            assert shown == "None" or datetime.fromisoformat(shown).tzinfo is not None
        elif key == "mode":
            assert shown == "plan"
        else:
            assert math.isfinite(float(shown))
        if "unit_of_measurement" in sensor and "device_class" in sensor:
            assert sensor["unit_of_measurement"] == UNITS[sensor["device_class"]]
        unknown = render(sensor["value_template"], value_json={})
        assert unknown == "None"  # which Home Assistant shows as unknown
        if "json_attributes_template" in sensor:
            day = payloads[sensor["json_attributes_topic"]]
            assert json.loads(render(sensor["json_attributes_template"], value_json=day)) == {"hourly": day[key]}
            assert len(day[key]) == 24
    assert sensors["price"]["unit_of_measurement"] == "ct/kWh"
    assert datetime.fromisoformat(render(sensors["plan_until"]["value_template"], value_json=state))


def test_switches_of_home_assistant_have_the_home_opt_out_and_its_storage_rest() -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock())
    first = published(home_devices.start(0.0))
    entities = first["homeassistant/device/emc-node-h1/config"]["components"]

    def shown(key: str, state: dict[str, Any]) -> str:
        return render(entities[key]["value_template"], value_json=state)

    def switch(key: str, to: str) -> dict[str, Any]:
        """Switch it in Home Assistant; give what the EMC publishes then."""
        sent = render(entities[key].get("command_template", "{{ value }}"), value=to)
        return published(home_devices.receive(entities[key]["command_topic"], sent.encode(), 1.0))

    state = first[STATE]
    assert [shown(key, state) for key in ("take_part", "comfort", "problem")] == ["ON", "OFF", "OFF"]
    assert shown("take_part", switch("take_part", "OFF")[STATE]) == "OFF"
    assert shown("take_part", switch("take_part", "ON")[STATE]) == "ON"
    planned = first["battery/set"]
    assert planned != 0
    resting = switch("comfort", "ON")
    assert resting["battery/set"] == 0 and shown("comfort", resting[STATE]) == "ON"
    again = switch("comfort", "OFF")
    assert again["battery/set"] == planned and shown("comfort", again[STATE]) == "OFF"


def test_problem_sensor_of_home_assistant_says_what_is_wrong() -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock())
    problem = published(home_devices.start(0.0))["homeassistant/device/emc-node-h1/config"]["components"]["problem"]
    state = published(home_devices.receive("emc-node/h1/take_part/set", b"maybe", 1.0))[STATE]
    assert render(problem["value_template"], value_json=state) == "ON"
    (said,) = json.loads(render(problem["json_attributes_template"], value_json=state))["problems"]
    assert "emc-node/h1/take_part/set is not understood" in said


def test_household_sees_that_the_home_has_no_part_in_the_grid() -> None:
    home_devices, _ = start_devices(plan_for(HOME), Clock())
    progress = Progress()
    home_devices.list_grid_problems = progress.list_problems
    home_devices.start(0.0)
    progress.note_refusal(4, "too much", final=True)
    progress.shut_out = "certificate revoked"
    assert published(home_devices.tick(60.0))[STATE]["problems"] == [
        "the grid ignores all answers of this home: too much",
        "the grid's broker does not accept this home: certificate revoked",
    ]


def test_discovery_has_no_storage_entities_without_a_storage() -> None:
    settings = DeviceSettings.model_validate({"home_assistant": {"discovery_prefix": "ha", "name": "Our flat"}})
    topic, announced = discovery("h1", "emc-node/h1", settings, storage=False)
    assert topic.startswith("ha/device/")
    assert announced["device"]["name"] == "Our flat"
    found = announced["components"]
    assert found.keys() == {"load_kw", "price", "mode", "plan_until", "next_session", "problem", "take_part"}
    assert "unit_of_measurement" not in found["price"]


# --- on real brokers ---


class Listener:
    """Subscribes to every topic of a broker and keeps the messages; publishes, too."""

    def __init__(self, url: str) -> None:
        self.received: dict[str, bytes] = {}
        self.everything: list[tuple[str, bytes]] = []
        self._news = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda *_: self._client.subscribe("#")
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1, retain=True).wait_for_publish(60)

    def wait(self, what: str, true: Callable[[dict[str, bytes]], bool], seconds: float = 120) -> None:
        with self._news:
            assert self._news.wait_for(lambda: true(self.received), seconds), f"{what}; received {self.received}"

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with self._news:
            self.received[message.topic] = bytes(message.payload)
            self.everything.append((message.topic, bytes(message.payload)))
            self._news.notify_all()


@contextmanager
def listen(url: str) -> Iterator[Listener]:
    listener = Listener(url)
    try:
        yield listener
    finally:
        listener.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[broker.RunningBroker]:
    """The home's own broker."""
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    with broker.start("mosquitto", tmp_path / "own") as running:
        yield running


class Coordinator:
    """The aggregator `a1` of a run on the grid's broker."""

    def __init__(self, grid: Listener, run: str) -> None:
        self._grid, self._run = grid, run
        self._link = Link(run, "a1", GAME.bodies("lower"), 24)

    def ask(self, number: int) -> dict[str, Any]:
        """The body of h1's answer."""
        message = Signal[Price](run=self._run, sender="a1", round=number, body=PRICE)
        self._grid.publish(self._link.topic(message), self._link.write(message))
        topic = f"{self._link.root}/h1/answer"

        def answered(received: dict[str, bytes]) -> bool:
            return topic in received and json.loads(received[topic])["round"] == number

        self._grid.wait(f"no answer to round {number}", answered)
        return dict(json.loads(self._grid.received[topic])["body"])

    def settle(self) -> None:
        content = {"run": self._run, "sender": "a1", "round": 9, "settled": True, "complete": True, "body": PRICE}
        message = Settlement[Price].model_validate(content)
        self._grid.publish(self._link.topic(message), self._link.write(message))
        self._grid.wait("no receipt", lambda received: f"{self._link.root}/h1/receipt" in received)

    def leave(self) -> None:
        for kind in ("signal", "settlement"):
            self._grid.publish(f"{self._link.root}/{kind}", b"")


def emc_config(run: str, grid: str, **more: Any) -> EmcConfig[Any]:
    described = {"run": run, "name": "h1", "game": "user_oriented", "slots": 24, "aggregator": "a1", "broker": grid}
    return config_model(find("user_oriented")).model_validate(described | {"homes": [FLAT]} | more)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MqttTransport]]:
    """The transports over which devices are served, stopped at the end."""
    transports: list[MqttTransport] = []

    def serve(home_devices: HomeDevices, settings: DeviceSettings) -> MqttTransport:
        transports.append(module.serve(home_devices, settings))
        return transports[-1]

    monkeypatch.setattr("emc_node.config.serve", serve)
    yield transports
    for transport in transports:
        transport.stop()


def test_settlement_reaches_the_storage_and_nothing_of_it_the_grids_broker(
    mosquitto_url: str, own: broker.RunningBroker, served: list[MqttTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.now = clock.now.replace(minute=59, second=56)
    defaults = HomeDevices.__init__.__defaults__
    assert defaults is not None
    monkeypatch.setattr(HomeDevices.__init__, "__defaults__", (None, clock, *defaults[2:]))
    measured = Home.model_validate(FLAT | {"storage": [BATTERY | {"initial_kwh": 4.0}]})
    plan = plan_for(measured)
    assert plan.setpoint_kw is not None
    with listen(mosquitto_url) as grid, listen(own.url) as home:
        home.publish("battery/soc", b"80")
        home.publish("meter/kw", b"3.25")
        node = build(emc_config("devices", mosquitto_url, devices=DEVICES | {"broker": own.url}))
        transport = MqttTransport(mosquitto_url)
        emc = threading.Thread(target=lambda: asyncio.run(transport.serve([node])))
        emc.start()
        aggregator = Coordinator(grid, "devices")
        np.testing.assert_allclose(aggregator.ask(1)["load_kw"], plan.load_kw, rtol=1e-12)
        assert "battery/set" not in home.received, "only a settlement moves the storage"
        aggregator.settle()

        def shows(hour: int) -> Callable[[dict[str, bytes]], bool]:
            def true(received: dict[str, bytes]) -> bool:
                slot = json.loads(received.get(STATE, b"{}")).get("slot", "")
                return "battery/set" in received and f"T{hour}:00" in slot

            return true

        home.wait("no plan of the hour", shows(13))
        clock.now += timedelta(seconds=4)
        home.wait("the next hour did not come", shows(14))
        home.wait(
            "no setpoint of the next hour",
            lambda received: json.loads(received["battery/set"]) == pytest.approx(plan.setpoint_kw[14], abs=0.001),
        )
        home.wait("no discovery", lambda received: "homeassistant/device/emc-node-h1/config" in received)

        # The home's broker dies with all it has retained, and comes back: all of it is there again.
        own.kill()
        home.received.clear()
        own.restart(keep_retained=False)
        home.wait("nothing published again", lambda received: {"battery/set", STATE, SCHEDULE} <= received.keys())
        assert home.received["emc-node/h1/availability"] == b"online"

        aggregator.leave()
        emc.join(120)
        assert not emc.is_alive()
        served[0].stop()
        home.wait("no last will", lambda received: received["emc-node/h1/availability"] == b"offline")
        roots = {topic.split("/")[0] for topic, _ in grid.everything}  # of other tests' too: one broker serves them all
        assert roots.isdisjoint({"emc-node", "homeassistant", "battery", "meter"})
        bodies = [json.loads(payload) for topic, payload in grid.everything if topic.endswith("/answer")]
        assert {key for message in bodies for key in message["body"]} <= {
            "homes", "held", "excluded", "load_only", "fixed", "load_kw", "slope", "coupling"
        }  # fmt: skip


def test_emc_plays_and_stays_when_the_home_broker_is_away(mosquitto_url: str, tmp_path: Path) -> None:
    port = broker.free_port()
    bound = {"broker": f"mqtt://127.0.0.1:{port}", "storage_setpoint": "battery/set", "trust_clock": True}
    config = emc_config("alone", mosquitto_url, devices=bound, plan_file="plan.json")
    (tmp_path / "config.json").write_text(config.model_dump_json(exclude_none=True))
    command = [sys.executable, "-m", "emc_node", "--config", str(tmp_path / "config.json"), "--stay", "--log", "json"]
    with (tmp_path / "log").open("wb") as log, listen(mosquitto_url) as grid:
        emc = subprocess.Popen(command, stderr=log, env=os.environ | {"TZ": "UTC"})
        try:
            aggregator = Coordinator(grid, "alone")
            aggregator.ask(1)
            aggregator.settle()
            aggregator.leave()
            grid.wait("no leave", lambda received: received.get("stackelgrid/alone/a1/h1/presence") == b"")
            with broker.start("mosquitto", tmp_path / "own", port) as own, listen(own.url) as home:
                home.wait("no plan", lambda received: {"battery/set", STATE} <= received.keys())
                plan = plan_for(HOME, run="alone")
                assert plan.setpoint_kw is not None
                hour = datetime.fromisoformat(json.loads(home.received[STATE])["slot"]).hour
                assert json.loads(home.received["battery/set"]) == pytest.approx(plan.setpoint_kw[hour], abs=0.001)
                emc.send_signal(signal.SIGTERM)
                assert emc.wait(60) == 0
                home.wait("no last will", lambda received: received["emc-node/h1/availability"] == b"offline")
                home.wait("the storage does not rest", lambda received: received["battery/set"] == b"0.0")
        finally:
            emc.kill()
            emc.wait()
    (kept,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
    assert kept["run"] == "alone"


def test_devices_are_refused_when_the_command_line_names_their_broker_as_the_grids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = emc_config(
        "devices", "mqtt://grid.example.org:1883", devices=DEVICES | {"broker": "mqtt://localhost:1884"}
    )
    (tmp_path / "config.json").write_text(config.model_dump_json())
    arguments = ["--config", str(tmp_path / "config.json"), "--broker", "mqtt://127.0.0.1:1884"]
    assert emc_node.__main__.main(arguments) == 2
    assert "is the grid's broker" in capsys.readouterr().err
