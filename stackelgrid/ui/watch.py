"""`--watch`: the page on the run that a command itself plays or observes."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool

from stackelgrid.errors import ConfigError
from stackelgrid.run_record import FaultRecord
from stackelgrid.runner import Run
from stackelgrid.testbed.start import RunStart
from stackelgrid.ui.command import PORT, build_server, listen, open_page
from stackelgrid.ui.launcher import Launcher, LiveRun
from stackelgrid.ui.recorder import Recorder


@contextmanager
def serve_run(folder: Path, say: Callable[[str], None], own: LiveRun | None = None) -> Iterator[None]:
    """Serve the page in a thread, and open it on the run in `folder`; without its `own` one, it is only looked at.

    `say` is given lines for the terminal.
    """
    token = secrets.token_urlsafe()
    try:
        listener = listen(PORT)
    except ConfigError:  # of another run, or stackelgrid ui
        listener = listen(0)
    launcher = Launcher(folder.parent)
    if own is not None:
        launcher.live[folder.name] = own
    server = build_server(listener, launcher, token)
    thread = threading.Thread(target=server.run, args=[[listener]], daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/?token={token}#/runs/{quote(folder.name)}"
    say(f"watch: {address}")
    open_page(address, say)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class Display(Protocol):
    """What shows a run on a terminal."""

    def show_round(self, record: dict[str, Any]) -> None:
        """Show a finished round."""

    def show_fault(self, record: FaultRecord) -> None:
        """Show a fault that has struck."""

    def show_step(self, step: str) -> None:
        """Show what follows the rounds."""


class Watch(Display):
    """Shows a run on the page, and on `display`. It serves the page from the run's begin to the end of this context.

    `say` is given lines for the terminal.
    """

    def __init__(self, recorder: Recorder, display: Display, say: Callable[[str], None]) -> None:
        self._recorder, self._display, self._say = recorder, display, say
        self._page = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._recorder.end(None, str(error))
        self._page.close()

    def begin(self, start: RunStart) -> None:
        """Serve the page, and open it."""
        self._recorder.begin(start)
        own = _OwnRun(self._recorder)
        self._page.enter_context(serve_run(self._recorder.folder, self._say, own))

    def show_round(self, record: dict[str, Any]) -> None:
        """Show a finished round."""
        self._display.show_round(record)
        self._recorder.note_round(record)

    def show_fault(self, record: FaultRecord) -> None:
        """Show a fault that has struck."""
        self._display.show_fault(record)
        self._recorder.note_fault(record)

    def show_step(self, step: str) -> None:
        """Show what follows the rounds."""
        self._display.show_step(step)
        self._recorder.note_step(step)

    def end(self, run: Run) -> None:
        """Show how the run has ended."""
        self._recorder.end(run)

    def wait(self) -> None:
        """Serve on until Ctrl-C."""
        sys.stdout.flush()
        self._say("the page stays until Ctrl-C")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


class _OwnRun:
    """A run that this process plays, for the server in a thread of it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def add_fault(self, content: dict[str, Any]) -> int:
        """Add a fault and return its number. Raises `FaultRefusedError`."""
        return await run_in_threadpool(self._recorder.add_fault, content)

    def stop(self) -> None:
        """Interrupt the run."""
        os.kill(os.getpid(), signal.SIGINT)
