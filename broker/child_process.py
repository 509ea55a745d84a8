"""Ties a program that knows nothing of us to the life of whoever started it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> Callable[[], object] | None:
    """For `Popen(preexec_fn=...)`: on Linux, what makes the kernel end the program should this process be killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end(tied: subprocess.Popen[bytes]) -> None:
    """End a process that ends when its standard input does, and wait until it is gone."""
    assert tied.stdin is not None
    tied.stdin.close()
    try:
        tied.wait(timeout=10)
    except subprocess.TimeoutExpired:
        tied.kill()
        tied.wait()


def end_with_input(program: subprocess.Popen[bytes]) -> None:
    """Wait until standard input ends, then end the program."""
    while os.read(0, 1024):
        pass
    program.terminate()
