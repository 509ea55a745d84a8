"""A home that lasts: a real EMC process on a fast clock, its grid and its own broker, and what its battery is told.

    python -m support.lasting_home BASE SPEED BEGAN OPTION…

is the process: an `emc-node` whose clock shows BASE at the second BEGAN of this machine, and is SPEED times as fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from emc_node.config import EmcConfig, config_model
from stackelgrid.calendar import Session
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.registry import find
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Message, Settlement, Signal

RUN, NAME = "lasting", "h1"
SETPOINT, LIMIT = "battery/set", "grid/limit"
STATE, SCHEDULE = f"emc-node/{NAME}/state", f"emc-node/{NAME}/schedule"
BASE = datetime(2026, 3, 2, tzinfo=UTC)
BATTERY = {"capacity_kwh": 8, "initial_kwh": 4, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}


@dataclass(frozen=True)
class FastClock:
    """A clock that shows `base` at the second `began` of this machine and is `speed` times as fast."""

    speed: float
    base: datetime = BASE
    began: float = field(default_factory=time.time)

    def __call__(self) -> datetime:
        return self.base + timedelta(seconds=(time.time() - self.began) * self.speed)

    def wait_until(self, moment: datetime) -> None:
        time.sleep(max((moment - self()).total_seconds() / self.speed, 0))


def describe_home(calendar: dict[str, Any], grid: str, devices: dict[str, Any], **files: Any) -> EmcConfig[Any]:
    """Give the configuration of a home with a battery in the sessions of a calendar."""
    minutes = calendar["slot_minutes"]
    slots = int(calendar["days"] * 24 * 60 / minutes)
    home = {
        "id": "flat",
        "horizon": slots,
        "slot_hours": minutes / 60,
        "inelastic": [{"load_kw": [0.5] * slots}],
        "elastic": [{"max_kw": 3, "valuation": 10}],
        "storage": [BATTERY],
    }
    described = {"run": RUN, "name": NAME, "game": "user_oriented", "slots": slots, "aggregator": "a1", "broker": grid}
    described |= {"calendar": {"start": BASE.isoformat()} | calendar, "reconnect_s": None, "homes": [home]}
    described |= {"devices": {"storage_setpoint": SETPOINT, "trust_clock": True} | devices}
    return config_model(find("user_oriented")).model_validate(described | files)


class HomeProcess:
    """The process of an EMC, whose output goes to a file."""

    def __init__(self, config: EmcConfig[Any], folder: Path, clock: FastClock) -> None:
        self.log = folder / "h1.log"
        (folder / "h1.json").write_text(config.model_dump_json(exclude_none=True))
        self._command = [sys.executable, "-m", "support.lasting_home", clock.base.isoformat(), str(clock.speed)]
        self._command += [str(clock.began), "--config", str(folder / "h1.json"), "--stay", "--log", "json"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        tests = Path(__file__).parents[1]
        with self.log.open("ab") as log:
            env = os.environ | {"TZ": "UTC", "PYTHONPATH": f"{tests.parent}:{tests}", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(self._command, stderr=log, env=env)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Heard(NamedTuple):
    """A message on a broker, and the time at which it came."""

    at: datetime
    topic: str
    payload: bytes


class Client:
    """A client of a broker that hears everything, and publishes."""

    def __init__(self, url: str, clock: Callable[[], datetime]) -> None:
        self.heard: list[Heard] = []
        self.clock, self._news = clock, threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda *_: self._client.subscribe("#")
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1, retain=True)

    def wait(self, what: str, true: Callable[[Heard], bool], since: int = 0, seconds: float = 120) -> Heard:
        """Wait for a message, of those from number `since` on."""

        def find() -> Heard | None:
            return next((heard for heard in self.heard[since:] if true(heard)), None)

        with self._news:
            assert self._news.wait_for(find, seconds), f"{what} did not come; heard {self.heard[since:][-10:]}"
            found = find()
            assert found is not None
            return found

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with self._news:
            self.heard.append(Heard(self.clock(), message.topic, bytes(message.payload)))
            self._news.notify_all()


@contextmanager
def connect(url: str, clock: Callable[[], datetime]) -> Iterator[Client]:
    client = Client(url, clock)
    try:
        yield client
    finally:
        client.close()


class Grid:
    """The aggregator of the home, on the grid's broker: asks one price a session, and settles it."""

    def __init__(self, client: Client, sessions: tuple[Session, ...]) -> None:
        self._client, self.sessions = client, sessions
        self._link = Link(RUN, "a1", GAME.bodies("lower"), tuple(session.slots for session in sessions))

    def price(self, number: int) -> list[float]:
        """Give the price of a session, which no other has."""
        return [8.0 + number / 100 + 4.0 * (slot % 4 < 2) for slot in range(self.sessions[number - 1].slots)]

    def ask(self, number: int) -> None:
        self._send(Signal[Price](run=RUN, sender="a1", session=number, round=2 * number, body=self._body(number)))

    def settle(self, number: int) -> None:
        content = {"run": RUN, "sender": "a1", "session": number, "round": 2 * number, "settled": True}
        self._send(Settlement[Price].model_validate(content | {"complete": True, "body": self._body(number)}))

    def _body(self, number: int) -> Price:
        return Price(price=self.price(number))

    def _send(self, message: Message) -> None:
        self._client.publish(self._link.topic(message), self._link.write(message))


def read_state(heard: Heard) -> dict[str, Any]:
    """Read the state of the home, nothing of another message."""
    return dict(json.loads(heard.payload)) if heard.topic == STATE else {}


def _main() -> int:
    from emc_node import __main__, devices

    base, speed, began, *arguments = sys.argv[1:]
    clock = FastClock(float(speed), datetime.fromisoformat(base), float(began))
    defaults = list(devices.HomeDevices.__init__.__defaults__ or ())
    defaults[defaults.index(devices.read_local_time)] = clock
    devices.HomeDevices.__init__.__defaults__ = tuple(defaults)
    for name in ("_CLOCK_CHECK_S", "_TRY_AGAIN_S", "_STEADY_S"):
        setattr(devices, name, max(getattr(devices, name) / clock.speed, 0.02))
    return __main__.main(arguments)


if __name__ == "__main__":
    sys.exit(_main())
