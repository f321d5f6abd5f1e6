"""Calls functions later, many at a time: one timer of the loop for each millisecond that has something due.

It does not cancel and keeps no order within a millisecond but that of asking.

Invariants: a call comes early by the loop's own rounding at most, and late by `TICK_S` at most beside the loop's delay.
A send request asks for three moments; a timer of the loop for each would cost more than drawing its fate.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

# uvloop's timers count whole milliseconds too, so this loses no precision.
TICK_S: Final = 0.001

_Call = tuple[Callable[..., None], tuple[Any, ...]]


class Wheel:
    """What is due, by tick."""

    def __init__(self) -> None:
        """Start empty, in the running loop."""
        self._loop: Final = asyncio.get_running_loop()
        self._due: Final[dict[int, list[_Call]]] = {}

    def call_later(self, delay_s: float, act: Callable[..., None], *arguments: object) -> None:
        """Call `act(*arguments)` in `delay_s` seconds; a delay of 0 or less means now, before this returns."""
        if delay_s <= 0:
            act(*arguments)
            return
        tick = math.ceil((self._loop.time() + delay_s) / TICK_S)
        calls = self._due.get(tick)
        if calls is None:
            calls = self._due[tick] = []
            self._loop.call_at(tick * TICK_S, self._turn, tick)
        calls.append((act, arguments))

    def _turn(self, tick: int) -> None:
        for act, arguments in self._due.pop(tick):
            try:
                act(*arguments)
            except Exception as error:  # noqa: BLE001 - one defect must not take the other calls with it
                self._loop.call_exception_handler({"message": "a call of the wheel failed", "exception": error})
