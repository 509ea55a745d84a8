"""Private keys of a home, requests for certificates and their examination, by the program `openssl`.

A key is made on the home's machine and stays in a file there that only its owner may read. `openssl` runs for
milliseconds every few years, in a process of its own: so an EMC neither installs nor keeps in memory a cryptography
library for it, and Raspberry Pi OS has the program, because the machine's own certificates need it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from stackelgrid.text_file import replace_file
from stackelgrid.transport.tls import read_certificate
from stackelgrid.wire.enrolment import key_id
from stackelgrid.wire.names import is_name

_PATIENCE_S = 30.0


class OpensslError(Exception):
    """The program is missing, or it refuses a file; the message says so in one line."""


class CertificateRefusedError(ValueError):
    """A certificate that the home did not ask for, or that another authority signed; the message says which."""


def make_key(file: Path) -> None:
    """Make a private key (ECDSA on P-256) in a new file that only its owner may read, on disk when this returns."""
    key = _run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    replace_file(file, key, durable=True, mode=0o600)


def identify(key: Path) -> str:
    """Give the ID of a key."""
    return key_id(_run("pkey", "-in", str(key), "-passin", "pass:", "-pubout", "-outform", "DER"))


def make_request(key: Path, name: str) -> str:
    """Make a request for a certificate of `name` and this key: PKCS 10, PEM."""
    if not is_name(name):
        raise ValueError(f"{name!r} is no name of a node")
    return _run("req", "-new", "-batch", "-key", str(key), "-passin", "pass:", "-subj", f"/CN={name}").decode()


def examine(certificate: str, key: Path, name: str, ca: Path) -> str:
    """Give a certificate, PEM and nothing besides, once it is found to be for this key and name, by this authority.

    Its dates are left to the caller. Raises `CertificateRefusedError`.
    """
    try:
        only = _run("x509", given=certificate.encode())
        public = _run("x509", "-pubkey", "-noout", given=only)
    except OpensslError:
        raise CertificateRefusedError("it is no certificate in PEM") from None
    if public != _run("pkey", "-in", str(key), "-passin", "pass:", "-pubout"):
        raise CertificateRefusedError("its certificate is for another key than this home's")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "node.crt"
        file.write_bytes(only)
        try:
            owner = read_certificate(file).name
        except ValueError:
            raise CertificateRefusedError("its certificate cannot be read") from None
    if owner != name:
        raise CertificateRefusedError(f"its certificate is for the name {owner!r}, this home is {name!r}")
    try:  # the dates are another matter, and the authorities that this machine trusts besides have no say here
        own = ["-CAfile", str(ca), "-no-CApath", "-no-CAstore", "-no_check_time", "-purpose", "sslclient"]
        _run("verify", *own, given=only)
    except OpensslError:
        raise CertificateRefusedError(f"its certificate is not signed by the authority in {ca}") from None
    return only.decode("ascii")


def _run(*words: str, given: bytes = b"") -> bytes:
    """Run `openssl` with no settings but its own; give what it prints."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "OPENSSL_CONF": os.devnull, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["openssl", *words], input=given, capture_output=True, env=environment, timeout=_PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise OpensslError("the program openssl is not installed: sudo apt install openssl") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OpensslError(f"openssl {words[0]} cannot be run: {error}") from None
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()
        raise OpensslError(f"openssl {words[0]} failed: {why[0] if why else f'code {done.returncode}'}")
    return done.stdout
