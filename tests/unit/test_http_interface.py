"""The HTTP interface to runs that have ended: who may ask, what is given out, what a stream sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from starlette.testclient import TestClient

import stackelgrid
from stackelgrid.columns import encode_parquet
from stackelgrid.scenarios import load
from stackelgrid.testbed.run_lock import RunLock
from stackelgrid.ui import launcher
from stackelgrid.ui.access import MOST_BYTES
from stackelgrid.ui.launcher import Launcher
from stackelgrid.ui.recorder import FaultRefusedError
from stackelgrid.ui.server import Interface
from stackelgrid.ui.stream import follow
from stackelgrid.ui.words import describe_tree

TOKEN, COOKIE = "secret", "stackelgrid-test"
HOST = "http://127.0.0.1:8765"
RUN = "a run of two"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose name has spaces."""
    runs = tmp_path_factory.mktemp("runs")
    stackelgrid.run("prosumer", out=runs / RUN)
    return runs


@pytest.fixture
def stranger(runs: Path) -> TestClient:
    """A client without a token."""
    return TestClient(Interface(Launcher(runs), TOKEN, COOKIE).build(), base_url=HOST)


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    """A script that knows the token."""
    stranger.headers["Authorization"] = f"Bearer {TOKEN}"
    return stranger


def read_events(client: TestClient, run: str = RUN, **headers: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the stream of a run that has ended: number and content of each event."""
    for block in client.get(f"/api/v1/runs/{run}/events", headers=headers).text.strip().split("\n\n"):
        number, data = block.split("\n")
        yield int(number.removeprefix("id: ")), json.loads(data.removeprefix("data: "))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/v1/runs"), ("GET", f"/api/v1/runs/{RUN}/events"), ("DELETE", f"/api/v1/runs/{RUN}")],
)
def test_request_without_the_token_is_refused(stranger: TestClient, runs: Path, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer wrong"}, {"Cookie": f"{COOKIE}=wrong"}):
        answer = stranger.request(method, path, headers=headers)
        assert (answer.status_code, set(answer.json())) == (401, {"message"})
    assert (runs / RUN).is_dir()


def test_page_gives_the_browser_the_cookie(stranger: TestClient) -> None:
    assert stranger.get("/?token=wrong").status_code == 401
    answer = stranger.get(f"/?token={TOKEN}")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert stranger.get("/api/v1/runs").status_code == 200


def test_page_takes_only_what_the_server_sends(stranger: TestClient) -> None:
    policy = dict(each.split(" ", 1) for each in stranger.get("/").headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'self'",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'self'",
    }


def test_cookie_does_not_write_for_a_page_of_another_site(stranger: TestClient, runs: Path) -> None:
    stranger.get(f"/?token={TOKEN}")
    for headers in ({}, {"Origin": "http://127.0.0.1:3000"}, {"Origin": "null"}):
        assert stranger.delete(f"/api/v1/runs/{RUN}", headers=headers).status_code == 403
    assert (runs / RUN).is_dir()
    assert stranger.post("/api/v1/check", json={"scenario": "prosumer"}, headers={"Origin": HOST}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "grid.example"},
        {"Host": "127.0.0.1.grid.example"},
        {"Host": "localhost.grid.example"},
        {"Host": "127.0.0.1:80.grid.example"},
        {"Host": ""},
        {"Origin": "http://grid.example"},
    ],
)
def test_foreign_host_or_origin_is_refused(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/api/v1/runs", headers=headers).status_code == 403
    assert client.get("/", headers=headers).status_code == 403


def test_oversized_body_is_refused(client: TestClient) -> None:
    kind = {"Content-Type": "application/json"}
    body = b'{"scenario": "' + b"x" * MOST_BYTES + b'"}'
    assert client.post("/api/v1/check", content=body, headers=kind).status_code == 413
    assert client.post("/api/v1/check", content=iter([body[:1000], body[1000:]]), headers=kind).status_code == 413


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"scenario": ' + b'{"a":' * 300 + b"1" + b"}" * 301, 400),
        (rb'{"scenario": {"title": "\ud800"}}', 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"scenario": 1}', 422),
    ],
)
@pytest.mark.parametrize("path", ["check", "runs"])
def test_body_of_another_form_is_refused(client: TestClient, path: str, content: bytes, status: int) -> None:
    answer = client.post(f"/api/v1/{path}", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["message"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", None]
)
@pytest.mark.parametrize("path", ["check", "runs"])
def test_body_that_a_form_of_another_site_can_send_is_refused(client: TestClient, path: str, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post(f"/api/v1/{path}", content=b"{}", headers=headers)
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "no run",
        "%2e%2e",
        "%2e",
        "..%2f..",
        "%2fetc",
        "a%00b",
        "other",
        f"{RUN}/files/scenario.yaml%00",
        f"{RUN}/files/../{RUN}/result.json",
        f"{RUN}/files/..%2f..%2fsecret",
        f"{RUN}/files/%2fetc%2fpasswd",
        f"{RUN}/files/figures/link",
        f"{RUN}/files/figures",
        f"{RUN}/files/logs/a1.jsonl",
    ],
)
def test_path_out_of_the_run_is_not_found(client: TestClient, runs: Path, path: str) -> None:
    (runs / "no run").mkdir(exist_ok=True)
    (runs.parent / "secret").write_text("what nobody may read")
    (runs / RUN / "figures").mkdir(exist_ok=True)
    if not (link := runs / RUN / "figures" / "link").is_symlink():
        link.symlink_to(runs.parent / "secret")
    answer = client.get(f"/api/v1/runs/{path}")
    assert answer.status_code == 404
    assert "what nobody may read" not in answer.text


def test_file_of_a_run_has_no_part_in_the_page(client: TestClient, runs: Path) -> None:
    answer = client.get(f"/api/v1/runs/{RUN}/files/result.json?download")
    assert answer.content == (runs / RUN / "result.json").read_bytes()
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["content-security-policy"]


def test_table_is_sent_column_by_column(client: TestClient, runs: Path) -> None:
    tables = runs / RUN / "tables"
    tables.mkdir()
    columns = {
        "session": [1, 1],
        "slot": range(1, 3),
        "time": [datetime(2026, 3, 28, tzinfo=ZoneInfo("Europe/Brussels")), None],
        "binding": [True, None],
        "load_kw": [0.1, 2],
    }
    (tables / "slots.parquet").write_bytes(encode_parquet(columns))
    assert client.get(f"/api/v1/runs/{RUN}/tables/slots").json() == {
        **columns,
        "slot": [1, 2],
        "time": ["2026-03-28T00:00:00+01:00", None],
    }
    for name in ("nothing", "..%2fresult", "slots.csv"):
        assert client.get(f"/api/v1/runs/{RUN}/tables/{name}").status_code == 404
    (tables / "torn.parquet").write_bytes(b"PAR1")
    answer = client.get(f"/api/v1/runs/{RUN}/tables/torn")
    assert answer.status_code == 422
    assert "torn.parquet: no table" in answer.json()["message"]


def test_run_is_listed_and_described(client: TestClient) -> None:
    (listed,) = client.get("/api/v1/runs").json()
    assert (listed["id"], listed["game"], listed["state"], listed["homes"]) == (RUN, "prosumer", "settled", 2)
    run = client.get(f"/api/v1/runs/{RUN}").json()
    assert listed.items() <= run.items()
    assert [node["name"] for node in run["tree"]] == ["leader", "a1", "bus23", "bus27"]
    assert [node["parent"] for node in run["tree"]] == [None, "leader", "a1", "a1"]
    assert run["result"]["settled"]
    assert run["verdict"] == "Settled in 6 rounds (9 among the homes)."
    assert run["key_figures"][0].keys() == {"label", "value"}
    assert (run["certificate"], run["checks"]) == (None, [])
    assert client.get(f"/api/v1/runs/{RUN}?result=0").json() == {**run, "result": None}
    assert "result.json" in run["files"]


def test_run_that_has_changed_is_summarised_anew(client: TestClient, runs: Path) -> None:
    folder = runs / "later"
    folder.mkdir()
    (folder / "scenario.yaml").write_text("game: prosumer")
    (folder / "rounds.jsonl").touch()
    try:
        states = [next(run["state"] for run in client.get("/api/v1/runs").json() if run["id"] == "later")]
        (folder / "result.json").write_bytes((runs / RUN / "result.json").read_bytes())
        states += [next(run["state"] for run in client.get("/api/v1/runs").json() if run["id"] == "later")]
    finally:
        client.delete("/api/v1/runs/later")
    assert states == ["failed", "settled"]
    assert [run["id"] for run in client.get("/api/v1/runs").json()] == [RUN]


def test_folder_that_is_broken_is_listed_with_a_message(client: TestClient, runs: Path, tmp_path: Path) -> None:
    broken = {"half": None, "old": "{}", "torn": '{"scenario": ', "list": "[]"}
    for name, result in broken.items():
        folder = runs / name
        folder.mkdir()
        (folder / "scenario.yaml").write_text("game: prosumer")
        (folder / "rounds.jsonl").touch()
        if result is not None:
            (folder / "result.json").write_text(result)
    try:
        listed = {run["id"]: run for run in client.get("/api/v1/runs").json()}
        assert {name: listed[name]["state"] for name in broken} == {
            "half": "failed", "old": "unreadable", "torn": "unreadable", "list": "unreadable"
        }  # fmt: skip
        assert all("\n" not in listed[name]["message"] for name in broken)
        assert client.get("/api/v1/runs/torn").json()["message"]
        assert client.get("/api/v1/runs/torn/events").status_code == 422
    finally:
        for name in broken:
            client.delete(f"/api/v1/runs/{name}")
    assert not (runs / "half").exists()


def test_file_whose_name_is_not_utf_8_is_listed(client: TestClient, runs: Path) -> None:
    file = runs / RUN / "figures" / "\udcff.png"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    try:
        assert f"figures/{file.name}" in client.get(f"/api/v1/runs/{RUN}").json()["files"]
    finally:
        file.unlink()


def test_events_of_another_version_are_one_message(client: TestClient, runs: Path) -> None:
    folder = runs / "old"
    folder.mkdir()
    (folder / "scenario.yaml").write_bytes((runs / RUN / "scenario.yaml").read_bytes())
    try:
        for tree in ({"type": "tree", "nodes": []}, {"type": "tree", "nodes": 3, "max_rounds": "x"}):
            (folder / "events.jsonl").write_text(f"{json.dumps(tree)}\n")
            run = client.get("/api/v1/runs/old").json()
            assert run["state"] == "unreadable"
            assert "events.jsonl: of another version" in run["message"]
    finally:
        client.delete("/api/v1/runs/old")


def test_events_of_a_run_that_has_ended(client: TestClient) -> None:
    events = [*read_events(client)]
    assert [number for number, _ in events] == [*range(1, len(events) + 1)]
    told = [event for _, event in events]
    assert (told[0]["type"], told[-1]) == ("tree", {"seconds": told[-2]["seconds"], "type": "end", "state": "settled"})
    rounds = [event for event in told if event["type"] == "round"]
    assert [event["round"] for event in rounds] == [1, 2, 3, 4, 5, 6]
    settled = [node["name"] for node in told[0]["nodes"]]
    assert [event["names"] for event in told if (event["type"], event.get("state")) == ("node", "settled")] == [settled]
    assert all(len(event["load_kw"]) == 24 for event in rounds)
    assert [event["seconds"] for event in told] == sorted(event["seconds"] for event in told)


def test_rounds_of_another_version_are_one_message(client: TestClient, runs: Path) -> None:
    folder = runs / "old"
    folder.mkdir()
    (folder / "scenario.yaml").write_bytes((runs / RUN / "scenario.yaml").read_bytes())
    try:
        for line in ('{"round": 1, "held": []}', "[]", "{", '{"round": 1, "ms": "1", "answered": 1}'):
            (folder / "rounds.jsonl").write_text(f"{line}\n")
            answer = client.get("/api/v1/runs/old/events")
            assert answer.status_code == 422
            assert "rounds.jsonl: not the rounds of a run of this version" in answer.json()["message"]
    finally:
        client.delete("/api/v1/runs/old")


def test_stream_goes_on_behind_the_last_event(client: TestClient) -> None:
    events = [*read_events(client)]
    last, _ = events[-1]
    assert [*read_events(client, **{"Last-Event-ID": str(last - 3)})] == events[-3:]
    assert client.get(f"/api/v1/runs/{RUN}/events", headers={"Last-Event-ID": str(last)}).status_code == 204
    assert client.get(f"/api/v1/runs/{RUN}/events", headers={"Last-Event-ID": "-1"}).status_code == 400
    assert client.head(f"/api/v1/runs/{RUN}/events").text == ""


def test_events_tell_who_missed_a_round(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("faults: [{kind: crash, node: h1, at: {round: 2}}]")
    stackelgrid.run(
        "user_oriented", {"population.homes": 3, "aggregators": 1}, faults=plan, out=tmp_path / "runs" / "r"
    )
    client = TestClient(Interface(Launcher(tmp_path / "runs"), TOKEN, COOKIE).build(), base_url=HOST)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    events = [event for _, event in read_events(client, "r")]
    states = [event["state"] for event in events if event["type"] == "node" and "h1" in event["names"]]
    assert states[:5] == ["online", "asked", "answered", "asked", "held"]
    words = [event["text"] for event in events if event["type"] == "message" and event["level"] == "warning"]
    assert words[0].startswith("h1 counts with its last answer in round 2")


def test_run_that_was_killed_has_failed(client: TestClient, runs: Path) -> None:
    folder = runs / "killed"
    folder.mkdir()
    (folder / "scenario.yaml").write_bytes((runs / RUN / "scenario.yaml").read_bytes())
    tree = {**describe_tree(load("prosumer")), "seconds": 0.0}
    told = [tree, {"seconds": 1.5, "type": "message", "text": "on", "level": "info"}]
    first, second = (json.dumps(event).encode() for event in told)
    (folder / "events.jsonl").write_bytes(b"\n".join([first, b"\xff\x00", b"[]", second, b'{"seconds": 2.0, "ty']))
    try:
        run = client.get("/api/v1/runs/killed").json()
        *events, (number, end) = read_events(client, "killed")
    finally:
        client.delete("/api/v1/runs/killed")
    assert (run["state"], run["message"]) == ("failed", "it was ended before it had a result")
    assert [node["name"] for node in run["tree"]] == ["leader", "a1", "bus23", "bus27"]
    assert [event for _, event in events] == told
    assert (number, end) == (3, {"seconds": 1.5, "type": "end", "state": "failed", "message": run["message"]})


def test_run_that_writes_no_events_is_told_while_it_goes_on(client: TestClient, runs: Path) -> None:
    folder = runs / "slow"
    folder.mkdir()
    (folder / "scenario.yaml").write_bytes((runs / RUN / "scenario.yaml").read_bytes())
    first, *others = (runs / RUN / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text(first)
    found: list[list[int]] = []

    async def watch() -> None:
        told = []
        async for sent in follow(folder, 0, lambda: False):
            told += [json.loads(sent.partition("data: ")[2])] if sent.startswith("id") else []
            if sent.startswith(":"):  # all so far is told
                found.append([event["round"] for event in told if event["type"] == "round"])
                with (folder / "rounds.jsonl").open("a") as file:
                    file.writelines(others)
                lock.release()
        found.append([event["round"] for event in told if event["type"] == "round"])
        assert told[-1].items() >= {"type": "end", "state": "failed", "seconds": told[-2]["seconds"]}.items()

    lock = RunLock(folder)
    try:
        asyncio.run(watch())
    finally:
        client.delete("/api/v1/runs/slow")
    assert found == [[1], [1, 2, 3, 4, 5, 6]]


def test_fault_for_a_run_that_does_not_answer_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_ANSWER_S", 0.1)

    async def add_fault() -> None:
        process = await asyncio.create_subprocess_exec(
            "sleep", "60", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            with pytest.raises(FaultRefusedError, match="the run has not answered"):
                await launcher._RunProcess(process).add_fault({"kind": "crash"})
        finally:
            process.kill()
            await process.wait()

    asyncio.run(asyncio.wait_for(add_fault(), 30))


def test_check_names_the_keys_that_are_wrong(client: TestClient) -> None:
    wrong = {"leader.mu": -1, "population.homes": "x", "population.nothing": 1}
    found = client.post("/api/v1/check", json={"scenario": "user_oriented", "set": wrong}).json()["errors"]
    assert {error["key"] for error in found} == {"leader.mu", "population.homes", "population.nothing"}
    assert all(error["message"] for error in found)
    (error,) = client.post("/api/v1/check", json={"scenario": "nothing"}).json()["errors"]
    assert error["key"] == "scenario"
    faults = {"faults": [{"kind": "crash", "node": "h999", "at": {"round": 1}}]}
    (error,) = client.post("/api/v1/check", json={"scenario": "prosumer", "faults": faults}).json()["errors"]
    assert error["key"] == "faults"


def test_scenarios_are_what_check_takes(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my own.yaml").write_text("# Mine. More.\ngame: prosumer\ntitle: 'My <own>'\nhomes: []")
    (tmp_path / "broken.yaml").write_text("game: [")
    (tmp_path / "plan.yaml").write_text("faults: []")
    listed = {scenario["name"]: scenario for scenario in client.get("/api/v1/scenarios").json()}
    assert {"user_oriented", "street_week", "my own.yaml"} < listed.keys()
    assert not {"broken.yaml", "plan.yaml"} & listed.keys()
    plans = {plan["name"]: plan["faults"] for plan in client.get("/api/v1/plans").json()}
    assert (plans["plan.yaml"], plans["aggregator-dies"]) == (0, 1)
    assert not {"broken.yaml", "my own.yaml"} & plans.keys()
    for plan in ("plan.yaml", "nothing", "../plan.yaml"):
        errors = client.post("/api/v1/check", json={"scenario": "load_call", "faults": plan}).json()["errors"]
        assert [error["key"] for error in errors] == ([] if plan in plans else ["faults"])
    assert (listed["my own.yaml"]["title"], listed["my own.yaml"]["summary"]) == ("My <own>", "Mine.")
    for scenario in ("load_call", listed["load_call"]["content"]):
        answer = client.post("/api/v1/check", json={"scenario": scenario}).json()
        assert (answer["errors"], answer["homes"]) == ([], 10)
    assert client.get(listed["load_call"]["form"]).json()["properties"]["leader"]
