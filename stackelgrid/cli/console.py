"""Where commands print, and the error that ends one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from stackelgrid.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console


class CommandError(Exception):
    """Ends the command with a message and an exit code."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def open_stderr() -> Console:
    """Open the console for progress and messages."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Print labels and values, as they are: a title may look like markup."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for label, value in rows:
        table.add_row(to_line(label), to_line(value))
    Console(highlight=False, markup=False, emoji=False).print(table)


def to_line(text: str) -> str:
    """Make one printable line of a text that is a file's."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def print_columns(rows: list[list[str]]) -> None:
    """Print a table whose first row is its head, numbers from the third column on."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows[1:]:
        table.add_row(*row)
    Console(highlight=False, width=max(Console().width, 110)).print(table)
