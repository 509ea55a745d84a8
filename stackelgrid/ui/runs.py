"""The runs of a folder, each a folder of its own, as the interface shows them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.report import tables
from stackelgrid.report.page import judge_sessions, verdict
from stackelgrid.report.run_folder import read
from stackelgrid.scenarios import Scenario, load
from stackelgrid.text_file import parse_json, read_text
from stackelgrid.ui.answers import CertificateCheck, KeyFigure, RunDescription, RunSummary
from stackelgrid.ui.events import are_written, read_end, read_first
from stackelgrid.ui.words import describe_tree

_FILES = (
    "report.html", "result.json", "scenario.yaml", "faults.yaml", "manifest.json", "rounds.jsonl", "events.jsonl"
)  # fmt: skip
"""The files of a run that are given out, with those in `_FOLDERS`. Configurations and logs are not."""
_FOLDERS = ("figures", "tables")


class NoRunError(LookupError):
    """There is no run of that name."""


class Runs:
    """The runs in the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._summaries: dict[str, tuple[Any, RunSummary]] = {}  # by id, with the state of the files read for it

    def find(self, run_id: str) -> Path:
        """Find the folder of a run. Raises `NoRunError`."""
        folder = self.root / run_id
        try:
            if run_id == folder.name and run_id != ".." and (folder / "scenario.yaml").is_file():
                return folder
        except (OSError, ValueError):
            pass  # a name that no folder can have
        raise NoRunError(f"there is no run {run_id!r} in {self.root}")

    def summarise(self) -> list[RunSummary]:
        """Summarise each run, the newest first."""
        found = [self._summarise(path.parent) for path in self.root.glob("*/scenario.yaml")]
        self._summaries = {summary.id: (state, summary) for state, summary in found}
        return sorted((summary for _, summary in found), key=lambda run: run.started or "", reverse=True)

    def _summarise(self, folder: Path) -> tuple[Any, RunSummary]:
        """Summarise a run anew where its files have changed since the last time."""
        state = (are_written(folder), *(_find_time(folder / name) for name in ("result.json", "events.jsonl")))
        before = self._summaries.get(folder.name)
        return before if before is not None and before[0] == state else (state, summarise(folder))

    def describe(self, run_id: str) -> RunDescription:
        """Describe a run: its summary, nodes, slots, files and result."""
        folder = self.find(run_id)
        summary = summarise(folder).model_dump()
        if summary["state"] == "unreadable":
            return RunDescription(**summary)
        try:
            scenario = load(str(folder / "scenario.yaml"))
            found = _describe_result(folder, scenario) if (folder / "result.json").is_file() else {}
        except ConfigError as error:
            return RunDescription(**{**summary, "state": "unreadable", "message": str(error)})
        tree = describe_tree(scenario)
        return RunDescription(
            **summary,
            tree=tree["nodes"],
            **{key: tree[key] for key in ("money", "slots", "slot_hours", "times", "sessions", "max_rounds")},
            files=[*list_files(folder)],
            **found,
        )

    def remove(self, run_id: str) -> None:
        """Remove a run's folder."""
        shutil.rmtree(self.find(run_id))


def _describe_result(folder: Path, scenario: Scenario) -> dict[str, Any]:
    """Give what came out of a run, and what its report says of it. Raises `ConfigError`."""
    run = read(folder, scenario)
    content = run.result.content()
    return {
        "result": content,
        "certificate": content["certificate"],
        "verdict": judge_sessions(run) if run.result.sessions else verdict(run),
        "key_figures": [KeyFigure(label=label, value=value) for label, value in tables.key_figures(run.result)],
        "checks": [CertificateCheck(**asdict(check)) for check in tables.checks(run.result)],
    }


def list_files(folder: Path) -> Iterator[str]:
    """List the files of a run that are given out."""
    yield from (name for name in _FILES if (folder / name).is_file())
    for name in _FOLDERS:
        yield from sorted(f"{name}/{path.name}" for path in (folder / name).glob("*") if path.is_file())


def find_file(folder: Path, name: str) -> Path | None:
    """Find a file of a run that is given out; None where there is none, or a link leads out of the folder."""
    path = folder / name
    inside = name in list_files(folder) and path.resolve().is_relative_to(folder.resolve())
    return path if inside else None


def read_table(path: Path) -> dict[str, list[Any]]:
    """Read a Parquet file, column by column. Raises `ConfigError`."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no table ({error}); write it again with stackelgrid report") from None
    return columns


def summarise(folder: Path) -> RunSummary:
    """Summarise a run: its scenario, its state, when it began, its rounds and homes."""
    first, end = read_first(folder), read_end(folder)
    known: dict[str, Any] = {key: first.get(key) for key in ("scenario", "game", "started", "homes", "transport")}
    if are_written(folder):
        return RunSummary(id=folder.name, state="running", **known)
    if not (folder / "result.json").is_file():
        message = f"{folder}: no result.json; {end.get('message', 'it was ended before it had one')}"
        return RunSummary(id=folder.name, state="failed", message=message, **known)
    try:
        result = _read_json(folder / "result.json")
        manifest = _read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
        return RunSummary(
            id=folder.name,
            state=end.get("state", "settled" if result["settled"] else "unsettled"),
            message=end.get("message", ""),
            started=manifest.get("began"),
            **{key: result[key] for key in ("scenario", "game", "rounds", "homes", "transport")},
        )
    except ConfigError as error:
        return RunSummary(id=folder.name, state="unreadable", message=str(error), **known)
    except (KeyError, ValidationError):
        message = f"{folder / 'result.json'}: of another version; run the scenario again"
        return RunSummary(id=folder.name, state="unreadable", message=message, **known)


def _find_time(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a mapping of keys")
    return content
