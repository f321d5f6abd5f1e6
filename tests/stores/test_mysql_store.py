"""The MySQL store on a real server: schema, owners, partitions, positions of the log, what it says of durability."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from engine import _core, failpoints
from engine.errors import ConfigError, StoreTooNew
from engine.registry.tables import METADATA
from engine.stores.mysql import migrate
from engine.stores.mysql.partitions import DAYS_AHEAD, make_ahead
from engine.stores.mysql.store import MySQLStore
from engine.stores.store import OPT_OUT_API, Kept
from tests.servers.mariadb import MariaDB
from tests.stores.conftest import OpenStore

GOLDEN = Path(__file__).parents[1] / "golden" / "mysql_statements.sql"
TENANT = 7
DAY_US = 86_400_000_000


def database_of(url: str) -> str:
    return url.rpartition("/")[2]


async def test_opening_again_changes_nothing(open_store: OpenStore, new_database: Callable[[], str]) -> None:
    url = new_database()
    store = await open_store(url)
    first = await store.begin_run()
    await store.close()
    again = await open_store(url)
    then = await again.begin_run()
    assert first is not None
    assert then is not None
    assert then.epoch == first.epoch + 1


@pytest.mark.parametrize("made", ["schema_version", "messages", "opt_out_slots", "campaigns", "quotas"])
async def test_a_migration_that_ended_half_way_is_finished(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str], made: str
) -> None:
    url = new_database()
    store = await open_store(url)
    await store.close()
    # All that a run makes behind this table is not there yet, and neither is the mark that it ended.
    database = database_of(url)
    order = [row[0] for row in mariadb.run("SHOW TABLES", database=database)]
    tables = [name for name in order if name not in {made, "schema_version", "tenants", "brands"}]
    drops = [f"DROP TABLE {name}" for name in tables[len(tables) // 2 :]]
    mariadb.run("SET foreign_key_checks = 0", *drops, "DELETE FROM schema_version", database=database)
    again = await open_store(url)
    assert sorted(row[0] for row in mariadb.run("SHOW TABLES", database=database)) == sorted(order)
    assert mariadb.run("SELECT COUNT(*) FROM opt_out_slots", database=database) == [(4096,)]
    assert (await again.add_opt_out(TENANT, 12025550100, OPT_OUT_API, 1, ""))[2]


async def test_a_store_of_a_newer_binary_is_refused(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    await (await open_store(url)).close()
    mariadb.run("UPDATE schema_version SET version_num = '9999'", database=database_of(url))
    with pytest.raises(StoreTooNew, match="9999"):
        await open_store(url)
    newest = f"UPDATE schema_version SET version_num = '{migrate.known_revisions()[-1]}'"  # noqa: S608 - our own
    mariadb.run(newest, database=database_of(url))


async def test_the_control_plane_has_the_columns_of_its_code(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    await open_store(url)
    for table in METADATA.sorted_tables:
        found = mariadb.run(f"SHOW COLUMNS FROM {table.name}", database=database_of(url))
        assert [row[0] for row in found] == [column.name for column in table.columns], table.name
        nullable = [row[0] for row in found if row[2] == "YES"]
        assert nullable == [column.name for column in table.columns if column.nullable], table.name
        wide = [row[0] for row in found if row[1].startswith("bigint")]
        expected = [column.name for column in table.columns if isinstance(column.type, sa.BigInteger)]
        assert wide == expected, table.name


async def test_the_golden_statements_run_and_touch_the_rows_they_name(
    open_store: OpenStore, new_database: Callable[[], str]
) -> None:
    store = await open_store(new_database())
    lines = GOLDEN.read_text(encoding="ascii").splitlines()
    async with store.pool.link() as link:
        for head, statement in zip(lines[::2], lines[1::2], strict=True):
            found = re.fullmatch(r"-- \d\d (.*): (\d+) rows", head)
            assert found is not None
            if found[1].startswith("update_messages, many"):
                # Ten rows of which three were made: seven of them are copied, and all are as the update expects.
                await _copy_up_to(store.pool.link, 110)
            if found[1].startswith(("insert", "select")):
                changed = await link.run(statement.rstrip(";"))
                if found[1].startswith("insert"):
                    assert changed == int(found[2]), head
            elif "intents" in found[1]:
                # Their gates: the campaign of the golden rows has no number here, so none is granted.
                assert await link.run(statement.rstrip(";")) == 0
            else:
                before = {"update_messages": 2, "update_messages, many values": 3, "update_quiet": 4}[found[1]]
                await link.run("UPDATE messages SET seq = %s", (before,))
                assert await link.run(statement.rstrip(";")) == int(found[2]), head


async def _copy_up_to(link_of: Callable[[], object], identity: int) -> None:
    async with link_of() as link:  # type: ignore[attr-defined] # the pool's context manager
        columns = [
            row[0] for row in await link.rows("SHOW COLUMNS FROM messages") if row[0] not in {"id", "shard", "stream"}
        ]
        names = ", ".join(f"`{name}`" for name in columns)
        for copy in range(104, identity + 1):
            await link.run(f"INSERT INTO messages (id, {names}) SELECT {copy}, {names} FROM messages WHERE id = 101")  # noqa: S608 - names of columns


async def test_positions_of_each_slot_have_no_gap_and_no_order_but_their_own(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    store = await open_store(url)
    for index in range(40):
        await store.add_opt_out(1 + index % 20, 12025550100 + index, OPT_OUT_API, index, "")
    for tenant in range(1, 21):
        rows, reached = await store.events(tenant, 0, 100)
        assert len(rows) == 2
        _, newest = await store.event_bounds(tenant)
        assert reached == newest
    found = mariadb.run(
        "SELECT s.slot, s.next_position - 1, COUNT(e.position), COALESCE(MAX(e.position), 0) FROM event_slots AS s "
        "LEFT JOIN events AS e ON e.slot = s.slot GROUP BY s.slot, s.next_position",
        database=database_of(url),
    )
    assert len(found) == 16
    assert all(last == count == newest for _, last, count, newest in found)


async def test_old_events_go_and_the_newest_of_a_slot_stays(
    open_store: OpenStore, new_database: Callable[[], str]
) -> None:
    store = await open_store(new_database())
    for index in range(30):
        await store.add_opt_out(1 + index % 2, 12025550100 + index, OPT_OUT_API, index, "")
    more, _ = await store.prune(Kept.EVENTS, 10**9, 7)
    assert more
    while more:
        more, _ = await store.prune(Kept.EVENTS, 10**9, 7)
    for tenant in (1, 2):
        assert await store.event_bounds(tenant) == (15, 15)


async def test_partitions_are_made_ahead_and_hold_their_day(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    store = await open_store(url)
    now = datetime.now(UTC)
    later = int((now + timedelta(days=DAYS_AHEAD + 30)).timestamp()) * 1_000_000
    async with store.pool.link() as link:
        assert await make_ahead(link, int(now.timestamp()) * 1_000_000) == 0
        await link.run("INSERT INTO bodies (id, record) VALUES (%s, '')", (_core.first_id_at(later) + 1,))
        assert await make_ahead(link, later) > 0
        assert await make_ahead(link, later) == 0
    named = f"p{datetime.fromtimestamp(later / 1e6, UTC):%Y%m%d}"
    of_day = f"SELECT COUNT(*) FROM bodies PARTITION ({named})"  # noqa: S608 - the name of a day
    assert mariadb.run(of_day, database=database_of(url)) == [(1,)]


QUEUED, CANCELLED = 1, 20


async def message_at(store: MySQLStore, at_us: int, state: int, place: int = 1) -> None:
    """A row of a message and of its body, as old as that."""
    identity = _core.first_id_at(at_us) + place
    columns = (
        "tenant, campaign, sender, recipient, class, kind, encoding, segments, reason, seq, attempt, generation, "
        "counted, flags, due_us, accept_us, expires_us, updated_us"
    )
    zeros = ", ".join(["0"] * len(columns.split(",")))
    async with store.pool.link() as link:
        await link.run(
            f"INSERT INTO messages (id, state, history, {columns}) VALUES ({identity}, {state}, '', {zeros})"  # noqa: S608
        )
        await link.run("INSERT INTO bodies (id, record) VALUES (%s, '')", (identity,))


async def days(store: MySQLStore, table: str) -> list[str]:
    """Names of a table's partitions."""
    async with store.pool.link() as link:
        rows = await link.rows(
            "SELECT PARTITION_NAME FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() "
            "AND TABLE_NAME = %s ORDER BY PARTITION_ORDINAL_POSITION",
            (table,),
        )
    return [str(name) for (name,) in rows]


