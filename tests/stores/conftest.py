"""A MySQL store over the shared server, opened and closed by the test's loop, and work to store in it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from engine.clock import Clock
from engine.stores.mysql.address import parse
from engine.stores.mysql.durability import Level
from engine.stores.mysql.pool import Limits
from engine.stores.mysql.store import MySQLStore, Place
from engine.stores.store import Callbacks
from tests.servers.mariadb import PASSWORD

OpenStore = Callable[..., Awaitable[MySQLStore]]


@pytest.fixture
async def open_store() -> AsyncIterator[OpenStore]:
    """Opens stores that are closed at the end."""
    opened: list[MySQLStore] = []

    async def open_one(
        url: str,
        *,
        fatal: list[BaseException] | None = None,
        node: int | None = None,
        lease_s: float = 30,
        level: Level = "D1",
        replica: str = "",
        roles: str = "",
        **limits: Any,
    ) -> MySQLStore:
        bounds = Limits(**({"size_min": 1} | limits))
        looked_up = parse(replica, PASSWORD, None) if replica else None
        place = Place(parse(url, PASSWORD, None), looked_up, bounds, level, node, lease_s, roles)
        store = MySQLStore(place, Clock(0), group_weight_max=5000)
        opened.append(store)
        ends = [] if fatal is None else fatal
        await store.open(Callbacks(ends.append, lambda _stats: None, lambda _full: None))
        return store

    yield open_one
    for store in opened:
        await store.close()
