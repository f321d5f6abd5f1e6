"""Calendar days of daily quotas, on days of 23, 24 and 25 hours and where midnight does not exist."""

from datetime import UTC, date, datetime

import pytest

from engine.registry.days import day_of, day_start_us, is_time_zone

HOUR_US = 3_600_000_000


def us(year: int, month: int, day: int, hour: int) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("zone", "noon_us", "day", "hours"),
    [
        ("America/Los_Angeles", us(2026, 1, 15, 20), date(2026, 1, 15), 24),
        ("America/Los_Angeles", us(2026, 3, 8, 20), date(2026, 3, 8), 23),
        ("America/Los_Angeles", us(2026, 11, 1, 20), date(2026, 11, 1), 25),
        ("America/New_York", us(2026, 3, 8, 16), date(2026, 3, 8), 23),
        ("UTC", us(2026, 3, 8, 12), date(2026, 3, 8), 24),
        # Clocks went from 23:59:59 to 01:00:00: this day has no midnight.
        ("America/Sao_Paulo", us(2018, 11, 4, 14), date(2018, 11, 4), 23),
        # Midnight came twice that night, at the end of this day.
        ("America/Havana", us(2026, 11, 1, 16), date(2026, 11, 1), 25),
    ],
)
def test_a_day_is_as_long_as_its_zone_says(zone: str, noon_us: int, day: date, hours: int) -> None:
    ordinal, ends_us = day_of(zone, noon_us)
    assert ordinal == day.toordinal()
    begins_us = ends_us - hours * HOUR_US
    assert day_of(zone, begins_us) == (ordinal, ends_us)
    assert [day_start_us(zone, at_us) for at_us in (begins_us, noon_us, ends_us - 1)] == [begins_us] * 3
    assert day_of(zone, begins_us - 1) == (ordinal - 1, begins_us)
    assert day_of(zone, ends_us - 1) == (ordinal, ends_us)
    assert day_of(zone, ends_us)[0] == ordinal + 1


def test_midnight_pacific_is_the_reset() -> None:
    assert day_of("America/Los_Angeles", us(2026, 7, 1, 12))[1] == us(2026, 7, 2, 7)


def test_days_follow_one_another_for_ten_years_without_gap_or_overlap() -> None:
    at_us = us(2020, 1, 1, 8)
    ordinal = day_of("America/Los_Angeles", at_us)[0]
    for _ in range(3660):
        found, next_us = day_of("America/Los_Angeles", at_us)
        assert found == ordinal
        assert next_us - at_us in {23 * HOUR_US, 24 * HOUR_US, 25 * HOUR_US}
        ordinal, at_us = ordinal + 1, next_us


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "America", "a\0b", "x" * 5000, "Ü"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    assert not is_time_zone(name)


def test_a_zone_is_known_without_the_machines_files() -> None:
    assert is_time_zone("America/Los_Angeles")
