"""What is kept for a while: forgotten after it, never before, whatever the clock is set to, as fast as it comes in.

The retention of each kind on its own is in `test_events.py`.
"""

import pytest

from engine.registry.records import CampaignState
from engine.retention import ROWS_MAX, ROWS_MIN
from engine.stores.store import Kept
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import US, Engine, inbound_body, receipt_body, recipient, submission

HOUR = 3600
DAY = 24 * HOUR


async def fill(engine: Engine, rows: int) -> None:
    """So many webhook events and unknown webhooks from long ago."""
    numbers = f"WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n WHERE v < {rows}) SELECT 1, v"  # noqa: S608 - a number
    source = "n"
    if engine.store_kind == "mysql":
        numbers, source = "SELECT 1, seq", f"seq_1_to_{rows}"
    ids = "INSERT INTO webhook_events (provider, event_id, received_us)"
    await engine.execute(f"{ids} {numbers}, 1 FROM {source}")
    unknown = "INSERT INTO unknown_webhooks (provider, event_id, received_us, body)"
    await engine.execute(f"{unknown} {numbers}, 1, x'00' FROM {source}")


async def test_one_round_removes_all_that_is_past_its_retention(engine: Engine) -> None:
    await fill(engine, 150_000)
    await engine.corridor.sweep.prune()
    assert await engine.rows("SELECT count(*) FROM webhook_events") == [(0,)]
    assert await engine.rows("SELECT count(*) FROM unknown_webhooks") == [(0,)]


async def test_unknown_webhooks_are_kept_as_long_as_webhook_ids(engine: Engine) -> None:
    body = receipt_body("e1", "delivered").replace(b"message.finalized", b"message.unheard_of")
    assert await engine.deliver("", body) == 200
    engine.clock.jump(6 * DAY)
    await engine.corridor.sweep.prune()
    assert await engine.rows("SELECT count(*) FROM unknown_webhooks") == [(1,)]
    engine.clock.jump(2 * DAY)
    await engine.corridor.sweep.prune()
    assert await engine.rows("SELECT count(*) FROM unknown_webhooks") == [(0,)]


async def kept(engine: Engine) -> list[int]:
    """How many of each, of what there was first: request ids, webhook ids, events."""
    tables = ("request_ids", "webhook_events", "events")
    counts = [await engine.rows(f"SELECT count(*) FROM {table}") for table in tables]  # noqa: S608 - names of tables
    first = await engine.rows("SELECT count(*) FROM events WHERE position <= 2")
    return [counts[0][0][0], counts[1][0][0], first[0][0]]


async def store_some(engine: Engine) -> int:
    """A submission with a request id, a webhook and their events; returns the message."""
    await engine.set_campaign(CampaignState.PAUSED)
    [identity] = await engine.submit(submission(0, request_id="once"))
    assert await engine.deliver("", inbound_body("e1", "hello", sender=recipient(1))) == 200
    return identity


async def test_a_clock_set_right_by_days_forgets_nothing_that_is_new(engine: Engine) -> None:
    """F26, I3: the clock was behind; what was stored meanwhile looks old at once."""
    identity = await store_some(engine)
    before = await kept(engine)
    engine.clock.set_wall(9 * DAY)
    await engine.corridor.sweep.prune()
    assert await kept(engine) == before
    assert await engine.submit(submission(0, request_id="once")) == [identity]
    engine.clock.jump(70 * HOUR)
    await engine.corridor.sweep.prune()
    assert await engine.submit(submission(0, request_id="once")) == [identity]


async def test_a_clock_set_right_across_a_start_forgets_nothing_that_is_new(engine: Engine) -> None:
    identity = await store_some(engine)
    before = await kept(engine)
    await engine.crash()
    engine.clock.set_wall(9 * DAY)
    await engine.start()
    await engine.corridor.sweep.prune()
    await engine.crash()
    await engine.start()
    await engine.corridor.sweep.prune()
    assert await kept(engine) == before
    assert await engine.submit(submission(0, request_id="once")) == [identity]


async def test_a_clock_set_wrong_for_a_while_forgets_nothing_that_is_new(engine: Engine) -> None:
    identity = await store_some(engine)
    before = await kept(engine)
    for step in (400 * DAY, -400 * DAY, -30 * DAY, 30 * DAY):
        engine.clock.set_wall(step)
        await engine.corridor.sweep.prune()
    assert await kept(engine) == before
    assert await engine.submit(submission(0, request_id="once")) == [identity]


async def test_after_a_step_everything_is_forgotten_in_the_end(engine: Engine) -> None:
    await store_some(engine)
    engine.clock.set_wall(9 * DAY)
    await engine.corridor.sweep.prune()
    for _ in range(30):
        engine.clock.jump(DAY)
        await engine.corridor.sweep.prune()
    assert (await kept(engine))[:2] == [0, 0]
    assert await engine.rows("SELECT count(*) FROM events") == [(1,)]  # the newest stays, for its position


async def gone(engine: Engine, *ids: int) -> list[bool]:
    """Of messages, which are not there any more."""
    return [await engine.corridor.get_message(engine.tenant_key, identity) is None for identity in ids]


