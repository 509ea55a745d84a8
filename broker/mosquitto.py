"""Mosquitto, tied to the life of whoever started it.

`python -m broker.mosquitto --port PORT --folder FOLDER [--persistent]` runs Mosquitto with the configuration beside
this file, prints its process id once it listens and ends it when standard input ends: Mosquitto itself would not
notice the death of its parent. What Mosquitto logs goes to standard error, which `broker.start` directs to
`FOLDER/broker.log`. Persistent, it writes what it retains to `FOLDER/mosquitto.db` as it changes.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from broker import LOG, RETAINED, find_mosquitto

PR_SET_PDEATHSIG = 1


_NOTHING_KEPT = "persistence false"
_KEPT = f"""persistence true
persistence_location $folder/
persistence_file {RETAINED}
autosave_on_changes true
autosave_interval 1"""


def configuration(port: int, keep_in: Path | None = None) -> str:
    """The text of the configuration file for a broker on 127.0.0.1:`port`, with a folder for what it retains or not."""
    text = Path(__file__).with_suffix(".conf").read_text()
    if keep_in is not None:
        assert _NOTHING_KEPT in text
        text = text.replace(_NOTHING_KEPT, _KEPT)
    return string.Template(text).substitute(port=port, folder=keep_in)


def main() -> None:
    """Run Mosquitto until it ends or standard input does."""
    arguments = argparse.ArgumentParser(prog="python -m broker.mosquitto")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--persistent", action="store_true")
    given = arguments.parse_args()

    program = find_mosquitto()
    if program is None:
        sys.exit("Mosquitto is not installed")
    settings = given.folder / "mosquitto.conf"
    settings.write_text(configuration(given.port, given.folder if given.persistent else None))
    log = given.folder / LOG
    before = log.stat().st_size
    broker = subprocess.Popen(
        [program, "-c", str(settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=_end_with_parent(),  # noqa: PLW1509  (no other thread runs yet)
    )
    threading.Thread(target=_end_with_input, args=(broker,), daemon=True).start()
    while broker.poll() is None:
        if b" running" in log.read_bytes()[before:]:
            print(broker.pid, flush=True)
            break
        time.sleep(0.01)
    sys.exit(broker.wait())


def _end_with_input(broker: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    broker.terminate()


def _end_with_parent() -> Callable[[], object] | None:
    """For Linux: what makes the kernel end Mosquitto should this very process be killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    main()
