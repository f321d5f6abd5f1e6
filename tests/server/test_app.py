"""The whole process: ready line, second process, taken ports, signals, a broken store."""

import json
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longwave.v1 import admin_pb2, admin_pb2_grpc, messaging_pb2_grpc, verdict_pb2
from longwave.v1 import messaging_pb2 as pb
from tests.server.process_fixture import WAIT_S, EngineProcess, make_store

StartProcess = Callable[..., EngineProcess]
BREAKS_ON_SIGNAL = """
import asyncio, signal, threading
from engine.corridor import Corridor
from engine.errors import StoreBroken
start = Corridor.start
async def started(self):
    await start(self)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.fail, StoreBroken("fsync failed"))
    threading.Thread(target=threading.Event().wait).start()  # hangs for good, as in a dead disk
Corridor.start = started
"""
NEVER_RECOVERS = """
import asyncio
from engine.corridor import Corridor
async def started(self):
    print("recovering", flush=True)
    await asyncio.Event().wait()
Corridor.start = started
"""
# On SIGUSR1 the listeners end under the engine, one that listens on without taking calls included.
GOES_DEAF = """
import asyncio, grpc, signal
from server import app
async def hang(_requests, _context):
    await asyncio.Event().wait()
app.PROBE_S, app.PROBE_WAIT_S = 0.05, 0.2
start, probe = app.Process.start, app.Process._probe
async def started(self):
    await start(self)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, deafen, self)
def deafen(self):
    {deafen}
async def probed(self):
    await probe(self)
    if self._not_ready():
        print("not ready", flush=True)
app.Process.start, app.Process._probe = started, probed
"""


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    running: list[EngineProcess] = []

    def start(folder: Path, prelude: str = "", **settings: str) -> EngineProcess:
        made = EngineProcess(folder, prelude, **settings)
        running.append(made)
        return made

    yield start
    for process in running:
        process.kill()


