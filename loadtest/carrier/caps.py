"""Counts what passed each cap of the networks and says which cap a message would break.

It decides nothing else and has no clock: monotonic seconds (for minutes) and Unix seconds (for days) are arguments.

Invariants: a minute is every half-open window of 60 s, not the clock's minute; a day is a calendar day of the cap's
time zone; a message is charged to all caps or to none; excess is never charged. Memory: at most `amount` entries a
minute cap and key, at most `KEYS_MAX` keys a cap.
"""

from collections import deque
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from loadtest.carrier.config import Cap, Config

WINDOW_S: Final = 60.0
# Sending numbers or campaigns counted apart; the oldest key's count is forgotten beyond (100,000 x about 1 kB).
KEYS_MAX: Final = 100_000


class _Minute:
    """What one key passed in the last 60 s: (when, units), oldest first."""

    __slots__ = ("passed", "units")

    def __init__(self) -> None:
        self.passed: deque[tuple[float, int]] = deque()
        self.units = 0

    def used_units(self, now_s: float) -> int:
        while self.passed and self.passed[0][0] <= now_s - WINDOW_S:
            self.units -= self.passed.popleft()[1]
        return self.units


class CapCounters:
    """The counters of all caps of a configuration."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._minutes: dict[tuple[str, str], _Minute] = {}
        self._days: dict[tuple[str, str], tuple[int, int]] = {}

    def charge(
        self, config: Config, *, carrier: str, sender: str, parts: int, monotonic_s: float, unix_s: float
    ) -> Cap | None:
        """Charge a message to every cap that concerns it, or charge nothing and give the first cap it would break."""
        charges: list[tuple[Cap, tuple[str, str], int]] = []
        for cap in config.caps:
            if cap.carrier is not None and cap.carrier != carrier:
                continue
            key = (cap.name, _scope_key(cap, config, sender))
            units = parts if cap.unit == "parts" else 1
            if self._used_units(cap, key, monotonic_s, unix_s) + units > cap.amount:
                return cap
            charges.append((cap, key, units))
        for cap, key, units in charges:
            if cap.period == "minute":
                minute = self._minutes.setdefault(key, _Minute())
                minute.passed.append((monotonic_s, units))
                minute.units += units
            else:
                day = _day_number(cap, unix_s)
                self._days[key] = (day, self._used_units(cap, key, monotonic_s, unix_s) + units)
        while len(self._minutes) > KEYS_MAX:
            del self._minutes[next(iter(self._minutes))]
        while len(self._days) > KEYS_MAX:
            del self._days[next(iter(self._days))]
        return None

    def _used_units(self, cap: Cap, key: tuple[str, str], monotonic_s: float, unix_s: float) -> int:
        if cap.period == "minute":
            minute = self._minutes.get(key)
            return 0 if minute is None else minute.used_units(monotonic_s)
        day, units = self._days.get(key, (0, 0))
        return units if day == _day_number(cap, unix_s) else 0


def _scope_key(cap: Cap, config: Config, sender: str) -> str:
    if cap.scope == "global":
        return ""
    if cap.scope == "from":
        return sender
    # A number without campaign counts for itself.
    return config.campaigns.get(sender, sender)


def _day_number(cap: Cap, unix_s: float) -> int:
    return datetime.fromtimestamp(unix_s, ZoneInfo(cap.time_zone)).date().toordinal()
