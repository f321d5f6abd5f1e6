"""Where Redis is, as `LONGWAVE_REDIS_URL` says: one server, a primary that Sentinels name, or a Cluster.

It connects to nothing and needs no client: settings are checked with it where none is installed.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import unquote, urlsplit

PORT: Final = 6379
SENTINEL_PORT: Final = 26_379
FORMS: Final = (
    "redis://[user@]host:port, redis+sentinel://[user@]host:port,host:port/service or "
    "redis+cluster://[user@]host:port,host:port; with TLS rediss in place of redis"
)


class Kind(Enum):
    """What answers there."""

    SINGLE = ""
    SENTINEL = "sentinel"
    """The hosts are Sentinels, which name the primary of a service."""
    CLUSTER = "cluster"
    """The hosts are some of its nodes."""


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """A URL, taken apart."""

    kind: Kind
    tls: bool
    user: str
    hosts: tuple[tuple[str, int], ...]
    service: str = ""


def read(url: str) -> RedisPlace:
    """Of a URL. Raises ValueError that says which forms there are; a URL with a password is none of them."""
    refused = ValueError(f"write {FORMS}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise refused from None
    client, _, named = parts.scheme.partition("+")
    user, _, places = parts.netloc.rpartition("@")
    service = parts.path.removeprefix("/")
    if client not in {"redis", "rediss"} or parts.query or parts.fragment or ":" in user or "/" in service:
        raise refused
    try:
        kind = Kind(named)
        hosts = tuple(_host(place, SENTINEL_PORT if kind is Kind.SENTINEL else PORT) for place in places.split(","))
    except ValueError:
        raise refused from None
    if (kind is Kind.SENTINEL) != bool(service) or (kind is Kind.SINGLE and len(hosts) > 1):
        raise refused
    return RedisPlace(kind, client == "rediss", unquote(user), hosts, service)


def _host(place: str, port_else: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    port = port_else if parts.port is None else parts.port
    if not parts.hostname or not port or parts.path:
        raise ValueError(place)
    return parts.hostname, port
