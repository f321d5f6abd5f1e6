"""Copies a store on a server into a file of the embedded kind, so that one reader of evidence serves both.

It checks nothing. What only a server has (slots, leases, lanes) stays behind; a position of the log becomes one of the
file's, in the order that it has in its slot.
"""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pymysql

from engine.stores.migrate import migrate_store
from tests.servers.mariadb import PASSWORD

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

_NOT_COPIED: Final = {"schema_version", "sqlite_sequence"}
# Compared byte by byte on the server; texts of the file.
_TEXTS: Final = {"request_id", "event_id"}
_SLOTS: Final = 16


def copy_to_file(database_url: str, path: Path) -> None:
    """Make the file at `path` hold what the database holds now."""
    if not path.exists():
        migrate_store(path, now_us=1)
    parts = urlsplit(database_url)
    server = pymysql.connect(
        host=parts.hostname, port=parts.port or 0, user=parts.username or "", password=PASSWORD,
        database=parts.path.removeprefix("/"),
    )  # fmt: skip
    with closing(server), closing(dbapi.connect(path, isolation_level=None)) as file, server.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        file.execute("PRAGMA foreign_keys = OFF")
        file.execute("BEGIN IMMEDIATE")
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for table in tables:
            if table not in _NOT_COPIED:
                _copy(cursor, file, table)
        file.execute("COMMIT")


def _copy(cursor: Any, file: "dbapi.Connection", table: str) -> None:
    columns = [name for _, name, *_ in file.execute(f"PRAGMA table_info({table})")]
    wanted = [
        f"position * {_SLOTS} + slot" if (table, name) == ("events", "position") else f"`{name}`" for name in columns
    ]
    cursor.execute(f"SELECT {', '.join(wanted)} FROM {table}")  # noqa: S608 - names of our own
    texts = [name in _TEXTS for name in columns]
    rows = [
        tuple(value.decode() if text else value for value, text in zip(row, texts, strict=True))
        for row in cursor.fetchall()
    ]
    file.execute(f"DELETE FROM {table}")  # noqa: S608 - as above
    file.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)  # noqa: S608 - as above
