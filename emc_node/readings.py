"""The readings of a home's meters: numbers in messages, with an age limit and a plausible range for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, NamedTuple

from emc_node.device_settings import Measured, Meter, Presence

LARGEST_MESSAGE = 65_536
"""The most bytes of a message to a home that are read."""


_TEMPERATURES = (-20.0, 100.0)
"""Plausible temperatures of a room or tank, degrees C."""


class Reading(NamedTuple):
    """A number as it was on its topic, and when it came; of one that the broker had `retained` the age is unknown."""

    value: float
    at: datetime
    retained: bool = False


class Readings:
    """The latest reading of each meter. One that cannot be right is a problem, and is not taken.

    `ranges` are those in which numbers on a topic are plausible where the settings do not say so.
    """

    def __init__(self, meter: Meter, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._channels = meter.channels
        self._ranges = {key: channel.plausible or ranges.get(key) for key, channel in self._channels.items()}
        self._readings: dict[str, Reading] = {}
        self._faults: dict[str, str] = {}

    @property
    def topics(self) -> list[str]:
        """The topics of the meters."""
        return [channel.topic for channel in self._channels.values()]

    def take(self, topic: str, payload: bytes, now: datetime, *, retained: bool) -> list[str]:
        """Take what a message says, and name the meters of which it has a reading.

        What the broker had retained counts only until something is sent.
        """
        taken = []
        for key, channel in self._channels.items():
            before = self._readings.get(key)
            if channel.topic != topic or (retained and before is not None and not before.retained):
                continue
            value, fault = self._read(key, channel, payload)
            if value is None:
                self._faults[key] = fault
            else:
                self._faults.pop(key, None)
                self._readings[key] = Reading(value, now, retained)
                taken.append(key)
        return taken

    def find(self, key: str, now: datetime) -> Reading | None:
        """Find the latest reading of a meter, None where there is none that is young enough."""
        reading, channel = self._readings.get(key), self._channels.get(key)
        if reading is None or channel is None or now - reading.at > timedelta(seconds=channel.max_age_s):
            return None
        return reading

    def list_problems(self, now: datetime) -> dict[str, str]:
        """List what is wrong with each meter: a message that cannot be right, or none for too long."""
        problems = {}
        for key, channel in self._channels.items():
            reading = self._readings.get(key)
            if reading is not None and self.find(key, now) is None:
                age = (now - reading.at) // timedelta(minutes=1)
                problems[key] = f"{key}: the last reading on {channel.topic} is {age} min old, and not used"
            if key in self._faults:
                problems[key] = f"{key}: {self._faults[key]}"
        return problems

    def _read(self, key: str, channel: Measured, payload: bytes) -> tuple[float | None, str]:
        """Read a number, or say what is wrong with the message."""
        value = (_read_presence if isinstance(channel, Presence) else read_number)(payload, channel.path)
        if value is None:
            place = f"{channel.topic} has" if channel.path is None else f"{channel.topic} has at {channel.path}"
            return None, f"{place} nothing of use: {payload[:40]!r}"
        within = self._ranges[key]
        if within is not None and not within[0] <= value <= within[1]:
            return None, f"{value:g} on {channel.topic} is not between {within[0]:g} and {within[1]:g}"
        return value, ""


_PRESENCE = {"true": 1.0, "on": 1.0, "home": 1.0, "1": 1.0}
_PRESENCE |= {"false": 0.0, "off": 0.0, "not_home": 0.0, "away": 0.0, "0": 0.0}


def find_ranges(meter: Meter, capacity_kwh: float | None) -> dict[str, tuple[float, float]]:
    """Find the ranges in which numbers on a topic are plausible, in a home whose storage holds so much."""
    ranges = {"room_temperature": _TEMPERATURES}
    if meter.state_of_charge is not None:
        full = capacity_kwh or 0.0
        most = {"%": 100.0, "kWh": full, "Wh": 1000 * full}
        ranges["state_of_charge"] = (0.0, most[meter.state_of_charge.unit])
    return ranges


def _read_presence(payload: bytes, path: str | None) -> float | None:
    """Read whether something is there, 1 or 0; None where the message does not say."""
    try:
        found = _find(payload, path)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    word = found.decode(errors="replace") if isinstance(found, bytes) else str(found)
    return _PRESENCE.get(word.strip().lower())


def _find(payload: bytes, path: str | None) -> Any:
    """Find what is at a path in JSON, or the whole of it. Raises what `json.loads` and a wrong path raise."""
    if len(payload) > LARGEST_MESSAGE:
        raise ValueError("too long")
    found: Any = payload
    if path is not None:
        found = json.loads(payload)
        for step in path.split("."):
            found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def read_number(payload: bytes, path: str | None) -> float | None:
    """Read a number; None where there is none."""
    try:
        found = _find(payload, path)
        number = float("nan" if isinstance(found, bool) or "_" in str(found) else found)  # 1_000 is one in Python only
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None
    return number if isfinite(number) else None
