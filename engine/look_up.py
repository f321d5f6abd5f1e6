"""Look-ups: messages as they stand in the store, rendered for callers, and the waking of those who follow events.

It changes nothing. A message that never changes again is answered from memory, from Redis where that is on, else from
the store (`engine/finals.py`). Invariant: rows of another tenant are never read, not even to be thrown away.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from engine import _core
from engine.clock import Clock
from engine.finals import Finals, answer_for_good
from engine.metrics import Metrics
from engine.stores.store import ID_MAX, Row, Shared, Store, Stretch

# Rows looked at for one page: filters apply behind the tenant's index, so a rare match must not cost a whole scan.
ROWS_SCANNED_MAX: Final = 20_000
# How often the log is looked at for events of other processes, while anybody waits for some.
LOOK_S: Final = 0.25

_log = structlog.get_logger("longwave.watch")


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What ListMessages asks for, checked. Zero and empty mean: no such filter."""

    page_size: int
    before_id: int
    campaign_id: str
    states: tuple[int, ...]
    recipient: int
    client_reference: str
    accepted_from_us: int
    accepted_until_us: int
    token_tail: Callable[[int], str]
    """Renders the token of the page that ends with this id."""


class SecondLevel(Protocol):
    """Answers that never change, kept where other nodes find them, too (`engine/finals_redis.py`)."""

    async def find(self, tenant: int, identity: int) -> tuple[bytes, int] | None:
        """(the answer, for how many µs it may be kept); None whenever it is not surely there. Never raises."""
        ...

    def keep(self, tenant: int, identity: int, answer: bytes, age_us: int) -> None:
        """Keep an answer that was asked of the store `age_us` ago. Returns at once, whatever becomes of it."""
        ...


class LookUp:
    """Reads for callers."""

    def __init__(self, store: Store, provider_name: str, clock: Clock, metrics: Metrics, finals: Finals) -> None:
        """Read from `store`, unless `finals` has it."""
        self._store = store
        self._clock = clock
        self._finals = finals
        self.second_level: SecondLevel | None = None
        """Asked between memory and the store."""
        lookups = metrics.cache_lookups
        self._local, self._redis, self._stored = (lookups.labels(level) for level in ("local", "redis", "store"))
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None
        self._provider_name = provider_name
        self._events_moved = asyncio.Event()

    async def get(self, registry: _core.Registry, tenant: int, identity: int) -> bytes | None:
        """The encoded GetMessageResponse; None for what is not this tenant's."""
        began_us = self._clock.mono_us()
        answer = self._finals.find(tenant, identity, began_us)
        if answer is not None:
            self._local.inc()
            return answer
        second = self.second_level
        found = None if second is None else await second.find(tenant, identity)
        if found is not None:
            self._redis.inc()
            answer, left_us = found
            self._finals.keep(tenant, identity, answer, began_us, left_us)
            return answer
        row = await self._store.view(tenant, identity)
        self._stored.inc()
        if row is None:
            return None
        answer = answer_for_good(registry, row, self._provider_name)
        if answer is None:
            return _core.get_response(row, registry.campaign_id(row[2]) or "", self._provider_name)
        self._finals.keep(tenant, identity, answer, began_us)
        if second is not None:
            second.keep(tenant, identity, answer, self._clock.mono_us() - began_us)
        return answer

    async def page(self, registry: _core.Registry, tenant: int, query: ListQuery) -> bytes:
        """The encoded ListMessagesResponse; a page may be short and still have a next one."""
        campaign = 0
        if query.campaign_id:
            key = registry.campaign_key(tenant, query.campaign_id)
            if key is None:
                return _core.list_response([], "")
            campaign = key
        before = query.before_id or ID_MAX
        if query.accepted_until_us:
            before = min(before, _core.first_id_at(query.accepted_until_us))
        lowest = _core.first_id_at(query.accepted_from_us) if query.accepted_from_us else 0

        stretch = Stretch(
            before_id=before,
            lowest_id=lowest,
            campaign=campaign,
            states=query.states,
            recipient=query.recipient,
            rows_max=query.page_size + 1,
            scanned_max=ROWS_SCANNED_MAX,
        )
        began_us = self._clock.mono_us()
        rows, floor = await self._store.views(tenant, stretch)
        return self._render_page(registry, query, rows, floor, began_us)

    def _render_page(
        self, registry: _core.Registry, query: ListQuery, rows: list[Row], floor: int, began_us: int
    ) -> bytes:
        messages: list[bytes] = []
        for row in rows[: query.page_size]:
            if query.client_reference and _core.record_reference(row[24]) != query.client_reference:
                continue
            messages.append(_core.message_bytes(row, registry.campaign_id(row[2]) or "", self._provider_name))
            if self._finals.lacks(row[1], row[0], len(messages[-1])):
                self._keep_of_page(registry, row, began_us)
        token = ""
        if len(rows) > query.page_size:
            token = query.token_tail(rows[query.page_size - 1][0])
        elif floor:
            token = query.token_tail(floor)
        return _core.list_response(messages, token)

    def _keep_of_page(self, registry: _core.Registry, row: Row, began_us: int) -> None:
        """Whoever lists messages looks at some of them next. A walk through a campaign pushes nothing out."""
        with contextlib.suppress(ValueError):  # a damaged timeline: the page has none, whoever asks for it is told
            answer = answer_for_good(registry, row, self._provider_name)
            if answer is not None:
                self._finals.keep(row[1], row[0], answer, began_us, in_room=True)

    # Events.

    def events_moved(self) -> None:
        """Wake whoever waits: something was committed."""
        self._events_moved.set()
        self._events_moved = asyncio.Event()

    async def wait_for_events(self, tenant: int, after_position: int, wait_s: float) -> None:
        """Return when something may have been committed after a position of a tenant's log, or after `wait_s`."""
        moved = self._events_moved
        _, newest = await self._store.event_bounds(tenant)
        if newest > after_position:
            return
        self._waiting += 1
        self._look_at_others()
        try:
            async with asyncio.timeout(wait_s):
                await moved.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    def _look_at_others(self) -> None:
        """While anybody waits, see to it that events of other processes wake them, too."""
        shared = self._store.shared
        if shared is not None and self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(shared), name="events-of-others")

    async def _look(self, shared: Shared) -> None:
        seen = -1  # whoever waits looked before this began: the first look wakes them once for nothing
        try:
            while self._waiting:
                mark = await shared.events_mark()
                if mark != seen:
                    seen = mark
                    self.events_moved()
                await asyncio.sleep(LOOK_S)
        except Exception as error:  # noqa: BLE001 - whoever waits looks again, and begins anew
            _log.warning("events of other nodes not looked at", error=type(error).__name__)
        finally:
            self._looking = None

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
