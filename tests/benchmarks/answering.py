"""A server that answers by a message's class, for the tests of the open-loop driver."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

CREDIT = 40


class Answers(grpc.GenericRpcHandler):
    """CRITICAL is stored, TRANSACTIONAL refused whole, of BULK every second message refused."""

    def __init__(self) -> None:
        self.calls = 0
        self.streams = 0
        self.credit_exceeded = False
        self.slow_s = 0.0
        """Before each answer on a stream."""
        self.stream_requests_max = 1_000_000
        """After so many a stream ends."""

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        if details.method == contract.STREAM_MESSAGES.path:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(
            self._single if details.method == contract.SUBMIT_MESSAGE.path else self._batch
        )

    async def _single(self, request: bytes, context: Any) -> bytes:
        submission = pb.SubmitMessageRequest.FromString(request).submission
        [result] = await self._judged([submission], context)
        return pb.SubmitMessageResponse(result=result).SerializeToString()

    async def _batch(self, request: bytes, context: Any) -> bytes:
        submissions = pb.SubmitMessagesRequest.FromString(request).submissions
        return pb.SubmitMessagesResponse(results=await self._judged(submissions, context)).SerializeToString()

    async def _judged(self, submissions: Any, context: Any) -> list[pb.SubmitResult]:
        self.calls += 1
        if submissions[0].message_class == pb.MESSAGE_CLASS_TRANSACTIONAL:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
        return results(submissions)

    async def _stream(self, requests: Any, _context: Any) -> AsyncIterator[bytes]:
        self.streams += 1
        credit, taken = CREDIT, 0
        yield pb.StreamMessagesResponse(credit=credit).SerializeToString()
        async for frame in requests:
            request = pb.StreamMessagesRequest.FromString(frame)
            self.calls += 1
            credit -= len(request.submissions)
            self.credit_exceeded |= credit < 0
            taken += 1
            if taken > self.stream_requests_max:
                return
            await asyncio.sleep(self.slow_s)
            credit += len(request.submissions)
            yield pb.StreamMessagesResponse(
                credit=len(request.submissions), sequence=request.sequence, results=results(request.submissions)
            ).SerializeToString()


def results(submissions: Any) -> list[pb.SubmitResult]:
    every = 2 if submissions[0].message_class == pb.MESSAGE_CLASS_BULK else 1
    return [
        pb.SubmitResult(verdict=verdict_pb2.VERDICT_ACCEPTED if place % every == 0 else verdict_pb2.VERDICT_OVERLOADED)
        for place in range(len(submissions))
    ]


@contextlib.asynccontextmanager
async def answering() -> AsyncIterator[tuple[str, Answers]]:
    """The address of a server, and what it does."""
    answers, server = Answers(), grpc.aio.server()
    server.add_generic_rpc_handlers((answers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", answers
    finally:
        await server.stop(0)
