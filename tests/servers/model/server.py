"""A server as a model, behind the driver's own seam: READ COMMITTED, locks of rows, and wires that break.

SQLite keeps the rows and runs the statements; what the model adds is InnoDB's: who waits for whose row, who is undone
when two wait crosswise, what others see before a COMMIT, numbers that are given out before it. It has no locks of gaps
or of foreign keys; control transactions, which are serializable, wait for each other as a whole; and a row that an
UPDATE leaves as it was counts as changed.

Several transactions are open at once, and SQLite writes for one at a time: what the others wrote is kept as statements,
and run again when it is their turn. Their rows are locked, so it comes to the same.

Invariants: nobody sees what another has not committed; a transaction whose connection ended is undone when the server
hears of it; time and chance are arguments.
"""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from asyncmy import errors

from engine.stores.mysql.pool import LOCK_WAIT_S
from tests.servers.model.locks import DeadlockError, EndedError, Holder, Locks, LockWaitError
from tests.servers.model.words import NUMBERED, UNIQUE, Words, words

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

VERSION: Final = "10.11.14-MariaDB"
USER: Final = "longwave"
DUPLICATE, NOT_NULL, DATA_LONG, LOCK_WAIT, DEADLOCK, SYNTAX, LOST, GONE, READ_ONLY, UNREACHABLE = (
    1062, 1048, 1406, 1205, 1213, 1064, 2013, 2006, 1290, 2003,
)  # fmt: skip
CONTROL_PLANE: Final = "control plane"
PARTITIONS: Final = "pmax"
VARIABLES: Final = {
    "innodb_flush_log_at_trx_commit": "1",
    "log_bin": "OFF",
    "innodb_doublewrite": "ON",
    "innodb_flush_method": "fsync",
    "max_allowed_packet": str(64 << 20),
    "character_set_client": "utf8mb4",
    "character_set_results": "utf8mb4",
    "lower_case_table_names": "0",
    "sql_mode": "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",
}


@dataclass(slots=True)
class _Write:
    text: str
    values: Sequence[Any]
    now_us: int


class _Transaction(Holder):
    def __init__(self, lock_wait_s: float = LOCK_WAIT_S) -> None:
        super().__init__()
        self.lock_wait_s = lock_wait_s
        self.writes: list[_Write] = []
        self.savepoints: dict[str, int] = {}


