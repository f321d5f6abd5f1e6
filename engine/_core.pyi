"""The private Rust half of the engine: batches in, batches out. What it says is checked against the built module."""

from collections.abc import Sequence
from typing import Any, Self, TypeAlias, final

_Row: TypeAlias = tuple[Any, ...]
# A statement for MySQL and MariaDB, and the rows it holds or asks for.
_Statements: TypeAlias = list[tuple[str, int]]
# Amount, burst, window in µs, full again at that µs and so many parts of one, latest time seen.
_SharedRow: TypeAlias = tuple[int, int, int, int, int, int]

__all__ = [
    "PROFILE",
    "RENDERER",
    "SHARDS",
    "VERSION",
    "Admission",
    "Admitter",
    "Consent",
    "Dispatch",
    "EdgeConnection",
    "EdgeRules",
    "Facts",
    "Inbound",
    "Registry",
    "Request",
    "Scheduler",
    "Settlement",
    "Settler",
    "WebhookForm",
    "WebhookKeys",
    "Webhooks",
    "admit_counts",
    "consent_event",
    "first_id_at",
    "get_response",
    "id_time_us",
    "list_response",
    "message_bytes",
    "mysql_rows",
    "mysql_select_closed_gates",
    "mysql_select_intended",
    "mysql_select_rows",
    "opt_out_slot",
    "parse_phone",
    "parse_short_id",
    "record_reference",
    "record_request_id",
    "render_lookup",
    "segment",
    "short_id",
    "smart_encode",
    "split",
    "urgency",
    "watch_response",
]

RENDERER: int
SHARDS: int
VERSION: str
PROFILE: str

def short_id(identity: int) -> str:
    """The 13 characters by which callers know a 64-bit id."""

def parse_short_id(text: str) -> int | None:
    """The id of those characters; None when they are none."""

def id_time_us(identity: int) -> int:
    """When an id was minted, wall clock in microseconds."""

def first_id_at(at_us: int) -> int:
    """The lowest id that could have been minted at this time."""

def parse_phone(text: str) -> int | None:
    """Digits of a North American number in E.164 form; None when it is none."""

def consent_event(kind: str, recipient: int, at_us: int) -> bytes:
    """An event OPT_OUT, OPT_OUT_EFFECTIVE or OPT_IN as the log keeps it. Raises ValueError for another kind."""

def segment(text: str) -> tuple[str, int, int, list[str]]:
    """(encoding, segments, units, characters that cost it GSM-7). Lone surrogates raise UnicodeEncodeError."""

def split(text: str, wide_reference: bool = False) -> list[tuple[str, int]]:
    """The parts of a text and their units, with an 8- or 16-bit reference. ValueError past 255 parts."""

def smart_encode(text: str) -> str | None:
    """The text with look-alikes in place of what costs GSM-7, when that makes all of it GSM-7."""

def message_bytes(row: _Row, campaign: str, provider: str) -> bytes:
    """A `Message` of a view row (see `engine.stores.sql`). Raises ValueError for a damaged record."""

def get_response(row: _Row, campaign: str, provider: str) -> bytes:
    """A `GetMessageResponse` of a view row, timeline included."""

def list_response(messages: Sequence[bytes], next_page_token: str) -> bytes:
    """A `ListMessagesResponse` of encoded messages."""

def record_reference(record: bytes) -> str:
    """The client_reference in a stored record."""

def record_request_id(record: bytes) -> str:
    """The request_id in a stored record."""

def watch_response(events: Sequence[bytes], cursor: str, campaigns: Sequence[str]) -> bytes:
    """A `WatchEventsResponse` of log rows; with campaigns, only their events."""

def urgency(kind: int, request: bytes) -> int:
    """The lowest level (0 BULK, 16 TRANSACTIONAL, 32 CRITICAL) of the most urgent submission in a call's request."""

def admit_counts(admission: Admission) -> list[tuple[int, int, int]]:
    """(campaign key or 0, verdict, messages) of an admission, for metrics."""