@pytest.fixture
async def aged(open_store: OpenStore, new_database: Callable[[], str]) -> tuple[MySQLStore, int]:
    """A store in which today's messages are done, one of tomorrow waits, those of the day after are done; and today."""
    store = await open_store(new_database())
    now_us = time.time_ns() // 1000
    for later, state in enumerate((CANCELLED, QUEUED, CANCELLED)):
        await message_at(store, now_us + later * DAY_US, state)
    return store, now_us


async def drop_all(store: MySQLStore, before_us: int) -> None:
    """Prune until nothing is left to prune."""
    while (await store.prune(Kept.MESSAGES, before_us, 1))[0]:
        pass


async def test_a_day_goes_as_a_whole_and_not_while_anything_in_it_may_move(aged: tuple[MySQLStore, int]) -> None:
    store, now_us = aged
    before = await days(store, "messages")
    await drop_all(store, now_us + 2 * DAY_US)
    assert await days(store, "messages") == await days(store, "bodies") == before[1:]
    await drop_all(store, now_us + 3 * DAY_US)
    assert await days(store, "messages") == await days(store, "bodies") == [before[1], *before[3:]]
    async with store.pool.link() as link:
        await link.run("UPDATE messages SET state = %s", (CANCELLED,))
        await drop_all(store, now_us + 3 * DAY_US)
        assert await link.rows("SELECT COUNT(*) FROM messages UNION ALL SELECT COUNT(*) FROM bodies") == [(0,), (0,)]
    # Whatever is past every day made ahead has the last partition, which never goes.
    await drop_all(store, now_us + 400 * DAY_US)
    assert await days(store, "messages") == await days(store, "bodies") == ["pmax"]
    await message_at(store, now_us, QUEUED)
    async with store.pool.link() as link:
        assert await make_ahead(link, now_us + 400 * DAY_US) > 0
        assert await link.rows("SELECT COUNT(*) FROM messages") == [(1,)]


