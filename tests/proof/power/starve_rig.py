"""The run with crashes (`tests/corridor/crash_harness.py`) on a machine short of memory or of processor time."""

import re
import signal
import time
from typing import Final

from tests.corridor.crash_harness import CrashRun
from tests.proof.power.starve import MemoryBound, ProcessorBound

ROOM_BYTES: Final = 512 * 1024
# Long ones, so that the room is soon used up.
TEXTS: Final = ("memory " * 150,)
SHARE: Final = 0.1
CRAWL_S: Final = 8.0
# Production's proportions, a fifth of its times: heartbeat + send + margin are a renewal's delay away from the lease.
LEASE: Final = {
    "LEASE_S": "6", "HEARTBEAT_S": "1", "MARGIN_S": "1", "SEND_S": "3", "CONNECT_S": "2", "RECONCILE_WAIT_S": "3",
}  # fmt: skip
_RENEWAL: Final = re.compile("lease (?:lost|not renewed)")
_NOT_TAKEN: Final = re.compile(r'^longwave_attempts_total\{[^}]*outcome="not_taken"[^}]*\} (\S+)', re.MULTILINE)


async def out_of_memory(run: CrashRun, *, outside: bool = False) -> str:
    """From some moment on no room to grow, while more comes in, until that kills it; returns by what means."""
    await run.work(until_accepted=len(run.sender.accepted) + run.draw.randint(1, 80))
    with MemoryBound(run.engine_pid, ROOM_BYTES, outside=outside) as bound:
        await run.work()
        code = await run.until_dead()
        assert code == -signal.SIGKILL, f"out of memory ended the engine with {code}"
        assert bound.killed, "it was not the want of memory that killed it"
        return bound.how


async def at_a_crawl(run: CrashRun, seconds: float, *, outside: bool = False) -> tuple[str, float]:
    """A tenth of a processor for so long, while more is accepted; returns by what means, and the share that it had."""
    with ProcessorBound(run.engine_pid, SHARE, outside=outside) as bound:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            await run.work(until_accepted=len(run.sender.accepted) + run.options.batch)
        return bound.how, bound.had()


async def held_back(run: CrashRun) -> int:
    """Attempts of this life that never left: with a carrier that takes everything, for want of a lease alone."""
    return sum(int(float(found)) for found in _NOT_TAKEN.findall(await run.metrics()))


def lease_lines(run: CrashRun) -> list[str]:
    """What the engine said of renewals that failed."""
    log = (run.folder / "engine.log").read_text(errors="replace")
    return [line for line in log.splitlines() if _RENEWAL.search(line)]
