"""Every call: key, role, deadline, size, how many at once, and the form of what it ends as."""

import asyncio
import gc
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.entry import Reply
from engine.errors import NotReady, Refused, StoreBroken, StoreFull, StoreUnavailable, Verdict
from longwave import contract
from longwave.v1 import admin_pb2, compliance_pb2, registry_pb2, verdict_pb2
from longwave.v1 import messaging_pb2 as pb
from server.status import CODES
from tests.server.conftest import OTHER, TENANT, WAIT_S, Server, StartServer, refusal_of, refused

METHODS: list[contract.Method[Any, Any]] = [m for m in vars(contract).values() if isinstance(m, contract.Method)]
TENANTS_ONLY = [m for m in METHODS if "MessagingService" in m.path or "ComplianceService" in m.path]
STREAMING_IN = {contract.STREAM_MESSAGES.path}
STREAMING_OUT = {contract.STREAM_MESSAGES.path, contract.WATCH_EVENTS.path}


def submit(text: str = "hello") -> pb.SubmitMessageRequest:
    return pb.SubmitMessageRequest(submission=pb.Submission(campaign="campaigns/c", text=text))


async def answer_of(server: Server, method: contract.Method[Any, Any], headers: Any) -> grpc.aio.AioRpcError:
    """The error of a call with an empty request."""
    channel: Any = server.client("").channel
    answer: Any
    if method.path in STREAMING_IN:
        answer = channel.stream_stream(method.path)(metadata=headers, timeout=WAIT_S).read()
    elif method.path in STREAMING_OUT:
        answer = channel.unary_stream(method.path)(b"", metadata=headers, timeout=WAIT_S).read()
    else:
        answer = channel.unary_unary(method.path)(b"", metadata=headers, timeout=WAIT_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    return caught.value


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path.rpartition("/")[2])
async def test_no_method_answers_without_a_key(server: Server, method: contract.Method[Any, Any]) -> None:
    for headers in ((), (("authorization", "Bearer lw_t_nobody"),)):
        refusal = refusal_of(await answer_of(server, method, headers))
        assert (refusal.code, refusal.verdict) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_calls_at_once_are_never_taken_for_each_other(server: Server) -> None:
    """Keys of two tenants, an administrator's and none, over one connection, many at once."""
    channel: Any = server.client("").channel
    tenant_of = {server.tenant_key: TENANT, server.other_key: OTHER}
    keys = [server.tenant_key, server.other_key, server.admin_key, ""] * 100
    first = 12025550000

    async def call(number: int, key: str) -> str:
        request = compliance_pb2.AddOptOutRequest(recipient=f"+{first + number}").SerializeToString()
        headers = (("authorization", f"Bearer {key}"),) if key else ()
        try:
            await channel.unary_unary(contract.ADD_OPT_OUT.path)(request, metadata=headers, timeout=WAIT_S)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    codes = await asyncio.gather(*(call(number, key) for number, key in enumerate(keys)))
    assert codes == ["OK", "OK", "PERMISSION_DENIED", "UNAUTHENTICATED"] * 100
    wanted = {(tenant_of[key], first + number) for number, key in enumerate(keys) if key in tenant_of}
    assert set(server.corridor.opt_outs) == wanted


@pytest.mark.parametrize("method", TENANTS_ONLY, ids=lambda method: method.path.rpartition("/")[2])
async def test_an_admin_key_has_no_messages(server: Server, method: contract.Method[Any, Any]) -> None:
    headers = (("authorization", f"Bearer {server.admin_key}"),)
    refusal = refusal_of(await answer_of(server, method, headers))
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_any_key_may_ask_what_the_server_is(server: Server) -> None:
    for key in (server.tenant_key, server.admin_key):
        client = server.client(key)
        info = await client.call(client.server.GetServerInfo, admin_pb2.GetServerInfoRequest())
        assert info.durability_level == admin_pb2.DURABILITY_LEVEL_D1
        assert (info.store, info.provider) == ("memory 1", "telnyx")
        assert info.limits.batch_messages_max == server.corridor.settings.batch_messages_max
        assert info.limits.event_retention.seconds == 7 * 86400
        assert info.version


