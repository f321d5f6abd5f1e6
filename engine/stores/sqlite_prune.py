"""The embedded store's pruning: one bounded step for each kind of rows that are kept for a time only.

It knows no retention: the caller says from before which time, and how many rows at most.
"""

from typing import Final

from engine import _core
from engine.stores import sql
from engine.stores.connection import Connection
from engine.stores.store import Kept

# The fact that says up to which message request ids were forgotten.
PRUNED_TO: Final = "request_ids_pruned_to"

_DELETE: Final = {
    Kept.EVENTS: sql.DELETE_EVENTS,
    Kept.WEBHOOK_EVENTS: sql.DELETE_WEBHOOK_EVENTS,
    Kept.UNKNOWN_WEBHOOKS: sql.DELETE_UNKNOWN_WEBHOOKS,
    Kept.EARLY_RECEIPTS: sql.DELETE_EARLY_RECEIPTS,
}


def prune(connection: Connection, kind: Kept, before_us: int, rows_max: int, due_before_us: int) -> bool:
    """Remove rows from before a wall time, messages unless they were due later; True when there may be more."""
    if kind is Kept.REQUEST_IDS:
        return _prune_request_ids(connection, _core.first_id_at(before_us), rows_max)
    if kind is Kept.MESSAGES:
        return _prune_messages(connection, _core.first_id_at(before_us), rows_max, due_before_us)
    removed: int = connection.execute(_DELETE[kind], (before_us, rows_max)).rowcount
    return removed == rows_max


def _prune_request_ids(connection: Connection, before: int, rows_max: int) -> bool:
    """Forget request ids of messages accepted before the retention; True when there may be more."""
    found = connection.execute(sql.SELECT_FACT, (PRUNED_TO,)).fetchone()
    after = 0 if found is None else found[0]
    old = connection.execute(sql.SELECT_REQUEST_IDS_TO_PRUNE, (after, before, rows_max)).fetchall()
    if not old:
        return False
    connection.executemany(
        sql.DELETE_REQUEST_ID,
        [(tenant, _core.record_request_id(record), identity) for identity, tenant, record in old],
    )
    connection.execute(sql.UPSERT_FACT, (PRUNED_TO, old[-1][0]))
    return len(old) == rows_max


def _prune_messages(connection: Connection, before: int, rows_max: int, due_before_us: int) -> bool:
    old = connection.execute(sql.SELECT_MESSAGES_TO_PRUNE, (before, rows_max, due_before_us)).fetchall()
    connection.executemany(sql.DELETE_MESSAGE, old)
    connection.executemany(sql.DELETE_BODY, old)
    return len(old) == rows_max
