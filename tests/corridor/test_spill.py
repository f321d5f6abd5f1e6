"""A backlog beyond memory: it waits in the store alone, is read back in order, and keeps nobody else waiting."""

from typing import Any, Final

import pytest

from engine.registry.records import CampaignState
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import CAMPAIGN, US, Engine, recipient, submission

HELD_MAX: Final = 16
BACKLOG: Final = 300
OTHER_SENDER: Final = 12025550101
CLASSES: Final = (pb.MESSAGE_CLASS_CRITICAL, pb.MESSAGE_CLASS_TRANSACTIONAL, pb.MESSAGE_CLASS_BULK)


@pytest.fixture
async def small(start_engine: StartEngine, carrier: Carrier) -> Engine:
    """An engine that holds few messages, before a carrier that takes one at a time and sends no receipts."""
    await carrier.set(latency_min_ms=0, latency_mean_ms=0, latency_max_ms=0, **NO_RECEIPTS)
    return await start_engine(
        carrier.base_url, held_messages_max=HELD_MAX, batch_messages_max=HELD_MAX, in_flight_max=1, connections_max=1
    )


async def submit_many(engine: Engine, count: int, **fields: Any) -> list[int]:
    """Bulk messages to the first `count` recipients."""
    ids: list[int] = []
    for start in range(0, count, HELD_MAX):
        batch = range(start, min(start + HELD_MAX, count))
        ids += await engine.submit(*(submission(at, message_class=CLASSES[2], **fields) for at in batch))
    return ids


def held(engine: Engine) -> int:
    """Messages in memory."""
    return len(engine.corridor.scheduler)


async def test_a_backlog_beyond_memory_leaves_in_order(small: Engine, carrier: Carrier) -> None:
    await small.set_campaign(CampaignState.PAUSED)
    await submit_many(small, BACKLOG)
    assert held(small) == HELD_MAX // 2
    assert await small.states() == {"QUEUED": BACKLOG}
    await small.corridor.sweep.count_backlog()
    waiting = small.corridor.metrics.schedule_waiting.labels("stored")._value.get()
    assert waiting == BACKLOG - HELD_MAX // 2
    await small.set_campaign(CampaignState.ACTIVE)
    await small.until_states({"SUBMITTED": BACKLOG})
    assert [record["to"] for record in await carrier.records()] == [recipient(index) for index in range(BACKLOG)]
    assert not small.corridor.scheduler.any_away
    # Memory takes in at once again.
    await small.submit(submission(BACKLOG))
    await small.until_states({"SUBMITTED": BACKLOG + 1})


async def test_what_waits_in_the_store_alone_is_told_as_it_was_counted(small: Engine) -> None:
    """A count may be minutes old: what memory holds by now says nothing about it."""
    await small.set_campaign(CampaignState.PAUSED)
    await submit_many(small, BACKLOG)
    sweep, stored = small.corridor.sweep, small.corridor.metrics.schedule_waiting.labels("stored")._value
    await sweep.count_backlog()
    assert stored.get() == BACKLOG - HELD_MAX // 2
    sweep._count_again_s = float("inf")
    small.corridor.scheduler.remove([row[0] for row in await small.rows("SELECT id FROM messages ORDER BY id LIMIT 3")])
    assert held(small) == HELD_MAX // 2 - 3
    await sweep.count_backlog()
    assert stored.get() == BACKLOG - HELD_MAX // 2


async def test_an_urgent_message_passes_a_backlog_in_the_store(small: Engine, carrier: Carrier) -> None:
    await small.take_over_dispatch()
    await submit_many(small, BACKLOG)
    await small.submit(submission(BACKLOG, message_class=CLASSES[0]))
    await small.corridor.dispatch._pass()
    [first] = await carrier.until_requests(1)
    assert first["to"] == recipient(BACKLOG)


