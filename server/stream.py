"""StreamMessages: batches in as long as there is credit, answers out in the order of their requests.

It reads no submission; it only counts them, as its credit counts messages.

Invariants: the messages of requests taken and not answered never exceed the credit given, their bytes never much more
than two requests; a request that exceeds the credit is not handed on, and those before it are answered first; whatever
ends the stream, what was taken up is committed or not as if the stream still stood.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from engine.append import STREAM
from engine.corridor import Corridor
from engine.entry import Reply
from engine.errors import NotReady, Refused, Verdict
from longwave.v1 import messaging_pb2
from server.gate import UNARY_S_MAX, US, Call, Context, current_call, seconds_left, see

NAME: Final = "StreamMessages"
# A request being judged while the next one is on its way.
REQUESTS_HELD: Final = 2


def _envelope() -> Any:
    """StreamMessagesRequest with its submissions left as bytes: the same bytes on the wire, and nothing in them read.

    So one submission that cannot be decoded spoils itself only, and counting costs a few nanoseconds a message.
    """
    field = descriptor_pb2.FieldDescriptorProto(
        name="submissions",
        number=messaging_pb2.StreamMessagesRequest.SUBMISSIONS_FIELD_NUMBER,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    file = descriptor_pb2.FileDescriptorProto(name="longwave/stream_envelope.proto", syntax="proto3")
    file.message_type.add(name="StreamEnvelope").field.append(field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("StreamEnvelope"))


_Envelope: Final = _envelope()


def messages_in(request: bytes) -> int:
    """How many submissions a StreamMessagesRequest holds. Raises Refused UNDECODABLE."""
    try:
        return len(_Envelope.FromString(request).submissions)
    except DecodeError:
        raise Refused(Verdict.UNDECODABLE, "the bytes are not a request of this method") from None


class Streams:
    """All open streams of this server."""

    def __init__(
        self,
        corridor: Corridor,
        *,
        credit_messages: int,
        request_bytes_max: int,
        check_bytes: Callable[[str, bytes], None],
    ) -> None:
        """Each stream may have `credit_messages` in flight; `check_bytes` raises for a request that is too large."""
        self._corridor = corridor
        self._credit_messages = credit_messages
        self._held_bytes_max = REQUESTS_HELD * request_bytes_max
        self._check_bytes = check_bytes
        self._open: set[_Stream] = set()
        self._drained: Refused | None = None

    async def serve(self, _requests: object, context: Context) -> None:
        """Serve one stream to its end."""
        if self._drained is not None:
            raise self._drained
        stream = _Stream(
            self._corridor, current_call(), context, self._credit_messages, self._held_bytes_max, self._check_bytes
        )
        self._open.add(stream)
        try:
            await stream.run()
        finally:
            self._open.discard(stream)

    def drain(self) -> None:
        """Take no more requests: each stream answers what is in, then ends with NOT_READY."""
        self._drained = NotReady("the server drains; what was not answered was not taken up")
        for stream in tuple(self._open):
            stream.end(self._drained)


@dataclass(slots=True)
class _Taken:
    reply: asyncio.Future[Reply]
    messages: int
    request_bytes: int


class _Stream:
    """One stream: a task that reads, and the caller's task, which answers."""

    def __init__(
        self,
        corridor: Corridor,
        call: Call,
        context: Context,
        credit_messages: int,
        held_bytes_max: int,
        check_bytes: Callable[[str, bytes], None],
    ) -> None:
        self._corridor = corridor
        self._clock = corridor.clock
        self._call = call
        self._context = context
        self._credit_messages = credit_messages  # what the client may still send; both tasks
        self._held_bytes = 0  # of requests not answered; both tasks
        self._held_bytes_max = held_bytes_max
        self._check_bytes = check_bytes
        self._room = asyncio.Event()
        # Bounded by the credit: every request holds at least one message, or ends the stream.
        self._taken: asyncio.Queue[_Taken | Exception | None] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Grant, then answer until the client half-closes. Raises what ends the stream otherwise."""
        grant = messaging_pb2.StreamMessagesResponse(credit=self._credit_messages)
        self._reading = asyncio.get_running_loop().create_task(self._read())
        try:
            await self._context.write(grant.SerializeToString())
            while (taken := await self._taken.get()) is not None:
                if isinstance(taken, Exception):
                    raise taken
                await self._answer(taken)
        finally:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            while not self._taken.empty():
                left = self._taken.get_nowait()
                if isinstance(left, _Taken):
                    # Not taken up yet: it never will be. Taken up: committed all the same.
                    left.reply.cancel()

    def end(self, refused: Refused) -> None:
        """Answer what is in, then end with this refusal."""
        if self._reading is not None:
            self._reading.cancel()
        self._taken.put_nowait(refused)

    async def _read(self) -> None:
        try:
            while (request := await self._context.read()) is not grpc.aio.EOF:
                self._take(request)
                while self._held_bytes >= self._held_bytes_max:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:  # noqa: BLE001 - raised by the answering task, in its turn
            self._taken.put_nowait(error)
        else:
            self._taken.put_nowait(None)

    def _take(self, request: bytes) -> None:
        self._check_bytes(NAME, request)
        messages = messages_in(request)
        if not messages:
            raise Refused(Verdict.INVALID_BATCH, "the request holds no submission", field="submissions")
        if messages > self._credit_messages:
            raise Refused(
                Verdict.CREDIT_EXCEEDED,
                f"{messages} messages came with a credit of {self._credit_messages}; none of them was stored",
            )
        self._credit_messages -= messages
        self._held_bytes += len(request)
        deadline_us = min(self._clock.mono_us() + int(UNARY_S_MAX * US), self._stream_ends_us())
        reply = self._corridor.submit(STREAM, self._call.tenant, request, deadline_us)
        reply.add_done_callback(see)
        self._taken.put_nowait(_Taken(reply, messages, len(request)))

    def _stream_ends_us(self) -> int:
        left_s = seconds_left(self._context)
        return self._clock.mono_us() + int((UNARY_S_MAX if left_s is None else left_s) * US)

    async def _answer(self, taken: _Taken) -> None:
        reply = await taken.reply
        if reply.verdict != Verdict.ACCEPTED:
            raise Refused(Verdict(reply.verdict), reply.detail, field=reply.field, retry_delay_us=reply.retry_delay_us)
        # Before the answer leaves, which carries the credit back: a quick client must not find it missing.
        self._credit_messages += taken.messages
        self._held_bytes -= taken.request_bytes
        self._room.set()
        await self._context.write(reply.response)
