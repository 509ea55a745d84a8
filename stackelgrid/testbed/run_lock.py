"""The lock on a run's folder while the run is played, by which one that goes on is told from one that was killed."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from stackelgrid.errors import ConfigError

_LOCK_S = 2.0
"""The time in which who only looks at a folder has let go of it."""


class RunLock:
    """The lock on a folder: until its release, or the end of the process, however that comes.

    Raises `ConfigError` where another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY)
        until = time.monotonic() + _LOCK_S
        while not _try(self._descriptor, fcntl.LOCK_EX):
            if time.monotonic() > until:
                self.release()
                raise ConfigError(f"{folder}: another process plays this run; name another folder")
            time.sleep(0.01)

    def share(self) -> Self:
        """Give the same lock to another holder; the folder is free when both have released it."""
        shared = object.__new__(type(self))
        shared._descriptor = os.dup(self._descriptor)
        return shared

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_played(folder: Path) -> bool:
    """Tell whether a process plays the run of a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    """Try to lock; a disk that has no locks, such as one of some networks, refuses nobody."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
