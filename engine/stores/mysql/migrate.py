"""Which revisions this binary knows, whether it may run on a store as it is, and how a revision is applied.

It makes no backup and checks no server: `migration.py` does, for `longwave migrate`. Opening a store only makes the
schema of an empty database.

Invariants: statements of the schema commit one by one, so a run that ended half-way is finished by the next; a store is
never taken to an older revision; what a revision asks of binaries (`compatible_from`) is written down before its first
statement, and whoever opens a store writes itself down before it reads that.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypedDict

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from engine import failpoints
from engine.errors import LongwaveError, StoreBehind, StoreLocked, StoreTooNew
from engine.stores.mysql import bookkeeping, owner
from engine.stores.mysql.address import Address
from engine.stores.mysql.control import engine_to
from engine.stores.mysql.pool import Limits

SCRIPTS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = "schema_version"
# A process that opens an empty database waits so long for another that makes its schema.
MAKE_S: Final = 60

# What every binary before this revision goes on working beside: new tables, new columns that a row may leave out, new
# indexes that refuse no row, rows.
_EXPANDS: Final = re.compile(
    r"(CREATE\s+TABLE|CREATE\s+INDEX|ALTER\s+TABLE\s+\S+\s+ADD|INSERT|UPDATE)\b", re.IGNORECASE
)
_TAKES_AWAY: Final = re.compile(
    r"\b(DROP|MODIFY|CHANGE|RENAME)\b|\bADD\s+(UNIQUE|CONSTRAINT|FOREIGN|PRIMARY|CHECK)\b", re.IGNORECASE
)
_TEXTS: Final = re.compile(r"'(?:[^'\\]|\\.|'')*'|`[^`]*`")
_ASKS: Final = re.compile(r"\s*(SELECT|SHOW|DESCRIBE|EXPLAIN)\b", re.IGNORECASE)


class Attributes(TypedDict):
    """What `migrations/env.py` finds in its configuration's attributes."""

    connection: sa.Connection
    """To run on."""
    applied: list[str]
    """Revisions as they are applied; filled by the environment."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One that this binary knows."""

    name: str
    compatible_from: str
    """The oldest revision whose binaries may run on a store that has this one: its own name's for a contract."""
    expands: bool
    """Whether every binary that could run before may run behind it."""
    promises: Path
    """What it promises to be there (`promises.py`)."""
    changes_rows_of: tuple[str, ...]
    """Tables of earlier revisions that it gives rows, or takes some from; of all others it leaves them."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a store is, seen from this binary."""

    at: str | None
    """Its revision; None for an empty database."""
    newer: bool
    """It was expanded by newer revisions, which this binary does not know and may run beside."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Revisions it lacks, oldest first."""
        known = known_revisions()
        if self.newer:
            return ()
        return known if self.at is None else known[known.index(self.at) + 1 :]


class NotExpanding(LongwaveError):  # noqa: N818 - it says what it is
    """A revision that says older binaries may run has a statement that breaks them: a bug of the revision."""


