"""`custom_queue_length`, by which pods are added: what they could take over now, and nothing that only time helps."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import sweep
from engine.append import GROUP_MESSAGES_ENOUGH
from engine.registry.records import CampaignState, Scope
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import SENDER, Engine, submission, two_engines
from tests.corridor.scripted_provider import Answer, ScriptedProvider
from tests.corridor.test_append import hand_in, turns
from tests.corridor.test_spread import NAMES, spread, submit_to_all, until

MANY = 300
BURST = 7


async def queue_length(engine: Engine) -> float:
    """What an autoscaler would read now."""
    await engine.corridor.sweep.count_queue()
    value = engine.corridor.metrics.registry.get_sample_value("custom_queue_length")
    assert value is not None
    return value


@pytest.fixture
async def still(start_engine: StartEngine, carrier: Carrier) -> Engine:
    """An engine that sends only when told, at times that only jumps move."""
    await carrier.set(**NO_RECEIPTS)
    engine = await start_engine(carrier.base_url)
    await engine.take_over_dispatch()
    engine.clock.freeze()
    return engine


async def test_a_backlog_without_limits_counts_whole_until_it_leaves(still: Engine) -> None:
    await still.submit(*(submission(index) for index in range(MANY)))
    assert await queue_length(still) == MANY
    await still.dispatch_now()
    assert await queue_length(still) == 0


async def test_a_paced_backlog_counts_what_its_limit_has_now_at_most_its_burst(still: Engine) -> None:
    await still.set_quota(Scope.CAMPAIGN, "campaigns/notices", 60, window_ms=60_000, burst=BURST)
    await still.submit(*(submission(index) for index in range(MANY)))
    assert await queue_length(still) == 0  # limits start empty
    still.clock.jump(2)
    assert 0 < await queue_length(still) <= 2
    still.clock.jump(3600)
    assert await queue_length(still) == BURST
    await still.dispatch_now()
    assert await queue_length(still) == 0
    assert await still.states() == {"QUEUED": MANY - BURST, "SUBMITTED": BURST}


async def test_what_is_paused_or_for_later_counts_nothing(still: Engine) -> None:
    later_s = still.clock.now_us() // 1_000_000 + 3600
    await still.submit(*(submission(index, schedule_time={"seconds": later_s}) for index in range(20)))
    assert await queue_length(still) == 0
    await still.submit(*(submission(index) for index in range(20, 50)))
    assert await queue_length(still) == 30
    await still.set_campaign(CampaignState.PAUSED)
    assert await queue_length(still) == 0


async def test_calls_that_wait_for_their_group_commit_count(still: Engine) -> None:
    go_on = still.hold_up(still.accept_writer)
    try:
        answers = hand_in(still, *range(GROUP_MESSAGES_ENOUGH))
        await turns()
        assert await queue_length(still) == 0  # in its transaction
        answers += hand_in(still, *range(100, 105))
        await turns()
        assert await queue_length(still) == 5
    finally:
        go_on()
    await asyncio.gather(*answers)
    assert await queue_length(still) == GROUP_MESSAGES_ENOUGH + 5  # stored, and allowed to leave
    await still.dispatch_now()
    assert await queue_length(still) == 0


async def test_a_provider_that_refuses_everything_asks_for_no_more_processes(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    provider.post = lambda _: Answer(503, "{}")
    engine = await start_engine(provider.url, breaker_attempts_min=10)
    await engine.take_over_dispatch()
    engine.clock.freeze()
    await engine.submit(*(submission(index) for index in range(MANY)))
    assert await queue_length(engine) == MANY
    await engine.dispatch_now()
    assert engine.corridor.dispatch._breaker.is_open
    assert await queue_length(engine) == 0


async def test_without_a_key_of_the_provider_nothing_can_leave_and_nothing_counts(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    engine = await start_engine(carrier.base_url, telnyx_api_key=None)
    await engine.submit(submission(0))
    assert await queue_length(engine) == 0


@pytest.mark.parametrize("store_kind", ["mysql"])
async def test_a_node_that_only_takes_messages_counts_too(
    start_engine: StartEngine, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It owns no shards, and so none of the periodic work of those who do."""
    monkeypatch.setattr(sweep, "QUEUE_EVERY_S", 0.02)
    engine = await start_engine(carrier.base_url, roles="ingest")
    go_on = engine.hold_up(engine.accept_writer)
    try:
        answers = hand_in(engine, *range(GROUP_MESSAGES_ENOUGH))
        await turns()
        answers += hand_in(engine, *range(100, 105))

        async def counted() -> bool:
            return engine.corridor.metrics.registry.get_sample_value("custom_queue_length") == 5

        await until(counted)
    finally:
        go_on()
    await asyncio.gather(*answers)


async def test_each_node_counts_its_own_shards(
    carrier: Carrier, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    await carrier.set(**NO_RECEIPTS)
    async with two_engines(tmp_path, carrier.base_url, new_database()) as engines:
        for place, name in enumerate(NAMES[1:], 1):
            await engines[0].make_campaign(name, SENDER + place)
        await until(lambda: spread(engines))
        await engines[1].corridor.reload()
        for engine in engines:
            await engine.take_over_dispatch()
        await submit_to_all(engines[0], 10)

        async def all_known() -> bool:
            return sum([len(engine.corridor.scheduler) for engine in engines]) == 10 * len(NAMES)

        await until(all_known)
        lengths = [await queue_length(engine) for engine in engines]
        assert lengths == [len(engine.corridor.scheduler) for engine in engines]
        assert min(lengths) > 0
