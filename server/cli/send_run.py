"""Hands a stream of rows in through the SDK and follows each message to its end, across restarts of the engine.

It reads no file and prints nothing; numbers go to a `Tally`.

Invariants: a line is counted once, as unreadable, refused, unanswered or accepted; an accepted one ends once. Memory
grows with the messages that have not ended (some 200 bytes each), not with the file. A lost event only delays: what has
not ended while nothing moves is looked up.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from longwave.client import (
    AsyncClient,
    BatchLimits,
    CursorExpired,
    Deadlines,
    NotFound,
    RetryPolicy,
    SubmitResult,
    Unavailable,
)
from longwave.v1 import messaging_pb2 as m
from server.cli.connect import Target, async_client
from server.cli.failure import CliFailure
from server.cli.send_rows import Row
from server.cli.send_tally import Tally, is_final

# Half of the server's default: two batches fill a group commit, and the latency of each stays low.
CHUNK_MESSAGES_MAX: Final = 500
CHUNKS_IN_FLIGHT_MAX: Final = 4
CHUNKS_READ_AHEAD: Final = 2
# Final events of messages whose acceptance is still on its way to us, or of other senders of the tenant: 20 MB.
EARLY_MAX: Final = 100_000
FIRST_CONTACT_S: Final = 5.0
IDLE_FIRST_S: Final = 2.0
IDLE_MAX_S: Final = 60.0
LOOKUPS_IN_FLIGHT_MAX: Final = 16
# Below this many, one look-up each; above, whole pages of the list are cheaper.
LOOKUPS_MAX: Final = 200
PAGE_MESSAGES: Final = 1000
# A list goes back this far beyond what is looked for, through messages of other senders, before single look-ups.
SCAN_FACTOR: Final = 4
RECONNECT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a message ended."""

    message: str
    state: int
    reason: int
    code: str


