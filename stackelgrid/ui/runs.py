"""A run as the interface shows it, and its files that are given out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.report import tables
from stackelgrid.report.page import verdict
from stackelgrid.report.run_folder import read_result
from stackelgrid.scenarios import load
from stackelgrid.store.summary import summarise, summarise_files
from stackelgrid.ui.answers import CertificateCheck, KeyFigure, RunDescription
from stackelgrid.ui.events import read_end, read_tree
from stackelgrid.ui.words import describe_tree

_FILES = (
    "report.html", "result.json", "scenario.yaml", "faults.yaml", "manifest.json", "rounds.jsonl", "events.jsonl",
    "fleet.json",
)  # fmt: skip
"""The files of a run that are given out, with those in `_FOLDERS`. Configurations and logs are not."""
_FOLDERS = ("figures", "tables")


def describe(folder: Path) -> RunDescription:
    """Describe a run: its summary, nodes, slots, files and result."""
    ended = read_end(folder)  # its lock may be there for a moment more
    summary = (summarise_files if ended else summarise)(folder).model_dump()
    if summary["state"] == "unreadable":
        return RunDescription(**summary)
    try:
        tree = read_tree(folder) or describe_tree(load(str(folder / "scenario.yaml")))
        return RunDescription(
            **summary,
            tree=tree["nodes"],
            **{key: tree[key] for key in ("money", "slots", "slot_hours", "times", "sessions", "max_rounds")},
            files=[*list_files(folder)],
            **(_describe_result(folder, tree["max_rounds"]) if (folder / "result.json").is_file() else {}),
        )
    except ConfigError as error:
        message = str(error)
    except (KeyError, TypeError, ValidationError):
        message = f"{folder / 'events.jsonl'}: of another version of stackelgrid; run the scenario again"
    return RunDescription(**{**summary, "state": "unreadable", "message": message})


def _describe_result(folder: Path, max_rounds: int) -> dict[str, Any]:
    """Give what came out of a run, and what its report says of it. Raises `ConfigError`."""
    result = read_result(folder / "result.json")
    content = result.content()
    return {
        "result": content,
        "certificate": content["certificate"],
        "verdict": verdict(result, max_rounds),
        "partly_certified": tables.tell_partly_certified(result),
        "key_figures": [KeyFigure(label=label, value=value) for label, value in tables.key_figures(result)],
        "checks": [CertificateCheck(**asdict(check)) for check in tables.checks(result)],
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
    """Read a Parquet file as JSON has it, column by column, times as in ISO 8601. Raises `ConfigError`."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no table ({error}); write it again with stackelgrid report") from None
    return {name: [_write_time(cell) for cell in column] for name, column in columns.items()}


def _write_time(cell: Any) -> Any:
    return cell.isoformat() if isinstance(cell, datetime) else cell
