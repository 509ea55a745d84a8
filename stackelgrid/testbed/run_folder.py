"""A run's folder: what is written where. See docs/interface.md for the contract."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.model import StrictModel
from stackelgrid.node.record import write_whole
from stackelgrid.registry import list_extensions
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import Scenario, ScenarioError, dump
from stackelgrid.testbed import fault_plans
from stackelgrid.testbed.run_name import is_run_name
from stackelgrid.text_file import parse_json, read_text, write_text
from stackelgrid.transport.address import hide_password

_PACKAGES = ("stackelgrid", "numpy", "scipy", "daqp", "pydantic", "paho-mqtt", "cvxpy", "clarabel", "amqtt")
"""The packages that make a run what it is, with those of games and algorithms from elsewhere."""
_GIT_S = 5.0
"""The time that git has to tell the commit."""


class Place(StrictModel):
    """The place of a run over MQTT: its name there, the kind or the address of the broker, the authority's folder."""

    run: str
    broker: str
    certs: str | None = None


class FolderExistsError(ScenarioError):
    """The folder of a new run is there already."""


def create_under_runs(name: str) -> Path:
    """Make a folder under runs/ by name and time; one more number for each that another command has made meanwhile.

    Raises `ScenarioError` for a name that no run can have.
    """
    if not is_run_name(name):
        mend = "give one that prints on one line, without / and without a dot at its beginning, or a folder as out"
        raise ScenarioError(f"name: {name!r} cannot be that of a run; {mend}")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    number = 1
    while True:
        try:
            return create(Path("runs") / (f"{name}-{stamp}" if number == 1 else f"{name}-{stamp}-{number}"))
        except FolderExistsError:
            number += 1


def create(out: Path) -> Path:
    """Make the run's folder. Raises `FolderExistsError`, or `ScenarioError` when it cannot be made."""
    try:
        if "\0" in str(out):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        out.mkdir(parents=True)
    except FileExistsError:
        raise FolderExistsError(f"--out {out}: it exists already; name a new folder, or remove this one") from None
    except OSError as error:
        raise ScenarioError(f"--out {out}: cannot be made ({error.strerror}); name a folder you may write") from None
    return out


def write_scenario(folder: Path, scenario: Scenario) -> None:
    """scenario.yaml: as run, overrides and seed included; the data it draws on, with its notice, beside it."""
    write_text(folder / "scenario.yaml", dump(scenario.copy_data_to(folder)))


def write_faults(folder: Path, plan: FaultPlan) -> None:
    """faults.yaml: the plan as played, nodes by name, seed included."""
    write_text(folder / "faults.yaml", fault_plans.dump(plan))


def write_rounds(folder: Path, run_record: RunRecord) -> None:
    """rounds.jsonl, for a run whose leader did not write it itself."""
    lines = [json.dumps(record, allow_nan=False) + "\n" for record in run_record.rounds]
    write_text(folder / "rounds.jsonl", "".join(lines))


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Give the versions of those packages that are installed: a run may do without some of them."""
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@cache
def find_commit(checkout: Path) -> str | None:
    """Find the git commit of a source checkout, with `-dirty` where tracked files have been changed.

    None for what is no checkout, such as an installed package, and where git cannot tell.
    """
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def write_result(folder: Path, result: RunResult[Any]) -> None:
    """result.json."""
    write_whole(folder / "result.json", result.content())


def write_manifest(
    folder: Path, scenario: Scenario, transport: str, began: datetime, place: Place | None = None
) -> None:
    """manifest.json of a run that begins."""
    manifest = {
        "schema": 1,
        "scenario": scenario.title,
        "game": scenario.game,
        "homes": len(scenario.everyone),
        "transport": transport,
        **({} if place is None else {"place": place.model_dump(exclude_none=True)}),
        "began": began.isoformat(timespec="milliseconds"),
        "python": platform.python_version(),
        "packages": installed_versions([*_PACKAGES, *list_extensions()]),
        **({"commit": commit} if (commit := find_commit(Path(__file__).parents[2])) else {}),
        "machine": {"system": platform.platform(), "architecture": platform.machine()},
        "command": [Path(sys.argv[0]).name, *map(hide_password, sys.argv[1:])],
    }
    write_whole(folder / "manifest.json", manifest)


def read_unfinished(folder: Path) -> Place | None:
    """Read the place of a run over MQTT that was interrupted or killed, None of one in memory.

    Raises `ConfigError` for a folder of no such run.
    """
    path = folder / "manifest.json"
    try:
        manifest = parse_json(read_text(path, mend="name the folder of a run that was interrupted"))
        transport, state = manifest["transport"], manifest.get("state", "settled" if "ended" in manifest else "failed")
        where = None if transport == "memory" else Place.model_validate(manifest["place"])
    except ValidationError:
        raise ConfigError(f"{path}: place: not that of a run; play the scenario again") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (AttributeError, KeyError, TypeError):
        mend = "play the scenario again"
        raise ConfigError(f"{path}: of another version of stackelgrid, or of a deployed run; {mend}") from None
    if state in ("settled", "unsettled"):
        mend = "stackelgrid certify goes on with its certificate, stackelgrid report writes its report"
        raise ConfigError(f"{folder}: this run has ended; {mend}")
    if (folder / "faults.yaml").exists():
        raise ConfigError(f"{folder}: a run under a fault plan does not go on; play its scenario.yaml again")
    return where


def reopen(folder: Path) -> None:
    """Note in a run's folder that it goes on; the result that is there is that of a part until another one is written.

    Its events are told from the rounds from now on: what follows is not written there.
    """
    (folder / "events.jsonl").unlink(missing_ok=True)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    kept = {key: value for key, value in manifest.items() if key not in ("ended", "state", "message")}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    write_whole(path, {**kept, "resumed": [*manifest.get("resumed", []), now]})


def note_end(folder: Path, state: str | None, message: str, **more: str) -> None:
    """Add to manifest.json when and how the run has ended; without a `state`, that which it has."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_bytes()), **more, "ended": datetime.now(UTC).isoformat(timespec="milliseconds")}
    write_whole(path, manifest | ({"state": state} if state else {}) | ({"message": message} if message else {}))
