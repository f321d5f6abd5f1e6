"""Nodes tell each other over a Redis that is killed and frozen under load: it costs latency, and no promise breaks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.cluster_harness import cluster_run
from tests.corridor.crash_harness import Options
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.timeout(300)


async def test_redis_killed_and_frozen_under_load(tmp_path: Path, new_database: Callable[[], str]) -> None:
    """F16: I1 to I8 hold, and what is handed in meanwhile is accepted and sent."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    options = Options(seed=27, messages=100_000, batch=20, rough=False, database_url=new_database())
    try:
        async with cluster_run(tmp_path, options, nodes=2, REDIS_URL=server.url) as run:
            await run.start()
            await run.work_until(200)
            assert run.owner is not None
            _, metrics = await run._get(run.owner, "metrics")
            assert "\nlongwave_redis_up 1.0\n" in metrics
            server.kill()
            await run.work_until(400)
            server.start()
            await run.work_until(600)
            server.freeze()
            await run.work_until(800)
            server.thaw()
            summary = await run.finish(stop_feeding=True)
        assert summary.violations == (), "\n".join(summary.lines())
        assert summary.accepted >= 800
    finally:
        server.kill()
