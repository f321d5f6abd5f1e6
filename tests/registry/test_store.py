"""The embedded store's ground: connection, lock, reserve, migrations."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.exc import IntegrityError, OperationalError

from engine.errors import ConfigError, StoreLocked, StoreTooNew
from engine.registry.tables import METADATA
from engine.stores import migrate as migrations
from engine.stores.connection import (
    Fault,
    Reserve,
    StoreLock,
    check,
    classify,
    engine_over,
    open_reader,
    open_writer,
    store_path,
)

if TYPE_CHECKING:
    import sqlite3 as dbapi2
else:
    from pysqlite3 import dbapi2

NOW_US = 1_700_000_000_000_000
HOLD_SCRIPT = """
import sys
from pathlib import Path
from engine.stores.connection import StoreLock
lock = StoreLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "longwave.db"


def test_the_writer_is_durable_and_the_file_private(path: Path) -> None:
    connection = open_writer(path)
    assert [finding for finding in check(connection) if not finding.ok] == []
    pragmas = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "synchronous", "foreign_keys", "trusted_schema", "mmap_size", "wal_autocheckpoint")
    }
    assert pragmas == {
        "page_size": 8192,
        "synchronous": 2,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "mmap_size": 0,
        "wal_autocheckpoint": 1000,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connection.close()


@pytest.mark.parametrize(
    ("pragma", "failing"), [("synchronous=NORMAL", "synchronous"), ("journal_mode=DELETE", "journal_mode")]
)
def test_a_weakened_setting_is_found(path: Path, pragma: str, failing: str) -> None:
    connection = open_writer(path)
    connection.execute(f"PRAGMA {pragma}").fetchall()
    assert [finding.name for finding in check(connection) if not finding.ok] == [failing]
    connection.close()


def test_a_reader_reads_what_is_committed_and_writes_nothing(path: Path) -> None:
    writer = open_writer(path)
    migrations.migrate(writer, path, now_us=NOW_US)
    reader = open_reader(path)
    with engine_over(reader).begin() as control:
        assert control.execute(sa.text("SELECT id FROM providers")).scalars().all() == ["telnyx"]
    with pytest.raises(dbapi2.OperationalError) as refused:
        reader.execute("DELETE FROM providers")
    assert classify(refused.value) is Fault.FATAL
    assert reader.execute("PRAGMA wal_autocheckpoint").fetchone()[0] == 0
    reader.close()
    writer.close()


def test_a_reader_makes_no_store(path: Path) -> None:
    with pytest.raises(dbapi2.OperationalError) as refused:
        open_reader(path)
    assert classify(refused.value) is Fault.FATAL
    assert not path.exists()


def test_a_transaction_of_the_control_plane_is_whole_and_leaves_the_connection_alone(path: Path) -> None:
    connection = open_writer(path)
    migrations.migrate(connection, path, now_us=NOW_US)
    engine = engine_over(connection)

    def fail() -> None:
        with engine.begin() as control:
            control.execute(sa.text("INSERT INTO providers (id) VALUES ('lost')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert connection.execute("SELECT count(*) FROM providers").fetchone()[0] == 1
    assert not connection.in_transaction
    with engine.begin() as control:
        control.execute(sa.text("INSERT INTO providers (id) VALUES ('kept')"))
    assert connection.execute("SELECT count(*) FROM providers").fetchone()[0] == 2
    connection.close()


def test_a_second_process_is_refused_by_the_first_ones_pid(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_SCRIPT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLocked, match=rf"pid {holder.pid}"):
            StoreLock(path)
        holder.kill()
        holder.wait()
    # The kernel let go with the process: nothing has to be cleaned up.
    lock = StoreLock(path)
    lock.release()
    lock.release()
    StoreLock(path).release()


def test_the_reserve_is_made_of_real_blocks_and_given_back(path: Path) -> None:
    reserve = Reserve(path, 3 * 1024 * 1024 + 5)
    assert [reserve.present, reserve.create(), reserve.present] == [False, True, True]
    assert reserve.path.stat().st_blocks * 512 >= 3 * 1024 * 1024
    assert [reserve.release(), reserve.present, reserve.release()] == [True, False, False]


def test_a_reserve_that_does_not_fit_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _block: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    reserve = Reserve(path, 1024)
    assert not reserve.create()
    assert list(path.parent.iterdir()) == []


def test_no_reserve_is_always_present(path: Path) -> None:
    reserve = Reserve(path, 0)
    assert reserve.present
    assert reserve.create()
    assert not reserve.release()
    assert list(path.parent.iterdir()) == []


def _provoked(path: Path, *statements: str) -> BaseException:
    connection = open_writer(path)
    try:
        for statement in statements:
            connection.execute(statement).fetchall()
    except dbapi2.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError(statements)


@pytest.mark.parametrize(
    ("statements", "fault"),
    [
        (("PRAGMA max_page_count=2", "CREATE TABLE t (x)", "INSERT INTO t VALUES (zeroblob(100000))"), Fault.FULL),
        (("CREATE TABLE t (x INTEGER NOT NULL) STRICT", "INSERT INTO t VALUES (NULL)"), Fault.DATA),
        (("CREATE TABLE t (x INTEGER) STRICT", "INSERT INTO t VALUES ('a')"), Fault.DATA),
        (("SELECT * FROM absent",), Fault.PROGRAM),
        (("PRAGMA query_only=ON", "CREATE TABLE t (x)"), Fault.FATAL),
    ],
)
def test_a_driver_error_is_classified(path: Path, statements: tuple[str, ...], fault: Fault) -> None:
    assert classify(_provoked(path, *statements)) is fault


def test_other_errors_are_classified() -> None:
    assert classify(OSError(errno.ENOSPC, "")) is Fault.FULL
    assert classify(OSError(errno.EIO, "")) is Fault.FATAL
    assert classify(OverflowError()) is Fault.DATA
    assert classify(ValueError()) is Fault.PROGRAM


@pytest.mark.parametrize("code", [10, 10 | 4 << 8, 10 | 19 << 8, 11])
def test_every_io_error_is_fatal(code: int) -> None:
    error = dbapi2.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    assert classify(error) is Fault.FATAL


def test_an_error_is_classified_through_sqlalchemy(path: Path) -> None:
    connection = open_writer(path)
    migrations.migrate(connection, path, now_us=NOW_US)
    with pytest.raises(IntegrityError) as refused, engine_over(connection).begin() as control:
        control.execute(sa.text("INSERT INTO providers (id) VALUES ('telnyx')"))
    assert classify(refused.value) is Fault.DATA
    connection.close()


@pytest.mark.parametrize(
    ("url", "expected"), [("sqlite:///./a.db", "a.db"), ("sqlite:////var/lib/a.db", "/var/lib/a.db")]
)
def test_a_store_url_names_a_file(url: str, expected: str) -> None:
    assert store_path(url) == Path(expected)


def test_a_password_in_a_store_url_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        store_path("mysql://user:hunter2@db/longwave")
    assert "hunter2" not in str(refused.value)


def test_an_empty_store_is_migrated_once_without_a_backup(path: Path) -> None:
    connection = open_writer(path)
    assert migrations.current(connection) is None
    assert migrations.missing(connection) == migrations.known_revisions()
    lines: list[str] = []
    assert migrations.migrate(connection, path, now_us=NOW_US, progress=lines.append) == ["0001", "0002", "0003"]
    assert migrations.migrate(connection, path, now_us=NOW_US) == []
    assert (migrations.current(connection), migrations.missing(connection)) == ("0003", ())
    assert lines == ["store is at revision none: applying 0001, 0002, 0003", "store is at revision 0003"]
    assert not connection.in_transaction
    connection.close()
    assert list(path.parent.glob("*.before-*")) == []


def test_the_tables_are_what_the_migrations_leave(path: Path) -> None:
    connection = open_writer(path)
    migrations.migrate(connection, path, now_us=NOW_US)
    with engine_over(connection).connect() as control:
        found = sa.inspect(control)
        for table in METADATA.sorted_tables:
            columns = found.get_columns(table.name)
            assert [(c["name"], c["nullable"]) for c in columns] == [(c.name, c.nullable) for c in table.columns]
            dialect = control.dialect
            assert [str(c["type"]) for c in columns] == [c.type.compile(dialect) for c in table.columns]
            assert found.get_pk_constraint(table.name)["constrained_columns"] == [c.name for c in table.primary_key]
            assert {index["name"] for index in found.get_indexes(table.name)} == {i.name for i in table.indexes}
    strict = connection.execute("SELECT name FROM pragma_table_list WHERE strict = 0 AND schema = 'main'").fetchall()
    assert {row[0] for row in strict} == {"schema_version", "sqlite_schema", "sqlite_sequence"}
    connection.close()


def test_a_store_of_a_newer_version_is_refused_and_untouched(path: Path) -> None:
    connection = open_writer(path)
    migrations.migrate(connection, path, now_us=NOW_US)
    connection.execute("UPDATE schema_version SET version_num = '9999'")
    with pytest.raises(StoreTooNew, match="revision 9999, this binary knows up to 0003: run the newer longwave"):
        migrations.migrate(connection, path, now_us=NOW_US)
    assert connection.execute("SELECT version_num FROM schema_version").fetchone()[0] == "9999"
    connection.close()


NEXT_REVISION = '''
"""A later revision."""
import sqlalchemy as sa
from alembic import op
revision = "0004"
down_revision = "0003"
def upgrade():
    op.execute(sa.text("CREATE TABLE later (x INTEGER) STRICT"))
    {then}
'''


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """Scripts of a later binary: a copy of this one's, with room for one more revision at the path given back."""
    scripts = tmp_path / "later"
    for source in migrations.SCRIPTS.rglob("*.py"):
        copy = scripts / source.relative_to(migrations.SCRIPTS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    return scripts / "versions" / "v0004_later.py"


def _switch_to(later: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    later.write_text(NEXT_REVISION.format(then=then))
    migrations.known_revisions.cache_clear()
    monkeypatch.setattr(migrations, "SCRIPTS", later.parent.parent)


@pytest.fixture(autouse=True)
def _revisions_are_read_anew() -> Iterator[None]:
    migrations.known_revisions.cache_clear()
    yield
    migrations.known_revisions.cache_clear()


def test_an_old_store_is_backed_up_and_migrated(path: Path, later: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = open_writer(path)
    migrations.migrate(connection, path, now_us=NOW_US)
    connection.execute("INSERT INTO providers (id) VALUES ('before')")
    connection.close()
    _switch_to(later, monkeypatch, "pass")
    lines: list[str] = []
    assert migrations.migrate_store(path, now_us=NOW_US, progress=lines.append) == ["0004"]
    copy = path.with_name(path.name + ".before-0004-20231114T221320.000000Z")
    assert lines[0] == f"backup written to {copy.name}"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    backup = dbapi2.connect(copy)
    assert backup.execute("SELECT version_num FROM schema_version").fetchone()[0] == "0003"
    assert backup.execute("SELECT count(*) FROM providers").fetchone()[0] == 2
    assert backup.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    backup.close()
    after = open_writer(path)
    assert migrations.current(after) == "0004"
    after.close()


def test_late_receipts_get_their_index_and_nothing_is_lost(path: Path) -> None:
    connection = open_writer(path)
    with engine_over(connection).begin() as control:
        settings = migrations._configuration()
        settings.attributes.update(migrations.Attributes(connection=control, applied=[]))
        command.upgrade(settings, "0002")
    assert migrations.current(connection) == "0002"
    schema = "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
    old = dict(connection.execute(schema).fetchall())
    connection.execute("INSERT INTO providers (id) VALUES ('before')")
    assert migrations.migrate(connection, path, now_us=NOW_US) == ["0003"]
    new = dict(connection.execute(schema).fetchall())
    assert set(new) - set(old) == {"messages_provider_id_late"}
    assert {name: new[name] for name in old} == old, "an older binary finds all that it knows"
    assert connection.execute("SELECT count(*) FROM providers").fetchone()[0] == 2
    connection.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    path: Path, later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = open_writer(path)
    migrations.migrate(connection, path, now_us=NOW_US)
    _switch_to(later, monkeypatch, 'op.execute(sa.text("INSERT INTO absent VALUES (1)"))')
    with pytest.raises(OperationalError, match="absent"):
        migrations.migrate(connection, path, now_us=NOW_US)
    assert migrations.current(connection) == "0003"
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'later'").fetchone()[0] == 0
    assert not connection.in_transaction
    connection.close()


def test_a_backup_never_replaces_a_file(path: Path) -> None:
    connection = open_writer(path)
    migrations.migrate(connection, path, now_us=NOW_US)
    migrations.backup(connection, path, "copy", now_us=NOW_US)
    with pytest.raises(FileExistsError):
        migrations.backup(connection, path, "copy", now_us=NOW_US)
    connection.close()


def test_a_file_that_is_no_store_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database, but longer than the header of one: " * 40)
    with pytest.raises(ConfigError, match="is not a Longwave store"):
        open_writer(path)
    assert path.read_bytes().startswith(b"not a database")
