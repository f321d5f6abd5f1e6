"""A backup of a database before its schema changes: a dump that is taken, loaded and compared, or a command's.

It blocks; whoever calls it from a loop does so in a thread.

Invariants: a file without `.part` was verified, and one whose rows were compared says at its end what they add up to;
passwords are in a file of mode 0600 and in no argument; nothing but what this module named is ever removed.
"""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, cast

from engine.errors import LongwaveError
from engine.stores.mysql.address import Address, Tls

KEEP_DAYS: Final = 7
SUFFIX: Final = ".sql.gz"
PART: Final = ".part"
LINE_CHARACTERS_MAX: Final = 500
# What the tools write last; a dump that was cut short has none.
_LAST: Final = b"-- Dump completed"
_TAIL_BYTES: Final = 16_384
# What follows that line when the dump was loaded and compared: table → rows, sum of checksums.
_SUMS: Final = b"-- longwave sums "
_CLIENT_ERROR: Final = re.compile(r"^ERROR \d+ \(\w+\) at line \d+", re.MULTILINE)
_PIECE_BYTES: Final = 1 << 20
_DAY_S: Final = 86_400
# Tool, and what loads its dumps.
_TOOLS: Final = (("mariadb-dump", "mariadb"), ("mysqldump", "mysql"))
_OPTIONS: Final = (
    "--single-transaction", "--quick", "--hex-blob", "--skip-lock-tables", "--no-tablespaces", "--triggers",
    "--default-character-set=utf8mb4",
)  # fmt: skip


class BackupFailed(LongwaveError):  # noqa: N818 - it says what happened
    """There is no backup; nothing was changed. The message says why."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs of one family, and how they reach the server."""

    dump: str
    load: str
    mariadb: bool
    tls: Tls

    @classmethod
    def found(cls, tls: Tls, *, mariadb: bool) -> "Tools":
        """Those that are installed and of the server's kind. Raises BackupFailed when none are.

        MariaDB's write values of generated columns, which MySQL does not take back.
        """
        for dump, load in _TOOLS:
            paths = shutil.which(dump), shutil.which(load)
            if paths[0] and paths[1]:
                asked = [paths[0], "--version"]
                said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout  # noqa: S603 - found on the path
                if ("mariadb" in said.lower()) == mariadb:
                    return cls(paths[0], paths[1], mariadb, tls)
        needed = "mariadb-dump and mariadb (Debian: mariadb-client)" if mariadb else "MySQL's own mysqldump and mysql"
        raise BackupFailed(f"{needed} are not installed here: install them, or set LONGWAVE_MIGRATE_BACKUP_COMMAND")

    def options(self) -> list[str]:
        """How the server is spoken to, as lines of an option file, in the words of the family."""
        mode, files = self.tls.mode, self.tls.files
        if mode == "off":
            return ["skip-ssl"] if self.mariadb else ["ssl-mode=DISABLED"]
        named = {"ssl-ca": files.authorities, "ssl-cert": files.certificate, "ssl-key": files.key}
        lines = [f"{name}={_quoted(str(path))}" for name, path in named.items() if path is not None]
        if self.mariadb:
            return ["ssl", *lines, *(["ssl-verify-server-cert"] if mode == "verify" else [])]
        return [*lines, f"ssl-mode={'VERIFY_IDENTITY' if mode == 'verify' else 'REQUIRED'}"]


def take(address: Address, tools: Tools, folder: Path, label: str) -> Path:
    """Dump a database into `folder`, in one snapshot, compressed, and sync it; the path ends in `.part`.

    Raises BackupFailed, also for a dump that the tool did not bring to its end.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path = folder / f"{address.database}-before-{label}-{stamp}{SUFFIX}{PART}"
    gtids = [] if tools.mariadb else ["--set-gtid-purged=OFF"]
    try:
        with _option_file(address, tools) as options:
            command = [tools.dump, f"--defaults-file={options}", *_OPTIONS, *gtids, address.database]
            _compress(command, path)
        refuse_if_cut(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise BackupFailed(f"{folder}: {error.strerror or error}: give it room, or set another folder") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _compress(command: list[str], path: Path) -> None:
    with (
        tempfile.TemporaryFile() as said,
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
        subprocess.Popen(  # noqa: S603 - a tool that was found, and options of ours
            command, stdout=subprocess.PIPE, stderr=said, stdin=subprocess.DEVNULL
        ) as tool,
    ):
        rows = cast("IO[bytes]", tool.stdout)
        try:
            # Level 1: a dump of hex shrinks to half either way, and the snapshot is held open meanwhile.
            with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
                shutil.copyfileobj(rows, packed, _PIECE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            tool.kill()
            raise
        code = tool.wait()
        if code != 0:
            raise BackupFailed(f"{Path(command[0]).name} ended with {code}: {one_line(_said(said))}")


def _said(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
    return file.read(_TAIL_BYTES).decode("utf-8", "replace")


def one_line(text: str) -> str:
    """The last line that says something, cut, and printable."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(mark for mark in (lines[-1] if lines else "") if mark.isprintable())[:LINE_CHARACTERS_MAX]


