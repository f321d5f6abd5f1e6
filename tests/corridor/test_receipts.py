"""Receipts against messages: in order, twice, out of order, early, late, after the end, contradicting, forged."""

import asyncio
import itertools
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import duty, hasten
from engine.corridor import Corridor
from engine.stores import sqlite
from engine.stores.connection import Connection
from engine.stores.store import Shards
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import (
    EMBEDDED_ONLY,
    SENDER,
    US,
    WAIT_S,
    Engine,
    Signing,
    inbound_body,
    query_of,
    receipt_body,
    recipient,
    state_name,
    submission,
)

SENT_OFF: Final = ["QUEUED ACCEPTED", "DISPATCHING ATTEMPT", "SUBMITTED PROVIDER_TOOK"]
_events = itertools.count()


def event_id() -> str:
    """One that no webhook had before."""
    return f"event-{next(_events)}"


async def submitted(engine: Engine, index: int = 0) -> tuple[int, str]:
    """A message that the carrier took and keeps silent about: its id and its callback's query."""
    [identity] = await engine.submit(submission(index))
    await engine.until_state(identity, "SUBMITTED")
    return identity, engine.callback_query(identity, 1)


async def test_a_message_is_delivered(engine: Engine, carrier: Carrier) -> None:
    [identity] = await engine.submit(submission())
    await engine.until_state(identity, "DELIVERED")
    assert await engine.timeline(identity) == [*SENT_OFF, "SENT RECEIPT", "DELIVERED RECEIPT"]
    [record] = await carrier.records()
    assert query_of(record["webhook_url"]) == engine.callback_query(identity, 1)


@pytest.mark.parametrize(
    "faults",
    [
        {"receipt_duplicate_share": 1, "receipt_duplicate_copies": 3},
        {"receipt_reorder_share": 1},
        {"receipt_early_share": 1, "latency_mean_ms": 50, "latency_max_ms": 50},
        {"receipt_forged_share": 1},
        {"receipt_stale_share": 1},
        {"receipt_duplicate_share": 0.5, "receipt_reorder_share": 0.5, "receipt_early_share": 0.5,
         "receipt_forged_share": 0.5, "latency_mean_ms": 10, "latency_max_ms": 20},
    ],
    ids=["duplicate", "reordered", "early", "forged", "stale", "all"],
)  # fmt: skip
async def test_the_carriers_receipt_faults_change_nothing(
    engine: Engine, carrier: Carrier, faults: dict[str, float]
) -> None:
    await carrier.set(**faults)
    messages = 40
    await engine.submit(*(submission(index) for index in range(messages)))
    await engine.until_states({"DELIVERED": messages})
    await carrier.settle()
    assert await engine.states() == {"DELIVERED": messages}
    assert await engine.rows("SELECT count(*) FROM early_receipts") == [(0,)]
    assert all(event.kind == pb.Event.KIND_MESSAGE for event in await engine.events())


