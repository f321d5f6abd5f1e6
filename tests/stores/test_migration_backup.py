"""The backup before a migration: a dump counts only when its content was compared; without one nothing is changed."""

import gzip
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from engine.stores.mysql import comparison, dump
from tests.servers.mariadb import PASSWORD, USER, MariaDB, quick_folder
from tests.stores import migrating
from tests.stores.binaries import EXPAND, EXPANDING_STEPS, HEAD, Binary, newer
from tests.stores.migrating import Place, expanded

DUMP: Final = "/usr/bin/mariadb-dump"
# Each is what a broken tool or pipe leaves: (what the real one says → what comes out, the words of the refusal).
BROKEN: Final = {
    "cut in the middle": ("head -c 300000", "its last line is missing"),
    "cut, and an end put on it": (
        "{ head -c 300000 | sed '$d'; echo '-- Dump completed'; }",
        "could not be loaded: ERROR 1064 (42000) at line",
    ),
    "a row lost": ("sed '/^(2,1,1,12025550100,12025550002,/d'", "messages differs in 1 of"),
    "rows lost": ("sed '/^(1,1202555010/d'", "opt_outs differs in"),
    "a table lost": ("sed '/CREATE TABLE `inbound`/,/;$/d; /`inbound`/d'", "inbound is only in the database"),
    "a text spoiled": ("sed '/^(1,12025552001,/s/STOP/STOQ/'", "opt_outs differs in 1 of"),
    "nothing": ("cat > /dev/null", "its last line is missing"),
}


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Binary:
    return newer(tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    """Always one: a dump is taken with the tools of the server's kind, and these are installed."""
    with quick_folder() as folder:
        server = MariaDB(folder / "server")
        server.start()
        yield server
        server.remove()


@pytest.fixture
def place(mariadb: MariaDB, tmp_path: Path) -> Iterator[Place]:
    yield migrating.make(mariadb, "backed_up", tmp_path)
    mariadb.drop_database("backed_up")


def tool(folder: Path, body: str) -> str:
    """A `mariadb-dump` of our own before the real one in the path; the code that puts it there."""
    folder.mkdir()
    path = folder / "mariadb-dump"
    path.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exec {DUMP} --version\n{body}\n')
    path.chmod(0o755)
    return f"import os; os.environ['PATH'] = {os.fspath(folder)!r} + ':' + os.environ['PATH']"


def nothing_happened(place: Place) -> None:
    assert (place.revision, place.dumps) == (HEAD.name, [])
    assert place.rows("SELECT 1 FROM schema_revisions WHERE revision > %s" % HEAD.name) == []  # noqa: S608, UP031 - our own
    assert [name for (name,) in place.server.run("SHOW DATABASES") if name.startswith("verify_longwave")] == []


def test_it_backs_up_expands_looks_again_and_writes_itself_down(place: Place, new: Binary) -> None:
    before = place.data()
    code, said = new.run(place.settings(), "migrate")
    assert code == 0, said
    for words in (
        "mariadb", "innodb_flush_log_at_trx_commit: 1", "rights: ", "room for the backup: ", "compared by checksum",
        f"revision {EXPAND}, step {EXPANDING_STEPS} done", "validated", f"applied: {EXPAND}",
    ):  # fmt: skip
        assert words in said
    assert expanded(place)
    after = place.data()
    assert {table: after[table] for table in before if table not in {"bodies", "early_receipts"}} == {
        table: before[table] for table in before if table not in {"bodies", "early_receipts"}
    }
    assert place.rows("SELECT COUNT(*), SUM(priority = 3) FROM bodies") == [(migrating.ROWS, migrating.ROWS)]
    [(backup,)] = place.rows("SELECT backup FROM schema_runs ORDER BY number DESC LIMIT 1")
    [dump] = place.dumps
    assert dump in backup
    assert "all" in backup
    again, said = new.run(place.settings(), "migrate")
    assert (again, place.dumps) == (0, [dump])
    assert "nothing to apply" in said
    assert PASSWORD not in said


def test_a_server_killed_while_a_dump_is_taken_leaves_no_backup_and_no_change(tmp_path: Path, new: Binary) -> None:
    with quick_folder() as folder:
        server = MariaDB(folder / "server")
        server.start()
        try:
            killed_while_dumping(migrating.make(server, "killed", tmp_path), new, tmp_path)
        finally:
            server.remove()


def killed_while_dumping(place: Place, new: Binary, tmp_path: Path) -> None:
    own_server = place.server
    slow = tmp_path / "bin"
    slow.mkdir()
    (slow / "mariadb-dump").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec /usr/bin/mariadb-dump --version\nkill -9 {own_server.pid}\n'
        'exec /usr/bin/mariadb-dump "$@"\n'
    )
    (slow / "mariadb-dump").chmod(0o755)
    prelude = f"import os; os.environ['PATH'] = {str(slow)!r} + ':' + os.environ['PATH']"
    code, said = new.run(place.settings(), "migrate", prelude=prelude)
    assert code == 1, said
    assert place.dumps == []
    own_server.kill()
    own_server.start()
    assert place.revision == HEAD.name
    assert new.run(place.settings(), "migrate")[0] == 0


