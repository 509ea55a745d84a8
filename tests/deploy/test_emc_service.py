"""An EMC at home: its set-up, its systemd unit, its status, and its return after half an hour without a broker."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import selectors
import shutil
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

import aggregator_node.__main__
import leader_node.__main__
from broker.access import Node, Role
from broker.authority import Authority
from emc_node import __main__, status
from emc_node.config import EmcConfig, assemble, config_model
from emc_node.device_settings import DeviceSettings, Setpoint
from emc_node.init import main as init
from stackelgrid import scenarios
from stackelgrid.faults.plan import Cut, FaultPlan
from stackelgrid.faults.proxy import Proxy
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.home import UserOrientedHomes
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.node.config import load
from stackelgrid.registry import find
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.address import Address
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Settlement, Signal

HOME: dict[str, Any] = {
    "id": "flat",
    "elastic": [{"max_kw": 3, "valuation": 10}],
    "storage": [{"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}],
}
BOOKED = ["--run", "demo", "--name", "h1", "--aggregator", "a1", "--game", "user_oriented", "--slots", "24"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of home h1 with its certificate from an authority."""
    folder = tmp_path_factory.mktemp("certs")
    authority = Authority.init(folder)
    authority.add(Node("l", Role.leader), Node("a1", Role.aggregator, "l"), Node("h1", Role.home, "a1"))
    return authority.place(Node("h1", Role.home, "a1"))


@pytest.fixture
def home_file(tmp_path: Path) -> Path:
    file = tmp_path / "home.json"
    file.write_text(json.dumps(HOME))
    return file


def from_flags(home_file: Path, certificates: Path, to: Path, *more: str) -> list[str]:
    files = {"ca": "ca.crt", "certificate": "node.crt", "key": "node.key"}
    named = [word for key, name in files.items() for word in (f"--{key}", str(certificates / name))]
    return ["--broker", "mqtts://grid:8883", *BOOKED, "--home", str(home_file), *named, "--to", str(to), *more]


def configuration(folder: Path) -> EmcConfig[Any]:
    return load(folder / "config.json", config_model)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


# --- init ---


def test_init_writes_a_folder_that_only_its_owner_reads(tmp_path: Path, home_file: Path, certificates: Path) -> None:
    to = tmp_path / "etc" / "stackelgrid"
    assert init(from_flags(home_file, certificates, to, "--scenario", "0123456789abcdef")) == 0
    config = configuration(to)
    assert (config.run, config.name, config.aggregator, config.slots) == ("demo", "h1", "a1", 24)
    assert config.scenario == "0123456789abcdef"
    assert config.reconnect_s is None
    assert config.homes[0].storage[0].capacity_kwh == 5
    assert config.schedule_file == Path("/var/lib/stackelgrid/schedule.json")
    assert config.plan_file is None
    assert config.tls is not None
    config.tls.context()
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in to.iterdir()} == dict.fromkeys(
        ("config.json", "ca.crt", "node.crt", "node.key"), 0o600
    )
    assert stat.S_IMODE(to.stat().st_mode) == 0o700


def operators_folder(folder: Path, certificates: Path) -> Path:
    """Make the folder that an operator gives to a home: a configuration, certificate and key."""
    shutil.copytree(certificates, folder)
    scenario = scenarios.load("user_oriented", ["population.homes=2", "aggregators=1"])
    given = json.loads(
        build_node_configs(scenario, "demo", "mqtts://grid:8883", gather=True).homes[0].model_dump_json()
    )
    given["tls"] = {"ca": "ca.crt", "certificate": "node.crt", "key": "node.key"}
    given["devices"] = {"home_assistant": {"name": "the operator's choice"}}
    (folder / "config.json").write_text(json.dumps(given))
    return folder


