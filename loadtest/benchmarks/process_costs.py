"""What a process has cost so far, by the kernel's count: processor time, memory, bytes written.

It samples nothing by itself; Linux only.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
# utime and stime are fields 14 and 15 of proc(5) stat; the name, field 2, may hold spaces and ends at the last bracket.
USER_FIELD: Final = 14 - 3
SYSTEM_FIELD: Final = 15 - 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB."""

    now_mib: float
    peak_mib: float


def cpu_s(pid: int) -> float:
    """Processor seconds, user and system, of all threads of a process. Raises OSError when it is gone."""
    return cpu_s_in(Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace"))


def cpu_s_in(stat: str) -> float:
    """The same, from the text of its `stat`."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[USER_FIELD]) + int(fields[SYSTEM_FIELD])) / TICKS_A_SECOND


def written_bytes(pid: int) -> int:
    """Bytes that a process has had written to disks. Raises OSError when it is gone."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def memory(pid: int) -> Memory:
    """Resident memory of a process. Raises OSError when it is gone."""
    return memory_in(Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace"))


def memory_in(status: str) -> Memory:
    """The same, from the text of its `status`; kB there are KiB."""
    kib = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if name in {"VmRSS", "VmHWM"}
    }
    return Memory(kib["VmRSS"] / 1024, kib["VmHWM"] / 1024)
