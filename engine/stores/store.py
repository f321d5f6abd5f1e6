"""What the stages ask of a store, and what crosses between them: verbs, and values that name no table and no driver.

It holds no code of its own. `engine/stores/embedded.py` is the store that comes along; `engine/stores/opened.py` picks.

Invariants, of every store:
- a writing verb hands its work in when it is *called*, so that work is stored in the order of the calls, and a caller
  may count something before it hands it in; the future is done after the COMMIT that holds the work;
- what a call hands in is stored whole or not at all;
- errors: `StoreFull` and `NotReady` say that nothing was stored; `StoreUnavailable` that nobody knows, and whoever
  hands the same in again does no harm. Any other exception is of this work alone (the store refused its data, or it met
  a bug): nothing of it is stored, work beside it is, and the caller may find the one at fault by halves. After an error
  that a store cannot go on from, `ended` is true, `on_fatal` is called, and no future gives a result any more;
- verbs belong to the loop's thread, and so do all callbacks; what runs on a thread of its own says so;
- a store may run work again whose transaction was undone, so what it is given must bear that (the core's classes do).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    import sqlalchemy as sa

    from engine import _core

T = TypeVar("T")

Row = tuple[Any, ...]
"""Columns in the core's order: `engine/_core.pyi` says at each taker which."""
LedgerRow = tuple[int, int, int, int]
"""(quota, day, spent, reserved)."""
Shards = Sequence[int] | None
"""Of these shards; None: of all."""

# Where an opt-out came from.
OPT_OUT_API: Final = 1
OPT_OUT_KEYWORD: Final = 2
OPT_OUT_PROVIDER: Final = 3

SHARDS: Final = 64
"""A message belongs to the shard of its campaign (`rust_core/src/shards.rs`): its key, modulo this."""

# Ids of one piece of recovery: 5,000 rows with bodies are some 2 MiB.
RECOVER_ROWS: Final = 5000
ID_MAX: Final = 2**63 - 1
# Later than any time.
NEVER_US: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a look at the store's durability looked at."""

    name: str
    """Such as `journal_mode`."""
    found: str
    """The value in force."""
    wanted: str
    """The value the promise needs."""
    ok: bool
    """Whether it does."""


@dataclass(slots=True)
class GroupStats:
    """What one transaction held and cost."""

    jobs: int
    weight: int
    """Messages, or what weighs about as much."""
    commit_s: float
    whole_s: float


class InboxKind(IntEnum):
    """What a row of a shard's inbox tells its owner; its payload."""

    MESSAGES = 1
    """Ids of new messages, eight bytes each in the machine's order."""
    WEBHOOK = 2
    """One receipt whose signature was good: query, signature, timestamp, body, each behind its length (four bytes)."""
    CONSENT = 3
    """An opt-out that is to be said to be effective when it is: tenant, recipient, eight bytes each."""
    CANCELLED = 4
    """Ids of messages that wait no more, eight bytes each."""


class InboxRow(NamedTuple):
    """What a node has for the owner of a shard."""

    position: int
    shard: int
    kind: int
    at_us: int
    payload: bytes


class Lease(NamedTuple):
    """What the store gave of a budget that was asked for."""

    quota: int
    tokens: int
    until_us: int
    """How long they may be spent, on the holder's clock."""
    again_us: int
    """Nothing more is to be had before; on the same clock."""


class Pulse(NamedTuple):
    """What a heart found."""

    node: bool
    """This process still has its number."""
    held: bool
    """All that it holds is still its own."""
    epoch: int | None = None
    """Of whoever has what it lost; None for nobody."""


class Run(NamedTuple):
    """Shards that this process owns from now on."""

    epoch: int
    """Higher than that of any taking before."""
    last_id: int
    """The highest id in use, 0 in an empty store."""
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Intent:
    """What an attempt is written down with."""

    now_us: int
    """Different for each batch: with the epoch it names the batch in the store."""
    epoch: int
    provider: int
    recipe: int
    send_us: int
    """How long the whole send may take; the row is due for recovery after it."""
    caps: frozenset[int] = frozenset()
    """Keys of the day caps that its messages were held against."""


