"""`aggregator-node install-service`: a systemd unit that starts an aggregator with the machine."""

from __future__ import annotations

from aggregator_node.config import config_model
from stackelgrid.node import service

PROGRAM = service.NodeProgram(
    "aggregator-node", "Demand response aggregator of a Stackelgrid run", config_model, memory="256M", several=True
)


def main(arguments: list[str]) -> int:
    """Install the unit and start it; return the exit code."""
    return service.main(PROGRAM, arguments)
