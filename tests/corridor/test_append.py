"""The way in: one durable answer for each submission, the same one whenever it is asked again."""

import asyncio
from typing import Any

import pytest

from engine.append import BATCH, GROUP_MESSAGES_ENOUGH, UNARY
from engine.entry import Reply
from engine.errors import NotReady, Refused, Verdict
from engine.registry.records import CampaignState, Scope, TenantState
from engine.registry.tenants import set_tenant_state
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import CAMPAIGN, SENDER, US, WAIT_S, CallRefused, Engine, recipient, submission


async def stored(engine: Engine) -> int:
    """Messages in the store."""
    [(count,)] = await engine.rows("SELECT count(*) FROM messages")
    return int(count)


async def test_the_same_id_gives_the_same_answer_through_a_crash(engine: Engine) -> None:
    """I3."""
    wanted = [submission(index, text="é" * 80, request_id=f"r{index}") for index in range(50)]
    first = await engine.call(wanted)
    again = await engine.call(wanted)
    await engine.crash()
    await engine.start()
    after = await engine.call(wanted)
    assert [one.result for one in first] == [one.result for one in again] == [one.result for one in after]
    assert {(one.verdict, one.result.retry_safe) for one in first} == {("ACCEPTED", True)}
    assert await stored(engine) == 50


