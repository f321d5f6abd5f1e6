"""What time brings: how often what waits is counted."""

import asyncio
import contextlib

import pytest

from engine.errors import NotReady
from engine.registry.records import CampaignState
from tests.corridor.engine_fixture import Engine, submission


async def test_what_takes_long_to_count_is_counted_seldom(engine: Engine) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    store, sweep, counts = engine.corridor.store, engine.corridor.sweep, []
    count = store.count_by_state

    async def slowly() -> list[tuple[int, int]]:
        counts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.3)
        return await count()

    store.count_by_state = slowly  # type: ignore[method-assign]
    await engine.submit(submission(0))
    await sweep.count_backlog()
    assert sweep.backlog["queued"] == 1
    await engine.submit(submission(1))
    for _ in range(40):
        await sweep.count_backlog()
    assert len(counts) == 1
    sweep._count_again_s -= 20 * 0.3  # so much later
    await sweep.count_backlog()
    assert (len(counts), sweep.backlog["queued"]) == (2, 2)


async def test_what_cannot_be_counted_in_time_is_tried_as_seldom_and_hides_nothing_else(engine: Engine) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    store, sweep, counts = engine.corridor.store, engine.corridor.sweep, []

    async def in_vain() -> list[tuple[int, int]]:
        counts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.3)
        raise NotReady("the store does not answer")

    store.count_by_state = in_vain  # type: ignore[method-assign]
    await engine.submit(submission(0))
    with pytest.raises(NotReady):
        await sweep.count_backlog()
    position = engine.corridor.metrics.registry.get_sample_value("longwave_event_log_position")
    assert position == await store.newest_event() > 0
    for _ in range(40):
        await sweep.count_backlog()
    assert len(counts) == 1


async def test_what_is_counted_at_once_is_counted_each_time(engine: Engine) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    for index in range(3):
        await engine.submit(submission(index))
        await engine.corridor.sweep.count_backlog()
        assert engine.corridor.sweep.backlog["queued"] == index + 1


async def test_what_swallows_its_cancellation_does_not_keep_a_stop_from_ending(engine: Engine) -> None:
    """As a driver that connects at that very moment does."""

    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    engine.corridor.start_tasks([stubborn()])
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await engine.stop()
