"""A real `mysqld` 9 where a run asks for it (`--mysql=9`): unpacked by `fetch_mysql9.sh`, run with its own libraries.

It is started, stopped, killed and frozen as the MariaDB of the other runs is. Its own `mysqldump` and `mysql` are given
names in a folder for the path.
"""

import shlex
import subprocess
from pathlib import Path
from typing import Final

from tests.servers.mariadb import MariaDB, ServerMissing, as_root

ROOT: Final = Path(__file__).parents[2] / ".tools" / "mysql9" / "root"
LOADER: Final = "lib64/ld-linux-x86-64.so.2"
LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


def mysqld() -> list[str]:
    """The command, up to its options. Raises ServerMissing."""
    if not (ROOT / "usr/sbin/mysqld").exists():
        raise ServerMissing("MySQL 9 is missing: make test-mysql9")
    share = ROOT / "usr/share/mysql"
    return [
        str(ROOT / LOADER), "--library-path", str(ROOT / LIBRARIES), str(ROOT / "usr/sbin/mysqld"), "--no-defaults",
        *as_root(), f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}",
        f"--plugin-dir={ROOT / 'usr/lib/mysql/plugin'}", "--secure-file-priv=NULL", "--mysqlx=OFF",
    ]  # fmt: skip


def name_tools(folder: Path) -> None:
    """Put `mysqldump` and `mysql` into `folder`: each runs the one that was unpacked. Raises ServerMissing."""
    for name in ("mysqldump", "mysql"):
        if not (ROOT / "usr/bin" / name).exists():
            raise ServerMissing(f"MySQL 9's {name} is missing: make test-mysql9")
        named = folder / name
        command = [str(ROOT / LOADER), "--library-path", str(ROOT / LIBRARIES), str(ROOT / "usr/bin" / name)]
        named.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
        named.chmod(0o755)


class MySQL9(MariaDB):
    """One server."""

    def _install(self, data: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [*mysqld(), "--initialize-insecure", f"--datadir={data}", "--innodb-redo-log-capacity=64M"],
            check=True, capture_output=True, env=self._environment(),
        )  # fmt: skip

    def _program(self, data: Path) -> list[str]:
        return [
            *mysqld(), f"--datadir={data}", f"--port={self.port}", f"--socket={self.folder / 's'}",
            f"--pid-file={self.folder / 'pid'}", "--bind-address=127.0.0.1", "--skip-name-resolve",
            "--log-bin=binlog", f"--server-id={self.server_id}", "--innodb-flush-log-at-trx-commit=1",
            "--sync-binlog=1", "--innodb-buffer-pool-size=64M", "--innodb-redo-log-capacity=128M",
        ]  # fmt: skip
