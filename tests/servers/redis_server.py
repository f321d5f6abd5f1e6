"""A real Redis that a test starts, kills, freezes and starts again, on a port of its own; it keeps nothing on disk."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from loadtest.ports import free_ports
from tests.servers.certificates import Certificates
from tests.servers.mariadb import program

START_S: Final = 20.0


class RedisServer:
    """One server. `start` it; whoever made it calls `kill` at the end."""

    def __init__(self, folder: Path, *options: str, certificates: Certificates | None = None) -> None:
        """`options` go to the server behind its own. With `certificates` it takes TLS, and nothing else."""
        [self.port] = free_ports(1)
        self._folder = folder
        self._options = options
        self._certificates = certificates
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As `LONGWAVE_REDIS_URL`."""
        return f"rediss://localhost:{self.port}" if self._certificates else f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start on the same port as before; returns when it takes connections."""
        # Under its own name: which of its programs it is, it reads from there.
        named = self._folder / "redis-server"
        if not named.exists():
            named.symlink_to(shutil.which("redis-server") or program("redis-check-rdb"))
        command = [
            str(named), *self._ports(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self._folder), *self._options,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_s = time.monotonic() + START_S
        while True:
            assert self._process.poll() is None, "redis-server ended at its start"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < until_s
                time.sleep(0.02)
            else:
                return

    def _ports(self) -> list[str]:
        if self._certificates is None:
            return ["--port", str(self.port)]
        files = self._certificates
        return [
            "--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no", "--tls-cert-file",
            str(files.certificate), "--tls-key-file", str(files.key), "--tls-ca-cert-file", str(files.authority),
        ]  # fmt: skip

    def freeze(self) -> None:
        """It answers nobody, and holds its connections."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
