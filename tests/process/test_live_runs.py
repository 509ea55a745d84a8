"""`stackelgrid ui` and the runs that it starts: watched as they go on, disturbed, stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from support.ui_server import ORDER, SMALL, Event, Server, await_event, serve

from stackelgrid import cli
from stackelgrid.testbed import fault_plans
from stackelgrid.ui.play import Order


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("desk")) as server:
        yield server


def test_faults_strike_a_run_that_is_on(server: Server) -> None:
    run = server.start()
    events = server.watch(run)
    assert await_event(events, {"type": "tree"})[0] == 1
    await_event(events, {"type": "round", "round": 1})
    status, summary = server.call("GET", run)
    assert (status, summary["state"], summary["result"]) == (200, "running", None)
    assert summary["stoppable"] and summary["faultable"]
    assert server.call("DELETE", run)[0] == 409

    crash = {"kind": "crash", "node": "a2", "restart_after_s": 0.5}
    assert server.call("POST", f"{run}/faults", crash) == (202, {"fault": 1})
    _, struck = await_event(events, {"type": "fault"})
    assert (struck["kind"], struck["nodes"], struck["text"]) == ("crash", ["a2"], "Fault: crash of a2")
    await_event(events, {"type": "node", "state": "crashed", "names": "a2"})
    _, missed = await_event(events, {"type": "round", "held": ["a2"]})
    await_event(events, {"type": "node", "state": "held", "names": "a2"})
    _, told = await_event(events, {"type": "message"})
    assert told["text"].startswith(f"a2 counts with its last answer in round {missed['round']}")
    await_event(events, {"type": "node", "state": "answered", "names": "a2"})
    number, back = await_event(events, {"type": "round", "held": []})

    loss = {"kind": "loss", "from": "h1", "probability": 1, "rounds": 1}
    assert server.call("POST", f"{run}/faults", loss) == (202, {"fault": 2})
    _, first = await_event(events, {"type": "fault", "kind": "loss"})
    number, _ = await_event(events, {"type": "node", "state": "held", "names": "h1"})
    others = server.watch(run)  # of another page
    rest = [*events]
    assert rest[-1][1]["state"] == "settled"
    assert [*others][number:] == rest
    assert [*server.watch(run, rest[-1][0])] == []

    plan = server.folder / "plan.yaml"
    plan.write_bytes(server.client.get(f"{run}/faults").content)
    pace, killed, lost = fault_plans.load(str(plan)).faults
    assert (pace.kind, killed.kind, killed.at.round) == ("slow", "crash", struck["round"])  # type: ignore[union-attr]
    assert lost.during.rounds == (first["round"], first["round"])  # type: ignore[union-attr]
    assert back["round"] > missed["round"] >= struck["round"]


@pytest.mark.parametrize(
    ("fault", "key"),
    [
        ({}, "kind"),
        ({"kind": "dalay"}, "kind"),
        ({"kind": ["crash"]}, "kind"),
        ({"kind": "crash", "node": "a1", "at": {"round": 1}}, "at"),
        ({"kind": "crash"}, "node"),
        ({"kind": "delay", "seconds": 1, "rounds": 0}, "rounds"),
        ({"kind": "crash", "node": "a1", "rounds": 2}, "rounds"),
        ({"kind": "stall", "node": "a1", "seconds": "x"}, "seconds"),
        ({"kind": "broker", "seconds": 1, "keep_retained": True}, "keep_retained"),
        ({"kind": "crash", "node": "a9"}, "node"),
    ],
    ids=str,
)
def test_fault_that_is_wrong_is_refused(running: tuple[Server, str], fault: Event, key: str) -> None:
    server, run = running
    status, answer = server.call("POST", f"{run}/faults", fault)
    assert (status, answer["key"]) == (422, key)
    assert "\n" not in answer["message"]


@pytest.fixture(scope="module")
def running(server: Server) -> Iterator[tuple[Server, str]]:
    """A run that does not end by itself."""
    run = server.start()
    assert server.call("POST", f"{run}/faults", {"kind": "stall", "node": "leader", "seconds": 1000})[0] == 202
    yield server, run
    assert server.call("POST", f"{run}/stop")[0] == 202
    assert [*server.watch(run)][-1][1]["state"] == "interrupted"
    assert server.call("POST", f"{run}/stop")[0] == 409
    assert server.call("GET", run)[1]["state"] == "interrupted"


@pytest.mark.parametrize(
    ("order", "name"),
    [
        ({"scenario": "load_call"}, "load_call"),
        ({"scenario": "my own.v2.yaml"}, "my own.v2"),
        ({"scenario": ".yaml"}, "yaml"),
        ({"scenario": {}}, "run"),
        ({"scenario": {}, "name": "naïve ☀"}, "naïve ☀"),
        ({"scenario": {}, "name": "a\u2028b\x7f"}, "a-b-"),
        ({"scenario": "x" * 250 + ".yaml"}, "x" * 50),
    ],
    ids=str,
)
def test_folder_of_a_run_has_a_name_that_is_shown(order: Event, name: str) -> None:
    assert Order(**order).folder_name == name


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"set": {"leader.mu": -1}}, "leader.mu"),
        ({"scenario": "/etc/passwd"}, "scenario"),
        ({"name": "../up"}, "name"),
        ({"pace_s": 2}, "pace_s"),
        ({"transport": "memory"}, "pace_s"),
        ({"faults": "nothing"}, "faults"),
        ({"what": 1}, "what"),
    ],
    ids=str,
)
def test_run_that_cannot_be_played_is_refused(server: Server, change: Event, key: str) -> None:
    before = {path.name for path in (server.folder / "runs").glob("*")}
    status, answer = server.call("POST", "/runs", {**ORDER, **change})
    assert (status, answer["key"]) == (422, key)
    assert {path.name for path in (server.folder / "runs").glob("*")} == before


def test_run_in_memory_is_told_and_takes_no_faults(server: Server) -> None:
    run = server.start(scenario="load_call", set={}, transport="memory", pace_s=0, name="naïve ☀")
    told = [event for _, event in server.watch(run)]
    states = [event["state"] for event in told if event["type"] in ("node", "end")]
    assert states == ["starting", "online", "answered", "settled", "settled"]
    assert (told[0]["seconds"], told[-1]["seconds"]) == (0.0, 0.5)  # time to see a round, when it is watched again
    summary = server.call("GET", run)[1]
    assert not summary["stoppable"] and not summary["faultable"]
    assert server.call("POST", f"{run}/faults", {"kind": "crash", "node": "a1"})[0] == 409
    assert server.call("DELETE", run) == (204, None)
    assert server.call("GET", run)[0] == 404


def test_server_that_ends_stops_its_runs(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        run = server.start()
        await_event(server.watch(run), {"type": "round"})
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "events.jsonl").read_text().splitlines()[-1])["state"] == "interrupted"
    assert json.loads((folder / "result.json").read_text())["rounds"]


def test_run_ends_with_a_server_that_was_killed(tmp_path: Path) -> None:
    server = Server(tmp_path)
    run = server.start()
    await_event(server.watch(run), {"type": "round"})
    server.end(signal.SIGKILL)
    with serve(tmp_path) as another:
        (summary,) = another.call("GET", "/runs")[1]
        assert summary["state"] in ("running", "interrupted")
        assert [*another.watch(run)][-1][1]["state"] == "interrupted"


def test_command_serves_the_page_on_its_own_run(tmp_path: Path) -> None:
    sets = [f"--set={key}={value}" for key, value in SMALL.items()]
    command = ["run", "user_oriented", *sets, "--no-certify", "--out", "my run", "--watch"]
    with subprocess.Popen(
        [sys.executable, "-m", "stackelgrid", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        address = urlsplit(process.stderr.readline().removeprefix("watch: ").strip())
        assert address.fragment == "/runs/my%20run"
        with httpx2.Client(base_url=f"http://{address.netloc}", timeout=60) as client:
            client.get(f"/?{address.query}")  # gives the cookie
            told = client.get("/api/v1/runs/my run/events").text
            assert told.rstrip().endswith('"type": "end", "state": "settled"}')
            assert '"state": "answered"' in told
            assert client.get("/api/v1/runs/my run").json()["state"] == "settled"
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert out.rstrip().endswith("report: my run/report.html")


def test_port_in_use_is_one_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["stackelgrid", "ui", "--port", str(port)])
        assert cli.main() == 2
    assert capsys.readouterr().err == f"--port {port}: in use; name another, or 0 for a free one\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on any port")
def test_port_of_the_system_is_one_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stackelgrid", "ui", "--port", "1"])
    assert cli.main() == 2
    assert capsys.readouterr().err.startswith("--port 1: Permission denied")


def test_token_that_no_address_carries_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("", "a b", "ü", "a&b"):
        monkeypatch.setattr(sys, "argv", ["stackelgrid", "ui", "--token", token])
        assert cli.main() == 2
        assert capsys.readouterr().err.startswith("--token: give letters")
