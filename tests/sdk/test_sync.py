"""The synchronous client against a real server that misbehaves as told: direct calls, the coalescing thread, TLS."""

import datetime as dt
import ipaddress
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from longwave import errors
from longwave.client import (
    BatchLimits,
    Client,
    Deadlines,
    ListMessagesRequest,
    RetryPolicy,
    Seams,
    Submission,
    SubmitResult,
    Tls,
)
from longwave.v1 import admin_pb2_grpc, messaging_pb2, verdict_pb2
from tests.sdk.fake_server import API_KEY, Fail, FakeServer, Server

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
REFUSED = messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_RECIPIENT_OPTED_OUT, field="recipient", detail="STOP")
QUEUE_FULL = messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_QUEUE_FULL)
QUEUE_FULL.retry_delay.FromMilliseconds(1)


def submission(number: int = 100) -> Submission:
    return Submission(campaign="campaigns/demo", recipient=f"+1202555{number:04d}", text=f"Hello {number}")


@pytest.fixture
def client(server: FakeServer, retry: RetryPolicy, limits: BatchLimits) -> Iterator[Client]:
    with Client(server.address, api_key=API_KEY, retry=retry, limits=limits) as made:
        yield made


@pytest.fixture
def coalescing(server: FakeServer, retry: RetryPolicy, limits: BatchLimits) -> Iterator[Client]:
    with Client(server.address, api_key=API_KEY, retry=retry, limits=limits, coalesce=True) as made:
        yield made


def test_a_direct_submission_is_one_call_without_a_thread_of_ours(server: FakeServer, client: Client) -> None:
    result = client.submit(submission())
    assert result.accepted
    assert server.batch_messages == [1]
    assert server.seen[0].authorization == f"Bearer {API_KEY}"
    assert server.deadlines_within(10.0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("longwave")]


def test_a_batch_answers_in_order_with_refusals_as_data(server: FakeServer, client: Client) -> None:
    server.refuse("+12025550107", REFUSED)
    server.refuse("+12025550109", QUEUE_FULL, QUEUE_FULL)
    batch = [submission(100 + i) for i in range(55)]
    results = client.submit_many(batch)
    assert [result.accepted for result in results] == [i != 7 for i in range(55)]
    assert server.stored[results[9].request_id][1].text == "Hello 109"
    assert isinstance(results[7].error, errors.Refused)
    assert max(server.batch_messages) == 10
    assert client.submit_many([]) == []


def test_a_lost_answer_is_asked_for_again_under_the_same_ids(server: FakeServer, client: Client) -> None:
    server.fail("SubmitMessages", Fail(UNAVAILABLE, after_storing=True), Fail(UNAVAILABLE, after_storing=True))
    assert all(result.accepted for result in client.submit_many([submission(i) for i in range(5)]))
    assert set(server.copies().values()) == {3}
    assert len(server.stored) == 5


def test_waits_are_those_of_the_injected_clock(server: FakeServer, limits: BatchLimits) -> None:
    now, slept = [1000.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    seams = Seams(monotonic=lambda: now[0], sleep=sleep, random=lambda: 0.5, wall_ms=lambda: 1, random_bits=lambda _: 2)
    server.fail("SubmitMessages", Fail(UNAVAILABLE), Fail(UNAVAILABLE))
    server.fail("GetServerInfo", Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, verdict=64, retry_delay_s=0.75))
    with Client(server.address, api_key=API_KEY, limits=limits, seams=seams) as client:
        result = client.submit(submission())
        client.server_info()
    assert result.request_id == "000000000001" + "0" * 19 + "2"
    assert slept == pytest.approx([0.05, 0.1, 0.8])


def test_a_refusal_raises(server: FakeServer, client: Client) -> None:
    server.refuse("+12025550100", REFUSED)
    with pytest.raises(errors.Refused, match="RECIPIENT_OPTED_OUT: STOP"):
        client.submit(submission())
    server.fail("SubmitMessages", Fail(grpc.StatusCode.UNAUTHENTICATED, verdict=50))
    with pytest.raises(errors.Unauthenticated):
        client.submit_many([submission(1)])


