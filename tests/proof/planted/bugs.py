"""Bugs planted in the engine without changing it, and the check that must see each: `BUGS` is the table.

A plant replaces a name of the engine's while one test runs. The core's classes cannot be changed; where a bug belongs
in one, the engine gets a `Shadow` of it, which does everything as the core does but for the method that is wrong.

Invariants: no plant touches the evidence (the client's log, the carrier's record, the store's reader); each breaks the
promise that its row names, in the scene that its row names.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import pytest

from engine import _core, append, corridor, dispatch, record
from engine.breaker import Breaker
from engine.http_client import HttpPool, Phase
from engine.registry.records import OnUnknown
from engine.stores import embedded, sql, sqlite, wal
from engine.stores.connection import open_reader, open_writer
from engine.stores.embedded_reads import EmbeddedReads
from engine.stores.store import Finding
from engine.stores.writer import Writer
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2
from tests.proof.planted.scene import Scene

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch, Any], None]
HOUR_US: Final = 3_600_000_000
# What a commit may take: so long an answer is ahead of it.
COMMIT_S: Final = 0.25
# Where columns stand in the core's rows.
MESSAGE_ENCODING: Final = 7
MESSAGE_SEGMENTS: Final = 8
SETTLED_STATE: Final = 6
QUEUED: Final = 1
SUBMITTED: Final = 3
TWIN: Final = "~twin"
TERMINAL_MIN: Final = 16


class Shadow:
    """Everything as the real thing has it, but for the methods given."""

    def __init__(self, real: Any, **wrong: Any) -> None:
        """`wrong` lies over `real`."""
        self._real = real
        self._wrong = wrong

    def __getattr__(self, name: str) -> Any:
        """The wrong one, else the real one."""
        wrong: dict[str, Any] = self.__dict__["_wrong"]
        return wrong[name] if name in wrong else getattr(self.__dict__["_real"], name)

    def __len__(self) -> int:
        """As the real thing."""
        return len(self._real)


def shadow_class(patch: Patch, module: Any, name: str, make: Callable[..., Any]) -> None:
    """Let `module` find `make` where it looks for the core's class `name`."""
    patch.setattr(module, "_core", Shadow(_core, **{name: make}))


# Accepting.


def answered_before_commit(stage: str) -> Plant:
    """A job of this stage is answered when it has run, not when its transaction is committed."""

    def plant(patch: Patch, _scene: Scene) -> None:
        run, resolve = Writer._run_undoable, Writer._resolve

        def answer(job: Any, result: Any) -> None:
            if not job.future.done():
                job.future.set_result(result)

        def run_and_answer(self: Any, job: Any, *, first: bool) -> None:
            run(self, job, first=first)
            if job.stage == stage and job.error is None:
                self._call(answer, job, job.result)
                time.sleep(COMMIT_S)

        def resolve_others(self: Any, group: Sequence[Any], stats: Any) -> None:
            resolve(self, [job for job in group if not job.future.done()], stats)

        patch.setattr(Writer, "_run_undoable", run_and_answer)
        patch.setattr(Writer, "_resolve", resolve_others)

    return plant


def commits_without_fsync(patch: Patch, _scene: Scene) -> None:
    """synchronous=NORMAL, and a look at the settings that finds them good."""

    def open_fast(path: Any) -> Any:
        connection = open_writer(path)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    patch.setattr(wal, "open_writer", open_fast)
    patch.setattr(embedded, "check", lambda _connection: [Finding("synchronous", "2", "2", ok=True)])


def dedupe_outside_transaction(patch: Patch, _scene: Scene) -> None:
    """Request ids are kept by the process, not stored with their messages."""
    kept: dict[tuple[int, str], tuple[Any, ...]] = {}
    raise_epoch = sqlite.raise_epoch

    def store(connection: Any, admission: Any, now_us: int) -> None:
        admission.resolve([kept[asked] for asked in admission.lookups() if asked in kept])
        requests, messages = admission.request_rows(), admission.message_rows(0, admission.accepted)
        sizes = {row[0]: (row[MESSAGE_SEGMENTS], row[MESSAGE_ENCODING]) for row in messages}
        kept.update({(row[0], row[1]): (*row, *sizes[row[2]]) for row in requests})
        if admission.accepted:
            sqlite._insert_messages(connection, admission, 0, admission.accepted)
            sqlite._insert_events(connection, admission.event_rows(), now_us)

    def forget(connection: Any) -> int:
        kept.clear()
        return raise_epoch(connection)

    patch.setattr(sqlite, "append", store)
    patch.setattr(sqlite, "raise_epoch", forget)


