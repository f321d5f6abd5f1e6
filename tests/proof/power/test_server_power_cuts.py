"""The machine of the store's server loses its power: what was acknowledged is there when it is back.

The engine lives through it and goes on by itself, or dies at the same moment.
"""

import sys
from pathlib import Path

import pytest

from tests.corridor.crash_harness import Options, crash_run
from tests.proof.power.cut_server import cut_server

pytestmark = [pytest.mark.usefixtures("loop_disk"), pytest.mark.timeout(300)]

ENDLESS = 1_000_000
WITHOUT_BINARY_LOG = "--skip-log-bin"
# Committed is written to the kernel, and to the disk once a second.
LATE = ("--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0")


@pytest.mark.parametrize("options", [(), (WITHOUT_BINARY_LOG,)], ids=["with its binary log", "without"])
async def test_no_promise_breaks_when_the_server_loses_its_power(tmp_path: Path, options: tuple[str, ...]) -> None:
    with cut_server(tmp_path / "machine", *options) as server:
        wanted = Options(seed=81, messages=ENDLESS, batch=20, database_url=server.create_database("cut"))
        async with crash_run(tmp_path, wanted) as run:
            server.settle()
            assert await run.start()
            for number in range(4):
                at_accepted = len(run.sender.accepted) + run.draw.randint(20, 120)
                await run.kill_server_while_working(server, at_accepted, engine_too=number == 3)
            summary = await run.finish(stop_feeding=True)
        assert server.cuts == 4
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.accepted >= 200
    assert (summary.lives, summary.kills) == (2, 1), "the engine lived through all cuts but its own"


async def test_a_server_below_its_durability_is_seen_to_lose(tmp_path: Path) -> None:
    """The bug is planted in the real server, which would refuse to start; so the rig can tell."""
    command = (sys.executable, "-m", "tests.proof.power.weak_server", "serve")
    with cut_server(tmp_path / "machine") as server:
        wanted = Options(seed=82, messages=ENDLESS, batch=20, rough=False, database_url=server.create_database("cut"))
        async with crash_run(tmp_path, wanted, command) as run:
            server.settle()
            server.stop()
            server.start(*LATE)
            assert await run.start()
            await run.work(until_accepted=200)
            server.kill()
            await run.kill()
            server.start(*LATE)
            summary = await run.finish(stop_feeding=True)
    gone = [one for one in summary.violations if one.invariant == "I1" and "and gone" in one.what]
    assert gone, "\n".join(summary.lines())


async def test_such_a_server_is_refused(tmp_path: Path) -> None:
    with cut_server(tmp_path / "machine") as server:
        wanted = Options(seed=83, messages=1, database_url=server.create_database("cut"))
        async with crash_run(tmp_path, wanted) as run:
            server.stop()
            server.start(*LATE)
            assert not await run.start()
        assert "innodb_flush_log_at_trx_commit is 2, needs 1" in (tmp_path / "engine.log").read_text(encoding="utf-8")