async def test_messages_are_forgotten_with_their_text(engine: Engine) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    ids = await engine.submit(submission(0, request_id="old"), submission(1))
    for identity in ids:
        await engine.corridor.cancel_message(engine.tenant_key, identity)
    engine.clock.jump(80 * DAY)
    await engine.corridor.sweep.prune()
    assert await gone(engine, *ids) == [False, False]
    engine.clock.jump(40 * DAY)
    [new] = await engine.submit(submission(2))
    await engine.corridor.sweep.prune()
    assert await gone(engine, *ids, new) == [True, True, False]
    assert await engine.rows("SELECT count(*) FROM messages") == [(1,)]
    assert await engine.rows("SELECT count(*) FROM bodies") == [(1,)]
    # A receipt for what is gone is one that nobody knows.
    assert await engine.deliver("", receipt_body("late", "delivered", provider_id="gone")) == 200


async def test_a_clock_that_went_forward_by_months_forgets_no_message(engine: Engine) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    [identity] = await engine.submit(submission(0))
    await engine.corridor.cancel_message(engine.tenant_key, identity)
    engine.clock.set_wall(200 * DAY)
    await engine.corridor.sweep.prune()
    # What forgets the step for events, after two of their spans, does not for messages.
    for _ in range(30):
        engine.clock.jump(DAY)
        await engine.corridor.sweep.prune()
    assert await gone(engine, identity) == [False]
    engine.clock.jump(61 * DAY)
    await engine.corridor.sweep.prune()
    assert await gone(engine, identity) == [True]


async def test_no_request_id_outlives_its_message(engine: Engine) -> None:
    """Both are late, as after both settings were lowered: messages go by the day, or by far more rows a round."""
    await engine.set_campaign(CampaignState.PAUSED)
    ids = await engine.submit(*[submission(index, request_id=f"r{index}") for index in range(3)])
    for identity in ids:
        await engine.corridor.cancel_message(engine.tenant_key, identity)
    engine.clock.jump(120 * DAY)
    rows = engine.corridor.sweep.retention._rows
    rows[Kept.REQUEST_IDS], rows[Kept.MESSAGES] = 1, ROWS_MAX
    await engine.corridor.sweep.prune()
    assert rows[Kept.REQUEST_IDS] >= ROWS_MIN, "there was more than one round"
    assert await gone(engine, *ids) == [True, True, True]
    assert await engine.rows("SELECT count(*) FROM request_ids") == [(0,)]
    again = await engine.submit(*[submission(index, request_id=f"r{index}") for index in range(3)])
    assert not set(again) & set(ids)


@pytest.mark.parametrize("end", ["delivered", "delivery_failed"])
async def test_what_was_sent_a_month_after_it_was_accepted_stays_a_week(
    start_engine: StartEngine, carrier: Carrier, end: str
) -> None:
    await carrier.set(**NO_RECEIPTS)
    engine = await start_engine(carrier.base_url, message_retention_days=8)
    at_s = engine.clock.now_us() // US + 30 * DAY
    [identity] = await engine.submit(submission(0, schedule_time={"seconds": at_s}))
    await engine.pass_time(30 * DAY + HOUR)
    provider_id = (await engine.until_state(identity, "SUBMITTED")).provider_message
    await engine.deliver("", receipt_body("e1", end, provider_id=provider_id))
    await engine.until_state(identity, "DELIVERED", "UNDELIVERED")
    await engine.corridor.sweep.prune()
    assert await gone(engine, identity) == [False]
    engine.clock.jump(6 * DAY)
    await engine.corridor.sweep.prune()
    # A late receipt finds it, whatever it says of it.
    assert await engine.deliver("", receipt_body("e2", "delivered", provider_id=provider_id)) == 200
    assert (await engine.until_state(identity, "DELIVERED")).provider_message == provider_id
    engine.clock.jump(8 * DAY)
    await engine.corridor.sweep.prune()
    assert await gone(engine, identity) == [True]


@pytest.mark.parametrize("store_kind", ["mysql"], indirect=True)
async def test_days_that_went_and_rows_that_came_too_early_are_told(engine: Engine) -> None:
    def told(name: str) -> float | None:
        return engine.corridor.metrics.registry.get_sample_value(f"longwave_store_{name}_total")

    await engine.set_campaign(CampaignState.PAUSED)
    assert (told("partitions_dropped"), told("late_rows")) == (0, 0)
    [old] = await engine.submit(submission(0))
    await engine.corridor.cancel_message(engine.tenant_key, old)
    engine.clock.jump(120 * DAY)  # nobody made the days of these months
    await engine.submit(submission(1), submission(2))
    await engine.server_store._make_partitions_if_free()
    assert told("late_rows") == 4
    await engine.server_store._make_partitions_if_free()
    assert told("late_rows") == 4
    await engine.corridor.sweep.prune()
    assert await gone(engine, old) == [True]
    days = told("partitions_dropped")
    assert days
    await engine.corridor.sweep.prune()
    assert told("partitions_dropped") == days
