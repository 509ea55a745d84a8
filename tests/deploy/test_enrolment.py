"""`emc-node init --enrol`: a home's key is made at home, the rest comes from the operator."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.signing import SigningAuthority

from emc_node import init as init_module
from emc_node.config import config_model
from emc_node.enrolment import DeniedError, EnrolmentWish, _prepare
from emc_node.init import main as init
from stackelgrid import scenarios
from stackelgrid.deploy.provision import provision
from stackelgrid.node.config import load

HOME: dict[str, Any] = {"id": "flat", "elastic": [{"max_kw": 3, "valuation": 10}], "connection": {"draw_kw": 11}}
TERMS: dict[str, Any] = {
    "run": "street",
    "game": "user_oriented",
    "slots": 24,
    "scenario": "0123456789abcdef",
    "broker": "mqtts://grid:8883",
    "aggregator": "a1",
    "max_kw": 11,
}

PENDING = {"enrolment.key", "enrolment.json"}

Operator = Callable[[EnrolmentWish, str], tuple[str, dict[str, Any]]]
"""Decides on a wish and a signing request."""


class Flat:
    """A home whose operator decides at once, without a broker between them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.authority = SigningAuthority(folder)
        self.described, self.folder = folder / "home.json", folder / "etc"
        self.decide: Operator = lambda wish, csr: (self.authority.sign(csr), TERMS)
        self.wishes: list[EnrolmentWish] = []
        self.described.write_text(json.dumps(HOME))
        monkeypatch.setattr(init_module, "enrol", self._enrol)
        monkeypatch.setattr(init_module, "set_up", lambda *_: None)

    def _enrol(
        self, broker: str, ca: Path, folder: Path, wish: EnrolmentWish, say: object
    ) -> tuple[str, dict[str, Any]]:
        _, request = _prepare(folder, wish)
        self.wishes.append(wish)
        return self.decide(wish, request.csr)

    def init(self, *more: str) -> int:
        words = ["--enrol", "mqtts://grid:8884", "--ca", str(self.authority.ca), "--name", "h13"]
        return init([*words, "--home", str(self.described), "--to", str(self.folder), *more])

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flat:
    return Flat(tmp_path, monkeypatch)


def test_enrolment_writes_a_folder_that_only_its_owner_reads(flat: Flat) -> None:
    assert flat.init("--aggregator", "a1") == 0
    assert flat.wishes == [EnrolmentWish("h13", "a1", 11.0)]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in flat.folder.iterdir()} == dict.fromkeys(
        ("config.json", "ca.crt", "node.crt", "node.key"), 0o600
    )
    config = load(flat.folder / "config.json", config_model)
    assert (config.name, config.run, config.aggregator, config.max_kw) == ("h13", "street", "a1", 11)
    assert config.homes[0].id == "flat"
    assert config.tls is not None
    config.tls.context()


def test_interrupted_enrolment_goes_on_with_the_same_key(flat: Flat, capsys: pytest.CaptureFixture[str]) -> None:
    def leave(wish: EnrolmentWish, csr: str) -> tuple[str, dict[str, Any]]:
        raise KeyboardInterrupt

    decide, flat.decide = flat.decide, leave
    assert flat.init() == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert flat.files() == PENDING
    key = (flat.folder / "enrolment.key").read_bytes()
    flat.decide = decide
    flat.described.write_text(json.dumps(HOME | {"connection": {"draw_kw": 9}}))
    assert flat.init() == 0
    assert (flat.folder / "node.key").read_bytes() == key


def test_another_name_is_asked_for_with_another_key(flat: Flat) -> None:
    folder = flat.described.parent
    identity, request = _prepare(folder, EnrolmentWish("h13", None, 11.0))
    assert _prepare(folder, EnrolmentWish("h13", None, 9.0)) == (identity, request)
    other, asked = _prepare(folder, EnrolmentWish("h14", None, 9.0))
    assert other != identity
    assert (asked.name, asked.max_kw) == ("h14", 9.0)
    (folder / "enrolment.json").write_text("{")
    assert _prepare(folder, EnrolmentWish("h14", None, 9.0))[0] != other


def test_denied_enrolment_names_the_reason(flat: Flat, capsys: pytest.CaptureFixture[str]) -> None:
    def deny(wish: EnrolmentWish, csr: str) -> tuple[str, dict[str, Any]]:
        raise DeniedError("the operator denies it: no house of that name")

    flat.decide = deny
    assert flat.init() == 2
    assert "the operator denies it: no house of that name; mend" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ({"connection": {"draw_kw": 15}}, "homes.0.connection.draw_kw: 15 kW, the connection carries 11; lower it"),
        ({"connection": {"draw_kw": [4] * 23 + [12]}}, "homes.0.connection.draw_kw: 12 kW"),
        ({"connection": {"draw_kw": 9, "feed_in_kw": 14}}, "homes.0.connection.feed_in_kw: 14 kW is fed in"),
        ({"connection": None, "draw_limit": {"max_kw": 17}}, "homes.0.draw_limit.max_kw: 17 kW"),
        (
            {"connection": None, "elastic": [{"max_kw": 8, "valuation": 9}] * 2},
            "homes.0.draw_limit.max_kw: missing, and what the home has draws up to 16 kW together, the connection "
            "carries 11; set it to that",
        ),
        ({"connection": None, "elastic": [{"max_kw": 5, "valuation": 9}] * 2}, None),
    ],
)
def test_home_is_held_against_its_connection(
    flat: Flat, capsys: pytest.CaptureFixture[str], home: dict[str, Any], message: str | None
) -> None:
    flat.described.write_text(json.dumps(HOME | home))
    assert flat.init() == (0 if message is None else 2)
    assert message is None or message in capsys.readouterr().err
    assert flat.files() == ({"config.json", "ca.crt", "node.crt", "node.key"} if message is None else PENDING)


