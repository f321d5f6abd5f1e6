"""How a Redis is spoken to: one client for each kind of place, and its end.

It knows nothing of what is kept or told there. Invariants: no repr shows a password; a client connects late, tries
once, and waits no longer than it was told.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from engine import redis_place
from engine.config import Settings
from engine.redis_place import Kind, RedisPlace

CLUSTER_TRIES_MORE: Final = 3
CANCEL_EVERY_S: Final = 0.5
ERRORS: Final = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Access:
    """A Redis, and how it is spoken to."""

    place: RedisPlace
    password: str | None = field(repr=False)
    ca_file: Path | None
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
            common |= {"ssl": True, "ssl_ca_certs": None if self.ca_file is None else str(self.ca_file)}
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


def access_of(settings: Settings) -> Access:
    """To the Redis that `LONGWAVE_REDIS_URL` names; it must name one."""
    return Access(
        redis_place.read(settings.redis_url),
        _shown(settings.redis_password),
        settings.redis_tls_ca_file,
        settings.redis_wait_ms / 1000,
        _shown(settings.redis_sentinel_password),
    )


def _shown(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


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
