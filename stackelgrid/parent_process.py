"""End a process together with its parent, even when that is killed by `kill -9`."""

from __future__ import annotations

import ctypes
import os
import sys
from signal import Signals

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a process just forked must not load it


def end_with_parent(parent: int, signal_number: Signals) -> bool:
    """Have the kernel send this process a signal when its parent ends, where it can: on Linux.

    Return False when the process `parent` has ended already.
    """
    if _LIBC is None:
        return True
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number)
    return os.getppid() == parent
