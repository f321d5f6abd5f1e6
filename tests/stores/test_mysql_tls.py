"""TLS to the server, as the settings ask for it: who is believed, and that nothing goes in plain text when it must not.

Which log-ins need TLS is the server's matter: MySQL's `caching_sha2_password` asks for it, or for the server's key.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asyncmy.errors import MySQLError

from engine.clock import Clock
from engine.config import Settings
from engine.errors import ConfigError
from engine.stores.mysql import dump
from engine.stores.mysql.address import TLS_PREFIX, Tls, TlsMode, parse
from engine.stores.mysql.store import MySQLStore
from engine.stores.opened import mysql_store
from engine.stores.store import Callbacks
from engine.tls_files import TlsFiles
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.mariadb import PASSWORD, USER, MariaDB, quick_folder

SSL_VERSION = "SHOW STATUS LIKE 'Ssl_version'"


@dataclass
class TlsServer:
    server: MariaDB
    certificates: Certificates
    other: Certificates

    def url(self, host: str = "localhost") -> str:
        return self.server.url("tls").replace("127.0.0.1", host)


@pytest.fixture(scope="module")
def tls(server_kind: type[MariaDB]) -> Iterator[TlsServer]:
    """A server whose certificate is for localhost, and which takes TLS alone."""
    with quick_folder() as folder:
        certificates = make_certificates(folder / "trusted")
        server = server_kind(folder / "server", certificates=certificates)
        server.start()
        server.create_database("tls")
        yield TlsServer(server, certificates, make_certificates(folder / "other"))
        server.remove()


@pytest.fixture
def plain(server_kind: type[MariaDB], request: pytest.FixtureRequest) -> Iterator[MariaDB]:
    """A server that takes no TLS; MySQL makes itself certificates unless it is told not to."""
    if server_kind is MariaDB:
        yield request.getfixturevalue("mariadb")
        return
    with quick_folder() as folder:
        server = server_kind(folder / "server", "--tls-version=")
        server.start()
        yield server
        server.remove()


@pytest.fixture
async def stores() -> AsyncIterator[list[MySQLStore]]:
    made: list[MySQLStore] = []
    yield made
    for store in made:
        await store.close()
    # A handshake that failed ends its socket in the loop's next turns.
    for _ in range(3):
        await asyncio.sleep(0)


def of(url: str, mode: str, authority: Path | None = None, **more: Any) -> MySQLStore:
    """The store of these settings."""
    wanted: dict[str, Any] = {
        "store_url": url, "store_password": PASSWORD, "store_tls": mode, "store_tls_ca_file": authority,
        "store_connections_min": 1, "secret_file": "longwave.secrets",
    } | more  # fmt: skip
    return mysql_store(Settings(**wanted), Clock(0))


async def opened(
    stores: list[MySQLStore], url: str, mode: str, authority: Path | None = None, **more: Any
) -> MySQLStore:
    store = of(url, mode, authority, **more)
    stores.append(store)
    await store.open(Callbacks(lambda _error: None, lambda _stats: None, lambda _full: None))
    return store


def holds(store: MySQLStore) -> bool:
    """As the lease's thread asks for it."""
    heart = store.heart()
    try:
        return heart.beat().held
    finally:
        heart.close()


async def test_a_certificate_of_the_authority_is_believed_for_every_connection(
    tls: TlsServer, stores: list[MySQLStore]
) -> None:
    store = await opened(stores, tls.url(), "verify", tls.certificates.authority)
    await store.begin_run()
    await store.run_control(lambda _connection: None)
    assert await asyncio.to_thread(holds, store)
    async with store.pool.link() as link:
        [(_, version)] = await link.rows(SSL_VERSION)
    assert version.startswith("TLSv1.")
    # The server counts: none of them came without.
    [(_, accepted)] = tls.server.run("SHOW GLOBAL STATUS LIKE 'Ssl_finished_accepts'")
    assert int(accepted) >= 4


@pytest.mark.parametrize("authority", ["another's", "the system's"])
async def test_a_certificate_of_another_authority_is_refused(
    tls: TlsServer, stores: list[MySQLStore], authority: str
) -> None:
    with pytest.raises(ConfigError, match="certificate verify failed") as refused:
        await opened(stores, tls.url(), "verify", tls.other.authority if authority == "another's" else None)
    assert PASSWORD not in str(refused.value)


async def test_a_certificate_for_another_host_is_refused(tls: TlsServer, stores: list[MySQLStore]) -> None:
    with pytest.raises(ConfigError, match=r"not valid for '127\.0\.0\.1'"):
        await opened(stores, tls.url("127.0.0.1"), "verify", tls.certificates.authority)


