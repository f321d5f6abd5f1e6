"""API keys as strings: how they look, how they are made, how their keyed hash is made and compared.

It reads no store and no clock. Form: `lw_<t|a>_<prefix>_<secret>`, prefix 12 and secret 32 characters of lower-case
base32. The prefix finds the row and names the key in lists and leak scanners; the secret has 160 random bits. Only
HMAC-SHA256 of the whole string under a named key of the secret file is ever stored.
"""

import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from engine.registry.records import Role

ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
PREFIX_CHARACTERS: Final = 12
SECRET_CHARACTERS: Final = 32
TOKEN_FORM: Final = re.compile(r"lw_([ta])_([a-z2-7]{12})_[a-z2-7]{26,64}", re.ASCII)
# Longer ones are refused before they are matched or hashed.
TOKEN_CHARACTERS_MAX: Final = 128
ROLE_LETTERS: Final = {Role.TENANT: "t", Role.ADMIN: "a"}


@dataclass(frozen=True, slots=True)
class Token:
    """A key as its owner presents it."""

    prefix: str
    """Public part."""
    role: Role
    """What the letter claims; the row decides."""
    text: str = field(repr=False)
    """The whole string: a secret."""


def mint(role: Role) -> Token:
    """A new key."""
    prefix = _characters(PREFIX_CHARACTERS)
    return Token(prefix, role, f"lw_{ROLE_LETTERS[role]}_{prefix}_{_characters(SECRET_CHARACTERS)}")


def parse(text: str) -> Token | None:
    """The key in this text; None when it has not the form of one."""
    if len(text) > TOKEN_CHARACTERS_MAX:
        return None
    match = TOKEN_FORM.fullmatch(text)
    if match is None:
        return None
    return Token(match[2], Role.TENANT if match[1] == "t" else Role.ADMIN, text)


def keyed_hash(secret: bytes, token: Token) -> bytes:
    """32 bytes that only the holder of `secret` can make."""
    return hmac.digest(secret, token.text.encode("ascii"), "sha256")


def matches(secret: bytes, token: Token, stored: bytes) -> bool:
    """Whether the stored hash is this key's, in time that does not depend on where they differ."""
    return hmac.compare_digest(keyed_hash(secret, token), stored)


def _characters(count: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(count))
