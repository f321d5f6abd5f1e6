"""The disk answers with errors, slowly, or has no room: nothing wrong is said, nothing acknowledged is lost."""

import errno
import signal
import time
from pathlib import Path

import grpc
import pytest

from longwave.v1 import verdict_pb2
from tests.proof.power.disk import LoopDisk
from tests.proof.power.fault_shim import SYNC, WRITE, Faults, compile_shim
from tests.proof.power.fault_sweep import sweep, sweep_full
from tests.proof.power.server_rig import ACCEPTED, WAIT_S, Server

pytestmark = pytest.mark.timeout(600)
UNKNOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
FULL = verdict_pb2.VERDICT_STORE_FULL


@pytest.mark.usefixtures("shim")
def test_each_fsync_that_fails_ends_the_process_and_loses_nothing(tmp_path: Path) -> None:
    found = sweep(tmp_path)
    assert found.violations == []
    assert found.lost == 0
    assert found.faults - found.at_start >= 5, "the run was over before its fsyncs"


@pytest.mark.usefixtures("shim")
def test_a_write_that_fails_ends_the_process_and_loses_nothing(tmp_path: Path) -> None:
    found = sweep(tmp_path, WRITE, errno.EIO, first=20, step=30)
    assert found.violations == []
    assert found.lost == 0
    assert found.faults >= 2


@pytest.mark.usefixtures("shim")
def test_a_write_without_room_is_refused_and_heals(tmp_path: Path) -> None:
    found = sweep_full(tmp_path, first=15, step=11, lives_max=3)
    assert found.violations == []
    assert found.lost == 0
    assert found.faults - found.at_start >= 1


@pytest.mark.usefixtures("shim")
def test_a_slow_fsync_delays_answers_and_falsifies_none(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        faults = Faults(tmp_path, compile_shim(tmp_path), server.store_folder)
        assert server.start(faults.environment)
        assert server.submit(server.caller.fresh(2)) == [ACCEPTED] * 2
        faults.slow(SYNC, 1.5)
        began_s = time.monotonic()
        assert server.submit(server.caller.fresh(2)) == [ACCEPTED] * 2
        assert time.monotonic() - began_s >= 1.5
        # A caller that gives up knows nothing; the id tells later.
        assert server.submit(server.caller.fresh(2), call_s=0.5) in UNKNOWN
        server.stop(signal.SIGKILL)
        assert server.missing() == []
        faults.reset()
        assert server.start(faults.environment)
        server.retry_unknown()
        server.stop()
        assert server.missing() == []
        assert len(server.caller.told) == 6
        faults.close()


@pytest.mark.usefixtures("loop_disk")
def test_a_full_disk_refuses_what_is_new_and_heals(tmp_path: Path) -> None:
    disk = LoopDisk(tmp_path, mib=48)
    try:
        with Server(tmp_path, store_folder=disk.root) as server:
            assert server.start()
            assert server.submit(server.caller.fresh(50)) == [ACCEPTED] * 50
            filler = disk.fill(leave_bytes=256 * 1024)
            verdicts: set[int] = set()
            until_s = time.monotonic() + WAIT_S
            while FULL not in verdicts:
                assert time.monotonic() < until_s, verdicts
                answer = server.submit(server.caller.fresh(200), text="x" * 1000)
                assert isinstance(answer, list), answer
                verdicts = set(answer)
                assert verdicts <= {ACCEPTED, FULL}
            assert server.runs
            server.stop()
            assert server.start(), "a full disk keeps it from starting"
            filler.unlink()
            while server.caller.unknown:
                assert time.monotonic() < until_s, "room again, and still refused"
                server.submit([server.caller.unknown.pop(0)])
            server.stop()
            assert server.missing() == []
    finally:
        disk.close()


@pytest.mark.usefixtures("loop_disk")
def test_a_disk_turned_read_only_ends_the_process_and_loses_nothing(tmp_path: Path) -> None:
    disk = LoopDisk(tmp_path, mib=48)
    try:
        with Server(tmp_path, store_folder=disk.root) as server:
            assert server.start()
            assert server.submit(server.caller.fresh(50)) == [ACCEPTED] * 50
            disk.turn_read_only()
            assert server.submit(server.caller.fresh(5)) in UNKNOWN
            assert server.until_ended() == 70
            assert not server.start(), "ready over a store that it cannot write"
            disk.restore()
            assert server.start()
            server.retry_unknown()
            server.stop()
            assert server.missing() == []
            assert len(server.caller.told) == 55
    finally:
        disk.close()