def _configuration() -> Config:
    configuration = Config()
    # Percent signs are interpolated by Alembic's configuration parser.
    configuration.set_main_option("script_location", os.fspath(SCRIPTS).replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    return configuration


@cache
def revisions() -> tuple[Revision, ...]:
    """Those this binary knows, oldest first."""
    found: list[Revision] = []
    for script in reversed(list(ScriptDirectory.from_config(_configuration()).walk_revisions())):
        since = str(script.module.compatible_from)
        expands = not found or since == found[-1].compatible_from
        rows = tuple(getattr(script.module, "changes_rows_of", ()))
        found.append(Revision(script.revision, since, expands, Path(script.path).with_suffix(".tsv"), rows))
    return tuple(found)


@cache
def known_revisions() -> tuple[str, ...]:
    """Their names, oldest first."""
    return tuple(revision.name for revision in revisions())


def current(connection: sa.Connection) -> Stand:
    """Where the store is. Raises StoreTooNew when this binary may not run on it."""
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    known = known_revisions()
    if found is None:
        return Stand(None, newer=False)
    asked = bookkeeping.asked(connection)
    # Begun ones count: a contract that ended half-way has taken away something already.
    for name, since in asked.items():
        if since not in known:
            raise StoreTooNew(_too_new(name))
    if found in known:
        return Stand(found, newer=False)
    if found not in asked:
        raise StoreTooNew(_too_new(found))
    return Stand(found, newer=True)


def _too_new(revision: str) -> str:
    return (
        f"the store is at revision {revision}, this binary knows up to {known_revisions()[-1]}: "
        "run the newer longwave that migrated it"
    )


def apply(connection: sa.Connection, revision: Revision, progress: Callable[[str], None]) -> None:
    """Apply one revision, or what of it is missing. Raises NotExpanding, the driver's errors and SQLAlchemy's."""
    bookkeeping.begin(connection, revision.name, revision.compatible_from)
    steps = _Steps(revision, progress)
    configuration = _configuration()
    configuration.attributes.update(Attributes(connection=connection, applied=[]))
    sa.event.listen(connection, "before_cursor_execute", steps.before)
    sa.event.listen(connection, "after_cursor_execute", steps.after)
    try:
        command.upgrade(configuration, revision.name)
    finally:
        sa.event.remove(connection, "before_cursor_execute", steps.before)
        sa.event.remove(connection, "after_cursor_execute", steps.after)
    bookkeeping.end(connection, revision.name)


class _Steps:
    """Sees each statement of a revision go by."""

    def __init__(self, revision: Revision, progress: Callable[[str], None]) -> None:
        self._revision = revision
        self._progress = progress
        self._number = 0

    @staticmethod
    def _is_step(statement: str) -> bool:
        return _ASKS.match(statement) is None and VERSION_TABLE not in statement

    def before(self, _connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if self._revision.expands and self._is_step(statement):
            refuse_unless_expanding(self._revision.name, statement)

    def after(self, _connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if not self._is_step(statement):
            return
        self._number += 1
        words = " ".join(statement.split()[:5])
        self._progress(f"revision {self._revision.name}, step {self._number} done: {words} …")
        failpoints.passing("migrate.after_step")


def refuse_unless_expanding(revision: str, statement: str) -> None:
    """Raises NotExpanding for a statement beside which an older binary may not go on working."""
    bare = _TEXTS.sub("x", statement).strip()
    kind = _EXPANDS.match(bare)
    wrong = kind is None
    if kind is not None and kind[1].upper().startswith("ALTER"):
        # An older binary names no new column when it inserts.
        needs_a_value = "NOT NULL" in bare.upper() and " DEFAULT " not in bare.upper()
        wrong = needs_a_value or _TAKES_AWAY.search(bare) is not None
    if wrong:
        words = " ".join(statement.split()[:5])
        raise NotExpanding(
            f"revision {revision} says that older binaries may run beside it, and they may not beside: {words} …"
        )


def lock_name(database: str) -> str:
    """Of the lock that keeps two migrations of a database apart; an engine holds another one."""
    return owner.lock_name(database).replace("longwave-", "longwave-migrate-")


def take_lock(connection: sa.Connection, address: Address, wait_s: float) -> None:
    """Take the migration's lock on the connection that migrates: it cannot go on without it. Raises StoreLocked."""
    name = lock_name(address.database)
    if connection.exec_driver_sql("SELECT GET_LOCK(%s, %s)", (name, wait_s)).scalar() != 1:
        holder = connection.exec_driver_sql("SELECT IS_USED_LOCK(%s)", (name,)).scalar()
        raise StoreLocked(
            f"{address.shown} is being migrated by another longwave (the server's connection {holder}): wait for it"
        )


def has_lock(connection: sa.Connection, address: Address) -> bool:
    """Whether this very connection has it: one that was lost and made anew has not."""
    name = lock_name(address.database)
    held = connection.exec_driver_sql("SELECT IS_USED_LOCK(%s) = CONNECTION_ID()", (name,)).scalar()
    connection.commit()
    return held == 1


async def missing(address: Address, limits: Limits) -> tuple[str, ...]:
    """Revisions that `longwave migrate` would apply, oldest first; changes nothing. Raises as `migrate`."""
    engine = engine_to(address, limits)
    try:
        async with engine.connect() as connection:
            return (await connection.run_sync(current)).missing
    finally:
        await engine.dispose()


async def migrate(address: Address, limits: Limits, name: str) -> list[str]:
    """What opening a store does: make the schema of an empty database, look at any other; the revisions applied.

    The process of this name is written down before it looks; its node number must be taken behind it. Raises
    StoreTooNew, StoreBehind, StoreLocked, the driver's errors and SQLAlchemy's.
    """
    engine = engine_to(address, limits)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_open, address, name)
    finally:
        await engine.dispose()


def _open(connection: sa.Connection, address: Address, name: str) -> list[str]:
    applied: list[str] = []
    if current(connection).at is None:
        applied = _make(connection, address)
    bookkeeping.note_binary(connection, name, known_revisions()[-1])
    stand = current(connection)
    connection.commit()  # the look began a transaction
    if stand.missing:
        raise StoreBehind(
            f"the store lacks {', '.join(stand.missing)}, which this longwave needs: run `longwave migrate`"
        )
    return applied


def _make(connection: sa.Connection, address: Address) -> list[str]:
    # Let go of when the connection is closed, which is soon.
    take_lock(connection, address, MAKE_S)
    absent = current(connection).missing
    connection.commit()
    bookkeeping.make(connection)
    for revision in revisions():
        if revision.name in absent:
            apply(connection, revision, lambda _line: None)
    return list(absent)
