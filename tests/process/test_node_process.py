"""A node as a service: what it tells of itself, to a status file, to systemd, to Prometheus and to its log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.publish
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import broker
import emc_node.__main__
from broker import access
from broker.authority import Authority
from stackelgrid.errors import ConfigError
from stackelgrid.node import process
from stackelgrid.node import status as status_module
from stackelgrid.node.claim import claim
from stackelgrid.node.log import set_up
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.metrics import OBSERVER, registry, serve
from stackelgrid.node.progress import Progress, Verdict
from stackelgrid.node.status import REFRESH_S, Heartbeat, Status, StatusFile
from stackelgrid.node.systemd import Systemd
from stackelgrid.scenarios import load
from stackelgrid.scenarios.yaml_file import parse
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.node_configs import NodeConfigs, build_node_configs
from stackelgrid.transport.base import Traffic
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.roles import Role

ROOT = Path(__file__).parents[2]
NOWHERE = "mqtt://127.0.0.1:9"
"""The discard port, at which nothing listens."""


def small(url: str) -> NodeConfigs:
    """Four homes in two processes, of which only the first is ever started."""
    quick = ["rounds.deadline_s=60", "rounds.gather_s=1"]
    scenario = load("user_oriented", ["population.homes=4", "homes_per_process=2", "aggregators=1", *quick])
    return build_node_configs(scenario, "run-1", url, gather=True)


def folder_of(config: Any, parent: Path) -> Path:
    folder = parent / config.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json(exclude_none=True))
    return folder


def start(package: str, folder: Path, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", package, "--config", str(folder / "config.json"), "--log", "json", *options]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stderr=log, env={**os.environ, **environment})


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


Samples = dict[tuple[str, str], float]


def samples(text: str) -> Samples:
    """Each sample's value by its name and its label beside run, node and role."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = [value for label, value in sample.labels.items() if label not in ("run", "node", "role")]
            assert {"run", "node", "role"} <= sample.labels.keys()
            found[sample.name, "".join(own)] = sample.value
    return found


