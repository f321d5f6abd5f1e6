"""`longwave bootstrap`, `migrate`, `doctor` and `serve` with a store on a server."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.registry.keys import parse
from engine.secrets import read_secrets
from tests.cli.conftest import Run
from tests.server.process_fixture import EngineProcess
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


def test_doctor_looks_at_the_server(run: Run, store: dict[str, str]) -> None:
    assert run("bootstrap").code == 0
    checks = {check["check"]: check for check in run("doctor", "--json").json["checks"]}
    assert "mariadb" in checks["store"]["found"]
    assert checks["innodb_flush_log_at_trx_commit"]["level"] == "ok"
    assert checks["schema"]["level"] == checks["lock"]["level"] == checks["secret file"]["level"] == "ok"
    assert PASSWORD not in str(checks)
    assert store["store_url"] in checks["store"]["found"]


def test_a_server_that_is_not_there_is_a_sentence(
    run: Run, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store
    monkeypatch.setenv("LONGWAVE_STORE_URL", "mysql://longwave@127.0.0.1:9/longwave")
    ran = run("bootstrap")
    assert ran.code == 1
    assert "is the server up" in ran.err
    assert PASSWORD not in ran.err


def test_an_engine_serves_it_and_ends_in_order(run: Run, store: dict[str, str], tmp_path: Path) -> None:
    assert run("bootstrap").code == 0
    first = EngineProcess(tmp_path, **store)
    try:
        first.until_ready()
        second = EngineProcess(tmp_path, **store)
        code, logged = second.end()
        assert code != 0
        assert "in use by another longwave process" in logged
        held = {check["check"]: check for check in run("doctor", "--json").json["checks"]}["lock"]
        assert "held" in held["found"]
        first.signal(signal.SIGTERM)
        code, logged = first.end()
        assert code == 0, logged
        assert PASSWORD not in logged
    finally:
        first.kill()
