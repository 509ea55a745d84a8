"""`emc-node --config FILE`: one home energy management controller."""

import sys

from emc_node.config import EmcConfig, build
from stackelgrid.node import process


def main(arguments: list[str] | None = None) -> int:
    """Run the node; returns the exit code."""
    return process.main("emc-node", EmcConfig, build, arguments)


if __name__ == "__main__":
    sys.exit(main())
