"""What every store must do, whatever is below its verbs; `stores.py` has the kinds. A store never fakes what it lacks.

Faults of one store's own kind (a full disk, a lost connection) have tests beside that store.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine import _core
from engine.errors import NotReady, Refused
from engine.registry.tables import TENANTS
from engine.stores.store import ID_MAX, OPT_OUT_API, OPT_OUT_KEYWORD, Finding, Kept, Stretch
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2
from tests.conformance.stores import HOUR_US, KINDS, ON_SERVER, House, some
from tests.corridor.engine_fixture import Signing, inbound_body, recipient, submission

NUMBER = int(recipient(0)[1:])
QUEUED, DISPATCHING, UNKNOWN, CANCELLED = 1, 2, 5, 20
CRITICAL_STREAMS = range(5)
VIEW_ID = 0
# A cursor gives a slot two bytes.
SLOTS_MAX = 1 << 16
DAY_US = 24 * HOUR_US


@pytest.fixture(params=KINDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A new one, open."""
    house = House(
        request.param, tmp_path, request.getfixturevalue("new_database")() if request.param in ON_SERVER else ""
    )
    await house.open()
    yield house
    await house.close()


def stretch(rows_max: int = 100, scanned_max: int = 1000, before_id: int = ID_MAX, **filters: int) -> Stretch:
    """Of all messages, unless the filters say otherwise."""
    values: dict[str, int] = {"lowest_id": 0, "campaign": 0, "recipient": 0} | filters
    return Stretch(before_id=before_id, states=(), rows_max=rows_max, scanned_max=scanned_max, **values)


# Life.


async def test_a_run_is_above_the_one_before_and_goes_on_from_its_ids(house: House) -> None:
    assert house.last_id == 0
    ids, epoch = await house.accept(*some(3)), house.epoch
    await house.reopen()
    assert (house.epoch, house.last_id) == (epoch + 1, max(ids))
    assert not house.store.full
    assert not house.store.ended
    assert house.store.connections >= 1
    assert house.store.name


async def test_it_is_durable_and_says_so(house: House) -> None:
    findings: list[Finding] = await house.store.check()
    assert findings
    assert [finding for finding in findings if not finding.ok] == []
    assert await house.store.make_room()


async def test_what_was_handed_in_is_stored_before_it_closes_and_nothing_after(house: House) -> None:
    late = house.store.set_facts([("late", 7)])
    await house.store.close()
    await house.store.close()
    assert late.done()
    assert house.store.ended
    with pytest.raises(NotReady):
        await house.store.set_facts([("later", 8)])
    await house.reopen()
    assert await house.store.facts(["late", "later"]) == [7, None]


async def test_the_epoch_is_read_on_a_thread_of_its_own(house: House) -> None:
    heart = house.store.heart()

    def look() -> list[tuple[bool, bool]]:
        try:
            return [heart.beat()[:2], heart.beat()[:2]]
        finally:
            heart.close()
            heart.close()

    assert await asyncio.to_thread(look) == [(True, True)] * 2


# Messages.


async def test_writes_are_stored_in_the_order_in_which_they_are_handed_in(house: House) -> None:
    store, tenant = house.store, house.tenant
    first = store.add_opt_out(tenant, NUMBER, OPT_OUT_API, 5, "x")
    lifted = store.remove_opt_out(tenant, NUMBER, OPT_OUT_API, 6, 6)
    second = store.add_opt_out(tenant, NUMBER, OPT_OUT_API, 7, "x")
    third = store.add_opt_out(tenant, NUMBER, OPT_OUT_KEYWORD, 8, "x")
    assert await third == (OPT_OUT_API, 7, False)
    assert [await first, await second] == [(OPT_OUT_API, 5, True), (OPT_OUT_API, 7, True)]
    assert await lifted
    assert await store.opt_outs() == [(tenant, NUMBER)]


async def test_a_request_id_is_stored_once_and_answered_alike(house: House) -> None:
    first, again = (house.admit(*some(3, request_id="r")[:1]) for _ in range(2))
    other = house.admit(submission(0, text="something else", request_id="r"))
    await asyncio.gather(*(house.store.append(one, house.clock.now_us()) for one in (first, again, other)))
    assert (first.accepted, again.accepted, other.accepted) == (1, 0, 0)
    answers = [pb.SubmitMessagesResponse.FromString(one.replies()[0][1]).results[0] for one in (first, again, other)]
    assert answers[0].message == answers[1].message != answers[2].message
    assert [answer.verdict for answer in answers] == [
        verdict_pb2.VERDICT_ACCEPTED, verdict_pb2.VERDICT_ACCEPTED, verdict_pb2.VERDICT_REQUEST_ID_REUSED,
    ]  # fmt: skip
    assert dict(await house.store.count_by_state())[QUEUED] == 1


