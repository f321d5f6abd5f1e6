"""The MySQL store against what an attacker, a busy day or a careless operator brings."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import _core
from engine.append import BATCH
from engine.errors import NotReady, Verdict
from engine.stores.mysql import transactions
from longwave.v1 import messaging_pb2 as pb
from tests.conformance.stores import House, some
from tests.corridor.engine_fixture import submission
from tests.servers.mariadb import MariaDB
from tests.stores.relay import Relay
from tests.stores.test_mysql_faults import through


@pytest.fixture
async def relay(mariadb: MariaDB) -> AsyncIterator[Relay]:
    found = Relay(mariadb.port)
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def house(relay: Relay, tmp_path: Path, new_database: Callable[[], str]) -> AsyncIterator[House]:
    """A store behind the relay."""
    house = House("mysql", tmp_path, through(new_database(), relay.port))
    await house.open()
    yield house
    await house.store.close()


def answers(admission: _core.Admission) -> list[tuple[int, str]]:
    """(verdict, name) of each submission of the one call."""
    [(_, response, *_)] = admission.replies()
    return [(result.verdict, result.message) for result in pb.SubmitMessagesResponse.FromString(response).results]


async def test_a_whole_group_of_one_tenant_is_stored(house: House) -> None:
    """Its first events are longer than a statement may be."""
    calls = []
    for first in range(0, 5000, 1000):
        submissions = [submission(index, client_reference="r" * 128) for index in range(first, first + 1000)]
        request = pb.SubmitMessagesRequest(submissions=submissions).SerializeToString()
        calls.append((BATCH, house.tenant, request))
    now_us = house.clock.now_us()
    admission = house.admitter.admit(calls, house.registry, _core.Consent([]), now_us, 1000)
    assert admission.accepted == 5000
    await house.store.append(admission, now_us)
    rows, _ = await house.store.events(house.tenant, 0, 100)
    told = pb.WatchEventsResponse.FromString(b"".join(rows)).events
    assert sorted(event.message for event in told) == sorted(
        f"messages/{_core.short_id(identity)}" for identity in admission.ids()
    )


async def test_what_another_call_of_an_undone_group_had_is_never_answered(
    house: House, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that comes again while its first call still waits for a server that dies under both."""
    monkeypatch.setattr(transactions, "RETRY_S", 0.3)
    first, again = (house.admit(*some(1, request_id="same")) for _ in range(2))

    def cut(statement: bytes) -> str:
        if not statement.startswith(b"UPDATE lanes"):
            return ""
        relay.refusing = True
        return "before"

    relay.cut = cut
    stored = [house.store.append(admission, house.clock.now_us()) for admission in (first, again)]
    for future in stored:
        with pytest.raises(NotReady):
            await future
    for admission in (first, again):
        admission.refuse_all(int(Verdict.NOT_READY), "nothing was stored", 0)
        assert [verdict for verdict, _ in answers(admission)] == [Verdict.NOT_READY]
    relay.refusing, relay.cut = False, lambda _statement: ""


async def test_a_run_that_comes_again_asks_the_store_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the call before it would have stored is not there when that one is refused after all."""
    first, again = (house.admit(*some(1, request_id="same")) for _ in range(2))
    failing = iter([True, True])  # of both together, then of the first alone
    whole = transactions.Transaction.put

    async def put(tx: transactions.Transaction, head: str, rows: Sequence[tuple[Any, ...]], tail: str = "") -> int:
        if head.startswith("INSERT INTO events") and next(failing, False):
            raise ValueError
        return await whole(tx, head, rows, tail)

    monkeypatch.setattr(transactions.Transaction, "put", put)
    results = await asyncio.gather(
        *(house.store.append(admission, house.clock.now_us()) for admission in (first, again)), return_exceptions=True
    )
    assert isinstance(results[0], ValueError)
    assert results[1] is None
    [(verdict, name)] = answers(again)
    assert verdict == Verdict.ACCEPTED
    [identity] = again.ids()
    assert name == f"messages/{_core.short_id(identity)}"
    assert await house.state_of(identity) == 1
