"""Samples a running engine from outside: by perf all threads, native code and the kernel, by py-spy Python's functions.

It drives nothing. Shares are what it is good for, not rates: each sample of py-spy stops the process for a moment.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from loadtest.benchmarks.children import BenchmarkError

PYTHON_A_SECOND: Final = 200
NATIVE_A_SECOND: Final = 499
END_S: Final = 60.0
_MISSING: Final = {
    "perf": "perf is missing: apt-get install linux-perf",
    "py-spy": "py-spy is missing: run make setup",
}

# Given a process and a folder, samples while its block runs; then `text` has what was recorded.
Sampler = Callable[[int, Path], AbstractContextManager["Recording"]]


class Recording:
    """Filled when the block that samples has ended."""

    def __init__(self) -> None:
        """Empty."""
        self.text = ""


def check_tools() -> None:
    """Raise BenchmarkError unless both are there."""
    for name in _MISSING:
        _tool(name)


@contextmanager
def by_python(pid: int, folder: Path) -> Iterator[Recording]:
    """Collapsed stacks of whichever thread holds the interpreter. Raises BenchmarkError when it cannot be sampled."""
    # Of that thread alone: who else runs is known to the kernel only, and by the time all are stopped it is not true.
    recording, output = Recording(), folder / "stacks.txt"
    command = [_tool("py-spy"), "record", "--pid", str(pid), "--gil", "--native", "--function", "--format", "raw"]
    with _running([*command, "--rate", str(PYTHON_A_SECOND), "--output", str(output)], folder):
        yield recording
    if not output.exists():
        raise BenchmarkError(f"py-spy recorded nothing: {_said(folder)}")
    recording.text = output.read_text("utf-8", "replace")


@contextmanager
def by_kernel(pid: int, folder: Path) -> Iterator[Recording]:
    """`perf script` of all threads. Raises BenchmarkError when it cannot be sampled."""
    recording, output, perf = Recording(), folder / "perf.data", _tool("perf")
    command = [perf, "record", "--quiet", "--freq", str(NATIVE_A_SECOND), "-g", "--pid", str(pid)]
    with _running([*command, "--output", str(output)], folder):
        yield recording
    if not output.exists():
        raise BenchmarkError(f"perf recorded nothing: {_said(folder)}")
    script = [perf, "script", "--input", str(output), "--fields", "tid,ip,sym,dso"]
    done = subprocess.run(script, capture_output=True, timeout=END_S, check=False)  # noqa: S603 - of ours
    recording.text = done.stdout.decode("utf-8", "replace")


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[None]:
    with (folder / "sampler.log").open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)  # noqa: S603 - of ours
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(END_S)


def _said(folder: Path) -> str:
    return (folder / "sampler.log").read_text("utf-8", "replace").strip()[-500:]


def _tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise BenchmarkError(_MISSING[name])
    return found
