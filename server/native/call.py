"""One call of the native edge: what a handler is given as its context, and the handler's run.

It does what the gate, the services and the libraries ask of `grpc.aio.ServicerContext`, and no more of it.

Invariants: a call ends once, whoever ends it; what was looked at before a wait is not taken to hold after it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from server.native.packed import Packed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from server.auth import Metadata
    from server.native.connection import NativeConnection

_log = structlog.get_logger("longwave.grpc")

US: Final = 1_000_000


class Details(NamedTuple):
    """What a handler is looked up by; as gRPC's own `HandlerCallDetails`."""

    method: str
    invocation_metadata: Metadata


class NativeCall:
    """The context of one call; used by the loop's thread only."""

    def __init__(
        self,
        connection: NativeConnection,
        stream: int,
        details: Details,
        deadline_us: int | None,
        message_bytes_max: int,
    ) -> None:
        """`deadline_us` is the client's, on the boot clock."""
        self._connection = connection
        self._stream = stream
        self._details = details
        self._deadline_us = deadline_us
        self._message_bytes_max = message_bytes_max
        self._inbox: deque[bytes | Packed] = deque()
        self._half_closed = False
        self._came: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._full = False
        self._ended = False
        self._code: grpc.StatusCode | None = None
        self._parse: Callable[[bytes], Any] | None = None
        self._render: Callable[[Any], bytes] | None = None

    # What handlers ask.

    def peer(self) -> str:
        """As gRPC writes it."""
        return self._connection.peer

    def invocation_metadata(self) -> Metadata:
        """What the client sent beside its request."""
        return self._details.invocation_metadata

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None without one."""
        if self._deadline_us is None:
            return None
        return max(0.0, (self._deadline_us - self._connection.now_us()) / US)

    def code(self) -> grpc.StatusCode | None:
        """What the call was ended with."""
        return self._code

    async def read(self) -> Any:
        """The next request; `grpc.aio.EOF` behind the last."""
        while not self._inbox:
            if self._half_closed:
                return grpc.aio.EOF
            self._came = self._connection.loop.create_future()
            await self._came
        request = self._inbox.popleft()
        self._connection.took(self._stream)
        data = await request.unpacked() if isinstance(request, Packed) else request
        return data if self._parse is None else self._parse(data)

    async def write(self, answer: Any) -> None:
        """Send one more answer; returns when all of it is within the client's windows."""
        while self._full:
            await self._has_room()
        if not self._ended:
            self._full = self._connection.send(self._stream, self._rendered(answer))
            while self._full:
                await self._has_room()

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the call so. Never returns."""
        self.end(code, details, trailing_metadata)
        raise grpc.aio.AbortError(details)

    # What the connection tells.

    def request(self, data: bytes, encoding: str | None) -> bytes | Packed:
        """A request as it came."""
        return data if encoding is None else Packed(self, data, encoding, self._message_bytes_max)

    def came(self, request: bytes | Packed) -> None:
        """One more request."""
        self._inbox.append(request)
        self._wake(self._came)

    def half_closed(self) -> None:
        """The last request has come."""
        self._half_closed = True
        self._wake(self._came)

    def has_room(self) -> None:
        """What was sent has left."""
        self._full = False
        self._wake(self._room)

    def gone(self) -> None:
        """Nobody waits for an answer."""
        self._ended = True

    # Its run.

    async def serve(self, handler: grpc.RpcMethodHandler[Any, Any], request: bytes | Packed | None) -> None:
        """Run the method to the call's end. Cancelled when the client is gone."""
        try:
            await self._run(handler, request)
        except grpc.aio.AbortError:
            return
        except asyncio.CancelledError:
            self.end(grpc.StatusCode.CANCELLED)  # by the method itself; a client that is gone is told nothing
            raise
        except Exception as error:  # noqa: BLE001 - methods behind the gate answer theirs; the libraries' are left
            _log.error("handler failed", stage="call", method=self._details.method, error=type(error).__qualname__)
            self.end(grpc.StatusCode.UNKNOWN, "a bug")
        finally:
            del handler, request  # an error holds this frame, and would hold the call

    async def _run(self, handler: Any, request: bytes | Packed | None) -> None:
        self._parse, self._render = handler.request_deserializer, handler.response_serializer
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        asked: Any = self._requests()
        if not handler.request_streaming:
            asked = await self.read() if request is None else await self._parsed(request)
        answered = behaviour(asked, self)
        if inspect.isasyncgen(answered):
            async for answer in answered:
                await self.write(answer)
        else:
            response = await answered
            if not handler.response_streaming:
                self._finish(response)
                return
        self.end(grpc.StatusCode.OK)

    async def _parsed(self, request: bytes | Packed) -> Any:
        if self._parse is None:
            return request  # the gate's, which unpacks what it lets in
        data = await request.unpacked() if isinstance(request, Packed) else request
        try:
            return self._parse(data)
        except DecodeError:
            await self.abort(grpc.StatusCode.INTERNAL, "the bytes are not a request of this method")

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    def _rendered(self, answer: Any) -> bytes:
        return bytes(answer) if self._render is None else self._render(answer)

    def _finish(self, response: Any) -> None:
        if not self._ended:
            self._ended = True
            self._code = grpc.StatusCode.OK
            self._connection.finish(self._stream, self._rendered(response))

    def end(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """End the call, unless it has ended."""
        if not self._ended:
            self._ended = True
            self._code = code
            self._connection.end(self._stream, code, details, trailing_metadata)

    async def _has_room(self) -> None:
        # Nothing runs between the look at `_full` and the wait: what opens a window is told in a turn of its own.
        self._room = self._connection.loop.create_future()
        await self._room

    @staticmethod
    def _wake(waiting: asyncio.Future[None] | None) -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
