"""F17: the way between a node and the store ends, in one direction or both, or loses packets; no promise breaks."""

import asyncio
from pathlib import Path

import pytest

from tests.cluster.cluster_harness import LEASE_S, ClusterRun, Node, cluster_run
from tests.corridor.crash_harness import WAIT_S, Options, Summary
from tests.servers.apart import Apart

pytestmark = pytest.mark.timeout(300)
DATABASE = "partitioned"


def options_of(seed: int, server: Apart) -> Options:
    url = server.create_database(DATABASE)
    return Options(seed=seed, messages=100_000, batch=20, rough=False, database_url=url)


def give_ways(run: ClusterRun, server: Apart) -> None:
    run.store_urls = [server.way(node.index, DATABASE) for node in run.nodes]


def no_promise_broke(summary: Summary) -> None:
    assert summary.violations == (), "\n".join(summary.lines())


async def cut_off_owner(run: ClusterRun, server: Apart, *, there: bool) -> Node:
    """Cut the owner off until another one owns, and past its own lease; its end is awaited."""
    node = run.owner
    assert node is not None
    assert node.process is not None
    node.frozen = True  # nobody counts on it
    server.cut(node.index, there=there)
    async with asyncio.TaskGroup() as both:
        both.create_task(asyncio.sleep(2 * LEASE_S))
        both.create_task(run.until_owner(but=node))
    server.heal()
    async with asyncio.timeout(WAIT_S):
        code = await node.process.wait()
    assert code == 70, f"a node that lost its leases ended with {code}"
    node.frozen = False
    return node


@pytest.mark.parametrize("there", [True, False], ids=["both directions", "from the store"])
async def test_an_owner_cut_off_from_the_store_is_followed(tmp_path: Path, ways: Apart, *, there: bool) -> None:
    """I7, I8: it sends nothing past its lease; what the store did not confirm was not answered with OK."""
    async with cluster_run(tmp_path, options_of(41, ways), INSECURE="true") as run:
        give_ways(run, ways)
        await run.start()
        await run.work_until(200)
        async with asyncio.TaskGroup() as both:
            both.create_task(run.work_until(500))
            fallen = await cut_off_owner(run, ways, there=there)
        await run.start_node(fallen)
        summary = await run.finish(stop_feeding=True)
    no_promise_broke(summary)
    assert summary.accepted >= 500


async def test_a_node_cut_off_accepts_nothing_and_comes_back(tmp_path: Path, ways: Apart) -> None:
    """It sends nothing: it says UNAVAILABLE, its callers go elsewhere, and nothing is doubled when it is back."""
    async with cluster_run(tmp_path, options_of(42, ways), INSECURE="true") as run:
        give_ways(run, ways)
        other = run.nodes[-1]
        other.roles = "ingest,receipts,admin"
        await run.start()
        await run.work_until(100)
        ways.cut(other.index)
        await run.work_until(300)
        async with asyncio.timeout(2 * LEASE_S):
            while await run.is_ready(other):  # noqa: ASYNC110 - another process says so
                await asyncio.sleep(0.1)
        ways.heal()
        await run.work_until(500)
        summary = await run.finish(stop_feeding=True)
    no_promise_broke(summary)
    assert summary.unknown == 0


async def test_ways_that_lose_packets_cost_time_alone(tmp_path: Path, ways: Apart) -> None:
    async with cluster_run(tmp_path, options_of(43, ways), INSECURE="true") as run:
        give_ways(run, ways)
        await run.start()
        await run.work_until(100)
        for node in run.nodes:
            ways.cut(node.index, share=5)
        await run.work_until(400)
        ways.heal()
        summary = await run.finish(stop_feeding=True)
    no_promise_broke(summary)
    assert summary.accepted >= 400
