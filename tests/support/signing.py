"""An authority that signs whatever a test asks it to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class SigningAuthority:
    """An authority with a key of its own, whose certificate is in the file `ca`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        itself = self._build(self._name, self._key.public_key(), 3650)
        itself = itself.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.pem = _encode(itself.sign(self._key, hashes.SHA256()))
        self.ca = folder / f"{name}.crt"
        self.ca.write_text(self.pem)

    def sign(self, csr: str, name: str = "", days: float = 30, age_days: float = 1) -> str:
        """Give the certificate of a request, of another `name` where one is given, made so long ago."""
        request = x509.load_pem_x509_csr(csr.encode())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) if name else request.subject
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        built = self._build(subject, key, days, age_days).add_extension(purpose, critical=False)
        return _encode(built.sign(self._key, hashes.SHA256()))

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: float, age_days: float = 1
    ) -> x509.CertificateBuilder:
        since = datetime.now(UTC) - timedelta(days=age_days)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(since).not_valid_after(since + timedelta(days=days))


def _encode(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
