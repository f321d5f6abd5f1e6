"""kill -9 at random moments under load, a freeze, and an orderly stop: no promise breaks."""

from pathlib import Path

import pytest

from tests.corridor.crash_harness import Options, crash_run
from tests.corridor.crash_run import options_for, run_with_kills


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
