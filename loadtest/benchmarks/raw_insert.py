"""The ceiling of a durable accept: the rows an engine stored, inserted again by sqlite3 in the same transactions.

It reads the store of an engine that has stopped and writes a new file beside it, on the same file system. Tables,
indexes, page size, columns and the borders of transactions are those of the engine's own store; nothing is decided,
answered or scheduled in between. The driver is the one the engine uses, with the SQLite it bundles.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

Row = tuple[Any, ...]

# What one accept writes, and the column by which its rows are joined to the accept.
TABLES: Final = {"messages": "id", "bodies": "id", "request_ids": "id", "events": "at_us"}
# As the engine opens its writer.
PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "wal_autocheckpoint=4000",
    "journal_size_limit=67108864",
    "cache_size=-65536",
    "temp_store=MEMORY",
    "mmap_size=0",
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table and how a row is put into it."""

    name: str
    columns: tuple[str, ...]
    """Those that an accept fills: without a default, not NULL."""
    definitions: tuple[str, ...]
    """Its DDL and that of its indexes."""

    @property
    def insert(self) -> str:
        """The statement."""
        marks = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({marks})"  # noqa: S608 - names of a schema


@dataclass(frozen=True, slots=True)
class Stored:
    """Accepted messages as a store holds them."""

    page_bytes: int
    tables: tuple[Table, ...]
    transactions: tuple[dict[str, list[Row]], ...]
    """Rows by table, one entry for each transaction of the engine."""

    @property
    def messages(self) -> int:
        """How many."""
        return sum(len(rows["messages"]) for rows in self.transactions)

    def part(self, first: int, messages: int) -> "Stored":
        """So many from the first-th on. Raises ValueError where a transaction would be cut."""
        kept, passed = [], 0
        for rows in self.transactions:
            if first <= passed < first + messages:
                kept.append(rows)
            passed += len(rows["messages"])
        part = Stored(self.page_bytes, self.tables, tuple(kept))
        if part.messages != messages:
            message = f"{messages} messages from {first} on are not whole transactions"
            raise ValueError(message)
        return part


def read(store: Path) -> Stored:
    """All that was accepted and not touched since. Raises ValueError when something has moved."""
    connection = dbapi.connect(f"file:{quote(str(store.resolve()))}?mode=ro", uri=True)
    try:
        tables = tuple(_table(connection, name) for name in TABLES)
        moved = connection.execute("SELECT count(*) FROM messages WHERE state <> 1 OR seq <> 1").fetchone()[0]
        if moved:
            message = f"{moved} messages went on after they were accepted: this is no longer what an accept writes"
            raise ValueError(message)
        page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
        return Stored(page_bytes, tables, tuple(_transactions(connection, tables)))
    finally:
        connection.close()


def _table(connection: dbapi.Connection, name: str) -> Table:
    described = connection.execute(f"PRAGMA table_info({name})").fetchall()
    # (position, name, type, not null, default, place in the primary key); a position counted by SQLite is left to it.
    columns = tuple(row[1] for row in described if row[4] is None and (row[3] or row[5]) and row[1] != "position")
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC", (name,)
    )
    return Table(name, columns, tuple(row[0] for row in found))


def _transactions(connection: dbapi.Connection, tables: Sequence[Table]) -> Iterable[dict[str, list[Row]]]:
    """One group has one clock reading, which its messages and its events carry."""
    by_key: dict[str, dict[int, list[Row]]] = {}
    for table in tables:
        key = TABLES[table.name]
        found = connection.execute(f"SELECT {key}, {', '.join(table.columns)} FROM {table.name}")  # noqa: S608
        rows: dict[int, list[Row]] = {}
        for row in found:
            rows.setdefault(row[0], []).append(row[1:])
        by_key[table.name] = rows
    accepted = connection.execute("SELECT accept_us, id FROM messages ORDER BY id").fetchall()
    for accept_us, group in groupby(accepted, key=lambda row: row[0]):
        ids = [row[1] for row in group]
        rows_of = {
            name: [row for identity in ids for row in by_key[name].get(identity, ())]
            for name in ("messages", "bodies", "request_ids")
        }
        yield rows_of | {"events": by_key["events"].get(accept_us, [])}


def insert(before: Stored, stored: Stored, path: Path) -> float:
    """Insert `before`, then `stored` into a new store; returns the seconds of `stored`, first BEGIN to last COMMIT."""
    connection = dbapi.connect(str(path), isolation_level=None)
    try:
        for pragma in (f"page_size={stored.page_bytes}", *PRAGMAS):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        for table in stored.tables:
            for definition in table.definitions:
                connection.execute(definition)
        statements = {table.name: table.insert for table in stored.tables}
        _insert_rows(connection, statements, before)
        began = time.perf_counter()
        _insert_rows(connection, statements, stored)
        return time.perf_counter() - began
    finally:
        connection.close()


def _insert_rows(connection: dbapi.Connection, statements: dict[str, str], stored: Stored) -> None:
    for rows in stored.transactions:
        connection.execute("BEGIN IMMEDIATE")
        for name, statement in statements.items():
            connection.executemany(statement, rows[name])
        connection.execute("COMMIT")
