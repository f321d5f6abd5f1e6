"""Page tokens: where the next page begins, bound to the arguments of the listing they were issued for.

They grant nothing: a forged one is a place in a list that the caller may read anyway, so they carry no MAC.

Layout: base64url without padding of 8 bytes BLAKE2b over arguments and key, then the last row's key in UTF-8.
"""

import base64
import binascii
import hashlib
from typing import Final

from engine.errors import Refused, Verdict

PAGE_ROWS_DEFAULT: Final = 50
PAGE_ROWS_MAX: Final = 1000
# The longest key is a 63-character id.
TOKEN_CHARACTERS_MAX: Final = 128
BINDING_BYTES: Final = 8
# Stays inside 64 bits.
NUMBER_CHARACTERS_MAX: Final = 18


def page_rows(page_size: int, field: str = "page_size") -> int:
    """Rows on a page for what the caller asked. Raises Refused when it is negative."""
    if page_size < 0:
        raise Refused(Verdict.INVALID_FIELD, "ask for 0 (50 rows) or more", field=field)
    return min(page_size or PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX)


def issue(key: str, *arguments: str) -> str:
    """A token for the rows after the row with this key, of the listing with these arguments."""
    return base64.urlsafe_b64encode(_binding(*arguments, key) + key.encode()).decode("ascii").rstrip("=")


def after(token: str, *arguments: str, field: str = "page_token") -> str:
    """The key that `issue` was given; empty for an empty token. Raises Refused for a token of another listing."""
    if not token:
        return ""
    try:
        raw = base64.b64decode(token[:TOKEN_CHARACTERS_MAX] + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        key = raw[BINDING_BYTES:].decode()
    except (ValueError, binascii.Error):
        raw, key = b"", ""
    # A longer token was cut above and cannot be one of ours.
    if not key or len(token) > TOKEN_CHARACTERS_MAX or raw[:BINDING_BYTES] != _binding(*arguments, key):
        raise Refused(Verdict.INVALID_PAGE_TOKEN, "the token was not issued for these arguments", field=field)
    return key


def after_number(token: str, *arguments: str, field: str = "page_token") -> int:
    """As `after`, for listings by a number; 0 for an empty token."""
    key = after(token, *arguments, field=field) or "0"
    if not (key.isascii() and key.isdecimal() and len(key) <= NUMBER_CHARACTERS_MAX):
        raise Refused(Verdict.INVALID_PAGE_TOKEN, "the token was not issued for these arguments", field=field)
    return int(key)


def _binding(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=BINDING_BYTES).digest()
