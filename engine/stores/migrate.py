"""Brings a store's schema up to what this binary knows, with a backup first, and refuses one that is newer.

It runs on the writer's connection; only `migrate_store`, for a store that nothing serves, opens one itself.

Invariants: a run is one transaction; a store that holds data is backed up before the first statement; a store is never
taken to an older revision.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final, TypedDict

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from engine.errors import StoreTooNew
from engine.stores.connection import Connection, StoreLock, engine_over
from engine.stores.wal import open_recovered

SCRIPTS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = "schema_version"


class Attributes(TypedDict):
    """What `migrations/env.py` finds in its configuration's attributes."""

    connection: sa.Connection
    """The transaction to run in."""
    applied: list[str]
    """Revisions as they are applied; filled by the environment."""


def _configuration() -> Config:
    configuration = Config()
    # Percent signs are interpolated by Alembic's configuration parser.
    configuration.set_main_option("script_location", os.fspath(SCRIPTS).replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    return configuration


@cache
def known_revisions() -> tuple[str, ...]:
    """Revisions this binary knows, oldest first."""
    scripts = ScriptDirectory.from_config(_configuration())
    return tuple(script.revision for script in reversed(list(scripts.walk_revisions())))


def current(connection: Connection) -> str | None:
    """The revision the store is at; None for an empty one. Raises StoreTooNew for one this binary does not know."""
    with engine_over(connection).connect() as control:
        revision = MigrationContext.configure(control, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if revision is not None and revision not in known_revisions():
        message = (
            f"the store is at revision {revision}, this binary knows up to {known_revisions()[-1]}: "
            "run the newer longwave that migrated it"
        )
        raise StoreTooNew(message)
    return revision


def missing(connection: Connection) -> tuple[str, ...]:
    """Revisions that `migrate` would apply, oldest first. Raises StoreTooNew."""
    at = current(connection)
    known = known_revisions()
    return known if at is None else known[known.index(at) + 1 :]


def migrate(
    connection: Connection, path: Path, *, now_us: int, progress: Callable[[str], None] = lambda _line: None
) -> list[str]:
    """Apply what is missing on the writer's `connection` to the store at `path`; returns the revisions applied.

    A store with data is first copied to `<store>.before-<revision>-<UTC time>`. Progress lines are for people. Raises
    StoreTooNew, OSError and the driver's errors; on any of them the store is as it was.
    """
    at = current(connection)
    absent = missing(connection)
    if not absent:
        progress(f"store is at revision {at}: nothing to do")
        return []
    if at is not None:
        copy = backup(connection, path, f"before-{absent[0]}", now_us=now_us)
        progress(f"backup written to {copy.name}")
    applied: list[str] = []
    progress(f"store is at revision {at or 'none'}: applying {', '.join(absent)}")
    with engine_over(connection).begin() as control:
        configuration = _configuration()
        configuration.attributes.update(Attributes(connection=control, applied=applied))
        command.upgrade(configuration, "head")
    progress(f"store is at revision {applied[-1]}")
    return applied


def migrate_store(path: Path, *, now_us: int, progress: Callable[[str], None] = lambda _line: None) -> list[str]:
    """Lock and open the store at `path`, `migrate` it, close it. Raises StoreLocked and StoreBroken too."""
    lock = StoreLock(path)
    try:
        connection = open_recovered(path)
        try:
            return migrate(connection, path, now_us=now_us, progress=progress)
        finally:
            connection.close()
    finally:
        lock.release()


def backup(connection: Connection, path: Path, label: str, *, now_us: int) -> Path:
    """Write a consistent, compacted copy of the whole store beside it, mode 0600, and fsync it; returns its path.

    Runs on the writer's connection outside of a transaction and blocks it. Raises OSError and the driver's errors.
    """
    stamp = datetime.fromtimestamp(now_us / 1_000_000, tz=UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    copy = path.with_name(f"{path.name}.{label}-{stamp}")
    # VACUUM INTO accepts an empty file, which is how the copy gets its mode before it gets its content.
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        connection.execute("VACUUM INTO ?", (os.fspath(copy.resolve()),)).fetchall()
        for target in (copy, copy.resolve().parent):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            copy.unlink()
        raise
    return copy
