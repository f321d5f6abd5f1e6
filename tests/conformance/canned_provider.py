"""An HTTP server that keeps every request to the byte and answers each recipient as a script says.

It speaks no provider's language: the caller gives whole answers and says how to find the recipient in a body.

Invariants: a recipient's answers are used in order, the last one again and again; what is not scripted gets
`default`; what is no POST is not found.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from typing_extensions import override

from tests.corridor.answering_server import AnsweringServer


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of one exchange: `raw` bytes go out, then the connection is kept, closed, reset or left silent."""

    raw: bytes
    then: Literal["keep", "close", "reset", "silence"] = "keep"

    @classmethod
    def of(cls, status: int, body: bytes = b"", headers: bytes = b"") -> Self:
        """A whole HTTP answer; `headers` are lines, each with its CRLF."""
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
        return cls(head % (status, headers, len(body)) + body)


NOT_FOUND: Final = Answer.of(404)


@dataclass(frozen=True, slots=True)
class Got:
    """One request as it came."""

    head: bytes
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}

    @property
    def request_line(self) -> str:
        """The first line."""
        return self.head.decode("latin-1").partition("\r\n")[0]


@dataclass
class CannedProvider(AnsweringServer):
    """What it got, and what it says."""

    recipient_of: Callable[[bytes], str]
    default: Answer
    scripts: dict[str, list[Answer]] = field(default_factory=dict)
    got: dict[str, list[Got]] = field(default_factory=dict)
    silent: int = 0
    """Exchanges that were left without an answer and are still open."""

    @override
    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        request = Got(head, b"")
        body = await reader.readexactly(int(request.headers.get("content-length", "0")))
        if not head.startswith(b"POST "):
            writer.write(NOT_FOUND.raw)  # a look-up: this provider remembers nothing
            return True
        to = self.recipient_of(body)
        self.got.setdefault(to, []).append(Got(head, body))
        script = self.scripts.get(to, [])
        answer = (script.pop(0) if len(script) > 1 else script[0]) if script else self.default
        writer.write(answer.raw)
        await writer.drain()
        if answer.then == "keep":
            return True
        if answer.then == "silence":
            self.silent += 1
            try:
                await reader.read(1)
            finally:
                self.silent -= 1
        elif answer.then == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            writer.write_eof()
            await reader.read(1)
        return False
