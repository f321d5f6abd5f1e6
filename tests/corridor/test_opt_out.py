"""STOP is a barrier: once it is in effect nothing to that number starts or is on the wire.

Recovery of a barrier after a crash is proved with real processes elsewhere.
"""

import asyncio
from typing import Final

import pytest

from engine.stores.store import OPT_OUT_API, OPT_OUT_KEYWORD, OPT_OUT_PROVIDER
from longwave.v1 import messaging_pb2 as pb
from server.webhooks import Inbound
from tests.corridor.carrier_process import Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import SENDER, US, Engine, inbound_body, recipient, state_name, submission
from tests.corridor.scripted_provider import HOLD, ScriptedProvider

NUMBER: Final = recipient(5)
DIGITS: Final = int(NUMBER[1:])
OPEN: Final = {"QUEUED", "DISPATCHING", "UNKNOWN"}
SLOW_MS: Final = 400.0
SLOW: Final = {"latency_min_ms": SLOW_MS, "latency_mean_ms": SLOW_MS, "latency_max_ms": SLOW_MS}


async def consent_events(engine: Engine, number: str = NUMBER) -> list[str]:
    """Kinds of the events about a number's consent, in the log's order."""
    kinds = {pb.Event.KIND_OPT_OUT, pb.Event.KIND_OPT_OUT_EFFECTIVE, pb.Event.KIND_OPT_IN}
    events = [event for event in await engine.events() if event.kind in kinds and event.recipient == number]
    return [pb.Event.Kind.Name(event.kind).removeprefix("KIND_") for event in events]


async def until_effective(engine: Engine, number: str = NUMBER) -> None:
    """Wait until the last word about a number is that its opt-out is in effect."""

    async def holds() -> bool:
        return (await consent_events(engine, number))[-1:] == ["OPT_OUT_EFFECTIVE"]

    await engine.until(holds)


