"""WatchEvents: a tenant's events from a cursor on, read from the log as committed, at least once.

It writes nothing and holds no event: each subscriber reads the log at its own pace, so a slow one keeps nobody back.

Cursor: base64url without padding of 1 byte format, 2 bytes slot of the log, 8 bytes position in that slot (big endian)
and 4 bytes BLAKE2b over those. Invariants: a cursor is sent after the events it stands for, never ahead of them; a gap
is never silent: it ends the watch with CURSOR_EXPIRED; memory per subscriber is one read of the log.
"""

import asyncio
import base64
import binascii
import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from engine.corridor import Corridor
from engine.errors import NOT_READY_RETRY_US, Refused, Verdict
from engine.registry.names import id_of
from engine.wire import MESSAGES, message_id_of, watch_response
from longwave.v1 import messaging_pb2
from server.gate import Context, RefusedWith, current_call

_log = structlog.get_logger("longwave.watch")

BEGIN: Final = "begin"
CURSOR_FORMAT: Final = 1
LAYOUT: Final = struct.Struct(">BHQ")
CHECK_BYTES: Final = 4
CURSOR_CHARACTERS: Final = 20  # of 15 bytes
POSITION_MAX: Final = (1 << 63) - 1
CAMPAIGNS_MAX: Final = 100

HEARTBEAT_S: Final = 15.0
# A client that takes nothing for so long is told to come back when it can.
WRITE_S_MAX: Final = 30.0
# Subscribers of a busy log share two reading threads: 200 of them at 50 reads a second are 10,000 short reads.
PACE_S: Final = 0.02
# A tenant's subscribers read by turns: each event would wake all 50 at once, and 50 reads with their responses keep the
# loop from a submission for longer than it takes. Of 250 turns a second 5 subscribers go at their pace, and 50 are told
# within 0.2 s, of all that came until then at once.
TURN_S: Final = 0.004
SUBSCRIBERS_MAX: Final = 200
# One tenant leaves room for three others as greedy.
TENANT_SUBSCRIBERS_MAX: Final = 50
TOO_MANY_RETRY_US: Final = 5_000_000
# A row holds the events of one commit: 100 bytes to 1.5 MB. What is read at once is steered to a MiB.
READ_BYTES_WANTED: Final = 1024 * 1024
READ_ROWS_FIRST: Final = 16
READ_ROWS_MAX: Final = 1024
# Well below gRPC's default of 4 MiB a message, whatever the last row adds.
RESPONSE_BYTES_MAX: Final = 1024 * 1024


def cursor_of(position: int, slot: int) -> str:
    """The cursor that stands behind this position of a slot of the log."""
    body = LAYOUT.pack(CURSOR_FORMAT, slot, position)
    return base64.urlsafe_b64encode(body + _check(body)).decode("ascii").rstrip("=")


def position_of(cursor: str, slot: int) -> int:
    """The position behind which a cursor of this slot stands. Raises Refused INVALID_CURSOR."""
    raw = b""
    if len(cursor) == CURSOR_CHARACTERS:
        try:
            raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raw = b""
    body, check = raw[: LAYOUT.size], raw[LAYOUT.size :]
    if len(body) != LAYOUT.size or check != _check(body):
        raise _invalid_cursor()
    form, found, position = LAYOUT.unpack(body)
    if form != CURSOR_FORMAT or found != slot or position > POSITION_MAX:
        raise _invalid_cursor()
    return int(position)


def _check(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECK_BYTES, person=b"longwave-watch").digest()


def _invalid_cursor() -> Refused:
    return Refused(Verdict.INVALID_CURSOR, "the cursor was not issued by this server", field="cursor")


