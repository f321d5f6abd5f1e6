"""Opens the one writing connection of an embedded store, its readers, its lock and its reserve of disk space.

It runs no statement of the corridor and starts no thread: `engine/stores/sqlite.py` does.

Invariants:
- one process holds a store (an OS lock on `<store>.lock`, freed by the kernel when the process dies);
- one connection in that process writes and checkpoints; every other one is opened read-only with checkpoints off;
- an OK from a commit means fsynced: WAL and synchronous=FULL, looked at again by `check` at start and every 10 s;
- the SQLite library has the WAL-reset fix (3.51.3), and it is the only one in the process.
"""

import errno
import fcntl
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from engine.errors import ConfigError, StoreLocked
from engine.stores.store import Finding

if TYPE_CHECKING:
    # The same interface, and typed; at run time the bundled library, never the one of the system.
    import sqlite3 as dbapi
    from collections.abc import Callable
else:
    from pysqlite3 import dbapi2 as dbapi


Connection = dbapi.Connection

URL_PREFIX: Final = "sqlite:///"
LIBRARY_VERSION_MIN: Final = (3, 51, 3)
SYNCHRONOUS_FULL: Final = 2
# Half the pages of the default 4 KiB for rows of 200 to 400 bytes; equal to the largest atomic unit worth having here.
PAGE_BYTES: Final = 8192
# 1,000 pages of 8 KiB: the WAL is copied back about every 8 MiB, some 12 groups of 500 messages. Who waits meanwhile
# waits for all of it, some 4 ms: more at a time cost calls their p99, and saved nothing.
WAL_AUTOCHECKPOINT_PAGES: Final = 1000
# The file keeps this much of the WAL after a checkpoint, so that the next one need not grow it again.
WAL_KEEP_BYTES: Final = 64 * 1024 * 1024
# Negative means KiB: 64 MiB of pages for the writer, 16 MiB for each reader.
WRITER_CACHE_KIB: Final = 64 * 1024
READER_CACHE_KIB: Final = 16 * 1024
# Only a backup by an outside tool can make the single writer wait.
WRITER_BUSY_MS: Final = 5000
READER_BUSY_MS: Final = 1000
# Prepared statements the writer keeps, some KiB each: ten over 1 to 64 rows, and those of one row.
STATEMENTS_MAX: Final = 1024
RESERVE_BLOCK_BYTES: Final = 1024 * 1024

_SQLITE_BUSY: Final = 5
_SQLITE_LOCKED: Final = 6
_SQLITE_READONLY: Final = 8
_SQLITE_IOERR: Final = 10
_SQLITE_CORRUPT: Final = 11
_SQLITE_FULL: Final = 13
_SQLITE_CANTOPEN: Final = 14
_SQLITE_CONSTRAINT: Final = 19
_SQLITE_MISMATCH: Final = 20
_SQLITE_TOOBIG: Final = 18
_SQLITE_NOTADB: Final = 26
_PRIMARY_CODE_MASK: Final = 0xFF


class Fault(Enum):
    """What an exception of the driver means for the engine."""

    FULL = "full"
    """No space: refuse new work, free the reserve, go on with what is held."""
    FATAL = "fatal"
    """I/O or fsync error, corruption, read-only or lost file: stop accepting, exit, recover."""
    BUSY = "busy"
    """Another connection was in the way: the whole transaction may be run again."""
    DATA = "data"
    """A value or constraint of one row: bisect the group."""
    PROGRAM = "program"
    """A bug of ours: wrong SQL, closed connection."""


_FAULTS: Final = {
    _SQLITE_FULL: Fault.FULL,
    _SQLITE_IOERR: Fault.FATAL,
    _SQLITE_CORRUPT: Fault.FATAL,
    _SQLITE_READONLY: Fault.FATAL,
    _SQLITE_CANTOPEN: Fault.FATAL,
    _SQLITE_NOTADB: Fault.FATAL,
    _SQLITE_BUSY: Fault.BUSY,
    _SQLITE_LOCKED: Fault.BUSY,
    _SQLITE_CONSTRAINT: Fault.DATA,
    _SQLITE_MISMATCH: Fault.DATA,
    _SQLITE_TOOBIG: Fault.DATA,
}


