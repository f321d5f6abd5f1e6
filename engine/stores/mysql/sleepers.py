"""Ends connections of processes that were frozen, or whose machine went away, in the middle of a transaction.

The server keeps such a transaction, and the locks of its rows, as long as the connection lives: for hours. Nobody but
the server could tell whose it is, so every connection of our user to our database goes that has asked nothing for a
while: one of a process that lives was idle in its pool for so long that it is looked at before it is lent.

Invariant: nothing that is committed is undone; a transaction that is ended so is run again by whoever lives.
"""

import contextlib
from typing import Final

import structlog
from asyncmy.errors import MySQLError

from engine.stores.mysql.pool import PING_AFTER_S, Pool

ASLEEP: Final = "Sleep"
# The server counts whole seconds.
IDLE_MIN_S: Final = PING_AFTER_S + 1

_log = structlog.get_logger("longwave.store")


async def end_sleepers(pool: Pool, idle_s: float) -> int:
    """End connections that have asked nothing for so long (at least `IDLE_MIN_S`); how many there were.

    Raises the driver's errors.
    """
    idle_s = max(idle_s, IDLE_MIN_S)
    address, own = pool.address, pool.idle_threads()
    async with pool.link() as link:
        found = [
            int(row[0])
            for row in await link.rows("SHOW PROCESSLIST")
            if (row[1], row[3], row[4]) == (address.user, address.database, ASLEEP) and int(row[5]) >= int(idle_s)
        ]
        sleepers = [thread for thread in found if thread not in own]
        for thread in sleepers:
            with contextlib.suppress(MySQLError):  # it ended by itself
                await link.rows(f"KILL CONNECTION {thread}")
    if sleepers:
        _log.warning("ended connections that slept", connections=len(sleepers), idle_s=int(idle_s))
    return len(sleepers)
