"""Bugs planted in the MySQL store where it differs from the embedded one, each found by the check of its promise.

`BUGS` is the table. A check says nothing about a sound store, and raises AssertionError for the broken one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from engine import _core
from engine.errors import NotReady
from engine.stores.mysql import sql, stages
from engine.stores.mysql.pool import Link
from engine.stores.mysql.transactions import EVENT_SLOTS, Transaction
from engine.stores.store import OPT_OUT_API
from tests.conformance.stores import House, some
from tests.corridor.engine_fixture import recipient
from tests.servers.mariadb import MariaDB

Patch = pytest.MonkeyPatch
QUEUED, DISPATCHING = 1, 2
# A sound store waits for another's lock so long, and is then given it.
HELD_S: Final = 0.5


@dataclass
class Place:
    """What a check works on."""

    house: House
    server: MariaDB
    database: str


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


# Plants.


def epoch_not_checked(patch: Patch) -> None:
    """Whoever owns the store."""

    async def pass_over(_tx: Transaction, _epoch: int) -> None:
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
    "slots_not_locked": Bug(slots_not_locked, nothing_starts_after_an_opt_out, "while an opt-out was"),
}


@pytest.fixture
async def place(mariadb: MariaDB, new_database: Callable[[], str], tmp_path: Path) -> AsyncIterator[Place]:
    url = new_database()
    house = House("mysql", tmp_path, url)
    await house.open()
    yield Place(house, mariadb, url.rpartition("/")[2])
    await house.store.close()


@pytest.mark.parametrize("name", BUGS)
async def test_a_sound_store_passes(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await BUGS[name].check(place, monkeypatch)


@pytest.mark.parametrize("name", BUGS)
async def test_a_planted_bug_is_found(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name].plant(monkeypatch)
    with pytest.raises(AssertionError, match=BUGS[name].words):
        await BUGS[name].check(place, monkeypatch)
