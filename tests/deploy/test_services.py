"""systemd units of home, aggregator, leader and broker: what they say, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aggregator_node.__main__
import aggregator_node.service
import broker.__main__
import broker.service
import emc_node.__main__
import emc_node.service
import leader_node.__main__
import leader_node.service
from emc_node import status
from stackelgrid import scenarios, service
from stackelgrid.deploy import registrar_service
from stackelgrid.deploy.provision import provision
from stackelgrid.errors import ConfigError
from stackelgrid.node.service import NodeProgram
from stackelgrid.service import Service, ServiceError

OPT = Path("/opt/stackelgrid/bin")
NODES: dict[str, tuple[NodeProgram, Callable[..., int], str]] = {
    "home": (emc_node.service.PROGRAM, emc_node.__main__.main, "homes/h1"),
    "aggregator": (aggregator_node.service.PROGRAM, aggregator_node.__main__.main, "aggregators/a1"),
    "leader": (leader_node.service.PROGRAM, leader_node.__main__.main, "leaders/leader"),
}
UNITS = {
    "home": "emc-node",
    "aggregator": "aggregator-node-a1",
    "leader": "leader-node",
    "broker": "stackelgrid-broker",
    "registrar": "stackelgrid-registrar",
}


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's folder of a small run, with what each node is given."""
    folder = tmp_path_factory.mktemp("machines") / "certs"
    scenario = scenarios.load("user_oriented", ["population.homes=2", "aggregators=1"])
    provision(scenario, folder, "mqtts://grid.example:8883", "demo")
    return folder


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have temporary folders visible to services, and belong to a user without rights."""
    monkeypatch.setattr(service, "_HIDDEN", ())
    owner = type("Owner", (), {"pw_name": "daemon"})
    monkeypatch.setattr("pwd.getpwuid", lambda _: owner)
    monkeypatch.setattr(service, "find_program", lambda _: Path("/bin/true"))


def describe(certs: Path, role: str, user: str | None = None) -> Service:
    if role == "broker":
        return broker.service.describe(certs / "broker", ["--host=0.0.0.0", "--port=8883"])
    if role == "registrar":
        return registrar_service.describe(certs, Path("/etc/stackelgrid/passphrase"))
    program, _, place = NODES[role]
    return program.describe(certs / place / "config.json", Path("/bin/true"), user)


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def analyse(described: Service, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.split()[1]) < 252:
        pytest.skip("this systemd is older than that of Raspberry Pi OS Bookworm, 252")
    file = folder / f"{described.name}.service"
    file.write_text(described.unit(252))
    return subprocess.run(["systemd-analyze", *words, str(file)], capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("somebody")
@pytest.mark.parametrize("role", UNITS)
def test_unit_is_valid_for_systemd(tmp_path: Path, certs: Path, role: str) -> None:
    described = describe(certs, role)
    assert described.name == UNITS[role]
    verified = analyse(described, tmp_path, "verify", "--man=no")
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.usefixtures("somebody")
@pytest.mark.parametrize("role", UNITS)
def test_unit_has_a_low_exposure_level(tmp_path: Path, certs: Path, role: str) -> None:
    report = analyse(describe(certs, role), tmp_path, "security", "--offline=true", "--no-pager", "--threshold=20")
    exposure = re.search(r"Overall exposure level for [\w.-]+: ([\d.]+)", report.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0
    assert report.returncode == 0


@pytest.mark.parametrize("role", NODES)
def test_unit_of_a_node_serves_metrics_where_they_are_wanted(certs: Path, role: str) -> None:
    program, _, place = NODES[role]
    assert "--metrics" not in describe(certs, role).unit(252)
    watched = program.describe(certs / place / "config.json", OPT / program.command, metrics=9100)
    assert "--metrics=9100" in settings(watched.unit(252))["ExecStart"][0].split()


@pytest.mark.parametrize("role", NODES)
def test_unit_of_a_node_runs_as_the_given_user(tmp_path: Path, certs: Path, role: str) -> None:
    described = describe(certs, role, "daemon")
    assert settings(described.unit(252))["User"] == ["daemon"]
    assert analyse(described, tmp_path, "verify", "--man=no").stderr == ""
    with pytest.raises(ServiceError, match="there is no such user"):
        describe(certs, role, "nobody-at-all")


@pytest.mark.parametrize("role", NODES)
def test_unit_loads_roots_files_by_the_names_in_the_configuration(certs: Path, role: str) -> None:
    folder = certs / NODES[role][2]
    found = settings(describe(certs, role).unit(252))
    loaded = dict(entry.split(":", 1) for entry in found["LoadCredential"])
    assert loaded == {name: str(folder / name) for name in ("config.json", "ca.crt", "node.crt", "node.key")}
    written = json.loads((folder / "config.json").read_text())
    assert set(written["tls"].values()) < loaded.keys()  # in the folder %d they are found by these names
    assert found["DynamicUser"] == ["yes"]
    assert found["ExecStart"][0].split()[1] == "--config=%d/config.json"


def test_unit_of_a_home_keeps_its_status_where_status_looks(certs: Path) -> None:
    words = settings(describe(certs, "home").unit(252))["ExecStart"][0].split()
    assert f"--status={status.FILE}" in [word.replace("%t", "/run") for word in words]


@pytest.mark.parametrize("role", NODES)
def test_unit_has_folders_for_all_that_it_writes(certs: Path, role: str) -> None:
    found = settings(describe(certs, role).unit(252))
    words = found["ExecStart"][0].split()
    (state,), (runtime,) = found["StateDirectory"], found["RuntimeDirectory"]
    assert f"--state=%S/{state}" in words
    assert f"--status=%t/{runtime}/status.json" in words


@pytest.mark.usefixtures("somebody")
def test_unit_of_a_broker_runs_as_the_owner_of_its_folder_and_writes_there_only(certs: Path) -> None:
    found = settings(describe(certs, "broker").unit(252))
    assert (found["User"], found["ReadWritePaths"]) == (["daemon"], [str(certs / "broker")])
    assert "LoadCredential" not in found


@pytest.mark.usefixtures("somebody")
def test_unit_of_a_registrar_reads_the_passphrase_of_root(certs: Path) -> None:
    found = settings(describe(certs, "registrar").unit(252))
    assert (found["User"], found["ReadWritePaths"]) == (["daemon"], [str(certs)])
    assert found["LoadCredential"] == ["passphrase:/etc/stackelgrid/passphrase"]
    assert "STACKELGRID_CA_PASSPHRASE_FILE=%d/passphrase" in found["Environment"]


def test_unit_lengthens_pauses_between_restarts_where_systemd_can(certs: Path) -> None:
    described = describe(certs, "home")
    assert settings(described.unit(252))["RestartSec"] == ["30"]
    newer = settings(described.unit(254))
    assert newer["RestartSteps"] == ["6"]
    assert newer["RestartMaxDelaySec"] == ["300"]


def test_unit_is_refused_when_a_service_cannot_use_it(tmp_path: Path, certs: Path) -> None:
    place = certs / "leaders" / "leader"
    with pytest.raises(ServiceError, match="which the service cannot read"):
        leader_node.service.PROGRAM.describe(place / "config.json", Path("/home/pi/bin/leader-node")).unit(252)
    with pytest.raises(ConfigError, match="cannot be read"):
        leader_node.service.PROGRAM.describe(tmp_path / "nothing.json", OPT / "leader-node")
    with pytest.raises(ConfigError, match="start it with leader-node"):
        emc_node.service.PROGRAM.describe(place / "config.json", OPT / "emc-node")
    written = json.loads((place / "config.json").read_text())
    for change, refused in (
        ({"ledger_file": "/srv/leader.ledger"}, "ledger_file: the service writes in /var/lib/leader-node only"),
        ({"tls": written["tls"] | {"key": "keys/node.key"}}, "put it beside the configuration"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(written | change))
        with pytest.raises(ServiceError, match=refused):
            leader_node.service.PROGRAM.describe(tmp_path / "config.json", OPT / "leader-node")


def test_unit_of_a_broker_is_refused_for_a_folder_of_root_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_HIDDEN", ())
    with pytest.raises(ServiceError, match="name an existing folder"):
        broker.service.describe(tmp_path / "nothing", [])
    monkeypatch.setattr("pwd.getpwuid", lambda _: type("Owner", (), {"pw_name": "root"}))
    with pytest.raises(ServiceError, match=f"belongs to root.*chown -R stackelgrid: {tmp_path}"):
        broker.service.describe(tmp_path, [])


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A systemctl that writes down how it was called: itself and the file."""
    called = tmp_path / "called"
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {called}\n[ "$1" != --version ] || echo "systemd 252 (252.38)"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "UNITS", tmp_path)
    monkeypatch.setattr(service, "find_program", lambda name: OPT / name)
    yield program, called


