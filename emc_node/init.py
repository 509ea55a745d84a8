"""`emc-node init`: from what the operator gave and what the owner knows to a folder that an EMC starts from.

    config.json   whom it answers, and the home
    ca.crt node.crt node.key   what it proves itself with, where the broker is at mqtts://

All of it is checked as a run checks it, in a folder beside the place where it goes, before anything there is touched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emc_node.config import assemble, config_model
from stackelgrid.errors import ConfigError
from stackelgrid.node.config import load
from stackelgrid.registry import names
from stackelgrid.transport.mqtt import MqttTransport

FOLDER = Path("/etc/stackelgrid")
STATE = Path("/var/lib/stackelgrid")
CONFIG = "config.json"
TLS = {"ca": "ca.crt", "certificate": "node.crt", "key": "node.key"}
"""What the files that TLS needs are called beside the configuration."""
_ASKED = {
    "broker": "Broker of the grid (mqtts://HOST:PORT)",
    "run": "Name of the run",
    "name": "Name of this home in the run",
    "aggregator": "Name of its aggregator",
    "game": "Game",
    "slots": "Number of slots",
    "home": "File that describes the home (JSON)",
}
_TLS_ASKED = {
    "ca": "Certificate of the authority (ca.crt)",
    "certificate": "Certificate of this home (node.crt)",
    "key": "Its private key (node.key)",
}
DONE, BAD_INPUT = 0, 2


class InitError(Exception):
    """What is missing or wrong, and how to mend it."""


def main(arguments: list[str]) -> int:
    """Set an EMC up; returns the exit code."""
    options = _options(arguments)
    try:
        configuration, files = _gathered(options)
        _install(options.to, configuration, files, overwrite=options.force)
    except InitError as error:
        return _refused(str(error))
    except OSError as error:
        hint = "; try it with sudo" if isinstance(error, PermissionError) else ""
        return _refused(f"{error.filename}: {error.strerror}{hint}")
    print(f"{options.to / CONFIG} is written and checked: {configuration['name']} of run {configuration['run']}.")
    return DONE


def _refused(why: str) -> int:
    print("\n".join(f"emc-node init: {line}" for line in why.splitlines()), file=sys.stderr)
    return BAD_INPUT


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="emc-node init", description="Set up this machine's EMC. On a terminal it asks for what is not given."
    )
    parser.add_argument("--from", dest="given", type=Path, metavar="FOLDER", help="what the operator gave this home")
    parser.add_argument("--broker", help="mqtts://HOST:PORT, the grid's")
    parser.add_argument("--run", help="the run's name")
    parser.add_argument("--name", help="this home's name in the run")
    parser.add_argument("--aggregator", help="its aggregator's name")
    parser.add_argument("--game", help=f"one of {', '.join(names())}")
    parser.add_argument("--slots", help="how many slots the game has")
    parser.add_argument("--home", type=Path, metavar="FILE", help='the home, JSON; with "devices" if it has some')
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the authority's certificate")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="this home's certificate")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key, without a passphrase")
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--state", type=Path, default=STATE, metavar="FOLDER", help="of its plan; default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace the configuration that is there")
    return parser.parse_args(arguments)


# --- what is known ---


def _gathered(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Path]]:
    """The configuration, its files called as in `TLS`, and where those files are now, by that name."""
    ask = _ask if sys.stdin.isatty() else None
    given: Path | None = options.given
    if given is None and ask is not None and options.broker is None:
        answer = ask("Folder that the operator gave for this home (empty: none)")
        given = Path(answer).expanduser() if answer else None
    configuration, files = ({}, {}) if given is None else _handed_over(given)
    for key in ("broker", "run", "name", "aggregator", "game", "slots"):
        if getattr(options, key) is not None:
            configuration[key] = getattr(options, key)
    wanted = [key for key in _ASKED if key not in configuration and not (key == "home" and "homes" in configuration)]
    answers = _answers(options, wanted, _ASKED, ask)
    home_file = answers.pop("home", options.home)
    configuration |= answers
    if home_file is not None:
        _describe(configuration, Path(home_file).expanduser())
    given_files = {key: getattr(options, key) for key in TLS if getattr(options, key) is not None}
    if given_files or (str(configuration["broker"]).startswith("mqtts") and not files):
        named = _answers(options, list(TLS), _TLS_ASKED, ask)
        files = {TLS[key]: Path(path).expanduser() for key, path in named.items()}
    if files:
        configuration["tls"] = TLS
    if isinstance(configuration["slots"], str) and configuration["slots"].isdigit():
        configuration["slots"] = int(configuration["slots"])
    configuration["reconnect_s"] = None  # a meter at home waits for its broker as long as it takes
    configuration["schedule_file"] = str(options.state.absolute() / "schedule.json")
    if configuration.get("devices") is not None:
        configuration["plan_file"] = str(options.state.absolute() / "plan.json")
    return configuration, files


def _ask(question: str) -> str:
    try:
        return input(f"{question}: ").strip()
    except EOFError:
        raise InitError("the questions were not answered; nothing is changed") from None


def _answers(
    options: argparse.Namespace, wanted: list[str], questions: dict[str, str], ask: Callable[[str], str] | None
) -> dict[str, Any]:
    """A value for each key that is wanted: as given, else asked for. Raises `InitError` when nobody can be asked."""
    missing = [key for key in wanted if getattr(options, key) is None]
    if missing and ask is None:
        flags = ", ".join(f"--{key}" for key in missing)
        raise InitError(f"{flags} missing; give them, or --from FOLDER, or run it on a terminal, where it asks")
    found = {key: getattr(options, key) for key in wanted}
    for key in missing:
        assert ask is not None
        while not (answer := ask(questions[key])):
            pass
        found[key] = answer
    return found


def _handed_over(folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The configuration in an operator's folder, and the files it names. Which devices it binds is the owner's word."""
    configuration = _json(folder / CONFIG, "name the folder that the operator made for this home with --from")
    configuration.pop("devices", None)
    files = configuration.pop("tls", None) or {}
    if not isinstance(files, dict) or not set(files) <= set(TLS):
        raise InitError(f"{folder / CONFIG}: tls: give ca, certificate and key")
    return configuration, {TLS[key]: folder / str(path) for key, path in files.items()}


