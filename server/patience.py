"""Answers whoever is refused again and again late, so that its own waiting slows what it sends next.

It decides nothing about a call. A refusal costs nearly what a good call costs, and nothing before the refusal can be
saved; what can be is the next one. It is for refusals that a working client never sees in numbers.

Invariant: memory is bounded, whoever calls.
"""

import random
from collections import OrderedDict
from typing import Final

# Spread, or what was held back together would come back together.
LATE_S_MIN: Final = 0.5
LATE_S_MAX: Final = 1.5
# Callers refused lately, about 200 bytes each; the longest unheard of is forgotten first.
CALLERS_MAX: Final = 10_000
# Answers held back at once: beyond it holding them would cost more than it saves.
HELD_MAX: Final = 4096


class Patience:
    """One bucket of refusals for each caller; used by the loop's thread only."""

    def __init__(self) -> None:
        """Everyone starts with a second's worth."""
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller: (left, at)
        self.held = 0
        """Answers being held back; whoever holds one counts it."""

    def wait_s(self, caller: str, a_second: float, now_s: float) -> float:
        """Count a refusal of a caller, who may have `a_second`; how long its answer is to wait, in seconds."""
        left, at_s = self._buckets.get(caller, (a_second, now_s))
        left = min(a_second, left + max(0.0, now_s - at_s) * a_second)
        late = left < 1
        self._buckets[caller] = (left if late else left - 1, now_s)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > CALLERS_MAX:
            self._buckets.popitem(last=False)
        if not late or self.held >= HELD_MAX:
            return 0.0
        return random.uniform(LATE_S_MIN, LATE_S_MAX)  # noqa: S311 - no secret
