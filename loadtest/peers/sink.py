"""The HTTP sink that all systems deliver to: `python -m loadtest.peers.sink`, a process of its own.

It counts how often each message came, known by the number in its text (`submissions.text`), which stands in a body as
well as in a query. It takes every message, at once, after a delay, or holds its answer; it sends no receipt.

Below `/control`: `counts`, `seen` (a byte a message: how often it came), `reset`, `delay?ms=`, `hold?on=`.
"""

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

import uvloop

from loadtest.carrier.http1 import Connection, Exchange, answer, json_answer

HOST: Final = "127.0.0.1"
BODY_BYTES_MAX: Final = 65_536
# A byte each; a text has eight digits, so the number cannot lead further than the array by much, and is checked.
MESSAGES_MAX: Final = 2_000_000
COPIES_MAX: Final = 255
CONTROL: Final = b"/control/"
_ORDER: Final = re.compile(rb"Order(?: |\+|%20)(\d{8})")
_TEXT: Final = b"content-type: text/plain\r\n"
_TELNYX: Final = (
    b'{"data":{"record_type":"message","id":"00000000-0000-4000-8000-%012d","to":[{"status":"queued"}],"parts":1}}'
)
_NOT_FOUND: Final = answer(b"", 404)


@dataclass(slots=True)
class Counts:
    """What came since the last reset."""

    messages: int = 0
    """Different ones."""
    again: int = 0
    """Arrivals of a message that had come before."""
    last_s: float = 0.0
    """When the last new one came, on the machine's monotonic clock."""


def telnyx_answer(place: int) -> bytes:
    """What Telnyx says when it took a message, as far as a client reads it."""
    return json_answer(_TELNYX % place)


def kannel_answer(_place: int) -> bytes:
    """What one Kannel says to another (`system-type = kannel`)."""
    return answer(b"0: Accepted for delivery", 202, _TEXT)


def plain_answer(_place: int) -> bytes:
    """OK."""
    return answer(b"OK", 200, _TEXT)


# By the beginning of the path; each system has its own, since each understands another answer.
ANSWERS: Final[dict[bytes, Callable[[int], bytes]]] = {
    b"/v2/messages": telnyx_answer,
    b"/kannel": kannel_answer,
    b"/plain": plain_answer,
}


class Sink:
    """What came, and how the next is answered."""

    def __init__(self) -> None:
        """Nothing came; everything is answered at once."""
        self.counts = Counts()
        self._seen = bytearray(MESSAGES_MAX)
        self._delay_s = 0.0
        self._held: list[tuple[Exchange, bytes]] | None = None

    def handle(self, exchange: Exchange) -> None:
        """Take one request."""
        if exchange.path.startswith(CONTROL):
            self._control(exchange)
            return
        found = _ORDER.search(exchange.body or exchange.path)
        rendered = next((of for path, of in ANSWERS.items() if exchange.path.startswith(path)), None)
        if found is None or rendered is None or (place := int(found[1])) >= MESSAGES_MAX:
            exchange.respond(_NOT_FOUND)  # a look-up of a message, which the sink does not keep
            return
        self._count(place)
        if self._held is not None:
            self._held.append((exchange, rendered(place)))
        elif self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, exchange.respond, rendered(place))
        else:
            exchange.respond(rendered(place))

    def _count(self, place: int) -> None:
        seen = self._seen[place]
        self._seen[place] = min(seen + 1, COPIES_MAX)
        if seen:
            self.counts.again += 1
        else:
            self.counts.messages += 1
            self.counts.last_s = time.monotonic()

    def _control(self, exchange: Exchange) -> None:
        target = urlsplit(exchange.path.decode("latin-1"))
        options = {name: values[0] for name, values in parse_qs(target.query).items()}
        command = target.path.removeprefix(CONTROL.decode())
        if command == "seen":
            exchange.respond(answer(bytes(self._seen), 200))
            return
        if command == "reset":
            self.counts, self._seen = Counts(), bytearray(MESSAGES_MAX)
        elif command == "delay":
            self._delay_s = float(options["ms"]) / 1e3
        elif command == "hold":
            self._hold(on=options["on"] == "1")
        elif command != "counts":
            exchange.respond(_NOT_FOUND)
            return
        exchange.respond(json_answer(json.dumps(asdict(self.counts)).encode()))

    def _hold(self, *, on: bool) -> None:
        if on:
            self._held = self._held or []
            return
        held, self._held = self._held or [], None
        for exchange, rendered in held:
            exchange.respond(rendered)


async def serve() -> None:
    """Listen, say where, and go on until SIGTERM."""
    sink, connections, ended = Sink(), set[Connection](), asyncio.Event()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(sink.handle, connections, BODY_BYTES_MAX), HOST, 0, backlog=4_096
    )
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await ended.wait()
    server.close()
    for connection in list(connections):
        connection.abort()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
