"""From a scenario to machines: folders for nodes, a Compose file, and an observer that gathers what they leave."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

import broker
import leader_node.config
from aggregator_node.config import build
from broker.access import Node, Role
from broker.authority import Authority
from stackelgrid import cli
from stackelgrid.deploy.compose import compose
from stackelgrid.deploy.privacy import protect
from stackelgrid.deploy.provision import provision
from stackelgrid.errors import ConfigError, ExitCode
from stackelgrid.node.config import load as load_config
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.scenarios import list_shipped, load
from stackelgrid.scenarios.yaml_file import parse
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.testbed.run_folder import write_scenario

CLONE = Path(__file__).parents[2]
SETTINGS = ["population.homes=4", "aggregators=2"]
PACKAGES = {"leaders": "leader_node", "aggregators": "aggregator_node", "homes": "emc_node"}


# Folders for nodes.


def test_provision_gives_each_node_a_private_folder(tmp_path: Path) -> None:
    scenario = load("user_oriented", SETTINGS)
    done = provision(scenario, tmp_path / "certs", "mqtts://grid.example.org:8883", "r1")
    assert (done.nodes, len(done.added)) == (7, 10)  # and observer, registrar, enrolment
    places = sorted(path.parent for path in (tmp_path / "certs").glob("*/*/config.json"))
    assert [place.name for place in places] == ["a1", "a2", "h1", "h2", "h3", "h4", "leader", "observer"]
    for place in places:
        assert {"ca.crt", "node.crt", "node.key", "config.json"} <= {path.name for path in place.iterdir()}
        for secret in (place / "node.key", place / "config.json"):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        told = json.loads((place / "config.json").read_text())
        assert (told["run"], told["broker"], told["reconnect_s"]) == ("r1", "mqtts://grid.example.org:8883", None)
    private = {place.name: (place / "config.json").read_text() for place in places}
    assert [name for name, text in private.items() if '"elastic"' in text] == ["h1", "h2", "h3", "h4"]
    authority = Authority(tmp_path / "certs")
    assert "grid.example.org" in authority.register.hosts
    directory, h2 = authority.read_directory(), json.loads(private["h2"])
    members = {name: [home.name for home in homes] for name, homes in directory.register.members.items()}
    assert members == {"a1": ["h1", "h3"], "a2": ["h2", "h4"]}
    limits = {member["name"]: member["max_kw"] for member in json.loads(private["a2"])["members"]}
    assert {
        home.name: home.max_kw for home in directory.register.members["a2"]
    } == limits and None not in limits.values()
    assert (directory.grid.run, directory.grid.broker) == ("r1", "mqtts://grid.example.org:8883")
    assert directory.grid.terms.items() <= h2.items()
    assert {"game", "slots", "scenario"} <= directory.grid.terms.keys() and "homes" not in directory.grid.terms


def test_provision_keeps_certificates_for_another_run(tmp_path: Path) -> None:
    scenario = load("user_oriented", SETTINGS)
    provision(scenario, tmp_path, "mqtts://127.0.0.1:8883", "r1")
    key = (tmp_path / "homes/h1/node.key").read_bytes()
    done = provision(load("user_oriented", ["population.homes=5", *SETTINGS[1:]]), tmp_path, "mqtts://b:8883", "r2")
    assert done.added == ["h5"]
    assert (tmp_path / "homes/h1/node.key").read_bytes() == key
    assert json.loads((tmp_path / "homes/h1/config.json").read_text())["run"] == "r2"


def test_provision_leaves_out_revoked_and_former_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certs = tmp_path / "certs"
    provision(load("user_oriented", SETTINGS), certs, "mqtts://127.0.0.1:8883", "r1")
    authority = Authority(certs)
    authority.revoke("h2")
    words = ["provision", "user_oriented", "--broker", "mqtts://grid.example.org:8883", "--out", str(certs)]
    smaller = ["--set", "population.homes=3", "--set", "aggregators=2"]
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words, *smaller])
    assert cli.main() == 0
    said = capsys.readouterr().out
    assert "0 certificates were given" in said and "h2 stays revoked" in said
    assert "without a configuration now: h4" in said and f"take {certs / 'broker'} to it again" in said
    assert "h2" not in authority.register.in_force and "h4" in authority.register.in_force
    assert [path.parent.name for path in sorted((certs / "homes").glob("*/config.json"))] == ["h1", "h2", "h3"]


def test_provision_refuses_a_node_certified_otherwise(tmp_path: Path) -> None:
    provision(load("user_oriented", SETTINGS), tmp_path, "mqtts://127.0.0.1:8883", "r1")
    with pytest.raises(ConfigError, match="'h2' is the home of a2 there, and the home of a1 here"):
        provision(load("user_oriented", [SETTINGS[0], "aggregators=1"]), tmp_path, "mqtts://127.0.0.1:8883", "r2")
    assert json.loads((tmp_path / "homes/h1/config.json").read_text())["run"] == "r1"


def test_provision_refuses_the_name_of_a_run_that_was_played(tmp_path: Path) -> None:
    def prepare(run: str, *changes: str) -> None:
        provision(load("user_oriented", [*SETTINGS, *changes]), tmp_path, "mqtts://127.0.0.1:8883", run)

    leader = tmp_path / "leaders/leader/config.json"
    prepare("r1", "seed=1")
    prepare("r1")  # nothing has been played: the name is still free
    leader_node.config.build(load_config(leader, leader_node.config.config_model))  # which makes its ledger
    prepare("r1", "rounds.deadline_s=9")  # the same game
    before = leader.read_text()
    for change, difference in (
        ("leader.wholesale_price=7", r"leader's utility\.wholesale_price was 3\.21424 and is 7\.0"),
        ("seed=2", r"leader's members\.0\.max_kw was"),
        ("population.homes=5", r"leader's members\.0\.homes was 2 and is 3"),
    ):
        with pytest.raises(ConfigError, match=f"/leader.*: another run r1 was played here, .*{difference}.*--run"):
            prepare("r1", change)
        assert leader.read_text() == before
    prepare("r2", "leader.wholesale_price=7")
    with pytest.raises(ConfigError, match=r"leader's utility\.wholesale_price was 3\.21424 and is 7\.0"):
        prepare("r1", "leader.wholesale_price=7")
    with pytest.raises(ConfigError, match="a1 has lost its ledger"):
        prepare("r1")
    for config in build_node_configs(load("user_oriented", SETTINGS), "r1").aggregators:
        SqliteLedger(tmp_path / f"aggregators/{config.name}/r1/{config.name}.ledger", config.terms())
    prepare("r1")


def test_provision_names_a_changed_scenario_anew_where_it_may(tmp_path: Path) -> None:
    def prepare(*changes: str) -> str:
        changed = load("user_oriented", [*SETTINGS, *changes])
        return provision(changed, tmp_path, "mqtts://127.0.0.1:8883", "r1", rename=True).run

    assert prepare() == "r1"
    leader = tmp_path / "leaders/leader/config.json"
    leader_node.config.build(load_config(leader, leader_node.config.config_model))  # which makes its ledger
    changed = prepare("leader.wholesale_price=7")
    assert re.fullmatch("r1-[0-9a-f]{8}", changed)
    assert json.loads(leader.read_text())["run"] == changed
    leader_node.config.build(load_config(leader, leader_node.config.config_model))
    assert prepare("leader.wholesale_price=7") == changed
    assert prepare("leader.wholesale_price=8") not in ("r1", changed)


def test_homes_of_a_grid_change_under_its_name_and_prices_do_not(tmp_path: Path) -> None:
    grid: dict[str, Any] = {
        "schema": 1,
        "game": "user_oriented",
        "calendar": {"start": "2026-03-28T00:00", "days": 2},
        "gates": {"day_ahead": "12:00"},
        "leader": {"wholesale_price": 48 * [3], "price_max": 30, "baseline_price": 9, "mu": 0.5},
    }

    def prepare(run: str, homes: int, kw: float = 1.0, **leader: Any) -> None:
        content = grid | {
            "leader": grid["leader"] | leader,
            "homes": [{"id": f"h{number + 1}", "inelastic": [{"load_kw": 48 * [kw]}]} for number in range(homes)],
        }
        provision(load(content), tmp_path, "mqtts://127.0.0.1:8883", run)
        leader_file = tmp_path / "leaders/leader/config.json"
        leader_node.config.build(load_config(leader_file, leader_node.config.config_model))

    prepare("grid", 2)
    prepare("grid", 3)
    prepare("grid", 2, kw=2.0)
    with pytest.raises(ConfigError, match=r"another run grid was played here, leader's utility\.wholesale_price"):
        prepare("grid", 2, wholesale_price=48 * [4])


def test_home_of_a_grid_stays_where_the_register_has_it(tmp_path: Path) -> None:
    grid = {
        "schema": 1,
        "game": "user_oriented",
        "aggregators": 2,
        "calendar": {"start": "2026-03-28T00:00", "days": 2},
        "gates": {"day_ahead": "12:00"},
        "leader": {"wholesale_price": 48 * [3], "price_max": 30, "baseline_price": 9, "mu": 0.5},
        "homes": [{"id": f"h{number}", "inelastic": [{"load_kw": 48 * [1.0]}]} for number in (1, 2)],
    }
    provision(load(grid), tmp_path, "mqtts://127.0.0.1:8883", "grid")
    Authority(tmp_path).move("h2", "a1")
    provision(load(grid), tmp_path, "mqtts://127.0.0.1:8883", "grid")
    assert json.loads((tmp_path / "homes/h2/config.json").read_text())["aggregator"] == "a1"
    assert Authority(tmp_path).register.in_force["h2"].above == "a1"


def test_provision_refuses_the_name_of_a_run_that_is_on_the_desk(tmp_path: Path) -> None:
    certs, desk = tmp_path / "certs", tmp_path / "desk"
    provision(load("user_oriented", SETTINGS), certs, "mqtts://127.0.0.1:8883", "r1", desk)
    (desk / "homes/r1/h1.schedule.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"h1\.schedule\.json: another run r1 was played here"):
        provision(load("user_oriented", [*SETTINGS, "leader.mu=0.9"]), certs, "mqtts://127.0.0.1:8883", "r1", desk)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--broker", "mqtt://127.0.0.1:1883"], ["--broker mqtt://127.0.0.1:1883", "write mqtts://"]),
        (["--broker", "mqtts://127.0.0.1:x"], ["--broker", "of the form"]),
        (["--broker", "mqtts://127.0.0.1:8883", "--run", "a b"], ["--run a b", "letters"]),
        (["--broker", "mqtts://127.0.0.1:8883", "--out", "/dev/null/x"], ["/dev/null", "folder"]),
    ],
)
def test_provision_command_refuses_bad_options(
    arguments: list[str],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stackelgrid", "provision", "user_oriented", *arguments])
    assert cli.main() == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert all(word in said for word in told), said
    assert not (tmp_path / "certs").exists()


# A run of nodes that know nothing but their folders.


@contextmanager
def start_nodes(certs: Path, logs: Path) -> Iterator[None]:
    """Every node that has a folder, as a process; all are told to stop at the end."""
    with ExitStack() as stack:
        for room, package in PACKAGES.items():
            for place in sorted((certs / room).iterdir()):
                arguments = [sys.executable, "-m", package, "--config", str(place / "config.json"), "--log", "json"]
                log = stack.enter_context((logs / f"{place.name}.jsonl").open("wb"))
                stack.callback(subprocess.Popen(arguments, stderr=log).wait)
        yield


@contextmanager
def watch_without_a_desk(certs: Path, folder: Path) -> Iterator[str]:
    """Start another observer, which finds no desk; give the address of its page once it listens to the broker."""
    place = certs / "observers/watcher"
    config = (certs / "observers/observer/config.json").read_text().replace("observers/observer", "observers/watcher")
    (place / "config.json").write_text(json.dumps({**json.loads(config), "name": "watcher"}))
    observe = [sys.executable, "-m", "stackelgrid", "observe", str(certs / "scenario/scenario.yaml"), "--watch"]
    observe += ["--config", str(place / "config.json")]
    with subprocess.Popen(observe, cwd=folder, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stderr is not None
        address = watcher.stderr.readline().removeprefix("watch: ").strip()
        said = next((line for line in watcher.stderr if '"waiting"' in line), "nothing")
        try:
            assert said != "nothing"
            yield address
        finally:
            watcher.terminate()
            said = watcher.communicate(timeout=60)[1]
        assert watcher.returncode == 0, said


def read_page(page: str) -> list[dict[str, Any]]:
    """Read the events of a run on an observer's page, where nothing can be done to it."""
    address = urlsplit(page)
    with httpx2.Client(base_url=f"http://{address.netloc}", headers={"Origin": f"http://{address.netloc}"}) as client:
        client.get(f"/?{address.query}")
        run = f"/api/v1/runs/{address.fragment.rsplit('/')[-1]}"
        shown = client.get(run).json()
        assert not shown["stoppable"] and not shown["faultable"]
        assert client.post(f"{run}/stop").status_code == 409
        assert client.post(f"{run}/faults", json={"kind": "crash", "node": "a1"}).status_code == 409
        told = client.get(f"{run}/events", timeout=100).text
        assert client.get(run).json()["state"] == "settled"
    return [json.loads(line.removeprefix("data: ")) for line in told.splitlines() if line.startswith("data: ")]


