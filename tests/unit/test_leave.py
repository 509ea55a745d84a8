"""A home that asks to leave."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from emc_node import leave
from emc_node.leave import HEAR_S, Leaver
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.base import BrokerUnreachableError, Finish, Publish

ANSWER = "stackelgrid/street/registrar/h13/answer"


def test_leaver_asks_once_a_connection_and_hears_for_a_while() -> None:
    leaver = Leaver("street", "h13")
    (sent,) = leaver.start(10.0)
    assert isinstance(sent, Publish)
    assert (sent.topic, sent.qos, sent.retain) == ("stackelgrid/street/registrar/h13/request", 1, False)
    assert json.loads(sent.payload) == {"schema": 1, "name": "h13", "leave": True}
    assert leaver.next_deadline() == 10.0 + HEAR_S
    assert leaver.tick(10.0 + HEAR_S) == [Finish()]


def test_leaver_takes_a_denial_of_its_own_request_alone() -> None:
    leaver = Leaver("street", "h13")
    for payload in (b"", b"{", b'{"schema":1,"id":"' + b"0" * 32 + b'","state":"denied","reason":"of a renewal"}'):
        assert leaver.receive(ANSWER, payload, 0.0) == []
    assert leaver.receive(ANSWER, b'{"schema":1,"state":"denied","reason":"the disk is full"}', 0.0) == [Finish()]
    assert leaver.denied == "the disk is full"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """The configuration of a home whose machine has the service."""
    (config, *_) = build_node_configs(
        load("user_oriented", ["population.homes=2", "aggregators=1"]), "street", "mqtts://grid:1"
    ).homes
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    return file


@pytest.mark.parametrize(("code", "then"), [(0, "disable"), (2, "start"), (4, "start")])
def test_service_is_stopped_first_and_started_again_unless_the_home_has_left(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, code: int, then: str
) -> None:
    (config_file.parent / "emc-node.service").touch()
    commands: list[list[str]] = []
    monkeypatch.setattr(leave, "UNITS", config_file.parent)
    monkeypatch.setattr(leave, "_connect", lambda *_: None)
    monkeypatch.setattr(leave, "_require_certificate", lambda *_: None)
    monkeypatch.setattr(leave, "_leave", lambda _: code)
    monkeypatch.setattr(subprocess, "run", lambda words, **_: commands.append(words))
    assert leave.main(["--config", str(config_file)]) == code
    assert commands == [["systemctl", command, "emc-node"] for command in ("stop", then)]


@pytest.mark.parametrize(("refused", "code"), [(True, 0), (False, 2)])
def test_home_that_was_denied_has_left_if_the_broker_refuses_it(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, refused: bool, code: int
) -> None:
    connections: list[None] = []

    class Transport:
        traffic: ClassVar = defaultdict(lambda: SimpleNamespace(refused=refused))

        def run(self, leavers: list[Leaver]) -> None:
            connections.append(None)
            if refused and len(connections) == 2:
                raise BrokerUnreachableError("mqtts://grid:1", 1.0, "it ends the connection")
            leavers[0].receive(ANSWER, b'{"schema":1,"state":"denied","reason":"it is revoked"}', 0.0)

    monkeypatch.setattr(leave, "HEAR_S", 0.0)
    monkeypatch.setattr(leave, "UNITS", config_file.parent)
    monkeypatch.setattr(leave, "_connect", lambda *_: Transport())
    monkeypatch.setattr(leave, "_require_certificate", lambda *_: None)
    assert leave.main(["--config", str(config_file)]) == code
    assert len(connections) == 2


def test_home_without_a_certificate_has_nothing_to_leave(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave.main(["--config", str(config_file)]) == 2
    assert f"{config_file}: tls: missing; a home without a certificate is in no register" in capsys.readouterr().err
    assert leave.main(["--config", str(config_file.with_name("none.json"))]) == 2
