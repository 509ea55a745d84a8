"""`emc-node install-service`: a systemd unit that starts this EMC with the machine and gives it no other rights.

The unit is made from the template `emc-node.service` beside this file. Configuration, certificates and key belong to
root, and root alone can read them; systemd passes them to the service as credentials, in a folder (`%d`) that only the
service can read.
"""

from __future__ import annotations

import argparse
import pwd
import re
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

from emc_node.config import EmcConfig, config_model
from emc_node.init import CONFIG, FOLDER, STATE
from stackelgrid.errors import ConfigError, ExitCode
from stackelgrid.node.config import load

UNIT = Path("/etc/systemd/system/emc-node.service")
_STEPS_SINCE = 254
"""The first version of systemd that can wait longer before each further restart."""
_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"), Path("/tmp"), Path("/var/tmp"))
"""Folders that a service with ProtectHome= and PrivateTmp= cannot read."""
DONE = 0


class ServiceError(Exception):
    """A service that cannot be set up; the message names the cause and the mend."""


def main(arguments: list[str]) -> int:
    """Install the unit and start it; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="emc-node install-service", description="Let systemd run this machine's EMC, now and at every start."
    )
    parser.add_argument("--config", type=Path, default=FOLDER / CONFIG, help="default: %(default)s")
    parser.add_argument("--user", help="run as this user, not as one that exists only while the service runs")
    parser.add_argument("--print", action="store_true", help="show the unit and change nothing")
    options = parser.parse_args(arguments)
    try:
        text = unit(options.config, program(), systemd_version(), options.user)
        if options.print:
            print(text, end="")
            return DONE
        _install(text)
    except (ServiceError, ConfigError) as error:
        print(f"emc-node install-service: {error}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    except OSError as error:
        hint = "; try it with sudo" if isinstance(error, PermissionError) else ""
        print(f"emc-node install-service: {error.filename}: {error.strerror}{hint}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    except subprocess.CalledProcessError as error:
        print(f"emc-node install-service: {' '.join(error.cmd)} failed; see systemctl status emc-node", file=sys.stderr)
        return ExitCode.LOST
    print("emc-node runs. Its state: sudo emc-node status; its log: journalctl --unit emc-node")
    return DONE


def unit(config_file: Path, program: Path, version: int, user: str | None = None) -> str:
    """Give the text of the unit that runs `program` with a configuration, for a systemd of `version`.

    Raise `ConfigError` for a configuration that cannot be used, `ServiceError` for one that a service cannot use.
    """
    config_file = config_file.absolute()
    config = load(config_file, config_model)
    if hidden := next((folder for folder in _HIDDEN if program.is_relative_to(folder)), None):
        raise ServiceError(
            f"{program} is below {hidden}, which the service cannot read; install it in /opt/stackelgrid"
        )
    if user is not None:
        _require_user(user)
    credentials = _credentials(config_file, config)
    for path in (program, *(path for _, path in credentials)):
        if not re.fullmatch(r"[A-Za-z0-9_./-]+", str(path)):
            raise ServiceError(f"{path}: a unit can name letters, digits and ./_- only; move it to such a folder")
    return Template(Path(__file__).with_name("emc-node.service").read_text(encoding="utf-8")).substitute(
        program=program,
        restart=_restart(version),
        user="DynamicUser=yes" if user is None else f"User={user}",
        credentials="\n".join(f"LoadCredential={name}:{path}" for name, path in credentials),
    )


def program() -> Path:
    """Give the command `emc-node` that belongs to this Python. Raise `ServiceError` where there is none."""
    command = Path(sys.executable).absolute().with_name("emc-node")
    if not command.exists():
        raise ServiceError(
            f"{command} does not exist; install the package with pip, into the environment that runs this"
        )
    return command


def systemd_version() -> int:
    """Give the version of systemd on this machine. Raise `ServiceError` where there is none."""
    try:
        output = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise ServiceError(
            "systemctl cannot be run; this machine has no systemd, start emc-node --config by hand"
        ) from None
    version = re.match(r"systemd (\d+)", output)
    if version is None:
        raise ServiceError(f"systemctl --version printed {output[:80]!r}, without a version; start emc-node by hand")
    return int(version[1])


def _require_user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise ServiceError(f"--user {name}: there is no such user; create it, or leave --user out") from None


def _restart(version: int) -> str:
    """Give the pauses between restarts: from 5 seconds up to 5 minutes where systemd can, else always 30 seconds."""
    if version < _STEPS_SINCE:
        return "RestartSec=30"
    return "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=300"


def _credentials(config_file: Path, config: EmcConfig[Any]) -> list[tuple[str, Path]]:
    """List name and path of each file for the service: the configuration and those it names beside it."""
    for key in ("schedule_file", "ledger_file", "plan_file"):
        file: Path | None = getattr(config, key)
        if file is not None and file.parent != STATE:
            raise ServiceError(f"{config_file}: {key}: the service writes in {STATE} only; name a file there")
    files = [] if config.tls is None else [config.tls.ca, config.tls.certificate, config.tls.key]
    for file in files:
        if file.parent != config_file.parent:
            raise ServiceError(f"{config_file}: tls: {file} is in another folder; put it beside the configuration")
    return [(CONFIG, config_file), *((file.name, file) for file in files)]


def _install(text: str) -> None:
    UNIT.write_text(text, encoding="utf-8")
    for words in (["daemon-reload"], ["enable", UNIT.name], ["restart", UNIT.name]):
        subprocess.run(["systemctl", *words], check=True)