@final
class Registry:
    """A frozen picture of who may send what from where."""

    def __new__(
        cls,
        version: int,
        tenants: Sequence[tuple[int, bool]],
        campaigns: Sequence[tuple[int, int, int, str, int, int, str, Sequence[int]]],
        quotas: Sequence[tuple[int, int, int, int, int, int, int, int, int, int]],
    ) -> Self:
        """Take the rows.

        Tenants (key, active); campaigns (key, tenant, brand, id, state, on_unknown, profile, numbers); quotas (key,
        scope, subject, carrier, unit, amount, window_us, burst, reserved_percent, reserved_class).
        """
    @property
    def version(self) -> int: ...
    def lease_budgets(
        self, asks: Sequence[tuple[int, _SharedRow | None, int, int]], now_us: int
    ) -> list[tuple[int, int, int, _SharedRow] | None]:
        """Lease what a node asks for together: (quota, the store's row or None, tokens, least) on the store's clock.

        An answer each: (tokens, when to come back for what was refused, µs for which a block may be spent, the row to
        write). None for a quota that is not in this picture.
        """
    def campaign_id(self, key: int) -> str | None:
        """The campaign's id, without `campaigns/`."""
    def campaign_key(self, tenant: int, campaign_id: str) -> int | None:
        """The key of a tenant's campaign."""
    def tenant_of_number(self, number: int) -> int | None:
        """Whose number it is."""

@final
class Consent:
    """Who may not be written to; it only ever forbids."""

    def __new__(cls, pairs: Sequence[tuple[int, int]]) -> Self: ...
    def insert(self, tenant: int, recipient: int) -> None: ...
    def remove(self, tenant: int, recipient: int) -> None: ...
    def __len__(self) -> int: ...

@final
class Admitter:
    """The limits of the door and the mint of ids."""

    def __new__(cls, limits: dict[str, int], node: int, last_id: int) -> Self:
        """Names of `limits` as in the core's `Limits`; an unknown one raises ValueError."""
    def mint(self, now_us: int) -> int:
        """A new id, above all before."""
    def admit(
        self,
        calls: Sequence[tuple[int, int, bytes]],
        registry: Registry,
        consent: Consent,
        now_us: int,
        room: int,
        floor: int = 0,
        overloaded_retry_us: int = 0,
        ahead: Scheduler | None = None,
    ) -> Admission:
        """Judge calls of (kind 1 unary 2 batch 3 stream, tenant key, request bytes).

        At most `room` messages for a later time; of 48 levels of urgency `floor` are OVERLOADED, to come back after
        about `overloaded_retry_us`; what waits `ahead` says whether a message can leave within its validity.
        """

@final
class Admission:
    """A group that was judged: what is to be stored, and the answers."""

    @property
    def accepted(self) -> int: ...
    @property
    def total(self) -> int:
        """Submissions in all calls."""
    @property
    def ordered(self) -> bool:
        """Whether any that is accepted has an ordering key."""
    def ordered_ids(self) -> list[tuple[int, int, int]]:
        """(tenant, lowest id, highest id) of what is accepted with an ordering key, tenants ascending."""
    def renumber(self, above: int, now_us: int) -> None:
        """Give everything accepted another id, above this one and all that were made here before."""
    def by_shard(self) -> list[tuple[int, list[int]]]:
        """(shard, ids) of what is accepted, shards ascending."""
    @property
    def needs_store(self) -> bool:
        """Whether anything is to be stored or looked up before the answers are known."""
    def refused_lookups(self) -> bool:
        """Whether a refused submission may have been stored before."""
    def lookups(self) -> list[tuple[int, str]]:
        """(tenant, request_id) of what may have been stored before."""
    def request_rows(self) -> list[tuple[int, str, int, bytes]]: ...
    def message_rows(self, start: int, end: int) -> list[_Row]: ...
    def body_rows(self, start: int, end: int) -> list[tuple[int, bytes]]: ...
    def mysql_messages(self, start: int, end: int, bytes_max: int) -> _Statements:
        """What stores the accepted messages at these positions; `mysql_bodies` their records."""
    def mysql_bodies(self, start: int, end: int, bytes_max: int) -> _Statements: ...
    def mysql_request_ids(self, bytes_max: int) -> _Statements:
        """What stores the request ids; one that is there already stays and counts as not affected."""
    def event_rows(self) -> list[tuple[int, bytes]]: ...
    def resolve(self, rows: Sequence[_Row]) -> None:
        """Rows (tenant, request_id, id, content_hash, segments, encoding) that were stored before."""
    def refuse(self, position: int, verdict: int, detail: str) -> None:
        """Take the accepted message at this position out again."""
    def take_back(self) -> None:
        """The transaction that resolved or refused some was undone."""
    def refuse_all(self, verdict: int, detail: str, retry_delay_us: int) -> None:
        """Refuse every accepted message: nothing was stored."""
    def replies(self) -> list[tuple[int, bytes, str, str, int]]:
        """For each call (verdict, response bytes, field, detail, retry_delay_us); bytes are empty when refused."""
    def ids(self) -> list[int]:
        """Ids accepted."""