@dataclass(slots=True)
class Written:
    """What a settled batch of facts left for memory to follow."""

    settlement: _core.Settlement
    load: list[Row] = field(default_factory=list)
    """Rows to load into the scheduler."""
    opt_outs: list[tuple[int, int]] = field(default_factory=list)
    """(tenant, recipient) newly opted out."""
    poisoned: list[int] = field(default_factory=list)
    """Messages whose attempt the store refused to write for their data alone."""
    ledgers: list[LedgerRow] = field(default_factory=list)
    """Rows of `Scheduler.ledger_rows` that were written."""
    seen: list[LedgerRow] = field(default_factory=list)
    """Rows that other nodes charge, too, as they were found."""


@dataclass(slots=True)
class Received:
    """What a batch of webhooks left for memory to follow."""

    written: Written | None = None
    duplicates: int = 0
    kept_early: int = 0
    """Receipts that wait for their attempt from now on."""
    consents: list[tuple[int, int, bool]] = field(default_factory=list)
    """(tenant, recipient, whether it is out from now on), in the order in which they were stored."""
    inbound: int = 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Which of a tenant's messages to list, newest first. Zero and empty mean: no such filter."""

    before_id: int
    """Only ids below it."""
    lowest_id: int
    """No id below it."""
    campaign: int
    states: tuple[int, ...]
    recipient: int
    rows_max: int
    scanned_max: int
    """Rows looked at, whatever the filters leave of them."""


class Kept(Enum):
    """Rows that are kept for a time only, and then pruned, oldest first."""

    EVENTS = "events"
    """Of every log the newest row stays, so that positions never start over."""
    WEBHOOK_EVENTS = "webhook_events"
    UNKNOWN_WEBHOOKS = "unknown_webhooks"
    EARLY_RECEIPTS = "early_receipts"
    REQUEST_IDS = "request_ids"
    """By when their message was accepted."""
    MESSAGES = "messages"
    """With bodies, by when they were accepted and when they were last due, which is never before their last attempt;
    what may still move stays. In a MySQL store the whole day stays with what stays."""


class Callbacks(NamedTuple):
    """What a store tells, each on the loop's thread."""

    on_fatal: Callable[[BaseException], None]
    """It failed for good (`StoreBroken`): no write is stored any more, some that were handed in may be."""
    on_group: Callable[[GroupStats], None]
    """A transaction was committed and its futures are done."""
    on_full: Callable[[bool], None]
    """New work is refused from now on, or taken again, for want of room."""


class Heart(Protocol):
    """Keeps what a process holds of the store, whatever holds up loop or writes; belongs to a thread of its own."""

    def beat(self) -> Pulse:
        """Renew what is held, if it runs out. Raises anything when it cannot tell, and may be asked again."""
        ...

    def close(self) -> None:
        """Let go of what it has open. Safe to call twice, and without `beat`."""
        ...


