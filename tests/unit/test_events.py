"""The events of a run: written by one process, followed by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stackelgrid.errors import ConfigError
from stackelgrid.testbed import run_lock
from stackelgrid.testbed.run_lock import is_played
from stackelgrid.ui.events import EventFile, EventLog, read_end
from stackelgrid.ui.observer import NodeObserver
from stackelgrid.ui.words import describe_end, describe_nodes


def read_states(folder: Path) -> list[tuple[str, list[str]]]:
    told: list[dict[str, Any]] = [json.loads(line) for line in EventFile(folder).read()]
    return [(event["state"], event["names"]) for event in told if event["type"] == "node"]


def test_events_are_followed_as_they_is_played(tmp_path: Path) -> None:
    log, file = EventLog(tmp_path), EventFile(tmp_path)
    assert [*file.read()] == []
    log.write({"type": "tree"})
    assert [json.loads(line)["type"] for line in file.read()] == ["tree"]
    with (tmp_path / "events.jsonl").open("a") as torn:
        torn.write('{"seconds": 1')
    assert [*file.read()] == []
    with (tmp_path / "events.jsonl").open("a") as torn:
        torn.write(', "type": "end"}\n{"type": "message"}\n')
    assert [json.loads(line)["type"] for line in file.read()] == ["end"]
    assert file.ended


def test_folder_is_locked_while_events_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_LOCK_S", 0.0)
    assert not is_played(tmp_path)
    log = EventLog(tmp_path)
    assert is_played(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        EventLog(tmp_path)
    log.write(describe_end("settled"))
    log.close()
    assert not is_played(tmp_path)
    assert read_end(tmp_path)["state"] == "settled"


def test_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"seconds": 5.0, "type": "tree"}\n{"seconds": 7.0, "ty')
    log = EventLog(tmp_path)
    assert not log.is_new
    log.write({"type": "message"})
    first, second = (json.loads(line) for line in EventFile(tmp_path).read())
    assert first == {"seconds": 5.0, "type": "tree"}
    assert second["seconds"] >= 5.0
    log.close()


def test_states_are_gathered_by_what_they_are(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.note("asked", ["h1", "h2", "h3"])
    log.note("answered", ["h2", "h1"])
    log.flush()
    log.note("answered", ["h1"])  # as before
    log.flush()
    log.close()
    assert read_states(tmp_path) == [("answered", ["h1", "h2"]), ("asked", ["h3"])]


@pytest.mark.parametrize(
    ("before", "then", "after"),
    [
        ("crashed", "offline", "crashed"),
        ("crashed", "asked", "crashed"),
        ("crashed", "online", "online"),
        ("offline", "late", "offline"),
        ("offline", "held", "held"),
        ("quarantined", "asked", "quarantined"),
        ("settled", "left", "settled"),
        ("answered", "left", "left"),
        ("held", "asked", "asked"),
    ],
)
def test_node_that_is_away_hears_no_question(before: str, then: str, after: str, tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write(describe_nodes(before, ["h1"]))
    log.write(describe_nodes(then, ["h1"]))
    log.close()
    assert read_states(tmp_path)[-1] == (after, ["h1"])


HEADER = '{"schema":1,"run":"r","sender":"a1","round":2'


@pytest.mark.parametrize(
    ("topic", "payload", "noted"),
    [
        ("leader/signal", HEADER + ',"again":[],"body":{}}', [("online", ["leader"]), ("asked", ["a1", "a2"])]),
        ("leader/a2/signal", HEADER + ',"body":{}}', [("online", ["leader"]), ("asked", ["a2"])]),
        ("a1/signal", HEADER + ',"again":["h1"],"body":{"again":["h2"]}}', [("late", ["h1"])]),
        ("a1/signal", HEADER + ',"body":{"again":["h2"]}}', [("asked", ["h1", "h2"])]),
        ("a1/signal", "", []),
        ("a1/h2/signal", HEADER + ',"body":{}}', [("asked", ["h2"])]),
        ("a1/h1/answer", "whatever", [("answered", ["h1"])]),
        ("a1/h1/receipt", "{}", [("settled", ["h1"])]),
        ("leader/settlement", "{}", [("settled", ["leader"])]),
        ("a1/settlement", "{}", []),
        ("a1/h1/presence", '{"state":"online"}', [("online", ["h1"])]),
        ("leader/a1/presence", '{"state":"gathering"}', [("online", ["a1"])]),
        ("a1/h1/presence", '{"state":"offline"}', [("offline", ["h1"])]),
        ("a1/h1/presence", "", [("left", ["h1"])]),
        ("a9/signal", HEADER + ',"body":{}}', [("asked", [])]),
        ("a/b/c/d/e", "", []),
    ],
)
def test_messages_tell_the_states_of_nodes(topic: str, payload: str, noted: list[tuple[str, list[str]]]) -> None:
    found: list[tuple[str, list[str]]] = []
    members = {"leader": ["a1", "a2"], "a1": ["h1", "h2"]}
    observer = NodeObserver("r", members, lambda state, names: found.append((state, [*names])))
    assert observer.receive(f"stackelgrid/r/{topic}", payload.encode(), 0.0) == []
    assert found == noted
