"""An engine over a store of its own, and the simulated carrier, one process for the whole run."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.stores.migrate import migrate_store
from loadtest.carrier.signing import key_seed_from
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier, CarrierProcess
from tests.corridor.engine_fixture import Engine, Signing
from tests.corridor.scripted_provider import ScriptedProvider

StartEngine = Callable[..., Awaitable[Engine]]


@pytest.fixture(scope="session")
def carrier_process() -> Iterator[CarrierProcess]:
    process = CarrierProcess()
    yield process
    process.stop()


@pytest.fixture
async def carrier(carrier_process: CarrierProcess) -> AsyncIterator[Carrier]:
    """The carrier, renewed: everything goes well, at once."""
    async with aiohttp.ClientSession() as session:
        found = Carrier(carrier_process, session)
        await found.renew()
        yield found
        # No receipt is on its way any more when this test's engine stops listening: a connection that is only just
        # accepted then would outlive the loop.
        await found.renew(**NO_RECEIPTS)
        await found.settle()


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """A provider that answers as the test says; until it says something, it takes everything."""
    found = ScriptedProvider()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated store; copying it is cheaper than migrating."""
    path = tmp_path_factory.mktemp("migrated") / "longwave.db"
    migrate_store(path, now_us=1)
    return path


@pytest.fixture(params=["sqlite", "mysql"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Each test runs over every store, unless it says which."""
    return str(request.param)


@pytest.fixture
def new_store_url(store_kind: str, request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes an empty store where that takes a server; empty for a file, which the engine's folder has."""
    if store_kind == "sqlite":
        return lambda: ""
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return new_database


@pytest.fixture
async def start_engine(
    tmp_path: Path, empty_store: Path, new_store_url: Callable[[], str]
) -> AsyncIterator[StartEngine]:
    """Start engines that are stopped at the end; `sample` False leaves the registry empty."""
    running: list[Engine] = []

    async def start(base_url: str, *, sample: bool = True, **settings: Any) -> Engine:
        folder = tmp_path / f"engine{len(running)}"
        folder.mkdir()
        shutil.copy(empty_store, folder / "longwave.db")
        signing = Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1)))
        engine = Engine(folder, base_url, signing, store_url=new_store_url(), **settings)
        running.append(engine)
        await engine.start()
        if sample:
            await engine.make_sample()
        return engine

    yield start
    for engine in running:
        await engine.stop()


@pytest.fixture
async def engine(start_engine: StartEngine, carrier: Carrier) -> Engine:
    """An engine with the sample tenant that sends through the simulated carrier."""
    return await start_engine(carrier.base_url)
