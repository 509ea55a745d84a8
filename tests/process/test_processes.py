"""Whole runs over MQTT: every node a process of its own, on real brokers; nodes that die; messages that are none."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

import broker
from stackelgrid import cli, runner
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory, processes
from stackelgrid.testbed.node_configs import build_node_configs

KINDS = ["mosquitto", "embedded"]
SMALL = ["population.homes=8", "aggregators=2", "rounds.deadline_s=60", "rounds.return_s=0.5"]
"""No deadline passes, however slow the machine; a node that died is given up when its last will has come."""


@pytest.fixture(params=KINDS)
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def pid_of(folder: Path, node: str) -> int:
    entries = [json.loads(line) for line in (folder / "logs" / f"{node}.jsonl").read_text().splitlines()]
    return int(next(entry["pid"] for entry in entries if entry["event"] == "started"))


def play(scenario: Scenario, folder: Path, url: str) -> RunRecord:
    """Play a run whose name is that of its folder."""
    folder.mkdir()
    return processes.play(scenario, folder, url, folder.name)


@pytest.mark.parametrize("homes_per_process", [1, 3])
def test_run_over_mqtt_agrees_with_memory(broker_url: str, tmp_path: Path, homes_per_process: int) -> None:
    scenario = load("user_oriented", [*SMALL, f"homes_per_process={homes_per_process}"])
    over_mqtt = play(scenario, tmp_path / f"agree{homes_per_process}", broker_url)
    in_one = in_memory.play(scenario)
    assert over_mqtt.settled
    assert over_mqtt.conclusion["complete"]
    assert over_mqtt.conclusion["unacknowledged"] == []
    assert over_mqtt.failures == {}
    found, expected = scenario.outcome(over_mqtt), scenario.outcome(in_one)
    for key in ("price", "load_kw", "baseline_load_kw"):
        np.testing.assert_allclose(getattr(found, key), getattr(expected, key), rtol=1e-9)
    assert found.homes.keys() == {home.id for home in scenario.everyone}
    assert over_mqtt.messages >= in_one.messages  # more where a busy machine made one ask again


class Ear:
    """Listens in on a run and knows which topics have carried a message."""

    def __init__(self, url: str, run: str) -> None:
        host, port = url.removeprefix("mqtt://").split(":")
        self._root = f"stackelgrid/{run}/"
        self._heard: dict[str, threading.Event] = defaultdict(threading.Event)
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _data, message: self._heard[message.topic].set()
        self._client.connect(host, int(port))
        self._client.subscribe(f"{self._root}#")

    def __enter__(self) -> "Ear":
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait(self, topic: str) -> None:
        assert self._heard[self._root + topic].wait(120), f"nothing was said on {topic}"


@pytest.mark.parametrize(
    ("who", "answer", "policy"),
    [
        ("h3", "a1/h3/answer", "hold"),
        ("h3", "a1/h3/answer", "exclude"),
        ("a1", "leader/a1/answer", "hold"),
        ("a1", "leader/a1/answer", "fail"),
        ("leader", "leader/a1/answer", "hold"),
    ],
)
def test_run_goes_on_without_a_node_that_dies(
    broker_url: str, tmp_path: Path, who: str, answer: str, policy: str
) -> None:
    # One that must answer is awaited though it died, until its deadline.
    deadline = ["rounds.deadline_s=4", "rounds.tries=1"] if policy == "fail" else []
    scenario = load("user_oriented", [*SMALL, f"rounds.missing={policy}", *deadline])
    folder = tmp_path / f"dies-{who}-{policy}"

    def kill_after_its_first_answer(ear: Ear) -> None:
        # A home of the other aggregator stands still meanwhile, so that the game cannot be over first.
        ear.wait("a2/h4/presence")
        still = pid_of(folder, "h4")
        os.kill(still, signal.SIGSTOP)
        ear.wait(answer)
        os.kill(pid_of(folder, who), signal.SIGKILL)
        os.kill(still, signal.SIGCONT)

    with Ear(broker_url, folder.name) as ear, ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill_after_its_first_answer, ear)
        run_record = play(scenario, folder, broker_url)
        killed.result(120)
    assert "killed by signal 9" in run_record.failures[who]
    if who == "leader":
        assert run_record.lost
    elif policy == "fail":
        assert run_record.lost
        assert run_record.conclusion["lost"] == [who]
    else:
        assert run_record.settled
        assert not run_record.conclusion["complete"]
        assert {entry["node"] for entry in run_record.missing} == {who}
        assert {entry["action"] for entry in run_record.missing} == {"held" if policy == "hold" else "excluded"}


def test_run_settles_when_a_home_is_stopped(broker_url: str, tmp_path: Path) -> None:
    # The others answer within three deadlines, even on a busy machine.
    scenario = load("user_oriented", [*SMALL, "rounds.deadline_s=2"])
    folder = tmp_path / "still"

    def stop_until_the_settlement(ear: Ear) -> None:
        ear.wait("a1/h3/presence")
        pid = pid_of(folder, "h3")
        os.kill(pid, signal.SIGSTOP)
        ear.wait("a1/settlement")
        os.kill(pid, signal.SIGKILL)  # else its receipt is awaited for a minute

    with Ear(broker_url, folder.name) as ear, ThreadPoolExecutor(1) as stopper:
        stopped = stopper.submit(stop_until_the_settlement, ear)
        run_record = play(scenario, folder, broker_url)
        stopped.result(120)
    assert run_record.settled
    assert "h3" in run_record.conclusion["unacknowledged"]
    assert {entry["node"] for entry in run_record.missing} == {"h3"}


PAYLOADS = [
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"null",
    b"[]" * 50,
    b"[" * 5000,
    b'{"schema":1}',
    b'{"schema":2,"run":"RUN","sender":"WHO","round":1,"body":{"price":[1]}}',
    b'{"schema":1,"run":"other","sender":"WHO","round":1,"body":{"price":PRICE}}',
    b'{"schema":1,"run":"RUN","sender":"mallory","round":1,"body":{"price":PRICE}}',
    b'{"schema":1,"run":"RUN","sender":"WHO","round":1,"body":{"price":[NaN]}}',
    b'{"schema":1,"run":"RUN","sender":"WHO","round":1,"body":{"price":[1,2,3]}}',
    b'{"schema":1,"run":"RUN","sender":"WHO","round":1e400,"body":{"price":PRICE}}',
    b'{"schema":1,"run":"RUN","sender":"WHO","round":1,"body":{"price":PRICE,"extra":1}}',
    b'{"schema":1,"run":"RUN","sender":"WHO","round":1,"body":{"homes":1,"load_kw":[1],"slope":[0]}}',
    b'{"schema":1,"run":"RUN","sender":"WHO","round":1,"body":{"homes":1,"load_kw":{"shape":[9,9],"float64":"AAAA"},'
    b'"slope":[0]}}',
    b'{"schema":1,"run":"RUN","sender":"WHO","state":"gone"}',
]


def topics(scenario: Scenario, run: str) -> Iterator[tuple[str, str]]:
    """Every topic of a run, with the node that may write there."""
    conversations = {"leader": list(scenario.households())} | {
        name: [homes[0].id for homes in group] for name, group in scenario.households().items()
    }
    for coordinator, members in conversations.items():
        for purpose in ("signal", "settlement"):
            yield f"stackelgrid/{run}/{coordinator}/{purpose}", coordinator
        for member in members:
            for purpose in ("answer", "receipt", "presence"):
                yield f"stackelgrid/{run}/{coordinator}/{member}/{purpose}", member


def flood(url: str, scenario: Scenario, run: str, count: int) -> None:
    """Publish `count` malformed messages over all topics of the run."""
    random = np.random.default_rng(7)
    targets = list(topics(scenario, run))
    host, port = url.removeprefix("mqtt://").split(":")
    price = json.dumps([9.24] * scenario.slots).encode()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect(host, int(port))
    client.loop_start()
    for _ in range(count):
        topic, who = targets[int(random.integers(len(targets)))]
        kind = int(random.integers(len(PAYLOADS) + 1))
        if kind < len(PAYLOADS):
            payload = PAYLOADS[kind].replace(b"RUN", run.encode()).replace(b"WHO", who.encode())
            payload = payload.replace(b"PRICE", price)
        else:
            payload = random.bytes(int(random.integers(1, 2000)))
        published = client.publish(topic, payload, qos=0)
    published.wait_for_publish()
    client.disconnect()
    client.loop_stop()


def test_run_is_unchanged_by_ten_thousand_malformed_messages(broker_url: str, tmp_path: Path) -> None:
    # A home stands still during the flood, so that the game is not over before: nobody may give it up meanwhile.
    scenario = load("user_oriented", [*SMALL, "rounds.return_s=60"])
    expected = scenario.outcome(in_memory.play(scenario))
    folder = tmp_path / "flooded"
    with Ear(broker_url, folder.name) as ear, ThreadPoolExecutor(1) as player:
        run = player.submit(play, scenario, folder, broker_url)
        ear.wait("a1/h3/presence")
        still = pid_of(folder, "h3")
        os.kill(still, signal.SIGSTOP)
        try:
            flood(broker_url, scenario, folder.name, 10_000)
        finally:
            os.kill(still, signal.SIGCONT)
        run_record = run.result()
    assert run_record.failures == {}
    assert run_record.settled
    found = scenario.outcome(run_record)
    for key in ("price", "load_kw"):
        np.testing.assert_allclose(getattr(found, key), getattr(expected, key), rtol=1e-9)
    assert sum(run_record.rejected.values()) > 1_000
    warnings = [
        line
        for path in (folder / "logs").glob("*.jsonl")
        for line in path.read_text().splitlines()
        if '"message ignored"' in line
    ]
    assert 0 < len(warnings) <= 11 * 3 * 5  # nodes x reasons x kinds of topic: logged once each, not ten thousand times


def children(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_stays_when_the_command_is_ended(tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "ended"
    command = [sys.executable, "-m", "stackelgrid", "run", "user_oriented", "--out", str(folder), "--quiet"]
    for setting in [*SMALL, "rounds.deadline_s=30"]:
        command += ["--set", setting]
    running = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_for((folder / "logs" / "leader.jsonl").exists)
        family = children(psutil.Process(running.pid))
        assert len(family) >= 1 + 3
        running.send_signal(how)
        running.wait(300)  # its report is written first
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
        if how != signal.SIGKILL:
            assert running.returncode in (130, 0)  # it may have settled in the same moment
            assert (folder / "result.json").exists()
    finally:
        running.kill()
        running.communicate()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_runs_of_one_name_do_not_receive_each_other(
    broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Certificate and drawings take longer than the run.
    monkeypatch.setattr(runner, "CERTIFIED_UP_TO", 0)
    monkeypatch.setattr(runner.Run, "report", lambda self: self.folder)
    for number in (1, 2):
        folder = tmp_path / str(number) / "same"
        command = ["stackelgrid", "run", "user_oriented", "--out", str(folder), "--json", "--broker", broker_url]
        for setting in [*SMALL, f"leader.mu={number}"]:
            command += ["--set", setting]
        monkeypatch.setattr(sys, "argv", command)
        assert cli.main() == 0
        result = json.loads(capfd.readouterr().out)
        assert result["complete"]
        assert result["rejected"] == {}


def test_emc_imports_nothing_heavy() -> None:
    code = (
        "import sys, emc_node.__main__; "
        "print([m for m in ('cvxpy', 'scipy', 'matplotlib', 'typer', 'rich', 'ruamel.yaml') if m in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"


def test_command_writes_result_and_report_and_ends_with_4_when_a_home_dies(tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    command = [sys.executable, "-m", "stackelgrid", "run", "user_oriented", "--out", str(folder), "--json"]
    for setting in SMALL:
        command += ["--set", setting]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(
        lambda: (folder / "logs" / "h3.jsonl").exists() and "started" in (folder / "logs" / "h3.jsonl").read_text()
    )
    os.kill(pid_of(folder, "h3"), signal.SIGKILL)
    out, err = running.communicate(timeout=300)
    result = json.loads(out)
    assert running.returncode == 4, err
    assert "h3 killed by signal 9" in err.decode()
    assert "killed by signal 9" in result["failures"]["h3"]
    assert result["settled"]
    assert (folder / "report.html").exists()


def test_nodes_are_lost_with_a_forkserver_that_cannot_import(tmp_path: Path) -> None:
    scenario = load("user_oriented", SMALL)
    run_record = RunRecord("mqtt", "none", 1)
    nodes = processes.NodeProcesses("no_such_game", tmp_path, tmp_path, run_record, None, under_plan=False)
    try:
        nodes.start(build_node_configs(scenario, "lost"), None, None)
        nodes.wait(lambda: None)
    finally:
        nodes.stop()
    assert run_record.failures["leader"] == "lost with its forkserver, see logs/forkserver.log"
    assert "no_such_game" in (tmp_path / "forkserver.log").read_text()


def start_run(folder: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """Start a run as a command, its settings `SMALL` before those of `words`."""
    command = [sys.executable, "-m", "stackelgrid", "run", "user_oriented", "--out", str(folder), "--quiet"]
    command += [word for setting in SMALL for word in ("--set", setting)]
    return subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True, **options)


def has_ended(pid: int) -> bool:
    """Tell whether a process has ended, whether its new parent has taken notice or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def find_process(running: subprocess.Popen[str], word: str) -> psutil.Process | None:
    """Find the process of a command that has `word` in its command line: the first one that was started."""
    for process in psutil.Process(running.pid).children(recursive=True):
        with suppress(psutil.Error):
            if word in " ".join(process.cmdline()[:4]):
                return process
    return None


