"""What was measured, and on what: commit, versions, processor, memory, file system, load.

It names no host, user or path. Linux only.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadtest.benchmarks.children import BenchmarkError

if TYPE_CHECKING:
    import sqlite3 as dbapi2
else:
    from pysqlite3 import dbapi2

MIB: Final = 1024 * 1024
GIT_S_MAX: Final = 30.0
CHILD_S_MAX: Final = 60.0
PACKAGES: Final = ("grpcio", "protobuf", "uvloop", "httptools", "orjson", "pysqlite3")
# File systems that keep nothing: an fsync there costs nothing and proves nothing.
VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
SYNC_ROUNDS: Final = 20
SYNC_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """The code that was measured."""

    commit: str
    dirty: bool
    """Files differ from the commit: the figures belong to no commit at all."""


def source(root: Path) -> Source:
    """The checkout's commit. Raises BenchmarkError where there is none."""
    return Source(_git(root, "rev-parse", "HEAD"), bool(_git(root, "status", "--porcelain")))


def core_profile() -> str:
    """How the core says it was built, `release` or `debug`. Raises BenchmarkError when it does not say."""
    script = "from engine import _core; print(_core.PROFILE)"
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=CHILD_S_MAX, check=False
    )
    if done.returncode:
        raise BenchmarkError("the core cannot be loaded or does not say how it was built: run make setup")
    return done.stdout.strip()


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes."""
    return [round(load, 2) for load in os.getloadavg()]


def hardware(folder: Path) -> dict[str, object]:
    """Processor, memory, and the file system that `folder` is on, with what an fsync costs there."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        "kernel": platform.system() + " " + platform.release().partition("-")[0],
        "file_system": file_system(folder, Path("/proc/mounts").read_text(encoding="utf-8")),
        "fsync_median_us": round(fsync_s(folder) * 1e6),
    }


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    found = {name: version(name) for name in PACKAGES}
    rust = subprocess.run(["rustc", "--version"], capture_output=True, text=True, timeout=GIT_S_MAX, check=False)  # noqa: S607
    return {
        "longwave-engine": version("longwave-engine"),
        "python": platform.python_version(),
        "rustc": rust.stdout.split()[1] if rust.returncode == 0 else "absent",
        "sqlite": str(dbapi2.sqlite_version),
        **found,
    }


def processor(cpuinfo: str) -> str:
    """The first processor's model, from the text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that `folder` is on, from the text of /proc/mounts."""
    resolved, best, kind = folder.resolve(), -1, "unknown"
    for line in mounts.splitlines():
        point, found = line.split()[1:3]
        if resolved.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), found
    return kind


def fsync_s(folder: Path) -> float:
    """Median seconds of appending 4 KiB and fsyncing it: the floor of a commit."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNC_ROUNDS):
            file.write(os.urandom(SYNC_BYTES))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return sorted(taken)[SYNC_ROUNDS // 2]


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - git, with arguments of ours
        ["git", "-C", str(root), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=GIT_S_MAX,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
