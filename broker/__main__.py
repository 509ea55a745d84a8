"""`python -m broker`: start a broker by hand and leave it running until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import get_args

from broker import BrokerStartError, Kind, start


def main() -> None:
    """Start the broker, print its address, wait for Ctrl-C or SIGTERM."""
    arguments = argparse.ArgumentParser(prog="python -m broker", description="An MQTT broker on 127.0.0.1.")
    arguments.add_argument("--kind", choices=get_args(Kind), default="auto", help="default: auto")
    arguments.add_argument("--port", type=int, help="default: a free one")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="stackelgrid-broker-") as folder:
        try:
            running = start(given.kind, Path(folder), given.port)
        except BrokerStartError as error:
            sys.exit(str(error))
        with running:
            print(f"{running.kind} at {running.url}, process {running.pid}; Ctrl-C ends it", flush=True)
            signal.pause()


if __name__ == "__main__":
    main()