@dataclass(slots=True)
class Result:
    """What a statement came to."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    names: list[str] | None = None
    changed: int = 0
    number: int = 0
    """That the server gave the first row."""


Behaviour = Callable[["Connection", str], Awaitable[None]]
"""Called on a statement's way in and on its answer's way out (`in`, `out`, or their `COMMIT` forms)."""


async def at_once(connection: "Connection", way: str) -> None:
    """No way to go."""
    del connection, way
    await asyncio.sleep(0)


class Server:
    """One, over a database that `make_database` made."""

    def __init__(self, path: Path, now_us: Callable[[], int], *, travel: Behaviour = at_once) -> None:
        """`travel` is awaited for each way between client and server, and may raise what the driver would."""
        self._now_us = now_us
        self.travel = travel
        self.read_only = False
        self.reachable = True
        self.locks = Locks()
        self.connections: dict[int, Connection] = {}
        self._named: dict[str, int] = {}  # of GET_LOCK: name → connection
        self._threads = itertools.count(1)
        self._numbers: dict[str, int] = {}
        self._days: dict[str, dict[str, int]] = {"messages": {}, "bodies": {}}
        self._statement_us = 0
        self._reader = self._opened(path)
        self._writer = self._opened(path)
        self._active: _Transaction | None = None  # whose writes are in the writer
        self.committed = 0
        """Transactions."""

    def _opened(self, path: Path) -> "dbapi.Connection":
        connection = dbapi.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.create_function("NOW_US", 0, lambda: self._statement_us)
        connection.create_function("CONCAT", 2, lambda one, other: one + other, deterministic=True)
        connection.create_function("MOD", 2, lambda one, other: one % other, deterministic=True)
        connection.create_function("FIND_IN_SET", 2, _find_in_set, deterministic=True)
        return connection

    def close(self) -> None:
        """Forget all that was not committed."""
        for connection in list(self.connections.values()):
            connection.cut()
        self._reader.close()
        self._writer.close()

    async def connect(self, **wanted: Any) -> "Connection":
        """What `asyncmy.connect` is."""
        connection = Connection(self, next(self._threads), autocommit=bool(wanted.get("autocommit", False)))
        await self.travel(connection, "connect")
        if not self.reachable:
            raise errors.OperationalError(UNREACHABLE, "Can't connect")
        self.connections[connection.thread_id()] = connection
        return connection

    def ended(self, connection: "Connection") -> None:
        """The server hears that a connection is gone: what it had not committed is undone."""
        self.connections.pop(connection.thread_id(), None)
        self._named = {name: thread for name, thread in self._named.items() if thread != connection.thread_id()}
        if connection.transaction is not None:
            self._undo(connection.transaction)
            self.locks.end(connection.transaction)
            connection.transaction = None

    # Statements.

    async def run(self, connection: "Connection", statement: str, values: Sequence[Any]) -> Result:
        """Run one. Raises the driver's errors."""
        verb = statement.split(None, 1)[0].upper()
        special = _SPECIAL.get(verb)
        if special is not None:
            return await special(self, connection, statement, values)
        if verb == "SELECT":
            asked = await self._asked(connection, statement, values)
            if asked is not None:
                return asked
        if connection.transaction is None and not connection.autocommits:
            connection.transaction = _Transaction(connection.lock_wait_s)
        transaction, alone = connection.transaction, connection.transaction is None
        if transaction is None:
            transaction = _Transaction(connection.lock_wait_s)
            connection.transaction = transaction
        try:
            if connection.serializable:
                await self._lock(transaction, [CONTROL_PLANE], alone=True)
            found = await self._data(transaction, words(statement), values)
            if alone:
                self._commit(transaction)
        finally:
            if alone:
                self._undo(transaction)
                if connection.transaction is transaction:
                    connection.transaction = None
        return found

    async def _data(self, transaction: _Transaction, said: Words, values: Sequence[Any]) -> Result:
        if said.verb == "SELECT":
            if said.table:
                await self._lock_found(transaction, said, values)
            return self._read(transaction, said.text, values)
        if self.read_only:
            raise errors.OperationalError(READ_ONLY, "The MySQL server is running with the --read-only option")
        if said.columns:
            return await self._insert(transaction, said, values)
        if not said.table:
            raise errors.ProgrammingError(SYNTAX, f"the model knows no {said.verb}")
        await self._lock_found(transaction, said, values)
        return self._write(transaction, said.text, values)

    async def _lock(self, transaction: _Transaction, wanted: Sequence[Hashable], *, alone: bool) -> bool:
        try:
            return await self.locks.take(transaction, wanted, alone=alone, wait_s=transaction.lock_wait_s)
        except DeadlockError:
            self._undo(transaction)
            raise errors.OperationalError(DEADLOCK, "Deadlock found when trying to get lock") from None
        except EndedError:
            raise errors.OperationalError(LOST, "Lost connection to MySQL server during query") from None
        except LockWaitError:
            raise errors.OperationalError(LOCK_WAIT, "Lock wait timeout exceeded") from None

    async def _lock_found(self, transaction: _Transaction, said: Words, values: Sequence[Any]) -> None:
        """Lock the rows that it is about, until no others have come while it waited."""
        held: set[Hashable] = set()
        waited = True
        while waited:
            rows = self._read(transaction, said.keys, values[said.keys_from :]).rows
            wanted = [lock for row in rows if (lock := (said.table, *row)) not in held]
            waited = await self._lock(transaction, wanted, alone=said.alone)
            held.update(wanted)

    async def _insert(self, transaction: _Transaction, said: Words, values: Sequence[Any]) -> Result:
        number, text = 0, said.text
        if said.table in UNIQUE or said.table in NUMBERED:
            rows = self._read(transaction, said.rows, values).rows
            for key in UNIQUE.get(said.table, ()):
                places = [said.columns.index(column) for column in key if column in said.columns]
                if len(places) == len(key):
                    wanted = [(said.table, *(row[place] for place in places)) for row in rows]
                    await self._lock(transaction, wanted, alone=True)
            column = NUMBERED.get(said.table)
            if column is not None and column not in said.columns:
                number = self._next(said.table, column, len(rows))
                listed = ", ".join(f"`{name}`" for name in (column, *said.columns))
                text = (
                    f"{said.verb} INTO {said.table} ({listed}) "  # noqa: S608 - a statement of the store's
                    f"SELECT {number - 1} + ROW_NUMBER() OVER (), * FROM ({said.rows}) WHERE TRUE {said.tail}"
                )
        found = self._write(transaction, text, values)
        found.number = number or found.number
        return found

    def _next(self, table: str, column: str, count: int) -> int:
        if table not in self._numbers:
            [(newest,)] = self._reader.execute(f"SELECT COALESCE(MAX(`{column}`), 0) FROM {table}")  # noqa: S608
            self._numbers[table] = newest
        first = self._numbers[table] + 1
        self._numbers[table] += count
        return first

    # SQLite.

    def _read(self, transaction: _Transaction, text: str, values: Sequence[Any]) -> Result:
        self._statement_us = self._now_us()
        return _executed(self._turn(transaction) if transaction.writes else self._reader, text, values)

    def _write(self, transaction: _Transaction, text: str, values: Sequence[Any]) -> Result:
        writer = self._turn(transaction)
        self._statement_us = self._now_us()
        found = _executed(writer, text, values)
        transaction.writes.append(_Write(text, values, self._statement_us))
        return found

    def _turn(self, transaction: _Transaction) -> "dbapi.Connection":
        """The writer, with what this transaction has written."""
        if self._active is not transaction:
            self._put_away()
            self._writer.execute("BEGIN IMMEDIATE")
            self._active = transaction
            for write in transaction.writes:
                self._statement_us = write.now_us
                self._writer.execute(write.text, write.values)
        return self._writer

    def _put_away(self) -> None:
        if self._active is not None:
            self._active = None
            self._writer.execute("ROLLBACK")

    def _commit(self, transaction: _Transaction) -> None:
        if transaction.writes:
            self._turn(transaction)
            self._active = None
            self._writer.execute("COMMIT")
            transaction.writes.clear()
            self.committed += 1
        self.locks.release(transaction)

    def _undo(self, transaction: _Transaction) -> None:
        if self._active is transaction:
            self._put_away()
        transaction.writes.clear()
        self.locks.release(transaction)

    # What is no data.

    async def _begin(self, connection: "Connection", _statement: str, _values: Sequence[Any]) -> Result:
        if connection.transaction is not None:
            self._commit(connection.transaction)
        connection.transaction = _Transaction(connection.lock_wait_s)
        return Result()

    async def _end(self, connection: "Connection", statement: str, _values: Sequence[Any]) -> Result:
        transaction = connection.transaction
        what, _, name = statement.partition(" TO SAVEPOINT ")
        if name:
            if transaction is None or name not in transaction.savepoints:
                raise errors.OperationalError(1305, f"SAVEPOINT {name} does not exist")
            if self._active is transaction:
                self._put_away()
            del transaction.writes[transaction.savepoints[name] :]
            return Result()
        connection.transaction = None
        if transaction is not None:
            (self._commit if what == "COMMIT" else self._undo)(transaction)
        return Result()

    async def _savepoint(self, connection: "Connection", statement: str, _values: Sequence[Any]) -> Result:
        if connection.transaction is not None:
            connection.transaction.savepoints[statement.rsplit(maxsplit=1)[-1]] = len(connection.transaction.writes)
        return Result()

    async def _set(self, connection: "Connection", statement: str, _values: Sequence[Any]) -> Result:
        if "ISOLATION LEVEL" in statement:
            connection.serializable = "SERIALIZABLE" in statement
        if found := re.search(r"innodb_lock_wait_timeout = (\d+)", statement):
            connection.lock_wait_s = float(found[1])
        return Result()

    async def _show(self, _connection: "Connection", statement: str, _values: Sequence[Any]) -> Result:
        if statement == "SHOW PROCESSLIST":
            now_us = self._now_us()
            rows: list[tuple[Any, ...]] = [
                (
                    each.thread_id(),
                    USER,
                    "",
                    USER,
                    "Query" if each.runs else "Sleep",
                    (now_us - each.used_us) // 1_000_000,
                )
                for each in self.connections.values()
            ]
            return Result(rows, ["Id", "User", "Host", "db", "Command", "Time"])
        values = VARIABLES | {"read_only": "ON" if self.read_only else "OFF"}
        return Result(
            [
                (name, value)
                for name, value in values.items()
                if name in statement or ("WHERE" not in statement and "LIKE" not in statement)
            ],
            ["Variable_name", "Value"],
        )

    async def _kill(self, _connection: "Connection", statement: str, _values: Sequence[Any]) -> Result:
        killed = self.connections.get(int(statement.rsplit(maxsplit=1)[-1]))
        if killed is None:
            raise errors.OperationalError(1094, "Unknown thread id")
        killed.cut()
        return Result()

    async def _alter(self, _connection: "Connection", statement: str, _values: Sequence[Any]) -> Result:
        _, _, table, what, *rest = statement.split()
        days = self._days[table]
        if what == "DROP":
            name = rest[1]
            below = days.pop(name)
            from_id = max((behind for behind in days.values() if behind < below), default=0)
            transaction = _Transaction()
            self._write(transaction, f"DELETE FROM {table} WHERE id >= ? AND id < ?", (from_id, below))  # noqa: S608
            self._commit(transaction)
        else:
            for part in statement.split("PARTITION ")[2:]:
                name, _, behind = part.partition(" VALUES LESS THAN (")
                if behind:
                    days[name] = int(behind.partition(")")[0])
        return Result()

    async def _asked(self, connection: "Connection", statement: str, values: Sequence[Any]) -> Result | None:
        """Of the server itself, not of its data; None for any other."""
        if "information_schema" in statement:
            days = sorted(self._days[values[0]].items())
            if "MAXVALUE" in statement:
                return Result([(name, str(behind)) for name, behind in days], ["name", "behind"])
            return Result([(name,) for name, _ in [*days, (PARTITIONS, 0)]], ["name"])
        if "GET_LOCK" in statement:
            while self._named.get(values[0], connection.thread_id()) != connection.thread_id():  # noqa: ASYNC110 - rare
                await asyncio.sleep(0.05)
            self._named[values[0]] = connection.thread_id()
            return Result([(1,)], ["got"])
        for asked, answer in (
            ("VERSION()", VERSION),
            ("@@transaction_isolation", "READ-COMMITTED"),
            ("@@tx_isolation", "READ-COMMITTED"),
            ("DATABASE()", USER),
            ("@@lower_case_table_names", 0),
            ("@@sql_mode", VARIABLES["sql_mode"]),
        ):
            if statement == f"SELECT {asked}":
                return Result([(answer,)], [asked])
        if " PARTITION (" in statement:
            before, _, behind = statement.partition(" PARTITION (")
            name, _, rest = behind.partition(")")
            table = before.split()[-1]
            from_id, below = self._range(table, name)
            source = f"(SELECT * FROM {table} WHERE id >= {from_id} AND id < {below})"  # noqa: S608 - numbers
            text = f"{before[: -len(table)]}{source}{rest}"
            return self._read(_Transaction(), words(text).text, values)
        return None

    def _range(self, table: str, name: str) -> tuple[int, int]:
        days = self._days[table]
        if name == PARTITIONS:
            return max(days.values(), default=0), 1 << 63 - 1
        below = days[name]
        return max((behind for behind in days.values() if behind < below), default=0), below


