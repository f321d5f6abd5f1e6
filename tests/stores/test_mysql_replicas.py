"""A source and its replica: what level D2 asks for, and what a promotion that loses transactions ends in."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest

from engine.errors import ConfigError, NotReady, StoreBroken
from engine.stores.mysql.store import MySQLStore
from engine.stores.store import OPT_OUT_API
from tests.servers.replication import Replication, replication
from tests.stores.conftest import OpenStore
from tests.stores.relay import Relay

TENANT = 7
RECIPIENT = 12025550100
WAIT_S = 30
D2_FINDINGS = "rpl_semi_sync"


@pytest.fixture
def semi_sync() -> Iterator[Replication]:
    with replication(semi_sync=True) as pair:
        yield pair


@pytest.fixture
def asynchronous() -> Iterator[Replication]:
    with replication(semi_sync=False) as pair:
        yield pair


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    """A name of the server to write to: whoever moves it says where."""
    found = Relay(0)
    await found.start()
    yield found
    await found.stop()


async def opt_out(store: MySQLStore, recipient: int = RECIPIENT) -> None:
    async with asyncio.timeout(WAIT_S):
        assert (await store.add_opt_out(TENANT, recipient, OPT_OUT_API, 1, "asked"))[2]


async def bad(store: MySQLStore) -> dict[str, str]:
    """What is below the level now, and how it is."""
    return {finding.name: finding.found for finding in await store.check() if not finding.ok}


async def until(store: MySQLStore, *names: str) -> dict[str, str]:
    """Until just these are below the level."""
    async with asyncio.timeout(WAIT_S):
        while set(found := await bad(store)) != set(names):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)
    return found


async def test_d2_is_good_with_semi_sync_and_its_loss_is_seen(semi_sync: Replication, open_store: OpenStore) -> None:
    url = semi_sync.source.create_database("d2")
    store = await open_store(url, level="D2")
    assert await bad(store) == {}
    await opt_out(store)
    assert await bad(store) == {}

    # The replica leaves: nobody to wait for, and after the next commit nobody is waited for.
    await asyncio.to_thread(semi_sync.unfollow)
    await until(store, "rpl_semi_sync_clients")
    await opt_out(store, RECIPIENT + 1)
    found = await bad(store)
    assert found["rpl_semi_sync_status"] == "OFF"
    assert int(found["commits without a replica since the last look"]) >= 1
    await asyncio.to_thread(semi_sync.follow)
    await until(store)

    # Waiting behind the commit: others see, and act on, what a failover may take back.
    semi_sync.source.run("SET GLOBAL rpl_semi_sync_master_wait_point = 'AFTER_COMMIT'")
    assert await bad(store) == {"rpl_semi_sync_wait_point": "AFTER_COMMIT"}
    semi_sync.source.run("SET GLOBAL rpl_semi_sync_master_wait_point = 'AFTER_SYNC'")
    assert await bad(store) == {}

    semi_sync.source.run("SET GLOBAL rpl_semi_sync_master_enabled = OFF")
    assert "rpl_semi_sync_status" in await bad(store)
    with pytest.raises(ConfigError, match="rpl_semi_sync_status"):
        await open_store(semi_sync.source.create_database("other"), level="D2")


async def test_a_fallback_between_two_looks_is_seen_at_the_next(semi_sync: Replication, open_store: OpenStore) -> None:
    store = await open_store(semi_sync.source.create_database("d2"), level="D2")
    assert await bad(store) == {}
    await asyncio.to_thread(semi_sync.unfollow)
    await opt_out(store)
    await asyncio.to_thread(semi_sync.follow)
    while semi_sync.semi_sync()["Rpl_semi_sync_master_status"] != "ON":  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.05)
    assert set(await bad(store)) == {"commits without a replica since the last look"}
    assert await bad(store) == {}


async def test_a_server_without_semi_sync_is_not_d2(asynchronous: Replication, open_store: OpenStore) -> None:
    url = asynchronous.source.create_database("d1")
    with pytest.raises(ConfigError, match="rpl_semi_sync_status"):
        await open_store(url, level="D2")
    assert await bad(await open_store(url)) == {}


def through(pair: Replication, relay: Relay, database: str) -> str:
    """A database of the pair, by the name that moves."""
    relay.server_port = pair.source.port
    pair.source.create_database(database)
    return pair.source.url(database, relay.port)


async def test_a_lossy_promotion_ends_the_process_in_words(
    asynchronous: Replication, open_store: OpenStore, relay: Relay
) -> None:
    """F14, level D1: what was confirmed is gone, and is not gone in silence."""
    fatal: list[BaseException] = []
    store = await open_store(through(asynchronous, relay, "lossy"), fatal=fatal)
    await store.begin_run()
    await opt_out(store)
    await asyncio.to_thread(asynchronous.catch_up)
    await asyncio.to_thread(asynchronous.unfollow)
    await opt_out(store, RECIPIENT + 1)  # confirmed, and only the source has it
    await asyncio.to_thread(asynchronous.source.kill)
    await asyncio.to_thread(asynchronous.promote)
    relay.server_port = asynchronous.replica.port
    with pytest.raises(NotReady, match="nothing was stored"):
        await opt_out(store, RECIPIENT + 2)
    [error] = fatal
    assert isinstance(error, StoreBroken)
    assert "lacks transactions that it had confirmed" in str(error)
    kept = asynchronous.replica.run("SELECT recipient FROM opt_outs", database="lossy")
    assert kept == [(RECIPIENT,)]
    assert store.ended


async def test_a_lossy_promotion_with_a_commit_under_way_is_seen_by_reading_back(
    asynchronous: Replication, open_store: OpenStore, relay: Relay
) -> None:
    fatal: list[BaseException] = []
    store = await open_store(through(asynchronous, relay, "lossy"), fatal=fatal)
    await opt_out(store)
    await asyncio.to_thread(asynchronous.catch_up)
    await asyncio.to_thread(asynchronous.unfollow)
    await opt_out(store, RECIPIENT + 1)

    def cut(statement: bytes) -> str:
        if statement != b"COMMIT" or relay.cuts:
            return ""
        relay.refusing = True
        return "after"

    relay.cut = cut
    stored = asyncio.ensure_future(opt_out(store, RECIPIENT + 2))
    while not relay.cuts:  # noqa: ASYNC110 - the relay tells nobody
        await asyncio.sleep(0.01)
    await asyncio.to_thread(asynchronous.source.kill)
    await asyncio.to_thread(asynchronous.promote)
    relay.server_port, relay.refusing = asynchronous.replica.port, False
    with pytest.raises(Exception, match="unknown"):
        await stored
    assert "lacks transactions" in str(fatal[0])


async def test_the_control_plane_sees_it_too(asynchronous: Replication, open_store: OpenStore, relay: Relay) -> None:
    store = await open_store(through(asynchronous, relay, "lossy"))
    await asyncio.to_thread(asynchronous.catch_up)
    await asyncio.to_thread(asynchronous.unfollow)
    await store.run_control(lambda _connection: None)
    await asyncio.to_thread(asynchronous.source.kill)
    await asyncio.to_thread(asynchronous.promote)
    relay.server_port = asynchronous.replica.port
    with pytest.raises(NotReady, match="lacks transactions"):
        await store.run_control(lambda _connection: None)


async def test_a_promotion_that_loses_nothing_is_gone_on_with(
    semi_sync: Replication, open_store: OpenStore, relay: Relay
) -> None:
    """F14, level D2: of what was confirmed nothing is lost, whenever the source dies."""
    fatal: list[BaseException] = []
    url = through(semi_sync, relay, "safe")
    store = await open_store(url, level="D2", fatal=fatal)
    confirmed: set[int] = set()

    async def write(first: int) -> None:
        for recipient in range(first, first + 30):
            await opt_out(store, recipient)
            confirmed.add(recipient)

    writing = [asyncio.ensure_future(write(RECIPIENT + 1000 * writer)) for writer in range(4)]
    while len(confirmed) < 20:  # noqa: ASYNC110 - whatever was confirmed by then
        await asyncio.sleep(0.01)
    await asyncio.to_thread(semi_sync.source.kill)
    at_the_kill = set(confirmed)
    await asyncio.to_thread(semi_sync.promote)
    relay.server_port = semi_sync.replica.port
    kept = {row[0] for row in semi_sync.replica.run("SELECT recipient FROM opt_outs", database="safe")}
    assert at_the_kill <= kept
    await asyncio.gather(*writing)
    kept = {row[0] for row in semi_sync.replica.run("SELECT recipient FROM opt_outs", database="safe")}
    assert confirmed == kept
    assert fatal == []
    # The new primary has no replica yet: not D2.
    assert D2_FINDINGS in " ".join(await bad(store))


async def test_the_epoch_that_the_lease_finds_is_the_promoted_servers(
    asynchronous: Replication, open_store: OpenStore, relay: Relay
) -> None:
    """An engine with nothing to write finds it by its lease: the run itself is gone."""
    url = through(asynchronous, relay, "lossy")
    store = await open_store(url)
    await asyncio.to_thread(asynchronous.catch_up)
    await asyncio.to_thread(asynchronous.unfollow)
    run = await store.begin_run()
    assert run is not None
    await asyncio.to_thread(asynchronous.source.kill)
    await asyncio.to_thread(asynchronous.promote)
    relay.server_port = asynchronous.replica.port
    heart = store.heart()

    def read() -> int | None:
        with closing(heart):
            return heart.beat().epoch

    assert (await asyncio.to_thread(read) or 0) < run.epoch
