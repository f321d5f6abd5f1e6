"""Stands between carrier and receipts edge: holds each webhook until an engine takes it, whichever life that is.

The simulated carrier, as the real one, doubles its pause after every failed try; over many short lives of an engine a
receipt would arrive long after everything else. It changes no byte and answers only what the engine answered.
"""

import asyncio
from typing import Final

import aiohttp
from aiohttp import web

PAUSE_S: Final = 0.05
SHUTDOWN_S: Final = 0.1
HEADERS: Final = ("telnyx-timestamp", "telnyx-signature-ed25519", "content-type")
BODY_BYTES_MAX: Final = 1024 * 1024


class Relay:
    """One listening address; `start` to `stop`."""

    def __init__(self, session: aiohttp.ClientSession, engine_url: str) -> None:
        """`engine_url` is scheme, host and port of the receipts edge."""
        self._session = session
        self._engine_url = engine_url
        self._runner: web.AppRunner | None = None

    async def start(self, host: str) -> str:
        """Listen on a free port; returns the base URL."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/{path:.*}", self._forward)
        # 0 would be no bound: what is held waits for an engine that may never come.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        """Listen no more; what is held is dropped."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name: request.headers[name] for name in HEADERS if name in request.headers}
        url = self._engine_url + request.raw_path
        while True:
            try:
                async with self._session.post(url, data=body, headers=headers) as answer:
                    if answer.status != 503:
                        return web.Response(status=answer.status)
            except (aiohttp.ClientError, TimeoutError):
                pass
            # Nobody tells when an engine listens again.
            await asyncio.sleep(PAUSE_S)