def twins_in_one_group(patch: Patch, _scene: Scene) -> None:
    """Two messages under equal request ids in one group are both stored, under that id."""
    store = sqlite.append

    def make(*values: Any) -> Any:
        real = _core.Admitter(*values)

        def admit(calls: Sequence[tuple[int, int, bytes]], *more: Any) -> Any:
            return real.admit([(kind, tenant, _apart(request)) for kind, tenant, request in calls], *more)

        return Shadow(real, admit=admit)

    def store_both(connection: Any, admission: Any, now_us: int) -> None:
        def request_rows() -> list[tuple[Any, ...]]:
            return [row for row in admission.request_rows() if TWIN not in row[1]]

        def body_rows(start: int, end: int) -> list[tuple[int, bytes]]:
            return [(identity, _together(record)) for identity, record in admission.body_rows(start, end)]

        store(connection, cast("Any", Shadow(admission, request_rows=request_rows, body_rows=body_rows)), now_us)

    shadow_class(patch, corridor, "Admitter", make)
    patch.setattr(sqlite, "append", store_both)


def _together(record: bytes) -> bytes:
    """What is stored has the id that the caller gave."""
    body = pb.Submission.FromString(record)
    body.request_id = body.request_id.partition(TWIN)[0]
    return body.SerializeToString()


def _apart(encoded: bytes) -> bytes:
    """The core must not see that they are equal."""
    call = pb.SubmitMessagesRequest.FromString(encoded)
    seen: dict[str, int] = defaultdict(int)
    for one in call.submissions:
        seen[one.request_id] += 1
        if seen[one.request_id] > 1:
            one.request_id += f"{TWIN}{seen[one.request_id]}"
    return call.SerializeToString()


def content_not_compared(patch: Patch, _scene: Scene) -> None:
    """Other content under a used request id counts as the same."""

    def resolve(connection: Any, admission: Any) -> None:
        asked = json.dumps(admission.lookups())
        hashes = {(row[0], row[1]): row[3] for row in admission.request_rows()}
        found = connection.execute(sql.SELECT_REQUEST_IDS, (asked,)).fetchall()
        admission.resolve([(*row[:3], hashes.get((row[0], row[1]), row[3]), *row[4:]) for row in found])

    patch.setattr(sqlite, "_resolve", resolve)


def refused_and_stored(patch: Patch, _scene: Scene) -> None:
    """The last message of a call is answered with a refusal, though it is stored and sent."""

    def answer_wrongly(_self: Any, admission: Any, group: Any) -> None:
        replies = []
        for verdict, encoded, *rest in admission.replies():
            response = pb.SubmitMessagesResponse.FromString(encoded)
            response.results[-1].CopyFrom(pb.SubmitResult(verdict=verdict_pb2.VERDICT_INVALID_RECIPIENT))
            replies.append((verdict, response.SerializeToString(), *rest))
        group.answer(replies)

    patch.setattr(append.Append, "_answer", answer_wrongly)


def segments_miscounted(patch: Patch, _scene: Scene) -> None:
    """Every message is stored as one segment."""
    insert = sqlite._insert_messages

    def insert_short(connection: Any, admission: Any, start: int, end: int) -> None:
        def message_rows(start: int, end: int) -> list[tuple[Any, ...]]:
            rows = admission.message_rows(start, end)
            return [(*row[:MESSAGE_SEGMENTS], 1, *row[MESSAGE_SEGMENTS + 1 :]) for row in rows]

        insert(connection, cast("Any", Shadow(admission, message_rows=message_rows)), start, end)

    patch.setattr(sqlite, "_insert_messages", insert_short)


# Sending.


