"""`python -m benchmarks [NAME...]`: measure, and print each figure beside its target."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from benchmarks.figures import machine, show
from broker import BrokerStartError

BENCHMARKS = {
    "round": "benchmarks.round_trip",
    "hosts": "benchmarks.hosts",
    "solve": "benchmarks.solve",
    "devices": "benchmarks.devices",
    "case": "benchmarks.case",
    "memory": "benchmarks.memory",
    "startup": "benchmarks.startup",
    "watched": "benchmarks.watched",
    "meter": "benchmarks.meter",
    "page": "benchmarks.page",
    "masks": "benchmarks.private_sums",
}


def main() -> int:
    """Run the benchmarks named, all of them by default; 2 when one cannot be run here."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks")
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    chosen = arguments.parse_args().names or list(BENCHMARKS)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        arguments.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the testbed has it for its nodes; before numpy is imported
    print(machine(), flush=True)
    for name in chosen:
        benchmark = importlib.import_module(BENCHMARKS[name])
        try:
            show(f"{name}: {benchmark.TITLE}", benchmark.measure())
        except BrokerStartError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
