"""SubmitMessage of calls that came together: let in by one look, judged in one group, answered in one call of the core.

What is not the rule (a key not seen before, a refusal at the gate, a compressed request) goes a call's own way, through
the gate's handler; so there is one place that says why something is refused.

Invariants: each call is answered once, or told as gone; what the gate counts of them is what it counts of single ones.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import grpc

from engine.entry import Several
from engine.errors import Refused, StoreUnavailable, Verdict
from server.gate import address_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.corridor import Corridor
    from server.auth import Metadata
    from server.call_spans import CallSpan
    from server.gate import Gate, Refusal
    from server.native.connection import NativeConnection

GONE: Final = grpc.StatusCode.CANCELLED.name
OK: Final = grpc.StatusCode.OK.name


class Submits:
    """The way in for all connections of an edge."""

    def __init__(self, gate: Gate, corridor: Corridor, path: str) -> None:
        """`path` is that of SubmitMessage."""
        self.gate = gate
        self.corridor = corridor
        self.path = path
        self.counted = corridor.metrics.calls_of(path)
        self.record = self.counted.record

    def begin(
        self,
        connection: NativeConnection,
        metadata: Metadata,
        streams: list[int],
        requests: list[bytes],
        deadlines_us: list[int],
    ) -> bool:
        """Hand them in; False when each is to go its own way."""
        principal = self.gate.let_in(len(streams), max(map(len, requests)), metadata)
        if principal is None:
            return False
        together = Together(self, connection, principal.prefix, streams, self._spans_of(streams))
        several = Several(principal.tenant or 0, streams, requests, deadlines_us, together)
        together.several = several
        connection.begun(together)
        self.corridor.submit_several(several)
        return True

    def _spans_of(self, streams: list[int]) -> dict[int, CallSpan]:
        """Of those that are traced; none of them brings its caller's (`EdgeRules`)."""
        spans = self.gate.spans
        if spans is None:
            return {}
        begun = ((stream, spans.begin(self.path, None)) for stream in streams)
        return {stream: span for stream, span in begun if span is not None}


class Together:
    """Some calls of one connection; used by the loop's thread only."""

    several: Several

    def __init__(
        self,
        submits: Submits,
        connection: NativeConnection,
        prefix: str,
        streams: list[int],
        spans: dict[int, CallSpan],
    ) -> None:
        """Let in already; `prefix` names their key."""
        self._submits = submits
        self._connection = connection
        self._prefix = prefix
        self._open = set(streams)
        self._spans = spans
        self._began_s = perf_counter()

    def has(self, stream: int) -> bool:
        """Whether this call is one of them, and not answered."""
        return stream in self._open

    # What becomes of them.

    def answered(self, tags: Sequence[int], replies: Sequence[tuple[int, bytes, str, str, int]]) -> None:
        """See `engine.entry.Asker`."""
        if not self._open.issuperset(tags):
            left = [(tag, reply) for tag, reply in zip(tags, replies, strict=True) if tag in self._open]
            tags, replies = [tag for tag, _ in left], [reply for _, reply in left]
        refused = self._connection.answer(tags, replies)
        for place in refused:
            verdict, _, field, detail, retry_delay_us = replies[place]
            self._refuse(tags[place], Refused(Verdict(verdict), detail, field=field, retry_delay_us=retry_delay_us))
        self._open.difference_update(tags)
        if self._spans:
            for tag, reply in zip(tags, replies, strict=True):
                if reply[1]:  # accepted: bytes are empty when refused
                    self._end_span(tag, OK, reply[1])
        self._count(OK, len(tags) - len(refused))

    def failed(self, tags: Sequence[int], error: BaseException) -> None:
        """See `engine.entry.Asker`."""
        for tag in tags:
            if tag in self._open:
                self._refuse(tag, error if isinstance(error, Exception) else StoreUnavailable())
        self._count(OK, 0)

    def gone(self, stream: int) -> None:
        """Nobody waits for this call's answer."""
        self._open.discard(stream)
        self.several.give_up(stream)
        self._submits.gate.left(1, given_up=True)
        self._submits.record(GONE, perf_counter() - self._began_s)
        self._end_span(stream, GONE)
        self._forget_if_done()

    def all_gone(self) -> None:
        """The connection has ended."""
        for stream in tuple(self._open):
            self.gone(stream)

    def too_long(self, stream: int) -> None:
        """This call took as long as the server lets one take: nobody knows whether it is stored."""
        self.several.give_up(stream)
        self._refuse(stream, StoreUnavailable())
        self._forget_if_done()

    def _count(self, code: str, calls: int) -> None:
        if calls:
            self._submits.gate.left(calls)
            self._submits.record(code, perf_counter() - self._began_s, calls)
        self._forget_if_done()

    def _refuse(self, stream: int, error: Exception) -> None:
        self._open.discard(stream)
        address = partial(address_of, self._connection.peer)
        refusal = self._submits.gate.refusal(error, self._submits.path, address, lambda: self._prefix)
        if refusal.wait_s > 0:
            self._connection.run(stream, self._refuse_late(stream, refusal))
        else:
            self._end(stream, refusal, perf_counter())

    async def _refuse_late(self, stream: int, refusal: Refusal) -> None:
        refused_s, ended = perf_counter(), False
        try:
            await self._submits.gate.hold(refusal.wait_s)
            self._end(stream, refusal, refused_s)
            ended = True
        finally:
            if not ended:
                self._submits.gate.left(1, given_up=True)
                self._submits.record(GONE, refused_s - self._began_s)
                self._end_span(stream, GONE)

    def _end(self, stream: int, refusal: Refusal, refused_s: float) -> None:
        """Answer; what was kept back since `refused_s` is no slowness of ours."""
        self._connection.end(stream, refusal.code, refusal.detail, refusal.trailers)
        self._submits.gate.left(1)
        self._submits.record(refusal.code.name, refused_s - self._began_s)
        self._end_span(stream, refusal.code.name)

    def _end_span(self, stream: int, code: str, response: bytes = b"") -> None:
        span = self._spans.pop(stream, None)
        if span is not None:
            span.end(code, response, self._submits.counted, perf_counter() - self._began_s)

    def _forget_if_done(self) -> None:
        if not self._open:
            self._connection.done(self)
