"""No memory, or a tenth of a processor: it may die or be slow; no promise breaks, and no lease is lost to slowness.

Each is tried with a control group where one can be made, and always from outside as well (`starve.py` says how).
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corridor.crash_harness import ENGINE, Options, crash_run
from tests.proof.power.starve import GROUP, OUTSIDE, MemoryBound, ProcessorBound
from tests.proof.power.starve_rig import CRAWL_S, LEASE, SHARE, TEXTS, at_a_crawl, held_back, lease_lines, out_of_memory

pytestmark = [pytest.mark.timeout(300), pytest.mark.alone]
ENDLESS = 1_000_000
GROWS = """
kept = []
print(flush=True)
while True:
    kept.append(bytearray(100_000))
"""
SPINS = "print(flush=True)\nwhile True: pass"
HEARTLESS = """
from engine.lease import Lease
from server.__main__ import main
Lease._beat = lambda _lease: None
main()
"""
MIB = 1024 * 1024
WAIT_S = 60.0


@pytest.fixture(params=[False, True], ids=["as it can", "from outside"])
def outside(request: pytest.FixtureRequest) -> bool:
    """By a control group where one can be made; and without one."""
    return bool(request.param)


async def test_being_killed_for_want_of_memory_breaks_no_promise(tmp_path: Path, *, outside: bool) -> None:
    async with crash_run(tmp_path, Options(seed=51, messages=ENDLESS, batch=50, texts=TEXTS, metered_per_s=500)) as run:
        for _ in range(2):
            assert await run.start()
            assert await out_of_memory(run, outside=outside) in ({OUTSIDE} if outside else {OUTSIDE, GROUP})
        summary = await run.finish(stop_feeding=True)
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.kills == 2


async def test_a_tenth_of_a_processor_breaks_no_promise_and_loses_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, outside: bool
) -> None:
    for name, value in LEASE.items():
        monkeypatch.setitem(ENGINE, name, value)
    async with crash_run(tmp_path, Options(seed=52, messages=ENDLESS, batch=10, rough=False, metered_per_s=100)) as run:
        assert await run.start()
        await run.work(until_accepted=60)
        _, had = await at_a_crawl(run, CRAWL_S, outside=outside)
        assert had < 2 * SHARE
        assert await held_back(run) == 0
        summary = await run.finish(stop_feeding=True)
        assert lease_lines(run) == []
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.kills == 0


async def test_a_heart_that_does_not_beat_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test before looks at does show a lease that ran out."""
    for name, value in LEASE.items():
        monkeypatch.setitem(ENGINE, name, value)
    options = Options(seed=53, messages=ENDLESS, batch=10, rough=False, metered_per_s=100)
    async with crash_run(tmp_path, options, (sys.executable, "-c", HEARTLESS, "serve")) as run:
        assert await run.start()
        until_s = time.monotonic() + WAIT_S
        while await held_back(run) == 0:
            assert time.monotonic() < until_s, "it went on without a lease"
            await run.work(until_accepted=len(run.sender.accepted) + run.options.batch)


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has begun."""
    program = subprocess.Popen([sys.executable, "-c", request.param], stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        program.stdout.readline()
        yield program
    finally:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("process", [GROWS], indirect=True, ids=["it grows"])
def test_what_outgrows_its_bound_is_killed(process: subprocess.Popen[bytes], *, outside: bool) -> None:
    with MemoryBound(process.pid, 8 * MIB, outside=outside) as bound:
        assert process.wait(WAIT_S) == -9
        assert bound.killed
    assert list(Path("/sys/fs/cgroup").rglob(f"longwave-{os.getpid()}-*")) == []


@pytest.mark.parametrize("process", [SPINS], indirect=True, ids=["it spins"])
def test_what_spins_gets_its_share(process: subprocess.Popen[bytes], *, outside: bool) -> None:
    with ProcessorBound(process.pid, SHARE, outside=outside) as bound:
        time.sleep(2)  # a share is one of some time
        assert 0 < bound.had() < 2 * SHARE
