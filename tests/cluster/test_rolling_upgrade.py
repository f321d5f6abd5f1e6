"""Old and new nodes serve side by side over one store, in both directions, under load (F31, F32)."""

import asyncio
from pathlib import Path

import pytest

from tests.cluster.cluster_harness import ClusterRun, Node, cluster_run
from tests.corridor.crash_harness import SERVE, Options
from tests.servers.mariadb import PASSWORD, MariaDB
from tests.stores.binaries import EXPAND, Binary, newer

pytestmark = pytest.mark.timeout(300)
WORK = 60


async def migrate(run: ClusterRun, binary: Binary) -> None:
    """`longwave migrate` of the new one while the old ones work."""
    (run.folder / "backups").mkdir()
    settings = {
        "store_url": run.options.database_url, "store_password": PASSWORD,
        "secret_file": str(run.folder / "longwave.db.secrets"), "migrate_backup_folder": str(run.folder / "backups"),
    }  # fmt: skip
    done = asyncio.ensure_future(asyncio.to_thread(binary.run, settings, "migrate"))
    while not done.done():
        await run.work_until(len(run.sender.accepted) + run.options.batch)
    code, said = await done
    assert code == 0, said


async def roll(run: ClusterRun, node: Node, command: tuple[str, ...]) -> None:
    """Stop a node in order while the others work, and start it as the other version."""
    async with asyncio.TaskGroup() as both:
        both.create_task(run.work_until(len(run.sender.accepted) + WORK))
        await run.drain_node(node)
    node.command = command
    await run.start_node(node)
    await run.until_owner()
    await run.work_until(len(run.sender.accepted) + WORK)


async def test_no_promise_breaks_while_versions_serve_side_by_side(tmp_path: Path, mariadb: MariaDB) -> None:
    """I23: all old; expanded beneath them; new ones join one by one; one new one dies; all old again."""
    new = newer(tmp_path / "new")
    url = mariadb.create_database("rolling")
    options = Options(seed=31, messages=100_000, batch=20, rough=False, database_url=url)
    (tmp_path / "run").mkdir()
    async with cluster_run(tmp_path / "run", options) as run:
        await run.start()
        await run.work_until(WORK)
        await migrate(run, new)
        for node in run.nodes:
            await roll(run, node, new.serve())
        await run.end_node(run.nodes[0])
        run.nodes[0].command = SERVE
        await run.start_node(run.nodes[0])
        await run.until_owner()
        for node in run.nodes[1:]:
            await roll(run, node, SERVE)
        revision = mariadb.run("SELECT version_num FROM schema_version", database="rolling")
        summary = await run.finish(stop_feeding=True)
    assert summary.violations == (), "\n".join(summary.lines())
    assert revision == [(EXPAND,)]
    assert summary.accepted >= 12 * WORK
    mariadb.drop_database("rolling")
