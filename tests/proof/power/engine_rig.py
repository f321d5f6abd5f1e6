"""The run with crashes (`tests/corridor/crash_harness.py`) with its store on a disk whose power can be cut.

Engine, carrier, sender and checker are whole and real. Only the store with its secrets, lock and reserve is on the
disk; logs of client, carrier and engine are the witnesses and lie elsewhere.

A cut freezes the engine first, as a machine without power is: nothing leaves it after the cut began. What the sender
had on its way by then is not counted.
"""

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.corridor import crash_evidence
from tests.corridor.crash_checker import DISPATCHING, UNKNOWN, Promises, check, state_name
from tests.corridor.crash_client import now_us
from tests.corridor.crash_harness import SERVE, CrashRun, Options, Summary
from tests.proof.power.disk import LoopDisk

STORE: Final = "longwave.db"
CUT_AFTER_S: Final = 0.3


class PowerRun(CrashRun):
    """A crash run whose machine can lose its power."""

    def __init__(self, folder: Path, options: Options, command: Sequence[str]) -> None:
        """Make the disk; start nothing. Raises CannotMount."""
        super().__init__(folder, options, command)
        self.disk = LoopDisk(folder)
        self.cuts = 0
        self._dark: list[tuple[int, int]] = []
        """From when to when (wall clock, µs) there was no power."""

    async def open(self) -> None:
        """Make the store on the disk, start the carrier."""
        # The harness and its reader know the store by this name.
        (self.folder / STORE).symlink_to(self.disk.root / STORE)
        await super().open()
        shutil.move(self.folder / f"{STORE}.secrets", self.disk.root)
        await asyncio.to_thread(os.sync)

    async def close(self) -> None:
        """End every process and the disk, whatever happened."""
        await super().close()
        await asyncio.to_thread(self.disk.close)

    def _environment(self, failpoint: str) -> dict[str, str]:
        on_disk = self.disk.root / STORE
        return super()._environment(failpoint) | {
            "LONGWAVE_STORE_URL": f"sqlite:///{on_disk}",
            "LONGWAVE_SECRET_FILE": f"{on_disk}.secrets",
        }

    async def cut(self) -> None:
        """No power, then power again; the engine is dead."""
        assert self._engine is not None
        if self._engine.returncode is None:
            self._engine.send_signal(signal.SIGSTOP)
        from_us = now_us()
        await asyncio.to_thread(self.disk.cut)
        if self._engine.returncode is None:
            await self.kill()
        await asyncio.to_thread(self.disk.restore)
        self.cuts += 1
        self._dark.append((from_us, now_us()))

    async def cut_while_working(self, at_accepted: int) -> None:
        """A cut at a moment drawn from the seed, some time after so many were accepted, while more come in."""
        await self.work(until_accepted=at_accepted)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.work())
            assert not await self._ends_within(self.draw.uniform(0, CUT_AFTER_S)), "the engine ended by itself"
            await self.cut()

    async def cut_at(self, point: str) -> None:
        """One life that ends at a failpoint, and the power with it."""
        if await self.start(f"{point}:kill@{self.draw.randint(1, 3)}"):
            await self.work()
        assert await self.until_dead() == -signal.SIGKILL, f"{point} was not what ended it"
        await self.cut()

    def _in_the_dark(self, line: dict[str, Any]) -> bool:
        return line["kind"] in {"acked", "opt_out_acked"} and any(
            from_us <= line["at_us"] < to_us for from_us, to_us in self._dark
        )

    def _summary(self) -> Summary:
        evidence = crash_evidence.read_evidence(
            client=self.folder / "client.jsonl",
            store=self.folder / STORE,
            carrier=self.folder / "carrier.jsonl",
            history=self.folder / "history.jsonl",
        )
        evidence.client = [line for line in evidence.client if not self._in_the_dark(line)]
        copies = Counter((request.message, request.generation) for request in evidence.requests if request.taken)
        return Summary(
            accepted=len({line["message"] for line in evidence.of_kind("acked")}),
            refused=len(self.sender.refused),
            requests=len(evidence.requests),
            lives=self.lives,
            kills=self._kills,
            unknown=sum(change.state == UNKNOWN and change.previous == DISPATCHING for change in evidence.changes),
            duplicates=sum(count - 1 for count in copies.values()),
            final=dict(Counter(state_name(row.state) for row in evidence.rows)),
            violations=tuple(check(evidence, Promises(honours_keys=self.options.honours_keys))),
        )


@asynccontextmanager
async def power_run(folder: Path, options: Options, command: Sequence[str] = SERVE) -> AsyncIterator[PowerRun]:
    """A run over a new store on a new disk in `folder`; nothing of it runs or is mounted afterwards."""
    run = PowerRun(folder, options, command)
    try:
        await run.open()
        yield run
    finally:
        await run.close()
