"""Several processes over one store: numbers of nodes, leases that run out, markers of each node, an owner's inbox.

It only adds: what is there stays as it was. Times of leases are those of the server's clock, in microseconds since the
Unix epoch. Every step may find its work done, as in the first revision.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLE: Final = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
# Whose number in ids is whose; a number is free again a while after its lease ran out.
NODES: Final = (
    "CREATE TABLE IF NOT EXISTS nodes ("
    "node SMALLINT UNSIGNED NOT NULL, owner VARCHAR(128) NOT NULL, incarnation BIGINT UNSIGNED NOT NULL, "
    "expires_us BIGINT NOT NULL, roles VARCHAR(64) NOT NULL, PRIMARY KEY (node))"
)
# What a node that is not the owner accepted or received, for the owner: written with it, deleted when it is done.
INBOX: Final = (
    "CREATE TABLE IF NOT EXISTS inbox ("
    "position BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, kind TINYINT UNSIGNED NOT NULL, at_us BIGINT NOT NULL, "
    "payload MEDIUMBLOB NOT NULL, PRIMARY KEY (position))"
)
COLUMNS: Final = {
    "leases": (
        "node",
        "ADD COLUMN node SMALLINT UNSIGNED NOT NULL DEFAULT 0, ADD COLUMN expires_us BIGINT NOT NULL DEFAULT 0",
    ),
    "lanes": (
        "node",
        "ADD COLUMN node SMALLINT UNSIGNED NOT NULL DEFAULT 0 FIRST, DROP PRIMARY KEY, ADD PRIMARY KEY (node, lane)",
    ),
}


def upgrade() -> None:
    """Make what is not there."""
    for statement in (NODES, INBOX):
        op.execute(sa.text(f"{statement} {TABLE}"))
    for table, (column, change) in COLUMNS.items():
        if column not in {found["name"] for found in sa.inspect(op.get_bind()).get_columns(table)}:
            op.execute(sa.text(f"ALTER TABLE {table} {change}"))