async def test_an_attempt_is_written_down_once_and_by_its_owner_alone(house: House) -> None:
    ids = await house.accept(*some(3))
    dispatch = house.pop()
    with pytest.raises(NotReady):
        await house.intend(dispatch, epoch=house.epoch + 1)
    assert await house.store.in_state(DISPATCHING) == []
    assert await house.intend(dispatch) is None
    assert await house.store.in_state(DISPATCHING) == sorted(ids)
    assert await house.store.held(ids) == []


async def test_an_owner_before_this_one_writes_nothing_down(house: House) -> None:
    await house.accept(submission())
    dispatch, before = house.pop(), house.epoch
    run = await house.store.begin_run()
    assert run is not None
    house.epoch = run.epoch
    with pytest.raises(NotReady):
        await house.intend(dispatch, epoch=before)
    assert await house.store.in_state(DISPATCHING) == []


async def test_what_the_guard_refuses_leaves_the_batch(house: House) -> None:
    forbidden, free = await house.accept(*some(2))
    dispatch = house.pop()
    opting_out = house.store.add_opt_out(house.tenant, NUMBER, OPT_OUT_API, 1, "x")
    written = await house.intend(dispatch)
    assert await opting_out
    assert dispatch.ids() == [free]
    assert written.settlement.counts()
    assert await house.store.in_state(DISPATCHING) == [free]
    assert await house.state_of(forbidden) not in {QUEUED, DISPATCHING}


async def test_waiting_messages_are_read_behind_the_writes_before(house: House) -> None:
    ids = await house.accept(*some(4))
    dispatch = house.pop(room=1)
    [popped] = dispatch.ids()
    granted, held = house.intend(dispatch), house.store.held(ids)
    assert {row[0] for row in await held} == set(ids) - {popped}
    assert granted.done()


async def test_open_attempts_are_settled_as_unknown_with_their_ledgers(house: House) -> None:
    ids = await house.accept(*some(3))
    await house.intend(house.pop())
    await house.reopen()
    assert await house.store.in_state(DISPATCHING) == sorted(ids)
    written = await house.settle(_core.Facts.recovered(ids))
    assert [count for _, _, count in written.settlement.counts()] == [3]
    assert await house.store.in_state(DISPATCHING) == []
    states = dict(await house.store.count_by_state())
    assert sum(states.values()) == 3
    assert DISPATCHING not in states


async def test_a_cancelled_message_is_shown_as_the_same_transaction_left_it(house: House) -> None:
    [identity] = await house.accept(submission())
    facts = _core.Facts.cancel([identity])
    written, row = await house.store.cancel(
        facts, house.settler, house.registry, house.clock.now_us(), 1, tenant=house.tenant
    )
    assert row == await house.store.view(house.tenant, identity)
    assert written.settlement.too_late() == []
    assert await house.store.count_by_state() in ([], [(QUEUED, 0)])
    assert await house.store.view(house.other, identity) is None


# Webhooks and consent.


async def receive(house: House, *bodies: bytes) -> tuple[int, int, list[tuple[int, int, bool]]]:
    """(duplicates, inbound messages, consents) of webhooks, in one batch."""
    signing, now_us = Signing(Ed25519PrivateKey.generate()), house.clock.now_us()
    signed = [signing.sign("", body, now_us) for body in bodies]
    items = [(one.query, one.signature, one.timestamp, one.body) for one in signed]
    keys = _core.WebhookKeys([signing.public_base64], [("k1", b"1" * 32)], HOUR_US)
    webhooks = _core.Webhooks.read(items, keys, now_us)
    received = await house.store.receive(
        webhooks,
        bodies,
        house.provider,
        house.scheduler,
        house.settler,
        house.registry,
        house.admitter,
        now_us,
        1,
    )
    return received.duplicates, received.inbound, received.consents


