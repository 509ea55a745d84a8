"""`python -m broker`: start a broker by hand and leave it running until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import get_args

from broker import LOOPBACK, BrokerStartError, Kind, start

TLS_PORT = 8883
"""Where MQTT over TLS is expected."""


def main() -> None:
    """Start the broker, print its address, wait for Ctrl-C or SIGTERM."""
    arguments = argparse.ArgumentParser(prog="python -m broker", description="An MQTT broker of one's own.")
    arguments.add_argument("--kind", choices=get_args(Kind), default="auto", help="default: auto")
    arguments.add_argument("--port", type=int, help=f"default: a free one; with --certs {TLS_PORT}")
    arguments.add_argument(
        "--certs",
        type=Path,
        metavar="DIR",
        help="let in only who has a certificate: the folder of stackelgrid certs init, or what it has for the broker; "
        "log, refusals and what is retained go to the folder state in the latter",
    )
    arguments.add_argument(
        "--host", default=LOOPBACK, help=f"default: {LOOPBACK}; another, 0.0.0.0 for all, with --certs only"
    )
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        try:
            if given.certs is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stackelgrid-broker-")))
                running = start(given.kind, folder, given.port, host=given.host)
            else:
                whole = (given.certs / "authority").is_dir()
                certificates = given.certs / "broker" if whole else given.certs
                running = start(
                    given.kind,
                    certificates / "state",
                    given.port or TLS_PORT,
                    persistent=True,
                    certificates=certificates,
                    host=given.host,
                )
        except BrokerStartError as error:
            sys.exit(str(error))
        with running:
            print(f"{running.kind} at {running.url}, process {running.pid}; Ctrl-C ends it", flush=True)
            signal.pause()


if __name__ == "__main__":
    main()
