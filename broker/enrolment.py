"""A second Mosquitto, where those without a certificate ask for one, beside the grid's broker.

A listener of the grid's broker would not do: client ids are those of all its listeners, so that a stranger who calls
itself h07 ends the connection of h07; and packets, memory and what is retained are limited for all of them together.
This one shares nothing but a connection with the certificate `enrolment`, which carries requests and answers.

`python -m broker.enrolment` runs it as `broker.mosquitto` runs the other, starts it again when the authority has
changed its certificates or when it has ended, and counts in `FOLDER/refusals.json` what it refused.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import selectors
import string
import subprocess
import sys
import time
from pathlib import Path

from broker import (
    REFUSALS,
    BrokerKind,
    BrokerStartError,
    Place,
    RunningBroker,
    find_mosquitto,
    free_port,
    launch,
    require_certificates,
)
from broker.child_process import end_with_parent, write_log
from broker.refusals import StrangerRefusals

RULES = """# Who has no certificate may write one topic and read another. Written by stackelgrid certs.
pattern write stackelgrid/enrolment/%c/request
pattern read stackelgrid/enrolment/%c/answer
"""
FOLDER = "enrolment"
"""The folder in the authority's folder `broker` with the certificate of its connection to the grid's broker."""
MOUNTED = "/mosquitto/config"
"""The folder of the configuration in the official container image."""
LOOK_S, PAUSE_S = 0.5, 1.0
"""The time between two looks at the certificates, and before Mosquitto that has ended is started again."""


def configuration(listener: str, grid: str, files: Path | str, rules: Path | str, key: bytes) -> str:
    """Write the configuration of one that listens on `listener` ("PORT HOST"), for the grid's broker at `grid`.

    The authority's folder `broker` is at `files`, the rules for strangers at `rules`; `key` is the broker's.
    """
    text = Path(__file__).with_name("mosquitto-enrolment.conf").read_text(encoding="utf-8")
    secret = hashlib.sha256(b"the connection of the enrolment broker\n" + key).hexdigest()
    return string.Template(text).substitute(listener=listener, grid=grid, files=files, rules=rules, secret=secret)


def configuration_in_container(key: bytes) -> str:
    """Write that of one in the official container image, where the grid's broker is reached as `broker`."""
    return configuration("8884", "broker:8883", MOUNTED, f"{MOUNTED}/enrolment.acl", key)


def start(grid: RunningBroker, certificates: Path, port: int | None, host: str) -> RunningBroker:
    """Start one for the broker `grid`, which has the same folder of certificates. Raises `BrokerStartError`.

    Without a `port` it is on a free one.
    """
    certificates = certificates.resolve()
    require_certificates(certificates)
    if not (certificates / FOLDER / "node.key").is_file():
        mend = "make it: stackelgrid certs add enrolment --role enrolment"
        raise BrokerStartError("there is no certificate for enrolment", str(certificates / FOLDER), mend)
    folder = grid.log.parent / FOLDER
    folder.mkdir(exist_ok=True)
    place = Place(free_port() if port is None else port, folder, host, certificates)
    options = ["--folder", str(folder), "--grid", f"{grid.address}:{grid.port}"]
    running = launch("enrolment", BrokerKind.MOSQUITTO, place, options)
    if running is None:
        raise BrokerStartError(f"the port {place.port} is taken", host, "choose another for enrolment")
    return running


def main() -> None:
    """Run Mosquitto again and again until standard input ends."""
    arguments = argparse.ArgumentParser(prog="python -m broker.enrolment")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--host", required=True)
    arguments.add_argument("--grid", required=True)
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--certificates", type=Path, required=True)
    given = arguments.parse_args()
    program = find_mosquitto()
    if program is None:
        sys.exit("Mosquitto is not installed")
    rules, settings = given.folder / "enrolment.acl", given.folder / "mosquitto.conf"
    rules.write_text(RULES, encoding="utf-8")
    refusals = StrangerRefusals(given.folder / REFUSALS)
    listener = f"{given.port} {given.host}"
    while True:
        key = (given.certificates / "node.key").read_bytes()
        settings.touch(mode=0o600)  # it holds a secret
        settings.write_text(configuration(listener, given.grid, given.certificates, rules, key), encoding="utf-8")
        broker = subprocess.Popen(
            [program, "-c", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=end_with_parent(),  # noqa: PLW1509  (no other thread runs)
        )
        if _supervise(broker, given.certificates, refusals) or not refusals.runs:
            sys.exit(broker.returncode)
        time.sleep(PAUSE_S)


def _supervise(broker: subprocess.Popen[bytes], certificates: Path, refusals: StrangerRefusals) -> bool:
    """Read Mosquitto's log until it ends; end it with standard input, and then return True, or with a certificate."""
    assert broker.stderr is not None
    errors, rest, over, stamp = broker.stderr.fileno(), b"", False, _stamp(certificates)
    with selectors.DefaultSelector() as selector:
        selector.register(errors, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ready = [key.fd for key, _ in selector.select(LOOK_S)]
            if 0 in ready and not os.read(0, 1024):
                selector.unregister(0)
                over = True
                broker.terminate()
            if errors in ready:
                read = os.read(errors, 65536)
                *lines, rest = (rest + read).split(b"\n")
                ran = refusals.runs
                write_log(filter(None, map(refusals.read, lines)))
                if refusals.runs and not ran:
                    print(broker.pid, flush=True)
                if not read:
                    break
            refusals.write()
            if stamp != (now := _stamp(certificates)):
                stamp = now
                broker.terminate()  # `main` starts it again
    broker.wait()
    broker.stderr.close()
    return over


def _stamp(certificates: Path) -> object:
    """Give what changes when a certificate does; the authority writes the same ones anew with each change."""
    files = [certificates / "ca.crt", certificates / "node.crt", certificates / FOLDER / "node.crt"]
    return [path.read_bytes() if path.exists() else b"" for path in files]


if __name__ == "__main__":
    main()