async def test_a_webhook_counts_once_and_words_count_in_their_order(house: House) -> None:
    words = [
        inbound_body(f"e{place}", word, sender=recipient(0), occurred_at=f"2026-01-01T00:00:0{place}Z")
        for place, word in enumerate(("STOP", "START", "hello"))
    ]
    told = [(house.tenant, NUMBER, True), (house.tenant, NUMBER, False)]
    assert await receive(house, *words, words[2]) == (1, 3, told)
    assert await receive(house, words[0], words[1]) == (2, 0, [])
    assert await house.store.opt_outs() == []
    unknown = json.dumps({"data": {"event_type": "message.unheard_of", "id": "u", "payload": {}}}).encode()
    assert await receive(house, unknown) == (0, 0, [])


async def test_an_early_receipt_waits(house: House) -> None:
    assert await house.store.early_count() == 0
    to = [{"phone_number": recipient(0), "status": "delivered", "carrier": ""}]
    payload = {"id": "nobody-knows", "to": to, "errors": []}
    data = {"event_type": "message.finalized", "id": "e", "occurred_at": "2026-01-01T00:00:00Z", "payload": payload}
    await receive(house, json.dumps({"data": data}).encode())
    assert await house.store.early_count() == 1


async def test_a_barrier_is_open_until_it_is_said_to_be_effective(house: House) -> None:
    store, pair = house.store, (house.tenant, NUMBER)
    await store.add_opt_out(*pair, OPT_OUT_API, 1, "x")
    assert await store.barriers_open() == [pair]
    await asyncio.gather(store.mark_effective([pair], 2), store.mark_effective([pair], 3))
    assert await store.barriers_open() == []
    rows, _ = await store.events(house.tenant, 0, 100)
    kinds = [event.kind for row in rows for event in pb.WatchEventsResponse.FromString(row).events]
    assert kinds == [pb.Event.KIND_OPT_OUT, pb.Event.KIND_OPT_OUT_EFFECTIVE]
    assert await store.opt_outs_of(house.tenant, 0, 10) == [(NUMBER, OPT_OUT_API, 1)]
    assert await store.opt_outs_of(house.tenant, NUMBER, 10) == []
    assert await store.opt_outs_of(house.other, 0, 10) == []


async def test_a_start_from_before_the_last_stop_lifts_nothing(house: House) -> None:
    store, pair = house.store, (house.tenant, NUMBER)
    await store.add_opt_out(*pair, OPT_OUT_KEYWORD, 10, "x")
    assert not await store.remove_opt_out(*pair, OPT_OUT_KEYWORD, 12, 9)
    assert await store.remove_opt_out(*pair, OPT_OUT_KEYWORD, 12, 11)
    assert not await store.remove_opt_out(*pair, OPT_OUT_API, 13, 13)


# Ledgers, recipes, facts, retention.


async def test_a_ledger_that_is_there_knows_better_and_reservations_are_spent_by_the_next_run(house: House) -> None:
    await house.store.begin_ledger((3, 100, 5, 2))
    await house.store.begin_ledger((3, 100, 0, 0))
    assert await house.store.ledgers() == [(3, 100, 5, 2)]
    assert await house.store.write_ledgers(house.scheduler) == []
    await house.reopen()
    assert await house.store.ledgers() == [(3, 100, 7, 0)]


async def test_a_recipe_has_one_key(house: House) -> None:
    store, provider = house.store, house.provider
    first = await store.recipe(provider, "https://a", "k1", 1)
    assert await store.recipe(provider, "https://a", "k1", 1) == first
    second = await store.recipe(provider, "https://b", "k1", 1)
    await store.recipe(provider, "https://b", "k1", 2)
    assert sorted(await store.recipes(provider, 1)) == sorted([(first, "https://a", "k1"), (second, "https://b", "k1")])


async def test_facts_are_kept_by_name(house: House) -> None:
    await house.store.set_facts([("one", 1), ("two", -2)])
    await house.store.set_facts([("one", 2**62)])
    assert await house.store.facts(["two", "none", "one"]) == [-2, None, 2**62]


async def test_what_is_past_its_time_goes_piece_by_piece(house: House) -> None:
    for index in range(3):
        await house.accept(submission(index, request_id=f"r{index}"))
    _, newest = await house.store.event_bounds(house.tenant)
    before_us = house.clock.now_us() + HOUR_US
    for kind in Kept:
        more, took_us = await house.store.prune(kind, 1, 2)
        assert not more
        assert took_us >= 0
    assert (await house.store.prune(Kept.EVENTS, before_us, 2))[0]
    assert not (await house.store.prune(Kept.EVENTS, before_us, 2))[0]
    assert await house.store.event_bounds(house.tenant) == (newest, newest)
    assert (await house.store.prune(Kept.REQUEST_IDS, before_us, 2))[0]
    assert not (await house.store.prune(Kept.REQUEST_IDS, before_us, 2))[0]
    # Forgotten: the same id is another message's now.
    assert len(await house.accept(submission(0, request_id="r0"))) == 1
    await house.accept(submission(9))
    assert (await house.store.event_bounds(house.tenant))[1] > newest


