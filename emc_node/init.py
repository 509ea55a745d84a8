"""`emc-node init`: make the folder that an EMC starts from, of the operator's files and the owner's description.

    config.json                the grid's broker, the aggregator, and the home
    ca.crt node.crt node.key   certificates and key, where the broker is at mqtts://

With `--enrol` the key is made here, and certificate and configuration come from the operator, over the grid's broker.
All files are written to a temporary folder and checked there as a run checks them, before any file is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from emc_node import openssl
from emc_node.config import EmcConfig, assemble, config_model
from emc_node.enrolment import KEY, DeniedError, EnrolmentWish, enrol, forget
from emc_node.home_file import fit_to_calendar
from emc_node.openssl import OpensslError
from stackelgrid.calendar import Calendar
from stackelgrid.errors import ConfigError, ExitCode
from stackelgrid.model import LARGEST
from stackelgrid.node.config import load
from stackelgrid.node.log import set_up
from stackelgrid.registry import find, list_games
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.text_file import sync_folder
from stackelgrid.transport.address import Address
from stackelgrid.transport.base import BrokerUnreachableError
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.names import RULE, is_name

FOLDER = Path("/etc/stackelgrid")
STATE = Path("/var/lib/stackelgrid")
CONFIG = "config.json"
TLS = {"ca": "ca.crt", "certificate": "node.crt", "key": "node.key"}
"""The names of the files for TLS, beside the configuration."""
_OWN = {"homes", "devices", "tls", "name", "reconnect_s"}
"""The keys of a configuration, besides those of files, that are the home's own and no operator's."""
_QUESTIONS = {
    "broker": "Broker of the grid (mqtts://HOST:PORT)",
    "run": "Name of the run",
    "name": "Name of this home in the run",
    "aggregator": "Name of its aggregator",
    "game": "Game",
    "slots": "Number of slots",
    "home": "File that describes the home (JSON)",
}
_TLS_QUESTIONS = {
    "ca": "Certificate of the authority (ca.crt)",
    "certificate": "Certificate of this home (node.crt)",
    "key": "Its private key (node.key)",
}
_OPERATORS = ("broker", "run", "game", "slots", "scenario", "certificate", "key")
"""The options for what comes from the operator, or is made, when a home enrols."""
DONE = 0


class InitError(Exception):
    """Something missing or wrong; the message says how to mend it."""


def main(arguments: list[str]) -> int:
    """Set an EMC up; return the exit code."""
    options = _options(arguments)
    try:
        configuration, files = _collect(options) if options.enrol is None else _enrol(options)
        _install(options.to, configuration, files, overwrite=options.force)
        if options.enrol is not None:
            forget(options.to)
    except (InitError, OpensslError) as error:
        return _report(str(error))
    except BrokerUnreachableError as error:
        _report(str(error))
        return ExitCode.LOST
    except KeyboardInterrupt:
        kept = "nothing is changed" if options.enrol is None else "the same command goes on with the same key"
        _report(f"interrupted; {kept}")
        return ExitCode.INTERRUPTED
    except OSError as error:
        hint = "; try it with sudo" if isinstance(error, PermissionError) else ""
        return _report(f"{error.filename}: {error.strerror}{hint}")
    print(f"{options.to / CONFIG} is written and checked: {configuration['name']} of run {configuration['run']}.")
    return DONE


def _report(error: str) -> int:
    print("\n".join(f"emc-node init: {line}" for line in error.splitlines()), file=sys.stderr)
    return ExitCode.BAD_INPUT


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="emc-node init", description="Set up this machine's EMC. On a terminal it asks for missing options."
    )
    parser.add_argument(
        "--from", dest="folder", type=Path, metavar="FOLDER", help="the folder that the operator made for this home"
    )
    parser.add_argument(
        "--enrol",
        metavar="mqtts://HOST:PORT",
        help="make a key here and ask the operator for a certificate of it; needs --ca, --name and --home",
    )
    parser.add_argument("--broker", help="mqtts://HOST:PORT, the grid's")
    parser.add_argument("--run", help="the run's name")
    parser.add_argument("--name", help="this home's name in the run")
    parser.add_argument("--aggregator", help="its aggregator's name")
    parser.add_argument("--game", help=f"one of {', '.join(list_games())}")
    parser.add_argument("--slots", help="how many slots the game has")
    parser.add_argument("--scenario", metavar="DIGEST", help="the run's scenario, as in the operator's configurations")
    parser.add_argument("--home", type=Path, metavar="FILE", help='the home, JSON; with "devices" if it has some')
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the authority's certificate")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="this home's certificate")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key, without a passphrase")
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument(
        "--state", type=Path, default=STATE, metavar="FOLDER", help="where it saves its plan; default: %(default)s"
    )
    parser.add_argument("--force", action="store_true", help="replace the configuration that is there")
    return parser.parse_args(arguments)


# --- collect ---


def _collect(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Collect the configuration, which names its files as in `TLS`, and the contents of those files by name."""
    ask = _ask if sys.stdin.isatty() else None
    folder: Path | None = options.folder
    if folder is None and ask is not None and options.broker is None:
        answer = ask("Folder that the operator made for this home (empty: none)")
        folder = Path(answer).expanduser() if answer else None
    configuration, files = ({}, {}) if folder is None else _read_folder(folder)
    for key in ("broker", "run", "name", "aggregator", "game", "slots", "scenario"):
        if getattr(options, key) is not None:
            configuration[key] = getattr(options, key)
    wanted = [
        key for key in _QUESTIONS if key not in configuration and not (key == "home" and "homes" in configuration)
    ]
    values = _values_for(options, wanted, _QUESTIONS, ask)
    home_file = values.pop("home", options.home)
    configuration |= values
    if home_file is not None:
        _describe(configuration, Path(home_file).expanduser())
    has_tls_option = any(getattr(options, key) is not None for key in TLS)
    if has_tls_option or (str(configuration["broker"]).startswith("mqtts") and not files):
        paths = _values_for(options, list(TLS), _TLS_QUESTIONS, ask)
        files = {TLS[key]: Path(path).expanduser() for key, path in paths.items()}
    if files:
        configuration["tls"] = TLS | configuration.get("tls", {})
    if isinstance(configuration["slots"], str) and configuration["slots"].isdigit():
        configuration["slots"] = int(configuration["slots"])
    contents = {name: _read_bytes(file, f"name the home's own {name}") for name, file in files.items()}
    return _complete(configuration, options.state), contents