def bytes_before_intent(patch: Patch, scene: Scene) -> None:
    """A batch is handed to the wire, and written down afterwards."""
    send = dispatch.Dispatch._send

    async def send_first(self: Any, batch: Any) -> None:
        batch.intent_rows(self._clock.now_us(), self.link.recipe)
        pool = self._pool
        for request in self._render(batch):
            pool.submit(request, request.data)
        await scene.requests(1)
        self._pool = Shadow(pool, submit=lambda _request, _data: None)
        try:
            await send(self, batch)
        finally:
            self._pool = pool

    patch.setattr(dispatch.Dispatch, "_send", send_first)


def no_intent(patch: Patch, _scene: Scene) -> None:
    """Bytes leave, and nothing is ever written down."""

    async def send_only(self: Any, batch: Any) -> None:
        batch.intent_rows(self._clock.now_us(), self.link.recipe)
        for request in self._render(batch):
            self._pool.submit(request, request.data)

    patch.setattr(dispatch.Dispatch, "_send", send_only)


def resend_on_unknown(patch: Patch, _scene: Scene) -> None:
    """Every campaign is taken for one that resends."""
    make = corridor.registry_of

    def registry_of(rows: Any) -> Any:
        campaigns = [(*row[:5], int(OnUnknown.RESEND), *row[6:]) for row in rows.campaigns]
        return make(replace(rows, campaigns=campaigns))

    patch.setattr(corridor, "registry_of", registry_of)


def keys_taken_for_honoured(patch: Patch, _scene: Scene) -> None:
    """Unknown attempts are replayed although this carrier keeps no keys."""
    shadow_class(patch, corridor, "Settler", lambda policy: _core.Settler(policy | {"honours_keys": 1}))


def unknown_taken_for_refused(patch: Patch, _scene: Scene) -> None:
    """A reset after the bytes left counts as never connected."""

    def outcomes(exchanges: Sequence[tuple[Any, ...]]) -> Any:
        reset, never = int(Phase.RESET), int(Phase.NOT_CONNECTED)
        told = [(one[0], never if one[1] == reset else one[1], *one[2:]) for one in exchanges]
        return _core.Facts.outcomes(told)

    patch.setattr(record, "_core", Shadow(_core, Facts=Shadow(_core.Facts, outcomes=outcomes)))


def requeued_after_crash(patch: Patch, _scene: Scene) -> None:
    """Recovery sends again what was on the wire."""
    raise_epoch = sqlite.raise_epoch

    def requeue(connection: Any) -> int:
        connection.execute("UPDATE messages SET state = 1, due_us = 0 WHERE state = 2")
        return raise_epoch(connection)

    patch.setattr(sqlite, "raise_epoch", requeue)


def replayed_with_other_bytes(patch: Patch, _scene: Scene) -> None:
    """A replay under the same key says something else."""
    submit = HttpPool.submit

    def submit_changed(self: Any, request: Any, data: bytes) -> None:
        changed = data.replace(b"hello", b"hullo") if getattr(request, "attempt", 1) > 1 else data
        submit(self, request, changed)

    patch.setattr(HttpPool, "submit", submit_changed)


def fence_not_checked(patch: Patch, _scene: Scene) -> None:
    """An attempt is written down whoever owns the store."""
    intend = sqlite.intend
    own = "UPDATE facts SET value = ? WHERE name = 'epoch'"

    def intend_anyway(connection: Any, dispatch: Any, intent: Any, *more: Any, **named: Any) -> Any:
        owner = connection.execute(sql.SELECT_FACT, ("epoch",)).fetchone()
        connection.execute(own, (intent.epoch,))
        written = intend(connection, dispatch, intent, *more, **named)
        connection.execute(own, owner)
        return written

    patch.setattr(sqlite, "intend", intend_anyway)


def guard_without(condition: str) -> Plant:
    """The intent's guard lacks a condition."""

    def plant(patch: Patch, _scene: Scene) -> None:
        assert condition in sql.UPDATE_INTENT
        patch.setattr(sql, "UPDATE_INTENT", sql.UPDATE_INTENT.replace(condition, ""))

    return plant


OPTED_OUT: Final = (
    "AND NOT EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.tenant = messages.tenant AND o.recipient = messages.recipient)"
)