@pytest.mark.parametrize("victim", ["mosquitto -c", "broker.embedded", "node.forkserver"])
@pytest.mark.parametrize("moment", ["gathering", "in a round"])
def test_run_ends_at_once_with_its_broker_or_forkserver(victim: str, moment: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kind = "embedded" if victim == "broker.embedded" else "mosquitto"
    running = start_run(folder, "--set", "rounds.deadline_s=300", "--set", "rounds.gather_s=300", "--broker", kind)
    log = folder / "logs" / "h1.jsonl"
    wait_for(lambda: log.exists() and "started" in log.read_text())
    still = pid_of(folder, "h1")
    os.kill(still, signal.SIGSTOP)  # the others wait for it
    try:
        leader = folder / "logs" / "leader.jsonl"
        wait_for(lambda: moment == "gathering" or (leader.exists() and "connected" in leader.read_text()))
        process = find_process(running, victim)
        assert process is not None
        process.kill()
        _, err = running.communicate(timeout=100)  # nodes would wait for a minute, gathering for five
        wait_for(lambda: has_ended(still))
    finally:
        with suppress(ProcessLookupError):
            os.kill(still, signal.SIGKILL)
    assert running.returncode == 4, err
    assert "lost with its forkserver" in err if "fork" in victim else "was killed by signal 9" in err, err
    assert err.splitlines()[-1].startswith("the run ended without ") and str(folder) in err.splitlines()[-1]
    assert json.loads((folder / "result.json").read_text())["failures"]
    assert (folder / "manifest.json").exists() and any((folder / "logs").iterdir())


def test_run_names_the_limit_on_open_files_before_it_starts(tmp_path: Path) -> None:
    began = time.monotonic()
    running = start_run(tmp_path / "run", "--set", "population.homes=60", preexec_fn=lambda: limit(NOFILE, 64, 64))
    _, err = running.communicate(timeout=100)
    assert running.returncode == 2
    assert "ulimit -Hn" in err and "homes_per_process: 3" in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "run").exists()
    assert time.monotonic() - began < 60


