"""What operators are told while something happens: breaker, tenants, backlog, store, and every refusal at the door."""

import asyncio
from typing import cast

import pytest

from engine.errors import NotReady, StoreUnavailable
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import SENDER, Engine, submission
from tests.corridor.scripted_provider import Answer, ScriptedProvider

BROKEN = Answer(503, "{}")
TELNYX = {"provider": "telnyx"}


def told(engine: Engine, name: str, **labels: str) -> float | None:
    """A series as it is now; None when nobody told it."""
    return engine.corridor.metrics.registry.get_sample_value(name, labels)


async def test_an_open_breaker_is_told_until_it_closes(start_engine: StartEngine, provider: ScriptedProvider) -> None:
    provider.post = lambda _: BROKEN
    engine = await start_engine(provider.url, breaker_attempts_min=5, backoff_base_ms=1, breaker_open_s=1)
    assert told(engine, "longwave_breaker_open", **TELNYX) == 0
    await engine.submit(*(submission(index) for index in range(10)))
    await engine.until(lambda: holds(told(engine, "longwave_breaker_open", **TELNYX) == 1))
    provider.post = lambda _: None
    await engine.submit(submission(10))  # the probe
    await engine.until(lambda: holds(told(engine, "longwave_breaker_open", **TELNYX) == 0))


async def holds(what: bool) -> bool:  # noqa: FBT001 - what `until` asks for
    return what


async def test_every_attempt_that_ended_has_its_time(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(latency_min_ms=30, latency_mean_ms=30, latency_max_ms=30)
    ids = await engine.submit(*(submission(index) for index in range(4)))
    for identity in ids:
        await engine.until_state(identity, "DELIVERED")
    assert told(engine, "longwave_attempt_seconds_count", **TELNYX) == 4
    assert (told(engine, "longwave_attempt_seconds_sum", **TELNYX) or 0) >= 4 * 0.03


async def test_messages_are_counted_for_their_tenant(engine: Engine) -> None:
    [identity] = await engine.submit(submission(0, request_id="one"))
    await engine.until_state(identity, "DELIVERED")
    [again] = await engine.call([submission(0, request_id="one", text="something else")])
    assert again.verdict == "REQUEST_ID_REUSED"
    tenant = {"tenant": "acme"}
    counted = {
        status: told(engine, "longwave_tenant_messages_total", status=status, **tenant)
        for status in ("accepted", "refused", "submitted", "delivered", "failed")
    }
    assert counted == {"accepted": 1, "refused": 1, "submitted": 1, "delivered": 1, "failed": None}


async def test_a_campaign_that_is_made_later_is_its_tenants(engine: Engine) -> None:
    await engine.make_campaign("later", SENDER + 40)
    await engine.submit(submission(0, campaign="campaigns/later"))
    assert told(engine, "longwave_tenant_messages_total", tenant="acme", status="accepted") == 1


async def test_the_backlog_is_told_by_state_and_forgets_none_that_emptied(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(receipt_lost_share=1)
    ids = await engine.submit(*(submission(index) for index in range(3)))
    for identity in ids:
        await engine.until_state(identity, "SUBMITTED")
    await engine.corridor.sweep.count_backlog()
    assert told(engine, "longwave_backlog_messages", state="submitted") == 3
    assert told(engine, "message_queue_length") == 3
    await engine.pass_time(80 * 3600)
    for identity in ids:
        await engine.until_state(identity, "NO_RECEIPT")
    await engine.corridor.sweep.count_backlog()
    assert told(engine, "longwave_backlog_messages", state="submitted") == 0
    assert told(engine, "message_queue_length") == 0


async def test_a_store_that_does_not_answer_is_told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise OSError("made up")

    assert told(engine, "longwave_store_up") == 1
    with monkeypatch.context() as patch:
        patch.setattr(engine.corridor.store, "check", away)
        with pytest.raises(OSError, match="made up"):
            await engine.corridor._check_durability()
        assert told(engine, "longwave_store_up") == 0
    await engine.corridor._check_durability()
    assert told(engine, "longwave_store_up") == 1


async def test_a_refusal_because_nothing_is_taken_is_a_verdict(engine: Engine) -> None:
    engine.corridor.append.close("the server drains")
    with pytest.raises(NotReady):
        await engine.call([submission(0)])
    assert (told(engine, "longwave_admit_verdicts_total", verdict="NOT_READY") or 0) >= 1


async def test_a_store_that_took_nothing_is_a_verdict(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(*_: object) -> "asyncio.Future[None]":
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(StoreUnavailable())
        return failed

    monkeypatch.setattr(engine.corridor.append, "_store", cast("object", type("Away", (), {"append": append})()))
    with pytest.raises(StoreUnavailable):
        await engine.call([submission(0, message_class=pb.MESSAGE_CLASS_CRITICAL)])
    assert (told(engine, "longwave_admit_verdicts_total", verdict="STORE_UNAVAILABLE") or 0) >= 1
