"""The MySQL store against what an attacker, a busy day or a careless operator brings."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine import _core
from engine.append import BATCH
from engine.errors import NotReady, Verdict
from engine.stores.mysql import control, sql, transactions
from engine.stores.mysql import pool as pools
from engine.stores.mysql.address import parse
from engine.stores.mysql.partitions import DAYS_AHEAD
from engine.stores.mysql.prune import prune
from engine.stores.store import ID_MAX, Kept
from longwave.v1 import messaging_pb2 as pb
from tests.conformance.stores import House, some
from tests.corridor.engine_fixture import submission
from tests.servers.mariadb import PASSWORD, MariaDB
from tests.stores.conftest import OpenStore
from tests.stores.relay import Relay
from tests.stores.test_mysql_faults import RECIPIENT, WAIT_S, kept, opt_out, own_server, relay, through

__all__ = ["own_server", "relay"]


@pytest.fixture
async def house(relay: Relay, tmp_path: Path, new_database: Callable[[], str]) -> AsyncIterator[House]:
    """A store behind the relay."""
    house = House("mysql", tmp_path, through(new_database(), relay.port))
    await house.open()
    yield house
    await house.store.close()


def numbers(count: int) -> str:
    """A table of the column `seq`, from 1, on every server."""
    return f"(SELECT slot + 1 AS seq FROM opt_out_slots WHERE slot < {count}) AS numbers"  # noqa: S608 - a number


def answers(admission: _core.Admission) -> list[tuple[int, str]]:
    """(verdict, name) of each submission of the one call."""
    [(_, response, *_)] = admission.replies()
    return [(result.verdict, result.message) for result in pb.SubmitMessagesResponse.FromString(response).results]


async def test_a_whole_group_of_one_tenant_is_stored(house: House) -> None:
    """Its first events are longer than a statement may be."""
    calls = []
    for first in range(0, 5000, 1000):
        submissions = [submission(index, client_reference="r" * 128) for index in range(first, first + 1000)]
        request = pb.SubmitMessagesRequest(submissions=submissions).SerializeToString()
        calls.append((BATCH, house.tenant, request))
    now_us = house.clock.now_us()
    admission = house.admitter.admit(calls, house.registry, _core.Consent([]), now_us, 1000)
    assert admission.accepted == 5000
    await house.store.append(admission, now_us)
    rows, _ = await house.store.events(house.tenant, 0, 100)
    told = pb.WatchEventsResponse.FromString(b"".join(rows)).events
    assert sorted(event.message for event in told) == sorted(
        f"messages/{_core.short_id(identity)}" for identity in admission.ids()
    )


async def test_what_another_call_of_an_undone_group_had_is_never_answered(
    house: House, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that comes again while its first call still waits for a server that dies under both."""
    monkeypatch.setattr(transactions, "RETRY_S", 0.3)
    first, again = (house.admit(*some(1, request_id="same")) for _ in range(2))

    def cut(statement: bytes) -> str:
        if not statement.startswith(b"UPDATE lanes"):
            return ""
        relay.refusing = True
        return "before"

    relay.cut = cut
    stored = [house.store.append(admission, house.clock.now_us()) for admission in (first, again)]
    for future in stored:
        with pytest.raises(NotReady):
            await future
    for admission in (first, again):
        admission.refuse_all(int(Verdict.NOT_READY), "nothing was stored", 0)
        assert [verdict for verdict, _ in answers(admission)] == [Verdict.NOT_READY]
    relay.refusing, relay.cut = False, lambda _statement: ""


async def test_a_run_that_comes_again_asks_the_store_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the call before it would have stored is not there when that one is refused after all."""
    first, again = (house.admit(*some(1, request_id="same")) for _ in range(2))
    failing = iter([True, True])  # of both together, then of the first alone
    whole = transactions.Transaction.put

    async def put(tx: transactions.Transaction, head: str, rows: Sequence[tuple[Any, ...]], tail: str = "") -> int:
        if head.startswith("INSERT INTO events") and next(failing, False):
            raise ValueError
        return await whole(tx, head, rows, tail)

    monkeypatch.setattr(transactions.Transaction, "put", put)
    results = await asyncio.gather(
        *(house.store.append(admission, house.clock.now_us()) for admission in (first, again)), return_exceptions=True
    )
    assert isinstance(results[0], ValueError)
    assert results[1] is None
    [(verdict, name)] = answers(again)
    assert verdict == Verdict.ACCEPTED
    [identity] = again.ids()
    assert name == f"messages/{_core.short_id(identity)}"
    assert await house.state_of(identity) == 1


# Owners.


async def test_a_node_that_lost_its_number_stores_nothing_more(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    """Its lease ran out while it slept; what it took in now would have the ids of another."""
    url = new_database()
    ends: list[BaseException] = []
    first = await open_store(url, fatal=ends, node=5)
    assert (await opt_out(first))[2]
    mariadb.run(f"UPDATE {url.rpartition('/')[2]}.nodes SET expires_us = 0 WHERE node = 5")  # noqa: S608 - our own
    second = await open_store(url, node=5)
    with pytest.raises(NotReady, match="nothing was stored"):
        await opt_out(first, RECIPIENT + 1)
    with pytest.raises(NotReady):
        await first.run_control(lambda _connection: None)
    assert first.ended
    assert len(ends) == 1
    assert (await opt_out(second, RECIPIENT + 1))[2]
    assert await kept(second) == (2, 2)


async def test_a_machine_that_is_gone_keeps_the_store_for_a_moment_only(
    open_store: OpenStore, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server hears no end of its connections, and TCP gives up after two hours."""
    monkeypatch.setattr(pools, "SETUP", (*pools.SETUP, "SET SESSION wait_timeout = 2"))
    url = new_database()
    first = await open_store(url)
    # In the middle of a transaction.
    gone = pools.Link(await pools.connect(first.place.primary, first.place.limits), 1)
    await gone.run("BEGIN")
    await gone.rows("SELECT * FROM lanes FOR UPDATE")
    await gone.rows("SELECT * FROM leases LOCK IN SHARE MODE")
    await asyncio.sleep(3)
    second = await open_store(url)
    assert (run := await second.begin_run()) is not None
    assert run.epoch == 1
    gone.close()


