"""A provider in the test's own loop that answers each request as the test says, and can hold answers back.

It remembers no message and sends no receipts; look-ups are answered by a function of their own.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from typing_extensions import override

from tests.corridor.answering_server import AnsweringServer
from tests.corridor.engine_fixture import WAIT_S


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gets: a whole answer, a cut connection, or nothing until `ScriptedProvider.release`."""

    status: int = 200
    body: str = ""
    headers: str = ""
    then: Literal["answer", "reset", "hold"] = "answer"


THROTTLED: Final = Answer(429, json.dumps({"errors": [{"code": "10011"}]}))
RESET: Final = Answer(then="reset")
HOLD: Final = Answer(then="hold")
NOT_FOUND: Final = Answer(404, "{}")


@dataclass
class ScriptedProvider(AnsweringServer):
    """What it got, and what it says."""

    post: Callable[[int], Answer | None] = lambda _number: None
    """The answer to the n-th message, from 1; None takes it. What is held back is taken when it is released."""
    get: Callable[[int], Answer] = lambda _number: NOT_FOUND
    """The answer to the n-th look-up."""
    posts: int = 0
    gets: int = 0
    holding: int = 0
    """Requests that wait for `release`."""
    bodies: list[bytes] = field(default_factory=list)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    @override
    def url(self) -> str:
        """As LONGWAVE_TELNYX_BASE_URL takes it."""
        return f"{super().url}/v2"

    def release(self) -> None:
        """Answer what is held back, and hold nothing back from now on."""
        self._released.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that only a request can make true."""
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self._moved.clear()
                await self._moved.wait()

    @override
    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
        length = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
        body = await reader.readexactly(length)
        answer = self._answer(head, body)
        self._moved.set()
        if answer.then == "reset":
            return False
        if answer.then == "hold":
            self.holding += 1
            try:
                await self._released.wait()
            finally:
                self.holding -= 1
            answer = taken(self.posts)
        encoded = answer.body.encode()
        top = f"HTTP/1.1 {answer.status} X\r\ncontent-type: application/json\r\n{answer.headers}"
        writer.write(f"{top}content-length: {len(encoded)}\r\n\r\n".encode() + encoded)
        await writer.drain()
        return True

    def _answer(self, head: bytes, body: bytes) -> Answer:
        if not head.startswith(b"POST "):
            self.gets += 1
            return self.get(self.gets)
        self.posts += 1
        self.bodies.append(body)
        return self.post(self.posts) or taken(self.posts)


def taken(number: int) -> Answer:
    """It has the message."""
    return Answer(200, json.dumps({"data": {"id": f"made-up-{number}"}}))
