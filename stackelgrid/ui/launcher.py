"""Start runs, each in a process of its own: a run that crashes ends nothing else."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from stackelgrid.ui.recorder import FaultRefusedError

_STOP_S = 60.0
"""The time that a run has to stop its nodes and to write what it has found."""

_ANSWER_S = 10.0
"""The time that a run has to answer to a fault."""


class OrderRefusedError(Exception):
    """A run that cannot be played; `key` is the key that is wrong, if one is."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class LiveRun(Protocol):
    """A run that is on."""

    async def add_fault(self, content: dict[str, Any]) -> int:
        """Add a fault and return its number. Raises `FaultRefusedError`."""

    def stop(self) -> None:
        """Interrupt it, as Ctrl-C does."""


class Launcher:
    """Starts runs in the folder `root`, and knows those that are on by their ids."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.live: dict[str, LiveRun] = {}
        self._ends: set[asyncio.Task[None]] = set()

    async def start(self, order: str) -> str:
        """Start the run of an order in JSON; return its id. Raises `OrderRefusedError`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "stackelgrid.ui.play", str(self.root)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the server's, which then stops its runs
        )
        run = _RunProcess(process)
        answer = await run.ask(order)
        if "id" not in answer:
            await process.wait()
            raise OrderRefusedError(answer["error"], answer.get("key"))
        run_id: str = answer["id"]
        self.live[run_id] = run
        end = asyncio.create_task(self._await_end(run_id, process))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        return run_id

    async def _await_end(self, run_id: str, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        del self.live[run_id]

    async def close(self) -> None:
        """Stop the runs that are on, and wait until they have."""
        for run in self.live.values():
            run.stop()
        if self._ends:
            await asyncio.wait(self._ends, timeout=_STOP_S)


class _RunProcess:
    """A run that `stackelgrid.ui.play` plays: one line in, one line out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def ask(self, line: str) -> dict[str, Any]:
        """Write a line, and give the answer to it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            with suppress(ConnectionError):
                self._process.stdin.write(line.encode() + b"\n")
                await self._process.stdin.drain()
            answer = await self._process.stdout.readline()
        if not answer:
            return {"error": "the run has ended, and has not said why; see the output of stackelgrid ui"}
        content: dict[str, Any] = json.loads(answer)
        return content

    async def add_fault(self, content: dict[str, Any]) -> int:
        """Add a fault and return its number. Raises `FaultRefusedError`."""
        asked = asyncio.create_task(self.ask(json.dumps(content)))
        await asyncio.wait([asked], timeout=_ANSWER_S)
        if not asked.done():  # it is not cancelled: its answer would be taken for that to the next fault
            raise FaultRefusedError(f"the run has not answered in {_ANSWER_S:g} s; it takes the fault if it goes on")
        answer = asked.result()
        if "fault" not in answer:
            raise FaultRefusedError(answer["error"], answer.get("key"))
        return int(answer["fault"])

    def stop(self) -> None:
        """Interrupt the run."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
