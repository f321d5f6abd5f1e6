"""Bugs planted in the MySQL store, where it differs from the embedded one, and between its nodes; each is found.

`BUGS` is the table. A check says nothing about a sound store, and raises AssertionError for the broken one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from engine import _core
from engine.clock import Clock
from engine.errors import NotReady, StoreUnavailable
from engine.stores.mysql import inbox, owner, sql, stages
from engine.stores.mysql.pool import Link
from engine.stores.mysql.shared import MySQLShared
from engine.stores.mysql.store import MySQLStore
from engine.stores.mysql.transactions import EVENT_SLOTS, Holds, LaneWriter, Transaction
from engine.stores.store import OPT_OUT_API, SHARDS, InboxKind, InboxRow, Lease
from tests.conformance.stores import House, some
from tests.corridor.engine_fixture import recipient
from tests.servers.mariadb import MariaDB

Patch = pytest.MonkeyPatch
QUEUED, DISPATCHING = 1, 2
US: Final = 1_000_000
# A sound store waits for another's lock so long, and is then given it.
HELD_S: Final = 0.5
HOUR_S: Final = 3600
# So many a second, leased by two nodes for so long.
QUOTA, RATE = 1, 1000
SHARED_S: Final = 3.0
OF_PROVIDER: Final = 1
MOVE_LEASES: Final = "UPDATE leases SET owner = 'another', epoch = epoch + 1"


@dataclass
class Place:
    """What a check works on."""

    house: House
    server: MariaDB
    database: str

    async def another(self) -> MySQLStore:
        """Another node over the same store; whoever asks closes it."""
        store = self.house.another()
        await store.open(self.house.callbacks())
        assert isinstance(store, MySQLStore)
        return store

    @property
    def shared(self) -> MySQLShared:
        """What the house's node has for others, and they for it."""
        shared = self.house.store.shared
        assert isinstance(shared, MySQLShared)
        return shared


# Checks.


async def an_old_owner_writes_no_attempt_down(place: Place, _patch: Patch) -> None:
    house = place.house
    [identity] = await house.accept(*some(1))
    dispatch = house.pop()
    await house.store.begin_run()  # another process owns the store from here on
    try:
        await house.intend(dispatch)
    except NotReady:
        assert await house.state_of(identity) == QUEUED
        return
    message = "an attempt of an old owner was written down"
    raise AssertionError(message)


async def a_follower_misses_no_event(place: Place, patch: Patch) -> None:
    house, store = place.house, place.house.store
    at_commit, go = asyncio.Event(), asyncio.Event()
    run = Link.run

    async def held_at_commit(self: Link, statement: str, values: Any = None) -> int:
        task = asyncio.current_task()
        if statement == "COMMIT" and task is not None and task.get_name() == "store-accept":
            at_commit.set()
            await go.wait()
        return await run(self, statement, values)

    patch.setattr(Link, "run", held_at_commit)
    accepted = asyncio.ensure_future(house.accept(*some(1)))
    await at_commit.wait()
    told = store.add_opt_out(house.tenant, int(recipient(5)[1:]), OPT_OUT_API, 1, "")
    await asyncio.wait([told], timeout=HELD_S)
    first, cursor = await store.events(house.tenant, 0, 100)
    go.set()
    await accepted
    await told
    rest, _ = await store.events(house.tenant, cursor, 100)
    assert len(first) + len(rest) == 2, "a follower that moved on missed an event"


async def what_is_asked_again_is_stored_once(place: Place, patch: Patch) -> None:
    house = place.house
    run = Link.run
    cut: list[str] = []

    async def lost_once(self: Link, statement: str, values: Any = None) -> int:
        if statement.startswith("INSERT INTO messages") and not cut:
            cut.append(statement)
            self.close()
            raise ConnectionResetError
        return await run(self, statement, values)

    patch.setattr(Link, "run", lost_once)
    try:
        [identity] = await house.accept(*some(1, request_id="r"))
    except RuntimeError as error:
        raise AssertionError(str(error)) from None
    assert cut
    assert await house.state_of(identity) == QUEUED


