"""A collector, the simulated carrier, and engine processes that send through it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest.carrier.signing import key_seed_from
from loadtest.ports import free_ports
from tests.corridor.carrier_process import QUICK, CarrierProcess
from tests.corridor.engine_fixture import API_KEY, Signing
from tests.server.process_fixture import EngineProcess, make_store
from tests.traces.collector import Collector
from tests.traces.following import control


@pytest.fixture(params=["grpcio", "native"])
def edge(request: pytest.FixtureRequest) -> str:
    """What serves: everything holds over both."""
    return str(request.param)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="session")
def carrier() -> Iterator[CarrierProcess]:
    process = CarrierProcess()
    yield process
    process.stop()


@pytest.fixture(autouse=True)
def renewed(request: pytest.FixtureRequest) -> None:
    """The carrier, where a test has one, forgets what it took, and does everything at once."""
    if "start_engine" in request.fixturenames:
        carrier: CarrierProcess = request.getfixturevalue("carrier")
        control(carrier, "PUT", "config", QUICK)
        control(carrier, "POST", "reset", {})


@pytest.fixture
def tenant_key(tmp_path: Path) -> str:
    """Of the store in this test's folder."""
    return make_store(tmp_path)


StartEngine = Callable[..., EngineProcess]


@pytest.fixture
def start_engine(tmp_path: Path, carrier: CarrierProcess, tenant_key: str) -> Iterator[StartEngine]:
    """Start engines, one after the other, on one store and one address for receipts."""
    del tenant_key  # the store is made
    running: list[EngineProcess] = []
    public = Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1))).public_base64
    [port] = free_ports(1)
    webhooks = f"127.0.0.1:{port}"

    def start(**settings: Any) -> EngineProcess:
        values = {
            "telnyx_base_url": f"http://127.0.0.1:{carrier.port}/v2",
            "telnyx_api_key": API_KEY,
            "telnyx_public_key": public,
            "webhook_address": webhooks,
        }
        made = EngineProcess(tmp_path, **(values | settings))
        running.append(made)
        made.until_ready()
        return made

    yield start
    for process in running:
        process.kill()