@pytest.mark.parametrize("role", NODES)
def test_install_service_writes_and_starts_the_unit_unless_it_is_to_print_it(
    tmp_path: Path, certs: Path, systemctl: tuple[Path, Path], role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, main, place = NODES[role]
    config_file = certs / place / "config.json"
    words = ["install-service", "--config", str(config_file)]
    expected = program.describe(config_file, OPT / program.command)
    file = tmp_path / f"{UNITS[role]}.service"
    assert main([*words, "--print"]) == 0
    assert capsys.readouterr().out == expected.unit(252)
    assert not file.exists()
    assert main(words) == 0
    assert file.read_text() == expected.unit(252)
    executable, called = systemctl
    asked = [line for line in called.read_text().splitlines() if line != "--version"]
    assert asked == ["daemon-reload", f"enable {file.name}", f"restart {file.name}"]
    executable.write_text(executable.read_text() + '[ "$1" != restart ]\n')
    assert main(words) == 4
    assert f"see systemctl status {UNITS[role]}" in capsys.readouterr().err


@pytest.mark.usefixtures("systemctl")
def test_install_service_refuses_metrics_without_the_package(
    certs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stackelgrid.node.service.find_spec", lambda _: None)
    _, main, place = NODES["leader"]
    words = ["install-service", "--config", str(certs / place / "config.json"), "--print"]
    assert main([*words, "--metrics", "9100"]) == 2
    assert "--metrics: prometheus_client is not installed" in capsys.readouterr().err
    assert main(words) == 0


def test_python_that_a_service_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, python = tmp_path / "home" / "python3", tmp_path / "opt" / "python"
    for folder in (hidden.parent, python.parent):
        folder.mkdir()
    hidden.touch()
    python.symlink_to(hidden)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr(service, "_HIDDEN", (hidden.parent,))
    with pytest.raises(ServiceError, match=f"{python} is {hidden}, below {hidden.parent}.*/usr/bin/python3 -m venv"):
        service.find_python()
    monkeypatch.setattr(service, "_HIDDEN", ())
    assert service.find_python() == python


@pytest.mark.usefixtures("systemctl", "somebody")
def test_install_service_of_a_broker_finds_its_folder_and_refuses_one_without_certificates(
    certs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = broker.__main__.main
    assert main(["install-service", "--certs", str(certs), "--host", "0.0.0.0", "--print"]) == 0
    (command,) = settings(capsys.readouterr().out)["ExecStart"]
    assert command.split()[1:] == ["-m", "broker", f"--certs={certs}/broker", "--host=0.0.0.0", "--port=8883"]
    assert main(["install-service", "--print"]) == 2
    assert "give --certs" in capsys.readouterr().err


VERSIONED: dict[str, Callable[..., Any]] = {
    **{program.command: main for program, main, _ in NODES.values()},
    "python -m broker": broker.__main__.main,
}


@pytest.mark.parametrize("program", VERSIONED)
def test_version_is_that_of_the_installed_package(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    with pytest.raises(SystemExit) as ended:
        VERSIONED[program](["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{program} {version('stackelgrid')}\n"
