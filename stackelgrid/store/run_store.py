"""The runs below a folder, each a folder of its own that its name identifies."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stackelgrid.errors import ConfigError
from stackelgrid.store.index import Index
from stackelgrid.store.summary import RunSummary, summarise_files
from stackelgrid.testbed.run_lock import is_played
from stackelgrid.testbed.run_name import is_run_name

_INDEX = ".index.sqlite"
_SUMMARISED = ("manifest.json", "result.json")
"""The files that a summary is made from. A folder with one of them is a run."""
_EARLY = ("rounds.jsonl", "events.jsonl")
"""So is one with one of these, of a run without a result by a version that wrote the manifest last."""


class NoRunError(ConfigError):
    """There is no run of that name."""


class RunGoesOnError(ConfigError):
    """A run that is not removed, since it goes on."""


class RunStore:
    """The runs in the folder `root`. A link to a folder is no run, nor is a name that begins with a dot."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self) -> list[RunSummary]:
        """Summarise each run, the newest first."""
        index = Index(self.root / _INDEX)
        known, stamps = index.read(), dict(self._scan())
        kept = {run: known[run][1] for run, stamp in stamps.items() if run in known and known[run][0] == stamp}
        new = {run: summarise_files(self.root / run) for run in stamps.keys() - kept.keys()}
        index.update(known.keys() - stamps.keys(), ((stamps[run], summary) for run, summary in new.items()))
        found = [_mark_played(self.root, summary) for summary in (kept | new).values()]
        return sorted(found, key=lambda run: (run.started or "", run.id), reverse=True)

    def find(self, run: str) -> Path:
        """Find the folder of a run by its id, or by a path that leads to it. Raises `NoRunError`."""
        with suppress(OSError, ValueError):  # a name that no folder can have
            path = Path(run)
            if path.name != run and path.parent.resolve() == self.root.resolve():
                run = path.name
            if is_run_name(run) and is_run(folder := self.root / run) and not folder.is_symlink():
                return folder
        raise NoRunError(f"there is no run {run!r} in {self.root}; see stackelgrid runs list")

    def remove(self, run: str) -> None:
        """Remove a run's folder. Raises `RunGoesOnError` while it is played, and `OSError`, upon which it is whole."""
        folder = self.find(run)
        if is_played(folder):
            raise RunGoesOnError(f"{folder.name} is running; stop it first")
        aside = self.root / f".removed-{os.getpid()}-{time.time_ns()}"
        folder.rename(aside)
        shutil.rmtree(aside)

    def _scan(self) -> Iterator[tuple[str, str]]:
        """Give the id of each run, and a stamp that changes with the files that its summary is made from."""
        try:
            folders = [entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
        for name in folders:
            if is_run_name(name) and (stamp := _stamp(self.root / name)):
                yield name, stamp


def _mark_played(root: Path, summary: RunSummary) -> RunSummary:
    played = is_played(root / summary.id)
    return summary.model_copy(update={"state": "running", "message": ""}) if played else summary


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run."""
    return any((folder / name).is_file() for name in (*_SUMMARISED, *_EARLY))


def _stamp(folder: Path) -> str:
    """Make the stamp of a run's files; empty for a folder that is none of a run."""
    states = [_find_state(folder / name) for name in _SUMMARISED]
    return " ".join(states) if any(states) or is_run(folder) else ""


def _find_state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"
