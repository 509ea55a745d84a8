"""Files that survive a power cut: the order in which the disk confirms them, and those that are spared it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stackelgrid.node.progress import Progress
from stackelgrid.node.record import JsonLines, WholeFile, open_record, write_whole
from stackelgrid.node.status import Status, StatusFile
from stackelgrid.text_file import replace_file


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk: `sync NAME` for a file or folder that it confirms, `replace NAME` for a new file."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def confirm(number: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        fsync(number)

    def put(source: Path, target: Path) -> None:
        replace(source, target)
        done.append(f"replace {target.name}")

    monkeypatch.setattr(os, "fsync", confirm)
    monkeypatch.setattr(os, "replace", put)
    return done


def test_durable_file_is_on_disk_before_it_replaces_the_old_one(tmp_path: Path, steps: list[str]) -> None:
    replace_file(tmp_path / "plan.json", b"{}", durable=True)
    assert steps == [f"sync .plan.json.{os.getpid()}", "replace plan.json", f"sync {tmp_path.name}"]


def test_whole_file_is_durable(tmp_path: Path, steps: list[str]) -> None:
    WholeFile(tmp_path / "plan.json")({"run": "demo"})
    assert steps == [f"sync .plan.json.{os.getpid()}", "replace plan.json", f"sync {tmp_path.name}"]


def test_whole_file_is_not_written_again_with_the_same_content(tmp_path: Path, steps: list[str]) -> None:
    save = WholeFile(tmp_path / "plan.json")
    for run in ("demo", "demo", "other"):
        save({"run": run})
    assert steps.count("replace plan.json") == 2
    assert (tmp_path / "plan.json").read_text() == '{"run": "other"}'


def test_whole_file_removes_what_a_kill_has_left(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    for left in (".plan.json.4711", ".plan.json.4712"):
        (tmp_path / left).write_text('{"run"')
    (tmp_path / ".other.json.4711").write_text("{}")
    WholeFile(tmp_path / "plan.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".other.json.4711", "plan.json"]


def test_record_of_a_session_is_on_disk_with_those_before_it(tmp_path: Path, steps: list[str]) -> None:
    path = tmp_path / "schedule.jsonl"
    open_record(path, 3)({"session": 1})
    assert steps == ["sync schedule.jsonl", f"sync {tmp_path.name}"]
    steps.clear()
    open_record(path, 3)({"session": 2})  # after a restart the lines of before stay
    assert steps == ["sync schedule.jsonl", f"sync {tmp_path.name}"]
    assert path.read_text() == '{"session": 1}\n{"session": 2}\n'


def test_status_and_journal_spare_the_disk(tmp_path: Path, steps: list[str]) -> None:
    write_whole(tmp_path / "result.json", {})
    JsonLines(tmp_path / "rounds.jsonl")({"round": 1})
    transport = SimpleNamespace(traffic={}, url="mqtt://127.0.0.1:1", certificates=None)
    mailbox = SimpleNamespace(rejected={})
    StatusFile(tmp_path / "status.json", Status("demo", "h1", Progress(), cast("Any", mailbox), cast("Any", transport)))
    assert [step for step in steps if step.startswith("sync")] == []
