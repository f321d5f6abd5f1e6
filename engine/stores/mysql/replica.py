"""A replica that answers look-ups while it is there and fresh enough; else nobody does, and the primary is asked.

How far behind it is, the rows of `lanes` say: the replica is fresh when it has every transaction that this process had
committed `lag_s` ago. No server's clock counts, and no word of the replica about itself.

Invariant: a replica that is away, slow or broken costs one look-up its `ASKED_S`, then it is not asked for `REST_S`.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from engine.stores.mysql import sql
from engine.stores.mysql.address import Address
from engine.stores.mysql.faults import code_of
from engine.stores.mysql.lanes import Marker
from engine.stores.mysql.pool import Limits, Link, Pool

T = TypeVar("T")

# For its connection and each of its statements: the primary can still answer within a caller's patience.
ASKED_S: Final = 2.0
REST_S: Final = 5.0

_log = structlog.get_logger("longwave.store")


class Replica:
    """One server, asked by one process."""

    def __init__(self, address: Address, limits: Limits, lag_s: float) -> None:
        """Open nothing yet; it may be behind by `lag_s`."""
        self._lag_s = lag_s
        # Opened when first asked: one that is away keeps no engine from starting.
        self.pool = Pool(
            address,
            replace(
                limits,
                size_min=0,
                connect_s=min(limits.connect_s, ASKED_S),
                statement_s=min(limits.statement_s, ASKED_S),
            ),
        )
        self._markers: Sequence[Marker] = ()
        self._rests_until_s = 0.0
        self._why = ""

    def follow(self, accept: Marker, record: Marker) -> None:
        """Compare it with what these have committed; before, it answers nothing."""
        self._markers = (accept, record)

    async def ask(self, read: Callable[[Link], Awaitable[T]]) -> T | None:
        """What `read` finds there; None when it did not or must not answer."""
        if not self._markers or time.monotonic() < self._rests_until_s:
            return None
        try:
            async with self.pool.link() as link:
                if not await self._is_fresh(link):
                    self._turn("behind")
                    return None
                found = await read(link)
        except Exception as error:  # noqa: BLE001 - the primary is asked, whatever is wrong here
            self._rests_until_s = time.monotonic() + REST_S
            self._turn(f"{type(error).__name__} {code_of(error)}")
            return None
        self._turn("")
        return found

    async def _is_fresh(self, link: Link) -> bool:
        wanted_s = time.monotonic() - self._lag_s
        rows = await link.rows(sql.SELECT_LANES, (self._markers[0].node,))
        pairs = zip(self._markers, rows, strict=False)
        return len(rows) == len(self._markers) and all(
            marker.is_reached(run, number, wanted_s) for marker, (run, number) in pairs
        )

    def _turn(self, why: str) -> None:
        if why != self._why:
            self._why = why
            if why:
                _log.warning("replica not asked: the primary answers look-ups", because=why)
            else:
                _log.info("replica answers look-ups")
