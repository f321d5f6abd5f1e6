"""Holds the Ed25519 key that signs webhooks, and signs them as Telnyx does.

It does not verify and sends nothing.

Signed bytes: decimal Unix seconds, `|` (0x7C), raw body. Headers: `telnyx-timestamp`, `telnyx-signature-ed25519`
(base64 of 64 bytes). Source: telnyx notes, section 5.
"""

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_BYTES: Final = 32


class SigningKeyError(Exception):
    """The signing key file cannot be used; the text says why."""


class Signer:
    """Signs webhook bodies with one key, and with another one where a wrong signature is wanted."""

    __slots__ = ("_forger", "_key", "public_key_base64")

    def __init__(self, key_seed: bytes) -> None:
        """Take the 32 raw bytes of an Ed25519 private key (RFC 8032)."""
        self._key: Final = Ed25519PrivateKey.from_private_bytes(key_seed)
        # Any other key forges; this one is derived so that a run repeats byte for byte.
        self._forger: Final = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"forger|" + key_seed).digest())
        self.public_key_base64: Final = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def signature(self, timestamp: bytes, body: bytes) -> bytes:
        """Sign `timestamp|body`; returns base64."""
        return base64.b64encode(self._key.sign(timestamp + b"|" + body))

    def wrong_signature(self, timestamp: bytes, body: bytes) -> bytes:
        """Sign with a key that nobody was told; well-formed, but never valid."""
        return base64.b64encode(self._forger.sign(timestamp + b"|" + body))


def key_seed_from(seed: int) -> bytes:
    """Derive the key's 32 bytes from the run's seed, so that a test knows the public key beforehand."""
    return hashlib.sha256(b"simulated carrier signing key|%d" % seed).digest()


def load_or_create_key_seed(path: Path) -> bytes:
    """Read the 32-byte key (base64) from `path`, or create it there with mode 0600.

    Raises SigningKeyError when the file is readable by others or holds something else, OSError when it cannot be
    opened.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key_seed(path)
    key_seed = os.urandom(SEED_BYTES)
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64encode(key_seed) + b"\n")
    return key_seed


def _read_key_seed(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        problem = f"the signing key file {path} is open to others; set its mode to 0600"
        raise SigningKeyError(problem)
    try:
        key_seed = base64.b64decode(path.read_bytes().strip(), validate=True)
    except binascii.Error:
        key_seed = b""
    if len(key_seed) != SEED_BYTES:
        problem = f"the signing key file {path} does not hold {SEED_BYTES} bytes in base64"
        raise SigningKeyError(problem)
    return key_seed
