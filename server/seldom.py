"""What goes wrong again and again is told at most once in a while, with how often it was.

A store that is away for a minute would otherwise write a line for every webhook that comes meanwhile, and those that
matter would be lost among them.
"""

from typing import Final

EVERY_S: Final = 5.0


class Seldom:
    """One kind of trouble; used by the loop's thread only."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        """The first is told at once."""
        self._every_s = every_s
        self._again_s = float("-inf")
        self._untold = 0

    def told(self, now_s: float, count: int) -> int:
        """How many are to be told of now, those that were not told before included; 0: none yet."""
        self._untold += count
        if now_s < self._again_s:
            return 0
        self._again_s = now_s + self._every_s
        untold, self._untold = self._untold, 0
        return untold
