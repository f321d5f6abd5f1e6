"""The embedded store's writes: functions of the writer's connection, each run inside one group transaction.

It decides nothing about a message: the core's rows come in, its changes go out. Python loops only over what is rare
(a gate that closed, a duplicate webhook), never over the messages of a batch.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import orjson

from engine import _core
from engine.errors import NotReady, Verdict
from engine.stores import sql
from engine.stores.connection import STATEMENTS_MAX, Connection, Fault, classify
from engine.stores.store import OPT_OUT_KEYWORD, OPT_OUT_PROVIDER, Intent, LedgerRow, Received, Row, Written

# Rows of one step: longer ones would hold the interpreter for nothing more.
ROWS_AT_ONCE: Final = 64
# Where the id stands in a row of UPDATE_INTENT.
INTENT_ID: Final = 0
# Fewer rows are updated one by one.
ROWS_TOGETHER_MIN: Final = 8
# One statement for each number of rows, of some ten that take many; the driver keeps as many prepared.
PREPARED_MAX: Final = STATEMENTS_MAX
CONSENT_OPT_OUT: Final = 1
CONSENT_EFFECTIVE: Final = 2
CONSENT_OPT_IN: Final = 3
CONSENT_REPEATED: Final = 4


def _ids(ids: Iterable[int]) -> str:
    return orjson.dumps(list(ids)).decode()


@lru_cache(maxsize=PREPARED_MAX)
def _with_rows(statement: str, rows: int) -> str:
    """A statement over VALUES of one row, as one over many."""
    head, mark, rest = statement.partition("VALUES ")
    row, end, tail = rest.partition(")")
    return f"{head}{mark}{', '.join([row + end] * rows)}{tail}"


def _run_over(
    connection: Connection,
    statement: str,
    rows: Sequence[tuple[Any, ...]],
    common: tuple[Any, ...] = (),
) -> int:
    """Run a statement over VALUES in few, long steps; returns the rows it changed.

    Around each step the driver lets go of the interpreter, and while the loop is busy it gets it back late: row by row,
    a group of a dozen messages waited longer for that than for the disk. `common` are the parameters of all rows.
    """
    changed = 0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        values = (*common, *chain.from_iterable(part))
        changed += connection.execute(_with_rows(statement, len(part)), values).rowcount
    return changed


@lru_cache
def _row_by_row(statement: str, common: int) -> str:
    """An UPDATE from VALUES, as one whose parameters are a single row behind the common ones."""
    head, _, rest = statement.partition("FROM (VALUES ")
    _, _, tail = rest.partition("\n")
    return re.sub(r"\b\w+\.column(\d+)", lambda column: f"?{common + int(column[1])}", head + tail)


def _update(
    connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]], common: tuple[Any, ...] = ()
) -> int:
    """Run an UPDATE from VALUES; returns the rows it changed.

    SQLite puts VALUES into a table of its own, which costs as much as some eight rows: fewer go one by one.
    """
    if len(rows) >= ROWS_TOGETHER_MIN:
        return _run_over(connection, statement, rows, common)
    if not rows:
        return 0
    alone = _row_by_row(statement, len(common))
    return connection.executemany(alone, [(*common, *row) for row in rows]).rowcount


def _insert_events(connection: Connection, rows: Sequence[tuple[int, bytes]], now_us: int) -> None:
    _run_over(connection, sql.INSERT_EVENTS, [(tenant, now_us, events) for tenant, events in rows])


def append(connection: Connection, admission: _core.Admission, now_us: int) -> None:
    """Store what was admitted; request ids that came before are resolved in the same transaction.

    A data error refuses the one message at fault, found by bisection, and stores the others.
    """
    admission.take_back()  # the transaction may run again
    if admission.refused_lookups():
        # Something was refused for a reason that may have come after its first try was stored: ask first.
        _resolve(connection, admission)
    _insert_request_ids(connection, admission)
    if admission.accepted:
        _insert_messages(connection, admission, 0, admission.accepted)
        _insert_events(connection, admission.event_rows(), now_us)


def _insert_request_ids(connection: Connection, admission: _core.Admission) -> None:
    rows = admission.request_rows()
    new = _run_over(connection, sql.INSERT_REQUEST_ID, rows)
    if new != len(rows):
        # Those that came before have their message; those of this group have none yet, and are not found.
        _resolve(connection, admission)
        if new != len(admission.request_rows()):
            message = "a request id is stored without its message"
            raise RuntimeError(message)


def _resolve(connection: Connection, admission: _core.Admission) -> None:
    asked = orjson.dumps(admission.lookups()).decode()
    admission.resolve(connection.execute(sql.SELECT_REQUEST_IDS, (asked,)).fetchall())


def _insert_messages(connection: Connection, admission: _core.Admission, start: int, end: int) -> None:
    bad: list[int] = []
    for first in range(start, end, ROWS_AT_ONCE):
        bad += _insert_part(connection, admission, first, min(end, first + ROWS_AT_ONCE))
    # The last first: refusing it leaves the earlier positions as they are.
    for position in reversed(bad):
        identity = admission.ids()[position]
        keys = [(tenant, request_id, key) for tenant, request_id, key, _ in admission.request_rows() if key == identity]
        connection.executemany(sql.DELETE_REQUEST_ID, keys)
        admission.refuse(position, int(Verdict.INTERNAL), "the store refused this message")


def _insert_part(connection: Connection, admission: _core.Admission, start: int, end: int) -> list[int]:
    """Insert messages, each table's in one statement; returns the positions that the store would not have, ascending.

    A statement that fails undoes itself, so no savepoint is needed: its pages would be copied for each group, to undo
    what hardly ever fails.
    """
    try:
        _run_over(connection, sql.INSERT_MESSAGE, admission.message_rows(start, end))
        try:
            _run_over(connection, sql.INSERT_BODY, admission.body_rows(start, end))
        except Exception as error:
            if classify(error) is Fault.DATA:
                connection.execute(sql.DELETE_MESSAGES, (_ids(admission.ids()[start:end]),))
            raise
    except Exception as error:
        if classify(error) is not Fault.DATA:
            raise
        if end - start == 1:
            return [start]
        middle = (start + end) // 2
        earlier = _insert_part(connection, admission, start, middle)
        return earlier + _insert_part(connection, admission, middle, end)
    return []


def intend(
    connection: Connection,
    dispatch: _core.Dispatch,
    intent: Intent,
    scheduler: _core.Scheduler,
    settler: _core.Settler,
    registry: _core.Registry,
    seed: int,
) -> Written | None:
    """Write down the attempts of a batch before a byte of them leaves; what the guard refuses leaves the batch here.

    Returns what became of the refused ones, or None when all were granted.
    """
    owner = connection.execute(sql.SELECT_FACT, ("epoch",)).fetchone()
    if owner is None or owner[0] != intent.epoch:
        message = "the store has another owner; no attempt is written down"
        raise NotReady(message)
    now_us = intent.now_us
    dispatch.take_back()  # the writer may run a job again whose transaction was undone
    rows = dispatch.intent_rows(now_us, intent.recipe)
    common = (now_us, intent.epoch, intent.provider, now_us + intent.send_us)
    granted, poisoned = _grant(connection, rows, common)
    written = None
    if granted != len(rows):
        asked = _ids(dispatch.ids())
        intended = {row[0] for row in connection.execute(sql.SELECT_INTENDED, (asked, intent.now_us, intent.epoch))}
        refused = [identity for identity in dispatch.ids() if identity not in intended]
        dispatch.drop(refused)
        gates = connection.execute(sql.SELECT_CLOSED_GATES, (_ids(refused), intent.now_us)).fetchall()
        facts = _core.Facts.gates([gate for gate in gates if gate[1] != 0])
        written = settle(connection, facts, settler, registry, intent.now_us, seed)
        written.poisoned = poisoned
        # Queued still (paused meanwhile, or moved on): back into the scheduler as the row stands now.
        again = [identity for identity, gate in gates if gate == 0 and identity not in poisoned]
        written.load += connection.execute(sql.SELECT_HELD, (_ids(again),)).fetchall()
    _run_over(connection, sql.UPSERT_LEDGER, scheduler.intended(dispatch))
    _insert_events(connection, dispatch.event_rows(registry, intent.now_us), intent.now_us)
    return written


def _grant(connection: Connection, rows: Sequence[tuple[Any, ...]], common: tuple[Any, ...]) -> tuple[int, list[int]]:
    """(attempts written down, messages whose data the store refused); after a refusal the first number is too low."""
    try:
        return _update(connection, sql.UPDATE_INTENT, rows, common), []
    except Exception as error:
        if classify(error) is not Fault.DATA:
            raise
    # Each row alone: those before the one at fault are written already, and their guard refuses them now.
    granted, poisoned = 0, []
    for row in rows:
        try:
            granted += _update(connection, sql.UPDATE_INTENT, [row], common)
        except Exception as error:
            if classify(error) is not Fault.DATA:
                raise
            poisoned.append(row[INTENT_ID])
    return granted, poisoned


def settle(
    connection: Connection,
    facts: _core.Facts,
    settler: _core.Settler,
    registry: _core.Registry,
    now_us: int,
    seed: int,
    *,
    scheduler: _core.Scheduler | None = None,
    provider: int = 0,
    early_kept: bool = True,
) -> Written:
    """Read the rows that `facts` concern, let the core decide, write what it decided: one guarded write a row.

    With a scheduler, the day ledgers follow in the same transaction: whoever gives none settles no attempt.
    `early_kept` False says that no receipt waits for its attempt, so none is looked for.
    """
    asked = _ids(facts.ids())
    rows: str = connection.execute(sql.SELECT_ROWS, (asked,)).fetchone()[0]
    early: list[tuple[int, bytes]] = []
    if early_kept:
        early = _join_early(connection, facts, asked, provider)
    settlement = settler.settle(rows, facts, early, registry, now_us, seed)
    written = _write(connection, settlement, registry, now_us, provider)
    if scheduler is not None:
        written.ledgers = scheduler.charge(settlement)
        _run_over(connection, sql.UPSERT_LEDGER, written.ledgers)
    return written


def _join_early(connection: Connection, facts: _core.Facts, asked: str, provider: int) -> list[tuple[int, bytes]]:
    early = [(message, fact) for message, fact in connection.execute(sql.SELECT_EARLY, (asked,))]
    ids_of = {provider_id: message for message, provider_id in facts.provider_ids()}
    if ids_of:
        wanted = orjson.dumps(list(ids_of)).decode()
        found = connection.execute(sql.SELECT_EARLY_BY_PROVIDER_ID, (provider, wanted)).fetchall()
        early += [(ids_of[provider_id], fact) for _, provider_id, fact in found]
        connection.execute(sql.DELETE_EARLY_POSITIONS, (_ids(row[0] for row in found),))
    return early


def _write(
    connection: Connection, settlement: _core.Settlement, registry: _core.Registry, now_us: int, provider: int
) -> Written:
    updates = settlement.update_rows()
    if _update(connection, sql.UPDATE_MESSAGE, updates) != len(updates):
        message = "a row moved inside the transaction that had read it"
        raise RuntimeError(message)
    quiet = settlement.quiet_rows()
    if quiet:
        connection.executemany(sql.UPDATE_QUIET, quiet)
    written = Written(settlement)
    opt_outs = settlement.opt_outs()
    events = settlement.event_rows(registry)
    for tenant, recipient, code in opt_outs:
        if _insert_opt_out(connection, tenant, recipient, OPT_OUT_PROVIDER, now_us, now_us, f"provider code {code}"):
            written.opt_outs.append((tenant, recipient))
            events.append((tenant, _core.consent_event("OPT_OUT", recipient, now_us)))
    _insert_events(connection, events, now_us)
    keep = settlement.keep_rows()
    _run_over(
        connection,
        sql.INSERT_EARLY,
        [(message, provider, provider_id, now_us, fact) for message, provider_id, fact in keep],
    )
    joined = settlement.joined()
    if joined:
        connection.execute(sql.DELETE_EARLY, (_ids(joined),))
    learned = settlement.learned()
    _run_over(connection, sql.UPSERT_CARRIER, [(recipient, carrier, now_us) for recipient, carrier in learned])
    requeue = settlement.requeue()
    if requeue:
        written.load = connection.execute(sql.SELECT_HELD, (_ids(requeue),)).fetchall()
    return written


def cancel(
    connection: Connection,
    facts: _core.Facts,
    settler: _core.Settler,
    registry: _core.Registry,
    now_us: int,
    seed: int,
    tenant: int,
) -> tuple[Written, Row]:
    """Settle the cancelling of one message of this tenant; returns its view after it, too."""
    written = settle(connection, facts, settler, registry, now_us, seed)
    [identity] = facts.ids()
    return written, connection.execute(sql.SELECT_VIEW, (identity, tenant)).fetchone()


def _insert_opt_out(
    connection: Connection, tenant: int, recipient: int, source: int, now_us: int, occurred_us: int, evidence: str
) -> bool:
    new = connection.execute(sql.INSERT_OPT_OUT, (tenant, recipient, source, now_us, evidence)).rowcount == 1
    log = (tenant, recipient, CONSENT_OPT_OUT, source, now_us, occurred_us, evidence)
    if new:
        connection.execute(sql.INSERT_CONSENT_LOG, log)
    return new


def add_opt_out(
    connection: Connection, tenant: int, recipient: int, source: int, now_us: int, evidence: str
) -> tuple[int, int, bool]:
    """Forbid a recipient; returns (source, since, whether it is new). Effective only after the barrier."""
    new = _insert_opt_out(connection, tenant, recipient, source, now_us, now_us, evidence)
    if new:
        _insert_events(connection, [(tenant, _core.consent_event("OPT_OUT", recipient, now_us))], now_us)
    found, since = connection.execute(sql.SELECT_OPT_OUT, (tenant, recipient)).fetchone()
    return found, since, new


def mark_effective(connection: Connection, pairs: Sequence[tuple[int, int]], now_us: int) -> None:
    """Say that from here on nothing to these (tenant, recipient) starts or is on the wire.

    Of an opt-out that was lifted meanwhile, or said so already, nothing is said.
    """
    for tenant, recipient in pairs:
        if connection.execute(sql.SELECT_BARRIER_OPEN, (tenant, recipient)).fetchone() is None:
            continue
        log = (tenant, recipient, CONSENT_EFFECTIVE, 0, now_us, now_us, "")
        connection.execute(sql.INSERT_CONSENT_LOG, log)
        _insert_events(connection, [(tenant, _core.consent_event("OPT_OUT_EFFECTIVE", recipient, now_us))], now_us)


def remove_opt_out(
    connection: Connection, tenant: int, recipient: int, source: int, now_us: int, occurred_us: int
) -> bool:
    """Lift an opt-out; a START that happened before the last STOP lifts nothing. False when nothing was lifted."""
    if source == OPT_OUT_KEYWORD:
        last = connection.execute(sql.SELECT_LAST_OPT_OUT_OCCURRED, (tenant, recipient)).fetchone()[0]
        if last is not None and occurred_us <= last:
            return False
    if connection.execute(sql.DELETE_OPT_OUT, (tenant, recipient)).rowcount == 0:
        return False
    log = (tenant, recipient, CONSENT_OPT_IN, source, now_us, occurred_us, "")
    connection.execute(sql.INSERT_CONSENT_LOG, log)
    _insert_events(connection, [(tenant, _core.consent_event("OPT_IN", recipient, now_us))], now_us)
    return True


def receive(
    connection: Connection,
    webhooks: _core.Webhooks,
    bodies: Sequence[bytes],
    provider: int,
    scheduler: _core.Scheduler,
    settler: _core.Settler,
    registry: _core.Registry,
    mint: _core.Admitter,
    now_us: int,
    seed: int,
) -> Received:
    """Store webhooks of good standing: deduplicate, settle receipts, keep early ones, store inbound messages."""
    fresh = _fresh(connection, webhooks, provider, now_us)
    received = Received(duplicates=len(webhooks.good()) - len(fresh))
    if not fresh:
        return received
    wanted = webhooks.provider_only(fresh)
    resolved: dict[int, int] = {}
    if wanted:
        asked = orjson.dumps([provider_id for _, provider_id in wanted]).decode()
        found = dict(connection.execute(sql.SELECT_BY_PROVIDER_ID, (asked, provider)).fetchall())
        resolved = {index: found[provider_id] for index, provider_id in wanted if provider_id in found}
        early = webhooks.early_rows([index for index, _ in wanted if index not in resolved])
        _run_over(
            connection, sql.INSERT_EARLY, [(0, provider, provider_id, now_us, fact) for provider_id, fact in early]
        )
        received.kept_early = len(early)
    facts = webhooks.facts(fresh, resolved)
    if len(facts):
        received.written = settle(
            connection, facts, settler, registry, now_us, seed, scheduler=scheduler, provider=provider
        )
        received.kept_early += len(received.written.settlement.keep_rows())
    for index, event_id in webhooks.others(fresh):
        connection.execute(sql.INSERT_UNKNOWN_WEBHOOK, (provider, event_id, now_us, bodies[index]))
    for inbound in webhooks.inbounds(fresh, registry):
        _store_inbound(connection, inbound, mint.mint(now_us), provider, now_us, received)
    return received


def _taken(left: set[str], event_id: str) -> bool:
    if event_id not in left:
        return False
    left.remove(event_id)
    return True


def _fresh(connection: Connection, webhooks: _core.Webhooks, provider: int, now_us: int) -> list[int]:
    good = webhooks.good()
    rows = [(provider, event_id, now_us) for event_id in webhooks.event_ids(good)]
    fresh: list[int] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part, indexes = rows[start : start + ROWS_AT_ONCE], good[start : start + ROWS_AT_ONCE]
        new = _run_over(connection, sql.INSERT_WEBHOOK_EVENT, part)
        if new != len(part):
            # Duplicates are rare: only then is each looked at. Within a batch, the first of an id is the new one.
            found = connection.execute(sql.SELECT_NEWEST_WEBHOOK_EVENTS, (new,)).fetchall()
            left = {event_id for (event_id,) in found}
            indexes = [index for index, row in zip(indexes, part, strict=True) if _taken(left, row[1])]
        fresh += indexes
    return fresh


def _store_inbound(
    connection: Connection,
    inbound: _core.Inbound,
    identity: int,
    provider: int,
    now_us: int,
    received: Received,
) -> None:
    row = (identity, inbound.tenant, inbound.sender, inbound.recipient, now_us, provider, inbound.provider_id)
    connection.execute(sql.INSERT_INBOUND, (*row, inbound.record))
    received.inbound += 1
    if inbound.tenant == 0:
        return  # to a number of nobody: kept, told to nobody
    _insert_events(connection, [(inbound.tenant, inbound.event(identity, now_us))], now_us)
    occurred_us = inbound.occurred_us or now_us
    if inbound.keyword == "STOP":
        new = _insert_opt_out(
            connection, inbound.tenant, inbound.sender, OPT_OUT_KEYWORD, now_us, occurred_us, inbound.provider_id
        )
        if new:
            event = _core.consent_event("OPT_OUT", inbound.sender, now_us)
            _insert_events(connection, [(inbound.tenant, event)], now_us)
            received.consents.append((inbound.tenant, inbound.sender, True))
        else:
            # Already out: remember the later STOP, so that a START from before it lifts nothing.
            log = (inbound.tenant, inbound.sender, CONSENT_REPEATED, OPT_OUT_KEYWORD, now_us, occurred_us, "")
            connection.execute(sql.INSERT_CONSENT_LOG, log)
    elif inbound.keyword == "START" and remove_opt_out(
        connection, inbound.tenant, inbound.sender, OPT_OUT_KEYWORD, now_us, occurred_us
    ):
        received.consents.append((inbound.tenant, inbound.sender, False))


def recipe_key(connection: Connection, provider: int, callback_base: str, mac_key: str, renderer: int) -> int:
    """The key of the recipe with these parts, made if there was none."""
    key: int = connection.execute(sql.INSERT_RECIPE, (provider, callback_base, mac_key, renderer)).fetchone()[0]
    return key


def raise_epoch(connection: Connection) -> int:
    """The epoch of this owner: higher than any before."""
    epoch: int = connection.execute(sql.RAISE_EPOCH).fetchone()[0]
    connection.execute(sql.SETTLE_LEDGERS)
    return epoch


def write_ledgers(connection: Connection, scheduler: _core.Scheduler) -> list[LedgerRow]:
    """Store what no attempt or outcome has taken along; returns what was written."""
    rows = scheduler.ledger_rows()
    _run_over(connection, sql.UPSERT_LEDGER, rows)
    return rows


def begin_ledger(connection: Connection, row: LedgerRow) -> None:
    """Store what the day of a quota had spent (quota, day, spent, reserved) when the quota was set."""
    connection.execute(sql.INSERT_LEDGER, row)


def hasten_lookups(connection: Connection, dues: Sequence[tuple[int, int]]) -> None:
    """Bring the look-ups of taken messages forward: (new timer, id) each."""
    connection.executemany(sql.UPDATE_LOOKUP_DUE, dues)


def set_facts(connection: Connection, pairs: Sequence[tuple[str, int]]) -> None:
    """Remember numbers by name."""
    connection.executemany(sql.UPSERT_FACT, pairs)


def last_id(connection: Connection) -> int:
    """The highest id in use; 0 in an empty store."""
    identity: int = connection.execute(sql.SELECT_LAST_ID).fetchone()[0]
    return identity


def held(connection: Connection, ids: Sequence[int]) -> list[Row]:
    """Waiting messages among these ids, with their bodies, as `SELECT_HELD` gives them."""
    return connection.execute(sql.SELECT_HELD, (_ids(ids),)).fetchall()
