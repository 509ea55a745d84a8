"""The plan in Home Assistant: one retained message describes a device with sensors, switches and what is wrong.

The message is the device discovery of Home Assistant's MQTT integration (2024.11 and newer): `device`, `origin`, and
`components`, each with its `platform`; https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery.
"""

from __future__ import annotations

from typing import Any

from emc_node.device_settings import DeviceSettings
from stackelgrid.version import find_version

_POWER = {"device_class": "power", "state_class": "measurement", "unit_of_measurement": "kW"}
_ENERGY = {"device_class": "energy_storage", "state_class": "measurement", "unit_of_measurement": "kWh"}
_SHARE = {"device_class": "battery", "state_class": "measurement", "unit_of_measurement": "%"}
_TIME = {"device_class": "timestamp"}
_COMFORT = (
    "{% if value == 'ON' %}"
    "{{ {'setpoint_kw': 'off', 'until': (today_at('00:00') + timedelta(days=1)).isoformat()} | tojson }}"
    "{% endif %}"
)
"""The message by which the household has the storage rest until midnight; an empty one ends that."""


def discovery(name: str, topic: str, settings: DeviceSettings, *, storage: bool) -> tuple[str, dict[str, Any]]:
    """Give topic and content of the message for the EMC `name`, which publishes its state and schedule below `topic`.

    With a `storage` it has sensors of the storage, with a measured load one of the deviation from the plan, and with a
    setpoint the switch `comfort`.
    """
    shown = settings.home_assistant
    assert shown is not None
    price = {"state_class": "measurement"} | ({"unit_of_measurement": shown.price_unit} if shown.price_unit else {})
    sensors = {
        "load_kw": _sensor(name, topic, "load_kw", "Planned load", _POWER),
        "price": _sensor(name, topic, "price", "Price", price),
        "mode": _sensor(name, topic, "mode", "State", {}, hourly=False),
        "plan_until": _sensor(name, topic, "plan_until", "Plan until", _TIME, hourly=False),
        "next_session": _sensor(name, topic, "next_session", "Next session", _TIME, hourly=False),
        "problem": _problem(name, topic),
        "take_part": _switch(name, topic, "take_part", "Take part", "value_json.takes_part"),
    }
    if settings.storage_setpoint is not None:
        comfort = _switch(name, topic, "override", "Comfort", "value_json.override")
        sensors["comfort"] = comfort | {"command_template": _COMFORT}
    if storage:
        sensors |= {
            "setpoint_kw": _sensor(name, topic, "setpoint_kw", "Planned storage power", _POWER),
            "level_kwh": _sensor(name, topic, "level_kwh", "Planned stored energy", _ENERGY),
            "state_of_charge": _sensor(name, topic, "state_of_charge", "Planned state of charge", _SHARE, hourly=False),
        }
    if settings.meter.load is not None:
        beyond = _sensor(name, topic, "beyond_plan_kw", "Load beyond the plan", _POWER, hourly=False)
        sensors["beyond_plan_kw"] = beyond
    return f"{shown.discovery_prefix}/device/emc-node-{name}/config", {
        "device": {
            "identifiers": [f"emc-node-{name}"],
            "name": shown.name or f"Energy plan of {name}",
            "manufacturer": "Stackelgrid",
            "model": "EMC",
            "sw_version": find_version(),
        },
        "origin": {"name": "emc-node", "sw_version": find_version()},
        "availability_topic": f"{topic}/availability",
        "state_topic": f"{topic}/state",
        "components": sensors,
    }


def _sensor(
    name: str, topic: str, key: str, title: str, kind: dict[str, str], *, hourly: bool = True
) -> dict[str, Any]:
    """Describe a sensor that shows `key` of the state, and as its attribute the day's `hourly` schedule."""
    sensor = {
        "platform": "sensor",
        "unique_id": f"emc-node-{name}-{key}",
        "name": title,
        # Without a value, as of a deviation before the first measurement, the sensor stays unknown.
        "value_template": f"{{{{ value_json.{key} | default(none) }}}}",
        **kind,
    }
    if not hourly:
        return sensor
    return sensor | {
        "json_attributes_topic": f"{topic}/schedule",
        "json_attributes_template": f"{{{{ {{'hourly': value_json.{key}}} | tojson }}}}",
    }


def _problem(name: str, topic: str) -> dict[str, Any]:
    """Describe the sensor that is on while something is to be mended, which its attribute `problems` says."""
    return {
        "platform": "binary_sensor",
        "unique_id": f"emc-node-{name}-problem",
        "name": "Problem",
        "device_class": "problem",
        "entity_category": "diagnostic",
        "value_template": "{{ 'ON' if value_json.problems else 'OFF' }}",
        "json_attributes_topic": f"{topic}/state",
        "json_attributes_template": "{{ {'problems': value_json.problems} | tojson }}",
    }


def _switch(name: str, topic: str, key: str, title: str, is_on: str) -> dict[str, Any]:
    """Describe a switch that says `ON` and `OFF` on the topic of `key`; it is on when `is_on` is true in the state."""
    return {
        "platform": "switch",
        "unique_id": f"emc-node-{name}-{key}",
        "name": title,
        "command_topic": f"{topic}/{key}/set",
        "value_template": f"{{{{ 'ON' if {is_on} else 'OFF' }}}}",
    }
