"""Attempts without an answer: never silently sent again; evidence, keys, look-up, then the policy.

What each answer of a provider is counted as stands in `tests/conformance`.
"""

import asyncio
from collections import Counter
from typing import Any, Final

from engine import _core
from engine.registry.records import CampaignState, OnUnknown
from engine.sweep import LOOKUPS_AT_ONCE
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import SENDER, Engine, query_of, receipt_body, recipient, state_name, submission
from tests.corridor.scripted_provider import HOLD, ScriptedProvider
from tests.corridor.scripted_provider import RESET as RESET_IT

SILENT: Final = ["QUEUED ACCEPTED", "DISPATCHING ATTEMPT", "UNKNOWN SILENCE timeout"]
RESET: Final = ["QUEUED ACCEPTED", "DISPATCHING ATTEMPT", "UNKNOWN SILENCE reset"]
# Answers whose outcome nobody can know, of each kind the carrier has.
MIX: Final[dict[str, Any]] = {
    "silence_taken_share": 0.1, "silence_untaken_share": 0.1, "drop_taken_share": 0.15, "drop_untaken_share": 0.15,
    "drop_midway_share": 0.15, "late_error_share": 0.15, "garbage_share": 0.1,
    "garbage_kinds": ["html", "bad_json", "no_id", "length_short"],
}  # fmt: skip
NONE_OF_IT: Final = {name: 0 for name in MIX if name.endswith("_share")}


async def time_out(engine: Engine) -> None:
    """Let attempts on the wire run into their bound."""
    await engine.pass_time(16)


