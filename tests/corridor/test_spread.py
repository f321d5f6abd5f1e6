"""Two engines over one store that both send, each its own shards: what one settles, the other does not break."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from engine.errors import NotReady
from engine.registry.records import CampaignState, Scope
from engine.registry.records import Carrier as Network
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.engine_fixture import SENDER, Engine, receipt_body, recipient, submission, two_engines

pytestmark = pytest.mark.timeout(60)
NAMES = ("notices", "second", "third", "fourth")


@pytest.fixture
async def pair(
    carrier: Carrier, tmp_path: Path, new_database: Callable[[], str]
) -> AsyncIterator[tuple[Engine, Engine]]:
    """Two owners of 32 shards each; of four campaigns each has some."""
    async with two_engines(tmp_path, carrier.base_url, new_database()) as engines:
        first, second = engines
        for place, name in enumerate(NAMES[1:], 1):
            await first.make_campaign(name, SENDER + place)
        await until(lambda: spread(engines))
        await second.corridor.reload()
        yield engines


async def spread(engines: tuple[Engine, Engine]) -> bool:
    return [len(engine.server_store.shared.shards) for engine in engines] == [32, 32]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Each other's doing: nobody tells."""
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.to_thread(time.sleep, 0.05)


async def submit_to_all(engine: Engine, count: int, start: int = 0) -> list[int]:
    """So many to each campaign."""
    return await engine.submit(
        *(
            submission(start + index * len(NAMES) + place, campaign=f"campaigns/{name}")
            for index in range(count)
            for place, name in enumerate(NAMES)
        )
    )


async def epochs_of(engine: Engine) -> set[int]:
    """Of the messages that were sent; each is one engine's."""
    return {row[0] for row in await engine.rows("SELECT DISTINCT epoch FROM messages WHERE epoch > 0")}


async def test_each_sends_its_own_whoever_accepts(pair: tuple[Engine, Engine], carrier: Carrier) -> None:
    first, second = pair
    await submit_to_all(first, 10)
    await submit_to_all(second, 10, start=40)
    await first.until_states({"DELIVERED": 80})
    assert len(await epochs_of(first)) == 2
    assert len(await carrier.taken()) == 80
    assert await first.rows("SELECT COUNT(*) FROM inbox") == [(0,)]


async def test_one_that_leaves_is_followed_at_once_and_nothing_is_unknown(pair: tuple[Engine, Engine]) -> None:
    first, second = pair
    sending = asyncio.ensure_future(submit_to_all(first, 50))
    await second.stop()
    await sending
    await first.until_states({"DELIVERED": 200})
    assert first.corridor.duty.shards is None
    changes = await first.events()
    assert not [event for event in changes if event.state == pb.MESSAGE_STATE_UNKNOWN]


async def test_a_day_cap_of_a_brand_holds_over_both(pair: tuple[Engine, Engine], carrier: Carrier) -> None:
    first, second = pair
    cap = 30
    await carrier.set(**NO_RECEIPTS, carriers={"T-Mobile": 1})
    await first.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", cap, carrier=Network.TMOBILE)
    await submit_to_all(second, 20)
    sent = "SELECT CAST(COALESCE(SUM(segments), 0) AS SIGNED) FROM messages WHERE state = 3"

    async def reached() -> bool:
        return await first.rows(sent) == [(cap,)]

    await until(reached)
    await asyncio.sleep(1)
    assert await first.rows(sent) == [(cap,)]
    assert await first.rows("SELECT spent, reserved FROM ledgers") == [(cap, 0)]
    assert len(await carrier.taken()) == cap
    # What had no room waits on, wherever it is.
    assert (await first.states())["QUEUED"] == 80 - cap


async def test_no_attempt_is_written_down_by_whoever_does_not_know_a_cap(
    pair: tuple[Engine, Engine], carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    await carrier.set(**NO_RECEIPTS, carriers={"T-Mobile": 1})
    found = await first.corridor.store.registry_version()

    async def unchanged() -> int | None:
        return found

    # It hears of nothing by itself.
    monkeypatch.setattr(first.corridor.store, "registry_version", unchanged)
    known = first.corridor.rights.registry.version
    await second.set_campaign(CampaignState.PAUSED)
    await submit_to_all(first, 1)
    await first.until_states({"SUBMITTED": 3, "QUEUED": 1})
    assert first.corridor.rights.registry.version == known, "a change that its guard sees costs it nothing"
    await second.set_campaign(CampaignState.ACTIVE)
    await second.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 5, carrier=Network.TMOBILE)
    await submit_to_all(first, 5, start=20)
    sent = "SELECT COUNT(*) FROM messages WHERE state = 3"

    async def reached() -> bool:
        return await first.rows(sent) == [(5,)]

    await until(reached)
    await asyncio.sleep(1)
    assert len(await carrier.taken()) == 5
    assert first.corridor.rights.registry.version > known


