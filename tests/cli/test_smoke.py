"""`longwave smoke` against a real engine with the simulated carrier, and against what is broken in every way."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest.carrier.signing import key_seed_from
from loadtest.ports import free_ports
from longwave.client import Client, Unavailable
from server.cli.failure import CliFailure
from server.cli.smoke_checks import EngineChecks
from tests.cli.conftest import Ran, Run
from tests.cli.fake_engine import API_KEY, FakeEngine
from tests.corridor.carrier_process import Carrier, CarrierProcess
from tests.corridor.engine_fixture import API_KEY as CARRIER_KEY
from tests.corridor.engine_fixture import Signing
from tests.server.process_fixture import EngineProcess, make_store
from tests.server.test_listener import Authority, write

RECIPIENT = "+12025550123"
CHAIN = ["link", "health", "version", "wrong key", "submit", "submit again"]


@pytest.fixture(scope="module")
def carrier_process() -> Iterator[CarrierProcess]:
    process = CarrierProcess()
    yield process
    process.stop()


@dataclass
class Live:
    """A real engine that sends through the simulated carrier."""

    process: EngineProcess
    carrier: CarrierProcess
    key: str

    @property
    def ops(self) -> str:
        return self.process.http

    def set_carrier(self, **settings: Any) -> None:
        """Renew the carrier with these settings over quick ones."""

        async def renew() -> None:
            async with aiohttp.ClientSession() as session:
                await Carrier(self.carrier, session).renew(**settings)

        asyncio.run(renew())


def start_live(folder: Path, carrier: CarrierProcess, **settings: str) -> Live:
    key = make_store(folder)
    (port,) = free_ports(1)
    process = EngineProcess(
        folder,
        webhook_address=f"127.0.0.1:{port}",
        telnyx_base_url=f"http://127.0.0.1:{carrier.port}/v2",
        telnyx_api_key=CARRIER_KEY,
        telnyx_public_key=Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1))).public_base64,
        **settings,
    )
    process.until_ready()
    live = Live(process, carrier, key)
    live.set_carrier()
    return live


@pytest.fixture(scope="module")
def shared_live(carrier_process: CarrierProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    live = start_live(tmp_path_factory.mktemp("live"), carrier_process)
    yield live
    live.process.kill()


@pytest.fixture
def live(shared_live: Live, monkeypatch: pytest.MonkeyPatch) -> Live:
    shared_live.set_carrier()
    monkeypatch.setenv("LONGWAVE_GRPC_ADDRESS", shared_live.process.grpc)
    monkeypatch.setenv("LONGWAVE_API_KEY", shared_live.key)
    return shared_live


def results(ran: Ran) -> dict[str, str]:
    return {check["check"]: check["level"] for check in ran.json["checks"]}


def found(ran: Ran, check: str) -> dict[str, Any]:
    return next(each for each in ran.json["checks"] if each["check"] == check)


def test_a_message_goes_all_the_way(live: Live, run: Run) -> None:
    ran = run("smoke", "--campaign", "notices", "--to", RECIPIENT, "--ops", live.ops, "--json")
    assert ran.code == 0, ran.out
    assert ran.json["ok"]
    assert results(ran) == dict.fromkeys([*CHAIN, "delivered", "ready", "metrics"], "ok")
    assert found(ran, "delivered")["found"].startswith("DELIVERED RECEIPT")
    assert all(check["seconds"] >= 0 for check in ran.json["checks"])
    assert live.key not in ran.out


def test_without_a_recipient_nothing_reaches_the_carrier(live: Live, run: Run) -> None:
    ran = run("smoke", "--campaign", "campaigns/notices")
    assert ran.code == 0, ran.out
    assert [line.split(" s  ")[1].partition(":")[0] for line in ran.out.splitlines()] == [*CHAIN, "cancelled"]
    assert all(line.startswith("ok ") for line in ran.out.splitlines())
    assert "CANCELLED CANCELLED, nothing left" in ran.out

    async def sent() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            return await Carrier(live.carrier, session).records()

    assert asyncio.run(sent()) == []


def test_a_message_of_an_hour_ahead_is_cancelled_though_a_check_before_failed(
    live: Live, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would go to the carrier in an hour, when nobody looks any more."""
    assert live.key

    def fails(_: EngineChecks) -> str:
        raise CliFailure("the same request id made another message")

    monkeypatch.setattr(EngineChecks, "submit_again", fails)
    ran = run("smoke", "--campaign", "notices", "--json")
    assert ran.code == 1
    assert results(ran) == dict.fromkeys(CHAIN, "ok") | {"submit again": "fail", "cancelled": "ok"}