@dataclass(slots=True)
class _Waiting:
    began_at: float
    """When its batch was handed in."""
    lines: int


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run goes on without an answer, and how long it waits for the end of its messages."""

    retry_s: float = 300.0
    """Seconds without any answer of the engine after which the run gives up."""
    wait_max_s: float | None = None
    """Seconds after the last line for messages to end; None: as long as it takes."""


class SendRun:
    """One run; `tally` may be read while it goes on."""

    def __init__(
        self,
        target: Target,
        tally: Tally,
        *,
        wait: bool,
        patience: Patience,
        on_refused: Callable[[int, str], None],
        on_accepted: Callable[[SubmitResult], None] = lambda _result: None,
        on_final: Callable[[Ending], None] = lambda _final: None,
    ) -> None:
        """`on_refused` gets the line and what is wrong with it, for every line that was not accepted."""
        self.tally = tally
        self.input_ended = False
        self._target = target
        self._wait = wait
        self._patience = patience
        self._on_refused = on_refused
        self._on_accepted = on_accepted
        self._on_final = on_final
        self._waiting: dict[str, _Waiting] = {}
        self._early: OrderedDict[str, tuple[Ending, float]] = OrderedDict()
        self._moved = asyncio.Event()
        self._began_at = time.monotonic()
        self._contact_at = self._began_at

    async def run(self, rows: Iterator[Row]) -> None:
        """Hand in all rows and, with `wait`, see all messages end.

        Raises LongwaveError when the engine refuses the whole run or does not answer for `retry_s`, TimeoutError when
        `wait_max_s` pass, and whatever reading raises.
        """
        retry_s = self._patience.retry_s
        first_s = min(FIRST_CONTACT_S, retry_s)
        async with async_client(self._target) as asking:
            info = await asking.server_info(deadline_s=first_s)
        chunk_messages = min(CHUNK_MESSAGES_MAX, info.limits.batch_messages_max or 1)
        client = async_client(
            self._target,
            limits=BatchLimits(batch_messages_max=chunk_messages, batches_in_flight_max=CHUNKS_IN_FLIGHT_MAX),
            # Time alone bounds the tries: a restart may take a while, and request ids make every try safe.
            retry=RetryPolicy(
                attempts_max=1_000_000, backoff_max_s=2.0, budget_ratio=1.0, budget_burst=1_000_000,
                reconnect_max_s=retry_s,
            ),
            deadlines=Deadlines(attempt_s=min(10.0, retry_s), total_s=retry_s),
        )  # fmt: skip
        async with client:
            watching = asyncio.create_task(self._watch(client)) if self._wait else None
            try:
                # On the same connection as the watch, so that the watch is there before the first message.
                await client.server_info(deadline_s=first_s)
                await self._feed(client, rows, chunk_messages)
                if watching is not None:
                    async with asyncio.timeout(self._patience.wait_max_s):
                        await self._see_the_end(client, watching)
            finally:
                self.tally.seconds = time.monotonic() - self._began_at
                if watching is not None:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)

    async def _feed(self, client: AsyncClient, rows: Iterator[Row], chunk_messages: int) -> None:
        room = asyncio.Semaphore(CHUNKS_IN_FLIGHT_MAX)
        async with asyncio.TaskGroup() as tasks:
            async for chunk in _chunks(rows, chunk_messages):
                readable = []
                for row in chunk:
                    self.tally.read += 1
                    if row.submission is None:
                        self.tally.unreadable += 1
                        self._on_refused(row.line, row.problem)
                    else:
                        readable.append((row.line, row.submission))
                if readable:
                    await room.acquire()
                    task = tasks.create_task(self._submit(client, readable))
                    task.add_done_callback(lambda _task: room.release())
        self.input_ended = True

    async def _submit(self, client: AsyncClient, rows: Sequence[tuple[int, m.Submission]]) -> None:
        began_at = time.monotonic()
        results = await client.submit_many([submission for _, submission in rows])
        answered_at = self._contact_at = time.monotonic()
        self.tally.accept.add(answered_at - began_at, len(rows))
        for (line, _), result in zip(rows, results, strict=True):
            if result.accepted:
                self.tally.accepted += 1
                self.tally.segments += result.segments
                self._on_accepted(result)
                if self._wait:
                    self._follow(result.message, began_at)
            elif result.outcome_unknown:
                self.tally.unanswered[result.reason] += 1
                self._on_refused(line, f"{result.error} (perhaps accepted: run the same file again)")
            else:
                self.tally.refused[result.reason] += 1
                self._on_refused(line, str(result.error))

    def _follow(self, message: str, began_at: float) -> None:
        early = self._early.pop(message, None)
        if early is not None:
            self._settle(early[0], early[1] - began_at, 1)
        elif message in self._waiting:
            self._waiting[message].lines += 1
        else:
            self._waiting[message] = _Waiting(began_at, 1)

    async def _watch(self, client: AsyncClient) -> None:
        """Follow events; end only by a refusal."""
        cursor = ""
        while True:
            watched = client.watch(cursor)
            try:
                async for event in watched:
                    self._contact_at = time.monotonic()
                    if event.kind == m.Event.KIND_MESSAGE and is_final(event.state):
                        self._ended(Ending(event.message, event.state, event.reason, event.code))
            except CursorExpired:
                cursor = ""  # what was missed is looked up
            except Unavailable:
                cursor = watched.cursor
                await asyncio.sleep(RECONNECT_S)

    def _ended(self, final: Ending) -> None:
        now = time.monotonic()
        waiting = self._waiting.pop(final.message, None)
        if waiting is not None:
            self._settle(final, now - waiting.began_at, waiting.lines)
            return
        self._early[final.message] = (final, now)
        if len(self._early) > EARLY_MAX:
            self._early.popitem(last=False)

    def _settle(self, final: Ending, seconds: float, lines: int) -> None:
        self.tally.settled(final.state, final.reason, final.code, seconds, lines)
        self._on_final(final)
        self._moved.set()

    async def _see_the_end(self, client: AsyncClient, watching: "asyncio.Task[None]") -> None:
        idle_s = IDLE_FIRST_S
        while self._waiting:
            self._moved.clear()
            moved = asyncio.create_task(self._moved.wait())
            try:
                await asyncio.wait({moved, watching}, timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                moved.cancel()
            if watching.done():
                await watching  # a refusal
            if self._moved.is_set():
                idle_s = IDLE_FIRST_S
                continue
            # Nothing moved: either they wait for something, or their events passed before we watched.
            idle_s = min(idle_s * 2, IDLE_MAX_S)
            try:
                await self._reconcile(client)
            except Unavailable:
                if time.monotonic() - self._contact_at >= self._patience.retry_s:
                    raise

    async def _reconcile(self, client: AsyncClient) -> None:
        """Look up what has not ended."""
        left = set(self._waiting)
        if len(left) > LOOKUPS_MAX:
            scanned_max = SCAN_FACTOR * len(left) + PAGE_MESSAGES
            scanned = 0
            # A client of the API, not the hot path: pages of what the engine already holds.
            async for message in client.list(m.ListMessagesRequest(page_size=PAGE_MESSAGES)):
                scanned += 1
                if message.name in left:
                    left.remove(message.name)
                    self._look_at(message)
                if not left or scanned >= scanned_max:
                    break
        names = iter(left)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(len(left), LOOKUPS_IN_FLIGHT_MAX)):
                tasks.create_task(self._look_up(client, names))

    async def _look_up(self, client: AsyncClient, names: Iterator[str]) -> None:
        for name in names:
            if name not in self._waiting:
                continue
            try:
                found = await client.get(name)
            except NotFound:
                raise CliFailure(
                    f"{name} was accepted, and the engine does not know it: is it the same one, with the same store?"
                ) from None
            self._look_at(found.message)

    def _look_at(self, message: m.Message) -> None:
        self._contact_at = time.monotonic()
        if not is_final(message.state):
            return
        waiting = self._waiting.pop(message.name, None)
        if waiting is not None:
            # By the engine's own clock: it may have ended long before this run.
            took_s = (message.update_time.ToNanoseconds() - message.accept_time.ToNanoseconds()) / 1e9
            final = Ending(message.name, message.state, message.reason, message.code)
            self._settle(final, max(0.0, took_s), waiting.lines)


async def _chunks(rows: Iterable[Row], chunk_messages: int) -> AsyncIterator[list[Row]]:
    """Rows in lists, read by a thread: a pipe that says nothing must not stop the rest.

    The thread is a daemon: at Ctrl-C it may be stuck in a read that nobody can end.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[list[Row] | BaseException] = asyncio.Queue()  # bounded by `room`
    room = threading.Semaphore(CHUNKS_READ_AHEAD)
    source = iter(rows)

    def read() -> None:
        chunk: list[Row] | BaseException = []
        with suppress(RuntimeError):  # the loop has ended
            while True:
                room.acquire()
                try:
                    chunk = list(islice(source, chunk_messages))
                except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                    chunk = error
                loop.call_soon_threadsafe(ready.put_nowait, chunk)
                if not isinstance(chunk, list) or not chunk:
                    return

    threading.Thread(target=read, name="read", daemon=True).start()
    while True:
        item = await ready.get()
        if isinstance(item, BaseException):
            raise item
        if not item:
            return
        room.release()
        yield item
