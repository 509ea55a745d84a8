"""`emc-node --config FILE`: one home energy management controller. Further commands set it up and show its status."""

import sys

from emc_node.config import build, config_model
from stackelgrid.faults import inject_faults
from stackelgrid.node import process

COMMANDS = {
    "doctor": "emc_node.doctor",
    "history": "emc_node.history",
    "init": "emc_node.init",
    "install-service": "emc_node.service",
    "leave": "emc_node.leave",
    "status": "emc_node.status",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the node, or one of `COMMANDS`; return the exit code."""
    return process.main("emc-node", config_model, build, inject_faults, arguments, COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
