"""The doctor's look at the embedded store: file, schema, durability, lock, disk, secret file.

It writes no row. While an engine holds the store only what a reader may see is looked at.
"""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.clock import Clock
from engine.config import MIB, Settings
from engine.errors import ConfigError, StoreBroken, StoreLocked, StoreTooNew
from engine.secrets import read_secrets
from engine.stores import migrate as schema
from engine.stores.connection import (
    LIBRARY_VERSION_MIN,
    Connection,
    Reserve,
    StoreLock,
    check,
    open_reader,
    open_writer,
)
from engine.stores.last_run import refuse_if_gone, refuse_if_older
from engine.stores.wal import refuse_if_damaged
from server.cli import server_store, store
from server.cli.finding import Finding, Level

if TYPE_CHECKING:
    # The same interface, and typed; at run time the one library that the engine uses.
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

# A store's last write lies in the past; more than a coarse file system's rounding means that the clock went back.
AHEAD_S: Final = 5
# Below this much space beyond the reserve, the first busy hour fills the disk.
FREE_MIB_MIN: Final = 512


def check_store(settings: Settings) -> Generator[Finding, None, bool]:
    """Findings about the store; returns whether another process holds it."""
    if not settings.store_is_embedded:
        seen = yield from server_store.check_store(settings)
        yield _secret_file(settings, needed=not seen.empty)
        return seen.held
    path = settings.store_file
    yield _library()
    yield from _disk(settings)
    try:
        refuse_if_gone(path)
    except StoreBroken as error:
        yield _age_of(error)
        return False
    if not store.exists(path):
        yield Finding(Level.WARN, "store", f"there is none at {path}", "make it with: longwave bootstrap")
        yield _secret_file(settings, needed=False)
        return False
    try:
        lock = StoreLock(path)
    except StoreLocked as locked:
        yield Finding(Level.OK, "lock", str(locked).partition(":")[0])
        yield from _look(path, writes=False)
        yield _secret_file(settings, needed=True)
        return True
    except OSError as error:
        yield Finding(Level.FAIL, "lock", f"{error.filename}: {error.strerror}", "run it as the user of the store")
        return False
    try:
        yield Finding(Level.OK, "lock", "free: no engine runs on this store")
        yield from _look(path, writes=True)
    finally:
        lock.release()
    yield _secret_file(settings, needed=True)
    yield from _age(path)
    return False


def _library() -> Finding:
    found = tuple(int(part) for part in dbapi.sqlite_version.split("."))
    wanted = ".".join(map(str, LIBRARY_VERSION_MIN))
    if found >= LIBRARY_VERSION_MIN:
        return Finding(Level.OK, "store library", f"SQLite {dbapi.sqlite_version}, {wanted} or newer is needed")
    return Finding(
        Level.FAIL,
        "store library",
        f"SQLite {dbapi.sqlite_version} can damage a write-ahead log",
        f"install the locked requirements again: they bundle {wanted} or newer",
    )


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.store_file.resolve().parent
    if not folder.is_dir():
        yield Finding(Level.FAIL, "disk", f"the folder {folder} is not there", "make it, or set LONGWAVE_STORE_URL")
        return
    free_mib = shutil.disk_usage(folder).free // MIB
    reserved = Reserve(settings.store_file, settings.reserve_file_mib * MIB).present
    wanted_mib = FREE_MIB_MIN + (0 if reserved else settings.reserve_file_mib)
    if free_mib < wanted_mib:
        yield Finding(Level.WARN, "disk", f"{free_mib:,} MiB are free in {folder}", f"make room for {wanted_mib:,} MiB")
    else:
        yield Finding(Level.OK, "disk", f"{free_mib:,} MiB are free in {folder}")


def _look(path: Path, *, writes: bool) -> Iterator[Finding]:
    try:
        if writes:
            refuse_if_damaged(path)
        connection = open_writer(path) if writes else open_reader(path)
    except StoreBroken as error:
        yield Finding(Level.FAIL, "store log", str(error).partition(": ")[0], str(error).partition(": ")[2])
        return
    except (OSError, dbapi.Error, ConfigError) as error:
        yield Finding(
            Level.FAIL, "store", f"{path} cannot be opened: {error}", "restore it from a backup, or its rights"
        )
        return
    try:
        refuse_if_older(connection, path)
        yield from _schema(connection, path)
        for found in check(connection):
            # How a connection commits is its own setting: only a writer's says something.
            if found.name == "library_version" or (found.name == "synchronous" and not writes):
                continue
            level = Level.OK if found.ok else Level.FAIL
            advice = "" if found.ok else f"{found.wanted} is needed: is the store on a network file system?"
            yield Finding(level, f"store {found.name}", found.found, advice)
        yield _pages(connection)
    except StoreBroken as error:
        yield _age_of(error)
    except dbapi.Error as error:
        yield Finding(Level.FAIL, "store", f"{path} cannot be read: {error}", "restore it from a backup")
    finally:
        connection.close()


def _age_of(error: StoreBroken) -> Finding:
    """The store is older than its last run, or gone."""
    what, _, advice = str(error).rpartition(": put" if ": put" in str(error) else "; put")
    return Finding(Level.FAIL, "store age", what, f"put{advice}")


def _pages(connection: Connection) -> Finding:
    """Reads every page: a start reads few, so rot may lie where nobody looks for months."""
    found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if found == "ok":
        return Finding(Level.OK, "store pages", "every page was read and is sound")
    return Finding(Level.FAIL, "store pages", found, "restore it from a backup")


def _schema(connection: Connection, path: Path) -> Iterator[Finding]:
    try:
        absent = schema.missing(connection)
    except StoreTooNew as error:
        yield Finding(Level.FAIL, "store schema", str(error))
        return
    if not absent:
        yield Finding(Level.OK, "store schema", f"{path} is at revision {schema.known_revisions()[-1]}")
    elif len(absent) == len(schema.known_revisions()):
        yield Finding(Level.WARN, "store schema", f"{path} is empty", "make it with: longwave bootstrap")
    else:
        yield Finding(
            Level.WARN,
            "store schema",
            f"{path} lacks {', '.join(absent)}",
            "longwave serve or longwave migrate adds them",
        )


def _secret_file(settings: Settings, *, needed: bool) -> Finding:
    path = settings.secrets_path
    if not needed and not path.exists():
        return Finding(Level.OK, "secret file", f"{path} will be made together with the store")
    try:
        live = read_secrets(path)
    except ConfigError as error:
        return Finding(Level.FAIL, "secret file", error.problems[0])
    keys = f"{len(live.api_key)} for API keys, {len(live.callback)} for callbacks"
    return Finding(Level.OK, "secret file", f"{path}, reached by nobody else, {keys}")


def _age(path: Path) -> Iterator[Finding]:
    ahead_s = path.stat().st_mtime - Clock().now_us() / 1_000_000
    if ahead_s > AHEAD_S:
        yield Finding(
            Level.WARN,
            "clock",
            f"the store was last written {ahead_s:.0f} s from now",
            "this machine's clock went back: check its time service",
        )
