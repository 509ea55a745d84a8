"""`stackelgrid`, also as `python -m stackelgrid`: the command line, or how to install it where a package is missing."""

import gc
import sys

from stackelgrid.errors import ExitCode
from stackelgrid.interrupts import ignore_signals, raise_on_signals
from stackelgrid.text_file import set_up_console

OURS = {"leader_node", "aggregator_node", "emc_node", "broker", "stackelgrid"}
DESK = {
    "amqtt",
    "clarabel",
    "cvxpy",
    "jinja2",
    "matplotlib",
    "pandas",
    "pyarrow",
    "rich",
    "ruamel",
    "scipy",
    "starlette",
    "typer",
    "uvicorn",
}
"""The import names of the packages that the extra `desk` installs."""


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        raise_on_signals()
        set_up_console()
        code = _run_command()
        ignore_signals()
    except KeyboardInterrupt:  # which comes once
        ignore_signals()
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return code


def _run_command() -> int:
    try:
        from stackelgrid import cli

        return cli.main()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", *OURS):
            raise
        if missing in DESK:
            print(f"stackelgrid needs {missing}: pip install 'stackelgrid[desk]'", file=sys.stderr)
        else:
            print(f"the package {missing}, which a game imports, is not installed; install it", file=sys.stderr)
        return ExitCode.BAD_INPUT
    finally:
        gc.freeze()  # Python searches for garbage before it exits, a third of a second after certificate and figures


if __name__ == "__main__":
    sys.exit(main())