class Shared(Protocol):
    """What several processes over one store need: shards that come and go, and what the owner of one is told."""

    async def join(self) -> tuple[int, int]:
        """(this process's number among them, for ids; the highest id in use)."""
        ...

    @property
    def shards(self) -> tuple[int, ...]:
        """Those that this process owns and has taken over, ascending."""
        ...

    async def take(self, *, all_free: bool) -> Run | None:
        """Own shards that nobody owns, up to this node's share of all or `all_free`; None when there is none to take.

        No write of an owner before is stored from here on. What this process accepts of them goes through the inbox
        until they are `taken_over`.
        """
        ...

    def taken_over(self, shards: Sequence[int]) -> None:
        """What this process accepts of these from now on needs no way through the inbox: its memory has it."""
        ...

    @property
    def strays(self) -> tuple[int, ...]:
        """Those that it owns and neither has taken over nor gave away."""
        ...

    async def above_share(self) -> int:
        """How many shards this process owns above its share."""
        ...

    def give_up(self, shards: Sequence[int]) -> None:
        """What this process accepts of these goes through the inbox from now on."""
        ...

    async def give(self, shards: Sequence[int]) -> None:
        """Others may own these, when all that was handed in before is stored."""
        ...

    async def inbox(self, without: Sequence[int], rows_max: int) -> list[InboxRow]:
        """The oldest rows of shards taken over, but those at these positions."""
        ...

    async def inbox_size(self) -> tuple[int, int]:
        """(rows of them, when the oldest was written; 0 without one)."""
        ...

    async def shards_of(self, ids: Sequence[int]) -> dict[int, int]:
        """Message → shard, of those that there are."""
        ...

    async def resolve(self, wanted: Sequence[tuple[int, str]], provider: int, now_us: int) -> dict[int, int]:
        """(index, provider's id) → index → message, of those that are known."""
        ...

    async def lease(
        self, asks: Sequence[tuple[int, int, int]], registry: _core.Registry, mono_us: Callable[[], int]
    ) -> list[Lease]:
        """Take (quota, tokens, least) of budgets that nodes share; `mono_us` is the clock of whoever asks.

        Raises the driver's errors: nothing was given.
        """
        ...

    async def open_to(self, tenant: int, recipient: int, due_after_us: int) -> list[int]:
        """Attempts to this recipient that are written down, by any node, and without outcome.

        Only such whose send may take longer than to this time, by the clock of whoever wrote them down.
        """
        ...

    async def ledgers_since(self, day: int) -> list[LedgerRow]:
        """Day ledgers of this day and later."""
        ...

    async def waiting(self) -> int:
        """Messages that wait, of shards taken over."""
        ...

    async def early_to_join(self, since_us: int, rows_max: int) -> list[tuple[int, int]]:
        """(position, message of a shard taken over) of receipts since then that came before their message's id."""
        ...

    def join_early(self, pairs: Sequence[tuple[int, int]]) -> asyncio.Future[None]:
        """Let these receipts be found with their messages."""
        ...

    def receive(
        self,
        webhooks: _core.Webhooks,
        bodies: Sequence[bytes],
        provider: int,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        registry: _core.Registry,
        mint: _core.Admitter,
        now_us: int,
        seed: int,
        positions: Sequence[int],
    ) -> asyncio.Future[Received]:
        """As `Store.receive`, in the transaction that removes these rows of the inbox."""
        ...

    def receive_inbound(
        self,
        webhooks: _core.Webhooks,
        bodies: Sequence[bytes],
        provider: int,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        registry: _core.Registry,
        mint: _core.Admitter,
        now_us: int,
        seed: int,
    ) -> asyncio.Future[Received]:
        """As `Store.receive`, by any node, of what concerns no message that is known: no receipt in it finds one."""
        ...

    def take_messages(self, positions: Sequence[int], ids: Sequence[int]) -> asyncio.Future[list[Row]]:
        """As `Store.held`, in the transaction that removes these rows of the inbox."""
        ...

    def done(self, positions: Sequence[int]) -> asyncio.Future[None]:
        """Remove these rows of the inbox."""
        ...

    def hand_over(self, kind: InboxKind, at_us: int, rows: Sequence[tuple[int, bytes]]) -> asyncio.Future[None]:
        """Put rows (shard, payload) into the inbox."""
        ...

    async def barrier_open(self, tenant: int, recipient: int) -> bool:
        """Whether this opt-out is in force and was not said to be effective."""
        ...

    async def consent_tail(self) -> int:
        """The newest position of the log of consent."""
        ...

    async def consents(self, after: int, rows_max: int) -> list[tuple[int, int, int, int]]:
        """(position, tenant, recipient, action) of the log of consent, by position; some may appear late."""
        ...

    async def events_mark(self) -> int:
        """A number that is another one when an event was logged."""
        ...


