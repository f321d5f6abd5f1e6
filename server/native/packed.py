"""A request that came compressed; it is unpacked only when its caller may be served.

Unpacking runs on a thread, lets go of the interpreter, and stops at the bytes that a message may have.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Final

import grpc

if TYPE_CHECKING:
    from server.native.call import NativeCall

# How zlib is told the form: with gzip's head, or with zlib's own, which HTTP calls deflate.
FORMS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Packed:
    """One request as it came."""

    __slots__ = ("_bytes_max", "_call", "_data", "_encoding")

    def __init__(self, call: NativeCall, data: bytes, encoding: str, bytes_max: int) -> None:
        """Of this call, in an encoding that may be unknown."""
        self._call = call
        self._data = data
        self._encoding = encoding
        self._bytes_max = bytes_max

    async def unpacked(self) -> bytes:
        """The request. Ends the call, as grpcio does, where there is none."""
        if self._encoding in {"", "identity"}:
            detail = "the request is said to be compressed, and not how"
            await self._call.abort(grpc.StatusCode.INTERNAL, detail)
        form = FORMS.get(self._encoding)
        if form is None:
            detail = f"Compression algorithm '{self._encoding}' not supported"
            await self._call.abort(grpc.StatusCode.UNIMPLEMENTED, detail)
        data = await asyncio.to_thread(_unpack, self._data, form or 0, self._bytes_max)
        if data is None:
            await self._call.abort(grpc.StatusCode.INTERNAL, "Decompression failed")
        if len(data or b"") > self._bytes_max:
            detail = f"Decompressed message larger than max (above {self._bytes_max})"
            await self._call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, detail)
        return data or b""


def _unpack(data: bytes, form: int, bytes_max: int) -> bytes | None:
    """At most one byte more than may be; None for what is no such data, or not all of it."""
    unpacker = zlib.decompressobj(form)
    try:
        unpacked = unpacker.decompress(data, bytes_max + 1)
    except zlib.error:
        return None
    return unpacked if unpacker.eof or len(unpacked) > bytes_max else None
