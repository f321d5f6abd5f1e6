"""The backup before a migration: a dump counts only when its content was compared; without one nothing is changed."""

import gzip
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from engine.stores.mysql import comparison, dump
from engine.stores.mysql.address import PLAIN, parse
from tests.servers.mariadb import PASSWORD, USER, MariaDB, quick_folder
from tests.stores import migrating
from tests.stores.binaries import EXPAND, EXPANDING_STEPS, HEAD, Binary, newer
from tests.stores.migrating import Place, expanded

# Each is what a broken tool or pipe leaves: the words of the refusal.
BROKEN: Final = {
    "cut in the middle": "its last line is missing",
    "cut, and an end put on it": "could not be loaded: ERROR 1064 (42000) at line",
    "a row lost": "messages differs in 1 of",
    "rows lost": "opt_outs differs in",
    "a table lost": "inbound is only in the database",
    "a text spoiled": "opt_outs differs in 1 of",
    "nothing": "its last line is missing",
}
_SAME: Final = {
    "cut in the middle": "head -c 300000",
    "a table lost": "sed '/CREATE TABLE `inbound`/,/;$/d; /`inbound`/d'",
    "nothing": "cat > /dev/null",
}


@dataclass(frozen=True)
class Kit:
    """The tools of one family."""

    server: str
    """The server's kind, as a migration says it."""
    dump: str
    load: tuple[str, ...]
    """By hand, without TLS."""
    damages: Mapping[str, str]
    """What is done to what the dump's tool says, as a filter of the shell."""


# A line for each row.
MARIADB: Final = Kit(
    "mariadb",
    "mariadb-dump",
    ("mariadb", "--skip-ssl"),
    _SAME
    | {
        "cut, and an end put on it": "{ head -c 300000 | sed '$d'; echo '-- Dump completed'; }",
        "a row lost": "sed '/^(2,1,1,12025550100,12025550002,/d'",
        "rows lost": "sed '/^(1,1202555010/d'",
        "a text spoiled": "sed '/^(1,12025552001,/s/STOP/STOQ/'",
    },
)
# A line for each statement of many rows; none of their texts has a parenthesis.
MYSQL: Final = Kit(
    "mysql",
    "mysqldump",
    ("mysql", "--ssl-mode=DISABLED", "--get-server-public-key"),
    _SAME
    | {
        "cut, and an end put on it": "{ head -c 300000; echo; echo '-- Dump completed'; }",
        "a row lost": "sed -E 's/\\(2,1,1,12025550100,12025550002,[^)]*\\),//'",
        "rows lost": "sed -E 's/\\(1,1202555010[^)]*\\),//g'",
        "a text spoiled": "sed -E 's/(\\(1,12025552001,[^)]*)STOP/\\1STOQ/'",
    },
)


