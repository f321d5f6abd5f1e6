"""Sessions no client would have, from a seed, against the live ports of an engine: HTTP/2 frames and HTTP/1.1 bytes."""

import asyncio
import contextlib
import random
import struct
from typing import Final

from tests.proof.abuse import wire
from tests.proof.fuzz.inputs import BATCH, CANARY, EXAMPLES, ONE, spoil

HOST: Final = "127.0.0.1"
READ_S: Final = 0.02
SERVICE: Final = "/longwave.v1.MessagingService/"
METHODS: Final = ("SubmitMessage", "SubmitMessages", "StreamMessages", "GetMessage", "ListMessages", "CancelMessage",
                  "WatchEvents", "Nothing", "")  # fmt: skip
# fmt: off
MORE: Final[tuple[list[tuple[bytes, bytes]], ...]] = (
    [], [(b"grpc-timeout", b"1n")], [(b"grpc-timeout", b"99999999H")], [(b"grpc-timeout", b"-1S")],
    [(b"grpc-timeout", b"")], [(b"grpc-encoding", b"gzip")], [(b"content-type", b"text/html")], [(b"Upper", b"Case")],
    [(b"x-bin", b"!!")], [(b":path", b"/twice")], [(CANARY.encode(), CANARY.encode())], [(b"a" * 300, b"\0\n\xff")],
)
# fmt: on
SPOILED_MAX: Final = 60_000


def _headers(draw: random.Random, key: str) -> bytes:
    path = draw.choice((SERVICE + draw.choice(METHODS), "/", "*", "//", "/grpc.health.v1.Health/Check", CANARY))
    block = wire.call_fields(path, key=draw.choice((key, "", key[:-1], CANARY)))
    if draw.random() < 0.1:
        block = block.replace(b"/long", b"/\xff\xfen")
    more = draw.choice(MORE)
    block += wire.fields(more)
    return spoil(draw, block, (block,)) if draw.random() < 0.3 else block


def _data(draw: random.Random) -> bytes:
    payload = draw.choice((ONE, BATCH, b""))
    if draw.random() < 0.5:
        payload = spoil(draw, payload, (ONE, BATCH))
    length = draw.choice((len(payload), len(payload) + 1, 0, 0xFFFF_FFFF, 1 << 24))
    return bytes((draw.choice((0, 0, 1, 7)),)) + struct.pack(">I", length) + payload


def session(seed: int, key: str) -> bytes:
    """What one connection says."""
    draw = random.Random(seed)  # noqa: S311 - it must repeat
    out = wire.opening(window=draw.choice((None, 0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF)))
    if draw.random() < 0.1:
        out = spoil(draw, out, (b"GET / HTTP/1.1\r\n\r\n",))
    for _ in range(draw.randint(1, 30)):
        stream = draw.choice((1, 3, 5, 7, 9, 0, 2, 0x7FFF_FFFF))
        kind = draw.randrange(11)
        if kind <= 3:
            flags = draw.choice((wire.END_HEADERS, wire.END_HEADERS, wire.END_HEADERS | wire.END_STREAM, 0, 0xFF))
            out += wire.frame(wire.HEADERS, flags, stream, _headers(draw, key))
        elif kind <= 6:
            out += wire.frame(wire.DATA, draw.choice((0, wire.END_STREAM, 0x8)), stream, _data(draw)[:SPOILED_MAX])
        elif kind == 7:
            out += wire.frame(
                wire.SETTINGS, draw.choice((0, 1)), draw.choice((0, 1)), draw.randbytes(draw.randint(0, 18))
            )
        elif kind == 8:
            out += wire.frame(wire.WINDOW_UPDATE, 0, stream, struct.pack(">I", draw.choice((0, 1, 0x7FFF_FFFF))))
        elif kind == 9:
            out += wire.reset(stream)
        else:
            whole = wire.frame(draw.randrange(256), draw.randrange(256), stream, draw.randbytes(draw.randint(0, 40)))
            out += spoil(draw, whole, (whole,))
    return out[: draw.randint(1, len(out))] if draw.random() < 0.2 else out


def webhook_session(seed: int) -> bytes:
    """What one connection of the receipts edge says."""
    draw = random.Random(seed)  # noqa: S311 - it must repeat
    examples = tuple(example[1:] for example in EXAMPLES["webhook_http"])
    return spoil(draw, draw.choice(examples), (*examples, CANARY.encode()))


async def say(port: int, data: bytes) -> int:
    """Say it to a port; how many bytes came back."""
    reader, writer = await asyncio.open_connection(HOST, port)
    read = 0
    try:
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(READ_S):
                while piece := await reader.read(1 << 16):
                    read += len(piece)
    finally:
        writer.close()
    return read