def refuse_if_cut(path: Path) -> None:
    """Raises BackupFailed for a file that cannot be unpacked to its end, or whose end is not that of a dump."""
    sums_in(path)


def seal(path: Path, sums: dict[str, tuple[int, int]]) -> None:
    """Write behind a dump's end what its rows add up to, and sync it: a comment to whoever loads it. Raises OSError."""
    with path.open("ab") as file:
        with gzip.GzipFile(fileobj=file, mode="wb") as packed:
            packed.write(_SUMS + json.dumps(sums).encode("ascii") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def sums_in(path: Path) -> dict[str, tuple[int, int]] | None:
    """What a dump says its rows add up to; None when it says nothing, because they were not compared.

    Raises BackupFailed for a file that cannot be unpacked to its end, or whose end is not that of a dump.
    """
    tail = b""
    try:
        with gzip.open(path) as packed:
            while piece := packed.read(_PIECE_BYTES):
                tail = (tail + piece)[-_TAIL_BYTES:]
    except (EOFError, OSError, zlib.error) as error:
        raise BackupFailed(f"the dump cannot be read back: {error}") from None
    *lines, last = tail.splitlines() or [b""]
    if last.startswith(_SUMS) and lines and lines[-1].startswith(_LAST):
        try:
            read: dict[str, list[int]] = json.loads(last.removeprefix(_SUMS))
            return {table: (rows, total) for table, (rows, total) in read.items()}
        except (AttributeError, TypeError, ValueError):
            raise BackupFailed("what the dump says its rows add up to cannot be read") from None
    if not last.startswith(_LAST):
        raise BackupFailed("the dump was cut short: its last line is missing")
    return None


def tables_in(path: Path) -> set[str]:
    """The tables that a dump makes."""
    with gzip.open(path) as packed:
        heads = [line.split(b"`")[1] for line in packed if line.startswith(b"CREATE TABLE `")]
    return {head.decode() for head in heads}


def load(address: Address, tools: Tools, path: Path, database: str) -> None:
    """Load a dump into an empty database of the same server. Raises BackupFailed."""
    with (
        tempfile.TemporaryFile() as said,
        _option_file(address, tools) as options,
        subprocess.Popen(  # noqa: S603 - as above
            [tools.load, f"--defaults-file={options}", "--binary-mode", database],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
        ) as client,
    ):  # fmt: skip
        statements = cast("IO[bytes]", client.stdin)
        with suppress(BrokenPipeError):  # its exit code says more
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, statements, _PIECE_BYTES)
            statements.close()
        code = client.wait()
        if code != 0:
            # Before and behind its number the client shows the statement: rows.
            found = _CLIENT_ERROR.search(_said(said))
            raise BackupFailed(f"the dump could not be loaded: {found[0] if found else f'exit code {code}'}")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@contextmanager
def _option_file(address: Address, tools: Tools) -> Iterator[str]:
    """What a client needs to log in: a file that only this user reads, as long as the client runs."""
    lines = [
        "[client]", f"host={_quoted(address.host)}", f"port={address.port}", f"user={_quoted(address.user)}",
        f"password={_quoted(address.password)}", "protocol=tcp", *tools.options(),
    ]  # fmt: skip
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".cnf") as file:  # made with mode 0600
        file.write("\n".join(lines) + "\n")
        file.flush()
        yield file.name


def keep(path: Path) -> Path:
    """A verified dump gets its name, and what is older than `KEEP_DAYS` goes. Raises OSError."""
    kept = path.with_name(path.name.removesuffix(PART))
    path.rename(kept)
    descriptor = os.open(kept.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return kept


def remove_old(folder: Path, database: str) -> list[str]:
    """Remove this database's dumps of more than `KEEP_DAYS` ago, whole or not; their names. Raises OSError."""
    oldest_s = time.time() - KEEP_DAYS * _DAY_S
    removed = []
    for path in folder.glob(f"{database}-before-*-*{SUFFIX}*"):
        if path.name.endswith((SUFFIX, SUFFIX + PART)) and path.stat().st_mtime < oldest_s:
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return sorted(removed)


def by_command(command: str) -> str:
    """Run an operator's own command (a snapshot, say), without a shell; its line. Raises BackupFailed."""
    try:
        ran = subprocess.run(  # noqa: S603 - the operator's own setting
            shlex.split(command), stdout=subprocess.PIPE, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise BackupFailed(f"LONGWAVE_MIGRATE_BACKUP_COMMAND: {error.strerror or error}") from None
    line = one_line(ran.stdout.decode("utf-8", "replace"))
    if ran.returncode != 0:
        raise BackupFailed(f"LONGWAVE_MIGRATE_BACKUP_COMMAND ended with {ran.returncode}: {line or 'it said nothing'}")
    return line or "it said nothing"
