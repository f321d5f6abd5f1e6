"""The part of each stage that the MySQL store has: coroutines of a transaction, each run inside a group's.

It decides nothing about a message: the core's rows come in, its changes go out as statements that the core rendered
whole. Python loops only over what is rare (a gate that closed, a duplicate webhook), never over the messages of a
batch.

Invariant: locks are taken in one order, so that two transactions rarely wait for each other crosswise: leases, the
registry's version, slots of opt-outs, messages by id, all else, and at the end the slots of the event log (where there
are ordering keys, before anything is inserted). An attempt's
day ledgers go before its messages: whom they have no room for is not written down.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import orjson

from engine import _core
from engine.errors import RegistryMoved, Verdict
from engine.stores.mysql import consent, inbox, sql
from engine.stores.mysql.faults import DUPLICATE, Fault, classify, code_of
from engine.stores.mysql.transactions import EVENT_SLOTS, Holds, Transaction
from engine.stores.store import ID_MAX, OPT_OUT_PROVIDER, SHARDS, InboxKind, Intent, LedgerRow, Received, Row, Written

Rows = Callable[[str], Awaitable[list[tuple[Any, ...]]]]

# Receipts come within minutes, the last ones within three days of an attempt that mostly follows its acceptance.
LATEST_US: Final = 3 * 86_400_000_000
# A carrier that is known already is written again once a day.
CARRIER_STALE_US: Final = 86_400_000_000
# Column of a view.
CAMPAIGN: Final = 2


def listed(numbers: Iterable[int]) -> str:
    """Numbers as a list of SQL; `0`, which is nobody's, for none."""
    return ", ".join(map(str, numbers)) or "0"


def quoted(texts: Iterable[str]) -> str:
    """Texts as a list of SQL, in hex: nothing to escape."""
    return ", ".join(f"_utf8mb4 x'{text.encode().hex()}'" for text in texts) or "NULL"