async def test_receipts_signed_by_another_settle_nothing(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(receipt_wrong_signature_share=1)
    await engine.submit(*(submission(index) for index in range(10)))
    await engine.until_states({"SUBMITTED": 10})
    await carrier.settle()
    assert await engine.states() == {"SUBMITTED": 10}
    assert await engine.rows("SELECT * FROM webhook_events") == []


async def test_a_duplicate_is_told_once(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(**NO_RECEIPTS)
    identity, query = await submitted(engine)
    body = receipt_body("the-same", "delivered")
    assert [await engine.deliver(query, body) for _ in range(3)] == [200, 200, 200]
    assert await engine.timeline(identity) == [*SENT_OFF, "DELIVERED RECEIPT"]
    # Another event with the same news is no news either.
    assert await engine.deliver(query, receipt_body(event_id(), "delivered")) == 200
    assert await engine.timeline(identity) == [*SENT_OFF, "DELIVERED RECEIPT"]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["delivered"], ["DELIVERED RECEIPT"]),
        (["sent", "delivered"], ["SENT RECEIPT", "DELIVERED RECEIPT"]),
        (["delivered", "sent"], ["DELIVERED RECEIPT"]),
        (["delivery_failed 40001"], ["UNDELIVERED RECEIPT 40001"]),
        (["sending_failed 40002"], ["UNDELIVERED RECEIPT 40002"]),
        (["expired 40005"], ["UNDELIVERED RECEIPT 40005"]),
        (["delivery_unconfirmed"], ["NO_RECEIPT RECEIPT"]),
        (["delivery_failed 40001", "delivered"], ["UNDELIVERED RECEIPT 40001", "DELIVERED RECEIPT"]),
        (["delivery_unconfirmed", "delivered"], ["NO_RECEIPT RECEIPT", "DELIVERED RECEIPT"]),
        (["delivery_unconfirmed", "delivery_failed 40001"], ["NO_RECEIPT RECEIPT", "UNDELIVERED RECEIPT 40001"]),
        (["delivery_failed 40001", "sent"], ["UNDELIVERED RECEIPT 40001"]),
        (["delivery_failed 40001", "delivery_unconfirmed"], ["UNDELIVERED RECEIPT 40001"]),
        (["queued"], []),
        (["delivery_failed 40006"], ["QUEUED RETRY 40006"]),
        (["delivery_failed 10011"], ["QUEUED THROTTLED 10011"]),
        (["delivery_failed 40018"], ["QUEUED CAP_REACHED 40018"]),
        (["delivery_failed 40016"], ["QUEUED CAP_REACHED 40016"]),
        (["delivery_failed 40016", "delivery_failed 40016"], ["QUEUED CAP_REACHED 40016"]),
        (["delivery_failed 40006", "delivered"], ["QUEUED RETRY 40006", "DELIVERED RECEIPT"]),
    ],
)
async def test_what_receipts_make_of_a_submitted_message(
    start_engine: StartEngine, carrier: Carrier, statuses: list[str], expected: list[str]
) -> None:
    await carrier.set(**NO_RECEIPTS)
    engine = await start_engine(carrier.base_url, backoff_base_ms=300_000)
    identity, query = await submitted(engine)
    for told in statuses:
        status, _, code = told.partition(" ")
        assert await engine.deliver(query, receipt_body(event_id(), status, code=code)) == 200
    assert await engine.timeline(identity) == [*SENT_OFF, *expected]


