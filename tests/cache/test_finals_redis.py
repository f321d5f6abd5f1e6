"""Look-ups kept in a real Redis, and what they cost while it is killed, frozen, emptied, full or replaced."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from engine import finals_redis
from engine.clock import Clock
from engine.finals import KEPT_S, KEPT_US
from engine.finals_by_hand import clear
from engine.finals_redis import IN_FLIGHT_MAX, RedisFinals, Rest
from engine.finals_seal import EVERY, Seal
from engine.metrics import Metrics
from engine.redis_access import Access
from engine.redis_place import read
from engine.secrets import NamedKey
from engine.tls_files import TlsFiles
from tests.hints.test_hints import documented_rights
from tests.servers.certificates import make_certificates
from tests.servers.redis_server import TAKES_NOTHING, RedisCluster, RedisServer, SentinelPair

pytestmark = pytest.mark.timeout(300)
SEAL: Final = Seal(NamedKey("k1", bytes(32), 1))
TEXT: Final = b"what became of it"
# A machine that is busy with other tests answers late; what bounds a wait has one of its own.
PATIENT_S: Final = 2.0
BOUND_S: Final = 0.2
# Of the loop and the machine, beside the bound.
SLACK_S: Final = 0.5
WAIT_S: Final = 60.0
PREFIX: Final = "LONGWAVE_REDIS_TLS"


class Node:
    """One of those that share a Redis."""

    def __init__(self, url: str, *, wait_s: float = PATIENT_S, seal: Seal = SEAL, **more: Any) -> None:
        self.metrics = Metrics("test", "mysql")
        self.clock = SetClock()
        access = Access(read(url), more.get("password"), more.get("tls", TlsFiles(PREFIX)), wait_s)
        self.kept = RedisFinals(access, seal, self.clock, self.metrics)

    def errors(self, doing: str) -> float:
        return self.metrics.registry.get_sample_value("longwave_cache_redis_errors_total", {"doing": doing}) or 0.0

    async def settled(self) -> None:
        """What was to be kept is, or was not taken."""
        while self.kept._keeping:
            await asyncio.wait(set(self.kept._keeping))

    async def keep(self, tenant: int, identity: int, answer: bytes = TEXT, age_us: int = 0) -> None:
        self.kept.keep(tenant, identity, answer, age_us)
        await self.settled()

    async def until_kept(self, tenant: int, identity: int) -> None:
        """Keep it until it is found, as look-ups do."""
        async with asyncio.timeout(WAIT_S):
            while True:
                await self.keep(tenant, identity)
                found = await self.kept.find(tenant, identity)
                if found is not None:
                    assert found[0] == TEXT
                    return
                await asyncio.sleep(0.05)


class SetClock(Clock):
    """A wall clock that may be set."""

    ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us


@asynccontextmanager
async def node(url: str, **more: Any) -> AsyncIterator[Node]:
    made = Node(url, **more)
    try:
        yield made
    finally:
        await made.kept.close()


async def test_one_node_finds_what_another_kept(redis_server: RedisServer) -> None:
    async with node(redis_server.url) as first, node(redis_server.url) as second:
        await first.keep(1, 7)
        found = await second.kept.find(1, 7)
        assert found is not None
        answer, left_us = found
        assert answer == TEXT
        assert KEPT_US - WAIT_S * 1e6 < left_us <= KEPT_US
        assert await second.kept.find(2, 7) is None
        assert await second.kept.find(1, 8) is None
        assert first.errors("keep") == second.errors("find") == 0


async def test_it_is_gone_after_its_time_by_redis_and_by_its_own_word(redis_server: RedisServer) -> None:
    async with node(redis_server.url) as first, Redis(port=redis_server.port) as operator:
        await first.keep(1, 7, age_us=100_000_000)
        name = SEAL.name(1, 7)
        assert KEPT_S - WAIT_S < await operator.ttl(name) <= KEPT_S
        found = await first.kept.find(1, 7)
        assert found is not None
        assert found[1] <= KEPT_US - 100_000_000
        # A Redis that gives it for longer than it was told.
        await operator.persist(name)
        first.clock.ahead_us = 201_000_000
        assert await first.kept.find(1, 7) is None
        # A clock that is behind makes it stay no longer than its whole time.
        first.clock.ahead_us = -1_000_000_000
        found = await first.kept.find(1, 7)
        assert found is not None
        assert found[1] == KEPT_US


async def test_what_somebody_changed_or_moved_is_not_there(redis_server: RedisServer) -> None:
    async with node(redis_server.url) as first, Redis(port=redis_server.port) as operator:
        await first.keep(1, 7)
        await operator.copy(SEAL.name(1, 7), SEAL.name(2, 7))
        assert await first.kept.find(2, 7) is None
        await operator.setrange(SEAL.name(1, 7), 20, b"\x00\x00\x00")
        assert await first.kept.find(1, 7) is None
        await operator.set(SEAL.name(1, 8), "")
        assert await first.kept.find(1, 8) is None


async def test_a_value_of_another_kind_is_a_failure_that_nobody_notices(redis_server: RedisServer) -> None:
    async with node(redis_server.url) as first, Redis(port=redis_server.port) as operator:
        await operator.lpush(SEAL.name(1, 9), "x")
        assert await first.kept.find(1, 9) is None
        assert first.errors("find") == 1


async def test_after_a_rotation_nothing_is_found_and_all_is_kept_anew(redis_server: RedisServer) -> None:
    next_seal = Seal(NamedKey("k2", b"2" * 32, 1))
    async with node(redis_server.url) as old, node(redis_server.url, seal=next_seal) as new:
        await old.keep(1, 7)
        assert await new.kept.find(1, 7) is None
        await new.until_kept(1, 7)
        await old.until_kept(1, 7)


async def test_nothing_readable_is_in_redis(redis_server: RedisServer) -> None:
    async with node(redis_server.url) as first, Redis(port=redis_server.port) as operator:
        await first.keep(12, 34567890123456789)
        keys: Any = await operator.keys("*")
        [name] = keys
        value: Any = await operator.get(name)
        assert name.startswith(b"longwave:final:")
        assert TEXT not in value
        assert b"34567890123456789" not in name


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_redis_that_is_gone_costs_a_bounded_wait_and_then_none(redis_server: RedisServer, fault: str) -> None:
    async with node(redis_server.url, wait_s=BOUND_S) as first:
        await first.until_kept(1, 7)
        getattr(redis_server, fault)()
        waits = []
        for _ in range(20):
            began_s = time.monotonic()
            await first.kept.find(1, 7)
            waits.append(time.monotonic() - began_s)
        assert max(waits) < BOUND_S + SLACK_S
        # One that failed lets the others pass for a second.
        assert sum(waits) < 2 * (BOUND_S + SLACK_S)
        assert 1 <= first.errors("find") <= 2
        first.kept.keep(1, 8, TEXT, 0)  # waits for nobody
        redis_server.start() if fault == "kill" else redis_server.thaw()
        await first.until_kept(1, 7)
    async with node(redis_server.url) as patient:
        patient.kept._rests["find"].failed(0.0)
        await patient.until_kept(1, 7)
        # It rests no more: all are found, not one a second.
        assert None not in [await patient.kept.find(1, 7) for _ in range(20)]


async def test_while_it_is_away_one_look_up_a_second_waits_for_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finals_redis, "REST_S", 0.3)
    async with node(redis_server.url, wait_s=0.1) as first:
        await first.until_kept(1, 7)
        redis_server.freeze()
        await first.kept.find(1, 7)
        before = first.errors("find")
        await asyncio.sleep(0.35)
        began_s = time.monotonic()
        await asyncio.gather(*(first.kept.find(1, 7) for _ in range(20)))
        assert time.monotonic() - began_s < 0.1 + SLACK_S
        assert first.errors("find") == before + 1
        redis_server.thaw()
        await first.until_kept(1, 7)


async def test_many_at_once_do_not_queue_before_a_frozen_redis(redis_server: RedisServer) -> None:
    async with node(redis_server.url, wait_s=BOUND_S) as first:
        await first.until_kept(1, 7)
        redis_server.freeze()
        began_s = time.monotonic()
        await asyncio.gather(*(first.kept.find(1, identity) for identity in range(20 * IN_FLIGHT_MAX)))
        assert time.monotonic() - began_s < BOUND_S + 2 * SLACK_S
        assert first.errors("find") <= IN_FLIGHT_MAX
        for identity in range(20 * IN_FLIGHT_MAX):
            first.kept.keep(1, identity, TEXT, 0)
            assert len(first.kept._keeping) <= IN_FLIGHT_MAX
        redis_server.thaw()


class Dawdling:
    """A client that puts off the end of its cancellation."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def get(self, _name: str) -> bytes | None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue
        return None


