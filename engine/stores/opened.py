"""Which store the settings name: the one place that knows every kind.

It opens nothing by itself.
"""

from typing import Final

from engine.clock import Clock
from engine.config import Settings
from engine.stores.connection import StoreLock
from engine.stores.embedded import EmbeddedStore
from engine.stores.store import Store

MIB: Final = 1024 * 1024


def store_of(settings: Settings, clock: Clock) -> Store:
    """The store that `LONGWAVE_STORE_URL` names, to be opened. Raises ConfigError for one that this version lacks."""
    return EmbeddedStore(
        settings.store_file,
        clock,
        reserve_bytes=settings.reserve_file_mib * MIB,
        group_weight_max=settings.group_messages_max,
    )


def kind_of(settings: Settings) -> str:
    """The word for its kind in metrics."""
    return settings.store_url.partition(":")[0]


def refuse_if_served(settings: Settings) -> None:
    """Raises StoreLocked when a process serves this store already, and only one can."""
    if settings.store_file.exists():
        StoreLock(settings.store_file).release()
