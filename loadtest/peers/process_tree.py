"""What processes and all their children have cost, by the kernel's count; Linux only.

A child that ended and was waited for is in its parent's count, so a tree's processor time never falls while its roots
live.
"""

import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from loadtest.benchmarks.process_costs import TICKS_A_SECOND, memory

# Of proc(5) stat, counted from the field behind the name: parent; utime, stime, and both of children waited for.
PARENT_FIELD: Final = 4 - 3
TIME_FIELDS: Final = slice(14 - 3, 17 - 3 + 1)
MIB: Final = 1024 * 1024


def fields(stat: str) -> list[str]:
    """Of the text of a `stat`, from the third on."""
    return stat.rpartition(")")[2].split()


def stats() -> dict[int, list[str]]:
    """Of every process of the machine."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                found[int(folder.name)] = fields((folder / "stat").read_text(encoding="ascii", errors="replace"))
    return found


def members(roots: Iterable[int], parents: dict[int, int]) -> set[int]:
    """The roots and all below them; `parents` has every process's."""
    tree = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in tree and pid not in tree}:
        tree |= more
    return tree


def tree(roots: Sequence[int]) -> dict[int, list[str]]:
    """The `stat` of each process of the trees. Raises OSError when a root is gone."""
    every = stats()
    if gone := set(roots) - every.keys():
        raise ProcessLookupError(f"of the processes {sorted(roots)} these are gone: {sorted(gone)}")
    return {pid: every[pid] for pid in members(roots, {pid: int(stat[PARENT_FIELD]) for pid, stat in every.items()})}


def tree_cpu_s(roots: Sequence[int]) -> float:
    """Processor seconds, user and system. Raises OSError when a root is gone."""
    return sum(ticks(stat) for stat in tree(roots).values()) / TICKS_A_SECOND


def ticks(stat: Sequence[str]) -> int:
    """Of one process, with those of its children that it waited for."""
    return sum(map(int, stat[TIME_FIELDS]))


def tree_bytes(roots: Sequence[int]) -> float:
    """Resident memory of all together; pages that two share count twice. Raises OSError when a root is gone."""
    return sum(memory(pid).now_mib for pid in tree(roots)) * MIB


def kill_trees(roots: Sequence[int]) -> None:
    """SIGKILL to every process of the trees, in one go. Raises OSError when a root is gone and was waited for."""
    for pid in tree(roots):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
