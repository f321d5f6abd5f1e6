"""Two engines over one store: what the one that stands by accepts, receives or is asked reaches the owner."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest.carrier.signing import key_seed_from
from tests.corridor.carrier_process import Carrier
from tests.corridor.engine_fixture import Engine, Signing, inbound_body, recipient, submission

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def pair(
    carrier: Carrier, tmp_path: Path, new_database: Callable[[], str]
) -> AsyncIterator[tuple[Engine, Engine]]:
    """The owner, and one that stands by."""
    url, signing = new_database(), Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1)))
    owner, other = [Engine(tmp_path, carrier.base_url, signing, store_url=url) for _ in range(2)]
    await owner.start()
    await owner.make_sample()
    other.tenant = owner.tenant
    await other.start()
    assert owner.corridor.duty.owner
    assert not other.corridor.duty.owner
    yield owner, other
    await other.stop()
    await owner.stop()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Another process's doing: nobody tells this one."""
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.to_thread(time.sleep, 0.05)


async def test_what_any_node_accepts_is_sent(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    ids = [*await other.submit(*(submission(index) for index in range(20))), *await owner.submit(submission(20))]
    await owner.until_states({"DELIVERED": 21})
    for identity in ids:
        assert (await other.message(identity)).state


async def test_a_stop_that_another_node_received_forbids(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    assert other.signing is not None
    body = inbound_body("one", "STOP", sender=recipient(0))
    webhook = other.signing.sign("", body, other.clock.now_us())
    assert await other.corridor.receive([webhook]) == [200]
    assert await owner.rows("SELECT count(*) FROM opt_outs") == [(1,)]

    async def is_effective() -> bool:
        return await owner.server_store.barriers_open() == []

    await until(is_effective)
    taken = await owner.call([submission(0)])
    assert taken[0].verdict == "RECIPIENT_OPTED_OUT"
