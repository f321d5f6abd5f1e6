"""Waiting messages by stream, so that what memory does not take in is read back in the order of ids.

QUEUED rows move from the index by due time, which nothing asked for them, to one of their own: as many index entries
as before. The expression is the stream of `rust_core/src/spill.rs`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build both indexes anew; on a store of millions of messages this takes some seconds."""
    op.execute(sa.text("DROP INDEX messages_due"))
    op.execute(sa.text("CREATE INDEX messages_due ON messages(state, due_us) WHERE state > 1 AND state < 16"))
    op.execute(
        sa.text(
            "CREATE INDEX messages_waiting ON messages(campaign, iif(flags & 1, 0, iif(flags & 32, 4, class)), id) "
            "WHERE state = 1"
        )
    )
