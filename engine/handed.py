"""How what nodes hand to the owner lies in a row of its inbox: bytes in, values out.

It reads and writes no store. Invariant: rows of one version of Longwave are read by the next.
"""

import struct
from array import array
from typing import Final

_LENGTH: Final = struct.Struct(">I")
WEBHOOK_PARTS: Final = 4


def packed_webhook(parts: tuple[bytes, bytes, bytes, bytes]) -> bytes:
    """Query, signature, timestamp and body of a webhook as a payload."""
    return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))


def unpacked_webhook(payload: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """The reverse. Raises ValueError or struct.error for anything else."""
    parts, at = [], 0
    for _ in range(WEBHOOK_PARTS):
        [length] = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size + length
        parts.append(payload[at - length : at])
    query, signature, timestamp, body = parts
    return query, signature, timestamp, body


def numbers(payload: bytes) -> "array[int]":
    """Ids, or tenant, recipient and whether it is out. Raises ValueError for anything else."""
    found = array("Q")
    found.frombytes(payload)
    return found
