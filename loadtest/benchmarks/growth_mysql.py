"""Measures what a message costs, and a look-up, over a MariaDB in which ever more messages have been.

Past messages are copies of some that an engine stored, made DELIVERED by SQL: rows of messages, bodies and request ids,
all in the partition of one day, which is worse than days apart. Server, engine and load generator share the machine.
"""

import random
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from loadtest.benchmarks.accept_batches import load
from loadtest.benchmarks.callers import Run, call_all, run_loop
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, over_mysql
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.submissions import batches
from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from tests.servers.mariadb import PASSWORD, MariaDB

METHOD: Final = (
    "SubmitMessages of 500 with 4 calls on their way (no carrier), GetMessage of random past messages and ListMessages "
    "of the newest 50 with 4 callers, over a MariaDB (buffer pool 8 GiB, flush at every commit, binary log synced) "
    "whose tables hold so many past messages in one day's partition, with bodies and request ids."
)
DATABASE: Final = "bench"
CALLERS: Final = 4
LOOKUPS: Final = 2_000
LISTS: Final = 200
PAGE_MESSAGES: Final = 50
# Copied again and again.
TEMPLATE_MESSAGES: Final = 1_000
# In one statement: its rows are in one transaction, whose undo is to stay in memory.
COPIES_AT_ONCE: Final = 100
DELIVERED: Final = 16
FLAT: Final = "≤ 1.20"
DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
TABLES: Final = ("messages", "bodies", "request_ids")


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    with tempfile.TemporaryDirectory(prefix="mariadb-", dir=folder) as name:
        server = MariaDB(Path(name).resolve() / "server", "--innodb-buffer-pool-size=8G", "--innodb-log-file-size=2G")
        try:
            server.start()
            _measure(plan, Path(name), server, sheet)
        finally:
            server.remove()


def _measure(plan: Plan, folder: Path, server: MariaDB, sheet: Sheet) -> None:
    # Each look-up is to cost what it costs the store.
    settings = over_mysql(server.create_database(DATABASE), PASSWORD, folder) | {"LONGWAVE_CACHE_BYTES": "0"}
    running = EngineProcess(folder, settings)
    running.make_store()
    running.start()
    costs: list[float] = []
    try:
        load(running, batches(OPEN, "template", TEMPLATE_MESSAGES, plan.batch_messages), 1)
        template = _Template(server)
        for rows in plan.growth_rows:
            template.fill(rows)
            load(running, batches(OPEN, f"warm{rows}", 4 * plan.batch_messages, plan.batch_messages), CALLERS)
            run = load(running, batches(OPEN, f"r{rows}", plan.accept_messages, plan.batch_messages), CALLERS)
            costs.append(run.elapsed_s / plan.accept_messages)
            title = f"{rows:,} past messages"
            sheet.add(f"accept beside {title}", "messages/s", per_second(plan.accept_messages, run.elapsed_s))
            wanted = FLAT if rows == plan.growth_rows[-1] else ""
            sheet.add(
                f"accept beside {title}: of the cost beside the fewest", "ratio", costs[-1] / costs[0], wanted=wanted
            )
            sheet.add_latencies(
                f"GetMessage of one of {title}", _looked_up(running, template.names(LOOKUPS)).latencies_s
            )
            sheet.add_latencies(f"ListMessages of 50 of {title}", _listed(running).latencies_s)
    finally:
        running.stop()


class _Template:
    """Messages that are copied into the past."""

    def __init__(self, server: MariaDB) -> None:
        self._server = server
        self._copies = 0
        with closing(server.connect(DATABASE)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT MIN(id), MAX(id), COUNT(*) FROM messages")
            [(self._first, last, self._rows)] = cursor.fetchall()
            self._stride = last - self._first + 1
            self._columns: dict[str, list[str]] = {}
            for table in TABLES:
                cursor.execute(f"SHOW COLUMNS FROM {table}")
                self._columns[table] = [name for name, *_, extra in cursor.fetchall() if "GENERATED" not in extra]
            cursor.execute("SELECT id FROM messages ORDER BY id")
            self._ids = [identity for (identity,) in cursor.fetchall()]

    def fill(self, rows: int) -> None:
        """Copy until there are so many past messages."""
        wanted = -(-rows // self._rows)
        with closing(self._server.connect(DATABASE)) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_log_bin = 0")
            while self._copies < wanted:
                copies = min(COPIES_AT_ONCE, wanted - self._copies)
                for table in TABLES:
                    cursor.execute(self._statement(table, self._copies + 1, copies))
                connection.commit()
                self._copies += copies
            cursor.execute("SELECT COUNT(*) FROM messages WHERE state = %s", (DELIVERED,))
            [(found,)] = cursor.fetchall()
        if found != self._copies * self._rows:
            raise BenchmarkError(f"{found} past messages, not {self._copies * self._rows}")

    def _statement(self, table: str, first: int, copies: int) -> str:
        """The further a copy is numbered, the older its messages are."""
        changed = {
            "id": f"t.id - s.seq * {self._stride}",
            "state": str(DELIVERED),
            "due_us": "0",
            "provider_id": "CONCAT('p', s.seq, '-', t.id)",
            "request_id": "CONCAT('past-', s.seq, '-', t.request_id)",
        }
        columns = self._columns[table]
        values = ", ".join(changed.get(name, f"t.`{name}`") for name in columns)
        names = ", ".join(f"`{name}`" for name in columns)
        bounds = f"t.id BETWEEN {self._first} AND {self._first + self._stride - 1}"
        return (
            f"INSERT INTO {table} ({names}) SELECT {values} FROM seq_{first}_to_{first + copies - 1} AS s "  # noqa: S608 - ours
            f"JOIN {table} AS t WHERE {bounds}"
        )

    def names(self, count: int) -> list[str]:
        """Of past messages, at random."""
        draw = random.Random(count)
        return [_name(draw.choice(self._ids) - draw.randint(1, self._copies) * self._stride) for _ in range(count)]


def _name(identity: int) -> str:
    """Of a message with this id, as the API writes it: 13 digits of Crockford's base 32."""
    return "messages/" + "".join(DIGITS[identity >> 5 * place & 31] for place in reversed(range(13)))


def _looked_up(running: EngineProcess, names: Sequence[str]) -> Run:
    requests = [pb.GetMessageRequest(name=name).SerializeToString() for name in names]

    def check(answer: bytes) -> None:
        if pb.GetMessageResponse.FromString(answer).message.state != pb.MESSAGE_STATE_DELIVERED:
            raise BenchmarkError("a past message is not DELIVERED")

    return _called(running, contract.GET_MESSAGE.path, requests, check)


def _listed(running: EngineProcess) -> Run:
    request = pb.ListMessagesRequest(page_size=PAGE_MESSAGES).SerializeToString()

    def check(answer: bytes) -> None:
        if len(pb.ListMessagesResponse.FromString(answer).messages) != PAGE_MESSAGES:
            raise BenchmarkError("a page is not full")

    return _called(running, contract.LIST_MESSAGES.path, [request] * LISTS, check)


def _called(running: EngineProcess, path: str, requests: Sequence[bytes], check: Any) -> Run:
    work = call_all(running.address, path, requests, callers=CALLERS, metadata=running.metadata(), check=check)
    return run_loop(work)