@final
class Facts:
    """Things that are known of messages, on their way to `Settler.settle`."""

    def __len__(self) -> int: ...
    def ids(self) -> list[int]: ...
    def halves(self) -> tuple[Facts, Facts]:
        """Each half on its own, in order: how the one at fault is found."""
    def provider_ids(self) -> list[tuple[int, str]]:
        """(id, provider's id) of those just taken."""
    def outcome_counts(self) -> list[tuple[str, int]]: ...
    @staticmethod
    def outcomes(exchanges: Sequence[tuple[Request, int, int, int | None, bytes]]) -> Facts:
        """(request, phase, HTTP status, retry-after µs, body)."""
    @staticmethod
    def lookups(exchanges: Sequence[tuple[int, int, int, int, bytes]]) -> Facts:
        """(id, generation, phase, HTTP status, body); answers that say nothing are left out."""
    @staticmethod
    def recovered(ids: Sequence[int]) -> Facts: ...
    @staticmethod
    def due(ids: Sequence[int]) -> Facts: ...
    @staticmethod
    def cancel(ids: Sequence[int]) -> Facts: ...
    @staticmethod
    def crashed(ids: Sequence[int]) -> Facts: ...
    @staticmethod
    def kept(ids: Sequence[int]) -> Facts:
        """Nothing happened to these; early receipts that were kept for them are joined."""
    @staticmethod
    def gates(gates: Sequence[tuple[int, int]]) -> Facts:
        """(id, 1 expired | 2 opted out | 3 campaign stopped)."""

@final
class Settler:
    """The numbers by which facts are settled."""

    def __new__(cls, policy: dict[str, int]) -> Self:
        """Names as in the core's `Policy`; an unknown one raises ValueError."""
    def set_resets(self, day_reset_us: int, spend_reset_us: int) -> None:
        """Next midnight of the carriers' and of the provider's day."""
    def settle(
        self,
        rows: str,
        facts: Facts,
        early: Sequence[tuple[int, bytes]],
        registry: Registry,
        now_us: int,
        seed: int,
    ) -> Settlement:
        """Decide. Rows as the JSON of `engine.stores.sql.SELECT_ROWS`; raises ValueError for a row that cannot be."""

@final
class Settlement:
    """What a batch of facts changes."""

    def update_rows(self) -> list[_Row]: ...
    def quiet_rows(self) -> list[_Row]: ...
    def mysql_updates(self, bytes_max: int) -> _Statements:
        """What writes the rows, each under its seq: as many rows are affected as it holds."""
    def mysql_quiet(self, bytes_max: int) -> _Statements:
        """What moves timers and flags without an event; a row that is so already counts as not affected."""
    def event_rows(self, registry: Registry) -> list[tuple[int, bytes]]: ...
    def keep_rows(self) -> list[tuple[int, str, bytes]]: ...
    def joined(self) -> list[int]: ...
    def requeue(self) -> list[int]: ...
    def offered_again(self) -> int:
        """How many of those the provider is offered again for reasons of its own."""
    def lookups(self) -> list[tuple[int, str, int]]: ...
    def opt_outs(self) -> list[tuple[int, int, str]]: ...
    def learned(self) -> list[tuple[int, int]]: ...
    def parks(self) -> list[str]:
        """`rate` or `cap`, one for each hold that a provider's answer asks for."""
    def too_late(self) -> list[int]: ...
    def counts(self) -> list[tuple[int, int, int]]:
        """(campaign key, state entered, messages)."""
    def conflicts(self) -> int: ...

