"""Nodes that tell each other over Redis look at once: here they would not look by themselves for longer than a test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest.carrier.signing import key_seed_from
from tests.corridor.carrier_process import Carrier
from tests.corridor.engine_fixture import Engine, Signing, submission
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.timeout(120)
NEVER_S = 1000.0
WAIT_S = 60.0


@pytest.fixture
async def pair(
    carrier: Carrier, tmp_path: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Engine, Engine]]:
    """The owner, and one that stands by."""
    monkeypatch.setattr("engine.duty.INBOX_S", NEVER_S)
    monkeypatch.setattr("engine.look_up.LOOK_S", NEVER_S)
    server = RedisServer(tmp_path)
    server.start()
    url, signing = new_database(), Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1)))
    owner, other = [Engine(tmp_path, carrier.base_url, signing, store_url=url, redis_url=server.url) for _ in range(2)]
    await owner.start()
    await owner.make_sample()
    other.tenant = owner.tenant
    await other.start()
    yield owner, other
    await other.stop()
    await owner.stop()
    server.kill()


async def test_what_another_node_accepts_is_sent_and_watched_without_waiting_for_the_next_look(
    pair: tuple[Engine, Engine],
) -> None:
    owner, other = pair
    async with asyncio.timeout(WAIT_S):
        for engine in pair:
            while not engine.corridor.metrics.registry.get_sample_value("longwave_redis_up"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        _, newest = await other.corridor.event_bounds(other.tenant_key)
        watching = asyncio.ensure_future(other.corridor.wait_for_events(other.tenant_key, newest + 1, NEVER_S))
        await other.submit(submission(0))
        # One hint may be told in the gap between two reads: who commits again and again is heard.
        number = 1
        while not (await owner.rows("SELECT count(*) FROM messages WHERE state > 2"))[0][0]:
            await other.submit(submission(number))
            number += 1
            await asyncio.sleep(0.1)
        await watching
