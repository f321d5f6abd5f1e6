"""What a revision promises to be there, and whether it is: tables, columns, indexes.

It reads `information_schema` and changes nothing. A promise is a line of the file beside the revision
(`migrations/versions/*.tsv`), which lists all that is there once the revision is applied; `make promises` writes it.

Invariant: a line is the same on MySQL and MariaDB.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from engine.stores.mysql.pool import Link

# Widths that MySQL 8 no longer shows, and that say nothing.
_WIDTH: Final = re.compile(r"\b(tinyint|smallint|mediumint|int|bigint)\(\d+\)")
_COLUMNS: Final = (
    "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE FROM information_schema.COLUMNS "
    "WHERE TABLE_SCHEMA = DATABASE()"
)
_INDEXES: Final = (
    "SELECT TABLE_NAME, INDEX_NAME, NON_UNIQUE, COLUMN_NAME FROM information_schema.STATISTICS "
    "WHERE TABLE_SCHEMA = DATABASE() ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
)
_TABLES: Final = (
    "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE'"
)


async def found(link: Link) -> set[str]:
    """A line for each table, column and index that is there. Raises the driver's errors."""
    lines = {f"table\t{table}" for (table,) in await link.rows(_TABLES)}
    for table, column, shown, nullable in await link.rows(_COLUMNS):
        null = "NULL" if nullable == "YES" else "NOT NULL"
        kind = _WIDTH.sub(r"\1", _text(shown))
        lines.add(f"column\t{table}\t{column}\t{kind} {null}")
    columns: dict[tuple[str, str, str], list[str]] = {}
    for table, index, non_unique, column in await link.rows(_INDEXES):
        columns.setdefault((table, index, "INDEX" if int(non_unique) else "UNIQUE"), []).append(column)
    lines |= {f"index\t{table}\t{index}\t{kind} ({', '.join(of)})" for (table, index, kind), of in columns.items()}
    return lines


def _text(value: str | bytes) -> str:
    # MySQL 8 shows types as a BLOB.
    return value.decode() if isinstance(value, bytes) else value


def read(path: Path) -> list[str]:
    """The promises of a file. Raises OSError."""
    return path.read_text(encoding="utf-8").splitlines()


def tables(path: Path) -> set[str]:
    """The tables among the promises of a file. Raises OSError."""
    return {line.partition("\t")[2] for line in read(path) if line.startswith("table\t")}


def text_of(lines: Iterable[str]) -> str:
    """As the file holds them."""
    return "".join(f"{line}\n" for line in sorted(lines))


async def broken(link: Link, path: Path) -> list[str]:
    """Promises of the file that are not kept; what is there beyond them is nobody's business."""
    there = await found(link)
    return [line.replace("\t", " ") for line in read(path) if line not in there]