@pytest.mark.parametrize("what", BROKEN)
def test_a_dump_that_is_not_whole_is_no_backup(place: Place, new: Binary, tmp_path: Path, what: str) -> None:
    damage, words = BROKEN[what]
    code, said = new.run(place.settings(), "migrate", prelude=tool(tmp_path / "bin", f'{DUMP} "$@" | {damage}'))
    assert code == 1, said
    assert words in said
    assert "12025550" not in said + place.last_run()[2]
    nothing_happened(place)
    assert place.last_run()[2].startswith("failed: BackupFailed")
    migrating.works(place)


def test_a_tool_that_fails_is_told_in_its_words(place: Place, new: Binary, tmp_path: Path) -> None:
    body = f'{DUMP} "$@"; echo "mariadb-dump: Got error: 2013: Lost connection" >&2; exit 3'
    code, said = new.run(place.settings(), "migrate", prelude=tool(tmp_path / "bin", body))
    assert code == 1
    assert "mariadb-dump ended with 3: mariadb-dump: Got error: 2013: Lost connection" in said
    nothing_happened(place)


def test_a_folder_without_room_is_refused_before_or_at_the_latest_while_it_fills(place: Place, new: Binary) -> None:
    full = "import shutil, collections; shutil.disk_usage = lambda _: collections.namedtuple('U', 'free')(1 << 19)"
    code, said = new.run(place.settings(), "migrate", prelude=full)
    assert code == 2, said
    assert "room for the backup: 0 MiB, needs" in said
    nothing_happened(place)
    # What a file system says that was filled meanwhile, or by a quota.
    filling = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"
    code, said = new.run(place.settings(), "migrate", prelude=filling)
    assert code == 1, said
    assert "give it room, or set another folder" in said
    nothing_happened(place)
    code, said = new.run(place.settings(migrate_backup_folder=str(place.folder / "nowhere")), "migrate")
    assert code == 2, said
    assert "LONGWAVE_MIGRATE_BACKUP_FOLDER" in said
    assert "No such file" in said


def test_without_any_backup_nothing_is_changed_unless_the_operator_says_so(place: Place, new: Binary) -> None:
    settings = place.settings()
    del settings["migrate_backup_folder"]
    code, said = new.run(settings, "migrate")
    assert code == 2, said
    assert "nothing says where to back up" in said
    nothing_happened(place)
    assert new.run(place.settings(), "migrate", "--without-backup")[0] == 0
    assert place.dumps == []
    assert place.rows("SELECT backup FROM schema_runs ORDER BY number DESC LIMIT 1") == [
        ("none made: the operator has one",)
    ]


def test_a_command_takes_the_place_of_the_dump_and_its_line_is_kept(place: Place, new: Binary, tmp_path: Path) -> None:
    script = tmp_path / "snapshot"
    script.write_text("#!/bin/sh\necho taking\necho snap-0123456789\nexit $1\n")
    script.chmod(0o755)
    settings = place.settings(migrate_backup_command=f"{script} 7")
    code, said = new.run(settings, "migrate")
    assert code == 2
    assert "are both set: leave one out" in said
    del settings["migrate_backup_folder"]
    code, said = new.run(settings, "migrate")
    assert code == 1
    assert "ended with 7: snap-0123456789" in said
    nothing_happened(place)
    code, said = new.run(settings | {"migrate_backup_command": f"{script} 0"}, "migrate")
    assert code == 0, said
    assert expanded(place)
    assert place.rows("SELECT backup FROM schema_runs ORDER BY number DESC LIMIT 1") == [
        ("command, exit code 0: snap-0123456789",)
    ]


