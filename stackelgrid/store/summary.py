"""The summary of a run, from what its folder has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.model import StrictModel
from stackelgrid.testbed.run_lock import is_played
from stackelgrid.text_file import parse_json, read_text

RunState = Literal["running", "settled", "unsettled", "interrupted", "failed", "unreadable"]


class RunSummary(StrictModel):
    """A run; what is not known of it is null.

    `failed` is one that ended without a result or lost a node for good, `unreadable` one whose files are damaged or of
    another version. `message` says what is wrong.
    """

    id: str
    state: RunState
    scenario: str | None = None
    game: str | None = None
    started: str | None = None
    rounds: int | None = None
    homes: int | None = None
    transport: str | None = None
    message: str = ""


def summarise(folder: Path) -> RunSummary:
    """Summarise the run of a folder."""
    ended = summarise_files(folder)
    return ended.model_copy(update={"state": "running", "message": ""}) if is_played(folder) else ended


def summarise_files(folder: Path) -> RunSummary:
    """Summarise a run that nobody plays by its manifest.json and result.json."""
    manifest: dict[str, Any] = {}
    try:
        if (folder / "manifest.json").is_file():
            manifest = read_mapping(folder / "manifest.json")
        return _summarise(folder, manifest)
    except ConfigError as error:
        message = str(error)
    except (KeyError, ValidationError):
        message = f"{folder}: of another version of stackelgrid; run the scenario again"
    scenario, game, began = (
        value if isinstance(value := manifest.get(key), str) else None for key in ("scenario", "game", "began")
    )
    return RunSummary(id=folder.name, state="unreadable", message=message, scenario=scenario, game=game, started=began)


def _summarise(folder: Path, manifest: dict[str, Any]) -> RunSummary:
    message = manifest.get("message", "")
    started = manifest.get("began")
    goes_on = "began" in manifest and "ended" not in manifest  # a result is then that of a part
    if (folder / "result.json").is_file() and not goes_on:
        result = read_mapping(folder / "result.json")
        state = manifest.get("state", "settled" if result["settled"] else "unsettled")
        known = {key: result[key] for key in ("scenario", "game", "rounds", "homes", "transport")}
    else:
        state = manifest.get("state", "failed")  # one that was observed without a desk has no result
        message = message or ("it was ended before it had a result" if state == "failed" else "")
        known = {key: manifest.get(key) for key in ("scenario", "game", "homes", "transport")}
    return RunSummary(id=folder.name, state=state, message=message, started=started, **known)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file that is a mapping. Raises `ConfigError`."""
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a mapping of keys")
    return content