def test_an_unreachable_server_is_unavailable(retry: RetryPolicy) -> None:
    with Client("127.0.0.1:1", api_key=API_KEY, retry=retry) as client:
        with pytest.raises(errors.Unavailable) as caught:
            client.submit(submission())
        with pytest.raises(errors.Unavailable):
            list(client.list())
    assert caught.value.outcome_unknown


def test_threads_share_batches_when_asked_to(server: FakeServer, coalescing: Client) -> None:
    server.gate.clear()
    server.refuse("+12025550120", REFUSED)
    server.refuse("+12025550121", QUEUE_FULL)
    with ThreadPoolExecutor(max_workers=35) as pool:
        first = pool.submit(coalescing.submit, submission(101))
        assert server.arrived.acquire(timeout=10)
        rest = [pool.submit(coalescing.submit, submission(102 + i)) for i in range(30)]
        server.gate.set()
        outcomes = [future.exception(timeout=10) for future in [first, *rest]]
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [errors.Refused]
    assert len(server.stored) == 30
    assert len(server.batch_messages) < 31
    assert server.deadlines_within(10.0)


def test_a_full_window_holds_threads_back(server: FakeServer, retry: RetryPolicy) -> None:
    limits = BatchLimits(batch_messages_max=1, window_messages_max=1)
    server.gate.clear()
    client = Client(server.address, api_key=API_KEY, retry=retry, limits=limits, coalesce=True)
    with client, ThreadPoolExecutor(max_workers=3) as pool:
        first = pool.submit(client.submit, submission(0))
        assert server.arrived.acquire(timeout=10)
        with pytest.raises(errors.WindowFull):
            client.submit(submission(9), deadline_s=0.05)
        others = [pool.submit(client.submit, submission(i)) for i in (1, 2)]
        server.gate.set()
        assert all(future.result(timeout=10).accepted for future in (first, *others))
    assert sorted(stored.text for _, stored in server.stored.values()) == ["Hello 0", "Hello 1", "Hello 2"]


def test_closing_answers_threads_that_wait(server: FakeServer, retry: RetryPolicy) -> None:
    limits = BatchLimits(batch_messages_max=1, window_messages_max=2)
    client = Client(server.address, api_key=API_KEY, retry=retry, limits=limits, coalesce=True)
    server.gate.clear()
    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting = [pool.submit(client.submit, submission(i)) for i in range(4)]
        assert server.arrived.acquire(timeout=10)
        client.close()
        assert {type(future.exception(timeout=10)) for future in waiting} == {errors.ClientClosed}
    assert not [thread for thread in threading.enumerate() if thread.name == "longwave-submit"]
    with pytest.raises(errors.ClientClosed):
        client.submit(submission())


def test_a_closed_direct_client_says_so(server: FakeServer) -> None:
    client = Client(server.address, api_key=API_KEY)
    client.close()
    with pytest.raises(errors.ClientClosed):
        client.submit(submission())


def test_a_stream_keeps_order_and_credit_across_broken_connections(server: FakeServer, client: Client) -> None:
    server.streams_cut.extend([2, 0, 1])
    server.refuse("+12025550011", REFUSED)
    server.refuse("+12025550012", QUEUE_FULL)
    results = list(client.stream(submission(i) for i in range(95)))
    assert [result.accepted for result in results] == [i != 11 for i in range(95)]
    texts = [server.stored[result.request_id][1].text for result in results if result.accepted]
    assert texts == [f"Hello {i}" for i in range(95) if i != 11]
    assert server.credit_exceeded == 0
    assert server.count("StreamMessages") == 4
    assert server.deadlines_within(3600.0)


def test_a_refused_stream_raises_after_the_known_results(server: FakeServer, client: Client) -> None:
    server.fail("StreamMessages", Fail(grpc.StatusCode.PERMISSION_DENIED, verdict=51))
    results: list[SubmitResult] = []
    with pytest.raises(errors.PermissionDenied):
        results.extend(client.stream(submission(i) for i in range(1000)))
    assert results
    assert not any(result.accepted or result.outcome_unknown for result in results)


def test_a_stream_of_nothing_makes_no_call(server: FakeServer, client: Client) -> None:
    assert list(client.stream([])) == []
    assert server.seen == []


