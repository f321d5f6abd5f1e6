"""What a node has for the owner of a shard: rows of `inbox`, written with what they tell of.

It decides nothing. Invariants: a row is written in the transaction whose work it tells of, and deleted in the one in
which the owner takes that work up, under the lease; no cursor skips one, so a late commit is found like any other.
"""

from array import array
from collections.abc import Iterable, Sequence

from engine.stores.mysql import sql
from engine.stores.mysql.transactions import Transaction
from engine.stores.store import InboxKind


def packed(numbers: Iterable[int]) -> bytes:
    """As a payload: eight bytes each."""
    return array("Q", numbers).tobytes()


async def put(tx: Transaction, kind: InboxKind, at_us: int, rows: Sequence[tuple[int, bytes]]) -> None:
    """Tell the owners: (shard, payload) each."""
    await tx.put(sql.INSERT_INBOX, [(shard, int(kind), at_us, payload) for shard, payload in rows])


async def done(tx: Transaction, positions: Sequence[int]) -> None:
    """These are taken up."""
    for start in range(0, len(positions), sql.IDS_MAX):
        ids = ", ".join(map(str, positions[start : start + sql.IDS_MAX]))
        await tx.run(sql.DELETE_INBOX.format(ids=ids))
