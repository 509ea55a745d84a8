"""The settings of a home's devices: its own broker, the topics of its storage and its meter, Home Assistant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stackelgrid.rounds.settings import HomeModel, PrivateModel
from stackelgrid.transport.address import Address

HOURS = 24
"""Devices carry out a plan of one day: slot t is the hour t of the day."""


def _require_unencrypted(address: str) -> str:
    if Address.parse(address).encrypted:
        raise ValueError(f"{address} is encrypted; the home's own broker is reached without TLS: write mqtt://")
    return address


Topic = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^+#\x00]+$")]
HomeBroker = Annotated[str, AfterValidator(_require_unencrypted)]


class Meter(PrivateModel):
    """Topics of the home's measurements, each a plain number: `state_of_charge` in its `unit`, `load` in kW."""

    state_of_charge: Topic | None = None
    unit: Literal["%", "kWh"] = "%"
    load: Topic | None = None


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
    """A home's devices on its own `broker`; `storage_setpoint` receives the storage's power of each hour."""

    broker: HomeBroker = "mqtt://localhost:1883"
    login: Login | None = None
    storage_setpoint: Topic | None = None
    meter: Meter = Meter()
    home_assistant: HomeAssistant | None = None

    def check(self, homes: Sequence[HomeModel], slots: int, grid: str) -> None:
        """Raise `ValueError` unless these devices can carry out what `homes` settle with the broker at `grid`."""
        if len(homes) != 1:
            raise ValueError(f"devices: they belong to one home, this EMC has {len(homes)}; give each home its own EMC")
        if slots != HOURS:
            raise ValueError(f"devices: they carry out a day of {HOURS} hours, the game has {slots} slots")
        if not _servers(self.broker).isdisjoint(_servers(grid)):
            raise ValueError(
                f"devices.broker: {self.broker} is the grid's broker, which must not receive a home's private data; "
                "name the home's own broker"
            )
        capacity_kwh = homes[0].storage_capacity_kwh()
        topic = self.storage_setpoint or self.meter.state_of_charge
        if capacity_kwh is None and topic is not None:
            raise ValueError(f"devices: {topic} belongs to a storage, of which the home must have exactly one")


def _servers(broker: str) -> set[tuple[str, int]]:
    return {("127.0.0.1" if host == "localhost" else host, port) for host, port in Address.parse(broker).servers}
