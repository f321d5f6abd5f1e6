"""Retention: rows past their time are removed, as fast as they come in and without holding the writer for long.

It removes no opt-out, and no message that may still move.

Rows carry wall time, and the wall clock may be set wrong or right: a row a second old would look days old after a
step forward. So its age is the younger by two clues: the wall clock, and the time that the engine has run
(`_Elapsed`), which nobody sets. By how far the first ran ahead of the second within the last retention, so much longer
everything is kept.

Invariants: nothing is removed before it was kept for its retention by both; one transaction removes only what takes
some `HOLD_US`; every kind has its turn, however much there is of another, but messages go behind their request ids: one
that outlived its message could neither be answered nor used again, nor be found to be removed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from engine.stores.store import Kept

if TYPE_CHECKING:
    from engine.corridor import Corridor

US: Final = 1_000_000
# A group commit is some 5 ms: one round costs whoever waits for the writer no more than two.
HOLD_US: Final = 10_000
ROWS_MIN: Final = 100
ROWS_FIRST: Final = 1000
ROWS_MAX: Final = 20_000
# The writer is left to others at least as long as a round took.
PAUSE_MIN_S: Final = 0.001
# A message that left long after it was accepted (35 days of schedule, 14 of validity) stays as long behind its last
# attempt: for whoever asks how it ended, for late receipts, and for a day cap that counts what its day has spent.
ENDED_US: Final = 7 * 86_400 * US
# Less is a clock being slewed, or a restart.
STEP_US: Final = 60 * US

_log = structlog.get_logger("longwave.sweep")


@dataclass(slots=True)
class _Elapsed:
    """How long the engine has run over this store, and how far the wall clock was ahead of that, at the lowest.

    Two spans, each as long as the retention: the lowest of both covers all that may still be kept.
    """

    ran_us: int
    low_us: int
    low_before_us: int
    span_from_us: int

    def look(self, ran_us: int, ahead_us: int, span_us: int) -> None:
        """Take note of the clocks."""
        if ran_us - self.span_from_us >= span_us:
            gone = ran_us - self.span_from_us >= 2 * span_us
            self.low_before_us = ahead_us if gone else self.low_us
            self.low_us, self.span_from_us = ahead_us, ran_us
        self.ran_us, self.low_us = ran_us, min(self.low_us, ahead_us)

    def stepped_us(self, ahead_us: int) -> int:
        """How far the wall clock went forward without time passing."""
        step_us = ahead_us - min(self.low_us, self.low_before_us)
        return step_us if step_us > STEP_US else 0


RAN: Final = "retention_ran_us"


def _facts_of(kinds: str) -> tuple[str, str, str]:
    return (f"{kinds}_low_us", f"{kinds}_low_before_us", f"{kinds}_span_from_us")


class Retention:
    """Of one corridor."""

    def __init__(self, corridor: Corridor) -> None:
        """Do nothing yet."""
        self._corridor = corridor
        settings = corridor.settings
        day_us, hour_us = 86_400 * US, 3600 * US
        events_us = int(settings.event_retention_days * day_us)
        webhooks_us = int(settings.webhook_event_retention_days * day_us)
        early_us = int(settings.early_receipt_retention_h * hour_us)
        request_ids_us = int(settings.request_id_retention_h * hour_us)
        self._kept_us = {
            Kept.EVENTS: events_us,
            Kept.WEBHOOK_EVENTS: webhooks_us,
            Kept.UNKNOWN_WEBHOOKS: webhooks_us,
            Kept.EARLY_RECEIPTS: early_us,
            Kept.REQUEST_IDS: request_ids_us,
        }
        # Messages are kept for months, and a day without power need not keep everything else as much longer.
        messages_us = int(settings.message_retention_days * day_us)
        self._spans_us = {"retention": max(self._kept_us.values()), "message_retention": messages_us}
        self._kept_us[Kept.MESSAGES] = messages_us
        self._elapsed: dict[str, _Elapsed] = {}
        self._started_us = 0  # boot clock less the time that the engine has run
        self._rows = dict.fromkeys(Kept, ROWS_FIRST)

    async def begin(self) -> None:
        """Go on where whoever did this before left off; call before anything is stored."""
        self._elapsed = {}
        await self.look_at_clock()

    async def look_at_clock(self) -> tuple[int, int]:
        """The wall time by which rows are old, and by which messages are. Call from time to time."""
        corridor = self._corridor
        mono_us, now_us = corridor.clock.mono_us(), corridor.clock.now_us()
        if not self._elapsed:
            [ran_us] = await corridor.store.facts((RAN,))
            ran_us = ran_us or 0
            for kinds in self._spans_us:
                known = await corridor.store.facts(_facts_of(kinds))
                first = (now_us - ran_us, now_us - ran_us, ran_us)
                self._elapsed[kinds] = _Elapsed(
                    ran_us, *(new if old is None else old for old, new in zip(known, first, strict=True))
                )
            self._started_us = mono_us - ran_us
        ran_us = mono_us - self._started_us
        ahead_us = now_us - ran_us
        facts, old_us = [(RAN, ran_us)], []
        for kinds, span_us in self._spans_us.items():
            elapsed = self._elapsed[kinds]
            elapsed.look(ran_us, ahead_us, span_us)
            values = (elapsed.low_us, elapsed.low_before_us, elapsed.span_from_us)
            facts += zip(_facts_of(kinds), values, strict=True)
            stepped_us = elapsed.stepped_us(ahead_us)
            if stepped_us:
                _log.info("retention waits: the wall clock went forward", kinds=kinds, seconds=stepped_us // US)
            old_us.append(now_us - stepped_us)
        await corridor.store.set_facts(facts)
        return old_us[0], old_us[1]

    async def prune(self) -> None:
        """Remove rows past their retention, round by round, until no kind has more."""
        rows_us, messages_us = await self.look_at_clock()
        now_us = dict.fromkeys(self._kept_us, rows_us) | {Kept.MESSAGES: messages_us}
        going = list(self._kept_us)
        while going:
            waiting = [Kept.MESSAGES] if Kept.REQUEST_IDS in going else []
            going = [kind for kind in going if kind in waiting or await self._round(kind, now_us[kind])]

    async def _round(self, kind: Kept, now_us: int) -> bool:
        """One transaction; True when there may be more."""
        rows, before_us = self._rows[kind], now_us - self._kept_us[kind]
        more, took_us = await self._corridor.store.prune(kind, before_us, rows, due_before_us=now_us - ENDED_US)
        if more:
            fitting = rows * HOLD_US // max(1, took_us)
            self._rows[kind] = max(ROWS_MIN, min(ROWS_MAX, fitting, rows * 2))
            await asyncio.sleep(max(PAUSE_MIN_S, took_us / US))
        return more