async def test_the_call_returns_after_the_outcome_of_what_was_on_the_wire(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(**SLOW)
    [on_the_wire] = await engine.submit(submission(NUMBER))
    await carrier.until_requests(1)
    later_us = engine.clock.now_us() // US + 3600
    [scheduled, to_another] = await engine.submit(
        submission(NUMBER, schedule_time={"seconds": later_us}), submission(6, schedule_time={"seconds": later_us})
    )
    call = asyncio.create_task(engine.corridor.add_opt_out(engine.tenant_key, DIGITS))
    await engine.until_state(scheduled, "BLOCKED")
    assert state_name((await engine.message(on_the_wire)).state) == "DISPATCHING"
    assert not call.done()
    source, _ = await call
    assert source == OPT_OUT_API
    assert state_name((await engine.message(on_the_wire)).state) in {"SUBMITTED", "SENT", "DELIVERED"}
    assert await consent_events(engine) == ["OPT_OUT", "OPT_OUT_EFFECTIVE"]
    assert (await engine.timeline(scheduled))[-1] == "BLOCKED OPTED_OUT"
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["RECIPIENT_OPTED_OUT"]
    await engine.pass_time(3601)
    await engine.until_state(to_another, "SUBMITTED", "SENT", "DELIVERED")
    assert [record["to"] for record in await carrier.records()] == [NUMBER, recipient(6)]


async def test_a_second_call_waits_too_and_says_since_when(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(**SLOW)
    [identity] = await engine.submit(submission(NUMBER))
    await carrier.until_requests(1)
    calls = [asyncio.create_task(engine.corridor.add_opt_out(engine.tenant_key, DIGITS)) for _ in range(3)]
    answers = await asyncio.gather(*calls)
    assert len(set(answers)) == 1
    assert state_name((await engine.message(identity)).state) != "DISPATCHING"
    assert await consent_events(engine) == ["OPT_OUT", "OPT_OUT_EFFECTIVE"]


async def test_an_opt_out_holds_for_its_tenant_only(engine: Engine, carrier: Carrier) -> None:
    other = await engine.make_tenant("other", SENDER + 50)
    await engine.corridor.add_opt_out(engine.tenant_key, DIGITS)
    [theirs] = await engine.call([submission(NUMBER)], other.key)
    assert theirs.verdict == "ACCEPTED"
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["RECIPIENT_OPTED_OUT"]
    await carrier.until_requests(1)


@pytest.mark.parametrize("text", ["STOP", "stop", " Stop. ", "\u200bSTOP!"])
async def test_a_stop_from_the_handset(engine: Engine, carrier: Carrier, text: str) -> None:
    await carrier.set(inbound_webhook_url=engine.edge_url)
    await carrier.inbound(NUMBER, SENDER, text, duplicates=2)
    await until_effective(engine)
    await carrier.settle()
    assert await consent_events(engine) == ["OPT_OUT", "OPT_OUT_EFFECTIVE"]
    inbound = [event for event in await engine.events() if event.kind == pb.Event.KIND_INBOUND]
    assert [(event.inbound.text, event.inbound.sender) for event in inbound] == [(text, NUMBER)]
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["RECIPIENT_OPTED_OUT"]
    [(_, source, _)] = await engine.corridor.list_opt_outs(engine.tenant_key, 0, 10)
    assert source == OPT_OUT_KEYWORD


@pytest.mark.parametrize("text", ["please stop", "STOP IT", "don't start", ""])
async def test_a_keyword_inside_a_sentence_is_a_text(engine: Engine, carrier: Carrier, text: str) -> None:
    await carrier.set(inbound_webhook_url=engine.edge_url)
    await carrier.inbound(NUMBER, SENDER, text)
    await carrier.settle()
    assert await engine.rows("SELECT count(*) FROM inbound") == [(1,)]
    assert await consent_events(engine) == []


async def test_a_stop_to_a_number_of_nobody_is_kept_and_forbids_nothing(engine: Engine) -> None:
    assert await engine.deliver("", inbound_body("e1", "STOP", sender=NUMBER, to=SENDER + 99)) == 200
    assert await engine.rows("SELECT tenant FROM inbound") == [(0,)]
    assert await engine.rows("SELECT * FROM opt_outs") == []


async def test_only_a_newer_start_reopens(engine: Engine) -> None:
    async def say(event: str, text: str, minute: int) -> None:
        occurred_at = f"2026-01-01T00:{minute:02d}:00.000+00:00"
        body = inbound_body(event, text, sender=NUMBER, occurred_at=occurred_at)
        assert await engine.deliver("", body) == 200

    await say("stop-1", "STOP", 10)
    await until_effective(engine)
    await say("start-before", "START", 9)
    await say("start-at-once", "START", 10)
    assert await consent_events(engine) == ["OPT_OUT", "OPT_OUT_EFFECTIVE"]
    await say("stop-again", "STOP", 20)
    await say("start-between", "START", 15)
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["RECIPIENT_OPTED_OUT"]
    await say("start-after", "START", 21)
    assert await consent_events(engine) == ["OPT_OUT", "OPT_OUT_EFFECTIVE", "OPT_IN"]
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["ACCEPTED"]


async def test_a_start_without_an_opt_out_is_a_text(engine: Engine) -> None:
    assert await engine.deliver("", inbound_body("e1", "START", sender=NUMBER)) == 200
    assert await consent_events(engine) == []
    assert await engine.rows("SELECT count(*) FROM inbound") == [(1,)]


async def test_an_opt_out_may_be_lifted_by_call(engine: Engine) -> None:
    await engine.corridor.add_opt_out(engine.tenant_key, DIGITS)
    assert await engine.corridor.remove_opt_out(engine.tenant_key, DIGITS) is True
    assert await engine.corridor.remove_opt_out(engine.tenant_key, DIGITS) is False
    assert await consent_events(engine) == ["OPT_OUT", "OPT_OUT_EFFECTIVE", "OPT_IN"]
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["ACCEPTED"]


async def test_the_providers_own_block_adds_to_our_list(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(error_share=1, errors=[{"status": 400, "code": "40300"}])
    [identity] = await engine.submit(submission(NUMBER))
    await until_effective(engine)
    assert (await engine.timeline(identity))[-1] == "FAILED PROVIDER_REFUSED 40300"
    assert await consent_events(engine) == ["OPT_OUT", "OPT_OUT_EFFECTIVE"]
    assert [one[1] for one in await engine.corridor.list_opt_outs(engine.tenant_key, 0, 10)] == [OPT_OUT_PROVIDER]
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["RECIPIENT_OPTED_OUT"]


async def test_it_holds_after_a_crash(engine: Engine, carrier: Carrier) -> None:
    assert await engine.deliver("", inbound_body("e1", "STOP", sender=NUMBER)) == 200
    await engine.crash()
    await engine.start()
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["RECIPIENT_OPTED_OUT"]
    await until_effective(engine)
    assert await carrier.records() == []


async def test_no_send_is_taken_after_a_stop_took_effect(engine: Engine, carrier: Carrier) -> None:
    """I10: STOPs race a stream of submissions to the same numbers; the carrier's log is the witness."""
    await carrier.set(inbound_webhook_url=engine.edge_url, latency_mean_ms=5, latency_max_ms=30)
    numbers = [recipient(1000 + index) for index in range(200)]
    stopping = iter(numbers)
    refused = 0
    for round_number in range(20):
        results = await engine.call([submission(number, text=f"round {round_number}") for number in numbers])
        refused += sum(result.verdict == "RECIPIENT_OPTED_OUT" for result in results)
        assert {result.verdict for result in results} <= {"ACCEPTED", "RECIPIENT_OPTED_OUT"}
        for number in [next(stopping) for _ in range(10)]:
            await carrier.inbound(number, SENDER, "STOP")
    await carrier.settle()

    async def all_ended() -> bool:
        in_effect = await engine.rows("SELECT count(*) FROM consent_log WHERE action = 2")
        return in_effect == [(len(numbers),)] and not OPEN & set(await engine.states())

    await engine.until(all_ended)
    effective_us = {
        event.recipient: event.event_time.seconds * US + event.event_time.nanos // 1000
        for event in await engine.events()
        if event.kind == pb.Event.KIND_OPT_OUT_EFFECTIVE
    }
    assert set(effective_us) == set(numbers)
    records = await carrier.records()
    late = [record for record in records if record["taken_at_us"] > effective_us[record["to"]]]
    assert late == []
    assert refused > 0
    assert len(records) > len(numbers)


async def test_stop_and_start_in_one_batch_of_webhooks_count_in_their_order(engine: Engine) -> None:
    """What memory forbids is what the store forbids."""
    assert engine.signing is not None
    now_us = engine.clock.now_us()

    def text(event: str, word: str, at: str) -> Inbound:
        assert engine.signing is not None
        body = inbound_body(event, word, sender=NUMBER, occurred_at=f"2026-01-01T00:00:{at}.000+00:00")
        return engine.signing.sign("", body, now_us)

    batch = [text("e1", "STOP", "00"), text("e2", "START", "05")]
    assert await engine.receive(batch) == [200, 200]
    assert await engine.rows("SELECT recipient FROM opt_outs") == []
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["ACCEPTED"]
    assert await consent_events(engine) == ["OPT_OUT", "OPT_IN"]
    batch = [text("e3", "STOP", "10"), text("e4", "START", "15"), text("e5", "STOP", "20")]
    assert await engine.receive(batch) == [200, 200, 200]
    await until_effective(engine)
    assert [one.verdict for one in await engine.call([submission(NUMBER)])] == ["RECIPIENT_OPTED_OUT"]
    assert await consent_events(engine) == [
        "OPT_OUT", "OPT_IN", "OPT_OUT", "OPT_IN", "OPT_OUT", "OPT_OUT_EFFECTIVE"
    ]  # fmt: skip


async def test_an_opt_out_that_was_lifted_before_its_barrier_passed_is_never_in_effect(
    start_engine: StartEngine, provider: ScriptedProvider
) -> None:
    provider.post = lambda _: HOLD
    engine = await start_engine(provider.url)
    [on_the_wire] = await engine.submit(submission(NUMBER))
    await provider.until(lambda: provider.holding == 1)
    call = asyncio.create_task(engine.corridor.add_opt_out(engine.tenant_key, DIGITS))

    async def out() -> bool:
        return await consent_events(engine) == ["OPT_OUT"]

    await engine.until(out)
    assert await engine.corridor.remove_opt_out(engine.tenant_key, DIGITS)
    provider.release()
    await call
    await engine.until_state(on_the_wire, "SUBMITTED")
    await engine.corridor.record.drained(5)
    assert await consent_events(engine) == ["OPT_OUT", "OPT_IN"]