async def test_a_client_that_puts_off_its_cancellation_holds_up_no_look_up(redis_server: RedisServer) -> None:
    async with node(redis_server.url, wait_s=BOUND_S) as first:
        client = Dawdling()
        first.kept._client = client
        began_s = time.monotonic()
        assert await first.kept.find(1, 7) is None
        assert time.monotonic() - began_s < BOUND_S + SLACK_S
        client.released.set()


async def test_a_caller_that_is_gone_leaves_nothing_behind(redis_server: RedisServer) -> None:
    async with node(redis_server.url) as first:
        await first.until_kept(1, 7)
        for _ in range(50):
            asked = asyncio.ensure_future(first.kept.find(1, 7))
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        found = await first.kept.find(1, 7)
        assert found is not None
        assert found[0] == TEXT
        async with asyncio.timeout(WAIT_S):  # what nobody waits for ends a little later
            while first.kept._finding:  # noqa: ASYNC110 - each by itself
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(("fault", "healed"), TAKES_NOTHING.values(), ids=TAKES_NOTHING)
async def test_a_redis_that_takes_nothing_still_gives(
    redis_server: RedisServer, fault: tuple[str, ...], healed: tuple[str, ...]
) -> None:
    async with node(redis_server.url) as first, Redis(port=redis_server.port) as operator:
        await first.until_kept(1, 7)
        await operator.execute_command(*fault)  # type: ignore[no-untyped-call] # any command
        await first.keep(1, 8)
        assert first.errors("keep") == 1
        await first.keep(1, 8)
        assert first.errors("keep") == 1, "it rests"
        assert await first.kept.find(1, 7) is not None
        assert first.errors("find") == 0
        await operator.execute_command(*healed)  # type: ignore[no-untyped-call] # any command
        await first.until_kept(1, 8)


