"""Whether a store is what a revision says, after it was applied: what is there, what was not to change, what is read.

It changes nothing: statements are explained, not run.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from engine.stores.mysql import sql
from engine.stores.mysql.faults import Fault, classify
from engine.stores.mysql.pool import Link

# Rows that are always there, however busy the store is.
FIXED: Final = ("event_slots", "opt_out_slots", "leases")
_VERBS: Final = ("SELECT", "INSERT", "REPLACE", "UPDATE", "DELETE", "(SELECT")
_EXAMPLES: Final = {
    "below_id": "9",
    "from_id": "1",
    "ids": "1",
    "texts": "'x'",
    "pairs": "tenant = 1 AND request_id IN ('x')",
    "filters": "",
    "unit": "segments",
    "provider": "1",
    "rows": "1",
    "since_us": "1",
    "of": "",
    "shards": "1",
    "slot": "1",
    "slots": "SELECT at_us FROM events",
    "table": "webhook_events",
    "turns": "WHEN 1 THEN 1",
    "upto": "1",
}
_TRIES: Final = 5


async def counts(link: Link, tables: Iterable[str]) -> dict[str, int]:
    """Table to rows. Raises the driver's errors."""
    found = {}
    for table in sorted(tables):
        [(found[table],)] = await link.rows(f"SELECT COUNT(*) FROM `{table}`")  # noqa: S608 - a table's name
    return found


def changed(before: dict[str, int], after: dict[str, int], *, served: bool) -> list[str]:
    """Tables whose rows became more or fewer; while an engine writes, only those tell that it does not change."""
    tables = [table for table in before if not served or table in FIXED]
    return [
        f"{table} had {before[table]} rows and has {after.get(table, 0)}"
        for table in tables
        if before[table] != after.get(table)
    ]


def statements() -> Iterator[tuple[str, str]]:
    """Name and text of each statement of `sql.py`, with examples in place of values."""
    for name, text in vars(sql).items():
        if name.isupper() and not name.startswith("_") and isinstance(text, str) and text.startswith(_VERBS):
            yield name, _with_examples(text)


def _with_examples(text: str) -> str:
    # Both tables of a join have a tenant.
    pairs = ("r." if " AS r " in text else "") + _EXAMPLES["pairs"]
    filled = text.replace("%s", "1").format(**_EXAMPLES | {"pairs": pairs})
    if filled.endswith("VALUES "):  # a head that rows follow
        columns = filled[filled.index("(") + 1 : filled.index(")")].count(",") + 1
        filled += f"({', '.join('1' for _ in range(columns))})"
    return filled


async def unreadable(link: Link) -> list[str]:
    """Statements that the server does not take. Raises the driver's errors of a server that is away."""
    refused = []
    for name, text in statements():
        for attempt in range(_TRIES):
            try:
                await link.rows(f"EXPLAIN {text}")
            except Exception as error:
                fault = classify(error)
                if fault is Fault.LOST:
                    raise
                # To explain a read of one row, the server may wait for its lock.
                if fault is Fault.AGAIN and attempt + 1 < _TRIES:
                    continue
                refused.append(f"{name}: {error}")
            break
    return refused
