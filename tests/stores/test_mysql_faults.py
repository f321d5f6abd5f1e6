"""The MySQL store when the server, the way to it or another session fails it: nothing is lost, nothing twice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from engine.errors import NotReady
from engine.stores.mysql import control, transactions
from engine.stores.mysql.store import MySQLStore
from engine.stores.store import OPT_OUT_API, Stretch
from tests.servers.mariadb import MariaDB, quick_folder
from tests.stores.conftest import OpenStore
from tests.stores.relay import Relay

TENANT = 7
RECIPIENT = 12025550100
WAIT_S = 30
# The server's table of transactions stays as it was while it is read more often than each 0.1 s.
STALE_S = 0.2


@pytest.fixture
async def relay(mariadb: MariaDB) -> AsyncIterator[Relay]:
    found = Relay(mariadb.port)
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def own_server(server_kind: type[MariaDB]) -> Iterator[MariaDB]:
    """A server that a test may kill."""
    with quick_folder() as folder:
        server = server_kind(folder / "server")
        server.start()
        yield server
        server.remove()


def through(url: str, port: int) -> str:
    """The same database by another way."""
    head, _, database = url.rpartition("/")
    return f"{head.rpartition(':')[0]}:{port}/{database}"


async def opt_out(store: MySQLStore, recipient: int = RECIPIENT) -> tuple[int, int, bool]:
    async with asyncio.timeout(WAIT_S):
        return await store.add_opt_out(TENANT, recipient, OPT_OUT_API, 1, "asked")


async def kept(store: MySQLStore) -> tuple[int, int]:
    """(opt-outs, events told of them)."""
    rows, _ = await store.events(TENANT, 0, 1000)
    return len(await store.opt_outs()), len(rows)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_commit_without_answer_is_read_back(
    open_store: OpenStore, relay: Relay, new_database: Callable[[], str], where: str
) -> None:
    store = await open_store(through(new_database(), relay.port))
    relay.cut = lambda statement: where if statement == b"COMMIT" and not relay.cuts else ""
    assert (await opt_out(store))[2]
    assert relay.cuts == 1
    assert await kept(store) == (1, 1)


async def test_a_commit_is_read_back_when_the_server_can_be_reached_again(
    open_store: OpenStore, relay: Relay, new_database: Callable[[], str]
) -> None:
    store = await open_store(through(new_database(), relay.port))

    def cut(statement: bytes) -> str:
        if statement != b"COMMIT" or relay.cuts:
            return ""
        relay.refusing = True
        return "after"

    relay.cut = cut
    stored = asyncio.ensure_future(opt_out(store))
    # Longer than transactions are run again: what may be stored is never called not stored.
    await asyncio.sleep(1)
    assert not stored.done()
    relay.refusing = False
    assert (await stored)[2]
    assert await kept(store) == (1, 1)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_control_commit_without_answer_is_read_back(
    open_store: OpenStore, relay: Relay, new_database: Callable[[], str], where: str
) -> None:
    from engine.registry import tenants  # noqa: PLC0415 - the only test of it here

    store = await open_store(through(new_database(), relay.port))
    await store.run_control(lambda connection: tenants.create_tenant(connection, "first", "First", now_us=1))
    relay.cut = lambda statement: where if statement.upper() == b"COMMIT" and not relay.cuts else ""
    made = await store.run_control(lambda connection: tenants.create_tenant(connection, "acme", "Acme", now_us=1))
    assert relay.cuts == 1
    found = await store.run_control(lambda connection: tenants.find_tenant(connection, "acme"))
    assert found.key == made.key


@pytest.mark.parametrize("statement", [b"BEGIN", b"SELECT slot", b"INSERT INTO opt_outs", b"UPDATE lanes"])
@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_connection_lost_before_the_commit_costs_a_second_run(
    open_store: OpenStore, relay: Relay, new_database: Callable[[], str], statement: bytes, where: str
) -> None:
    store = await open_store(through(new_database(), relay.port))
    relay.cut = lambda sent: where if sent.startswith(statement) and not relay.cuts else ""
    assert (await opt_out(store))[2]
    assert relay.cuts == 1
    assert await kept(store) == (1, 1)


async def test_a_deadlock_is_run_again(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    store = await open_store(url)
    database = url.rpartition("/")[2]
    with closing(mariadb.connect(database)) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        # The server undoes the one who wrote less: that is not this one.
        for number in range(200):
            cursor.execute("INSERT INTO carriers (recipient, carrier, learned_us) VALUES (%s, 1, 1)", (number,))
        cursor.execute("SELECT slot FROM event_slots WHERE slot = %s FOR UPDATE", (TENANT % 16,))
        stored = asyncio.ensure_future(opt_out(store))
        await until_waiting(mariadb)
        await asyncio.to_thread(cursor.execute, "SELECT slot FROM opt_out_slots FOR UPDATE")
        other.rollback()
    assert (await stored)[2]
    assert await kept(store) == (1, 1)


async def until_waiting(mariadb: MariaDB) -> None:
    """Until a transaction waits for another's lock."""
    async with asyncio.timeout(WAIT_S):
        while not mariadb.run("SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(STALE_S)


async def test_a_connection_killed_in_its_transaction_costs_a_second_run(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    store = await open_store(url)
    with closing(mariadb.connect(url.rpartition("/")[2])) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT slot FROM event_slots WHERE slot = %s FOR UPDATE", (TENANT % 16,))
        stored = asyncio.ensure_future(opt_out(store))
        await until_waiting(mariadb)
        [(waiting,)] = mariadb.run(
            "SELECT t.trx_mysql_thread_id FROM information_schema.INNODB_TRX AS t WHERE t.trx_state = 'LOCK WAIT'"
        )
        mariadb.run(f"KILL {waiting}")
        other.rollback()
    assert (await stored)[2]
    assert await kept(store) == (1, 1)


async def test_a_row_held_for_long_delays_and_loses_nothing(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.stores.mysql import pool  # noqa: PLC0415 - patched

    monkeypatch.setattr(pool, "SETUP", (*pool.SETUP, "SET SESSION innodb_lock_wait_timeout = 1"))
    url = new_database()
    store = await open_store(url)
    with closing(mariadb.connect(url.rpartition("/")[2])) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT slot FROM opt_out_slots FOR UPDATE")
        stored = asyncio.ensure_future(opt_out(store))
        await until_waiting(mariadb)
        await asyncio.sleep(1.5)  # a wait for the lock runs out in between
        other.rollback()
    assert (await stored)[2]
    assert await kept(store) == (1, 1)


async def test_work_that_cannot_be_stored_in_time_is_refused_as_not_stored(
    open_store: OpenStore, relay: Relay, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "RETRY_S", 0.3)
    monkeypatch.setattr(control, "RETRY_S", 0.3)
    store = await open_store(through(new_database(), relay.port))
    relay.refusing = True
    relay.cut = lambda _statement: "before"
    with pytest.raises(NotReady):
        await opt_out(store)
    with pytest.raises(NotReady):
        await store.run_control(lambda _connection: None)
    relay.refusing, relay.cut = False, lambda _statement: ""
    assert await kept(store) == (0, 0)
    assert (await opt_out(store))[2]


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.view(TENANT, 1),
        lambda store: store.views(TENANT, Stretch(2**62, 0, 0, (), 0, 10, 100)),
        lambda store: store.opt_outs_of(TENANT, 0, 10),
        lambda store: store.events(TENANT, 0, 10),
        lambda store: store.event_bounds(TENANT),
        lambda store: store.shared.consents(0, 10),
    ],
    ids=["view", "views", "opt-outs", "events", "event bounds", "consents"],
)
async def test_what_cannot_be_read_in_time_is_not_ready_and_no_bug(
    open_store: OpenStore, relay: Relay, new_database: Callable[[], str], read: Callable[[MySQLStore], Any]
) -> None:
    store = await open_store(through(new_database(), relay.port))
    relay.refusing = True
    relay.cut = lambda _statement: "before"
    with pytest.raises(NotReady, match="does not answer"):
        await read(store)
    relay.refusing, relay.cut = False, lambda _statement: ""
    await read(store)


async def test_a_killed_server_loses_nothing_it_answered(own_server: MariaDB, open_store: OpenStore) -> None:
    store = await open_store(own_server.create_database("killed"), connect_s=1.0)
    answered: set[int] = set()

    async def write(first: int) -> None:
        for recipient in range(first, first + 40):
            await opt_out(store, recipient)
            answered.add(recipient)

    async def kill() -> None:
        while len(answered) < 20:  # noqa: ASYNC110 - whatever was answered by then
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)

    await asyncio.gather(kill(), *[write(RECIPIENT + 1000 * writer) for writer in range(4)])
    stored = {recipient for _, recipient in await store.opt_outs()}
    assert stored == answered
    assert await kept(store) == (160, 160)