@pytest.fixture(scope="module")
def kit(server_kind: type[MariaDB]) -> Kit:
    """Those of the server's kind: MySQL does not take back what MariaDB's write of generated columns."""
    return MARIADB if server_kind is MariaDB else MYSQL


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Binary:
    return newer(tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def mariadb(server_kind: type[MariaDB]) -> Iterator[MariaDB]:
    """One for these tests alone, which look at all of its databases."""
    with quick_folder() as folder:
        server = server_kind(folder / "server")
        server.start()
        yield server
        server.remove()


@pytest.fixture
def place(mariadb: MariaDB, tmp_path: Path) -> Iterator[Place]:
    yield migrating.make(mariadb, "backed_up", tmp_path)
    mariadb.drop_database("backed_up")


def tool(folder: Path, kit: Kit, body: str) -> str:
    """A tool of our own before the real one, `$DUMP`, in the path; the code that puts it there."""
    folder.mkdir()
    path, real = folder / kit.dump, shutil.which(kit.dump)
    path.write_text(f'#!/bin/bash\nDUMP={real}\n[ "$1" = --version ] && exec $DUMP --version\n{body}\n')
    path.chmod(0o755)
    return f"import os; os.environ['PATH'] = {os.fspath(folder)!r} + ':' + os.environ['PATH']"


def nothing_happened(place: Place) -> None:
    assert (place.revision, place.dumps) == (HEAD.name, [])
    assert place.rows("SELECT 1 FROM schema_revisions WHERE revision > %s" % HEAD.name) == []  # noqa: S608, UP031 - our own
    assert [name for (name,) in place.server.run("SHOW DATABASES") if name.startswith("verify_longwave")] == []


def test_it_backs_up_expands_looks_again_and_writes_itself_down(place: Place, new: Binary, kit: Kit) -> None:
    before = place.data()
    code, said = new.run(place.settings(), "migrate")
    assert code == 0, said
    assert re.search(rf"{kit.server} \d+\.\d+", said)
    for words in (
        f"dumping with {kit.dump}", "innodb_flush_log_at_trx_commit: 1", "rights: ", "room for the backup: ",
        "compared by checksum", f"revision {EXPAND}, step {EXPANDING_STEPS} done", "validated", f"applied: {EXPAND}",
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


def test_a_server_killed_while_a_dump_is_taken_leaves_no_backup_and_no_change(
    tmp_path: Path, new: Binary, kit: Kit, server_kind: type[MariaDB]
) -> None:
    with quick_folder() as folder:
        server = server_kind(folder / "server")
        server.start()
        try:
            killed_while_dumping(migrating.make(server, "killed", tmp_path), new, kit, tmp_path)
        finally:
            server.remove()


def killed_while_dumping(place: Place, new: Binary, kit: Kit, tmp_path: Path) -> None:
    own_server = place.server
    prelude = tool(tmp_path / "bin", kit, f'kill -9 {own_server.pid}\nexec $DUMP "$@"')
    code, said = new.run(place.settings(), "migrate", prelude=prelude)
    assert code == 1, said
    assert place.dumps == []
    own_server.kill()
    own_server.start()
    assert place.revision == HEAD.name
    assert new.run(place.settings(), "migrate")[0] == 0


@pytest.mark.parametrize("what", BROKEN)
def test_a_dump_that_is_not_whole_is_no_backup(place: Place, new: Binary, kit: Kit, tmp_path: Path, what: str) -> None:
    damaged = tool(tmp_path / "bin", kit, f'$DUMP "$@" | {kit.damages[what]}')
    code, said = new.run(place.settings(), "migrate", prelude=damaged)
    assert code == 1, said
    assert BROKEN[what] in said
    assert "12025550" not in said + place.last_run()[2]
    nothing_happened(place)
    assert place.last_run()[2].startswith("failed: BackupFailed")
    migrating.works(place)


def test_a_tool_that_fails_is_told_in_its_words(place: Place, new: Binary, kit: Kit, tmp_path: Path) -> None:
    body = f'$DUMP "$@"; echo "{kit.dump}: Got error: 2013: Lost connection" >&2; exit 3'
    code, said = new.run(place.settings(), "migrate", prelude=tool(tmp_path / "bin", kit, body))
    assert code == 1
    assert f"{kit.dump} ended with 3: {kit.dump}: Got error: 2013: Lost connection" in said
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
        "DROP USER IF EXISTS one_database@'%'",
        f"CREATE USER one_database@'%' IDENTIFIED BY '{PASSWORD}'",
        "GRANT ALL ON backed_up.* TO one_database@'%'",
    )
    url = place.settings()["store_url"].replace(f"{USER}@", "one_database@")
    code, said = new.run(place.settings(store_url=url), "migrate")
    assert code == 0, said
    assert "verified weakly" in said
    assert "rows were not compared" in said
    assert expanded(place)


def test_a_weak_check_still_finds_a_table_that_is_not_there(
    mariadb: MariaDB, place: Place, new: Binary, kit: Kit, tmp_path: Path
) -> None:
    mariadb.run(
        "DROP USER IF EXISTS one_database@'%'",
        f"CREATE USER one_database@'%' IDENTIFIED BY '{PASSWORD}'",
        "GRANT ALL ON backed_up.* TO one_database@'%'",
    )
    url = place.settings()["store_url"].replace(f"{USER}@", "one_database@")
    lost = tool(tmp_path / "bin", kit, f'$DUMP "$@" | {kit.damages["a table lost"]}')
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


def test_a_backup_is_restored_as_the_page_says(place: Place, new: Binary, kit: Kit) -> None:
    """docs/operations/BACKUP.md."""
    held = place.data()
    assert new.run(place.settings(), "migrate")[0] == 0
    [name] = place.dumps
    place.server.create_database("restored")
    restored = Place(place.server, "restored", place.folder)
    program, *options = kit.load
    client = [program, "-h127.0.0.1", f"-P{place.server.port}", f"-u{USER}", f"-p{PASSWORD}", *options, "restored"]
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


def test_a_dump_needs_nobody_who_logged_in_before(
    mariadb: MariaDB, place: Place, server_kind: type[MariaDB], tmp_path: Path
) -> None:
    """MySQL remembers who logged in, and lets them in without the server's key; when it restarts it forgets them."""
    address = parse(place.settings()["store_url"], PASSWORD, None)
    tools = dump.Tools.found(PLAIN, mariadb=server_kind is MariaDB)
    mariadb.run("FLUSH PRIVILEGES")
    assert "messages" in dump.tables_in(dump.take(address, tools, tmp_path, "0001"))


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
