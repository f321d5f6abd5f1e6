"""Looks at a write-ahead log before SQLite does: is it torn at its end, as a power cut may leave it, or damaged inside?

SQLite reads a log up to its first bad frame and says nothing of the rest. At its end that is a transaction that was
never acknowledged. Every commit is fsynced before the next begins, so a bad frame with two whole commits behind it is
no torn end: acknowledged messages lie behind it, and serving without them would lose them in silence.

The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log. Looking writes nothing. Whoever opens a store
to write to it does so by `open_recovered`: a writer that closes copies what it read of the log, and removes the rest.
"""

import struct
from pathlib import Path
from typing import Final

from engine.errors import StoreBroken
from engine.stores.connection import PAGE_BYTES, Connection, open_writer
from engine.stores.last_run import refuse_if_gone, refuse_if_older
from engine.stores.pages import refuse_if_malformed

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
_MAGIC_BIG: Final = 0x377F0683
_MAGIC: Final = (0x377F0682, _MAGIC_BIG)
# One transaction may be torn: its own commit may have reached the disk without what stands before it.
_COMMITS_BEHIND_MAX: Final = 1
_MASK: Final = 0xFFFF_FFFF


def open_recovered(store: Path) -> Connection:
    """The one writer of a store, as a crash may have left it; its `StoreLock` must be held.

    Raises StoreBroken for a store that is damaged, older than its last run or gone, and what `open_writer` does.
    """
    refuse_if_gone(store)
    refuse_if_damaged(store)
    connection = open_writer(store)
    try:
        refuse_if_older(connection, store)
        refuse_if_malformed(connection, store)
        # A new log from here on: what a torn end left behind its last good frame is not to be met again.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def refuse_if_damaged(store: Path) -> None:
    """Raises StoreBroken when acknowledged transactions lie behind a damaged frame of the log of this store."""
    path = store.with_name(store.name + "-wal")
    try:
        log = path.read_bytes()
    except FileNotFoundError:
        return
    bad = damaged_frame(log)
    if bad is not None:
        message = (
            f"{path.name} is damaged in frame {bad} and has committed transactions behind it, which SQLite would drop "
            f"in silence: restore {store.name} from a backup, or move {path.name} and {store.name}.epoch away to go on "
            "without them"
        )
        raise StoreBroken(message)


def damaged_frame(log: bytes) -> int | None:
    """The number of the first bad frame that has more than one whole commit behind it (0: the header); else None."""
    if len(log) < _HEADER.size:
        return None
    magic, _, page_bytes, _, *salts_and_sums = _HEADER.unpack_from(log)
    salts, sums = tuple(salts_and_sums[:2]), (salts_and_sums[2], salts_and_sums[3])
    order = ">" if magic == _MAGIC_BIG else "<"
    bad: int | None = None
    if magic not in _MAGIC or _add((0, 0), struct.unpack_from(f"{order}6I", log)) != sums:
        # SQLite takes it for an empty log. But a header is fsynced before its first frame, so frames say what it was:
        # the second one, for the first shares a sector with the header.
        bad, page_bytes = 0, PAGE_BYTES
        second = _HEADER.size + _FRAME.size + PAGE_BYTES
        if len(log) < second + _FRAME.size:
            return None
        salts = _FRAME.unpack_from(log, second)[2:4]
    words = struct.Struct(f"{order}{page_bytes // 4}I")
    first_words = struct.Struct(f"{order}2I")
    frame_bytes = _FRAME.size + page_bytes
    commits_behind = 0
    for number in range(1, (len(log) - _HEADER.size) // frame_bytes + 1):
        at = _HEADER.size + (number - 1) * frame_bytes
        _, pages_after_commit, *rest = _FRAME.unpack_from(log, at)
        if tuple(rest[:2]) != salts:
            if bad is None:
                # Of an older log, or never written: the end, unless frames of this log follow.
                bad = number
            continue
        found = (rest[2], rest[3])
        summed = _add(_add(sums, first_words.unpack_from(log, at)), words.unpack_from(log, at + _FRAME.size))
        if summed != found:
            bad = number if bad is None else bad
        elif bad is not None and pages_after_commit:
            commits_behind += 1
            if commits_behind > _COMMITS_BEHIND_MAX:
                return bad
        # Each sum goes on from the one before it, so a frame is judged by the sum that its predecessor states.
        sums = found
    return None


def _add(sums: tuple[int, int], words: tuple[int, ...]) -> tuple[int, int]:
    first, second = sums
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & _MASK
        second = (second + words[place + 1] + first) & _MASK
    return first, second