def test_leaving_a_stream_early_ends_it(server: FakeServer, client: Client) -> None:
    for result in client.stream(submission(i) for i in range(1000)):
        assert result.accepted
        break
    assert len(server.stored) < 1000
    assert not [thread for thread in threading.enumerate() if thread.name == "longwave-stream"]


def test_reads_are_repeated_and_a_cancel_is_not(server: FakeServer, client: Client) -> None:
    server.fail("GetMessage", Fail(UNAVAILABLE), Fail(UNAVAILABLE))
    assert client.get("messages/a").message.name == "messages/a"
    assert server.count("GetMessage") == 3
    server.fail("CancelMessage", Fail(UNAVAILABLE))
    with pytest.raises(errors.Unavailable):
        client.cancel("messages/a")
    assert client.cancel("messages/a").state == messaging_pb2.MESSAGE_STATE_CANCELLED
    assert server.deadlines_within(10.0)


def test_lists_and_opt_outs(server: FakeServer, client: Client) -> None:
    names = [message.name for message in client.list(ListMessagesRequest(campaign="c"))]
    assert names == ["messages/c-0-0", "messages/c-0-1", "messages/c-2-0", "messages/c-2-1"]
    assert client.add_opt_out("+12025550102").recipient == "+12025550102"
    client.add_opt_out("+12025550101")
    assert [o.recipient for o in client.list_opt_outs()] == ["+12025550101", "+12025550102"]
    assert client.remove_opt_out("+12025550101")
    assert server.opt_outs == {"+12025550102"}


def events(cursor: str, *places: tuple[str, int]) -> messaging_pb2.WatchEventsResponse:
    made = [messaging_pb2.Event(message=message, seq=seq) for message, seq in places]
    return messaging_pb2.WatchEventsResponse(events=made, cursor=cursor)


def test_a_watch_resumes_where_it_was_without_repeating(server: FakeServer, client: Client) -> None:
    server.watch_script.extend(
        [
            [events("c0"), events("c1", ("m/1", 1), ("m/1", 2)), Fail(UNAVAILABLE)],
            [events("c2", ("m/1", 2), ("m/1", 3))],
            [events("c3", ("m/2", 1)), Fail(grpc.StatusCode.OUT_OF_RANGE, verdict=53)],
        ]
    )
    watch = client.watch("begin")
    seen: list[tuple[str, int, str]] = []
    with pytest.raises(errors.CursorExpired):
        seen.extend((event.message, event.seq, watch.cursor) for event in watch)
    assert seen == [("m/1", 1, "c0"), ("m/1", 2, "c0"), ("m/1", 3, "c1"), ("m/2", 1, "c2")]
    assert watch.cursor == "c3"
    assert server.watch_cursors == ["begin", "c1", "c2"]


def test_a_watch_ends_when_closed_from_another_thread(server: FakeServer, client: Client) -> None:
    server.gate.clear()  # the server accepts the call and says nothing
    watch = client.watch()
    with ThreadPoolExecutor(max_workers=1) as pool:
        watching = pool.submit(list, watch)
        assert server.arrived.acquire(timeout=10)
        watch.close()
        assert watching.result(timeout=10) == []
    assert list(watch) == []


def certificate(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_mutual_tls() -> None:
    authority = certificate("authority", None)
    served, served_key = certificate("engine", authority)
    own, own_key = certificate("caller", authority)
    fake = FakeServer()
    fake.gate.set()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    admin_pb2_grpc.add_ServerServiceServicer_to_server(Server(fake), server)
    credentials = grpc.ssl_server_credentials(
        [(pem_key(served_key), pem(served))], root_certificates=pem(authority[0]), require_client_auth=True
    )
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        mutual = Tls(pem(authority[0]), pem(own), pem_key(own_key))
        with Client(address, api_key=API_KEY, tls=mutual) as client:
            assert client.server_info().version == "1.2.3"
        once = RetryPolicy(attempts_max=1)
        short = Deadlines(total_s=5.0)
        for wrong in (Tls(pem(authority[0])), Tls(pem(certificate("stranger", None)[0]), pem(own), pem_key(own_key))):
            stranger = Client(address, api_key=API_KEY, tls=wrong, retry=once, deadlines=short)
            with stranger, pytest.raises(errors.Unavailable):
                stranger.server_info()
        assert len(fake.seen) == 1
    finally:
        server.stop(grace=None).wait(timeout=10)
