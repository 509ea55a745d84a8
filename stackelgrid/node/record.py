"""Write files so that a reader sees the old version or the new one, and so that no disk ends a node.

A full or read-only disk is met by `Report`: it keeps what it could not write and tries again. What a node would miss
after a power cut (its plan, its ledger, the records of its sessions) is durable: the disk confirms it, a few times a
session. What is made again after a restart (a status; a journal, which is in the ledger) is not: no card wears out.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stackelgrid.text_file import remove_drafts, replace_file, sync_file, sync_folder

_LOG = logging.getLogger("stackelgrid.node")

RETRY_S = 10.0
"""Seconds between two attempts to write what could not be written."""
DISK_FAULTS = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EFBIG})
"""The errors of a disk that is full, read-only or failing. Others, as of a missing folder, are mistakes."""

_TAIL = 4096
"""The bytes at the end of a file that are looked at first for its last line."""

Recorder = Callable[[Mapping[str, Any]], bool | None]
"""Stores one record, such as a line of a journal. False says that it is not on disk yet, and tried again."""


def discard(record: Mapping[str, Any]) -> None:
    """Store nothing: a `Recorder` for a node that was given no file."""


def write_whole(path: Path, content: Any) -> None:
    """Write `content` as JSON so that a reader sees the old file or the new one."""
    replace_file(path, json.dumps(content, allow_nan=False).encode())


class Report(ABC):
    """A file that a node writes for others, or for itself after a restart.

    What cannot be written is logged once and tried again every `RETRY_S`, in a thread that does not keep the process
    from ending, until it is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()  # around what is still to be written
        self._retrying = False

    @abstractmethod
    def _write(self) -> None:
        """Write what is still to be written. Raise `OSError` where that cannot be done."""

    def save(self) -> bool:
        """Write what is still to be written, or leave it for later; tell whether it is written."""
        with self._lock:
            try:
                self._write()
            except OSError as error:
                if not self._retrying:
                    self._retrying = True
                    cause = {"file": str(self._path), "cause": error.strerror or str(error)}
                    _LOG.error("a file cannot be written, the node goes on", extra={"data": cause})
                    threading.Thread(target=self._retry, name="stackelgrid-retry", daemon=True).start()
                return False
            else:
                if self._retrying:
                    self._retrying = False
                    _LOG.info("the file is written now", extra={"data": {"file": str(self._path)}})
                return True

    def _retry(self) -> None:
        while self._retrying:
            time.sleep(RETRY_S)
            self.save()


class WholeFile(Report):
    """A durable file with one JSON value, the latest that it was called with: a reader sees the old one or the new."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._content = self._written = b""
        remove_drafts(path)

    def __call__(self, content: Any) -> bool:
        """Write `content` in place of what is there, and tell whether it is on disk.

        The same once more is not written, so that no card wears out.
        """
        with self._lock:
            self._content = json.dumps(content, allow_nan=False).encode()
            return self._content == self._written or self.save()

    def _write(self) -> None:
        replace_file(self._path, self._content, durable=True)
        self._written = self._content


class JsonLines(Report):
    """Appends one JSON object a line to a file.

    `before` are the lines of before a restart. Raises `FileExistsError` for a file with any content where there are
    none, unless the file `goes_on`: it is of another run. Raises `OSError` for a file that cannot be there, on whatever
    disk. Of a `durable` file each line is on disk when it is appended.
    """

    def __init__(self, path: Path, before: Sequence[Any] = (), *, goes_on: bool = False, durable: bool = False) -> None:
        super().__init__(path)
        self._durable = durable
        self._before = b"".join(map(_encode_line, before))
        self._lines = b""
        if not before and not goes_on and path.exists() and path.stat().st_size:
            raise FileExistsError(errno.EEXIST, "there is another run's journal", str(path))
        try:
            path.touch()
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                raise
        if before:
            self.save()

    def __call__(self, record: Any) -> None:
        """Append `record`."""
        with self._lock:
            self._lines += _encode_line(record)
            self.save()

    def _write(self) -> None:
        if self._before:
            replace_file(self._path, self._before, durable=self._durable)
            self._before = b""
        with self._path.open("ab", buffering=0) as file:
            while self._lines:  # a disk that becomes full takes a part
                self._lines = self._lines[file.write(self._lines) :]
            if self._durable:
                sync_file(file)
                sync_folder(self._path.parent)  # it may be a new file


def open_record(path: Path, sessions: int) -> Recorder:
    """Open the durable file for the record of a settlement: the record itself, or a line for each of several sessions.

    Lines from before a restart stay, and the last of them is not written again: a node that missed the end of a session
    hears of its settlement once more.
    """
    if sessions == 1:
        return WholeFile(path)
    cut_lines(path, lambda record: True)
    before, write = _read_last_line(path), JsonLines(path, goes_on=True, durable=True)

    def append(record: Mapping[str, Any]) -> None:
        if record not in before:
            write(record)

    return append


def read_records(path: Path, sessions: int) -> list[Any]:
    """Read what was written to a file of `open_record`; none where there is none."""
    if sessions > 1 or not path.exists():
        return read_whole_lines(path)
    return [json.loads(path.read_text(encoding="utf-8"))]


def has_last_record(path: Path, sessions: int) -> bool:
    """Tell whether the record of the last of a run's `sessions` is in a file of `open_record`."""
    if sessions == 1:
        return path.exists()
    return any(record["session"] == sessions for record in _read_last_line(path))


def _read_last_line(path: Path) -> list[Any]:
    """Read the last whole line of a file of a line per session, which may have grown for years; none where is none."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        length, lines = _TAIL, list[bytes]()
        while len(lines) < 3:  # the last whole line is between two ends of lines, or the only one
            file.seek(max(end - length, 0))
            lines = file.read().split(b"\n")
            if length >= end:
                break
            length *= 2
    return [json.loads(line) for line in lines[-2:-1]]


def read_conclusion(path: Path, *, of_grid: bool) -> dict[str, Any]:
    """Read how the sessions of a run have ended, {} where the leader has written nothing; in a grid a line each."""
    if of_grid:
        return {"sessions": lines} if (lines := read_whole_lines(path)) else {}
    conclusion: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return conclusion


def read_whole_lines(path: Path) -> list[Any]:
    """Read the lines of a journal, without the last when only a part of it was written; none where there is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cut_lines(path: Path, keep: Callable[[Any], bool]) -> None:
    """Cut a journal off before the first line that is not to be kept, or was written in part."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = 0
        for line in file:
            if not line.endswith(b"\n") or not keep(json.loads(line)):
                break
            end += len(line)
        file.truncate(end)


class GrowingLines:
    """Reads the lines of a journal while somebody writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[bytes]:
        """Give the whole lines that were written since the last time."""
        if not self._path.exists() or self._path.stat().st_size == self._offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield line


def _encode_line(record: Any) -> bytes:
    return (json.dumps(record, allow_nan=False) + "\n").encode()
