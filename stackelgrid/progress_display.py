"""The progress of a run on a terminal: rounds, residual, answers, faults."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stackelgrid.run_record import FaultRecord


class ProgressDisplay:
    """A progress bar over at most `rounds` rounds, those of each session where there are several; a line per fault."""

    def __init__(self, console: Console, rounds: int, *, bar: bool, faults: bool) -> None:
        self._console, self._faults = console, faults
        self._shown: set[tuple[Any, ...]] = set()
        self._session, self._rounds_before = 1, 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not bar,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=rounds, state="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show_round(self, record: dict[str, Any]) -> None:
        """Show a finished round."""
        if record.get("session", 1) > self._session:
            self._session, self._rounds_before = record["session"], record["round"] - 1
        session = f"session {self._session}, " if "session" in record else ""
        missing = len(record["held"]) + len(record["excluded"])
        residual = "unknown" if record["residual"] is None else f"{record['residual']:.1e}"
        state = f"change {residual}, {record['answered']} answers" + (f", {missing} missing" if missing else "")
        self._progress.update(
            self._task,
            completed=record["round"] - self._rounds_before,
            description=f"{session}round {record['round']}",
            state=state,
        )

    def show_fault(self, record: FaultRecord) -> None:
        """Print a fault that happened; one on messages once a round, with the first link that it struck."""
        on_messages = record.to is not None
        where = f"{record.from_} to {record.to}" if on_messages else record.node or ""
        key = (record.fault, record.kind, "" if on_messages else where, record.round)
        if not self._faults or key in self._shown:
            return
        self._shown.add(key)
        when = f"{record.seconds:7.2f} s" + (f", round {record.round}" if record.round is not None else "")
        of_node = f" {where}" if record.kind != "broker" and where else ""
        self._console.print(f"{when}: {record.kind}{f', first from {where}' if on_messages else of_node}", markup=False)

    def show_step(self, step: str) -> None:
        """Show what follows the rounds."""
        self._progress.update(self._task, description=step)
