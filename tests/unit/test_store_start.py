"""What a start looks at before it trusts a store: that its last run is in it, and, of a small one, every page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import StoreBroken
from engine.stores import pages, sqlite
from engine.stores.connection import PAGE_BYTES, Connection, open_writer
from engine.stores.last_run import refuse_if_gone, refuse_if_older, remember
from engine.stores.migrate import migrate
from engine.stores.pages import refuse_if_malformed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "longwave.db"


@pytest.fixture
def store(path: Path) -> Iterator[Connection]:
    """A store after its first run."""
    connection = open_writer(path)
    migrate(connection, path, now_us=1)
    remember(path, sqlite.raise_epoch(connection))
    yield connection
    connection.close()


def test_a_store_that_holds_its_last_run_is_taken(store: Connection, path: Path) -> None:
    refuse_if_gone(path)
    refuse_if_older(store, path)
    sqlite.raise_epoch(store)  # as a crash between the two leaves it: the store is ahead
    refuse_if_older(store, path)


def test_an_older_store_is_refused_until_the_operator_says_otherwise(store: Connection, path: Path) -> None:
    remember(path, 2)
    with pytest.raises(
        StoreBroken, match=r"run 1 left, but run 2 was its last: its longwave\.db-wal is gone, or an older"
    ):
        refuse_if_older(store, path)
    path.with_name("longwave.db.epoch").unlink()
    refuse_if_older(store, path)


@pytest.mark.parametrize("left", [None, b""])
def test_a_store_that_is_gone_is_refused_and_not_begun_anew(path: Path, left: bytes | None) -> None:
    refuse_if_gone(path)
    remember(path, 3)
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(StoreBroken, match="gone or empty, but run 3"):
        refuse_if_gone(path)


@pytest.mark.parametrize("written", [b"", b"\0\0\0", b"1x"])
def test_what_a_power_cut_left_of_the_number_says_nothing(store: Connection, path: Path, written: bytes) -> None:
    path.with_name("longwave.db.epoch").write_bytes(written)
    refuse_if_gone(path)
    refuse_if_older(store, path)


def test_a_misplaced_page_is_refused_where_every_page_is_read(
    store: Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refuse_if_malformed(store, path)
    [table] = store.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'").fetchone()
    store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    store.close()
    content = bytearray(path.read_bytes())
    content[(table - 1) * PAGE_BYTES : table * PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(content)
    again = open_writer(path)
    with pytest.raises(StoreBroken, match="restore it from a backup"):
        refuse_if_malformed(again, path)
    monkeypatch.setattr(pages, "CHECKED_BYTES_MAX", len(content) - 1)
    assert not refuse_if_malformed(again, path)
    again.close()
