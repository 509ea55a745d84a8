"""`python -m broker`: start a broker by hand and leave it running until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import get_args

from broker import LOOPBACK, BrokerStartError, Kind, RunningBroker, nats, start

NATS = "nats"
TLS_PORT = 8883
"""Where MQTT over TLS is expected."""


def main() -> None:
    """Start the broker, print its address, wait for Ctrl-C or SIGTERM."""
    arguments = argparse.ArgumentParser(prog="python -m broker", description="An MQTT broker of one's own.")
    arguments.add_argument(
        "--kind", choices=(*get_args(Kind), NATS), default="auto", help="default: auto; nats is a cluster of three"
    )
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
    if given.kind == NATS and (given.port is not None or given.host != LOOPBACK):
        arguments.error(f"a cluster of --kind {NATS} is on {LOOPBACK}, on free ports; leave out --port and --host")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        try:
            if given.certs is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stackelgrid-broker-")))
                running = _start(given, folder, None)
            else:
                whole = os.path.isdir(given.certs / "broker")  # not a Path's is_dir, which raises where it may not look
                certificates = given.certs / "broker" if whole else given.certs
                running = _start(given, certificates / "state", certificates)
        except BrokerStartError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        with running:
            process = f", process {running.pid}" if isinstance(running, RunningBroker) else ""
            print(f"{running.kind} at {running.url}{process}; Ctrl-C ends it", flush=True)
            signal.pause()


def _start(given: argparse.Namespace, folder: Path, certificates: Path | None) -> RunningBroker | nats.RunningCluster:
    if given.kind == NATS:
        return nats.start(folder, certificates)
    port = given.port if certificates is None else given.port or TLS_PORT
    persistent = certificates is not None
    return start(given.kind, folder, port, persistent=persistent, certificates=certificates, host=given.host)


if __name__ == "__main__":
    main()