# A server that hangs.


async def test_a_control_transaction_is_given_up_with_a_server_that_hangs(
    own_server: MariaDB, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "RETRY_S", 0.1)
    store = await open_store(own_server.create_database("hangs"), connect_s=0.5, statement_s=0.5)
    await store.run_control(lambda connection: connection.exec_driver_sql("SELECT 1").all())
    own_server.freeze()
    await asyncio.sleep(0.2)  # until its threads stand still
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(NotReady):
            await store.run_control(lambda connection: connection.exec_driver_sql("SELECT 1").all())
    own_server.thaw()
    assert (await opt_out(store))[2]


async def test_a_server_that_hangs_is_not_asked_on_every_idle_connection(
    own_server: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PING_S", 0.3)
    monkeypatch.setattr(pools, "PING_AFTER_S", 0)
    pool = pools.Pool(parse(own_server.url("mysql"), PASSWORD, None), pools.Limits(8, 8, 0.3, 60.0))
    await pool.open()
    own_server.freeze()
    await asyncio.sleep(0.2)
    async with asyncio.timeout(2):
        with pytest.raises(TimeoutError):
            async with pool.link():
                pass
    assert pool.open_count == 0
    own_server.thaw()
    await pool.close()


# A server that was set up for others.


async def test_a_server_set_up_for_others_changes_nothing(own_server: MariaDB, open_store: OpenStore) -> None:
    own_server.run(
        "SET GLOBAL sql_safe_updates = 1",
        "SET GLOBAL sql_select_limit = 1",
        "SET GLOBAL completion_type = 1",
        "SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'",
        "SET GLOBAL unique_checks = 0",
        "SET GLOBAL time_zone = '+09:00'",
        "SET GLOBAL character_set_server = 'latin1'",
        "SET GLOBAL autocommit = 0",
        "SET GLOBAL TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    )
    store = await open_store(own_server.create_database("others"))
    assert (run := await store.begin_run()) is not None
    assert run.epoch == 1
    for line in range(3):
        assert (await opt_out(store, RECIPIENT + line))[2]
    assert await kept(store) == (3, 3)


async def test_a_primary_of_yesterday_is_left(own_server: MariaDB, open_store: OpenStore) -> None:
    """Nothing is written while the gate is shut, so the gate's own look has to find the new one."""
    store = await open_store(own_server.create_database("yesterday"))
    own_server.run("SET GLOBAL read_only = 1")
    assert not all(finding.ok for finding in await store.check())
    assert store.pool.open_count == 0
    own_server.run("SET GLOBAL read_only = 0")
    assert all(finding.ok for finding in await store.check())


# Much of everything.


@pytest.mark.parametrize("kind", [Kept.WEBHOOK_EVENTS, Kept.UNKNOWN_WEBHOOKS, Kept.EARLY_RECEIPTS])
async def test_pruning_looks_at_few_rows_when_none_is_old(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str], kind: Kept
) -> None:
    url = new_database()
    store = await open_store(url)
    columns = [
        (name, "1000" if "int" in kind_of else "seq")
        for name, kind_of, *_ in mariadb.run(f"SHOW COLUMNS FROM {kind.value}", database=url.rpartition("/")[2])
        if name != "position"
    ]
    names, values = ", ".join(name for name, _ in columns), ", ".join(value for _, value in columns)
    fill = f"INSERT INTO {kind.value} ({names}) SELECT {values} FROM {numbers(2000)}"  # noqa: S608 - names of columns
    mariadb.run(fill, database=url.rpartition("/")[2])
    asked = f"SELECT COUNT(*), MIN(position) FROM {kind.value}"  # noqa: S608 - a name
    [(_, first)] = mariadb.run(asked, database=url.rpartition("/")[2])
    async with store.pool.link() as link:
        await link.run("FLUSH STATUS")
        assert not await prune(transactions.Transaction(link), kind, 1000, 50)
        reads = await link.rows("SHOW SESSION STATUS LIKE 'Handler_read%'")
        assert sum(int(count) for _, count in reads) < 300
        assert await prune(transactions.Transaction(link), kind, 1001, 50)
        assert await link.rows(asked) == [(1950, first + 50)]


async def test_the_age_of_the_log_is_found_by_a_row_of_each_slot(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    store = await open_store(url)
    assert await store.oldest_event_us() is None
    fill = f"INSERT INTO events SELECT seq % 16, seq, seq % 48, 5000 - seq % 7, x'00' FROM {numbers(4000)}"  # noqa: S608 - our own
    mariadb.run(fill, "DELETE FROM events WHERE position < 100", database=url.rpartition("/")[2])
    before = mariadb.run("SHOW GLOBAL STATUS LIKE 'Handler_read%'")
    assert await store.oldest_event_us() == 5000 - 6
    after = mariadb.run("SHOW GLOBAL STATUS LIKE 'Handler_read%'")
    assert sum(int(count) for _, count in after) - sum(int(count) for _, count in before) < 1000


async def test_a_start_reads_as_long_as_it_takes(
    open_store: OpenStore, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(new_database(), statement_s=0.5)
    await opt_out(store)
    for name in ("SELECT_OPT_OUTS", "SELECT_BARRIERS_OPEN"):
        monkeypatch.setattr(sql, name, f"{getattr(sql, name)} HAVING SLEEP(0.7) = 0")
    assert await store.opt_outs() == [(7, RECIPIENT)]
    assert await store.barriers_open() == [(7, RECIPIENT)]


async def test_callers_who_read_leave_connections_to_the_work(
    open_store: OpenStore, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(new_database(), size_max=8)
    monkeypatch.setattr(sql, "SELECT_OPT_OUTS_OF", "SELECT SLEEP(0.5), %s, %s, %s")
    reading = [asyncio.ensure_future(store.opt_outs_of(7, 0, 1)) for _ in range(40)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(2):
        assert (await opt_out(store))[2]
    assert not all(read.done() for read in reading)
    for read in reading:
        read.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


async def test_a_backup_that_holds_the_tables_keeps_no_start_out(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    database = url.rpartition("/")[2]
    await (await open_store(url)).close()
    # As after weeks without a start: days are missing.
    asked = (
        "SELECT PARTITION_NAME FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND "
        "TABLE_NAME = 'messages' AND PARTITION_NAME <> 'pmax'"
    )
    days = mariadb.run(asked, database=database)
    mariadb.run(f"ALTER TABLE messages DROP PARTITION {', '.join(name for (name,) in days)}", database=database)
    with closing(mariadb.connect(database)) as backup, backup.cursor() as cursor:
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        cursor.execute("SELECT COUNT(*) FROM messages")
        async with asyncio.timeout(10):
            store = await open_store(url)
        assert (await opt_out(store))[2]
        backup.rollback()
    await store.close()
    await open_store(url)
    assert len(mariadb.run(asked, database=database)) == DAYS_AHEAD + 1


async def test_a_start_brings_look_ups_forward_in_few_statements(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    """Attempts are written down in the same lane, and a start after a night has tens of thousands."""
    url = new_database()
    database = url.rpartition("/")[2]
    store = await open_store(url)
    names = "id, tenant, campaign, sender, recipient, class, kind, encoding, segments, state, reason, seq, attempt, "
    names += "generation, counted, flags, due_us, accept_us, expires_us, updated_us, history"
    fill = f"INSERT INTO messages ({names}) SELECT seq, 1, 1, 1, seq, 1, 1, 1, 1, 3, 1, 3, 1, 1, 0, 0, seq, 1, 1, 1, ''"
    mariadb.run(f"{fill} FROM {numbers(3000)}", "ANALYZE TABLE messages", database=database)
    async with store.pool.link() as link:
        await link.run("FLUSH STATUS")
        asked = sql.SELECT_LATEST_DUE.format(of="")
        assert len(await link.rows(asked, (3, ID_MAX, ID_MAX, ID_MAX, 100))) == 100
        reads = await link.rows("SHOW SESSION STATUS LIKE 'Handler_read%'")
    assert sum(int(count) for _, count in reads) < 300
    [(before,)] = [(int(row[1]),) for row in mariadb.run("SHOW GLOBAL STATUS LIKE 'Com_update'")]
    dues = [(identity - 1 if identity % 2 else identity + 1, identity) for identity in range(1, 3001)]
    await store.hasten_lookups(dues)
    [(after,)] = [(int(row[1]),) for row in mariadb.run("SHOW GLOBAL STATUS LIKE 'Com_update'")]
    assert after - before < 10
    moved = mariadb.run("SELECT SUM(due_us = id - 1), SUM(due_us = id) FROM messages", database=database)
    assert moved == [(1500, 1500)]
