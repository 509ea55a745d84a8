"""Errors of SQLite as errors of the system."""

from __future__ import annotations

import errno
import sqlite3

_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
}


def to_os_error(error: sqlite3.Error) -> OSError:
    """Say as an error of the system what kept SQLite from writing."""
    return OSError(_ERRNO.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, errno.EINVAL), str(error))
