"""The clock of this machine, and whether it is synchronised."""

from __future__ import annotations

import ctypes
from datetime import datetime
from pathlib import Path

_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
"""Made by systemd-timesyncd once it has set the clock, and there until the machine is started again."""
_UNSYNCHRONISED_BIT, _STATUS_AT = 0x40, 5 * ctypes.sizeof(ctypes.c_long)
"""STA_UNSYNC in the status of `struct timex`, and where that stands (adjtimex(2))."""


def read_local_time() -> datetime:
    """Read the clock, in the time zone of this machine."""
    return datetime.now().astimezone()


def is_synchronised() -> bool:
    """Tell whether the clock has been set by a time service, by systemd's mark or by the kernel's word."""
    if _SYNCHRONISED.exists():
        return True
    timex = ctypes.create_string_buffer(512)  # all zero: nothing is to be changed
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None or adjtimex(timex) < 0:
        return False
    return not ctypes.c_int.from_buffer(timex, _STATUS_AT).value & _UNSYNCHRONISED_BIT
