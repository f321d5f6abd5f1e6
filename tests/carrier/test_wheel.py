"""Calls come once, not early, and one that fails leaves the others alone."""

import asyncio

from loadtest.carrier.wheel import TICK_S, Wheel


async def test_calls_come_in_order_and_not_early() -> None:
    loop, wheel = asyncio.get_running_loop(), Wheel()
    began_s = loop.time()
    late: list[tuple[float, float]] = []
    ended = asyncio.Event()
    for delay_s in (0.03, 0.001, 0.01, 0.01, 0.02):
        wheel.call_later(delay_s, lambda delay_s: late.append((delay_s, loop.time() - began_s)), delay_s)
    wheel.call_later(0.04, ended.set)
    async with asyncio.timeout(20):
        await ended.wait()
    assert [delay_s for delay_s, _ in late] == [0.001, 0.01, 0.01, 0.02, 0.03]
    # The loop may call a timer early by the resolution of its clock.
    assert all(came_s > delay_s - TICK_S / 10 for delay_s, came_s in late)


async def test_no_delay_is_now() -> None:
    came: list[int] = []
    Wheel().call_later(0, came.append, 1)
    assert came == [1]


async def test_a_failing_call_is_reported_and_alone() -> None:
    loop, wheel = asyncio.get_running_loop(), Wheel()
    reports: list[object] = []
    loop.set_exception_handler(lambda _loop, context: reports.append(context["exception"]))
    ended = asyncio.Event()
    error = ValueError("made up")

    def fail() -> None:
        raise error

    wheel.call_later(0.005, fail)
    wheel.call_later(0.005, ended.set)
    async with asyncio.timeout(20):
        await ended.wait()
    assert reports == [error]