def fetch(url: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(url, timeout=WAIT_S) as response:  # noqa: S310 - loopback
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_it_says_where_it_is_serves_and_drains(start_process: StartProcess, tmp_path: Path) -> None:
    key = make_store(tmp_path)
    engine = start_process(tmp_path)
    engine.until_ready()
    assert not engine.grpc.endswith(":0")
    headers = (("authorization", f"Bearer {key}"),)
    with grpc.insecure_channel(engine.grpc) as channel:
        info = admin_pb2_grpc.ServerServiceStub(channel).GetServerInfo(
            admin_pb2.GetServerInfoRequest(), metadata=headers, timeout=WAIT_S
        )
        assert info.store.startswith("sqlite 3.")
        messaging = messaging_pb2_grpc.MessagingServiceStub(channel)
        submission = pb.Submission(campaign="campaigns/notices", recipient="+12025550123", text="hello")
        answer = messaging.SubmitMessage(
            pb.SubmitMessageRequest(submission=submission), metadata=headers, timeout=WAIT_S
        )
        assert answer.result.verdict == verdict_pb2.VERDICT_ACCEPTED
        found = messaging.GetMessage(pb.GetMessageRequest(name=answer.result.message), metadata=headers, timeout=WAIT_S)
        assert found.message.text == "hello"
        watch = messaging.WatchEvents(pb.WatchEventsRequest(cursor="begin"), metadata=headers, timeout=WAIT_S)
        events = [event for _ in range(2) for event in next(watch).events]
        assert events[0].message == answer.result.message
        assert fetch(engine.http + "/ready") == (200, {"ready": True, "reasons": []})
        stats = fetch(engine.http + "/admin/stats")[1]
        assert (stats["held_messages"], stats["event_subscribers"]) == (1, 1)
        engine.signal(signal.SIGTERM)
        assert engine.line() == "longwave drains"
        with pytest.raises(grpc.RpcError) as caught:
            list(watch)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    code, logged = engine.end()
    assert code == 0, logged
    assert "hello" not in logged
    assert "5550123" not in logged


def test_a_message_accepted_before_is_there_after_a_kill(start_process: StartProcess, tmp_path: Path) -> None:
    key = make_store(tmp_path)
    headers = (("authorization", f"Bearer {key}"),)
    engine = start_process(tmp_path)
    engine.until_ready()
    submission = pb.Submission(campaign="campaigns/notices", recipient="+12025550123", text="kept")
    with grpc.insecure_channel(engine.grpc) as channel:
        name = (
            messaging_pb2_grpc.MessagingServiceStub(channel)
            .SubmitMessage(pb.SubmitMessageRequest(submission=submission), metadata=headers, timeout=WAIT_S)
            .result.message
        )
    engine.kill()
    engine = start_process(tmp_path)
    engine.until_ready()
    with grpc.insecure_channel(engine.grpc) as channel:
        found = messaging_pb2_grpc.MessagingServiceStub(channel).GetMessage(
            pb.GetMessageRequest(name=name), metadata=headers, timeout=WAIT_S
        )
    assert found.message.text == "kept"


def test_a_second_process_on_the_store_is_told_so(start_process: StartProcess, tmp_path: Path) -> None:
    make_store(tmp_path)
    first = start_process(tmp_path)
    first.until_ready()
    for settings in ({}, {"grpc_address": first.grpc}):
        second = start_process(tmp_path, **settings)
        code, logged = second.end()
        assert code == 1
        assert "StoreLocked" in logged.splitlines()[-1]


@pytest.mark.parametrize(
    ("setting", "what"), [("grpc_address", "gRPC"), ("http_address", "operations"), ("webhook_address", "webhooks")]
)
def test_a_taken_port_is_told(start_process: StartProcess, tmp_path: Path, setting: str, what: str) -> None:
    make_store(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, logged = start_process(tmp_path, **{setting: address}).end()
    assert code == 1
    assert f"cannot listen for {what} on {address}" in logged.splitlines()[-1]
    assert f"LONGWAVE_{setting.upper()}" in logged


def test_a_missing_secret_file_is_told(start_process: StartProcess, tmp_path: Path) -> None:
    make_store(tmp_path)
    (tmp_path / "longwave.db.secrets").unlink()
    code, logged = start_process(tmp_path).end()
    assert code == 1
    assert "is missing, and what the store holds depends on it" in logged


def test_a_second_signal_ends_it_at_once(start_process: StartProcess, tmp_path: Path) -> None:
    make_store(tmp_path)
    engine = start_process(tmp_path)
    engine.until_ready()
    with grpc.insecure_channel(engine.grpc) as channel:
        # A watch of health has no end, so the drain waits for it as long as it waits for any call.
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        engine.signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        status, body = fetch(engine.http + "/ready")
        assert (status, body["reasons"]) == (503, ["the server drains"])
        engine.signal(signal.SIGTERM)
        code, _ = engine.end()
    assert code == 128 + signal.SIGTERM


def test_a_broken_store_ends_it_with_70_within_a_second(start_process: StartProcess, tmp_path: Path) -> None:
    make_store(tmp_path)
    engine = start_process(tmp_path, BREAKS_ON_SIGNAL)
    engine.until_ready()
    began_s = time.monotonic()
    engine.signal(signal.SIGUSR1)
    code, logged = engine.end()
    assert code == 70
    assert "the store broke" in logged
    assert time.monotonic() - began_s < 5  # a second where the machine has time for it


def test_a_signal_during_recovery_ends_it_in_order(start_process: StartProcess, tmp_path: Path) -> None:
    make_store(tmp_path)
    engine = start_process(tmp_path, NEVER_RECOVERS)
    assert engine.line() == "recovering"
    engine.signal(signal.SIGINT)
    assert engine.line() == "longwave drains"
    code, logged = engine.end()
    assert code == 0, logged


@pytest.mark.parametrize(
    ("deafen", "reason"),
    [
        ("self.task = asyncio.ensure_future(self.grpc.edge.stop(0))", "the gRPC listener does not answer"),
        (
            "self.grpc.gate.service = lambda _: grpc.stream_stream_rpc_method_handler(hang)",
            "the gRPC listener does not answer",
        ),
        ("self.webhooks._server.close()", "the webhook listener takes no connections"),
    ],
    ids=["listener gone", "calls lost", "webhooks gone"],
)
def test_a_listener_that_no_longer_answers_makes_it_not_ready(
    start_process: StartProcess, tmp_path: Path, deafen: str, reason: str
) -> None:
    make_store(tmp_path)
    engine = start_process(tmp_path, GOES_DEAF.replace("{deafen}", deafen))
    engine.until_ready()
    assert fetch(f"{engine.http}/ready") == (200, {"ready": True, "reasons": []})
    engine.signal(signal.SIGUSR1)
    assert engine.line() == "not ready"
    assert fetch(f"{engine.http}/ready") == (503, {"ready": False, "reasons": [reason]})
    engine.signal(signal.SIGTERM)
    assert engine.end()[0] == 0
