"""Reads what perf saw and says what each sample ran in: SQLite, the core, the interpreter, the kernel for whom.

It samples nothing. perf sees every thread, native code and the kernel; it does not see Python's functions
(`stacks.py` does).
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_FRAME: Final = re.compile(r"^\s+([0-9a-f]+) (.*) \(([^()]*(?:\([^()]*\))?[^()]*)\)$")
KERNEL: Final = ("[kernel", "[guest.kernel", "[vdso", "[k")
CORE: Final = "_core."
# Of the core, by symbol.
_SIGNATURES: Final = re.compile(r"dalek|sha2|merlin|keccak|ed25519")
_EDGE: Final = re.compile(r"_core::edge|\bh2::|_ZN2h2|hpack|\bhttp::|_ZN4http")
# A component and what its libraries' names contain.
LIBRARIES: Final = (
    ("SQLite", ("_sqlite3", "libsqlite3")),
    ("grpcio", ("cygrpc",)),
    ("protobuf", ("_message.", "google/_upb")),
    ("uvloop", ("uvloop/",)),
    ("HTTP parser", ("httptools",)),
    ("JSON", ("orjson",)),
    ("TLS", ("libssl", "libcrypto", "_ssl.", "_rust.abi3")),
    ("interpreter", ("libpython", "bin/python", "lib-dynload", "_asyncio")),
    ("libc", ("libc.so", "libc-", "libstdc++", "libm.so", "ld-linux")),
)
SYSTEM_CALLS: Final = (
    ("kernel: files", ("fsync", "fdatasync", "pwrite", "pread", "fallocate", "ftruncate", "msync", "fcntl")),
    ("kernel: sockets", ("sendto", "sendmsg", "recvfrom", "recvmsg", "shutdown", "connect", "accept", "socket")),
    ("kernel: sockets", ("sys_write", "sys_writev", "sys_read", "sys_readv", "ksys_write", "ksys_read")),
    ("kernel: waiting", ("epoll", "futex", "ppoll", "nanosleep", "sched_yield", "eventfd")),
)
KERNEL_OTHER: Final = "kernel: other"
OTHER: Final = "other"
THREADS: Final = ("busiest thread", "second", "third")
OTHER_THREADS: Final = "all others"


@dataclass(frozen=True, slots=True)
class Sample:
    """What ran at one moment; the innermost frame first."""

    thread: int
    frames: tuple[tuple[str, str], ...]
    """(symbol, library) each."""


def read(text: str) -> list[Sample]:
    """Samples of `perf script -F tid,ip,sym,dso`."""
    found: list[Sample] = []
    thread, frames = 0, list[tuple[str, str]]()
    for line in [*text.splitlines(), ""]:
        if match := _FRAME.match(line):
            frames.append((match[2], match[3]))
        elif line.strip():
            thread = int(line.split()[0])
        elif frames:
            found.append(Sample(thread, tuple(frames)))
            frames = []
    return found


def component_of(sample: Sample) -> str:
    """What the innermost frame belongs to; of the kernel, what it was asked for."""
    symbol, library = sample.frames[0]
    if library.startswith(KERNEL):
        return _asked(sample)
    if CORE in library:
        if _SIGNATURES.search(symbol):
            return "core: signatures"
        return "core: HTTP/2 and framing" if _EDGE.search(symbol) else "core: everything else"
    for component, marks in LIBRARIES:
        if any(mark in library for mark in marks):
            return component
    return OTHER


def by_component(samples: Iterable[Sample]) -> dict[str, int]:
    """Samples of each component, the most first."""
    counts = Counter(component_of(sample) for sample in samples)
    return dict(counts.most_common())


def by_thread(samples: Iterable[Sample]) -> dict[str, int]:
    """Samples of the busiest threads and of all others."""
    counts = [count for _, count in Counter(sample.thread for sample in samples).most_common()]
    named = dict(zip(THREADS, counts, strict=False))
    return named | {OTHER_THREADS: sum(counts[len(THREADS) :])}


def _asked(sample: Sample) -> str:
    """The outermost frames of the kernel name the system call; without one it was an interrupt."""
    for symbol, library in reversed(sample.frames):
        if not library.startswith(KERNEL):
            continue
        for component, marks in SYSTEM_CALLS:
            if any(mark in symbol for mark in marks):
                return component
    return KERNEL_OTHER
