"""Two engines over one MySQL store and one Redis: what one looked up, the other answers without asking the store."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis

from engine.finals_by_hand import clear
from engine.finals_redis import RedisFinals
from engine.finals_seal import Seal, seals_of
from engine.secrets import NamedKey
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.engine_fixture import Engine, submission, two_engines
from tests.corridor.test_finals import delivered, lookups
from tests.hints.test_hints import until
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.timeout(120)
SENDER_OF_OTHER: Final = 12025550999
WAIT_S: Final = 60.0


@pytest.fixture
async def pair(
    carrier: Carrier, tmp_path: Path, new_database: Callable[[], str], redis_server: RedisServer
) -> AsyncIterator[tuple[Engine, Engine]]:
    """Both keep what they look up in one Redis."""
    more = {"redis_url": redis_server.url, "redis_cache": True, "redis_wait_ms": 2000}
    async with two_engines(tmp_path, carrier.base_url, new_database(), **more) as engines:
        yield engines


async def kept_everywhere(engine: Engine) -> None:
    """What it wants to keep in Redis is there."""
    second = engine.corridor.look_up.second_level
    assert isinstance(second, RedisFinals)
    await until(lambda: not second._keeping)


async def test_the_second_node_answers_from_redis_what_the_first_looked_up(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    [identity] = await delivered(owner)
    first = await owner.view(identity)
    await kept_everywhere(owner)
    assert await other.view(identity) == first
    assert await other.view(identity) == first
    assert lookups(owner) == {"store": 1}
    assert lookups(other) == {"redis": 1, "local": 1}


async def test_what_came_from_redis_is_kept_no_longer_than_it_was_there(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    [identity] = await delivered(owner)
    await owner.view(identity)
    await kept_everywhere(owner)
    other.clock.jump(200)
    await other.view(identity)
    other.clock.jump(99)
    await other.view(identity)
    assert lookups(other) == {"redis": 1, "local": 1}
    other.clock.jump(2)
    await other.view(identity)
    assert lookups(other) == {"redis": 1, "local": 1, "store": 1}


async def test_another_tenant_finds_nothing(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    stranger = await owner.make_tenant("other", SENDER_OF_OTHER)
    [identity] = await delivered(owner)
    await owner.view(identity)
    await kept_everywhere(owner)
    for engine in pair:
        assert await engine.corridor.get_message(stranger.key, identity) is None
    assert lookups(other) == {"store": 1}


async def test_what_may_still_move_is_not_kept(
    pair: tuple[Engine, Engine], carrier: Carrier, redis_server: RedisServer
) -> None:
    owner, other = pair
    await carrier.set(**NO_RECEIPTS)
    [identity] = await owner.submit(submission(0))
    await owner.until_states({"SUBMITTED": 1})
    await owner.view(identity)
    await kept_everywhere(owner)
    await other.view(identity)
    assert lookups(other) == {"store": 1}
    async with Redis(port=redis_server.port) as operator:
        assert [name async for name in operator.scan_iter(match="longwave:final:*")] == []


async def test_look_ups_are_answered_whatever_becomes_of_redis(
    pair: tuple[Engine, Engine], redis_server: RedisServer
) -> None:
    owner, other = pair
    ids = await delivered(owner, 3)
    redis_server.freeze()
    await other.view(ids[0])
    redis_server.kill()
    await other.view(ids[1])
    redis_server.start()
    await other.view(ids[2])
    assert lookups(other) == {"store": 3}


async def test_other_secrets_find_nothing(pair: tuple[Engine, Engine]) -> None:
    """After a rotation a node that has the new key reads from the store, and keeps under the new one."""
    owner, other = pair
    [identity] = await delivered(owner)
    await owner.view(identity)
    await kept_everywhere(owner)
    second = other.corridor.look_up.second_level
    assert isinstance(second, RedisFinals)
    second._seal = Seal(NamedKey("k2", bytes(32), 1))
    await other.view(identity)
    assert lookups(other) == {"store": 1}


async def test_clearing_reaches_the_memory_of_nodes(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    [identity] = await delivered(owner)
    await owner.view(identity)
    await kept_everywhere(owner)
    await other.view(identity)
    second = owner.corridor.look_up.second_level
    assert isinstance(second, RedisFinals)
    seals = seals_of(owner.corridor._secrets)
    assert await clear(second._client, seals, message=identity) == 1
    async with asyncio.timeout(WAIT_S):
        # One may be told in the gap between two reads: then it is told again.
        while any(len(engine.corridor.finals) for engine in pair):
            assert await clear(second._client, seals, message=identity) == 0
    await other.view(identity)
    assert lookups(other) == {"redis": 1, "store": 1}
