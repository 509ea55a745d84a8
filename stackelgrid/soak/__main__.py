"""`python -m stackelgrid.soak`: play fresh seeds for a time or a number of runs, and shrink those that break a promise.

Exit codes: 0 all promises were kept, 1 some were not, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from stackelgrid.errors import ExitCode
from stackelgrid.interrupts import ignore_signals, raise_on_signals
from stackelgrid.soak.cases import draw_case
from stackelgrid.soak.shrink import shrink
from stackelgrid.soak.tally import Tally, Verdict, soak

_SUMMARY_S = 60.0
_SHRUNK = 3
"""Broken seeds that are shrunk; the rest are often of the same cause."""


class _Console:
    """Prints a line for each violation at once, and a summary every minute."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.summary = "no run has ended"

    def __call__(self, tally: Tally, verdicts: list[Verdict]) -> None:
        self.summary = tally.format_line()
        for verdict in verdicts:
            for violation in verdict.violations:
                print(f"seed {verdict.seed} ({verdict.game}): {violation}", flush=True)
        if time.monotonic() - self._last >= _SUMMARY_S:
            self._last = time.monotonic()
            print(self.summary, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stackelgrid.soak", description=__doc__)
    parser.add_argument("--runs", type=int, help="how many seeds")
    parser.add_argument("--seconds", type=float, help="for how long; without --runs and --seconds, a minute")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--from", dest="first", type=int, metavar="SEED", help="the first seed; else by the clock")
    options = parser.parse_args(arguments)
    first = int(time.time()) * 1000 if options.first is None else options.first
    seconds = 60.0 if options.runs is None and options.seconds is None else options.seconds
    print(f"seeds from {first} on", flush=True)
    console = _Console()
    raise_on_signals()
    try:
        tally = soak(first, options.runs, seconds, options.jobs, console)
    except KeyboardInterrupt:
        print(f"interrupted; {console.summary}", file=sys.stderr)
        return ExitCode.INTERRUPTED
    finally:
        ignore_signals()
    print(tally.format_line())
    print(tally.format_table())
    print(f"\nof 1,000 runs, so many reached\n{tally.format_marks()}")
    if not tally.failures:
        return 0
    print("broken:", *(verdict.seed for verdict in tally.failures))
    print("see one again: stackelgrid replay SEED")
    logging.disable(logging.CRITICAL)
    for verdict in tally.failures[:_SHRUNK]:
        print(
            f"\nsmaller, with the same promise broken:\n\n{shrink(draw_case(verdict.seed)).format_test()}", flush=True
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
