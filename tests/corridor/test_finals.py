"""Look-ups of messages that never change again are answered from memory; all others from the store, each time."""

import asyncio
from typing import Any, Final

import pytest
import sqlalchemy as sa

from engine import _core
from engine.finals import ENTRY_BYTES, KEPT_S, KEPT_US
from engine.look_up import ListQuery
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import Engine, recipient, submission

LEVELS: Final = ("local", "redis", "store")
PAGE: Final[dict[str, Any]] = {
    "before_id": 0, "campaign_id": "", "states": (), "recipient": 0, "client_reference": "", "accepted_from_us": 0,
    "accepted_until_us": 0, "token_tail": str,
}  # fmt: skip


def lookups(engine: Engine) -> dict[str, float]:
    """Look-ups so far, by what answered."""
    registry = engine.corridor.metrics.registry
    counts = {level: registry.get_sample_value("longwave_cache_lookups_total", {"level": level}) for level in LEVELS}
    return {level: count for level, count in counts.items() if count}


async def delivered(engine: Engine, count: int = 1) -> list[int]:
    ids = await engine.submit(*(submission(index) for index in range(count)))
    await engine.until_states({"DELIVERED": count})
    return ids


async def test_the_second_look_up_of_a_delivered_message_needs_no_store(engine: Engine) -> None:
    [identity] = await delivered(engine)
    first, second = await engine.view(identity), await engine.view(identity)
    assert first == second
    assert first.message.state == pb.MESSAGE_STATE_DELIVERED
    assert first.message.campaign
    assert first.timeline
    assert lookups(engine) == {"store": 1, "local": 1}
    held = engine.corridor.metrics.registry.get_sample_value("longwave_cache_bytes")
    assert held == engine.corridor.finals.bytes > len(first.SerializeToString())


async def test_what_is_kept_of_one_tenant_is_no_other_tenants(engine: Engine) -> None:
    other = await engine.make_tenant("other", 12025550999)
    [identity] = await delivered(engine)
    await engine.view(identity)
    assert await engine.corridor.get_message(other.key, identity) is None
    assert await engine.corridor.get_message(other.key, identity) is None
    assert lookups(engine) == {"store": 3}


async def test_its_time_over_it_is_read_again(engine: Engine) -> None:
    [identity] = await delivered(engine)
    await engine.view(identity)
    engine.clock.jump(KEPT_S - 1)
    await engine.view(identity)
    assert lookups(engine) == {"store": 1, "local": 1}
    engine.clock.jump(2)
    await engine.view(identity)
    assert lookups(engine) == {"store": 2, "local": 1}


async def test_a_message_that_may_still_move_is_read_each_time(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url)
    await carrier.set(**NO_RECEIPTS)
    [identity] = await engine.submit(submission(0))
    await engine.until_states({"SUBMITTED": 1})
    await engine.view(identity)
    await engine.view(identity)
    assert lookups(engine) == {"store": 2}


@pytest.mark.parametrize(
    ("state", "kept"),
    [(17, False), (18, False), (19, False), (24, False), (20, True), (21, True), (22, True), (23, True)],
)
async def test_of_terminal_states_those_are_kept_that_are_never_upgraded(
    engine: Engine, state: int, *, kept: bool
) -> None:
    [identity] = await delivered(engine)
    await set_state(engine, state)
    await engine.view(identity)
    await engine.view(identity)
    assert lookups(engine) == ({"store": 1, "local": 1} if kept else {"store": 2})
    await engine.corridor.list_messages(engine.tenant_key, ListQuery(page_size=5, **PAGE))
    assert len(engine.corridor.finals) == int(kept)


async def set_state(engine: Engine, state: int) -> None:
    """As if it had come about otherwise."""

    def change(control: sa.Connection) -> None:
        control.execute(sa.text(f"UPDATE messages SET state = {state}"))  # noqa: S608 - a number

    await engine.corridor.run_control(change)


