"""Structured logs: one JSON object a line for programs, or plain lines for a person at a console."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TextIO

from stackelgrid.node.progress import Progress

LEVELS = ("info", "warning", "error")
"""The least grave lines that a log may have."""


class _JsonLines(logging.Formatter):
    def __init__(self, run: str, node: str, progress: Progress | None) -> None:
        super().__init__()
        self._origin = {"run": run, "node": node}
        self._progress = progress

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._origin,
            **({"round": self._progress.round} if self._progress and self._progress.round else {}),
            "event": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, allow_nan=False, default=str)


_PRIORITIES = {logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}
"""Prefixes by which the journal knows how grave a line is (sd-daemon(3))."""


class _Console(logging.Formatter):
    def __init__(self, node: str, *, for_journal: bool) -> None:
        super().__init__()
        self._node, self._for_journal = node, for_journal

    def format(self, record: logging.LogRecord) -> str:
        details = " ".join(f"{key}={value}" for key, value in getattr(record, "data", {}).items())
        line = f"{record.levelname.lower():7} {self._node}: {record.getMessage()} {details}".rstrip()
        text = f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
        if not self._for_journal:
            return text
        priority = _PRIORITIES.get(record.levelno, "")
        return "\n".join(f"{priority}{line}" for line in text.splitlines())


def set_up(
    style: Literal["json", "console"],
    run: str,
    node: str,
    progress: Progress | None = None,
    stream: TextIO | None = None,
    level: str = LEVELS[0],
) -> None:
    """Send this process's log from `level` on to `stream` (stderr when None), with the node's round once there is one.

    Replaces an earlier set-up. Lines for systemd's journal have their priority.
    """
    console = _Console(node, for_journal="JOURNAL_STREAM" in os.environ)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines(run, node, progress) if style == "json" else console)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def complain(message: str) -> None:
    """Print why a node does not start, where stderr can be written."""
    with suppress(OSError):
        print(message, file=sys.stderr)


def flush_log() -> None:
    """Flush the log before the process ends; where it cannot be written, drop what is left of it.

    Python would end with an exit code of its own, 120, in place of the node's.
    """
    if sys.stderr is None:  # closed by whoever started the node
        return
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
