"""A power cut loses, tears and reorders what was not synced yet: recovery comes up, nothing acknowledged is gone."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.proof.power.append_rig import STORE
from tests.proof.power.append_worker import PLANT_NORMAL
from tests.proof.power.torn_disk import RENAME, SECTOR_BYTES, SYNC, TRUNCATE, UNLINK, WRITE, Record, TornDisk
from tests.proof.power.torn_rig import WAL, replays, run_torn

pytestmark = pytest.mark.timeout(300)
OLD, NEW = b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES
DRAWS = 3000


@pytest.mark.usefixtures("shim")
def test_whatever_a_cut_leaves_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    counts = run_torn(tmp_path, seed=21, lives=4, images=24)
    assert counts.violations == []
    assert (counts.images, counts.lost, counts.altered, counts.refused, counts.damaged) == (4 * 24, 0, 0, 0, 0)
    assert counts.torn >= 24
    assert counts.demanded >= 1000


@pytest.mark.usefixtures("shim")
def test_a_store_below_its_durability_is_seen_to_lose(tmp_path: Path) -> None:
    assert run_torn(tmp_path, seed=22, lives=1, images=30, plant=PLANT_NORMAL).lost > 0


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize("file", [STORE, WAL])
def test_a_disk_that_lies_about_syncs_is_seen_to_lose(tmp_path: Path, file: str) -> None:
    """Of the log: what was acknowledged is gone. Of the store: so is what a checkpoint copied from the log."""
    counts = run_torn(tmp_path, seed=23, lives=4, images=30, lies_about=file, checkpoints=(32,))
    # Pages that a start reads are refused, the rest is served and found wrong.
    assert counts.lost + counts.damaged + counts.refused > 0
    assert (tmp_path / "broken-1" / STORE).exists()


def recording(*calls: tuple[int, int, str, bytes]) -> Iterator[Record]:
    """Records one after the other: (kind, at, name, data)."""
    for number, (kind, at, name, data) in enumerate(calls):
        yield Record(number, number, kind, at, name, data)


def images_of(files: dict[str, bytes], *calls: tuple[int, int, str, bytes]) -> set[tuple[tuple[str, bytes], ...]]:
    """Images that a cut after these calls may leave."""
    disk = TornDisk(files)
    for record in recording(*calls):
        disk.take(record)
    draw = Random(1)  # noqa: S311 - it must repeat
    return {tuple(sorted(disk.drawn(draw).items())) for _ in range(DRAWS)}


def test_what_was_synced_is_there_and_what_was_not_may_be() -> None:
    write = (WRITE, 0, STORE, NEW)
    assert images_of({STORE: OLD}, write, (SYNC, 1, STORE, b"")) == {((STORE, NEW),)}
    assert images_of({STORE: OLD}, write) == {((STORE, OLD),), ((STORE, NEW),)}
    # It came after the sync had begun.
    assert images_of({STORE: OLD}, write, (SYNC, 0, STORE, b"")) == {((STORE, OLD),), ((STORE, NEW),)}


def test_a_write_is_torn_and_the_next_may_come_first() -> None:
    calls = (WRITE, 0, STORE, NEW * 2), (WRITE, 2 * SECTOR_BYTES, STORE, NEW)
    found = {dict(image)[STORE] for image in images_of({STORE: OLD * 3}, *calls)}
    assert {NEW + OLD + OLD, OLD + NEW + OLD, OLD + OLD + NEW, NEW * 3, OLD * 3} <= found


def test_a_sector_is_what_it_was_at_one_moment() -> None:
    half = SECTOR_BYTES // 2
    calls = (WRITE, 0, STORE, NEW[:half]), (WRITE, half, STORE, NEW[half:])
    found = {dict(image)[STORE] for image in images_of({STORE: OLD}, *calls)}
    assert found == {OLD, NEW[:half] + OLD[half:], NEW}


def test_a_file_may_have_grown_without_its_bytes_or_not_have_shrunk() -> None:
    grown = {dict(image)[STORE] for image in images_of({STORE: OLD}, (WRITE, SECTOR_BYTES, STORE, NEW))}
    assert grown == {OLD, OLD + bytes(SECTOR_BYTES), OLD + NEW}
    assert images_of({STORE: OLD}, (TRUNCATE, 0, STORE, b"")) == {((STORE, OLD),), ((STORE, b""),)}


def test_names_are_sure_after_a_sync_of_their_folder() -> None:
    created = (WRITE, 0, WAL, NEW), (SYNC, 1, WAL, b"")
    assert images_of({}, *created) == {(), ((WAL, NEW),)}
    assert images_of({}, *created, (SYNC, 2, "", b"")) == {((WAL, NEW),)}
    assert images_of({WAL: OLD}, (UNLINK, 0, WAL, b"")) == {(), ((WAL, OLD),)}
    renamed = images_of({WAL: OLD}, (RENAME, 0, WAL, f"/folder/{STORE}".encode()), (SYNC, 1, "", b""))
    assert renamed == {((STORE, OLD),)}


def test_a_lie_about_syncs_promises_nothing() -> None:
    disk = TornDisk({STORE: OLD}, lies_about=STORE)
    for record in recording((WRITE, 0, STORE, NEW), (SYNC, 1, STORE, b"")):
        disk.take(record)
    assert disk.sure() == {STORE: OLD}
    assert disk.whole() == {STORE: NEW}


@pytest.mark.parametrize(
    ("there", "whole"),
    [
        (OLD + OLD, True),
        (NEW + OLD, True),
        (NEW[:7] + OLD[7:] + OLD, True),
        (OLD + NEW, False),
        (OLD[:7] + NEW[7:] + OLD, False),
    ],
    ids=["not made", "made", "made in part", "another", "its end without its beginning"],
)
def test_the_last_write_may_have_been_cut_short_and_no_other(there: bytes, *, whole: bool) -> None:
    before = (WRITE, SECTOR_BYTES, STORE, OLD)
    last = (WRITE, 0, STORE, NEW)
    base = {STORE: OLD + NEW}
    assert replays(base, list(recording(before, last, (SYNC, 1, STORE, b""))), {STORE: there}) is whole
    assert not replays(base, list(recording(last, before)), {STORE: OLD + OLD})