def _describe(configuration: dict[str, Any], file: Path) -> None:
    """Put the owner's description of the home, and of its devices, into the configuration."""
    home = _json(file, "name a file that describes the home with --home")
    devices = home.pop("devices", None)
    configuration["homes"] = [home]
    if devices is not None:
        configuration["devices"] = devices


def _json(file: Path, mend: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise InitError(f"{file}: cannot be read ({error.strerror}); {mend}") from None
    except ValueError as error:
        raise InitError(f"{file}: is not JSON ({error}); {mend}") from None
    if not isinstance(content, dict):
        raise InitError(f"{file}: is no JSON object; {mend}")
    return content


# --- what is written ---


def _install(folder: Path, configuration: dict[str, Any], files: dict[str, Path], *, overwrite: bool) -> None:
    """Write all of it, readable by its owner alone; `folder` is as before unless all of it is in order."""
    if (folder / CONFIG).exists() and not overwrite:
        raise InitError(f"{folder / CONFIG} is there already; keep it, or replace it with --force")
    before = folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as draft:
            _write(Path(draft), configuration, files)
            _check(Path(draft), folder)
            for name in [*files, CONFIG]:  # the configuration last: with it the rest is in force
                (Path(draft) / name).replace(folder / name)
    except BaseException:
        if not before:
            shutil.rmtree(folder)
        raise


def _write(draft: Path, configuration: dict[str, Any], files: dict[str, Path]) -> None:
    content = {CONFIG: (json.dumps(configuration, indent=2) + "\n").encode()}
    for name, file in files.items():
        try:
            content[name] = file.read_bytes()
        except OSError as error:
            raise InitError(f"{file}: cannot be read ({error.strerror}); name the home's own {name}") from None
    for name, text in content.items():
        target = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(target, "wb") as written:
            written.write(text)
            os.fsync(written.fileno())


def _check(draft: Path, folder: Path) -> None:
    """As a run does: the configuration by its model, the certificate and its key, the home by what it has to solve."""
    try:
        config = load(draft / CONFIG, config_model)
        assemble(config, lambda homes: None)
        MqttTransport(config.broker, tls=config.tls)
    except (ConfigError, ValueError) as error:
        raise InitError(str(error).replace(str(draft), str(folder))) from None
