"""What `bootstrap`, `migrate`, `serve` and `doctor` do with a store on a MySQL or MariaDB server.

It does for a server what `store.py` does for a file. Invariants as there: a key is committed before it is shown, and
shown once; a secret file is made only for a store without keys.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from asyncmy.errors import MySQLError
from sqlalchemy.exc import DBAPIError

from engine import failpoints
from engine.clock import Clock
from engine.config import Settings
from engine.errors import ConfigError
from engine.registry.api_keys import create_api_key, has_any_key, has_live_admin
from engine.registry.records import Role
from engine.secrets import open_secrets
from engine.stores.mysql import durability, migrate, sql
from engine.stores.mysql.dump import BackupFailed
from engine.stores.mysql.migration import Migration, MigrationFailed, Report, Wish
from engine.stores.mysql.pool import Link, connect
from engine.stores.mysql.restoring import Restored, RestoreRefused, restore
from engine.stores.mysql.store import MySQLStore
from engine.stores.opened import mysql_store, tls_of
from engine.stores.store import Callbacks
from engine.stores.store import Finding as Promise
from server.cli import output
from server.cli.failure import CliFailure
from server.cli.finding import Finding, Level

T = TypeVar("T")

UNREACHABLE: Final = (
    "is the server up, and are LONGWAVE_STORE_URL, LONGWAVE_STORE_PASSWORD, LONGWAVE_STORE_TLS and its files right?"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the doctor saw of a store."""

    held: bool = False
    """An engine runs on it."""
    empty: bool = False
    """It has no schema yet; one that cannot be reached is not empty."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it; what the server or the way to it says becomes a failure with advice."""
    try:
        return asyncio.run(work)
    except (MySQLError, DBAPIError, OSError, TimeoutError) as error:
        raise CliFailure(f"the store: {type(error).__name__}: {error}\n{UNREACHABLE}") from None


async def opened(settings: Settings, use: Callable[[MySQLStore], Awaitable[T]]) -> T:
    """Open the store, schema included, use it, close it. Raises ConfigError, StoreLocked, StoreTooNew, the driver's."""
    # A number of its own for the while: that of the settings is the engine's, which may run.
    store = mysql_store(settings.model_copy(update={"node": None}), Clock(), progress=output.say)
    try:
        await store.open(Callbacks(lambda _error: None, lambda _stats: None, lambda _full: None))
        return await use(store)
    finally:
        await store.close()


def has_keys(settings: Settings) -> bool:
    """Whether the store holds any API key; its schema is made first. Raises ConfigError, StoreLocked, StoreTooNew."""

    def look(control: sa.Connection) -> bool:
        return has_any_key(control)

    return run(opened(settings, lambda store: store.run_control(look)))


def make_key(settings: Settings) -> str | None:
    """Make or complete schema, secret file and one admin key, which is the result; None when one works already.

    Raises ConfigError, StoreLocked, StoreTooNew.
    """
    now_us = Clock().now_us()

    def make(control: sa.Connection) -> str | None:
        if has_live_admin(control, now_us=now_us):
            return None
        secrets = open_secrets(settings.secrets_path, create=not has_any_key(control), now_us=now_us)
        _, token = create_api_key(
            control,
            secrets,
            role=Role.ADMIN,
            tenant=None,
            display_name="made by longwave bootstrap",
            expire_us=None,
            now_us=now_us,
        )
        return token.text

    return run(opened(settings, lambda store: store.run_control(make)))


def migrate_store(settings: Settings, *, contract: bool, has_backup: bool, wait_s: float) -> Report:
    """Bring the schema up to date beside whoever serves it, and say how far it is.

    Raises ConfigError, StoreLocked, StoreTooNew, and CliFailure for what went wrong on the way.
    """
    place = mysql_store(settings, Clock()).place
    wish = Wish(
        backup_folder=settings.migrate_backup_folder,
        backup_command=settings.migrate_backup_command,
        has_backup=has_backup,
        contract=contract,
        wait_s=wait_s,
        tls=tls_of(settings),
    )
    failpoints.arm(settings.failpoint)
    try:
        return run(Migration(place.primary, place.limits, place.level, wish, output.say).run())
    except (MigrationFailed, BackupFailed, migrate.NotExpanding) as error:
        raise CliFailure(str(error)) from None


def restore_store(settings: Settings, file: Path) -> Restored:
    """Put a backup of `longwave migrate` into the empty database that the settings name.

    Raises StoreTooNew, and CliFailure for what went wrong on the way.
    """
    place = mysql_store(settings, Clock()).place
    work = restore(
        place.primary,
        place.limits,
        file,
        output.say,
        tls=tls_of(settings),
    )
    try:
        return run(work)
    except (RestoreRefused, BackupFailed) as error:
        raise CliFailure(str(error)) from None


def missing(settings: Settings) -> tuple[str, ...]:
    """Revisions that the store lacks; changes nothing. Raises StoreTooNew."""
    place = mysql_store(settings, Clock()).place
    return run(migrate.missing(place.primary, place.limits))


def check_store(settings: Settings) -> Generator[Finding, None, Seen]:
    """Findings about the store, and what they come to. Raises StoreTooNew."""
    try:
        place = mysql_store(settings, Clock()).place
    except ConfigError as error:
        for problem in error.problems:
            what, _, advice = problem.rpartition(": ")
            yield Finding(Level.FAIL, "store", what, advice)
        return Seen()
    try:
        promises, held = run(_look(settings))
        absent = missing(settings)
    except CliFailure as failure:
        yield Finding(Level.FAIL, "store", str(failure).partition("\n")[0], UNREACHABLE)
        return Seen()
    yield Finding(Level.OK, "store", f"{promises[0].found} at {place.primary.shown}")
    for promise in promises:
        if promise.ok:
            yield Finding(Level.OK, promise.name, f"{promise.found}, {promise.wanted} is needed")
        else:
            yield Finding(Level.FAIL, promise.name, f"is {promise.found}", f"set it to {promise.wanted} on the server")
    nodes = "; ".join(f"node {node} ({owner.rpartition(' ')[0]})" for node, owner, _ in held)
    yield Finding(Level.OK, "nodes", f"run on this store: {nodes}" if held else "none runs on this store")
    empty = len(absent) == len(migrate.known_revisions())
    if empty:
        yield Finding(Level.WARN, "schema", "the database is empty", "make it with: longwave bootstrap")
    elif absent:
        advice = "bring it up to date with: longwave migrate"
        yield Finding(Level.FAIL, "schema", f"lacks {', '.join(absent)}", advice)
    else:
        yield Finding(Level.OK, "schema", "that of this version")
    return Seen(held=bool(held), empty=empty)


async def _has_nodes(link: Link) -> bool:
    return bool(await link.rows("SHOW TABLES LIKE 'nodes'"))


async def _look(settings: Settings) -> tuple[list[Promise], list[tuple[Any, ...]]]:
    place = mysql_store(settings, Clock()).place
    link = Link(await connect(place.primary, place.limits), place.limits.statement_s)
    try:
        promises = await durability.check(link, place.level)
        return promises, await link.rows(sql.SELECT_NODES) if await _has_nodes(link) else []
    finally:
        await link.end()
