"""The operations endpoints through real HTTP."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from server.ops import OpsServer, make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from engine.metrics import Metrics

KEY = "Bearer admin-key"
STATS = {"queued": 3}


class Ops:
    """A started server whose answers a test sets."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.reasons: list[str] = []
        self.fails = False
        app = make_app(metrics, not_ready=lambda: self.reasons, stats=self._stats, authorize=lambda key: key == KEY)
        self.server = OpsServer(app)

    async def _stats(self) -> Mapping[str, object]:
        if self.fails:
            raise RuntimeError("canary-cause")
        return STATS

    def counted(self, method: str, route: str, status: int) -> float | None:
        labels = {"method": method, "route": route, "status_code": str(status)}
        return self.metrics.registry.get_sample_value("http_requests_total", labels)


@pytest.fixture
async def ops(metrics: Metrics) -> AsyncIterator[Ops]:
    made = Ops(metrics)
    await made.server.start("127.0.0.1", 0)
    yield made
    await made.server.stop()


@pytest.fixture
async def http(ops: Ops) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{ops.server.port}") as session:
        yield session


async def test_health(ops: Ops, http: aiohttp.ClientSession) -> None:
    ops.reasons = ["draining"]  # alive all the same
    async with http.get("/health") as response:
        assert (response.status, await response.json()) == (200, {"alive": True})
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert "Server" not in response.headers
    assert ops.counted("GET", "/health", 200) == 1


async def test_ready_gives_every_reason(ops: Ops, http: aiohttp.ClientSession) -> None:
    async with http.get("/ready") as response:
        assert (response.status, await response.json()) == (200, {"ready": True, "reasons": []})
    ops.reasons = ["draining", "store below its durability"]
    async with http.get("/ready") as response:
        assert response.status == 503
        assert await response.json() == {"ready": False, "reasons": ops.reasons}


async def test_metrics_as_text_and_as_openmetrics(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain")
        assert "# HELP message_queue_length" in await response.text()
    async with http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await response.text()).endswith("# EOF\n")


async def test_stats_are_open_to_this_machine(http: aiohttp.ClientSession) -> None:
    async with http.get("/admin/stats") as response:
        assert (response.status, await response.json()) == (200, STATS)


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "attacker.example"},
    ],
)
async def test_what_a_proxy_or_a_foreign_page_brings_needs_the_key(
    ops: Ops, http: aiohttp.ClientSession, header: dict[str, str]
) -> None:
    async with http.get("/admin/stats", headers=header) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "queued" not in await response.text()
    async with http.get("/admin/stats", headers={**header, "Authorization": "Bearer wrong"}) as response:
        assert response.status == 401
    async with http.get("/admin/stats", headers={**header, "Authorization": KEY}) as response:
        assert (response.status, await response.json()) == (200, STATS)
    assert ops.counted("GET", "/admin/stats", 401) == 2


async def test_unknown_paths_and_methods_fold(ops: Ops, http: aiohttp.ClientSession) -> None:
    for number in range(5):
        async with http.get(f"/made/up/{number}") as response:
            assert response.status == 404
    async with http.request("PROPFIND", "/health") as response:
        assert response.status == 405
    assert ops.counted("GET", "other", 404) == 5
    assert ops.counted("other", "/health", 405) == 1
    value = ops.metrics.registry.get_sample_value
    assert value("http_request_duration_seconds_count", {"method": "GET", "route": "other"}) == 5


async def test_a_failure_tells_nothing_and_is_counted(
    ops: Ops, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    ops.fails = True
    async with http.get("/admin/stats") as response:
        assert (response.status, await response.text()) == (500, "internal error\n")
    assert ops.counted("GET", "/admin/stats", 500) == 1
    assert "canary-cause" in caplog.text


async def test_an_address_in_use_is_named(ops: Ops, metrics: Metrics) -> None:
    second = Ops(metrics)
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{ops.server.port}: .*in use.*LONGWAVE_HTTP_ADDRESS"):
        await second.server.start("127.0.0.1", ops.server.port)


async def test_signal_handlers_are_left_alone_and_stop_ends_it(metrics: Metrics) -> None:
    before = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    ops = Ops(metrics)
    await ops.server.start("127.0.0.1", 0)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    port = ops.server.port
    await asyncio.wait_for(ops.server.stop(), timeout=10)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