def test_init_takes_the_operators_folder_and_the_owners_home(
    tmp_path: Path, certificates: Path, home_file: Path
) -> None:
    given = operators_folder(tmp_path / "given", certificates)
    assert init(["--from", str(given), "--to", str(tmp_path / "as_given")]) == 0
    as_given = configuration(tmp_path / "as_given")
    before = load(given / "config.json", config_model)
    assert (as_given.homes, as_given.run, as_given.broker) == (before.homes, before.run, before.broker)
    assert as_given.devices is None, "only the owner of devices may name them"
    home_file.write_text(json.dumps(HOME | {"devices": {"storage_setpoint": "battery/set"}}))
    to = tmp_path / "described"
    assert init(["--from", str(given), "--home", str(home_file), "--to", str(to), "--state", "/var/lib/mine"]) == 0
    config = configuration(to)
    assert config.homes[0].id == "flat"
    assert config.devices is not None
    assert config.devices.storage_setpoint == Setpoint(topic="battery/set")
    assert config.plan_file == Path("/var/lib/mine/plan.json")
    assert (to / "node.key").read_bytes() == (given / "node.key").read_bytes()


def test_init_asks_for_missing_options_on_a_terminal(
    tmp_path: Path, home_file: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "etc"
    replies = iter(["", "mqtts://grid:8883", "demo", "", "h1", str(home_file)])
    replies_tls = iter([str(certificates / name) for name in ("ca.crt", "node.crt", "node.key")])
    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        return next(replies_tls if "(ca.crt)" in question or "(node." in question else replies)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", reply)
    assert init(["--aggregator", "a1", "--game", "user_oriented", "--slots", "24", "--to", str(to)]) == 0
    assert configuration(to).name == "h1"  # the empty reply was not taken: it asked again
    assert not any("aggregator" in question for question in asked)


def test_init_asks_again_at_once_when_an_answer_is_wrong(
    tmp_path: Path, home_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {
        "Folder": [""],
        "Broker": ["grid", "mqtt://grid:1883"],
        "Name of the run": ["our run", "demo"],
        "Name of this home": ["h/1", "h1"],
        "Name of its aggregator": ["", "a1"],
        "Game": ["chess", "user_oriented"],
        "Number of slots": ["many", "0", "24"],
        "File": [str(tmp_path / "nothing.json"), str(tmp_path), str(home_file)],
    }
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        "builtins.input",
        lambda question: next(given for key, given in answers.items() if question.startswith(key)).pop(0),
    )
    assert init(["--to", str(tmp_path / "etc")]) == 0
    assert not any(answers.values())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 9
    assert all(line.endswith("; please answer again") for line in said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": "many"}, r"slots: give a whole number \(found 'many'\)"),
        ({"name": "h/1"}, "name: "),
        ({"game": "chess"}, "chess.*not a game that is installed"),
        ({"broker": "grid:8883"}, "mqtt://host:port"),
        ({"broker": "mqtt://grid:1883"}, "not encrypted"),
        ({"key": "{certificates}/ca.crt"}, "the unencrypted private key that belongs to it"),
        ({"key": "{certificates}/nobody.key"}, "nobody.key: cannot be read"),
        ({"home": "{certificates}/node.crt"}, "node.crt: is not JSON"),
    ],
)
def test_init_writes_nothing_when_an_option_is_wrong(
    tmp_path: Path,
    home_file: Path,
    certificates: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    to = tmp_path / "etc"
    words = from_flags(home_file, certificates, to)
    for key, value in change.items():
        words[words.index(f"--{key}") + 1] = value.format(certificates=certificates)
    assert init(words) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not to.exists()
    assert init(from_flags(home_file, certificates, to)) == 0
    before = contents(to)
    assert init([*words, "--force"]) == 2
    assert contents(to) == before


def test_init_refuses_a_home_without_a_feasible_schedule(
    tmp_path: Path, home_file: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home_file.write_text(json.dumps(HOME | {"inelastic": [{"load_kw": [9] * 24}], "draw_limit": {"max_kw": 5}}))
    assert init(from_flags(home_file, certificates, tmp_path / "etc")) == 2
    assert "widen draw_limit" in capsys.readouterr().err


def test_init_replaces_a_configuration_only_with_force(
    tmp_path: Path, home_file: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "etc"
    assert init(from_flags(home_file, certificates, to)) == 0
    before = contents(to)
    other = [word if word != "h1" else "h2" for word in from_flags(home_file, certificates, to)]
    assert init(other) == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert contents(to) == before
    assert init([*other, "--force"]) == 0
    assert configuration(to).name == "h2"


def test_init_names_missing_options_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["init", "--run", "demo", "--to", str(tmp_path / "etc")]) == 2
    assert "--broker, --name, --aggregator, --game, --slots, --home missing" in capsys.readouterr().err


def test_init_accepts_the_home_of_the_raspberry_pi_guide(
    tmp_path: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "raspberry-pi.md").read_text()
    home, devices, other_devices, login = re.findall(r"```json\n(.*?),?\n```", guide, re.DOTALL)
    bound = json.loads(f"{{{devices}}}")
    bound["devices"] |= json.loads(f"{{{login}}}")
    DeviceSettings.model_validate(json.loads(f"{{{other_devices}}}"))
    described = tmp_path / "home.json"
    described.write_text(json.dumps(json.loads(home) | bound))
    assert init(from_flags(described, certificates, tmp_path / "etc")) == 0, capsys.readouterr().err
    config = configuration(tmp_path / "etc")
    assert config.devices is not None
    assert config.devices.home_assistant is not None and config.devices.login is not None


def test_node_names_the_program_of_a_configuration_of_another_role(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = build_node_configs(scenarios.load("user_oriented", ["population.homes=2", "aggregators=1"]), "demo")
    programs = {
        "leader-node": (leader_node.__main__.main, configs.leader),
        "aggregator-node": (aggregator_node.__main__.main, configs.aggregators[0]),
        "emc-node": (__main__.main, configs.homes[0]),
    }
    for program, (_, config) in programs.items():
        file = tmp_path / f"{program}.json"
        file.write_text(config.model_dump_json())
        for other, (main, _) in programs.items():
            if other != program:
                assert main(["--config", str(file)]) == 2
                said = f"{other}: {file}: is the configuration of another role; start it with {program}\n"
                assert capsys.readouterr().err == said


# --- status ---


def status_file(folder: Path, *, age_s: float = 3, **changes: Any) -> Path:
    now = datetime.now(UTC)
    content = {
        "node": "h1",
        "run": "demo",
        "state": "round",
        "round": 4,
        "broker": "mqtts://grid:8883",
        "connected": True,
        "reconnects": 0,
        "rejected": {},
        "since": (now - timedelta(seconds=90 + age_s)).isoformat(),
        "updated": (now - timedelta(seconds=age_s)).isoformat(),
    }
    file = folder / "status.json"
    file.write_text(json.dumps(content | changes))
    return file


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


def held(since: float, until: float) -> dict[str, str]:
    return {"certificate_since": in_days(since), "certificate_until": in_days(until)}


def at_home(mode: str, **changes: Any) -> dict[str, Any]:
    return {"mode": mode, "takes_part": True, "problems": []} | changes


@pytest.fixture
def _synchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "is_synchronised", lambda: True)


@pytest.mark.usefixtures("_synchronised")
@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({}, 0, ["takes part in run demo, round 4 (for 93 seconds)", "Connected to mqtts://grid:8883."]),
        ({"state": "settled", "reconnects": 2}, 0, ["was settled 93 seconds ago", "made again 2 times"]),
        ({"state": "connecting", "connected": False}, 15, ["looks for the broker", "it keeps trying", "no plan holds"]),
        ({"connected": False, "failure": "Connection refused"}, 15, ["No connection to mqtts://grid:8883 (Connection"]),
        ({"state": "settled", "connected": False, "reconnects": 1}, 0, ["No connection", "its plan is in force"]),
        ({"state": "over", "connected": False}, 0, ["run demo ended 93 seconds ago; the plan it settled"]),
        ({"rejected": {"schema": 2, "json": 1}}, 0, ["ignored: 1 json, 2 schema"]),
        ({"remarks": ["the reading is of unknown age"]}, 0, ["Note: the reading is of unknown age."]),
        ({"refusal": "too much"}, 10, ["takes part in run demo", "Its last answer was refused: too much."]),
        ({"refusal": "too much", "ignored": True}, 10, ["does not take part in run demo", "count nowhere: too much"]),
        (
            {"state": "settled", "connected": False, "refused": True, "failure": "it ends the connection"},
            11,
            ["certificate"],
        ),
        (held(-300, -1), 11, ["The broker does not accept it: its certificate held until "]),
        (held(-300, 9.5), 1, ["Its certificate holds for 9 days more"]),
        (held(-2, 9.5), 0, ["Connected"]),  # one that lives for days is renewed in time
        (held(-300, 9.5) | {"refusal": "too much"}, 10, ["too much", "holds for 9 days"]),
        (held(-300, 20), 0, ["Connected"]),
        ({"state": "settled", "connected": False, "plan_until": in_days(1)}, 0, ["its plan reaches until"]),
        ({"state": "settled", "connected": False, "plan_until": in_days(-1)}, 15, ["and no plan holds"]),
        ({"state": "over", "connected": False, "plan_until": in_days(-1)}, 15, ["takes part in nothing, and no plan"]),
        ({"next_gate": in_days(-0.005)}, 0, ["Connected"]),
        ({"next_gate": in_days(-0.5)}, 13, ["to open 12 hours ago, and nothing was asked", "ask the operator"]),
        ({"next_gate": in_days(-0.5), "connected": False}, 15, ["No connection"]),
        ({"masks": {"homes": 23, "objection": None}}, 0, ["are masked: the grid reads the sum of 23 homes."]),
        ({"masks": {"homes": None, "objection": "4 processes"}}, 14, ["It refuses the homes", "4 processes; if that"]),
        ({"home": at_home("plan")}, 0, ["takes part"]),
        ({"home": at_home("plan", problems=["nothing is heard of the limit"])}, 1, ["At home: nothing is heard"]),
        ({"home": at_home("fail_safe"), "connected": False}, 15, ["no plan holds"]),
        ({"state": "settled", "home": at_home("plan")}, 0, ["and its plan is in force"]),
        ({"state": "settled", "home": at_home("fail_safe")}, 0, ["was settled 93 seconds ago; no plan is in force."]),
        ({"home": at_home("fail_safe", takes_part=False)}, 15, ["takes part in nothing, as its household wants it"]),
        ({"home": at_home("plan", takes_part=False)}, 0, ["takes part"]),
        ({"state": "lost", "connected": False}, 4, ["was lost 93 seconds ago", "journalctl --unit emc-node"]),
        ({"age_s": 40}, 4, ["40 seconds old", "hangs or has ended"]),
        ({"age_s": -40}, 4, ["of a time to come", "hangs or has ended"]),
        ({"age_s": 7300}, 4, ["2 hours old"]),
    ],
)
def test_status_describes_the_state_and_gives_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], code: int, words: list[str]
) -> None:
    assert __main__.main(["status", "--file", str(status_file(tmp_path, **changes))]) == code
    output = capsys.readouterr().out
    assert [word for word in words if word not in output] == []


