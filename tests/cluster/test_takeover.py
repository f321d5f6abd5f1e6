"""Owners are killed, frozen and stopped under load: another node goes on, and no promise breaks."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.cluster_harness import LEASE_S, TAKE_OVER_S, cluster_run
from tests.corridor.crash_harness import Options, Summary

pytestmark = pytest.mark.timeout(300)


def no_promise_broke(summary: Summary) -> None:
    assert summary.violations == (), "\n".join(summary.lines())


async def test_owners_killed_under_load(tmp_path: Path, new_database: Callable[[], str]) -> None:
    """F1, F33: nothing lost, nothing phantom, copies only where an attempt was unknown and the policy says resend."""
    options = Options(seed=21, messages=100_000, batch=20, database_url=new_database())
    async with cluster_run(tmp_path, options) as run:
        await run.start()
        for _ in range(2):
            await run.work_until(len(run.sender.accepted) + 200)
            fallen = run.owner
            assert fallen is not None
            async with asyncio.TaskGroup() as both:
                both.create_task(run.work_until(len(run.sender.accepted) + 200))
                await run.end_node(fallen)
                both.create_task(run.until_owner(but=fallen))
            await run.start_node(fallen)
        summary = await run.finish(stop_feeding=True)
    no_promise_broke(summary)
    assert summary.accepted >= 800
    assert max(run.takeovers) < TAKE_OVER_S


async def test_an_owner_frozen_past_its_lease_writes_nothing_when_it_wakes(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """F9, F10: I7, I8."""
    options = Options(seed=22, messages=100_000, batch=20, rough=False, database_url=new_database())
    async with cluster_run(tmp_path, options) as run:
        await run.start()
        await run.work_until(200)
        async with asyncio.TaskGroup() as both:
            both.create_task(run.work_until(500))
            fallen = await run.freeze_owner(2 * LEASE_S)
        assert "another" in (tmp_path / f"node-{fallen.index}.log").read_text(encoding="utf-8")
        await run.start_node(fallen)
        summary = await run.finish(stop_feeding=True)
    no_promise_broke(summary)


async def test_an_owner_stopped_in_order_leaves_nothing_unknown(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """I24, and another takes over at its next look."""
    options = Options(seed=23, messages=100_000, batch=20, rough=False, database_url=new_database())
    async with cluster_run(tmp_path, options) as run:
        await run.start()
        for _ in range(2):
            await run.work_until(len(run.sender.accepted) + 200)
            stopping = run.owner
            assert stopping is not None
            async with asyncio.TaskGroup() as both:
                both.create_task(run.work_until(len(run.sender.accepted) + 100))
                await run.drain_node(stopping)
                both.create_task(run.until_owner(but=stopping))
            assert run.takeovers[-1] < LEASE_S
            await run.start_node(stopping)
        summary = await run.finish(stop_feeding=True)
    no_promise_broke(summary)
    assert summary.unknown == 0


async def test_a_watch_on_another_node_has_no_gap_over_a_takeover(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """I14: and what webhooks bring through nodes that are not the owner is told, too."""
    options = Options(seed=24, messages=100_000, batch=20, rough=False, database_url=new_database())
    seen: dict[str, list[int]] = {}
    async with cluster_run(tmp_path, options) as run:
        await run.start()
        fallen = run.owner
        assert fallen is not None
        [other, *_] = [node for node in run.nodes if node is not fallen]
        watching = asyncio.ensure_future(run.watch(other, seen))
        await run.work_until(200)
        async with asyncio.TaskGroup() as both:
            both.create_task(run.work_until(400))
            await run.end_node(fallen)
            both.create_task(run.until_owner(but=fallen))
        run.sender.stop_feeding()
        summary = await run.finish()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    no_promise_broke(summary)
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in seen.values())
    assert len(seen) == summary.accepted


async def test_a_limit_holds_over_takeovers(tmp_path: Path, new_database: Callable[[], str]) -> None:
    """I12, by the carrier's record (`tests/corridor/checker/limits.py`): most of this run waits for its limit."""
    options = Options(seed=25, messages=100_000, batch=20, rough=False, metered_per_s=5, database_url=new_database())
    async with cluster_run(tmp_path, options) as run:
        await run.start()
        await run.work_until(300)
        for falls in (run.end_node, run.drain_node):
            fallen = run.owner
            assert fallen is not None
            await falls(fallen)
            await run.until_owner(but=fallen)
            await run.work_until(len(run.sender.accepted) + 50)
            await run.start_node(fallen)
        summary = await run.finish(stop_feeding=True)
    no_promise_broke(summary)
