"""`python -m broker`: start a broker by hand, until Ctrl-C, or have systemd run it.

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

from broker import LOOPBACK, BrokerKind, BrokerStartError, RunningBroker, enrolment, nats, start
from broker.service import describe
from stackelgrid import service
from stackelgrid.errors import ExitCode
from stackelgrid.version import PrintVersion

NATS = "nats"
TLS_PORT = 8883
"""The port of MQTT over TLS."""


def main(arguments: list[str] | None = None) -> int:
    """Start the broker, print its address, wait for Ctrl-C or SIGTERM; or install it as a service."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["install-service"]:
        return service.main(
            _parser(" install-service", "Let systemd run a broker with certificates."), _describe, words[1:]
        )
    parser = _parser("", "Run an MQTT broker. python -m broker install-service has systemd run it.")
    given = parser.parse_args(words)
    if given.kind == NATS and (given.port is not None or given.host != LOOPBACK):
        parser.error(f"a cluster of --kind {NATS} is on {LOOPBACK}, on free ports; leave out --port and --host")
    if given.enrolment_port is not None and (given.certs is None or given.kind in (NATS, BrokerKind.EMBEDDED)):
        parser.error("strangers are admitted beside a Mosquitto with certificates: give --certs, and no other --kind")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        asked = None
        try:
            if given.certs is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stackelgrid-broker-")))
                running = _start(given, folder, None)
                stack.enter_context(running)
            else:
                certificates = _find_certificates(given.certs)
                running = _start(given, certificates / "state", certificates)
                stack.enter_context(running)
                if given.enrolment_port is not None and isinstance(running, RunningBroker):
                    asked = enrolment.start(running, certificates, given.enrolment_port or None, given.host)
                    stack.enter_context(asked)
        except BrokerStartError as error:
            print(error, file=sys.stderr)
            return ExitCode.BAD_INPUT
        process = f", process {running.pid}" if isinstance(running, RunningBroker) else ""
        enrols = "" if asked is None else f", enrolment at {asked.url}"
        print(f"{running.kind} at {running.url}{process}{enrols}; Ctrl-C ends it", flush=True)
        running.wait()
        print(running.find_end(), file=sys.stderr)
        return ExitCode.LOST
    return ExitCode.SETTLED


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m broker{command}", description=description)
    kinds = [*map(str, BrokerKind), NATS]
    parser.add_argument("--version", action=PrintVersion)
    parser.add_argument("--kind", choices=kinds, default="auto", help="default: auto; nats is a cluster of three")
    parser.add_argument("--port", type=int, help=f"0 is a free one; default: 0, with --certs {TLS_PORT}")
    parser.add_argument(
        "--certs",
        type=Path,
        metavar="DIR",
        help="admit only clients with a certificate: the folder of stackelgrid certs init, or its folder broker; "
        "log, refusals and what is retained go to broker/state",
    )
    parser.add_argument(
        "--enrolment-port",
        type=int,
        metavar="PORT",
        help="let homes without a certificate ask for one there; 0 is a free one, usual is 8884",
    )
    parser.add_argument(
        "--host", default=LOOPBACK, help=f"default: {LOOPBACK}; another, 0.0.0.0 for all, with --certs only"
    )
    return parser


def _describe(given: argparse.Namespace) -> service.Service:
    """Describe the service that runs the broker with the options `given`. Raises `ServiceError`."""
    if given.certs is None or given.kind in (NATS, BrokerKind.EMBEDDED):
        raise service.ServiceError("a service is a Mosquitto with certificates: give --certs, and no other --kind")
    words = [f"--host={given.host}", f"--port={given.port or TLS_PORT}"]
    words += [f"--enrolment-port={given.enrolment_port}"] if given.enrolment_port else []
    return describe(_find_certificates(given.certs), words)


def _find_certificates(folder: Path) -> Path:
    """Find the broker's own folder, which may be that of its authority too."""
    whole = os.path.isdir(folder / "broker")  # not a Path's is_dir, which raises where it may not look
    return folder / "broker" if whole else folder


def _start(given: argparse.Namespace, folder: Path, certificates: Path | None) -> RunningBroker | nats.RunningCluster:
    if given.kind == NATS:
        return nats.start(folder, certificates)
    usual = None if certificates is None else TLS_PORT
    port = usual if given.port is None else given.port or None
    persistent = certificates is not None
    return start(given.kind, folder, port, persistent=persistent, certificates=certificates, host=given.host)


if __name__ == "__main__":
    sys.exit(main())
