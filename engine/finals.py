"""Finals: answers to look-ups of messages that never change again, kept in memory for a while.

It keeps no consent, right, limit or state of a campaign, and no message that may still move. Whoever asks has been
found entitled to what is the tenant's.

Invariants: the tenant is part of the key, so that nobody is given another's; what is kept never weighs more than
`bytes_max`; nothing is given `KEPT_S` after the store was read, so that what retention removed is gone by then.
"""

from collections import OrderedDict
from typing import Final

from engine import _core
from engine.stores.store import Row

KEPT_S: Final = 300
KEPT_US: Final = KEPT_S * 1_000_000
# DELIVERED, FAILED, CANCELLED, EXPIRED, BLOCKED: of the terminal states those that docs/STATES.md lets become nothing.
# The others from 16 on may still be upgraded, by a receipt that comes days later.
UNCHANGING: Final = frozenset((16, 20, 21, 22, 23))
# Beside the answer's own bytes: its header (33), key with two numbers (56 + 28 + 32), value with its time (56 + 32),
# its place in the table and in the order (some 100). 295 to 334 were measured; a table that is being doubled has two.
ENTRY_BYTES: Final = 400
_CAMPAIGN: Final = 2  # the column of a view's row
_STATE: Final = 9


def answer_for_good(registry: _core.Registry, row: Row, provider_name: str) -> bytes | None:
    """The encoded GetMessageResponse of a view's row when it will never be another, else None.

    Raises ValueError for a damaged row.
    """
    campaign = registry.campaign_id(row[_CAMPAIGN])
    # One that this picture of the registry does not have yet would be left out of the answer.
    if row[_STATE] not in UNCHANGING or campaign is None:
        return None
    return _core.get_response(row, campaign, provider_name)


class Finals:
    """Of one process; least recently used goes first. All of it belongs to the loop's thread."""

    def __init__(self, bytes_max: int) -> None:
        """Keep up to so many bytes; 0 keeps nothing."""
        self._bytes_max = bytes_max
        self._kept: OrderedDict[tuple[int, int], tuple[bytes, int]] = OrderedDict()
        self.bytes = 0
        """What is kept weighs so much."""

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def find(self, tenant: int, identity: int, mono_us: int) -> bytes | None:
        """The answer, if it is kept and its time is not over (time since boot, µs)."""
        key = tenant, identity
        found = self._kept.get(key)
        if found is None:
            return None
        answer, until_us = found
        if mono_us >= until_us:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return answer

    def keep(
        self, tenant: int, identity: int, answer: bytes, mono_us: int, left_us: int = KEPT_US, *, in_room: bool = False
    ) -> None:
        """Keep an answer for `left_us` at most; others go where it needs room, unless it is to take free room only."""
        key, weight = (tenant, identity), len(answer) + ENTRY_BYTES
        self._drop(key)
        self._drop_over(mono_us)
        if weight > (self._bytes_max - self.bytes if in_room else self._bytes_max):
            return
        while self.bytes + weight > self._bytes_max:
            self._drop(next(iter(self._kept)))
        self._kept[key] = answer, mono_us + min(left_us, KEPT_US)
        self.bytes += weight

    def lacks(self, tenant: int, identity: int, answer_bytes: int) -> bool:
        """Whether this message is not kept, and there is free room for so much of it."""
        return self.bytes + answer_bytes + ENTRY_BYTES <= self._bytes_max and (tenant, identity) not in self._kept

    def forget(self) -> None:
        """Keep nothing of what is kept."""
        self._kept.clear()
        self.bytes = 0

    def _drop_over(self, mono_us: int) -> None:
        """Drop what nobody asked for lately and whose time is over: so texts do not lie about."""
        while self._kept:
            key = next(iter(self._kept))
            if self._kept[key][1] > mono_us:
                return
            self._drop(key)

    def _drop(self, key: tuple[int, int]) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.bytes -= len(found[0]) + ENTRY_BYTES
