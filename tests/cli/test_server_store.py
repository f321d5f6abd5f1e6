"""`longwave bootstrap`, `migrate`, `doctor` and `serve` with a store on a server."""

import re
import signal
import socket
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.registry.keys import parse
from engine.secrets import read_secrets
from tests.cli.conftest import Run
from tests.server.process_fixture import EngineProcess
from tests.servers.certificates import make_certificates
from tests.servers.mariadb import PASSWORD, MariaDB


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, new_database: Callable[[], str], tmp_path: Path) -> dict[str, str]:
    """Settings of an empty store, in the environment, too."""
    settings = {
        "store_url": new_database(),
        "store_password": PASSWORD,
        "secret_file": str(tmp_path / "longwave.secrets"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"LONGWAVE_{name.upper()}", value)
    return settings


def test_bootstrap_makes_schema_secrets_and_one_key_once(run: Run, store: dict[str, str]) -> None:
    ran = run("bootstrap", "--json")
    assert ran.code == 0, ran.err
    assert parse(ran.json["api_key"]) is not None
    assert ran.json["store"] == store["store_url"]
    secrets = read_secrets(Path(store["secret_file"]))
    again = run("bootstrap")
    assert (again.code, again.out) == (1, "")
    assert "longwave key create" in again.err
    assert read_secrets(Path(store["secret_file"])) == secrets


def test_migrate_says_what_is_missing_and_adds_it(
    run: Run, store: dict[str, str], monkeypatch: pytest.MonkeyPatch, mariadb: MariaDB
) -> None:
    assert store
    monkeypatch.setenv("LONGWAVE_STORE_URL", mariadb.create_database("without_tables"))
    missing = run("migrate", "--check", "--json")
    assert (missing.code, missing.json["missing"]) == (1, ["0001"])
    assert run("migrate", "--json").json["applied"] == ["0001"]
    assert run("migrate", "--check").code == 0
    assert run("migrate", "--json").json["applied"] == []
    mariadb.drop_database("without_tables")


def test_doctor_finds_nothing_wrong_with_an_empty_database(
    run: Run, store: dict[str, str], monkeypatch: pytest.MonkeyPatch, mariadb: MariaDB
) -> None:
    """It is run before bootstrap, which makes schema and secret file."""
    monkeypatch.setenv("LONGWAVE_STORE_URL", mariadb.create_database("before_bootstrap"))
    ran = run("doctor", "--json")
    mariadb.drop_database("before_bootstrap")
    checks = {check["check"]: check for check in ran.json["checks"]}
    assert (checks["schema"]["level"], checks["secret file"]["level"]) == ("warn", "ok")
    assert not Path(store["secret_file"]).exists()
    assert ran.code == 0, ran.out


def test_doctor_misses_the_secret_file_of_a_store_that_has_keys(run: Run, store: dict[str, str]) -> None:
    assert run("bootstrap").code == 0
    Path(store["secret_file"]).unlink()
    checks = {check["check"]: check for check in run("doctor", "--json").json["checks"]}
    assert checks["secret file"]["level"] == "fail"


def test_doctor_looks_at_the_server(run: Run, store: dict[str, str]) -> None:
    assert run("bootstrap").code == 0
    checks = {check["check"]: check for check in run("doctor", "--json").json["checks"]}
    assert "mariadb" in checks["store"]["found"]
    assert checks["innodb_flush_log_at_trx_commit"]["level"] == "ok"
    assert checks["schema"]["level"] == checks["nodes"]["level"] == checks["secret file"]["level"] == "ok"
    assert PASSWORD not in str(checks)
    assert store["store_url"] in checks["store"]["found"]


def test_the_password_may_be_in_a_file(
    run: Run, store: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert store
    monkeypatch.delenv("LONGWAVE_STORE_PASSWORD")
    monkeypatch.setenv("LONGWAVE_STORE_PASSWORD_FILE", str(tmp_path / "password"))
    variable, ran = "LONGWAVE_STORE_PASSWORD_FILE", run("bootstrap")
    assert ran.code == 2
    advice = f"mount it there, or set {variable} to where it is"
    assert ran.err == f"longwave: {variable} {tmp_path}/password: No such file or directory: {advice}\n"
    checks = {check["check"]: check for check in run("doctor", "--json").json["checks"]}
    assert checks["store"]["level"] == "fail"
    assert checks["store"]["advice"] == advice
    assert "secret file" in checks, "the doctor looks on"
    (tmp_path / "password").write_text(f"{PASSWORD}\n", encoding="ascii")
    assert run("bootstrap").code == 0
    listed = run("config").out
    assert PASSWORD not in listed
    engine = EngineProcess(
        tmp_path, **store | {"store_password": "", "store_password_file": str(tmp_path / "password")}
    )
    try:
        engine.until_ready()
        engine.signal(signal.SIGTERM)
        code, logged = engine.end()
        assert code == 0, logged
        assert PASSWORD not in logged
    finally:
        engine.kill()


def test_an_engine_whose_files_for_redis_are_amiss_says_so_before_it_joins_the_store(
    run: Run, store: dict[str, str], tmp_path: Path, mariadb: MariaDB
) -> None:
    assert run("bootstrap").code == 0
    database = store["store_url"].rpartition("/")[2]
    before = mariadb.run("SELECT * FROM nodes", database=database)
    own, other = make_certificates(tmp_path / "own"), make_certificates(tmp_path / "other")
    certificate = {"redis_tls_cert_file": str(own.certificate), "redis_tls_ca_file": str(own.authority)}
    for wanted, words in (
        ({"redis_password_file": str(tmp_path / "absent")}, "LONGWAVE_REDIS_PASSWORD_FILE"),
        (certificate | {"redis_tls_key_file": str(other.key)}, "it is not the key of"),
    ):
        engine = EngineProcess(tmp_path, **store, redis_url="rediss://localhost:9", **wanted)
        try:
            code, logged = engine.end()
        finally:
            engine.kill()
        assert code != 0
        assert words in logged
    # A node that joins takes a number and writes itself down.
    assert mariadb.run("SELECT * FROM nodes", database=database) == before


def test_a_server_that_is_not_there_is_a_sentence(
    run: Run, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store
    monkeypatch.setenv("LONGWAVE_STORE_URL", "mysql://longwave@127.0.0.1:9/longwave")
    ran = run("bootstrap")
    assert ran.code == 1
    assert "is the server up" in ran.err
    assert PASSWORD not in ran.err


def test_a_mistyped_key_of_the_carrier_is_told_as_a_setting(run: Run, store: dict[str, str], tmp_path: Path) -> None:
    """It has 32 bytes, and is no point of the curve. The command line says a ConfigError as a sentence."""
    assert run("bootstrap").code == 0
    engine = EngineProcess(tmp_path, **store, telnyx_public_key="YWFh" * 10 + "YWE=")
    try:
        code, logged = engine.end()
    finally:
        engine.kill()
    assert code != 0
    assert "ConfigError: LONGWAVE_TELNYX_PUBLIC_KEY: public key is not a point of Ed25519: copy it" in logged


def test_an_engine_serves_it_and_ends_in_order(run: Run, store: dict[str, str], tmp_path: Path) -> None:
    assert run("bootstrap").code == 0
    first = EngineProcess(tmp_path, **store)
    try:
        first.until_ready()
        nodes = {check["check"]: check for check in run("doctor", "--json").json["checks"]}["nodes"]
        assert f"node 1 ({socket.gethostname()} pid " in nodes["found"]
        second = EngineProcess(tmp_path, **store, node="1")
        code, logged = second.end()
        assert code != 0
        assert "node number 1 is in use by" in logged
        first.signal(signal.SIGTERM)
        code, logged = first.end()
        assert code == 0, logged
        assert PASSWORD not in logged
    finally:
        first.kill()


def test_a_node_does_what_its_roles_say(run: Run, store: dict[str, str], tmp_path: Path) -> None:
    """One without `receipts` listens for no webhooks, one without `dispatch` never owns; both are ready."""
    assert run("bootstrap").code == 0
    nodes = [EngineProcess(tmp_path, **store, roles="ingest"), EngineProcess(tmp_path, **store, roles="dispatch,admin")]
    try:
        lines = [node.line() for node in nodes]
        assert all("is ready: gRPC" in line and "webhooks" not in line for line in lines), lines
        owners, services = [], []
        for line in lines:
            grpc_address, http_address = re.findall(r"gRPC (\S+), operations (\S+)", line)[0]
            with urllib.request.urlopen(f"{http_address}/metrics") as answer:  # noqa: S310 - loopback
                owners.append("\nlongwave_owner 1.0\n" in answer.read().decode())
            services.append(served(grpc_address))
        assert owners == [False, True]
        assert services == [
            {"Messaging", "Compliance", "Server"},
            {"Registry", "Server"},
        ]
    finally:
        for node in nodes:
            node.kill()


def served(address: str) -> set[str]:
    """Services of ours that a node says it has."""
    found = set()
    with grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("Messaging", "Compliance", "Registry", "Server"):
            with suppress(grpc.RpcError):
                health.Check(health_pb2.HealthCheckRequest(service=f"longwave.v1.{name}Service"))
                found.add(name)
    return found
