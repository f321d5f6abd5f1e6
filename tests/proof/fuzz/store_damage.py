"""Stores that were damaged, from a seed, and started again: each is refused, or holds what was acknowledged.

What may be missing is named by the damage: a log that ends early loses what lay behind its end, because nothing tells
a cut from a crash that came before the fsync; a log damaged inside may lose its last two transactions, which nothing
tells from a torn end. What may never be is a row that was not stored, or one with another content or state; but a page
of the file has no checksum, so that one flipped bit inside a row is served, in that row alone.

Invariant: the same seed gives the same damage to the same store; message ids differ between runs, their texts do not.
"""

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from engine.errors import ConfigError, StoreBroken, StoreLocked, StoreTooNew
from engine.registry import tenants
from engine.registry.records import Tenant
from engine.stores.connection import PAGE_BYTES
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.engine_fixture import CAMPAIGN, TENANT, Engine, recipient

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

STORE: Final = "longwave.db"
LOG: Final = STORE + "-wal"
LOG_HEADER_BYTES: Final = 32
FRAME_BYTES: Final = 24 + PAGE_BYTES
COMMITS: Final = 6
BATCH: Final = 8
# Recovery says of an attempt that was open that nobody knows; every other state stays.
RECOVERED: Final = {2: 5}
STATES: Final = (1, 2, 3, 4, 5, 16, 17, 18, 19, 20, 21, 22, 23, 24)
FAR_US: Final = 1 << 52
REFUSALS: Final = (StoreBroken, ConfigError, StoreLocked, StoreTooNew, dbapi.Error)

Rows = dict[str, tuple[Any, ...]]
Files = dict[str, bytes]


class Finding(AssertionError):  # noqa: N818 - the name says what happened
    """A damaged store was served as if it were sound."""


@dataclass(frozen=True)
class Kept:
    """A store as it lay on the disk when everything in it had been acknowledged."""

    name: str
    files: Files
    after: tuple[Rows, ...]
    """What a reader saw after each acknowledged batch; the last one is all."""


def rows_of(store: Path) -> Rows:
    """Every acknowledged message: request id → what may not change, and its state."""
    with closing(dbapi.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        statement = (
            "SELECT r.request_id, r.id, r.content_hash, m.tenant, m.campaign, m.sender, m.recipient, m.class, m.kind, "
            "m.encoding, m.segments, m.accept_us, m.expires_us, b.record, m.state FROM request_ids AS r "
            "LEFT JOIN messages AS m ON m.id = r.id LEFT JOIN bodies AS b ON b.id = r.id"
        )
        rows = {row[0]: tuple(row[1:]) for row in connection.execute(statement)}
        [messages] = connection.execute("SELECT count(*) FROM messages").fetchone()
        if messages != len(rows):
            rows["?"] = (messages,)
        return rows


def _files(folder: Path) -> Files:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(("-shm", ".lock"))}


def _engine(folder: Path) -> Engine:
    # No key of a provider: what is queued is held.
    return Engine(folder, "http://127.0.0.1:9", None, telnyx_api_key=None, webhook_address="127.0.0.1:1")


async def _hand_in(engine: Engine, first: int) -> None:
    await engine.submit(
        *(
            pb.Submission(
                campaign=f"campaigns/{CAMPAIGN}", recipient=recipient(number), text=f"No. {number} " + "é" * 40,
                request_id=f"r-{number}",
            )
            for number in range(first, first + BATCH)
        )
    )  # fmt: skip


async def _fill(engine: Engine, folder: Path, first: int, before: Rows) -> tuple[Files, list[Rows]]:
    after = [before]
    for commit in range(COMMITS):
        await _hand_in(engine, first + commit * BATCH)
        after.append(rows_of(engine.store_file))
    # Copied while it runs and nobody writes: closing would fold the log in.
    return _files(folder), after


def _set_states(store: Path) -> None:
    """Give the messages every state there is, with timers that do not run out."""
    with closing(dbapi.connect(store, isolation_level=None)) as connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM messages ORDER BY id")]
        for place, identity in enumerate(ids):
            state = STATES[place % len(STATES)]
            connection.execute(
                "UPDATE messages SET state = ?, attempt = 1, provider = 1, due_us = ?, started_us = ?, expires_us = ? "
                "WHERE id = ?", (state, FAR_US, FAR_US, FAR_US + place, identity),
            )  # fmt: skip
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


