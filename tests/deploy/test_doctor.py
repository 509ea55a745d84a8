"""`emc-node doctor` on a real machine: two real brokers, a disk, certificates and sensors, in order and not."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.publish
import pytest
from support.scripted_node import Scripted

import broker
import emc_node.__main__
from broker.access import Node, Role
from broker.authority import Authority
from emc_node import doctor
from emc_node.device_settings import Meter
from emc_node.readings import Readings
from stackelgrid.text_file import replace_file
from stackelgrid.transport.base import Finish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls

HOME: dict[str, Any] = {
    "id": "flat",
    "elastic": [{"max_kw": 3, "valuation": 10}],
    "storage": [{"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}],
}
METER = {"topic": "meter", "path": "em.0.power", "unit": "W"}
H1 = Node("h1", Role.home, "a1")


@dataclass
class Machine:
    """A home's machine, its authority and the grid's broker; `home` is the home's own broker."""

    authority: Authority
    grid: broker.RunningBroker
    home: broker.RunningBroker
    folder: Path

    def configure(self, **changes: Any) -> Path:
        """Write a configuration; give the file."""
        place = self.authority.place(H1)
        state = self.folder / "state"
        state.mkdir(parents=True, exist_ok=True)
        content = {
            "run": "demo",
            "name": "h1",
            "game": "user_oriented",
            "slots": 24,
            "aggregator": "a1",
            "broker": f"mqtts://localhost:{self.grid.port}",
            "tls": {"ca": f"{place}/ca.crt", "certificate": f"{place}/node.crt", "key": f"{place}/node.key"},
            "homes": [HOME],
            "max_kw": 11,
            "plan_file": f"{state}/plan.json",
            "devices": {
                "broker": f"mqtt://127.0.0.1:{self.home.port}",
                "meter": {
                    "state_of_charge": "battery/soc",
                    "load": {"topic": "meter", "path": "em.0.power", "unit": "W"},
                },
            },
        }
        file = self.folder / "config.json"
        file.write_text(json.dumps({key: value for key, value in (content | changes).items() if value is not None}))
        return file

    def say(self, topic: str, payload: str, *, retain: bool = True) -> None:
        paho.mqtt.publish.single(topic, payload, 1, retain, port=self.home.port)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, Any, Any]]:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    authority = Authority.init(tmp_path_factory.mktemp("certs"))
    authority.add(Node("l", Role.leader), Node("a1", Role.aggregator, "l"), H1, Node("h2", Role.home, "a1"))
    kind, certificates = broker.BrokerKind.MOSQUITTO, authority.folder / "broker"
    with (
        broker.start(kind, tmp_path_factory.mktemp("grid"), certificates=certificates) as grid,
        broker.start(kind, tmp_path_factory.mktemp("home")) as home,
    ):
        yield authority, grid, home


