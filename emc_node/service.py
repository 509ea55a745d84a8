"""`emc-node install-service`: a systemd unit that starts this EMC with the machine."""

from __future__ import annotations

from emc_node.config import config_model
from stackelgrid.node import service

PROGRAM = service.NodeProgram(
    "emc-node", "Home energy management controller (Stackelgrid EMC)", config_model, memory="128M", folder="stackelgrid"
)


def main(arguments: list[str]) -> int:
    """Install the unit and start it; return the exit code."""
    return service.main(PROGRAM, arguments)
