"""What the benchmarks print: one line per figure, its target beside it where it has one."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import broker

CONSOLE = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Figure:
    """`value` is printed as it stands; `at_most` is the target of `measured`, a bare number of the unit in `value`."""

    what: str
    value: str
    measured: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """The target and whether it is met, or nothing."""
        if self.measured is None or self.at_most is None:
            return ""
        return f"target <= {self.at_most:g}: {'met' if self.measured <= self.at_most else 'MISSED'}"


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print one benchmark's figures."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(min_width=62)
    table.add_column(justify="right", min_width=18)
    table.add_column()
    for figure in figures:
        table.add_row(f"  {figure.what}", figure.value, figure.verdict)
    CONSOLE.print(f"\n{title}", markup=False)
    CONSOLE.print(table)
