"""Bugs planted in the real server and found by the crash harness: real processes, real kills, the whole checker."""

import signal
import sys
from pathlib import Path

import pytest

from tests.corridor.crash_harness import Options, crash_run
from tests.proof.planted.bugs import BUGS

# More than a run ever hands in: the kill ends it.
ENDLESS = 1_000_000
KILLED_AT = {
    "ack_before_commit": "append.before_commit:kill@4",
    "requeued_after_crash": "dispatch.bytes_left:kill@4",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KILLED_AT)
async def test_a_bug_of_the_server_is_found_after_a_kill(name: str, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.proof.planted.launch", name, "serve")
    options = Options(seed=41, messages=ENDLESS, rough=False, batch=20)
    async with crash_run(tmp_path, options, command) as run:
        assert await run.start(KILLED_AT[name])
        await run.work()
        assert await run.until_dead() == -signal.SIGKILL
        summary = await run.finish(stop_feeding=True)
    assert BUGS[name].invariant in {violation.invariant for violation in summary.violations}, summary.lines()
