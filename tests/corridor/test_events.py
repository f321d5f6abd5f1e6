"""The event log: gapless for each message, complete for each change, resumable from anywhere."""

from collections import defaultdict
from typing import Any, Final

from engine import _core
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import SENDER, Engine, identity, recipient, submission

MIX: Final[dict[str, Any]] = {
    "error_share": 0.1, "throttle_share": 0.1, "retry_after_s": 1, "drop_taken_share": 0.1, "late_error_share": 0.1,
    "async_failure_share": 0.2, "receipt_duplicate_share": 0.3, "receipt_reorder_share": 0.3,
    "receipt_early_share": 0.3,
}  # fmt: skip
MESSAGES: Final = 150


async def eventful(start_engine: StartEngine, carrier: Carrier) -> Engine:
    """An engine after answers and receipts of every kind, an opt-out, a cancellation and a crash."""
    engine = await start_engine(carrier.base_url, backoff_base_ms=1, breaker_attempts_min=1_000_000)
    await carrier.set(**MIX)
    ids = await engine.submit(*(submission(index, client_reference=f"{index}") for index in range(MESSAGES)))
    await engine.corridor.add_opt_out(engine.tenant_key, int(recipient(MESSAGES - 1)[1:]))
    await engine.corridor.cancel_message(engine.tenant_key, ids[-2])
    await carrier.settle()
    await engine.crash()
    await engine.start()
    await engine.pass_time(61)

    async def no_attempt_is_open() -> bool:
        return "DISPATCHING" not in await engine.states()

    await engine.until(no_attempt_is_open)
    return engine


def key(event: pb.Event) -> tuple[Any, ...]:
    """What an event and its place in a timeline share."""
    return event.seq, event.previous_state, event.state, event.reason, event.code, event.attempt, event.generation


async def test_every_change_has_its_event_and_the_reverse(start_engine: StartEngine, carrier: Carrier) -> None:
    """I14, I15."""
    engine = await eventful(start_engine, carrier)
    # From here on nothing may change between the reads below.
    await engine.take_over_dispatch()
    await carrier.settle()
    for task in engine.corridor._tasks:
        task.cancel()
    told: dict[int, list[pb.Event]] = defaultdict(list)
    for event in await engine.events():
        if event.kind == pb.Event.KIND_MESSAGE:
            told[identity(event.message)].append(event)
    rows = {row[0]: row[1:] for row in await engine.rows("SELECT id, seq, state, reason FROM messages")}
    assert set(told) == set(rows)
    assert len(rows) == MESSAGES
    for message, events in told.items():
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.previous_state for event in events] == [0, *(event.state for event in events[:-1])]
        assert (len(events), events[-1].state, events[-1].reason) == rows[message]
        assert [key(event) for event in (await engine.view(message)).timeline] == [key(event) for event in events]
    assert {event.client_reference for events in told.values() for event in events} <= {
        "", *(f"{index}" for index in range(MESSAGES))
    }  # fmt: skip


async def test_reading_resumes_anywhere(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await eventful(start_engine, carrier)
    await engine.take_over_dispatch()
    # Receipts may still come in: what is compared ends where this first reading ended.
    whole, newest = await engine.corridor.read_events(engine.tenant_key, 0, 100_000)
    for rows_max in (1, 3, 7):
        found: list[bytes] = []
        position = 0
        while position < newest:
            rows, position = await engine.corridor.read_events(engine.tenant_key, position, rows_max)
            assert len(rows) <= rows_max
            found += rows
        assert found[: len(whole)] == whole
    after_all, reached = await engine.corridor.read_events(engine.tenant_key, 10**12, 10)
    assert (after_all, reached) == ([], 10**12)


async def test_nobody_sees_anothers_events(engine: Engine) -> None:
    """I18."""
    other = await engine.make_tenant("other", SENDER + 50)
    [ours] = await engine.call([submission(0)])
    [theirs] = await engine.call([submission(1)], other.key)
    await engine.until_states({"DELIVERED": 2})
    assert {identity(event.message) for event in await engine.events()} == {ours.id}
    assert {identity(event.message) for event in await engine.events(other.key)} == {theirs.id}
    assert await engine.corridor.get_message(other.key, ours.id) is None


async def test_positions_never_start_over(engine: Engine) -> None:
    await engine.submit(submission())
    await engine.until_states({"DELIVERED": 1})
    _, before = await engine.corridor.event_bounds(engine.tenant_key)
    engine.clock.jump(8 * 86_400)
    await engine.corridor.sweep.prune()
    oldest, newest = await engine.corridor.event_bounds(engine.tenant_key)
    assert (oldest, newest) == (before, before)
    await engine.submit(submission(1))
    assert (await engine.corridor.event_bounds(engine.tenant_key))[1] > before


async def test_what_is_kept_for_a_while_is_forgotten_after_it(engine: Engine) -> None:
    """Request ids 72 h, webhook ids 7 days, early receipts 72 h; the messages themselves stay."""
    await engine.submit(*(submission(index, request_id=f"r{index}") for index in range(10)))
    await engine.until_states({"DELIVERED": 10})
    kept = "SELECT (SELECT count(*) FROM request_ids), (SELECT count(*) > 0 FROM webhook_events)"
    engine.clock.jump(71 * 3600)
    await engine.corridor.sweep.prune()
    assert await engine.rows(kept) == [(10, 1)]
    engine.clock.jump(8 * 86_400)
    await engine.submit(submission(11, request_id="r11"))
    await engine.corridor.sweep.prune()
    assert await engine.rows(kept) == [(1, 0)]
    assert await engine.rows("SELECT count(*) FROM messages") == [(11,)]
    assert await engine.rows("SELECT value FROM facts WHERE name = ?", "request_ids_pruned_to")
    assert _core.VERSION
