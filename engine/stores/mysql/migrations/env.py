"""Runs the revisions over the connection it is given; it opens none and reads no settings.

Each statement of the schema commits by itself on these servers, so a run that ends half-way leaves a part: revisions
make only what is not there, and running again finishes them.
"""

from typing import TYPE_CHECKING, cast

from alembic import context
from alembic.runtime.migration import MigrationInfo

if TYPE_CHECKING:
    import sqlalchemy as sa

    from engine.stores.mysql.migrate import Attributes


def run() -> None:
    """Apply what is missing."""
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
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