@pytest.fixture
def machine(brokers: tuple[Authority, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(doctor, "is_synchronised", lambda: True)
    monkeypatch.setattr(doctor, "LISTEN_S", 0.3)
    monkeypatch.setattr(doctor, "REFUSE_S", 0.1)  # so long it waits where nothing is refused
    found = Machine(*brokers, tmp_path)
    found.say("battery/soc", "55")
    found.say("meter", '{"em": [{"power": 431.5}]}')
    return found


def examine(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[bool, str]]:
    """What the doctor says of each thing."""
    code = emc_node.__main__.main(["doctor", "--config", str(file), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] == (code == 0)
    return {check["about"]: (check["ok"], check["found"]) for check in report["checks"]}


def failures(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {about: said for about, (ok, said) in examine(file, capsys).items() if not ok}


def test_doctor_finds_everything_in_order(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    found = examine(machine.configure(), capsys)
    assert [about for about, (ok, _) in found.items() if not ok] == []
    assert list(found) == [
        "clock",
        "configuration",
        "certificate",
        "broker",
        "disk",
        "devices.broker",
        "meter.state_of_charge",
        "meter.load",
    ]
    assert found["broker"][1] == f"localhost:{machine.grid.port} is the grid's and accepts the certificate"
    assert found["meter.state_of_charge"][1] == "55 % on battery/soc (retained, its age is unknown)"
    assert found["meter.load"][1] == "431.5 W on meter (retained, its age is unknown)"
    assert list((machine.folder / "state").iterdir()) == [], "it leaves nothing on the disk"


def test_doctor_says_how_answers_are_masked(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    masked = {"privacy": {"sums": "committee"}}
    found = examine(machine.configure(**masked, ledger_file=f"{machine.folder}/state/ledger.json"), capsys)
    assert found["masks"] == (
        True,
        "the grid reads sums of 20 homes or more; the home's keys are proven by the certificate",
    )
    assert "after a restart it is in no sum" in failures(machine.configure(**masked), capsys)["masks"]


def test_doctor_prints_a_line_for_each_thing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.say("battery/soc", "full")
    assert emc_node.__main__.main(["doctor", "--config", str(machine.configure())]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 6 + ["FAILS", "ok"]
    assert "battery/soc has nothing of use: b'full'; give its unit, the path" in lines[6]


def test_doctor_does_not_end_the_connection_of_the_running_emc(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.grid.refusals is not None
    before = json.loads(machine.grid.refusals.read_text())
    with running(machine):
        assert failures(machine.configure(), capsys) == {}
    after = json.loads(machine.grid.refusals.read_text())
    assert after.get("h1", {}).get("taken over", 0) == before.get("h1", {}).get("taken over", 0)


@contextmanager
def running(machine: Machine) -> Iterator[None]:
    """An EMC that is connected."""
    place, connected = machine.authority.place(H1), threading.Event()

    def start(now: float) -> list[Any]:
        connected.set()
        return []

    tls = Tls(ca=place / "ca.crt", certificate=place / "node.crt", key=place / "node.key")
    transport = MqttTransport(f"mqtts://localhost:{machine.grid.port}", tls=tls)
    thread = threading.Thread(target=transport.run, args=([Scripted("h1", ["stackelgrid/+/a1/signal"], start=start)],))
    thread.start()
    assert connected.wait(60)
    yield
    assert transport.traffic["h1"].connections == 1
    transport.stop()
    thread.join()


def test_doctor_says_that_the_clock_is_not_synchronised(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "is_synchronised", lambda: False)
    assert failures(machine.configure(), capsys) == {
        "clock": "not synchronised: let a time service set it, sudo timedatectl set-ntp true"
    }
    devices = {"broker": f"mqtt://127.0.0.1:{machine.home.port}", "trust_clock": True}
    assert failures(machine.configure(devices=devices), capsys) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": "many"}, "slots: give a whole number"),
        ({"homes": [HOME | {"inelastic": [{"load_kw": [9] * 24}], "draw_limit": {"max_kw": 5}}]}, "widen draw_limit"),
    ],
)
def test_doctor_says_what_is_wrong_in_the_configuration(
    machine: Machine, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    found = examine(machine.configure(**changes), capsys)
    assert list(found) == ["clock", "configuration"]
    assert not found["configuration"][0] and message in found["configuration"][1]


def test_doctor_says_what_is_wrong_with_the_certificate(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    other = machine.authority.place(Node("h2", Role.home, "a1"))
    tls = {"ca": f"{other}/ca.crt", "certificate": f"{other}/node.crt", "key": f"{other}/node.key"}
    assert "is for the name 'h2', this home is 'h1'" in failures(machine.configure(tls=tls), capsys)["certificate"]
    wrong_key = tls | {"key": f"{machine.authority.place(H1)}/node.key"}
    found = failures(machine.configure(tls=wrong_key), capsys)
    assert "the unencrypted private key that belongs to it" in found["certificate"]
    assert "the unencrypted private key that belongs to it" in found["broker"]


def test_doctor_says_that_a_certificate_is_revoked(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "REFUSE_S", 60)
    elsewhere = Authority.init(machine.folder / "certs")
    elsewhere.add(Node("l", Role.leader), Node("a1", Role.aggregator, "l"), H1)
    place = elsewhere.place(H1)
    copy = machine.folder / "copy"
    copy.mkdir()
    tls = {}
    for key, name in (("ca", "ca.crt"), ("certificate", "node.crt"), ("key", "node.key")):
        replace_file(copy / name, (place / name).read_bytes())
        tls[key] = f"{copy}/{name}"
    elsewhere.revoke("h1")
    kind = broker.BrokerKind.MOSQUITTO
    with broker.start(kind, machine.folder / "grid", certificates=elsewhere.folder / "broker") as grid:
        found = failures(machine.configure(tls=tls, broker=f"mqtts://localhost:{grid.port}"), capsys)
    assert list(found) == ["broker"]
    assert "certificate revoked" in found["broker"] and "take one of the broker's own authority" in found["broker"]


def test_doctor_says_which_brokers_do_not_answer(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = broker.free_port()
    devices = {"broker": f"mqtt://127.0.0.1:{nobody}", "meter": {"load": "meter"}}
    found = failures(machine.configure(broker=f"mqtts://localhost:{nobody + 1}", devices=devices), capsys)
    assert found["broker"].endswith("Connection refused") and "Connection refused" in found["devices.broker"]
    assert list(found) == ["broker", "devices.broker"]
    plain = f"mqtts://localhost:{machine.home.port}"
    assert "does not speak TLS there" in failures(machine.configure(broker=plain, devices=None), capsys)["broker"]


def test_doctor_says_that_a_disk_cannot_be_written(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = machine.folder / "gone"
    found = failures(machine.configure(plan_file=f"{gone}/plan.json"), capsys)
    assert found == {"disk": f"{gone}: No such file or directory; make it a folder that can be written"}
    full = os.statvfs(machine.folder).f_bavail * os.statvfs(machine.folder).f_frsize
    monkeypatch.setattr(doctor, "LEAST_FREE", 2 * full)
    assert "MiB free; make room" in failures(machine.configure(), capsys)["disk"]


@pytest.mark.parametrize(
    ("topic", "payload", "about", "message"),
    [
        ("battery/soc", "", "meter.state_of_charge", "nothing on battery/soc within 0 s, and nothing is retained"),
        ("battery/soc", "140", "meter.state_of_charge", "140 on battery/soc is not between 0 and 100; give its unit"),
        ("meter", '{"em": []}', "meter.load", "meter has at em.0.power nothing of use"),
        ("meter", '{"em": [{"power": 431500}]}', "meter.load", "431500 on meter is not between -11000 and 11000"),
    ],
)
def test_doctor_says_what_is_wrong_with_a_sensor(
    machine: Machine, capsys: pytest.CaptureFixture[str], topic: str, payload: str, about: str, message: str
) -> None:
    machine.say(topic, payload)
    found = failures(machine.configure(), capsys)
    assert list(found) == [about]
    assert message in found[about]


def test_listener_prefers_what_is_sent_now_and_waits_for_every_sensor() -> None:
    meter = Meter.model_validate({"state_of_charge": "soc", "load": "meter"})
    listener = doctor.Listener(Readings(meter, {}))
    listener.start(0.0)
    assert listener.receive_retained("meter", b"1", 0.0) == []
    assert listener.receive("meter", b"2", 1.0) == []
    assert listener.next_deadline() == doctor.LISTEN_S
    assert listener.receive("soc", b"3", 2.0) == [Finish()]
    found = listener.readings.find("load", datetime.now(UTC))
    assert found is not None and (found.value, found.retained) == (2.0, False)
