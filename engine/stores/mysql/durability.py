"""What a server promises now: version, flushing, who may write. Settings are dynamic, so it is asked again and again.

It changes no setting. Level D1 survives the death of the server's process and machine; D2 the loss of the primary, too.
"""

import re
from typing import Final, Literal

from engine.stores.mysql.pool import Link
from engine.stores.store import Finding

Level = Literal["D1", "D2"]

MYSQL_VERSION_MIN: Final = (8, 0, 19)
MARIADB_VERSION_MIN: Final = (10, 6, 0)
# Statements are bounded at 1 MiB; one row with a long body may take several.
PACKET_BYTES_MIN: Final = 16 * 1024 * 1024

_VARIABLES: Final = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin', "
    "'binlog_format', 'innodb_doublewrite', 'innodb_flush_method', 'read_only', 'max_allowed_packet', "
    "'rpl_semi_sync_master_wait_point', 'rpl_semi_sync_source_wait_point')"
)
_STATUS: Final = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%'"


def version_of(text: str) -> tuple[bool, tuple[int, ...]]:
    """(whether it is MariaDB, the numbers) of `SELECT VERSION()`."""
    numbers = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)\.(\d+)", text)
    return "mariadb" in text.lower(), tuple(int(part) for part in numbers.groups()) if numbers else (0, 0, 0)


def name_of(text: str) -> str:
    """Kind and version for people."""
    mariadb, numbers = version_of(text)
    return f"{'mariadb' if mariadb else 'mysql'} {'.'.join(map(str, numbers))}"


class Watch:
    """Looks again and again, and so finds what passed between two looks, too."""

    def __init__(self, level: Level) -> None:
        """Know nothing yet."""
        self._level = level
        self._unconfirmed: int | None = None

    async def check(self, link: Link) -> list[Finding]:
        """As `check`; of level D2 also what was committed since the last look and no replica has confirmed."""
        findings = await check(link, self._level)
        if self._level == "D2":
            now = _unconfirmed(await _status(link))
            # The count begins anew with the server.
            passed = 0 if self._unconfirmed is None else max(0, now - self._unconfirmed)
            self._unconfirmed = now
            findings.append(Finding("commits without a replica since the last look", str(passed), "0", passed == 0))
        return findings


async def check(link: Link, level: Level) -> list[Finding]:
    """Everything the level needs; all of it must be ok. Raises the driver's errors."""
    [(text,)] = await link.rows("SELECT VERSION()")
    values = {str(name).lower(): str(value) for name, value in await link.rows(_VARIABLES)}
    findings = [_version(text), *_flushing(values), *_writing(values)]
    if level == "D2":
        findings += _replicas(values, await _status(link))
    return findings


async def _status(link: Link) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in await link.rows(_STATUS)}


def _unconfirmed(status: dict[str, str]) -> int:
    return int(status.get("rpl_semi_sync_master_no_tx") or status.get("rpl_semi_sync_source_no_tx") or 0)


def _version(text: str) -> Finding:
    mariadb, numbers = version_of(text)
    lowest = MARIADB_VERSION_MIN if mariadb else MYSQL_VERSION_MIN
    return Finding("version", name_of(text), f">= {'.'.join(map(str, lowest))}", numbers >= lowest)


def _flushing(values: dict[str, str]) -> list[Finding]:
    flush = values.get("innodb_flush_log_at_trx_commit", "")
    findings = [Finding("innodb_flush_log_at_trx_commit", flush, "1", flush == "1")]
    if values.get("log_bin", "OFF").upper() in {"ON", "1"}:
        sync = values.get("sync_binlog", "")
        findings.append(Finding("sync_binlog", sync, "1", sync == "1"))
        # Statements of READ COMMITTED transactions cannot be logged as such: the server refuses them.
        form = values.get("binlog_format", "ROW").upper()
        findings.append(Finding("binlog_format", form, "ROW or MIXED", form != "STATEMENT"))
    twice = values.get("innodb_doublewrite", "").upper()
    findings.append(Finding("innodb_doublewrite", twice, "ON", twice in {"ON", "1", "DETECT_AND_RECOVER", "FAST"}))
    method = values.get("innodb_flush_method", "")
    findings.append(Finding("innodb_flush_method", method, "one that syncs", method not in {"nosync", "littlesync"}))
    return findings


def _writing(values: dict[str, str]) -> list[Finding]:
    read_only = values.get("read_only", "").upper()
    packet = int(values.get("max_allowed_packet", "0"))
    return [
        Finding("read_only", read_only, "OFF", read_only in {"OFF", "0"}),
        Finding("max_allowed_packet", str(packet), f">= {PACKET_BYTES_MIN}", packet >= PACKET_BYTES_MIN),
    ]


def _replicas(values: dict[str, str], status: dict[str, str]) -> list[Finding]:
    """Semi-synchronous, waiting before the commit is visible, with somebody there to wait for."""
    point = values.get("rpl_semi_sync_master_wait_point") or values.get("rpl_semi_sync_source_wait_point") or "none"
    on = status.get("rpl_semi_sync_master_status") or status.get("rpl_semi_sync_source_status") or "none"
    clients = status.get("rpl_semi_sync_master_clients") or status.get("rpl_semi_sync_source_clients") or "0"
    return [
        Finding("rpl_semi_sync_wait_point", point, "AFTER_SYNC", point == "AFTER_SYNC"),
        Finding("rpl_semi_sync_status", on, "ON", on == "ON"),
        Finding("rpl_semi_sync_clients", clients, ">= 1", int(clients) >= 1),
    ]