async def test_a_drop_that_ended_between_messages_and_bodies_is_finished(aged: tuple[MySQLStore, int]) -> None:
    store, now_us = aged
    before = await days(store, "messages")
    failpoints.arm("partitions.after_drop:raise")
    with pytest.raises(failpoints.Injected):
        await store.prune(Kept.MESSAGES, now_us + 2 * DAY_US, 1)
    assert (await days(store, "messages"), await days(store, "bodies")) == (before[1:], before)
    assert (await store.prune(Kept.MESSAGES, now_us + 2 * DAY_US, 1))[0]
    assert await days(store, "messages") == await days(store, "bodies") == before[1:]


async def test_who_holds_the_tables_keeps_the_day_and_nobody_waits_behind_it(aged: tuple[MySQLStore, int]) -> None:
    store, now_us = aged
    async with store.pool.link() as reader:
        await reader.run("START TRANSACTION")
        await reader.rows("SELECT COUNT(*) FROM messages")
        began_s = time.monotonic()
        assert not (await store.prune(Kept.MESSAGES, now_us + 2 * DAY_US, 1))[0]
        assert time.monotonic() - began_s < 60
        await message_at(store, now_us, QUEUED, 2)
        await reader.run("ROLLBACK")
    await drop_all(store, now_us + 2 * DAY_US)
    assert len(await days(store, "messages")) == DAYS_AHEAD + 2, "a message of that day moves again"


@pytest.mark.parametrize(
    ("setting", "bad", "good"),
    [
        ("innodb_flush_log_at_trx_commit", "2", "1"),
        ("sync_binlog", "0", "1"),
        ("binlog_format", "'STATEMENT'", "'MIXED'"),
        ("read_only", "1", "0"),
    ],
)
async def test_a_server_below_the_promise_is_seen_and_refused(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str], setting: str, bad: str, good: str
) -> None:
    url = new_database()
    store = await open_store(url)
    assert all(finding.ok for finding in await store.check())
    try:
        mariadb.run(f"SET GLOBAL {setting} = {bad}")
        assert [finding.name for finding in await store.check() if not finding.ok] == [setting]
        await store.close()
        with pytest.raises(ConfigError, match=setting):
            await open_store(url)
    finally:
        mariadb.run(f"SET GLOBAL {setting} = {good}")


async def test_a_wrong_password_is_a_sentence_about_the_settings(open_store: OpenStore, mariadb: MariaDB) -> None:
    mariadb.run("CREATE USER IF NOT EXISTS 'other'@'%' IDENTIFIED BY 'not the one'")
    with pytest.raises(ConfigError, match="Access denied"):
        await open_store(mariadb.url("mysql").replace("longwave@", "other@"))
