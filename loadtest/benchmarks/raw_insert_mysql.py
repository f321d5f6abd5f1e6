"""The ceiling of a durable accept on a server: the rows an engine stored, inserted again in bulk, same transactions.

It reads the database of an engine that has stopped and writes a new one on the same server: same tables, partitions and
borders of transactions. Statements are rendered before the time is taken: one INSERT of many rows a table, as the
engine's core renders them; nothing is decided, answered or scheduled in between.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from loadtest.benchmarks.raw_insert import TABLES

if TYPE_CHECKING:
    from tests.servers.mariadb import MariaDB

# As the engine bounds its statements.
STATEMENT_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Rendered:
    """One transaction of the engine."""

    messages: int
    statements: tuple[str, ...]


def read(server: "MariaDB", database: str) -> list[Rendered]:
    """All that was accepted, in the order of its transactions. Raises ValueError when something has moved."""
    with closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM messages WHERE state <> 1 OR seq <> 1")
        [(moved,)] = cursor.fetchall()
        if moved:
            message = f"{moved} messages went on after they were accepted: this is no longer what an accept writes"
            raise ValueError(message)
        heads: dict[str, str] = {}
        rows_by_key: dict[str, dict[int, list[str]]] = {}
        for table, key in TABLES.items():
            cursor.execute(f"SHOW COLUMNS FROM {table}")
            names = ", ".join(f"`{name}`" for name, *_, extra in cursor.fetchall() if "GENERATED" not in extra)
            heads[table] = f"INSERT INTO {table} ({names}) VALUES "  # noqa: S608 - names of a schema
            cursor.execute(f"SELECT {key}, {names} FROM {table}")  # noqa: S608 - as above
            found: dict[int, list[str]] = {}
            for row in cursor.fetchall():
                found.setdefault(row[0], []).append(_values(row[1:]))
            rows_by_key[table] = found
        cursor.execute("SELECT accept_us, id FROM messages ORDER BY id")
        accepted = cursor.fetchall()
    transactions = []
    # One group has one clock reading, which its messages and its events carry.
    for accept_us, group in groupby(accepted, key=lambda row: row[0]):
        ids = [row[1] for row in group]
        statements: list[str] = []
        for table in ("request_ids", "messages", "bodies"):
            rows = [one for identity in ids for one in rows_by_key[table].get(identity, ())]
            statements += _statements(heads[table], rows)
        statements += _statements(heads["events"], rows_by_key["events"].get(accept_us, []))
        transactions.append(Rendered(len(ids), tuple(statements)))
    return transactions


def part(transactions: Sequence[Rendered], first: int, messages: int) -> list[Rendered]:
    """So many messages from the first-th on. Raises ValueError where a transaction would be cut."""
    kept, passed = [], 0
    for one in transactions:
        if first <= passed < first + messages:
            kept.append(one)
        passed += one.messages
    if sum(one.messages for one in kept) != messages:
        message = f"{messages} messages from {first} on are not whole transactions"
        raise ValueError(message)
    return kept


def insert(
    server: "MariaDB", database: str, into: str, before: Sequence[Rendered], measured: Sequence[Rendered]
) -> float:
    """Insert both into a new database `into` with the tables of `database`; the seconds of the second."""
    definitions = [server.run(f"SHOW CREATE TABLE {table}", database=database)[0][1] for table in TABLES]
    server.create_database(into)
    with closing(server.connect(into)) as connection, connection.cursor() as cursor:
        cursor.execute("SET foreign_key_checks = 0")
        for definition in definitions:
            cursor.execute(definition)
        for one in before:
            _run(cursor, one)
        began = time.perf_counter()
        for one in measured:
            _run(cursor, one)
        return time.perf_counter() - began


def _run(cursor: Any, one: Rendered) -> None:
    cursor.execute("BEGIN")
    for statement in one.statements:
        cursor.execute(statement)
    cursor.execute("COMMIT")


def _values(row: Sequence[Any]) -> str:
    return f"({', '.join(map(_literal, row))})"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return f"_utf8mb4 x'{value.encode().hex()}'" if isinstance(value, str) else str(value)


def _statements(head: str, rows: Sequence[str]) -> list[str]:
    found: list[str] = []
    waiting: list[str] = []
    size = 0
    for row in rows:
        if waiting and size + len(row) > STATEMENT_BYTES_MAX:
            found.append(head + ", ".join(waiting))
            waiting, size = [], 0
        waiting.append(row)
        size += len(row)
    return [*found, head + ", ".join(waiting)] if waiting else found