async def test_encrypting_alone_believes_anybody(tls: TlsServer, stores: list[MySQLStore]) -> None:
    store = await opened(stores, tls.url("127.0.0.1"), "encrypt")
    async with store.pool.link() as link:
        assert (await link.rows(SSL_VERSION))[0][1].startswith("TLSv1.")


async def test_a_server_that_wants_tls_refuses_plain_text(tls: TlsServer, stores: list[MySQLStore]) -> None:
    with pytest.raises(ConfigError):
        await opened(stores, tls.url(), "off")


@pytest.mark.parametrize("mode", ["verify", "encrypt"])
async def test_a_server_without_tls_is_refused_and_never_spoken_to_in_plain_text(
    plain: MariaDB, tls: TlsServer, stores: list[MySQLStore], mode: str
) -> None:
    authority = tls.certificates.authority if mode == "verify" else None
    with pytest.raises(ConfigError, match="SSL"):
        await opened(stores, plain.url("mysql"), mode, authority)


def test_a_file_that_holds_no_authority_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match=r"empty\.pem: .*certificate"):
        of("mysql://u@db/x", "verify", empty)


@pytest.fixture
def shows_one(tls: TlsServer) -> Iterator[str]:
    """The URL of a user who must show a certificate of the server's authority."""
    tls.server.run(
        f"CREATE USER shows_one@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE X509", "GRANT ALL ON *.* TO shows_one@'%'"
    )
    yield tls.url().replace(f"{USER}@", "shows_one@")
    tls.server.run("DROP USER shows_one@'%'")


def pair(certificates: Certificates) -> dict[str, Path]:
    return {"store_tls_cert_file": certificates.certificate, "store_tls_key_file": certificates.key}


@pytest.mark.parametrize("mode", ["verify", "encrypt"])
async def test_a_user_who_must_show_a_certificate_shows_it_on_every_connection(
    tls: TlsServer, stores: list[MySQLStore], shows_one: str, mode: str
) -> None:
    store = await opened(stores, shows_one, mode, tls.certificates.authority, **pair(tls.certificates))
    await store.begin_run()
    assert await store.run_control(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1
    assert await asyncio.to_thread(holds, store)


async def test_a_user_who_shows_none_is_refused(tls: TlsServer, stores: list[MySQLStore], shows_one: str) -> None:
    with pytest.raises(ConfigError, match="Access denied"):
        await opened(stores, shows_one, "verify", tls.certificates.authority)


async def test_a_certificate_that_the_server_does_not_believe_opens_nothing(
    tls: TlsServer, stores: list[MySQLStore], shows_one: str
) -> None:
    # In TLS 1.3 the server's alert races with our log-in: who writes into what was closed meanwhile never reads it.
    with pytest.raises((ConfigError, MySQLError), match=r"LONGWAVE_STORE_TLS_CERT_FILE|Lost connection"):
        await opened(stores, shows_one, "verify", tls.certificates.authority, **pair(tls.other))


def test_a_key_of_another_certificate_is_named(tls: TlsServer) -> None:
    mixed = pair(tls.certificates) | {"store_tls_key_file": tls.other.key}
    with pytest.raises(ConfigError, match=f"LONGWAVE_STORE_TLS_KEY_FILE {tls.other.key}: it is not the key of"):
        of("mysql://u@localhost/x", "verify", tls.certificates.authority, **mixed)


@pytest.mark.parametrize("mode", ["verify", "encrypt"])
def test_the_tools_that_dump_and_load_show_it_too(
    tls: TlsServer, shows_one: str, tmp_path: Path, mode: TlsMode
) -> None:
    own = tls.certificates
    files = TlsFiles(TLS_PREFIX, own.authority, own.certificate, own.key)
    source, target = (f"{name}_{mode}" for name in ("dumped", "loaded"))
    for name in (source, target):
        tls.server.create_database(name)
    tls.server.run("CREATE TABLE kept (id INT PRIMARY KEY)", "INSERT INTO kept VALUES (7)", database=source)
    address = parse(shows_one.replace("/tls", f"/{source}"), PASSWORD, None)
    mariadb = type(tls.server) is MariaDB
    tools = dump.Tools.found(Tls(mode, files), mariadb=mariadb)
    path = dump.take(address, tools, tmp_path, "0001")
    dump.load(address, tools, path, target)
    assert tls.server.run("SELECT id FROM kept", database=target) == [(7,)]
    bare = dump.Tools.found(Tls(mode, TlsFiles(TLS_PREFIX, own.authority)), mariadb=mariadb)
    with pytest.raises(dump.BackupFailed, match="Access denied"):
        dump.take(address, bare, tmp_path, "0002")
    with pytest.raises(dump.BackupFailed, match=r"ERROR 1045|exit code 1"):
        dump.load(address, bare, path, target)
