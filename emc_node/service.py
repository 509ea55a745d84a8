"""`emc-node install-service`: a systemd unit that starts this EMC with the machine and keeps it out of everything else.

The unit is the template `emc-node.service` beside this file. Configuration, certificates and key stay root's, readable
by root alone; systemd hands them to the service as credentials, in a folder (`%d`) that only the service sees.
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
from stackelgrid.errors import ConfigError
from stackelgrid.node.config import load

UNIT = Path("/etc/systemd/system/emc-node.service")
_STEPS_SINCE = 254
"""The systemd that learnt to wait longer before each further restart."""
_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"), Path("/tmp"), Path("/var/tmp"))
"""What a service with ProtectHome= and PrivateTmp= does not see."""
DONE, BAD_INPUT, FAILED = 0, 2, 1


class ServiceError(Exception):
    """Why no service can be set up, and how to mend that."""


def main(arguments: list[str]) -> int:
    """Install the unit and start it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="emc-node install-service", description="Have systemd run this machine's EMC, now and from every start."
    )
    parser.add_argument("--config", type=Path, default=FOLDER / CONFIG, help="default: %(default)s")
    parser.add_argument("--user", help="run as this user, instead of one that exists while the service runs")
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
        return BAD_INPUT
    except OSError as error:
        hint = "; try it with sudo" if isinstance(error, PermissionError) else ""
        print(f"emc-node install-service: {error.filename}: {error.strerror}{hint}", file=sys.stderr)
        return BAD_INPUT
    except subprocess.CalledProcessError as error:
        print(f"emc-node install-service: {' '.join(error.cmd)} failed; see systemctl status emc-node", file=sys.stderr)
        return FAILED
    print("emc-node runs. How it is: sudo emc-node status; what it says: journalctl --unit emc-node")
    return DONE


def unit(config_file: Path, program: Path, version: int, user: str | None = None) -> str:
    """The text of the unit that runs `program` with a configuration, for a systemd of `version`.

    Raises `ConfigError` for a configuration that cannot be used, `ServiceError` for one that a service cannot use.
    """
    config_file = config_file.absolute()
    config = load(config_file, config_model)
    if hidden := next((folder for folder in _HIDDEN if program.is_relative_to(folder)), None):
        raise ServiceError(
            f"{program} is below {hidden}, which the service does not see; install it in /opt/stackelgrid"
        )
    if user is not None:
        _require_user(user)
    credentials = _credentials(config_file, config)
    for path in (program, *(path for _, path in credentials)):
        if not re.fullmatch(r"[A-Za-z0-9_./-]+", str(path)):
            raise ServiceError(f"{path}: a unit can name letters, digits and ./_- only; move it to such a folder")
    return Template(Path(__file__).with_name("emc-node.service").read_text()).substitute(
        program=program,
        restart=_restart(version),
        user="DynamicUser=yes" if user is None else f"User={user}",
        credentials="\n".join(f"LoadCredential={name}:{path}" for name, path in credentials),
    )


def program() -> Path:
    """The command `emc-node` that belongs to this Python. Raises `ServiceError`."""
    found = Path(sys.executable).absolute().with_name("emc-node")
    if not found.exists():
        raise ServiceError(f"{found} is not there; install the package with pip, into the environment that runs this")
    return found


def systemd_version() -> int:
    """The number of the systemd on this machine. Raises `ServiceError` where there is none."""
    try:
        told = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise ServiceError(
            "systemctl cannot be run; this machine has no systemd, start emc-node --config by hand"
        ) from None
    found = re.match(r"systemd (\d+)", told)
    if found is None:
        raise ServiceError(f"systemctl --version says {told[:80]!r}, in which no version is to be found")
    return int(found[1])


def _require_user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise ServiceError(f"--user {name}: there is no such user; make one, or leave --user out") from None


def _restart(version: int) -> str:
    """Pauses between restarts: where systemd can, from five seconds up to five minutes, else always half a minute."""
    if version < _STEPS_SINCE:
        return "RestartSec=30"
    return "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=300"


def _credentials(config_file: Path, config: EmcConfig[Any]) -> list[tuple[str, Path]]:
    """Name and place of each file that the service is handed, the configuration and those it names beside it."""
    for key in ("schedule_file", "plan_file"):
        file: Path | None = getattr(config, key)
        if file is not None and file.parent != STATE:
            raise ServiceError(f"{config_file}: {key}: the service writes in {STATE} only; name a file there")
    files = [] if config.tls is None else [config.tls.ca, config.tls.certificate, config.tls.key]
    for file in files:
        if file.parent != config_file.parent:
            raise ServiceError(f"{config_file}: tls: {file} is elsewhere; put it beside the configuration")
    return [(CONFIG, config_file), *((file.name, file) for file in files)]


def _install(text: str) -> None:
    UNIT.write_text(text)
    for words in (["daemon-reload"], ["enable", UNIT.name], ["restart", UNIT.name]):
        subprocess.run(["systemctl", *words], check=True)
