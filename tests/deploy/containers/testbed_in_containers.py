"""The testbed in real containers: it comes up and settles, and ends as the policy says when a container is harmed.

Needs an engine and Compose 2: `make test-containers` finds or starts them.
Plain `pytest` does not collect this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stackelgrid.scenarios import load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.result import build_result

CLONE = Path(__file__).parents[3]
OVERLAY = CLONE / "deploy/faults/compose.slow.yaml"
SMALL = ["population.homes=8", "aggregators=2", "population.satisfaction=power", "privacy.sensitivity=full"]
"""Eight rounds of the leader, which the overlay makes last two seconds each."""
SHIPPED = ["aggregators=3", "privacy.sums=committee"]
"""The case of compose.yaml, as `provision` protects it."""
IMPATIENT = ["rounds.deadline_s=3", "rounds.return_s=5"]
BASE_IMAGE = os.environ.get("PYTHON_IMAGE", "python:3.12-slim-bookworm")

pytestmark = [pytest.mark.timeout(1200)]


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, cwd=CLONE, check=False)
    if check and done.returncode:
        pytest.fail(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


class Project:
    """A Compose project, and what its containers say."""

    def __init__(self, name: str, *files: Path) -> None:
        self.run, self.name, self.folder = "", name, files[0].parent
        self._compose = ["compose", "-p", name]
        for file in files:
            self._compose += ["-f", str(file)]

    def __call__(self, *arguments: str) -> str:
        environment = {**os.environ, "STACKELGRID_SOURCE": str(CLONE)} | (
            {"STACKELGRID_RUN": self.run} if self.run else {}
        )
        done = subprocess.run(
            ["docker", *self._compose, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            pytest.fail(f"compose {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def containers(self, service: str = "") -> list[str]:
        return self("ps", "--quiet", *([service] if service else [])).split()

    def wait_for_round(self, number: int) -> None:
        """Until the observer has heard the leader ask this round."""
        self._wait(f'"run": "{self.run}", "node": "observer", "round": {number},')

    def wait_for_the_end(self) -> dict[str, Any]:
        """Until the observer has written the run's folder; its result."""
        self._wait('"event": "written"')
        written: dict[str, Any] = json.loads(self("exec", "-T", "observer", "cat", f"/runs/{self.run}/result.json"))
        return written

    def _wait(self, wanted: str, seconds: float = 300) -> None:
        give_up = time.monotonic() + seconds
        while wanted not in self("logs", "--no-log-prefix", "observer"):
            assert time.monotonic() < give_up, f"the observer has not said {wanted}"
            time.sleep(0.3)


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker with Compose 2 here: scripts/containers/start-engine may start one")
    if not docker("version", "--format", "{{.Server.Version}}", check=False).strip():
        pytest.skip("no Docker engine answers here: scripts/containers/start-engine may start one")
    began = time.perf_counter()
    for target in ("emc", "testbed"):
        arguments = ["--build-arg", f"PYTHON_IMAGE={BASE_IMAGE}", "--target", target, "--tag", f"stackelgrid-{target}"]
        docker("build", "--quiet", *arguments, ".")
    print(f"\nboth images built in {time.perf_counter() - began:.0f} s")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Eight homes below two aggregators, slowed down."""
    file = tmp_path_factory.mktemp("compose") / "small.yaml"
    write_compose("user_oriented", file, SMALL + IMPATIENT)
    project = Project("stackelgrid-test-small", file, OVERLAY)
    yield project
    project("down", "--volumes", "--timeout", "2")


def write_compose(scenario: str, file: Path, sets: list[str], *options: str) -> None:
    words = [word for value in sets for word in ("--set", value)]
    subprocess.run(
        [sys.executable, "-m", "stackelgrid", "compose", scenario, "--out", str(file), *words, *options], check=True
    )


def in_one_process(scenario: str, sets: list[str]) -> dict[str, Any]:
    loaded = load(scenario, sets)
    return build_result(loaded, in_memory.play(loaded)).content()


def test_images_are_small() -> None:
    size = {
        name: int(docker("image", "inspect", "--format", "{{.Size}}", name)) for name in ("stackelgrid-emc", BASE_IMAGE)
    }
    added_mb = (size["stackelgrid-emc"] - size[BASE_IMAGE]) / 1e6
    print(f"emc: {added_mb:.0f} MB on top of {size[BASE_IMAGE] / 1e6:.0f} MB")
    assert added_mb < 150
    modules = "cvxpy", "scipy", "matplotlib", "ruamel", "typer"
    told = docker(
        "run",
        "--rm",
        "stackelgrid-emc",
        "python",
        "-c",
        f"""if True:
        import importlib.util as u
        print([name for name in {modules!r} if u.find_spec(name)])""",
    )
    assert told.strip() == "[]"


def test_shipped_case_settles_in_containers() -> None:
    project = Project("stackelgrid-test-shipped", CLONE / "compose.yaml")
    project.run = "user_oriented"
    began = time.perf_counter()
    try:
        project("up", "--wait")
        print(f"\nup and settled in {time.perf_counter() - began:.0f} s")
        gathered = json.loads(project("exec", "-T", "observer", "cat", "/runs/user_oriented/result.json"))
        assert (gathered["settled"], gathered["complete"], gathered["failures"]) == (True, True, {})
        assert gathered["certificate"]["passed"] is True
        levels = {key: gathered["privacy"][key] for key in ("sums", "minimum_group", "keys")}
        assert levels == {"sums": "committee", "minimum_group": 20, "keys": "certificates"}
        alone = in_one_process("user_oriented", SHIPPED)
        assert gathered["outcome"]["price"] == pytest.approx(alone["outcome"]["price"], rel=1e-9)
        assert (gathered["rounds"], gathered["inner_rounds"]) == (alone["rounds"], alone["inner_rounds"])
        assert len(project.containers()) == 60 + 3 + 3  # with the leader, the broker and the observer
        for container in project.containers():
            assert_contained(json.loads(docker("inspect", container))[0])
        certificate = project("run", "--rm", "testbed", "stackelgrid", "certify", "runs/user_oriented")
        assert json.loads(certificate)["passed"] is True
        project("run", "--rm", "testbed", "stackelgrid", "certs", "revoke", "h01")  # and the desk runs the authority
    finally:
        project("down", "--volumes", "--timeout", "2")


def test_shipped_case_settles_when_a_nats_server_is_killed() -> None:
    project = Project("stackelgrid-test-nats", CLONE / "compose.yaml", CLONE / "deploy/compose.nats.yaml", OVERLAY)
    project.run = "nats"
    try:
        project("up", "--detach")
        project.wait_for_round(2)
        (server,) = project.containers("nats-2")
        docker("kill", server)
        gathered = project.wait_for_the_end()
    finally:
        project("down", "--volumes", "--timeout", "2")
    told = {key: gathered[key] for key in ("settled", "complete", "rounds", "missing", "failures", "elapsed_s")}
    print(f"\n{project.run}: {told}")
    assert gathered["settled"] and gathered["complete"] and gathered["certificate"]["passed"]
    alone = in_one_process("user_oriented", SHIPPED)
    assert gathered["outcome"]["price"] == pytest.approx(alone["outcome"]["price"], rel=1e-6)


def assert_contained(container: dict[str, Any]) -> None:
    """Health check, restart policy, limits, no root, nothing writable, no privileges, no secret."""
    host, config, name = container["HostConfig"], container["Config"], container["Name"]
    assert container["State"]["Health"]["Status"] == "healthy", name
    assert host["RestartPolicy"]["Name"] == "unless-stopped", name
    assert host["Memory"] > 0 and host["NanoCpus"] > 0 and host["PidsLimit"] > 0, name
    assert config["User"] == "10001:10001", name
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"], name
    assert host["SecurityOpt"] == ["no-new-privileges:true"], name
    assert not [word for word in config["Env"] if "PRIVATE" in word or "PASSWORD" in word or "KEY" in word], name


def test_home_images_hold_no_certificates() -> None:
    for image in ("stackelgrid-emc", "stackelgrid-testbed"):
        found = docker("run", "--rm", image, "find", "/certs", "/desk", "/runs", "/kept", "-type", "f")
        assert found == ""


def test_another_game_settles_with_replicas(tmp_path: Path) -> None:
    write_compose("load_call", tmp_path / "load_call.yaml", [], "--replicas")
    project = Project("stackelgrid-test-each", tmp_path / "load_call.yaml")
    project.run = "each"
    try:
        project("up", "--wait")
        gathered = json.loads(project("exec", "-T", "observer", "cat", "/runs/each/result.json"))
    finally:
        project("down", "--volumes", "--timeout", "2")
    alone = in_one_process("load_call", [])
    assert gathered["certificate"]["passed"] is True
    assert gathered["outcome"]["call_journal"] == alone["outcome"]["call_journal"]


def test_home_sees_no_other_home(small: Project) -> None:
    small.run = "apart"
    small("up", "--detach")
    small.wait_for_round(1)
    seen = small("exec", "-T", "home-h3", "find", "/certs", "-name", "*.*")
    files = {"ca.crt", "node.crt", "node.key", "config.json"}
    assert set(seen.split()) == {f"/certs/homes/{name}" for name in files}


def test_new_home_takes_part_when_there_are_more_homes_than_before(tmp_path: Path) -> None:
    """The broker has the new one's access rules."""
    project = Project("stackelgrid-test-more", tmp_path / "more.yaml")
    try:
        for homes in (2, 3):
            project.run = f"of-{homes}"
            sets = [f"population.homes={homes}", "aggregators=1"]
            write_compose("user_oriented", tmp_path / "more.yaml", sets)
            project("up", "--wait", "--remove-orphans")
            gathered = json.loads(project("exec", "-T", "observer", "cat", f"/runs/{project.run}/result.json"))
            assert (gathered["settled"], gathered["complete"], gathered["homes"]) == (True, True, homes)
    finally:
        project("down", "--volumes", "--timeout", "2")


