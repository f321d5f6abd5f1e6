"""What memory has acted on reaches the store: a full disk delays it, a row that cannot be written costs that row alone.

The disk is SQLite's own bound (`Disk`), the bad row a trigger of the test's.
"""

import asyncio
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from engine.errors import StoreFull
from engine.registry.records import CampaignState, OnUnknown
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import (
    EMBEDDED_ONLY,
    SENDER,
    Engine,
    inbound_body,
    receipt_body,
    recipient,
    submission,
)
from tests.corridor.scripted_provider import HOLD, THROTTLED, ScriptedProvider
from tests.corridor.test_store_faults import Disk

ENOUGH = 12


def given(run: Any) -> set[str]:
    """Names of what a job was given, also behind the guard that a shared store puts before it."""
    if getattr(run, "args", ()) and not run.keywords:
        return given(run.args[0])
    return set(getattr(run, "keywords", {}))


class Refusing:
    """The writer, full for so many jobs of a stage that record facts."""

    def __init__(self, engine: Engine, times: int) -> None:
        """Stand before the writer."""
        self._submit = engine.record_writer.submit
        self.left = times
        self.refused = asyncio.Event()
        engine.record_writer.submit = self.submit

    def submit(self, stage: str, run: Any, **more: Any) -> asyncio.Future[Any]:
        """Refuse as a full disk does."""
        if stage != "record" or "facts" not in given(run) or not self.left:
            return self._submit(stage, run, **more)
        self.left -= 1
        self.refused.set()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreFull())
        return future


async def until_let_go(engine: Engine) -> None:
    """Wait until no attempt holds a slot: memory follows the store."""

    async def let_go() -> bool:
        return engine.corridor.dispatch.in_flight == 0

    await engine.until(let_go)


async def poison(engine: Engine, condition: str) -> None:
    """The store refuses this update of a message."""
    await engine.poison("UPDATE", "messages", condition)


