"""Bytes of a stopped store are flipped: the engine refuses, or says so, or what it serves is what was stored.

A flipped byte may lie where nothing is kept (a free page, a frame of the WAL that is past its end): then nothing may
change. What must never be is a store that serves other rows as if they were right.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.config import Settings
from engine.stores.wal import damaged_frame
from longwave.v1 import messaging_pb2 as pb
from server.cli.doctor_store import check_store
from server.cli.finding import Level
from tests.proof.power.server_rig import ACCEPTED, STORE, Server
from tests.proof.power.torn_disk import SECTOR_BYTES

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

pytestmark = pytest.mark.timeout(600)
FLIPS = 40
BATCH = 20
SQLITE_HEADER_BYTES = 100


def rows_of(path: Path) -> dict[str, tuple[int, str]] | None:
    """Request id → (message, text), as a reader sees them; None when the library finds the damage."""
    connection = dbapi.connect(path)
    try:
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            return None
        statement = "SELECT r.request_id, r.id, b.record FROM request_ids AS r JOIN bodies AS b ON b.id = r.id"
        return {one: (key, pb.Submission.FromString(record).text) for one, key, record in connection.execute(statement)}
    except Exception:  # noqa: BLE001 - refused: that is what is wanted
        return None
    finally:
        connection.close()


def flip(path: Path, draw: random.Random, first: int = 0) -> int:
    """Flip one bit; returns where."""
    content = bytearray(path.read_bytes())
    at = draw.randrange(first, len(content))
    content[at] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return at


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of some messages in file and WAL, after kill -9."""
    folder = tmp_path_factory.mktemp("damage")
    with Server(folder) as server:
        assert server.start()
        for _ in range(10):
            assert server.submit(server.caller.fresh(20)) == [ACCEPTED] * 20
        server.stop(signal.SIGTERM)
        assert server.start()
        for _ in range(5):
            assert server.submit(server.caller.fresh(20)) == [ACCEPTED] * 20
        server.stop()
    return folder / "store"


def test_a_damaged_wal_is_cut_off_where_it_is_damaged(stopped: Path, tmp_path: Path) -> None:
    """Frames carry checksums: from the damaged one on nothing is read, before it everything is as it was."""
    whole = copy_of(stopped, tmp_path / "whole")
    wanted = rows_of(whole)
    assert wanted is not None
    draw = random.Random(3)  # noqa: S311 - it must repeat
    shortened = 0
    for number in range(FLIPS):
        store = copy_of(stopped, tmp_path / str(number))
        at = flip(store.with_name(STORE + "-wal"), draw)
        found = rows_of(store)
        if found is None:
            continue
        assert found.items() <= wanted.items(), f"byte {at} of the WAL changed rows"
        shortened += len(found) < len(wanted)
    assert shortened > 0, "no flip hit anything"


def copy_of(stopped: Path, folder: Path) -> Path:
    """The stopped store once more; its path."""
    folder.mkdir()
    for file in stopped.iterdir():
        if not file.name.endswith("-shm"):
            shutil.copy(file, folder)
    return folder / STORE


@pytest.mark.parametrize("place", ["header", "schema"])
def test_the_engine_refuses_a_store_whose_head_is_damaged(stopped: Path, tmp_path: Path, place: str) -> None:
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    with Server(tmp_path) as server:
        shutil.rmtree(server.store_folder)
        store = copy_of(stopped, server.store_folder)
        store.with_name(STORE + "-wal").unlink(missing_ok=True)
        with store.open("r+b") as file:
            file.seek(0 if place == "header" else SQLITE_HEADER_BYTES)
            file.write(b"\xff" * 16)
        before = store.read_bytes()
        assert not server.start(), "ready over a damaged store"
        assert server.stop() != 0
        assert store.read_bytes() == before, "a damaged store was written to"


