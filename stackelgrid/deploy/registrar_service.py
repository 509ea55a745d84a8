"""A systemd unit for the registrar, which runs as the user who owns the authority's folder."""

from __future__ import annotations

from pathlib import Path

from broker.authority import Authority
from stackelgrid import service
from stackelgrid.service import Service

_PASSPHRASE = "passphrase"


def describe(folder: Path, passphrase: Path | None = None) -> Service:
    """Describe the service of `stackelgrid certs serve`; a file with the `passphrase` stays root's.

    Raise `ServiceError` for a folder that a service cannot use, `AuthorityError` where there is no authority.
    """
    authority = Authority(folder)
    settings = [*service.run_as_owner(authority.folder)]
    if passphrase is not None:
        service.require_plain(passphrase.absolute())
        settings += [
            f"LoadCredential={_PASSPHRASE}:{passphrase.absolute()}",
            f"Environment=STACKELGRID_CA_PASSPHRASE_FILE=%d/{_PASSPHRASE}",
        ]
    return Service(
        writer="stackelgrid certs install-service",
        name="stackelgrid-registrar",
        description="Registrar of a Stackelgrid grid",
        command=[
            service.find_program("stackelgrid"), "certs", "serve", f"--dir={authority.folder}",
            "--status=%t/stackelgrid-registrar/status.json",
        ],
        settings=[
            "Type=notify",
            "NotifyAccess=main",
            "WatchdogSec=60",
            "SuccessExitStatus=143",
            *settings,
            "RuntimeDirectory=stackelgrid-registrar",
            "MemoryMax=512M",
            "TasksMax=64",
            "LimitNOFILE=256",
        ],
    )  # fmt: skip