def read_verdict(observe: list[str], log: Path) -> dict[str, float]:
    """Start the observer of a run that is over once more, to stay; read what its metrics say of the certificate."""
    port, found = broker.free_port(), dict[str, float]()
    with log.open("wb") as errors:
        again = subprocess.Popen([*observe, "--stay", "--metrics", str(port)], stderr=errors)
    give_up = time.monotonic() + 100
    while not found and again.poll() is None and time.monotonic() < give_up:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            told = re.findall(r"stackelgrid_certificate_(\w+)\{.*\} (\S+)", page.read().decode())
            found = {name: float(value) for name, value in told}
        time.sleep(0.05)
    again.terminate()
    assert again.wait(60) == 0, log.read_text()
    return found


def test_observer_gathers_a_deployed_run(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    scenario, _ = protect(load("user_oriented", ["population.homes=10", "aggregators=2", "privacy.minimum_group=5"]))
    certs, desk, port = tmp_path / "certs", tmp_path / "desk", broker.free_port()
    provision(scenario, certs, f"mqtts://127.0.0.1:{port}", "deployed", desk)
    logs = tmp_path / "logs"
    logs.mkdir()
    Authority(certs).add(Node("watcher", Role.observer))
    with (
        broker.start("mosquitto", tmp_path / "broker", port, certificates=certs / "broker"),
        watch_without_a_desk(certs, tmp_path) as page,
        start_nodes(certs, logs),
    ):
        observe = [sys.executable, "-m", "stackelgrid", "observe", str(certs / "scenario/scenario.yaml")]
        observe += ["--config", str(certs / "observers/observer/config.json")]
        observe += ["--desk", str(desk), "--out", str(tmp_path / "run")]
        done = subprocess.run(observe, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        heard = read_page(page)
        verdict = read_verdict(observe, logs / "again")
    found: dict[str, Any] = json.loads((tmp_path / "run/result.json").read_text())
    run_record = in_memory.play(scenario)
    assert (found["settled"], found["complete"], found["failures"], found["rejected"]) == (True, True, {}, {})
    assert found["certificate"]["passed"]
    assert verdict == {"passed": 1.0, "gap": found["certificate"]["gap"]}
    assert found["rounds"] == len(run_record.rounds)
    levels = {key: found["privacy"][key] for key in ("sums", "minimum_group", "keys")}
    assert levels == {"sums": "committee", "minimum_group": 5, "keys": "certificates"}
    expected = scenario.outcome(run_record).content()
    for key in ("price", "load_kw", "leader_utility"):
        assert found["outcome"][key] == pytest.approx(expected[key], rel=1e-9)
    for home, schedule in expected["homes"].items():
        assert found["outcome"]["homes"][home]["load_kw"] == pytest.approx(schedule["load_kw"], rel=1e-9)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"report.html", "rounds.jsonl", "scenario.yaml"}
    refused = json.loads((tmp_path / "broker/refusals.json").read_text())
    assert refused == {}
    told = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert (told[0]["type"], told[-1]["type"], told[-1]["state"]) == ("tree", "end", "settled")
    assert [event["round"] for event in told if event["type"] == "round"] == [*range(1, found["rounds"] + 1)]
    assert any(event["type"] == "node" and "leader" in event["names"] for event in told)
    assert (heard[0]["type"], heard[-1]["type"], heard[-1]["state"]) == ("tree", "end", "settled")
    rounds = [event for event in heard if event["type"] == "round"]
    assert [event["round"] for event in rounds] == [*range(1, found["rounds"] + 1)]
    assert {event["answered"] for event in rounds} == {2}
    last = rounds[-1]
    assert last["price"] == pytest.approx(expected["price"], rel=1e-9)
    assert last["load_kw"] == pytest.approx(expected["load_kw"], rel=1e-9)


def test_observer_refuses_another_scenario_than_the_nodes_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certs, out = tmp_path / "certs", tmp_path / "out"
    provision(load("user_oriented", SETTINGS), certs, "mqtts://127.0.0.1:9", "r1", tmp_path / "desk")
    observe = ["stackelgrid", "observe", "--config", str(certs / "observers/observer/config.json")]
    observe += ["--desk", str(tmp_path / "desk"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*observe, "user_oriented"])
    assert cli.main() == ExitCode.BAD_INPUT
    assert "the nodes of run r1 were configured for another one" in capsys.readouterr().err
    out.mkdir()
    write_scenario(out, load("user_oriented", [*SETTINGS, "leader.wholesale_price=7"]))
    monkeypatch.setattr(sys, "argv", [*observe, str(certs / "scenario/scenario.yaml")])
    assert cli.main() == ExitCode.BAD_INPUT
    assert f"--out {out}: the result of another scenario is there" in capsys.readouterr().err


def test_aggregator_journal_resumes_and_is_not_mixed(tmp_path: Path) -> None:
    aggregator = build_node_configs(load("user_oriented", SETTINGS), "r1").aggregators[0]
    journal, ledger = tmp_path / "a1.rounds.jsonl", tmp_path / "a1.ledger"
    config = aggregator.model_copy(update={"journal_file": journal, "ledger_file": ledger})
    build(config)
    assert journal.read_text() == ""
    journal.write_text('{"round": 1, "inner": 1}\n{"round": 2, "in')  # the power went while it wrote
    with pytest.raises(FileExistsError):
        build(config)
    question = {"round": 1, "signal": {"price": [5.0] * config.slots}, "asked": 0}
    SqliteLedger(ledger, config.terms()).append(question)
    build(config)
    assert journal.read_text() == '{"round": 1, "inner": 1}\n'


# Compose files.


def test_compose_file_of_the_repository_is_up_to_date() -> None:
    assert (CLONE / "compose.yaml").read_text() == compose("user_oriented", ["aggregators=3"]), (
        "stackelgrid compose user_oriented --set aggregators=3 --out compose.yaml writes it anew"
    )


@pytest.mark.parametrize("game", list_shipped())
@pytest.mark.parametrize("per_home", [False, True])
def test_compose_services_are_watched_and_contained(game: str, per_home: bool) -> None:
    described = parse(compose(game, per_home=per_home))
    services, scenario = described["services"], load(game)
    homes = {name: each for name, each in services.items() if "emc-node" in each.get("command", [])}
    processes = sum(each["deploy"].get("replicas", 1) for each in homes.values())
    assert processes == len(scenario.everyone)
    assert len(homes) == (processes if per_home else 1)
    assert services["aggregators"]["deploy"]["replicas"] == scenario.aggregators
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == ("no" if name in ("setup", "testbed") else "unless-stopped"), name
        assert {"memory", "cpus", "pids"} <= service["deploy"]["resources"]["limits"].keys(), name
        assert "healthcheck" in service, name


def test_compose_of_a_grid_has_a_registrar_and_does_not_wait_for_its_end() -> None:
    gates = "gates={intraday_minutes: 15, clock: {speed: 600}}"
    described = parse(compose("street_week", ["population.homes=2", "aggregators=1", "calendar.days=1", gates]))
    registrar, observer = (described["services"][name] for name in ("registrar", "observer"))
    assert registrar["command"][:3] == ["stackelgrid", "certs", "serve"]
    mounted = {volume.split(":")[0] for volume in registrar["volumes"]}
    assert mounted == {"authority", "broker", "registrars"} <= described["volumes"].keys()
    assert (
        "fleet.json" in observer["healthcheck"]["test"][1] and "report.html" not in observer["healthcheck"]["test"][1]
    )
    assert "registrar" not in parse(compose("user_oriented", SETTINGS))["services"]


def test_compose_gives_each_home_a_volume_of_its_own() -> None:
    """Its key and its preferences are on no volume that another node can see."""
    described = parse(compose("user_oriented", SETTINGS))
    mounted: dict[str, set[str]] = {}
    for name, service in described["services"].items():
        for volume in service.get("volumes", []):
            if isinstance(volume, str) and ":/certs/homes" in volume:
                mounted.setdefault(volume.split(":")[0], set()).add(name)
    homes = {f"home-h{number}" for number in range(1, 5)}
    assert mounted == {home: {home, "setup", "testbed"} for home in homes}
    assert homes <= described["volumes"].keys() and "homes" not in described["volumes"]


def test_compose_makes_the_broker_anew_for_other_nodes() -> None:
    """It reads its access rules as it starts: without the new ones a new home would never be heard."""

    def label(*sets: str) -> str:
        broker_of_it = parse(compose("user_oriented", sets))["services"]["broker"]
        return str(broker_of_it["labels"]["stackelgrid.nodes"])

    assert label(*SETTINGS) == label(*SETTINGS, "leader.mu=0.9")
    assert len({label(*SETTINGS), label("population.homes=5", SETTINGS[1]), label(SETTINGS[0], "aggregators=1")}) == 3


@pytest.mark.parametrize("per_home", [False, True])
def test_compose_file_has_a_text_as_a_comment_whatever_is_in_it(per_home: bool) -> None:
    for separator in ("\n", "\r\n", "\x85", "\u2028", "\x1b[2K\n"):
        title = f"two lines{separator}services: {{intruder: {{image: x}}}}"
        text = compose("user_oriented", [f"title={json.dumps(title)}"], per_home=per_home)
        plain = compose("user_oriented", ["title=plain"], per_home=per_home)
        assert parse(text)["services"].keys() == parse(plain)["services"].keys()
        assert len(text.splitlines()) == len(plain.splitlines())


def test_docker_accepts_compose_files_with_overlays() -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], check=False).returncode:
        pytest.skip("no Docker with Compose 2 here")
    for overlay in ("deploy/compose.nats.yaml", "deploy/faults/compose.slow.yaml"):
        files = ["-f", str(CLONE / "compose.yaml"), "-f", str(CLONE / overlay)]
        subprocess.run(["docker", "compose", *files, "config", "--quiet"], check=True)
