"""The command line of the testbed: its commands, grouped by purpose, and one line for each expected error.

What a command needs is imported when it is called: help appears at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from stackelgrid.certify import CertificateError
from stackelgrid.cli import inputs, machines, privacy, results, studies
from stackelgrid.cli.certs import certs
from stackelgrid.cli.console import CommandError, open_stderr
from stackelgrid.cli.help import GroupedCommands
from stackelgrid.cli.history import history
from stackelgrid.cli.play import run
from stackelgrid.cli.runs import compare, runs
from stackelgrid.errors import ConfigError, ExitCode, explain_os_error
from stackelgrid.ui.command import ui

COMMANDS: dict[str, list[Callable[..., Any] | typer.Typer]] = {
    "Runs": [run, inputs.check, results.certify, results.report, results.replay, runs, compare, ui],
    "Scenarios and data": [inputs.init, inputs.scenarios, inputs.schema, inputs.data],
    "Many runs": [studies.sweep, studies.compare_algorithms, studies.compare_planning, privacy.attack],
    "Machines": [machines.provision, machines.compose, machines.observe, machines.disturb, history, certs],
}
"""The commands in the order of `--help`, under the headings that they have there."""

_LONGEST_MESSAGE = 5000
"""Characters of an error that are printed; it quotes what a file or an option has."""

app = typer.Typer(
    cls=GroupedCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # rich takes longer to import than all the rest of help
    help="Demand response games between a utility, aggregators and homes, played by separate processes over MQTT.",
)


def _register(commands: dict[str, list[Callable[..., Any] | typer.Typer]]) -> None:
    for heading, group in commands.items():
        for command in group:
            if isinstance(command, typer.Typer):
                app.add_typer(command, rich_help_panel=heading)
            else:
                app.command(rich_help_panel=heading)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"stackelgrid {version('stackelgrid')}")
        raise typer.Exit


@app.callback()
def stackelgrid(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Read the options that stand before a command."""


_register(COMMANDS)


def main() -> int:
    """Run the command; print each expected error in one line and return its exit code."""
    try:
        app()
    except SystemExit as ended:  # by typer: 0, 2 for bad usage, 130 for an interrupt
        if ended.code != ExitCode.INTERRUPTED:
            return ended.code if isinstance(ended.code, int) else ExitCode.BAD_INPUT
        code, message = ExitCode.INTERRUPTED, "interrupted"
    except CommandError as error:
        code, message = error.code, str(error)
    except ConfigError as error:
        code, message = ExitCode.BAD_INPUT, str(error)
    except Exception as error:
        found = _explain(error)
        if found is None:
            raise
        code, message = found
    else:
        return ExitCode.SETTLED
    shown = message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}…"
    open_stderr().print(shown, markup=False)
    return code


def _explain(error: Exception) -> tuple[ExitCode, str] | None:
    """Find the exit code and the message of an error that is expected; None of a bug."""
    from broker import BrokerStartError
    from stackelgrid.transport.base import BrokerUnreachableError

    match error:
        case BrokerUnreachableError():
            return ExitCode.LOST, str(error)
        case CertificateError():
            return ExitCode.NOT_SETTLED, f"the certificate could not be made: {error}"
        case BrokerStartError():
            return ExitCode.BAD_INPUT, str(error)
        case OSError():
            found = explain_os_error(error)
            return None if found is None else (ExitCode.BAD_INPUT, found)
    return None
