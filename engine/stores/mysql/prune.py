"""The MySQL store's pruning: one bounded step for each kind of rows that are kept for a time only.

It knows no retention: the caller says from before which time, and how many rows at most. Each step is a coroutine of a
transaction.
"""

from typing import Final

from engine import _core
from engine.stores.mysql import sql
from engine.stores.mysql.stages import listed, pieces, quoted, request_pairs
from engine.stores.mysql.transactions import EVENT_SLOTS, Transaction
from engine.stores.store import Kept

# The fact that says up to which message request ids were forgotten.
PRUNED_TO: Final = "request_ids_pruned_to"


async def prune(tx: Transaction, kind: Kept, before_us: int, rows_max: int) -> bool:
    """Remove rows from before a wall time; True when there may be more."""
    if kind is Kept.REQUEST_IDS:
        return await _prune_request_ids(tx, _core.first_id_at(before_us), rows_max)
    if kind is Kept.EVENTS:
        return await _prune_events(tx, before_us, rows_max)
    # The names of the kinds left are those of their tables.
    old = [row[0] for row in await tx.rows(sql.SELECT_OLD.format(table=kind.value), (rows_max, before_us))]
    for piece in pieces(old):
        await tx.run(sql.DELETE_OLD.format(table=kind.value, ids=listed(piece)))
    return len(old) == rows_max


async def _prune_events(tx: Transaction, before_us: int, rows_max: int) -> bool:
    left = rows_max
    for slot in range(EVENT_SLOTS):
        if left == 0:
            return True
        old = [row[0] for row in await tx.rows(sql.SELECT_OLD_EVENTS, (slot, left, before_us, slot))]
        for piece in pieces(old):
            await tx.run(sql.DELETE_EVENTS.format(slot=slot, ids=listed(piece)))
        left -= len(old)
    return left == 0


async def _prune_request_ids(tx: Transaction, before: int, rows_max: int) -> bool:
    """Forget request ids of messages accepted before the retention; True when there may be more."""
    found = await tx.rows(sql.SELECT_FACTS.format(texts=quoted([PRUNED_TO])))
    after = found[0][1] if found else 0
    old = await tx.rows(sql.SELECT_REQUEST_IDS_TO_PRUNE, (after, before, rows_max))
    if not old:
        return False
    upto = old[-1][0]
    for piece in pieces(old):
        pairs = request_pairs((tenant, _core.record_request_id(record)) for _, tenant, record in piece)
        await tx.run(sql.DELETE_REQUEST_IDS.format(pairs=pairs, upto=upto))
    await tx.put(sql.REPLACE_FACTS, [(PRUNED_TO, upto)])
    return len(old) == rows_max
