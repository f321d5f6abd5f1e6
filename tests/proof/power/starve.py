"""Starves a process of memory or of processor time: by a control group where one can be made, else from outside.

Without a group (no root, or /sys/fs/cgroup is read-only) the same happens by other means, so that no test depends on
the machine: a watcher kills as soon as the process has grown past its bound, as the kernel's killer does; and the
process is stopped and let go on, as the kernel does with a group that has spent its quota. `how` says which it was.

Invariants: only the given process is touched; `close` leaves no group and no thread behind, and the process unbound.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, Self

from loadtest.benchmarks.process_costs import cpu_s, memory

ROOT: Final = Path("/sys/fs/cgroup")
PERIOD_S: Final = 0.1
LOOK_S: Final = 0.001
WAIT_S: Final = 10.0
GROUP: Final = "control group"
OUTSIDE: Final = "from outside"
_NUMBERS: Final = count(1)


class Group:
    """A control group of one process; made by `make_group`."""

    def __init__(self, folder: Path, home: Path, *, version: int) -> None:
        """Of the folder that was made for it; its process goes back to `home`."""
        self.version = version
        self._folder = folder
        self._home = home

    def read(self, name: str) -> str:
        """A file of it."""
        return (self._folder / name).read_text()

    def write(self, name: str, value: str) -> None:
        """A file of it. Raises OSError."""
        (self._folder / name).write_text(value)

    def close(self, pid: int) -> None:
        """Let the process go, remove the group."""
        with suppress(OSError):  # it has ended
            (self._home / "cgroup.procs").write_text(str(pid))
        until_s = time.monotonic() + WAIT_S
        while True:
            try:
                self._folder.rmdir()
            except OSError:
                # What was killed is in it until the kernel is done with it.
                if time.monotonic() > until_s:
                    raise
                time.sleep(LOOK_S)
            else:
                return


def make_group(controller: str, pid: int) -> Group | None:
    """A group of this process under that controller (`memory`, `cpu`); None where none can be made."""
    name = f"longwave-{os.getpid()}-{next(_NUMBERS)}"
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, own in lines:
        if controllers and controller not in controllers.split(","):
            continue
        root = ROOT / controller if controllers else ROOT
        home = root / own.lstrip("/")
        if not home.is_dir():
            home = root
        folder = home / name
        try:
            folder.mkdir()
        except OSError:
            continue
        group = Group(folder, home, version=1 if controllers else 2)
        if _takes(group, controller, pid):
            return group
        folder.rmdir()
    return None


def _takes(group: Group, controller: str, pid: int) -> bool:
    try:
        if group.version == 2 and controller not in group.read("cgroup.controllers").split():
            return False
        group.write("cgroup.procs", str(pid))
    except OSError:
        return False
    return True


def resident_bytes(pid: int) -> int:
    """Memory in use; 0 when it has ended."""
    try:
        return int(memory(pid).now_mib * 1024 * 1024)
    except (OSError, KeyError):  # gone, or a process that its parent has not asked after yet
        return 0


class MemoryBound:
    """From now on the process may grow by so much; then it is killed."""

    def __init__(self, pid: int, room_bytes: int, *, outside: bool = False) -> None:
        """Bind it at once. `outside`: without a group, even where one can be made."""
        self._pid = pid
        self._group = None if outside else make_group("memory", pid)
        self._killed = False
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(resident_bytes(pid) + room_bytes,), daemon=True)
        if self._group is None:
            self._watcher.start()
        elif self._group.version == 1:
            self._group.write("memory.limit_in_bytes", str(int(self._group.read("memory.usage_in_bytes")) + room_bytes))
        else:
            self._group.write("memory.max", str(int(self._group.read("memory.current")) + room_bytes))

    @property
    def how(self) -> str:
        """By what means."""
        return OUTSIDE if self._group is None else GROUP

    @property
    def killed(self) -> bool:
        """Whether the bound was what killed it."""
        if self._group is None:
            return self._killed
        name = "memory.oom_control" if self._group.version == 1 else "memory.events"
        counts = dict(line.split() for line in self._group.read(name).splitlines())
        return int(counts["oom_kill"]) > 0

    def _watch(self, bound_bytes: int) -> None:
        while not self._ended.wait(LOOK_S):
            if resident_bytes(self._pid) > bound_bytes:
                self._killed = True
                os.kill(self._pid, signal.SIGKILL)
                return

    def close(self) -> None:
        """Unbind."""
        self._ended.set()
        if self._group is None:
            self._watcher.join()
        else:
            self._group.close(self._pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ProcessorBound:
    """From now on the process has this share of one processor."""

    def __init__(self, pid: int, share: float, *, outside: bool = False) -> None:
        """Bind it at once. `outside`: without a group, even where one can be made."""
        self._pid = pid
        self._share = share
        self._from_s, self._from_processor_s = time.monotonic(), cpu_s(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._stop_and_go, daemon=True)
        self._group = None if outside else make_group("cpu", pid)
        period_us, quota_us = int(PERIOD_S * 1e6), int(PERIOD_S * share * 1e6)
        if self._group is None:
            self._thread.start()
        elif self._group.version == 1:
            self._group.write("cpu.cfs_period_us", str(period_us))
            self._group.write("cpu.cfs_quota_us", str(quota_us))
        else:
            self._group.write("cpu.max", f"{quota_us} {period_us}")

    @property
    def how(self) -> str:
        """By what means."""
        return OUTSIDE if self._group is None else GROUP

    def had(self) -> float:
        """The share of one processor that it has had so far."""
        return (cpu_s(self._pid) - self._from_processor_s) / (time.monotonic() - self._from_s)

    def _stop_and_go(self) -> None:
        with suppress(ProcessLookupError):
            while not self._ended.is_set():
                os.kill(self._pid, signal.SIGSTOP)
                self._ended.wait(PERIOD_S * (1 - self._share))
                os.kill(self._pid, signal.SIGCONT)
                self._ended.wait(PERIOD_S * self._share)

    def close(self) -> None:
        """Unbind; the process runs."""
        self._ended.set()
        if self._group is None:
            self._thread.join()
        else:
            self._group.close(self._pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
