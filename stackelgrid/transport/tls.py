"""Mutual TLS: the broker shows that it is the broker, the node that it is the node its certificate names."""

from __future__ import annotations

import ssl
from pathlib import Path

from stackelgrid.model import StrictModel


class Tls(StrictModel):
    """What a node proves itself with, as PEM files: the authority's certificate `ca`, its own and its private key."""

    ca: Path
    certificate: Path
    key: Path

    def resolve_in(self, folder: Path) -> Tls:
        """The same files, relative ones as seen from `folder`."""
        return Tls(ca=folder / self.ca, certificate=folder / self.certificate, key=folder / self.key)

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, to a broker whose certificate the authority has signed for the name it is called by.

        Raises `ValueError` for files that cannot be read or do not fit each other.
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
            fits = "a certificate and the unencrypted private key that belongs to it"
            raise ValueError(f"tls.certificate, tls.key: {self.certificate} and {self.key} are not {fits}") from None
        return context
