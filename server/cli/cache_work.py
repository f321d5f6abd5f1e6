"""What `longwave cache` does with Redis and the store. Loaded by its commands only: the client of Redis is an extra.

Errors of Redis become a sentence that shows no name, text or password.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from engine import finals_by_hand
from engine.clock import Clock
from engine.config import Settings
from engine.errors import Refused
from engine.finals_seal import Seal, seals_of
from engine.redis_access import access_of, end
from engine.secrets import read_secrets
from server.cli import server_store
from server.cli.failure import CliFailure, usage

T = TypeVar("T")

# A SCAN over millions of keys, or a piece of half a MiB, takes longer than a node's look-up may wait.
MORE_S: Final = 10.0
ADVICE: Final = "is it up, and are LONGWAVE_REDIS_URL, LONGWAVE_REDIS_PASSWORD and the rights of its user right?"


def warm(settings: Settings, *, campaign: str, tenant: str, messages_max: int) -> int:
    """Keep the newest messages of a campaign that never change again; returns how many. Raises ConfigError."""
    if not settings.redis_cache:
        raise usage("LONGWAVE_REDIS_CACHE is off: no node would look there; turn it on, here and at every node")

    async def fill(client: Any, seals: list[Seal]) -> int:
        return await server_store.opened(
            settings,
            lambda store: finals_by_hand.warm(
                client,
                seals[0],
                store,
                provider=settings.provider,
                campaign=campaign,
                tenant=tenant,
                messages_max=messages_max,
                now_us=Clock().now_us,
            ),
        )

    return _run(_with_redis(settings, fill))


def clear(settings: Settings, *, message: str, tenant: str) -> int:
    """Remove what is kept of a message or a tenant, or all of it; returns how much. Raises ConfigError."""
    identity = finals_by_hand.message_id(message) if message else None
    if message and identity is None:
        raise usage(f"{message!r} is no message's name: `longwave list` shows some")

    async def remove(client: Any, seals: list[Seal]) -> int:
        key = None
        if tenant:
            key = await server_store.opened(settings, lambda store: finals_by_hand.tenant_key(store, tenant))
        return await finals_by_hand.clear(client, seals, tenant=key, message=identity)

    return _run(_with_redis(settings, remove))


async def _with_redis(settings: Settings, use: Callable[[Any, list[Seal]], Awaitable[T]]) -> T:
    seals = seals_of(read_secrets(settings.secrets_path))
    client, clients = access_of(settings).open(MORE_S)
    try:
        return await use(client, seals)
    except RedisError as error:
        raise CliFailure(f"Redis: {type(error).__name__}\n{ADVICE}") from None
    finally:
        await end((), clients)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return server_store.run(work)
    except Refused as refused:
        raise CliFailure(refused.detail) from None