def opt_out_cached(patch: Patch, scene: Scene) -> None:
    """Only what a cache read before the STOP says who may be written to, over a crash too."""
    guard_without(OPTED_OUT)(patch, scene)
    patch.setattr(record.Record, "_forbid", lambda *_: None)
    patch.setattr(sql, "SELECT_ALL_OPT_OUTS", "SELECT tenant, recipient FROM opt_outs WHERE 0")


def effective_at_once(patch: Patch, _scene: Scene) -> None:
    """An opt-out is called effective while attempts are on their way."""

    async def passed(_self: Any, _tenant: int, _recipient: int) -> None:
        return

    patch.setattr(record.Record, "_passed", passed)


def expiry_ignored(patch: Patch, scene: Scene) -> None:
    """The validity of a message is looked at by a clock that is behind, and by no guard."""

    def make(*values: Any) -> Any:
        real = _core.Scheduler(*values)
        return Shadow(real, pop=lambda now_us, mono_us, room: real.pop(now_us - 90_000_000, mono_us, room))

    guard_without("AND expires_us > ?1")(patch, scene)
    shadow_class(patch, corridor, "Scheduler", make)


def terminal_reopened(patch: Patch, _scene: Scene) -> None:
    """A message that has ended is settled as if it had only been taken."""

    def make(policy: dict[str, int]) -> Any:
        real = _core.Settler(policy)

        def settle(rows: str, *more: Any) -> Any:
            return real.settle(json.dumps([_reopened(row) for row in json.loads(rows)]), *more)

        return Shadow(real, settle=settle)

    shadow_class(patch, corridor, "Settler", make)


def _reopened(row: list[Any]) -> list[Any]:
    state = SUBMITTED if row[SETTLED_STATE] >= TERMINAL_MIN else row[SETTLED_STATE]
    return [*row[:SETTLED_STATE], state, *row[SETTLED_STATE + 1 :]]


# Limits and order.


def quota_on_wall_clock(patch: Patch, scene: Scene) -> None:
    """Buckets fill by the wall clock, which people set."""

    def make(config: Any, registry: Any, _mono_us: int) -> Any:
        wall_us = scene.clock.now_us
        real = _core.Scheduler(config, registry, wall_us())
        return Shadow(
            real,
            pop=lambda now_us, _mono_us, room: real.pop(now_us, now_us, room),
            apply=lambda settlement, now_us, _mono_us: real.apply(settlement, now_us, now_us),
            set_registry=lambda registry, _mono_us: real.set_registry(registry, wall_us()),
        )

    shadow_class(patch, corridor, "Scheduler", make)


def bucket_full_at_start(patch: Patch, _scene: Scene) -> None:
    """A new process begins with full buckets."""

    def make(config: Any, registry: Any, mono_us: int) -> Any:
        return _core.Scheduler(config, registry, mono_us - HOUR_US)

    shadow_class(patch, corridor, "Scheduler", make)


def lane_skipped_on_refill(patch: Patch, _scene: Scene) -> None:
    """What is read back from the store is read back for one campaign only."""

    def make(*values: Any) -> Any:
        real = _core.Scheduler(*values)
        served: set[int] = set()

        def read_back(rows: Sequence[tuple[Any, ...]], campaign: int, *rest: Any) -> None:
            if not served:
                served.add(campaign)
            real.read_back([row for row in rows if campaign in served], campaign, *rest)

        return Shadow(real, read_back=read_back)

    shadow_class(patch, corridor, "Scheduler", make)


def key_forgotten(patch: Patch, _scene: Scene) -> None:
    """A new process does not know whom the followers of an ordering key wait for."""

    def make(*values: Any) -> Any:
        return Shadow(_core.Scheduler(*values), hold_keys=lambda _rows: None)

    shadow_class(patch, corridor, "Scheduler", make)


def ledger_lost(patch: Patch, _scene: Scene) -> None:
    """What a day's cap has spent stays in memory."""

    def make(*values: Any) -> Any:
        def nothing(*_of: Any) -> list[Any]:
            return []

        return Shadow(_core.Scheduler(*values), intended=nothing, charge=nothing, ledger_rows=nothing)

    shadow_class(patch, corridor, "Scheduler", make)


