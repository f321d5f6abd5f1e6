"""Partitions of messages and bodies by day of the id: made ahead, dropped as a whole when a day is past its retention.

Invariants: the last partition takes whatever no day was made for, so a late look costs nothing but its size; no day is
dropped in which a message may still move or was due lately; a body goes behind its message, so that a process that dies
between the two leaves bodies of nobody, which the next look drops.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from engine import _core, failpoints
from engine.stores.mysql.pool import Link

TABLES: Final = ("messages", "bodies")
# Two weeks: a process that nobody looks after for so long meets no day without a partition.
DAYS_AHEAD: Final = 14
DAYS_LEFT_MIN: Final = 7
_LAST: Final = "pmax"
_US: Final = 1_000_000

_SELECT_DAYS: Final = (
    "SELECT PARTITION_NAME, PARTITION_DESCRIPTION FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() "
    "AND TABLE_NAME = %s AND PARTITION_NAME IS NOT NULL AND PARTITION_DESCRIPTION <> 'MAXVALUE' "
    "ORDER BY PARTITION_ORDINAL_POSITION"
)
_SELECT_MOVING: Final = "SELECT 1 FROM messages PARTITION ({name}) WHERE state < 16 LIMIT 1"
# Terminal states one by one: so it is a range of the index by state and time for each.
_SELECT_LATE: Final = (
    "SELECT 1 FROM messages PARTITION ({name}) WHERE state IN (16, 17, 18, 19, 20, 21, 22, 23, 24) AND due_us >= %s "
    "LIMIT 1"
)
_COUNT_LATE: Final = "SELECT COUNT(*) FROM {table} PARTITION (pmax)"

_SELECT: Final = (
    "SELECT PARTITION_NAME FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s "
    "AND PARTITION_NAME IS NOT NULL"
)


def _first_id_behind(day: datetime) -> int:
    return _core.first_id_at(int((day + timedelta(days=1)).timestamp()) * _US)


def _name(day: datetime) -> str:
    return f"p{day:%Y%m%d}"


class Days(NamedTuple):
    """What one look changed."""

    dropped: int = 0
    late_rows: int = 0
    """Rows of both tables that had the last partition, and were moved into their days."""


async def late_rows(link: Link) -> int:
    """Rows for which no day was made. Raises the driver's errors."""
    return sum([(await link.rows(_COUNT_LATE.format(table=table)))[0][0] for table in TABLES])


async def make_ahead(link: Link, now_us: int) -> int:
    """Make the days that are missing, each table's in one statement, when few are left; how many were made.

    What lies in the last partition by then is moved into its day. Raises the driver's errors.
    """
    today = datetime.fromtimestamp(now_us / _US, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    made = 0
    for table in TABLES:
        names = {row[0] for row in await link.rows(_SELECT, (table,))}
        newest = max(names - {_LAST}, default="")
        if newest >= _name(today + timedelta(days=DAYS_LEFT_MIN)):
            continue
        days = [today + timedelta(days=number) for number in range(DAYS_AHEAD + 1)]
        missing = [day for day in days if _name(day) > newest]
        parts = [f"PARTITION {_name(day)} VALUES LESS THAN ({_first_id_behind(day)})" for day in missing]
        await link.run(
            f"ALTER TABLE {table} REORGANIZE PARTITION {_LAST} INTO "
            f"({', '.join(parts)}, PARTITION {_LAST} VALUES LESS THAN MAXVALUE)"
        )
        made += len(missing)
    return made


async def oldest_to_drop(link: Link, before: int, due_before_us: int) -> tuple[tuple[str, ...], str] | None:
    """A day of ids below `before` in which no message moves any more: the tables that still have it, and its name.

    None of its messages was due at `due_before_us` or later.
    """
    messages, bodies = await _days(link, "messages"), await _days(link, "bodies")
    for name, behind in bodies.items():
        if behind <= before and name < min(messages, default=_LAST):
            return ("bodies",), name
    for name, behind in messages.items():
        if (
            behind <= before
            and not await link.rows(_SELECT_MOVING.format(name=name))
            and not await link.rows(_SELECT_LATE.format(name=name), (due_before_us,))
        ):
            return TABLES if name in bodies else ("messages",), name
    return None


async def drop_oldest(link: Link, before: int, due_before_us: int) -> str | None:
    """Drop such a day; its name, None when there is none. Raises the driver's errors."""
    found = await oldest_to_drop(link, before, due_before_us)
    if found is None:
        return None
    tables, name = found
    for table in tables:
        await link.run(f"ALTER TABLE {table} DROP PARTITION {name}")
        failpoints.passing("partitions.after_drop")
    return name


async def _days(link: Link, table: str) -> dict[str, int]:
    """Name → first id behind it, oldest first."""
    return {str(name): int(behind) for name, behind in await link.rows(_SELECT_DAYS, (table,))}
