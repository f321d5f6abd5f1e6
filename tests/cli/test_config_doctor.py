"""`longwave config` and `longwave doctor`: what is in force, and what is wrong with it."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from engine.stores.connection import StoreLock
from tests.cli.conftest import Ran, Run

PUBLIC_KEY = "YWFh" * 10 + "YWE="


@dataclass
class Provider:
    """A provider's front door."""

    url: str = ""
    status: int = 404
    date: str = ""
    paths: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    found = Provider()

    class Door(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.paths.append(self.path)
            found.keys.append(self.headers["authorization"])
            self.send_response_only(found.status)
            self.send_header("date", found.date or formatdate(usegmt=True))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        thread = threading.Thread(target=door.serve_forever, args=(0.01,))
        thread.start()
        found.url = f"http://127.0.0.1:{door.server_address[1]}/v2"
        monkeypatch.setenv("LONGWAVE_TELNYX_BASE_URL", found.url)
        monkeypatch.setenv("LONGWAVE_TELNYX_API_KEY", "KEYsecret")
        monkeypatch.setenv("LONGWAVE_TELNYX_PUBLIC_KEY", PUBLIC_KEY)
        yield found
        door.shutdown()
        thread.join(timeout=10)


@pytest.fixture(autouse=True)
def free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRPC", "HTTP", "WEBHOOK"):
        monkeypatch.setenv(f"LONGWAVE_{name}_ADDRESS", "127.0.0.1:0")


def levels(ran: Ran) -> dict[str, str]:
    return {finding["check"]: finding["level"] for finding in ran.json["checks"]}


def found(ran: Ran, check: str) -> dict[str, str]:
    return next(finding for finding in ran.json["checks"] if finding["check"] == check)


def test_config_hides_secrets_and_names_sources(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWAVE_API_KEY", "lw_t_secret")
    Path("settings.toml").write_text("in_flight_max = 64\n", encoding="utf-8")
    monkeypatch.setenv("LONGWAVE_CONFIG_FILE", "settings.toml")
    ran = run("config", "--json")
    listed = {setting["name"]: setting for setting in ran.json}
    assert listed["LONGWAVE_API_KEY"]["value"] == "(hidden)"
    assert (listed["LONGWAVE_IN_FLIGHT_MAX"]["value"], listed["LONGWAVE_IN_FLIGHT_MAX"]["source"]) == ("64", "file")
    assert listed["LONGWAVE_GRPC_ADDRESS"]["source"] == "environment"
    assert listed["LONGWAVE_SEND_S"]["source"] == "default"
    table = run("config")
    assert "lw_t_secret" not in ran.out + table.out
    assert "LONGWAVE_SEND_S" in table.out


def test_config_writes_the_reference(run: Run) -> None:
    ran = run("config", "--markdown")
    assert "| `LONGWAVE_STORE_URL` | `sqlite:///./longwave.db` |" in ran.out


def test_all_is_well(run: Run, provider: Provider) -> None:
    assert run("bootstrap").code == 0
    ran = run("doctor", "--json")
    assert ran.code == 0, ran.out
    assert ran.json["ok"]
    assert set(levels(ran).values()) <= {"ok", "warn"}
    for check in ("store schema", "store journal_mode", "store synchronous", "secret file", "provider telnyx", "clock"):
        assert levels(ran)[check] == "ok", found(ran, check)
    assert provider.paths == ["/v2/messages/00000000-0000-0000-0000-000000000000"]
    assert provider.keys == ["Bearer KEYsecret"]
    assert "KEYsecret" not in ran.out
    people = run("doctor")
    assert people.code == 0
    assert "ok   store schema:" in people.out


def test_without_a_store_and_keys_it_warns_and_says_what_to_do(run: Run) -> None:
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert levels(ran)["store"] == "warn"
    assert "longwave bootstrap" in found(ran, "store")["advice"]
    assert levels(ran)["provider telnyx"] == "warn"
    assert not Path("longwave.db").exists()


@pytest.mark.usefixtures("provider")
def test_a_store_that_a_start_would_refuse_as_too_old_is_told(run: Run) -> None:
    assert run("bootstrap").code == 0
    Path("longwave.db.epoch").write_text("7\n", encoding="ascii")
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert "run 7 was its last" in found(ran, "store age")["found"]
    assert "longwave.db.epoch" in found(ran, "store age")["advice"]
    Path("longwave.db").rename("elsewhere")
    ran = run("doctor", "--json")
    assert "is gone or empty" in found(ran, "store age")["found"]
    assert "longwave.db.epoch" in found(ran, "store age")["advice"]


@pytest.mark.parametrize(("status", "level"), [(401, "fail"), (403, "fail"), (200, "ok"), (503, "warn")])
def test_the_providers_answer_is_judged(run: Run, provider: Provider, status: int, level: str) -> None:
    provider.status = status
    assert levels(run("doctor", "--json"))["provider telnyx"] == level


@pytest.mark.usefixtures("provider")
def test_a_provider_that_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWAVE_TELNYX_BASE_URL", "http://127.0.0.1:1/v2")
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert "did not answer" in found(ran, "provider telnyx")["found"]


@pytest.mark.parametrize(("ahead_s", "level"), [(60, "warn"), (3600, "fail")])
def test_a_clock_that_is_off(run: Run, provider: Provider, ahead_s: int, level: str) -> None:
    provider.date = formatdate(time.time() + ahead_s, usegmt=True)
    assert levels(run("doctor", "--json"))["clock"] == level


def test_a_port_in_use(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        address = f"127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setenv("LONGWAVE_HTTP_ADDRESS", address)
        ran = run("doctor", "--json")
        assert ran.code == 1
        assert "LONGWAVE_HTTP_ADDRESS" in found(ran, "operations address")["advice"]
        # With an engine on the store the same is as it should be.
        assert run("bootstrap").code == 0
        lock = StoreLock(Path("longwave.db"))
        try:
            again = run("doctor", "--json")
        finally:
            lock.release()
        assert levels(again)["operations address"] == "ok"
        assert levels(again)["lock"] == "ok"


def test_a_secret_file_that_others_may_read(run: Run) -> None:
    assert run("bootstrap").code == 0
    Path("longwave.db.secrets").chmod(0o644)
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert "chmod 600" in found(ran, "secret file")["found"]


def test_a_file_that_is_no_store(run: Run) -> None:
    Path("longwave.db").write_bytes(b"not a database" * 1000)
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert levels(ran)["store"] == "fail"


def test_wrong_settings_are_the_first_thing_it_finds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWAVE_LEASE_S", "1")
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert {finding["check"] for finding in ran.json["checks"]} == {"settings"}
