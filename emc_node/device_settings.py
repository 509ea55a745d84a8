"""The settings of a home's devices: its own broker, the topics of its storage and its meter, Home Assistant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.rounds.settings import HomeModel, PrivateModel
from stackelgrid.transport.address import Address

OWN = "emc-node/"
"""The beginning of the topics that an EMC itself publishes on."""
HOURS = 24
"""Devices carry out a plan of one day: slot t is the hour t of the day."""


def _require_address(address: str) -> str:
    Address.parse(address)
    return address


Topic = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^+#\x00]+$")]
HomeBroker = Annotated[str, AfterValidator(_require_address)]


def _spell_out(channel: Any) -> Any:
    return {"topic": channel} if isinstance(channel, str) else channel


class _Channel(PrivateModel):
    """A number on a `topic`: the whole payload, or in JSON what `path` leads to, keys and positions with dots between.

    A plain text is short for a topic.
    """

    topic: Topic
    path: Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")] | None = None


class Power(_Channel):
    """A power in `unit`; with `inverted`, what charges the storage or is drawn from the grid is below zero."""

    unit: Literal["kW", "W"] = "kW"
    inverted: bool = False

    @property
    def per_kw(self) -> float:
        """The number on the topic for a kilowatt that charges or is drawn."""
        return (1000.0 if self.unit == "W" else 1.0) * (-1.0 if self.inverted else 1.0)


class StateOfCharge(_Channel):
    """The energy in the storage, in `unit`."""

    unit: Literal["%", "kWh", "Wh"] = "%"

    def to_kwh(self, value: float, capacity_kwh: float) -> float:
        """Convert a number on the topic."""
        return value * {"%": capacity_kwh / 100, "kWh": 1.0, "Wh": 0.001}[self.unit]


class Meter(PrivateModel):
    """The home's measurements. The `unit` of a `state_of_charge` that is a plain topic may stand beside it."""

    state_of_charge: Annotated[StateOfCharge, BeforeValidator(_spell_out)] | None = None
    load: Annotated[Power, BeforeValidator(_spell_out)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _move_unit(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("state_of_charge"), str) and "unit" in raw:
            unit = {"topic": raw["state_of_charge"], "unit": raw["unit"]}
            return {key: value for key, value in raw.items() if key != "unit"} | {"state_of_charge": unit}
        return raw


class HomeAssistant(PrivateModel):
    """The plan in Home Assistant: as device `name`, the price in `price_unit`."""

    discovery_prefix: Topic = "homeassistant"
    name: str | None = None
    price_unit: str | None = None


class Login(PrivateModel):
    """User and password on the home's own broker; that of Home Assistant needs them."""

    user: Annotated[str, Field(min_length=1)]
    password: Annotated[str, Field(repr=False)]


class DeviceSettings(PrivateModel):
    """A home's devices on its own `broker`; on `storage_setpoint` the storage gets its power of each hour."""

    broker: HomeBroker = "mqtt://localhost:1883"
    login: Login | None = None
    storage_setpoint: Annotated[Power, BeforeValidator(_spell_out)] | None = None
    meter: Meter = Meter()
    home_assistant: HomeAssistant | None = None

    @model_validator(mode="after")
    def _check_topics(self) -> Self:
        read = [channel for channel in (self.meter.state_of_charge, self.meter.load) if channel is not None]
        if self.storage_setpoint is not None and self.storage_setpoint.topic in [channel.topic for channel in read]:
            raise ValueError(
                f"{self.storage_setpoint.topic} is the topic of the setpoint and of a measurement; an EMC would read "
                "what it has sent, so name the topic on which the device reports"
            )
        if len({(channel.topic, channel.path) for channel in read}) < len(read):
            raise ValueError(f"meter: {read[0].topic} is given for two measurements; give each its own topic or path")
        own = [channel.topic for channel in (*read, self.storage_setpoint) if channel and channel.topic.startswith(OWN)]
        if own:
            raise ValueError(f"{own[0]} is a topic of the EMC itself; name the device's")
        return self

    def check(self, homes: Sequence[HomeModel], sessions: Sequence[Session], grid: str) -> None:
        """Raise `ValueError` unless these devices can carry out what `homes` settle with the broker at `grid`."""
        if len(homes) != 1:
            raise ValueError(f"devices: they belong to one home, this EMC has {len(homes)}; give each home its own EMC")
        for session in sessions:
            if (session.slots, session.slot_hours) != (HOURS, 1.0):
                slots = f"{session.slots} slots" + ("" if session.slot_hours == 1 else f" of {session.slot_hours:g} h")
                raise ValueError(f"devices: they carry out a day of {HOURS} hours, the game has {slots}")
            if session.start is not None and session.start.hour:
                raise ValueError(f"devices: they carry out a day from midnight, the game's begins at {session.start}")
        if not _servers(self.broker).isdisjoint(_servers(grid)):
            raise ValueError(
                f"devices.broker: {Address.parse(self.broker)} is the grid's broker, which must not receive a home's "
                "private data; name the home's own broker"
            )
        capacity_kwh = homes[0].storage_capacity_kwh()
        channel = self.storage_setpoint or self.meter.state_of_charge
        if capacity_kwh is None and channel is not None:
            raise ValueError(f"devices: {channel.topic} belongs to a storage, of which the home must have exactly one")


def _servers(broker: str) -> set[tuple[str, int]]:
    return {("127.0.0.1" if host == "localhost" else host, port) for host, port in Address.parse(broker).servers}
