"""Hints between two nodes over a real Redis, and what they do while it is killed, frozen, emptied, full or shut."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from engine.hints import ENTRIES_MAX, STREAM, Hints
from engine.metrics import Metrics
from engine.redis_access import Access
from engine.redis_place import read
from engine.tls_files import TlsFiles
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.redis_server import TAKES_NOTHING, RedisCluster, RedisServer, SentinelPair

pytestmark = pytest.mark.timeout(300)
WAIT_S = 60.0
# A machine that is busy with other tests answers late.
ANSWER_S = 2.0
PREFIX = "LONGWAVE_REDIS_TLS"
NO_FILES = TlsFiles(PREFIX)


class Node:
    """One of two that tell each other."""

    def __init__(
        self,
        server: RedisServer | SentinelPair | RedisCluster,
        password: str | None = None,
        user: str = "",
        tls: TlsFiles = NO_FILES,
    ) -> None:
        self.metrics = Metrics("test", "mysql")
        self.heard = asyncio.Event()
        self.forgot = asyncio.Event()
        url = server.url.replace("//", f"//{user}@" if user else "//")
        access = Access(read(url), password, tls, ANSWER_S)
        self.hints = Hints(access, self.metrics, self.heard.set, self.forgot.set)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def two(
    server: RedisServer | SentinelPair | RedisCluster,
    password: str | None = None,
    user: str = "",
    tls: TlsFiles = NO_FILES,
) -> AsyncIterator[tuple[Node, Node]]:
    nodes = Node(server, password, user, tls), Node(server, password, user, tls)
    for node in nodes:
        node.hints.start()
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.hints.close()


class Swallowing:
    """A client that fails at the moment at which its caller is cancelled, and tells of that alone."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def xread(self, *_: object, **__: object) -> None:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RedisConnectionError from None

    xadd = xread


async def test_a_client_that_swallows_a_cancellation_holds_up_no_end(redis_server: RedisServer) -> None:
    node, client = Node(redis_server), Swallowing()
    node.hints._listener = node.hints._teller = client
    node.hints.start()
    node.hints.tell()
    await client.asked.wait()
    closing = asyncio.ensure_future(node.hints.close())
    await asyncio.wait([closing], timeout=WAIT_S)
    assert closing.done()
    await closing


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - of counters that nobody signals
            await asyncio.sleep(0.01)


async def until_heard(teller: Node, hearer: Node) -> None:
    """Tell until it is heard, as a node that commits again and again does."""
    before = hearer.value("longwave_hints_total", result="heard")
    async with asyncio.timeout(WAIT_S):
        while hearer.value("longwave_hints_total", result="heard") == before:
            teller.hints.tell()
            await asyncio.sleep(0.01)
    assert hearer.heard.is_set()


async def test_what_one_node_tells_the_other_hears_and_itself_does_not(redis_server: RedisServer) -> None:
    async with two(redis_server) as (first, second):
        await until_heard(first, second)
        assert not first.heard.is_set()
        assert second.value("longwave_redis_up") == 1


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_redis_that_is_gone_is_heard_again_when_it_is_back(redis_server: RedisServer, fault: str) -> None:
    async with two(redis_server) as (first, second):
        await until_heard(first, second)
        getattr(redis_server, fault)()
        second.heard.clear()
        await until(lambda: second.value("longwave_hints_total", result="hear_failed") > 0)
        first.hints.tell()
        await until(lambda: first.value("longwave_hints_total", result="tell_failed") > 0)
        assert second.value("longwave_redis_up") == 0
        redis_server.start() if fault == "kill" else redis_server.thaw()
        # Nobody tells: what was missed meanwhile is looked at all the same.
        await asyncio.wait_for(second.heard.wait(), WAIT_S)
        await until_heard(first, second)
        assert second.value("longwave_redis_up") == 1


@pytest.mark.parametrize(("fault", "healed"), TAKES_NOTHING.values(), ids=TAKES_NOTHING)
async def test_a_redis_that_takes_nothing_is_told_again_later(
    redis_server: RedisServer, fault: tuple[str, ...], healed: tuple[str, ...]
) -> None:
    async with two(redis_server) as (first, second), Redis(port=redis_server.port) as operator:
        await until_heard(first, second)
        await operator.execute_command(*fault)  # type: ignore[no-untyped-call] # any command
        first.hints.tell()
        await until(lambda: first.value("longwave_hints_total", result="tell_failed") > 0)
        await operator.execute_command(*healed)  # type: ignore[no-untyped-call] # any command
        await until_heard(first, second)


async def test_an_emptied_redis_is_heard_on(redis_server: RedisServer) -> None:
    async with two(redis_server) as (first, second), Redis(port=redis_server.port) as operator:
        await until_heard(first, second)
        await operator.flushall()
        await until_heard(first, second)


async def test_the_stream_is_bounded(redis_server: RedisServer) -> None:
    async with two(redis_server) as (first, second), Redis(port=redis_server.port) as operator:
        for _ in range(5 * ENTRIES_MAX):
            await operator.xadd(STREAM, {"by": "x"})
        await until_heard(first, second)
        # Redis trims by whole nodes of 100 entries.
        assert await operator.xlen(STREAM) <= ENTRIES_MAX + 200


