"""HTTP/2 frames as bytes, as RFC 9113 and 7541 have them, also such as no library would send.

It keeps no connection state: whoever abuses a server wants none.
"""

import base64
import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
CANCEL: Final = 8
SETTING_INITIAL_WINDOW: Final = 4
FRAME_BYTES_MAX: Final = 16_384
# What a stream's window must never be raised by.
NO_WINDOW: Final = bytes(4)
_INTEGER_MAX: Final = 127


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame; the length is the payload's."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _text(value: bytes) -> bytes:
    """A length-prefixed string without Huffman coding."""
    length = len(value)
    if length < _INTEGER_MAX:
        return bytes((length,)) + value
    out = bytearray((_INTEGER_MAX,))
    length -= _INTEGER_MAX
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + value


def fields(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A header block of literals that are never indexed, so that it means the same in every connection."""
    return b"".join(b"\x10" + _text(name) + _text(value) for name, value in pairs)


def call_fields(path: str, *, key: str = "", more: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """The header block of a gRPC call."""
    authorization = [(b"authorization", b"Bearer " + key.encode())] if key else []
    return fields(
        [
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"localhost"),
            (b"te", b"trailers"), (b"content-type", b"application/grpc"), *authorization, *more,
        ]
    )  # fmt: skip


def message(payload: bytes) -> bytes:
    """A gRPC message: uncompressed, with its length."""
    return b"\0" + struct.pack(">I", len(payload)) + payload


def opening(*, window: int | None = None) -> bytes:
    """What a client says first; `window` is what each of the server's streams may send unasked, in bytes."""
    wish = b"" if window is None else struct.pack(">HI", SETTING_INITIAL_WINDOW, window)
    return PREFACE + frame(SETTINGS, 0, 0, wish)


def reset(stream: int) -> bytes:
    """The caller changed its mind."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))


def random_signature(number: int) -> bytes:
    """Base64 of 64 bytes that sign nothing."""
    return base64.b64encode(number.to_bytes(64, "big"))
