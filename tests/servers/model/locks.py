"""Locks of rows as InnoDB keeps them under READ COMMITTED: shared or alone, first come first served, until the end.

It knows no row: what is locked is any hashable. Invariants: whoever would close a circle of waiters is refused at once;
a wait ends when its time is over; a transaction that was ended holds nothing and waits for nothing.
"""

import asyncio
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field


class DeadlockError(Exception):
    """This wait would never end."""


class LockWaitError(Exception):
    """Nobody let go in time."""


class EndedError(Exception):
    """Whoever waited is gone."""


class Holder:
    """A transaction, as far as locks go."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.locks: dict[Hashable, bool] = {}
        """What it holds → whether alone."""
        self.waits_for: Hashable = None
        self.ended = False
        """It is gone, whatever it still does."""


@dataclass(slots=True)
class _Place:
    holders: dict[Holder, bool] = field(default_factory=dict)
    waiters: deque[tuple[Holder, bool, "asyncio.Future[None]"]] = field(default_factory=deque)

    def grants(self, holder: Holder, *, alone: bool) -> bool:
        others = [held for other, held in self.holders.items() if other is not holder]
        return not others if alone else not any(others)


class Locks:
    """Of one server."""

    def __init__(self) -> None:
        """Nobody holds anything."""
        self._places: dict[Hashable, _Place] = {}

    async def take(self, holder: Holder, wanted: Iterable[Hashable], *, alone: bool, wait_s: float) -> bool:
        """Hold these from now on, one by one in this order; whether it had to wait.

        Raises DeadlockError and LockWaitError.
        """
        waited = False
        for what in wanted:
            if holder.ended:
                raise EndedError
            if holder.locks.get(what, None) in {True, alone}:
                continue
            place = self._places.setdefault(what, _Place())
            # Whoever holds it shared already goes before those that wait: they wait for it.
            if place.grants(holder, alone=alone) and (not place.waiters or what in holder.locks):
                self._grant(place, holder, what, alone=alone)
            else:
                waited = True
                await self._wait(place, holder, what, alone=alone, wait_s=wait_s)
        return waited

    @staticmethod
    def _grant(place: _Place, holder: Holder, what: Hashable, *, alone: bool) -> None:
        place.holders[holder] = holder.locks[what] = alone or place.holders.get(holder, False)

    async def _wait(self, place: _Place, holder: Holder, what: Hashable, *, alone: bool, wait_s: float) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (holder, alone, granted)
        place.waiters.append(waiter)
        holder.waits_for = what
        try:
            if self._circles(holder):
                raise DeadlockError
            async with asyncio.timeout(wait_s):
                await granted
        except TimeoutError:
            raise LockWaitError from None
        finally:
            holder.waits_for = None
            if waiter in place.waiters:
                place.waiters.remove(waiter)
                self._go_on(what, place)

    def _circles(self, holder: Holder) -> bool:
        seen: set[Holder] = set()
        ahead = [holder]
        while ahead:
            one = ahead.pop()
            place = self._places.get(one.waits_for)
            if one.waits_for is None or place is None:
                continue
            before = [other for other, _, _ in place.waiters]
            blocking = set(place.holders) | set(before[: before.index(one)] if one in before else ())
            for other in blocking - {one}:
                if other is holder:
                    return True
                if other not in seen:
                    seen.add(other)
                    ahead.append(other)
        return False

    def end(self, holder: Holder) -> None:
        """It is gone: it waits for nothing any more, and gets nothing."""
        holder.ended = True
        place = self._places.get(holder.waits_for)
        if holder.waits_for is not None and place is not None:
            for waiter in [each for each in place.waiters if each[0] is holder]:
                place.waiters.remove(waiter)
                if not waiter[2].done():
                    waiter[2].set_exception(EndedError())
            self._go_on(holder.waits_for, place)
        self.release(holder)

    def release(self, holder: Holder) -> None:
        """It let go of all."""
        held, holder.locks = holder.locks, {}
        for what in held:
            place = self._places[what]
            place.holders.pop(holder, None)
            self._go_on(what, place)

    def _go_on(self, what: Hashable, place: _Place) -> None:
        while place.waiters:
            holder, alone, granted = place.waiters[0]
            if granted.done():
                place.waiters.popleft()
                continue
            if not place.grants(holder, alone=alone):
                return
            place.waiters.popleft()
            self._grant(place, holder, what, alone=alone)
            granted.set_result(None)
        if not place.holders:
            self._places.pop(what, None)