def documented_rights(*more: str) -> list[str]:
    """Words of the page's rule, with a password, and with more that it names."""
    page = (Path(__file__).parents[2] / "docs/operations/REDIS.md").read_text(encoding="utf-8")
    [rule] = re.findall(r"`ACL (SETUSER [^`]+)`", page)
    assert all(f"{word}" in page for word in more)
    return [*rule.replace(">…", ">secret").split(), *more]


async def test_the_documented_rights_are_enough(redis_server: RedisServer) -> None:
    assert redis_server.said("ACL", *documented_rights()) == b"OK\n"
    async with two(redis_server, "secret", user="speaker") as (first, second):
        await until_heard(first, second)
        assert first.value("longwave_hints_total", result="tell_failed") == 0
        assert second.value("longwave_hints_total", result="hear_failed") == 0


async def test_a_wrong_password_is_counted_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = RedisServer(tmp_path, "--requirepass", "right-one")
    server.start()
    try:
        async with two(server, "wrong-one") as (first, _):
            first.hints.tell()
            await until(lambda: first.value("longwave_hints_total", result="tell_failed") > 0)
        assert "wrong-one" not in "".join(capsys.readouterr())
        async with two(server, "right-one") as (first, second):
            await until_heard(first, second)
    finally:
        server.kill()


async def test_over_tls_only_a_server_that_is_believed_is_told(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    server = RedisServer(tmp_path, certificates=certificates)
    server.start()
    try:
        async with two(server, tls=TlsFiles(PREFIX, certificates.authority)) as (first, second):
            await until_heard(first, second)
        async with two(server) as (first, _):  # by the system's authorities
            first.hints.tell()
            await until(lambda: first.value("longwave_hints_total", result="tell_failed") > 0)
            assert first.value("longwave_hints_total", result="told") == 0
    finally:
        server.kill()


def asking(kind: str, folder: Path, certificates: Certificates) -> RedisServer | SentinelPair | RedisCluster:
    """Servers that take only who shows a certificate of their authority."""
    home = folder / "servers"
    home.mkdir()
    if kind == "sentinel":
        return SentinelPair(home, certificates)
    if kind == "cluster":
        return RedisCluster(home, certificates)
    return RedisServer(home, certificates=certificates, asks_clients=True)


@pytest.mark.parametrize("kind", ["single", "sentinel", "cluster"])
async def test_servers_that_ask_for_a_certificate_take_only_who_shows_one_they_believe(
    tmp_path: Path, kind: str
) -> None:
    host = "localhost" if kind == "single" else "127.0.0.1"
    trusted, other = (make_certificates(tmp_path / name, host) for name in ("trusted", "other"))
    server = asking(kind, tmp_path, trusted)
    server.start()
    try:
        shown = TlsFiles(PREFIX, trusted.authority, trusted.certificate, trusted.key)
        async with two(server, tls=shown) as (first, second):
            await until_heard(first, second)
            await until(lambda: first.value("longwave_redis_up") == second.value("longwave_redis_up") == 1)
        anothers = TlsFiles(PREFIX, trusted.authority, other.certificate, other.key)
        for refused in (TlsFiles(PREFIX, trusted.authority), anothers):
            async with two(server, tls=refused) as (first, second):
                first.hints.tell()
                await until(lambda: first.value("longwave_hints_total", result="tell_failed") > 0)
                await until(lambda: second.value("longwave_hints_total", result="hear_failed") > 0)
                assert first.value("longwave_hints_total", result="told") == 0
    finally:
        server.kill()


async def test_sentinels_name_the_next_primary(tmp_path: Path) -> None:
    servers = SentinelPair(tmp_path)
    servers.start()
    try:
        async with two(servers) as (first, second):
            await until_heard(first, second)
            servers.primary.kill()
            second.heard.clear()
            await until_heard(first, second)
            async with Redis(port=servers.replica.port) as next_primary:
                assert await next_primary.xlen(STREAM) > 0
                assert (await next_primary.role())[0] in {b"master", "master"}
    finally:
        servers.kill()


async def test_of_a_cluster_the_owner_of_the_streams_slot_counts(tmp_path: Path) -> None:
    cluster = RedisCluster(tmp_path)
    cluster.start()
    try:
        for server in cluster.servers:
            assert server.said("ACL", *documented_rights("+command", "+cluster")) == b"OK\n"
        async with two(cluster, "secret", user="speaker") as (first, second):
            await until_heard(first, second)
            owner = cluster.owner_of(STREAM)
            other = next(server for server in cluster.servers if server is not owner)
            other.kill()
            await until_heard(first, second)
            other.start()
            other.said("ACL", *documented_rights("+command", "+cluster"))
            await until_heard(first, second)
            owner.kill()
            first.hints.tell()
            await until(lambda: first.value("longwave_hints_total", result="tell_failed") > 0)
            owner.start()
            owner.said("ACL", *documented_rights("+command", "+cluster"))
            await until_heard(first, second)
    finally:
        cluster.kill()