async def nothing_starts_after_an_opt_out(place: Place, _patch: Patch) -> None:
    house = place.house
    [identity] = await house.accept(*some(1))
    to = int(recipient(0)[1:])
    dispatch = house.pop()
    with closing(place.server.connect(place.database)) as other, other.cursor() as cursor:
        # As another node writes it.
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("BEGIN")
        slot = _core.opt_out_slot(house.tenant, to)
        cursor.execute("SELECT slot FROM opt_out_slots WHERE slot = %s FOR UPDATE", (slot,))
        cursor.execute(f"{sql.INSERT_OPT_OUT}(%s, %s, %s, 1, '')", (house.tenant, to, OPT_OUT_API))
        intended = asyncio.ensure_future(house.intend(dispatch))
        await asyncio.wait([intended], timeout=HELD_S)
        assert not intended.done(), "an attempt was written down while an opt-out was"
        cursor.execute("COMMIT")
    await intended
    assert await house.state_of(identity) != DISPATCHING, "an attempt began after an opt-out"


async def an_opt_out_waits_for_attempts_of_every_node(place: Place, _patch: Patch) -> None:
    house, to = place.house, int(recipient(0)[1:])
    await house.accept(*some(1))
    await house.intend(house.pop())
    other = await place.another()
    try:
        open_to = await other.shared.open_to(house.tenant, to, 0)
    finally:
        await other.close()
    assert open_to, "an opt-out took effect while another node's attempt was out"


