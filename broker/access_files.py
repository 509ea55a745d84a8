"""Follow what an authority writes for a running Mosquitto: access rules, revocations and the broker's certificate.

Mosquitto gets copies of files that were found whole. If it were to read files again of which one is damaged or half
written, it would go on without access rules, without revocations or without a certificate of its own.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from broker import REFUSALS
from broker.access import Rules
from broker.child_process import write_log
from broker.refusals import Refusals

FILES = ("ca.crt", "node.crt", "node.key", "crl.pem", "access.acl")
"""The files that an authority writes for a broker."""

Content = TypeVar("Content")


class AccessFiles:
    """The files of an authority in `source`, and Mosquitto's copies of them in `folder`.

    Raises `ValueError` for files that are missing or damaged.
    """

    LOOK_S = 0.1
    """The time between two looks at the source; a file that changed has to be at rest for as long."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._seen = self._copied = self._state()
        self._next_look = 0.0
        self._written = ""
        self._unwritten = False
        self._objection = ""
        self.refusals = Refusals(self._copy())
        self.write_refusals()

    def look(self) -> bool:
        """Write the refusals and copy what has changed, every `LOOK_S`; returns True if Mosquitto is to read again."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + self.LOOK_S
        self.write_refusals()
        before, self._seen = self._seen, self._state()
        if self._seen in (None, self._copied) or self._seen != before:
            return False  # as it was, or somebody is still writing
        try:
            self.refusals.rules = self._copy()
        except ValueError as error:  # logged once and tried again: a full disk may have room for a revocation later
            if str(error) != self._objection:
                self._objection = str(error)
                write_log([f"Access rules, revocations and certificate stay as they were: {error}".encode()])
            return False
        self._copied, self._objection = self._seen, ""
        return True

    def write_refusals(self) -> None:
        """Write the counts of refusals if they have changed; when the disk is full, try again later."""
        text = self.refusals.text()
        if text == self._written:
            return
        draft = self._folder / f".{REFUSALS}.draft"
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(self._folder / REFUSALS)
        except OSError as error:  # the broker goes on, and so does the counting
            if not self._unwritten:
                write_log([f"{self._folder / REFUSALS} cannot be written ({error.strerror}); make room".encode()])
            self._unwritten = True
            return
        self._written, self._unwritten = text, False

    def _state(self) -> object:
        """Give what changes when one of the files does; None while one is missing or cannot be looked at."""
        try:
            stats = [(self._source / name).stat() for name in FILES]
        except OSError:
            return None
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]

    def _copy(self) -> Rules:
        """Replace Mosquitto's copies by the files in the source, if all of them are whole; returns the rules."""
        drafts = {name: self._folder / f".{name}.draft" for name in FILES}
        for name, draft in drafts.items():
            self._use(name, _copy_privately, self._source / name, draft)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._use("ca.crt", context.load_verify_locations, drafts["ca.crt"])
        self._use("node.key", context.load_cert_chain, drafts["node.crt"], drafts["node.key"], "")
        self._use("crl.pem", _check_revocations, drafts["crl.pem"])
        rules = self._use("access.acl", _read_rules, drafts["access.acl"])
        write_log([f"Access rules, revocations and certificate are those in {self._source}".encode()])
        for name, draft in drafts.items():
            draft.replace(self._folder / name)
        return rules

    def _use(self, name: str, read: Callable[..., Content], *arguments: object) -> Content:
        """Call `read`. Raises `ValueError` that names the file if it fails."""
        try:
            return read(*arguments)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            why = error.strerror if isinstance(error, OSError) else error
            mend = "have stackelgrid certs write the folder, and copy the whole of it"
            raise ValueError(f"{self._source / name} cannot be used ({why}): {mend}") from None


def _copy_privately(source: Path, target: Path) -> None:
    """Make a copy that only its owner may read, because one of the files is a private key."""
    target.unlink(missing_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(source.read_bytes())


def _read_rules(path: Path) -> Rules:
    return Rules.parse(path.read_text(encoding="utf-8"))


def _check_revocations(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(path)
    if context.cert_store_stats()["crl"] == 0:
        raise ValueError("no revocation list in it")
