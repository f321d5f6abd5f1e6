"""A source and a replica of it, with GTIDs: semi-synchronous or not, stopped, delayed, promoted at will.

Both are servers of `mariadb.py`; nothing of them outlives `remove`.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from pymysql.cursors import DictCursor

from tests.servers.mariadb import PASSWORD, USER, MariaDB, quick_folder

WAIT_S: Final = 30
# Falls back so soon that a test need not wait; a deployment would rather wait for ever.
SEMI_SYNC_TIMEOUT_MS: Final = 500
_GTIDS: Final = ("--gtid-strict-mode=ON", "--log-slave-updates=ON", "--slave-net-timeout=5")
_SEMI_SYNC: Final = (
    "--rpl-semi-sync-master-enabled=ON", "--rpl-semi-sync-slave-enabled=ON",
    "--rpl-semi-sync-master-wait-point=AFTER_SYNC", f"--rpl-semi-sync-master-timeout={SEMI_SYNC_TIMEOUT_MS}",
)  # fmt: skip


class Replication:
    """Two servers; `start` them, whoever made it calls `remove` at the end."""

    def __init__(self, source: MariaDB, replica: MariaDB) -> None:
        """Start nothing."""
        self.source = source
        self.replica = replica

    def start(self) -> None:
        """Start both, the replica as a follower."""
        self.source.start()
        self.replica.start()
        self.replica.run(
            "SET GLOBAL read_only = ON",
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {self.source.port}, MASTER_USER = '{USER}', "
            f"MASTER_PASSWORD = '{PASSWORD}', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1",
        )
        self.follow()

    def follow(self) -> None:
        """The replica goes on, and has all that the source has."""
        self.replica.run("START SLAVE")
        self.catch_up()

    def unfollow(self) -> None:
        """The replica stays where it is."""
        self.replica.run("STOP SLAVE")

    def catch_up(self) -> None:
        """Wait until the replica has all that the source has now."""
        [(position,)] = self.source.run("SELECT @@global.gtid_binlog_pos")
        [(late,)] = self.replica.run(f"SELECT MASTER_GTID_WAIT('{position}', {WAIT_S})")
        assert late == 0, self.replica.run("SHOW SLAVE STATUS")

    def promote(self) -> None:
        """The replica is the one to write to; what it was sent it has done before, and it knows no source any more."""
        self.replica.run("STOP SLAVE IO_THREAD", "START SLAVE SQL_THREAD")
        with closing(self.replica.connect()) as connection, connection.cursor(DictCursor) as cursor:
            cursor.execute("SHOW SLAVE STATUS")
            [status] = cursor.fetchall()
        self.replica.run(f"SELECT MASTER_GTID_WAIT('{status['Gtid_IO_Pos']}', {WAIT_S})")
        self.replica.run("STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF")

    def semi_sync(self) -> dict[str, Any]:
        """What the source counts of it."""
        return dict(self.source.run("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master%'"))

    def remove(self) -> None:
        """End both and delete their data."""
        self.replica.remove()
        self.source.remove()


@contextmanager
def replication(*, semi_sync: bool) -> Iterator[Replication]:
    """Both, running."""
    options = (*_GTIDS, *(_SEMI_SYNC if semi_sync else ()))
    with quick_folder() as folder:
        pair = Replication(MariaDB(folder / "source", *options), MariaDB(folder / "replica", *options, server_id=2))
        try:
            pair.start()
            yield pair
        finally:
            pair.remove()
