"""`aggregator-node --config FILE`: one demand response aggregator. Further commands set it up as a service."""

import sys

from aggregator_node.config import build, config_model
from stackelgrid.faults import inject_faults
from stackelgrid.node import process

COMMANDS = {"install-service": "aggregator_node.service"}


def main(arguments: list[str] | None = None) -> int:
    """Run the node, or one of `COMMANDS`; return the exit code."""
    return process.main("aggregator-node", config_model, build, inject_faults, arguments, COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
