"""Databases for tests: each test has one that looks new, and making one anew is rare, because that costs a disk most.

It migrates nothing: the store does when it is first opened. What a test leaves is deleted; numbers that the server
gives go on counting.
"""

from datetime import UTC, datetime

from engine.stores.mysql.partitions import DAYS_AHEAD
from tests.servers.mariadb import MariaDB

# Rows that the schema came with.
_KEPT = ("schema_version", "schema_revisions", "opt_out_slots", "event_slots", "lanes", "leases")
_RESET = (
    "UPDATE event_slots SET next_position = 1",
    "UPDATE leases SET owner = '', node = 0, epoch = 0",
    "INSERT INTO facts (name, value) VALUES ('registry_version', 1), ('epoch', 0)",
    "INSERT INTO providers (`key`, id) VALUES (1, 'telnyx')",
)
# A test that dropped or made days, or midnight, leaves a database that is like no new one.
_COUNT_DAYS = (
    "SELECT COUNT(*), MIN(PARTITION_NAME) FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() "
    "AND TABLE_NAME = 'messages'"
)


def _today() -> str:
    """Name of the partition that a new database begins with."""
    return f"p{datetime.now(UTC):%Y%m%d}"


class Databases:
    """Those of one server."""

    def __init__(self, server: MariaDB) -> None:
        """Make none yet."""
        self.server = server
        self._free: list[tuple[str, str]] = []
        self._made = 0

    def take(self) -> str:
        """The name of one without rows; it may be without tables, too."""
        while self._free:
            name, first = self._free.pop()
            if first == _today():
                return name
            self.server.drop_database(name)
        self._made += 1
        name = f"test_{self._made}"
        self.server.create_database(name)
        return name

    def give_back(self, name: str) -> None:
        """Nobody uses it any more."""
        tables = [row[0] for row in self.server.run("SHOW TABLES", database=name)]
        triggers = [row[0] for row in self.server.run("SHOW TRIGGERS", database=name)]
        [(days, first)] = self.server.run(_COUNT_DAYS, database=name)
        as_new = days == DAYS_AHEAD + 2 and first == _today()
        if "schema_version" not in tables or not as_new:
            self.server.drop_database(name)
            return
        self.server.run(
            *(f"DROP TRIGGER {trigger}" for trigger in triggers),
            "SET foreign_key_checks = 0",
            "BEGIN",
            *(f"DELETE FROM {table}" for table in tables if table not in _KEPT),  # noqa: S608 - names of tables
            *_RESET,
            "COMMIT",
            database=name,
        )
        self._free.append((name, str(first)))