async def test_a_receipt_beside_the_answer_that_tells_its_message_is_joined(
    pair: tuple[Engine, Engine], carrier: Carrier
) -> None:
    first, second = pair
    await carrier.set(**NO_RECEIPTS)
    ids = await submit_to_all(first, 1)
    await first.until_states({"SUBMITTED": len(ids)})
    assert second.signing is not None
    for number, identity in enumerate(ids):
        # As if it were stored in the same moment: nobody knows the name yet.
        await first.execute(f"UPDATE messages SET provider_id = NULL WHERE id = {identity}")  # noqa: S608 - our own
        body = receipt_body(f"late-{number}", "delivered", provider_id=f"name-{number}")
        assert await second.corridor.receive([second.signing.sign("", body, second.clock.now_us())]) == [200]
        await first.execute(f"UPDATE messages SET provider_id = 'name-{number}' WHERE id = {identity}")  # noqa: S608
    await first.until_states({"DELIVERED": len(ids)})
    assert await first.rows("SELECT COUNT(*) FROM early_receipts") == [(0,)]


async def test_receipts_reach_the_owner_of_their_message(pair: tuple[Engine, Engine], carrier: Carrier) -> None:
    first, second = pair
    await carrier.set(**NO_RECEIPTS)
    ids = await submit_to_all(first, 3)
    await first.until_states({"SUBMITTED": len(ids)})
    assert first.signing is not None
    webhooks = [
        first.signing.sign("", receipt_body(f"r-{place}", "delivered", provider_id=record["id"]), first.clock.now_us())
        for place, record in enumerate(await carrier.records())
    ]
    assert await first.corridor.receive([*webhooks, webhooks[0]]) == [200] * (len(ids) + 1)
    assert await second.corridor.receive(webhooks) == [200] * len(ids)
    await first.until_states({"DELIVERED": len(ids)})


async def test_an_opt_out_takes_effect_when_no_node_has_an_attempt_out(
    pair: tuple[Engine, Engine], carrier: Carrier
) -> None:
    first, second = pair
    slow = 700.0
    await carrier.set(**NO_RECEIPTS, latency_min_ms=slow, latency_mean_ms=slow, latency_max_ms=slow)
    number = int(recipient(0)[1:])
    await asyncio.gather(*(first.submit(submission(0, campaign=f"campaigns/{name}")) for name in NAMES[:2]))
    await carrier.until_requests(2)
    await second.corridor.add_opt_out(second.tenant_key, number)
    assert "DISPATCHING" not in await first.states()
    events = await first.events()
    kinds = [event.kind for event in events]
    before = events[: kinds.index(pb.Event.KIND_OPT_OUT_EFFECTIVE)]
    assert [event.state for event in before].count(pb.MESSAGE_STATE_SUBMITTED) == 2


async def test_a_hint_at_the_moment_of_a_stop_does_not_keep_the_inbox_from_ending(pair: tuple[Engine, Engine]) -> None:
    _, second = pair
    duty = second.corridor.duty
    reading = asyncio.ensure_future(duty._read_inbox(second.server_store.shared))
    for _ in range(20):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    duty.look()
    reading.cancel()
    done, _ = await asyncio.wait([reading], timeout=2)
    assert done


async def test_an_opt_out_that_could_not_be_followed_is_followed_at_the_next_look(
    pair: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    follow, failed = second.corridor.record.follow_consent, asyncio.Event()

    async def fails_once(tenant: int, recipient: int, *, out: bool) -> None:
        if not failed.is_set():
            failed.set()
            raise NotReady
        await follow(tenant, recipient, out=out)

    monkeypatch.setattr(second.corridor.record, "follow_consent", fails_once)
    await first.corridor.add_opt_out(first.tenant_key, int(recipient(0)[1:]))
    await failed.wait()

    async def is_refused() -> bool:
        return (await second.call([submission(0)]))[0].verdict == "RECIPIENT_OPTED_OUT"

    await until(is_refused)
