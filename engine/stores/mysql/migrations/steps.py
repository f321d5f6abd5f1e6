"""The steps that revisions are made of: each may find its work done, since a run may have ended half-way.

Those that expand hold nobody up: with `LOCK=NONE` a server that would have to keep writers out refuses instead. Those
that contract are for revisions that raise `compatible_from`. Names and definitions are constants of a revision.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

_COLUMN: Final = (
    "SELECT 1 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :first "
    "AND COLUMN_NAME = :second"
)
_INDEX: Final = (
    "SELECT 1 FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :first "
    "AND INDEX_NAME = :second LIMIT 1"
)


def _is_there(question: str, first: str, second: str) -> bool:
    connection: Any = op.get_bind()
    return connection.execute(sa.text(question), {"first": first, "second": second}).scalar() is not None


def _run(statement: str) -> None:
    op.execute(sa.text(statement.replace(":", "\\:")))


def add_table(name: str, definition: str) -> None:
    """A table with these columns and keys."""
    _run(f"CREATE TABLE IF NOT EXISTS {name} ({definition}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin")


def add_column(table: str, name: str, definition: str) -> None:
    """A column that an older binary may leave out: it takes NULL or has a default."""
    if not _is_there(_COLUMN, table, name):
        _run(f"ALTER TABLE {table} ADD COLUMN {name} {definition}, LOCK=NONE")


def add_index(table: str, name: str, columns: str) -> None:
    """An index that refuses no row."""
    if not _is_there(_INDEX, table, name):
        _run(f"ALTER TABLE {table} ADD INDEX {name} ({columns}), LOCK=NONE")


def drop_index(table: str, name: str) -> None:
    """Contracts."""
    if _is_there(_INDEX, table, name):
        _run(f"ALTER TABLE {table} DROP INDEX {name}, LOCK=NONE")


def drop_column(table: str, name: str) -> None:
    """Contracts."""
    if _is_there(_COLUMN, table, name):
        _run(f"ALTER TABLE {table} DROP COLUMN {name}, LOCK=NONE")


def drop_table(name: str) -> None:
    """Contracts."""
    _run(f"DROP TABLE IF EXISTS {name}")
