"""The panels on MySQL and Redis that an engine tells itself, on a real run over both; and Redis going away.

What mysqld_exporter and a cluster tell is left to recorded series.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.benchmarks.engine_process import OPEN, EngineProcess, over_mysql
from loadtest.benchmarks.submissions import submission
from longwave.client import Client
from tests.observe import promql
from tests.observe.prometheus_server import HOST, PrometheusServer
from tests.servers.mariadb import PASSWORD
from tests.servers.redis_server import RedisServer

WAIT_S = 60.0
PANELS = ("Connections to MySQL", "Wait for a connection", "Hints over Redis", "Redis: time and failures")


def until(holds: Callable[[], bool], again: Callable[[], object]) -> None:
    """Do something again and again until something holds."""
    until_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until_s
        again()
        time.sleep(0.2)


@pytest.fixture
def over_servers(tmp_path: Path, new_database: Callable[[], str], redis_server: RedisServer) -> EngineProcess:
    """An engine over a database and a Redis, with a registry; not started."""
    redis = {"LONGWAVE_REDIS_URL": redis_server.url, "LONGWAVE_REDIS_CACHE": "true", "LONGWAVE_CACHE_BYTES": "0"}
    made = EngineProcess(tmp_path, over_mysql(new_database(), PASSWORD, tmp_path) | redis)
    made.make_store()
    return made


def test_panels_on_mysql_and_redis_return_data(
    over_servers: EngineProcess, redis_server: RedisServer, tmp_path: Path
) -> None:
    queries = [
        panel.query.replace("[5m]", "[30s]")
        for panel in promql.queries("stores", promql.dashboards()["longwave-stores.json"], "5m")
        if panel.title in PANELS
    ]
    assert len(queries) == 7
    server = PrometheusServer(tmp_path)
    over_servers.start()
    try:
        with Client(over_servers.address, api_key=over_servers.api_key) as client:
            server.start(f"{HOST}:{over_servers.http_port}")
            messages = [client.submit(submission(OPEN, "held", place)).message for place in range(20)]
            client.cancel(messages[0])

            def work() -> None:
                client.submit(submission(OPEN, "more", time.monotonic_ns()))
                client.get(messages[0])

            until(lambda: all(server.has_data(query) for query in queries if "errors" not in query), work)
            assert server.query("longwave_redis_up")[0]["value"][1] == "1"
            redis_server.kill()
            until(lambda: all(server.has_data(query) for query in queries), work)
            until(lambda: "RedisDown" in server.active(), work)
    finally:
        server.stop()
        over_servers.stop()