AT_3 = {"at": {"round": 3}}
GRID = [
    *("population.homes=6", "aggregators=2", "calendar.days=5", "calendar.slot_minutes=60"),
    "gates={intraday_minutes: 15, clock: {speed: 2160}}",
]
"""Twenty sessions, of which one opens every ten seconds."""


HOME = {"id": "flat", "inelastic": [{"load_kw": [0.5] * 24}], "draw_limit": {"max_kw": 11}}


def test_grid_stays_while_homes_come_and_go(tmp_path: Path) -> None:
    """From one `up`: a home is revoked, one enrols with a key of its own, containers are harmed, none is made anew."""
    write_compose("street_week", tmp_path / "grid.yaml", GRID)
    (tmp_path / "home.json").write_text(json.dumps(HOME))
    project = Project("stackelgrid-test-grid", tmp_path / "grid.yaml")
    project.run, newcomer = "grid", "stackelgrid-test-newcomer"

    def certs(*words: str) -> str:
        return project("exec", "-T", "registrar", "stackelgrid", "certs", *words, "--dir", "/certs")

    began = time.perf_counter()
    try:
        project("up", "--wait")
        print(f"\nup in {time.perf_counter() - began:.0f} s")
        first = project.containers()
        for container in first:
            assert_contained(json.loads(docker("inspect", container))[0])
        certs("revoke", "h3")
        (tmp_path / "ca.crt").write_text(project("exec", "-T", "registrar", "cat", "/certs/authority/ca.crt"))
        files = [f"--volume={tmp_path / name}:/{name}:ro" for name in ("home.json", "ca.crt")]
        project("run", "--detach", f"--name={newcomer}", "--env", "STACKELGRID_HOME=h99", *files, "newcomer")
        wait_until(lambda: "h99" in certs("requests"))
        certs("approve", "h99")
        struck = disturb(
            project,
            {"kind": "crash", "node": "a2", "at": {"session": 12}, "restart_after_s": 2},
            {"kind": "cut", "node": "h2", "at": {"session": 13}, "seconds": 3},
            {"kind": "broker", "at": {"session": 14}, "seconds": 2},
        )
        assert [each["kind"] for each in struck] == ["crash", "cut", "broker"]
        gathered = project.wait_for_the_end()
        assert project.containers() == first
        aggregators = project("logs", "--no-log-prefix", "aggregators")
        answered = [json.loads(line) for line in aggregators.splitlines() if '"event": "round"' in line]
    finally:
        docker("rm", "--force", "--volumes", newcomer, check=False)  # which `down` leaves
        project("down", "--volumes", "--timeout", "2")
    sessions = gathered["sessions"]
    assert len(sessions) == 20
    assert all(session["settled"] and session["complete"] for session in sessions)
    of_a1 = {each["session"]: each["answered"] for each in answered if each["node"] == "a1"}
    assert (min(of_a1.values()), of_a1[20]) == (2, 3)


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.5)


