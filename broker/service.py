"""`python -m broker install-service`: a systemd unit for a broker with certificates.

It runs as the user who owns the authority's folder `broker`, which it follows, and writes nowhere else.
"""

from __future__ import annotations

from pathlib import Path

from stackelgrid import service
from stackelgrid.service import Service


def describe(certificates: Path, words: list[str]) -> Service:
    """Describe the service of a broker with the folder `certificates`, started with more `words`.

    Raise `ServiceError` for a folder that a service cannot use.
    """
    folder = certificates.absolute()
    return Service(
        writer="python -m broker install-service",
        name="stackelgrid-broker",
        description="Broker of Stackelgrid runs",
        command=[service.find_python(), "-m", "broker", f"--certs={folder}", *words],
        settings=[
            "# Its own child, Mosquitto, is ended by it.",
            "KillMode=mixed",
            *service.run_as_owner(folder),
            "MemoryMax=2G",
            "TasksMax=64",
            "LimitNOFILE=65536",
        ],
    )
