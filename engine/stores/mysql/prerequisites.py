"""What a migration needs before it begins: rights, room, and nobody on the store whom a contract would break.

It changes nothing. What the server does not tell is said to be unknown, never guessed.
"""

import re
import shutil
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from engine.stores.mysql import bookkeeping, sql
from engine.stores.mysql.faults import Fault, classify
from engine.stores.mysql.pool import Link
from engine.stores.store import Finding

# Of the database. DROP is for partitions that are made ahead, too.
RIGHTS: Final = (
    "ALTER", "CREATE", "DELETE", "DROP", "INDEX", "INSERT", "REFERENCES", "SELECT", "UPDATE",
)  # fmt: skip
_RIGHTS_OF: Final = (
    "SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = %s "
    "UNION SELECT PRIVILEGE_TYPE FROM information_schema.SCHEMA_PRIVILEGES "
    "WHERE GRANTEE = %s AND DATABASE() LIKE TABLE_SCHEMA"
)
_BYTES: Final = (
    "SELECT CAST(COALESCE(SUM(DATA_LENGTH), 0) AS UNSIGNED), CAST(COALESCE(SUM(DATA_LENGTH + INDEX_LENGTH), 0) AS "
    "UNSIGNED), CAST(COALESCE(MAX(DATA_LENGTH + INDEX_LENGTH), 0) AS UNSIGNED) FROM information_schema.TABLES "
    "WHERE TABLE_SCHEMA = DATABASE()"
)
# A plugin of MariaDB; sizes are in KiB.
_DISKS: Final = "SELECT Path, Available FROM information_schema.DISKS"
_MIB: Final = 1 << 20


async def rights(link: Link) -> Finding:
    """Whether the user may do what a migration does. Raises the driver's errors."""
    wanted = "what it needs"
    [(user,)] = await link.rows("SELECT CURRENT_USER()")
    name, _, host = str(user).rpartition("@")
    grantee = f"'{name}'@'{host}'"
    held = {str(row[0]).upper() for row in await link.rows(_RIGHTS_OF, (grantee, grantee))}
    absent = [right for right in RIGHTS if right not in held]
    if not absent:
        return Finding("rights", f"{user} has all", wanted, ok=True)
    [(role,)] = await link.rows("SELECT CURRENT_ROLE()")
    if role is not None and str(role).upper() != "NONE":
        # What a role brings is shown differently by each server.
        return Finding("rights", f"{user} has role {role}: not looked into", wanted, ok=True)
    return Finding("rights", f"{user} lacks {', '.join(absent)}", wanted, ok=False)


async def room_on_server(link: Link, *, copies: bool) -> Finding:
    """Whether the server has room for its largest table anew, and with `copies` for a scratch copy of all tables."""
    _, everything, largest = await _bytes(link)
    needed = largest + (everything if copies else 0)
    wanted = f"{needed // _MIB + 1} MiB"
    try:
        disks = {str(path): int(kib) * 1024 for path, kib in await link.rows(_DISKS)}
        [(data,)] = await link.rows("SELECT @@datadir")
    except Exception as error:
        if classify(error) is Fault.LOST:
            raise
        return Finding("room on the server", "not known: the server does not tell", wanted, ok=True)
    holding = [path for path in disks if _is_below(str(data), path)]
    if not holding:
        return Finding("room on the server", "not known: the server does not tell", wanted, ok=True)
    free = disks[max(holding, key=len)]
    return Finding("room on the server", f"{free // _MIB} MiB", wanted, free >= needed)


def _is_below(path: str, folder: str) -> bool:
    return re.match(re.escape(folder.rstrip("/")) + "(/|$)", path) is not None


async def room_in_folder(link: Link, folder: Path) -> Finding:
    """Whether the backup's folder takes a dump, which compressed is smaller than the rows. Raises OSError."""
    rows, _, _ = await _bytes(link)
    free = shutil.disk_usage(folder).free
    return Finding("room for the backup", f"{free // _MIB} MiB", f"{rows // _MIB + 1} MiB", free >= rows + _MIB)


async def _bytes(link: Link) -> tuple[int, int, int]:
    [(rows, everything, largest)] = await link.rows(_BYTES)
    return int(rows), int(everything), int(largest)


def older_binary(connection: sa.Connection, needed: str, known: tuple[str, ...]) -> str:
    """Who runs on the store and may be older than revision `needed`; empty when nobody is.

    A process writes itself down when it opens a store (`migrate.migrate`), before it takes a node's number.
    """
    live = [str(row[1]) for row in connection.exec_driver_sql(sql.SELECT_NODES)]
    connection.commit()
    known_to = bookkeeping.binaries(connection)
    for name in live:
        revision = known_to.get(name)
        if revision is None:
            return f"{name.rpartition(' ')[0]}, which did not write itself down"
        if revision in known and known.index(revision) < known.index(needed):
            return f"{name.rpartition(' ')[0]}, which knows revisions up to {revision}"
    return ""
