"""`emc-node history`: show what this EMC remembers of its sessions, or write it as tables."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from emc_node.init import STATE
from stackelgrid.columns import encode_csv
from stackelgrid.errors import ConfigError, ExitCode
from stackelgrid.history.command import export, open_histories, print_table, read_day, show
from stackelgrid.history.tables import Period

DONE = 0


def main(arguments: list[str]) -> int:
    """Show the history; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="emc-node history", description="Show plans, prices, bills and meter readings of the EMC on this machine."
    )
    parser.add_argument(
        "place", type=Path, nargs="?", default=STATE, metavar="FILE|FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--since", metavar="DATE", help="from this day on, as 2026-03-28")
    parser.add_argument("--until", metavar="DATE", help="up to this day, included")
    parser.add_argument("--table", metavar="NAME", help="print this table as CSV")
    parser.add_argument("--csv", type=Path, metavar="DIR", help="write all tables into a folder")
    parser.add_argument("--json", action="store_true", help="print a table, by default of sessions, as JSON")
    options = parser.parse_args(arguments)
    try:
        since, until = (
            None if text is None else read_day(text, option)
            for option, text in (("--since", options.since), ("--until", options.until))
        )
        with ExitStack() as stack:
            histories, period = open_histories(options.place, stack), Period(since, until)
            if options.csv is not None:
                for path in export(histories, options.csv, "csv", encode_csv, period):
                    print(path)
            elif options.table or options.json:
                print(print_table(histories, options.table or "sessions", period, as_json=options.json))
            else:
                print(show(histories, period))
    except ConfigError as error:
        print(f"emc-node history: {error}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    return DONE
