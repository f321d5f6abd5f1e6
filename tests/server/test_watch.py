"""WatchEvents: where a watch starts, what it sends, and how it ends."""

import asyncio
import base64
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Refused, Verdict
from longwave.v1 import messaging_pb2 as pb
from server.gate import RefusedWith
from server.watch import TURN_S, Watches, cursor_of, position_of
from tests.server.conftest import OTHER, TENANT, WAIT_S, Server, StartServer, refusal_of
from tests.server.fake_corridor import SLOT


def event(name: str = "messages/1", seq: int = 1, campaign: str = "campaigns/a", **more: Any) -> pb.Event:
    return pb.Event(kind=pb.Event.KIND_MESSAGE, message=name, seq=seq, campaign=campaign, **more)


async def opened(server: Server, cursor: str = "", *campaigns: str) -> tuple[Any, str]:
    """A watch that stands, and where."""
    watch = server.client().watch(pb.WatchEventsRequest(cursor=cursor, campaigns=campaigns))
    first = await watch.read()
    assert list(first.events) == []
    return watch, first.cursor


async def names(watch: Any, events: int) -> list[str]:
    """The messages of the next so many events."""
    found: list[str] = []
    while len(found) < events:
        found += [one.message for one in (await watch.read()).events]
    return found


async def refusal(watch: Any) -> Any:
    return (await ending(watch))[1]


async def ending(watch: Any) -> tuple[list[str], Any]:
    """Read to the end, which must be a refusal; the messages of the events until then, and the refusal."""
    seen: list[str] = []

    async def read_all() -> None:
        while (answer := await watch.read()) is not grpc.aio.EOF:
            seen.extend(one.message for one in answer.events)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all()
    return seen, refusal_of(caught.value)


async def test_an_empty_cursor_means_from_now(server: Server) -> None:
    server.corridor.commit(TENANT, event("messages/old"))
    watch, cursor = await opened(server)
    assert cursor == cursor_of(1, SLOT)
    server.corridor.commit(TENANT, event("messages/new"), event("messages/new", 2))
    answer = await watch.read()
    assert [(one.message, one.seq) for one in answer.events] == [("messages/new", 1), ("messages/new", 2)]
    assert answer.cursor == cursor_of(2, SLOT)


async def test_begin_means_from_the_oldest_kept(server: Server) -> None:
    for index in range(5):
        server.corridor.commit(TENANT, event(f"messages/{index}"))
    server.corridor.forget(before=3)
    watch, _ = await opened(server, "begin")
    assert await names(watch, 3) == ["messages/2", "messages/3", "messages/4"]


async def test_begin_of_an_empty_log_is_now(server: Server) -> None:
    watch, cursor = await opened(server, "begin")
    assert cursor == cursor_of(0, SLOT)
    server.corridor.commit(TENANT, event("messages/first"))
    assert await names(watch, 1) == ["messages/first"]


async def test_a_watch_resumes_from_any_cursor_without_gap(server: Server) -> None:
    expected = [f"messages/{index}" for index in range(50)]
    for name in expected:
        server.corridor.commit(TENANT, event(name))
    found: list[str] = []
    cursor = "begin"
    while len(found) < len(expected):
        watch, _ = await opened(server, cursor)
        answer = await watch.read()
        found += [one.message for one in answer.events]
        cursor = answer.cursor
        watch.cancel()
    assert found == expected


async def test_another_tenants_events_only_move_the_cursor(start_server: StartServer) -> None:
    server = await start_server()
    watch, _ = await opened(server)
    server.corridor.commit(OTHER, event("messages/theirs"))
    server.corridor.commit(TENANT, event("messages/ours"))
    answer = await watch.read()
    assert [one.message for one in answer.events] == ["messages/ours"]
    assert answer.cursor == cursor_of(2, SLOT)


async def test_campaigns_filter(server: Server) -> None:
    watch, _ = await opened(server, "", "campaigns/b")
    server.corridor.commit(TENANT, event("messages/1"), event("messages/2", campaign="campaigns/b"))
    assert await names(watch, 1) == ["messages/2"]


@pytest.mark.parametrize("campaigns", [["a"], ["campaigns/"], ["campaigns/a"] * 101])
async def test_campaigns_that_are_none_are_refused(server: Server, campaigns: list[str]) -> None:
    found = await refusal(server.client().watch(pb.WatchEventsRequest(campaigns=campaigns)))
    assert (found.verdict, found.fields) == ("INVALID_FIELD", ["campaigns"])


