"""Interrupts: Ctrl-C, SIGTERM and SIGHUP end a command early, and lose nothing of what it has found.

Python raises `KeyboardInterrupt` wherever it happens to be: while a file is written, while processes are stopped, and
once more at the second press. Within `defer_interrupts` an interrupt waits; it is raised within `allow_interrupts`
alone, around what may be cut short.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The interrupts that have come while they were deferred."""

    def __init__(self) -> None:
        self.noted = self._taken = self._allowed = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note it, and raise `KeyboardInterrupt` where that is allowed."""
        _leave_terminal(number)
        self.noted, self._taken = True, False
        self._raise_if_allowed()

    def take(self) -> bool:
        """Tell whether there was an interrupt. The caller answers for it: the end of the deferral does not raise it."""
        self._taken = True
        return self.noted

    @contextmanager
    def switch(self, *, allowed: bool) -> Iterator[None]:
        """Allow interrupts or defer them, within another switch too."""
        before, self._allowed = self._allowed, allowed
        try:
            self._raise_if_allowed()
            yield
        except Exception:
            self._raise_if_allowed()  # it follows from an interrupt that a library has hidden
            raise
        else:
            self._raise_if_allowed()  # as above
        finally:
            self._allowed = before
        self._raise_if_allowed()

    def raise_rest(self) -> None:
        """Raise `KeyboardInterrupt` for an interrupt that nobody has taken."""
        if self.noted and not self._taken:
            raise KeyboardInterrupt

    def _raise_if_allowed(self) -> None:
        if self._allowed and self.noted:
            raise KeyboardInterrupt


_deferral: list[Interrupts] = []
"""The outermost deferral under way, if there is one."""


@contextmanager
def defer_interrupts() -> Iterator[Interrupts]:
    """Note the signals that would raise `KeyboardInterrupt`; raise it within `allow_interrupts`, or else at the end.

    Deferrals may be nested; the end is that of the outermost one. Python has signals handled in the main thread: in
    another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Interrupts()
        return
    if _deferral:
        with _deferral[0].switch(allowed=False):
            yield _deferral[0]
        return
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in found.items() if handler in _RAISING}
    interrupts = Interrupts()
    try:
        _deferral.append(interrupts)
        for number in before:
            signal.signal(number, interrupts.note)
        yield interrupts
    finally:
        _deferral.clear()
        for number, handler in before.items():
            once = handler is _raise_once and interrupts.noted
            signal.signal(number, signal.SIG_IGN if once else handler)
    interrupts.raise_rest()


@contextmanager
def allow_interrupts() -> Iterator[None]:
    """Within a deferral, have an interrupt raise `KeyboardInterrupt` here. After one, nothing more may begin here."""
    if not _deferral or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _deferral[0].switch(allowed=True):
        yield


def raise_on_signals() -> None:
    """Have the first of Ctrl-C, SIGTERM and SIGHUP raise `KeyboardInterrupt`, and those after it do nothing.

    A signal that this process was started to ignore, as by `nohup`, stays ignored.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_once)


def ignore_signals() -> None:
    """Ignore them from here on: the process is about to end, and its exit code is decided."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Python notes an interrupt that leaves code given as a string, such as a dataclass while its module is imported.
    # Under -m it would kill itself by SIGINT in the end, though the interrupt was caught. The next such code clears it.
    exec("")


def _raise_once(number: int, frame: FrameType | None) -> None:
    ignore_signals()
    _leave_terminal(number)
    raise KeyboardInterrupt


_RAISING = (signal.default_int_handler, _raise_once)


def _leave_terminal(number: int) -> None:
    """After a hangup, write to nowhere what would go to the terminal that is gone: each write to it fails."""
    if number != signal.SIGHUP:
        return
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
