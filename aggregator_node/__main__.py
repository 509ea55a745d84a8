"""`aggregator-node --config FILE`: one demand response aggregator."""

import sys

from aggregator_node.config import build, config_model
from stackelgrid.node import process
from stackelgrid.node.protocol import ReportingNode, RunNode


def main(arguments: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return process.main("aggregator-node", config_model, build, inject_faults, arguments)


def inject_faults(node: RunNode, source: str) -> ReportingNode:
    """Put the node under a fault plan; what that takes is imported only then."""
    from stackelgrid.faults.on_process import inject

    return inject(node, source)


if __name__ == "__main__":
    sys.exit(main())
