"""An engine over a MySQL server that dies, freezes or cuts its answers under load: no message is lost, none goes twice.

The store by itself is tested in `tests/stores`; here all stages hand in at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.errors import NotReady, Refused
from loadtest.carrier.signing import key_seed_from
from longwave.v1 import admin_pb2
from server.info import ServerService
from tests.corridor.carrier_process import Carrier
from tests.corridor.engine_fixture import Engine, Signing, recipient, submission
from tests.servers.mariadb import MariaDB, quick_folder
from tests.servers.replication import Replication, replication
from tests.stores.relay import Relay

BATCHES = 12
BATCH = 10
WAIT_S = 60
NO_CONTEXT: Any = None


@pytest.fixture
async def own_server(server_kind: type[MariaDB]) -> AsyncIterator[MariaDB]:
    """A server that a test may kill."""
    with quick_folder() as folder:
        server = server_kind(folder / "server")
        await asyncio.to_thread(server.start)
        yield server
        server.remove()


async def started(folder: Path, url: str, carrier: Carrier, **settings: Any) -> Engine:
    engine = Engine(
        folder, carrier.base_url, Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1))), store_url=url,
        **({"store_connect_s": 1, "store_statement_s": 1} | settings),
    )  # fmt: skip
    await engine.start()
    await engine.make_sample()
    return engine


async def hand_in(engine: Engine, batch: int) -> list[int]:
    """One batch, handed in with the same ids until it is answered."""
    asked = [submission(batch * BATCH + index, request_id=f"{batch}-{index}") for index in range(BATCH)]
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                taken = await engine.call(asked)
            except Refused:
                continue
            if all(one.verdict == "ACCEPTED" for one in taken):
                return [one.id for one in taken]


async def until_delivered(engine: Engine, messages: int) -> None:
    """A server that has been away may not answer a first read in time: whoever asked asks again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await engine.until_states({"DELIVERED": messages})
            except NotReady:
                await asyncio.sleep(0.1)


async def nothing_lost_nothing_twice(engine: Engine, carrier: Carrier, ids: set[int]) -> None:
    assert len(ids) == BATCHES * BATCH
    await until_delivered(engine, len(ids))
    assert {row[0] for row in await engine.rows("SELECT id FROM messages")} == ids
    sent = sorted(record["to"] for record in await carrier.records())
    assert sent == sorted(recipient(index) for index in range(len(ids)))
    assert await engine.rows("SELECT count(*) FROM request_ids") == [(len(ids),)]
    events = [event for event in await engine.events() if event.message]
    by_message: dict[str, list[int]] = {}
    for event in events:
        by_message.setdefault(event.message, []).append(event.seq)
    assert len(by_message) == len(ids)
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in by_message.values())


async def test_a_server_killed_under_load_and_started_again(
    own_server: MariaDB, carrier: Carrier, tmp_path: Path
) -> None:
    """F11."""
    engine = await started(tmp_path, own_server.create_database("killed"), carrier)
    try:
        handing = [asyncio.ensure_future(hand_in(engine, batch)) for batch in range(BATCHES // 2)]
        await handing[0]
        await asyncio.to_thread(own_server.kill)
        handing += [asyncio.ensure_future(hand_in(engine, batch)) for batch in range(BATCHES // 2, BATCHES)]
        await asyncio.to_thread(own_server.start)
        ids = {one for taken in await asyncio.gather(*handing) for one in taken}
        await nothing_lost_nothing_twice(engine, carrier, ids)
    finally:
        await engine.stop()


async def test_a_server_frozen_under_load(own_server: MariaDB, carrier: Carrier, tmp_path: Path) -> None:
    """F13."""
    engine = await started(tmp_path, own_server.create_database("frozen"), carrier)
    try:
        handing = [asyncio.ensure_future(hand_in(engine, batch)) for batch in range(BATCHES)]
        await handing[0]
        own_server.freeze()
        await asyncio.sleep(3)  # statements are given up, others wait
        own_server.thaw()
        ids = {one for taken in await asyncio.gather(*handing) for one in taken}
        await nothing_lost_nothing_twice(engine, carrier, ids)
    finally:
        await engine.stop()


async def test_an_engine_at_d2_takes_nothing_while_no_replica_confirms(carrier: Carrier, tmp_path: Path) -> None:
    def pair_of(stack: ExitStack) -> Replication:
        return stack.enter_context(replication(semi_sync=True))

    with ExitStack() as stack:
        pair = await asyncio.to_thread(pair_of, stack)
        url = pair.source.create_database("d2")
        engine = await started(tmp_path, url, carrier, store_durability="D2", durability_check_s=0.2)
        try:
            info = await ServerService(engine.corridor).GetServerInfo(admin_pb2.GetServerInfoRequest(), NO_CONTEXT)
            assert info.durability_level == admin_pb2.DURABILITY_LEVEL_D2
            ids = set(await hand_in(engine, 0))
            await asyncio.to_thread(pair.unfollow)
            await until_ready(engine, ready=False)
            with pytest.raises(NotReady, match="durability"):
                await engine.call([submission(0, request_id="refused")])
            await asyncio.to_thread(pair.follow)
            await until_ready(engine, ready=True)
            ids |= set(await hand_in(engine, 1))
            await engine.until_states({"DELIVERED": len(ids)})
        finally:
            await engine.stop()


async def test_an_idle_engine_whose_run_the_server_lacks_ends_in_words(
    mariadb: MariaDB, new_database: Callable[[], str], carrier: Carrier, tmp_path: Path
) -> None:
    """F14: its lease finds an epoch before its own, as a promoted replica has it."""
    url = new_database()
    engine = await started(tmp_path, url, carrier, heartbeat_s=0.2)
    try:
        mariadb.run("UPDATE leases SET epoch = epoch - 1", database=url.rpartition("/")[2])
        async with asyncio.timeout(WAIT_S):
            error = await engine.corridor.broken
        assert "the store lacks run 1, which it had confirmed, and has run 0" in str(error)
    finally:
        await engine.stop()


async def until_ready(engine: Engine, *, ready: bool) -> None:
    """Until the engine takes work, or none."""
    async with asyncio.timeout(WAIT_S):
        while (engine.corridor.not_ready() is None) != ready:  # noqa: ASYNC110 - the check's own pace
            await asyncio.sleep(0.02)


async def test_every_third_commit_loses_its_answer(own_server: MariaDB, carrier: Carrier, tmp_path: Path) -> None:
    """F12: half of them never arrive."""
    relay = Relay(own_server.port)
    await relay.start()
    url = own_server.create_database("cut")
    engine = await started(tmp_path, own_server.url(url.rpartition("/")[2], relay.port), carrier)
    commits = 0

    def cut(statement: bytes) -> str:
        nonlocal commits
        if statement.upper() != b"COMMIT":
            return ""
        commits += 1
        return {0: "after", 3: "before"}.get(commits % 6, "")

    try:
        relay.cut = cut
        ids = {one for batch in range(BATCHES) for one in await hand_in(engine, batch)}
        await engine.until_states({"DELIVERED": len(ids)})
        relay.cut = lambda _statement: ""
        assert relay.cuts > 4
        await nothing_lost_nothing_twice(engine, carrier, ids)
    finally:
        await engine.stop()
        await relay.stop()