async def make_stores(folder: Path) -> list[Kept]:
    """A store with everything in its log, one with everything in its file, one with some in each and every state."""
    kept: list[Kept] = []
    engine = _engine(folder)
    await engine.start()
    await engine.make_sample()
    files, after = await _fill(engine, folder, 0, {})
    kept.append(Kept("log", files, tuple(after)))
    await engine.stop()
    kept.append(Kept("file", _files(folder), (after[-1],)))
    _set_states(folder / STORE)
    engine = _engine(folder)
    await engine.start()
    engine.tenant = await engine.corridor.run_control(_sample_tenant)
    files, after = await _fill(engine, folder, 1000, rows_of(folder / STORE))
    kept.append(Kept("both", files, tuple(after)))
    await engine.stop()
    kept.append(Kept("states", _files(folder), (rows_of(folder / STORE),)))
    return kept


def _sample_tenant(control: sa.Connection) -> Tenant:
    return tenants.find_tenant(control, TENANT)


@dataclass(frozen=True)
class Damage:
    """What was done, and what may be missing because of it."""

    said: str
    files: Files
    commits_lost_max: int
    """Acknowledged batches at the end of the log that may be missing; -1: any number."""
    rows_rotten_max: int = 0
    """Rows that may be other than they were: where no check can see it."""


def _flip(draw: random.Random, data: bytes, first: int = 0) -> tuple[bytes, str]:
    out = bytearray(data)
    at = draw.randrange(first, len(out))
    out[at] ^= 1 << draw.randrange(8)
    return bytes(out), f"bit of byte {at}"


