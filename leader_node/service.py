"""`leader-node install-service`: a systemd unit that starts the leader with the machine."""

from __future__ import annotations

from leader_node.config import config_model
from stackelgrid.node import service

PROGRAM = service.NodeProgram("leader-node", "Leader of a Stackelgrid run", config_model, memory="512M")


def main(arguments: list[str]) -> int:
    """Install the unit and start it; return the exit code."""
    return service.main(PROGRAM, arguments)