async def nodes_share_one_rate(place: Place, _patch: Patch) -> None:
    quotas = [(QUOTA, OF_PROVIDER, place.house.provider, 0, 1, RATE, US, RATE // 10, 0, 1)]
    registry = _core.Registry(1, [], [], quotas)
    other = await place.another()
    try:
        given, until_s, mono_us = 0, time.monotonic() + SHARED_S, Clock().mono_us
        while time.monotonic() < until_s:
            for shared in (place.shared, other.shared):
                given += sum(lease.tokens for lease in await shared.lease([(QUOTA, RATE, 1)], registry, mono_us))
    finally:
        await other.close()
    assert given <= RATE * (SHARED_S + 1), "two nodes have the rate of two"


async def what_an_old_owner_accepts_reaches_the_next(place: Place, _patch: Patch) -> None:
    place.server.run(MOVE_LEASES, database=place.database)
    await place.house.accept(*some(1))
    told = place.server.run("SELECT COUNT(*) FROM inbox WHERE kind = 1", database=place.database)
    assert told == [(1,)], "nobody tells the next owner of what was accepted"


async def a_row_of_the_inbox_that_was_committed_late_is_read(place: Place, patch: Patch) -> None:
    other = await place.another()
    try:
        at_commit, go = asyncio.Event(), asyncio.Event()
        run = Link.run

        async def held_at_commit(self: Link, statement: str, values: Any = None) -> int:
            if statement == "COMMIT" and not at_commit.is_set():
                at_commit.set()
                await go.wait()
            return await run(self, statement, values)

        patch.setattr(Link, "run", held_at_commit)
        late = other.shared.hand_over(InboxKind.CANCELLED, 1, [(0, inbox.packed([1]))])
        await at_commit.wait()
        await place.shared.hand_over(InboxKind.CANCELLED, 2, [(0, inbox.packed([2]))])
        first = await place.shared.inbox([], 10)
        await place.shared.done([row.position for row in first])
        go.set()
        await late
        rest = await place.shared.inbox([], 10)
        assert len(first) + len(rest) == 2, "a row that was committed late is never read"
    finally:
        await other.close()


async def what_could_not_be_taken_up_is_still_in_the_inbox(place: Place, patch: Patch) -> None:
    await place.shared.hand_over(InboxKind.MESSAGES, 1, [(0, inbox.packed([1]))])
    [row] = await place.shared.inbox([], 10)

    async def fail(_tx: Transaction, _ids: Any) -> list[Any]:
        message = "met a bug"
        raise ValueError(message)

    with patch.context() as broken:
        broken.setattr(stages, "held", fail)
        with pytest.raises(ValueError, match="met a bug"):
            await place.shared.take_messages([row.position], [1])
    assert (await place.shared.inbox_size())[0] == 1, "a row left the inbox, and nobody took it up"


async def leases_run_by_the_clock_of_the_server(place: Place, _patch: Patch) -> None:
    other = await place.another()
    try:
        assert await other.begin_run() is None, "leases were taken that had not run out"
    finally:
        await other.close()


async def a_number_rests(place: Place, _patch: Patch) -> None:
    node, _ = await place.shared.join()
    age = "UPDATE nodes SET expires_us = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) - 1000000"
    place.server.run(age, database=place.database)
    other = await place.another()
    try:
        assert (await other.shared.join())[0] != node, "a number was given again while its holder may still use it"
    finally:
        await other.close()


async def a_commit_whose_answer_was_lost_is_answered_as_stored(place: Place, patch: Patch) -> None:
    house, run = place.house, Link.run
    cut: list[str] = []

    async def lost_once(self: Link, statement: str, values: Any = None) -> int:
        task = asyncio.current_task()
        found = await run(self, statement, values)
        if statement == "COMMIT" and not cut and task is not None and task.get_name() == "store-accept":
            cut.append(statement)
            self.close()
            raise ConnectionResetError
        return found

    patch.setattr(Link, "run", lost_once)
    try:
        [identity] = await house.accept(*some(1))
    except (NotReady, StoreUnavailable, RuntimeError, ValueError):
        message = "what is stored was answered as if it were not"
        raise AssertionError(message) from None
    assert cut
    assert await house.state_of(identity) == QUEUED


# Plants.


def epoch_not_checked(patch: Patch) -> None:
    """Whoever owns the store."""

    async def pass_over(_tx: Transaction, _holds: Holds) -> None:
        return

    patch.setattr(Transaction, "guard", pass_over)


def positions_by_insertion(patch: Patch) -> None:
    """As an auto-increment gives them: in the order of inserting, which is not that of commits."""
    numbers = count(1)

    async def write_events(self: Transaction) -> None:
        rows = [(event.tenant % EVENT_SLOTS, next(numbers), *event) for event in self.events]
        if rows:
            await self.put(sql.INSERT_EVENTS, rows)

    patch.setattr(Transaction, "write_events", write_events)


def request_ids_committed_first(patch: Patch) -> None:
    """Committed before the messages they stand for."""
    real = stages._insert_request_ids

    async def insert(tx: Transaction, admission: Any) -> None:
        await real(tx, admission)
        await tx.run("COMMIT")
        await tx.run("BEGIN")

    patch.setattr(stages, "_insert_request_ids", insert)


def slots_not_locked(patch: Patch) -> None:
    """The guard of an attempt alone, which reads what is committed."""
    patch.setattr(sql, "SELECT_SLOTS_SHARED", "SELECT {ids}")


def barrier_by_memory(patch: Patch) -> None:
    """Of attempts that this process has out, a node that sends nothing has none."""

    async def open_to(_self: MySQLShared, _tenant: int, _recipient: int, _due_after_us: int) -> list[int]:
        return []

    patch.setattr(MySQLShared, "open_to", open_to)


def rate_of_its_own(patch: Patch) -> None:
    """A bucket a node, as a limiter in each worker's memory is."""
    rows: dict[tuple[int, int], Any] = {}

    async def lease(self: MySQLShared, asks: Any, registry: _core.Registry, mono_us: Any) -> list[Lease]:
        now_us, given = time.time_ns() // 1000, []
        with_rows = [(quota, rows.get((id(self), quota)), tokens, least) for quota, tokens, least in asks]
        for (quota, *_), answer in zip(asks, registry.lease_budgets(with_rows, now_us), strict=True):
            assert answer is not None
            tokens, _, block_us, rows[id(self), quota] = answer
            given.append(Lease(quota, tokens, mono_us() + block_us, 0))
        return given

    patch.setattr(MySQLShared, "lease", lease)


def owner_by_memory(patch: Patch) -> None:
    """Who was the owner is."""

    async def held_of(_tx: Transaction, holds: Holds) -> set[int]:
        return set(holds)

    patch.setattr(Transaction, "held_of", held_of)


def inbox_by_cursor(patch: Patch) -> None:
    """From behind the last position that was read."""
    real, read = MySQLShared.inbox, [0]

    async def behind(self: MySQLShared, without: Any, rows_max: int) -> list[InboxRow]:
        rows = [row for row in await real(self, without, rows_max) if row.position > read[0]]
        read[0] = max([row.position for row in rows], default=read[0])
        return rows

    patch.setattr(MySQLShared, "inbox", behind)


def inbox_done_first(patch: Patch) -> None:
    """Its rows are removed in a transaction of their own."""
    real = inbox.done

    async def done(tx: Transaction, positions: Any) -> None:
        await real(tx, positions)
        await tx.run("COMMIT")
        await tx.run("BEGIN")

    patch.setattr(inbox, "done", done)


def leases_by_own_clock(patch: Patch) -> None:
    """By this machine's, which is an hour ahead."""
    ahead_us = int((time.time() + HOUR_S) * US)
    patch.setattr(sql, "SELECT_NOW", f"SELECT {ahead_us}")


def numbers_at_once(patch: Patch) -> None:
    """As soon as the lease ran out."""
    patch.setattr(owner, "NUMBER_REST_S", 0.0)


def lost_answer_means_undone(patch: Patch) -> None:
    """The transaction runs again."""

    async def undone(_self: LaneWriter, _because: Exception) -> bool:
        return False

    patch.setattr(LaneWriter, "_read_back", undone)


@dataclass(frozen=True, slots=True)
class Bug:
    """A plant, and the check that must see it."""

    plant: Callable[[Patch], None]
    check: Callable[[Place, Patch], Awaitable[None]]
    words: str
    """Of what the check says."""


BUGS: Final = {
    "epoch_not_checked": Bug(epoch_not_checked, an_old_owner_writes_no_attempt_down, "of an old owner"),
    "positions_by_insertion": Bug(positions_by_insertion, a_follower_misses_no_event, "missed an event"),
    "request_ids_apart": Bug(request_ids_committed_first, what_is_asked_again_is_stored_once, "without its message"),
    "barrier_by_memory": Bug(barrier_by_memory, an_opt_out_waits_for_attempts_of_every_node, "another node's attempt"),
    "rate_of_its_own": Bug(rate_of_its_own, nodes_share_one_rate, "the rate of two"),
    "owner_by_memory": Bug(owner_by_memory, what_an_old_owner_accepts_reaches_the_next, "nobody tells the next owner"),
    "inbox_by_cursor": Bug(inbox_by_cursor, a_row_of_the_inbox_that_was_committed_late_is_read, "is never read"),
    "inbox_done_first": Bug(inbox_done_first, what_could_not_be_taken_up_is_still_in_the_inbox, "left the inbox"),
    "leases_by_own_clock": Bug(leases_by_own_clock, leases_run_by_the_clock_of_the_server, "had not run out"),
    "numbers_at_once": Bug(numbers_at_once, a_number_rests, "given again"),
    "lost_answer_means_undone": Bug(
        lost_answer_means_undone, a_commit_whose_answer_was_lost_is_answered_as_stored, "as if it were not"
    ),
    "slots_not_locked": Bug(slots_not_locked, nothing_starts_after_an_opt_out, "while an opt-out was"),
}


@pytest.fixture
async def place(mariadb: MariaDB, new_database: Callable[[], str], tmp_path: Path) -> AsyncIterator[Place]:
    url = new_database()
    house = House("mysql", tmp_path, url)
    await house.open()
    made = Place(house, mariadb, url.rpartition("/")[2])
    made.shared.taken_over(range(SHARDS))
    yield made
    await house.store.close()


@pytest.mark.parametrize("name", BUGS)
async def test_a_sound_store_passes(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await BUGS[name].check(place, monkeypatch)


@pytest.mark.parametrize("name", BUGS)
async def test_a_planted_bug_is_found(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name].plant(monkeypatch)
    with pytest.raises(AssertionError, match=BUGS[name].words):
        await BUGS[name].check(place, monkeypatch)
