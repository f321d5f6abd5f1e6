"""Keeps what the carrier took: records for tests, messages for look-ups, idempotency keys, copies seen.

It decides nothing and answers nobody.

Invariants: record numbers start at 1 and have no gap; a record is one JSON line, rendered once, the same bytes in
memory and in the file; every collection is bounded and forgets its oldest entry first.
"""

import os
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import orjson

from loadtest.carrier.config import Config
from loadtest.carrier.messages import Message

KEY_LIFE_S: Final = 86_400.0

T = TypeVar("T")


class Ring(Generic[T]):
    """The newest `capacity` items, numbered from 1 in order of arrival."""

    def __init__(self, capacity: int) -> None:
        """Start empty; memory grows with what is put in, up to `capacity` items."""
        self._items: Final[list[T]] = []
        self._capacity: Final = capacity
        self.last_number = 0

    @property
    def first_number(self) -> int:
        """The number of the oldest item still held; one more than `last_number` when empty."""
        return self.last_number - len(self._items) + 1

    def append(self, item: T) -> int:
        """Put an item in, over the oldest when full; returns its number."""
        if len(self._items) < self._capacity:
            self._items.append(item)
        else:
            self._items[self.last_number % self._capacity] = item
        self.last_number += 1
        return self.last_number

    def get(self, number: int) -> T | None:
        """Give item `number`, or None when it is forgotten or not there yet."""
        if not self.first_number <= number <= self.last_number:
            return None
        return self._items[(number - 1) % self._capacity]

    def after(self, number: int, items_max: int) -> list[T]:
        """Give up to `items_max` items with numbers above `number`, oldest first."""
        start = max(number + 1, self.first_number)
        stop = min(start + items_max, self.last_number + 1)
        return [self._items[(position - 1) % self._capacity] for position in range(start, stop)]


class RememberedKey(NamedTuple):
    """What an idempotency key stands for."""

    message: Message
    body_sha256: bytes
    expires_monotonic_s: float


class RecordFile:
    """Appends record lines to a file, one write for all lines of a batch."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, mode 0600 when new: it holds phone numbers. Raises OSError."""
        self._handle: Final = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> bool:
        """Take a line; returns True when it is the first since the last `flush`."""
        self._lines.append(line)
        return len(self._lines) == 1

    def flush(self) -> None:
        """Hand all lines to the kernel. Raises OSError; a carrier that cannot record must not go on."""
        pending = memoryview(b"".join(self._lines))
        self._lines.clear()
        while pending:
            pending = pending[os.write(self._handle, pending) :]

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        os.close(self._handle)


class Ledger:
    """All that is remembered of send requests since the start or the last reset."""

    def __init__(self, config: Config, run_prefix: str) -> None:
        """Start empty; `run_prefix` are the first 24 characters (with the dashes) of every message id."""
        self.records: Final[Ring[bytes]] = Ring(config.records_max)
        self._messages: Final[Ring[Message]] = Ring(config.messages_max)
        self._keys: Final[dict[str, RememberedKey]] = {}
        self._copies: Final[dict[bytes, int]] = {}
        self._keys_max: Final = config.messages_max
        self._copies_max: Final = config.records_max
        self._run_prefix: Final = run_prefix

    def record(self, entry: dict[str, Any]) -> bytes:
        """Keep a record under the next number; returns its line."""
        # The sum is a copy of the right length: what orjson gives holds a buffer of several kilobytes.
        line = orjson.dumps({"seq": self.records.last_number + 1, **entry}) + b"\n"
        self.records.append(line)
        return line

    def next_message_id(self) -> str:
        """Give the id of the next message to be added: a UUID's shape, the message's number in its last 12 digits."""
        return f"{self._run_prefix}{self._messages.last_number + 1:012x}"

    def add_message(self, message: Message) -> None:
        """Keep a message whose id came from `next_message_id`."""
        self._messages.append(message)

    def find_message(self, message_id: str) -> Message | None:
        """Find a message by its id: the number in the id is its place in the ring."""
        head, digits = message_id[: len(self._run_prefix)], message_id[len(self._run_prefix) :]
        if head != self._run_prefix or len(digits) != 12 or not set(digits) <= set("0123456789abcdef"):  # noqa: PLR2004
            return None
        return self._messages.get(int(digits, 16))

    def remember_key(self, key: str, message: Message, body_sha256: bytes, monotonic_s: float) -> None:
        """Bind an idempotency key to a message for 24 h."""
        self._keys[key] = RememberedKey(message, body_sha256, monotonic_s + KEY_LIFE_S)
        if len(self._keys) > self._keys_max:
            del self._keys[next(iter(self._keys))]

    def find_key(self, key: str, monotonic_s: float) -> RememberedKey | None:
        """Find what a key stands for; an expired one is forgotten."""
        remembered = self._keys.get(key)
        if remembered is not None and remembered.expires_monotonic_s <= monotonic_s:
            del self._keys[key]
            return None
        return remembered

    def forget_key(self, key: str) -> None:
        """Unbind a key, as after an answer that was no success."""
        self._keys.pop(key, None)

    def count_copy(self, to: str, content_sha256: bytes) -> int:
        """Count a request with this recipient and content; returns which copy it is, from 1."""
        pair = to.encode() + content_sha256
        copy = self._copies.get(pair, 0) + 1
        self._copies[pair] = copy
        if len(self._copies) > self._copies_max:
            del self._copies[next(iter(self._copies))]
        return copy
