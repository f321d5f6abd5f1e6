"""Ends connections of the native edge that flood, and holds back who comes from where a flood came from.

The core says which connection floods (`rust_core/src/edge/frames.rs`); this says what becomes of it. As on the edge of
grpcio (`server/floods.py`) it is ended by silence: nothing more is read, so that its peer waits, and some seconds later
it is cut off. New connections of its network are accepted and not read; a few at a time are let on, any of those that
wait, with small bounds.

It decides nothing about a call. Invariants: connections of other networks are never held; what is held is bounded, in
number and in time; nobody is held for good.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import structlog

from server.floods import SUSPECT_GIVEN_UP_A_SECOND, SUSPECT_S, SUSPECTS_MAX, network_of

if TYPE_CHECKING:
    from server.native.connection import NativeConnection

_log = structlog.get_logger("longwave.floods")

SILENT_S: Final = 3.0
# Beyond so many, the next one is cut off at once.
SILENT_MAX: Final = 1024
# Of suspect networks' connections, so many a second are let on; each costs what it brings before it is ended again.
LET_ON_A_SECOND: Final = 8.0
LOG_S: Final = 10.0


class Police:
    """Of one listener; used by the loop's thread only."""

    def __init__(self) -> None:
        """Nobody is suspect."""
        self._suspects: OrderedDict[str, float] = OrderedDict()  # network: until; by when it was suspected last
        self._silent: OrderedDict[NativeConnection, float] = OrderedDict()  # when its silence began
        self._held: list[NativeConnection] = []
        self._to_let_on = 0.0
        self._at_s = 0.0
        self._logs_at_s = 0.0
        self.ended = 0
        """Connections that were ended."""

    @property
    def held(self) -> int:
        """Connections that wait to be let on."""
        return len(self._held)

    def holds(self, address: str, now_s: float) -> bool:
        """Whether new connections from this address are held back."""
        return self._suspects.get(network_of(address), 0.0) > now_s

    def came(self, connection: NativeConnection, address: str, now_s: float) -> int | None:
        """A new connection; returns how many calls it may give up a second, None for as many as any other.

        One that is held is not read until it is let on.
        """
        if not self._suspects or not self.holds(address, now_s):
            return None
        connection.hold()
        self._held.append(connection)
        if len(self._held) > SILENT_MAX:
            self._held.pop(0).abort()
        return SUSPECT_GIVEN_UP_A_SECOND

    def flooded(self, connection: NativeConnection, address: str, now_s: float) -> None:
        """End this connection, and suspect where it came from."""
        network = network_of(address)
        self._suspects[network] = now_s + SUSPECT_S
        self._suspects.move_to_end(network)
        if len(self._suspects) > SUSPECTS_MAX:
            self._suspects.popitem(last=False)
        self.ended += 1
        if now_s >= self._logs_at_s:
            self._logs_at_s = now_s + LOG_S
            _log.warning("connection ended that costs much and calls nothing", address=address, so_far=self.ended)
        connection.hold()
        self._silent[connection] = now_s
        if len(self._silent) > SILENT_MAX:
            self._silent.popitem(last=False)[0].abort()

    def left(self, connection: NativeConnection) -> None:
        """A connection is gone."""
        self._silent.pop(connection, None)
        if connection in self._held:
            self._held.remove(connection)

    def tick(self, now_s: float) -> None:
        """Cut off who was silent for long enough; let some on."""
        while self._silent:
            connection, since_s = next(iter(self._silent.items()))
            if now_s - since_s < SILENT_S:
                break
            del self._silent[connection]
            connection.abort()
        while self._suspects:
            network, until_s = next(iter(self._suspects.items()))
            if until_s > now_s:
                break
            del self._suspects[network]
        passed_s, self._at_s = now_s - self._at_s, now_s
        self._to_let_on = min(LET_ON_A_SECOND, self._to_let_on + passed_s * LET_ON_A_SECOND)
        while self._held and (self._to_let_on >= 1 or not self._suspects):
            self._to_let_on -= 1
            self._held.pop(random.randrange(len(self._held))).let_on()  # noqa: S311 - no secret
        self._to_let_on = max(0.0, self._to_let_on)
