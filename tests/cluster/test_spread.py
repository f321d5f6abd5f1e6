"""Shards are spread over the nodes that send, and go with them; limits wider than a shard stay exact all the while."""

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.cluster_harness import LEASE_S, ClusterRun, cluster_run
from tests.corridor.crash_client import now_us
from tests.corridor.crash_evidence import read_requests
from tests.corridor.crash_harness import Options, Summary
from tests.servers.mariadb import MariaDB

pytestmark = pytest.mark.timeout(300)
US: Final = 1_000_000
# Until more waits than may leave, and how long that is then looked at.
BEFORE_S: Final = 4
CALM_S: Final = 8
# How much a calm cluster uses is decided in virtual time (`tests/proof/simulation/calm_pods.py`): 0.95 and more. Here
# nodes, store, carrier and client share the processors.
UTILISED_MIN: Final = 0.88


def no_promise_broke(summary: Summary) -> None:
    assert summary.violations == (), "\n".join(summary.lines())


def metered(seed: int, database_url: str) -> Options:
    """Twice what its tenant may send, for as long as is looked at; the rest leaves while nodes come and go."""
    return Options(
        seed=seed,
        messages=100_000,
        batch=20,
        pace_s=0.1,
        rough=False,
        metered_per_s=12,
        tenant_window_s=10,
        database_url=database_url,
    )


def history(run: ClusterRun) -> Iterable[dict[str, Any]]:
    """What the nodes told, in the order of writing."""
    return map(json.loads, (run.folder / "history.jsonl").read_text(encoding="utf-8").splitlines())


def senders_of(run: ClusterRun) -> set[int]:
    """Epochs under which attempts began: each is one node's."""
    return {note["epoch"] for note in history(run) if note["kind"] == "intended"}


async def within(seconds: float, run: ClusterRun) -> None:
    """Until every node that runs has its share."""
    async with asyncio.timeout(seconds):
        await run.until_spread()


async def test_shards_go_with_their_nodes(tmp_path: Path, new_database: Callable[[], str]) -> None:
    """A node that joins, one that leaves in order, one that dies: spread anew in less than two leases (F1, F33)."""
    options = Options(seed=61, messages=100_000, batch=20, rough=False, database_url=new_database())
    async with cluster_run(tmp_path, options) as run:
        first, second, third = run.nodes
        await run.start_node(first)
        await run.until_owner()
        await run.sender.connect()
        await run.work_until(100)
        for node in (second, third):
            async with asyncio.TaskGroup() as both:
                both.create_task(run.work_until(len(run.sender.accepted) + 100))
                await run.start_node(node)
                both.create_task(within(2 * LEASE_S, run))
        for falls in (run.drain_node, run.end_node):
            async with asyncio.TaskGroup() as both:
                both.create_task(run.work_until(len(run.sender.accepted) + 100))
                await falls(second)
                both.create_task(within(2 * LEASE_S + 1, run))
            await run.start_node(second)
            await within(2 * LEASE_S, run)
        summary = await run.finish(stop_feeding=True)
        assert len(senders_of(run)) >= 3
    no_promise_broke(summary)
    # Nothing that goes in order leaves anything unknown; the one that was killed may.
    assert summary.unknown <= run.options.batch


@pytest.mark.alone
async def test_one_limit_for_all_nodes_is_held_and_used(
    tmp_path: Path, mariadb: MariaDB, new_database: Callable[[], str]
) -> None:
    """I12: a tenant's rate over campaigns of several nodes; calm, most of it is used; then nodes fall."""
    options = metered(62, new_database())
    async with cluster_run(tmp_path, options) as run:
        await run.start()
        await run.until_spread()
        working = asyncio.ensure_future(run.work())
        await asyncio.sleep(BEFORE_S)
        from_us = now_us()
        await asyncio.sleep(CALM_S)
        to_us = now_us()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        for falls in (run.end_node, run.drain_node):
            fallen = run.owner
            assert fallen is not None
            await falls(fallen)
            await run.until_owner(but=fallen)
            await run.start_node(fallen)
            await run.until_spread()
        await run.start_node(await run.freeze_owner(2 * LEASE_S))
        database = options.database_url.rpartition("/")[2]
        [(amount, burst)] = mariadb.run("SELECT amount, burst FROM quotas WHERE scope = 6", database=database)
        summary = await run.finish(stop_feeding=True)
        assert len(senders_of(run)) >= 3
    no_promise_broke(summary)
    requests = read_requests(tmp_path / "carrier.jsonl")
    used = sum(request.parts for request in requests if from_us <= request.at_us < to_us)
    allowed = (amount - burst) / options.tenant_window_s * (to_us - from_us) / US
    assert used >= UTILISED_MIN * allowed, f"{used / allowed:.3f} of the rate"


@pytest.mark.alone
async def test_one_node_becomes_eight_and_then_two(tmp_path: Path, new_database: Callable[[], str]) -> None:
    """F33, as an autoscaler does it: spread anew each time; a rate of all nodes and the order of keys hold."""
    options = metered(63, new_database())
    async with cluster_run(tmp_path, options, nodes=8) as run:
        first, second, *others = run.nodes
        await run.start_node(first)
        await run.until_owner()
        await run.sender.connect()
        working = asyncio.ensure_future(run.work())
        await asyncio.gather(*(run.start_node(node) for node in (second, *others)))
        await within(2 * LEASE_S, run)
        run.draw.shuffle(others)
        for place, node in enumerate(others):
            # Whoever is scaled down is told so; one in three dies of it.
            await (run.drain_node if place % 3 else run.end_node)(node)
            await within(2 * LEASE_S + 1, run)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert await run.until_owner() in (first, second)
        summary = await run.finish(stop_feeding=True)
        assert len(senders_of(run)) >= 8
    no_promise_broke(summary)