async def test_a_page_keeps_what_it_lists_without_another_query(engine: Engine) -> None:
    ids = await delivered(engine, 3)
    page = pb.ListMessagesResponse.FromString(
        await engine.corridor.list_messages(engine.tenant_key, ListQuery(page_size=2, **PAGE))
    )
    assert len(page.messages) == len(engine.corridor.finals) == 2
    views = [await engine.view(identity) for identity in reversed(ids)]
    assert lookups(engine) == {"local": 2, "store": 1}
    assert [view.message for view in views[:2]] == list(page.messages)
    assert all(view.timeline for view in views)


async def test_a_page_does_not_push_out_what_was_asked_for(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, cache_bytes=2500)
    ids = await delivered(engine, 4)
    await engine.view(ids[0])
    await engine.corridor.list_messages(engine.tenant_key, ListQuery(page_size=4, **PAGE))
    await engine.view(ids[0])
    assert lookups(engine) == {"store": 1, "local": 1}
    assert 0 < engine.corridor.finals.bytes <= 2500
    assert len(engine.corridor.finals) < 4


async def test_a_page_does_not_push_out_for_a_timeline_either(engine: Engine) -> None:
    """The page's own bytes have room, with the timeline they have not."""
    ids = await delivered(engine, 2)
    page = pb.ListMessagesResponse.FromString(
        await engine.corridor.list_messages(engine.tenant_key, ListQuery(page_size=2, **PAGE))
    )
    finals = engine.corridor.finals
    finals.forget()
    await engine.view(ids[0])
    newest = next(message for message in page.messages if message.name.endswith(_core.short_id(ids[1])))
    finals._bytes_max = finals.bytes + ENTRY_BYTES + newest.ByteSize()
    assert finals.lacks(engine.tenant_key, ids[1], newest.ByteSize())
    # The newest alone: were the other listed too, it would come back.
    await engine.corridor.list_messages(engine.tenant_key, ListQuery(page_size=1, **PAGE))
    assert list(finals._kept) == [(engine.tenant_key, ids[0])]


async def test_turned_off_everything_is_read_from_the_store(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, cache_bytes=0)
    [identity] = await delivered(engine)
    await engine.view(identity)
    await engine.view(identity)
    assert lookups(engine) == {"store": 2}
    assert engine.corridor.finals.bytes == 0


async def test_an_opt_out_is_in_force_whatever_is_kept(engine: Engine) -> None:
    """Consent is never asked of what is kept: a message that was delivered and looked at allows no other."""
    [identity] = await delivered(engine)
    await engine.view(identity)
    await engine.corridor.add_opt_out(engine.tenant_key, int(recipient(0)[1:]))
    [taken] = await engine.call([submission(0, request_id="again")])
    assert taken.verdict == "RECIPIENT_OPTED_OUT"
    opt_outs = await engine.corridor.list_opt_outs(engine.tenant_key, 0, 10)
    assert [number for number, _, _ in opt_outs] == [int(recipient(0)[1:])]


async def test_a_campaign_that_is_not_known_here_yet_is_not_kept_without_its_name(engine: Engine) -> None:
    """A picture of the registry may be 2 s old: what is answered meanwhile must not be answered for 300 s."""
    [identity] = await delivered(engine)
    known = engine.corridor.rights.registry
    engine.corridor.rights.registry = type(known)(known.version, [], [], [])
    assert (await engine.view(identity)).message.campaign == "campaigns/"
    engine.corridor.rights.registry = known
    assert (await engine.view(identity)).message.campaign != "campaigns/"


async def test_time_counts_from_before_the_store_was_asked(engine: Engine) -> None:
    """What retention removes while the answer is on its way is not kept longer for it."""
    [identity] = await delivered(engine)
    asked = asyncio.ensure_future(engine.corridor.get_message(engine.tenant_key, identity))
    await asyncio.sleep(0)
    engine.clock.jump(10)
    await asked
    [(_, until_us)] = engine.corridor.finals._kept.values()
    assert until_us < engine.clock.mono_us() + KEPT_US - 9_000_000
