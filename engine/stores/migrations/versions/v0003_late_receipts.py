"""Receipts without a MAC reach messages whose end may still be upgraded: UNDELIVERED, NO_RECEIPT, UNRESOLVED.

They are few beside the DELIVERED, so their index stays small. Nothing is taken away: an index more.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build the index; on a store of millions of messages this takes some seconds."""
    op.execute(
        sa.text(
            "CREATE INDEX messages_provider_id_late ON messages(provider_id) "
            "WHERE state > 16 AND state < 20 AND provider_id IS NOT NULL"
        )
    )