def test_status_says_that_the_clock_is_not_synchronised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "is_synchronised", lambda: False)
    assert __main__.main(["status", "--file", str(status_file(tmp_path))]) == 12
    assert "clock is not synchronised; let a time service set it" in capsys.readouterr().out
    for mode, code in (("clock", 12), ("plan", 0)):  # the EMC may know better: its owner may trust the clock
        assert __main__.main(["status", "--file", str(status_file(tmp_path, home=at_home(mode)))]) == code


def test_status_names_no_lost_connection_when_the_emc_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in ("over", "lost"):
        __main__.main(["status", "--file", str(status_file(tmp_path, state=state, connected=False))])
        assert "No connection" not in capsys.readouterr().out


def test_status_gives_exit_code_2_without_a_status_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["status", "--file", str(tmp_path / "status.json")]) == 2
    assert "is the service running" in capsys.readouterr().err
    (tmp_path / "status.json").write_text("{}")
    assert __main__.main(["status", "--file", str(tmp_path / "status.json")]) == 2
    assert "is no status file" in capsys.readouterr().err
    status_file(tmp_path, plan_until="9999-12-31T23:59:00-14:00")
    assert __main__.main(["status", "--file", str(tmp_path / "status.json")]) == 2
    assert "is no status file" in capsys.readouterr().err


