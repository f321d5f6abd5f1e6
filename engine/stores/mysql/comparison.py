"""Whether a dump holds what its database held: rows and checksums, table by table, in buckets of the primary key.

It takes no lock, so an engine may write meanwhile: the database is summed up before the dump and behind it, and what
is the same both times must be the same in the dump. It changes nothing but its scratch database.

A checksum is CRC-32 of the columns' CRC-32, added up: it finds what is missing, cut or damaged, not what is forged.
"""

from dataclasses import dataclass
from typing import Final

from engine.stores.mysql.pool import Link

BUCKETS: Final = 16_384

_COLUMNS: Final = (
    "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_KEY FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s "
    "AND COALESCE(GENERATION_EXPRESSION, '') = '' ORDER BY TABLE_NAME, ORDINAL_POSITION"
)

Buckets = dict[int, tuple[int, int]]
Sums = dict[str, Buckets]
"""Table → bucket → (rows, sum of checksums)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of it."""

    rows: int
    """That the dump holds."""
    compared: int
    """Of these, in buckets that nobody wrote to meanwhile: rows and checksums are those of the database."""
    wrong: list[str]
    """What is not as it must be; the dump is no backup then."""


async def sums(link: Link, database: str) -> Sums:
    """Every table of a database. Raises the driver's errors."""
    columns: dict[str, list[str]] = {}
    keys: dict[str, list[str]] = {}
    for table, column, key in await link.rows(_COLUMNS, (database,)):
        columns.setdefault(table, []).append(_summed(column))
        if key == "PRI":
            keys.setdefault(table, []).append(_summed(column))
    return {table: await _sums_of(link, database, table, keys.get(table, of), of) for table, of in columns.items()}


def totals(found: Sums) -> dict[str, tuple[int, int]]:
    """Table → (rows, sum of checksums)."""
    return {
        table: (sum(rows for rows, _ in buckets.values()), sum(total for _, total in buckets.values()))
        for table, buckets in found.items()
    }


def _summed(column: str) -> str:
    return f"COALESCE(CRC32(`{column}`), 'N')"


async def _sums_of(link: Link, database: str, table: str, key: list[str], columns: list[str]) -> Buckets:
    bucket, row = f"CRC32(CONCAT_WS(',', {', '.join(key)})) % {BUCKETS}", f"CRC32(CONCAT_WS(',', {', '.join(columns)}))"
    rows = await link.rows(
        f"SELECT {bucket} AS bucket, COUNT(*), CAST(SUM({row}) AS UNSIGNED) "  # noqa: S608 - names of a schema
        f"FROM `{database}`.`{table}` GROUP BY bucket"
    )
    return {int(number): (int(count), int(total)) for number, count, total in rows}


def compare(before: Sums, behind: Sums, loaded: Sums) -> Comparison:
    """A dump's content with what the database held before it was taken and behind that."""
    rows = compared = 0
    wrong: list[str] = []
    nobody_wrote = before == behind
    for table in sorted(before.keys() | loaded.keys()):
        if table not in before or table not in loaded:
            wrong.append(f"{table} is only in the {'database' if table in before else 'dump'}")
            continue
        first, last, dumped = before[table], behind.get(table, {}), loaded[table]
        rows += sum(count for count, _ in dumped.values())
        differing = 0
        for bucket in first.keys() | last.keys() | dumped.keys():
            if first.get(bucket) != last.get(bucket):
                continue
            held, found = first.get(bucket, (0, 0)), dumped.get(bucket, (0, 0))
            if held == found:
                compared += found[0]
            # A row may come and go between the two looks, where anything is written to: a table looks as before then.
            elif nobody_wrote or found[0] <= held[0]:
                differing += 1
        if differing:
            wrong.append(f"{table} differs in {differing} of {BUCKETS} buckets")
    return Comparison(rows, compared, wrong)
