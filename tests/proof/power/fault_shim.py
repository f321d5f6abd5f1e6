"""Compiles `fault_shim.c` and arms it: the n-th fsync or write of a process below one folder fails, or all are slow."""

import errno
import mmap
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("fault_shim.c")
_KIND: Final = struct.Struct("=QQQQQ")
_TAIL: Final = struct.Struct("=QQ")
SYNC: Final = 0
WRITE: Final = 1
_BYTES: Final = 2 * _KIND.size + _TAIL.size
FOR_EVER: Final = 2**62
COMPILE_S: Final = 60


def why_not() -> str:
    """Why there can be no shim here; empty when there can."""
    return "" if shutil.which("cc") else "no C compiler (cc) for the shim that fails calls"


def compile_shim(folder: Path, source: Path = SOURCE) -> Path:
    """The library to preload."""
    library = folder / f"{source.stem}.so"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=COMPILE_S)
    return library


class Faults:
    """What the calls of one process come to; changes take effect at once."""

    def __init__(self, folder: Path, library: Path, below: Path) -> None:
        """Keep the control file in `folder`; calls on files below `below` are meant. Nothing is armed."""
        control = folder / "faults.control"
        control.write_bytes(bytes(_BYTES))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _BYTES)
        self.environment = {
            "LD_PRELOAD": str(library), "FAULT_CONTROL": str(control), "FAULT_FOLDER": str(below.resolve()) + "/",
        }  # fmt: skip

    def reset(self) -> None:
        """Disarm, count from zero."""
        self._memory[:] = bytes(_BYTES)

    def arm(self, kind: int, at: int, *, error: int = errno.EIO, times: int = 1) -> None:
        """Let the call number `at` since `reset` fail, and those after it up to `times`."""
        calls, *_, delay_us = self._read(kind)
        self._write(kind, calls, at, times, error, delay_us)

    def slow(self, kind: int, delay_s: float) -> None:
        """Let every call take so much longer; 0 heals."""
        calls, at, times, error, _ = self._read(kind)
        self._write(kind, calls, at, times, error, int(delay_s * 1e6))

    def calls(self, kind: int) -> int:
        """How many there were since `reset`."""
        return self._read(kind)[0]

    @property
    def injected(self) -> int:
        """Calls that failed since `reset`."""
        return int(_TAIL.unpack_from(self._memory, 2 * _KIND.size)[0])

    @property
    def since_s(self) -> float:
        """Seconds since the first failed call."""
        first_ns = int(_TAIL.unpack_from(self._memory, 2 * _KIND.size)[1])
        return (time.monotonic_ns() - first_ns) / 1e9

    def _read(self, kind: int) -> tuple[int, ...]:
        return _KIND.unpack_from(self._memory, kind * _KIND.size)

    def _write(self, kind: int, *values: int) -> None:
        # The process under test counts in the first field meanwhile: leave it alone.
        packed = _KIND.pack(*values)
        start = kind * _KIND.size
        self._memory[start + 8 : start + _KIND.size] = packed[8:]

    def close(self) -> None:
        """Let go of the control file."""
        self._memory.close()
