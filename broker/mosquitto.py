"""Mosquitto, which ends together with the process that started it.

`python -m broker.mosquitto --port PORT --folder FOLDER [--persistent]` runs Mosquitto with the configuration beside
this file, prints its process id once it listens and ends it when standard input ends: Mosquitto itself would not
notice that its parent has ended. What Mosquitto logs goes to standard error, which `broker.start` directs to
`FOLDER/broker.log`. Persistent, it writes what it retains to `FOLDER/mosquitto.db`: as it changes, or, with
certificates, every ten seconds and as it ends.

With `--certificates DIR` (and `--host HOST`) it asks for certificates, and DIR is watched (`broker.access_files`): when
an authority changes access rules, revocations or the broker's own certificate there, Mosquitto reads them again within
a second, and keeps its clients. What it refuses is counted in `FOLDER/refusals.json`, and what a revoked node has
retained is cleared.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import signal
import string
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from broker import ANYWHERE, KILLED, RETAINED, find_mosquitto, make_context
from broker.child_process import end_with_parent, write_log

if TYPE_CHECKING:
    from broker.access_files import AccessFiles

MOUNTED, DATA = "/mosquitto/config", "/mosquitto/data"
"""The folders of configuration and of retained messages in the official container image."""
KEPT_EVERY_S = 10
"""The time between two writes of what a broker with certificates retains; more often would slow it down."""

MEMORY, MEMORY_IN_CONTAINER = 1 << 30, 400 << 20
"""Bytes that a broker with certificates takes at most; in a container, less than the container may have."""

_RUNNING = re.compile(rb"^[^ ]*: mosquitto version [^ ]+ running$")
"""A whole line, so that no client can have one like it logged by its choice of topics."""

_NOTHING_KEPT = "persistence false"
_KEPT = f"""persistence true
persistence_location $folder/
persistence_file {RETAINED}"""
_AT_ONCE = "\nautosave_on_changes true\nautosave_interval 1"
_IN_TIME = f"\nautosave_interval {KEPT_EVERY_S}"
_AS_ROOT = """
# For the reason see mosquitto.conf.
user root
"""
_CLEARED = """
# What a revoked node has retained is cleared (broker/retained.py); to be cleared it has to be seen.
check_retain_source false
"""


def configuration(port: int, keep_in: Path | None = None) -> str:
    """Write the configuration of a broker on 127.0.0.1:`port`, which may have a folder to keep what it retains in."""
    kept = None if keep_in is None else _KEPT + _AT_ONCE
    return _fill("mosquitto.conf", kept, port=port, folder=keep_in)


def configuration_tls(port: int, host: str, folder: Path, *, persistent: bool) -> str:
    """Write that of a broker with certificates: the authority's files and what it retains are in `folder`."""
    kept = _KEPT + _IN_TIME if persistent else None
    text = _fill("mosquitto-tls.conf", kept, listener=f"{port} {host}", files=folder, folder=folder, memory=MEMORY)
    return text + _AS_ROOT + _CLEARED


def files_in_container() -> dict[str, str]:
    """Write the files of a broker in the official container image, with the authority's folder `broker` mounted.

    The configuration, the command that starts it, and the filter of its log.
    """
    folders = {"files": MOUNTED, "folder": DATA}
    settings = _fill("mosquitto-tls.conf", _KEPT + _IN_TIME, listener=8883, **folders, memory=MEMORY_IN_CONTAINER)
    return {"mosquitto.conf": settings} | {
        name: Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("start-in-container.sh", "without-packets.awk")
    }


def _fill(template: str, kept: str | None, **values: object) -> str:
    text = Path(__file__).with_name(template).read_text(encoding="utf-8")
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
            # pydantic is heavy, and only a broker with certificates needs it.
            from broker.access_files import AccessFiles

            access = AccessFiles(given.certificates, given.folder)
        except ValueError as error:
            sys.exit(str(error))
    settings = given.folder / "mosquitto.conf"
    settings.write_text(text, encoding="utf-8")
    broker = subprocess.Popen(
        [program, "-c", str(settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=end_with_parent(),  # noqa: PLW1509  (no other thread runs)
    )
    clear = None if access is None else partial(_clear_retained, given.host, given.port, given.folder, access)
    sys.exit(_supervise(broker, access, clear))


def _supervise(broker: subprocess.Popen[bytes], access: AccessFiles | None, clear: Callable[[], None] | None) -> int:
    """Pass on Mosquitto's log, print its process id once it runs, end it with standard input; returns its exit code.

    Where there are access rules, what nobody may write any more is cleared before, and whenever they change.
    """

    def announce() -> None:
        if clear is not None:
            clear()
        print(broker.pid, flush=True)

    assert broker.stderr is not None
    errors, rest, announced = broker.stderr.fileno(), b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(errors, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ready = [key.fd for key, _ in selector.select(None if access is None else access.LOOK_S)]
            if 0 in ready and not os.read(0, 1024):
                selector.unregister(0)
                broker.terminate()
            if errors in ready:
                read = os.read(errors, 65536)
                *lines, rest = (rest + read).split(b"\n")
                if not announced and any(map(_RUNNING.match, lines)):
                    announced = True
                    threading.Thread(target=announce, daemon=True).start()  # while its log is read
                write_log(lines if access is None else filter(None, map(access.refusals.read, lines)))
                if not read:
                    break
            if access is not None and access.look():
                broker.send_signal(signal.SIGHUP)
                threading.Thread(target=clear, daemon=True).start()
    if access is not None:
        access.write_refusals()
    code = broker.wait()
    return code if code >= 0 else KILLED - code


_CLEARING = threading.Lock()
"""Of two connections with the broker's certificate the newer one would end the other."""


def _clear_retained(host: str, port: int, certificates: Path, access: AccessFiles) -> None:
    from broker.retained import clear_retained

    with _CLEARING:
        try:
            cleared = clear_retained(ANYWHERE.get(host, host), port, make_context(certificates), access.refusals.rules)
        except OSError as error:
            write_log([f"What revoked nodes have retained is not cleared: {error}".encode()])
            return
    if cleared:
        write_log([f"Cleared what nobody may write any more: {len(cleared)} retained messages".encode()])


if __name__ == "__main__":
    main()