@final
class Webhooks:
    """A batch of webhooks, read."""

    @staticmethod
    def read(items: Sequence[tuple[bytes, bytes, bytes, bytes]], keys: WebhookKeys, now_us: int) -> Webhooks:
        """Items of (query, signature, timestamp, body)."""
    def verdicts(self) -> list[str]:
        """receipt, inbound, other, wrong_mac, bad_signature, stale or garbage, one each."""
    def good(self) -> list[int]:
        """Positions whose event is to be remembered."""
    def of(self, positions: Sequence[int]) -> Webhooks:
        """Those at these positions, in this order."""
    def event_ids(self, positions: Sequence[int]) -> list[str]: ...
    def named(self, positions: Sequence[int]) -> list[tuple[int, int]]:
        """(position, message) of receipts whose MAC names their message."""
    def provider_only(self, positions: Sequence[int]) -> list[tuple[int, str]]:
        """Receipts known by the provider's id alone."""
    def early_rows(self, positions: Sequence[int]) -> list[tuple[str, bytes]]: ...
    def facts(self, positions: Sequence[int], resolved: dict[int, int]) -> Facts: ...
    def others(self, positions: Sequence[int]) -> list[tuple[int, str]]: ...
    def inbounds(self, positions: Sequence[int], registry: Registry) -> list[Inbound]: ...

@final
class WebhookForm:
    """How carriers write a webhook's request: whole in one piece, HTTP/1.1, one of each header that counts."""

    def __new__(cls, providers: Sequence[tuple[str, str, str]], head_bytes_max: int, body_bytes_max: int) -> Self:
        """Of each provider its name in the path, and in lower case its headers of signature and timestamp."""

    def plain(self, data: bytes) -> tuple[str, bytes, bytes, bytes, bytes] | None:
        """Provider, query, signature, timestamp, body of the one request that these bytes are; None for all else."""

@final
class WebhookKeys:
    """Public keys of the provider and our MAC keys."""

    def __new__(cls, public: Sequence[str], mac: Sequence[tuple[str, bytes]], window_us: int) -> Self:
        """ValueError says which public key is wrong."""

@final
class Inbound:
    """A text from a handset."""

    @property
    def tenant(self) -> int: ...
    @property
    def sender(self) -> int: ...
    @property
    def recipient(self) -> int: ...
    @property
    def provider_id(self) -> str: ...
    @property
    def occurred_us(self) -> int: ...
    @property
    def keyword(self) -> str:
        """STOP, START or empty."""
    @property
    def record(self) -> bytes: ...
    def event(self, identity: int, now_us: int) -> bytes: ...

