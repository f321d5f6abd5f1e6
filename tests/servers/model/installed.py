"""The model in the driver's place: engines of this process that connect to its address reach it."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import asyncmy

from engine.stores.mysql import pool, store
from tests.servers.model.server import USER, Server

# Nothing listens there.
HOST, PORT = "127.0.0.1", 1
URL: Final = f"mysql://{USER}@{HOST}:{PORT}/{USER}"


@contextlib.contextmanager
def installed(server: Server) -> Iterator[None]:
    """Until the end of the context. Its schema is the newest, so nothing migrates it."""

    async def connect(**wanted: Any) -> Any:
        return await (
            server.connect(**wanted) if (wanted["host"], wanted["port"]) == (HOST, PORT) else asyncmy.connect(**wanted)
        )

    async def migrate(*_: object) -> list[str]:
        return []

    with (
        mock.patch.object(pool, "asyncmy", SimpleNamespace(connect=connect)),
        mock.patch.object(store, "migrate", migrate),
    ):
        yield
