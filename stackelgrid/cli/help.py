"""The list of commands in `--help`, under a heading for each purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter  # typer's own copy of click; it exports neither


class GroupedCommands(TyperGroup):
    """Lists the commands of each panel under its name, the panels in the order of their first commands."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the headings and a line for each command, in columns that are the same under all headings."""
        width = max(map(len, self.commands))
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            line = command.get_short_help_str(formatter.width - width - 6)
            groups.setdefault(str(getattr(command, "rich_help_panel", "")), []).append((f"{name:{width}}", line))
        for heading, lines in groups.items():
            with formatter.section(heading):
                formatter.write_dl(lines)
