"""`--version` of every program."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn


def find_version() -> str:
    """Give the version of the installed package. It is looked up when it is asked for."""
    from importlib.metadata import version

    return version("stackelgrid")


class PrintVersion(argparse.Action):
    """Print the version of the installed package and end the program."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print it."""
        print(f"{parser.prog} {find_version()}")
        parser.exit()
