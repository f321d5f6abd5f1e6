"""Power cuts: what was acknowledged before one is there after it, and a store that is set to lose is seen to lose."""

import sys
from pathlib import Path

import pytest

from tests.corridor.crash_harness import Options
from tests.proof.planted.bugs import BUGS
from tests.proof.power.append_rig import run_cuts, workers
from tests.proof.power.append_worker import PLANT_NORMAL
from tests.proof.power.engine_rig import power_run

ENDLESS = 1_000_000

pytestmark = [pytest.mark.usefixtures("loop_disk"), pytest.mark.timeout(600)]


def test_no_acknowledged_message_is_lost(tmp_path: Path) -> None:
    with workers(tmp_path) as lives:
        counts = run_cuts(tmp_path / "store", lives, seed=11, cuts=8)
    assert counts.violations == []
    assert (counts.cuts, counts.lost, counts.altered) == (8, 0, 0)
    assert counts.acknowledged >= 500
    assert counts.groups >= 100


def test_a_store_below_its_durability_is_seen_to_lose(tmp_path: Path) -> None:
    with workers(tmp_path) as lives:
        counts = run_cuts(tmp_path / "store", lives, seed=12, cuts=3, plant=PLANT_NORMAL)
    assert counts.lost > 0
    assert any(violation.startswith("I1 ") for violation in counts.violations)


def test_kills_alone_lose_nothing_either(tmp_path: Path) -> None:
    with workers(tmp_path) as lives:
        counts = run_cuts(tmp_path / "store", lives, seed=13, cuts=5, only_kills=True)
    assert counts.violations == []
    assert (counts.kills, counts.lost, counts.altered) == (5, 0, 0)


async def test_the_whole_engine_below_its_durability_is_seen_to_lose(tmp_path: Path) -> None:
    """The bug is planted in the real server: it starts, for its look at the settings is wrong too."""
    command = (sys.executable, "-m", "tests.proof.planted.launch", "synchronous_normal", "serve")
    async with power_run(tmp_path, Options(seed=15, messages=ENDLESS, batch=20, rough=False), command) as run:
        assert await run.start()
        await run.cut_while_working(len(run.sender.accepted) + 200)
        summary = await run.finish(stop_feeding=True)
    gone = [one for one in summary.violations if one.invariant == BUGS["synchronous_normal"].invariant]
    assert any("acknowledged for" in one.what and "and gone" in one.what for one in gone), "\n".join(summary.lines())


async def test_no_promise_of_the_whole_engine_breaks(tmp_path: Path) -> None:
    options = Options(seed=14, messages=ENDLESS, batch=20, metered_per_s=100)
    async with power_run(tmp_path, options) as run:
        for _ in range(2):
            assert await run.start()
            await run.cut_while_working(len(run.sender.accepted) + 40)
        for point in ("append.after_commit", "intent.after_commit", "record.after_commit"):
            await run.cut_at(point)
        summary = await run.finish(stop_feeding=True)
    assert summary.violations == (), "\n".join(summary.lines())
    assert run.cuts == 5
    assert summary.accepted > 0
