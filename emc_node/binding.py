"""What a home binds to its plan: its own broker, topics of its storage and its meter, Home Assistant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from stackelgrid.games.user_oriented.home import Home
from stackelgrid.rounds.settings import PrivateModel
from stackelgrid.transport.address import Address

HOURS = 24
"""A plan that devices can carry out is one of a day, slot t its hour t."""


def _own_broker(address: str) -> str:
    if Address.parse(address).encrypted:
        raise ValueError(f"{address} is encrypted, and a home's own broker is spoken to in the clear: write mqtt://")
    return address


Topic = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^+#\x00]+$")]
OwnBroker = Annotated[str, AfterValidator(_own_broker)]


class Meter(PrivateModel):
    """Topics on which the home measures, a plain number each: `state_of_charge` in its `unit`, `load` in kW."""

    state_of_charge: Topic | None = None
    unit: Literal["%", "kWh"] = "%"
    load: Topic | None = None


class HomeAssistant(PrivateModel):
    """How the plan appears in Home Assistant: as device `name`, the price in `price_unit`."""

    discovery_prefix: Topic = "homeassistant"
    name: str | None = None
    price_unit: str | None = None


class Login(PrivateModel):
    """What the home's own broker wants to know; Home Assistant's does."""

    user: Annotated[str, Field(min_length=1)]
    password: Annotated[str, Field(repr=False)]


class Devices(PrivateModel):
    """What a home binds to its plan, on its own `broker`; `storage_setpoint` gets the storage's power of each hour."""

    broker: OwnBroker = "mqtt://localhost:1883"
    login: Login | None = None
    storage_setpoint: Topic | None = None
    meter: Meter = Meter()
    home_assistant: HomeAssistant | None = None

    def require_fit(self, homes: Sequence[Any], slots: int, grid: str) -> None:
        """Raises `ValueError` unless these devices can carry out what such homes settle with the broker at `grid`."""
        if len(homes) != 1:
            raise ValueError(f"devices: they are those of one home, and there are {len(homes)}; give each its own EMC")
        if slots != HOURS:
            raise ValueError(f"devices: a day of {HOURS} hours can be carried out, the game has {slots} slots")
        if not _places(self.broker).isdisjoint(_places(grid)):
            raise ValueError(
                f"devices.broker: {self.broker} is the grid's broker, which must not hear what a home keeps to itself; "
                "name the home's own"
            )
        steered = self.storage_setpoint or self.meter.state_of_charge
        if storage_of(homes[0]) is None and steered is not None:
            raise ValueError(f"devices: {steered} belongs to a storage, of which the home must have exactly one")


def _places(broker: str) -> set[tuple[str, int]]:
    return {("127.0.0.1" if host == "localhost" else host, port) for host, port in Address.parse(broker).servers}


def storage_of(home: Any) -> Any:
    """The one storage or battery of a home, None when there is none or more than one.

    Raises `ValueError` for the home of a game that schedules no storage.
    """
    from stackelgrid.games.storage_market.home import MarketHome

    match home:
        case Home():
            return home.storage[0] if len(home.storage) == 1 else None
        case MarketHome():
            return home.battery
    raise ValueError(f"devices: the game of a {type(home).__name__} schedules no storage; leave devices out")
