"""Entry: whose turn it is when not all can leave, and who is told to come back."""

import random
from collections.abc import Sequence
from typing import Any, cast

import pytest

from engine.entry import FLOOR_MAX, INTERVAL_S, LEVELS, Lines, Pressure, Several, Waiting

TARGET_S = 0.1


def call(tenant: int, number: int, messages: int = 1, size: int = 100) -> Waiting:
    return Waiting(2, tenant, bytes([number]) * size, 0, cast("object", None), messages, float(number))  # type: ignore[arg-type]


def numbers(taken: Sequence[Waiting | Several], tenant: int) -> list[int]:
    return [waiting.request[0] for waiting in singles(taken) if waiting.tenant == tenant]


def singles(taken: Sequence[Waiting | Several]) -> list[Waiting]:
    return [each for each in taken if isinstance(each, Waiting)]


def several(tenant: int, tags: list[int], deadlines_us: list[int] | None = None) -> Several:
    requests = [bytes([tag]) * 10 for tag in tags]
    return Several(tenant, tags, requests, deadlines_us or [100] * len(tags), cast("Any", None), came_s=1.0)


def test_calls_that_came_together_count_as_many_and_leave_together() -> None:
    lines = Lines(1_000)
    lines.put(several(1, [7, 8, 9]))
    lines.put(call(1, 1, size=10))
    assert (lines.calls, lines.messages, lines.since_s(), lines.has_room(1, 920)) == (4, 4, 1.0, True)
    assert not lines.has_room(1, 921)
    [first] = lines.take(2, 100)
    assert (first.calls, lines.calls, lines.messages) == (3, 1, 1)
    assert len(lines.take(2, 100)) == 1
    assert (lines.calls, lines.has_room(1, 1_000)) == (0, True)


def test_of_calls_that_came_together_the_gone_and_the_late_are_left_out() -> None:
    waiting = several(1, [7, 8, 9], [100, 50, 100])
    assert waiting.take(49) == ([7, 8, 9], waiting.requests, [])
    assert waiting.take(50) == ([7, 9], [waiting.requests[0], waiting.requests[2]], [8])
    waiting.give_up(9)
    assert waiting.take(50)[::2] == ([7], [8])
    waiting.keep([2])
    assert (waiting.tags, waiting.calls, waiting.request_bytes) == ([9], 1, 10)


def test_all_leave_together_when_they_fit() -> None:
    lines = Lines(10_000)
    for tenant, number in ((1, 1), (2, 2), (1, 3)):
        lines.put(call(tenant, number, messages=5))
    assert (lines.calls, lines.messages, lines.since_s()) == (3, 15, 1.0)
    taken = lines.take(10, 100)
    assert (numbers(taken, 1), numbers(taken, 2)) == ([1, 3], [2])
    assert (lines.calls, lines.messages, lines.has_room(1, 10_000)) == (0, 0, True)


def test_a_flood_of_one_tenant_takes_no_more_than_its_share() -> None:
    lines = Lines(1_000_000)
    for number in range(100):
        lines.put(call(1, number, messages=1000))
    for number in range(10):
        lines.put(call(2, number, messages=100))
    first = lines.take(1000, 4000)
    # A thousand messages each in turn: tenant 2's all, though it came last.
    assert numbers(first, 2) == list(range(10))
    assert numbers(first, 1) == [0, 1, 2]
    assert (lines.calls, lines.messages) == (97, 97_000)
    assert lines.since_s() == 3.0
    left: list[int] = []
    while lines.calls:
        left += numbers(lines.take(1000, 4000), 1)
    assert left == list(range(3, 100))


def test_shares_are_of_messages_not_of_calls() -> None:
    lines = Lines(1_000_000)
    for number in range(100):
        lines.put(call(1, number, messages=900))
        lines.put(call(2, number, messages=30))
    taken: list[Waiting] = []
    for _ in range(10):
        taken += singles(lines.take(1000, 2000))
    large, small = (sum(one.messages for one in taken if one.tenant == tenant) for tenant in (1, 2))
    assert small == 3000, "all it has"
    assert large - small >= 2000, "and what it left is not wasted"
    # While both waited, neither was ahead of the other by more than a round and a call.
    both = taken[: max(index for index, one in enumerate(taken) if one.tenant == 2)]
    assert abs(sum(one.messages * (1 if one.tenant == 1 else -1) for one in both)) <= 2000


def test_a_tenant_leaves_as_much_free_as_it_takes() -> None:
    lines = Lines(1000)
    for number in range(5):
        assert lines.has_room(1, 100)
        lines.put(call(1, number))
    assert not lines.has_room(1, 100)
    # Another finds room, and then there is less for either.
    assert lines.has_room(2, 100)
    for number in range(2):
        lines.put(call(2, number))
    assert lines.has_room(2, 100)
    assert not lines.has_room(2, 200)
    assert not lines.has_room(3, 400)
    lines.take(1, 1)
    assert lines.has_room(3, 400)


def under(pressure: Pressure, waited_s: float, seconds: float, from_s: float) -> float:
    """A group every 20 ms whose oldest call stood in line so long; returns when it ends."""
    for turn in range(round(seconds / 0.02)):
        pressure.waited(waited_s, from_s + turn * 0.02)
    return from_s + seconds