def test_node_that_stays_ends_when_it_is_configured_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CONFIG_LOOK_S", 0.01)
    file, looks = tmp_path / "config.json", iter([b"as before", None, b"as before", b"another run"])

    class Stopped(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            content = next(looks)
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_bytes(content)
            return False

    process.await_end(Stopped(), file, b"as before")
    assert [*looks] == []
    stopped = threading.Event()
    stopped.set()
    process.await_end(stopped, file, b"as before")


# --- a run of three services ---


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A leader, an aggregator that misses one of its members and hears nonsense, and a home; asked when all is over."""
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    nodes = tmp_path_factory.mktemp("services")
    with broker.start("mosquitto", tmp_path_factory.mktemp("broker")) as running:
        everyone = small(running.url)
        configs = {"emc_node": everyone.homes[0], "aggregator_node": everyone.aggregators[0]}
        configs["leader_node"] = everyone.leader
        folders = {package: folder_of(config, nodes) for package, config in configs.items()}
        members = [folders["emc_node"], folders["aggregator_node"]]
        processes = {}
        try:
            for package, folder in folders.items():
                if package == "leader_node":  # the game begins when nonsense was heard
                    wait_for(lambda: all(read(there / "status.json").get("connected") for there in members))
                    topic = "stackelgrid/run-1/a1/a1-p1/answer"
                    paho.mqtt.publish.multiple([(topic, text, 1) for text in ("{", "null", "{}")], port=running.port)
                options = ("--stay", "--status", str(folder / "status.json"), "--metrics", "0")
                processes[package] = start(package, folder, *options)
            wait_for(lambda: all(read(folder / "status.json").get("state") == "over" for folder in folders.values()))
            ports = {
                package: next(line["port"] for line in log_of(folder) if line["event"] == "metrics")
                for package, folder in folders.items()
            }
            pages = {
                package: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
                for package, port in ports.items()
            }
            alive = [package for package, process in processes.items() if process.poll() is None]
            for process in processes.values():
                process.send_signal(signal.SIGTERM)
            codes = {package: process.wait(60) for package, process in processes.items()}
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
    return {
        "alive": alive,
        "codes": codes,
        "pages": pages,
        "status": {package: read(folder / "status.json") for package, folder in folders.items()},
        "log": {package: log_of(folder) for package, folder in folders.items()},
        "journal": [json.loads(line) for line in (nodes / "rounds.jsonl").read_text().splitlines()],
        "url": running.url,
    }


PACKAGES = ["emc_node", "aggregator_node", "leader_node"]


def test_services_stay_after_the_run_and_exit_with_0_on_sigterm(services: Any) -> None:
    assert services["alive"] == PACKAGES
    assert services["codes"] == dict.fromkeys(PACKAGES, 0)


def test_status_file_has_the_state_at_the_end(services: Any) -> None:
    rounds = services["journal"][-1]["round"]
    for package, node in zip(PACKAGES, ["a1-p1", "a1", "leader"], strict=True):
        found = services["status"][package]
        assert (found["node"], found["run"], found["state"], found["round"]) == (node, "run-1", "over", rounds)
        assert (found["broker"], found["connected"], found["reconnects"]) == (services["url"], False, 0)
        assert found["since"] <= found["updated"]
    assert sum(services["status"]["aggregator_node"]["rejected"].values()) == 3
    assert services["status"]["leader_node"]["rejected"] == {}


def test_metrics_agree_with_journal_and_log(services: Any) -> None:
    below = [line for line in services["log"]["aggregator_node"] if line["event"] == "round"]
    assert sum(len(record["excluded"]) for record in below) == len(below) > 1  # the member that was never started
    for package, records in (("leader_node", services["journal"]), ("aggregator_node", below)):
        found = samples(services["pages"][package])
        assert found["stackelgrid_rounds_finished_total", ""] == len(records)
        assert found["stackelgrid_answers_received_total", ""] == sum(record["answered"] for record in records)
        assert found["stackelgrid_members_asked_again_total", ""] == sum(record["again"] for record in records)
        for action in ("held", "excluded", "quarantined"):
            missing = sum(len(record[action]) for record in records)
            assert found["stackelgrid_answers_missing_total", action] == missing
        seconds = sum(record["ms"] for record in records) / 1000
        assert found["stackelgrid_round_seconds_sum", ""] == pytest.approx(seconds)
        within = sum(record["ms"] <= 50 for record in records)
        assert found["stackelgrid_round_seconds_bucket", "0.05"] == within
    for package in PACKAGES:
        found = samples(services["pages"][package])
        ended = next(line for line in services["log"][package] if line["event"] == "ended")
        assert found["stackelgrid_messages_sent_total", ""] == ended["messages"]
        assert found["stackelgrid_sent_bytes_total", ""] == ended["bytes"]
        assert found["stackelgrid_messages_received_total", ""] == ended["received"]
        rejected = {key[1]: value for key, value in found.items() if key[0] == "stackelgrid_messages_rejected_total"}
        assert rejected == services["status"][package]["rejected"]
        assert found["stackelgrid_state", "over"] == 1
        assert sum(value for key, value in found.items() if key[0] == "stackelgrid_state") == 1


def test_metrics_count_missing_members_by_action() -> None:
    progress = Progress()
    page = registry(Role.AGGREGATOR, a_status(Traffic(), progress))
    account = {"answered": 5, "again": 4, "held": ["a"], "excluded": ["b", "c"], "quarantined": ["d"] * 3, "ms": 40.0}
    account["why"] = {"d": "too much"}
    for _ in range(2):
        progress.finish_round(account)
    found = samples(generate_latest(page).decode())
    last = {action: found["stackelgrid_members_missing", action] for action in ("held", "excluded", "quarantined")}
    assert last == {"held": 1, "excluded": 2, "quarantined": 3}, "of the last round, not of both"
    assert {key: value for key, value in found.items() if "answers" in key[0] or "again" in key[0]} == {
        ("stackelgrid_answers_received_total", ""): 10,
        ("stackelgrid_members_asked_again_total", ""): 8,
        ("stackelgrid_answers_missing_total", "held"): 2,
        ("stackelgrid_answers_missing_total", "excluded"): 4,
        ("stackelgrid_answers_missing_total", "quarantined"): 6,
        ("stackelgrid_answers_given_total", ""): 0,
    }


def test_home_counts_its_answers_and_times_its_work(services: Any) -> None:
    found = samples(services["pages"]["emc_node"])
    rounds = len(services["journal"])
    assert found["stackelgrid_answers_given_total", ""] == rounds
    assert found["stackelgrid_work_seconds_count", ""] == rounds + 1  # and its schedule
    assert 0 < found["stackelgrid_work_seconds_sum", ""] < 10


def test_log_lines_have_run_node_and_current_round(services: Any) -> None:
    for package, node in zip(PACKAGES, ["a1-p1", "a1", "leader"], strict=True):
        lines = services["log"][package]
        assert {(line["run"], line["node"]) for line in lines} == {("run-1", node)}
        assert "round" not in next(line for line in lines if line["event"] == "started")
        ended = next(line for line in lines if line["event"] == "ended")
        assert ended["round"] == services["journal"][-1]["round"]


@pytest.mark.parametrize("game", ["user_oriented", "load_call"])
def test_nodes_of_every_game_report_their_progress(monkeypatch: pytest.MonkeyPatch, game: str) -> None:
    told: list[Progress] = []
    create = Progress.__init__

    def noted(progress: Progress) -> None:
        create(progress)
        told.append(progress)

    monkeypatch.setattr(Progress, "__init__", noted)
    smaller = ["population.homes=3", "aggregators=1"] if game == "user_oriented" else []
    run_record = in_memory.play(load(game, smaller))
    assert run_record.settled
    rounds, aggregator_rounds = len(run_record.rounds), len(run_record.aggregator_rounds)
    assert {progress.state for progress in told} == {"settled"}
    assert {progress.round for progress in told} == {rounds, aggregator_rounds}  # a home's are its aggregator's
    answers = sorted(progress.answers for progress in told)
    assert answers == [0, rounds, *[aggregator_rounds] * (len(told) - 2)]


# --- the metrics' names ---


WHO = (*Role, OBSERVER)
Exported = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def settled_status(tmp_path_factory: pytest.TempPathFactory) -> Status:
    """That of a node with a certificate whose run was settled and examined."""
    leader = access.Node("l", access.Role.leader)
    authority = Authority.init(tmp_path_factory.mktemp("certs"))
    authority.add(leader)
    place = authority.place(leader)
    progress = Progress()
    progress.settle()
    progress.certificate = Verdict(passed=True, gap=1e-9)
    status = a_status(Traffic(), progress)
    status.transport.certificates = Tls(ca=place / "ca.crt", certificate=place / "node.crt", key=place / "node.key")
    return status


@pytest.fixture(scope="module")
def exported(settled_status: Status) -> Exported:
    """The metrics of a node of each role that knows all it can, and their types, as a scrape would show them."""
    return {
        role: {
            f"{metric.name}_total" if metric.type == "counter" else metric.name: metric.type
            for metric in registry(role, settled_status).collect()
        }
        for role in WHO
    }


def test_monitoring_page_lists_every_metric_and_no_other(exported: Exported) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    listed = re.findall(r"^\| `(stackelgrid_\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert dict(listed) == {name: kind for found in exported.values() for name, kind in found.items()}
    assert len(listed) == len(dict(listed))


def test_dashboard_and_alerts_ask_only_for_metrics_that_exist(exported: Exported) -> None:
    text = (ROOT / "deploy/monitoring/grafana/dashboards/stackelgrid.json").read_text()
    dashboard = json.loads(text)
    shown = set(re.findall(r"stackelgrid_\w+", text))
    there = {
        full
        for found in exported.values()
        for name, kind in found.items()
        for full in ([f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name])
    }
    assert shown <= there
    rules = set(re.findall(r"stackelgrid_\w+", (ROOT / "deploy/monitoring/alerts.yml").read_text()))
    assert rules and rules <= there
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert {
        "stackelgrid_rounds_finished_total",
        "stackelgrid_round_seconds",
        "stackelgrid_answers_missing_total",
    } <= bases
    assert {"stackelgrid_messages_rejected_total", "stackelgrid_reconnects_total", "stackelgrid_connected"} <= bases
    datasource = parse((ROOT / "deploy/monitoring/grafana/provisioning/datasources/prometheus.yml").read_text())
    uid = datasource["datasources"][0]["uid"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {uid}
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_prometheus_scrapes_every_service_with_nodes() -> None:
    settings = parse((ROOT / "deploy/monitoring/prometheus.yml").read_text())
    asked = {
        name: (found["type"], found["port"])
        for job in settings["scrape_configs"]
        for found in job["dns_sd_configs"]
        for name in found["names"]
    }
    assert asked == dict.fromkeys(["leader", "aggregators", "homes", "observer"], ("A", 9100))


@pytest.mark.parametrize("role", WHO)
def test_metric_names_follow_prometheus_conventions(exported: Exported, role: str) -> None:
    for name, kind in exported[role].items():
        assert name.startswith("stackelgrid_")
        assert name.endswith("_total") == (kind == "counter")
        assert name.endswith("_seconds") or kind != "histogram"
    coordinates = role in (Role.LEADER, Role.AGGREGATOR)
    assert ("stackelgrid_rounds_finished_total" in exported[role]) == coordinates
    assert ("stackelgrid_members_missing" in exported[role]) == coordinates
    assert ("stackelgrid_answers_given_total" in exported[role]) == (role in (Role.AGGREGATOR, Role.HOME))
    assert ("stackelgrid_certificate_passed" in exported[role]) == (role == OBSERVER)


# --- bad usage ---


def run_emc(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a home that cannot start says."""
    handlers = logging.getLogger().handlers[:]
    try:
        assert emc_node.__main__.main(list(arguments)) == 2
    finally:
        logging.getLogger().handlers[:] = handlers
    return capsys.readouterr().err


@pytest.mark.parametrize("at", ["", "x", "localhost", ":9100", "127.0.0.1:", "70000", "1.5"])
def test_metrics_address_is_refused_in_another_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: str
) -> None:
    folder = folder_of(small(NOWHERE).homes[0], tmp_path)
    said = run_emc(capsys, "--config", str(folder / "config.json"), "--metrics", at)
    assert repr(at) in said
    assert "0.0.0.0:9100" in said