def test_rot_in_a_page_that_no_start_reads_is_found_by_the_doctor(stopped: Path, tmp_path: Path) -> None:
    """A start reads few pages, and a damaged one is refused when it is read; only the doctor reads them all."""
    url: dict[str, Any] = {"store_url": f"sqlite:///{tmp_path / 'store' / STORE}"}
    settings = Settings(**url)
    store = copy_of(stopped, tmp_path / "store")
    sound = {finding.check: finding.level for finding in check_store(settings)}
    assert sound["store pages"] is Level.OK
    # Into the file with everything: a page that the log still holds is read from there.
    connection = dbapi.connect(store)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
    [bodies] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'bodies'").fetchone()
    connection.close()
    content = bytearray(store.read_bytes())
    content[(bodies - 1) * page_bytes : (bodies - 1) * page_bytes + 4] = b"\xff" * 4
    store.write_bytes(content)
    found = {finding.check: finding.level for finding in check_store(settings)}
    assert found["store pages"] is Level.FAIL


@pytest.mark.parametrize("place", ["header", "first sector", "first quarter", "middle"])
def test_the_engine_refuses_a_log_that_is_damaged_before_its_end(stopped: Path, tmp_path: Path, place: str) -> None:
    """SQLite reads a log up to its first bad frame and says nothing of the rest: what was acknowledged is gone."""
    with Server(tmp_path) as server:
        shutil.rmtree(server.store_folder)
        store = copy_of(stopped, server.store_folder)
        log = store.with_name(STORE + "-wal")
        content = bytearray(log.read_bytes())
        if place == "first sector":
            content[:SECTOR_BYTES] = bytes(SECTOR_BYTES)
        else:
            content[{"header": 17, "first quarter": len(content) // 4, "middle": len(content) // 2}[place]] ^= 1
        log.write_bytes(content)
        assert not server.start(), "ready without what was acknowledged"
        assert server.stop() != 0
        assert log.read_bytes() == content, "a damaged log was written to"


@pytest.mark.parametrize("command", ["migrate", "bootstrap"])
def test_no_command_writes_to_a_store_whose_log_is_damaged(stopped: Path, tmp_path: Path, command: str) -> None:
    """A writer that closes copies what it read of the log, and removes the log: the rest would be gone for good."""
    store = copy_of(stopped, tmp_path / "store")
    log = store.with_name(STORE + "-wal")
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    environment = os.environ | {"LONGWAVE_STORE_URL": f"sqlite:///{store}"}
    done = subprocess.run(
        [sys.executable, "-m", "server", command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "is damaged in frame" in done.stderr
    assert log.read_bytes() == content, "a damaged log was written to"


def test_a_flip_of_the_log_is_refused_or_costs_the_last_transactions_only(stopped: Path, tmp_path: Path) -> None:
    draw = random.Random(7)  # noqa: S311 - it must repeat
    whole = copy_of(stopped, tmp_path / "whole")
    log = whole.with_name(STORE + "-wal")
    content = log.read_bytes()
    assert damaged_frame(content) is None
    wanted = rows_of(whole)
    assert wanted is not None
    refused = 0
    for number in range(FLIPS):
        store = copy_of(stopped, tmp_path / str(number))
        flip(store.with_name(STORE + "-wal"), draw)
        if damaged_frame(store.with_name(STORE + "-wal").read_bytes()) is not None:
            refused += 1
            continue
        found = rows_of(store)
        assert found is not None
        # What no check can tell from a torn end: the last commit, and the one before it.
        assert len(wanted) - len(found) <= 2 * BATCH
    assert refused > FLIPS // 2


@pytest.mark.parametrize("kept", [1.0, 0.9, 0.5, 0.1, 0.0])
def test_a_log_that_ends_early_is_no_damage(stopped: Path, kept: float) -> None:
    content = (stopped / (STORE + "-wal")).read_bytes()
    cut = int(len(content) * kept)
    assert damaged_frame(content[:cut]) is None
    assert damaged_frame(content[:cut] + bytes(len(content) - cut)) is None