_Special = Callable[[Server, "Connection", str, Sequence[Any]], Awaitable[Result]]


async def _nothing(_server: Server, _connection: "Connection", _statement: str, _values: Sequence[Any]) -> Result:
    return Result()


_SPECIAL: Final[dict[str, _Special]] = {
    "BEGIN": Server._begin,
    "COMMIT": Server._end,
    "ROLLBACK": Server._end,
    "SAVEPOINT": Server._savepoint,
    "SET": Server._set,
    "SHOW": Server._show,
    "KILL": Server._kill,
    "ALTER": Server._alter,
    "DO": _nothing,
}


def _find_in_set(what: str, among: str) -> int:
    parts = among.split(",")
    return parts.index(what) + 1 if what in parts else 0


def _executed(connection: "dbapi.Connection", text: str, values: Sequence[Any]) -> Result:
    try:
        cursor = connection.execute(text, values)
        rows = cursor.fetchall() if cursor.description else []
    except dbapi.IntegrityError as error:
        code = NOT_NULL if "NOT NULL" in str(error) else DUPLICATE
        raise errors.IntegrityError(code, str(error)) from None
    except dbapi.DataError as error:
        raise errors.DataError(DATA_LONG, str(error)) from None
    except (dbapi.OperationalError, dbapi.ProgrammingError) as error:
        raise errors.ProgrammingError(SYNTAX, f"{error}: {text[:300]}") from None
    names = [each[0] for each in cursor.description] if cursor.description else None
    return Result(rows, names, max(0, cursor.rowcount), cursor.lastrowid or 0)


