"""The asyncio client against a real server that misbehaves as told."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from longwave import errors
from longwave.client import (
    AsyncClient,
    BatchLimits,
    Deadlines,
    ListMessagesRequest,
    RetryPolicy,
    Submission,
    SubmitResult,
)
from longwave.v1 import messaging_pb2, verdict_pb2
from tests.sdk.fake_server import API_KEY, Fail, FakeServer

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
REFUSED = messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_RECIPIENT_OPTED_OUT, field="recipient", detail="STOP")
QUEUE_FULL = messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_QUEUE_FULL)
QUEUE_FULL.retry_delay.FromMilliseconds(1)


def submission(number: int = 100) -> Submission:
    return Submission(campaign="campaigns/demo", recipient=f"+1202555{number:04d}", text=f"Hello {number}")


@pytest.fixture
async def client(server: FakeServer, retry: RetryPolicy, limits: BatchLimits) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, api_key=API_KEY, retry=retry, limits=limits) as made:
        yield made


async def test_single_submissions_of_many_tasks_share_batches(server: FakeServer, client: AsyncClient) -> None:
    results = await asyncio.gather(*(client.submit(submission(i)) for i in range(35)))
    assert all(result.accepted and result.message for result in results)
    assert sum(server.batch_messages) == len(server.stored) == 35
    assert max(server.batch_messages) <= 10
    assert len(server.batch_messages) < 35
    assert len({result.request_id for result in results}) == 35
    assert {call.authorization for call in server.seen} == {f"Bearer {API_KEY}"}
    assert server.deadlines_within(10.0)


async def test_a_refused_submission_raises_its_verdict(server: FakeServer, client: AsyncClient) -> None:
    server.refuse("+12025550100", REFUSED)
    with pytest.raises(errors.Refused) as caught:
        await client.submit(submission())
    assert (caught.value.verdict, caught.value.reason) == (44, "RECIPIENT_OPTED_OUT")
    assert caught.value.field_violations[0].field == "recipient"
    assert not caught.value.outcome_unknown
    assert server.count("SubmitMessages") == 1


async def test_a_batch_answers_in_order_with_refusals_as_data(server: FakeServer, client: AsyncClient) -> None:
    server.refuse("+12025550107", REFUSED)
    batch = [submission(100 + i) for i in range(55)]  # more than the window holds
    results = await client.submit_many(batch)
    assert [result.accepted for result in results] == [i != 7 for i in range(55)]
    for sent, result in zip(batch, results, strict=True):
        if result.accepted:
            name, stored = server.stored[result.request_id]
            assert (name, stored.text) == (result.message, sent.text)
    assert results[7].reason == "RECIPIENT_OPTED_OUT"
    assert await client.submit_many([]) == []


async def test_a_lost_answer_is_asked_for_again_under_the_same_ids(server: FakeServer, client: AsyncClient) -> None:
    server.fail("SubmitMessages", Fail(UNAVAILABLE, after_storing=True), Fail(UNAVAILABLE, after_storing=True))
    results = await client.submit_many([submission(i) for i in range(5)])
    assert all(result.accepted for result in results)
    assert len(server.stored) == 5
    assert set(server.copies().values()) == {3}


async def test_ids_given_by_the_caller_are_kept(server: FakeServer, client: AsyncClient) -> None:
    mine = submission()
    mine.request_id = "file-1:line-7"
    first, second = await client.submit(mine), await client.submit(mine)
    assert first.message == second.message
    assert list(server.stored) == ["file-1:line-7"]


async def test_a_throttled_item_is_retried_alone(server: FakeServer, client: AsyncClient) -> None:
    server.refuse("+12025550102", QUEUE_FULL, QUEUE_FULL)
    results = await client.submit_many([submission(100 + i) for i in range(5)])
    assert all(result.accepted for result in results)
    assert sorted(server.copies().values()) == [1, 1, 1, 1, 3]


async def test_pushback_is_honoured(server: FakeServer, client: AsyncClient) -> None:
    much = grpc.StatusCode.RESOURCE_EXHAUSTED
    server.fail("SubmitMessages", Fail(much, verdict=64, retry_delay_s=0.001, pushback_ms="2"))
    assert (await client.submit(submission())).accepted
    server.fail("SubmitMessages", Fail(much, verdict=64, pushback_ms="-1"))
    with pytest.raises(errors.Throttled) as caught:
        await client.submit(submission(101))
    assert caught.value.verdict == verdict_pb2.VERDICT_TOO_MANY_CALLS
    assert not caught.value.outcome_unknown
    assert server.count("SubmitMessages") == 3


async def test_a_refused_call_raises_for_the_whole_batch(server: FakeServer, client: AsyncClient) -> None:
    server.fail("SubmitMessages", Fail(grpc.StatusCode.UNAUTHENTICATED, verdict=50))
    with pytest.raises(errors.Unauthenticated):
        await client.submit_many([submission(i) for i in range(5)])
    server.fail("SubmitMessages", Fail(grpc.StatusCode.INVALID_ARGUMENT, verdict=27, field="submissions"))
    with pytest.raises(errors.Refused, match=r"INVALID_BATCH.*submissions: is wrong"):
        await client.submit(submission())


async def test_an_unreachable_server_is_unavailable(retry: RetryPolicy) -> None:
    async with AsyncClient("127.0.0.1:1", api_key=API_KEY, retry=retry) as client:
        with pytest.raises(errors.Unavailable) as caught:
            await client.submit(submission())
        (result,) = await client.submit_many([submission()])
        with pytest.raises(errors.Unavailable):
            await client.server_info()
    assert caught.value.outcome_unknown
    assert caught.value.request_id
    assert result.outcome_unknown


async def test_a_full_window_holds_callers_back(server: FakeServer, client: AsyncClient) -> None:
    server.gate.clear()
    held = [asyncio.create_task(client.submit(submission(i))) for i in range(40)]
    await asyncio.to_thread(server.arrived.acquire, timeout=10)
    with pytest.raises(errors.WindowFull):
        await client.submit(submission(99), deadline_s=0.05)
    late = asyncio.create_task(client.submit_many([submission(i) for i in range(100, 130)]))
    server.gate.set()
    assert all(result.accepted for result in await asyncio.gather(*held))
    assert all(result.accepted for result in await late)
    assert len(server.stored) == 70  # the one that found no room was never sent


async def test_the_deadline_ends_waiting_for_a_silent_server(server: FakeServer, client: AsyncClient) -> None:
    server.gate.clear()
    with pytest.raises(errors.Unavailable) as caught:
        await client.submit(submission(), deadline_s=0.1)
    assert caught.value.outcome_unknown


async def test_closing_answers_those_who_wait(server: FakeServer, retry: RetryPolicy, limits: BatchLimits) -> None:
    client = AsyncClient(server.address, api_key=API_KEY, retry=retry, limits=limits)
    server.gate.clear()
    waiting = [asyncio.create_task(client.submit(submission(i))) for i in range(45)]  # five do not fit in
    await asyncio.to_thread(server.arrived.acquire, timeout=10)
    await client.close()
    await client.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, errors.ClientClosed) for outcome in outcomes)
    with pytest.raises(errors.ClientClosed):
        await client.submit(submission())


async def test_a_cancelled_caller_leaves_the_others_alone(server: FakeServer, client: AsyncClient) -> None:
    server.gate.clear()
    first, second = (asyncio.create_task(client.submit(submission(i))) for i in range(2))
    await asyncio.to_thread(server.arrived.acquire, timeout=10)
    first.cancel()
    server.gate.set()
    assert (await second).accepted
    with pytest.raises(asyncio.CancelledError):
        await first


async def collect(results: AsyncIterator[SubmitResult], into: list[SubmitResult]) -> None:
    async for result in results:
        into.append(result)  # noqa: PERF401  what came before an error counts


async def feed(count: int) -> AsyncIterator[Submission]:
    for number in range(count):
        yield submission(number)


async def test_a_stream_keeps_order_and_credit_across_broken_connections(
    server: FakeServer, client: AsyncClient
) -> None:
    server.streams_cut.extend([2, 0, 1])
    server.refuse("+12025550011", REFUSED)
    server.refuse("+12025550012", QUEUE_FULL)
    results = [result async for result in client.stream(feed(95))]
    assert [result.accepted for result in results] == [i != 11 for i in range(95)]
    texts = [server.stored[result.request_id][1].text for result in results if result.accepted]
    assert texts == [f"Hello {i}" for i in range(95) if i != 11]
    assert server.credit_exceeded == 0
    assert server.count("StreamMessages") == 4
    assert server.deadlines_within(3600.0)


async def test_what_was_not_written_to_a_broken_stream_is_not_written_to_the_next(
    server: FakeServer, retry: RetryPolicy
) -> None:
    server.streams_cut.append(0)  # most of the requests are still to be written when the first one cuts the stream
    server.credit_first, server.credit_returned = 300, False  # so that one request too many is seen
    limits = BatchLimits(batch_messages_max=1)
    async with AsyncClient(server.address, api_key=API_KEY, retry=retry, limits=limits) as client:
        results = [result async for result in client.stream(feed(300))]
    assert all(result.accepted for result in results)
    assert server.credit_exceeded == 0


async def test_a_stream_takes_a_plain_iterable_and_nothing(server: FakeServer, client: AsyncClient) -> None:
    assert [result.accepted async for result in client.stream([submission()])] == [True]
    assert [result async for result in client.stream([])] == []
    assert len(server.stored) == 1


async def test_a_refused_stream_raises_after_the_known_results(server: FakeServer, client: AsyncClient) -> None:
    server.fail("StreamMessages", Fail(grpc.StatusCode.PERMISSION_DENIED, verdict=51))
    results: list[SubmitResult] = []
    with pytest.raises(errors.PermissionDenied):
        await collect(client.stream(feed(1000)), results)
    assert results
    assert not any(result.accepted or result.outcome_unknown for result in results)


async def test_an_error_of_the_input_reaches_the_caller(client: AsyncClient) -> None:
    async def broken() -> AsyncIterator[Submission]:
        yield submission()
        raise RuntimeError("the file is gone")

    results: list[SubmitResult] = []
    with pytest.raises(RuntimeError, match="the file is gone"):
        await collect(client.stream(broken()), results)
    assert [result.accepted for result in results] == [True]


async def test_leaving_a_stream_early_ends_it(server: FakeServer, client: AsyncClient) -> None:
    stream = client.stream(feed(1000))
    async for result in stream:
        assert result.accepted
        break
    await stream.aclose()  # type: ignore[attr-defined]
    assert len(server.stored) < 1000


async def test_reads_are_repeated_and_a_cancel_is_not(server: FakeServer, client: AsyncClient) -> None:
    server.fail("GetMessage", Fail(UNAVAILABLE), Fail(UNAVAILABLE))
    assert (await client.get("messages/a")).message.name == "messages/a"
    assert server.count("GetMessage") == 3
    server.fail("CancelMessage", Fail(UNAVAILABLE))
    with pytest.raises(errors.Unavailable) as caught:
        await client.cancel("messages/a")
    assert caught.value.outcome_unknown
    server.fail("CancelMessage", Fail(UNAVAILABLE, verdict=71))  # NOT_READY: surely not done
    assert (await client.cancel("messages/a")).state == messaging_pb2.MESSAGE_STATE_CANCELLED
    server.fail("GetMessage", Fail(grpc.StatusCode.NOT_FOUND, verdict=52))
    with pytest.raises(errors.NotFound):
        await client.get("messages/b")
    assert server.deadlines_within(10.0)


async def test_lists_go_on_over_short_pages(server: FakeServer, client: AsyncClient) -> None:
    request = ListMessagesRequest(campaign="c")
    names = [message.name async for message in client.list(request)]
    assert names == ["messages/c-0-0", "messages/c-0-1", "messages/c-2-0", "messages/c-2-1"]
    assert request.page_token == ""
    server.opt_outs.update({"+12025550101", "+12025550102"})
    assert [o.recipient async for o in client.list_opt_outs()] == ["+12025550101", "+12025550102"]


async def test_opt_outs(server: FakeServer, client: AsyncClient) -> None:
    server.fail("AddOptOut", Fail(UNAVAILABLE))
    assert (await client.add_opt_out("+12025550101")).recipient == "+12025550101"
    assert await client.remove_opt_out("+12025550101")
    assert not await client.remove_opt_out("+12025550101")


def events(cursor: str, *places: tuple[str, int]) -> messaging_pb2.WatchEventsResponse:
    made = [messaging_pb2.Event(message=message, seq=seq) for message, seq in places]
    return messaging_pb2.WatchEventsResponse(events=made, cursor=cursor)


async def test_a_watch_resumes_where_it_was_without_repeating(server: FakeServer, client: AsyncClient) -> None:
    server.watch_script.extend(
        [
            [events("c0"), events("c1", ("m/1", 1), ("m/1", 2)), Fail(UNAVAILABLE)],
            [events("c2", ("m/1", 2), ("m/1", 3))],  # ended in order
            [Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, verdict=63)],
            [events("c3", ("m/2", 1)), Fail(grpc.StatusCode.OUT_OF_RANGE, verdict=53)],
        ]
    )
    watch = client.watch("begin")
    seen: list[tuple[str, int, str]] = []

    async def follow() -> None:
        async for event in watch:
            seen.append((event.message, event.seq, watch.cursor))  # noqa: PERF401  what came before the error counts

    with pytest.raises(errors.CursorExpired):
        await follow()
    assert seen == [("m/1", 1, "c0"), ("m/1", 2, "c0"), ("m/1", 3, "c1"), ("m/2", 1, "c2")]
    assert watch.cursor == "c3"
    assert server.watch_cursors == ["begin", "c1", "c2", "c2"]
    assert server.deadlines_within(3600.0)


async def test_deadlines_can_be_set(server: FakeServer) -> None:
    deadlines = Deadlines(attempt_s=3.0, connection_s=7.0)
    async with AsyncClient(server.address, api_key=API_KEY, deadlines=deadlines) as client:
        await client.submit(submission())
        await client.server_info()
        await client.server_info(deadline_s=1.0)
        assert [result.accepted async for result in client.stream([submission(1)])] == [True]
    assert server.deadlines_within(3.0, 3.0, 1.0, 7.0)
