"""Files of an authority: replaced whole and on disk, and changed by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stackelgrid.errors import ConfigError


class AuthorityError(ConfigError):
    """The authority cannot do what it was asked to. Attributes: `what` is wrong, `where`, and the `mend`."""

    def __init__(self, what: str, where: str, mend: str) -> None:
        super().__init__(f"{what} ({where}): {mend}")
        self.what = what
        self.where = where
        self.mend = mend


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let one process change the folder at a time. A file that cannot be written is an `AuthorityError`."""
    try:
        make_private(folder, folder / "authority")
        descriptor = os.open(folder / "authority" / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel releases it however this process ends
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        mend = "make room, or the folder writable, and repeat the command"
        raise AuthorityError(f"cannot be read or written: {error.strerror}", str(error.filename), mend) from None


def make_private(*folders: Path) -> None:
    """Make folders that their owner alone may look into."""
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file by `content`, on disk when this returns: a reader sees the old file or the new one."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