def test_home_is_described_anew_without_another_certificate(flat: Flat) -> None:
    assert flat.init() == 0
    before = {path.name: path.read_bytes() for path in flat.folder.iterdir()}
    flat.described.write_text(json.dumps(HOME | {"id": "house"}))
    words = ["--from", str(flat.folder), "--home", str(flat.described), "--to", str(flat.folder)]
    assert init(words) == 2
    assert init([*words, "--force"]) == 0
    after = {path.name: path.read_bytes() for path in flat.folder.iterdir()}
    assert {name for name in before if after[name] != before[name]} == {"config.json"}
    old, new = (json.loads(content["config.json"]) for content in (before, after))
    assert new["homes"][0]["id"] == "house"
    assert {key: value for key, value in new.items() if key != "homes"} == {
        key: value for key, value in old.items() if key != "homes"
    }


def test_day_of_a_home_is_repeated_over_the_calendar(flat: Flat) -> None:
    calendar = {"start": "2026-03-28T00:00", "timezone": "Europe/Brussels", "days": 3, "slot_minutes": 30}
    flat.decide = lambda wish, csr: (flat.authority.sign(csr), TERMS | {"calendar": calendar, "slots": 142})
    day = [hour / 10 for hour in range(24)]
    appliances = {"elastic": [{"max_kw": [0.1, 0.2] + [0.3] * 22, "valuation": 10}], "inelastic": [{"load_kw": day}]}
    flat.described.write_text(json.dumps(HOME | appliances))
    assert flat.init() == 0
    (home,) = load(flat.folder / "config.json", config_model).homes
    assert (home.horizon, home.slot_hours) == (142, 0.5)
    load_kw = home.inelastic[0].load_kw
    assert load_kw[:5] == [0.0, 0.0, 0.1, 0.1, 0.2]
    assert load_kw[48:54] == [0.0, 0.0, 0.1, 0.1, 0.3, 0.3], "the clock is put forward at two"
    assert load_kw[-2:] == [2.3, 2.3]
    assert home.elastic[0].max_kw[:3] == [0.1, 0.1, 0.2]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"devices": {"storage_setpoint": "mine"}}, "the operator's terms have devices, which is the home's own"),
        ({"schedule_file": "/etc/passwd"}, "the operator's terms have schedule_file"),
        ({"name": "h14"}, "the operator's terms have name"),
        ({"novelty": 1}, "novelty: unknown key"),
        ({"calendar": {"start": "2026-03-28", "days": 2}, "game": None}, "game: give a text"),
        ({"calendar": "tomorrow"}, "calendar: "),
        ({"broker": "mqtt://grid:1883"}, "is not encrypted"),
        ({"slots": 0}, "slots: "),
    ],
)
def test_terms_that_are_not_the_operators_are_refused(
    flat: Flat, capsys: pytest.CaptureFixture[str], terms: dict[str, Any], message: str
) -> None:
    flat.decide = lambda wish, csr: (flat.authority.sign(csr), TERMS | terms)
    assert flat.init() == 2
    assert message in capsys.readouterr().err
    assert flat.files() == PENDING


@pytest.mark.parametrize(("days", "age_days", "mend"), [(30, 40, "renew it"), (30, -2, "set the clock")])
def test_certificate_that_does_not_hold_now_is_not_installed(
    flat: Flat, capsys: pytest.CaptureFixture[str], days: int, age_days: int, mend: str
) -> None:
    flat.decide = lambda wish, csr: (flat.authority.sign(csr, days=days, age_days=age_days), TERMS)
    assert flat.init() == 2
    assert mend in capsys.readouterr().err
    assert flat.files() == PENDING


def test_enrolment_replaces_a_configuration_only_with_force(flat: Flat, capsys: pytest.CaptureFixture[str]) -> None:
    assert flat.init() == 0
    before = (flat.folder / "node.key").read_bytes()
    assert flat.init() == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert len(flat.wishes) == 1, "nobody is asked for what cannot be written"
    assert flat.init("--force") == 0
    assert (flat.folder / "node.key").read_bytes() != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "other", "--from", "folder"], "--run, --from: --enrol gets or makes it; leave it out"),
        (["--name", "h/13"], "--name: 'h/13' is no name"),
        (["--ca", "/nowhere/ca.crt"], "/nowhere/ca.crt: cannot be read"),
        (["--home", "/nowhere/home.json"], "/nowhere/home.json: cannot be read"),
    ],
)
def test_enrolment_asks_nobody_when_an_option_is_wrong(
    flat: Flat, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert flat.init(*words) == 2
    assert message in capsys.readouterr().err
    assert not flat.wishes
    assert not flat.folder.exists()


def test_operators_folder_has_the_limit_of_the_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = scenarios.load("user_oriented", ["population.homes=2", "aggregators=1"])
    provision(scenario, tmp_path / "certs", "mqtts://grid:8883", "street")
    given = tmp_path / "certs" / "homes" / scenario.everyone[0].id
    limit = scenario.connection_kw(scenario.everyone[0])
    described = tmp_path / "home.json"
    for draws, code in ((limit, 0), (limit + 1, 2)):
        described.write_text(json.dumps(HOME | {"connection": {"draw_kw": draws}}))
        assert init(["--from", str(given), "--home", str(described), "--to", str(tmp_path / f"etc{code}")]) == code
    assert f"homes.0.connection.draw_kw: {limit + 1:g} kW, the connection carries {limit:g}" in capsys.readouterr().err