async def test_silence_is_unknown_until_a_receipt_settles_it(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(silence_taken_share=1, **NO_RECEIPTS)
    [identity] = await engine.submit(submission())
    [record] = await carrier.until_requests(1)
    await time_out(engine)
    await engine.until_state(identity, "UNKNOWN")
    await engine.deliver(query_of(record["webhook_url"]), receipt_body("e1", "sent", provider_id=record["id"]))
    await engine.deliver(query_of(record["webhook_url"]), receipt_body("e2", "delivered", provider_id=record["id"]))
    assert await engine.timeline(identity) == [*SILENT, "SENT RECEIPT", "DELIVERED RECEIPT"]
    assert len(await carrier.records()) == 1


async def test_receipts_that_came_during_the_silence_settle_it_at_once(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(silence_taken_share=1)
    [identity] = await engine.submit(submission())
    await carrier.until_requests(1)
    await carrier.settle()
    await time_out(engine)
    await engine.until_state(identity, "DELIVERED")
    assert await engine.timeline(identity) == [*SILENT, "SENT RECEIPT", "DELIVERED RECEIPT"]


async def test_where_keys_are_honoured_replays_make_no_second_copy(start_engine: StartEngine, carrier: Carrier) -> None:
    """I7."""
    engine = await start_engine(
        carrier.base_url, telnyx_honours_keys=True, backoff_base_ms=1, breaker_attempts_min=1_000_000
    )
    await carrier.set(**MIX, **NO_RECEIPTS)
    messages = 120
    ids = await engine.submit(*(submission(index) for index in range(messages)))
    await carrier.until_requests(messages)
    await carrier.set(**NONE_OF_IT)

    async def ended() -> bool:
        states = await engine.states()
        if states.get("DISPATCHING") and not states.get("QUEUED") and not states.get("UNKNOWN"):
            await time_out(engine)
        return states == {"SUBMITTED": messages}

    await engine.until(ended)
    records = await carrier.records()
    taken = Counter(record["idempotency_key"] for record in records if record["taken"])
    assert taken == {f"{_core.short_id(identity)}:1": 1 for identity in ids}
    bodies = {(record["idempotency_key"], record["body_sha256"]) for record in records}
    assert len(bodies) == messages
    assert len(records) > messages
    # I6: no request without an attempt written down; some of those never reached the carrier.
    [(attempts,)] = await engine.rows("SELECT sum(attempt) FROM messages")
    assert attempts >= len(records)


async def test_where_they_are_not_a_resent_copy_is_marked_and_counted(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    engine = await start_engine(carrier.base_url, sample=False)
    await engine.make_sample(on_unknown=OnUnknown.RESEND)
    await carrier.set(drop_taken_share=1, idempotency="ignored", **NO_RECEIPTS)
    [identity] = await engine.submit(submission())
    await engine.until_state(identity, "UNKNOWN")
    await carrier.set(drop_taken_share=0)
    await engine.pass_time(59)
    assert await engine.timeline(identity) == RESET
    await engine.pass_time(2)
    message = await engine.until_state(identity, "SUBMITTED")
    assert await engine.timeline(identity) == [
        *RESET, "QUEUED RESEND", "DISPATCHING ATTEMPT", "SUBMITTED PROVIDER_TOOK"
    ]  # fmt: skip
    assert (message.possible_duplicate, message.attempts, message.generation) == (True, 2, 1)
    copies = await carrier.taken()
    assert len(copies) == 2
    assert len({(copy["idempotency_key"], copy["body_sha256"]) for copy in copies}) == 1


async def test_under_unresolved_nothing_is_sent_twice(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, sample=False, breaker_attempts_min=1_000_000)
    await engine.make_sample(on_unknown=OnUnknown.UNRESOLVED)
    await carrier.set(**MIX, idempotency="ignored", **NO_RECEIPTS)
    messages = 60
    await engine.submit(*(submission(index) for index in range(messages)))
    await carrier.until_requests(messages)
    await carrier.set(**NONE_OF_IT)

    async def answered() -> bool:
        states = await engine.states()
        return set(states) <= {"UNKNOWN", "SUBMITTED", "DISPATCHING"}

    await engine.until(answered)
    await time_out(engine)

    async def closed() -> bool:
        return "DISPATCHING" not in await engine.states()

    await engine.until(closed)
    await engine.pass_time(61)
    states = await engine.states()
    assert set(states) == {"UNRESOLVED", "SUBMITTED"}
    assert len(await carrier.records()) == messages
    # Late truth about an unresolved one still counts.
    [record, *_] = [one for one in await carrier.taken() if one["outcome"] != "ok"]
    await engine.deliver(query_of(record["webhook_url"]), receipt_body("late", "delivered", provider_id=record["id"]))
    assert (await engine.states()).get("DELIVERED") == 1


async def test_what_may_no_longer_go_is_not_resent(start_engine: StartEngine, carrier: Carrier) -> None:
    """I10 for copies: opted out, cancelled, expired or stopped meanwhile → evidence only, then UNRESOLVED."""
    engine = await start_engine(carrier.base_url, sample=False)
    await engine.make_sample(on_unknown=OnUnknown.RESEND)
    await engine.make_campaign("stopped", SENDER + 1, on_unknown=OnUnknown.RESEND)
    await carrier.set(drop_untaken_share=1, **NO_RECEIPTS)
    ids = await engine.submit(
        submission(0),
        submission(1),
        submission(2, validity={"seconds": 30}),
        submission(3, campaign="campaigns/stopped"),
    )
    await engine.until_states({"UNKNOWN": 4})
    await carrier.set(drop_untaken_share=0)
    await engine.corridor.add_opt_out(engine.tenant_key, int(recipient(0)[1:]))
    encoded, too_late = await engine.corridor.cancel_message(engine.tenant_key, ids[1])
    assert encoded is not None
    assert not too_late
    cancelled = await engine.message(ids[1])
    assert (state_name(cancelled.state), cancelled.cancel_requested) == ("UNKNOWN", True)
    await engine.set_campaign(CampaignState.STOPPED, "stopped")
    await engine.pass_time(61)
    await engine.until_states({"UNRESOLVED": 4})
    assert len(await carrier.records()) == 4


async def queued_copy(start_engine: StartEngine, carrier: Carrier, **fields: Any) -> tuple[Engine, int, str]:
    """A message queued again by policy, held by its paused campaign: engine, id, callback query."""
    engine = await start_engine(carrier.base_url, sample=False)
    await engine.make_sample(on_unknown=OnUnknown.RESEND)
    await carrier.set(drop_taken_share=1, **NO_RECEIPTS)
    [identity] = await engine.submit(submission(0, **fields))
    await engine.until_state(identity, "UNKNOWN")
    await carrier.set(drop_taken_share=0)
    await engine.set_campaign(CampaignState.PAUSED)
    await engine.pass_time(61)
    assert (await engine.timeline(identity))[-1] == "QUEUED RESEND"
    return engine, identity, engine.callback_query(identity, 1)


async def test_a_receipt_settles_the_copy_that_waits(start_engine: StartEngine, carrier: Carrier) -> None:
    engine, identity, query = await queued_copy(start_engine, carrier)
    await engine.deliver(query, receipt_body("e1", "delivered"))
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.pass_time(1)
    assert await engine.timeline(identity) == [*RESET, "QUEUED RESEND", "DELIVERED RECEIPT"]
    assert len(engine.corridor.scheduler) == 0
    assert len(await carrier.records()) == 1


async def test_a_gate_that_closes_on_the_waiting_copy_leaves_evidence_only(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    engine, identity, _ = await queued_copy(start_engine, carrier)
    await engine.corridor.add_opt_out(engine.tenant_key, int(recipient(0)[1:]))
    await engine.until_state(identity, "UNKNOWN")
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.pass_time(61)
    assert await engine.timeline(identity) == [*RESET, "QUEUED RESEND", "UNKNOWN OPTED_OUT", "UNRESOLVED NO_EVIDENCE"]
    assert len(await carrier.records()) == 1


async def test_cancelling_the_waiting_copy_leaves_evidence_only(start_engine: StartEngine, carrier: Carrier) -> None:
    engine, identity, _ = await queued_copy(start_engine, carrier)
    await engine.corridor.cancel_message(engine.tenant_key, identity)
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.pass_time(61)
    assert await engine.timeline(identity) == [*RESET, "QUEUED RESEND", "UNKNOWN CANCELLED", "UNRESOLVED NO_EVIDENCE"]
    assert len(await carrier.records()) == 1


async def test_the_waiting_copy_that_expires_leaves_evidence_only(start_engine: StartEngine, carrier: Carrier) -> None:
    engine, identity, _ = await queued_copy(start_engine, carrier, validity={"seconds": 120})
    await engine.pass_time(61)
    await engine.until_state(identity, "UNKNOWN")
    await engine.pass_time(61)
    assert (await engine.timeline(identity))[3:] == ["QUEUED RESEND", "UNKNOWN EXPIRED", "UNRESOLVED NO_EVIDENCE"]
    assert len(await carrier.records()) == 1


async def test_a_crash_with_an_open_attempt_leaves_it_unknown(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(silence_taken_share=1, **NO_RECEIPTS)
    [identity] = await engine.submit(submission())
    await carrier.until_requests(1)
    await engine.crash()
    await engine.start()
    assert await engine.timeline(identity) == [*SILENT[:2], "UNKNOWN RECOVERED"]
    await engine.pass_time(61)
    assert (await engine.timeline(identity))[-1] == "UNRESOLVED NO_EVIDENCE"
    assert len(await carrier.records()) == 1


async def test_a_generation_keeps_its_bytes_through_a_restart_with_other_settings(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    engine = await start_engine(carrier.base_url, telnyx_honours_keys=True, backoff_base_ms=300_000)
    await carrier.set(late_error_share=1, **NO_RECEIPTS)
    [identity] = await engine.submit(submission())
    await engine.until_state(identity, "UNKNOWN")
    await engine.crash()
    engine.wanted["webhook_base_url"] = f"http://localhost:{engine.edge_port}"
    await engine.start()
    await engine.pass_time(61)
    await engine.until_state(identity, "SUBMITTED")
    first, second = await carrier.records()
    assert second["outcome"] == "replayed"
    assert first["body_sha256"] == second["body_sha256"]
    assert first["idempotency_key"] == second["idempotency_key"]
    # What is accepted from now on calls back at the new address.
    [later] = await engine.submit(submission(1))
    await engine.until_state(later, "UNKNOWN", "SUBMITTED")
    assert (await carrier.records())[-1]["webhook_url"].startswith("http://localhost:")


async def test_a_cap_raises_the_generation(engine: Engine, carrier: Carrier) -> None:
    """A final failure that says "cap" goes again after the reset: new key, new callback, new body."""
    await carrier.set(carriers={"T-Mobile": 1}, **NO_RECEIPTS)
    [identity] = await engine.submit(submission())
    await engine.until_state(identity, "SUBMITTED")
    query = engine.callback_query(identity, 1)
    await engine.deliver(query, receipt_body("e1", "delivery_failed", code="40018"))
    await engine.pass_time(59)
    assert (await engine.timeline(identity))[-1] == "QUEUED CAP_REACHED 40018"
    await engine.pass_time(8)
    message = await engine.until_state(identity, "SUBMITTED")
    assert (message.generation, message.attempts, message.possible_duplicate) == (2, 2, False)
    first, second = await carrier.records()
    assert [first["idempotency_key"], second["idempotency_key"]] == [
        f"{_core.short_id(identity)}:{generation}" for generation in (1, 2)
    ]
    assert query_of(second["webhook_url"]) == engine.callback_query(identity, 2)
    # News of the first generation no longer counts, but for an arrival.
    await engine.deliver(query, receipt_body("e2", "delivery_failed", code="40001"))
    assert state_name((await engine.message(identity)).state) == "SUBMITTED"
    await engine.deliver(query, receipt_body("e3", "delivered"))
    assert state_name((await engine.message(identity)).state) == "DELIVERED"


async def test_look_ups_that_hang_hold_up_no_timer(start_engine: StartEngine, provider: ScriptedProvider) -> None:
    engine = await start_engine(provider.url, lookup_after_min=1)
    await engine.submit(*(submission(index) for index in range(40)))
    await engine.until_states({"SUBMITTED": 40})
    provider.get = lambda _: HOLD
    provider.post = lambda _: RESET_IT
    [identity] = await engine.submit(submission(200))
    await engine.until_state(identity, "UNKNOWN")
    engine.clock.jump(61)
    async with asyncio.timeout(5):
        await engine.corridor.sweep.settle_due()
    await provider.until(lambda: provider.holding == LOOKUPS_AT_ONCE)
    await engine.until_state(identity, "UNRESOLVED")
    assert provider.gets == LOOKUPS_AT_ONCE
