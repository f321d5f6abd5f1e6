"""kill -9 at random moments under load, a freeze, and an orderly stop: no promise breaks."""

import asyncio
from pathlib import Path

import pytest

from tests.corridor.crash_harness import Options, crash_run
from tests.corridor.crash_run import options_for, run_with_kills
from tests.servers.mariadb import MariaDB, quick_folder

# More than a run ever hands in.
ENDLESS = 1_000_000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("honours_keys", [False, True])
async def test_no_promise_breaks_at_a_random_moment(tmp_path: Path, *, honours_keys: bool) -> None:
    options = options_for(400, seed=21 + honours_keys, honours_keys=honours_keys)
    summary = await run_with_kills(tmp_path, options, kills=4)
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.kills == 4
    assert summary.unknown > 0
    assert not honours_keys or summary.duplicates == 0


@pytest.mark.timeout(300)
async def test_no_promise_breaks_over_a_server_killed_at_random_moments(
    tmp_path: Path, server_kind: type[MariaDB]
) -> None:
    """The engine alone, the server alone, both at once."""
    with quick_folder() as folder:
        server = server_kind(folder / "server")
        try:
            await asyncio.to_thread(server.start)
            options = Options(seed=51, messages=ENDLESS, batch=20, database_url=server.create_database("killed"))
            async with crash_run(tmp_path, options) as run:
                assert await run.start()
                await run.kill_while_working(60)
                assert await run.start()
                await run.kill_server_while_working(server, 120, engine_too=False)
                await run.kill_server_while_working(server, 220, engine_too=True)
                summary = await run.finish(stop_feeding=True)
        finally:
            server.remove()
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.kills == 2
    assert summary.accepted >= 220


@pytest.mark.timeout(300)
async def test_an_orderly_stop_leaves_nothing_open_and_a_freeze_breaks_nothing(tmp_path: Path) -> None:
    async with crash_run(tmp_path, Options(seed=31, messages=300, rough=False)) as run:
        assert await run.start()
        await run.work(until_accepted=80)
        assert await run.drain_while_working() == 0
        assert await run.start()
        await run.work(until_accepted=160)
        await run.freeze_while_working(3)
        await run.work(until_accepted=240)
        summary = await run.finish()
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.kills == 0
