"""What this process may use: the limits of its container (cgroup version 2 or 1), else those of the machine.

It watches nothing: limits are read once, as containers are started anew to change them.
"""

import os
from pathlib import Path
from typing import Final

# Inside a container its own cgroup is the root of what it sees.
CGROUP: Final = Path("/sys/fs/cgroup")
UNLIMITED: Final = "max"
MEMORY: Final = ("memory.max", "memory/memory.limit_in_bytes")
# Version 1 calls "no limit" the largest number that is a whole page.
UNLIMITED_V1_BYTES: Final = 1 << 62


def memory_limit_bytes(cgroup: Path = CGROUP) -> int:
    """Bytes that this process is killed beyond."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in MEMORY:
        words = _words(cgroup / name)
        if words and words[0] != UNLIMITED and 0 < int(words[0]) < UNLIMITED_V1_BYTES:
            return min(int(words[0]), machine)
    return machine


def processor_limit_cores(cgroup: Path = CGROUP) -> float:
    """Processors' worth of time a second that this process gets at most."""
    usable = float(len(os.sched_getaffinity(0)))
    quota = _words(cgroup / "cpu.max")
    if not quota:
        quota = _words(cgroup / "cpu/cpu.cfs_quota_us") + _words(cgroup / "cpu/cpu.cfs_period_us")
    if len(quota) == len(("quota", "period")) and quota[0] != UNLIMITED and int(quota[0]) > 0:
        return min(int(quota[0]) / int(quota[1]), usable)
    return usable


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []
