"""Mutual TLS: the broker and the node each prove who they are with a certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from stackelgrid.model import StrictModel


class Tls(StrictModel):
    """A node's PEM files: the authority's certificate `ca`, its own `certificate` and its private `key`."""

    ca: Path
    certificate: Path
    key: Path

    def resolve_in(self, folder: Path) -> Tls:
        """Give the same files, with relative paths taken from `folder`."""
        return Tls(ca=folder / self.ca, certificate=folder / self.certificate, key=folder / self.key)

    def context(self) -> ssl.SSLContext:
        """Create a context for TLS 1.2 or newer that trusts brokers whose certificate the authority has signed.

        It checks the broker's name too. Raises `ValueError` for files that cannot be read or do not belong together.
        """
        for name, path in (("ca", self.ca), ("certificate", self.certificate), ("key", self.key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise ValueError(f"tls.{name}: {path} cannot be read ({error.strerror}); name the node's own") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError:
            raise ValueError(f"tls.ca: {self.ca} is no certificate; name the authority's, in PEM") from None
        try:
            # A key with a passphrase would be asked for on a terminal that a node does not have.
            context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError:
            wanted = "a certificate and the unencrypted private key that belongs to it"
            raise ValueError(f"tls.certificate, tls.key: {self.certificate} and {self.key} are not {wanted}") from None
        return context
