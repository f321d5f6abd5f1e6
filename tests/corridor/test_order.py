"""Whose turn it is: urgent before bulk, keys in order, not before their time, not after their end, not when stopped."""

from typing import Final

from engine.registry import campaigns
from engine.registry.records import CampaignState, OnUnknown
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import SENDER, US, Engine, receipt_body, recipient, state_name, submission

BULK: Final = 20_000
IN_FLIGHT_MAX: Final = 32


async def test_an_urgent_message_passes_a_backlog(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, in_flight_max=IN_FLIGHT_MAX, connections_max=IN_FLIGHT_MAX)
    await carrier.set(**NO_RECEIPTS)
    await engine.take_over_dispatch()
    for start in range(0, BULK, 1000):
        await engine.submit(*(submission(start + index, message_class=pb.MESSAGE_CLASS_BULK) for index in range(1000)))
    await engine.corridor.dispatch._pass()
    await carrier.until_requests(IN_FLIGHT_MAX)
    urgent = [recipient(BULK + index) for index in range(5)]
    await engine.submit(*(submission(number, message_class=pb.MESSAGE_CLASS_CRITICAL) for number in urgent))

    async def some_ended() -> bool:
        return engine.corridor.dispatch.in_flight == 0

    await engine.until(some_ended)
    await engine.corridor.dispatch._pass()
    records = await carrier.until_requests(2 * IN_FLIGHT_MAX)
    ahead = [record["to"] for record in records[:IN_FLIGHT_MAX]]
    assert set(urgent).isdisjoint(ahead)
    assert set(urgent) <= {record["to"] for record in records[IN_FLIGHT_MAX:]}
    assert len(records) == 2 * IN_FLIGHT_MAX
    assert len(engine.corridor.scheduler) == BULK + 5 - 2 * IN_FLIGHT_MAX


async def test_messages_of_one_key_start_in_order_one_at_a_time(engine: Engine, carrier: Carrier) -> None:
    """I13."""
    await carrier.set(latency_mean_ms=5, latency_max_ms=20, **NO_RECEIPTS)
    keys = 4
    ids = await engine.submit(
        *(submission(index, text=f"{index}", ordering_key=f"key-{index % keys}") for index in range(60))
    )
    await engine.until_states({"SUBMITTED": 60})
    order = [record["to"] for record in await carrier.records()]
    for key in range(keys):
        mine = [recipient(index) for index in range(key, 60, keys)]
        assert [number for number in order if number in set(mine)] == mine
    steps = [event for event in await engine.events() if event.kind == pb.Event.KIND_MESSAGE]
    key_of = {(await engine.message(identity)).name: index % keys for index, identity in enumerate(ids)}
    out: dict[int, str] = {}
    for event in steps:
        key = key_of[event.message]
        if state_name(event.state) == "DISPATCHING":
            assert key not in out
            out[key] = event.message
        elif state_name(event.state) == "SUBMITTED":
            assert out.pop(key) == event.message


