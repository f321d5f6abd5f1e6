"""Inputs from a seed: examples that make sense, then spoiled. The same seed gives the same inputs."""

import random
from collections.abc import Iterator
from typing import Final

from engine.registry import keys, pages
from longwave.v1 import messaging_pb2 as pb
from server.watch import cursor_of
from tests.proof.fuzz.seam import LISTING, SLOT

CANARY: Final = "canary-9f31"
INPUT_BYTES_MAX: Final = 4096


def _submission(place: int) -> pb.Submission:
    return pb.Submission(
        campaign="campaigns/a", recipient=f"+1202555{place:04d}", text=f"{CANARY} é {place}", request_id=f"r{place}",
        client_reference="x", ordering_key="k",
    )  # fmt: skip


def _post(body: bytes, query: bytes = b"m=0a&g=1") -> bytes:
    return (
        b"POST /webhooks/telnyx?" + query + b" HTTP/1.1\r\nHost: x\r\nTelnyx-Signature-Ed25519: c2ln\r\n"
        b"Telnyx-Timestamp: 1790000000\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body


KEY: Final = (b"a" * keys.PREFIX_CHARACTERS, b"b" * keys.SECRET_CHARACTERS)
BATCH: Final = pb.SubmitMessagesRequest(submissions=[_submission(place) for place in range(3)]).SerializeToString()
ONE: Final = pb.SubmitMessageRequest(submission=_submission(9)).SerializeToString()
EXAMPLES: Final[dict[str, tuple[bytes, ...]]] = {
    "admit": (b"\x01" + BATCH, b"\x00" + ONE, b"\x02" + BATCH),
    "webhook": (
        b"m=0a00&g=1&k=k1&v=00\0" + b"A" * 86 + b"==\x001790000000\0"
        b'{"data":{"event_type":"message.finalized","id":"e"}}',
    ),
    "text": ("STOP à 10€ 😀 ñ".encode() * 9, b"a" * 161, "ﾃ".encode() * 71, b"[" * 80),
    "tokens": (pages.issue("key", *LISTING).encode(), cursor_of(12345, SLOT).encode(), b"oldest"),
    "ids": (b"0a03zn1r80401", b"+12025550123", b"(202) 555-0123"),
    "config": (
        b"3=x\0GRPC_ADDRESS=127.0.0.1:0\0LEASE_S=-1\0\0in_flight_max = 7\nlog_level = 'INFO'\n",
        b"\0".join(b"%d=%s" % (place, value) for place in range(40) for value in (b"1", b"nan", b"1e400")),
        b"\0\0telnyx_api_key = 1\n[a]\nb = 2020-01-01\n", b"STORE_URL=mysql://u:p@h/d\0LOG_LEVL=INFO",
    ),
    "keys": (b"lw_t_%s_%s" % KEY, b"lw_a_%s_%s" % KEY, b"lw_t_%s" % KEY[0], b"Bearer lw_t_x_y"),
    "webhook_http": (
        b"\x1f" + _post(b"{}") * 3, b"\x07" + _post(b"x" * 99), b"\x3f" + _post(b"", b"") + b"GET / HTTP/1.1\r\n\r\n",
        b"\x3f" + _post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    ),
}  # fmt: skip


def spoil(draw: random.Random, data: bytes, others: tuple[bytes, ...]) -> bytes:
    """One to eight changes: bytes set, cut, doubled, moved, taken from elsewhere."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(out) + 1)
        kind = draw.randrange(6)
        if kind == 0 and out:
            out[at % len(out)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif kind == 1:
            del out[at : at + draw.randint(1, 16)]
        elif kind == 2:
            out[at:at] = draw.randbytes(draw.randint(1, 12))
        elif kind == 3:
            out[at:at] = out[at : at + draw.randint(1, 64)]
        elif kind == 4:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            out[at:at] = other[start : start + draw.randint(1, 64)]
        elif out:
            out[at % len(out)] ^= 1 << draw.randrange(8)
    return bytes(out[:INPUT_BYTES_MAX])


def inputs(name: str, seed: int, count: int) -> Iterator[bytes]:
    """The examples of a target, then `count` spoiled ones and some of nothing but noise."""
    draw = random.Random(f"{name} {seed}")  # noqa: S311 - it must repeat
    examples = EXAMPLES[name]
    yield b""
    yield from examples
    for number in range(count):
        if number % 10 == 0:
            yield draw.randbytes(draw.randint(1, 200))
        else:
            yield spoil(draw, draw.choice(examples), examples)