class Connection:
    """What the driver's is, as far as the engine and SQLAlchemy use it."""

    def __init__(self, server: Server, thread: int, *, autocommit: bool) -> None:
        """It is open."""
        self._server = server
        self._thread = thread
        self.autocommits = autocommit
        self.serializable = False
        self.lock_wait_s = float(LOCK_WAIT_S)
        self.transaction: _Transaction | None = None
        self.runs = False
        """Whether a statement of it runs."""
        self.used_us = server._now_us()
        self.open = True
        """As the client sees it."""
        self.known = True
        """As the server sees it."""

    def thread_id(self) -> int:
        """The server's number of it."""
        return self._thread

    def cursor(self, _kind: Any = None) -> "Cursor":
        """For one statement after the other."""
        return Cursor(self)

    def close(self) -> None:
        """The client ends it; the server hears of it at once."""
        self.open = False
        self.cut()

    async def ensure_closed(self) -> None:
        """End it in words."""
        self.close()

    def cut(self) -> None:
        """The server ends it, or hears that it is gone."""
        if self.known:
            self.known = False
            self._server.ended(self)

    def lost(self) -> NoReturn:
        """The client sees that it is gone."""
        self.open = False
        raise errors.OperationalError(LOST, "Lost connection to MySQL server during query")

    async def ping(self, reconnect: bool = False) -> None:  # noqa: FBT001, FBT002 - the driver's
        """Whether it lives."""
        del reconnect
        await self.execute("DO 0", ())

    async def autocommit(self, value: bool) -> None:  # noqa: FBT001 - the driver's
        """Commit each statement, or not."""
        self.autocommits = bool(value)

    def get_autocommit(self) -> bool:
        """Whether each statement is."""
        return self.autocommits

    def character_set_name(self) -> str:
        """Always the same."""
        return "utf8mb4"

    async def begin(self) -> None:
        """As the statement."""
        await self.execute("BEGIN", ())

    async def commit(self) -> None:
        """As the statement."""
        await self.execute("COMMIT", ())

    async def rollback(self) -> None:
        """As the statement."""
        await self.execute("ROLLBACK", ())

    async def execute(self, statement: str, values: Sequence[Any]) -> Result:
        """There, and back. Raises the driver's errors."""
        server = self._server
        if not self.open:
            raise errors.InterfaceError(0, "Not connected")
        commits = " COMMIT" if statement == "COMMIT" else ""
        try:
            await server.travel(self, f"in{commits}")
            if not self.known:
                self.lost()
            self.runs = True
            try:
                result = await server.run(self, statement, values)
            finally:
                self.runs = False
                self.used_us = server._now_us()
            await server.travel(self, f"out{commits}")
        except asyncio.CancelledError:
            # As the driver does: what was cut short is not used again.
            self.close()
            raise
        if not self.known:
            self.lost()
        return result


class Cursor:
    """What the driver's is."""

    def __init__(self, connection: Connection) -> None:
        """Nothing was run."""
        self._connection = connection
        self._result = Result()
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def close(self) -> None:
        """Nothing is kept."""

    async def execute(self, statement: str, values: Any = None) -> int:
        """Run one statement. Raises the driver's errors."""
        self._result = await self._connection.execute(statement, tuple(values) if values else ())
        return self.rowcount

    async def executemany(self, statement: str, rows: Sequence[Any]) -> int:
        """Run it for each."""
        for values in rows:
            await self.execute(statement, values)
        return len(rows)

    async def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows."""
        return self._result.rows

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        """Of its columns, their names."""
        names = self._result.names
        return None if names is None else [(name, None, None, None, None, None, None) for name in names]

    @property
    def rowcount(self) -> int:
        """Rows found, or changed."""
        return len(self._result.rows) if self._result.names is not None else self._result.changed

    @property
    def lastrowid(self) -> int:
        """The number that the first row was given."""
        return self._result.number