async def test_an_unknown_attempt_holds_its_key_until_it_is_settled(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(drop_taken_share=1, **NO_RECEIPTS)
    first, second, third = await engine.submit(*(submission(index, ordering_key="k") for index in range(3)))
    await engine.until_state(first, "UNKNOWN")
    await carrier.set(drop_taken_share=0)
    assert await engine.timeline(second) == ["QUEUED ACCEPTED"]
    await engine.crash()
    await engine.start()
    assert await engine.timeline(second) == ["QUEUED ACCEPTED"]
    assert len(await carrier.records()) == 1
    await engine.deliver(engine.callback_query(first, 1), receipt_body("e1", "delivered"))
    await engine.until_states({"DELIVERED": 1, "SUBMITTED": 2})
    assert [record["to"] for record in await carrier.records()] == [recipient(index) for index in range(3)]
    assert (await engine.timeline(third))[-1] == "SUBMITTED PROVIDER_TOOK"


async def test_an_unresolved_end_releases_the_key(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(drop_untaken_share=1, **NO_RECEIPTS)
    first, second = await engine.submit(*(submission(index, ordering_key="k") for index in range(2)))
    await engine.until_state(first, "UNKNOWN")
    await carrier.set(drop_untaken_share=0)
    await engine.pass_time(61)
    await engine.until_state(second, "SUBMITTED")
    assert (await engine.timeline(first))[-1] == "UNRESOLVED NO_EVIDENCE"


async def test_a_key_is_a_campaigns_own(engine: Engine, carrier: Carrier) -> None:
    await engine.make_campaign("second", SENDER + 1)
    await carrier.set(drop_taken_share=1, **NO_RECEIPTS)
    [first] = await engine.submit(submission(0, ordering_key="k"))
    await engine.until_state(first, "UNKNOWN")
    await carrier.set(drop_taken_share=0)
    [other] = await engine.submit(submission(1, ordering_key="k", campaign="campaigns/second"))
    await engine.until_state(other, "SUBMITTED")


async def test_a_scheduled_message_waits_for_its_time(engine: Engine, carrier: Carrier) -> None:
    at_s = engine.clock.now_us() // US + 3600
    [identity] = await engine.submit(submission(schedule_time={"seconds": at_s}))
    waiting = await engine.message(identity)
    assert (state_name(waiting.state), waiting.next_attempt_time.seconds) == ("QUEUED", at_s)
    await engine.crash()
    await engine.start()
    await engine.pass_time(3590)
    assert await carrier.records() == []
    await engine.pass_time(11)
    await engine.until_state(identity, "SUBMITTED", "SENT", "DELIVERED")


async def test_a_message_whose_validity_ended_never_leaves(engine: Engine, carrier: Carrier) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    at_s = engine.clock.now_us() // US + 100
    short, long, scheduled = await engine.submit(
        submission(0, validity={"seconds": 60}),
        submission(1, validity={"seconds": 3600}),
        submission(2, validity={"seconds": 60}, schedule_time={"seconds": at_s}),
    )
    await engine.pass_time(61)
    await engine.until_state(short, "EXPIRED")
    assert state_name((await engine.message(scheduled)).state) == "QUEUED"  # validity runs from its time on
    await engine.pass_time(100)
    await engine.until_state(scheduled, "EXPIRED")
    assert (await engine.timeline(short))[-1] == "EXPIRED EXPIRED"
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_state(long, "SUBMITTED", "SENT", "DELIVERED")
    assert [record["to"] for record in await carrier.records()] == [recipient(1)]


async def test_what_expired_while_the_engine_was_down_never_leaves(engine: Engine, carrier: Carrier) -> None:
    at_s = engine.clock.now_us() // US + 10
    [identity] = await engine.submit(submission(validity={"seconds": 60}, schedule_time={"seconds": at_s}))
    await engine.crash()
    engine.clock.jump(3600)
    await engine.start()
    await engine.until_state(identity, "EXPIRED")
    assert await carrier.records() == []


async def test_a_paused_campaign_holds_and_goes_on(engine: Engine, carrier: Carrier) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    ids = await engine.submit(*(submission(index) for index in range(20)))
    await engine.pass_time(600)
    assert await engine.states() == {"QUEUED": 20}
    assert await carrier.records() == []
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_state(ids[-1], "SUBMITTED", "SENT", "DELIVERED")


async def test_a_stopped_campaign_blocks_what_it_held(engine: Engine, carrier: Carrier) -> None:
    await engine.make_campaign("second", SENDER + 1)
    await engine.set_campaign(CampaignState.PAUSED)
    await engine.submit(*(submission(index) for index in range(20)))
    await engine.set_campaign(CampaignState.STOPPED)
    await engine.until_states({"BLOCKED": 20})
    assert await carrier.records() == []
    assert [one.verdict for one in await engine.call([submission()])] == ["CAMPAIGN_STOPPED"]
    [other] = await engine.submit(submission(1, campaign="campaigns/second"))
    await engine.until_state(other, "SUBMITTED", "SENT", "DELIVERED")


async def test_a_number_taken_away_sends_nothing_more(engine: Engine, carrier: Carrier) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    [identity] = await engine.submit(submission())
    tenant = engine.tenant
    assert tenant is not None
    await engine.corridor.run_control(lambda control: campaigns.delete_number(control, tenant, SENDER))
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_state(identity, "BLOCKED")
    assert (await engine.timeline(identity))[-1] == "BLOCKED CAMPAIGN_STOPPED"
    assert await carrier.records() == []
    assert [one.verdict for one in await engine.call([submission()])] == ["NO_SENDER"]


async def test_a_cancelled_message_never_leaves(engine: Engine, carrier: Carrier) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    first, second = await engine.submit(submission(0), submission(1))
    for _ in range(2):
        encoded, too_late = await engine.corridor.cancel_message(engine.tenant_key, first)
        assert encoded is not None
        assert not too_late
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_state(second, "DELIVERED")
    assert await engine.timeline(first) == ["QUEUED ACCEPTED", "CANCELLED CANCELLED"]
    assert [record["to"] for record in await carrier.records()] == [recipient(1)]
    assert (await engine.corridor.cancel_message(engine.tenant_key, second))[1] is True
    assert await engine.corridor.cancel_message(engine.tenant_key + 1, second) == (None, False)


async def test_a_copy_that_may_be_on_its_way_holds_its_key_though_it_was_opted_out(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    """I13: taken out of waiting by an opt-out, it is of unknown outcome still, and what follows it waits."""
    engine = await start_engine(carrier.base_url, reconcile_wait_s=60, backoff_base_ms=60_000)
    await engine.make_campaign("resent", SENDER + 1, on_unknown=OnUnknown.RESEND)
    await carrier.set(drop_taken_share=1, idempotency="ignored", **NO_RECEIPTS)
    fields = {"campaign": "campaigns/resent", "ordering_key": "k"}
    first, second = await engine.submit(submission(0, **fields), submission(1, **fields))
    await engine.until_state(first, "UNKNOWN")
    await engine.take_over_dispatch()
    await engine.pass_time(61)
    await engine.until_state(first, "QUEUED")
    await carrier.set(drop_taken_share=0)
    await engine.corridor.add_opt_out(engine.tenant_key, int(recipient(0)[1:]))
    await engine.until_state(first, "UNKNOWN")
    await engine.dispatch_now()
    assert await engine.timeline(second) == ["QUEUED ACCEPTED"]
    await engine.pass_time(61)
    await engine.until_state(first, "UNRESOLVED")
    await engine.dispatch_now()
    await engine.until_state(second, "SUBMITTED")
