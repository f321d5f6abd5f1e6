"""Statements over many rows: each row has its guard, and how many rows there are changes nothing."""

import random
from pathlib import Path
from typing import Any, cast

import pytest

from engine.stores import sql, sqlite
from engine.stores.connection import Connection, open_writer
from engine.stores.migrate import migrate
from engine.stores.store import OPT_OUT_API

COUNTS = [1, sqlite.ROWS_TOGETHER_MIN - 1, sqlite.ROWS_TOGETHER_MIN, 2 * sqlite.ROWS_AT_ONCE + 1]
DAY_US = 86_400_000_000
# Of a message: tenant, campaign, sender, recipient, class, kind, encoding, segments.
PLAIN = (1, 1, 12025550100, 12025550123, 2, 1, 1, 1)
EXPIRES_US = 1000


@pytest.fixture
def store(tmp_path: Path) -> Connection:
    connection = open_writer(tmp_path / "changes.db")
    migrate(connection, tmp_path / "changes.db", now_us=1)
    connection.execute("INSERT INTO tenants VALUES (1, 'tenant', '', 1, 1)")
    connection.execute("INSERT INTO brands VALUES (1, 1, 'brand', '', '', 1)")
    connection.execute("INSERT INTO campaigns VALUES (1, 1, 1, 'campaign', '', '', 1, 1, '', 1)")
    connection.execute("INSERT INTO numbers VALUES (12025550100, 1, 1, 1)")
    return connection


def insert(store: Connection, count: int, *, seq: int = 1) -> None:
    """Queued messages with the ids 1 to `count`."""
    rows = [(i, *PLAIN, 1, 1, seq, 0, 1, 0, 0, 0, 1, EXPIRES_US, 1, b"a") for i in range(1, count + 1)]
    assert sqlite._run_over(store, sql.INSERT_MESSAGE, rows) == count


def rows_of(store: Connection, columns: str) -> list[tuple[Any, ...]]:
    return store.execute(f"SELECT {columns} FROM messages ORDER BY id").fetchall()  # noqa: S608 - a test's own columns


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("stale", [False, True])
def test_changes_are_guarded_row_by_row(store: Connection, count: int, stale: bool) -> None:  # noqa: FBT001
    insert(store, count)
    store.execute("UPDATE messages SET recipe = 7")
    if stale:
        store.execute("UPDATE messages SET seq = 9 WHERE id = 1")
    changes = [
        (i, 1, 3, 4, f"code {i}", 2, i, 16, 100 + i, 1 + i % 2, 200 + i, f"p{i}", 5, 6, b"b%d" % i)
        for i in range(1, count + 1)
    ]
    assert sqlite._update(store, sql.UPDATE_MESSAGE, changes) == count - stale
    found = rows_of(
        store,
        "id, 1, state, reason, code, seq, counted, flags, due_us, generation, updated_us, provider_id, carrier, "
        "crashes, substr(history, 2), recipe, typeof(history)",
    )
    # A new generation is rendered anew: it has no recipe.
    expected = [(*row, 7 if row[9] == 1 else 0, "blob") for row in changes]
    assert found[stale:] == expected[stale:]
    if stale:
        assert rows_of(store, "id, state, seq, history")[0] == (1, 1, 9, b"a")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "closed",
    [
        "UPDATE messages SET seq = 2 WHERE id = 1",
        "UPDATE messages SET state = 17 WHERE id = 1",
        "UPDATE messages SET expires_us = 500 WHERE id = 1",
        "UPDATE messages SET campaign = 2 WHERE id = 1",
        "UPDATE messages SET sender = 12025550199 WHERE id = 1",
        "UPDATE messages SET recipient = 12025550177 WHERE id = 1",
    ],
)
def test_intents_are_guarded_row_by_row(store: Connection, count: int, closed: str) -> None:
    insert(store, count)
    sqlite.add_opt_out(store, 1, 12025550177, OPT_OUT_API, 1, "")
    store.execute(closed)
    asked = [(i, 1, 40 + i, b"b%d" % i) for i in range(1, count + 1)]
    common = (EXPIRES_US - 100, 8, 3, 2000)
    assert sqlite._update(store, sql.UPDATE_INTENT, asked, common) == count - 1
    found = rows_of(store, "id, state, seq, attempt, started_us, epoch, provider, due_us, updated_us, recipe, history")
    assert found[1:] == [(i, 2, 2, 1, 900, 8, 3, 2000, 900, 40 + i, b"ab%d" % i) for i in range(2, count + 1)]
    assert found[0][1] != 2
    assert found[0][10] == b"a"


def test_a_carrier_is_learned_once_a_day_and_when_it_changes(store: Connection) -> None:
    def learn(carrier: int, at_us: int) -> tuple[int, int]:
        sqlite._run_over(store, sql.UPSERT_CARRIER, [(12025550123, carrier, at_us)])
        row: tuple[int, int] = store.execute("SELECT carrier, learned_us FROM carriers").fetchone()
        return row

    assert learn(1, 5) == (1, 5)
    assert learn(1, 5 + DAY_US) == (1, 5)
    assert learn(1, 6 + DAY_US) == (1, 6 + DAY_US)
    assert learn(2, 7 + DAY_US) == (2, 7 + DAY_US)


class Received:
    """Webhooks of good standing, every second one of those received."""

    def __init__(self, event_ids: list[str]) -> None:
        self._event_ids = event_ids

    def good(self) -> list[int]:
        return [2 * place for place in range(len(self._event_ids))]

    def event_ids(self, indexes: list[int]) -> list[str]:
        return [self._event_ids[index // 2] for index in indexes]


@pytest.mark.parametrize("kinds", [3, 40, 400, 100_000])
def test_a_webhook_is_fresh_once(store: Connection, kinds: int) -> None:
    """However duplicates lie: within a batch, across batches, with another provider's in between."""
    draw = random.Random(kinds)  # noqa: S311 - it must repeat
    seen: set[tuple[int, str]] = set()
    for at_us in range(30):
        provider = draw.randint(1, 2)
        event_ids = [f"event-{draw.randrange(kinds)}" for _ in range(draw.choice((0, 1, 5, 64, 65, 200)))]
        expected = []
        for place, event_id in enumerate(event_ids):
            if (provider, event_id) not in seen:
                seen.add((provider, event_id))
                expected.append(2 * place)
        assert sqlite._fresh(store, cast("Any", Received(event_ids)), provider, at_us) == expected
        # As retention does.
        store.execute(sql.DELETE_WEBHOOK_EVENTS, (at_us - 5, 10))
        seen = set(store.execute("SELECT provider, event_id FROM webhook_events").fetchall())