def breaker_stays_open(patch: Patch, _scene: Scene) -> None:
    """Once open, the breaker lets no probe through: an outage outlives its cause."""
    room = Breaker.room
    patch.setattr(Breaker, "room", lambda self, slots, mono_us: 0 if self.is_open else room(self, slots, mono_us))


# Events and receipts.


def event_left_out(patch: Patch, _scene: Scene) -> None:
    """An outcome is committed without its event."""
    insert = sqlite._insert_events

    def insert_some(connection: Any, rows: Sequence[tuple[int, bytes]], now_us: int) -> None:
        kept = [row for row in rows if not _tells_of(row[1], SUBMITTED)]
        insert(connection, kept, now_us)

    patch.setattr(sqlite, "_insert_events", insert_some)


def _tells_of(encoded: bytes, state: int) -> bool:
    return any(event.state == state for event in pb.WatchEventsResponse.FromString(encoded).events)


def cursor_over_ids(patch: Patch, _scene: Scene) -> None:
    """Positions are given out before the commit: one transaction commits its row after those with higher ones.

    The reader is as it was. It has only to come in between, as readers do: the late commit waits for one.
    """
    read = EmbeddedReads.events
    late: list[tuple[int, int, int, bytes]] = []
    passed: list[int] = []
    given = [0]
    insert = "INSERT INTO events (position, tenant, at_us, events) VALUES (?, ?, ?, ?)"

    def insert_by_id(connection: Any, rows: Sequence[tuple[int, bytes]], now_us: int) -> None:
        given[0] = max(given[0], connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])
        if late and passed and passed[-1] > late[0][0]:
            connection.execute(insert, late[0])
            late[0] = (sys.maxsize, 0, 0, b"")
        for tenant, events in rows:
            given[0] += 1
            if not late and given[0] > 1 and _tells_of(events, QUEUED):
                late.append((given[0], tenant, now_us, events))
            else:
                connection.execute(insert, (given[0], tenant, now_us, events))

    async def read_and_tell(self: Any, tenant: int, after_position: int, rows_max: int) -> tuple[list[bytes], int]:
        rows, reached = await read(self, tenant, after_position, rows_max)
        passed.append(reached)
        return rows, reached

    patch.setattr(sqlite, "_insert_events", insert_by_id)
    patch.setattr(EmbeddedReads, "events", read_and_tell)


def receipts_read(change: Callable[[Scene, tuple[Any, ...]], tuple[Any, ...]]) -> Plant:
    """A webhook is read as if it had come otherwise: what is not looked at is made right."""

    def plant(patch: Patch, scene: Scene) -> None:
        def read(items: Sequence[tuple[Any, ...]], keys: Any, now_us: int) -> Any:
            return _core.Webhooks.read([change(scene, item) for item in items], keys, now_us)

        patch.setattr(record, "_core", Shadow(_core, Webhooks=Shadow(_core.Webhooks, read=read)))

    return plant


def signature_unchecked(scene: Scene, item: tuple[Any, ...]) -> tuple[Any, ...]:
    """Any signature is as good as the right one."""
    query, _, timestamp, body = item
    return query, scene.signing.sign(query.decode(), body, int(timestamp) * 1_000_000).signature, timestamp, body


def timestamp_unchecked(scene: Scene, item: tuple[Any, ...]) -> tuple[Any, ...]:
    """Any age is as good as now, where the signature is right."""
    query, signature, timestamp, body = item
    now = scene.signing.sign(query.decode(), body, scene.clock.now_us())
    right = scene.signing.sign(query.decode(), body, int(timestamp) * 1_000_000).signature
    return (query, now.signature, now.timestamp, body) if signature == right else item


def mac_unchecked(scene: Scene, item: tuple[Any, ...]) -> tuple[Any, ...]:
    """Any MAC is as good as the right one."""
    named = dict(part.split("=", 1) for part in item[0].decode().split("&") if part)
    if "m" not in named:
        return item
    identity = _core.parse_short_id(named["m"])
    assert identity is not None
    return (scene.engine.callback_query(identity, int(named["g"])).encode(), *item[1:])


