"""Mosquitto, tied to the life of whoever started it.

`python -m broker.mosquitto --port PORT --folder FOLDER [--persistent]` runs Mosquitto with the configuration beside
this file, prints its process id once it listens and ends it when standard input ends: Mosquitto itself would not
notice the death of its parent. What Mosquitto logs goes to standard error, which `broker.start` directs to
`FOLDER/broker.log`. Persistent, it writes what it retains to `FOLDER/mosquitto.db`: as it changes, or, with
certificates, every ten seconds and as it ends.

With `--certificates DIR` (and `--host HOST`) it lets in only who may, and DIR is watched: when an authority changes
access rules, revocations or the broker's own certificate there, Mosquitto reads them again within a second, and keeps
its clients. What it refuses is counted in `FOLDER/refusals.json`.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import signal
import ssl
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from broker import REFUSALS, RETAINED, find_mosquitto
from broker.access import Rules
from broker.child_process import end_with_parent
from broker.refusals import Refusals

LOOK_S = 0.1
"""How often the certificates' folder is looked at; what has changed has to be at rest for as long."""
FILES = ("ca.crt", "node.crt", "node.key", "crl.pem", "access.acl")
"""What an authority writes for a broker."""
MOUNTED, DATA = "/mosquitto/config", "/mosquitto/data"
"""Where the official container image has its configuration and what it keeps."""
KEPT_EVERY_S = 10
"""How often a broker for many writes what it retains; at every change would cost it half as much time again."""

_RUNNING = re.compile(rb"^[^ ]*: mosquitto version [^ ]+ running$")
"""A whole line, of which nobody who connects can have a like one logged: clients choose their topics."""

Found = TypeVar("Found")

_NOTHING_KEPT = "persistence false"
_KEPT = f"""persistence true
persistence_location $folder/
persistence_file {RETAINED}"""
_AT_ONCE = "\nautosave_on_changes true\nautosave_interval 1"
_IN_TIME = f"\nautosave_interval {KEPT_EVERY_S}"
_AS_ROOT = """
# As in mosquitto.conf, where it says why.
user root
"""


def configuration(port: int, keep_in: Path | None = None) -> str:
    """The text of the configuration file for a broker on 127.0.0.1:`port`, with a folder for what it retains or not."""
    kept = None if keep_in is None else _KEPT + _AT_ONCE
    return _filled("mosquitto.conf", kept, port=port, folder=keep_in)


def configuration_tls(port: int, host: str, folder: Path, *, persistent: bool) -> str:
    """The same for a broker that lets in only who may; `FILES` and what it retains are in `folder`."""
    kept = _KEPT + _IN_TIME if persistent else None
    return _filled("mosquitto-tls.conf", kept, listener=f"{port} {host}", files=folder, folder=folder) + _AS_ROOT


def in_container() -> str:
    """The same for the official container image, where the broker's whole folder of an authority is mounted."""
    return _filled("mosquitto-tls.conf", _KEPT + _IN_TIME, listener=8883, files=MOUNTED, folder=DATA)


def _filled(template: str, kept: str | None, **values: object) -> str:
    text = Path(__file__).with_name(template).read_text()
    assert _NOTHING_KEPT in text
    if kept is not None:
        text = text.replace(_NOTHING_KEPT, kept)
    return string.Template(text).substitute(values)