def test_metrics_port_is_refused_when_it_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(small(NOWHERE).homes[0], tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = run_emc(capsys, "--config", str(folder / "config.json"), "--metrics", port)
    assert f"--metrics: {port}: Address already in use" in said


def test_metrics_tell_version_last_settlement_and_end_of_the_certificate(settled_status: Status) -> None:
    found = samples(generate_latest(registry(OBSERVER, settled_status)).decode())
    assert found["stackelgrid_build_info", version("stackelgrid")] == 1
    assert 0 <= time.time() - found["stackelgrid_settled_timestamp_seconds", ""] < 3600
    assert settled_status.certificate is not None
    until = settled_status.certificate.until
    assert found["stackelgrid_tls_certificate_expiry_timestamp_seconds", ""] == until.timestamp()
    assert found["stackelgrid_certificate_passed", ""] == 1
    assert found["stackelgrid_certificate_gap", ""] == 1e-9
    unknown = samples(generate_latest(registry(OBSERVER, a_status(Traffic()))).decode())
    assert [name for name, _ in unknown if "timestamp" in name or "certificate" in name] == []


def test_metrics_are_on_the_loopback_without_a_host() -> None:
    port = serve("0", Role.HOME, a_status(Traffic()))
    assert b"stackelgrid_state" in urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=5)
    everywhere = serve("0.0.0.0:0", Role.HOME, a_status(Traffic()))
    socket.create_connection(("127.0.0.2", everywhere), timeout=5).close()