async def test_messages_past_their_time_go_unless_they_may_still_move(house: House) -> None:
    async def cancel(identity: int) -> None:
        facts = _core.Facts.cancel([identity])
        await house.store.cancel(facts, house.settler, house.registry, house.clock.now_us(), 1, tenant=house.tenant)

    async def prune(before_us: int) -> None:
        while (await house.store.prune(Kept.MESSAGES, before_us, 1))[0]:
            pass

    ids = await house.accept(*some(3))
    await cancel(ids[0])
    await cancel(ids[1])
    await prune(house.clock.now_us() - 2 * DAY_US)
    assert len((await house.store.views(house.tenant, stretch()))[0]) == 3
    later_us = house.clock.now_us() + 2 * DAY_US
    await prune(later_us)
    assert await house.store.view(house.tenant, ids[2]) is not None
    await cancel(ids[2])
    await prune(later_us)
    assert await house.store.views(house.tenant, stretch()) == ([], 0)


async def test_messages_that_were_due_lately_stay(house: House) -> None:
    [identity] = await house.accept(*some(1))
    facts = _core.Facts.cancel([identity])
    now_us = house.clock.now_us()
    await house.store.cancel(facts, house.settler, house.registry, now_us, 1, tenant=house.tenant)
    for due_before_us, stays in ((now_us - HOUR_US, True), (now_us + HOUR_US, False)):
        while (await house.store.prune(Kept.MESSAGES, now_us + 2 * DAY_US, 1, due_before_us=due_before_us))[0]:
            pass
        assert (await house.store.view(house.tenant, identity) is not None) == stays


async def test_webhook_ids_are_forgotten(house: House) -> None:
    body = inbound_body("e", "hello", sender=recipient(0))
    assert (await receive(house, body))[0] == 0
    assert (await house.store.prune(Kept.WEBHOOK_EVENTS, house.clock.now_us() + HOUR_US, 1))[0]
    assert (await receive(house, body))[0] == 0


async def test_data_that_is_refused_costs_what_was_handed_in_with_it_alone(house: House) -> None:
    before = house.store.set_facts([("before", 1)])
    refused = house.store.set_facts([("half", 1), ("too wide", 2**70)])
    behind = house.store.set_facts([("behind", 1)])
    with pytest.raises(Exception) as error:
        await refused
    assert not isinstance(error.value, Refused)
    await asyncio.gather(before, behind)
    assert await house.store.facts(["before", "half", "behind"]) == [1, None, 1]
    assert not house.store.ended


# The control plane.


async def test_a_control_function_that_raises_changes_nothing_and_holds_up_nobody(house: House) -> None:
    def spoil(control: sa.Connection) -> None:
        control.execute(sa.update(TENANTS).values(display_name="spoilt"))
        message = "made up"
        raise ValueError(message)

    def names(control: sa.Connection) -> set[str]:
        return set(control.execute(sa.select(TENANTS.c.display_name)).scalars())

    spoiling, behind = house.store.run_control(spoil), house.store.set_facts([("behind", 1)])
    with pytest.raises(ValueError, match="made up"):
        await spoiling
    await behind
    assert "spoilt" not in await house.store.run_control(names)
    assert await house.store.registry_version() == house.registry.version


# Reads.


async def test_waiting_messages_are_found_by_stream_and_read_in_pieces(house: House) -> None:
    ids = await house.accept(*some(5))
    [(campaign, stream, first, last)] = await house.store.waiting_bounds(CRITICAL_STREAMS)
    assert (first, last) == (ids[0], ids[-1])
    piece = await house.store.waiting_piece(campaign, stream, ids[1], ids[4], 2)
    assert [row[0] for row in piece] == ids[1:3]
    house.scheduler.remove(ids)
    assert house.scheduler.load(piece, house.clock.now_us()) == (2, 0)
    now_us = house.clock.now_us()
    assert await house.store.waiting_expired(campaign, stream, 0, now_us, 2) == ([], ids[1])
    far_us = now_us + 30 * 24 * HOUR_US
    assert await house.store.waiting_expired(campaign, stream, ids[1], far_us, 10) == (ids[2:], 0)


