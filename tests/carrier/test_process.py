"""The carrier as a process of its own, and the provider's own SDK against it."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
import telnyx

from loadtest.carrier.signing import Signer, key_seed_from

ROOT = Path(__file__).parents[2]
StartCarrier = Callable[..., "Process"]


class Process:
    """A carrier that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.ready: dict[str, Any] = json.loads(process.stdout.readline() or b"{}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ready['port']}"

    def control(self, path: str, values: object = None, method: str = "GET") -> bytes:
        body = None if values is None else json.dumps(values).encode()
        request = urllib.request.Request(f"{self.url}/control/{path}", data=body, method=method)  # noqa: S310 - 127.0.0.1
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - 127.0.0.1
            return bytes(answer.read())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, bytes, bytes]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def start_carrier() -> Iterator[StartCarrier]:
    started: list[Process] = []

    def start(*options: str) -> Process:
        command = [sys.executable, "-m", "loadtest.carrier", "--api-key", "KEY_made_up", *options]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(Process(process))
        return started[-1]

    yield start
    for carrier in started:
        if carrier.process.poll() is None:
            carrier.process.kill()
        carrier.process.communicate(timeout=20)


@pytest.fixture
def webhooks() -> Iterator[tuple[str, "Queue[tuple[dict[str, str], str]]"]]:
    """A receiver on a thread of its own: its URL, and what arrives there."""
    arrived: Queue[tuple[dict[str, str], str]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()
            arrived.put((dict(self.headers.items()), body))

        def log_message(self, *_arguments: object) -> None:
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/telnyx", arrived
        server.shutdown()
        thread.join()


def test_official_sdk_sends_retrieves_and_unwraps(
    start_carrier: StartCarrier, webhooks: tuple[str, "Queue[tuple[dict[str, str], str]]"]
) -> None:
    url, arrived = webhooks
    carrier = start_carrier("--inbound-webhook-url", url)
    with telnyx.Telnyx(
        api_key="KEY_made_up", base_url=carrier.url + "/v2", public_key=carrier.ready["public_key"], max_retries=0
    ) as client:
        request: dict[str, Any] = {
            "to": "+12025550123",
            "from_": "+12025550100",
            "text": "Your order has shipped €",
            "encoding": "gsm7",
            "webhook_url": url,
            "idempotency_key": "1:1",
        }
        # The SDK's types are unions of everything it knows; what is tested is what it made of our answers.
        sent: Any = client.messages.send(**request).data
        assert (sent.to[0].status, sent.parts, sent.encoding) == ("queued", 1, "GSM-7")
        again: Any = client.messages.send(**request).data
        assert again.id == sent.id
        events: list[Any] = []
        for _ in range(2):
            headers, body = arrived.get(timeout=20)
            events.append(client.webhooks.unwrap(body, headers=headers))
        assert [event.data.event_type for event in events] == ["message.sent", "message.finalized"]
        assert {event.data.payload.id for event in events} == {sent.id}
        found: Any = client.messages.retrieve(sent.id).data
        assert found.to[0].status == "delivered"
        carrier.control("inbound", {"from": "+12025550123", "to": "+12025550100", "text": "Hi"}, "POST")
        headers, body = arrived.get(timeout=20)
        inbound: Any = client.webhooks.unwrap(body, headers=headers)
        assert (inbound.data.event_type, inbound.data.payload.text) == ("message.received", "Hi")
        with pytest.raises(ValueError, match="Signature verification failed"):
            client.webhooks.unwrap(body.replace("Hi", "Ho"), headers=headers)


def test_official_sdk_understands_refusals(start_carrier: StartCarrier) -> None:
    carrier = start_carrier()
    with telnyx.Telnyx(api_key="KEY_made_up", base_url=carrier.url + "/v2", max_retries=0) as client:
        with pytest.raises(telnyx.BadRequestError, match="40310"):
            client.messages.send(to="nobody", from_="+12025550100", text="x")
        client.messages.send(to="+12025550123", from_="+12025550100", text="x", idempotency_key="1:1")
        with pytest.raises(telnyx.UnprocessableEntityError):
            client.messages.send(to="+12025550123", from_="+12025550100", text="y", idempotency_key="1:1")
        carrier.control("config", {"throttle_share": 1}, "PATCH")
        with pytest.raises(telnyx.RateLimitError) as refused:
            client.messages.send(to="+12025550123", from_="+12025550100", text="z")
        assert refused.value.response.headers["retry-after"] == "1"
    with (
        telnyx.Telnyx(api_key="other", base_url=carrier.url + "/v2", max_retries=0) as stranger,
        pytest.raises(telnyx.AuthenticationError),
    ):
        stranger.messages.send(to="+12025550123", from_="+12025550100", text="x")


def test_record_file_is_what_the_control_call_gives(start_carrier: StartCarrier, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    carrier = start_carrier("--record", str(path))
    with telnyx.Telnyx(api_key="KEY_made_up", base_url=carrier.url + "/v2", max_retries=0) as client:
        for number in range(20):
            client.messages.send(to="+12025550123", from_="+12025550100", text=f"text {number}")
    given = carrier.control("messages")
    assert path.read_bytes() == given  # Already there while it runs.
    assert path.stat().st_mode & 0o077 == 0
    assert len(given.splitlines()) == 20
    code, out, err = carrier.stop()
    assert (code, out, err) == (0, b"", b"")
    assert path.read_bytes() == given


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly_with_a_caller_waiting(start_carrier: StartCarrier, number: signal.Signals) -> None:
    carrier = start_carrier()
    carrier.control("config", {"silence_taken_share": 1}, "PATCH")
    with telnyx.Telnyx(api_key="KEY_made_up", base_url=carrier.url + "/v2", max_retries=0, timeout=20) as client:
        failed: Queue[bool] = Queue()

        def call() -> None:
            with pytest.raises(telnyx.APIConnectionError):
                client.messages.send(to="+12025550123", from_="+12025550100", text="x")
            failed.put(item=True)

        caller = Thread(target=call)
        caller.start()
        while not carrier.control("messages"):
            pass
        assert carrier.stop(number) == (0, b"", b"")
        assert failed.get(timeout=20)
        caller.join()


def test_key_comes_from_the_seed_or_a_file(start_carrier: StartCarrier, tmp_path: Path) -> None:
    settings = tmp_path / "carrier.json"
    settings.write_text(json.dumps({"seed": 5, "retry_after_s": 3}))
    assert start_carrier("--seed", "9").ready["public_key"] == Signer(key_seed_from(9)).public_key_base64
    configured = start_carrier("--config", str(settings))
    assert configured.ready["public_key"] == Signer(key_seed_from(5)).public_key_base64
    assert json.loads(configured.control("config"))["retry_after_s"] == 3
    key_file = str(tmp_path / "key")
    first, second = (start_carrier("--signing-key-file", key_file).ready["public_key"] for _ in range(2))
    assert first == second != configured.ready["public_key"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [('{"eror_share": 1}', b"unknown setting"), ("{", b"not valid JSON"), (None, b"No such file")],
)
def test_wrong_settings_end_it_with_two(
    start_carrier: StartCarrier, tmp_path: Path, settings: str | None, problem: bytes
) -> None:
    path = tmp_path / "carrier.json"
    if settings is not None:
        path.write_text(settings)
    carrier = start_carrier("--config", str(path))
    _, err = carrier.process.communicate(timeout=20)
    assert carrier.process.returncode == 2
    assert problem in err


def test_taken_port_ends_it_with_one(start_carrier: StartCarrier) -> None:
    port = start_carrier().ready["port"]
    second = start_carrier("--port", str(port))
    _, err = second.process.communicate(timeout=20)
    assert (second.process.returncode, second.ready) == (1, {})
    assert b"in use" in err
