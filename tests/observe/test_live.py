"""A real Prometheus scrapes a real engine under load: every query of the dashboards returns data of that run.

Panels that need a cluster are left to promtool and recorded series (`test_dashboards.py`), those that need MySQL or
Redis to `test_live_servers.py`. The carrier throttles, fails, stays silent and sends texts of handsets, so that every
panel has something to show.
"""

import contextlib
import http.client
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.benchmarks.carrier_process import carrier
from loadtest.benchmarks.engine_process import LIMITED, NUMBERS, OPEN, EngineProcess, engine
from loadtest.benchmarks.submissions import submission
from longwave.client import Client, LongwaveError
from longwave.v1 import messaging_pb2 as pb
from tests.observe import promql
from tests.observe.prometheus_server import HOST, PrometheusServer

FAULTS: Final = {
    "latency_mean_ms": 20,
    "latency_max_ms": 60,
    "throttle_share": 0.03,
    "error_share": 0.03,
    "async_failure_share": 0.1,
    "drop_taken_share": 0.02,
    "receipt_wrong_signature_share": 0.1,
}
BATCH: Final = 40
PAUSE_S: Final = 0.2
# Two scrapes make a rate, and a rate of those is recorded a second later.
WAIT_S: Final = 60.0
LOAD_S_MIN: Final = 8.0
RATE_INTERVAL: Final = "30s"
HISTOGRAMS_MS: Final = (1, 500)


class Running(NamedTuple):
    """What the tests of this file share."""

    server: PrometheusServer
    metrics_text: str
    kill: Callable[[], None]
    """Ends load and engine."""


def call(client: Client, act: Callable[[Client], object]) -> None:
    """A call that may be refused: refusals are to be seen, too."""
    with contextlib.suppress(LongwaveError):
        act(client)


def load(running: EngineProcess, until: threading.Event) -> None:
    """Messages, look-ups and mistakes, until told to end."""
    wrong = submission(OPEN, "wrong", 0)
    wrong.recipient = "+4912345"
    reused = submission(OPEN, "first", 0)
    reused.text = "Something else under the same request id."
    stranger = submission("no-such-campaign", "stranger", 0)
    with Client(running.address, api_key=running.api_key) as client:
        first = client.submit(submission(OPEN, "first", 0))
        client.submit_many([submission(LIMITED, "limited", place) for place in range(400)])
        place = 0
        while not until.wait(PAUSE_S):
            client.submit_many([*(submission(OPEN, "load", place + more) for more in range(BATCH)), wrong])
            client.submit(submission(OPEN, "single", place))
            place += BATCH
            call(client, lambda client: client.submit(stranger))
            call(client, lambda client: client.get("messages/00000000000000000000000000"))
            call(client, lambda client: client.get(first.message))
            call(client, lambda client: next(client.list(pb.ListMessagesRequest(page_size=5)), None))
            call(client, lambda client: client.submit(reused))