def test_a_short_line_sheds_nothing() -> None:
    pressure = Pressure(TARGET_S)
    under(pressure, TARGET_S, 5, 1000)
    assert pressure.floor == 0


def test_one_slow_commit_is_no_pressure() -> None:
    pressure = Pressure(TARGET_S)
    now_s = under(pressure, 0.01, 1, 1000)
    pressure.waited(2.0, now_s)
    now_s = under(pressure, 0.01, 1, now_s + 0.02)
    assert pressure.floor == 0


def test_a_standing_line_sheds_little_by_little_and_the_longer_the_faster() -> None:
    gentle, steep = Pressure(TARGET_S), Pressure(TARGET_S)
    under(gentle, 1.5 * TARGET_S, 1, 1000)
    under(steep, 10 * TARGET_S, 1, 1000)
    assert 8 <= gentle.floor <= 10
    assert 2 * LEVELS <= steep.floor <= FLOOR_MAX


def test_the_floor_falls_when_the_line_is_short_again() -> None:
    pressure = Pressure(TARGET_S)
    now_s = under(pressure, 10 * TARGET_S, 5, 1000)
    assert pressure.floor == FLOOR_MAX
    now_s = under(pressure, 0.001, 1.5, now_s)
    assert pressure.floor == 0
    now_s = under(pressure, 2 * TARGET_S, 1, now_s)
    assert pressure.floor > 0
    pressure.look(now_s + FLOOR_MAX * INTERVAL_S)
    assert pressure.floor == 0, "nobody came: that is no pressure"


def test_everything_shed_is_let_in_again_by_time_alone() -> None:
    """Where nothing is let in, nothing leaves the line: that must not keep the floor where it is."""
    pressure = Pressure(TARGET_S)
    now_s = under(pressure, 10 * TARGET_S, 5, 1000)
    for turn in range(20):
        pressure.look(now_s + turn * INTERVAL_S)
    assert pressure.floor == 0


def stored_of(times: float, seconds: float) -> tuple[dict[int, float], float]:
    """Of so many times the capacity, after a third of the time: the stored part of each class, and of the capacity."""
    pressure, lines, draw = Pressure(TARGET_S), Lines(1 << 30), random.Random(5)  # noqa: S311 - it must repeat
    a_second, batch = 100_000, 500
    offered: dict[int, int] = {0: 0, 1: 0, 2: 0}
    stored: dict[int, int] = {0: 0, 1: 0, 2: 0}
    busy_until_s = 0.0
    for turn in range(round(seconds * 1000)):
        now_s = 1000 + turn / 1000
        if now_s >= busy_until_s and lines.calls:
            pressure.waited(pressure.standing_s(now_s - lines.since_s(), lines.messages), now_s)
            group = lines.take(5000, 5000)
            messages = sum(waiting.messages for waiting in group)
            busy_until_s = now_s + messages / a_second
            pressure.stored(messages, now_s, busy_until_s)
            for waiting in singles(group):
                stored[waiting.kind] += waiting.messages * (turn > seconds * 1000 / 3)
        pressure.look(now_s)
        for urgency, share in enumerate((0.70, 0.25, 0.05)):
            if draw.random() < times * a_second / 1000 * share / batch:
                offered[urgency] += batch * (turn > seconds * 1000 / 3)
                if not pressure.floor or urgency * LEVELS + draw.randrange(LEVELS) >= pressure.floor:
                    lines.put(Waiting(urgency, 1, b"", 0, cast("Any", None), batch, now_s))
    used = sum(stored.values()) / (a_second * seconds * 2 / 3)
    return {urgency: stored[urgency] / offered[urgency] for urgency in offered}, used


@pytest.mark.parametrize(("times", "whole"), [(1.4, (1, 2)), (2, (1, 2)), (5, (2,)), (8, ())])
def test_less_urgent_classes_alone_are_shed_and_the_capacity_is_used(times: float, whole: tuple[int, ...]) -> None:
    """A floor that swings sheds the urgent at its heights, and leaves the store idle after them."""
    stored, used = stored_of(times, 15)
    for urgency in whole:
        assert stored[urgency] > 0.99
    assert stored[2] > 0.95
    assert used > 0.97


def test_a_burst_after_single_messages_is_no_pressure() -> None:
    """Each cost what a group does."""
    pressure = Pressure(TARGET_S)
    for number in range(100):
        pressure.stored(1, number * 0.1, number * 0.1 + 0.005)
    assert pressure.expected_s(64) > 2 * TARGET_S
    assert pressure.standing_s(0.006, 64) == 0.006


def test_no_target_sheds_nothing() -> None:
    pressure = Pressure(0)
    under(pressure, 60, 5, 1000)
    assert pressure.floor == 0


def test_the_expected_wait_follows_the_speed_of_late() -> None:
    pressure = Pressure(TARGET_S)
    assert pressure.expected_s(1_000_000) == 0, "nothing is known yet"
    for group in range(100):
        pressure.stored(100, group * 0.01, group * 0.01 + 0.01)
    assert pressure.expected_s(10_000) == pytest.approx(1, rel=0.01)
    # Two groups overlap: the time from the end of the one before counts.
    for group in range(100, 300):
        pressure.stored(100, group * 0.02 - 0.02, group * 0.02 + 0.02)
    assert pressure.expected_s(10_000) == pytest.approx(2, rel=0.05)
