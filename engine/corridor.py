"""The whole way on one screen: stages in order, started in order, stopped in reverse.

It holds the stages and what they share; what a stage does is in its own file. All methods belong to the loop's thread.

Invariants: nothing is accepted before recovery is done and the store's durability was found good; the first fatal error
of the store closes the door for good and is told by `broken`.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import sqlalchemy as sa
import structlog

from engine import _core, failpoints, sweep
from engine.append import Append
from engine.breaker import Breaker, RetryBudget
from engine.budgets import Budgets
from engine.clock import Clock
from engine.config import Settings
from engine.day_caps import DayCaps
from engine.dispatch import Dispatch
from engine.duty import Duty
from engine.entry import Reply, Several
from engine.errors import NotReady, Refused, StoreBroken, StoreLocked
from engine.finals import Finals
from engine.history import History
from engine.http_client import Exchange, HttpPool
from engine.lease import Lease
from engine.look_up import ListQuery, LookUp
from engine.meter import Meter
from engine.metrics import Metrics
from engine.providers.telnyx import link
from engine.record import Inbound, Record
from engine.refill import Refill
from engine.registry.days import DEFAULT_TIME_ZONE, day_of
from engine.registry.snapshot import RegistryRows, ensure_provider, snapshot
from engine.rights import Rights
from engine.secrets import Secrets
from engine.stores.opened import store_of
from engine.stores.store import SHARDS, Callbacks, GroupStats, LedgerRow, Run
from engine.sweep import Sweep
from engine.traces import Traces

if TYPE_CHECKING:
    from engine.redis_access import Access

_log = structlog.get_logger("longwave.corridor")

T = TypeVar("T")

US: Final = 1_000_000
# At a stop the day's ledgers are given so long to be written, whatever is left of the grace.
LEDGERS_S: Final = 1.0
# Of what is to end, how often it is told.
CANCEL_EVERY_S: Final = 0.5
# The number in ids of a process that has the store alone, unless it is set.
ALONE: Final = 1


class RegistryListener(Protocol):
    """Whoever wants to know that the registry changed, such as the authenticator."""

    def __call__(self, rows: RegistryRows, control: sa.Connection) -> Callable[[], None]:
        """Read on the writer's thread what is needed; the result is called on the loop's thread."""
        ...


class Corridor:
    """One engine over one store."""

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        metrics: Metrics,
        clock: Clock | None = None,
        traces: Traces | None = None,
    ) -> None:
        """Nothing is opened before `start`."""
        self.settings = settings
        self.metrics = metrics
        self.clock = clock or Clock(settings.clock_offset_ms)
        self._secrets = secrets
        self.traces = traces
        self._meter = Meter(metrics, traces)
        self._listeners: list[RegistryListener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._not_ready: str | None = "starting"
        self._draining = False
        self._closing = contextlib.AsyncExitStack()
        self._registry_changing = asyncio.Lock()
        self._registry_rows: RegistryRows | None = None
        self._tell: Callable[[], None] | None = None
        self.finals = Finals(settings.cache_bytes)
        metrics.cache_bytes.set_function(lambda: self.finals.bytes)
        metrics.held_messages_max.set(settings.held_messages_max)
        self.broken: asyncio.Future[StoreBroken] = asyncio.get_event_loop().create_future()
        self.started_us = self.clock.mono_us()
        self.provider_name = settings.provider

    def on_registry(self, listener: RegistryListener) -> None:
        """Tell `listener` of the registry now and at every change; call before `start`."""
        self._listeners.append(listener)

    # Start and stop.

    async def start(self) -> None:
        """Open, migrate, recover, then open the door.

        Raises ConfigError, StoreLocked, StoreTooNew or the driver's errors.
        """
        settings = self.settings
        failpoints.arm(settings.failpoint)
        # Before the store is joined: a file that is amiss must not make other nodes give up shards.
        redis = self._redis_access() if settings.redis_url else None
        self.history = History(settings.history_file, self.clock)
        self._closing.callback(self.history.close)
        self.store = store_of(settings, self.clock, self.metrics)
        self._closing.push_async_callback(self.store.close)
        asked_us = self.clock.mono_us()
        await self.store.open(Callbacks(self.fail, self._on_group, self._on_full))
        self.store_name = self.store.name
        self.look_up = LookUp(self.store, self.provider_name, self.clock, self.metrics, self.finals)
        self._closing.push_async_callback(self.look_up.close)
        self._shared = shared = self.store.shared
        self.duty = Duty(self, shared)
        if shared is None:
            run = await self._begin_alone()
            await self._assemble(ALONE if settings.node is None else settings.node, run.last_id)
            self._keep_lease(asked_us)
            await self.duty.begin(run)
        else:
            await self._assemble(*await shared.join())
            self._keep_lease(asked_us)
            self.scheduler.disown(range(SHARDS))
            await self.duty.join(sends="dispatch" in settings.roles)
        self.start_tasks(
            (
                self.every(settings.registry_revalidate_ms / 1000, self._revalidate),
                self.every(settings.durability_check_s, self._check_durability),
                # Not with the sweep, which only owners of shards begin: who only takes messages counts, too.
                self.every(sweep.QUEUE_EVERY_S, self.sweep.count_queue),
            )
        )
        if shared is not None and redis is not None:
            self._join_redis(redis)
        self.append.open()
        self._not_ready = None
        self.metrics.store_up.set(1)
        self.metrics.store_durable.set(1)

    def _redis_access(self) -> "Access":
        # The client is an extra, loaded only where it is set.
        from engine.redis_access import access_of  # noqa: PLC0415

        return access_of(self.settings)

    def _join_redis(self, access: "Access") -> None:
        from engine.finals_redis import RedisFinals  # noqa: PLC0415 - as above
        from engine.finals_seal import seals_of  # noqa: PLC0415 - as above
        from engine.hints import Hints  # noqa: PLC0415 - as above

        hints = Hints(access, self.metrics, self._heard, self.finals.forget)
        self._closing.push_async_callback(hints.close)
        hints.start()
        self._tell = hints.tell
        if self.settings.redis_cache:
            kept = RedisFinals(access, seals_of(self._secrets)[0], self.clock, self.metrics)
            self._closing.push_async_callback(kept.close)
            self.look_up.second_level = kept

    def _heard(self) -> None:
        """Another node committed something: look, as at the next turn anyway."""
        self.look_up.events_moved()
        self.duty.look()

    def _keep_lease(self, asked_us: int) -> None:
        self.lease.start(asked_us)
        self._closing.callback(self.lease.stop)

    async def _begin_alone(self) -> Run:
        run = await self.store.begin_run()
        if run is None:
            raise StoreLocked("the store has another owner")
        return run

    async def _assemble(self, node: int, last_id: int) -> None:
        settings, clock = self.settings, self.clock
        provider: int = await self.run_control_quietly(partial(ensure_provider, provider=self.provider_name))
        rows: RegistryRows = await self.run_control_quietly(self._read_registry)
        self.rights = Rights(registry_of(rows), _core.Consent([]), caps_of(rows))
        self.admitter = _core.Admitter({"batch_messages_max": settings.batch_messages_max}, node, last_id)
        config = {
            "held_messages_max": settings.held_messages_max,
            "provider": provider,
            "leased_budgets": int(self._shared is not None),
        }
        self.scheduler = _core.Scheduler(config, self.rights.registry, clock.mono_us())
        self.settler = _core.Settler(
            {
                "attempts_max": settings.attempts_max,
                "reconcile_wait_us": int(settings.reconcile_wait_s * US),
                "no_receipt_after_us": int(settings.no_receipt_after_h * 3600 * US),
                "lookup_after_us": int(settings.lookup_after_min * 60 * US),
                "backoff_base_us": settings.backoff_base_ms * 1000,
                "backoff_cap_us": int(settings.backoff_cap_s * US),
                "honours_keys": int(settings.telnyx_honours_keys),
                "key_window_us": link.KEY_WINDOW_US,
            }
        )
        self.day_caps = DayCaps(self.store, self.scheduler, clock)
        if self._shared is None:
            self.day_caps.restore(await self.store.ledgers())
        self._set_days(rows)
        budget = RetryBudget(percent=settings.retry_budget_percent)
        self.record = Record(
            self.store,
            self.rights,
            self.scheduler,
            self.settler,
            self.admitter,
            clock,
            self._meter,
            self.history,
            budget,
            provider=provider,
            provider_name=self.provider_name,
            on_recorded=self.moved,
        )
        self.refill = Refill(self.store, self.scheduler, clock, on_loaded=self._read_back)
        self.record.webhook_keys = link.webhook_keys(settings, self._secrets)
        self.link = await link.open_link(settings, self._secrets, provider, self.store)
        self.dispatch = Dispatch(
            self.store,
            self.record,
            self.rights,
            self.scheduler,
            self.settler,
            clock,
            self._meter,
            self.history,
            Breaker(
                window_s=settings.breaker_window_s,
                attempts_min=settings.breaker_attempts_min,
                failure_percent=settings.breaker_failure_percent,
                open_s=settings.breaker_open_s,
            ),
            budget,
            self.link,
            in_flight_max=settings.in_flight_max,
            send_us=int(settings.send_s * US),
            on_popped=self._on_popped,
            on_registry_moved=self.reload,
        )
        self.budgets = None
        if self._shared is not None:
            self.budgets = Budgets(self._shared, self.scheduler, self.rights, clock, on_granted=self.dispatch.granted)
        self.append = Append(
            self.store,
            self.admitter,
            self.rights,
            self.scheduler,
            clock,
            self._meter,
            self.history,
            linger_s=settings.group_linger_ms / 1000,
            group_messages_max=settings.group_messages_max,
            queue_target_s=settings.queue_target_ms / 1000,
            pushes_ordered=self._shared is None,
            on_handed=self.duty.look,
            on_stored=self.moved,
        )
        self.lease = Lease(
            self.store.heart(),
            clock,
            lease_s=settings.lease_s,
            heartbeat_s=settings.heartbeat_s,
            send_s=settings.send_s,
            margin_s=settings.margin_s,
            on_lost=self._lost_from_thread(),
        )
        if settings.telnyx_api_key is not None:
            self.dispatch.connect(self._make_pool)
        else:
            _log.warning("LONGWAVE_TELNYX_API_KEY is not set: messages are held, not sent")
        self.sweep = Sweep(self)

    def _on_popped(self) -> None:
        self.refill.look()
        if self.budgets is not None:
            self.budgets.look()

    def _make_pool(self, on_results: Callable[[list[Exchange]], None]) -> HttpPool:
        self.pool = link.make_pool(self.settings, self.clock, self.lease.may_send, on_results)
        return self.pool

    def begin_days(self, ledgers: Sequence[LedgerRow]) -> None:
        """Begin with the day ledgers as the store has them; `reload` sets the days."""
        self.day_caps = DayCaps(self.store, self.scheduler, self.clock)
        self.day_caps.restore(ledgers)

    async def reopen_link(self) -> None:
        """Learn the recipes that other nodes stored."""
        self.link = self.dispatch.link = await link.open_link(
            self.settings, self._secrets, self.link.provider, self.store
        )

    def start_tasks(self, works: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run these until the stop."""
        loop = asyncio.get_running_loop()
        self._tasks += [loop.create_task(work) for work in works]

    async def every(self, wait_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work again and again."""
        while True:
            await asyncio.sleep(wait_s)
            try:
                await work()
            except Exception:  # noqa: BLE001 - logged; the next round tries again
                _log.exception("periodic work failed")

    def drain(self, because: str = "the server drains") -> None:
        """Refuse new work from now on, for good; what was taken up goes on."""
        self._draining = True
        self._shut(because)

    def _shut(self, because: str) -> None:
        self._not_ready = because
        if hasattr(self, "append"):
            self.append.close(because)

    async def stop(self, grace_s: float) -> None:
        """Finish what was taken up, then close everything. Safe to call after a failed start."""
        self.drain()
        left = set(self._tasks)
        while left:
            # Again and again: a driver that connects at the moment of a cancellation may swallow it (`wait_for`).
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_EVERY_S)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "append") and not self.broken.done():
            loop = asyncio.get_running_loop()
            until_s = loop.time() + grace_s
            with contextlib.suppress(TimeoutError):  # who is not answered by then is told nothing: unknown
                await asyncio.wait_for(self.append.drained(), grace_s)
            await self.refill.stop()
            if self.budgets is not None:
                await self.budgets.stop()
            await self.dispatch.stop(max(0, until_s - loop.time()))
            await self.record.drained(max(0, until_s - loop.time()))
            # A full disk keeps the ledgers as the intents wrote them; the stop goes on.
            with contextlib.suppress(TimeoutError, Refused):
                await asyncio.wait_for(self.sweep.write_ledgers(), LEDGERS_S)
        await self._closing.aclose()

    def not_ready(self) -> str | None:
        """Why no work is to be brought here; None when it is."""
        if self._not_ready is None and self.lease.lapsed:
            return "the leases of shards are not renewed: nothing leaves"
        if self._not_ready is None and not self._shared_alive():
            return "the node's lease is not renewed: nothing is accepted"
        return self._not_ready

    def _shared_alive(self) -> bool:
        """Whether ids that this process gives are surely its own."""
        return self._shared is None or self.lease.may_accept

    # What the transports call.

    def submit(self, kind: int, tenant: int, request: bytes, deadline_us: int) -> asyncio.Future[Reply]:
        """See `Append.submit`."""
        if not self._shared_alive():
            refused: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            refused.set_exception(_not_reached())
            return refused
        return self.append.submit(kind, tenant, request, deadline_us)

    def submit_several(self, several: Several) -> None:
        """See `Append.submit_several`."""
        if self._shared_alive():
            self.append.submit_several(several)
        else:
            several.asker.failed(several.tags, _not_reached())

    async def get_message(self, tenant: int, identity: int) -> bytes | None:
        """The encoded GetMessageResponse; None for what is not this tenant's."""
        return await self.look_up.get(self.rights.registry, tenant, identity)

    async def list_messages(self, tenant: int, query: ListQuery) -> bytes:
        """The encoded ListMessagesResponse."""
        return await self.look_up.page(self.rights.registry, tenant, query)

    async def cancel_message(self, tenant: int, identity: int) -> tuple[bytes | None, bool]:
        """(the encoded Message after it, whether it came too late); None for what is not this tenant's."""
        if await self.store.view(tenant, identity) is None:
            return None, False
        row, too_late = await self.record.cancel(tenant, identity)
        campaign = self.rights.registry.campaign_id(row[2]) or ""
        return _core.message_bytes(row, campaign, self.provider_name), too_late

    async def add_opt_out(self, tenant: int, recipient: int) -> tuple[int, int]:
        """See `Record.add_opt_out`."""
        return await self.record.add_opt_out(tenant, recipient)

    async def remove_opt_out(self, tenant: int, recipient: int) -> bool:
        """See `Record.remove_opt_out`."""
        return await self.record.remove_opt_out(tenant, recipient)

    async def list_opt_outs(self, tenant: int, after: int, rows_max: int) -> list[tuple[int, int, int]]:
        """(recipient, source, since) by number."""
        return await self.store.opt_outs_of(tenant, after, rows_max)

    async def read_events(self, tenant: int, after_position: int, rows_max: int) -> tuple[list[bytes], int]:
        """See `Store.events`."""
        began_us = self.clock.mono_us()
        rows, reached = await self.store.events(tenant, after_position, rows_max)
        self._meter.stage("notify", len(rows), (self.clock.mono_us() - began_us) / US)
        return rows, reached

    def event_slot(self, tenant: int) -> int:
        """See `Store.slot_of`."""
        return self.store.slot_of(tenant)

    async def event_bounds(self, tenant: int) -> tuple[int, int]:
        """See `Store.event_bounds`."""
        return await self.store.event_bounds(tenant)

    async def wait_for_events(self, tenant: int, after_position: int, wait_s: float) -> None:
        """See `LookUp.wait_for_events`."""
        await self.look_up.wait_for_events(tenant, after_position, wait_s)

    async def receive(self, batch: Sequence[Inbound]) -> list[int]:
        """See `Record.receive`."""
        return await self.record.receive(batch)

    async def run_control(self, function: Callable[[sa.Connection], T]) -> T:
        """Run a control-plane function in its own transaction, then take over what it changed."""
        result = await self.run_control_quietly(function)
        await self.registry_changed()
        return result

    async def run_control_quietly(self, function: Callable[[sa.Connection], T]) -> T:
        """As `run_control`, for what changes no rights."""
        return await self.store.run_control(function)

    def stats(self) -> dict[str, Any]:
        """What /admin/stats shows."""
        return {
            "store": self.store_name,
            "owner": self.duty.owner,
            "shards": SHARDS if self.duty.shards is None else len(self.duty.shards),
            "provider": self.provider_name,
            "uptime_s": round((self.clock.mono_us() - self.started_us) / US, 1),
            "not_ready": self.not_ready(),
            "held_messages": len(self.scheduler),
            "waiting": dict(self.scheduler.waiting()),
            "waiting_by_class": dict(self.scheduler.waiting_by_class()),
            "attempts_in_flight": self.dispatch.in_flight,
            "calls_waiting": self.append.waiting,
            "levels_shed": self.append.floor,
            "opt_outs": len(self.rights.consent),
            "registry_version": self.rights.registry.version,
            "disk_full": self.store.full,
            "backlog": self.sweep.backlog,
        }

    # Registry.

    def _read_registry(self, control: sa.Connection) -> RegistryRows:
        rows = snapshot(control)
        self._applies = [listener(rows, control) for listener in self._listeners]
        return rows

    async def _revalidate(self) -> None:
        found = await self.store.registry_version()
        if found is not None and found != self.rights.registry.version:
            await self.reload()
        elif self._registry_rows is not None and self.duty.owner:
            await self._count_days(self._registry_rows)  # of caps set without an engine, or whose count was cut short

    async def registry_changed(self) -> None:
        """Take over what was stored; what cannot be read now is read when the registry is looked at again.

        It refuses nobody: the change is stored, and whoever made it would hear that nothing was.
        """
        try:
            await self.reload()
        except Exception as error:  # noqa: BLE001 - asked again, however it failed
            _log.warning("a change of the registry could not be read yet", error=type(error).__name__)

    async def reload(self) -> None:
        """Take over the registry as the store has it now, for everyone who listens."""
        async with self._registry_changing:
            rows = await self.run_control_quietly(self._read_registry)
            self.rights.registry, self.rights.caps = registry_of(rows), caps_of(rows)
            self.scheduler.set_registry(self.rights.registry, self.clock.mono_us())
            self._set_days(rows)
        self.dispatch.wake()
        if self.duty.owner or self._shared is None:
            await self._count_days(rows)  # whoever set a cap hears of it when it counts

    async def _count_days(self, rows: RegistryRows) -> None:
        if await self.day_caps.count(rows):
            self.dispatch.wake()

    def _set_days(self, rows: RegistryRows) -> None:
        for apply in self._applies:
            apply()
        self._registry_rows = rows
        self._meter.set_tenants(dict(rows.tenant_ids), ((key, tenant) for key, tenant, *_ in rows.campaigns))
        now_us = self.clock.now_us()
        self.day_caps.set_days(rows)
        self.settler.set_resets(day_of(DEFAULT_TIME_ZONE, now_us)[1], day_of("UTC", now_us)[1])

    def roll_days(self) -> None:
        """Begin a new day where one ended."""
        if self._registry_rows is not None:
            now_us = self.clock.now_us()
            self.day_caps.set_days(self._registry_rows)
            self.settler.set_resets(day_of(DEFAULT_TIME_ZONE, now_us)[1], day_of("UTC", now_us)[1])
            self.dispatch.wake()

    # What the store tells.

    def moved(self) -> None:
        """Something was stored: look at events, and at what may leave."""
        self.look_up.events_moved()
        self.dispatch.wake()
        if self._tell is not None:
            self._tell()

    def _read_back(self) -> None:
        if hasattr(self, "dispatch"):  # at recovery there is none to wake
            self.dispatch.wake()

    def _on_group(self, stats: GroupStats) -> None:
        self.metrics.active_connections.set(self.store.connections)
        del stats

    def fail(self, error: BaseException) -> None:
        """Nothing can go on: the process is to end, and to recover at its next start."""
        self.drain("the store failed")
        self.metrics.store_durable.set(0)
        if not self.broken.done():
            self.broken.set_result(error if isinstance(error, StoreBroken) else StoreBroken(str(error)))

    def _lost_from_thread(self) -> Callable[[str], None]:
        loop = asyncio.get_running_loop()

        def lost(why: str) -> None:
            loop.call_soon_threadsafe(self.fail, StoreBroken(f"{why}: this process stops"))

        return lost

    def _on_full(self, full: bool) -> None:  # noqa: FBT001 - the store's callback
        self.metrics.store_full.set(int(full))
        if not full and hasattr(self, "record"):
            self.record.look_at_room()
        (_log.error if full else _log.info)("store full" if full else "store has room again")

    async def _check_durability(self) -> None:
        if self.store.full:
            await self.store.make_room()
        try:
            findings = await self.store.check()
        except Exception:
            self.metrics.store_up.set(0)
            raise
        self.metrics.store_up.set(1)
        bad = [finding for finding in findings if not finding.ok]
        self.metrics.store_durable.set(int(not bad))
        below = "the store is below its durability level"
        if bad:
            _log.error("store below durability", findings=[f"{f.name}={f.found}" for f in bad])
            if not self._draining:
                self._shut(below)
        elif self._not_ready == below and not self._draining:
            self._not_ready = None
            self.append.open()


def registry_of(rows: RegistryRows) -> _core.Registry:
    """The core's picture of these rows."""
    return _core.Registry(rows.version, rows.tenants, rows.campaigns, rows.quotas)


def caps_of(rows: RegistryRows) -> frozenset[int]:
    """Keys of the day caps among these rows."""
    return frozenset(quota for quota, _ in rows.time_zones)


def _not_reached() -> NotReady:
    return NotReady("the store was not reached for too long; nothing was stored")
