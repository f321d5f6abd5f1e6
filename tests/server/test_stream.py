"""StreamMessages: credit, order, half-close, vanished clients, bounded memory."""

import asyncio
import random
from typing import Any

import grpc
import grpc.aio
import pytest

from engine.errors import Verdict
from longwave.v1 import messaging_pb2 as pb
from server.stream import messages_in
from tests.server.conftest import WAIT_S, Server, StartServer, refusal_of, refused
from tests.server.test_gate import gone


def request(sequence: int, *texts: str) -> pb.StreamMessagesRequest:
    submissions = [pb.Submission(campaign="campaigns/c", text=text) for text in texts]
    return pb.StreamMessagesRequest(sequence=sequence, submissions=submissions)


async def granted(server: Server) -> tuple[Any, int]:
    """An open stream and the credit it was given first."""
    stream = server.client().stream()
    grant = await stream.read()
    assert (grant.sequence, list(grant.results)) == (0, [])
    return stream, grant.credit


async def ending(stream: Any) -> Any:
    """Read to the end, which must be a refusal; returns the answers before it and the refusal."""
    answers: list[Any] = []

    async def read_all() -> None:
        while (answer := await stream.read()) is not grpc.aio.EOF:
            answers.append(answer)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all()
    return answers, refusal_of(caught.value)


async def test_the_server_grants_first_and_gives_back_with_each_answer(server: Server) -> None:
    stream, credit = await granted(server)
    assert credit == server.corridor.settings.stream_credit_messages
    await stream.write(request(7, "a", "refuse", "b"))
    answer = await stream.read()
    assert (answer.sequence, answer.credit) == (7, 3)
    assert [result.verdict for result in answer.results] == [1, Verdict.RECIPIENT_OPTED_OUT, 1]
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("seed", range(8))
async def test_a_client_within_its_credit_is_answered_in_order(start_server: StartServer, seed: int) -> None:
    """Batches of any sizes, answered by the corridor in any order: order, credit and count come out right."""
    chance = random.Random(seed)  # noqa: S311 - which way a test goes
    server = await start_server(stream_credit_messages=20, batch_messages_max=20)
    server.corridor.held = True
    stream, credit = await granted(server)
    sizes = [chance.randint(1, 20) for _ in range(30)]
    sent, answered, held = 0, 0, 0
    while answered < len(sizes):
        while sent < len(sizes) and sizes[sent] <= credit:
            await stream.write(request(sent + 1, *[f"{sent}.{i}" for i in range(sizes[sent])]))
            credit -= sizes[sent]
            sent += 1
            held += 1
            await server.corridor.arrived.acquire()
        # Any subset of what is held, in any order.
        for _ in range(held if sent == len(sizes) else chance.randint(1, held)):
            server.corridor.release(chance.randrange(held))
            held -= 1
        expected = answered
        while expected < sent and all(w.request not in _encoded(expected, sizes) for w in server.corridor.waiting):
            answer = await stream.read()
            assert answer.sequence == expected + 1
            assert answer.credit == len(answer.results) == sizes[expected]
            credit += answer.credit
            expected += 1
        answered = expected
    assert credit == 20
    assert len(server.corridor.stored) == sum(sizes)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


def _encoded(index: int, sizes: list[int]) -> list[bytes]:
    texts = [f"{index}.{i}" for i in range(sizes[index])]
    return [request(index + 1, *texts).SerializeToString()]


@pytest.mark.parametrize("earlier", [0, 1, 3])
async def test_more_than_the_credit_ends_the_stream_after_what_came_before(
    start_server: StartServer, earlier: int
) -> None:
    server = await start_server(stream_credit_messages=10, batch_messages_max=10)
    server.corridor.held = True
    came = asyncio.Semaphore(0)
    server.grpc.streams._check_bytes = lambda _name, _request: came.release()
    stream, _ = await granted(server)
    for index in range(earlier):
        await stream.write(request(index + 1, "a", "b"))
        await came.acquire()
    await stream.write(request(99, *["x"] * (11 - 2 * earlier)))
    # It is judged by the credit of now: the answers below would give some back.
    await came.acquire()
    if earlier:  # else the stream may have ended, and a late write hides from gRPC's client how
        await stream.write(request(100, "y"))
    for _ in range(earlier):
        server.corridor.release()
    answers, refusal = await ending(stream)
    assert [answer.sequence for answer in answers] == list(range(1, earlier + 1))
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CREDIT_EXCEEDED")
    assert {submission.text for submission in server.corridor.stored} <= {"a", "b"}
    assert server.corridor.waiting == []


