"""Answers a send request with something a client must survive.

It decides neither when nor whether the message was taken (it was: see `fate.py`).

Invariant: whatever does not end by itself ends when the caller leaves, or after `ENDLESS_BYTES_MAX`.
"""

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Final

from loadtest.carrier.config import GarbageKind
from loadtest.carrier.http1 import Exchange, answer, json_answer

# 64 KiB each 5 ms is 13 MB/s: enough to fill a careless client, not the machine. 1 GiB in all.
ENDLESS_CHUNK: Final = b"10000\r\n" + b" " * 65_536 + b"\r\n"
ENDLESS_INTERVAL_S: Final = 0.005
ENDLESS_BYTES_MAX: Final = 1 << 30
DRIP_INTERVAL_S: Final = 1.0

_JSON: Final = b"content-type: application/json\r\n"


def give_garbage(exchange: Exchange, kind: GarbageKind, good: bytes) -> None:
    """Answer with garbage of this kind; `good` is the body that a well carrier would give."""
    match kind:
        case "html":
            page = b"<!doctype html><html><body><h1>200 OK</h1></body></html>"
            exchange.respond(answer(page, 200, b"content-type: text/html\r\n"))
        case "bad_json":
            exchange.respond(json_answer(good[: len(good) // 2]))
        case "no_id":
            exchange.respond(json_answer(b'{"data":{"record_type":"message","direction":"outbound"}}'))
        case "endless":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            chunks = repeat(ENDLESS_CHUNK, ENDLESS_BYTES_MAX // 65_536)
            exchange.drip(chain((head,), chunks), ENDLESS_INTERVAL_S)
        case "length_long":
            # Promises 100 bytes more than come.
            exchange.respond(_with_length(good, len(good) + 100), close=True)
        case "length_short":
            # The rest of the body stands where the next answer should begin.
            exchange.respond(_with_length(good, len(good) // 2))
        case "drip":
            exchange.drip(_single_bytes(json_answer(good)), DRIP_INTERVAL_S)
        case "bad_gzip":
            exchange.respond(answer(good, 200, _JSON + b"content-encoding: gzip\r\n"))
        case "bad_charset":
            body = good.replace(b'"outbound"', b'"\xff\xfe\xc3"', 1)
            exchange.respond(answer(body, 200, b"content-type: application/json; charset=utf-8\r\n"))


def _with_length(body: bytes, length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (_JSON, length, body)


def _single_bytes(data: bytes) -> Iterator[bytes]:
    return (data[position : position + 1] for position in range(len(data)))
