"""The settings of a home's devices: its own broker, its storage and meter, Home Assistant, and what it does alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.model import LARGEST, SMALLEST, Finite, NonNegative
from stackelgrid.rounds.settings import HomeModel, PrivateModel
from stackelgrid.transport.address import Address

OWN = "emc-node/"
"""The beginning of the topics that an EMC itself publishes on."""
HOURS = 24
"""The hours of a day, of which a run without dates plays one."""


def _require_address(address: str) -> str:
    Address.parse(address)
    return address


Topic = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^+#\x00]+$")]
HomeBroker = Annotated[str, AfterValidator(_require_address)]


def _check_range(plausible: tuple[float, float] | None) -> tuple[float, float] | None:
    if plausible is not None and plausible[0] > plausible[1]:
        raise ValueError(f"{list(plausible)}: the least comes first; swap them")
    return plausible


def _spell_out(channel: Any) -> Any:
    return {"topic": channel} if isinstance(channel, str) else channel


class Channel(PrivateModel):
    """A number on a `topic`: the whole payload, or in JSON what `path` leads to, keys and positions with dots between.

    A plain text is short for a topic.
    """

    topic: Topic
    path: Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")] | None = None


class Measured(Channel):
    """A reading, which counts for `max_age_s` seconds. A number on the topic outside `plausible` does not count."""

    max_age_s: Annotated[float, Field(ge=1, le=86_400)] = 900.0
    plausible: Annotated[tuple[Finite, Finite] | None, AfterValidator(_check_range)] = None


class Power(Channel):
    """A power in `unit`; with `inverted`, what charges the storage or is drawn from the grid is below zero."""

    unit: Literal["kW", "W"] = "kW"
    inverted: bool = False

    @property
    def per_kw(self) -> float:
        """The number on the topic for a kilowatt that charges or is drawn."""
        return (1000.0 if self.unit == "W" else 1.0) * (-1.0 if self.inverted else 1.0)


SignedPower = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
"""A power of either sign."""
Hours = Annotated[float, Field(ge=SMALLEST, le=366 * 24, allow_inf_nan=False)]
"""A time of at most a year."""


class Setpoint(Power):
    """The power of the storage. At `default_kw` it rests: also when the EMC has died, and nobody controls it."""

    default_kw: SignedPower = 0.0


class Load(Power, Measured):
    """The power that the home draws from the grid."""


class StateOfCharge(Measured):
    """The energy in the storage, in `unit`."""

    unit: Literal["%", "kWh", "Wh"] = "%"

    def to_kwh(self, value: float, capacity_kwh: float) -> float:
        """Convert a number on the topic."""
        return value * {"%": capacity_kwh / 100, "kWh": 1.0, "Wh": 0.001}[self.unit]


class Presence(Measured):
    """A car that is plugged in at home, or not: true, on, home or 1, and false, off, not_home, away or 0."""


class Meter(PrivateModel):
    """The home's measurements: of its one storage, at its meter, in its one heated room (°C) and of its one car.

    The `unit` of a `state_of_charge` that is a plain topic may stand beside it."""

    state_of_charge: Annotated[StateOfCharge, BeforeValidator(_spell_out)] | None = None
    load: Annotated[Load, BeforeValidator(_spell_out)] | None = None
    room_temperature: Annotated[Measured, BeforeValidator(_spell_out)] | None = None
    car_at_home: Annotated[Presence, BeforeValidator(_spell_out)] | None = None

    @property
    def channels(self) -> dict[str, Measured]:
        """Those that there are, by key."""
        return {key: channel for key, channel in self if channel is not None}

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


HourlyNumbers = Annotated[list[Finite], Field(min_length=HOURS, max_length=HOURS)]
"""A number for each hour of the clock, from midnight."""


class FailSafe(PrivateModel):
    """What a home does while the grid is silent.

    The last settled plan holds until its last slot has ended, or `holds_h` hours after it began. Then the storage
    follows `profile_kw`, a power per hour of the clock; or the home does what is best for it at `tariff`, a price per
    hour of the clock, or at the one price `own_optimum`. Without any of them the storage rests.
    """

    holds_h: Hours | None = None
    profile_kw: Annotated[list[SignedPower], Field(min_length=HOURS, max_length=HOURS)] | None = None
    tariff: HourlyNumbers | None = None
    own_optimum: Finite | None = None

    @property
    def prices(self) -> list[float] | None:
        """The price of each hour of the clock at which the home does what is best for it, None where it has none."""
        return self.tariff if self.own_optimum is None else [self.own_optimum] * HOURS

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        given = [key for key in ("profile_kw", "tariff", "own_optimum") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} say both what follows the plan; leave one out")
        return self


class OutsideLimit(PrivateModel):
    """A limit from outside, on a `topic` of the home's own broker or in a `file`.

    Its sender is heard at least every `heartbeat_s` seconds. When it is not, `draw_kw` and `feed_in_kw` limit the meter
    for `fail_safe_h` hours; without a `feed_in_kw` nothing limits what is fed in.
    """

    topic: Topic | None = None
    file: Path | None = None
    heartbeat_s: Annotated[float, Field(ge=1, le=86_400)] = 120.0
    draw_kw: NonNegative
    feed_in_kw: NonNegative | None = None
    fail_safe_h: Hours = 2.0

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if (self.topic is None) == (self.file is None):
            raise ValueError("give topic or file, where the limit comes from")
        if self.file is not None and not self.file.is_absolute():
            raise ValueError(f"file: {self.file} is not from the root; write the whole path")
        return self


class DeviceSettings(PrivateModel):
    """A home's devices on its own `broker`; on `storage_setpoint` the storage gets its power of each slot.

    With `trust_clock` the clock of this machine is right though nothing on it says so.
    """

    broker: HomeBroker = "mqtt://localhost:1883"
    login: Login | None = None
    storage_setpoint: Annotated[Setpoint, BeforeValidator(_spell_out)] | None = None
    meter: Meter = Meter()
    home_assistant: HomeAssistant | None = None
    fail_safe: FailSafe = FailSafe()
    limit: OutsideLimit | None = None
    trust_clock: bool = False

    @model_validator(mode="after")
    def _check_topics(self) -> Self:
        read = list(self.meter.channels.values())
        if self.storage_setpoint is not None and self.storage_setpoint.topic in [channel.topic for channel in read]:
            raise ValueError(
                f"{self.storage_setpoint.topic} is the topic of the setpoint and of a measurement; an EMC would read "
                "what it has sent, so name the topic on which the device reports"
            )
        if len({(channel.topic, channel.path) for channel in read}) < len(read):
            ((topic, _), _), *_ = Counter((channel.topic, channel.path) for channel in read).most_common()
            raise ValueError(f"meter: {topic} is given for two measurements; give each its own topic or path")
        own = [channel.topic for channel in (*read, self.storage_setpoint) if channel and channel.topic.startswith(OWN)]
        if own:
            raise ValueError(f"{own[0]} is a topic of the EMC itself; name the device's")
        return self

    def check(self, homes: Sequence[HomeModel], sessions: Sequence[Session], grid: str) -> None:
        """Raise `ValueError` unless these devices can carry out what `homes` settle with the broker at `grid`."""
        if len(homes) != 1:
            raise ValueError(f"devices: they belong to one home, this EMC has {len(homes)}; give each home its own EMC")
        for session in sessions:
            if session.start is None and (session.slots, session.slot_hours) != (HOURS, 1.0):
                raise ValueError(
                    f"devices: without a calendar they carry out a day of {HOURS} hours, the game has {session.slots} "
                    "slots; give the run a calendar"
                )
        if not _servers(self.broker).isdisjoint(_servers(grid)):
            raise ValueError(
                f"devices.broker: {Address.parse(self.broker)} is the grid's broker, which must not receive a home's "
                "private data; name the home's own broker"
            )
        capacity_kwh = homes[0].storage_capacity_kwh()
        channel = self.storage_setpoint or self.meter.state_of_charge
        if capacity_kwh is None and channel is not None:
            raise ValueError(f"devices: {channel.topic} belongs to a storage, of which the home must have exactly one")
        of_devices: tuple[Literal["room_temperature", "car_at_home"], ...] = ("room_temperature", "car_at_home")
        for key in of_devices:
            try:
                if key in self.meter.channels:
                    homes[0].check_reading(key)
            except ValueError as error:
                raise ValueError(f"devices.meter.{key}: {error}") from None


def _servers(broker: str) -> set[tuple[str, int]]:
    return {("127.0.0.1" if host == "localhost" else host, port) for host, port in Address.parse(broker).servers}