def handset(carrier_url: str, webhook_address: str) -> None:
    """Texts from a handset to one of our numbers."""
    place = carrier_url.removeprefix("http://").removesuffix("/v2")
    connection = http.client.HTTPConnection(place, timeout=10)
    url = f"http://{webhook_address}/webhooks/telnyx"
    connection.request("PATCH", "/control/config", json.dumps({"inbound_webhook_url": url}))
    assert connection.getresponse().read() is not None
    text = {"from": "+12125550123", "to": NUMBERS[OPEN], "text": "Is it open today?", "count": 5}
    connection.request("POST", "/control/inbound", json.dumps(text))
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Engine, carrier and Prometheus under load until every query has been answered with data, or time is up."""
    folder = tmp_path_factory.mktemp("observe")
    server, until = PrometheusServer(folder), threading.Event()
    with carrier(folder, FAULTS) as taking, engine(folder, taking.settings()) as process:
        loading = threading.Thread(target=load, args=(process, until))
        try:
            server.start(f"{HOST}:{process.http_port}")
            loading.start()
            ends_s = time.monotonic() + WAIT_S
            time.sleep(LOAD_S_MIN / 2)
            settings = taking.settings()
            handset(settings["LONGWAVE_TELNYX_BASE_URL"], process.environment["LONGWAVE_WEBHOOK_ADDRESS"])
            time.sleep(LOAD_S_MIN / 2)
            while empty(server) and time.monotonic() < ends_s:
                time.sleep(1)

            def kill() -> None:
                until.set()
                loading.join(WAIT_S)
                process.kill()

            yield Running(server, scrape(process), kill)
        finally:
            until.set()
            if loading.ident is not None:
                loading.join(WAIT_S)
            server.stop()


def scrape(process: EngineProcess) -> str:
    """The page of metrics as Prometheus gets it."""
    connection = http.client.HTTPConnection(HOST, process.http_port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def asked() -> list[promql.Panel]:
    """The queries that an engine alone answers."""
    tests = (promql.PROMETHEUS / "tests" / "dashboards_test.yml").read_text(encoding="utf-8")
    return [
        panel._replace(query=panel.query.replace("[5m]", f"[{RATE_INTERVAL}]"))
        for name, dashboard in sorted(promql.dashboards().items())
        for panel in promql.queries(name, dashboard, "5m")
        if f"expr: {json.dumps(panel.query)}" not in tests
    ]


def empty(server: PrometheusServer) -> list[str]:
    """Panels, with their query, that show nothing."""
    return [f"{panel.page}: {panel.title}: {panel.query}" for panel in asked() if not server.has_data(panel.query)]


def test_every_query_of_the_dashboards_returns_data(running: Running) -> None:
    assert len(asked()) > 60
    assert empty(running.server) == []


def test_a_query_on_what_nobody_exports_returns_none(running: Running) -> None:
    assert not running.server.has_data("sum(message_queue_lenght)")


def test_every_rule_is_evaluated_without_an_error(running: Running) -> None:
    groups = running.server.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(promql.rules())
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def test_no_alert_of_an_outage_fires_on_a_healthy_engine(running: Running) -> None:
    """Faults of the carrier that were planted may show; nothing else may."""
    firing = {sample["metric"]["alertname"] for sample in running.server.query('ALERTS{alertstate="firing"}')}
    assert firing <= {"UnknownAttempts", "UndeliveredHigh"}


def test_an_alert_on_what_was_planted_is_on_its_way(running: Running) -> None:
    """Its five minutes are not waited for."""
    assert "ReceiptsBadSignature" in running.server.active()


def test_the_objectives_are_recorded(running: Running) -> None:
    found = {
        sample["metric"]["slo"]: float(sample["value"][1])
        for sample in running.server.query("longwave:slo_errors:ratio_rate5m")
    }
    assert found.keys() == {"calls", "messages", "latency"}
    assert found["calls"] == 0
    assert found["messages"] == 0
    assert 0 <= found["latency"] <= 1


def test_the_page_of_metrics_passes_the_real_check(running: Running, tmp_path: Path) -> None:
    page = tmp_path / "metrics.txt"
    page.write_text(running.metrics_text, encoding="utf-8")
    with page.open("rb") as text:
        done = subprocess.run(["promtool", "check", "metrics"], stdin=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_series_are_bounded(running: Running) -> None:
    """One engine with two campaigns and every fault exposes far fewer than the thousands that labels allow."""
    samples = [sample for family in text_string_to_metric_families(running.metrics_text) for sample in family.samples]
    assert len(samples) < 1000
    texts = json.dumps([sample.labels for sample in samples])
    assert "+1" not in texts


def test_the_buckets_resolve_what_was_measured(running: Running) -> None:
    """Of calls and attempts neither the first nor the last bucket holds most: a quantile is no guess."""
    for name, labels in (
        ("longwave_grpc_request_duration_seconds", 'method=~".*/SubmitMessages"'),
        ("longwave_attempt_seconds", 'provider="telnyx"'),
    ):
        counts = {
            sample["metric"]["le"]: float(sample["value"][1])
            for sample in running.server.query(f"sum by (le) ({name}_bucket{{{labels}}})")
        }
        total = counts["+Inf"]
        below = [counts[edge] / total for edge in sorted(counts, key=float) if float(edge) * 1000 <= HISTOGRAMS_MS[1]]
        assert below[0] < 0.9, name
        assert below[-1] > 0.9, name


def test_limits_of_the_process_are_told(running: Running) -> None:
    value = running.server.query
    assert (
        float(value("process_resident_memory_bytes{job='longwave'} / longwave_memory_limit_bytes")[0]["value"][1]) > 0
    )
    assert float(value("longwave_memory_limit_bytes")[0]["value"][1]) > 64 * 1024 * 1024
    assert float(value("longwave_processor_limit_cores")[0]["value"][1]) > 0


def test_an_engine_that_is_killed_is_noticed(running: Running) -> None:
    """The last test of this file: it ends the engine."""
    assert "LongwaveDown" not in running.server.active()
    running.kill()
    until_s = time.monotonic() + WAIT_S
    while "LongwaveDown" not in running.server.active():
        assert time.monotonic() < until_s
        time.sleep(0.2)
