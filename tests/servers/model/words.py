"""The store's SQL for SQLite: its statements, which rows they lock, and the schema of its first revision.

It runs nothing but the making of an empty database. What it does not know goes to SQLite as it is, which refuses it.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from engine.registry.tables import METADATA
from engine.stores.mysql.migrations.versions import v0001_first as schema

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

# Whoever inserts one of these waits for the other who has inserted the same and not committed yet.
UNIQUE: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "request_ids": (("tenant", "request_id"),),
    "webhook_events": (("provider", "event_id"),),
    "opt_outs": (("tenant", "recipient"),),
    "ledgers": (("quota", "day"),),
    "carriers": (("recipient",),),
    "recipes": (("provider", "callback_base", "mac_key", "renderer"),),
    "nodes": (("node",),),
    "budgets": (("quota",),),
    "lanes": (("node", "lane"),),
    "facts": (("name",),),
    "events": (("slot", "position"),),
}
# What a row is known by.
KEYS: Final[dict[str, tuple[str, ...]]] = {
    **{table: keys[0] for table, keys in UNIQUE.items()},
    "messages": ("id",),
    "bodies": ("id",),
    "inbound": ("id",),
    "event_slots": ("slot",),
    "opt_out_slots": ("slot",),
    "leases": ("shard",),
    "early_receipts": ("position",),
    "consent_log": ("position",),
    "unknown_webhooks": ("position",),
    "inbox": ("position",),
}
# The server numbers these when they are inserted, before anybody commits.
NUMBERED: Final = {
    "early_receipts": "position",
    "webhook_events": "position",
    "consent_log": "position",
    "unknown_webhooks": "position",
    "inbox": "position",
    "recipes": "key",
    "tenants": "key",
    "brands": "key",
    "campaigns": "key",
    "quotas": "key",
}


def _literal(found: re.Match[str]) -> str:
    return "'" + bytes.fromhex(found[1]).decode().replace("'", "''") + "'"


_RULES: Final[tuple[tuple[re.Pattern[str], Any], ...]] = (
    (re.compile(r"_utf8mb4 x'([0-9a-f]*)'"), _literal),
    (re.compile(r" FORCE INDEX \([\w ]+\)"), ""),
    (re.compile(r" (?:LOCK IN SHARE MODE|FOR UPDATE)$"), ""),
    (re.compile(r"TIMESTAMPDIFF\(MICROSECOND, '1970-01-01', UTC_TIMESTAMP\(6\)\)"), "NOW_US()"),
    (re.compile(r"\bINSERT IGNORE\b"), "INSERT OR IGNORE"),
    (re.compile(r" AS (?:SIGNED|UNSIGNED)\)"), " AS INTEGER)"),
    (re.compile(r"\bGREATEST\("), "MAX("),
    (re.compile(r"\bLEAST\("), "MIN("),
    (re.compile(r"CONVERT\(([\w.]+) USING utf8mb4\)"), r"\1"),
    (re.compile(r" ON DUPLICATE KEY UPDATE (\w+) = \1$"), " ON CONFLICT DO NOTHING"),
    (re.compile(r" ON DUPLICATE KEY UPDATE "), " ON CONFLICT DO UPDATE SET "),
    (re.compile(r"\bVALUES\((\w+)\)"), r"excluded.\1"),
    # Each with an order and a bound of its own: SQLite wants them as tables.
    (re.compile(r"\((SELECT [^()]* LIMIT 1)\)(?= UNION ALL|\) AS)"), r"SELECT * FROM (\1)"),
    (re.compile(r"%s"), "?"),
    (re.compile(r"%%"), "%"),
)
_INSERT: Final = re.compile(r"(INSERT(?: OR IGNORE)?|REPLACE) INTO `?(\w+)`? \(([^)]*)\) VALUES ")


class Words(NamedTuple):
    """A statement, taken apart."""

    text: str
    """As SQLite takes it."""
    verb: str
    table: str = ""
    """Whose rows it writes or locks; empty for a plain read."""
    alone: bool = True
    """Whether it locks them alone."""
    keys: str = ""
    """Of an update, a deletion or a read that locks: the statement for the keys of its rows."""
    keys_from: int = 0
    """Of its values, the first that `keys` takes."""
    columns: tuple[str, ...] = ()
    """Of an insertion."""
    rows: str = ""
    """Of an insertion: `VALUES …` alone."""
    tail: str = ""


@lru_cache(maxsize=4096)
def words(statement: str) -> Words:
    """Take a statement of the store apart."""
    shared = statement.endswith("LOCK IN SHARE MODE")
    locks = shared or statement.endswith("FOR UPDATE")
    text = statement
    for rule, instead in _RULES:
        text = rule.sub(instead, text)
    verb = text.partition(" ")[0]
    if verb in {"INSERT", "REPLACE"} and (found := _INSERT.match(text)):
        columns = tuple(column.strip(" `") for column in found[3].split(","))
        tail = top(text, "ON CONFLICT", found.end())
        rows = text[found.end() : tail if tail > 0 else len(text)].rstrip()
        return Words(text, verb, found[2], columns=columns, rows=f"VALUES {rows}", tail=text[tail:] if tail > 0 else "")
    if verb in {"UPDATE", "DELETE"}:
        ordered = top(text, "ORDER BY")
        text = text[:ordered].rstrip() if ordered > 0 else text
        table = re.match(r"(?:UPDATE|DELETE FROM) `?(\w+)`?", text)
        assert table is not None
        where = top(text, "WHERE")
        condition = text[where:] if where > 0 else ""
        keys = f"SELECT {_keys_of(table[1])} FROM {table[1]} {condition}"  # noqa: S608 - a statement of the store's
        return Words(text, verb, table[1], keys=keys, keys_from=(text[:where] if where > 0 else text).count("?"))
    if verb == "SELECT" and locks:
        begin = top(text, "FROM")
        source = re.match(r"FROM `?(\w+)`?(?: AS (\w+))?", text[begin:])
        assert source is not None
        keys = f"SELECT {_keys_of(source[1], source[2] or '')} {text[begin:]}"
        return Words(text, verb, source[1], alone=not shared, keys=keys)
    return Words(text, verb)


def _keys_of(table: str, alias: str = "") -> str:
    dot = f"{alias}." if alias else ""
    return ", ".join(f"{dot}{column}" for column in KEYS.get(table, ("rowid",)))


def top(statement: str, word: str, start: int = 0) -> int:
    """Where a word stands outside of all parentheses; -1 if nowhere."""
    depth = 0
    for found in re.finditer(rf"[()]|'[^']*'|\b{word}\b", statement[start:]):
        if found[0] == "(":
            depth += 1
        elif found[0] == ")":
            depth -= 1
        elif depth == 0 and found[0] == word:
            return start + found.start()
    return -1


def make_database(path: Path) -> None:
    """An empty one, as the first revision leaves it."""
    connection = dbapi.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN")
    for statement in schema._statements(schema.HOT.format(table="")):
        bare = re.sub(r"\b(?:UNSIGNED|AUTO_INCREMENT)\b", "", statement.partition("PARTITION BY")[0])
        bare = re.sub(r"UNIQUE KEY \w+ ", "UNIQUE ", bare)
        name = re.search(r"EXISTS (\w+)", bare)
        assert name is not None
        index = re.compile(r",\s*KEY (\w+) (\([^)]*\))")
        connection.execute(index.sub("", bare))
        for found in index.finditer(bare):
            connection.execute(f"CREATE INDEX {found[1]} ON {name[1]} {found[2]}")
    dialect = sqlite_dialect.dialect()
    for table in METADATA.sorted_tables:
        if table.name != "facts":
            connection.execute(str(CreateTable(table).compile(dialect=dialect)))
            for made in sorted(table.indexes, key=lambda each: str(each.name)):
                connection.execute(str(CreateIndex(made).compile(dialect=dialect)))
    for table_name, columns, values in schema.ROWS:
        rows = ", ".join(f"({value})" for value in values)
        connection.execute(f"INSERT INTO {table_name} ({columns}) VALUES {rows}")  # noqa: S608 - constants
    connection.execute("COMMIT")
    connection.close()
