"""TLS: the broker proves who it is with a certificate, and where it asks for that, so does the node."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stackelgrid.model import StrictModel
from stackelgrid.text_file import read_bytes


@dataclass(frozen=True)
class Certificate:
    """The name of a certificate's owner, and the times between which it holds."""

    name: str
    since: datetime
    until: datetime

    def expires_soon(self, now: datetime) -> bool:
        """Tell whether it ends within 14 days or, of one that lives shorter, within a sixth of its lifetime."""
        return self.until - now < min(timedelta(days=14), (self.until - self.since) / 6)

    def find_out_of_date(self, called: str, now: datetime) -> str | None:
        """Say that the certificate, called so, does not hold at a time that is this machine's; None when it does."""
        if self.since <= now <= self.until:
            return None
        return (
            f"{called} holds from {self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC, and this machine's "
            f"clock says {now:%Y-%m-%d %H:%M} UTC: "
            + ("set the clock" if now < self.since else "renew it, or set the clock if it is wrong")
        )


def read_certificate(file: Path) -> Certificate:
    """Read the first certificate in a file, PEM. Raises `ValueError` where there is none."""
    try:
        read_bytes(file, "name one in PEM")
        content = ssl._ssl._test_decode_cert(str(file))  # type: ignore[attr-defined]  # nothing public reads it
    except (OSError, ValueError):
        raise ValueError(f"{file} is no certificate; name one in PEM") from None
    names = [value for part in content["subject"] for key, value in part if key == "commonName"]
    since, until = (datetime.fromtimestamp(ssl.cert_time_to_seconds(content[key]), UTC) for key in _DATES)
    return Certificate(names[0] if len(names) == 1 else "", since, until)


class SelfClosingSocket(ssl.SSLSocket):
    """A TLS socket that is closed when its handshake fails; paho leaves such a one open until it is collected."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands as the base class does; close the socket where that raises `OSError`."""
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class Tls(StrictModel):
    """A node's PEM files: the authority's certificate `ca`, its own `certificate` and its private `key`.

    `renewed` is one file in place of the three, once it is there: the key, the certificate, those of the authorities. A
    node that renews its certificate writes it.
    """

    ca: Path
    certificate: Path
    key: Path
    renewed: Annotated[Path | None, Field(exclude_if=lambda file: file is None)] = None

    def resolve_in(self, folder: Path) -> Tls:
        """Give the same files, with relative paths taken from `folder`."""
        renewed = None if self.renewed is None else folder / self.renewed
        return Tls(ca=folder / self.ca, certificate=folder / self.certificate, key=folder / self.key, renewed=renewed)

    def choose(self) -> Tls:
        """Give the files to use now: the renewed one wherever it is there, in place of each."""
        if self.renewed is None or not self.renewed.is_file():
            return self
        return Tls(ca=self.renewed, certificate=self.renewed, key=self.renewed, renewed=self.renewed)

    def find_out_of_date(self) -> str | None:
        """Find a certificate that does not hold at this machine's time, and say so; None when both of them do.

        Raises `ValueError` for a file that is no certificate.
        """
        now = self.choose()
        problems = [find_out_of_date(path, str(path)) for path in (now.certificate, now.ca)]
        return next(filter(None, problems), None)

    def context(self) -> ssl.SSLContext:
        """Create a context for TLS 1.2 or newer that trusts brokers whose certificate the authority has signed.

        It checks the broker's name too. Raises `ValueError` for files that cannot be read or do not belong together.
        """
        now = self.choose()
        for name, path in (("ca", now.ca), ("certificate", now.certificate), ("key", now.key)):
            try:
                read_bytes(path, "name the node's own")
            except ValueError as error:
                raise ValueError(f"tls.{name}: {path} {error}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = SelfClosingSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(now.ca)
        except ssl.SSLError:
            raise ValueError(f"tls.ca: {now.ca} is no certificate; name the authority's, in PEM") from None
        try:
            # A key with a passphrase would be asked for on a terminal that a node does not have.
            context.load_cert_chain(now.certificate, now.key, password="")
        except ssl.SSLError:
            wanted = "a certificate and the unencrypted private key that belongs to it"
            raise ValueError(f"tls.certificate, tls.key: {now.certificate} and {now.key} are not {wanted}") from None
        return context


def make_context(ca: Path | None) -> ssl.SSLContext:
    """Create a context for TLS 1.2 or newer without a certificate of one's own.

    It trusts the authority whose certificate is in `ca`, or those that this machine trusts. Raises `ValueError` for a
    file that cannot be read.
    """
    if ca is not None:
        try:
            read_bytes(ca, "name the authority's certificate, in PEM")
        except ValueError as error:
            raise ValueError(f"ca: {ca} {error}") from None
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        why = "no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"ca: {ca} cannot be used ({why}); name the authority's certificate, in PEM") from None
    context.sslsocket_class = SelfClosingSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def find_out_of_date(certificate: Path, name: str) -> str | None:
    """Say that a certificate, called `name`, does not hold at this machine's time; None when it does.

    Raises `ValueError` for a file that is no certificate.
    """
    return read_certificate(certificate).find_out_of_date(name, datetime.now(UTC))


_DATES = ("notBefore", "notAfter")