async def test_timers_are_found_earliest_first_and_latest_first(house: House) -> None:
    ids = await house.accept(*some(3))
    await house.intend(house.pop())
    await house.settle(_core.Facts.recovered(ids))
    far_us = house.clock.now_us() + 100 * HOUR_US
    found = [await house.store.latest_due(state, (2**62, 2**62), 10) for state in range(2, 16)]
    [timers] = [timers for timers in found if timers]
    assert {identity for _, identity in timers} == set(ids)
    assert timers == sorted(timers, reverse=True)
    [state] = [state for state, timers in enumerate(found, 2) if timers]
    assert await house.store.latest_due(state, timers[0], 10) == timers[1:]
    assert set(await house.store.due([state], far_us, 10)) == set(ids)
    assert len(await house.store.due([state], far_us, 2)) == 2
    assert await house.store.due([state], 1, 10) == []
    # Only look-ups of taken messages are brought forward.
    await house.store.hasten_lookups([(1, ids[0])])
    assert await house.store.due([state], 1, 10) == []


async def test_what_a_day_has_spent_is_counted_in_pieces(house: House) -> None:
    ids = await house.accept(*some(3))
    [campaign] = {row[2] for row in await house.store.held(ids)}
    began_us = house.clock.now_us()
    await house.intend(house.pop())
    await house.store.settled_so_far()
    spent, after = await house.store.started(house.tenant, 0, [campaign], began_us, 0, 1, 2)
    assert (spent, after) == (2, ids[1])
    assert await house.store.started(house.tenant, ids[1], [campaign], began_us, 0, 1, 2) == (1, None)
    assert await house.store.started(house.tenant, 0, [campaign], began_us, 0, 2, 10) == (3, None)
    assert await house.store.started(house.tenant, 0, [campaign + 100], began_us, 0, 1, 10) == (0, None)
    assert await house.store.started(house.tenant, 0, [campaign], began_us + HOUR_US, 0, 1, 10) == (0, None)


async def test_a_page_is_bounded_by_what_was_looked_at(house: House) -> None:
    ids = await house.accept(*some(5))
    await house.accept(submission(0), tenant=house.other)
    rows, floor = await house.store.views(house.tenant, stretch(rows_max=2))
    assert ([row[VIEW_ID] for row in rows], floor) == (ids[:2:-1], 0)
    rows, floor = await house.store.views(house.tenant, stretch(recipient=NUMBER, scanned_max=3))
    assert (rows, floor) == ([], ids[2])
    rows, floor = await house.store.views(house.tenant, stretch(recipient=NUMBER, scanned_max=3, before_id=ids[2]))
    assert ([row[VIEW_ID] for row in rows], floor) == ([ids[0]], 0)
    rows, _ = await house.store.views(house.tenant, stretch(lowest_id=ids[3]))
    assert [row[VIEW_ID] for row in rows] == [ids[4], ids[3]]


async def test_holders_of_ordering_keys_and_learned_carriers_are_found(house: House) -> None:
    [identity] = await house.accept(submission(0, ordering_key="k"))
    assert await house.store.key_holders() == []
    await house.intend(house.pop())
    assert [row[0] for row in await house.store.key_holders()] == [identity]
    assert await house.store.carriers(10) == []


# Events.


async def test_events_are_read_from_a_position_on_and_each_tenant_has_its_own(house: House) -> None:
    store, tenant, other = house.store, house.tenant, house.other
    assert await store.event_bounds(tenant) == (0, 0)
    assert (await store.newest_event(), await store.oldest_event_us()) == (0, None)
    for index in range(3):
        await house.accept(submission(index))
    oldest, newest = await store.event_bounds(tenant)
    assert 0 < oldest < newest == await store.newest_event()
    first, reached = await store.events(tenant, 0, 2)
    assert len(first) == 2
    rest, end = await store.events(tenant, reached, 2)
    assert (len(rest), end) == (1, newest)
    assert await store.events(tenant, end + 5, 2) == ([], end + 5)
    assert (await store.events(other, 0, 10))[0] == []
    assert 0 <= store.slot_of(tenant) < SLOTS_MAX
    assert await store.oldest_event_us() is not None