async def test_a_key_keeps_its_order_across_classes_and_the_store(small: Engine, carrier: Carrier) -> None:
    """I13."""
    await small.set_campaign(CampaignState.PAUSED)
    keys = 4
    for start in range(0, 96, HELD_MAX):
        await small.submit(
            *(
                submission(index, ordering_key=f"key-{index % keys}", message_class=CLASSES[index // keys % 3])
                if index % 5
                else submission(index, message_class=CLASSES[2])
                for index in range(start, start + HELD_MAX)
            )
        )
    assert held(small) < HELD_MAX + 1
    await small.set_campaign(CampaignState.ACTIVE)
    await small.until_states({"SUBMITTED": 96})
    order = [record["to"] for record in await carrier.records()]
    for key in range(keys):
        mine = [recipient(index) for index in range(key, 96, keys) if index % 5]
        assert [number for number in order if number in set(mine)] == mine


async def test_a_paused_campaigns_backlog_keeps_no_other_waiting(small: Engine, carrier: Carrier) -> None:
    await small.make_campaign("other", OTHER_SENDER)
    await small.set_campaign(CampaignState.PAUSED)
    await submit_many(small, BACKLOG)
    await submit_many(small, 40, campaign="campaigns/other")
    await small.until_states({"QUEUED": BACKLOG, "SUBMITTED": 40})
    assert [record["to"] for record in await carrier.records()] == [recipient(index) for index in range(40)]


async def test_a_crash_loses_nothing_of_a_backlog_in_the_store(small: Engine, carrier: Carrier) -> None:
    await carrier.set(latency_mean_ms=5, latency_max_ms=10)
    await submit_many(small, BACKLOG)
    await carrier.until_requests(20)
    await small.crash()
    await small.start()
    # One attempt was open when it ended; it is not sent again unless it is known to have failed.
    await small.until_states({"SUBMITTED": BACKLOG - 1, "UNKNOWN": 1})
    order = [record["to"] for record in await carrier.records()]
    assert order == [recipient(index) for index in range(BACKLOG)]


async def test_what_expires_in_the_store_ends_there(small: Engine, carrier: Carrier) -> None:
    await small.set_campaign(CampaignState.PAUSED)
    submissions = [submission(at, message_class=CLASSES[2]) for at in range(BACKLOG)]
    for one in submissions:
        one.validity.FromSeconds(60)
    for start in range(0, BACKLOG, HELD_MAX):
        await small.submit(*submissions[start : start + HELD_MAX])
    await small.pass_time(61)
    await small.corridor.sweep.look_at_stored()
    await small.until_states({"EXPIRED": BACKLOG})
    assert await carrier.records() == []
    assert held(small) == 0


async def test_what_is_cancelled_or_opted_out_in_the_store_never_leaves(small: Engine, carrier: Carrier) -> None:
    await small.set_campaign(CampaignState.PAUSED)
    ids = await submit_many(small, 60)
    _, too_late = await small.corridor.cancel_message(small.tenant_key, ids[50])
    assert not too_late
    await small.corridor.add_opt_out(small.tenant_key, int(recipient(51)[1:]))
    await small.set_campaign(CampaignState.ACTIVE)
    await small.until_states({"SUBMITTED": 58, "CANCELLED": 1, "BLOCKED": 1})
    sent = {record["to"] for record in await carrier.records()}
    assert sent == {recipient(index) for index in range(60) if index not in (50, 51)}


async def test_a_stopped_campaigns_backlog_is_blocked_to_the_last(small: Engine, carrier: Carrier) -> None:
    await small.set_campaign(CampaignState.PAUSED)
    await submit_many(small, BACKLOG)
    await small.set_campaign(CampaignState.STOPPED)
    await small.until_states({"BLOCKED": BACKLOG})
    assert await carrier.records() == []


async def test_a_retry_gets_its_answer_though_the_schedule_is_full(start_engine: StartEngine) -> None:
    engine = await start_engine("http://127.0.0.1:9/v2", held_messages_max=6, batch_messages_max=6)
    later = pb.Submission()
    later.schedule_time.FromMicroseconds(engine.clock.now_us() + 3600 * US)
    wanted = [submission(at, request_id=f"r{at}", schedule_time=later.schedule_time) for at in range(4)]
    first = await engine.call(wanted)
    assert [one.verdict for one in first] == ["ACCEPTED"] * 3 + ["QUEUE_FULL"]
    again = await engine.call(wanted)
    assert [one.id for one in again] == [one.id for one in first]
    assert [one.verdict for one in again] == ["ACCEPTED"] * 3 + ["QUEUE_FULL"]
    assert again[3].result.retry_delay.ToMicroseconds() > 0
    # What is to be sent at once is not refused for it.
    assert [one.verdict for one in await engine.call([submission(9)])] == ["ACCEPTED"]
    # Refused for who may send, and yet the answer of the first try stands.
    await engine.corridor.add_opt_out(engine.tenant_key, int(recipient(0)[1:]))
    await engine.set_campaign(CampaignState.STOPPED)
    assert [one.id for one in await engine.call(wanted[:3])] == [one.id for one in first[:3]]


async def test_scheduled_messages_go_at_their_time_past_a_backlog(small: Engine, carrier: Carrier) -> None:
    await small.make_campaign("other", OTHER_SENDER)
    at_us = small.clock.now_us() + 3600 * US
    later = pb.Submission()
    later.schedule_time.FromMicroseconds(at_us)
    [timed] = await small.submit(submission(7, campaign="campaigns/other", schedule_time=later.schedule_time))
    await small.set_campaign(CampaignState.PAUSED, CAMPAIGN)
    await submit_many(small, BACKLOG)
    await small.crash()
    await small.start()
    await small.pass_time(3601)
    await small.until_state(timed, "SUBMITTED")
    assert [record["to"] for record in await carrier.records()] == [recipient(7)]
