"""Starts programs of this distribution as child processes, and ends them in order.

It reads nothing of what they print but a first line. Invariant: a child that was started is ended and waited for,
whatever happens to the command that started it.
"""

import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final

from server.cli.failure import CliFailure

FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# The last lines of a log that explain an early end.
TAIL_BYTES: Final = 2000
LINE_BYTES_MAX: Final = 64 * 1024


def module_command(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """The command that runs a module of this installation."""
    return [sys.executable, "-m", module, *arguments]


def run_in_place(command: Sequence[str]) -> int:
    """Run a child with our own streams, pass on the signals we get, and return its exit code (128 + n for signal n)."""
    child = subprocess.Popen(command)  # noqa: S603 - this interpreter and a module of ours

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does; main thread only."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def child(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, stop_s: float, piped: bool = False
) -> Iterator["subprocess.Popen[bytes]"]:
    """A child in a session of its own, so that Ctrl-C reaches it through us alone; SIGTERM and `stop_s` at the end.

    What it writes is appended to `log`; with `piped` its standard output is a pipe instead, of which the first line is
    read: only for a child that prints no more than that.
    """
    with log.open("ab") as errors:
        process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else errors,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process, stop_s)
        if process.stdout is not None:
            process.stdout.close()


def stop(process: "subprocess.Popen[bytes]", stop_s: float) -> None:
    """End a child: SIGTERM, then SIGKILL after `stop_s`. An impatient second Ctrl-C does not leave it behind."""
    until = time.monotonic() + stop_s
    process.terminate()
    while process.poll() is None:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
        except KeyboardInterrupt:
            continue


def first_line(process: "subprocess.Popen[bytes]", wait_s: float, what: str, log: Path) -> bytes:
    """The first line that a child prints. Raises CliFailure when it ends or `wait_s` pass before one comes."""
    pipe: IO[bytes] | None = process.stdout
    if pipe is None:
        raise ValueError("the child's output is not a pipe")
    until = time.monotonic() + wait_s
    read = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while b"\n" not in read and len(read) < LINE_BYTES_MAX:
            if not selector.select(max(0.0, until - time.monotonic())):
                raise CliFailure(f"{what} said nothing for {wait_s:g} s\n{tail(log)}")
            part = pipe.read1(LINE_BYTES_MAX)  # type: ignore[attr-defined] # the pipe is buffered
            if not part:
                raise CliFailure(f"{what} ended before it was ready\n{tail(log)}")
            read += part
    return read.partition(b"\n")[0]


def tail(log: Path) -> str:
    """The end of a log."""
    try:
        return log.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""