def pieces(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """As many as one list takes."""
    return (items[start : start + sql.IDS_MAX] for start in range(0, len(items), sql.IDS_MAX))


async def held(tx: Transaction, ids: Sequence[int]) -> list[tuple[Any, ...]]:
    """Waiting messages among these, with their bodies."""
    found: list[tuple[Any, ...]] = []
    for piece in pieces(ids):
        found += await tx.rows(sql.SELECT_HELD.format(ids=listed(piece)))
    return found


# Append.


async def append(tx: Transaction, admission: _core.Admission, now_us: int, holds: Holds) -> None:
    """Store what was admitted; request ids that came before are resolved in the same transaction.

    A data error refuses the one message at fault, found by bisection, and stores the others. Owners of shards that are
    not held so are told.
    """
    admission.take_back()  # the transaction may run again
    own = await tx.held_of(holds)
    if admission.ordered:
        await _keep_order(tx, admission, now_us)
    if admission.refused_lookups():
        # Something was refused for a reason that may have come after its first try was stored: ask first.
        await _resolve(tx, admission)
    await _insert_request_ids(tx, admission)
    if admission.accepted:
        await _insert_messages(tx, admission, 0, admission.accepted)
        tx.tell(admission.event_rows(), now_us)
        # An ordering key is one line for all nodes: it goes by the inbox's order.
        told = [part for part in admission.by_shard() if admission.ordered or part[0] not in own]
        await inbox.put(tx, InboxKind.MESSAGES, now_us, [(shard, inbox.packed(ids)) for shard, ids in told])


async def _keep_order(tx: Transaction, admission: _core.Admission, now_us: int) -> None:
    """What has an ordering key gets ids above all that any node gave to such messages of its tenants, by any clock.

    Whoever loads them goes by their ids, and a slot that is held until COMMIT makes its transactions one line.
    """
    slots = await tx.lock_slots(tenant for tenant, *_ in admission.ordered_ids())
    names = {f"ordered_{slot}": slot for slot in slots}
    rows = await tx.rows(sql.SELECT_FACTS.format(texts=quoted(names)))
    newest = {names[name]: identity for name, identity in rows}
    above = max(newest.values(), default=0)
    if any(lowest <= newest.get(tenant % EVENT_SLOTS, 0) for tenant, lowest, _ in admission.ordered_ids()):
        admission.renumber(above, now_us)
    for tenant, _, highest in admission.ordered_ids():
        slot = tenant % EVENT_SLOTS
        newest[slot] = max(highest, newest.get(slot, 0))
    await tx.put(sql.REPLACE_FACTS, [(f"ordered_{slot}", identity) for slot, identity in sorted(newest.items())])


async def _insert_request_ids(tx: Transaction, admission: _core.Admission) -> None:
    statements = admission.mysql_request_ids(sql.BYTES_MAX)
    asked = sum(rows for _, rows in statements)
    new = await tx.run_each(statements)
    if new != asked:
        # Those that came before have their message; those of this group have none yet, and are not found.
        await _resolve(tx, admission)
        if new != len(admission.request_rows()):
            message = "a request id is stored without its message"
            raise RuntimeError(message)


def request_pairs(keys: Iterable[tuple[int, str]]) -> str:
    """A condition that holds for these (tenant, request id)."""
    by_tenant: dict[int, list[str]] = {}
    for tenant, request_id in keys:
        by_tenant.setdefault(tenant, []).append(request_id)
    return " OR ".join(f"tenant = {tenant} AND request_id IN ({quoted(ids)})" for tenant, ids in by_tenant.items())


async def _resolve(tx: Transaction, admission: _core.Admission) -> None:
    for piece in pieces(admission.lookups()):
        pairs = request_pairs(piece).replace("tenant =", "r.tenant =").replace("request_id IN", "r.request_id IN")
        admission.resolve(await tx.rows(sql.SELECT_REQUEST_IDS.format(pairs=pairs)))


async def _insert_messages(tx: Transaction, admission: _core.Admission, start: int, end: int) -> None:
    bad = await _insert_part(tx, admission, start, end)
    # The last first: refusing it leaves the earlier positions as they are.
    for position in reversed(bad):
        identity = admission.ids()[position]
        for tenant, request_id, key, _ in admission.request_rows():
            if key == identity:
                await tx.run(sql.DELETE_REQUEST_ID_OF, (tenant, request_id, key))
        admission.refuse(position, int(Verdict.INTERNAL), "the store refused this message")


async def _insert_part(tx: Transaction, admission: _core.Admission, start: int, end: int) -> list[int]:
    """Insert messages, a statement a table; returns the positions that the store would not have, ascending."""
    try:
        await tx.run_each(admission.mysql_messages(start, end, sql.BYTES_MAX))
        try:
            await tx.run_each(admission.mysql_bodies(start, end, sql.BYTES_MAX))
        except Exception as error:
            if classify(error) is Fault.DATA:
                await _delete_messages(tx, admission.ids()[start:end])
            raise
    except Exception as error:
        if classify(error) is not Fault.DATA:
            raise
        # A batch of several statements may have left rows of the first ones.
        await _delete_messages(tx, admission.ids()[start:end])
        if end - start == 1:
            return [start]
        middle = (start + end) // 2
        earlier = await _insert_part(tx, admission, start, middle)
        return earlier + await _insert_part(tx, admission, middle, end)
    return []


async def _delete_messages(tx: Transaction, ids: Sequence[int]) -> None:
    for piece in pieces(ids):
        await tx.run(sql.DELETE_MESSAGES.format(ids=listed(piece)))
        await tx.run(sql.DELETE_BODIES.format(ids=listed(piece)))


# Attempts.


async def intend(
    tx: Transaction,
    dispatch: _core.Dispatch,
    intent: Intent,
    scheduler: _core.Scheduler,
    settler: _core.Settler,
    registry: _core.Registry,
    seed: int,
) -> Written | None:
    """Write down the attempts of a batch before a byte of them leaves; what the guard refuses leaves the batch here.

    Returns what became of the refused ones, or None when all were granted. Day caps that nodes share are held in the
    store: whom one has no room for leaves the batch, too, and waits on.
    """
    await tx.guard(dict(dispatch.shards()))
    dispatch.take_back()  # the transaction may run again
    # The guard knows campaigns and numbers as they are now; what a cap's day has spent is counted when it is set.
    moved = (await tx.rows(sql.SELECT_REGISTRY_SHARED))[0][0] != registry.version
    if moved and {row[0] for row in await tx.rows(sql.SELECT_CAPS)} - intent.caps:
        raise RegistryMoved
    for piece in pieces(dispatch.opt_out_slots()):
        await tx.rows(sql.SELECT_SLOTS_SHARED.format(ids=listed(piece)))
    capped, seen = await _reserve(tx, dispatch, scheduler)
    ids = dispatch.ids()
    reserved = scheduler.ledger_deltas(dispatch)
    granted, poisoned = await _grant(tx, dispatch, intent, ids)
    written = None
    if granted != len(ids) or capped:
        asked = _core.mysql_select_intended(ids, intent.now_us, intent.epoch, sql.BYTES_MAX)
        intended = {row[0] for row in await tx.rows_of(asked)}
        refused = [identity for identity in ids if identity not in intended]
        dispatch.drop(refused)
        await _give_back(tx, reserved, scheduler.ledger_deltas(dispatch))
        gates = await tx.rows_of(_core.mysql_select_closed_gates(refused, intent.now_us, sql.BYTES_MAX))
        facts = _core.Facts.gates([gate for gate in gates if gate[1] != 0])
        written = await settle(tx, facts, settler, registry, intent.now_us, seed)
        written.poisoned = poisoned
        # Queued still (paused meanwhile, or moved on): back into the scheduler as the row stands now.
        again = [identity for identity, gate in gates if gate == 0 and identity not in poisoned]
        written.load += await held(tx, sorted([*again, *capped]))
        written.seen = seen
    tx.tell(dispatch.event_rows(registry, intent.now_us), intent.now_us)
    return written


async def _reserve(
    tx: Transaction, dispatch: _core.Dispatch, scheduler: _core.Scheduler
) -> tuple[list[int], list[LedgerRow]]:
    """Reserve of the day's ledgers what the batch asks for; (who found no room and left it, rows as found)."""
    capped: list[int] = []
    seen: list[LedgerRow] = []
    while deltas := scheduler.ledger_deltas(dispatch):
        await tx.run("SAVEPOINT ledgers")
        for quota, day, units, cap in deltas:
            if await _reserve_one(tx, quota, day, units, cap):
                continue
            seen += await tx.rows(sql.SELECT_LEDGER, (quota, day))
            await tx.run("ROLLBACK TO SAVEPOINT ledgers")
            capped += dispatch.drop_charging(quota, day, cap)
            break
        else:
            break
    return capped, seen


async def _reserve_one(tx: Transaction, quota: int, day: int, units: int, cap: int) -> bool:
    values = (units, quota, day, units, cap)
    if await tx.run(sql.RESERVE_LEDGER, values) == 1:
        return True
    # The first of its day, or no room.
    await tx.put(sql.ADD_LEDGER_DAY, [(quota, day, 0, 0)])
    return await tx.run(sql.RESERVE_LEDGER, values) == 1


async def _give_back(
    tx: Transaction, before: Sequence[tuple[int, int, int, int]], after: Sequence[tuple[int, int, int, int]]
) -> None:
    """Give back what those reserved that left the batch."""
    left: dict[tuple[int, int], int] = {}
    for sign, deltas in ((1, before), (-1, after)):
        for quota, day, units, _ in deltas:
            left[quota, day] = left.get((quota, day), 0) + sign * units
    for (quota, day), units in sorted(left.items()):
        if units:
            await tx.run(sql.CHARGE_LEDGER, (0, -units, quota, day))


async def _grant(
    tx: Transaction, dispatch: _core.Dispatch, intent: Intent, ids: Sequence[int]
) -> tuple[int, list[int]]:
    """(attempts written down, messages whose data the store refused); after a refusal the first number is too low."""
    values = (intent.now_us, intent.now_us + intent.send_us, intent.epoch, intent.provider, intent.recipe)
    try:
        return await tx.run_each(dispatch.mysql_intents(values, None, sql.BYTES_MAX)), []
    except Exception as error:
        if classify(error) is not Fault.DATA:
            raise
    # Each row alone: those of a statement before it are written already, and their guard refuses them now.
    granted, poisoned = 0, []
    for identity in ids:
        try:
            granted += await tx.run_each(dispatch.mysql_intents(values, identity, sql.BYTES_MAX))
        except Exception as error:
            if classify(error) is not Fault.DATA:
                raise
            poisoned.append(identity)
    return (granted if not poisoned else -1), poisoned


# Facts.


async def settle(
    tx: Transaction,
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
    """Read and lock the rows that `facts` concern, let the core decide, write what it decided.

    With a scheduler, the day ledgers follow in the same transaction, each by what changes: others write them, too.
    Whoever gives none settles no attempt.
    `early_kept` False says that no receipt waits for its attempt, so none is looked for.
    """
    ids = facts.ids()
    rows = await tx.rows_of(_core.mysql_select_rows(ids, sql.BYTES_MAX))
    early = await _join_early(tx, facts, ids, provider) if early_kept else []
    settlement = settler.settle(orjson.dumps(rows).decode(), facts, early, registry, now_us, seed)
    written = await _write(tx, settlement, registry, now_us, provider)
    if scheduler is not None:
        deltas = scheduler.charge_deltas(settlement)
        if deltas:
            tx.on_undone(partial(scheduler.deltas_undone, deltas))
            for quota, day, spent, reserved in deltas:
                await tx.run(sql.CHARGE_LEDGER, (spent, reserved, quota, day))
    return written


async def cancel(
    tx: Transaction,
    facts: _core.Facts,
    settler: _core.Settler,
    registry: _core.Registry,
    now_us: int,
    seed: int,
    tenant: int,
    holds: Holds,
) -> tuple[Written, Row]:
    """Settle the cancelling of one message of this tenant; returns its view after it, too.

    If its shard is not held so, its owner is told: others may wait behind it for their turn.
    """
    own = await tx.held_of(holds)
    written = await settle(tx, facts, settler, registry, now_us, seed)
    [identity] = facts.ids()
    [row] = await tx.rows(sql.SELECT_VIEW, (identity, tenant))
    shard = row[CAMPAIGN] % SHARDS
    if shard not in own:
        await inbox.put(tx, InboxKind.CANCELLED, now_us, [(shard, inbox.packed([identity]))])
    return written, row


async def hasten_lookups(tx: Transaction, dues: Sequence[tuple[int, int]]) -> None:
    """Bring the look-ups of taken messages forward: (new timer, id) each. No timer moves to a later time.

    A start has thousands of them, and attempts are written down in the same lane: so it is a statement a piece.
    """
    for piece in pieces(dues):
        turns = " ".join(f"WHEN {identity} THEN {due_us}" for due_us, identity in piece)
        await tx.run(sql.UPDATE_LOOKUPS_DUE.format(turns=turns, ids=listed(identity for _, identity in piece)))


async def recipe(tx: Transaction, provider: int, callback_base: str, mac_key: str, renderer: int) -> int:
    """The key of the recipe with these parts, made if there was none."""
    parts = (provider, callback_base, mac_key, renderer)
    found = await tx.rows(sql.SELECT_RECIPE, parts)
    key: int = found[0][0] if found else await tx.insert(sql.INSERT_RECIPE, parts)
    return key


async def _join_early(
    tx: Transaction, facts: _core.Facts, ids: Sequence[int], provider: int
) -> list[tuple[int, bytes]]:
    early: list[tuple[int, bytes]] = []
    for piece in pieces(ids):
        early += [(row[0], row[1]) for row in await tx.rows(sql.SELECT_EARLY.format(ids=listed(piece)))]
    ids_of = {provider_id: message for message, provider_id in facts.provider_ids()}
    for piece in pieces(list(ids_of)):
        asked = sql.SELECT_EARLY_BY_PROVIDER_ID.format(provider=provider, texts=quoted(piece))
        found = await tx.rows(asked)
        early += [(ids_of[provider_id], fact) for _, provider_id, fact in found]
        if found:
            await tx.run(sql.DELETE_EARLY_POSITIONS.format(ids=listed(row[0] for row in found)))
    return early


async def _write(
    tx: Transaction, settlement: _core.Settlement, registry: _core.Registry, now_us: int, provider: int
) -> Written:
    updates = settlement.mysql_updates(sql.BYTES_MAX)
    if await tx.run_each(updates) != sum(rows for _, rows in updates):
        message = "a row moved inside the transaction that had locked it"
        raise RuntimeError(message)
    await tx.run_each(settlement.mysql_quiet(sql.BYTES_MAX))
    written = Written(settlement)
    events = settlement.event_rows(registry)
    for tenant, recipient, code in settlement.opt_outs():
        evidence = f"provider code {code}"
        await consent.lock(tx, [(tenant, recipient)])
        if await consent.insert(tx, tenant, recipient, OPT_OUT_PROVIDER, now_us, now_us, evidence):
            written.opt_outs.append((tenant, recipient))
            events.append((tenant, _core.consent_event("OPT_OUT", recipient, now_us)))
    tx.tell(events, now_us)
    keep = settlement.keep_rows()
    await tx.put(
        sql.INSERT_EARLY, [(message, provider, provider_id, now_us, fact) for message, provider_id, fact in keep]
    )
    for piece in pieces(settlement.joined()):
        await tx.run(sql.DELETE_EARLY.format(ids=listed(piece)))
    await _learn(tx, settlement.learned(), now_us)
    requeue = settlement.requeue()
    if requeue:
        written.load = await held(tx, requeue)
    return written


async def _learn(tx: Transaction, learned: Sequence[tuple[int, int]], now_us: int) -> None:
    """Keep the carriers of recipients; one that is known already is written again once a day."""
    carriers = dict(learned)
    known: list[tuple[Any, ...]] = []
    for piece in pieces(list(carriers)):
        since_us = now_us - CARRIER_STALE_US
        known += await tx.rows(sql.SELECT_CARRIERS_OF.format(ids=listed(piece), since_us=since_us))
    new = carriers.items() - set(known)
    await tx.put(sql.REPLACE_CARRIERS, [(recipient, carrier, now_us) for recipient, carrier in sorted(new)])


# Webhooks.


async def receive(
    tx: Transaction,
    webhooks: _core.Webhooks,
    bodies: Sequence[bytes],
    provider: int,
    scheduler: _core.Scheduler,
    settler: _core.Settler,
    registry: _core.Registry,
    mint: _core.Admitter,
    now_us: int,
    seed: int,
    *,
    resolves: bool = True,
) -> Received:
    """Store webhooks of good standing: deduplicate, settle receipts, keep early ones, store inbound messages.

    Without `resolves`, receipts that name no message are kept as early: the owner of what they are about finds them.
    """
    fresh = await _fresh(tx, webhooks, provider, now_us)
    received = Received(duplicates=len(webhooks.good()) - len(fresh))
    if not fresh:
        return received
    inbounds = webhooks.inbounds(fresh, registry)
    # Before any message is locked: attempts lock slots first, too.
    await consent.lock(tx, [(inbound.tenant, inbound.sender) for inbound in inbounds if inbound.keyword])
    wanted = webhooks.provider_only(fresh)
    resolved: dict[int, int] = {}
    if wanted:
        if resolves:
            resolved = await resolve_provider_ids(tx.rows, wanted, provider, now_us)
        early = webhooks.early_rows([index for index, _ in wanted if index not in resolved])
        await tx.put(sql.INSERT_EARLY, [(0, provider, provider_id, now_us, fact) for provider_id, fact in early])
        received.kept_early = len(early)
    facts = webhooks.facts(fresh, resolved)
    if len(facts):
        received.written = await settle(
            tx, facts, settler, registry, now_us, seed, scheduler=scheduler, provider=provider
        )
        received.kept_early += len(received.written.settlement.keep_rows())
    others = [(provider, event_id, now_us, bodies[index]) for index, event_id in webhooks.others(fresh)]
    await tx.put(sql.INSERT_UNKNOWN_WEBHOOKS, others)
    for inbound in inbounds:
        await consent.store_inbound(tx, inbound, mint.mint(now_us), provider, now_us, received)
    return received


async def resolve_provider_ids(
    rows: Rows, wanted: Sequence[tuple[int, str]], provider: int, now_us: int
) -> dict[int, int]:
    """The newest message of each: looked for among the latest days, and only what is not there among all others."""
    found: dict[str, int] = {}
    latest = _core.first_id_at(max(0, now_us - LATEST_US))
    for from_id, below_id in ((latest, ID_MAX), (0, latest)):
        left = {provider_id for _, provider_id in wanted} - found.keys()
        for piece in pieces(sorted(left)):
            asked = sql.SELECT_BY_PROVIDER_ID.format(
                provider=provider, texts=quoted(piece), from_id=from_id, below_id=below_id
            )
            found |= {row[0]: row[1] for row in await rows(asked)}
    return {index: found[provider_id] for index, provider_id in wanted if provider_id in found}


async def _fresh(tx: Transaction, webhooks: _core.Webhooks, provider: int, now_us: int) -> list[int]:
    good = webhooks.good()
    fresh: list[int] = []
    # Each piece is one statement, so that a duplicate undoes all of it and nothing else.
    for piece in pieces(good):
        fresh += await _fresh_of(tx, piece, webhooks.event_ids(piece), provider, now_us)
    return fresh


async def _fresh_of(
    tx: Transaction, indexes: Sequence[int], event_ids: Sequence[str], provider: int, now_us: int
) -> Sequence[int]:
    try:
        await tx.put(sql.INSERT_WEBHOOK_EVENTS, [(provider, event_id, now_us) for event_id in event_ids])
    except Exception as error:
        if code_of(error) != DUPLICATE:
            raise
    else:
        return indexes
    # Duplicates are rare: only then is each looked at. Within a batch, the first of an id is the new one.
    asked = sql.SELECT_WEBHOOK_EVENTS.format(provider=provider, texts=quoted(event_ids))
    known = {row[0] for row in await tx.rows(asked)}
    new: dict[str, int] = {}
    for index, event_id in zip(indexes, event_ids, strict=True):
        if event_id not in known:
            new.setdefault(event_id, index)
    await tx.put(sql.INSERT_WEBHOOK_EVENTS, [(provider, event_id, now_us) for event_id in new])
    return list(new.values())
