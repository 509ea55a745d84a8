"""The list of commands in `--help`, under a heading for each purpose."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter  # typer's own copy of click; it exports neither


class GroupedCommands(TyperGroup):
    """Lists commands in the order in which they were added, those of one panel under its name."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the headings and a line for each command, in columns that are the same under all headings."""
        width = max(map(len, self.commands))
        for heading, group in groupby(self.commands.items(), lambda item: getattr(item[1], "rich_help_panel", None)):
            lines = {name: command.get_short_help_str(formatter.width - width - 6) for name, command in group}
            with formatter.section(str(heading)):
                formatter.write_dl([(f"{name:{width}}", line) for name, line in lines.items()])