def test_metrics_name_the_package_that_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(small(NOWHERE).homes[0], tmp_path)
    monkeypatch.delitem(sys.modules, "stackelgrid.node.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    said = run_emc(capsys, "--config", str(folder / "config.json"), "--metrics", "0")
    assert "prometheus_client is not installed; add the metrics extra" in said


def test_status_file_is_refused_when_it_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(small(NOWHERE).homes[0], tmp_path)
    missing = tmp_path / "nowhere" / "status.json"
    said = run_emc(capsys, "--config", str(folder / "config.json"), "--status", str(missing))
    assert f"{missing}: cannot be written (No such file or directory)" in said


def test_emc_imports_no_monitoring_when_none_is_asked_for(tmp_path: Path) -> None:
    folder = folder_of(small(NOWHERE).homes[0], tmp_path)
    code = f"""
import sys
import emc_node.__main__
from stackelgrid.node import process
process.serve = lambda *arguments, **more: 0
emc_node.__main__.main(["--config", {str(folder / "config.json")!r}] + sys.argv[1:])
wanted = ["prometheus_client", "sqlite3", "stackelgrid.history"]
wanted += [f"stackelgrid.node.{{name}}" for name in ("claim", "metrics", "status", "systemd")]
print([name for name in wanted if name in sys.modules])
"""
    unwatched = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    both = [
        subprocess.Popen([sys.executable, "-c", code, *more], stdout=subprocess.PIPE, text=True, env=unwatched)
        for more in ([], ["--metrics", "0"])
    ]
    plain, watched = (process.communicate(timeout=60)[0] for process in both)
    assert plain.strip() == "[]"
    assert "prometheus_client" in watched  # what is looked for would be seen


# --- replicas ---


def test_claim_gives_replicas_one_node_each_in_order(tmp_path: Path) -> None:
    for name in ("h2", "h1", "h10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "config.json").chmod(0o400)
        (tmp_path / name).chmod(0o500)
    (tmp_path / "authority").mkdir()
    assert [claim(tmp_path).parent.name for _ in range(3)] == ["h1", "h10", "h2"]
    with pytest.raises(ConfigError, match="all 3 nodes are taken by other processes; start fewer"):
        claim(tmp_path)


def test_claim_lasts_over_a_new_configuration_and_ends_with_the_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "h1").mkdir()
    (tmp_path / "h1" / "config.json").write_text("{}")
    code = f"""
import signal
from pathlib import Path
from stackelgrid.node.claim import claim
print(claim(Path({str(tmp_path)!r})), flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == str(tmp_path / "h1" / "config.json")
        renewed = tmp_path / "renewed"
        renewed.write_text("{}")
        renewed.replace(tmp_path / "h1" / "config.json")
        with pytest.raises(ConfigError, match="all 1 nodes are taken"):
            claim(tmp_path)
        other.kill()
    assert claim(tmp_path) == tmp_path / "h1" / "config.json"


def test_claim_is_refused_for_a_folder_without_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path}: there is no NODE/config.json in it" in run_emc(capsys, "--claim", str(tmp_path))
    nowhere = tmp_path / "nowhere"
    told = run_emc(capsys, "--claim", str(nowhere))
    assert f"{nowhere}: cannot be searched" in told and "--claim" in told


def test_configuration_is_refused_when_it_is_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    assert f"{tmp_path / 'config.json'}: not text in UTF-8" in run_emc(
        capsys, "--config", str(tmp_path / "config.json")
    )


@pytest.mark.parametrize("host", ["grid..example", "x" * 64 + ".example"])
def test_broker_host_is_refused_when_it_is_no_valid_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    folder = folder_of(small(NOWHERE).homes[0], tmp_path)
    told = run_emc(capsys, "--config", str(folder / "config.json"), "--broker", f"mqtt://{host}:1883")
    assert f"mqtt://{host}:1883" in told and "is not of the form" in told


# --- the status file ---


def a_status(traffic: Traffic | None, progress: Progress | None = None) -> Status:
    transport = MqttTransport(NOWHERE)
    if traffic is not None:
        transport.traffic["h1"] = traffic
    return Status("run-1", "h1", progress or Progress(), Mailbox(), transport)


def test_heartbeat_notes_that_the_broker_does_not_accept_the_node() -> None:
    traffic, progress = Traffic(failure="certificate revoked", refused=True), Progress()
    heartbeat = Heartbeat(a_status(traffic, progress), [])
    heartbeat.show()
    assert progress.list_problems() == ["the grid's broker does not accept this home: certificate revoked"]
    traffic.failure, traffic.refused = "Connection refused", False
    heartbeat.show()
    assert progress.list_problems() == []


def test_status_is_connecting_then_the_nodes_state_then_its_end() -> None:
    traffic, progress = Traffic(), Progress()
    status = a_status(traffic, progress)
    seen = [status.state]
    traffic.connections, traffic.connected = 1, True
    seen.append(status.state)
    progress.start_round(4)
    seen.append(status.state)
    traffic.connected = False
    seen.append(status.state)
    traffic.connections, traffic.connected = 3, True
    progress.settle()
    seen.append(status.state)
    assert (status.record()["round"], status.record()["reconnects"]) == (4, 2)
    progress.end(lost=False)
    seen.append(status.state)
    assert seen == ["connecting", "waiting", "round", "round", "settled", "over"]
    progress.end(lost=True)
    assert status.state == "lost"
    assert a_status(None).state == "connecting"  # before there is any connection to look at
    lost = a_status(Traffic(), progress)
    assert lost.state == "lost"  # a broker that was never there


def test_status_file_is_written_on_a_change_and_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(status_module.time, "monotonic", lambda: now)
    traffic, progress = Traffic(connections=1, connected=True), Progress()
    status, path = a_status(traffic, progress), tmp_path / "status.json"
    file = StatusFile(path, status)

    def written() -> bool:
        """Whether the file is another one than a moment ago."""
        before = path.stat().st_ino
        os.link(path, tmp_path / "kept")  # so that its number is not given to the next one
        time.sleep(0.002)  # so that times told to the millisecond differ
        file.show(status)
        (tmp_path / "kept").unlink()
        return path.stat().st_ino != before

    assert not written()
    now += REFRESH_S - 0.01
    assert not written()
    now += 0.01
    assert written()
    assert not written()
    since = read(path)["since"]
    traffic.connected = False
    assert written()
    assert (read(path)["since"], read(path)["connected"]) == (since, False)
    progress.start_round(1)
    assert written()
    assert read(path)["since"] > since
    since = read(path)["since"]
    progress.start_round(2)
    assert written()
    assert read(path)["since"] > since
    status.mailbox.rejected["not json"] += 1
    assert written()
    assert read(path)["rejected"] == {"not json": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]  # no drafts


class Counted:
    """An outlet that counts how often it is shown something."""

    def __init__(self, error: OSError | None = None) -> None:
        self.shown, self.closed, self._error = 0, 0, error

    def show(self, status: Status) -> None:
        self.shown += 1
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed += 1


async def beat_until(heartbeat: Heartbeat, condition: Callable[[], Any]) -> None:
    """Let the heart beat until the condition holds, and a few beats more."""
    beating = asyncio.create_task(heartbeat.beat())
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(status_module.LOOK_S)
    await asyncio.sleep(5 * status_module.LOOK_S)
    assert not beating.done()
    beating.cancel()


async def test_heartbeat_stops_while_a_computation_does_not_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(status_module, "LOOK_S", 0.01)
    progress, outlet = Progress(), Counted()
    heartbeat = Heartbeat(a_status(Traffic(), progress), [outlet])
    monkeypatch.setattr(status_module, "HANG_S", 3600.0)
    progress.working_since = time.monotonic() - 1800
    await beat_until(heartbeat, lambda: outlet.shown > 2)
    outlet.shown = 0
    progress.working_since = time.monotonic() - 3601
    await beat_until(heartbeat, lambda: caplog.records)
    assert outlet.shown == 0
    assert [record.message for record in caplog.records] == ["a computation does not end"]
    assert progress.work(lambda: 5) == 5
    await beat_until(heartbeat, lambda: outlet.shown > 2)


async def test_heartbeat_goes_on_when_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(status_module, "LOOK_S", 0.01)
    full, other = Counted(OSError(28, "No space left on device")), Counted()
    heartbeat = Heartbeat(a_status(Traffic()), [full, other])
    await beat_until(heartbeat, lambda: other.shown > 2)
    heartbeat.close()
    assert full.shown == other.shown > 2
    assert (full.closed, other.closed) == (1, 1)
    assert [record.message for record in caplog.records] == ["status cannot be shown"]


def test_progress_times_work_that_fails() -> None:
    progress = Progress()
    took: list[float] = []
    progress.on_work = took.append

    def fail(divisor: int) -> float:
        assert progress.working_since is not None
        return 1 / divisor

    with pytest.raises(ZeroDivisionError):
        progress.work(fail, 0)
    assert progress.working_since is None
    assert progress.work(fail, 2) == 0.5
    assert len(took) == 2


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """Logs what it is told to in a set-up of the test's own; gives the lines."""
    root, path = logging.getLogger(), tmp_path / "log"
    handlers, level = root.handlers[:], root.level

    def log(style: Literal["json", "console"], tell: Callable[[logging.Logger], None], **given: Any) -> list[str]:
        with path.open("w") as stream:
            set_up(style, "run-1", "h1", stream=stream, **given)
            tell(root)
        return path.read_text().splitlines()

    yield log
    root.handlers[:], root.level = handlers, level


def tell_of_each_level(root: logging.Logger) -> None:
    root.info("connected")
    root.warning("connection lost")
    root.error("crashed\nat once")


def test_log_has_the_round_once_there_is_one(logged: Callable[..., list[str]]) -> None:
    progress = Progress()

    def tell(root: logging.Logger) -> None:
        root.info("before")
        progress.start_round(3)
        root.info("during")
        root.info("of its own", extra={"data": {"round": 2}})

    lines = [json.loads(line) for line in logged("json", tell, progress=progress)]
    assert [line.get("round") for line in lines] == [None, 3, 2]


def test_log_leaves_out_lines_below_its_level(
    logged: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    first = "warning h1: connection lost"
    assert logged("console", tell_of_each_level, level="warning") == [first, "error   h1: crashed", "at once"]
    assert logged("console", tell_of_each_level)[:2] == ["info    h1: connected", first]


def test_log_tells_the_journal_how_grave_each_line_is(
    logged: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    lines = logged("console", tell_of_each_level)
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>", "<3>"], "each line of an error is one"


# --- systemd ---


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd listens at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def heard(listening: socket.socket) -> list[str]:
    """What has been said so far."""
    said: list[str] = []
    listening.setblocking(False)
    try:
        while True:
            said += listening.recv(4096).decode().splitlines()
    except BlockingIOError:
        listening.settimeout(60)
        return said


def test_systemd_gets_each_change_once_and_a_signal_at_half_the_watchdog_time(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(status_module.time, "monotonic", lambda: now)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    traffic, progress = Traffic(), Progress()
    status, outlet = a_status(traffic, progress), Systemd()
    outlet.show(status)
    assert heard(systemd) == ["READY=1", f"STATUS=no connection yet to {NOWHERE}", "WATCHDOG=1"]
    now += 14.9
    outlet.show(status)
    assert heard(systemd) == []
    now += 0.1
    outlet.show(status)
    assert heard(systemd) == ["WATCHDOG=1"]
    traffic.connections, traffic.connected = 1, True
    progress.start_round(7)
    outlet.show(status)
    assert heard(systemd) == ["STATUS=round 7"]
    traffic.connected = False
    outlet.show(status)
    assert heard(systemd) == [f"STATUS=round 7, connection to {NOWHERE} lost"]
    outlet.close()
    assert heard(systemd) == ["STOPPING=1"]


def test_systemd_gets_a_status_again_when_sending_failed(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    outlet, status = Systemd(), a_status(Traffic())
    (tmp_path / "notify").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        outlet.show(status)
    (tmp_path / "away").rename(tmp_path / "notify")
    outlet.show(status)
    assert [line.partition("=")[0] for line in heard(systemd)] == ["READY", "STATUS", "WATCHDOG"]


def test_systemd_gets_no_watchdog_signal_for_another_process(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    Systemd().show(a_status(Traffic()))
    assert "WATCHDOG=1" not in heard(systemd)


def test_systemd_is_reached_at_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"stackelgrid-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        Systemd().show(a_status(Traffic()))
        assert heard(listening)[0] == "READY=1"


def said_until(listening: socket.socket, last: str) -> list[str]:
    said: list[str] = []
    while not any(line.startswith(last) for line in said):
        said += listening.recv(4096).decode().splitlines()
    return said


def falls_silent(listening: socket.socket, seconds: float) -> bool:
    """Wait for the next word, and tell that none came in time."""
    listening.settimeout(seconds)
    try:
        listening.recv(4096)
    except TimeoutError:
        return True
    return False


def test_home_is_ready_and_fresh_without_a_broker_and_goes_on_with_one(systemd: socket.socket, tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = small(f"mqtt://127.0.0.1:{port}").homes[0].model_copy(update={"reconnect_s": None})
    folder = tmp_path / config.name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**json.loads(config.model_dump_json()), "schedule_file": None}))
    home = start(
        "emc_node", folder, "--status", str(folder / "status.json"), NOTIFY_SOCKET=os.environ["NOTIFY_SOCKET"],
        WATCHDOG_USEC="400000",
    )  # fmt: skip
    try:
        said = said_until(systemd, "WATCHDOG")
        assert said[:2] == ["READY=1", f"STATUS=no connection yet to mqtt://127.0.0.1:{port}"]
        for _ in range(3):  # again and again, although nothing happens
            assert said_until(systemd, "WATCHDOG") == ["WATCHDOG=1"]
        found = read(folder / "status.json")
        assert (found["state"], found["connected"], found["round"]) == ("connecting", False, 0)
        with broker.start("mosquitto", tmp_path, port):
            assert "STATUS=waiting" in said_until(systemd, "STATUS")
            wait_for(lambda: read(folder / "status.json")["connected"])
            assert read(folder / "status.json")["state"] == "waiting"
        assert f"STATUS=waiting, connection to mqtt://127.0.0.1:{port} lost" in said_until(systemd, "STATUS")
        home.send_signal(signal.SIGTERM)
        assert home.wait(60) == 143
        assert "STOPPING=1" in said_until(systemd, "STOPPING")
    finally:
        home.kill()
        home.wait()


HANGING = """
import sys, threading, time
from stackelgrid.node import process
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.node import status as module
from stackelgrid.node.systemd import Systemd
from stackelgrid.transport.base import Compute
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.roles import Role

class Hanging:
    name, subscriptions, last_will = "h1", (), None
    def __init__(self):
        self.progress, self.mailbox = Progress(), Mailbox()
    def start(self, now):
        if sys.argv[2] == "worker":
            return [Compute(lambda: self.progress.work(hang), lambda result, now: [])]
        if sys.argv[2] == "loop":
            hang()
        return []
    def receive(self, topic, payload, now): return []
    def tick(self, now): return []
    def next_deadline(self): return None

def hang():
    print("hangs", flush=True)
    time.sleep(60)

module.HANG_S = 0.2
node, transport = Hanging(), MqttTransport(sys.argv[1])
status = module.Status("run-1", "h1", node.progress, node.mailbox, transport)
process.serve(node, transport, module.Heartbeat(status, [Systemd()]), stay=False)
"""


@pytest.mark.parametrize("where", ["loop", "worker"])
def test_systemd_gets_no_watchdog_signal_from_a_node_that_hangs(
    systemd: socket.socket, mosquitto_url: str, where: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HANGING, mosquitto_url, where],
        stdout=subprocess.PIPE,
        env={**os.environ, "WATCHDOG_USEC": "200000"},
    ) as node:
        try:
            assert node.stdout is not None
            assert node.stdout.readline() == b"hangs\n"
            assert "READY=1" in said_until(systemd, "READY")
            assert any(falls_silent(systemd, 0.8) for _ in range(20)), "four times what systemd waits"
            assert node.poll() is None
        finally:
            node.kill()