async def test_a_frozen_server_delays_and_loses_nothing(own_server: MariaDB, open_store: OpenStore) -> None:
    store = await open_store(own_server.create_database("frozen"), connect_s=0.5, statement_s=0.5)
    await opt_out(store)
    own_server.freeze()
    stored = asyncio.ensure_future(opt_out(store, RECIPIENT + 1))
    await asyncio.sleep(2)
    assert not stored.done()
    own_server.thaw()
    assert (await stored)[2]
    assert await kept(store) == (2, 2)


async def test_a_primary_that_turns_read_only_is_written_to_when_it_is_back(
    own_server: MariaDB, open_store: OpenStore
) -> None:
    url = own_server.create_database("switched")
    # Without the privilege to write all the same.
    own_server.run(
        "CREATE USER 'plain'@'%' IDENTIFIED BY 'spoken-softly'",
        "GRANT ALL ON switched.* TO 'plain'@'%'",
        "GRANT REPLICATION CLIENT ON *.* TO 'plain'@'%'",
    )
    store = await open_store(url.replace("longwave@", "plain@"))
    await opt_out(store)
    own_server.run("SET GLOBAL read_only = 1")
    stored = asyncio.ensure_future(opt_out(store, RECIPIENT + 1))
    await asyncio.sleep(0.5)
    assert not stored.done()
    assert [finding.name for finding in await store.check() if not finding.ok] == ["read_only"]
    own_server.run("SET GLOBAL read_only = 0")
    assert (await stored)[2]


async def test_too_many_connections_delay_and_refuse_nothing(own_server: MariaDB, open_store: OpenStore) -> None:
    store = await open_store(own_server.create_database("crowded"))
    own_server.run("SET GLOBAL max_connections = 10")
    others = []
    with pytest.raises(Exception, match="Too many connections"):  # noqa: PT012 - however many there is room for
        while True:
            others.append(own_server.connect())
    store.pool.drop()
    stored = asyncio.ensure_future(opt_out(store))
    await asyncio.sleep(0.3)
    for other in others:
        other.close()
    assert (await stored)[2]
