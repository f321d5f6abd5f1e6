"""Calendar days of daily quotas: which day it is in a time zone, and when that day ends.

It reads no clock and keeps no ledger. Days are those of the zone's own calendar, so one lasts 23, 24 or 25 hours.
"""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DEFAULT_TIME_ZONE: Final = "America/Los_Angeles"
# About 600 zone names exist; the cache holds them all.
ZONES_MAX: Final = 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def is_time_zone(name: str) -> bool:
    """Whether this is an IANA zone that the time-zone data knows."""
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # ValueError: a path that leaves the data's folder; OSError: a folder of zones.
        return False
    return True


def day_of(time_zone: str, now_us: int) -> tuple[int, int]:
    """Ordinal of the day (`date.toordinal`) at `now_us` in the zone, and when the next day begins, both wall clock.

    Times are microseconds since the Unix epoch. Where midnight does not exist the day begins at the first instant that
    does. Raises ZoneInfoNotFoundError for an unknown zone.
    """
    zone = _zone(time_zone)
    today = (_EPOCH + now_us * _MICROSECOND).astimezone(zone).date()
    return today.toordinal(), _start_us(zone, today + timedelta(days=1))


def day_start_us(time_zone: str, now_us: int) -> int:
    """When the day at `now_us` began in the zone. As `day_of` otherwise."""
    zone = _zone(time_zone)
    return _start_us(zone, (_EPOCH + now_us * _MICROSECOND).astimezone(zone).date())


def _start_us(zone: ZoneInfo, day: date) -> int:
    # fold=0 takes the offset in force before a gap, which puts a skipped midnight at the first instant after the gap,
    # and of a repeated midnight the first.
    midnight = datetime.combine(day, time(), tzinfo=zone)
    return (midnight.astimezone(UTC) - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=ZONES_MAX)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