class Watches:
    """All open subscriptions of this server."""

    def __init__(
        self,
        corridor: Corridor,
        *,
        write_s_max: float = WRITE_S_MAX,
        heartbeat_s: float = HEARTBEAT_S,
        subscribers_max: int = SUBSCRIBERS_MAX,
        tenant_subscribers_max: int = TENANT_SUBSCRIBERS_MAX,
    ) -> None:
        """Call on the loop's thread, inside of the loop."""
        self._corridor = corridor
        self._write_s_max = write_s_max
        self._heartbeat_s = heartbeat_s
        self._subscribers_max = subscribers_max
        self._tenant_subscribers_max = tenant_subscribers_max
        self._of_tenant: Counter[int] = Counter()
        self._turns_s: dict[int, float] = {}  # by tenant with subscribers: its next turn, on the loop's clock
        self._drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def subscribers(self) -> int:
        """Open subscriptions."""
        return self._of_tenant.total()

    def drain(self) -> None:
        """End each subscription with NOT_READY and its cursor, when it has sent what it read."""
        if not self._drained.done():
            self._drained.set_result(None)

    async def serve(self, request: messaging_pb2.WatchEventsRequest, context: Context) -> None:
        """Serve one subscription until its client goes, it is too slow, or the server drains."""
        tenant = current_call().tenant
        campaigns = _campaigns(request.campaigns)
        if self.subscribers >= self._subscribers_max or self._of_tenant[tenant] >= self._tenant_subscribers_max:
            raise Refused(
                Verdict.TOO_MANY_CALLS,
                "as many subscriptions as this server takes are open",
                retry_delay_us=TOO_MANY_RETRY_US,
            )
        self._count(tenant, 1)
        try:
            slot = self._corridor.event_slot(tenant)
            position, newest = await self._start(tenant, slot, request.cursor)
            watch = _Watch(
                self._corridor, context, tenant, slot, campaigns, position, newest, self._write_s_max, self._turn
            )
            await watch.run(self._heartbeat_s, self._drained)
        finally:
            # A slow one counts until its client has read the refusal or is gone: till then it holds a response.
            self._count(tenant, -1)

    def _count(self, tenant: int, more: int) -> None:
        self._of_tenant[tenant] += more
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]
            self._turns_s.pop(tenant, None)
        self._corridor.metrics.event_log_subscribers.set(self.subscribers)

    def _turn(self, tenant: int, due_s: float) -> float:
        """Take the tenant's next turn that is not before `due_s`; returns when it is. On the loop's clock."""
        # No further away than all others' turns, however many were taken by subscribers that left before.
        furthest_s = due_s + self._tenant_subscribers_max * TURN_S
        turn_s = min(max(due_s, self._turns_s.get(tenant, 0.0)), furthest_s)
        self._turns_s[tenant] = turn_s + TURN_S
        return turn_s

    async def _start(self, tenant: int, slot: int, cursor: str) -> tuple[int, int]:
        """Where to start, and the newest position; raises Refused for a cursor that cannot be resumed from."""
        position = position_of(cursor, slot) if cursor not in {"", BEGIN} else None
        oldest, newest = await self._corridor.event_bounds(tenant)
        if cursor == BEGIN:
            return max(0, oldest - 1), newest
        if position is None:
            return newest, newest
        if position > newest:
            # From another store, or from one that was restored since: waiting would skip what comes until then.
            raise _invalid_cursor()
        refuse_if_expired(position, oldest, slot)
        return position, newest


def refuse_if_expired(position: int, oldest: int, slot: int) -> None:
    """Raise CURSOR_EXPIRED, naming the oldest cursor, when events behind `position` are no longer kept."""
    if position + 1 < oldest:
        raise RefusedWith(
            Verdict.CURSOR_EXPIRED,
            "events after this cursor are no longer kept; resume from the oldest one, or from begin",
            {"oldest_cursor": cursor_of(oldest - 1, slot)},
        )


