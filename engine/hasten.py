"""After shards came: look-ups are brought forward, for receipts may have been lost while nobody listened.

It asks no provider (the sweep does, when a timer runs out). It runs beside the work, in pieces: a million taken
messages would hold up a start for seconds.

Invariants: no timer moves to a later time; one look-up falls due in `LOOKUP_SPREAD_US`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from engine.corridor import Corridor
    from engine.stores.store import Shards

# 50 look-ups a second are little beside a provider's API limit, and 90,000 messages in half an hour.
LOOKUP_SPREAD_US: Final = 20_000
PIECE_ROWS: Final = 1_000
SUBMITTED: Final = 3
SENT: Final = 4
LAST: Final = 2**63 - 1
US: Final = 1_000_000

_log = structlog.get_logger("longwave.hasten")


async def hasten_lookups(corridor: Corridor, shards: Shards) -> None:
    """Bring forward what is due later than its turn, the latest first: once a timer is not, none before it is."""
    at_us = corridor.clock.now_us() + int(corridor.settings.lookup_after_restart_s * US)
    hastened = 0
    try:
        for state in (SUBMITTED, SENT):
            before = (LAST, LAST)
            while True:
                found = await corridor.store.latest_due(state, before, PIECE_ROWS, shards)
                turns = [(at_us + place * LOOKUP_SPREAD_US, row) for place, row in enumerate(found, 1)]
                late = [(turn_us, identity) for turn_us, (due_us, identity) in turns if due_us > turn_us]
                if late:
                    await corridor.store.hasten_lookups(late)
                hastened += len(late)
                at_us += len(late) * LOOKUP_SPREAD_US
                if len(late) < PIECE_ROWS:
                    break
                before = found[-1]
    except Exception:  # noqa: BLE001 - logged; their own timers look them up, later
        _log.exception("look-ups were not brought forward")
    _log.info("look-ups brought forward", messages=hastened)
