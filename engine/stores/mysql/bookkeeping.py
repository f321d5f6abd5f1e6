"""What the store knows of its own migrations: what each revision asks of binaries, which run, who ran when.

It decides nothing. These tables are made by whoever migrates, before any revision, and are only ever added to: every
binary, however old, reads them.

Invariants: each function commits what it writes; a revision's row is there before its first statement. Times are the
server's, in microseconds since the Unix epoch.
"""

from typing import Final

import sqlalchemy as sa

from engine.stores.mysql.faults import code_of

TABLES: Final = ("schema_revisions", "schema_binaries", "schema_runs")
TEXT_CHARACTERS_MAX: Final = 1000
_NO_SUCH_TABLE: Final = 1146
_NOW_US: Final = "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
_TABLE: Final = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
# Begun and not ended: a run that was cut short. `compatible_from` counts from its beginning.
_REVISIONS: Final = (
    "CREATE TABLE IF NOT EXISTS schema_revisions (revision VARCHAR(32) NOT NULL, compatible_from VARCHAR(32) NOT NULL, "
    f"began_us BIGINT NOT NULL, ended_us BIGINT NULL, PRIMARY KEY (revision)) {_TABLE}"
)
# Processes that opened the store, and the newest revision that each knows.
_BINARIES: Final = (
    "CREATE TABLE IF NOT EXISTS schema_binaries (owner VARCHAR(128) NOT NULL, revision VARCHAR(32) NOT NULL, "
    f"opened_us BIGINT NOT NULL, PRIMARY KEY (owner)) {_TABLE}"
)
_RUNS: Final = (
    "CREATE TABLE IF NOT EXISTS schema_runs (number BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, runner VARCHAR(128) NOT "
    "NULL, from_revision VARCHAR(32) NOT NULL, to_revision VARCHAR(32) NOT NULL, began_us BIGINT NOT NULL, "
    f"ended_us BIGINT NULL, backup VARCHAR({TEXT_CHARACTERS_MAX}) NOT NULL, result VARCHAR({TEXT_CHARACTERS_MAX}) "
    f"NOT NULL, PRIMARY KEY (number)) {_TABLE}"
)
# Most of these are gone: pods have a new name at each start.
_BINARIES_KEPT_US: Final = 30 * 86_400 * 1_000_000


def make(connection: sa.Connection) -> None:
    """Make the tables that are missing."""
    for statement in (_REVISIONS, _BINARIES, _RUNS):
        connection.exec_driver_sql(statement)
    connection.commit()


def asked(connection: sa.Connection) -> dict[str, str]:
    """Revision to `compatible_from`, of all that were begun; empty before there is any."""
    try:
        rows = connection.exec_driver_sql("SELECT revision, compatible_from FROM schema_revisions ORDER BY revision")
        return {str(revision): str(since) for revision, since in rows}
    except sa.exc.DBAPIError as error:
        if code_of(error) != _NO_SUCH_TABLE:
            raise
        return {}
    finally:
        connection.commit()


def begin(connection: sa.Connection, revision: str, compatible_from: str) -> bool:
    """A revision is about to be applied; whether it was not begun before."""
    done = connection.exec_driver_sql(
        f"INSERT INTO schema_revisions (revision, compatible_from, began_us) VALUES (%s, %s, {_NOW_US}) "  # noqa: S608 - a constant
        "ON DUPLICATE KEY UPDATE compatible_from = VALUES(compatible_from), ended_us = NULL",
        (revision, compatible_from),
    )
    connection.commit()
    return done.rowcount == 1  # 2 and 0 are of a row that was there


def withdraw(connection: sa.Connection, revision: str) -> None:
    """It was begun, and no statement of it was ever run."""
    connection.exec_driver_sql("DELETE FROM schema_revisions WHERE revision = %s AND ended_us IS NULL", (revision,))
    connection.commit()


def end(connection: sa.Connection, revision: str) -> None:
    """It is applied."""
    connection.exec_driver_sql(
        f"UPDATE schema_revisions SET ended_us = {_NOW_US} WHERE revision = %s",  # noqa: S608 - a constant
        (revision,),
    )
    connection.commit()


def note_binary(connection: sa.Connection, owner: str, revision: str) -> None:
    """This process is about to run on the store."""
    connection.exec_driver_sql(
        f"INSERT INTO schema_binaries (owner, revision, opened_us) VALUES (%s, %s, {_NOW_US}) "  # noqa: S608 - a constant
        "ON DUPLICATE KEY UPDATE revision = VALUES(revision), opened_us = VALUES(opened_us)",
        (owner, revision),
    )
    connection.commit()


def binaries(connection: sa.Connection) -> dict[str, str]:
    """Processes that opened the store, and the newest revision that each knows."""
    rows = connection.exec_driver_sql("SELECT owner, revision FROM schema_binaries")
    found = {str(owner): str(revision) for owner, revision in rows}
    connection.commit()
    return found


def begin_run(connection: sa.Connection, runner: str, at: str, to: str) -> int:
    """A run of `longwave migrate` begins to change the store; its number."""
    connection.exec_driver_sql(
        f"DELETE FROM schema_binaries WHERE opened_us < {_NOW_US} - {_BINARIES_KEPT_US}"  # noqa: S608 - constants
    )
    made = connection.exec_driver_sql(
        "INSERT INTO schema_runs (runner, from_revision, to_revision, began_us, backup, result) "  # noqa: S608 - a constant
        f"VALUES (%s, %s, %s, {_NOW_US}, '', '')",
        (runner, at, to),
    )
    connection.commit()
    return int(made.lastrowid)


def note_backup(connection: sa.Connection, run: int, backup: str) -> None:
    """What it can be taken back to."""
    connection.exec_driver_sql(
        "UPDATE schema_runs SET backup = %s WHERE number = %s", (backup[:TEXT_CHARACTERS_MAX], run)
    )
    connection.commit()


def end_run(connection: sa.Connection, run: int, result: str) -> None:
    """How it ended; a run without an end was killed or lost its server."""
    connection.exec_driver_sql(
        f"UPDATE schema_runs SET ended_us = {_NOW_US}, result = %s WHERE number = %s",  # noqa: S608 - a constant
        (result[:TEXT_CHARACTERS_MAX], run),
    )
    connection.commit()


def unended_runs(connection: sa.Connection) -> int:
    """Runs that were cut short since the last that ended."""
    count = connection.exec_driver_sql(
        "SELECT COUNT(*) FROM schema_runs WHERE ended_us IS NULL AND number > "
        "COALESCE((SELECT MAX(number) FROM schema_runs WHERE ended_us IS NOT NULL), 0)"
    ).scalar()
    connection.commit()
    return int(count or 0)