def webhook_dedupe_off(patch: Patch, _scene: Scene) -> None:
    """Every webhook counts as new."""
    patch.setattr(sqlite, "_fresh", lambda _connection, webhooks, _provider, _now_us: webhooks.good())


def early_receipt_dropped(patch: Patch, _scene: Scene) -> None:
    """A receipt that comes before our own outcome is thrown away."""
    wrong = "SELECT * FROM (VALUES (?, ?, ?, ?, ?)) WHERE 0"
    patch.setattr(sql, "INSERT_EARLY", sql.INSERT_EARLY.replace("VALUES (?, ?, ?, ?, ?)", wrong))


# Tenants, bounds, secrets, stopping.


def tenant_filter_missing(*statements: str) -> Plant:
    """These statements read rows whosever they are."""

    def plant(patch: Patch, _scene: Scene) -> None:
        for name in statements:
            statement: str = getattr(sql, name)
            wrong = statement.replace("m.tenant = ?2", "?2 = ?2").replace("tenant = ?1", "?1 = ?1")
            wrong = wrong.replace("m.tenant = ? AND", "? > 0 AND")
            assert wrong != statement
            patch.setattr(sql, name, wrong)

    return plant


def descriptors_leak(patch: Patch, _scene: Scene) -> None:
    """Every read opens a connection and keeps it."""

    def run(self: Any, function: Any) -> Any:
        connection = open_reader(self._path)
        self._opened.append(connection)
        return function(connection)

    patch.setattr(EmbeddedReads, "_run", run)


def number_in_history(patch: Patch, _scene: Scene) -> None:
    """The engine's own log names the recipient of an opt-out."""
    forbid = record.Record._forbid

    def forbid_and_tell(self: Any, tenant: int, number: int) -> None:
        self._history.note("forbidden", recipient=str(number))
        forbid(self, tenant, number)

    patch.setattr(record.Record, "_forbid", forbid_and_tell)


def number_in_metrics(patch: Patch, _scene: Scene) -> None:
    """A metric has recipients for labels."""
    forbid = record.Record._forbid

    def forbid_and_count(self: Any, tenant: int, number: int) -> None:
        self._meter.metrics.count_processed("outbound", "forbidden", f"+{number}")
        forbid(self, tenant, number)

    patch.setattr(record.Record, "_forbid", forbid_and_count)


def drain_without_grace(patch: Patch, _scene: Scene) -> None:
    """An orderly stop cuts what is on the wire."""
    close = HttpPool.close

    async def cut(self: Any, _grace_s: float) -> None:
        await close(self, 0)

    patch.setattr(HttpPool, "close", cut)


@dataclass(frozen=True, slots=True)
class Bug:
    """How a bug is planted, where it shows and which promise it breaks."""

    invariant: str
    scene: str
    plant: Plant
    rule: str
    """Of the checker: the one that sees it."""
    words: str = ""
    """In what it says, where one rule has several ways to see."""


