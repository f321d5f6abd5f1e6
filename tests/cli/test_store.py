"""`longwave bootstrap`, `migrate` and `serve`: one key, once; nothing is overwritten; a newer store is refused."""

import os
import pty
import stat
import subprocess
from pathlib import Path

import pytest

from engine.config import Settings
from engine.registry.keys import parse
from engine.secrets import read_secrets
from engine.stores.connection import StoreLock, engine_over, open_writer
from server import app as engine_app
from server.cli import store
from tests.cli.conftest import Run, command, process_environment

FILE = Path("longwave.db")


def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the engine; returns where it notes that it was started."""
    starts: list[str] = []

    def run_engine(settings: Settings, **_options: object) -> int:
        starts.append(settings.store_url)
        return 0

    monkeypatch.setattr(engine_app, "run", run_engine)
    return starts


def test_bootstrap_makes_store_secrets_and_one_key(run: Run) -> None:
    ran = run("bootstrap", "--json")
    assert ran.code == 0, ran.err
    assert parse(ran.json["api_key"]) is not None
    assert store.has_keys(FILE)
    assert stat.S_IMODE(Path(ran.json["secret_file"]).stat().st_mode) == 0o600
    assert ran.json["api_key"] not in FILE.read_bytes().decode("latin-1")


def test_bootstrap_does_it_once_and_says_how_to_go_on(run: Run) -> None:
    first = run("bootstrap")
    assert first.out.startswith("export LONGWAVE_API_KEY=lw_a_")
    secrets = Path("longwave.db.secrets").read_bytes()
    again = run("bootstrap")
    assert again.code == 1
    assert again.out == ""
    assert "longwave key create" in again.err
    assert Path("longwave.db.secrets").read_bytes() == secrets


def test_a_lost_secret_file_is_not_made_anew(run: Run) -> None:
    assert run("bootstrap").code == 0
    connection = open_writer(FILE)
    connection.execute("UPDATE api_keys SET revoke_us = 1").fetchall()
    connection.close()
    Path("longwave.db.secrets").unlink()
    ran = run("bootstrap")
    assert ran.code == 2
    assert "restore it from its backup" in ran.err
    assert not Path("longwave.db.secrets").exists()


def test_a_store_in_use_is_left_alone(run: Run) -> None:
    assert run("bootstrap").code == 0
    lock = StoreLock(FILE)
    try:
        ran = run("bootstrap")
        assert ran.code == 2
        assert "is in use by another longwave process" in ran.err
    finally:
        lock.release()


@pytest.mark.parametrize("name", ["bootstrap", "migrate", "serve"])
def test_a_place_that_is_none_is_a_sentence(run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWAVE_STORE_URL", "sqlite:///nowhere/x.db")
    ran = run(name)
    assert ran.code == 2
    assert "Traceback" not in ran.err


def test_migrate_checks_and_applies(run: Run) -> None:
    assert run("migrate").code == 2
    open_writer(FILE).close()
    checked = run("migrate", "--check", "--json")
    assert checked.code == 1
    assert checked.json["missing"]
    applied = run("migrate", "--json")
    assert applied.code == 0
    assert applied.json["applied"] == checked.json["missing"]
    assert run("migrate", "--check").out == "missing: nothing\n"
    assert run("migrate").out == "applied: nothing\n"


@pytest.mark.parametrize("name", ["migrate", "serve", "bootstrap"])
def test_a_newer_store_is_refused(run: Run, name: str) -> None:
    assert run("bootstrap").code == 0
    connection = open_writer(FILE)
    with engine_over(connection).begin() as control:
        control.exec_driver_sql("UPDATE schema_version SET version_num = '9999'")
    connection.close()
    ran = run(name)
    assert ran.code == 2
    assert "run the newer longwave" in ran.err


def test_serve_wants_a_store_and_says_how(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = served(monkeypatch)
    ran = run("serve")
    assert ran.code == 2
    assert "longwave bootstrap" in ran.err
    assert not FILE.exists()
    assert run("bootstrap").code == 0
    assert run("serve").code == 0
    assert starts == ["sqlite:///./longwave.db"]


def test_serve_on_a_terminal_bootstraps(tmp_path: Path) -> None:
    """In a real terminal, by a process whose engine is replaced by one that ends at once."""
    script = (
        "import server.app, server.cli.app\n"
        "server.app.run = lambda settings, **options: 0\n"
        "server.cli.app.app(['serve'])\n"
    )
    controller, terminal = pty.openpty()
    try:
        python = command()[0]
        ran = subprocess.run(
            [python, "-c", script],
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=process_environment(),
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert b"export LONGWAVE_API_KEY=lw_a_" in os.read(controller, 4096)
    finally:
        os.close(controller)
        os.close(terminal)
    assert store.has_keys(tmp_path / "longwave.db")
    assert read_secrets(tmp_path / "longwave.db.secrets").api_key


def test_wrong_settings_are_all_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWAVE_GRPC_ADRESS", "x")
    monkeypatch.setenv("LONGWAVE_SEND_S", "-1")
    ran = run("serve")
    assert ran.code == 2
    assert "did you mean LONGWAVE_GRPC_ADDRESS?" in ran.err
    assert "LONGWAVE_SEND_S" in ran.err
