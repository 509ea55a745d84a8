"""Write files so that a reader sees the old version or the new one, and lines as a whole."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Recorder = Callable[[Mapping[str, Any]], None]
"""Stores one record, such as a line of a journal."""


def discard(record: Mapping[str, Any]) -> None:
    """Store nothing: a `Recorder` for a node that was given no file."""


def write_whole(path: Path, content: Any) -> None:
    """Write `content` as JSON so that a reader sees the old file or the new one."""
    replace_file(path, json.dumps(content, allow_nan=False).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old file or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)


class JsonLines:
    """Appends one JSON object a line to a file.

    `before` are the lines of before a restart. Raises `FileExistsError` for a file with any content where there are
    none: it is of another run.
    """

    def __init__(self, path: Path, before: Sequence[Any] = ()) -> None:
        if before:
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text("".join(json.dumps(record, allow_nan=False) + "\n" for record in before))
            draft.replace(path)
        elif path.exists() and path.stat().st_size:
            raise FileExistsError(errno.EEXIST, "there is another run's journal", str(path))
        else:
            path.touch()
        self._path = path

    def __call__(self, record: Any) -> None:
        """Append `record`."""
        with self._path.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
