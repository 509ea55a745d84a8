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
_END_S = 15.0
"""The time in which the nodes of a run whose process was killed have ended."""


class RunLock:
    """The lock on a folder: until its release, or the end of the process, however that comes.

    A run that is `resumed` waits for the end of what the one before has left. Raises `ConfigError` where another
    process has the lock.
    """

    def __init__(self, folder: Path, *, resumed: bool = False) -> None:
        self.descriptor = os.open(folder, os.O_RDONLY)
        until = time.monotonic() + (_END_S if resumed else _LOCK_S)
        while not _try(self.descriptor, fcntl.LOCK_EX):
            if time.monotonic() > until:
                self.release()
                raise ConfigError(f"{folder}: another process plays this run; name another folder, or wait for its end")
            time.sleep(0.01)

    def share(self) -> Self:
        """Give the same lock to another holder; the folder is free when both have released it."""
        shared = object.__new__(type(self))
        shared.descriptor = os.dup(self.descriptor)
        return shared

    def release(self) -> None:
        """Release the lock."""
        os.close(self.descriptor)

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
