"""The circuit breaker and the retry budget, by hand: time is an argument."""

from engine.breaker import Breaker, RetryBudget

US = 1_000_000


def opened() -> tuple[Breaker, int]:
    """A breaker that opened at 1 s with six older attempts still out, and their generation."""
    breaker = Breaker(window_s=10, attempts_min=4, failure_percent=50, open_s=1)
    generation = breaker.started(10)
    breaker.ended(generation, 4, 4, US)
    assert breaker.is_open
    return breaker, generation


def test_an_attempt_from_before_it_opened_makes_no_room_for_a_second_probe() -> None:
    breaker, before = opened()
    assert breaker.room(10, 21 * US // 10) == 1
    breaker.started(1)
    breaker.ended(before, 1, 1, 22 * US // 10)
    assert breaker.room(10, 33 * US // 10) == 0


def test_an_attempt_from_before_it_opened_does_not_close_it() -> None:
    breaker, before = opened()
    breaker.ended(before, 1, 0, 11 * US // 10)
    assert breaker.is_open


def test_a_batch_from_before_it_opened_that_was_never_sent_makes_no_room_for_a_second_probe() -> None:
    breaker, before = opened()
    breaker.started(1)
    breaker.nothing_started(before)
    assert breaker.room(10, 33 * US // 10) == 0


def test_attempts_from_before_it_opened_do_not_open_it_again() -> None:
    breaker, before = opened()
    probe = breaker.started(1)
    breaker.ended(probe, 1, 0, 3 * US)
    assert not breaker.is_open
    breaker.ended(before, 6, 6, 4 * US)
    assert not breaker.is_open


def test_a_failed_probe_keeps_it_open_and_the_next_may_go_after_the_pause() -> None:
    breaker, _ = opened()
    breaker.ended(breaker.started(1), 1, 1, 3 * US)
    assert breaker.room(10, 3 * US + US // 2) == 0
    assert breaker.room(10, 4 * US) == 1


def offered(budget: RetryBudget, from_s: float, seconds: float, *, takes: bool) -> int:
    """How many attempts a provider gets that answers each within 100 ms, with slots for 256 and work without end."""
    total = 0
    for step in range(int(seconds * 10)):
        count = budget.room(256, int((from_s + step / 10) * US))
        budget.started(count)
        total += count
        if takes:
            budget.ended(count)
        else:
            budget.again(count)
    return total


def test_a_provider_that_refuses_everything_is_offered_ten_a_second() -> None:
    budget = RetryBudget(percent=10)
    assert offered(budget, 0, 600, takes=False) <= 256 + 600 * 10 + 10


def test_once_it_takes_again_it_gets_all_there_is_within_seconds_however_long_it_refused() -> None:
    """I20."""
    budget = RetryBudget(percent=10)
    offered(budget, 0, 3600, takes=False)
    offered(budget, 3600, 10, takes=True)
    assert offered(budget, 3610, 1, takes=True) >= 95 * 256 * 10 // 100


def test_a_provider_that_takes_everything_is_never_held_up() -> None:
    budget = RetryBudget(percent=10)
    assert offered(budget, 0, 10, takes=True) == 256 * 100


def test_a_provider_that_takes_so_many_is_offered_hardly_more() -> None:
    """Of a hundred a round it takes ten: what it refuses stays near a tenth of what it takes, beside ten a second."""
    budget, taken, refused = RetryBudget(percent=10), 0, 0
    for step in range(6000):
        count = budget.room(256, step * US // 10)
        budget.started(count)
        budget.ended(min(10, count))
        budget.again(count - min(10, count))
        taken, refused = taken + min(10, count), refused + max(0, count - 10)
    assert taken > 5000 * 10
    assert refused < taken // 10 + 600 * 10 + 500


def test_what_was_not_sent_after_all_costs_nothing() -> None:
    budget = RetryBudget(percent=10)
    budget.again(100)
    assert budget.room(256, 0) == 0
    assert budget.wait_us(0) == US // 10
    room = budget.room(256, US)
    assert room == 10
    budget.started(room)
    assert budget.room(256, US) == 0
    budget.not_started(room)
    assert budget.room(256, US) == 10
