"""End a program together with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from stackelgrid import parent_process


def end_with_parent() -> Callable[[], object]:
    """Give `Popen` its `preexec_fn`: on Linux it has the kernel end the program when this process is killed."""
    return partial(parent_process.end_with_parent, os.getpid(), signal.SIGTERM)


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
