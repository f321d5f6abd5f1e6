"""Runs the revisions over the connection it is given; it opens none and reads no settings.

One transaction holds all revisions of a run, so that a crash half-way leaves the store as it was.
"""

from typing import TYPE_CHECKING, cast

from alembic import context
from alembic.runtime.migration import MigrationInfo

if TYPE_CHECKING:
    import sqlalchemy as sa

    from engine.stores.migrate import Attributes


def run() -> None:
    """Apply what is missing; the caller has begun the transaction and commits it."""
    attributes = cast("Attributes", context.config.attributes)
    applied = attributes["applied"]

    def note(ctx: object, step: MigrationInfo, heads: object, run_args: object) -> None:
        del ctx, heads, run_args
        applied.append(str(step.up_revision_id))

    connection: sa.Connection = attributes["connection"]
    context.configure(
        connection=connection,
        version_table="schema_version",
        on_version_apply=note,
    )
    context.run_migrations()


run()
