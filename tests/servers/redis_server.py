"""A real Redis that a test starts, kills, freezes and starts again, on a port of its own; it keeps nothing on disk."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from loadtest.ports import free_ports
from tests.servers.certificates import Certificates
from tests.servers.frozen import freeze
from tests.servers.mariadb import program

START_S: Final = 20.0
# Faults of a server that answers and takes nothing: the command that makes it so, and the one that mends it.
TAKES_NOTHING: Final = {
    "out of memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "read-only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
}


class RedisServer:
    """One server. `start` it; whoever made it calls `kill` at the end."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        certificates: Certificates | None = None,
        asks_clients: bool = False,
        config: Path | None = None,
    ) -> None:
        """`options` go to the server behind its own. With `certificates` it takes TLS, and nothing else.

        One that `asks_clients` takes only who shows a certificate of the same authority. With `config` it is a Sentinel
        of that file, which it writes itself.
        """
        [self.port] = free_ports(1)
        self._folder = folder
        self._options = options
        self._certificates = certificates
        self._asks_clients = asks_clients
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As `LONGWAVE_REDIS_URL`."""
        return f"rediss://localhost:{self.port}" if self._certificates else f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start on the same port as before; returns when it takes connections."""
        # Under its own name: which of its programs it is, it reads from there.
        named = self._folder / "redis-server"
        if not named.exists():
            named.symlink_to(shutil.which("redis-server") or program("redis-check-rdb"))
        kept = [str(self._config)] if self._config else []
        nothing_kept = ["--sentinel"] if self._config else ["--save", "", "--appendonly", "no"]
        command = [
            str(named), *kept, *self._ports(), "--bind", "127.0.0.1", "--dir", str(self._folder), *nothing_kept,
            *self._options,
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
            "--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "yes" if self._asks_clients else "no",
            "--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key), "--tls-ca-cert-file",
            str(files.authority), "--tls-replication", "yes", "--tls-cluster", "yes",
        ]  # fmt: skip

    def said(self, *command: str) -> bytes:
        """What it answers a command."""
        done = subprocess.run(
            [program("redis-cli"), "-p", str(self.port), *shown(self._certificates), *command],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False,
        )  # fmt: skip
        return done.stdout

    def freeze(self) -> None:
        """It answers nobody, and holds its connections."""
        assert self._process is not None
        freeze(self._process.pid)

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


def shown(certificates: Certificates | None) -> list[str]:
    """How `redis-cli` reaches a server that takes TLS alone."""
    if certificates is None:
        return []
    files = certificates
    return ["--tls", "--cacert", str(files.authority), "--cert", str(files.certificate), "--key", str(files.key)]


class SentinelPair:
    """A primary, its replica, and a Sentinel that makes the replica the primary when the first is gone for 0.5 s."""

    SERVICE: Final = "hints"

    def __init__(self, folder: Path, certificates: Certificates | None = None) -> None:
        """Start nothing. With `certificates`, for 127.0.0.1, all three take TLS alone, and ask clients for theirs."""
        for name in ("primary", "replica", "sentinel"):
            (folder / name).mkdir()
        self._scheme = "rediss" if certificates else "redis"
        kept: dict[str, Any] = {"certificates": certificates, "asks_clients": certificates is not None}
        self.primary = RedisServer(folder / "primary", **kept)
        self.replica = RedisServer(folder / "replica", "--replicaof", "127.0.0.1", str(self.primary.port), **kept)
        config = folder / "sentinel" / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {self.SERVICE} 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel down-after-milliseconds {self.SERVICE} 500\nsentinel failover-timeout {self.SERVICE} 3000\n",
            encoding="ascii",
        )
        self.sentinel = RedisServer(folder / "sentinel", config=config, **kept)

    @property
    def url(self) -> str:
        """As `LONGWAVE_REDIS_URL`."""
        return f"{self._scheme}+sentinel://127.0.0.1:{self.sentinel.port}/{self.SERVICE}"

    def start(self) -> None:
        """Returns when the Sentinel knows the replica, which it then can choose."""
        self.primary.start()
        self.replica.start()
        self.sentinel.start()
        until_s = time.monotonic() + START_S
        while b"slaves=1" not in self.sentinel.said("INFO", "sentinel"):
            assert time.monotonic() < until_s, "the Sentinel does not find the replica"
            time.sleep(0.1)

    def kill(self) -> None:
        """End all of them."""
        for server in (self.sentinel, self.replica, self.primary):
            server.kill()


class RedisCluster:
    """Three primaries without replicas, which serve the slots they have when another is gone."""

    def __init__(self, folder: Path, certificates: Certificates | None = None) -> None:
        """Start nothing. With `certificates`, for 127.0.0.1, all take TLS alone, and ask clients for theirs."""
        self._certificates = certificates
        kept: dict[str, Any] = {"certificates": certificates, "asks_clients": certificates is not None}
        self.servers = []
        for number, bus in enumerate(free_ports(3)):
            home = folder / f"node{number}"
            home.mkdir()
            options = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "1000"]
            self.servers.append(RedisServer(home, *options, "--cluster-require-full-coverage", "no", **kept))

    @property
    def url(self) -> str:
        """As `LONGWAVE_REDIS_URL`."""
        scheme = "rediss" if self._certificates else "redis"
        return f"{scheme}+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self) -> None:
        """Returns when all slots have an owner that each node knows."""
        for server in self.servers:
            server.start()
        places = [f"127.0.0.1:{server.port}" for server in self.servers]
        done = subprocess.run(
            [program("redis-cli"), *shown(self._certificates), "--cluster", "create", *places, "--cluster-yes"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        until_s = time.monotonic() + START_S
        while not all(self._is_whole(server.said("CLUSTER", "INFO")) for server in self.servers):
            assert time.monotonic() < until_s, "the slots have no owners"
            time.sleep(0.1)

    @staticmethod
    def _is_whole(said: bytes) -> bool:
        return b"cluster_slots_ok:16384" in said and b"cluster_state:ok" in said

    def owner_of(self, key: str) -> RedisServer:
        """The node that has the slot of a key."""
        for server in self.servers:
            if not server.said("XLEN", key).startswith(b"MOVED"):
                return server
        raise AssertionError("nobody has the slot")

    def kill(self) -> None:
        """End all of them."""
        for server in self.servers:
            server.kill()