def flip_file(draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """One bit of the file."""
    data, said = _flip(draw, kept.files[STORE])
    return Damage(said, kept.files | {STORE: data}, 0, rows_rotten_max=1)


def page(draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """A page of the file is zero, another one's, swapped with another, or noise."""
    data = bytearray(kept.files[STORE])
    pages = len(data) // PAGE_BYTES
    one, two = draw.randrange(pages), draw.randrange(pages)
    first, second = (slice(number * PAGE_BYTES, (number + 1) * PAGE_BYTES) for number in (one, two))
    how = draw.choice(("zero", "doubled", "swapped", "noise", "half"))
    old, other = bytes(data[first]), bytes(data[second])
    if how == "zero":
        data[first] = bytes(PAGE_BYTES)
    elif how == "noise":
        data[first] = draw.randbytes(PAGE_BYTES)
    elif how == "half":
        data[first] = old[: PAGE_BYTES // 2] + bytes(PAGE_BYTES // 2)
    else:
        data[first] = other
        if how == "swapped":
            data[second] = old
    return Damage(f"page {one} {how} ({two})", kept.files | {STORE: bytes(data)}, 0)


def shorten_file(draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """The file ends early, or has nothing in it."""
    end = draw.choice((0, draw.randrange(len(kept.files[STORE])), len(kept.files[STORE]) - PAGE_BYTES))
    return Damage(f"file ends at {end}", kept.files | {STORE: kept.files[STORE][:end]}, 0)


def flip_log(draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """One bit of the log."""
    data, said = _flip(draw, kept.files[LOG])
    return Damage(f"{said} of the log", kept.files | {LOG: data}, 2)


def tear_log(draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """The log ends anywhere, with nothing, zeros or noise behind: as a crash leaves what no fsync covered."""
    data = kept.files[LOG]
    end = draw.randrange(len(data) + 1)
    rest = len(data) - end
    behind = draw.choice((b"", bytes(rest), draw.randbytes(rest)))
    return Damage(f"log torn at {end}, {len(behind)} behind", kept.files | {LOG: data[:end] + behind}, -1)


def frames(draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """Frames of the log are swapped, doubled, or zero."""
    data = bytearray(kept.files[LOG])
    count = (len(data) - LOG_HEADER_BYTES) // FRAME_BYTES
    one, two = draw.randrange(count), draw.randrange(count)
    first, second = (
        slice(LOG_HEADER_BYTES + number * FRAME_BYTES, LOG_HEADER_BYTES + (number + 1) * FRAME_BYTES)
        for number in (one, two)
    )
    how = draw.choice(("zero", "doubled", "swapped"))
    old, other = bytes(data[first]), bytes(data[second])
    data[first] = bytes(FRAME_BYTES) if how == "zero" else other
    if how == "swapped":
        data[second] = old
    return Damage(f"frame {one} {how} ({two})", kept.files | {LOG: bytes(data)}, 2)


def salts(draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """The salts of the log's header are others."""
    data = bytearray(kept.files[LOG])
    data[16:24] = draw.randbytes(8)
    return Damage("other salts", kept.files | {LOG: bytes(data)}, 0)


def stale_log(_draw: random.Random, kept: Kept, others: list[Kept]) -> Damage:
    """The log of another time lies beside this file."""
    [other] = [one for one in others if one.name == ("log" if kept.name != "log" else "both")]
    return Damage("a log of another time", kept.files | {LOG: other.files[LOG]}, 0)


def stale_file(_draw: random.Random, kept: Kept, others: list[Kept]) -> Damage:
    """The file of another time lies beside this log."""
    [other] = [one for one in others if one.name == ("file" if kept.name != "file" else "states")]
    return Damage("a file of another time", kept.files | {STORE: other.files[STORE]}, 0)


def no_log(_draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """The log is gone."""
    return Damage("no log", {name: data for name, data in kept.files.items() if name != LOG}, 0)


def no_file(_draw: random.Random, kept: Kept, _others: list[Kept]) -> Damage:
    """The file is gone and the log is there."""
    return Damage("no file", {name: data for name, data in kept.files.items() if name != STORE}, 0)


OF_FILE: Final = (flip_file, page, shorten_file)
OF_LOG: Final = (flip_log, tear_log, frames, salts, stale_file, no_log, no_file)
Maker = Callable[[random.Random, Kept, list[Kept]], Damage]


def damages(stores: list[Kept], seed: int) -> Iterator[tuple[str, Kept, Damage]]:
    """One of each kind for each store that it applies to: (what to say, store, damage)."""
    for kept in stores:
        kinds: tuple[Maker, ...] = (*OF_FILE, stale_log, *(OF_LOG if kept.files.get(LOG) else ()))
        for kind in kinds:
            draw = random.Random(f"{seed} {kept.name} {kind.__name__}")  # noqa: S311 - it must repeat
            damage = kind(draw, kept, [one for one in stores if one is not kept])
            yield f"seed {seed}, store {kept.name}, {kind.__name__}: {damage.said}", kept, damage


async def served(folder: Path) -> Rows | None:
    """What an engine serves over this store; None when it refuses."""
    engine = _engine(folder)
    try:
        await engine.start()
        return rows_of(folder / STORE)
    except REFUSALS:
        return None
    finally:
        await engine.stop()


def _settled(rows: Rows) -> Rows:
    return {key: (*row[:-1], RECOVERED.get(row[-1], row[-1])) for key, row in rows.items()}


async def judge(said: str, kept: Kept, damage: Damage) -> bool:
    """Start over the damage; whether it was refused. Raises Finding when it was served wrong."""
    folder = Path(tempfile.mkdtemp(prefix="damage-"))
    try:
        for name, data in damage.files.items():
            (folder / name).write_bytes(data)
            (folder / name).chmod(0o600)
        found = await served(folder)
    finally:
        shutil.rmtree(folder)
    if found is None:
        return True
    lost_max = damage.commits_lost_max if damage.commits_lost_max >= 0 else len(kept.after)
    legal = [_settled(rows) for rows in kept.after[-1 - lost_max :]]
    if _settled(found) in legal:
        return False
    wanted = _settled(kept.after[-1])
    changed = [key for key, row in _settled(found).items() if wanted.get(key) != row]
    if len(found) == len(wanted) and len(changed) <= damage.rows_rotten_max:
        return False
    message = (
        f"{said}: {len(found)} of {len(wanted)} messages served, {len(changed)} of them not as stored {changed[:3]}"
    )
    raise Finding(message)


async def damaged(seeds: Iterator[int], until: Callable[[], bool]) -> tuple[int, int]:
    """Damage and judge until told to end: (damages, of them refused). Raises Finding."""
    folder = Path(tempfile.mkdtemp(prefix="damage-"))
    count = refused = 0
    try:
        stores = await make_stores(folder)
        for kept in stores:
            # The judge itself: what is whole must be served whole.
            assert not await judge(f"{kept.name} as it was", kept, Damage("nothing", kept.files, 0))
        for seed in seeds:
            for said, kept, damage in damages(stores, seed):
                refused += await judge(said, kept, damage)
                count += 1
            if until():
                break
    finally:
        shutil.rmtree(folder)
    return count, refused
