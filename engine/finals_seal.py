"""Names and seals of what is kept in Redis of look-ups: neither shows a tenant, an id or a text to whoever reads there.

It speaks to no Redis. Layout of a name: `longwave:final:TENANT:MESSAGE`, HMACs in hex (16 and 32 digits). Layout of a
value: format 1, nonce 12, then AES-256-GCM over (time it was read from the store, wall clock in µs, 8; the answer) with
the name, the format and the name of the secret bound to it.

Invariants: what was changed, moved to another name or sealed under another secret does not open; every key comes from
the secret by HKDF, and each message has one of its own, so that no number of values uses up the nonces of a key.
"""

import hashlib
import hmac
import os
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.secrets import NamedKey, Secrets

PREFIX: Final = "longwave:final:"
EVERY: Final = f"{PREFIX}*"
FORMAT: Final = b"\x01"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TIME_BYTES: Final = 8
TAG_BYTES: Final = 16
TENANT_DIGITS: Final = 16
MESSAGE_DIGITS: Final = 32
TENANTS_KEPT: Final = 1024


class Seal:
    """Under one secret."""

    def __init__(self, secret: NamedKey) -> None:
        """Derive the keys: for names of tenants, for names of messages, for values."""
        derived = HKDF(SHA256(), 3 * KEY_BYTES, None, b"longwave finals in redis").derive(secret.secret)
        self._tenants, self._messages, self._values = (
            derived[start : start + KEY_BYTES] for start in range(0, len(derived), KEY_BYTES)
        )
        self._bound = FORMAT + secret.name.encode("ascii")
        self._tenant_part = lru_cache(TENANTS_KEPT)(self._find_tenant_part)

    def name(self, tenant: int, identity: int) -> str:
        """Under which a message is kept."""
        return f"{PREFIX}{self._tenant_part(tenant)}:{self._message_part(identity)}"

    def names_of_tenant(self, tenant: int) -> str:
        """A pattern for all of a tenant."""
        return f"{PREFIX}{self._tenant_part(tenant)}:*"

    def names_of_message(self, identity: int) -> str:
        """A pattern for one message, whosever it is."""
        return f"{PREFIX}*:{self._message_part(identity)}"

    def close(self, tenant: int, identity: int, answer: bytes, read_us: int) -> bytes:
        """The value of an answer that was read from the store at this time."""
        nonce = os.urandom(NONCE_BYTES)
        plain = read_us.to_bytes(TIME_BYTES, "big") + answer
        return FORMAT + nonce + self._cipher(tenant, identity).encrypt(nonce, plain, self._beside(tenant, identity))

    def open(self, tenant: int, identity: int, value: bytes) -> tuple[bytes, int] | None:
        """(the answer, when it was read from the store) of a value; None for what is not wholly and surely ours."""
        head = len(FORMAT) + NONCE_BYTES
        if len(value) < head + TIME_BYTES + TAG_BYTES or value[: len(FORMAT)] != FORMAT:
            return None
        beside = self._beside(tenant, identity)
        try:
            plain = self._cipher(tenant, identity).decrypt(value[len(FORMAT) : head], value[head:], beside)
        except InvalidTag:
            return None
        return plain[TIME_BYTES:], int.from_bytes(plain[:TIME_BYTES], "big")

    def _cipher(self, tenant: int, identity: int) -> AESGCM:
        which = tenant.to_bytes(8, "big") + identity.to_bytes(8, "big")
        return AESGCM(hmac.digest(self._values, which, hashlib.sha256))

    def _beside(self, tenant: int, identity: int) -> bytes:
        return self.name(tenant, identity).encode("ascii") + self._bound

    def _find_tenant_part(self, tenant: int) -> str:
        return hmac.digest(self._tenants, tenant.to_bytes(8, "big"), hashlib.sha256).hex()[:TENANT_DIGITS]

    def _message_part(self, identity: int) -> str:
        return hmac.digest(self._messages, identity.to_bytes(8, "big"), hashlib.sha256).hex()[:MESSAGE_DIGITS]


def seals_of(secrets: Secrets) -> list[Seal]:
    """Of each live secret, the one that is in use first.

    The secret is that of callback MACs, which all nodes share anyway: HKDF makes of it what tells nothing of it.
    """
    return [Seal(secret) for secret in secrets.callback]
