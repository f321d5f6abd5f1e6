"""Loops, a scripted TCP server and a raw HTTP client for the tests of the HTTP edges."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import pytest
import uvloop

from engine.metrics import Metrics

WAIT_S = 10


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test of the edges on both loops: production has uvloop, and asyncio says more when misused."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@dataclass
class Peer:
    """The server's end of one connection, driven by a test."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def read_request(self) -> bytes:
        """Read one request: its head and as much body as its Content-Length says."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head + await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def end_unnoticed(self) -> None:
        """Put the end of the stream into the client's kernel within this turn of the loop."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset instead of an orderly end."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client's end is closed."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class ScriptedServer:
    """Runs a script for every connection and keeps what went wrong in it."""

    script: Script
    port: int = 0
    peers: list[Peer] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        peer = Peer(reader, writer, len(self.peers))
        self.peers.append(peer)
        try:
            await self.script(peer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except AssertionError as error:
            self.failures.append(error)
        finally:
            writer.close()


class ServerFactory(Protocol):
    """Starts a scripted server."""

    async def __call__(self, script: Script, port: int = 0) -> ScriptedServer: ...


@pytest.fixture
async def scripted() -> AsyncIterator[ServerFactory]:
    """Start scripted servers on free ports; fails when a script's assertion failed."""
    started: list[tuple[asyncio.Server, ScriptedServer]] = []

    async def start(script: Script, port: int = 0) -> ScriptedServer:
        made = ScriptedServer(script)
        server = await asyncio.start_server(made.serve, "127.0.0.1", port)
        made.port = server.sockets[0].getsockname()[1]
        started.append((server, made))
        return made

    yield start
    for server, made in started:
        server.close()
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)
        assert not made.failures


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("0.0.0", "memory")


@dataclass
class RawClient:
    """A client that writes bytes and reads answers without a body."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Read one answer: status and head."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), timeout=WAIT_S)
        return int(head.split(b" ", 2)[1]), head

    async def closed(self) -> bytes:
        """Read until the server closes; gives what came."""
        return await asyncio.wait_for(self.reader.read(), timeout=WAIT_S)

    def close(self) -> None:
        self.writer.close()


ClientFactory = Callable[[int], Awaitable[RawClient]]


@pytest.fixture
async def raw_client() -> AsyncIterator[ClientFactory]:
    clients: list[RawClient] = []

    async def connect(port: int) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", port))
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()
