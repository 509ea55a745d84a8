"""`emc-node doctor`: examine what an EMC needs on this machine; each thing is in order, or fails and has its mend."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from emc_node import openssl
from emc_node.clock import is_synchronised
from emc_node.config import EmcConfig, assemble, config_model
from emc_node.device_settings import DeviceSettings
from emc_node.init import CONFIG, FOLDER, STATE
from emc_node.openssl import OpensslError
from emc_node.readings import Readings, find_ranges
from stackelgrid.errors import ConfigError
from stackelgrid.node.config import load
from stackelgrid.node.record import discard
from stackelgrid.text_file import replace_file
from stackelgrid.transport.base import Action, BrokerUnreachableError, Finish, Publish
from stackelgrid.transport.diagnosis import diagnose
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls, read_certificate
from stackelgrid.transport.visit import Visitor

CONNECT_S = 5.0
"""The time that a broker has to accept a connection."""
REFUSE_S = 2.0
"""The time that a broker has to refuse a certificate after the handshake."""
LISTEN_S = 10.0
"""The time in which each sensor is to report."""
LEAST_FREE = 50 * 2**20
"""Bytes that should be free on a disk."""
IN_ORDER, FAILS = 0, 1


class Finding(NamedTuple):
    """What was found out about one thing; `found` has the mend too where it is not in order."""

    about: str
    ok: bool
    found: str


def main(arguments: list[str]) -> int:
    """Print the findings, one a line; return 1 where something fails."""
    parser = argparse.ArgumentParser(
        prog="emc-node doctor", description="Examine what the EMC needs on this machine, and say how to mend it."
    )
    parser.add_argument("--config", type=Path, default=FOLDER / CONFIG, help="default: %(default)s")
    parser.add_argument(
        "--state", type=Path, default=STATE, metavar="FOLDER", help="where its service writes; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    findings = []
    for finding in examine(options.config, options.state):
        findings.append(finding)
        if not options.json:
            print(f"{'ok' if finding.ok else 'FAILS':6} {finding.about:21} {finding.found}", flush=True)
    in_order = all(finding.ok for finding in findings)
    if options.json:
        print(json.dumps({"schema": 1, "ok": in_order, "checks": [finding._asdict() for finding in findings]}))
    return IN_ORDER if in_order else FAILS


def examine(config_file: Path, state: Path) -> Iterator[Finding]:
    """Examine one thing after the other: without a configuration the clock alone."""
    try:
        config: EmcConfig[Any] = load(config_file, config_model, state)
        assemble(config, discard)
    except (ConfigError, ValueError) as error:
        yield _examine_clock(trusted=False)
        yield Finding("configuration", False, str(error).replace("\n", "; "))
        return
    yield _examine_clock(trusted=config.devices is not None and config.devices.trust_clock)
    yield Finding("configuration", True, f"{config_file}: {config.name} of run {config.run}")
    if config.tls is not None:
        yield _examine_certificate(config.tls, config.name)
    if config.privacy.sums == "committee":
        yield _examine_masks(config)
    yield from _examine_broker(config)
    yield from _examine_disk(config)
    if config.devices is not None:
        yield from _examine_sensors(config, config.devices)


def _examine_clock(*, trusted: bool) -> Finding:
    if trusted or is_synchronised():
        how = "trusted (devices.trust_clock)" if trusted else "synchronised"
        return Finding("clock", True, f"{how}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")
    return Finding("clock", False, "not synchronised: let a time service set it, sudo timedatectl set-ntp true")


def _examine_certificate(tls: Tls, name: str) -> Finding:
    """Examine dates, key and authority of the certificate."""
    try:
        now = tls.choose()
        tls.context()
        problem = tls.find_out_of_date()
        if problem is None:
            openssl.examine(now.certificate.read_text(encoding="ascii"), now.key, name, now.ca)
        certificate = read_certificate(now.certificate)
    except (ValueError, OSError, OpensslError) as error:
        return Finding("certificate", False, f"{error}; get one from the operator and run emc-node init again")
    if problem is None and certificate.expires_soon(datetime.now(UTC)):
        problem = f"it holds until {certificate.until:%Y-%m-%d} only: ask the operator for a new one"
    found = f"of {name}, for its key and by the authority, until {certificate.until:%Y-%m-%d}"
    return Finding("certificate", problem is None, problem or found)


def _examine_masks(config: EmcConfig[Any]) -> Finding:
    """Say how answers are masked, and examine whether the secret of the masks outlives a restart."""
    if config.ledger_file is None:
        lost = "after a restart it is in no sum until the next session"
        return Finding("masks", False, f"ledger_file: missing, so that {lost}; name a file in a folder that stays")
    least, keys = config.privacy.minimum_group, "unproven" if config.tls is None else "proven by the certificate"
    return Finding("masks", True, f"the grid reads sums of {least} homes or more; the home's keys are {keys}")


def _examine_broker(config: EmcConfig[Any]) -> Iterator[Finding]:
    """Examine whether each of the grid's servers accepts the EMC."""
    try:
        transport = MqttTransport(config.broker, tls=config.tls, connect_timeout_s=CONNECT_S)
    except ValueError as error:
        yield Finding("broker", False, str(error))
        return
    if config.tls is None:
        yield _visit("broker", transport)
        return
    for host, port in transport.address.servers:
        if (problem := _shake_hands(transport, (host, port))) is None:
            yield Finding("broker", True, f"{host}:{port} is the grid's and accepts the certificate")
        else:
            yield Finding("broker", False, f"{host}:{port}: {problem}")


