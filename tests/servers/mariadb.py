"""A real `mariadbd` of the machine's package, in a folder of its own: started, stopped, killed and frozen at will.

It uses no service, no configuration and no data of the system, and ends only what it started. Usable by tests and by
load tools alike.

Settings are those of durability level D1: the log is flushed at every commit, the binary log too.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pymysql

from loadtest.ports import free_ports
from tests.servers.certificates import Certificates
from tests.servers.frozen import freeze

USER: Final = "longwave"
PASSWORD: Final = "spoken-softly"
START_S: Final = 60
# What a server of the tests takes, with its logs.
MEMORY_BYTES: Final = 1 << 30
STOP_S: Final = 30
INSTALL: Final = "apt-get install -y --no-install-recommends mariadb-server-core"


class ServerMissing(RuntimeError):  # noqa: N818 - it says what is missing
    """The package is not installed; the message is the line that installs it."""


def program(name: str) -> str:
    """The path of one of the server's programs. Raises ServerMissing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ServerMissing(f"{name} is missing: {INSTALL}")
    return found


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where the machine has one: a process that dies loses nothing there, and nothing waits."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES
    with tempfile.TemporaryDirectory(
        prefix="mariadb-", dir=memory if roomy else None, ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


class MariaDB:
    """One server. `start` it; whoever made it calls `remove` at the end."""

    def __init__(
        self, folder: Path, *options: str, server_id: int = 1, certificates: Certificates | None = None
    ) -> None:
        """Keep the data in `folder`, which is made; `options` go to the server behind its own, and win.

        With `certificates` it takes TLS, and nothing else from a network.
        """
        self.folder = folder
        self.host = "127.0.0.1"
        [self.port] = free_ports(1)
        self.server_id = server_id
        self._certificates = certificates
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str, port: int = 0) -> str:
        """As `LONGWAVE_STORE_URL`; the password is `PASSWORD`."""
        return f"mysql://{USER}@{self.host}:{port or self.port}/{database}"

    def start(self, *options: str) -> None:
        """Start, on the same data and port as before; returns when it answers."""
        data = self.folder / "data"
        if not data.exists():
            self._install(data)
        grants = self.folder / "grants.sql"
        grants.write_text(
            # Each server has its own: what it replicates is the source's alone.
            "SET sql_log_bin = 0;\n"
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n",
            encoding="ascii",
        )
        command = [*self._program(data), f"--init-file={grants}", *self._tls_options(), *self._options, *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment()
            )
        self._wait_until_it_answers()

    def _program(self, data: Path) -> list[str]:
        return [
            program("mariadbd"), "--no-defaults", *as_root(), f"--datadir={data}", f"--port={self.port}",
            f"--socket={self.folder / 's'}", f"--pid-file={self.folder / 'pid'}", "--bind-address=127.0.0.1",
            "--skip-name-resolve", "--log-bin=binlog", f"--server-id={self.server_id}",
            "--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1", "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=64M", "--performance-schema=OFF",
        ]  # fmt: skip

    def _tls_options(self) -> list[str]:
        if self._certificates is None:
            return []
        files = self._certificates
        return [
            f"--ssl-ca={files.authority}", f"--ssl-cert={files.certificate}", f"--ssl-key={files.key}",
            "--require-secure-transport=ON",
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """With a folder of its own for temporary tables.

        A server that starts deletes every `#sql…` of that folder, those of its neighbours too, and a MariaDB that loses
        one dies (signal 11 in `ha_maria::drop_table`).
        """
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return os.environ | {"TMPDIR": str(temporary)}

    def _install(self, data: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [program("mariadb-install-db"), "--no-defaults", *as_root(), f"--datadir={data}",
             "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True, capture_output=True, env=self._environment(),
        )  # fmt: skip

    def _wait_until_it_answers(self) -> None:
        until = time.monotonic() + START_S
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"the server ended: {self.log.read_text(encoding='utf-8', errors='replace')[-2000:]}"
                )
            try:
                self.connect().close()
            except pymysql.err.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                return

    def connect(self, database: str | None = None) -> "pymysql.connections.Connection[Any]":
        """A connection that commits each statement; close it."""
        files = self._certificates
        return pymysql.connect(
            host=self.host, port=self.port, user=USER, password=PASSWORD, database=database, autocommit=True,
            ssl_ca=None if files is None else str(files.authority), ssl_verify_identity=False,
        )  # fmt: skip

    def run(self, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run statements one by one; rows of the last."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def create_database(self, name: str) -> str:
        """Make an empty database; returns its URL."""
        self.run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database and all in it."""
        self.run(f"DROP DATABASE IF EXISTS {name}")

    def stop(self) -> None:
        """End it as an operator would. Safe to call twice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a loss of power would, but for what the disk holds back."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It answers nobody, and holds its connections."""
        freeze(self.pid)

    def thaw(self) -> None:
        """It goes on."""
        os.kill(self.pid, signal.SIGCONT)

    def remove(self) -> None:
        """End it and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        with suppress(ProcessLookupError):  # a frozen one would not hear it
            os.kill(process.pid, signal.SIGCONT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def as_root() -> list[str]:
    """The option without which a server refuses to be root's."""
    return ["--user=root"] if os.geteuid() == 0 else []