def test_run_raises_the_soft_limit_on_open_files(tmp_path: Path) -> None:
    running = start_run(tmp_path / "run", "--set", "population.homes=30", preexec_fn=lambda: limit(NOFILE, 36, 4096))
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err


@pytest.mark.skipif(os.geteuid() != 0, reason="the limit does not hold for root, who alone can become somebody else")
def test_run_names_the_limit_on_processes_before_it_starts() -> None:
    code = (
        "import os, resource, stackelgrid.testbed.limits as limits; from stackelgrid.scenarios import load\n"
        "scenario = load('user_oriented', ['population.homes=8', 'aggregators=2'])\n"
        "os.setuid(65534); resource.setrlimit(resource.RLIMIT_NPROC, (30, 30))\n"
        "limits.require_room(scenario, under_plan=False)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the run needs 38 processes and threads" in ended.stderr, ended.stderr
    assert "ulimit -u" in ended.stderr and re.search(r"homes_per_process: [1-4]\b", ended.stderr), ended.stderr


def test_forkserver_reports_a_node_that_it_cannot_start(tmp_path: Path) -> None:
    forkserver = subprocess.Popen(
        [sys.executable, "-m", "stackelgrid.node.forkserver", "user_oriented", "emc_node"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: limit(NOFILE, 16, 16),  # noqa: PLW1509  (no other thread runs)
    )
    nodes = [
        {"package": "emc_node", "config": f"h{n}.json", "log": str(tmp_path / "log"), "input": ""} for n in range(20)
    ]
    said, _ = forkserver.communicate("".join(json.dumps(node) + "\n" for node in nodes), timeout=100)
    reports = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {"unstarted": "h19.json", "why": "Too many open files"} in reports
    assert forkserver.returncode == 0


NOFILE = resource.RLIMIT_NOFILE


def limit(what: int, soft: int, hard: int) -> None:
    resource.setrlimit(what, (soft, hard))


@contextmanager
def running_mosquitto(folder: Path, *settings: str) -> Iterator[str]:
    """A Mosquitto that belongs to somebody else, with some more settings; gives its address."""
    program, port = broker.find_mosquitto(), broker.free_port()
    if program is None:
        pytest.skip("Mosquitto is not installed")
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", *settings]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    with subprocess.Popen([program, "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL) as mosquitto:
        try:
            assert broker.answers(port)
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            mosquitto.terminate()


QUICK = ["--set", "rounds.deadline_s=1", "--set", "rounds.tries=1", "--set", "rounds.gather_s=2"]


def test_run_names_what_a_broker_with_too_few_connections_refused(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path, "max_connections 2") as url:
        running = start_run(tmp_path / "run", *QUICK, "--broker", url)
        _, err = running.communicate(timeout=300)
    assert running.returncode == 4, err
    assert re.search(r"^\w+ ended with code 4 \(.+\)", err, re.MULTILINE), err
    assert (tmp_path / "run" / "logs" / "leader.jsonl").exists()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["failures"]


def test_run_names_a_home_that_every_round_went_on_without(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("topic deny stackelgrid/+/a1/h1/answer\ntopic readwrite #\n")
    (tmp_path / "rules").chmod(0o644)
    with running_mosquitto(tmp_path, "user root", f"acl_file {tmp_path / 'rules'}") as url:
        running = start_run(tmp_path / "run", *QUICK, "--broker", url)
        _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    assert "h1 was left out of every round" in err


def test_run_says_how_many_homes_came_late(tmp_path: Path) -> None:
    apart = {"kind": "partition", "groups": [["home:1"], ["aggregator:1"]]}
    (tmp_path / "plan.yaml").write_text(json.dumps({"faults": [apart]}))
    running = start_run(tmp_path / "run", *QUICK, "--faults", str(tmp_path / "plan.yaml"))
    _, err = running.communicate(timeout=300)
    assert "7 of 8 homes had come when the first round began; raise rounds.gather_s, which is 2 s" in err, err


def test_run_starts_no_more_nodes_at_a_time_than_are_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_STARTING", 2)
    scenario = load("user_oriented", SMALL)
    (tmp_path / "run").mkdir()
    run_record = processes.play(scenario, tmp_path / "run", "auto", "few-at-a-time")
    assert run_record.settled and run_record.failures == {} and run_record.late == []

    def time_of(node: str, event: str) -> str:
        entries = map(json.loads, (tmp_path / "run" / "logs" / f"{node}.jsonl").read_text().splitlines())
        return next(str(entry["time"]) for entry in entries if entry["event"] == event)

    connected = sorted(time_of(f"h{number}", "connected") for number in range(1, 9))
    assert time_of("leader", "started") >= connected[-1]