# --- half an hour without the network ---

HALF_AN_HOUR = 1800


@pytest.mark.parametrize("how", ["cut", "crash"])
def test_emc_applies_the_settlement_that_it_missed_in_half_an_hour_away(how: str) -> None:
    scenario = scenarios.load("user_oriented", ["population.homes=4", "aggregators=1"])
    seconds = {"cut": "seconds", "crash": "restart_after_s"}[how]
    fault = {"kind": how, "node": "h1", "at": {"round": 2}, seconds: HALF_AN_HOUR}
    run_record = in_memory.play(scenario, plan=FaultPlan.model_validate({"faults": [fault]}))
    assert run_record.settled
    assert run_record.conclusion["unacknowledged"] == ["h1"]  # the run did not wait for it
    assert run_record.failures == {}
    settled = Price(price=scenario.outcome(run_record).price)
    home = next(home for home in scenario.everyone if home.id == "h1")
    expected = UserOrientedHomes([home]).settle(settled)["h1"]
    np.testing.assert_allclose(run_record.homes["h1"]["load_kw"], expected["load_kw"], rtol=1e-9)


class _FastSelector(selectors.DefaultSelector):
    def __init__(self, pace: float) -> None:
        super().__init__()
        self._pace = pace

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._pace)


class FastEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs `pace` times as fast; sockets, threads and the broker are as slow as ever."""

    def __init__(self, pace: float) -> None:
        self._pace, self._zero = pace, 0.0
        super().__init__(_FastSelector(pace))
        self._zero = super().time()

    def time(self) -> float:
        return self._zero + (super().time() - self._zero) * self._pace


class Aggregator:
    """An aggregator that asks one question and settles on request."""

    def __init__(self, url: str, link: Link, sender: str, price: Price) -> None:
        self._link, self._sender, self._price = link, sender, price
        self.answered, self.acknowledged = threading.Event(), threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda *_: self._client.subscribe(f"{link.root}/+/+")
        self._client.on_subscribe = lambda *_: self._publish(
            Signal[Price](run=link.run, sender=sender, round=1, body=price), 0
        )
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self._client.loop_start()

    def settle(self) -> None:
        content = {"run": self._link.run, "sender": self._sender, "settled": True, "complete": False}
        self._publish(Settlement[Price].model_validate({**content, "round": 2, "body": self._price}), 1)

    def leave(self) -> None:
        for kind in ("signal", "settlement"):
            self._client.publish(f"{self._link.root}/{kind}", b"", qos=1, retain=True).wait_for_publish(5)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, message: Any, qos: int) -> None:
        self._client.publish(self._link.topic(message), self._link.write(message), qos, retain=True)

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/answer"):
            self.answered.set()
        elif message.topic.endswith("/receipt"):
            self.acknowledged.set()


def test_emc_reconnects_to_a_real_broker_after_half_an_hour_on_a_fast_clock(
    mosquitto_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    pace, run = 200.0, "outage"
    config = config_model(find("user_oriented")).model_validate(
        {"run": run, "name": "h1", "game": "user_oriented", "slots": 24, "aggregator": "a1", "homes": [HOME]}
    )
    carried_out: dict[str, Any] = {}
    node = assemble(config, carried_out.update)
    link, price = Link(run, "a1", GAME.bodies("lower"), 24), Price(price=[9.0 + hour / 4 for hour in range(24)])
    loop = FastEventLoop(pace)

    def lose_the_network(proxy: Proxy, aggregator: Aggregator) -> None:
        assert aggregator.answered.wait(120)
        cut = {"kind": "cut", "node": "h1", "at": {"round": 1}, "seconds": HALF_AN_HOUR / pace}
        proxy.disturb("h1", Cut.model_validate(cut))
        aggregator.settle()

    with Proxy(Address.parse(mosquitto_url), ["h1"]) as proxy:
        url = proxy.url("h1")
        assert url is not None
        transport = MqttTransport(url, connect_timeout_s=inf, reconnect_s=inf)
        aggregator = Aggregator(mosquitto_url, link, "a1", price)
        trouble = threading.Thread(target=lose_the_network, args=(proxy, aggregator))
        trouble.start()
        with caplog.at_level(logging.INFO):
            loop.run_until_complete(transport.serve([node]))
        trouble.join()
        assert aggregator.acknowledged.wait(60)
        aggregator.leave()
    loop.close()
    expected = UserOrientedHomes(config.homes).settle(price)
    np.testing.assert_allclose(carried_out["flat"]["load_kw"], expected["flat"]["load_kw"], rtol=1e-9)
    records = [record for record in caplog.records if record.name == "stackelgrid.transport"]
    back: Callable[[str], Any] = records[-1].__dict__["data"].get
    assert records[-1].getMessage() == "connected"
    # A second of a busy machine is 200 of this clock, so an attempt may take as long as the pause before it.
    assert HALF_AN_HOUR - 100 < back("seconds") < HALF_AN_HOUR + 1200
    assert 10 <= back("attempts") <= 110
