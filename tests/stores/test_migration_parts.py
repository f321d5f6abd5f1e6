"""Parts of a migration by themselves: what a revision promises, which statements expand, every first step cut short."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import failpoints
from engine.stores.mysql import bookkeeping, migrate, promises, validation
from engine.stores.mysql.address import parse
from engine.stores.mysql.pool import Limits
from tests.servers.mariadb import PASSWORD, MariaDB
from tests.servers.promises import found
from tests.stores.migrating import Place


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_the_promises_are_those_of_a_fresh_schema(new_database: Callable[[], str]) -> None:
    head = migrate.revisions()[-1]
    fresh = asyncio.run(found(new_database()))
    assert fresh == head.promises.read_text(encoding="utf-8"), "run `make promises`"


def test_a_promise_reads_the_same_on_both_servers() -> None:
    assert promises._WIDTH.sub(r"\1", "int(10) unsigned") == "int unsigned"
    assert promises._WIDTH.sub(r"\1", "varchar(64)") == "varchar(64)"
    assert promises._text(b"bigint") == "bigint"


def test_every_statement_is_explained() -> None:
    names = [name for name, _ in validation.statements()]
    assert len(names) > 70
    assert {"DELETE_OLD", "SELECT_OLDEST_OF_SLOT", "UPDATE_LOOKUPS_DUE"} <= set(names)
    assert not [text for _, text in validation.statements() if "{" in text or re.search(r"%s", text)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE IF NOT EXISTS t (a INT NOT NULL, change_us INT)",
        "\nCREATE TABLE t (\n a INT)",
        "CREATE INDEX i ON t (a)",
        "ALTER TABLE t ADD COLUMN a INT NULL, LOCK=NONE",
        "ALTER TABLE t ADD COLUMN a VARCHAR(9) NOT NULL DEFAULT 'DROP', LOCK=NONE",
        "ALTER TABLE t ADD INDEX i (a), LOCK=NONE",
        "INSERT INTO t (a) VALUES (1) ON DUPLICATE KEY UPDATE a = a",
        "UPDATE t SET a = 1 WHERE a IS NULL",
    ],
)
def test_what_expands(statement: str) -> None:
    migrate.refuse_unless_expanding("0002", statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE t",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t ADD COLUMN a INT NULL, DROP COLUMN b",
        "ALTER TABLE t ADD COLUMN a INT NOT NULL",
        "ALTER TABLE t ADD UNIQUE KEY k (a)",
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)",
        "ALTER TABLE t MODIFY a BIGINT",
        "alter table t rename column a to b",
        "CREATE UNIQUE INDEX i ON t (a)",
        "RENAME TABLE t TO u",
        "TRUNCATE t",
        "DELETE FROM t",
        "REPLACE INTO t VALUES (1)",
    ],
)
def test_what_does_not(statement: str) -> None:
    with pytest.raises(migrate.NotExpanding, match="older binaries may run beside it"):
        migrate.refuse_unless_expanding("0002", statement)


def test_columns_come_to_every_table_with_nobody_held_up(mariadb: MariaDB) -> None:
    """Else a later revision would keep writers out while a table of millions of rows is copied."""
    url = mariadb.create_database("widened")
    asyncio.run(migrate.migrate(parse(url, PASSWORD, None), Limits(), "a test"))
    for (table,) in mariadb.run("SHOW TABLES", database="widened"):
        mariadb.run(f"ALTER TABLE `{table}` ADD COLUMN later INT NULL DEFAULT 3, LOCK=NONE", database="widened")
    mariadb.drop_database("widened")


def test_the_first_revision_cut_short_at_each_step_is_completed(mariadb: MariaDB, tmp_path: Path) -> None:
    """In this process, again and again, each time one step further; `test_migration.py` kills."""

    def open_one(name: str) -> Place:
        place = Place(mariadb, name, tmp_path)
        asyncio.run(migrate.migrate(parse(mariadb.url(name), PASSWORD, None), Limits(), "a test"))
        return place

    mariadb.create_database("whole")
    mariadb.create_database("pieces")
    whole = open_one("whole").schema()
    place = Place(mariadb, "pieces", tmp_path)
    step, states = 1, [place.schema()]
    while True:
        failpoints.arm(f"migrate.after_step:raise@{step}")
        try:
            open_one("pieces")
        except failpoints.Injected:
            if (now := place.schema()) == states[-1]:
                step += 1  # what there is was passed over
            else:
                states.append(now)
        else:
            break
    # Seven of the control plane, with the indexes that they get by a statement of their own, and the others.
    assert len(states) > len(whole) - len(bookkeeping.TABLES)
    assert place.schema() == whole
    assert place.rows("SELECT COUNT(*) FROM opt_out_slots") == [(4096,)]
    mariadb.drop_database("pieces")
    mariadb.drop_database("whole")
