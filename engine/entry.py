"""Entry: where calls stand in line for their group, and who is told to come back when too much comes in.

It judges no submission and stores nothing. `Lines` gives each tenant a line of its own; `Pressure` looks at how long
calls stand there.

A queue that never empties gives everyone the same delay for nothing, and once it is longer than deadlines all that it
does is done for nobody. So the door refuses by urgency as soon as the line was too long all through a tenth of a second
(after CoDel and DAGOR), the more the longer it is and the faster it grew (after PIE, RFC 8033), until it is short.

Invariants: the calls of a tenant leave in the order in which they came; while not all can leave, tenants that wait have
equal shares of the messages; one tenant never holds more bytes than it leaves free; without pressure nothing is shed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

# Levels of urgency of the core's door (`rust_core/src/admit.rs`): sixteen for each of three classes.
LEVELS: Final = 16
FLOOR_MAX: Final = 3 * LEVELS
# Of one look at the line: longer than a few groups take, so that one slow commit is no pressure.
INTERVAL_S: Final = 0.1
# Levels that the floor moves by at one look: for a line that is twice as long as wanted, and for one that grew by as
# much. Without the second it would rise until what was let in before is through, which is too late, and swing.
PER_TARGET: Final = 1.4
PER_TARGET_GROWN: Final = 4.0
# At the most: a whole class in a fifth of a second.
RISE_MAX: Final = 8
# Where the line is all but empty it falls faster, so that full service is back soon after.
FALL_WHEN_SHORT: Final = 4
# Shares of a round: a largest batch, so that no batch waits for several rounds.
ROUND_MESSAGES: Final = 1000
# What one group tells of the speed of all: a twentieth, so that a second of groups is remembered.
NEWEST_SHARE: Final = 0.05


class Reply(NamedTuple):
    """The answer to one call."""

    verdict: int
    """ACCEPTED (then `response` holds the encoded answer) or why the whole call was refused."""
    response: bytes
    field: str
    detail: str
    retry_delay_us: int


class Asker(Protocol):
    """Who handed in several calls, each with a number of its own choice; it hears of each of them once."""

    def answered(self, tags: Sequence[int], replies: Sequence[tuple[int, bytes, str, str, int]]) -> None:
        """What became of these, in the same order; a reply has the fields of `Reply`."""

    def failed(self, tags: Sequence[int], error: BaseException) -> None:
        """NotReady (nothing was stored) or StoreUnavailable (unknown: retry with the same ids)."""


@dataclass(slots=True)
class Waiting:
    """A call between its arrival and its group."""

    kind: int
    tenant: int
    request: bytes
    deadline_us: int
    future: asyncio.Future[Reply]
    messages: int
    """An estimate."""
    came_s: float
    """On the loop's clock."""
    calls: ClassVar[int] = 1

    @property
    def request_bytes(self) -> int:
        """Bytes of the request."""
        return len(self.request)


@dataclass(slots=True, eq=False)
class Several:
    """Unary calls of one tenant that came together, between their arrival and their group."""

    tenant: int
    tags: list[int]
    requests: list[bytes]
    deadlines_us: list[int]
    asker: Asker
    came_s: float = 0.0
    """On the loop's clock."""
    gone: set[int] = field(default_factory=set)
    """Tags of calls whose caller is gone."""
    request_bytes: int = field(init=False)
    calls: int = field(init=False)

    def __post_init__(self) -> None:
        """Count."""
        self.calls = len(self.requests)
        self.request_bytes = sum(map(len, self.requests))

    @property
    def messages(self) -> int:
        """One a call."""
        return self.calls

    def keep(self, places: Sequence[int]) -> None:
        """Only these; for whoever has answered the others."""
        self.tags = [self.tags[place] for place in places]
        self.requests = [self.requests[place] for place in places]
        self.deadlines_us = [self.deadlines_us[place] for place in places]
        self.__post_init__()

    def give_up(self, tag: int) -> None:
        """The caller of one is gone: it is not judged any more, unless it was already."""
        self.gone.add(tag)

    def take(self, mono_us: int) -> tuple[list[int], list[bytes], list[int]]:
        """Tags and requests of those to judge, and tags of those whose deadline has passed."""
        if not self.gone and min(self.deadlines_us) > mono_us:
            return self.tags, self.requests, []
        tags, requests, late = [], [], []
        for tag, request, deadline_us in zip(self.tags, self.requests, self.deadlines_us, strict=True):
            if tag in self.gone:
                continue
            if deadline_us <= mono_us:
                late.append(tag)
            else:
                tags.append(tag)
                requests.append(request)
        return tags, requests, late


