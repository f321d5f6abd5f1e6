"""An HTTP server in the test's own loop that says what it likes: connections, but no answers.

Invariants: after `stop` no connection and no task of it is left.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Final

HOST: Final = "127.0.0.1"


class AnsweringServer(ABC):
    """Start with `start`, end with `stop`; what a request gets is the subclass's."""

    _server: asyncio.Server | None = None
    _handlers: set[asyncio.Task[None]]

    async def start(self) -> None:
        """Listen on a free port."""
        self._handlers = set()
        self._server = await asyncio.start_server(self._accept, HOST, 0)

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Cut every connection."""
        assert self._server is not None
        self._server.close()
        for handler in tuple(self._handlers):
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        for _ in range(3):  # transports that were cut close in the turns that follow
            await asyncio.sleep(0)

    @abstractmethod
    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request and do with it what is to be done; returns whether another may follow."""

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.transport.abort()