@EMBEDDED_ONLY
async def test_outcomes_that_met_a_full_disk_are_recorded_when_it_has_room(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    """F6, I2, I20: the disk fills between intent and outcome, with no reserve; freed, all goes on."""
    provider.post = lambda _: HOLD
    engine = await start_engine(provider.url, in_flight_max=ENOUGH)
    await engine.submit(*(submission(index) for index in range(2 * ENOUGH)))
    await provider.until(lambda: provider.holding == ENOUGH)
    refusing = Refusing(engine, 0)
    disk = Disk(engine)
    await disk.fill(pages_of_reserve=0)
    await engine.execute("PRAGMA cache_spill=OFF")
    refusing.left = 3  # a page may have room for a dozen outcomes yet
    provider.post = lambda _: None
    provider.release()
    await asyncio.wait_for(refusing.refused.wait(), 10)
    opting_out = asyncio.ensure_future(engine.corridor.add_opt_out(engine.tenant_key, int(recipient(0)[1:])))
    await disk.free()
    await engine.corridor._check_durability()
    await engine.until_states({"SUBMITTED": 2 * ENOUGH})
    await until_let_go(engine)
    await asyncio.gather(opting_out, return_exceptions=True)
    await asyncio.wait_for(engine.corridor.add_opt_out(engine.tenant_key, int(recipient(0)[1:])), 10)
    assert provider.posts == 2 * ENOUGH


async def test_a_row_whose_outcome_cannot_be_written_is_unknown_and_its_neighbours_are_recorded(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    engine = await start_engine(provider.url)
    await engine.set_campaign(CampaignState.PAUSED)
    ids = await engine.submit(*(submission(index) for index in range(ENOUGH)))
    submitted = int(pb.MESSAGE_STATE_SUBMITTED)
    await poison(engine, f"NEW.id = {ids[7]} AND NEW.state = {submitted}")
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_states({"SUBMITTED": ENOUGH - 1, "UNKNOWN": 1})
    assert (await engine.message(ids[7])).state == pb.MESSAGE_STATE_UNKNOWN
    await until_let_go(engine)
    await engine.pass_time(61)
    await engine.until_state(ids[7], "UNRESOLVED")
    assert provider.posts == ENOUGH


async def test_a_row_that_cannot_be_written_at_all_holds_no_slot_and_is_taken_up_when_it_can(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    provider.post = lambda _: HOLD
    engine = await start_engine(provider.url)
    ids = await engine.submit(*(submission(index) for index in range(ENOUGH)))
    await provider.until(lambda: provider.holding == ENOUGH)
    await poison(engine, f"NEW.id = {ids[7]}")
    provider.release()
    await engine.until_states({"SUBMITTED": ENOUGH - 1, "DISPATCHING": 1})

    await until_let_go(engine)
    registry = engine.corridor.metrics.registry
    assert registry.get_sample_value("longwave_messages_set_aside_total") == 1
    await asyncio.wait_for(engine.corridor.add_opt_out(engine.tenant_key, int(recipient(7)[1:])), 10)
    engine.clock.jump(61)
    await engine.corridor.sweep.rescue()
    assert registry.get_sample_value("longwave_messages_set_aside_total") == 2
    # A start is not stopped by it either.
    await engine.crash()
    await engine.start()
    await engine.execute("DROP TRIGGER poison")
    engine.clock.jump(61)
    await engine.corridor.sweep.rescue()
    await engine.until_state(ids[7], "UNKNOWN")


async def test_a_row_whose_attempt_cannot_be_written_down_stops_nobody_else_and_ends_dead(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    engine = await start_engine(provider.url)
    await engine.set_campaign(CampaignState.PAUSED)
    ids = await engine.submit(*(submission(index) for index in range(ENOUGH)))
    dispatching = int(pb.MESSAGE_STATE_DISPATCHING)
    await poison(engine, f"NEW.id = {ids[7]} AND NEW.state = {dispatching}")
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_states({"SUBMITTED": ENOUGH - 1, "QUEUED": 1})

    async def aside() -> bool:
        return engine.corridor.record.is_aside(ids[7])

    await engine.until(aside)
    engine.clock.jump(61)
    await engine.corridor.sweep.rescue()
    engine.corridor.dispatch.wake()
    await engine.until_state(ids[7], "DEAD")
    assert provider.posts == ENOUGH - 1


async def test_a_timer_that_cannot_be_settled_holds_up_no_other(engine: Engine) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    ids = await engine.submit(*(submission(index) for index in range(ENOUGH)))
    unknown = int(pb.MESSAGE_STATE_UNKNOWN)
    aged = f"UPDATE messages SET state = {unknown}, due_us = 1, attempt = 1, seq = 3, updated_us = 1"  # noqa: S608
    await engine.execute(aged)
    await poison(engine, f"NEW.id = {ids[3]}")
    await engine.corridor.sweep.settle_due()
    await engine.until_states({"UNRESOLVED": ENOUGH - 1, "UNKNOWN": 1})


async def test_an_attempt_beyond_the_last_number_is_recorded_like_any_other(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    engine = await start_engine(provider.url)
    await engine.set_campaign(CampaignState.PAUSED)
    ids = await engine.submit(*(submission(index) for index in range(3)))
    await engine.execute(f"UPDATE messages SET attempt = 65535 WHERE id = {ids[1]}")  # noqa: S608 - a number
    await engine.crash()
    await engine.start()
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_states({"SUBMITTED": 3})
    assert await engine.rows("SELECT attempt FROM messages ORDER BY id") == [(1,), (65535,), (1,)]


async def test_a_receipt_that_cannot_be_written_costs_its_batch_nothing(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    engine = await start_engine(provider.url)
    ids = await engine.submit(*(submission(index) for index in range(4)))
    await engine.until_states({"SUBMITTED": 4})
    await poison(engine, f"NEW.id = {ids[1]}")
    assert engine.signing is not None
    now_us = engine.clock.now_us()
    batch = [
        engine.signing.sign(engine.callback_query(one, 1), receipt_body(f"e{one}", "delivered"), now_us) for one in ids
    ]
    assert await engine.receive(batch) == [200, 503, 200, 200]
    await engine.until_states({"DELIVERED": 3, "SUBMITTED": 1})
    await engine.execute("DROP TRIGGER poison")
    assert await engine.receive(batch) == [200] * 4
    await engine.until_states({"DELIVERED": 4})


async def test_what_expired_on_a_full_disk_ends_expired_and_lets_its_follower_go(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    engine = await start_engine(provider.url)
    await engine.set_campaign(CampaignState.PAUSED)
    short, long = (Duration(seconds=seconds) for seconds in (10, 86_400))
    [first, follower] = await engine.submit(
        submission(0, validity=short, ordering_key="k"), submission(1, validity=long, ordering_key="k")
    )
    refusing = Refusing(engine, 1)
    engine.clock.jump(11)
    engine.corridor.dispatch.wake()
    await asyncio.wait_for(refusing.refused.wait(), 10)
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_state(first, "EXPIRED")
    await engine.until_state(follower, "SUBMITTED")


async def test_an_opt_out_whose_effect_met_a_full_disk_takes_effect(engine: Engine) -> None:
    writer = engine.record_writer
    submit, refused = writer.submit, asyncio.Event()

    def full_once(stage: str, run: Any, **more: Any) -> asyncio.Future[Any]:
        if stage != "opt_out" or "pairs" not in given(run) or refused.is_set():
            return submit(stage, run, **more)
        refused.set()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreFull())
        return future

    writer.submit = full_once
    assert await engine.deliver("", inbound_body("s", "STOP", sender=recipient(5))) == 200

    async def effective() -> bool:
        return pb.Event.KIND_OPT_OUT_EFFECTIVE in [event.kind for event in await engine.events()]

    await engine.until(effective)
    assert refused.is_set()


async def test_a_batch_that_could_not_be_put_back_on_a_full_disk_is_sent(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    """The attempt's transaction is refused, and so is the reading back of what was popped for it."""
    engine = await start_engine(provider.url)
    writer = engine.record_writer
    submit = writer.submit
    refused: list[str] = []

    def full_twice(stage: str, run: Any, **more: Any) -> asyncio.Future[Any]:
        wanted = stage == "intent" if not refused else "ids" in given(run)
        if len(refused) == 2 or not wanted:
            return submit(stage, run, **more)
        refused.append(stage)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreFull())
        return future

    writer.submit = full_twice
    [identity] = await engine.submit(submission())
    await engine.until_state(identity, "SUBMITTED")
    assert refused == ["intent", "record"]


async def test_attempts_written_down_a_second_time_forget_nobody_the_guard_refused(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    """A full disk undoes the transaction, and the writer runs the job again with the reserve given back."""
    engine = await start_engine(provider.url)
    await engine.set_campaign(CampaignState.PAUSED)
    refused, granted = await engine.submit(submission(0), submission(1))
    number = int(recipient(0)[1:])
    # Memory does not know: the guard has the last word.
    await engine.execute(f"INSERT INTO opt_outs VALUES ({engine.tenant_key}, {number}, 1, 1, '')")  # noqa: S608 - numbers
    writer = engine.record_writer
    submit = writer.submit
    again: list[str] = []

    def twice(stage: str, run: Any, **more: Any) -> asyncio.Future[Any]:
        def undone(connection: Any) -> Any:
            connection.execute("SAVEPOINT undone")
            run(connection)
            connection.execute("ROLLBACK TO undone")
            again.append(stage)
            return run(connection)

        async def undone_on_server(transaction: Any) -> Any:
            await transaction.run("SAVEPOINT undone")
            await run(transaction)
            await transaction.run("ROLLBACK TO SAVEPOINT undone")
            transaction.events.clear()
            again.append(stage)
            return await run(transaction)

        twofold = undone_on_server if engine.store_kind == "mysql" else undone
        return submit(stage, twofold if stage == "intent" else run, **more)

    writer.submit = twice
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_state(refused, "BLOCKED")
    await engine.until_state(granted, "SUBMITTED")
    assert again


async def test_accepted_work_asked_for_again_on_a_full_disk_is_told_to_come_back(engine: Engine) -> None:
    """Whether it was stored, only the store knows: what the door would refuse by now is no answer for good."""
    one = submission(0, request_id="first")
    await engine.submit(one)
    await engine.corridor.add_opt_out(engine.tenant_key, int(recipient(0)[1:]))
    engine.set_full(full=True)
    [taken] = await engine.call([one])
    assert taken.verdict == "STORE_FULL"
    engine.set_full(full=False)
    [taken] = await engine.call([one])
    assert taken.verdict == "ACCEPTED"


async def test_stopping_on_a_full_disk_ends_within_its_grace(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    provider.post = lambda _: HOLD
    engine = await start_engine(provider.url)
    [identity] = await engine.submit(submission())
    await provider.until(lambda: provider.holding == 1)
    refusing = Refusing(engine, 1_000_000)
    provider.release()
    await asyncio.wait_for(refusing.refused.wait(), 10)
    corridor, engine._corridor = engine.corridor, None
    await asyncio.wait_for(corridor.stop(0.2), 10)
    await engine.start()
    await engine.until_state(identity, "UNKNOWN")


@pytest.mark.parametrize("retry_after", ["", "retry-after: 0\r\n", "retry-after: 1\r\n"])
async def test_a_message_that_is_always_too_fast_comes_back_ever_later(
    start_engine: StartEngine, provider: ScriptedProvider, retry_after: str
) -> None:
    """An hour of it costs some dozen attempts, not thousands, and its row stays small."""
    provider.post = lambda _: type(THROTTLED)(429, THROTTLED.body, retry_after)
    engine = await start_engine(provider.url, sample=False)
    await engine.make_sample(on_unknown=OnUnknown.UNRESOLVED)
    await engine.make_campaign("other", SENDER + 1)
    engine.clock.freeze()
    await engine.take_over_dispatch()
    await engine.submit(submission())
    for _ in range(600):
        await engine.dispatch_now()
        engine.clock.jump(6)
    assert 10 < provider.posts < 60
