"""Append: many calls become one group, judged in one native call, stored in one durable transaction, then answered.

It knows no transport and no table. It holds calls only between their arrival and the group they join.

Invariants: a call is answered after the COMMIT that holds its messages, or told that nothing was stored, or told that
nobody knows; what an owner stored is handed to the scheduler before the answer leaves; a call whose deadline passed or
whose caller is gone leaves before it is judged, never after.
"""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Final

from engine import _core, failpoints
from engine.clock import Clock
from engine.entry import LEVELS, Lines, Pressure, Reply, Several, Waiting
from engine.errors import NotReady, Refused, Verdict
from engine.history import History
from engine.meter import Meter
from engine.rights import Rights
from engine.stores.store import Store

UNARY: Final = 1
BATCH: Final = 2
STREAM: Final = 3
# Two groups on their way: one in the transaction, one judged and waiting for it. A third would only wait longer.
GROUPS_IN_FLIGHT_MAX: Final = 2
# A group of so many messages needs no more company: what a transaction costs by itself (some 0.4 ms of two threads) is
# little beside its rows. A smaller one waits for the one before it, and grows meanwhile.
GROUP_MESSAGES_ENOUGH: Final = 64
# Calls of a group before they are judged; a unary call is one message, a batch up to batch_messages_max.
GROUP_CALLS_MAX: Final = 5000
# Request bytes waiting to be judged: 64 batches of 4 MiB.
WAITING_BYTES_MAX: Final = 256 * 1024 * 1024
RETRY_US: Final = 1_000_000
# Of what was shed: until then the line has emptied several times.
OVERLOADED_RETRY_US: Final = 1_000_000
OVERLOADED: Final = "more comes in than is stored in time; this try stored nothing"


def _messages(kind: int, request: bytes) -> int:
    """How many a call holds; errs on the small side: a submission with its framing is hardly ever under 64 bytes."""
    return 1 if kind == UNARY else 1 + len(request) // 64


class _Group:
    """Calls that are judged together, and who is told of each."""

    __slots__ = ("_parts", "calls", "messages")

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, bytes]] = []
        """Kind, tenant, request of each."""
        self.messages = 0
        """As estimated."""
        self._parts: list[tuple[Waiting | Several, list[int]]] = []  # with the tags of several

    def add(self, call: Waiting) -> None:
        """One more."""
        self.calls.append((call.kind, call.tenant, call.request))
        self.messages += call.messages
        self._parts.append((call, []))

    def add_several(self, several: Several, tags: list[int], requests: list[bytes]) -> None:
        """Several more, those of them that are left."""
        tenant = several.tenant
        self.calls += [(UNARY, tenant, request) for request in requests]
        self.messages += len(requests)
        self._parts.append((several, tags))

    def answer(self, replies: list[tuple[int, bytes, str, str, int]]) -> None:
        """What became of each call."""
        place = 0
        for part, tags in self._parts:
            if isinstance(part, Several):
                part.asker.answered(tags, replies[place : place + len(tags)])
                place += len(tags)
            else:
                if not part.future.done():
                    part.future.set_result(Reply(*replies[place]))
                place += 1

    def fail(self, error: BaseException) -> None:
        """Nothing became of any."""
        for part, tags in self._parts:
            if isinstance(part, Several):
                part.asker.failed(tags, error)
            elif not part.future.done():
                part.future.set_exception(error)


_LATE: Final = Reply(
    Verdict.DEADLINE_PASSED, b"", "", "the deadline passed before the message was taken up; nothing was stored", 0
)