@pytest.mark.parametrize(
    "cursor",
    ["x", "BEGIN", "a" * 20, "ä" * 20, "a" * 5000, cursor_of(2, SLOT), cursor_of(1, 1), cursor_of((1 << 64) - 1, SLOT)],
)
async def test_a_cursor_of_somewhere_else_is_refused(server: Server, cursor: str) -> None:
    server.corridor.commit(TENANT, event())
    found = await refusal(server.client().watch(pb.WatchEventsRequest(cursor=cursor)))
    assert (found.code, found.verdict) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CURSOR")
    assert found.fields == ["cursor"]


@given(st.integers(0, (1 << 63) - 1), st.integers(0, 14), st.integers(1, 255))
def test_a_cursor_comes_back_and_a_damaged_one_does_not(position: int, index: int, flip: int) -> None:
    cursor = cursor_of(position, SLOT)
    assert position_of(cursor, SLOT) == position
    raw = bytearray(base64.urlsafe_b64decode(cursor))
    raw[index] ^= flip
    with pytest.raises(Refused):
        position_of(base64.urlsafe_b64encode(raw).decode(), SLOT)


async def test_an_expired_cursor_names_the_oldest(server: Server) -> None:
    for index in range(5):
        server.corridor.commit(TENANT, event(f"messages/{index}"))
    server.corridor.forget(before=4)
    found = await refusal(server.client().watch(pb.WatchEventsRequest(cursor=cursor_of(2, SLOT))))
    assert (found.code, found.verdict) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    watch, _ = await opened(server, found.metadata["oldest_cursor"])
    assert await names(watch, 2) == ["messages/3", "messages/4"]
    watch, _ = await opened(server, cursor_of(3, SLOT))
    assert await names(watch, 2) == ["messages/3", "messages/4"]