HARMS = {
    "crash": {"kind": "crash", "restart_after_s": 1, **AT_3},
    "stall": {"kind": "stall", "seconds": 8, **AT_3},
    "cut": {"kind": "cut", "seconds": 8, **AT_3},
    "slow": {"kind": "slow", "seconds": 1, "during": {"rounds": [3, 4]}},
}


def disturb(project: Project, *faults: dict[str, Any]) -> list[dict[str, Any]]:
    """Play a fault plan on the project's containers; the records of what struck."""
    plan = project.folder / "plan.yaml"
    plan.write_text(json.dumps({"faults": faults}))  # JSON is YAML
    command = [sys.executable, "-m", "stackelgrid", "disturb", str(plan), "--compose", project.name, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("node", ["a1", "h3"])
def test_run_completes_when_a_container_comes_back(small: Project, harm: str, node: str) -> None:
    small.run = f"{harm}-{node}"
    small("up", "--detach")
    struck = disturb(small, {"node": node, **HARMS[harm]})
    gathered = small.wait_for_the_end()
    told = {key: gathered[key] for key in ("settled", "complete", "rounds", "missing", "failures", "elapsed_s")}
    print(f"\n{small.run}: {told}")
    rounds = [3, 4] if harm == "slow" else [3]
    assert [(each["kind"], each["node"], each["round"]) for each in struck] == [(harm, node, each) for each in rounds]
    assert gathered["settled"] and gathered["failures"] == {}
    assert {entry["node"] for entry in gathered["missing"]} <= {node, "a1"}
    assert gathered["complete"] and gathered["certificate"]["passed"]
    alone = in_one_process("user_oriented", SMALL)
    assert gathered["outcome"]["price"] == pytest.approx(alone["outcome"]["price"], rel=1e-4)


def test_run_completes_when_the_broker_comes_back(small: Project) -> None:
    small.run = "broker"
    small("up", "--detach")
    (record,) = disturb(small, {"kind": "broker", "seconds": 2, **AT_3})
    assert (record["kind"], record["round"]) == ("broker", 3)
    gathered = small.wait_for_the_end()
    assert gathered["settled"] and gathered["complete"]


@pytest.mark.parametrize("node", ["a2", "h4"])
def test_member_is_held_when_its_container_stays_away(small: Project, node: str) -> None:
    small.run = f"killed-{node}"
    small("up", "--detach")
    disturb(small, {"kind": "crash", "node": node, **AT_3})
    gathered = small.wait_for_the_end()
    told = {key: gathered[key] for key in ("settled", "complete", "rounds", "missing", "failures", "elapsed_s")}
    print(f"\n{small.run}: {told}")
    assert gathered["settled"] and not gathered["complete"] and gathered["certificate"] is None
    assert {(entry["node"], entry["action"]) for entry in gathered["missing"]} == {(node, "held")}
    assert node in gathered["failures"]