async def test_half_close_finishes_what_is_in(server: Server) -> None:
    server.corridor.held = True
    stream, _ = await granted(server)
    for sequence in (1, 2):
        await stream.write(request(sequence, "a"))
        await server.corridor.arrived.acquire()
    await stream.done_writing()
    server.corridor.release(1)
    server.corridor.release(0)
    assert [(await stream.read()).sequence for _ in range(2)] == [1, 2]
    assert await stream.read() is grpc.aio.EOF


@pytest.mark.parametrize(
    ("body", "verdict"),
    [(b"\x08\x01", "INVALID_BATCH"), (b"", "INVALID_BATCH"), (b"\x12\xff", "UNDECODABLE")],
)
async def test_a_request_that_is_none_ends_the_stream(server: Server, body: bytes, verdict: str) -> None:
    client = server.client()
    path = "/longwave.v1.MessagingService/StreamMessages"
    stream: Any = client.channel.stream_stream(path)(metadata=client.headers, timeout=WAIT_S)
    await stream.read()
    await stream.write(body)
    _, refusal = await ending(stream)
    assert refusal.verdict == verdict
    assert server.corridor.stored == []


async def test_a_batch_over_the_limit_ends_the_stream(start_server: StartServer) -> None:
    server = await start_server(batch_messages_max=3)
    stream, _ = await granted(server)
    await stream.write(request(1, "a"))
    await stream.write(request(2, "a", "b", "c", "d"))
    answers, refusal = await ending(stream)
    assert ([answer.sequence for answer in answers], refusal.verdict) == ([1], "INVALID_BATCH")
    assert len(server.corridor.stored) == 1


async def test_a_request_of_ten_megabytes_ends_the_stream(server: Server) -> None:
    stream, _ = await granted(server)
    await stream.write(request(1, "x" * 10_000_000))
    _, refusal = await ending(stream)
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_BATCH")
    assert server.corridor.stored == []


async def test_bytes_in_flight_are_bounded(start_server: StartServer) -> None:
    """A client with credit for thousands of messages cannot park thousands of large requests here."""
    server = await start_server(request_bytes_max=64 * 1024)
    server.corridor.held = True
    stream, _ = await granted(server)

    async def send() -> None:
        for sequence in range(1, 41):
            await stream.write(request(sequence, "x" * 60_000))
        await stream.done_writing()

    sending = asyncio.ensure_future(send())
    answered = 0
    while answered < 40:
        await server.corridor.arrived.acquire()
        held_bytes = sum(len(waiting.request) for waiting in server.corridor.waiting)
        assert held_bytes <= 3 * 64 * 1024
        if held_bytes >= 2 * 64 * 1024 or len(server.corridor.waiting) + answered == 40:
            while server.corridor.waiting:
                server.corridor.release()
                answered += 1
                assert (await stream.read()).sequence == answered
    await sending
    assert await stream.read() is grpc.aio.EOF


async def test_a_client_that_vanishes_leaves_what_was_committed(server: Server) -> None:
    stream, _ = await granted(server)
    await stream.write(request(1, "kept"))
    assert (await stream.read()).sequence == 1
    server.corridor.held = True
    await server.corridor.arrived.acquire()
    for sequence in (2, 3):
        await stream.write(request(sequence, "never taken up"))
        await server.corridor.arrived.acquire()
    waiting = [held.future for held in server.corridor.waiting]
    stream.cancel()
    for future in waiting:
        await gone(future)
    assert [submission.text for submission in server.corridor.stored] == ["kept"]


async def test_a_corridor_that_closes_ends_the_stream(server: Server) -> None:
    stream, _ = await granted(server)
    server.corridor.closed = "the server drains"
    await stream.write(request(1, "a"))
    answers, refusal = await ending(stream)
    assert (answers, refusal.verdict) == ([], "NOT_READY")


async def test_draining_answers_what_is_in_then_ends_every_stream(server: Server) -> None:
    server.corridor.held = True
    idle, _ = await granted(server)
    busy, _ = await granted(server)
    await busy.write(request(1, "a"))
    await server.corridor.arrived.acquire()
    await server.grpc.drain()
    server.corridor.release()
    for stream, sequences in ((idle, []), (busy, [1])):
        answers, refusal = await ending(stream)
        assert [answer.sequence for answer in answers] == sequences
        assert (refusal.code, refusal.verdict) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    late = server.client().stream()
    assert (await refused(late.read())).verdict == "NOT_READY"


def test_counting_reads_no_submission() -> None:
    spoilt = b"\x08\x05" + b"\x12\x03\xff\xff\xff" * 3 + b"\x12\x00"
    assert messages_in(spoilt) == 4
    assert messages_in(request(1, "a", "b").SerializeToString()) == 2
    assert messages_in(b"") == 0
