"""The progress of a command on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import threading
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stackelgrid.run_record import FaultRecord

_LINE_EVERY_S = 5.0


class ProgressDisplay:
    """Shows what a command does, and how far it is of `total` steps where their number is known; `quiet`, nothing.

    Where stderr is no terminal, it is a line every `every_s` seconds, and none of a command that takes no longer.
    """

    def __init__(
        self, console: Console, total: int | None = None, *, quiet: bool = False, every_s: float = _LINE_EVERY_S
    ) -> None:
        self._console, self._quiet, self._every_s = console, quiet, every_s
        on_terminal = console.file.isatty()  # what is in colour, as by FORCE_COLOR, need not be one
        self._began = time.monotonic()
        self._line = "starting"
        self._ended = threading.Event()
        self._lines = None if quiet or on_terminal else threading.Thread(target=self._print_lines, daemon=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            disable=quiet or not on_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(self._line, total=total, state="")

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._bar.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._ended.set()
        if self._lines is not None:
            self._lines.join()

    def show(self, what: str, state: str = "", *, completed: int | None = None) -> None:
        """Show what is being done, in which state it is, and how many steps are completed."""
        self._line = f"{what}, {state}" if state else what
        self._bar.update(self._task, description=what, state=state, completed=completed)

    def _print_lines(self) -> None:
        while not self._ended.wait(self._every_s):
            self._console.print(f"{time.monotonic() - self._began:7.0f} s: {self._line}", markup=False)


class RunDisplay(ProgressDisplay):
    """Shows a run: a bar over at most `rounds` rounds, those of each of its `sessions`; a line per fault.

    `seconds` has what each part of the run took that has ended, once the display has ended all.
    """

    def __init__(
        self, console: Console, rounds: int, sessions: int = 1, *, quiet: bool = False, every_s: float = _LINE_EVERY_S
    ) -> None:
        super().__init__(console, rounds, quiet=quiet, every_s=every_s)
        self._sessions = sessions
        self.seconds: dict[str, float] = {}
        self._part = "rounds"
        self._shown: set[tuple[Any, ...]] = set()
        self._session, self._rounds_before = 1, 0

    def __exit__(self, *_: object) -> None:
        self._end_part()
        super().__exit__(*_)

    def show_round(self, record: dict[str, Any]) -> None:
        """Show a finished round."""
        if record.get("session", 1) > self._session:
            self._session, self._rounds_before = record["session"], record["round"] - 1
        session = f"session {self._session} of {self._sessions}, " if "session" in record else ""
        missing = len(record["held"]) + len(record["excluded"])
        residual = "unknown" if record["residual"] is None else f"{record['residual']:.1e}"
        state = f"change {residual}, {record['answered']} answers" + (f", {missing} missing" if missing else "")
        self.show(f"{session}round {record['round']}", state, completed=record["round"] - self._rounds_before)

    def show_fault(self, record: FaultRecord) -> None:
        """Print a fault that happened; one on messages once a round, with the first link that it struck."""
        if self._quiet or record.occasion in self._shown:
            return
        self._shown.add(record.occasion)
        self._console.print(describe_fault(record), markup=False)

    def show_step(self, step: str) -> None:
        """Show what follows the rounds, and after a comma how far it is."""
        part = {"certifying": "certificate", "drawing": "report"}[step.partition(",")[0]]
        if part != self._part:
            self._end_part()
            self._part = part
        self.show(step)

    def _end_part(self) -> None:
        self.seconds[self._part] = time.monotonic() - self._began - sum(self.seconds.values())


def describe_fault(record: FaultRecord) -> str:
    """Describe a fault that happened in a line; one on messages by the first link that it struck."""
    when = f"{record.seconds:7.2f} s" + (f", round {record.round}" if record.round is not None else "")
    if record.to is not None:
        return f"{when}: {record.kind}, first from {record.from_} to {record.to}"
    return f"{when}: {record.kind}" + (f" {record.node}" if record.kind != "broker" and record.node else "")
