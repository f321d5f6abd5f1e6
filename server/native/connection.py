"""One connection of the native edge: bytes between the transport and the core, calls between the core and their tasks.

It knows no HTTP/2 and no method; the core does the one, the gate's handlers the other.

Invariants: what a turn of the loop makes to be sent leaves in one write; while the transport takes nothing, nothing is
read; when the connection ends, so do the tasks of its calls.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from server.native.call import Details, NativeCall

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    import grpc

    from engine.http2 import EdgeConnection
    from server.auth import Metadata
    from server.native.listener import NativeEdge
    from server.native.tls import Secured
    from server.native.together import Together

# What the core has not written for want of room is written in the next turns.
OUTPUT_BYTES_MANY: Final = 256 * 1024
KEEPALIVE_S: Final = 60.0
KEEPALIVE_WAIT_S: Final = 10.0
# Of a connection that has not said what HTTP/2 begins with.
OPENING_S: Final = 20.0
# Of one that has not agreed on keys.
HANDSHAKE_S: Final = 5.0
# Of one that has ended, for its peer to close it.
CLOSING_S: Final = 1.0
# No call has a deadline; as the core says it.
NEVER_US: Final = 2**64 - 1
# Watches and streams get ten minutes to end by themselves; the client resumes them.
AGE_GRACE_S: Final = 600.0


class NativeConnection(asyncio.Protocol):
    """Used by the loop's thread only."""

    def __init__(self, edge: NativeEdge, age_s: float, tls: Secured | None) -> None:
        """One that is asked to leave after `age_s`."""
        self._edge = edge
        self._tls = tls
        self.loop = edge.loop
        self.peer = ""
        self._address = ""
        self._transport: asyncio.Transport | None = None
        self._core: EdgeConnection | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._calls: dict[int, NativeCall] = {}
        self._together: set[Together] = set()
        self._flushing = False
        self._holds = False
        self._kept = b""  # of what came while it was held: one read's
        self._full = False
        self._ended = False
        self._began_s = self._heard_s = self.loop.time()
        self._pinged_s = 0.0
        self._leaves_s = self._began_s + age_s
        self._left_s = 0.0
        self._closes_s = 0.0

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are no subclass of it.
        self._transport = cast("asyncio.Transport", transport)
        address, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        self._address = address = address.partition("%")[0].removeprefix("::ffff:")
        self.peer = f"ipv6:%5B{address}%5D:{port}" if ":" in address else f"ipv4:{address}:{port}"
        self._core = self._edge.came(self, self._address)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._heard_s = self.loop.time()
        if self._core is None or self._ended:
            return
        if self._holds:
            # The transport read once before it could be told not to.
            self._kept += data
            self._follow()
            return
        if self._tls is not None:
            try:
                data = self._tls.read(data)
            except ssl.SSLError:  # also the peer's goodbye
                self._write(b"")
                self._close()
                return
            self._write(b"")
            if not self._tls.agreed:
                return
        self._handle(self._core.receive(data, self.now_us()))
        self.flush_soon()

    def pause_writing(self) -> None:
        """The transport has enough."""
        self._full = True
        if self._core is not None:
            self._core.set_full(full=True)
        self._follow()

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._full = False
        if self._core is not None:
            self._core.set_full(full=False)
        self._follow()
        self.flush_soon()

    def connection_lost(self, _error: Exception | None) -> None:
        """The client is gone."""
        self._transport = None
        self._end()
        self._core = None
        self._edge.left(self)

    # What calls ask for.

    def now_us(self) -> int:
        """On the boot clock."""
        return self._edge.clock.mono_us()

    def took(self, stream: int) -> None:
        """A call has read a request."""
        if self._core is not None:
            self._core.took(stream)
            self.flush_soon()

    def send(self, stream: int, message: bytes) -> bool:
        """Send one answer; returns whether the call is to wait until it is told of room."""
        if self._core is None:
            return False
        self.flush_soon()
        return self._core.send(stream, message)

    def finish(self, stream: int, message: bytes) -> None:
        """The only answer of a call."""
        self._calls.pop(stream, None)
        if self._core is not None:
            self._core.finish(stream, message)
            self.flush_soon()

    def end(
        self, stream: int, code: grpc.StatusCode, details: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> None:
        """End a call with a status."""
        self._calls.pop(stream, None)
        if self._core is not None:
            self._core.end(stream, code.value[0], details, list(metadata))
            self.flush_soon()

    def answer(self, streams: Sequence[int], replies: Sequence[tuple[int, bytes, str, str, int]]) -> list[int]:
        """Answer those that were accepted; returns the places of the others."""
        if self._core is None:
            return []
        self.flush_soon()
        return self._core.answer(streams, replies)

    def begun(self, together: Together) -> None:
        """Calls that will be answered together."""
        self._together.add(together)

    def done(self, together: Together) -> None:
        """They are answered."""
        self._together.discard(together)

    def run(self, stream: int, work: Coroutine[Any, Any, None]) -> None:
        """Work on a call, until its client is gone."""
        task = self.loop.create_task(work)
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self._tasks.pop(stream, None))

    # What the edge asks for.

    @property
    def calls(self) -> int:
        """Those that are open."""
        return 0 if self._core is None else self._core.calls

    @property
    def held_since_us(self) -> int:
        """Since when the oldest waits of what it holds: of a request for its rest, of an answer for its client."""
        return 0 if self._core is None else self._core.held_since_us

    def refuse_held(self) -> None:
        """End all such calls."""
        if self._core is not None:
            self._handle(self._core.refuse_held(self.now_us()))
            self.flush_soon()

    def hold(self) -> None:
        """Read nothing until `let_on`."""
        self._holds = True
        self._follow()

    def let_on(self) -> None:
        """Read again."""
        self._holds = False
        kept, self._kept = self._kept, b""
        if kept:
            self.data_received(kept)
        self._follow()

    def leave(self) -> None:
        """Ask the client to open another connection."""
        if self._core is not None and not self._left_s:
            self._left_s = self.loop.time()
            self._core.leave()
            self.flush_soon()

    def abort(self) -> None:
        """Cut it off."""
        if self._transport is not None:
            self._transport.abort()

    def close(self, code: grpc.StatusCode, details: str) -> None:
        """End it with all its calls; what is to be sent still is."""
        for call in tuple(self._calls.values()):
            call.end(code, details)
        self._flush()
        self._close()

    def expire(self, now_us: int) -> bool:
        """End the calls whose time is up; returns whether there are others that have one."""
        if self._core is None:
            return False
        if self._core.due_us <= now_us:
            self._handle(self._core.expire(now_us))
            self.flush_soon()
        return self._core.due_us != NEVER_US

    def tick(self, now_s: float) -> None:
        """Keep it alive, or end it for its silence or age."""
        if self._closes_s and now_s - self._closes_s > CLOSING_S:
            self.abort()
        if self._core is None or self._ended:
            return
        if not self._core.is_open:
            opening_s = HANDSHAKE_S if self._tls is not None and not self._tls.agreed else OPENING_S
            if now_s - self._began_s > opening_s and not self._holds:
                self.abort()
        elif self._left_s:
            if now_s - self._left_s > AGE_GRACE_S:
                self.abort()
        elif now_s > self._leaves_s:
            self.leave()
        if self._pinged_s > self._heard_s:
            if now_s - self._pinged_s > KEEPALIVE_WAIT_S and not self._holds and not self._full:
                self.abort()
        elif now_s - max(self._heard_s, self._pinged_s) > KEEPALIVE_S:
            self._pinged_s = now_s
            self._core.ping()
            self.flush_soon()

    def flush_soon(self) -> None:
        """Send what there is, at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        many = True
        agreed = self._tls is None or self._tls.agreed
        while many and agreed and self._core is not None and self._transport is not None:
            events, output = self._core.turn(self.now_us())
            if output:
                self._write(output)
            many = len(output) > OUTPUT_BYTES_MANY
            self._handle(events)
        if self._core is not None:
            if self._core.due_us != NEVER_US:
                self._edge.timed(self)
            self._edge.held(self, self._core.held_bytes)

    def _write(self, data: bytes) -> None:
        """To the transport, by way of TLS where there is one; which may have more to say than that."""
        if self._transport is None or self._closes_s:
            return
        if self._tls is not None:
            if data:
                self._tls.write(data)
            data = self._tls.leaving()
        if data:
            self._transport.write(data)

    def _close(self) -> None:
        """End it behind what was written.

        Its peer closes it, or `tick` does: closed here while the peer still sends, what it has not read is lost.
        """
        self._end()
        if self._transport is None or self._closes_s:
            return
        if self._tls is not None:
            self._tls.end()
            self._write(b"")
        self._closes_s = self.loop.time()
        if not self._transport.is_closing():
            self._transport.write_eof()
        self._follow()

    def _follow(self) -> None:
        """Read while nobody minds."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._holds or (self._full and not self._closes_s):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # What the core tells; the first item of an event is its place in `_ON_EVENT`.

    def _handle(self, events: list[tuple[Any, ...]]) -> None:
        for event in events:
            self._ON_EVENT[event[0]](self, *event[1:])

    def _submits(self, metadata: Metadata, streams: list[int], requests: list[bytes], deadlines_us: list[int]) -> None:
        submits = self._edge.submits
        if submits.begin(self, metadata, streams, requests, deadlines_us):
            return
        for stream, request, deadline_us in zip(streams, requests, deadlines_us, strict=True):
            self._call(stream, submits.path, metadata, deadline_us, request, None)

    def _call(
        self,
        stream: int,
        path: str,
        metadata: Metadata,
        deadline_us: int | None,
        request: bytes | None,
        encoding: str | None,
    ) -> None:
        details = Details(path, metadata)
        call = NativeCall(self, stream, details, deadline_us, self._edge.message_bytes_max)
        asked = None if request is None else call.request(request, encoding)
        self._calls[stream] = call
        self.run(stream, self._edge.serve(call, details, asked))

    def _message(self, stream: int, data: bytes, encoding: str | None) -> None:
        call = self._calls.get(stream)
        if call is not None:
            call.came(call.request(data, encoding))

    def _half_closed(self, stream: int) -> None:
        call = self._calls.get(stream)
        if call is not None:
            call.half_closed()

    def _gone(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            call.gone()
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()
        elif call is None:
            for together in self._together:
                if together.has(stream):
                    together.gone(stream)
                    break

    _late = _gone  # its client was told

    def _too_long(self, stream: int) -> None:
        for together in self._together:
            if together.has(stream):
                together.too_long(stream)
                break
        # The gate bounds calls that have a task.

    def _room(self, stream: int) -> None:
        call = self._calls.get(stream)
        if call is not None:
            call.has_room()

    def _core_ended(self, flood: bool) -> None:  # noqa: FBT001 - as the core tells it
        if flood:
            self._end()
            self._edge.flooded(self, self._address)
        else:
            self._flush()
            self._close()

    def _end(self) -> None:
        """No call of it goes on."""
        self._ended = True
        for stream in tuple(self._calls):
            self._gone(stream)
        for task in tuple(self._tasks.values()):
            task.cancel()
        for together in tuple(self._together):
            together.all_gone()

    # Of the class: bound ones would keep each connection until the collector comes.
    _ON_EVENT: ClassVar[tuple[Callable[..., None], ...]] = (
        _submits, _call, _message, _half_closed, _gone, _late, _too_long, _room, _core_ended,
    )  # fmt: skip