async def test_a_contradiction_is_told_and_changes_nothing(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(**NO_RECEIPTS)
    identity, query = await submitted(engine)
    await engine.deliver(query, receipt_body(event_id(), "delivered"))
    before = await engine.rows("SELECT * FROM messages")
    assert await engine.deliver(query, receipt_body(event_id(), "delivery_failed", code="40001")) == 200
    assert await engine.rows("SELECT * FROM messages") == before
    conflict = (await engine.events())[-1]
    assert conflict.kind == pb.Event.KIND_STATUS_CONFLICT
    assert (state_name(conflict.state), conflict.code, conflict.seq) == ("DELIVERED", "40001", 0)
    assert conflict.message == (await engine.message(identity)).name


async def test_a_receipt_for_what_never_left_is_a_conflict(engine: Engine) -> None:
    [identity] = await engine.submit(submission(schedule_time={"seconds": engine.clock.now_us() // US + 3600}))
    query = engine.callback_query(identity, 1)
    await engine.corridor.cancel_message(engine.tenant_key, identity)
    assert await engine.deliver(query, receipt_body(event_id(), "delivered")) == 200
    assert (await engine.events())[-1].kind == pb.Event.KIND_STATUS_CONFLICT
    assert await engine.timeline(identity) == ["QUEUED SCHEDULED", "CANCELLED CANCELLED"]


async def test_a_receipt_without_mac_settles_by_a_known_provider_id(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(**NO_RECEIPTS)
    identity, _ = await submitted(engine)
    provider_id = (await engine.message(identity)).provider_message
    assert await engine.deliver("", receipt_body(event_id(), "delivered", provider_id=provider_id)) == 200
    assert await engine.timeline(identity) == [*SENT_OFF, "DELIVERED RECEIPT"]


@pytest.mark.parametrize("end", ["NO_RECEIPT", "UNDELIVERED", "UNRESOLVED"])
async def test_a_late_receipt_without_mac_upgrades_an_end(engine: Engine, carrier: Carrier, end: str) -> None:
    await carrier.set(**NO_RECEIPTS)
    identity, query = await submitted(engine)
    provider_id = (await engine.message(identity)).provider_message
    if end == "UNRESOLVED":  # as after an answer that came late: its provider id is known
        await engine.execute(f"UPDATE messages SET state = 19 WHERE id = {identity}")  # noqa: S608 - an id
    else:
        status = "delivery_failed" if end == "UNDELIVERED" else "delivery_unconfirmed"
        await engine.deliver(query, receipt_body(event_id(), status, provider_id=provider_id))
    await engine.until_state(identity, end)
    # Of another provider, the same id means another message.
    await engine.execute(f"UPDATE messages SET provider = 9 WHERE id = {identity}")  # noqa: S608 - an id
    assert await engine.deliver("", receipt_body(event_id(), "delivered", provider_id=provider_id)) == 200
    assert state_name((await engine.message(identity)).state) == end
    await engine.execute(f"UPDATE messages SET provider = 1 WHERE id = {identity}")  # noqa: S608 - an id
    assert await engine.deliver("", receipt_body(event_id(), "delivered", provider_id=provider_id)) == 200
    await engine.until_state(identity, "DELIVERED")


async def test_a_receipt_without_mac_finds_messages_of_any_age(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(**NO_RECEIPTS)
    old, _ = await submitted(engine)
    await engine.pass_time(40 * 24 * 3600)
    await engine.until_state(old, "NO_RECEIPT")
    new, _ = await submitted(engine)
    names = [(await engine.message(identity)).provider_message for identity in (new, old)]
    batch = [
        engine.signing.sign("", receipt_body(event_id(), "delivered", provider_id=name), engine.clock.now_us())
        for name in (*names, "nobody's")
        if engine.signing
    ]
    assert await engine.receive(batch) == [200, 200, 200]
    await engine.until_state(old, "DELIVERED")
    await engine.until_state(new, "DELIVERED")
    assert await engine.rows("SELECT provider_id FROM early_receipts") == [("nobody's",)]


@pytest.mark.parametrize("with_mac", [True, False], ids=["mac", "provider id"])
async def test_a_receipt_before_our_own_outcome_is_kept_and_joined(
    engine: Engine, carrier: Carrier, *, with_mac: bool
) -> None:
    await carrier.set(**NO_RECEIPTS, latency_min_ms=700, latency_mean_ms=700, latency_max_ms=700)
    [identity] = await engine.submit(submission())
    [record] = await carrier.until_requests(1)
    query = query_of(record["webhook_url"]) if with_mac else ""
    assert await engine.deliver(query, receipt_body(event_id(), "delivered", provider_id=record["id"])) == 200
    assert await engine.rows("SELECT count(*) FROM early_receipts") == [(1,)]
    assert state_name((await engine.message(identity)).state) == "DISPATCHING"
    await engine.until_state(identity, "DELIVERED")
    assert await engine.timeline(identity) == [*SENT_OFF, "DELIVERED RECEIPT"]
    assert await engine.rows("SELECT count(*) FROM early_receipts") == [(0,)]


async def test_the_first_early_receipt_is_joined_by_an_outcome_in_the_same_group(
    engine: Engine, carrier: Carrier
) -> None:
    """Receipt and outcome are handed in before either is stored: what the one keeps, the other must look for."""
    await carrier.set(**NO_RECEIPTS, latency_min_ms=700, latency_mean_ms=700, latency_max_ms=700)
    [identity] = await engine.submit(submission())
    [record] = await carrier.until_requests(1)
    dispatch = engine.corridor.dispatch
    go_on = engine.hold_up(engine.record_writer)
    early = asyncio.create_task(engine.deliver(query_of(record["webhook_url"]), receipt_body(event_id(), "delivered")))
    async with asyncio.timeout(WAIT_S):
        while not engine.handed_in:
            await carrier.records()
        while not dispatch._recording:
            await carrier.records()
    go_on()
    assert await early == 200
    await engine.until_state(identity, "DELIVERED")
    assert await engine.timeline(identity) == [*SENT_OFF, "DELIVERED RECEIPT"]


async def test_an_early_receipt_survives_a_crash(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(**NO_RECEIPTS, latency_min_ms=5_000, latency_mean_ms=5_000, latency_max_ms=5_000)
    [identity] = await engine.submit(submission())
    [record] = await carrier.until_requests(1)
    await engine.deliver(query_of(record["webhook_url"]), receipt_body(event_id(), "delivered"))
    await engine.crash()
    await engine.start()
    await engine.until_state(identity, "DELIVERED")
    assert await engine.timeline(identity) == [*SENT_OFF[:2], "UNKNOWN RECOVERED", "DELIVERED RECEIPT"]


async def test_a_lost_receipt_is_looked_up(engine: Engine, carrier: Carrier) -> None:
    await carrier.set(**NO_RECEIPTS)
    identity, _ = await submitted(engine)
    await carrier.settle()
    await engine.pass_time(30 * 60 - 60)
    assert await engine.timeline(identity) == SENT_OFF
    await engine.pass_time(120)
    assert await engine.timeline(identity) == [*SENT_OFF, "DELIVERED LOOKUP"]


async def test_without_any_receipt_the_end_is_no_receipt_and_late_truth_still_counts(
    engine: Engine, carrier: Carrier
) -> None:
    hour_ms = 3_600_000
    await carrier.set(receipt_delay_min_ms=hour_ms, receipt_delay_mean_ms=hour_ms, receipt_delay_max_ms=hour_ms)
    identity, query = await submitted(engine)
    for _ in range(3):
        await engine.pass_time(23 * 3600)  # each looks it up and learns that the carrier still has it
        assert await engine.timeline(identity) == SENT_OFF
    await engine.pass_time(4 * 3600)
    assert await engine.timeline(identity) == [*SENT_OFF, "NO_RECEIPT RECEIPT_OVERDUE"]
    await engine.deliver(query, receipt_body(event_id(), "delivered"))
    assert await engine.timeline(identity) == [*SENT_OFF, "NO_RECEIPT RECEIPT_OVERDUE", "DELIVERED RECEIPT"]


async def test_invalid_webhooks_change_nothing(engine: Engine, carrier: Carrier) -> None:
    """I17: stale, unsigned, signed by another, re-serialised, with another message's or tenant's MAC."""
    await carrier.set(**NO_RECEIPTS)
    other = await engine.make_tenant("other", SENDER + 50)
    _, query = await submitted(engine)
    _, query_of_second = await submitted(engine, 1)
    [theirs] = await engine.call([submission(2)], other.key)
    await engine.until_states({"SUBMITTED": 3})
    mixed = engine.callback_query(theirs.id, 1).rpartition("&")[0] + "&" + query.rpartition("&")[2]
    swapped = query.rpartition("&")[0] + "&" + query_of_second.rpartition("&")[2]
    forger = Signing(Ed25519PrivateKey.from_private_bytes(b"f" * 32))
    now_us = engine.clock.now_us()
    body = receipt_body(event_id(), "delivered")
    assert engine.signing is not None
    good = engine.signing.sign(query, body, now_us)
    stop = inbound_body(event_id(), "STOP", sender=recipient(0))
    batch = [
        forger.sign(query, body, now_us),
        forger.sign("", stop, now_us),
        engine.signing.sign(query, body, now_us - 301 * US),
        engine.signing.sign(query, body, now_us + 302 * US),
        engine.signing.sign("", stop, now_us - 3600 * US),
        good._replace(body=body + b" "),
        good._replace(signature=b""),
        good._replace(timestamp=str(now_us // US - 1).encode()),
    ]
    before = await engine.dump()
    assert await engine.receive(batch) == [401] * len(batch)
    assert await engine.dump() == before
    garbage = [engine.signing.sign(query, b"{}", now_us), engine.signing.sign(query, b"", now_us)]
    assert await engine.receive(garbage) == [400, 400]
    assert await engine.dump() == before
    # Signed by the provider, but naming what its MAC does not cover: taken note of at most.
    for wrong in (mixed, swapped, query + "0", query.replace("g=1", "g=2"), query.rpartition("&")[0]):
        assert await engine.deliver(wrong, receipt_body(event_id(), "delivered")) == 200
    after = await engine.dump()
    assert {name for name in after if after[name] != before[name]} <= {"webhook_events"}


FINALS: Final = ["delivered", "delivery_failed 40001", "delivery_unconfirmed"]


@st.composite
def receipts(draw: st.DrawFn) -> tuple[list[str], list[int]]:
    """What a provider may say of one message, and an order of it in which each is said once or more."""
    told = ["sent", draw(st.sampled_from(FINALS))]
    if draw(st.booleans()):
        told.append("delivered")
    order = draw(st.permutations([*range(len(told)), *draw(st.lists(st.sampled_from(range(len(told))), max_size=3))]))
    return told, list(order)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=receipts())
async def test_any_order_ends_as_the_right_one(
    engine: Engine, carrier: Carrier, case: tuple[list[str], list[int]]
) -> None:
    """I16."""
    told, order = case
    await carrier.set(**NO_RECEIPTS)
    right, right_query = await submitted(engine)
    shuffled, query = await submitted(engine)
    names = [event_id() for _ in told]
    for at, said in enumerate(told):
        status, _, code = said.partition(" ")
        await engine.deliver(right_query, receipt_body(event_id(), status, code=code))
        del at
    for at in order:
        status, _, code = told[at].partition(" ")
        await engine.deliver(query, receipt_body(names[at], status, code=code))
    assert (await engine.message(shuffled)).state == (await engine.message(right)).state


@EMBEDDED_ONLY
async def test_look_ups_are_brought_forward_in_pieces_after_ready(
    engine: Engine, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start waits for no table of taken messages."""
    await carrier.set(**NO_RECEIPTS)
    identity, _ = await submitted(engine)
    copies = 2 * hasten.PIECE_ROWS + 500
    columns = [name for _, name, *_ in await engine.rows("PRAGMA table_info(messages)")]
    changed = {"id": "id + copy", "due_us": "due_us + copy", "state": "iif(copy % 2, 3, 4)"}
    await engine.execute(
        "WITH RECURSIVE copies(copy) AS "  # noqa: S608 - numbers and names of columns
        f"(SELECT 1 UNION ALL SELECT copy + 1 FROM copies WHERE copy < {copies}) "
        f"INSERT INTO messages SELECT {', '.join(changed.get(name, name) for name in columns)} "
        f"FROM messages, copies WHERE id = {identity}",
    )
    before = dict(await engine.rows("SELECT id, due_us FROM messages"))
    pieces: list[tuple[int, str | None]] = []
    done = asyncio.Event()
    write = sqlite.hasten_lookups

    def noted(connection: Connection, dues: list[tuple[int, int]]) -> None:
        pieces.append((len(dues), engine.corridor.not_ready()))
        write(connection, dues)

    async def whole(corridor: Corridor, shards: Shards) -> None:
        await hasten.hasten_lookups(corridor, shards)
        done.set()

    monkeypatch.setattr(sqlite, "hasten_lookups", noted)
    monkeypatch.setattr(duty, "hasten_lookups", whole)
    engine.clock.freeze()
    await engine.crash()
    await engine.start()
    await asyncio.wait_for(done.wait(), WAIT_S)
    assert sum(rows for rows, _ in pieces) == copies + 1
    assert all(rows <= hasten.PIECE_ROWS and because is None for rows, because in pieces)
    after = dict(await engine.rows("SELECT id, due_us FROM messages"))
    assert all(after[one] <= due_us for one, due_us in before.items())
    first_us = engine.clock.now_us() + 60 * US
    turns = [first_us + turn * hasten.LOOKUP_SPREAD_US for turn in range(1, copies + 2)]
    assert sorted(after.values()) == turns, "50 a second, from a minute after the start on"