def classify(error: BaseException) -> Fault:
    """What this exception (of the driver, or of SQLAlchemy around it) means; anything unlisted is `PROGRAM`."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, OSError):
        return Fault.FULL if cause.errno in {errno.ENOSPC, errno.EDQUOT} else Fault.FATAL
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return _FAULTS.get(code & _PRIMARY_CODE_MASK, Fault.PROGRAM)
    # Raised by the driver itself before SQLite saw the value: an integer past 64 bits, a surrogate in a text.
    if isinstance(cause, OverflowError | UnicodeError | dbapi.DataError | dbapi.IntegrityError):
        return Fault.DATA
    return Fault.PROGRAM


def store_path(store_url: str) -> Path:
    """The file of `sqlite:///relative` or `sqlite:////absolute`. Raises ConfigError for anything else."""
    path = store_url.removeprefix(URL_PREFIX)
    if path == store_url:
        message = f"LONGWAVE_STORE_URL is {_without_password(store_url)!r}: write sqlite:///FILE or mysql://user@host/database"
        raise ConfigError([message])
    if not path or path.endswith("/") or path.startswith(":memory:") or "?" in path:
        message = f"LONGWAVE_STORE_URL is {store_url!r}: name a file, such as sqlite:///./longwave.db"
        raise ConfigError([message])
    return Path(path)


def _without_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return f"{scheme}://…" if mark and "@" in rest else url


class StoreLock:
    """Exclusive hold of this process on a store, from construction to `release` or the death of the process."""

    def __init__(self, path: Path) -> None:
        """Take the lock of the store at `path`. Raises StoreLocked when another process has it, OSError otherwise.

        The file beside the store is never deleted: a process that opened the old one would lock a ghost.
        """
        self.path = path.with_name(path.name + ".lock")
        # Close-on-exec is Python's default: a child must not inherit the hold.
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            who = f" (pid {holder})" if holder.isdigit() else ""
            message = f"{path} is in use by another longwave process{who}: stop it, or set another LONGWAVE_STORE_URL"
            raise StoreLocked(message) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Let go. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_writer(path: Path) -> Connection:
    """Open (and create, mode 0600) the store at `path` for the one writer; its `StoreLock` must be held.

    Transactions are the caller's: the driver begins none. The connection may be made on one thread and used on
    another, by one at a time. Raises the driver's errors.
    """
    # SQLite would create the file with the umask's mode; it holds message texts.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = dbapi.connect(
        os.fspath(path.resolve()),
        timeout=WRITER_BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_MAX,
    )
    try:
        # Order matters: the page size is fixed by the first write, and the change to WAL is one.
        for pragma in (
            f"page_size={PAGE_BYTES}",
            "journal_mode=WAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={WAL_AUTOCHECKPOINT_PAGES}",
            f"journal_size_limit={WAL_KEEP_BYTES}",
            f"cache_size=-{WRITER_CACHE_KIB}",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "temp_store=MEMORY",
            # A read error of a mapped page is a SIGBUS, not an error code.
            "mmap_size=0",
            "secure_delete=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) == _SQLITE_NOTADB:
            message = f"{path} is not a Longwave store (it is no SQLite file): give LONGWAVE_STORE_URL another file"
            raise ConfigError([message]) from None
        raise
    return connection


def open_reader(path: Path) -> Connection:
    """Open an existing store for reading only; it can neither write nor checkpoint. Raises the driver's errors."""
    connection = dbapi.connect(
        f"file:{quote(os.fspath(path.resolve()))}?mode=ro",
        uri=True,
        timeout=READER_BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        for pragma in (
            "query_only=ON",
            "wal_autocheckpoint=0",
            f"cache_size=-{READER_CACHE_KIB}",
            "trusted_schema=OFF",
            "temp_store=MEMORY",
            "mmap_size=0",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: Connection) -> list[Finding]:
    """What this writer's connection promises now: library version, journal mode, synchronous. Runs no I/O.

    Durability level D1 needs every finding to be ok.
    """
    journal_mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    synchronous = int(connection.execute("PRAGMA synchronous").fetchone()[0])
    library = tuple(int(part) for part in connection.execute("SELECT sqlite_version()").fetchone()[0].split("."))
    return [
        Finding(
            "library_version", _dotted(library), f">= {_dotted(LIBRARY_VERSION_MIN)}", library >= LIBRARY_VERSION_MIN
        ),
        Finding("journal_mode", journal_mode, "wal", journal_mode == "wal"),
        Finding("synchronous", str(synchronous), f"{SYNCHRONOUS_FULL} (FULL)", synchronous >= SYNCHRONOUS_FULL),
    ]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def engine_over(connection: Connection) -> sa.Engine:
    """A SQLAlchemy engine whose only connection is this one; `dispose` it never, close the connection instead.

    `with engine.begin() as control:` is one transaction that takes the write lock at once (BEGIN IMMEDIATE; a reader's
    takes none). Nothing is reset behind the caller's back when a block ends, so a raw transaction of the same thread
    is never rolled back.
    """
    reads_only = bool(connection.execute("PRAGMA query_only").fetchone()[0])
    engine = sa.create_engine(
        "sqlite://",
        module=dbapi,
        creator=cast("Callable[[], Any]", lambda: connection),
        poolclass=StaticPool,
        pool_reset_on_return=None,
    )

    @sa.event.listens_for(engine, "begin")
    def begin(control: sa.Connection) -> None:
        control.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


class Reserve:
    """A file of real blocks beside the store, given back when the disk fills up.

    With it gone, intents, outcomes and receipts of what is held still commit while new work is refused.
    """

    def __init__(self, path: Path, reserve_bytes: int) -> None:
        """Name the reserve of the store at `path`; `reserve_bytes` 0 keeps none."""
        self.path = path.with_name(path.name + ".reserve")
        self.reserve_bytes = reserve_bytes

    @property
    def present(self) -> bool:
        """Whether the whole reserve is there."""
        try:
            return self.path.stat().st_size >= self.reserve_bytes
        except FileNotFoundError:
            return self.reserve_bytes == 0

    def create(self) -> bool:
        """Set the space aside; False when the disk has no room for it (nothing is left behind). Raises OSError."""
        if self.present:
            return True
        partial = self.path.with_name(self.path.name + ".part")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                # Written, not only allocated, and not compressible: some file systems promise blocks they do not have.
                block = os.urandom(RESERVE_BLOCK_BYTES)
                for start in range(0, self.reserve_bytes, RESERVE_BLOCK_BYTES):
                    _write_whole(descriptor, block[: self.reserve_bytes - start])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                return False
            raise
        return True

    def release(self) -> bool:
        """Give the space back; False when there was none to give."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return self.reserve_bytes > 0


def _write_whole(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]
