"""End a program together with the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> Callable[[], object] | None:
    """Give `Popen` its `preexec_fn`: on Linux it has the kernel end the program when this process is killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a process that ends when its standard input does, and wait until it is gone."""
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def end_with_input(program: subprocess.Popen[bytes]) -> None:
    """Wait until standard input ends, then end the program."""
    while os.read(0, 1024):
        pass
    program.terminate()


def write_log(lines: Iterable[bytes]) -> None:
    """Write lines to standard error. What a full disk does not take is lost: the program has to go on."""
    text = b"".join(line + b"\n" for line in lines)
    with suppress(OSError):
        while text:
            text = text[os.write(2, text) :]
