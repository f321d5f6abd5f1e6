"""One life of `longwave serve` for every n: the n-th fsync (or write) of a short run fails, until a run has no n-th.

What is demanded of each: the call whose group it hit is answered with an error that says *unknown*, no call after it
with OK, the process ends by itself, and the next life knows everything that was ever acknowledged.
"""

import errno
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.proof.power.fault_shim import SYNC, WRITE, Faults, compile_shim
from tests.proof.power.server_rig import ACCEPTED, WAIT_S, Server

CALLS: Final = 5
BATCH: Final = 3
# The promise is a second; this machine's processes may have to wait for a core.
EXIT_S: Final = 1.0
SLOW_MACHINE: Final = 4
AFTERWARDS: Final = 3


@dataclass
class Sweep:
    """What a sweep came to."""

    faults: int = 0
    at_start: int = 0
    """Faults that hit before it was ready."""
    acknowledged: int = 0
    lost: int = 0
    exit_s_max: float = 0.0
    codes: set[int] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)


def sweep(
    folder: Path, kind: int = SYNC, error: int = errno.EIO, *, first: int = 1, step: int = 1, times: int = 1
) -> Sweep:
    """Every `step`-th call from the `first` on."""
    found = Sweep()
    with Server(folder) as server:
        faults = Faults(folder, compile_shim(folder), server.store_folder)
        number = first
        while _one(server, faults, kind, number, error, times, found):
            number += step
        faults.close()
    found.acknowledged = len(server.caller.told)
    return found


def _one(server: Server, faults: Faults, kind: int, number: int, error: int, times: int, found: Sweep) -> bool:
    """One life; False when it came to its end without that call."""
    faults.reset()
    faults.arm(kind, number, error=error, times=times)
    where = f"call {number} fails with {errno.errorcode[error]}"
    if server.start(faults.environment):
        _calls(server, faults, where, found)
        if not faults.injected:
            server.stop()
            _judge(server, where, found)
            return False
    else:
        found.at_start += 1
        if not faults.injected:
            found.violations.append(f"{where}: did not start without a fault: {server.log()[-300:]}")
            return False
    code = server.until_ended()
    seconds = faults.since_s
    found.faults += 1
    found.codes.add(code)
    found.exit_s_max = max(found.exit_s_max, seconds)
    if code == 0:
        found.violations.append(f"{where}: ended as if all was well")
    if seconds > EXIT_S * SLOW_MACHINE:
        found.violations.append(f"{where}: took {seconds:.1f} s to end")
    _judge(server, where, found)
    return True


def _calls(server: Server, faults: Faults, where: str, found: Sweep) -> None:
    again, server.caller.unknown = list(dict.fromkeys(server.caller.unknown)), []
    batches = ([again] if again else []) + [server.caller.fresh(BATCH) for _ in range(CALLS)]
    for ids in batches:
        answer = server.submit(ids)
        accepted = answer == [ACCEPTED] * len(ids)
        if not faults.injected and not accepted:
            found.violations.append(f"{where}: {answer} before it")
        if faults.injected:
            for _ in range(AFTERWARDS):
                answer = server.submit(server.caller.fresh(1))
                if answer == [ACCEPTED]:
                    found.violations.append(f"{where}: OK after it")
            return


def _judge(server: Server, where: str, found: Sweep) -> None:
    missing = server.missing()
    found.lost += len(missing)
    if missing:
        found.violations.append(f"{where}: {len(missing)} acknowledged messages are gone")


def sweep_full(folder: Path, *, first: int = 1, step: int = 1, lives_max: int = 1000) -> Sweep:
    """The n-th write finds no space, once: new work is refused or unknown, the process stays, and soon takes work."""
    found = Sweep()
    with Server(folder) as server:
        faults = Faults(folder, compile_shim(folder), server.store_folder)
        for number in range(first, first + step * lives_max, step):
            where = f"write {number} finds the disk full"
            faults.reset()
            faults.arm(WRITE, number, error=errno.ENOSPC)
            if server.start(faults.environment):
                _heals(server, faults, where, found)
                server.stop()
            else:
                found.at_start += 1
                found.codes.add(server.stop())
            found.faults += min(1, faults.injected)
            _judge(server, where, found)
            if not faults.injected:
                break
        faults.close()
    found.acknowledged = len(server.caller.told)
    return found


def _heals(server: Server, faults: Faults, where: str, found: Sweep) -> None:
    for _ in range(CALLS):
        answer = server.submit(server.caller.fresh(BATCH))
        if not faults.injected and set(answer if isinstance(answer, list) else ()) != {ACCEPTED}:
            found.violations.append(f"{where}: {answer} before it")
    until_s = time.monotonic() + WAIT_S
    while server.caller.unknown:
        if not server.runs or time.monotonic() > until_s:
            found.violations.append(f"{where}: it does not heal, {'runs' if server.runs else 'ended'}")
            return
        again, server.caller.unknown = list(dict.fromkeys(server.caller.unknown)), []
        if server.submit(again) != [ACCEPTED] * len(again):
            time.sleep(0.1)
