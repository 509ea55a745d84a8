"""`--version` of every program."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn


class PrintVersion(argparse.Action):
    """Print the version of the installed package and end the program. It is looked up when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print it."""
        from importlib.metadata import version

        print(f"{parser.prog} {version('stackelgrid')}")
        parser.exit()
