"""Several processes over one MySQL store: numbers, leases, the fence around what an owner writes, the inbox."""

import asyncio
import dataclasses
import time
from collections.abc import Callable

import pytest

from engine import _core
from engine.errors import NotReady, StoreLocked
from engine.handed import numbers
from engine.stores.mysql import owner
from engine.stores.mysql.store import MySQLStore
from engine.stores.store import OPT_OUT_API, SHARDS, InboxKind, Pulse
from tests.servers.mariadb import MariaDB
from tests.stores.conftest import OpenStore

TENANT, NUMBER = 7, 12025550100
US = 1_000_000


async def number_of(store: MySQLStore) -> int:
    return (await store.shared.join())[0]


async def test_nodes_take_the_lowest_numbers_that_are_free(
    open_store: OpenStore, new_database: Callable[[], str]
) -> None:
    url = new_database()
    first, second, third = [await open_store(url) for _ in range(3)]
    assert [await number_of(store) for store in (first, second, third)] == [1, 2, 3]
    await second.close()
    assert await number_of(await open_store(url)) == 2


async def test_a_number_rests_after_its_lease_ran_out(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    await open_store(url)
    age = "UPDATE nodes SET expires_us = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) - {} WHERE node = 1"
    database = url.rpartition("/")[2]
    mariadb.run(age.format(int((owner.NUMBER_REST_S - 20) * US)), database=database)
    assert await number_of(await open_store(url)) == 2
    mariadb.run(age.format(int((owner.NUMBER_REST_S + 1) * US)), database=database)
    assert await number_of(await open_store(url)) == 1


async def test_a_number_of_its_own_is_waited_for_and_then_refused(
    open_store: OpenStore, new_database: Callable[[], str]
) -> None:
    url = new_database()
    first = await open_store(url, node=5)
    heart = first.heart()

    async def beat() -> None:
        await asyncio.sleep(2 * owner.ASK_EVERY_S)
        await asyncio.to_thread(heart.beat)

    beating = asyncio.ensure_future(beat())
    with pytest.raises(StoreLocked, match=r"node number 5 is in use by .*another LONGWAVE_NODE"):
        await open_store(url, node=5)
    await beating
    await asyncio.to_thread(heart.close)
    opening = asyncio.ensure_future(open_store(url, node=5))
    await first.close()
    assert await number_of(await opening) == 5


async def test_whoever_is_alone_owns_all_and_another_takes_over_when_it_lets_go(
    open_store: OpenStore, new_database: Callable[[], str]
) -> None:
    url = new_database()
    first, second = [await open_store(url) for _ in range(2)]
    run = await first.begin_run()
    assert run is not None
    assert run.shards == tuple(range(SHARDS))
    assert await second.begin_run() is None
    again = await first.begin_run()
    assert again is not None
    assert again.epoch == run.epoch + 1
    await first.close()
    then = await second.begin_run()
    assert then is not None
    assert then.epoch == again.epoch + 1


async def test_nodes_that_send_own_their_share_each(open_store: OpenStore, new_database: Callable[[], str]) -> None:
    url = new_database()
    first = await open_store(url, roles="ingest,dispatch")
    alone = await first.shared.take(all_free=False)
    assert alone is not None
    assert len(alone.shards) == SHARDS
    first.shared.taken_over(alone.shards)
    second, third = [await open_store(url, roles="dispatch,receipts") for _ in range(2)]
    await open_store(url, roles="ingest,receipts")  # sends nothing, so it has no share
    assert await second.shared.take(all_free=False) is None
    share = -(-SHARDS // 3)
    assert await first.shared.above_share() == SHARDS - share
    given = list(range(share, SHARDS))
    first.shared.give_up(given)
    assert first.shared.shards == tuple(range(share))
    await first.shared.give(given)
    assert await first.shared.above_share() == 0
    taken = [await store.shared.take(all_free=False) for store in (second, third)]
    assert [len(run.shards) for run in taken if run] == [share, SHARDS - 2 * share]
    assert sorted(shard for run in taken if run for shard in run.shards) == given
    epochs = [alone.epoch, *(run.epoch for run in taken if run)]
    assert epochs == sorted(set(epochs))
    assert await first.shared.take(all_free=True) is None
    heart = first.heart()
    assert await asyncio.to_thread(heart.beat) == Pulse(node=True, held=True)
    await asyncio.to_thread(heart.close)
    await third.close()
    back = await first.shared.take(all_free=False)
    assert back is not None
    assert len(back.shards) == SHARDS // 2 - share


async def test_what_is_left_to_another_is_taken_after_all(
    open_store: OpenStore, new_database: Callable[[], str]
) -> None:
    url = new_database()
    first, _ = [await open_store(url, roles="dispatch") for _ in range(2)]
    run = await first.shared.take(all_free=False)
    assert run is not None
    assert len(run.shards) == SHARDS // 2
    rest = await first.shared.take(all_free=True)
    assert rest is not None
    assert sorted([*run.shards, *rest.shards]) == list(range(SHARDS))


async def test_leases_that_ran_out_are_taken_and_their_owner_writes_no_more(
    open_store: OpenStore, new_database: Callable[[], str]
) -> None:
    url = new_database()
    first = await open_store(url, lease_s=1)
    second = await open_store(url)
    run = await first.begin_run()
    assert run is not None
    heart = first.heart()
    assert await asyncio.to_thread(heart.beat) == Pulse(node=True, held=True)
    assert await second.begin_run() is None
    async with asyncio.timeout(10):
        while (taken := await second.begin_run()) is None:
            await asyncio.to_thread(time.sleep, 0.1)
    assert taken.epoch == run.epoch + 1
    assert await asyncio.to_thread(heart.beat) == Pulse(node=True, held=False, epoch=taken.epoch)
    await asyncio.to_thread(heart.close)
    with pytest.raises(NotReady, match="another owner"):
        await first.shared.done([1])
    with pytest.raises(NotReady, match="another owner"):
        await first.shared.take_messages([1], [1])


async def test_an_owner_frozen_in_the_middle_of_a_transaction_holds_nobody_up(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    first, second = await open_store(url, lease_s=1), await open_store(url, lease_s=1)
    assert await first.begin_run() is not None
    frozen = mariadb.connect(url.rpartition("/")[2])
    with frozen.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT epoch FROM leases LOCK IN SHARE MODE")
    async with asyncio.timeout(20):
        while await second.begin_run() is None:
            await asyncio.to_thread(time.sleep, 0.1)
    assert await first.shared.join() == (1, 0)
    frozen.close()


async def test_a_heart_without_a_number_hears_so(
    open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    url = new_database()
    store = await open_store(url)
    mariadb.run("UPDATE nodes SET incarnation = 1", database=url.rpartition("/")[2])
    heart = store.heart()
    pulse = await asyncio.to_thread(heart.beat)
    await asyncio.to_thread(heart.close)
    assert not pulse.node


async def test_leases_given_back_are_not_renewed(open_store: OpenStore, new_database: Callable[[], str]) -> None:
    url = new_database()
    first, second = [await open_store(url) for _ in range(2)]
    assert await first.begin_run() is not None
    await owner.give_back(first.pool, dataclasses.replace(first._me))  # and it goes on as if it did not know
    heart = first.heart()
    await asyncio.to_thread(heart.beat)
    await asyncio.to_thread(heart.close)
    assert await second.begin_run() is not None


async def test_what_a_node_stores_is_told_to_the_owner_of_its_shard_until_it_is_done(
    open_store: OpenStore, new_database: Callable[[], str]
) -> None:
    url = new_database()
    first, second = [await open_store(url, roles="dispatch") for _ in range(2)]
    for store in (first, second):
        run = await store.shared.take(all_free=False)
        assert run is not None
        store.shared.taken_over(run.shards)
    assert first.shared.shards == tuple(range(SHARDS // 2))
    await second.add_opt_out(TENANT, NUMBER, OPT_OUT_API, 5, "x")
    theirs = SHARDS - 1
    payloads = [(0, b"one"), (theirs, b"two"), (0, b"three")]
    await second.shared.hand_over(InboxKind.WEBHOOK, 6, payloads)
    [told] = [store for store in (first, second) if _core.opt_out_slot(TENANT, NUMBER) % SHARDS in store.shared.shards]
    [consent] = [row for row in await told.shared.inbox([], 10) if row.kind == InboxKind.CONSENT]
    assert list(numbers(consent.payload)) == [TENANT, NUMBER]
    await told.shared.done([consent.position])
    rows = await first.shared.inbox([], 10)
    assert [(row.shard, row.kind, row.at_us, row.payload) for row in rows] == [(0, 2, 6, b"one"), (0, 2, 6, b"three")]
    assert await first.shared.inbox([rows[0].position], 10) == rows[1:]
    assert await first.shared.inbox_size() == (2, 6)
    await first.shared.done([row.position for row in rows])
    assert await first.shared.inbox_size() == (0, 0)
    assert [row.payload for row in await second.shared.inbox([], 10)] == [b"two"]
    first.shared.give_up([0])
    await second.shared.hand_over(InboxKind.WEBHOOK, 7, [(0, b"four")])
    assert await first.shared.inbox([], 10) == []
    assert [row[1:] for row in await second.shared.consents(0, 10)] == [(TENANT, NUMBER, 1)]


def test_a_process_that_ended_here_is_dead_and_no_other() -> None:
    me = owner.Me(1, "")
    assert not owner.is_dead(me.name)
    host, pid, rest = me.name.rsplit(" ", 2)
    boot, space, began, incarnation = rest.split("-")
    assert owner.is_dead(f"{host} {pid} {boot}-{space}-{int(began) + 1}-{incarnation}")
    assert owner.is_dead(f"{host} 999999999 {rest}")
    for other in (
        f"{host} {pid} other-{space}-1-{incarnation}", f"{host} {pid} {boot}-1-1-{incarnation}", f"{host} {pid} --1",
        "", "words",
    ):  # fmt: skip
        assert not owner.is_dead(other), other
