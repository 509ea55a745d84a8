"""Text and JSON of files that somebody names, in UTF-8 whatever the locale is.

A pipe, a device or binary content is refused, not waited for. An error of the operating system names its file.
"""

from __future__ import annotations

import glob
import io
import json
import math
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stackelgrid.interrupts import defer_interrupts

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LARGEST_FILE = 256 * 2**20
"""The largest file that is read, bytes."""
_MOST_DIGITS = 300
_MOST_LEVELS = 100


def read_text(path: Path, encoding: str = "utf-8", mend: str = "name a file that you may read") -> str:
    """Read a regular file. Raises `ValueError` that says what is wrong with it and the mend; the caller names it."""
    try:
        return read_bytes(path, mend).decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("not text in UTF-8; save it as UTF-8") from None


def read_bytes(path: Path, mend: str) -> bytes:
    """Read what a regular file has now: one of the kernel's may wait, or never end. Raises `ValueError` as above."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise ValueError(f"cannot be read ({kind}, not a file); {mend}")
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            content = file.read(LARGEST_FILE + 1) or b""
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); {mend}") from None
    if len(content) > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE // 2**20} MiB; cut it down to what is needed")
    return content


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old file or the new one. Raises `OSError` that names it."""
    replace_file(path, text.encode())


def replace_file(path: Path, content: bytes, *, durable: bool = False, mode: int = 0o666) -> None:
    """Write a file so that a reader sees the old file or the new one. Raises `OSError` that names it.

    Of a `durable` file so does who reads it after a power cut, and sees the new one once this has returned. `mode` is
    who may read and write it, less what the umask forbids.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with defer_interrupts():
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
                file.write(content)
                if durable:
                    sync_file(file)
            draft.replace(path)
            if durable:
                sync_folder(path.parent)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            error.filename, error.filename2 = str(path), None  # that of a full disk names no file
            raise


def remove_drafts(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file have left; nobody else may write it now."""
    with suppress(OSError):
        for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
            draft.unlink()


def sync_file(file: IO[bytes]) -> None:
    """Have the disk confirm what was written to a file."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the disk confirm which files a folder has."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class _ReaderMayLeave(io.FileIO):
    """A stream of the console; what is written after its reader has left is dropped."""

    def write(self, content: ReadableBuffer) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            return memoryview(content).nbytes


def set_up_console() -> None:
    """Let stdout and stderr replace characters that the encoding of the locale lacks, and forgive a closed pipe.

    So that a command ends with the code of what it did, also behind `| head`.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):  # else a test reads it
            raw = _ReaderMayLeave(stream.fileno(), "w", closefd=False)
            buffered = io.BufferedWriter(raw)
            setattr(sys, name, io.TextIOWrapper(buffered, stream.encoding, "replace", None, stream.line_buffering))


def parse_json(text: str) -> Any:
    """Read a JSON document of finite numbers. Raises `ValueError` that says what is wrong with it."""
    try:
        content = json.loads(text, parse_constant=_read_number, parse_float=_read_number, parse_int=_read_whole_number)
    except RecursionError:
        raise ValueError("lists or mappings are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None
    check_content(content)
    return content


def _read_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number of JSON, or too large for one")
    return number


def _read_whole_number(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{text[:20]}… is a number of {len(text)} digits")
    return int(text)


def check_content(content: Any, key: str = "", levels: int = _MOST_LEVELS) -> None:
    """Raise `ValueError` for lists and mappings nested too deeply, and for text that no file in UTF-8 can hold."""
    if isinstance(content, str):
        if not content.isascii():
            _check_text(content, key)
    elif isinstance(content, Mapping | list):
        if levels == 0:
            raise ValueError("lists or mappings are nested too deeply")
        for name, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            if isinstance(name, str):
                check_content(name, key, levels)
            if isinstance(value, str | Mapping | list):
                check_content(value, f"{key}.{name}".lstrip("."), levels - 1)


def _check_text(text: str, key: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{text[error.start]!a} is half of a character; write the whole one"
        raise ValueError(f"{key}: {message}" if key else message) from None