class Append:
    """The only way in."""

    def __init__(
        self,
        store: Store,
        admitter: _core.Admitter,
        rights: Rights,
        scheduler: _core.Scheduler,
        clock: Clock,
        meter: Meter,
        history: History,
        *,
        linger_s: float,
        group_messages_max: int,
        queue_target_s: float,
        pushes_ordered: bool,
        on_handed: Callable[[], None],
        on_stored: Callable[[], None],
    ) -> None:
        """`on_stored` is called after each commit, when messages are with the scheduler.

        Without `pushes_ordered`, what has ordering keys comes to its scheduler through the owner's inbox alone;
        `on_handed` is called when something went there.
        """
        self._store = store
        self._admitter = admitter
        self._rights = rights
        self._scheduler = scheduler
        self._clock = clock
        self._meter = meter
        self._history = history
        self._linger_s = linger_s
        self._group_messages_max = group_messages_max
        self._on_stored = on_stored
        self._on_handed = on_handed
        self._lines = Lines(WAITING_BYTES_MAX)
        self._pressure = Pressure(queue_target_s)
        self._timer: asyncio.Handle | None = None
        self._nobodys = copy_context()  # a group is no one call's: what it logs is not to name one's trace
        self._going = False  # the timer is due in this turn of the loop
        self._expected = 1  # calls to store that were here at once lately: a group of so many has found all its company
        self._groups_in_flight = 0
        self._unpushed = 0
        self._closed_because: str | None = "the server is starting"
        self._idle = asyncio.Event()
        self._idle.set()
        self.pushes = False
        """What is stored goes to this process's scheduler, for it is the owner's."""
        self._pushes_ordered = pushes_ordered

    def open(self) -> None:
        """Take calls from now on."""
        self._closed_because = None

    def close(self, because: str) -> None:
        """Refuse calls from now on with NOT_READY; what was taken up is finished."""
        self._closed_because = because

    async def drained(self) -> None:
        """Wait until every call taken up is answered."""
        await self._idle.wait()

    @property
    def waiting(self) -> int:
        """Calls taken up and not answered."""
        return self._lines.calls + self._groups_in_flight

    @property
    def waiting_messages(self) -> int:
        """Messages of calls that are in no group yet."""
        return self._lines.messages

    @property
    def floor(self) -> int:
        """Levels of urgency that are shed now, of `entry.FLOOR_MAX`."""
        self._pressure.look(asyncio.get_running_loop().time())
        return self._pressure.floor

    def submit(self, kind: int, tenant: int, request: bytes, deadline_us: int) -> asyncio.Future[Reply]:
        """Hand in one call (UNARY, BATCH or STREAM) of a tenant; `deadline_us` is on the boot clock.

        The future raises NotReady (definitely not stored) or StoreUnavailable (unknown: retry with the same ids).
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        if self._closed_because is not None:
            self._meter.shed(Verdict.NOT_READY, _messages(kind, request))
            future.set_exception(NotReady(f"{self._closed_because}; nothing was stored"))
        elif (refused := self._shed(kind, tenant, request, deadline_us)) is not None:
            self._meter.shed(Verdict(refused.verdict), _messages(kind, request))
            future.set_result(refused)
        else:
            if not self._lines.calls:
                self._idle.clear()
            messages = _messages(kind, request)
            self._lines.put(Waiting(kind, tenant, request, deadline_us, future, messages, loop.time()))
            if not self._going:
                self._arm(loop)
        return future

    def submit_several(self, several: Several) -> None:
        """Hand in unary calls of a tenant that came together; as many `submit`s, but for what each of those costs.

        Their asker hears of each tag once, perhaps before this returns, but of those that are given up.
        """
        if self._closed_because is not None:
            self._meter.shed(Verdict.NOT_READY, several.messages)
            several.asker.failed(several.tags, NotReady(f"{self._closed_because}; nothing was stored"))
            return
        if not self._takes_all(several):
            self._shed_some(several)
        if several.calls:
            loop = asyncio.get_running_loop()
            several.came_s = loop.time()
            if not self._lines.calls:
                self._idle.clear()
            self._lines.put(several)
            if not self._going:
                self._arm(loop)

    def _takes_all(self, several: Several) -> bool:
        """Whether none of these is to be refused for what waits."""
        if self.floor or not self._lines.has_room(several.tenant, several.request_bytes):
            return False
        if not self._lines.calls:
            return True
        wait_us = int(self._pressure.expected_s(self._lines.messages) * 1e6)
        return wait_us <= min(several.deadlines_us) - self._clock.mono_us()

    def _shed_some(self, several: Several) -> None:
        """Look at each by itself, and keep those that may stand in line."""
        kept: list[int] = []
        shed: list[tuple[int, Reply]] = []
        kept_bytes = 0
        for place, request in enumerate(several.requests):
            refused = self._shed(UNARY, several.tenant, request, several.deadlines_us[place], kept_bytes)
            if refused is None:
                kept.append(place)
                kept_bytes += len(request)
            else:
                self._meter.shed(Verdict(refused.verdict), 1)
                shed.append((several.tags[place], refused))
        several.keep(kept)
        if shed:
            several.asker.answered([tag for tag, _ in shed], [reply for _, reply in shed])

    def _shed(self, kind: int, tenant: int, request: bytes, deadline_us: int, before_bytes: int = 0) -> Reply | None:
        """Why this call, behind so many bytes that are not in line yet, is not to stand there at all; None: it may."""
        if not self._lines.has_room(tenant, before_bytes + len(request)):
            return Reply(
                Verdict.TOO_MANY_CALLS, b"", "", "too many bytes wait to be judged; nothing was stored", RETRY_US
            )
        if kind == STREAM:
            return None  # answered message by message: a refusal of the whole would end the stream
        floor = self.floor
        if floor and _core.urgency(kind, request) + self._clock.seed() % LEVELS < floor:
            return Reply(Verdict.OVERLOADED, b"", "", OVERLOADED, self._retry_us())
        if self._lines.calls:
            wait_us = int(self._pressure.expected_s(self._lines.messages) * 1e6)
            if wait_us > deadline_us - self._clock.mono_us():
                detail = "what waits would take longer than the call's deadline; nothing was stored"
                return Reply(Verdict.OVERLOADED, b"", "", detail, self._retry_us())
        return None

    def _retry_us(self) -> int:
        """When to come back: later the more is shed, and spread, or what was refused together comes back together."""
        delay_us = OVERLOADED_RETRY_US * (LEVELS + self._pressure.floor) // LEVELS
        return delay_us // 2 + self._clock.seed() % delay_us

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that what waits goes when it has found its company.

        A call that comes alone goes at once. Where calls kept coming lately, a group waits for as many as were here at
        once, at most `linger_s`: two transactions of a dozen rows cost nearly twice what one of two dozen does, and
        while the processor is the bound everybody pays for that.
        """
        if not self._lines.calls or self._going:
            return
        if self._lines.messages >= GROUP_MESSAGES_ENOUGH:
            if self._groups_in_flight >= GROUPS_IN_FLIGHT_MAX:
                return
            wait_s = 0.0
        elif self._groups_in_flight:
            return
        elif self._lines.calls >= self._expected:
            wait_s = 0.0
        else:
            wait_s = max(0.0, self._lines.since_s() + self._linger_s - loop.time())
        if wait_s > 0:
            if self._timer is None:
                self._timer = loop.call_later(wait_s, self._flush, context=self._nobodys)
            return
        if self._timer is not None:
            self._timer.cancel()
        # Whatever arrives in this turn of the loop comes along.
        self._going = True
        self._timer = loop.call_soon(self._flush, context=self._nobodys)

    def _take(self) -> _Group:
        now_s = asyncio.get_running_loop().time()
        if self._lines.calls:
            standing_s = self._pressure.standing_s(now_s - self._lines.since_s(), self._lines.messages)
            self._pressure.waited(standing_s, now_s)
            self._meter.metrics.admit_floor.set(self._pressure.floor)
        taken = self._lines.take(GROUP_CALLS_MAX, self._group_messages_max)
        # Forgotten by an eighth a group, and at once by a call that waited all the while for nobody.
        alone = sum(each.calls for each in taken) == 1
        self._expected = 1 if alone else max(1, self._expected - (self._expected + 7) // 8)
        mono_us = self._clock.mono_us()
        group = _Group()
        for each in taken:
            if isinstance(each, Several):
                tags, requests, late = each.take(mono_us)
                if tags:
                    group.add_several(each, tags, requests)
                if late:
                    each.asker.answered(late, [_LATE] * len(late))
            elif each.future.done():
                continue
            elif each.deadline_us <= mono_us:
                each.future.set_result(_LATE)
            else:
                group.add(each)
        return group

    def _flush(self) -> None:
        self._timer = None
        self._going = False
        group = self._take()
        if group.calls:
            began_us = self._clock.mono_us()
            now_us = self._clock.now_us()
            room = max(0, self._scheduler.schedule_room - self._unpushed)
            try:
                admission = self._admitter.admit(
                    group.calls,
                    self._rights.registry,
                    self._rights.consent,
                    now_us,
                    room,
                    self._pressure.floor,
                    OVERLOADED_RETRY_US,
                    self._scheduler.ahead,
                )
            except BaseException:
                self._meter.shed(Verdict.INTERNAL, group.messages)
                group.fail(Refused(Verdict.INTERNAL, "the call could not be judged; nothing was stored"))
                asyncio.get_running_loop().call_soon(self._flush, context=self._nobodys)  # for those behind
                raise  # a bug: the loop logs it
            judged_us = self._clock.mono_us()
            self._meter.stage("admit", admission.total, (judged_us - began_us) / 1e6)
            if len(group.calls) > 1:
                # Calls that are refused are no company: they cost no transaction, however many come.
                self._expected = max(self._expected, min(len(group.calls), admission.accepted))
            if admission.needs_store:
                self._groups_in_flight += 1
                self._unpushed += admission.accepted
                stored = self._store.append(admission, now_us)
                counted = admission.accepted
                stored.add_done_callback(partial(self._stored, admission, group, counted, began_us, judged_us))
            else:
                self._answer(admission, group)
        self._settle_idle()
        self._arm(asyncio.get_running_loop())

    def _stored(
        self,
        admission: _core.Admission,
        group: _Group,
        counted: int,
        began_us: int,
        judged_us: int,
        stored: asyncio.Future[None],
    ) -> None:
        self._groups_in_flight -= 1
        self._unpushed -= counted
        # Of those who came meanwhile, as many will be stored as of these were.
        company = min(len(group.calls), counted)
        self._expected = max(self._expected, company + self._lines.calls * company // len(group.calls))
        self._pressure.stored(group.messages, began_us / 1e6, self._clock.mono_us() / 1e6)
        error = stored.exception()
        if error is None:
            if self._history.on:
                self._history.note("accepted", ids=admission.ids())
            accepted = admission.accepted  # the scheduler takes them over
            traces = self._meter.traces
            trace = None if traces is None else traces.accepted(admission.ids(), began_us, judged_us)
            if not self._pushes_ordered and admission.ordered:
                self._on_handed()
            elif self.pushes:
                self._scheduler.push(admission, self._clock.now_us())
            self._meter.stage("append", accepted, (self._clock.mono_us() - began_us) / 1e6, trace)
            self._answer(admission, group)
            failpoints.passing("append.after_reply")
            self._on_stored()
        elif isinstance(error, Refused) and error.verdict is not Verdict.STORE_UNAVAILABLE:
            admission.refuse_all(int(error.verdict), error.detail, error.retry_delay_us)
            self._answer(admission, group)
        else:
            self._meter.shed(Verdict.STORE_UNAVAILABLE, group.messages)
            group.fail(error)
        self._settle_idle()
        self._arm(asyncio.get_running_loop())

    def _answer(self, admission: _core.Admission, group: _Group) -> None:
        group.answer(admission.replies())
        self._meter.admitted(_core.admit_counts(admission), self._rights.registry.campaign_id)

    def _settle_idle(self) -> None:
        if not self._lines.calls and not self._groups_in_flight:
            self._idle.set()
