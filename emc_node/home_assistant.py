"""The plan in Home Assistant: one retained message describes a device and its sensors.

The message is the device discovery of Home Assistant's MQTT integration (2024.11 and newer): `device`, `origin`, and
`components`, each with its `platform`; https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery.
"""

from __future__ import annotations

from typing import Any

from emc_node.device_settings import DeviceSettings

_POWER = {"device_class": "power", "state_class": "measurement", "unit_of_measurement": "kW"}
_ENERGY = {"device_class": "energy_storage", "state_class": "measurement", "unit_of_measurement": "kWh"}
_SHARE = {"device_class": "battery", "state_class": "measurement", "unit_of_measurement": "%"}


def discovery(name: str, topic: str, settings: DeviceSettings, *, storage: bool) -> tuple[str, dict[str, Any]]:
    """Give topic and content of the message for the EMC `name`, which publishes its state and schedule below `topic`.

    With a `storage` it has sensors of the storage, with a measured load one of the deviation from the plan.
    """
    shown = settings.home_assistant
    assert shown is not None
    price = {"state_class": "measurement"} | ({"unit_of_measurement": shown.price_unit} if shown.price_unit else {})
    sensors = {
        "load_kw": _sensor(name, topic, "load_kw", "Planned load", _POWER),
        "price": _sensor(name, topic, "price", "Price", price),
    }
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
        },
        "origin": {"name": "emc-node"},
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
