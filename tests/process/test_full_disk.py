"""A disk that is full or read-only ends no node: the run goes on, and what could not be written is written later."""

from __future__ import annotations

import gc
import json
import logging
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from stackelgrid.errors import ConfigError
from stackelgrid.history.store import HistoryFile, Run, upsert
from stackelgrid.history.tables import History, Period
from stackelgrid.node import record
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.node.record import JsonLines, WholeFile
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs

HOMES = ["h1", "h2"]
GRID = Run("grid", "", "h1", "home", "user_oriented", None)
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.05)


class Audience:
    """Hears who has acknowledged a settlement, and who has left the run."""

    def __init__(self, url: str, run: str) -> None:
        self.acknowledged: set[str] = set()
        self.left: set[str] = set()
        self.ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda *_: self._client.subscribe(f"stackelgrid/{run}/+/+/+")
        self._client.on_subscribe = lambda *_: self.ready.set()
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self._client.loop_start()

    def _hear(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        *_, member, purpose = message.topic.split("/")
        if purpose == "receipt":
            self.acknowledged.add(member)
        if purpose == "presence" and not message.payload:
            self.left.add(member)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def start(folder: Path, package: str, config: Any) -> subprocess.Popen[bytes]:
    """Start a node that can write no byte to any file, log and status among them, as on a full disk."""
    file = folder / f"{config.name}.json"
    file.write_text(config.model_dump_json(exclude_none=True))
    command = [
        "sh",
        "-c",
        'ulimit -S -f 0; exec "$@"',
        "sh",
        sys.executable,
        "-m",
        package,
        "--config",
        str(file),
        "--log",
        "json",
        "--stay",
    ]
    command += ["--status", str(folder / f"{config.name}.status.json")]
    with (folder / f"{config.name}.log").open("wb") as log:
        return subprocess.Popen(command, stderr=log)


def test_run_settles_on_a_full_disk_and_writes_its_files_when_there_is_room(mosquitto_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "nodes"
    folder.mkdir()
    scenario = load("user_oriented", ["population.homes=2", "aggregators=1", "rounds.deadline_s=60"])
    configs = build_node_configs(scenario, "full", mosquitto_url, gather=True)
    audience = Audience(mosquitto_url, "full")
    assert audience.ready.wait(60)
    nodes = {}
    try:
        for package, config in (
            *(("emc_node", config) for config in configs.homes),
            ("aggregator_node", configs.aggregators[0]),
            ("leader_node", configs.leader),
        ):
            nodes[config.name] = start(folder, package, config)
        wait_for(lambda: audience.left == {"a1", *HOMES}, "the end of the run")
        assert audience.acknowledged == {"a1", *HOMES}
        assert {name for name, node in nodes.items() if node.poll() is not None} == set()
        assert not (folder / "h1.schedule.json").exists()

        nodes["h2"].send_signal(signal.SIGTERM)
        # 143 where the signal comes while it still closes its connection.
        assert nodes["h2"].wait(60) in (0, 143), "not Python's own code for a log that cannot be written"
        for name in ("h1", "a1", "leader"):
            resource.prlimit(nodes[name].pid, resource.RLIMIT_FSIZE, UNLIMITED)
        for name in ("h1.schedule", "a1.account", "leader.conclusion", "h1.status", "leader.status"):
            wait_for((folder / f"{name}.json").exists, name)
        assert json.loads((folder / "h1.schedule.json").read_text()).keys() == {"h1"}
        assert json.loads((folder / "leader.conclusion.json").read_text())["settled"]

        def ledger_is_whole() -> bool:
            path = folder / "leader.ledger"
            return path.stat().st_size > 0 and (tmp_path / "rounds.jsonl").stat().st_size > 0

        wait_for(ledger_is_whole, "the ledger")
        entries = list(SqliteLedger(folder / "leader.ledger", configs.leader.terms()))
        journal = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
        assert [entry["account"] for entry in entries] == journal
        assert [round_["round"] for round_ in journal] == list(range(1, len(journal) + 1))
        for name in ("h1", "a1", "leader"):
            nodes[name].send_signal(signal.SIGTERM)
            assert nodes[name].wait(60) == 0
    finally:
        audience.close()
        for node in nodes.values():
            node.kill()
            node.wait()


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_exit_code_is_the_nodes_own_when_its_log_cannot_be_written(stderr: str, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m emc_node --config {tmp_path / 'nothing.json'} {stderr}"
    assert subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, check=False).returncode == 2


# --- one file ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system wants root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def test_file_is_written_once_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(record, "RETRY_S", 0.01)
    save = WholeFile(small_disk / "plan.json")
    save({"load_kw": [1.0]})
    filler = fill(small_disk)
    save({"load_kw": [2.0] * 2000})
    save({"load_kw": [3.0] * 2000})
    assert json.loads((small_disk / "plan.json").read_text()) == {"load_kw": [1.0]}, "the old file is whole"
    assert {path.name for path in small_disk.iterdir()} == {"plan.json", "filler"}, "and no draft is left"
    filler.unlink()
    wait_for(lambda: (small_disk / "plan.json").read_text().startswith('{"load_kw": [3.0'), "the file")
    wait_for(lambda: len(caplog.messages) == 2, "the log")
    assert caplog.messages == ["a file cannot be written, the node goes on", "the file is written now"]


def test_journal_has_every_line_once_after_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RETRY_S", 3600.0)
    filler = fill(small_disk)
    journal = JsonLines(small_disk / "rounds.jsonl")
    lines = [{"round": number, "price": [0.1] * 200} for number in range(9)]
    for line in lines[:4]:
        journal(line)
    with filler.open("ab") as file:
        file.truncate(filler.stat().st_size - 4096)  # room for a few of them, and a part
    journal(lines[4])
    assert (small_disk / "rounds.jsonl").stat().st_size == 4096
    filler.unlink()
    for line in lines[5:]:
        journal(line)
    assert [json.loads(line) for line in (small_disk / "rounds.jsonl").read_text().splitlines()] == lines


def test_ledger_has_every_entry_in_order_after_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RETRY_S", 3600.0)
    terms = {"run": "r1", "name": "leader"}
    filler = fill(small_disk)
    ledger = SqliteLedger(small_disk / "leader.ledger", terms)
    ledger.append({"number": 1})
    filler.unlink()
    ledger.append({"number": 2})
    filler = fill(small_disk)
    for number in range(3, 6):
        ledger.append({"number": number, "load_kw": [0.1] * 2000})
    filler.unlink()
    ledger.append({"number": 6})
    assert [entry["number"] for entry in SqliteLedger(small_disk / "leader.ledger", terms)] == [1, 2, 3, 4, 5, 6]


def test_ledger_is_refused_on_a_read_only_disk_when_it_has_entries(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RETRY_S", 3600.0)
    terms = {"run": "r1", "name": "leader"}
    SqliteLedger(small_disk / "leader.ledger", terms).append({"number": 1})
    gc.collect()  # closes it
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ConfigError, match=r"leader\.ledger: cannot be used as a ledger .* make it writable"):
        SqliteLedger(small_disk / "leader.ledger", terms)
    SqliteLedger(small_disk / "a1.ledger", terms).append({"number": 1})
    assert not (small_disk / "a1.ledger").exists()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert [entry["number"] for entry in SqliteLedger(small_disk / "leader.ledger", terms)] == [1]


def store_sessions(history: HistoryFile, *numbers: int) -> None:
    """Store a session with a hundred slots for each number."""
    for number in numbers:
        slots = [(100 * number + slot, number, 0.3) for slot in range(100)]
        row = (number, history.now(), 100 * number, 100, 100, 1.0)
        history.write(
            upsert("sessions", "session", "at first slots binding slot_hours", [row]),
            upsert("slots", "slot", "session price", slots),
        )


def count_slots(path: Path) -> dict[int, int]:
    """Count the slots of each session of a history, which must be sound; none as long as there is no file."""
    with closing(sqlite3.connect(path)) as file:
        if not file.execute("PRAGMA user_version").fetchone()[0]:
            return {}
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(file.execute("SELECT session, count(*) FROM slots GROUP BY session").fetchall())


def test_history_has_every_session_after_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RETRY_S", 0.01)
    path = small_disk / "h1.history.sqlite"
    filler = fill(small_disk)
    history = HistoryFile(path, GRID, 400)
    store_sessions(history, 1)
    filler.unlink()
    store_sessions(history, 2)
    wait_for(lambda: count_slots(path) == {1: 100, 2: 100}, "two sessions")
    filler = fill(small_disk)
    store_sessions(history, *range(3, 8))
    filler.unlink()
    wait_for(lambda: count_slots(path) == dict.fromkeys(range(1, 8), 100), "the others")


def test_history_goes_on_after_a_read_only_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RETRY_S", 0.01)
    path = small_disk / "h1.history.sqlite"
    store_sessions(HistoryFile(path, GRID, 400), 1)
    gc.collect()  # closes it
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store_sessions(HistoryFile(path, GRID, 400), 2)
    with History(path) as found:
        assert found.tabulate("sessions", Period())["session"] == [1]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    wait_for(lambda: count_slots(path) == {1: 100, 2: 100}, "the second session")


KILLED = """
import sys
from itertools import count
from pathlib import Path
from stackelgrid.history.store import HistoryFile, Run, upsert
history = HistoryFile(Path(sys.argv[1]), Run("grid", "", "h1", "home", "user_oriented", None), 400)
for number in count(int(sys.argv[2]) + 1):
    session = (number, history.now(), 100 * number, 100, 100, 1.0)
    history.write(
        upsert("sessions", "session", "at first slots binding slot_hours", [session]),
        upsert("slots", "slot", "session price", [(100 * number + slot, number, 0.3) for slot in range(100)]),
    )
    print(number, flush=True)
"""


def test_history_is_sound_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    path, last = tmp_path / "h1.history.sqlite", 0
    for told_before_kill in (1, 7, 30):
        command = [sys.executable, "-c", KILLED, str(path), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
            assert node.stdout is not None
            told = [int(node.stdout.readline()) for _ in range(told_before_kill)]
            node.kill()
            told += map(int, node.stdout)
        found = count_slots(path)
        last = max(found)
        assert found == dict.fromkeys(range(1, last + 1), 100), "a session is stored whole or not at all"
        assert last in (told[-1], told[-1] + 1), "what was stored stays"
