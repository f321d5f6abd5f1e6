"""A relay between the engine and its MySQL server that cuts a connection where a test says.

It reads just so much of the protocol: a client's packet is four bytes of head (length, number), a byte that says which
command, and its text. It changes nothing that it lets through.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

QUERY: Final = 3
HEAD_BYTES: Final = 4


class Relay:
    """Listens on a port of its own, from `start` to `stop`."""

    def __init__(self, port: int) -> None:
        """Relay to a server on `port` of this machine."""
        self.server_port = port
        """Where new connections go."""
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut: Callable[[bytes], str] = lambda _statement: ""
        """Says of each statement: `before` (it never arrives), `after` (its answer never does), empty."""
        self.cuts = 0
        """Connections that were cut."""
        self.refusing = False
        """Whether new connections are ended at once."""

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._listener is not None
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def stop(self) -> None:
        """End every connection."""
        assert self._listener is not None
        self._listener.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        deaf = asyncio.Event()
        try:
            await asyncio.gather(self._up(reader, server_writer, writer, deaf), self._down(server_reader, writer, deaf))
        except (OSError, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for one in (writer, server_writer):
                with contextlib.suppress(OSError):
                    one.transport.abort()
                self._writers.discard(one)

    async def _up(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        deaf: asyncio.Event,
    ) -> None:
        while True:
            head = await reader.readexactly(HEAD_BYTES)
            body = await reader.readexactly(int.from_bytes(head[:3], "little"))
            where = self.cut(body[1:]) if head[3] == 0 and body[:1] == bytes([QUERY]) else ""
            if where == "before":
                self.cuts += 1
                client.transport.abort()
                raise ConnectionError
            if where == "after":
                self.cuts += 1
                deaf.set()
                client.transport.abort()
            server.write(head + body)
            await server.drain()
            if where == "after":
                # The server has it; it answers nobody.
                await asyncio.sleep(0.2)
                raise ConnectionError

    async def _down(self, server: asyncio.StreamReader, client: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        while data := await server.read(65536):
            if not deaf.is_set():
                client.write(data)
                await client.drain()
        client.transport.abort()
