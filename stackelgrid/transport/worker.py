"""The thread that computes while the event loop receives."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Done = Callable[[Any, BaseException | None], None]


class Worker:
    """Runs jobs one at a time, in the order given, and tells the loop of each: `done(result, exception)`.

    Results that come while the loop is busy are handed over together, so that a hundred short jobs wake it once or
    twice and not a hundred times. The thread starts with the first job and does not keep a process from ending.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._finished: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._told = threading.Event()
        self._started = False

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        """Run `job` in the thread, then `done` in the loop."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._work, name="stackelgrid-worker", daemon=True).start()
        self._jobs.put((job, done))

    def close(self) -> None:
        """Let the thread end after the job it is at; what is queued is dropped, results not yet told as well."""
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
            except BaseException as error:  # told to the node, whose end it is
                failure = error
            self._finished.append((done, result, failure))
            if not self._told.is_set():
                self._told.set()
                try:
                    self._loop.call_soon_threadsafe(self._tell)
                except RuntimeError:
                    return  # the loop has closed: nobody is left to tell

    def _tell(self) -> None:
        self._told.clear()
        while self._finished:
            done, result, failure = self._finished.popleft()
            done(result, failure)
