"""`leader-node --config FILE`: one utility company. Further commands set it up as a service."""

import sys

from leader_node.config import build, config_model
from stackelgrid.faults import inject_faults
from stackelgrid.node import process

COMMANDS = {"install-service": "leader_node.service"}


def main(arguments: list[str] | None = None) -> int:
    """Run the node, or one of `COMMANDS`; return the exit code."""
    return process.main("leader-node", config_model, build, inject_faults, arguments, COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