async def test_an_emptied_redis_is_filled_again(redis_server: RedisServer) -> None:
    async with node(redis_server.url) as first, Redis(port=redis_server.port) as operator:
        await first.until_kept(1, 7)
        await operator.flushall()
        assert await first.kept.find(1, 7) is None
        await first.until_kept(1, 7)
        assert first.errors("find") == first.errors("keep") == 0


async def test_over_tls_only_a_server_that_is_believed_is_asked(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    server = RedisServer(tmp_path, certificates=certificates)
    server.start()
    try:
        async with node(server.url, tls=TlsFiles(PREFIX, certificates.authority)) as first:
            await first.until_kept(1, 7)
        async with node(server.url) as stranger:  # by the system's authorities
            assert await stranger.kept.find(1, 7) is None
            await stranger.keep(1, 8)
            assert stranger.errors("find") == stranger.errors("keep") == 1
    finally:
        server.kill()


async def test_a_server_that_asks_for_a_certificate_is_shown_one(tmp_path: Path) -> None:
    trusted, other = make_certificates(tmp_path / "trusted"), make_certificates(tmp_path / "other")
    server = RedisServer(tmp_path, certificates=trusted, asks_clients=True)
    server.start()
    try:
        async with node(server.url, tls=TlsFiles(PREFIX, trusted.authority, trusted.certificate, trusted.key)) as first:
            await first.until_kept(1, 7)
        anothers = TlsFiles(PREFIX, trusted.authority, other.certificate, other.key)
        for refused in (TlsFiles(PREFIX, trusted.authority), anothers):
            async with node(server.url, tls=refused) as stranger:
                assert await stranger.kept.find(1, 7) is None
                assert stranger.errors("find") == 1
    finally:
        server.kill()


async def test_a_wrong_password_is_counted_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = RedisServer(tmp_path, "--requirepass", "right-one")
    server.start()
    try:
        async with node(server.url, password="wrong-one") as first:
            assert await first.kept.find(1, 7) is None
            assert first.errors("find") == 1
        said = "".join(capsys.readouterr())
        assert "redis failed" in said
        assert "wrong-one" not in said
        async with node(server.url, password="right-one") as first:
            await first.until_kept(1, 7)
    finally:
        server.kill()


async def test_sentinels_name_the_next_primary(tmp_path: Path) -> None:
    servers = SentinelPair(tmp_path)
    servers.start()
    try:
        async with node(servers.url, wait_s=0.5) as first:
            await first.until_kept(1, 7)
            servers.primary.kill()
            began_s = time.monotonic()
            await first.kept.find(1, 7)
            assert time.monotonic() - began_s < 0.5 + SLACK_S
            await first.until_kept(1, 8)
            async with Redis(port=servers.replica.port) as next_primary:
                assert await next_primary.exists(SEAL.name(1, 8))
    finally:
        servers.kill()


async def test_of_a_cluster_what_lives_on_other_nodes_is_found_on(tmp_path: Path) -> None:
    cluster = RedisCluster(tmp_path)
    cluster.start()
    try:
        async with node(cluster.url, wait_s=1.0) as first:
            for identity in range(30):
                await first.until_kept(1, identity)
            gone = next(server for server in cluster.servers if server.said("DBSIZE") != b"0\n")
            gone.kill()
            async with asyncio.timeout(WAIT_S):
                for identity in range(30):
                    began_s = time.monotonic()
                    await first.kept.find(1, identity)
                    assert time.monotonic() - began_s < 1.0 + SLACK_S
            gone.start()
            for identity in range(30):
                await first.until_kept(1, identity)
    finally:
        cluster.kill()


@pytest.mark.parametrize("kind", ["single", "cluster"])
async def test_what_is_cleared_is_that_and_nothing_else(kind: str, tmp_path: Path) -> None:
    servers: RedisServer | RedisCluster = RedisServer(tmp_path) if kind == "single" else RedisCluster(tmp_path)
    servers.start()
    try:
        async with node(servers.url) as first:
            await cleared_apart(first)
    finally:
        servers.kill()


async def cleared_apart(first: Node) -> None:
    client = first.kept._client
    old = Seal(NamedKey("k0", b"0" * 32, 0))
    await client.set("somebody:else", "x")
    await client.set(old.name(1, 5), "x")
    for tenant, identity in ((1, 5), (1, 6), (2, 7), (2, 8), (2, 9)):
        await first.until_kept(tenant, identity)
    seals = [SEAL, old]
    assert await clear(client, seals, message=5) == 2
    assert await clear(client, seals, message=5) == 0
    assert await clear(client, seals, tenant=2) == 3
    assert await first.kept.find(2, 8) is None
    assert await first.kept.find(1, 6) is not None
    # More than one piece.
    pipeline = client.pipeline(transaction=False)
    for identity in range(1300):
        pipeline.set(SEAL.name(3, identity), "x")
    await pipeline.execute()
    assert await clear(client, seals) == 1301
    assert [name async for name in client.scan_iter(match=EVERY)] == []
    assert await client.get("somebody:else") == b"x"


async def test_clearing_tells_nodes_to_forget(redis_server: RedisServer) -> None:
    async with node(redis_server.url) as first, Redis(port=redis_server.port) as operator:
        await clear(first.kept._client, [SEAL])
        entries: Any = await operator.xrange("longwave:hints")
        [(_, fields)] = entries
        assert fields[b"forget"]


async def test_the_documented_rights_are_enough(redis_server: RedisServer) -> None:
    rights = documented_rights("~longwave:final:*", "+get", "+set", "+scan", "+unlink")
    assert redis_server.said("ACL", *rights) == b"OK\n"
    async with node(redis_server.url.replace("//", "//speaker@"), password="secret") as first:
        await first.until_kept(1, 7)
        assert await clear(first.kept._client, [SEAL]) == 1
        assert first.errors("find") == first.errors("keep") == 0


async def test_clearing_never_blocks_redis(redis_server: RedisServer) -> None:
    """KEYS would hold up everyone while it walks through all there is."""
    async with node(redis_server.url) as first, Redis(port=redis_server.port) as operator:
        await first.until_kept(1, 7)
        await operator.config_resetstat()
        await clear(first.kept._client, [SEAL], tenant=1)
        used = set(await operator.info("commandstats"))
    assert {"cmdstat_scan", "cmdstat_unlink"} <= used
    assert not used & {"cmdstat_keys", "cmdstat_del", "cmdstat_flushdb", "cmdstat_flushall"}


def test_a_rest_lets_one_try_pass_each_time() -> None:
    rest = Rest()
    assert rest.may_try(0.0)
    assert rest.failed(0.0)
    assert not rest.failed(0.0)
    assert not rest.may_try(0.5)
    assert rest.may_try(1.0)
    assert not rest.may_try(1.5)
    assert rest.may_try(2.0)
    rest.succeeded()
    assert rest.may_try(2.0)
    assert rest.may_try(2.0)
