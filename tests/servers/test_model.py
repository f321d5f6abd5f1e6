"""The model of the server against the real one: who sees what, who waits for whom, who is undone.

Each test runs on both, so a difference is the model's fault. What differs by intent, its head says.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from asyncmy.errors import MySQLError, OperationalError

from engine.clock import Clock
from engine.stores.mysql import pool
from engine.stores.mysql.address import parse
from engine.stores.mysql.faults import Fault, classify, code_of
from engine.stores.mysql.migrate import migrate
from engine.stores.mysql.pool import Limits, Link
from tests.servers.mariadb import PASSWORD
from tests.servers.model.installed import URL, installed
from tests.servers.model.server import Server
from tests.servers.model.words import make_database

Connect = Callable[[], Awaitable[Link]]
SOON_S = 0.3
RAISE = "UPDATE facts SET value = value + 1 WHERE name = %s"
VALUE = "SELECT value FROM facts WHERE name = 'a'"
TAKE_ID = (
    "INSERT INTO request_ids (tenant, request_id, id, content_hash) VALUES (1, _utf8mb4 x'61', %s, x'"
    + "00" * 16
    + "') ON DUPLICATE KEY UPDATE tenant = tenant"
)
INTO_INBOX = "INSERT INTO inbox (shard, kind, at_us, payload) VALUES (1, 1, 1, x'00')"


@pytest.fixture(params=["mariadb", "model"])
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    limits, opened = Limits(), list[Link]()

    async def connect_to(url: str) -> Link:
        link = Link(await pool.connect(parse(url, PASSWORD, None), limits), 30)
        await link.run("SET SESSION innodb_lock_wait_timeout = 1")
        opened.append(link)
        return link

    async def with_rows(url: str) -> Connect:
        link = await connect_to(url)
        await link.run("REPLACE INTO facts (name, value) VALUES ('a', 1), ('b', 1)")
        return lambda: connect_to(url)

    if request.param == "mariadb":
        url = request.getfixturevalue("new_database")()
        await migrate(parse(url, PASSWORD, None), limits, "test")
        yield await with_rows(url)
    else:
        make_database(tmp_path / "model.db")
        server = Server(tmp_path / "model.db", Clock().now_us)
        with installed(server):
            yield await with_rows(URL)
        server.close()
    for link in opened:
        link.close()


async def begun(connect: Connect) -> Link:
    link = await connect()
    await link.run("BEGIN")
    return link


async def waits(work: Awaitable[Any]) -> asyncio.Task[Any]:
    """What it does is not done soon."""

    async def wait() -> Any:
        return await work

    task = asyncio.ensure_future(wait())
    done, _ = await asyncio.wait([task], timeout=SOON_S)
    assert not done
    return task


async def test_nobody_sees_what_is_not_committed_and_everybody_what_is(connect: Connect) -> None:
    one, other = await begun(connect), await begun(connect)
    await one.run(RAISE, ("a",))
    assert await one.rows(VALUE) == [(2,)]
    assert await other.rows(VALUE) == [(1,)]
    await one.run("COMMIT")
    assert await other.rows(VALUE) == [(2,)]


async def test_a_row_is_waited_for_and_others_are_not(connect: Connect) -> None:
    one, other = await begun(connect), await begun(connect)
    await one.run(RAISE, ("a",))
    assert await other.run(RAISE, ("b",)) == 1
    waiting = await waits(other.run(RAISE, ("a",)))
    await one.run("COMMIT")
    assert await waiting == 1
    assert await other.rows(VALUE) == [(3,)]


async def test_who_waited_looks_again(connect: Connect) -> None:
    one, other = await begun(connect), await begun(connect)
    await one.run(RAISE, ("a",))
    waiting = await waits(other.run("UPDATE facts SET value = 9 WHERE name = 'a' AND value = 1"))
    await one.run("COMMIT")
    assert await waiting == 0
    assert await other.rows(VALUE) == [(2,)]


async def test_crosswise_one_is_undone_and_the_other_goes_on(connect: Connect) -> None:
    one, other = await begun(connect), await begun(connect)
    await one.run(RAISE, ("a",))
    await other.run(RAISE, ("b",))
    waiting = await waits(one.run(RAISE, ("b",)))
    with pytest.raises(OperationalError) as deadlock:
        await other.run(RAISE, ("a",))
    assert classify(deadlock.value) is Fault.AGAIN
    assert code_of(deadlock.value) == 1213
    assert await waiting == 1
    await one.run("COMMIT")
    [rows] = [await (await connect()).rows("SELECT value FROM facts WHERE name IN ('a', 'b') ORDER BY name")]
    assert rows == [(2,), (2,)]


async def test_a_wait_ends_and_undoes_nothing_else(connect: Connect) -> None:
    one, other = await begun(connect), await begun(connect)
    await one.run(RAISE, ("a",))
    await other.run(RAISE, ("b",))
    with pytest.raises(OperationalError) as waited:
        await other.run(RAISE, ("a",))
    assert code_of(waited.value) == 1205
    await other.run("COMMIT")
    assert await one.rows("SELECT value FROM facts WHERE name = 'b'") == [(2,)]


async def test_shared_locks_go_together_and_keep_a_writer_out(connect: Connect) -> None:
    one, other, writer = await begun(connect), await begun(connect), await begun(connect)
    for link in (one, other):
        assert await link.rows(f"{VALUE} LOCK IN SHARE MODE") == [(1,)]
    waiting = await waits(writer.run(RAISE, ("a",)))
    await one.run("COMMIT")
    assert not waiting.done()
    await other.run("ROLLBACK")
    assert await waiting == 1


async def test_a_reader_that_locks_alone_keeps_shared_ones_out(connect: Connect) -> None:
    one, other = await begun(connect), await begun(connect)
    assert await one.rows(f"{VALUE} FOR UPDATE") == [(1,)]
    assert await other.rows(VALUE) == [(1,)], "a plain read waits for nobody"
    waiting = await waits(other.rows(f"{VALUE} LOCK IN SHARE MODE"))
    await one.run("COMMIT")
    assert await waiting == [(1,)]


@pytest.mark.parametrize(("ends", "taken"), [("COMMIT", 0), ("ROLLBACK", 1)])
async def test_the_same_key_waits_for_whoever_inserted_it_first(connect: Connect, ends: str, taken: int) -> None:
    one, other = await begun(connect), await begun(connect)
    assert await one.run(TAKE_ID, (1,)) == 1
    waiting = await waits(other.run(TAKE_ID, (2,)))
    await one.run(ends)
    assert await waiting == taken
    await other.run("COMMIT")
    assert await one.rows("SELECT id FROM request_ids") == [(2 if taken else 1,)]


async def test_numbers_are_given_before_a_commit_and_are_seen_late(connect: Connect) -> None:
    one, other = await begun(connect), await begun(connect)
    first = await one.insert(INTO_INBOX, ())
    second = await other.insert(INTO_INBOX, ())
    assert second > first
    await other.run("COMMIT")
    asked = "SELECT position FROM inbox ORDER BY position"
    assert await other.rows(asked) == [(second,)]
    await one.run("COMMIT")
    assert await other.rows(asked) == [(first,), (second,)]


async def test_what_was_undone_gives_no_number_back(connect: Connect) -> None:
    one = await begun(connect)
    first = await one.insert(INTO_INBOX, ())
    await one.run("ROLLBACK")
    assert await one.insert(INTO_INBOX, ()) > first


async def test_a_connection_that_ends_lets_go_and_leaves_nothing(connect: Connect) -> None:
    one, other = await begun(connect), await begun(connect)
    await one.run(RAISE, ("a",))
    waiting = await waits(other.run(RAISE, ("a",)))
    one.close()
    assert await waiting == 1
    assert await other.rows(VALUE) == [(2,)]


async def test_a_savepoint_takes_back_what_came_behind_it(connect: Connect) -> None:
    one = await begun(connect)
    await one.run(RAISE, ("a",))
    await one.run("SAVEPOINT here")
    await one.run(RAISE, ("a",))
    await one.run("ROLLBACK TO SAVEPOINT here")
    assert await one.rows(VALUE) == [(2,)]
    await one.run("COMMIT")
    assert await one.rows(VALUE) == [(2,)]


async def test_one_that_is_killed_is_undone_and_hears_of_it(connect: Connect) -> None:
    one, other = await begun(connect), await connect()
    await one.run(RAISE, ("a",))
    await other.rows(f"KILL CONNECTION {one.thread_id}")
    await asyncio.sleep(SOON_S)
    assert await other.run(RAISE, ("a",)) == 1
    with pytest.raises((MySQLError, OSError, EOFError)) as gone:
        await one.rows(VALUE)
    assert classify(gone.value) is Fault.LOST
    assert await other.rows(VALUE) == [(2,)]
