"""One run of `longwave migrate` over a store on a server: look, back up, apply, look again, write down what was done.

It stops no engine: a revision that expands leaves older binaries working, and one that contracts is refused while an
older one may run.

Invariants: the connection that applies holds the migration's lock, so nobody without the lock applies anything; there
is a backup before the first statement, unless there is nothing to lose or the caller said that he has one; a run that
ended anywhere is completed by another.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from engine import failpoints
from engine.errors import ConfigError, LongwaveError
from engine.stores.mysql import (
    bookkeeping,
    comparison,
    dump,
    durability,
    migrate,
    owner,
    prerequisites,
    promises,
    validation,
)
from engine.stores.mysql.address import PLAIN, Address, Tls
from engine.stores.mysql.control import engine_to
from engine.stores.mysql.faults import Fault, classify, code_of
from engine.stores.mysql.migrate import Revision, Stand
from engine.stores.mysql.pool import Limits, Link, connect
from engine.stores.store import Finding

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# For statements that read whole tables.
LONG_S: Final = 24 * 3600.0
# A step waits so long for a table in use, while others wait behind it; then it lets them by and tries again.
STEP_WAIT_S: Final = 5
STEP_TRIES: Final = 20
PAUSE_S: Final = 1.0
# An idle connection is dropped by balancers after 60 s and more, and the lock with it.
KEEP_ALIVE_S: Final = 10.0
NO_BACKUP: Final = (
    "nothing says where to back up: set LONGWAVE_MIGRATE_BACKUP_FOLDER or LONGWAVE_MIGRATE_BACKUP_COMMAND, or say "
    "--without-backup when you have one"
)
LOCK_LOST: Final = "the connection to the server was lost, and the lock with it: run `longwave migrate` again"


class MigrationFailed(LongwaveError):  # noqa: N818 - it says what happened
    """The run ended without having done all; the message says what is so and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants."""

    backup_folder: Path | None = None
    backup_command: str = ""
    has_backup: bool = False
    """There is one already: none is made."""
    contract: bool = False
    """Revisions that end older binaries may be applied."""
    wait_s: float = 0
    """For another migration to end."""
    tls: Tls = PLAIN


@dataclass(slots=True)
class Report:
    """What was done."""

    applied: list[str] = field(default_factory=list)
    backup: str = ""
    """What the store can be taken back to, in words."""


Progress = Callable[[str], None]


def words_of(error: Exception) -> str:
    """An error in words, without the statement, and without its text where that may show a row."""
    if not isinstance(error, DBAPIError):
        return f"{type(error).__name__}: {error}"
    return f"error {code_of(error)}" if classify(error) is Fault.DATA else str(error.orig)


class Migration:
    """One run; use once."""

    def __init__(
        self, address: Address, limits: Limits, level: durability.Level, wish: Wish, progress: Progress
    ) -> None:
        """Open nothing yet; `progress` is told each step in words."""
        self._address = address
        self._limits = limits
        self._level = level
        self._wish = wish
        self._progress = progress
        self._report = Report()
        self._link: Link
        self._connection: AsyncConnection

    async def run(self) -> Report:
        """Do it all.

        Raises ConfigError for what is not as it must be before anything is changed, StoreLocked, StoreTooNew,
        BackupFailed, MigrationFailed, the driver's errors and SQLAlchemy's.
        """
        engine = engine_to(self._address, self._limits)
        self._link = Link(await connect(self._address, self._limits), LONG_S)
        try:
            async with engine.connect() as self._connection:
                await self._connection.run_sync(migrate.take_lock, self._address, self._wish.wait_s)
                await self._connection.commit()
                return await self._locked()
        finally:
            await self._link.end()
            await engine.dispose()

    async def _locked(self) -> Report:
        self._refuse_unless(await durability.check(self._link, self._level))
        stand = await self._connection.run_sync(migrate.current)
        absent = self._wanted(stand)
        names = ", ".join(revision.name for revision in absent)
        self._progress(f"store is at revision {stand.at or 'none'}: {names or 'nothing'} to apply")
        if absent:
            self._refuse_unless([await prerequisites.rights(self._link), *await self._room(stand)])
            await self._connection.run_sync(bookkeeping.make)
            if cut_short := await self._connection.run_sync(bookkeeping.unended_runs):
                self._progress(f"{cut_short} earlier runs were cut short: completing them")
            await self._change(stand, absent)
        else:
            await self._validate(None)
        return self._report

    def _wanted(self, stand: Stand) -> list[Revision]:
        return [revision for revision in migrate.revisions() if revision.name in stand.missing]

    def _refuse_unless(self, findings: list[Finding]) -> None:
        for finding in findings:
            self._progress(f"{finding.name}: {finding.found}")
        bad = [finding for finding in findings if not finding.ok]
        if bad:
            shown = self._address.shown
            raise ConfigError([f"{shown}: {each.name}: {each.found}, needs {each.wanted}" for each in bad])

    async def _room(self, stand: Stand) -> list[Finding]:
        if stand.at is None:
            return []
        folder = self._wish.backup_folder
        found = [await prerequisites.room_on_server(self._link, copies=folder is not None)]
        if folder is not None:
            try:
                found.append(await prerequisites.room_in_folder(self._link, folder))
            except OSError as error:
                raise ConfigError([f"LONGWAVE_MIGRATE_BACKUP_FOLDER {folder}: {error.strerror}"]) from None
        return found

    async def _change(self, stand: Stand, absent: list[Revision]) -> None:
        for revision in absent:
            if not revision.expands:
                await self._refuse_while_older_runs(revision)
        at = stand.at or ""
        run = await self._connection.run_sync(bookkeeping.begin_run, owner.own_name(), at, absent[-1].name)
        try:
            if stand.at is not None:
                self._report.backup = await self._back_up(absent[0].name)
                await self._connection.run_sync(bookkeeping.note_backup, run, self._report.backup)
            failpoints.passing("migrate.after_backup")
            async with self._keeping_alive():
                before = await validation.counts(self._link, self._kept_tables(stand, absent))
            for revision in absent:
                await self._apply(revision)
            failpoints.passing("migrate.after_steps")
            async with self._keeping_alive():
                await self._validate(before)
        except Exception as error:
            with contextlib.suppress(Exception):  # the server may be what failed
                await self._connection.rollback()
                await self._connection.run_sync(bookkeeping.end_run, run, f"failed: {words_of(error)}")
            if isinstance(error, DBAPIError) and classify(error) is not Fault.LOST:
                raise MigrationFailed(
                    f"the server refused a step: {words_of(error)}. Binaries that ran go on working; when the cause is "
                    "mended, `longwave migrate` goes on from here"
                ) from error
            raise
        await self._connection.run_sync(bookkeeping.end_run, run, "done")
        self._progress(f"store is at revision {absent[-1].name}")

    @staticmethod
    def _kept_tables(stand: Stand, absent: list[Revision]) -> set[str]:
        """Those that are there before and behind, and whose rows no revision of this run changes."""
        at = [revision for revision in migrate.revisions() if revision.name == stand.at]
        kept = set.intersection(*(promises.tables(revision.promises) for revision in absent))
        for revision in at:
            kept &= promises.tables(revision.promises)
        changed = {table for revision in absent for table in revision.changes_rows_of}
        return (kept if at else set()) - changed - {*bookkeeping.TABLES, migrate.VERSION_TABLE}

    async def _refuse_while_older_runs(self, revision: Revision) -> None:
        if not self._wish.contract:
            raise MigrationFailed(
                f"revision {revision.name} takes away what binaries before {revision.compatible_from} need: when none "
                "of them runs any more, and none will be gone back to, run `longwave migrate --contract`"
            )
        older = await self._connection.run_sync(
            prerequisites.older_binary, revision.compatible_from, migrate.known_revisions()
        )
        if older:
            raise MigrationFailed(
                f"revision {revision.name} is not applied while an older binary may run: {older}; nothing of it is done"
            )

    async def _begin_contract(self, revision: Revision) -> None:
        """Older binaries are kept out first, then looked for: whoever is not seen has read the new word."""
        is_new = await self._connection.run_sync(bookkeeping.begin, revision.name, revision.compatible_from)
        try:
            await self._refuse_while_older_runs(revision)
        except MigrationFailed:
            if is_new:
                await self._connection.run_sync(bookkeeping.withdraw, revision.name)
            raise

    # Backup.

    async def _back_up(self, label: str) -> str:
        wish = self._wish
        if wish.has_backup:
            return "none made: the operator has one"
        async with self._keeping_alive():
            if wish.backup_command:
                self._progress("backup: running LONGWAVE_MIGRATE_BACKUP_COMMAND")
                line = await asyncio.to_thread(dump.by_command, wish.backup_command)
                self._progress(f"backup: {line}")
                return f"command, exit code 0: {line}"
            if wish.backup_folder is None:
                raise ConfigError([NO_BACKUP])
            return await self._dump(wish.backup_folder, label)

    async def _dump(self, folder: Path, label: str) -> str:
        address = self._address
        [(version,)] = await self._link.rows("SELECT VERSION()")
        mariadb, _ = durability.version_of(version)
        found = partial(dump.Tools.found, self._wish.tls, mariadb=mariadb)
        tools = await asyncio.to_thread(found)
        before = await comparison.sums(self._link, address.database)
        self._progress(f"backup: dumping with {Path(tools.dump).name} into {folder}")
        part = await asyncio.to_thread(dump.take, address, tools, folder, label)
        try:
            behind = await comparison.sums(self._link, address.database)
            words = await self._verify(tools, part, before, behind)
            path = await asyncio.to_thread(dump.keep, part)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._progress(f"backup: {path.name}, {words}")
        for name in await asyncio.to_thread(dump.remove_old, folder, address.database):
            self._progress(f"backup: removed {name}, older than {dump.KEEP_DAYS} days")
        return f"{path}: {words}"

    async def _verify(self, tools: dump.Tools, part: Path, before: comparison.Sums, behind: comparison.Sums) -> str:
        scratch = "verify_longwave_" + hashlib.sha256(self._address.database.encode()).hexdigest()[:32]
        try:
            # Left there by a run that was killed: nobody else has this name, and we have the lock.
            await self._link.run(f"DROP DATABASE IF EXISTS `{scratch}`")
            await self._link.run(f"CREATE DATABASE `{scratch}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        except Exception as error:
            if classify(error) is not Fault.REFUSED:
                raise
            return await self._verify_weakly(part, before)
        try:
            self._progress("backup: loading the dump into a scratch database")
            await asyncio.to_thread(dump.load, self._address, tools, part, scratch)
            loaded = await comparison.sums(self._link, scratch)
            compared = comparison.compare(before, behind, loaded)
        finally:
            await self._link.run(f"DROP DATABASE IF EXISTS `{scratch}`")
        if compared.wrong:
            raise dump.BackupFailed(
                f"the dump is not what the store holds: {'; '.join(compared.wrong)}. Nothing was changed; run it "
                "again, at a quieter time if an engine writes to the store"
            )
        await asyncio.to_thread(dump.seal, part, comparison.totals(loaded))
        if compared.compared == compared.rows:
            return f"verified by loading it: all {compared.rows} rows compared by checksum"
        share = f"{compared.compared} of {compared.rows} rows"
        return f"verified by loading it: {share} compared by checksum, the rest was written to meanwhile"

    async def _verify_weakly(self, part: Path, before: comparison.Sums) -> str:
        absent = before.keys() - await asyncio.to_thread(dump.tables_in, part)
        if absent:
            raise dump.BackupFailed(f"the dump lacks {', '.join(sorted(absent))}; nothing was changed")
        return (
            "verified weakly, since this user may not make a scratch database: it unpacks, ends as a dump does and has "
            f"all {len(before)} tables; rows were not compared"
        )

    @contextlib.asynccontextmanager
    async def _keeping_alive(self) -> AsyncIterator[None]:
        # Told to end, not cancelled: a statement that is cut short costs the connection, and with it the lock.
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        await done.wait()
                await self._connection.exec_driver_sql("DO 0")
                await self._connection.commit()

        asking = asyncio.get_running_loop().create_task(ask(), name="migration-lock")
        try:
            yield
        finally:
            done.set()
            [ended] = await asyncio.gather(asking, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended

    # Steps.

    async def _apply(self, revision: Revision) -> None:
        if not await self._connection.run_sync(migrate.has_lock, self._address):
            raise MigrationFailed(LOCK_LOST)
        if not revision.expands:
            await self._begin_contract(revision)
        await self._connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {STEP_WAIT_S}")
        await self._connection.commit()
        for left in reversed(range(STEP_TRIES)):
            try:
                await self._connection.run_sync(migrate.apply, revision, self._progress)
            except Exception as error:
                if classify(error) is not Fault.AGAIN or not left:
                    raise
                await self._connection.rollback()
                self._progress(f"revision {revision.name}: a table was in use for {STEP_WAIT_S} s, trying again")
                await asyncio.sleep(PAUSE_S)
            else:
                self._report.applied.append(revision.name)
                return

    async def _validate(self, before: dict[str, int] | None) -> None:
        head = migrate.revisions()[-1]
        wrong = await promises.broken(self._link, head.promises)
        wrong += await validation.unreadable(self._link)
        if before:
            served = await owner.is_served(self._link)
            wrong += validation.changed(before, await validation.counts(self._link, before), served=served)
        if wrong:
            raise MigrationFailed(
                f"the schema is not what revision {head.name} promises: {'; '.join(wrong)}. Keep the binary that runs; "
                "docs/operations/UPGRADE.md says what to do"
            )
        self._progress("validated: tables, columns, indexes, rows and statements are those of this version")