def test_a_message_whose_answer_was_lost_is_cancelled(live: Live, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert live.key
    submit, made = Client.submit, []

    def loses(self: Client, *arguments: Any, **more: Any) -> Any:
        made.append(submit(self, *arguments, **more).message)
        if len(made) == 1:
            raise Unavailable("too late", outcome_unknown=True)
        return submit(self, *arguments, **more)

    monkeypatch.setattr(Client, "submit", loses)
    ran = run("smoke", "--campaign", "notices", "--json")
    assert ran.code == 1
    assert (results(ran)["submit"], results(ran)["cancelled"]) == ("fail", "ok")
    assert len(set(made)) == 1


def test_a_carrier_that_refuses_fails_it_with_the_reason(live: Live, run: Run) -> None:
    live.set_carrier(async_failure_share=1, async_failures=[{"code": "40001"}])
    ran = run("smoke", "--campaign", "notices", "--to", RECIPIENT, "--json")
    assert ran.code == 1
    assert results(ran) == dict.fromkeys(CHAIN, "ok") | {"delivered": "fail"}
    assert found(ran, "delivered")["found"].startswith("UNDELIVERED RECEIPT")
    assert "longwave get messages/" in found(ran, "delivered")["advice"]


def test_no_receipt_in_time_fails_it(live: Live, run: Run) -> None:
    live.set_carrier(receipt_lost_share=1)
    ran = run("smoke", "--campaign", "notices", "--to", RECIPIENT, "--within", "500ms", "--json")
    assert ran.code == 1
    assert found(ran, "delivered")["level"] == "fail"
    assert "after 0.5 s" in found(ran, "delivered")["found"]


@pytest.mark.usefixtures("live")
def test_a_wrong_key_fails_at_the_first_call_that_needs_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWAVE_API_KEY", EngineChecks.made_up_key())
    ran = run("smoke", "--campaign", "notices", "--json")
    assert ran.code == 1
    assert results(ran)["health"] == "ok"
    assert results(ran)["version"] == "fail"
    assert "longwave key create" in found(ran, "version")["advice"]
    assert found(ran, "submit")["found"] == "not tried: version failed"


@pytest.mark.usefixtures("live")
def test_a_campaign_that_is_not_there_fails_the_submission(run: Run) -> None:
    ran = run("smoke", "--campaign", "nothing", "--json")
    assert ran.code == 1
    assert results(ran)["submit"] == "fail"


@pytest.mark.usefixtures("live")
def test_another_version_than_expected_fails_it(run: Run) -> None:
    ran = run("smoke", "--campaign", "notices", "--expect-version", "9.9.9", "--json")
    assert ran.code == 1
    assert found(ran, "version")["found"].endswith("not 9.9.9")


def test_an_engine_that_is_down_fails_soon_and_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    grpc_port, ops_port = free_ports(2)
    monkeypatch.setenv("LONGWAVE_GRPC_ADDRESS", f"127.0.0.1:{grpc_port}")
    monkeypatch.setenv("LONGWAVE_API_KEY", API_KEY)
    began_at = time.monotonic()
    ran = run("smoke", "--campaign", "notices", "--ops", f"http://127.0.0.1:{ops_port}")
    assert time.monotonic() - began_at < 30
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert any(line.startswith("fail") and "health" in line for line in lines)
    assert any(line.startswith("fail") and "ready: " in line and "did not answer" in line for line in lines)
    assert "longwave serve" in ran.out


def test_a_server_without_health_is_no_engine(engine: FakeEngine, run: Run) -> None:
    ran = run("smoke", "--campaign", "notices", "--json")
    assert ran.code == 1
    assert results(ran)["health"] == "fail"
    assert engine.arrivals == []


@pytest.mark.usefixtures("live")
def test_operations_that_are_no_engines_fail(run: Run) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"ready":false,"reasons":["draining"]}' if self.path == "/ready" else b"up 1\n"
            self.send_response(503 if self.path == "/ready" else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        ran = run("smoke", "--campaign", "notices", "--ops", f"http://127.0.0.1:{server.server_address[1]}", "--json")
        server.shutdown()
        thread.join(timeout=10)
    assert ran.code == 1
    assert found(ran, "ready")["found"] == "HTTP 503: draining"
    assert "this is not an engine" in found(ran, "metrics")["found"]
    assert results(ran)["cancelled"] == "ok"


@pytest.mark.usefixtures("live")
def test_operations_without_an_address_fail_and_are_no_crash(run: Run) -> None:
    ran = run("smoke", "--campaign", "notices", "--ops", "http://127.0.0.1:eight", "--json")
    assert ran.code == 1
    assert "write http://host:port" in found(ran, "ready")["found"]


def test_how_it_was_called_is_told_apart_from_what_it_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("smoke").code == 2
    ran = run("smoke", "--campaign", "notices")
    assert ran.code == 2
    assert "LONGWAVE_API_KEY" in ran.err
    monkeypatch.setenv("LONGWAVE_API_KEY", API_KEY)
    ran = run("--cert-file", "only.pem", "smoke", "--campaign", "notices")
    assert ran.code == 2
    assert "go together" in ran.err


def test_a_client_certificate_is_shown_where_the_engine_asks_for_one(
    carrier_process: CarrierProcess, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    files = {name: str(value) for name, value in write(tmp_path, authority.issue("localhost")).items()}
    own = tmp_path / "own"
    own.mkdir()
    shown = write(own, authority.issue("client"))
    live = start_live(tmp_path, carrier_process, grpc_tls_client_ca_file=str(ca), **files)
    monkeypatch.setenv("LONGWAVE_API_KEY", live.key)
    monkeypatch.setenv("LONGWAVE_GRPC_ADDRESS", f"localhost:{live.process.grpc.rpartition(':')[2]}")
    cert, key = str(shown["grpc_tls_cert_file"]), str(shown["grpc_tls_key_file"])
    command = ("smoke", "--campaign", "notices", "--json")
    try:
        with_all = run("--ca-file", str(ca), "--cert-file", cert, "--key-file", key, *command)
        without_certificate = run("--ca-file", str(ca), *command)
        another_authority = run("--tls", *command)
        in_the_clear = run(*command)
    finally:
        live.process.kill()
    assert with_all.code == 0, with_all.out
    assert "by TLSv1.3, certificate good for" in found(with_all, "link")["found"]
    assert without_certificate.code == 1
    assert "ok" not in {results(without_certificate)[name] for name in CHAIN[1:]}
    assert results(another_authority)["link"] == "fail"
    assert "--ca-file FILE" in found(another_authority, "link")["advice"]
    assert results(in_the_clear)["health"] == "fail"


@pytest.mark.usefixtures("live")
def test_tls_towards_an_engine_without_it_is_told(run: Run) -> None:
    ran = run("--tls", "smoke", "--campaign", "notices", "--json")
    assert ran.code == 1
    assert "does not take TLS" in found(ran, "link")["found"]
    assert json.loads(ran.out)["checks"][1]["found"] == "not tried: link failed"
