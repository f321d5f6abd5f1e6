"""kill -9 at every failpoint, between every two stages, while messages flow: no promise breaks."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import failpoints
from tests.corridor.crash_harness import CrashRun, Options, Summary, crash_run

# Where bytes and outcomes meet: what an idempotency key is for.
AROUND_THE_BYTES = (
    "intent.after_commit",
    "dispatch.before_bytes",
    "dispatch.bytes_left",
    "dispatch.after_bytes",
    "record.before_commit",
    "record.after_commit",
    "receipts.after_commit",
    "recover.after_commit",
)
# So many make a run that says something.
ACCEPTED_MIN = 300
# More than a run ever hands in: it stops when every point was reached.
ENDLESS = 1_000_000


async def die_at(run: CrashRun, point: str) -> None:
    """One life that ends at a point, at one of its first passings."""
    if await run.start(f"{point}:kill@{run.draw.randint(1, 3)}"):
        await run.work()
    assert await run.until_dead() == -signal.SIGKILL, f"{point} was not what ended it"


async def die_at_each(folder: Path, points: tuple[str, ...], options: Options) -> Summary:
    """As many lives as points, in an order drawn from the seed; then heal and check."""
    async with crash_run(folder, options) as run:
        order = run.draw.sample(points, len(points))
        for point in order:
            await die_at(run, point)
        # A life may end at its first batch: whatever the points left of them, the checker is to have enough to look at.
        assert await run.start()
        await run.work(until_accepted=ACCEPTED_MIN)
        summary = await run.finish(stop_feeding=True)
    assert summary.kills == len(points)
    return summary


@pytest.mark.timeout(300)
async def test_no_promise_breaks_at_any_failpoint(tmp_path: Path, new_store_url: Callable[[], str]) -> None:
    options = Options(seed=7, messages=ENDLESS, batch=50, database_url=new_store_url())
    summary = await die_at_each(tmp_path, failpoints.POINTS, options)
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.accepted >= ACCEPTED_MIN
    assert summary.unknown > 0


@pytest.mark.timeout(300)
async def test_no_copy_leaves_where_keys_are_honoured(tmp_path: Path, new_store_url: Callable[[], str]) -> None:
    options = Options(seed=8, messages=ENDLESS, batch=20, honours_keys=True, database_url=new_store_url())
    summary = await die_at_each(tmp_path, AROUND_THE_BYTES, options)
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.unknown > 0
    assert summary.duplicates == 0