def test_a_user_without_a_scratch_database_gets_a_weaker_check_that_says_so(
    mariadb: MariaDB, place: Place, new: Binary
) -> None:
    mariadb.run(
        f"CREATE OR REPLACE USER one_database@'%' IDENTIFIED BY '{PASSWORD}'",
        "GRANT ALL ON backed_up.* TO one_database@'%'",
    )
    url = place.settings()["store_url"].replace(f"{USER}@", "one_database@")
    code, said = new.run(place.settings(store_url=url), "migrate")
    assert code == 0, said
    assert "verified weakly" in said
    assert "rows were not compared" in said
    assert expanded(place)


def test_a_weak_check_still_finds_a_table_that_is_not_there(
    mariadb: MariaDB, place: Place, new: Binary, tmp_path: Path
) -> None:
    mariadb.run(
        f"CREATE OR REPLACE USER one_database@'%' IDENTIFIED BY '{PASSWORD}'",
        "GRANT ALL ON backed_up.* TO one_database@'%'",
    )
    url = place.settings()["store_url"].replace(f"{USER}@", "one_database@")
    lost = tool(tmp_path / "bin", f'{DUMP} "$@" | {BROKEN["a table lost"][0]}')
    code, said = new.run(place.settings(store_url=url), "migrate", prelude=lost)
    assert code == 1, said
    assert "the dump lacks inbound" in said
    nothing_happened(place)


def test_dumps_are_kept_for_seven_days(place: Place, new: Binary) -> None:
    ages = {
        "backed_up-before-0001-20261101T000000.000000Z.sql.gz": 8,
        "backed_up-before-0001-20261102T000000.000000Z.sql.gz.part": 8,
        "backed_up-before-0001-20261110T000000.000000Z.sql.gz": 6,
        "other-before-0001-20261101T000000.000000Z.sql.gz": 8,
        "backed_up-before-0001-notes.txt": 8,
    }
    for name, days in ages.items():
        path = place.backups / name
        path.touch()
        os.utime(path, (time.time() - days * 86_400,) * 2)
    code, said = new.run(place.settings(), "migrate")
    assert code == 0, said
    gone = {name for name, days in ages.items() if days > 7 and name.startswith("backed_up") and ".sql" in name}
    assert set(ages) - set(place.dumps) == gone
    assert all(f"removed {name}" in said for name in gone)
    [fresh] = set(place.dumps) - set(ages)
    assert (place.backups / fresh).stat().st_mode & 0o777 == 0o600


def test_a_backup_is_restored_as_the_page_says(place: Place, new: Binary) -> None:
    """docs/operations/BACKUP.md."""
    held = place.data()
    assert new.run(place.settings(), "migrate")[0] == 0
    [name] = place.dumps
    place.server.create_database("restored")
    restored = Place(place.server, "restored", place.folder)
    client = [
        "mariadb",
        "-h127.0.0.1",
        f"-P{place.server.port}",
        f"-u{USER}",
        f"-p{PASSWORD}",
        "--skip-ssl",
        "restored",
    ]
    with gzip.open(place.backups / name) as packed:
        subprocess.run(client, input=packed.read(), check=True)
    assert restored.revision == HEAD.name
    assert restored.data() == held
    migrating.works(restored)
    place.server.drop_database("restored")


@pytest.fixture
def restored(place: Place) -> Iterator[Place]:
    """An empty database beside it."""
    place.server.create_database("restored")
    yield Place(place.server, "restored", place.folder)
    place.server.drop_database("restored")