@final
class Scheduler:
    """Lanes, quotas, order: which message may leave now."""

    def __new__(cls, config: dict[str, int], registry: Registry, mono_us: int) -> Self:
        """Settings held_messages_max, provider (its key) and leased_budgets; an unknown one raises ValueError.

        With leased_budgets 1 the rates of a provider and of a tenant are shared with other nodes.
        """
    def __len__(self) -> int: ...
    @property
    def ahead(self) -> Scheduler:
        """Itself, as what a message that is admitted would wait behind."""
    @property
    def schedule_room(self) -> int:
        """Messages for a later time that may still be accepted."""
    @property
    def shards(self) -> list[int]:
        """Those that are owned, ascending. All of them until `disown` says otherwise."""
    def own(self, shard: int, epoch: int, mono_us: int) -> None:
        """A shard is owned from now on; unless it was before, its rates start empty. ValueError for what is no shard.

        What it has in the store comes by `put_away`, `load` and `hold_keys`, before anything new of it is pushed.
        """
    def disown(self, shards: Sequence[int]) -> list[int]:
        """All of these shards leaves memory; returns the ids that waited. Attempts that are out become foreign."""
    def foreign_ended(self, ids: Sequence[int]) -> int:
        """The sends of these attempts are over and told; returns how many were of shards that went meanwhile."""
    def push(self, admission: Admission, now_us: int) -> list[tuple[int, list[int]]]:
        """Take over what was just stored; what memory does not take in waits in the store alone.

        Returns (shard, ids) of what is owned elsewhere.
        """
    def load(self, rows: Sequence[_Row], now_us: int) -> tuple[int, int]:
        """Take over rows of the store (`SELECT_HELD`); ValueError for a damaged one.

        Returns (how many were new, how many are owned elsewhere and were let go).
        """
    def push_rows(self, rows: Sequence[_Row], now_us: int) -> list[tuple[int, list[int]]]:
        """As `push`, of rows of the store (`SELECT_HELD`) that another node accepted; ValueError for a damaged one."""
    def put_away(self, campaign: int, stream: int, from_id: int, upto_id: int) -> bool:
        """Messages of a stream wait in the store, the first and last with these ids. False: its shard is another's."""
    @property
    def any_away(self) -> bool:
        """Something may wait in the store alone."""
    def away(self) -> list[tuple[int, int, int, int]]:
        """(campaign, stream, first id, last id) of what may wait in the store alone."""
    def wanted(self) -> list[tuple[tuple[int, int, int, int], int]]:
        """(a row of `away`, rows at most) to read back now, most urgent first."""
    def read_back(self, rows: Sequence[_Row], campaign: int, stream: int, next_id: int, now_us: int) -> int:
        """Take over rows of a stream; all of it below `next_id` was read. ValueError for a damaged row.

        Returns how many are owned elsewhere. A piece that was asked for before its shard went and came back must not be
        handed in.
        """
    def pop(self, now_us: int, mono_us: int, room: int) -> tuple[Dispatch, list[int], list[int], int]:
        """(what may leave, ids expired, ids whose campaign stopped, µs until it is worth asking again or -1)."""
    def apply(self, settlement: Settlement, now_us: int, mono_us: int) -> None:
        """Follow what was settled and stored: copies dropped, keys released, ledgers, carriers, parks."""
    def unpop(self, dispatch: Dispatch) -> list[int]:
        """Forget a popped batch that was not written down; returns its ids, to be loaded again."""
    def dropped(self, ids: Sequence[int]) -> None:
        """These popped messages were refused by the intent's guard: their reservations are given back."""
    def given_up(self, ids: Sequence[int]) -> None:
        """What became of these attempts cannot be written: their slots are free again, their reservations spent."""
    def hold_keys(self, rows: Sequence[_Row]) -> None:
        """Rows (id, tenant, campaign, record) with an ordering key whose outcome is open."""
    def remove(self, ids: Sequence[int]) -> int: ...
    def remove_recipient(self, tenant: int, recipient: int) -> list[int]: ...
    def outstanding_to(self, tenant: int, recipient: int) -> int:
        """Attempts to this recipient that are written down or about to be, without outcome."""
    @property
    def outstanding(self) -> int: ...
    def set_registry(self, registry: Registry, mono_us: int) -> None: ...
    def budgets_wanted(self, mono_us: int) -> list[tuple[int, int, int]]:
        """(quota, tokens, fewer let nobody pass) to ask the store for, together; each once until `grant` answers it."""
    def grant(self, quota: int, tokens: int, until_mono_us: int, again_at_mono_us: int) -> None:
        """The store's answer, also when there was none: tokens until then, which counts from before it was asked."""
    def set_days(self, days: Sequence[tuple[int, int, int]]) -> None:
        """(quota key, day, µs at which it ends)."""
    def restore_ledgers(self, rows: Sequence[tuple[int, int, int, int]]) -> None: ...
    def intended(self, dispatch: Dispatch) -> list[tuple[int, int, int, int]]:
        """As `ledger_rows`, of the transaction that writes this batch down."""
    def charge(self, settlement: Settlement) -> list[tuple[int, int, int, int]]:
        """Let the ledgers follow what is settled, before it is stored; as `ledger_rows` then. May be repeated."""
    def ledger_deltas(self, dispatch: Dispatch) -> list[tuple[int, int, int, int]]:
        """What a batch reserves of rows that other nodes charge too: (quota, day, units, cap), in the order to add.

        Each only while spent + reserved + units <= cap. Asked again for what is left after `drop` or `drop_charging`.
        """
    def reserved(self, dispatch: Dispatch) -> None:
        """The batch is committed, with the `ledger_deltas` of what is left of it. Before any byte leaves."""
    def charge_deltas(self, settlement: Settlement) -> list[tuple[int, int, int, int]]:
        """As `charge`, for such rows: (quota, day, to be added to spent, to be added to reserved), each told once."""
    def deltas_undone(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        """The transaction with these `charge_deltas` surely came to nothing. If nobody knows, do not call it."""
    def ledgers_seen(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        """Such rows as they were read: (quota, day, spent, reserved) of all nodes. What is popped counts beside."""
    def ledger_rows(self) -> list[tuple[int, int, int, int]]:
        """(quota, day, spent, reserved) that the store does not have: for the transaction that is under way."""
    def ledgers_stored(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        """These are committed."""
    def learn(self, rows: Sequence[tuple[int, int]]) -> None:
        """(recipient, carrier)."""
    def startable(self, now_us: int, mono_us: int) -> int:
        """Messages that every limit lets pass now, and that only lack a slot."""
    def waiting(self) -> list[tuple[str, int]]:
        """(what they wait for, messages)."""
    def waiting_by_class(self) -> list[tuple[str, int]]:
        """(class, messages)."""

@final
class Dispatch:
    """A batch that may leave."""

    def __len__(self) -> int: ...
    def ids(self) -> list[int]: ...
    def shards(self) -> list[tuple[int, int]]:
        """(shard, epoch at the pop), each once, ascending: the leases to look at before the batch is written down."""
    def epochs(self) -> list[tuple[int, int]]:
        """(id, epoch of its shard at the pop)."""
    def intent_rows(self, now_us: int, recipe: int) -> list[_Row]:
        """(id, seq, recipe, history): the recipe given is that of generations which have none."""
    def mysql_intents(self, intent: tuple[int, int, int, int, int], only: int | None, bytes_max: int) -> _Statements:
        """What writes the attempts down, of all or of one id; intent (now, due, epoch, provider, recipe)."""
    def opt_out_slots(self) -> list[int]:
        """`opt_out_slot` of each recipient, ascending, each once."""
    def drop(self, ids: Sequence[int]) -> None:
        """These leave the batch, unless `take_back` puts them in again."""
    def drop_charging(self, quota: int, day: int, cap: int) -> list[int]:
        """Drop those that charge this ledger, as `ledger_deltas` last said, up to this cap or a lower; returns them."""
    def take_back(self) -> None:
        """The transaction that dropped some was undone."""
    def event_rows(self, registry: Registry, now_us: int) -> list[tuple[int, bytes]]: ...
    def requests(
        self,
        registry: Registry,
        recipes: dict[int, tuple[str, str, bytes]],
        config: tuple[str, str, str],
        ids: Sequence[int] | None,
    ) -> list[Request]:
        """Rendered sends of these ids (None: all); ValueError for a damaged record.

        Recipes by key (callback base, MAC key name, MAC key); config (path prefix, host, API key).
        """

@final
class Request:
    """One send, opaque but for its bytes."""

    @property
    def id(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def data(self) -> bytes: ...

def render_lookup(provider_id: str, config: tuple[str, str, str]) -> bytes:
    """The whole request that asks Telnyx what became of a message."""

def mysql_rows(head: str, rows: Sequence[_Row], tail: str, bytes_max: int) -> _Statements:
    """`head`, a parenthesis a row in the order given, `tail`; cells are integers of 64 bits, texts, bytes and None."""

def mysql_select_rows(ids: Sequence[int], bytes_max: int) -> _Statements:
    """What reads and locks the rows of these ids, in the columns that `Settler.settle` takes."""

def mysql_select_intended(ids: Sequence[int], started_us: int, epoch: int, bytes_max: int) -> _Statements:
    """What finds the ids among these whose attempt was written down."""

def mysql_select_closed_gates(ids: Sequence[int], now_us: int, bytes_max: int) -> _Statements:
    """What says of each why it was not: (id, 1 expired, 2 opted out, 3 stopped, 0 moved on or paused)."""

def opt_out_slot(tenant: int, recipient: int) -> int:
    """The row, of 4,096, that stands for a tenant's recipient where its opt-out is locked before it exists."""

_EdgeEvent: TypeAlias = tuple[Any, ...]
"""What a turn of a connection brought; the first item says which.

(0, metadata, calls, requests, deadlines µs): calls of the method that is handed out together, with the same
credentials; (1, call, path, metadata, deadline µs or None, request or None, its encoding or None); (2, call, request,
its encoding or None); (3, call): it has no more requests; (4, call): its client is gone; (5, call): its deadline
passed, and its client was told; (6, call): it took as long as the server lets one take; (7, call): it may send again;
(8, whether it was a flood): the connection ended.
"""

@final
class EdgeRules:
    """What all connections of a gRPC edge have in common."""

    def __new__(
        cls,
        *,
        submit: str,
        unary: list[str],
        message_bytes_max: int,
        calls_max: int,
        given_up_a_second: int,
        submit_us_max: int,
        traced: bool,
    ) -> Self:
        """Paths of the method whose calls are handed out together, and of the others that take one request.

        Where calls are `traced`, one that brings a `traceparent` is handed out by itself.
        """

@final
class EdgeConnection:
    """HTTP/2 and gRPC's framing of one connection, without a socket; times on the boot clock."""

    def __new__(cls, rules: EdgeRules, given_up_a_second: int | None, now_us: int) -> Self: ...
    @property
    def due_us(self) -> int:
        """When `expire` is to be called, or earlier."""
    @property
    def calls(self) -> int:
        """Those that are open."""
    @property
    def held_bytes(self) -> int:
        """Of requests that have not come whole, and of answers that their clients do not take."""
    @property
    def held_since_us(self) -> int:
        """Since when the oldest of these waits."""
    def refuse_held(self, now_us: int) -> list[_EdgeEvent]:
        """End these calls."""
    @property
    def is_open(self) -> bool:
        """Whether the peer said what HTTP/2 begins with."""
    def receive(self, data: bytes, now_us: int) -> list[_EdgeEvent]:
        """Take what came."""
    def turn(self, now_us: int) -> tuple[list[_EdgeEvent], bytes]:
        """Go on with whatever can; what is to be sent. To be called after anything else here."""
    def expire(self, now_us: int) -> list[_EdgeEvent]:
        """End the calls whose time is up."""
    def answer(self, streams: Sequence[int], replies: Sequence[tuple[int, bytes, str, str, int]]) -> list[int]:
        """Answer those that were accepted; returns the places of the others. Calls that are gone are left out."""
    def finish(self, stream: int, message: bytes) -> None:
        """The only message of a call, and its end."""
    def send(self, stream: int, message: bytes) -> bool:
        """One of several messages; whether the next one is to wait for room."""
    def end(self, stream: int, code: int, detail: str, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """End a call, behind what was sent."""
    def took(self, stream: int) -> None:
        """A request of a stream was taken: its client may send on."""
    def set_full(self, full: bool) -> None:
        """Whether the transport takes nothing for now."""
    def ping(self) -> bool:
        """Ask whether the peer is there; False: it has not answered the last time."""
    def leave(self) -> None:
        """Take no more calls, and end when those that are open have."""
