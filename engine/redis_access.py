"""How a Redis is spoken to: one client for each kind of place, and its end.

It knows nothing of what is kept or told there. Invariants: no repr shows a password; a client connects late, tries
once, and waits no longer than it was told.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from engine import redis_place
from engine.config import Settings
from engine.password_file import password
from engine.redis_place import Kind, RedisPlace
from engine.tls_files import TlsFiles

CLUSTER_TRIES_MORE: Final = 3
CANCEL_EVERY_S: Final = 0.5
ERRORS: Final = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Access:
    """A Redis, and how it is spoken to."""

    place: RedisPlace
    password: str | None = field(repr=False)
    tls: TlsFiles
    wait_s: float
    """For a connection, and for an answer."""
    sentinel_password: str | None = field(default=None, repr=False)

    def open(self, more_s: float) -> tuple[Any, list[Any]]:
        """A client whose answers may take `more_s` beyond the wait, and all that is to be closed; it connects late."""
        place = self.place
        common: dict[str, Any] = {
            "socket_connect_timeout": self.wait_s, "socket_timeout": self.wait_s + more_s, "protocol": 2,
        }  # fmt: skip
        if place.tls:
            common |= {"ssl": True} | self._tls_options()
        named: dict[str, Any] = {"username": place.user or None, "password": self.password}
        # Whoever calls waits and tries again by itself.
        once = Retry(NoBackoff(), 0)
        if place.kind is Kind.CLUSTER:
            # Between its tries it finds the nodes anew, and another to ask where things are.
            tries = Retry(NoBackoff(), CLUSTER_TRIES_MORE)
            nodes = [ClusterNode(host, port) for host, port in place.hosts]
            cluster = RedisCluster(startup_nodes=nodes, require_full_coverage=False, retry=tries, **common, **named)
            return cluster, [cluster]
        if place.kind is Kind.SENTINEL:
            asked = common | {"socket_timeout": self.wait_s, "password": self.sentinel_password}
            sentinel = Sentinel(list(place.hosts), sentinel_kwargs=asked, **common, **named)  # type: ignore[no-untyped-call]
            primary = sentinel.master_for(place.service, retry=once)
            return primary, [primary, *sentinel.sentinels]
        [(host, port)] = place.hosts
        single = Redis(host=host, port=port, retry=once, **common, **named)
        return single, [single]

    def _tls_options(self) -> dict[str, str]:
        files = self.tls
        named = {"ssl_ca_certs": files.authorities, "ssl_certfile": files.certificate, "ssl_keyfile": files.key}
        return {option: str(path) for option, path in named.items() if path is not None}


def access_of(settings: Settings) -> Access:
    """To the Redis that `LONGWAVE_REDIS_URL` names; it must name one. Raises ConfigError for a file that is amiss."""
    place = redis_place.read(settings.redis_url)
    files = TlsFiles(
        "LONGWAVE_REDIS_TLS", settings.redis_tls_ca_file, settings.redis_tls_cert_file, settings.redis_tls_key_file
    )
    if place.tls:
        # The client would find out later, and only say that it cannot connect.
        files.context()
    return Access(
        place,
        password("LONGWAVE_REDIS_PASSWORD", settings.redis_password, settings.redis_password_file),
        files,
        settings.redis_wait_ms / 1000,
        password(
            "LONGWAVE_REDIS_SENTINEL_PASSWORD",
            settings.redis_sentinel_password,
            settings.redis_sentinel_password_file,
        ),
    )


async def end(tasks: Iterable[asyncio.Task[Any]], clients: Iterable[Any]) -> None:
    """Cancel what runs on these clients, however often it takes, then close them."""
    left = set(tasks)
    while left:
        # Again and again: a client that fails at the moment of a cancellation tells of its failure instead.
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_EVERY_S)
    for client in clients:
        with contextlib.suppress(*ERRORS):
            await client.aclose()