class Lines:
    """Who waits, by tenant; used on the loop's thread only."""

    def __init__(self, bytes_max: int) -> None:
        """Hold request bytes of all tenants up to `bytes_max`."""
        self._free_bytes = bytes_max
        self._lines: dict[int, deque[Waiting | Several]] = {}  # in the order of their turns; no line is empty
        self._bytes: dict[int, int] = {}
        self._owed: dict[int, int] = {}  # messages that a tenant may still have in its turn
        self.calls = 0
        self.messages = 0
        """As estimated."""

    def has_room(self, tenant: int, request_bytes: int) -> bool:
        """Whether a tenant may bring so many bytes: all together never more than are left free."""
        return self._bytes.get(tenant, 0) + request_bytes <= self._free_bytes

    def put(self, call: Waiting | Several) -> None:
        """Let a call, or several, stand in their tenant's line."""
        tenant, size = call.tenant, call.request_bytes
        line = self._lines.get(tenant)
        if line is None:
            self._lines[tenant] = deque((call,))
            self._bytes[tenant] = size
        else:
            line.append(call)
            self._bytes[tenant] += size
        self._free_bytes -= size
        self.calls += call.calls
        self.messages += call.messages

    def since_s(self) -> float:
        """When the call came that waits longest; call with at least one waiting."""
        return min(line[0].came_s for line in self._lines.values())

    def take(self, calls_max: int, messages_max: int) -> list[Waiting | Several]:
        """The next group, at least one call when any waits."""
        if self.calls <= calls_max and self.messages <= messages_max:
            taken = [call for line in self._lines.values() for call in line]
            self._free_bytes += sum(self._bytes.values())
            self._lines.clear()
            self._bytes.clear()
            self._owed.clear()
            self.calls = self.messages = 0
            return taken
        taken, calls, messages = [], 0, 0
        while self._lines and calls < calls_max and messages < messages_max:
            # Deficit round robin: a tenant that overdrew its share has the less of the next round.
            tenant = next(iter(self._lines))
            owed = self._owed.get(tenant, 0)
            if owed <= 0:
                self._owed[tenant] = owed + ROUND_MESSAGES
                self._lines[tenant] = self._lines.pop(tenant)
                continue
            call = self._pop(tenant)
            self._owed[tenant] = owed - call.messages
            messages += call.messages
            calls += call.calls
            taken.append(call)
            if tenant not in self._lines:
                del self._owed[tenant]
        return taken

    def _pop(self, tenant: int) -> Waiting | Several:
        line = self._lines[tenant]
        call = line.popleft()
        self.calls -= call.calls
        self.messages -= call.messages
        self._bytes[tenant] -= call.request_bytes
        self._free_bytes += call.request_bytes
        if not line:
            del self._lines[tenant], self._bytes[tenant]
        return call


class Pressure:
    """How urgent a call must be to be let in; used on the loop's thread only."""

    def __init__(self, target_s: float) -> None:
        """Shed when calls stand in line for longer than `target_s`; 0 sheds nothing, ever."""
        self._target_s = target_s
        self._least_s = inf
        self._last_s = 0.0
        self._look_at_s = 0.0
        self._stored_at_s = 0.0
        self._message_s = 0.0
        self.floor = 0
        """So many of `FLOOR_MAX` levels, the least urgent first, are to come back later."""
        self._beyond = 0.0  # parts of a level

    def waited(self, waited_s: float, now_s: float) -> None:
        """How long the line was as a group left it, by `standing_s`."""
        self.look(now_s)
        self._least_s = min(self._least_s, waited_s)

    def look(self, now_s: float) -> None:
        """Move the floor when its time has come; an interval in which nothing left the line was calm."""
        if now_s < self._look_at_s:
            return
        quiet, wait_s, target_s = int((now_s - self._look_at_s) / INTERVAL_S), self._least_s, self._target_s
        if wait_s == inf or not target_s or wait_s < target_s / 4:
            rise, wait_s = -float(FALL_WHEN_SHORT), 0.0
        else:
            grown_s = wait_s - max(self._last_s, target_s)
            rise = (PER_TARGET * (wait_s - target_s) + PER_TARGET_GROWN * grown_s) / target_s
            rise = min(RISE_MAX, max(-FALL_WHEN_SHORT, rise))
        level = min(FLOOR_MAX, max(0, self.floor + self._beyond + rise - quiet * FALL_WHEN_SHORT))
        self.floor = round(level)
        self._beyond = level - self.floor
        self._last_s = wait_s
        self._least_s, self._look_at_s = inf, now_s + INTERVAL_S

    def standing_s(self, oldest_s: float, messages: int) -> float:
        """How long a line of so many messages is: the time before its newest leaves. The oldest waits for `oldest_s`.

        The oldest tells of a line that was, and a floor that followed it would swing. Where nobody waits for long, the
        line is short, whatever the speed of late says: single messages are slower.
        """
        return self.expected_s(messages) if oldest_s > self._target_s / 4 else oldest_s

    def stored(self, messages: int, began_s: float, now_s: float) -> None:
        """A group of so many messages that was taken up at `began_s` is answered."""
        if messages:
            took_s = (now_s - max(began_s, self._stored_at_s)) / messages
            self._message_s += (took_s - self._message_s) * (NEWEST_SHARE if self._message_s else 1)
        self._stored_at_s = now_s

    def expected_s(self, messages: int) -> float:
        """How long a call waits for its answer behind so many messages, by the speed of late."""
        return messages * self._message_s
