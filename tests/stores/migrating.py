"""A store with rows in it, and what is looked at after a migration. It asserts nothing by itself."""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.clock import Clock
from engine.stores.mysql.address import parse
from engine.stores.mysql.migrate import migrate
from engine.stores.mysql.pool import Limits
from engine.stores.mysql.store import MySQLStore
from engine.stores.mysql.store import Place as EnginePlace
from engine.stores.store import OPT_OUT_API, Callbacks
from tests.servers.mariadb import PASSWORD, MariaDB
from tests.stores.binaries import EXPAND, HEAD

WAIT_S = 30
ROWS = 3000
RECIPIENT = 12025550199


@dataclass(frozen=True)
class Place:
    """A database of a server and how commands reach it."""

    server: MariaDB
    database: str
    folder: Path

    @property
    def backups(self) -> Path:
        """Where dumps go."""
        return self.folder / "backups"

    def settings(self, **more: str) -> dict[str, str]:
        """Of a command."""
        return {
            "store_url": self.server.url(self.database),
            "store_password": PASSWORD,
            "secret_file": str(self.folder / "longwave.secrets"),
            "migrate_backup_folder": str(self.backups),
        } | more

    def rows(self, *statements: str) -> list[tuple[Any, ...]]:
        """Rows of the last."""
        return self.server.run(*statements, database=self.database)

    @property
    def revision(self) -> str:
        """Where it is."""
        return str(self.rows("SELECT version_num FROM schema_version")[0][0])

    @property
    def dumps(self) -> list[str]:
        """All that lies in the folder of backups."""
        return sorted(path.name for path in self.backups.iterdir())

    def last_run(self) -> tuple[str, str, str, bool]:
        """(from, to, result, whether it ended) of the last run that was written down."""
        [(at, to, result, ended)] = self.rows(
            "SELECT from_revision, to_revision, result, ended_us >= began_us FROM schema_runs ORDER BY number DESC "
            "LIMIT 1"
        )
        return str(at), str(to), str(result), bool(ended)

    def schema(self) -> dict[str, list[str]]:
        """Each table's lines, but for the numbers it goes on counting from, days made ahead, and their order."""
        shown = {}
        with closing(self.server.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            texts = {}
            for (table,) in cursor.fetchall():
                cursor.execute(f"SHOW CREATE TABLE `{table}`")
                [(_, texts[table])] = cursor.fetchall()
        for table, text in texts.items():
            # Keys come in any order: they are a set to whoever makes the table.
            bare = re.sub(r" AUTO_INCREMENT=\d+|\n\s*(/\*!50100 )?PARTITION BY .*", "", text, flags=re.DOTALL)
            shown[table] = sorted(line.rstrip(",") for line in bare.splitlines())
        return shown

    def data(self) -> dict[str, int]:
        """A checksum of each table that a store has from its first revision."""
        tables = [table for (table,) in self.rows("SHOW TABLES") if not table.startswith("schema_")]
        return {table: self.rows(f"CHECKSUM TABLE `{table}`")[0][1] for table in tables}

    def until_waiting(self, words: str) -> None:
        """Wait until the server shows a statement in this state."""
        until_s = time.monotonic() + WAIT_S
        while not any(words in str(row) for row in self.rows("SHOW FULL PROCESSLIST")):
            assert time.monotonic() < until_s, "it never came to that"
            time.sleep(0.02)


def make(server: MariaDB, database: str, folder: Path) -> Place:
    """A database with this checkout's schema, and with rows."""
    url = server.create_database(database)
    place = Place(server, database, folder)
    place.backups.mkdir(exist_ok=True)
    asyncio.run(migrate(parse(url, PASSWORD, None), Limits(), "a test"))
    fill(place)
    return place


def works(place: Place, beside: Callable[[], None] = lambda: None) -> None:
    """This checkout opens the store, writes into it and reads that; `beside` is called while it is open."""

    async def write_and_read() -> None:
        at = EnginePlace(parse(place.settings()["store_url"], PASSWORD, None), None, Limits(size_min=1), "D1")
        store = MySQLStore(at, Clock(0), group_weight_max=5000)
        try:
            await store.open(Callbacks(lambda _error: None, lambda _stats: None, lambda _full: None))
            await store.begin_run()
            await asyncio.to_thread(beside)
            await store.add_opt_out(9, RECIPIENT, OPT_OUT_API, 1, "asked")
            assert (9, RECIPIENT) in await store.opt_outs()
        finally:
            await store.close()

    asyncio.run(write_and_read())


def fill(place: Place) -> None:
    """Rows of every kind of column: numbers, texts, bytes with every value, NULL."""
    every_byte = "UNHEX('" + bytes(range(256)).hex() + "')"
    columns = (
        "id, tenant, campaign, sender, recipient, class, kind, encoding, segments, state, reason, code, seq, attempt, "
        "generation, counted, flags, due_us, accept_us, expires_us, updated_us, provider_id, history"
    )
    values = (
        "seq, 1, 1, 12025550100, 12025550000 + seq, 1, 1, 1, 1, 16, 0, 'ü', 1, 1, 1, 1, 0, seq, seq, seq, seq, "
        f"IF(seq % 3, NULL, CONCAT('p-', seq)), {every_byte}"
    )
    evidence = "1, 12025550000 + seq, 1, seq, CONCAT('STOP \\'', seq, '\\'\\n')"
    rows = f"(SELECT slot + 1 AS seq FROM opt_out_slots WHERE slot < {ROWS}) AS numbers"  # noqa: S608 - our own
    place.rows(
        f"INSERT INTO messages ({columns}) SELECT {values} FROM {rows}",  # noqa: S608 - our own
        f"INSERT INTO bodies (id, record) SELECT seq, {every_byte} FROM {rows}",  # noqa: S608 - our own
        f"INSERT INTO opt_outs (tenant, recipient, source, create_us, evidence) SELECT {evidence} "  # noqa: S608 - our own
        f"FROM {rows}",
    )


def expanded(place: Place) -> bool:
    """Whether the expansion was applied and written down."""
    return place.revision == EXPAND and place.last_run()[:3] == (HEAD.name, EXPAND, "done")