async def test_a_log_cut_while_it_is_read_is_no_silent_gap(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        server.corridor.commit(TENANT, event(f"messages/{index}"))
    read = server.corridor.read_events

    async def cut_then_read(tenant: int, after: int, rows_max: int) -> tuple[list[bytes], int]:
        server.corridor.forget(before=4)
        return await read(tenant, after, rows_max)

    monkeypatch.setattr(server.corridor, "read_events", cut_then_read)
    found = await refusal(server.client().watch(pb.WatchEventsRequest(cursor="begin")))
    assert found.verdict == "CURSOR_EXPIRED"


async def test_heartbeats_carry_the_cursor(server: Server) -> None:
    server.grpc.watches._heartbeat_s = 0.02
    watch, _ = await opened(server)
    server.corridor.commit(OTHER, event("messages/theirs"))
    beats = [await watch.read() for _ in range(4)]
    assert [list(beat.events) for beat in beats] == [[], [], [], []]
    assert beats[-1].cursor == cursor_of(1, SLOT)


async def test_large_rows_come_in_responses_of_bounded_size(server: Server) -> None:
    """Responses stay below gRPC's default bound, and a cursor never stands ahead of what was sent."""
    wide = "r" * 100_000
    for index in range(80):
        row = [event(f"messages/{index}.{part}", client_reference=wide) for part in range(5)]
        server.corridor.commit(TENANT, *row)
    watch, cursor = await opened(server, "begin")
    seen: list[str] = []
    while len(seen) < 400:
        answer = await watch.read()
        assert answer.ByteSize() < 2_000_000
        seen += [one.message for one in answer.events]
        behind = position_of(answer.cursor, SLOT)
        assert behind <= len(seen) / 5
        assert behind >= position_of(cursor, SLOT)
        cursor = answer.cursor
    assert seen == [f"messages/{index}.{part}" for index in range(80) for part in range(5)]
    assert cursor == cursor_of(80, SLOT)


async def test_a_slow_subscriber_is_told_where_to_resume(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()

    def refuse(verdict: Verdict, *arguments: Any) -> RefusedWith:
        if verdict is Verdict.SUBSCRIBER_TOO_SLOW:
            refused.set()
        return RefusedWith(verdict, *arguments)

    monkeypatch.setattr("server.watch.RefusedWith", refuse)
    server = await start_server(write_s_max=0.1)
    client = server.client(options=[("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)])
    watch = client.watch(pb.WatchEventsRequest(cursor="begin"))
    assert list((await watch.read()).events) == []
    # More than the windows of HTTP/2 hold; nobody reads.
    for index in range(300):
        server.corridor.commit(TENANT, event(f"messages/{index}", client_reference="r" * 100_000))
    quick, _ = await opened(server, "begin")
    assert len(await names(quick, 300)) == 300
    async with asyncio.timeout(WAIT_S):
        await refused.wait()
    seen, found = await ending(watch)
    assert (found.code, found.verdict) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SUBSCRIBER_TOO_SLOW")
    resumed, _ = await opened(server, found.metadata["resume_cursor"])
    missing = 300 - position_of(found.metadata["resume_cursor"], SLOT)
    assert 0 < missing < 300 + 1
    assert {*seen, *await names(resumed, missing)} == {f"messages/{index}" for index in range(300)}


async def test_subscribers_are_counted_and_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.grpc.watches._tenant_subscribers_max = 2
    gauge = "longwave_event_log_subscribers"
    watches = [(await opened(server))[0] for _ in range(2)]
    assert server.corridor.metrics.registry.get_sample_value(gauge) == 2
    found = await refusal(server.client().watch(pb.WatchEventsRequest()))
    assert (found.verdict, found.retry_s > 0) == ("TOO_MANY_CALLS", True)
    other = server.client(server.other_key).watch(pb.WatchEventsRequest())
    assert list((await other.read()).events) == []
    server.grpc.watches._subscribers_max = 3
    found = await refusal(server.client(server.other_key).watch(pb.WatchEventsRequest()))
    assert found.verdict == "TOO_MANY_CALLS"
    emptied = asyncio.Event()
    monkeypatch.setattr(
        server.corridor.metrics.event_log_subscribers, "set", lambda count: None if count else emptied.set()
    )
    for watch in (*watches, other):
        watch.cancel()
    async with asyncio.timeout(WAIT_S):
        await emptied.wait()
    assert server.grpc.watches.subscribers == 0


async def test_subscribers_of_a_tenant_read_by_turns(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20
    loop, read_events = asyncio.get_running_loop(), server.corridor.read_events
    reads_s: list[float] = []
    reached = asyncio.Event()

    async def timed(tenant: int, after_position: int, rows_max: int) -> tuple[list[bytes], int]:
        reads_s.append(loop.time())
        if len(reads_s) == 2 * count:
            reached.set()
        return await read_events(tenant, after_position, rows_max)

    monkeypatch.setattr(server.corridor, "read_events", timed)
    watches = [(await opened(server))[0] for _ in range(count)]
    # Each reads once when it begins; from here on all of them wait, and one event wakes them.
    server.corridor.commit(TENANT, event("messages/new"))
    for watch in watches:
        assert await names(watch, 1) == ["messages/new"]
    async with asyncio.timeout(WAIT_S):
        await reached.wait()
    # The loop's timers may be a millisecond early.
    assert reads_s[2 * count - 1] - reads_s[count] >= (count - 1) * TURN_S - 0.005


async def test_turns_are_a_tenants_own(server: Server) -> None:
    watches = server.grpc.watches
    assert [watches._turn(TENANT, 1.0) for _ in range(3)] == [1.0, 1.0 + TURN_S, 1.0 + 2 * TURN_S]
    assert watches._turn(OTHER, 1.0) == 1.0
    assert watches._turn(TENANT, 2.0) == 2.0


async def test_a_turn_is_no_further_away_than_all_others(server: Server) -> None:
    watches = server.grpc.watches
    watches._tenant_subscribers_max = 3
    turns_s = [watches._turn(TENANT, 1.0) for _ in range(100)]
    assert max(turns_s) == 1.0 + 3 * TURN_S


async def test_draining_ends_a_watch_with_its_cursor(server: Server) -> None:
    watch, _ = await opened(server)
    server.corridor.commit(TENANT, event("messages/last"))
    assert await names(watch, 1) == ["messages/last"]
    await server.grpc.drain()
    found = await refusal(watch)
    assert (found.code, found.verdict) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    assert found.metadata["resume_cursor"] == cursor_of(1, SLOT)


def test_a_watch_needs_a_loop() -> None:
    with pytest.raises(RuntimeError):
        Watches(None)  # type: ignore[arg-type]