class _Watch:
    """One subscription."""

    def __init__(
        self,
        corridor: Corridor,
        context: Context,
        tenant: int,
        slot: int,
        campaigns: list[str],
        position: int,
        newest: int,
        write_s_max: float,
        turn: Callable[[int, float], float],
    ) -> None:
        self._corridor = corridor
        self._turn = turn
        self._context = context
        self._tenant = tenant
        self._slot = slot
        self._campaigns = campaigns
        self._position = position
        # Up to here the log may have been cut while we read; later rows are younger than the retention period.
        self._catch_up_to = newest
        self._write_s_max = write_s_max
        self._rows_max = READ_ROWS_FIRST
        self._loop = asyncio.get_running_loop()

    async def run(self, heartbeat_s: float, drained: asyncio.Future[None]) -> None:
        # The first answer tells where the watch stands, before anything happens.
        await self._write([], self._position)
        written_s = self._loop.time()
        while not drained.done():
            read_s = self._loop.time()
            rows, reached, more = await self._read()
            if rows:
                traces = self._corridor.traces
                began_us = 0 if traces is None else self._corridor.clock.mono_us()
                await self._send(rows, reached)
                if traces is not None:
                    traces.passed("notify", messages_in(rows), began_us)
                written_s = self._loop.time()
            self._position = reached
            if more:
                continue
            quiet_s = self._loop.time() - written_s
            if quiet_s >= heartbeat_s:
                await self._write([], self._position)
                written_s, quiet_s = self._loop.time(), 0.0
            await self._wait(heartbeat_s - quiet_s, drained)
            now_s = self._loop.time()
            turn_s = self._turn(self._tenant, max(now_s, read_s + PACE_S))
            if turn_s > now_s:
                await asyncio.wait({drained}, timeout=turn_s - now_s)
        raise RefusedWith(
            Verdict.NOT_READY,
            "the server drains; resume from the last cursor",
            {"resume_cursor": cursor_of(self._position, self._slot)},
            retry_delay_us=NOT_READY_RETRY_US,
        )

    async def _read(self) -> tuple[list[bytes], int, bool]:
        """Rows, the position reached, and whether there may be more at once."""
        start = self._position
        asked = self._rows_max
        rows, reached = await self._corridor.read_events(self._tenant, start, asked)
        if start < self._catch_up_to:
            # Looked at after the read: what is kept now was kept then.
            oldest, _ = await self._corridor.event_bounds(self._tenant)
            refuse_if_expired(start, oldest, self._slot)
        read_bytes = sum(map(len, rows))
        self._rows_max = max(1, min(READ_ROWS_MAX, asked * READ_BYTES_WANTED // max(1, read_bytes)))
        return rows, reached, len(rows) >= asked

    async def _send(self, rows: list[bytes], reached: int) -> None:
        """Send rows in responses of bounded size; only the last one's cursor stands behind all of them."""
        first, held_bytes = 0, 0
        for index, row in enumerate(rows):
            if index > first and held_bytes + len(row) > RESPONSE_BYTES_MAX:
                await self._write(rows[first:index], self._position)
                first, held_bytes = index, 0
            held_bytes += len(row)
        await self._write(rows[first:], reached)

    async def _write(self, rows: list[bytes], position: int) -> None:
        response = watch_response(rows, cursor_of(position, self._slot), self._campaigns)
        bound = asyncio.timeout(self._write_s_max)
        try:
            async with bound:
                await self._context.write(response)
        except TimeoutError:
            if not bound.expired():
                raise
            _log.warning("subscriber too slow", tenant=self._tenant, waited_s=self._write_s_max)
            # The response may still arrive whole: the cursor before it can only repeat events, never lose one.
            raise RefusedWith(
                Verdict.SUBSCRIBER_TOO_SLOW,
                f"nothing was read for {self._write_s_max:g} s; resume from the cursor given",
                {"resume_cursor": cursor_of(self._position, self._slot)},
            ) from None

    async def _wait(self, wait_s: float, drained: asyncio.Future[None]) -> None:
        """Until something was committed, the heartbeat is due, or the server drains."""
        moved = self._loop.create_task(self._corridor.wait_for_events(self._tenant, self._position, wait_s))
        try:
            await asyncio.wait({moved, drained}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            moved.cancel()
            await asyncio.gather(moved, return_exceptions=True)


def messages_in(rows: Sequence[bytes]) -> list[int]:
    """Ids of the messages that these events tell of."""
    # A row is a part of an answer: the events of one commit, each as its field.
    events = (event for row in rows for event in messaging_pb2.WatchEventsResponse.FromString(row).events)
    return [message_id_of(event.message, "message") for event in events if event.message.startswith(MESSAGES)]


def _campaigns(names: Sequence[str]) -> list[str]:
    """The campaigns asked for. Raises Refused INVALID_FIELD."""
    if len(names) > CAMPAIGNS_MAX:
        raise Refused(Verdict.INVALID_FIELD, f"name at most {CAMPAIGNS_MAX} campaigns", field="campaigns")
    for name in names:
        id_of(name, "campaigns", "campaigns")
    return list(names)
