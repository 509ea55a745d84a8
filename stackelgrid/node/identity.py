"""A node's certificate and authorities, from the files that its configuration names, for the keys of private sums."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from stackelgrid.masks.identity import Identity, Trust
from stackelgrid.text_file import read_bytes
from stackelgrid.transport.tls import Tls


def read_identity(tls: Tls) -> Identity:
    """Read the certificate and the key that are in use now. Raises `ValueError` that names the files."""
    now = tls.choose()
    certificate, key = _read("certificate", now.certificate), _read("key", now.key)
    try:
        return Identity(certificate, key)
    except (TypeError, ValueError) as error:  # TypeError where the key has a passphrase
        raise ValueError(
            f"tls.certificate, tls.key: {now.certificate} and {now.key} cannot prove keys: {error}"
        ) from None


def read_trust(tls: Tls, read_clock: Callable[[], datetime]) -> Trust:
    """Read the authorities that are trusted now; `read_clock` gives the time of day. Raises `ValueError` as above."""
    ca = tls.choose().ca
    content = _read("ca", ca)
    try:
        return Trust(content, read_clock)
    except ValueError as error:
        raise ValueError(f"tls.ca: {ca} cannot check keys: {error}") from None


def _read(name: str, path: Path) -> bytes:
    try:
        return read_bytes(path, "name the node's own")
    except ValueError as error:
        raise ValueError(f"tls.{name}: {path} {error}") from None
