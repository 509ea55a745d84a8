"""systemd units of our programs. All are made from one template, `unit.service`, and so have the same hardening.

Programs that only read their files get them as credentials (`stackelgrid.node.service`). Those that share a folder with
the authority run as the user who owns it (`run_as_owner`).
"""

from __future__ import annotations

import argparse
import pwd
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from stackelgrid.errors import ConfigError, ExitCode

UNITS = Path("/etc/systemd/system")
_STEPS_SINCE = 254
"""The first version of systemd that can wait longer before each further restart."""
_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"), Path("/tmp"), Path("/var/tmp"))
"""Folders that a service with ProtectHome= and PrivateTmp= cannot read."""


class ServiceError(Exception):
    """A service that cannot be set up; the message names the cause and the mend."""


@dataclass(frozen=True)
class Service:
    """A program that systemd is to run.

    - `writer`: the command that writes the unit;
    - `name`: the unit's, without `.service`;
    - `command`: the program and its words;
    - `settings`: the lines of its section [Service] that not all our units have.
    """

    writer: str
    name: str
    description: str
    command: Sequence[str | Path]
    settings: Sequence[str]

    def unit(self, version: int) -> str:
        """Write the unit for a systemd of `version`. Raise `ServiceError` where a service cannot use it."""
        for path in self.command:
            if isinstance(path, Path):
                require_readable(path)
        return Template(Path(__file__).with_name("unit.service").read_text(encoding="utf-8")).substitute(
            writer=self.writer,
            name=self.name,
            description=self.description,
            command=" ".join(map(str, self.command)),
            restart=_restart(version),
            settings="\n".join(self.settings),
        )

    def install(self, version: int) -> None:
        """Write the unit, start the service, and have it started with the machine."""
        file = UNITS / f"{self.name}.service"
        file.write_text(self.unit(version), encoding="utf-8")
        for words in (["daemon-reload"], ["enable", file.name], ["restart", file.name]):
            subprocess.run(["systemctl", *words], check=True)


def main(
    parser: argparse.ArgumentParser, describe: Callable[[argparse.Namespace], Service], arguments: list[str]
) -> int:
    """Install the service that `describe` makes of the options, or print its unit; return the exit code."""
    parser.add_argument("--print", action="store_true", help="show the unit and change nothing")
    options = parser.parse_args(arguments)
    return install(parser.prog, lambda: describe(options), only_print=options.print)


def install(command: str, describe: Callable[[], Service], *, only_print: bool) -> int:
    """Install the service that `describe` gives, or print its unit; return the exit code of `command`."""
    name = ""
    try:
        service = describe()
        name, version = service.name, systemd_version()
        if only_print:
            print(service.unit(version), end="")
            return ExitCode.SETTLED
        service.install(version)
    except (ServiceError, ConfigError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    except OSError as error:
        mend = "; try it with sudo" if isinstance(error, PermissionError) else ""
        print(f"{command}: {error.filename}: {error.strerror}{mend}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    except subprocess.CalledProcessError as error:
        print(f"{command}: {' '.join(error.cmd)} failed; see systemctl status {name}", file=sys.stderr)
        return ExitCode.LOST
    print(f"{name} runs. Its log: journalctl --unit {name}")
    return ExitCode.SETTLED


def run_as_owner(folder: Path) -> list[str]:
    """List the settings of a service that reads and writes `folder` as the user who owns it.

    Raise `ServiceError` for a folder of root, or one that a service cannot see.
    """
    require_readable(folder)
    try:
        owner = pwd.getpwuid(folder.stat().st_uid).pw_name
    except OSError as error:
        raise ServiceError(f"{folder}: {error.strerror}; name an existing folder") from None
    except KeyError:
        raise ServiceError(f"{folder}: its owner has no name on this machine; give it to a user (chown -R)") from None
    if owner == "root":
        mend = f"useradd --system stackelgrid; chown -R stackelgrid: {folder}"
        raise ServiceError(f"{folder}: belongs to root, and the service is to have no such rights; {mend}")
    return [f"User={owner}", f"ReadWritePaths={folder}"]


def find_program(name: str) -> Path:
    """Find the command `name` that belongs to this Python. Raise `ServiceError` where there is none."""
    command = find_python().with_name(name)
    if not command.exists():
        raise ServiceError(
            f"{command} does not exist; install the package with pip, into the environment that runs this"
        )
    return command


def find_python() -> Path:
    """Find the Python of this environment. Raise `ServiceError` for one that a service cannot read."""
    python = Path(sys.executable).absolute()
    if hidden := _find_hidden(python.resolve()):
        mend = "make the environment with the machine's own Python, as /usr/bin/python3 -m venv"
        raise ServiceError(f"{python} is {python.resolve()}, below {hidden}, which the service cannot read; {mend}")
    return python


def require_readable(path: Path) -> None:
    """Raise `ServiceError` for a program or a folder that a service cannot read."""
    if hidden := _find_hidden(path):
        mend = "install a program in /opt/stackelgrid, and keep data below /var/lib or /etc"
        raise ServiceError(f"{path} is below {hidden}, which the service cannot read; {mend}")
    require_plain(path)


def _find_hidden(path: Path) -> Path | None:
    return next((folder for folder in _HIDDEN if path.is_relative_to(folder)), None)


def require_plain(path: Path) -> None:
    """Raise `ServiceError` for a path that a unit would have to quote."""
    if not re.fullmatch(r"[A-Za-z0-9_./-]+", str(path)):
        raise ServiceError(f"{path}: a unit can name letters, digits and ./_- only; move it to such a folder")


def require_user(name: str) -> None:
    """Raise `ServiceError` unless this machine has such a user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise ServiceError(f"--user {name}: there is no such user; create it, or leave --user out") from None


def systemd_version() -> int:
    """Give the version of systemd on this machine. Raise `ServiceError` where there is none."""
    try:
        output = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise ServiceError("systemctl cannot be run; this machine has no systemd, start the program by hand") from None
    version = re.match(r"systemd (\d+)", output)
    if version is None:
        raise ServiceError(f"systemctl --version printed {output[:80]!r}, without a version; start it by hand")
    return int(version[1])


def _restart(version: int) -> str:
    """Give the pauses between restarts: from 5 seconds up to 5 minutes where systemd can, else always 30 seconds."""
    if version < _STEPS_SINCE:
        return "RestartSec=30"
    return "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=300"
