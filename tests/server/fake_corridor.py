"""The corridor's API in memory: what the transport calls, without store, core or carrier.

It accepts every submission whose text is not `refuse`, at once or, while `held`, when a test says so.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from engine import _core
from engine.append import BATCH, STREAM, UNARY
from engine.clock import Clock
from engine.config import Settings
from engine.entry import Reply, Several
from engine.errors import NotReady, Verdict
from engine.look_up import ListQuery
from engine.metrics import Metrics
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

if TYPE_CHECKING:
    from engine.traces import Traces

CREATED_US = 1_700_000_000_000_000
SLOT = 0


@dataclass
class Waiting:
    kind: int
    tenant: int
    request: bytes
    deadline_us: int
    future: "asyncio.Future[Reply]"


class Gone(set[int]):
    """Gives up what is added."""

    def __init__(self, asked: "dict[int, asyncio.Future[Reply]]") -> None:
        super().__init__()
        self._asked = asked

    def add(self, tag: int, /) -> None:
        super().add(tag)
        self._asked[tag].cancel()


class FakeCorridor:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics("0.0.0", "memory")
        self.traces: Traces | None = None
        self.clock = Clock()
        self.store_name = "memory 1"
        self.closed: str | None = None
        self.held = False
        self.waiting: list[Waiting] = []
        self.arrived = asyncio.Semaphore(0)
        self.stored: list[pb.Submission] = []
        self.messages: dict[int, tuple[int, pb.Message]] = {}
        self.opt_outs: dict[tuple[int, int], tuple[int, int]] = {}
        self.log: list[tuple[int, int, bytes]] = []
        self.oldest = 0
        self.newest = 0
        self.moved = asyncio.Event()
        self.reads = 0
        self.queries: list[ListQuery] = []
        self.failure: Exception | None = None
        self.cancelling: asyncio.Event | None = None
        self.cancelled = asyncio.Event()

    # Submissions.

    def submit(self, kind: int, tenant: int, request: bytes, deadline_us: int) -> "asyncio.Future[Reply]":
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        waiting = Waiting(kind, tenant, request, deadline_us, future)
        if self.closed is not None:
            future.set_exception(NotReady(self.closed))
        elif self.failure is not None:
            future.set_exception(self.failure)
        elif self.held:
            self.waiting.append(waiting)
        else:
            asyncio.get_running_loop().call_soon(self._judge, waiting)
        self.arrived.release()
        return future

    def submit_several(self, several: Several) -> None:
        """As many calls of `submit`."""
        asked = {
            tag: self.submit(UNARY, several.tenant, request, deadline_us)
            for tag, request, deadline_us in zip(several.tags, several.requests, several.deadlines_us, strict=True)
        }
        several.gone = Gone(asked)

        def tell(tag: int, future: "asyncio.Future[Reply]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is not None:
                several.asker.failed([tag], error)
            else:
                several.asker.answered([tag], [future.result()])

        for tag, future in asked.items():
            future.add_done_callback(partial(tell, tag))

    def release(self, index: int = 0) -> None:
        """Judge one held call."""
        self._judge(self.waiting.pop(index))

    def _judge(self, waiting: Waiting) -> None:
        if waiting.future.done():
            return
        if waiting.deadline_us <= self.clock.mono_us():
            waiting.future.set_result(Reply(Verdict.DEADLINE_PASSED, b"", "", "late", 0))
            return
        waiting.future.set_result(self._reply(waiting))

    def _reply(self, waiting: Waiting) -> Reply:
        response: Any
        if waiting.kind == UNARY:
            submission = pb.SubmitMessageRequest.FromString(waiting.request).submission
            result = self._accept(waiting.tenant, submission)
            if result.verdict != verdict_pb2.VERDICT_ACCEPTED:
                return Reply(result.verdict, b"", "submission." + result.field, result.detail, 0)
            response = pb.SubmitMessageResponse(result=result)
        elif waiting.kind == BATCH:
            batch = pb.SubmitMessagesRequest.FromString(waiting.request)
            response = pb.SubmitMessagesResponse(results=[self._accept(waiting.tenant, s) for s in batch.submissions])
        else:
            assert waiting.kind == STREAM
            stream = pb.StreamMessagesRequest.FromString(waiting.request)
            if len(stream.submissions) > self.settings.batch_messages_max:
                return Reply(Verdict.INVALID_BATCH, b"", "submissions", "too many", 0)
            results = [self._accept(waiting.tenant, s) for s in stream.submissions]
            response = pb.StreamMessagesResponse(credit=len(results), sequence=stream.sequence, results=results)
        return Reply(Verdict.ACCEPTED, response.SerializeToString(), "", "", 0)

    def _accept(self, tenant: int, submission: pb.Submission) -> pb.SubmitResult:
        if submission.text == "refuse":
            return pb.SubmitResult(
                verdict=verdict_pb2.VERDICT_RECIPIENT_OPTED_OUT, field="recipient", detail="opted out"
            )
        self.stored.append(submission)
        identity = len(self.stored)
        name = f"messages/{_core.short_id(identity)}"
        message = pb.Message(name=name, text=submission.text, state=pb.MESSAGE_STATE_QUEUED)
        self.messages[identity] = (tenant, message)
        return pb.SubmitResult(verdict=verdict_pb2.VERDICT_ACCEPTED, message=name, segments=1)

    # Look-ups.

    async def get_message(self, tenant: int, identity: int) -> bytes | None:
        if self.failure is not None:
            raise self.failure
        if self.cancelling is not None:
            await self.cancelling.wait()
        owner, message = self.messages.get(identity, (0, pb.Message()))
        return pb.GetMessageResponse(message=message).SerializeToString() if owner == tenant else None

    async def list_messages(self, tenant: int, query: ListQuery) -> bytes:
        self.queries.append(query)
        found = [i for i, (owner, _) in self.messages.items() if owner == tenant and i < (query.before_id or 1 << 62)]
        found.sort(reverse=True)
        page = found[: query.page_size]
        token = query.token_tail(page[-1]) if len(found) > len(page) else ""
        return _core.list_response([self.messages[i][1].SerializeToString() for i in page], token)

    async def cancel_message(self, tenant: int, identity: int) -> tuple[bytes | None, bool]:
        if self.cancelling is not None:
            self.arrived.release()
            await self.cancelling.wait()
        owner, message = self.messages.get(identity, (0, pb.Message()))
        if owner != tenant:
            return None, False
        too_late = message.state != pb.MESSAGE_STATE_QUEUED
        if not too_late:
            message.state = pb.MESSAGE_STATE_CANCELLED
        self.cancelled.set()
        return message.SerializeToString(), too_late

    # Consent.

    async def add_opt_out(self, tenant: int, recipient: int) -> tuple[int, int]:
        return self.opt_outs.setdefault((tenant, recipient), (1, CREATED_US))

    async def remove_opt_out(self, tenant: int, recipient: int) -> bool:
        return self.opt_outs.pop((tenant, recipient), None) is not None

    async def list_opt_outs(self, tenant: int, after: int, rows_max: int) -> list[tuple[int, int, int]]:
        rows = [(number, *row) for (owner, number), row in self.opt_outs.items() if owner == tenant and number > after]
        return sorted(rows)[:rows_max]

    # Events.

    def commit(self, tenant: int, *events: pb.Event) -> int:
        """Append a row; returns its position."""
        self.newest += 1
        self.oldest = self.oldest or 1
        self.log.append((self.newest, tenant, pb.WatchEventsResponse(events=events).SerializeToString()))
        self.moved.set()
        self.moved = asyncio.Event()
        return self.newest

    def forget(self, before: int) -> None:
        """Drop the rows before a position."""
        self.log = [row for row in self.log if row[0] >= before]
        self.oldest = before

    async def read_events(self, tenant: int, after_position: int, rows_max: int) -> tuple[list[bytes], int]:
        self.reads += 1
        newest = self.newest
        rows = [(p, row) for p, owner, row in self.log if owner == tenant and p > after_position][:rows_max]
        reached = rows[-1][0] if len(rows) == rows_max else max(newest, after_position)
        return [row for _, row in rows], reached

    def event_slot(self, tenant: int) -> int:
        del tenant
        return SLOT

    async def event_bounds(self, tenant: int) -> tuple[int, int]:
        del tenant
        return self.oldest, self.newest

    async def wait_for_events(self, tenant: int, after_position: int, wait_s: float) -> None:
        del tenant
        moved = self.moved
        if self.newest > after_position:
            return
        try:
            async with asyncio.timeout(wait_s):
                await moved.wait()
        except TimeoutError:
            return
