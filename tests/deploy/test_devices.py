"""A home's devices: they do what was settled, hour by hour, on the home's own broker, and the grid hears nothing."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
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
from emc_node.devices import HomeDevices, Plan
from emc_node.home_assistant import discovery
from emc_node.strategy import DeviceHomeStrategy
from stackelgrid import scenarios
from stackelgrid.games.storage_market.home import MarketHome, StorageMarketHomes
from stackelgrid.games.storage_market.messages import FleetPlan, Tariff, Turn
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.home import Home, HomeProblem, UserOrientedHomes
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.registry import find
from stackelgrid.transport.base import Action, Compute, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Settlement, Signal

PRICE = Price(price=[8.0 + 4 * math.sin(hour / 3) for hour in range(24)])
BATTERY = {"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}
DESCRIBED: dict[str, Any] = {
    "id": "flat",
    "inelastic": [{"load_kw": [0.5] * 24}],
    "elastic": [{"max_kw": 3, "valuation": 10}],
    "storage": [BATTERY],
}
HOME = Home.model_validate(DESCRIBED)
EV = BATTERY | {"final_kwh": 4.5, "available": {"first": 19, "last": 7}}
BOUND: dict[str, Any] = {
    "storage_setpoint": "battery/set",
    "meter": {"state_of_charge": "battery/soc", "load": "meter/kw"},
    "home_assistant": {"price_unit": "ct/kWh"},
}
STATE, SCHEDULE = "emc-node/h1/state", "emc-node/h1/schedule"


def settled(home: Home, price: Price = PRICE, run: str = "demo") -> Plan:
    return Plan.of(run, price.price, home.day_plan(UserOrientedHomes([home]).settle(price)[home.id]))


# --- what may be bound ---


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"devices": {"storage_setpoint": "battery/+/set"}}, r"devices\.storage_setpoint"),
        ({"devices": {"broker": "mqtts://localhost:8883"}}, "write mqtt://"),
        ({"devices": {"broker": "mqtt://localhost:1999"}}, "the grid's broker"),
        ({"homes": [DESCRIBED, DESCRIBED | {"id": "other"}], "devices": {}}, "this EMC has 2"),
        ({"slots": 4, "homes": [{"id": "flat", "horizon": 4}], "devices": {}}, "the game has 4 slots"),
        ({"homes": [DESCRIBED | {"storage": []}], "devices": {"storage_setpoint": "b/set"}}, "exactly one"),
        ({"homes": [DESCRIBED | {"storage": [BATTERY, EV]}], "devices": BOUND}, "exactly one"),
        ({"devices": {"storage": "b/set"}}, "Extra inputs"),
    ],
)
def test_devices_that_cannot_do_what_is_settled_are_refused(changes: dict[str, Any], told: str) -> None:
    valid = {"run": "demo", "name": "h1", "game": "user_oriented", "slots": 24, "aggregator": "a1"}
    valid |= {"broker": "mqtt://127.0.0.1:1999", "homes": [DESCRIBED]}
    model = config_model(find("user_oriented"))
    assert model.model_validate(valid | {"devices": BOUND}).devices is not None
    assert model.model_validate(valid).devices is None
    with pytest.raises(ValidationError, match=told):
        model.model_validate(valid | changes)


def test_a_game_without_storage_has_nothing_to_steer() -> None:
    scenario = scenarios.load("prosumer")
    assert scenario.slots == 24
    config = {"run": "demo", "name": "h1", "game": "prosumer", "slots": 24, "aggregator": "a1"}
    config |= {"broker": "mqtt://grid:1883", "homes": [scenario.everyone[0].model_dump()]}
    with pytest.raises(ValidationError, match="the game of a Prosumer schedules no storage"):
        config_model(find("prosumer")).model_validate({**config, "devices": {}})


# --- from a settlement to a day ---


@pytest.mark.parametrize("storage", [BATTERY, EV, BATTERY | {"final_kwh": 5}])
def test_the_storage_is_told_what_the_home_solved(storage: dict[str, Any]) -> None:
    home = Home.model_validate(DESCRIBED | {"storage": [storage]})
    plan = settled(home)
    schedule = HomeProblem(home).answer(np.array(PRICE.price))
    assert np.abs(schedule.r).max() > 0.1
    np.testing.assert_allclose(plan.setpoint_kw, schedule.r[0], atol=1e-12)
    np.testing.assert_allclose(plan.load_kw, schedule.load, rtol=1e-12)
    # What is neither elastic nor stored is what is left of the load.
    rest = np.array(plan.load_kw) - schedule.x.sum(axis=0) - np.array(plan.setpoint_kw)
    np.testing.assert_allclose(rest, 0.5, atol=1e-9)


def test_a_market_home_draws_what_its_battery_charges() -> None:
    eta = 0.9
    battery = {"capacity_kwh": 10, "initial_kwh": 4, "power_kw": 3, "efficiency": eta}
    home = MarketHome.model_validate({"id": "m", "battery": battery})
    charge = [0.2 if hour in (2, 3) else 0.0 for hour in range(24)]
    sold = [0.25 if hour in (18, 19) else 0.0 for hour in range(24)]
    settlement = FleetPlan(price=[30.0] * 24, charge=charge, sold=sold)
    strategy = StorageMarketHomes([home])
    strategy.answer(Tariff(price=[30.0] * 24, turn=Turn(turn=None, groups=1, inertia=0.0)))
    plan = home.day_plan(strategy.settle(settlement)["m"])
    assert plan.setpoint_kw is not None
    assert plan.level_kwh is not None
    np.testing.assert_allclose(plan.load_kw, plan.setpoint_kw)  # it has no appliances
    power = np.array(plan.setpoint_kw)
    stored = eta * power.clip(min=0) - (-power).clip(min=0) / eta
    np.testing.assert_allclose(plan.level_kwh, 4 + np.cumsum(stored), atol=1e-9)
    assert min(plan.setpoint_kw) < 0 < max(plan.setpoint_kw)


# --- hour by hour, driven by hand ---


class Clock:
    """A local clock that is set by hand."""

    def __init__(self, hour: int = 13, minute: int = 30, zone: str = "Europe/Berlin") -> None:
        self.now = datetime(2026, 6, 1, hour, minute, tzinfo=ZoneInfo(zone))

    def __call__(self) -> datetime:
        return self.now


def said(actions: Any) -> dict[str, Any]:
    """What was said besides that somebody is there."""
    published = [action for action in actions if isinstance(action, Publish) and action.payload != b"online"]
    return {action.topic: json.loads(action.payload) for action in published}


def begun(plan: Plan, clock: Clock, **changes: Any) -> tuple[HomeDevices, Callable[[Plan], list[Action]]]:
    """Devices that carry out a plan, and how they are given another."""
    home_devices = HomeDevices("h1", DeviceSettings.model_validate(BOUND | changes), HOME, clock=clock)
    (waits,) = [action for action in home_devices.start(0.0) if isinstance(action, Compute)]

    def give(another: Plan) -> list[Action]:
        nonlocal waits
        home_devices.carry_out(another)
        actions = list(waits.then(waits.job(), 0.0))
        (waits,) = [action for action in actions if isinstance(action, Compute)]
        return actions

    give(plan)
    return home_devices, give


def test_nothing_is_told_to_the_storage_before_something_is_settled() -> None:
    home_devices = HomeDevices("h1", DeviceSettings.model_validate(BOUND), HOME, clock=Clock())
    actions = home_devices.start(0.0)
    topics = [action.topic for action in actions if isinstance(action, Publish)]
    assert topics == ["emc-node/h1/availability", "homeassistant/device/emc-node-h1/config"]
    assert not home_devices.tick(60.0)


def test_each_hour_has_its_setpoint_and_the_day_repeats() -> None:
    clock, plan = Clock(hour=0, minute=0), settled(HOME)
    home_devices, _ = begun(plan, clock)
    assert plan.setpoint_kw is not None
    heard = []
    setpoint = said(home_devices.start(0.0))["battery/set"]
    for _ in range(48):
        heard.append(setpoint)
        for minute in (1, 30, 59):
            clock.now = clock.now.replace(minute=minute)
            assert not home_devices.tick(0.0), "within an hour there is nothing new"
        clock.now = clock.now.replace(minute=0) + timedelta(hours=1)
        told = home_devices.tick(0.0)
        assert all(isinstance(action, Publish) and action.retain for action in told)
        setpoint = said(told).get("battery/set", setpoint)
    np.testing.assert_allclose(heard, plan.setpoint_kw * 2, atol=0.0005)


def test_it_looks_at_the_clock_when_the_hour_is_over_and_each_minute_before() -> None:
    clock = Clock(hour=9, minute=59)
    home_devices, _ = begun(settled(HOME), clock)
    clock.now = clock.now.replace(second=45, microsecond=500_000)
    home_devices.tick(1000.0)
    assert home_devices.next_deadline() == pytest.approx(1014.5)
    clock.now = clock.now.replace(minute=10)
    home_devices.tick(2000.0)
    assert home_devices.next_deadline() == pytest.approx(2060.0)


def test_a_clock_that_is_set_is_followed() -> None:
    clock, plan = Clock(hour=1, minute=59), settled(HOME)
    home_devices, _ = begun(plan, clock)
    clock.now = clock.now.replace(hour=17)
    assert said(home_devices.tick(60.0))[STATE]["hour"] == 17


def test_after_a_reconnect_all_of_it_is_said_again() -> None:
    home_devices, _ = begun(settled(HOME), Clock())
    topics = {"emc-node/h1/availability", "homeassistant/device/emc-node-h1/config", STATE, SCHEDULE, "battery/set"}
    again = home_devices.start(100.0)
    assert {action.topic for action in again if isinstance(action, Publish)} == topics
    assert not [action for action in again if isinstance(action, Compute)], "it waits for the next plan already"


def test_another_settlement_takes_over_at_once() -> None:
    clock = Clock(hour=17)
    home_devices, give = begun(settled(HOME), clock)
    other = settled(HOME, Price(price=PRICE.price[::-1]))
    assert other.setpoint_kw is not None
    assert said(give(other))["battery/set"] == pytest.approx(other.setpoint_kw[17], abs=0.0005)
    assert not home_devices.tick(0.0)


def test_zero_has_no_sign() -> None:
    plan = settled(HOME).model_copy(update={"setpoint_kw": [-1e-17] * 24})
    home_devices, _ = begun(plan, Clock())
    payloads = {a.topic: a.payload for a in home_devices.start(0.0) if isinstance(a, Publish)}
    assert payloads["battery/set"] == b"0.0"


def test_a_plan_outlives_a_power_cut_and_a_broken_file_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, plan = tmp_path / "plan.json", settled(HOME)
    first = HomeDevices("h1", DeviceSettings.model_validate(BOUND), HOME, file, Clock())
    (waits,) = [action for action in first.start(0.0) if isinstance(action, Compute)]
    first.carry_out(plan)
    before = said(waits.then(waits.job(), 0.0))
    second = HomeDevices("h1", DeviceSettings.model_validate(BOUND), HOME, file, Clock())
    assert second.run_in_force == "demo"
    after = said(second.start(0.0))
    assert {topic: after[topic] for topic in before} == before
    file.write_text(file.read_text()[:-20])
    third = HomeDevices("h1", DeviceSettings.model_validate(BOUND), HOME, file, Clock())
    assert third.run_in_force is None
    assert "the saved plan is not used" in caplog.messages


def test_a_plan_is_kept_while_the_own_broker_is_away(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    HomeDevices("h1", DeviceSettings.model_validate(BOUND), HOME, file, Clock()).carry_out(settled(HOME))
    after_a_power_cut = HomeDevices("h1", DeviceSettings.model_validate(BOUND), HOME, file, Clock())
    assert after_a_power_cut.run_in_force == "demo"


def test_a_last_will_that_comes_late_is_put_right() -> None:
    """After a short power cut the broker has the old connection for alive, until half a minute later."""
    home_devices, _ = begun(settled(HOME), Clock())
    will = home_devices.last_will
    assert will.topic in home_devices.subscriptions
    (again,) = home_devices.receive(will.topic, will.payload, 30.0)
    assert isinstance(again, Publish)
    assert (again.topic, again.payload, again.retain) == (will.topic, b"online", True)
    assert not home_devices.receive(will.topic, again.payload, 30.0), "no echo of its own"


def test_a_full_disk_does_not_keep_the_plan_from_being_carried_out(tmp_path: Path) -> None:
    home_devices = HomeDevices(
        "h1", DeviceSettings.model_validate(BOUND), HOME, tmp_path / "gone" / "plan.json", Clock()
    )
    (waits,) = [action for action in home_devices.start(0.0) if isinstance(action, Compute)]
    home_devices.carry_out(settled(HOME))
    assert "battery/set" in said(waits.then(waits.job(), 0.0))


@pytest.mark.parametrize("payload", [b"", b"full", b"nan", b"-inf", b"\xff\xfe", b'{"kw": 1}', b"1" * 400])
def test_a_measurement_that_is_no_number_is_ignored(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    home_devices, _ = begun(settled(HOME), Clock())
    for topic in ("meter/kw", "meter/kw", "battery/soc"):
        assert not home_devices.receive(topic, payload, 0.0)
    assert not home_devices.tick(60.0)
    assert caplog.messages == ["a measurement is no number"] * 2


def test_a_measured_load_is_told_beside_the_plan() -> None:
    plan = settled(HOME)
    home_devices, _ = begun(plan, Clock(hour=17))
    home_devices.receive("meter/kw", b" 4.25 ", 0.0)
    state = said(home_devices.tick(60.0))[STATE]
    assert state["beyond_plan_kw"] == pytest.approx(4.25 - plan.load_kw[17], abs=0.001)


# --- from what is measured ---


def steered(soc: bytes | None, unit: str = "%", described: dict[str, Any] = DESCRIBED) -> DeviceHomeStrategy:
    home = Home.model_validate(described)
    meter = {"state_of_charge": "battery/soc", "unit": unit}
    home_devices = HomeDevices("h1", DeviceSettings.model_validate({"meter": meter}), home, clock=Clock())
    if soc is not None:
        home_devices.receive("battery/soc", soc, 0.0)
    return DeviceHomeStrategy(home, UserOrientedHomes, home_devices, "demo")


@pytest.mark.parametrize(("soc", "unit", "kwh"), [(b"80", "%", 4.0), (b"1.25", "kWh", 1.25), (b"0", "%", 0.0)])
def test_the_first_answer_starts_from_the_measured_level(soc: bytes, unit: str, kwh: float) -> None:
    home = steered(soc, unit)
    measured = Home.model_validate(DESCRIBED | {"storage": [BATTERY | {"initial_kwh": kwh}]})
    assert home.answer(PRICE) == UserOrientedHomes([measured]).answer(PRICE)
    assert home.answer(PRICE) != UserOrientedHomes([HOME]).answer(PRICE)
    assert home.settle(PRICE) == UserOrientedHomes([measured]).settle(PRICE)


@pytest.mark.parametrize(
    ("soc", "unit", "described"),
    [
        (b"101", "%", DESCRIBED),
        (b"-1", "%", DESCRIBED),
        (b"5.1", "kWh", DESCRIBED),
        # Six hours at 0.2 kW reach 4.5 kWh from the configured 3.5, not from what is measured.
        (
            b"10",
            "%",
            DESCRIBED
            | {
                "storage": [
                    EV | {"initial_kwh": 3.5, "charge_kw": 0.2, "available": {"first": 1, "last": 6}},
                ]
            },
        ),
    ],
)
def test_a_level_that_cannot_be_is_not_used(
    soc: bytes, unit: str, described: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    home = steered(soc, unit, described)
    assert home.answer(PRICE) == UserOrientedHomes([Home.model_validate(described)]).answer(PRICE)
    assert caplog.messages == ["measured level not used"]


def test_a_meter_that_is_silent_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "READING_S", 0.05)
    home = steered(None)
    assert not home.quick, "the first answer may wait, so it must not hold up the loop"
    assert home.answer(PRICE) == UserOrientedHomes([HOME]).answer(PRICE)
    assert home.quick
    assert "initial_kwh stays" in caplog.text


def test_a_battery_of_the_market_starts_from_its_level_too() -> None:
    home = MarketHome.model_validate({"id": "m", "battery": {"capacity_kwh": 8, "initial_kwh": 4, "power_kw": 3}})
    charged = home.with_stored_energy(6.0)
    assert charged.battery is not None and charged.battery.initial_kwh == 6.0
    with pytest.raises(ValueError, match="above capacity_kwh"):
        home.with_stored_energy(8.1)


def test_a_settlement_heard_again_after_a_restart_does_not_replace_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(settled(HOME).model_dump_json())

    def queued_after_restart(run: str, *, asked: bool) -> bool:
        home_devices = HomeDevices("h1", DeviceSettings.model_validate({}), HOME, file, Clock())
        home = DeviceHomeStrategy(HOME, UserOrientedHomes, home_devices, run)
        if asked:
            home.answer(PRICE)
        home.settle(PRICE)
        return not home_devices._new_plans.empty()

    assert not queued_after_restart("demo", asked=False)
    assert queued_after_restart("demo", asked=True)
    assert queued_after_restart("another", asked=False)


# --- Home Assistant ---

UNITS = {"power": "kW", "energy_storage": "kWh", "battery": "%"}
"""A unit that Home Assistant takes for a device class (its sensor integration's table)."""


def test_home_assistant_can_read_what_is_announced() -> None:
    home_devices, _ = begun(settled(HOME), Clock())
    home_devices.receive("meter/kw", b"2.5", 0.0)
    payloads = said(home_devices.start(0.0))
    topic, announced = discovery("h1", "emc-node/h1", DeviceSettings.model_validate(BOUND), storage=True)
    assert payloads[topic] == announced
    assert topic == "homeassistant/device/emc-node-h1/config"
    assert announced["origin"]["name"]
    assert announced["device"]["identifiers"]
    assert announced["availability_topic"] == home_devices.last_will.topic
    sensors = announced["components"]
    assert len({sensor["unique_id"] for sensor in sensors.values()}) == len(sensors) == 6
    templates = jinja2.Environment(undefined=jinja2.StrictUndefined)
    for key, sensor in sensors.items():
        assert sensor["platform"] == "sensor"
        if "device_class" in sensor:
            assert sensor["unit_of_measurement"] == UNITS[sensor["device_class"]]
        shown = templates.from_string(sensor["value_template"]).render(value_json=payloads[announced["state_topic"]])
        assert math.isfinite(float(shown))
        unknown = templates.from_string(sensor["value_template"]).render(value_json={})
        assert unknown == "None"  # which Home Assistant shows as unknown
        if "json_attributes_template" in sensor:
            day = payloads[sensor["json_attributes_topic"]]
            attributes = templates.from_string(sensor["json_attributes_template"]).render(value_json=day)
            assert json.loads(attributes) == {"hourly": day[key]}
            assert len(day[key]) == 24
    assert sensors["price"]["unit_of_measurement"] == "ct/kWh"


def test_a_home_without_storage_announces_none() -> None:
    settings = DeviceSettings.model_validate({"home_assistant": {"discovery_prefix": "ha", "name": "Our flat"}})
    topic, announced = discovery("h1", "emc-node/h1", settings, storage=False)
    assert topic.startswith("ha/device/")
    assert announced["device"]["name"] == "Our flat"
    assert announced["components"].keys() == {"load_kw", "price"}
    assert "unit_of_measurement" not in announced["components"]["price"]


# --- on real brokers ---


class Ear:
    """Hears all of a broker, from what is retained on; says things too."""

    def __init__(self, url: str) -> None:
        self.heard: dict[str, bytes] = {}
        self.everything: list[tuple[str, bytes]] = []
        self._news = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda *_: self._client.subscribe("#")
        self._client.on_message = self._hear
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self._client.loop_start()

    def say(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1, retain=True).wait_for_publish(60)

    def wait(self, what: str, true: Callable[[dict[str, bytes]], bool], seconds: float = 120) -> None:
        with self._news:
            assert self._news.wait_for(lambda: true(self.heard), seconds), f"{what}; heard {self.heard}"

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with self._news:
            self.heard[message.topic] = bytes(message.payload)
            self.everything.append((message.topic, bytes(message.payload)))
            self._news.notify_all()


@contextmanager
def ear(url: str) -> Iterator[Ear]:
    listening = Ear(url)
    try:
        yield listening
    finally:
        listening.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[broker.RunningBroker]:
    """The home's own broker."""
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    with broker.start("mosquitto", tmp_path / "own") as running:
        yield running


class Coordinator:
    """The aggregator `a1` of a run on the grid's broker."""

    def __init__(self, grid: Ear, run: str) -> None:
        self._grid, self._run = grid, run
        self._link = Link(run, "a1", GAME.bodies("lower"), 24)

    def ask(self, number: int) -> dict[str, Any]:
        """The body of h1's answer."""
        message = Signal[Price](run=self._run, sender="a1", round=number, body=PRICE)
        self._grid.say(self._link.topic(message), self._link.write(message))
        topic = f"{self._link.root}/h1/answer"

        def answered(heard: dict[str, bytes]) -> bool:
            return topic in heard and json.loads(heard[topic])["round"] == number

        self._grid.wait(f"no answer to round {number}", answered)
        return dict(json.loads(self._grid.heard[topic])["body"])

    def settle(self) -> None:
        told = {"run": self._run, "sender": "a1", "round": 9, "settled": True, "complete": True, "body": PRICE}
        message = Settlement[Price].model_validate(told)
        self._grid.say(self._link.topic(message), self._link.write(message))
        self._grid.wait("no receipt", lambda heard: f"{self._link.root}/h1/receipt" in heard)

    def leave(self) -> None:
        for kind in ("signal", "settlement"):
            self._grid.say(f"{self._link.root}/{kind}", b"")


def configured(run: str, grid: str, **more: Any) -> EmcConfig[Any]:
    described = {"run": run, "name": "h1", "game": "user_oriented", "slots": 24, "aggregator": "a1", "broker": grid}
    return config_model(find("user_oriented")).model_validate(described | {"homes": [DESCRIBED]} | more)


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


def test_a_settlement_reaches_the_storage_and_the_grid_hears_nothing_of_it(
    mosquitto_url: str, own: broker.RunningBroker, served: list[MqttTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.now = clock.now.replace(minute=59, second=56)
    monkeypatch.setattr(HomeDevices.__init__, "__defaults__", (None, clock))
    measured = Home.model_validate(DESCRIBED | {"storage": [BATTERY | {"initial_kwh": 4.0}]})
    plan = settled(measured)
    assert plan.setpoint_kw is not None
    with ear(mosquitto_url) as grid, ear(own.url) as home:
        home.say("battery/soc", b"80")
        home.say("meter/kw", b"3.25")
        node = build(configured("devices", mosquitto_url, devices=BOUND | {"broker": own.url}))
        transport = MqttTransport(mosquitto_url)
        emc = threading.Thread(target=lambda: asyncio.run(transport.serve([node])))
        emc.start()
        aggregator = Coordinator(grid, "devices")
        np.testing.assert_allclose(aggregator.ask(1)["load_kw"], plan.load_kw, rtol=1e-12)
        assert "battery/set" not in home.heard, "a round is a question, not an order"
        aggregator.settle()

        def told(hour: int) -> Callable[[dict[str, bytes]], bool]:
            def true(heard: dict[str, bytes]) -> bool:
                return "battery/set" in heard and json.loads(heard[STATE])["hour"] == hour

            return true

        home.wait("the plan of the hour was not told", told(13))
        clock.now += timedelta(seconds=4)
        home.wait("the next hour did not come", told(14))
        home.wait(
            "no setpoint of the next hour",
            lambda heard: json.loads(heard["battery/set"]) == pytest.approx(plan.setpoint_kw[14], abs=0.001),
        )
        home.wait("no discovery", lambda heard: "homeassistant/device/emc-node-h1/config" in heard)

        # The home's broker dies with all it has retained, and comes back: all of it is there again.
        own.kill()
        home.heard.clear()
        own.restart(keep_retained=False)
        home.wait("not said again", lambda heard: {"battery/set", STATE, SCHEDULE} <= heard.keys())
        assert home.heard["emc-node/h1/availability"] == b"online"

        aggregator.leave()
        emc.join(120)
        assert not emc.is_alive()
        served[0].stop()
        home.wait("no last will", lambda heard: heard["emc-node/h1/availability"] == b"offline")
        roots = {topic.split("/")[0] for topic, _ in grid.everything}  # of other tests' too: one broker serves them all
        assert roots.isdisjoint({"emc-node", "homeassistant", "battery", "meter"})
        bodies = [json.loads(payload) for topic, payload in grid.everything if topic.endswith("/answer")]
        assert {key for message in bodies for key in message["body"]} <= {
            "homes", "held", "excluded", "load_kw", "slope", "coupling"
        }  # fmt: skip


def test_without_its_own_broker_a_home_plays_all_the_same_and_stays_to_carry_out_the_plan(
    mosquitto_url: str, tmp_path: Path
) -> None:
    port = broker.free_port()
    bound = {"broker": f"mqtt://127.0.0.1:{port}", "storage_setpoint": "battery/set"}
    config = configured("alone", mosquitto_url, devices=bound, plan_file="plan.json")
    (tmp_path / "config.json").write_text(config.model_dump_json(exclude_none=True))
    command = [sys.executable, "-m", "emc_node", "--config", str(tmp_path / "config.json"), "--stay", "--log", "json"]
    with (tmp_path / "log").open("wb") as log, ear(mosquitto_url) as grid:
        emc = subprocess.Popen(command, stderr=log, env=os.environ | {"TZ": "UTC"})
        try:
            aggregator = Coordinator(grid, "alone")
            aggregator.ask(1)
            aggregator.settle()
            aggregator.leave()
            grid.wait("it did not leave", lambda heard: heard.get("stackelgrid/alone/a1/h1/presence") == b"")
            with broker.start("mosquitto", tmp_path / "own", port) as own, ear(own.url) as home:
                home.wait("the plan was not told", lambda heard: {"battery/set", STATE} <= heard.keys())
                plan = settled(HOME, run="alone")
                assert plan.setpoint_kw is not None
                hour = json.loads(home.heard[STATE])["hour"]
                assert json.loads(home.heard["battery/set"]) == pytest.approx(plan.setpoint_kw[hour], abs=0.001)
                emc.send_signal(signal.SIGTERM)
                assert emc.wait(60) == 0
                home.wait("no last will", lambda heard: heard["emc-node/h1/availability"] == b"offline")
        finally:
            emc.kill()
            emc.wait()
    kept = json.loads((tmp_path / "plan.json").read_text())
    assert kept["run"] == "alone"


def test_devices_stay_off_the_grids_broker_whoever_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured("devices", "mqtt://grid.example.org:1883", devices=BOUND | {"broker": "mqtt://localhost:1884"})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    arguments = ["--config", str(tmp_path / "config.json"), "--broker", "mqtt://127.0.0.1:1884"]
    assert emc_node.__main__.main(arguments) == 2
    assert "is the grid's broker" in capsys.readouterr().err
