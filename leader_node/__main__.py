"""`leader-node --config FILE`: one utility company."""

import sys

from leader_node.config import build, config_model
from stackelgrid.faults import inject_faults
from stackelgrid.node import process


def main(arguments: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return process.main("leader-node", config_model, build, inject_faults, arguments)


if __name__ == "__main__":
    sys.exit(main())
