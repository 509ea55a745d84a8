"""The errors that several parts raise or report, and the exit codes of all commands."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of all commands.

    `SETTLED` is success: a run settled, a node finished its work. `STOPPED` is a node that SIGTERM ended before that.
    """

    SETTLED = 0
    BAD_INPUT = 2
    NOT_SETTLED = 3
    LOST = 4
    INTERRUPTED = 130
    STOPPED = 143


class ConfigError(Exception):
    """A file that cannot be used; the message names file, key, value and mend."""


class SolverError(ArithmeticError):
    """A solver found no solution. `problem` names what it was to solve, `status` is the solver's own word."""

    def __init__(self, problem: str, status: object) -> None:
        super().__init__(f"{problem}: no solution found ({status})")
        self.problem = problem
        self.status = status
