"""`python -m broker`: start a broker by hand; it runs until Ctrl-C.

Exit codes: 0 after Ctrl-C or SIGTERM; 2 bad usage, or it could not be started; 4 the broker ended by itself.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from broker import LOOPBACK, BrokerKind, BrokerStartError, RunningBroker, nats, start
from stackelgrid.errors import ExitCode

NATS = "nats"
TLS_PORT = 8883
"""The port of MQTT over TLS."""


def main() -> None:
    """Start the broker, print its address, wait for Ctrl-C or SIGTERM."""
    arguments = argparse.ArgumentParser(prog="python -m broker", description="Run an MQTT broker.")
    kinds = [*map(str, BrokerKind), NATS]
    arguments.add_argument("--kind", choices=kinds, default="auto", help="default: auto; nats is a cluster of three")
    arguments.add_argument("--port", type=int, help=f"0 is a free one; default: 0, with --certs {TLS_PORT}")
    arguments.add_argument(
        "--certs",
        type=Path,
        metavar="DIR",
        help="admit only clients with a certificate: the folder of stackelgrid certs init, or its folder broker; "
        "log, refusals and what is retained go to broker/state",
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
            sys.exit(ExitCode.BAD_INPUT)
        with running:
            process = f", process {running.pid}" if isinstance(running, RunningBroker) else ""
            print(f"{running.kind} at {running.url}{process}; Ctrl-C ends it", flush=True)
            running.wait()
            print(running.find_end(), file=sys.stderr)
            sys.exit(ExitCode.LOST)


def _start(given: argparse.Namespace, folder: Path, certificates: Path | None) -> RunningBroker | nats.RunningCluster:
    if given.kind == NATS:
        return nats.start(folder, certificates)
    usual = None if certificates is None else TLS_PORT
    port = usual if given.port is None else given.port or None
    persistent = certificates is not None
    return start(given.kind, folder, port, persistent=persistent, certificates=certificates, host=given.host)


if __name__ == "__main__":
    main()
