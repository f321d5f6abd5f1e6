"""Look-ups on a replica: asked while it is there and fresh enough, and never the reason that something is not found."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.clock import Clock
from engine.stores.mysql import replica as replicas
from engine.stores.mysql.address import parse
from engine.stores.mysql.lanes import HISTORY_STEP_S, Lane, Marker
from engine.stores.mysql.pool import Limits, Pool
from engine.stores.mysql.store import MySQLStore, Place
from engine.stores.store import ID_MAX, Store, Stretch
from tests.conformance.stores import House, some
from tests.servers.mariadb import PASSWORD
from tests.servers.replication import Replication, replication

LAG_S = 0.4
QUEUED, CANCELLED = 1, 20


@pytest.fixture(scope="module")
def pair() -> Iterator[Replication]:
    with replication(semi_sync=False) as made:
        yield made


class Reader(House):
    """A house whose store looks up on the replica."""

    def __init__(self, folder: Path, pair: Replication, database: str) -> None:
        self.database = database
        self.pair = pair
        super().__init__("mysql", folder, pair.source.url(database))

    def another(self) -> Store:
        primary, other = (
            parse(server.url(self.database), PASSWORD, None) for server in (self.pair.source, self.pair.replica)
        )
        return MySQLStore(
            Place(primary, other, Limits(size_min=1), "D1", replica_lag_s=LAG_S), Clock(), group_weight_max=5000
        )

    async def mark(self, identity: int, state: int = CANCELLED) -> None:
        """Make the replica's copy differ, so that it shows who answers."""
        await asyncio.to_thread(self.pair.catch_up)
        self.pair.replica.run(
            "SET sql_log_bin = 0",
            f"UPDATE messages SET state = {state} WHERE id = {identity}",  # noqa: S608 - numbers of our own
            database=self.database,
        )

    async def listed(self) -> set[int]:
        """The ids of a first page."""
        stretch = Stretch(
            before_id=ID_MAX, lowest_id=0, campaign=0, states=(), recipient=0, rows_max=100, scanned_max=1000
        )
        rows, _ = await self.store.views(self.tenant, stretch)
        return {row[0] for row in rows}


@pytest.fixture
async def house(pair: Replication, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Reader]:
    name = f"lookups_{abs(hash(request.node.name)) % 10**8}"
    pair.source.create_database(name)
    made = Reader(tmp_path, pair, name)
    await made.open()
    await asyncio.to_thread(pair.catch_up)
    yield made
    await made.store.close()


async def test_a_fresh_replica_answers(house: Reader) -> None:
    [identity, other] = await house.accept(*some(2))
    await house.mark(identity)
    assert await house.state_of(identity) == CANCELLED
    assert await house.listed() == {identity, other}


async def test_what_it_does_not_know_yet_is_found_all_the_same(house: Reader, pair: Replication) -> None:
    [old] = await house.accept(*some(1))
    await house.mark(old)
    await asyncio.to_thread(pair.unfollow)
    try:
        [new] = await house.accept(*some(1))
        assert await house.state_of(new) == QUEUED
        # Another tenant's, and what never was, is not found anywhere.
        assert await house.store.view(house.other, new) is None
        assert await house.store.view(house.tenant, new + 1) is None
    finally:
        await asyncio.to_thread(pair.follow)


async def test_one_that_is_too_far_behind_is_not_believed_until_it_caught_up(house: Reader, pair: Replication) -> None:
    [old] = await house.accept(*some(1))
    await house.mark(old)
    await asyncio.to_thread(pair.unfollow)
    try:
        [new] = await house.accept(*some(1))
        await asyncio.sleep(LAG_S + 2 * HISTORY_STEP_S)
        assert await house.state_of(old) == QUEUED
        assert await house.listed() == {old, new}
    finally:
        await asyncio.to_thread(pair.follow)
    assert await house.state_of(old) == CANCELLED


async def test_one_that_was_left_behind_by_a_run_is_not_believed(house: Reader, pair: Replication) -> None:
    [old] = await house.accept(*some(1))
    await house.mark(old)
    await asyncio.to_thread(pair.unfollow)
    try:
        await house.reopen()
        assert await house.state_of(old) == QUEUED
    finally:
        await asyncio.to_thread(pair.follow)


async def test_one_that_dies_costs_nothing_and_is_asked_again_when_it_is_back(
    house: Reader, pair: Replication, monkeypatch: pytest.MonkeyPatch
) -> None:
    [old] = await house.accept(*some(1))
    await house.mark(old)
    assert await house.state_of(old) == CANCELLED
    await asyncio.to_thread(pair.replica.kill)
    try:
        assert await house.state_of(old) == QUEUED
        # Nor does it keep one from starting.
        await house.reopen()
        assert await house.state_of(old) == QUEUED
    finally:
        monkeypatch.setattr(replicas, "REST_S", 0)
        await asyncio.to_thread(pair.replica.start)
        await asyncio.to_thread(pair.catch_up)
    async with asyncio.timeout(30):
        while await house.state_of(old) != CANCELLED:  # noqa: ASYNC110 - it is asked again and again
            await asyncio.sleep(0.05)


async def test_one_that_hangs_delays_one_look_up(
    house: Reader, pair: Replication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "ASKED_S", 0.3)
    await house.reopen()
    [old] = await house.accept(*some(1))
    await house.mark(old)
    assert await house.state_of(old) == CANCELLED
    pair.replica.freeze()
    try:
        assert await house.state_of(old) == QUEUED
        began_s = time.monotonic()
        for _ in range(5):
            assert await house.state_of(old) == QUEUED
        assert time.monotonic() - began_s < replicas.REST_S / 2
    finally:
        pair.replica.thaw()


def test_what_was_committed_when_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    marker = Marker(1, Lane.ACCEPT, Pool(parse("mysql://u@h/d", "", None), Limits()))
    _, (_, _, _, run, _) = marker.next()
    assert marker.is_reached(run, 0, now_s)
    for step in range(1, 101):
        now_s = 1000.0 + step * HISTORY_STEP_S / 2
        marker.committed()
        marker.next()
    assert marker.committed_at(now_s) == 100
    assert marker.committed_at(999.0) == 0
    for age_s in (0.5, 1.0, 3.0):
        exact = 100 - int(2 * age_s / HISTORY_STEP_S)
        assert exact - 3 <= marker.committed_at(now_s - age_s) <= exact
    assert not marker.is_reached(run, 100 - 40, now_s - 1.0)
    assert marker.is_reached(run, 100 - 20, now_s - 1.0)
    assert not marker.is_reached(run + 1, 100, now_s)
