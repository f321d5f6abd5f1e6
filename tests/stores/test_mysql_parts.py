"""The parts of the MySQL store by themselves: what an error means, where a server is, how connections are lent."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asyncmy import errors

from engine import _core
from engine.errors import ConfigError
from engine.stores.mysql import pool as pools
from engine.stores.mysql.address import TLS_PREFIX, Tls, parse
from engine.stores.mysql.durability import Watch, name_of, version_of
from engine.stores.mysql.faults import Fault, classify, is_our_certificate
from engine.stores.mysql.pool import Limits, Loan, Pool
from engine.tls_files import TlsFiles
from tests.servers.mariadb import PASSWORD, MariaDB


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (errors.OperationalError(1213, "Deadlock found"), Fault.AGAIN),
        (errors.OperationalError(1205, "Lock wait timeout exceeded"), Fault.AGAIN),
        (errors.OperationalError(1020, "Record has changed since last read"), Fault.AGAIN),
        (errors.OperationalError(1412, "Table definition has changed"), Fault.AGAIN),
        (errors.OperationalError(1969, "max_statement_time exceeded"), Fault.LOST),
        (errors.OperationalError(1226, "max_user_connections"), Fault.LOST),
        (errors.OperationalError(2013, "Lost connection"), Fault.LOST),
        (errors.OperationalError(2006, "gone away"), Fault.LOST),
        (errors.OperationalError(1040, "Too many connections"), Fault.LOST),
        (errors.InterfaceError("(0, 'Not connected')"), Fault.LOST),
        (ConnectionResetError(), Fault.LOST),
        (TimeoutError(), Fault.LOST),
        (asyncio.CancelledError(), Fault.LOST),
        (errors.OperationalError(1290, "--read-only"), Fault.READ_ONLY),
        (errors.OperationalError(1792, "READ ONLY transaction"), Fault.READ_ONLY),
        (errors.OperationalError(1836, "Running in read-only mode"), Fault.READ_ONLY),
        (errors.OperationalError(1021, "Disk full"), Fault.FULL),
        (errors.InternalError(1114, "The table is full"), Fault.FULL),
        (errors.InternalError(1030, "Got error 28 'No space left on device' from storage engine"), Fault.FULL),
        (errors.InternalError(1180, "Got error 28 'No space left on device' during COMMIT"), Fault.FULL),
        (errors.InternalError(1030, "Got error 168 from storage engine"), Fault.PROGRAM),
        (errors.IntegrityError(1062, "Duplicate entry"), Fault.DATA),
        (errors.DataError(1406, "Data too long"), Fault.DATA),
        (errors.DataError(1264, "Out of range"), Fault.DATA),
        (errors.OperationalError(1366, "Incorrect string value"), Fault.DATA),
        (errors.OperationalError(3819, "Check constraint"), Fault.DATA),
        (errors.OperationalError(1045, "Access denied"), Fault.REFUSED),
        (errors.ProgrammingError(1064, "You have an error in your SQL syntax"), Fault.PROGRAM),
        (RuntimeError("a bug"), Fault.PROGRAM),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_an_error_means(error: BaseException, fault: Fault) -> None:
    assert classify(error) is fault


def test_an_address_has_its_parts_and_shows_no_password() -> None:
    address = parse("mysql://app%40x@db.example:3307/longwave", "hunter2", None)
    assert (address.host, address.port, address.user, address.database) == ("db.example", 3307, "app@x", "longwave")
    assert parse("mysql://u@db/longwave", "", None).port == 3306
    assert "hunter2" not in repr(address) + address.shown


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db/longwave",
        "mysql://u@db",
        "mysql://u@db/a/b",
        "mysql://u@db/a?b=c",
        "mysql://u@db:x/a",
        "sqlite:///a",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="write mysql://"):
        parse(url, "", None)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        parse("mysql://u:hunter2@db/longwave", "", None)
    assert "hunter2" not in str(refused.value)


def test_a_missing_authority_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"LONGWAVE_STORE_TLS_CA_FILE absent\.pem"):
        Tls("verify", TlsFiles(TLS_PREFIX, Path("absent.pem"))).context()


@pytest.mark.parametrize(
    ("reason", "fault", "ours"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", Fault.REFUSED, True),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", Fault.REFUSED, True),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", Fault.REFUSED, True),
        ("WRONG_VERSION_NUMBER", Fault.REFUSED, False),
        ("TLSV1_ALERT_INTERNAL_ERROR", Fault.LOST, False),
    ],
)
def test_what_the_server_says_of_our_certificate_is_told_apart(reason: str, fault: Fault, ours: bool) -> None:  # noqa: FBT001
    said = ssl.SSLError(1, reason)
    said.reason = reason
    error = errors.OperationalError(2013, "Lost connection to MySQL server during query")
    error.__context__ = said
    assert (classify(error), is_our_certificate(error)) == (fault, ours)


@pytest.mark.parametrize(
    ("text", "mariadb", "numbers", "name"),
    [
        ("10.11.19-MariaDB-0+deb12u1-log", True, (10, 11, 19), "mariadb 10.11.19"),
        ("5.5.5-10.6.4-MariaDB", True, (10, 6, 4), "mariadb 10.6.4"),
        ("9.7.4", False, (9, 7, 4), "mysql 9.7.4"),
        ("8.0.36-28.1 Percona", False, (8, 0, 36), "mysql 8.0.36"),
        ("who knows", False, (0, 0, 0), "mysql 0.0.0"),
    ],
)
def test_a_version_is_read(text: str, mariadb: bool, numbers: tuple[int, ...], name: str) -> None:  # noqa: FBT001
    assert version_of(text) == (mariadb, numbers)
    assert name_of(text) == name


class Answers:
    """A server that answers the look at its durability, in the words of one kind."""

    def __init__(self, role: str) -> None:
        self.variables = {
            "innodb_flush_log_at_trx_commit": "1", "sync_binlog": "1", "log_bin": "ON", "innodb_doublewrite": "ON",
            "innodb_flush_method": "O_DIRECT", "read_only": "OFF", "max_allowed_packet": "67108864",
            f"rpl_semi_sync_{role}_wait_point": "AFTER_SYNC",
        }  # fmt: skip
        self.role = role
        self.status = {"status": "ON", "clients": "1", "no_tx": "3"}

    async def rows(self, statement: str, _values: object = None) -> list[tuple[str, ...]]:
        if "VERSION" in statement:
            return [("8.4.3",)]
        if "VARIABLES" in statement:
            return list(self.variables.items())
        return [(f"Rpl_semi_sync_{self.role}_{name}", value) for name, value in self.status.items()]


@pytest.mark.parametrize("role", ["master", "source"])
async def test_semi_sync_is_known_by_its_old_and_new_names(role: str) -> None:
    server: Any = Answers(role)
    watch = Watch("D2")

    async def bad() -> list[str]:
        return [finding.name for finding in await watch.check(server) if not finding.ok]

    assert await bad() == []
    server.status["no_tx"] = "5"
    assert await bad() == ["commits without a replica since the last look"]
    server.status["no_tx"] = "0"  # the server began anew
    assert await bad() == []
    server.status["clients"] = "0"
    assert await bad() == ["rpl_semi_sync_clients"]
    server.status = {}
    assert set(await bad()) == {"rpl_semi_sync_status", "rpl_semi_sync_clients"}


def test_recipients_spread_over_the_slots_that_stand_for_them() -> None:
    slots = {_core.opt_out_slot(tenant, 12025550100 + line) for tenant in range(1, 9) for line in range(500)}
    assert max(slots) < 4096
    assert len(slots) > 500
    assert _core.opt_out_slot(1, 12025550100) == _core.opt_out_slot(1, 12025550100)
    assert _core.opt_out_slot(1, 12025550100) != _core.opt_out_slot(2, 12025550100)


@pytest.fixture
async def loans() -> list[Loan]:
    return []


@pytest.fixture
async def pool(mariadb: MariaDB, loans: list[Loan]) -> AsyncIterator[Pool]:
    """Three connections at most, one at the start."""
    made = Pool(parse(mariadb.url("mysql"), PASSWORD, None), Limits(1, 3, 3.0, 0.5), on_lent=loans.append)
    await made.open()
    yield made
    await made.close()


async def test_a_connection_is_lent_again_and_set_up(pool: Pool) -> None:
    async with pool.link() as link:
        first = link.thread_id
        [(mode, zone)] = await link.rows("SELECT @@sql_mode, @@time_zone")
        isolation = await link.rows("SHOW VARIABLES LIKE 't%_isolation'")
    assert "STRICT_ALL_TABLES" in mode
    assert zone == "+00:00"
    assert {value for _, value in isolation} == {"READ-COMMITTED"}
    async with pool.link() as link:
        assert link.thread_id == first
    assert (pool.open_count, pool.in_use) == (1, 0)


async def test_no_more_are_open_than_may_be_and_who_waits_is_counted(pool: Pool, loans: list[Loan]) -> None:
    release = asyncio.Event()

    async def hold() -> None:
        async with pool.link() as link:
            await link.rows("SELECT 1")
            await release.wait()

    holding = [asyncio.ensure_future(hold()) for _ in range(5)]
    async with asyncio.timeout(10):
        while len(loans) < 3 or pool.waiting < 2:  # noqa: ASYNC110 - connecting takes as long as it takes
            await asyncio.sleep(0)
    assert (pool.open_count, pool.in_use, pool.waiting) == (3, 3, 2)
    release.set()
    await asyncio.gather(*holding)
    assert (pool.open_count, pool.in_use, pool.waiting) == (3, 0, 0)
    assert loans[-1].waited_s > loans[0].waited_s >= 0


async def test_a_connection_whose_statement_was_cut_short_is_thrown_away(pool: Pool) -> None:
    async with pool.link() as link:
        first = link.thread_id

    async def long() -> None:
        async with pool.link() as link:
            await link.rows("SELECT SLEEP(0.4)")

    cut = asyncio.ensure_future(long())
    while pool.in_use == 0:  # noqa: ASYNC110 - a turn or two
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    cut.cancel()
    await asyncio.gather(cut, return_exceptions=True)
    assert pool.open_count == 0
    async with pool.link() as link:
        assert link.thread_id != first
        assert await link.rows("SELECT 2") == [(2,)]


async def test_a_statement_that_takes_too_long_is_given_up(pool: Pool) -> None:
    with pytest.raises(TimeoutError):
        async with pool.link() as link:
            await link.rows("SELECT SLEEP(5)")
    assert pool.open_count == 0


async def test_an_open_transaction_is_not_handed_on(pool: Pool) -> None:
    async with pool.link() as link:
        link.in_transaction = True
        await link.run("BEGIN")
        first = link.thread_id
    async with pool.link() as link:
        assert link.thread_id != first


async def test_one_that_died_idle_is_found_dead_before_it_is_lent(
    pool: Pool, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool.link() as link:
        first = link.thread_id
    await asyncio.to_thread(mariadb.run, f"KILL {first}")
    monkeypatch.setattr(pools, "PING_AFTER_S", 0)
    async with pool.link() as link:
        assert link.thread_id != first
        assert await link.rows("SELECT 2") == [(2,)]


async def test_an_old_one_ends_its_days(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool.link() as link:
        first = link.thread_id
    monkeypatch.setattr(pools, "MAX_AGE_S", 0)
    async with pool.link() as link:
        assert link.thread_id != first


async def test_dropped_ones_are_not_lent_again(pool: Pool) -> None:
    async with pool.link() as link:
        first = link.thread_id
        pool.drop()
    async with pool.link() as link:
        assert link.thread_id != first
    assert pool.open_count == 1