async def test_the_registry_is_behind_the_gate(server: Server) -> None:
    client = server.client(server.admin_key)
    found = await refused(client.call(client.registry.GetTenant, registry_pb2.GetTenantRequest(name="tenants/x")))
    assert found.verdict == "NOT_FOUND"
    client = server.client()
    found = await refused(client.call(client.registry.CreateTenant, registry_pb2.CreateTenantRequest()))
    assert found.verdict == "PERMISSION_DENIED"


@pytest.mark.parametrize("path", [contract.GET_MESSAGE.path, contract.ADD_OPT_OUT.path, contract.GET_TENANT.path])
async def test_bytes_that_are_no_request_are_refused_by_number(server: Server, path: str) -> None:
    client = server.client()
    refusal = await refused(client.raw(path)(b"\xff\xff", metadata=client.headers, timeout=WAIT_S))
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE")


async def test_unknown_fields_are_ignored(server: Server) -> None:
    client = server.client()
    unknown = b"\xf8\x07\x01"  # field 127
    body = submit().SerializeToString() + unknown
    raw = await client.raw(contract.SUBMIT_MESSAGE.path)(body, metadata=client.headers, timeout=WAIT_S)
    assert pb.SubmitMessageResponse.FromString(raw).result.verdict == verdict_pb2.VERDICT_ACCEPTED


@pytest.mark.parametrize(
    ("path", "verdict"),
    [
        (contract.SUBMIT_MESSAGE.path, "INVALID_BATCH"),
        (contract.SUBMIT_MESSAGES.path, "INVALID_BATCH"),
        (contract.GET_MESSAGE.path, "INVALID_FIELD"),
        (contract.CREATE_TENANT.path, "INVALID_FIELD"),
    ],
)
async def test_ten_megabytes_are_refused_by_number(server: Server, path: str, verdict: str) -> None:
    client = server.client()
    body = pb.GetMessageRequest(name="x" * 10_000_000).SerializeToString()
    refusal = await refused(client.raw(path)(body, metadata=client.headers, timeout=WAIT_S))
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.INVALID_ARGUMENT, verdict)
    assert str(len(body)) in refusal.detail
    assert server.corridor.arrived.locked()
    assert (await client.call(client.messaging.SubmitMessage, submit())).result.verdict == Verdict.ACCEPTED


async def test_what_is_larger_still_is_cut_off_by_grpc(server: Server) -> None:
    client = server.client()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.raw(contract.SUBMIT_MESSAGES.path)(b"\x0a" * 17_000_000, metadata=client.headers, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_too_many_calls_are_refused_and_health_still_answers(start_server: StartServer) -> None:
    server = await start_server(max_concurrent_calls=2)
    server.corridor.held = True
    client = server.client()
    held = [asyncio.ensure_future(client.call(client.messaging.SubmitMessage, submit())) for _ in range(2)]
    for _ in held:
        await server.corridor.arrived.acquire()
    refusal = await refused(client.call(client.messaging.SubmitMessage, submit()))
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
    assert (refusal.retry_s, refusal.pushback_ms) == (1, "1000")
    health: Any = health_pb2_grpc.HealthStub(client.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)).status == 1
    for _ in held:
        server.corridor.release()
    assert [answer.result.verdict for answer in await asyncio.gather(*held)] == [Verdict.ACCEPTED] * 2
    server.corridor.held = False
    assert (await client.call(client.messaging.SubmitMessage, submit())).result.verdict == Verdict.ACCEPTED


