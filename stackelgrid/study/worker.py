"""Processes that play points, side by side, each on one core.

A worker is `python -m stackelgrid.study.worker`: it reads a point per line of its standard input, plays it and answers
with a line. It ends when its input does, so that none outlives the study; one that dies takes only its point with it.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from stackelgrid.interrupts import allow_interrupts
from stackelgrid.parent_process import end_with_parent
from stackelgrid.study.point import Point, play

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def play_all(points: Sequence[Point], jobs: int) -> Iterator[tuple[Point, str | None]]:
    """Play `points` in `jobs` processes; yield each as it ends, with the reason where its process died.

    The processes stop when the caller stops iterating, by an exception too.
    """
    waiting = deque(points)
    workers: list[_Worker] = []
    with selectors.DefaultSelector() as selector:

        def start() -> None:
            workers.append(_Worker(waiting.popleft()))
            selector.register(workers[-1].answers, selectors.EVENT_READ, workers[-1])

        try:
            for _ in range(min(jobs, len(points))):
                start()
            while workers:
                with allow_interrupts():
                    ready = selector.select()
                for key, _ in ready:
                    worker: _Worker = key.data
                    point, death = worker.point, worker.read_answer()
                    if waiting and not death:
                        worker.give(waiting.popleft())
                    else:
                        selector.unregister(worker.answers)
                        workers.remove(worker)
                        worker.stop()
                        if waiting:
                            start()
                    yield point, death
        finally:
            for worker in workers:
                worker.stop()


class _Worker:
    """A process that plays points: the point it plays now, and how to end it."""

    def __init__(self, point: Point) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stackelgrid.study.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            start_new_session=True,  # Ctrl-C is for the study, which then stops its workers
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._points, self.answers = self._process.stdin, self._process.stdout
        self.give(point)

    def give(self, point: Point) -> None:
        """Send it `point` to play next."""
        self.point = point
        order = {**asdict(point), "file": str(point.file)}
        try:
            self._points.write(json.dumps(order).encode() + b"\n")
            self._points.flush()
        except BrokenPipeError:
            return  # it is dead, which `read_answer` reports

    def read_answer(self) -> str | None:
        """Read that its point is finished; return how the process died if it did."""
        if self.answers.readline():
            return None
        code = self._process.wait()
        return f"failed: its process died of signal {-code}" if code < 0 else f"failed: its process ended with {code}"

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self.answers.close()
        try:
            self._points.close()
        except BrokenPipeError:
            return  # what was written last never left the buffer


def main(parent: int) -> int:
    """Serve until standard input ends. The process dies with the study, also when that is killed."""
    if not end_with_parent(parent, signal.SIGKILL):
        return 1
    answers = os.dup(1)
    os.dup2(2, 1)  # so that what a library prints is not read as an answer
    for line in sys.stdin:
        order = json.loads(line)
        play(Point(order["source"], tuple(order["overrides"]), order["samples"], Path(order["file"])))
        os.write(answers, b"done\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