BUGS: Final = {
    "ack_before_commit": Bug("I1", "commit_lost", answered_before_commit("append"), "acknowledged_exists"),
    "synchronous_normal": Bug("I1", "plain", commits_without_fsync, "acknowledged_exists"),
    "lane_skipped_on_refill": Bug("I2", "refilled", lane_skipped_on_refill, "all_end"),
    "dedupe_outside_transaction": Bug("I3", "asked_again", dedupe_outside_transaction, "one_message_per_request"),
    "same_id_twice_in_a_group": Bug(
        "I3", "asked_twice_at_once", twins_in_one_group, "one_message_per_request", "2 messages of"
    ),
    "content_not_compared": Bug("I4", "asked_again", content_not_compared, "other_content_refused"),
    "refused_and_stored": Bug("I5", "plain", refused_and_stored, "no_phantom"),
    "no_intent": Bug("I6", "plain", no_intent, "intent_before_bytes", "1 requests, 0 intents in the store"),
    "bytes_before_intent": Bug("I6", "plain", bytes_before_intent, "intent_before_bytes"),
    "bytes_before_commit": Bug("I6", "intent_lost", answered_before_commit("intent"), "intent_before_bytes"),
    "resend_on_unknown": Bug("I7", "outcome_unknown", resend_on_unknown, "copies_are_counted"),
    "keys_taken_for_honoured": Bug("I7", "outcome_unknown", keys_taken_for_honoured, "copies_are_counted"),
    "unknown_taken_for_refused": Bug("I7", "outcome_unknown", unknown_taken_for_refused, "copies_are_counted"),
    "requeued_after_crash": Bug("I7", "killed_in_flight", requeued_after_crash, "copies_are_counted"),
    "replayed_with_other_bytes": Bug("I7", "replayed", replayed_with_other_bytes, "copies_are_counted"),
    "fence_not_checked": Bug("I8", "taken_over", fence_not_checked, "epochs_rise"),
    "final_state_reopened": Bug("I9", "told_late", terminal_reopened, "terminal_stays"),
    "cancel_ignored_after_pop": Bug(
        "I10",
        "overtaken",
        guard_without("AND messages.seq = asked.column2 AND state = 1"),
        "nothing_starts_after_the_end",
    ),
    "opt_out_ignored_after_pop": Bug("I10", "overtaken", guard_without(OPTED_OUT), "nothing_starts_after_the_end"),
    "opt_out_effective_at_once": Bug("I10", "opted_out_on_the_way", effective_at_once, "nothing_starts_after_the_end"),
    "expiry_ignored": Bug("I10", "expired", expiry_ignored, "nothing_starts_after_the_end"),
    "stop_acked_before_commit": Bug("I11", "stop_lost", answered_before_commit("receipts"), "stop_is_kept"),
    "opt_out_cached": Bug("I11", "stop_kept", opt_out_cached, "stop_is_kept"),
    "quota_on_wall_clock": Bug("I12", "clock_set_forward", quota_on_wall_clock, "limits_hold"),
    "bucket_full_at_start": Bug("I12", "killed_within_a_window", bucket_full_at_start, "limits_hold"),
    "key_forgotten_at_start": Bug("I13", "key_held", key_forgotten, "order_holds"),
    "cursor_over_ids": Bug("I14", "watched", cursor_over_ids, "subscribers_miss_nothing"),
    "outcome_without_event": Bug("I15", "plain", event_left_out, "outbox_is_complete"),
    "webhook_dedupe_off": Bug("I16", "told_twice", webhook_dedupe_off, "receipts_converge"),
    "receipt_dedupe_off": Bug("I16", "contradicted_twice", webhook_dedupe_off, "receipts_converge", "contradictions"),
    "early_receipt_dropped": Bug("I16", "told_early", early_receipt_dropped, "receipts_converge"),
    "receipt_signature_unchecked": Bug(
        "I17", "forged", receipts_read(signature_unchecked), "falsehoods_change_nothing"
    ),
    "receipt_timestamp_unchecked": Bug(
        "I17", "forged", receipts_read(timestamp_unchecked), "falsehoods_change_nothing"
    ),
    "receipt_mac_unchecked": Bug("I17", "forged", receipts_read(mac_unchecked), "falsehoods_change_nothing"),
    "tenant_filter_missing_in_get": Bug("I18", "foreigners", tenant_filter_missing("SELECT_VIEW"), "tenants_are_apart"),
    "tenant_filter_missing_in_events": Bug(
        "I18", "foreigners", tenant_filter_missing("SELECT_EVENTS_AFTER"), "tenants_are_apart"
    ),
    "tenant_filter_missing_in_list": Bug(
        "I18", "foreigners", tenant_filter_missing("SELECT_VIEWS_BEFORE"), "tenants_are_apart"
    ),
    "segments_miscounted": Bug("I19", "plain", segments_miscounted, "sums_agree"),
    "ledger_lost": Bug("I19", "capped_by_day", ledger_lost, "sums_agree"),
    "breaker_stays_open": Bug("I20", "carrier_down", breaker_stays_open, "backlog_drains"),
    "descriptors_leak": Bug("I21", "looked_at_often", descriptors_leak, "resources_are_bounded"),
    "number_in_history": Bug("I22", "forbidden", number_in_history, "nothing_personal_leaks"),
    "number_in_metrics": Bug("I22", "forbidden", number_in_metrics, "nothing_personal_leaks"),
    "drain_without_grace": Bug("I24", "stopped_in_flight", drain_without_grace, "drain_is_clean"),
}