def _shake_hands(transport: MqttTransport, server: tuple[str, int]) -> str | None:
    """Say why a server refuses the certificate, None where it does not.

    No more than that: whoever connects with the certificate of a running EMC ends that one's connection.
    """
    assert transport.tls is not None
    try:
        with (
            socket.create_connection(server, timeout=CONNECT_S) as plain,
            transport.tls.wrap_socket(plain, server_hostname=server[0]) as connection,
        ):
            return None if _stays_open(connection) else "it closes the connection without a word"
    except OSError as error:
        return diagnose(transport.address, server, error, transport.tls, transport.certificates).cause


def _stays_open(connection: socket.socket) -> bool:
    """Wait whether the server ends a connection after the handshake. Raises `OSError` where it says why."""
    connection.settimeout(REFUSE_S)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True  # it waits for what the client has to say


def _visit(about: str, transport: MqttTransport) -> Finding:
    """Connect to a broker that asks for no certificate."""
    try:
        transport.run([Visitor()])
    except BrokerUnreachableError as error:
        return Finding(about, False, f"{transport.url}: {error.cause}")
    return Finding(about, True, f"{transport.url} accepts a connection")


def _examine_disk(config: EmcConfig[Any]) -> Iterator[Finding]:
    """Examine the folders in which the EMC writes."""
    files = (config.schedule_file, config.ledger_file, config.plan_file, config.history_file)
    for folder in dict.fromkeys(file.parent for file in files if file is not None):
        probe = folder / f".doctor.{os.getpid()}"
        began = time.monotonic()
        try:
            replace_file(probe, bytes(4096), durable=True)
            probe.unlink()
            free = shutil.disk_usage(folder).free
        except OSError as error:
            mend = "try it with sudo" if isinstance(error, PermissionError) else "make it a folder that can be written"
            yield Finding("disk", False, f"{folder}: {error.strerror}; {mend}")
            continue
        took = f"{1000 * (time.monotonic() - began):.0f} ms"
        room = f"{free / 2**20:,.0f} MiB free"
        if free < LEAST_FREE:
            yield Finding("disk", False, f"{folder}: {room}; make room, {LEAST_FREE // 2**20} MiB or more")
        else:
            yield Finding("disk", True, f"{folder}: written and confirmed in {took}, {room}")


class Listener:
    """A node on the home's broker that listens until each of its sensors has sent something, `LISTEN_S` at most."""

    name = "doctor"
    last_will: Publish | None = None

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self.subscriptions = list(dict.fromkeys(readings.topics))
        self._heard: set[str] = set()
        self._leave_at: float | None = None

    def start(self, now: float) -> Sequence[Action]:
        """Begin to listen."""
        self._leave_at = now + LISTEN_S
        return []

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a message; leave with that of the last sensor."""
        self.readings.take(topic, payload, datetime.now(UTC), retained=False)
        self._heard.add(topic)
        return [Finish()] if self._heard >= {*self.subscriptions} else []

    def receive_retained(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a message of unknown age."""
        self.readings.take(topic, payload, datetime.now(UTC), retained=True)
        return []

    def tick(self, now: float) -> Sequence[Action]:
        """Leave."""
        return [Finish()]

    def next_deadline(self) -> float | None:
        """Give the time at which it leaves."""
        return self._leave_at


def _examine_sensors(config: EmcConfig[Any], devices: DeviceSettings) -> Iterator[Finding]:
    """Examine the home's own broker and what its sensors report."""
    login = None if devices.login is None else (devices.login.user, devices.login.password)
    transport = MqttTransport(devices.broker, login=login, connect_timeout_s=CONNECT_S)
    meter = devices.meter
    ranges = find_ranges(meter, config.homes[0].storage_capacity_kwh())
    if meter.load is not None and config.max_kw is not None:
        most = config.max_kw * abs(meter.load.per_kw)
        ranges["load"] = (-most, most)
    listener = Listener(Readings(meter, ranges))
    try:
        transport.run([listener if meter.channels else Visitor()])
    except BrokerUnreachableError as error:
        yield Finding("devices.broker", False, f"{transport.url}: {error.cause}")
        return
    yield Finding("devices.broker", True, f"{transport.url} accepts a connection")
    now = datetime.now(UTC)
    problems = listener.readings.list_problems(now)
    for key, channel in meter.channels.items():
        reading = listener.readings.find(key, now)
        if key in problems:
            fault = problems[key].removeprefix(f"{key}: ")
            found = f"{fault}; give its unit, the path to the number, or what is plausible"
        elif reading is None:
            found = f"nothing on {channel.topic} within {LISTEN_S:.0f} s, and nothing is retained; does the device run?"
        else:
            age = "retained, its age is unknown" if reading.retained else "sent now"
            found = f"{reading.value:g} {getattr(channel, 'unit', '')}".rstrip() + f" on {channel.topic} ({age})"
        yield Finding(f"meter.{key}", reading is not None and key not in problems, found)
