"""The crash harness's relay of webhooks: it ends although it holds one that no engine takes."""

import asyncio

import aiohttp

from loadtest.ports import free_ports
from tests.corridor.crash_harness import HOST
from tests.corridor.crash_relay import Relay


async def test_it_drops_what_it_holds_when_it_is_stopped() -> None:
    async with aiohttp.ClientSession() as session:
        relay = Relay(session, f"http://{HOST}:{free_ports(1)[0]}")
        url = await relay.start(HOST)
        held = asyncio.ensure_future(session.post(f"{url}/webhooks/telnyx", data=b"{}"))
        await asyncio.wait([held], timeout=0.3)
        assert not held.done()
        async with asyncio.timeout(10):
            await relay.stop()
        await asyncio.gather(held, return_exceptions=True)
