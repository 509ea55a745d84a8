"""The keys of one party of a roster, all from one secret of 32 bytes that never leaves its process.

The streams of masks are ChaCha20, the keys of subsets are sealed by X25519, HKDF-SHA256 and ChaCha20-Poly1305, lists
are signed by Ed25519. All are those of the package `cryptography`.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stackelgrid.masks.form import Words

KEY_BYTES = 32
_NO_NONCE = bytes(12)
"""A sealing key seals one box only, so that its nonce may be constant."""
_ANYBODY = X25519PrivateKey.from_private_bytes(bytes(KEY_BYTES))
"""A private key that is no secret."""


class PartyKeys:
    """The keys of one party: `exchange` and `signing` are the public ones, as hexadecimal text."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._exchange = X25519PrivateKey.from_private_bytes(_derive(secret, b"exchange"))
        self._signing = Ed25519PrivateKey.from_private_bytes(_derive(secret, b"signing"))

    @cached_property
    def exchange(self) -> str:
        """The public key by which others seal for it."""
        return self._exchange.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    @cached_property
    def signing(self) -> str:
        """The public key by which others check its signatures."""
        return self._signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def make_subset_key(self, context: bytes) -> bytes:
        """Make the key of a subset, which `context` names: the same each time."""
        return _derive(self._secret, b"subset " + context)

    def seal(self, content: bytes, exchange: str, context: bytes) -> bytes:
        """Seal `content` for the party with the public key `exchange`; `context` says who sends it to whom."""
        return ChaCha20Poly1305(self._agree(exchange, context)).encrypt(_NO_NONCE, content, context)

    def open(self, box: bytes, exchange: str, context: bytes) -> bytes | None:
        """Open what the party with the public key `exchange` has sealed in that context, None where it has not."""
        try:
            return ChaCha20Poly1305(self._agree(exchange, context)).decrypt(_NO_NONCE, box, context)
        except (InvalidTag, ValueError):
            return None

    def sign(self, message: bytes) -> str:
        """Sign a message; the signature is hexadecimal text."""
        return self._signing.sign(message).hex()

    def _agree(self, exchange: str, context: bytes) -> bytes:
        """Derive the key of one box. Raises `ValueError` for a public key that is none."""
        shared = self._exchange.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(exchange)))
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=context).derive(shared)


def is_exchange_key(exchange: str) -> bool:
    """Tell whether one can seal for a public key; for the few points of low order one cannot."""
    try:
        _ANYBODY.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(exchange)))
    except ValueError:
        return False
    return True


def has_signed(signing: str, message: bytes, signature: str) -> bool:
    """Tell whether the party with the public key `signing` has signed a message."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signing)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def draw_mask(key: bytes, context: bytes, count: int) -> Words:
    """Draw the `count` words that belong to the key of a subset and a context; another context has other words."""
    of_context = hashlib.blake2b(context, key=key, digest_size=KEY_BYTES).digest()
    stream = Cipher(algorithms.ChaCha20(of_context, bytes(16)), mode=None).encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, "<u8").astype(np.uint64, copy=False)


def commit_to(key: bytes, context: bytes) -> bytes:
    """Give the commitment to a key in a context, 32 bytes, which tells nothing of it and fits no other key."""
    return _derive(key, context)


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(purpose, key=secret, digest_size=KEY_BYTES).digest()
