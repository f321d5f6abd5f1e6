"""What a disk may hold after a power cut, given a recording of what was written to the files of one folder.

What a sync that returned promised is there. Of every later write each unit (a sector, or a page of the cache) may or
may not be: in any order, so that a write may be torn and a later one there without it. A unit holds what it held at one
moment: the writes to it up to some moment, never the second without the first. A file may have grown without its bytes:
they read as zeros. Names (created, removed, renamed) come about in order, as with a journal, and are sure only after a
sync of the folder.

It knows no store, opens nothing, and changes no file.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

HEAD: Final = struct.Struct("=QQIIII")
WRITE: Final = 1
TRUNCATE: Final = 2
SYNC: Final = 3
UNLINK: Final = 4
RENAME: Final = 5
SECTOR_BYTES: Final = 512
CACHE_PAGE_BYTES: Final = 4096
UNITS: Final = (SECTOR_BYTES, CACHE_PAGE_BYTES)
SHARES: Final = (0.02, 0.1, 0.5, 0.9, 0.98)


@dataclass(frozen=True, slots=True)
class Record:
    """One call, as `record_shim.c` wrote it down."""

    number: int
    """Where it begins in the recording: later ones have higher numbers."""
    mono_ns: int
    kind: int
    at: int
    """WRITE: offset; TRUNCATE: new size; SYNC: what has a lower number than this came before it began."""
    name: str
    """Within the folder; empty: the folder itself."""
    data: bytes
    """WRITE: the bytes; RENAME: the new path."""


def read_recording(path: Path, folder: Path) -> Iterator[Record]:
    """The records in order; one that a kill left half written is not given, and its call was never made."""
    content = memoryview(path.read_bytes())
    at, prefix = 0, f"{folder.resolve()}"
    while at + HEAD.size <= len(content):
        number = at
        mono_ns, place, kind, path_bytes, data_bytes, _ = HEAD.unpack_from(content, at)
        at += HEAD.size
        if at + path_bytes + data_bytes > len(content):
            return
        name = str(content[at : at + path_bytes], "utf-8").removeprefix(prefix).removeprefix("/")
        at += path_bytes
        yield Record(number, mono_ns, kind, place, name, bytes(content[at : at + data_bytes]))
        at += data_bytes


class _File:
    """What is sure, and what was asked for since."""

    def __init__(self, content: bytes = b"") -> None:
        self.settled = bytearray(content)
        self.pending: list[Record] = []

    def settle(self, before: int) -> None:
        for record in self.pending:
            if record.number < before:
                _apply(self.settled, record)
        self.pending = [record for record in self.pending if record.number >= before]

    def whole(self) -> bytearray:
        content = bytearray(self.settled)
        for record in self.pending:
            _apply(content, record)
        return content

    def drawn(self, draw: Random) -> bytearray:
        """One of the contents that a cut may leave."""
        content = bytearray(self.settled)
        unit = draw.choice(UNITS)
        survives = _survival(draw, self.pending, unit)
        stopped = set[int]()
        size = len(content)
        for number, record in enumerate(self.pending):
            if record.kind == TRUNCATE:
                size = record.at
                if survives(number, -1):
                    _apply(content, record)
                continue
            end = record.at + len(record.data)
            size = max(size, end)
            first = record.at // unit
            for place in range(first, (end - 1) // unit + 1):
                if place in stopped or not survives(number, place - first):
                    # A unit is what it was at one moment: it stays behind from here on.
                    stopped.add(place)
                    continue
                start, stop = max(record.at, place * unit), min(end, (place + 1) * unit)
                _put(content, start, record.data[start - record.at : stop - record.at])
        if len(content) < size and draw.random() < 0.5:
            content.extend(bytes(size - len(content)))
        return content


def _survival(draw: Random, pending: list[Record], unit: int) -> Callable[[int, int], bool]:
    """Whether the n-th unit (-1: a change of size) of a pending call is there, in one of the ways that disks lose."""
    share = draw.choice(SHARES)
    kept_whole = [draw.random() < share for _ in pending]
    last = draw.randrange(len(pending) + 1)
    torn_at = draw.randrange(len(pending[last].data) // unit + 2) if last < len(pending) else 0
    victim, odd = draw.randrange(len(pending) or 1), draw.randrange(2)

    def by_unit(_number: int, _place: int) -> bool:
        return draw.random() < share

    def by_write(number: int, _place: int) -> bool:
        return kept_whole[number]

    def in_order(number: int, place: int) -> bool:
        return number < last or (number == last and 0 <= place < torn_at)

    def but_one(number: int, place: int) -> bool:
        return number != victim or (place >= 0 and place % 2 == odd)

    def nothing(_number: int, _place: int) -> bool:
        return False

    return draw.choice((by_unit, by_write, in_order, but_one, nothing))


def _put(content: bytearray, at: int, data: bytes) -> None:
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


def _apply(content: bytearray, record: Record) -> None:
    if record.kind == WRITE:
        _put(content, record.at, record.data)
    elif len(content) > record.at:
        del content[record.at :]
    else:
        content.extend(bytes(record.at - len(content)))


class TornDisk:
    """The files of a folder on such a disk; records are taken in one after the other."""

    def __init__(self, files: dict[str, bytes], *, lies_about: str = "") -> None:
        """Begin with these contents, all of them sure. `lies_about`: syncs of that file promise nothing."""
        self._lies_about = lies_about
        self._now = {name: _File(content) for name, content in files.items()}
        """What a reader would find."""
        self._sure = dict(self._now)
        self._renamed: list[tuple[int, str, _File | None]] = []
        """Names not sure yet, with what they mean since; None: removed."""

    def take(self, record: Record) -> None:
        """Let this call happen."""
        number, name = record.number, record.name
        if record.kind == SYNC:
            self._sync(name, record.at)
        elif record.kind == UNLINK:
            if name in self._now:
                self._name(number, name, None)
        elif record.kind == RENAME:
            file = self._now.get(name)
            if file is not None:
                self._name(number, name, None)
                self._name(number, Path(record.data.decode()).name, file)
        else:
            if name not in self._now:
                self._name(number, name, _File())
            self._now[name].pending.append(record)

    def _name(self, number: int, name: str, file: _File | None) -> None:
        self._renamed.append((number, name, file))
        _point(self._now, name, file)

    def _sync(self, name: str, before: int) -> None:
        if not name:
            for number, renamed, file in self._renamed:
                if number < before:
                    _point(self._sure, renamed, file)
            self._renamed = [one for one in self._renamed if one[0] >= before]
        elif name in self._now and name != self._lies_about:
            self._now[name].settle(before)

    def sure(self) -> dict[str, bytes]:
        """What is there however unlucky the cut."""
        return {name: bytes(file.settled) for name, file in self._sure.items()}

    def whole(self) -> dict[str, bytes]:
        """What is there without a cut."""
        return {name: bytes(file.whole()) for name, file in self._now.items()}

    def drawn(self, draw: Random) -> dict[str, bytes]:
        """What a cut now may leave: one of the possible images."""
        names = dict(self._sure)
        for _, name, file in self._renamed[: draw.randrange(len(self._renamed) + 1)]:
            _point(names, name, file)
        return {name: bytes(file.drawn(draw)) for name, file in names.items()}


def _point(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