def main() -> None:
    """Run Mosquitto until it ends or standard input does."""
    arguments = argparse.ArgumentParser(prog="python -m broker.mosquitto")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--persistent", action="store_true")
    arguments.add_argument("--certificates", type=Path)
    arguments.add_argument("--host", default="127.0.0.1")
    given = arguments.parse_args()

    program = find_mosquitto()
    if program is None:
        sys.exit("Mosquitto is not installed")
    access = None
    if given.certificates is None:
        text = configuration(given.port, given.folder if given.persistent else None)
    else:
        text = configuration_tls(given.port, given.host, given.folder, persistent=given.persistent)
        try:
            access = _Access(given.certificates, given.folder)
        except ValueError as error:
            sys.exit(str(error))
    settings = given.folder / "mosquitto.conf"
    settings.write_text(text)
    broker = subprocess.Popen(
        [program, "-c", str(settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=end_with_parent(),  # noqa: PLW1509  (no other thread runs)
    )
    sys.exit(_tend(broker, access))


def _tend(broker: subprocess.Popen[bytes], access: _Access | None) -> int:
    """Pass on Mosquitto's log, print its process id once it runs, end it with standard input; its exit code."""
    assert broker.stderr is not None
    said, rest, told = broker.stderr.fileno(), b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(said, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ready = [key.fd for key, _ in selector.select(None if access is None else LOOK_S)]
            if 0 in ready and not os.read(0, 1024):
                selector.unregister(0)
                broker.terminate()
            if said in ready:
                read = os.read(said, 65536)
                *lines, rest = (rest + read).split(b"\n")
                if not told and any(map(_RUNNING.match, lines)):
                    told = True
                    print(broker.pid, flush=True)
                _log(lines if access is None else filter(None, map(access.refusals.read, lines)))
                if not read:
                    break
            if access is not None and access.look():
                broker.send_signal(signal.SIGHUP)
    if access is not None:
        access.write_refusals()
    return broker.wait()


def _log(lines: Iterable[bytes]) -> None:
    """What a full disk does not take is lost: no reason to end the broker, and there is nowhere to say so."""
    text = b"".join(line + b"\n" for line in lines)
    with suppress(OSError):
        while text:
            text = text[os.write(2, text) :]


class _Access:
    """Who may do what: what an authority has put into `source`, and Mosquitto's copy of it in `folder`.

    Mosquitto is handed copies that were found whole. Told to read files again of which one is damaged or half written,
    it would go on without access rules, without revocations or without a certificate of its own. Raises `ValueError`
    for files that are missing or damaged.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._seen = self._adopted = self._state()
        self._next = 0.0
        self._written = ""
        self._unwritten = False
        self._objection = ""
        self.refusals = Refusals(self._adopt())
        self.write_refusals()

    def look(self) -> bool:
        """Every `LOOK_S` write down the refusals, and see whether Mosquitto is to read its files again."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + LOOK_S
        self.write_refusals()
        before, self._seen = self._seen, self._state()
        if self._seen in (None, self._adopted) or self._seen != before:
            return False  # as it was, or somebody is still writing
        try:
            self.refusals.rules = self._adopt()
        except ValueError as error:  # told once and tried again: a full disk may have room for a revocation later
            if str(error) != self._objection:
                self._objection = str(error)
                _log([f"Access rules, revocations and certificate stay as they were: {error}".encode()])
            return False
        self._adopted, self._objection = self._seen, ""
        return True

    def _state(self) -> object:
        """What changes when one of the files does; None while one is missing or may not be looked at."""
        try:
            stats = [(self._source / name).stat() for name in FILES]
        except OSError:
            return None
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]

    def _adopt(self) -> Rules:
        """Have Mosquitto's copies be those of the source, if everything there is whole."""
        drafts = {name: self._folder / f".{name}.draft" for name in FILES}
        for name, draft in drafts.items():
            self._whole(name, _copy, self._source / name, draft)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._whole("ca.crt", context.load_verify_locations, drafts["ca.crt"])
        self._whole("node.key", context.load_cert_chain, drafts["node.crt"], drafts["node.key"], "")
        self._whole("crl.pem", _read_revocations, drafts["crl.pem"])
        rules = self._whole("access.acl", _read_rules, drafts["access.acl"])
        _log([f"Access rules, revocations and certificate are those in {self._source}".encode()])
        for name, draft in drafts.items():
            draft.replace(self._folder / name)
        return rules

    def _whole(self, name: str, read: Callable[..., Found], *arguments: object) -> Found:
        """What `read` finds. Raises `ValueError` that names the file when it cannot."""
        try:
            return read(*arguments)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            why = error.strerror if isinstance(error, OSError) else error
            mend = "have stackelgrid certs write the folder, and copy the whole of it"
            raise ValueError(f"{self._source / name} cannot be used ({why}): {mend}") from None

    def write_refusals(self) -> None:
        """Write down what has been refused since the last time, if anything has; later, when the disk is full."""
        text = self.refusals.text()
        if text == self._written:
            return
        draft = self._folder / f".{REFUSALS}.draft"
        try:
            draft.write_text(text)
            draft.replace(self._folder / REFUSALS)
        except OSError as error:  # the broker goes on, and so does the counting
            if not self._unwritten:
                _log([f"{self._folder / REFUSALS} cannot be written ({error.strerror}); make room".encode()])
            self._unwritten = True
            return
        self._written, self._unwritten = text, False


def _copy(source: Path, target: Path) -> None:
    """A copy that only its owner may read, for one is a private key."""
    target.unlink(missing_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(source.read_bytes())


def _read_rules(path: Path) -> Rules:
    return Rules.parse(path.read_text())


def _read_revocations(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(path)
    if context.cert_store_stats()["crl"] == 0:
        raise ValueError("no revocation list in it")


if __name__ == "__main__":
    main()
