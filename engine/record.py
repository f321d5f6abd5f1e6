"""Record: facts about messages (outcomes, receipts, timers, cancellations) become one guarded write, with its events.

It decides nothing (`rust_core/src/settle.rs` does) and sends nothing. After each commit memory follows the store:
copies are dropped, retries go back to schedule, consent forbids, waiting barriers are looked at again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from engine import _core, failpoints
from engine.breaker import RetryBudget
from engine.clock import Clock
from engine.errors import NotReady, Refused
from engine.handed import packed_webhook, unpacked_webhook
from engine.history import History
from engine.insist import Insist
from engine.meter import Meter
from engine.rights import Rights
from engine.stores.store import OPT_OUT_API, SHARDS, InboxKind, Received, Row, Shared, Store, Written

US: Final = 1_000_000
# A message whose facts the store refuses alone is looked at again so often: by then somebody may have mended its row.
ASIDE_S: Final = 60
ASIDE_MAX: Final = 10_000
RESCUED_AT_ONCE: Final = 100
# Whether attempts of other nodes to a number are over; inboxes are looked into as often.
BARRIER_LOOK_S: Final = 0.05
# So far apart at most are the wall clocks of two nodes, for how long a send may take.
CLOCKS_DIFFER_US: Final = 5_000_000
OPTED_OUT: Final = 2  # the gate, as the core numbers them
# Outcomes after which the provider is not asked again.
# By these the provider shows that it works, whatever it thinks of the message.
ENDED: Final = ("taken", "refused_for_good", "refused_for_now")
OK: Final = 200
UNAUTHORIZED: Final = 401
BAD_REQUEST: Final = 400
UNAVAILABLE: Final = 503

_STATUS_OF: Final = {
    "receipt": OK,
    "inbound": OK,
    "other": OK,
    # Signed by the provider, so a retry would bring the same: taken note of, changes nothing.
    "wrong_mac": OK,
    "bad_signature": UNAUTHORIZED,
    "stale": UNAUTHORIZED,
    "garbage": BAD_REQUEST,
}

_log = structlog.get_logger("longwave.record")


class Inbound(Protocol):
    """One webhook as the HTTP edge hands it over."""

    @property
    def query(self) -> bytes:
        """Raw query string of the callback URL."""
        ...

    @property
    def signature(self) -> bytes:
        """As the header has it."""
        ...

    @property
    def timestamp(self) -> bytes:
        """As the header has it."""
        ...

    @property
    def body(self) -> bytes:
        """Raw."""
        ...

    @property
    def received_us(self) -> int:
        """When it came, on the wall clock."""
        ...


@dataclass(slots=True)
class _Barrier:
    tenant: int
    recipient: int
    passed: asyncio.Future[None]
    lifted: bool = False


class Record:
    """The only place, beside append and the intent, from which messages are written."""

    def __init__(
        self,
        store: Store,
        rights: Rights,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        admitter: _core.Admitter,
        clock: Clock,
        meter: Meter,
        history: History,
        budget: RetryBudget,
        *,
        provider: int,
        provider_name: str,
        on_recorded: Callable[[], None],
    ) -> None:
        """`on_recorded` is called after each commit, when memory has followed."""
        self._store = store
        self._rights = rights
        self._scheduler = scheduler
        self._settler = settler
        self._admitter = admitter
        self._clock = clock
        self._meter = meter
        self._history = history
        self._budget = budget
        self._provider = provider
        self._provider_name = provider_name
        self._on_recorded = on_recorded
        self._shared = store.shared
        self._insist = Insist(store)
        self._aside: dict[int, int] = {}  # message: when to look at it again, on the boot clock
        self._barriers: list[_Barrier] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived: list[tuple[Sequence[Inbound], asyncio.Future[list[int]]]] = []
        self._receiving = False
        self._early_kept = 1  # receipts waiting for their attempt, never too low; exact from `start` on
        self.webhook_keys: _core.WebhookKeys | None = None

    def start(self, early_kept: int) -> None:
        """Settle from now on; the store holds so many early receipts."""
        self._early_kept = early_kept

    async def settle(self, facts: _core.Facts, stage: str = "record") -> list[Written]:
        """Record facts; returns after the commit, with memory following.

        A fact that the store refuses by itself is set aside, the others are recorded: then there are several commits.
        Raises Refused when the store takes nothing now: some may be recorded, and handing all in again is safe.
        """
        return await self._settled(facts, stage, self._hand_in(facts, stage))

    async def settle_surely(self, facts: _core.Facts) -> None:
        """Record facts that memory acted on, however often it takes; without effect only when the store ended."""
        await self._surely(facts, self._hand_in(facts, "record"))

    def settle_soon(self, facts: _core.Facts) -> None:
        """As `settle_surely`, but beside, and ahead of whatever is handed to the store after this call."""
        self.spawn(self._surely(facts, self._hand_in(facts, "record")))

    async def _surely(self, facts: _core.Facts, handed: asyncio.Future[Written]) -> None:
        first = [handed]

        async def hand_in() -> None:
            await self._settled(facts, "record", first.pop() if first else self._hand_in(facts, "record"))

        try:
            await self._insist.until_taken("record", hand_in)
        except Refused as error:
            # Lost to memory, not to the truth: the next start finds attempts without outcome, and all that is due.
            _log.error("not recorded: the store ended", stage="record", verdict=error.verdict.name, facts=len(facts))

    async def take_up_again(self, ids: Sequence[int]) -> None:
        """Load waiting messages into the scheduler as they stand in the store."""
        try:
            rows = await self._insist.until_taken("record", lambda: self._store.held(ids))
        except Refused:
            return  # the store ended, and the process with it: the next start loads them
        self._scheduler.load(rows, self._clock.now_us())

    def look_at_room(self) -> None:
        """The store has room again: what was refused is handed in at once."""
        self._insist.look()

    async def _settled(self, facts: _core.Facts, stage: str, handed: asyncio.Future[Written]) -> list[Written]:
        """Follow what was handed in; when it was refused for its data, find the one at fault by halves."""
        began_us = self._clock.mono_us()
        try:
            written = await handed
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - logged when one message is left
            if len(facts) > 1:
                found: list[Written] = []
                for half in facts.halves():
                    found += await self._settled(half, stage, self._hand_in(half, stage))
                return found
            return await self._settle_poison(facts, stage, error)
        traces = self._meter.traces
        trace = None if traces is None else traces.passed("record", facts.ids(), began_us, fact=_kind_of(facts))
        self._meter.stage("record", len(facts), (self._clock.mono_us() - began_us) / 1e6, trace)
        self.follow(written)
        return [written]

    async def _settle_poison(self, facts: _core.Facts, stage: str, error: Exception) -> list[Written]:
        [identity] = facts.ids()
        if facts.outcome_counts():
            _log.error(
                "outcome cannot be written; its attempt counts as unknown",
                stage=stage,
                message_id=_core.short_id(identity),
                error=type(error).__name__,
            )
            unknown = _core.Facts.recovered([identity])
            return await self._settled(unknown, stage, self._hand_in(unknown, stage))
        self.set_aside(identity, type(error).__name__)
        return []

    # Messages whose rows cannot be written.

    def set_aside(self, identity: int, why: str) -> None:
        """The store refuses this message's row: it holds no slot and nobody up, and is looked at again later."""
        _log.error("message set aside", stage="record", message_id=_core.short_id(identity), why=why)
        self._meter.metrics.messages_set_aside.inc()
        self._aside.pop(identity, None)
        if len(self._aside) >= ASIDE_MAX:
            self._aside.pop(next(iter(self._aside)))  # the next start looks at it
        self._aside[identity] = self._clock.mono_us() + ASIDE_S * US
        self._scheduler.given_up([identity])
        self.look_at_barriers()
        self._on_recorded()

    def is_aside(self, identity: int) -> bool:
        """Whether this message was set aside and its time has not come."""
        return identity in self._aside

    async def rescue(self, own_of: Callable[[Sequence[int]], Awaitable[list[int]]]) -> None:
        """Look again at messages that were set aside: an open attempt becomes UNKNOWN, a waiting one waits again.

        Only at those that are still this process's own.
        """
        if not self._aside:
            return
        mono_us = self._clock.mono_us()
        ids = [identity for identity, again_us in self._aside.items() if again_us <= mono_us][:RESCUED_AT_ONCE]
        for identity in ids:
            del self._aside[identity]
        ids = await own_of(ids) if ids else ids
        if ids:
            await self._surely(*self._recovering(ids))
            await self.take_up_again([identity for identity in ids if identity not in self._aside])

    def _recovering(self, ids: Sequence[int]) -> tuple[_core.Facts, asyncio.Future[Written]]:
        facts = _core.Facts.recovered(ids)
        return facts, self._hand_in(facts, "record")

    def _hand_in(self, facts: _core.Facts, stage: str) -> asyncio.Future[Written]:
        return self._store.settle(
            facts,
            self._settler,
            self._rights.registry,
            self._clock.now_us(),
            self._clock.seed(),
            stage=stage,
            scheduler=self._scheduler,
            provider=self._provider,
            # Over a shared store other nodes keep some, too.
            early_kept=self._shared is not None or self._early_kept > 0,
        )

    def follow(self, written: Written) -> None:
        """Let memory follow what was committed."""
        now_us, mono_us = self._clock.now_us(), self._clock.mono_us()
        settlement = written.settlement
        self._scheduler.apply(settlement, now_us, mono_us)
        if written.ledgers:
            self._scheduler.ledgers_stored(written.ledgers)
        if written.seen:
            self._scheduler.ledgers_seen(written.seen)
        self._early_kept += len(settlement.keep_rows())
        if written.load:
            # Only what the provider is offered again for reasons of its own costs the budget, not what was put back
            # because its campaign was paused, nor what was refused for its number's or its campaign's sake: that has a
            # bound of its own.
            self._budget.again(settlement.offered_again())
            self._scheduler.load(written.load, now_us)
        for tenant, recipient in written.opt_outs:
            self._forbid(tenant, recipient)
            self._take_effect_soon(tenant, recipient)
        self._meter.parked(settlement.parks())
        self._meter.settled(settlement.counts(), settlement.conflicts(), self._rights.registry.campaign_id)
        if self._history.on:
            self._history.note("recorded", changes=settlement.counts(), conflicts=settlement.conflicts())
        self.look_at_barriers()
        self._on_recorded()

    # Webhooks.

    async def receive(self, batch: Sequence[Inbound]) -> list[int]:
        """Record webhooks; the HTTP status of each. Anything that raises means: not stored, to be sent again.

        One group is recorded at a time: what arrives meanwhile makes the next, so that groups grow with the load.
        """
        answered: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._arrived.append((batch, answered))
        if not self._receiving:
            self._receiving = True
            self.spawn(self._receive_arrived())
        return await answered

    async def _receive_arrived(self) -> None:
        try:
            while self._arrived:
                group, self._arrived = self._arrived, []
                await self._receive_group(group)
        finally:
            self._receiving = False

    async def _receive_group(self, group: list[tuple[Sequence[Inbound], asyncio.Future[list[int]]]]) -> None:
        try:
            statuses = await self._receive_sound([item for batch, _ in group for item in batch])
        except BaseException as error:
            for _, answered in group:
                if not answered.done():
                    answered.set_exception(error if isinstance(error, Exception) else NotReady())
            if not isinstance(error, Exception):
                raise
            return
        start = 0
        for batch, answered in group:
            if not answered.done():
                answered.set_result(statuses[start : start + len(batch)])
            start += len(batch)

    async def _receive_sound(self, batch: Sequence[Inbound]) -> list[int]:
        """Record a batch; a webhook whose data the store refuses is found by halves and is to be sent again alone."""
        try:
            return await self._receive(batch)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - logged when one webhook is left
            if len(batch) == 1:
                _log.exception("webhook cannot be stored", stage="record", error=type(error).__name__)
                return [UNAVAILABLE]
        middle = len(batch) // 2
        return [*await self._receive_sound(batch[:middle]), *await self._receive_sound(batch[middle:])]

    async def _receive(self, batch: Sequence[Inbound]) -> list[int]:
        keys = self.webhook_keys
        if keys is None:
            return [UNAVAILABLE] * len(batch)
        began_us = self._clock.mono_us()
        items = [(item.query, item.signature, item.timestamp, item.body) for item in batch]
        now_us = self._clock.now_us()
        # Signatures are checked with the GIL released, on a thread: the loop goes on.
        webhooks = await asyncio.to_thread(_core.Webhooks.read, items, keys, now_us)
        verdicts = webhooks.verdicts()
        self._meter.forged(self._provider_name, verdicts.count("wrong_mac"))
        if webhooks.good():
            bodies = [item.body for item in batch]
            if self._shared is not None:
                await self._receive_by_shard(self._shared, webhooks, items, now_us)
            else:
                await self._store_webhooks(webhooks, bodies, now_us)
        trace = None
        if (traces := self._meter.traces) is not None:
            named = webhooks.named(webhooks.good())
            came = [(message, batch[position].received_us) for position, message in named]
            traces.received(f"/webhooks/{self._provider_name}", came, OK)
            trace = traces.passed("record", [message for message, _ in came], began_us, fact="receipt")
        self._meter.stage("record", len(items), (self._clock.mono_us() - began_us) / 1e6, trace)
        return [_STATUS_OF[verdict] for verdict in verdicts]

    async def receive_handed(self, payloads: Sequence[bytes], at_us: int, positions: Sequence[int]) -> None:
        """Record webhooks that another node received at this time, and remove these rows of the inbox."""
        shared, keys = self._shared, self.webhook_keys
        if shared is None or keys is None:
            return
        items = [unpacked_webhook(payload) for payload in payloads]
        webhooks = await asyncio.to_thread(_core.Webhooks.read, items, keys, at_us)
        if not webhooks.good():
            _log.error("webhooks of another node are not believed here: keys differ", stage="record")
            await shared.done(positions)
            return
        began_us = self._clock.mono_us()
        await self._store_webhooks(webhooks, [body for *_, body in items], self._clock.now_us(), positions)
        if self._meter.traces is not None:
            messages = [message for _, message in webhooks.named(webhooks.good())]
            self._meter.traces.passed("record", messages, began_us, fact="receipt")

    async def _receive_by_shard(
        self,
        shared: Shared,
        webhooks: _core.Webhooks,
        items: Sequence[tuple[bytes, bytes, bytes, bytes]],
        now_us: int,
    ) -> None:
        """Settle receipts of our shards, hand the others to their owners, and store here what concerns no message.

        So a STOP is in force when it is answered, whoever owns what; what a receipt is about is in its owner's memory.
        """
        if len(shared.shards) == SHARDS:
            await self._store_webhooks(webhooks, [body for *_, body in items], now_us)
            return
        good = webhooks.good()
        only = webhooks.provider_only(good)
        messages = dict(webhooks.named(good))
        if only:
            messages |= await shared.resolve(only, self._provider, now_us)
        shards = await shared.shards_of(sorted(set(messages.values()))) if messages else {}
        own = set(shared.shards)
        ours: list[int] = []
        nobodys: list[int] = []
        elsewhere: list[tuple[int, bytes]] = []
        for position in good:
            shard = shards.get(messages.get(position, 0))
            if shard is None:
                nobodys.append(position)
            elif shard in own:
                ours.append(position)
            else:
                elsewhere.append((shard, packed_webhook(items[position])))
        # First what is ours, in the turn of the loop in which it was seen to be: a shard that goes waits for it.
        if ours:
            await self._store_webhooks(webhooks.of(ours), [items[position][3] for position in ours], now_us)
        if elsewhere:
            await shared.hand_over(InboxKind.WEBHOOK, now_us, elsewhere)
        if nobodys:
            bodies = [items[position][3] for position in nobodys]
            received = await shared.receive_inbound(*self._values(webhooks.of(nobodys), bodies, now_us))
            self._follow_consents(received)
            self._meter.inbound(received.inbound)
        self._on_recorded()

    def _follow_consents(self, received: Received) -> None:
        for tenant, recipient, out in received.consents:
            if out:
                self._forbid(tenant, recipient)
                self._take_effect_soon(tenant, recipient)
            else:
                self._allow(tenant, recipient)

    def _values(self, webhooks: _core.Webhooks, bodies: Sequence[bytes], now_us: int) -> tuple[Any, ...]:
        """What storing webhooks takes."""
        parts = (self._provider, self._scheduler, self._settler, self._rights.registry, self._admitter)
        return webhooks, bodies, *parts, now_us, self._clock.seed()

    async def _store_webhooks(
        self, webhooks: _core.Webhooks, bodies: Sequence[bytes], now_us: int, positions: Sequence[int] = ()
    ) -> None:
        # Counted before it is handed in: an outcome that follows in the same group must look for what this keeps.
        self._early_kept += len(bodies)
        values = self._values(webhooks, bodies, now_us)
        if positions and self._shared is not None:
            received = await self._shared.receive(*values, positions)  # type: ignore[call-arg] # a tuple of any length
        else:
            received = await self._store.receive(*values)
        self._early_kept += received.kept_early - len(bodies)
        if received.written is not None:
            self.follow(received.written)
        self._follow_consents(received)
        self._meter.inbound(received.inbound)
        self._on_recorded()

    # Consent.

    async def add_opt_out(self, tenant: int, recipient: int) -> tuple[int, int]:
        """Forbid a recipient; returns (source, since) when nothing to it starts or is on the wire any more."""
        now_us = self._clock.now_us()
        source, since_us, new = await self._store.add_opt_out(tenant, recipient, OPT_OUT_API, now_us, "api")
        self._forbid(tenant, recipient)
        if new:
            self._on_recorded()  # its event is committed; watchers need not wait for the barrier
        if self._shared is not None:
            # Attempts of all nodes are to be over: one of them sees to it, and says so in the store.
            while await self._shared.barrier_open(tenant, recipient):  # noqa: ASYNC110 - another process says so
                await asyncio.sleep(BARRIER_LOOK_S)
        elif new:
            # Goes on when the caller is gone: whoever watches events waits for it too.
            await asyncio.shield(self.spawn(self.take_effect(tenant, recipient)))
        else:
            await self._passed(tenant, recipient)
        return source, since_us

    async def remove_opt_out(self, tenant: int, recipient: int) -> bool:
        """Lift an opt-out; False when there was none."""
        now_us = self._clock.now_us()
        removed = await self._store.remove_opt_out(tenant, recipient, OPT_OUT_API, now_us, now_us)
        if removed:
            self._allow(tenant, recipient)
            self._on_recorded()
        return removed

    async def follow_consent(self, tenant: int, recipient: int, *, out: bool) -> None:
        """Let memory follow what some node stored, if it is still so."""
        found = await self._store.opt_outs_of(tenant, recipient - 1, 1)
        still = bool(found) and found[0][0] == recipient
        if out and still:
            self._forbid(tenant, recipient)
        elif not out and not still:
            self._allow(tenant, recipient)

    def _allow(self, tenant: int, recipient: int) -> None:
        self._rights.consent.remove(tenant, recipient)
        for barrier in self._barriers:
            barrier.lifted |= (barrier.tenant, barrier.recipient) == (tenant, recipient)

    def _forbid(self, tenant: int, recipient: int) -> None:
        self._rights.consent.insert(tenant, recipient)
        waiting = self._scheduler.remove_recipient(tenant, recipient)
        if waiting:
            # Ahead of those that their ordering keys let go now: the log is to say in this order what happened.
            self.settle_soon(_core.Facts.gates([(identity, OPTED_OUT) for identity in waiting]))

    def _take_effect_soon(self, tenant: int, recipient: int) -> None:
        """Over a shared store the inbox says who does this."""
        if self._shared is None:
            self.spawn(self.take_effect(tenant, recipient))

    async def take_effect(self, tenant: int, recipient: int) -> None:
        """Wait for attempts that were written down before the opt-out, then say that it is in effect."""
        if self._shared is not None:
            # Whoever writes one down holds what the opt-out held: none is on its way that the store does not show.
            while await self._is_open_to(self._shared, tenant, recipient):  # noqa: ASYNC110 - another process says so
                await asyncio.sleep(BARRIER_LOOK_S)
        elif await self._passed(tenant, recipient):
            return  # another opt-out may follow, with a barrier of its own
        now_us = self._clock.now_us()
        await self._insist.until_taken("opt_out", lambda: self._store.mark_effective([(tenant, recipient)], now_us))
        if self._history.on:
            self._history.note("opt_out_effective", tenant=tenant)
        self._on_recorded()

    async def _is_open_to(self, shared: Shared, tenant: int, recipient: int) -> bool:
        """Whether an attempt to this recipient may be on the wire, of whatever node."""
        ids = await shared.open_to(tenant, recipient, self._clock.now_us() - CLOCKS_DIFFER_US)
        return any(identity not in self._aside for identity in ids)

    async def _passed(self, tenant: int, recipient: int) -> bool:
        """Wait until no attempt is open that began before; True when the opt-out was lifted meanwhile."""
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        barrier = _Barrier(tenant, recipient, passed)
        self._barriers.append(barrier)
        self.look_at_barriers()
        await passed
        return barrier.lifted

    def look_at_barriers(self) -> None:
        """Let go of each opt-out behind which no attempt is open any more."""
        if not self._barriers:
            return
        still = []
        for barrier in self._barriers:
            if self._scheduler.outstanding_to(barrier.tenant, barrier.recipient):
                still.append(barrier)
            elif not barrier.passed.done():
                barrier.passed.set_result(None)
        self._barriers = still

    # Cancellation.

    async def cancel(self, tenant: int, identity: int) -> tuple[Row, bool]:
        """Cancel one message that is known to be this tenant's; returns (its view after, came too late)."""
        facts = _core.Facts.cancel([identity])
        registry, now_us, seed = self._rights.registry, self._clock.now_us(), self._clock.seed()
        written, row = await self._store.cancel(facts, self._settler, registry, now_us, seed, tenant=tenant)
        self.follow(written)
        return row, identity in written.settlement.too_late()

    # Tasks.

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine beside; its failure is logged, and `drained` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("record task failed", stage="record", error=type(task.exception()).__name__)

    async def drained(self, wait_s: float) -> None:
        """Wait for spawned work, at most so long; the rest is cancelled (it is taken up again after a start)."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=wait_s)
        for task in list(self._tasks):
            task.cancel()

    # Outcomes.

    async def outcomes(self, exchanges: list[tuple[_core.Request, int, int, int | None, bytes]]) -> None:
        """Record what became of attempts."""
        facts = _core.Facts.outcomes(exchanges)
        counts = facts.outcome_counts()
        self._meter.attempts(self._provider_name, counts)
        self._budget.ended(sum(attempts for outcome, attempts in counts if outcome in ENDED))
        # Nobody knows what these show.
        self._budget.not_started(sum(attempts for outcome, attempts in counts if outcome == "unknown"))
        failpoints.passing("dispatch.after_bytes")
        await self.settle_surely(facts)


def _kind_of(facts: _core.Facts) -> str:
    return "outcome" if facts.outcome_counts() else "event"
