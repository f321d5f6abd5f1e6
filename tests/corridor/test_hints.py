"""Nodes that tell each other over Redis look at once: here they would not look by themselves for longer than a test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.corridor.carrier_process import Carrier
from tests.corridor.engine_fixture import Engine, submission, two_engines
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.timeout(120)
NEVER_S = 1000.0
WAIT_S = 60.0


@pytest.fixture
async def pair(
    carrier: Carrier,
    tmp_path: Path,
    new_database: Callable[[], str],
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Engine, Engine]]:
    """The owner of all, and one that comes to share with it; neither looks unless it is told."""
    monkeypatch.setattr("engine.duty.INBOX_S", NEVER_S)
    monkeypatch.setattr("engine.look_up.LOOK_S", NEVER_S)
    async with two_engines(tmp_path, carrier.base_url, new_database(), redis_url=redis_server.url) as engines:
        yield engines


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
