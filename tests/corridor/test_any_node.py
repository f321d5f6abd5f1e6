"""Two engines over one store: what one accepts, receives or is asked reaches the owner of its shard."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine import _core
from engine.errors import NotReady
from engine.trace_context import root_of
from engine.traces import Span, Traces
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.engine_fixture import (
    Engine,
    inbound_body,
    receipt_body,
    recipient,
    submission,
    two_engines,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def pair(
    carrier: Carrier, tmp_path: Path, new_database: Callable[[], str]
) -> AsyncIterator[tuple[Engine, Engine]]:
    """The owner of all, and one that comes to share with it."""
    async with two_engines(tmp_path, carrier.base_url, new_database()) as (owner, other):
        assert owner.corridor.duty.owner
        assert not other.corridor.duty.owner
        yield owner, other


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


async def test_an_ordering_key_keeps_its_order_whatever_the_clocks_say(pair: tuple[Engine, Engine]) -> None:
    """I13: whoever loads what waits goes by ids, which a node whose clock is slow would give from the past."""
    owner, other = pair
    other.clock.set_wall(-60)
    [first] = await owner.submit(submission(0, ordering_key="key"))
    second, free = await other.submit(submission(1, ordering_key="key"), submission(2))
    [third] = await owner.submit(submission(3, ordering_key="key"))
    assert first < second < third
    assert second < free
    await owner.until_states({"DELIVERED": 4})
    for identity, index in zip((first, second, free, third), range(4), strict=True):
        assert (await other.message(identity)).recipient == recipient(index)


async def test_a_stop_that_another_node_received_forbids(pair: tuple[Engine, Engine], carrier: Carrier) -> None:
    owner, other = pair
    assert other.signing is not None
    body = inbound_body("one", "STOP", sender=recipient(0))
    webhook = other.signing.sign("", body, other.clock.now_us())
    assert await other.corridor.receive([webhook]) == [200]
    assert await owner.rows("SELECT count(*) FROM opt_outs") == [(1,)]

    async def is_effective() -> bool:
        return await owner.server_store.barriers_open() == []

    await until(is_effective)

    async def is_refused() -> bool:
        return (await owner.call([submission(0)]))[0].verdict == "RECIPIENT_OPTED_OUT"

    await until(is_refused)
    assert not any(record["taken"] for record in await carrier.records())


async def test_an_opt_out_by_a_call_on_another_node_is_answered_when_it_took_effect(
    pair: tuple[Engine, Engine],
) -> None:
    owner, other = pair
    later = submission(0)
    later.schedule_time.GetCurrentTime()
    later.schedule_time.seconds += 3600
    [identity] = await owner.submit(later)
    number = int(recipient(0)[1:])
    await other.corridor.add_opt_out(other.tenant_key, number)
    assert await owner.server_store.barriers_open() == []
    await owner.until_state(identity, "BLOCKED")
    assert await other.corridor.remove_opt_out(other.tenant_key, number)

    async def is_allowed() -> bool:
        [taken] = await owner.call([submission(0)])
        return taken.verdict == "ACCEPTED"

    await until(is_allowed)


async def test_a_cancellation_on_another_node_lets_go_of_what_waits_behind_it(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    later = submission(0, ordering_key="k")
    later.schedule_time.GetCurrentTime()
    later.schedule_time.seconds += 3600
    [first] = await owner.submit(later)
    [second] = await other.submit(submission(1, ordering_key="k"))
    _, too_late = await other.corridor.cancel_message(other.tenant_key, first)
    assert not too_late
    await owner.until_state(second, "DELIVERED")


async def test_keys_keep_their_order_whoever_accepts(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    ids = [(await (owner, other)[index % 2].submit(submission(index, ordering_key="k")))[0] for index in range(10)]
    await owner.until_states({"DELIVERED": 10})
    starts = [event for event in await owner.events() if event.state == pb.MESSAGE_STATE_DISPATCHING]
    assert [event.message for event in starts] == [f"messages/{_core.short_id(identity)}" for identity in ids]


async def test_one_that_waits_for_events_on_another_node_is_woken(pair: tuple[Engine, Engine]) -> None:
    owner, other = pair
    _, newest = await other.corridor.event_bounds(other.tenant_key)
    waiting = asyncio.ensure_future(other.corridor.wait_for_events(other.tenant_key, newest, 30))
    await owner.submit(submission(0))

    async def has_more() -> bool:
        return (await other.corridor.event_bounds(other.tenant_key))[1] > newest

    await until(has_more)
    await asyncio.wait_for(waiting, 5)


async def test_receipts_through_another_node_reach_the_owner(pair: tuple[Engine, Engine], carrier: Carrier) -> None:
    owner, other = pair
    await carrier.set(**NO_RECEIPTS)
    [identity] = await owner.submit(submission(0))
    await owner.until_state(identity, "SUBMITTED")
    assert other.signing is not None
    [record] = await carrier.records()
    body = receipt_body("finalized-1", "delivered", provider_id=record["id"])
    webhook = other.signing.sign("", body, other.clock.now_us())
    assert await other.corridor.receive([webhook, webhook]) == [200, 200]
    await owner.until_state(identity, "DELIVERED")
    forged = webhook._replace(signature=b"AAAA")
    assert await other.corridor.receive([forged]) == [401]


async def test_a_message_has_one_trace_over_all_nodes(pair: tuple[Engine, Engine], carrier: Carrier) -> None:
    """One node accepts it, its owner sends it, and its receipt comes to the first: nobody told the other of a trace."""
    spans: dict[str, list[Span]] = {"owner": [], "other": []}
    for name, engine in zip(spans, pair, strict=True):
        sender = Kept(spans[name])
        engine.corridor._meter.traces = Traces(
            sender, engine.clock, ratio=1, parent_based=True, store=engine.store_kind
        )
    owner, other = pair
    await carrier.set(**NO_RECEIPTS)
    # The first gets another id in the store, for its ordering key.
    ids = [*await other.submit(submission(0, ordering_key="key")), *await other.submit(submission(1))]
    for identity in ids:
        await owner.until_state(identity, "SUBMITTED")
    assert other.signing is not None
    for number, record in enumerate(await carrier.records()):
        body = receipt_body(f"finalized-{number}", "delivered", provider_id=record["id"])
        query = urlsplit(record["webhook_url"]).query
        assert await other.corridor.receive([other.signing.sign(query, body, other.clock.now_us())]) == [200]
    for identity in ids:
        await owner.until_state(identity, "DELIVERED")
        found = {
            name: {span.name for span in each if span.context.trace_id == root_of(identity).trace_id}
            for name, each in spans.items()
        }
        assert found == {
            "other": {"message", "admit", "append", "POST /webhooks/telnyx", "record"},
            "owner": {"schedule", "dispatch", "POST", "record"},
        }
    assert {span.context.trace_id for each in spans.values() for span in each} == {root_of(i).trace_id for i in ids}


class Kept:
    """Where spans go, for one to look."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans

    def put(self, span: Span) -> None:
        self._spans.append(span)

    def left_out(self, spans: int) -> None:
        raise AssertionError(spans)


async def test_a_node_without_its_lease_accepts_nothing(pair: tuple[Engine, Engine]) -> None:
    _, other = pair
    other.clock.jump(2e9)
    assert other.corridor.not_ready() is not None
    with pytest.raises(NotReady):
        await other.submit(submission(0))
