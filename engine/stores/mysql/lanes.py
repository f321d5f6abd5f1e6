"""The rows of `lanes`: each transaction of a lane numbers itself there, guarded by the number before it.

It runs no job. What the row tells: whether a COMMIT without answer took place, whether another process writes, and
whether the server lacks what it had confirmed (a promoted replica that lagged, a backup that was put back).
"""

import secrets
import time
from collections import deque
from enum import IntEnum
from typing import Final

from engine.stores.mysql import sql
from engine.stores.mysql.pool import Pool

# As far back as a replica may be behind.
HISTORY_S: Final = 60.0
HISTORY_STEP_S: Final = 0.1


class Lane(IntEnum):
    """Numbers of the table `lanes`."""

    ACCEPT = 1
    RECORD = 2
    CONTROL = 3


class OtherOwnerError(RuntimeError):
    """Another process wrote into this lane: what became of our transaction, nobody knows."""


class LostTransactionsError(RuntimeError):
    """The server lacks what it had confirmed: it is another one, or an older state of it."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            "the server lacks transactions that it had confirmed to this process: a replica that lagged was promoted, "
            "or an older copy was put in its place; what was accepted lately may be missing. Compare the GTIDs of both "
            "servers before the old one is thrown away"
        )


# What is met when the row of a lane is not as this process left it.
STRANGE: Final = (OtherOwnerError, LostTransactionsError)


class Marker:
    """Numbers the transactions of a lane in its row, and reads back whether the last of them took place."""

    def __init__(self, node: int, lane: Lane, pool: Pool) -> None:
        """Count from 1 for this node, under a name that no other process has."""
        self.node = node
        """Whose lane it is."""
        self._lane = int(lane)
        self._pool = pool
        self._run = secrets.randbits(63)
        self._run_before = 0
        self._number = 0
        self._committed = 0
        self._committed_s = 0.0
        # (when, the number committed then), one for each `HISTORY_STEP_S`, as far back as `HISTORY_S`.
        self._history: deque[tuple[float, int]] = deque()

    async def begin(self) -> None:
        """Put the name into the row: another one there is another process from now on. Raises what connecting does."""
        async with self._pool.link() as link:
            before = await link.rows(*self.select())
            self._run_before = before[0][0] if before else 0
            await link.run(sql.BEGIN_LANE, (self.node, self._lane, self._run))

    def next(self) -> tuple[str, tuple[int, ...]]:
        """The statement that numbers a transaction, and must change a row; one that was undone leaves a gap."""
        self._number += 1
        return sql.NUMBER_LANE, (self._number, self.node, self._lane, self._run, self._committed)

    def select(self) -> tuple[str, tuple[int, ...]]:
        """The statement for the row that `strange` wants, when `next` changed none."""
        return sql.SELECT_LANE, (self.node, self._lane)

    def strange(self, run: int, number: int) -> RuntimeError | None:
        """What it means that the row is so; None when it is as this process left it."""
        if run == self._run and number in {self._committed, self._number}:
            return None
        if run in {self._run, self._run_before}:
            return LostTransactionsError()
        return OtherOwnerError("another process has this node's number")

    def committed(self) -> None:
        """The transaction numbered last was."""
        now_s = time.monotonic()
        history = self._history
        if not history or now_s - history[-1][0] >= HISTORY_STEP_S:
            history.append((now_s, self._number))
            while len(history) > 1 and history[1][0] < now_s - HISTORY_S:
                history.popleft()
        self._committed, self._committed_s = self._number, now_s

    def committed_at(self, at_s: float) -> int:
        """The number of the last transaction that was committed by then, some `HISTORY_STEP_S` too low at most."""
        if self._committed_s <= at_s:
            return self._committed
        return next((number for when_s, number in reversed(self._history) if when_s <= at_s), 0)

    def is_reached(self, run: int, number: int, at_s: float) -> bool:
        """Whether a row that was read anywhere has all that this process had committed by then."""
        return run == self._run and number >= self.committed_at(at_s)

    async def read_back(self) -> bool:
        """Whether the transaction numbered last was committed.

        Raises one of `STRANGE`, what connecting raises, and the driver's errors.
        """
        async with self._pool.link() as link:
            run, number = (await link.rows(*self.select()))[0]
        if (strange := self.strange(run, number)) is not None:
            raise strange
        if number == self._number:
            self.committed()
        return bool(number == self._number)
