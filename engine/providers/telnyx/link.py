"""How Telnyx is reached: where requests go, with which key, under which callback URL, and whose webhooks count.

It renders and reads nothing: `rust_core/src/telnyx/` does, by the table in `rust_core/data/telnyx_errors.tsv`.
"""

from collections.abc import Callable
from typing import Final

from engine import _core
from engine.clock import Clock
from engine.config import Settings
from engine.dispatch import Link
from engine.errors import ConfigError
from engine.http_client import Exchange, HttpPool, PoolLimits, parse_origin
from engine.secrets import Purpose, Secrets
from engine.stores.store import Store

NAME: Final = "telnyx"
# The official SDK's tolerance, both directions.
SIGNATURE_WINDOW_US: Final = 300 * 1_000_000
# Telnyx keeps idempotency keys 24 h; an hour of it is left for clocks and queues.
KEY_WINDOW_US: Final = 23 * 3600 * 1_000_000


async def open_link(settings: Settings, secrets: Secrets, provider: int, store: Store) -> Link:
    """The link as configured; the recipe of today's callback URL and MAC key is stored before anything is sent."""
    newest = secrets.callback[0]
    base = settings.callback_base_url
    recipe = await store.recipe(provider, base, newest.name, _core.RENDERER)
    recipes: dict[int, tuple[str, str, bytes]] = {}
    for key, callback_base, name in await store.recipes(provider, _core.RENDERER):
        secret = secrets.find(Purpose.CALLBACK, name)
        if secret is not None:
            recipes[key] = (callback_base, name, secret)
    origin = parse_origin(settings.telnyx_base_url)
    api_key = settings.telnyx_api_key.get_secret_value() if settings.telnyx_api_key else ""
    return Link(provider, NAME, (origin.path_prefix, origin.authority, api_key), recipe, recipes)


def webhook_keys(settings: Settings, secrets: Secrets) -> _core.WebhookKeys:
    """Whose signatures and MACs are believed; without a public key no webhook is. Raises ConfigError."""
    mac = [(key.name, key.secret) for key in secrets.callback]
    try:
        return _core.WebhookKeys(list(settings.telnyx_public_key), mac, SIGNATURE_WINDOW_US)
    except ValueError as error:
        raise ConfigError([f"LONGWAVE_TELNYX_PUBLIC_KEY: {error}: copy it from the provider's portal"]) from None


def make_pool(
    settings: Settings,
    clock: Clock,
    may_send: Callable[[object], bool],
    on_results: Callable[[list[Exchange]], None],
) -> HttpPool:
    """The connections to Telnyx, within the settings' bounds."""
    limits = PoolLimits(
        connections_max=settings.connections_max,
        connect_s=settings.connect_s,
        first_byte_s=settings.send_s,
        total_s=settings.send_s,
    )
    return HttpPool(settings.telnyx_base_url, on_results, limits=limits, clock=clock, may_send=may_send)