@pytest.mark.parametrize(
    "change",
    [{"text": "other"}, {"recipient": recipient(1)}, {"client_reference": "x"}, {"message_class": 1},
     {"validity": {"seconds": 60}}, {"labels": {"a": "b"}}, {"ordering_key": "k"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
async def test_the_same_id_with_other_content_is_refused(engine: Engine, change: dict[str, Any]) -> None:
    """I4."""
    await engine.submit(submission(0, request_id="r"))
    other = pb.Submission()
    other.MergeFrom(submission(0, request_id="r"))
    other.MergeFrom(pb.Submission(**change))
    [refused] = await engine.call([other])
    assert (refused.verdict, refused.result.message) == ("REQUEST_ID_REUSED", "")
    assert await stored(engine) == 1


async def test_an_id_belongs_to_its_tenant(engine: Engine) -> None:
    other = await engine.make_tenant("other", SENDER + 50)
    [ours] = await engine.call([submission(0, request_id="r")])
    [theirs] = await engine.call([submission(1, request_id="r", text="theirs")], other.key)
    assert theirs.verdict == ours.verdict == "ACCEPTED"
    assert theirs.id != ours.id


async def test_duplicates_inside_a_batch_and_across_calls_at_once(engine: Engine) -> None:
    same = submission(0, request_id="r")
    other = submission(0, request_id="r", text="other")
    answers = await engine.call([same, same, other, same])
    assert [one.verdict for one in answers] == ["ACCEPTED", "ACCEPTED", "REQUEST_ID_REUSED", "ACCEPTED"]
    assert len({one.id for one in answers if one.id}) == 1
    again = submission(1, request_id="q")
    at_once = await asyncio.gather(*(engine.call([again]) for _ in range(50)))
    assert len({one.id for [one] in at_once}) == 1
    assert await stored(engine) == 2


async def test_a_message_above_what_a_quota_ever_passes_is_refused(engine: Engine) -> None:
    await engine.set_quota(Scope.CAMPAIGN, "campaigns/notices", 4, window_ms=1000, burst=2)
    long, short = await engine.call([submission(0, text="x" * 400), submission(1)])
    assert (long.verdict, short.verdict) == ("EXCEEDS_QUOTA", "ACCEPTED")


@pytest.mark.parametrize(
    ("fields", "verdict", "field"),
    [
        ({"recipient": "12025550123"}, "INVALID_RECIPIENT", "recipient"),
        ({"recipient": "+442079460000"}, "INVALID_RECIPIENT", "recipient"),
        ({"sender": "nobody"}, "INVALID_SENDER", "sender"),
        ({"sender": "+12025550199"}, "SENDER_NOT_IN_CAMPAIGN", "sender"),
        ({"text": ""}, "EMPTY_CONTENT", "text"),
        ({"text": "a\0b"}, "INVALID_TEXT", "text"),
        ({"text": "x" * 20_000}, "TEXT_TOO_LONG", "text"),
        ({"media_urls": ["ftp://example/a"]}, "INVALID_MEDIA", "media_urls[0]"),
        ({"media_urls": ["https://example/a"] * 11}, "INVALID_MEDIA", "media_urls"),
        ({"subject": "no media"}, "INVALID_MEDIA", "subject"),
        ({"schedule_time": {"seconds": 4_000_000_000}}, "INVALID_SCHEDULE_TIME", "schedule_time"),
        ({"validity": {"seconds": 0}}, "INVALID_VALIDITY", "validity"),
        ({"validity": {"seconds": 15 * 86_400}}, "INVALID_VALIDITY", "validity"),
        ({"request_id": "x" * 65}, "INVALID_REQUEST_ID", "request_id"),
        ({"request_id": "naïve"}, "INVALID_REQUEST_ID", "request_id"),
        ({"ordering_key": "k" * 65}, "INVALID_ORDERING_KEY", "ordering_key"),
        ({"client_reference": "c" * 129}, "INVALID_CLIENT_REFERENCE", "client_reference"),
        ({"labels": {f"k{index}": "v" for index in range(17)}}, "INVALID_LABELS", "labels"),
        ({"ordering_key": "k\0"}, "INVALID_ORDERING_KEY", "ordering_key"),
        ({"client_reference": "\0c"}, "INVALID_CLIENT_REFERENCE", "client_reference"),
        ({"labels": {"k\0": "v"}}, "INVALID_LABELS", "labels"),
        ({"labels": {"k": "v\0"}}, "INVALID_LABELS", "labels"),
        ({"message_class": 9}, "INVALID_ENUM", "message_class"),
        ({"campaign": "campaigns/nobody-has-it"}, "CAMPAIGN_NOT_FOUND", "campaign"),
    ],
)
async def test_what_is_wrong_is_refused_alone(engine: Engine, fields: dict[str, Any], verdict: str, field: str) -> None:
    """I5: the neighbours in the batch are taken, the refused one never reaches the store."""
    to = fields.get("recipient", recipient(1))
    others = {name: value for name, value in fields.items() if name != "recipient"}
    good, bad, also_good = await engine.call([submission(0), submission(to, **others), submission(2)])
    assert (good.verdict, also_good.verdict) == ("ACCEPTED", "ACCEPTED")
    assert (bad.verdict, bad.result.field, bad.id) == (verdict, field, 0)
    assert bad.result.detail
    assert await stored(engine) == 2


async def test_a_suspended_tenant_is_refused(engine: Engine) -> None:
    tenant = engine.tenant
    assert tenant is not None
    await engine.corridor.run_control(lambda control: set_tenant_state(control, tenant, TenantState.SUSPENDED))
    with pytest.raises(CallRefused, match="TENANT_SUSPENDED"):
        await engine.call([submission()])


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_of_none_or_too_many_is_refused_whole(engine: Engine, count: int) -> None:
    with pytest.raises(CallRefused) as refused:
        await engine.call([submission()] * count)
    assert refused.value.verdict is Verdict.INVALID_BATCH
    assert await stored(engine) == 0


@pytest.mark.parametrize("request_bytes", [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x04\x12\x02\xff\xfe"])
async def test_bytes_that_are_no_request_hurt_nobody_else(engine: Engine, request_bytes: bytes) -> None:
    deadline_us = engine.clock.mono_us() + WAIT_S * US
    bad = engine.corridor.submit(BATCH, engine.tenant_key, request_bytes, deadline_us)
    good = await engine.call([submission()])
    reply = await bad
    results = pb.SubmitMessagesResponse.FromString(reply.response).results
    assert Verdict.UNDECODABLE in {reply.verdict, *(result.verdict for result in results)}
    assert [one.verdict for one in good] == ["ACCEPTED"]


async def test_a_deadline_that_passed_is_told_and_nothing_stored(engine: Engine) -> None:
    request = pb.SubmitMessageRequest(submission=submission()).SerializeToString()
    reply = await engine.corridor.submit(UNARY, engine.tenant_key, request, engine.clock.mono_us() - 1)
    assert reply.verdict == Verdict.DEADLINE_PASSED
    assert await stored(engine) == 0


async def test_a_caller_that_is_gone_leaves_nothing(engine: Engine) -> None:
    request = pb.SubmitMessageRequest(submission=submission(text="gone")).SerializeToString()
    future = engine.corridor.submit(UNARY, engine.tenant_key, request, engine.clock.mono_us() + WAIT_S * US)
    future.cancel()
    await engine.submit(submission(1))
    assert await stored(engine) == 1


async def test_a_draining_engine_takes_nothing_and_finishes(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(latency_min_ms=200, latency_mean_ms=200, latency_max_ms=200)
    await engine.submit(*(submission(index) for index in range(20)))
    await carrier.until_requests(20)
    engine.corridor.drain()
    with pytest.raises(NotReady):
        await engine.call([submission(30)])
    assert engine.corridor.not_ready() is not None
    corridor = engine.corridor
    await corridor.dispatch.stop(5)
    # I24: an orderly stop makes nothing unknown.
    assert "UNKNOWN" not in await engine.states()
    assert "DISPATCHING" not in await engine.states()
    await engine.crash()
    await engine.start()
    assert await stored(engine) == 20


async def test_ten_thousand_calls_at_once_share_few_commits(engine: Engine) -> None:
    await engine.set_campaign(CampaignState.PAUSED)
    deadline_us = engine.clock.mono_us() + WAIT_S * US
    requests = [pb.SubmitMessageRequest(submission=submission(index)).SerializeToString() for index in range(10_000)]
    replies = await asyncio.gather(
        *(engine.corridor.submit(UNARY, engine.tenant_key, request, deadline_us) for request in requests)
    )
    assert {reply.verdict for reply in replies} == {Verdict.ACCEPTED}
    assert await stored(engine) == 10_000
    [(log_rows,)] = await engine.rows("SELECT count(*) FROM events")
    assert log_rows < 1000


async def test_what_was_stored_is_counted(engine: Engine) -> None:
    await engine.submit(*(submission(index) for index in range(7)))
    registry = engine.corridor.metrics.registry
    assert registry.get_sample_value("longwave_append_messages_total") == 7
    assert registry.get_sample_value("longwave_append_seconds_count") == 1


async def test_calls_that_could_not_be_judged_are_told_so_and_those_behind_go_on(engine: Engine) -> None:
    """A bug in the judging of a group: nobody of it waits for ever, and the next group is judged."""
    append, told = engine.corridor.append, []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    admitter = append._admitter

    class Failing:
        """Judges nothing."""

        def admit(self, *_: object) -> None:
            append._admitter = admitter
            raise RuntimeError("made up")

    append._admitter = Failing()  # type: ignore[assignment]
    with pytest.raises(Refused, match="nothing was stored"):
        await asyncio.wait_for(engine.call([submission(0)]), WAIT_S)
    asyncio.get_running_loop().set_exception_handler(None)
    assert [type(error) for error in told] == [RuntimeError]
    assert [one.verdict for one in await engine.call([submission(1)])] == ["ACCEPTED"]
    await asyncio.wait_for(append.drained(), WAIT_S)


# Which calls share a transaction. The linger is the longest allowed: none of these waits for it unless it says so.

LINGER = {"group_linger_ms": 100}


def hand_in(engine: Engine, *indices: int, **fields: Any) -> "list[asyncio.Future[Any]]":
    """Unary calls, not waited for."""
    deadline_us = engine.clock.mono_us() + WAIT_S * US
    made = [submission(index, **fields) for index in indices]
    requests = [pb.SubmitMessageRequest(submission=one).SerializeToString() for one in made]
    return [engine.corridor.submit(UNARY, engine.tenant_key, request, deadline_us) for request in requests]


async def turns() -> None:
    """What is due at once has happened after these."""
    for _ in range(3):
        await asyncio.sleep(0)


def groups(engine: Engine) -> float:
    """Transactions so far that stored messages."""
    return engine.corridor.metrics.registry.get_sample_value("longwave_append_seconds_count") or 0


async def test_a_call_alone_waits_for_nobody(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, **LINGER)
    for index in range(3):
        [alone] = hand_in(engine, index)
        await turns()
        assert engine.corridor.append._groups_in_flight == 1
        assert (await alone).verdict == Verdict.ACCEPTED
    assert groups(engine) == 3


async def test_a_group_waits_for_as_many_as_were_here_lately(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, **LINGER)
    await asyncio.gather(*hand_in(engine, 0, 1, 2))
    assert groups(engine) == 1
    first = hand_in(engine, 3)
    await turns()
    assert (engine.corridor.append._groups_in_flight, engine.corridor.append.waiting) == (0, 1)
    # The company is complete: it goes without its linger.
    others = hand_in(engine, 4, 5)
    await turns()
    assert engine.corridor.append._groups_in_flight == 1
    await asyncio.gather(*first, *others)
    assert groups(engine) == 2


async def test_calls_that_are_refused_are_nobodys_company(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, **LINGER)
    wrong = {"campaign": "campaigns/nobody-has-it"}
    refused = hand_in(engine, *range(20), **wrong)
    assert {(await reply).verdict for reply in refused} == {Verdict.CAMPAIGN_NOT_FOUND}
    # Nor do they count where they come with others.
    refused = hand_in(engine, *range(20), **wrong)
    good = hand_in(engine, 20, 21)
    await asyncio.gather(*refused, *good)
    assert engine.corridor.append._expected == 2
    first = hand_in(engine, 22)
    await turns()
    assert (engine.corridor.append._groups_in_flight, engine.corridor.append.waiting) == (0, 1)
    others = hand_in(engine, 23)
    await turns()
    assert engine.corridor.append._groups_in_flight == 1
    await asyncio.gather(*first, *others)


async def test_who_does_not_come_is_waited_for_at_most_the_linger(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, group_linger_ms=1)
    await asyncio.gather(*hand_in(engine, *range(20)))
    calls = 0
    while engine.corridor.append._expected > 1:
        assert (await hand_in(engine, 20 + calls)[0]).verdict == Verdict.ACCEPTED
        calls += 1
    assert calls < 20
    assert groups(engine) == 1 + calls


async def test_one_that_waited_for_nobody_frees_those_after_it(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, **LINGER)
    await asyncio.gather(*hand_in(engine, *range(20)))
    [alone] = hand_in(engine, 20)
    await turns()
    assert (engine.corridor.append._groups_in_flight, engine.corridor.append.waiting) == (0, 1)
    assert (await alone).verdict == Verdict.ACCEPTED
    [next_one] = hand_in(engine, 21)
    await turns()
    assert engine.corridor.append._groups_in_flight == 1
    assert (await next_one).verdict == Verdict.ACCEPTED


async def test_a_small_group_grows_while_the_one_before_is_stored(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, group_linger_ms=0)
    append = engine.corridor.append
    release = engine.hold_up(engine.accept_writer)
    try:
        answers = hand_in(engine, 0)
        await turns()
        for index in range(1, 6):
            answers += hand_in(engine, index)
            await turns()
        assert (append._groups_in_flight, append.waiting) == (1, 6)
        # So many need no more company, and the third group waits in any case.
        answers += hand_in(engine, *range(6, 6 + GROUP_MESSAGES_ENOUGH))
        await turns()
        assert (append._groups_in_flight, append.waiting) == (2, 2)
        answers += hand_in(engine, *range(100, 100 + GROUP_MESSAGES_ENOUGH))
        await turns()
        assert append._groups_in_flight == 2
    finally:
        release()
    assert {reply.verdict for reply in await asyncio.gather(*answers)} == {Verdict.ACCEPTED}
    assert groups(engine) == 3


async def test_a_batch_goes_at_once(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url, **LINGER)
    await asyncio.gather(*hand_in(engine, 0, 1, 2))
    batch = [submission(index, text="x" * 80) for index in range(10, 10 + GROUP_MESSAGES_ENOUGH)]
    sent = asyncio.ensure_future(engine.submit(*batch))
    await turns()
    assert engine.corridor.append._groups_in_flight == 1
    assert len(await sent) == GROUP_MESSAGES_ENOUGH


@pytest.mark.parametrize("node", [0, 7, 1023])
async def test_ids_name_the_node_that_gave_them(start_engine: StartEngine, carrier: Carrier, node: int) -> None:
    """The ten bits above the sequence's twelve (`rust_core/src/ids.rs`)."""
    engine = await start_engine(carrier.base_url, node=node)
    assert {identity >> 12 & 1023 for identity in await engine.submit(submission(0), submission(1))} == {node}


# Too much comes in.


def classes(number: int, message_class: Any) -> pb.Submission:
    return submission(number, message_class=message_class)


async def refusal_of(engine: Engine, *submissions: pb.Submission) -> Reply:
    """Of a batch that must not even stand in line."""
    request = pb.SubmitMessagesRequest(submissions=submissions).SerializeToString()
    answer = engine.corridor.submit(BATCH, engine.tenant_key, request, engine.clock.mono_us() + WAIT_S * US)
    assert answer.done()
    return await answer


async def test_a_standing_line_sheds_the_less_urgent_and_keeps_the_urgent(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    engine = await start_engine(carrier.base_url, queue_target_ms=5)
    append = engine.corridor.append
    go_on = engine.hold_up(engine.accept_writer)
    answers = hand_in(engine, *range(10))
    await turns()
    # Two groups are on their way; those behind them wait for longer than the target, look after look.
    for second in range(30):
        append._pressure.waited(1.0, asyncio.get_running_loop().time() + second / 10)
    assert append.floor >= 32
    refused = await refusal_of(engine, classes(100, pb.MESSAGE_CLASS_BULK))
    assert refused.verdict == Verdict.OVERLOADED
    assert 500_000 <= refused.retry_delay_us < 8_000_000
    assert (await refusal_of(engine, classes(101, pb.MESSAGE_CLASS_TRANSACTIONAL))).verdict == Verdict.OVERLOADED
    append._pressure.floor = 32
    urgent = asyncio.ensure_future(engine.submit(classes(102, pb.MESSAGE_CLASS_CRITICAL)))
    await turns()
    go_on()
    assert len(await urgent) == 1
    assert {reply.verdict for reply in await asyncio.gather(*answers)} == {Verdict.ACCEPTED}
    counted = engine.corridor.metrics.admit_verdicts.labels("OVERLOADED")._value.get()
    assert counted >= 2


async def test_of_a_mixed_batch_whole_classes_are_shed(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url)
    pressure = engine.corridor.append._pressure
    pressure.look(asyncio.get_running_loop().time())
    pressure.floor = 16
    taken = await engine.call([classes(1, pb.MESSAGE_CLASS_BULK), classes(2, pb.MESSAGE_CLASS_TRANSACTIONAL)])
    assert [one.verdict for one in taken] == ["OVERLOADED", "ACCEPTED"]
    assert taken[0].result.retry_delay.ToMicroseconds() >= 500_000


async def test_a_deadline_that_cannot_be_met_is_refused_before_the_line(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    engine = await start_engine(carrier.base_url)
    await engine.submit(*(submission(number) for number in range(50)))
    append = engine.corridor.append
    go_on = engine.hold_up(engine.accept_writer)
    try:
        answers = []
        for first in (100, 200, 300):
            answers += hand_in(engine, *range(first, first + GROUP_MESSAGES_ENOUGH))
            await turns()
        append._pressure._message_s = 0.1  # as slow as a store can be
        assert append._lines.messages
        mono_us = engine.corridor.clock.mono_us()
        request = pb.SubmitMessagesRequest(submissions=[submission(1)]).SerializeToString()
        late = await engine.corridor.submit(BATCH, engine.tenant_key, request, mono_us + 10_000)
        assert (late.verdict, late.retry_delay_us > 0) == (Verdict.OVERLOADED, True)
        in_time = engine.corridor.submit(BATCH, engine.tenant_key, request, mono_us + 60 * US)
        await turns()
        assert not in_time.done()
    finally:
        go_on()
    assert {reply.verdict for reply in await asyncio.gather(*answers, in_time)} == {Verdict.ACCEPTED}


async def test_what_could_not_leave_within_its_validity_is_refused(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url)
    # Six a minute: of a hundred, the last leaves after a quarter of an hour.
    await engine.set_quota(Scope.CAMPAIGN, f"campaigns/{CAMPAIGN}", 6, window_ms=60_000, burst=1)
    await engine.submit(*(submission(number) for number in range(100)))
    short, long = submission(200, request_id="short"), submission(201, request_id="long")
    short.validity.FromSeconds(600)
    long.validity.FromSeconds(7200)
    taken = await engine.call([short, long])
    assert [one.verdict for one in taken] == ["BACKLOG_TOO_LONG", "ACCEPTED"]
    assert 60 <= taken[0].result.retry_delay.seconds <= 1200
    # The same again finds the one that was accepted, whatever waits now.
    assert (await engine.call([long]))[0].id == taken[1].id