async def test_ten_thousand_tiny_calls_at_once(server: Server) -> None:
    client = server.client()
    answers = await asyncio.gather(
        *(client.call(client.messaging.SubmitMessage, submit(str(i)), 100) for i in range(10_000))
    )
    assert all(answer.result.verdict == Verdict.ACCEPTED for answer in answers)
    assert len({answer.result.message for answer in answers}) == 10_000
    assert server.grpc.gate.calls == 0
    labels = {"method": contract.SUBMIT_MESSAGE.path, "code": "OK"}
    counted = server.corridor.metrics.registry.get_sample_value("longwave_grpc_requests_total", labels)
    assert counted == 10_000


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (NotReady(), "NOT_READY"),
        (StoreUnavailable(), "STORE_UNAVAILABLE"),
        (StoreFull(), "STORE_FULL"),
        (StoreBroken("disk"), "STORE_UNAVAILABLE"),
        (ValueError("+12025550123 said hello"), "INTERNAL"),
    ],
)
async def test_what_the_corridor_raises_has_a_number(server: Server, error: Exception, verdict: str) -> None:
    server.corridor.failure = error
    client = server.client()
    refusal = await refused(client.call(client.messaging.SubmitMessage, submit()))
    assert (refusal.verdict, refusal.code) == (verdict, CODES[Verdict[verdict]])
    assert "hello" not in refusal.detail
    assert (refusal.retry_s > 0) == (verdict != "INTERNAL")


