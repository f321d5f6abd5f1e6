"""What statements of the MySQL store read when the tables have a partition for each day of a season.

Statements are explained, not run: what they find is the conformance suite's matter.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from engine import _core
from engine.stores.mysql import partitions, sql
from engine.stores.mysql.partitions import DAYS_AHEAD
from engine.stores.mysql.stages import LATEST_US
from engine.stores.mysql.validation import statements
from engine.stores.store import ID_MAX
from longwave.v1 import messaging_pb2 as pb
from tests.servers.mariadb import MariaDB
from tests.stores.conftest import OpenStore

DAY_US = 86_400_000_000
PAST_DAYS = 90
ROWS_A_DAY = 100
# Of these the day before yesterday's, yesterday's, today's, those made ahead and the last one may hold what is new.
LATEST = LATEST_US // DAY_US + 1 + DAYS_AHEAD + 1
READS = sorted(
    name
    for name, text in statements()
    if text.startswith(("SELECT", "(SELECT", "UPDATE", "DELETE")) and ("messages" in text or "bodies" in text)
)
_REST = (
    "tenant, campaign, sender, recipient, class, kind, encoding, segments, reason, seq, attempt, generation, counted, "
    "flags, due_us, accept_us, expires_us, updated_us, provider, history"
)
_VALUES = ", ".join(["1"] * len(_REST.split(",")))
DELIVERED = 16
_SELECT_FIRST = (
    "SELECT PARTITION_NAME, PARTITION_DESCRIPTION FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() "
    "AND TABLE_NAME = '{table}' AND PARTITION_ORDINAL_POSITION = 1"
)

Plan = list[dict[str, Any]]


class Season:
    """A database in which messages were stored each day."""

    def __init__(self, server: MariaDB, database: str) -> None:
        self.server = server
        self.database = database
        # Midnight may have passed since the database was made: its first day is today.
        [(first, _)] = self._run(_SELECT_FIRST.format(table="messages"))
        midnight = datetime.strptime(first, "p%Y%m%d").replace(tzinfo=UTC)
        self.now_us = int(midnight.timestamp() * 1_000_000) + DAY_US // 2
        [(version,)] = server.run("SELECT VERSION()")
        self._verb = "EXPLAIN PARTITIONS" if "MariaDB" in version else "EXPLAIN"

    def first_id(self, days_ago: int) -> int:
        return _core.first_id_at((self.now_us // DAY_US - days_ago) * DAY_US)

    def fill(self) -> None:
        for table in partitions.TABLES:
            [(today, behind)] = self._run(_SELECT_FIRST.format(table=table))
            past = [f"PARTITION past{n} VALUES LESS THAN ({self.first_id(n - 1)})" for n in range(PAST_DAYS, 0, -1)]
            parts = ", ".join([*past, f"PARTITION {today} VALUES LESS THAN ({behind})"])
            self._run(f"ALTER TABLE {table} REORGANIZE PARTITION {today} INTO ({parts})")
        for days_ago in range(PAST_DAYS + 1):
            ids = range(self.first_id(days_ago), self.first_id(days_ago) + ROWS_A_DAY)
            messages = ", ".join(f"({identity}, {DELIVERED}, 'p{identity}', {_VALUES})" for identity in ids)
            bodies = ", ".join(f"({identity}, 'x')" for identity in ids)
            self._run(
                f"INSERT INTO messages (id, state, provider_id, {_REST}) VALUES {messages}",  # noqa: S608 - our own
                f"INSERT INTO bodies (id, record) VALUES {bodies}",  # noqa: S608 - as above
            )
        self._run("ANALYZE TABLE messages, bodies")

    def _run(self, *statements: str) -> list[tuple[Any, ...]]:
        return self.server.run(*statements, database=self.database)

    def plan(self, statement: str) -> Plan:
        connection = self.server.connect(self.database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"{self._verb} {statement}")
                names = [column[0] for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            connection.close()


@pytest.fixture
async def season(open_store: OpenStore, mariadb: MariaDB, new_database: Callable[[], str]) -> Season:
    url = new_database()
    await (await open_store(url)).close()
    made = Season(mariadb, url.rpartition("/")[2])
    made.fill()
    return made


def days_read(plan: Plan) -> int:
    """Partitions that the statement may look into, of whichever table it reads most."""
    return max(len(str(step["partitions"]).split(",")) if step["partitions"] else 0 for step in plan)


async def test_no_statement_reads_a_table_from_end_to_end(season: Season) -> None:
    examples = dict(statements())
    scans = {}
    for name in READS:
        plan = season.plan(examples[name])
        if any(step["type"] in {"ALL", "index"} and step["table"] in {"messages", "m", "bodies", "b"} for step in plan):
            scans[name] = plan
    assert scans == {}
    # A state that is not among them would let its day go.
    ends = sorted(number for number in pb.MessageState.values() if number >= 16)
    assert f"IN ({', '.join(map(str, ends))})" in partitions._SELECT_LATE
    late = season.plan(partitions._SELECT_LATE.format(name="past9").replace("%s", str(season.now_us)))
    assert [(step["type"], step["key"]) for step in late] == [("range", "messages_due")]
    moving = season.plan(partitions._SELECT_MOVING.format(name="past9"))
    assert [step["type"] for step in moving] == ["range"]


async def test_one_message_is_one_day(season: Season) -> None:
    identity = season.first_id(40) + 1
    for statement in (
        sql.SELECT_VIEW.replace("%s", "{}").format(identity, 1),
        sql.SELECT_HELD.format(ids=identity),
        sql.UPDATE_LOOKUPS_DUE.format(ids=identity, turns=f"WHEN {identity} THEN 1"),
    ):
        assert days_read(season.plan(statement)) <= 1, statement


async def test_a_receipt_looks_into_the_latest_days_first(season: Season) -> None:
    latest = _core.first_id_at(season.now_us - LATEST_US)
    texts = ", ".join(f"'p{season.first_id(days_ago)}'" for days_ago in (0, 1, 40))
    plans = {
        from_id: season.plan(
            sql.SELECT_BY_PROVIDER_ID.format(texts=texts, provider=1, from_id=from_id, below_id=below_id)
        )
        for from_id, below_id in ((latest, ID_MAX), (0, latest))
    }
    assert {step["key"] for plan in plans.values() for step in plan} == {"messages_provider_id"}
    assert days_read(plans[latest]) <= LATEST
    assert days_read(plans[0]) >= PAST_DAYS - LATEST_US // DAY_US


async def test_a_page_of_a_list_stays_within_its_days(season: Season) -> None:
    before, lowest = season.first_id(10), season.first_id(12)
    stretch = season.plan(sql.SELECT_STRETCH.replace("%s", "{}").format(1, before, lowest, 1000))
    views = season.plan(sql.SELECT_VIEWS.replace("{filters}", "").replace("%s", "{}").format(1, before, lowest, 50))
    # The bodies of what was found are looked up by id, each in its own day.
    assert [len(str(step["partitions"]).split(",")) for step in stretch if step["table"] == "messages"] == [2]
    assert [len(str(step["partitions"]).split(",")) for step in views if step["table"] == "m"] == [2]
