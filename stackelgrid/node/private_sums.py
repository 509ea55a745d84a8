"""What a node brings to private sums besides the game: random bytes, and certificates that vouch for keys."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

from stackelgrid.masks.party import Prove, Vouch
from stackelgrid.node.identity import read_identity, read_trust
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.masks import MaskEntry

_LOG = logging.getLogger("stackelgrid.node")

Draw = Callable[[str], bytes]
"""Draws 32 random bytes for a purpose: another time others."""


def draw_securely(purpose: str) -> bytes:
    """Draw 32 bytes that nobody can foresee."""
    return secrets.token_bytes(32)


def draw_from_seed(seed: int, name: str) -> Draw:
    """Make a source of the bytes of one node in a simulation: the same seed and name give the same."""
    numbers = count()

    def draw(purpose: str) -> bytes:
        return hashlib.sha256(f"{seed}/{name}/{purpose}/{next(numbers)}".encode()).digest()

    return draw


def prove_by(tls: Tls) -> Prove:
    """Make what proves a node's keys by the certificate that is in use then. Raises `ValueError` that names the files.

    Without a certificate later on, keys go unproven, and nobody believes them.
    """
    read_identity(tls)

    def prove(entry: MaskEntry, run: str, aggregator: str) -> MaskEntry:
        try:
            return read_identity(tls).prove(entry, run, aggregator)
        except ValueError as error:
            _LOG.error("keys of masks are not proven", extra={"data": {"cause": str(error)}})
            return entry

    return prove


def vouch_by(tls: Tls) -> Vouch:
    """Make what checks the keys of others by the authorities that are trusted then. Raises `ValueError` as above."""
    read_trust(tls, _read_clock)

    def vouch(run: str, aggregator: str, entry: MaskEntry) -> str | None:
        try:
            return read_trust(tls, _read_clock).find_objection(run, aggregator, entry)
        except ValueError as error:
            return str(error)

    return vouch


def _read_clock() -> datetime:
    return datetime.now(UTC)
