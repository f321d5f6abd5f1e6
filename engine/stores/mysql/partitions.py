"""Partitions of messages and bodies by day of the id, made ahead, so that a day can be dropped as a whole later.

It drops none. Invariant: the last partition takes whatever no day was made for, so a late look costs nothing but its
size.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from engine import _core
from engine.stores.mysql.pool import Link

TABLES: Final = ("messages", "bodies")
# Two weeks: a process that nobody looks after for so long meets no day without a partition.
DAYS_AHEAD: Final = 14
DAYS_LEFT_MIN: Final = 7
_LAST: Final = "pmax"
_US: Final = 1_000_000

_SELECT: Final = (
    "SELECT PARTITION_NAME FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s "
    "AND PARTITION_NAME IS NOT NULL"
)


def _first_id_behind(day: datetime) -> int:
    return _core.first_id_at(int((day + timedelta(days=1)).timestamp()) * _US)


def _name(day: datetime) -> str:
    return f"p{day:%Y%m%d}"


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