def _complete(configuration: dict[str, Any], state: Path) -> dict[str, Any]:
    """Add what every EMC at home has: the slots of the run, patience, and files below `state`."""
    _fit_homes(configuration)
    configuration["reconnect_s"] = None  # a meter at home waits for its broker as long as it takes
    configuration["schedule_file"] = str(state.absolute() / "schedule.json")
    configuration["ledger_file"] = str(state.absolute() / "ledger.json")
    configuration["history_file"] = str(state.absolute() / "home.history.sqlite")
    if configuration.get("devices") is not None:
        configuration["plan_file"] = str(state.absolute() / "plan.json")
    return configuration


def _enrol(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Ask the operator for a certificate; give the same as `_collect`, of the answer."""
    given = [f"--{key}" for key in _OPERATORS if getattr(options, key) is not None]
    given += [] if options.folder is None else ["--from"]
    if given:
        raise InitError(f"{', '.join(given)}: --enrol gets or makes it; leave it out")
    _require_free(options.to, overwrite=options.force)
    questions = {key: (_QUESTIONS | _TLS_QUESTIONS)[key] for key in ("ca", "name", "home")}
    values = _values_for(options, list(questions), questions, _ask if sys.stdin.isatty() else None)
    name, ca, home_file = values["name"], Path(values["ca"]).expanduser(), Path(values["home"]).expanduser()
    if not is_name(name):
        raise InitError(f"--name: {name!r} is no name: {RULE}")
    described: dict[str, Any] = {}
    _describe(described, home_file)
    authority = _read_bytes(ca, "name the authority's certificate, which the operator gave you, with --ca")
    set_up("console", "", name)
    options.to.mkdir(mode=0o700, parents=True, exist_ok=True)
    wish = EnrolmentWish(name, options.aggregator, _find_limit(described["homes"][0]))
    try:
        certificate, terms = enrol(
            options.enrol, ca, options.to, wish, lambda line: print(f"emc-node init: {line}", flush=True)
        )
    except DeniedError as error:
        raise InitError(f"{error}; mend that and repeat the command, which asks anew") from None
    except ValueError as error:
        raise InitError(str(error)) from None
    if foreign := sorted(key for key in terms if key in _OWN or key.endswith("_file")):
        raise InitError(f"the operator's terms have {foreign[0]}, which is the home's own; ask the operator")
    key = options.to / KEY
    configuration = {
        **terms,
        "name": name,
        **described,
        "tls": TLS | {"renewed": str(options.state.absolute() / f"{openssl.identify(key)}.pem")},
    }
    files = {"ca.crt": authority, "node.crt": certificate.encode(), "node.key": key.read_bytes()}
    return _complete(configuration, options.state), files


def _find_limit(home: Mapping[str, Any]) -> float | None:
    """Find the largest power that a described home may draw at its connection, None where it names none."""
    for key, limit in (("connection", "draw_kw"), ("draw_limit", "max_kw")):
        part = home.get(key)
        value = part.get(limit) if isinstance(part, dict) else None
        values = value if isinstance(value, list) else [value]
        if values and all(isinstance(each, int | float) and 0 < each <= LARGEST for each in values):
            return float(max(values))
    return None


def _ask(question: str) -> str:
    try:
        return input(f"{question}: ").strip()
    except EOFError:
        raise InitError("the questions were not answered; nothing is changed") from None


def _values_for(
    options: argparse.Namespace, wanted: list[str], questions: dict[str, str], ask: Callable[[str], str] | None
) -> dict[str, Any]:
    """Give a value for each key in `wanted`: the option, or the answer to a question.

    Raise `InitError` when nobody can be asked.
    """
    missing = [key for key in wanted if getattr(options, key) is None]
    if missing and ask is None:
        flags = ", ".join(f"--{key}" for key in missing)
        raise InitError(f"{flags} missing; give them, or --from FOLDER, or run it on a terminal, where it asks")
    values = {key: getattr(options, key) for key in wanted}
    for key in missing:
        assert ask is not None
        while fault := _find_fault(key, answer := ask(questions[key])):
            print(f"{fault}; please answer again", file=sys.stderr)
        values[key] = answer
    return values


def _find_fault(key: str, answer: str) -> str:
    """Find what is wrong with an answer, empty where it is nothing; how answers fit together is checked later."""
    try:
        match key:
            case "broker":
                Address.parse(answer)
            case "run" | "name" | "aggregator":
                return "" if is_name(answer) else f"{answer!r} is no name: {RULE}"
            case "game":
                find(answer)
            case "slots":
                return "" if answer.isdecimal() and 1 <= int(answer) <= 1000 else f"{answer!r} is not one of 1 to 1000"
            case "home":
                _read_json(Path(answer).expanduser(), "name a file that describes the home")
            case _:
                Path(answer).expanduser().read_bytes()
    except OSError as error:
        return f"{answer}: cannot be read ({error.strerror})"
    except (ValueError, InitError) as error:
        return str(error)
    return ""


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Read the configuration in an operator's folder and the files it names; only the owner may name devices."""
    configuration = _read_json(folder / CONFIG, "name the folder that the operator made for this home with --from")
    configuration.pop("devices", None)
    files = configuration.pop("tls", None) or {}
    if not isinstance(files, dict) or not set(files) <= {*TLS, "renewed"}:
        raise InitError(f"{folder / CONFIG}: tls: give ca, certificate and key")
    if "renewed" in files:  # a home that enrolled itself is described anew
        configuration["tls"] = {"renewed": files.pop("renewed")}
    return configuration, {TLS[key]: folder / str(path) for key, path in files.items()}


def _describe(configuration: dict[str, Any], file: Path) -> None:
    """Put the owner's description of the home and its devices into the configuration."""
    home = _read_json(file, "name a file that describes the home with --home")
    devices = home.pop("devices", None)
    configuration["homes"] = [home]
    if devices is not None:
        configuration["devices"] = devices


def _fit_homes(configuration: dict[str, Any]) -> None:
    """Fit the homes to the run's calendar, if it has one; what is wrong with it is found later."""
    try:
        calendar = Calendar.model_validate(configuration.get("calendar"))
        model = find(str(configuration.get("game"))).load("home")
    except (ValidationError, ValueError):  # an unknown game among them
        return
    configuration["homes"] = [fit_to_calendar(home, model, calendar) for home in configuration["homes"]]


def _read_json(file: Path, mend: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InitError(f"{file}: cannot be read ({error.strerror}); {mend}") from None
    except ValueError as error:
        raise InitError(f"{file}: is not JSON ({error}); {mend}") from None
    if not isinstance(content, dict):
        raise InitError(f"{file}: is no JSON object; {mend}")
    return content


def _read_bytes(file: Path, mend: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InitError(f"{file}: cannot be read ({error.strerror}); {mend}") from None


# --- write ---


def _require_free(folder: Path, *, overwrite: bool) -> None:
    if (folder / CONFIG).exists() and not overwrite:
        raise InitError(f"{folder / CONFIG} is there already; keep it, or replace it with --force")


def _install(folder: Path, configuration: dict[str, Any], files: dict[str, bytes], *, overwrite: bool) -> None:
    """Write all files, for their owner alone to read; `folder` stays as it was unless all of them are in order."""
    _require_free(folder, overwrite=overwrite)
    before = folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as draft:
            _write(Path(draft), configuration, files)
            _check(Path(draft), folder)
            for name in [*files, CONFIG]:  # the configuration last: with it the rest is in force
                (Path(draft) / name).replace(folder / name)
        sync_folder(folder)
    except BaseException:
        if not before:
            shutil.rmtree(folder)
        raise


def _write(draft: Path, configuration: dict[str, Any], files: dict[str, bytes]) -> None:
    content = {CONFIG: (json.dumps(configuration, indent=2) + "\n").encode(), **files}
    for name, text in content.items():
        target = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(target, "wb") as written:
            written.write(text)
            os.fsync(written.fileno())


def _check(draft: Path, folder: Path) -> None:
    """Check as a run does: the configuration by its model, certificate and key, and that the home can be solved.

    Besides, a home alone is held against the limit of its connection, which its aggregator holds against its answers.
    """
    try:
        config: EmcConfig[Any] = load(draft / CONFIG, config_model)
        if config.max_kw is not None and len(config.homes) == 1:
            _check_connection(config.homes[0], config.max_kw)
        assemble(config, lambda homes: None)
        MqttTransport(config.broker, tls=config.tls)
        if config.tls is not None and (problem := config.tls.find_out_of_date()) is not None:
            raise ConfigError(problem)
    except (ConfigError, ValueError) as error:
        raise InitError(str(error).replace(str(draft), str(folder))) from None


def _check_connection(home: HomeModel, max_kw: float) -> None:
    try:
        home.check_connection(max_kw)
    except ValueError as error:
        raise InitError(f"homes.0.{error}") from None
