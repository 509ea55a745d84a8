"""A port that a process of a test is about to listen on."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import broker


def await_listener(port: int) -> None:
    """Wait until somebody listens on a port of the loopback interface."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        with suppress(OSError), socket.create_connection((broker.LOOPBACK, port)):
            return
        time.sleep(0.02)
