"""Puts a backup that `longwave migrate` took into an empty database, and looks whether all of it is there.

It replaces nothing: a database with a table in it is refused, so the one that is to be given up is still there when
something goes wrong. A run that ended half-way leaves tables; the next one wants an empty database again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.errors import LongwaveError
from engine.stores.mysql import comparison, dump, durability, migrate
from engine.stores.mysql.address import Address, Tls
from engine.stores.mysql.pool import Limits, Link, connect

LONG_S = 24 * 3600.0
_TABLES = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() ORDER BY TABLE_NAME"


class RestoreRefused(LongwaveError):  # noqa: N818 - it says what happened
    """Nothing was restored, or not all; the message says what is so and what to do."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What is there now."""

    rows: int
    compared: bool
    """Rows and checksums are those of the backup; otherwise the backup does not say what they were."""
    missing: tuple[str, ...]
    """Revisions that this binary wants beyond the backup's."""


async def restore(
    address: Address,
    limits: Limits,
    path: Path,
    progress: Callable[[str], None],
    *,
    tls: Tls,
) -> Restored:
    """Restore it; `progress` is told each step in words.

    Raises RestoreRefused, BackupFailed for a file that is no whole backup, StoreTooNew, OSError, the driver's errors.
    """
    link = Link(await connect(address, limits), LONG_S)
    try:
        there = [str(name) for (name,) in await link.rows(_TABLES)]
        if there:
            raise RestoreRefused(
                f"{address.database} has {len(there)} tables ({there[0]}, …); a backup goes into an empty database: "
                "make one beside it and name it in LONGWAVE_STORE_URL"
            )
        [(version,)] = await link.rows("SELECT VERSION()")
        mariadb, _ = durability.version_of(version)
        tools = await asyncio.to_thread(partial(dump.Tools.found, tls, mariadb=mariadb))
        progress(f"reading {path.name} to its end")
        wanted = await asyncio.to_thread(dump.sums_in, path)
        tables = await asyncio.to_thread(dump.tables_in, path)
        progress(f"loading {len(tables)} tables")
        await asyncio.to_thread(dump.load, address, tools, path, address.database)
        progress("adding up what is there")
        found = comparison.totals(await comparison.sums(link, address.database))
    finally:
        await link.end()
    wrong = sorted((tables | (wanted or {}).keys()) ^ found.keys())
    if wanted is not None:
        wrong += [table for table in sorted(wanted.keys() & found.keys()) if wanted[table] != found[table]]
    if wrong:
        raise RestoreRefused(
            f"what is there now is not what the backup says: {', '.join(wrong)}. Do not serve it; take another backup"
        )
    rows = sum(count for count, _ in found.values())
    return Restored(rows, wanted is not None, await migrate.missing(address, limits))