class Store(Protocol):
    """One store. Nothing is opened before `open`."""

    # Life.

    async def open(self, callbacks: Callbacks) -> None:
        """Take hold of the store, bring its schema up to date, refuse it when it is not durable.

        Raises ConfigError, StoreLocked, StoreTooNew, StoreBroken, OSError or the driver's errors. Call `close` after
        every outcome.
        """
        ...

    async def begin_run(self) -> Run | None:
        """Become the owner: no write of an owner before it is stored from here on; its reservations count as spent.

        None while others own all; of a `shared` store what is free. What an owner alone may write is refused with
        NotReady from anybody else: attempts, facts about them, ledgers.
        """
        ...

    async def close(self) -> None:
        """Store what was handed in, then let go of everything. Safe to call twice, and when `open` failed."""
        ...

    @property
    def name(self) -> str:
        """Kind and version for people, such as `sqlite 3.51.3`."""
        ...

    @property
    def ended(self) -> bool:
        """Broken or closed: it takes no write ever again."""
        ...

    @property
    def full(self) -> bool:
        """New work is refused for want of room."""
        ...

    @property
    def connections(self) -> int:
        """Open connections."""
        ...

    def check(self) -> asyncio.Future[list[Finding]]:
        """Look whether what it promises of durability holds now; every finding must be ok."""
        ...

    def make_room(self) -> asyncio.Future[bool]:
        """Take new work again if there is room now; whether it does."""
        ...

    def heart(self) -> Heart:
        """For the thread that keeps the lease; opens nothing before its first `beat`."""
        ...

    @property
    def shared(self) -> Shared | None:
        """For a store that several processes may write to at once; None for one that has room for one."""
        ...

    # Messages.

    def append(self, admission: _core.Admission, now_us: int) -> asyncio.Future[None]:
        """Store what was admitted; request ids that came before are resolved in the same transaction.

        A data error refuses the one message at fault in the admission, and the others are stored. New work: refused
        with StoreFull while there is no room.
        """
        ...

    def intend(
        self,
        dispatch: _core.Dispatch,
        intent: Intent,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        registry: _core.Registry,
        seed: int,
    ) -> asyncio.Future[Written | None]:
        """Write down the attempts of a batch before a byte of them leaves; what the guard refuses leaves the batch.

        Gives what became of the refused ones, or None when all were granted. NotReady when the epoch in the store is
        not the intent's, RegistryMoved when the store has a day cap that the intent does not know. An attempt whose
        writing down is unknown must never stay written down with nobody to settle it: the store that answers
        StoreUnavailable has ended, or finds out before it answers.
        """
        ...

    def settle(
        self,
        facts: _core.Facts,
        settler: _core.Settler,
        registry: _core.Registry,
        now_us: int,
        seed: int,
        *,
        stage: str,
        scheduler: _core.Scheduler,
        provider: int,
        early_kept: bool,
    ) -> asyncio.Future[Written]:
        """Read the rows that `facts` concern, let the core decide, write what it decided: one guarded write a row.

        The day ledgers follow in the same transaction. `early_kept` False says that no receipt waits for its attempt,
        so none is looked for. `stage` names the work for failpoints and logs.
        """
        ...

    def cancel(
        self,
        facts: _core.Facts,
        settler: _core.Settler,
        registry: _core.Registry,
        now_us: int,
        seed: int,
        *,
        tenant: int,
    ) -> asyncio.Future[tuple[Written, Row]]:
        """Settle the cancelling of one message of this tenant, and give its view after it, from one transaction."""
        ...

    def receive(
        self,
        webhooks: _core.Webhooks,
        bodies: Sequence[bytes],
        provider: int,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        registry: _core.Registry,
        mint: _core.Admitter,
        now_us: int,
        seed: int,
    ) -> asyncio.Future[Received]:
        """Store webhooks of good standing: deduplicate, settle receipts, keep early ones, store inbound messages."""
        ...

    def held(self, ids: Sequence[int]) -> asyncio.Future[list[Row]]:
        """Waiting messages among these, for `Scheduler.load`, as the writes handed in before leave them."""
        ...

    def hasten_lookups(self, dues: Sequence[tuple[int, int]]) -> asyncio.Future[None]:
        """Bring the look-ups of taken messages forward: (new timer, id) each; none moves to a later time."""
        ...

    # Consent.

    def add_opt_out(
        self, tenant: int, recipient: int, source: int, now_us: int, evidence: str
    ) -> asyncio.Future[tuple[int, int, bool]]:
        """Forbid a recipient; (source, since, whether it is new). Effective only after the barrier."""
        ...

    def remove_opt_out(
        self, tenant: int, recipient: int, source: int, now_us: int, occurred_us: int
    ) -> asyncio.Future[bool]:
        """Lift an opt-out; a START that happened before the last STOP lifts nothing. False when nothing was lifted."""
        ...

    def mark_effective(self, pairs: Sequence[tuple[int, int]], now_us: int) -> asyncio.Future[None]:
        """Say that from here on nothing to these (tenant, recipient) starts or is on the wire.

        Of an opt-out that was lifted meanwhile, or said so already, nothing is said.
        """
        ...

    # Ledgers, recipes, facts, retention.

    def write_ledgers(self, scheduler: _core.Scheduler) -> asyncio.Future[list[LedgerRow]]:
        """Store what no attempt or outcome has taken along; gives what was written."""
        ...

    def begin_ledger(self, row: LedgerRow) -> asyncio.Future[None]:
        """Store what the day of a quota had spent when the quota was set; one that is there already knows better."""
        ...

    def settled_so_far(self) -> asyncio.Future[None]:
        """Done when all that was handed in before is stored, and is found by reads from then on."""
        ...

    def recipe(self, provider: int, callback_base: str, mac_key: str, renderer: int) -> asyncio.Future[int]:
        """The key of the recipe with these parts, made if there was none."""
        ...

    def set_facts(self, pairs: Sequence[tuple[str, int]]) -> asyncio.Future[None]:
        """Remember numbers by name."""
        ...

    def prune(
        self, kind: Kept, before_us: int, rows_max: int, *, due_before_us: int = NEVER_US
    ) -> asyncio.Future[tuple[bool, int]]:
        """Remove rows from before a wall time, in one short transaction; (there may be more, µs it held up writes).

        Messages that were due at `due_before_us` or later stay.
        """
        ...

    # The control plane.

    def run_control(self, function: Callable[[sa.Connection], T]) -> asyncio.Future[T]:
        """Run a function in a transaction of its own, in the order of the writes, on any thread but never two at once.

        What it raises undoes it, and is raised.
        """
        ...

    # Reads: of what is committed; they hold up no write, and keep no order beside the writes.

    def opt_outs(self) -> Awaitable[list[tuple[int, int]]]:
        """(tenant, recipient) of all opt-outs."""
        ...

    def opt_outs_of(self, tenant: int, after: int, rows_max: int) -> Awaitable[list[tuple[int, int, int]]]:
        """(recipient, source, since) behind a recipient, by number."""
        ...

    def barriers_open(self) -> Awaitable[list[tuple[int, int]]]:
        """(tenant, recipient) of opt-outs that were never said to be effective: a crash cut their barrier short."""
        ...

    def carriers(self, rows_max: int) -> Awaitable[list[tuple[int, int]]]:
        """(recipient, carrier) learned last."""
        ...

    def early_count(self) -> Awaitable[int]:
        """Receipts that wait for their attempt."""
        ...

    def in_state(self, state: int, shards: Shards = None) -> Awaitable[list[int]]:
        """Ids of all messages in a state that is neither QUEUED nor terminal, ascending."""
        ...

    def key_holders(self, shards: Shards = None) -> Awaitable[list[Row]]:
        """Messages with an ordering key whose outcome is open, for `Scheduler.hold_keys`."""
        ...

    def waiting_bounds(
        self, streams: Sequence[int], shards: Shards = None
    ) -> Awaitable[list[tuple[int, int, int, int]]]:
        """(campaign, stream, first id, last id) of all that is QUEUED, for each stream of `rust_core/src/spill.rs`."""
        ...

    def waiting_piece(
        self, campaign: int, stream: int, from_id: int, upto_id: int, rows_max: int
    ) -> Awaitable[list[Row]]:
        """The first waiting messages of a stream between two ids (both in), for `Scheduler.read_back`."""
        ...

    def waiting_expired(
        self, campaign: int, stream: int, after_id: int, now_us: int, rows_max: int
    ) -> Awaitable[tuple[list[int], int]]:
        """(ids whose validity ended among the next waiting ones of a stream, where to go on: 0 from the beginning)."""
        ...

    def due(self, states: Sequence[int], now_us: int, rows_max: int, shards: Shards = None) -> Awaitable[list[int]]:
        """Ids of messages whose timer ran out, state by state, at most so many of each, earliest first."""
        ...

    def latest_due(
        self, state: int, before: tuple[int, int], rows_max: int, shards: Shards = None
    ) -> Awaitable[list[tuple[int, int]]]:
        """(timer, id) of messages in a state, those with the latest timer first, from behind `before` on."""
        ...

    def started(
        self,
        tenant: int,
        after: int,
        campaigns: Sequence[int],
        from_us: int,
        carrier: int,
        unit: int,
        rows_max: int,
    ) -> Awaitable[tuple[int, int | None]]:
        """(what attempts since a time have spent, of the tenant's next messages; where to go on, None at the end).

        Of these campaigns, to this carrier or one that is not known (0: to any), in segments (`unit` 1) or messages.
        """
        ...

    def ledgers(self) -> Awaitable[list[LedgerRow]]:
        """All day ledgers."""
        ...

    def recipes(self, provider: int, renderer: int) -> Awaitable[list[tuple[int, str, str]]]:
        """(key, callback base, name of the MAC key) of a provider's recipes."""
        ...

    def registry_version(self) -> Awaitable[int | None]:
        """The registry's version now."""
        ...

    def facts(self, names: Sequence[str]) -> Awaitable[list[int | None]]:
        """Numbers remembered under these names."""
        ...

    def count_by_state(self) -> Awaitable[list[tuple[int, int]]]:
        """(state, messages) of all that is not terminal."""
        ...

    def view(self, tenant: int, identity: int) -> Awaitable[Row | None]:
        """One message for the core's view; None for what is not this tenant's."""
        ...

    def views(self, tenant: int, stretch: Stretch) -> Awaitable[tuple[list[Row], int]]:
        """(a tenant's messages, the id down to which all were looked at: 0 when there are none behind it)."""
        ...

    # The event log. Positions count within a slot; a tenant's events are all in one.

    def slot_of(self, tenant: int) -> int:
        """The slot of the log that has this tenant's events; never changes."""
        ...

    def events(self, tenant: int, after_position: int, rows_max: int) -> Awaitable[tuple[list[bytes], int]]:
        """A tenant's log rows behind a position, and the position reached (of the whole slot when nothing is left).

        A row that becomes visible later has a position behind every one that was reached before.
        """
        ...

    def event_bounds(self, tenant: int) -> Awaitable[tuple[int, int]]:
        """Oldest and newest position of this tenant's slot; 0, 0 when nothing was ever logged."""
        ...

    def newest_event(self) -> Awaitable[int]:
        """The newest position of any slot, 0 without one."""
        ...

    def oldest_event_us(self) -> Awaitable[int | None]:
        """When the oldest row of all logs was written."""
        ...
