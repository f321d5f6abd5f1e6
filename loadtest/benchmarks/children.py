"""Starts child processes, waits for their first line or for a port, and ends them by their id.

It knows no engine. Invariant: a child that was started is ended and waited for before the block that started it ends.
"""

import http.client
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"
STOP_S: Final = 30.0
READY_S: Final = 120.0
POLL_S: Final = 0.005
TAIL_BYTES: Final = 2000
LINE_BYTES_MAX: Final = 64 * 1024

Process = subprocess.Popen[bytes]


class BenchmarkError(RuntimeError):
    """Nothing can be measured, and the text says why."""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this installation."""
    return [sys.executable, "-m", module, *arguments]


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This environment without the settings of another engine or of gRPC, and `extra`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LONGWAVE_", "GRPC_"))} | dict(
        extra
    )


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, *, piped: bool = False) -> Process:
    """A child whose output is appended to `log`; with `piped` its standard output is a pipe instead."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else output,
            stderr=output,
            start_new_session=True,
        )


def stop(process: Process) -> None:
    """End a child: SIGTERM, and SIGKILL when it does not go."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        kill(process)
    if process.stdout is not None:
        process.stdout.close()


def kill(process: Process) -> None:
    """End a child at once."""
    process.kill()
    process.wait()


@contextmanager
def child(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[tuple[Process, bytes]]:
    """A child that prints one line when it is ready: the process and that line."""
    process = start(command, environment, log, piped=True)
    try:
        yield process, first_line(process, log)
    finally:
        stop(process)


def first_line(process: Process, log: Path) -> bytes:
    """The first line that a piped child prints. Raises BenchmarkError when there is none in time."""
    if process.stdout is None:
        raise ValueError("the child's output is not a pipe")
    until, read = time.monotonic() + READY_S, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while b"\n" not in read and len(read) < LINE_BYTES_MAX:
            if not selector.select(max(0.0, until - time.monotonic())):
                raise BenchmarkError(f"a child said nothing for {READY_S:g} s\n{tail(log)}")
            part = os.read(process.stdout.fileno(), LINE_BYTES_MAX)
            if not part:
                raise BenchmarkError(f"a child ended before it was ready\n{tail(log)}")
            read += part
    return read.partition(b"\n")[0]


def wait_ready(process: Process, port: int, log: Path) -> None:
    """Wait until `/ready` of a child answers 200. Raises BenchmarkError when it ends or does not in time."""
    until = time.monotonic() + READY_S
    while not _is_ready(port):
        if process.poll() is not None:
            raise BenchmarkError(f"the engine ended before it was ready\n{tail(log)}")
        if time.monotonic() > until:
            raise BenchmarkError(f"the engine was not ready within {READY_S:g} s\n{tail(log)}")
        time.sleep(POLL_S)


def get(port: int, path: str, *, wait_s: float = 10.0) -> tuple[int, bytes]:
    """Status and body of a GET to this machine. Raises OSError and HTTPException."""
    connection = http.client.HTTPConnection(HOST, port, timeout=wait_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _is_ready(port: int) -> bool:
    try:
        return get(port, "/ready", wait_s=1.0)[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace").strip() if log.exists() else ""
