"""A thread that computes while the event loop receives."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Callback = Callable[[Any, BaseException | None], None]
"""Takes a job's result and the exception that it raised; one of them is None."""


class Worker:
    """Runs jobs in a thread, one at a time and in order, and calls `done(result, exception)` in the loop after each.

    Results that come while the loop is busy are delivered together, so that a hundred short jobs wake the loop once or
    twice and not a hundred times. The thread starts with the first job and does not keep the process from ending.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callback] | None] = SimpleQueue()
        self._finished: deque[tuple[Callback, Any, BaseException | None]] = deque()
        self._delivery_pending = threading.Event()
        self._started = False

    def submit(self, job: Callable[[], Any], done: Callback) -> None:
        """Run `job` in the thread, then `done` in the loop."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._work, name="stackelgrid-worker", daemon=True).start()
        self._jobs.put((job, done))

    def close(self) -> None:
        """Let the thread end after its current job. Queued jobs are dropped, and results not yet delivered as well."""
        while not self._jobs.empty():
            self._jobs.get()
        self._jobs.put(None)
        self._finished.clear()

    def _work(self) -> None:
        while (order := self._jobs.get()) is not None:
            job, done = order
            result, failure = None, None
            try:
                result = job()
            except BaseException as error:  # passed on to `done`
                failure = error
            self._finished.append((done, result, failure))
            if not self._delivery_pending.is_set():
                self._delivery_pending.set()
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # the loop has closed

    def _deliver(self) -> None:
        self._delivery_pending.clear()
        while self._finished:
            done, result, failure = self._finished.popleft()
            done(result, failure)