@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in {Verdict.ACCEPTED, Verdict.UNSPECIFIED}])
async def test_a_refused_unary_submission_is_an_error(
    server: Server, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = Reply(verdict, b"", "submission.text", "why", 1500)
    monkeypatch.setattr(server.corridor, "_reply", lambda _waiting: reply)
    client = server.client()
    for method, request in (
        (client.messaging.SubmitMessage, submit()),
        (client.messaging.SubmitMessages, pb.SubmitMessagesRequest()),
    ):
        refusal = await refused(client.call(method, request))
        assert (refusal.verdict, refusal.code) == (verdict.name, CODES[verdict])
        assert (refusal.fields, refusal.detail) == (["submission.text"], "why")
        assert (refusal.retry_s, refusal.pushback_ms) == (0.0015, "2")


async def test_a_refused_message_of_a_batch_is_data(server: Server) -> None:
    client = server.client()
    submissions = [pb.Submission(text=text) for text in ("a", "refuse", "b")]
    answer = await client.call(client.messaging.SubmitMessages, pb.SubmitMessagesRequest(submissions=submissions))
    assert [result.verdict for result in answer.results] == [1, Verdict.RECIPIENT_OPTED_OUT, 1]


async def test_a_deadline_passes_with_the_call_not_taken_up(server: Server) -> None:
    server.corridor.held = True
    client = server.client()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call(client.messaging.SubmitMessage, submit(), 0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await server.corridor.arrived.acquire()
    [waiting] = server.corridor.waiting
    await gone(waiting.future)
    assert waiting.deadline_us < server.corridor.clock.mono_us() + 1_000_000
    server.corridor.release()
    assert server.corridor.stored == []


async def gone(future: "asyncio.Future[Any]") -> None:
    """Wait until the transport gave a submission up."""
    done = asyncio.Event()
    future.add_done_callback(lambda _: done.set())
    async with asyncio.timeout(WAIT_S):
        await done.wait()
    assert future.cancelled()


async def test_a_client_that_goes_leaves_nothing_behind(server: Server) -> None:
    server.corridor.held = True
    client = server.client()
    call = client.messaging.SubmitMessage(submit(), metadata=client.headers, timeout=WAIT_S)
    sent = asyncio.ensure_future(call)
    await server.corridor.arrived.acquire()
    call.cancel()
    await asyncio.gather(sent, return_exceptions=True)
    [waiting] = server.corridor.waiting
    await gone(waiting.future)
    server.corridor.release()
    assert server.corridor.stored == []


@pytest.mark.parametrize("timeout_s", [None, 3600])
async def test_the_server_has_a_maximum_of_its_own(start_server: StartServer, timeout_s: float | None) -> None:
    server = await start_server(unary_s_max=0.05)
    server.corridor.held = True
    client = server.client()
    refusal = await refused(client.call(client.messaging.SubmitMessage, submit(), timeout_s))
    assert refusal.verdict == "STORE_UNAVAILABLE"
    assert server.corridor.waiting[0].future.cancelled()
    server.corridor.cancelling = asyncio.Event()
    name = "messages/0000000000001"
    refusal = await refused(client.call(client.messaging.GetMessage, pb.GetMessageRequest(name=name), timeout_s))
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED")


async def test_a_call_taken_up_late_is_told_so(server: Server) -> None:
    """The deadline travels to the corridor on its own clock."""
    server.corridor.held = True
    client = server.client()
    sent = asyncio.ensure_future(client.call(client.messaging.SubmitMessage, submit(), WAIT_S))
    await server.corridor.arrived.acquire()
    [waiting] = server.corridor.waiting
    left_us = waiting.deadline_us - server.corridor.clock.mono_us()
    # gRPC writes a deadline with few digits, rounded up by a percent at most; the server's own bound is 30 s.
    assert 0 < left_us <= WAIT_S * 1_010_000
    waiting.deadline_us = 0
    server.corridor.release()
    assert (await refused(sent)).verdict == "DEADLINE_PASSED"


async def test_before_recovery_everyone_is_told_to_come_back(start_server: StartServer) -> None:
    server = await start_server(serving=False)
    client = server.client()
    for key in (server.tenant_key, "lw_t_nobody"):
        client = server.client(key)
        refusal = await refused(client.call(client.messaging.SubmitMessage, submit()))
        assert (refusal.code, refusal.verdict) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
        assert refusal.retry_s > 0
    await server.grpc.serving()
    client = server.client()
    assert (await client.call(client.messaging.SubmitMessage, submit())).result.verdict == Verdict.ACCEPTED


async def test_a_cancellation_once_begun_is_finished(server: Server) -> None:
    client = server.client()
    name = (await client.call(client.messaging.SubmitMessage, submit())).result.message
    await server.corridor.arrived.acquire()
    server.corridor.cancelling = asyncio.Event()
    call = client.messaging.CancelMessage(pb.CancelMessageRequest(name=name), metadata=client.headers, timeout=WAIT_S)
    sent = asyncio.ensure_future(call)
    await server.corridor.arrived.acquire()
    call.cancel()
    await asyncio.gather(sent, return_exceptions=True)
    server.corridor.cancelling.set()
    async with asyncio.timeout(WAIT_S):
        await server.corridor.cancelled.wait()


async def test_refusals_are_counted_by_status(server: Server) -> None:
    client = server.client()
    await refused(client.call(client.compliance.AddOptOut, compliance_pb2.AddOptOutRequest(recipient="1")))
    labels = {"method": contract.ADD_OPT_OUT.path, "code": "INVALID_ARGUMENT"}
    found, until_s = None, time.monotonic() + WAIT_S
    # A call is counted when it ends, which may be a moment after its answer left.
    while found is None and time.monotonic() < until_s:
        await asyncio.sleep(0)
        found = server.corridor.metrics.registry.get_sample_value("longwave_grpc_requests_total", labels)
    assert found == 1


async def test_refused_calls_leave_nothing_for_the_collector(server: Server) -> None:
    client, stranger = server.client(), server.client("")
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for each in (client, stranger):
            for path in (contract.LIST_MESSAGES.path, "/longwave.v1.MessagingService/Nothing"):
                with pytest.raises(grpc.aio.AioRpcError):
                    await each.raw(path)(b"\xff", metadata=each.headers, timeout=WAIT_S)
            channel: Any = each.channel
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(contract.STREAM_MESSAGES.path)(b"\xff", metadata=each.headers, timeout=WAIT_S)
        gc.collect()
        left = [type(each) for each in gc.garbage if isinstance(each, grpc.aio.AbortError | Refused)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
