"""Let each of several equal processes, such as replicas of a container, take one configuration of a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from stackelgrid.errors import ConfigError


def claim(folder: Path) -> Path:
    """Claim the first `folder/*/config.json`, by name, that no other process has, until this process ends.

    The folder that the configuration is in is locked: that needs no right to write, it lasts when the file in it is
    replaced, and the system releases it however the process ends. Raises `ConfigError` when none is free.
    """
    try:
        found = sorted(node / "config.json" for node in folder.iterdir() if (node / "config.json").is_file())
    except OSError as error:
        mend = "name a folder of nodes with --claim, which this user may read"
        raise ConfigError(f"{error.filename}: cannot be searched ({error.strerror}); {mend}") from None
    for config in found:
        if _lock(config.parent):
            return config
    if found:
        raise ConfigError(
            f"{folder}: all {len(found)} nodes are taken by other processes; start fewer, or provision more of them"
        )
    raise ConfigError(f"{folder}: there is no NODE/config.json in it; name a folder of nodes with --claim")


def _lock(folder: Path) -> bool:
    """Lock a folder; return false where another process has it."""
    try:
        lock = os.open(
            folder, os.O_RDONLY | os.O_DIRECTORY
        )  # never closed, so that the process has the lock until it ends
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be opened ({error.strerror}); let this user read it") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    return True
