"""Old and new binary on one database, under load: the schema expands beneath the old one, then they take turns."""

import asyncio
import signal
from pathlib import Path

from tests.corridor.crash_harness import SERVE, CrashRun, Options, crash_run
from tests.servers.mariadb import PASSWORD, MariaDB
from tests.stores.binaries import EXPAND, EXPANDING_STEPS, Binary, newer

WORK = 150
# More than a run gets through.
ENDLESS = 1_000_000


async def migrating(run: CrashRun, binary: Binary, failpoint: str = "") -> tuple[int, str]:
    """`longwave migrate` of a copy while the engine works; its exit code and what it said."""
    settings = {
        "store_url": run.options.database_url, "store_password": PASSWORD,
        "secret_file": str(run.folder / "longwave.db.secrets"), "migrate_backup_folder": str(run.folder / "backups"),
        "failpoint": failpoint,
    }  # fmt: skip
    accepted = len(run.sender.accepted)
    done = asyncio.ensure_future(asyncio.to_thread(binary.run, settings, "migrate"))
    while not done.done():
        await run.work(until_accepted=len(run.sender.accepted) + run.options.batch)
    assert len(run.sender.accepted) > accepted, "the engine stood still meanwhile"
    return await done


async def test_no_promise_breaks_while_the_schema_expands_and_binaries_take_turns(
    tmp_path: Path, mariadb: MariaDB
) -> None:
    """F31, F32 (I23): old; expanded beneath it, killed at a step and completed; new; old again on the new schema."""
    url = mariadb.create_database("turns")
    new = newer(tmp_path / "new")
    options = Options(seed=23, messages=ENDLESS, batch=10, database_url=url)
    (tmp_path / "run" / "backups").mkdir(parents=True)
    async with crash_run(tmp_path / "run", options) as run:
        assert await run.start()
        await run.work(until_accepted=WORK)
        code, said = await migrating(run, new, f"migrate.after_step:kill@{EXPANDING_STEPS // 2}")
        assert code == -signal.SIGKILL, said
        await run.work(until_accepted=len(run.sender.accepted) + WORK)
        code, said = await migrating(run, new)
        assert code == 0, said
        assert "compared by checksum" in said
        await run.work(until_accepted=len(run.sender.accepted) + WORK)
        for command in (new.serve(), SERVE, new.serve(), SERVE):
            if command == SERVE:
                await run.kill_while_working(len(run.sender.accepted) + WORK)
            else:
                assert await run.drain_while_working() == 0
            run._command = command
            assert await run.start()
            await run.work(until_accepted=len(run.sender.accepted) + WORK)
        revision = mariadb.run("SELECT version_num FROM schema_version", database="turns")
        summary = await run.finish(stop_feeding=True)
    print("\n".join(summary.lines()))  # noqa: T201 - shown when it fails
    assert revision == [(EXPAND,)]
    written = "SELECT COUNT(*) >= 3 FROM (SELECT owner FROM schema_binaries) AS b"
    assert mariadb.run(written, database="turns") == [(1,)]
    assert summary.violations == ()
    assert summary.accepted > 5 * WORK
    mariadb.drop_database("turns")
