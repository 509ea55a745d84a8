"""A node as a service: a systemd unit that starts it with the machine and gives it no other rights.

Configuration, certificates and key belong to root, and root alone can read them; systemd passes them to the service as
credentials, in a folder (`%d`) that only the service can read. What the node writes is in its state folder (`%S`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stackelgrid import service
from stackelgrid.node.config import NodeConfig, load
from stackelgrid.registry import Game
from stackelgrid.service import Service, ServiceError

CONFIG = "config.json"
FOLDER = Path("/etc/stackelgrid")
STATES = Path("/var/lib")


@dataclass(frozen=True)
class NodeProgram:
    """A node's program: its command, title and model, the memory of its service.

    `folder` is the name of its service's folders, where this is not the unit's own. With `several`, a machine may have
    more than one, and the unit has the node's name in its own.
    """

    command: str
    title: str
    config_model: Callable[[Game], type[NodeConfig]]
    memory: str
    folder: str | None = None
    several: bool = False

    def describe(
        self, config_file: Path, program: Path, user: str | None = None, metrics: int | None = None
    ) -> Service:
        """Describe the service that runs `program` with a configuration, and serves its `metrics` at a port.

        Raise `ConfigError` for a configuration that cannot be used, `ServiceError` for one that a service cannot use.
        """
        config_file = config_file.absolute()
        config: NodeConfig = load(config_file, self.config_model)
        if user is not None:
            service.require_user(user)
        name = f"{self.command}-{config.name}" if self.several else self.command
        folder = self.folder or name
        _require_state(config_file, config, STATES / folder)
        return Service(
            writer=f"{self.command} install-service",
            name=name,
            description=self.title,
            command=[
                program, f"--config=%d/{CONFIG}", f"--state=%S/{folder}", f"--status=%t/{folder}/status.json",
                *([] if metrics is None else [f"--metrics={metrics}"]), "--stay"
            ],
            settings=[
                "Type=notify",
                "NotifyAccess=main",
                "WatchdogSec=60",
                "# Exit code 143: stopped before its run was over. 2: what no restart mends, as a wrong configuration.",
                "SuccessExitStatus=143",
                "RestartPreventExitStatus=2",
                "",
                "# Only the service can read root's files: the private key and, of a home, its description.",
                "DynamicUser=yes" if user is None else f"User={user}",
                *(f"LoadCredential={name}:{path}" for name, path in _credentials(config_file, config)),
                f"RuntimeDirectory={folder}",
                f"StateDirectory={folder}",
                "StateDirectoryMode=0700",
                "",
                f"MemoryMax={self.memory}",
                "TasksMax=32",
                "LimitNOFILE=256",
                "Nice=5",
            ],
        )  # fmt: skip


def main(program: NodeProgram, arguments: list[str]) -> int:
    """Install the unit of a node and start it; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"{program.command} install-service",
        description="Let systemd run this node, now and at every start of the machine.",
    )
    parser.add_argument("--config", type=Path, default=FOLDER / CONFIG, help="default: %(default)s")
    parser.add_argument("--user", help="run as this user, not as one that exists only while the service runs")
    parser.add_argument("--metrics", type=int, metavar="PORT", help="serve Prometheus metrics at 127.0.0.1:PORT")

    def describe(options: argparse.Namespace) -> Service:
        if options.metrics is not None and find_spec("prometheus_client") is None:
            raise ServiceError("--metrics: prometheus_client is not installed; pip install 'prometheus-client>=0.21'")
        command = service.find_program(program.command)
        return program.describe(options.config, command, options.user, options.metrics)

    return service.main(parser, describe, arguments)


def _require_state(config_file: Path, config: NodeConfig, state: Path) -> None:
    """Raise `ServiceError` for a file that the service could not write."""
    renewed = None if config.tls is None else config.tls.renewed
    for key, file in (*config, ("tls.renewed", renewed)):
        beside = isinstance(file, Path) and file.is_relative_to(config_file.parent)
        if isinstance(file, Path) and not beside and not file.is_relative_to(state):
            raise ServiceError(f"{config_file}: {key}: the service writes in {state} only; name a file there")


def _credentials(config_file: Path, config: NodeConfig) -> list[tuple[str, Path]]:
    """List name and path of each file for the service: the configuration and those it names beside it."""
    files = [] if config.tls is None else [config.tls.ca, config.tls.certificate, config.tls.key]
    for file in files:
        if file.parent != config_file.parent:
            raise ServiceError(f"{config_file}: tls: {file} is in another folder; put it beside the configuration")
    found = [(CONFIG, config_file), *((file.name, file) for file in files)]
    for _, path in found:
        service.require_plain(path)
    return found
