"""Brings a MySQL store's schema up to what this binary knows, and refuses one that is newer.

It makes no backup: a server's own tools do. The caller holds the store's lock.

Invariants: statements of the schema commit one by one, so a run that ended half-way is finished by the next; a store is
never taken to an older revision.
"""

import os
from functools import cache
from pathlib import Path
from typing import Final, TypedDict

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from engine.errors import StoreTooNew
from engine.stores.mysql.address import Address
from engine.stores.mysql.control import engine_to
from engine.stores.mysql.pool import Limits

SCRIPTS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = "schema_version"


class Attributes(TypedDict):
    """What `migrations/env.py` finds in its configuration's attributes."""

    connection: sa.Connection
    """To run on."""
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


def current(connection: sa.Connection) -> str | None:
    """The revision the store is at; None for an empty one. Raises StoreTooNew for one this binary does not know."""
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if found is not None and found not in known_revisions():
        message = (
            f"the store is at revision {found}, this binary knows up to {known_revisions()[-1]}: "
            "run the newer longwave that migrated it"
        )
        raise StoreTooNew(message)
    return found


def _upgrade(connection: sa.Connection) -> list[str]:
    at = current(connection)
    connection.commit()  # the look began a transaction
    applied: list[str] = []
    if at != known_revisions()[-1]:
        configuration = _configuration()
        configuration.attributes.update(Attributes(connection=connection, applied=applied))
        command.upgrade(configuration, "head")
        connection.commit()
    return applied


def _missing(connection: sa.Connection) -> tuple[str, ...]:
    at = current(connection)
    known = known_revisions()
    return known if at is None else known[known.index(at) + 1 :]


async def missing(address: Address, limits: Limits) -> tuple[str, ...]:
    """Revisions that `migrate` would apply, oldest first; changes nothing. Raises as `migrate`."""
    engine = engine_to(address, limits)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_missing)
    finally:
        await engine.dispose()


async def migrate(address: Address, limits: Limits) -> list[str]:
    """Apply what is missing; the revisions applied. Raises StoreTooNew, the driver's errors and SQLAlchemy's."""
    engine = engine_to(address, limits)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()
