"""The errors that several parts raise or report, and the exit codes of all commands."""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of all commands.

    `SETTLED` is success: a run settled, a node finished its work. `STOPPED` is a node that SIGTERM ended before that.
    `NOT_CERTIFIED` is a run whose certificate was required and did not pass, or could not be made.
    """

    SETTLED = 0
    BAD_INPUT = 2
    NOT_SETTLED = 3
    LOST = 4
    NOT_CERTIFIED = 5
    INTERRUPTED = 130
    STOPPED = 143


class ConfigError(Exception):
    """A file that cannot be used; the message names file, key, value and mend."""


_MENDS = {
    errno.EACCES: "name one that you may read and write",
    errno.EPERM: "name one that you may read and write",
    errno.EROFS: "name one that can be written",
    errno.ENOSPC: "make room, or name one on another disk",
    errno.EDQUOT: "make room, or name one on another disk",
    errno.EFBIG: "make room, or name one on another disk",
    errno.EIO: "name one on another disk",
    errno.EMFILE: "raise the limit (ulimit -n), or set homes_per_process",
    errno.ENFILE: "raise the limit (sysctl fs.file-max), or set homes_per_process",
    errno.EAGAIN: "raise the limit (ulimit -u), or set homes_per_process",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ELOOP: "mend the link",
    errno.ENOENT: "make its folder, or name another",
    errno.ENOTDIR: "name another",
    errno.EISDIR: "name another",
    errno.EEXIST: "name another",
    errno.ENOTEMPTY: "name another",
}


def explain_os_error(error: OSError) -> str | None:
    """Say in one line which file or folder cannot be used and what to do; None for what is about none."""
    if error.errno not in _MENDS:
        return None
    return f"{error.filename or 'a file or a process'}: {error.strerror}; {_MENDS[error.errno]}"


class SolverError(ArithmeticError):
    """A solver found no solution. `problem` names what it was to solve, `status` is the solver's own word."""

    def __init__(self, problem: str, status: object) -> None:
        super().__init__(f"{problem}: no solution found ({status})")
        self.problem = problem
        self.status = status