def test_a_backup_is_put_back_and_compared(place: Place, restored: Place, new: Binary) -> None:
    held = place.data()
    assert new.run(place.settings(), "migrate")[0] == 0
    [name] = place.dumps
    code, said = new.run(restored.settings(), "restore", str(place.backups / name))
    assert code == 0, said
    assert "all compared by checksum" in said
    assert f"next: longwave migrate ({EXPAND})" in said
    assert restored.revision == HEAD.name
    assert restored.data() == held
    migrating.works(restored)
    assert new.run(restored.settings(), "migrate", "--without-backup")[0] == 0
    assert restored.revision == EXPAND
    code, said = new.run(restored.settings(), "restore", str(place.backups / name))
    assert code == 1
    assert "a backup goes into an empty database" in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda text: text[: len(text) // 2], "its last line is missing"),
        (lambda text: text.replace(b"STOP", b"STOQ"), "is not what the backup says: opt_outs"),
        (lambda text: text.replace(b"-- Dump completed", b"INSERT INTO nowhere;\n-- Dump completed"), "ERROR 1064"),
        (lambda text: text.replace(b"-- longwave sums {", b"-- longwave sums ["), "add up to cannot be read"),
    ],
    ids=["cut", "spoiled", "broken", "sums spoiled"],
)
def test_a_backup_that_was_spoiled_is_found(
    place: Place, restored: Place, new: Binary, body: Callable[[bytes], bytes], words: str
) -> None:
    assert new.run(place.settings(), "migrate")[0] == 0
    [name] = place.dumps
    spoiled = place.backups / "spoiled.sql.gz"
    spoiled.write_bytes(gzip.compress(body(gzip.decompress((place.backups / name).read_bytes()))))
    code, said = new.run(restored.settings(), "restore", str(spoiled))
    assert code == 1
    assert words in said
    assert "12025552001" not in said


def test_a_file_that_is_no_backup_changes_nothing(restored: Place, new: Binary, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("nothing of the kind", encoding="ascii")
    code, said = new.run(restored.settings(), "restore", str(file))
    assert code == 1
    assert "cannot be read back" in said
    code, said = new.run(restored.settings(), "restore", str(tmp_path / "absent"))
    assert code == 2
    assert restored.server.run("SHOW TABLES", database="restored") == []


def test_what_was_the_same_before_and_behind_must_be_the_same_in_the_dump() -> None:
    quiet = {"t": {1: (2, 50), 2: (1, 7)}}
    assert comparison.compare(quiet, quiet, quiet) == comparison.Comparison(3, 3, [])
    assert comparison.compare(quiet, quiet, {"t": {1: (2, 51), 2: (1, 7)}}).wrong == ["t differs in 1 of 16384 buckets"]
    assert comparison.compare(quiet, quiet, {"t": {1: (3, 60), 2: (1, 7)}}).wrong
    assert comparison.compare(quiet, quiet, {}).wrong == ["t is only in the database"]
    busy = {"t": {1: (2, 50), 2: (1, 7), 3: (1, 9)}}
    assert comparison.compare(quiet, busy, quiet) == comparison.Comparison(3, 3, [])
    assert comparison.compare(quiet, busy, {"t": {1: (2, 50), 2: (1, 7), 3: (1, 8)}}) == comparison.Comparison(4, 3, [])
    # A row that came and went meanwhile, in a table that is written to; one that is missing is none of that.
    assert comparison.compare(quiet, busy, {"t": {1: (3, 60), 2: (1, 7)}}).wrong == []
    assert comparison.compare(quiet, busy, {"t": {1: (1, 20), 2: (1, 7)}}).wrong
    passing, dumped = {"passing": dict[int, tuple[int, int]]()}, {"passing": {9: (1, 4)}}
    assert comparison.compare(quiet | passing, busy | passing, quiet | dumped).wrong == []
    assert comparison.compare(quiet | passing, quiet | passing, quiet | dumped).wrong


def test_the_end_of_a_dump_is_looked_for(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(
        gzip.compress(b"CREATE TABLE `a` (\n);\nCREATE TABLE `b` (\n);\n-- Dump completed on 2026-11-26\n")
    )
    dump.refuse_if_cut(whole)
    assert dump.tables_in(whole) == {"a", "b"}
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(dump.BackupFailed, match="cannot be read back"):
        dump.refuse_if_cut(cut)


def test_one_line_is_short_and_printable() -> None:
    assert dump.one_line("first\n  last \x1b[31mred\n\n") == "last [31mred"
    assert dump.one_line("") == ""
    assert len(dump.one_line("x" * 9999)) == dump.LINE_CHARACTERS_MAX
