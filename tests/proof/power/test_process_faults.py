"""The process is frozen, starved of memory or descriptors, its clock jumps: it may refuse or die, it loses nothing."""

import resource
import signal
import time
from pathlib import Path

import grpc
import pytest

from tests.corridor.carrier_process import Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.crash_harness import ENGINE, Options, crash_run
from tests.corridor.engine_fixture import Engine, SettableClock, submission
from tests.proof.power.server_rig import ACCEPTED, WAIT_S, Server

pytestmark = pytest.mark.timeout(600)
HOUR_MS = 3_600_000
MIB = 1024 * 1024
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_freeze_past_the_lease_breaks_no_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINE, "LEASE_S", "3")
    monkeypatch.setitem(ENGINE, "HEARTBEAT_S", "0.2")
    monkeypatch.setitem(ENGINE, "MARGIN_S", "0.5")
    async with crash_run(tmp_path, Options(seed=41, messages=120, rough=False)) as run:
        assert await run.start()
        await run.work(until_accepted=60)
        await run.freeze_while_working(4)
        summary = await run.finish()
    assert summary.violations == (), "\n".join(summary.lines())
    assert summary.kills == 0


def test_few_descriptors_refuse_callers_and_lose_nothing(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.start()
        assert server.submit(server.caller.fresh(5)) == [ACCEPTED] * 5
        assert server.process is not None
        pid = server.process.pid
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
        # The channel that is there goes on; the store needs no new descriptor.
        for _ in range(3):
            answer = server.submit(server.caller.fresh(5))
            assert answer == [ACCEPTED] * 5 or answer in AGAIN
        assert server.runs
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        server.retry_unknown()
        server.stop()
        assert server.missing() == []


def test_without_memory_it_may_die_and_loses_nothing(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.start()
        assert server.submit(server.caller.fresh(5)) == [ACCEPTED] * 5
        assert server.process is not None
        pid = server.process.pid
        [size] = [
            int(line.split()[1]) * 1024
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmSize")
        ]
        resource.prlimit(pid, resource.RLIMIT_AS, (size + 2 * MIB, resource.RLIM_INFINITY))
        for _ in range(20):
            server.submit(server.caller.fresh(400), text="x" * 1200, call_s=5)
            if not server.runs:
                break
        if server.runs:
            resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            server.stop(signal.SIGTERM)
        else:
            server.until_ended()
        assert server.missing() == []
        assert server.start()
        server.retry_unknown()
        server.stop()
        assert server.missing() == []
        assert len(server.caller.told) == server.caller.made


@pytest.mark.parametrize("offset_ms", [HOUR_MS, -HOUR_MS])
def test_a_clock_that_jumped_between_two_lives_changes_no_answer(tmp_path: Path, offset_ms: int) -> None:
    with Server(tmp_path) as server:
        assert server.start()
        assert server.submit(server.caller.fresh(5)) == [ACCEPTED] * 5
        told = dict(server.caller.told)
        server.stop()
        assert server.start(clock_offset_ms=offset_ms)
        assert server.submit(list(told)) == [ACCEPTED] * 5
        assert server.caller.told == told
        assert server.submit(server.caller.fresh(5)) == [ACCEPTED] * 5
        server.stop()
        assert server.missing() == []


class WallClock(SettableClock):
    """Only the wall clock jumps, as when somebody sets it: the boot clock is nobody's to set."""

    def __init__(self) -> None:
        """Begin right."""
        super().__init__()
        self.wrong_us = 0

    def now_us(self) -> int:
        """Wall time."""
        return super().now_us() + self.wrong_us


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_set_while_it_runs_sends_each_message_once(
    start_engine: StartEngine, carrier: Carrier, hours: int
) -> None:
    engine: Engine = await start_engine(carrier.base_url, lease_s=30)
    clock = WallClock()
    await engine.crash()
    engine.clock = clock
    await engine.start()
    first = await engine.submit(*(submission(index) for index in range(20)))
    clock.wrong_us = hours * HOUR_MS * 1000
    assert engine.corridor.lease.may_send(None), "the lease counts on the boot clock"
    second = await engine.submit(*(submission(index) for index in range(20, 40)))
    began_s = time.monotonic()
    for identity in (*first, *second):
        await engine.until_state(identity, "DELIVERED", "SUBMITTED", "SENT")
    assert time.monotonic() - began_s < WAIT_S
    assert len(await carrier.taken()) == 40
    assert len({event.message for event in await engine.events()}) == 40
