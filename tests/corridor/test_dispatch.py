"""Between the attempt's commit and its bytes: what was written down and cannot leave is tried again."""

from typing import Any
from unittest import mock

from engine import _core
from engine.http_client import HttpPool, NoFreeSlotError
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import SENDER, Engine, submission
from tests.corridor.scripted_provider import THROTTLED, Answer, ScriptedProvider


async def test_attempts_whose_slot_was_taken_meanwhile_are_tried_again(engine: Engine, carrier: Carrier) -> None:
    """A look-up shares the pool: it may take the last slot while attempts are being written down."""
    refused = 2
    submit = HttpPool.submit

    def taken(self: HttpPool, request: object, data: bytes) -> None:
        nonlocal refused
        if refused:
            refused -= 1
            raise NoFreeSlotError
        submit(self, request, data)

    with mock.patch.object(HttpPool, "submit", taken):
        ids = await engine.submit(*(submission(index) for index in range(4)))
        for identity in ids:
            await engine.until_state(identity, "DELIVERED")
    assert refused == 0
    records: list[dict[str, Any]] = await carrier.records()
    assert len(records) == len(ids)
    attempts = await engine.rows("SELECT attempt FROM messages ORDER BY attempt")
    assert [count for (count,) in attempts] != [1] * len(ids)


SLOW_DOWN = Answer(429, THROTTLED.body, "retry-after: 1\r\n")


async def test_after_a_provider_that_refused_for_long_heals_the_backlog_drains_at_once(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    """I20: two minutes of "too fast" leave no debt; and an urgent message is among the first to leave."""
    provider.post = lambda _: SLOW_DOWN
    engine = await start_engine(provider.url)
    for number in range(5):
        await engine.make_campaign(f"c{number}", SENDER + 10 + number)
    await engine.make_campaign("codes", SENDER + 20)
    engine.clock.freeze()
    await engine.take_over_dispatch()
    for number in range(5):
        await engine.submit(*(submission(index, campaign=f"campaigns/c{number}") for index in range(200)))
    for _ in range(120):
        await engine.dispatch_now()
        engine.clock.jump(1)
    assert provider.posts <= 120 * 10 + 256 + 100
    [code] = await engine.submit(submission(3000, campaign="campaigns/codes", message_class=pb.MESSAGE_CLASS_CRITICAL))
    healed_at = provider.posts
    provider.post = lambda _: None
    await engine.dispatch_now()
    assert _core.short_id(code).encode() in b"".join(provider.bodies[healed_at : healed_at + 10])
    for _ in range(60):
        engine.clock.jump(1)
        await engine.dispatch_now()
    # The last few wait out their own back-off, which is longer the more often they were tried.
    assert (await engine.states())["SUBMITTED"] >= 95 * 1001 // 100
    engine.clock.jump(300)
    await engine.dispatch_now()
    assert await engine.states() == {"SUBMITTED": 1001}
