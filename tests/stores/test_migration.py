"""`longwave migrate` over a server: it looks, expands, looks again; cut short anywhere, the next one ends it.

Old and new binary under load are in `tests/corridor/test_old_and_new.py`, the backup before it in
`test_migration_backup.py`.
"""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.mariadb import PASSWORD, MariaDB, quick_folder
from tests.stores import migrating
from tests.stores.binaries import CONTRACT, EXPAND, EXPANDING_STEPS, HEAD, OLD, Binary, newer
from tests.stores.migrating import Place, expanded, works

DEATHS = [
    "migrate.after_backup:kill",
    *(f"migrate.after_step:kill@{number + 1}" for number in range(EXPANDING_STEPS)),
    "migrate.after_steps:kill",
]


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Binary:
    return newer(tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Binary:
    return newer(tmp_path_factory.mktemp("newest"), contract=True)


@pytest.fixture
def place(mariadb: MariaDB, tmp_path: Path) -> Iterator[Place]:
    yield migrating.make(mariadb, "migrating", tmp_path)
    mariadb.drop_database("migrating")


@pytest.fixture
def own_server(server_kind: type[MariaDB]) -> Iterator[MariaDB]:
    """A server that a test may kill or set."""
    with quick_folder() as folder:
        server = server_kind(folder / "server")
        server.start()
        yield server
        server.remove()


@pytest.fixture(scope="module")
def in_one_go(mariadb: MariaDB, new: Binary, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The schema of a migration that nothing befell."""
    whole = migrating.make(mariadb, "in_one_go", tmp_path_factory.mktemp("whole"))
    code, said = new.run(whole.settings(), "migrate", "--without-backup")
    assert code == 0, said
    schema = whole.schema()
    mariadb.drop_database("in_one_go")
    return schema


@pytest.mark.parametrize("death", DEATHS)
def test_killed_at_any_step_the_old_binary_works_and_the_next_run_completes_it(
    place: Place, new: Binary, in_one_go: dict[str, list[str]], death: str
) -> None:
    """F32."""
    code, said = new.run(place.settings(failpoint=death), "migrate", "--without-backup")
    assert code == -signal.SIGKILL, said
    works(place)
    code, said = new.run(place.settings(), "migrate", "--without-backup")
    assert code == 0, said
    assert place.schema() == in_one_go
    assert place.revision == EXPAND
    works(place)


def test_a_server_killed_in_the_middle_of_a_step(
    own_server: MariaDB, tmp_path: Path, new: Binary, in_one_go: dict[str, list[str]]
) -> None:
    place = migrating.make(own_server, "killed", tmp_path)
    with closing(own_server.connect("killed")) as reader:
        reader.begin()
        reader.cursor().execute("SELECT COUNT(*) FROM bodies")
        running = new.start(place.settings(), "migrate", "--without-backup")
        place.until_waiting("Waiting for table metadata lock")
        own_server.kill()
    _, said = running.communicate(timeout=migrating.WAIT_S)
    assert running.returncode == 1, said
    assert "Traceback" not in said
    own_server.start()
    works(place)
    code, said = new.run(place.settings(), "migrate", "--without-backup")
    assert code == 0, said
    assert "cut short" in said
    assert place.schema() == in_one_go
    assert expanded(place)


def test_of_two_at_once_one_migrates_and_the_other_says_so_or_waits(place: Place, new: Binary) -> None:
    with closing(place.server.connect(place.database)) as reader:
        reader.begin()
        reader.cursor().execute("SELECT COUNT(*) FROM bodies")
        first = new.start(place.settings(), "migrate", "--without-backup")
        place.until_waiting("Waiting for table metadata lock")
        code, said = new.run(place.settings(), "migrate", "--without-backup")
        assert code == 2, said
        assert "is being migrated by another longwave" in said
        waiting = new.start(place.settings(), "migrate", "--without-backup", "--wait-s", "60")
        place.until_waiting("User lock")
    out, said = first.communicate(timeout=migrating.WAIT_S)
    assert first.returncode == 0, said
    assert f"applied: {EXPAND}" in out
    out, said = waiting.communicate(timeout=migrating.WAIT_S)
    assert waiting.returncode == 0, said
    assert "applied: nothing" in out
    assert place.rows("SELECT COUNT(*) FROM schema_runs") == [(1,)]


def test_a_table_in_use_is_tried_again_while_others_get_by(place: Place, new: Binary) -> None:
    with closing(place.server.connect(place.database)) as reader:
        reader.begin()
        reader.cursor().execute("SELECT COUNT(*) FROM bodies")
        running = new.start(place.settings(), "migrate", "--without-backup")
        assert running.stderr is not None
        said = ""
        while "trying again" not in said:
            said = running.stderr.readline()
            assert said, "it ended"
    _, said = running.communicate(timeout=migrating.WAIT_S)
    assert running.returncode == 0, said
    assert expanded(place)


def test_rights_are_looked_at_before_anything_is_done(mariadb: MariaDB, place: Place, new: Binary) -> None:
    user = f"CREATE USER IF NOT EXISTS narrow@'%' IDENTIFIED BY '{PASSWORD}'"
    mariadb.run(user, "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON migrating.* TO narrow@'%'")
    url = place.settings()["store_url"].replace("longwave@", "narrow@")
    code, said = new.run(place.settings(store_url=url), "migrate", "--without-backup")
    assert code == 2, said
    assert "narrow@% lacks ALTER, DROP, INDEX, REFERENCES" in said
    assert place.revision == HEAD.name


def test_a_server_that_takes_no_writes_is_refused(own_server: MariaDB, tmp_path: Path, new: Binary) -> None:
    place = migrating.make(own_server, "read_only", tmp_path)
    own_server.run("SET GLOBAL read_only = 1")
    code, said = new.run(place.settings(), "migrate", "--without-backup")
    assert code == 2, said
    assert "read_only: 1" in said or "read_only: ON" in said
    own_server.run("SET GLOBAL read_only = 0, GLOBAL innodb_flush_log_at_trx_commit = 2")
    code, said = new.run(place.settings(), "migrate", "--without-backup")
    assert code == 2, said
    assert "innodb_flush_log_at_trx_commit: 2, needs 1" in said
    assert place.revision == HEAD.name


def test_a_newer_binary_does_not_serve_a_store_that_is_behind(place: Place, new: Binary) -> None:
    for command in ("serve", "bootstrap"):
        code, said = new.run(place.settings(), command)
        assert code == 2, said
        assert f"lacks {EXPAND}" in said
        assert "run `longwave migrate`" in said
    code, said = new.run(place.settings(), "migrate", "--check")
    assert code == 1
    assert EXPAND in said
    assert place.revision == HEAD.name


def test_an_older_binary_runs_on_an_expanded_store_and_not_on_a_contracted_one(
    place: Place, new: Binary, newest: Binary
) -> None:
    assert new.run(place.settings(), "migrate", "--without-backup")[0] == 0
    works(place)
    code, said = OLD.run(place.settings(), "migrate", "--without-backup")
    assert (code, place.revision) == (0, EXPAND)
    assert "nothing to apply" in said
    code, said = newest.run(place.settings(), "migrate", "--without-backup")
    assert (code, place.revision) == (1, EXPAND), said
    assert "--contract" in said
    works(place)
    code, said = newest.run(place.settings(), "migrate", "--without-backup", "--contract")
    assert (code, place.revision) == (0, CONTRACT), said
    for binary in (OLD, new):
        for command in ("bootstrap", "migrate"):
            code, said = binary.run(place.settings(), command)
            assert code == 2, said
            assert f"the store is at revision {CONTRACT}" in said


def test_a_contract_is_refused_while_an_older_engine_runs_and_leaves_it_working(
    place: Place, new: Binary, newest: Binary
) -> None:
    assert new.run(place.settings(), "migrate", "--without-backup")[0] == 0

    def contract() -> None:
        code, said = newest.run(place.settings(), "migrate", "--without-backup", "--contract")
        assert code == 1, said
        assert f"knows revisions up to {HEAD.name}" in said

    works(place, beside=contract)
    # Refused later, when it looked again behind its own word: that word is taken back.
    prelude = (
        "from engine.stores.mysql import prerequisites as p\nlook = p.older_binary\nseen = iter((True,))\n"
        "p.older_binary = lambda *a: '' if next(seen, False) else 'one that came in between'"
    )
    code, said = newest.run(place.settings(), "migrate", "--without-backup", "--contract", prelude=prelude)
    assert code == 1, said
    assert "one that came in between" in said
    assert place.revision == EXPAND
    works(place)
    assert newest.run(place.settings(), "migrate", "--without-backup", "--contract")[0] == 0


def test_a_contract_that_was_cut_short_keeps_older_binaries_out(place: Place, new: Binary, newest: Binary) -> None:
    assert new.run(place.settings(), "migrate", "--without-backup")[0] == 0
    cut = place.settings(failpoint="migrate.after_step:kill@1")
    assert newest.run(cut, "migrate", "--without-backup", "--contract")[0] == -signal.SIGKILL
    assert place.revision == EXPAND
    code, said = new.run(place.settings(), "bootstrap")
    assert code == 2, said
    assert f"the store is at revision {CONTRACT}" in said
    assert newest.run(place.settings(), "migrate", "--without-backup", "--contract")[0] == 0
    assert place.revision == CONTRACT


def test_a_schema_that_lacks_what_its_revision_promises_is_noticed(place: Place, new: Binary) -> None:
    place.rows("ALTER TABLE messages DROP INDEX messages_due, DROP COLUMN crashes")
    code, said = new.run(place.settings(), "migrate", "--without-backup")
    assert code == 1, said
    assert "index messages messages_due INDEX (state, due_us, id)" in said
    assert "column messages crashes" in said
    assert place.last_run()[2].startswith("failed: MigrationFailed")
    place.rows(
        "ALTER TABLE messages ADD INDEX messages_due (state, due_us, id), "
        "ADD COLUMN crashes TINYINT UNSIGNED NOT NULL DEFAULT 0"
    )
    assert new.run(place.settings(), "migrate", "--without-backup")[0] == 0


@pytest.mark.parametrize(
    "step",
    ['op.execute("ALTER TABLE messages DROP COLUMN crashes")', 'op.execute("DELETE FROM opt_outs")'],
)
def test_an_expansion_that_takes_something_away_is_refused_at_its_step(place: Place, tmp_path: Path, step: str) -> None:
    before = place.data()["opt_outs"]
    code, said = newer(tmp_path / "wrong", breaks=step).run(place.settings(), "migrate", "--without-backup")
    assert code == 1, said
    assert "older binaries may run beside it, and they may not beside" in said
    assert place.revision == HEAD.name
    assert place.data()["opt_outs"] == before
    works(place)
